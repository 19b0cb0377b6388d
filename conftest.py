"""Leaves out the modules that need deepinv where it is missing; `make test-integrations` installs it."""

from importlib.util import find_spec

NEED_DEEPINV = ["client/lemmse/integrations/deepinv.py", "tests/integrations/test_deepinv.py"]
collect_ignore = [] if find_spec("deepinv") else NEED_DEEPINV
