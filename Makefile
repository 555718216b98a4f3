# Two commands do everything from a fresh clone: `make run` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# pip knows where local wheels lie; uv does not read pip's configuration.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || $(PYTHON) -m pip config get :env:.find-links 2>/dev/null)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
# Every stage is a process of its own: compiled bytecode saves each of them a part of its start.
unexport PYTHONDONTWRITEBYTECODE
export GX_ANALYTICS_ENABLED := false
export TOKENIZERS_PARALLELISM := false
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch_extensions

.PHONY: help env run ui start restore test test-all ablation check format requirements clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

env: $(STAMP) ## Create the environment in .venv

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(FIND_LINKS),--find-links $(FIND_LINKS)) -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@# DeepSpeed compiles its CPU communication at first use; done here, no run has to wait for it.
	DS_ACCELERATOR=cpu python -c "from deepspeed.accelerator import get_accelerator as a; a().create_op_builder('ShareMemCommBuilder').load()" >/dev/null
	@touch $@

run: $(STAMP) ## Run the pipeline for the variants of params.yaml, then show the report
	@fusion settings --write
	dvc repro
	@fusion report

ui: $(STAMP) ## Start the page with its server, workers and deployments (http://127.0.0.1:4200)
	@python -m flows.ui $(UI)

start: $(STAMP) ## Start a deployment on it: make start RUN=data/nightly [WITH="variants=[tiny]"]
	@python -m flows.start $(RUN) $(WITH)

restore: $(STAMP) ## Bring code, data and checkpoints of COMMIT=... back, verified ([TO=FOLDER] [REMOTE=NAME])
	@test -n "$(COMMIT)" || { echo 'say which: make restore COMMIT=<hash, tag or branch>' >&2; exit 2; }
	@fusion restore "$(COMMIT)" $(if $(TO),--to "$(TO)") $(if $(REMOTE),--remote "$(REMOTE)")

test: $(STAMP) ## Pass the tests (<= 15 minutes on 2 cores)
	@# Two processes, a file of tests in one: more of them would ask for more memory than small machines have.
	python -m pytest tests -n 2 --dist loadfile

test-all: $(STAMP) ## Pass the tests, the long ones too
	python -m pytest tests -m ""

ablation: $(STAMP) ## What each part of the model adds: 12 runs of tiny, about 2 hours; goes on after a kill
	python -m benchmarks.ablation

check: $(STAMP) ## Lint and type check
	ruff check .
	ruff format --check .
	mypy

format: $(STAMP) ## Format the code
	ruff format .
	ruff check --fix .

requirements: $(STAMP) ## Compile requirements.txt anew from pyproject.toml
	@# Compiled against the CPU build of torch, which needs no CUDA packages; the pin in the file fits both builds.
	sed -i -E 's/^(torch==[0-9.]+)$$/\1+cpu/' requirements.txt
	uv pip compile pyproject.toml --extra dev --python-version 3.11 $(if $(FIND_LINKS),--find-links $(FIND_LINKS)) \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet --output-file requirements.txt
	sed -i -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements.txt

clean: ## Remove what runs leave behind; outputs stay in DVC's cache
	rm -rf scratch runs reports .pytest_cache .hypothesis .mypy_cache .ruff_cache
