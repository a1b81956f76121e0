# make bench: bench/README.md.

.PHONY: bench
bench: .venv/installed  ## Windlass, its peers and the limits, side by side (QUICK=1: 5 minutes; GUARD=1: compare with the last)
	@PYTHONPATH=bench $(BIN)/python -m windlass_bench $(if $(QUICK),--quick) $(if $(GUARD),--guard) $(ARGS)

.PHONY: bench-hot-path
bench-hot-path: .venv/installed  ## where each microsecond of a request goes: the tables of docs/performance.md
	@PYTHONPATH=bench $(BIN)/python -m windlass_bench.hot_path $(ARGS)

.PHONY: bench-locks
bench-locks: $(UV)  ## resolve the peers' packages anew, each on its own
	@for folder in $(dir $(wildcard bench/peers/*/requirements.in)); do \
	  $(UV) pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 --generate-hashes \
	    --no-annotate --no-header $$folder/requirements.in -o $$folder/requirements.lock $(ARGS) || exit 1; done
