"""Whatever happens, the last finished epoch is safe

The learner can be used, and a run goes on as if nothing had been.
"""

import contextlib, csv, hashlib, json, os, random, resource, shutil, signal, sys
import tempfile, threading, time, warnings
from collections import Counter
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

import pytest, torch
import children
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset

import miniai
from miniai.accel import Around, ChannelsLast, GradAccum, GradClip, MixedPrecision
from miniai.activations import HooksCallback
from miniai.checkpoint import (
    BestWeightsCB,
    CheckpointCB,
    CheckpointError,
    read_checkpoint,
)
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import (
    Accuracy,
    Callback,
    Learner,
    MetricsCB,
    SaveHistoryCB,
    TrainCB,
)
from miniai.sgd import BatchSchedCB, EpochSchedCB
from miniai.xtras import set_seed

import soak

N = 3
LONG = {'kills': 20, 'epochs': 100, 'images': 100_000, 'orphans': 1}


@pytest.fixture(scope='module', autouse=True)
def long(request):
    """What takes long runs in processes of its own beside the other tests

    The values are functions that wait for the results.
    """
    wanted = [
        k
        for k in LONG
        if any(
            o.name == f'test_{k}' and o.path == request.path
            for o in request.session.items
        )
    ]
    running = {
        k: soak.start(k, LONG[k], random.SystemRandom().randrange(10**6), stderr=-1)
        for k in wanted
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make().fit(1)  # what is slow the first time
    try:
        yield {k: partial(soak.result, o) for k, o in running.items()}
    finally:
        torch.set_num_threads(threads)
        for o in running.values():
            children.end(o)


@pytest.fixture
def quick(monkeypatch):
    "Nobody pulls the plug here, so nothing waits for the disk"
    monkeypatch.setattr(os, 'fsync', lambda fd: None)


def nothing(*args):
    pass


def make(cbs=(), cls=Learner, valid=True, conv=True, n=N, dls=None):
    """A learner with all that could be left behind or forgotten

    Autocast, hooks, guards, a wrapped optimiser, schedules, best weights, dropout,
    momentum.
    """
    set_seed(0)
    x, y = torch.randn(44, 1, 6, 6), torch.arange(44) % 3
    body = (
        [nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4)] if conv else [nn.Conv2d(1, 5, 3, 2)]
    )
    model = nn.Sequential(
        *body,
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(16 if conv else 20, 3),
    )
    dls = dls or DataLoaders(
        TensorLoader(x, y, 16, True), TensorLoader(x[:20], y[:20], 20)
    )
    sched = BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=n * len(dls.train))
    )
    cbs = [
        *[TrainCB()] * (cls is Learner),
        MetricsCB(accuracy=Accuracy()),
        sched,
        EpochSchedCB(partial(lr_scheduler.StepLR, step_size=2)),
        HooksCallback(nothing),
        GradAccum(2),
        GradClip(),
        MixedPrecision(torch.bfloat16),
        ChannelsLast(),
        *[BestWeightsCB('loss')] * valid,
        *cbs,
    ]
    learn = cls(model, dls, F.cross_entropy, 0.1, cbs, partial(optim.SGD, momentum=0.9))
    learn.n_cbs = len(cbs)
    return learn


def saved(folder, **kw):
    return CheckpointCB(folder, **{'keep': 100, 'resume': True, 'quiet': True, **kw})


def end(learn):
    "A checksum of all that a fit ends with; times left out"
    state = [
        learn.model.state_dict(),
        [{k: v for k, v in o.items() if k != 'time'} for o in learn.history.rows],
        list(learn.opt.state_dict()['state'].values()),
    ]
    return hashlib.sha256(soak.bits(state).encode()).hexdigest()


def unbroken(valid=True, n=N, **kw):
    learn = make(valid=valid, n=n, **kw)
    learn.fit(n, valid=valid)
    return end(learn)


def goes_on(folder, valid=True, n=N, **kw):
    "What a new learner ends with that goes on with the run in `folder`"
    learn = make(valid=valid, n=n, **kw)
    learn.fit(n, valid=valid, cbs=saved(folder))
    return end(learn)


def nested():
    """How many `torch.autocast` PyTorch believes to be in

    While it is not 0 at the end of one, PyTorch keeps its short copies of weights,
    whatever becomes of the weights.
    """
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def left_behind(learn, folder=None, files=True):
    "What a fit may not leave behind, as a list of words"
    mods = list(learn.model.modules())
    res = [
        k
        for k, there in {
            'hooks': any(m._forward_hooks for m in mods),
            'guards': any('forward' in vars(m) for m in mods),
            'wrapped optimiser': isinstance(learn.opt, Around),
            'callbacks': len(learn.cbs) != learn.n_cbs,
            'a fit that goes on': learn._methods is not None,
            'autocast': torch.is_autocast_enabled('cpu'),
            'an autocast too many or too few': nested() != 0,
            'no gradients': not torch.is_grad_enabled(),
            'no Ctrl-C': signal.getsignal(signal.SIGINT)
            is not signal.default_int_handler,
        }.items()
        if there
    ]
    if torch.is_autocast_enabled('cpu'):
        torch.set_autocast_enabled('cpu', False)  # the other tests need not suffer
    while n := nested():
        (
            torch.autocast_increment_nesting
            if n < 0
            else torch.autocast_decrement_nesting
        )()
    torch.clear_autocast_cache()
    if folder and os.access(folder, os.W_OK):
        res += soak.strangers(folder) * files
        try:
            with FileLock(folder / '.lock').acquire(timeout=0):
                pass
        except Timeout:
            res.append('the lock')
    return res


class Fail(Callback):
    "At the `nth` event `event`, counted from 0, do `what`"

    def __init__(self, event, what, nth=0, order=0):
        self.order, self.what, self.nth, self.seen = order, what, nth, 0
        setattr(self, event, self.happen)

    def happen(self, learn):
        self.seen += 1
        if self.seen == self.nth + 1:
            self.what()


class Finished(Callback):
    "The numbers of the epochs that were over, whatever came afterwards"

    order = 10**8

    def __init__(self):
        self.epochs = []

    def after_epoch(self, learn):
        if learn.phase == learn.phases[-1]:
            self.epochs.append(learn.epoch + 1)


class Trouble(Exception):
    pass


def trouble():
    raise Trouble('on purpose')


def forked(f):
    """What `f()` returns in a process of its own; None or JSON

    The process dies with all that it changed about itself.
    """
    r, w = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            with open(os.devnull, 'w') as null, redirect_stdout(null):
                res = f()
        except BaseException as e:
            res = {'raised': f'{type(e).__name__}: {e}'}
        os.write(w, json.dumps(res).encode())
        os._exit(0)
    os.close(w)
    with open(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return json.loads(text)


# a full disk, a folder that can not be written to -------------------------------------


def no_space(folder, limit):
    "From now on no file of this process may be larger than `limit` bytes"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def tiny_disk(folder):
    "A disk in memory, for this process only, with room for less than two checkpoints"
    import ctypes

    if ctypes.CDLL(None).unshare(0x20000):
        return False  # CLONE_NEWNS
    mount = f'mount --make-rprivate / && mount -t tmpfs -o size=40k none "{folder}"'
    return not children.run(['sh', '-c', mount]).returncode


def told(folder, cbs, n=N):
    "Fit in this process; what was warned of, what was raised, what is in the folder"
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        learn, error = make(), None
        try:
            learn.fit(n, cbs=cbs)
        except Exception as e:
            error = f'{type(e).__name__}: {e}'
    good = [
        k
        for k, p in CheckpointCB(folder).found.items()
        if read_checkpoint(p)['epoch'] == k
    ]
    return dict(
        warned=[str(w.message) for w in ws if w.category is RuntimeWarning],
        error=error,
        epochs=len(learn.history),
        good=good,
        left=left_behind(learn, folder),
    )


def test_the_disk_is_full_for_a_while(tmp_path, quick):
    """One epoch is not written, which is said

    The training goes on, and so does the next checkpoint.
    """

    def f():
        cbs = [
            Fail('before_epoch', lambda: no_space(None, 6000), 2),
            Fail('before_epoch', lambda: no_space(None, resource.RLIM_INFINITY), 4),
        ]
        return told(tmp_path, [saved(tmp_path), *cbs])

    res = forked(f)
    print(res)
    assert (
        res['error'] is None
        and res['epochs'] == N
        and res['good'] == [1, 3]
        and not res['left']
    ), res
    assert (
        len(res['warned']) == 1
        and 'epoch 2 could not be written' in res['warned'][0]
        and 'File too large' in res['warned'][0]
    )
    assert goes_on(tmp_path) == unbroken()


def test_the_disk_is_full_to_the_end(tmp_path, quick):
    """The last checkpoint is what the caller waits for: an error, in words

    What was there is whole, and the run goes on when there is space.
    """
    res = forked(
        lambda: told(
            tmp_path,
            [saved(tmp_path), Fail('before_epoch', lambda: no_space(None, 6000), 2)],
        )
    )
    print(res)
    assert (
        res['error'].startswith(
            'OSError: The checkpoint of epoch 3 could not be written: '
        )
        and 'File too large' in res['error']
        and 'holds of earlier epochs is whole' in res['error']
    )
    assert res['good'] == [1] and not res['left'] and len(res['warned']) == 1
    assert goes_on(tmp_path) == unbroken()


@pytest.mark.parametrize('keep', [1, 100])
def test_a_tiny_disk(tmp_path, keep):
    "No space left on the device: also while older checkpoints are still there"

    def f():
        if not tiny_disk(tmp_path):
            return 'no'
        res = told(tmp_path, [saved(tmp_path, keep=keep)], 3)
        res['size'] = max(o.stat().st_size for o in tmp_path.glob('epoch*'))
        for o in CheckpointCB(tmp_path).found.values():
            shutil.copy(o, other)
        return res

    (other := tmp_path.with_name(f'kept{keep}')).mkdir()
    res = forked(f)
    if res == 'no':
        pytest.skip('no disk may be mounted here')
    print(res)
    assert 'size' in res, res
    assert (
        res['good']
        and not res['left']
        and any('No space left' in o for o in res['warned'])
    ), res
    assert res['error'] is None or res['error'].startswith(
        'OSError: The checkpoint of epoch 3 could not be written: '
    ), res
    assert goes_on(other) == unbroken()


def test_a_history_that_can_not_be_written(tmp_path, quick):
    """SaveHistoryCB stops the run between what is measured and what is kept

    The epoch is then either whole in the folder, or not there.
    """
    (tmp_path / 'a').mkdir()
    learn = make(
        [
            SaveHistoryCB(tmp_path / 'a' / 'h.csv'),
            Fail('after_epoch', lambda: shutil.rmtree(tmp_path / 'a'), 5, 5),
        ]
    )
    with pytest.raises(OSError):
        learn.fit(N, cbs=saved(tmp_path / 'run'))
    assert not left_behind(learn, tmp_path / 'run')
    assert goes_on(tmp_path / 'run') == unbroken()


def test_a_folder_that_is_read_only():
    """At the beginning it is an error before anything is trained

    On the way it is a warning, and an error at the end.
    """
    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        for o in ('first', 'later'):
            (base / o).mkdir()
        (base / 'first').chmod(0o555)
        if os.getuid() == 0:
            os.chown(base / 'later', 65534, 65534)

        def f():
            if os.getuid() == 0:
                os.setuid(65534)
            return [
                told(base / 'first', [saved(base / 'first')]),
                told(
                    base / 'later',
                    [
                        saved(base / 'later'),
                        Fail('before_epoch', lambda: (base / 'later').chmod(0o555), 2),
                    ],
                ),
            ]

        res = forked(f)
        print(res)
        a, b = res
        assert (
            a['error'].startswith(
                f'OSError: Cannot write checkpoints to {base / "first"}: '
            )
            and 'ermission denied' in a['error']
            and a['epochs'] == 0
        )
        assert (
            b['good'] == [1]
            and len(b['warned']) == 1
            and b['error'].startswith(
                'OSError: The checkpoint of epoch 3 could not be written'
            )
        )
        (base / 'later').chmod(0o755)
        if os.getuid() == 0:
            os.chown(base / 'later', 0, 0)
        assert goes_on(base / 'later') == unbroken()
    finally:
        shutil.rmtree(base)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / 'run').write_text('I was here first')
    for o in ('run', 'run/inside'):
        learn = make()
        with pytest.raises(OSError, match='Cannot write checkpoints to'):
            learn.fit(1, cbs=saved(tmp_path / o))
        assert (
            not left_behind(learn)
            and (tmp_path / 'run').read_text() == 'I was here first'
        )


# damaged and foreign files ------------------------------------------------------------


@pytest.fixture(scope='module')
def run3(tmp_path_factory):
    """The folder of a run of four epochs that was stopped after three

    Beside it, what the whole one ends with.
    """
    folder = tmp_path_factory.mktemp('run')
    with pytest.raises(Trouble):
        make(n=4).fit(4, cbs=[saved(folder), Fail('before_epoch', trouble, 6)])
    assert list(CheckpointCB(folder).found) == [1, 2, 3]
    return folder, unbroken(n=4)


@pytest.fixture
def copy(run3, tmp_path):
    return shutil.copytree(run3[0], tmp_path / 'copy')


def flip(path, at, by=1):
    data = bytearray(path.read_bytes())
    data[at] ^= by
    path.write_bytes(data)


def foreign(path):
    "A file of safetensors that somebody else wrote"
    save_file({'a': torch.zeros(3)}, path)


DAMAGE = {
    'cut in half': lambda p: os.truncate(p, p.stat().st_size // 2),
    'without its last byte': lambda p: os.truncate(p, p.stat().st_size - 1),
    'empty': lambda p: os.truncate(p, 0),
    'longer': lambda p: p.open('ab').write(b'0'),
    'a bit flipped in the length': lambda p: flip(p, 1),
    'in the header': lambda p: flip(p, 200, 4),
    'in the last tensor': lambda p: flip(p, -1, 128),
    'all zeros': lambda p: p.write_bytes(bytes(p.stat().st_size)),
    'a text': lambda p: p.write_text('hello'),
    'another tool': foreign,
    'a pickle': lambda p: torch.save({'a': 1}, p),
    'a folder': lambda p: (p.unlink(), p.mkdir()),
    'a link to nowhere': lambda p: (p.unlink(), p.symlink_to('nowhere')),
    'unreadable for its size': lambda p: p.write_bytes(b'\xff' * 8 + b'{}'),
}


@pytest.mark.parametrize('what', DAMAGE)
def test_a_damaged_checkpoint(copy, run3, what, quick):
    """It is named, the one before it is used, and the run ends as the unbroken one

    With none left to read there is an error, and nothing is written over.
    """
    path = CheckpointCB(copy).path(3)
    DAMAGE[what](path)
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoint(path)
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        assert goes_on(copy, n=4) == run3[1]
    assert any(
        path.name in str(o.message) and 'The one before it is used' in str(o.message)
        for o in ws
    )
    shutil.rmtree(copy)
    shutil.copytree(run3[0], copy)
    for o in CheckpointCB(copy).found.values():
        DAMAGE[what](o)
    learn = make(n=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        with pytest.raises(CheckpointError, match='None of the 3 checkpoints'):
            learn.fit(4, cbs=saved(copy))
    assert (
        not left_behind(learn, copy)
        and not learn.history
        and len(CheckpointCB(copy).found) == 3
    )


@pytest.mark.slow
def test_bytes_flipped_anywhere(copy):
    """Never another exception than CheckpointError

    And never anything else than what was written.
    """
    path = CheckpointCB(copy).path(3)
    whole, state = path.read_bytes(), soak.bits(read_checkpoint(path))
    rng, count = random.Random(0), Counter()
    for i in [*range(64), *(rng.randrange(len(whole)) for _ in range(250))]:
        path.write_bytes(whole)
        flip(path, i, 1 << rng.randrange(8))
        try:
            same = soak.bits(read_checkpoint(path)) == state
        except CheckpointError:
            count['refused'] += 1
        else:
            assert same, i
            count['read, as it was written'] += 1
    print(f'{len(whole):,} bytes, flipped one by one: {dict(count)}')
    assert count['refused'] > 250


def test_truncated_anywhere(copy):
    path = CheckpointCB(copy).path(3)
    whole = path.read_bytes()
    for n in {*range(16), *range(0, len(whole), 150), len(whole) - 1}:
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


@pytest.mark.parametrize('gone', [(3,), (2,), (1, 2), (2, 3), (1, 2, 3)])
def test_files_that_are_missing(copy, run3, gone, quick):
    "Whatever is left is enough; with nothing left the run begins anew"
    for o in gone:
        CheckpointCB(copy).path(o).unlink()
    assert goes_on(copy, n=4) == run3[1]


def test_the_lock_and_foreign_files_do_not_matter(copy, run3, quick):
    (copy / '.lock').unlink()
    for o in (
        'readme.txt',
        'epoch_x.safetensors',
        'epoch_0009.safetensors.bak',
        '.hidden',
        '.epoch_0004-1.safetensors',
    ):
        (copy / o).write_text('mine')
    (copy / 'epoch_folder').mkdir()
    assert goes_on(copy, n=4) == run3[1]
    assert (copy / 'readme.txt').read_text() == 'mine' and not (
        copy / '.epoch_0004-1.safetensors'
    ).exists()


def test_a_checkpoint_of_another_model(copy, quick):
    "Says which parameters do not match, and leaves the model as it was"
    learn = make(n=4, conv=False)
    before = soak.bits(learn.model.state_dict())
    with pytest.raises(CheckpointError) as e:
        learn.fit(4, cbs=saved(copy))
    print(e.value)
    assert all(
        o in str(e.value)
        for o in (
            '0.weight',
            '(4, 1, 3, 3) instead of (5, 1, 3, 3)',
            '1.running_mean',
            '4.weight',
            'epoch_0003.safetensors',
        )
    )
    assert (
        not left_behind(learn, copy) and soak.bits(learn.model.state_dict()) == before
    )
    with pytest.raises(CheckpointError, match='1.running_mean'):
        learn.load(CheckpointCB(copy).path(3))


# what dies on the way -----------------------------------------------------------------


class Dying(Dataset):
    """The worker that reads item 20 a second time kills itself

    Unless the file `flag` is there.
    """

    def __init__(self, flag):
        self.flag, self.n = flag, 0

    def __len__(self):
        return 44

    def __getitem__(self, i):
        self.n += i == 20
        if i == 20 and self.flag.with_suffix('.1').exists() and not self.flag.exists():
            self.flag.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 20:
            self.flag.with_suffix('.1').touch()
        return torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(i)), i % 3


@pytest.mark.slow
@pytest.mark.parametrize('persistent', [False, True])
def test_a_worker_that_dies(tmp_path, persistent, quick):
    """The error of PyTorch, or of the pipe that broke, comes through; nothing stays behind

    The run goes on as if the worker had lived.
    """

    def loaders():
        train = DataLoader(
            Dying(tmp_path / 'flag'),
            16,
            shuffle=True,
            num_workers=1,
            persistent_workers=persistent,
        )
        x = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        return dict(dls=DataLoaders(train, TensorLoader(x, torch.arange(20) % 3, 20)))

    (tmp_path / 'flag').touch()
    want = unbroken(**loaders())
    for o in tmp_path.glob('flag*'):
        o.unlink()
    learn = make(**loaders())
    with pytest.raises((RuntimeError, EOFError, ConnectionError)):
        learn.fit(N, cbs=saved(tmp_path / 'run'))
    # if the pipe broke first, PyTorch is going to raise once more, out of nowhere
    try:
        pid = int((tmp_path / 'flag').read_text())
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except (RuntimeError, ChildProcessError):
        pass
    assert list(saved(tmp_path / 'run').found) == [1]
    assert not left_behind(learn, tmp_path / 'run')
    assert len(make(**loaders()).fit(1)) == 1
    assert goes_on(tmp_path / 'run', **loaders()) == want


EVENTS = [
    *(
        f'{w}_{o}'
        for o in ('fit', 'epoch', 'batch')
        for w in ('before', 'after', 'cleanup')
    ),
    'predict',
    'after_predict',
    'get_loss',
    'after_loss',
    'backward',
    'after_backward',
    'step',
    'after_step',
    'zero_grad',
]


@pytest.mark.slow
@pytest.mark.parametrize('valid', [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize('event', EVENTS)
def test_an_exception_in_any_callback_at_any_event(tmp_path, event, valid, quick):
    """At the first, a middle and the last such event

    Before, among and after the callbacks of the library.
    """
    want, count = unbroken(valid), Fail(event, trouble, 10**9)
    make(valid=valid).fit(N, valid=valid, cbs=count)
    where = sorted({0, count.seen // 2, count.seen - 1})
    for i, (order, nth) in enumerate(
        (o, n) for o in (-100, 0, 10**5, 10**7) for n in where
    ):
        folder, learn, done = tmp_path / str(i), make(valid=valid), Finished()
        try:
            learn.fit(
                N,
                valid=valid,
                cbs=[saved(folder), Fail(event, trouble, nth, order), done],
            )
        except Trouble:
            assert not left_behind(learn, folder), (
                order,
                nth,
            )  # while the traceback still holds everything
        else:
            pytest.fail(f'nothing was raised at {order} {nth}')
        assert set(done.epochs) <= set(saved(folder).found), (order, nth)
        assert goes_on(folder, valid) == want, (order, nth)
        assert len(learn.fit(1, valid=valid)) == 1


def test_an_epoch_that_was_measured_and_not_finished(tmp_path, quick):
    """What comes after the measuring belongs to the epoch

    A schedule, the step that is left over, the best weights.
    """

    class Between(Callback):
        def after_epoch(self, learn):
            if learn.epoch == 1:
                raise Trouble('between two callbacks')

    want = unbroken(False)
    learn = make(valid=False)
    learn.cbs.insert(2, Between())
    with pytest.raises(Trouble):
        learn.fit(N, valid=False, cbs=saved(tmp_path))
    assert goes_on(tmp_path, False) == want


@pytest.mark.parametrize(
    'error',
    [MemoryError(), torch.OutOfMemoryError('CUDA out of memory'), None],
    ids=['MemoryError', 'of a GPU', 'real'],
)
@pytest.mark.parametrize('event', ['after_predict', 'backward', 'step'])
def test_out_of_memory_in_a_step(tmp_path, event, error, quick):
    """The message names the batch size

    The learner lets go of the batch, and can be used.
    """

    def full():
        if error:
            raise error
        torch.empty(2**50)

    learn = make()
    with pytest.raises((MemoryError, RuntimeError), match='batch of 16 items'):
        learn.fit(N, cbs=[saved(tmp_path), Fail(event, full, 4)])
    assert (
        not left_behind(learn, tmp_path)
        and all(p.grad is None for p in learn.model.parameters())
        and learn.batch is None
        and learn.loss is None
    )
    assert (
        list(saved(tmp_path).found) == [1]
        and len(learn.fit(1)) == 1
        and goes_on(tmp_path) == unbroken()
    )


# two runs, Ctrl-C ---------------------------------------------------------------------


@pytest.mark.parametrize('resume', [False, True])
def test_two_runs_in_one_folder(tmp_path, resume, monkeypatch, quick):
    """The second refuses, in words, before it has trained or written anything

    The first does not notice.
    """
    waits, acquire = [], FileLock.acquire

    def hasty(self, timeout=None, **kw):
        waits.append(timeout)
        return acquire(self, timeout=0)

    second = make()
    before = soak.bits(second.model.state_dict())

    def intrude():
        monkeypatch.setattr(FileLock, 'acquire', hasty)
        files = sorted(tmp_path.iterdir())
        with pytest.raises(
            BlockingIOError, match=f'Another run is writing to {tmp_path}'
        ):
            second.fit(N, cbs=saved(tmp_path, resume=resume))
        monkeypatch.setattr(FileLock, 'acquire', acquire)
        assert (
            sorted(tmp_path.iterdir()) == files
            and soak.bits(second.model.state_dict()) == before
            and not second.history
        )

    learn = make()
    learn.fit(N, cbs=[saved(tmp_path), Fail('after_fit', intrude)])
    assert (
        waits == [10 if resume else 0]
        and not left_behind(learn, tmp_path)
        and list(saved(tmp_path).found) == [1, 2, 3]
    )


@pytest.mark.parametrize('resume', [False, True])
def test_two_processes_in_one_folder(tmp_path, resume):
    "The lock is one between processes, too, and ends with the process that had it"
    r, w = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        pid = os.fork()
    if not pid:
        with (
            suppress(BaseException),
            open(os.devnull, 'w') as null,
            redirect_stdout(null),
        ):
            make().fit(
                N,
                cbs=[
                    saved(tmp_path),
                    Fail(
                        'before_epoch', lambda: (os.write(w, b'x'), time.sleep(60)), 2
                    ),
                ],
            )
        os._exit(0)
    try:
        os.read(r, 1)
        with pytest.raises(BlockingIOError, match='Another run'):
            make().fit(N, cbs=saved(tmp_path, resume=False))
        if resume:
            threading.Timer(
                0.3, os.kill, (pid, signal.SIGKILL)
            ).start()  # within the time that it waits
    finally:
        if not resume:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert goes_on(tmp_path) == unbroken()
    if resume:
        os.waitpid(pid, 0)


def interrupted(learn, folder, f):
    "Call `f`; was it interrupted, and if so, what did it leave behind?"
    try:
        f()
    except KeyboardInterrupt:
        return True, left_behind(
            learn, folder, files=False
        )  # with the traceback alive, as it is in a notebook
    return False, left_behind(learn, folder)


def not_safe(folder, done, want, resume, n=N):
    """What is wrong with `folder` after the epochs `done` were written

    After a `resume`, too.
    """
    res = ['a lost epoch'] * (
        not set(done) <= (set(saved(folder).found) if folder.is_dir() else set())
    )
    if resume:
        res += ['another end'] * (goes_on(folder, n=n) != want) + soak.strangers(folder)
    return res


@pytest.mark.slow
def test_ctrl_c_at_random_moments(tmp_path, quick):
    "Real signals, in 100 small fits"
    want, rng, count = unbroken(), random.Random(0), Counter()

    def took(i):
        learn, start = make(), time.perf_counter()
        learn.fit(N, cbs=saved(tmp_path / f'whole {i}'))
        return time.perf_counter() - start

    whole = min(map(took, range(5)))
    for i in range(100):
        learn, done, folder = make(), [], tmp_path / str(i)
        timer = threading.Timer(
            rng.uniform(0, whole), os.kill, (os.getpid(), signal.SIGINT)
        )

        def f():
            timer.start()
            learn.fit(
                N,
                cbs=soak.Told(
                    lambda kind, epoch: done.append(epoch) if kind == 'd' else None,
                    folder,
                    keep=100,
                    resume=True,
                    quiet=True,
                ),
            )
            count['after the fit'] += 1
            timer.join()
            time.sleep(10)  # the signal is on its way, and ends this

        was, left = interrupted(learn, folder, f)
        count['interrupted'] += was
        assert not left and not not_safe(folder, done, want, i % 4 == 0), (i, left)
    print(
        f"100 × Ctrl-C: {dict(count)}; nothing was left behind, "
        "no finished epoch was lost"
    )
    assert count['interrupted'] > 80


PLACES = (
    str(Path(miniai.__file__).parent),
    contextlib.__file__,
    torch.amp.autocast_mode.__file__,
    torch.autograd.grad_mode.__file__,
)


class CtrlC:
    """Raise the signal at the `nth` time at `place`, one of `seen`

    Without a place only look which there are. A place is where Python looks for
    signals, in our code: where a function is called, or a built-in one has returned.
    """

    def __init__(self, place=None, nth=0):
        self.place, self.nth, self.seen = place, nth, Counter()

    def __enter__(self):
        sys.setprofile(self.look)
        return self

    def __exit__(self, *args):
        sys.setprofile(None)

    def look(self, frame, event, arg):
        code = frame.f_code
        if event not in ('call', 'c_return') or not code.co_filename.startswith(PLACES):
            return
        place = (
            code.co_filename,
            code.co_qualname,
            frame.f_lineno,
            event,
            *self.via(frame),
        )
        if self.place and place != self.place:
            return
        self.seen[place] += 1
        if self.place and self.seen[place] == self.nth + 1:
            signal.raise_signal(signal.SIGINT)

    def via(self, frame):
        """For what many call, also who did

        That is a context manager, or the learner's own `callback`.
        """
        if (
            frame.f_code.co_filename != contextlib.__file__
            and frame.f_code.co_name not in ('callback', 'call_methods')
        ):
            return ()
        names = []
        while frame.f_back and len(names) < 3:
            frame = frame.f_back
            names.append((frame.f_code.co_qualname, frame.f_locals.get('method_nm')))
        return names


@pytest.mark.slow
def test_ctrl_c_at_every_place(tmp_path, quick):
    """Not at random but where it matters

    At each place where something begins, ends or is written, and at every fourth of the
    others.
    """

    def fit(learn, folder, done):
        return learn.fit(
            2,
            cbs=soak.Told(
                lambda kind, epoch: done.append(epoch) if kind == 'd' else None,
                folder,
                keep=100,
                resume=True,
                quiet=True,
            ),
        )

    def new():
        return make(n=2)

    learn = new()
    with CtrlC() as every:
        fit(learn, tmp_path / 'every', [])
    places = every.seen
    delicate = [
        k
        for k in places
        if any(
            o in str(k)
            for o in (
                'cleanup',
                '_fit',
                'checkpoint.py',
                'state.py',
                'stopping.py',
                'uninterrupted',
                'replacing',
                'Hook',
                'before_fit',
                '_leave',
                'after_epoch',
                'autocast',
                'grad_mode',
            )
        )
    ]
    chosen = (
        delicate
        + [k for k in places if k not in delicate][::4]
        + [k for k in places if 'grad_mode' in str(k)] * 8
    )  # those are for each batch and for whole epochs
    rng, want, wrong, count = random.Random(0), unbroken(n=2), {}, Counter()
    for i, place in enumerate(chosen):
        learn, done, folder = new(), [], tmp_path / str(i)

        def f():
            with CtrlC(place, rng.randrange(places[place])):
                fit(learn, folder, done)

        was, left = interrupted(learn, folder, f)
        count['interrupted'] += was
        for m in learn.model.modules():
            vars(m).pop('forward', None)
        if 'the lock' not in left:
            left += not_safe(
                folder,
                done,
                want,
                i % 4 == 0
                or 'after_epoch' in str(place)
                or folder.is_dir()
                and soak.strangers(folder),
                2,
            )
        if left:
            wrong[place] = left
    print(
        f'{places.total():,} moments at {len(places)} places, {len(chosen)} of them '
        f'tried: {dict(count)}; {len(wrong)} leave something behind'
    )
    assert not wrong, '\n'.join(f'{v}: {k}' for k, v in wrong.items())
    assert count['interrupted'] > len(chosen) * 0.9


# long ones, in processes of their own; `make soak` has them in full -------------------


@pytest.mark.slow
def test_orphans(long):
    """A run is killed whose workers live on, with the lock in their hands

    The next one waits until they have noticed.
    """
    res = long['orphans']()
    print(
        f"{res['orphaned']} killed with its workers alive; "
        f"the next run waited {res['longest_wait']} s"
    )
    assert res['longest_wait'] < 10 and not res['different']


@pytest.mark.slow
def test_kills(long):
    """kill -9 at random moments, then on

    No finished epoch is lost, every file can be read, the end is the same to the bit.
    """
    res = long['kills']()
    print(
        f"{res['kills']} kills, {res['while_writing']} of them while writing and "
        f"{res['while_starting']} before the first step; "
        f"{res['finished']} runs finished, {res['lost']} epochs lost, "
        f"{res['unreadable']} unreadable files, "
        f"{res['different']} runs with other weights, "
        f"{res['leftovers']} files left over ({res['seconds']} s)"
    )
    assert (
        res['kills'] == LONG['kills']
        and res['while_writing'] >= 3
        and res['finished'] >= 1
    )
    assert not any(
        res[k] for k in ('lost', 'unreadable', 'different', 'failed', 'leftovers')
    ), res


@pytest.mark.slow
def test_epochs(long):
    "With all callbacks, memory stays flat and files stay closed"
    res = long['epochs']()
    print(
        f"{res['epochs']} epochs: {res['mb_early']} MB after a tenth, "
        f"{res['mb_late']} MB at the end ({res['growth_percent']:+} %), "
        f"{res['files_early']} and {res['files_late']} open files "
        f"({res['seconds']} s)"
    )
    assert (
        res['epochs'] == LONG['epochs']
        and abs(res['growth_percent']) < 2
        and res['files_early'] == res['files_late']
    )


@pytest.mark.slow
def test_images(long):
    "Pictures that come through the stock DataLoader are not all in memory at once"
    res = long['images']()
    print(
        f"{res['images']:,} pictures, {res['data_mb']} MB: the process and its "
        f"{res['workers']} workers grew by {res['grew_mb']} MB ({res['seconds']} s)"
    )
    assert (
        res['images'] == LONG['images']
        and res['workers'] == 2
        and res['grew_mb'] < 0.75 * res['data_mb']
    )


def test_what_is_written_for_the_page(tmp_path):
    whole = [dict(epoch=i, train_loss=1 / i, valid_loss=2 / i) for i in (1, 2, 3)]
    soak.write_curves(tmp_path / 'killed.csv', whole, whole, [1, 3])
    rows = list(csv.DictReader((tmp_path / 'killed.csv').open()))
    assert list(rows[0]) == [
        'run',
        'epoch',
        'train_loss',
        'valid_loss',
        'killed_before',
    ] and [o['killed_before'] for o in rows] == list('000112')
