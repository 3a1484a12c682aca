# Tidegate. `make help` lists what there is to do.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin

.PHONY: help demo test cluster-test nightly faults faults-sample unit check up status down envs env-peers lock clean prerequisites

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: envs ## the main job on real data: ingest, train, gate, roll out, promote one model, throw out a bad one
	@$(RUN)/tidegate demo

test: envs ## unit tests, then stack tests on the real services
	@$(RUN)/pytest

faults: envs ## kill and freeze every part in the middle of rollouts, and see production stay well: an hour, a table
	@$(RUN)/python -m tests.faults

faults-sample: envs ## eight of them, the same each time: some six minutes
	@$(RUN)/pytest tests/faults/test_sample.py

unit: .venv/.ready .envs/contract/requirements.txt ## unit tests only: no network, no services, under a minute
	@$(RUN)/pytest tests/unit

cluster-test: envs ## gangs of pods on a real Kubernetes: $$TIDEGATE_KUBE, or $$KUBECONFIG
	@$(RUN)/pytest -m 'cluster or nightly' tests/cluster

nightly: envs ## what takes too long for every change: 10,000 inputs to each parser, a year backfilled twice
	@HYPOTHESIS_PROFILE=nightly $(RUN)/pytest --timeout 7200 tests/unit/contract tests/unit/files tests/unit/ingest tests/unit/validate
	@$(RUN)/pytest -m nightly

check: .venv/.ready .envs/contract/requirements.txt ## style, types, import rules and the example's files
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@$(RUN)/tidegate check

up: envs ## start the embedded stack
	@$(RUN)/tidegate up

status: .venv/.ready ## show the stack's services
	@$(RUN)/tidegate status

down: .venv/.ready ## stop the stack; no data is lost
	@$(RUN)/tidegate down

envs: prerequisites .venv/.ready .envs/train/requirements.txt .envs/serve/requirements.txt .envs/contract/requirements.txt .envs/validate/requirements.txt ## make the locked environments that run the stack

env-peers: .envs/peers/requirements.txt ## make the environment of what benchmarks measure beside us and the control plane lacks

lock: $(UV) ## resolve the locks anew from the .in files
	@for each in requirements docker/train/requirements docker/serve/requirements docker/validate/requirements docker/contract/requirements benchmarks/peers requirements-dev; do \
	  $(UV) pip compile -q --generate-hashes --no-annotate --no-header --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_35 $$each.in -o $$each.txt || exit 1; echo "locked $$each.txt"; done

clean: ## stop the stack, then remove environments and state; downloads stay in the user's cache
	@if [ -x $(RUN)/tidegate ]; then $(RUN)/tidegate down; fi
	rm -rf .venv .envs .tools var build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

prerequisites:
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  echo "Python 3.11 is missing. Install it with: sudo apt-get install python3.11 python3.11-venv   (or name yours: make PYTHON=/path/to/python3.11)"; exit 1; fi
	@if ! java -version 2>&1 | grep -qE 'version "(17|18|19|20|21)'; then \
	  echo "Java 17 is missing. Install it with: sudo apt-get install openjdk-17-jre-headless"; exit 1; fi
	@if ! command -v mvn >/dev/null; then echo "Maven is missing. Install it with: sudo apt-get install maven"; exit 1; fi

$(UV):
	@echo "making .tools (uv $(UV_VERSION))"
	@$(PYTHON) -m venv .tools
	@.tools/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

# one environment: its lock with hashes, then this project without dependencies; the control plane's bytecode is
# compiled at once, because four Airflow processes start side by side. Last comes a copy of the lock: it says that the
# environment is complete, and of what; deploying a bundle compares it with the bundle's own
define install
	@echo "making $(1) from $(2)"
	@$(UV) venv -q --clear -p $(PYTHON) $(1)
	@VIRTUAL_ENV=$(1) $(UV) pip install -q $(3) --require-hashes $(foreach lock,$(2),-r $(lock))
	@VIRTUAL_ENV=$(1) $(UV) pip install -q --no-deps -e .
	@cat $(2) > $@
endef

.venv/.ready: requirements.txt requirements-dev.txt pyproject.toml | $(UV)
	$(call install,.venv,requirements.txt requirements-dev.txt,--compile-bytecode)

.envs/peers/requirements.txt: benchmarks/peers.txt pyproject.toml | $(UV)
	$(call install,.envs/peers,benchmarks/peers.txt)

.envs/%/requirements.txt: docker/%/requirements.txt pyproject.toml | $(UV)
	$(call install,.envs/$*,docker/$*/requirements.txt)
