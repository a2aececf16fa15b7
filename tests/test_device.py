"""On a GPU (CUDA) or on Apple's (MPS): what the other tests ask of the CPU

Skipped where there is neither. MINIAI_DEVICE=cpu runs them on the CPU, to try the tests.
"""

import copy, os
from functools import partial

import pytest, torch
import torch.nn.functional as F
from PIL import Image
from torch import nn, optim

import miniai.all as m
from miniai.accel import Compile, product_seconds
from miniai.checkpoint import CheckpointCB
from miniai.conv import check_device, collate_device
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.learner import DeviceCB, MetricsCB, TrainLearner
from miniai.models import get_learner
from miniai.preserve import unchanged
from miniai.runs import numbers_used
from miniai.train import load_run, run_training
from miniai.xtras import set_seed

DEVICE = os.environ.get('MINIAI_DEVICE') or (
    'cuda'
    if torch.cuda.is_available()
    else 'mps'
    if torch.backends.mps.is_available()
    else None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEVICE, reason='there is no GPU, neither CUDA nor MPS'),
]


@pytest.fixture(scope='module')
def dls():
    "512 pictures of Fashion-MNIST to train, 512 to look at"
    return get_dls(bs=64, limit=512, valid=0.2)


def resnet(device=DEVICE):
    set_seed(0)
    return m.get_resnet(norm=nn.BatchNorm2d, device=device)


def make(dls, *cbs, model=None, device=DEVICE, lr=0.002, **kw):
    place = [DeviceCB(device), MetricsCB(accuracy=m.Accuracy())]
    return TrainLearner(
        model or resnet('cpu'), dls, F.cross_entropy, lr, [*place, *cbs], **kw
    )


def where(model):
    return {o.device.type for o in (*model.parameters(), *model.buffers())}


def kind(device=DEVICE):
    return torch.device(device).type


def by_tensor(n=64, shuffle=False):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 28, 28, generator=g)
    return TensorLoader(x, torch.arange(n) % 10, 16, shuffle)


def test_a_fit_learns_and_everything_is_there(dls):
    learn = make(dls, opt_func=optim.AdamW)
    rows = learn.fit(3)
    assert rows[-1]['train_loss'] < rows[0]['train_loss']
    assert rows[-1]['train_accuracy'] > 0.3
    assert where(learn.model) == {kind()}


def test_a_step_is_that_of_the_cpu():
    "In float32, to what the order of sums may change"
    got = {}
    for device in ('cpu', DEVICE):
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU())
        set_seed(0)
        model.append(nn.Linear(32, 10))
        for o in model.parameters():
            nn.init.normal_(o, std=0.05)
        learn = make(DataLoaders(by_tensor(), by_tensor()), model=model, device=device)
        learn.fit(2)
        got[device] = {k: v.cpu() for k, v in model.state_dict().items()}
        got[device]['loss'] = torch.tensor(learn.history[-1]['valid_loss'])
    for k, v in got['cpu'].items():
        torch.testing.assert_close(got[DEVICE][k], v, rtol=2e-3, atol=2e-4)


def test_broken_and_resumed_goes_on(dls, tmp_path):
    class Plug(m.Callback):
        def before_epoch(self, learn):
            if learn.epoch == 2:
                raise RuntimeError('the plug')

    def learn(*cbs):
        return make(dls, CheckpointCB(tmp_path, resume=True, quiet=True), *cbs)

    with pytest.raises(RuntimeError, match='the plug'):
        learn(Plug()).fit(3)
    second = learn()
    rows = second.fit(3)
    assert [o['epoch'] for o in rows] == [1, 2, 3] and where(second.model) == {kind()}
    assert rows[2]['train_loss'] < rows[0]['train_loss']
    state = second.opt.state_dict()['state'].values()
    moved = [v for s in state for v in s.values() if torch.is_tensor(v) and v.ndim]
    assert {o.device.type for o in moved} <= {kind()}


def test_random_states_of_the_device_are_kept():
    x = torch.zeros(1, device=DEVICE)
    with m.same_random_state():
        a = torch.rand_like(x)
    b = torch.rand_like(x)
    assert a.item() == b.item()


def test_fast_is_right(dls):
    cbs, kw, said = m.fast(DEVICE)
    learn = make(dls, *cbs, opt_func=partial(optim.AdamW, **kw))
    rows = learn.fit(3)
    assert rows[-1]['train_accuracy'] > 0.3 and said in numbers_used(DEVICE)
    assert all(o.dtype == torch.float32 for o in learn.model.parameters())


def test_low_precision_is_one_that_the_device_multiplies():
    dtype = m.low_precision(DEVICE)
    if dtype is not None:
        x = torch.ones(8, 8, device=DEVICE, dtype=dtype)
        assert (x @ x).sum().item() == 512
    assert product_seconds(torch.float32)[0] > 0


@pytest.mark.parametrize(
    'cb',
    [m.GradClip(), m.GradAccum(512), m.ChannelsLast()],
    ids=lambda o: type(o).__name__,
)
def test_callbacks_of_speed_and_thrift(dls, cb):
    rows = make(dls, cb).fit(1)
    assert rows[-1]['train_loss'] < 3


def test_a_compiled_model_trains():
    if kind() != 'cuda':
        pytest.skip('compiled for CUDA and the CPU only')
    two = DataLoaders(by_tensor(), by_tensor())
    assert len(make(two, Compile()).fit(1)) == 1


def test_the_summary_counts_what_it_counts_on_the_cpu():
    x = torch.randn(16, 1, 28, 28)
    here, there = (m.summarize(resnet(o), x.to(o)) for o in ('cpu', DEVICE))
    for o in ('total_params', 'total_macs', 'activation_bytes'):
        assert getattr(here, o) == getattr(there, o), o


def test_learner_summary_leaves_the_model_where_it_is(dls):
    learn = make(dls, model=resnet())
    learn.summary()
    assert where(learn.model) == {kind()}


def test_a_run_predicts(tmp_path):
    run_training(
        2, 64, limit=512, device=DEVICE, out=tmp_path / 'o', quiet=True, lr=0.01
    )
    picture = tmp_path / 'a.png'
    Image.new('L', (28, 28), 90).save(picture)
    there = load_run(tmp_path / 'o', DEVICE)
    here = load_run(tmp_path / 'o', 'cpu')
    assert where(there.model) == {kind()}
    a, b = there.predict(picture), here.predict(picture)
    assert a.label == b.label
    assert a.probs == pytest.approx(b.probs, abs=0.02)


def test_a_recipe_runs(tmp_path):
    run = run_training(
        1, recipe='94', limit=1024, device=DEVICE, out=tmp_path / 'o', quiet=True
    )
    assert run.config['result']['accuracy'] > 0.1


def test_one_process_of_accelerate(dls):
    learn = TrainLearner(
        resnet(), dls, F.cross_entropy, 0.01, m.AccelerateCB(cpu=kind() == 'cpu')
    )
    assert len(learn.fit(1)) == 1 and where(learn.model) == {kind()}


def test_what_looks_leaves_no_trace(dls):
    "The finder, predictions, batches that are shown: weights and modes are as before"
    learn = make(dls, model=resnet())
    before = copy.deepcopy(learn.model.state_dict())
    with unchanged(learn.model):
        learn.model(torch.randn(4, 1, 28, 28, device=DEVICE))
    learn.lr_find(plot=False, max_epochs=1)
    preds, targs = learn.capture_preds()
    assert len(preds) == len(targs) == 512 and preds.device.type == 'cpu'
    for k, v in learn.model.state_dict().items():
        assert torch.equal(v, before[k]), k
    assert where(learn.model) == {kind()}


def test_statistics_and_hooks(dls):
    stats = m.ActivationStats(lambda o: isinstance(o, nn.Conv2d))
    make(dls, stats).fit(1)
    assert len(stats.hooks) > 3 and len(stats.hooks[0].stats[0]) >= len(dls.train)
    cbs = [
        m.BatchTransformCB(
            partial(m.tfm_batch, tfm_x=nn.Sequential(m.RandFlip(), m.RandErase()))
        )
    ]
    assert len(make(dls, *cbs).fit(1)) == 1


@pytest.mark.parametrize('opt', [m.SGD, m.RMSprop, m.Adam, m.AdamW])
def test_our_own_optimisers(dls, opt):
    two = DataLoaders(by_tensor(shuffle=True), by_tensor())
    rows = make(two, opt_func=opt, lr=0.001).fit(2)
    assert rows[-1]['train_loss'] < 10


def test_test_time_augmentation(dls):
    learn = make(dls, model=resnet())
    learn.fit(1)
    preds, targs = learn.tta()
    assert len(preds) == 512 and torch.isfinite(preds).all()


def test_what_takes_a_device_takes_this_one():
    x = {'a': [torch.ones(2), 3], 'b': (torch.zeros(1),)}
    moved = m.to_device(x, DEVICE)
    assert moved['a'][0].device.type == moved['b'][0].device.type == kind()
    assert m.to_cpu(moved)['a'][0].device.type == 'cpu'
    assert check_device(DEVICE).type == kind()
    assert collate_device([(torch.ones(1), 0)] * 2, DEVICE)[0].device.type == kind()
    assert m.device_of(resnet()).type == kind()


def test_the_learner_of_the_command(dls):
    learn = get_learner(dls, DeviceCB(DEVICE), 1, 0.01, [], True, None)
    assert len(learn.fit(1)) == 1 and where(learn.model) == {kind()}
