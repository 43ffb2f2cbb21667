# make run and make test are all a newcomer needs; each makes the environment when it is missing or stale.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
export PATH := $(CURDIR)/$(BIN):$(PATH)
# pip and uv read their index from the user's own settings; nothing here names one.
export UV_LINK_MODE ?= copy
# Bytecode once, at install: otherwise each of the pipeline's short jobs may compile torch again.
export UV_COMPILE_BYTECODE ?= 1

.PHONY: help env run test test-slow lint image-check slurm-check lock readme bench bench-step bench-memory bench-dag \
	bench-exam bench-verdicts bench-gpu clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## the environment alone: .venv, from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dynat needs Python 3.11 or newer: make run PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

run: $(STAMP) ## the whole pipeline of params.yaml, from data to report
	@snakemake --cores all all

test: $(STAMP) ## the test suite
	@pytest

test-slow: $(STAMP) ## every test, the slow ones too
	@pytest -m 'slow or not slow'

lint: $(STAMP) ## ruff, mypy, snakefmt, snakemake --lint
	@ruff check .
	@ruff format --check .
	@mypy
	@snakefmt --check workflow
	@snakemake --lint

image-check: $(STAMP) ## the container image, built and tried (docs/container.md)
	@python tools/image_check.py

slurm-check: $(STAMP) ## the pipeline through a real Slurm on this machine (docs/cluster.md)
	@VIRTUAL_ENV=$(CURDIR)/.venv uv pip install --quiet --constraint requirements.lock --editable '.[slurm]'
	@python tools/slurm_check.py

lock: ## requirements.lock anew from pyproject.toml
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --quiet --upgrade -o requirements.lock

readme: $(STAMP) ## README.md's table and figures anew from results/digits
	@python docs/refresh.py

bench: bench-step bench-memory bench-dag bench-exam ## speed and memory here: tables, and JSON under benchmarks/out

bench-step: $(STAMP) ## the training step beside the authors' restated one
	@python benchmarks/step.py

bench-memory: $(STAMP) ## its peak memory
	@python benchmarks/memory.py

bench-dag: $(STAMP) ## what the pipeline costs beside its jobs
	@python benchmarks/dag.py

bench-exam: $(STAMP) ## AutoAttack by pyautoattack itself beside ours
	@python benchmarks/exam.py

bench-verdicts: $(STAMP) ## whether a view moves a verdict, on every network of the digits (after make run)
	@python benchmarks/verdicts.py

bench-gpu: $(STAMP) ## everything that only a GPU can tell, under ten minutes
	@python benchmarks/gpu.py --json benchmarks/out/gpu.json

clean: ## what can be made again: results, states, logs (data sets stay)
	@rm -rf results runs logs
