# Two commands do everything on a bare machine: `make demo` and `make test`. Each sets up first if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.PHONY: setup demo test test-all check bench campaign sbom lock clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup

demo: setup
	$(BIN)/python -m zhaiju.demo

test: setup
	scripts/test -m "not slow"

test-all: setup
	scripts/test -m "not slow"
	scripts/test -m slow

check: setup
	scripts/check

bench: setup
	scripts/bench

campaign: setup
	scripts/campaign

sbom: setup
	$(BIN)/python scripts/sbom --licences docs/licences.md

lock:
	PYTHON=$(PYTHON) scripts/lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
