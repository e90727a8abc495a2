# Everything a fresh machine needs is made here; nothing is done twice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
DEMO ?= runs/demo
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-gpu check format bench bench-evaluate methods configs eigenspace gate clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# Pre-train on built-in pictures and print k-NN before and after; a finished run is not trained again.
demo: $(STAMP)
	@if [ -f $(DEMO)/run.yaml ]; then $(BIN)/selfsight resume $(DEMO); \
	else $(BIN)/selfsight pretrain simclr --data shapes --out $(DEMO); fi

test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

check: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The promises of every method, and one training, on a GPU.
test-gpu: $(TEST_STAMP)
	SELFSIGHT_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/test_contract.py tests/test_finetune.py -k "not two_processes" $(ARGS)

# Long studies that CI does not run: every method learns on `shapes`, and the tests marked slow.
gate: $(TEST_STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

# Speed and memory, as ratios measured side by side; installs the peers it compares with.
bench: $(TEST_STAMP)
	$(BIN)/python -m pip install --quiet kornia lightly faiss-cpu
	$(BIN)/python benchmarks/speed.py

# Evaluation beside the bare work in it, faiss and scikit-learn.
bench-evaluate: $(TEST_STAMP)
	$(BIN)/python -m pip install --quiet faiss-cpu
	$(BIN)/python benchmarks/evaluate.py $(ARGS)

# All methods at one CPU budget on a folder of pictures, one folder a class: make methods PICTURES=cifar/train
methods: $(STAMP)
	$(BIN)/python benchmarks/methods.py $(PICTURES) $(ARGS)

# Every recipe in configs/ anew, as YAML; a test keeps the files equal to the recipes.
configs: $(STAMP)
	$(BIN)/python -m selfsight.configs
# Predictors' eigenspaces, rates, teachers, a deeper projector: small runs on `shapes`, or on a folder of pictures, one folder a class:
# make eigenspace PICTURES=cifar/train ARGS="--fraction 0.2"; the recipes as they are, on a GPU: ARGS="--size whole"
eigenspace: $(STAMP)
	$(BIN)/python benchmarks/eigenspace.py $(PICTURES) $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
