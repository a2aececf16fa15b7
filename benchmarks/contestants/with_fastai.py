"fastai. Its training loss is a moving mean, so it is not what the others record"

import torch
import torch.nn.functional as F

# they add summary, no_bar and no_logging to Learner
import fastai.callback.hook, fastai.callback.progress  # noqa: F401
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from stock import Images

NAME, PACKAGE = 'fastai', 'fastai'


def learner(model, batches, lr=0.01):
    return Learner(
        DataLoaders(batches, batches), model, F.cross_entropy, SGD, lr, metrics=accuracy
    )


def fit(model, batches, lr, epochs):
    learn = learner(model, ready(batches), lr)
    learn.recorder.train_metrics = True
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr)
    return tuple(learn.recorder.values[-1])[:2]


def ready(batches):
    "A loader of fastai that hands on batches already made; nothing to validate on"
    return DataLoader(list(batches), bs=None)


def loader(x, y, bs, mean, std):
    return DataLoader(Images(x, y, mean, std), bs=bs, shuffle=True)


def summary(model, xb):
    learn = learner(model, ready([(xb, torch.zeros(len(xb), dtype=torch.int64))]))
    return str(learn.summary())
