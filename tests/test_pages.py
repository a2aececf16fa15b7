"Every page runs from its first cell to its last, in a process of its own"

import ctypes, multiprocessing, os, signal, sys

import children
import nbformat, pytest
from children import ROOT

PAGES = sorted(o.stem for o in (ROOT / 'nbs').glob('*.ipynb'))
# What pages import and takes seconds is loaded once, in a process that each begins as a copy
# of. Not miniai: what one page patches, another must not find.
LIBRARIES = 'torch torchvision torcheval.metrics datasets matplotlib.pyplot nbdev.test'


@pytest.fixture(scope='session')
def context():
    "Makes processes; only Linux makes such copies safely"
    linux = sys.platform == 'linux'
    ctx = multiprocessing.get_context('forkserver' if linux else 'spawn')
    if linux:
        ctx.set_forkserver_preload(LIBRARIES.split())
    return ctx


def work(page, log):
    "Run the notebook `page` in this process; all that is printed goes to the file `log`"
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG: ends with the tests
    os.setsid() if hasattr(os, 'setsid') else None
    with open(log, 'w') as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    from nbdev.test import nbdev_test

    nbdev_test(path=page, n_workers=0, do_print=True)


def run_page(context, page, log):
    "How the process ended that ran the notebook `page`"
    p = context.Process(target=work, args=(page, log))
    p.start()
    p.join(children.LIMIT)
    if p.exitcode is None:
        os.killpg(p.pid, signal.SIGKILL) if hasattr(os, 'killpg') else p.kill()
        p.join()
    return p.exitcode


@pytest.mark.slow
@pytest.mark.parametrize('name', PAGES)
def test_page(name, context, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    log = tmp_path / 'log'
    code = run_page(context, ROOT / 'nbs' / f'{name}.ipynb', log)
    assert code == 0, log.read_text(errors='replace')[-20_000:]


@pytest.mark.slow
def test_a_page_that_fails_is_noticed(context, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = [nbformat.v4.new_code_cell(o) for o in ('a = 1', 'assert a == 2, "why"')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / 'page.ipynb')
    assert run_page(context, tmp_path / 'page.ipynb', tmp_path / 'log') == 1
    assert 'AssertionError: why' in (tmp_path / 'log').read_text()
