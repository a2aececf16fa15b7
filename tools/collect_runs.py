#!/usr/bin/env python3
"""Put the results of several finished runs of miniai-train into one JSON file, for pages to show.

    python tools/collect_runs.py miniai/data/results/fashion_mnist_5_epochs.json RUN_FOLDER … --machine "2 cores of …"
"""
import argparse, json
from pathlib import Path

def collect(folders, machine):
    "Options, measures, versions and the machine of the runs in `folders`; options and versions have to be the same but for the seed"
    configs = [json.loads((o/'config.json').read_text(encoding='utf-8')) for o in folders]
    shared = {'training': [{k: v for k,v in c['training'].items() if k!='seed'} for c in configs], 'versions': [c['versions'] for c in configs]}
    for k,v in shared.items():
        if any(o!=v[0] for o in v): raise SystemExit(f'The runs differ in their {k}: {v}')
    runs = [dict(seed=c['training']['seed'], seconds=round(sum(o['time'] for o in c['history']), 1), valid_accuracy=c['history'][-1].get('valid_accuracy'),
                 test_accuracy=c['result']['accuracy'], plain_accuracy=c['result'].get('plain_accuracy'), test_images=c['result']['images']) for c in configs]
    runs = [{k: v for k,v in o.items() if v is not None} for o in runs]
    def option(k, v): return f'--{k} {v}' if not isinstance(v, bool) else f'--{k}' if v else f'--no-{k}'
    options = ' '.join(option(k, v) for k,v in shared['training'][0].items() if v is not None)
    return dict(command=f'miniai-train {options} --seed SEED', machine=machine, versions=shared['versions'][0], runs=runs)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out', type=Path, help='the JSON file to write')
    p.add_argument('folder', type=Path, nargs='+', help='folders of finished runs')
    p.add_argument('--machine', required=True, help='what they ran on, in words')
    args = p.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(collect(args.folder, args.machine), indent=1) + '\n', encoding='utf-8')
