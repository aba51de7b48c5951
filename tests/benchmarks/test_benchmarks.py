"""The scripts count what is known; a small campaign of mutated files and kills ends in no traceback, loss or NaN."""

import numpy as np
import pytest
import torch
from conftest import SMALL, save_run

from benchmarks import campaign, costs, step, stripes
from mudiff.data import datasets
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.training import profiles


def test_a_known_layer_is_counted():
    layer, images = torch.nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 16, 16)
    assert step.count(lambda: layer(images)) == 2 * 2 * 5 * 3 * 9 * 16**2


@pytest.mark.parametrize("phase", step.PHASES)
def test_shapes_alone_count_what_is_computed(phase):
    settings = Settings(**SMALL, attention_at=8)
    computed = step.count(step.work(build(settings), settings, 2, phase, "cpu")) / 2 / 1e9
    assert costs.gflop(settings, phase) == pytest.approx(computed, rel=1e-6)


def test_a_row_has_seconds_memory_and_operations():
    row = step.measure(Settings(**SMALL, precision="bfloat16"), 2, "sampling", "cpu", 1, repeat=2)
    assert 0 < row["min"] <= row["seconds"] <= row["max"] and row["GFLOP"] > 0 and row["GB"] >= 0
    assert row["GFLOP/s"] == pytest.approx(row["GFLOP"] / row["seconds"])


def test_costs_follow_from_the_published_splits(monkeypatch):
    monkeypatch.setattr(costs, "gflop", lambda settings, phase: 1.0)
    row = costs.row("paper", "brats", "t1ce", "mudiff")
    assert row["training"] == pytest.approx(17120 * 30 / 1e6)
    assert row["validation"] == pytest.approx(64 * 30 / 1e6)
    assert row["test"] == pytest.approx(2400 / 1e6)
    assert costs.row("paper", "healthy", "t1", "mudiff")["training"] == pytest.approx(50 * 100 * 30 / 1e6)


def test_stripes_are_differences_of_neighbouring_slices_of_the_brain(tmp_path, write_subject):
    stack, brain = np.zeros((4, 8, 8)), np.ones((4, 8, 8), bool)
    stack[2], brain[3] = 0.5, False
    assert stripes.energy(stack, brain) == pytest.approx(0.25 / 2)
    write_subject(tmp_path, "someone")
    run = save_run(build(Settings(**SMALL)), tmp_path / "run")
    frame = stripes.measure(run, tmp_path / "someone", {"one step": {"steps": 1}})
    assert frame.index.tolist() == ["one step"] and np.isfinite(frame).all(axis=None) and (frame > 0).all(axis=None)


def test_every_method_can_be_counted():
    for method in datasets.METHODS.keys() - {"linear"}:
        assert costs.gflop(profiles.settings("smoke", "brats", "t1ce", method), "training") > 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MUDIFF_ROOT", "")  # which the world sets
        yield campaign.World(tmp_path_factory.mktemp("campaign") / "world")


def test_mutated_files_and_kills_at_random_moments_keep_the_rule(world):
    assert campaign.mutate(world, seed=1, count=180) == []
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
