# Two commands do all set-up from a clean clone: `make demo` and `make test`. `make check` runs the static checks.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Everything is installed at the versions that were tested, build tools included.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format lock bench pictures clean

help: ## Show this list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Portero needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	@touch $@

demo: $(VENV)/.installed ## Install into .venv and run the demo.
	$(BIN)/portero demo

test: $(VENV)/.installed ## Install what the tests need (Redis, nginx with Lua, Caddy, wrk, Node.js, Chromium) and run all of them.
	sh tests/system-packages.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS)

check: $(VENV)/.installed ## Static checks: ruff, ruff format, mypy --strict, import-linter, the rendered kong/.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/portero kong check policies/examples/survey kong/kong.yml

format: $(VENV)/.installed ## Format and fix what can be fixed.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## The benchmarks, with their targets checked (about twenty minutes; a quiet machine wanted).
	sh tests/system-packages.sh
	$(BIN)/python benchmarks/decide.py --check
	$(BIN)/python benchmarks/proxy.py --check
	$(BIN)/python benchmarks/stream.py --check
	$(BIN)/python benchmarks/identity.py --check
	$(BIN)/python benchmarks/coldstart.py --check
	$(BIN)/python benchmarks/kong.py --check

pictures: $(VENV)/.installed ## Picture Portero's pages anew for docs/pages.md; needs Chromium and a free port 8088.
	$(BIN)/python -m tests.pictures

lock: ## Write constraints.txt anew from the newest versions that fit pyproject.toml.
	sh tests/lock.sh

clean: ## Remove what was installed and cached.
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache
