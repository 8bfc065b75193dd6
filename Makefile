# `make quickstart` and `make test` need Python 3.11 or newer and a package registry, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help install quickstart test slow chaos fuzz soak soak-serving audit lint bench up clean

help:
	@echo "make quickstart   install, then raw text to a chat model on the embedded default"
	@echo "make test         install, then the fast tests"
	@echo "make slow         the tests that take minutes, real servers and kills among them"
	@echo "make chaos        faults, one after the other, and what becomes of them"
	@echo "make fuzz         bytes made up against the readers, the specs and the server, an hour each"
	@echo "make soak         200 pipelines with kills at random moments; hours, and it goes on where it was ended"
	@echo "make soak-serving an hour of clients who do what they like, and what a server looks like after that"
	@echo "make audit        what bandit finds (answered in docs/decisions/016) and known holes in packages"
	@echo "make lint         style and import contracts"
	@echo "make bench        speed of data plane and token sets against their peers, which are installed for it"
	@echo "make up           Prefect, MLflow and the deployments, until Ctrl-C"
	@echo "make clean        remove the environment; artifacts in .minimind/ stay"

install: $(STAMP)

# One pip command for everything: torch must be resolved together with the rest, under the constraints.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MiniMind needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

quickstart: install
	$(BIN)/minimind run

# A file of tests stays on one core, since its tests share what takes long to make.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

slow: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,deepspeed,postgres,browser]"
	$(BIN)/python -m pytest -m slow

chaos: install
	$(BIN)/python -m pytest -m chaos

audit: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check bandit pip-audit
	$(BIN)/bandit --quiet --recursive --severity-level medium --exit-zero minimind tasks flows benchmarks
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fuzz]"
	for name in rows spec server; do \
		$(BIN)/python -m fuzz $$name --seconds 3600 --corpus .fuzz/$$name --finds .fuzz/finds-$$name || exit 1; \
	done

soak: install
	PYTHONPATH=tests $(BIN)/python tests/soak.py

soak-serving: install
	PYTHONPATH=tests $(BIN)/python tests/soak_serving.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	for name in read_jsonl character_rules language_and_personal near_duplicates clean_path \
		compression encoding packing loader opening packed_training; do \
		$(BIN)/python -m benchmarks.$$name || exit 1; \
	done

up: install
	$(BIN)/minimind up

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache
