"""An index opened for reading, and views of a part of it."""

from lemmse.index.reading.index import Index, open_index, open_unverified

__all__ = ["Index", "open_index", "open_unverified"]
