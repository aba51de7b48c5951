"""The command line: what it prints, its exit codes, and one clear line for every bad input."""

import json
import sys

import nibabel
import numpy as np
import pytest
import torch
from conftest import SMALL, head, write_nifti

from mudiff import cli, paths
from mudiff.data.slices import normalise, window
from mudiff.model.generators import StructureNetwork, TextureNetwork
from mudiff.settings import Settings
from mudiff.synthesis import released
from mudiff.training import runs


@pytest.fixture
def cohort(cohort, tmp_path):
    """Return the folder of a small cohort and the file of its split."""
    root, manifest = cohort
    manifest.to_csv(tmp_path / "split.csv", index=False)
    return root, tmp_path / "split.csv"


@pytest.fixture
def mudiff(tmp_path, monkeypatch, capsys):
    """Run the command: ``mudiff("verify", "--dataset", ...)`` -> exit code, stdout, stderr."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path / "project"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mudiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def done(ended: tuple[int, str, str]) -> str:
    """Return what a command that worked printed."""
    code, out, err = ended
    assert code == 0, err
    return out


def test_from_nifti_to_a_synthetic_volume_and_its_score(mudiff, cohort, tmp_path):
    root, split = cohort
    task = ["--dataset", "brats", "--target", "T1CE", "--profile", "smoke", "--device", "cpu"]
    task += [f"--set={field}={value}" for field, value in (SMALL | {"epochs": 1}).items()]
    data = ["--data-root", root, "--manifest", split, "--workers", 1]
    out = done(mudiff("train", *task, *data))
    run = tmp_path / "project/results/smoke/runs/brats_t1ce_mudiff"
    assert out.strip().endswith(str(run)) and (run / "weights.safetensors").is_file()

    subject, made = root / "Brats18_E_1", tmp_path / "out.nii.gz"
    request = ["--run", run, "--subject", subject, "--target", "t1ce", "--output", made]
    out = done(mudiff("synthesize", *request, "--device", "cpu"))
    real, mask = (subject / f"Brats18_E_1_{name}.nii.gz" for name in ("t1ce", "seg"))
    for protocol in ("masked", "released"):
        files = ["--real", real, "--synthetic", made, "--mask", mask]
        out = done(mudiff("evaluate", *files, "--protocol", protocol))
        assert 0 < json.loads(out)["subject"]["psnr"] < 60

    task[task.index("T1CE")] = "Any"
    out = done(mudiff("train", *task, *data, "--method", "linear"))
    real.unlink()
    request = ["--run", out.strip(), "--subject", subject, "--output-dir", tmp_path / "completed"]
    out = done(mudiff("synthesize", *request, "--device", "cpu"))
    completed = tmp_path / "completed/Brats18_E_1_t1ce_synthetic.nii.gz"
    assert out.split() == [str(completed)] and completed.is_file()


def test_evaluate_tells_a_perfect_synthesis_from_one_at_half_brightness(mudiff, tmp_path, rng):
    truth = head(rng)
    unit = normalise(truth, "percentile")
    scored = np.where(truth, (truth - 500) / 150, -4).astype(np.float32)  # background below the tissue
    images = {"real": truth, "perfect": unit, "half": unit / 2, "scored": scored, "signed": 2 * unit - 1}
    files = {name: write_nifti(tmp_path / f"{name}.nii.gz", data) for name, data in images.items()}

    def evaluate(real, made, *more):
        given = ["--real", files[real], "--synthetic", files[made], "--mask", files["real"]]
        code, out, err = mudiff("evaluate", *given, *more)
        return json.loads(out) if code == 0 else err

    perfect, half = (evaluate("real", made)["subject"] for made in ("perfect", "half"))
    best, inside = {"psnr": "inf", "ssim": 1.0, "mae": 0.0}, unit[truth > 0]
    low, high = window(truth, "percentile")
    clipped = np.mean((low + inside * (high - low) - truth[truth > 0]) ** 2)  # what the window hides
    own = pytest.approx(10 * np.log10(truth.max() ** 2.0 / clipped), rel=1e-5)
    assert perfect == best | {"psnr_truth_scale": own}
    assert half["mae"] == pytest.approx(inside.mean() / 2, rel=1e-5)
    assert half["psnr"] == pytest.approx(-10 * np.log10(np.mean((inside / 2) ** 2)), rel=1e-5)
    assert evaluate("real", "real", "--protocol", "released")["subject"] == best  # by its own window
    assert "real.nii.gz: has values from 0 to" in evaluate("real", "real")
    for real, made, *rescaled in (("real", "scored", 1), ("scored", "perfect"), ("scored", "signed", 1)):
        found = evaluate(real, made, *["--rescale"] * len(rescaled))
        assert found["rescaled"] == bool(rescaled) and found["subject"]["mae"] < 0.01  # a second window clips more
    for made in ("signed", "scored"):
        assert "--rescale normalises it" in evaluate("scored", made)


def test_verify_and_prepare(mudiff, cohort, tmp_path):
    root, split = cohort
    arguments = ["--dataset", "brats", "--data-root", root, "--manifest", split, "--workers", 1]
    assert mudiff("verify", *arguments)[0] == 0
    bad = root / "Brats18_A_1/Brats18_A_1_t2.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    code, out, _ = mudiff("verify", *arguments)
    assert code == 1 and "Brats18_A_1" in out and "t2" in out.lower()
    code, out, err = mudiff("prepare", *arguments, "--profile", "smoke")
    assert code == 2 and "Brats18_A_1_t2.nii.gz" in err and "1 of 5" in err
    prepared = paths.prepared("smoke", "brats")
    assert len(list(prepared.rglob("*.masks.npy"))) == 4  # the others went through


def test_the_advice_of_train_can_be_followed(mudiff, cohort, tmp_path):
    root, split = cohort
    task = ["--dataset", "brats", "--target", "t1ce", "--profile", "smoke", "--variant", "text"]
    task += ["--device", "cpu", "--set", "slices=3", "--set", "critic_blocks=2", "--set", "epochs=1"]
    code, _, err = mudiff("train", *task)
    assert code == 2 and "add --data-root DIR, or first run" in err
    advice = err.partition("`mudiff ")[2].partition("`")[0].replace(" DIR", f" {root}").split()
    assert advice[:3] == ["prepare", "--dataset", "brats"] and "normalisation=minmax" in advice
    assert mudiff(*advice, "--manifest", split, "--workers", 1)[0] == 0
    out = done(mudiff("train", *task))
    assert out.strip().endswith("brats_t1ce_mudiff_text")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify --dataset brats --data-root nowhere", "nowhere: data folder not found"),
        ("train --dataset brats --target pd", "choose one of T1"),
        ("train --dataset brats --target t1 --profile huge", "choose one of smoke"),
        ("train --dataset brats --target t1 --set width=-4", "must be above 0"),
        ("train --dataset brats --target t1 --set width", "expected field=value"),
        ("train --dataset brats --target t1 --set variant=text", "use --variant text"),
        ("prepare --dataset brats --data-root . --labels 2019", "choose one of 2020, 2023, 2024"),
        ("prepare --dataset brats --data-root . --set width=8", "prepare takes image_size"),
        ("synthesize", "Missing option"),
        ("synthesize --run r --subject s --output-dir o --output o.nii --target t1", "or --output-dir alone"),
        ("nonsense", "No such command"),
        ("evaluate --real a.nii --synthetic b.nii --mask c.nii", "(file not found); copy or download"),
    ],
)
def test_bad_input_is_one_line_and_code_2(mudiff, arguments, words):
    code, out, err = mudiff(*arguments.split())
    assert code == 2 and not out
    assert err.count("\n") == 1 and err.startswith("mudiff: ") and words in err


def test_errors_of_the_system_are_one_line_and_ours_a_traceback(mudiff, monkeypatch):
    for error, says in (
        (PermissionError(13, "Permission denied", "f"), "f Permission denied"),
        (MemoryError(), "too little memory"),
    ):
        monkeypatch.setattr(cli.paths, "root", lambda error=error: exec("raise error", {"error": error}))
        code, _, err = mudiff("info")
        assert code == 2 and err.startswith(f"mudiff: {says}") and err.count("\n") == 1
    monkeypatch.setattr(cli.paths, "root", lambda: {}["missing"])
    with pytest.raises(KeyError):
        mudiff("info")


def test_published_weights_become_a_run(mudiff, cohort, tmp_path):
    settings = Settings(image_size=64, width=8, embedding=16)
    files = []
    for number, network in enumerate((StructureNetwork(settings, 3), TextureNetwork(settings, 3)), start=1):
        keys = released.network_keys(network)
        state = {f"module.{k}": (v.T if k.endswith(".W") else v).detach().clone() for k, v in keys.items()}
        files.append(tmp_path / f"gen_diffusive_{number}.pth")
        torch.save(state, files[-1])
    run, made = tmp_path / "run", tmp_path / "t1ce.nii.gz"
    runs.claim(run, settings, "published weights")  # left by an import that a full disk stopped
    for first, output, words in [(0, run, ""), (0, run, "exists already"), (1, tmp_path / "other", "gen_diffusive")]:
        weights = ["--generator-1", files[first], "--generator-2", files[1 - first]]
        code, _, err = mudiff("import-released", *weights, "--target", "T1CE", "--output", output)
        assert code == (2 if words else 0) and words in err, err
    assert not (tmp_path / "other").exists()
    task = ["--run", run, "--subject", cohort[0] / "Brats18_A_1", "--target", "T1CE", "--output", made]
    done(mudiff("synthesize", *task, "--device", "cpu"))
    assert nibabel.load(made).shape == (20, 26, 12)


def test_info_names_versions_and_profiles(mudiff):
    code, out, _ = mudiff("info")
    assert code == 0 and all(word in out for word in ("mudiff 0.1.0", "torch", "profile demo", "devices"))
