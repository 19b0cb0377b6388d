#!/usr/bin/env bash
# Builds sdist and wheel into FOLDER/dist and tries them outside of the repository, in new environments: the server with
# Dask, the client with its shell completion and its types, and both together. Each extra must resolve with the pinned
# versions; GPUs need no extra, but another build of torch (docs/gpu.md). PYTHON chooses the interpreter.
#     tests/packages.sh FOLDER
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && cd "$1" && rm -rf dist tools client server trial unpacked && mkdir trial
python=${PYTHON:-python3}
constraints=$repository/constraints.txt
unset PYTHONPATH
# uv does not read what pip is told of folders with wheels, as of torch's CPU build.
export UV_FIND_LINKS=${PIP_FIND_LINKS:-}

install() { # NAME REQUIREMENT…
    tools/bin/uv pip install --quiet --python "$1/bin/python" -c "$constraints" "${@:2}"
}

fail() {
    echo "test-packages: $*" >&2
    exit 1
}

"$python" -m venv tools
tools/bin/python -m pip install --disable-pip-version-check --quiet uv==0.13.9
install tools mypy 'pyright[nodejs]==1.1.414'
# The sdist is built from the sources, the wheel from the sdist.
tools/bin/uv build --quiet --python "$python" --out-dir dist "$repository"
wheel=$(echo "$PWD"/dist/lemmse-*.whl)
version=$(basename "$wheel" | cut -d- -f2)

# The server and Dask, from the sdist. The server compiles its loops while the client is tried.
tools/bin/uv venv --quiet --python "$python" server
install server "$(echo "$PWD"/dist/lemmse-*.tar.gz)[dask]"
server/bin/python - <<'PROGRAM'
import numpy as np

from lemmse.client import connect
from lemmse.index import build

rng = np.random.default_rng(0)
np.save("trial/images.npy", rng.random((3, 12, 12), np.float32))
build(["trial/images.npy"], "trial/index", patch_size=3)
PROGRAM
server/bin/python -c 'import distributed; from lemmse.estimator.distributed import *'
server/bin/lemmse serve trial/index --listen 127.0.0.1:0 >listening &
process=$!
trap 'kill $process 2>/dev/null || true' EXIT

tools/bin/uv venv --quiet --python "$python" client
install client "$wheel"
[ "$(client/bin/lemmse --version)" = "lemmse $version" ] || fail "lemmse --version is not $version"
for heavy in torch faiss numba zarr; do
    client/bin/python -c "import $heavy" 2>/dev/null && fail "the client brought $heavy"
done
for shell in bash zsh fish; do
    script=$(_LEMMSE_COMPLETE=${shell}_source client/bin/lemmse)
    [[ $script == *complet*lemmse* ]] || fail "no completion for $shell"
done
completed=$(
    PATH=$PWD/client/bin:$PATH
    eval "$(_LEMMSE_COMPLETE=bash_source lemmse)"
    COMP_WORDS=(lemmse hea) COMP_CWORD=1
    _lemmse_completion lemmse
    echo "${COMPREPLY[*]}"
)
[ "$completed" = health ] || fail "lemmse hea<TAB> gave $completed"
client/bin/lemmse serve 2>message && fail "the client can serve"
[[ $("$python" -m zipfile -l "$wheel") == *lemmse/integrations/napari/napari.yaml* ]] || fail "no manifest for napari"
grep -q "pip install 'lemmse\[server\]'" message || fail "without the server: $(cat message)"

# Types, as a program sees them that only has the package.
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

for extra in $(tools/bin/python -m zipfile -e "$wheel" unpacked && sed -n 's/^Provides-Extra: //p' unpacked/*/METADATA); do
    pins=$constraints
    [[ $extra == deepinv || $extra == napari ]] && pins=$repository/constraints-integrations.txt
    tools/bin/uv pip install --quiet --dry-run --python client/bin/python -c "$pins" "$wheel[$extra]" || fail "$extra"
done

# Both together.
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
echo "packages of lemmse $version: built, installed, tried"
