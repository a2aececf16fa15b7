"skorch"

import torch
from skorch import NeuralNet
from skorch.callbacks import BatchScoring
from stock import Images
from torch import nn
from torch.utils.data import DataLoader

NAME, PACKAGE = 'skorch', 'skorch'


class Classifier(NeuralNet):
    "Notes loss and accuracy of each batch; skorch makes the mean over the epoch"

    def __init__(self, *args, batches=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = batches

    def get_iterator(self, dataset, training=False):
        return DataLoader(self.batches, batch_size=None)

    def train_step_single(self, batch, **kwargs):
        step = super().train_step_single(batch, **kwargs)
        self.history.record_batch(
            'accuracy', (step['y_pred'].argmax(1) == batch[1]).float().mean().item()
        )
        return step


def fit(model, batches, lr, epochs):
    batches = list(batches)
    score = (
        'accuracy',
        BatchScoring(
            lambda net, *_: net.history[-1, 'batches', -1, 'accuracy'],
            name='train_accuracy',
            on_train=True,
            lower_is_better=False,
        ),
    )
    net = Classifier(
        model,
        nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=lr,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
        callbacks=[score],
        callbacks__print_log=None,
        batches=batches,
    )
    net.fit(batches, None)
    return net.history[-1, 'train_loss'], net.history[-1, 'train_accuracy']


def loader(x, y, bs, mean, std):
    return NeuralNet(
        nn.Identity, nn.CrossEntropyLoss, batch_size=bs, iterator_train__shuffle=True
    ).get_iterator(Images(x, y, mean, std), training=True)
