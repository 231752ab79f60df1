"""The public losses against naive NumPy, their limits and their gradients."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.losses import (
    artificial_labels,
    info_nce,
    label_smoothing,
    relational_loss,
    similarity_logits,
    soft_cross_entropy,
    weak_teacher_loss,
)

B, K, D = 5, 12, 16


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "query": unit(rng, B, D),
        "key": unit(rng, B, D),
        "weak_key": unit(rng, B, D),
        "strong_queue": unit(rng, K, D),
        "weak_queue": unit(rng, K, D),
    }


@pytest.fixture
def mask():
    allowed = np.random.default_rng(1).random((B, K)) > 0.3
    allowed[0] = False  # a row without any negative
    return allowed


def reference_labels(weak_key, weak_queue, temperature, weight, mask):
    """Row by row, slot by slot, in float64."""
    labels = np.zeros((len(weak_key), 1 + len(weak_queue)))
    for i, w in enumerate(weak_key.astype(np.float64)):
        scores = [np.exp(w @ other / temperature) if mask[i, j] else 0.0 for j, other in enumerate(weak_queue)]
        total = sum(scores)
        labels[i, 0] = 1.0 if total == 0 else 1.0 - weight
        for j, score in enumerate(scores):
            labels[i, 1 + j] = 0.0 if total == 0 else weight * score / total
    return labels


def reference_log_p(query, key, queue, temperature, mask):
    rows = np.full((len(query), 1 + len(queue)), -np.inf)
    for i, q in enumerate(query.astype(np.float64)):
        rows[i, 0] = q @ key[i] / temperature
        for j, other in enumerate(queue):
            if mask[i, j]:
                rows[i, 1 + j] = q @ other / temperature
        rows[i] -= np.log(np.exp(rows[i]).sum())
    return rows


def reference_loss(a, mask, *, temperature=0.07, weak_temperature=0.07, label_weight=0.2):
    y = reference_labels(a["weak_key"], a["weak_queue"], weak_temperature, label_weight, mask)
    log_p = reference_log_p(a["query"], a["key"], a["strong_queue"], temperature, mask)
    return -(y * np.where(y > 0, log_p, 0.0)).sum(axis=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.2, 0.7, 1.0])
def test_weak_teacher_loss_equals_numpy(arrays, mask, masked, weight):
    used = mask if masked else np.ones((B, K), bool)
    settings = {"temperature": 0.1, "weak_temperature": 0.05, "label_weight": weight}
    with jax.numpy_dtype_promotion("strict"):
        loss = jax.jit(lambda a, m: weak_teacher_loss(**a, mask=m, **settings))(arrays, used if masked else None)
    assert loss.shape == (B,)
    assert loss.dtype == jnp.float32
    # 1e-6 of the values' size: losses here reach about 10, where float32 itself steps by 1e-6.
    np.testing.assert_allclose(loss, reference_loss(arrays, used, **settings), rtol=1e-6, atol=1e-6)


def test_signatures_are_the_promised_ones():
    names = list(inspect.signature(weak_teacher_loss).parameters)
    assert names[:5] == ["query", "key", "weak_key", "strong_queue", "weak_queue"]
    assert names[5:] == ["temperature", "weak_temperature", "label_weight", "mask", "include_positive"]
    defaults = {k: p.default for k, p in inspect.signature(weak_teacher_loss).parameters.items()}
    assert (defaults["temperature"], defaults["weak_temperature"], defaults["label_weight"]) == (0.07, 0.07, 0.2)
    assert inspect.signature(info_nce).parameters["temperature"].default == 0.07


def test_limit_no_weight_is_info_nce(arrays, mask):
    loss = weak_teacher_loss(**arrays, label_weight=0.0, mask=mask)
    expected = info_nce(arrays["query"], arrays["key"], arrays["strong_queue"], mask=mask)
    np.testing.assert_array_equal(loss, expected)


def test_limit_uniform_labels_is_label_smoothing(arrays, mask):
    same = {**arrays, "weak_queue": np.repeat(arrays["weak_queue"][:1], K, axis=0)}
    logits = similarity_logits(arrays["query"], arrays["key"], arrays["strong_queue"], temperature=0.07, mask=mask)
    expected = soft_cross_entropy(logits, label_smoothing(mask, label_weight=0.3))
    np.testing.assert_allclose(weak_teacher_loss(**same, label_weight=0.3, mask=mask), expected, atol=1e-6, rtol=1e-6)


def test_limit_infinite_temperature_is_label_smoothing(arrays):
    labels = artificial_labels(arrays["weak_key"], arrays["weak_queue"], temperature=np.inf, label_weight=0.3, mask=None)
    np.testing.assert_allclose(labels, label_smoothing(np.ones((B, K), bool), label_weight=0.3), atol=1e-7)


def test_limit_full_weight_leaves_only_relations(arrays):
    labels = artificial_labels(arrays["weak_key"], arrays["weak_queue"], temperature=0.1, label_weight=1.0)
    np.testing.assert_allclose(labels[:, 0], 0.0, atol=1e-6)
    log_p = reference_log_p(arrays["query"], arrays["key"], arrays["strong_queue"], 0.07, np.ones((B, K), bool))
    expected = -(np.asarray(labels) * log_p).sum(axis=1)
    loss = weak_teacher_loss(**arrays, weak_temperature=0.1, label_weight=1.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)


def test_labels_sum_to_one_and_spare_excluded_slots(arrays, mask):
    labels = np.asarray(
        artificial_labels(arrays["weak_key"], arrays["weak_queue"], temperature=0.01, label_weight=0.4, mask=mask)
    )
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    assert (labels[:, 1:][~mask] == 0).all()
    np.testing.assert_array_equal(labels[0], [1.0] + [0.0] * K)


def test_gradient_is_p_minus_y_over_temperature(arrays, mask):
    temperature = 0.1
    # A queue of unit vectors makes the gradient by the query the gradient by the similarities.
    basis = {**arrays, "strong_queue": np.eye(D, dtype=np.float32)[:K], "key": np.eye(D, dtype=np.float32)[K : K + 1]}
    basis["key"] = np.repeat(basis["key"], B, axis=0)

    def total(query):
        settings = {"temperature": temperature, "label_weight": 0.3, "mask": mask}
        return weak_teacher_loss(**{**basis, "query": query}, **settings).sum()

    y = reference_labels(arrays["weak_key"], arrays["weak_queue"], 0.07, 0.3, mask)
    p = np.exp(reference_log_p(arrays["query"], basis["key"], basis["strong_queue"], temperature, mask))
    expected = (p - y) / temperature
    gradient = jax.grad(total)(arrays["query"])
    np.testing.assert_allclose(gradient[:, :K], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(gradient[:, K], expected[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["key", "weak_key", "strong_queue", "weak_queue"])
def test_nothing_flows_into_a_teacher(arrays, name):
    def total(value):
        return weak_teacher_loss(**{**arrays, name: value}).sum()

    assert not jax.grad(total)(arrays[name]).any()


def test_relational_loss_is_ressl_with_one_queue(arrays):
    q, w, queue = arrays["query"].astype(np.float64), arrays["weak_key"], arrays["weak_queue"].astype(np.float64)
    expected = []
    for i in range(B):
        target = np.exp(queue @ w[i] / 0.04)
        p = np.exp(queue @ q[i] / 0.1)
        expected.append(-(target / target.sum() * np.log(p / p.sum())).sum())
    loss = relational_loss(arrays["query"], w, arrays["weak_queue"], arrays["weak_queue"])
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)


def test_a_row_without_negatives_has_no_loss(arrays, mask):
    assert abs(float(weak_teacher_loss(**arrays, mask=mask)[0])) < 1e-6
    names = ("query", "weak_key", "strong_queue", "weak_queue")
    assert float(relational_loss(*(arrays[n] for n in names), mask=mask)[0]) == 0


def test_bfloat16_embeddings_are_compared_in_float32(arrays):
    coarse = {name: jnp.asarray(value, jnp.bfloat16) for name, value in arrays.items()}
    fine = {name: value.astype(jnp.float32) for name, value in coarse.items()}
    assert weak_teacher_loss(**coarse).dtype == jnp.float32
    np.testing.assert_array_equal(weak_teacher_loss(**coarse), weak_teacher_loss(**fine))


def test_label_weight_may_be_traced(arrays):
    loss = jax.jit(lambda weight: weak_teacher_loss(**arrays, label_weight=weight))(jnp.float32(0.2))
    np.testing.assert_allclose(loss, weak_teacher_loss(**arrays), rtol=1e-6)


@pytest.mark.parametrize("module", ["byol", "contrastive", "swav", "targets"])
def test_examples_in_docstrings(module):
    import doctest
    import importlib

    result = doctest.testmod(importlib.import_module(f"wt_jax.losses.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
