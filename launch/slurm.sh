#!/usr/bin/env bash
# Train under Slurm, one process per GPU, queued again after a preemption or at the time limit.
usage() {
  cat <<'TEXT'
usage: launch/slurm.sh [--dry-run] [-- FLAGS OF wt_jax.main...]

Submits CONFIG on DATA into WORKDIR (launch/settings.sh: PARTITION, NODES, GPUS_PER_NODE, CPUS_PER_GPU, TIME_LIMIT, GRACE).
GRACE seconds before the end, all processes get SIGTERM, save and stop with code 75, and the job queues itself again; a crash
does so up to MAX_CRASHES times. GPUS_PER_NODE=0 runs on CPUs. --dry-run prints the batch script.
TEXT
}
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1; flags of wt_jax.main go behind --" ;;
  esac
done
need sbatch "run this on a login node of the cluster"
need_value DATA
need_value WORKDIR
cd "$(dirname "$0")/.."

tasks="${TASKS_PER_NODE:-$GPUS_PER_NODE}"
options=("--job-name=wt_jax" "--nodes=$NODES" "--time=$TIME_LIMIT" "--signal=TERM@$GRACE" --requeue --open-mode=append
  "--output=wt_jax-%j.log")
if [ "$GPUS_PER_NODE" = 0 ]; then
  tasks="${TASKS_PER_NODE:-1}"
else
  options+=("--gpus-per-node=$GPUS_PER_NODE")
fi
options+=("--ntasks-per-node=$tasks" "--cpus-per-task=$CPUS_PER_GPU")
[ -z "$PARTITION" ] || options+=("--partition=$PARTITION")

train="$(quoted "${WT_JAX_VENV:-.venv}/bin/python" -u -m wt_jax.main "--config=$CONFIG" "--workdir=$WORKDIR" "--config.data.train=$DATA" "$@")"
script="#!/usr/bin/env bash
cd $(quoted "$PWD")
code=0
srun --kill-on-bad-exit=0 --wait=120 --label $train || code=\$?
echo \"slurm.sh: the run ended with code \$code\"
# srun tells of the worst of its tasks; 0 is done and 2 needs a person.
if [ \"\$code\" = 0 ] || [ \"\$code\" = 2 ]; then exit \"\$code\"; fi
if [ \"\$code\" = $RUN_AGAIN ] || [ \"\${SLURM_RESTART_COUNT:-0}\" -lt $MAX_CRASHES ]; then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \"\$code\""
if [ -n "${DRY_RUN:-}" ]; then
  run sbatch "${options[@]}"
  echo "$script"
else
  sbatch "${options[@]}" <<<"$script"
fi
