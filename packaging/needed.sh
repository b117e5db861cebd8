#!/bin/sh
# What a build needs, in one line for the first thing that is missing; pip would name it after a screenful.
# needed.sh PYTHON

missing() {
  echo "a3b: $1" >&2
  exit 1
}

python=$1
command -v "$python" >/dev/null ||
  missing "needs Python 3.11 or newer, and there is no $python; on Debian: apt-get install python3-venv python3-dev"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  missing "needs Python 3.11 or newer, and $python is older or does not run; try: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  missing "needs venv, which $python lacks; on Debian: apt-get install python3-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' ||
  missing "needs Python's headers (Python.h), which $python lacks; on Debian: apt-get install python3-dev"
for compiler in ${CXX:-c++ g++ clang++}; do
  command -v "$compiler" >/dev/null && exit 0
  [ -n "$CXX" ] && break # further words are options
done
missing "needs a C++20 compiler for its kernels, and there is no ${CXX:-g++}; on Debian: apt-get install g++"
