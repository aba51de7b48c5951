"""The floor: a linear fit of the target on the conditions. A deep model below it has learned nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mudiff.methods.base import Batch, Callback, Method
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class Linear(Method):
    """Least squares of the target on the conditions and a constant, over the brain voxels of all slices.

    One epoch gathers the normal equations in float64: the exact solution, whatever the order or size of batches. They
    hold those of every subset of the conditions, so with target "any" each scenario has a fit of its own.
    """

    def __init__(self, settings: Settings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings)
        n = len(settings.conditions) + 1
        # Sums of y y^T and of y x, and the solution; with "any" x is among y, and sampling solves for each scenario.
        shapes = {"gram": (n, n)} if settings.targets else {"gram": (n, n), "moment": n, "coefficients": n}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Add the batch to the normal equations and solve them; return its mean squared error."""
        inside = batch.brain[:, 0]  # (B, H, W)
        y = F.pad(batch.conditions.movedim(1, -1)[inside].double(), (0, 1), value=1.0)  # (voxels, n + 1)
        self.gram += y.T @ y
        if batch.scenario is None:
            self.moment += y.T @ batch.target[:, 0][inside].double()
            self.coefficients.copy_(_solve(self.gram, self.moment))
        error = (self.synthesize(batch.conditions, batch.seeds, scenario=batch.scenario) - batch.target)[batch.brain]
        error = error.square()
        return {"squared_error": error.sum() / max(1, error.numel())}

    def _fitted(self, given: Tensor, target: Tensor) -> Tensor:
        """Return the coefficients (n + 1,) of a target on the conditions `given` (n,) alone, 0 for the others."""
        used = F.pad(given, (0, 1), value=True).nonzero()[:, 0]
        solved = _solve(self.gram[used][:, used], self.gram[used, target])
        return torch.zeros_like(self.gram[0]).index_copy(0, used, solved)

    def synthesize(
        self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None, scenario: Scenario | None = None
    ) -> Tensor:
        """Return the fitted target where any given condition is above background, -1 elsewhere."""
        if scenario is None:
            weights = self.coefficients.expand(len(conditions), -1)
        else:
            weights = torch.stack([self._fitted(*one) for one in zip(*scenario, strict=True)])
            conditions = conditions.masked_fill(scenario.missing(), -1.0)
        weights = weights.to(conditions.dtype)  # (B, n + 1)
        x = torch.einsum("bnhw,bn->bhw", conditions, weights[:, :-1]) + weights[:, -1, None, None]
        return x.masked_fill((conditions <= -1).all(dim=1), -1.0).clamp(-1, 1)[:, None]  # (B, 1, H, W)


def _solve(gram: Tensor, moment: Tensor) -> Tensor:
    """Solve the normal equations; the pseudo-inverse also serves before there are as many voxels as unknowns."""
    return torch.linalg.pinv(gram, hermitian=True) @ moment
