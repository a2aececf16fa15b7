"""Several processes that train together: the same numbers as one

Everything is shown and written once.
"""

import json, os, shutil, signal, sys
from functools import partial
from subprocess import PIPE

import pytest, torch
import children
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)

from miniai.accel import AccelerateCB, Sharded, part, whole_batch_norm
from miniai.datasets import TensorLoader
from miniai.learner import DeviceCB, TrainLearner

SCRIPT = '''
import json, sys, torch
from contextlib import suppress
import torch.distributed as dist
import torch.nn.functional as F
from pathlib import Path
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torcheval.metrics import MulticlassF1Score
from miniai.accel import AccelerateCB, GradAccum
import miniai.augment
from miniai.checkpoint import CheckpointCB
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import (
    Accuracy, Callback, MetricsCB, ProgressCB, SaveHistoryCB, TrainLearner)
from miniai.sgd import RecorderCB
from miniai.xtras import is_main, set_seed

class Stop(Callback):
    def __init__(self, epoch): self.epoch = epoch
    def before_epoch(self, learn):
        if learn.epoch==self.epoch: raise SystemExit(0)

def train(out, o):
    out.mkdir(exist_ok=True)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(203, 1, 8, 8, generator=g, dtype=torch.float64)
    y = (x.mean((1,2,3))*16).round().long().clamp(-2, 2)+2
    def dl(x, y, bs, shuffle):
        return DataLoader(
            TensorDataset(x, y), bs, shuffle, num_workers=o.get('workers', 0)
        ) if o.get('stock') else TensorLoader(x, y, bs, shuffle)
    dls = DataLoaders(dl(x, y, o.get('bs', 40), True), dl(x[:101], y[:101], 50, False))
    set_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(o.get('dropout', 0.)),
        nn.Flatten(), nn.BatchNorm1d(288, momentum=None), nn.Linear(288, 5)).double()
    losses = RecorderCB(loss=lambda cb: cb.learn.loss)
    share = AccelerateCB(sync_bn=o.get('sync_bn', True), cpu=True)
    cbs = [
        share,
        MetricsCB(
            accuracy=Accuracy(), f1=MulticlassF1Score(num_classes=5, average='macro')),
        ProgressCB(), losses, Stop(o.get('stop')), SaveHistoryCB(out/'history.csv')]
    if 'checkpoints' in o:
        cbs.append(CheckpointCB(out/o['checkpoints'], resume=o.get('resume', False)))
    if 'accum' in o: cbs.append(GradAccum(o['accum']))
    set_seed(o.get('seeds', [1]*9)[share.i])
    learn = TrainLearner(model, dls, F.cross_entropy, 1e-2, cbs, optim.AdamW)
    if is_main(): print('===', out.name, flush=True)
    learn.fit(o.get('epochs', 2))
    preds,targs,inps = learn.capture_preds(inps=True)
    assert torch.equal(targs, y[:101]) and torch.equal(inps, x[:101])
    assert learn.model is model and 'forward' not in vars(model[1])
    weights = [p.sum().item() for p in model.parameters()]
    everybody = share.collect([
        weights, preds.tolist(), [b.double().sum().item() for b in model.buffers()]])
    rows = [{k: v for k,v in r.items() if k!='time'} for r in learn.history]
    if is_main():
        (out/'result.json').write_text(json.dumps(dict(
            losses=[o.item() for o in losses.recs['loss']], history=rows,
            everybody=everybody)))

for name, options in json.loads(sys.argv[2]).items():
    with suppress(SystemExit): train(Path(sys.argv[1])/name, options)
if dist.is_initialized(): dist.destroy_process_group()
'''


ONE = {**os.environ, 'OMP_NUM_THREADS': '1'}  # one thread for each process


def torchrun(n, *args, **kw):
    return children.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            f'--nproc-per-node={n}',
            *map(str, args),
        ],
        env=ONE,
        **kw,
    )


def together(where, n, **trainings):
    """What the script above wrote in `n` processes, and what they printed

    `trainings` are dicts of options, one after the other in folders of these names.
    """
    (where / 'script.py').write_text(SCRIPT)
    res = torchrun(n, where / 'script.py', where, json.dumps(trainings))
    assert res.returncode == 0, res.stderr[-4000:]
    said = {o.split('\n')[0]: o for o in res.stdout.split('=== ')[1:]}
    paths = {o: where / o / 'result.json' for o in trainings}
    return {
        k: (json.loads(v.read_text()) if v.exists() else None, said[k])
        for k, v in paths.items()
    }


def same(a, b, eps):
    torch.testing.assert_close(
        torch.tensor(a, dtype=torch.float64),
        torch.tensor(b, dtype=torch.float64),
        rtol=eps,
        atol=eps,
    )


LATER = dict(epochs=3, dropout=0.3, checkpoints='c')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('together')


@pytest.fixture(scope='module')
def of_one(folder):
    "Trainings of one process"
    return together(folder, 1, one={}, accum=dict(accum=2))


@pytest.fixture(scope='module')
def of_two(folder):
    "Trainings of two processes"
    return together(
        folder,
        2,
        stock=dict(stock=True, workers=1),
        own_norms=dict(sync_bn=False, bs=51),
        accum_2=dict(accum=2),
        whole=LATER,
        part=dict(LATER, stop=1),
    )


@pytest.fixture(scope='module')
def of_three(folder):
    "A training of three processes"
    return together(folder, 3, seeds=dict(seeds=[1, 5, 7]))


@pytest.mark.slow
@pytest.mark.parametrize('several, name', [('of_two', 'stock'), ('of_three', 'seeds')])
def test_as_many_processes_as_one_likes_do_what_one_does(
    of_one, several, name, folder, request
):
    """Losses, metrics, weights and predictions, whatever seeds the others have

    Batches of 40, the last of 3, with AdamW and BatchNorm, in float64.
    """
    one, (res, said) = of_one['one'], request.getfixturevalue(several)[name]
    same(res['losses'], one[0]['losses'], 1e-9)
    for a, b in zip(res['history'], one[0]['history'], strict=True):
        same([a[k] for k in a], [b[k] for k in b], 1e-6)  # metrics are float32
    first = res['everybody'][0]
    for a, b in zip(first, one[0]['everybody'][0]):
        same(a, b, 1e-7)
    assert all(o == first for o in res['everybody']), 'the processes disagree'
    assert [o.split('time')[0] for o in said.splitlines()[1:]] == [
        o.split('time')[0] for o in one[1].splitlines()[1:]
    ]  # every line once
    assert len((folder / name / 'history.csv').read_text().splitlines()) == 3


@pytest.mark.slow
def test_without_shared_batch_norm_all_have_the_same_model_and_judge_by_it(of_two):
    a, b = of_two['own_norms'][0]['everybody']
    assert a[:2] == b[:2] and a[2] == b[2]


@pytest.mark.slow
def test_accumulated_steps_are_those_of_one_process(of_one, of_two):
    same(of_one['accum'][0]['losses'], of_two['accum_2'][0]['losses'], 1e-9)


@pytest.mark.slow
def test_a_run_of_two_goes_on_to_the_same_bits(of_two, folder):
    "With dropout, for which each process has random numbers of its own"
    whole = of_two['whole'][0]
    assert (folder / 'part' / 'c' / 'epoch_0001.safetensors').exists() and not (
        folder / 'part' / 'result.json'
    ).exists()
    rest, said = together(folder, 2, part=dict(LATER, resume=True))['part']
    assert (
        rest['history'] == whole['history']
        and rest['everybody'] == whole['everybody']
        and said.count('goes on after epoch 1') == 1
    )
    # a finished run, and one process
    alone, _ = together(folder, 1, part=dict(LATER, resume=True))['part']
    assert alone['history'] == whole['history']


@pytest.mark.slow
def test_the_command_notices_that_there_are_two(small, tmp_path):
    res = torchrun(
        2,
        '-m',
        'miniai.train',
        '--data',
        small,
        '--epochs',
        1,
        '--bs',
        100,
        '--device',
        'cpu',
        '--out',
        'run',
        cwd=tmp_path,
    )
    assert res.returncode == 0, res.stderr[-4000:]
    assert (
        '2 processes, each on cpu (1 thread)' in res.stdout
        and res.stdout.count('epoch 1 ') == res.stdout.count('Test accuracy') == 1
    )
    assert {o.name for o in (tmp_path / 'run').iterdir()} == {
        'config.json',
        'curve.png',
        'metrics.csv',
        'model.safetensors',
    }
    found = torchrun(2, '-m', 'miniai.train', '--data', small, '--lr', -1, cwd=tmp_path)
    assert (
        found.returncode
        and found.stderr.count('the learning rate should be a number above 0') == 1
    )
    assert 'KeyboardInterrupt' not in found.stderr  # of the one that torchrun ended
    assert not (tmp_path / 'runs').exists()  # of a run that never began


@pytest.mark.slow
def test_a_run_of_two_that_was_stopped_goes_on_with_two_and_with_one(small, tmp_path):
    cmd = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node=2',
        '-m',
        'miniai.train',
        '--data',
        small,
        '--epochs',
        '12',
        '--bs',
        '100',
        '--device',
        'cpu',
        '--out',
        'run',
    ]
    with children.start(cmd, cwd=tmp_path, stdout=PIPE, stderr=PIPE, env=ONE) as p:
        for line in p.stdout:
            if line.startswith('epoch 2 '):
                break
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=children.LIMIT)[1]
    assert err.count('To go on: miniai-train --resume run') == 1, err[-3000:]
    shutil.copytree(tmp_path / 'run', tmp_path / 'alone')
    options = json.loads((tmp_path / 'run' / 'options.json').read_text())
    two = torchrun(2, '-m', 'miniai.train', '--resume', 'run', cwd=tmp_path)
    one = children.run(
        [sys.executable, '-m', 'miniai.train', '--resume', 'alone', '--quiet'],
        cwd=tmp_path,
    )
    for res, where in ((two, 'run'), (one, 'alone')):
        assert res.returncode == 0, res.stderr[-3000:]
        rows = (tmp_path / where / 'metrics.csv').read_text().splitlines()
        assert len(rows) == 1 + options['epochs'] and [
            int(o.split(',')[0]) for o in rows[1:]
        ] == list(range(1, 13))


# in this process ----------------------------------------------------------------------


def test_parts_are_the_whole():
    for n in range(20):
        for k in range(1, 8):
            assert [o for i in range(k) for o in part(range(n), i, k)] == list(range(n))


@pytest.mark.parametrize('drop_last', [False, True])
def test_nobody_is_left_without_an_item(drop_last):
    dl = TensorLoader(torch.arange(9.0), torch.arange(9), 4, drop_last=drop_last)
    shards = [Sharded(dl, i, 3) for i in range(3)]
    assert [[len(yb) for _, yb in o] for o in shards] == [
        [1, 1, 1][: 2 + (not drop_last)],
        [1, 1, 1][: 2 + (not drop_last)],
        [2, 2, 1][: 2 + (not drop_last)],
    ]
    assert [len(o) for o in shards] == [2 + (not drop_last)] * 3 and shards[0].bs == 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.randn(8, 4))


@pytest.mark.parametrize(
    'dl',
    [
        DataLoader(Stream()),
        DataLoader(TensorDataset(torch.randn(4, 1)), batch_size=None),
        [torch.randn(2, 2)],
    ],
)
def test_what_cannot_be_divided_is_refused(dl):
    with pytest.raises(TypeError, match='cannot be divided among processes'):
        Sharded(dl, 0, 2)


def test_a_loader_that_is_divided_already_is_refused():
    data = TensorDataset(torch.randn(8, 1))
    dl = DataLoader(data, 4, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    with pytest.raises(TypeError, match='leave the sampler away'):
        Sharded(dl, 0, 2)


@pytest.mark.parametrize(
    'loss',
    [
        nn.CrossEntropyLoss(reduction='sum'),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        partial(F.cross_entropy, reduction='sum'),
    ],
)
def test_a_loss_that_is_no_mean_is_refused(dls, loss):
    cb = AccelerateCB(cpu=True)
    with pytest.raises(ValueError, match='plain mean over the items'):
        cb.begin_together(TrainLearner(nn.Linear(4, 3), dls, loss, cbs=cb))


def test_one_process_is_an_ordinary_training(dls):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learn = TrainLearner(
        model, dls, F.cross_entropy, 0.1, AccelerateCB(sync_bn=True, cpu=True)
    )
    assert len(learn.fit(2)) == 2 and learn.model is model
    learn.lr_find(plot=False)


def test_a_second_place_is_refused(dls):
    learn = TrainLearner(
        nn.Linear(4, 3),
        dls,
        F.cross_entropy,
        cbs=[AccelerateCB(cpu=True), DeviceCB('cpu')],
    )
    with pytest.raises(ValueError, match='leave the DeviceCB away'):
        learn.fit(1)


@pytest.mark.parametrize(
    'kw', [{}, dict(affine=False), dict(momentum=None), dict(track_running_stats=False)]
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_batch_norm_of_one_part_is_that_of_pytorch(kw, dtype, monkeypatch):
    monkeypatch.setattr(
        'torch.distributed.all_reduce', lambda t: None
    )  # the sum over one process
    from copy import deepcopy

    a = nn.BatchNorm2d(5, **kw)
    if a.affine:
        nn.init.normal_(a.weight)
        nn.init.normal_(a.bias)
    b = deepcopy(a)
    xs = [(torch.randn(6, 5, 4, 4) * 3 + 2).to(dtype) for _ in range(3)]
    for x in xs:
        p, q = x.clone().requires_grad_(), x.clone().requires_grad_()
        g = torch.randn_like(x)
        a(p).backward(g)
        whole_batch_norm(b, q).backward(g)
        tol = (
            dict(rtol=1e-4, atol=1e-4)
            if dtype == torch.float32
            else dict(rtol=0.02, atol=0.05)
        )
        torch.testing.assert_close(whole_batch_norm(b, x), a(x), **tol)
        torch.testing.assert_close(p.grad, q.grad, **tol)
    for u, v in zip(a.buffers(), b.buffers(), strict=True):
        torch.testing.assert_close(u, v, rtol=1e-4, atol=1e-4)
    a.eval()
    b.eval()
    torch.testing.assert_close(
        whole_batch_norm(b, xs[0]), a(xs[0]), rtol=1e-4, atol=1e-4
    )
