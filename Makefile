# Everything installs itself into .venv from the pinned locks in requirements/.
.DEFAULT_GOAL := help
.PHONY: help run gallery test test-all check mutate bench lock clean
PY := .venv/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check
ONCE ?=
export PYTHONWARNINGS ?=

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: .venv/.pack  ## build the example packages, serve them, show an answer of each (ONCE=1: then exit)
	@$(PY) -m gallery show $(if $(ONCE),--once)

gallery: .venv/.pack  ## build the example packages into var/repository
	@$(PY) -m gallery build

test: check .venv/.browser gallery  ## everything that has to hold, in minutes
	$(PY) -m pytest -m "not long"

test-all: check .venv/.browser gallery  ## the tests that take long, too
	$(PY) -m pytest

check: .venv/.dev  ## style, types, layers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

mutate: .venv/.dev  ## switch each protection off in turn: one that no test misses fails
	$(PY) tools/mutate.py

bench: .venv/.dev  ## side by side with other servers, on this machine
	$(PY) -m bench.run

.venv/bin/python:
	python3 -m venv .venv

.venv/.pack: requirements/pack.lock pyproject.toml | .venv/bin/python
	@echo "installing into .venv"
	@$(PIP) -r requirements/pack.lock
	@$(PIP) --no-deps -e .
	@touch $@

.venv/.dev: requirements/dev.lock .venv/.pack
	@$(PIP) -r requirements/dev.lock
	@touch $@

.venv/.browser: .venv/.dev
	@command -v chromium >/dev/null || tools/install_chromium.sh || echo "no Chromium: tests that drive a browser are skipped"
	@touch $@

lock:  ## pin the newest versions that pyproject.toml allows
	tools/lock.sh

clean:  ## remove what was built and installed
	rm -rf .venv var
