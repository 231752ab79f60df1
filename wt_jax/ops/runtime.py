"""Which implementation the operations have on this machine, and what the rest of the package needs of it in neutral terms."""

from collections.abc import Callable
from typing import TypeVar

from jax import Array, lax

from wt_jax import kernels
from wt_jax.kernels import onednn, operations, process

T = TypeVar("T")


def dispatch(
    native: Callable[..., T],
    portable: Callable[..., T],
    *arrays: Array,
    tpu: Callable[..., T] | None = None,
    default: Callable[..., T] | None = None,
) -> T:
    """`native(*arrays)` on a CPU that has the native runtime, `portable` on other CPUs, `tpu` on TPUs, `default` elsewhere.

    All return the same structure of shapes and dtypes. The platform is that of the lowering, so that one traced function
    serves all; whether the runtime is used is decided when this is traced. Without `default`, that is `portable` too, and
    without `tpu`, that is `default`.
    """
    cpu, default = native if operations.available() else portable, default or portable
    return lax.platform_dependent(*arrays, cpu=cpu, tpu=tpu or default, default=default)


def prepare_process(workers: int) -> None:
    """Prepare this process for training on a CPU; to be called once, before there are threads.

    Where the loader has worker processes (`workers` above 0), freed memory is kept and the threads of the native runtime are
    bound to cores. With the loader's threads in this process, both would make them wait for each other.

    Raises:
      ConfigError: the environment names an implementation that does not exist.
    """
    if workers:
        process.keep_freed_memory()
        if kernels.use_native():
            onednn.bind_threads()
    kernels.use_native()


def keep_freed_memory() -> None:
    """The part of `prepare_process` that concerns memory alone."""
    process.keep_freed_memory()


def fingerprint() -> str:
    """Names all that compiled programs depend on here besides this package's code, for caches of such programs."""
    return f"native, {operations.library_name()}" if operations.available() else "portable"


def describe() -> str:
    """One line for the log: what computes convolutions, norms and pixels on a CPU of this machine."""
    if operations.available():
        return f"CPU kernels: {operations.library_name()}"
    reason = "as no oneDNN 3 was found" if kernels.use_native() else f"as {kernels.VARIABLE} is set"
    return f"CPU kernels: XLA alone, {reason}; convolutions take two to three times as long"
