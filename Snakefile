"""The graph: prepare, train, sample, then one rule per notebook, then the report. No logic of its own.

    make reproduce                                   # profile demo
    make smoke                                       # profile smoke
    snakemake --config profile=paper 'data_root={brats: /data/brats, isles: /data/isles}'

A run's `recipe` is the fingerprint of its settings: a change re-plans exactly the runs that it concerns.
"""

import sys

from mudiff import artefacts, config as profiles
from mudiff.phantom import Recipe

NAME = config.get("profile", "demo")
PROFILE = profiles.profile(NAME)
DATA_ROOT = config.get("data_root", {})  # dataset -> folder of your own volumes; phantoms where none is given
MANIFEST = config.get("manifest", {})  # dataset -> CSV with columns subject, split; the published split else
DATASETS = list(dict.fromkeys([*PROFILE.phantoms, *DATA_ROOT]))
RUNS = [(dataset, target) for dataset, target in PROFILE.runs if dataset in DATASETS]
METHODS = list(PROFILE.methods)
RESULTS = f"results/{NAME}"
EXECUTED = f"{RESULTS}/executed"
RUN = f"&> {{log}} {sys.executable} -m mudiff.notebook run {{input.notebook}} {{output.executed}} -p profile {NAME}"
DRAW = RUN + f" -p figures_dir figures/{NAME}"
TASK = RUN + " -p dataset {wildcards.dataset} -p target {wildcards.target} -p methods {params.methods:q}"

def recipes(wildcards):
    """Fingerprints of the runs of one (dataset, target)."""
    return [profiles.settings(NAME, wildcards.dataset, wildcards.target, m).fingerprint() for m in METHODS]

def drawn(notebook):
    """Files that a notebook writes into figures/."""
    return [f"figures/{NAME}/{file}" for file in artefacts.files(notebook, DATASETS)]

def synthetic():
    """Records of the synthetic slices of every run."""
    return [f"{RESULTS}/synthetic/{d}_{t}_{m}/synthetic.json" for d, t in RUNS for m in METHODS]


wildcard_constraints: dataset="|".join(DATASETS), target="[a-z0-9]+"


rule all:
    """Everything."""
    input: f"{RESULTS}/report/index.html"
    message: "Done"


rule prepare:
    """01: phantoms (or your own volumes) to normalised slices, per dataset."""
    input: notebook="notebooks/01_data_preparation.ipynb"
    output: executed=EXECUTED + "/01_data_preparation_{dataset}.ipynb"
    params:
        recipe=lambda w: [profiles.preparation(NAME, w.dataset).fingerprint(), Recipe(w.dataset).fingerprint,
                          PROFILE.phantoms.get(w.dataset)],
        root=lambda w: DATA_ROOT.get(w.dataset, "None"),
        manifest=lambda w: MANIFEST.get(w.dataset, "None"),
    log: RESULTS + "/logs/01_data_preparation_{dataset}.log"
    message: "Preparing {wildcards.dataset}"
    shell: RUN + " -p dataset {wildcards.dataset} -p data_root {params.root:q} -p manifest {params.manifest:q}"


rule train:
    """02: all methods of one (dataset, target). Resume state lies undeclared beside the weights."""
    input:
        notebook="notebooks/02_training.ipynb",
        prepared=EXECUTED + "/01_data_preparation_{dataset}.ipynb",
    output:
        executed=EXECUTED + "/02_training_{dataset}_{target}.ipynb",
        # update: Snakemake leaves them in place, so a finished run is found finished and not trained again.
        weights=update([RESULTS + "/runs/{dataset}_{target}_" + f"{m}/weights.safetensors" for m in METHODS]),
    params: recipe=recipes, methods=str(METHODS)
    log: RESULTS + "/logs/02_training_{dataset}_{target}.log"
    message: "Training for {wildcards.target} of {wildcards.dataset}: progress in " + RESULTS + "/runs/*/log.jsonl"
    shell: TASK


rule sample:
    """03: synthetic test slices and one whole volume of one (dataset, target)."""
    input:
        notebook="notebooks/03_sampling.ipynb",
        trained=rules.train.output,
    output:
        executed=EXECUTED + "/03_sampling_{dataset}_{target}.ipynb",
        slices=update([RESULTS + "/synthetic/{dataset}_{target}_" + f"{m}/synthetic.json" for m in METHODS]),
    params: recipe=recipes, methods=str(METHODS), root=lambda w: DATA_ROOT.get(w.dataset, "None")
    log: RESULTS + "/logs/03_sampling_{dataset}_{target}.log"
    message: "Synthesising {wildcards.target} of {wildcards.dataset}"
    shell: TASK + " -p data_root {params.root:q}"


rule overview:
    """00: cohorts, networks, environment."""
    input:
        notebook="notebooks/00_overview.ipynb",
        prepared=expand(EXECUTED + "/01_data_preparation_{dataset}.ipynb", dataset=DATASETS),
        code="mudiff/figures.py",
    output: executed=EXECUTED + "/00_overview.ipynb", drawn=drawn("00_overview")
    log: RESULTS + "/logs/00_overview.log"
    message: "Drawing the overview"
    shell: DRAW


rule whole_brain:
    """04: Table 1, Fig. 3, Supplementary Data 1 and 2."""
    input:
        notebook="notebooks/04_whole_brain_metrics.ipynb",
        slices=synthetic(),
        code=expand("mudiff/{module}.py", module=["metrics", "tables", "figures"]),
    output: executed=EXECUTED + "/04_whole_brain_metrics.ipynb", drawn=drawn("04_whole_brain_metrics")
    log: RESULTS + "/logs/04_whole_brain_metrics.log"
    message: "Scoring whole brains"
    shell: DRAW


rule lesions:
    """05: Table 2, Fig. 1d, Supplementary Data 5 and 6."""
    input:
        notebook="notebooks/05_lesion_metrics.ipynb",
        slices=synthetic(),
        code=expand("mudiff/{module}.py", module=["metrics", "tables", "figures"]),
    output: executed=EXECUTED + "/05_lesion_metrics.ipynb", drawn=drawn("05_lesion_metrics")
    log: RESULTS + "/logs/05_lesion_metrics.log"
    message: "Scoring lesions"
    shell: DRAW


rule summary:
    """14: every artefact and every claim."""
    input:
        notebook="notebooks/14_report.ipynb",
        executed=[rules.overview.output, rules.whole_brain.output, rules.lesions.output],
        code="mudiff/artefacts.py",
    output: executed=EXECUTED + "/14_report.ipynb"
    log: RESULTS + "/logs/14_report.log"
    message: "Comparing with the paper's claims"
    shell: DRAW


rule report:
    """The HTML pages."""
    input:
        notebook=rules.summary.output.executed,
        executed=[f"{EXECUTED}/{n}_{d}_{t}.ipynb" for n in ("02_training", "03_sampling") for d, t in RUNS],
        code="mudiff/report.py",
    output: f"{RESULTS}/report/index.html"
    log: RESULTS + "/logs/report.log"
    message: "Writing the report"
    shell: f"&> {{log}} {sys.executable} -m mudiff.report {NAME}"
