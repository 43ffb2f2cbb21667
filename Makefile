# make run and make test are the two to start with; each creates the environment when it is missing or out of date.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
# The same for the packages of developers, which tests and linters need.
DEVELOPER := .venv/.developer
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# pip and uv read the package index from the user's own settings; nothing here names one.
export UV_LINK_MODE ?= copy
# Compile bytecode once, at installation: otherwise each short job of the pipeline may compile torch again.
export UV_COMPILE_BYTECODE ?= 1

# Another build of torch: make env TORCH=cu126, for drivers of CUDA 12, or TORCH=cpu (README.md, Installation). It stays
# until another one is named; TORCH=lock is that of requirements.lock.
INSTALLED := $(or $(shell cat .venv/.torch 2>/dev/null),lock)
TORCH := $(INSTALLED)
ifeq ($(TORCH),lock)
PACKAGES := requirements.lock
else
PACKAGES := .venv/requirements-$(TORCH).txt
BACKEND := --torch-backend $(TORCH)
endif
ifneq ($(TORCH),$(INSTALLED))
.PHONY: $(STAMP)
endif
define TORCH_MESSAGE
make: no environment with the build "$(TORCH)" of torch: uv gives the reason above. Nothing was changed.
      Builds are cpu, cu126, cu130, auto (what fits the driver), and others: uv pip install --help, --torch-backend.
      They are downloaded from PyTorch's own package index, so this machine must be able to reach it.
      Without TORCH, make env installs the build of requirements.lock from your package index.
endef
export TORCH_MESSAGE

.PHONY: help env run test test-slow lint storm audit image-check slurm-check lock results readme manual bench bench-step bench-processes \
	bench-memory bench-dag bench-evaluation bench-shards bench-libraries bench-verdicts bench-gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## only the environment: .venv with the packages of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dynat needs Python 3.11 or newer: make run PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifneq ($(TORCH),lock)
	@sed -E '/^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/,/[^\\]$$/d' requirements.lock > .venv/constraints.txt
	@uv pip compile pyproject.toml --extra pipeline --constraint .venv/constraints.txt --torch-backend $(TORCH) \
		--generate-hashes --no-annotate --no-header --quiet -o $(PACKAGES) || { echo "$$TORCH_MESSAGE" >&2; exit 1; }
endif
	@rm -f $(STAMP)
	@echo $(TORCH) > .venv/.torch
	@uv pip sync --quiet $(PACKAGES) $(if $(wildcard $(DEVELOPER)),requirements-dev.lock) $(BACKEND)
	@uv pip install --quiet --no-deps --editable .
	@touch $@

# On top of the user's packages.
$(DEVELOPER): $(STAMP) requirements-dev.lock
	@uv pip install --quiet --no-deps --requirement requirements-dev.lock
	@touch $@

run: $(STAMP) ## the whole pipeline of params.yaml: data, training, evaluation, report
	@DYNAT_COMMAND='make run' snakemake --cores all all

# Processes that share the tests, a file at a time: make test WORKERS=8. Each needs about a gigabyte of memory.
WORKERS ?= 2
test: $(DEVELOPER) ## the tests without the slow ones
	@pytest -n $(WORKERS) --dist loadfile

test-slow: $(DEVELOPER) ## all tests, including the slow ones
	@pytest -m 'slow or not slow'

lint: $(DEVELOPER) ## check the code: ruff, mypy, snakefmt, snakemake --lint
	@ruff check .
	@ruff format --check .
	@mypy
	@snakefmt --check workflow
	@snakemake --lint

storm: $(DEVELOPER) ## kill jobs, flip bits, fill a disk, and check every result (docs/reliability.md)
	@python -m tools.storm

audit: $(STAMP) ## licenses of the installed packages, and known vulnerabilities where pip-audit is installed
	@python tools/audit.py

image-check: $(STAMP) ## build and test the container image (docs/container.md)
	@python tools/image_check.py

slurm-check: $(DEVELOPER) ## run the pipeline through a real Slurm on this machine (docs/cluster.md)
	@python tools/slurm_check.py

# requirements-dev.lock has only what requirements.lock has not: the awk program leaves out the packages of the first file.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
lock: ## resolve requirements.lock and requirements-dev.lock again from pyproject.toml
	@$(COMPILE) --upgrade --extra pipeline -o requirements.lock
	@$(COMPILE) --upgrade --extra dev --constraint requirements.lock -o .venv/all.txt
	@awk -F '[= ]' '/^[a-z0-9]/ {known = $$1 in user} NR == FNR {if (/^[a-z0-9]/) user[$$1]; next} !known' \
		requirements.lock .venv/all.txt > requirements-dev.lock

manual: $(STAMP) ## write the tables of config/README.md from the code
	@python tools/write_manual.py

results: $(STAMP) ## update docs/results.md from results/ (docs/results.md says how)
	@python -m tools.results_page

readme: $(STAMP) ## update tables, figures and help texts in the documents from results/
	@python tools/refresh_readme.py

bench: bench-step bench-processes bench-memory bench-dag bench-evaluation bench-shards ## all benchmarks of speed and memory: tables, and JSON in benchmarks/out

bench-step: $(STAMP) ## time of a training step, compared with the authors' algorithm
	@python benchmarks/step.py

bench-processes: $(STAMP) ## images per second of a training on all cores, and of one training per core
	@python benchmarks/processes.py

bench-memory: $(STAMP) ## peak memory of trainings and attacks, for each preset
	@python benchmarks/memory.py

bench-dag: $(STAMP) ## time of the pipeline itself, without its jobs
	@python benchmarks/dag.py

bench-evaluation: $(STAMP) ## time of AutoAttack, compared with pyautoattack alone
	@python benchmarks/evaluation.py

bench-shards: $(STAMP) ## time of one AutoAttack that two jobs share
	@python benchmarks/shards.py

bench-libraries: $(DEVELOPER) ## time of attacks and steps, compared with other libraries and released code (after make run)
	@python benchmarks/libraries.py

bench-verdicts: $(STAMP) ## whether attacking a surrogate changes a verdict, on every digits network (after make run)
	@python benchmarks/verdicts.py

bench-gpu: $(STAMP) ## all measurements that need a GPU, in less than ten minutes
	@python benchmarks/gpu.py --json benchmarks/out/gpu.json

clean: ## delete results, states and logs; data sets stay
	@rm -rf results state logs
