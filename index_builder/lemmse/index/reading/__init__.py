"""An index opened for reading, its verification, and views of a part of it."""

from lemmse.index.reading.held_out_view import HeldOutView, leave_out
from lemmse.index.reading.image_names import file_of, find_images
from lemmse.index.reading.index_version import Index, open_index, open_unverified
from lemmse.index.reading.shard_view import ShardView, split_shards
from lemmse.index.reading.verify import verify

__all__ = [
    "HeldOutView",
    "Index",
    "ShardView",
    "file_of",
    "find_images",
    "leave_out",
    "open_index",
    "open_unverified",
    "split_shards",
    "verify",
]
