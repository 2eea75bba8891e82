# make demo: the main job. make test: everything that CI runs. Each installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/tests:$(CURDIR)/.collections
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export NO_COLOR := 1
TIER := tests/tools/tier.sh
# Kills, failovers and full machines leave something to chance: three tests of a run may fail once, are told (-rR), and run again. Never one that
# has seen a row lost.
AGAIN := --reruns 1 --max-suite-reruns 3 --rerun-except DifferenceError -rR
APT := tests/tools/apt_ensure.sh

.PHONY: help setup lint unit integration faults molecule e2e test demo demo-down build clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/.ready: requirements-dev.txt
	$(APT) python3 python3-venv python3-pip openssh-client ca-certificates bc
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Node.js releases for the test machines come from the npm registry; any npm will do.
.PHONY: .npm
.npm:
	@command -v npm >/dev/null || $(APT) npm

setup: .venv/.ready ## the tools of this checkout, in .venv

lint: setup ## ruff, mypy, yamllint, ansible-lint, argument_specs, docs
	$(TIER) lint tests/tools/lint.sh

unit: setup ## pure rooms and property tests
	$(TIER) unit $(PY) -m pytest tests/unit --durations=5

integration: setup .npm ## engines against real servers and the local cloud's API
	$(APT) postgresql-15 postgresql-client-15 postgresql-15-postgis-3 nftables iproute2 pgbouncer openssl etcd-server
	$(TIER) integration $(PY) -m pytest tests/integration --ignore=tests/integration/cases/test_faults.py --durations=10 $(AGAIN)

faults: setup ## kills, lost snapshots, cut links and full disks in the middle of a copy (about two minutes)
	$(APT) postgresql-15 postgresql-client-15
	$(TIER) faults $(PY) -m pytest tests/integration/cases/test_faults.py --durations=10

molecule: setup .npm ## roles on machines of the local cloud (ROLE=x for one)
	$(TIER) molecule $(PY) tests/tools/scenarios.py $(ROLE)

e2e: setup .npm ## the demo, judged by its report, and the bad inputs
	$(TIER) e2e $(PY) -m pytest tests/e2e/test_bad_input.py tests/e2e/test_demo.py -x -s --durations=5

test: ## everything but the benchmarks, cheapest first
	@rm -f .cache/tiers.txt
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory integration
	@$(MAKE) --no-print-directory molecule
	@$(MAKE) --no-print-directory e2e
	@echo "== time, slowest first"; sort -rn .cache/tiers.txt

# Benchmarks write artifacts/bench/NAME.json. SCALE=0.05 for a quick look; the numbers of a busy machine mean little.
.PHONY: bench-copy bench-resume bench-verify bench-apply bench-cutover bench-rollback bench-hardening chaos
bench-copy: setup ## our copy against pgcopydb, pg_dump and the raw pipe
	$(APT) postgresql-15 postgresql-client-15 pgcopydb openssl
	$(PY) -m bench.copying

bench-resume: setup ## kills at random points of a copy under load: what is done twice, what is lost
	$(APT) postgresql-15 postgresql-client-15
	$(PY) -m bench.resuming

bench-verify: setup ## our verification against reladiff, pg_comparator and the speed of reading
	$(APT) postgresql-15 postgresql-client-15 postgresql-comparator
	@[ -x .cache/reladiff/bin/reladiff ] || { $(PY) -m venv .cache/reladiff && .cache/reladiff/bin/pip install -q "reladiff[postgresql]==0.6.0"; }
	$(PY) -m bench.verifying

bench-apply: setup ## rows applied by our change stream against PostgreSQL's own subscription
	$(APT) postgresql-15 postgresql-client-15
	$(PY) -m bench.applying

bench-cutover: setup ## switches under load with clients that remember: write stop, lost and doubled writes (RUNS, RATES, SIZES)
	$(APT) postgresql-15 postgresql-client-15 pgbouncer
	$(PY) -m bench.switching

bench-rollback: setup ## minutes of writes on the target, then back: write stop and whether every write is there (MINUTES)
	$(APT) postgresql-15 postgresql-client-15 pgbouncer
	$(PY) -m bench.returning

chaos: setup ## moves there and back with processes killed, servers crashed and links cut (COURSES, SEED)
	$(APT) postgresql-15 postgresql-client-15 pgbouncer
	$(PY) -m bench.chaos

bench-hardening: setup ## a hardened machine judged from outside, beside dev-sec's (DEVSEC_PATH: its collections folder, for a live run)
	$(APT) nmap
	$(PY) -m bench.hardening

build: setup ## the archive, installed and run from a folder of its own
	$(TIER) build tests/tools/build.sh

demo: setup .npm ## move a real application with its database between machines made here
	$(PY) -m e2e.demo up

demo-down: setup ## remove everything that the demo made
	$(PY) -m e2e.demo down

clean: ## caches of this checkout (not the local cloud's images)
	rm -rf .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis artifacts *.tar.gz
