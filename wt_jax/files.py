"""Files that appear whole or not at all: written beside their path, then renamed over it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def atomic_path(path: Any, *, shared: bool = False, sync: bool = False) -> Iterator[Any]:
    """A draft to write instead of `path`, which it replaces when the block ends; after an error it is removed and `path` stays.

    The draft is hidden (`.NAME`, so it has the suffix of `path`) and in the same folder, which is made. A draft left by a kill
    is overwritten by the next call.

    Args:
      path: a `pathlib.Path`, or an `etils.epath.Path` where it may be remote.
      shared: whether several processes or threads may write this file at the same time; each then has its own draft.
      sync: whether the content must also survive a power failure.
    """
    draft = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{path.name}" if shared else f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_atomic(path: Any, content: str | bytes, *, shared: bool = False, sync: bool = False) -> None:
    """Write text (UTF-8) or bytes whole or not at all; arguments as of `atomic_path`."""
    with atomic_path(path, shared=shared, sync=sync) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
