"""Configuration: every fault named with its key, every shipped config whole."""

import importlib
import sys
import types
from pathlib import Path

import jax
import pytest
from support.training import name_folders

from wt_jax.config import steps_of, to_dict
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method, default_config, resolve
from wt_jax.methods import METHODS
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.program import load_pretrained
from wt_jax.train.step import batch_shapes, make_init, make_step

SHIPPED = ("folder", "k400", "quickstart", "ssv2", "ucf101")
CASES = [*((name, "weak_teacher") for name in SHIPPED), *(("quickstart", method) for method in METHODS)]


@pytest.mark.parametrize(("name", "method"), [*CASES, ("supervised", "")])
def test_every_shipped_config_makes_a_state_and_a_step(name, method):
    config = importlib.import_module(f"configs.{name}").get_config(*filter(None, [method]))
    name_folders(config)
    config = resolve(config)
    built = build_method(config, 100, num_classes=2)
    schedule = learning_rate(config.optim, batch_size=config.train.batch_size, num_steps=100, steps_per_epoch=10)
    optimizer = make_optimizer(config.optim, schedule, frozen=built.needs.frozen)
    state = jax.eval_shape(make_init(built, optimizer, 0), load_pretrained(built))
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


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_serves_every_method(name):
    for method in METHODS:
        config = importlib.import_module(f"configs.{name}").get_config(method)
        name_folders(config)
        config = resolve(config)
        assert config.method_name == method
        assert build_method(config, 100).views


def broken(method="weak_teacher", **changes):
    config = default_config(method).copy_and_resolve_references()
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
        (
            {"method__queue__size": 1000},
            r"config\.method\.queue\.size 1000 is not a multiple of .*batch_size 256; try 1024",
        ),
        ({"method__label_weight": 1.5}, r"config\.method\.label_weight must lie in"),
        ({"method__label": "strong"}, r"config\.method\.label must be one of"),
        ({"train__accumulate": 3}, "accumulate 3"),
        ({"train__duration": "ten years"}, "'ten years' is not understood"),
        ({"views__strong__area": (0.5, 0.2)}, r"area must be \(low, high\)"),
        ({"views__test__crop": "random"}, r"config\.views\.test\.crop"),
        ({"optim__name": "sdg"}, r"config\.optim\.name"),
        ({"optim__layer_decay": 0.0}, r"config\.optim\.layer_decay must lie in \(0, 1\]"),
        ({"clip__num_frames": 0}, "num_frames must be 1 or more"),
        ({"data__cache_gib": -1.0}, r"config\.data\.cache_gib must be 0 or more, got -1\.0"),
    ],
)
def test_a_fault_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(broken(**changes))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (
            "swav",
            {"train__batch_size": 64, "method__queue__size": 0},
            r"config\.method: prototypes 3000 .*3000 clips or more .*got 64",
        ),
        ("simclr", {"train__batch_size": 1}, r"config\.method: negatives come from the batch"),
        ("hdc", {"train__batch_size": 4, "train__accumulate": 4}, r"config\.method: negatives come from the batch"),
        ("moco", {"train__batch_size": 1, "method__queue__size": 0}, r"config\.method: negatives come from the batch"),
        ("moco", {"method__clips": 1}, r"config\.method\.clips must be 2 or more"),
        ("byol", {"method__teacher__momentum": 1.5}, r"config\.method\.teacher\.momentum must lie in"),
        ("seed", {"method__teacher_temperature": 0.0}, r"config\.method\.teacher_temperature must be above 0"),
        ("modist", {"method__motion": "depth"}, r"config\.method\.motion must be one of"),
        ("vtdl", {"method__queue__size": 5000}, r"queue\.size 5000 is not a multiple"),
        ("hdc", {"method__layers": "stem1"}, r"config\.method\.layers must be tuple"),
    ],
)
def test_a_fault_of_a_method_is_named(method, changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(broken(method, **changes))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("seed", {}, r"config\.method\.teacher_weights is empty"),
        ("modist", {"clip__stride": 1.0}, r"config\.method\.motion_rate 2"),
        ("hdc", {"method__layers": ("stem9",)}, r"config\.method\.layers.*'stem9'.*stem1"),
    ],
)
def test_what_a_method_cannot_do_with_a_configuration_is_an_error(method, changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(broken(method, **changes))


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


def test_the_worked_example_of_the_docs_is_a_method(monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "examples" / "new_method.md").read_text()
    file, line, _ = (block.split("```")[0] for block in page.split("```python\n")[1:])  # the last one trains: test_examples.py
    names: dict = {"__name__": "example"}
    monkeypatch.setitem(sys.modules, "example", types.ModuleType("example"))  # dataclasses look their module up
    monkeypatch.setitem(METHODS, "simsiam", None)  # so that it is taken away afterwards
    exec(file, names)
    exec(line, names)
    test_every_shipped_config_makes_a_state_and_a_step("quickstart", "simsiam")
