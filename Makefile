# make reproduce   every table, figure and the report, on the built-in data (profile demo)
# make smoke       the same wiring in a few minutes (profile smoke)
# make test        the test suite
# make lab         JupyterLab on notebooks/
# make explore     notebook 16 in the browser: make explore RUN=results/demo/runs/brats_t1ce_mudiff SUBJECT=/data/me
# make clean       remove results/ and Snakemake's memory; figures/ stays, because figures/demo is part of
#                  the repository: the next `make reproduce` draws every file in it again
#
# PYTHON chooses the interpreter that .venv/ is made with: make PYTHON=python3.12 reproduce
# ARGS goes on to Snakemake: make reproduce ARGS="--cores 8"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# Ctrl-C reaches make, too, which ends by itself: its shell waits, and make says nothing of its own.
WORKFLOW = trap : INT; $(BIN)/python -m mudiff.workflow.reproduce

# Each step of a training asks for the same memory again: let glibc keep what was freed (other systems ignore this).
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 4294967296

.PHONY: reproduce smoke test lab explore clean

reproduce: .venv/.stamp
	@$(WORKFLOW) demo $(ARGS) || [ $$? = 130 ]
	@echo "Report: results/demo/report/index.html   Figures and tables: figures/demo/"

smoke: .venv/.stamp
	@$(WORKFLOW) smoke $(ARGS) || [ $$? = 130 ]

test: .venv/.stamp
	@$(BIN)/python -m pytest

lab: .venv/.stamp
	@$(BIN)/python -m jupyterlab --notebook-dir=notebooks

explore: .venv/.stamp
	@mkdir -p results
	@$(BIN)/python -m papermill --prepare-only --log-level WARNING notebooks/16_explore.ipynb results/explore.ipynb \
	  $(if $(RUN),-p run "$(abspath $(RUN))") $(if $(SUBJECT),-p subject "$(SUBJECT)") $(if $(VIEW),-p view "$(VIEW)")
	@$(BIN)/python -m voila results/explore.ipynb

clean:
	rm -rf results .snakemake .pytest_cache .ruff_cache

# Made anew only when the pinned versions or the package's metadata change.
.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mudiff needs Python 3.11 or later: try make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing the pinned versions into .venv/ (once; this downloads PyTorch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
