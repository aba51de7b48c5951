"""Any subset of contrasts in, any missing one out: which are given and which is wanted (beyond the paper, X-1)."""

from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.model.diffusion import to_device


def subsets(n: int, most_missing: int | None = None) -> list[tuple[bool, ...]]:
    """Return which of n contrasts are given, in every case with 1 to `most_missing` (default n - 1) missing."""
    most = n - 1 if most_missing is None else most_missing
    return [given for given in product((False, True), repeat=n) if n - most <= sum(given) < n]


class Scenario(NamedTuple):
    """Of a batch of slices with n contrasts each: those that are given, and the one to make, never among them."""

    given: Tensor  # (B, n), True where given
    target: Tensor  # (B,), integers 0 .. n-1

    @classmethod
    def of(cls, contrasts: Sequence[str], given: Collection[str], target: str, count: int) -> "Scenario":
        """Return `count` times the scenario of contrasts by name; a `MudiffError` where it is none."""
        for name in (target, *given):
            datasets.known("contrast", name, contrasts)
        if not given or target in given:
            what = f"{datasets.LABELS[target]} is among them" if given else "there are none"
            raise MudiffError(f"contrasts that {datasets.LABELS[target]} is made from: {what}; give others.")
        row = torch.tensor([name in given for name in contrasts])
        return cls(row.repeat(count, 1), torch.full((count,), contrasts.index(target)))

    @classmethod
    def draw(cls, seeds: Iterable[int], n: int, most_missing: int | None = None) -> "Scenario":
        """Draw one per seed: which are given, all `subsets` being equally likely, then one of the missing ones."""
        rows, targets, choices = [], [], torch.tensor(subsets(n, most_missing))
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            row = choices[torch.randint(len(choices), (), generator=generator)]
            missing = torch.nonzero(~row)[:, 0]
            rows.append(row)
            targets.append(missing[torch.randint(len(missing), (), generator=generator)])
        return cls(torch.stack(rows), torch.stack(targets))

    def to(self, device: torch.device) -> "Scenario":
        """Return the scenario on a device."""
        return Scenario(*(to_device(x, device) for x in self))

    def repeat(self, times: int) -> "Scenario":
        """Return the scenarios of a batch that is concatenated `times` times."""
        return Scenario(self.given.repeat(times, 1), self.target.repeat(times))

    def missing(self) -> Tensor:
        """Return what is not given, bool (B, n, 1, 1)."""
        return ~self.given[:, :, None, None]

    def pick(self, images: Tensor) -> Tensor:
        """Return the target's channel, (B, 1, H, W), of images (B, n, H, W)."""
        return images[torch.arange(len(images), device=images.device), self.target][:, None]
