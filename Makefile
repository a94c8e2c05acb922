# Everything from a fresh clone: the virtual environment in .venv, the installation, then the job.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart published test short cluster faults test-slow lint benchmark schema reference docs

quickstart: .venv/installed
	$(BIN)/python run_suite.py suites/quickstart.yaml

published: .venv/installed  # what results/published/ shows, again: about two hours on two cores
	for suite in quickstart fashion_mnist; do \
		$(BIN)/python run_suite.py suites/$$suite.yaml || exit; \
		rm -rf results/published/$$suite && cp -R results/$$suite results/published/ || exit; \
		rm results/published/$$suite/suite.json || exit; \
	done

test: .venv/developer
	$(MAKE) --jobs 2 short lint cluster  # beside the short tests, first lint, then the cluster, which mostly waits

short: .venv/developer
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not cuda and not slurm"

cluster: .venv/developer
	$(BIN)/python -m pytest tests/slurm -m "not slow"

faults: .venv/developer  # the fault-injection suite, in full: half an hour
	$(BIN)/python -m pytest -s tests/faults

test-slow: .venv/developer  # all tests but those of `make faults`, without the shortcuts of tests/few.py
	$(BIN)/python -m pytest --whole -n 2 --dist worksteal -m "not cuda and not slurm" --ignore tests/faults
	$(BIN)/python -m pytest --whole -m "cuda or slurm"

schema: .venv/developer  # for editors, which complete and check suite files
	$(BIN)/python -m bench.suite.json_schema > suites/suite.schema.json

reference: .venv/developer  # what each method adds to a training step, and the marked places of the pages in docs/reference
	$(BIN)/python -m benchmarks.counts > .costs && mv .costs methods/costs.csv || { rm -f .costs; exit 1; }
	PYTHONPATH=docs $(BIN)/python -m generated

docs: .venv/developer  # the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

benchmark: .venv/developer
	$(BIN)/python -m benchmarks

lint: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/developer: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
