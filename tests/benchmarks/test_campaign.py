"""A small campaign: mutated inputs and run files, and kills, end in no traceback, no loss and no NaN."""

import numpy as np
import pytest

from benchmarks import campaign


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MUDIFF_ROOT", "")  # which the world sets
        yield campaign.World(tmp_path_factory.mktemp("campaign") / "world")


def test_mutated_files_keep_the_rule(world):
    assert campaign.mutate(world, seed=1, count=180) == []


def test_kills_at_random_moments_keep_the_rule(world):
    assert campaign.kill(world, seed=1, count=10) == []


def test_breaches_are_seen(world, monkeypatch):
    def broken(error):
        raise error

    for error, says in ((KeyError("a"), "Traceback"), (SystemExit(3), "3")):
        monkeypatch.setattr(campaign.cli, "main", lambda error=error: broken(error))
        assert says in world.breach("prepare")
    lost = next(path for path in world.files if path.name.endswith("_t1.nii.gz"))
    monkeypatch.setattr(campaign.cli, "main", lambda: (lost.unlink(), broken(SystemExit(0))))
    assert "lost" in world.breach("prepare")


def test_every_kind_of_file_is_changed(world):
    for name in {path.name: path for path, _ in world.targets}:
        data = next(data for path, data in world.files.items() if path.name == name)
        changed = [campaign.mutated(name, data, np.random.default_rng(seed)) for seed in range(4)]
        assert any(other != data for other in changed)
