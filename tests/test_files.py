"""Atomic writes: whole or not at all, whatever happens."""

import pytest

from wt_jax.files import atomic_path, write_atomic


def test_a_file_appears_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "deep" / "file.txt"
    write_atomic(path, "text: ü\n")
    write_atomic(path, b"bytes", sync=True, shared=True)
    assert path.read_bytes() == b"bytes"
    assert [child.name for child in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_leaves_no_draft(tmp_path, error):
    path = tmp_path / "clip.mp4"
    write_atomic(path, "old")
    with pytest.raises(error), atomic_path(path) as draft:  # noqa: PT012
        draft.write_text("half")
        assert draft.suffix == ".mp4"  # encoders choose the container by it
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_share_a_file_have_drafts_of_their_own(tmp_path):
    with atomic_path(tmp_path / "a", shared=True) as one, atomic_path(tmp_path / "a") as other:
        assert one != other
        one.write_text("")
        other.write_text("")
