# Each target does all of its own set-up: Python >= 3.11 and git are enough.
PYTHON ?= python3
BIN := .venv/bin
RELEASE := .venv-release/bin
SMOKE := .venv-smoke/bin
DOCS := .venv-docs/bin
OUT ?= runs/demo
# Packages are installed from lock files, with their hashes; then this one, without dependencies.
PIP_INSTALL = $(1)/python -m pip install --quiet --disable-pip-version-check
LOCKED = $(call PIP_INSTALL,$(1)) --require-hashes -r
EDITABLE = $(call PIP_INSTALL,$(BIN)) --no-deps --no-build-isolation -e .
COMPILE = $(RELEASE)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--generate-hashes --constraint constraints.txt --custom-compile-command "make lock"

.PHONY: help demo test test-all check bench docs screenshots notice lock release clean
help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: .venv/core ## the complete pipeline on phantoms; prints where the report is
	$(BIN)/chestxray demo --out $(OUT)

test: check ## the tests that take minutes (what CI runs), after `check`
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: check ## all tests, the slow ones too
	$(BIN)/python -m pytest -n auto --dist worksteal

# bandit reads what is installed. Not tests and benchmarks: they assert, and start the programs that
# they test. A line of src that is excluded has `nosec` with its rule, and the reason beside it.
check: .venv/dev ## formatting, lint rules, types, security rules of bandit
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive src

bench: .venv/dev ## speed, each figure as a ratio to something measured in the same run
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/evaluation.py

docs: .venv-docs/done ## build/site: the documentation, strict, which loads nothing from elsewhere
	NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs build --strict --quiet
	$(DOCS)/python scripts/check_site.py build/site

screenshots: .venv/dev ## docs/pictures, from the program as it is; needs Chromium and RUN=a demo's run
	$(BIN)/python scripts/screenshots.py $(or $(RUN),$(OUT)/run) docs/pictures $(BUNDLE)

notice: .venv/core ## NOTICE: the licences of all packages, as they state them
	$(BIN)/python scripts/notice.py

lock: .venv-release/done ## renew the lock files from pyproject.toml and constraints.txt
	printf 'hatchling\neditables\n' | $(COMPILE) pyproject.toml - --extra all -o requirements.lock
	$(COMPILE) pyproject.toml --extra all --extra dev -o requirements-dev.lock
	$(COMPILE) pyproject.toml --extra report --extra serve --extra pacs -o requirements-light.lock
	printf 'hatchling\neditables\n' | $(COMPILE) pyproject.toml - --extra docs -o requirements-docs.lock
	$(COMPILE) --group pyproject.toml:release -o requirements-release.lock

# The wheel is installed into an environment of its own, without torch. What the smoke test reads
# there, a small model and its export, is made here, with torch.
release: check .venv-release/done ## dist/: sdist, wheel, bill of materials (CycloneDX), all tried
	rm -rf dist build/smoke .venv-smoke
	$(BIN)/python scripts/notice.py --check
	$(RELEASE)/python -m build --no-isolation
	$(RELEASE)/twine check --strict dist/*
	$(BIN)/python -c "import chestxray; print(chestxray.__version__)" >dist/.version
	sed "s/^dynamic = .*/version = \"$$(cat dist/.version)\"/" pyproject.toml >dist/.pyproject.toml
	$(RELEASE)/cyclonedx-py requirements requirements.lock --pyproject dist/.pyproject.toml \
	  --output-reproducible -o dist/chestxray-$$(cat dist/.version).cdx.json
	rm dist/.version dist/.pyproject.toml
	cd dist && sha256sum * >SHA256SUMS
	$(BIN)/python scripts/smoke_test.py make build/smoke
	$(PYTHON) -m venv .venv-smoke
	$(call LOCKED,$(SMOKE)) requirements-light.lock
	$(call PIP_INSTALL,$(SMOKE)) --no-deps --no-index dist/*.whl
	$(SMOKE)/python scripts/smoke_test.py use build/smoke

clean: ## remove the environments and caches
	rm -rf .venv .venv-release .venv-smoke .venv-docs build .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, '$(PYTHON)' is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python3-venv is needed: apt-get install python3-venv" >&2; exit 1; }

.venv/core: pyproject.toml requirements.lock | .venv/bin/python
	$(call LOCKED,$(BIN)) requirements.lock
	$(EDITABLE)
	@touch $@

.venv/dev: pyproject.toml requirements-dev.lock | .venv/bin/python
	$(call LOCKED,$(BIN)) requirements-dev.lock
	$(EDITABLE)
	@touch $@ .venv/core

.venv-release/done: requirements-release.lock
	@$(PYTHON) -m venv .venv-release
	$(call LOCKED,$(RELEASE)) requirements-release.lock
	@touch $@

.venv-docs/done: pyproject.toml requirements-docs.lock
	@$(PYTHON) -m venv .venv-docs
	$(call LOCKED,$(DOCS)) requirements-docs.lock
	$(call PIP_INSTALL,$(DOCS)) --no-deps --no-build-isolation -e .
	@touch $@
