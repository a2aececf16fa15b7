#!/usr/bin/env python3
"""miniai beside a loop written by hand, fastai, Lightning, skorch and Keras.

All do the same work on the same tensors, in one run:

    make bench WHAT=compare     installs everything and runs this (about a quarter of an
                                hour on two cores)
    python benchmarks/compare.py --rounds 3
                                fewer times round; --out FILE for a file of your own

Each contestant is a small file in contestants/. In each time round every one of them
measures, in a process of its own:

    overhead   microseconds a step, for a network so small that hardly anything but the
               loop is left (784 numbers to 50 to 10, batches of 64, one thread)
    images     images a second in training, the ResNet of page 07 in batches of 1,024,
               all threads
    data       images a second from the library's usual loader: 60,000 uint8 images in
               memory, shuffled, normalised, in batches of 1,024
    summary    milliseconds for the library's summary of the ResNet, for a batch of 64

Setting up is not counted: what is reported of a training is the time of three epochs
less that of one. Everybody records the mean loss and the accuracy of an epoch, and all
have to arrive at the same accuracy. The limit is what the machine makes of a product of
two large matrices.
"""

import argparse, importlib, json, os, platform, statistics, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONTESTANTS = [
    'by_hand',
    'with_miniai',
    'with_miniai_fast',
    'with_fastai',
    'with_lightning',
    'with_skorch',
    'with_keras',
    'with_torchinfo',
]
UNITS = dict(
    overhead='µs a step',
    images='images/s',
    data='images/s',
    summary='ms',
    peak='GFLOP/s',
)
MACS = 8_406_784  # of the ResNet, per image; page 08 counts them


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


# what one process measures ------------------------------------------------------------


def ready(n, bs, *shape):
    "`n` batches that are already made"
    import torch

    g = torch.Generator().manual_seed(0)
    return [
        (torch.randn(bs, *shape, generator=g), torch.randint(0, 10, (bs,), generator=g))
        for _ in range(n)
    ]


def training(who, make, batches, lr):
    "Seconds of an epoch, and what was recorded in the last one"
    who.fit(make(), batches[:2], lr, 1)
    one = seconds(lambda: who.fit(make(), batches, lr, 1))
    res = []
    three = seconds(lambda: res.append(who.fit(make(), batches, lr, 3)))
    return (three - one) / 2, [float(o) for o in res[0]]


def mlp():
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))


def resnet():
    import torch
    from torch import nn
    from miniai.resnet import act_gr, get_resnet

    torch.manual_seed(0)
    return get_resnet(act_gr, norm=nn.BatchNorm2d, device='cpu')


def measure(nm):
    "All that the contestant `nm` can do, as a dict"
    sys.path.insert(0, str(HERE / 'contestants'))
    import torch
    from miniai.datasets import get_dls

    who, threads, res = importlib.import_module(nm), torch.get_num_threads(), {}
    res['name'], res['version'] = who.NAME, version(who.PACKAGE)
    if hasattr(who, 'fit'):
        torch.set_num_threads(1)
        batches = ready(400, 64, 784)
        t, res['overhead_recorded'] = training(who, mlp, batches, 0.05)
        res['overhead'] = 1e6 * t / len(batches)
        torch.set_num_threads(threads)
        batches = ready(3, 1024, 1, 28, 28)
        t, res['images_recorded'] = training(who, resnet, batches, 0.05)
        res['images'] = 1024 * len(batches) / t
    if hasattr(who, 'loader'):
        dl = get_dls(bs=1024).train

        def once():
            for _ in who.loader(dl.x, dl.y, 1024, 0.2860, 0.3530):
                pass

        once()
        res['data'] = len(dl.x) / seconds(once)
    if hasattr(who, 'summary'):
        model, xb = resnet(), torch.randn(64, 1, 28, 28)
        who.summary(model, xb)
        res['summary'] = 1e3 * statistics.median(
            seconds(lambda: who.summary(model, xb)) for _ in range(5)
        )
    return res


def peak():
    "GFLOP/s of a product of two matrices, 2,048 by 2,048, in `float32` and `bfloat16`"
    import torch

    def rate(dtype):
        a, b = torch.randn(2, 2048, 2048).to(dtype)
        f = lambda: [a @ b for _ in range(10)]
        f()
        return 10 * 2 * 2048**3 / min(seconds(f) for _ in range(3)) / 1e9

    return dict(
        name='matrix product',
        version=torch.__version__,
        float32=rate(torch.float32),
        bfloat16=rate(torch.bfloat16),
    )


# the run ------------------------------------------------------------------------------


def alone(nm):
    "What a process of its own says about `nm`"
    res = subprocess.run(
        [sys.executable, __file__, '--one', nm],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(HERE.parent)},
    )
    if res.returncode:
        raise SystemExit(f'{nm} failed:\n{res.stderr[-3000:]}')
    return json.loads(res.stdout.splitlines()[-1])


def check(found):
    "All did the same work if all arrived at one accuracy, but for bfloat16's rounding"
    for what in ('overhead_recorded', 'images_recorded'):
        hand = found['by_hand'][what][1]
        for nm, o in found.items():
            if what in o and abs(o[what][1] - hand) > (0.03 if 'fast' in nm else 1e-3):
                raise SystemExit(
                    f'{nm} arrived at the accuracy {o[what][1]:.5f} and the loop '
                    f'by hand at {hand:.5f}: that is not the same work'
                )


def table(rows, names):
    "Medians, and what they are relative to the loop by hand in the same time round"

    def values(nm, what):
        return {
            o['round']: o[what] for o in rows if o['contestant'] == nm and what in o
        }

    lines = [
        f'{"":16}'
        + ''.join(f'{k} ({u})'.rjust(28) for k, u in UNITS.items() if k != 'peak')
    ]
    for nm in names:
        cells = []
        for what in ('overhead', 'images', 'data', 'summary'):
            v, hand = (
                values(nm, what),
                values('by_hand' if what != 'summary' else 'with_miniai', what),
            )
            cells.append(
                (
                    f"{statistics.median(v.values()):,.0f}  × "
                    f"{statistics.median(v[r] / hand[r] for r in v):.2f}"
                ).rjust(28)
                if v
                else '–'.rjust(28)
            )
        lines.append(
            f"{next(o['name'] for o in rows if o['contestant'] == nm):16}"
            + ''.join(cells)
        )
    p = {
        k: statistics.median(o[k] for o in rows if k in o)
        for k in ('float32', 'bfloat16')
    }
    lines.append(
        f"\nlimit: {p['float32']:.0f} GFLOP/s in float32, "
        f"{p['bfloat16']:.0f} in bfloat16 (product of two matrices)"
    )
    for nm, k in (('with_miniai', 'float32'), ('with_miniai_fast', 'bfloat16')):
        if nm in names:
            lines.append(
                f"{nm}: "
                f"{statistics.median(values(nm, 'images').values()) * 6 * MACS / 1e9 / p[k]:.0%}"
                f" of it (6 × {MACS:,} operations an image)"
            )
    return '\n'.join(lines)


def main(args):
    names, rows = args.only or CONTESTANTS, []
    if 'by_hand' not in names:
        sys.exit('by_hand is what the others are compared with; do not leave it out')
    for r in range(args.rounds):
        order = (
            names[r % len(names) :] + names[: r % len(names)]
        )  # somebody else begins each time
        rows.append(dict(contestant='peak', round=r + 1, **alone('peak')))
        found = {}
        for nm in order:
            found[nm] = alone(nm)
            said = ', '.join(
                f'{k} {found[nm][k]:,.0f}' for k in UNITS if k in found[nm]
            )
            print(f'{r + 1}/{args.rounds} {nm}: {said}', file=sys.stderr, flush=True)
        check(found)
        rows += [dict(contestant=nm, round=r + 1, **found[nm]) for nm in names]
    print(table(rows, names))
    res = dict(
        command='python benchmarks/compare.py',
        machine=args.machine,
        date=time.strftime('%Y-%m-%d'),
        python=platform.python_version(),
        cores=os.cpu_count(),
        versions={o['name']: o['version'] for o in rows if o['round'] == 1},
        fastcore=version('fastcore'),
        units=UNITS,
        macs=MACS,
        rows=rows,
    )
    args.out.write_text(json.dumps(res, indent=1, ensure_ascii=False) + '\n')
    print(f'\nWrote {args.out}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        '--rounds',
        type=int,
        default=5,
        help='how often each contestant has its turn (default: %(default)s)',
    )
    p.add_argument(
        '--only', nargs='*', choices=CONTESTANTS, help='these contestants only'
    )
    p.add_argument(
        '--out', type=Path, default=HERE / 'results.json', help='default: %(default)s'
    )
    p.add_argument(
        '--machine',
        default=f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores',
        help='what it runs on, in words',
    )
    p.add_argument('--one', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        print(json.dumps(peak() if args.one == 'peak' else measure(args.one)))
    else:
        main(args)
