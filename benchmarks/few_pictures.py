#!/usr/bin/env python3
"""Which batch size and which rate suit how many pictures?

The command `miniai-train` chooses both from the number of training pictures where the
user gives none. The rule comes from these runs: five epochs with each batch size and
each rate, on small parts of Fashion-MNIST, on scikit-learn's digits and on drawings in
twelve uneven classes, which are made here.

    python benchmarks/few_pictures.py                  all of it (half an hour, one thread)
    python benchmarks/few_pictures.py digits drawings  only these

The digits are found if scikit-learn is installed, wherever Python looks for packages;
nothing of it is imported. A row for each run goes into nbs/results/few_pictures.csv;
what is in the file already is not run again. The accuracies are those on pictures held
out of the training set (of Fashion-MNIST 1,000 of the 5,000 that the command watches):
the test set of Fashion-MNIST has no part in the choice.
"""

import argparse, gzip, math, random, time
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np, torch
from experiments import RESULTS, machine, read, write
from PIL import Image, ImageDraw, ImageFilter

from miniai.datasets import DataLoaders, TensorLoader, get_dls, pixel_stats
from miniai.learner import DeviceCB
from miniai.models import get_learner
from miniai.runs import evaluate
from miniai.sources import stratified
from miniai.xtras import set_seed

RESULTS = RESULTS / 'few_pictures.csv'
EPOCHS = 5

# the sets: pixels and labels to train on, and to watch --------------------------------


def fashion(n):
    "`n` pictures of Fashion-MNIST, and 1,000 of those that the command watches"
    dls = get_dls(valid=5_000)
    t, v = dls.train, dls.valid
    i, j = stratified(t.y, n), stratified(v.y, 1_000)
    return (t.x[i], t.y[i]), (v.x[j], v.y[j]), 10


def digits():
    "scikit-learn's digits, 8×8 pixels of 17 greys"
    where = find_spec('sklearn')
    if where is None:
        raise SystemExit('The digits come with scikit-learn; put it where Python looks')
    path = Path(where.submodule_search_locations[0]) / 'datasets/data/digits.csv.gz'
    with gzip.open(path, 'rt') as f:
        rows = torch.from_numpy(np.loadtxt(f, delimiter=','))
    x, y = (rows[:, :-1] * 15).byte().reshape(-1, 1, 8, 8), rows[:, -1].long()
    return *split(x, y, 360), 10


def split(x, y, n):
    "All but `n`, and `n` to watch, each class with its share"
    i = stratified(y, n)
    rest = torch.ones(len(y), dtype=torch.bool).index_fill_(0, i, False)
    return (x[rest], y[rest]), (x[i], y[i])


def star(points, inner):
    "The corners of a star, or of a polygon if `inner` is 1, around 0 with radius 1"
    at = [2 * math.pi * k / (2 * points) for k in range(2 * points)]
    far = [1 if k % 2 == 0 else inner for k in range(2 * points)]
    return [(r * math.sin(a), -r * math.cos(a)) for a, r in zip(at, far, strict=True)]


CROSS = [(-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3)]
CROSS = CROSS + [(-x, -y) for x, y in CROSS]
# twelve kinds of drawing, as corners; the number is their share
SHAPES = dict(
    disc=(star(24, 1), 32),
    square=([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)], 18),
    triangle=([(0, -1), (0.87, 0.5), (-0.87, 0.5)], 12),
    star=(star(5, 0.4), 9),
    cross=(CROSS, 7),
    bar=([(-1, -0.2), (1, -0.2), (1, 0.2), (-1, 0.2)], 6),
    ring=(star(24, 1), 4),
    half=([(x, y) for x, y in star(24, 1) if y <= 0.01], 3),
    burst=(star(9, 0.6), 3),
    corner=([(-0.8, -0.8), (0.8, -0.8), (0.8, -0.3), (-0.3, -0.3), (-0.3, 0.8),
             (-0.8, 0.8)], 2),
    kite=([(0, -1), (0.5, -0.2), (0, 1), (-0.5, -0.2)], 2),
    arrow=([(0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)], 2),
)  # fmt: skip


def drawing(rng, kind, side=32):
    "One drawing: some colour on some other, turned, not in the middle, with noise"
    big, ink, paper = 4 * side, *([rng.randrange(256) for _ in 'rgb'] for _ in '12')
    while sum(abs(a - b) for a, b in zip(ink, paper, strict=True)) < 200:
        ink = [rng.randrange(256) for _ in 'rgb']
    im = Image.new('RGB', (big, big), tuple(paper))
    size, turn = rng.uniform(0.25, 0.45) * big, rng.uniform(0, 2 * math.pi)
    cx, cy = (rng.uniform(0.4, 0.6) * big for _ in 'xy')

    def place(corners, size):
        c, s = math.cos(turn), math.sin(turn)
        return [
            (cx + size * (x * c - y * s), cy + size * (x * s + y * c))
            for x, y in corners
        ]

    draw = ImageDraw.Draw(im)
    draw.polygon(place(SHAPES[kind][0], size), tuple(ink))
    if kind == 'ring':
        draw.polygon(place(SHAPES[kind][0], 0.6 * size), tuple(paper))
    im = im.filter(ImageFilter.BoxBlur(2)).resize((side, side))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 12, (side, side, 3))
    return (np.asarray(im) + noise).clip(0, 255).astype(np.uint8)


def drawings(n=600, watched=600):
    "`n` coloured drawings in twelve uneven classes, and as many to watch"
    rng, kinds = random.Random(0), list(SHAPES)
    shares = [share for _, share in SHAPES.values()]
    y = list(range(12)) * 2 + rng.choices(range(12), shares, k=n + watched - 24)
    x = np.stack([drawing(rng, kinds[k]) for k in y])
    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    return *split(x, torch.tensor(y), watched), 12


RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
TODAY = (1024, 2e-2)  # what the command took for any number before
# name: how it is made, batch sizes and rates; TODAY comes to each
SETS = {
    'fashion-100': (lambda: fashion(100), (8, 16, 32), RATES),
    'fashion-300': (lambda: fashion(300), (8, 16, 32, 64), RATES),
    'drawings': (drawings, (8, 16, 32, 64), RATES),
    'digits': (digits, (16, 32, 64, 128), RATES),
    'fashion-1000': (lambda: fashion(1_000), (16, 32, 64, 128), RATES),
    'fashion-3000': (lambda: fashion(3_000), (32, 64, 128), RATES[1:3]),
    'fashion-10000': (lambda: fashion(10_000), (128, 256), (7.1e-3, 1e-2)),
}

# one run ------------------------------------------------------------------------------


def loaders(train, valid, bs, n_classes):
    mean, std = pixel_stats(train[0])
    t = TensorLoader(*train, bs, True, mean, std)
    n = len(t.x)
    t.drop_last = n > bs and n % bs == 1
    v = TensorLoader(*valid, 1_000, False, mean, std)
    return DataLoaders(t, v, classes=list(map(str, range(n_classes))))


def run(name, seed, path=RESULTS):
    "Train on the set `name` in every way that is not in the file yet"
    make, sizes, rates = SETS[name]
    done = {
        (o['set'], int(o['bs']), float(o['lr']), int(o['seed'])) for o in read(path)
    }
    todo = [*product(sizes, rates), TODAY]
    todo = [(bs, lr) for bs, lr in todo if (name, bs, lr, seed) not in done]
    if not todo:
        return
    train, valid, n_classes = make()
    about = dict(
        set=name,
        images=len(train[1]),
        classes=n_classes,
        watched=len(valid[1]),
        epochs=EPOCHS,
    )
    for bs, lr in todo:
        set_seed(seed)
        dls = loaders(train, valid, bs, n_classes)
        start = time.perf_counter()
        learn = get_learner(dls, DeviceCB('cpu'), EPOCHS, lr, [])
        last = learn.fit(EPOCHS, valid=False)[-1]
        seconds = time.perf_counter() - start
        result = evaluate(learn, dls)
        row = dict(
            **about,
            bs=bs,
            lr=lr,
            seed=seed,
            train_loss=round(last['train_loss'], 5),
            valid_loss=round(result['loss'], 5),
            valid_accuracy=round(result['accuracy'], 4),
            seconds=round(seconds, 1),
            torch=torch.__version__,
            machine=machine(),
            date=time.strftime('%Y-%m-%d'),
        )
        write(path, [row])
        print(name, seed, bs, lr, row['valid_accuracy'], row['seconds'], flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('sets', nargs='*', help=f'some of {", ".join(SETS)} (default: all)')
    p.add_argument('--seeds', type=int, default=2, help='how often (default: 2)')
    args = p.parse_args()
    if unknown := set(args.sets) - set(SETS):
        p.error(f'there is no set {", ".join(unknown)}')
    for seed, name in product(range(args.seeds), args.sets or SETS):
        run(name, seed)
