"""The yardstick of the benchmarks computes what `mudiff` does."""

import pytest
import torch
from conftest import some_slices

from benchmarks import costs, counts, page, report
from benchmarks import released_like as yardstick
from mudiff.errors import MudiffError
from mudiff.methods.base import build
from mudiff.settings import Settings

SMALL = {
    "image_size": 16, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4,
    "critic_blocks": 2, "attention_at": 8,
}  # fmt: skip


def drawn(**changes):
    """Return MU-Diff, whose last layers do not start at zero, and the stand-in with its weights."""
    method = build(Settings(**SMALL | {"method": "mudiff"} | changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in method.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    return method, yardstick.released_like(method)


@pytest.mark.parametrize(("dataset", "target", "n"), [("brats", "t1ce", 3), ("healthy", "flair", 2)])
def test_the_stand_in_samples_the_same_images(dataset, target, n):
    method, released = drawn(dataset=dataset, target=target)
    batch = some_slices(3, conditions=n)
    images = method.synthesize(batch.conditions, batch.seeds)
    again = released.synthesize(batch.conditions, batch.seeds)
    assert (images - again).abs().max() < 1e-5 and images.std() > 0.1


def test_the_stand_in_learns_the_same():
    """Two steps, the first with the R1 penalty: all losses, then all weights."""
    method, released = drawn()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = some_slices(4)
    for step in (0, 1):
        expected, values = (m.training_step(batch, step) for m in (method, released))
        assert values.keys() == expected.keys() and ("r1" in values) == (step == 0)
        for name, value in expected.items():
            assert values[name] == pytest.approx(value.item(), rel=1e-4), name
    others = released.state_dict()
    moved = [name for name, value in method.state_dict().items() if (value - before[name]).abs().max() > 1e-5]
    assert len(moved) > 0.95 * len(before)
    # Adam's steps are of the size of the learning rate wherever a gradient's sign is certain.
    apart = torch.cat([(value - others[name]).abs().flatten() for name, value in method.state_dict().items()])
    assert (apart > 1e-5).double().mean() < 0.01 and apart.max() < 1e-3


def test_the_stand_in_is_for_mudiff_as_released():
    with pytest.raises(MudiffError, match="stand-in"):
        yardstick.released_like(build(Settings(**SMALL | {"method": "syndiff"})))


def test_counts_are_those_of_a_known_layer(monkeypatch):
    layer = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
    monkeypatch.setattr(counts, "works", lambda made, images: {"sampling": lambda: made(images.conditions)})
    settings = Settings(**SMALL | {"method": "mudiff", "image_size": 128})
    for size in (16, 128):  # computed, and from shapes alone
        counted = counts.count(settings.replace(image_size=size), "sampling", 2, lambda _: layer)
        read, written, weights = 3 * size**2 * 4, 5 * size**2 * 4, 5 * 3 * 9 * 4
        assert counted.flops == 2 * 5 * 3 * 9 * size**2
        assert counted.moved == read + written + weights / 2  # the weights serve both images
        assert counted.memory == pytest.approx(2 * written + weights, abs=1)


def test_memory_is_of_what_lives_at_once(monkeypatch):
    chain = torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(5)]).requires_grad_(False)
    monkeypatch.setattr(counts, "works", lambda made, images: {"sampling": lambda: made(images.conditions)})
    counted = counts.count(Settings(**SMALL | {"method": "mudiff"}), "sampling", 2, lambda _: chain)
    assert counted.memory == 2 * (2 * 3 * 16**2 * 4)  # the last image and the one before it


@pytest.mark.parametrize(("precision", "phase"), [("float32", "training"), ("bfloat16", "sampling")])
def test_shapes_alone_count_what_is_computed(precision, phase, monkeypatch):
    settings = Settings(**SMALL | {"method": "mudiff", "precision": precision})
    computed = counts.count(settings, phase)
    monkeypatch.setattr(counts, "SMALL", 0)
    shapes = counts.count(settings, phase)
    # The CPU resamples and attends in ways of its own, which matters most for small images.
    assert shapes.flops == pytest.approx(computed.flops, rel=0.03)
    assert shapes.moved == pytest.approx(computed.moved, rel=0.1)
    assert shapes.memory == pytest.approx(computed.memory, rel=0.3)


def test_costs_follow_from_the_published_splits(monkeypatch):
    monkeypatch.setattr(costs, "_count", lambda settings, phase, batch: counts.Count(1e9, 0, 5e9))
    row = costs.row("paper", "brats", "t1ce", "mudiff")
    assert (row["training_slices"], row["validation_slices"], row["test_slices"]) == (17120, 64, 2400)
    assert row["training_pflop"] == pytest.approx(17120 * 30 / 1e6)
    assert row["validation_pflop"] == pytest.approx(64 * 30 / 1e6)
    assert costs.row("paper", "healthy", "t1", "mudiff")["training_slices"] == 5000


def test_rows_of_the_same_configuration_are_replaced(tmp_path):
    file = tmp_path / "x.csv"
    report.write(file, [{"a": 1, "b": "x", "s": 2.0}, {"a": 2, "b": "x", "s": 3.0}], ("a", "b"))
    report.write(file, [{"a": 2, "b": "x", "s": 4.0}], ("a", "b"))
    assert file.read_text().splitlines() == ["a,b,s", "1,x,2", "2,x,4"]


def test_numbers_are_shown_without_exponent():
    shown = [page.digits(value) for value in (0.0, 0.00012345, 1234567.0, 10.0, float("nan"))]
    assert shown == ["0", "0.000123", "1,230,000", "10", "–"]


def test_the_page_holds_the_committed_measurements():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text, report.RESULTS) == text
    assert len(text) > 5000
