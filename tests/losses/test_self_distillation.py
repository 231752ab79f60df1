"""Self-distillation: loops over pairs in float64, limits and invariants, the official code where it is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.losses.self_distillation import concept_distillation, move_center, patch_distillation, self_distillation, sharpened

B, V, G, K = 3, 5, 2, 7
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(size=(B, n, K)).astype(np.float32) for n in (V, G))
CENTER = RNG.normal(size=K).astype(np.float32)


def log_softmax(x):
    x = x.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def naive(student, teacher, center, t_student, t_teacher):
    total = np.zeros(len(student))
    for b in range(len(student)):
        pairs = []
        for g in range(teacher.shape[1]):
            p = np.exp(log_softmax((teacher[b, g].astype(np.float64) - center) / t_teacher))
            pairs += [-(p * log_softmax(student[b, v] / t_student)).sum() for v in range(student.shape[1]) if v != g]
        total[b] = np.mean(pairs)
    return total


def test_by_loops_over_pairs():
    found = self_distillation(STUDENT, sharpened(TEACHER, CENTER, 0.3), temperature=0.5)
    np.testing.assert_allclose(found, naive(STUDENT, TEACHER, CENTER, 0.5, 0.3), rtol=1e-5)


def test_limits():
    one = np.ones((B, V, 1), np.float32)
    assert not np.any(self_distillation(one, sharpened(one[:, :G], one[0, 0], 0.1)))
    assert not np.any(jax.grad(lambda s: self_distillation(s, sharpened(one[:, :G], one[0, 0], 0.1)).sum())(one))
    same = np.repeat(STUDENT[:, :1], G, axis=1)
    entropy = [-(np.exp(log_softmax(row[0] / 0.2)) * log_softmax(row[0] / 0.2)).sum() for row in same]
    target = sharpened(same, np.zeros(K, np.float32), 0.2)
    np.testing.assert_allclose(self_distillation(same, target, temperature=0.2), entropy, rtol=1e-5)  # two globals: two pairs
    plain = sharpened(TEACHER, CENTER, 0.3)
    np.testing.assert_allclose(sharpened(TEACHER, CENTER + 3, 0.3), plain, atol=1e-6)
    hard = sharpened(TEACHER, CENTER, 1e-4)
    np.testing.assert_allclose(hard, np.eye(K)[np.argmax(TEACHER - CENTER, axis=-1)], atol=1e-6)
    order = [0, 1, 4, 2, 3]  # of the locals
    np.testing.assert_allclose(self_distillation(STUDENT[:, order], plain), self_distillation(STUDENT, plain), rtol=1e-5)
    assert not np.any(jax.grad(lambda t: self_distillation(STUDENT, sharpened(t, CENTER, 0.3)).sum())(TEACHER))


def test_center_is_a_running_mean_of_all_rows():
    center = np.zeros(K, np.float32)
    for _ in range(5):
        center = move_center(center, np.broadcast_to(CENTER, (B, G, K)))
    np.testing.assert_allclose(center, (1 - 0.9**5) * CENTER, rtol=1e-5)
    rows = [TEACHER[b, g] for b in range(B) for g in range(G)]
    np.testing.assert_allclose(move_center(CENTER, TEACHER), 0.9 * CENTER + 0.1 * np.mean(rows, axis=0), rtol=1e-5)


def test_hidden_tokens_by_loops():
    student, teacher = (RNG.normal(size=(B, G, 4, K)).astype(np.float32) for _ in range(2))
    mask = RNG.uniform(size=(B, G, 4)) < 0.5
    mask[0, 0] = False
    found = patch_distillation(student, sharpened(teacher, CENTER, 0.3), mask, temperature=0.5)
    for b in range(B):
        views = []
        for g in range(G):
            terms = []
            for n in np.flatnonzero(mask[b, g]):
                p = np.exp(log_softmax((teacher[b, g, n].astype(np.float64) - CENTER) / 0.3))
                terms.append(-(p * log_softmax(student[b, g, n] / 0.5)).sum())
            views.append(np.mean(terms) if terms else 0.0)
        assert float(found[b]) == pytest.approx(np.mean(views), rel=1e-5)


def rows(*shape):
    x = RNG.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_concepts_by_loops_and_their_limits():
    views, goal, concepts = rows(B, V, 4), rows(B, G, 4), {"category": rows(6, 4), "description": rows(6, 4)}
    centers = {name: RNG.normal(size=6).astype(np.float32) for name in concepts}

    def both(concepts, centers):
        targets = {name: sharpened(goal @ table.T, centers[name], 0.3) for name, table in concepts.items()}
        return concept_distillation(views, targets, concepts, temperature=0.5)

    def term(goal_name, our_name):
        logits, ours = goal @ concepts[goal_name].T, views @ concepts[our_name].T
        return naive(ours, logits, centers[goal_name], 0.5, 0.3)

    distilled, aligned = both(concepts, centers)
    first, second = concepts
    np.testing.assert_allclose(distilled, term(first, first) + term(second, second), rtol=1e-5)
    np.testing.assert_allclose(aligned, term(second, first) + term(first, second), rtol=1e-5)
    equal, center = dict.fromkeys(concepts, concepts[first]), dict.fromkeys(concepts, centers[first])
    np.testing.assert_allclose(*both(equal, center), rtol=1e-6)
    order = RNG.permutation(6)
    permuted = both({k: v[order] for k, v in concepts.items()}, {k: v[order] for k, v in centers.items()})
    np.testing.assert_allclose(permuted, (distilled, aligned), rtol=1e-4)
    single = both({k: v[:1] for k, v in concepts.items()}, {k: v[:1] for k, v in centers.items()})
    assert not np.any(single)
    identity = dict.fromkeys(concepts, np.eye(4, dtype=np.float32))
    zeros = dict.fromkeys(concepts, np.zeros(4, np.float32))
    plain = self_distillation(views, sharpened(goal, zeros[first], 0.3), temperature=0.5)
    np.testing.assert_allclose(both(identity, zeros)[0], 2 * plain, rtol=1e-5)


def test_loss_and_gradient_are_those_of_torch():
    """DINO's and iBOT's formula, in PyTorch's own operations."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    student = torch.tensor(STUDENT, requires_grad=True)
    target = functional.softmax((torch.tensor(TEACHER) - torch.tensor(CENTER)) / 0.04, dim=-1)
    pairs = [
        torch.sum(-target[:, g] * functional.log_softmax(student[:, v] / 0.1, dim=-1), dim=-1).mean()
        for g in range(G)
        for v in range(V)
        if v != g
    ]
    expected = sum(pairs) / len(pairs)
    expected.backward()

    def loss(student):
        return jnp.mean(self_distillation(student, sharpened(TEACHER, CENTER, 0.04)))

    found, gradient = jax.value_and_grad(loss)(STUDENT)
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-5)
    np.testing.assert_allclose(gradient, student.grad.numpy(), atol=1e-5 * np.abs(gradient).max())
