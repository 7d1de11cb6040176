# Two commands do everything on a bare machine: `make demo` and `make test`. Each sets up first if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.PHONY: setup demo test check bench campaign clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup

demo: setup
	$(BIN)/python -m zhaiju.demo

test: setup
	scripts/test

check: setup
	scripts/check

bench: setup
	scripts/bench

campaign: setup
	scripts/campaign

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
