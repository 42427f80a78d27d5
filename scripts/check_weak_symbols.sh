#!/usr/bin/env bash
# Fails when an object compiled for one instruction set holds a weak symbol: the linker might keep
# that copy for baseline code too (native/cpu/isa/README.md). Usage: check_weak_symbols.sh BUILD_DIR
set -euo pipefail
build=${1:?usage: check_weak_symbols.sh BUILD_DIR}
objects=$(find "$build" -path '*native/cpu/isa/*.o' | sort)
[ -n "$objects" ] || { echo "no objects of native/cpu/isa under $build" >&2; exit 1; }
status=0
for object in $objects; do
  weak=$("${NM:-nm}" -C "$object" | grep -E '^[0-9a-f]+ [WVu] ' | grep -v ' DW.ref.__gxx_personality_v0$' || true)
  if [ -n "$weak" ]; then
    printf '%s holds weak symbols:\n%s\n' "$object" "$weak" >&2
    status=1
  fi
done
[ $status -eq 0 ] && echo "no weak symbols in $(wc -w <<<"$objects") objects"
exit $status
