"""`bench-gpu`: faults are named and do not stop the rest, batches are cut until they fit, and all of it runs on a CPU."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wt_jax.bench import gpu
from wt_jax.bench.gpu import FULL, LIMITS, Failed, call, check, describe, full_config, report, take_step
from wt_jax.errors import BenchError


def python(code):
    return [sys.executable, "-c", code]


def test_a_fault_is_the_line_that_names_it():
    code = "import sys; sys.stderr.write('noise\\nValueError: no such thing\\nmore noise\\n'); sys.exit(3)"
    with pytest.raises(Failed, match=r"^ValueError: no such thing$") as caught:
        call(python(code), 20)
    assert "more noise" in caught.value.text
    with pytest.raises(Failed, match="ended with code 7"):
        call(python("import os; os._exit(7)"), 20)
    assert call(python("import os; print(os.environ['ONE'] + input())"), 20, "two\n", ONE="1") == "1two\n"


def test_a_late_command_ends_with_all_its_processes(tmp_path):
    child = f"import time; open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)"
    code = f"import subprocess, sys; print(1, flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    begin = time.monotonic()
    with pytest.raises(Failed, match="not done after 3 s"):
        call(python(code), 3)
    assert time.monotonic() - begin < 20
    assert (tmp_path / "up").exists()
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "up") not in found


def test_a_part_that_fails_is_named_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setitem(LIMITS, "ssv2", 5)
    seen, limits = [], {}

    def fine(limit):
        limits["k400"] = limit
        return "| k400 | 12.5 |"

    def wrong(limit):
        limits["ssv2"] = limit
        raise Failed("XlaRuntimeError: a | b", "one\ntwo")

    def broken(limit):
        raise KeyError("flops")

    parts = {"ssv2": wrong, "folder": broken, "k400": fine, gpu.QUICKSTART: lambda limit: "its table"}
    check(parts, 90, lambda outcomes: seen.append(list(outcomes)))
    assert [len(outcomes) for outcomes in seen] == [1, 2, 3, 4]
    assert limits["ssv2"] == 5
    assert 80 < limits["k400"] < 90
    text = report(["* this machine"], seen[-1])
    assert "| ssv2 | 0 | XlaRuntimeError: a / b |" in text
    assert "| folder | 0 | KeyError: 'flops' |" in text
    assert "| k400 | 0 | done |" in text
    assert "### End of the log of ssv2\n\n```\none\ntwo\n```" in text
    assert text.index("| k400 | 12.5 |") < text.index("## Quick start\n\nits table") < text.index("## Parts")


def test_what_has_no_time_left_is_not_begun():
    seen = []
    check({"k400": lambda limit: "never"}, 0.5, lambda outcomes: seen.extend(outcomes))
    assert seen[0].fault == "not begun: the time is over; run it alone with --parts=k400"


@pytest.mark.parametrize(("room", "fits", "tried"), [(None, 4, [1, 2, 4]), (300.0, 1, [1]), (1.0, 64, [32, 64])])
def test_a_batch_is_cut_until_it_fits(monkeypatch, room, fits, tried):
    seen = []

    def stand_in(command, limit, typed, **variables):
        job = gpu.pickle.loads(Path(command[-1]).read_bytes())
        seen.append(job.config.train.accumulate)
        if job.config.train.accumulate < fits:
            raise Failed("XlaRuntimeError", "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory")
        facts = '{"peak": 1e12, "flops": 1e9, "device": "1 H100", "start": 9.0}'
        return f'{facts}\n{{"seconds": 3.0, "memory": 1}}\n{{"seconds": 0.01, "memory": 500}}\n'

    monkeypatch.setattr(gpu, "call", stand_in)
    full = gpu.Full("k400", 32.0, {})
    row = [cell.strip() for cell in take_step(full, False, room, 60).strip("| ").split("|")]
    assert seen == tried
    assert row == ["k400", "s3d", "bfloat16", "1 H100", f"128 in {fits}", "10.0", "12800.0", "10.0%", "500", "9.0"]


@pytest.mark.parametrize("name", FULL)
def test_configurations_are_whole_and_have_a_tiny_form(name):
    whole, tiny = full_config(FULL[name], tiny=False), full_config(FULL[name], tiny=True)
    assert whole.model.dtype == tiny.model.dtype == "bfloat16"
    assert whole.method_name == tiny.method_name
    assert whole.clip.size >= 112
    assert (tiny.clip.size, tiny.train.batch_size) == (16, 8)
    assert FULL[name].memory > 1


def test_parts_and_machine_are_checked(monkeypatch):
    command = [sys.executable, "-m", "wt_jax", "bench-gpu", "--parts=k40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'k400'?" in done.stderr
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="nvidia-smi lists no GPU"):
        describe("cuda")


def test_the_machine_is_described(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\n[ $# = 3 ] || exit 1\nprintf 'NVIDIA H100, 570.1, 81559\\nNVIDIA H100, 570.1, 81559\\n'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    lines, room = describe("cuda")
    assert lines[-1] == "* GPU 1: NVIDIA H100, driver 570.1, 81559 MiB"
    assert room == pytest.approx(0.92 * 2 * 81559 / 1024)


@pytest.mark.slow
def test_a_step_of_its_own_process():
    row = [cell.strip() for cell in take_step(FULL["folder"], True, None, 200, JAX_PLATFORMS="cpu").strip("| ").split("|")]
    assert row[:3] == ["folder", "small_r2plus1d", "bfloat16"]
    assert row[4] == "8 in 1"
    assert all(float(cell) > 0 for cell in (row[5], row[6], row[8], row[9]))


@pytest.mark.slow
def test_all_of_it_at_tiny_sizes(tmp_path):
    file = tmp_path / "found.md"
    command = [sys.executable, "-m", "wt_jax", "bench-gpu", "--platform=cpu", f"--output={file}"]
    # Of this session: four devices, and strict promotion, which JAX's attention in half precision does not pass.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert len([line for line in text.splitlines() if "| 8 in 1 |" in line]) == len(FULL)
    torch = gpu.importlib.util.find_spec("torch")
    for name in LIMITS:
        assert f"| {name} | " in text
        came_to = text.partition(f"| {name} | ")[2].partition("\n")[0] if name not in FULL else ""
        assert "done" in came_to or name in FULL or (name == gpu.PYTORCH and not torch)
    assert "kNN" in text
    assert ("weak_teacher, PyTorch" in text) == bool(torch)
