# `make demo` and `make test` only need Python ≥ 3.11 with pip.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

# Read only when used, as `make status` also runs in folders without environment.yml.
PINS = $(shell sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' environment.yml)

# Without a GPU, run as many model stages in parallel as there are cores.
PROFILE := $(if $(shell command -v nvidia-smi || true),,--workflow-profile profiles/cpu)

.PHONY: help install demo status compare merge redraw power browse test unit tiny slurm lint format check docs site chromium constraints clean

help: ## list the targets (default)
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

install: .venv/installed ## install the pinned packages in .venv; then `. .venv/bin/activate` makes snakemake available

demo: .venv/installed ## run the default experiment and write its report
	snakemake --cores all $(PROFILE)
	@[ -f report.html ] && [ -z "$$(find config.yaml results/*/figures results/*/tables workflow/report -newer report.html)" ] \
	    || snakemake --report report.html

status: ## show the progress of experiments, also while they run; see python workflow/scripts/show_status.py --help
	@makefile="$(MAKEFILE_LIST)"; $(PYTHON) "$$(dirname "$${makefile# }")/workflow/scripts/show_status.py"

# SEEDS, PROMPTS, SAMPLES, DIFFERENCE and BASELINE default to the pilot's values, its observed difference and uniform.
# PILOT defaults to that of the default experiment, or to the one of the project.
PILOT ?= $(or $(wildcard results/default/pilot.csv),$(wildcard docs/gallery/default_pilot.csv),results/default/pilot.csv)
POWER_FLAGS = --pilot '$(PILOT)' $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(PROMPTS),--prompts '$(PROMPTS)') \
    $(if $(SAMPLES),--samples '$(SAMPLES)') $(if $(DIFFERENCE),--difference '$(DIFFERENCE)') \
    $(if $(BASELINE),--baseline '$(BASELINE)')

power: .venv/installed ## compute the power of a planned experiment: make power PILOT=pilot.csv SEEDS=8 PROMPTS=200 SAMPLES=2 DIFFERENCE=0.05
	@python workflow/scripts/compute_power.py $(POWER_FLAGS)

compare: .venv/installed ## compare two experiments, also from rows: make compare A=results/one B=results/two [PAIRS="dota:bold uniform"] [FIGURE=curves.pdf]
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "make compare A=results/one B=results/two"; exit 2; }
	@python workflow/scripts/compare_experiments.py --a "$(A)" --b "$(B)" $(if $(PAIRS),--pairs $(PAIRS)) \
	    $(if $(FIGURE),--figure "$(FIGURE)")

merge: .venv/installed ## add rows of more seeds to a folder of rows: make merge FROM=results/headline/rows INTO=docs/gallery/headline/rows
	@[ -n "$(FROM)" ] && [ -n "$(INTO)" ] || { echo "make merge FROM=results/one/rows INTO=docs/gallery/one/rows"; exit 2; }
	@python workflow/scripts/merge_rows.py --rows "$(FROM)" --into "$(INTO)"

redraw: .venv/installed ## draw figures and tables from rows, without the run: make redraw FROM=docs/gallery/headline/rows [TO=build/redrawn] [PAGE=docs/gallery/headline.md CONFIG=headline.yaml]
	@[ -n "$(FROM)" ] || { echo "make redraw FROM=docs/gallery/one/rows"; exit 2; }
	@python workflow/scripts/redraw.py --rows "$(FROM)" --output "$(or $(TO),build/redrawn)" \
	    $(if $(PAGE),--page "$(PAGE)") $(if $(CONFIG),--config "$(CONFIG)")

browse: .venv/installed ## write the default experiment's rows as a searchable page: results/default/browse.html
	snakemake --cores all browse $(PROFILE)

test: .venv/tools ## run all tests except slow ones (pytest -m slow) and those of SLURM
	pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not slurm" --durations=10

unit: .venv/tools ## run the tests of the library and documentation, without the workflow
	pytest -q -n auto --dist loadfile -m "not slow" tests/unit tests/docs

tiny: .venv/installed ## run a tiny experiment with a random model, without downloads: results/tiny
	python tools/make_tiny_model.py
	snakemake --cores all $(PROFILE) --configfile tests/configs/tiny.yaml --config rounds=1

slurm: .venv/tools ## run the tests that start a SLURM cluster; where this is impossible they are skipped with the reason
	pytest -q -rs tests/workflow/test_slurm.py

# Tests of the browse page need a browser and are skipped without one. Installing it needs root.
chromium: ## install Debian's chromium, where apt-get can
	command -v chromium || { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; } \
	    || echo "no chromium: the browse page is not tested in a browser"

lint: .venv/tools ## run quick checks: linters, spelling, types and secrets
	ruff check . && ruff format --check .
	mypy workflow/scripts/prefloop
	snakefmt --check Snakefile rules
	codespell
	python tools/lint_rules.py
	python tools/check_words.py
	python tools/check_secrets.py

format: .venv/tools ## format code and rules, and apply ruff's fixes
	ruff check --fix --exit-zero --quiet .
	ruff format .
	snakefmt Snakefile rules

check: lint ## run quick checks, check for vulnerable packages, and plan the default experiment
	python tools/audit_packages.py
	snakemake --dry-run --quiet --cores 1

docs: .venv/installed ## write docs/config.md and the JSON schema after a change of settings or config.yaml
	python tools/write_config_page.py

site: .venv-site/installed ## build the documentation as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict --quiet

# Install torch first, so that no other package selects another build of it.
.venv/installed: environment.yml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prefloop needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	pip install --quiet -c constraints.txt $(filter torch==%,$(PINS))
	pip install --quiet -c constraints.txt $(filter-out torch==%,$(PINS))
	touch $@

.venv/tools: .venv/installed tests/requirements.txt
	pip install --quiet -c constraints.txt -r tests/requirements.txt
	touch $@

# The site's tools need no torch, as they read the sources without importing them.
.venv-site/installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/pip install --quiet -r docs/requirements.txt
	touch $@

constraints: .venv/tools ## write constraints.txt from the versions in .venv after a change of pins
	python tools/write_constraints.py > constraints.txt

clean: ## delete all generated files except the environment and models
	find results/ -mindepth 1 -maxdepth 1 ! -name models ! -name .gitkeep -exec rm -rf {} +
	rm -rf report.html .snakemake build workflow/scripts/prefloop.egg-info
