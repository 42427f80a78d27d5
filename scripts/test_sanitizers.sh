#!/usr/bin/env bash
# Native tests under AddressSanitizer and UndefinedBehaviorSanitizer, and the thread pool, the
# trainer and generation under ThreadSanitizer. Usage: scripts/test_sanitizers.sh [asan|tsan]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
which=${1:-all}
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

# run_tests <folder> <sanitizers> [test]...; no test means all of them.
run_tests() {
  local build=$root/build/$1 sanitizers=$2
  shift 2
  local options=(-DLOWRANK_TESTS=ON "-DLOWRANK_SANITIZE=$sanitizers" -DCMAKE_BUILD_TYPE=RelWithDebInfo)
  command -v ccache > /dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then
    options+=(-G Ninja)
  fi
  cmake -S "$root" -B "$build" "${options[@]}" > /dev/null
  local targets=() names=()
  if [ $# -gt 0 ]; then
    targets=(--target "$@")
    names=(-R "^($(IFS='|' && echo "$*"))\$")
  fi
  cmake --build "$build" --parallel "$(nproc)" "${targets[@]}"
  ctest --test-dir "$build" --output-on-failure --no-tests=error "${names[@]}"
}

case $which in
  all | asan) run_tests asan address,undefined ;;
esac
case $which in
  all | tsan) run_tests tsan thread thread_pool_test train_session_test train_state_test generator_test ;;
esac
