"""MU-Diff: two generators that learn together with a shared critic (Algorithm 1)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mudiff import losses
from mudiff.critic import Critic, attentive_mask
from mudiff.diffusion import Schedule, SliceNoise
from mudiff.layers import initialise
from mudiff.methods.method import Batch, Callback, Method
from mudiff.networks import StructureNetwork, TextureNetwork
from mudiff.settings import Settings


class MUDiff(Method):
    """F1, F2, the critic psi, the schedule, and the training step and sampler made of them.

    Parameters
    ----------
    settings : Settings
        Sizes and every named departure.
    generator : torch.Generator
        Source of the initial weights.
    """

    training_only = ("critic.", "attention.")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        n_conditions = len(settings.conditions)
        self.schedule = Schedule(settings)
        self.f1 = StructureNetwork(settings, n_conditions)
        self.f2 = TextureNetwork(settings, n_conditions)
        self.critic = Critic(settings)
        # C-1: the released code never trains this convolution; here it is at least saved.
        by_channels = settings.mask == "channel_mean"
        self.attention = None if by_channels else nn.Conv2d(self.critic.middle_width, 1, 1)
        initialise(self, generator)

        generators = [*self.f1.parameters(), *self.f2.parameters()]
        if settings.mask == "trained":
            generators += self.attention.parameters()
        betas = (settings.beta1, settings.beta2)
        self.optimisers = {
            "generators": torch.optim.Adam(generators, lr=settings.learning_rate, betas=betas),
            "critic": torch.optim.Adam(
                self.critic.parameters(), lr=settings.critic_learning_rate, betas=betas
            ),
        }

    def _autocast(self) -> AbstractContextManager:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def predict(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, features: tuple | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x^{p1} and x^{p2} (Eqs. 23 and 24), each (B, 1, H, W) in [-1, 1].

        Both networks share z (register D-10). `features` is what `condition_features` returned.
        """
        first, second = features if features is not None else (None, None)
        with self._autocast():
            x_p1 = self.f1(x_t, conditions, t, z, first)
            # C-4: undetached, the loss of F2 also trains F1, as in the released code.
            guide = x_p1.detach() if self.settings.detach_first else x_p1
            x_p2 = self.f2(x_t, conditions, t, z, guide, second)
        return x_p1.float(), x_p2.float()

    def condition_features(self, conditions: Tensor) -> tuple[list, list]:
        """Return what both networks compute from the conditions alone, once for all T steps."""
        with self._autocast():
            return self.f1.condition_features(conditions), self.f2.condition_features(conditions)

    def judge(self, x_before: Tensor, t: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the critic's logit (B,) and middle features for a candidate x_{t-1}."""
        with self._autocast():
            logit, middle = self.critic(x_before, t, x_t)
        return logit.float(), middle

    def mask(self, middle: Tensor) -> Tensor:
        """Return the attentive mask M_j of Eq. 28, (B, 1, H, W) in (0, 1)."""
        mask = attentive_mask(middle.float(), self.settings.image_size, self.attention)
        return mask.detach() if self.settings.mask_detached else mask

    def _noisy_pair(self, x_0: Tensor, noise: SliceNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Draw t, the true x_{t-1} (Eq. 6) and from it x_t (Eq. 5)."""
        t = noise.steps(self.schedule.steps)
        x_before = self.schedule.marginal(x_0, t, noise.normal(*x_0.shape[1:]))
        return t, x_before, self.schedule.diffuse(x_before, t, noise.normal(*x_0.shape[1:]))

    def _denoise(self, batch: Batch, x_t: Tensor, t: Tensor, noise: SliceNoise) -> tuple[list, list]:
        """Return both predictions and, from each, a sample of x_{t-1} (Eqs. 23 to 25)."""
        predictions = self.predict(x_t, batch.conditions, t, noise.normal(self.settings.latent))
        drawn = noise.normal(*x_t.shape[1:])
        samples = [self.schedule(predictions[0], x_t, t, drawn)]
        if self.settings.mask_noise == "independent":  # C-3
            drawn = noise.normal(*x_t.shape[1:])
        return list(predictions), [*samples, self.schedule(predictions[1], x_t, t, drawn)]

    def critic_step(self, batch: Batch, noise: SliceNoise, step: int) -> dict[str, Tensor]:
        """Update the critic: Eq. 27 and, every `r1_interval` steps, the R1 penalty (register A-5).

        The generators run without gradient: the released code computes it and throws it away (C-7).
        """
        settings, optimiser = self.settings, self.optimisers["critic"]
        t, x_before, x_t = self._noisy_pair(batch.target, noise)
        with torch.no_grad():
            _, samples = self._denoise(batch, x_t, t, noise)
        penalise = settings.r1_gamma > 0 and step % settings.r1_interval == 0
        x_before.requires_grad_(penalise)
        real, _ = self.judge(x_before, t, x_t)
        fakes = [self.judge(sample, t, x_t)[0] for sample in samples]
        loss = losses.critic_loss(real, fakes, settings.critic_real_weight)
        values = {"critic": loss.detach()}
        if penalise:
            penalty = settings.r1_gamma / 2 * losses.r1_penalty(real, x_before)
            loss = loss + penalty
            values["r1"] = penalty.detach()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return values

    def generator_step(self, batch: Batch, noise: SliceNoise) -> dict[str, Tensor]:
        """Update both generators together by Eq. 21."""
        settings, optimiser = self.settings, self.optimisers["generators"]
        self.critic.requires_grad_(False)  # its weights rest; gradients flow through it
        t, _, x_t = self._noisy_pair(batch.target, noise)
        predictions, samples = self._denoise(batch, x_t, t, noise)
        supervised = [losses.supervised_loss(batch.target, x, settings.reduction) for x in predictions]
        judged = [self.judge(sample, t, x_t) for sample in samples]
        adversarial = [losses.generator_critic_loss(logit) for logit, _ in judged]
        masks = [self.mask(middle) for _, middle in judged]
        mask = losses.mask_loss(*samples, *masks, settings.reduction)
        loss = (
            settings.weight_supervised * sum(supervised)
            + settings.weight_mask * mask
            + settings.weight_adversarial * sum(adversarial)
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        self.critic.requires_grad_(True)
        values = {
            "supervised_1": supervised[0],
            "supervised_2": supervised[1],
            "adversarial_1": adversarial[0],
            "adversarial_2": adversarial[1],
            "mask": mask,
        }
        return {name: value.detach() for name, value in values.items()}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Algorithm 1: the critic, then both generators, on fresh t, z and noise."""
        noise = SliceNoise(batch.seeds, self.device)
        return self.critic_step(batch, noise, step) | self.generator_step(batch, noise)

    @torch.inference_mode()
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Sample the target in T mutual steps (Eqs. 30 to 33): both posterior means, averaged.

        Parameters
        ----------
        conditions : Tensor (B, n, H, W)
            The other contrasts in [-1, 1].
        seeds : Tensor (B,)
            One seed a slice, for x_T and every z and epsilon.
        callback : callable, optional
            Called at each step with a dict of ``t`` (int), ``x_t``, ``x_p1`` and ``x_p2``.

        Returns
        -------
        Tensor (B, 1, H, W) in [-1, 1].
        """
        schedule, noise = self.schedule, SliceNoise(seeds, self.device)
        shape = (1, *conditions.shape[2:])
        features = self.condition_features(conditions)
        x = noise.normal(*shape)  # x_T
        for step in reversed(range(schedule.steps)):
            t = torch.full((len(conditions),), step, device=self.device)
            x_p1, x_p2 = self.predict(x, conditions, t, noise.normal(self.settings.latent), features)
            if callback is not None:
                callback({"t": step, "x_t": x, "x_p1": x_p1, "x_p2": x_p2})
            means = [schedule.posterior_mean(prediction, x, t) for prediction in (x_p1, x_p2)]
            x = schedule.posterior_sample(sum(means) / 2, t, noise.normal(*shape))  # Eqs. 31 and 33
        return x.clamp(-1, 1)
