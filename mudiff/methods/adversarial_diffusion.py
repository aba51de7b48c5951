"""Adversarial diffusion: what MU-Diff and SynDiff share. T large steps, each judged by a critic."""

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mudiff.methods.base import Batch, Callback, Loss, Method, resting
from mudiff.model import losses
from mudiff.model.critic import Critic
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.model.layers import initialise
from mudiff.settings import Settings


class AdversarialDiffusion(Method):
    """The critic psi, the schedule, and Algorithm 1 for any number of networks that predict x_0.

    Subclasses add their networks, call `_finish` with them, and define `predict`.

    Parameters
    ----------
    settings : Settings
        Sizes and every named departure.
    """

    training_only: tuple[str, ...] = ("critic.",)
    several_processes = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.schedule = Schedule.variance_preserving(settings)
        self.critic = Critic(settings)

    def _finish(self, trained: list[torch.nn.Parameter], generator: torch.Generator) -> None:
        """Draw the weights and make the optimisers, the generators' of the parameters `trained`."""
        initialise(self, generator)
        settings = self.settings
        # fused: one kernel for all parameters in place of a loop over them
        adam = partial(torch.optim.Adam, betas=(settings.beta1, settings.beta2), fused=True)
        self.optimisers = {
            "generators": adam(trained, lr=settings.learning_rate),
            "critic": adam(self.critic.parameters(), lr=settings.critic_learning_rate),
        }

    @abstractmethod
    def predict(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, features: Any = None
    ) -> tuple[Tensor, ...]:
        """Return each network's prediction of x_0, (B, 1, H, W) in [-1, 1]; all share z."""

    def condition_features(self, conditions: Tensor) -> Any:
        """Return what the networks compute from the conditions alone, once for all T steps; None: nothing."""
        return None

    @property
    def has_critic(self) -> bool:
        """Whether any loss looks at the critic; without one (section "Ablation study") it is not trained."""
        return self.settings.weight_adversarial > 0 or self.settings.weight_mask > 0

    def judge(self, x_before: Tensor, t: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the critic's logit (B,) and middle features for a candidate x_{t-1}."""
        return self.judge_each([x_before], t, x_t)[0]

    def judge_each(self, candidates: list[Tensor], t: Tensor, x_t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what `judge` returns for each of several candidates for the same x_{t-1}, in one pass."""
        count = len(candidates)
        with self._autocast():
            logits, middles = self.critic(
                torch.cat(candidates), t.repeat(count), x_t.repeat(count, 1, 1, 1), count
            )
        return list(zip(logits.float().chunk(count), middles.chunk(count), strict=True))

    def _noisy_pair(self, x_0: Tensor, noise: SliceNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Draw t, the true x_{t-1} (Eq. 6) and from it x_t (Eq. 5)."""
        t = noise.steps(self.schedule.steps)
        x_before = self.schedule.q_sample(x_0, t, noise.normal(*x_0.shape[1:]))
        return t, x_before, self.schedule.q_step(x_before, t, noise.normal(*x_0.shape[1:]))

    def _denoise(self, batch: Batch, x_t: Tensor, t: Tensor, noise: SliceNoise) -> tuple[list, list]:
        """Return the predictions and, from each, a sample of x_{t-1} (Eqs. 23 to 25)."""
        predictions = self.predict(x_t, batch.conditions, t, noise.normal(self.settings.latent))
        samples: list[Tensor] = []
        for prediction in predictions:
            if not samples or self.settings.mask_noise == "independent":  # C-3
                drawn = noise.normal(*x_t.shape[1:])
            samples.append(
                self.schedule.posterior_sample(self.schedule.posterior_mean(prediction, x_t, t), t, drawn)
            )
        return list(predictions), samples

    def critic_loss(self, batch: Batch, noise: SliceNoise, step: int) -> Loss:
        """Return what the critic minimises: Eq. 27 and, every `r1_interval` steps, the R1 penalty (register A-5).

        The generators run without gradient: the released code computes it and throws it away (C-7).
        """
        settings = self.settings
        t, x_before, x_t = self._noisy_pair(batch.target, noise)
        with torch.no_grad():
            _, samples = self._denoise(batch, x_t, t, noise)
        penalise = settings.r1_gamma > 0 and step % settings.r1_interval == 0
        x_before.requires_grad_(penalise)
        with self._autocast():  # one block for both: the weights are rounded once
            real, _ = self.judge(x_before, t, x_t)
            fakes = [logit for logit, _ in self.judge_each(samples, t, x_t)]
        loss = losses.critic_loss(real, fakes, settings.critic_real_weight)
        values = {"critic": loss}
        if penalise:
            values["r1"] = settings.r1_gamma / 2 * losses.r1_penalty(real, x_before)
            loss = loss + values["r1"]
        return loss, values

    def generator_loss(self, batch: Batch, noise: SliceNoise) -> Loss:
        """Return what all generators minimise together, Eq. 21; a single one has no mask loss."""
        settings = self.settings
        t, _, x_t = self._noisy_pair(batch.target, noise)
        predictions, samples = self._denoise(batch, x_t, t, noise)
        supervised = [losses.supervised_loss(batch.target, x, settings.reduction) for x in predictions]
        values = {f"supervised_{j}": value for j, value in enumerate(supervised, start=1)}
        loss = settings.weight_supervised * sum(supervised)
        if self.has_critic:
            with resting(self.critic):  # gradients flow through it
                judged = self.judge_each(samples, t, x_t)
            adversarial = [losses.generator_critic_loss(logit) for logit, _ in judged]
            values |= {f"adversarial_{j}": value for j, value in enumerate(adversarial, start=1)}
            mask = self.mask_loss(samples, [middle for _, middle in judged])
            if mask is not None:
                values["mask"] = mask
                loss = loss + settings.weight_mask * mask
            loss = loss + settings.weight_adversarial * sum(adversarial)
        return loss, values

    def mask_loss(self, samples: list[Tensor], middles: list[Tensor]) -> Tensor | None:
        """Return L_m of Eq. 29 from the samples and the critic's middle features of each; None: a single network."""
        return None

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Algorithm 1: the critic (if any), then the generators, on fresh t, z and noise."""
        noise = SliceNoise(batch.seeds, self.device)
        values: dict[str, Tensor] = {}
        if self.has_critic:
            values |= self._minimise("critic", self.critic_loss, batch, noise, step)
        return values | self._minimise("generators", self.generator_loss, batch, noise)

    @torch.no_grad()  # in inference mode autocast rounds the weights anew at each use
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Sample the target in T steps (Eqs. 30 to 33): the posterior means of all networks, averaged.

        Parameters
        ----------
        conditions : Tensor (B, n, H, W)
            The other contrasts in [-1, 1].
        seeds : Tensor (B,)
            One seed a slice, for x_T and every z and epsilon.
        callback : callable, optional
            Called at each step with a dict of ``t`` (int), ``x_t``, ``x_p1`` and, of two networks, ``x_p2``.

        Returns
        -------
        Tensor (B, 1, H, W) in [-1, 1].
        """
        schedule, noise = self.schedule, SliceNoise(seeds, self.device)
        shape = (1, *conditions.shape[2:])
        with self._autocast():  # one block for all steps: the weights are rounded once
            features = self.condition_features(conditions)
            x = noise.normal(*shape)  # x_T
            for step in reversed(range(schedule.steps)):
                t = torch.full((len(conditions),), step, device=self.device)
                predictions = self.predict(x, conditions, t, noise.normal(self.settings.latent), features)
                if callback is not None:
                    named = {f"x_p{j}": prediction for j, prediction in enumerate(predictions, start=1)}
                    with torch.autocast(self.device.type, enabled=False):
                        callback({"t": step, "x_t": x} | named)
                means = [schedule.posterior_mean(prediction, x, t) for prediction in predictions]
                x = schedule.posterior_sample(sum(means) / len(means), t, noise.normal(*shape))  # Eqs. 31, 33
        return x.clamp(-1, 1)
