"""Recipes whose source is a file of YAML: PySlowFast (the rho study), MaCLR, V-JEPA."""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

from wt_jax.bench.official.recipes import Recipe, config, default_values, number, queue, yaml_values
from wt_jax.bench.official.sources import Sources
from wt_jax.eval.protocols import finetune, linear_clips
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.methods import default_settings
from wt_jax.methods.vjepa import KINDS

_SLOWFAST = (
    r"TASK|NUM_GPUS|NUM_SHARDS|RNG_SEED|OUTPUT_DIR|DATA_LOADER\..*|TRAIN\.(?!BATCH_SIZE).*|TEST\.(ENABLE|DATASET|SPLIT|BATCH_SIZE)|"
    r"MODEL\.(NUM_CLASSES|ARCH|MODEL_NAME|LOSS_FUNC|HEAD_ACT|DETACH_FINAL_FC|CLS_ONLY|NORMALIZE_FEATURE)|"
    r"DATA\.(PATH.*|DECODING_BACKEND|INPUT_CHANNEL_NUM|NUM_FRAMES|SAMPLING_RATE|TRAIN_CROP_SIZE|TRAIN_CROP_NUM_SPATIAL|"
    r"USE_BGR_ORDER|TRAIN_AUGMENTATION_STYLE|INV_UNIFORM_SAMPLE|SSL_MOCOV2_AUG)|RESNET\..*|NONLOCAL\..*|"
    r"BN\.(NUM_BATCHES_PRECISE|PRECISE_STATS_PERIOD|NUM_SYNC_DEVICES|NORM_TYPE)|SOLVER\.BASE_LR_SCALE_NUM_SHARDS"
)
_MACLR = rf"{_SLOWFAST}|DATA\.TRAIN_JITTER_SCALES"  # its crops are by area
_SSL = "configs/contrastive_ssl"


_JEPA = (
    r"app|folder|nodes|tasks_per_node|cpus_per_task|mem_per_gpu|logging\..*|meta\..*|optimization\.ipe|mask\.(full|max).*|"
    r"data\.(dataset_type|datasets.*|decode.*|num_clips|pin_mem|num_workers|persistent.*|filter.*|clip_duration)|"
    r"data_aug\.(auto_augment|motion_shift|reprob)|"
    r"model\.(uniform_power|use_mask_tokens|zero_init_mask_tokens|use_activation_checkpointing|use_rope)"
)


_UCF, _SSV2, _K400 = (
    f"{_SSL}/{name}"
    for name in ("finetune_ucf_Slow_R50_syn8.yaml", "finetune_SSv2_Slow_R50_syn0.yaml", "linear_k400_Slow_8x8_R50_syn0.yaml")
)


_ONLY_CONTRASTIVE = r"(?!CONTRASTIVE\.).*|CONTRASTIVE\.(NUM_CLASSES_DOWNSTREAM|BN_SYNC_MLP|SIMCLR_DIST_ON)"


def _solver(training: Any, batch: int) -> dict[str, Any]:
    """PySlowFast's section SOLVER by a `ClipTraining` or `Config`; its rate is for `batch` clips."""
    optim = training.optim
    steps = {"cosine": "cosine", "step": "steps_with_relative_lrs"}
    found = {
        "TRAIN.BATCH_SIZE": training.train.batch_size,
        "SOLVER.BASE_LR": optim.learning_rate * batch / 256,
        "SOLVER.LR_POLICY": steps[optim.schedule],
        "SOLVER.MAX_EPOCH": number(training.train.duration),
        "SOLVER.MOMENTUM": optim.momentum,
        "SOLVER.WEIGHT_DECAY": optim.weight_decay,
        "SOLVER.WARMUP_EPOCHS": number(optim.warmup),
        "SOLVER.WARMUP_START_LR": optim.start_rate * batch / 256,
        "SOLVER.OPTIMIZING_METHOD": optim.name,
    }
    if optim.schedule == "step":
        found["SOLVER.STEPS"] = [0, *map(number, optim.milestones)]
        found["SOLVER.LRS"] = [0.1**i for i in range(1 + len(optim.milestones))]
    return found


def _rho(training: ClipTraining, **more: Any) -> dict[str, Any]:
    area = training.strong.area
    return {
        **_solver(training, 64),
        "BN.USE_PRECISE_STATS": False,
        "BN.WEIGHT_DECAY": training.optim.weight_decay if training.optim.decay_norms else 0.0,
        "MODEL.DROPOUT_RATE": training.method.dropout,
        "DATA.TRAIN_JITTER_SCALES": [round(224 * sqrt(0.75 / part)) for part in reversed(area)],  # of frames of 4:3
        "DATA.TEST_CROP_SIZE": 224,
        "TEST.NUM_ENSEMBLE_VIEWS": training.windows,
        "TEST.NUM_SPATIAL_CROPS": training.crops,
        **more,
    }


def _colors(pixels: Any) -> dict[str, Any]:
    return {
        "DATA.SSL_COLOR_JITTER": pixels.jitter_probability > 0,
        "DATA.COLOR_RND_GRAYSCALE": pixels.gray_probability,
        "DATA.SSL_COLOR_HUE": pixels.hue,
        "DATA.SSL_COLOR_BRI_CON_SAT": [pixels.brightness, pixels.contrast, pixels.saturation],
    }


def _maclr(training: ClipTraining, **more: Any) -> dict[str, Any]:
    found = _solver(training, training.train.batch_size)
    # Its data set is as many times as long as the videos, so that an epoch of its file is as many.
    found["SOLVER.MAX_EPOCH * DATA.EXPAND_DATASET"] = found.pop("SOLVER.MAX_EPOCH")
    return {
        **found,
        "BN.USE_PRECISE_STATS": False,
        "MODEL.DROPOUT_RATE": training.method.dropout,
        "DATA.TRAIN_JITTER_AREAS": training.strong.area,
        "DATA.TRAIN_JITTER_ASPECT_RATIOS": training.strong.aspect,
        "DATA.TEST_CROP_SIZE": 224,
        "TEST.NUM_ENSEMBLE_VIEWS": training.windows,
        "TEST.NUM_SPATIAL_CROPS": training.crops,
        **more,
    }


def _maclr_yaml(file: str) -> Callable[[Sources], Mapping[str, Any]]:
    def read(sources: Sources) -> Mapping[str, Any]:
        found = dict(yaml_values("maclr", f"configs/UCF101/{file}")(sources))
        times = found.pop("DATA.EXPAND_DATASET")
        found["SOLVER.MAX_EPOCH * DATA.EXPAND_DATASET"] = times * found.pop("SOLVER.MAX_EPOCH")
        if "SOLVER.WARMUP_EPOCHS" in found:
            found["SOLVER.WARMUP_EPOCHS"] *= times
        return found

    return read


def _contrastive(name: str) -> dict[str, Any]:
    """PySlowFast's section CONTRASTIVE by the defaults of a method."""
    settings = default_settings(name)
    found = {
        "CONTRASTIVE.TYPE": name,
        "CONTRASTIVE.DIM": settings.head.dim,
        "CONTRASTIVE.NUM_MLP_LAYERS": settings.head.layers,
        "CONTRASTIVE.MLP_DIM": settings.head.hidden,
        "CONTRASTIVE.BN_MLP": settings.head.norm == "batch",
        "CONTRASTIVE.SEQUENTIAL": settings.separate_passes,
        "DATA.TRAIN_CROP_NUM_TEMPORAL": settings.clips,
    }
    if hasattr(settings, "teacher"):
        found["CONTRASTIVE.MOMENTUM"] = settings.teacher.momentum
        found["CONTRASTIVE.MOMENTUM_ANNEALING"] = settings.teacher.schedule == "cosine"
    return found


def _moco() -> dict[str, Any]:
    more = queue("moco", t="CONTRASTIVE.T", queue="CONTRASTIVE.QUEUE_LEN")
    return {**_contrastive("moco"), **more, "CONTRASTIVE.MOCO_MULTI_VIEW_QUEUE": True}


def _weak_teacher_ssv2() -> dict[str, Any]:
    made = config("ssv2:weak_teacher")
    method, strong = made.method, made.views.strong
    return {
        **_solver(made, 64),
        **_colors(strong.pixels),
        "TRAIN.BATCH_SIZE": made.train.batch_size / 8,
        "BN.WEIGHT_DECAY": made.optim.weight_decay if made.optim.decay_norms else 0.0,
        "BN.USE_PRECISE_STATS": False,
        "CONTRASTIVE.TYPE": "moco",
        "CONTRASTIVE.T": method.temperature,
        "CONTRASTIVE.QUEUE_LEN": method.queue.size,
        "CONTRASTIVE.MOMENTUM": method.teacher.momentum,
        "CONTRASTIVE.MOMENTUM_ANNEALING": method.teacher.schedule == "cosine",
        "CONTRASTIVE.NUM_MLP_LAYERS": method.head.layers,
        "CONTRASTIVE.SEQUENTIAL": True,
        "CONTRASTIVE.MOCO_MULTI_VIEW_QUEUE": False,
        "DATA.NUM_FRAMES": made.clip.num_frames,
        "DATA.SAMPLING_RATE": made.clip.stride,
        "DATA.TRAIN_CROP_SIZE": made.clip.size,
        "DATA.TRAIN_CROP_NUM_TEMPORAL": 2,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": strong.area,
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE": strong.aspect,
        "DATA.RANDOM_FLIP": strong.flip_probability > 0,
    }


def _modist() -> dict[str, Any]:
    settings = default_settings("modist")
    return {
        "MODEL.FLOW_INST_DISC": settings.motion_weight > 0,
        "MODEL.CONTRASTIVE_FLOW_WEIGHT": settings.cross_weight,
        "MODEL.CONTRASTIVE_HEAD_LAYERS": settings.head.layers,
        "MODEL.CONTRASTIVE_HIDDEN_DIM": settings.head.hidden,
        "MODEL.CONTRASTIVE_CODE_DIM": settings.head.dim,
        "MODEL.INFONCE_TEMPERATURE": settings.temperature,
        "MODEL.CONTRASTIVE_MOMENTUM": settings.teacher.momentum,
        "MODEL.CONTRASTIVE_POOL_SIZE": settings.queue.size,
    }


def _masks(sources: Sources, clone: str, file: str) -> Mapping[str, Any]:
    """A configuration of V-JEPA; the list of its masks by what each has."""
    found = dict(yaml_values(clone, file)(sources))
    masks = found.pop("mask")
    return found | {f"mask.{key}": [mask[key] for mask in masks] for key in masks[0]}


def _vjepa(name: str) -> dict[str, Any]:
    made, batch = config(f"k400:{name}"), 16 * 8 * 24
    optim, view, method = made.optim, made.views.weak, made.method
    rates = {"lr": optim.learning_rate, "start_lr": optim.start_rate, "final_lr": optim.final_rate}
    if optim.schedule == "constant":
        rates["final_lr"] = rates["lr"]
    momentum = method.teacher.momentum
    return {
        **{f"optimization.{key}": rate * batch / 256 for key, rate in rates.items()},
        "optimization.weight_decay": optim.weight_decay,
        "optimization.final_weight_decay": optim.final_weight_decay or optim.weight_decay,
        "optimization.warmup": number(optim.warmup) / 300,
        "optimization.epochs": number(made.train.duration) / 300,
        "optimization.ipe_scale": optim.stretch,
        "optimization.ema": [momentum, momentum if method.teacher.schedule == "constant" else 1.0],
        "data.batch_size": made.train.batch_size / (16 * 8),
        "data.crop_size": made.clip.size,
        "data.tubelet_size": made.model.vit.tubelet[0],
        "data.patch_size": made.model.vit.tubelet[1],
        "data_aug.random_resize_aspect_ratio": view.aspect,
        "data_aug.random_resize_scale": view.area,
        "mask.num_blocks": [kind["blocks"] for kind in KINDS],
        "mask.spatial_scale": [[kind["area"]] * 2 for kind in KINDS],
        "mask.aspect_ratio": [[0.75, 1.5]] * 2,
        "mask.temporal_scale": [[1.0, 1.0]] * 2,
        "model.model_name": made.model.name,
        "model.pred_depth": method.predictor.blocks,
        "model.pred_embed_dim": method.predictor.width,
        "loss.loss_exp": 1.0,
    }


def _vjepa2() -> dict[str, Any]:
    made = config("k400:vjepa2")
    more = {"data.fps": round(1 / made.clip.stride), "model.pred_num_heads": made.method.predictor.heads}
    return {**_vjepa("vjepa2"), **more, "data.dataset_fpcs": [made.clip.num_frames] * 3}


def _vjepa1() -> dict[str, Any]:
    made = config("k400:vjepa")
    more = {"data.num_frames": made.clip.num_frames, "data.sampling_rate": made.clip.stride}
    return {**_vjepa("vjepa"), **more, "loss.reg_coeff": 0.0, "optimization.clip_grad": made.optim.clip_norm}


RECIPES = (
    Recipe(
        "moco",
        "SlowFast",
        f"`./{_SSL}/MoCo_SlowR50_8x8.yaml`",
        yaml_values("SlowFast", f"{_SSL}/MoCo_SlowR50_8x8.yaml"),
        _moco,
        _ONLY_CONTRASTIVE,
        default_values("SlowFast"),
    ),
    Recipe(
        "byol",
        "SlowFast",
        f"`./{_SSL}/BYOL_SlowR50_8x8.yaml`",
        yaml_values("SlowFast", f"{_SSL}/BYOL_SlowR50_8x8.yaml"),
        lambda: {**_contrastive("byol"), "CONTRASTIVE.PREDICTOR_DEPTHS": [2], "CONTRASTIVE.T": 1.0},
        _ONLY_CONTRASTIVE,
        default_values("SlowFast"),
    ),
    Recipe(
        "simclr",
        "SlowFast",
        f"`./{_SSL}/SimCLR_SlowR50_8x8.yaml`",
        yaml_values("SlowFast", f"{_SSL}/SimCLR_SlowR50_8x8.yaml"),
        lambda: {**_contrastive("simclr"), **queue("simclr", t="CONTRASTIVE.T")},
        _ONLY_CONTRASTIVE,
        default_values("SlowFast"),
    ),
    Recipe(
        "ssv2:weak_teacher",
        "SlowFast",
        f"`./{_SSL}/MoCo_SlowR50_8x8.yaml`",
        yaml_values("SlowFast", f"{_SSL}/MoCo_SlowR50_8x8.yaml"),
        _weak_teacher_ssv2,
        f"{_SLOWFAST}|DATA\\.(TRAIN_JITTER_SCALES|TEST_CROP_SIZE)|MODEL\\.DROPOUT_RATE",
        default_values("SlowFast"),
    ),
    Recipe(
        "k400:vjepa",
        "jepa",
        "`./configs/pretrain/vitl16.yaml`",
        lambda sources: _masks(sources, "jepa", "configs/pretrain/vitl16.yaml"),
        _vjepa1,
        _JEPA,
    ),
    Recipe(
        "k400:vjepa2",
        "vjepa2",
        "`./configs/train/vitl16/pretrain-256px-16f.yaml`",
        lambda sources: _masks(sources, "vjepa2", "configs/train/vitl16/pretrain-256px-16f.yaml"),
        _vjepa2,
        _JEPA,
    ),
    Recipe(
        "finetune.RHO_FINETUNE_UCF101",
        "SlowFast",
        f"`./{_UCF}`",
        yaml_values("SlowFast", _UCF),
        lambda: _rho(finetune.RHO_FINETUNE_UCF101, **_colors(finetune.RHO_FINETUNE_UCF101.strong.pixels)),
        _SLOWFAST,
        default_values("SlowFast"),
    ),
    Recipe(
        "finetune.RHO_FINETUNE_SSV2",
        "SlowFast",
        f"`./{_SSV2}`",
        yaml_values("SlowFast", _SSV2),
        lambda: _rho(
            finetune.RHO_FINETUNE_SSV2, **{"DATA.RANDOM_FLIP": finetune.RHO_FINETUNE_SSV2.strong.flip_probability > 0}
        ),
        _SLOWFAST,
        default_values("SlowFast"),
    ),
    Recipe(
        "linear_clips.RHO_LINEAR_K400",
        "SlowFast",
        f"`./{_K400}`",
        yaml_values("SlowFast", _K400),
        lambda: _rho(linear_clips.RHO_LINEAR_K400),
        _SLOWFAST,
        default_values("SlowFast"),
    ),
    Recipe(
        "finetune.MACLR_FINETUNE",
        "maclr",
        "`./configs/UCF101/SLOW_32x8_R50.yaml`",
        _maclr_yaml("SLOW_32x8_R50.yaml"),
        lambda: _maclr(
            finetune.MACLR_FINETUNE,
            **{
                "DATA.COLOR_JITTER.PROB": finetune.MACLR_FINETUNE.strong.pixels.jitter_probability,
                "DATA.GRAYSCALE.PROB": finetune.MACLR_FINETUNE.strong.pixels.gray_probability,
            },
        ),
        _MACLR,
        default_values("maclr"),
    ),
    Recipe(
        "linear_clips.MACLR_LINEAR",
        "maclr",
        "`./configs/UCF101/SLOW_32x8_R50_CLSONLY.yaml`",
        _maclr_yaml("SLOW_32x8_R50_CLSONLY.yaml"),
        lambda: _maclr(linear_clips.MACLR_LINEAR),
        _MACLR,
        default_values("maclr"),
    ),
    Recipe("modist", "maclr", "`slowfast/config/defaults.py`", lambda _: {}, _modist, defaults=default_values("maclr")),
)
