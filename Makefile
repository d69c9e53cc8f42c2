# Each target sets up all that it needs: a bare machine has to offer make and python3 (3.10 or newer), nothing else.
#
# TORCH picks a torch build and counts when .venv is first filled (`make clean` removes it):
#   make test TORCH=torch==2.13.0
TORCH ?=
PYTHON := .venv/bin/python

.PHONY: quickstart test lint type clean

quickstart: .venv/.installed
	$(PYTHON) examples/quickstart.py --output_dir quickstart_output

test: .venv/.installed
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest

lint: .venv/.installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

type: .venv/.installed
	$(PYTHON) -m mypy

# The stamp is written last, so an installation that broke off is done again.
.venv/.installed: setup.py
	python3 -m venv .venv
	.venv/bin/pip install --upgrade pip
ifneq ($(strip $(TORCH)),)
	.venv/bin/pip install $(TORCH)
endif
	.venv/bin/pip install $(TORCH) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info quickstart_output .pytest_cache .ruff_cache .mypy_cache
	find hf_ltkd examples tests -type d -name __pycache__ -prune -exec rm -rf {} +
