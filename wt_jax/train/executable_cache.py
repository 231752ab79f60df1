"""A cache of compiled train steps: a training that starts again loads its executable, and neither traces nor compiles.

JAX's compilation cache identifies a program by its text, so a step must be traced before it is found there: seconds for a
deep network. Here the key is all that the trace depends on: configuration, shapes, versions, devices, JAX's options, and
every line of this package. A method or network of another package is not cached, as its code is not part of the key.
"""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

import wt_jax
from wt_jax.config import Config
from wt_jax.files import write_atomic
from wt_jax.ops import fingerprint
from wt_jax.train.metrics import device_peak
from wt_jax.train.program import Program
from wt_jax.train.step import batch_shapes, model_flops

log = logging.getLogger("wt_jax")

_PACKAGE = Path(wt_jax.__file__).parent
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "einops", "numpy")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Options that do not change the program.
_IGNORED_OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache", "jax_explain_cache", "jax_log")


class CompiledStep(NamedTuple):
    """A step that is ready to run, and its floating point operations (`wt_jax.train.step.model_flops`), which are counted
    where the device's peak is known.
    """

    call: Any
    flops: int | None


def compiled_step(program: Program, config: Config) -> CompiledStep:
    """The step of `program`, built from `config`: loaded from the folder `config.train.compile_cache`, or compiled and cached.

    It is not cached where the training has several processes, or a method or network of another package; nor does JAX cache it
    on several CPUs with native operations. A file that cannot be read or written is logged and does no harm. A program that
    changes this package while it runs (tests do) must not name a folder, as the key does not see its changes.
    """
    if not config.train.compile_cache or jax.process_count() > 1 or not _is_own_code(program):
        return _compile(program, config)
    path = epath.Path(config.train.compile_cache) / f"step-{_fingerprint(program, config)}"
    if cached := _load(path, program, config):
        return cached
    with _without_jax_cache():
        step = _compile(program, config)
    _store(path, step)
    return step


@contextmanager
def _without_jax_cache() -> Iterator[None]:
    """Inside, JAX's own cache is off: on a CPU an executable from a cache lacks its functions when it is serialized again."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]  # made at import
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _compile(program: Program, config: Config) -> CompiledStep:
    """Trace and compile the step."""
    size = config.train.batch_size
    flops = model_flops(program.counted, program.shapes, size) if device_peak() else None
    return CompiledStep(program.step.lower(program.shapes, batch_shapes(program.method, size)).compile(), flops)


def _is_own_code(program: Program) -> bool:
    parts = (program.method, program.method.encoder)
    return all(type(part).__module__.partition(".")[0] == wt_jax.__name__ for part in parts)


def _fingerprint(program: Program, config: Config) -> str:
    """The key: a hash of all that the program depends on."""
    options = [
        (name, repr(getattr(jax.config, name, value)))
        for name, value in sorted(jax.config.values.items())
        if not name.startswith(_IGNORED_OPTIONS)
    ]
    facts = [
        (config, program.method, program.method.encoder),
        (program.num_steps, program.steps_per_epoch),
        [(jax.tree_util.keystr(path), repr(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(program.shapes)],
        [(name, version(name)) for name in _VERSIONS],
        (sys.version, platform.machine(), _processor(), fingerprint()),
        options,
        [os.environ.get(name) for name in _VARIABLES],
        [(device.id, device.platform, device.device_kind) for device in jax.devices()],
        jax.devices()[0].client.platform_version,
        [(str(path.relative_to(_PACKAGE)), _sha(path.read_bytes())) for path in sorted(_PACKAGE.rglob("*.py"))],
    ]
    return _sha(repr(facts).encode())


def _processor() -> str:
    """The features of this machine's processor: a program for another one may not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _load(path: epath.Path, program: Program, config: Config) -> CompiledStep | None:
    """The executable in a file, or None."""
    try:
        head, content = path.read_bytes().split(b"\n", 1)
        facts = json.loads(head)
        if facts["sha256"] != _sha(content):
            raise ValueError("it is damaged")
        batch = batch_shapes(program.method, config.train.batch_size)
        inputs = jax.tree.structure(((program.shapes, batch), {}))
        outputs = jax.tree.structure((program.shapes, dict.fromkeys(facts["metrics"], 0)))
        # JAX registers LAPACK's routines when it lowers a program that uses them; a loaded program was not lowered here.
        jax.jit(jnp.linalg.inv).lower(jax.ShapeDtypeStruct((2, 2), jnp.float32))
        devices = list(program.mesh.devices.flat)
        step = serialize_executable.deserialize_and_load(content, inputs, outputs, execution_devices=devices)
        return CompiledStep(step, facts["flops"])
    except FileNotFoundError:
        return None
    except Exception as error:  # of the file, the system or XLA
        log.warning(
            "executable cache: %s cannot be loaded, the step is compiled again: %s", path, str(error).partition("\n")[0]
        )
        return None


def _store(path: epath.Path, step: CompiledStep) -> None:
    """Write the executable with the facts that `_load` needs."""
    try:
        content, _, outputs = serialize_executable.serialize(step.call)
        _, metrics = jax.tree.unflatten(outputs, range(outputs.num_leaves))
        head = {"sha256": _sha(content), "flops": step.flops, "metrics": list(metrics)}
        write_atomic(path, json.dumps(head).encode() + b"\n" + content, shared=True)
    except Exception as error:  # of the system, or of a backend without serialization
        log.warning("executable cache: the step cannot be stored in %s: %s", path.parent, str(error).partition("\n")[0])
