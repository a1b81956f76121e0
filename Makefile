# Everything there is to do here, by name: `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
UV := .tools/bin/uv
export UV_PYTHON_DOWNLOADS := never
# Tests start programs by the hundred: each is to find what was compiled before.
unexport PYTHONDONTWRITEBYTECODE
PARTS := contract app operator cli tests/support
LOCKED := $(addsuffix /pyproject.toml,. $(PARTS))

# --- set-up ------------------------------------------------------------------------------------------------

$(UV): requirements-uv.lock
	@echo "installing uv into .tools"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --upgrade --require-hashes --target .tools -r requirements-uv.lock
	@touch $@

.venv/installed: $(UV) requirements.lock $(LOCKED)
	@echo "installing the locked packages into .venv (about 1.5 GB the first time)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(addprefix -e ./,$(PARTS))
	@touch $@

.PHONY: install
install: .venv/installed  ## set up .venv with everything locked (the other targets do it by themselves)

# --- the main job ------------------------------------------------------------------------------------------

.PHONY: demo
demo: .venv/installed  ## train, pack, serve, roll v1 to v2 under traffic, refuse v3; KEEP=1 leaves it running
	@$(BIN)/python examples/demo/demo.py $(if $(KEEP),--keep)

# --- tests -------------------------------------------------------------------------------------------------

.PHONY: test
test: .venv/installed  ## everything that needs no engine and no cluster (at most 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -m "not lab and not soak and not hardening and not unproven" -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

.PHONY: test-hardening
test-hardening: .venv/installed  ## abuse, hostile models, outages of the database: what `make test` has no time for
	@$(BIN)/python -m pytest -m "hardening and not soak and not unproven and not alone" -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

.PHONY: test-alone
test-alone: .venv/installed  ## what measures time, one test after the other: the machine must do nothing else
	@$(BIN)/python -m pytest -m "alone and not lab and not soak and not unproven" $(ARGS)

.PHONY: test-unproven
test-unproven: .venv/installed  ## tests that need no lab, of what is not known to hold yet
	@$(BIN)/python -m pytest -m "unproven and not lab and not soak" $(ARGS) || { [ $$? = 5 ] && echo "no test is marked unproven"; }

.PHONY: evidence
evidence: .venv/installed  ## measure the promises and write docs/evidence.md
	@WINDLASS_EVIDENCE=1 $(BIN)/python -m pytest -m "evidence and not lab and not soak" $(ARGS)

.PHONY: soak
soak: test-hardening test-alone  ## the long runs: abuse and measurements, repetitions, a kill at every write, more random histories, the lab from nothing
	@HYPOTHESIS_PROFILE=soak WINDLASS_EVIDENCE=1 $(BIN)/python -m pytest -m "soak and not lab" --timeout 7200 $(ARGS)
	@HYPOTHESIS_PROFILE=soak WINDLASS_SOAK=1 $(BIN)/python -m pytest operator/tests/engine operator/tests/directory/test_killed_at_each_write.py --timeout 7200 $(ARGS)
	@$(MAKE) soak-lab

# --- habits ------------------------------------------------------------------------------------------------

.PHONY: lint
lint: .venv/installed  ## style, types, which part may import which, Dockerfiles
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/hadolint docker/*.Dockerfile
	@$(BIN)/python -m windlass_contract.schemas --repository . --check
	@$(BIN)/python charts/generate.py --check

.PHONY: format
format: .venv/installed  ## put the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: schemas
schemas: .venv/installed  ## generate the JSON Schemas, the CRD and its reference from the contract's models
	@$(BIN)/python -m windlass_contract.schemas --repository .

.PHONY: charts
charts: .venv/installed  ## generate the charts' values.schema.json and tables of values from values.yaml
	@$(BIN)/python charts/generate.py

.PHONY: k8s
k8s: .venv/installed  ## generate the plain manifests below k8s/ from the charts (needs Helm; HELM=path names one)
	@$(BIN)/python k8s/generate.py

.PHONY: lock
lock: $(UV)  ## resolve the dependencies anew (ARGS="--upgrade" takes newer versions)
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  $(foreach part,contract server operator cli testing,--no-emit-package windlass-$(part)) --group dev \
	  pyproject.toml -o requirements.lock $(ARGS)
	@$(MAKE) --no-print-directory image-locks

.PHONY: clean
clean:  ## remove what the targets above made, but not the demo's models
	@rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

-include tests/lab/lab.mk
-include docker/docker.mk
-include bench/bench.mk

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*  ## (.*)/\1\t\2/' | expand -t 17
