#!/usr/bin/env python3
"""Stands in for gcloud, kubectl, sbatch and others: checks every argument against the real command's, records, replies.

Called under the name of the tool. `STANDIN` is a folder: `calls.jsonl` gets one line per call; `replies.json` maps the start of
a command line to answers, used up one after the other, the last one staying: a text to print, or {"code": N, "out": text}.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PLACE = {"--project", "--zone"}
# Flags that each command takes, from its reference; an unknown one is refused as the real one would.
FLAGS = {
    "gcloud compute tpus queued-resources create": {
        *PLACE, "--node-id", "--accelerator-type", "--runtime-version", "--spot",
    },
    "gcloud compute tpus queued-resources describe": {*PLACE, "--format"},
    "gcloud compute tpus queued-resources delete": {*PLACE, "--force", "--quiet"},
    "gcloud compute tpus tpu-vm ssh": {*PLACE, "--worker", "--command"},
    "gcloud compute tpus tpu-vm scp": {*PLACE, "--worker", "--recurse"},
    "kubectl apply": {"--namespace", "--filename"},
    "kubectl logs": {"--namespace", "--selector", "--container", "--follow", "--prefix", "--tail", "--max-log-requests"},
    "kubectl get": {"--namespace", "--selector"},
    "kubectl delete": {"--namespace"},
    "sbatch": {
        "--job-name", "--nodes", "--time", "--signal", "--requeue", "--open-mode", "--output", "--gpus-per-node",
        "--ntasks-per-node", "--cpus-per-task", "--partition",
    },
    "srun": {"--kill-on-bad-exit", "--wait", "--label"},
    "scontrol requeue": set(),
    "gcsfuse": {
        "--implicit-dirs", "--metadata-cache-ttl-secs", "--stat-cache-max-size-mb", "--type-cache-max-size-mb", "--cache-dir",
        "--file-cache-max-size-mb", "--file-cache-cache-file-for-range-read", "--rename-dir-limit",
    },
    "mountpoint": {"-q"},
    "curl": {"--silent", "--fail", "--max-time", "--header"},
    "nvidia-smi": set(),
}  # fmt: skip

tool, arguments = Path(sys.argv[0]).name, sys.argv[1:]
line = " ".join([tool, *arguments])
known = [name for name in FLAGS if line == name or line.startswith(name + " ")]
if not known:
    sys.exit(f"{tool}: unknown command: {line}")
for argument in arguments:
    if tool == "srun" and not argument.startswith("-"):
        break  # what srun is to run has flags of its own
    flag = argument.split("=")[0]
    if flag.startswith("-") and flag not in FLAGS[known[0]]:
        print(f"{tool}: unknown flag {flag} of {known[0]}", file=sys.stderr)
        sys.exit(64)

folder = Path(os.environ["STANDIN"])
stdin = sys.stdin.read() if tool == "sbatch" or "--filename=-" in arguments else ""
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps({"argv": [tool, *arguments], "stdin": stdin}) + "\n")
if tool == "sbatch":  # at once, on this machine
    job = {**os.environ, "SLURM_JOB_ID": "7"}
    sys.exit(subprocess.run(["bash", "-s"], input=stdin, text=True, env=job, check=False).returncode)
replies = json.loads((folder / "replies.json").read_text()) if (folder / "replies.json").exists() else {}
for start, answers in replies.items():
    if line.startswith(start):
        answer = answers[0]
        if len(answers) > 1:
            answers.pop(0)
            (folder / "replies.json").write_text(json.dumps(replies))
        answer = answer if isinstance(answer, dict) else {"out": answer}
        if answer.get("out"):
            print(answer["out"])
        sys.exit(answer.get("code", 0))
