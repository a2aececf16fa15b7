"""Progress where people look: a log file, a real terminal, a notebook

And what a saved notebook keeps of it.
"""

import sys

import nbformat, pexpect, pytest
import children
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

pytestmark = pytest.mark.slow  # each a process or a kernel of its own

CODE = '''
import sys, time, torch, torch.nn.functional as F
from torch import nn
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import *
from miniai.xtras import set_seed
set_seed(0)
def tl(n): return TensorLoader(torch.randn(n, 4), torch.arange(n)%3, 16)
class SlowCB(Callback):
    def before_batch(self, learn): time.sleep(.02)
class BadCB(Callback):
    def after_epoch(self, learn):
        if learn.epoch==1: raise ValueError('oops')
def learner(*cbs, plot=False):
    return TrainLearner(
        nn.Linear(4, 3), DataLoaders(tl(160), tl(32)), F.cross_entropy,
        cbs=[ProgressCB(plot=plot), SlowCB(), *cbs])
'''


def test_one_plain_line_an_epoch_when_nobody_looks():
    res = children.python(CODE + 'learner().fit(3)')
    lines = res.stdout.splitlines()
    assert (
        len(lines) == 3
        and [o[:7] for o in lines] == ['epoch 1', 'epoch 2', 'epoch 3']
        and 'valid loss' in lines[0]
    )
    assert not res.stderr and '\r' not in res.stdout


def test_plot_without_a_notebook_says_so():
    assert (
        'notebooks only' in children.python(CODE + 'learner(plot=True).fit(1)').stdout
    )


def test_a_loader_without_length():
    assert (
        children.python(
            CODE + "l = learner(); l.dls = DataLoaders((b for b in tl(64)), tl(32)); "
            "l.fit(1)"
        ).returncode
        == 0
    )


def terminal(code):
    child = pexpect.spawn(
        sys.executable,
        ['-c', CODE + code],
        cwd=str(ROOT),
        encoding='utf-8',
        timeout=children.LIMIT,
        dimensions=(30, 120),
    )
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus


def test_a_terminal_has_a_bar_and_a_table():
    out, status = terminal('learner().fit(2)')
    assert status == 0
    assert (
        'epoch 1/2 train loss' in out
        and 'epoch 2/2 train loss' in out
        and '/24 [' in out
    )  # a bar over the whole fit
    assert out.count('train loss  valid loss') == 1  # the header, once
    assert 'Traceback' not in out


def test_a_terminal_shows_an_error_after_closing_the_bar():
    out, status = terminal('learner(BadCB()).fit(3)')
    assert status == 1 and '(raised in BadCB.after_epoch)' in out


def notebook(*cells, fails=False):
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(o) for o in (CODE, *cells)]
    )
    try:
        NotebookClient(nb, timeout=children.LIMIT, kernel_name='python3').execute()
    except CellExecutionError:
        if not fails:
            raise
    return [c.outputs for c in nb.cells[1:]]


def mimes(outputs):
    return [sorted(o.data) if 'data' in o else o.output_type for o in outputs]


def test_a_saved_notebook_keeps_one_static_table():
    shown, named, later, again = notebook(
        'learner().fit(3)',
        'h = learner().fit(1)',
        'h',
        'l = learner(); l.fit(1); l.history',
    )
    assert (
        mimes(shown) == [['text/markdown', 'text/plain']]
        and shown[0].data['text/markdown'].count('\n') == 4
    )
    assert mimes(named) == [['text/markdown', 'text/plain']]
    assert mimes(later) == [
        ['text/markdown', 'text/plain']
    ]  # asked for in another cell: shown
    assert len(again) == 1
    assert 'progress' not in str(shown)


def test_a_failing_fit_leaves_the_rows_it_had():
    (outputs,) = notebook('learner(BadCB()).fit(3)', fails=True)
    assert (
        outputs[0].data['text/markdown'].count('\n') >= 2
        and outputs[-1].output_type == 'error'
    )
    assert '<progress' not in str(outputs[0])


def test_the_live_plot_is_one_picture():
    (outputs,) = notebook('learner(plot=True).fit(3)')
    assert sum('image/png' in o.get('data', {}) for o in outputs) == 1


def test_without_progress_the_history_shows_itself():
    a, b = notebook('l = learner(); l.cbs = []; l.fit(2)', 'print(l.history)')
    assert mimes(a) == [['text/markdown', 'text/plain']] and 'train loss' in b[0].text
