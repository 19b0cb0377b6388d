#!/bin/sh
# Writes the Python stubs beside the .proto files, with the generator pinned in pyproject.toml.
# Usage: protos/generate.sh [OUT]   (default: protos)
set -eu
cd "$(dirname "$0")/.."
out=${1:-protos}
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I protos \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  protos/lemmse/v1/*.proto
