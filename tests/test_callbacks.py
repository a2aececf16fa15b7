"""Whatever hangs on the loop, in whatever order, and whatever it throws

Every event is in its place, nothing is left behind, and the next fit is as if nothing
had happened.
"""

import io, os, signal, tempfile, warnings
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from functools import partial, reduce
from operator import attrgetter
from pathlib import Path

import pytest, torch
import torch.nn.functional as F
from filelock import FileLock
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn, optim
from torch.optim import lr_scheduler
from tqdm import tqdm

from miniai.accel import ChannelsLast, GradAccum, GradClip, MixedPrecision
from miniai.activations import ActivationStats, HooksCallback
from miniai.augment import CapturePreds, TTACB
from miniai.checkpoint import (
    BestWeightsCB,
    CheckpointCB,
    EarlyStoppingCB,
    random_state,
    set_random_state,
)
from miniai.datasets import DataLoaders, TensorLoader
from miniai.init import BatchTransformCB
from miniai.learner import (
    Accuracy,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    DeviceCB,
    Learner,
    MetricsCB,
    MomentumLearner,
    ProgressCB,
    SaveHistoryCB,
    SingleBatchCB,
    TerminateOnNaN,
    TrainCB,
    TrainLearner,
)
from miniai.sgd import BatchSchedCB, EpochSchedCB, RecorderCB
from miniai.xtras import set_seed

CANCEL = dict(
    batch=CancelBatchException, epoch=CancelEpochException, fit=CancelFitException
)
BATCH, STEP = (
    'predict after_predict get_loss after_loss'.split(),
    'backward after_backward step after_step zero_grad'.split(),
)
STEPS = [
    o for o in BATCH + STEP if 'after' not in o
]  # a TrainLearner does them itself and announces none
EVENTS = [f'{w}_{o}' for o in CANCEL for w in ('before', 'after', 'cleanup')] + [
    o for o in BATCH + STEP if 'after' in o
]
N = dict(train=3, valid=2)  # batches


# More examples, and other ones each time:
# CALLBACKS_EXAMPLES=5000 pytest tests/test_callbacks.py
def examples(n):
    more = os.environ.get('CALLBACKS_EXAMPLES')
    return settings(
        max_examples=int(more or n),
        derandomize=not more,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


# What is trained ----------------------------------------------------------------------


def pictures():
    return DataLoaders(
        *(
            TensorLoader(
                torch.randn(4 * n - 1, 1, 4, 4),
                torch.arange(4 * n - 1) % 3,
                4,
                nm == 'train',
            )
            for nm, n in N.items()
        )
    )


def net():
    """Its second convolution is narrower than its stride; dropout draws random numbers

    So `MixedPrecision` has something to guard.
    """
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4, 3),
    )


KINDS = dict(train=TrainLearner, plain=Learner, momentum=MomentumLearner)


def make(kind, cbs, model=None, dls=None):
    return KINDS[kind](model or net(), dls or pictures(), F.cross_entropy, 0.05, cbs)


REAL = dict(
    metrics=lambda d: MetricsCB(accuracy=Accuracy()),
    progress=lambda d: ProgressCB(),
    nan=lambda d: TerminateOnNaN(2),
    recorder=lambda d: RecorderCB(lr=lambda cb: cb.pg['lr']),
    batch_sched=lambda d: BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=100)
    ),
    epoch_sched=lambda d: EpochSchedCB(partial(lr_scheduler.StepLR, step_size=1)),
    stats=lambda d: ActivationStats(),
    hooks=lambda d: HooksCallback(lambda *args: None, on_valid=True),
    clip=lambda d: GradClip(0.5),
    accum=lambda d: GradAccum(2),
    bf16=lambda d: MixedPrecision(torch.bfloat16),
    fp16=lambda d: MixedPrecision(torch.float16),
    channels=lambda d: ChannelsLast(),
    device=lambda d: DeviceCB('cpu'),
    tfm=lambda d: BatchTransformCB(lambda b: (b[0] + torch.randn_like(b[0]), b[1])),
    single=lambda d: SingleBatchCB(),
    save=lambda d: SaveHistoryCB(d / 'history.csv'),
    checkpoint=lambda d: CheckpointCB(d / 'run'),
    stop=lambda d: EarlyStoppingCB(patience=1),
    best=lambda d: BestWeightsCB(),
    capture=lambda d: CapturePreds(True),
    tta=lambda d: TTACB(),
)
ONE_FIT = {'single', 'checkpoint'}  # not for the fit that follows
OBSERVERS = dict(
    accum=lambda d: GradAccum(1),
    clip=lambda d: GradClip(1e9),
    **{
        k: REAL[k]
        for k in (
            'metrics progress nan recorder stats hooks device save checkpoint capture'
        ).split()
    },
)

# What is thrown, and what is seen -----------------------------------------------------


class Spy(Callback):
    "Is told about everything"

    def __init__(self, order=0):
        self.order = order


class Seen:
    "An announcement: of what, whom it reached, and what they raised"

    def __init__(self, event):
        self.event, self.calls, self.raised = event, [], []

    def __repr__(self):
        return f'{self.event} {self.raised or ""}'


class Watch:
    """Writes down all calls of `cbs`, and lets the spies throw `faults`

    A fault is: number of a spy, event, how manieth call, exception.
    """

    def __init__(self, cbs, faults=()):
        self.first, spies = Spy(-float('inf')), [o for o in cbs if isinstance(o, Spy)]
        self.log, self.count, self.deep, self.odd, self.faults = (
            [],
            {},
            False,
            [],
            {(spies[i % len(spies)], event, n): exc for i, event, n, exc in faults},
        )
        for cb in [self.first, *cbs]:
            for event in EVENTS + STEPS:
                f = getattr(cb, event, None)
                if f or isinstance(cb, Spy):
                    setattr(cb, event, partial(self.call, cb, event, f))

    def call(self, cb, event, f, learn):
        if self.deep:
            return f and f(learn)  # a callback that calls `learn.predict()`
        if cb is self.first:
            self.log.append(Seen(event))
        seen, n = self.log[-1], self.count.get((cb, event), 0)
        seen.calls.append(cb)
        self.count[cb, event] = n + 1
        self.deep = True
        try:
            if f:
                f(learn)
            if (cb, event, n) in self.faults:
                raise self.faults[cb, event, n](f'{event} {n}')
        except BaseException as e:
            seen.raised.append(e)
            if not isinstance(cb, (Spy, SingleBatchCB, EarlyStoppingCB)):
                self.odd.append(
                    (cb, event, e)
                )  # these two may, the others have no reason to
            raise
        finally:
            self.deep = False


def worse(a, b):
    """Which of two errors comes out

    Ctrl-C before errors, errors before cancels, of cancels that which ends more; of
    equals the first.
    """
    kinds = (
        CancelBatchException,
        CancelEpochException,
        CancelFitException,
        Exception,
        BaseException,
    )
    rank = lambda e: next(i for i, o in enumerate(kinds) if isinstance(e, o))
    return b if a is None or rank(b) > rank(a) else a


class Thrown(Exception):
    "Something that a callback raised"

    def __init__(self, err):
        self.err = err


class Reference:
    """What page 03 says of the events, as a program that reads a log

    `fit` returns what should come out, and `rows` has the phases that were measured.
    """

    def __init__(self, log, cbs, kind):
        self.log, self.cbs, self.plain, self.rows = (
            iter(log),
            sorted(cbs, key=attrgetter('order')),
            kind == 'plain',
            {},
        )

    def call(self, event):
        seen, whole = next(self.log, None), [o for o in self.cbs if hasattr(o, event)]
        assert seen and seen.event == event, f'{event} should come, not {seen}'
        assert seen.calls == (
            whole if not seen.raised or 'cleanup' in event else whole[: len(seen.calls)]
        ), f'{event} reached the wrong callbacks'
        if event == 'after_epoch':
            own = any(isinstance(o, MetricsCB) for o in self.cbs)
            measured = (
                any(isinstance(o, MetricsCB) for o in seen.calls)
                if own
                else not seen.raised or seen.calls[-1].order >= 0
            )
            if measured:
                self.rows.setdefault(self.epoch, []).append(self.phase)
        if seen.raised:
            raise Thrown(reduce(worse, seen.raised))

    def box(self, nm, inside):
        err = None
        try:
            self.call(f'before_{nm}')
            inside()
            self.call(f'after_{nm}')
        except Thrown as t:
            err = t.err
        try:
            self.call(f'cleanup_{nm}')
        except Thrown as t:
            err = worse(err, t.err)
        if err is not None and not isinstance(err, CANCEL[nm]):
            raise Thrown(err)

    def batch(self):
        for o in BATCH + STEP * (self.phase == 'train'):
            if self.plain or o not in STEPS:
                self.call(o)

    def epochs(self, n, phases):
        for self.epoch in range(1, n + 1):
            for self.phase in phases:
                self.box(
                    'epoch',
                    lambda: [
                        self.box('batch', self.batch) for _ in range(N[self.phase])
                    ],
                )

    def fit(self, n, phases):
        err = None
        try:
            self.box('fit', lambda: self.epochs(n, phases))
        except Thrown as t:
            err = t.err
        assert next(self.log, None) is None, 'more events than there should be'
        return err


class Tty(io.StringIO):
    "A terminal, so that there is a bar"

    def isatty(self):
        return True


@contextmanager
def workplace():
    """A folder, a terminal, a seed

    Afterwards no bar is open, nothing is locked, and the modes are as before.
    """
    set_seed(0)
    handler = signal.getsignal(signal.SIGINT)
    with (
        tempfile.TemporaryDirectory() as d,
        redirect_stdout(Tty()),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings(
            'ignore', r'Detected call of `lr_scheduler.step\(\)`'
        )  # true, if all batches are cancelled
        yield Path(d)
        assert (
            not torch.is_autocast_enabled('cpu')
            and torch.is_grad_enabled()
            and not tqdm._instances
            and signal.getsignal(signal.SIGINT) is handler
        )


def check_clean(learn, cbs, folder=None):
    "Nothing is left of a fit: no callback, hook, bar, lock, wrapping, mode"
    assert (
        len(learn.cbs) == len(cbs)
        and all(a is b for a, b in zip(learn.cbs, cbs))
        and learn._methods is None
    )
    for m in learn.model.modules():
        assert not any(
            (
                m._forward_hooks,
                m._forward_pre_hooks,
                m._backward_hooks,
                m._backward_pre_hooks,
            )
        ) and 'forward' not in vars(m)
    assert learn.opt is None or type(learn.opt) is optim.SGD
    assert (
        not torch.is_autocast_enabled('cpu')
        and torch.is_grad_enabled()
        and not tqdm._instances
    )
    if folder and (folder / 'run').exists():
        with FileLock(folder / 'run' / '.lock', timeout=0):
            pass


def caught(f, *args, **kw):
    "What `f` raises, or `None`"
    try:
        f(*args, **kw)
    except BaseException as e:
        return e


def state(learn):
    return {k: v.clone() for k, v in learn.model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def losses(learn):
    return [{k: v for k, v in o.items() if k != 'time'} for o in learn.history]


# Plans --------------------------------------------------------------------------------

FAULTS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(EVENTS + STEPS + [f'cleanup_{o}' for o in CANCEL] * 2),
    st.sampled_from([0, 0, 0, 1, 1, 2, 4]),
    st.sampled_from([*CANCEL.values(), ValueError, KeyboardInterrupt]),
)
FAULTS = FAULTS.filter(
    lambda o: o[1] not in [f'cleanup_{k}' for k, v in CANCEL.items() if v is o[3]]
)  # too late for its own box: see below
ORDERS = st.sampled_from([-1000, -10, -1, 0, 0, 0, 1, 10, 99, 101, 10**6, float('inf')])


@st.composite
def plans(draw, real=REAL):
    """A kind of learner, a permutation of names and spies, phases, epochs, faults

    Names and spies have their places (for one fit only?).
    """

    def some(what, sizes, **kw):
        n = draw(st.sampled_from(sizes))  # else Hypothesis prefers short lists
        return draw(st.lists(what, min_size=n, max_size=n, **kw))

    names = some(st.sampled_from(sorted(real)), range(9), unique=True)
    kind = draw(st.sampled_from(sorted(KINDS)))
    if 'fp16' in names and ('bf16' in names or kind == 'momentum'):
        names.remove('fp16')
    if 'accum' in names and kind == 'momentum':
        names.remove('accum')  # refused, see below
    who = draw(st.permutations(names + some(ORDERS, [1, 2, 3])))
    extra = draw(st.lists(st.booleans(), min_size=len(who), max_size=len(who)))
    return dict(
        kind=kind,
        who=[(o, b or o in ONE_FIT) for o, b in zip(who, extra)],
        phases=draw(
            st.sampled_from(
                [['train', 'valid'], ['train', 'valid'], ['train'], ['valid']]
            )
        ),
        n=draw(st.sampled_from([1, 2, 3, 2, 1, 0])),
        faults=some(FAULTS, [0, 1, 2, 3, 4, 5]),
    )


def callbacks(plan, folder, real=REAL):
    "The learner's own, and those for one fit"
    cbs = [
        (Spy(o) if not isinstance(o, str) else real[o](folder), extra)
        for o, extra in plan['who']
    ]
    return [TrainCB()] * (plan['kind'] == 'plain') + [
        cb for cb, extra in cbs if not extra
    ], [cb for cb, extra in cbs if extra]


# Properties ---------------------------------------------------------------------------


@pytest.mark.slow
@examples(150)
@given(plans())
def test_any_callbacks_and_faults(plan):
    """Every event in its place, each cleanup once and for all, the right error

    There is a row for what was measured, nothing is left, and the next fit is that of a
    fresh learner.
    """
    with workplace() as d:
        mine, extra = callbacks(plan, d)
        watch = Watch(mine + extra, plan['faults'])
        mine = [watch.first, *mine]
        given, learn = list(mine), make(plan['kind'], mine)
        own, given_extra = learn.cbs, list(extra)
        err = caught(
            learn.fit,
            plan['n'],
            train='train' in plan['phases'],
            valid='valid' in plan['phases'],
            cbs=extra,
        )
        ref = Reference(watch.log, mine + extra, plan['kind'])
        want = ref.fit(plan['n'], plan['phases'])
        assert not watch.odd
        assert err is want, f'{want!r} should come out, not {err!r}'
        assert {
            o['epoch']: [p for p in N if f'{p}_loss' in o] for o in learn.history
        } == ref.rows
        assert learn.cbs is own and mine == given and extra == given_extra
        check_clean(learn, given, d)
        follow(plan, learn, mine, watch, d)


def follow(plan, learn, mine, watch, d):
    "A fit without faults, compared with that of a fresh learner"
    fresh, _ = callbacks(plan, d)
    fresh = make(
        plan['kind'],
        [o for o in fresh if not isinstance(o, Spy)],
        deepcopy(learn.model),
        learn.dls,
    )
    watch.log.clear()
    watch.faults.clear()
    random = random_state()
    learn.fit(1)
    assert Reference(watch.log, mine, plan['kind']).fit(1, ['train', 'valid']) is None
    check_clean(learn, mine, d)
    set_random_state(random)
    fresh.fit(1)
    assert (
        len(losses(learn)) == 1
        and losses(learn) == losses(fresh)
        and same(state(learn), state(fresh))
    )


@pytest.mark.slow
@examples(100)
@given(plans(OBSERVERS))
def test_who_only_looks_changes_nothing(plan):
    "Weights, losses and error are the same without those who look, whatever is thrown"
    found = []
    for who in (plan['who'], [o for o in plan['who'] if not isinstance(o[0], str)]):
        with workplace() as d:
            mine, extra = callbacks({**plan, 'who': who}, d, OBSERVERS)
            Watch(mine + extra, plan['faults'])
            learn = make(plan['kind'], mine)
            err = caught(
                learn.fit,
                plan['n'],
                train='train' in plan['phases'],
                valid='valid' in plan['phases'],
                cbs=extra,
            )
            found.append(
                (
                    type(err),
                    str(err),
                    state(learn),
                    [o.get('train_loss') for o in learn.history],
                    [o.get('valid_loss') for o in learn.history],
                )
            )
    a, b = found
    assert a[:2] == b[:2] and same(a[2], b[2]) and str(a[3:]) == str(b[3:])


TRIALS = dict(
    lr_find=lambda learn: learn.lr_find(plot=False, max_epochs=1),
    capture=Learner.capture_preds,
    tta=Learner.tta,
)


@pytest.mark.slow
@examples(100)
@given(plans(), st.sampled_from(sorted(TRIALS)))
def test_trials_leave_no_trace(plan, trial):
    """A trial leaves all as it was before, whatever was thrown in it

    That is weights, gradients, modes, random numbers, history, optimiser and callbacks.
    What it raises is what was thrown, or a sentence.
    """
    with workplace() as d:
        mine, _ = callbacks(
            {**plan, 'who': [(o, False) for o, _ in plan['who'] if o not in ONE_FIT]}, d
        )
        learn = make(plan['kind'], mine)
        learn.fit(1)
        watch = Watch(mine, plan['faults'])
        mine = learn.cbs = [watch.first, *mine]
        history, opt, random = learn.history, learn.opt, torch.get_rng_state()
        before = (
            state(learn),
            [
                p.grad.clone() if p.grad is not None else torch.zeros(0)
                for p in learn.model.parameters()
            ],
            [m.training for m in learn.model.modules()],
        )
        err = caught(TRIALS[trial], learn)
        assert (
            same(state(learn), before[0])
            and [m.training for m in learn.model.modules()] == before[2]
            and torch.equal(torch.get_rng_state(), random)
        )
        for p, g in zip(learn.model.parameters(), before[1]):
            assert torch.equal(torch.zeros(0) if p.grad is None else p.grad, g)
        assert (
            learn.history is history
            and learn.opt is opt
            and all(
                not getattr(o, 'schedo', None) or o.schedo.optimizer is opt
                for o in mine
            )
        )
        check_clean(learn, mine)
        assert not watch.odd and isinstance(
            err,
            (
                type(None),
                *CANCEL.values(),
                ValueError,
                KeyboardInterrupt,
                FloatingPointError,
            ),
        ), repr(err)


# One by one ---------------------------------------------------------------------------


def raising(exc, order=0, **kw):
    """A callback that raises `exc` in the event that is a key of `kw`

    It does so as often as the value of the key says.
    """
    cb = Spy(order)
    for event, n in kw.items():

        def f(learn, left=[n]):  # noqa: B006
            left[0] -= 1
            if left[0] >= 0:
                raise exc

        setattr(cb, event, f)
    return cb


@pytest.mark.parametrize('event', EVENTS)
def test_ctrl_c_at_any_event(event):
    "A real signal: it ends the fit, after everybody could tidy up"

    class Press(Callback):
        pressed = False

    def press(self, learn):
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)

    setattr(Press, event, press)
    with workplace() as d:
        last = Watch([])
        cbs = [
            Press(),
            ProgressCB(),
            MixedPrecision(torch.float16),
            GradAccum(2),
            GradClip(),
            ActivationStats(),
            CheckpointCB(d / 'run'),
            last.first,
        ]
        learn = make('train', cbs)
        with pytest.raises(KeyboardInterrupt):
            learn.fit(2)
        seen = [o.event for o in last.log]
        assert [seen.count(f'cleanup_{o}') for o in CANCEL] == [
            seen.count(f'before_{o}') for o in CANCEL
        ] and seen[-1] == 'cleanup_fit'
        check_clean(learn, cbs, d)


@pytest.mark.parametrize('exc', [ValueError('oops'), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    'cleanup,cancel',
    [
        (f'cleanup_{a}', CANCEL[b])
        for a, b in (('batch', 'epoch'), ('batch', 'fit'), ('epoch', 'fit'))
    ],
)
def test_a_cancel_in_a_cleanup_hides_no_error(exc, cleanup, cancel):
    "Whether the error came before, or from another callback in the same event"
    for event in ('after_loss', cleanup):
        assert (
            caught(
                make(
                    'train',
                    [raising(cancel(), **{cleanup: 1}), raising(exc, **{event: 1})],
                ).fit,
                1,
            )
            is exc
        )


def test_of_two_errors_the_first_comes_out():
    "It says what went wrong; the second is only what became of it"
    first, second = ValueError('first'), ValueError('second')
    for cleanup in ('cleanup_batch', 'cleanup_epoch', 'cleanup_fit'):
        assert (
            caught(
                make(
                    'train',
                    [raising(first, after_loss=1), raising(second, **{cleanup: 1})],
                ).fit,
                1,
            )
            is first
        )


def test_an_error_in_a_cleanup_hides_no_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        make(
            'train',
            [
                raising(KeyboardInterrupt(), after_loss=1),
                raising(ValueError('oops'), cleanup_batch=1),
            ],
        ).fit(1)


def test_the_end_of_the_fit_is_not_undone_by_less():
    log = Watch([])
    make(
        'train',
        [
            log.first,
            raising(CancelFitException(), after_loss=1),
            raising(CancelEpochException(), cleanup_batch=1),
        ],
    ).fit(3)
    assert [o.event for o in log.log].count('before_epoch') == 1


def test_cancelling_the_fit_anywhere():
    "As the docstring of `CancelFitException` says"
    for event in EVENTS:
        assert (
            caught(make('train', [raising(CancelFitException(), **{event: 1})]).fit, 1)
            is None
        ), event


def test_the_number_of_a_bad_batch_counts_the_cancelled_ones():
    def poison(learn):
        if learn.iter == 2:
            learn.loss = learn.loss * float('nan')

    cb = Spy(-5)
    cb.after_loss = poison
    with pytest.raises(FloatingPointError, match='at train batch 3[.]'):
        make(
            'train',
            [cb, raising(CancelBatchException(), before_batch=1), TerminateOnNaN(1)],
        ).fit(1)


@pytest.mark.parametrize(
    'event,exc',
    [
        ('before_fit', CancelFitException),
        ('before_epoch', CancelEpochException),
        ('after_loss', CancelBatchException),
    ],
)
def test_a_search_in_which_all_is_cancelled_says_so(event, exc):
    with pytest.raises((ValueError, FloatingPointError)):
        make('train', [raising(exc(), **{event: 99})]).lr_find(plot=False)


@pytest.mark.parametrize('event', ['after_backward', 'after_step'])
@pytest.mark.parametrize('n', [1, 3])
def test_a_cancelled_batch_takes_no_step_from_an_accumulation(event, n):
    "One of `n` batches that is cancelled after its step has made it all the same"

    def fit(*cbs):
        set_seed(0)
        steps = []

        class Count(optim.SGD):
            def step(self, closure=None):
                steps.append(1)
                return super().step()

        learn = make('train', [raising(CancelBatchException(), **{event: 1}), *cbs])
        learn.opt_func = Count
        learn.fit(1, valid=False)
        return len(steps), state(learn)

    if n == 1:
        (a, x), (b, y) = fit(), fit(GradAccum(1))
        assert a == b and same(x, y)
    else:
        assert fit(GradAccum(n))[0] == 1


@pytest.mark.parametrize(
    'cb',
    [lambda: GradAccum(1), lambda: MixedPrecision(torch.float16)],
    ids=['accum', 'fp16'],
)
def test_momentum_in_the_gradients_is_kept_or_refused(cb):
    """`MomentumLearner` has its memory in the gradients

    Others divide, count or shrink them.
    """

    def fit(*cbs):
        set_seed(0)
        learn = make('momentum', cbs)
        err = caught(learn.fit, 6, valid=False)
        return err, torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    (_, want), (err, got) = fit(), fit(cb())
    assert isinstance(err, ValueError) or (want - got).abs().max() < 5e-3


def test_two_that_shorten_numbers_leave_nothing_on():
    "One in the learner, and one more for this fit"
    with workplace():
        learn = make('train', [MixedPrecision(torch.bfloat16)])
        try:
            err = caught(learn.fit, 1, cbs=MixedPrecision(torch.bfloat16))
            assert (
                err is None or isinstance(err, ValueError)
            ) and not torch.is_autocast_enabled('cpu')
        finally:
            torch.set_autocast_enabled('cpu', False)


@pytest.mark.parametrize(
    'cb',
    [
        lambda d: EarlyStoppingCB(),
        lambda d: EarlyStoppingCB('loss'),
        lambda d: CheckpointCB(d),
        lambda d: CheckpointCB(d, best='loss'),
        lambda d: BestWeightsCB('loss'),
    ],
    ids=['stop', 'stop_named', 'checkpoint', 'checkpoint_named', 'best_named'],
)
def test_a_first_validation_that_is_cancelled(cb, tmp_path):
    "Somebody skips it on purpose: nothing to compare yet, and that is no error"
    skip = Spy()

    def before_epoch(learn):
        if learn.phase == 'valid' and learn.epoch == 0:
            raise CancelEpochException()

    skip.before_epoch = before_epoch
    assert len(make('train', [skip, cb(tmp_path / 'run')]).fit(2)) == 2
