"""Mistakes that the ancestors of this package made; each must not come back

Those of the loop, the data and progress have their own files.
"""

import warnings
from functools import partial

import pytest, torch
import torch.nn.functional as F
from conftest import mlp
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.flop_counter import FlopCounterMode

from miniai.activations import ActivationStats, Hooks, get_hist, get_min
from miniai.conv import conv
from miniai.datasets import DataLoaders
from miniai.init import (
    BatchTransformCB,
    GeneralRelu,
    get_model,
    init_weights,
    lsuv_init,
)
from miniai.learner import (
    Callback,
    CancelFitException,
    MomentumLearner,
    SingleBatchCB,
    TrainLearner,
    unchanged,
)
from miniai.resnet import GlobalAvgPool, ResBlock, get_resnet
from miniai.sgd import SGD, Adam, AdamW, BatchSchedCB, EpochSchedCB, RecorderCB, RMSprop
from miniai.summary import summarize


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def n_hooks(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )


# summary ------------------------------------------------------------------------------


def test_a_summary_changes_nothing(learner):
    learn = learner(
        nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )
    )
    learn.fit(1)
    learn.model.train()
    learn.model[1].eval()
    before, opt, rng, history = (
        state(learn.model),
        learn.opt,
        torch.get_rng_state(),
        learn.history,
    )
    res = learn.summary()
    assert (
        same(before, state(learn.model))
        and learn.opt is opt
        and learn.history is history
        and torch.equal(rng, torch.get_rng_state())
    )
    assert [m.training for m in learn.model] == [True, False, True, True] and n_hooks(
        learn.model
    ) == 0
    assert res.total_params == sum(p.numel() for p in learn.model.parameters())


def test_a_summary_that_fails_changes_nothing_either():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(7, 3))
    before = state(model)
    with pytest.raises(RuntimeError):
        summarize(model, torch.randn(2, 4))
    assert same(before, state(model)) and n_hooks(model) == 0 and model[1].training


class Odd(nn.Module):
    "Not iterable; a 3-d parameter; dicts, tuples and 1-d outputs"

    def __init__(self):
        super().__init__()
        self.lin, self.emb, self.w, self.norm = (
            nn.Linear(4, 4),
            nn.Embedding(7, 4),
            nn.Parameter(torch.zeros(2, 3, 4)),
            nn.LayerNorm(4),
        )
        self.inner = Two()

    def forward(self, x, i=None):
        return self.inner(self.norm(self.lin(x) + self.emb(i)), x=x)


class Two(nn.Module):
    def forward(self, a, x):
        return {'sum': (a + x).sum(1), 'both': (a, [x])}


def test_models_of_every_kind_are_counted():
    model = Odd()
    res = summarize(model, torch.randn(5, 4), i=torch.zeros(5, dtype=torch.long))
    assert [o.module for o in res.rows] == [
        'Linear',
        'Embedding',
        'LayerNorm',
        'Two',
        'Odd itself',
    ]
    assert [o.macs for o in res.rows] == [
        16,
        0,
        0,
        0,
        0,
    ] and res.total_params == 20 + 28 + 24 + 8
    assert res.rows[3].output == {'sum': (5,), 'both': [(5, 4), [(5, 4)]]}
    assert summarize(nn.Linear(4, 3), torch.randn(2, 4)).rows[0].params == 15
    assert 'Linear' in res._repr_markdown_() and 'Linear' in repr(res)


def test_a_module_that_is_never_called_and_one_called_twice():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(self.used(x))

    res = summarize(M(), torch.randn(3, 4))
    assert (
        [o.macs for o in res.rows] == [32, 0]
        and res.rows[1].output is None
        and res.total_params == 40
    )


def test_modules_in_a_list_that_is_never_called():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.ls, self.o = (
                nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            for l in self.ls:
                x = l(x)
            return self.o(x)

    assert [o.macs for o in summarize(M(), torch.randn(5, 8)).rows] == [128, 24]


def test_a_summary_of_other_batches(dls):
    class Own(TrainLearner):
        def predict(self):
            self.preds = self.model(self.batch)

    xs = [b[0] for b in dls.valid]
    assert Own(mlp(), DataLoaders(xs, xs)).summary().batch_size == 16
    ds = [{'x': b} for b in xs]
    with pytest.raises(TypeError, match='call summarize'):
        Own(mlp(), DataLoaders(ds, ds)).summary()


@pytest.mark.parametrize(
    'm,x',
    [
        (nn.Conv1d(4, 6, 3), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (2, 4, 9, 8)),
        (nn.Conv3d(2, 3, 3), (2, 2, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 2, 3), (2, 4, 9)),
        (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 5)),
        (nn.Linear(4, 3), (2, 7, 5, 4)),
        (nn.Conv2d(2, 3, 3, dilation=2), (2, 2, 9, 9)),
    ],
)
def test_multiplications_are_those_torch_counts(m, x):
    x = torch.randn(x)
    with FlopCounterMode(display=False) as c:
        m(x)
    assert (
        summarize(nn.Sequential(m), x).total_macs * len(x) == c.get_total_flops() // 2
    )


def test_a_script_prints_the_summary_once(learner, capsys):
    print(learner().summary())
    assert capsys.readouterr().out.count('Total: ') == 1


# conv, init ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    'norm,bias',
    [
        (None, True),
        (False, True),
        (nn.BatchNorm2d, False),
        (partial(nn.BatchNorm2d, eps=1e-3), False),
        (lambda nf: nn.BatchNorm2d(nf), False),
        (partial(nn.GroupNorm, 2), True),
    ],
)
def test_a_bias_under_batchnorm_is_left_out(norm, bias):
    layer = conv(1, 8, norm=norm)
    assert isinstance(layer, nn.Sequential) and (layer[0].bias is not None) == bias


def test_arguments_of_conv_that_are_layers_already():
    with pytest.raises(TypeError, match='pass what makes one'):
        conv(1, 8, act=nn.ReLU())
    with pytest.raises(TypeError, match='norm is True'):
        conv(1, 8, norm=True)


@pytest.mark.parametrize('leak', [None, 0.0, 0.1])
@pytest.mark.parametrize('sub', [None, 0.4])
@pytest.mark.parametrize('maxv', [None, 1.0])
def test_general_relu_in_every_combination(leak, sub, maxv):
    x = torch.randn(50, requires_grad=True)
    want = F.leaky_relu(x, leak or 0.0) - (sub or 0.0)
    if maxv is not None:
        want = want.clamp(max=maxv)
    got = GeneralRelu(leak, sub, maxv)(x)
    assert torch.allclose(got, want)
    assert torch.allclose(
        *[torch.autograd.grad(o.sum(), x, retain_graph=True)[0] for o in (got, want)]
    )


def test_lsuv_on_a_dead_layer_without_bias_and_with_a_model_that_fails():
    xb, m = torch.randn(64, 4), nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU())
    mean, std = lsuv_init(m, m[1], m[0], xb)
    assert abs(std - 1) < 1e-3 and abs(m(xb).std() - 1) < 1e-3 and mean > 0.3
    nn.init.zeros_(m[0].weight)
    with pytest.raises(ValueError, match='dead layer'):
        lsuv_init(m, m[1], m[0], xb)
    nn.init.constant_(m[0].weight, float('nan'))
    with pytest.raises(ValueError, match='not finite'):
        lsuv_init(m, m[1], m[0], xb)
    with pytest.raises(ValueError, match='not reached'):
        lsuv_init(m, nn.ReLU(), m[0], xb)
    with pytest.raises(RuntimeError):
        lsuv_init(m, m[1], m[0], torch.randn(3, 5))
    assert n_hooks(m) == 0


def test_lsuv_that_does_not_converge_says_what_was_reached():
    xb, m = torch.randn(64, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with pytest.warns(UserWarning, match='After 2 corrections'):
        mean, std = lsuv_init(m, m[1], m[0], xb, tol=1e-9, max_iter=2)
    with torch.no_grad():
        assert abs(m(xb).mean() - mean) < 1e-6 and abs(m(xb).std() - std) < 1e-6


def test_batch_transforms_in_training_and_validation(learner):
    seen = []
    for kw in ({'on_valid': False}, {'on_val': False}, {'on_train': False}):
        tfm = BatchTransformCB(lambda b: seen.append(learn.phase) or b, **kw)
        learn = learner(cbs=tfm)
        learn.fit(1)
    assert seen == ['train'] * 12 + ['valid'] * 4


def test_get_model_fits_its_data():
    assert get_model(norm=nn.BatchNorm2d)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


# hooks --------------------------------------------------------------------------------


@pytest.mark.parametrize('exc', [CancelFitException, ValueError, KeyboardInterrupt])
def test_hooks_come_off_whatever_happens(learner, exc):
    class Stop(Callback):
        def after_loss(self, learn):
            raise exc()

    learn = learner()
    try:
        learn.fit(1, cbs=[ActivationStats(), Stop()])
    except exc:
        pass
    assert n_hooks(learn.model) == 0


def test_stats_watch_leaves_only_and_name_them(learner):
    stats = ActivationStats()
    learner(
        nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Identity()),
        cbs=stats,
    ).fit(1)
    assert stats.names == ['0.0 Linear', '0.1 ReLU', '1 Identity'] and len(stats) == 3
    assert [len(h.stats[0]) for h in stats] == [6, 6, 6]
    for f in (stats.plot_stats, stats.color_dim, stats.dead_chart):
        f()
    __import__('matplotlib.pyplot').pyplot.close('all')


def test_large_activations_are_in_the_histogram(learner):
    class Huge(nn.Module):
        def forward(self, x):
            return x * 1e6

    stats = ActivationStats(lambda m: isinstance(m, Huge))
    learner(
        nn.Sequential(Huge(), nn.Linear(4, 3)), lr=0.0, cbs=[stats, SingleBatchCB()]
    ).fit(1)
    hist = torch.stack(stats.hooks[0].stats[2])
    assert (
        hist.sum() == 16 * 4
        and hist[0, -1] > 60
        and get_hist(stats.hooks[0]).shape == (40, 1)
        and get_min(stats.hooks[0]).item() < 0.1
    )


def test_stats_before_a_fit_say_so():
    with pytest.raises(ValueError, match='Nothing was recorded'):
        ActivationStats().plot_stats()


def test_hooks_on_a_part_of_a_model_and_removing_some():
    model = mlp()

    def f(hook, m, i, o):
        hook.n = getattr(hook, 'n', 0) + 1

    with Hooks([model[0], model[2]], f) as h:
        model(torch.randn(2, 4))
        del h[0]
        model(torch.randn(2, 4))
        assert [o.n for o in h] == [2]
    assert n_hooks(model) == 0


def test_layers_with_several_outputs(learner):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.rnn(x[:, None])[0][:, 0]

    stats = ActivationStats()
    learner(Last(), cbs=stats).fit(1)
    assert stats.names == ['rnn LSTM'] and len(stats.hooks[0].stats[0]) == 6


# optimisers and schedules -------------------------------------------------------------


@pytest.mark.parametrize(
    'ours,theirs,kw',
    [
        (SGD, optim.SGD, {}),
        (SGD, optim.SGD, dict(momentum=0.9, weight_decay=0.1)),
        (RMSprop, optim.RMSprop, dict(momentum=0.3)),
        (Adam, optim.Adam, dict(weight_decay=0.1)),
        (AdamW, optim.AdamW, dict(betas=(0.8, 0.9), eps=1e-3)),
    ],
)
def test_optimisers_equal_torchs_with_groups_and_frozen_parameters(ours, theirs, kw):
    res = []
    for cls in (ours, theirs):
        torch.manual_seed(0)
        model = mlp().double()
        model[0].bias.requires_grad_(False)
        opt = cls(
            [
                {'params': model[0].parameters(), 'lr': 1e-3},
                {'params': model[2].parameters()},
            ],
            lr=1e-2,
            **kw,
        )
        sched = lr_scheduler.ExponentialLR(opt, 0.9)
        for _ in range(10):
            F.cross_entropy(
                model(torch.randn(8, 4).double()), torch.arange(8) % 3
            ).backward()
            opt.step()
            opt.zero_grad()
            sched.step()
        res.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*res, rtol=0, atol=1e-12)


def test_a_new_optimiser_remembers_nothing_and_state_can_be_saved():
    p = nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    a = AdamW([p])
    a.step()
    b = AdamW([p])
    assert len(b.state) == 0 and not [o for o in vars(p)]
    b.load_state_dict(a.state_dict())
    assert b.state[p]['step'] == 1


def one_cycle(total):
    return partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=total)


def test_a_schedule_of_the_right_length_is_silent_and_a_short_one_warns_once(learner):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learner(cbs=BatchSchedCB(one_cycle(12))).fit(2)
        learner(cbs=EpochSchedCB(one_cycle(3))).fit(3)
    with pytest.warns(UserWarning, match='planned for 5 steps') as w:
        learner(cbs=BatchSchedCB(one_cycle(5))).fit(2)
    assert len(w) == 1


def test_schedules_step_when_they_should(learner):
    lrs = {}
    for cls in (BatchSchedCB, EpochSchedCB):
        learn = learner(lr=1.0, cbs=cls(partial(lr_scheduler.ExponentialLR, gamma=0.5)))
        learn.fit(2)
        lrs[cls] = learn.opt.param_groups[0]['lr']
    assert lrs == {BatchSchedCB: 0.5**12, EpochSchedCB: 0.5**2}


def test_schedules_and_recorders_with_nothing_to_do(learner):
    rec = RecorderCB(lr=lambda cb: cb.pg['lr'])
    learn = learner(cbs=[BatchSchedCB(one_cycle(6)), EpochSchedCB(one_cycle(6)), rec])
    learn.fit(0)
    learn.fit(1, train=False)
    rec.plot()
    learn.fit(1)
    rec.plot()
    assert len(rec.recs['lr']) == 6 and rec.pg is None and rec.learn is None
    with pytest.raises(ValueError, match='Nothing to draw'):
        RecorderCB().plot()
    __import__('matplotlib.pyplot').pyplot.close('all')


def test_a_scheduler_that_wants_a_measure_is_refused(learner):
    with pytest.raises(TypeError, match='wants a measure'):
        learner(cbs=EpochSchedCB(lr_scheduler.ReduceLROnPlateau)).fit(1)


def test_a_schedule_with_a_loader_without_length(learner, dls):
    batches = list(dls.train)
    learner(
        dls=DataLoaders((b for b in batches), dls.valid), cbs=BatchSchedCB(one_cycle(6))
    ).fit(1)


# lr_find ------------------------------------------------------------------------------


@pytest.mark.parametrize('cls', [TrainLearner, MomentumLearner])
def test_the_search_leaves_everything_as_it_was(dls, cls):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learn = cls(model, dls, F.cross_entropy, cbs=BatchSchedCB(one_cycle(100)))
    learn.fit(1)
    model.eval()
    before, opt, history, rng = (
        state(model),
        learn.opt,
        learn.history,
        torch.get_rng_state(),
    )
    finder = learn.lr_find(plot=False)
    assert same(before, state(model)) and not model[1].training
    assert (
        learn.opt is opt
        and learn.history is history
        and torch.equal(rng, torch.get_rng_state())
    )
    assert len(finder.lrs) == len(finder.losses) > 5 and finder.lrs[1] / finder.lrs[
        0
    ] == pytest.approx(1.3)


def test_a_search_that_fails_restores_as_well(learner):
    class Bad(Callback):
        def after_step(self, learn):
            raise ValueError('oops')

    learn = learner(cbs=Bad())
    before = state(learn.model)
    with pytest.raises(ValueError, match='oops'):
        learn.lr_find(plot=False)
    assert same(before, state(learn.model))


def test_a_search_with_a_loss_that_is_never_a_number(learner):
    with pytest.raises(FloatingPointError, match='already at the lowest learning rate'):
        learner(loss_func=lambda p, t: p.sum() * float('nan')).lr_find(plot=False)


def test_unchanged_restores_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model(torch.randn(4, 2)).sum().backward()
    before, grad = state(model), model[0].weight.grad.clone()
    with pytest.raises(ZeroDivisionError), unchanged(model):
        model(torch.randn(4, 2))
        model.eval()
        for p in model.parameters():
            p.grad = None
            p.data.zero_()
        1 / 0
    assert (
        same(before, state(model))
        and model.training
        and torch.equal(model[0].weight.grad, grad)
    )


# the ResNet ---------------------------------------------------------------------------


def test_resnet_of_any_width_and_the_two_heads():
    assert [sum(p.numel() for p in o.parameters()) for o in get_resnet()] == [
        680,
        3632,
        14432,
        57536,
        229760,
        918272,
        0,
        2570,
    ]
    assert [sum(p.numel() for p in o.parameters()) for o in get_resnet(head='conv')][
        -2:
    ] == [23050, 0]
    assert get_resnet(nfs=(3, 5), n_in=2, n_out=4)(torch.randn(1, 2, 9, 7)).shape == (
        1,
        4,
    )
    assert (
        get_resnet(norm=nn.BatchNorm2d)
        .apply(partial(init_weights, leaky=0.1))[0]
        .conv[0][0]
        .bias
        is None
    )
    assert GlobalAvgPool()(torch.ones(2, 3, 4, 5)).shape == (2, 3)
    assert {'conv', 'pool', 'eye', 'act'} == set(dict(ResBlock(1, 2).named_children()))
    with pytest.raises(ValueError, match="'pool' or 'conv'"):
        get_resnet(head='x')
