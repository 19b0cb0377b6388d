#!/usr/bin/env bash
# Runs the steps of the Dockerfile where there is no container engine: installs the server into a clean virtual
# environment, compiles its kernels, makes it read-only, and serves an index from there without a home.
#   docker/rehearse.sh FOLDER [PIP OPTION...]
# FOLDER must not exist. It needs the package index, and some minutes. As root it serves as user 65534.
set -euo pipefail
folder=$1
shift
source=$(cd "$(dirname "$0")/.." && pwd)
mkdir "$folder"
folder=$(cd "$folder" && pwd)
venv=$folder/lemmse
export PATH=$venv/bin:$PATH NUMBA_CACHE_DIR=$venv/kernels
unset PYTHONPATH

"${PYTHON:-python3}" -m venv "$venv"
(cd "$source" && pip install --quiet -c constraints.txt "$@" '.[server]')
find "$venv" -name '*.py' -exec touch -d '2026-01-01 00:00:00 UTC' {} +
python -m compileall -qq -f "$venv/lib" || true
python -m lemmse.estimator.kernels
python - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np

from lemmse.index import build

folder = Path(sys.argv[1])
np.save(folder / "images.npy", np.random.default_rng(0).random((20, 16, 16), np.float32))
build([folder / "images.npy"], folder / "index", patch_size=5)
PYTHON
chmod -R a-w "$venv" "$folder/index"
chmod -R a+rX "$folder"

as_nobody=()
if [ "$(id -u)" = 0 ]; then
    as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
fi
begin=$(date +%s)
coproc SERVER {
    cd /tmp
    HOME=/nonexistent exec "${as_nobody[@]}" lemmse serve "$folder/index" --listen 127.0.0.1:0 --log-format json
}
server=$SERVER_PID
trap 'kill "$server" 2>/dev/null || true' EXIT
read -r line <&"${SERVER[0]}"
address=${line#listening on }
echo "serving after $(($(date +%s) - begin)) s"
lemmse health --server "$address"
kill -TERM "$server"
wait "$server"
trap - EXIT
echo "stopped; the steps of the Dockerfile work"
