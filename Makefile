# Everything a developer and CI run. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip -qq --disable-pip-version-check install --no-input
LOCK := $(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --custom-compile-command "make lock" --python-version 3.11
LOCK_BASELINE := $(BIN)/uv pip compile -q --generate-hashes --no-annotate --custom-compile-command "make lock-baselines" --python-version 3.11
SOURCES := service cellwire models tests benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults soak bench bench-quick bench-baselines bench-here bench-quick-here bench-baselines-here mutants check format lint types floors protos stubs stubs-fresh lock lock-baselines clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/run: requirements/run.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the service into $(VENV) ..."
	@$(BIN)/python $(PIP) --require-hashes -r requirements/run.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/run
	@echo "installing the development tools into $(VENV) ..."
	@$(BIN)/python $(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

.stubs/made: requirements/stubs.txt
	@test -x .stubs/bin/python || $(PYTHON) -m venv .stubs
	@.stubs/bin/python $(PIP) --require-hashes -r requirements/stubs.txt
	@touch $@

demo: $(VENV)/run ## real speech through two replicas, one of them killed in mid-file (FAST=1: not in real time)
	@$(BIN)/cellwire demo $(if $(FAST),--fast)

test: $(VENV)/dev ## the test suite against real servers, without the single faults
	@$(BIN)/cellwire models pull --quiet
	@$(BIN)/pytest -q -m "not faults" -n 2 $(ARGS)

test-faults: $(VENV)/dev ## every fault by itself, twenty rolling restarts, a short storm (under 15 minutes)
	@$(BIN)/pytest -q tests/faults $(ARGS)

soak: $(VENV)/dev ## the long proof, with its figures and their bars (about half an hour; ARGS="--help")
	@$(BIN)/python -m tests.faults.soak $(ARGS)

# What is measured runs on a Python as users have it, which is not always the one that is found first.
MEASURED := $(MAKE) --no-print-directory VENV=build/measured PYTHON="$$($(PYTHON) benchmarks/quickest.py)"

bench: ## the whole suite of benchmarks, its report and plots (about half an hour; ARGS="--help")
	@$(MEASURED) bench-here

bench-quick: ## the most important ratios, in less than four minutes (ARGS="--help")
	@$(MEASURED) bench-quick-here

bench-baselines: ## install what the benchmarks compare with, each into an environment of its own
	@$(MEASURED) bench-baselines-here

bench-here: $(VENV)/dev bench-baselines-here
	@$(BIN)/python -m benchmarks run $(ARGS)
	@$(BIN)/python -m benchmarks report

bench-quick-here: $(VENV)/dev
	@$(BIN)/python -m benchmarks run --quick --warm 0.5 --seconds 1 --json build/bench-quick.json $(ARGS)

bench-baselines-here: $(VENV)/dev
	@$(BIN)/python -m benchmarks baselines

mutants: $(VENV)/dev ## which test catches which mutant of the session protocol (ARGS=--help)
	@$(BIN)/python -m tests.mutants $(ARGS)

check: lint types floors protos stubs-fresh ## lint, types, import contract, protos, freshness of stubs

lint: $(VENV)/dev
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

format: $(VENV)/dev ## format and mend what can be mended
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

types: $(VENV)/dev
	@$(BIN)/mypy

floors: $(VENV)/dev
	@$(BIN)/lint-imports

# buf finds google/rpc/status.proto only inside its workspace, so it gets one of its own.
protos: $(VENV)/dev
	@rm -rf build/buf && mkdir -p build/buf && cp -r buf.yaml protos build/buf/
	@cp -r $$($(BIN)/python -c 'import google.rpc; print(list(google.rpc.__path__)[0])') build/buf/protos/google-rpc
	@mkdir -p build/buf/protos/google && mv build/buf/protos/google-rpc build/buf/protos/google/rpc
	@cd build/buf && ../../$(BIN)/buf lint --path protos/cellwire

stubs: .stubs/made ## make the gRPC stubs from protos/
	@$(MAKE) --no-print-directory OUT=. stubs-into

stubs-fresh: .stubs/made
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(MAKE) --no-print-directory OUT=build/stubs stubs-into
	@for f in $$(cd build/stubs && find . -name '*_pb2*'); do \
		cmp -s build/stubs/$$f $$f || { echo "$$f is stale: run make stubs"; exit 1; }; done

.PHONY: stubs-into
stubs-into:
	@PATH="$(CURDIR)/.stubs/bin:$$PATH" .stubs/bin/python -m grpc_tools.protoc -I protos \
		-I $$(.stubs/bin/python -c 'import google.rpc, os; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))') \
		--python_out=$(OUT) --pyi_out=$(OUT) --grpc_python_out=$(OUT) --mypy_grpc_out=quiet:$(OUT) protos/cellwire/v1/*.proto

lock: ## pin every dependency again (run after a change in pyproject.toml)
	@test -x $(BIN)/uv || { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); $(BIN)/python $(PIP) uv; }
	@$(LOCK) --extra server --extra embedded pyproject.toml requirements/build.in -o requirements/run.txt
	@$(LOCK) --extra gpu --extra embedded pyproject.toml requirements/build.in -c requirements/run.txt -o requirements/gpu.txt
	@$(LOCK) --extra server --extra embedded --extra dev --extra plot pyproject.toml requirements/build.in -c requirements/run.txt -o requirements/dev.txt
	@$(LOCK) requirements/stubs.in -o requirements/stubs.txt

lock-baselines: ## pin what the benchmarks compare with
	@for name in triton mlserver ray; do \
		$(LOCK_BASELINE) requirements/baseline-$$name.in -o requirements/baseline-$$name.txt; done

clean: ## remove environments and build products
	@rm -rf $(VENV) .stubs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
