# `make demo` and `make test` need Python ≥ 3.11 with pip, and nothing else.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

PINS := $(shell sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' environment.yml)

# Where there is no GPU to wait for, as many model stages at once as there are cores.
PROFILE := $(if $(shell command -v nvidia-smi || true),,--workflow-profile profiles/cpu)

.PHONY: help demo status browse test slurm check docs chromium constraints clean

help: ## what can be made; so does `make` alone
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: .venv/installed ## the default experiment and its report
	snakemake --cores all $(PROFILE)
	@[ -f report.html ] && [ -z "$$(find results/default/figures results/default/tables workflow/report -newer report.html)" ] \
	    || snakemake --report report.html

status: ## how far experiments are, while they run too; python workflow/scripts/status.py --help says more
	@$(PYTHON) workflow/scripts/status.py

browse: .venv/installed ## the default experiment's rows as one page, to search in a browser: results/default/browse.html
	snakemake --cores all browse $(PROFILE)

test: .venv/tools ## all tests but the slow ones (pytest -m slow: the default model from its package) and SLURM's
	pytest -q -n auto --dist loadfile -m "not slow and not slurm" --durations=10

slurm: .venv/tools ## the tests that start a SLURM of their own; skipped, saying why, where that cannot be
	pytest -q -rs tests/workflow/test_slurm.py

# A browser for the test of the browse page, which is skipped without one. Who is not root installs it by hand.
chromium: ## Debian's chromium, where apt-get can install it
	command -v chromium || { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; } \
	    || echo "no chromium here: the browse page is not tested in a browser"

check: .venv/tools ## linters, and a dry-run of the default
	ruff check . && ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	snakemake --dry-run --quiet --cores 1

docs: .venv/installed ## the reference of docs/config.md, after a change of the config schema or of config.yaml
	python docs/config_page.py

# torch first and alone, so that no other package chooses another build of it.
.venv/installed: environment.yml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prefloop needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	pip install --quiet -c constraints.txt $(filter torch==%,$(PINS))
	pip install --quiet -c constraints.txt $(filter-out torch==%,$(PINS))
	touch $@

.venv/tools: .venv/installed tests/requirements.txt
	pip install --quiet -c constraints.txt -r tests/requirements.txt
	touch $@

constraints: .venv/tools ## after a change of pins: the versions that .venv has now
	python tests/constraints.py > constraints.txt

clean: ## everything made but the environment and the models
	find results -mindepth 1 -maxdepth 1 ! -name models ! -name .gitkeep -exec rm -rf {} +
	rm -rf report.html .snakemake build workflow/scripts/prefloop.egg-info
