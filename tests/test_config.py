"""Configuration: every fault named with its key, every shipped config whole."""

import importlib

import jax
import pytest

from wt_jax.config import ConfigError, default_config, resolve, steps_of, to_dict
from wt_jax.methods import METHODS, build_method
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.step import batch_shapes, make_init, make_step

SHIPPED = ("folder", "k400", "quickstart", "ssv2", "ucf101")


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "weak_teacher") for name in SHIPPED), *(("quickstart", method) for method in METHODS)]
)
def test_every_shipped_config_makes_a_state_and_a_step(name, method):
    config = resolve(importlib.import_module(f"configs.{name}").get_config(method))
    built = build_method(config, 100)
    schedule = learning_rate(config.optim, batch_size=config.train.batch_size, num_steps=100, steps_per_epoch=10)
    optimizer = make_optimizer(config.optim, schedule)
    state = jax.eval_shape(make_init(built, optimizer, 0), {})
    step = make_step(built, optimizer, schedule, seed=0)
    after, metrics = jax.eval_shape(step, state, batch_shapes(built, config.train.batch_size))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["loss"].shape == ()
    header = importlib.import_module(f"configs.{name}").__doc__
    assert "Command:" in header


@pytest.mark.parametrize("name", SHIPPED)
def test_config_survives_json(name):
    import json

    config = resolve(importlib.import_module(f"configs.{name}").get_config())
    assert resolve(json.loads(json.dumps(to_dict(config)))) == config


def broken(**changes):
    config = default_config().copy_and_resolve_references()
    config.unlock()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__batch_sise": 8}, r"config\.train\.batch_sise.*'batch_size'"),
        ({"trian": 1}, r"config\.trian.*'train'"),
        ({"method__label_wieght": 0.1}, r"config\.method\.label_wieght.*'label_weight'"),
        ({"method_name": "weak_techer"}, "'weak_teacher'"),
        ({"model__name": "r3d_19"}, r"config\.model.*r3d_18"),
        ({"train__batch_size": "many"}, r"config\.train\.batch_size must be int"),
        ({"method__queue_size": 1000}, "queue_size 1000 is not a multiple"),
        ({"method__label_weight": 1.5}, r"config\.method\.label_weight must lie in"),
        ({"method__label": "strong"}, r"config\.method\.label must be one of"),
        ({"train__accumulate": 3}, "accumulate 3"),
        ({"train__duration": "ten years"}, "'ten years' is not understood"),
        ({"views__strong__area": (0.5, 0.2)}, r"area must be \(low, high\)"),
        ({"views__test__crop": "random"}, r"config\.views\.test\.crop"),
        ({"optim__name": "sdg"}, r"config\.optim\.name"),
        ({"clip__num_frames": 0}, "num_frames must be 1 or more"),
    ],
)
def test_a_fault_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(broken(**changes))


def test_durations():
    assert steps_of("20 steps", steps_per_epoch=7) == 20
    assert steps_of("1.5 epochs", steps_per_epoch=10) == 15
    assert steps_of("5 %", steps_per_epoch=10, total=200) == 10
    with pytest.raises(ConfigError, match="not understood"):
        steps_of("5 %", steps_per_epoch=10)


def test_an_integer_may_stand_for_a_float_but_not_the_reverse():
    assert resolve(broken(optim__learning_rate=1)).optim.learning_rate == 1.0
    with pytest.raises(ConfigError, match="must be int"):
        resolve(broken(train__batch_size=8.5))
