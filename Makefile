# Everything runs from .venv, which the first command that needs it makes from bare python3.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PREFIX ?= /usr/local
VENV := .venv
RUN := $(VENV)/bin/python
# What is installed, as one digest: the locks, the project's own metadata, and the Python that runs it.
INPUTS := requirements-bootstrap.lock requirements.lock pyproject.toml
STAMP := $(VENV)/.installed
DIGEST = { cat $(INPUTS); $(PYTHON) -VV; } | sha256sum | cut -d' ' -f1

IMAGE ?= keepwell:local
COMPOSE_FOLDER := deployments/production/compose

.PHONY: help bootstrap image demo demo-restore up down status test test-long upgrade-test bench-backup bench-restore bench-idle bench-politeness check lock

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: bootstrap ## from nothing to a proven backup, told as a story
	@$(RUN) -m deployments.local demo

demo-restore: bootstrap ## rows are deleted by mistake, come back by an approved restore, and that is undone
	@$(RUN) -m deployments.local demo-restore

demo-install: bootstrap ## docs/install.md as it stands, on a platform under docker compose (root; Docker is installed if missing)
	@$(RUN) -m deployments.local demo-install

# A link, so that an update of this checkout is one of the program; what somebody else put there stays.
install: bootstrap ## put the program keepwell on the PATH (PREFIX=/usr/local)
	@target="$(PREFIX)/bin/keepwell"; \
	if [[ -e "$$target" && "$$(readlink "$$target")" != "$$PWD/$(VENV)/bin/keepwell" ]]; then \
		echo "$$target is there already, and not this checkout's. Hint: remove it, or make install PREFIX=…" >&2; exit 1; \
	fi; \
	mkdir -p "$(PREFIX)/bin"; ln -sfn "$$PWD/$(VENV)/bin/keepwell" "$$target"; \
	echo "$$target is $$("$$target" --version)"

up: bootstrap ## start the local stack: real servers, on loopback, no Docker, no root
	@$(RUN) -m deployments.local up

down: bootstrap ## stop the local stack; its data are kept
	@$(RUN) -m deployments.local down

status: bootstrap ## ask every part of the local stack whether it serves
	@$(RUN) -m deployments.local status

image: ## the production stack's image, by Docker (IMAGE=keepwell:local BASE=python@sha256:… POSTGRES_MAJORS="15 16 17")
	@docker build --file $(COMPOSE_FOLDER)/Dockerfile --tag $(IMAGE) \
		$(if $(BASE),--build-arg BASE=$(BASE)) $(if $(POSTGRES_MAJORS),--build-arg "POSTGRES_MAJORS=$(POSTGRES_MAJORS)") .

# Each suite in a process of its own, with its time; all of them run, and each must have passed. A suite without a
# single test fails (pytest's exit code 5), because nothing was tested. Two lanes side by side, for two cores: much of a
# test is waiting for a server. Whichever lane is free takes the next suite, so the longest stand first. No two share
# anything but the machine. What a suite says is kept until it is done, so that two never mix.
# Where nobody watches (CI), up to three failed tests of a suite are asked once more, in a process of their own: what is
# broken fails twice, and what passes then was at odds with a busy machine. Both runs are shown, and it is named at the end.
define run_suites
	@logs=.keepwell/tests; rm -rf $$logs; mkdir -p $$logs; \
	run_pytest() { $(RUN) -m pytest -q -o cache_dir=$$PWD/$$logs/cache/$$1 "$${@:2}" >> $$logs/$$1 2>&1; }; \
	run_suite() { \
		local began=$$SECONDS name=$$1 result=0; \
		run_pytest "$$@" || result=$$?; \
		if (( result == 1 )) && [[ -n "$${CI:-}" && $$(grep -cE '^(FAILED|ERROR) tests/' $$logs/$$name) -le 3 ]]; then \
			result=0; run_pytest "$$@" --last-failed --last-failed-no-failures none || result=$$?; \
			(( result )) || echo " $$name" >> $$logs/unsteady; \
		fi; \
		(( result )) || echo " $$name" >> $$logs/passed; \
		flock $$logs cat <(echo "== $$name") $$logs/$$name <(echo "== $$name took $$((SECONDS - began)) s"); \
	}; \
	take() { flock $$logs sed -i -e '1{w /dev/stdout' -e 'd}' $$logs/waiting; }; \
	run_lane() { \
		while name=$$(take) && [[ -n "$$name" ]]; do \
			case "$$name" in $(foreach one,$(1),($(one)) run_suite $(one) $(suite_$(one));;) esac; \
		done; \
	}; \
	printf '%s\n' $(1) > $$logs/waiting; \
	echo "Each suite shows when it is done."; \
	run_lane & run_lane & wait; \
	if [[ -e $$logs/unsteady ]]; then echo "Failed, then passed when asked once more:$$(tr -d '\n' < $$logs/unsteady)"; fi; \
	failed=; for name in $(1); do grep -qsxF " $$name" $$logs/passed || failed+=" $$name"; done; \
	if [[ -n "$$failed" ]]; then echo "Failed:$$failed" >&2; exit 1; fi
endef

# Files that stand in a suite of their own, so that no suite keeps the other lane waiting.
OWN_INTEGRATION := test_prove_dump test_backup test_restore
OWN_FAULTS := test_killed_at_every_effect test_killed_expiry test_killed_swap test_random_kills
# Each brings up more than the local stack that the others share.
OWN_END_TO_END := test_install_demo test_serve test_lost_machine test_upgrade test_demonstration
without = $(foreach one,$(1),--ignore-glob="*/$(one)*")

suite_unit := -m "not long" tests/unit
suite_flows := -m "not long" tests/flows
suite_integration := -m "not long" $(call without,$(OWN_INTEGRATION)) tests/integration
suite_end_to_end := -m "not long" tests/end_to_end
suite_dumps := -m "not long" tests/integration/test_prove_dump*.py
suite_backups := -m "not long" tests/integration/test_backup*.py
suite_restores := -m "not long" tests/integration/test_restore*.py
suite_faults := $(call without,$(OWN_FAULTS)) tests/faults
suite_kills := $(OWN_FAULTS:%=tests/faults/%.py)
suite_long_integration := -m long tests/unit tests/flows tests/integration
suite_long_stack := -m long $(call without,$(OWN_END_TO_END) test_composed) tests/end_to_end
suite_long_serving := -m long $(OWN_END_TO_END:%=tests/end_to_end/%.py)
suite_long_composed := -m long tests/end_to_end/test_composed*.py

test: bootstrap ## unit, flows, integration, end-to-end tests, backups and restores, and dumps of others
	$(call run_suites,integration flows end_to_end dumps restores backups unit)

test-long: bootstrap ## fault tables and soak
	$(call run_suites,faults long_integration long_serving long_composed kills long_stack)

upgrade-test: bootstrap ## what the previous release left is taken over by this one
	@$(RUN) -m pytest -q --timeout=900 tests/end_to_end/test_upgrade.py

bench-backup: bootstrap ## a proven backup beside the guide's script and stock tools, in one run, as ratios (BENCH_SCALE=25 BENCH_ROUNDS=3)
	@$(RUN) -m pytest -q -s --timeout=3000 tests/benchmarks/test_backup_speed.py

bench-restore: bootstrap ## a restore from the store and its proof beside stock tools, in one run, as ratios (BENCH_SCALE=25 BENCH_ROUNDS=3)
	@$(RUN) -m pytest -q -s --timeout=3000 tests/benchmarks/test_restore_speed.py

bench-politeness: bootstrap ## what the platform's users notice of a backup, in one run, as ratios (BENCH_SCALE=5 BENCH_ROUNDS=3)
	@$(RUN) -m pytest -q -s --timeout=3000 tests/benchmarks/test_backup_politeness.py

bench-idle: bootstrap ## what the orchestrator of `keepwell serve` costs a machine at rest (BENCH_SECONDS=120)
	@$(RUN) -m pytest -q -s --timeout=3000 tests/benchmarks/test_idle_footprint.py

check: bootstrap ## lint, format, types, layers
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

lock: bootstrap ## resolve the dependencies anew, with hashes
	@$(VENV)/bin/uv pip compile requirements-bootstrap.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements-bootstrap.lock
	@$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements.lock
	@$(VENV)/bin/uv pip compile pyproject.toml --extra image --constraint requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-image.lock

# The stamp is written last, so an interrupted bootstrap is done again; a lock keeps two at once apart.
bootstrap: ## install everything into .venv
	@if [[ ! -f $(STAMP) || "$$(< $(STAMP))" != "$$($(DIGEST))" ]]; then \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
			echo "Python 3.11, 3.12 or 3.13 is needed. Hint: make PYTHON=python3.11 …" >&2; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "This Python lacks venv. Hint: apt-get install python3-venv" >&2; exit 1; }; \
		mkdir -p .keepwell; \
		exec 9> .keepwell/bootstrap.lock; \
		if command -v flock > /dev/null; then flock 9; fi; \
		digest="$$($(DIGEST))"; \
		if [[ -f $(STAMP) && "$$(< $(STAMP))" == "$$digest" ]]; then exit 0; fi; \
		echo "Making $(VENV)"; \
		rm -f $(STAMP); \
		if [[ "$$($(RUN) -VV 2> /dev/null)" != "$$($(PYTHON) -VV)" ]] || ! $(RUN) -c 'import pip' 2> /dev/null; then \
			$(PYTHON) -m venv --clear $(VENV); \
		fi; \
		echo "Installing uv"; \
		$(RUN) -m pip install -qq --disable-pip-version-check --root-user-action=ignore --require-hashes \
			-r requirements-bootstrap.lock; \
		export VIRTUAL_ENV="$$PWD/$(VENV)"; \
		echo "Installing $$(grep -cE '^[a-z0-9]' requirements.lock) locked packages"; \
		$(VENV)/bin/uv pip install -q --require-hashes --compile-bytecode -r requirements.lock; \
		echo "Installing Keepwell itself"; \
		$(VENV)/bin/uv pip install -q --no-deps --no-build-isolation -e .; \
		echo "$$digest" > $(STAMP); \
	fi
