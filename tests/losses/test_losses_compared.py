"""The rivals' losses against naive NumPy in float64, their limits, and where gradient may flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.losses import (
    byol_loss,
    clsa_loss,
    co2_loss,
    consistency,
    in_batch_info_nce,
    info_nce,
    invariance_weights,
    label_smoothing,
    modist_loss,
    modist_terms,
    nt_xent,
    relational_loss,
    relations,
    seed_loss,
    similarity_labels,
    similarity_logits,
    sinkhorn,
    soft_cross_entropy,
    swapped_prediction,
    vtdl_loss,
)

B, K, D, P, V = 5, 12, 16, 6, 3
T, S = 0.2, 0.11  # two temperatures that are no default


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def a():
    rng = np.random.default_rng(0)
    names = {"q": B, "q2": B, "k": B, "k2": B, "n": B, "Q": K, "Q2": K}
    return {name: unit(rng, rows, D) for name, rows in names.items()}


@pytest.fixture
def mask():
    allowed = np.random.default_rng(1).random((B, K)) > 0.3
    allowed[0] = False  # a row without any negative
    return allowed


def check(loss, expected):
    assert loss.dtype == jnp.float32
    # 1e-6 of the values' size: where they reach about 10, float32 itself steps by 1e-6.
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)


def strict(function, *arguments, **options):
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(lambda *x: function(*x, **options))(*arguments)


def nce(q, k, queue, t, allowed=None, extra=()):
    q, k, queue = (x.astype(np.float64) for x in (q, k, queue))
    losses = []
    for i in range(len(q)):
        good = np.exp(q[i] @ k[i] / t)
        bad = sum(np.exp(q[i] @ row / t) for j, row in enumerate(queue) if allowed is None or allowed[i, j])
        bad += sum(np.exp(q[i] @ x[i].astype(np.float64) / t) for x in extra)
        losses.append(-np.log(good / (good + bad)))
    return np.array(losses)


def shares(anchor, rows, t, allowed=None):
    """softmax over the allowed rows, one anchor."""
    scores = np.array([np.exp((anchor @ row - 1.0) / t) for row in rows])
    if allowed is not None:
        scores = scores * allowed
    return scores / scores.sum() if scores.sum() else scores


def test_nt_xent_equals_numpy(a):
    views = np.stack([a["q"], a["k"], a["n"]], axis=1).astype(np.float64)
    expected = []
    for i in range(B):
        total = []
        others = [views[j, v] for j in range(B) if j != i for v in range(V)]
        for v in range(V):
            bad = sum(np.exp(views[i, v] @ other / T) for other in others)
            for w in range(V):
                if w != v:
                    good = np.exp(views[i, v] @ views[i, w] / T)
                    total.append(-np.log(good / (good + bad)))
        expected.append(np.mean(total))
    check(strict(nt_xent, views.astype(np.float32), temperature=T), expected)


def test_nt_xent_of_two_views_is_info_nce_both_ways(a):
    pair = np.stack([a["q"], a["k"]], axis=1)
    every, others = pair.reshape(-1, D), ~np.repeat(np.eye(B, dtype=bool), 2, axis=1)
    both = [info_nce(x, y, every, temperature=T, mask=others) for x, y in ((a["q"], a["k"]), (a["k"], a["q"]))]
    check(nt_xent(pair, temperature=T), np.mean(both, axis=0))


def test_byol_loss_equals_numpy_and_its_limits(a):
    check(strict(byol_loss, a["q"], a["k"]), np.square(a["q"].astype(np.float64) - a["k"]).sum(axis=1))
    np.testing.assert_allclose(byol_loss(a["q"], a["q"]), 0.0, atol=1e-6)
    np.testing.assert_allclose(byol_loss(a["q"], -a["q"]), 4.0, atol=1e-6)


def naive_sinkhorn(scores, epsilon, iterations):
    codes = np.exp(scores.astype(np.float64) / epsilon)
    codes /= codes.sum()
    for _ in range(iterations):
        for j in range(codes.shape[1]):
            codes[:, j] /= codes[:, j].sum() * codes.shape[1]
        for i in range(codes.shape[0]):
            codes[i] /= codes[i].sum() * codes.shape[0]
    return codes * codes.shape[0]


def test_sinkhorn_equals_numpy_and_uses_all_prototypes(a):
    scores = a["Q"] @ a["q"].T
    check(strict(sinkhorn, scores, epsilon=0.3, iterations=3), naive_sinkhorn(scores, 0.3, 3))
    codes = np.asarray(sinkhorn(scores, epsilon=0.3, iterations=100))
    np.testing.assert_allclose(codes.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(codes.sum(axis=0), K / B, atol=1e-4)
    assert np.isfinite(sinkhorn(scores * 100, epsilon=0.001)).all()


def test_sinkhorn_leaves_invalid_rows_out(a):
    scores, valid = a["Q"] @ a["q"].T, np.arange(K) < 8
    codes = sinkhorn(scores, epsilon=0.3, valid=jnp.asarray(valid))
    check(codes[:8], naive_sinkhorn(scores[:8], 0.3, 3))


def test_swapped_prediction_equals_numpy(a):
    scores = a["q"] @ a["Q"][:P].T
    codes = naive_sinkhorn(a["k"] @ a["Q"][:P].T, 0.3, 3).astype(np.float32)
    p = np.exp(scores.astype(np.float64) / T)
    p /= p.sum(axis=1, keepdims=True)
    check(strict(swapped_prediction, scores, codes, temperature=T), -(codes * np.log(p)).sum(axis=1))


@pytest.mark.parametrize("masked", [False, True])
def test_relational_losses_equal_numpy(a, mask, masked):
    allowed, given = (mask, mask) if masked else (np.ones((B, K), bool), None)
    wide = {name: value.astype(np.float64) for name, value in a.items()}
    ressl, clsa, co2, seed = [], [], [], []
    for i in range(B):
        row = allowed[i]
        target, p = shares(wide["k"][i], wide["Q2"], S, row), shares(wide["q"][i], wide["Q"], T, row)
        ressl.append(-(target[row] * np.log(p[row])).sum())
        slots, open_ = np.concatenate([wide["k"][i][None], wide["Q"]]), np.append(True, row)
        target, p = shares(wide["q2"][i], slots, S, open_), shares(wide["q"][i], slots, S, open_)
        clsa.append(-(target[open_] * np.log(p[open_])).sum())
        p, q = shares(wide["k"][i], wide["Q"], S, row)[row], shares(wide["q"][i], wide["Q"], S, row)[row]
        co2.append(0.5 * (p * np.log(p / q)).sum() + 0.5 * (q * np.log(q / p)).sum())
        target, p = shares(wide["k"][i], slots, S, open_), shares(wide["q"][i], slots, T, open_)
        seed.append(-(target[open_] * np.log(p[open_])).sum())
    q, k, queue = a["q"], a["k"], a["Q"]
    check(strict(relational_loss, q, k, queue, a["Q2"], temperature=T, weak_temperature=S, mask=given), ressl)
    hard = nce(a["q2"], k, queue, T, allowed)
    options = {"temperature": T, "mask": given}
    check(strict(clsa_loss, q, a["q2"], k, queue, divergence_temperature=S, weight=0.7, **options), hard + 0.7 * np.array(clsa))
    hard = nce(q, k, queue, T, allowed)
    check(strict(co2_loss, q, k, queue, consistency_temperature=S, weight=0.7, **options), hard + 0.7 * np.array(co2))
    check(strict(seed_loss, q, k, queue, teacher_temperature=S, **options), seed)


def test_the_relatives_are_choices_of_the_target(a, mask):
    """One soft cross-entropy; the target makes the method."""
    logits = similarity_logits(a["q"], a["k"], a["Q"], temperature=T, mask=mask)
    one_hot = soft_cross_entropy(logits, label_smoothing(mask, label_weight=0.0))
    check(one_hot, info_nce(a["q"], a["k"], a["Q"], temperature=T, mask=mask))
    labels = similarity_labels(a["k"], a["k"], a["Q"], temperature=S, mask=mask)
    check(
        soft_cross_entropy(logits, labels), seed_loss(a["q"], a["k"], a["Q"], temperature=T, teacher_temperature=S, mask=mask)
    )
    labels = similarity_labels(a["k"], None, a["Q"], temperature=S, mask=mask)[1:, 1:]
    ressl = relational_loss(a["q"], a["k"], a["Q"], a["Q"], temperature=T, weak_temperature=S, mask=mask)
    check(soft_cross_entropy(logits[1:, 1:], labels), ressl[1:])


def test_limits_of_the_relatives_are_info_nce(a, mask):
    expected = info_nce(a["q"], a["k"], a["Q"], temperature=T, mask=mask)
    arguments = (a["q"], a["k"], a["Q"])
    check(clsa_loss(a["n"], *arguments, temperature=T, weight=0.0, mask=mask), expected)
    check(co2_loss(*arguments, temperature=T, weight=0.0, mask=mask), expected)
    check(seed_loss(*arguments, temperature=T, teacher_temperature=1e-4, mask=mask), expected)
    check(consistency(a["q"], a["q"], a["Q"], temperature=S, mask=mask), np.zeros(B))


def test_targets_sum_to_one(a, mask):
    labels = np.asarray(similarity_labels(a["q"], a["k"], a["Q"], temperature=S, mask=mask))
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    assert (labels[:, 1:][~mask] == 0).all()
    rows = np.asarray(relations(a["q"], a["Q"], temperature=S, mask=mask)).sum(axis=1)
    np.testing.assert_allclose(rows, [0, 1, 1, 1, 1], atol=1e-6)


def test_vtdl_loss_equals_numpy_and_its_limit(a, mask):
    arguments = (a["q"], a["k"], a["n"], a["Q"])
    loss = strict(vtdl_loss, *arguments, temperature=T, mask=mask)
    check(loss, nce(a["q"], a["k"], a["Q"], T, mask, extra=(a["n"],)))
    far = vtdl_loss(a["q"], a["k"], -50 * a["q"], a["Q"], temperature=T, mask=mask)
    check(far, info_nce(a["q"], a["k"], a["Q"], temperature=T, mask=mask))


def test_modist_terms_equal_numpy_and_their_limit(a, mask):
    queries, keys = {"visual": a["q"], "motion": a["q2"]}, {"visual": a["k"], "motion": a["k2"]}
    queues = {"visual": a["Q"], "motion": a["Q2"]}
    terms = strict(modist_terms, queries, keys, queues, temperature=T, mask=mask)
    expected = {f"{q}_{k}": nce(queries[q], keys[k], queues[k], T, mask) for q in queries for k in keys}
    assert set(terms) == set(expected)
    for name, value in expected.items():
        check(terms[name], value)
    total = expected["visual_visual"] + 0.3 * expected["motion_motion"]
    total = total + 0.6 * (expected["visual_motion"] + expected["motion_visual"])
    check(modist_loss(terms, motion_weight=0.3, cross_weight=0.6), total)
    check(modist_loss(terms, cross_weight=0.0), info_nce(a["q"], a["k"], a["Q"], temperature=T, mask=mask))


def test_in_batch_info_nce_equals_numpy(a):
    video = np.array([0, 1, 2, 1, 4], np.int32)
    others = video[:, None] != video[None, :]
    expected = nce(a["q"], a["k"], a["k"], T, others, extra=(a["n"],))
    check(strict(in_batch_info_nce, a["q"], a["k"], negative=a["n"], temperature=T, video=video), expected)
    check(in_batch_info_nce(a["q"], a["k"], temperature=T), nce(a["q"], a["k"], a["k"], T, ~np.eye(B, dtype=bool)))


def test_invariance_weights():
    np.testing.assert_allclose(invariance_weights(jnp.array([0.1, 0.3, 0.6])), [0.1, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(invariance_weights(jnp.array([0.5, 0.5])), 0.5)
    np.testing.assert_allclose(invariance_weights(jnp.array([-1.0, 0.15]), floor=0.05), [0.25, 0.75], rtol=1e-6)


FLOWS = [  # loss, arguments, those that receive a gradient
    (byol_loss, ("q", "k"), {0}),
    (co2_loss, ("q", "k", "Q"), {0}),
    (clsa_loss, ("q", "q2", "k", "Q"), {0, 1}),
    (relational_loss, ("q", "k", "Q", "Q2"), {0}),
    (seed_loss, ("q", "k", "Q"), {0}),
    (vtdl_loss, ("q", "k", "n", "Q"), {0, 2}),
    (in_batch_info_nce, ("q", "k"), {0, 1}),
]


@pytest.mark.parametrize(("loss", "names", "flows"), FLOWS, ids=lambda x: getattr(x, "__name__", ""))
def test_gradient_flows_where_it_may(a, loss, names, flows):
    arguments = [a[name] for name in names]
    places = tuple(range(len(arguments)))
    gradients = jax.jit(jax.grad(lambda *x: loss(*x).sum(), argnums=places))(*arguments)
    assert {place for place, gradient in enumerate(gradients) if np.any(gradient)} == flows


def test_weak_view_learns_nothing_from_the_strong_one_in_clsa(a):
    def gradient(weight):
        return jax.grad(lambda weak: clsa_loss(a["q"], weak, a["k"], a["Q"], weight=weight).sum())(a["q2"])

    np.testing.assert_allclose(gradient(0.0), gradient(5.0), atol=1e-7)


def test_codes_and_queries_of_modist_alone_receive_gradient(a):
    scores = a["q"] @ a["Q"][:P].T
    assert not jax.grad(lambda s: sinkhorn(s)[0, 0])(scores).any()
    codes = sinkhorn(scores)
    assert not jax.grad(lambda c: swapped_prediction(scores, c).sum())(codes).any()

    def total(queries, keys, queues):
        return modist_loss(modist_terms(queries, keys, queues), motion_weight=1.0).sum()

    pairs = (
        {"visual": a["q"], "motion": a["q2"]},
        {"visual": a["k"], "motion": a["k2"]},
        {"visual": a["Q"], "motion": a["Q2"]},
    )
    queries, keys, queues = jax.grad(total, argnums=(0, 1, 2))(*pairs)
    assert all(g.any() for g in queries.values())
    assert not any(g.any() for g in (*keys.values(), *queues.values()))
