"Nothing that is there is lost, and what can be known at the start is not found out at the end"

import errno, os, shutil, signal, sys, threading
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from stat import S_ISDIR
from subprocess import PIPE
from types import SimpleNamespace

import children, datasets as hfds, pytest, torch

import miniai.cli as cli, miniai.datasets as data
from miniai.checkpoint import CheckpointCB
from miniai.datasets import DataLoaders, TensorLoader, load_dd
from miniai.folders import FILES, check_new, make_room, remove_replaced
from miniai.runs import check_plan, load_run
from miniai.xtras import replacing, term_interrupts, uninterrupted

RUN = ['--bs', '128', '--epochs', '1', '--device', 'cpu', '--quiet']


def command(*args, cwd='.'):
    "The command, called in this process: how it ended and what it printed"
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd):
        code = cli.main([*map(str, args)])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def contents(folder):
    "The files below `folder` with what is in them, but for locks"
    files = [o for o in folder.rglob('*') if o.is_file() and o.name != '.lock']
    return {str(o.relative_to(folder)): o.read_bytes() for o in files}


# what is in a folder already ----------------------------------------------------------

EPOCH = 'checkpoints/epoch_0002.safetensors'
# what is there; whether a new run begins; what is left of it if it has to make room:
# files in the folder, files that were moved to `replaced`
KINDS = {
    'nothing': ('', True, '', ''),
    'notes': ('notes.txt', True, 'notes.txt', ''),
    'finished': (' '.join(FILES), False, '', ' '.join(FILES)),
    'finished, with notes': (
        ' '.join(FILES) + ' notes.txt', False, 'notes.txt', ' '.join(FILES)),
    'finished, without its measures': (
        'config.json model.safetensors', False, '', 'config.json model.safetensors'),
    'finished, not tidied up': (
        f'config.json model.safetensors {EPOCH}', False, '',
        'config.json model.safetensors'),
    'a network of somebody': ('model.safetensors', False, '', 'model.safetensors'),
    'measures of somebody': ('metrics.csv', False, '', 'metrics.csv'),
    'can go on': (f'options.json metrics.csv curve.png {EPOCH}', False, '', ''),
    'no epoch yet': ('options.json', True, '', ''),
    'no checkpoint yet': ('options.json metrics.csv', True, '', ''),
    'begun over a finished one': (
        'options.json config.json model.safetensors', False, '',
        'config.json model.safetensors'),
    'begun over a finished one, which is kept': (
        f'options.json metrics.csv {EPOCH} replaced/config.json', False,
        'replaced/config.json', ''),
}  # fmt: skip


def filled(folder, names):
    for o in names.split():
        (folder / o).parent.mkdir(exist_ok=True)
        (folder / o).write_text(f'old {o}')
    return CheckpointCB(folder / 'checkpoints')


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_there_is_not_lost(kind, tmp_path):
    names, begins, left, moved = KINDS[kind]
    checkpoints = filled(tmp_path, names)
    before = contents(tmp_path)
    if begins:
        check_new(tmp_path, checkpoints)
    else:
        with pytest.raises(FileExistsError, match='--out.*--overwrite'):
            check_new(tmp_path, checkpoints)
    check_new(tmp_path, checkpoints, overwrite=True)
    assert contents(tmp_path) == before  # looking changes nothing
    make_room(tmp_path, checkpoints)
    there = [*left.split(), *(f'replaced/{o}' for o in moved.split())]
    assert sorted(contents(tmp_path)) == sorted(there)
    remove_replaced(tmp_path)
    assert sorted(contents(tmp_path)) == [o for o in left.split() if '/' not in o]


def test_the_run_that_is_kept_is_the_last_finished_one(tmp_path):
    for i in range(3):
        filled(tmp_path, ' '.join(FILES))
        (tmp_path / 'config.json').write_text(str(i))
        make_room(tmp_path, CheckpointCB(tmp_path / 'checkpoints'))
        assert (tmp_path / 'replaced' / 'config.json').read_text() == str(i)
    make_room(tmp_path, CheckpointCB(tmp_path / 'checkpoints'))  # there is no other
    assert (tmp_path / 'replaced' / 'config.json').read_text() == '2'


@pytest.mark.parametrize('after', range(1, 5))
def test_stopped_while_it_makes_room(after, tmp_path, monkeypatch):
    "Neither half looks like a finished run, and the next try moves the rest"
    checkpoints, real, n = filled(tmp_path, ' '.join(FILES)), os.replace, [0]

    def replace(*args):
        n[0] += 1
        if n[0] > after:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(os, 'replace', replace)
        make_room(tmp_path, checkpoints)
        raise KeyboardInterrupt
    assert not (tmp_path / 'config.json').exists()
    make_room(tmp_path, checkpoints)
    assert sorted(contents(tmp_path)) == sorted(f'replaced/{o}' for o in FILES)


def test_somebody_elses_files_in_replaced_stay(tmp_path):
    filled(tmp_path, 'replaced/config.json replaced/mine.txt')
    remove_replaced(tmp_path)
    assert list(contents(tmp_path)) == ['replaced/mine.txt']


@pytest.fixture(scope='module')
def finished(small, tmp_path_factory):
    out = tmp_path_factory.mktemp('finished') / 'run'
    assert command('--data', small, *RUN, '--out', out).code == 0
    return out


@pytest.mark.slow
def test_the_same_command_twice(small, finished):
    before = contents(finished)
    res = command('--data', small, *RUN, '--out', finished)
    assert res.code == 1 and 'holds a finished run already' in res.err
    assert contents(finished) == before
    res = command(
        '--data', small, *RUN, '--seed', '1', '--out', finished, '--overwrite'
    )
    assert res.code == 0, res.err
    after = contents(finished)
    assert sorted(after) == sorted(FILES)
    assert all(after[o] != before[o] for o in FILES)
    assert load_run(finished).config['training']['seed'] == 1


@pytest.mark.parametrize(
    'wrong',
    [['--limit', '1'], ['--label', 'x'], ['--data', './nowhere'], ['--bs', '0']],
)
def test_a_run_that_does_not_begin_takes_nothing_away(wrong, small, finished):
    before = contents(finished)
    res = command('--data', small, *RUN, '--out', finished, '--overwrite', *wrong)
    assert res.code == 1 and contents(finished) == before


@pytest.mark.slow
def test_a_run_that_fails_says_where_the_old_one_is(small, finished, tmp_path):
    finished = shutil.copytree(finished, tmp_path / 'run')
    before = contents(finished)
    more = ['--bs', '16', '--lr', '1e12', '--out', finished, '--overwrite']
    res = command('--data', small, *RUN, *more)
    assert res.code == 1 and f'is in {finished / "replaced"}' in res.err
    assert {o: before[o] for o in FILES} == contents(finished / 'replaced')
    assert load_run(finished / 'replaced')
    with pytest.raises(FileNotFoundError, match='not a finished run'):
        load_run(finished)


# known at the start -------------------------------------------------------------------


def some(classes=('a', 'b'), channels=1, side=8):
    x = torch.randint(0, 256, (20, channels, side, side), dtype=torch.uint8)
    dl = TensorLoader(x, torch.arange(20) % 2, 4, mean=0.5, std=0.5)
    return DataLoaders(dl, dl, classes=list(classes))


OPTIONS = dict(epochs=1, size=None, device='cpu', fast=False)


@pytest.mark.parametrize(
    'dls, options, why',
    [
        (dict(classes='aa'), {}, 'classes'),
        (dict(classes=['a', 3]), {}, 'classes'),
        (dict(channels=4), {}, 'shape'),
        ({}, dict(size=9), 'size'),
        ({}, dict(size=[8, 8, 8]), 'size'),
        ({}, dict(seed=torch.tensor(3)), 'not JSON serializable'),
        ({}, dict(data=Path('x')), 'not JSON serializable'),
        ({}, dict(epochs=10**5), 'too large'),
        (dict(classes=['x' * 10**7, 'y']), {}, 'too large'),
    ],
)
def test_what_cannot_be_saved_does_not_begin(dls, options, why):
    with pytest.raises(ValueError, match=f'could not be saved.*{why}'):
        check_plan(some(**dls), {**OPTIONS, **options})


def test_what_can_be_saved_begins():
    for dls in (some(), some(channels=3), some(side=1)):
        check_plan(dls, OPTIONS)
    check_plan(some(), {**OPTIONS, 'size': 8})
    check_plan(some(), {**OPTIONS, 'size': (8, 8)})


def test_it_is_found_out_before_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'get_data', lambda *args, **kw: some(classes='aa'))
    with pytest.raises(ValueError, match='does not begin: classes'):
        cli.run_training(1, 4, out=tmp_path / 'o', quiet=True)
    assert not list((tmp_path / 'o').iterdir())


# going on -----------------------------------------------------------------------------


def test_resume_in_out(finished, tmp_path):
    for args in (['--resume'], ['--resume', finished]):
        res = command('--out', finished, *args)
        assert res.code == 0 and 'nothing is left to do' in res.out
    res = command('--out', finished.parent / 'x' / '..' / 'run', '--resume', finished)
    assert res.code == 0
    data = load_run(finished).config['training']['data']
    here = os.path.relpath(data)
    res = command(
        '--data', here, '--out', finished, '--resume'
    )  # the same command again
    assert res.code == 0 and 'nothing is left to do' in res.out, res.err
    res = command('--data', os.path.dirname(here), '--out', finished, '--resume')
    assert res.code == 1 and 'was begun with data=' in res.err
    res = command('--out', tmp_path / 'other', '--resume', finished)
    assert res.code == 1 and 'leave --out away' in res.err
    res = command('--out', tmp_path / 'none', '--resume')
    assert res.code == 1 and f'{tmp_path / "none"} holds no run to go on' in res.err
    res = command('--out', finished, '--resume', '--overwrite')
    assert res.code == 1 and 'leave --overwrite away' in res.err


# signals ------------------------------------------------------------------------------


def test_sigterm_is_a_ctrl_c_meanwhile():
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as e, term_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert e.value.args == (signal.SIGTERM,) and signal.getsignal(signal.SIGTERM) is old


def test_a_second_sigterm_changes_nothing():
    done = []
    with pytest.raises(KeyboardInterrupt), term_interrupts():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append(True)
    assert done


@pytest.mark.parametrize('handler', [signal.SIG_DFL, lambda *args: None])
def test_the_old_handler_is_put_back(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert command('--bs', '1').code == 1
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with term_interrupts():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_leaves_the_handler_alone():
    found = []

    def look():
        with term_interrupts(), uninterrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    t = threading.Thread(target=look)
    t.start()
    t.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_what_is_not_to_be_interrupted(sig):
    done = []
    with pytest.raises(KeyboardInterrupt), term_interrupts():
        with uninterrupted():
            signal.raise_signal(sig)
            done.append(True)
    assert done


@pytest.mark.slow
@pytest.mark.parametrize('n', [1, 2])
def test_sigterm_ends_a_run_that_can_go_on(n, small, tmp_path):
    start = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}']
    cmd = [sys.executable, *(start if n > 1 else []), '-m', 'miniai.train']
    more = ['--data', small, '--bs', '64', '--device', 'cpu', '--out', tmp_path / 'o']
    with children.start(
        [*cmd, *more, '--epochs', '500', '--quiet'], stdout=PIPE, stderr=PIPE
    ) as p:
        there = tmp_path / 'o' / 'checkpoints'
        assert children.until(lambda: list(there.glob('epoch*')), p)
        p.send_signal(signal.SIGTERM)
        err = p.communicate(timeout=children.LIMIT)[1]
    assert err.count(f'To go on: miniai-train --resume {tmp_path / "o"}') == 1, err
    assert (tmp_path / 'o' / 'curve.png').exists()
    if n == 1:
        assert p.returncode == 143 and 'Traceback' not in err


# disks, paths and caches --------------------------------------------------------------


@pytest.mark.parametrize(
    'code, folder, fine',
    [
        (errno.EINVAL, True, True),
        (errno.ENOTSUP, True, True),
        (errno.ENOSYS, True, True),
        (errno.EBADF, True, True),
        (errno.EIO, True, False),
        (errno.ENOSPC, True, False),
        (errno.EIO, False, False),
        (errno.EINVAL, False, False),
    ],
)
def test_a_disk_that_cannot_flush(code, folder, fine, tmp_path, monkeypatch):
    real = os.fsync

    def fsync(f):
        if S_ISDIR(os.fstat(f).st_mode) == folder:
            raise OSError(code, os.strerror(code))
        real(f)

    monkeypatch.setattr(os, 'fsync', fsync)
    path = tmp_path / 'a.txt'
    path.write_text('old')
    try:
        with replacing(path) as tmp:
            tmp.write_text('new')
        assert fine
    except OSError as e:
        assert not fine and e.errno == code
    assert path.read_text() == ('new' if folder else 'old')
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, *args):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, 'no')
        return real(path, *args)

    monkeypatch.setattr(os, 'open', refuse)
    with replacing(tmp_path / 'a.txt') as tmp:
        tmp.write_text('new')
    assert (tmp_path / 'a.txt').read_text() == 'new'


@pytest.fixture
def hub(monkeypatch, tmp_path):
    "A folder to work in; what would be looked for on the hub"
    monkeypatch.chdir(tmp_path)
    for o in ('pictures/train', 'pictures/my cats', 'data/pictures'):
        Path(o).mkdir(parents=True)
    asked = []
    monkeypatch.setattr(data, 'load_hub', asked.append)
    return asked


@pytest.mark.parametrize(
    'name, meant',
    [
        ('pictrues', 'pictures'),
        ('picture', 'pictures'),
        ('pictures/trian', 'pictures/train'),
        ('pictrues/train', 'pictures/train'),
        ('dat/pictures', 'data/pictures'),
        ('pictures/my cat', 'pictures/my cats'),
        ('./pictrues', 'pictures'),
        ('nothing-like-it', None),
        ('data/nothing', None),
        ('data/pictures/cats', None),
        ('no such/folder', None),
        ('C:\\x\\y', None),
        ('.hidden/x', None),
        ('~nobody-of-this-name/x', None),
    ],
)
def test_a_mistyped_path_is_a_path(name, meant, hub):
    with pytest.raises(FileNotFoundError) as e:
        load_dd(name)
    said = str(e.value)
    assert said.startswith(f'There is no folder {name}') and 'ub' not in said
    assert said.endswith(f'; is {meant} meant?' if meant else name) and not hub


@pytest.mark.parametrize('name', ['owner/name', 'zalando/mnist-2.0', 'a_b/c.d'])
def test_a_name_of_the_hub_is_looked_for_there(name, hub):
    load_dd(name)
    assert hub == [name]


@pytest.mark.parametrize('kind', ['a file', 'below a file', 'not to be written'])
def test_a_cache_that_cannot_be_used_is_named(kind, small, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    cache = tmp_path / 'file' / ('x' if kind == 'below a file' else '')
    if kind == 'not to be written':
        cache = tmp_path / 'cache'
        cache.mkdir(mode=0o500)
        if os.access(cache, os.W_OK):  # of the superuser
            cache = Path('/proc/miniai')
    monkeypatch.setattr(hfds.config, 'HF_DATASETS_CACHE', cache)
    with pytest.raises(OSError, match=f'The cache {cache} cannot be used.*HF_HOME'):
        load_dd(small)
    res = command('--data', small, *RUN, '--out', tmp_path / 'o')
    assert res.code == 1 and f'The cache {cache}' in res.err


def test_a_cache_that_can_be_used_is_not_blamed(tmp_path):
    (tmp_path / 'train.parquet').write_bytes(b'no parquet')
    with pytest.raises(ValueError, match='damaged'):
        load_dd(tmp_path)
