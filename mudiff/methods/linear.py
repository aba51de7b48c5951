"""The floor: a linear fit of the target on the conditions. A deep model below it has learned nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mudiff.methods.base import Batch, Callback, Method
from mudiff.settings import Settings


class Linear(Method):
    """Least squares of the target on the conditions and a constant, over the brain voxels of all slices.

    One epoch gathers the normal equations in float64: the exact solution, whatever the order or size of batches.
    """

    def __init__(self, settings: Settings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings)
        n = len(settings.conditions) + 1
        # Sums of y y^T and of y x, and the solution.
        for name, shape in {"gram": (n, n), "moment": n, "coefficients": n}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Add the batch to the normal equations and solve them; return its mean squared error."""
        inside = batch.brain[:, 0]  # (B, H, W)
        y = F.pad(batch.conditions.movedim(1, -1)[inside].double(), (0, 1), value=1.0)  # (voxels, n + 1)
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
        return x.masked_fill((conditions <= -1).all(dim=1), -1.0).clamp(-1, 1)[:, None]  # (B, 1, H, W)
