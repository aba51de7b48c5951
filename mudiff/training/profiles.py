"""Plain tables: profiles, the methods' recipes, variants and ablations, and the settings of a run from them.

Letters such as A-2 point to the register in DIFFERENCES.md.
"""

from dataclasses import dataclass, field
from typing import Any

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.settings import Preparation, Settings

Fields = dict[str, Any]  # some fields of `Settings`

# fmt: off
_ADVERSARIAL: Fields = {
    "learning_rate": 2e-4, "critic_learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.999, "weight_adversarial": 1.0,
}
# Sizes, loss weights and optimisers are those of each publication or its code, but where a comment says otherwise.
RECIPES: dict[str, Fields] = {
    "mudiff": {},
    "linear": {},
    # Isola et al. 2017: U-Net of eight levels, 70x70 PatchGAN, 100 L1; half of the epochs constant, then down to 0.
    "pix2pix": _ADVERSARIAL | {
        "levels": 8, "dropout": 0.5, "critic_blocks": 3, "weight_supervised": 100.0, "schedule": "linear"},
    # Dar et al. 2019: ResNet of nine blocks, 70x70 PatchGAN, 100 L1 + 100 VGG16.
    "pgan": _ADVERSARIAL | {
        "blocks": 9, "dropout": 0.5, "critic_blocks": 3, "weight_supervised": 100.0, "weight_perceptual": 100.0,
        "schedule": "linear"},
    # Sharma and Hamarneh 2020: U-Net of eight levels, 0.9 L1 + 0.1 adversarial, no decay.
    "mmgan": _ADVERSARIAL | {
        "levels": 8, "dropout": 0.2, "critic_blocks": 4, "weight_supervised": 0.9, "weight_adversarial": 0.1,
        "schedule": "constant"},
    # ... for all contrasts at once: in the code one of four is missing to epoch 10 of 60, up to two to 20, then more.
    "mmgan any": {"curriculum": 0.5},
    # Zhou et al. 2020: one auto-encoder per contrast, fused at three scales; 100 L1 + 20 reconstruction.
    "hinet": _ADVERSARIAL | {
        "width": 32, "critic_width": 32, "critic_blocks": 4, "weight_supervised": 100.0,
        "weight_reconstruction": 20.0, "schedule": "linear", "constant_part": 0.25},
    # Ho et al. 2020. Width 64 and the rate are ours, so that it is as large as the others; theirs is width 128.
    "ddpm": {
        "multipliers": (1, 1, 2, 2, 4, 4), "steps": 1000, "learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.999,
        "schedule": "constant", "ema_decay": 0.999},
    # Ozbey et al. 2023 without the cycle: NCSN++ of six levels, MU-Diff's critic, 0.5 L1.
    "syndiff": {"multipliers": (1, 1, 2, 2, 4, 4), "ema_decay": 0.999},
}
"""Method -> fields that differ from MU-Diff's; the paper gives none for its baselines ("Competing methods")."""

PUBLISHED: dict[str, Fields] = {
    "pix2pix": {"epochs": 200, "batch_size": 1, "order": "shuffled"},
    "pgan": {"epochs": 100, "batch_size": 1, "order": "shuffled"},
    "mmgan": {"epochs": 60, "batch_size": 4, "order": "shuffled"},
    # Four whole slices in place of four patches of one.
    "hinet": {
        "epochs": 400, "batch_size": 4, "order": "shuffled", "learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    # 600,000 steps of 16 slices over the 17,120 of the BraTS training set; 20 validations.
    "ddpm": {
        "width": 128, "epochs": 561, "batch_size": 16, "order": "shuffled", "learning_rate": 2e-5,
        "validate_every": 28},
    "syndiff": {"epochs": 50, "batch_size": 1, "order": "shuffled"},
}
"""Variant ``published`` of a baseline: what its authors trained, as far as it is known."""

TEXT: Fields = {
    "beta1": 0.1, "beta2": 0.2, "schedule": "constant", "r1_gamma": 0.0, "normalisation": "minmax",
    "critic_blocks": 4, "critic_minibatch_std": False, "gates": "pair", "pairs": "chain",
    "mapper_activation": "relu", "mapper_skip": True, "mapper_normalises": "input", "reduction": "sum",
    "mask": "channel_mean", "critic_real_weight": 2.0, "detach_first": True, "order": "shuffled",
}
"""Variant ``text`` of MU-Diff: the paper as written."""

_ABLATIONS: dict[str, tuple[str, Fields]] = {
    "full": ("Full", {}),
    "abl1": ("abl1: one network", {"networks": "single"}),
    "abl2": ("abl2: no ρ, no τ", {"target_adaptation": False, "contrast_adaptation": False}),
    # D-11: the text adds rho and leaves tau out, the caption of Fig. 5 says the opposite.
    "abl3_text": ("abl3 (text): ρ, no τ", {"contrast_adaptation": False}),
    "abl3_caption": ("abl3 (caption): τ, no ρ", {"target_adaptation": False}),
    "abl4": ("abl4: no mask loss", {"weight_mask": 0.0}),
    # The mask is made of the critic's features, so it goes with the critic.
    "no_critic": ("no critic", {"weight_adversarial": 0.0, "weight_mask": 0.0}),
    # The published game, where the profile has another: trained beside the main run, and no part of Fig. 5.
    "lambda_c": ("λ_c = 1", {"weight_adversarial": 1.0, "critic_weights": "released", "epochs": 1}),
    "T1": ("T = 1", {"steps": 1}),
    "T2": ("T = 2", {"steps": 2}),
    "T8": ("T = 8", {"steps": 8}),
}
ABLATIONS = {name: fields for name, (_, fields) in _ABLATIONS.items()}
"""Variant of MU-Diff -> fields that differ ("Ablation study", Fig. 5e to 5i); "full" has the ablations' budget."""
OF_CRITIC = ("no_critic", "lambda_c")
"""Variants about the critic, which have more than the ablations' budget, since a critic needs time to learn."""
ABLATION_LABELS = {name: label for name, (label, _) in _ABLATIONS.items()}

VARIANTS = ("released", "text", "published", *ABLATIONS)
ABLATED = ("brats", "t1ce")
"""Dataset and target of the section "Ablation study"."""

# fmt: on


@dataclass(frozen=True)
class Profile:
    """Sizes and the chosen part of the runs; the wiring is the same for all profiles."""

    name: str
    overrides: Fields  # what differs from the published settings
    slices: dict[str, int]  # dataset -> slices per subject at 1 mm; empty: the paper's
    phantoms: dict[str, tuple[int, int, int]]  # dataset -> subjects for training, validation, test
    runs: dict[tuple[str, str], tuple[str, ...]]  # (dataset, target) -> methods trained for it
    epochs: dict[tuple[str, str], int] = field(default_factory=dict)  # where not those of `overrides`
    sizes: dict[str, Fields] = field(default_factory=dict)  # method, or with target -> what differs
    apart: bool = False  # one job per run instead of one job per task
    ablations: Fields = field(default_factory=dict)  # budget of the ablations, where not that of the main run

    @property
    def variants(self) -> list[str]:
        """The ablations of Fig. 5 that are trained; with the main run's budget it is the full model itself."""
        return [name for name in ABLATIONS if name != "lambda_c" and (name != "full" or self.ablations)]

    def jobs(self) -> dict[str, tuple[str, str, list[str]]]:
        """Return name -> dataset, target and the methods that one process trains; ablations as ``mudiff_abl1``."""
        every = {f"{d}_{t}": (d, t, list(methods)) for (d, t), methods in self.runs.items()}
        if self.ablations:  # beside the main run, whose critic it is compared with
            every["_".join(ABLATED)][2].append("mudiff_lambda_c")
        first = next(iter(every))  # is begun first: it takes longest
        ablations = (*ABLATED, [f"mudiff_{name}" for name in self.variants])
        every = {first: every[first], "_".join((*ABLATED, "ablations")): ablations} | every
        every[f"brats_{datasets.ANY}"] = ("brats", datasets.ANY, list(datasets.ANY_METHODS))
        if self.apart:
            return {f"{d}_{t}_{m}": (d, t, [m]) for d, t, methods in every.values() for m in methods}
        return every


# fmt: off
_ALL = tuple(datasets.METHODS)
_CLOSEST = ("syndiff", "mudiff", "linear")  # MU-Diff, the baseline that it builds on, and the floor
# Every task of Tables 1 and 2, and of the healthy subjects the contrast that lesions are outlined on.
_TASKS = (*(("brats", t) for t in ("t1ce", "flair", "t2", "t1")), *(("isles", t) for t in ("flair", "t1")),
          ("healthy", "flair"))
_SMALL = {"image_size": 64, "width": 8, "blocks": 1, "embedding": 32, "batch_size": 4}
_UNET = {"levels": 6}  # 64 pixels are halved six times, 256 eight times
_WIDE = {"width": 16, "critic_width": 16}
# A-1, D-12: with the published weight and initial weights the critic of so short a training only guesses.
_SEES = {"weight_adversarial": 5e-3, "critic_weights": "default", "learning_rate": 4e-3, "critic_learning_rate": 1e-3}

PROFILES = {
    "smoke": Profile(
        "smoke",
        _SMALL | {"multipliers": (1, 2), "critic_width": 4, "epochs": 1, "validation_slices": 4},
        slices=dict.fromkeys(datasets.DATASETS, 12),  # 6 of a 2 mm phantom
        phantoms={"brats": (2, 1, 2), "isles": (2, 1, 2), "healthy": (1, 1, 1)},
        runs={task: _ALL if task == ("brats", "t1ce") else _CLOSEST for task in _TASKS if task != ("isles", "t1")},
        sizes={"pix2pix": _UNET, "pgan": {"blocks": 2}, "mmgan": _UNET, "ddpm": {"steps": 25}},
    ),
    "demo": Profile(
        "demo",
        # Small networks that see few slices need larger steps than the published ones.
        _SMALL | {"multipliers": (1, 2, 4), "critic_width": 8, "epochs": 2, "validation_slices": 20,
                  "batch_size": 8, "learning_rate": 2e-3, "critic_learning_rate": 5e-4},
        slices=dict.fromkeys(datasets.DATASETS, 80),  # 40 of a 2 mm phantom
        phantoms={"brats": (12, 2, 6), "isles": (8, 2, 5), "healthy": (4, 2, 4)},
        runs=dict.fromkeys(_TASKS, _ALL),
        epochs={("brats", "t1ce"): 4, ("brats", datasets.ANY): 6},  # four targets share the latter
        sizes={"pix2pix": _UNET | _WIDE, "pgan": _WIDE | {"blocks": 3}, "mmgan": _UNET | _WIDE,
               "ddpm": {"steps": 25}, "syndiff": _SEES, "mudiff": _SEES,
               "syndiff t1ce": {"critic_width": 16}, "mudiff t1ce": {"critic_width": 16}},
        ablations={"epochs": 1, "critic_width": 8},
    ),
    "paper": Profile(
        "paper",
        {},
        slices={}, phantoms={},
        # The whole matrix of Tables 1 and 2 and Supplementary Data 4, with the linear floor beside it.
        runs={(d, t): _ALL for d in ("brats", "isles", "healthy") for t in datasets.DATASETS[d].targets},
        # A validation of DDPM costs 1000 evaluations a slice: with 64 slices more than its training.
        sizes={"ddpm": {"validation_slices": 16}},
        apart=True,
    ),
}
# fmt: on


def profile(name: str) -> Profile:
    """Return the profile called `name`, or raise a `MudiffError`."""
    return PROFILES[datasets.known("profile", name, PROFILES)]


def label(run: str) -> str:
    """Return the name in figures of a method (``mudiff``) or of a variant of MU-Diff (``mudiff_abl1``)."""
    method, _, variant = run.partition("_")
    return datasets.METHODS[method] + (f", {ABLATION_LABELS.get(variant, variant)}" if variant else "")


def preparation(profile_name: str, dataset: str) -> Preparation:
    """Return how `dataset` is prepared under a profile."""
    chosen = profile(profile_name)
    slices = chosen.slices.get(dataset, datasets.dataset(dataset).slices)
    return Preparation(dataset, image_size=chosen.overrides.get("image_size", 256), slices=slices)


def settings(
    profile_name: str, dataset: str, target: str, method: str, variant: str = "released", **changes: Any
) -> Settings:
    """Return the settings of one run (also of ``mudiff_abl1``): recipe, then variant, profile and `changes`."""
    chosen = profile(profile_name)
    method, _, named = method.partition("_")
    method = datasets.known("method", method, datasets.METHODS)
    variant = named or variant
    target = datasets.ANY if target.lower() == datasets.ANY else datasets.contrast(target)
    own = ["text", *ABLATIONS] if method == "mudiff" else ["published"] if method in PUBLISHED else []
    if variant not in (choices := ["released", *own]):
        raise MudiffError(f"variant {variant!r} is not one of method {method!r}: choose one of {', '.join(choices)}.")
    if variant == "published" and profile_name != "paper":
        raise MudiffError("variant 'published' has the published sizes: use profile 'paper'.")
    fields = {"dataset": dataset, "target": target, "method": method, "variant": variant}
    fields |= {"slices": preparation(profile_name, dataset).slices} | RECIPES[method]
    fields |= RECIPES.get(f"{method} {target}", {})
    fields |= TEXT if variant == "text" else {}
    fields |= chosen.overrides | chosen.sizes.get(method, {}) | chosen.sizes.get(f"{method} {target}", {})
    if (dataset, target) in chosen.epochs:
        fields["epochs"] = chosen.epochs[dataset, target]
    if method == "linear":
        fields["epochs"] = 1  # the least-squares fit sees each slice once
    fields |= PUBLISHED[method] if variant == "published" else {}
    fields |= chosen.ablations if variant in ABLATIONS and variant not in OF_CRITIC else {}
    fields |= ABLATIONS.get(variant, {})
    return Settings().replace(**fields | changes)


def ablation(profile_name: str, variant: str) -> Settings:
    """Return the settings of one of the `ABLATIONS`; "full" is the main run where they have its budget."""
    named = "released" if variant == "full" and not profile(profile_name).ablations else variant
    return settings(profile_name, *ABLATED, "mudiff", named)
