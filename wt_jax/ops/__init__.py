"""Array operations of networks and views, each with a default in XLA and a native form for CPUs, chosen by platform."""

from wt_jax.kernels import NATIVE, PORTABLE, implementation
from wt_jax.ops.runtime import describe, fingerprint, keep_freed_memory, prepare_process

__all__ = ["NATIVE", "PORTABLE", "describe", "fingerprint", "implementation", "keep_freed_memory", "prepare_process"]
