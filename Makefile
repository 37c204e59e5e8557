# Everything runs in .venv, made on first use. `make` alone prints the targets.

VENV         := .venv
BIN          := $(VENV)/bin
PIP          := $(BIN)/python -m pip --disable-pip-version-check
# The accelerator of this machine (cpu, gpu or tpu), for `make install` and `make docker-build`.
ACCELERATOR  ?= cpu
WORKERS      ?= 2
OUT          ?= runs/tiny
CHECKPOINT   ?= $(OUT)
DOCKER       ?= docker
PYTEST_ARGS  ?=
BENCH_ARGS   ?=
STUDY_ARGS   ?=
CHAOS_ARGS   ?=
# Set to `--upgrade` to move the lock to the newest versions that pyproject.toml admits.
UPGRADE      ?=

# The Python that makes .venv: the first on the path that is new enough, unless PYTHON names one.
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python; do \
	$$p $(IS_NEW_ENOUGH) && { echo $$p; break; }; done)

CREATED   := $(VENV)/.created
RUNTIME   := $(VENV)/.installed-$(ACCELERATOR)
DEV       := $(VENV)/.installed-dev
LOCKS     := requirements.lock.txt requirements.cpu.lock.txt requirements.gpu.lock.txt \
	requirements.tpu.lock.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev test test-cov lint format types lock docker-build train-tiny \
	validate-model bench chaos study clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(RUNTIME)  ## what a run needs, in .venv (ACCELERATOR=cpu, gpu or tpu)

install-dev: $(DEV)  ## what a run and the tests need, in .venv

test: $(DEV)  ## run every test (PYTEST_ARGS='-k name')
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-cov: $(DEV)  ## run every test and show the lines that none reached
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term-missing $(PYTEST_ARGS)

lint: $(DEV)  ## style, formatting and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --cache-dir .cache/import-linter

format: $(DEV)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)  ## check the types
	$(BIN)/mypy

train-tiny: $(RUNTIME)  ## train the tiny preset on text that every machine has (OUT=runs/tiny)
	$(BIN)/python -m rtdlm.train --config configs/tiny.yaml --text python-library --out $(OUT)

validate-model: $(RUNTIME)  ## evaluate a checkpoint (CHECKPOINT=runs/tiny)
	$(BIN)/python -m rtdlm.evaluate --checkpoint $(CHECKPOINT)

bench: $(RUNTIME)  ## time every benchmark against PyTorch, which must be installed (BENCH_ARGS=--smoke)
	$(BIN)/python -m benchmarks all $(BENCH_ARGS)

chaos: $(RUNTIME)  ## 200 faults around a run of two processes: what is lost? (CHAOS_ARGS=--smoke)
	$(BIN)/python -m benchmarks chaos $(CHAOS_ARGS)

study: $(RUNTIME)  ## what each ingredient of the training recipe is worth (STUDY_ARGS=--smoke)
	$(BIN)/python -m studies recipe $(STUDY_ARGS)

docker-build:  ## build the training image (ACCELERATOR=cpu, gpu or tpu)
	$(DOCKER) build --file Dockerfile.train --target $(ACCELERATOR) --tag rtdlm-train:$(ACCELERATOR) .

clean:  ## remove caches and build outputs; .venv and runs/ stay
	rm -rf .cache .hypothesis build dist htmlcov docs/_build *.egg-info
	find rtdlm tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------- the environment

$(CREATED):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found on the path:" \
		"install one, or name it with 'make PYTHON=/path/to/python3.12 ...'." >&2; exit 1; }
	@$(PYTHON) $(IS_NEW_ENOUGH) || { echo "PYTHON=$(PYTHON) is not a Python 3.11 or newer:" \
		"name one with 'make PYTHON=/path/to/python3.12 ...'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv and pip:" \
		"install them (on Debian and Ubuntu 'apt install python3-venv')." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME): requirements.$(ACCELERATOR).lock.txt pyproject.toml | $(CREATED)
	$(install-lock)

$(DEV): requirements.lock.txt pyproject.toml | $(CREATED)
	$(install-lock)

define install-lock
@echo "Installing $< in $(VENV) ..."
@$(PIP) install -qq --require-hashes --requirement $<
@$(PIP) install -qq --no-deps --editable .
@touch $@
endef

# ---------------------------------------------------------------------------------------- the lock

# One resolution for every Python and platform; each accelerator's lock agrees with the whole one.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header $(UPGRADE)

lock: $(DEV)  ## write the locks anew from pyproject.toml (UPGRADE=--upgrade: newest versions)
	$(UV_COMPILE) --extra dev --extra data --extra export --output-file requirements.lock.txt
	$(UV_COMPILE) --extra data --constraint requirements.lock.txt --output-file requirements.cpu.lock.txt
	$(UV_COMPILE) --extra data --extra gpu --constraint requirements.lock.txt --output-file requirements.gpu.lock.txt
	$(UV_COMPILE) --extra data --extra tpu --constraint requirements.lock.txt --output-file requirements.tpu.lock.txt
