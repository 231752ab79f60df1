"""The teacher as a moving average of the student: pytree transforms, and the schedule of the momentum.

Mean teacher: Tarvainen & Valpola 2017 (arXiv 1703.01780); as MoCo uses it: He et al. 2020 (arXiv 1911.05722, eq. 2).
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def ema_update(teacher: Tree, student: Tree, momentum: ArrayLike) -> Tree:
    """teacher <- momentum * teacher + (1 - momentum) * student, leaf by leaf.

    Leaves are float32: at a momentum of 0.999 the step is lost in bfloat16. The student may be a float of any precision.

    Raises:
      ValueError: the two trees differ in structure, or a teacher's leaf is not float32.
    """

    fraction = 1.0 - jnp.asarray(momentum, jnp.float32)

    def move(path, old: Array, new: Array) -> Array:
        if old.dtype != jnp.float32:
            raise ValueError(f"teacher leaf {jax.tree_util.keystr(path)} is {old.dtype}; the average is kept in float32")
        # Written as a step so that a student equal to the teacher leaves it bit for bit as it is.
        return old + fraction * (new.astype(jnp.float32) - old)

    return jax.tree_util.tree_map_with_path(move, teacher, student)


def cosine_momentum(base: float, step: ArrayLike, num_steps: int) -> Array:
    """Momentum that rises from `base` to 1 along a half cosine over `num_steps` (BYOL, arXiv 2006.07733, section 3)."""
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / num_steps, 0.0, 1.0)
    return 1.0 - (1.0 - base) * (jnp.cos(jnp.pi * progress) + 1.0) / 2.0


def linear_momentum(base: float, step: ArrayLike, num_steps: int) -> Array:
    """Momentum that rises from `base` to 1 evenly over `num_steps` (V-JEPA's public code, arXiv 2404.08471)."""
    return base + (1.0 - base) * jnp.clip(jnp.asarray(step, jnp.float32) / num_steps, 0.0, 1.0)


# By the name of the schedule: (base, step, num_steps) -> momentum.
MOMENTA = {"constant": lambda base, step, num_steps: base, "cosine": cosine_momentum, "linear": linear_momentum}


def distance(teacher: Tree, student: Tree) -> Array:
    """Relative L2 distance |teacher - student| / |student| over all leaves, float32 scalar."""
    gaps = jax.tree.map(lambda t, s: t - s.astype(t.dtype), teacher, student)
    return optax.tree.norm(gaps) / jnp.maximum(optax.tree.norm(student), 1e-6)
