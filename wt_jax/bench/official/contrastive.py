"""Methods with a queue beside their authors' code: MoCo in four forms, ReSSL, CLSA, SEED, VTDL, CO2."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.bench.official.checks import B, Case, Check, D, Found, K
from wt_jax.bench.official.recipes import default_values, yaml_values
from wt_jax.bench.official.sources import Linear, NoOptimizer, Sources, command_line, gradient, leaf, one_process

SLOWFAST_CONFIGS = "configs/contrastive_ssl"


def slowfast(sources: Sources, recipe: str, count: int, case: Case) -> Found:
    """A step of PySlowFast's contrastive model by a released recipe: losses, the queue after it, gradients of the clips."""
    bare = ("slowfast", "slowfast.models", "slowfast.utils")
    absent = (
        "slowfast.models.video_model_builder",
        "slowfast.models.build",
        "slowfast.utils.logging",
        "slowfast.utils.distributed",
    )
    module = sources.load("SlowFast", "slowfast.models.contrastive", bare=bare, absent=absent)
    module.du.get_local_size = module.du.get_world_size = lambda: 1
    module.du.get_local_rank = module.du.get_rank = lambda: 0
    values = {**default_values("SlowFast")(sources), **yaml_values("SlowFast", f"{SLOWFAST_CONFIGS}/{recipe}")(sources)}
    sizes = {"CONTRASTIVE.DIM": D, "CONTRASTIVE.QUEUE_LEN": K, "TRAIN.BATCH_SIZE": B, "DATA.TRAIN_CROP_NUM_TEMPORAL": count}
    cfg = _nested({**values, **sizes, "CONTRASTIVE.KNN_ON": False, "NUM_GPUS": 1, "NUM_SHARDS": 1})
    made = iter([Student() if cfg.CONTRASTIVE.TYPE == "byol" else Linear(), Linear(case.matrix)])
    module._MODEL_TYPES[cfg.MODEL.ARCH] = lambda cfg: next(made)
    clips = {name: leaf(array) for name, array in case.arrays.items()}
    with one_process() as losses:
        model = module.ContrastiveModel(cfg).train()
        if hasattr(model, "queue_x"):
            model.queue_x.copy_(torch.tensor(case.queue))
        scaler = SimpleNamespace(scale=lambda loss: loss)
        inputs, time = [[clip] for clip in clips.values()], torch.zeros(B, count, 2)
        _, _, loss, backward = module.contrastive_forward(model, cfg, inputs, torch.arange(B), time, 0.0, scaler)
        if backward:
            loss.backward()
    values = {"loss": np.float32(sum(losses))}
    if cfg.CONTRASTIVE.TYPE == "moco":
        values["queue"] = model.queue_x.numpy()
    return Found(values, {name: gradient(clip) for name, clip in clips.items()})


def _nested(values: Mapping[str, Any]) -> SimpleNamespace:
    """{"A.B": 1} as an object: `.A.B`."""
    made = SimpleNamespace()
    for key, value in values.items():
        *parts, last = key.split(".")
        place = made
        for part in parts:
            if not hasattr(place, part):
                setattr(place, part, SimpleNamespace())
            place = getattr(place, part)
        setattr(place, last, value)
    return made


class Student(Linear):
    """A network with a predictor: the embedding, and a list of predictions behind it."""

    def forward(self, x: Any) -> Any:
        """Both are the input."""
        found = super().forward(x)
        return [found, found]


def _rho_moco(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip1", "clip2", "clip3", "clip4"))
    return case.ours("moco", "key", clips=4), slowfast(sources, "MoCo_SlowR50_8x8.yaml", 4, case)


def _moco(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip1", "clip2"))
    builder = sources.load("moco", "moco.builder", bare=("moco",))
    clips = [leaf(array) for array in case.arrays.values()]
    with one_process():
        model = builder.MoCo(lambda num_classes: Linear(), dim=D, K=K)
        model.encoder_k = Linear(case.matrix)
        model.queue.copy_(torch.tensor(case.queue.T))
        logits, labels = model(*clips)
        loss = torch.nn.CrossEntropyLoss()(logits, labels)
        loss.backward()
    ours = case.ours("moco", "key", symmetric=False, temperature=model.T)
    values = {"loss": loss.detach(), "queue": model.queue.numpy().T}
    return ours, Found(values, dict(zip(case.views, map(gradient, clips), strict=True)))


def _coclr(sources: Sources) -> tuple[Found, Found]:
    case = Case(("query", "key"))
    pretrain = sources.load("CoCLR", "model.pretrain", absent=("backbone",))
    pretrain.select_backbone = lambda network: (torch.nn.Identity(), {"feature_size": D})
    clips = leaf(np.stack(list(case.arrays.values()), axis=1)[..., None, None, None])
    with one_process():
        model = pretrain.InfoNCE(dim=D, K=K)
        model.encoder_q, model.encoder_k = torch.nn.Identity(), Cube(case.matrix)
        model.queue.copy_(torch.tensor(case.queue.T))
        logits, labels = model(clips)
        loss = torch.nn.CrossEntropyLoss()(logits, labels)
        loss.backward()
    ours = case.ours("one_hot", "key", of=("query",))
    return ours, Found({"loss": loss.detach(), "queue": model.queue.numpy().T}, {"query": gradient(clips)[:, 0, :, 0, 0, 0]})


class Cube(Linear):
    """`Linear` on (B, D, 1, 1, 1)."""

    def forward(self, x: Any) -> torch.Tensor:
        """The same shape."""
        return super().forward(x[..., 0, 0, 0])[..., None, None, None]


def _ressl(sources: Sources) -> tuple[Found, Found]:
    case = Case(("query", "key"))
    script = sources.load("ReSSL", "ressl", absent=("data", "network.backbone"))
    clips = [leaf(array) for array in case.arrays.values()]
    with one_process() as losses:
        script.ReSSL.__init__.__globals__["BackBone"] = lambda backbone, dim: Unit()
        model = script.ReSSL(dim=D, K=K)
        model.encoder_k = Unit(case.matrix)
        model.queue.copy_(torch.tensor(case.queue.T))
        script.train([tuple(clips)], model, None, 0, None, NoOptimizer(), 0.0, 0)
    ours = case.ours("ressl", "key")
    values = {"loss": np.float32(losses[0]), "queue": model.queue.numpy().T}
    return ours, Found(values, dict(zip(case.views, map(gradient, clips), strict=True)))


class Unit(Linear):
    """`Linear`, normalized."""

    def forward(self, x: Any) -> torch.Tensor:
        """Rows of length 1."""
        return torch.nn.functional.normalize(super().forward(x), dim=1)


def _clsa(sources: Sources) -> tuple[Found, Found]:
    case = Case(("weak", "strong", "key"))
    with command_line(sources.file("CLSA", "cmd/run_single.sh").read_text()):
        args, _ = sources.load("CLSA", "ops.argparser").argparser()
    args.gpu, args.pick_strong = 0, [0]
    module, training = (
        sources.load("CLSA", "model.CLSA", bare=("model",)),
        sources.load("CLSA", "training.train", bare=("training",)),
    )
    clips = {name: leaf(array) for name, array in case.arrays.items()}
    with one_process() as losses, tempfile.TemporaryDirectory() as folder:
        model = module.CLSA(lambda num_classes: Linear(), args, dim=D, K=K, T=args.moco_t, mlp=False)
        model.encoder_k = Linear(case.matrix)
        model.queue.copy_(torch.tensor(case.queue.T))
        views = [clips["key"], clips["weak"], clips["strong"]]
        training.train([(views, None)], model, torch.nn.CrossEntropyLoss(), NoOptimizer(), 0, args, Path(folder) / "log")
    values = {"loss": np.float32(losses[0]), "queue": model.queue.numpy().T}
    return case.ours("clsa", "key"), Found(values, {name: gradient(clip) for name, clip in clips.items()})


def _seed(sources: Sources) -> tuple[Found, Found]:
    case = Case(("clip",))
    builder, utils = sources.load("SEED", "seed.builder", bare=("seed",)), sources.load("SEED", "tools.utils", bare=("tools",))
    clip = leaf(case.arrays["clip"])
    with one_process():
        model = builder.SEED(lambda num_classes: Linear(), lambda **_: Linear(case.matrix), dim=D, K=K, t=0.2, temp=1e-4)
        model.queue.copy_(torch.tensor(case.queue.T))
        loss = utils.soft_cross_entropy(*model(clip))
        loss.backward()
    values = {"loss": loss.detach(), "queue": model.queue.numpy().T}
    return case.ours("seed", "clip", teacher_weights="of the case"), Found(values, {"clip": gradient(clip)})


def _vtdl(sources: Sources) -> tuple[Found, Found]:
    case = Case(("anchor", "positive", "negative"))
    average, criterion = (sources.load("VTDL", f"NCE.{name}", below="src") for name in ("NCEAverage", "NCECriterion"))
    clips = {name: leaf(array) for name, array in case.arrays.items()}
    with one_process():
        unit = {name: torch.nn.functional.normalize(clip, dim=1) for name, clip in clips.items() if name != "positive"}
        key = Unit(case.matrix)(clips["positive"])
        memory = average.MemoryMoCo(D, B, K, use_softmax=True)
        memory.memory.copy_(torch.tensor(case.queue))
        loss = criterion.NCESoftmaxLoss()(memory(unit["anchor"], key, unit["negative"]))
        loss.backward()
    values = {"loss": loss.detach(), "queue": memory.memory.numpy()}
    return case.ours("vtdl", "positive"), Found(values, {name: gradient(clip) for name, clip in clips.items()})


CHECKS = (
    Check(
        "moco",
        "SlowFast",
        "`slowfast/models/contrastive.py`, `contrastive_forward`, by `MoCo_SlowR50_8x8.yaml`",
        "a step of four clips: the sum of the losses, the queue after it",
        _rho_moco,
        "Two clips by default for its four; empty slots are no negatives, there no parameter moves until the queue is full; "
        "it logs the sum over twice the number of clips",
    ),
    Check("moco", "moco", "`moco/builder.py`", "`symmetric` off, its temperature 0.07: loss, queue after it", _moco),
    Check(
        "one_hot",
        "CoCLR",
        "`model/pretrain.py`, `InfoNCE`",
        "loss, queue after it",
        _coclr,
        "Older clips of the same video are no negatives; there they are",
    ),
    Check(
        "ressl",
        "ReSSL",
        "`ressl.py`, `train`; `network/ressl.py`",
        "a step: loss, queue after it",
        _ressl,
        "Where a configuration turns flips off, both views have none",
    ),
    Check(
        "clsa",
        "CLSA",
        "`training/train.py`, `train`; `model/CLSA.py`, by `cmd/run_single.sh`",
        "a step: loss with the divergence, queue after it",
        _clsa,
        "The stronger view's operations; another clip of the same video is no negative; one key view, not its five sizes",
    ),
    Check(
        "seed",
        "SEED",
        "`seed/builder.py`; `tools/utils.py`, `soft_cross_entropy`",
        "loss, queue after it",
        _seed,
        "The teacher's pooled feature is its embedding",
    ),
    Check(
        "vtdl",
        "VTDL",
        "`src/NCE/NCEAverage.py`, `MemoryMoCo`; `NCECriterion.py`",
        "loss, queue after it",
        _vtdl,
        "Views; a queue of 5,120 for 5,000",
    ),
)
