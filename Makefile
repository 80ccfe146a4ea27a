# Everything is set up in .venv by the first target that needs it: what runs, then what tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STAMP := $(VENV)/.ready-for-tests

.PHONY: goldens demo serve test lint types check soak chaos bench docs clean

demo: $(READY)  ## two clusters, forty devices, one embedded database; HEADLESS=1 prints and ends
	@$(BIN)/python -m deploy.demo $(if $(filter-out 0,$(HEADLESS)),--headless)

serve: $(READY)  ## run one control server on the embedded database
	$(BIN)/hs-node serve

test: $(STAMP)  ## the whole test suite, real PostgreSQL and real Tailscale clients included
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder

soak: $(STAMP)  ## tests that last a minute or load the machine; not part of `make test`
	$(BIN)/python -m pytest -n 2 --dist loadfile -rA -m soak

chaos: $(STAMP)  ## kills, cuts and moves again and again; not part of `make test`
	$(BIN)/python -m pytest -n 2 --dist loadfile -rA -m chaos

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy app node console acs bench

check: lint types test

goldens: $(STAMP)  ## writes the pictures of the console anew; look at the difference
	HS_WRITE_GOLDENS=1 $(BIN)/python -m pytest tests/console -k "goldens or asked_once or what_a_policy_changes" -q

bench: $(STAMP)  ## figures for bench/RESULTS.md
	$(BIN)/python -m bench

docs: $(STAMP)  ## pictures of the console, docs/console/
	$(BIN)/python -m docs.console.make_pictures

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VENV) with what the product needs"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $(READY)

$(STAMP): $(READY)
	@echo "adding what the tests need"
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
