"""Settings, profiles and variants."""

import pytest
from conftest import refused

from mudiff.data import datasets
from mudiff.training import profiles


def test_released_settings_are_the_authors_training_command():
    settings = profiles.settings("paper", "brats", "T1CE", "mudiff")
    expected = {
        "epochs": 30, "batch_size": 3, "beta1": 0.5, "beta2": 0.9, "learning_rate": 1.6e-4,
        "critic_learning_rate": 1e-4, "final_learning_rate": 1e-5, "r1_gamma": 1.0, "r1_interval": 10,
        "weight_supervised": 0.5, "weight_mask": 0.1, "weight_adversarial": 1.0, "steps": 4,
        "beta_min": 0.1, "beta_max": 20.0, "ema_decay": 0.0, "order": "fixed", "image_size": 256, "slices": 80,
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.conditions == ("flair", "t2", "t1") and settings.run_name == "brats_t1ce_mudiff"
    assert profiles.settings("paper", "healthy", "flair", "mudiff").slices == 100
    runs = profiles.profile("paper").runs
    assert set(runs.values()) == {tuple(datasets.METHODS)} and len(runs) == 9


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_runs_of_a_profile_exist_and_all_methods_of_a_task_see_the_same_slices(name):
    for (dataset, target), methods in profiles.profile(name).runs.items():
        assert {"mudiff", "syndiff", "linear"} <= set(methods)
        seen = {method: profiles.settings(name, dataset, target, method) for method in methods}
        for settings in seen.values():
            assert settings.preparation() == profiles.preparation(name, dataset)
            assert target not in settings.conditions
            assert {target, *settings.conditions} <= set(datasets.dataset(dataset).contrasts)
        del seen["linear"]
        shared = ("epochs", "batch_size", "order", "checkpoint", "validate_every", "precision", "seed")
        assert len({tuple(getattr(s, field) for field in shared) for s in seen.values()}) == 1
        assert len({s.validation_slices for method, s in seen.items() if method != "ddpm"}) == 1


def test_every_method_refuses_the_variants_of_others():
    assert profiles.settings("demo", "brats", "t1ce", "mudiff_T8").steps == 8
    assert profiles.settings("paper", "brats", "t1ce", "ddpm", "published").epochs == 561
    for run in ("linear_T8", "linear_published", "syndiff_text", "mudiff_published"):
        refused(f"is not one of method '{run.partition('_')[0]}'", profiles.settings, "paper", "brats", "t1ce", run)
    refused("use profile 'paper'", profiles.settings, "demo", "brats", "t1ce", "pgan", "published")
    refused("choose one of released", profiles.settings, "demo", "brats", "t1ce", "mudiff_abl9")


def test_a_profile_with_an_ablation_budget_trains_the_full_model_with_it():
    for profile in profiles.PROFILES.values():
        runs = [m for _, _, methods in profile.jobs().values() for m in methods]
        names = {m.partition("_")[2] for m in runs if m.startswith("mudiff_")}
        assert names == set(profiles.ABLATIONS) - ({"full", "lambda_c"} if not profile.ablations else set())
        reference = profiles.ablation(profile.name, "full")
        assert reference.run_name == "brats_t1ce_mudiff" + "_full" * bool(profile.ablations)
        for name in set(profiles.ABLATIONS) - {*profiles.OF_CRITIC}:
            budget = profiles.settings(profile.name, *profiles.ABLATED, "mudiff", name)
            assert (budget.epochs, budget.batch_size) == (reference.epochs, reference.batch_size)
        runs = (profiles.settings(profile.name, *profiles.ABLATED, m) for m in ("mudiff", "mudiff_no_critic"))
        main, without = runs
        assert without == main.replace(variant="no_critic", weight_adversarial=0, weight_mask=0)
