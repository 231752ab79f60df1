#!/usr/bin/env bash
# What runs on each machine of a Cloud TPU pod: mount the bucket, watch for the cloud's notice, train, and say how it ended.
usage() {
  cat <<'TEXT'
usage: launch/worker.sh [--dry-run] [-- FLAGS OF wt_jax.main...]

Mounts gs://BUCKET at MOUNT with gcsfuse (if BUCKET is set), runs CONFIG on DATA into WORKDIR (launch/settings.sh) until it is
done, and leaves the exit code in ~/wt_jax.exit. When the machine's metadata server says that it will be preempted, the run
gets SIGTERM, saves and stops.
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
need_value DATA
need_value WORKDIR
cd "$(dirname "$0")/.."

if [ -n "$BUCKET" ] && ! { [ -z "${DRY_RUN:-}" ] && mountpoint -q "$MOUNT"; }; then
  need gcsfuse "see https://cloud.google.com/storage/docs/cloud-storage-fuse/install"
  run mkdir -p "$MOUNT" "$CACHE_DIR"
  # implicit-dirs: folders that nobody made as such. The metadata of videos never changes and is kept for ever; whole videos are
  # kept on the local disk from their first reading on, also where only a part of one was asked for.
  run gcsfuse --implicit-dirs --metadata-cache-ttl-secs=-1 --stat-cache-max-size-mb=-1 --type-cache-max-size-mb=-1 \
    "--cache-dir=$CACHE_DIR" "--file-cache-max-size-mb=$CACHE_MB" --file-cache-cache-file-for-range-read \
    --rename-dir-limit=100000 "$BUCKET" "$MOUNT"
fi

train=(launch/again.sh -- "${WT_JAX_VENV:-.venv}/bin/python" -m wt_jax.main
  "--config=$CONFIG" "--workdir=$WORKDIR" "--config.data.train=$DATA" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  run "${train[@]}"
  exit 0
fi
rm -f "$HOME/wt_jax.exit"
trainer="" signalled=""
trap 'signalled=1; [ -z "$trainer" ] || kill -TERM "$trainer"' TERM INT
"${train[@]}" &
trainer=$!
watch_notice() { # the answer comes when the value changes
  local url="${METADATA:-http://metadata.google.internal}/computeMetadata/v1/instance/preempted?wait_for_change=true"
  while kill -0 "$trainer" 2>/dev/null; do
    if [ "$(curl --silent --fail --max-time 300 --header 'Metadata-Flavor: Google' "$url")" = TRUE ]; then
      echo "worker.sh: this machine will be preempted" >&2
      kill -TERM "$trainer"
      return
    fi
    sleep 1
  done
}
watch_notice &
watcher=$!
code=0
await "$trainer" || code=$?
kill "$watcher" 2>/dev/null || true
echo "$code" >"$HOME/wt_jax.exit"
exit "$code"
