"""The six baselines: sizes as published, what their losses reach, what their results (and MU-Diff's) depend on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import refused, some_slices, unmoved
from torch import nn

from mudiff.data import datasets
from mudiff.methods.adversarial import SeededDropout
from mudiff.methods.base import build
from mudiff.methods.pgan import vgg16_features
from mudiff.settings import Settings
from mudiff.training import profiles

ONE_PASS = ("pix2pix", "pgan", "mmgan", "hinet")
SMALL = {
    "image_size": 64, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4, "levels": 6,
    "steps": 4,
}  # fmt: skip


def small(method: str, **changes):
    settings = profiles.settings("paper", "brats", "t1ce", method, **SMALL | {"beta_max": 3.0} | changes)
    return build(settings)


PUBLISHED = [  # method, generator (both networks of MU-Diff) and critic
    ("mudiff", 20_472_065 + 21_399_681, 27_736_705),
    ("pix2pix", 54_409_857, 2_766_657),
    ("pgan", 11_371_905, 2_765_761),
    ("mmgan", 54_407_172, 2_794_432),
    ("hinet", 4_594_372, 391_041),
    ("syndiff", 39_726_977, 27_736_705),
]


@pytest.mark.parametrize(("method", "generator", "critic"), PUBLISHED)
def test_published_sizes_have_the_published_parameter_counts(method, generator, critic):
    with torch.device("meta"):
        made = build(profiles.settings("paper", "brats", "t1ce", method))
    counts = [sum(p.numel() for p in optimiser.param_groups[0]["params"]) for optimiser in made.optimisers.values()]
    assert sorted(counts) == sorted((generator, critic))


READINGS = [  # of MU-Diff's equations
    {"gates": "pair", "pairs": "chain"},
    {"mapper_activation": "relu", "mapper_skip": True, "mapper_normalises": "input"},
]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_any_number_of_conditions_and_every_reading_of_the_text(n, monkeypatch):
    conditions = ("t1", "t2", "flair", "dwi")[:n]
    monkeypatch.setattr(Settings, "conditions", property(lambda self: conditions))
    methods = [(method, {}) for method in ("mudiff", *datasets.BASELINES)]
    for method, reading in methods + [("mudiff", reading) for reading in READINGS]:
        made = small(method, **reading)
        made.training_step(some_slices(2, n, 64), 0)
        assert made.eval().synthesize(torch.zeros(2, n, 64, 64), torch.arange(2)).shape == (2, 1, 64, 64)
        if method == "mudiff":  # pairs of neighbours, closed to a ring where that is another pair
            closed = n > 2 and "pairs" not in reading
            assert len(made.f2.contrast_adapter.pairs) == n - 1 + closed


@pytest.mark.parametrize("method", datasets.BASELINES)
def test_every_parameter_learns_and_the_numbers_follow_from_the_seeds(method):
    def trained():
        made = small(method)
        still, values = unmoved(made, some_slices(3, 3, 64), 3)
        assert all(p.requires_grad for p in made.parameters())
        if method in ONE_PASS:  # the order of the two steps is the published one
            assert list(values).index("critic") == (0 if method in ("pix2pix", "pgan") else len(values) - 1)
        # A bias before instance normalisation is taken out again, that of attention's keys by the softmax.
        idle = method in ("pgan", "mmgan", "hinet", "ddpm")
        assert [k for k in still if not (idle and k.endswith("bias"))] == []
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    torch.manual_seed(1)
    first = trained()
    torch.manual_seed(2)
    assert torch.equal(first, trained())


@pytest.mark.parametrize("method", ["mudiff", *datasets.BASELINES])
def test_a_slice_depends_on_its_conditions_and_its_seed_alone(method):
    made = small(method)
    for step in range(4):
        made.training_step(some_slices(3, 3, 64), step)
    state = {k: v.clone() for k, v in made.state_dict().items()}
    y, seeds = some_slices(5, 3, 64).conditions, torch.tensor([7, 8, 9, 10, 11])
    batch = made.synthesize(y, seeds)  # in training mode, as a notebook may have left it
    assert made.training and all(torch.equal(v, state[k]) for k, v in made.state_dict().items())
    assert batch.shape == (5, 1, 64, 64) and batch.abs().max() <= 1 and batch.std() > 1e-4
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(made.synthesize(y[order], seeds[order]), batch[order], atol=1e-5)
    alone = made.synthesize(y[:1], seeds[:1])
    assert torch.allclose(alone, batch[:1], atol=1e-5)
    # Dropout is off, so one pass has no noise.
    assert torch.equal(made.synthesize(y[:1], seeds[:1] + 100), alone) == (method in ONE_PASS)
    for i in range(3):
        changed = y[:1].clone()
        changed[:, i] = changed[:, i].flip(-1)
        assert not torch.allclose(made.synthesize(changed, seeds[:1]), alone, atol=1e-7), f"condition {i}"


def test_hinet_takes_sum_product_and_maximum_and_reconstructs_each_condition():
    made = small("hinet", dropout=0.0).eval()
    fusion = made.generator.down[0]
    a, b = torch.rand(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = []
    fusion.mix.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fusion(torch.stack([a, b]))
    assert torch.allclose(seen[0], torch.cat([a + b, a * b, torch.maximum(a, b)], dim=1))
    batch = some_slices(2, 3, 64)
    image = made.generator(batch.conditions)
    assert image.shape == (2, 4, 64, 64)
    terms = made.generator_losses(batch, image)
    expected = sum((image[:, 1 + i] - batch.conditions[:, i]).abs().mean() for i in range(3))
    assert terms["reconstruction"].item() == pytest.approx(20 * expected.item(), rel=1e-5)


def test_dropout_keeps_the_mean_and_follows_the_seeds():
    h, layer = torch.ones(4, 64, 32, 32), SeededDropout(0.5)
    layer.random = torch.Generator().manual_seed(1)
    dropped = layer(h)
    assert dropped.mean() == pytest.approx(1, abs=0.02) and set(dropped.unique().tolist()) == {0, 2}
    assert layer.eval()(h) is h and SeededDropout(0.0)(h) is h
    batches = (replace(some_slices(2, 3, 64), seeds=torch.tensor(seeds)) for seeds in ((1, 2), (1, 2), (1, 3)))
    first, again, other = (small("pgan").training_step(batch, 0)["critic"] for batch in batches)
    assert first == again != other


SIZES = [
    *((method, {"image_size": 96}, "multiples of 64, from 64") for method in ("pix2pix", "mmgan")),
    *((method, {"image_size": 16, "levels": 4}, "from 32 pixels") for method in ("pix2pix", "mmgan")),
    ("pgan", {"image_size": 20}, "multiples of 4, from 24"),
    ("hinet", {"image_size": 36}, "multiples of 8"),
    ("hinet", {"image_size": 32}, "from 40 pixels"),
    ("syndiff", {"multipliers": (1,) * 8}, "multiples of 128"),
    ("mudiff", {"image_size": 96}, "multiples of 64"),
    ("mudiff", {"width": 24, "multipliers": (1, 2, 4)}, "equal groups"),
    ("mmgan", {"levels": 1}, "2 or more"),
    ("ddpm", {"image_size": 36, "multipliers": (1, 2, 4, 4)}, "= 36: .* 4 multipliers takes multiples of 8"),
]


@pytest.mark.parametrize(("method", "change", "words"), SIZES)
def test_sizes_that_a_network_cannot_take_are_named(method, change, words):
    refused(words, small, method, **change)


def vgg16(path: Path, **changes: torch.Tensor) -> nn.Sequential:
    """Save VGG16 as torchvision does, and return its first layers."""
    conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)  # noqa: E731
    first = [conv(3, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*first, conv(64, 128), nn.ReLU(), conv(128, 128), nn.ReLU())
    weights = {f"features.{name}": value for name, value in network.state_dict().items()}
    torch.save(weights | {"classifier.0.weight": torch.zeros(3)} | changes, path)
    return network


def test_the_perceptual_term_counts_every_image_and_is_no_part_of_the_run(tmp_path, capsys):
    expected = vgg16(tmp_path / "vgg16.pth")
    made = small("pgan", vgg16=str(tmp_path / "vgg16.pth"), dropout=0.0)
    made.prepare_training()
    (features,) = made.features
    batch = some_slices(2, 3, 64)
    x = batch.target.repeat(1, 3, 1, 1)
    assert torch.allclose(features(x), expected(x), atol=1e-6)
    image = made.generator(batch.conditions).detach().requires_grad_()
    made.generator_losses(batch, image)["perceptual"].backward()
    assert (image.grad.abs().flatten(1).sum(dim=1) > 0).all()
    assert made.training_step(batch, 0)["perceptual"] > 0
    without = small("pgan")
    assert made.state_dict().keys() == without.state_dict().keys()
    without.prepare_training()
    assert "no perceptual term" in capsys.readouterr().err
    assert "perceptual" not in without.training_step(batch, 0)


def test_a_file_that_is_not_vgg16_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (None, [1, 2], {"layer.weight": torch.zeros(3)}):
        if content is not None:  # else there is no such file
            torch.save(content, path)
        refused(r"weights.pth: no weights of VGG16 .*leave setting vgg16 empty", vgg16_features, path)
    vgg16(path, **{"features.5.weight": torch.zeros(256, 128, 3, 3)})
    refused(r"size mismatch for 5\.weight", vgg16_features, path)


RECIPES = {  # from the publications and their code: rates, Adam, losses (L1, adversarial, further), dropout, schedule
    "pix2pix": ((2e-4, 2e-4), (0.5, 0.999), (100, 1, 0, 0), 0.5, ("linear", 0.5), 0, (200, 1)),
    "pgan": ((2e-4, 2e-4), (0.5, 0.999), (100, 1, 100, 0), 0.5, ("linear", 0.5), 0, (100, 1)),
    "mmgan": ((2e-4, 2e-4), (0.5, 0.999), (0.9, 0.1, 0, 0), 0.2, ("constant",), 0, (60, 4)),
    "hinet": ((2e-4, 2e-4), (0.5, 0.999), (100, 1, 0, 20), 0, ("linear", 0.25), 0, (400, 4)),
    "syndiff": ((1.6e-4, 1e-4), (0.5, 0.9), (0.5, 1, 0, 0), 0, ("cosine",), 0.999, (50, 1)),
    "ddpm": ((1e-4, 1e-4), (0.9, 0.999), (0.5, 1, 0, 0), 0, ("constant",), 0.999, (561, 16)),  # 600,000 steps
}


@pytest.mark.parametrize("method", RECIPES)
def test_recipes_are_those_of_the_publications(method):
    s = profiles.settings("paper", "brats", "t1ce", method)
    p = profiles.settings("paper", "brats", "t1ce", method, "published")
    weights = s.weight_supervised, s.weight_adversarial, s.weight_perceptual, s.weight_reconstruction
    schedule = (s.schedule, s.constant_part)[: 1 + (s.schedule == "linear")]
    rates, adam, training = (s.learning_rate, s.critic_learning_rate), (s.beta1, s.beta2), (p.epochs, p.batch_size)
    assert (rates, adam, weights, s.dropout, schedule, s.ema_decay, training) == RECIPES[method]
    assert p.order == "shuffled" and s.order == "fixed"
    if method == "syndiff":
        assert (s.multipliers, s.steps, s.r1_gamma, s.r1_interval) == ((1, 1, 2, 2, 4, 4), 4, 1, 10)
    if method == "ddpm":
        assert (s.steps, s.width, p.width, p.learning_rate) == (1000, 64, 128, 2e-5)


ANSWERS = [  # method, the critic's losses where it answers 0, and 1 to everything; the generator's adversarial ones
    ("pix2pix", (math.log(2), (0.3132617 + 1.3132617) / 2), (math.log(2), 0.3132617)),
    ("pgan", (0.5, 0.5), (1.0, 0.0)),
    ("hinet", (0.5, 0.5), (1.0, 0.0)),
    ("mmgan", ((1 + 0.75) / 2, 0.25 / 2), (0.1, 0.0)),
]


@pytest.mark.parametrize(("method", "critic", "generator"), ANSWERS)
def test_losses_of_a_critic_that_answers_alike(method, critic, generator):
    made, batch = small(method, dropout=0.0), some_slices(2, 3, 64)
    image = made.generate(batch.conditions, None)
    (gradient,) = torch.autograd.grad(made.generator_losses(batch, image)["adversarial"], image, retain_graph=True)
    assert gradient[:, 0].abs().sum() > 0  # the generator learns from the critic
    channels = 4 if method == "mmgan" else 1
    for answer, of_critic, of_generator in zip((0.0, 1.0), critic, generator, strict=True):
        made.judge = lambda *given, a=answer: torch.full((2, channels, 3, 3), a)
        assert made.critic_losses(batch, image)["critic"].item() == pytest.approx(of_critic, abs=1e-5)
        adversarial = made.generator_losses(batch, image)["adversarial"].item()
        assert adversarial == pytest.approx(of_generator, abs=1e-5)


@pytest.mark.parametrize("method", ONE_PASS)
def test_a_critic_that_knows_the_truth_has_no_loss_and_sees_what_it_should(method):
    made, batch = small(method, dropout=0.0), some_slices(2, 3, 64)
    image = made.generate(batch.conditions, None)

    def judge(seen: torch.Tensor, *reference: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        # Hi-Net's critic sees the target alone, MM-GAN's the target first, the others the conditions before it.
        place, n = {"hinet": (0, 1), "mmgan": (0, 4)}.get(method, (3, 4))
        assert seen.shape[1] == n and len(reference) == (method == "mmgan")
        conditions = [i for i in range(n) if i != place]
        assert torch.equal(seen[:, conditions], batch.conditions[:, : len(conditions)])
        answer = torch.ones(2, 4 if method == "mmgan" else 1, 3, 3)
        answer[:, 0] = float(torch.equal(seen[:, [place]], batch.target))
        return {"pix2pix": [answer * 40 - 20], "pgan": [answer]}.get(method, answer)

    made.critic.forward = judge
    assert made.critic_losses(batch, image)["critic"].item() == pytest.approx(0, abs=1e-6)


DROPPED = [  # side of the dropped feature maps at 256 pixels, in order
    ("pix2pix", [4, 8, 16]), ("pgan", [64] * 9), ("mmgan", [16, 8, 4, 2, 1, 2, 4, 8, 16]), ("hinet", []),
]  # fmt: skip


@pytest.mark.parametrize(("method", "dropped"), DROPPED)
def test_dropout_is_where_the_publications_have_it(method, dropped, monkeypatch):
    made = build(profiles.settings("paper", "brats", "t1ce", method, width=8, critic_width=4))
    sides = []
    spy = lambda layer, h: (sides.append((layer.p, h.shape[-1])), h)[1]  # noqa: E731
    monkeypatch.setattr(SeededDropout, "forward", spy)
    made.training_step(some_slices(1, 3, 256), 0)
    assert sides == [(made.settings.dropout, side) for side in dropped]


def copy_into(layers: list[nn.Module], parameters: list[torch.Tensor]) -> None:
    """Load weights into plain layers, in order."""
    own = [p for layer in layers for p in layer.parameters()]
    assert [p.shape for p in own] == [p.shape for p in parameters]
    for mine, given in zip(own, parameters, strict=True):
        mine.data.copy_(given)


def test_the_generator_of_pgan_is_the_sequence_of_its_publication():
    made = small("pgan", dropout=0.0).generator
    norm, relu = nn.InstanceNorm2d, nn.ReLU
    pad, up = nn.ReflectionPad2d, nn.ConvTranspose2d
    head = [pad(3), nn.Conv2d(3, 8, 7), norm(8), relu()]
    head += [nn.Conv2d(8, 16, 3, 2, 1), norm(16), relu(), nn.Conv2d(16, 32, 3, 2, 1), norm(32), relu()]
    block = [pad(1), nn.Conv2d(32, 32, 3), norm(32), relu(), pad(1), nn.Conv2d(32, 32, 3), norm(32)]
    tail = [up(32, 16, 3, 2, 1, 1), norm(16), relu(), up(16, 8, 3, 2, 1, 1), norm(8), relu()]
    tail += [pad(3), nn.Conv2d(8, 1, 7), nn.Tanh()]
    parts = [made.first, made.down, made.blocks, made.up, made.last]
    copy_into([*head, *block, *tail], [p for part in parts for p in part.parameters()])
    y = some_slices(2, 3, 64).conditions
    h = nn.Sequential(*head)(y)
    h = h + nn.Sequential(*block)(h)
    assert torch.allclose(nn.Sequential(*tail)(h), made(y), atol=1e-5)


def test_the_generator_of_mmgan_is_the_sequence_of_its_publication():
    method = small("mmgan", levels=3, dropout=0.0)
    made = method.generator
    norm, leaky, options = nn.InstanceNorm2d, nn.LeakyReLU(0.2), (4, 2, 1)  # kernel, stride, padding
    down = [nn.Sequential(nn.Conv2d(4, 8, *options, bias=False), leaky)]
    down += [nn.Sequential(nn.Conv2d(8, 16, *options, bias=False), norm(16), leaky)]
    down += [nn.Sequential(nn.Conv2d(16, 32, *options, bias=False), leaky)]
    up = [nn.Sequential(nn.ConvTranspose2d(32, n, *options, bias=False), norm(n), nn.ReLU()) for n in (16, 8)]
    end = nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(16, 4, 4, padding=1))
    copy_into([*down, *up, end], list(made.parameters()))
    y = some_slices(2, 3, 64).conditions
    d1 = down[0](torch.cat([torch.full_like(y[:, :1], -1), y], dim=1))
    d2 = down[1](d1)
    h = torch.cat([up[0](down[2](d2)), d2], dim=1)
    h = torch.cat([up[1](h), d1], dim=1)
    stack = method.generate(y, None)
    assert torch.allclose(end(h)[:, :1].tanh(), stack[:, :1], atol=1e-5) and torch.equal(stack[:, 1:], y)


def test_the_generator_of_pix2pix_is_the_sequence_of_its_publication():
    made = small("pix2pix", levels=3, dropout=0.0).generator
    leaky, relu, (d1, d2, d3), (u3, u2, u1) = nn.LeakyReLU(0.2), nn.ReLU(), made.down, made.up
    for module in made.modules():
        if isinstance(module, nn.InstanceNorm2d):
            nn.init.ones_(module.weight)

    def published(y: torch.Tensor) -> torch.Tensor:  # at its batch of one
        norm = lambda h: nn.functional.batch_norm(h, None, None, training=True)  # noqa: E731
        h1 = d1[0](y)
        h2 = norm(d2[0](leaky(h1)))
        h = norm(u3[0](relu(d3[0](leaky(h2)))))
        h = norm(u2[0](relu(torch.cat([h2, h], dim=1))))
        return torch.tanh(u1[0](relu(torch.cat([h1, h], dim=1))))

    y = some_slices(3, 3, 64).conditions
    expected = torch.cat([published(x[None]) for x in y])
    for mode in (made.train(), made.eval()):
        assert torch.allclose(mode(y), expected, atol=1e-5)
