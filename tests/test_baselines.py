"""The six baselines: sizes as published, what their losses reach, what their results depend on."""

import pytest
import torch
from conftest import some_slices
from torch import nn

from mudiff import config, tasks
from mudiff.errors import MudiffError
from mudiff.methods import build
from mudiff.methods.adversarial import ImageNorm, PatchCritic, dropout
from mudiff.methods.pgan import VGG16Features
from mudiff.settings import Settings

ONE_PASS = ("pix2pix", "pgan", "mmgan", "hinet")
SMALL = {
    "image_size": 64, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4, "levels": 6,
    "steps": 4,
}  # fmt: skip


def small(method: str, **changes):
    settings = config.settings("paper", "brats", "t1ce", method, **SMALL | {"beta_max": 3.0} | changes)
    return build(settings)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


PUBLISHED = [  # method, generator and critic for three conditions, generator for two
    ("pix2pix", 54_409_857, 2_766_657, 54_408_833),
    ("pgan", 11_371_905, 2_765_761, 11_368_769),
    ("mmgan", 54_407_172, 2_794_432, None),
    ("hinet", 4_594_372, 391_041, 3_872_259),
    ("syndiff", 39_726_977, 27_736_705, None),
]


@pytest.mark.parametrize(("method", "generator", "critic", "of_two"), PUBLISHED)
def test_published_sizes_have_the_published_parameter_counts(method, generator, critic, of_two):
    three = build(config.settings("paper", "brats", "t1ce", method))
    made = three.network if method == "syndiff" else three.generator
    assert (parameters(made), parameters(three.critic)) == (generator, critic)
    if of_two:
        two = build(config.settings("paper", "healthy", "flair", method))
        assert parameters(two.generator) == of_two


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (4, 4)])
def test_any_number_of_conditions(n, expected, monkeypatch):
    conditions = ("t1", "t2", "flair", "dwi")[:n]
    monkeypatch.setattr(Settings, "conditions", property(lambda self: conditions))
    for method in tasks.BASELINES:
        made = small(method)
        made.training_step(some_slices(2, n, 64), 0)
        assert made.eval().synthesize(torch.zeros(2, n, 64, 64), torch.arange(2)).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("method", tasks.BASELINES)
def test_every_parameter_learns_and_the_numbers_follow_from_the_seeds(method):
    def trained():
        made = small(method)
        before = {k: v.clone() for k, v in made.named_parameters()}
        state = torch.random.get_rng_state()
        for step in range(3):
            values = made.training_step(some_slices(3, 3, 64), step)
        assert torch.equal(state, torch.random.get_rng_state())  # nothing is drawn from the global state
        assert all(torch.isfinite(v) for v in values.values())
        assert all(p.requires_grad for p in made.parameters())
        # A bias before instance normalisation is taken out again: its gradient is rounding at most.
        still = [
            k for k, v in made.named_parameters() if torch.equal(v, before[k]) and not k.endswith("bias")
        ]
        assert still == []
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    torch.manual_seed(1)
    first = trained()
    torch.manual_seed(2)
    assert torch.equal(first, trained())


@pytest.mark.parametrize("method", tasks.BASELINES)
def test_a_slice_depends_on_nothing_but_itself_and_its_seed(method):
    made = small(method)
    for step in range(3):
        made.training_step(some_slices(3, 3, 64), step)
    made.eval()
    y, seeds = some_slices(5, 3, 64).conditions, torch.tensor([7, 8, 9, 10, 11])
    together = made.synthesize(y, seeds)
    assert together.shape == (5, 1, 64, 64) and together.abs().max() <= 1
    assert together.std() > 1e-4
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(made.synthesize(y[order], seeds[order]), together[order], atol=1e-5)
    for k in range(2):
        alone = made.synthesize(y[k : k + 1], seeds[k : k + 1])
        assert torch.allclose(alone, together[k : k + 1], atol=1e-5)
    other = made.synthesize(y, seeds + 100)
    assert torch.equal(other, together) == (method in ONE_PASS)  # dropout is off, so one pass has no noise


@pytest.mark.parametrize("method", tasks.BASELINES)
def test_loss_on_one_batch_falls(method):
    made = small(method, learning_rate=1e-3)
    batch = some_slices(2, 3, 64)
    name = {"ddpm": "noise", "syndiff": "supervised_1"}.get(method, "supervised")
    losses = [made.training_step(batch, step)[name].item() for step in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("method", ONE_PASS)
def test_each_step_touches_its_own_network_only(method):
    made = small(method)
    batch = some_slices(2, 3, 64)
    image = made.generate(batch.conditions, lambda h: h)
    frozen = {k: v.clone() for k, v in made.generator.named_parameters()}
    made._critic_step(batch, image)
    assert all(torch.equal(v, frozen[k]) for k, v in made.generator.named_parameters())
    assert all(p.grad is None for p in made.generator.parameters())
    frozen = {k: v.clone() for k, v in made.critic.named_parameters()}
    made._generator_step(batch, image)
    assert all(torch.equal(v, frozen[k]) for k, v in made.critic.named_parameters())


@pytest.mark.parametrize("method", ONE_PASS)
def test_the_adversarial_gradient_reaches_the_generator(method):
    made = small(method)
    batch = some_slices(2, 3, 64)
    made.generator_losses(batch, made.generate(batch.conditions, lambda h: h))["adversarial"].backward()
    gradients = [p.grad for p in made.generator.parameters() if p.grad is not None]
    assert sum(g.abs().sum().item() for g in gradients) > 0


def test_mmgan_conditions_implicitly():
    made = small("mmgan")
    batch = some_slices(2, 3, 64)
    stack = made.generate(batch.conditions, lambda h: h)
    assert torch.equal(stack[:, 1:], batch.conditions)  # the given contrasts replace their outputs
    # The target is not among the inputs: a hook sees an empty image in its place.
    seen = []
    made.generator.down[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made.generate(batch.conditions, lambda h: h)
    assert (seen[0][:, 0] == -1).all() and torch.equal(seen[0][:, 1:], batch.conditions)
    logits = made._judge(batch, stack)
    assert logits.shape == (2, 4, 4, 4)  # a map for each contrast; 16x16 at 256 pixels
    # A critic that answers 1 everywhere errs in the missing contrast alone: a quarter of the labels.
    made.critic.forward = lambda stack, true: torch.ones(2, 4, 4, 4)
    assert made.critic_losses(batch, stack)["critic"] == pytest.approx(0.25 / 2)


def test_hinet_takes_sum_product_and_maximum_and_reconstructs_each_condition():
    made = small("hinet").eval()
    fusion = made.generator.down[0]
    a, b = torch.rand(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = []
    fusion.mix.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fusion(torch.stack([a, b]))
    assert torch.allclose(seen[0], torch.cat([a + b, a * b, torch.maximum(a, b)], dim=1))
    batch = some_slices(2, 3, 64)
    image = made.generate(batch.conditions, lambda h: h)
    assert image.shape == (2, 4, 64, 64)
    terms = made.generator_losses(batch, image)
    expected = sum((image[:, 1 + i] - batch.conditions[:, i]).abs().mean() for i in range(3))
    assert terms["reconstruction"].item() == pytest.approx(20 * expected.item(), rel=1e-5)


def test_statistics_of_pix2pix_are_those_of_each_image():
    norm = ImageNorm(3)
    h = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 2
    for mode in (norm.train(), norm.eval()):
        alone = nn.BatchNorm2d(3).train()  # at a batch of one: what Pix2Pix was published with
        expected = torch.cat([alone(h[k : k + 1]) for k in range(4)])
        assert torch.allclose(mode(h), expected, atol=1e-5)


def test_patch_critic_sees_70_pixels():
    critic = PatchCritic(1, Settings(critic_blocks=3, critic_width=4), nn.InstanceNorm2d)
    for layer in [m for m in critic.modules() if isinstance(m, nn.InstanceNorm2d)]:
        layer.forward = lambda h: h  # normalisation sees the whole image
    x = torch.zeros(1, 1, 256, 256, requires_grad=True)
    logits = critic(x)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    rows = x.grad[0, 0].abs().sum(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == 70


def test_dropout_keeps_the_mean_and_follows_the_seeds():
    h, device = torch.ones(4, 64, 32, 32), torch.device("cpu")
    dropped = dropout(0.5, torch.tensor([1, 2]), device)(h)
    assert dropped.mean() == pytest.approx(1, abs=0.02) and set(dropped.unique().tolist()) == {0, 2}
    assert torch.equal(dropped, dropout(0.5, torch.tensor([1, 2]), device)(h))
    assert not torch.equal(dropped, dropout(0.5, torch.tensor([1, 3]), device)(h))
    assert dropout(0.0, torch.tensor([1]), device)(h) is h


SIZES = [
    ("pix2pix", {"image_size": 96}, "multiple of 64"),
    ("mmgan", {"image_size": 96}, "multiple of 64"),
    ("pix2pix", {"image_size": 16, "levels": 4}, "at least 24"),
    ("mmgan", {"image_size": 16, "levels": 4}, "at least 32"),
    ("pgan", {"image_size": 20}, "at least 24"),
    ("hinet", {"image_size": 36}, "multiple of 8"),
    ("hinet", {"image_size": 32}, "at least 33"),
    ("syndiff", {"multipliers": (1,) * 8}, "multiple of 128"),
    ("ddpm", {"image_size": 36, "multipliers": (1, 2, 4, 4)}, r"multiples? of 8"),
]


@pytest.mark.parametrize(("method", "change", "words"), SIZES)
def test_sizes_that_a_network_cannot_take_are_named(method, change, words):
    with pytest.raises(MudiffError, match=words):
        small(method, **change)


@pytest.fixture
def vgg16() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128)}
    weights = {f"features.{k}.weight": torch.randn(*s, 3, 3, generator=g) * 0.05 for k, s in shapes.items()}
    return weights | {f"features.{k}.bias": torch.randn(s[0], generator=g) * 0.1 for k, s in shapes.items()}


def test_the_perceptual_term_counts_every_image_and_is_no_part_of_the_run(vgg16, tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save(vgg16, path)
    made = small("pgan", vgg16=str(path))
    assert sum(p.numel() for p in made.features.parameters()) == 260_160
    batch = some_slices(2, 3, 64)
    image = made.generate(batch.conditions, lambda h: h).detach().requires_grad_()
    made.generator_losses(batch, image)["perceptual"].backward()
    assert (image.grad.abs().flatten(1).sum(dim=1) > 0).all()
    assert made.training_step(batch, 0)["perceptual"] > 0
    assert made.state_dict().keys() == small("pgan").state_dict().keys()
    assert "perceptual" not in small("pgan").training_step(batch, 0)


def test_features_of_vgg16_are_those_of_its_layers(vgg16, tmp_path):
    torch.save(vgg16, tmp_path / "w.pth")
    layers = [
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip
    reference = nn.Sequential(*layers)
    names = reference.state_dict().keys()
    reference.load_state_dict({name: vgg16[f"features.{name}"] for name in names})
    x = some_slices(2, 3, 64).target
    with torch.no_grad():
        assert torch.allclose(
            VGG16Features(tmp_path / "w.pth")(x), reference(x.repeat(1, 3, 1, 1)), atol=1e-6
        )


def test_a_file_that_is_not_vgg16_is_named(vgg16, tmp_path):
    batch = some_slices(2, 3, 64)
    path = tmp_path / "weights.pth"

    def error() -> str:
        with pytest.raises(MudiffError) as raised:
            small("pgan", vgg16=str(path)).training_step(batch, 0)
        return str(raised.value)

    assert "not found" in error()
    path.write_bytes(b"no weights")
    assert "cannot be read" in error()
    torch.save([1, 2], path)
    assert "table of named tensors" in error()
    torch.save({"layer.weight": torch.zeros(3)}, path)
    assert "features.0.weight is missing" in error()
    vgg16["features.5.weight"] = torch.zeros(256, 128, 3, 3)
    torch.save(vgg16, path)
    assert "features.5.weight has shape (256, 128, 3, 3), (128, 64, 3, 3) expected" in error()
    with pytest.raises(MudiffError, match="only method pgan"):
        config.settings("paper", "brats", "t1ce", "pix2pix", vgg16=str(path))


def test_unknown_methods_and_variants_are_named():
    with pytest.raises(MudiffError, match="method 'cyclegan' is unknown: choose one of pix2pix, pgan"):
        config.settings("paper", "brats", "t1ce", "cyclegan")
    with pytest.raises(MudiffError, match="variant 'text' is MU-Diff's"):
        config.settings("paper", "brats", "t1ce", "pgan", "text")
    with pytest.raises(MudiffError, match="variant 'published' is for baselines"):
        config.settings("paper", "brats", "t1ce", "mudiff", "published")
    published = config.settings("paper", "brats", "t1ce", "pix2pix", "published")
    assert (published.epochs, published.batch_size, published.run_name) == (
        200,
        1,
        "brats_t1ce_pix2pix_published",
    )


def test_all_methods_of_a_task_see_the_same_slices():
    for name, profile in config.PROFILES.items():
        for (dataset, target), methods in profile.runs.items():
            seen = {m: config.settings(name, dataset, target, m) for m in methods if m != "linear"}
            assert (
                len({(s.epochs, s.batch_size, s.checkpoint, s.validation_slices) for s in seen.values()}) == 1
            )
            assert {"mudiff", "syndiff", "linear"} <= set(methods)
    assert set(config.profile("paper").runs.values()) == {tuple(tasks.METHODS)}
    assert len(tasks.RUNS) == 9
