# `make demo` and `make test` need Python ≥ 3.11 with pip, and nothing else.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

# Read when it is needed: `make status` also runs from folders that have no environment.yml.
PINS = $(shell sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' environment.yml)

# Without a GPU, as many model stages in parallel as there are cores.
PROFILE := $(if $(shell command -v nvidia-smi || true),,--workflow-profile profiles/cpu)

.PHONY: help install demo status compare merge redraw power browse test unit tiny slurm lint format check docs site chromium constraints clean

help: ## list the targets; the default
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

install: .venv/installed ## .venv with the pinned packages; `. .venv/bin/activate` then makes snakemake available

demo: .venv/installed ## the default experiment and its report
	snakemake --cores all $(PROFILE)
	@[ -f report.html ] && [ -z "$$(find results/default/figures results/default/tables workflow/report -newer report.html)" ] \
	    || snakemake --report report.html

status: ## progress of experiments, also while they run; see also python workflow/scripts/show_status.py --help
	@makefile="$(MAKEFILE_LIST)"; $(PYTHON) "$$(dirname "$${makefile# }")/workflow/scripts/show_status.py"

# What is not given is as in the pilot: SEEDS, PROMPTS, SAMPLES, DIFFERENCE (the observed one), BASELINE (uniform).
# The default's own values, or those that come with the project.
PILOT ?= $(or $(wildcard results/default/pilot.csv),$(wildcard docs/gallery/default_pilot.csv),results/default/pilot.csv)
POWER_FLAGS = --pilot '$(PILOT)' $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(PROMPTS),--prompts '$(PROMPTS)') \
    $(if $(SAMPLES),--samples '$(SAMPLES)') $(if $(DIFFERENCE),--difference '$(DIFFERENCE)') \
    $(if $(BASELINE),--baseline '$(BASELINE)')

power: .venv/installed ## what a planned experiment could detect: make power PILOT=pilot.csv SEEDS=8 PROMPTS=200 SAMPLES=2 DIFFERENCE=0.05
	@python workflow/scripts/compute_power.py $(POWER_FLAGS)

compare: .venv/installed ## two experiments, also as rows: make compare A=results/one B=results/two [PAIRS="dota:bold uniform"] [FIGURE=curves.pdf]
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "make compare A=results/one B=results/two"; exit 2; }
	@python workflow/scripts/compare_experiments.py --a "$(A)" --b "$(B)" $(if $(PAIRS),--pairs $(PAIRS)) \
	    $(if $(FIGURE),--figure "$(FIGURE)")

merge: .venv/installed ## add the seeds of a run's rows to others: make merge FROM=results/headline/rows INTO=docs/gallery/headline/rows
	@[ -n "$(FROM)" ] && [ -n "$(INTO)" ] || { echo "make merge FROM=results/one/rows INTO=docs/gallery/one/rows"; exit 2; }
	@python workflow/scripts/merge_rows.py --rows "$(FROM)" --into "$(INTO)"

redraw: .venv/installed ## figures and tables from rows, without the run: make redraw FROM=docs/gallery/headline/rows [TO=build/redrawn]
	@[ -n "$(FROM)" ] || { echo "make redraw FROM=docs/gallery/one/rows"; exit 2; }
	@python workflow/scripts/redraw.py --rows "$(FROM)" --output "$(or $(TO),build/redrawn)"

browse: .venv/installed ## the default experiment's rows as one page to search in a browser: results/default/browse.html
	snakemake --cores all browse $(PROFILE)

test: .venv/tools ## all tests except slow ones (pytest -m slow: the default model from its package) and those of SLURM
	pytest -q -n auto --dist loadfile -m "not slow and not slurm" --durations=10

unit: .venv/tools ## the tests of the library and of the documentation, without runs of the workflow
	pytest -q -n auto --dist loadfile -m "not slow" tests/unit tests/docs

tiny: .venv/installed ## a tiny experiment on a random model, without a download: results/tiny
	python tools/make_tiny_model.py
	snakemake --cores all $(PROFILE) --configfile tests/configs/tiny.yaml --config rounds=1

slurm: .venv/tools ## the tests that start a SLURM cluster; skipped with the reason where that is impossible
	pytest -q -rs tests/workflow/test_slurm.py

# A browser for the test of the browse page, which is skipped without one. It needs root; otherwise install one by hand.
chromium: ## Debian's chromium, where apt-get can install it
	command -v chromium || { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; } \
	    || echo "no chromium: the browse page is not tested in a browser"

lint: .venv/tools ## the quick checks: linters, spelling, types and secrets
	ruff check . && ruff format --check .
	mypy workflow/scripts/prefloop
	snakefmt --check Snakefile rules
	codespell
	python tools/lint_rules.py
	python tools/check_words.py
	python tools/check_secrets.py

format: .venv/tools ## format programs and rules, and fix what ruff can fix
	ruff check --fix --exit-zero --quiet .
	ruff format .
	snakefmt Snakefile rules

check: lint ## the quick checks, vulnerable packages, and a dry-run of the default
	python tools/audit_packages.py
	snakemake --dry-run --quiet --cores 1

docs: .venv/installed ## docs/config.md and the JSON schema, after a change of a setting or of config.yaml
	python tools/write_config_page.py

site: .venv-site/installed ## the documentation as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict --quiet

# torch first and alone, so that no other package selects another build of it.
.venv/installed: environment.yml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prefloop needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	pip install --quiet -c constraints.txt $(filter torch==%,$(PINS))
	pip install --quiet -c constraints.txt $(filter-out torch==%,$(PINS))
	touch $@

.venv/tools: .venv/installed tests/requirements.txt
	pip install --quiet -c constraints.txt -r tests/requirements.txt
	touch $@

# Tools of the site read the sources and do not import them, so they need no torch.
.venv-site/installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/pip install --quiet -r docs/requirements.txt
	touch $@

constraints: .venv/tools ## constraints.txt from the versions in .venv, after a change of pins
	python tools/write_constraints.py > constraints.txt

clean: ## delete everything that was made except the environment and the models
	find results -mindepth 1 -maxdepth 1 ! -name models ! -name .gitkeep -exec rm -rf {} +
	rm -rf report.html .snakemake build workflow/scripts/prefloop.egg-info
