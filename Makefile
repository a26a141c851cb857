# The commands of the repository. `make` alone lists them; every target sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: help install demo test check clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch .venv/installed

install: .venv/installed ## make .venv with everything that constraints.txt pins

demo: .venv/installed ## sample study -> 3 splits -> fine-tune -> perplexity -> simulated chats -> scores -> table
	$(BIN)/chatbench demo --out demo

test: .venv/installed ## run the tests, documentation examples and notebooks included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests src -n $(JOBS)

check: .venv/installed ## ruff (lint and format), mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove .venv, caches and the demo's results
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
