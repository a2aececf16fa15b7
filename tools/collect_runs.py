#!/usr/bin/env python3
"""Put the results of several finished runs of miniai-train into one JSON file.

The file is for pages to show.

    python tools/collect_runs.py miniai/data/results/fashion_mnist_5_epochs.json
        RUN_FOLDER … --machine "2 cores of …"
    python tools/collect_runs.py --add …
        more seeds into a file that is there; where they ran elsewhere, each of them
        says so
"""

import argparse, json
from pathlib import Path


def collect(folders, machine):
    """Options, measures, versions and the machine of the runs in `folders`.

    Options, versions and the kind of numbers have to be the same but for the seed."""
    configs = [
        json.loads((o / 'config.json').read_text(encoding='utf-8')) for o in folders
    ]
    shared = {
        'training': [
            {k: v for k, v in c['training'].items() if k != 'seed'} for c in configs
        ],
        'versions': [c['versions'] for c in configs],
        'numbers': [c.get('numbers') for c in configs],
    }
    for k, v in shared.items():
        if any(o != v[0] for o in v):
            raise SystemExit(f'The runs differ in their {k}: {v}')
    runs = [
        dict(
            seed=c['training']['seed'],
            seconds=round(sum(o['time'] for o in c['history']), 1),
            fastest_epoch=round(min(o['time'] for o in c['history']), 1),
            valid_accuracy=c['history'][-1].get('valid_accuracy'),
            test_accuracy=c['result']['accuracy'],
            plain_accuracy=c['result'].get('plain_accuracy'),
            test_images=c['result']['images'],
        )
        for c in configs
    ]
    runs = [{k: v for k, v in o.items() if v is not None} for o in runs]

    def option(k, v):
        return (
            f'--{k} {v}' if not isinstance(v, bool) else f'--{k}' if v else f'--no-{k}'
        )

    options = ' '.join(
        option(k, v) for k, v in shared['training'][0].items() if v is not None
    )
    return dict(
        command=f'miniai-train {options} --seed SEED',
        machine=machine,
        numbers=shared['numbers'][0],
        versions=shared['versions'][0],
        runs=runs,
    )


def add(old, new):
    """The runs of `new` after those of `old`.

    What is different about machine and versions is noted in each of them."""
    if old['command'] != new['command']:
        raise SystemExit(
            "The runs in the file have other options: "
            f"{old['command']} and not {new['command']}"
        )
    if twice := {o['seed'] for o in old['runs']} & {o['seed'] for o in new['runs']}:
        raise SystemExit(
            f'In the file there are runs with these seeds already: {sorted(twice)}'
        )
    other = {
        k: new[k] for k in ('machine', 'numbers', 'versions') if new[k] != old.get(k)
    }
    if 'versions' in other:
        other['versions'] = {
            k: v for k, v in new['versions'].items() if old['versions'].get(k) != v
        }
    return {
        **old,
        'runs': sorted(
            [*old['runs'], *({**o, **other} for o in new['runs'])],
            key=lambda o: o['seed'],
        ),
    }


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('out', type=Path, help='the JSON file to write')
    p.add_argument('folder', type=Path, nargs='+', help='folders of finished runs')
    p.add_argument(
        '--add', action='store_true', help='add the runs to those in the file'
    )
    p.add_argument('--machine', required=True, help='what they ran on, in words')
    args = p.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    res = collect(args.folder, args.machine)
    if args.add:
        res = add(json.loads(args.out.read_text(encoding='utf-8')), res)
    args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')
