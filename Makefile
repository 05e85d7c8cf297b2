# make demo, make test: work on a fresh machine with Python 3.10 or newer; everything is installed into .venv.
# PYTHON selects the interpreter that makes .venv:  make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= --quiet --disable-pip-version-check
PYTEST_FLAGS ?=

PY := $(VENV)/bin/python
SOURCE := fixtures/digits-s4d.safetensors
REDUCED := demo/digits-s4d-rank16.safetensors
SELECTIVE := fixtures/bytes-mamba2
PROJECTED := demo/bytes-mamba2-projected16
CALIBRATION := fixtures/stdlib-calibration.npy
HELD_OUT := fixtures/stdlib-heldout.npy

.PHONY: help demo test test-browser test-ray fuzz faults lint style types imports format aot aot-update bench docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, then inspect, analyse, compress, validate and evaluate trained checkpoints"
	@echo "make test    install with the test tools, then run the tests"
	@echo "make test-ray  install with Ray, then run the tests of --engine ray on a cluster of two workers"
	@echo "make test-browser  install Chromium (Debian, as root) and a driver library, then run the tests of pages in it"
	@echo "make fuzz    damaged files for every reader, at random, for FUZZ_SECONDS (600); numbers in fuzz-record.json"
	@echo "make faults  FAULT_KILLS (200) kills of writing commands at random moments, and the other fault tests"
	@echo "make lint    style, types and the import contract"
	@echo "make format  rewrite the files in the house style"
	@echo "make aot     compile every Triton kernel for sm_80 and sm_90 and compare with the recorded limits"
	@echo "make bench   install with the benchmark's peers, then run the benchmarks"
	@echo "make docs    install with the site's tools, then build the documentation into site/, without network"
	@echo "make clean   remove .venv, demo and caches"

# One stamp file per set of extras: installed once, again when what is to be installed changes.
$(PY):
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	@echo "Installing ssmtool into $(VENV) (the first time this fetches PyTorch)"
	@$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(PY)
	@echo "Installing ssmtool and its test tools into $(VENV) (the first time this fetches PyTorch)"
	@$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-ray: pyproject.toml constraints.txt | $(PY)
	@echo "Installing ssmtool, its test tools and Ray into $(VENV)"
	@$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[test,ray]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(PY)
	@echo "Installing ssmtool and the benchmark's peers into $(VENV)"
	@$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[bench]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(PY)
	@echo "Installing ssmtool and the tools of its documentation into $(VENV)"
	@$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.installed

define show
@echo
@echo '$$ $(1)'
@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(1)
endef

demo: $(VENV)/.installed
	@rm -rf demo
	@mkdir demo
	$(call show,ssmtool inspect $(SOURCE))
	$(call show,ssmtool hsv $(SOURCE) --plot demo/hsv.svg)
	$(call show,ssmtool compress $(SOURCE) --rank 16 -o $(REDUCED))
	$(call show,ssmtool validate $(SOURCE) $(REDUCED))
	$(call show,ssmtool evaluate $(SOURCE) --task digits)
	$(call show,ssmtool evaluate $(REDUCED) --task digits)
	$(call show,ssmtool hsv $(SELECTIVE) --tokens $(CALIBRATION))
	$(call show,ssmtool compress $(SELECTIVE) --rank 16 --export projected --tokens $(CALIBRATION) -o $(PROJECTED))
	$(call show,ssmtool validate $(SELECTIVE) $(PROJECTED) --tokens $(HELD_OUT))
	$(call show,ssmtool speculate $(SELECTIVE) --draft $(PROJECTED) --prompt "import " --length 32)
	$(call show,ssmtool bench --op selective_scan --shape L=1024 --forward-only)

test: $(VENV)/.installed-test
	@$(PY) -m pytest -m "not gpu" --numprocesses auto --maxprocesses 8 --dist loadfile $(PYTEST_FLAGS)

test-ray: $(VENV)/.installed-ray
	@$(PY) -m pytest tests/pipeline/test_ray_cluster.py $(PYTEST_FLAGS)

# CHROMIUM_INSTALL is how a browser comes here if there is none; the driver library is a Python package.
CHROMIUM_INSTALL ?= apt-get install --yes --no-install-recommends chromium fonts-dejavu-core

test-browser: $(VENV)/.installed-test
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || $(CHROMIUM_INSTALL)
	@$(PY) -m pip install $(PIP_FLAGS) -e ".[browser]"
	@$(PY) -m pytest -m browser tests/browser $(PYTEST_FLAGS)

FUZZ_SECONDS ?= 600
FAULT_KILLS ?= 200

fuzz: $(VENV)/.installed-test
	@PYTHONPATH=.:kernels $(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS) --record fuzz-record.json

faults: $(VENV)/.installed-test
	@rm -f faults-record.jsonl
	@FAULT_KILLS=$(FAULT_KILLS) FAULT_SEED=$${FAULT_SEED:-$$$$} FAULT_RECORD=faults-record.jsonl \
		$(PY) -m pytest tests/faults $(PYTEST_FLAGS)

lint: style types imports

style: $(VENV)/.installed-test
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-test
	@$(VENV)/bin/pyright --pythonpath $(PY)

imports: $(VENV)/.installed-test
	@PYTHONPATH=.:kernels $(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.installed-test
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

AOT = PYTHONPATH=.:kernels $(PY) -m ssmtool_kernels.aot kernels/aot-limits.json docs/kernels-compiled.md

aot: $(VENV)/.installed-test
	@$(AOT)

aot-update: $(VENV)/.installed-test
	@$(AOT) --update

bench: $(VENV)/.installed-bench
	@$(PY) tests/benchmarks

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "Wrote site/index.html"

clean:
	rm -rf $(VENV) demo site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
