#!/usr/bin/env bash
# Reports each missing prerequisite and how to install it. Prints nothing and exits with 0 if all are installed.
set -u
missing=0
need() { # need COMMAND WHAT HOW
  command -v "$1" >/dev/null 2>&1 || { echo "missing: $2 - $3" >&2; missing=1; }
}
python=${PYTHON:-python3}
need "$python" "Python >= 3.11" "apt install python3 python3-venv, or python.org"
need node "Node >= 20" "apt install nodejs npm, or nodejs.org"
need npm "npm" "part of Node: apt install npm, or nodejs.org"
need git "git" "apt install git"
need g++ "g++" "apt install g++"
if command -v "$python" >/dev/null 2>&1; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "too old: $("$python" --version) - Python >= 3.11 is required; set PYTHON=/path/to/python3.11 to select another" >&2; missing=1; }
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    { echo "missing: Python's venv module - apt install python3-venv" >&2; missing=1; }
fi
if command -v node >/dev/null 2>&1; then
  [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] ||
    { echo "too old: Node $(node --version) - Node >= 20 is required" >&2; missing=1; }
fi
exit $missing
