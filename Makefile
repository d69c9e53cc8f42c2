# Each target sets up all that it needs: a bare machine has to offer make and python3 (3.10 or newer), nothing else.
#
# TORCH picks a torch build (and what has to fit it) and counts when the environment is first filled (`make clean`
# removes it):
#   make test TORCH=torch==2.13.0
# VENV is the environment's folder, JOBS the number of processes that run TESTS (all, unless named):
#   make test VENV=.venv_newest TORCH="torch torchvision timm" JOBS=4 TESTS=tests/losses
TORCH ?=
VENV ?= .venv
JOBS ?= 2
TESTS ?=
PYTHON := $(VENV)/bin/python

.PHONY: quickstart test lint type clean

quickstart: $(VENV)/.quickstart
	$(PYTHON) examples/quickstart.py --output_dir quickstart_output

test: $(VENV)/.dev
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(VENV)/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(VENV)/bin/lint-imports

type: $(VENV)/.dev
	$(PYTHON) -m mypy

# A stamp is written last, so an installation that broke off is done again.
$(VENV)/.quickstart: setup.py
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --upgrade pip
ifneq ($(strip $(TORCH)),)
	$(VENV)/bin/pip install $(TORCH)
endif
	$(VENV)/bin/pip install $(TORCH) -e ".[examples]"
	touch $@

$(VENV)/.dev: $(VENV)/.quickstart
	$(VENV)/bin/pip install $(TORCH) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info quickstart_output .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find hf_ltkd examples tests -type d -name __pycache__ -prune -exec rm -rf {} +
