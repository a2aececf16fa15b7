"""What makes training faster must not make it wrong, and must leave nothing behind

Whatever it is combined with.
"""

import itertools
from copy import deepcopy
from functools import partial

import pytest, torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from miniai import accel
from miniai.accel import (
    Around,
    ChannelsLast,
    Compile,
    GradAccum,
    GradClip,
    MixedPrecision,
    cpu_prefers,
    fast,
    low_precision,
)
from miniai.activations import ActivationStats
from miniai.augment import CapturePreds, TTACB
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import (
    Accuracy,
    Callback,
    CancelBatchException,
    Learner,
    MetricsCB,
    MomentumLearner,
    TrainCB,
    TrainLearner,
)
from miniai.sgd import BatchSchedCB


def pictures(bs=16, n=80, c=1):
    return DataLoaders(
        *(
            TensorLoader(torch.randn(n, c, 8, 8), torch.arange(n) % 3, bs)
            for _ in range(2)
        ),
        classes=list('abc'),
    )


def net(c=1):
    return nn.Sequential(nn.Conv2d(c, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def make(dls, model, cbs=(), cls=TrainLearner, **kw):
    return cls(
        deepcopy(model),
        dls,
        F.cross_entropy,
        0.1,
        [*cbs, MetricsCB(accuracy=Accuracy())],
        **kw,
    )


EVERY = {
    'channels': ChannelsLast,
    'accum': partial(GradAccum, 2),
    'clip': partial(GradClip, 0.5),
    'bf16': partial(MixedPrecision, torch.bfloat16),
    'fp16': partial(MixedPrecision, torch.float16),
    'compile': partial(Compile, backend='eager'),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'names',
    [
        o
        for n in (1, 2, 3)
        for o in itertools.combinations(EVERY, n)
        if not {'bf16', 'fp16'} <= set(o)
    ],
    ids='+'.join,
)
def test_all_combinations_train_and_leave_nothing(names):
    dls, model = pictures(), net()
    plain = make(dls, model, [EVERY[o]() for o in names if o in ('accum', 'clip')])
    plain.fit(2)
    learn = make(dls, model, [EVERY[o]() for o in names])
    learn.fit(2)
    assert (weights(learn) - weights(plain)).abs().max() < 5e-3
    assert (
        isinstance(learn.opt, optim.SGD)
        and not torch.is_autocast_enabled('cpu')
        and all('forward' not in vars(m) for m in learn.model.modules())
    )
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    torch.testing.assert_close(
        learn.history['train_loss'][0],
        plain.history['train_loss'][0],
        rtol=0.02,
        atol=0,
    )
    learn.fit(1, train=False)


@pytest.mark.parametrize('bs,n', [(8, 4), (8, 3), (80, 2), (16, 5), (16, 7)])
def test_accumulated_batches_are_a_large_batch(bs, n):
    dls, model = pictures(bs), net()
    large = DataLoaders(
        *(TensorLoader(o.x, o.y, bs * n) for o in (dls.train, dls.valid))
    )
    a, b = make(dls, model, [GradAccum(n)]), make(large, model)
    a.fit(3)
    b.fit(3)
    torch.testing.assert_close(weights(a), weights(b), rtol=1e-5, atol=1e-6)


def test_accumulation_with_a_schedule_and_a_plain_learner():
    "No warning that the schedule moves before the optimiser; warnings are errors here"
    dls, model = pictures(), net()
    sched = BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=2 * len(dls.train))
    )
    learn = make(dls, model, [TrainCB(), GradAccum(3), GradClip(), sched], Learner)
    assert learn.fit(2)['train_loss'][-1] > 0


def test_norms_are_those_of_torch():
    dls, model = pictures(), net()
    clip, want, by_hand = GradClip(0.1), [], deepcopy(model)
    opt = optim.SGD(by_hand.parameters(), 0.1)
    for xb, yb in dls.train:
        F.cross_entropy(by_hand(xb), yb).backward()
        want.append(nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1).item())
        opt.step()
        opt.zero_grad()
    learn = make(dls, model, [clip])
    learn.fit(1)
    assert clip.norms == pytest.approx(want) and torch.equal(
        weights(learn), torch.cat([p.detach().flatten() for p in by_hand.parameters()])
    )


def test_a_gradient_that_overflows_is_left_out():
    dls, model = pictures(n=16), net()
    mixed = MixedPrecision(torch.float16)

    class Huge(Callback):
        order = 99

        def after_loss(self, learn):
            if learn.training:
                learn.loss.register_hook(lambda g: g * float('inf'))

    learn = make(dls, model, [mixed, Huge()])
    learn.fit(1)
    assert (
        torch.equal(weights(learn), weights(make(dls, model)))
        and mixed.scaler.get_scale() == 2**15
    )


@pytest.mark.parametrize(
    'event',
    [
        'before_batch',
        'after_predict',
        'after_loss',
        'after_backward',
        'after_step',
        'after_batch',
    ],
)
@pytest.mark.parametrize('error', [CancelBatchException, ZeroDivisionError])
def test_nothing_is_left_on_after_an_error(event, error):
    def fail(learn):
        if learn.iter == 1:
            raise error()

    cb = Callback()
    cb.order = 50
    setattr(cb, event, fail)
    learn = make(
        pictures(),
        net(),
        [MixedPrecision(torch.bfloat16), GradAccum(2), GradClip(), cb],
    )
    if error is CancelBatchException:
        learn.fit(1)
    else:
        with pytest.raises(error):
            learn.fit(1)
    assert not torch.is_autocast_enabled('cpu') and isinstance(learn.opt, optim.SGD)


@pytest.mark.slow
@pytest.mark.parametrize('width', [1, 2, 3])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('channels_last', [False, True])
def test_weights_that_meet_only_padding_get_no_gradient(width, stride, channels_last):
    """oneDNN leaves such gradients unwritten

    It does so where short numbers meet an input narrower than the stride.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(64, 96, 3, stride=stride, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 3),
    )
    dls = DataLoaders(
        TensorLoader(torch.randn(64, 64, width, width), torch.arange(64) % 3, 8), None
    )
    grads = []

    class Keep(Callback):
        def after_backward(self, learn):
            grads.append(learn.model[0].weight.grad.clone())

    cbs = [ChannelsLast()] * channels_last
    make(dls, model, cbs).fit(1, valid=False)
    make(dls, model, [*cbs, Keep()]).fit(1, valid=False)
    full, grads = grads, []
    for _ in range(3):
        grads.clear()
        rubbish = [
            torch.full((64 * 96 * 9,), float('nan'), dtype=torch.bfloat16)
            for _ in range(4)
        ]
        del rubbish
        make(dls, model, [*cbs, MixedPrecision(torch.bfloat16), Keep()]).fit(
            1, valid=False
        )
        for a, b in zip(grads, full):
            assert a.isfinite().all() and not a[b == 0].any()


def test_what_it_is_combined_with_elsewhere(dls):
    stats, capture = ActivationStats(lambda m: isinstance(m, nn.ReLU)), CapturePreds()
    learn = make(
        pictures(),
        net(),
        [stats, capture, MixedPrecision(torch.bfloat16), ChannelsLast()],
    )
    learn.fit(1)
    assert learn.fit(1, train=False, cbs=TTACB())[0]['valid_loss'] > 0
    assert learn.lr_find(plot=False, max_epochs=1).losses
    assert torch.is_tensor(learn.preds) and learn.preds.dtype == torch.float32


def test_what_one_could_do_wrong():
    for n in (0, -1, 1.5, True, 'x'):
        with pytest.raises(ValueError, match='n must be a whole number'):
            GradAccum(n)
    with pytest.raises(ValueError, match='max_norm'):
        GradClip(0)


def test_fast_says_what_it_does():
    cbs, kw, said = fast('cpu')
    assert (
        ('bfloat16' in said)
        == (low_precision('cpu') is not None)
        == any(isinstance(o, MixedPrecision) for o in cbs)
        and 'channels-last' in said
        and kw == {'fused': True}
    )
    assert fast('mps') == ([], {}, 'float32, for nothing is known to be faster here')


@pytest.mark.parametrize('has,faster', [(True, True), (True, False), (False, True)])
def test_short_numbers_only_where_they_are_faster(monkeypatch, has, faster):
    for o in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, o, lambda: has, raising=False)
    monkeypatch.setattr(accel, 'cpu_prefers', lambda dtype: faster)
    assert low_precision('cpu') == (torch.bfloat16 if has and faster else None)


def test_what_a_cpu_prefers():
    trial = cpu_prefers.__wrapped__  # without the cache
    assert (
        not trial(torch.float64)
        and trial(torch.float32, by=0.1)
        and not trial(torch.float32, by=10)
    )
    seen, state, threads = [], torch.get_rng_state(), torch.get_num_threads()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            if 'mm' in str(f):
                seen.append((args[0].dtype, torch.get_num_threads()))
            return f(*args, **(kwargs or {}))

    with torch.autocast('cpu', torch.bfloat16), Watch():
        trial(torch.float64)
        assert torch.is_autocast_enabled('cpu') and torch.get_num_threads() == threads
    assert set(seen) == {(torch.float32, 1), (torch.float64, 1)} and torch.equal(
        state, torch.get_rng_state()
    )


@pytest.mark.slow
def test_the_trial_is_made_once():
    cpu_prefers(torch.bfloat16)
    misses = cpu_prefers.cache_info().misses
    cpu_prefers(torch.bfloat16)
    assert cpu_prefers.cache_info().misses == misses


def test_around_passes_everything_on():
    opt = optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    calls = []
    a = Around(opt, step=lambda: calls.append('step'))
    a.step()
    a.zero_grad()
    assert (
        calls == ['step']
        and a.param_groups is opt.param_groups
        and a.state_dict() == opt.state_dict()
        and deepcopy(a).param_groups[0]['lr'] == 0.5
    )


def test_the_number_of_reads_does_not_grow_with_the_batches():
    """Nothing waits for a number in each step

    Not the metrics, not the progress, not what is fast.
    """
    from torch.overrides import TorchFunctionMode
    from miniai.learner import DeviceCB, ProgressCB

    class Reads(TorchFunctionMode):
        n = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.n += getattr(func, '__name__', '') in (
                'item',
                'tolist',
                '__bool__',
                '__float__',
                '__int__',
                'cpu',
                'numpy',
            )
            return func(*args, **(kwargs or {}))

    def reads(n):
        x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
        dls = DataLoaders([(x, y)] * n, [(x, y)] * n)
        with Reads() as r:
            make(
                dls,
                net(),
                [
                    DeviceCB('cpu'),
                    ProgressCB(),
                    ChannelsLast(),
                    MixedPrecision(torch.bfloat16),
                    GradAccum(2),
                    GradClip(),
                ],
                opt_func=partial(optim.AdamW, fused=True),
            ).fit(1)
        return r.n

    assert reads(6) == reads(30)


def test_the_batch_is_not_copied():
    from miniai.learner import DeviceCB

    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
    seen = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, xb):
            seen.append(xb.data_ptr())
            return self.inner(xb)

    make(
        DataLoaders([(x, y)], None),
        Model(),
        [DeviceCB('cpu'), ChannelsLast(), MixedPrecision(torch.bfloat16)],
    ).fit(1, valid=False)
    assert seen == [x.data_ptr()]


# what a tester found ------------------------------------------------------------------


def volumes():
    return DataLoaders(
        *(
            TensorLoader(torch.randn(48, 1, 8, 8, 8), torch.arange(48) % 3, 16)
            for _ in range(2)
        )
    )


def ups(n=48):
    return DataLoaders(
        *(
            TensorLoader(torch.randn(n, 64, 1, 1), torch.randn(n, 64, 1, 1), 16)
            for _ in range(2)
        )
    )


@pytest.mark.parametrize('what', ['conv3d', 'transposed'])
def test_short_numbers_are_kept_out_of_convolutions_that_leave_gradients_unwritten(
    what,
):
    rubbish = [torch.full((64, 64, 3, 3, 3), float('nan')) for _ in range(4)]
    del rubbish
    if what == 'conv3d':
        model = nn.Sequential(
            nn.Conv3d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv3d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv3d(32, 64, 3, 1, 1),
            nn.ReLU(),
            nn.Conv3d(64, 64, 3, 1, 1),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        dls, loss = volumes(), F.cross_entropy
    else:
        model, dls, loss = (
            nn.Sequential(nn.ConvTranspose2d(64, 64, 3, 2, 1)),
            ups(),
            F.mse_loss,
        )
    a, b = (
        TrainLearner(deepcopy(model), dls, loss, 0.05, cbs)
        for cbs in ([], [MixedPrecision(torch.bfloat16)])
    )
    a.fit(3)
    b.fit(3)
    assert weights(b).isfinite().all() and (weights(a) - weights(b)).abs().max() < 1e-2


def test_a_copy_of_the_model_taken_in_a_fit_has_its_own_weights():
    class Copy(Callback):
        def after_epoch(self, learn):
            if learn.epoch == 0 and learn.training:
                self.model, self.was = (
                    deepcopy(learn.model),
                    [p.detach().clone() for p in learn.model.parameters()],
                )

    model, cb = (
        nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(36, 3)),
        Copy(),
    )
    x = torch.randn(5, 1, 8, 8)
    make(pictures(), model, [MixedPrecision(torch.bfloat16), cb]).fit(3)
    again = deepcopy(model)
    again.load_state_dict(dict(zip(again.state_dict(), cb.was)))
    torch.testing.assert_close(cb.model(x), again(x))


def test_convolutions_that_take_more_than_one_thing():
    class Masked(nn.Conv2d):
        def forward(self, input, mask=None):
            return super().forward(input if mask is None else input * mask)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.l = Masked(1, 4, 3, 2), nn.Linear(36, 3)

        def forward(self, x):
            return self.l(self.c(x, mask=torch.ones(8)).flatten(1))

    make(pictures(), Net(), [MixedPrecision(torch.bfloat16)]).fit(1)


def test_what_does_not_go_together_is_said():
    for cbs, cls, why in (
        ([GradAccum(2)], MomentumLearner, 'MomentumLearner does something else'),
        ([MixedPrecision(torch.float16)], MomentumLearner, 'MomentumLearner'),
        ([MixedPrecision(), MixedPrecision()], TrainLearner, 'two MixedPrecision'),
    ):
        with pytest.raises(ValueError, match=why):
            make(pictures(), net(), cbs, cls).fit(1)
        assert not torch.is_autocast_enabled('cpu')
    for bad in ('bfloat16', torch.float32):
        with pytest.raises(ValueError, match='should be torch.bfloat16'):
            MixedPrecision(bad)
    for bad in ('1', None, 0, float('nan')):
        with pytest.raises(ValueError):
            GradClip(bad)
    with pytest.raises(ValueError, match='foreach'):
        make(
            pictures(),
            net(),
            [Compile(step=True, backend='eager')],
            opt_func=partial(optim.AdamW, foreach=True),
        ).fit(1)


@pytest.mark.slow
@pytest.mark.parametrize('opt', [optim.AdamW, partial(optim.SGD, momentum=0.9)])
def test_a_compiled_step_is_the_same_step(opt):
    sched = lambda: BatchSchedCB(
        partial(
            lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=10, cycle_momentum=False
        )
    )
    dls, model = pictures(), net()
    a, b = (
        make(dls, model, [*cbs, sched()], opt_func=opt)
        for cbs in ([], [Compile(step=True, backend='aot_eager')])
    )
    a.fit(2)
    b.fit(2)
    torch.testing.assert_close(weights(a), weights(b), atol=1e-6, rtol=1e-5)
    assert type(b.opt.param_groups[0]['lr']) is float
    assert b.lr_find(plot=False, max_epochs=1).lrs[:2] == pytest.approx([1e-5, 1.3e-5])


@pytest.mark.parametrize('later', [True, False])
def test_hooks_are_called_though_the_model_is_compiled(later):
    stats = ActivationStats(lambda m: isinstance(m, nn.ReLU))
    learn = make(pictures(), net(), [Compile(backend='eager')])
    if later:
        learn.fit(1)
    learn.fit(1, cbs=stats)
    assert len(stats.hooks[0].stats[0]) == 5
    learn.fit(1)


def test_channels_last_leaves_other_dimensions_alone():
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(864, 3))
    TrainLearner(model, volumes(), F.cross_entropy, 0.01, [ChannelsLast()]).fit(1)


def test_the_norms_of_a_fit_stay_when_one_only_looks():
    clip = GradClip()
    learn = make(pictures(), net(), [clip])
    learn.fit(1)
    learn.fit(1, train=False)
    assert len(clip.norms) == 5
