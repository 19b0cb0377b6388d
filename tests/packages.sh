#!/usr/bin/env bash
# Builds wheel and sdist into FOLDER/dist and tries them outside of the repository, in new environments: the client with
# its shell completion and its types, the server, and Dask. PYTHON chooses the interpreter.
#     tests/packages.sh FOLDER
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && cd "$1" && rm -rf dist client server trial
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
unset PYTHONPATH
constraints=$repository/constraints.txt

environment() { # NAME REQUIREMENT…
    local name=$1
    shift
    "$python" -m venv "$name"
    "$name/bin/python" -m pip install -c "$constraints" "$@"
}

fail() {
    echo "test-packages: $*" >&2
    exit 1
}

# The sdist is built from the sources, the wheel from the sdist.
environment tools build==1.6.1 mypy 'pyright[nodejs]==1.1.414'
tools/bin/python -m build --outdir dist "$repository" >/dev/null
wheel=$(echo "$PWD"/dist/lemmse-*.whl)
version=$(basename "$wheel" | cut -d- -f2)

environment client "$wheel"
[ "$(client/bin/lemmse --version)" = "lemmse $version" ] || fail "lemmse --version is not $version"
for heavy in torch faiss numba zarr; do
    client/bin/python -c "import $heavy" 2>/dev/null && fail "the client brought $heavy"
done
[[ $("$python" -m zipfile -l "$wheel") == *lemmse/integrations/napari/napari.yaml* ]] || fail "no manifest for napari"
[[ $(_LEMMSE_COMPLETE=bash_source client/bin/lemmse) == *complete*lemmse* ]] || fail "no shell completion"
completed=$(COMP_WORDS='lemmse hea' COMP_CWORD=1 _LEMMSE_COMPLETE=bash_complete client/bin/lemmse)
[ "$completed" = "plain,health" ] || fail "lemmse hea<TAB> gave $completed"
status=0
client/bin/lemmse serve 2>message || status=$?
grep -q "pip install 'lemmse\[server\]'" message || fail "without the server: $(cat message)"

# Types, as a program sees them that only has the package.
mkdir trial
cat >trial/program.py <<'PROGRAM'
import numpy as np
from numpy.typing import NDArray

from lemmse.client import LemmseError, Result, connect
from lemmse.client.aio import connect as connect_aio


def denoised(y: NDArray[np.float32]) -> NDArray[np.float32]:
    with connect("grpc://localhost:1") as client:
        result: Result = client.reconstruct(y, sigma=0.1, maps=("variance",))
        return result.image


async def all_of(images: list[NDArray[np.float32]]) -> list[Result | LemmseError]:
    async with connect_aio("grpc://localhost:1") as client:
        return [one async for one in client.reconstruct_many(images, sigma=0.1)]
PROGRAM
sed 's/sigma=0.1, maps/sigma=[None], maps/' trial/program.py >trial/wrong.py
tools/bin/mypy --strict --python-executable client/bin/python trial/program.py
tools/bin/pyright --pythonpath client/bin/python trial/program.py
tools/bin/mypy --strict --python-executable client/bin/python trial/wrong.py >message && fail "mypy sees no types"
tools/bin/pyright --pythonpath client/bin/python trial/wrong.py >message && fail "pyright sees no types"

# The server and Dask, from the sdist; torch without CUDA where that is to be had.
environment server "$(echo "$PWD"/dist/lemmse-*.tar.gz)[dask]"
server/bin/python - <<'PROGRAM'
import numpy as np

from lemmse.client import connect
from lemmse.index import build

rng = np.random.default_rng(0)
np.save("trial/images.npy", rng.random((3, 12, 12), np.float32))
build(["trial/images.npy"], "trial/index", patch_size=3)
PROGRAM
server/bin/lemmse serve trial/index --listen 127.0.0.1:0 >listening &
process=$!
trap 'kill $process 2>/dev/null || true' EXIT
until grep -q '^listening on ' listening; do
    kill -0 $process 2>/dev/null || fail "the server ended"
    sleep 0.2
done
address=$(sed 's/listening on //' listening)
client/bin/lemmse health --server "$address"
client/bin/python - "$address" <<'PROGRAM'
import sys

import numpy as np

from lemmse.client import connect

with connect(f"grpc://{sys.argv[1]}") as client:
    result = client.reconstruct(np.full((8, 8), 0.5, np.float32), sigma=0.2, maps=("variance",))
assert result.image.shape == (8, 8) and np.ptp(result.image) < 1
PROGRAM
kill $process && wait $process
server/bin/python -c 'import distributed; from lemmse.estimator.distributed import *'
echo "packages of lemmse $version: built, installed, tried"
