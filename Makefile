# make             environment, Verilog, simulation of real activations, synthesis, report
# make test        static checks and tests
# make generate|simulate|synth [CONFIG=configs/paper.toml] [ARGS="--target ecp5"]
# make clean

PYTHON ?= python3
CONFIG ?= configs/default.toml
INPUT ?= data/digits/activation.npy
ARGS ?=
NAME := $(basename $(notdir $(CONFIG)))
BIN := .venv/bin
READY := .venv/.ready

.PHONY: report test generate simulate synth clean
.DEFAULT_GOAL := report

report: $(READY)
	$(BIN)/lightnorm report --config $(CONFIG) --out build/$(NAME) $(ARGS)

generate synth: $(READY)
	$(BIN)/lightnorm $@ --config $(CONFIG) --out build/$(NAME) $(ARGS)

simulate: $(READY)
	$(BIN)/lightnorm simulate --config $(CONFIG) --input $(INPUT) --out build/$(NAME) $(ARGS)

test: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(ARGS)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf build .venv
