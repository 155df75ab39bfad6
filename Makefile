# make quickstart   set up, then train and evaluate Mask R-CNN on the embedded data (5 to 10 minutes on two CPU cores)
# make test         set up, then run the tests that are not marked slow, in TEST_PROCESSES processes of one thread each
# make slow         run the tests marked slow
# make lint types   the other checks of CI
#
# PYTHON is the interpreter (3.10 or later), VENV the folder of the virtual environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
QUICKSTART_OUTPUT ?= output/quickstart

.PHONY: quickstart test slow lint types setup setup-dev clean

quickstart: setup
	$(BIN)/mrcnn-zoo train --config-file configs/Quickstart/mask_rcnn_R_18_FPN_digits.yaml --overwrite \
		OUTPUT_DIR $(QUICKSTART_OUTPUT)

test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

slow: setup-dev
	bash dev/slow_checks.sh

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/mypy

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "mrcnn_zoo needs Python 3.10 or later; set it with: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "python3 -m venv failed; on Debian or Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
