"""The pixel part of a view: colour and blur on the device, jitted with the step, drawn once per clip."""

from wt_jax.augment.pixels import finish_view, finish_views, to_uint8

__all__ = ["finish_view", "finish_views", "to_uint8"]
