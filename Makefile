# Every target installs what it needs into .venv first; nothing outside of this directory is changed but the caches of
# pip and Maven and, for the tests' broker, the user's cache directory (sealstream/kafka).

PYTHON ?= python3
BIN := .venv/bin
# what is installed is known by pyproject.toml: another one, another installation
MARK := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
RUN := .venv/.run-$(MARK)
DEV := .venv/.dev-$(MARK)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.PHONY: install demo test check bench faults identity-proof canaries clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     the whole pipe on generated customers, no broker needed'
	@echo 'make test     every test, on real Kafka brokers (Docker, or Java 17 and Maven); ARGS go to pytest'
	@echo 'make check    lint, types, imports'
	@echo 'make bench    figures of the protect leg'
	@echo 'make faults   kill, cut and stop everything, and see that nothing is lost (PLAN=short|long SEED=n)'
	@echo 'make canaries  personal values by sealed producers: a search of everything finds none (VALUES=n SEED=n)'
	@echo 'make identity-proof  profiles depend on the set of events alone (CASES=n BROKER=n SEED=n; ARGS=--case n for one)'
	@echo 'make install  only install, into .venv'
	@echo 'make clean    remove what was made here, .venv included'

install: $(DEV)

demo: $(RUN)
	$(BIN)/sealstream demo

# half of the time is waiting, for brokers and sessions: three processes on two cores, each with a broker of its own
TOGETHER := -n 3 --dist load --maxschedchunk 1
test: $(DEV)
	$(BIN)/python -m pytest $(TOGETHER) $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/sealstream bench $(ARGS)

PLAN ?= long
SEED ?= 1
faults: $(DEV)
	$(BIN)/python -m tests.faults --plan $(PLAN) --seed $(SEED) $(ARGS)

CASES ?= 10000
BROKER ?= 300
identity-proof: $(DEV)
	$(BIN)/python -m tests.proof --cases $(CASES) --broker $(BROKER) --seed $(SEED) $(ARGS)

VALUES ?= 1000
canaries: $(DEV)
	$(BIN)/python -m tests.canaries --values $(VALUES) --seed $(SEED) $(ARGS)

clean:
	rm -rf .venv .faults .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find pipeline tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): | .venv/bin/pip
	@echo 'installing sealstream into .venv'
	@$(PIP) --editable .
	@rm -f .venv/.run-* && touch $@

$(DEV): $(RUN)
	@echo 'installing the tools of the tests'
	@$(PIP) --editable '.[dev]'
	@rm -f .venv/.dev-* && touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'sealstream needs Python 3.11 or newer; name one: make PYTHON=python3.12 …' >&2; exit 2; }
	@$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo 'this Python cannot make a virtual environment; on Debian: apt install python3-venv' >&2; exit 2; }
