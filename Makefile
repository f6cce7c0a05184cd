# Neo's commands. On a fresh machine `make train` and `make test` are all there is to type:
# both first make .venv, with every dependency and the compiled extension in it.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
TASK    ?= glyphs
DATA    ?=
RUN     ?=
ARGS    ?=
DEBUG   ?=
WORKERS ?= 2

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check
SEEN := $(VENV)/.installed$(if $(DEBUG),-debug)

EXTENSIONS := $(shell find neo tasks -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.cpp')

# Test processes run side by side, so each computes on one thread; together they fill the machine.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help env train evaluate mnist test test-slow test-all test-sanitized peers bench bench-guard bench-jax triton picture lint format types wheel sdist-test freeze clean

help:  ## show this list
	@echo "usage: make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(SEEN)  ## make .venv and build the extension (PYTHON=..., DEBUG=1 for a checked build)

$(SEEN): pyproject.toml setup.py constraints.txt $(EXTENSIONS)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Neo needs Python 3.11 or newer, got '$(PYTHON)'; name one with PYTHON=..."; exit 1; }
	@test -x $(BIN)/pip || { \
	  echo "make: creating $(VENV) with $(PYTHON)"; \
	  "$(PYTHON)" -m venv $(VENV) > /dev/null || { \
	    "$(PYTHON)" -m venv --clear --without-pip $(VENV) && \
	    "$(PYTHON)" -m pip --python $(BIN)/python install -q pip; }; }
	@echo "make: installing what constraints.txt lists (about a minute; longer where torch comes with CUDA)"
	@$(PIP) install -q -c constraints.txt setuptools cython torch
	@NEO_DEBUG_BUILD=$(DEBUG) $(PIP) install -q -c constraints.txt --no-build-isolation -e ".[dev]"
	@rm -f $(VENV)/.installed*
	@touch $@
	@echo "make: $(VENV) is ready"

train: env  ## meta-train (TASK=glyphs, or TASK=omniglot DATA=folder; ARGS="trainer.iterations=400 ...")
	@$(BIN)/python scripts/train.py task=$(TASK) $(if $(DATA),'data_dir="$(subst ','\'',$(DATA))"') $(ARGS)

evaluate: env  ## test a finished run on unseen tasks (RUN=folder)
	@test -n '$(subst ','\'',$(RUN))' || { echo "make: evaluate needs the folder of a run, got none; make evaluate RUN=..."; exit 1; }
	@$(BIN)/python scripts/evaluate.py 'run_dir="$(subst ','\'',$(RUN))"' $(ARGS)

mnist: env  ## train the 784-256-64-10 perceptron with Neo and with PyTorch, side by side
	@$(BIN)/python scripts/mnist.py $(ARGS)

test: env peers triton  ## run the tests, the slow ones left out (ARGS="-k maml ...")
	$(PYTEST) -m "not slow" $(ARGS)

# pytest's exit code 5 means that it found no such test, which is no failure here.
test-slow: env peers triton  ## run only the slow tests, the exhaustive ones left out
	$(PYTEST) -m "slow and not exhaustive" $(ARGS) || test $$? -eq 5

test-all: env peers triton  ## run every test: an hour or two
	$(PYTEST) $(ARGS)

# Minutes: the kernels are built in a copy, with every access to memory checked; needs gcc's libasan and libubsan.
test-sanitized: env  ## run the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(BIN)/python .ci/check_sanitized.py $(ARGS)

# Best effort: where learn2learn cannot be built, the script says why in one line and the tests that
# compare with it skip with that reason. NEO_REQUIRE_PEERS=1 makes both an error.
peers: env  ## build learn2learn 0.2.0 into .venv, for the tests that compare with it
	@$(BIN)/python tests/peers/build_learn2learn.py || test -z "$(NEO_REQUIRE_PEERS)"

# Apart from .[dev], for it is 200 MB to fetch and 700 to keep. Best effort too, with NEO_REQUIRE_TRITON=1 for a must.
triton: env  ## install Triton into .venv, for the tests of its kernels (torch's CUDA builds bring it along)
	@$(PIP) install -q -c constraints.txt triton || test -z "$(NEO_REQUIRE_TRITON)"

# higher without its dependencies, which are torch alone; learn2learn as the tests have it.
bench: env peers  ## Neo against its peers, into docs/benchmarks.md (ARGS="works=[w1] rounds=5"; quick=true to try)
	@$(PIP) install -q --no-deps higher==0.2.1
	@$(BIN)/python scripts/bench.py $(ARGS)

bench-guard: env peers  ## exit 1 if a ratio to a peer lost more than 15% against docs/benchmarks.json
	@$(PIP) install -q --no-deps higher==0.2.1
	@$(BIN)/python scripts/bench.py guard=true $(ARGS)

bench-jax: env  ## an environment with JAX, which make bench then takes in as one more peer
	@$(BIN)/python -m venv $(VENV)/jax
	@$(VENV)/jax/bin/python -m pip --disable-pip-version-check install -q "jax>=0.10,<0.11" numpy

picture: env  ## draw docs/tape.svg anew, from the code in docs/tape.md; needs graphviz
	@$(BIN)/python scripts/picture.py

lint: env  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: env  ## repair style and formatting where a machine can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: env  ## check types
	@$(BIN)/mypy
	@MYPYPATH=meta/template $(BIN)/mypy meta/template/my_project/*.py  # excluded above: a project of its own

wheel: env  ## build a wheel into dist/, in an isolated environment
	@rm -rf build/lib  # or what has been deleted since would still be packed
	@$(PIP) wheel -q --no-deps -w dist .

sdist-test: env  ## build the sdist, install it elsewhere, import it there: does everything travel?
	@$(BIN)/python .ci/check_sdist.py

freeze: env  ## write the versions in .venv to constraints.txt
	@sed '/^[^#]/d' constraints.txt > $(VENV)/frozen
	@$(PIP) list --format=freeze --exclude neo-meta --exclude learn2learn --exclude higher --exclude pip | \
	  sed 's/+.*//' >> $(VENV)/frozen
	@mv $(VENV)/frozen constraints.txt && touch $(SEEN)

clean:  ## remove .venv, builds and tool caches (never runs or data)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find neo tasks -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
