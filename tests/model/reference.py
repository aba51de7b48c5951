"""Seeded weights and inputs of the reference values that the authors' released code computed."""

import zlib

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from torch import nn

from mudiff.model.critic import Critic
from mudiff.synthesis import released


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


def critic_keys(critic: Critic) -> dict[str, nn.Parameter]:
    """Return released key -> parameter for the critic of the released code."""
    layers = {"t_embed.main.0": critic.time.linear1, "t_embed.main.2": critic.time.linear2}
    layers |= {"start_conv": critic.input, "final_conv": critic.final, "end_linear": critic.output}
    for k, block in enumerate(critic.blocks, start=1):
        layers |= {f"conv{k}.conv1.0": block.conv1, f"conv{k}.conv2.0": block.conv2}
        layers |= {f"conv{k}.dense_t1": block.time, f"conv{k}.skip.0": block.shortcut}
    return released._parameters(layers)
