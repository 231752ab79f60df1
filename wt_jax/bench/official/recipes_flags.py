"""Recipes whose source is a command line: CoCLR, SwAV, ReSSL, CLSA, SEED, VTDL, VideoMAE, SVT, SCALE."""

import inspect
from collections.abc import Mapping
from typing import Any
from unittest import mock

from wt_jax.bench.official.recipes import Recipe, config, flags, number, queue
from wt_jax.bench.official.sources import Sources
from wt_jax.eval.protocols import finetune, linear_clips
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.methods import default_settings

_PLACES = (
    r".*(path|dir|folder|resume|reset.lr|port|workers|seed|gpu|rank|url|world|dist|print|save|log|prefix|start.epoch|pretrain|"
    r"test|eval).*"
)
_VIEWS = r".*(aug|crop|pick|color|interpolation|input_size|imagenet).*"


def _optim(recipe: str, clips: int, **names: str) -> dict[str, Any]:
    """Rate (of so many clips), weight decay, durations and batch of a configuration, by the names that theirs have."""
    made = config(recipe)
    optim, train = made.optim, made.train
    values = {
        "lr": optim.learning_rate * clips / 256,
        "wd": optim.weight_decay,
        "wd_end": optim.final_weight_decay,
        "epochs": number(train.duration),
        "warmup": number(optim.warmup),
        "start": optim.start_rate * clips / 256,
        "final": optim.final_rate * clips / 256,
        "batch": train.batch_size,
        "clip": optim.clip_norm,
        "schedule": [int(number(each)) for each in optim.milestones],
        "name": optim.name,
        "betas": list(optim.betas),
        "frames": made.clip.num_frames,
        "stride": made.clip.stride,
        "size": made.clip.size,
    }
    return {theirs: values[ours] for ours, theirs in names.items()}


def _coclr(sources: Sources, script: str, *words: str) -> Mapping[str, Any]:
    module = {"main_nce": "main_nce", "eval": "eval.main_classifier"}[script]
    return flags("CoCLR", module, "README.md", *words, absent=("model", "dataset", "backbone"))(sources)


def _coclr_pretrain(name: str, gpus: int) -> dict[str, Any]:
    made = config(name)
    found = _optim(
        name, made.train.batch_size, lr="lr", wd="wd", epochs="epochs", schedule="schedule", frames="seq_len", size="img_dim"
    )
    return {
        **found,
        "batch_size": made.train.batch_size / gpus,
        "ds": made.clip.stride,
        "net": made.model.name,
        "moco_k": made.method.queue.size,
        "moco_m": made.method.teacher.momentum,
        "moco_t": made.method.temperature,
        "moco_dim": made.method.head.dim,
    }


def _coclr_test(training: ClipTraining) -> dict[str, Any]:
    optim = training.optim
    return {
        "batch_size": training.train.batch_size / 2,  # on two GPUs
        "optim": optim.name,
        "lr": optim.learning_rate * training.train.batch_size / 256,
        "wd": optim.weight_decay,
        "epochs": number(training.train.duration),
        "schedule": [int(number(each)) for each in optim.milestones],
        "cos": optim.schedule == "cosine",
        "train_what": "last" if training.method.freeze == "encoder" else "ft",
    }


def _ressl(sources: Sources) -> Mapping[str, Any]:
    network = sources.load("ReSSL", "network.ressl", absent=("network.backbone",))
    head = sources.load("ReSSL", "network.head")
    script = sources.load("ReSSL", "ressl", absent=("data", "network.backbone"))
    signatures = {"ReSSL": network.ReSSL, "ProjectionHead": head.ProjectionHead}
    found = {
        f"{name}.{key}": value.default
        for name, kind in signatures.items()
        for key, value in inspect.signature(kind.__init__).parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    return found | {"t": script.args.t}


def _vtdl(sources: Sources) -> Mapping[str, Any]:
    file = "src/scripts/TemporalDis/ucf101.sh"
    with mock.patch("socket.gethostname", return_value="amax"), mock.patch("os.makedirs"):
        return flags("VTDL", "train_temporal_dis", file, call="parse_option", below="src", absent=("model", "data", "TC"))(
            sources
        )


def _vtdl_test(training: ClipTraining) -> dict[str, Any]:
    optim, train = training.optim, training.train
    return {
        "batch_size": train.batch_size,
        "lr": optim.learning_rate * train.batch_size / 256,
        "weight_decay": optim.weight_decay,
        "momentum": optim.momentum,
        "epochs": number(train.duration),
        "lr_steps": list(map(number, optim.milestones)),
        "dropout": training.method.dropout,
        "optim": optim.name,
    }


def _swav() -> dict[str, Any]:
    settings = default_settings("swav")
    return {
        "nmb_crops": [settings.clips],
        "crops_for_assign": [0, 1],
        "temperature": settings.temperature,
        "epsilon": settings.epsilon,
        "sinkhorn_iterations": settings.iterations,
        "feat_dim": settings.head.dim,
        "hidden_mlp": settings.head.hidden,
        "nmb_prototypes": settings.prototypes,
        "queue_length": settings.queue.size,
        "epoch_queue_starts": settings.queue.start * 200,
        "freeze_prototypes_niters": settings.freeze_prototypes * 200 * 5005,
    }


def _scale() -> dict[str, Any]:
    settings = default_settings("scale")
    names = {"lr": "lr", "wd": "wd", "epochs": "epochs", "batch": "batch_size"}
    return {
        **_optim("k400:scale", 512, **names),
        "warmup_percentage": number(config("k400:scale").optim.warmup) / 100,
        "dense_temperature": settings.temperature,
        "set_temperature": settings.temperature,
        "set_loss_weight": settings.set_weight,
        "dense_loss_weight": settings.clip_weight,
        "dense_contrastive_dim": settings.dim,
        "set_contrastive_dim": settings.dim,
        "mask_ratio": settings.mask,
        "num_views": settings.clips,
    }


def _videomae() -> dict[str, Any]:
    settings = default_settings("videomae")
    names = {"lr": "lr", "wd": "weight_decay", "epochs": "epochs", "warmup": "warmup_epochs", "start": "warmup_lr"}
    names |= {"final": "min_lr", "betas": "opt_betas", "name": "opt", "frames": "num_frames", "stride": "sampling_rate"}
    return {
        **_optim("k400:videomae", 256, **names),
        "batch_size": config("k400:videomae").train.batch_size / 64,
        "input_size": config("k400:videomae").clip.size,
        "mask_ratio": settings.ratio,
        "mask_type": settings.mask.removesuffix("s"),
        "decoder_depth": settings.decoder.blocks,
        "normlize_target": settings.normalize == "color",
    }


def _svt() -> dict[str, Any]:
    settings = default_settings("svt")
    names = {"lr": "lr", "wd": "weight_decay", "wd_end": "weight_decay_end", "epochs": "epochs", "warmup": "warmup_epochs"}
    made = config("k400:svt")
    return {
        **_optim("k400:svt", 256, **names, name="optimizer", clip="clip_grad"),
        "min_lr": made.optim.final_rate * made.train.batch_size / 256,
        "batch_size_per_gpu": made.train.batch_size / 4,
        "out_dim": settings.head.prototypes,
        "momentum_teacher": settings.teacher.momentum,
        "teacher_temp": settings.teacher_temperature,
        "warmup_teacher_temp": settings.teacher_temperature,
        "freeze_last_layer": settings.freeze_last * number(made.train.duration),
        "global_crops_scale": settings.crops.global_area,
        "local_crops_number": settings.crops.local_clips,
        "local_crops_scale": settings.crops.local_area,
    }


RECIPES = (
    Recipe(
        "swav",
        "swav",
        "`scripts/swav_200ep_bs256_pretrain.sh`",
        flags("swav", "main_swav", "scripts/swav_200ep_bs256_pretrain.sh", call="parser"),
        _swav,
        f"{_PLACES}|{_VIEWS}|epochs|batch_size|.*lr|wd|warmup.*|start_warmup|arch|checkpoint.*|use_fp16|sync.*",
    ),
    Recipe(
        "ressl",
        "ReSSL",
        "`network/ressl.py`, `network/head.py`, `ressl.py`",
        _ressl,
        lambda: queue(
            "ressl", queue="ReSSL.K", momentum="ReSSL.m", dim="ReSSL.dim", hidden="ProjectionHead.hidden_dim", t_weak="t"
        ),
        r"ReSSL\.backbone|ProjectionHead\.(dim_in|dim_out)",
    ),
    Recipe(
        "clsa",
        "CLSA",
        "`cmd/run_single.sh`",
        flags("CLSA", "ops.argparser", "cmd/run_single.sh", call="argparser"),
        lambda: {
            **queue("clsa", queue="moco_k", momentum="moco_m", dim="moco_dim", t="moco_t"),
            "mlp": 1,
            "sym": 0,
            "alpha": default_settings("clsa").divergence_weight,
            "clsa_t": default_settings("clsa").divergence_temperature,
        },
        f"{_PLACES}|{_VIEWS}|data.*|arch|epochs|batch_size|lr|momentum|weight_decay|cos|choose|multi.*|nodes.*",
    ),
    Recipe(
        "seed",
        "SEED",
        "`tools/opts.py`",
        flags("SEED", "tools.opts", "", call="parse_opt", absent=("seed",)),
        lambda: {
            **queue("seed", queue="queue", t="temp"),
            "distill_t": default_settings("seed").teacher_temperature,
            "student_mlp": default_settings("seed").head.layers == 2,
        },
        f"{_PLACES}|data|output|student.arch|teacher.arch|epochs|batch_size|lr|schedule|momentum|weight_decay|distill|info|dim|"
        "cos|teacher_ssl|wd",
    ),
    Recipe(
        "vtdl",
        "VTDL",
        "`src/scripts/TemporalDis/ucf101.sh`",
        _vtdl,
        lambda: queue("vtdl", queue="nce_k", momentum="alpha", t="nce_t"),
        f"{_PLACES}|batch_size|epochs|learning_rate|lr.*|beta.|weight_decay|momentum|crop|dataset|aug|warm|amp|opt_level|model.*|"
        "arch|softmax|nce_m|moco|.*list|method|tb_.*|kmeans.*|pseduo.*|tsne.*",
    ),
    Recipe(
        "k400:one_hot",
        "CoCLR",
        "`README.md`, `main_nce.py`",
        lambda sources: _coclr(sources, "main_nce", "--moco-k 16384", "k400-2clip"),
        lambda: _coclr_pretrain("k400:one_hot", 4),
        f"{_PLACES}|model|dataset|num_seq|optim|multi.*",
    ),
    Recipe(
        "ucf101:one_hot",
        "CoCLR",
        "`README.md`, `main_nce.py`",
        lambda sources: _coclr(sources, "main_nce", "--moco-k 2048", "ucf101-2clip"),
        lambda: _coclr_pretrain("ucf101:one_hot", 2),
        f"{_PLACES}|model|dataset|num_seq|optim|multi.*",
    ),
    Recipe(
        "k400:videomae",
        "VideoMAE",
        "`scripts/kinetics/videomae_vit_base_*_epoch_800/pretrain.sh`",
        flags(
            "VideoMAE",
            "run_mae_pretraining",
            "scripts/kinetics/videomae_vit_base_patch16_224_tubemasking_ratio_0.9_epoch_800/pretrain.sh",
            call="get_args",
        ),
        _videomae,
        f"{_PLACES}|{_VIEWS}|model|drop_path|opt_eps|clip_grad|momentum|weight_decay_end|warmup_steps|use_check.*|"
        "device|pin_mem",
    ),
    Recipe(
        "k400:svt",
        "svt",
        "`scripts/train.sh`, `train_ssl.py`",
        flags("svt", "train_ssl", "scripts/train.sh", call="get_args_parser"),
        _svt,
        f"{_PLACES}|arch|patch_size|norm_last_layer|use_bn.*|warmup_teacher_temp_epochs|use_fp16|cfg_file|opts|nb_knn|"
        "temperature",
    ),
    Recipe(
        "k400:scale",
        "SCALE",
        "`src/train.py`",
        flags("SCALE", "train", "", "--exp_name=x", below="src", absent=("scale",)),
        _scale,
        f"{_PLACES}|exp_name|extracted.*|linear_db|hidden_size|num_layers|dropout|mlp_ratio|initialization.*|dataset",
    ),
    Recipe(
        "finetune.COCLR_FINETUNE",
        "CoCLR",
        "`README.md`, `eval/main_classifier.py`",
        lambda sources: _coclr(sources, "eval", "--train_what ft", "--pretrain"),
        lambda: {**_coclr_test(finetune.COCLR_FINETUNE), "dropout": finetune.COCLR_FINETUNE.method.dropout},
        f"{_PLACES}|net|model|dataset|which_split|seq_len|num_seq|num_fc|ds|img_dim|retrieval|.*crop|reset_lr|.*final_bn",
    ),
    Recipe(
        "linear_clips.COCLR_LINEAR",
        "CoCLR",
        "`README.md`, `eval/main_classifier.py`",
        lambda sources: _coclr(sources, "eval", "--train_what last", "--pretrain"),
        lambda: _coclr_test(linear_clips.COCLR_LINEAR),
        f"{_PLACES}|net|model|dataset|which_split|seq_len|num_seq|num_fc|ds|img_dim|retrieval|.*crop|reset_lr|dropout",
    ),
    Recipe(
        "finetune.VTDL_FINETUNE_UCF101",
        "VTDL",
        "`readme.md`, `src/option.py`",
        flags("VTDL", "option", "readme.md", "--method ft", "--dataset ucf101", call="parser", below="src"),
        lambda: _vtdl_test(finetune.VTDL_FINETUNE_UCF101),
        f"{_PLACES}|mode|method|pt_loss|nce|data.*|root|arch|logits.*|.*list|flow.*|snap.*|cluster.*|stride|weights|spatial.*|clip.*|"
        "mutual.*|mixup",
    ),
    Recipe(
        "finetune.VTDL_FINETUNE_HMDB51",
        "VTDL",
        "`readme.md`, `src/option.py`",
        flags("VTDL", "option", "readme.md", "--method ft", "--dataset hmdb51", call="parser", below="src"),
        lambda: _vtdl_test(finetune.VTDL_FINETUNE_HMDB51),
        f"{_PLACES}|mode|method|pt_loss|nce|data.*|root|arch|logits.*|.*list|flow.*|snap.*|cluster.*|stride|weights|spatial.*|clip.*|"
        "mutual.*|mixup",
    ),
)
