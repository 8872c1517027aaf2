# `make` lists the targets. The same steps as plain pip and jupyter lines stand in docs/troubleshooting.md.

PROFILE ?= paper
# The first of these that is Python 3.11 to 3.13 makes .venv; `make PYTHON=/path/to/python3.12 ...` names another.
PYTHON ?= python3.11 python3.12 python3.13 python3 python
INSTALLED := .venv/.installed
RUN := .venv/bin/python -m
# PyTorch's own index of wheels without CUDA, a tenth of the size, for a machine without an NVIDIA card
CPU_WHEELS ?= https://download.pytorch.org/whl/cpu
# What users import, and those that utilityFunction lends its figures, verdicts and diagnoses from
DOCUMENTED := coreFunction utilityFunction myModel modelBlock experimentTable deepnet.figures.registry deepnet.claims.ledger deepnet.claims.judging deepnet.diagnosis.diagnosing deepnet.diagnosis.report

.PHONY: help notebook sample report lab test faults benchmark docs check clean
.DEFAULT_GOAL := help

help:
	@printf '%s\n' \
	  'make notebook   replay the committed evidence: report/notebook.ipynb and .html, in two minutes' \
	  'make sample     train every experiment at sample size: report/notebook-sample.ipynb and .html, in six minutes' \
	  'make report     the report (report/report.md, .pdf, .html) and the explorer (report/explorer.html), in a minute' \
	  'make lab        open main.ipynb in JupyterLab' \
	  'make test       run all tests' \
	  'make faults     200 kills and what came of them, into tests/faults-summary.md' \
	  'make benchmark  this package against the plain recipe, into benchmarks/results; PEERS=1 beside other libraries' \
	  'make docs       pages of the public functions, from their docstrings, into docs/api' \
	  'make check      ruff (lint, format) and mypy' \
	  'make clean      remove .venv and caches; runs/ and report/ stay' \
	  '' \
	  'The first of them makes .venv and installs the requirements, which takes minutes.'

notebook: $(INSTALLED)
	@echo 'Replaying main.ipynb in the profile $(PROFILE); its live parts train for about a minute ...'
	@$(RUN) deepnet.figures.page '$(PROFILE)'

sample: $(INSTALLED)
	@echo 'Training every experiment at sample size: about six minutes on two cores, and 0.3 GB of disk in runs/ ...'
	@$(RUN) deepnet.figures.page sample

report: $(INSTALLED)
	@$(RUN) deepnet.document
	@$(RUN) deepnet.explorer

lab: $(INSTALLED)
	$(RUN) jupyterlab main.ipynb

test: $(INSTALLED)
	$(RUN) pytest -n 2 --dist loadfile

faults: $(INSTALLED)
	KILLS=200 $(RUN) pytest tests/runs/test_faults.py -k resume_after_kill

benchmark: $(INSTALLED)
	.venv/bin/python benchmarks/benchmark.py $(if $(PEERS),--peers --profile cpu)

docs: $(INSTALLED)
	$(RUN) pdoc --output-directory docs/api $(DOCUMENTED)
	@echo 'Made docs/api/index.html'

check: $(INSTALLED)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

$(INSTALLED): requirements.txt requirements-dev.txt | .venv/bin/python
	@index=; size='PyTorch with CUDA, 3 GB to download and 6.8 GB on disk'; \
	if ! command -v nvidia-smi >/dev/null 2>&1; then \
	  if .venv/bin/python -c 'from urllib.request import urlopen; urlopen("$(CPU_WHEELS)/torch/", timeout=5)' 2>/dev/null; then \
	    index='--extra-index-url $(CPU_WHEELS)'; size='PyTorch for the processor alone, 0.7 GB to download and 2 GB on disk'; \
	  else echo 'No NVIDIA card, but $(CPU_WHEELS) does not answer: taking the wheels of the package index'; fi; \
	fi; \
	echo "Installing into .venv: $$size, in about three minutes"; \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(RUN) pip install $$index -r requirements.txt -r requirements-dev.txt
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
