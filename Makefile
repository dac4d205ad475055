# `make demo` and `make test` set up .venv on their first call, and again when the
# requirements change.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
# Many tests wait for processes: one more worker than processors takes less time.
PYTEST := -m pytest --dist worksteal -n $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# Modules are compiled when they are first imported, not all of them when they are installed; and
# compiled ones are kept, whatever the environment says: the tests start hundreds of processes.
INSTALL := -m pip install --quiet --no-compile -c constraints.txt
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test fuzz kills mutants coverage audit lint docs

demo: $(VENV)/installed
	$(RUN) dataset_prep.py --demo --datadir $(DEMO)/CMU_MOSEI
	$(RUN) main_msaf.py --datadir $(DEMO)/CMU_MOSEI --train --overwrite \
		--checkpointdir $(DEMO)/checkpoints --resultdir $(DEMO)/result

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(RUN) $(PYTEST)

# Hostile files through both programs: N of each kind, drawn by SEED.
N ?= 200
SEED ?= 1
fuzz: $(VENV)/installed-dev
	$(RUN) -m tests.fuzz --n $(N) --seed $(SEED)

# SIGKILLs at random moments, and small changes to the code that the tests should notice.
kills: $(VENV)/installed-dev
	$(RUN) -m tests.fuzz.kills --n $(N) --seed $(SEED)

mutants: $(VENV)/installed-dev
	$(RUN) -m tests.mutation

# Lines and branches that the tests reach, by room.
coverage: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(RUN) $(PYTEST) --cov --cov-report= $(TESTS)
	@for room in system data models utils; do \
		echo "$$room: $$($(RUN) -m coverage report --include="$$room/*" | tail -n 1)"; done

# Known weaknesses of the packages that are installed, from PyPI's list.
audit: $(VENV)/installed-dev
	$(RUN) -m pip_audit --skip-editable

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy
	$(RUN) -m benchmarks.run --check

docs: $(VENV)/installed
	$(RUN) -m docs.make_options

$(VENV)/installed: requirements.txt constraints.txt | $(VENV)
	$(RUN) $(INSTALL) -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) $(INSTALL) -r requirements-dev.txt
	touch $@

# A half-made one is removed, after Ctrl-C too: make would take it for a whole one.
$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	trap : INT TERM; $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
