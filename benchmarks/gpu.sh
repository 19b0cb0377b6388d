#!/bin/sh
# Check and measure what runs on a GPU in 14 minutes at most, the most important first.
#
#     PYTHON=.venv/bin/python benchmarks/gpu.sh SOURCE FOLDER
#
# SOURCE: some thousand images of one size, as for `lemmse build`. FOLDER: where the output of each step goes.
# A step that takes too long is ended, and the next one begins. It needs the extras dev and server.
set -u
if [ $# -ne 2 ]; then
    echo "expected SOURCE FOLDER, got $# arguments" >&2
    exit 2
fi
source=$1 folder=$2 python=${PYTHON:-python}
mkdir -p "$folder" || exit 1
export PYTHONUNBUFFERED=1

step() { # name, seconds, command
    name=$1 limit=$2 begin=$(date +%s)
    shift 2
    timeout "$limit" "$@" > "$folder/$name.txt" 2>&1
    echo "$name: status $?, $(($(date +%s) - begin)) s"
    tail -n 30 "$folder/$name.txt"
}

tests() { # name, seconds, files
    name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" -m pytest -q -m "not slow" -p no:cacheprovider --tb=short "$@"
}

measure() { # part, seconds, options
    part=$1 limit=$2
    shift 2
    step "$part" "$limit" "$python" -m benchmarks.gpu --source "$source" --out "$folder/$part.json" \
        --only "$part" --patch-sizes 5 "$@"
}

step index 120 "$python" -m lemmse.client.cli build "$source" --out "$folder/index" --limit 2000
tests hybrid-tests 150 tests/estimator/test_fused_hybrid.py
measure counts 120 --index "$folder/index" --sigmas 0.1 0.3
measure hybrid 150 --index "$folder/index" --sigmas 0.1 0.3 --repeats 3
tests memory-tests 90 tests/estimator/test_key_stream.py tests/estimator/test_image_patches.py \
    tests/estimator/test_rates.py
measure stream 90 --keys 2048000 --sigmas 0.1 --repeats 3
measure exact 60 --keys 2048000 --sigmas 0.1 --repeats 3
tests kernel-tests 60 tests/estimator/test_fused.py
