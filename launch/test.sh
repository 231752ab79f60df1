#!/usr/bin/env bash
# Set everything up and run the checks: lint, format and the tests, in two processes. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh
venv="${WT_JAX_VENV:-.venv}"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
