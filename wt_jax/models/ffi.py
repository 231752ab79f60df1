"""A Python function as an operation of a jitted program on a CPU, called with the addresses of its arrays.

XLA's foreign function interface (`jax.ffi`) is an interface of C; the structures below are what is needed of
xla/ffi/api/c_api.h, which comes with jaxlib. Unlike `jax.pure_callback` it copies nothing, and a program with such an
operation can be kept in the compilation cache.
"""

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import jax

_INTERNAL_ERROR = 13
_Pointers = ctypes.POINTER(ctypes.c_void_p)


def _structure(**fields: type) -> type[ctypes.Structure]:
    """Structures of this interface begin with their size and the first of a chain of extensions."""
    head = {"size": ctypes.c_size_t, "extension": ctypes.c_void_p}
    return type("Structure", (ctypes.Structure,), {"_fields_": tuple((head | fields).items())})


_Version = _structure(major=ctypes.c_int, minor=ctypes.c_int)
_Failure = _structure(message=ctypes.c_char_p, code=ctypes.c_int)
_Api = _structure(version=_Version, internal=ctypes.c_void_p, new_error=ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p))
_Buffer = _structure(dtype=ctypes.c_int, address=ctypes.c_void_p)
_Arrays = _structure(count=ctypes.c_int64, types=ctypes.c_void_p, items=_Pointers)
_Attributes = _structure(count=ctypes.c_int64, types=ctypes.c_void_p, names=ctypes.c_void_p, items=_Pointers)
_Frame = _structure(
    api=ctypes.POINTER(_Api),
    context=ctypes.c_void_p,
    stage=ctypes.c_int,
    arguments=_Arrays,
    results=_Arrays,
    attributes=_Attributes,
)


class _Metadata(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("version", _Version))


class _MetadataWanted(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    )


class _Text(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


@cache
def _version() -> tuple[int, int]:
    """Version of the interface in this jaxlib; what is used here is the same in 0.1 to 0.3."""
    header = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    major, minor = (re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR"))
    return int(major[1]), int(minor[1])


def register(name: str, function: Callable[[str, Sequence[int]], None]) -> None:
    """Make `function` the CPU operation `name` of `jax.ffi.ffi_call(name, ...)(*arrays, text=...)`.

    It is called as `function(text, addresses)` with the operation's one attribute and the addresses of its arguments and
    then of its results: dense, row-major arrays that stay in place until it returns. It may be called from several threads
    at once. What it raises ends the program with that message.
    """

    def handler(address: int) -> int | None:
        frame = _Frame.from_address(address)
        if frame.extension:  # asked at registration which version this is written for
            asked = _MetadataWanted.from_address(frame.extension)
            asked.metadata.contents.version.major, asked.metadata.contents.version.minor = _version()
            return None
        try:
            text = _Text.from_address(frame.attributes.items[0])
            arrays = [
                _Buffer.from_address(array.items[i]) for array in (frame.arguments, frame.results) for i in range(array.count)
            ]
            function(ctypes.string_at(text.start, text.length).decode(), [array.address for array in arrays])
        except Exception as error:
            message = f"{name}: {type(error).__name__}: {error}".encode()
            failure = _Failure(ctypes.sizeof(_Failure), None, message, _INTERNAL_ERROR)
            return frame.api.contents.new_error(ctypes.addressof(failure))
        return None

    entry = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(handler)
    _registered[name] = entry
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(entry), platform="cpu", api_version=1)


_registered: dict[str, Callable] = {}  # keeps the C functions alive
