#!/usr/bin/env bash
# Run a command, and run it again as long as it was preempted or crashed.
usage() {
  cat <<'TEXT'
usage: launch/again.sh [--dry-run] -- COMMAND...

Exit code 75 of COMMAND means "stopped, nothing lost": it is run again. After any other code but 0 and 2 it is run again up to
MAX_CRASHES times (launch/settings.sh). 2 is a fault that a person must mend. SIGTERM and SIGINT are passed on, and then
nothing is run again.
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
    *) refuse "unknown option $1; see --help" ;;
  esac
done
[ $# -gt 0 ] || refuse "the command is missing: put it behind --"
if [ -n "${DRY_RUN:-}" ]; then
  run "$@"
  exit 0
fi

asked="" child="" signalled=""
pass_on() {
  asked=1 signalled=1
  [ -z "$child" ] || kill "-$1" "$child" 2>/dev/null || true
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'signalled=1; [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null || true' USR1

crashes=0
while true; do
  "$@" &
  child=$!
  code=0
  await "$child" || code=$?
  child=""
  case "$code" in
    0 | 2) exit "$code" ;;
    "$RUN_AGAIN") echo "again.sh: it was stopped with nothing lost" >&2 ;;
    *)
      crashes=$((crashes + 1))
      echo "again.sh: it crashed with code $code, $crashes of $MAX_CRASHES times" >&2
      [ "$crashes" -lt "$MAX_CRASHES" ] || exit "$code"
      ;;
  esac
  [ -z "$asked" ] || exit "$code"
  sleep 1
done
