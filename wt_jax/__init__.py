"""wt_jax: video representation learning with a weak teacher, and its baselines, in JAX."""

__version__ = "0.1.0"
