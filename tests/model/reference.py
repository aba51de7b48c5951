"""Seeded weights and inputs of the reference values that the authors' released code computed."""

import zlib

import numpy as np
import pytest
import torch
from conftest import REFERENCE


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where the file of reference values is missing."""
    reason = f"no {name} in {REFERENCE} (set MUDIFF_REFERENCE)"
    return pytest.mark.skipif(not (REFERENCE / name).is_file(), reason=reason)


def seeded_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw the weight `key` of the released networks by the rule of the reference values."""
    values = np.random.RandomState(zlib.crc32(key.encode()) % 2**32).standard_normal(shape)
    if len(shape) == 1:
        values *= 0.1
    else:
        values /= np.sqrt(shape[0] if len(shape) == 2 and key.endswith(".W") else np.prod(shape[1:]))
    values = values.astype(np.float32)
    if key.endswith(".style.bias"):
        values[: len(values) // 2] += 1
    return torch.from_numpy(values)


def seeded_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Draw a whole state dict."""
    return {key: seeded_weight(key, tuple(shape)) for key, shape in shapes.items()}


def wave(shape: tuple[int, ...], p: float) -> torch.Tensor:
    """Return the image or vector number `p` of the reference values."""
    values = np.random.RandomState(round(10 * p) + 1000).standard_normal(shape)
    return torch.from_numpy(np.tanh(values).astype(np.float32))
