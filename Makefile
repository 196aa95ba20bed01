# `make demo` and `make test` set everything up in .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-heavy test-gpu check bench demo-pair docs docs-figures notebook format clean
.DEFAULT_GOAL := demo

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

## Expert, amateur and contrastive decoding side by side, on the bundled pair.
demo: $(INSTALLED)
	$(BIN)/descant compare

## Static checks and the test suite.
test: check
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

## What takes longer than the suite may: exhaustive matrices, long texts.
test-heavy: $(INSTALLED)
	$(BIN)/python -m pytest -m heavy

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

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
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m descant.demo.train

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
