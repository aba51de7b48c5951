"""What the one-pass baselines share: adversarial training, losses, dropout, initialisation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.base import Batch, Callback, Loss, Method, frozen
from mudiff.model.diffusion import slice_seed
from mudiff.model.layers import check_size
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class Adversarial(Method):
    """A generator of the target in one pass and a critic: least squares (Mao et al. 2017) and L1.

    Subclasses set `generator` and `critic`, call `_finish`, and change what differs.
    """

    training_only = ("critic.",)
    turns = ("critic", "generator")  # the order of the two steps on each batch
    generator: nn.Module  # conditions (B, n, H, W) -> (B, C, H, W), the target first
    critic: nn.Module

    def _finish(self, generator: torch.Generator, factor: int, least: int) -> None:
        """Check the image size, draw the weights (Isola et al., 6.2) and make the optimisers."""
        settings = self.settings
        check_size(settings, f"method {settings.method}", factor, least)
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(values)
            else:  # around 1 for the scales of normalisation, the only vectors
                nn.init.normal_(values, float(values.ndim == 1), 0.02, generator)
        for name, rate in (("generator", settings.learning_rate), ("critic", settings.critic_learning_rate)):
            parameters = getattr(self, name).parameters()
            self.optimisers[name] = torch.optim.Adam(parameters, rate, (settings.beta1, settings.beta2))

    def generate(self, conditions: Tensor, scenario: Scenario | None) -> Tensor:
        """Return what the generator makes, (B, C, H, W), the target first or, with a scenario, all contrasts."""
        return self.generator(conditions)

    def judge(self, batch: Batch, image: Tensor) -> Tensor:
        """Return logits (B, 1, h, w), one per patch, of the image beside the conditions."""
        return self.critic(torch.cat([batch.conditions, image], dim=1))[-1]

    def distance(self, logits: Tensor, label: float | Tensor) -> Tensor:
        """Return the mean squared distance of the logits from a label: 1 is true, 0 is fake."""
        return (logits.float() - label).square().mean()

    def critic_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the critic minimises; `fake` carries no gradient."""
        real, fake = self.judge(batch, batch.target), self.judge(batch, fake)
        return {"critic": (self.distance(real, 1) + self.distance(fake, 0)) / 2}

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the generator minimises: adversarial and L1."""
        return {
            "adversarial": self.settings.weight_adversarial * self.distance(self.judge(batch, fake), 1),
            "supervised": self.settings.weight_supervised * F.l1_loss(fake[:, :1].float(), batch.target),
        }

    def _loss(self, name: str, batch: Batch, fake: Tensor) -> Loss:
        with self._autocast():
            if name == "critic":
                terms = self.critic_losses(batch, fake.detach())
            else:
                with frozen(self.critic):
                    terms = self.generator_losses(batch, fake)
        return sum(terms.values()), terms

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of the critic and one of the generator on the same generated images."""
        random = torch.Generator(self.device).manual_seed(slice_seed("dropout", *batch.seeds.tolist()))
        for layer in self.modules():
            if isinstance(layer, SeededDropout):
                layer.random = random
        with self._autocast():
            fake = self.generate(batch.conditions, batch.scenario)
        return {k: v for name in self.turns for k, v in self._minimise(name, self._loss, name, batch, fake).items()}

    @torch.inference_mode()
    def synthesize(
        self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None, scenario: Scenario | None = None
    ) -> Tensor:
        """Return the target, (B, 1, H, W) in [-1, 1]; nothing in it is random, so `seeds` are not used."""
        training = self.training
        self.eval()  # no dropout; in training, BatchNorm would mix the images of a batch, and remember them
        with self._autocast():
            x = self.generate(conditions, scenario)
            x = (x[:, :1] if scenario is None else scenario.pick(x)).float().clamp(-1, 1)
        self.train(training)
        return x


class SeededDropout(nn.Module):
    """Dropout whose random numbers follow from the batch's seeds; the identity in sampling."""

    random: torch.Generator  # of this training step, on the network's device: masks are too large to move

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, h: Tensor) -> Tensor:
        """Return h, in training with a share p of its values set to zero and the others scaled up."""
        if not self.training or self.p == 0:
            return h
        return h * (torch.rand(h.shape, generator=self.random, device=h.device) >= self.p) / (1 - self.p)


def patch_critic(settings: Settings, norm: str | tuple, bias: bool) -> nn.Module:
    """Return the PatchGAN (Isola et al. 2017) on conditions and image; three `critic_blocks` see 70x70 pixels."""
    from monai.networks.nets import PatchDiscriminator

    channels, blocks = 1 + len(settings.conditions), settings.critic_blocks
    return PatchDiscriminator(2, settings.critic_width, channels, num_layers_d=blocks, norm=norm, bias=bias)
