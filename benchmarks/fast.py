#!/usr/bin/env python3
"""What page 10 shows: how fast our loop is, against plain loops written by hand.

Against them, too: what each callback of it brings, and what the data path costs.

    python benchmarks/fast.py           everything, into nbs/results/fast.csv (about
                                        twenty minutes on two cores)
    python benchmarks/fast.py images    only one of: images, short, products, loop,
                                        overhead, data, memory, step

In each time round every variant runs once, each time another one first, so that all of
them meet the same weather. One row for each value.
"""

import argparse, contextlib, csv, io, platform, statistics, subprocess, sys, time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn, optim

from miniai.accel import (
    ChannelsLast,
    Compile,
    KeepMemory,
    MixedPrecision,
    fast,
    keep_memory,
    product_seconds,
)
from miniai.datasets import DataLoaders, TensorLoader, get_dls, load_dd
from miniai.learner import Accuracy, DeviceCB, MetricsCB, ProgressCB, TrainLearner
from miniai.recipes import RECIPES, narrow_net
from miniai.resnet import act_gr, get_resnet
from miniai.xtras import set_seed

RESULTS = Path(__file__).resolve().parent.parent / 'nbs' / 'results' / 'fast.csv'
STEPS = 8


def hand_written(dl, model, opt, cl=False, dtype=None, keep=False):
    """The plainest loop, as one would write it.

    Optionally with channels-last weights, autocast and `keep_memory`."""
    if keep:
        keep_memory()
    if cl:
        model.to(memory_format=torch.channels_last)
    model.train()
    for xb, yb in dl:
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()


def fit(dls, model, opt_func, *cbs, lr=1e-3):
    with contextlib.redirect_stdout(io.StringIO()):  # no terminal, and no lines either
        TrainLearner(
            model,
            dls,
            F.cross_entropy,
            lr,
            [DeviceCB('cpu'), MetricsCB(accuracy=Accuracy()), ProgressCB(), *cbs],
            opt_func,
        ).fit(1, valid=False)


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


# what is measured: each is a dict from variants to functions that give one value ------


def training(variant):
    """A function that trains for `n` steps, the way `variant` says.

    It trains the ResNet of page 07, or the network of `SHORT`, with AdamW and batches
    of 1,024."""
    full = get_dls(bs=1024).train

    def dls(n):
        return DataLoaders(
            TensorLoader(
                full.x[: 1024 * n],
                full.y[: 1024 * n],
                1024,
                mean=full.mean,
                std=full.std,
            ),
            None,
        )

    set_seed(0)
    model = NETS[SHORT[variant][0] if variant in SHORT else 'page 07']()
    if 'by hand' in variant:
        opt = optim.AdamW(model.parameters(), 1e-3)
        return lambda n: hand_written(dls(n).train, model, opt, **VARIANTS[variant])
    opt, cbs = SHORT[variant][1:] if variant in SHORT else VARIANTS[variant]
    return lambda n: fit(dls(n), model, opt, *cbs())


def speed(variant):
    "Images a second in this process; two steps are not counted"
    run = training(variant)
    run(2)
    return STEPS * 1024 / seconds(lambda: run(STEPS))


def peak(variant):
    """The most memory, in MB, that this process had while it trained for four steps.

    (`ru_maxrss` will not do: a process begins with that of its parent.)"""
    training(variant)(4)
    return (
        int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024
    )


NETS = {
    'page 07': lambda: get_resnet(act_gr, norm=nn.BatchNorm2d, device='cpu'),
    'the widest of page 12': lambda: narrow_net(RECIPES['50-epochs-wide'].nfs),
}
BF16, ADAMW, FUSED = torch.bfloat16, optim.AdamW, partial(optim.AdamW, fused=True)
VARIANTS = {
    'by hand': {},
    'fit': (ADAMW, lambda: []),
    'by hand, memory kept': dict(keep=True),
    'fit, memory kept': (ADAMW, lambda: [KeepMemory()]),
    'fit, fused': (FUSED, lambda: []),
    'fit, channels-last': (ADAMW, lambda: [ChannelsLast()]),
    'fit, bfloat16': (ADAMW, lambda: [MixedPrecision(BF16)]),
    'by hand, bfloat16 and channels-last': dict(cl=True, dtype=BF16),
    'fit, bfloat16 and channels-last': (
        ADAMW,
        lambda: [ChannelsLast(), MixedPrecision(BF16)],
    ),
    'fit, all of fast()': (FUSED, lambda: fast('cpu')[0]),
    'fit, all of fast(), compiled': (FUSED, lambda: [*fast('cpu')[0], Compile()]),
}


def long():
    return [o for o in fast('cpu')[0] if not isinstance(o, MixedPrecision)]


SHORT = {
    f'{net}, {nm}': (net, FUSED, lambda more=more: long() + more)
    for net in NETS
    for nm, more in (('float32', []), ('bfloat16', [MixedPrecision(BF16)]))
}


def alone(*args):
    "The number that this program prints when it is called with `args`"
    return float(
        subprocess.run(
            [sys.executable, __file__, *args],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
    )


def images():
    "Images a second, each variant in a process of its own, because memory is kept"
    return {k: partial(alone, '--speed', k) for k in VARIANTS}


def short():
    "The same with everything else that is fast, with and without short numbers"
    return {k: partial(alone, '--speed', k) for k in SHORT}


def loop():
    "The same for the loop alone: with the memory kept, so that both have the same"
    return {
        k: partial(alone, '--speed', f'{k}, memory kept') for k in ('by hand', 'fit')
    }


def overhead():
    "Microseconds a step: 784 numbers to 50 to 10, batches of 64, one thread"
    n = 400
    dls = DataLoaders(
        TensorLoader(
            torch.randn(64 * n, 784), torch.randint(0, 10, (64 * n,)), 64, shuffle=True
        ),
        None,
    )

    def mlp():
        set_seed(0)
        return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))

    def one_thread(f):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return 1e6 * seconds(f) / n
        finally:
            torch.set_num_threads(threads)

    def hand():
        m = mlp()
        hand_written(dls.train, m, optim.SGD(m.parameters(), 0.1))

    return {
        'by hand': lambda: one_thread(hand),
        'fit': lambda: one_thread(lambda: fit(dls, mlp(), optim.SGD, lr=0.1)),
    }


def data():
    "Images a second that come out of a loader"
    from torch.utils.data import DataLoader
    from torchvision.transforms.functional import to_tensor

    dl, dd = get_dls(bs=1024).train, load_dd()
    scale, shift = dl._scale, dl._shift

    def bare():
        for idx in torch.randperm(len(dl.x)).split(1024):
            dl.x[idx].float().mul_(scale).sub_(shift), dl.y[idx]

    def transform(b):
        return {
            'image': [(to_tensor(o) - 0.2860) / 0.3530 for o in b['image']],
            'label': b['label'],
        }

    stock = DataLoader(dd['train'].with_transform(transform), 1024, shuffle=True)

    def ten():
        for _ in zip(range(10), stock):
            pass

    return {
        'bare indexing': lambda: len(dl.x) / seconds(bare),
        'TensorLoader': lambda: len(dl.x) / seconds(lambda: [None for _ in dl]),
        'with_transform and DataLoader': lambda: 10 * 1024 / seconds(ten),
    }


def memory():
    "Peak memory in MB of a process that trains the ResNet"
    return {k: partial(alone, '--peak', k) for k in ('by hand', 'fit')}


def step():
    """Microseconds a step of AdamW alone, for the tensors of the ResNet.

    The learning rate changes from step to step."""
    n = 50

    def make(lr=1e-3, compiled=False, **kw):
        model = get_resnet(act_gr, norm=nn.BatchNorm2d, device='cpu')
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        opt = optim.AdamW(model.parameters(), lr, **kw)
        f = torch.compile(opt.step) if compiled else opt.step

        def run():
            for i in range(n):
                opt.param_groups[0]['lr'] = (
                    torch.tensor(1e-3 * (1 - i / n)) if compiled else 1e-3 * (1 - i / n)
                )
                f()

        return lambda: 1e6 * seconds(run) / n

    return {
        'AdamW': make(),
        'foreach': make(foreach=True),
        'fused': make(fused=True),
        'compiled': make(torch.tensor(1e-3), True),
    }


def products(n=512):
    "Thousand million operations a second in the trial by which `cpu_prefers` decides"
    return {
        str(o).split('.')[1]: lambda o=o: 2 * n**3 / 1e9 / product_seconds(o, n=n)[0]
        for o in (torch.float32, BF16)
    }


WHAT = {
    'images': ('images a second', images, 5),
    'short': ('images a second, short or not', short, 5),
    'products': ('thousand million operations a second, one core', products, 5),
    'loop': ('images a second, memory kept', loop, 7),
    'overhead': ('microseconds a step', overhead, 15),
    'data': ('images a second from the loader', data, 7),
    'memory': ('peak memory in MB', memory, 5),
    'step': ('microseconds a step of AdamW', step, 15),
}


def turned(xs, i):
    return xs[i % len(xs) :] + xs[: i % len(xs)]


def main(names, path, machine, rounds=None):
    old = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [o for o in old if o['what'] not in [WHAT[n][0] for n in names]]
    for name in names:
        what, make, reps = WHAT[name]
        variants = make()
        if name in ('overhead', 'data', 'step'):  # the first time is not counted
            for f in variants.values():
                f()
        new = []
        for i in range(rounds or reps):
            for k, f in turned(
                list(variants.items()), i
            ):  # somebody else begins each time
                new.append(
                    dict(
                        what=what,
                        variant=k,
                        round=i + 1,
                        value=round(f(), 1),
                        torch=torch.__version__,
                        machine=machine,
                        date=time.strftime('%Y-%m-%d'),
                    )
                )
                print(
                    f"{what} {i + 1}/{rounds or reps} {k}: {new[-1]['value']:,}",
                    file=sys.stderr,
                    flush=True,
                )
        for k in variants:
            print(
                f"{what:32} {k:36} "
                f"{statistics.median(o['value'] for o in new if o['variant'] == k):12,.1f}"
            )
        rows += new
        with path.open('w', newline='') as f:
            w = csv.DictWriter(f, list(rows[0]))
            w.writeheader()
            w.writerows(rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('what', nargs='*', help=', '.join(WHAT))
    p.add_argument('--out', type=Path, default=RESULTS, help='default: %(default)s')
    p.add_argument(
        '--machine',
        default=(
            f'{platform.processor() or platform.machine()}, '
            f'{torch.get_num_threads()} threads'
        ),
        help='what it runs on, in words',
    )
    p.add_argument(
        '--rounds',
        type=int,
        help='how many times round '
        '(default: 5 to 15, which depends on what is measured)',
    )
    for o in ('--peak', '--speed'):
        p.add_argument(o, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.peak:
        print(peak(args.peak))
    elif args.speed:
        print(speed(args.speed))
    else:
        unknown = [o for o in args.what if o not in WHAT]
        if unknown:
            sys.exit(f'There is no {unknown[0]}; there are {", ".join(WHAT)}')
        main(args.what or list(WHAT), args.out, args.machine, args.rounds)
