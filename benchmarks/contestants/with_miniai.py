"miniai"

import torch
import torch.nn.functional as F
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import Accuracy, MetricsCB, TrainLearner
from miniai.summary import summarize

NAME, PACKAGE = 'miniai', 'miniai-nb'


def fit(model, batches, lr, epochs, cbs=(), opt_func=torch.optim.SGD):
    learn = TrainLearner(
        model,
        DataLoaders(batches, None),
        F.cross_entropy,
        lr,
        [MetricsCB(accuracy=Accuracy()), *cbs],
        opt_func,
    )
    last = learn.fit(epochs, valid=False)[-1]
    return last['train_loss'], last['train_accuracy']


def loader(x, y, bs, mean, std):
    return TensorLoader(x, y, bs, shuffle=True, mean=mean, std=std)


def summary(model, xb):
    return str(summarize(model, xb))
