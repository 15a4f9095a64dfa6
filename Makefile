# make             environment, Verilog, simulation of real activations, synthesis, report
# make test        static checks and tests
# make generate|simulate|synth [CONFIG=configs/paper.toml] [ARGS="--target ecp5"]
# make test-torch  tests of the PyTorch layers and of the study, in an environment of their own with torch
# make clean

PYTHON ?= python3
CONFIG ?= configs/default.toml
INPUT ?= data/digits/activation.npy
ARGS ?=
NAME := $(basename $(notdir $(CONFIG)))
COMPARE := $(firstword $(wildcard build/compare/compare.json docs/compare/compare.json))
BIN := .venv/bin
READY := .venv/.ready

TORCH_BIN := build/venv-torch/bin
TORCH_READY := build/venv-torch/.ready

.PHONY: report test test-torch generate simulate synth clean
.DEFAULT_GOAL := report

report: $(READY)
	$(BIN)/lightnorm report --config $(CONFIG) --out build/$(NAME) $(addprefix --compare ,$(COMPARE)) $(ARGS)

generate synth: $(READY)
	$(BIN)/lightnorm $@ --config $(CONFIG) --out build/$(NAME) $(ARGS)

simulate: $(READY)
	$(BIN)/lightnorm simulate --config $(CONFIG) --input $(INPUT) --out build/$(NAME) $(ARGS)

test: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-torch: $(TORCH_READY)
	$(TORCH_BIN)/python -m pytest -n 2 pytorch/tests $(ARGS)

$(TORCH_READY): pyproject.toml
	$(PYTHON) -m venv build/venv-torch
	$(TORCH_BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,study]"
	touch $@

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[report,test]"
	touch $@

clean:
	rm -rf build .venv
