# wizflowd: everything a developer types. `make run` shows it at work, `make test` is what CI runs.
# PYTHON=python3.12 chooses another interpreter; pip takes its settings from PIP_* as usual.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

# A second environment, with the oldest versions that pyproject.toml allows, and the tests in which they do their work.
# Such versions have no wheels for a Python that is newer than they are. What is shipped for others depends on none.
LOWEST := build/lowest-venv
LOWEST_TESTS := tests/core tests/executors tests/metrics tests/views tests/watcher \
  tests/language/test_conditions.py tests/language/test_schedules.py tests/test_secrets.py tests/test_vault.py \
  tests/cli/test_completion.py tests/cli/test_secrets.py tests/cli/test_top.py --ignore tests/metrics/test_shipped.py
IF_OLD_ENOUGH := $(shell $(PYTHON) -c 'import sys; print("lowest" * (sys.version_info < (3, 14)))' 2>/dev/null)

# What the tests start besides Python, as command:package. Installed by `make test` where it may, else named.
TEST_TOOLS := bash:bash dash:dash strace:strace tmux:tmux systemd-nspawn:systemd-container dbus-daemon:dbus \
  promtool:prometheus npm:npm setfacl:acl gcc:gcc eatmydata:eatmydata mkfs.ext4:e2fsprogs sqlite3:sqlite3 \
  groff:groff-base zsh:zsh fish:fish

# What `make bench` measures beside wizflow, and where those of them live that are written in Python.
BENCH_TOOLS := ninja:ninja-build xargs:findutils parallel:parallel nginx:nginx-light npm:npm strace:strace
BENCH_VENV  := build/bench-venv

# Grafana's own types, against which the dashboard is checked. Without npm the check is skipped, and says so.
GRAFANA := tests/grafana/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help run test check lint lowest torture bench bench-quick bench-tools test-tools install deb man schema clean

help:
	@echo 'make run    a demonstration in a folder of its own, under half a minute'
	@echo 'make test   all checks: style, types, layers, tests (what CI runs)'
	@echo 'make lint   the checks without the tests'
	@echo 'make lowest the tests with the oldest versions of the dependencies that are allowed; part of make test'
	@echo 'make torture  the campaigns of tests/torture in their long form, as root; an hour'
	@echo 'make bench  wizflow beside make, ninja and others: a table, bench/results.json, a picture; an hour'
	@echo 'make bench-quick  the same with less work, two minutes, into build/bench-quick'
	@echo 'make install [DESTDIR=]  the program, its units and configuration for this host (as root)'
	@echo 'make deb    dist/wizflowd.deb for Debian 12: apt install ./dist/wizflowd.deb'
	@echo 'make man    the manual pages, anew from the commands'
	@echo 'make schema the JSON Schema beside the examples, anew from the models'
	@echo 'make clean  remove what make made'

run: $(STAMP)
	@$(BIN)/python examples/demo.py

test: check $(IF_OLD_ENOUGH)
	@$(if $(IF_OLD_ENOUGH),,echo 'note: not tested with the oldest dependencies: Python 3.11 to 3.13 is needed for them' >&2)

# What shares one boot of systemd runs first and alone; everything else on all processors.
check: test-tools $(GRAFANA) lint
	$(BIN)/pytest -q tests/system_systemd
	$(BIN)/pytest -q -n auto --ignore tests/system_systemd

lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/pytest -q -n auto $(LOWEST_TESTS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

torture: test-tools $(DEV)
	WIZFLOW_TORTURE=long $(BIN)/pytest -q -s tests/torture tests/system/test_kill.py

bench: bench-tools
	$(BIN)/python -m bench

bench-quick: bench-tools
	$(BIN)/python -m bench --quick --results build/bench-quick

# The peers: those of Debian like the test tools, those in Python in a venv of their own, Dagu's binary from npm.
# What cannot be installed is left out of the comparison, which says so.
bench-tools: $(DEV) $(BENCH_VENV)/.installed
	@$(MAKE) --no-print-directory test-tools TEST_TOOLS='$(BENCH_TOOLS)'
	@if command -v npm >/dev/null && test ! -d build/bench-npm; then \
	  npm install --silent --no-save --prefix build/bench-npm @dagu-org/dagu-linux-x64; fi

$(BENCH_VENV)/.installed: pyproject.toml | $(STAMP)
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install -qq --upgrade pip
	@$(BENCH_VENV)/bin/python -m pip install -qq --group bench
	@touch $@

$(LOWEST)/.installed: pyproject.toml tests/tools/lowest.py | $(STAMP)
	@echo 'installing the oldest versions of the dependencies into $(LOWEST)'
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install -qq --upgrade pip
	@$(BIN)/python tests/tools/lowest.py > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install -qq --constraint $(LOWEST)/constraints.txt --group test --editable '.[graph]'
	@touch $@

# pip is upgraded first because --group needs 25.1; the stamp comes last, so that a failed install is done again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'error: cannot use $(PYTHON): Python 3.11 or newer is needed; name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv python3-pip; } || \
	  { echo 'error: cannot make $(VENV): $(PYTHON) has no venv; install it: sudo apt-get install python3-venv python3-pip' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'installing wizflowd into $(VENV)'
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --editable '.[graph]'
	@touch $@

$(DEV): $(STAMP)
	@echo 'installing what the checks need into $(VENV)'
	@$(BIN)/python -m pip install -qq --group dev
	@touch $@

test-tools:
	@missing=; for tool in $(TEST_TOOLS); do \
	  command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && \
	     DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; then :; \
	  else echo "note: tests that need them will be skipped; install them: sudo apt-get install$$missing" >&2; fi; \
	fi

$(GRAFANA): tests/grafana/package-lock.json | test-tools
	@if command -v npm >/dev/null; then npm ci --silent --prefix tests/grafana && touch $@; fi

install:
	PYTHON=$$(command -v $(PYTHON)) packaging/install.sh '$(DESTDIR)'

deb: dist/wizflowd.deb

dist/wizflowd.deb: $(shell find wizflowd systemd packaging config pyproject.toml -type f ! -name '*.pyc')
	packaging/build-deb.sh

man: $(STAMP)
	$(BIN)/python docs/man/generate.py

schema: $(STAMP)
	$(BIN)/wizflow schema > examples/.schema.json

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
