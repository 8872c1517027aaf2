# `make` lists the targets. The same steps as plain pip and jupyter lines stand in docs/troubleshooting.md.

PROFILE ?= sample
# The first of these that is Python 3.11 to 3.13 makes .venv; `make PYTHON=/path/to/python3.12 ...` names another.
PYTHON ?= python3.11 python3.12 python3.13 python3 python
INSTALLED := .venv/.installed
RUN := .venv/bin/python -m
# What users import, and the two that utilityFunction lends its figures and verdicts from
DOCUMENTED := coreFunction utilityFunction myModel modelBlock experimentTable deepnet.figures.registry deepnet.claims.ledger

.PHONY: help notebook test faults benchmark docs check clean
.DEFAULT_GOAL := help

help:
	@printf '%s\n' \
	  'make notebook [PROFILE=sample]  execute main.ipynb into report/notebook-<profile>.ipynb and .html' \
	  'make test                       run all tests' \
	  'make faults                     200 kills and what came of them, into tests/faults-summary.md' \
	  'make benchmark                  this package against the plain recipe, into benchmarks/results' \
	  'make docs                       pages of the public functions, from their docstrings, into docs/api' \
	  'make check                      ruff (lint, format) and mypy' \
	  'make clean                      remove .venv and caches; runs/ and report/ stay' \
	  '' \
	  'The first of them makes .venv and installs the requirements, which takes minutes.'

# The kernel is the one that ipykernel brings into .venv; no cell has a time limit, a busy machine's output is waited for.
# Carriage returns are resolved by a preprocessor named here, since nbconvert's own --coalesce-streams comes before the execution.
# The page is made without nbconvert's warnings: its template has no place for a figure's alternative text, and says so each time.
notebook: $(INSTALLED)
	@echo 'Executing main.ipynb in the profile $(PROFILE) ...'
	PROFILE='$(PROFILE)' $(RUN) nbconvert --to notebook --execute main.ipynb \
	  --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.iopub_timeout=60 --KernelManager.transport_encryption=auto \
	  --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	  --output-dir report --output 'notebook-$(PROFILE).ipynb'
	@$(RUN) nbconvert --to html --log-level=ERROR 'report/notebook-$(PROFILE).ipynb'
	@echo 'Made report/notebook-$(PROFILE).html, the page of it'

test: $(INSTALLED)
	$(RUN) pytest -n 2 --dist loadfile

faults: $(INSTALLED)
	KILLS=200 $(RUN) pytest tests/runs/test_faults.py -k killed_anywhere

benchmark: $(INSTALLED)
	.venv/bin/python benchmarks/benchmark.py

docs: $(INSTALLED)
	$(RUN) pdoc --output-directory docs/api $(DOCUMENTED)
	@echo 'Made docs/api/index.html'

check: $(INSTALLED)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

$(INSTALLED): requirements.txt requirements-dev.txt | .venv/bin/python
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(RUN) pip install -r requirements.txt -r requirements-dev.txt
	@touch $@

.venv/bin/python:
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo "Making .venv with $$python"; exec "$$python" -m venv --clear .venv; \
	  fi; \
	done; \
	echo 'No Python 3.11, 3.12 or 3.13 among: $(PYTHON). Install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; exit 1

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build cnn_and_deep_network.egg-info
	find . -name .git -prune -o -name runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
