# Two commands: `make run` shows Stele at work on a real web server, `make test` checks everything.
# Both install what they need (Debian 12/13, Ubuntu 24.04; root or sudo). `make help` lists the rest.
# Whatever a recipe's own exit status is (77: this machine cannot do it), make prints it and exits with 2.
PY := .venv/bin/python
AS_ROOT := scripts/as-root
AS_CALLER := scripts/as-caller
SHELL_SCRIPTS := .ci/run $(addprefix scripts/,bootstrap as-root as-caller) $(addprefix tests/qemu/guest/,boot kernel-hook) scripts/demo

.PHONY: run test lint unit qemu bench clean help

run: ## seal, run, upgrade, attack, freeze, replace, roll back and prove a real nginx
	@scripts/bootstrap run
	@scripts/demo

test: ## everything: lint, types, layers, unit, integration, attacks, stock kernels under QEMU
	@scripts/bootstrap test
	@$(MAKE) --no-print-directory lint
	@$(AS_ROOT) $(PY) -m pytest

lint: ## ruff, mypy --strict, import-linter, shellcheck
	@scripts/bootstrap test
	@$(AS_CALLER) .venv/bin/ruff check -q .
	@$(AS_CALLER) .venv/bin/ruff format -q --check .
	@$(AS_CALLER) .venv/bin/mypy --no-error-summary
	@$(AS_CALLER) sh -c "cd benchmarks && ../.venv/bin/mypy --no-error-summary --config-file= --check-untyped-defs --ignore-missing-imports *.py"
	@contracts=$$($(AS_CALLER) .venv/bin/lint-imports --no-logo 2>&1) || { echo "$$contracts"; exit 1; }
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS); else echo "shellcheck is missing: shell scripts not checked"; fi

unit: ## only what needs neither root nor QEMU
	@scripts/bootstrap test
	@$(AS_CALLER) $(PY) -m pytest -m "not root and not qemu"

qemu: ## the tests on Debian's stock kernels
	@scripts/bootstrap test
	@$(AS_ROOT) $(PY) -m pytest -m qemu

bench: ## timings beside the peers
	@scripts/bootstrap bench
	@set -e; for bench in benchmarks/bench_*.py; do $(AS_ROOT) $(PY) $$bench; done

clean: ## remove the environment and caches (not ~/.cache/stele)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help:
	@sed -nE 's/^([a-z]+):.*## /\1\t/p' Makefile | expand -t 8
