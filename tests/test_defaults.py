"What the command does with few pictures, and what it sets its result beside"

import json
from contextlib import redirect_stdout
from io import StringIO
from math import ceil, sqrt

import pytest, torch

from miniai.cli import DEFAULTS as SHOWN, RECIPE_NAMES, main, run_training
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.defaults import (
    DEFAULTS,
    batch_size,
    clearly_above,
    largest_class,
    nearest_mean,
    not_clearly_better,
    rate,
    set_batches,
    settle,
    what_follows,
    yardsticks,
)
from miniai.recipes import RECIPES
from miniai.runs import load_run, say_result
from miniai.xtras import read_results

# batch size and rate ------------------------------------------------------------------


def test_large_sets_get_what_they_always_got():
    for n in (55_000, 60_000, 10**6, 10**9):
        assert settle(None, n)[1:] == (5, 1024, 2e-2)
    assert SHOWN == DEFAULTS == dict(epochs=5, bs=1024, lr=2e-2)
    assert get_dls(limit=10).train.bs == 1024


def test_fewer_pictures_never_get_larger_batches_or_steps():
    numbers = [2, 3, 10, 50, 99, 100, 500, *range(600, 60_000, 97), 10**6]
    sizes = [batch_size(n) for n in numbers]
    rates = [rate(o) for o in sizes]
    assert sizes == sorted(sizes) and rates == sorted(rates)
    assert min(sizes) == 16 and max(sizes) == 1024
    assert all(o & (o - 1) == 0 for o in sizes)
    steps = [ceil(n / o) for n, o in zip(numbers, sizes) if 1_000 <= n <= 60_000]
    assert min(steps) >= 50 and max(steps) <= 103


@pytest.mark.parametrize('n', [None, 2, 300, 10**5])
@pytest.mark.parametrize('recipe', [None, *RECIPE_NAMES])
def test_what_is_given_holds(n, recipe):
    "And a batch size alone, without a rate, gives the bits that it always gave"
    _, epochs, bs, lr = settle(recipe, n, epochs=3, bs=77, lr=None)
    assert (epochs, bs, lr) == (3, 77, RECIPES[recipe].lr if recipe else 2e-2)
    assert settle(recipe, n, epochs=None, bs=None, lr=0.3)[3] == 0.3
    if recipe:  # has numbers of its own
        chosen = RECIPES[recipe]
        assert settle(recipe, n) == (chosen, chosen.epochs, chosen.bs, chosen.lr)


def test_the_rule_is_near_the_best_that_was_measured():
    "On every set, and far above what the command did before"
    found, images = {}, {}
    for o in read_results_here():
        key = o['set'], int(o['bs']), float(o['lr'])
        found.setdefault(key, []).append(float(o['valid_accuracy']))
        images[o['set']] = int(o['images'])
    assert len(images) >= 7
    for name, n in images.items():
        means = {k[1:]: sum(v) / len(v) for k, v in found.items() if k[0] == name}
        bs = batch_size(n)
        near = bs, rate(bs)
        assert means[near] > max(means.values()) - 0.03, name
        assert means[near] > means[1024, 2e-2] + 0.01, name


def read_results_here():
    from contextlib import chdir

    from children import ROOT

    with chdir(ROOT / 'nbs'):
        return read_results('few_pictures')


@pytest.mark.parametrize('n, bs', [(33, 16), (17, 16), (16, 16), (2, 16), (33, 32)])
def test_no_batch_of_one(n, bs):
    dl = TensorLoader(torch.zeros(n, 1, 2, 2), torch.zeros(n).long(), 4, True)
    set_batches(dl, bs)
    sizes = [len(yb) for _, yb in dl]
    assert min(sizes) > 1 and len(sizes) == len(dl) and max(sizes) == min(n, bs)


@pytest.mark.parametrize(
    'given, follows',
    [
        (dict(bs=None, lr=None), 'batch size and rate follow'),
        (dict(bs=None, lr=0.1), 'the batch size follows'),
        (dict(bs=8, lr=None), ''),
        (dict(bs=8, lr=0.1), ''),
    ],
)
def test_the_plan_says_what_follows(given, follows):
    said = what_follows(None, epochs=3, **given)
    assert said.startswith(follows) and bool(said) == bool(follows)
    assert what_follows('94', **given) == ''


# yardsticks ---------------------------------------------------------------------------


def loader(x, y, **kw):
    return TensorLoader(torch.as_tensor(x), torch.as_tensor(y), **kw)


def test_nearest_mean_by_hand():
    train = loader(
        [[0.0, 0], [2, 0], [10, 0], [10, 2]], [0, 0, 1, 1]
    )  # (1, 0), (10, 1)
    test = loader([[5.0, 0], [6, 0], [0, 0], [9, 9]], [0, 0, 0, 1])
    assert nearest_mean(train, test) == 3 / 4
    assert largest_class(train, test) == 3 / 4


@pytest.mark.parametrize('channels', [1, 3])
def test_nearest_mean_sees_the_pixels_of_the_network(channels):
    "As an oracle: all at once, in double precision, by the batches of the loaders"
    x = torch.randint(0, 256, (2_500, channels, 5, 4), dtype=torch.uint8)
    y = torch.arange(2_500) % 7
    x[y == 3] //= 3
    stats = dict(mean=[0.2] * channels, std=[0.1 + i for i in range(channels)])
    train, test = (
        loader(x[a], y[a], shuffle=s, **stats)
        for a, s in ((slice(2_000), True), (slice(2_000, None), False))
    )
    a, b = (
        dl.batch(slice(0, None))[0].flatten(1).double().numpy() for dl in (train, test)
    )
    labels = train.y.numpy()
    means = [a[labels == k].mean(0) for k in range(7)]
    far = [((b - m) ** 2).sum(1) for m in means]
    want = torch.tensor([list(o) for o in far]).argmin(0) == test.y
    assert nearest_mean(train, test) == pytest.approx(want.float().mean().item())
    state = torch.get_rng_state()
    found = yardsticks(DataLoaders(train, None, test), 'test')
    assert torch.equal(state, torch.get_rng_state())
    assert set(found) == {'largest_class', 'nearest_mean'}


def test_a_class_without_a_picture_is_never_the_nearest():
    train = loader([[9.0], [9.1], [8.0]], [0, 0, 3])  # nothing of 1 and 2
    test = loader([[0.0], [9.0]], [3, 0])
    assert nearest_mean(train, test) == 1
    many = loader(torch.randn(60, 3), torch.arange(60) % 30 * 2)  # every second one
    assert 0 <= nearest_mean(many, many) <= 1


def test_clearly_above_is_two_standard_errors():
    for a, b, n in ((0.75, 0.65, 100), (0.75, 0.65, 10_000), (0.5, 0.5, 10), (1, 1, 5)):
        error = sqrt(a * (1 - a) / n + b * (1 - b) / n)
        assert clearly_above(a, b, n) == (a - b > 2 * error)
    assert not clearly_above(0.4, 0.6, 10**6) and clearly_above(1.0, 0.0, 1)


@pytest.mark.parametrize(
    'accuracy, said',
    [
        (0.9, []),
        (0.51, ['the nearest mean image (0.5000)']),
        (0.3, ['largest class (0.3000)', 'the nearest mean image (0.5000)']),
        (0.0, ['largest class (0.3000)', 'the nearest mean image (0.5000)']),
    ],
)
def test_the_last_line_says_if_it_is_not_clearly_better(accuracy, said):
    r = dict(
        split='test', images=500, accuracy=accuracy, largest_class=0.3, nearest_mean=0.5
    )
    line = say_result(r)
    assert ('not clearly better' in line) == bool(said)
    assert all(o in line for o in said) and ('largest' in line) == (len(said) == 2)
    old = {k: r[k] for k in ('split', 'images', 'accuracy')}  # of version 0.1
    assert not_clearly_better(old) == ''


# the command --------------------------------------------------------------------------


def test_the_command_says_what_follows_and_what_it_is_beside(small, tmp_path):
    text = StringIO()
    args = ['--data', str(small), '--epochs', '1', '--device', 'cpu', '--limit', '90']
    with redirect_stdout(text):
        assert main([*args, '--out', str(tmp_path / 'o')]) == 0
    text, r = text.getvalue(), load_run(tmp_path / 'o', 'cpu').config
    assert '1 epochs of 6 batches of 16, AdamW, 1cycle up to 0.005' in text
    assert 'batch size and rate follow from the number of images' in text
    result, training = r['result'], r['training']
    assert (training['bs'], training['lr']) == (16, 0.005)
    assert f'{result["largest_class"]:.4f} for those who always' in text
    assert f'{result["nearest_mean"]:.4f} for the class whose mean' in text
    assert 'not clearly better than' in text.splitlines()[-1]
    assert json.loads((tmp_path / 'o' / 'config.json').read_text()) == r


def test_a_separable_set_is_clearly_better(tmp_path):
    "The mean picture of both classes is grey all over"
    from PIL import Image

    g = torch.Generator().manual_seed(0)
    for split, n in (('train', 120), ('test', 60)):
        for i in range(n):
            x = torch.rand(8, 8, generator=g) * 60
            left = i // 2 % 2
            x[:, :4] += 150 * left
            x[:, 4:] += 150 * (left ^ i % 2)  # of class b only one half is bright
            folder = tmp_path / 'data' / split / 'ab'[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.byte().numpy()).save(folder / f'{i}.png')
    run = run_training(
        5, data=tmp_path / 'data', device='cpu', out=tmp_path / 'o', quiet=True
    )
    r = run.config['result']
    assert not not_clearly_better(r) and r['largest_class'] == 0.5, r
