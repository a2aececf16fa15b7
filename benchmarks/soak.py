#!/usr/bin/env python3
"""What page 11 shows of faults and of long runs.

kill -9 at random moments, thousands of epochs, millions of images, damaged files:

    python benchmarks/soak.py                 everything, into nbs/results/soak.csv, and
                                              the two loss curves into killed.csv beside
                                              it (minutes)
    python benchmarks/soak.py kills images    only some of: kills, epochs, images, fuzz

Each part runs in a process of its own. One row for each measure; the rows that an
earlier run wrote for the same part are replaced.
tests/test_faults.py calls the same functions with small numbers.
"""

import argparse, csv, gc, hashlib, io, json, math, os, platform, random, re, select
import shutil, signal, statistics, subprocess, sys, tempfile, time, traceback, warnings
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from miniai.accel import ChannelsLast, GradAccum, GradClip, MixedPrecision
from miniai.checkpoint import (
    BestWeightsCB,
    CheckpointCB,
    CheckpointError,
    EarlyStoppingCB,
    read_checkpoint,
)
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.init import BatchTransformCB
from miniai.learner import (
    Accuracy,
    Callback,
    DeviceCB,
    MetricsCB,
    ProgressCB,
    SaveHistoryCB,
    TerminateOnNaN,
    TrainLearner,
)
from miniai.sgd import BatchSchedCB, EpochSchedCB, RecorderCB
from miniai.xtras import set_seed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import children

RESULTS = ROOT / 'nbs' / 'results' / 'soak.csv'
LIMIT = 7200  # seconds for a part

# runs that are killed -----------------------------------------------------------------

EPOCHS = 10


def shake(batch):
    "Uses random numbers of Python, NumPy and PyTorch: each of them has to be put back"
    x, *y = batch
    return (
        x
        + random.gauss(0, 0.01)
        + float(np.random.randn()) * 0.01
        + torch.randn(1) * 0.01,
        *y,
    )


def small_learner(kind, seed=0):
    """A tiny run of `EPOCHS` epochs with everything that has a state.

    That is: schedule, dropout, BatchNorm, momentum. There are two `kind`s, 0 and 1."""
    set_seed(seed)
    model = nn.Sequential(
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(16, 3),
    )
    x, y = torch.randn(96, 8), torch.arange(96) % 3
    if kind:
        train = DataLoader(
            TensorDataset(x, y),
            16,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
        )
    else:
        train = TensorLoader(x, y, 16, True)
    sched = BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=EPOCHS * 6)
    )
    cbs = [
        MetricsCB(accuracy=Accuracy()),
        BatchTransformCB(shake, on_valid=False),
        sched,
        GradClip(0.5),
    ]
    if kind:
        cbs += [
            GradAccum(4),
            BestWeightsCB('loss'),
            RecorderCB(lr=lambda cb: cb.pg['lr']),
        ]
    return TrainLearner(
        model,
        DataLoaders(train, TensorLoader(x[:50], y[:50], 16)),
        F.cross_entropy,
        0.05,
        cbs,
        optim.AdamW if kind else partial(optim.SGD, momentum=0.9),
    )


def bits(x):
    "`x` as text from which any difference in any bit of it can be seen"
    if isinstance(x, dict):
        return repr(sorted((str(k), bits(v)) for k, v in x.items()))
    if isinstance(x, (list, tuple)):
        return repr([bits(o) for o in x])
    return (
        repr((x.dtype, x.shape, x.detach().contiguous().numpy().tobytes()))
        if isinstance(x, torch.Tensor)
        else repr(x)
    )


def digest(learn):
    """A checksum of what a run ends with.

    Weights, buffers, what the optimiser knows, history without times, and how the
    random numbers go on."""
    rows = [{k: v for k, v in o.items() if k != 'time'} for o in learn.history.rows]
    opt = [
        [{k: v for k, v in g.items() if k != 'params'} for g in learn.opt.param_groups],
        list(learn.opt.state_dict()['state'].items()),
    ]
    state = [
        learn.model.state_dict(),
        opt,
        rows,
        random.random(),
        float(np.random.rand()),
        torch.rand(2),
    ]
    return hashlib.sha256(bits(state).encode()).hexdigest()


class Told(CheckpointCB):
    "A `CheckpointCB` that calls `tell` before it writes, and when it has written"

    def __init__(self, tell, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tell = tell

    def write(self, learn, epoch):
        self.tell('w', epoch)
        super().write(learn, epoch)
        self.tell('d', epoch)


class Started(Callback):
    "Tells which files are in the folder that should not be, and where the run begins"

    order = CheckpointCB.order + 1

    def __init__(self, tell, folder):
        self.tell, self.folder = tell, Path(folder)

    def before_fit(self, learn):
        self.tell('t', json.dumps(strangers(self.folder)))
        self.tell('s', learn.epochs.start)


def strangers(folder):
    "The files in `folder` that are neither checkpoints nor the lock"
    return sorted(
        o.name
        for o in folder.iterdir()
        if not (
            o.name == '.lock'
            or (o.name.startswith('epoch_') and o.suffix == '.safetensors')
        )
    )


def child(fd, folder, make, n_epochs, keep):
    """What a forked process does: the run in `folder`; it never returns.

    Without a folder it is the same run and no checkpoints."""

    def tell(kind, value):
        os.write(fd, f'{kind} {time.monotonic()} {value}\n'.encode())

    try:
        warnings.simplefilter('error')
        with redirect_stdout(io.StringIO()):
            learn = make()
            learn.fit(
                n_epochs,
                cbs=[]
                if folder is None
                else [
                    Told(tell, folder, keep=keep, resume=True, quiet=True),
                    Started(tell, folder),
                ],
            )
        tell('f', digest(learn))
    except BaseException:
        tell('e', json.dumps(traceback.format_exc()[-1500:]))
    os._exit(0)


def attempt(folder, make, trigger=None, delay=0.0, n_epochs=EPOCHS, keep=2):
    """Fork a run and kill it; what it told, and was it killed?

    `delay` seconds after a message for which `trigger(kind, value)` is true (`True`:
    after the fork), it is killed."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(r)
        child(w, folder, make, n_epochs, keep)
    os.close(w)
    os.set_blocking(r, False)
    text, killed, told, status = b'', False, [], None
    due = time.monotonic() + delay if trigger is True else None
    while status is None:
        if due is not None and time.monotonic() >= due and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        select.select(
            [r],
            [],
            [],
            0.02
            if due is None or killed
            else min(0.02, max(0, due - time.monotonic())),
        )
        ended, code = os.waitpid(
            pid, os.WNOHANG
        )  # its workers may live on, and keep the pipe open
        if ended:
            status = code
        with suppress(BlockingIOError):
            while new := os.read(r, 65536):
                text += new
        *lines, text = text.split(b'\n')
        for o in lines:
            kind, at, value = o.decode().split(' ', 2)
            told.append((kind, float(at), value))
            if due is None and trigger and trigger(kind, value):
                due = time.monotonic() + delay
    os.close(r)
    return told, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def warm_up(make):
    """Do once, in the parent, what is slow the first time.

    With one thread, for a process that has used several can not be forked safely."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp, redirect_stdout(io.StringIO()):
        for n in (1, 2):
            make().fit(n, cbs=CheckpointCB(tmp, resume=True))


def ended(told):
    "The checksum a run ended with; raises if it failed, `None` if it was killed before"
    for kind, _, value in told:
        if kind == 'e':
            raise RuntimeError(json.loads(value))
    return next((v for k, _, v in told if k == 'f'), None)


def durations(told, begin, end):
    "Seconds from each message `begin` to the next message `end`"
    res, since = [], None
    for kind, at, _ in told:
        if kind == begin:
            since = at
        elif kind == end and since is not None:
            res.append(at - since)
    return res


def kills(n, seed=0, say=lambda s: None):
    """Kill runs `n` times, at any time, while they write, and while they start.

    A new run begins whenever one is finished. Nobody may have used threads in this
    process."""
    for kind in (0, 1):
        warm_up(partial(small_learner, kind))
    rng, count = (
        random.Random(seed),
        dict(
            kills=0,
            while_writing=0,
            while_starting=0,
            finished=0,
            lost=0,
            unreadable=0,
            leftovers=0,
            different=0,
            failed=0,
        ),
    )
    begun, errors, left = time.perf_counter(), [], set()
    with tempfile.TemporaryDirectory() as tmp:
        want, took = [], []
        for kind in (0, 1):
            make = partial(small_learner, kind, seed)
            want.append(ended(attempt(None, make)[0]))
            start = time.monotonic()
            told, _ = attempt(Path(tmp) / f'unbroken {kind}', make)
            took.append(
                (
                    told[1][1] - start,
                    told[-1][1] - start,
                    statistics.median(durations(told, 'w', 'd')),
                )
            )  # until it starts, until it ends, one write
            if ended(told) != want[-1]:
                raise AssertionError(
                    f'Kind {kind}: writing checkpoints, without any kill, '
                    'changes the run'
                )
        run = 0
        while count['kills'] < n or run:  # the last run is finished, too
            if not run:  # a new one
                kind, keep, done, folder = (
                    count['finished'] % 2,
                    rng.choice([1, 2, 2, 100]),
                    0,
                    Path(tmp) / f'run {count["finished"]} {count["failed"]}',
                )
            run += 1
            start, whole, write = took[kind]
            how, wait = (
                rng.choice(['any', 'any', 'any', 'write', 'write', 'start']),
                rng.random(),
            )
            if count['kills'] >= n:
                plan = {}
            elif how == 'any':
                plan = dict(trigger=True, delay=whole * wait)
            elif how == 'start':
                plan = dict(trigger=True, delay=start * 1.1 * wait)
            else:
                at = str(done + rng.randint(1, 3))
                plan = dict(
                    trigger=lambda k, v: k == 'w' and int(v) >= int(at),
                    delay=write * 1.1 * wait,
                )
            told, killed = attempt(
                folder, partial(small_learner, kind, seed), keep=keep, **plan
            )
            kinds = [o[0] for o in told]
            count['kills'] += killed and 'f' not in kinds
            count['while_writing'] += killed and bool(kinds) and kinds[-1] == 'w'
            count['while_starting'] += killed and 's' not in kinds
            left |= {(folder, o) for k, _, v in told if k == 't' for o in json.loads(v)}
            began = next((int(v) for k, _, v in told if k == 's'), None)
            if began is not None:
                count['lost'] += max(0, done - began)
            done = max([done, *(int(v) for k, _, v in told if k == 'd')])
            found = CheckpointCB(folder).found if folder.exists() else {}
            count['lost'] += sum(
                o not in found
                for o in range(1, done + 1)
                if o > max([done, *found]) - keep
            )
            for epoch, path in found.items():
                try:
                    if read_checkpoint(path)['epoch'] != epoch:
                        raise CheckpointError(f'{path} is of another epoch')
                except CheckpointError as e:
                    count['unreadable'] += 1
                    errors.append(str(e))
            if 'f' in kinds:
                count['finished'] += 1
                count['different'] += (
                    next(v for k, _, v in told if k == 'f') != want[kind]
                )
            elif 'e' in kinds:
                count['failed'] += 1
                errors.append(json.loads(next(v for k, _, v in told if k == 'e')))
                if count['failed'] > 20:
                    break
            elif not killed:
                raise RuntimeError('A run ended without a word')
            if not killed or 'f' in kinds:
                run = 0
                shutil.rmtree(folder, ignore_errors=True)
            if killed and count['kills'] % 20 == 0:
                say(f"{count['kills']} kills, {count['finished']} runs finished")
    count['leftovers'] = len(left)
    errors += sorted(
        {re.sub(r'\d+', '#', f'The file {o} stayed in the folder') for _, o in left}
    )
    return {**count, 'seconds': round(time.perf_counter() - begun, 1), 'errors': errors}


class Slow(torch.utils.data.Dataset):
    "Items that take a moment: the workers are busy when their process is killed"

    def __len__(self):
        return 64

    def __getitem__(self, i):
        time.sleep(0.002)
        return torch.arange(8.0) * (i % 7), i % 3


def with_workers(seed=0):
    "A run whose data come from two workers"
    set_seed(seed)
    loader = DataLoader(Slow(), 16, shuffle=True, num_workers=2)
    return TrainLearner(
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        DataLoaders(loader, loader),
        F.cross_entropy,
        0.05,
    )


def orphans(n=1, seed=0):
    """Kill a run that has workers, `n` times, and go on at once; how long it takes.

    The workers, which have the lock in their hands too, need seconds to notice."""
    warm_up(partial(small_learner, 0))
    make, waited = partial(with_workers, seed), []
    want = ended(attempt(None, make, n_epochs=n + 1)[0])
    with tempfile.TemporaryDirectory() as tmp:
        for i in range(n + 1):
            start = time.monotonic()
            told, killed = attempt(
                Path(tmp) / 'run', make, i < n and (lambda k, v: k == 'd'), 0.05, n + 1
            )
            if i:
                waited.append(
                    next((at - start for k, at, _ in told if k == 's'), math.inf)
                )
            if killed != (i < n):
                raise RuntimeError(
                    f'The run was not killed when it should have been: {told}'
                )
    return dict(
        orphaned=n,
        longest_wait=round(max(waited), 1),
        different=int(ended(told) != want),
    )


def picture_learner(seed=0):
    "A small network and 2,000 pictures, for a curve"
    set_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(400, 10),
    )
    dls = PICTURES[0]
    sched = BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=20 * len(dls.train))
    )
    return TrainLearner(
        model,
        dls,
        F.cross_entropy,
        0.02,
        [MetricsCB(accuracy=Accuracy()), sched],
        partial(optim.SGD, momentum=0.9),
    )


PICTURES = []  # read once, by the parent of all runs


def killed_curve(n=9, seed=0, n_epochs=20):
    """The history of a run on pictures that was never killed, and that of one that was.

    Both have `n_epochs`. The second is killed in `n` different epochs; which those are
    comes last."""
    torch.set_num_threads(1)
    PICTURES[:] = [get_dls(bs=100, limit=2000)]
    warm_up(partial(picture_learner, seed))
    rng, make = random.Random(seed), partial(picture_learner, seed)
    fatal = sorted(rng.sample(range(1, n_epochs + 1), n))
    with tempfile.TemporaryDirectory() as tmp:
        whole, broken = Path(tmp) / 'whole', Path(tmp) / 'broken'
        told, _ = attempt(whole, make, n_epochs=n_epochs)
        want, one = ended(told), statistics.median(durations(told, 'd', 'w'))
        for epoch in fatal:
            told, killed = attempt(
                broken,
                make,
                lambda k, v: k in ('s', 'd') and int(v) == epoch - 1,
                one * rng.uniform(0.1, 0.9),
                n_epochs,
            )
            if ended(told) or not killed:
                raise RuntimeError(
                    f'The run was to be killed in epoch {epoch}, and was not'
                )
        if ended(attempt(broken, make, n_epochs=n_epochs)[0]) != want:
            raise AssertionError('The run that was killed ended elsewhere')
        return *(
            read_checkpoint(o / f'epoch_{n_epochs:04}.safetensors')['history']
            for o in (whole, broken)
        ), fatal


def write_curves(path, whole, broken, fatal):
    """The two histories as a table.

    `killed_before` says how often the run had been killed when the epoch was
    finished."""
    rows = [
        dict(
            run=run,
            epoch=o['epoch'],
            train_loss=o['train_loss'],
            valid_loss=o['valid_loss'],
            killed_before=sum(k <= o['epoch'] for k in at),
        )
        for run, history, at in (
            ('never killed', whole, []),
            (f'killed {len(fatal)} times', broken, fatal),
        )
        for o in history
    ]
    write_rows(path, rows)


# runs that are long -------------------------------------------------------------------


def memory(pid='self', what='VmRSS'):
    "MB of memory: `VmRSS` is what a process has now, `VmHWM` the most it had"
    return (
        int(Path(f'/proc/{pid}/status').read_text().split(f'{what}:')[1].split()[0])
        / 1024
    )


def share(pid):
    "MB of memory in which what several processes share is counted once"
    return (
        int(Path(f'/proc/{pid}/smaps_rollup').read_text().split('\nPss:')[1].split()[0])
        / 1024
    )


class Watch(Callback):
    "At the end of the epochs `at`: memory, and the number of open files"

    order = CheckpointCB.order + 2

    def __init__(self, at, say):
        self.at, self.say, self.seen = at, say, []

    def before_epoch(self, learn):
        if learn.phase == 'train' and learn.epoch in self.at:
            self.look(learn.epoch)

    def after_fit(self, learn):
        self.look(learn.n_epochs)

    def look(self, epoch):
        gc.collect()
        self.seen.append((epoch, memory(), len(os.listdir('/proc/self/fd'))))
        self.say('epoch {}: {:.1f} MB, {} open files'.format(*self.seen[-1]))


def epochs(n, seed=0, say=lambda s: None):
    """`n` short epochs in one fit with all callbacks that can be combined.

    Memory and open files after a tenth of them and at the end.

    By design these grow: the history (a row an epoch), what `RecorderCB` records and
    `GradClip.norms` (a number a step); together about 4 KB an epoch. Left out are
    ActivationStats and CapturePreds, whose purpose is to collect; KeepMemory and
    Compile, which change the process; and what ends or tries a fit."""
    torch.set_num_threads(1)
    set_seed(seed)
    begun = time.perf_counter()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    x, y = torch.randn(48, 1, 8, 8), torch.arange(48) % 3
    dls = DataLoaders(TensorLoader(x, y, 16, True), TensorLoader(x[:16], y[:16], 16))
    watch = Watch(sorted({max(n * i // 10, 1) for i in range(1, 10)}), say)
    with (
        tempfile.TemporaryDirectory() as tmp,
        open(os.devnull, 'w') as null,
        redirect_stdout(null),
    ):
        cbs = [
            DeviceCB('cpu'),
            MetricsCB(accuracy=Accuracy()),
            ProgressCB(),
            RecorderCB(lr=lambda cb: cb.pg['lr']),
            BatchTransformCB(shake, on_valid=False),
            BatchSchedCB(
                partial(
                    lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=n * len(dls.train)
                )
            ),
            EpochSchedCB(partial(lr_scheduler.StepLR, step_size=10**9)),
            GradClip(),
            GradAccum(2),
            MixedPrecision(torch.bfloat16),
            ChannelsLast(),
            TerminateOnNaN(),
            SaveHistoryCB(Path(tmp) / 'metrics.csv'),
            EarlyStoppingCB(patience=10**9),
            BestWeightsCB(),
            CheckpointCB(Path(tmp) / 'run'),
            watch,
        ]
        history = TrainLearner(
            model, dls, F.cross_entropy, 0.01, cbs, partial(optim.SGD, momentum=0.9)
        ).fit(n)
    (_, early, files_early), (_, late, files_late) = watch.seen[0], watch.seen[-1]
    return dict(
        epochs=len(history),
        mb_early=round(early, 1),
        mb_late=round(late, 1),
        growth_percent=round(100 * (late / early - 1), 2),
        files_early=files_early,
        files_late=files_late,
        seconds=round(time.perf_counter() - begun, 1),
    )


class Images:
    "`n` coloured pictures of 32×32 pixels, made when asked for, a batch at a time"

    def __init__(self, n):
        self.n, self.pattern = (
            n,
            np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), np.uint8),
        )

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.__getitems__([i])

    def __getitems__(self, idx):
        idx = np.asarray(idx)
        return torch.from_numpy(
            self.pattern + idx.astype(np.uint8)[:, None, None, None]
        ), torch.from_numpy(idx % 10)


def as_it_is(batch):
    return batch


class Thumb(nn.Module):
    "A network that is quick: it looks at every eighth pixel"

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3 * 4 * 4, 10)

    def forward(self, x):
        return self.lin(x[..., ::8, ::8].float().flatten(1) / 255)


class WatchWorkers(Callback):
    "The most memory that this process and its workers ever had"

    def __init__(self, every=10):
        self.every, self.peaks, self.most = every, {}, 0

    def after_batch(self, learn):
        if learn.iter % self.every:
            return
        pids = [os.getpid(), *(o.pid for o in active_children())]
        self.peaks.update({o: memory(o, 'VmHWM') for o in pids})
        self.most = max(self.most, sum(map(share, pids)))


def images(n, workers=2, bs=2000, seed=0, say=lambda s: None):
    """Train once on `n` generated pictures that come out of `DataLoaders.from_dd`.

    The memory of all processes, against what the pictures would need."""
    torch.set_num_threads(1)
    set_seed(seed)
    begun, watch, before = time.perf_counter(), WatchWorkers(), share('self')
    dls = DataLoaders.from_dd(
        {'train': Images(n)}, bs, num_workers=workers, collate_fn=as_it_is
    )
    with redirect_stdout(io.StringIO()):
        history = TrainLearner(
            Thumb(),
            dls,
            F.cross_entropy,
            0.1,
            [MetricsCB(accuracy=Accuracy()), TerminateOnNaN(), watch],
        ).fit(1, valid=False)
    return dict(
        images=n,
        loss=round(history[0]['train_loss'], 4),
        data_mb=round(n * 3 * 32 * 32 / 2**20, 1),
        grew_mb=round(watch.most - before, 1),
        most_mb=round(watch.most, 1),
        peaks_mb=round(sum(watch.peaks.values()), 1),
        workers=len(watch.peaks) - 1,
        seconds=round(time.perf_counter() - begun, 1),
    )


def fuzz(seconds, seed=0, say=lambda s: None):
    "Damaged files for `seconds`; see fuzz.py"
    sys.path.insert(0, str(Path(__file__).parent))
    import fuzz as other

    return other.fuzz(seconds, seed, show=say)


# all of it ----------------------------------------------------------------------------

PARTS = {
    'kills': (kills, 200, 'kills'),
    'epochs': (epochs, 2000, 'epochs'),
    'images': (images, 2_000_000, 'pictures'),
    'fuzz': (fuzz, 600, 'seconds'),
}


def start(name, n, seed=0, **kw):
    "Begin with the function `name` in a process of its own"
    cmd = [sys.executable, __file__, '--alone', name, n, seed]
    return children.popen(cmd, stdout=subprocess.PIPE, **kw)


def result(process):
    "What a function that was begun with `start` returns, when it has ended"
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        children.end(process)
    if process.returncode:
        raise RuntimeError(f'{" ".join(process.args)} failed: {err or ""}')
    return json.loads(out.splitlines()[-1])


def alone(name, n, seed=0):
    return result(start(name, n, seed))


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as f:
        w = csv.DictWriter(f, list(rows[0]))
        w.writeheader()
        w.writerows(rows)


def flat(res, before=''):
    "Pairs of a name and a number (or text), of a nested dict; lists are counted"
    for k, v in res.items():
        if isinstance(v, dict):
            yield from flat(v, f'{before}{k} ')
        else:
            yield f'{before}{k}', len(v) if isinstance(v, list) else v


def main(args):
    old = list(csv.DictReader(args.out.open())) if args.out.exists() else []
    for name in args.what:
        n = getattr(args, name)
        print(f'{name}: {n:,} {PARTS[name][2]}', file=sys.stderr, flush=True)
        res = alone(name, n, args.seed)
        if name == 'kills':
            res['seconds_for_workers_to_notice'] = alone('orphans', 1, args.seed)[
                'longest_wait'
            ]
        for o in res.pop('errors', []):
            print(o, file=sys.stderr)
        stamp = dict(
            torch=torch.__version__,
            machine=args.machine,
            date=datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%SZ'),
            seed=args.seed,
        )
        new = [
            dict(what=name, tried=n, measure=k, value=v, **stamp) for k, v in flat(res)
        ]
        for o in new:
            print(f"{name:8} {o['measure']:30} {str(o['value']):>12}")
        old = [o for o in old if o['what'] != name] + new
        write_rows(args.out, old)
        if name == 'kills':
            write_curves(
                args.out.with_name('killed.csv'), *alone('killed_curve', 9, args.seed)
            )


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('what', nargs='*', help=f'{", ".join(PARTS)}, or all')
    for k, (_, n, unit) in PARTS.items():
        p.add_argument(
            f'--{k}',
            type=int,
            default=n,
            metavar='N',
            help=f'how many {unit} (default: %(default)s)',
        )
    p.add_argument('--seed', type=int, default=42, help='default: %(default)s')
    p.add_argument('--out', type=Path, default=RESULTS, help='default: %(default)s')
    p.add_argument(
        '--machine',
        default=f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores',
        help='what it runs on, in words',
    )
    p.add_argument('--alone', nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.alone:
        name, n, seed = args.alone
        kw = (
            {}
            if name in ('killed_curve', 'orphans')
            else dict(say=lambda s: print(f'  {s}', file=sys.stderr, flush=True))
        )
        print(json.dumps(globals()[name](int(n), seed=int(seed), **kw)))
    else:
        unknown = [o for o in args.what if o not in (*PARTS, 'all')]
        if unknown:
            sys.exit(f'There is no {unknown[0]}; there are {", ".join(PARTS)} and all')
        args.what = [
            o for o in PARTS if o in args.what or not args.what or 'all' in args.what
        ]
        main(args)
