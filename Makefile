# Needs make and python3 (3.11 or newer); everything else is installed into .venv.
PYTHON ?= python3
UV_VERSION = 0.13.9
BIN = .venv/bin
STAMP = .venv/.ready
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header

.PHONY: setup run demo kafka test check format bench soak mutants clients wheels dist schemas lock clean
.DEFAULT_GOAL := setup

# Container images often set it; then each of the many Python processes of a run compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

setup: $(STAMP)

# The stamp is younger than what it was made from, so that a second run costs nothing.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml src/grading/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation \
		--editable . --editable src/grading
	touch $@

run: setup
	$(BIN)/entitlements serve

demo: setup
	$(BIN)/grading demo

# A real broker on 127.0.0.1:9092, in the foreground; needs Java 17 and Maven.
kafka: setup
	$(BIN)/python -m tests.kafka

# What CI runs. A worker takes a file at a time, the longest first; workers mostly wait, for disks and other processes.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test: check
	$(PYTEST)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# AGAINST="FOLDER…" compares with other checkouts; ROWS=PATTERN runs some of the rows. A dollar sign in it is kept.
bench: setup
	$(BIN)/python -m benchmarks $(AGAINST:%=--against=%) $(if $(ROWS),--rows='$(value ROWS)')

# Kills amid a stream of events, then every property at length.
soak: setup
	$(BIN)/python -m tests.soak
	$(PYTEST) -m hypothesis --hypothesis-profile=long -o timeout=3600

mutants: setup
	$(BIN)/python -m tests.mutants

# Clients generated from the API document, type-checked and used; needs Node and npm.
clients: setup
	$(BIN)/python -m tests.clients

# The wheels, the engine's with each extra, in clean environments on the Pythons there are.
wheels: setup
	$(BIN)/python -m tests.wheels

# A wheel and a source distribution of the engine and of the grading platform, in dist.
dist: setup
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/uv build --quiet --out-dir dist src/grading

# The documents of events, from their types and examples.
schemas: setup
	$(BIN)/python -m entitlements.contracts.events docs/events conformance/events

lock:
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-dev.in --constraint requirements.txt --output-file requirements-dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
