"""One weak-teacher step in PyTorch, as a competent user writes it: the same views, networks, losses and update as ours.

Clips arrive as uint8 and lie in memory as channels last; the pixel part of a view is drawn per clip and done in batches, with
the same operations as `wt_jax.augment`; bfloat16 by autocast; TF32 and cuDNN's own search allowed on a GPU; both teachers run
without gradient, their BatchNorms by the batch that they see; one fused optimizer; the moving average by
`torch._foreach_lerp_`; queues overwritten in place. Of the metrics only the loss is computed, which is less than our step does.
The mode of `torch.compile` and the memory layout are free: `measure_step` tries them and takes the fastest.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # of an extra
from torch.nn import functional  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.bench.peers.torch_networks import Embedder, make_embedder
from wt_jax.bench.peers.torch_variables import load_variables
from wt_jax.config import Config
from wt_jax.errors import ConfigError
from wt_jax.methods.weak_teacher import WeakTeacherSettings
from wt_jax.specs import ClipView, PixelSpec

_LUMA = torch.tensor([0.299, 0.587, 0.114])


class TorchStep:
    """Student, teacher, optimizer and queues of a configuration; a call is one step.

    The momentum stays as it begins, whatever its schedule. `rate` is the learning rate by step; `compile_mode` that of
    `torch.compile`, "" for eager.

    Raises:
      ConfigError: the configuration has something that was not written for PyTorch.
    """

    def __init__(
        self,
        config: Config,
        views: Mapping[str, ClipView],
        rate: Callable[[int], float],
        device: torch.device,
        compile_mode: str = "",
        memory_format: str = "channels_last_3d",
    ):
        settings = config.method
        if not isinstance(settings, WeakTeacherSettings) or settings.label not in ("weak_teacher", "strong_teacher", "one_hot"):
            raise ConfigError("PyTorch's step is written for weak_teacher, strong_teacher and one_hot only")
        if config.train.accumulate > 1 or config.model.remat or config.optim.layer_decay < 1:
            raise ConfigError("PyTorch's step has no config.train.accumulate, model.remat or optim.layer_decay")
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self._settings, self._views, self._rate, self._device = settings, views, rate, device
        self._clip_norm, self._bfloat16 = config.optim.clip_norm, config.model.dtype == "bfloat16"
        view = next(iter(views.values()))
        clip_shape = (view.num_frames, view.size, view.size)
        self.student, self.teacher = (make_embedder(config.model, settings, clip_shape).to(device) for _ in range(2))
        self.copy_student()
        self.teacher.requires_grad_(False)
        for module in self.teacher.modules():
            if isinstance(module, torch.nn.BatchNorm3d | torch.nn.BatchNorm1d):
                module.momentum = 0.0  # its own statistics follow the student's
        self._averaged = tuple(list(_floats(network)) for network in (self.teacher, self.student))
        self.optimizer = _optimizer(config, self.student)
        self._layout = getattr(torch, memory_format)
        for network in (self.student, self.teacher):
            network.to(memory_format=self._layout)
        self._scale = [torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (config.model.mean, config.model.std)]
        keys, self.queue = ("key", "weak")[: len(views) - 1], {}  # without a queue the batch's own keys are the negatives
        if size := settings.queue.size:
            self.queue = {name: torch.zeros(size, settings.head.dim, device=device) for name in keys}
            self.queue["video"] = torch.full((size,), -1, dtype=torch.int32, device=device)
        self._columns = (*keys, "video")
        self.step = 0
        wrap = partial(torch.compile, mode=compile_mode) if compile_mode else lambda function: function
        self._look_student, self._look_teacher = wrap(self.student), wrap(self.teacher)
        self._finish, self._loss = wrap(self._finish_views), wrap(self._losses)

    def load(self, params: Mapping) -> None:
        """Start from our parameters (encoder and head)."""
        load_variables(self.student, params)
        self.copy_student()

    def copy_student(self) -> None:
        """Make the teacher equal to the student."""
        self.teacher.load_state_dict(self.student.state_dict())

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One step on uint8 views (B, T, H, W, 3) and "video" (B,) int32, all on the device; the loss, not waited for."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        views = self._finish({name: batch[name] for name in self._views})
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            with torch.no_grad():
                keys = [self._look_teacher(views[name])[0] for name in self._views if name != "query"]
            query, _ = self._look_student(views["query"])
        loss = self._loss(query, keys, batch["video"])
        loss.backward()
        if self._clip_norm:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self._clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged, 1 - self._settings.teacher.momentum)
            start = self.step * len(query) % max(1, self._settings.queue.size)
            entries = dict(zip(self._columns, [*keys, batch["video"]], strict=True))
            for name, column in self.queue.items():
                column[start : start + len(query)] = entries[name]
        self.step += 1
        return loss.detach()

    def _losses(self, query: torch.Tensor, keys: list[torch.Tensor], video: torch.Tensor) -> torch.Tensor:
        settings = self._settings
        queue = self.queue or dict(zip(self._columns, [*keys, video], strict=True))
        mask = queue["video"][None] >= 0
        if settings.queue.drop_same_video or not self.queue:
            mask = mask & (queue["video"][None] != video[:, None])
        positive = (query * keys[0]).sum(-1, keepdim=True)
        negative = (query @ queue["key"].T).masked_fill(~mask, -1e9 * settings.temperature)
        log_shares = functional.log_softmax(torch.cat([positive, negative], -1) / settings.temperature, -1)
        if len(keys) == 1:
            return -log_shares[:, 0].mean()
        with torch.no_grad():
            relation = ((keys[1] @ queue["weak"].T) / settings.weak_temperature).masked_fill(~mask, -math.inf)
            soft = settings.label_weight * relation.softmax(-1).nan_to_num(0.0)  # a row without negatives stays one-hot
            labels = torch.cat([1 - soft.sum(-1, keepdim=True), soft], -1)
        return -(labels * log_shares).sum(-1).mean()

    @torch.no_grad()
    def _finish_views(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Normalized float32 clips (B, 3, T, H, W)."""
        mean, std = self._scale
        finished = {}
        for name, view in self._views.items():
            planes = batch[name].permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format) / 255.0
            finished[name] = ((_finish(planes, view.pixels) - mean) / std).contiguous(memory_format=self._layout)
        return finished


def _floats(network: Embedder) -> list[torch.Tensor]:
    """What the moving average covers: parameters, and BatchNorm's statistics."""
    return [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]


def _optimizer(config: Config, network: torch.nn.Module) -> torch.optim.Optimizer:
    optim = config.optim
    decayed = [p for p in network.parameters() if optim.decay_norms or p.ndim > 1]
    spared = [p for p in network.parameters() if not (optim.decay_norms or p.ndim > 1)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": optim.weight_decay}]
    groups += [{"params": spared, "weight_decay": 0.0}] if spared else []
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optim.name not in kinds:
        raise ConfigError(f"config.optim.name {optim.name!r} has no fused peer in PyTorch; choose one of {', '.join(kinds)}")
    return kinds[optim.name](groups, **({"momentum": optim.momentum} if optim.name == "sgd" else {}), lr=0.0, fused=True)


def _finish(clips: torch.Tensor, spec: PixelSpec) -> torch.Tensor:
    """The pixel part of a view (B, 3, T, H, W): see `wt_jax.augment.finish`, whose operations these are.

    Colors come first: as the last axis they make products of three columns, which takes PyTorch several times as long.
    """
    count, _, frames, height, width = clips.shape
    device = clips.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, 1, 1, device=device).uniform_(low, high)

    def happens(probability: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, device=device) < probability

    if spec.jitter_probability > 0 or spec.gray_probability > 0:
        luma, eye = _LUMA.to(device), torch.eye(3, device=device)
        gray = luma.expand(3, 3)
        brightness, contrast, saturation = (
            uniform(max(0.0, 1 - strength), 1 + strength) for strength in (spec.brightness, spec.contrast, spec.saturation)
        )
        turn = uniform(-spec.hue, spec.hue)
        same, after, before = ((1 + 2 * (2 * math.pi * (turn + shift / 3)).cos()) / 3 for shift in (0, 1, -1))
        rotation = torch.cat([same, after, before, before, same, after, after, before, same], -1).view(count, 3, 3)
        color = rotation @ (saturation * eye + (1 - saturation) * gray)
        level = (brightness[:, 0] * clips.mean((2, 3, 4))) @ luma
        matrix, offset = color * (brightness * contrast), color.sum(-1) * ((1 - contrast[:, 0]) * level[:, None])
        jitter = happens(spec.jitter_probability)
        matrix, offset = torch.where(jitter, matrix, eye), torch.where(jitter[:, 0], offset, 0.0)
        last = torch.where(happens(spec.gray_probability), gray, eye)
        clips = torch.baddbmm(last @ offset[..., None], last @ matrix, clips.view(count, 3, -1)).clamp_(0, 1)
    if spec.blur_probability > 0:
        sigma = uniform(*spec.blur_sigma)
        blurred = happens(spec.blur_probability)
        rows, columns = (_blur(sigma, blurred, size, device) for size in (height, width))
        clips = clips.view(count, 3 * frames * height, width) @ columns.mT
        clips = rows[:, None] @ clips.view(count, 3 * frames, height, width)
    return clips.view(count, 3, frames, height, width)


def _blur(sigma: torch.Tensor, blurred: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    place = torch.arange(size, device=device, dtype=torch.float32)
    far = (place[:, None] - place).square() / (2 * sigma.square())
    weight = (-far.clamp(max=40.0)).exp()
    return torch.where(blurred, weight / weight.sum(-1, keepdim=True), torch.eye(size, device=device))
