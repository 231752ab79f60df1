"""What a configuration's step is on TPUs or GPUs that are not here: `wt-jax inspect --config=... --topology=v5e:2x4`.

For a TPU topology the TPU's compiler (libtpu, the extra `tpu`) compiles the step on this machine's CPU: memory, FLOPs, time by
the compiler's estimate, collectives and copies are its figures. For GPUs (`cuda` or `cuda:8`) the step is lowered, and
memory is counted from shapes, as only a machine with a GPU has the compiler for one. No data and no accelerator are needed.
"""

import importlib.util
import os
import re
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.augment import finish_views
from wt_jax.config import Config
from wt_jax.errors import ConfigError
from wt_jax.methods.base import MethodState
from wt_jax.ops.attention import as_on_gpu
from wt_jax.progress import waiting
from wt_jax.specs import batch_arrays
from wt_jax.tools.hlo import COLLECTIVES, Collective, collectives, copies, custom_calls
from wt_jax.train.communication import sent_per_step
from wt_jax.train.metrics import PEAK_FLOPS, of_kind
from wt_jax.train.program import Program, build
from wt_jax.train.sharding import batch_sharding
from wt_jax.train.step import batch_shapes, model_flops

# Kinetics-400's training videos in the CVDF copy: only the schedule's length depends on it.
VIDEOS = 241_258
PARTS = ("params", "model_state", "opt_state", "teacher", "buffers")
# HBM in GiB and bytes per second to and from it, by the device kinds of `wt_jax.train.metrics.PEAK_FLOPS`: data sheets.
_CHIPS = {"TPU v4": (32, 1.228e12), "TPU v5 lite": (16, 8.19e11), "TPU v5": (95, 2.765e12), "TPU v6 lite": (32, 1.64e12)}
_NAMES = "v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:2x4, cuda or cuda:8"
# Else libtpu asks a server of the cloud what machine this is, and lets one process alone use it.
_LIBTPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
_LARGEST = 6  # arrays and copies that are listed
_OUT_OF_MEMORY = r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device: `state` and `batch` are what goes in, `temporary` what the step needs beside them."""

    state: float
    batch: float
    temporary: float

    @property
    def total(self) -> float:
        """All of it; the new state takes the place of the old one."""
        return self.state + self.batch + self.temporary


def inspect_topology(config: Config, topology: str) -> str:
    """The report, as text; to be called before JAX has used any device.

    Raises:
      ConfigError: there is no such topology, libtpu is missing, or the configuration cannot be run on so many devices.
    """
    jax.config.update("jax_platforms", "cpu")  # a TPU's compiler is no TPU, and would be waited for
    return _inspect_gpus(config, topology) if topology.startswith("cuda") else _inspect_tpus(config, topology)


def tpu_devices(topology: str) -> list[Any]:
    """Devices of a TPU topology that programs can be compiled for, not run on.

    Raises:
      ConfigError: libtpu is missing, or knows no such topology.
    """
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"--topology={topology} needs the TPU's compiler: pip install 'wt_jax[tpu]'")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # of several classes, by the version
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--topology={topology} is none that libtpu knows ({reason}); try {_NAMES}") from None


def _inspect_tpus(config: Config, topology: str) -> str:
    devices = tpu_devices(topology)
    program = build(config, VIDEOS, devices=devices)
    batch = batch_shapes(program.method, config.train.batch_size)
    lines = _head(config, program, f"{len(devices)} {devices[0].device_kind}")
    start = time.monotonic()
    with waiting(f"lowering for {topology}"):
        lowered = program.step.lower(program.shapes, batch)
    lowering, start = time.monotonic() - start, time.monotonic()
    held = _held(program, batch)
    chip = of_kind(_CHIPS, devices[0].device_kind) or (None, None)
    try:
        with waiting(f"compiling for {topology}"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(_OUT_OF_MEMORY, str(error))
        if not found:
            raise
        used, limit = (float(found[i]) * {"M": 2**20, "G": 2**30}[found[i + 1]] for i in (1, 3))
        memory = Memory(*held, used - sum(held))
        lines += _memory_lines(memory, limit, config, program)
        return "\n".join(
            [*lines, f"time: lowered in {lowering:.0f} s, refused by the compiler after {time.monotonic() - start:.0f} s"]
        )
    text, analysis = compiled.as_text() or "", compiled.memory_analysis()
    assert analysis is not None  # this compiler has it
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory = Memory(*held, analysis.argument_size_in_bytes - sum(held) + new + analysis.temp_size_in_bytes)
    lines += _memory_lines(memory, chip[0] and chip[0] * 2**30, config, program)
    lines += _cost_lines(compiled, program, config, devices, chip[1])
    lines += _collective_lines(collectives(text, len(devices)), program, config)
    lines += _text_lines(text)
    lines += _array_lines(program, batch)
    return "\n".join([*lines, f"time: lowered in {lowering:.0f} s, compiled in {time.monotonic() - start:.0f} s"])


def _inspect_gpus(config: Config, topology: str) -> str:
    named = re.fullmatch(r"cuda(?::([1-9]\d*))?", topology)
    if not named:
        raise ConfigError(f"--topology={topology} names no GPUs; try {_NAMES}")
    count = int(named[1] or 1)
    jax.config.update("jax_num_cpu_devices", count)  # they are in the GPUs' places
    program = build(config, VIDEOS)
    # Of one device: in the program for several, calls that are to be divided among them have no names yet.
    alone = build(replace(config, train=replace(config.train, fsdp=1)), VIDEOS, devices=jax.devices()[:1])
    batch = batch_shapes(program.method, config.train.batch_size)
    lines = _head(config, program, f"{count} NVIDIA GPU")
    start = time.monotonic()
    with as_on_gpu(), waiting(f"lowering for {topology}"):
        text = alone.step.trace(alone.shapes, batch).lower(lowering_platforms=("cuda",)).as_text()
        kept = _kept_for_backward(program, config) / count
    memory = Memory(*_held(program, batch), kept)
    lines += _memory_lines(memory, None, config, program)
    lines.append("  temporary is what the backward pass reads, from shapes; XLA saves some of it, and adds what a layer needs")
    lines += [_calls_line(text), "collectives are not known before a GPU's machine compiles", _paper_line(program, config)]
    lines += _array_lines(program, batch)
    return "\n".join([*lines, f"time: lowered in {time.monotonic() - start:.0f} s, not compiled: that needs a GPU"])


def _head(config: Config, program: Program, devices: str) -> list[str]:
    sizes = ", ".join(f"{size} {name}" for name, size in program.mesh.shape.items())
    return [
        f"{config.method_name} with {config.model.name}, {config.model.dtype}, batch {config.train.batch_size} in "
        f"{config.train.accumulate} piece(s), on {devices} ({sizes}); per device:"
    ]


def _held(program: Program, batch: Any) -> tuple[float, float]:
    """Bytes of state and batch on one device."""
    return sum(map(_on_device, jax.tree.leaves(program.shapes))), sum(map(_bytes, batch.values())) / program.mesh.size


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _on_device(leaf: Any) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize


def _state_line(program: Program) -> str:
    sizes = {part: sum(map(_on_device, jax.tree.leaves(getattr(program.shapes, part)))) for part in PARTS}
    return f"  state, MiB: {', '.join(f'{part} {size / 2**20:.1f}' for part, size in sizes.items())}"


def _memory_lines(memory: Memory, limit: float | None, config: Config, program: Program) -> list[str]:
    parts = [f"{name} {size / 2**30:.2f}" for name, size in vars(memory).items()]
    lines = [f"memory: {memory.total / 2**30:.2f} GiB ({', '.join(parts)})", _state_line(program)]
    fits = fit_lines(memory, limit, config.train.batch_size, config.train.accumulate, program.mesh.size) if limit else []
    return [*lines, *(f"  {line}" for line in fits)]


def fit_lines(memory: Memory, limit: float, batch_size: int, accumulate: int, devices: int) -> list[str]:
    """Whether it fits into `limit` bytes, and by how much; what would, in proportion.

    The batch grows with the clips of a step, what is temporary with those of a piece, the state with neither.
    """
    rows, room = batch_size // devices, limit - memory.state
    if memory.total <= limit:
        most = int(rows * room / (memory.batch + memory.temporary))
        left, clips = (limit - memory.total) / 2**30, f"{most * devices} clips per step would ({most} each)"
        return [f"fits in {limit / 2**30:.2f} GiB, {left:.2f} left; in proportion, {clips}"]
    first = f"does NOT fit in {limit / 2**30:.2f} GiB, {(memory.total - limit) / 2**30:.2f} too much"
    for pieces in (n for n in range(accumulate + 1, rows + 1) if rows % n == 0):
        if memory.batch + memory.temporary * accumulate / pieces <= room:
            return [first, f"in proportion, --config.train.accumulate={pieces} fits; try it with this command"]
    return [first, "no accumulate is enough; take more devices, --config.train.fsdp=0 or --config.model.remat=True"]


def _cost_lines(compiled: Any, program: Program, config: Config, devices: list[Any], bandwidth: float | None) -> list[str]:
    cost, peak = compiled.cost_analysis() or {}, of_kind(PEAK_FLOPS, devices[0].device_kind)
    cost = cost[0] if isinstance(cost, list) else cost
    flops, moved, seconds = (cost.get(name, 0.0) for name in ("flops", "bytes accessed", "optimal_seconds"))
    model = model_flops(program.counted, program.shapes, config.train.batch_size) / len(devices)
    lines = [f"FLOPs: {flops / 1e12:.3f} T by the compiler, {model / 1e12:.3f} T of the model; {moved / 2**30:.2f} GiB moved"]
    if not peak or not bandwidth:
        return lines
    least = max(flops / peak, moved / bandwidth)
    bound = "computing" if flops / peak > moved / bandwidth else "memory"
    lines.append(
        f"  at the data sheet's {peak / 1e12:.0f} TFLOP/s and {bandwidth / 1e12:.2f} TB/s: {1e3 * flops / peak:.1f} ms of "
        f"computing, {1e3 * moved / bandwidth:.1f} ms of memory; MFU at most {model / peak / least:.0%}, bound by {bound}"
    )
    if seconds > 0:
        lines.append(f"  the compiler's own estimate: {1e3 * seconds:.1f} ms per step, MFU {model / peak / seconds:.0%}")
    return lines


def _collective_lines(found: list[Collective], program: Program, config: Config) -> list[str]:
    lines = [f"collectives: {len(found)} of {sum(each.sent for each in found) / 2**20:.2f} MiB sent (rings)"]
    for kind in COLLECTIVES:
        same = [each for each in found if each.kind == kind]
        if not same:
            continue
        largest = max(same, key=lambda each: each.size)
        looped = sum(each.repeats > 1 for each in same)
        lines.append(
            f"  {len(same):3} {kind:18} {sum(each.repeats * each.size for each in same) / 2**20:9.2f} MiB, the largest "
            f"{largest.size / 2**20:.2f} MiB {largest.shape[:60]}" + (f"; {looped} in loops" if looped else "")
        )
    return [*lines, _paper_line(program, config)]


def _paper_line(program: Program, config: Config) -> str:
    sent = sent_per_step(program, config.train.batch_size)
    named = ", ".join(f"{name} {size / 2**20:.2f}" for name, size in sent.items())
    return f"  by hand (wt_jax/train/communication.py): {sum(sent.values()) / 2**20:.2f} MiB sent: {named}"


def _calls_line(text: str) -> str:
    called = ", ".join(f"{count} {target}" for target, count in sorted(custom_calls(text).items()))
    return f"custom calls: {called or 'none'}"


def _text_lines(text: str) -> list[str]:
    found = copies(text)
    total = sum(each.size * each.repeats for each in found)
    lines = [_calls_line(text), f"copies and transpositions of 1 MiB or more: {len(found)}, {total / 2**30:.2f} GiB"]
    for each in found[:_LARGEST]:
        times = f" x {each.repeats}" if each.repeats > 1 else ""
        lines.append(f"  {each.size / 2**20:9.1f} MiB{times} {each.shape}  {each.cause[-80:]}")
    return lines


def _array_lines(program: Program, batch: Any) -> list[str]:
    arrays = [
        (_on_device(leaf), f"{part}{jax.tree_util.keystr(path)}", leaf, leaf.sharding.spec)
        for part in PARTS
        for path, leaf in jax.tree.leaves_with_path(getattr(program.shapes, part))
    ]
    spec = batch_sharding(program.mesh).spec
    views = [name for name in batch_arrays(program.method.views)]
    arrays += [(_bytes(batch[name]) // program.mesh.size, f"batch[{name!r}]", batch[name], spec) for name in views]
    lines = ["largest arrays:"]
    for size, name, leaf, spec in sorted(arrays, key=lambda each: -each[0])[:_LARGEST]:
        lines.append(f"  {size / 2**20:9.1f} MiB {name} {leaf.dtype}{list(leaf.shape)} {spec if any(spec) else 'whole'}")
    return lines


def _kept_for_backward(program: Program, config: Config) -> int:
    """Bytes that the backward pass reads of the forward one, parameters included, for one piece of the batch."""
    method = program.method

    def pullback(state: MethodState, batch: Any) -> Any:
        key = jax.random.key(0)
        finished = finish_views(batch, method.views, key)
        return jax.vjp(lambda params: method.loss(params, state, finished, key, jnp.int32(0))[0], state.params)[1]

    piece = batch_shapes(method, config.train.batch_size // config.train.accumulate)
    return sum(map(_bytes, jax.tree.leaves(jax.eval_shape(pullback, program.shapes.method_state, piece))))
