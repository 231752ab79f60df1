"""XLA's foreign function interface (`jax.ffi`), by which native code is an operation of a jitted program on a CPU.

It is an interface of C; the structures below are what is needed of xla/ffi/api/c_api.h, which comes with jaxlib. Unlike
`jax.pure_callback` it copies nothing, and a program with such an operation can be kept in the compilation cache. Here is
Python's side: registration, the preparation before an operation's first call, and errors;
`wt_jax/kernels/native.py` does the calls themselves.
"""

import ctypes
import re
from collections.abc import Callable
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
Buffer = _structure(dtype=ctypes.c_int, address=ctypes.c_void_p)
_Arrays = _structure(count=ctypes.c_int64, types=ctypes.c_void_p, items=_Pointers)
_Attributes = _structure(count=ctypes.c_int64, types=ctypes.c_void_p, names=ctypes.c_void_p, items=_Pointers)
Frame = _structure(
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


class Text(ctypes.Structure):
    """Value of an attribute that is a string."""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


@cache
def _version() -> tuple[int, int]:
    """Version of the interface in this jaxlib; what is used here is the same in 0.1 to 0.3."""
    header = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    numbers = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header))
    return int(numbers["MAJOR"]), int(numbers["MINOR"])


# What native code calls with the address of a `Frame` and a status: of a call that went wrong, or 0. The result is an error
# of XLA or nothing.
Entry = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def entry(name: str, prepare: Callable[[str], None]) -> Callable[[int, int], int | None]:
    """Python's side of the operation `name`: an `Entry`, which must live as long as there are programs with it.

    `prepare` gets the operation's one attribute, a string, whenever the native code does not know it yet. What it raises ends
    the program with that message.
    """

    def call(address: int, status: int) -> int | None:
        frame = Frame.from_address(address)
        if frame.extension:  # at registration: the version that this is written for
            wanted = _MetadataWanted.from_address(frame.extension)
            wanted.metadata.contents.version.major, wanted.metadata.contents.version.minor = _version()
            return None
        text = Text.from_address(frame.attributes.items[0])
        content = ctypes.string_at(text.start, text.length).decode()
        try:
            if status:
                raise RuntimeError(
                    f"status {status} from {content}; ONEDNN_VERBOSE=all in the environment prints oneDNN's reason"
                )
            prepare(content)
        except Exception as error:
            message = f"{name}: {type(error).__name__}: {error}".encode()
            failure = _Failure(ctypes.sizeof(_Failure), None, message, _INTERNAL_ERROR)
            return frame.api.contents.new_error(ctypes.addressof(failure))
        return None

    return Entry(call)


def register(name: str, handler: Callable) -> None:
    """Make a function of C, `handler(frame)`, the CPU operation `name` of `jax.ffi.ffi_call(name, ...)(*arrays, text=...)`."""
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu", api_version=1)
