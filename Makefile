# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CONFIG ?= deploy/local.yaml

# The repository root holds a folder named `kernels`, which is also the name of a package that transformers probes for.
export PYTHONSAFEPATH = 1

.PHONY: serve test lint format typecheck stubs clean

serve: $(VENV)/.installed
	$(BIN)/paceline serve $(CONFIG) $(if $(PORT),--port $(PORT))

test: $(VENV)/.installed-dev
	$(BIN)/paceline pull
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python protos/generate.py --check
	$(MAKE) typecheck

# mypy does not see setuptools' mapping of folders to packages; a farm of links shows it.
typecheck: $(VENV)/.installed-dev
	@mkdir -p .typecheck/paceline
	@for f in actors cluster kernels protos; do ln -sfn ../../$$f .typecheck/paceline/$$f; done
	$(BIN)/mypy -p paceline.actors -p paceline.cluster -p paceline.kernels

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: $(VENV)/.installed-dev
	$(BIN)/python protos/generate.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "paceline needs Python 3.11 or newer, not %d.%d: make serve PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .typecheck .pytest_cache .mypy_cache .ruff_cache *.egg-info build
