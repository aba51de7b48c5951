"""The yardstick of the benchmarks computes what `mudiff` does."""

import pytest
import torch
from conftest import some_slices

from benchmarks import released_like as yardstick
from mudiff.errors import MudiffError
from mudiff.methods import build
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
