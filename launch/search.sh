#!/usr/bin/env bash
# Set everything up, index the moments of an archive of videos, open a page to search it: launch/search.sh [VIDEOS] [OPTIONS].
# Without VIDEOS, the embedded data set of a finished quick start. Arguments go to wt_jax.tools.search.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh search "faiss, starlette, uvicorn"
venv="${WT_JAX_VENV:-.venv}"
exec "$venv/bin/python" -m wt_jax.tools.search "$@"
