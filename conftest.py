"""Leaves out the modules that need deepinv or napari where it is missing; see `make test-integrations`."""

from importlib.util import find_spec

NEED = {
    "deepinv": ["client/lemmse/integrations/deepinv.py", "tests/integrations/test_deepinv.py"],
    "napari": ["client/lemmse/integrations/napari", "tests/integrations/test_napari.py"],
}
collect_ignore = [path for library, paths in NEED.items() if not find_spec(library) for path in paths]
