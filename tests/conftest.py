"Small data and small models that the tests share"

import os, signal, subprocess, sys
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'agg')
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell that starts the tests in the background lets them ignore Ctrl-C

import pytest, torch
import torch.nn.functional as F
from torch import nn

from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import TrainLearner
from miniai.xtras import set_seed

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)


@pytest.fixture(scope='session')
def root():
    return ROOT


@pytest.fixture
def dls():
    "96 training and 50 validation items of 4 numbers each, 3 classes, batches of 16"

    def tl(n, shuffle):
        return TensorLoader(torch.randn(n, 4), torch.arange(n) % 3, 16, shuffle)

    return DataLoaders(tl(96, True), tl(50, False), classes=list('abc'))


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def learner(dls):
    "Makes a learner; keywords go to `TrainLearner`"

    def make(model=None, **kw):
        return TrainLearner(
            model or mlp(),
            kw.pop('dls', dls),
            kw.pop('loss_func', F.cross_entropy),
            **kw,
        )

    return make


def python(code, *args, **kw):
    "Run `code` in a new Python and return what it did"
    return subprocess.run(
        [sys.executable, '-c', code, *args],
        capture_output=True,
        text=True,
        cwd=kw.pop('cwd', ROOT),
        **kw,
    )
