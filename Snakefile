"""The graph: prepare, train, sample, then one rule per notebook, then the report. No logic of its own.

    make reproduce                                   # profile demo
    snakemake --config profile=paper 'data_root={brats: /data/brats, isles: /data/isles}' unseen=/data/brats2021
"""

import shlex
import sys

from mudiff.phantoms.cohort import Recipe
from mudiff.training import profiles
from mudiff.workflow import artefacts, inputs

OWN, STATE = inputs.begin(config)  # keys of --config, and the state of your files: what changed is planned again
NAME, PROFILE = OWN.profile, profiles.profile(OWN.profile)
DATASETS = list(dict.fromkeys([*PROFILE.phantoms, *OWN.data_root]))
SHOWN = DATASETS + ["unseen"] * ("brats" in DATASETS and bool(OWN.unseen or "brats" in PROFILE.phantoms))
JOBS = {name: job for name, job in PROFILE.jobs().items() if job[0] in DATASETS}
RESULTS, EXECUTED = f"results/{NAME}", f"results/{NAME}/executed"
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")
RUN = f"&> {{log}} exec {PYTHON} -m mudiff.workflow.notebook run {{input.notebook}} {{output.executed}}"
RUN += f" -p profile {NAME}"
TASK = RUN + " -p dataset {params.task[0]} -p target {params.task[1]} -p methods {params.task[2]:q}"

def recipes(dataset, target, methods):
    """Fingerprints of the settings of one job's runs: a change re-plans exactly those that it concerns."""
    given = {"pgan": {"vgg16": OWN.vgg16}}
    return [profiles.settings(NAME, dataset, target, m, **given.get(m, {})).fingerprint() for m in methods]

def data(dataset):
    """What slices are made of: settings, phantoms or your own files."""
    return [profiles.preparation(NAME, dataset).fingerprint(), Recipe(dataset).fingerprint,
            PROFILE.phantoms.get(dataset), STATE.get(dataset, [None])[0]]

def files(folder, file, jobs=JOBS):
    """One file of every run of some jobs, in runs/ or synthetic/."""
    return [f"{RESULTS}/{folder}/{d}_{t}_{m}/{file}" for d, t, methods in map(JOBS.get, jobs) for m in methods]

def value(setting):
    """Some settings are wrapped in objects."""
    return getattr(setting, "value", setting)

def threads_of(kind):
    """Threads of a kind of rules. (`overwrite_*` is what set-threads and set-resources of profiles/ become.)"""
    return value(workflow.resource_settings.overwrite_threads.get(kind, 1))

def resources_of(kind):
    """Resources of a kind of rules."""
    return {name: value(r) for name, r in workflow.resource_settings.overwrite_resources.get(kind, {}).items()}

PREPARED = {dataset: f"{EXECUTED}/01_data_preparation_{dataset}.ipynb" for dataset in DATASETS}
SAMPLED = [job for job, task in JOBS.items() if task[1] != "any"]  # of the rest notebook 15 samples what it needs
MAIN = [job for job in SAMPLED if "_" not in JOBS[job][2][0]]  # an ablation is written as mudiff_abl1
SLICES = files("synthetic", "synthetic.json", MAIN)
BRATS = [path for path in SLICES if "/brats_" in path]
READ = {"prepared": list(PREPARED.values()), "synthetic": SLICES, "brats": BRATS,
        "scores": [f"{EXECUTED}/{notebook}.ipynb" for notebook in ("04_whole_brain_metrics", "05_lesion_metrics")],
        "any": [*BRATS, *files("runs", "weights.safetensors", [job for job in JOBS if job not in SAMPLED])],
        "ablations": [*files("synthetic", "synthetic.json", [job for job in SAMPLED if job.startswith("brats_")]),
                      f"{EXECUTED}/10_segmentation.ipynb"]}
ANALYSES = {notebook: analysis for notebook, analysis in artefacts.ANALYSES.items()
            if "brats" in DATASETS or analysis.reads not in ("brats", "ablations", "any")}
GIVEN = {n: (f" -p {artefacts.ANALYSES[n].takes} {shlex.quote(path)}", state) for n, path, state in (
    ("09_motion_robustness", OWN.data_root.get("brats"), None), ("12_generalisation", OWN.unseen, STATE["unseen"]),
    ("11_ablations", OWN.inception, STATE["inception"])) if path}
wildcard_constraints: dataset="|".join(DATASETS)

rule all:
    """Everything."""
    input: f"{RESULTS}/report/index.html"
    message: "Done"

rule prepare:
    """01: phantoms (or your own volumes) to normalised slices, per dataset."""
    input: notebook="notebooks/01_data_preparation.ipynb"
    output: executed=EXECUTED + "/01_data_preparation_{dataset}.ipynb"
    params:
        recipe=lambda w: [data(w.dataset), STATE.get(w.dataset)], root=lambda w: OWN.data_root.get(w.dataset, "None"),
        manifest=lambda w: OWN.manifest.get(w.dataset, "None"),
    log: RESULTS + "/logs/01_data_preparation_{dataset}.log"
    message: "Preparing {wildcards.dataset}"
    shell:
        RUN + " -p dataset {wildcards.dataset} -p data_root {params.root:q} -p manifest {params.manifest:q}"
        " -p workers {threads}"

for job, task in JOBS.items():
    rule:
        """02: the methods of one job. Resume state lies undeclared beside the weights."""
        name: f"train_{job}"
        input: notebook="notebooks/02_training.ipynb", prepared=PREPARED[task[0]]
        output:
            executed=f"{EXECUTED}/02_training_{job}.ipynb",
            weights=update(files("runs", "weights.safetensors", [job])),  # left in place, so not trained again
        params: recipe=[*recipes(*task), *data(task[0])], task=(*task[:2], str(task[2]), shlex.quote(OWN.vgg16))
        threads: threads_of("train")
        resources: **resources_of("train")
        log: f"{RESULTS}/logs/02_training_{job}.log"
        message: f"Training {job}"
        shell: TASK + " -p vgg16 {params.task[3]}"

    if job not in SAMPLED: continue
    rule:
        """03: synthetic test slices of one job, and one whole volume."""
        name: f"sample_{job}"
        input: notebook="notebooks/03_sampling.ipynb", trained=getattr(rules, f"train_{job}").output
        output:
            executed=f"{EXECUTED}/03_sampling_{job}.ipynb",
            slices=update(files("synthetic", "synthetic.json", [job])),
        params: recipe=recipes(*task), task=(*task[:2], str(task[2]), OWN.data_root.get(task[0], "None"))
        threads: threads_of("sample")
        resources: **resources_of("sample")
        log: f"{RESULTS}/logs/03_sampling_{job}.log"
        message: f"Synthesising {job}"
        shell: TASK + " -p data_root {params.task[3]:q}"

for notebook, analysis in ANALYSES.items():
    kind = "networks" if notebook[:2] > "06" else "figures"  # those compute with networks
    book = f"notebooks/{notebook}.ipynb"
    rule:
        """A notebook that draws figures and tables."""
        name: notebook[3:]
        input: artefacts.code(book), READ[analysis.reads], notebook=book
        output:
            executed=f"{EXECUTED}/{notebook}.ipynb",
            drawn=[f"figures/{NAME}/{file}" for file in artefacts.files(notebook, SHOWN)],
        log: f"{RESULTS}/logs/{notebook}.log"
        params:  # not in `shell`, which is read when the loop is over; no texts, in which {} would be wildcards
            figures=f" -p figures_dir figures/{NAME}" if artefacts.files(notebook) else "",
            more=GIVEN.get(notebook, ("", "")),
        threads: threads_of(kind)
        resources: **resources_of(kind)
        message: analysis.says
        shell: RUN + "{params.figures}{params.more[0]}"

rule summary:
    """14: every artefact and every claim."""
    input:
        artefacts.code("notebooks/14_report.ipynb"),
        notebook="notebooks/14_report.ipynb", executed=[f"{EXECUTED}/{notebook}.ipynb" for notebook in ANALYSES],
        drawn=[f"figures/{NAME}/{file}" for file in artefacts.files(available=SHOWN)],
    output: executed=EXECUTED + "/14_report.ipynb"
    log: RESULTS + "/logs/14_report.log"
    message: "Comparing with the paper's claims"
    shell: RUN + f" -p figures_dir figures/{NAME}"

rule report:
    """The HTML pages."""
    input:
        notebook=rules.summary.output.executed, code=artefacts.code("mudiff/workflow/report.py"),
        executed=[f"{EXECUTED}/{n}_{job}.ipynb" for n, jobs in (("02_training", JOBS), ("03_sampling", SAMPLED))
                  for job in jobs],
    output: f"{RESULTS}/report/index.html"
    log: RESULTS + "/logs/report.log"
    message: "Writing the report"
    shell: f"&> {{log}} {PYTHON} -m mudiff.workflow.report {NAME}"
