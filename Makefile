# Each target sets up what it needs: a fresh machine wants only Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_VENV ?= .venv-docs
DOCS_INSTALLED := $(DOCS_VENV)/.installed
DEMO ?= demo
# Test files run in so many processes, each of which wants up to 3 GB; a file stays in one.
WORKERS ?= 2

.PHONY: help setup demo test test-services test-long lint types layers check bench docs clean

help:
	@echo "make demo           set up, write a synthetic world, map it, print where the results are"
	@echo "make test           set up, lint, type-check, run the unit, integration and memory tests"
	@echo "make test-services  tests against real servers"
	@echo "make test-long      large or slow tests"
	@echo "make bench          benchmarks: figures against a named naive path; minutes, 5 GB of disk"
	@echo "make docs           the documentation as web pages, in site/"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]" --group test --group lint
	touch $@

demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/lczcube synth $(DEMO)/world --seed 7
	$(BIN)/lczcube run $(DEMO)/world/world.toml $(DEMO)/run

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-services: $(INSTALLED)
	$(BIN)/python -m pytest -m services || { [ $$? -eq 5 ] && echo "no tests of this tier yet"; }

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -m long --timeout=3600 || { [ $$? -eq 5 ] && echo "no tests of this tier yet"; }

check: lint types layers

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python benchmarks/aggregate.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/npy.py
	$(BIN)/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/large.py

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

$(DOCS_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group docs
	touch $@

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(DEMO) site
