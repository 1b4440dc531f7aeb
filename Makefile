# `make serve` and `make test` are all a newcomer needs; both set up what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test faults flood schema fal-suite setup lint types bench exam clean

serve: $(VENV)/.engine  ## start gateway and engine on the embedded model, print the canvas URL
	$(BIN)/realtime serve $(ARGS)

setup: $(VENV)/.engine $(VENV)/.test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# Progress is pip's own: torch alone is 200 MB.
$(VENV)/.engine: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the service and its engine (torch, diffusers, transformers); a few minutes the first time"
	@$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[engine]'
	@touch $@

# Status 75: something that only some tests need is not on this machine; they skip, and say so. No stamp then.
$(VENV)/.test: $(VENV)/.engine $(wildcard tests/*/package.json tests/*/package-lock.json)
	@echo "installing what the tests need (pytest, JavaScript clients, a browser if there is none)"
	@$(PIP) -e '.[engine,test]'
	@$(BIN)/python -m tests.browser.install && touch $@ || test $$? -eq 75

# Two turns: what keeps to its own process on all cores, then servers, engines and browsers, which want them for
# themselves. Status 5: ARGS choose no test of that turn.
test: $(VENV)/.test  ## everything that fits a laptop; about a quarter of an hour on two cores
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal -m "not proc and not net" $(ARGS); one=$$?; \
	test $$one -eq 0 -o $$one -eq 5 || exit $$one; \
	$(BIN)/python -m pytest -m "proc or net" $(ARGS); other=$$?; \
	test $$other -ne 5 || exit $$one; exit $$other

faults: $(VENV)/.test  ## 200 random kill -9 of gateway and engine over 500 queued requests; about ten minutes
	RT_TEST_FAULTS=1 $(BIN)/python -m pytest -s tests/faults/test_queue.py $(ARGS)

flood: $(VENV)/.test  ## a million messages of each bad and empty kind; some minutes
	FLOOD_MESSAGES=1000000 $(BIN)/python -m pytest tests/realtime/test_load.py -k tiny_messages $(ARGS)

schema: $(VENV)/.test  ## 200 examples for each operation of the OpenAPI document; about ten minutes
	RT_TEST_EXAMPLES=200 $(BIN)/python -m pytest tests/contract/test_schema.py $(ARGS)

fal-suite: $(VENV)/.test  ## fal-client's own tests, downloaded and run against a server of ours
	$(BIN)/python -m tests.contract.fal_suite $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.lint $(VENV)/.engine
	$(BIN)/mypy

$(VENV)/.lint: $(VENV)/.engine
	@$(PIP) -e '.[lint]' && touch $@

bench: $(VENV)/.bench  ## the latency lab: gateway, engine, goodput; results in bench/results
	$(BIN)/python -m bench $(ARGS)

exam: $(VENV)/.bench  ## the exam of the embedded model, about half an hour; sheets in build/exam
	$(BIN)/python -m bench embedded $(ARGS)

$(VENV)/.bench: $(VENV)/.test
	@$(PIP) -e '.[bench]' && touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info tests/contract/node_modules tests/browser/node_modules
