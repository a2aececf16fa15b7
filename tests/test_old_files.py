"""Files that version 0.1 wrote are read, and come to the same bits

`make_v0_1.py` made them, with the old package. Bits are compared where
they can be the same: with the PyTorch and on the kind of processor of that time.
Elsewhere the numbers are compared.
"""

import json, pkgutil, shutil, sys, warnings
from contextlib import contextmanager
from importlib import import_module

import numpy as np, pytest, torch
import miniai
from make_v0_1 import (
    DATA,
    EPOCHS,
    bits,
    callbacks_learner,
    conditions,
    images,
    outputs,
    said_of,
    said_of_callbacks,
    said_of_resumed,
    saved_learner,
    small_config,
    weights_sha,
)
from packaging.version import Version

from miniai.checkpoint import CheckpointCB, CheckpointError, read_checkpoint
from miniai.models import ResNetPart
from miniai.train import load_run, resume_training

EXPECTED = json.loads((DATA / 'expected.json').read_text())


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_network(monkeypatch):
    "The command makes the network of the old runs, wherever it finds `model_part`"

    def small_part(*args):
        return ResNetPart(**small_config(*args))

    for o in pkgutil.iter_modules(miniai.__path__):
        import_module(f'miniai.{o.name}')
    for k, module in list(sys.modules.items()):
        if k.startswith('miniai.') and 'model_part' in vars(module):
            monkeypatch.setattr(module, 'model_part', small_part)


@pytest.fixture
def copy(tmp_path):
    return lambda name: shutil.copytree(DATA / name, tmp_path / name)


@pytest.fixture
def other_conditions():
    "The one warning that there may be is that the run is continued by another version"
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*is continued under other conditions')
        yield


@contextmanager
def refused_by_an_older_torch():
    "A PyTorch before that of the files may know their schedule with another state"
    try:
        yield
    except CheckpointError as e:
        older = Version(torch.__version__) < Version(EXPECTED['conditions']['torch'])
        assert older and 'the schedule OneCycleLR should have' in str(e), e


def numbers(o):
    "`o` with its bits turned into numbers that can be compared, or left out"
    if isinstance(o, list):
        return [numbers(v) for v in o]
    if not isinstance(o, dict):
        return o
    res = {k: numbers(v) for k, v in o.items() if k != 'weights'}
    if 'outputs' in o:
        res['outputs'] = np.frombuffer(bytes.fromhex(o['outputs']), np.float32)
    return res


def close(a, b, most=0.02):
    "Are `a` and `b` made alike, with numbers that differ by not more than `most`?"
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k], most) for k in b)
    if isinstance(b, (list, np.ndarray)):
        return len(a) == len(b) and all(close(*o, most) for o in zip(a, b))
    if isinstance(b, (float, np.floating)):
        return a == pytest.approx(b, rel=most, abs=most)
    return a == b


ASKED = 'outputs', 'probs'  # of pictures that `Run.prepare` has prepared


def check(found, name):
    """Raise unless `found` is what version 0.1 found

    But for the last digits of what was asked: version 0.1 prepared a picture with another
    rounding than its loaders, and now it is that of the loaders.
    """
    found, want = json.loads(json.dumps(found)), EXPECTED[name]
    if conditions() != EXPECTED['conditions']:
        assert close(numbers(found), numbers(want))
        return
    want = dict(want)
    parts = [{k: o.pop(k) for k in ASKED if k in o} for o in (found, want)]
    assert close(*map(numbers, parts), 1e-5)
    assert found == want


def test_a_finished_run_predicts_the_same():
    run = load_run(DATA / 'finished', 'cpu')
    check(said_of(run), 'finished')
    assert run.predict(images()[0]).label in run.classes


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits(
    copy, small_network, other_conditions
):
    folder = copy('interrupted')
    with refused_by_an_older_torch():
        check(said_of_resumed(resume_training(folder, quiet=True)), 'resumed')
        names = ['config.json', 'curve.png', 'metrics.csv', 'model.safetensors']
        assert sorted(o.name for o in folder.iterdir()) == names


def test_another_network_is_refused_in_a_sentence(copy, other_conditions):
    with pytest.raises(ValueError, match='These weights are from another model'):
        resume_training(copy('interrupted'), quiet=True)


def test_a_saved_learner_is_loaded():
    learn = saved_learner().load(DATA / 'saved.safetensors')
    check(dict(weights=weights_sha(learn.model), outputs=bits(outputs(learn))), 'saved')


def test_a_learner_with_many_callbacks_goes_on(copy, other_conditions):
    folder, learn = copy('callbacks'), callbacks_learner()
    with refused_by_an_older_torch():
        learn.fit(EPOCHS, cbs=CheckpointCB(folder, resume=True, quiet=True))
        check(said_of_callbacks(learn), 'callbacks')


def test_an_old_checkpoint_says_what_it_is():
    state = read_checkpoint(
        DATA / 'interrupted' / 'checkpoints' / 'epoch_0001.safetensors'
    )
    assert state['epoch'] == 1 and state['n_epochs'] == 3
    assert state['versions']['miniai-nb'] == EXPECTED['version']
