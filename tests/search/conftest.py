import pathlib

import pytest


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory) -> pathlib.Path:
    """An exported encoder."""
    from support.search import write_small_encoder

    path = tmp_path_factory.mktemp("encoder") / "small.wtx"
    write_small_encoder(path)
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> pathlib.Path:
    """Twelve videos of four seconds in three class folders."""
    from support.search import write_video

    folder = tmp_path_factory.mktemp("archive")
    for number in range(12):
        write_video(folder / "abc"[number % 3] / f"{number:02}.mp4", number)
    return folder


@pytest.fixture(scope="session")
def index(tmp_path_factory, archive, encoder_file) -> pathlib.Path:
    """The index of `archive`; not to be written to."""
    from wt_jax.tools.search_index import main

    folder = tmp_path_factory.mktemp("index") / "index"
    main([str(archive), f"--index={folder}", f"--encoder={encoder_file}", "--workers=0"])
    return folder
