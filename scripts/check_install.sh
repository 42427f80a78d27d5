#!/usr/bin/env bash
# Installs the C library into an empty prefix and builds and runs a C program against it with
# find_package alone. Usage: scripts/check_install.sh [build folder]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/install-check}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

generator=()
command -v ninja > /dev/null && generator=(-G Ninja)
launcher=()
command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
[ -f "$build/CMakeCache.txt" ] || cmake -S "$root" -B "$build" "${generator[@]}" "${launcher[@]}"
cmake --build "$build" --target lowrank
cmake --install "$build" --prefix "$work/prefix"

library=$(find "$work/prefix" -name 'liblowrank.*' -type f | head -n 1)
foreign=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^lowrank_' || true)
if [ -n "$foreign" ]; then
  printf 'exported, but not of lowrank.h:\n%s\n' "$foreign"
  exit 1
fi

cp -r "$root/test/native/c_abi" "$work/program"
cmake -S "$work/program/consumer" -B "$work/consumer" "${generator[@]}" \
  -DCMAKE_PREFIX_PATH="$work/prefix"
cmake --build "$work/consumer"
"$work/consumer/consumer"
