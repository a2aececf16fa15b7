"""The code that this project descends from runs on our package, and prints its numbers

The calls are those of the blog post "Resnet" by galopy (December 2023), with every name
that it imports and defines; each part of SCRIPT does what one of its cells does. It
runs twice in a process of its own: with the block and the pooling defined there, and
with ours.
"""

import re

import pytest
import children

pytestmark = pytest.mark.slow  # each a process or a kernel of its own

IMPORTS = '''
import torch
from miniai.datasets import *
from miniai.conv import *
from miniai.learner import *
from miniai.activations import *
from miniai.init import *
from miniai.sgd import *
import pickle,gzip,math,os,time,shutil,torch
import matplotlib as mpl,numpy as np,matplotlib.pyplot as plt
import fastcore.all as fc
from collections.abc import Mapping
from pathlib import Path
from operator import attrgetter,itemgetter
from functools import partial
from copy import copy
from contextlib import contextmanager
import torchvision.transforms.functional as TF,torch.nn.functional as F
from torch import tensor,nn,optim
from torch.utils.data import DataLoader,default_collate
from torch.nn import init
from torch.optim import lr_scheduler
from torcheval.metrics import MulticlassAccuracy
from datasets import load_dataset,load_dataset_builder
from miniai.datasets import *
from miniai.conv import *
from miniai.learner import *
from miniai.activations import *
from miniai.init import *
from miniai.xtras import *
from fastcore.test import test_close
torch.set_printoptions(precision=2, linewidth=140, sci_mode=False)
torch.manual_seed(1)
import logging
logging.disable(logging.WARNING)
'''

DATA = '''
set_seed(42)
dls = get_dls()
dt = dls.train
xb,yb = next(iter(dt))
print((xb.shape, yb[:10]))
metrics = MetricsCB(accuracy=MulticlassAccuracy())
astats = ActivationStats(fc.risinstance(GeneralRelu))
cbs = [DeviceCB(), metrics, ProgressCB(plot=False), astats]
iw = partial(init_weights, leaky=0.1)
act_gr = partial(GeneralRelu, leak=0.1, sub=0.4)
'''

THEIR_BLOCK = '''
def _conv_block(ni, nf, ks=3, stride=2, act=nn.ReLU, norm=None, bias=None):
    return nn.Sequential(conv(ni, nf, ks, 1, act, norm, bias),
                         conv(nf, nf, ks, stride, False, norm, bias))

class ResBlock(nn.Module):
    def __init__(self, ni, nf, ks=3, stride=2, act=nn.ReLU, norm=None, bias=None):
        super().__init__()
        self.conv = _conv_block(ni, nf, ks, stride, act, norm, bias)
        self.pool = fc.noop if stride==1 else nn.AvgPool2d(2, ceil_mode=True)
        self.eye = fc.noop if ni==nf else conv(ni, nf, ks=1, stride=1, act=False)
        self.act = act()
    def forward(self, x): return self.act(self.conv(x) + self.eye(self.pool(x)))
'''
OUR_BLOCK = 'from miniai.resnet import *\n'
THEIR_POOL = '''
class GlobalAvgPool(nn.Module):
    def forward(self, x): return x.mean((-1, -2))
'''

CONV_HEAD = '''
def get_model(act=nn.ReLU, nfs=[8,16,32,64,128,256], norm=None):
    layers = [ResBlock(1, 8, stride=1, act=act, norm=norm)]
    layers += [ResBlock(nfs[i], nfs[i+1], act=act, norm=norm)
               for i in range(len(nfs)-1)]
    return nn.Sequential(*layers, conv(nfs[-1],10, act=None, norm=False, bias=True),
                         nn.Flatten()).to(def_device)

def print_shapes(hook, m, inp, outp):
    print(m.__class__.__name__, inp[0].shape, outp.shape)
model = get_model()
learn = TrainLearner(model, dls, F.cross_entropy, cbs=[SingleBatchCB(), DeviceCB()])
with Hooks(model, print_shapes) as h: learn.fit(1)

@fc.patch
def summary(self:Learner):
    res = '|Module|Input|Output|Num params|\\n|--|--|--|--|\\n'
    num = 0
    def _f(hook, m, inp, outp):
        nonlocal res, num
        num_params = sum(o.numel() for o in m.parameters())
        res += (f'|{m.__class__.__name__}|{tuple(inp[0].shape)}|{tuple(outp.shape)}'
                f'|{num_params}|\\n')
        num += num_params
    with Hooks(self.model, _f) as hook: self.fit(1, train=False, cbs=[SingleBatchCB()])
    print('Total number of params:', num)
    if fc.IN_NOTEBOOK:
        from IPython.display import Markdown
        return Markdown(res)
    else: print(res)
learn.summary()
'''

POOL_HEAD = '''
def get_model(act=nn.ReLU, nfs=[8,16,32,64,128,256], norm=None):
    layers = [ResBlock(1, 8, stride=1, act=act, norm=norm)]
    layers += [ResBlock(nfs[i], nfs[i+1], act=act, norm=norm)
               for i in range(len(nfs)-1)]
    return nn.Sequential(*layers, GlobalAvgPool(), nn.Flatten(),
                         nn.Linear(nfs[-1], 10)).to(def_device)
TrainLearner(get_model(), dls, F.cross_entropy, lr=1).summary()

def _flops(x, h, w):
    if x.dim()<3: return x.numel()
    if x.dim()==4: return x.numel()*h*w
print([(o.shape, o.numel()) for o in conv(2, 8).parameters()])
print([(o.shape, o.numel()) for o in nn.Linear(2, 8).parameters()])

@fc.patch
def summary(self:Learner):
    res = '|Module|Input|Output|Num params|Flops|\\n|--|--|--|--|--|\\n'
    n_params, n_flops = 0, 0
    def _f(hook, m, inp, outp):
        nonlocal res, n_params, n_flops
        num_params = sum(o.numel() for o in m.parameters())
        *_, h, w = outp.shape
        num_flops = sum(_flops(o, h, w) for o in m.parameters())/1e6
        n_params += num_params
        n_flops += num_flops
        res += (f'|{m.__class__.__name__}|{tuple(inp[0].shape)}|{tuple(outp.shape)}'
                f'|{num_params}|{num_flops:.2f}|\\n')
    with Hooks(self.model, _f) as hook: self.fit(1, train=False, cbs=[SingleBatchCB()])
    print('Total number of params:', n_params)
    print('Total number of flops:', n_flops)
    if fc.IN_NOTEBOOK:
        from IPython.display import Markdown
        return Markdown(res)
    else: print(res)
TrainLearner(get_model(), dls, F.cross_entropy, lr=1).summary()
'''

BLOCKS = [
    ((1, 28, 28), (8, 28, 28), 680, 0.51),
    ((8, 28, 28), (16, 14, 14), 3632, 0.70),
    ((16, 14, 14), (32, 7, 7), 14432, 0.70),
    ((32, 7, 7), (64, 4, 4), 57536, 0.92),
    ((64, 4, 4), (128, 2, 2), 229760, 0.92),
    ((128, 2, 2), (256, 1, 1), 918272, 0.92),
]
rows = [('ResBlock', *o) for o in BLOCKS]
CONV_ROWS = rows + [
    ('Sequential', (256, 1, 1), (10, 1, 1), 23050, None),
    ('Flatten', (10, 1, 1), (10,), 0, None),
]
POOL_ROWS = rows + [
    ('GlobalAvgPool', (256, 1, 1), (256,), 0, 0),
    ('Flatten', (256,), (256,), 0, 0),
    ('Linear', (256,), (10,), 2570, 0),
]


def table(rows, flops=False):
    head = [
        '|Module|Input|Output|Num params|' + 'Flops|' * flops,
        '|--|--|--|--|' + '--|' * flops,
    ]
    return (
        head
        + [
            f'|{m}|{(1024, *i)}|{(1024, *o)}|{p}|' + (f'{f:.2f}|' if flops else '')
            for m, i, o, p, f in rows
        ]
        + ['']
    )


EXPECTED = [
    '(torch.Size([1024, 1, 28, 28]), tensor([5, 7, 4, 7, 3, 8, 9, 5, 3, 1]))',
    *[
        f'{m} torch.Size({[1024, *i]}) torch.Size({[1024, *o]})'
        for m, i, o, _, _ in CONV_ROWS
    ],
    'Total number of params: 1247362',
    *table(CONV_ROWS),
    'Total number of params: 1226882',
    *table(POOL_ROWS),
    '[(torch.Size([8, 2, 3, 3]), 144), (torch.Size([8]), 8)]',
    '[(torch.Size([8, 2]), 16), (torch.Size([8]), 8)]',
    'Total number of params: 1226882',
    'Total number of flops: 4.675826000000001',
    *table(POOL_ROWS, flops=True),
]


@pytest.mark.parametrize(
    'block,pool', [(THEIR_BLOCK, THEIR_POOL), (OUR_BLOCK, '')], ids=['theirs', 'ours']
)
def test_every_line(block, pool):
    res = children.python(IMPORTS + DATA + block + CONV_HEAD + pool + POOL_HEAD)
    assert res.returncode == 0, res.stderr
    assert res.stdout.splitlines() == EXPECTED


def test_the_callbacks_it_prepares_train():
    "It builds a list of callbacks and never uses it; whoever goes on from there will"
    res = children.python(
        IMPORTS
        + DATA.replace('get_dls()', 'get_dls(bs=256, limit=1000)')
        + THEIR_BLOCK
        + CONV_HEAD.split('def print_shapes')[0]
        + '''
model = get_model(act_gr, norm=nn.BatchNorm2d).apply(iw)
h = TrainLearner(
    model, dls, F.cross_entropy, lr=1e-2, cbs=cbs, opt_func=optim.AdamW).fit(1)
print(len(h), len(astats), bool(h[0]['valid_accuracy']>.1))
'''
    )
    assert res.stdout.splitlines()[-1] == '1 12 True', res.stdout + res.stderr
    assert re.match(r'epoch 1  train loss \d', res.stdout.splitlines()[-2])
