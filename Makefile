# `make serve` and `make test` set up everything in .venv and are quick when there is nothing to do.
# Needs Python >= 3.11 and make.
#
#   PYTHON           the interpreter that .venv is made from
#   TORCH_INDEX_URL  a package index to take torch from, such as PyTorch's own with its CPU wheels
#   MODEL, ARGS      what `make serve` serves and further options of `octavo serve`
#   BENCH_ARGS       options of benchmarks/serving.py and of `octavo bench serve`
#   COMPARE_ARGS     options of benchmarks/compare.py
#   PYTEST_ARGS      options of pytest
#   SOAK_ARGS        options of tests/chaos/soak

PYTHON ?= python3
TORCH_INDEX_URL ?=
MODEL =
ARGS =
BENCH_ARGS =
COMPARE_ARGS =
PYTEST_ARGS =
SOAK_ARGS =

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What to run and what to test with are two stamps: serving needs no development tools.
VENV_STAMP := .venv/.created
SERVE_STAMP := .venv/.installed-serve
DEV_STAMP := .venv/.installed-dev

LOCK := $(BIN)/uv pip compile --quiet --config-file deploy/uv.toml --upgrade --output-file

# Without an NVIDIA GPU one pinned release is asked for. `torch>=2.11` would let pip replace a CPU
# build that is at hand by a newer CUDA build of several gigabytes that nothing here could use.
ifneq ($(TORCH_INDEX_URL),)
TORCH := --index-url $(TORCH_INDEX_URL) 'torch>=2.11,<2.14'
else ifeq ($(shell uname -s)$(wildcard /dev/nvidia0)$(shell command -v nvidia-smi 2>/dev/null),Linux)
TORCH := torch==2.13.0
endif

.DEFAULT_GOAL := help
.PHONY: help serve install test test-slow soak lint lock bench compare clean
.DELETE_ON_ERROR:

help:
	@echo 'make serve      set up and serve a model on http://127.0.0.1:8000  (MODEL=... ARGS=...)'
	@echo 'make test       set up and run the tests'
	@echo 'make test-slow  run the tests that take minutes'
	@echo 'make soak       10,000 random requests to engine and server; at most 10 minutes  (SOAK_ARGS=...)'
	@echo 'make lint       ruff and mypy'
	@echo 'make lock       renew what the container image is made of, with hashes (deploy/*.lock)'
	@echo 'make bench      time the server over HTTP  (BENCH_ARGS=...)'
	@echo 'make compare    the server and others side by side  (COMPARE_ARGS=...)'
	@echo 'make install    set up .venv for development'
	@echo 'make clean      remove .venv and all caches below this folder'

serve: $(SERVE_STAMP)
	@$(BIN)/octavo serve $(MODEL) $(ARGS)

install: $(DEV_STAMP)

# Two files at a time: most tests wait for another process.
test: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

soak: $(DEV_STAMP)
	$(BIN)/python tests/chaos/soak $(SOAK_ARGS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(VENV_STAMP)
	@$(PIP) install --quiet 'uv>=0.13,<0.14'
	@$(LOCK) deploy/requirements.lock pyproject.toml clients/python/pyproject.toml
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
	  ["build-system"]["requires"], sep="\n")' | $(LOCK) deploy/build.lock -

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/serving.py $(if $(MODEL),--model $(MODEL)) $(BENCH_ARGS)

compare: $(DEV_STAMP)
	$(BIN)/python benchmarks/compare.py $(COMPARE_ARGS)

# A stamp and not the interpreter's file: that exists before pip does, and an interrupted set-up has
# to be finished by the next one.
$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Octavo needs Python 3.11 or newer; say which one: make PYTHON=python3.12 ...' >&2; \
	  exit 1; }
	@echo 'Making .venv'
	@$(PYTHON) -m venv .venv
	@touch $@

# torch first and not quietly: it is the long download.
$(SERVE_STAMP): $(VENV_STAMP) pyproject.toml clients/python/pyproject.toml
	@echo 'Installing Octavo into .venv (some minutes the first time)'
	@$(if $(TORCH),$(PIP) install $(TORCH))
	@$(PIP) install --quiet -e . -e clients/python
	@touch $@

$(DEV_STAMP): $(SERVE_STAMP)
	@echo 'Installing the development tools into .venv'
	@$(PIP) install --quiet -e '.[dev]' -e clients/python
	@touch $@

clean:
	rm -rf .venv build dist clients/python/dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find server engine clients tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
