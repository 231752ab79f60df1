"""Metrics of features that are computed while a run trains: one file each, listed in `wt_jax.eval.online.METRICS`."""
