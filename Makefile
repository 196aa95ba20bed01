# `make demo` and `make test` set everything up in .venv by themselves, at the versions that constraints.txt locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNNING := $(VENV)/.installed
INSTALLED := $(VENV)/.installed-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-heavy test-gpu test-versions lock options check bench demo-pair docs docs-figures notebook format clean
.DEFAULT_GOAL := demo

# setuptools first: the build of descant itself then takes the locked one too.
$(RUNNING): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with what running needs …"
	@start=$$(date +%s) && \
	{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(INSTALL) setuptools && $(INSTALL) --no-build-isolation -e . && \
	echo "Set up in $$(($$(date +%s) - start)) s."
	@touch $@

$(INSTALLED): $(RUNNING)
	@echo "Adding to $(VENV) what tests and documentation need …"
	@start=$$(date +%s) && \
	$(INSTALL) --no-build-isolation -e '.[dev]' && \
	echo "Added in $$(($$(date +%s) - start)) s."
	@touch $@

## Expert, amateur and contrastive decoding side by side, on the bundled pair.
demo: $(RUNNING)
	@start=$$(date +%s) && $(BIN)/descant compare && echo "Loaded and decoded in $$(($$(date +%s) - start)) s."
	@echo
	@echo 'Next, type:'
	@echo '  $(BIN)/descant generate "What animal did Hugo Goldley keep?"    a prompt of your own'
	@echo '  $(BIN)/descant methods                                          every method, with its paper and cost'
	@echo '  $(BIN)/descant generate --help                                  every option; --expert and --amateur: your models'
	@echo 'README.md goes on from there.'

## Static checks and the test suite.
test: check
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

## The tests that touch transformers and torch, at each corner of the supported versions (an hour, gigabytes of torch).
test-versions: $(INSTALLED)
	$(BIN)/python -m tests.versions

## All dependencies, direct and indirect, at the newest releases that pyproject.toml allows.
lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra dev --no-annotate \
		--custom-compile-command 'make lock' --output-file constraints.txt pyproject.toml

## What takes longer than the suite may: exhaustive matrices, long texts.
test-heavy: $(INSTALLED)
	$(BIN)/python -m pytest -m heavy

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

## The options that methods' parts declare, listed for the command line: after a part has changed.
options: $(INSTALLED)
	$(BIN)/python -m descant.cli.collect

## Style, types, layers, unused code.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

## Ratios to transformers' own decoding, written to benchmarks/results/.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

## Train the bundled pair from scratch (at most 40 minutes on two cores).
demo-pair: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m descant.lab.pair.train

## The documentation, built strictly into site/; `python -m http.server -d site` shows it.
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

## The guide's figures, from decodes of the bundled pair.
docs-figures: $(INSTALLED)
	$(BIN)/python -m docs.figures

## The notebook's outputs, from running it.
notebook: $(INSTALLED)
	$(BIN)/python -m notebooks.refresh

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis
