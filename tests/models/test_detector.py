"""RoIAlign against loops in NumPy and torchvision's own, and the detector's head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.models.classifier import LinearHead
from wt_jax.models.detector import Detector, roi_align


def naive(maps, boxes, bins, samples):
    """One bilinear sample after the other, in float64."""
    height, width, channels = maps.shape[1:]
    out = np.zeros((*boxes.shape[:2], bins, bins, channels))
    for b, m, p, q in np.ndindex(*boxes.shape[:2], bins, bins):
        left, top, right, bottom = np.float64(boxes[b, m]) * [width, height, width, height] - 0.5
        for i, j in np.ndindex(samples, samples):
            y = top + (bottom - top) / bins * (p + (i + 0.5) / samples)
            x = left + (right - left) / bins * (q + (j + 0.5) / samples)
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            for row in {int(y), min(int(y) + 1, height - 1)}:
                for column in {int(x), min(int(x) + 1, width - 1)}:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    out[b, m, p, q] += weight * maps[b, row, column] / samples**2
    return out


@pytest.fixture(scope="module")
def given():
    """Maps, and boxes: any, the whole map, one smaller than a pixel, and one that reaches far beyond the map."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((2, 3, 2, 2)), axis=2)
    others = np.broadcast_to([[0, 0, 1, 1], [0.4, 0.5, 0.41, 0.52], [-0.9, -0.3, 1.7, 1.2]], (2, 3, 4))
    boxes = np.concatenate([np.concatenate([corners[:, :, 0], corners[:, :, 1]], axis=-1), others], axis=1)
    return rng.normal(size=(2, 5, 6, 3)).astype(np.float32), boxes.astype(np.float32)


@pytest.mark.parametrize(("bins", "samples"), [(1, 1), (3, 2), (7, 2)])
def test_roi_align_is_the_mean_of_bilinear_samples(given, bins, samples):
    found = roi_align(*map(jnp.asarray, given), bins, samples)
    np.testing.assert_allclose(found, naive(*given, bins, samples), atol=2e-6)


@pytest.mark.slow  # torchvision compiles it
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torchvision's import
def test_roi_align_is_that_of_torchvision(given):
    torch = pytest.importorskip("torch")
    from support import peers

    ops = peers.torchvision().ops
    maps, boxes = given[0], given[1][:, :5]  # its form without compiled code takes the edge for what is outside the map
    size = torch.tensor([6.0, 5.0, 6.0, 5.0])
    x = torch.tensor(maps.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = ops.roi_align(x, [torch.tensor(each) * size for each in boxes], 7, 1.0, 2, aligned=True)
    weight = np.random.default_rng(1).normal(size=theirs.shape).astype(np.float32)
    theirs.backward(torch.tensor(weight))

    def ours(maps):
        return jnp.moveaxis(roi_align(maps, jnp.asarray(boxes), 7), -1, 2).reshape(weight.shape)

    found, back = jax.vjp(ours, jnp.asarray(maps))
    np.testing.assert_allclose(found, theirs.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(back(jnp.asarray(weight))[0], x.grad.numpy().transpose(0, 2, 3, 1), atol=2e-5)


def test_limits_of_roi_align(given):
    _, boxes = given
    inside = jnp.asarray(boxes[:, :5])
    constant = jnp.full((2, 5, 6, 1), 3.0)
    np.testing.assert_allclose(roi_align(constant, inside, 7), 3.0, rtol=1e-6)
    # On a ramp the value is that of the place, so the mean over bins is that of the box's center.
    ramp = jnp.broadcast_to(jnp.arange(6, dtype=jnp.float32)[None, None, :, None], (2, 5, 6, 1))
    middle = jnp.asarray([[[0.2, 0.3, 0.7, 0.8]]] * 2)
    np.testing.assert_allclose(jnp.mean(roi_align(ramp, middle, 4)), 0.45 * 6 - 0.5, rtol=1e-6)
    # Map and box in the mirror.
    maps = jnp.asarray(given[0])
    mirrored = jnp.stack([1 - inside[..., 2], inside[..., 1], 1 - inside[..., 0], inside[..., 3]], axis=-1)
    found = roi_align(maps[:, :, ::-1], mirrored, 3)[:, :, :, ::-1]
    np.testing.assert_allclose(found, roi_align(maps, inside, 3), atol=1e-6)


class Pixels(nn.Module):
    """An encoder whose map is the clip itself."""

    def __call__(self, clips, train, pool=True):
        return clips


def test_a_box_reads_its_own_part_of_the_map_alone_averaged_over_time():
    clips = jnp.asarray(np.random.default_rng(2).random((1, 2, 32, 32, 3)), jnp.float32)
    network, boxes = Detector(Pixels(), LinearHead(2), bins=2), jnp.asarray([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])
    variables = network.init(jax.random.key(0), clips, boxes, False)
    before = network.apply(variables, clips, boxes, False)
    np.testing.assert_array_equal(before[:, 0], network.apply(variables, clips.at[:, :, 20:, 20:].set(0.0), boxes, False)[:, 0])
    assert np.abs(before[:, 1] - network.apply(variables, clips.at[:, :, 20:, 20:].set(0.0), boxes, False)[:, 1]).max() > 1e-4
    np.testing.assert_allclose(before, network.apply(variables, clips[:, ::-1], boxes, False), atol=1e-6)
