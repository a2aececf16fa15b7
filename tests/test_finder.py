"What a search for the learning rate makes of curves whose right answer is known"

import math

import numpy as np, pytest

from miniai.finder import FEWEST, LRFinderCB


def search(loss, seed=0, gamma=1.3, noise=0.05, until=3):
    "As after a search in which the loss at a rate is `loss(rate)`, with noise"
    rng = np.random.default_rng(seed)
    f = LRFinderCB(gamma)
    f.lrs, f.losses = [], []
    lr = 1e-5
    while lr < 100:
        f.lrs.append(lr)
        f.losses.append(float(loss(lr) + noise * rng.standard_normal()))
        if f.losses[-1] > until * abs(min(f.losses)) or not math.isfinite(f.losses[-1]):
            break
        lr *= gamma
    return f


def new(lr):
    "It falls fastest at 0.1, and explodes from 1 on"
    return 2.3 - 1.2 / (1 + (0.1 / lr) ** 2) + 5 * max(lr - 1, 0)


def trained(lr):
    "It falls nowhere, and rises from 0.1 on"
    return 0.5 + 2 * max(lr - 0.1, 0)


SEEDS = range(12)


@pytest.mark.parametrize('gamma', [1.1, 1.3, 1.6])
@pytest.mark.parametrize('seed', SEEDS)
def test_where_the_loss_falls_fastest(seed, gamma):
    assert 0.04 < search(new, seed, gamma).suggestion < 0.25


@pytest.mark.parametrize('gamma', [1.1, 1.3])
@pytest.mark.parametrize('seed', SEEDS)
def test_a_tenth_of_where_it_begins_to_rise(seed, gamma):
    "Within a factor of three: 0.01 would be right"
    assert 0.01 / 3 < search(trained, seed, gamma).suggestion < 0.01 * 3


@pytest.mark.parametrize('seed', SEEDS)
def test_one_lucky_batch_changes_little(seed):
    f = search(trained, seed)
    want = f.suggestion
    for i in range(3, len(f.losses) - 3, 5):
        losses = list(f.losses)
        losses[i] -= 0.15  # three standard deviations
        g = LRFinderCB()
        g.lrs, g.losses = f.lrs, losses
        assert want / 4 < g.suggestion < want * 4


@pytest.mark.parametrize('end', [math.nan, math.inf])
def test_a_loss_that_ends_in_no_number(end):
    f = search(lambda lr: new(lr) if lr < 2 else end, until=math.inf)
    assert not math.isfinite(f.losses[-1]) and 0.04 < f.suggestion < 0.25
    assert np.isfinite(f.smoothed).all() and f.plot()


@pytest.mark.parametrize('level', [0.0, 1.0, -3.0])
def test_a_loss_that_never_changes(level):
    f = search(lambda lr: level, noise=0, until=math.inf)
    assert f.suggestion == f.lrs[-1] / 10


def test_a_loss_below_zero():
    f = search(lambda lr: new(lr) - 5, until=math.inf)
    assert 0.04 < f.suggestion < 0.25


@pytest.mark.parametrize('n', [1, 2, FEWEST - 1])
def test_too_few_batches(n):
    f = search(new)
    f.lrs, f.losses = f.lrs[:n], f.losses[:n]
    with pytest.raises(ValueError, match=f'saw {n} batches, and needs {FEWEST}'):
        f.suggestion
    assert 'too few' in repr(f) and f.plot()
