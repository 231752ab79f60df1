#!/usr/bin/env bash
# Make a virtual environment in .venv (or in $WT_JAX_VENV) and install wt_jax with its development tools; and an extra, unless the
# modules that it brings are there: launch/setup.sh [EXTRA "MODULE, MODULE"].
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${WT_JAX_VENV:-.venv}"
python="${PYTHON:-python3}"
"$python" - <<'PY'
import sys
if not (3, 11) <= sys.version_info[:2] < (3, 14):
    sys.exit(f"wt_jax needs Python 3.11 to 3.13; this is {sys.version.split()[0]}. Name another one: PYTHON=python3.12 ...")
PY
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$1]"; }
install dev
[ $# -eq 0 ] || "$venv/bin/python" -c "import $2" 2>/dev/null || install "$1"
