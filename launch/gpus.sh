#!/usr/bin/env bash
# Train on the GPUs of this machine: one process drives them all.
usage() {
  cat <<'TEXT'
usage: launch/gpus.sh [--gpus 0,1,...] [--dry-run] [-- FLAGS OF wt_jax.main...]
       launch/gpus.sh --check [--gpus 0,1,...] [--dry-run] [-- OPTIONS OF wt-jax bench-gpu...]

Runs CONFIG on DATA into WORKDIR (launch/settings.sh) on all GPUs, or on those named, and runs it again after a preemption
or a crash. --config.train.fsdp=0 shards the parameters over the GPUs too.

--check measures instead, in less than ten minutes and without data: steps of the full-size configurations, the quick start
in bfloat16, PyTorch beside it. It writes gpu_check.md.
TEXT
}
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
check=""
while [ $# -gt 0 ]; do
  case "$1" in
    --gpus) [ -n "${2:-}" ] || refuse "--gpus needs a list such as 0,1"; export CUDA_VISIBLE_DEVICES="$2"; shift 2 ;;
    --check) check=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1; flags of wt_jax.main go behind --" ;;
  esac
done
need nvidia-smi "install the NVIDIA driver"
python="${WT_JAX_VENV:-.venv}/bin/python"
if [ -n "$check" ]; then
  cd "$(dirname "$0")/.."
  run "$python" -m wt_jax.bench.gpu "$@"
  exit
fi
need_value DATA
need_value WORKDIR
cd "$(dirname "$0")/.."
run launch/again.sh -- "$python" -m wt_jax.main \
  "--config=$CONFIG" "--workdir=$WORKDIR" "--config.data.train=$DATA" --num_processes=1 "$@"
