"""A stand-in for the released code: MU-Diff in its formulation, with the weights of a `mudiff` method.

The released code is not part of this repository, and nothing here is copied from it. This is rebuilt from
facts about it (letters such as C-7: DIFFERENCES.md) for one use: to say how much time the formulations of
`mudiff` save. Both compute the same numbers from the same weights, which ``tests/test_benchmarks.py``
checks. What differs is how:

- contiguous NCHW images everywhere, float32;
- FIR resampling by the generic way for machines without the compiled kernel (G-3): zeros put between the
  pixels, padding, a plain convolution of every channel as an image of its own, then every second pixel;
- attention over a matrix of all pairs of pixels, its 1x1 layers as products in another order of axes;
- one convolution a gate in tau; the conditions' features computed anew in each of the T steps;
- the critic on the true sample and on each network's sample one after the other;
- in the critic's step the generators run with gradient, and the backward pass goes through them (C-7);
- in the generators' step the critic's weights get a gradient that nobody uses;
- Adam without a fused kernel.

At 256x256 torch counts 3,456 GFLOP an image in sampling, as of the released code, and 7,457 in a training
step, where 7,464 were counted of the released code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.released_networks import F1, F2, Psi
from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Method
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.settings import Settings


class ReleasedLike(nn.Module):
    """MU-Diff of variant ``released`` with the interface of a method: a training step and a sampler.

    Parameters
    ----------
    settings : Settings
        Of method ``mudiff``, variant ``released``; the precision is float32 whatever they say.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        if (settings.method, settings.variant) != ("mudiff", "released"):
            raise MudiffError(
                f"{settings.run_name}: the stand-in exists for mudiff, variant released, alone."
            )
        n = len(settings.conditions)
        self.settings = settings
        self.schedule = Schedule.variance_preserving(settings)
        self.f1, self.f2, self.critic = F1(settings, n), F2(settings, n), Psi(settings)
        self.attention = nn.Conv2d(self.critic.middle_width, 1, 1)
        betas = (settings.beta1, settings.beta2)
        rate, critic_rate = settings.learning_rate, settings.critic_learning_rate
        self.optimisers = {
            "f1": torch.optim.Adam(self.f1.parameters(), lr=rate, betas=betas),
            "f2": torch.optim.Adam(self.f2.parameters(), lr=rate, betas=betas),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=critic_rate, betas=betas),
        }

    @property
    def device(self) -> torch.device:
        """Where the numbers live."""
        return self.attention.weight.device

    def predict(self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x^{p1} and x^{p2}, each (B, 1, H, W)."""
        x_p1 = self.f1(x_t, conditions, t, z)
        return x_p1, self.f2(x_t, conditions, t, z, x_p1)

    def _draw(self, batch: Batch, noise: SliceNoise) -> tuple[Tensor, Tensor, Tensor, list, list]:
        """Return t, the true x_{t-1}, x_t, both predictions and a sample of x_{t-1} from each."""
        shape = batch.target.shape[1:]
        t = noise.steps(self.schedule.steps)
        x_before = self.schedule.q_sample(batch.target, t, noise.normal(*shape))
        x_before.requires_grad_()
        x_t = self.schedule.q_step(x_before, t, noise.normal(*shape)).detach()
        predictions = self.predict(x_t, batch.conditions, t, noise.normal(self.settings.latent))
        samples = [
            self.schedule.posterior_sample(
                self.schedule.posterior_mean(prediction, x_t, t), t, noise.normal(*shape)
            )
            for prediction in predictions
        ]
        return t, x_before, x_t, list(predictions), samples

    def critic_step(self, batch: Batch, noise: SliceNoise, step: int) -> dict[str, Tensor]:
        """Update the critic; the generators' gradients are computed and thrown away (C-7)."""
        t, x_before, x_t, _, samples = self._draw(batch, noise)
        self.critic.zero_grad()
        logit, _ = self.critic(x_before, t, x_t)
        real = F.softplus(-logit).mean()
        real.backward(retain_graph=True)
        values = {"critic": real}
        if step % self.settings.r1_interval == 0:
            (slope,) = torch.autograd.grad(logit.sum(), x_before, create_graph=True)
            penalty = self.settings.r1_gamma / 2 * (slope.view(slope.size(0), -1).norm(2, dim=1) ** 2).mean()
            penalty.backward()
            values["r1"] = penalty.detach()
        fake = sum(F.softplus(self.critic(sample, t, x_t)[0]).mean() for sample in samples)
        fake.backward()
        self.optimisers["critic"].step()
        return values | {"critic": (real + fake).detach()}

    def generator_step(self, batch: Batch, noise: SliceNoise) -> dict[str, Tensor]:
        """Update both generators by the sum of all their losses."""
        self.f1.zero_grad()
        self.f2.zero_grad()
        t, _, x_t, predictions, samples = self._draw(batch, noise)
        values, masks = {}, []
        for j, (prediction, sample) in enumerate(zip(predictions, samples, strict=True), start=1):
            logit, middle = self.critic(sample, t, x_t)
            masks.append(F.interpolate(torch.sigmoid(self.attention(middle)), x_t.shape[2:], mode="bilinear"))
            values[f"adversarial_{j}"] = F.softplus(-logit).mean()
            values[f"supervised_{j}"] = F.l1_loss(prediction, batch.target)
        first, second = samples
        crossed = [(first, second, masks[1]), (second, first, masks[0])]
        entropy = F.binary_cross_entropy_with_logits
        values["mask"] = sum(
            (mask * entropy(x, torch.sigmoid(y), reduction="none")).mean() for x, y, mask in crossed
        )
        weights = {
            "adversarial": self.settings.weight_adversarial,
            "supervised": self.settings.weight_supervised,
        }
        weights["mask"] = self.settings.weight_mask
        sum(weights[name.split("_")[0]] * value for name, value in values.items()).backward()
        self.optimisers["f1"].step()
        self.optimisers["f2"].step()
        return {name: value.detach() for name, value in values.items()}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Algorithm 1, as `Method.training_step`."""
        noise = SliceNoise(batch.seeds, batch.target.device)
        return self.critic_step(batch, noise, step) | self.generator_step(batch, noise)

    @torch.no_grad()
    def synthesize(self, conditions: Tensor, seeds: Tensor) -> Tensor:
        """Sample the target in T steps, as `Method.synthesize`."""
        noise, shape = SliceNoise(seeds, conditions.device), (1, *conditions.shape[2:])
        x = noise.normal(*shape)
        for step in reversed(range(self.schedule.steps)):
            t = torch.full((len(conditions),), step, device=conditions.device)
            predictions = self.predict(x, conditions, t, noise.normal(self.settings.latent))
            mean = sum(self.schedule.posterior_mean(prediction, x, t) for prediction in predictions) / 2
            x = self.schedule.posterior_sample(mean, t, noise.normal(*shape))
        return x.clamp(-1, 1)


def released_like(method: Method) -> ReleasedLike:
    """Return the stand-in with the weights of `method`, on its device.

    Parameters
    ----------
    method : Method
        MU-Diff of variant ``released``; it is left as it is.

    Raises
    ------
    MudiffError
        If `method` is another one.
    """
    made = ReleasedLike(method.settings).to(method.device)
    made.load_state_dict(method.state_dict())
    return made
