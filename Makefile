# Two commands set everything up on a machine that has Python 3.11 and nothing else: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
# Two test processes with one thread each: torch would otherwise start as many threads in each.
WORKERS ?= 2

.PHONY: run test test-long test-cluster test-gpu test-oldest test-peers bench bench-gpu contract lint format docs families dist torture fuzz scale clean

# A comparison small enough for two cores and a few minutes; without the last two lines it is the real one.
run: $(STAMP)
	$(BIN)/steadytune compare --model minilm --task movie-reviews --train-size 64 \
		--methods none,noisytune,smart --seeds 7 --output-dir runs/first \
		--learning-rates 2e-4,5e-4 --per-device-train-batch-size 8 --max-length 64 --max-eval-samples 100 \
		--workers 2

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --doctest-modules src/steadytune tests

# What takes minutes: every method on every head of every family, several processes, kills, memory.
test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m long tests

test-cluster: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/comparison/test_ray.py

# On a machine with a CUDA GPU; the figures go to benchmarks/results/gpu-<name>.json.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/gpu

# What it costs, beside its targets: ten minutes on a machine that does nothing else. Parts: make bench BENCH="--only step"
BENCH ?=
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(BENCH); status=$$?; $(BIN)/python tools/docs/generate.py && exit $$status

# The same on a machine with a CUDA GPU; the figures go to benchmarks/results/speed_<name>.json.
bench-gpu: $(STAMP)
	$(BIN)/python -m benchmarks --device cuda --precision bf16 --models bert-base,roberta-large $(BENCH); status=$$?; \
		$(BIN)/python tools/docs/generate.py && exit $$status

# The oldest supported versions, in an environment of their own. PyPI's torch 2.6 for Linux brings CUDA (3 GB); where
# download.pytorch.org can be reached: make test-oldest TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
OLDEST ?= .venv-oldest
TORCH_INDEX ?=
# What depends on torch and Transformers.
OLDEST_TESTS ?= tests/testing/test_contract.py tests/core/test_compose.py tests/integrations/test_trainer.py tests/core/test_invariants.py \
	tests/methods/parity/test_smart_parity.py tests/methods/test_noisytune.py tests/methods/parity/test_parity_loss_and_step.py \
	tests/methods/parity/test_parity_optimizer_and_model.py tests/core/test_loop_mistakes.py tests/methods/test_faults_of_others.py \
	tests/core/test_devices.py tests/core/test_compile.py tests/core/test_low_memory.py tests/core/test_shared_lookup.py \
	tests/core/test_arguments.py tests/core/test_does_it_act.py

test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -p no:cacheprovider \
		-m 'not cluster and not gpu and not site' $(OLDEST_TESTS)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $(TORCH_INDEX) -c constraints-oldest.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[cli,demo,lora,optimizers,search]' \
		'pytest>=8' 'pytest-xdist>=3.5' 'hypothesis>=6.100'
	touch $@

# Our numbers beside those of other packages, which it installs.
test-peers: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[peers]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider tests/methods/peers

# The contract on methods of your own: make contract METHODS=own_method
contract: $(STAMP)
	$(BIN)/python -m steadytune.testing $(METHODS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python tools/wording.py
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python tools/docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest -q -p no:cacheprovider -m site tests/docs/test_site.py

# Spoiled data files, configurations, command lines and folders: 10,000 cases take half an hour. A seed is repeatable.
CASES ?= 10000
SEED ?= 0

fuzz: $(STAMP)
	$(BIN)/python tests/robustness/fuzz.py --cases $(CASES) --seed $(SEED) --output benchmarks/results/fuzz.json

# 10,000 runs in a report, 1,000,000 rows, 100 rounds of `compare` (half an hour); benchmarks/results/scale.json.
scale: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/robustness/scale.py

# Kills trainings and comparisons as often as asked, starts them again and compares what they end with (docs/guides/faults.md).
KILLS ?= 1000

torture: $(STAMP)
	$(BIN)/python tests/robustness/torture.py --kills $(KILLS) --seed $(SEED) \
		--output benchmarks/results/torture_kills.json

# Tries every method on every head of every model family, and writes docs/methods/families.md (two minutes).
families: $(STAMP)
	$(BIN)/python tools/docs/generate.py --families

# Wheel and source archive, checked, installed outside the repository and run there.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/helpers/outside.py dist

clean:
	rm -rf $(VENV) $(OLDEST) build dist site

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and alone: resolved together with the rest, pip may choose a build with gigabytes of CUDA.
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@
