#!/usr/bin/env bash
# Runs tests/implementations/{pool,cpu}_driver.cpp, the second for every instruction set that this machine has,
# under the address and the thread sanitizer, and where there is a torch, the tests of the step without
# Python with that compiled under the address sanitizer. Exits non-zero at the first report.
set -euo pipefail
cd "$(dirname "$0")/.."

flags_of() {
  case $1 in
    portable) echo "-DFF_VECTOR_BYTES=16" ;;
    avx2) echo "-DFF_VECTOR_BYTES=32 -mavx2 -mfma" ;;
    avx512) echo "-DFF_VECTOR_BYTES=64 -mprefer-vector-width=512 -mfma -mavx512f -mavx512dq -mavx512vl -mavx512bw" ;;
  esac
}

isas=(portable)
if grep -q '^flags.* avx2 ' /proc/cpuinfo && grep -q '^flags.* fma ' /proc/cpuinfo; then isas+=(avx2); fi
if grep -q '^flags.* avx512f .*avx512bw ' /proc/cpuinfo; then isas+=(avx512); fi

program="$(mktemp)"
package="$(mktemp -d)"
trap 'rm -rf "$program" "$package"' EXIT
for sanitizer in address,undefined thread; do
  "${CXX:-c++}" -std=c++17 -g -O1 -fsanitize="$sanitizer" -fno-sanitize-recover=all -Icsrc \
    tests/implementations/pool_driver.cpp csrc/infra/pool.cpp -pthread -o "$program"
  result="$("$program")"
  echo "worker pool, $sanitizer sanitizer: $result"
done
for isa in "${isas[@]}"; do
  for sanitizer in address thread; do
    # undefined behaviour does not depend on the vectors' width, and checking wide ones takes minutes
    extra=""
    if [ "$isa,$sanitizer" = portable,address ]; then extra=",undefined"; fi
    # shellcheck disable=SC2046
    "${CXX:-c++}" -std=c++17 -g -O1 -Wno-psabi -fsanitize="$sanitizer$extra" -fno-sanitize-recover=all \
      "-DFF_ISA=$isa" $(flags_of "$isa") -Icsrc/cpu tests/implementations/cpu_driver.cpp \
      csrc/cpu/{short_range_step,future_fill,fill_stages,offline_conv,twiddles,scratch}.cpp -pthread -o "$program"
    result="$("$program")"
    echo "$isa, $sanitizer$extra sanitizer: $result"
  done
done

python="${PYTHON:-python3}"
if ! "$python" -c "import torch, pytest; import futurefill_kernels.native as n; exit(n.plain_step() is None)"; then
  echo "step without Python: not checked, as $python has no built package with torch and pytest"
  exit 0
fi
mkdir "$package/futurefill_kernels"
ln -s "$PWD"/futurefill_kernels/* "$package/futurefill_kernels"
ln -s "$PWD"/{tests,pyproject.toml} "$package"
rm "$package"/futurefill_kernels/_{plain_step,unchanged}*.so
mapfile -t include < <("$python" -c "import sysconfig, torch.utils.cpp_extension as c
print(*c.include_paths(), sysconfig.get_paths()['include'], sep='\n')")
mapfile -t libraries < <("$python" -c "import torch.utils.cpp_extension as c; print(*c.library_paths(), sep='\n')")
# build NAME SOURCE...: a module with its sources under the sanitizers
build() {
  "${CXX:-c++}" -std=c++17 -g -O1 -fPIC -shared -fsanitize=address,undefined -fno-sanitize-recover=all \
    -Icsrc "${include[@]/#/-I}" "${@:2}" "${libraries[@]/#/-L}" -lc10 -ltorch_cpu -ltorch_python \
    -o "$package/futurefill_kernels/_$1.abi3.so"
}
build plain_step csrc/python/plain_*.cpp
build unchanged csrc/python/unchanged.cpp
# torch's own allocations outlive the process
cd "$package"
export ASAN_OPTIONS=detect_leaks=0
LD_PRELOAD="$("${CXX:-c++}" -print-file-name=libasan.so):$("${CXX:-c++}" -print-file-name=libubsan.so)"
export LD_PRELOAD
"$python" -c "import futurefill_kernels.native as n; exit(n.plain_step_unavailable_reason() or n.unchanged_unavailable_reason())"
"$python" -m pytest -q -p no:cacheprovider tests/implementations/test_plain_step.py \
  tests/implementations/test_plain_block.py tests/nn/test_unchanged.py
