"""Commands around the training, each `wt-jax NAME` or `python -m` with its module."""
