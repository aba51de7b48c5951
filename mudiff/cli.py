"""The ``mudiff`` command: every error is one line on stderr and exit code 2."""

import json
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from mudiff import __version__, cache, paths, storage
from mudiff.data import datasets, files, manifests
from mudiff.data import prepare as preparing
from mudiff.data import verify as checks
from mudiff.data.dataset import Preparation, read_info
from mudiff.data.masks import CONVENTIONS
from mudiff.errors import MudiffError
from mudiff.training import profiles

_PLAIN = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(help="Synthetic MRI with MU-Diff.", **_PLAIN)

Dataset = Annotated[str, typer.Option(help=f"One of {', '.join(datasets.DATASETS)}.")]
Root = Annotated[Path, typer.Option(help="Folder of the NIfTI files.")]
Manifest = Annotated[Path | None, typer.Option(help="CSV with columns subject, split.")]
ProfileName = Annotated[str, typer.Option(help=f"One of {', '.join(profiles.PROFILES)}.")]
Target = Annotated[str, typer.Option(help=f"Contrast to make: {', '.join(datasets.LABELS.values())}.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="field=value, repeatable.")]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
Release = Annotated[
    str | None, typer.Option("--labels", help="BraTS masks are of 2020, 2023 or 2024; default: found.")
]
Maskless = Annotated[bool, typer.Option("--allow-missing-masks", help="Subjects without mask have no lesion.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: the GPU if there is one.")]


def _device(name: str | None):
    import torch

    try:
        return None if name is None else torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise MudiffError(f"--device {name}: not usable here ({str(error).splitlines()[0]}).") from None


@app.command()
def verify(
    dataset: Dataset, data_root: Root, manifest: Manifest = None, workers: Workers = 2,
    labels: Release = None, allow_missing_masks: Maskless = False,
    write_manifest: Annotated[Path | None, typer.Option(help="Draft a seeded split here and stop.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the drafted split.", min=0)] = 1024,
) -> None:  # fmt: skip
    """Check a data folder against its manifest; exit code 1 if anything is missing, odd or unreadable."""
    if write_manifest is not None:
        drafted = manifests.draft_manifest(dataset, data_root, write_manifest, seed)["subject"]
        count = f"{len(drafted)} subjects of {drafted.map(files.patient).nunique()} people"
        print(f"{write_manifest}: {count}, none in two splits; look at it, then pass it with --manifest.")
        return
    listed = manifests.read_manifest(dataset, manifest)
    findings = checks.verify(dataset, data_root, listed, workers, True, labels, allow_missing_masks)
    for finding in findings:
        print("  ".join(filter(None, finding)))
    print(f"{data_root}: {len(findings)} findings." if findings else f"{data_root}: everything is in order.")
    raise typer.Exit(1 if findings else 0)


@app.command()
def phantom(profile: ProfileName = "demo", dataset: Dataset = "brats", workers: Workers = 2) -> None:
    """Generate a phantom cohort of a profile as NIfTI files."""
    from mudiff.phantoms import cohort as phantoms

    counts = profiles.profile(profile).phantoms.get(datasets.dataset(dataset).name)
    if counts is None:
        raise MudiffError(f"profile {profile!r} has no {dataset} phantoms; it works on real data.")
    print(phantoms.write_cohort(dataset, paths.phantoms(profile, dataset), counts, workers=workers))


@app.command()
def prepare(
    dataset: Dataset, data_root: Root, profile: ProfileName = "paper", manifest: Manifest = None,
    changes: Changes = None, workers: Workers = 2, labels: Release = None, allow_missing_masks: Maskless = False,
) -> None:  # fmt: skip
    """Turn NIfTI volumes into the slice cache."""
    fields = _fields(changes)
    for name in fields.keys() - {"image_size", "slices", "normalisation"}:
        raise MudiffError(f"--set {name}: prepare takes image_size, slices and normalisation.")
    target = next(iter(datasets.dataset(dataset).targets))
    preparation = profiles.settings(profile, dataset, target, "linear", **fields).preparation()
    folder = _prepared(profile, preparation)
    _prepare(preparation, data_root, manifest, folder, workers, labels, allow_missing_masks)
    for split, subjects in pd.read_csv(folder / "slices.csv", dtype=str).groupby("split", sort=False):
        print(f"{split}: {subjects['subject'].nunique()} subjects, {len(subjects)} slices")


def _fields(changes: list[str] | None) -> dict[str, str]:
    for change in (change for change in changes or [] if "=" not in change):
        raise MudiffError(f"--set {change}: expected field=value.")
    return dict(map(str.strip, change.split("=", 1)) for change in changes or [])


def _prepared(profile: str, preparation: Preparation) -> Path:
    """Return the folder of the slices: the profile's own, or one beside it."""
    usual = preparation == profiles.preparation(profile, preparation.dataset)
    return paths.prepared(profile, preparation.dataset + ("" if usual else f"-{preparation.fingerprint()}"))


def _prepare(
    preparation: Preparation, root: Path, manifest: Path | None, folder: Path, workers: int, labels: str | None,
    maskless: bool,
) -> None:  # fmt: skip
    listed = manifests.read_manifest(preparation.dataset, manifest)
    info = preparing.prepare(preparation, root, listed, folder, workers, True, labels, maskless)
    for warning in info["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if info["labels"]:
        print(f"labels of the masks: {CONVENTIONS[info['labels']]}", file=sys.stderr)
    read_info(folder)


@app.command()
def train(
    dataset: Dataset, target: Annotated[str, typer.Option(help="Contrast to make, or any: each from any others.")],
    profile: ProfileName = "paper", manifest: Manifest = None,
    changes: Changes = None, device: Device = None, workers: Workers = 2,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(datasets.METHODS)}.")] = "mudiff",
    variant: Annotated[str, typer.Option(help=f"One of {', '.join(profiles.VARIANTS)}.")] = "released",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the NIfTI files, prepared first.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder; default results/<profile>/runs/...")] = None,
    labels: Release = None, allow_missing_masks: Maskless = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the networks (on a GPU).")] = False,
) -> None:  # fmt: skip
    """Train one run, or resume it where it stopped; under torchrun in several processes."""
    from mudiff.training import loop, processes

    fields = _fields(changes)
    for name in fields.keys() & {"dataset", "target", "method", "variant"}:
        raise MudiffError(f"--set {name}={fields[name]}: use --{name} {fields[name]}.")
    settings = profiles.settings(profile, dataset, target, method, variant, **fields)
    preparation = settings.preparation()
    slices = _prepared(profile, preparation)
    if data_root is None and not (slices / "prepared.json").is_file():
        usual = vars(profiles.preparation(profile, dataset))
        sets = "".join(f" --set {k}={v}" for k, v in vars(preparation).items() if v != usual[k])
        command = f"mudiff prepare --dataset {dataset} --profile {profile}{sets} --data-root DIR"
        raise MudiffError(f"{slices}: holds no prepared slices; add --data-root DIR, or first run `{command}`.")
    if data_root is None and (labels or allow_missing_masks):
        raise MudiffError("train: --labels and --allow-missing-masks are for preparing; add --data-root DIR.")
    with processes.joined():
        if data_root is not None and processes.rank() == 0:
            _prepare(preparation, data_root, manifest, slices, workers, labels, allow_missing_masks)
        processes.barrier()
        folder = run or paths.run(profile, settings.run_name)
        loop.train(settings, slices, folder, device=_device(device), compiled=compiled)
        if processes.rank() == 0:
            print(folder)


@app.command()
def synthesize(
    run: Annotated[Path, typer.Option(help="Folder of a trained or imported run.")],
    subject: Annotated[Path, typer.Option(help="Folder of the subject's contrasts.")],
    target: Annotated[str | None, typer.Option(help="Contrast to make; goes with --output.")] = None,
    output: Annotated[Path | None, typer.Option(help="NIfTI file to write.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for every contrast that is missing.")] = None,
    device: Device = None, seed: Annotated[int, typer.Option(help="Seed of all slices.")] = 0,
    samples: Annotated[int, typer.Option(help="Volumes to draw and average.")] = 1,
    uncertainty: Annotated[
        Path | None, typer.Option(help="For the samples' deviation: NIfTI file, with --output-dir a folder.")
    ] = None,
    noise: Annotated[str, typer.Option(help="shared by all slices, or independent.")] = "shared",
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps of diffusion, such as 1.")] = None,
    force: Annotated[bool, typer.Option(help="Make a contrast that the subject has, from the others.")] = False,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: the run's.")] = None,
) -> None:  # fmt: skip
    """Make a subject's missing contrast, or all of them, as whole volumes on the grid of the others.

    A run of target any takes whatever contrasts there are; --output-dir makes all that are missing.
    """
    from mudiff.synthesis.sample import synthesize_missing, synthesize_volume

    options = {"samples": samples, "uncertainty": uncertainty, "precision": precision, "seed": seed}
    options |= {"noise": noise, "steps": steps, "force": force, "device": _device(device)}
    if (output_dir is None) == (output is None) or (target is None) != (output is None) or (force and output_dir):
        raise MudiffError("synthesize: pass --target with --output (and --force), or --output-dir alone.")
    if output_dir is None:
        print(synthesize_volume(run, subject, target, output, **options))
    else:
        print(*synthesize_missing(run, subject, output_dir, **options), sep="\n")


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="True volume.")],
    synthetic: Annotated[Path, typer.Option(help="Synthetic volume, on the same grid.")],
    mask: Annotated[Path, typer.Option(help="Where to measure: voxels above 0.")],
    protocol: Annotated[str, typer.Option(help="released or masked.")] = "masked",
    dilate: Annotated[bool, typer.Option(help="Dilate the mask, as for ISLES.")] = False,
    normalisation: Annotated[str, typer.Option(help="percentile, or minmax (variant text).")] = "percentile",
    rescale: Annotated[bool, typer.Option(help="Normalise the synthesis by its own window.")] = False,
) -> None:
    """Print PSNR, SSIM and MAE per slice and per subject as JSON.

    The truth is normalised as `prepare` does it; the synthesis is in [0, 1], as `synthesize` writes it, and taken
    as it is, or with --rescale in any range. Protocol released normalises each volume by itself, as the released code
    does. psnr_truth_scale is the PSNR in the truth's own units, up to its largest value.
    """
    from mudiff.evaluation import metrics

    print(json.dumps(metrics.evaluate(real, synthetic, mask, protocol, dilate, normalisation, rescale), indent=2))


@app.command("import-released")
def import_released(
    generator_1: Annotated[Path, typer.Option(help="gen_diffusive_1.pth of the published weights.")],
    generator_2: Annotated[Path, typer.Option(help="gen_diffusive_2.pth of the same task.")],
    output: Annotated[Path, typer.Option(help="Folder of the run.")], target: Target, dataset: Dataset = "brats",
) -> None:  # fmt: skip
    """Turn the authors' published weights into a run that `synthesize` takes."""
    from mudiff.synthesis.released import import_run

    print(import_run(generator_1, generator_2, dataset, datasets.contrast(target), output))


@app.command()
def info() -> None:
    """Print versions, devices, profiles and what lies in results/."""
    import platform
    from importlib import metadata

    import torch

    print(f"mudiff {__version__}, recipe {cache.RECIPE_VERSION}, Python {platform.python_version()}")
    for name in ("torch", "numpy", "nibabel", "scikit-image", "papermill", "snakemake"):
        print(f"  {name} {metadata.version(name)}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"devices: CPU with {torch.get_num_threads()} threads; {', '.join(gpus) or 'no GPU'}")
    print(f"project: {paths.root()}")
    for name, profile in profiles.PROFILES.items():
        folders = [paths.results(name) / part for part in ("prepared", "runs", "synthetic")]
        found = {folder.name: len(list(folder.glob("[!.]*"))) for folder in folders}
        print(f"profile {name}: {len(profile.runs)} tasks; results: {found}")


_UsageError = typer.BadParameter.__bases__[0]  # of the click that typer brings


def main() -> None:
    """Run the command line; what a user or the system can mend ends it with one line and exit code 2."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("mudiff: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = error.format_message() if isinstance(error, _UsageError) else storage.explain(error)
        if message is None and not isinstance(error, MudiffError):
            raise  # a fault of ours keeps its traceback
        where = getattr(error, "filename", None)
        print("mudiff:", *f"{where or ''} {message or error}".split(), file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
