"""What code that Numba compiles has in common, here and in `wt_jax.data` and `wt_jax.models`; nothing of JAX."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from numba import cfunc, njit, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

T = TypeVar("T")


def compiled(signature: str | None = None, fastmath: Iterable[str] = ()) -> Callable[[Callable], Callable]:
    """Compiles a function that does without Python's lock: at once where a signature is given, else when it is first called."""
    given = [signature] if signature else []
    options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    return lambda function: _kept(lambda cache: njit(*given, cache=cache, **options)(function))


def callback(signature: types.Type, function: Callable) -> CFunc:
    """The function compiled for callers in C, at once."""
    return _kept(lambda cache: cfunc(signature, cache=cache)(function))


def _kept(compile_it: Callable[[bool], T]) -> T:
    """Numba keeps code beside the package or in the user's cache folder, or where NUMBA_CACHE_DIR says; where it can write to
    none of them, each process compiles anew.
    """
    try:
        return compile_it(True)
    except RuntimeError:  # Numba's, where it finds no folder.
        return compile_it(False)


@intrinsic
def pointer(typing_context, address):
    """An address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate
