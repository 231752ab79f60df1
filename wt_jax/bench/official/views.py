"""Methods without a queue of keys beside their authors' code: SimCLR, BYOL, SwAV, and self-distillation (DINO, iBOT, SVT)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.bench.official.checks import B, Case, Check, D, Found
from wt_jax.bench.official.contrastive import slowfast
from wt_jax.bench.official.sources import NoOptimizer, Sources, class_of, command_line, gradient, leaf, one_process
from wt_jax.losses import consistency
from wt_jax.losses.self_distillation import move_center, patch_distillation, self_distillation, sharpened
from wt_jax.models.embedder import l2_normalize


def _simclr(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip1", "clip2"))
    return case.ours("simclr"), slowfast(sources, "SimCLR_SlowR50_8x8.yaml", 2, case)


def _lightly(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip1", "clip2"))
    bare = ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils")
    module = sources.load("lightly", "lightly.loss.ntx_ent_loss", bare=bare)
    clips = {name: leaf(array) for name, array in case.arrays.items()}
    loss = module.NTXentLoss(temperature=0.1)(*clips.values())
    loss.backward()
    return case.ours("simclr"), Found({"loss": loss.detach()}, {name: gradient(clip) for name, clip in clips.items()})


def _byol(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip1", "clip2"))
    helpers = sources.load("deepmind-research", "byol.utils.helpers")

    def loss(arrays: Any) -> jax.Array:
        keys = {name: jax.lax.stop_gradient(array @ case.matrix) for name, array in arrays.items()}
        both = helpers.regression_loss(arrays["clip1"], keys["clip2"]) + helpers.regression_loss(arrays["clip2"], keys["clip1"])
        return jnp.mean(both) / 2

    value, gradients = jax.value_and_grad(loss)(case.arrays)
    return case.ours("byol"), Found({"loss": value}, gradients)


def _rho_byol(sources: Sources) -> tuple[Found, Found]:
    case, temperature = Case(("clip1", "clip2")), 0.5  # of the recipe
    theirs = slowfast(sources, "BYOL_SlowR50_8x8.yaml", 2, case)
    mean = theirs.values["loss"] / 2  # over the two directions
    gradients = {name: temperature * array for name, array in theirs.gradients.items()}
    return case.ours("byol"), Found({"loss": 2 + 2 * temperature * mean}, gradients)


class Prototypes(torch.nn.Module):
    """SwAV's network on embeddings: normalized, and their products with the prototypes."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.prototypes = torch.nn.Linear(*weight.shape[::-1], bias=False)
        self.prototypes.weight.data = torch.tensor(weight)

    @property
    def module(self) -> "Prototypes":
        """Of a wrapped network."""
        return self

    def forward(self, clips: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all clips, one after the other."""
        x = torch.nn.functional.normalize(torch.cat(list(clips)), dim=1)
        return x, self.prototypes(x)


def _swav(sources: Sources, filled: bool) -> tuple[Found, Found]:
    case, rng = Case(("clip1", "clip2", "clip3")), np.random.default_rng(2)
    prototypes = rng.normal(size=(5, D)).astype(np.float32)
    script = sources.load("swav", "main_swav")
    with command_line(sources.file("swav", "scripts/swav_200ep_bs256_pretrain.sh").read_text()):
        script.args = script.parser.parse_known_args()[0]
    script.args.__dict__ |= {"nmb_crops": [3], "use_fp16": False, "freeze_prototypes_niters": 0, "world_size": 1, "rank": 0}
    clips = {name: leaf(array) for name, array in case.arrays.items()}
    queue = torch.tensor(np.stack([case.queue, case.queue[::-1].copy()])) if filled else None
    with one_process() as losses:
        script.train([list(clips.values())], Prototypes(prototypes), NoOptimizer(), 0, [0.0], queue)
    params = {"prototypes": jnp.asarray(prototypes)}
    if filled:
        slots = jnp.arange(B, B + len(case.queue), dtype=jnp.int32)
        columns = {"clip1": case.queue, "clip2": case.queue[::-1].copy()}
        buffers = {**columns, "video": slots, "label": slots, "step": 0 * slots, "pointer": jnp.int32(0)}
    else:
        buffers = {}
    ours = case.ours("swav", params=params, step=500, clips=3, buffers=buffers)
    return ours, Found({"loss": np.float32(losses[0])}, {name: gradient(clip) for name, clip in clips.items()})


def _names(torch_dist: Any) -> dict[str, Any]:
    functional = torch.nn.functional
    return {"nn": torch.nn, "F": functional, "torch": torch, "np": np, "dist": torch_dist}


def _dino(sources: Sources, clone: str, script: str) -> tuple[Found, Found]:
    """Two steps, of which the second has a center that moved."""
    kind = class_of(sources.file(clone, script), "DINOLoss", _names(torch.distributed))
    rng, views, width = np.random.default_rng(0), 5, 11
    student, teacher = (rng.normal(size=(n, B, width)).astype(np.float32) for n in (views, 2))
    ours, theirs, center = Found({}, {}), Found({}, {}), jnp.zeros(width)
    values: list[dict[str, Any]] = [{}, {}]
    slopes: list[dict[str, Any]] = [{}, {}]
    with one_process():
        module = kind(width, views, 0.04, 0.04, 0, 2)
        for step in ("first", "second"):
            x = leaf(student.reshape(-1, width))
            expected = module(x, torch.tensor(teacher.reshape(-1, width)), 0)
            expected.backward()

            def loss(s: jax.Array, center: jax.Array = center) -> jax.Array:
                return jnp.mean(self_distillation(s, sharpened(jnp.swapaxes(jnp.asarray(teacher), 0, 1), center, 0.04)))

            found, slope = jax.value_and_grad(loss)(jnp.asarray(student.swapaxes(0, 1)))
            center = move_center(center, jnp.asarray(teacher))
            values[0] |= {step: found, f"{step} center": center}
            values[1] |= {step: expected.detach(), f"{step} center": module.center[0].numpy().copy()}
            slopes[0][step] = slope.swapaxes(0, 1).reshape(-1, width)
            slopes[1][step] = gradient(x)
    ours, theirs = (Found(*pair) for pair in zip(values, slopes, strict=True))
    return ours, theirs


def _ibot(sources: Sources) -> tuple[Found, Found]:
    kind = class_of(sources.file("ibot", "main_ibot.py"), "iBOTLoss", _names(torch.distributed))
    rng = np.random.default_rng(1)
    width, tokens = 7, 4
    seen, goal = (rng.normal(size=(2, B, tokens, width)).astype(np.float32) for _ in range(2))
    clip, clip_goal = (rng.normal(size=(2, B, width)).astype(np.float32) for _ in range(2))
    mask = rng.uniform(size=(2, B, 2, 2)) < 0.5
    patches = leaf(seen.reshape(-1, tokens, width))
    with one_process():
        module = kind(width, width, 2, 0, 0.04, 0.04, 0.07, 0.07, 0, 2)
        student = (torch.tensor(clip.reshape(-1, width)), patches)
        teacher = (torch.tensor(clip_goal.reshape(-1, width)), torch.tensor(goal.reshape(-1, tokens, width)))
        expected = module(student, teacher, None, [torch.tensor(each) for each in mask], 0)["patch"]
        expected.backward()
    by_video = [jnp.asarray(x.swapaxes(0, 1)) for x in (seen, goal, mask.reshape(2, B, tokens))]

    def loss(patches: jax.Array) -> jax.Array:
        return jnp.mean(patch_distillation(patches, sharpened(by_video[1], jnp.zeros(width), 0.07), by_video[2]))

    found, slope = jax.value_and_grad(loss)(by_video[0])
    theirs = Found({"loss": expected.detach()}, {"patches": gradient(patches)})
    return Found({"loss": found}, {"patches": slope.swapaxes(0, 1).reshape(theirs.gradients["patches"].shape)}), theirs


def _co2(sources: Sources) -> tuple[Found, Found]:
    case = Case(("query", "key"))
    bare = ("lightly", "lightly.loss", "lightly.loss.regularizer", "lightly.models", "lightly.models.modules", "lightly.utils")
    module = sources.load("lightly", "lightly.loss.regularizer.co2", bare=bare)
    with one_process():
        term = module.CO2Regularizer(alpha=1.0, t_consistency=0.05, memory_bank_size=case.queue.shape)
        term.memory_bank.bank = torch.tensor(case.queue)
        value = term(*map(torch.tensor, case.arrays.values()))
    query, key = (l2_normalize(jnp.asarray(array)) for array in case.arrays.values())
    ours = jnp.mean(consistency(query, key, jnp.asarray(case.queue), temperature=0.05))
    return Found({"loss": ours}, {}), Found({"loss": value}, {})


_PATH = "`slowfast/models/contrastive.py`"
CHECKS = (
    Check(
        "simclr",
        "SlowFast",
        f"{_PATH}, by `SimCLR_SlowR50_8x8.yaml`",
        "loss of two clips",
        _simclr,
        "With four clips it takes neighbors as pairs, ours all pairs",
    ),
    Check("simclr", "lightly", "`lightly/loss/ntx_ent_loss.py`", "loss of two clips", _lightly),
    Check("byol", "deepmind-research", "`byol/utils/helpers.py`, `regression_loss`", "half of the two directions' sum", _byol),
    Check(
        "byol",
        "SlowFast",
        f"{_PATH}, by `BYOL_SlowR50_8x8.yaml`",
        "two clips: 2 + 2 T times the mean of its losses",
        _rho_byol,
        "Its loss is -cos / T with T = 0.5 and its clips' losses are summed: twice our gradient",
    ),
    Check(
        "swav",
        "swav",
        "`main_swav.py`, `train`, by `scripts/swav_200ep_bs256_pretrain.sh`",
        "a step of three clips, the first two assigned",
        lambda sources: _swav(sources, False),
        "All clips have one size",
    ),
    Check("swav", "swav", "the same", "the same with a full queue", lambda sources: _swav(sources, True)),
    Check(
        "svt, svt_weak_teacher",
        "dino",
        "`main_dino.py`, `DINOLoss`",
        "two steps of five views: loss, center",
        lambda sources: _dino(sources, "dino", "main_dino.py"),
    ),
    Check(
        "svt, svt_weak_teacher",
        "svt",
        "`train_ssl.py`, `DINOLoss`",
        "the same",
        lambda sources: _dino(sources, "svt", "train_ssl.py"),
        "Globals leave out a fraction of the video instead of 5 frames",
    ),
    Check(
        "svt",
        "ibot",
        "`main_ibot.py`, `iBOTLoss`",
        "the term of patches",
        _ibot,
        "One head serves clips and tokens; masks of a clip are tubes",
    ),
    Check(
        "co2",
        "lightly",
        "`lightly/loss/regularizer/co2.py`",
        "the consistency term",
        _co2,
        "The authors' code is not public: this is another project's, whose value has no gradient",
        "it compares the positive too, ours the negatives alone",
    ),
)
