"Every name that version 0.1 exported is still where it was"

import json
from importlib import import_module

import pytest
from make_v0_1 import DATA

NAMES = json.loads((DATA / 'names.json').read_text())


@pytest.mark.parametrize('module', NAMES)
def test_old_names(module):
    m = import_module(module)
    gone = [o for o in NAMES[module]['exported'] if not hasattr(m, o)]
    assert not gone, f'{module} lacks {", ".join(gone)}'
    hidden = sorted(set(NAMES[module]['exported']) - set(m.__all__))
    assert not hidden, f'{", ".join(hidden)} are not in the __all__ of {module}'


@pytest.mark.parametrize('module', [k for k, v in NAMES.items() if v['others']])
def test_old_names_that_were_not_exported(module):
    "What tests, pages and other modules imported all the same"
    gone = [o for o in NAMES[module]['others'] if not hasattr(import_module(module), o)]
    assert not gone, f'{module} lacks {", ".join(gone)}'
