"""Commands around the training, each `python -m wt_jax.tools.NAME`."""
