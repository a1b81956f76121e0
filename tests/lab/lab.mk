# The container engine and the cluster, and the tests on them. Included by the Makefile.
LAB_COMMAND := PYTHONPATH=tests/lab PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m windlass_lab

.PHONY: lab
lab:  ## a real Docker Engine and a kind cluster (WORKERS=2; EXTRAS=all; LAB=system or LAB=built); says what it installs
	@$(LAB_COMMAND) up $(if $(WORKERS),--workers $(WORKERS)) $(if $(EXTRAS),--extras $(EXTRAS))

.PHONY: lab-tools
lab-tools:  ## only build what a built lab is made of (20 minutes the first time); starts nothing
	@$(LAB_COMMAND) tools

.PHONY: lab-down
lab-down:  ## delete the lab's cluster and stop its engine; what was built stays
	@$(LAB_COMMAND) down

.PHONY: lab-status
lab-status:  ## what of the lab stands
	@$(LAB_COMMAND) status

.PHONY: lab-env
lab-env:  ## lines for a shell that make docker, kubectl and helm reach the lab
	@$(LAB_COMMAND) env

.PHONY: lab-versions
lab-versions:  ## the versions that the lab uses, and which are behind
	@$(LAB_COMMAND) versions

.PHONY: e2e
e2e: .venv/installed lab  ## the tests on the lab, which is brought up first
	@LAB_REQUIRED=1 $(BIN)/python -m pytest -m "lab and not soak and not unproven and not alone" $(ARGS)

.PHONY: e2e-alone
e2e-alone: .venv/installed lab  ## the tests on the lab that measure time: the machine must do nothing else
	@LAB_REQUIRED=1 WINDLASS_EVIDENCE=1 $(BIN)/python -m pytest -m "lab and alone and not soak and not unproven" $(ARGS)

.PHONY: evidence-lab
evidence-lab: .venv/installed lab  ## what of `make e2e` measures a promise, written into docs/evidence.md
	@LAB_REQUIRED=1 WINDLASS_EVIDENCE=1 $(BIN)/python -m pytest -m "lab and evidence and not soak and not unproven and not alone" $(ARGS)

.PHONY: e2e-unproven
e2e-unproven: .venv/installed lab  ## the tests on the lab of what is not known to hold yet
	@LAB_REQUIRED=1 $(BIN)/python -m pytest -m "lab and not soak and unproven" $(ARGS) || { [ $$? = 5 ] && echo "no test is marked unproven"; }

.PHONY: soak-lab
soak-lab: .venv/installed e2e-alone  ## the part of `make soak` on the lab; the lab itself taken down, killed, and from nothing
	@LAB_REQUIRED=1 WINDLASS_EVIDENCE=1 $(BIN)/python -m pytest -m "lab and soak" -s $(ARGS)
