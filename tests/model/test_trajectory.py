"""Twelve steps of training against the authors' released training loop, in float64."""

import zlib

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from reference import critic_keys, needs, seeded_weight

from mudiff.methods import mudiff
from mudiff.methods.base import Batch, build
from mudiff.settings import Settings
from mudiff.synthesis import released

# Our draws of half a step in the order of the released ones: ours takes the noise of Eq. 6 before that of Eq. 5.
ORDER = (0, 2, 1, 3, 4, 5)  # t, x_{t-1}, x_t, z, sample 1, sample 2


class RecordedNoise:
    """Stands in for `SliceNoise`: the numbers of the released run, whatever the seeds."""

    seed, drawn = 0, 0

    def __init__(self, seeds, device) -> None:
        self.batch = len(seeds)

    def next(self) -> np.random.RandomState:
        half, place = divmod(RecordedNoise.drawn, len(ORDER))
        RecordedNoise.drawn += 1
        return np.random.RandomState(RecordedNoise.seed + len(ORDER) * half + ORDER[place])

    def steps(self, T: int) -> torch.Tensor:
        return torch.from_numpy(self.next().randint(0, T, (self.batch,)))

    def normal(self, *shape: int) -> torch.Tensor:
        drawn = self.next().standard_normal((self.batch, *shape))
        return torch.from_numpy(drawn.astype(np.float32)).double()


@pytest.fixture
def double(monkeypatch):
    """Compute all in float64, also where the code raises bfloat16 to float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_weights(parameters: dict[str, torch.Tensor], names: np.ndarray, expected: np.ndarray) -> None:
    """Compare each tensor's product with a fixed random one, and its norm."""
    for name, truth in zip(names, expected, strict=True):
        value = parameters[name].detach().numpy()
        value = value.T if name.endswith(".W") else value  # stored as input x output
        weights = np.random.RandomState(zlib.crc32(f"p{name}".encode()) % 2**32).standard_normal(value.shape)
        error = np.abs([(value * weights).sum() - truth[0], np.sqrt((value**2).sum()) - truth[1]])
        assert (error <= 1e-10 * truth[1] + 1e-17).all(), name  # some gradients are zero but for rounding


@needs("released_trajectory.npz")
def test_twelve_training_steps_are_the_released_ones(double, monkeypatch):
    with np.load(REFERENCE / "released_trajectory.npz", allow_pickle=False) as file:
        truth = dict(file)
    width, side, count = (int(truth[k]) for k in ("width", "image_size", "batch_size"))
    sizes = {"image_size": side, "width": width, "embedding": 4 * width, "critic_width": width}
    settings = Settings(**sizes, batch_size=count)
    method = build(settings).double()
    for name in ("betas", "sqrt_alpha_bar", "sigma", "mean_x0", "mean_xt", "variance"):
        setattr(method.schedule, name, torch.from_numpy(truth[f"table_{name}"]))
    parameters = {name: released.network_keys(getattr(method, name)) for name in ("f1", "f2")}
    parameters["critic"] = critic_keys(method.critic)
    for part in parameters.values():
        shapes = {k: v.shape[::-1] if k.endswith(".W") else v.shape for k, v in part.items()}
        released.fill(part, {k: seeded_weight(k, tuple(s)).double() for k, s in shapes.items()}, "seeded")
    method.attention.load_state_dict({k: torch.from_numpy(truth[f"attention_{k}"]) for k in ("weight", "bias")})
    for part, values in parameters.items():
        assert_weights(values, truth[f"{part}_names"], truth[f"{part}_after_0"])

    monkeypatch.setattr(mudiff, "SliceNoise", RecordedNoise)
    monkeypatch.setattr(RecordedNoise, "seed", int(truth["noise_seed"]))
    monkeypatch.setattr(RecordedNoise, "drawn", 0)
    for step in range(int(truth["steps"])):
        seeds = [int(truth["image_seed"]) + 4 * (step % 3) + j for j in range(4)]
        draws = [np.random.RandomState(s).standard_normal((count, 1, side, side)) for s in seeds]
        images = torch.from_numpy(np.tanh(np.stack(draws)).astype(np.float32)).double()
        conditions = images[:3, :, 0].transpose(0, 1)  # (B, 3, H, W)
        brain = torch.ones_like(images[3], dtype=torch.bool)
        for name, rate in zip(("critic", "generators"), truth["learning_rates"][step], strict=True):
            method.optimisers[name].param_groups[0]["lr"] = float(rate)
        values = method.training_step(Batch(images[3], conditions, brain, torch.arange(count)), step)

        values = {name: value.item() for name, value in values.items()}
        values["total"] = (
            settings.weight_supervised * (values["supervised_1"] + values["supervised_2"])
            + settings.weight_adversarial * (values["adversarial_1"] + values["adversarial_2"])
            + settings.weight_mask * values["mask"]
        )
        found = [values.get(str(name), 0.0) for name in truth["loss_names"]]
        np.testing.assert_allclose(found, truth["losses"][step], rtol=1e-10, atol=0)
        for part, values in parameters.items():
            if f"{part}_after_{step + 1}" in truth:
                assert_weights(values, truth[f"{part}_names"], truth[f"{part}_after_{step + 1}"])
            if f"{part}_gradient_{step + 1}" in truth:
                gradients = {name: parameter.grad for name, parameter in values.items()}
                assert_weights(gradients, truth[f"{part}_names"], truth[f"{part}_gradient_{step + 1}"])
