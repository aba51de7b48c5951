"""The diffusion process: schedule, forward steps, posterior (Eqs. 5 to 8 and 30 to 33)."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mudiff.settings import Settings


class Schedule(nn.Module):
    """Noise schedule and posterior coefficients of T steps.

    The continuous variance-preserving process with beta from `beta_min` to `beta_max` is read at T+1
    times from 0.001 to 1 (the schedule that the paper takes from its ref. 30, denoising diffusion GANs).
    Step t = 0 .. T-1 leads from x_{t+1} to x_t in the code's counting; `alpha_bar[0]` = 1 is the clean image.

    Attributes
    ----------
    betas : Tensor (T,)
        beta_t of Eq. 5.
    sqrt_alpha_bar, sigma : Tensor (T+1,)
        Factors of image and noise in Eq. 6, the clean image first.
    mean_x0, mean_xt : Tensor (T,)
        Factors of x_0 and x_t in the posterior mean (Eq. 31).
    variance : Tensor (T,)
        Posterior variance (Eq. 32).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        steps = settings.steps
        time = torch.linspace(0.001, 1.0, steps + 1, dtype=torch.float64)
        rate = settings.beta_max - settings.beta_min
        log_signal = -0.5 * rate * time**2 - settings.beta_min * time  # log of the squared signal factor
        betas = -torch.expm1(log_signal[1:] - log_signal[:-1])
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])  # alpha-bar_{t-1}
        variance = betas * (1 - before) / (1 - alpha_bar)  # Eq. 32
        # Eq. 31 prints the posterior variance in place of beta_t: its last step gives zeros (E-1).
        signal = variance if settings.posterior == "printed" else betas
        tables = {
            "betas": betas,
            "sqrt_alpha_bar": torch.cat([alpha_bar.new_ones(1), alpha_bar]).sqrt(),
            "sigma": torch.cat([alpha_bar.new_zeros(1), 1 - alpha_bar]).sqrt(),
            "mean_x0": signal * before.sqrt() / (1 - alpha_bar),
            "mean_xt": (1 - betas).sqrt() * (1 - before) / (1 - alpha_bar),
            "variance": variance,
        }
        self.steps = steps
        for name, table in tables.items():
            # Computed from the settings, so kept out of the weights.
            self.register_buffer(name, table.float(), persistent=False)

    def marginal(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0), with t = 0 .. T noising steps taken (Eq. 6)."""
        return _at(self.sqrt_alpha_bar, t) * x_0 + _at(self.sigma, t) * noise

    def diffuse(self, x_before: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_{t+1} from q(x_{t+1} | x_t), t = 0 .. T-1 (Eq. 5)."""
        beta = _at(self.betas, t)
        return (1 - beta).sqrt() * x_before + beta.sqrt() * noise

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0) for one prediction (one term of Eq. 31)."""
        return _at(self.mean_x0, t) * x_0 + _at(self.mean_xt, t) * x_t

    def posterior_sample(self, mean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_{t-1} around a posterior mean; the variance of the last step, t = 0, is zero (Eq. 33)."""
        return mean + _at(self.variance, t).sqrt() * noise

    def forward(self, x_0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_{t-1} from q(x_{t-1} | x_t, x_0) (Eqs. 8, 25 and 30)."""
        return self.posterior_sample(self.posterior_mean(x_0, x_t, t), t, noise)


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t][:, None, None, None]  # (B, 1, 1, 1)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return numbers of the CPU on a device; a GPU is not waited for, so its work goes on meanwhile."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)  # from memory that is not pinned, a copy would wait


def slice_seed(*key: object) -> int:
    """Return a 63-bit seed that depends on `key` alone, equal on every machine."""
    digest = hashlib.sha256("|".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class SliceNoise:
    """Random numbers of a batch, each slice's from its own generator.

    A slice's numbers depend on its seed and on how many were drawn before for it, never on the batch
    that it is in. They are drawn on the CPU, so all devices see the same.

    Parameters
    ----------
    seeds : Tensor (B,) or sequence of int
        One seed a slice.
    device : torch.device
        Where the numbers are needed.
    """

    def __init__(self, seeds: Tensor | Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (B, *shape)."""
        return to_device(torch.stack([torch.randn(shape, generator=g) for g in self.generators]), self.device)

    def steps(self, T: int) -> Tensor:
        """Return time steps (B,), uniform over 0 .. T-1."""
        drawn = [torch.randint(T, (), generator=g) for g in self.generators]
        return to_device(torch.stack(drawn), self.device)
