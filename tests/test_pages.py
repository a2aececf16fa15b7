"Every page runs from its first cell to its last, in a process of its own"

import os

import children
import pytest
from children import ROOT

PAGES = sorted(o.stem for o in (ROOT / 'nbs').glob('*.ipynb'))
CODE = (
    'import sys; from nbdev.test import nbdev_test; '
    'nbdev_test(path=sys.argv[1], n_workers=0, do_print=True)'
)


@pytest.mark.slow
@pytest.mark.parametrize('name', PAGES)
def test_page(name):
    page = ROOT / 'nbs' / f'{name}.ipynb'
    res = children.python(CODE, page, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert res.returncode == 0, res.stdout + res.stderr
