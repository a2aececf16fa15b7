"The command as somebody would use it, and misuse it"

import csv, json, os, shutil, signal, sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import numpy as np, pytest, torch
import children
from PIL import Image, ImageOps

from miniai.datasets import get_dls
from miniai.train import default_out, load_run, main, run_training

COMMAND = str(Path(sys.executable).parent / 'miniai-train')
FAST = ['--bs', '128', '--epochs', '2', '--device', 'cpu']


def command(*args, cwd='.'):
    "The command, called in this process: how it ended and what it printed"
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd):
        try:
            code = main([*map(str, args)])
        except SystemExit as e:
            code = e.code
    return SimpleNamespace(
        returncode=code, stdout=out.getvalue(), stderr=err.getvalue()
    )


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    "A finished run, as somebody makes it: in a process of its own, on Fashion-MNIST"
    out = tmp_path_factory.mktemp('run') / 'a' / 'b'
    res = children.run([COMMAND, '--limit', '600', *FAST, '--out', out])
    assert res.returncode == 0, res.stderr
    (out.parent / 'log').write_text(res.stdout)
    return out


@pytest.fixture
def few(small):
    "Options: the small data set"
    return ['--data', small, *FAST]


def test_help_explains_every_option_and_needs_no_torch():
    res = children.python(
        'import sys; from miniai.train import main\n'
        'try: main(["--help"])\n'
        'except SystemExit: print("torch" in sys.modules, "numpy" in sys.modules)'
    )
    for o in '--epochs --bs --lr --seed --device --limit --data --out --quiet'.split():
        assert o in res.stdout
    assert res.stdout.count('(default:') >= 10 and 'None' not in res.stdout
    assert res.stdout.splitlines()[-1] == 'False False'


def test_a_run_says_what_it_does_and_leaves_everything(out):
    log = (out.parent / 'log').read_text()
    for o in (
        '600 images to train',
        '10,000 to be tested on',
        'cpu (',
        'ResBlock',
        '1,227,890 parameters',
        'epoch 2',
    ):
        assert o in log, o
    assert (
        log.splitlines()[-1].startswith('Test accuracy 0.')
        and str(out) in log.splitlines()[-1]
    )
    assert sorted(o.name for o in out.iterdir()) == [
        'config.json',
        'curve.png',
        'metrics.csv',
        'model.safetensors',
    ]
    rows = list(csv.DictReader(open(out / 'metrics.csv')))
    assert [r['epoch'] for r in rows] == ['1', '2'] and float(
        rows[1]['valid_accuracy']
    ) > 0.1
    assert Image.open(out / 'curve.png').width > 400
    config = json.loads((out / 'config.json').read_text())
    assert (
        config['versions']['torch'] == torch.__version__
        and config['training']['epochs'] == 2
        and config['history'][1]['valid_loss'] == float(rows[1]['valid_loss'])
    )
    assert f"numbers   {config['numbers']}\n" in (out.parent / 'log').read_text()


@pytest.mark.slow
def test_quiet_prints_the_result_only(few, tmp_path):
    res = command(*few, '--quiet', '--out', tmp_path / 'q')
    assert (
        len(res.stdout.splitlines()) == 1
        and res.stdout.startswith('Test accuracy')
        and not res.stderr
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_quiet_or_not(few, tmp_path):
    for o, q in (('a', []), ('b', ['--quiet'])):
        assert command(*few, '--out', tmp_path / o, *q).returncode == 0
    a, b = (load_run(tmp_path / o, 'cpu') for o in 'ab')
    assert (
        a.config['history'][-1]['valid_loss'] == b.config['history'][-1]['valid_loss']
    )
    for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()):
        assert torch.equal(x, y)


def test_loading_a_run_rolls_no_dice(out):
    torch.manual_seed(1)
    a = torch.rand(1)
    torch.manual_seed(1)
    load_run(out)
    b = torch.rand(1)
    assert torch.equal(a, b)


def test_the_saved_model_is_the_one_that_was_tested(out):
    run, test = load_run(out), get_dls(valid=5_000, limit=10).test
    with torch.inference_mode():
        hits = sum(
            (
                run.model(xb.to(next(run.model.parameters()).device)).argmax(1).cpu()
                == yb
            )
            .sum()
            .item()
            for xb, yb in test
        )
    assert abs(hits / 10_000 - run.config['result']['accuracy']) < 2e-4


def test_predict_takes_pictures_of_every_kind(out, tmp_path):
    run, test = load_run(out), get_dls(limit=10).valid
    x = test.x[0]
    want = run.predict(x)
    assert (
        want.label in run.classes
        and sum(want.probs.values()) == pytest.approx(1, abs=1e-4)
        and list(want.probs.values()) == sorted(want.probs.values(), reverse=True)
    )
    im = Image.fromarray(x[0].numpy())
    im.save(tmp_path / 'p.png')
    im.convert('RGB').save(tmp_path / 'p.bmp')
    normalised = test.batch(slice(0, 1))[0][0]
    by_hand = (x.float() / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(run.prepare(by_hand), normalised[None])
    for o in (
        x[0],
        x[None],
        x.float() / 255,
        x.numpy(),
        im,
        im.convert('RGB'),
        im.convert('RGBA'),
        str(tmp_path / 'p.png'),
        tmp_path / 'p.bmp',
        normalised,
        normalised[None],
        normalised.double(),
        x.numpy().astype('uint16') * 257,
        im.convert('I'),
    ):
        assert (
            torch.equal(run.prepare(o), run.prepare(x))
            and run.predict(o).probs == want.probs
        ), o
    large = im.resize((280, 280), 0)
    for o in (
        large,
        ImageOps.invert(large).convert('RGB'),
    ):  # the second: dark on white; shrinking them blurs a little
        assert (run.prepare(o) - run.prepare(x)).abs().mean() < 0.05 and run.predict(
            o
        ).label == want.label
    assert run.predict(Image.new('RGB', (300, 100), 'white')).label in run.classes


def test_predict_explains_what_it_cannot_take(out, tmp_path):
    run, x = load_run(out), get_dls(limit=10).valid.x[0, 0]
    with pytest.raises(FileNotFoundError, match='no picture'):
        run.predict(tmp_path / 'nowhere.png')
    (tmp_path / 'a.png').write_text('text')
    with pytest.raises(ValueError, match='not a picture that can be read'):
        run.predict(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='One picture has the shape'):
        run.predict(torch.zeros(2, 1, 28, 28))
    with pytest.raises(TypeError, match='got int'):
        run.predict(3)
    for bad in (
        torch.full((28, 28), 255.0),
        torch.full((28, 28), float('nan')),
        x.numpy() / 255 - 0.5,
        x.numpy().astype('int32') * 300,
        np.zeros((0, 28)),
    ):
        with pytest.raises(ValueError, match='between 0 and 1; got'):
            run.predict(bad)


def test_runs_that_cannot_be_loaded(out, tmp_path):
    with pytest.raises(FileNotFoundError, match='not a finished run'):
        load_run(tmp_path)
    for o in out.iterdir():
        (tmp_path / o.name).write_bytes(o.read_bytes())
    (tmp_path / 'model.safetensors').write_bytes(
        (out / 'model.safetensors').read_bytes()[:5000]
    )
    with pytest.raises(ValueError, match='damaged'):
        load_run(tmp_path)
    for text in ('{', '[]', '{"format": 7}'):
        (tmp_path / 'config.json').write_text(text)
        with pytest.raises(ValueError, match='damaged or made by another version'):
            load_run(tmp_path)


@pytest.mark.slow
def test_other_data(tmp_path):
    from test_datasets import image_folder

    data = image_folder(tmp_path / 'data', n=40, size=(20, 24))
    run = run_training(1, 8, data=str(data), size=16, out=tmp_path / 'out', quiet=True)
    assert run.classes == ['boot', 'shirt'] and run.config['result']['split'] == 'test'
    assert run.predict(data / 'test' / 'boot' / '0.png').label in run.classes
    data = image_folder(tmp_path / 'data2', ('train',), n=40)
    assert (
        run_training(1, 8, data=str(data), out=tmp_path / 'out2', quiet=True).config[
            'result'
        ]['split']
        == 'valid'
    )


def test_a_split_to_watch_is_watched(tmp_path):
    from test_datasets import image_folder

    data = image_folder(tmp_path / 'data', ('train', 'validation', 'test'), n=20)
    log = command(
        '--data', data, '--bs', '8', '--epochs', '1', '--out', tmp_path / 'o'
    ).stdout
    assert '20 images to train, 20 to watch, 20 to be tested on' in log


@pytest.mark.slow
def test_an_older_run_in_the_same_folder(out, few, tmp_path):
    "It makes room when a new run begins, and stays until the new one is there"
    for o in out.iterdir():
        (tmp_path / o.name).write_bytes(o.read_bytes())
    bad = ('--bs', '32', '--lr', '1e12', '--out', tmp_path, '--overwrite')
    res = command(*few, *bad)
    assert 'No epoch was finished' in res.stderr
    assert not (tmp_path / 'metrics.csv').exists() and load_run(tmp_path / 'replaced')


@pytest.mark.slow
def test_fast_says_what_it_picked_and_changes_little(few, tmp_path):
    from miniai.accel import fast

    slow, quick = (
        command(*few, '--bs', '64', '--epochs', '1', *more, '--out', tmp_path / nm)
        for nm, more in (('slow', ('--no-fast',)), ('fast', ()))
    )
    assert (
        'numbers   float32 throughout' in slow.stdout
        and f"numbers   {fast('cpu')[2]}" in quick.stdout
    )
    a, b = (load_run(tmp_path / nm, 'cpu') for nm in ('slow', 'fast'))
    assert (a.config['training']['fast'], b.config['training']['fast']) == (False, True)
    assert all(v.dtype != torch.bfloat16 for v in b.model.state_dict().values())
    assert a.config['history'][0]['train_loss'] == pytest.approx(
        b.config['history'][0]['train_loss'], rel=0.05
    )


def test_two_runs_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        len({default_out('x') for _ in range(3)}) == 3
        and len(list((tmp_path / 'runs').iterdir())) == 3
    )


def test_results_are_not_put_among_the_data(tmp_path):
    from test_datasets import image_folder

    data = image_folder(tmp_path / 'data', n=20)
    res = command('--data', '.', '--bs', '8', '--epochs', '1', cwd=data)
    assert res.returncode == 1 and 'would lie inside the data' in res.stderr
    assert not (data / 'runs').exists()  # it would be taken for one of the data
    assert (
        command(
            '--data',
            '.',
            '--bs',
            '8',
            '--epochs',
            '1',
            '--quiet',
            '--out',
            tmp_path / 'o',
            cwd=data,
        ).returncode
        == 0
    )


def test_labels_in_a_column_that_has_to_be_named(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image as Pic
    from test_datasets import picture

    (tmp_path / 'd').mkdir()
    rows = {
        'image': [picture(i) for i in range(20)],
        'a': [0, 1] * 10,
        'b': [1, 0] * 10,
    }
    Dataset.from_dict(
        rows,
        features=Features({'image': Pic(), 'a': ClassLabel(2), 'b': ClassLabel(2)}),
    ).to_parquet(tmp_path / 'd' / 'train.parquet')
    args = (
        '--data',
        tmp_path / 'd',
        '--bs',
        '8',
        '--epochs',
        '1',
        '--quiet',
        '--out',
        tmp_path / 'o',
    )
    assert "Pass label=, one of ['a', 'b']" in command(*args).stderr
    assert command(*args, '--label', 'b').returncode == 0


@pytest.mark.slow
def test_a_pipe_that_knows_ascii_only(few, tmp_path):
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    res = children.run([COMMAND, *few, '--out', tmp_path / 'o'], env=env)
    assert res.returncode == 0 and res.stdout.isascii(), res.stderr


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    command('--data', './nowhere', '--out', tmp_path / 'o')
    assert not (tmp_path / 'o').exists()


@pytest.mark.slow
def test_a_last_batch_of_one_image(small, tmp_path):
    run_training(1, 100, data=small, limit=223, out=tmp_path / 'o', quiet=True)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'args,why',
    [
        (['--bs', '0'], 'batch size must be a whole number of at least 1; got 0'),
        (['--epochs', '0'], 'epochs'),
        (['--lr', '0'], 'lr is 0.0'),
        (['--lr', 'nan'], 'lr is nan'),
        (['--limit', '0'], 'limit must be'),
        (['--device', 'abacus'], "no device 'abacus'"),
        (['--data', './nowhere'], 'There is no folder ./nowhere'),
        (['--size', '-3'], 'size must be'),
        (['--bs', '1'], 'batch size is 1'),
        (['--limit', '1'], '1 image to train on'),
        (['--seed', str(10**30)], 'fit into 64 bits'),
    ],
)
def test_bad_options(args, why, tmp_path):
    res = command(*args, '--out', tmp_path / 'o')
    assert (
        res.returncode == 1 and why in res.stderr and 'Traceback' not in res.stderr
    ), res.stderr
    assert not (tmp_path / 'o' / 'model.safetensors').exists()


def test_an_option_that_is_no_number():
    res = command('--epochs', 'many')
    assert res.returncode == 2 and "invalid int value: 'many'" in res.stderr


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path):
    (tmp_path / 'file').write_text('')
    res = command('--out', tmp_path / 'file' / 'sub')
    assert (
        res.returncode == 1
        and 'Cannot write to the output folder' in res.stderr
        and '--out' in res.stderr
        and not res.stdout  # neither data nor network were looked at
    )


@pytest.mark.slow
def test_a_diverging_run_names_the_batch_and_saves_nothing_over_a_good_model(
    out, few, tmp_path
):
    for o in out.iterdir():
        (tmp_path / o.name).write_bytes(o.read_bytes())
    more = ['--bs', '32', '--epochs', '3', '--lr', '1e12']
    res = command(*few, *more, '--out', tmp_path, '--overwrite')
    assert (
        res.returncode == 1
        and 'in epoch 1 of 3, at train batch' in res.stderr
        and 'Traceback' not in res.stderr
    ), res.stderr
    good = out / 'model.safetensors'
    assert (tmp_path / 'replaced' / good.name).read_bytes() == good.read_bytes()
    assert not (tmp_path / good.name).exists()


LONG = ['--bs', '128', '--epochs', '500', '--device', 'cpu']


def begin(*args):
    "The command in a process of its own, for a `with` block, whose end is its end"
    cmd = [sys.executable, '-m', 'miniai.train', *args]
    return children.start(cmd, stdout=PIPE, stderr=PIPE)


@pytest.mark.slow
def test_ctrl_c_keeps_the_metrics_so_far(small, tmp_path):
    with begin(*LONG, '--data', small, '--out', tmp_path / 'o') as p:
        for line in p.stdout:
            if line.startswith('epoch 2'):
                break
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=children.LIMIT)[1]
    assert (
        p.returncode == 130
        and 'Stopped. The metrics of the epochs that were finished are in' in err
        and 'Traceback' not in err
    ), err
    assert (
        len(list(csv.DictReader(open(tmp_path / 'o' / 'metrics.csv')))) >= 2
        and (tmp_path / 'o' / 'curve.png').exists()
    )
    assert not (tmp_path / 'o' / 'model.safetensors').exists()


# a run that goes on -------------------------------------------------------------------

OPTIONS = ('--limit', '400', '--bs', '32', '--epochs', '4', '--device', 'cpu')


def broken(folder, data, options=OPTIONS):
    "A run that was killed when an epoch was safe"
    with begin(*options, '--data', data, '--quiet', '--out', folder) as p:
        children.until(lambda: list(folder.glob('checkpoints/epoch_0001*')), p)
        p.kill()
    assert (folder / 'options.json').exists() and not (
        folder / 'model.safetensors'
    ).exists()
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(small, tmp_path):
    same = {'limit': 400, 'data': small, 'device': 'cpu'}
    whole = run_training(4, 32, out=tmp_path / 'whole', quiet=True, **same)
    broken(tmp_path / 'b', small)
    res = command('--resume', tmp_path / 'b')
    assert (
        res.returncode == 0
        and 'the run goes on after epoch' in res.stdout
        and 'Test accuracy' in res.stdout
    )
    run = load_run(tmp_path / 'b')
    assert all(
        torch.equal(v, run.model.state_dict()[k])
        for k, v in whole.model.state_dict().items()
    )
    assert [
        {k: v for k, v in r.items() if k != 'time'} for r in run.config['history']
    ] == [{k: v for k, v in r.items() if k != 'time'} for r in whole.config['history']]
    assert sorted(o.name for o in (tmp_path / 'b').iterdir()) == [
        'config.json',
        'curve.png',
        'metrics.csv',
        'model.safetensors',
    ]
    before = {o: o.stat().st_mtime_ns for o in (tmp_path / 'b').iterdir()}
    res = command('--resume', tmp_path / 'b')
    assert (
        res.returncode == 0
        and 'finished; nothing is left to do' in res.stdout
        and before == {o: o.stat().st_mtime_ns for o in (tmp_path / 'b').iterdir()}
    )


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_options_and_is_not_written_over(small, tmp_path):
    folder = broken(tmp_path / 'runs' / 'one', small)
    res = command(*OPTIONS, '--data', small, '--out', folder)
    assert res.returncode == 1 and f'miniai-train --resume {folder}' in res.stderr
    for more, why in (
        (('--epochs', '9'), 'begun with epochs=4'),
        (('--no-fast',), 'begun with fast=True'),
        (('--out', tmp_path / 'x'), 'leave --out away'),
    ):
        res = command('--resume', folder, *more)
        assert (
            res.returncode == 1
            and why in res.stderr
            and list(folder.glob('checkpoints/epoch*'))
        )
    res = command('--resume', '--epochs', '4', cwd=tmp_path)  # the newest in runs
    assert res.returncode == 0 and str(Path('runs') / 'one') in res.stdout
    res = command('--resume', cwd=tmp_path)
    assert res.returncode == 1 and 'no run in the folder runs' in res.stderr


def test_what_is_no_run_does_not_go_on(tmp_path):
    res = command('--resume', tmp_path)
    assert res.returncode == 1 and 'no run to go on with' in res.stderr
    for text in ('[', '[]', '{"epochs": 1}', '[' * 10**5):
        (tmp_path / 'options.json').write_text(text)
        res = command('--resume', tmp_path)
        assert (
            res.returncode == 1
            and 'options.json' in res.stderr
            and 'Traceback' not in res.stderr
        )


@pytest.mark.slow
def test_two_runs_in_one_folder(small, tmp_path):
    with begin(*LONG, '--data', small, '--quiet', '--out', tmp_path) as p:
        assert children.until(lambda: list(tmp_path.glob('checkpoints/epoch*')), p)
        res = command('--resume', tmp_path)
        assert res.returncode == 1 and 'Another run is writing' in res.stderr


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(small, tmp_path):
    with begin(*LONG, '--data', small, '--quiet', '--out', tmp_path / 'o') as p:
        assert children.until(lambda: list(tmp_path.glob('o/checkpoints/epoch*')), p)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=children.LIMIT)[1]
    assert (
        f'To go on: miniai-train --resume {tmp_path / "o"}' in err
        and p.returncode == 130
    )


def test_small_mistakes_about_going_on(small, tmp_path, out):
    res = command('--resume', out, '--epochs', '7')
    assert res.returncode == 1 and 'begun with epochs=2' in res.stderr
    res = command('--resume', out)
    assert (
        res.returncode == 0 and 'finished' in res.stdout and 'Wrote' not in res.stdout
    )
    (tmp_path / 'file').touch()
    res = command('--resume', tmp_path / 'file')
    assert res.returncode == 1 and 'no run to go on with' in res.stderr
    folder = broken(tmp_path / 'a b', small)
    kept = shutil.copytree(folder, tmp_path / 'kept')
    for o in folder.glob('checkpoints/epoch*'):
        o.unlink()
    res = command('--resume', folder)
    assert res.returncode == 0 and 'begins with its first epoch' in res.stdout
    folder = Path(shutil.copytree(kept, tmp_path / 'c'))
    for o in folder.glob('checkpoints/epoch*'):
        os.truncate(o, 1000)
    res = command('--resume', folder)
    assert (
        res.returncode == 1
        and 'No checkpoint in' in res.stderr
        and 'Traceback' not in res.stderr
        and 'one before' not in res.stderr
    )
    (folder / 'options.json').unlink()
    res = command(*OPTIONS, '--data', small, '--out', folder)
    assert res.returncode == 1 and list(folder.glob('checkpoints/epoch*'))
