# Two commands: `make run` shows Stele at work on a real web server, `make test` checks everything.
# Both install what they need (Debian 12/13, Ubuntu 24.04; root or sudo). `make help` lists the rest.
SHELL := /bin/bash
PY := .venv/bin/python
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E)

.PHONY: run test lint unit qemu bench clean help

run: ## seal, run, upgrade, attack, freeze, replace, roll back and prove a real nginx
	@scripts/bootstrap run
	@scripts/demo

test: ## everything: lint, types, layers, unit, integration, attacks, stock kernels under QEMU
	@scripts/bootstrap test
	@$(MAKE) --no-print-directory lint
	@$(ROOT) $(PY) -m pytest -q

lint: ## ruff, mypy --strict, import-linter
	@.venv/bin/ruff check -q .
	@.venv/bin/ruff format -q --check .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo > .import-linter.out || { cat .import-linter.out; rm -f .import-linter.out; exit 1; }
	@rm -f .import-linter.out

unit: ## only what needs neither root nor QEMU
	@scripts/bootstrap test
	@$(PY) -m pytest -q -m "not root and not qemu"

qemu: ## the tests on Debian's stock kernels
	@scripts/bootstrap test
	@$(ROOT) $(PY) -m pytest -q -m qemu

bench: ## timings beside the peers
	@scripts/bootstrap bench
	@set -e; for bench in benchmarks/bench_*.py; do $(ROOT) $(PY) $$bench; done

clean: ## remove the environment
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

help:
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | column -t -s "$$(printf '\t')"
