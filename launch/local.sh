#!/usr/bin/env bash
# Start several processes of one run on this machine, for trying things out without a cluster.
usage() {
  cat <<'TEXT'
usage: launch/local.sh -n PROCESSES [--devices N] [--port PORT] [--grace SECONDS] [--dry-run] -- COMMAND...

Runs COMMAND once per process; the processes find each other (on CPUs they talk through gloo). Their output is prefixed with
the process. SIGTERM and SIGINT are passed on. When one ends with an error, the others get SECONDS (default 90) to stop by
themselves and are then killed. The exit code is the worst: a fault (2), else a crash, else "run me again" (75), else 0.

  -n PROCESSES      how many processes
  --devices N       simulated CPU devices per process (default: what the machine has)
  --port PORT       port of process 0 (default: a free one)

example: launch/local.sh -n 2 --devices 2 -- python -m wt_jax.main --config=configs/quickstart.py --workdir=runs/two ...
TEXT
}
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

# A process that waits for a dead one at a barrier knows it after HEARTBEAT_SECONDS of wt_jax.cluster.processes, 60.
processes="" devices="" port="" grace=90
while [ $# -gt 0 ]; do
  case "$1" in
    -n) processes="${2:-}"; shift 2 ;;
    --devices) devices="${2:-}"; shift 2 ;;
    --port) port="${2:-}"; shift 2 ;;
    --grace) grace="${2:-}"; shift 2 ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1; see --help" ;;
  esac
done
case "$processes" in "" | *[!0-9]* | 0) refuse "-n PROCESSES is missing; see --help" ;; esac
[ $# -gt 0 ] || refuse "the command is missing: put it behind --"
if [ -z "$port" ]; then
  need python3 "install Python 3.11 to 3.13, or give --port"
  port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
fi

export WT_JAX_COORDINATOR="127.0.0.1:$port" WT_JAX_NUM_PROCESSES="$processes" PYTHONUNBUFFERED=1
if [ -n "$devices" ]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi

prefixed() { # it outlives a signal to the whole group, as the last lines are the ones that matter
  trap '' INT TERM
  exec sed -u "s/^/[$1] /"
}

pids=()
# shellcheck disable=SC2329 # the traps call it
pass_on() { [ "${#pids[@]}" = 0 ] || kill "-$1" "${pids[@]}" 2>/dev/null || true; }
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'pass_on USR1' USR1
trap 'pass_on KILL' EXIT

for ((p = 0; p < processes; p++)); do
  export WT_JAX_PROCESS_ID="$p"
  if [ -n "${DRY_RUN:-}" ]; then
    run env "WT_JAX_COORDINATOR=$WT_JAX_COORDINATOR" "WT_JAX_NUM_PROCESSES=$processes" "WT_JAX_PROCESS_ID=$p" "$@"
  else
    "$@" > >(prefixed "$p") 2> >(prefixed "$p" >&2) &
    pids+=($!)
  fi
done
[ -z "${DRY_RUN:-}" ] || exit 0

severity() { # how bad an exit code is
  case "$1" in
    0) echo 0 ;;
    "$RUN_AGAIN") echo 1 ;;
    2) echo 3 ;;
    *) echo 2 ;;
  esac
}

worst=0 deadline=""
while [ "${#pids[@]}" -gt 0 ]; do
  for p in "${!pids[@]}"; do
    kill -0 "${pids[$p]}" 2>/dev/null && continue
    code=0
    wait "${pids[$p]}" || code=$?
    echo "local.sh: process $p (pid ${pids[$p]}) ended with code $code" >&2
    unset "pids[$p]"
    [ "$(severity "$code")" -le "$(severity "$worst")" ] || worst="$code"
    [ "$code" = 0 ] || [ -n "$deadline" ] || deadline=$((SECONDS + grace))
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ] && [ "${#pids[@]}" -gt 0 ]; then
    pass_on KILL
  fi
  sleep 0.1 # also for the last lines of output
done
trap - EXIT
exit "$worst"
