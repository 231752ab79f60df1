"""Weights on a hub (extra `hub`): `hf://OWNER/NAME@REVISION` in place of a folder, and a folder as a repository.

Only the files of an exported encoder are read, safetensors and JSON: nothing that is fetched can run. A revision is needed (a
commit, or a tag that one trusts), so that an address means the same weights for good.
"""

import os
import re
from pathlib import Path
from typing import Any

from wt_jax.errors import WeightsError

PREFIX = "hf://"
FILES = ("weights.safetensors", "model.json")
_ADDRESS = re.compile(rf"{PREFIX}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def local_folder(place: str | os.PathLike[str]) -> Path:
    """The folder of an address, which is fetched unless it is there; any other place is itself.

    Raises:
      WeightsError: the address is none or lacks a revision, the hub lacks it or is out of reach, or it holds no encoder.
    """
    text = os.fspath(place)
    if not text.startswith(PREFIX):
        return Path(text).expanduser()
    match = _ADDRESS.fullmatch(text)
    if match is None or not match["revision"]:
        raise WeightsError(f"{text}: write {PREFIX}OWNER/NAME@REVISION; the revision is a commit, or a tag that stays")
    hub = _library(text)
    try:
        options = {"allow_patterns": list(FILES), "endpoint": os.environ.get("HF_ENDPOINT")}
        folder = Path(hub.snapshot_download(match["repository"], revision=match["revision"], **options))
    except Exception as error:  # the library's, those of its transport, and of the disk
        raise WeightsError(f"{text} cannot be fetched ({type(error).__name__}: {_line(error)})") from error
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise WeightsError(f"{text} has no {' and no '.join(missing)}; it is no encoder that `wt-jax export-weights` wrote")
    return folder


def push(folder: Path, repository: str) -> str:
    """Upload a folder of weights with its card into a repository, which is made (private) where it is not there; its address.

    Raises:
      WeightsError: the hub refuses it or cannot be reached.
    """
    hub = _library(repository)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise WeightsError(f"{repository}: write OWNER/NAME")
    try:
        client = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="wt_jax")
        client.create_repo(repository, private=True, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=[*FILES, "README.md"], commit_message="wt-jax export-weights"
        )
    except Exception as error:  # as above
        raise WeightsError(f"{folder} cannot be pushed to {repository} ({type(error).__name__}: {_line(error)})") from error
    return f"{PREFIX}{repository}@{commit.oid}"


def _library(what: str) -> Any:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]  # of an extra
    except ImportError:
        raise WeightsError(f"{what} is on a hub: pip install 'wt_jax[hub]'") from None
    return huggingface_hub


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
