# shellcheck shell=bash disable=SC2034
# Settings of the launch scripts, in one place. What the environment already says stays; WT_JAX_SETTINGS names another file.

# The run. Arguments on the command line of a launch script come behind these.
: "${CONFIG=configs/k400.py}"
: "${DATA=}"           # config.data.train as the machines see it, e.g. /mnt/bucket/k400/train.csv
: "${WORKDIR=}"        # a folder that all machines share, e.g. /mnt/bucket/runs/k400

# Cloud TPU (launch/tpu.sh)
: "${PROJECT=}"        # Google Cloud project
: "${ZONE=us-west4-a}"
: "${TPU_NAME=wt-jax}"
: "${TPU_TYPE=v5litepod-16}"
: "${TPU_RUNTIME=v2-alpha-tpuv5-lite}"
: "${TPU_SPOT=1}"      # 1: spot, cheaper and preempted at times; 0: on demand
: "${TPU_PYTHON=python3.11}" # installed with apt where it is missing
: "${POLL=30}"         # seconds between two looks at the state

# The bucket (launch/worker.sh, launch/gke.sh): mounted with gcsfuse. "" where WORKDIR and DATA are on a file system already.
: "${BUCKET=}"         # name without gs://; with a hierarchical namespace, so that a checkpoint appears by one rename
: "${MOUNT=/mnt/bucket}"
: "${CACHE_DIR=/tmp/gcsfuse}"
: "${CACHE_MB=-1}"     # of videos kept on the local disk; -1: as much as fits

# GKE (launch/gke.sh)
: "${NAMESPACE=default}"
: "${JOBSET_NAME=wt-jax}"
: "${IMAGE=}"          # container image with wt_jax and jax[tpu] or jax[cuda12]
: "${HOSTS=4}"         # pods, one per machine
: "${CHIPS_PER_HOST=4}"
: "${NODE_ACCELERATOR=tpu-v5-lite-podslice}"
: "${NODE_TOPOLOGY=4x4}" # "" for GPUs
: "${SERVICE_ACCOUNT=default}"

# Slurm (launch/slurm.sh)
: "${PARTITION=}"
: "${NODES=1}"
: "${GPUS_PER_NODE=8}"
: "${TASKS_PER_NODE=}" # processes; "": one per GPU, or one where there is none
: "${CPUS_PER_GPU=8}"
: "${TIME_LIMIT=24:00:00}"

# Seconds that a machine gives between SIGTERM and the end; a checkpoint must fit in.
: "${GRACE=120}"
# What wt_jax ends with when it was stopped and nothing is lost (wt_jax/cluster/preemption.py): run the same command again.
: "${RUN_AGAIN=75}"
# How often a run that crashed, rather than being preempted, is started again.
: "${MAX_CRASHES=5}"
