# Each target does all its own set-up. PYTHON chooses the interpreter that makes .venv.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# deepinv needs a torchvision, and that another torch than the other tests have; napari brings Qt and much else.
INTEGRATIONS := .venv-integrations
# One process for each core, so one thread of the BLAS for each process: more of them wait for each other at work.
RUN_TESTS := -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
PYTEST := OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python $(RUN_TESTS)

.PHONY: audit browser clean demo docs javascript lint paper qt stubs test test-fast test-integrations test-oldest test-packages

demo: $(VENV)/.demo
	$(VENV)/bin/lemmse demo --out demo-out

paper: $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.paper all --out paper-out

test: $(VENV)/.dev
	$(PYTEST)

test-fast: $(VENV)/.dev
	$(PYTEST) -m 'not slow'

test-integrations: $(INTEGRATIONS)/.ready javascript qt
	$(INTEGRATIONS)/bin/python -m pytest -W ignore::pydantic.warnings.PydanticDeprecatedSince20 \
	  tests/integrations/test_deepinv.py client/lemmse/integrations/deepinv.py tests/integrations/test_javascript.py \
	  tests/integrations/test_napari.py

# The site: open build/site/index.html. It loads no font, style, script or picture from elsewhere.
docs: $(VENV)/.dev
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs build/site
	! grep -rE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//|url\(["'"'"']?(https?:)?//|@import' \
	  --include='*.html' --include='*.css' build/site

# Builds wheel and sdist, and installs and tries them in environments of their own.
test-packages:
	PYTHON=$(PYTHON) tests/packages.sh build/packages

# The fast tests on the oldest versions that pyproject.toml allows. Old releases use what newer ones of their own
# requirements deprecate.
test-oldest:
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install --disable-pip-version-check --quiet uv==0.13.9
	VIRTUAL_ENV=build/oldest build/oldest/bin/uv pip install --quiet --resolution lowest-direct -e '.[dev]'
	OPENBLAS_NUM_THREADS=1 build/oldest/bin/python $(RUN_TESTS) -m 'not slow' -W ignore::DeprecationWarning

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint
	rm -rf build/stubs && mkdir -p build/stubs
	PYTHON=$(VENV)/bin/python protos/generate.sh build/stubs
	diff -r --exclude='*.proto' --exclude=py.typed --exclude=__pycache__ build/stubs/lemmse/v1 protos/lemmse/v1

# Looks up the pinned versions in the advisories of osv.dev; without it nothing is audited, which is said.
audit:
	@if $(PYTHON) -c "import socket; socket.create_connection(('api.osv.dev', 443), 10)" 2>/dev/null; then \
	  $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit==2.10.1 && \
	  build/audit/bin/pip-audit --strict --no-deps --disable-pip --vulnerability-service osv -r constraints.txt; \
	else \
	  echo "audit: SKIPPED: api.osv.dev does not answer, the pinned versions were not audited"; \
	fi

# The browser in which the explorer is tested; without it those tests are skipped, which pytest says.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } || \
	  echo "browser: SKIPPED: chromium is not there and cannot be installed, the explorer's page is not tested"

# The libraries of Qt, with which the plugin for napari is tested without a display.
qt:
	@ldconfig -p | grep -q libEGL.so.1 || { apt-get update -qq && apt-get install -qq -y --no-install-recommends \
	  libdbus-1-3 libegl1 libfontconfig1 libgl1 libglib2.0-0 libxkbcommon0; }

# The packages of the example in JavaScript; without Node.js its test is skipped, which pytest says.
javascript:
	@if command -v npm >/dev/null; then npm ci --prefix examples/javascript --ignore-scripts --no-audit --no-fund; else \
	  echo "javascript: SKIPPED: npm is not there, the example in JavaScript is not tested"; fi

stubs: $(VENV)/.dev
	PYTHON=$(VENV)/bin/python protos/generate.sh

clean:
	rm -rf $(VENV) $(INTEGRATIONS) build demo-out paper-out

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[demo,explore]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(INTEGRATIONS)/.ready: pyproject.toml constraints-integrations.txt
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip --disable-pip-version-check install --quiet \
	  -c constraints-integrations.txt -e '.[server,deepinv,napari]' 'napari[pyqt6]' hypothesis pytest
	touch $@
