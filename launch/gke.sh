#!/usr/bin/env bash
# Train on GKE as a JobSet: one pod per machine, restarted together after a preemption.
usage() {
  cat <<'TEXT'
usage: launch/gke.sh [--dry-run] COMMAND [-- FLAGS OF wt_jax.main...]

  manifest  print the JobSet
  apply     start it            logs    follow the output of all pods
  delete    end it              status  the JobSet and its pods

The cluster needs the JobSet controller and, with BUCKET, the Cloud Storage FUSE CSI driver. Preempted pods and exit code 75
restart the set without counting; other failures count up to MAX_CRASHES. Settings are in launch/settings.sh.
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

json() { # a string as JSON, which YAML reads as it is
  local text="${1//\\/\\\\}"
  text="${text//\"/\\\"}"
  printf '"%s"' "${text//$'\n'/\\n}"
}

manifest() {
  need_value IMAGE
  need_value DATA
  need_value WORKDIR
  local resource=google.com/tpu topology="" mounts="" volumes="" annotations="" list="" argument coordinator=""
  if [ -n "$NODE_TOPOLOGY" ]; then
    topology="cloud.google.com/gke-tpu-accelerator: $(json "$NODE_ACCELERATOR")
                cloud.google.com/gke-tpu-topology: $(json "$NODE_TOPOLOGY")"
  else # GPUs: nothing there tells a process its place, so the JobSet does
    resource=nvidia.com/gpu
    topology="cloud.google.com/gke-accelerator: $(json "$NODE_ACCELERATOR")"
    coordinator="- {name: WT_JAX_COORDINATOR, value: $(json "$JOBSET_NAME-workers-0-0.$JOBSET_NAME:8476")}
                    - {name: WT_JAX_NUM_PROCESSES, value: $(json "$HOSTS")}
                    - name: WT_JAX_PROCESS_ID
                      valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}}"
  fi
  if [ -n "$BUCKET" ]; then
    annotations="annotations: {gke-gcsfuse/volumes: \"true\"}"
    mounts="volumeMounts: [{name: bucket, mountPath: $(json "$MOUNT")}]"
    volumes="volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(json "$BUCKET")
                      mountOptions: \"implicit-dirs,metadata-cache:ttl-secs:-1,metadata-cache:stat-cache-max-size-mb:-1,metadata-cache:type-cache-max-size-mb:-1,file-cache:max-size-mb:$CACHE_MB,file-cache:cache-file-for-range-read:true\""
  fi
  for argument in python -m wt_jax.main "--config=$CONFIG" "--workdir=$WORKDIR" "--config.data.train=$DATA" "$@"; do
    list="$list${list:+, }$(json "$argument")"
  done
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(json "$JOBSET_NAME")
  namespace: $(json "$NAMESPACE")
spec:
  failurePolicy:
    maxRestarts: $MAX_CRASHES
    rules:
      - action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          parallelism: $HOSTS
          completions: $HOSTS
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [$RUN_AGAIN]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            metadata:
              ${annotations:-annotations: \{\}}
            spec:
              restartPolicy: Never
              serviceAccountName: $(json "$SERVICE_ACCOUNT")
              terminationGracePeriodSeconds: $GRACE
              nodeSelector:
                $topology
              containers:
                - name: train
                  image: $(json "$IMAGE")
                  command: [$list]
                  env:
                    - {name: PYTHONUNBUFFERED, value: "1"}
                    $coordinator
                  ports: [{containerPort: 8471}, {containerPort: 8476}]
                  resources:
                    limits: {$resource: $CHIPS_PER_HOST}
                  ${mounts:-volumeMounts: []}
              ${volumes:-volumes: []}
YAML
}

[ -n "$command" ] || refuse "the command is missing; see --help"
[ "$command" = manifest ] || need kubectl "see https://kubernetes.io/docs/tasks/tools"
case "$command" in
  manifest) manifest "$@" ;;
  apply)
    text="$(manifest "$@")"
    run kubectl apply "--namespace=$NAMESPACE" --filename=- <<<"$text"
    ;;
  logs)
    run kubectl logs "--namespace=$NAMESPACE" "--selector=jobset.sigs.k8s.io/jobset-name=$JOBSET_NAME" \
      --container=train --follow --prefix --tail=100 "--max-log-requests=$HOSTS"
    ;;
  status) run kubectl get jobset,pods "--namespace=$NAMESPACE" "--selector=jobset.sigs.k8s.io/jobset-name=$JOBSET_NAME" ;;
  delete) run kubectl delete jobset "$JOBSET_NAME" "--namespace=$NAMESPACE" ;;
  *) refuse "unknown command $command; see --help" ;;
esac
