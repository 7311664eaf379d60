# Each target does all of its own set-up: Python >= 3.11 and git are enough.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: help demo test test-all check bench clean
help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: .venv/core ## the complete pipeline on phantoms; prints where the report is
	$(BIN)/chestxray demo --out $(OUT)

test: check ## the tests that take minutes (what CI runs), after `check`
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: check ## all tests, the slow ones too
	$(BIN)/python -m pytest -n auto

check: .venv/dev ## formatting, lint rules, types
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

bench: .venv/dev ## speed, each figure as a ratio to something measured in the same run
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/evaluation.py

clean: ## remove the environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, '$(PYTHON)' is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python3-venv is needed: apt-get install python3-venv" >&2; exit 1; }

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,all]'
	@touch $@ .venv/core
