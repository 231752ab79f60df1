"""The attentive probe against attention written out, what it can see that a mean cannot, and what it refuses."""

import jax
import numpy as np
import pytest

from wt_jax.eval.protocols.attentive import apply_probe, attentive_probe, init_probe, normalize

SMALL = {"heads": 2, "epochs": 20, "batch_size": 32, "learning_rates": [3e-2], "weight_decays": [0.01]}


def marked_tokens(count=160, tokens=6, channels=8, classes=3, seed=0):
    """One token, wherever it is, says the class; the others add up to the opposite, so that the mean says nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    noise = rng.normal(size=(count, tokens, channels))
    noise -= noise.mean(axis=1, keepdims=True)
    mark = np.zeros((count, tokens, channels))
    place = rng.integers(tokens, size=count)
    mark[np.arange(count), place, labels] = 6
    return (noise + mark - mark.mean(axis=1, keepdims=True)).astype(np.float16), labels


def naive_probe(p, tokens, heads):
    """Keys and values for every token, one video and one head at a time."""
    erf = np.vectorize(__import__("math").erf)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    p = {name: np.asarray(value, np.float64) for name, value in p.items()}
    logits = []
    for video in norm(tokens.astype(np.float64)):
        query, keys, values = p["query"] @ p["to_query"] + p["to_query_offset"], video @ p["to_key"], video @ p["to_value"]
        values = values + p["to_value_offset"]
        size = video.shape[1] // heads
        seen = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = keys[:, part] @ query[0, part] / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            seen.append(weights / weights.sum() @ values[:, part])
        x = p["query"] + np.concatenate(seen)[None]
        hidden = (norm(x) * p["norm_scale"] + p["norm_offset"]) @ p["expand"] + p["expand_offset"]
        x = x + (hidden * (1 + erf(hidden / np.sqrt(2))) / 2) @ p["shrink"] + p["shrink_offset"]
        logits.append((x @ p["classify"] + p["classify_offset"])[0])
    return np.array(logits)


def test_equals_attention_written_out():
    rng = np.random.default_rng(0)
    probe = init_probe(rng, channels=8, num_classes=3)
    # Weights of size 1, so that nothing is lost in the small first ones.
    probe = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in probe.items()}
    tokens, _ = marked_tokens(count=5)
    found = jax.jit(lambda p, x: apply_probe(p, normalize(x), 4))(probe, tokens)
    np.testing.assert_allclose(found, naive_probe(probe, tokens, 4), rtol=1e-4, atol=1e-4)


def test_finds_what_one_token_says_and_a_mean_does_not():
    (tokens, labels), (test, test_labels) = marked_tokens(), marked_tokens(count=60, seed=1)
    np.testing.assert_allclose(tokens.astype(np.float32).mean(axis=1), 0, atol=0.01)
    probe = attentive_probe(tokens, np.arange(160), labels, test, np.arange(60), **SMALL)
    assert (probe.ranked[:, 0] == test_labels).mean() > 0.9
    assert (probe.learning_rate, probe.weight_decay, probe.validation_accuracy) == (3e-2, 0.01, None)


def test_search_takes_the_rate_that_learns_and_rows_name_the_items(tmp_path):
    tokens, labels = marked_tokens(count=220)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    train, test = np.arange(219, 59, -1), np.arange(60)
    options = {**SMALL, "learning_rates": [1e-9, 3e-2]}
    probe = attentive_probe(mapped, train, labels[train] + 10, mapped, test, **options)
    assert probe.learning_rate == 3e-2
    assert probe.validation_accuracy > 0.7  # chance is a third
    assert (probe.ranked[:, 0] == labels[test] + 10).mean() > 0.9


def test_errors_name_the_thing():
    tokens, labels = marked_tokens(count=40)
    rows = np.arange(40)
    with pytest.raises(ValueError, match="only class 1"):
        attentive_probe(tokens, rows, np.ones(40, int), tokens, rows, **SMALL)
    with pytest.raises(ValueError, match=r"heads 3 does not divide the 8 channels .*attentive\.heads=2 does"):
        attentive_probe(tokens, rows, labels, tokens, rows, **{**SMALL, "heads": 3})
    broken = tokens.copy()
    broken[7, 2, 1] = np.inf
    with pytest.raises(ValueError, match="test_tokens has NaN or infinity in row 7"):
        attentive_probe(tokens, rows, labels, broken, rows, **SMALL)
    with pytest.raises(ValueError, match="no class with two items"):
        attentive_probe(tokens, rows[:3], np.arange(3), tokens, rows, **{**SMALL, "learning_rates": [1e-3, 1e-2]})
    (tokens, labels), (test, _) = marked_tokens(), marked_tokens(count=60, seed=1)
    with pytest.raises(ValueError, match="diverged at learning rate 1e\\+30"):
        attentive_probe(tokens, np.arange(160), labels, test, np.arange(60), **{**SMALL, "learning_rates": [1e30]})
