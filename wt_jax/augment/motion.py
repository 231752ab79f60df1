"""What motion methods do to finished clips on the device: pure, jittable, drawn once per clip.

Clips are (B, T, H, W, 3) float32 in [0, 1]. Where something is drawn, each clip's draw comes from the key and its video's
index, so a clip looks the same wherever in the global batch it is.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def frame_difference(clips: Array) -> Array:
    """The change to the next frame, 1/2 + (x_{t+1} - x_t) / 2 in [0, 1]; 0.5 is no change. The last one stands twice.

    The motion input that needs no optical flow.
    """
    change = 0.5 + (clips[:, 1:] - clips[:, :-1]) / 2.0
    if clips.shape[1] == 1:
        return jnp.full_like(clips, 0.5)
    return jnp.concatenate([change, change[:, -1:]], axis=1)


def mix_frame(clips: Array, videos: Array, key: Array, largest: float) -> Array:
    """Temporal Consistent Augmentation (Wang et al. 2020, arXiv 2008.02129): x'_t = (1 - l) x_t + l x_k.

    One frame k of the clip, drawn per clip, is mixed into all of its frames: differences between frames are only scaled by
    1 - l, so motion stays while the still content is disturbed.

    Args:
      clips: see above.
      videos: (B,) int32, indices of the videos.
      key: PRNG key of the step.
      largest: l is uniform in [0, `largest`], one for the whole batch as in the source.
    """
    fraction = jax.random.uniform(jax.random.fold_in(key, 0), (), jnp.float32, 0.0, largest)

    def mix(clip: Array, clip_key: Array) -> Array:
        return (1.0 - fraction) * clip + fraction * clip[jax.random.randint(clip_key, (), 0, clip.shape[0])][None]

    return jax.vmap(mix)(clips, _clip_keys(key, videos))


def shuffle_frames(clips: Array, videos: Array, key: Array) -> Array:
    """The frames of each clip in a random order of its own: what is seen stays, when it is seen is lost."""
    return jax.vmap(lambda clip, clip_key: jax.random.permutation(clip_key, clip))(clips, _clip_keys(key, videos))


def frame_orders(count: int) -> np.ndarray:
    """All orders of `count` frames, int32 (count!, count): first one of each pair of an order and its reverse, in lexicographic
    order, then the reverses. Order i is of class i modulo half of them: a class is a pair.
    """
    pairs = np.array([order for order in itertools.permutations(range(count)) if order[0] < order[-1]], np.int32)
    return np.concatenate([pairs, pairs[:, ::-1]])


def order_classes(count: int) -> int:
    """Number of classes of the orders of `count` frames, 2 or more."""
    return math.factorial(count) // 2


def reorder_frames(clips: Array, videos: Array, key: Array) -> tuple[Array, Array]:
    """The frames of each clip in one of all orders, equally often, and the class of the order (B,) int32, see `frame_orders`.

    Clips are of 2 frames or more, and of few: T frames have T! / 2 classes.
    """
    orders = jnp.asarray(frame_orders(clips.shape[1]))
    drawn = jax.vmap(lambda clip_key: jax.random.randint(clip_key, (), 0, len(orders), jnp.int32))(_clip_keys(key, videos))
    return jax.vmap(lambda clip, order: clip[order])(clips, orders[drawn]), drawn % order_classes(clips.shape[1])


def _clip_keys(key: Array, videos: Array) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, 1), videos)
