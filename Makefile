# make demo    set up, then train a small model from nothing and talk to it
# make test    set up, then run every test (offline, CPU)
# make lint    style, types and Rust lints
# make bench   measure what the documentation claims about speed
# make faults  kills, full disks, damage, signals, hung processes, many times over (about an hour)
# make wheel   build dist/nanochat-*.whl
#
# Variables: PYTHON=python3.12 picks the interpreter of a new .venv; PIP_FLAGS="…" is handed to the installer
# (for example PIP_FLAGS=--torch-backend=cpu with uv, for a smaller torch).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench faults wheel clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.nanochat-installed
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CARGO := cargo
CRATE := --manifest-path rust/bpe/Cargo.toml

help:
	@sed -n 's/^# \{0,1\}//; /^make /p; /^$$/q' Makefile

setup: $(STAMP)

# Quick when nothing changed: only the build files and the Rust sources make a new install necessary.
$(STAMP): pyproject.toml rust/bpe/Cargo.toml $(wildcard rust/bpe/src/*.rs)
	@echo "setting up $(VENV): a few minutes the first time, mostly for torch"
	@$(call need,$(PYTHON),no Python 3.11 or newer found,install one$(,) or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS))
	@$(call need,$(CARGO),no Rust compiler found: cargo,install Rust 1.85 or newer with your package manager or rustup)
	@$(call need,cc,no C compiler found: cc,install one$(,) for example: apt install build-essential)
	@if [ ! -x $(BIN)/python ]; then \
		$(PYTHON) -m venv $(VENV) \
		|| { echo "error: cannot create a virtual environment with $(PYTHON) -m venv" >&2; \
		     echo "hint: on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 4; }; \
	fi
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --compile-bytecode --python $(BIN)/python --reinstall-package nanochat $(PIP_FLAGS) -e '.[dev]'; \
	else \
		$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)
	@$(BIN)/nanochat demo

test: $(STAMP)
	$(CARGO) test --quiet $(CRATE)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(CARGO) fmt --check $(CRATE)
	$(CARGO) clippy --quiet $(CRATE) --all-targets -- -D warnings
	PYO3_PYTHON="$(CURDIR)/$(BIN)/python" $(CARGO) clippy --quiet $(CRATE) --all-targets --features python -- -D warnings

bench: $(STAMP)
	@for b in start_up train_speed; do echo "== $$b"; $(BIN)/python "benches/$$b.py"; done

FAULTS := tests/e2e/test_faults.py tests/e2e/test_faults_checkpoints.py tests/e2e/test_training_faults.py \
	tests/core/train/test_kills.py

faults: $(STAMP)
	$(BIN)/python -m pytest -q -m slow $(FAULTS)

wheel: $(STAMP)
	$(BIN)/maturin build --release --out dist

clean:
	rm -rf build dist rust/bpe/target .pytest_cache .ruff_cache .hypothesis

, := ,
# $(call need,program,what is wrong,what to do): stop with one clear line when a program is missing.
define need
command -v "$(1)" >/dev/null 2>&1 || { echo "error: $(2)" >&2; echo "hint: $(3)" >&2; exit 4; }
endef
