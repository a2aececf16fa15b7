"Small data and small models that the tests share, and how tests are chosen and shared out"

import os, re, signal, sys

os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.setdefault('OMP_NUM_THREADS', '1')  # half the time, and quiet beside others
# a shell that starts the tests in the background lets them ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from children import ROOT

# PyTorch is imported further down: the process that shares tests out does not need it

# which tests, in which order ----------------------------------------------------------

FIRST = ['test_site.py', 'test_pages.py', 'test_faults.py', 'test_train.py']
# a site, a browser, an environment, a whole run: whoever needs one waits for it
SLOW = {'site', 'browser', 'wheel', 'out', 'run_once'}
if sys.platform == 'win32':  # signals, terminals and limits of memory as Unix has them
    collect_ignore = [
        f'test_{o}.py' for o in 'faults security progress processes'.split()
    ]


def pytest_addoption(parser):
    parser.addoption('--page', help='only that page, and the quick tests of its module')


@pytest.hookimpl(tryfirst=True)  # before -m is obeyed
def pytest_collection_modifyitems(config, items):
    "What takes long comes first"
    items.sort(key=lambda o: FIRST.index(o.path.name) if o.path.name in FIRST else 99)
    for o in items:
        if SLOW & set(o.fixturenames):
            o.add_marker('slow')
    if page := config.getoption('page'):
        if not (ROOT / 'nbs' / f'{page}.ipynb').exists():
            raise pytest.UsageError(
                f'There is no page {page} in nbs/; 03_learner is one'
            )
        items[:] = [o for o in items if belongs(o, page)]


def belongs(item, page):
    "Is it the run of the page called `page`, or a quick test of its module?"
    if item.path.name == 'test_pages.py':
        return item.name == f'test_page[{page}]'
    module = re.sub(r'^\d+[a-z]?_', '', page)
    if item.get_closest_marker('slow') or item.get_closest_marker('hostile'):
        return False
    text = item.path.read_text(encoding='utf-8')
    return item.path.stem == f'test_{module}' or f'miniai.{module}' in text


@pytest.hookimpl(optionalhook=True)  # also without pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    "Shared out by file, so that what a file makes is made once; each page by itself"
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split('::')[0]
            return nodeid if file.endswith('test_pages.py') else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


# small data and small models ----------------------------------------------------------


@pytest.fixture(autouse=True)
def seeded():
    from miniai.xtras import set_seed

    set_seed(0)


@pytest.fixture(scope='session')
def root():
    return ROOT


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    "A folder with 600 pictures of Fashion-MNIST to train and 100 to test, as on the hub"
    from miniai.datasets import load_dd

    folder, dd = tmp_path_factory.mktemp('small'), load_dd()
    for split, n in (('train', 600), ('test', 100)):
        dd[split].select(range(n)).to_parquet(folder / f'{split}.parquet')
    return folder


@pytest.fixture
def dls():
    "96 training and 50 validation items of 4 numbers each, 3 classes, batches of 16"
    import torch

    from miniai.datasets import DataLoaders, TensorLoader

    def tl(n, shuffle):
        return TensorLoader(torch.randn(n, 4), torch.arange(n) % 3, 16, shuffle)

    return DataLoaders(tl(96, True), tl(50, False), classes=list('abc'))


def mlp():
    from torch import nn

    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def learner(dls):
    "Makes a learner; keywords go to `TrainLearner`"
    import torch.nn.functional as F

    from miniai.learner import TrainLearner

    def make(model=None, **kw):
        return TrainLearner(
            model or mlp(),
            kw.pop('dls', dls),
            kw.pop('loss_func', F.cross_entropy),
            **kw,
        )

    return make
