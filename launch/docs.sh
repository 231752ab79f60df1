#!/usr/bin/env bash
# Set everything up and build the documentation, without network, warnings as errors: launch/docs.sh [OUT], by default build/docs.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh docs "autodoc2, furo, jupytext, myst_parser, sphinx"
venv="${WT_JAX_VENV:-.venv}"
out="${1:-build/docs}"
"$venv/bin/python" -m sphinx -W --keep-going --quiet -b html docs "$out"
echo "open $out/index.html"
