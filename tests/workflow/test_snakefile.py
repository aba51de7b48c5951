"""The graph: what is planned, what a change re-plans, and that each artefact has exactly one rule."""

import collections
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mudiff.training import profiles
from mudiff.workflow import artefacts, notebook

ROOT = Path(__file__).parents[2]
ODD = "my {b} it's a 100% nét"  # a name of folders
ANALYSES = {name[3:] for name in artefacts.ANALYSES}
ALWAYS = {"all", "total", "summary", "report"}  # where anything is planned


def snakemake(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"MUDIFF_ROOT": str(folder)}
    command = [sys.executable, "-m", "snakemake", "--config=profile=smoke", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def forced(folder: Path, *arguments: str) -> str:
    """What a dry run of everything prints, with the commands."""
    return snakemake(folder, "-n", "--forceall", "-p", *arguments)


def commands(output: str) -> list[str]:
    return [line for line in output.splitlines() if "-m mudiff.workflow.notebook run" in line]


def planned(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table that a dry run prints."""
    lines = output.split("Job stats:")[1].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in lines[: lines.index("")]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of the workflow in which every job only touches its outputs, after a complete run."""
    folder = tmp_path_factory.mktemp(ODD)
    for name in ("notebooks", "profiles", "mudiff", "data_manifests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "Snakefile").read_text()
    for call in ('RUN = f"', 'shell: f"'):
        assert text.count(call) == 1
        text = text.replace(call, call + "touch {{output}} # ")
    (folder / "Snakefile").write_text(text)
    snakemake(folder, "--quiet", "all")
    return folder


def test_the_plan_holds_every_step_of_the_profile(finished):
    profile = profiles.PROFILES["smoke"]
    counts = planned(output := forced(finished))
    assert all(line.endswith("-p vgg16 ''") for line in commands(output) if "02_training" in line)
    assert counts.pop("all") and counts.pop("report") and counts.pop("total")
    assert counts.pop("prepare") == len(profile.phantoms)
    for job in profile.jobs():
        assert counts.pop(f"train_{job}") == 1 and counts.pop(f"sample_{job}", None) == (None if "any" in job else 1)
    assert counts == dict.fromkeys({*ANALYSES, "summary"}, 1)


def test_each_artefact_has_exactly_one_rule_and_no_file_is_left_over(finished):
    assert "Nothing to be done" in snakemake(finished)
    rows = [line.split("\t") for line in snakemake(finished, "--summary").splitlines() if "\t" in line]
    column = rows[0].index("rule")
    rules = {(Path(row[0]).name, row[column]) for row in rows[1:] if row[0].startswith("figures/")}
    assert sorted(name for name, _ in rules) == sorted(artefacts.files())
    assert {path.name for path in (finished / "figures" / "smoke").iterdir()} == set(artefacts.files())


def test_committed_figures_are_those_of_the_rules():
    artefacts.check_figures(ROOT / "figures" / "demo")


def test_another_recipe_replans_exactly_the_runs_that_it_concerns(finished):
    end = "fingerprint() for m in methods]"
    changed = f'{end} + ["new"] * (dataset == "brats" and target == "t1ce" and "linear" in methods)\n'
    (finished / "changed").write_text((finished / "Snakefile").read_text().replace(f"{end}\n", changed, 1))
    counts = planned(snakemake(finished, "-n", "--snakefile", "changed"))
    assert counts.pop("train_brats_t1ce") == counts.pop("sample_brats_t1ce") == 1
    assert set(counts) == {*ALWAYS, *ANALYSES} - {"overview"}


def own_data(folder: Path, *subjects: str) -> str:
    """Files of the names of BraTS; what is planned depends on names, sizes and times alone."""
    for subject in subjects:
        (folder / subject).mkdir(parents=True)
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            (folder / subject / f"{subject}_{name}.nii.gz").write_text("voxels")
    return str(folder)


def test_own_data_take_the_place_of_phantoms_and_without_tumours_their_analyses_are_left_out(finished, tmp_path):
    root = own_data(tmp_path, "A", "B")
    counts = planned(forced(finished, "--config", "profile=paper", f"data_root={{brats: {root}}}"))
    trained = {name for name in counts if name.startswith("train")}
    assert counts["prepare"] == 1 and len(trained) == 4 * 8 + 9 + 3  # on a cluster each run is a job
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz").touch()
    manifest = tmp_path / "m.csv"
    manifest.write_text("subject,split\nsub-1,train\n")
    healthy = [f"data_root={{healthy: {root}}}", f"manifest={{healthy: {manifest}}}"]
    counts = planned(forced(finished, "--config", "profile=paper", *healthy))
    brats = {n[3:] for n, a in artefacts.ANALYSES.items() if a.reads in ("brats", "ablations", "any")}
    assert len(brats) == 7 and not brats & set(counts) and "significance" in counts


def test_a_changed_subject_or_manifest_replans_its_dataset_and_no_more(finished, tmp_path):
    folder, root, manifest = tmp_path / "flow", tmp_path / ODD, tmp_path / f"{ODD}.csv"
    shutil.copytree(finished, folder, symlinks=True)
    own_data(root, "A", "B", "C")
    own_data(tmp_path / "unseen", "D")
    manifest.write_text("subject,split\nA,train\nB,test\nC,excluded\n")
    own = {"data_root": root, "manifest": manifest}
    given = [f"{key}={{brats: {json.dumps(str(path))}}}" for key, path in own.items()]
    given = ["--config", "profile=smoke", *given, f"unseen={tmp_path / 'unseen'}"]
    mask = "{0}/{0}_seg.nii.gz".format

    def changed(path: Path, text: str) -> set[str]:
        snakemake(folder, "--quiet", "all", *given)
        path.write_text(text)
        output = snakemake(folder, "-n", *given)
        return set() if "Nothing to be done" in output else set(planned(output)) - ALWAYS

    assert changed(root / mask("C"), "of an excluded subject") == set()
    assert changed(tmp_path / "unseen" / mask("D"), "corrected") == {"generalisation"}
    rest = {name for name in changed(root / mask("A"), "corrected") if not name.startswith(("train_b", "sample_b"))}
    assert rest == ANALYSES | {"prepare"}
    assert "prepare" in changed(manifest, "subject,split\nA,train\nB,test\nC,test\n")


def test_parameters_reach_the_notebooks_whole_and_are_theirs(finished, tmp_path):
    python = tmp_path / ODD / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    snakefile = (finished / "Snakefile").read_text().replace("sys.executable", repr(str(python)))
    (finished / "moved").write_text(snakefile)
    options = {name: str(tmp_path / ODD / name) for name in ("vgg16", "inception", "unseen", "brats")}
    for name, path in options.items():
        own_data(Path(path), "A") if name in ("unseen", "brats") else Path(path).touch()
    data_root = f"data_root={{brats: {json.dumps(options['brats'], ensure_ascii=False)}}}"
    given = [data_root, *(f"{name}={path}" for name, path in options.items() if name != "brats")]
    output = forced(finished, "--snakefile", "moved", "--config", "profile=smoke", *given)
    taken = collections.defaultdict(set)
    for command in commands(output):
        path, words = ROOT / re.search(r"notebooks/\w+\.ipynb", command)[0], shlex.split(command)
        values = {words[k + 1]: words[k + 2] for k, word in enumerate(words) if word == "-p"}
        assert str(python) in words and notebook.check(path, values).keys() == values.keys(), command
        assert re.search(r"&> \S+ exec '.*' -m", command)  # else SIGTERM ends bash and not the notebook
        for name, value in values.items():
            taken[name, value].add(path.stem)
    brats = {"01_data_preparation", "03_sampling", "09_motion_robustness"}
    assert taken["data_root", options["brats"]] == brats and taken["vgg16", options["vgg16"]] == {"02_training"}
    assert taken["data_root", options["unseen"]] == {"12_generalisation"}
    assert taken["inception", options["inception"]] == {"11_ablations"}


KINDS = {"train", "sample", "networks", "figures"}  # of rules: `threads_of`, `resources_of` of the Snakefile
FOLDERS = sorted(path.name for path in (ROOT / "profiles").iterdir() if path.name != "default")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_of_profiles_plans_the_same_jobs_with_what_it_says_for_each_kind(finished, folder):
    lines = (finished / "Snakefile").read_text().splitlines()
    silent = finished / "silent"  # a message hides threads and resources
    silent.write_text("\n".join(line for line in lines if not line.strip().startswith("message:")))
    use = ("--workflow-profile", f"profiles/{folder}")
    text = forced(finished, "--snakefile", "silent", *use)
    assert planned(text) == planned(forced(finished)) and "Nothing to be done" in snakemake(finished, "-n", *use)
    said = dict(re.findall(r"^rule (\w+):\n((?: .*\n)+)", text, re.MULTILINE))
    given = yaml.safe_load((ROOT / "profiles" / folder / "config.yaml").read_text())
    for key in ("set-resources", "set-threads"):  # Snakemake passes over a misspelt rule in silence
        assert set(given.get(key, {})) <= {*said, *KINDS}
    kinds = {"train_isles_flair": "train", "sample_brats_flair": "sample", "segmentation": "networks"}
    for rule, kind in {**kinds, "generalisation": "networks", "prepare": "prepare"}.items():
        assert f"threads: {given['set-threads'][kind]}\n" in said[rule], rule
        for name, value in given["set-resources"].get(kind, {}).items():
            assert re.search(rf"\b{name}={value}\b", said[rule]), (rule, name)


def test_every_analysis_names_its_code():
    for name in artefacts.ANALYSES:
        found = artefacts.code(f"notebooks/{name}.ipynb")
        assert {"mudiff/paths.py", "mudiff/data/datasets.py"} <= set(found), name
