#!/usr/bin/env python3
"""How time and memory of a training grow with its size.

Its size is the number of images, the batch, the width of the network and the size of
the images.

    make bench WHAT=growth                     (about ten minutes on two cores)
    python benchmarks/growth.py images width   only these

Trains as `miniai-train` does (`fast()`, AdamW), each point in a process of its own, one
epoch after two batches that are not counted. A row for each measurement goes into
nbs/results/growth.csv: seconds of the epoch, and the most memory in MB that the process
had before it and during it.
"""

import argparse, csv, os, platform, subprocess, sys, time
from functools import partial
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / 'nbs' / 'results' / 'growth.csv'
# what is varied: its name in the rows, its values; the rest is as in BASE
BASE = dict(images=8_192, bs=1_024, width=1, size=28)
POINTS = dict(
    images=[1_000, 3_000, 10_000, 30_000, 60_000, 600_000],
    bs=[32, 128, 512, 1_024, 2_048, 4_096],
    width=[0.5, 1, 2, 4],
    size=[14, 28, 56, 112],
)


def peak():
    return (
        int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024
    )


def measure(images, bs, width, size):
    "Seconds of an epoch, and the peak of memory in MB before and after"
    import torch
    import torch.nn.functional as F
    from torch import nn, optim
    from miniai.accel import fast
    from miniai.datasets import DataLoaders, TensorLoader, get_dls
    from miniai.learner import Accuracy, MetricsCB, TrainLearner
    from miniai.resnet import act_gr, get_resnet
    from miniai.xtras import set_seed

    set_seed(0)
    dl = get_dls().train
    times = -(-images // len(dl.x))
    x, y = dl.x.repeat(times, 1, 1, 1)[:images], dl.y.repeat(times)[:images]
    if size != 28:
        x = F.interpolate(x.float(), size=size, mode='bilinear').to(torch.uint8)
    before, model = (
        peak(),
        get_resnet(
            act_gr,
            [int(o * width) for o in (8, 16, 32, 64, 128, 256)],
            norm=nn.BatchNorm2d,
            device='cpu',
        ),
    )
    cbs, opt_kwargs, _ = fast('cpu')

    def fit(n):
        dls = DataLoaders(
            TensorLoader(x[:n], y[:n], bs, shuffle=True, mean=0.2860, std=0.3530), None
        )
        TrainLearner(
            model,
            dls,
            F.cross_entropy,
            1e-3,
            [MetricsCB(accuracy=Accuracy()), *cbs],
            partial(optim.AdamW, **opt_kwargs),
        ).fit(1, valid=False)

    fit(2 * bs)
    start = time.perf_counter()
    fit(images)
    return time.perf_counter() - start, before, peak(), torch.__version__


def rows(names, rounds, machine):
    for r in range(rounds):
        for nm in names:
            for v in POINTS[nm]:
                if r and v == 600_000:
                    continue  # minutes; once is enough
                at = {**BASE, nm: v}
                res = subprocess.run(
                    [sys.executable, __file__, '--one', *map(str, at.values())],
                    capture_output=True,
                    text=True,
                    env={
                        **os.environ,
                        'PYTHONPATH': str(Path(__file__).resolve().parent.parent),
                    },
                )
                if res.returncode:
                    sys.exit(f'{nm} {v} failed:\n{res.stderr[-3000:]}')
                seconds, before, most, torch = res.stdout.split()
                print(
                    f'{r + 1}/{rounds} {nm} {v}: {float(seconds):.2f} s, '
                    f'{float(before):.0f} to {float(most):.0f} MB',
                    file=sys.stderr,
                    flush=True,
                )
                yield dict(
                    varied=nm,
                    **at,
                    round=r + 1,
                    seconds=seconds,
                    memory_before=before,
                    memory=most,
                    torch=torch,
                    machine=machine,
                    date=time.strftime('%Y-%m-%d'),
                )


def main(args):
    old = list(csv.DictReader(args.out.open())) if args.out.exists() else []
    names = args.what or list(POINTS)
    new = [o for o in old if o['varied'] not in names] + list(
        rows(names, args.rounds, args.machine)
    )
    with args.out.open('w', newline='') as f:
        w = csv.DictWriter(f, list(new[0]))
        w.writeheader()
        w.writerows(new)
    print(f'Wrote {args.out}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        'what',
        nargs='*',
        choices=[[], *POINTS],
        help=f'what is varied: {", ".join(POINTS)} (default: all of them)',
    )
    p.add_argument(
        '--rounds',
        type=int,
        default=2,
        help='how often each point is measured (default: %(default)s)',
    )
    p.add_argument('--out', type=Path, default=RESULTS, help='default: %(default)s')
    p.add_argument(
        '--machine',
        default=f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores',
        help='what it runs on, in words',
    )
    p.add_argument('--one', nargs=4, type=float, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        images, bs, width, size = args.one
        print(*measure(int(images), int(bs), width, int(size)))
    else:
        main(args)
