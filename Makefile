# Each target makes .venv if it is missing and installs what it needs. Without make: see the table in README.md
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.exit(sys.version_info<(3,11))' 2>/dev/null && echo $(p))))
PY := .venv/bin/python
.PHONY: setup train lint fast test notebooks docs docs-serve lab bench bench-test soak
.DEFAULT_GOAL := setup

setup: .venv/.installed

# nbdev's hooks look for its programs on the PATH, and register with Jupyter in the home folder; both is kept inside .venv
.venv/.installed: settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo 'miniai needs Python 3.11 or newer; none was found (PYTHON=/path/to/python names one)'; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mkdir -p .venv/home
	@test ! -d .git || HOME=$(CURDIR)/.venv/home .venv/bin/nbdev_install_hooks
	@test ! -d .git || { git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P'; printf '#!/bin/sh\n.venv/bin/nbdev_trust\n' > .git/hooks/post-merge; printf '#!/bin/sh\nexec .venv/bin/ruff check\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit; }
	@touch $@

train: setup   ## ARGS="--epochs 20" passes options on to miniai-train
	@.venv/bin/miniai-train $(ARGS)

lint: setup   ## what ruff (ruff.toml) and import-linter (tools/floors.ini) have to say
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports tools/floors.ini

# As many processes as there are cores (JOBS=4 says how many); what takes long comes first
PYTEST = $(PY) -m pytest tests -n $(or $(JOBS),auto) --durations=10

fast: setup   ## export, lint, and the tests that are quick; PAGE=03_learner: that page, and the tests of its module
	.venv/bin/nbdev_export
	@$(MAKE) --no-print-directory lint
	$(PYTEST) $(if $(PAGE),--page $(PAGE),-m "not slow and not hostile and not soak")

test: lint   ## everything: what is made from the notebooks is up to date, pages run, tests pass
	$(PY) tools/notebooks.py check
	$(PYTEST)

notebooks: setup   ## export, run pages afresh and save their outputs; PAGES="03_learner" for some
	.venv/bin/nbdev_export
	$(PY) tools/notebooks.py run $(PAGES)
	$(PY) tools/notebooks.py readme

docs: setup   ## the website, in _docs/; QUARTO=1 renders it with Quarto
	$(PY) tools/docs.py $(if $(QUARTO),--quarto)

docs-serve: setup   ## shows it on localhost
	$(PY) tools/docs.py serve

lab: setup
	$(PY) -m pip install --quiet jupyterlab
	JUPYTER_CONFIG_PATH=$(CURDIR)/.venv/home/.jupyter .venv/bin/jupyter lab nbs

soak: setup   ## kill runs, train for long, damage files (about half an hour); see page 11
	$(PYTEST) -m soak
	$(PY) benchmarks/soak.py $(ARGS)

# Other libraries, in an environment of their own that borrows PyTorch from .venv
BENCH := .venv-bench/.installed
$(BENCH): benchmarks/requirements.txt tools/link_packages.py .venv/.installed
	@rm -rf .venv-bench && $(PY) -m venv .venv-bench
	$(PY) tools/link_packages.py .venv-bench/bin/python torch torchvision torcheval datasets huggingface_hub pyarrow matplotlib ipython numpy pillow safetensors filelock tqdm accelerate
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

bench: setup $(BENCH)   ## beside other libraries: counts (page 08), compare, growth (page Results); WHAT="compare" for some, ARGS="--rounds 1"
	for o in $(or $(WHAT),counts compare growth); do PYTHONPATH=. .venv-bench/bin/python benchmarks/$$o.py $(ARGS) || exit 1; done

bench-test: setup $(BENCH)   ## the tests of the package in that environment, whose fastcore is newer than the one nbdev allows
	PYTHONPATH=. .venv-bench/bin/python -m pytest tests/test_xtras.py tests/test_learner.py tests/test_callbacks.py tests/test_datasets.py tests/test_summary.py tests/test_augment.py tests/test_accel.py tests/test_checkpoint.py
