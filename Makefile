# `make demo` explains real photos, `make test` runs every check, `make test-peers` compares with other libraries.
# Every pip call carries constraints/cpu.txt: without it pip picks a torch with gigabytes of CUDA.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

PEERS  := .venv-peers

.PHONY: demo test test-fast test-peers lint types clean

demo: $(VENV)/.user
	$(BIN)/faithmap demo --out faithmap-demo

# A process per core, and one thread in each; a module's tests in one of them: they share what is measured once.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

test: lint types
	$(PYTEST)

test-fast: $(VENV)/.dev
	$(PYTEST) -m "not real"

test-peers: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest tests/peers

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples training
	$(BIN)/ruff format --check src tests benchmarks examples training

types: $(VENV)/.dev
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: $(VENV)/bin/python pyproject.toml constraints/cpu.txt
	$(PIP) install -c constraints/cpu.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints/cpu.txt
	$(PIP) install -c constraints/cpu.txt -e ".[dev]"
	touch $@ $(VENV)/.user

$(PEERS)/.done: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check -q install -c constraints/cpu.txt -e ".[peers]"
	$(PEERS)/bin/python -m pip --disable-pip-version-check -q install -c constraints/cpu.txt --no-deps quantus==0.6.0
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) faithmap-demo faithmap-out .mypy_cache .ruff_cache .pytest_cache
