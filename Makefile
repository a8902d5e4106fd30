# On a fresh machine `make demo` and `make test` are all there is to type: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak lint check docs bench format clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[cpu,serve,onnx,litert,int8,sign]' --group dev
	# Of itself KerasHub asks for a second, larger TensorFlow, which image models never import.
	$(BIN)/python -m pip install --quiet --no-deps 'keras-hub>=0.32'
	touch $@

demo: .venv/ready  ## the main job in a minute, without network
	$(BIN)/regraft demo --overwrite

test: .venv/ready  ## the tests, one or a few of many alike
	$(BIN)/python -m pytest -n 3 --dist worksteal

soak: .venv/ready  ## the rest: every family of backbones, the long sweeps
	$(BIN)/python -m pytest -n 2 -m soak

lint: .venv/ready  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint  ## the same and the fast tests: before every commit
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not soak"

docs: .venv/ready  ## the documentation site, in build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

.venv-user/ready: pyproject.toml
	$(PYTHON) -m venv .venv-user
	.venv-user/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-user/bin/python -m pip install --quiet --editable '.[cpu]' --group bench
	touch $@

# ONLY="startup taps" some of them, QUICK=1 a few minutes' proof that all work, AGAIN=1 also what is known.
bench: .venv-user/ready  ## all benchmarks, on ../shared, as a user installs it; makes docs/benchmarks.md
	.venv-user/bin/python benchmarks/bench.py $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(AGAIN),--again)

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-user demo run build dist
