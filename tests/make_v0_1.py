"""Makes tests/data/v0_1: files that version 0.1 wrote, and what it made of them

It has been run once, with the package at version 0.1.0, commit 4b43e69, and is kept to
show how the files came about. To run it again, check out that commit elsewhere:

    git worktree add ../v0_1 4b43e69
    PYTHONPATH=../v0_1 OMP_NUM_THREADS=1 python tests/make_v0_1.py --source ../v0_1

It makes:
- `finished`, the folder of a run of the command, and `interrupted`, that of a run that
  was ended after the first of its three epochs. The command has no option for the size
  of its network, whose checkpoints have 15 MB. So `model_config`, which describes that
  network, is replaced meanwhile by a description with two blocks instead of six. All
  else is the command's. `curve.png` is taken out: it is large, and nothing reads it.
- `saved.safetensors`, a file of `Learner.save`.
- `callbacks`, a folder of `CheckpointCB` with the state of many callbacks.
- `expected.json`: predictions, weights and histories, bit for bit, and the machine and
  the versions with which they hold.
- `names.json`: for each module the names that it exported, and what else tests, pages
  and other modules imported from it.
"""

import argparse, ast, hashlib, json, platform, re, shutil, subprocess, sys, tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler

HERE = Path(__file__).resolve().parent
DATA = HERE / 'data' / 'v0_1'
VERSION, COMMIT = '0.1.0', '4b43e69'
OPTIONS = '--limit 96 --bs 32 --epochs 3 --device cpu --no-fast'.split()
EPOCHS = 4  # of the run in the folder `callbacks`

# what the tests need as well ----------------------------------------------------------


def small_config(n_in, n_out, recipe=None):
    "The network of the command, but with two blocks"
    return dict(
        kind='resnet',
        nfs=[8, 16],
        leak=0.1,
        sub=0.4,
        head='pool',
        n_in=n_in,
        n_out=n_out,
    )


def conditions():
    "What the bits of a result depend on, beside the code"
    cpu = Path('/proc/cpuinfo')
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [o.split(':')[1].strip() for o in lines if o.startswith('model name')]
    return dict(
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        cpu=names[0] if names else platform.processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
    )


def bits(t):
    "The bytes of the tensor `t`, as text"
    return t.detach().contiguous().cpu().numpy().tobytes().hex()


def weights_sha(model):
    "SHA-256 of all that is in the state of `model`"
    h = hashlib.sha256()
    for k, t in model.state_dict().items():
        h.update(k.encode() + t.contiguous().numpy().tobytes())
    return h.hexdigest()


def rows(history):
    "The rows of `history` without the time they took"
    return [{k: v for k, v in r.items() if k != 'time'} for r in history]


def images():
    "Four images, uint8 `(4, 1, 28, 28)`; made of whole numbers, so the same everywhere"
    i = torch.arange(28)
    made = [(i[:, None] * (3 + n) + i * i * (n + 1)) % 256 for n in range(4)]
    return torch.stack(made).to(torch.uint8)[:, None]


def said_of(run):
    "What the `Run` says about `images()`: its outputs, to the bit, and probabilities"
    x = torch.cat([run.prepare(o) for o in images()])
    with torch.inference_mode():
        out = run.model(x)
    return dict(
        outputs=bits(out),
        probs=[run.predict(o).probs for o in images()],
        weights=weights_sha(run.model),
    )


def said_of_resumed(run):
    "The same, and what was measured"
    result = run.config['result']
    measured = {k: result[k] for k in ('split', 'images', 'loss', 'accuracy')}
    return dict(**said_of(run), history=rows(run.config['history']), result=measured)


def saved_learner():
    "The learner whose weights are in `saved.safetensors`, before it was trained"
    from miniai.conv import conv
    from miniai.datasets import get_dls
    from miniai.learner import TrainLearner
    from miniai.resnet import GlobalAvgPool
    from miniai.xtras import set_seed

    set_seed(7)
    dls = get_dls(bs=32, limit=96, valid=1_000)
    model = nn.Sequential(conv(1, 8), conv(8, 16), GlobalAvgPool(), nn.Linear(16, 10))
    return TrainLearner(model, dls, F.cross_entropy, 0.02, opt_func=optim.AdamW)


def outputs(learn):
    "What the model of `learn` says about `images()`"
    with torch.inference_mode():
        return learn.model.eval()(images().float() / 255)


def callbacks_learner():
    "A learner with most of the callbacks that keep something from epoch to epoch"
    from miniai.accel import GradClip, MixedPrecision
    from miniai.activations import ActivationStats
    from miniai.checkpoint import BestWeightsCB
    from miniai.learner import Accuracy, MetricsCB
    from miniai.sgd import BatchSchedCB, RecorderCB

    learn = saved_learner()
    learn.model.insert(1, nn.Dropout(0.2))
    steps = EPOCHS * len(learn.dls.train)
    sched = partial(lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=steps)
    rates = RecorderCB(lr=lambda cb: cb.pg['lr'])
    learn.cbs = [
        MetricsCB(accuracy=Accuracy()),
        BatchSchedCB(sched),
        rates,
        GradClip(0.5),
        ActivationStats(),
        BestWeightsCB('loss'),
        MixedPrecision(torch.float16),
    ]
    return learn


def said_of_callbacks(learn):
    "What was measured and recorded in a fit of `callbacks_learner()`"
    _, _, rates, clip, stats, best, _ = learn.cbs
    return dict(
        weights=weights_sha(learn.model),
        history=rows(learn.history),
        rates=rates.recs['lr'],
        norms=clip.norms,
        best=best.epoch,
        stats=[float(o.stats[0][-1]) for o in stats.hooks],
    )


# made with the old package ------------------------------------------------------------


def interrupted_after(epoch):
    "Ctrl-C comes as soon as the checkpoint of `epoch` is written"
    from miniai.checkpoint import CheckpointCB

    write = CheckpointCB.write

    def write_and_stop(self, learn, n):
        write(self, learn, n)
        if n == epoch:
            raise KeyboardInterrupt

    return patch.object(CheckpointCB, 'write', write_and_stop)


def a_copy(folder, tmp):
    return shutil.copytree(folder, Path(tmp) / 'copy')


def make_runs():
    "Both runs of the command, and what came of them"
    from miniai.train import load_run, main, resume_training

    finished, broken = DATA / 'finished', DATA / 'interrupted'
    expected = {}
    with patch('miniai.train.model_config', small_config):
        assert main([*OPTIONS, '--quiet', '--out', str(finished)]) == 0
        expected['finished'] = said_of(load_run(finished, 'cpu'))
        with interrupted_after(1):
            assert main([*OPTIONS, '--quiet', '--out', str(broken)]) == 130
        with tempfile.TemporaryDirectory() as tmp:
            run = resume_training(a_copy(broken, tmp), quiet=True)
            expected['resumed'] = said_of_resumed(run)
    assert expected['resumed']['weights'] == expected['finished']['weights']
    for o in (finished, broken):
        (o / 'curve.png').unlink()
    return expected


def make_learners():
    "The file of `save` and the folder of `CheckpointCB`, and what came of them"
    from miniai.checkpoint import CheckpointCB

    learn = saved_learner()
    learn.fit(1)
    learn.save(DATA / 'saved.safetensors')
    saved = dict(weights=weights_sha(learn.model), outputs=bits(outputs(learn)))
    folder = DATA / 'callbacks'
    with interrupted_after(2):
        try:
            callbacks_learner().fit(EPOCHS, cbs=CheckpointCB(folder, keep=1))
        except KeyboardInterrupt:
            pass
    resumed = callbacks_learner()
    with tempfile.TemporaryDirectory() as tmp:
        checkpoints = CheckpointCB(a_copy(folder, tmp), resume=True, quiet=True)
        resumed.fit(EPOCHS, cbs=checkpoints)
    whole = callbacks_learner()
    whole.fit(EPOCHS)
    assert said_of_callbacks(resumed) == said_of_callbacks(whole)
    return dict(saved=saved, callbacks=said_of_callbacks(resumed))


# names --------------------------------------------------------------------------------


def sources(root):
    "The Python text of all tests, pages, programs and modules of the project in `root`"
    import nbformat

    for folder in ('tests', 'tools', 'benchmarks', 'miniai'):
        for o in sorted((root / folder).glob('*.py')):
            if o.name != '_modidx.py':
                yield o.read_text()
    for o in sorted((root / 'nbs').glob('*.ipynb')):
        for c in nbformat.read(o, 4).cells:
            magic = r'^( *)[%!].*'
            if c.cell_type == 'code':
                yield re.sub(magic, r'\1pass', c.source, flags=re.M)


def imports(tree):
    "What is imported from our modules, as pairs of the module and the name"
    for o in ast.walk(tree):
        if not isinstance(o, ast.ImportFrom):
            continue
        module = f'miniai.{o.module}' if o.level else o.module
        if module.startswith('miniai.'):
            yield from ((module, a.name) for a in o.names)


def in_strings(tree):
    "The same for programs in strings, and for names that `monkeypatch` takes"
    for o in ast.walk(tree):
        if not (isinstance(o, ast.Constant) and isinstance(o.value, str)):
            continue
        for line in map(str.strip, o.value.splitlines()):
            if re.fullmatch(r'miniai\.\w+\.\w+', line):
                yield tuple(line.rsplit('.', 1))
            if not line.startswith('from miniai.'):
                continue
            try:
                yield from imports(ast.parse(line))
            except SyntaxError:
                pass  # prose


def make_names(root):
    "What `names.json` holds; without `miniai.all`, which was all of this in one module"
    stems = sorted(o.stem for o in (root / 'miniai').glob('*.py') if o.stem != 'all')
    modules = ['miniai'] + [f'miniai.{o}' for o in stems if o[0] != '_']
    found = set()
    for text in sources(root):
        tree = ast.parse(text)
        found |= {*imports(tree), *in_strings(tree)}
    res = {}
    for k in modules:
        module = import_module(k)
        exported = sorted(module.__all__)
        others = [name for m, name in sorted(found) if m == k and name not in exported]
        others = [o for o in others if o in vars(module) and o != '*']
        res[k] = dict(exported=exported, others=others)
    return res


def main(root):
    import miniai

    assert Path(miniai.__file__).resolve().is_relative_to(root), miniai.__file__
    ask = ['git', 'rev-parse', 'HEAD']
    commit = subprocess.check_output(ask, cwd=root, text=True).strip()  # noqa: TID251
    if miniai.__version__ != VERSION or not commit.startswith(COMMIT):
        sys.exit(
            f'This is miniai {miniai.__version__} at {commit}; '
            f'the files are those of {VERSION} at {COMMIT}'
        )
    if torch.get_num_threads() != 1:
        sys.exit('Run it with OMP_NUM_THREADS=1')
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    expected = dict(version=VERSION, commit=commit, conditions=conditions())
    expected |= make_runs()
    expected |= make_learners()
    for o in DATA.rglob('.lock'):
        o.unlink()
    for name, x in (('expected', expected), ('names', make_names(root))):
        text = json.dumps(x, indent=1, ensure_ascii=False)
        (DATA / f'{name}.json').write_text(text + '\n')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description='Make tests/data/v0_1 with version 0.1')
    p.add_argument('--source', type=Path, required=True, help=f'a checkout of {COMMIT}')
    main(p.parse_args().source.resolve())
