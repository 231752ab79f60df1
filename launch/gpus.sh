#!/usr/bin/env bash
# Train on the GPUs of this machine: one process drives them all.
usage() {
  cat <<'TEXT'
usage: launch/gpus.sh [--gpus 0,1,...] [--dry-run] [-- FLAGS OF wt_jax.main...]

Runs CONFIG on DATA into WORKDIR (launch/settings.sh) on all GPUs, or on those named, and runs it again after a preemption
or a crash. --config.train.fsdp=0 shards the parameters over the GPUs too.
TEXT
}
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
while [ $# -gt 0 ]; do
  case "$1" in
    --gpus) [ -n "${2:-}" ] || refuse "--gpus needs a list such as 0,1"; export CUDA_VISIBLE_DEVICES="$2"; shift 2 ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1; flags of wt_jax.main go behind --" ;;
  esac
done
need nvidia-smi "install the NVIDIA driver"
need_value DATA
need_value WORKDIR
cd "$(dirname "$0")/.."
run launch/again.sh -- "${WT_JAX_VENV:-.venv}/bin/python" -m wt_jax.main \
  "--config=$CONFIG" "--workdir=$WORKDIR" "--config.data.train=$DATA" --num_processes=1 "$@"
