# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUIET := --quiet --disable-pip-version-check
# Threads of two busy torch processes should sleep at barriers, not spin on each other's cores.
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false
# Tests and the demo start hundreds of processes, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo smoke test tests check affected lint contracts types install bench gpu soak snapshots docs site dist lock audit clean

demo: $(VENV)/.ready
	$(BIN)/kdharness --home .demo demo

smoke: $(VENV)/.ready
	$(BIN)/kdharness --home .smoke demo --smoke

# Beside each other: the type checker has one thread, and so has the collection of the tests.
test: $(VENV)/.ready .typing
	$(MAKE) --no-print-directory --jobs 3 lint types tests

tests: $(VENV)/.ready
	$(BIN)/python -m pytest -n 4 --dist worksteal

check: $(VENV)/.ready .typing
	$(MAKE) --no-print-directory --jobs 3 lint types affected

# No test at all (5) is no failure: all of them may be slow.
affected: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow and not model" -n 2 -x $$($(BIN)/python tests/tools/affected.py) \
		|| test $$? -eq 5

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory contracts

# Import contracts, and figures of the house that may not get worse.
contracts: $(VENV)/.ready .typing
	PYTHONPATH=.typing $(BIN)/lint-imports
	$(BIN)/python tests/tools/house.py

types: $(VENV)/.ready .typing
	MYPYPATH=.typing $(BIN)/mypy -p kdharness.harness -p kdharness.trainers -p kdharness.judges \
		-p kdharness.tui -p kdharness.data

bench: $(VENV)/.ready
	$(BIN)/python -m pytest tests/bench/bench_trainers.py tests/bench/bench_app.py -p no:randomly -s
	$(BIN)/python tests/bench/bench_judges.py
	$(BIN)/python tests/bench/bench_cpu.py

# Kernels and short trainings against the CPU, then speed and memory: for a machine with a CUDA GPU.
gpu: $(VENV)/.ready
	$(BIN)/python tests/bench/bench_gpu.py --out gpu.md

# What takes long or breaks things in earnest: docs/reliability.md. The disks need root.
soak: $(VENV)/.ready
	$(BIN)/python tests/soak/soak_kill.py
	$(BIN)/python tests/soak/soak_disk.py
	$(BIN)/python tests/soak/soak_load.py --minutes $(or $(MINUTES),60)

snapshots: $(VENV)/.ready
	$(BIN)/python -m pytest tests/tui --snapshot-update

docs: $(VENV)/.ready
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_config_reference.py

# The docs as a website in site/, every link checked. Its tools have an environment of their own:
# they are in no lock, and the pages need neither torch nor kdharness.
site: $(VENV)-docs/.ready .typing
	$(VENV)-docs/bin/mkdocs build --strict --clean

$(VENV)-docs/.ready: pyproject.toml constraints.txt
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> $(VENV)-docs/requirements.txt
	$(VENV)-docs/bin/python -m pip $(QUIET) install -c constraints.txt -r $(VENV)-docs/requirements.txt
	touch $@

# What would be uploaded to a package index, in dist/, checked. Its tools have an environment of
# their own too.
dist: $(VENV)-dist/.ready
	rm -rf dist
	$(VENV)-dist/bin/python -m build --outdir dist
	$(VENV)-dist/bin/python -m twine check --strict dist/*

$(VENV)-dist/.ready:
	test -x $(VENV)-dist/bin/python || $(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip $(QUIET) install build twine
	touch $@

install: $(VENV)/.ready

# After a change of versions: needs uv (pip install uv).
lock:
	$(PYTHON) tests/tools/make_lock.py

# Known vulnerabilities in what is locked: needs pip-audit (pip install pip-audit) and PyPI's JSON.
audit:
	pip-audit --disable-pip --require-hashes --requirement requirements.lock

# Everything but torch and Triton is checked against its hash; the second step adds these two, and
# what else torch's build needs.
$(VENV)/.ready: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("kdharness needs Python 3.11 or newer; run: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUIET) --no-deps --only-binary :all: --require-hashes \
		-r requirements.lock
	$(BIN)/python -m pip install $(QUIET) --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

# Type checkers and import-linter cannot see an editable install's mapping of folders to packages.
.typing:
	mkdir -p .typing/kdharness
	for name in harness trainers judges tui data; do ln -sfn ../../$$name .typing/kdharness/$$name; done

lint types: .typing

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-dist .typing .demo .smoke build dist site *.egg-info
