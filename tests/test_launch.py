"""The launch scripts: linted, and run to the end against stand-ins that check every argument."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wt_jax.cluster.preemption import RUN_AGAIN

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
COMMANDS = ("again", "gke", "gpus", "local", "slurm", "tpu", "worker")
TOOLS = ("gcloud", "kubectl", "sbatch", "srun", "scontrol", "gcsfuse", "mountpoint", "curl", "nvidia-smi")
ODD = "--config.data.root=/a b/$HOME 'quoted' \"twice\""  # must arrive as it is


class Cloud:
    """A folder of stand-ins, first on the path."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for tool in TOOLS:
            (folder / "bin" / tool).write_text(f"#!{sys.executable}\n" + (ROOT / "tests/support/standin.py").read_text())
            (folder / "bin" / tool).chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "STANDIN": str(folder),
            "PROJECT": "my project",
            "DATA": "/mnt/bucket/train list.csv",
            "WORKDIR": "/mnt/bucket/runs/a b",
            "BUCKET": "videos",
            "MOUNT": str(folder / "mnt"),
            "CACHE_DIR": str(folder / "cache"),
            "IMAGE": "registry/wt_jax:1",
            "POLL": "0",
        }

    def call(self, script, *arguments, code=0, **environment):
        done = subprocess.run(
            [LAUNCH / f"{script}.sh", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def answers(self, replies):
        (self.folder / "replies.json").write_text(json.dumps(replies))

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def python(self, body):
        """A stand-in for the Python of the virtual environment."""
        (self.folder / "venv" / "bin").mkdir(parents=True, exist_ok=True)
        path = self.folder / "venv" / "bin" / "python"
        path.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{body}\n")
        path.chmod(0o755)
        return {"WT_JAX_VENV": str(self.folder / "venv")}


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_shellcheck():
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", "-P", ".", *sorted(LAUNCH.glob("*.sh"))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", COMMANDS)
def test_help_and_wrong_options(cloud, script):
    assert f"usage: launch/{script}.sh" in cloud.call(script, "--help").stdout
    assert "--nonsense" in cloud.call(script, "--nonsense", code=2).stderr
    assert not cloud.calls


def test_the_exit_code_is_the_same_everywhere():
    shown = subprocess.run(
        ["bash", "-c", f". {LAUNCH}/settings.sh; echo $RUN_AGAIN"], capture_output=True, text=True, env={}, check=True
    )
    assert int(shown.stdout) == RUN_AGAIN


@pytest.mark.parametrize(
    ("script", "arguments", "tool"),
    [("tpu", ["create"], "gcloud"), ("gke", ["apply"], "kubectl"), ("slurm", [], "sbatch"), ("gpus", [], "nvidia-smi")],
)
def test_a_missing_tool_is_refused_with_a_hint(cloud, script, arguments, tool):
    bare = cloud.folder / "bare"
    bare.mkdir()
    for name in ("bash", "dirname", "basename", "env"):
        (bare / name).symlink_to(shutil.which(name))
    line = cloud.call(script, *arguments, code=2, PATH=str(bare)).stderr
    assert f"{tool} is not installed; " in line


def test_a_missing_setting_is_refused(cloud):
    assert "PROJECT is not set" in cloud.call("tpu", "create", code=2, PROJECT="").stderr
    assert "WORKDIR is not set" in cloud.call("slurm", code=2, WORKDIR="").stderr


def test_dry_runs_call_nothing(cloud):
    printed = cloud.call("tpu", "--dry-run", "up", "--", ODD).stdout
    assert "queued-resources create wt-jax" in printed
    assert "my\\ project" in printed
    cloud.call("gke", "--dry-run", "apply")
    cloud.call("slurm", "--dry-run")
    cloud.call("gpus", "--dry-run", "--", ODD)
    cloud.call("worker", "--dry-run", "--", ODD)
    assert "WT_JAX_PROCESS_ID=1" in cloud.call("local", "-n", "2", "--dry-run", "--", "true").stdout
    assert not cloud.calls


def test_a_pod_from_creation_over_a_preemption_to_the_end(cloud):
    queued, vm = "gcloud compute tpus queued-resources", "gcloud compute tpus tpu-vm"
    cloud.answers(
        {
            f"{queued} describe": ["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED", "PROVISIONING", "ACTIVE"],
            f"{vm} ssh wt-jax --project=my project --zone=us-west4-a --worker=0": ["", "75", "0"],
        }
    )
    cloud.call("tpu", "up", "--", ODD)
    calls = [call["argv"] for call in cloud.calls]
    place = ["--project=my project", "--zone=us-west4-a"]
    create = [*queued.split(), "create", "wt-jax", *place, "--node-id=wt-jax", "--accelerator-type=v5litepod-16"]
    create += ["--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
    assert calls[0] == create
    assert calls.count(create) == 2  # after the preemption once more
    assert calls.count([*queued.split(), "delete", "wt-jax", *place, "--force", "--quiet"]) == 1
    setup = [c for c in calls if c[4] == "scp"]
    assert [c[6] for c in setup] == ["wt-jax:wt_jax.tar.gz"] * 2
    assert all(c[7:] == [*place, "--worker=all"] for c in setup)
    starts = [c[-1].removeprefix("--command=") for c in calls if "nohup" in c[-1]]
    assert len(starts) == 2
    assert starts[0].startswith("cd wt_jax && rm -f ~/wt_jax.exit && nohup env CONFIG=configs/k400.py")
    # A shell on the worker reads back what was meant.
    line = starts[0].split("nohup ")[1].split(" >~/")[0]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True).stdout
    assert ODD in words.splitlines()
    assert "DATA=/mnt/bucket/train list.csv" in words.splitlines()


def test_a_fault_in_the_training_ends_the_pod_command(cloud):
    queued, vm = "gcloud compute tpus queued-resources", "gcloud compute tpus tpu-vm"
    cloud.answers(
        {f"{queued} describe": ["ACTIVE"], f"{vm} ssh wt-jax --project=my project --zone=us-west4-a --worker=0": ["2"]}
    )
    assert "ended with code 2" in cloud.call("tpu", "up", code=2, TPU_SPOT="0").stderr
    assert "--spot" not in cloud.calls[0]["argv"]


def test_the_other_pod_commands(cloud):
    cloud.call("tpu", "logs")
    cloud.call("tpu", "fetch")
    cloud.call("tpu", "delete")
    logs, fetch, delete = (call["argv"] for call in cloud.calls)
    assert logs[-2:] == ["--worker=all", "--command=tail -n 100 -F wt_jax.log"]
    assert fetch[5:8] == ["--recurse", "wt-jax:/mnt/bucket/runs/a b", "runs"]
    assert delete[4] == "delete"


def test_the_jobset(cloud):
    cloud.call("gke", "apply", "--", ODD)
    cloud.call("gke", "logs")
    cloud.call("gke", "status")
    cloud.call("gke", "delete")
    apply, logs, status, delete = cloud.calls
    assert apply["argv"] == ["kubectl", "apply", "--namespace=default", "--filename=-"]
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(apply["stdin"])["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [RUN_AGAIN]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][-1] == ODD
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert job["template"]["spec"]["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "videos"
    assert "--selector=jobset.sigs.k8s.io/jobset-name=wt-jax" in logs["argv"]
    assert delete["argv"][:4] == ["kubectl", "delete", "jobset", "wt-jax"]


def test_the_jobset_of_gpus_tells_each_process_its_place(cloud):
    yaml = pytest.importorskip("yaml")
    text = cloud.call("gke", "manifest", NODE_TOPOLOGY="", NODE_ACCELERATOR="nvidia-h100-80gb", BUCKET="").stdout
    pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    names = {entry["name"] for entry in pod["containers"][0]["env"]}
    assert {"WT_JAX_COORDINATOR", "WT_JAX_NUM_PROCESSES", "WT_JAX_PROCESS_ID"} <= names
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert pod["volumes"] == []


@pytest.mark.parametrize(("code", "restarts", "queued"), [(0, 0, 0), (2, 0, 0), (75, 9, 1), (137, 0, 1), (137, 5, 0)])
def test_a_slurm_job_queues_itself_again_when_it_should(cloud, code, restarts, queued):
    cloud.answers({"srun": [{"code": code}]})
    cloud.call("slurm", "--", ODD, code=code, SLURM_RESTART_COUNT=str(restarts), GPUS_PER_NODE="4", PARTITION="gpu")
    sbatch, srun, *rest = (call["argv"] for call in cloud.calls)
    assert {"--requeue", "--signal=TERM@120", "--gpus-per-node=4", "--ntasks-per-node=4", "--partition=gpu"} <= set(sbatch)
    assert srun[-1] == ODD
    assert "--workdir=/mnt/bucket/runs/a b" in srun
    assert rest == [["scontrol", "requeue", "7"]] * queued


def test_a_worker_mounts_trains_and_obeys_the_clouds_notice(cloud):
    cloud.answers({"mountpoint": [{"code": 1}], "curl": ["FALSE"]})
    venv = cloud.python(
        "json.dump(sys.argv[1:], open(os.environ['HOME'] + '/argv', 'w'))\n"
        f"signal.signal(signal.SIGTERM, lambda *_: os._exit({RUN_AGAIN}))\n"
        # Only now does the cloud say so.
        "open(os.environ['STANDIN'] + '/replies.json', 'w').write('{\"curl\": [\"TRUE\"]}')\ntime.sleep(30)"
    )
    cloud.call("worker", "--", ODD, code=RUN_AGAIN, **venv)
    assert (cloud.folder / "wt_jax.exit").read_text() == f"{RUN_AGAIN}\n"
    arguments = json.loads((cloud.folder / "argv").read_text())
    assert arguments[:2] == ["-m", "wt_jax.main"]
    assert arguments[-1] == ODD
    (mount,) = (call["argv"] for call in cloud.calls if call["argv"][0] == "gcsfuse")
    assert mount[-2:] == ["videos", str(cloud.folder / "mnt")]


def test_again_runs_again_after_preemptions_and_a_few_crashes(cloud):
    script = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n; set -- 75 75 75 9 0; shift $n; exit $1"

    def attempt(codes, expected):
        (cloud.folder / "n").unlink(missing_ok=True)
        done = subprocess.run(
            [LAUNCH / "again.sh", "--", "bash", "-c", script.replace("75 75 75 9 0", codes)],
            env={**cloud.environment, "MAX_CRASHES": "2"},
            cwd=cloud.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == expected, done.stderr
        return int((cloud.folder / "n").read_text())

    assert attempt("75 9 0", 0) == 3
    assert attempt("2 0", 2) == 1
    assert attempt("9 9 0", 9) == 2


def test_a_command_that_ends_as_it_is_told_to_keeps_its_code(tmp_path):
    # The trap goes on until the command is gone: what a busy machine makes of it now and then.
    script = f"""
    . {LAUNCH}/common.sh
    signalled=""
    trap 'signalled=1; kill -TERM $child; while kill -0 $child 2>/dev/null; do sleep 0.01; done' TERM
    bash -c 'trap "exit {RUN_AGAIN}" TERM; touch ready; while :; do sleep 0.01; done' &
    child=$!
    (until [ -e ready ]; do sleep 0.01; done; kill -TERM $$) &
    await $child
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == RUN_AGAIN, done.stderr


def test_gpus_drives_all_of_them_in_one_process(cloud):
    venv = cloud.python(
        "json.dump([os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:]], open(os.environ['HOME'] + '/argv', 'w'))"
    )
    cloud.call("gpus", "--gpus", "0,1", "--", ODD, **venv)
    arguments = json.loads((cloud.folder / "argv").read_text())
    assert arguments[0] == "0,1"
    assert arguments[-2:] == ["--num_processes=1", ODD]


def test_gpus_are_checked_without_data(cloud):
    venv = cloud.python(
        "json.dump([os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:]], open(os.environ['HOME'] + '/argv', 'w'))"
    )
    cloud.call("gpus", "--check", "--gpus", "1", "--", "--parts=k400", DATA="", WORKDIR="", **venv)
    assert json.loads((cloud.folder / "argv").read_text()) == ["1", "-m", "wt_jax.bench.gpu", "--parts=k400"]
    cloud.python("sys.exit(2)")
    cloud.call("gpus", "--check", code=2, **venv)


def test_local_prefixes_and_returns_the_worst(cloud):
    line = 'echo "I am $WT_JAX_PROCESS_ID of $WT_JAX_NUM_PROCESSES"; [ $WT_JAX_PROCESS_ID = 1 ] && exit 75; exit 0'
    done = cloud.call("local", "-n", "3", "--", "bash", "-c", line, code=75)
    assert sorted(done.stdout.splitlines()) == [f"[{p}] I am {p} of 3" for p in range(3)]
    line = "case $WT_JAX_PROCESS_ID in 0) exit 75;; 1) kill -KILL $$;; 2) exit 2;; esac"
    cloud.call("local", "-n", "2", "--", "bash", "-c", line, code=137)
    cloud.call("local", "-n", "3", "--", "bash", "-c", line, code=2)


def test_local_kills_those_that_do_not_stop_when_one_dies(cloud):
    begin = time.monotonic()
    line = "[ $WT_JAX_PROCESS_ID = 0 ] && exit 1; exec sleep 50"
    cloud.call("local", "-n", "2", "--grace", "1", "--", "bash", "-c", line, code=1)
    assert time.monotonic() - begin < 20


def test_local_passes_signals_on(cloud):
    line = f"trap 'exit {RUN_AGAIN}' TERM; touch up$WT_JAX_PROCESS_ID; while true; do sleep 0.1; done"
    process = subprocess.Popen(
        [LAUNCH / "local.sh", "-n", "2", "--", "bash", "-c", line], env=cloud.environment, cwd=cloud.folder
    )
    while not all((cloud.folder / f"up{p}").exists() for p in range(2)):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == RUN_AGAIN
