# Each target makes its own environment in $(VENV) when there is none. `make test PYTHON=python3.12` picks a Python.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two test processes of one thread each beat one process of two threads, and results do not depend on the machine.
PYTEST := OMP_NUM_THREADS=1 WANDB_DISABLED=true $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

DEMO_DATA := data/sudoku-6x6-demo
DEMO_RUN := checkpoints/demo

.PHONY: demo app test test-all lint types venv clean
.DEFAULT_GOAL := test

# A finished demo starts again; one that was interrupted goes on where it stopped.
demo: venv  ## generate 6x6 puzzles, train on them, solve one that was never seen
	@if [ -e $(DEMO_RUN)/result.txt ]; then rm -rf $(DEMO_RUN); fi
	@$(MAKE) --no-print-directory $(DEMO_RUN)/result.txt
	$(BIN)/python solve.py checkpoint=$(DEMO_RUN)
	@cat $(DEMO_RUN)/result.txt

$(DEMO_RUN)/result.txt: $(DEMO_DATA)/test/dataset.json | $(INSTALLED)
	WANDB_DISABLED=true $(BIN)/python pretrain.py +experiment=sudoku6x6 data_paths="[$(DEMO_DATA)]" \
		data_paths_test="[$(DEMO_DATA)]" checkpoint_path=$(DEMO_RUN) resume=auto

$(DEMO_DATA)/test/dataset.json: | $(INSTALLED)
	$(BIN)/python dataset/build_sudoku_dataset.py --output-dir $(DEMO_DATA) \
		--size 6 --generate 2000 --num-aug 30 --test-size 1000 --seed 0

# Gradio is no part of the environment until somebody wants the page.
app: venv $(DEMO_RUN)/result.txt  ## a local page to play with the demo's model, which is trained if there is none
	$(BIN)/python -m pip install --quiet -r requirements-app.txt -c $(VENV)/constraints.txt
	$(BIN)/python app.py checkpoint=$(DEMO_RUN)

test: venv  ## the fast tests
	$(PYTEST) -m "not slow"

test-all: venv  ## every test
	$(PYTEST)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

venv: $(INSTALLED)

# An environment that somebody else made keeps the torch it has; one made here gets the tested versions.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10: name another with make PYTHON=..."; exit 1; }
	@if ! grep -qs "^torch==" $(VENV)/constraints.txt && $(BIN)/python -c "import torch" 2>/dev/null; then \
		echo "keeping the torch of $(VENV)"; grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt; \
	else \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); cp constraints.txt $(VENV)/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -c $(VENV)/constraints.txt
	@touch $@

clean:  ## remove the environment and caches; data/ and checkpoints/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
