#!/usr/bin/env bash
# Builds the fuzzers and runs each for a while: scripts/fuzz.sh [seconds each, 5] [build folder].
# Needs clang. Crashing inputs stay in the build folder. The last line is "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
build=${2:-build/fuzz}
clang=""
for name in clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14; do
  if command -v "$name" > /dev/null; then clang=$name; break; fi
done
if [ -z "$clang" ]; then
  echo "fuzz: clang++ is missing"
  echo "0 passed, 1 failed"
  exit 1
fi
options=(-DLOWRANK_FUZZ=ON -DLOWRANK_ADDON=OFF "-DCMAKE_CXX_COMPILER=$clang")
command -v ccache > /dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake -S . -B "$build" "${options[@]}" > /dev/null
targets=(json safetensors shard_index adapter_config)
cmake --build "$build" -j2 --target "${targets[@]/#/fuzz_}" > /dev/null
for target in "${targets[@]}"; do mkdir -p "$build/corpus/$target"; done
cp test/golden/adapter/model/model.safetensors "$build/corpus/safetensors/model"
cp test/golden/adapter/plain/adapter_model.safetensors "$build/corpus/safetensors/adapter"
for folder in plain patterns saved; do
  cp "test/golden/adapter/$folder/adapter_config.json" "$build/corpus/adapter_config/$folder"
done
cp test/golden/adapter/model/config.json "$build/corpus/adapter_config/model"
cp test/golden/adapter/model/config.json "$build/corpus/json/model"
echo '{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors"}}' \
  > "$build/corpus/shard_index/small"
passed=0
failed=0
for target in "${targets[@]}"; do
  log="$build/fuzz_$target.log"
  if (cd "$build" && "test/fuzz/fuzz_$target" -max_total_time="$seconds" -max_len=32768 \
    -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "corpus/$target" > "fuzz_$target.log" 2>&1)
  then
    passed=$((passed + 1))
    echo "fuzz: $target, $(sed -n 's/stat::number_of_executed_units: *//p' "$log") inputs"
  else
    failed=$((failed + 1))
    tail -40 "$log"
    echo "fuzz: $target failed"
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
