# Two commands: `make run` builds every result, figure and the report; `make test` passes the tests.
# Both set up the environment first, and again only when pyproject.toml or constraints.txt change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help run test check format docs

help:
	@echo "make run      build every result, figure and the report (report/report.html)"
	@echo "make test     run the tests"
	@echo "make check    lint and type-check, change nothing"
	@echo "make format   format the code"
	@echo "make docs     build the documentation site (site/index.html)"
	@echo "PYTHON=...    the Python to build $(VENV) with, 3.11 or later (now: $(PYTHON))"

# A command of its own and no shell line, so that a signal to make reaches Snakemake itself.
run: $(INSTALLED)
	$(BIN)/snakemake

# Four tests at a time: most of them wait for processes that they start.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

# The theme's note that MkDocs will end one day is for us, not for those who build.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

# The stamp comes last: an interrupted installation is started again. Compiled here, the package's
# modules start every run faster also where Python was told not to write what it compiles.
$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dmlf needs Python 3.11 or later; found: $$("$(PYTHON)" --version 2>&1 || true)." \
	    "Say which with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable ".[torch,workflow,development]"
	$(BIN)/python -m compileall -q dmlf
	@touch $@
