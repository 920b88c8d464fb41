# Set-up, demo, checks. Everything lands in .venv (and .venv-node2vec, for a reference that tests compare with).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# the first of these that can make a virtual environment and is of a supported version; PYTHON=... chooses another
PYTHON_FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if "$$p" -c '$(PYTHON_FITS)' 2> /dev/null; then echo "$$p"; break; fi; done)
CORES ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
CODE := src workflow tests demo benchmarks
# newer than what they were made from: set up
READY := .venv/.ready
READY_DEV := .venv/.ready-dev
READY_NODE2VEC := .venv-node2vec/.ready

.PHONY: help setup demo test lint format schema node2vec-env bench bench-gpu clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## .venv with everything that running needs

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11, 3.12 or 3.13 with venv found (on Debian: apt install python3 python3-venv);" \
			"PYTHON=/path/to/python names one" >&2; exit 1; \
	fi
	@"$(PYTHON)" -c '$(PYTHON_FITS)' || { echo "error: $(PYTHON) is not 3.11 to 3.13, or has no venv" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

# torch first and alone: the other packages then accept the build that pip chose for this machine
$(READY): requirements.txt pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) "$$(grep -E '^torch==' requirements.txt)"
	$(PIP_INSTALL) --quiet -r requirements.txt
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(READY_DEV): requirements-dev.txt $(READY)
	$(PIP_INSTALL) --quiet -r requirements-dev.txt
	@touch $@

demo: $(READY) ## the embedded scene: photos to poses, a table and two pictures
	$(BIN)/snakemake --cores $(CORES) demo
	$(BIN)/scrflow summary results/demo

test: $(READY_DEV) lint node2vec-env ## all checks and tests
	$(BIN)/python -m pytest

lint: $(READY_DEV) ## formats and static checks
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(READY_DEV) ## rewrite the code in the project's format
	$(BIN)/ruff format $(CODE)
	$(BIN)/snakefmt Snakefile rules

schema: $(READY) ## workflow/schemas from the typed config
	$(BIN)/scrflow schema

node2vec-env: $(READY_DEV) ## .venv-node2vec: the named package as a reference (its parity test is skipped without it)
	@if [ $(READY_NODE2VEC) -nt envs/node2vec.txt ]; then exit 0; fi; \
	$(BIN)/python -m venv .venv-node2vec && \
	.venv-node2vec/bin/python -m pip install --disable-pip-version-check --quiet -r envs/node2vec.txt && \
	touch $(READY_NODE2VEC) || \
	echo "warning: envs/node2vec.txt does not install on $$($(BIN)/python --version); tests against it are skipped" >&2

# the scenes of the tables of docs/performance.md: redkitchen where its photos are at hand, and the embedded one
BENCH_SCENES := $(if $(wildcard $(or $(SCRFLOW_DATA),../shared/data)/redkitchen),redkitchen) demo
BENCH := OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks

bench: $(READY) ## the benchmarks of docs/performance.md, on a CPU
	$(BIN)/snakemake --cores $(CORES) $(BENCH_SCENES:%=results/%/rscore-cpu/metrics.json)
	for s in $(BENCH_SCENES); do \
		$(BENCH)/pipeline.py results/$$s; \
		$(BENCH)/training.py steps --results results/$$s; \
		$(BENCH)/training.py mixing --results results/$$s; \
		$(BENCH)/localize.py $$s; \
		$(BENCH)/mapsize.py $$s; \
	done
	$(BENCH)/training.py memory
	OMP_NUM_THREADS=1 $(BENCH)/graph.py --images 1000 --images 5000 --images 20000 --images 50000

bench-gpu: ## the same on a GPU, with the python that is there (torch, h5py, pydantic, pyyaml, typer) and nothing fetched
	$(or $(wildcard $(BIN)/python),python3) benchmarks/training.py steps --method rscore --samples 8000000 --dim 128 --batch 40960
	$(or $(wildcard $(BIN)/python),python3) benchmarks/training.py steps --method rscore --samples 8000000 --dim 128 --batch 163840
	$(or $(wildcard $(BIN)/python),python3) benchmarks/training.py steps --method glace --samples 8000000 --dim 512 --batch 40960
	$(or $(wildcard $(BIN)/python),python3) benchmarks/training.py memory --method rscore --dim 128 --sizes 8000000,32000000 --limits 1024,4096,16384

clean: ## remove results and caches; the environments and downloaded photos stay
	rm -rf results .snakemake .pytest_cache .ruff_cache build
	find src tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
