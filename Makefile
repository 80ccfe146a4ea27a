# Everything is set up in .venv by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: serve test lint types check bench docs soak chaos clean

serve: $(STAMP)  ## run one control server on the embedded database
	$(BIN)/hs-node serve

test: $(STAMP)  ## the whole test suite, real PostgreSQL and real Tailscale clients included
	$(BIN)/python -m pytest -m "not soak and not chaos"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy app node console acs

check: lint types test

bench: $(STAMP)  ## figures for bench/RESULTS.md
	$(BIN)/python -m bench

docs: $(STAMP)  ## pictures of the console, docs/console/
	$(BIN)/python -m docs.console.make_pictures

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

chaos: $(STAMP)
	$(BIN)/python -m pytest -m chaos

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
