#!/usr/bin/env python3
"""The trainings that pages 07 and 09 show and that would take too long on a page.

Each goes into a CSV file in nbs/results:

    python benchmarks/experiments.py depth      page 07: deeper plain networks against
                                                deeper residual ones
    python benchmarks/experiments.py shapes     page 09: deeper, wider, or pooled
                                                earlier, at equal cost
    python benchmarks/experiments.py augment    page 09: what crops, flips, erased and
                                                copied patches and dropout bring
    python benchmarks/experiments.py final      page 09: the chosen recipe on all
                                                images, and only then the test set

One row for each epoch of each run (for final, one for each run), with the seed, the
version of torch and the machine. What is in the file already is not run again, so that
an interrupted program can be called once more. Forward passes are in bfloat16.
"""

import argparse, csv, platform, time
from copy import copy
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

from miniai.accel import ChannelsLast, MixedPrecision
from miniai.augment import RandCopy, RandCrop, RandErase, RandFlip, tfm_batch
from miniai.conv import conv, def_device
from miniai.datasets import DataLoaders, get_dls
from miniai.init import BatchTransformCB, init_weights
from miniai.learner import Accuracy, DeviceCB, MetricsCB, TrainLearner
from miniai.resnet import GlobalAvgPool, ResBlock, act_gr
from miniai.sgd import BatchSchedCB
from miniai.xtras import replacing, set_seed

RESULTS = Path(__file__).resolve().parent.parent / 'nbs' / 'results'
WIDTHS = (8, 16, 32, 64, 128, 256)

# networks -----------------------------------------------------------------------------


def tower(n, residual):
    """Two convolutions down to 7×7 pixels, then `n` blocks of two convolutions each.

    With `residual` there is a way around each block."""

    def plain():
        return nn.Sequential(
            conv(16, 16, stride=1, norm=nn.BatchNorm2d),
            conv(16, 16, stride=1, norm=nn.BatchNorm2d),
        )

    blocks = [
        ResBlock(16, 16, stride=1, norm=nn.BatchNorm2d) if residual else plain()
        for _ in range(n)
    ]
    return nn.Sequential(
        conv(1, 16, norm=nn.BatchNorm2d),
        conv(16, 16, norm=nn.BatchNorm2d),
        *blocks,
        GlobalAvgPool(),
        nn.Linear(16, 10),
    ).apply(init_weights)


def resnet(widths=WIDTHS, depth=1, stride=1, drop=0.0):
    """`depth` residual blocks for each of the `widths`; the first halves the size.

    That of the first width does so only if `stride` is 2."""
    layers, ni = [], 1
    for i, nf in enumerate(widths):
        layers += [
            ResBlock(
                nf if j else ni,
                nf,
                stride=1 if j else stride if i == 0 else 2,
                act=act_gr,
                norm=nn.BatchNorm2d,
            )
            for j in range(depth)
        ]
        ni = nf
    return nn.Sequential(
        *layers, GlobalAvgPool(), nn.Dropout(drop), nn.Linear(ni, 10)
    ).apply(partial(init_weights, leaky=0.1))


# the runs: name of the variant -> a network and what is done to a batch ---------------

DEPTH = {
    f'{kind} {2 * n + 2}': (partial(tower, n, kind == 'residual'), None)
    for n in (2, 8, 20)
    for kind in ('plain', 'residual')
}

SHAPES = {
    'as on page 07': (resnet, None),
    'deeper': (partial(resnet, (6, 12, 24, 48, 96, 192), 2), None),
    'wider, pooled from 2×2': (partial(resnet, (9, 18, 36, 72, 144)), None),
    'wider, pooled from 4×4': (partial(resnet, (10, 20, 42, 88)), None),
    'wider, halved at once': (partial(resnet, (20, 40, 80, 160), stride=2), None),
}


def crop_flip():
    return [RandCrop(2), RandFlip()]


AUGMENT = {
    'nothing': (resnet, None),
    'crop': (resnet, lambda: [RandCrop(2)]),
    'crop and flip': (resnet, crop_flip),
    'erase': (resnet, lambda: [RandErase()]),
    'copy': (resnet, lambda: [RandCopy()]),
    'crop, flip and erase': (resnet, lambda: crop_flip() + [RandErase()]),
    'crop, flip and copy': (resnet, lambda: crop_flip() + [RandCopy()]),
    'dropout': (partial(resnet, drop=0.3), None),
}

SMALL = dict(bs=256, limit=10_240, valid=5_000)
EXPERIMENTS = {
    'depth': dict(variants=DEPTH, data=SMALL, epochs=5, lr=1e-2, seeds=range(5)),
    'shapes': dict(variants=SHAPES, data=SMALL, epochs=10, lr=1e-2, seeds=range(3)),
    'augment': dict(variants=AUGMENT, data=SMALL, epochs=20, lr=1e-2, seeds=range(3)),
    'final': dict(
        variants={k: AUGMENT[k] for k in ('crop and flip',)},
        data=dict(bs=256, valid=5_000),
        epochs=10,
        lr=1e-2,
        seeds=range(3),
        test=True,
    ),
}

# doing and writing --------------------------------------------------------------------


def train(make, tfms, dls, epochs, lr, seed):
    "The learner after training, and its history"
    set_seed(seed)
    model = make().to(def_device)
    sched = BatchSchedCB(
        partial(lr_scheduler.OneCycleLR, max_lr=lr, total_steps=epochs * len(dls.train))
    )
    cbs = [
        DeviceCB(),
        MetricsCB(accuracy=Accuracy()),
        ChannelsLast(),
        MixedPrecision(torch.bfloat16),
        sched,
    ]
    if tfms:
        cbs.append(
            BatchTransformCB(
                partial(tfm_batch, tfm_x=nn.Sequential(*tfms())), on_valid=False
            )
        )
    learn = TrainLearner(model, dls, F.cross_entropy, lr, cbs, torch.optim.AdamW)
    return learn, learn.fit(epochs)


def machine():
    "The processor or the GPU, in words"
    if def_device != 'cpu':
        return torch.cuda.get_device_name() if def_device == 'cuda' else def_device
    info = Path('/proc/cpuinfo')
    names = (
        [
            o.split(':')[1].strip()
            for o in info.read_text().splitlines()
            if o.startswith('model name')
        ]
        if info.exists()
        else []
    )
    return (
        f'{names[0] if names else platform.processor() or platform.machine()}, '
        f'{torch.get_num_threads()} of {len(names) or "?"} cores'
    )


def accuracies(learn):
    "On the test set: plain, and with the mean for each picture and its mirror image"
    test = copy(learn)
    test.dls = DataLoaders(learn.dls.train, learn.dls.test)

    def accuracy(preds, targs):
        return round((preds.argmax(1) == targs).float().mean().item(), 4)

    return dict(
        test_accuracy=accuracy(*test.capture_preds()),
        test_accuracy_tta=accuracy(*test.tta()),
    )


def read(path):
    return list(csv.DictReader(path.open(encoding='utf-8'))) if path.exists() else []


def run(name, path, variants, data, epochs, lr, seeds, test=False):
    "Train every variant with every seed that is not in the file yet"
    done, about = (
        {(o['variant'], int(o['seed'])) for o in read(path)},
        dict(
            torch=torch.__version__, machine=machine(), date=time.strftime('%Y-%m-%d')
        ),
    )
    dls, todo = (
        get_dls(**data),
        [(v, s) for s in seeds for v in variants if (v, s) not in done],
    )
    for i, (variant, seed) in enumerate(todo):
        learn, history = train(*variants[variant], dls, epochs, lr, seed)
        new = [
            dict(
                variant=variant,
                seed=seed,
                epoch=o['epoch'],
                train_loss=round(o['train_loss'], 5),
                valid_loss=round(o['valid_loss'], 5),
                valid_accuracy=round(o['valid_accuracy'], 4),
                seconds=round(o['time'], 1),
                **about,
            )
            for o in history.rows
        ]
        if test:
            new = [{**new[-1], **accuracies(learn)}]
        write(path, new)
        print(
            f'{name} {i + 1}/{len(todo)}: {variant}, seed {seed}: {new[-1]}', flush=True
        )


def write(path, rows):
    "Add `rows` to the CSV file, and the columns that it does not have yet"
    path.parent.mkdir(exist_ok=True)
    rows = read(path) + rows
    with replacing(path) as tmp, tmp.open('w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(
            f,
            list(dict.fromkeys(k for o in rows for k in o)),
            restval='',
            lineterminator='\n',
        )
        w.writeheader()
        w.writerows(rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('name', choices=list(EXPERIMENTS), help='which of them')
    p.add_argument('--threads', type=int, help="PyTorch's threads")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    run(args.name, RESULTS / f'{args.name}.csv', **EXPERIMENTS[args.name])
