# Every target makes .venv itself when it is missing, and again when pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# Tests on real data and on the published code's numbers run where these lie beside the repository.
ifneq ($(wildcard ../shared/data/.),)
export MOLEBLEND_DATA ?= ../shared/data
endif
ifneq ($(wildcard ../shared/reference/fixture_small.json),)
export MOLEBLEND_PARITY_FIXTURE ?= ../shared/reference/fixture_small
endif

# mkdocs-material announces its end of life on every build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest test-newest audit check docs clean

help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED) ## pretrain, fine-tune and predict on 2,000 molecules; report in demo/report.html
	$(BIN)/moleblend demo --out demo

# One thread per worker, so that the two do not fight for the same cores.
test: $(INSTALLED) ## run every test but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile -rs

test-slow: $(INSTALLED) ## run the tests that take more than a minute each
	$(BIN)/pytest -m slow -rs

test-lowest: ## run the tests with the lowest versions that pyproject.toml allows
	.ci/versions lowest

test-newest: ## run the tests with the newest versions that pyproject.toml allows
	.ci/versions newest

audit: $(INSTALLED) ## known vulnerabilities of the installed packages; list of components in sbom.json
	.ci/audit

check: $(INSTALLED) ## format, lint, import directions, types, documentation
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/ty check src
	$(BIN)/python -m benchmarks.results.tables --check
	$(MAKE) --no-print-directory docs

# Never with --quiet: it hides warnings from --strict too, and the build passes.
docs: $(INSTALLED) ## build the documentation: site/index.html
	$(BIN)/mkdocs build --strict

clean: ## remove what the other targets made, except .venv
	rm -rf .venv-lowest .venv-newest .venv-audit sbom.json demo site build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(INSTALLED): pyproject.toml
	@echo "Installing into .venv, which takes some minutes the first time."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@
