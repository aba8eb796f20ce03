# Set-up, checks and builds. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup system demo test test-slow lint lint-python lint-types lint-cpp cuda sanitize mmdet3d clean

VENV   ?= .venv
EXTRAS ?= nuscenes,train,viz,simulation,dev
# Where pip finds torch besides its own index, e.g. https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
# The first Python that the tested versions in constraints.txt have wheels for.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

# The compiler, and the libraries that Open3D opens when it is imported.
SYSTEM_PACKAGES := g++ libusb-1.0-0 libgl1 libegl1 libx11-6 python3-venv
CPP_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')
BIN   := $(VENV)/bin
PIP   := $(BIN)/pip install --quiet --constraint constraints.txt
STAMP := $(VENV)/.setup-done

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: $(STAMP)  ## make .venv, install the packages, build the CPU kernels

$(STAMP): pyproject.toml constraints.txt setup.py $(filter-out csrc/tests/%,$(CPP_SOURCES))
	@$(MAKE) --no-print-directory system
	@test -n "$(PYTHON)" || { echo "setup: Python 3.11 or 3.12 was not found; install one, or name it: make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) torch numpy setuptools wheel ninja
	$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	$(PIP) --no-deps open3d-cpu || echo "setup: Open3D has no build for this machine; 3-D windows stay closed"
	touch $@

system:  ## install the missing system packages (as root), or name them
	@command -v dpkg-query >/dev/null || { echo "setup: not a Debian system; it needs the like of: $(SYSTEM_PACKAGES)"; exit 0; }; \
	missing=$$(for package in $(SYSTEM_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "setup: missing system packages; run: sudo apt-get install" $$missing; exit 0; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } \
		|| echo "setup: these system packages could not be installed, going on without:" $$missing

demo: setup  ## drives, metrics, training, a video: all of it in minutes, on a CPU (work_dirs/demo)
	$(BIN)/python tools/demo.py

test: setup  ## the tests that take seconds
	$(BIN)/pytest -m "not slow"

test-slow: setup  ## the tests that take longer (exit code 5: there is none)
	$(BIN)/pytest -m slow || [ $$? -eq 5 ]

lint: lint-python lint-types lint-cpp  ## everything that pre-commit checks

lint-python: setup  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: setup  ## mypy
	$(BIN)/mypy

lint-cpp: setup  ## clang-format
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

cuda: setup  ## compile the CUDA kernels (needs nvcc, no GPU)
	$(BIN)/python setup.py build_cuda

sanitize:  ## the CPU kernels under the compiler's sanitizers (needs no torch)
	$(MAKE) --no-print-directory --directory csrc/tests --jobs $$(nproc)

mmdet3d: setup  ## install mmdet3d and mmcv, which is compiled once per machine
	benchmarks/mmdet3d.sh $(BIN)/python

clean:  ## remove what was built, keep .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(STAMP)
	find perception -name '*.so' -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
