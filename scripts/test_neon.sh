#!/bin/sh
# Builds the C++ tests for 64-bit Arm and runs them under emulation: all of them with every instruction set, then the choice of the set on
# processors that have fewer.
# CXX chooses another compiler than aarch64-linux-gnu-g++.
set -eu
cd "$(dirname "$0")/.."
unset MAKEFLAGS MAKELEVEL  # `make` inside is a run of its own
compiler=${CXX:-aarch64-linux-gnu-g++}
build=build/neon
PATH=$PWD/.venv/bin:$PATH

missing=
command -v "$compiler" >/dev/null 2>&1 || missing="$missing g++-aarch64-linux-gnu"
command -v qemu-aarch64 >/dev/null 2>&1 || missing="$missing qemu-user"
command -v cmake >/dev/null 2>&1 || missing="$missing cmake"
if [ -n "$missing" ]; then
  echo "gemlet: the tests for 64-bit Arm need a cross compiler, an emulator and CMake (Debian and Ubuntu: apt install$missing)." >&2
  exit 1
fi

mkdir -p build
# Static, so that the emulator needs no libraries of the other processor.
cmake -S . -B $build -DGEMLET_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_EXE_LINKER_FLAGS=-static "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-cpu;max" >$build.log 2>&1 || { cat $build.log >&2; exit 1; }
threads=$(getconf _NPROCESSORS_ONLN)
cmake --build $build -j "$threads"
ctest --test-dir $build -j "$threads" --output-on-failure --no-tests=error
for choice in max:neon_i8mm cortex-a76:neon_dotprod cortex-a72:portable; do
  qemu-aarch64 -cpu "${choice%:*}" $build/tests_test_dispatch "${choice#*:}"
  echo "${choice%:*} runs ${choice#*:}"
done
