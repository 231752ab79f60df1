#!/usr/bin/env bash
# Set everything up and run the main job on the embedded data set. Arguments go to wt_jax.tools.quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh
exec "${WT_JAX_VENV:-.venv}/bin/python" -m wt_jax.tools.quickstart "$@"
