# Everything is done from here; `make help` lists it. Needed: make, a Python >= 3.11, a package index.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One recipe at a time, also under `make -j`: several would run pip in the same environment.
.NOTPARALLEL:

# Newest first, but 3.11 before all: it is the version everything must pass on.
VERSIONS := 3.11 3.13 3.12 3.14 3
PYTHON := .venv/bin/python
SCALE_STORE ?= $(or $(TMPDIR),/tmp)/weft-scale-10m

# An active environment and the settings of the caller's Python have no say in ours.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := -m pip install --quiet --no-warn-script-location --editable

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: .venv/.installed-demo ## set up and run the demo: a real flow, its lineage, SQL, a failure and its repair
	@.venv/bin/weft demo

.PHONY: test
test: check ## set up and run everything that must pass, on all cores
	$(PYTHON) -m pytest --numprocesses auto --dist worksteal
	@tools/test-other-pythons

.PHONY: check
check: .venv/.installed-test ## lint, formatting, types and layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: bench
bench: .venv/.installed-test ## measure, as ratios against bare Python of the same minute
	$(PYTHON) -m benchmarks

.PHONY: bench-scale
bench-scale: .venv/.installed-test ## the same over 10 million events; the store is made once, in SCALE_STORE
	$(PYTHON) -m benchmarks append list scale lineage commands --events 10000000 --store $(SCALE_STORE)

# How long real processes are started, killed and resumed on one store.
SECONDS := 120

.PHONY: soak
soak: .venv/.installed-test ## kill real processes for SECONDS=120, then run the long sweeps
	WEFT_SOAK_SECONDS=$(SECONDS) $(PYTHON) -m pytest -s tests/simulation/test_soak.py
	@$(PYTHON) $(INSTALL) '.[demo,test,soak]' || echo "SeaweedFS cannot be installed: its tests are skipped"
	$(PYTHON) -m pytest -m slow

.PHONY: clean
clean: ## remove what make made, environments included
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps below keep a second call from installing again. They are touched last, so an interrupted
# call is repeated.

.venv/.made:
	@tools/make-venv .venv $(VERSIONS)

.venv-%/.made:
	@tools/make-venv .venv-$* $*

.venv/.installed-demo: pyproject.toml | .venv/.made
	@echo "installing weft with what the demo needs"
	@$(PYTHON) $(INSTALL) '.[demo]'
	@touch $@

.venv/.installed-test: pyproject.toml | .venv/.made
	@echo "installing weft with what the demo and the tests need"
	@$(PYTHON) $(INSTALL) '.[demo,test]'
	@touch $@ .venv/.installed-demo

.venv-%/.installed-test: pyproject.toml | .venv-%/.made
	@echo "installing weft with what the tests need into .venv-$*"
	@.venv-$*/bin/python $(INSTALL) '.[test]'
	@touch $@

.PRECIOUS: .venv-%/.made .venv-%/.installed-test
