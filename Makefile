# Each target does its own set-up: make demo and make test are all that a newcomer needs.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := cpu,serve,train,text,export,sign,data,samples,examples,dev
AT_ONCE ?= 2
export BENTOML_DO_NOT_TRACK := True

.PHONY: install demo test test-all test-faults soak lint format bench schema serving-environment clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@echo "Installing. On a machine without a GPU, installing PyTorch's CPU build first saves several gigabytes (README, Install)."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: install ## the three commands, then one real request
	$(BIN)/python tools/demo.py

test: install ## two files of tests at once, each on one thread; then those of whole servers, which take their time, by themselves
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile -m "not every_model" --ignore tests/e2e
	$(BIN)/python -m pytest tests/e2e

test-all: install
	$(BIN)/python -m pytest

test-faults: install ## what users of other servers reported (docs/faults.md)
	$(BIN)/python -m pytest -m faults

soak: install ## 100,000 requests to the latest package: memory stays flat, nothing is left behind
	$(BIN)/python -m tools.soak

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## writes benchmarks/results/
	$(BIN)/python -m benchmarks.default_model

schema: install ## the JSON Schemas beside docs/package.md
	$(BIN)/python tools/write_schemas.py

serving-environment: install ## pip install .[cpu,serve] elsewhere: below 400 MB, no torch, serves
	$(BIN)/python tools/check_serving_environment.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
