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
LOCKED := --require-hashes --no-deps
CODE := setup.py src workflow tests demo benchmarks envs
# newer than what they were made from: set up
READY := .venv/.ready
READY_DEV := .venv/.ready-dev
READY_NODE2VEC := .venv-node2vec/.ready
READY_TOOLS := .venv-tools/.ready
READY_CLUSTER := .venv-cluster/.ready
READY_STORAGE := .venv-storage/.ready

.PHONY: help setup wheel demo test test-all test-faults lint format schema node2vec-env cluster-plugins storage-plugins lock sbom bench check-gpu fuzz clean

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

# Everything but torch by digest, and nothing that is not in the lock; setuptools first, which builds the one package that
# is published as source alone. Then torch, in the build that pip chooses for this machine (one that is there stays): what
# came with it is held against its own lock before anything of it runs (-S: not even the environment's start-up files).
$(READY): requirements.lock envs/setuptools.lock envs/torch.lock pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --quiet $(LOCKED) -r envs/setuptools.lock
	$(PIP_INSTALL) --quiet $(LOCKED) --no-build-isolation -r requirements.lock
	$(BIN)/python -I -S envs/lock.py constraints > .venv/torch-constraints.txt
	$(PIP_INSTALL) --report .venv/torch.json --constraint .venv/torch-constraints.txt \
		"$$(grep -E '^torch==' requirements.txt)"
	$(BIN)/python -I -S envs/lock.py check .venv/torch.json
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(READY_DEV): requirements-dev.lock $(READY)
	$(PIP_INSTALL) --quiet $(LOCKED) -r requirements-dev.lock
	@touch $@

wheel: $(READY) ## dist/scrflow-VERSION-py3-none-any.whl, with the workflow in it
	rm -rf build dist
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir dist .

demo: $(READY) ## the embedded scene by landmarks, by a head, and by both: a table, pictures and the report pages
	$(BIN)/scrflow run demo --method landmarks --method rscore-cpu --method rscore-cpu-landmarks --cores $(CORES)

# Processes side by side: most of a test's time is Snakemake's, which takes one core.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

test: $(READY_DEV) lint ## all checks, and the tests that take seconds: some ten minutes
	$(PYTEST) -m "not long"

SLURM_PACKAGES := slurmctld slurmd slurm-client munge

test-all: $(READY_DEV) lint node2vec-env cluster-plugins storage-plugins ## the long ones too: faults, SLURM, object store, node2vec
	@if [ "$$(id -u)" = 0 ] && ! command -v slurmctld > /dev/null; then \
		apt-get update -qq && apt-get install -y --no-install-recommends -qq $(SLURM_PACKAGES); \
	fi
	$(PYTEST) -rs

TRIALS ?= 1
SEED ?= 1
test-faults: $(READY_DEV) ## faults injected into real runs (docs/faults.md); more of them with TRIALS=5, others with SEED=2
	$(BIN)/python tests/faults/run.py --trials $(TRIALS) --seed $(SEED)

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
	@if [ $(READY_NODE2VEC) -nt envs/node2vec.lock ]; then exit 0; fi; \
	$(BIN)/python -m venv .venv-node2vec && \
	.venv-node2vec/bin/python -m pip install --disable-pip-version-check --quiet $(LOCKED) -r envs/node2vec.lock && \
	touch $(READY_NODE2VEC) || \
	echo "warning: envs/node2vec.lock does not install on $$($(BIN)/python --version); tests against it are skipped" >&2

# beside .venv: each Snakemake that finds the plugins starts slower, and the tests start hundreds
cluster-plugins: $(READY_CLUSTER) ## .venv-cluster: the executor plugins of the profiles, for tests

$(READY_CLUSTER): requirements-cluster.lock $(READY)
	$(PIP_INSTALL) --quiet $(LOCKED) --upgrade --target .venv-cluster -r requirements-cluster.lock
	@touch $@

storage-plugins: $(READY_STORAGE) ## .venv-storage: Snakemake's plugins for object stores, boto3, and a server to test against

$(READY_STORAGE): requirements-storage.lock $(READY)
	$(PIP_INSTALL) --quiet $(LOCKED) --upgrade --target .venv-storage -r requirements-storage.lock
	@touch $@

$(READY_TOOLS): envs/tools.lock | $(BIN)/python
	$(BIN)/python -m venv .venv-tools
	.venv-tools/bin/python -m pip install --disable-pip-version-check --quiet $(LOCKED) -r envs/tools.lock
	@touch $@

lock: $(READY_TOOLS) ## lock files (digests of every pin) from the pins, after a pin has moved
	.venv-tools/bin/python envs/lock.py make

sbom: $(READY) $(READY_TOOLS) ## envs/sbom.json, and docs/licences.md from it
	.venv-tools/bin/python envs/sbom.py $(BIN)/python
	$(BIN)/python envs/licences.py

# the scenes of the tables of docs/performance.md: redkitchen where its photos are at hand, and the embedded one
BENCH_SCENES := $(if $(wildcard $(or $(SCRFLOW_DATA),../shared/data)/redkitchen),redkitchen) demo
BENCH := OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks

# libFuzzer's own build is in the wheel; the packages of .venv are seen through a path file
FUZZ_RUNS := $(or $(RUNS),20000)
READY_FUZZ := .venv-fuzz/.ready

$(READY_FUZZ): requirements-fuzz.txt $(READY)
	$(BIN)/python -m venv .venv-fuzz
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
		> "$$(.venv-fuzz/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/scrflow-venv.pth"
	.venv-fuzz/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-fuzz.txt
	@touch $@

fuzz: $(READY_FUZZ) ## RUNS (20000) bad files for every reader of files that come from others
	OMP_WAIT_POLICY=PASSIVE .venv-fuzz/bin/python tests/fuzz/fuzz_readers.py all --runs $(FUZZ_RUNS)

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

check-gpu: ## photos to poses of the demo on this machine's GPU, asserted, with figures, in at most 8 minutes
	OMP_WAIT_POLICY=PASSIVE $(or $(wildcard $(BIN)/python),python3) benchmarks/check_gpu.py

clean: ## remove results and caches; the environments and downloaded photos stay
	rm -rf results .snakemake .pytest_cache .ruff_cache build dist
	find src tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
