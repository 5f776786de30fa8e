# Everything people and CI run. Two commands matter on a fresh machine: `make run` and `make test`.
# The set-up lives in .venv and is guarded by stamp files, so a second run does nothing but start.
# Needs a C compiler, make, Python 3.11+ with venv, Rust 1.88+ (tools/doctor says what is missing). PIP_* and CARGO_* variables pass through.

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DATA ?= var
PYTEST_ARGS ?=
# Processes that share the Python tests, a file at a time; 0 runs them in one, as a debugger wants it.
PYTEST_JOBS ?= 2
BENCH_ARGS ?=
# make soak: the first seed (empty: a new one each time), how many histories and rounds, further arguments.
SEED ?=
HISTORIES ?= 20000
ROUNDS ?= 100
SOAK_ARGS ?=

export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Under `make -j` cargo would look for descriptors that make gives to sub-makes only, and complain.
OWN_JOBS := env -u MAKEFLAGS -u MFLAGS
SOURCES := $(shell find python tests -name '*.py')
CARGO_TEST := $(OWN_JOBS) cargo test --workspace --exclude gatepost-py --locked --quiet
CRATES := $(shell find rust_core -name target -prune -o \( -name '*.rs' -o -name '*.sql' -o -name Cargo.toml \) -print)

.DEFAULT_GOAL := help
.PHONY: help setup run test build-rust-tests test-rust test-python check lint types layers protos protos-check licences bench soak soak-histories soak-crash lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMPS)/core $(STAMPS)/bytecode ## create .venv, install the pinned packages, build the extension
	@:

run: setup ## set everything up and start a demo server with its data in ./var (DATA=DIR for another place)
	@exec $(BIN)/gatepost serve --data $(DATA) --demo

# The Rust tests wait for the disk most of the time: once built, they run beside the Python tests, and what they said is shown at their end.
test: build-rust-tests ## set everything up and run every test
	@$(MAKE) --no-print-directory -j2 test-rust test-python
	@echo "make test: every test passed"

build-rust-tests: setup
	$(CARGO_TEST) --no-run

test-rust: build-rust-tests
	@echo "running the Rust tests"
	@if $(CARGO_TEST) >target/rust-tests.log 2>&1; then said=passed; else said=FAILED; fi; \
	grep -v '^$$\|^running 0 tests\| 0 passed; 0 failed' target/rust-tests.log; echo "the Rust tests $$said"; [ $$said = passed ]

test-python: setup
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: lint types layers protos-check licences ## lint, types, layers, generated code, licences

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cargo fmt --all --check
	$(OWN_JOBS) cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

types: setup
	$(BIN)/mypy python tests/support tools benches
	$(BIN)/python -m mypy.stubtest gatepost._core

layers: setup
	$(BIN)/lint-imports

protos: setup ## regenerate python/gatepost/api from proto/
	$(BIN)/python tools/protos.py

protos-check: setup
	$(BIN)/python tools/protos.py --check

licences: setup
	$(BIN)/python tools/licences.py

bench: setup ## compare with Postfix and Dovecot on this machine (BENCH_ARGS=--quick for a short run)
	PYTHONPATH=tests $(BIN)/python benches/run.py $(BENCH_ARGS)
	PYTHONPATH=tests $(BIN)/python benches/rules.py

soak: soak-histories soak-crash ## random histories on a simulated disk, then a real server killed round after round (SEED=, HISTORIES=, ROUNDS=)
	@:

soak-histories:
	cargo run --quiet --locked --profile soak -p gatepost-sim --bin soak -- --seed "$(SEED)" --histories $(HISTORIES) $(SOAK_ARGS)

soak-crash: setup
	PYTHONPATH=tests $(BIN)/python tests/crash/soak.py --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

lock: $(STAMPS)/venv ## renew requirements.lock from pyproject.toml
	$(BIN)/python tools/lock.py

clean: ## remove what was built and set up; ./var stays
	rm -rf $(VENV) target .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f python/gatepost/_core*.so
	find python tests benches tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@tools/doctor
	"$$(tools/doctor --python)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/maturin: requirements.lock $(STAMPS)/venv
	@tools/doctor >/dev/null
	@$(PIP_INSTALL) "$$(grep '^maturin==' requirements.lock)"
	@touch $@

# This and the next are most of the first set-up. With `make -j2` they run side by side.
$(STAMPS)/packages: requirements.lock $(STAMPS)/maturin
	@echo "installing the pinned packages"
	$(PIP_INSTALL) --requirement requirements.lock
	@touch $@

$(STAMPS)/extension: $(STAMPS)/maturin pyproject.toml Cargo.toml Cargo.lock $(CRATES) $(if $(wildcard python/gatepost/_core*.so),,missing-core)
	@echo "building the extension (minutes the first time, seconds afterwards)"
	$(OWN_JOBS) $(BIN)/maturin develop --release --locked --quiet --skip-install
	@touch $@

# maturin installs the package in editable form and the `gatepost` script; what it would build is there by now.
$(STAMPS)/core: $(STAMPS)/packages $(STAMPS)/extension
	PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/maturin develop --release --locked --quiet
	@touch $@

# Tests start hundreds of processes; where PYTHONDONTWRITEBYTECODE is set, as in many containers, each would compile all of Gatepost anew.
$(STAMPS)/bytecode: $(STAMPS)/packages $(SOURCES)
	@$(BIN)/python -m compileall -q python tests
	@touch $@

.PHONY: missing-core
missing-core:
