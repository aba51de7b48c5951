"""Files are written whole or not at all, and errors name what they are about."""

import errno
import os

import pytest

from mudiff import paths
from mudiff.errors import MudiffError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    paths.write_text(path, "first")
    with pytest.raises(KeyError), paths.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(MudiffError, match="disk is full"), paths.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["file.txt"]
    (tmp_path / "a file").write_text("")
    with pytest.raises(MudiffError, match="cannot be written"):
        paths.write_text(tmp_path / "a file" / "inside", "text")


def test_an_error_of_the_writer_does_not_blame_the_output(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such"), paths.atomic_write(tmp_path / "out.json"):
        (tmp_path / "no_such.nii").read_bytes()
    assert not list(tmp_path.iterdir())


def test_the_umask_decides_who_may_write(tmp_path):
    before = os.umask(0o002)  # a folder shared by a group
    try:
        paths.write_text(tmp_path / "shared.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "shared.txt").stat().st_mode & 0o777 == 0o664


def test_damaged_and_missing_json_is_named(tmp_path):
    with pytest.raises(MudiffError, match="not found"):
        paths.read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(MudiffError, match=r"bad\.json"):
        paths.read_json(tmp_path / "bad.json")
