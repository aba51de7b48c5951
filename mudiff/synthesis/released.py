"""The authors' published weights: their key names, a strict loader, and a run made from them.

The published files number their modules in order of use (``all_modules.7.Conv_0.weight``), so the names below walk
through our networks in that order. The upstream loader ignores keys that do not match (E-5).
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mudiff import cache, storage
from mudiff.errors import MudiffError
from mudiff.model.adapters import MapperBlock, TargetAdapter
from mudiff.model.generators import EncoderDecoder, StructureNetwork, TextureNetwork
from mudiff.model.layers import PyramidStep, ResidualBlock, SelfAttention
from mudiff.settings import Settings
from mudiff.training import runs

_DATA = "published weights"  # in the place of a hash of training data


def _in_order(network: StructureNetwork | TextureNetwork) -> Iterator[nn.Module]:
    """Yield the numbered modules in the order in which the network uses them."""
    h: EncoderDecoder = network.encoder_decoder
    yield from (h.time.linear1, h.time.linear2)
    if isinstance(network, TextureNetwork):
        yield network.target_adapter
    yield network.mapper.noisy
    yield from network.mapper.conditions
    for level in h.encoder:
        pairs = zip(level.blocks, level.attention or [None] * len(level.blocks), strict=True)
        yield from filter(None, (*itertools.chain(*pairs), level.down, level.pyramid))
    yield from (h.middle1, h.middle_attention, h.middle2)
    for level in h.decoder:
        yield from filter(None, (*level.blocks, level.attention, level.up))
    yield from (h.norm, h.output)


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of one numbered module by the last part of their released names."""
    match module:
        case MapperBlock(conv1=conv1, conv2=conv2, modulation=modulation):
            style = {} if modulation is None else {".group_norm.style": modulation.linear}
            return {".conv1": conv1, ".conv2": conv2} | style
        case TargetAdapter():
            return _layers(module.block) | {".fc": module.linear}
        case ResidualBlock():
            a, b = module.norm1.modulation.linear, module.norm2.modulation.linear
            convolutions = {".Conv_0": module.conv1, ".Conv_1": module.conv2, ".Conv_2": module.shortcut}
            return convolutions | {".Dense_0": module.time, ".GroupNorm_0.style": a, ".GroupNorm_1.style": b}
        case SelfAttention():
            linears = (module.query, module.key, module.value, module.output)
            return {".GroupNorm_0": module.norm} | {f".NIN_{k}": linear for k, linear in enumerate(linears)}
        case PyramidStep():
            return {".Conv2d_0": module.conv}
    return {"": module}


def _parameters(layers: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Return released key -> parameter of layers by their released names."""
    nin = {"weight": "W", "bias": "b"}
    return {
        f"{released}.{nin[name] if '.NIN_' in released else name}": parameter
        for released, layer in layers.items() for name, parameter in layer.named_parameters()
    }  # fmt: skip


def network_keys(network: StructureNetwork | TextureNetwork) -> dict[str, nn.Parameter]:
    """Return released key -> parameter for F1 or F2; what ends in ``.W`` is stored as input x output."""
    layers: dict[str, nn.Module] = {}
    for number, module in enumerate(_in_order(network)):
        layers |= {f"all_modules.{number}{name}": layer for name, layer in _layers(module).items()}
    for k, linear in enumerate(network.encoder_decoder.latent.linears):
        layers[f"z_transform.{2 * k + 1}"] = linear
    if isinstance(network, TextureNetwork):
        tau = network.contrast_adapter
        for (i, j), a, b, w in zip(tau.pairs, tau.gate_a, tau.gate_b, tau.extract, strict=True):
            pair = f"c{i + 1}{j + 1}"
            layers |= {f"feat_att1_{pair}": a, f"feat_att2_{pair}": b, f"feat_weight_c{i + 1}": w}
    return _parameters(layers)


def fill(names: dict[str, nn.Parameter], weights: dict[str, Tensor], source: str) -> None:
    """Copy weights into the parameters of the same released key: every key used, every shape checked."""
    missing, unused = sorted(names.keys() - weights.keys()), sorted(weights.keys() - names.keys())
    if missing or unused:
        wrong = f"{len(missing)} keys are missing {missing[:1]}, {len(unused)} are unknown {unused[:1]}"
        raise MudiffError(f"{source}: {wrong}; pass the file of the right generator, task and image size.")
    for key, parameter in names.items():
        value = weights[key].T if key.endswith(".W") else weights[key]
        if value.shape != parameter.shape:
            shapes = f"has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
            raise MudiffError(f"{source}: {key} {shapes}; pass the file of the right generator and width.")
        with torch.no_grad():
            parameter.copy_(value)


def _read(source: str | Path | dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict in a file, or `source` itself, without the prefix ``module.``."""
    advice = "pass gen_diffusive_1.pth or _2.pth"
    given = isinstance(source, dict)
    weights = (
        storage.check_weights(source, "state dict", advice) if given else storage.read_weights(source, _DATA, advice)
    )
    return {key.removeprefix("module."): value for key, value in weights.items()}


def _infer(weights: dict[str, Tensor], source: str) -> tuple[Settings, int]:
    """Return settings and number of conditions of a released F1, read off its keys and shapes."""
    modules = {key.split(".")[1] for key in weights if key.startswith("all_modules.")}
    mappers = [k for k in modules if f"all_modules.{k}.conv1.weight" in weights]
    if "all_modules.0.weight" not in weights or len(mappers) < 2 or "z_transform.1.weight" not in weights:
        raise MudiffError(f"{source}: no released first generator; pass gen_diffusive_1.pth.")
    attention = [k for k in modules if f"all_modules.{k}.NIN_0.W" in weights]
    embedding, width = weights["all_modules.0.weight"].shape
    latent = weights["z_transform.1.weight"].shape[1]
    size = 256 if len(attention) == 1 else 64  # the one in the middle, or in the published levels as well
    return Settings(width=width, embedding=embedding, latent=latent, image_size=size), len(mappers) - 1


def load_networks(
    generator_1: str | Path | dict[str, Tensor], generator_2: str | Path | dict[str, Tensor]
) -> tuple[StructureNetwork, TextureNetwork]:
    """Build F1 and F2, in evaluation mode, and fill them with the published weights, strictly.

    The weights are ``gen_diffusive_1.pth`` and ``_2.pth`` or their state dicts, keys with or without ``module.``;
    they decide number of conditions, width and attention. Keys or shapes that do not fit are a `MudiffError`.
    """
    given = {"first generator": generator_1, "second generator": generator_2}
    names = [name if isinstance(source, dict) else str(source) for name, source in given.items()]
    weights = [_read(source) for source in given.values()]
    inferred = _infer(weights[0], names[0])
    networks = StructureNetwork(*inferred).eval(), TextureNetwork(*inferred).eval()
    for network, own, name in zip(networks, weights, names, strict=True):
        fill(network_keys(network), own, name)
    return networks


def import_run(generator_1: Path, generator_2: Path, dataset: str, target: str, folder: Path) -> Path:
    """Turn the published weights of one task into a run in the new `folder`, for `mudiff synthesize`.

    The critic and the convolution of the masks were never released (C-1): such a run cannot be trained further.
    """
    settings, n_conditions = _infer(_read(generator_1), str(generator_1))
    settings = settings.replace(dataset=dataset, target=target)
    if n_conditions != (expected := len(settings.conditions)):
        wrong = f"takes {n_conditions} conditions, but {dataset} {target} has {expected}"
        raise MudiffError(f"{generator_1}: {wrong}; pass the --dataset and --target of these weights.")
    unfinished = runs.matches(folder, settings, _DATA) and not runs.is_complete(folder)
    if folder.exists() and not unfinished and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        raise MudiffError(f"{folder}: exists already; choose another --output.")
    f1, f2 = load_networks(generator_1, generator_2)
    weights = nn.ModuleDict({"f1": f1, "f2": f2}).state_dict()
    runs.claim(folder, settings, _DATA)
    runs.save_weights(folder / "weights.safetensors", weights)
    hashes = [cache.file_hash(path) for path in (generator_1, generator_2)]
    storage.write_json(folder / "provenance.json", {"source": _DATA, "sha256": hashes})
    return folder
