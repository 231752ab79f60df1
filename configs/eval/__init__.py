"""The evaluations: one file each, `get_config()`, for `python -m wt_jax.tools.evaluate`."""
