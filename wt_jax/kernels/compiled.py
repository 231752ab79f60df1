"""How code is compiled by Numba; independent of JAX."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numba.extending
from numba import cfunc, njit, types
from numba.core.ccallback import CFunc

T = TypeVar("T")


def compiled(signature: str | None = None, fastmath: Iterable[str] = ()) -> Callable[[Callable], Callable]:
    """Compile a function that releases Python's lock: at once where there is a signature, else at its first call."""
    signatures: list[Any] = [signature] if signature else []
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    return lambda function: _cached(lambda cache: njit(*signatures, cache=cache, **options)(function))


def callback(signature: Any, function: Callable) -> CFunc:
    """The function compiled for callers in C, at once."""
    return _cached(lambda cache: cfunc(signature, cache=cache)(function))


def _cached(compile_it: Callable[[bool], T]) -> T:
    """Numba caches code in the package, in the user's cache folder, or in NUMBA_CACHE_DIR; where it can write to none of them,
    each process compiles again.
    """
    try:
        return compile_it(True)
    except RuntimeError:  # Numba's, where it finds no folder.
        return compile_it(False)


def intrinsic(function: Callable) -> Callable[..., Any]:
    """Numba's: the function is given types and returns a signature and the code; it is called with the arguments alone."""
    return numba.extending.intrinsic(function)


@intrinsic
def pointer(typing_context, address):
    """An address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate
