"""DDPM (Ho et al. 2020), the conventional denoising diffusion model, here conditional on other contrasts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Diffusion, Loss
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.model.layers import check_size, group_count
from mudiff.settings import Settings


class DDPM(Diffusion):
    """A U-Net that predicts the noise in x_t, and T steps from pure noise back to an image.

    Process, loss (Eq. 14), sampler (Algorithm 2, the smaller of two variances) and U-Net are those of Ho et al. 2020,
    as section "Competing methods" gives no others; the conditions join x_t as channels, clean at every t.
    """

    networks = ("network",)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        if (steps := settings.steps) <= (largest := settings.beta_max):
            raise MudiffError(f"setting steps = {steps}: method ddpm takes more steps than beta_max = {largest:g}.")
        # beta_min 0.1 and beta_max 20 are the 1e-4 and 0.02 of Ho et al. at T = 1000; any T has about their process.
        self.schedule = Schedule(torch.linspace(settings.beta_min, largest, steps, dtype=torch.float64) / steps)
        with torch.random.fork_rng(devices=[]):  # MONAI initialises from the global random state: lend it ours
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.network = unet(settings)
        parameters, moments = self.network.parameters(), (settings.beta1, settings.beta2)
        self.optimisers["generator"] = torch.optim.Adam(parameters, settings.learning_rate, moments)

    def predict_noise(self, x_t: Tensor, conditions: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network sees in x_t, (B, 1, H, W), at steps t (B,)."""
        with self._autocast():
            return self.network(torch.cat([x_t, conditions], dim=1), t).float()

    def predictions(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, noise: SliceNoise, scenario: None = None
    ) -> tuple[Tensor]:
        """Return the x_0 that the predicted noise leaves (Ho et al., Eq. 15), (B, 1, H, W), clipped to [-1, 1].

        Of one network, `synthesize` is Ho et al.'s Algorithm 2 (and Eq. 7).
        """
        predicted = self.schedule.sigma[t + 1, None, None, None] * self.predict_noise(x_t, conditions, t)
        return (((x_t - predicted) / self.schedule.sqrt_alpha_bar[t + 1, None, None, None]).clamp(-1, 1),)

    def loss(self, batch: Batch) -> Loss:
        """Return the mean squared error of the noise at a uniform t (Ho et al., Eq. 14)."""
        random = SliceNoise(batch.seeds, self.device)
        t, noise = random.steps(self.schedule.steps), random.normal(*batch.target.shape[1:])
        x_t = self.schedule.q_sample(batch.target, t + 1, noise)
        loss = F.mse_loss(self.predict_noise(x_t, batch.conditions, t), noise)
        return loss, {"noise": loss}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Ho et al.'s Algorithm 1."""
        return self._minimise("generator", self.loss, batch)


def unet(settings: Settings) -> nn.Module:
    """Return MONAI's form of the U-Net of Ho et al.: one attention head at 16 pixels and one in the middle."""
    from monai.networks.nets import DiffusionModelUNet

    levels, size = len(settings.multipliers), settings.image_size
    check_size(settings, f"ddpm with {levels} multipliers", 2 ** (levels - 1))
    widths = tuple(settings.width * m for m in settings.multipliers)
    attention = tuple(size // 2**k == settings.attention_at for k in range(levels))
    # Groups of four channels: in groups of one, normalisation would take out what the time embedding adds to each.
    groups, inputs = group_count(settings.width), 1 + len(settings.conditions)
    return DiffusionModelUNet(2, inputs, 1, settings.blocks, widths, attention, groups, num_head_channels=widths)
