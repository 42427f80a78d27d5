#!/usr/bin/env bash
# Native tests under AddressSanitizer and UndefinedBehaviorSanitizer, and the thread pool and the
# trainer under ThreadSanitizer. Usage: scripts/test_sanitizers.sh [asan|tsan]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
which=${1:-all}
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

# build_and_test <folder> <sanitizers> <ctest arguments>...
build_and_test() {
  local build=$root/build/$1 sanitizers=$2
  shift 2
  local options=(-DLOWRANK_TESTS=ON "-DLOWRANK_SANITIZE=$sanitizers" -DCMAKE_BUILD_TYPE=RelWithDebInfo)
  command -v ccache > /dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  if [ ! -f "$build/CMakeCache.txt" ]; then
    command -v ninja > /dev/null && options+=(-G Ninja)
  fi
  cmake -S "$root" -B "$build" "${options[@]}" > /dev/null
  cmake --build "$build" --parallel "$(nproc)"
  ctest --test-dir "$build" --output-on-failure "$@"
}

case $which in all | asan) build_and_test asan address,undefined ;; esac
case $which in
  all | tsan) build_and_test tsan thread -R 'thread_pool|train_session|train_state|generator' ;;
esac
