# Each target creates an environment in $(VENV) if there is none. `make test PYTHON=python3.12` chooses a Python.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two test processes with one thread each are faster than one with two threads, and make results independent of the machine.
PYTEST := OMP_NUM_THREADS=1 WANDB_DISABLED=true $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

DEMO_DATA := data/sudoku-6x6-demo
DEMO_RUN := checkpoints/demo
PAGE := export/page

.PHONY: demo app page test test-all lint types docs docs-check docs-pages docs-venv venv clean
.DEFAULT_GOAL := test

# A finished demo starts again; an interrupted one resumes.
demo: venv  ## generate 6x6 puzzles, train on them, and solve an unseen one
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

# Gradio is installed only when the page is needed.
app: venv $(DEMO_RUN)/result.txt  ## serve a local page for the model of the demo, training it first if needed
	$(BIN)/python -m pip install --quiet -r requirements-app.txt -c $(VENV)/constraints.txt
	$(BIN)/python app.py checkpoint=$(DEMO_RUN)

# ONNX is installed only when the page is needed; the puzzles come with the weights.
page: venv  ## write a page that solves Sudoku in the browser, without a server
	$(BIN)/python -m pip install --quiet -r requirements-onnx.txt -c $(VENV)/constraints.txt
	$(BIN)/python export.py checkpoint=pretrained/sudoku_extreme_cpu_best page=$(PAGE)

test: venv  ## run the fast tests
	$(PYTEST) -m "not slow"

test-all: venv  ## run all tests
	$(PYTEST)

lint: venv  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy on the packages that pyproject.toml names
	$(BIN)/mypy

docs: docs-venv  ## build the documentation and serve it on http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict

docs-check: docs-venv  ## build the documentation in strict mode: a broken link or reference fails
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir "$$folder/site"

docs-pages: venv  ## regenerate pages of the documentation
	$(BIN)/python -m docs.generator

docs-venv: venv
	@$(BIN)/python -m pip install --quiet -r requirements-docs.txt -c $(VENV)/constraints.txt

venv: $(INSTALLED)

# An existing environment keeps its torch; one created here gets the tested versions.
$(INSTALLED): requirements-min.txt requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10: choose another with make PYTHON=..."; exit 1; }
	@if ! grep -qs "^torch==" $(VENV)/constraints.txt && $(BIN)/python -c "import torch" 2>/dev/null; then \
		echo "keeping the torch of $(VENV)"; grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt; \
	else \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); cp constraints.txt $(VENV)/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -c $(VENV)/constraints.txt
	@touch $@

clean:  ## remove the environment and caches, but not data/ and checkpoints/
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
