# `make` alone says what there is. Everything runs in .venv, made from nothing.

PYTHON ?= python3
# The line of ROS wheels: kilted, or jazzy in an environment of its own.
ROS ?= kilted
VENV := $(if $(filter kilted,$(ROS)),.venv,.venv-$(ROS))
$(if $(wildcard constraints-$(ROS).txt),,$(error got ROS=$(ROS), expected kilted or jazzy: there are wheels of no other))
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.DEFAULT_GOAL := help
.PHONY: help env stubs test test-jazzy lint slow demo ros-demo bench-peers clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## Make the environment in .venv (PYTHON=python3.x chooses, 3.10 to 3.12; ROS=jazzy: in .venv-jazzy)

MESSAGES := $(wildcard ros_node/build_messages.py ros_node/leo_edge_msgs/* ros_node/leo_edge_msgs/*/*)

# What is compiled, and the messages, are built anew alone when only they changed. There are wheels of ROS for x86-64 alone.
$(STAMP): $(VENV)/.installed $(MESSAGES) runtime/_resize.c
	$(BIN)/python setup.py -q build_ext --inplace
	@test "$$(uname -m)" != x86_64 || $(BIN)/python -m leo_edge.ros_node.build_messages
	@touch $@

# torch first and alone: with it there, nothing else asks for another build of it.
$(VENV)/.installed: setup.cfg setup.py pyproject.toml constraints.txt constraints-$(ROS).txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.10 to 3.12, or say which with PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else "error: got Python %d.%d, need 3.10 to 3.12 (nuscenes-devkit wants numpy 1.x, which 3.13 has not): say which with PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory debian-venv
	@$(PYTHON) -c '$(HAS_BUILD_TOOLS)' || $(MAKE) --no-print-directory debian-build-tools
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --constraint constraints.txt --constraint constraints-$(ROS).txt --editable '.[dev]'
	@touch $@

# Debian splits venv off its Python.
.PHONY: debian-venv
debian-venv:
	@test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { echo "error: $(PYTHON) has no venv: as root, apt-get install python3-venv" >&2; exit 2; }
	apt-get update -qq && apt-get install -y -qq "$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"

# What the messages of the node are built with. Debian splits the headers off its Python too.
HAS_BUILD_TOOLS = import os, shutil, sys, sysconfig; \
	sys.exit(not (all(map(shutil.which, ("cmake", "ninja", "g++"))) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))
.PHONY: debian-build-tools
debian-build-tools:
	@test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { echo "error: cmake, ninja, g++ or the headers of $(PYTHON) are missing, which build the messages of the node: as root, apt-get install cmake ninja-build g++ python3-dev" >&2; exit 2; }
	apt-get update -qq && apt-get install -y -qq cmake ninja-build g++
	test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || apt-get install -y -qq "$$($(PYTHON) -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"

lint: env ## Check style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Those that are there are kept. Without network or compiler it says so, and the tests that want them are skipped.
stubs: env ## Make the type stubs of TensorRT's and CUDA's Python bindings, in .stubs
	$(BIN)/python -m tests.bindings.stubs

# A test file to each core, on which torch must not be in the way of another torch; those of the node after that, since they look
# at the time.
test: lint stubs ## Run all tests that this machine can run (what it cannot says why)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --ignore tests/ros_node
	$(BIN)/pytest tests/ros_node

test-jazzy: ## Run the node's tests against ROS jazzy
	$(MAKE) ROS=jazzy env
	.venv-jazzy/bin/pytest tests/ros_node

slow: env ## Run the tests that take longer than 20 seconds each
	$(BIN)/pytest -m slow

demo: env ## Export the trained tiny model, answer questions about a drawn world, score the answers
	$(BIN)/python -m leo_edge demo

ros-demo: env ## Run the ROS 2 node and a player in two processes on a drawn drive
	$(BIN)/python -m leo_edge demo ros

# Each peer is an extra of its own: one that this machine cannot install is left out of the comparison, which says so.
PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip install -qq --constraint constraints.txt --constraint constraints-peers.txt
$(PEERS)/.stamp: setup.cfg setup.py pyproject.toml constraints.txt constraints-peers.txt runtime/_resize.c
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory debian-venv
	@$(PYTHON) -c '$(HAS_BUILD_TOOLS)' || $(MAKE) --no-print-directory debian-build-tools
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS_PIP) torch
	$(PEERS_PIP) --editable '.[export,jpeg]'
	@for peer in genai openvino llamacpp; do \
		echo "$(PEERS): peers-$$peer"; \
		$(PEERS_PIP) --editable ".[peers-$$peer]" || echo "peers-$$peer cannot be installed: left out" >&2; \
	done
	@touch $@

bench-peers: $(PEERS)/.stamp ## Measure leo_edge against transformers, onnxruntime-genai, OpenVINO and llama.cpp (ARGS="--rounds 3")
	$(PEERS)/bin/python bench/peers/compare.py $(ARGS)

clean: ## Remove the environment, caches and everything built
	rm -rf .venv .venv-jazzy .venv-peers .bench-peers .stubs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
