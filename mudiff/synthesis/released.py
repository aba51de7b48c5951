"""The authors' published weights: their key names, a strict loader, and a run made from them.

The published files carry the prefix ``module.`` and number their modules in order of use
(``all_modules.7.Conv_0.weight``). The names below walk through our networks in that order. The upstream
loader ignores keys that do not match (register E-5); here every key is used and every shape checked.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mudiff import paths
from mudiff.errors import MudiffError
from mudiff.model.adapters import MapperBlock
from mudiff.model.critic import Critic
from mudiff.model.generators import EncoderDecoder, StructureNetwork, TextureNetwork
from mudiff.model.layers import ResidualBlock, SelfAttention
from mudiff.settings import Settings
from mudiff.training import runs

Names = Iterator[tuple[str, nn.Parameter]]


def _layer(released: str, layer: nn.Module | None) -> Names:
    """Yield the released key of each parameter of one convolution, linear or normalisation layer."""
    if layer is not None:
        for name, parameter in layer.named_parameters():
            yield f"{released}.{name}", parameter


def _mapper_block(released: str, block: MapperBlock) -> Names:
    yield from _layer(f"{released}.conv1", block.conv1)
    yield from _layer(f"{released}.conv2", block.conv2)
    if block.modulation is not None:
        yield from _layer(f"{released}.group_norm.style", block.modulation.linear)


def _residual_block(released: str, block: ResidualBlock) -> Names:
    yield from _layer(f"{released}.GroupNorm_0.style", block.norm1.modulation.linear)
    yield from _layer(f"{released}.Conv_0", block.conv1)
    yield from _layer(f"{released}.Dense_0", block.time)
    yield from _layer(f"{released}.GroupNorm_1.style", block.norm2.modulation.linear)
    yield from _layer(f"{released}.Conv_1", block.conv2)
    yield from _layer(f"{released}.Conv_2", block.shortcut)


def _attention(released: str, block: SelfAttention) -> Names:
    yield from _layer(f"{released}.GroupNorm_0", block.norm)
    for k, linear in enumerate((block.query, block.key, block.value, block.output)):
        yield f"{released}.NIN_{k}.W", linear.weight  # stored as input x output
        yield f"{released}.NIN_{k}.b", linear.bias


def _in_order(network: StructureNetwork | TextureNetwork) -> Iterator[nn.Module]:
    """Yield the numbered modules in the order in which the network uses them."""
    h: EncoderDecoder = network.encoder_decoder
    yield from (h.time.linear1, h.time.linear2)
    if isinstance(network, TextureNetwork):
        yield network.target_adapter
    yield network.mapper.noisy
    yield from network.mapper.conditions
    for level in h.encoder:
        for k, block in enumerate(level.blocks):
            yield block
            if level.attention is not None:
                yield level.attention[k]
        if level.down is not None:
            yield from (level.down, level.pyramid)
    yield from (h.middle1, h.middle_attention, h.middle2)
    for level in h.decoder:
        yield from level.blocks
        if level.attention is not None:
            yield level.attention
        if level.up is not None:
            yield level.up
    yield from (h.norm, h.output)


def network_keys(network: StructureNetwork | TextureNetwork) -> dict[str, nn.Parameter]:
    """Return released key -> parameter for F1 or F2."""
    names: dict[str, nn.Parameter] = {}
    for number, module in enumerate(_in_order(network)):
        released = f"all_modules.{number}"
        match module:
            case MapperBlock():
                names |= _mapper_block(released, module)
            case ResidualBlock():
                names |= _residual_block(released, module)
            case SelfAttention():
                names |= _attention(released, module)
            case nn.Linear() | nn.Conv2d() | nn.GroupNorm():
                names |= _layer(released, module)
            case _ if hasattr(module, "conv"):  # pyramid step
                names |= _layer(f"{released}.Conv2d_0", module.conv)
            case _:  # rho
                names |= _mapper_block(released, module.block)
                names |= _layer(f"{released}.fc", module.linear)
    for k, linear in enumerate(network.encoder_decoder.latent.linears):
        names |= _layer(f"z_transform.{2 * k + 1}", linear)
    if isinstance(network, TextureNetwork):
        tau = network.contrast_adapter
        for (i, j), a, b, w in zip(tau.pairs, tau.gate_a, tau.gate_b, tau.extract, strict=True):
            names |= _layer(f"feat_att1_c{i + 1}{j + 1}", a)
            names |= _layer(f"feat_att2_c{i + 1}{j + 1}", b)
            names |= _layer(f"feat_weight_c{i + 1}", w)
    return names


def critic_keys(critic: Critic) -> dict[str, nn.Parameter]:
    """Return released key -> parameter for the critic of the released code."""
    names: dict[str, nn.Parameter] = {}
    names |= _layer("t_embed.main.0", critic.time.linear1)
    names |= _layer("t_embed.main.2", critic.time.linear2)
    names |= _layer("start_conv", critic.input)
    for k, block in enumerate(critic.blocks, start=1):
        names |= _layer(f"conv{k}.conv1.0", block.conv1)
        names |= _layer(f"conv{k}.conv2.0", block.conv2)
        names |= _layer(f"conv{k}.dense_t1", block.time)
        names |= _layer(f"conv{k}.skip.0", block.shortcut)
    names |= _layer("final_conv", critic.final)
    names |= _layer("end_linear", critic.output)
    return names


def fill(names: dict[str, nn.Parameter], weights: dict[str, Tensor], source: str) -> None:
    """Copy released weights into our parameters: every key used, every shape checked.

    Parameters
    ----------
    names : dict
        Released key -> parameter, from `network_keys` or `critic_keys`.
    weights : dict
        Released key, with or without ``module.``, -> values.
    source : str
        What to name in an error.

    Raises
    ------
    MudiffError
        If a key is missing, left over, or of another shape.
    """
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    missing, unused = sorted(names.keys() - weights.keys()), sorted(weights.keys() - names.keys())
    if missing or unused:
        raise MudiffError(
            f"{source}: not the weights of this network: {len(missing)} keys are missing"
            f"{_examples(missing)}, {len(unused)} are unknown{_examples(unused)}; "
            "pass the file of the right generator, task and image size."
        )
    for key, parameter in names.items():
        value = weights[key].T if key.endswith(".W") else weights[key]
        if value.shape != parameter.shape:
            raise MudiffError(
                f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}; "
                "pass the file of the right generator and width."
            )
        with torch.no_grad():
            parameter.copy_(value)


def _examples(keys: list[str]) -> str:
    return f" (such as {keys[0]})" if keys else ""


def read_weights(source: str | Path | dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict in a file (without running any code in it), or `source` itself.

    Raises
    ------
    MudiffError
        If the file is missing, is not a file of weights, or would run code when loaded.
    """
    if isinstance(source, dict):
        return source
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MudiffError(f"{source}: file not found; pass a .pth file of published weights.") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MudiffError(
            f"{source}: not a file of weights that can be read safely ({reason}); download it again."
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise MudiffError(
            f"{source}: holds no state dict (key -> tensor); pass gen_diffusive_1.pth or _2.pth."
        )
    return weights


def infer_settings(weights: dict[str, Tensor], source: str = "weights", **changes) -> tuple[Settings, int]:
    """Return settings and number of conditions of a released F1, read off its keys and shapes.

    Blocks per level, image size and multipliers follow from the published configuration: three levels
    of two blocks; attention inside the levels means images of 64x64, none means 256x256.

    Raises
    ------
    MudiffError
        If the weights are not those of a released F1.
    """
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    modules = {
        int(n) for n in (k.split(".")[1] for k in weights if k.startswith("all_modules.")) if n.isdigit()
    }
    mappers = [k for k in modules if f"all_modules.{k}.conv1.weight" in weights]
    if "all_modules.0.weight" not in weights or len(mappers) < 2 or "z_transform.1.weight" not in weights:
        raise MudiffError(
            f"{source}: not the weights of a released first generator; pass gen_diffusive_1.pth."
        )
    attention = [k for k in modules if f"all_modules.{k}.NIN_0.W" in weights]
    settings = Settings().replace(
        width=weights["all_modules.0.weight"].shape[1],
        embedding=weights["all_modules.0.weight"].shape[0],
        latent=weights["z_transform.1.weight"].shape[1],
        image_size=256 if len(attention) == 1 else 64,
        **changes,
    )
    return settings, len(mappers) - 1


def load_networks(
    generator_1: str | Path | dict[str, Tensor], generator_2: str | Path | dict[str, Tensor]
) -> tuple[StructureNetwork, TextureNetwork]:
    """Build F1 and F2 and fill them with the published weights, strictly.

    Parameters
    ----------
    generator_1, generator_2 : path or state dict
        ``gen_diffusive_1.pth`` and ``gen_diffusive_2.pth``, keys with or without ``module.``.

    Returns
    -------
    f1, f2 : StructureNetwork, TextureNetwork
        In evaluation mode; number of conditions, width and attention are inferred from the keys.

    Raises
    ------
    MudiffError
        If a file cannot be read, or a key or shape does not fit.
    """
    first, second = read_weights(generator_1), read_weights(generator_2)
    name_1, name_2 = (
        "first generator" if isinstance(g, dict) else str(g) for g in (generator_1, generator_2)
    )
    name_2 = "second generator" if isinstance(generator_2, dict) else name_2
    settings, n_conditions = infer_settings(first, name_1)
    f1, f2 = StructureNetwork(settings, n_conditions), TextureNetwork(settings, n_conditions)
    fill(network_keys(f1), first, name_1)
    fill(network_keys(f2), second, name_2)
    return f1.eval(), f2.eval()


def import_run(generator_1: Path, generator_2: Path, dataset: str, target: str, folder: Path) -> Path:
    """Turn the published weights of one task into a run folder for `mudiff synthesize`.

    The published files hold both generators alone; the critic and the attention convolution were never
    released (register C-1), so such a run can synthesise but not be trained further.

    Parameters
    ----------
    generator_1, generator_2 : Path
        ``gen_diffusive_1.pth`` and ``gen_diffusive_2.pth``.
    dataset, target : str
        The task of these weights, which fixes the order of the conditions.
    folder : Path
        The run folder to make; must not exist.

    Raises
    ------
    MudiffError
        If a file does not fit, or the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise MudiffError(f"{folder}: exists already; choose another --output.")
    settings, n_conditions = infer_settings(
        read_weights(generator_1), str(generator_1), dataset=dataset, target=target
    )
    if n_conditions != len(settings.conditions):
        raise MudiffError(
            f"{generator_1}: takes {n_conditions} conditions, but {dataset} {target} has "
            f"{len(settings.conditions)}; pass the --dataset and --target of these weights."
        )
    f1, f2 = load_networks(generator_1, generator_2)
    named = {f"f1.{k}": v for k, v in f1.state_dict().items()}
    named |= {f"f2.{k}": v for k, v in f2.state_dict().items()}
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (generator_1, generator_2)]
    runs.claim(folder, settings, data_hash="published weights")
    runs.save_weights(folder / "weights.safetensors", named, settings)
    paths.write_json(folder / "provenance.json", {"source": "published weights", "sha256": hashes})
    return folder
