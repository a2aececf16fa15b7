"A resumed run ends at the same bits as one never broken, or says why it cannot"

import math, random
from functools import partial

import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn, optim
from torch.optim import lr_scheduler as sch
from torch.utils.data import DataLoader, TensorDataset

from miniai import sgd
from miniai.accel import ChannelsLast, GradAccum, GradClip, MixedPrecision
from miniai.activations import ActivationStats
from miniai.checkpoint import (
    BestWeightsCB,
    CheckpointCB,
    CheckpointError,
    EarlyStoppingCB,
    ExplainNaN,
    best_epoch,
    first_not_finite,
    pack,
    read_checkpoint,
    write_checkpoint,
)
from miniai.datasets import DataLoaders
from miniai.learner import (
    Accuracy,
    Callback,
    CancelEpochException,
    CancelFitException,
    Learner,
    MetricsCB,
    MomentumLearner,
    ProgressCB,
    TrainCB,
    TrainLearner,
)
from miniai.sgd import BatchSchedCB, EpochSchedCB, RecorderCB
from miniai.xtras import set_seed

N = 5  # epochs; six batches each


class Plug(Callback):
    "Pull the plug before an epoch"

    order = -5

    def __init__(self, epoch):
        self.epoch = epoch

    def before_epoch(self, learn):
        if learn.epoch == self.epoch:
            raise RuntimeError('the plug')


class Noise(Callback):
    "Uses all three kinds of random numbers"

    def before_batch(self, learn):
        learn.batch = (
            learn.batch[0]
            + 0.01 * (random.random() + np.random.rand() + torch.rand(1)),
            *learn.batch[1:],
        )


def make(opt=optim.SGD, sched=None, cbs=(), cls=TrainLearner, wrap=None):
    set_seed(3)
    x, y = torch.randint(0, 256, (96, 1, 8, 8), dtype=torch.uint8), torch.arange(96) % 3
    dls = DataLoaders.from_tensors((x, y), (x[:40], y[:40]), bs=16, mean=0.3, std=0.2)
    if wrap:
        wrap(dls)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(144, 3),
    )
    return cls(
        model,
        dls,
        F.cross_entropy,
        0.05,
        [
            MetricsCB(accuracy=Accuracy()),
            Noise(),
            *cbs,
            *([BatchSchedCB(sched)] if sched else []),
        ],
        opt,
    )


def run(folder, kills, n=N, **kw):
    "The learner after `n` epochs, broken before the epochs `kills`"
    for k in kills:
        with pytest.raises(RuntimeError, match='the plug'):
            build(kw).fit(
                n, cbs=[CheckpointCB(folder, resume=True, quiet=True), Plug(k)]
            )
    learn = build(kw)
    learn.fit(n, cbs=CheckpointCB(folder, resume=True, quiet=True))
    return learn


def build(kw):
    return make(**{**kw, 'cbs': kw['cbs']() if 'cbs' in kw else ()})


def rows(learn):
    return [{k: v for k, v in r.items() if k != 'time'} for r in learn.history]


def same(a, b):
    return all(
        torch.equal(v, b.model.state_dict()[k]) for k, v in a.model.state_dict().items()
    ) and rows(a) == rows(b)


SCHEDS = dict(
    none=None,
    onecycle=partial(sch.OneCycleLR, max_lr=0.05, total_steps=6 * N),
    cosine=partial(sch.CosineAnnealingLR, T_max=6 * N),
    multi=partial(sch.MultiStepLR, milestones=[5, 5, 9]),
    lam=partial(sch.LambdaLR, lr_lambda=lambda i: 0.9**i),
    seq=lambda o: sch.SequentialLR(
        o, [sch.LinearLR(o), sch.ExponentialLR(o, 0.99)], milestones=[10]
    ),
    cyclic=partial(
        sch.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=5, cycle_momentum=False
    ),
)
OPTS = dict(
    sgd=partial(optim.SGD, momentum=0.9),
    nesterov=partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01),
    adamw=optim.AdamW,
    fused=partial(optim.AdamW, fused=True),
    rms=partial(optim.RMSprop, momentum=0.9),
    adagrad=optim.Adagrad,
    ours=sgd.AdamW,
    oursgd=partial(sgd.SGD, momentum=0.9),
)
CBS = dict(
    all=lambda: [
        ChannelsLast(),
        MixedPrecision(torch.bfloat16),
        GradClip(0.5),
        GradAccum(4),
        ActivationStats(),
        BestWeightsCB(),
        RecorderCB(lr=lambda cb: cb.pg['lr']),
    ],
    fp16=lambda: [MixedPrecision(torch.float16)],
    epochs=lambda: [EpochSchedCB(partial(sch.StepLR, step_size=2))],
)


RUNS = {
    **{f'sched-{k}': {'sched': v} for k, v in SCHEDS.items()},
    **{f'opt-{k}': {'opt': v} for k, v in OPTS.items()},
    **{f'cbs-{k}': {'cbs': v} for k, v in CBS.items()},
    'everything': {'opt': optim.AdamW, 'sched': SCHEDS['onecycle'], 'cbs': CBS['all']},
    'momentum': {'cls': partial(MomentumLearner, mom=0.8)},
    'learner': {'cls': Learner, 'cbs': lambda: [TrainCB()]},
}


@pytest.mark.slow
@pytest.mark.parametrize('kw', RUNS.values(), ids=RUNS)
def test_broken_and_resumed_is_the_same_run(kw, tmp_path):
    assert same(run(tmp_path / 'a', [], **kw), run(tmp_path / 'b', [0, 1, 1, 3], **kw))


def test_fused_states_are_laid_out_as_their_weights(tmp_path):
    kw = {'opt': partial(optim.AdamW, fused=True), 'cbs': lambda: [ChannelsLast()]}
    learn = run(tmp_path, [2], **kw)
    assert all(
        v.stride() == p.stride()
        for p, s in learn.opt.state.items()
        for v in s.values()
        if v.shape == p.shape
    )


def test_recorders_and_norms_have_all_batches(tmp_path):
    a, b = (
        run(
            tmp_path / o,
            k,
            cbs=lambda: [
                RecorderCB(lr=lambda cb: cb.pg['lr']),
                GradClip(math.inf),
                ActivationStats(),
            ],
            sched=SCHEDS['onecycle'],
        )
        for o, k in (('a', []), ('b', [2, 4]))
    )
    for i, f in enumerate(
        (
            lambda cb: cb.recs['lr'],
            lambda cb: cb.norms,
            lambda cb: torch.stack(cb.hooks[0].stats[0]).tolist(),
        )
    ):
        assert f(a.cbs[2 + i]) == f(b.cbs[2 + i]) and len(f(a.cbs[2 + i])) == 6 * N


class Counting:
    "A loader that knows its position and tells it"

    def __init__(self, dl):
        self.dl, self.n = dl, 0

    def __len__(self):
        return len(self.dl)

    def __iter__(self):
        self.n += 1
        yield from ((xb.float() * self.n, yb) for xb, yb in self.dl)

    def state_dict(self):
        return dict(n=self.n)

    def load_state_dict(self, state):
        self.n = state['n']


def stock(dls):
    dls.train = DataLoader(
        TensorDataset(torch.randn(96, 1, 8, 8), torch.arange(96) % 3),
        16,
        shuffle=True,
        generator=torch.Generator().manual_seed(5),
    )


def counting(dls):
    dls.train = Counting(dls.train)


@pytest.mark.parametrize('wrap', [stock, counting])
def test_loaders_with_a_state_of_their_own(wrap, tmp_path):
    assert same(
        run(tmp_path / 'a', [], wrap=wrap), run(tmp_path / 'b', [1, 3], wrap=wrap)
    )


def test_what_is_kept(tmp_path):
    learn, cb = make(), CheckpointCB(tmp_path, every=2, keep=1, best='loss')
    learn.fit(7, cbs=cb)
    losses = {
        r['epoch']: r['valid_loss'] for r in learn.history if r['epoch'] in (2, 4, 6, 7)
    }
    best = min(losses, key=losses.get)
    assert (
        set(cb.found) == {7, best}
        and cb.best_epoch == best
        and cb.best_path == cb.found[best]
    )
    assert not [
        o
        for o in tmp_path.iterdir()
        if o.name not in ('.lock', *(p.name for p in cb.found.values()))
    ]
    row = (
        make().load(cb.best_path).fit(1, train=False, cbs=[])[0]
    )  # the noise makes another loss of it
    assert row['valid_loss'] == pytest.approx(losses[best], rel=0.05)


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    first = run(tmp_path, [])
    before = {o: o.stat().st_mtime_ns for o in tmp_path.glob('epoch*')}
    again = make()
    again.fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    assert (
        same(first, again)
        and {o: o.stat().st_mtime_ns for o in tmp_path.glob('epoch*')} == before
        and 'nothing is left to do' in capsys.readouterr().out
    )


def test_a_run_without_a_plan_can_be_made_longer(tmp_path):
    run(tmp_path / 'a', [], n=3)
    assert same(run(tmp_path / 'a', [], n=N), run(tmp_path / 'b', [], n=N))


def other_data(dls):
    dls.train.x = dls.train.x.flip(0)


def other_bs(dls):
    dls.train.bs = 24


@pytest.mark.parametrize(
    'kw,why',
    [
        ({'opt': optim.AdamW}, 'optimiser SGD; this one is AdamW'),
        ({'wrap': other_data}, 'train data are not the same: x was'),
        ({'wrap': other_bs}, 'batches was 6 and is 4'),
        (
            {'sched': partial(sch.OneCycleLR, max_lr=0.05, total_steps=99)},
            'for 30 steps; this one is OneCycleLR for 99',
        ),
        ({'sched': SCHEDS['cosine']}, 'OneCycleLR'),
        ({'sched': None}, 'state of callbacks that are not here: BatchSchedCB'),
    ],
    ids=lambda o: o if isinstance(o, str) else '',
)
def test_another_training_is_refused_and_nothing_is_touched(kw, why, tmp_path):
    kw0 = {'sched': SCHEDS['onecycle']}
    run(tmp_path, [], **kw0)
    learn = make(**{**kw0, **kw})
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=why):
        learn.fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    learn.cbs = learn.cbs[:2]
    assert len(learn.fit(1)) == 1


def test_another_model_is_told_by_its_parameters(tmp_path):
    run(tmp_path, [])
    learn = make()
    learn.model[5] = nn.Linear(144, 4)
    with pytest.raises(
        CheckpointError,
        match=r'Of another shape: 5.weight \(3, 144\) instead of \(4, 144\), 5.bias',
    ):
        learn.fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    del learn.model[1]
    with pytest.raises(
        CheckpointError, match='Missing: 4.weight, 4.bias; unknown here: 1.weight'
    ):
        learn.fit(N, cbs=CheckpointCB(tmp_path, resume=True))


def test_other_conditions_are_told(tmp_path):
    run(tmp_path, [], n=2)
    path = tmp_path / 'epoch_0002.safetensors'
    state = read_checkpoint(path)
    state['versions'].update(torch='1.0', threads=77)
    write_checkpoint(path, state)
    with pytest.warns(
        RuntimeWarning, match='threads was 77 and is .*|torch was 1.0 and is'
    ):
        make().fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    learn = make(cbs=[RecorderCB(l=lambda cb: 1)])
    with pytest.warns(RuntimeWarning, match='without the state of RecorderCB'):
        learn.fit(N + 1, cbs=CheckpointCB(tmp_path, resume=True))


@pytest.mark.parametrize('before', [True, False])
def test_whether_progress_is_shown_is_no_condition(tmp_path, before):
    "Nothing is warned of (a warning would be an error here)"
    shown = lambda on: [ProgressCB()] * on
    make(cbs=shown(before)).fit(2, cbs=CheckpointCB(tmp_path))
    learn = make(cbs=shown(not before))
    learn.fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    assert len(learn.history) == N


@pytest.mark.parametrize('before', [True, False])
def test_another_cpu_may_choose_other_numbers(tmp_path, before):
    short = lambda on: [MixedPrecision(torch.bfloat16)] * on
    make(cbs=short(before)).fit(2, cbs=CheckpointCB(tmp_path))
    learn = make(cbs=short(not before))
    with pytest.warns(
        RuntimeWarning,
        match='without MixedPrecision'
        if before
        else 'without the state of MixedPrecision',
    ):
        learn.fit(N, cbs=CheckpointCB(tmp_path, resume=True))
    assert len(learn.history) == N


def test_without_resume_a_run_is_not_written_over(tmp_path):
    run(tmp_path, [], n=2)
    with pytest.raises(FileExistsError, match='holds a run of 2 epochs already'):
        make().fit(N, cbs=CheckpointCB(tmp_path))


def test_what_is_no_training_writes_nothing(tmp_path):
    learn = make(cbs=[CheckpointCB(tmp_path)])
    learn.fit(1, train=False)
    learn.lr_find(max_epochs=1, plot=False)
    assert not list(tmp_path.iterdir())
    learn.fit(2, valid=False)
    assert len(list(tmp_path.glob('epoch*'))) == 2 and learn.cbs[-1].best_path is None


class Cut(Callback):
    "Ends epochs early, by one of the cancels, in `event`"

    def __init__(self, event, exc, epoch=None):
        setattr(self, event, lambda learn: self.cut(learn, exc, epoch))

    def cut(self, learn, exc, epoch):
        if (epoch is None or learn.epoch == epoch) and learn.phase == 'valid':
            raise exc()


def test_epochs_that_are_cut_short_on_purpose_count(tmp_path):
    make().fit(
        3,
        cbs=[
            CheckpointCB(tmp_path / 'a', keep=9),
            Cut('after_batch', CancelEpochException),
        ],
    )
    assert len(CheckpointCB(tmp_path / 'a').found) == 3
    make().fit(
        9,
        cbs=[
            CheckpointCB(tmp_path / 'b', keep=9),
            Cut('after_epoch', CancelFitException, 2),
        ],
    )
    assert (
        len(CheckpointCB(tmp_path / 'b').found) == 2
    )  # not everybody heard of the end of the third, so it would be done again
    make().fit(
        9,
        cbs=[
            CheckpointCB(tmp_path / 'c', keep=9),
            Cut('before_batch', CancelFitException, 2),
        ],
    )
    assert len(CheckpointCB(tmp_path / 'c').found) == 2


def test_wrong_arguments(tmp_path):
    for kw in (
        dict(every=0),
        dict(keep=0),
        dict(best='train_loss'),
        dict(best='test_accuracy'),
    ):
        with pytest.raises(ValueError):
            CheckpointCB(tmp_path, **kw)
    with pytest.raises(ValueError, match="'f1' was not measured"):
        make().fit(1, cbs=CheckpointCB(tmp_path, best='f1'))
    with pytest.raises(ValueError):
        EarlyStoppingCB(patience=0)


class Scripted(Callback):
    "Makes the validation accuracy what the script says"

    order = MetricsCB.order + 0.5

    def __init__(self, *values):
        self.values = values

    def after_epoch(self, learn):
        if learn.phase == 'valid':
            learn.history[-1]['valid_accuracy'] = self.values[learn.epoch]


SCRIPT = (0.1, 0.5, 0.3, math.nan, 0.5, 0.6, 0.2, 0.2, 0.2, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    'patience,min_delta,stops,best',
    [(3, 0.0, 5, 2), (4, 0.0, 10, 10), (4, 0.2, 6, 2), (2, 0.0, 4, 2)],
)
def test_early_stopping_against_a_hand_count(
    patience, min_delta, stops, best, capsys, tmp_path
):
    cbs = lambda: [Scripted(*SCRIPT), EarlyStoppingCB('accuracy', patience, min_delta)]
    learn = make(cbs=cbs())
    learn.fit(10)
    assert (
        len(learn.history) == stops
        and best_epoch(learn.history, 'valid_accuracy', min_delta) == best
    )
    assert (
        f'since epoch {best}; the fit ends after {stops} of 10'
        in capsys.readouterr().out
    ) == (stops < 10)
    a, b = (
        run(tmp_path / 'a', [], n=10, cbs=cbs),
        run(tmp_path / 'b', [2, 3], n=10, cbs=cbs),
    )
    assert (
        len(a.history) == stops
        and same(a, b)
        and same(b, run(tmp_path / 'b', [], n=10, cbs=cbs))
    )


def test_early_stopping_without_validation_says_so():
    with pytest.raises(ValueError, match='fit with valid=True'):
        make(cbs=[EarlyStoppingCB()]).fit(3, valid=False)


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    script = lambda: [Scripted(0.1, 0.9, 0.3, 0.4, 0.5), BestWeightsCB()]
    learn = run(tmp_path, [3, 4], cbs=script)
    two = make().load(tmp_path / 'epoch_0002.safetensors')
    assert all(
        torch.equal(v, two.model.state_dict()[k])
        for k, v in learn.model.state_dict().items()
    )
    last = make().load(tmp_path / 'epoch_0005.safetensors')
    assert (
        not torch.equal(last.model[5].weight, two.model[5].weight)
        and learn.cbs[-1].epoch == 2
    )
    learn = make(cbs=script())
    with pytest.raises(RuntimeError):
        learn.fit(N, cbs=Plug(4))  # at the end of a fit that fails as well
    assert torch.equal(learn.model[5].weight, two.model[5].weight)


def test_save_and_load(tmp_path):
    a, b = make(), make()
    a.fit(1)
    a.save(tmp_path / 'w.safetensors')
    assert b.load(tmp_path / 'w.safetensors') is b and torch.equal(
        a.model[5].weight, b.model[5].weight
    )
    tied = TrainLearner(nn.ModuleDict(dict(a=nn.Linear(3, 3), b=nn.Linear(3, 3))), None)
    tied.model['b'].weight = tied.model['a'].weight
    tied.save(tmp_path / 't.safetensors')
    tied.load(tmp_path / 't.safetensors')
    with pytest.raises(FileNotFoundError):
        a.load(tmp_path / 'none')
    (tmp_path / 'bad').write_bytes(b'PK\3\4 something else')
    with pytest.raises(CheckpointError, match='cannot be read as weights'):
        a.load(tmp_path / 'bad')


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.just(torch.tensor([1.0, 2.0])),
    st.just(torch.tensor(3)),
    st.just(torch.zeros(0)),
    st.just(torch.tensor([1 + 2j])),
    st.just(torch.ones(2, dtype=torch.bfloat16)),
    st.just(torch.tensor([True])),
    st.just(np.arange(3.0)),
)
KEYS = st.one_of(
    st.text(max_size=3),
    st.sampled_from(['$tensor', '$dict', 'a/b']),
    st.integers(),
    st.none(),
    st.tuples(st.integers(), st.text(max_size=2)),
)
TREES = st.recursive(
    LEAVES,
    lambda o: st.one_of(
        st.lists(o, max_size=4),
        st.lists(o, max_size=4).map(tuple),
        st.dictionaries(KEYS, o, max_size=4),
    ),
    max_leaves=12,
)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if type(a) != type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or a != a and b != b


@pytest.mark.slow
@settings(deadline=None, max_examples=150, derandomize=True)
@given(TREES)
def test_every_state_comes_back_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp('c') / 'c.safetensors'
    write_checkpoint(path, {'tree': tree})
    assert equal(read_checkpoint(path)['tree'], tree)


def test_what_cannot_be_held_is_named():
    for bad in (object(), {1, 2}, lambda: 0, torch.zeros(2, 2).to_sparse()):
        with pytest.raises(TypeError, match='/x/0/y'):
            pack({'x': [{'y': bad}]}, {}, '')
    assert pack(list(torch.zeros(100, 2)), t := {}, '') and len(t) == 1


class Bad(nn.Module):
    def forward(self, x):
        return x / 0


@pytest.mark.parametrize(
    'at,what',
    [
        (0, 'the output of 0 (Bad)'),
        (2, 'the output of 2 (Bad)'),
        (4, 'the output of 4 (Bad)'),
    ],
)
def test_the_first_layer_that_is_not_finite(at, what):
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model.insert(at, Bad())
    said = first_not_finite(model, torch.ones(2, 3))
    assert (
        said.endswith(what)
        and not any(m._forward_hooks for m in model.modules())
        and model.training
    )


def test_weights_inputs_and_losses_that_are_not_finite():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert 'loss function' in first_not_finite(
        model, torch.ones(2, 3)
    ) and 'batch itself' in first_not_finite(model, torch.full((2, 3), math.nan))
    with torch.no_grad():
        model[1].bias[0] = math.inf
    assert '1.bias were not finite any more' in first_not_finite(
        model, torch.ones(2, 3)
    )


def test_explain_nan_in_a_fit():
    learn = make()
    learn.model.insert(4, Bad())
    with pytest.raises(
        FloatingPointError, match=r'at train batch 1\..*output of 4 \(Bad\)'
    ):
        learn.fit(1, cbs=ExplainNaN())


class PerClass(Accuracy):
    "A metric of several values, some of them nested"

    def compute(self):
        return {
            'all': super().compute(),
            'pair': (torch.tensor(1.0), torch.tensor([2.0, 3.0])),
        }


def test_a_metric_of_several_values_comes_back(tmp_path):
    def learner():
        learn = make()
        learn.cbs[0] = MetricsCB(accuracy=Accuracy(), per_class=PerClass())
        return learn

    with pytest.raises(RuntimeError):
        learner().fit(3, cbs=[CheckpointCB(tmp_path), Plug(2)])
    a, b = learner(), learner()
    a.fit(3)
    b.fit(3, cbs=CheckpointCB(tmp_path, resume=True, quiet=True))
    assert same(a, b) and isinstance(b.history[0]['valid_per_class'], dict)


class Own(optim.SGD):
    """An optimiser of somebody's own

    It has a flag that turns, a number a parameter, and a setting that is not finite.
    """

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.param_groups[0].update(odd=False, most=math.inf, alpha=2.0)

    def step(self, closure=None):
        g = self.param_groups[0]
        g['odd'] = not g['odd']
        for p in g['params']:
            self.state[p]['n'] = self.state[p].get('n', 0.0) + 1
        return super().step(closure)


class OwnSchedule(sch.LRScheduler):
    "A schedule that remembers in a list, and begins with None"

    def __init__(self, opt):
        self.seen, self.lowest = [], None
        super().__init__(opt)

    def get_lr(self):
        self.seen.append(self.last_epoch)
        self.lowest = min(self.seen)
        return [g['lr'] * 0.95 for g in self.optimizer.param_groups]


def test_what_others_wrote_may_keep_what_it_likes(tmp_path):
    Own.__module__ = OwnSchedule.__module__ = 'somebody'
    kw = {'opt': Own, 'sched': OwnSchedule}
    assert same(run(tmp_path / 'a', [], **kw), run(tmp_path / 'b', [1, 3], **kw))


@pytest.mark.slow
def test_a_compiled_step_goes_on(tmp_path):
    from miniai.accel import Compile

    kw = {
        'opt': optim.AdamW,
        'cbs': lambda: [Compile(model=False, step=True, backend='eager')],
        'sched': SCHEDS['cosine'],
    }
    assert same(run(tmp_path / 'a', [], **kw), run(tmp_path / 'b', [2], **kw))
