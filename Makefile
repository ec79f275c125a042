# Everything a fresh machine needs: Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
READY := $(VENV)/.ready

.PHONY: setup demo test lint bench profile scoreboard search-benchmark belief loop-benchmark kernel-fit kernel-tables memory-table notebooks \
    check-engines test-engine test-browser clean

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

# Score the method on runs that a fit did not see: docs/accuracy.md, its figures and its plots. A few minutes on two cores.
scoreboard: setup
	$(BIN)/python -m aicalib.cli.scoreboard measurements docs

# Choose among the published runs by prediction, hold each choice to what was measured, beside a peer's:
# docs/search-accuracy.md and its plot. A few minutes.
search-benchmark: setup
	$(BIN)/python -m benchmarks.choice

# Choose anew what the belief of `aicalib next` holds beyond a profile's levels: aicalib/loop/belief.toml. Some minutes.
belief: setup
	$(BIN)/python -m benchmarks.belief

# Replay published sweeps: does the loop find the best configuration with few runs? docs/loop-benchmark.md, its figures
# and its plot. About five minutes on two cores.
loop-benchmark: setup
	$(BIN)/python -m benchmarks.loop

# Rebuild the shipped surfaces of kernel times from the tables of a public package, which stays outside of ours.
KERNEL_TABLES := aiconfigurator-core==0.12.0
kernel-fit: setup
	@mkdir -p $(OUT)/wheel
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	    --dest $(OUT)/wheel $(KERNEL_TABLES) $(PIP_ARGS) \
	    || { echo "could not download $(KERNEL_TABLES); with a mirror: make kernel-fit PIP_ARGS='--index-url URL'" >&2; exit 1; }
	$(BIN)/python -m aicalib.cli.kernel_fit $(OUT)/wheel/aiconfigurator_core-*.whl $(OUT)/kernels.duckdb aicalib/profiles
	$(MAKE) kernel-tables

# Write the tables of surfaces and of their held-out errors anew.
kernel-tables: setup
	$(BIN)/python -m aicalib.report.kernel_tables docs/kernels.md

# Write the table of predicted and logged KV pools anew.
memory-table: setup
	$(BIN)/python -m aicalib.report.memory_table measurements/startup.jsonl docs/memory.md

# Hold the shipped flags, every line of launch, our refusals and our answers on checkpoints against the engines' source
# from their published wheels (about 4 GB the first time, each wheel deleted after it was read). ONLY='sglang==0.5.23
# vllm==0.33.0' takes fewer releases; without a network or an index of packages what needs the source is skipped.
ENGINE_CACHE ?= $(HOME)/.cache/aicalib/engines
check-engines: export PIP_ARGS := $(PIP_ARGS)
check-engines: setup
	$(BIN)/python -m checks.engines --cache $(ENGINE_CACHE) $(if $(ONLY),--only $(ONLY))

# Run every notebook from its .py pair, which is what is edited, and write it with its outputs.
notebooks: setup
	$(BIN)/python -m checks.notebooks

# The report's page in headless Chromium: loads nothing, logs nothing, fits a phone; screenshots in out/browser. Skipped
# with a message where there is no chromium, chromium-browser or google-chrome.
test-browser: setup
	$(BIN)/python -m checks.browser $(OUT)/browser

# The loop against a real engine on this machine's processor: installed outside of the project (3.5 GB), a small model made
# on the spot, no GPU. ENGINE=vllm takes the other one. PIP_ARGS names a source of packages and of torch's CPU build,
# for example PIP_ARGS='--find-links FOLDER'; a CUDA build is refused. KEEP=FOLDER keeps stores and logs.
ENGINE ?= sglang
test-engine: export PIP_ARGS := $(PIP_ARGS)
test-engine: setup
	$(BIN)/python -m checks.real_engine --engine $(ENGINE) --cache $(ENGINE_CACHE) $(if $(KEEP),--folder $(KEEP))

clean:
	rm -rf $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
