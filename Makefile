# make run and make test are the two to start with; each creates the environment when it is missing or out of date.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
export PATH := $(CURDIR)/$(BIN):$(PATH)
# pip and uv read the package index from the user's own settings; nothing here names one.
export UV_LINK_MODE ?= copy
# Compile bytecode once, at installation: otherwise each short job of the pipeline may compile torch again.
export UV_COMPILE_BYTECODE ?= 1

.PHONY: help env run test test-slow lint storm audit image-check slurm-check lock readme manual bench bench-step bench-memory \
	bench-dag bench-evaluation bench-verdicts bench-gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## only the environment: .venv with the packages of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dynat needs Python 3.11 or newer: make run PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

run: $(STAMP) ## the whole pipeline of params.yaml: data, training, evaluation, report
	@snakemake --cores all all

test: $(STAMP) ## the tests without the slow ones
	@pytest

test-slow: $(STAMP) ## all tests, including the slow ones
	@pytest -m 'slow or not slow'

lint: $(STAMP) ## check the code: ruff, mypy, snakefmt, snakemake --lint
	@ruff check .
	@ruff format --check .
	@mypy
	@snakefmt --check workflow
	@snakemake --lint

storm: $(STAMP) ## kill jobs, flip bits, fill a disk, and check every result (docs/reliability.md)
	@python tools/storm.py

audit: $(STAMP) ## licenses of the installed packages, and known vulnerabilities where pip-audit is installed
	@python tools/audit.py

image-check: $(STAMP) ## build and test the container image (docs/container.md)
	@python tools/image_check.py

slurm-check: $(STAMP) ## run the pipeline through a real Slurm on this machine (docs/cluster.md)
	@VIRTUAL_ENV=$(CURDIR)/.venv uv pip install --quiet --constraint requirements.lock --editable '.[slurm]'
	@python tools/slurm_check.py

lock: ## resolve requirements.lock again from pyproject.toml
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --quiet --upgrade -o requirements.lock

manual: $(STAMP) ## write the tables of config/README.md from the code
	@python tools/write_manual.py

readme: $(STAMP) ## update tables, figures and help texts in the documents from results/
	@python tools/refresh_readme.py

bench: bench-step bench-memory bench-dag bench-evaluation ## all benchmarks of speed and memory: tables, and JSON in benchmarks/out

bench-step: $(STAMP) ## time of a training step, compared with the authors' algorithm
	@python benchmarks/step.py

bench-memory: $(STAMP) ## peak memory of a training step
	@python benchmarks/memory.py

bench-dag: $(STAMP) ## time of the pipeline itself, without its jobs
	@python benchmarks/dag.py

bench-evaluation: $(STAMP) ## time of AutoAttack, compared with pyautoattack alone
	@python benchmarks/evaluation.py

bench-verdicts: $(STAMP) ## whether attacking a surrogate changes a verdict, on every digits network (after make run)
	@python benchmarks/verdicts.py

bench-gpu: $(STAMP) ## all measurements that need a GPU, in less than ten minutes
	@python benchmarks/gpu.py --json benchmarks/out/gpu.json

clean: ## delete results, states and logs; data sets stay
	@rm -rf results state logs
