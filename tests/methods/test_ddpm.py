"""The baseline DDPM: its network, its process against independent formulas, its sampler."""

import math

import numpy as np
import pytest
import torch

from mudiff.errors import MudiffError
from mudiff.methods import Batch
from mudiff.methods.ddpm import DDPM, linear_scheduler, unet
from mudiff.settings import Settings
from mudiff.training import profiles

SMALL = {
    "method": "ddpm", "image_size": 16, "width": 8, "multipliers": (1, 2), "blocks": 1, "attention_at": 8,
    "steps": 25, "learning_rate": 2e-3, "beta1": 0.9, "beta2": 0.999,
}  # fmt: skip


def make(**change) -> DDPM:
    settings = Settings(**SMALL | change)
    return DDPM(settings, torch.Generator().manual_seed(settings.seed))


def some_batch(size: int = 3, n: int = 3) -> Batch:
    g = torch.Generator().manual_seed(size)
    draw = lambda c: torch.rand(size, c, 16, 16, generator=g) * 2 - 1  # noqa: E731
    return Batch(draw(1), draw(n), torch.ones(size, 1, 16, 16, dtype=torch.bool), torch.arange(size))


@pytest.fixture(scope="module")
def trained() -> DDPM:
    method = make()
    for step in range(3):
        method.training_step(some_batch(), step)
    return method.eval()


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


def test_the_betas_of_ho_et_al_at_a_thousand_steps():
    method = make(steps=1000)
    np.testing.assert_allclose(method.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    assert method.alpha_bar[-1] == pytest.approx(4.0e-5, rel=0.02)
    np.testing.assert_allclose(method.alpha_bar, method.scheduler.alphas_cumprod, rtol=1e-4)


def test_other_numbers_of_steps_keep_the_process():
    halfway = [make(steps=steps).alpha_bar[steps // 2 - 1] for steps in (1000, 500, 100, 50)]
    assert halfway == pytest.approx([math.exp(-0.05 - 19.9 / 8)] * 4, rel=0.25)  # the limit of many steps
    with pytest.raises(MudiffError, match=r"steps = 20: .* at least 21"):
        linear_scheduler(Settings(**SMALL | {"steps": 20}))
    assert max(make(steps=21).betas) < 1


@pytest.mark.parametrize("t", [0, 1, 12, 24])
def test_a_step_draws_from_the_posterior(t):
    """Eq. 7 of Ho et al. by another way: the product of the densities q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    method, g = make(), torch.Generator().manual_seed(t)
    x_0, noise, drawn = (torch.randn(2, 1, 16, 16, generator=g).clamp(-1, 1) for _ in range(3))
    steps = torch.full((2,), t)
    x_t = method.scheduler.add_noise(x_0, noise, steps)
    x_before, predicted = method.denoise(x_t, noise, t, drawn)
    torch.testing.assert_close(predicted, x_0, atol=2e-4, rtol=0)

    beta = method.betas[t]
    before = math.prod(1 - b for b in method.betas[:t])
    if t == 0:
        mean, variance = x_0, 0.0
    else:
        variance = 1 / ((1 - beta) / beta + 1 / (1 - before))
        mean = variance * (math.sqrt(1 - beta) / beta * x_t + math.sqrt(before) / (1 - before) * x_0)
    torch.testing.assert_close(x_before, mean + math.sqrt(variance) * drawn, atol=2e-4, rtol=0)


@pytest.mark.parametrize("t", [0, 1, 12, 24])
def test_a_step_is_the_step_of_monai(t):
    method, g = make(), torch.Generator().manual_seed(t)
    x_t, predicted = (torch.randn(2, 1, 16, 16, generator=g) for _ in range(2))
    theirs = method.scheduler.step(predicted, t, x_t, torch.Generator().manual_seed(7))
    drawn = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(7))
    ours = method.denoise(x_t, predicted, t, drawn)
    assert ours[1].abs().max() == 1  # some of it was clipped
    for mine, monai in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, monai, atol=1e-4, rtol=0)


def test_with_the_true_noise_the_sampler_walks_back_to_the_image(monkeypatch):
    """At every t the samples have the mean and the spread of q(x_t | x_0), and they end at x_0."""
    method, seen = make(steps=100), []
    x_0 = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def true_noise(x_t, conditions, t):
        alpha_bar = method.alpha_bar[int(t[0])]
        return (x_t - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)

    monkeypatch.setattr(method, "predict_noise", true_noise)
    x = method.synthesize(torch.zeros(4, 3, 32, 32), torch.arange(4), seen.append)
    torch.testing.assert_close(x, x_0, atol=1e-5, rtol=0)
    assert [step["t"] for step in seen] == list(range(99, -1, -1))
    for step in seen:
        noise = true_noise(step["x_t"], None, [step["t"]])
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.05
        torch.testing.assert_close(step["x_p1"], x_0, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "change", [{}, {"precision": "bfloat16"}, {"dataset": "healthy", "target": "flair"}], ids=str
)
def test_every_parameter_learns_in_three_steps(change):
    """The last layer and those that end residual branches start at zero: three steps to reach all."""
    method = make(**change)
    batch = some_batch(n=len(method.settings.conditions))
    before = {k: v.clone() for k, v in method.named_parameters()}
    for step in range(3):
        values = method.training_step(batch, step)
    still = [k for k, v in method.named_parameters() if torch.equal(v, before[k])]
    # A bias of the keys moves all of a query's scores alike, which softmax ignores: only rounding moves it.
    assert [name for name in still if not name.endswith("to_k.bias")] == []
    assert set(values) == {"noise"} and torch.isfinite(values["noise"])
    assert not values["noise"].requires_grad


def test_training_asks_for_the_noise_at_every_step_alike(monkeypatch):
    method, seen = make(), []
    predict = method.predict_noise

    def spy(x_t, conditions, t):
        seen.append((x_t, t))
        return predict(x_t, conditions, t)

    monkeypatch.setattr(method, "predict_noise", spy)
    batch = some_batch(500)
    method.training_step(batch, 0)
    ((x_t, t),) = seen
    counts = torch.bincount(t, minlength=25)
    assert len(counts) == 25 and counts.min() >= 5 and counts.max() <= 40  # 20 expected
    # x_t is x_0 noised to just that step: what is left of x_0, and how much noise there is (Eq. 4).
    alpha_bar = torch.tensor(method.alpha_bar)[t][:, None, None, None].float()
    noise = (x_t - alpha_bar.sqrt() * batch.target) / (1 - alpha_bar).sqrt()
    assert (noise.std(dim=(1, 2, 3)) - 1).abs().max() < 0.25


def test_the_loss_falls():
    method, batch, values = make(), some_batch(), []
    for step in range(60):
        values.append(method.training_step(batch, step)["noise"].item())  # the same t and noise each time
    assert values[0] == pytest.approx(1, abs=0.15)  # the network starts at zero, the noise has variance 1
    assert values[-1] < 0.5


def test_the_network_sees_the_step_and_the_conditions():
    """With one channel a group, normalisation would take out what the time embedding adds."""
    method, batch = make(multipliers=(1, 1)), some_batch()
    for step in range(20):
        method.training_step(batch, step)
    with torch.no_grad():
        early, late = (
            method.predict_noise(batch.target, batch.conditions, torch.full((3,), t)) for t in (0, 24)
        )
        other = method.predict_noise(batch.target, -batch.conditions, torch.full((3,), 0))
    assert (early - late).abs().mean() > 1e-2
    assert (early - other).abs().mean() > 1e-2


def test_a_slice_depends_on_its_seed_alone(trained):
    y = some_batch(5).conditions
    seeds = torch.tensor([7, 8, 9, 10, 11])
    together = trained.synthesize(y, seeds)
    assert together.shape == (5, 1, 16, 16) and together.abs().max() <= 1
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(trained.synthesize(y[order], seeds[order]), together[order], atol=1e-4)
    for k in range(5):
        alone = trained.synthesize(y[k : k + 1], seeds[k : k + 1])
        assert torch.allclose(alone, together[k : k + 1], atol=1e-4)
    assert not torch.allclose(trained.synthesize(y, seeds + 100), together, atol=1e-2)


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = make()
    first.training_step(some_batch(), 0)
    first.synthesize(some_batch().conditions, torch.arange(3))
    assert torch.equal(state, torch.random.get_rng_state())

    torch.manual_seed(6)
    again, other = make(), make(seed=1)
    again.training_step(some_batch(), 0)
    weights = [m.state_dict() for m in (first, again, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(
        weights[0]["network.conv_in.conv.weight"], weights[2]["network.conv_in.conv.weight"]
    )


def test_sizes_that_cannot_be_halved_are_refused():
    settings = Settings(**SMALL | {"image_size": 40, "multipliers": (1, 1, 1, 1)})
    assert unet(settings)(torch.zeros(1, 4, 40, 40), torch.zeros(1)).shape == (1, 1, 40, 40)
    with pytest.raises(MudiffError, match=r"image_size = 36: .* 3 times .* multiples of 8, such as 40"):
        unet(settings.replace(image_size=36))
