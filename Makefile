# Every target sets itself up: it makes .venv and installs what it needs, once for each choice of BACKENDS.
#   make conformance                          check every backend that can run on this machine
#   make conformance BACKENDS="numpy jax"     install and check these alone (torch's Linux build is large)
#   make conformance BACKENDS=cupy ARGS="--device cuda:0"   on a GPU
#   make test                                 the project's own tests
#   make test-heavy                           the tests that take long, which make test leaves out
#   make test-oldest                          tests with the oldest releases that pyproject.toml allows, without torch
#   make test-oldest TORCH=1                  torch's oldest, too: its Linux build draws 3 GB of CUDA libraries
#   make test-python PYTHON=python3.13        tests of the core, NumPy, JAX and the kit on another Python
#   make test-clients                         every snippet of docs/trainers.md, with the trainers; the step in JavaScript
#   make census                               judge published Adams, and write docs/census.md
#   make docs                                 the documentation, into site/; warnings are errors
#   make figures                              its pictures and tables anew, from the code
#   make dist                                 what a release uploads, into dist/, checked
#   make bench ARGS="--write NAME"            every path against its peers, into benchmarks/results/
#   make gpu                                  on a GPU: its tests, the kit, figures, into benchmarks/results/
#   make lint, make format                    ruff and mypy; ruff's layout and mends
#   make clean                                remove what the targets made
#   make study STUDY=compare                  a study of examples/experiments: compare, ablation, angles, effects or paper
BACKENDS ?= numpy strict dask torch jax onnx keras
PYTHON ?= python3
ARGS ?=

comma := ,
empty :=
space := $(empty) $(empty)
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
# Of the names in BACKENDS these are extras of the distribution; the others come with the kit. Each has
# a twin of what its tests need beside it.
FRAMEWORKS := $(filter torch jax cupy onnx keras,$(BACKENDS))
# Keras runs on another framework. It is judged on those that are there, and JAX is the one that is small everywhere.
ifeq ($(filter torch jax keras,$(FRAMEWORKS)),keras)
FRAMEWORKS += jax
endif
stamp = .venv/.installed-$(subst $(space),-,$(sort $(1)))
FOR_CONFORMANCE := $(call stamp,conformance fast $(FRAMEWORKS))
FOR_DOCS := $(call stamp,docs jax keras torch)
FOR_TESTS := $(call stamp,dev fast $(FRAMEWORKS) $(addprefix test,$(FRAMEWORKS)))

.DEFAULT_GOAL := help
.PHONY: help conformance census test test-heavy test-oldest test-python test-clients docs figures lint format clean study bench dist gpu

help:
	@sed -n 's/^#   //p' Makefile

# The stamp's name lists the extras, so that another choice of BACKENDS installs what is missing.
.venv/.installed-%: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "setadam needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(subst -,$(comma),$*)]'
	touch $@

conformance: $(FOR_CONFORMANCE)
	$(BIN)/setadam-conformance run $(foreach name,$(BACKENDS),--backend $(name)) --report reports/conformance $(ARGS)

test: $(FOR_TESTS)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not heavy" $(ARGS)

test-heavy: $(FOR_TESTS)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m heavy $(ARGS)

# Other releases and other Pythons have environments of their own, with compiled code of their own.
VERSION_TESTS := tests/core tests/numpy tests/jax tests/interchange tests/conformance
VERSION_EXTRAS := conformance fast jax testjax
TEST_TOOLS := pytest pytest-xdist
VERSION_BACKENDS := $(foreach name,numpy strict dask jax,--backend $(name))

OLDEST := .venv-oldest
oldest_extras := $(VERSION_EXTRAS) $(if $(TORCH),torch)
FOR_OLDEST := $(OLDEST)/.installed-$(subst $(space),-,$(strip $(oldest_extras)))
$(FOR_OLDEST): pyproject.toml tests/oldest.py
	test -x $(OLDEST)/$(SCRIPTS)/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/$(SCRIPTS)/python tests/oldest.py $(oldest_extras) > $(OLDEST)/constraints.txt
	$(OLDEST)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt -e '.[$(subst $(space),$(comma),$(strip $(oldest_extras)))]' $(TEST_TOOLS)
	touch $@

test-oldest: export NUMBA_CACHE_DIR = $(CURDIR)/$(OLDEST)/numba
test-oldest: $(FOR_OLDEST)
	$(OLDEST)/$(SCRIPTS)/python -m pytest -n 2 --dist loadgroup -m "not heavy" $(VERSION_TESTS) $(if $(TORCH),tests/torch) $(ARGS)
	$(OLDEST)/$(SCRIPTS)/setadam-conformance run --profile quick $(VERSION_BACKENDS) $(if $(TORCH),--backend torch)

OTHER := .venv-$(notdir $(PYTHON))
$(OTHER)/.installed: pyproject.toml constraints.txt
	test -x $(OTHER)/$(SCRIPTS)/python || $(PYTHON) -m venv $(OTHER)
	$(OTHER)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(subst $(space),$(comma),$(VERSION_EXTRAS))]' $(TEST_TOOLS)
	touch $@

test-python: export NUMBA_CACHE_DIR = $(CURDIR)/$(OTHER)/numba
test-python: $(OTHER)/.installed
	$(OTHER)/$(SCRIPTS)/python -m pytest -n 2 --dist loadgroup -m "not heavy" $(VERSION_TESTS) $(ARGS)
	$(OTHER)/$(SCRIPTS)/setadam-conformance run --profile quick $(VERSION_BACKENDS)

# timm without torchvision, whose Linux builds need CUDA's libraries; onnxruntime-node where there is npm, and without the
# scripts of its installation, which would download CUDA's provider.
CLIENTS := .venv-clients
$(CLIENTS)/.installed: pyproject.toml constraints.txt
	test -x $(CLIENTS)/$(SCRIPTS)/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[clients]'
	$(CLIENTS)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps timm
	! command -v npm || npm install --silent --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund onnxruntime-node@1.30.0
	touch $@

test-clients: $(CLIENTS)/.installed
	$(CLIENTS)/$(SCRIPTS)/python -m pytest tests/clients $(ARGS)

# An environment of its own: these libraries are many, and none of them is needed here otherwise.
.venv-census/.installed: pyproject.toml constraints.txt conformance/census/install.py
	test -x .venv-census/$(SCRIPTS)/python || $(PYTHON) -m venv .venv-census
	.venv-census/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[conformance,jax,torch]'
	.venv-census/$(SCRIPTS)/python conformance/census/install.py
	touch $@

# The adapters first: a wrong one looks like a wrong optimizer.
census: .venv-census/.installed
	.venv-census/$(SCRIPTS)/python -m pytest -q tests/conformance/adapters/test_published.py
	.venv-census/$(SCRIPTS)/python conformance/census $(ARGS)

docs: export KERAS_BACKEND = jax
docs: $(FOR_DOCS)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs site

figures: $(FOR_DOCS)
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/recorded.py
	$(BIN)/python docs/sharding_figure.py > docs/figures/sharding.svg
	$(BIN)/python docs/tables.py

dist: $(call stamp,dev)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# Nothing is installed where there is no driver, and so no device: the command says what it would have run, and ends well.
# JAX finds a device only with its own plugin: .venv/bin/python -m pip install "jax[cuda13]"
HAS_GPU := $(shell command -v nvidia-smi)
FOR_GPU := $(call stamp,cupy dev fast jax testcupy testjax testtorch torch)
gpu: $(if $(HAS_GPU),$(FOR_GPU))
	$(if $(HAS_GPU),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(ARGS)

bench: $(call stamp,conformance fast jax plot torch)
	$(BIN)/python -m benchmarks $(ARGS)

study: $(call stamp,experiments)
	$(BIN)/python examples/experiments/$(or $(STUDY),$(error name a study: make study STUDY=compare)).py $(ARGS)

lint: $(FOR_TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(FOR_TESTS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-* reports build dist site
