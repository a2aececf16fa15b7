# Each target makes .venv if it is missing and installs what it needs. Without make: see the table in README.md
PY := .venv/bin/python
.PHONY: setup train test notebooks lab
.DEFAULT_GOAL := setup

setup: .venv/.installed

.venv/.installed: settings.ini setup.py constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info<(3,11) and "miniai needs Python 3.11 or newer; python3 here is "+sys.version.split()[0])'
	@test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@test ! -e .git || .venv/bin/nbdev_install_hooks
	@touch $@

train: setup   ## ARGS="--epochs 20" passes options on to miniai-train
	@.venv/bin/miniai-train $(ARGS)

test: setup
	$(PY) tools/notebooks.py check
	$(PY) tools/notebooks.py test
	$(PY) -m pytest tests

notebooks: setup   ## run all pages afresh and save their outputs; PAGES="03_learner" for some
	.venv/bin/nbdev_export
	$(PY) tools/notebooks.py run $(PAGES)
	$(PY) tools/notebooks.py readme

lab: setup
	$(PY) -m pip install --quiet jupyterlab
	.venv/bin/jupyter lab nbs
