"""The floor: a linear fit of the target on the conditions. A deep model below it has learned nothing."""

import torch
from torch import Tensor

from mudiff.methods.base import Batch, Callback, Method
from mudiff.settings import Settings


class Linear(Method):
    """Least squares of the target on the conditions and a constant, over the brain voxels of all slices.

    One epoch gathers the normal equations in float64 and so gives the exact solution, whatever the
    order or size of the batches.
    """

    def __init__(self, settings: Settings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings)
        n = len(settings.conditions) + 1
        self.register_buffer("gram", torch.zeros(n, n, dtype=torch.float64))  # sum of y y^T
        self.register_buffer("moment", torch.zeros(n, dtype=torch.float64))  # sum of y x
        self.register_buffer("coefficients", torch.zeros(n, dtype=torch.float64))

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Add the batch to the normal equations and solve them; return its mean squared error."""
        inside = batch.brain[:, 0]  # (B, H, W)
        y = batch.conditions.movedim(1, -1)[inside].double()  # (voxels, n)
        y = torch.cat([y, torch.ones_like(y[:, :1])], dim=1)
        x = batch.target[:, 0][inside].double()
        self.gram += y.T @ y
        self.moment += y.T @ x
        # The pseudo-inverse also serves before there are as many voxels as unknowns.
        self.coefficients.copy_(torch.linalg.pinv(self.gram, hermitian=True) @ self.moment)
        error = (y @ self.coefficients - x).square()
        return {"squared_error": error.sum() / max(1, error.numel())}

    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Return the fitted target where any condition is above background, -1 elsewhere."""
        weights = self.coefficients.to(conditions.dtype)
        x = torch.einsum("bnhw,n->bhw", conditions, weights[:-1]) + weights[-1]
        x = x.masked_fill((conditions <= -1).all(dim=1), -1.0)
        return x.clamp(-1, 1)[:, None]  # (B, 1, H, W)
