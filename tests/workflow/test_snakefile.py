"""The graph: what is planned, what a change re-plans, and that each artefact has exactly one rule."""

import collections
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
ANALYSES = {name[3:] for name in artefacts.ANALYSES}


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
    folder = tmp_path_factory.mktemp("workflow")
    for name in ("notebooks", "profiles", "mudiff"):
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
    counts = planned(forced(finished))
    assert counts.pop("all") and counts.pop("report") and counts.pop("total")
    assert counts.pop("prepare") == len(profile.phantoms)
    for job in profile.jobs():
        assert counts.pop(f"train_{job}") == 1 and counts.pop(f"sample_{job}", None) == (None if "any" in job else 1)
    assert counts == dict.fromkeys({*ANALYSES, "summary"}, 1)


def test_each_artefact_has_exactly_one_rule_and_no_file_is_left_over(finished):
    assert "Nothing to be done" in snakemake(finished)
    rows = [line.split("\t") for line in snakemake(finished, "--summary").splitlines() if "\t" in line]
    column = rows[0].index("rule")
    rules = collections.defaultdict(set)
    for row in rows[1:]:
        if row[0].startswith("figures/"):
            rules[Path(row[0]).name].add(row[column])
    assert {name: len(found) for name, found in rules.items()} == dict.fromkeys(artefacts.files(), 1)
    assert {path.name for path in (finished / "figures" / "smoke").iterdir()} == set(artefacts.files())


def test_committed_figures_are_those_of_the_rules():
    artefacts.check_figures(ROOT / "figures" / "demo")


def test_another_recipe_replans_exactly_the_runs_that_it_concerns(finished):
    snakefile = finished / "Snakefile"
    before = snakefile.read_text()
    end = "fingerprint() for m in methods]"
    changed = f'{end} + ["new"] * (dataset == "brats" and target == "t1ce" and "linear" in methods)\n'
    try:
        snakefile.write_text(before.replace(f"{end}\n", changed, 1))
        counts = planned(snakemake(finished, "-n"))
    finally:
        snakefile.write_text(before)
    assert counts.pop("train_brats_t1ce") == counts.pop("sample_brats_t1ce") == 1
    assert set(counts) == {"all", "total", "summary", "report", *ANALYSES} - {"overview"}


def test_own_data_take_the_place_of_phantoms_and_without_tumours_their_analyses_are_left_out(finished):
    counts = planned(forced(finished, "--config", "profile=paper", "data_root={brats: /d}"))
    trained = {name for name in counts if name.startswith("train")}
    assert counts["prepare"] == 1 and len(trained) == 4 * 8 + 9 + 3  # on a cluster each run is a job
    counts = planned(forced(finished, "--config", "profile=paper", "data_root={healthy: /h}"))
    brats = {n[3:] for n, a in artefacts.ANALYSES.items() if a.reads in ("brats", "ablations", "any")}
    assert len(brats) == 7 and not brats & set(counts) and "significance" in counts


def test_parameters_reach_the_notebooks_whole_and_are_theirs(finished, tmp_path):
    python = tmp_path / "my env" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    snakefile = (finished / "Snakefile").read_text().replace("sys.executable", repr(str(python)))
    (finished / "moved").write_text(snakefile)
    own = "/my data/it's a net"
    options = [f"{name}={own} {name}" for name in ("vgg16", "inception", "unseen")]
    options.append(f'data_root={{brats: "{own} brats"}}')
    output = forced(finished, "--snakefile", "moved", "--config", "profile=smoke", *options)
    taken = collections.defaultdict(set)
    for command in commands(output):
        path, words = ROOT / re.search(r"notebooks/\w+\.ipynb", command)[0], shlex.split(command)
        given = {words[k + 1]: words[k + 2] for k, word in enumerate(words) if word == "-p"}
        assert str(python) in words and notebook.check(path, given).keys() == given.keys(), command
        assert re.search(r"&> \S+ exec '.*' -m", command)  # else SIGTERM ends bash and not the notebook
        for name, value in given.items():
            taken[name, value].add(path.stem)
    brats = {"01_data_preparation", "03_sampling", "09_motion_robustness"}
    assert taken["data_root", f"{own} brats"] == brats and taken["vgg16", f"{own} vgg16"] == {"02_training"}
    assert taken["data_root", f"{own} unseen"] == {"12_generalisation"}
    assert taken["inception", f"{own} inception"] == {"11_ablations"}


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
    on_a_gpu = {rule for rule in said if re.search(r"\bgpu=", said[rule])}
    assert {rule for rule in on_a_gpu if not rule.startswith(("train_", "sample_"))} == {
        "mutual_learning", "attention", "motion_robustness", "segmentation", "ablations", "generalisation",
        "paper_versus_code", "any_subset",
    }  # fmt: skip
    assert len(on_a_gpu) == 8 + 2 * len(profiles.PROFILES["smoke"].jobs()) - 1  # notebook 15 samples for itself


def test_the_snakefile_is_short_and_every_rule_says_what_it_does():
    lines = (ROOT / "Snakefile").read_text().splitlines()
    assert len(lines) <= 156 and max(map(len, lines)) <= 118
    rules = [number for number, line in enumerate(lines) if line.strip().startswith(("rule ", "rule:"))]
    assert all(lines[number + 1].strip().startswith('"""') for number in rules)


def test_every_analysis_names_its_code():
    for name in artefacts.ANALYSES:
        found = artefacts.code(f"notebooks/{name}.ipynb")
        assert {"mudiff/paths.py", "mudiff/data/datasets.py"} <= set(found), name
