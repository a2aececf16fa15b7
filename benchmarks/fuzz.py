#!/usr/bin/env python3
"""Fuzzing of all that opens strangers' files: only our own errors may come out.

    python benchmarks/fuzz.py                        30 seconds
    python benchmarks/fuzz.py --seconds 600          what `make soak` does
    python benchmarks/fuzz.py --target open_image --seed 7 --keep found

Valid files are damaged in many ways. The work is done in a process of its own, with
little memory, so that a crash, a hang or a bomb is one more finding. Plain mutation
with `random.Random(seed)` instead of Hypothesis: it tries some hundred inputs a second,
and a finding is a file that can be tried again (--again FILE).
"""

import argparse, copy, io, json, math, os, random, resource, shutil, signal
import sys, tempfile, time, traceback, warnings, zlib
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import children

HEADROOM, PATIENCE = 2**30, 15  # bytes, seconds of CPU: what one input may use

# is it one of our errors? -------------------------------------------------------------


class Hung(BaseException):
    "One input takes too long"


class Changed(Exception):
    "A refusal that changed the weights"


def chain(e):
    "`e` and the errors it came from"
    while e is not None:
        yield e
        e = e.__cause__ or e.__context__


def last_file(e):
    "The file of the line that raised `e`"
    return traceback.extract_tb(e.__traceback__)[-1].filename


def foreign(e, ours):
    """Why the error `e` is none of those that we promise, the classes `ours`.

    `None` if it is: raised in miniai, with a sentence, and not after taking all
    memory."""
    if isinstance(e, Hung):
        return f'took more than {PATIENCE} s of CPU, or waits for something'
    if isinstance(e, Changed):
        return str(e)
    if not isinstance(e, ours):
        return f'{type(e).__name__} came out'
    if Path(last_file(e)).parent != ROOT / 'miniai':
        return f'{type(e).__name__} was not raised by miniai but in {last_file(e)}'
    if len(str(e)) < 20 or len(str(e)) > 5000:
        return f'{len(str(e)):,} characters are no sentence'
    for o in chain(e):
        if (
            isinstance(o, MemoryError)
            and 'this computer' not in str(o)
            or any(k in str(o) for k in ("can't allocate memory", 'bad_alloc'))
        ):
            return f'it asked for more than {HEADROOM / 2**30:g} GiB: {str(o)[:100]}'


def limit_memory(headroom=HEADROOM):
    "From here on this process can take only `headroom` bytes more"
    top = (
        int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        + headroom
    )
    resource.setrlimit(resource.RLIMIT_AS, (top, top))


# valid files --------------------------------------------------------------------------


def tiny_learner(folder=None, seed=0):
    """A learner with something of everything that is kept in a checkpoint.

    With `folder` it resumes what is there."""
    from functools import partial
    import torch
    from torch import nn, optim
    from miniai.accel import GradClip
    from miniai.checkpoint import BestWeightsCB, CheckpointCB
    from miniai.datasets import DataLoaders, TensorLoader
    from miniai.learner import Accuracy, MetricsCB, TrainLearner
    from miniai.sgd import BatchSchedCB, RecorderCB

    g = torch.Generator().manual_seed(0)
    dls = DataLoaders(
        *(
            TensorLoader(
                torch.randn(n, 4, generator=g), torch.arange(n) % 3, 16, n > 20
            )
            for n in (32, 20)
        ),
        classes=list('abc'),
    )
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    sched = BatchSchedCB(
        partial(optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4)
    )
    cbs = [
        MetricsCB(accuracy=Accuracy()),
        sched,
        GradClip(),
        RecorderCB(lr=lambda cb: cb.pg['lr']),
        BestWeightsCB(),
    ]
    if folder:
        cbs.append(CheckpointCB(folder, resume=True, quiet=True))
    return TrainLearner(model, dls, nn.functional.cross_entropy, 0.1, cbs, optim.AdamW)


class Halt(Exception):
    "Ends a fit after its first epoch"


def write_run_of_one_epoch(folder):
    "The checkpoint of a fit that was killed in its second epoch"
    from miniai.learner import Callback

    class Stop(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                raise Halt()

    try:
        tiny_learner(folder).fit(2, cbs=[Stop()])
    except Halt:
        pass
    return Path(folder) / 'epoch_0001.safetensors'


def write_tiny_run(folder):
    "A folder for `load_run`: a network for pictures of 8×8 pixels"
    from miniai.train import build_model, save_model

    Path(folder).mkdir(parents=True, exist_ok=True)
    config = dict(
        format=1,
        model=dict(
            kind='resnet', nfs=[4, 8], leak=0.1, sub=0.4, head='pool', n_in=1, n_out=3
        ),
        classes=list('abc'),
        images=dict(shape=[1, 8, 8], mean=[0.3], std=[0.4], background=0.0, size=None),
        training={},
        history=[{'epoch': 1, 'valid_loss': 1.0}],
        result=dict(split='test', images=10, loss=1.0, accuracy=0.5),
        versions={},
    )
    save_model(build_model(config['model']), config, Path(folder))


def pictures():
    "Small valid pictures, in many formats and modes, as bytes"
    import numpy as np
    from PIL import Image

    rgb, res = (
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)),
        [],
    )
    for fmt, modes in dict(
        PNG='1 L LA P RGB RGBA I;16',
        JPEG='L RGB CMYK',
        GIF='L P',
        BMP='1 L RGB',
        TIFF='1 L RGB I;16',
        WEBP='RGB RGBA',
        PPM='L RGB',
    ).items():
        for mode in modes.split():
            im, f = (
                Image.new('I;16', (8, 8), 300) if mode == 'I;16' else rgb.convert(mode),
                io.BytesIO(),
            )
            im.save(
                f,
                fmt,
                **(
                    dict(compression='tiff_lzw')
                    if fmt == 'TIFF' and mode == 'L'
                    else {}
                ),
            )
            res.append(f.getvalue())
    f = io.BytesIO()
    rgb.save(f, 'GIF', save_all=True, append_images=[rgb.rotate(90)] * 3)
    exif = Image.Exif()
    exif[274] = 6
    g = io.BytesIO()
    rgb.save(g, 'JPEG', exif=exif)
    return [*res, f.getvalue(), g.getvalue()]


# damage -------------------------------------------------------------------------------

INTERESTING = [
    b'\0',
    b'\xff',
    b'\x80',
    b'\x7f\xff',
    b'\xff\xff\xff\xff',
    b'\x7f\xff\xff\xff',
    b'\0\0\0\0',
    b'\xff' * 8,
    b'\xff' * 7 + b'\x7f',
    b'{',
    b'"',
    b'[',
    b'$',
]


def damage(r, data, others=()):
    """`data`, bytes, damaged in one to four ways.

    These are: bits turned, bytes set, a piece cut out, doubled or exchanged, the rest
    cut off, a piece of one of `others` put in."""
    data = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 4))):
        n = len(data) or 1
        i = min(
            int(r.random() ** r.choice((1, 3)) * n), n - 1
        )  # the beginning is read by more code
        j = min(n, i + r.choice((1, 2, 4, 8, r.randint(1, n))))
        kind = r.randrange(8)
        if kind < 3:
            data[i : i + 1] = bytes([(data[i] if data else 0) ^ 1 << r.randrange(8)])
        elif kind == 3:
            o = r.choice(INTERESTING)
            data[i : i + len(o)] = o
        elif kind == 4:
            del data[i:j]
        elif kind == 5:
            data[i:i] = data[i:j]
        elif kind == 6:
            del data[i:]
        elif others:
            o = r.choice(others)
            k = r.randrange(len(o))
            data[i:j] = o[k : k + j - i]
    return bytes(data)


HOSTILE = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2.5,
    -0.0,
    625,
    2**31,
    2**63,
    -(2**63),
    10**12,
    10**30,
    1e308,
    math.nan,
    math.inf,
    '',
    'a',
    'x' * 1000,
    '-1',
    '1e9',
    '../../x',
    '\0',
    '\ud800',
    [],
    {},
    [[]],
    [None],
    [0] * 1000,
    [1e9],
    ['a', 'a'],
    {'a': 1},
    {'': None},
    {'$tensor': ''},
    {'$tensor': 3},
    {'$tensor': '/model/0.weight'},
    {'$tensor': '/model/1.num_batches_tracked'},
    {'$float': 'nan'},
    {'$float': 'x'},
    {'$rows': {'$tensor': '/model/0.weight'}},
    {'$array': {'$tensor': '/model/0.weight'}},
    {'$complex': {'$tensor': '/model/0.weight'}},
    {'$tuple': []},
    {'$tuple': 5},
    {'$dict': [[[], 1]]},
    {'$dict': [[1, 2, 3]]},
    {'$dict': 1},
    {'$what': 1},
]


def places(x, at=()):
    "The paths of all nodes of the JSON `x`"
    yield at
    for k in x if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else ():
        yield from places(x[k], (*at, k))


def _get(x, at):
    for k in at:
        x = x[k]
    return x


def hostile(r, x):
    """The JSON `x` with one to three of its nodes changed.

    They are exchanged, removed, renamed, doubled, made deep or long."""
    x = copy.deepcopy(x)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        every = list(places(x))
        at = r.choice(every)
        if not at:
            x = r.choice((x, x, x, r.choice(HOSTILE)))
            continue
        parent, k = _get(x, at[:-1]), at[-1]
        kind = r.randrange(10)
        if kind < 5:
            parent[k] = copy.deepcopy(r.choice(HOSTILE))
        elif kind == 5:
            del parent[k]
        elif kind == 6:
            parent[k] = copy.deepcopy(_get(x, r.choice(every)))
        elif kind == 7 and isinstance(parent, dict):
            parent[
                r.choice(
                    (
                        '',
                        'a',
                        '$tuple',
                        '$rows',
                        'optimizer',
                        'params',
                        'step',
                        '__class__',
                        *parent,
                    )
                )
            ] = parent.pop(k)
        elif kind == 7:
            parent[k:k] = [copy.deepcopy(parent[k])] * r.choice((1, 2, 700))
        elif kind == 8 and isinstance(parent[k], (int, float)):
            parent[k] = r.choice(
                (
                    -parent[k],
                    parent[k] + 1,
                    parent[k] - 1,
                    parent[k] * 10**6,
                    float(parent[k]),
                    str(parent[k]),
                )
            )
        elif kind == 9:
            parent[k] = r.choice(
                (
                    [parent[k]],
                    {'a': parent[k]},
                    {'$tuple': parent[k]},
                    {'$rows': parent[k]},
                    {'$array': parent[k]},
                    {'$dict': [[parent[k], parent[k]]]},
                )
            )
    return x


def other_tensors(r, tensors):
    """`tensors`; now and then one of them is another, or is missing.

    Another has another type, another shape or other numbers."""
    import torch

    if r.random() < 0.7:
        return tensors
    tensors, k = dict(tensors), r.choice(list(tensors))
    t = tensors[k]
    make = [
        lambda: t.double(),
        lambda: t.half(),
        lambda: t.bfloat16(),
        lambda: t.long(),
        lambda: t.bool(),
        lambda: t[None],
        lambda: t.flatten()[:0],
        lambda: t.reshape(-1),
        lambda: torch.zeros(1000, 0),
        lambda: t * 0 - 1,
        lambda: torch.full_like(t, 3).float() * math.inf,
        lambda: torch.randint(0, 256, t.shape).to(t.dtype),
        lambda: torch.zeros(()),
        lambda: t.to(torch.float8_e4m3fn),
        lambda: torch.zeros(3, 2, dtype=torch.complex64),
    ]
    if r.random() < 0.1:
        del tensors[k]
    else:
        tensors[k] = r.choice(make)().contiguous()
    return tensors


def safetensors_bytes(text, tensors, fmt=None):
    """The bytes of a checkpoint whose state is `text`.

    The checksum is right whatever the text says."""
    from safetensors.torch import save
    from miniai.checkpoint import FORMAT, checksum

    return save(
        tensors, dict(format=fmt or FORMAT, state=text, sha256=checksum(text, tensors))
    )


def split_header(data):
    "The header of the safetensors file `data`, a dict, and the bytes after it"
    n = int.from_bytes(data[:8], 'little')
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def with_header(header, rest):
    text = (header if isinstance(header, str) else json.dumps(header)).encode(
        errors='replace'
    )
    return len(text).to_bytes(8, 'little') + text + rest


def hostile_header(r, data):
    header, rest = split_header(data)
    return with_header(hostile(r, header), rest)


def mended_png(data):
    "The PNG `data` with the right checksums, so that what is in its chunks gets read"
    res, i = bytearray(data[:8]), 8
    while i + 8 <= len(data):
        n = int.from_bytes(data[i : i + 4], 'big')
        if n > len(data):
            break
        body = data[i + 4 : i + 8 + n]
        res += data[i : i + 4] + body + zlib.crc32(body).to_bytes(4, 'big')
        i += 12 + n
    return bytes(res) + data[i:]


# targets: `make` gives the bytes of an input, `try_it` feeds them in; a refusal is one
# of the errors `ours` -----------------------------------------------------------------


class Target:
    ours = (ValueError,)

    def __init__(self, r, folder):
        self.r, self.folder = r, Path(folder) / type(self).__name__
        self.folder.mkdir()
        self.prepare()

    def prepare(self):
        pass


class read_checkpoint(Target):
    def prepare(self):
        from safetensors import safe_open
        from miniai.checkpoint import CheckpointError

        self.ours = (CheckpointError,)
        path = write_run_of_one_epoch(self.folder / 'valid')
        self.valid = path.read_bytes()
        with safe_open(path, 'pt') as f:
            self.state, self.tensors = (
                json.loads(f.metadata()['state']),
                {k: f.get_tensor(k) for k in f.keys()},
            )
        self.path = self.folder / 'epoch_0001.safetensors'

    def make(self):
        kind = self.r.randrange(10)
        if kind < 2:
            return damage(self.r, self.valid)
        if kind < 4:
            return hostile_header(self.r, self.valid)
        text = json.dumps(hostile(self.r, self.state))
        if kind == 4:
            text = damage(self.r, text.encode()).decode(errors='replace')
        return safetensors_bytes(text, other_tensors(self.r, self.tensors))

    def try_it(self, data):
        from miniai.checkpoint import read_checkpoint

        self.path.write_bytes(data)
        read_checkpoint(self.path)


class learner_load(read_checkpoint):
    def prepare(self):
        super().prepare()
        self.learn = tiny_learner()
        self.learn.save(self.folder / 'weights.safetensors')
        self.weights = (self.folder / 'weights.safetensors').read_bytes()

    def make(self):
        kind = self.r.randrange(4)
        if kind > 1:
            return super().make()
        return (damage if kind else hostile_header)(self.r, self.weights)

    def try_it(self, data):
        self.path.write_bytes(data)
        unchanged_if_refused(self.learn.model, lambda: self.learn.load(self.path))


class resume(read_checkpoint):
    def make(self):
        return (
            super().make()
            if self.r.random() < 0.1
            else safetensors_bytes(
                json.dumps(hostile(self.r, self.state)),
                other_tensors(self.r, self.tensors),
            )
        )

    def try_it(self, data):
        folder = self.folder / 'run'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / self.path.name).write_bytes(data)
        learn = tiny_learner(folder, seed=1)
        unchanged_if_refused(learn.model, lambda: learn.fit(2))


def unchanged_if_refused(model, f):
    "Call `f`; if it raises, the weights must be what they were"
    import torch

    bits = lambda: {
        k: v.reshape(-1).view(torch.uint8).clone()
        for k, v in model.state_dict().items()
    }  # what was loaded before may hold NaNs
    old = bits()
    try:
        f()
    except Exception as e:
        changed = any(not torch.equal(v, old[k]) for k, v in bits().items())
        if changed and type(e).__name__ == 'CheckpointError':
            raise Changed('the weights are others now, though it was refused') from e
        raise


class load_run(Target):
    def prepare(self):
        from PIL import Image

        write_tiny_run(self.folder)
        self.config, self.text, self.weights = (
            (self.folder / 'config.json'),
            (self.folder / 'config.json').read_text(),
            (self.folder / 'model.safetensors').read_bytes(),
        )
        self.picture = Image.new('L', (9, 7), 30)

    def make(self):
        "Which file it is for, as one byte, and what goes into it"
        kind = self.r.randrange(8)
        if kind == 0:
            return b'w' + damage(self.r, self.weights)
        if kind == 1:
            return b'w' + hostile_header(self.r, self.weights)
        if kind == 2:
            return b'c' + damage(self.r, self.text.encode())
        return b'c' + json.dumps(hostile(self.r, json.loads(self.text))).encode()

    def try_it(self, data):
        from miniai.train import load_run

        self.config.write_bytes(data[1:] if data[:1] == b'c' else self.text.encode())
        (self.folder / 'model.safetensors').write_bytes(
            self.weights if data[:1] == b'c' else data[1:]
        )
        run = load_run(self.folder, 'cpu')
        repr(run), repr(run.predict(self.picture))


class open_image(Target):
    def prepare(self):
        self.seeds, self.path = pictures(), self.folder / 'picture'

    def make(self):
        seed = self.r.choice(self.seeds)
        data = damage(self.r, seed, self.seeds)
        return (
            mended_png(data)
            if data[:4] == b'\x89PNG' and self.r.random() < 0.7
            else data
        )

    def try_it(self, data):
        from miniai.train import open_image

        self.path.write_bytes(data)
        open_image(self.path)


class predict_picture(open_image):
    def prepare(self):
        from miniai.train import load_run

        super().prepare()
        write_tiny_run(self.folder / 'run')
        self.run = load_run(self.folder / 'run', 'cpu')

    def try_it(self, data):
        self.path.write_bytes(data)
        self.run.predict(self.path)


class decode_images(open_image):
    ours = (ValueError, MemoryError)

    def try_it(self, data):
        import datasets as hfds
        from miniai.datasets import decode_images

        ds = hfds.Dataset.from_dict(
            {'image': [{'bytes': o, 'path': None} for o in (self.seeds[0], data)]},
            hfds.Features({'image': hfds.Image()}),
        )
        decode_images(ds, size=self.r.choice((8, (8, 8))))


TARGETS = {
    o.__name__: o
    for o in (
        read_checkpoint,
        learner_load,
        resume,
        load_run,
        predict_picture,
        open_image,
        decode_images,
    )
}

# the process that does it -------------------------------------------------------------


@contextmanager
def patience(seconds=PATIENCE):
    """Raise `Hung` in the block after `seconds` of CPU, or if it waits forever

    Of CPU, for other work may keep it waiting; and twenty times that on the clock, for
    what waits for somebody (a pipe that nobody writes to) uses no CPU.
    """

    def too_long(*_):
        raise Hung('It hangs')

    for o in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(o, too_long)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def try_one(target, data):
    """What became of the input `data`: 'accepted', 'refused' or 'foreign'.

    With the reason and the traceback if it is that."""

    try:
        with patience():
            target.try_it(data)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        why = foreign(e, target.ours)
        return (
            ('foreign', why, traceback.format_exc()) if why else ('refused', None, None)
        )
    return 'accepted', None, None


def prepare():
    """Import everything, on one thread, without warnings, with little memory to take.

    And without waiting for the disk: nothing here is to last."""
    os.fsync = lambda fd: None
    import torch, miniai.checkpoint, miniai.train  # noqa: F401
    from PIL import Image

    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    Image.init()
    limit_memory()


def work(folder, seconds, seed, names, tries=math.inf):
    """Try inputs for `seconds`, or `tries` for each target, and tell what became of them.

    In lines of JSON. The one that is being tried lies in `folder`/current."""
    folder, r, end = Path(folder), random.Random(seed), time.monotonic() + seconds
    prepare()
    with tempfile.TemporaryDirectory() as tmp:
        targets = [TARGETS[o](r, tmp) for o in names]
        spent, tried = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        while time.monotonic() < end:
            wanted = [o for o in names if tried[o] < tries]
            if not wanted:
                break
            nm = min(wanted, key=spent.get)  # each gets the same time
            target = targets[names.index(nm)]
            start = time.perf_counter()
            try:
                data = target.make()
            except Exception:
                spent[nm] += 1e-4
                continue  # what cannot be written at all
            (folder / 'current').write_bytes(nm.encode() + b'\n' + data)
            begun = time.process_time()
            tried[nm] += 1
            what, why, trace = try_one(target, data)
            spent[nm] += time.perf_counter() - start
            print(
                json.dumps(
                    dict(
                        target=nm,
                        what=what,
                        why=why,
                        trace=trace,
                        seconds=time.process_time() - begun,
                    )
                ),
                flush=what == 'foreign',
            )
    print(json.dumps('end'), flush=True)


# and the one that watches -------------------------------------------------------------


def fuzz(seconds, seed=0, keep=None, targets=None, show=print, tries=math.inf):
    """Try damaged files for `seconds` or `tries`, and count what became of them.

    The result is a dict from targets to the counts `tried`, `refused`, `accepted` and
    `foreign`, and the `worst` seconds of CPU for one input. Foreign inputs are kept in the
    folder `keep`, one for each kind of error, and shown with their tracebacks."""
    names = list(targets or TARGETS)
    res = {o: dict(tried=0, refused=0, accepted=0, foreign=0, worst=0.0) for o in names}
    keep, known = Path(keep or tempfile.mkdtemp(prefix='fuzz-')), set()
    keep.mkdir(parents=True, exist_ok=True)

    def found(nm, why, trace):
        res[nm]['foreign'] += 1
        place = [
            o.strip()
            for o in (trace or '').splitlines()
            if o.startswith('  File') and 'fuzz.py' not in o
        ][-1:]
        if (nm, why, *place) in known:
            return
        known.add((nm, why, *place))
        path = keep / f'{nm}-{len(known)}'
        if (keep / 'current').exists():
            shutil.copy(keep / 'current', path)
        show(
            '\n'.join(
                o[:300]
                for o in f'\n{nm}: {why}\nkept as {path}\n{trace or ""}'.splitlines()
            )
        )

    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        args = [
            sys.executable,
            str(Path(__file__).resolve()),
            '--worker',
            str(keep),
            '--seconds',
            str(left),
            '--seed',
            str(seed),
            '--tries',
            str(tries),
        ]
        p = children.popen(
            args + [o for t in names for o in ('--target', t)],
            stdout=PIPE,
            stderr=PIPE,
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': ''},
        )
        timer = _watch(p, keep / 'current')
        ended = False
        for line in p.stdout:
            o = json.loads(line)
            if o == 'end':
                ended = True
                continue
            t = res[o['target']]
            t['tried'] += 1
            t['worst'] = max(t['worst'], o['seconds'])
            if o['what'] == 'foreign':
                found(o['target'], o['why'], o['trace'])
            else:
                t[o['what']] += 1
        said = p.stderr.read()
        p.wait()
        timer.set()
        if ended:
            break
        if not (keep / 'current').exists():
            raise RuntimeError(f'The fuzzer itself fails: {said[-2000:]}')
        nm = (keep / 'current').read_bytes().split(b'\n')[0].decode()
        res[nm]['tried'] += 1
        found(
            nm,
            f'the process died of signal {-p.returncode}'
            if p.returncode < 0
            else f'the process ended with {p.returncode}',
            said[-2000:],
        )
        (keep / 'current').unlink()
        seed += 1
    (keep / 'current').unlink(missing_ok=True)
    return res


def _watch(p, current):
    "Kill the process `p` if it tries one input for too long even for Python's signals"
    import threading

    stop = threading.Event()

    def look():
        seen, since = None, time.monotonic() + 60  # it has to start, too
        while not stop.wait(1) and p.poll() is None:
            now = current.stat().st_mtime_ns if current.exists() else None
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > 40 * PATIENCE:
                p.kill()

    threading.Thread(target=look, daemon=True).start()
    return stop


def table(res):
    "The counts as text"
    lines = [
        f'{"":16} {"tried":>8} {"refused":>8} {"accepted":>8} '
        f'{"foreign":>8} {"worst":>8}'
    ]
    return '\n'.join(
        lines
        + [
            f'{k:16} {v["tried"]:8,} {v["refused"]:8,} {v["accepted"]:8,} '
            f'{v["foreign"]:8,} {v["worst"]:6.2f} s'
            for k, v in res.items()
        ]
    )


def again(path):
    "Try a kept input once more"
    nm, data = Path(path).read_bytes().split(b'\n', 1)
    prepare()
    with tempfile.TemporaryDirectory() as tmp:
        what, why, trace = try_one(TARGETS[nm.decode()](random.Random(0), tmp), data)
    print(f'{trace or ""}{what}{f": {why}" if why else ""}')
    return what == 'foreign'


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument(
        '--seconds', type=float, default=30, help='how long (default: %(default)s)'
    )
    p.add_argument(
        '--seed', type=int, default=0, help='of the mutations (default: %(default)s)'
    )
    p.add_argument(
        '--target',
        action='append',
        choices=list(TARGETS),
        help='only this one; may be given several times (default: all)',
    )
    p.add_argument(
        '--keep',
        metavar='FOLDER',
        help='where inputs that show an error are kept '
        '(default: a new one in the temporary folder)',
    )
    p.add_argument(
        '--again',
        metavar='FILE',
        help='try a kept input once more, and show what happens',
    )
    p.add_argument('--worker', metavar='FOLDER', help=argparse.SUPPRESS)
    p.add_argument('--tries', type=float, default=math.inf, help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.again:
        return again(a.again)
    if a.worker:
        return work(a.worker, a.seconds, a.seed, a.target or list(TARGETS), a.tries)
    keep, total, start, seed = (
        a.keep or tempfile.mkdtemp(prefix='fuzz-'),
        {},
        time.monotonic(),
        a.seed,
    )
    while (
        left := a.seconds - (time.monotonic() - start)
    ) > 1 or not total:  # a new process a minute, and a line
        for k, v in fuzz(
            max(1, min(left, 60)), seed, Path(keep) / str(seed), a.target
        ).items():
            t = total.setdefault(k, dict.fromkeys(v, 0))
            total[k] = {o: max(t[o], v[o]) if o == 'worst' else t[o] + v[o] for o in v}
        seed += 1000
        print(
            f'{time.monotonic() - start:6.0f} s  '
            f'{sum(o["tried"] for o in total.values()):,} inputs, '
            f'{sum(o["foreign"] for o in total.values())} foreign errors',
            flush=True,
        )
    print(table(total))
    bad = any(o['foreign'] for o in total.values())
    if bad:
        print(f'The inputs are in {keep}; try one again with --again FILE')
    return int(bad)


if __name__ == '__main__':
    sys.exit(main())
