"The one table with the order of all callbacks, and the floors the learner stands on"

import importlib
import re

import pytest
import children
from conftest import ROOT

from miniai.events import ORDER, Callback


def modules():
    "All modules of the package that need nothing to be imported"
    names = sorted(
        p.stem for p in (ROOT / 'miniai').glob('[a-z]*.py') if p.stem != 'all'
    )
    return [importlib.import_module(f'miniai.{o}') for o in names]


def test_every_order_is_the_one_in_the_table():
    found = {}
    for m in modules():
        for nm, o in vars(m).items():
            public = isinstance(o, type) and issubclass(o, Callback) and nm[0] != '_'
            if public and 'order' in vars(o):
                found[nm] = o.order
    assert found == {'Callback': 0, **ORDER}


@pytest.mark.slow
@pytest.mark.parametrize(
    'nm', ['events', 'guards', 'preserve', 'history', 'progress', 'finder']
)
def test_floors_below_the_learner_do_not_load_it(nm):
    res = children.python(
        f'import sys, miniai.{nm}; print("miniai.learner" in sys.modules)'
    )
    assert res.stdout.strip() == 'False', res.stderr
    text = (ROOT / 'miniai' / f'{nm}.py').read_text(encoding='utf-8')
    assert not re.search(r'^from \.\w+ import .*\b_[a-z]', text, re.M)


def test_names_that_the_learner_hands_on_are_those_of_the_floors_below():
    learner = importlib.import_module('miniai.learner')
    for nm in ('events', 'guards', 'preserve', 'history', 'progress', 'finder'):
        m = importlib.import_module(f'miniai.{nm}')
        for o in set(m.__all__) & set(vars(learner)):
            assert getattr(learner, o) is getattr(m, o), o
