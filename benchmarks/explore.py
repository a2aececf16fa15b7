#!/usr/bin/env python3
"""What was tried on Fashion-MNIST on the way to the recipe of page 12.

Networks, optimisers and training; each attempt is a row of nbs/results/explored.csv.

    python benchmarks/explore.py --show         the table, best first
    python benchmarks/explore.py k0 "k1 muon.1" --seed 1
                                                runs of the table once more: the numbers
                                                there, and the new ones
    python benchmarks/explore.py --new '{"epochs": 7, "lr": 0.8}' --name mine
                                                something new, which goes into the table

The table was made to find directions, not to prove anything: nearly every row is one
run with one seed. All were judged on the same 10,000 pictures, held out from the
60,000, and never on the test set. With so many pictures an accuracy of 94.5 % has a
standard error of 0.23 points; many rows differ by less, and the best of so many looks
better than it is. The recipe that came of it is measured by benchmarks/recipes.py. A
row says what differs from BASE below. It had one thread, with two runs side by side, or
(the first eleven) both cores for itself; `cpu_seconds` are of training alone. The rows
were made by a sketch of this program, which was changed on the way; the two do the
same, bit for bit, in short runs with each of the options.
"""

import argparse, json, math, time
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn, optim

from miniai.accel import keep_memory
from miniai.augment import rand_crop, rand_erase
from miniai.datasets import get_dls
from miniai.recipes import Residual
from miniai.summary import summarize
from recipes import FOLDER, about, note, read

TABLE = FOLDER / 'explored.csv'

BASE = dict(
    # the network
    # side, stride and padding of the first layer, and if it shall not have all
    # components, how many
    stem=[4, 2, 1],
    # is its bias learnt? have the two components of the lowest variance only one sign?
    sbias=1,
    w97=0,
    # see `build`; or 'gelu'
    arch='64,128p,256p+',
    act='relu',
    # highest value of each channel, 'avg' or 'both'; what the predictions are
    # multiplied by
    head='max',
    scale=1 / 8,
    # convolutions begin by handing on their first channels
    # (Zagoruyko & Komodakis, arXiv:1706.00388)
    dirac=True,
    # what it sees
    # 4.5 epochs are possible; batches that are not full are left away
    epochs=6,
    bs=256,
    # mirrored in every other epoch, half of the pictures first in the first one; or
    # 'none'
    flip='turn',
    # shifted by up to so many pixels; side of erased patches as a share of the
    # picture's
    pad=2,
    erase=0,
    # [[20, .5]]: pictures of 20×20 pixels in the first half of the training; see
    # `prune`
    small=[],
    prune=0,
    # how it learns: with SGD, Nesterov's momentum of 0.9, and decay for convolutions
    # and head, or the convolutions with 'muon'
    opt='sgd',
    # lr and wd are SGD's; mlr and mmom Muon's rate and momentum
    lr=0.4,
    wd=5e-4,
    mlr=0.1,
    mmom=0.6,
    # share of the training in which the rates rise in a straight line, before they
    # fall in another; label smoothing
    warm=0.2,
    smooth=0.2,
    # .99: judge a running average of the model as well
    ema=0,
)

# networks -----------------------------------------------------------------------------


def whitening(x, ks, stride, eps=1e-2):
    """Filters that make the patches of `x` uncorrelated with variances of nearly 1.

    They are in ascending order of the variance that they had."""
    patches = (
        F.unfold(x, ks, stride=stride).transpose(1, 2).reshape(-1, ks * ks * x.shape[1])
    )
    var, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    return (components / (var + eps).sqrt()).T.reshape(-1, x.shape[1], ks, ks)


def stem(o, images):
    """A first layer whose filters are measured and not learnt.

    They are those of `whitening`, as a rule with both signs."""
    ks, stride, pad, *n = o['stem']
    w = whitening(images, ks, stride)
    if n and not o['w97']:
        w = w[-n[0] :]
    w = torch.cat([w, -w[2:] if o['w97'] else -w])
    conv = nn.Conv2d(1, len(w), ks, stride, pad)
    conv.weight = nn.Parameter(w, requires_grad=False)
    nn.init.zeros_(conv.bias).requires_grad_(bool(o['sbias']))
    return conv


class Head(nn.Module):
    """The highest or mean value of each channel, or both, and a linear layer.

    `(b, ni, h, w)` to `(b, 10)`."""

    def __init__(self, ni, kind, scale):
        super().__init__()
        self.linear, self.kind, self.scale = (
            nn.Linear(ni * (1 + (kind == 'both')), 10, bias=False),
            kind,
            scale,
        )

    def forward(self, x):
        return (
            self.linear(
                torch.cat(
                    [x.amax((2, 3))] * (self.kind != 'avg')
                    + [x.mean((2, 3))] * (self.kind != 'max'),
                    1,
                )
            )
            * self.scale
        )


ACTS = dict(relu=nn.ReLU, gelu=nn.GELU)


def build(o, images):
    """The stem, what the words of `arch` say, and the head.

    Each word is a convolution to so many channels, and after it what the word says: `p`
    max-pool, `+` a residual convolution, `R` two."""

    def conv(ni, nf):
        res = nn.Conv2d(ni, nf, 3, padding=1, bias=False)
        if o['dirac']:
            nn.init.dirac_(res.weight.data[:ni])
        return res

    def unit(ni, nf, pool=False):
        return [
            conv(ni, nf),
            *[nn.MaxPool2d(2)] * pool,
            nn.BatchNorm2d(nf, momentum=0.4),
            ACTS[o['act']](),
        ]

    layers = [stem(o, images), nn.ReLU()]
    ni = layers[0].out_channels
    for word in o['arch'].split(','):
        nf, marks = int(word.rstrip('p+R')), word.lstrip('0123456789')
        layers += unit(ni, nf, 'p' in marks)
        layers += [
            Residual(
                *[layer for _ in range(1 + (mark == 'R')) for layer in unit(nf, nf)]
            )
            for mark in marks
            if mark != 'p'
        ]
        ni = nf
    return nn.Sequential(*layers, Head(ni, o['head'], o['scale'])).to(
        memory_format=torch.channels_last
    )


# optimisers ---------------------------------------------------------------------------


def orthogonal(g, steps=3):
    """Nearly the orthogonal matrix next to `g`.

    By the Newton-Schulz iteration that Muon uses, in bfloat16."""
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    if tall := len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


class Muon(optim.Optimizer):
    """Steps in orthogonalised directions; weights of fixed length instead of decay.

    After Jordan et al., https://kellerjordan.github.io/posts/muon/."""

    def __init__(self, params, lr, momentum):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                mean = self.state[p].setdefault('mean', torch.zeros_like(p.grad))
                mean.mul_(group['momentum']).add_(p.grad)
                step = p.grad.add(mean, alpha=group['momentum'])
                p.mul_(len(p) ** 0.5 / p.norm())
                p.add_(
                    orthogonal(step.reshape(len(step), -1)).view_as(step),
                    alpha=-group['lr'],
                )


def optimizers(o, model):
    "What learns the parameters of `model`: one optimiser, or two"
    params = [p for p in model.parameters() if p.requires_grad]
    convs, linear, rest = ([p for p in params if p.ndim == n] for n in (4, 2, 1))

    def sgd(decayed):
        return optim.SGD(
            [dict(params=decayed, weight_decay=o['wd']), dict(params=rest)],
            o['lr'],
            0.9,
            nesterov=True,
            fused=True,
        )

    return (
        [Muon(convs, o['mlr'], o['mmom']), sgd(linear)]
        if o['opt'] == 'muon'
        else [sgd(convs + linear)]
    )


# training -----------------------------------------------------------------------------


def prune(order, losses, share):
    """Leave away a `share` of the pictures with losses below the mean.

    The others of those count more (after InfoBatch, Qin et al., arXiv:2303.04947)."""
    # A picture not seen yet has an infinite loss; then the mean is infinite, and all
    # that were seen are easy.
    easy = losses < losses.mean()
    keep = ~(easy & (torch.rand(len(losses)) < share))
    return order[keep[order]], torch.where(easy, 1 / (1 - share), 1.0)


@torch.no_grad()
def follow(average, model, k):
    "Move the weights and statistics of `average` by `k` of the way to those of `model`"
    for a, b in zip(average.state_dict().values(), model.state_dict().values()):
        a.lerp_(b, k) if a.is_floating_point() else a.copy_(b)


def pixels(x, dl):
    return (x.float() / 255 - dl.mean) / dl.std  # TensorLoader.batch rounds otherwise


def augment(o, x, mirror, progress):
    "Pictures as the network sees them when so much of the training is over"
    if o['flip'] == 'turn':
        x = torch.where(mirror[:, None, None, None], x.flip(3), x)
    if o['pad']:
        x = rand_crop(x, o['pad'])
    if o['erase']:
        x = rand_erase(x, o['erase'])
    size = next((size for size, until in o['small'] if progress < until), None)
    return F.interpolate(x, size=size, mode='bilinear', antialias=True) if size else x


def train(o, seed, dl, n=None):
    """The model, its running average or `None`, and what that cost.

    `n`: with the first so many pictures, for tests."""
    xs, ys = dl.x[:n], dl.y[:n]
    torch.manual_seed(seed)
    model = build(o, pixels(xs[torch.randperm(len(xs))[:5000]], dl))
    cost = summarize(model, torch.zeros(1, *xs.shape[1:]))
    opts = optimizers(o, model)
    highest = [(group, group['lr']) for opt in opts for group in opt.param_groups]
    first, losses = torch.rand(len(xs)) < 0.5, torch.full((len(xs),), math.inf)
    average = deepcopy(model) if o['ema'] else None
    start, steps = time.process_time(), 0
    for epoch in range(math.ceil(o['epochs'])):
        order, weights = torch.randperm(len(xs)), torch.ones(len(xs))
        if o['prune'] and 0 < epoch and epoch / o['epochs'] < 0.8:
            order, weights = prune(order, losses, o['prune'])
        nb = len(order) // o['bs']
        for i, idx in enumerate(order[: nb * o['bs']].split(o['bs'])):
            progress = (epoch + i / nb) / o['epochs']
            if progress >= 1:
                break
            for group, lr in highest:
                group['lr'] = lr * (
                    progress / o['warm']
                    if progress < o['warm']
                    else (1 - progress) / (1 - o['warm'])
                )
            xb, yb = (
                augment(o, pixels(xs[idx], dl), first[idx] ^ bool(epoch % 2), progress),
                ys[idx],
            )
            with torch.autocast('cpu', torch.bfloat16):
                preds = model(xb)
            loss = F.cross_entropy(
                preds.float(),
                yb,
                label_smoothing=o['smooth'],
                reduction='none' if o['prune'] else 'mean',
            )
            if o['prune']:
                losses[idx] = F.cross_entropy(
                    preds.detach().float(), yb, reduction='none'
                )
                loss = (loss * weights[idx]).mean()
            loss.backward()
            for opt in opts:
                opt.step()
            model.zero_grad()
            steps += 1
            if average is not None and steps % 5 == 0 and progress > 0.3:
                follow(average, model, 1 - o['ema'] ** 5)
    seconds = round(time.process_time() - start, 1)
    return (
        model,
        average,
        dict(
            macs=cost.total_macs,
            params=cost.total_params,
            epochs=o['epochs'],
            images_seen=steps * o['bs'],
            cpu_seconds=seconds,
        ),
    )


@torch.no_grad()
def judge(model, dl):
    """Accuracies, and the loss with mirror images at the best of some temperatures.

    Accuracy plain, with mirror images, and with those and four shifts along the
    diagonals."""

    def predict(x):
        with torch.autocast('cpu', torch.bfloat16):
            return model(x.contiguous(memory_format=torch.channels_last)).float()

    model.eval()
    parts = []
    for x in dl.x.split(1000):
        x = pixels(x, dl)
        plain, padded = predict(x), F.pad(x, (1,) * 4, value=-dl.mean / dl.std)
        both = plain + predict(x.flip(3))
        moved = [
            padded[:, :, row : row + 28, col : col + 28]
            for row, col in ((0, 0), (2, 2), (0, 2), (2, 0))
        ]
        parts.append(
            torch.stack(
                [
                    plain,
                    both / 2,
                    sum((0.5 * (predict(o) + predict(o.flip(3))) for o in moved), both)
                    / 6,
                ]
            )
        )
    preds = torch.cat(parts, 1)
    accuracy = {
        f'{nm}_accuracy': round((p.argmax(1) == dl.y).float().mean().item(), 4)
        for nm, p in zip(('plain', 'mirror', 'shifts'), preds)
    }
    return dict(
        **accuracy,
        loss=round(
            min(
                F.cross_entropy(preds[1] * t, dl.y).item()
                for t in (1, 1.25, 1.5, 2, 2.5, 3, 4)
            ),
            4,
        ),
    )


def run(config, seed, dls, n=None):
    "Train and judge with what `config` changes of BASE: the numbers of a row"
    model, average, cost = train({**BASE, **config}, seed, dls.train, n)
    ema = judge(average, dls.valid) if average else {}
    return dict(
        **cost,
        **judge(model, dls.valid),
        **{f'ema_{k}': ema.get(k, '') for k in ('plain_accuracy', 'mirror_accuracy')},
    )


# the table ----------------------------------------------------------------------------

SHOWN = (
    'mirror_accuracy',
    'plain_accuracy',
    'shifts_accuracy',
    'loss',
    'ema_mirror_accuracy',
    'cpu_seconds',
)


def line(row):
    return '  '.join(
        f"{k.removesuffix('_accuracy').replace('_', ' ')} {row[k]!s:6}" for k in SHOWN
    )


def show(rows):
    for o in sorted(rows, key=lambda o: -float(o['mirror_accuracy'])):
        print(
            f"{line(o)}  {int(o['macs']) / 1e6:5.2f}M MACs  "
            f"{int(o['params']):9,} parameters  "
            f"{o['name']}, seed {o['seed']}: {o['config']}"
        )


def again(names, seed, rows):
    "Run what the table has under these names with `seed`, and print both"
    if missing := set(names) - {o['name'] for o in rows}:
        raise SystemExit(
            f'There is no {missing.pop()!r} in {TABLE.name}; --show has the names'
        )
    dls = get_dls(valid=10_000)
    for name in names:
        old = [o for o in rows if o['name'] == name]
        for o in old:
            print(f"{name}, seed {o['seed']}, in the table:  {line(o)}")
        print(
            f"{name}, seed {seed}, now:           "
            f"{line(run(json.loads(old[0]['config']), seed, dls))}",
            flush=True,
        )


def new(config, name, seed, rows):
    "Run something new, and append it to the table"
    if wrong := set(config) - set(BASE):
        raise SystemExit(
            f'There is no option {wrong.pop()!r}; there are: ' + ', '.join(BASE)
        )
    same = [o for o in rows if o['name'] == name]
    if any(json.loads(o['config']) != config for o in same):
        raise SystemExit(f'{name!r} is the name of something else in {TABLE.name}')
    if any(int(o['seed']) == seed for o in same):
        raise SystemExit(f'{name!r} with seed {seed} is in {TABLE.name} already')
    note(
        TABLE,
        dict(
            name=name,
            seed=seed,
            config=json.dumps(config, sort_keys=True),
            **run(config, seed, get_dls(valid=10_000)),
            **about(),
        ),
    )


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('names', nargs='*', help='run these of the table once more')
    p.add_argument('--show', action='store_true', help='print the table')
    p.add_argument(
        '--new', type=json.loads, metavar='JSON', help='what to change of BASE'
    )
    p.add_argument('--name', help='of something new')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument(
        '--threads',
        type=int,
        default=1,
        help="PyTorch's threads; with another number the sums are rounded otherwise",
    )
    args = p.parse_args()
    if bool(args.names) + args.show + (args.new is not None) != 1 or (
        args.new is None
    ) != (args.name is None):
        p.error('give names of the table, or --show, or --new and --name')
    keep_memory()
    torch.set_num_threads(args.threads)
    if args.show:
        show(read(TABLE))
    elif args.new is not None:
        new(args.new, args.name, args.seed, read(TABLE))
    else:
        again(args.names, args.seed, read(TABLE))
