"""The diffusion process: schedule, forward steps and posterior, and the random numbers of a slice."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mudiff.settings import Settings


class Schedule(nn.Module):
    """Noise schedule and posterior coefficients of T steps; step t = 0 .. T-1 lies between x_t and x_{t+1}.

    `betas` (T,) are the variances of the noise that each step adds, best float64: the tables are rounded to
    float32. In the posterior mean x_0 counts by beta_t or, with `posterior` "printed", by the variance (E-1).
    """

    def __init__(self, betas: Tensor, posterior: str = "beta") -> None:
        super().__init__()
        self.steps = len(betas)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])  # alpha-bar_{t-1}
        variance = betas * (1 - before) / (1 - alpha_bar)  # Eq. 32
        signal = variance if posterior == "printed" else betas  # printed, the last step gives zeros (E-1)
        tables = {
            "betas": betas,  # (T,)
            "sqrt_alpha_bar": torch.cat([alpha_bar.new_ones(1), alpha_bar]).sqrt(),  # (T+1,), x_0 first
            "sigma": torch.cat([alpha_bar.new_zeros(1), 1 - alpha_bar]).sqrt(),  # (T+1,)
            "mean_x0": signal * before.sqrt() / (1 - alpha_bar),  # (T,)
            "mean_xt": (1 - betas).sqrt() * (1 - before) / (1 - alpha_bar),  # (T,)
            "variance": variance,  # (T,)
        }
        for name, table in tables.items():  # known from the settings, so no part of the weights
            self.register_buffer(name, table.float(), persistent=False)

    @classmethod
    def variance_preserving(cls, settings: Settings) -> "Schedule":
        """Return the schedule of denoising diffusion GANs (the paper's ref. 30), read at T+1 times in (0, 1]."""
        time = torch.linspace(0.001, 1.0, settings.steps + 1, dtype=torch.float64)
        rate = settings.beta_max - settings.beta_min
        log_signal = -0.5 * rate * time**2 - settings.beta_min * time  # log of the squared signal factor
        return cls(-torch.expm1(log_signal[1:] - log_signal[:-1]), settings.posterior)

    def q_step(self, x_before: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_{t+1} from q(x_{t+1} | x_t), t = 0 .. T-1."""
        beta = _at(self.betas, t)
        return (1 - beta).sqrt() * x_before + beta.sqrt() * noise  # Eq. 5

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0) after t = 0 .. T steps."""
        return _at(self.sqrt_alpha_bar, t) * x_0 + _at(self.sigma, t) * noise  # Eq. 6

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0) for one prediction of x_0, t = 0 .. T-1."""
        return _at(self.mean_x0, t) * x_0 + _at(self.mean_xt, t) * x_t  # a term of the sum in Eq. 31

    def posterior_sample(self, mean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_{t-1} around a posterior mean; the variance of the last step, t = 0, is zero."""
        return mean + _at(self.variance, t).sqrt() * noise  # Eq. 33; of one prediction: Eq. 7, Eq. 8, Eq. 30


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t][:, None, None, None]  # (B, 1, 1, 1)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for the GPU."""
    pinned = device.type == "cuda" and not x.is_cuda
    return x.pin_memory().to(device, non_blocking=True) if pinned else x.to(device)


def slice_seed(*key: object) -> int:
    """Return a 63-bit seed that depends on `key` alone, equal on every machine."""
    digest = hashlib.sha256("|".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class SliceNoise:
    """Random numbers of a batch, each slice's from its own generator on the CPU, whatever batch and device."""

    def __init__(self, seeds: Tensor | Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (B, *shape)."""
        return to_device(torch.stack([torch.randn(shape, generator=g) for g in self.generators]), self.device)

    def steps(self, T: int) -> Tensor:
        """Return time steps (B,), uniform over 0 .. T-1."""
        return to_device(torch.stack([torch.randint(T, (), generator=g) for g in self.generators]), self.device)
