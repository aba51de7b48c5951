"""The baselines as their authors published them: sizes, losses, optimisers, and budgets.

The paper names six baselines and gives no number for any (section "Competing methods"). Each has the sizes,
loss weights and optimiser of its own publication or code, but where a comment says that they are ours;
MU-Diff's are the defaults of `Settings`. What is common to all methods is the data and the training budget.
Small profiles set sizes and learning rates anew, for all methods (`config.PROFILES`).
"""

from typing import Any

_ADVERSARIAL: dict[str, Any] = {
    "learning_rate": 2e-4,
    "critic_learning_rate": 2e-4,
    "beta1": 0.5,
    "beta2": 0.999,
    "weight_adversarial": 1.0,
    "ema_decay": 0.0,
}

RECIPES: dict[str, dict[str, Any]] = {
    "mudiff": {},
    "linear": {},
    # Isola et al. 2017: U-Net of eight levels, 70x70 PatchGAN, 100 L1.
    "pix2pix": _ADVERSARIAL
    | {
        "levels": 8,
        "dropout": 0.5,
        "critic_blocks": 3,
        "weight_supervised": 100.0,
        "schedule": "linear",  # half of the epochs constant, then down to 0
        "constant_part": 0.5,
    },
    # Dar et al. 2019: ResNet of nine blocks, 70x70 PatchGAN, 100 L1 + 100 VGG16.
    "pgan": _ADVERSARIAL
    | {
        "blocks": 9,
        "dropout": 0.5,
        "critic_blocks": 3,
        "weight_supervised": 100.0,
        "weight_perceptual": 100.0,
        "schedule": "linear",
        "constant_part": 0.5,
    },
    # Sharma and Hamarneh 2020: U-Net of eight levels, 0.9 L1 + 0.1 adversarial, no decay.
    "mmgan": _ADVERSARIAL
    | {
        "levels": 8,
        "dropout": 0.2,
        "critic_blocks": 4,
        "weight_supervised": 0.9,
        "weight_adversarial": 0.1,
        "schedule": "constant",
    },
    # Zhou et al. 2020: one auto-encoder per contrast, fused at three scales; 100 L1 + 20 reconstruction.
    "hinet": _ADVERSARIAL
    | {
        "width": 32,
        "critic_width": 32,
        "critic_blocks": 4,
        "weight_supervised": 100.0,
        "weight_reconstruction": 20.0,
        "schedule": "linear",  # a quarter of the epochs constant
        "constant_part": 0.25,
    },
    # Ho et al. 2020. Width 64 and the rate are ours, so that it is as large as the others; theirs is width 128.
    "ddpm": {
        "multipliers": (1, 1, 2, 2, 4, 4),
        "steps": 1000,
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "schedule": "constant",
        "ema_decay": 0.999,
    },
    # Ozbey et al. 2023 without the cycle: NCSN++ of six levels, MU-Diff's critic, 0.5 L1.
    "syndiff": {"multipliers": (1, 1, 2, 2, 4, 4), "ema_decay": 0.999},
}
"""Method -> fields of `Settings` that differ from MU-Diff's."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "pix2pix": {"epochs": 200, "batch_size": 1, "order": "shuffled"},
    "pgan": {"epochs": 100, "batch_size": 1, "order": "shuffled"},
    "mmgan": {"epochs": 60, "batch_size": 4, "order": "shuffled"},
    # Four whole slices in place of four patches of one.
    "hinet": {
        "epochs": 400,
        "batch_size": 4,
        "order": "shuffled",
        "learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    },
    # 600,000 steps of 16 slices over the 17,120 of the BraTS training set; 20 validations
    "ddpm": {
        "width": 128,
        "epochs": 561,
        "batch_size": 16,
        "order": "shuffled",
        "learning_rate": 2e-5,
        "validate_every": 28,
    },
    "syndiff": {"epochs": 50, "batch_size": 1, "order": "shuffled"},
}
"""Method -> variant ``published``: what its authors trained, as far as it is known."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "abl1": {"networks": "single"},
    "abl2": {"target_adaptation": False, "contrast_adaptation": False},
    # D-11: the text adds rho and leaves tau out, the caption of Fig. 5 says the opposite.
    "abl3_text": {"contrast_adaptation": False},
    "abl3_caption": {"target_adaptation": False},
    "abl4": {"weight_mask": 0.0},
    # The mask is made of the critic's features, so it goes with the critic.
    "no_critic": {"weight_adversarial": 0.0, "weight_mask": 0.0},
    "T1": {"steps": 1},
    "T2": {"steps": 2},
    "T8": {"steps": 8},
}
"""Variant of MU-Diff -> fields that differ (section "Ablation study"); "full" has the ablations' budget."""
