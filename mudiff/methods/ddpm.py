"""DDPM (Ho et al. 2020), the conventional denoising diffusion model, here conditional on other contrasts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Callback, Loss, Method
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.model.layers import group_count
from mudiff.settings import Settings


class DDPM(Method):
    """A U-Net that predicts the noise in x_t, and T steps from pure noise back to an image.

    The paper names the "conventional DDPM" (section "Competing methods") without a number. Process, loss (Eq. 14),
    sampler (Algorithm 2, with the smaller of two variances) and U-Net are those of Ho et al. 2020, which has no
    conditions: they join x_t as further channels, clean at every t, as is usual for medical images.
    """

    several_processes = True
    networks = ("network",)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        steps, largest = settings.steps, settings.beta_max
        if steps <= largest:
            raise MudiffError(f"setting steps = {steps}: method ddpm takes more steps than beta_max = {largest:g}.")
        # beta_min 0.1 and beta_max 20 are the 1e-4 and 0.02 of Ho et al. at T = 1000; any T has about their process.
        betas = torch.linspace(settings.beta_min, largest, steps, dtype=torch.float64) / steps
        self.schedule = Schedule(betas)
        # MONAI initialises from the global random state: lend it one that starts from the generator.
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = unet(settings)
        moments = (settings.beta1, settings.beta2)
        adam = torch.optim.Adam(self.network.parameters(), settings.learning_rate, moments)
        self.optimisers = {"generator": adam}

    def predict_noise(self, x_t: Tensor, conditions: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network sees in x_t, (B, 1, H, W), at steps t (B,)."""
        with self._autocast():
            return self.network(torch.cat([x_t, conditions], dim=1), t).float()

    def predict(self, x_t: Tensor, conditions: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that the predicted noise leaves (Ho et al., Eq. 15), (B, 1, H, W), clipped to [-1, 1]."""
        noise = self.schedule.sigma[t + 1, None, None, None] * self.predict_noise(x_t, conditions, t)
        return ((x_t - noise) / self.schedule.sqrt_alpha_bar[t + 1, None, None, None]).clamp(-1, 1)

    def loss(self, batch: Batch) -> Loss:
        """Return the mean squared error of the noise at a uniform t (Ho et al., Eq. 14)."""
        random = SliceNoise(batch.seeds, self.device)
        t = random.steps(self.schedule.steps)
        noise = random.normal(*batch.target.shape[1:])
        x_t = self.schedule.q_sample(batch.target, t + 1, noise)
        loss = F.mse_loss(self.predict_noise(x_t, batch.conditions, t), noise)
        return loss, {"noise": loss}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Ho et al.'s Algorithm 1."""
        return self._minimise("generator", self.loss, batch)

    @torch.inference_mode()
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Sample the target, (B, 1, H, W) in [-1, 1], in T steps (Ho et al., Algorithm 2).

        `callback` is called at each step with a dict of ``t`` (int), ``x_t`` and ``x_p1``, the predicted x_0.
        """
        random, shape = SliceNoise(seeds, self.device), (1, *conditions.shape[2:])
        x = random.normal(*shape)  # x_T
        for step in reversed(range(self.schedule.steps)):
            t = torch.full((len(conditions),), step, device=self.device)
            x_0 = self.predict(x, conditions, t)
            if callback is not None:
                callback({"t": step, "x_t": x, "x_p1": x_0})
            mean = self.schedule.posterior_mean(x_0, x, t)  # Ho et al., Eq. 7
            x = self.schedule.posterior_sample(mean, t, random.normal(*shape))
        return x.clamp(-1, 1)


def unet(settings: Settings) -> nn.Module:
    """Return MONAI's form of the U-Net of Ho et al.: one attention head at 16 pixels and one in the middle."""
    from monai.networks.nets import DiffusionModelUNet

    levels, size = len(settings.multipliers), settings.image_size
    if size % 2 ** (levels - 1):
        raise MudiffError(
            f"setting image_size = {size}: ddpm takes multiples of {2 ** (levels - 1)} with {levels} multipliers."
        )
    widths = tuple(settings.width * m for m in settings.multipliers)
    attention = tuple(size // 2**k == settings.attention_at for k in range(levels))
    # Groups of four channels, as the 32 of 128 are: in groups of one, normalisation would take out the time embedding
    # again, which adds one number to each channel.
    groups = group_count(settings.width)
    inputs, blocks = 1 + len(settings.conditions), settings.blocks
    return DiffusionModelUNet(2, inputs, 1, blocks, widths, attention, groups, num_head_channels=widths)
