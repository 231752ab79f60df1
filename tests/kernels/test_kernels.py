"""The native runtime: its errors, its threads, and the switch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import wt_jax
from wt_jax import kernels
from wt_jax.errors import ConfigError
from wt_jax.kernels import operations


def test_what_onednn_refuses_is_named(native):
    x = jnp.ones((1, 2, 2, 2, 8))
    text = json.dumps(["max_pool", x.shape, [2, 2, 2], [1, 5, 5, 5, 8], [1, 1, 1], [[0, 0]] * 3])
    wrong = jax.jit(lambda x: jax.ffi.ffi_call(operations.TARGET, jax.ShapeDtypeStruct((1, 5, 5, 5, 8), x.dtype))(x, text=text))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"wt_jax_cpu: OneDnnError: dnnl_pooling.*ONEDNN_VERBOSE"):
        jax.block_until_ready(wrong(x))


def cores_of_the_threads(**settings: str) -> tuple[int, int, str]:
    """Of a new process that binds oneDNN's threads: on how many cores its main thread and the one that calls oneDNN may run,
    and what is left in the environment for the programs that it starts.
    """
    code = """
import os, threading
from wt_jax.kernels import onednn
onednn.bind_threads()
import jax.numpy as jnp
from wt_jax.kernels import operations
operations.available()
x, kernel = jnp.ones((4, 4, 16, 16, 16)), jnp.ones((1, 1, 1, 16, 16))
operations.value(x, kernel, (1, 1, 1), ((0, 0),) * 3).block_until_ready()
(caller,) = [thread.native_id for thread in threading.enumerate() if thread.name == operations.TARGET]
print(len(os.sched_getaffinity(0)), len(os.sched_getaffinity(caller)), os.environ.get("OMP_PROC_BIND"))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, check=True, timeout=60
    )
    of_main, of_caller, left = ran.stdout.split()
    return int(of_main), int(of_caller), left


def test_threads_are_bound_but_for_the_main_one_and_where_the_user_says_otherwise(native):
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or os.environ.keys() & {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_NUM_THREADS"}:
        pytest.skip("wants two cores, and an environment without OpenMP's settings")
    assert cores_of_the_threads() == (cores, 1, "None")
    assert cores_of_the_threads(OMP_PROC_BIND="false") == (cores, cores, "false")
    assert cores_of_the_threads(OMP_NUM_THREADS="1") == (cores, cores, "None")


def test_the_switch_chooses_and_is_set_back(native, monkeypatch):
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    with kernels.implementation("portable"):
        assert not operations.available()
        with kernels.implementation("native"):
            assert operations.available()
        assert not operations.available()
    assert operations.available()
    assert kernels.VARIABLE not in os.environ


def test_an_unknown_implementation_is_named(monkeypatch):
    monkeypatch.setenv(kernels.VARIABLE, "fast")
    with pytest.raises(ConfigError, match="WT_JAX_KERNELS=fast in the environment must be native or portable"):
        operations.available()


def modules_but(*rooms):
    """Paths and texts of the package's modules, without those in some rooms."""
    package = Path(wt_jax.__file__).parent
    paths = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    return {path: (package / path).read_text() for path in paths if not path.startswith(rooms)}


def test_the_runtime_is_behind_one_door():
    for path, text in modules_but("kernels/", "ops/", "data/video/").items():
        assert not re.search(r"^\s*(from|import) wt_jax\.kernels|^\s*from wt_jax import .*kernels", text, re.MULTILINE), path
    for path, text in modules_but("kernels/", "ops/").items():
        assert not re.search("onednn|numba", text, re.IGNORECASE), path


@pytest.mark.parametrize("module", ["wt_jax.config", "wt_jax.losses", "wt_jax.specs"])
def test_what_needs_no_kernels_imports_none(module):
    code = f"import sys, {module}; print(*({{'cv2', 'av', 'numba', 'grain'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == []
