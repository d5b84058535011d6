# make train   train the default agent on Pendulum-v1 until it is solved (minutes)
# make test    run the tests, on four cores at most (ARGS="-n 0" for one process)
# make check   lint, types and the import law
# make install make the .venv with the command .venv/bin/dyna, and nothing else
# make clean   remove the .venv and what was built; runs/ stays
#
# train, test and check install first where needed. `make train ARGS="--seed 3"` and `make test ARGS="-k replay"` pass
# arguments on. Linux wheels of torch carry CUDA, several GB; for the CPU build set pip's own PIP_EXTRA_INDEX_URL to
# PyTorch's CPU index in the first call.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
ARGS ?=

# The interpreter of the .venv: plain python3 where its version is supported, else the newest that is.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; \
	do $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

.PHONY: install train test check clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10, 3.11, 3.12 or 3.13 was found on the PATH: install one, or name" \
		"one with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { echo "$(PYTHON) is no Python 3.10, 3.11, 3.12 or 3.13: name one with" \
		"make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment: install" \
		"its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

train: $(STAMP)
	$(BIN)/dyna train --env Pendulum-v1 --until -200 $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

clean:
	rm -rf $(VENV) build dist dyna.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find algorithms dyna environments tests -name __pycache__ -type d -prune -exec rm -rf {} +
