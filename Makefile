# Everything a fresh machine needs is made here; nothing is done twice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
DEMO ?= runs/demo
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check format bench gate docs clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# Pre-train on built-in pictures and print k-NN before and after; a finished run is not trained again.
demo: $(STAMP)
	$(BIN)/selfsight resume $(DEMO) 2>/dev/null || $(BIN)/selfsight pretrain simclr --data shapes --out $(DEMO)

test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

check: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Long studies that CI does not run: every method learns on `shapes`, and the tests marked slow.
gate: $(TEST_STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

# Speed and memory, as ratios measured side by side; installs the peers it compares with.
bench: $(TEST_STAMP)
	$(BIN)/python -m pip install --quiet kornia lightly faiss-cpu
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
