"Who only looks leaves no trace: one list of things, for all who look"

import random
from functools import partial

import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import miniai.augment, miniai.summary  # noqa: F401
from miniai.checkpoint import CheckpointCB
from miniai.datasets import DataLoaders
from miniai.learner import TrainLearner
from miniai.preserve import preserved, trial

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(24) % 3)


def seeded(n=5):
    return torch.Generator().manual_seed(n)


class Stateful:
    "A loader that knows where it is"

    def __init__(self):
        self.at = 0

    def __iter__(self):
        for _ in range(3):
            i = self.at % 3
            self.at += 1
            yield DATA[8 * i : 8 * i + 8]

    def __len__(self):
        return 3

    def state_dict(self):
        return dict(at=self.at)

    def load_state_dict(self, state):
        self.at = state['at']


LOADERS = dict(
    plain=lambda: DataLoader(DATA, 8, shuffle=True),
    generator=lambda: DataLoader(DATA, 8, shuffle=True, generator=seeded()),
    sampler=lambda: DataLoader(
        DATA, 8, sampler=RandomSampler(DATA, generator=seeded())
    ),
    batch_sampler=lambda: DataLoader(
        DATA,
        batch_sampler=BatchSampler(RandomSampler(DATA, generator=seeded()), 8, False),
    ),
    stateful=Stateful,
)


def model(lazy=False):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    head = nn.Linear(144, 3)
    if lazy:
        conv, norm, head = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(3)
    return nn.Sequential(conv, norm, nn.Dropout(0.5), nn.Flatten(), head)


def learner(loader='plain', lazy=False):
    dls = DataLoaders(LOADERS[loader](), LOADERS[loader]())
    opt = partial(optim.SGD, momentum=0.9)
    return TrainLearner(model(lazy), dls, F.cross_entropy, 0.01, opt_func=opt)


LOOKS = dict(
    lr_find=lambda learn: learn.lr_find(plot=False),
    capture_preds=lambda learn: learn.capture_preds(),
    show_image_batch=lambda learn: learn.show_image_batch(max_n=1),
    summary=lambda learn: learn.summary(),
)


def everything(learn):
    "All that there is on the list, as something that can be compared"
    m, opt = learn.model, learn.opt
    state = {k: v.tolist() for k, v in m.state_dict().items()}
    grads = [None if p.grad is None else p.grad.tolist() for p in m.parameters()]
    modes = [o.training for o in m.modules()]
    moving = groups = None
    if opt:
        moving = [opt.state[p]['momentum_buffer'].tolist() for p in m.parameters()]
        groups = [
            {k: v for k, v in g.items() if k != 'params'} for g in opt.param_groups
        ]
    numbers = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    batches = [[y.tolist() for _, y in dl] for dl in (learn.dls.train, learn.dls.valid)]
    return dict(
        state=state,
        grads=grads,
        modes=modes,
        moving=moving,
        groups=groups,
        numbers=numbers,
        batches=batches,
    )


def seed():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('look', LOOKS)
@pytest.mark.parametrize('trained', [False, True])
def test_a_look_leaves_no_trace(look, loader, trained):
    def made(looked):
        seed()
        learn = learner(loader)
        if trained:
            learn.fit(1)
            F.cross_entropy(learn.model(X), DATA.tensors[1]).backward()
        learn.model[0].eval()
        if looked:
            LOOKS[look](learn)
        return everything(learn)

    assert made(True) == made(False)


@pytest.mark.parametrize('look', LOOKS)
def test_a_lazy_model_is_lazy_again(look):
    "And trains to the same bits as one that nobody looked at"

    def made(looked):
        seed()
        learn = learner(lazy=True)
        kinds = [type(m) for m in learn.model]
        if looked:
            LOOKS[look](learn)
            assert [type(m) for m in learn.model] == kinds
            assert all(o.has_uninitialized_params() for o in (learn.model[0],))
        learn.fit(1)
        assert type(learn.model[4]) is nn.Linear
        return everything(learn)

    assert made(True) == made(False)


@pytest.mark.parametrize('loader', LOADERS)
def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted(loader, tmp_path):
    def run(epochs, **kw):
        seed()
        learn = learner(loader)
        learn.fit(epochs, cbs=CheckpointCB(tmp_path / 'run', quiet=True, **kw))
        return learn

    seed()
    whole = learner(loader)
    whole.fit(3)
    want = everything(whole)
    run(2)
    got = everything(run(3, resume=True))
    assert got == want


def test_an_optimiser_that_goes_on_is_lent_as_well():
    learn = learner()
    learn.fit(1)
    before = everything(learn)
    with trial(learn) as lent:
        lent.fit(2, reset_opt=False, lr=0.5)
        assert lent.opt is learn.opt and lent.opt.param_groups[0]['lr'] == 0.5
    after = everything(learn)
    assert {k: before[k] for k in ('state', 'moving', 'groups')} == {
        k: after[k] for k in ('state', 'moving', 'groups')
    }


def test_what_fails_inside_is_put_back_too():
    m = model()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    opt = optim.Adam(m.parameters())
    with pytest.raises(KeyError), preserved(m, opt, None):
        F.cross_entropy(m(X), DATA.tensors[1]).backward()
        opt.step()
        assert opt.state
        opt.add_param_group(dict(params=[nn.Parameter(torch.ones(1))]))
        raise KeyError('inside')
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    assert not opt.state and len(opt.param_groups) == 1 and m[0].weight.grad is None


def test_one_that_cannot_be_put_back_does_not_keep_the_others():
    class Broken(Stateful):
        def load_state_dict(self, state):
            raise OSError('gone')

    a, b = Stateful(), Stateful()
    with pytest.raises(OSError, match='gone'), preserved(a, Broken(), b):
        list(a), list(b)
    assert a.at == b.at == 0
