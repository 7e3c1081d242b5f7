# Two commands matter: `make demo` (an assistant from real posts) and `make test`.

BIN := .venv/bin
SHARED ?= $(wildcard ../shared)

.PHONY: demo test fast check setup system bench-peers clean

demo: setup
	$(BIN)/wingspan run examples/laptop

test: setup system
	$(if $(SHARED),WINGSPAN_SHARED=$(abspath $(SHARED))) $(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart 0 --cov --cov-report=term:skip-covered $(PYTEST)

fast: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(PYTEST)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The environment: exact pins, remade when they change.
setup: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml scripts/setup.sh
	scripts/setup.sh
	touch $@

# What tests need beyond Python (Chromium); installed where that is allowed, else those tests are skipped.
system:
	scripts/system.sh

# The peers of the benchmarks, each in an environment of its own.
bench-peers:
	scripts/bench_peers.sh

bench-%: setup
	$(BIN)/python benchmarks/$*.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
