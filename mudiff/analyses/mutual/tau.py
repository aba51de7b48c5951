"""The contrast-aware adapter tau, taken apart (section "Contrast-aware feature adaptation", Eqs. 14 to 17)."""

from typing import Any

import torch
from torch import Tensor

from mudiff.analyses.mutual.similarity import check_pair
from mudiff.errors import MudiffError
from mudiff.methods.base import Method


@torch.inference_mode()
def tau_steps(method: Method, conditions: Tensor, x_p1: Tensor) -> list[dict[str, Any]]:
    """Take tau apart: its gates and features for every pair of conditions (Eqs. 14 to 17).

    Parameters
    ----------
    method : Method
        A run of MU-Diff.
    conditions : Tensor (B, n, H, W)
        In [-1, 1].
    x_p1 : Tensor (B, 1, H, W)
        F1's prediction, for rho.

    Returns
    -------
    list of dict
        Per pair ``pair`` (indices of the conditions) and, each Tensor (B, width, H, W), ``f_i``, ``f_j``, ``z_a``
        (Eq. 14), ``f_ij`` (Eq. 15), ``z_b`` (Eq. 16) and ``fused`` (Eq. 17).

    Raises
    ------
    MudiffError
        If the run has no tau, or but one condition, which tau passes unchanged.
    """
    _, f2 = check_pair(method)
    adapter = f2.contrast_adapter
    if adapter is None or not adapter.pairs:
        why = "no contrast-aware adapter tau" if adapter is None else "but one condition, which tau passes on"
        raise MudiffError(
            f"run {method.settings.run_name}: has {why}; choose a run with tau and two or more."
        )
    style = None if f2.target_adapter is None else f2.target_adapter(x_p1)  # Eq. 10
    _, *features = f2.mapper(x_p1, conditions, style)  # Eqs. 11 to 13; x_t, the first argument, plays no part
    steps = []
    for k, ((i, j), fused) in enumerate(zip(adapter.pairs, adapter(features), strict=True)):
        seen = torch.cat(features if adapter.gates_see_all else [features[i], features[j]], dim=1)  # D-2
        z_a, z_b = (torch.sigmoid(gate[k](seen)) for gate in (adapter.gate_a, adapter.gate_b))
        f_ij = adapter.extract[k](z_a * features[i])
        steps.append({"pair": (i, j), "f_i": features[i], "f_j": features[j]}
                     | {"z_a": z_a, "f_ij": f_ij, "z_b": z_b, "fused": fused})  # fmt: skip
    return steps
