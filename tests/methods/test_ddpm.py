"""The baseline DDPM: its network, its process against independent formulas and MONAI's, its sampler."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL, refused, some_slices

from mudiff.methods.ddpm import DDPM, unet
from mudiff.settings import Settings
from mudiff.training import profiles

OWN = {
    "method": "ddpm", "width": 8, "attention_at": 8, "steps": 25, "learning_rate": 2e-3, "beta1": 0.9, "beta2": 0.999,
}  # fmt: skip


def make(**change) -> DDPM:
    settings = Settings(**SMALL | OWN | change)
    return DDPM(settings, torch.Generator().manual_seed(settings.seed))


@pytest.mark.parametrize(("width", "parameters"), [(64, 28_446_657), (128, 113_672_065)])
def test_the_sizes_of_the_published_network(width, parameters):
    settings = profiles.settings("paper", "brats", "t1ce", "ddpm", width=width)
    with torch.device("meta"):
        network = unet(settings)
    assert sum(p.numel() for p in network.parameters()) == parameters
    # Attention at 16 of 256 pixels, that is in the fifth of six levels, and in the middle; one head each.
    attention = {n.split(".attentions")[0]: m for n, m in network.named_modules() if hasattr(m, "num_heads")}
    assert set(attention) == {"down_blocks.4", "middle_block.attention.attn", "up_blocks.1"}
    assert all(m.num_heads == 1 for m in attention.values())
    assert network.out[0].num_groups == width // 4


def test_the_process_is_that_of_ho_et_al_at_any_number_of_steps():
    schedule = make(steps=1000).schedule
    np.testing.assert_allclose(schedule.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    assert schedule.sqrt_alpha_bar[-1].square() == pytest.approx(4.0e-5, rel=0.02)
    halfway = [make(steps=n).schedule.sqrt_alpha_bar[n // 2].square().item() for n in (1000, 500, 100, 50)]
    assert halfway == pytest.approx([math.exp(-0.05 - 19.9 / 8)] * 4, rel=0.25)  # the limit of many steps
    assert make(steps=21).schedule.betas.max() < 1
    refused(r"steps = 20: .* more steps than beta_max = 20", make, steps=20)


@pytest.mark.parametrize("t", [0, 1, 12, 24])
def test_a_step_is_the_step_of_monai(t, monkeypatch):
    from monai.networks.schedulers import DDPMScheduler

    method, g = make(), torch.Generator().manual_seed(t)
    scheduler = DDPMScheduler(25, "linear_beta", beta_start=0.1 / 25, beta_end=20 / 25)
    x_0, x_t, noise = (torch.randn(2, 1, 16, 16, generator=g) for _ in range(3))
    steps = torch.full((2,), t)
    ours = method.schedule.q_sample(x_0, steps + 1, noise)
    torch.testing.assert_close(ours, scheduler.add_noise(x_0, noise, steps), atol=1e-5, rtol=0)

    theirs = scheduler.step(noise, t, x_t, torch.Generator().manual_seed(7))
    drawn = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr(method, "predict_noise", lambda *given: noise)
    (predicted,) = method.predictions(x_t, None, steps, None)
    assert predicted.abs().max() == 1  # some of it was clipped
    mean = method.schedule.posterior_mean(predicted, x_t, steps)
    sample = method.schedule.posterior_sample(mean, steps, drawn)
    for mine, monai in zip((sample, predicted), theirs, strict=True):
        torch.testing.assert_close(mine, monai, atol=1e-4, rtol=0)


def test_training_asks_for_the_noise_at_every_step_alike(monkeypatch):
    method, seen = make(), []
    predict = method.predict_noise
    monkeypatch.setattr(method, "predict_noise", lambda *given: (seen.append(given), predict(*given))[1])
    batch = some_slices(500)
    loss = method.training_step(batch, 0)["noise"]
    assert loss == pytest.approx(1, abs=0.15)  # the network starts at zero, the noise has variance 1
    ((x_t, _, t),) = seen
    counts = torch.bincount(t, minlength=25)
    assert len(counts) == 25 and counts.min() >= 5 and counts.max() <= 40  # 20 expected
    # x_t is x_0 noised to just that step: what is left of x_0, and how much noise there is.
    alpha_bar = torch.cumprod(1 - torch.linspace(0.1, 20, 25) / 25, 0)[t, None, None, None]
    noise = (x_t - alpha_bar.sqrt() * batch.target) / (1 - alpha_bar).sqrt()
    assert (noise.std(dim=(1, 2, 3)) - 1).abs().max() < 0.25


def test_the_network_sees_the_step():
    """With one channel a group, normalisation would take out what the time embedding adds."""
    method, batch = make(multipliers=(1, 1)), some_slices(3)
    for step in range(20):
        method.training_step(batch, step)
    with torch.no_grad():
        early, late = (method.predict_noise(batch.target, batch.conditions, torch.full((3,), t)) for t in (0, 24))
    assert (early - late).abs().mean() > 1e-2
