# Each target makes .venv if it is missing and installs what it needs. Without make: see the table in README.md
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.exit(sys.version_info<(3,11))' 2>/dev/null && echo $(p))))
PY := .venv/bin/python
.PHONY: setup train test notebooks docs docs-serve lab bench soak
.DEFAULT_GOAL := setup

setup: .venv/.installed

# nbdev's hooks look for its programs on the PATH, and register with Jupyter in the home folder; both is kept inside .venv
.venv/.installed: settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo 'miniai needs Python 3.11 or newer; none was found (PYTHON=/path/to/python names one)'; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mkdir -p .venv/home
	@test ! -d .git || HOME=$(CURDIR)/.venv/home .venv/bin/nbdev_install_hooks
	@test ! -d .git || { git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P'; printf '#!/bin/sh\n.venv/bin/nbdev_trust\n' > .git/hooks/post-merge; }
	@touch $@

train: setup   ## ARGS="--epochs 20" passes options on to miniai-train
	@.venv/bin/miniai-train $(ARGS)

test: setup
	$(PY) tools/notebooks.py check
	$(PY) tools/notebooks.py test
	$(PY) -m pytest tests

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

soak: setup   ## kill runs, train for long, damage files (about twenty minutes); see page 11
	$(PY) benchmarks/soak.py $(ARGS)

# Other libraries' counters, in an environment of their own that borrows PyTorch from .venv
bench: setup   ## count ten networks with miniai, torchinfo, fvcore and FlopCounterMode; see page 08
	@test -x .venv-bench/bin/python || $(PY) -m venv .venv-bench
	$(PY) tools/link_packages.py .venv-bench/bin/python torch torchvision torcheval datasets huggingface_hub pyarrow fastcore matplotlib ipython numpy pillow safetensors tqdm
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	PYTHONPATH=. .venv-bench/bin/python benchmarks/counts.py
