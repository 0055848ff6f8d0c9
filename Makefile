# Everything runs in .venv, which is created by the first target that needs it. PYTHON=… selects the interpreter, ARGS="key=value …"
# is passed to the program. gpu-check creates no environment: it runs in the active one (RUN=… selects another).
SHELL := /bin/bash
VENV := .venv
RUN := $(VENV)/bin/python
# Two groups of files at a time (tests/conftest.py), each process with one thread; the long ones come first, so that both processes
# end together. ARGS="-n 0" runs everything in one process, for breakpoint().
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
# Generated inputs are the same in every run of check and test; test-all draws new ones.
FIXED := --hypothesis-seed=0
ARGS ?=
# The first interpreter that is 3.11 or 3.12 and can create virtual environments; 3.11 first, since r0 is tested with it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 && echo $$p && break; done)
INPUTS := pyproject.toml constraints.txt overrides.txt r0/tools/environment.py
# Other projects' packages, in an environment of their own over r0's: what they bring along stays out of it.
CLIENTS := .venv-integrations
.PHONY: help setup demo check test test-integrations chaos test-all lint bench real gpu-check docs tiny clean

help:
	@echo "make setup      the environment: .venv, packages, DeepSpeed's native part"
	@echo "make demo       warm start, RL and probes on this machine (ARGS=\"seed=1 algo=ppo\")"
	@echo "make check      the unit tests alone: no vLLM, no Ray"
	@echo "make test       all tests but the slow matrices and those that need a GPU (ARGS=\"-k name\")"
	@echo "make test-all   the slow matrices too"
	@echo "make test-integrations  the server, r0.integrations and Reranker with other projects' packages: Cohere, LangChain, MTEB, …"
	@echo "make chaos      processes that die, disks that are full, files that are damaged: all of tests/chaos"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the measurements under benchmarks/"
	@echo "make real       real questions and pretrained models, end to end (ARGS=\"--data FOLDER --steps NAME …\"); downloads two models"
	@echo "make gpu-check  does r0 work on this GPU? a table of claims (ARGS=\"--out FOLDER\", RUN=/path/to/python)"
	@echo "make docs       the documentation as a site, in site/"
	@echo "make tiny       train the embedded model r0-tiny again"

setup: $(VENV)/ready

$(VENV)/ready: $(INPUTS) r0/tools/native.py
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.11 or 3.12 with the venv module was found; install one" \
	  "(Debian: apt-get install python3-venv), or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) r0/tools/environment.py $(VENV) cpu dev
	@$(RUN) -W ignore -m r0.tools.native
	@touch $@

$(VENV)/ready-bench: $(VENV)/ready
	@$(PYTHON) r0/tools/environment.py $(VENV) cpu dev bench
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready
	@$(PYTHON) r0/tools/environment.py $(VENV) cpu dev docs
	@touch $@

$(CLIENTS)/ready: tests/integrations/requirements.txt constraints.txt r0/tools/environment.py $(VENV)/ready
	@$(PYTHON) r0/tools/environment.py $(CLIENTS) --requirements tests/integrations/requirements.txt --over $(VENV)
	@touch $@

demo: setup
	@$(RUN) -m r0.launch demo $(ARGS)

check: setup
	@$(TEST) $(FIXED) -m "not ray and not slow and not gpu" $(ARGS)

test: setup
	@$(TEST) $(FIXED) -m "not slow and not gpu" $(ARGS)

test-integrations: setup $(CLIENTS)/ready
	@R0_PYTHON=$(abspath $(RUN)) $(CLIENTS)/bin/python -m pytest tests/integrations $(ARGS)

chaos: setup
	@$(TEST) tests/chaos $(ARGS)

test-all: setup
	@$(TEST) -m "not gpu" $(ARGS)

lint: setup
	@$(RUN) -m ruff check r0 tests benchmarks scripts
	@$(RUN) -m mypy

bench: $(VENV)/ready-bench
	@for script in $(filter-out benchmarks/gpu_check.py benchmarks/real.py benchmarks/ppo_step.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(RUN) $$script $(ARGS) || exit 1; done

real: setup
	@$(RUN) -W ignore benchmarks/real.py $(ARGS)

# .venv normally has PyTorch's CPU build, so an active environment has priority.
gpu-check: RUN = $(if $(VIRTUAL_ENV)$(CONDA_PREFIX),python,$(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(or $(PYTHON),python3)))
gpu-check:
	@$(RUN) benchmarks/gpu_check.py $(ARGS)

docs: $(VENV)/ready-docs
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet $(ARGS)
	@echo "make docs: the site is in site/; python -m http.server -d site shows it"

tiny: setup
	@$(RUN) -m r0.tools.tiny $(ARGS)

clean:
	rm -rf $(VENV) $(CLIENTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
