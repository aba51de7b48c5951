"""DDPM (Ho et al. 2020), the conventional denoising diffusion model, here conditional on other contrasts."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Callback, Loss, Method
from mudiff.model.diffusion import SliceNoise
from mudiff.model.layers import group_count
from mudiff.settings import Settings


class DDPM(Method):
    """A U-Net that predicts the noise in x_t, and T steps from pure noise back to an image.

    The paper names the "conventional DDPM" (section "Competing methods") and gives no number for it. From Ho
    et al. 2020 come the process, the unweighted loss on the noise (their Eq. 14), the sampler (their Algorithm
    2, with the smaller of their two variances) and the design of the U-Net. The conditions are not in Ho et al.:
    they join x_t as further channels, clean at every t, as is usual in the translation of medical images.

    Parameters
    ----------
    settings : Settings
        Sizes, T and the betas.
    generator : torch.Generator
        Source of the initial weights.

    Attributes
    ----------
    betas : list of float
        beta_t, t = 0 .. T-1.
    alpha_bar : list of float
        The share of the image's power left in x_t, t = 0 .. T-1.
    """

    several_processes = True
    networks = ("network",)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        self.scheduler = linear_scheduler(settings)
        # MONAI's tables are float32, in which 1 - alpha_bar is off by 2e-4 at t = 0; sampling divides by it.
        betas = self.scheduler.betas.double()
        self.betas, self.alpha_bar = betas.tolist(), torch.cumprod(1 - betas, 0).tolist()
        # MONAI initialises from the global random state: lend it one that starts from the generator.
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = unet(settings)
        adam = torch.optim.Adam(
            self.network.parameters(), lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
        )
        self.optimisers = {"generator": adam}

    def predict_noise(self, x_t: Tensor, conditions: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network sees in x_t, (B, 1, H, W), at steps t (B,)."""
        with self._autocast():
            return self.network(torch.cat([x_t, conditions], dim=1), t).float()

    def denoise(self, x_t: Tensor, predicted: Tensor, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return a sample of x_{t-1} and the image x_0 that it aims at.

        x_0 follows from x_t and the predicted noise (Ho et al., Eq. 15), clipped to the range of images as
        MONAI's sampler does; x_{t-1} is a draw from q(x_{t-1} | x_t, x_0) (Ho et al., Eqs. 6 and 7), at t = 0
        its mean, which is x_0.

        Parameters
        ----------
        x_t, predicted : Tensor (B, 1, H, W)
            The noisy image and the noise predicted in it.
        t : int
            The step, T-1 .. 0.
        noise : Tensor (B, 1, H, W)
            Standard normal numbers.
        """
        beta, alpha_bar = self.betas[t], self.alpha_bar[t]
        before = self.alpha_bar[t - 1] if t else 1.0
        x_0 = (x_t - math.sqrt(1 - alpha_bar) * predicted) / math.sqrt(alpha_bar)
        x_0 = x_0.clamp(-1, 1)
        left = (1 - before) / (1 - alpha_bar)  # 0 at the last step, t = 0
        mean = math.sqrt(before) * beta / (1 - alpha_bar) * x_0 + math.sqrt(1 - beta) * left * x_t
        return mean + math.sqrt(left * beta) * noise, x_0

    def loss(self, batch: Batch) -> Loss:
        """Return the mean squared error of the noise at a uniform t (Ho et al., Eq. 14)."""
        random = SliceNoise(batch.seeds, self.device)
        t = random.steps(self.settings.steps)
        noise = random.normal(*batch.target.shape[1:])
        x_t = self.scheduler.add_noise(batch.target, noise, t)
        loss = F.mse_loss(self.predict_noise(x_t, batch.conditions, t), noise)
        return loss, {"noise": loss}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of Ho et al.'s Algorithm 1."""
        return self._minimise("generator", self.loss, batch)

    @torch.inference_mode()
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Sample the target in T steps (Ho et al., Algorithm 2), one evaluation of the network each.

        Parameters
        ----------
        conditions : Tensor (B, n, H, W)
            The other contrasts in [-1, 1].
        seeds : Tensor (B,)
            One seed a slice, for x_T and the noise of every step.
        callback : callable, optional
            Called at each step with a dict of ``t`` (int), ``x_t`` and ``x_p1``, the predicted x_0.

        Returns
        -------
        Tensor (B, 1, H, W) in [-1, 1].
        """
        random, shape = SliceNoise(seeds, self.device), (1, *conditions.shape[2:])
        x = random.normal(*shape)  # x_T
        for step in reversed(range(self.settings.steps)):
            t = torch.full((len(conditions),), step, device=self.device)
            predicted = self.predict_noise(x, conditions, t)
            x_before, x_0 = self.denoise(x, predicted, step, random.normal(*shape))
            if callback is not None:
                callback({"t": step, "x_t": x, "x_p1": x_0})
            x = x_before
        return x.clamp(-1, 1)


def unet(settings: Settings) -> nn.Module:
    """Return the U-Net of Ho et al. for settings' sizes, with MONAI's initialisation.

    Two residual blocks a level (three in the decoder) and one attention head at 16 pixels and in the middle
    are theirs. At width 128 it has 113,672,065 parameters for three conditions, at width 64 28,446,657.

    Raises
    ------
    MudiffError
        If the image cannot be halved often enough.
    """
    from monai.networks.nets import DiffusionModelUNet

    levels, size = len(settings.multipliers), settings.image_size
    least = 2 ** (levels - 1)
    if size % least:
        raise MudiffError(
            f"setting image_size = {size}: method ddpm halves the image {levels - 1} times (setting "
            f"multipliers), so it takes multiples of {least}, such as {least * math.ceil(size / least)}."
        )
    widths = tuple(settings.width * m for m in settings.multipliers)
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1 + len(settings.conditions),
        out_channels=1,
        num_res_blocks=settings.blocks,
        channels=widths,
        attention_levels=tuple(size // 2**k == settings.attention_at for k in range(levels)),
        num_head_channels=widths,
        # Groups of four channels, as the 32 of 128 are. In groups of one, normalisation would take out the
        # time embedding again, which adds one number to each channel.
        norm_num_groups=group_count(settings.width),
    )


def linear_scheduler(settings: Settings) -> nn.Module:
    """Return MONAI's schedule of T betas from `beta_min` / T to `beta_max` / T.

    0.1 and 20 give the 1e-4 and 0.02 of Ho et al. at T = 1000, and about the same process at any other T,
    only in coarser or finer steps.

    Raises
    ------
    MudiffError
        If T is so small that a step would leave nothing of the image (beta >= 1).
    """
    from monai.networks.schedulers import DDPMScheduler

    steps, largest = settings.steps, settings.beta_max
    if steps <= largest:
        raise MudiffError(
            f"setting steps = {steps}: method ddpm needs more steps than beta_max = {largest:g}, at least "
            f"{math.floor(largest) + 1}."
        )
    return DDPMScheduler(steps, "linear_beta", beta_start=settings.beta_min / steps, beta_end=largest / steps)
