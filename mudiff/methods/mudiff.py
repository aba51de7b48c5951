"""MU-Diff: two generators that learn together with a shared critic (Algorithm 1), and their sampler."""

from functools import partial

import torch
from torch import Tensor, nn

from mudiff.methods.base import Batch, Diffusion, Loss, frozen
from mudiff.model import losses
from mudiff.model.critic import Critic, attentive_mask, mask_convolution
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.model.generators import StructureNetwork, TextureNetwork
from mudiff.model.layers import initialise
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class AdversarialDiffusion(Diffusion):
    """Large diffusion steps, each judged by a critic: Algorithm 1 for one or two networks that predict x_0.

    Subclasses add their networks, define `predict` (of two also `mask`), and end their construction with `_start`.
    """

    training_only: tuple[str, ...] = ("critic.",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.schedule = Schedule.variance_preserving(settings)
        self.critic = Critic(settings)
        # Without a loss that looks at it (section "Ablation study") the critic is not trained.
        self.has_critic = settings.weight_adversarial > 0 or settings.weight_mask > 0

    def _start(self, trained: list[nn.Parameter], generator: torch.Generator) -> None:
        """Draw the weights and make the optimisers, the generators' of the parameters `trained`."""
        initialise(self, generator)
        settings = self.settings
        adam = partial(torch.optim.Adam, betas=(settings.beta1, settings.beta2), fused=True)  # in one kernel
        self.optimisers = {
            "generators": adam(trained, lr=settings.learning_rate),
            "critic": adam(self.critic.parameters(), lr=settings.critic_learning_rate),
        }

    def predictions(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, noise: SliceNoise, scenario: Scenario | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `predict` does with one z, which the networks share (D-10)."""
        return self.predict(x_t, conditions, t, noise.normal(self.settings.latent), scenario)

    def judge(
        self, candidates: list[Tensor], t: Tensor, x_t: Tensor, scenario: Scenario | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the critic's logit (B,) and middle features for each candidate x_{t-1} (B, 1, H, W), in one pass."""
        n = len(candidates)
        with self._autocast():
            given = None if scenario is None else scenario.repeat(n)
            logits, middles = self.critic(torch.cat(candidates), t.repeat(n), x_t.repeat(n, 1, 1, 1), n, given)
        return list(zip(logits.float().chunk(n), middles.float().chunk(n), strict=True))

    def _noisy_pair(self, x_0: Tensor, noise: SliceNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Draw t, the true x_{t-1} and from it x_t."""
        t = noise.steps(self.schedule.steps)
        x_before = self.schedule.q_sample(x_0, t, noise.normal(*x_0.shape[1:]))
        return t, x_before, self.schedule.q_step(x_before, t, noise.normal(*x_0.shape[1:]))

    def _denoise(self, batch: Batch, x_t: Tensor, t: Tensor, noise: SliceNoise) -> tuple[tuple, list]:
        """Return the predictions and, from each, a sample of x_{t-1} with noise of its own (C-3)."""
        predictions = self.predictions(x_t, batch.conditions, t, noise, batch.scenario)
        draw, shape = self.schedule.posterior_sample, x_t.shape[1:]
        means = [self.schedule.posterior_mean(x_0, x_t, t) for x_0 in predictions]
        return predictions, [draw(mean, t, noise.normal(*shape)) for mean in means]  # Eq. 25

    def critic_loss(self, batch: Batch, noise: SliceNoise, step: int) -> Loss:
        """Return what the critic minimises: L_adv and, every `r1_interval` steps, the R1 penalty (A-5)."""
        settings = self.settings
        t, x_before, x_t = self._noisy_pair(batch.target, noise)
        with torch.no_grad():  # the released code computes this gradient and throws it away (C-7)
            _, samples = self._denoise(batch, x_t, t, noise)
        penalise = settings.r1_gamma > 0 and step % settings.r1_interval == 0
        x_before.requires_grad_(penalise)
        with self._autocast():  # one block for both: the weights are rounded once
            ((real, _),) = self.judge([x_before], t, x_t, batch.scenario)
            fakes = [logit for logit, _ in self.judge(samples, t, x_t, batch.scenario)]
        loss = losses.critic_loss(real, fakes, settings.critic_real_weight)
        values = {"critic": loss}
        if penalise:
            values["r1"] = settings.r1_gamma / 2 * losses.r1_penalty(real, x_before)
            loss = loss + values["r1"]
        return loss, values

    def generator_loss(self, batch: Batch, noise: SliceNoise) -> Loss:
        """Return the sum of L^j over the networks, which all generators minimise together."""
        settings = self.settings
        t, _, x_t = self._noisy_pair(batch.target, noise)
        predictions, samples = self._denoise(batch, x_t, t, noise)
        supervised = [losses.supervised_loss(batch.target, x, settings.reduction) for x in predictions]
        values = {f"supervised_{j}": value for j, value in enumerate(supervised, start=1)}
        loss = settings.weight_supervised * sum(supervised)
        if self.has_critic:
            with frozen(self.critic):
                judged = self.judge(samples, t, x_t, batch.scenario)
            adversarial = [losses.generator_critic_loss(logit) for logit, _ in judged]
            values |= {f"adversarial_{j}": value for j, value in enumerate(adversarial, start=1)}
            if len(samples) == 2 and settings.weight_mask > 0:
                masks = [self.mask(middle) for _, middle in judged]
                values["mask"] = losses.mask_loss(*samples, *masks, settings.reduction)
                loss = loss + settings.weight_mask * values["mask"]
            loss = loss + settings.weight_adversarial * sum(adversarial)  # Eq. 21
        return loss, values

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Algorithm 1: the critic (if any), then the generators, on fresh t, z and noise."""
        noise = SliceNoise(batch.seeds, self.device)
        values = self._minimise("critic", self.critic_loss, batch, noise, step) if self.has_critic else {}
        return values | self._minimise("generators", self.generator_loss, batch, noise)  # the game of Eq. 20


class MUDiff(AdversarialDiffusion):
    """F1, F2 and the attentive masks; in ablation 1 F1 alone, so nothing to compare and no mask loss."""

    training_only = ("critic.", "attention.")
    networks = ("f1", "f2")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        n = len(settings.conditions)
        self.f1 = StructureNetwork(settings, n)
        self.f2 = TextureNetwork(settings, n) if settings.networks == "mutual" else None
        # C-1: the released code never trains this convolution; here it is at least saved.
        self.attention = None if settings.mask == "channel_mean" else mask_convolution(self.critic)
        trained = [p for network in (self.f1, self.f2) if network is not None for p in network.parameters()]
        mask_gradient = self.f2 is not None and settings.weight_mask > 0 and not settings.mask_detached
        if settings.mask == "trained" and mask_gradient:
            trained += self.attention.parameters()
        self._start(trained, generator)

    def predict(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, scenario: Scenario | None = None
    ) -> tuple[Tensor, ...]:
        """Return x^{p1} and x^{p2}, each (B, 1, H, W) in [-1, 1]."""
        with self._autocast():
            x_p1 = self.f1(x_t, conditions, t, z, scenario)  # Eq. 23
            if self.f2 is None:
                return (x_p1.float(),)
            # C-4: undetached, the loss of F2 also trains F1, as in the released code.
            guide = x_p1.detach() if self.settings.detach_first else x_p1
            x_p2 = self.f2(x_t, conditions, t, z, guide, scenario)  # Eq. 24
        return x_p1.float(), x_p2.float()

    def mask(self, middle: Tensor) -> Tensor:
        """Return the attentive mask M_j, (B, 1, H, W) in (0, 1)."""
        mask = attentive_mask(middle, self.settings.image_size, self.attention)
        return mask.detach() if self.settings.mask_detached else mask
