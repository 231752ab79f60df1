#!/usr/bin/env bash
# Train on a Cloud TPU pod, from an empty project to the results.
usage() {
  cat <<'TEXT'
usage: launch/tpu.sh [--dry-run] COMMAND [-- FLAGS OF wt_jax.main...]

  up       all of it: create, wait, setup, run, and again after each preemption, until the training is done
  create   ask for the pod as a queued resource (spot or on demand: TPU_SPOT)
  wait     until it is there
  setup    copy this checkout to all workers and install it
  run      start the training on all workers (it goes on when you log out)
  logs     follow the output of all workers
  fetch    copy WORKDIR from worker 0 to ./runs
  state    one word: the state of the queued resource
  delete   give the pod back

Settings (PROJECT, ZONE, TPU_TYPE, BUCKET, DATA, WORKDIR, ...) are in launch/settings.sh or in the environment.
TEXT
}
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
command=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    -*) refuse "unknown option $1; flags of wt_jax.main go behind --" ;;
    *) [ -z "$command" ] || refuse "one command at a time, got $command and $1"; command="$1"; shift ;;
  esac
done
case "$command" in
  up | create | wait | setup | run | logs | fetch | state | delete) ;;
  "") refuse "the command is missing; see --help" ;;
  *) refuse "unknown command $command; see --help" ;;
esac
need gcloud "see https://cloud.google.com/sdk/docs/install"
need_value PROJECT
place=("--project=$PROJECT" "--zone=$ZONE")

on_workers() { # on_workers WORKERS COMMAND: run a shell line on them
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" "--worker=$1" "--command=$2"
}

create() {
  local tier=()
  [ "$TPU_SPOT" != 1 ] || tier=(--spot)
  run gcloud compute tpus queued-resources create "$TPU_NAME" "${place[@]}" "--node-id=$TPU_NAME" \
    "--accelerator-type=$TPU_TYPE" "--runtime-version=$TPU_RUNTIME" "${tier[@]}"
}

state() {
  run gcloud compute tpus queued-resources describe "$TPU_NAME" "${place[@]}" "--format=value(state.state)"
}

wait_active() {
  local now
  while true; do
    if [ -n "${DRY_RUN:-}" ]; then
      state
      return
    fi
    now="$(state)"
    case "$now" in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) echo "tpu.sh: $TPU_NAME is $now" >&2; return 1 ;;
    esac
    echo "tpu.sh: $TPU_NAME is $now" >&2
    sleep "$POLL"
  done
}

setup() {
  need git "install git"
  local archive
  archive="$(mktemp -d)/wt_jax.tar.gz"
  run git -C "$(dirname "$0")/.." archive --format=tar.gz --prefix=wt_jax/ "--output=$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:wt_jax.tar.gz" "${place[@]}" --worker=all
  on_workers all "command -v $TPU_PYTHON >/dev/null || { sudo apt-get update && sudo apt-get install --yes $TPU_PYTHON $TPU_PYTHON-venv; }"
  on_workers all "tar xzf wt_jax.tar.gz && cd wt_jax && $TPU_PYTHON -m venv .venv && .venv/bin/pip install --quiet . 'jax[tpu]'"
  rm -rf "$(dirname "$archive")"
}

start() {
  need_value DATA
  need_value WORKDIR
  local line
  line="$(quoted env "CONFIG=$CONFIG" "DATA=$DATA" "WORKDIR=$WORKDIR" "BUCKET=$BUCKET" "MOUNT=$MOUNT" launch/worker.sh -- "$@")"
  on_workers all "cd wt_jax && rm -f ~/wt_jax.exit && nohup $line >~/wt_jax.log 2>&1 </dev/null &"
}

finished() { # the exit code of the training on worker 0, or nothing
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker=0 "--command=cat wt_jax.exit 2>/dev/null || true"
}

delete() {
  run gcloud compute tpus queued-resources delete "$TPU_NAME" "${place[@]}" --force --quiet
}

up() {
  local code
  while true; do
    create
    if wait_active; then
      setup
      start "$@"
      [ -z "${DRY_RUN:-}" ] || return 0
      while wait_active; do
        code="$(finished || true)"
        case "$code" in
          "" | "$RUN_AGAIN") ;; # at work, or about to be taken away
          *) echo "tpu.sh: the training ended with code $code" >&2; return "$code" ;;
        esac
        sleep "$POLL"
      done
    fi
    echo "tpu.sh: the pod is gone; asking for another" >&2
    delete
  done
}

case "$command" in
  up) up "$@" ;;
  create) create ;;
  wait) wait_active ;;
  setup) setup ;;
  run) start "$@" ;;
  logs) on_workers all "tail -n 100 -F wt_jax.log" ;;
  fetch)
    need_value WORKDIR
    run mkdir -p runs
    run gcloud compute tpus tpu-vm scp --recurse "$TPU_NAME:$WORKDIR" runs "${place[@]}" --worker=0
    ;;
  state) state ;;
  delete) delete ;;
esac
