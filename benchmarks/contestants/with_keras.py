"Keras 3 on PyTorch"

import os

os.environ['KERAS_BACKEND'] = 'torch'
import keras
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from torch.utils.data import DataLoader

NAME, PACKAGE = 'Keras', 'keras'


def wrapped(model, shape):
    return keras.Sequential(
        [keras.Input(shape), keras.layers.TorchModuleWrapper(model)]
    )


def fit(model, batches, lr, epochs):
    batches = list(batches)
    m = wrapped(model, batches[0][0].shape[1:])
    m.compile(
        keras.optimizers.SGD(lr),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=['accuracy'],
    )
    h = m.fit(
        DataLoader(batches, batch_size=None), epochs=epochs, verbose=0, shuffle=False
    ).history
    return h['loss'][-1], h['accuracy'][-1]


def loader(x, y, bs, mean, std):
    """Keras takes arrays whole; what comes out of its adapter is what `fit` would see.

    Normalised beforehand, as its documentation does."""
    return ArrayDataAdapter(
        ((x.float() / 255 - mean) / std).numpy(), y.numpy(), batch_size=bs, shuffle=True
    ).get_torch_dataloader()


def summary(model, xb):
    out = []
    wrapped(model, xb.shape[1:]).summary(print_fn=out.append, line_length=100)
    return '\n'.join(map(str, out))
