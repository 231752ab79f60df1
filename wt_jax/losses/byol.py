"""BYOL's loss: the distance of a prediction from a target on the sphere (Grill et al. 2020, arXiv 2006.07733, eq. 2)."""

import jax
import jax.numpy as jnp
from jax import Array


def byol_loss(prediction: Array, target: Array) -> Array:
    """|p - t|^2 = 2 - 2 p.t of embeddings (B, D) that the caller has L2-normalized.

    The gradient flows into `prediction` alone.

    Returns:
      (B,) float32 in [0, 4].

    >>> import jax.numpy as jnp
    >>> [float(x) for x in byol_loss(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))]
    [0.0, 2.0]
    """
    prediction, target = (jnp.asarray(x, jnp.float32) for x in (prediction, jax.lax.stop_gradient(target)))
    return 2.0 - 2.0 * jnp.sum(prediction * target, axis=-1)
