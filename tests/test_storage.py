"""Files are written whole or not at all, and errors name what they are about."""

import errno
import fcntl
import os
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mudiff import storage
from mudiff.errors import MudiffError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    storage.write_text(path, "first")
    with pytest.raises(KeyError), storage.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(MudiffError, match="disk is full"), storage.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError, match="no_such"), storage.atomic_write(path):  # the output is not to blame
        (tmp_path / "no_such.nii").read_bytes()
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["file.txt"]
    (tmp_path / "a file").write_text("")
    with pytest.raises(MudiffError, match="cannot be written"):
        storage.write_text(tmp_path / "a file" / "inside", "text")


@pytest.mark.parametrize(
    "write",
    [
        lambda path, size: path.write_bytes(bytes(size)),
        lambda path, size: np.save(path, np.zeros(size, np.uint8)),
        lambda path, size: save_file({"a": torch.zeros(size // 4)}, path),
        lambda path, size: torch.save({"a": torch.zeros(size // 4)}, path.open("wb")),
    ],
)
def test_a_full_disk_is_told_whatever_library_writes(tmp_path, write):
    path, limits = tmp_path / "file.npy", resource.getrlimit(resource.RLIMIT_FSIZE)
    storage.write_text(path, "before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MudiffError, match=r"the disk is full"), storage.atomic_write(path) as file:
            write(file, 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "before"


def test_ctrl_c_that_a_library_turns_into_its_own_error_stays_ctrl_c(tmp_path):
    with pytest.raises(KeyboardInterrupt), storage.atomic_write(tmp_path / "file"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("failed to write") from None


def test_disks_without_fsync_and_locks_are_written_all_the_same(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with storage.lock(tmp_path / "lock", "waiting"):
        storage.write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert capsys.readouterr().err == f"warning: {tmp_path}: a disk without locks; start nothing twice at a time.\n"


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    old, young, foreign = (tmp_path / f".tmp-{name}.npy" for name in ("0123456789ab", "ba9876543210", "of-others"))
    for path in (old, young, foreign):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    storage.check_writable(tmp_path / "file")
    assert set(tmp_path.iterdir()) == {young, foreign}


def test_the_umask_decides_who_may_write(tmp_path):
    before = os.umask(0o002)  # a folder shared by a group
    try:
        with storage.atomic_write(tmp_path / "shared") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)  # which lets nobody else read
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, "[]", '{"a": 1}', '{"a": {"x": true}}', '{"a": {"x": "1"}}', '{"a": {"x": 9}}', "\xff"],
)
def test_damaged_and_missing_json_is_named(tmp_path, text):
    form, path = {"a": {str: range(9)}}, tmp_path / "bad.json"
    with pytest.raises(MudiffError, match="not found"):
        storage.read_json(path, form)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(MudiffError, match=r"bad\.json: no valid JSON \("):
        storage.read_json(path, form)
    path.write_text('{"a": {"x": 1}, "b": null}')
    assert storage.read_json(path, form) == {"a": {"x": 1}, "b": None}


def test_too_little_memory_is_no_damage_of_the_file(tmp_path, monkeypatch):
    storage.write_text(tmp_path / "file", "")
    monkeypatch.setattr(torch, "load", lambda *_, **__: torch.empty(2**60))
    with pytest.raises(MudiffError, match="cannot be read"):
        storage.read_tensors(tmp_path / "file", "weights", "delete it")
