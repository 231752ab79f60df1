"""The CPU runtime: oneDNN through XLA's foreign function interface, and kernels compiled by Numba. See README.md.

Imported by `wt_jax.ops` and `wt_jax.data.video` alone. Here is the switch between this runtime and what XLA and OpenCV do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from wt_jax.errors import ConfigError

# The environment variable that chooses for a command, and for the processes it starts.
VARIABLE = "WT_JAX_KERNELS"
NATIVE, PORTABLE = "native", "portable"


def use_native() -> bool:
    """Whether the native implementations are wanted: "native", the default, or "portable" in `WT_JAX_KERNELS`.

    Raises:
      ConfigError: the variable has another value.
    """
    chosen = os.environ.get(VARIABLE, NATIVE)
    if chosen not in (NATIVE, PORTABLE):
        raise ConfigError(f"{VARIABLE}={chosen} in the environment must be {NATIVE} or {PORTABLE}")
    return chosen == NATIVE


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Inside, programs that are traced and videos that are read use "native" or "portable". Not for use in several threads.

    JAX's caches are cleared on both ends, so that a function traced one way is not found the other way.
    """
    import jax

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    use_native()
    jax.clear_caches()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        jax.clear_caches()
