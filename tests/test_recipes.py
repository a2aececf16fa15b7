"Recipes by hand, by the command, interrupted, and on data they were not made for"

import json, shutil
from dataclasses import replace
from pathlib import Path

import pytest, torch
import children
from test_train import broken, command
from torch import nn

from miniai.accel import GradClip, Sharded
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.learner import DeviceCB
from miniai.recipes import (
    RECIPES,
    FlipInTurn,
    Whitening,
    narrow_net,
    recipe_learner,
    recipe_opt,
    recipe_sched,
)
from miniai.train import RECIPE_NAMES, load_run, run_training
from miniai.xtras import set_seed

OPTIONS = '--recipe 94 --limit 400 --bs 32 --epochs 4 --device cpu'.split()


@pytest.fixture(scope='module')
def run_once(small, tmp_path_factory):
    "The folder of a short run, for `finished`"
    folder = tmp_path_factory.mktemp('runs') / 'o'
    run_training(1, 64, recipe='94', data=small, device='cpu', out=folder, quiet=True)
    return folder


@pytest.fixture
def finished(run_once, tmp_path):
    return Path(shutil.copytree(run_once, tmp_path / 'finished'))


def test_the_command_knows_the_names_without_torch():
    assert RECIPE_NAMES == tuple(RECIPES)
    res = children.python(
        'import sys; from miniai.train import main\n'
        'try: main(["--help"])\n'
        'except SystemExit: print("torch" in sys.modules)'
    )
    assert (
        all(o in res.stdout for o in RECIPES) and res.stdout.splitlines()[-1] == 'False'
    )


def test_a_recipe_that_is_not_there(tmp_path):
    res = command('--recipe', '99', '--out', tmp_path / 'o')
    assert res.returncode == 2 and "'99'" in res.stderr and '94' in res.stderr
    with pytest.raises(ValueError, match="no recipe '99'; there are 94, "):
        run_training(recipe='99', out=tmp_path / 'o')


@pytest.mark.slow
def test_a_recipe_trains_on_all_images_and_says_so(tmp_path):
    res = command(*OPTIONS, '--bs', '128', '--epochs', '1', '--out', tmp_path / 'o')
    assert res.returncode == 0, res.stderr
    for o in (
        '400 images to train, 0 to watch',
        '3 batches of 128',
        'SGD after the recipe 94',
        '1cycle up to 1.2',
        'Whitening',
        '158,740 parameters',
    ):
        assert o in res.stdout, o
    assert 'mirror image' in res.stdout.splitlines()[-1]
    config = json.loads((tmp_path / 'o' / 'config.json').read_text())
    assert (
        config['training']['recipe'],
        config['training']['epochs'],
        config['training']['lr'],
    ) == ('94', 1, 1.2)
    assert (
        config['model']['kind'] == 'narrow'
        and config['mirror']
        and 'valid_loss' not in config['history'][0]
    )


def test_what_is_loaded_answers_for_both_sides(finished):
    run, x = load_run(finished, 'cpu'), get_dls(limit=10).valid.x[0]
    both = torch.cat([run.prepare(x), run.prepare(x).flip(-1)])
    with torch.inference_mode():
        want = run.model(both).softmax(1).mean(0)
    assert [run.predict(x).probs[k] for k in run.classes] == pytest.approx(
        want.tolist()
    )
    assert run.predict(x).probs == pytest.approx(run.predict(x.flip(-1)).probs)


def test_the_accuracy_is_that_of_both_sides_and_the_loss_without_smoothing(
    finished, small
):
    run = load_run(finished, 'cpu')
    right, twice, losses = 0, 0, []
    with torch.inference_mode():
        for xb, yb in get_dls(small, valid=0.1, keep_test=True).test:
            out = run.model(xb)
            both = out.softmax(1) + run.model(xb.flip(-1)).softmax(1)
            right, twice = (
                right + (out.argmax(1) == yb).sum().item(),
                twice + (both.argmax(1) == yb).sum().item(),
            )
            losses.append(nn.functional.cross_entropy(out, yb, reduction='none'))
    r = run.config['result']
    assert (r['plain_accuracy'], r['accuracy']) == pytest.approx(
        (right / 100, twice / 100), abs=2e-4
    ) and right != twice
    assert r['loss'] == pytest.approx(
        torch.cat(losses).mean().item(), rel=1e-3
    ) and 'mirror' in repr(run)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(small, tmp_path):
    same = {'recipe': '94', 'limit': 400, 'data': small, 'device': 'cpu'}
    whole = run_training(4, 32, out=tmp_path / 'whole', quiet=True, **same)
    broken(tmp_path / 'b', small, OPTIONS)
    res = command('--resume', tmp_path / 'b', '--epochs', '9')
    assert res.returncode == 1 and 'begun with epochs=4' in res.stderr
    assert command('--resume', tmp_path / 'b').returncode == 0
    run = load_run(tmp_path / 'b', 'cpu')
    assert all(
        torch.equal(v, run.model.state_dict()[k].to(v.device))
        for k, v in whole.model.state_dict().items()
    )


def test_coloured_pictures_of_another_size(tmp_path):
    from test_datasets import image_folder

    data = image_folder(tmp_path / 'data', n=40, size=(20, 24))
    run = run_training(
        1, 8, recipe='94', data=str(data), size=16, out=tmp_path / 'out', quiet=True
    )
    assert (
        run.classes == ['boot', 'shirt']
        and run.predict(data / 'test' / 'boot' / '0.png').label in run.classes
    )
    assert narrow_net(n_in=3, n_out=7)(torch.randn(2, 3, 33, 20)).shape == (2, 7)


def test_pictures_that_are_too_small(tmp_path):
    from test_datasets import image_folder

    res = command(
        '--recipe',
        '94',
        '--data',
        image_folder(tmp_path / 'data', n=20),
        '--size',
        '6',
        '--bs',
        '8',
        '--out',
        tmp_path / 'o',
    )
    assert (
        res.returncode == 1
        and '6×6 pixels' in res.stderr
        and '8 at least' in res.stderr
        and 'Traceback' not in res.stderr
    )


def test_loaders_that_are_no_tensors():
    with pytest.raises(TypeError, match='TensorLoader'):
        recipe_learner(RECIPES['94'], DataLoaders([1]))


@pytest.mark.parametrize(
    'broken_part',
    [
        dict(before=[2, 1]),
        dict(before=[2, 1, -1]),
        dict(after=[0, 1, 10**6]),
        dict(kind='other'),
        dict(nfs=[16, 48, 10**9]),
    ],
)
def test_a_damaged_description(finished, broken_part):
    config = json.loads((finished / 'config.json').read_text())
    config['model'].update(broken_part)
    (finished / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='cannot be read'):
        load_run(finished)


# the parts ----------------------------------------------------------------------------


def test_each_image_takes_turns_also_when_shuffled_and_shared():
    dls = get_dls(bs=64, limit=1000)

    def images(dl):
        "Each image as it is shown in an epoch, by its place in the data"
        seen = torch.zeros(1000, 28, 28)
        order = dl.order()
        for idx in order.split(64):
            seen[idx] = dl.batch(idx)[0][:, 0]
        return seen

    dl = FlipInTurn(dls.train.x, dls.train.y, 64, True, dls.train.mean, dls.train.std)
    a, b, c = images(dl), images(dl), images(dl)
    assert torch.equal(b, a.flip(-1)) and torch.equal(a, c)
    as_is = (
        torch.stack(
            [
                (a[i] == dls.train.batch(slice(i, i + 1))[0][0, 0]).all()
                for i in range(1000)
            ]
        )
        .float()
        .mean()
    )
    assert 0.4 < as_is < 0.6
    parts = [
        Sharded(FlipInTurn(dls.train.x, dls.train.y, 64, False), i, 2) for i in range(2)
    ]
    whole = FlipInTurn(dls.train.x, dls.train.y, 64, False)
    for p, q, (xb, yb) in zip(*parts, whole):
        assert torch.equal(torch.cat([p[0], q[0]]), xb) and torch.equal(
            torch.cat([p[1], q[1]]), yb
        )


def test_turns_go_on_after_loading():
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8)
    a = FlipInTurn(x, y, 8)
    first = next(iter(a))[0]
    b = FlipInTurn(x, y, 8)
    b.load_state_dict(a.state_dict())
    assert torch.equal(next(iter(b))[0], first.flip(-1))


def test_whitening_of_colours_and_of_black():
    torch.manual_seed(0)
    x = torch.randn(200, 3, 12, 12) @ torch.randn(12, 12)
    stem = Whitening(3).measure(x, eps=0)
    out = nn.functional.conv2d(x, stem.weight[:27]).transpose(0, 1).flatten(1)
    assert torch.allclose(out @ out.T / out.shape[1], torch.eye(27), atol=2e-2)
    assert Whitening(1).measure(torch.zeros(4, 1, 8, 8)).weight.isfinite().all()


def test_the_filters_stay_and_the_rest_learns():
    set_seed(0)
    learn = recipe_learner(
        replace(RECIPES['94'], epochs=1, bs=64, pad=1, erase=0.2), get_dls(limit=256)
    )
    before = {k: v.detach().cpu().clone() for k, v in learn.model.named_parameters()}
    learn.fit(1)
    same = [
        k
        for k, v in learn.model.named_parameters()
        if torch.equal(v.detach().cpu(), before[k])
    ]
    assert same == ['0.weight']


def test_a_recipe_without_class_names():
    dls = get_dls(limit=200)
    assert (
        recipe_learner(RECIPES['94'], DataLoaders(dls.train, dls.valid))
        .model[-1]
        .out_features
        == 10
    )


@pytest.mark.parametrize('batches', range(1, 13))
def test_a_schedule_of_few_batches(batches):
    opt = recipe_opt(RECIPES['94'], narrow_net().parameters(), 1.2)
    sched = recipe_sched(replace(RECIPES['94'], epochs=1), opt, batches)
    for _ in range(batches - 1):
        opt.step()
        sched.step()
    assert (
        0 <= opt.param_groups[0]['lr'] <= 1.2
    )  # this used to divide by zero where a fifth of the batches is one


LOOKS = {
    'lr_find': lambda l: l.lr_find(plot=False, max_epochs=3),
    'show_image_batch': lambda l: l.show_image_batch(),
    'summary': lambda l: l.summary(),
}


@pytest.mark.slow
@pytest.mark.parametrize('look', LOOKS)
def test_a_look_does_not_change_whose_turn_it_is(look):
    def losses(*looks):
        set_seed(0)
        learn = recipe_learner(
            replace(RECIPES['94'], epochs=2, bs=64),
            get_dls(limit=300, valid=0),
            DeviceCB('cpu'),
            fast=False,
        )
        for o in looks:
            LOOKS[o](learn)
        return learn.dls.train.epoch, learn.fit(2, valid=False)['train_loss']

    assert losses(look) == losses()


def test_one_more_callback_and_labels_with_gaps():
    dls = get_dls(limit=200)
    some = (dls.train.y == 0) | (dls.train.y == 9)
    dls.train = TensorLoader(
        dls.train.x[some], dls.train.y[some], 32, True, dls.train.mean, dls.train.std
    )
    learn = recipe_learner(
        replace(RECIPES['94'], epochs=1, bs=8),
        DataLoaders(dls.train),
        cbs=GradClip(1.0),
    )
    learn.fit(1, valid=False)
    assert learn.model[-1].out_features == 10


def test_a_stage_without_a_way_in():
    with pytest.raises(ValueError, match='at least one convolution'):
        narrow_net(before=(2, 0, 1))


@pytest.mark.parametrize(
    'broken_part',
    [
        dict(mirror='no'),
        dict(result=dict(split='test', accuracy=0.5, images=10, plain_accuracy='x')),
        dict(model_before=[2, 0, 1]),
        dict(shape=[1, 4, 4]),
    ],
)
def test_other_damage(finished, broken_part):
    config = json.loads((finished / 'config.json').read_text())
    if 'model_before' in broken_part:
        config['model']['before'] = broken_part['model_before']
    elif 'shape' in broken_part:
        config['images']['shape'] = broken_part['shape']
    else:
        config.update(broken_part)
    (finished / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='is not what it should be'):
        load_run(finished)


def test_another_number_of_epochs_is_refused():
    learn = recipe_learner(replace(RECIPES['94'], epochs=2, bs=64), get_dls(limit=128))
    for n in (1, 3):
        with pytest.raises(
            ValueError, match=f'made for 2 epochs, not for {n}; .*replace'
        ):
            learn.fit(n)
    assert learn.fit(1, train=False)['valid_loss'] and len(learn.fit(2)) == 2


def test_without_mirror_images():
    learn = recipe_learner(
        replace(RECIPES['94'], epochs=1, bs=64, flip=False), get_dls(limit=128)
    )
    assert type(learn.dls.train) is TensorLoader
    xb, _ = next(
        iter(
            TensorLoader(
                learn.dls.train.x,
                learn.dls.train.y,
                128,
                mean=learn.dls.train.mean,
                std=learn.dls.train.std,
            )
        )
    )
    seen = torch.cat([o for o, _ in learn.dls.train])
    assert torch.equal(
        seen.sum((1, 2, 3)).sort()[0], xb.sum((1, 2, 3)).sort()[0]
    ) and all((o == xb).flatten(1).all(1).any() for o in seen)
