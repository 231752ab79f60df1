"""Four simulated devices for every test, strict promotion, programs compiled once for all of them, absl flags parsed for grain.

The variables of the environment also reach the commands that tests start.
"""

import os
import pathlib
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Programs of tests run for milliseconds: compiling them takes the time, and LLVM's optimizations a third of that.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"]
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"))

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real videos beside the checkout."""
    if not SHARED.exists():
        pytest.skip(f"no real videos at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> pathlib.Path:
    """The embedded data set, small: 32 training and 16 test videos."""
    from wt_jax.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("embedded")
    write_dataset(folder, train=32, test=16, frames=32)
    return folder


@pytest.fixture
def native() -> None:
    """The native kernels are used."""
    from wt_jax.kernels import operations

    if not operations.available():
        pytest.skip("no oneDNN here: pip install onednn-cpu-gomp, on an x86-64 Linux")


@pytest.fixture(params=["native", "portable"])
def kernels(request) -> Iterator[str]:
    """The implementation that is used: both in turn, where this machine has both."""
    from wt_jax.kernels import implementation

    with implementation(request.param):
        if request.param == "native":
            request.getfixturevalue("native")
        yield request.param
