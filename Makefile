# Every target makes its own .venv first; `make train` needs Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# A process a core, each of which holds some GiB.
PYTEST := $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# Rooms whose tests run with the types, shapes and axes of arrays checked at every call.
TYPED := analysis core optim tasks

.PHONY: train test test-parity test-slow check bench clean

train: $(VENV)/.base
	$(VENV)/bin/cnn-lab train --config=experiments/digits/lenet5.py

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(addprefix --ignore=tests/,$(TYPED))
	$(PYTEST) -m "not slow" --jaxtyping-packages=cnn_lab,strict.check $(addprefix tests/,$(TYPED))

test-parity: $(VENV)/.parity
	$(PYTEST) tests/transfer/test_parity.py tests/transfer/test_weight_files.py tests/optim/test_torch_agreement.py

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

bench: $(VENV)/.bench
	$(VENV)/bin/python benchmarks/mnist_epoch.py
	$(VENV)/bin/python benchmarks/warm_start.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("cnn_lab needs Python 3.11 or newer; found " + sys.version.split()[0] + ", set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(PIP) --editable '.[bench]'
	touch $@

$(VENV)/.parity: $(VENV)/.dev
	$(PIP) --editable '.[dev,parity]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
