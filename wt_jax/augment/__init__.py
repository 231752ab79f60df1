"""The pixel part of a view: color, blur and motion on the device, jitted with the step, drawn once per clip."""

from wt_jax.augment.finish import finish_view, finish_views, to_uint8
from wt_jax.augment.motion import frame_difference, mix_frame, shuffle_frames

__all__ = ["finish_view", "finish_views", "frame_difference", "mix_frame", "shuffle_frames", "to_uint8"]
