# What users and contributors run. Each target installs what it needs into .venv, once:
# again only when pyproject.toml changes. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint docs notebook clean

help:
	@echo "make demo      train, prune, export and measure a small network"
	@echo "make test      run all tests"
	@echo "make lint      check style and types"
	@echo "make docs      make a site of the documentation in build/docs"
	@echo "make notebook  run the notebooks on a short setting"
	@echo "make clean     remove $(VENV)"

demo: $(VENV)/installed-micro
	$(BIN)/kprune demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet \
	    -c docs . build/docs
	@echo "build/docs/docs/index.html"

notebook: $(VENV)/installed-notebook
	$(BIN)/python notebooks/run.py

clean:
	rm -rf $(VENV)

# One stamp per extra.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "Installing kprune[$*] into $(VENV); TensorFlow is a large download ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	    echo "kprune needs Python 3.11 or newer; $(PYTHON) is" \
	        "$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
