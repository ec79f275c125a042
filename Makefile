# Everything a fresh machine needs: Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
READY := $(VENV)/.ready

.PHONY: setup demo test lint bench profile clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(PIP_ARGS)
	@touch $@

# The main job: ingest the published runs, calibrate, show the error before and after, predict.
demo: setup
	@mkdir -p $(OUT)
	@rm -f $(OUT)/demo.duckdb
	$(BIN)/aicalib ingest measurements/runs.jsonl --db $(OUT)/demo.duckdb
	$(BIN)/aicalib db flag measurements/flags.jsonl --db $(OUT)/demo.duckdb
	$(BIN)/aicalib predict --model llama-70b --gemm fp8 --profile priors
	$(BIN)/aicalib calibrate --name demo --output $(OUT)/profile.json --db $(OUT)/demo.duckdb
	$(BIN)/aicalib predict --model llama-70b --gemm fp8 --profile $(OUT)/profile.json

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.run

# Rebuild the shipped default profile from the published runs.
profile: setup
	$(BIN)/python -m aicalib.calibrate.ship measurements aicalib/profiles/default.json

clean:
	rm -rf $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
