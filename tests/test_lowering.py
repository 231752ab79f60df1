"""Programs for platforms that are not here: every method and backbone, lowered for TPUs and NVIDIA GPUs.

Each contains what is meant for its platform and nothing of another one's: no call of the CPU runtime, and cuDNN's attention
only in a CUDA program, of half precision, with heads that it takes.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import BATCH, parts, small_config

from wt_jax.config import ModelConfig
from wt_jax.kernels import operations
from wt_jax.methods import METHODS
from wt_jax.models import MODELS, build_encoder
from wt_jax.ops.attention import as_on_gpu, attention
from wt_jax.ops.conv3d import conv3d
from wt_jax.train.step import batch_shapes, make_step

CUDNN = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
# What JAX itself calls: notes for the partitioner, and on a GPU the drawing of random numbers.
OF_JAX = {"Sharding", "cu_threefry2x32_ffi"}
# Together these have every operation that has a form of its own per platform; the others are lowered in slow tests.
FAST_METHODS = {"weak_teacher", "videomae", "video_speech"}
FAST_MODELS = {"s3dg", "slow_r50", "small_vit"}

pytestmark = pytest.mark.usefixtures("native", "promotion")


@pytest.fixture
def promotion():
    """JAX's attention in half precision widens some numbers implicitly, also where its gradient is lowered."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def some(names, fast):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names if not name.startswith("tiny")]


def calls(traced, platform):
    """Targets of the custom calls in the program for a platform, without JAX's own."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return set(re.findall(r"custom_call @([\w.$]+)", text)) - OF_JAX


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


@pytest.mark.parametrize("name", some(METHODS, FAST_METHODS))
def test_the_step_of_a_method_has_no_call_of_another_platform(name):
    method, optimizer, schedule, init, pretrained = parts(small_config(name))
    state = jax.eval_shape(init, pretrained)
    traced = jax.jit(make_step(method, optimizer, schedule, seed=0)).trace(state, batch_shapes(method, BATCH))
    assert calls(traced, "tpu") == set()
    assert calls(traced, "cuda") == set()


@pytest.mark.parametrize("name", some(MODELS, FAST_MODELS))
def test_a_backbone_has_cudnn_in_cuda_alone_and_only_for_attention(name):
    encoder, clips = build_encoder(ModelConfig(name, dtype="bfloat16")), shape(2, 4, 32, 32, 3)
    with as_on_gpu():
        variables = jax.eval_shape(lambda clips: encoder.init(jax.random.key(0), clips, False), clips)

        def loss(variables, clips):
            return encoder.apply(variables, clips, True, mutable=["batch_stats"])[0].sum()

        traced = jax.jit(jax.grad(loss)).trace(variables, clips)
    assert calls(traced, "tpu") == set()
    assert calls(traced, "cuda") == (CUDNN if "vit" in name else set())


def test_a_call_of_the_runtime_in_the_default_branch_is_seen(monkeypatch):
    arrays = shape(1, 2, 4, 4, 3), shape(1, 3, 3, 3, 4)
    window = {"strides": (1, 1, 1), "padding": ((0, 0), (1, 1), (1, 1))}

    def traced():
        return jax.jit(lambda x, kernel: conv3d(x, kernel, **window)).trace(*arrays)

    assert calls(traced(), "tpu") == set()
    assert calls(traced(), "cpu") == {operations.TARGET}
    monkeypatch.setattr("wt_jax.ops.conv3d.dispatch", lambda native, portable, *arrays, default: native(*arrays))
    assert calls(traced(), "tpu") == calls(traced(), "cuda") == {operations.TARGET}


@pytest.mark.parametrize(
    ("dtype", "head", "expected"),
    [
        ("bfloat16", 64, CUDNN),
        ("bfloat16", 128, CUDNN),
        ("float32", 64, set()),
        ("bfloat16", 12, set()),
        ("bfloat16", 136, set()),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_is_asked_for_where_it_can_run(dtype, head, expected, causal):
    tokens = [shape(2, 6, 3, head, dtype=dtype)] * 3

    def loss(*tokens):
        return attention(*tokens, causal=causal).sum()

    with as_on_gpu():
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*tokens)
    assert calls(traced, "cuda") == expected
    assert calls(traced, "tpu") == calls(traced, "cpu") == set()
    assert calls(jax.jit(jax.grad(loss, (0, 1, 2))).trace(*tokens), "cuda") == set(), "no GPU is here"


def test_the_choice_of_attention_costs_no_memory_and_changes_nothing():
    tokens = [jax.random.normal(jax.random.key(i), (2, 128, 2, 8), jnp.bfloat16) for i in range(3)]

    def loss(*tokens):
        return jnp.square(attention(*tokens)).sum()

    plain = jax.jit(jax.grad(loss)).lower(*tokens).compile()
    with as_on_gpu():
        chosen = jax.jit(jax.grad(loss)).lower(*tokens).compile()
    assert chosen.memory_analysis().temp_size_in_bytes <= plain.memory_analysis().temp_size_in_bytes
    np.testing.assert_array_equal(np.float32(chosen(*tokens)), np.float32(plain(*tokens)))
