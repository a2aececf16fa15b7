#!/usr/bin/env python3
"""Recipes for Fashion-MNIST: how accurate a network becomes, in how many seconds.

    python benchmarks/recipes.py                   every variant, seeds 0 and 1, into nbs/results/recipes.csv (hours on two cores)
    python benchmarks/recipes.py base wide         some of them; --seeds 0 1 2, --epochs 12
    python benchmarks/recipes.py base --test       train on all 60,000 pictures and look at the test set: for what was chosen, once

Variants are compared on 10,000 pictures held out from the training set (the other 50,000 are trained on). A row for each run: accuracy plain, with
the mirror image, and with that and four shifts by a pixel; the seconds of training alone, and what they depend on. Runs that are in the file are not
repeated, so an interrupted call can be given again.
"""
import argparse, csv, json, os, platform, sys, time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from miniai.accel import fast
from miniai.augment import hflip, rand_crop, rand_erase
from miniai.datasets import DataLoaders, TensorLoader, get_dls
from miniai.init import BatchTransformCB
from miniai.learner import Accuracy, Callback, DeviceCB, MetricsCB, ProgressCB, TerminateOnNaN, TrainLearner
from miniai.sgd import BatchSchedCB
from miniai.summary import summarize
from miniai.xtras import set_seed

RESULTS = Path(__file__).resolve().parent.parent/'nbs'/'results'/'recipes.csv'
MEAN,STD = .2860,.3530

# the network -----------------------------------------------------------------------------------------------

def whitening(x, ks=4, stride=2, eps=1e-2):
    "Filters `(2*ks*ks, 1, ks, ks)` whose answers to patches of the images `x` are uncorrelated and alike in size, each with both signs"
    patches = F.unfold(x, ks, stride=stride).transpose(1, 2).reshape(-1, ks*ks)
    size,direction = torch.linalg.eigh(patches.T@patches/len(patches))
    w = (direction/(size+eps).sqrt()).T.reshape(-1, 1, ks, ks)
    return torch.cat([w, -w])

class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
    def forward(self, x): return x + self.layers(x)

class Head(nn.Module):
    "The highest value of each channel, and a linear layer whose answers are made smaller"
    def __init__(self, ni, no, scale):
        super().__init__()
        self.linear,self.scale = nn.Linear(ni, no, bias=False),scale
    def forward(self, x): return self.linear(x.amax((2, 3)))*self.scale

def build(images, nfs=(64, 128, 256), res=(0, 0, 1), down='pool', scale=1/8, dirac=True):
    "A network for the normalised `images`, which are whitened first"
    w = whitening(images)
    stem = nn.Conv2d(1, len(w), 4, 2, 1)
    stem.weight.data.copy_(w)
    stem.weight.requires_grad_(False)
    nn.init.zeros_(stem.bias)
    layers,ni = [stem, nn.ReLU()],len(w)
    def conv(ni, nf, stride=1):
        c = nn.Conv2d(ni, nf, 3, stride, 1, bias=False)
        if dirac: nn.init.dirac_(c.weight.data[:ni])
        return c
    for i,(nf,n) in enumerate(zip(nfs, res)):
        pool = [nn.MaxPool2d(2)] if i and down=='pool' else []
        layers += [conv(ni, nf, 2 if i and down=='stride' else 1), *pool, nn.BatchNorm2d(nf, momentum=.4), nn.ReLU()]
        layers += [Residual(conv(nf, nf), nn.BatchNorm2d(nf, momentum=.4), nn.ReLU()) for _ in range(n)]
        ni = nf
    return nn.Sequential(*layers, Head(ni, 10, scale))

# the training ----------------------------------------------------------------------------------------------

class FlipInTurn(TensorLoader):
    "Shows each image in turn as it is and mirrored; half of them begin with the one, half with the other"
    epoch = 0
    def order(self):
        self.epoch += 1
        return super().order()
    def batch(self, idx):
        xb,yb = super().batch(idx)
        first = torch.rand(len(self.x), generator=torch.Generator().manual_seed(0))<.5
        mirrored = first[idx]^bool(self.epoch%2)
        return torch.where(mirrored[:,None,None,None], xb.flip(3), xb),yb

class SmallAtFirst(Callback):
    "Trains on images of `size` pixels for the first `share` of the batches"
    def __init__(self, size, share): self.size,self.share = size,share
    def before_batch(self, learn):
        if learn.training and (learn.epoch + learn.iter/len(learn.dls.train))/learn.n_epochs < self.share:
            learn.batch = F.interpolate(learn.batch[0], size=self.size, mode='bilinear', antialias=True),*learn.batch[1:]

def triangle(step, total, warm): return min(step/(warm*total), (total-step)/((1-warm)*total))

BASE = dict(epochs=8, bs=512, lr=.5, momentum=.9, wd=5e-4, smooth=.2, pad=2, flip='turn', warm=.2, erase=0, small=None, nfs=[64, 128, 256], res=[0, 0, 1], down='pool', dirac=True)

def data(test):
    "Images and labels to train and to judge: 50,000 and 10,000 of the training set, or all of it and the test set"
    dls = get_dls() if test else get_dls(valid=10_000)
    return (dls.train.x, dls.train.y),(dls.valid.x, dls.valid.y)

def run(o, seed, test=False):
    "Train with the settings `o`; what came out, as a dict"
    (x,y),judged = data(test)
    norm = dict(mean=MEAN, std=STD)
    loader = {'turn': FlipInTurn, 'none': TensorLoader}[o['flip']](x, y, o['bs'], shuffle=True, drop_last=True, **norm)
    set_seed(seed)
    images = TensorLoader(x, y, 5_000, **norm).batch(slice(0, 5_000))[0]
    model = build(images, o['nfs'], o['res'], o['down'], dirac=o['dirac'])
    macs = summarize(model, images[:1]).total_macs
    cbs,opt_kwargs,_ = fast('cpu')
    decayed = [p for p in model.parameters() if p.ndim>1 and p.requires_grad]
    rest = [p for p in model.parameters() if p.ndim==1 and p.requires_grad]
    def opt(_, lr): return optim.SGD([dict(params=decayed, weight_decay=o['wd']), dict(params=rest)], lr, o['momentum'], nesterov=True, **opt_kwargs)
    total = o['epochs']*len(loader)
    sched = BatchSchedCB(partial(LambdaLR, lr_lambda=partial(triangle, total=total, warm=o['warm'])))
    if o['pad']: cbs = [*cbs, BatchTransformCB(lambda b: (rand_crop(b[0], o['pad']), b[1]), on_val=False)]
    if o['erase']: cbs = [*cbs, BatchTransformCB(lambda b: (rand_erase(b[0], o['erase']), b[1]), on_val=False)]
    if o['small']: cbs = [*cbs, SmallAtFirst(*o['small'])]
    learn = TrainLearner(model, DataLoaders(loader, None), partial(F.cross_entropy, label_smoothing=o['smooth']), o['lr'],
                         [DeviceCB('cpu'), MetricsCB(accuracy=Accuracy()), TerminateOnNaN(), sched, ProgressCB(), *cbs], opt)
    start = time.perf_counter()
    learn.fit(o['epochs'], valid=False)
    seconds = time.perf_counter()-start
    acc = accuracies(model, TensorLoader(*judged, 1_000, **norm))
    return dict(accuracy=acc[0], accuracy_flip=acc[1], accuracy_shifts=acc[2], seconds=round(seconds, 1), images_a_second=round(total*o['bs']/seconds),
                params=sum(p.numel() for p in model.parameters()), macs=macs)

@torch.no_grad()
def accuracies(model, dl):
    "Plain, with the mirror image, and with both shifted by a pixel to four sides (at half the weight)"
    model.eval()
    right = torch.zeros(3)
    def predict(x):
        with torch.autocast('cpu', torch.bfloat16): return model(x.contiguous(memory_format=torch.channels_last)).float()
    for x,y in dl:
        plain = predict(x)
        both = plain + predict(hflip(x))
        padded,more = F.pad(x, (1,)*4, value=-MEAN/STD),both
        for i,j in ((0, 0), (2, 2), (0, 2), (2, 0)):
            s = padded[:,:,i:i+28,j:j+28]
            more = more + .5*(predict(s) + predict(hflip(s)))
        right += torch.tensor([(o.argmax(1)==y).sum() for o in (plain, both, more)])
    return [round(o.item()/len(dl.x), 4) for o in right]

VARIANTS = {'base': {}, 'no residual block': dict(res=[0, 0, 0]), 'two residual blocks': dict(res=[0, 1, 1]), 'strided': dict(down='stride'), 'strided, two residual blocks': dict(down='stride', res=[0, 1, 1]),
            'narrow': dict(nfs=[48, 96, 192]), 'six epochs': dict(epochs=6), 'small at first': dict(small=[20, .5]),
            'no flip': dict(flip='none'), 'smooth 0.1': dict(smooth=.1), 'no dirac': dict(dirac=False), 'erase': dict(erase=.2)}

def main(args):
    torch.set_num_threads(args.threads)
    for nm in args.variant or VARIANTS:
        o = {**BASE, **VARIANTS[nm], **({'epochs': args.epochs} if args.epochs else {})}
        for seed in args.seeds:
            old = list(csv.DictReader(args.out.open())) if args.out.exists() else []
            key = dict(variant=nm, split='test' if args.test else 'valid', seed=str(seed), settings=json.dumps(o))
            if any(all(r[k]==v for k,v in key.items()) for r in old): continue
            res = dict(**key, **run(o, seed, args.test), threads=torch.get_num_threads(), torch=torch.__version__, machine=args.machine, date=time.strftime('%Y-%m-%d'))
            print({k: res[k] for k in ('variant', 'split', 'seed', 'accuracy', 'accuracy_flip', 'accuracy_shifts', 'seconds', 'images_a_second')}, flush=True)
            with args.out.open('w', newline='') as f:
                w = csv.DictWriter(f, list(res))
                w.writeheader()
                w.writerows([*old, res])

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('variant', nargs='*', choices=[[], *VARIANTS], help=f'{", ".join(VARIANTS)} (default: all of them)')
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1], help='default: %(default)s')
    p.add_argument('--epochs', type=int, help='instead of those of the variant')
    p.add_argument('--test', action='store_true', help='train on all 60,000 pictures, judge by the test set')
    p.add_argument('--threads', type=int, default=torch.get_num_threads(), help='default: %(default)s')
    p.add_argument('--out', type=Path, default=RESULTS, help='default: %(default)s')
    p.add_argument('--machine', default=f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores', help='what it runs on, in words')
    main(p.parse_args())
