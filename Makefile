# Everything a person types here. Each target installs what it needs (as root, on Debian 12 or 13)
# and may be run again at any time: what was done is not done twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make molecule` tries on machines; `cluster` is one more, by name.
SCENARIOS ?= $(notdir $(wildcard roles/*))
HOSTILE ?= 20000
CYCLES ?= 100
LAB_KILLS ?= 30
# `make test TESTS='-k storage'`: more words for pytest.
TESTS ?=

QUICK := $(wildcard tests/unit tests/process tests/hostile tests/life)
SIDE_BY_SIDE := --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo demo-machines demo-down test life test-lab test-life test-machines test-release test-medium test-images molecule check fuzz kills bench lint docs lock clean tools programs

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: tools $(VENV)/.installed ## From nothing to a running cluster: containers, or machines where KVM works
	$(BIN)/keystone-install lab run

demo-machines: tools $(VENV)/.installed ## The same on virtual machines, emulated without KVM: ZFS on NVMe
	$(BIN)/keystone-install lab run --name machines --kind virtual

demo-down: $(VENV)/.installed ## End both labs' machines and remove their disks
	$(BIN)/keystone-install lab down --purge
	$(BIN)/keystone-install lab down --name machines --purge

check: $(VENV)/.installed ## The inner loop: lint, unit, cases, process without the slow ones
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not slow" $(QUICK) $(TESTS)

# What tests run for real, built before them: a build's patience is an hour, a test's ten minutes.
programs: tools $(VENV)/.installed
	$(BIN)/python -c 'import sys; from keystone.lab.mirror import upstream; [upstream.binary(name) for name in sys.argv[1:]]' \
	    kubeadm helm registry etcd etcdctl etcdutl containerd ctr

test: programs ## Every test that needs no machine; network namespaces need root
	KEYSTONE_HOSTILE=1000 KEYSTONE_KILLS=5 $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) $(QUICK) $(TESTS)
	$(BIN)/python -m pytest -q $(wildcard tests/netns) $(TESTS)

# A failed test does not keep the report from saying what the others found.
life: programs ## All numbers of a site's life: 100 cycles of etcd, 30 kills of growth and restore; a table
	rm -rf build/life
	status=0; \
	$(BIN)/python -m pytest -v tests/unit/cluster/test_etcd_model.py $(TESTS) || status=1; \
	KEYSTONE_CYCLES=$(CYCLES) $(BIN)/python -m pytest -v -s tests/netns/test_cycles.py $(TESTS) || status=1; \
	KEYSTONE_LAB_KILLS=$(LAB_KILLS) KEYSTONE_LIFETIMES=3 $(BIN)/python -m pytest -v -s \
	    $(addprefix tests/lab/,test_life.py test_trust.py test_rotation.py test_quorum.py) $(TESTS) || status=1; \
	$(BIN)/python -m tests.life.figures --json > build/life.json || status=1; \
	$(BIN)/python -m tests.life.figures --markdown | tee build/life.md; \
	exit $$status

kills: $(VENV)/.installed ## 25 kills at random moments each of create, ingest, split, join, deltas
	KEYSTONE_KILLS=25 $(BIN)/python -m pytest -v $(SIDE_BY_SIDE) tests/process -k kill $(TESTS)

fuzz: $(VENV)/.installed ## 20,000 hostile bundles, also to GNU tar and tarfile, and the table of them
	rm -rf build/hostile
	KEYSTONE_HOSTILE=$(HOSTILE) KEYSTONE_HOSTILE_PEERS=1 KEYSTONE_HOSTILE_REPORT=build/hostile \
	    $(BIN)/python -m pytest -v tests/hostile $(TESTS)
	$(BIN)/python tests/hostile/table.py build/hostile/*.json | tee build/hostile.md

bench: $(VENV)/.installed ## Ratios beside peers and limits in one table; BENCH='--json --large'
	$(BIN)/python tests/bench/bench.py $(BENCH)

test-lab: tools $(VENV)/.installed ## Containers: the whole way, three Primers and two workers, cut in each phase
	$(BIN)/python -m pytest -v -rs --durations=15 $(addprefix tests/lab/,test_containers.py test_lab.py test_host_keys.py test_site.py test_life.py) $(TESTS)

test-life: tools $(VENV)/.installed ## Containers: certificates renewed, CAs rotated, Primers replaced, a lost site; an hour
	$(BIN)/python -m pytest -v -rs --durations=15 $(addprefix tests/lab/,test_trust.py test_seal.py test_rotation.py test_quorum.py test_lost_site.py test_rehearsal.py) $(TESTS)

test-machines: tools $(VENV)/.installed ## Virtual machines: ZFS on NVMe with a power cut, the ISO to a login
	$(BIN)/python -m pytest -v -rs --durations=15 tests/lab/test_machines.py $(TESTS)
	$(MAKE) test-medium

test-release: tools $(VENV)/.installed ## All of the lab on virtual machines; hours without KVM
	KEYSTONE_KIND=virtual $(BIN)/python -m pytest -v -rs --durations=0 tests/lab --ignore tests/lab/test_containers.py $(TESTS)
	$(MAKE) test-images

test-medium: tools $(VENV)/.installed ## Build the ISO, and start one blank machine from it, by itself to its login
	$(BIN)/python -m pytest -v --durations=0 tests/images/test_medium.py -k uefi-cd $(TESTS)

test-images: tools $(VENV)/.installed ## Build images, boot machines from them: both ways, upgrade, Secure Boot
	$(BIN)/python -m pytest -v --durations=0 tests/images $(TESTS)

molecule: tools $(VENV)/.installed ## Each role alone on container machines; KEYSTONE_KIND=virtual, SCENARIOS='etcd time'
	set -e; times=""; for scenario in $(SCENARIOS); do \
	    began=$$(date +%s); \
	    PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/molecule test --scenario-name $$scenario; \
	    times="$$times$$scenario: $$(($$(date +%s) - began)) s\n"; \
	done; printf "$$times"

lint: $(VENV)/.installed ## ruff, mypy, ansible-lint, yamllint, the rules of the architecture
	$(BIN)/python -m pytest -q tests/unit/test_lint.py tests/unit/test_architecture.py

docs: $(VENV)/.installed ## Write docs/reference/cli.md, the man page and completions anew, from the commands
	$(BIN)/python docs/make.py

lock: $(VENV)/.installed ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/python -m pip install -q --target build/uv uv
	build/uv/bin/uv pip compile pyproject.toml --extra dev --extra packager --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade \
	    --output-file requirements.lock

clean: ## Remove what was made in this checkout; ~/.cache/keystone stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .ansible

tools:
	lab/install-tools.sh

# Hashes make the lock the whole truth; the package itself is linked, so edits need no new install.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Keystone needs Python 3.11")'
	$(PYTHON) -c 'import ensurepip' || lab/install-tools.sh
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --editable .
	touch $@
