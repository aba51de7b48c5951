"""The ``mudiff`` command: every error is one line on stderr and exit code 2."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mudiff import __version__, cache, paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.settings import Preparation, Settings
from mudiff.training import profiles

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Synthetic MRI with MU-Diff.",
)

Dataset = Annotated[str, typer.Option(help=f"One of {', '.join(datasets.DATASETS)}.")]
Root = Annotated[Path, typer.Option(help="Folder of the NIfTI files.")]
Manifest = Annotated[Path | None, typer.Option(help="CSV with columns subject, split.")]
ProfileName = Annotated[str, typer.Option(help=f"One of {', '.join(profiles.PROFILES)}.")]
Target = Annotated[str, typer.Option(help=f"Contrast to make: {', '.join(datasets.LABELS.values())}.")]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: the GPU if there is one.")]


def _device(name: str | None):
    import torch

    from mudiff.training.runs import default_device

    if name is None:
        return default_device()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise MudiffError(f"--device {name}: not usable here ({str(error).splitlines()[0]}).") from None
    return torch.device(name)


@app.command()
def verify(
    dataset: Dataset,
    data_root: Root,
    manifest: Manifest = None,
    write_manifest: Annotated[Path | None, typer.Option(help="Draft a seeded split here and stop.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the drafted split.", min=0)] = 1024,
    workers: Workers = 2,
) -> None:
    """Check a data folder against its manifest; exit code 1 if anything is missing, odd or unreadable."""
    from mudiff.data import manifests
    from mudiff.data import verify as checks

    if write_manifest is not None:
        manifests.draft_manifest(dataset, data_root, write_manifest, seed)
        print(f"{write_manifest}: written; look at it, then pass it with --manifest.")
        return
    findings = checks.verify(dataset, data_root, manifests.read_manifest(dataset, manifest), workers=workers)
    for finding in findings:
        print("  ".join(filter(None, finding)))
    print(f"{data_root}: {len(findings)} findings." if findings else f"{data_root}: everything is in order.")
    if findings:
        raise typer.Exit(1)


@app.command()
def phantom(profile: ProfileName = "demo", dataset: Dataset = "brats", workers: Workers = 2) -> None:
    """Generate a phantom cohort of a profile as NIfTI files."""
    from mudiff.phantoms import cohort as phantoms

    counts = profiles.profile(profile).phantoms.get(datasets.dataset(dataset).name)
    if counts is None:
        raise MudiffError(f"profile {profile!r} has no {dataset} phantoms; it works on real data.")
    folder = paths.phantoms(profile, dataset)
    print(phantoms.write_cohort(dataset, folder, counts, workers=workers))


@app.command()
def prepare(
    dataset: Dataset,
    data_root: Root,
    profile: ProfileName = "paper",
    manifest: Manifest = None,
    workers: Workers = 2,
) -> None:
    """Turn NIfTI volumes into the slice cache."""
    from mudiff.data import prepare as data

    preparation = profiles.preparation(profile, dataset)
    _prepare(preparation, data_root, manifest, paths.prepared(profile, dataset), workers)
    for split in data.SPLITS:
        folder = paths.prepared(profile, dataset)
        if (folder / split).is_dir():
            slices = data.open_slices(folder, split)
            print(f"{split}: {len(slices.subjects)} subjects, {len(slices)} slices")


def _prepare(preparation: Preparation, root: Path, manifest: Path | None, folder: Path, workers: int) -> None:
    from mudiff.data import prepare as data

    listed = data.read_manifest(preparation.dataset, manifest)
    report = data.prepare(preparation, root, listed, folder, workers=workers)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    report.check()


@app.command()
def train(
    dataset: Dataset,
    target: Target,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(datasets.METHODS)}.")] = "mudiff",
    profile: ProfileName = "paper",
    variant: Annotated[str, typer.Option(help=f"One of {', '.join(profiles.VARIANTS)}.")] = "released",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the NIfTI files, prepared first.")] = None,
    manifest: Manifest = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="field=value, repeatable.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run; default results/<profile>/runs/...")
    ] = None,
    device: Device = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Let torch.compile fuse the networks' steps: for long runs on a GPU."),
    ] = False,
    workers: Workers = 2,
) -> None:
    """Train one run, or resume it where it stopped; under torchrun in several processes together."""
    from mudiff.training import processes
    from mudiff.training.train import train as train_run

    with processes.joined():
        with processes.together():
            settings = _changed(changes or [], profile, dataset, target, method, variant)
            folder = paths.prepared(profile, dataset)
            if settings.preparation() != profiles.preparation(profile, dataset):
                folder = folder.with_name(f"{dataset}-{settings.preparation().fingerprint()}")
        if data_root is not None:
            processes.first(_prepare, settings.preparation(), data_root, manifest, folder, workers)
        with processes.together():
            chosen = _device(device)
        place = train_run(
            settings, folder, run or paths.run(profile, settings.run_name), device=chosen, compiled=compiled
        )
        if processes.rank() == 0:
            print(place)


def _changed(
    changes: list[str], profile: str, dataset: str, target: str, method: str, variant: str
) -> Settings:
    fields = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not separator:
            raise MudiffError(f"--set {change}: expected field=value.")
        fields[name.strip()] = value.strip()
    for name in fields.keys() & {"dataset", "target", "method", "variant"}:
        raise MudiffError(f"--set {name}={fields[name]}: use --{name} {fields[name]}.")
    return profiles.settings(profile, dataset, target, method, variant, **fields)


@app.command()
def synthesize(
    run: Annotated[Path, typer.Option(help="Folder of a trained or imported run.")],
    subject: Annotated[Path, typer.Option(help="Folder of the subject's contrasts.")],
    target: Target,
    output: Annotated[Path, typer.Option(help="NIfTI file to write.")],
    samples: Annotated[int, typer.Option(help="Volumes to draw and average.")] = 1,
    uncertainty: Annotated[Path | None, typer.Option(help="NIfTI file for the samples' deviation.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all slices.")] = 0,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: the run's.")] = None,
) -> None:
    """Make a subject's missing contrast as a whole volume on the grid of the others."""
    from mudiff.synthesis.sample import synthesize_volume

    print(
        synthesize_volume(
            run,
            subject,
            target,
            output,
            samples=samples,
            uncertainty=uncertainty,
            device=_device(device),
            precision=precision,
            seed=seed,
        )
    )


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="True volume.")],
    synthetic: Annotated[Path, typer.Option(help="Synthetic volume, on the same grid.")],
    mask: Annotated[Path, typer.Option(help="Where to measure: voxels above 0.")],
    protocol: Annotated[str, typer.Option(help="released or masked.")] = "masked",
    dilate: Annotated[bool, typer.Option(help="Dilate the mask, as for ISLES.")] = False,
) -> None:
    """Print PSNR, SSIM and MAE per slice and per subject as JSON.

    Each volume is clipped to its own 1st to 99th percentile and scaled to [0, 1] first, so an error of the
    overall brightness does not count here; it does in the tables of protocol masked.
    """
    from mudiff.data import volumes
    from mudiff.evaluation import metrics

    loaded = {"real": volumes.load_volume(real), "synthetic": volumes.load_volume(synthetic)}
    loaded["mask"] = volumes.load_mask(mask)
    volumes.check_grid(loaded, f"{real}, {synthetic}, {mask}")
    stacks = []
    for name in ("real", "synthetic"):
        volume = loaded[name]
        unit = volumes.normalise(volume.data, "percentile", volume.path)
        stacks.append(volumes.to_slices(unit, volume.affine)[0])  # at native size
    inside, _ = volumes.to_slices(loaded["mask"].data, loaded["mask"].affine, order=0)
    print(json.dumps(metrics.evaluate_arrays(*stacks, inside, protocol, dilate), indent=2))


@app.command("import-released")
def import_released(
    generator_1: Annotated[Path, typer.Option(help="gen_diffusive_1.pth of the published weights.")],
    generator_2: Annotated[Path, typer.Option(help="gen_diffusive_2.pth of the same task.")],
    target: Target,
    output: Annotated[Path, typer.Option(help="Folder of the run to make.")],
    dataset: Dataset = "brats",
) -> None:
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
        found = {
            part: len(list((paths.results(name) / part).glob("[!.]*")))
            for part in ("prepared", "runs", "synthetic")
        }
        size = profile.overrides.get("image_size", 256)
        print(f"profile {name}: {len(profile.runs)} tasks at {size}x{size}; results: {found}")


def main() -> None:
    """Run the command line; a `MudiffError` or a usage error ends it with one line and exit code 2."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("mudiff: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # Usage errors of the command-line parser are known by their formatted message.
        usage = getattr(error, "format_message", None)
        if usage is None and not isinstance(error, MudiffError):
            raise
        message = usage() if usage else str(error)
        print(f"mudiff: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
