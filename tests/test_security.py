"""What comes from a stranger may be refused in a sentence, and can do nothing else

That is a checkpoint, a run, a folder of pictures, or one picture.
"""

import base64, gzip, io, json, multiprocessing, os, pickle, shutil, signal, stat, struct
import sys, tarfile, time, traceback, zipfile, zlib
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import children
import numpy as np, pytest, torch
from PIL import Image

from miniai.checkpoint import read_checkpoint
from miniai.datasets import decode_images, get_dls, load_dd
from miniai.train import load_run, open_image

import fuzz

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(
        sys.platform != 'linux',
        reason='memory is limited and measured the way Linux does it',
    ),
]


def few(table, *kinds):
    "The names of all cases of `table`; those that are not in `kinds` are for `make soak`"
    assert not set(kinds) - set(table), set(kinds) - set(table)
    soak = pytest.mark.soak
    return [o if o in kinds else pytest.param(o, marks=soak) for o in table]


# every attempt is made in another process: it has 1 GiB, 20 s of CPU, and may crash ----


def peak():
    """The most memory this process had since it was last asked, in MB

    Also what it has now.
    """
    was, now = (
        int(
            next(
                o for o in Path('/proc/self/status').read_text().splitlines() if k in o
            ).split()[1]
        )
        / 1024
        for k in ('VmHWM', 'VmRSS')
    )
    Path('/proc/self/clear_refs').write_text('5')
    return was, now


def serve(pipe):
    "Call whatever functions come, and send what came of them"
    import datasets as hfds

    sys.stderr = open(os.devnull, 'w')
    hfds.disable_progress_bars()
    hfds.config.HF_HUB_OFFLINE = True
    fuzz.prepare()

    path = os.environ['PATH']
    while True:
        f, args, cache = pipe.recv()
        for nm, o in dict(
            HF_DATASETS_CACHE='c',
            DOWNLOADED_DATASETS_PATH='c/d',
            EXTRACTED_DATASETS_PATH='c/e',
        ).items():
            setattr(hfds.config, nm, Path(cache) / o)
        os.environ['PATH'] = path
        start, before = time.process_time(), peak()[1]
        try:
            with fuzz.patience(20):
                value, error = f(*args), None
        except BaseException as e:
            value, error = (
                None,
                (
                    type(e).__name__,
                    str(e),
                    fuzz.foreign(e, (ValueError, OSError, MemoryError)),
                    traceback.format_exc(),
                ),
            )
        pipe.send((value, error, peak()[0] - before, time.process_time() - start))


@pytest.fixture(scope='module')
def servant():
    "The process, and another one when that is used up"
    ctx, here = multiprocessing.get_context('forkserver'), SimpleNamespace(p=None)
    old = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(
        str(Path(__file__).parent.parent / o) for o in ('tests', 'benchmarks', 'tools')
    )
    ctx.set_forkserver_preload(['test_security'])

    def start():
        here.pipe, theirs = ctx.Pipe()
        here.p = ctx.Process(target=serve, args=(theirs,), daemon=True)
        here.p.start()
        theirs.close()

    def stop():
        if here.p:
            here.p.kill()
            here.p.join()
        here.p = None

    here.start, here.stop = start, stop
    start()
    if old is None:
        del os.environ['PYTHONPATH']
    else:
        os.environ['PYTHONPATH'] = old
    yield here
    stop()


@pytest.fixture
def attempt(servant, tmp_path):
    """Calls a function in the other process: `value`, or `error`

    `error` is: class, text, why it is not ours, traceback. The fixture fails if that
    crashed, hung or took much memory.
    """

    def _f(f, *args):
        if not servant.p:
            servant.start()
        servant.pipe.send((f, args, str(tmp_path / 'cache')))
        if not servant.pipe.poll(children.LIMIT):
            servant.stop()
            pytest.fail('It hangs, and even a signal does not end it')
        try:
            value, error, mb, seconds = servant.pipe.recv()
        except EOFError:
            servant.p.join()
            code, servant.p = servant.p.exitcode, None
            pytest.fail(f'The process died: {code}')
        if mb > 100 or error and error[2]:
            servant.stop()
        assert mb < 700 and seconds < 20, (
            f'It took {mb:.0f} MB and {seconds:.1f} s: {error}'
        )
        return SimpleNamespace(value=value, error=error)

    return _f


def refused(res, *words):
    "It ended in a sentence of ours, with these `words` in it"
    assert res.error, f'It was accepted: {res.value}'
    assert res.error[2] is None, f'{res.error[2]}\n{res.error[3]}'
    for o in words:
        assert o in res.error[1], res.error[1]


def fine(res):
    "Refused in a sentence, or accepted"
    if res.error:
        refused(res)
    return res


class Evil:
    "Whoever unpickles it makes the file `marker`"

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), 'w')


@pytest.fixture
def marker(tmp_path):
    "It must not be there in the end"
    path = tmp_path / 'marker'
    yield path
    assert not path.exists(), 'Code was run'


def pickles(marker):
    """Files that run code when they are unpickled

    The way PyTorch used to save and the way it does now.
    """
    f, g = io.BytesIO(), io.BytesIO()
    torch.save({'model': Evil(marker)}, f)
    torch.save({'model': Evil(marker)}, g, _use_new_zipfile_serialization=False)
    return [pickle.dumps(Evil(marker)), f.getvalue(), g.getvalue()]


def test_the_trap_works(tmp_path):
    "What the tests below rely on"
    for o in pickles(tmp_path / 'marker'):
        torch.load(io.BytesIO(o), weights_only=False) if o[
            :2
        ] != b'\x80\x04' else pickle.loads(o)
        assert (tmp_path / 'marker').exists()
        (tmp_path / 'marker').unlink()


# checkpoints --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "The file of a run killed in its second epoch, its state as JSON, and its tensors"
    path = fuzz.write_run_of_one_epoch(tmp_path_factory.mktemp('checkpoint'))
    from safetensors import safe_open

    with safe_open(path, 'pt') as f:
        return SimpleNamespace(
            path=path,
            data=path.read_bytes(),
            state=json.loads(f.metadata()['state']),
            tensors={k: f.get_tensor(k) for k in f.keys()},
        )


def load(path):
    fuzz.unchanged_if_refused(
        (learn := fuzz.tiny_learner()).model, lambda: learn.load(path)
    )


def resume(folder):
    fuzz.unchanged_if_refused(
        (learn := fuzz.tiny_learner(folder, seed=1)).model, lambda: learn.fit(2)
    )
    assert 0 <= np.random.get_state()[2] <= 624, (
        'NumPy will read memory that is not its own'
    )


def attack(attempt, folder, data, read=True):
    "Read, load and resume from the bytes `data`; those must be `fine` each"
    path = folder / 'run' / 'epoch_0001.safetensors'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    res = [
        fine(attempt(o, *args))
        for o, args in (
            (read_checkpoint, (path,)),
            (load, (path,)),
            (resume, (path.parent,)),
        )[not read :]
    ]
    for o in res:
        assert not o.error or o.error[0] == 'CheckpointError', o.error[3]
    return res


@pytest.mark.parametrize('i', range(3))
def test_a_pickle_is_no_checkpoint(i, attempt, tmp_path, marker):
    for o in attack(attempt, tmp_path, pickles(marker)[i]):
        refused(o)


HEADERS = dict(
    longer_than_the_file=lambda h, rest: (10**15).to_bytes(8, 'little') + b'{}',
    longest=lambda h, rest: b'\xff' * 8 + b'{}',
    empty=lambda h, rest: b'',
    short=lambda h, rest: b'\x08',
    none=lambda h, rest: bytes(8),
    deep=lambda h, rest: fuzz.with_header('{"a":' * 100_000, rest),
    brackets=lambda h, rest: fuzz.with_header('[' * 10**6, rest),
    number=lambda h, rest: fuzz.with_header(
        '{"a":{"dtype":"U8","shape":[' + '9' * 10**6 + '],"data_offsets":[0,0]}}', b''
    ),
    petabytes=lambda h, rest: fuzz.with_header(
        {'a': dict(dtype='U8', shape=[10**15], data_offsets=[0, 10**15])}, b''
    ),
    product_overflows=lambda h, rest: fuzz.with_header(
        {'a': dict(dtype='F32', shape=[2**32, 2**32], data_offsets=[0, 0])}, b''
    ),
    negative=lambda h, rest: fuzz.with_header(
        {'a': dict(dtype='U8', shape=[4], data_offsets=[-4, 0])}, b'abcd'
    ),
    backwards=lambda h, rest: fuzz.with_header(
        {'a': dict(dtype='U8', shape=[4], data_offsets=[4, 0])}, b'abcd'
    ),
    overlap=lambda h, rest: fuzz.with_header(
        {k: dict(dtype='U8', shape=[4], data_offsets=[0, 4]) for k in 'ab'}, b'abcd'
    ),
    hole=lambda h, rest: fuzz.with_header(
        {'a': dict(dtype='U8', shape=[1], data_offsets=[3, 4])}, b'abcd'
    ),
    not_utf8=lambda h, rest: (4).to_bytes(8, 'little') + b'{"\xff\xfe',
    many=lambda h, rest: fuzz.with_header(
        {
            f't{i}': dict(dtype='U8', shape=[0, 10**12], data_offsets=[0, 0])
            for i in range(10_000)
        },
        b'',
    ),
    no_metadata=lambda h, rest: fuzz.with_header(
        {k: v for k, v in h.items() if k != '__metadata__'}, rest
    ),
    metadata_list=lambda h, rest: fuzz.with_header({**h, '__metadata__': []}, rest),
    metadata_numbers=lambda h, rest: fuzz.with_header(
        {**h, '__metadata__': {'format': 1}}, rest
    ),
    no_state=lambda h, rest: fuzz.with_header(
        {**h, '__metadata__': {**h['__metadata__'], 'state': ''}}, rest
    ),
    only_format=lambda h, rest: fuzz.with_header(
        {**h, '__metadata__': {'format': 'miniai checkpoint 1'}}, rest
    ),
    strange_format=lambda h, rest: fuzz.with_header(
        {**h, '__metadata__': {'format': 'pt'}}, rest
    ),
    bit=lambda h, rest: fuzz.with_header(h, rest[:-1] + bytes([rest[-1] ^ 1])),
)


SOME_HEADERS = (
    'longer_than_the_file empty deep petabytes overlap many metadata_list strange_format bit'
).split()


@pytest.mark.parametrize('name', few(HEADERS, *SOME_HEADERS))
def test_hostile_headers(name, attempt, tmp_path, checkpoint):
    res = attack(attempt, tmp_path, HEADERS[name](*fuzz.split_header(checkpoint.data)))
    if name != 'many':
        refused(res[0])
    refused(res[2])


def change(state, at, new):
    "The JSON `state` with `new` at the place `at`, such as 'history/0/epoch'"
    state = json.loads(json.dumps(state))
    parent, keys = state, [int(o) if o.isdigit() else o for o in at.split('/')]
    for k in keys[:-1]:
        parent = parent[k]
    parent[keys[-1]] = new
    return state


OPT, SCHED = 'optimizer/state', "callbacks/BatchSchedCB/state"
WRONG = dict(  # name: the state, as text or as something for JSON, given a valid one
    nothing=lambda s: None,
    number=lambda s: 3,
    text=lambda s: 'state',
    a_list=lambda s: [s],
    empty=lambda s: {},
    deep=lambda s: '[' * 100_000 + ']' * 100_000,
    deep_dicts=lambda s: '{"a":' * 100_000 + '1' + '}' * 100_000,
    deep_model=lambda s: json.dumps(s).replace(
        '"epoch":', '"x":' + '[' * 900 + ']' * 900 + ',"epoch":', 1
    ),
    digits=lambda s: '9' * 10**6,
    digits_epoch=lambda s: json.dumps(change(s, 'epoch', 'XX')).replace(
        '"XX"', '9' * 10**6
    ),
    not_json=lambda s: '{',
    infinite=lambda s: change(s, 'epoch', 1e400),
    no_such_tensor=lambda s: change(s, 'model/0.weight', {'$tensor': 'x'}),
    tensor_number=lambda s: change(s, 'model/0.weight', {'$tensor': []}),
    unhashable=lambda s: change(s, 'callbacks', {'$dict': [[[], 1], [{}, 1]]}),
    dict_of_one=lambda s: change(s, 'callbacks', {'$dict': [[1]]}),
    dict_number=lambda s: change(s, 'callbacks', {'$dict': 3}),
    unknown_kind=lambda s: change(s, 'model', {'$import': 'os'}),
    tuple_of_one=lambda s: change(s, 'model', {'$tuple': 1}),
    rows_of_text=lambda s: change(s, 'history', {'$rows': 'abc'}),
    array_of_text=lambda s: change(s, 'model', {'$array': 'abc'}),
    no_rows=lambda s: change(s, 'history', {'$rows': {'$tensor': 'void'}}),
    epoch_negative=lambda s: change(s, 'epoch', -5),
    epoch_very_negative=lambda s: change(s, 'epoch', -(10**18)),
    epoch_text=lambda s: change(s, 'epoch', '1'),
    epoch_huge=lambda s: change(s, 'epoch', 10**30),
    epoch_half=lambda s: change(s, 'epoch', 1.5),
    epoch_list=lambda s: change(s, 'epoch', []),
    model_list=lambda s: change(s, 'model', []),
    model_none=lambda s: change(s, 'model', None),
    model_text=lambda s: change(s, 'model', 'abc'),
    model_empty=lambda s: change(s, 'model', {}),
    weight_number=lambda s: change(s, 'model/1.num_batches_tracked', 5),
    weight_text=lambda s: change(s, 'model/0.weight', 'x'),
    weight_array=lambda s: change(
        s, 'model/2.weight', {'$array': s['model']['2.weight']}
    ),
    weight_complex=lambda s: change(s, 'model/2.bias', {'$tensor': 'complex'}),
    weight_shape=lambda s: change(s, 'model/2.weight', s['model']['0.weight']),
    optimizer_none=lambda s: change(s, 'optimizer', None),
    optimizer_text=lambda s: change(s, 'optimizer', 'x'),
    kind_list=lambda s: change(s, 'optimizer/kind', []),
    groups_many=lambda s: change(
        s, f'{OPT}/param_groups', s['optimizer']['state']['param_groups'] * 2
    ),
    groups_none=lambda s: change(s, f'{OPT}/param_groups', []),
    groups_text=lambda s: change(s, f'{OPT}/param_groups', 'x'),
    params_long=lambda s: change(s, f'{OPT}/param_groups/0/params', list(range(10**5))),
    params_text=lambda s: change(s, f'{OPT}/param_groups/0/params', ['a'] * 6),
    lr_text=lambda s: change(s, f'{OPT}/param_groups/0/lr', 'fast'),
    lr_list=lambda s: change(s, f'{OPT}/param_groups/0/lr', [1]),
    betas_one=lambda s: change(s, f'{OPT}/param_groups/0/betas', [0.9]),
    capturable=lambda s: change(s, f'{OPT}/param_groups/0/capturable', True),
    opt_state_text=lambda s: change(s, f'{OPT}/state', 'x'),
    opt_state_list=lambda s: change(s, f'{OPT}/state', []),
    opt_state_more=lambda s: change(s, f'{OPT}/state', {'$dict': [[99, {'step': 1}]]}),
    opt_step_text=lambda s: change(s, f'{OPT}/state/$dict/0/1/step', 'x'),
    opt_avg_shape=lambda s: change(
        s, f'{OPT}/state/$dict/0/1/exp_avg', {'$tensor': '/model/2.bias'}
    ),
    opt_avg_none=lambda s: change(s, f'{OPT}/state/$dict/0/1/exp_avg', None),
    grads_text=lambda s: change(s, 'optimizer/grads', 'x'),
    grads_shape=lambda s: change(
        s, 'optimizer/grads', {'0.weight': s['model']['2.bias']}
    ),
    grads_none=lambda s: change(s, 'optimizer/grads', {'0.weight': None}),
    history_number=lambda s: change(s, 'history', 5),
    history_numbers=lambda s: change(s, 'history', [1, 2]),
    history_epoch_text=lambda s: change(s, 'history/0/epoch', 'x'),
    history_no_epoch=lambda s: change(s, 'history', [{}]),
    history_loss_text=lambda s: change(s, 'history/0/valid_loss', 'x'),
    history_accuracy_list=lambda s: change(s, 'history/0/valid_accuracy', [1]),
    history_time_text=lambda s: change(s, 'history/0/time', 'x'),
    history_long=lambda s: change(s, 'history', [{'epoch': 1}] * 10_000),
    random_none=lambda s: change(s, 'random', None),
    python_text=lambda s: change(s, 'random/python', 'x'),
    python_short=lambda s: change(
        s, 'random/python', {'$tuple': [3, {'$tuple': [1, 2]}, None]}
    ),
    numpy_text=lambda s: change(s, 'random/numpy', 'x'),
    numpy_kind=lambda s: change(s, 'random/numpy/$tuple/0', 'os.system'),
    numpy_position=lambda s: change(s, 'random/numpy/$tuple/2', 2**30),
    numpy_position_negative=lambda s: change(s, 'random/numpy/$tuple/2', -(2**30)),
    numpy_position_near=lambda s: change(s, 'random/numpy/$tuple/2', 700),
    numpy_keys=lambda s: change(s, 'random/numpy/$tuple/1', [1]),
    torch_text=lambda s: change(s, 'random/torch', 'x'),
    torch_short=lambda s: change(s, 'random/torch', s['model']['0.weight']),
    torch_other=lambda s: change(s, 'random/torch', {'$tensor': 'noise'}),
    cuda=lambda s: change(s, 'random/cuda', 'x'),
    mps=lambda s: change(s, 'random/mps', 'x'),
    sched_none=lambda s: change(s, 'callbacks/BatchSchedCB', None),
    sched_optimizer=lambda s: change(s, f'{SCHED}/optimizer', 'x'),
    sched_step=lambda s: change(s, f'{SCHED}/step', 'x'),
    sched_class=lambda s: change(s, f'{SCHED}/__class__', 'x'),
    sched_epoch=lambda s: change(s, f'{SCHED}/last_epoch', 'x'),
    sched_phases=lambda s: change(s, f'{SCHED}/_schedule_phases', [5]),
    sched_lrs=lambda s: change(s, f'{SCHED}/base_lrs', []),
    sched_text=lambda s: change(s, SCHED, 'x'),
    callbacks_list=lambda s: change(s, 'callbacks', ['BatchSchedCB']),
    callbacks_unknown=lambda s: change(s, 'callbacks/os', {}),
    recorder=lambda s: change(s, 'callbacks/RecorderCB', [1]),
    recorder_numbers=lambda s: change(s, 'callbacks/RecorderCB', {'lr': 5}),
    clip=lambda s: change(s, 'callbacks/GradClip', 'xyz'),
    clip_deep=lambda s: change(s, 'callbacks/GradClip', [[1, 'x']]),
    best=lambda s: change(s, 'callbacks/BestWeightsCB', 5),
    best_weights=lambda s: change(
        s, 'callbacks/BestWeightsCB', {'epoch': 1, 'weights': {'a': 1}}
    ),
    best_shape=lambda s: change(
        s, 'callbacks/BestWeightsCB/weights/0.weight', s['model']['2.bias']
    ),
    best_epoch=lambda s: change(s, 'callbacks/BestWeightsCB/epoch', 'x'),
    loaders_attribute=lambda s: change(s, 'loaders/__class__', {}),
    loaders_text=lambda s: change(s, 'loaders', 'x'),
    data_list=lambda s: change(s, 'data', []),
    data_tensor=lambda s: change(s, 'data/train', s['model']['0.weight']),
    versions=lambda s: change(s, 'versions', 5),
    versions_long=lambda s: change(s, 'versions/torch', 'x' * 10**6),
)


SOME_WRONG = (
    'nothing deep digits infinite no_such_tensor dict_of_one unknown_kind epoch_negative '
    'epoch_huge model_none weight_shape weight_complex optimizer_text groups_many '
    'params_text lr_text opt_avg_shape grads_shape history_numbers history_long '
    'numpy_position torch_short python_short sched_class callbacks_unknown best_shape '
    'loaders_attribute data_tensor versions_long'
).split()


@pytest.mark.parametrize('name', few(WRONG, *SOME_WRONG))
def test_valid_checksum_hostile_state(name, attempt, tmp_path, checkpoint):
    "The checksum shows accidents, not intent: anybody can compute it"
    s = WRONG[name](checkpoint.state)
    more = dict(
        void=torch.zeros(10**9, 0),
        noise=torch.randint(0, 256, (5056,), dtype=torch.uint8),
        complex=torch.ones(3, dtype=torch.complex64),
    )
    attack(
        attempt,
        tmp_path,
        fuzz.safetensors_bytes(
            s if isinstance(s, str) else json.dumps(s), {**checkpoint.tensors, **more}
        ),
        read=False,
    )  # `load` reads it


def test_a_harmless_one_is_accepted(attempt, tmp_path, checkpoint):
    for o in attack(
        attempt,
        tmp_path,
        fuzz.safetensors_bytes(json.dumps(checkpoint.state), checkpoint.tensors),
    ):
        assert not o.error, o.error[3]


@pytest.mark.parametrize('kind', ['fifo', 'zero', 'folder', 'socket'])
def test_things_that_are_no_files(kind, attempt, tmp_path):
    path = tmp_path / 'run' / 'epoch_0001.safetensors'
    path.parent.mkdir()
    {
        'fifo': os.mkfifo,
        'zero': lambda o: o.symlink_to('/dev/zero'),
        'folder': Path.mkdir,
        'socket': lambda o: os.mknod(o, stat.S_IFSOCK | 0o600),
    }[kind](path)
    for f, o in ((read_checkpoint, path), (load, path), (resume, path.parent)):
        refused(attempt(f, o))


@pytest.mark.parametrize(
    'name',
    ['.lock', '.writable', '.epoch_0001-1.safetensors', 'epoch_0002.safetensors'],
)
def test_links_in_a_stranger_s_folder(name, attempt, tmp_path, checkpoint):
    "They may lead to files that are not the stranger's"
    (tmp_path / 'victim').write_text('precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'epoch_0001.safetensors').write_bytes(checkpoint.data)
    (tmp_path / 'run' / name).symlink_to(tmp_path / 'victim')
    fine(attempt(resume, tmp_path / 'run'))
    assert (tmp_path / 'victim').read_text() == 'precious'


# runs ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    fuzz.write_tiny_run(tmp_path / 'run')
    return tmp_path / 'run'


def use(folder):
    "Load the run and let it predict; the names of its classes"
    run = load_run(folder, 'cpu')
    repr(run), repr(run.predict(Image.new('L', (9, 7), 30)))
    return run.classes


def test_a_harmless_run(attempt, run):
    assert attempt(use, run).value == list('abc')


@pytest.mark.parametrize('i', range(3))
@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
def test_a_pickle_is_no_run(name, i, attempt, run, marker):
    (run / name).write_bytes(pickles(marker)[i])
    refused(attempt(use, run))


CONFIGS = {
    '': [[], 5, None, 'x', {}],
    'format': [2, None, [], 1e400],
    'model': [None, [], 'x', {}],
    'model/nfs': [
        None,
        'abc',
        [],
        [0],
        [-1],
        ['a'],
        [4, 8] * 500_000,
        [10**9],
        [10**9, 10**9],
        [30_000, 30_000],
        [10**30],
        [4.5, 8],
        [None],
        [[4]],
        {},
        [4] * 3000,
    ],
    'model/n_out': [10**12, 10**9, 0, -1, 'x', None, 2.5, 10**30],
    'model/n_in': [10**12, 10**9, 0, -1, 'x', None, True],
    'model/leak': ['x', None, [], 1e400, 10**400],
    'model/sub': ['x', None, []],
    'model/head': [None, [], 'x', 'conv', '__class__'],
    'model/kind': [None, 'x', []],
    'classes': [
        None,
        5,
        [],
        ['a'],
        list('abcd'),
        [1, 2, 3],
        [[], [], []],
        {'a': 1},
        'abc',
        ['a', 'a', 'a'],
        [None] * 3,
        ['x' * 10**6] * 3,
    ],
    'images': [None, [], 'x', {}],
    'images/shape': [
        None,
        [],
        [1, 8],
        [1, 0, 0],
        [1, -8, 8],
        [3, 8, 8],
        [2, 8, 8],
        ['a', 8, 8],
        [1, 10**9, 10**9],
        [1, 30_000, 30_000],
        [1.5, 8, 8],
        [1, 10**30, 8],
        'abc',
        [1, 8.5, 8],
    ],
    'images/mean': [None, 'x', [], ['x'], [0, 0, 0], 5, [[0.1]], [1e400]],
    'images/std': [None, [0], 'x', [], [None]],
    'images/size': ['x', [], [8], -1, 0, 10**9, 30_000, 8.5, [10**9, 8], True, 9],
    'images/background': ['x', [], 10**400],
    'history': [None, 5, [1] * 10**6, 'x'],
    'result': [None, [], 'x', {}],
    'result/accuracy': ['x', None, []],
    'result/images': ['x', None, 1e400],
    'result/split': [None, []],
    'training': [None],
    'versions': [None],
}


ALL_CONFIGS = [f'{k}-{i}' for k, v in CONFIGS.items() for i in range(len(v))]
SOME_CONFIGS = [
    f'{k}-0' for k in CONFIGS
] + (  # of each one, and what it is too large for
    'model/nfs-6 model/nfs-8 model/nfs-15 model/n_in-1 model/leak-4 classes-4 classes-9 '
    'images/shape-3 images/shape-9 images/mean-7 images/std-1 images/size-6 history-2'
).split()


@pytest.mark.parametrize('which', few(ALL_CONFIGS, *SOME_CONFIGS))
def test_hostile_configs(which, attempt, run):
    at, i = which.rsplit('-', 1)
    config, new = json.loads((run / 'config.json').read_text()), CONFIGS[at][int(i)]
    (run / 'config.json').write_text(json.dumps(change(config, at, new) if at else new))
    fine(attempt(use, run))


JSONS = dict(
    deep='[' * 10**6,
    deep_dicts='{"a":' * 10**6,
    digits='9' * 10**6,
    deep_value='{"format": 1, "model": ' + '[' * 10**5 + ']' * 10**5 + '}',
    infinite='{"format": 1e999999999}',
    long_number='{"format": 1' + '0' * 5000 + '}',
    zero='\0',
    nothing='',
    surrogate='"\\ud800"',
)


@pytest.mark.parametrize(
    'name', few(JSONS, 'deep', 'long_number', 'nothing', 'surrogate')
)
def test_hostile_json(name, attempt, run):
    (run / 'config.json').write_text(JSONS[name])
    refused(attempt(use, run))


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
@pytest.mark.parametrize('kind', ['fifo', 'zero', 'folder'])
def test_runs_of_things_that_are_no_files(name, kind, attempt, run):
    (run / name).unlink()
    {
        'fifo': os.mkfifo,
        'zero': lambda o: o.symlink_to('/dev/zero'),
        'folder': Path.mkdir,
    }[kind](run / name)
    refused(attempt(use, run))


@pytest.mark.parametrize('name', few(HEADERS, 'deep', 'petabytes', 'many', 'bit'))
def test_hostile_weights(name, attempt, run):
    header, rest = fuzz.split_header((run / 'model.safetensors').read_bytes())
    (run / 'model.safetensors').write_bytes(
        HEADERS[name]({**header, '__metadata__': {}}, rest)
    )
    fine(attempt(use, run))


# folders ------------------------------------------------------------------------------


def png(c=0, size=(8, 8), mode='L'):
    f = io.BytesIO()
    Image.new(mode, size, c).save(f, 'PNG')
    return f.getvalue()


@pytest.fixture
def folder(tmp_path):
    """An ordinary data set; beside it, a picture and a text

    Those are nobody else's business.
    """
    for s in ('train', 'test'):
        for c in 'ab':
            (tmp_path / 'deep' / 'data' / s / c).mkdir(parents=True)
            for i in range(4):
                (tmp_path / 'deep' / 'data' / s / c / f'{i}.png').write_bytes(png(i))
    (tmp_path / 'private' / 'a').mkdir(parents=True)
    (tmp_path / 'private' / 'a' / 'secret.png').write_bytes(png(77))
    (tmp_path / 'private' / 'secret.txt').write_text('hush\n')
    return tmp_path / 'deep' / 'data'


@pytest.fixture
def bare(folder):
    "The folder without its pictures"
    for o in ('train', 'test'):
        shutil.rmtree(folder / o)
    return folder


def look(folder):
    "What is in it: all values of pixels, and all text"
    text = [
        v for o in load_dd(folder).values() for v in o[0].values() if isinstance(v, str)
    ]
    try:
        dls = get_dls(folder, 4, valid=0.3)
    except ValueError:
        if any('hush' in o for o in text):
            return [], text
        raise
    return sorted(
        set(
            torch.cat(
                [
                    getattr(dls, k).x.flatten()
                    for k in ('train', 'valid', 'test')
                    if getattr(dls, k)
                ]
            ).tolist()
        )
    ), text


def opened(attempt, folder, tmp_path):
    """Load it

    Nothing may be read that lies elsewhere, or be written anywhere but to the cache.
    """
    files = lambda: {
        o: o.lstat().st_mtime_ns
        for o in tmp_path.rglob('*')
        if 'cache' not in o.parts and not o.is_dir()
    }
    before, parent = files(), set(tmp_path.parent.iterdir())
    res = fine(attempt(look, folder))
    new = (
        set(files().items()) - set(before.items())
        | set(tmp_path.parent.iterdir()) - parent
    )
    assert not new, f'Files were written: {new}'
    if res.value:
        assert 77 not in res.value[0] and not any('hush' in o for o in res.value[1]), (
            f'Private files were read: {res.value}'
        )
    return res


def test_an_ordinary_folder(attempt, folder, tmp_path):
    assert opened(attempt, folder, tmp_path).value[0] == [0, 1, 2, 3]


SCRIPTS = ['data.py', '__init__.py', 'train/data.py', 'train/a/1.py', 'conftest.py']
SCRIPTS += ['datasets.py', 'usercustomize.py']


@pytest.mark.parametrize('name', few(SCRIPTS, 'data.py', 'train/a/1.py', 'datasets.py'))
def test_scripts_are_not_run(name, attempt, folder, tmp_path, marker):
    (folder / name).write_text(f'open({str(marker)!r}, "w")')
    opened(attempt, folder, tmp_path)


LAUGHS = 'a0: &a0 [lol,lol]\n' + ''.join(
    f'a{i}: &a{i} [{",".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 12)
)


def config(**kw):
    return 'configs:\n- config_name: default\n' + ''.join(
        f'  {k}: {json.dumps(v)}\n' for k, v in kw.items()
    )


CARDS = dict(
    parent=config(data_files='../../private/secret.txt'),
    parent_glob=config(data_files='../../private/*.txt'),
    parent_pictures=config(data_files='../../private/**'),
    absolute=config(data_files='PRIVATE/secret.txt'),
    absolute_pictures=config(data_files=['PRIVATE/a/*.png', 'train/**']),
    split=config(data_files=[dict(split='train', path='PRIVATE/secret.txt')]),
    data_dir=config(data_dir='../../private'),
    data_dir_absolute=config(data_dir='PRIVATE'),
    file_url=config(data_files='file://PRIVATE/secret.txt'),
    local_url=config(data_files='local://PRIVATE/secret.txt'),
    hops=config(data_files='simplecache::file://PRIVATE/secret.txt'),
    http=config(data_files='http://127.0.0.1:9/x.parquet'),
    hub=config(data_files='hf://datasets/x/y/z.parquet'),
    github=config(data_files='github://a:b@main/x.csv'),
    no_such_scheme=config(data_files='evil://x.csv'),
    memory=config(data_files='memory://x.csv'),
    zip=config(data_files='zip://*.png::PRIVATE/x.zip'),
    reference='REFERENCE',
    version=config(
        version='../../../../escaped', data_files=[dict(split='train', path='train/**')]
    ),
    config_name='configs:\n- config_name: ../../../escaped\n  data_files: "train/**"',
    split_name=config(data_files=[dict(split='../../x', path='train/**')]),
    info=(
        'dataset_info:\n  dataset_name: ../../../x\n  config_name: ../../y\n'
        '  builder_name: ../z'
    ),
    laughs=LAUGHS,
    laughs_configs=LAUGHS + 'configs: {x: *a11}',
    laughs_data_files=LAUGHS
    + 'configs:\n- config_name: default\n  data_files: {x: *a11}',
    laughs_features=LAUGHS + 'dataset_info:\n  features: *a11',
    laughs_split=LAUGHS + 'dataset_info:\n  splits: *a11',
    deep='a: ' + '[' * 100_000,
    deep_dicts='a: ' + '{a: ' * 50_000,
    code='a: !!python/object/apply:os.system ["touch MARKER"]',
    code_new='a: !!python/object/new:os.system ["touch MARKER"]',
    name='a: !!python/name:os.system',
    numbers='configs: 5\ndataset_info: [1,{}]',
    number='configs:\n- 5',
    names='configs:\n- config_name: [1]',
    info_number='dataset_info: 3',
    nothing='configs: [null]',
    tag='a: !evil x',
    huge_number='a: ' + '9' * 10**5,
    octal='a: 0o' + '7' * 10**5,
    date='a: 9999-99-99',
    duplicate='configs: []\nconfigs: 5',
    merge='<<: 5',
    key='? [a, b]\n: 5',
    features=(
        'dataset_info:\n  features:\n  - name: x\n'
        '    dtype: {array2d: {shape: [1000000000,1000000000], dtype: int8}}'
    ),
    feature_class=(
        'dataset_info:\n  features:\n  - name: x\n    dtype: {os: {system: x}}'
    ),
    converters=config(
        data_files='x.csv', converters={'a': 'os.system'}, engine='python', sep='(a+)+$'
    ),
)


ALL_CARDS = [f'{o} {k}' for o in ('README.md', '.huggingface.yaml') for k in CARDS]
SOME_CARDS = ['.huggingface.yaml absolute', '.huggingface.yaml code'] + [
    f'README.md {o}'
    for o in 'parent absolute data_dir file_url http reference laughs code'.split()
]


@pytest.mark.parametrize('which', few(ALL_CARDS, *SOME_CARDS))
def test_hostile_cards(which, attempt, folder, tmp_path, marker):
    "`datasets` takes settings from a README: which files to read among them"
    file, name = which.split()
    gen = {
        'version': 1,
        'templates': {},
        'refs': {},
        'gen': [
            {
                'key': "a.parquet{{ cycler.__init__.__globals__.os.system('touch "
                f"{marker}') }}}}",
                'url': 'file:///etc/hostname',
                'dimensions': {'i': {'stop': 1}},
            }
        ],
    }
    ref = config(
        data_files='reference://*::data:application/json;base64,'
        + base64.b64encode(json.dumps(gen).encode()).decode()
    )
    (folder / 'x.csv').write_text('a,label\n1,2\n')
    text = (
        (ref if CARDS[name] == 'REFERENCE' else CARDS[name])
        .replace('PRIVATE', str(tmp_path / 'private'))
        .replace('MARKER', str(marker))
    )
    (folder / file).write_text(f'---\n{text}\n---\n' if file == 'README.md' else text)
    opened(attempt, folder, tmp_path)


NO_TEXT = dict(
    utf16=b'\xff\xfe---',
    empty=b'---\n---',
    nothing=b'',
    zero=b'---\n\0\n---',
    many=b'---\n' * 10**5,
    surrogate='---\n\ud800\n---'.encode(errors='surrogatepass'),
)


@pytest.mark.parametrize('name', few(NO_TEXT, 'utf16', 'surrogate'))
def test_cards_that_are_no_text(name, attempt, folder, tmp_path):
    (folder / 'README.md').write_bytes(NO_TEXT[name])
    opened(attempt, folder, tmp_path)


INFOS = dict(
    deep='[' * 10**5,
    numbers='[1,2]',
    number='5',
    splits='{"a": {"features": {"x": {"_type": "Value", "dtype": "evil"}}, "splits": 5}}',
    no_dict='{"a": 5}',
    empty='{}',
    kind='{"default": {"features": {"x": {"_type": "os"}}}}',
)


@pytest.mark.parametrize('name', few(INFOS, 'deep', 'kind'))
def test_hostile_dataset_infos(name, attempt, folder, tmp_path):
    (folder / 'dataset_infos.json').write_text(INFOS[name])
    opened(attempt, folder, tmp_path)


def tar(path, **members):
    "A tar of webdataset, or of anything else"
    with tarfile.open(path, 'w') as f:
        for k, v in members.items():
            i = tarfile.TarInfo(k)
            i.size = len(v)
            f.addfile(i, io.BytesIO(v))


def npy(shape):
    f = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        f, dict(descr='|u1', fortran_order=False, shape=shape)
    )
    return f.getvalue()


TARS = dict(
    pth=lambda m: {'a.png': png(), 'a.pth': pickles(m)[1]},
    old_pth=lambda m: {'a.png': png(), 'a.pth': pickles(m)[2]},
    pickles=lambda m: (
        {f'a.{k}': pickles(m)[0] for k in ('pkl', 'pickle', 'pyd', 'pth')}
        | {'a.png': png()}
    ),
    pyd=lambda m: {'a.pyd': pickles(m)[0], 'a.cls': b'1', 'a.png': png()},
    npy_object=lambda m: {
        'a.png': png(),
        'a.npy': npy((1,)).replace(b'|u1', b'|O ') + pickles(m)[0],
    },
    npy_huge=lambda m: {'a.png': png(), 'a.npy': npy((10**12,))},
    ten=lambda m: {'a.png': png(), 'a.ten': b'\xff' * 100},
    slip=lambda m: {'../../../slip.png': png(), '../../../slip.cls': b'1'},
    absolute=lambda m: {'/tmp/slip.png': png(), '/tmp/slip.cls': b'1'},
    json_deep=lambda m: {'a.png': png(), 'a.json': b'[' * 10**6},
    digits=lambda m: {'a.png': png(), 'a.cls': b'9' * 10**5},
    gz=lambda m: {'a.png': png(), 'a.txt.gz': gzip.compress(bytes(2**28), 1) * 8},
    nothing=lambda m: {},
    no_extension=lambda m: {'x': b'1'},
    text=lambda m: {'a.txt': b'\xff'},
)


@pytest.mark.parametrize('name', few(TARS, 'pth', 'npy_huge', 'slip', 'gz'))
def test_hostile_tars(name, attempt, bare, tmp_path, marker):
    tar(bare / 'train.tar', **TARS[name](marker))
    opened(attempt, bare, tmp_path)


@pytest.mark.parametrize(
    'kind', few(['slip', 'link', 'bomb', 'pickle'], 'link', 'bomb')
)
def test_hostile_zips(kind, attempt, bare, tmp_path, marker):
    with zipfile.ZipFile(bare / 'train.zip', 'w', zipfile.ZIP_DEFLATED) as f:
        for i in range(8):
            f.writestr(f'{"ab"[i % 2]}/{i}.png', png(i % 4))
        if kind == 'slip':
            for o in ('../' * 4, '/'):
                f.writestr(f'{o}{tmp_path.name}slip.png', png(9))
        if kind == 'link':
            i = zipfile.ZipInfo('a/9.png')
            i.external_attr = (stat.S_IFLNK | 0o777) << 16
            f.writestr(i, str(tmp_path / 'private' / 'a' / 'secret.png'))
        if kind == 'bomb':
            f.writestr('a/9.png', bytes(2**28))
        if kind == 'pickle':
            f.writestr('a/9.pkl', pickles(marker)[0])
    opened(attempt, bare, tmp_path)
    assert not Path(f'/{tmp_path.name}slip.png').exists()


EXTENSIONS = (
    'parquet arrow csv jsonl json txt h5 lance eval xml pkl pt npy vortex tsfile '
    'fasta pdb nii pdf mp4 wav zip tar'
).split()


LIARS = [
    *(f'train.{k} {o}' for o in ('noise', 'pickle') for k in EXTENSIONS),
    *(f'train.{k} magic' for k in ('parquet', 'arrow', 'zip', 'h5')),
    *(f'train.{k} deep' for k in ('json', 'jsonl', 'arrow')),
    *(f'train.{k} empty' for k in ('parquet', 'jsonl', 'csv', 'arrow', 'zip')),
    'train.xml xml',
    'task.toml deep',
    'dataset_dict.json deep',
    'state.json deep',
]
SOME_LIARS = [
    *(f'train.{o}' for o in ('parquet noise', 'csv noise', 'pkl pickle', 'pt pickle')),
    *(f'train.{o}' for o in ('arrow magic', 'json deep', 'zip empty', 'xml xml')),
]


@pytest.mark.parametrize('which', few(LIARS, *SOME_LIARS))
def test_files_that_are_not_what_their_names_say(
    which, attempt, bare, tmp_path, marker
):
    name, kind = which.split()
    noise = np.random.RandomState(0).bytes(300)
    data = dict(
        noise=noise,
        magic={
            'parquet': b'PAR1' + noise + b'PAR1',
            'arrow': b'ARROW1\0\0' + noise + b'ARROW1',
            'zip': b'PK\3\4' + noise,
            'h5': b'\x89HDF\r\n\x1a\n' + noise,
        }.get(name.split('.')[1], b'\xff\xff\xff\xff\xff\xff\xff\x7f' + noise),
        pickle=pickles(marker)[0],
        xml=(
            f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{tmp_path}/private/secret.txt">]>'
            '<r>&x;</r>'
        ).encode(),
        empty=b'',
        deep=b'[' * 10**5,
    )
    (bare / name).write_bytes(data[kind])
    opened(attempt, bare, tmp_path)


@pytest.mark.parametrize('kind', ['parquet', 'jsonl', 'arrow'])
def test_pictures_named_by_their_path(kind, attempt, bare, tmp_path):
    "A table can say where a picture lies; not outside of the folder, please"
    import datasets as hfds, pyarrow as pa, pyarrow.parquet as pq

    secret, feats = (
        str(tmp_path / 'private' / 'a' / 'secret.png'),
        hfds.Features(
            {'image': hfds.Image(), 'label': hfds.ClassLabel(names=['a', 'b'])}
        ),
    )
    if kind == 'jsonl':
        (bare / 'README.md').write_text(
            '---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n'
            '  - name: label\n    dtype: int64\n---\n'
        )
        (bare / 'train.jsonl').write_text(
            '\n'.join(json.dumps(dict(image=secret, label=i % 2)) for i in range(8))
        )
    else:
        table = pa.table(
            {
                'image': pa.array(
                    [{'bytes': None, 'path': secret}] * 8,
                    pa.struct({'bytes': pa.binary(), 'path': pa.string()}),
                ),
                'label': [0, 1] * 4,
            }
        ).replace_schema_metadata(feats.arrow_schema.metadata)
        if kind == 'parquet':
            pq.write_table(table, bare / 'train.parquet')
        else:
            with (
                pa.OSFile(str(bare / 'train.arrow'), 'wb') as f,
                pa.ipc.new_stream(f, table.schema) as w,
            ):
                w.write_table(table)
    opened(attempt, bare, tmp_path)


ELSEWHERE = dict(
    parent='../../../private/a/secret.png',
    absolute='PRIVATE/a/secret.png',
    url='file://PRIVATE/a/secret.png',
    hops='x::PRIVATE/a/secret.png',
    detour='a/../../../../private/a/secret.png',
    zero='/dev/zero',
    number=5,
    null=None,
    empty='',
    folder='a',
)
ALL_METADATA = [f'{k} {o}' for k in ELSEWHERE for o in ('jsonl', 'csv')]


@pytest.mark.parametrize(
    'which', few(ALL_METADATA, 'parent csv', 'url jsonl', 'zero csv')
)
def test_metadata_that_lead_elsewhere(which, attempt, folder, tmp_path):
    name, table = which.split()
    name = ELSEWHERE[name]
    nm = (
        name.replace('PRIVATE', str(tmp_path / 'private'))
        if isinstance(name, str)
        else name
    )
    lines = (
        [json.dumps(dict(file_name=nm, label=i % 2)) for i in range(6)]
        if table == 'jsonl'
        else ['file_name,label'] + [f'{nm},{i % 2}' for i in range(6)]
    )
    for o in ('train', 'test'):
        (folder / o / f'metadata.{table}').write_text('\n'.join(lines))
    opened(attempt, folder, tmp_path)


def test_links_between_folders_end(attempt, folder, tmp_path):
    "A loop, and a folder without end"
    (folder / 'train' / 'loop').symlink_to(folder)
    (folder / 'train' / 'etc').symlink_to('/dev')
    fine(attempt(look, folder))


PLACES = ['README.md', '.huggingface.yaml', 'dataset_infos.json']
PLACES += ['train/a/9.png', 'train/metadata.jsonl', 'x.parquet']
NO_FILES = [f'{k} {o}' for k in PLACES for o in ('fifo', 'zero')]


@pytest.mark.parametrize(
    'which', few(NO_FILES, 'README.md fifo', 'train/a/9.png fifo', 'train/a/9.png zero')
)
def test_folders_with_things_that_are_no_files(which, attempt, folder, tmp_path):
    name, kind = which.split()
    os.mkfifo(folder / name) if kind == 'fifo' else (folder / name).symlink_to(
        '/dev/zero'
    )
    fine(attempt(look, folder))


# pictures -----------------------------------------------------------------------------


def chunk(kind, data):
    return (
        struct.pack('>I', len(data))
        + kind
        + data
        + zlib.crc32(kind + data).to_bytes(4, 'big')
    )


def png_of(w, h, color=0, bits=8, extra=b'', data=b''):
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, color, 0, 0, 0))
        + extra
        + chunk(b'IDAT', data)
        + chunk(b'IEND', b'')
    )


@lru_cache
def zeros(n):
    return zlib.compress(bytes(n), 1)


def gif(n, size=8):
    f = io.BytesIO()
    Image.new('L', (size, size)).save(
        f,
        'GIF',
        save_all=True,
        append_images=[Image.new('L', (size, size), i % 256) for i in range(n)],
    )
    return f.getvalue()


def tiff(w, h):
    return (
        b'II*\0\x08\0\0\0\x08\0'
        + b''.join(
            struct.pack('<HHII', t, 4, 1, v)
            for t, v in (
                (256, w),
                (257, h),
                (258, 8),
                (259, 1),
                (262, 1),
                (273, 200),
                (278, h),
                (279, 100),
            )
        )
        + bytes(200)
    )


BOMBS = dict(
    pixels=lambda: png_of(60_000, 60_000, data=zeros(10**6)),
    most_pixels=lambda: png_of(2**31 - 1, 2**31 - 1),
    no_pixels=lambda: png_of(0, 0),
    thin=lambda: png_of(2**31 - 1, 1),
    high=lambda: png_of(1, 2**31 - 1),
    colour=lambda: png_of(13_000, 13_000, 6, data=zeros(10**6)),
    deep_colour=lambda: png_of(13_000, 13_000, 6, 16, data=zeros(10**6)),
    grey=lambda: png_of(8000, 8000, data=zeros(8001 * 8000)),
    truncated=lambda: png(size=(200, 200))[:90],
    no_data=lambda: png_of(100, 100),
    much_data=lambda: png_of(2, 2, data=zeros(2**28)),
    itxt=lambda: png_of(
        2, 2, extra=chunk(b'iTXt', b'k\0\1\0\0\0' + zeros(2**28)), data=zeros(6)
    ),
    ztxt=lambda: png_of(
        2, 2, extra=chunk(b'zTXt', b'k\0\0' + zeros(2**28)), data=zeros(6)
    ),
    ztxts=lambda: png_of(
        2, 2, extra=chunk(b'zTXt', b'k\0\0' + zeros(2**20 - 1)) * 600, data=zeros(6)
    ),
    iccp=lambda: png_of(
        2, 2, extra=chunk(b'iCCP', b'k\0\0' + zeros(2**28)), data=zeros(6)
    ),
    gif=lambda: gif(3000),
    gif_big=lambda: b'GIF89a' + struct.pack('<HH', 65535, 65535) + gif(1)[10:],
    svg=lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg">'
        b'<image href="file:///etc/passwd"/></svg>'
    ),
    bmp=lambda: (
        b'BM'
        + struct.pack(
            '<IIIIiiHHIIIIII', 100, 0, 54, 40, 60_000, 60_000, 1, 8, 0, 0, 0, 0, 0, 0
        )
    ),
    ppm=lambda: b'P6 60000 60000 255\n',
    ppm_digits=lambda: b'P6 ' + b'9' * 10**6,
    tiff=lambda: tiff(60_000, 60_000),
    tiff_strip=lambda: tiff(13_000, 13_000),
    text=lambda: b'a picture',
    nothing=lambda: b'',
    elf=lambda: b'\x7fELF' + bytes(100),
    icns=lambda: (
        b'icns' + struct.pack('>I', 2**31) + b'ic10' + struct.pack('>I', 2**31 - 1)
    ),
    psd=lambda: (
        b'8BPS\0\1'
        + bytes(6)
        + struct.pack('>HIIHH', 3, 30_000, 30_000, 8, 3)
        + bytes(100)
    ),
    xbm=lambda: (
        b'#define a_width 60000\n#define a_height 60000\nstatic char a_bits[] = {'
    ),
    dds=lambda: (
        b'DDS '
        + struct.pack('<7I', 124, 0x1007, 13_000, 13_000, 0, 0, 0)
        + bytes(44)
        + struct.pack('<8I', 32, 4, 0x31545844, 0, 0, 0, 0, 0)
        + bytes(20)
    ),
    j2k=lambda: (
        bytes.fromhex('ff4fff51002f0000')
        + struct.pack('>8I', 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0)
        + b'\0\3'
        + b'\7\1\1' * 3
        + bytes(50)
    ),
)


def as_row(data, size):
    import datasets as hfds

    return decode_images(
        hfds.Dataset.from_dict(
            {'image': [{'bytes': data, 'path': None}]},
            hfds.Features({'image': hfds.Image()}),
        ),
        size=size,
    ).shape


SOME_BOMBS = (
    'pixels thin colour truncated much_data ztxts iccp gif tiff_strip svg nothing j2k'
).split()


@pytest.mark.parametrize('name', few(BOMBS, *SOME_BOMBS))
def test_picture_bombs(name, attempt, folder, run):
    "By themselves, in a table, in a folder, and shown to a trained network"
    data = BOMBS[name]()
    path = folder / 'train' / 'a' / '9.png'
    path.write_bytes(data)
    for f, args in (
        (open_image, (path,)),
        (as_row, (data, None)),
        (as_row, (data, 8)),
        (get_dls_of_8, (folder,)),
        (predict, (run, path)),
    ):
        fine(attempt(_without_value, f, *args))


def _without_value(f, *args):
    f(*args)


def get_dls_of_8(folder):
    return get_dls(folder, 4, size=8)


def predict(run, path):
    return load_run(run, 'cpu').predict(path)


@pytest.mark.parametrize('size', [None, 8])
def test_big_pictures_after_a_small_one(size, attempt, folder):
    "The first picture tells nothing of the others"
    data = png_of(8000, 8000, data=zeros(8001 * 8000))
    for i in range(4 if size else 14):
        (folder / 'train' / 'b' / f'big{i}.png').write_bytes(data)
    fine(attempt(_without_value, get_dls, folder, 4, None, size))


@pytest.mark.parametrize(
    'data',
    [
        (
            b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n'
            b'(x) run\n%%EOF\n'
        ),
        b'\xc5\xd0\xd3\xc6'
        + struct.pack('<II', 30, 200)
        + bytes(18)
        + b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n',
    ],
    ids=['text', 'binary'],
)
def test_a_picture_starts_no_program(data, attempt, folder, tmp_path, marker, run):
    "Pillow hands PostScript to Ghostscript, whatever the file is called"
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'gs').write_text(f'#!/bin/sh\ntouch {marker}\n')
    (tmp_path / 'bin' / 'gs').chmod(0o755)
    path = folder / 'train' / 'a' / '9.png'
    path.write_bytes(data)
    for f, args in (
        (as_row, (data, 8)),
        (get_dls_of_8, (folder,)),
        (predict, (run, path)),
    ):
        refused(attempt(_with_path, str(tmp_path / 'bin'), f, *args))


def _with_path(path, f, *args):
    os.environ['PATH'] = f'{path}:{os.environ["PATH"]}'
    f(*args)


# and whatever else a machine can think of ---------------------------------------------


def test_fuzz(tmp_path):
    "A few inputs for each target; `make soak` takes ten minutes"
    found = []
    res = fuzz.fuzz(600, 0, tmp_path / 'found', show=found.append, tries=40)
    print(fuzz.table(res))
    assert not any(o['foreign'] for o in res.values()), '\n'.join(found)[:20_000]
    assert all(
        o['tried'] == 40 and o['refused'] and o['worst'] < fuzz.PATIENCE
        for o in res.values()
    )


@pytest.mark.parametrize('hang', ['busy', 'waiting'])
def test_what_hangs_is_ended_whether_it_is_busy_or_waits(hang):
    r, w = os.pipe()
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGPROF)
    try:
        with pytest.raises(fuzz.Hung), fuzz.patience(0.05):
            while hang == 'busy':
                pass
            os.read(r, 1)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
        os.close(r)
        os.close(w)


def test_the_fuzzer_finds(tmp_path, monkeypatch):
    "A fuzzer that finds nothing may be blind: this one is shown an error"
    assert fuzz.foreign(KeyError('x'), (ValueError,)) and fuzz.foreign(
        fuzz.Hung(), (ValueError,)
    )
    try:
        raise ValueError('a sentence that is long enough')
    except ValueError as e:
        assert 'not raised by miniai' in fuzz.foreign(e, (ValueError,))
    try:
        open_image([1, 2, 3])
    except TypeError as e:
        assert fuzz.foreign(e, (TypeError,)) is None and fuzz.foreign(e, (ValueError,))
