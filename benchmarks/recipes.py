#!/usr/bin/env python3
"""What page 12 shows beside the runs of miniai-train.

What each part of its recipe buys, and how long the course's recipe takes:

    python benchmarks/recipes.py parts    one thing changed at a time, 5 epochs, into
                                          nbs/results/recipes.csv (an hour on one core)
    python benchmarks/recipes.py parts "no flips"
                                          some of them; --seeds 0 1 2
    python benchmarks/recipes.py race     epochs of the course's recipe, and in between
                                          five runs of --recipe 94, into
                                          nbs/results/race.csv
    python benchmarks/recipes.py race --seeds 0 1 --out nbs/results/race_float32.csv
                                          on another machine, into another file
    python benchmarks/recipes.py course   the course's recipe to its end, with what is
                                          fast here, and then the test set, into
                                          nbs/results/course.csv

Parts are compared on 10,000 pictures held out from the 60,000; the test set is read at
the end of a race and of the course's recipe. A row for each run (in the race: for each
epoch of the course's recipe, and for each run). What is in the file is not run again;
delete the file to have it made afresh.
"""

import argparse, json, shutil, subprocess, sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import OneCycleLR

from miniai.accel import fast
from miniai.augment import RandCrop, RandFlip, TTACB, tfm_batch
from miniai.conv import def_device
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.init import BatchTransformCB, init_weights
from miniai.learner import Accuracy, DeviceCB, MetricsCB, TerminateOnNaN, TrainLearner
from miniai.recipes import RECIPES, recipe_learner
from miniai.resnet import ResBlock, act_gr, get_resnet
from miniai.sgd import BatchSchedCB
from miniai.summary import summarize
from miniai.xtras import set_seed
from experiments import RESULTS as FOLDER, machine, read, write

# what each part buys ------------------------------------------------------------------

BASE = replace(RECIPES['94'], epochs=5)


def learnt_stem(learn):
    "The first layer as it would be without whitening"
    stem = learn.model[0]
    stem.reset_parameters()
    stem.weight.requires_grad_(True)


def random_flips(learn, p=0.5):
    dl = learn.dls.train
    learn.dls.train = TensorLoader(
        dl.x, dl.y, dl.bs, dl.shuffle, dl.mean, dl.std, dl.drop_last
    )
    learn.cbs.append(
        BatchTransformCB(partial(tfm_batch, tfm_x=RandFlip(p)), on_valid=False)
    )


class Average(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def average_head(learn):
    learn.model[-2] = Average()


def slow_norms(learn):
    for m in learn.model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.1


def adamw(learn, lr=1e-2):
    fused = fast(def_device)[1]
    learn.lr, learn.opt_func = lr, partial(optim.AdamW, **fused)
    i = next(i for i, o in enumerate(learn.cbs) if isinstance(o, BatchSchedCB))
    learn.cbs[i] = BatchSchedCB(
        partial(OneCycleLR, max_lr=lr, total_steps=BASE.epochs * len(learn.dls.train))
    )


def page07(learn):
    """The ResNet of page 07, with the optimiser and rate that it has there.

    Nearly as many multiplications, most of them on small images with many channels."""
    learn.model = get_resnet(act_gr, norm=nn.BatchNorm2d, device='cpu').apply(
        partial(init_weights, leaky=0.1)
    )
    adamw(learn, lr=2e-2)


def nothing(learn):
    pass


# name: the recipe, and what is done to its learner
PARTS = {
    'the recipe': (BASE, nothing),
    'ResNet of page 07, AdamW': (BASE, page07),
    'first layer learnt': (BASE, learnt_stem),
    'average head': (BASE, average_head),
    'BatchNorm momentum 0.1': (BASE, slow_norms),
    'AdamW': (BASE, adamw),
    'no label smoothing': (replace(BASE, smooth=0.0), nothing),
    'random flips': (BASE, random_flips),
    'no flips': (BASE, partial(random_flips, p=0.0)),
    'crops too': (replace(BASE, pad=1), nothing),
}


def judge(learn):
    "On the validation images: loss, and accuracy plain and with the mirror images"
    looker = TrainLearner(
        learn.model,
        DataLoaders(None, learn.dls.valid),
        nn.CrossEntropyLoss(),
        cbs=[DeviceCB(), MetricsCB(accuracy=Accuracy())],
    )
    plain, mirror = (looker.fit(1, train=False, cbs=cbs)[0] for cbs in (None, TTACB()))
    return dict(
        valid_loss=round(plain['valid_loss'], 5),
        plain_accuracy=round(plain['valid_accuracy'], 4),
        valid_accuracy=round(mirror['valid_accuracy'], 4),
    )


def train_part(variant, seed, dls, epochs=BASE.epochs):
    recipe, change = replace(PARTS[variant][0], epochs=epochs), PARTS[variant][1]
    set_seed(seed)
    learn = recipe_learner(recipe, dls)
    change(learn)
    cost = summarize(learn.model, dls.valid.batch(slice(0, 1))[0].to(def_device))
    learn.model.to(def_device)
    start = time.process_time()
    history = learn.fit(recipe.epochs, valid=False)
    seconds = sum(o['time'] for o in history.rows)
    return dict(
        epochs=recipe.epochs,
        macs=cost.total_macs,
        params=cost.total_params,
        seconds=round(seconds, 1),
        cpu_seconds=round(time.process_time() - start, 1),
        **judge(learn),
    )


def parts(path, names, seeds):
    done, dls = (
        {(o['variant'], int(o['seed'])) for o in read(path)},
        get_dls(bs=1000, valid=10_000),
    )
    for seed in seeds:
        for variant in names or PARTS:
            if (variant, seed) not in done:
                note(
                    path,
                    dict(
                        variant=variant,
                        seed=seed,
                        **train_part(variant, seed, dls),
                        **about(),
                    ),
                )


# the course's recipe ------------------------------------------------------------------


def course_model():
    "The wide ResNet of the course's notebook on augmentation"
    nfs = 16, 32, 64, 128, 256, 512
    blocks = [ResBlock(1, 16, ks=5, stride=1, act=act_gr, norm=nn.BatchNorm2d)] + [
        ResBlock(a, b, act=act_gr, norm=nn.BatchNorm2d) for a, b in zip(nfs, nfs[1:])
    ]
    return nn.Sequential(
        *blocks, nn.Flatten(), nn.Linear(512, 10, bias=False), nn.BatchNorm1d(10)
    ).apply(partial(init_weights, leaky=0.1))


def course_learner(epochs=20, quick=False):
    """Its recipe, in float32, or with what is fast here.

    AdamW, 1cycle up to 0.01, batches of 1,024, crops by a pixel and flips."""
    dls = get_dls(bs=1024)
    sched = BatchSchedCB(
        partial(OneCycleLR, max_lr=1e-2, total_steps=epochs * len(dls.train))
    )
    tfm = BatchTransformCB(
        partial(tfm_batch, tfm_x=nn.Sequential(RandCrop(1), RandFlip())), on_valid=False
    )
    cbs, kwargs, _ = fast(def_device) if quick else ([], {}, '')
    return TrainLearner(
        course_model(),
        dls,
        nn.CrossEntropyLoss(),
        1e-2,
        [
            DeviceCB(),
            MetricsCB(accuracy=Accuracy()),
            TerminateOnNaN(),
            tfm,
            sched,
            *cbs,
        ],
        partial(optim.AdamW, **kwargs),
    )


def course_epoch():
    "One epoch, in float32, in a process of its own; its seconds"
    code = (
        'from recipes import *; set_seed(0); '
        'print(course_learner().fit(1, valid=False)[0]["time"])'
    )
    return float(
        subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.split()[-1]
    )


def race(path, seeds, epochs=2):
    """The runs of `--recipe 94`, and an epoch of the course's recipe before and after.

    The whole command is timed too."""
    done, folder = {(o['what'], o['seed']) for o in read(path)}, Path('runs') / 'race'
    order = [
        ('course epoch', 'first'),
        *(('recipe 94', str(o)) for o in seeds),
        *(('course epoch', f'last {i}') for i in range(epochs - 1)),
    ]
    for what, seed in order:
        if (what, seed) in done:
            continue
        start = time.perf_counter()
        if what == 'course epoch':
            res = dict(seconds=round(course_epoch(), 1), numbers='float32')
        else:
            shutil.rmtree(out := folder / seed, ignore_errors=True)
            subprocess.run(
                [
                    sys.executable,
                    '-m',
                    'miniai.train',
                    '--recipe',
                    '94',
                    '--seed',
                    seed,
                    '--out',
                    str(out),
                    '--quiet',
                ],
                check=True,
            )
            config = json.loads((out / 'config.json').read_text())
            res = dict(
                seconds=round(sum(o['time'] for o in config['history']), 1),
                test_accuracy=round(config['result']['accuracy'], 4),
                plain_accuracy=round(config['result']['plain_accuracy'], 4),
                numbers=config['numbers'],
            )
        note(
            path,
            dict(
                what=what,
                seed=seed,
                seconds=res.pop('seconds'),
                command_seconds=round(time.perf_counter() - start, 1),
                test_accuracy=res.get('test_accuracy', ''),
                plain_accuracy=res.get('plain_accuracy', ''),
                numbers=res['numbers'],
                **about(),
            ),
        )


def course(path, seeds):
    done = {int(o['seed']) for o in read(path)}
    for seed in seeds:
        if seed in done:
            continue
        set_seed(seed)
        learn = course_learner(quick=True)
        history = learn.fit(20, valid=False)
        res = judge(learn)
        note(
            path,
            dict(
                seed=seed,
                epochs=20,
                seconds=round(sum(o['time'] for o in history.rows), 1),
                test_accuracy=res['plain_accuracy'],
                test_accuracy_mirror=res['valid_accuracy'],
                test_loss=res['valid_loss'],
                **about(),
            ),
        )


# files --------------------------------------------------------------------------------


def about():
    return dict(
        torch=torch.__version__, machine=machine(), date=time.strftime('%Y-%m-%d')
    )


def note(path, row):
    "Append `row` to the CSV file, and print it"
    write(path, [row])
    print(row, flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('what', choices=['parts', 'race', 'course'])
    p.add_argument('names', nargs='*', help='of parts: which variants')
    p.add_argument(
        '--out',
        type=Path,
        help='default: recipes.csv, race.csv or course.csv in nbs/results',
    )
    p.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='default: 0 1 for parts, 0 to 4 for the race, 0 for the course',
    )
    args = p.parse_args()
    if wrong := [o for o in args.names if o not in PARTS]:
        raise SystemExit(
            f'There is no variant {wrong[0]!r}; there are: ' + ', '.join(PARTS)
        )
    if args.what == 'parts':
        parts(args.out or FOLDER / 'recipes.csv', args.names, args.seeds or [0, 1])
    elif args.what == 'race':
        race(args.out or FOLDER / 'race.csv', args.seeds or range(5))
    else:
        course(args.out or FOLDER / 'course.csv', args.seeds or [0])
