#!/usr/bin/env bash
# Every check of the CUDA backend on a machine with a GPU, in one call: a compiler, CMake, the CUDA
# toolkit and Python with torch, transformers and peft must be there; Node and its packages come from
# build/gpu-pack (scripts/gpu/pack.mjs), no network is used.
#   scripts/gpu/prove.sh [part...]      parts: see prove.mjs; OUT=folder for the report and the logs
set -eu
cd "$(dirname "$0")/../.."
pack=build/gpu-pack
if [ ! -x "$pack/bin/node" ]; then
  [ -f "$pack/run-time.tar.xz" ] || { echo "error: run node scripts/gpu/pack.mjs first"; exit 1; }
  # Over what the checkout has, except its own packages.
  mkdir -p "$pack/bin"
  tar -xJf "$pack/run-time.tar.xz" --skip-old-files
  mv node "$pack/bin/node"
fi
export PATH="$PWD/$pack/bin:$PATH:/usr/local/cuda/bin"
exec node scripts/gpu/prove.mjs "$@"
