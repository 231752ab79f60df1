# shellcheck shell=bash
# What the launch scripts share: settings, dry runs, refusals. Sourced, not run.

settings="${WT_JAX_SETTINGS:-$(dirname "${BASH_SOURCE[0]}")/settings.sh}"
# shellcheck source=launch/settings.sh
. "$settings"

refuse() { # say what is wrong and stop
  echo "$(basename "$0"): $*" >&2
  exit 2
}

need() { # need TOOL HINT: refuse where a tool is missing
  command -v "$1" >/dev/null || refuse "$1 is not installed; $2"
}

need_value() { # need_value NAME: refuse where a setting is empty
  [ -n "${!1:-}" ] || refuse "$1 is not set; set it in ${settings} or in the environment"
}

quoted() { # the arguments as one line that a shell reads back as they are
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

run() { # run a command, or only print it in a dry run
  if [ -n "${DRY_RUN:-}" ]; then
    quoted "$@"
  else
    "$@"
  fi
}

await() { # await PID: wait until it ends, whatever signals come, and return its exit code; their traps set $signalled
  local code=0 again
  wait "$1" || code=$?
  while [ -n "$signalled" ]; do # the wait was ended by a signal, perhaps just as the command ended: its own code is known still
    signalled="" again=0
    wait "$1" || again=$?
    [ "$again" = 127 ] || code=$again
  done
  return "$code"
}
