# Two commands are all a fresh machine needs: `make demo` and `make test`. They assume python3 (3.10 or newer),
# make, apt (for the test suite's servers) and PyPI.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A worker takes whole files: what the tests of a file share is started once.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# One more than there are cores: many tests wait for what they have started.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
SECONDS ?= 7200
LITELLM_VERSIONS ?= 1.83.14 1.91.0 1.99.0 1.106.2 1.108.14 1.109.1 1.110.2

# LiteLLM asks the network for its price list at import unless told to use the one it ships.
export LITELLM_LOCAL_MODEL_COST_MAP := True
# Without compiled files every process would compile LiteLLM's half a million lines anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo docs test lint types pytest examples test-compat test-pythons test-slow coverage versions newest bench soak servers constraints clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp a set of extras: nothing is installed again until pyproject.toml or a pinned version changes.
$(VENV)/.stamp-%: pyproject.toml scripts/venv.sh scripts/constraints.txt
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV) $*
	@touch $@

# What `pip install` brings today, in an environment of its own: that of the tests has another LiteLLM.
.venvs/demo/.stamp: pyproject.toml scripts/venv.sh scripts/proxy_1.110.txt
	@mkdir -p .venvs
	@PYTHON="$(PYTHON)" scripts/venv.sh .venvs/demo cli scripts/proxy_1.110.txt
	@touch $@

demo: .venvs/demo/.stamp  ## Send real requests over real HTTP through litellm.Router, without us and with us
	@.venvs/demo/bin/fast-router demo

docs: $(VENV)/.stamp-docs  ## Build the site into site/; fail if a link leads nowhere
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "make docs: site/index.html"

test: lint servers  ## Install what the suite needs; ruff, mypy --strict, every example, pytest
	@$(MAKE) --no-print-directory --jobs 2 types examples
	@$(MAKE) --no-print-directory pytest
	@echo "make test: all passed"

lint: $(VENV)/.stamp-dev
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev
	@echo "== mypy --strict"
	@$(BIN)/mypy

servers:
	@scripts/install_servers.sh

pytest: $(VENV)/.stamp-dev servers
	@echo "== pytest"
	@$(PYTEST) -m "not slow"

versions: $(VENV)/.stamp-dev  ## Say what is on with each minor version of LiteLLM; fail if docs/limits.md shows more
	@$(BIN)/python scripts/versions.py

# The first command to run when LiteLLM releases; what fails names what that release has changed.
newest: $(VENV)/.stamp-dev  ## Run the plugin's tests against the newest LiteLLM on the index
	@PYTHON="$(PYTHON)" COMPAT_TESTS=tests/litellm_plugin scripts/test_compat.sh "$$($(BIN)/python scripts/versions.py --newest)"

coverage: $(VENV)/.stamp-dev  ## Say which lines of the engine and of Albert's adapter their tests run; fail below the floor
	@$(PYTEST) -m "not proxy and not services and not slow" -p no:cacheprovider --cov=fast_router.engine \
		--cov=fast_router_albert tests/engine tests/albert tests/test_router.py tests/test_explain.py

test-slow: $(VENV)/.stamp-dev servers  ## Run the tests that start proxies, programs and many processes (Redis, RabbitMQ, Celery workers)
	@$(PYTEST) -m slow

examples: $(VENV)/.stamp-dev servers
	@echo "== examples"
	@$(BIN)/python scripts/run_examples.py

test-compat:  ## Run the plugin's tests against each supported LiteLLM version
	@PYTHON="$(PYTHON)" scripts/test_compat.sh $(LITELLM_VERSIONS)

test-pythons:  ## Run the engine's, the direct API's, Albert's and the plugin's tests on each Python from 3.10 on found here
	@PYTHON="$(PYTHON)" scripts/test_pythons.sh $(WHICH)

# fast-litellm patches LiteLLM when it is imported: the benchmark keeps it out of our environment.
.venvs/fast-litellm/.stamp: | $(VENV)/.stamp-dev
	@echo "bench: installing fast-litellm 0.1.10, to compare with"
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venvs/fast-litellm
	@$(BIN)/uv pip install --quiet --python .venvs/fast-litellm/bin/python fast-litellm==0.1.10
	@touch $@

bench: $(VENV)/.stamp-dev .venvs/fast-litellm/.stamp servers  ## Run the benchmarks: tables on screen, JSON in benchmarks/results
	@$(BIN)/python -m benchmarks

soak: $(VENV)/.stamp-dev servers  ## Everything that can go wrong, through a real proxy: two hours, or SECONDS=180
	@$(BIN)/python -m benchmarks.soak --seconds $(SECONDS)

# The version of LiteLLM that the environment and the benchmarks use; `make test-compat` has the others.
constraints: $(VENV)/.stamp-dev  ## Pin the newest versions of everything but LiteLLM into scripts/constraints.txt
	@echo "litellm==1.106.2" | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate \
		--upgrade --constraint /dev/stdin --custom-compile-command "make constraints" pyproject.toml \
		--output-file scripts/constraints.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-annotate --upgrade \
		--extra cli --extra redis --extra celery --custom-compile-command "make constraints" \
		scripts/proxy_1.110.in pyproject.toml --output-file scripts/proxy_1.110.txt

clean:  ## Remove what make made: environments, caches, benchmark results
	rm -rf $(VENV) .venvs site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist benchmarks/results/*.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
