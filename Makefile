# `make` alone prints this list. Every target but `setup` calls it; nothing is installed twice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
T ?=
JOBS ?= 2
MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: help setup demo up test unit integration contracts simulation e2e chaos pythons rows node simulate mutations \
  bench bench-gate soak coverage schema lint format check lock

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make the environment (.venv) from the locked, hashed dependencies

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 …"; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked dependencies (a minute or two, once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## run the example on real workers, follow it live, stop everything
	@$(BIN)/python -m examples.demo

up: setup ## start everything and stay until Ctrl-C
	@$(BIN)/orchestrator up

test: setup ## the whole suite, by JOBS=2 processes with services of their own
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(T)

chaos: setup ## violence for some minutes; CHAOS_RUNS=20000 for half an hour and more
	@CHAOS_RUNS=$${CHAOS_RUNS:-2000} $(BIN)/python -m pytest -s tests/chaos $(T)

unit integration contracts simulation e2e: setup ## one layer; narrow it with T="-k name"
	@$(BIN)/python -m pytest tests/$@ $(T)

pythons: setup ## tests/unit and tests/contracts on each other Python from 3.11 to 3.13 that is here
	@.ci/pythons $(or $(T),tests/unit tests/contracts)

rows: setup ## write docs/contracts/rows.md from the tests and the golden files
	@$(BIN)/python -m tests.contracts.table

node: ## install the packages of tests/node, by which generated TypeScript clients are tested
	@npm ci --prefix tests/node --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-timeout=30000 || \
	  { echo "npm cannot install tests/node; without it those tests are passed over"; exit 1; }

simulate: setup ## the core under simulated violence: SEEDS=20000 plays more, SEED=123 tells one
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),2000))

mutations: setup ## damage the core in forty ways, and see that each is caught
	@$(BIN)/python -m tests.simulation.mutations

bench: setup ## what a step and a request cost, against bare Celery; B=chain_of_40 picks one; SERVER=postgresql://…
	@$(BIN)/python -m tests.bench $(if $(SERVER),--server $(SERVER)) $(B)

bench-gate: setup ## short benches as ratios; fails when one is twice what it should be
	@$(BIN)/python -m tests.bench.gate

soak: setup ## MINUTES=30 of 80 % of what the stack can bear; fails when something grows
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(T)

coverage: setup ## branches of the core that unit and integration tests go through; fails under 95 %
	@$(BIN)/coverage run -m pytest tests/unit tests/integration $(T)
	@$(BIN)/coverage report
	@for name in states "engine/*" db/transitions maintenance/sweeps "broker/*"; do \
	  $(BIN)/coverage report --include="orchestrator/$$name.py" --fail-under=95 >/dev/null || \
	  { echo "orchestrator/$$name.py is under 95 %"; exit 1; }; done

schema: setup ## print the tables, functions and policies of the database as SQL
	@$(BIN)/python -m tests.support.schema_sql

lint: setup ## ruff, mypy strict, import contracts; changes nothing
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## let ruff put the code in order
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

check: lint test bench-gate ## what CI runs, on the embedded servers

# The second is made of the first, so that both have the same versions.
LOCK := uv pip compile pyproject.toml --extra build --extra examples --extra s3 --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

lock: ## lock what pyproject.toml asks for; UPGRADE=1 takes the newest of everything (needs uv)
	@$(LOCK) --extra local --extra dev $(if $(UPGRADE),--upgrade) -o requirements-dev.lock
	@$(LOCK) -c requirements-dev.lock -o requirements.lock
