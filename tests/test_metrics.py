"""What is measured, and what is chosen by it: right, or refused in a sentence"""

import math
from functools import partial

import pytest, torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader

from miniai.augment import CapturePreds
from miniai.checkpoint import BestWeightsCB, CheckpointCB, EarlyStoppingCB, best_epoch
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import (
    Accuracy,
    Callback,
    DeviceCB,
    Learner,
    MetricsCB,
    TrainCB,
    TrainLearner,
)
from miniai.drawing import show_images
from miniai.init import GeneralRelu
from miniai.stopping import is_maximized

# Accuracy -----------------------------------------------------------------------------


def accuracy(preds, targs):
    m = Accuracy()
    m.reset()
    m.update(preds, targs)
    return float(m.compute())


labels = torch.tensor([2, 0, 1, 2])
scores = F.one_hot(labels).float() * 3 - torch.rand(4, 3)
mixed = F.one_hot(labels) * 0.7 + torch.full((4, 3), 0.1)


@pytest.mark.parametrize(
    'targs',
    [
        labels,
        labels.to(torch.uint8),
        labels.float(),
        F.one_hot(labels),
        F.one_hot(labels).bool(),
        F.one_hot(labels).half(),
        mixed,
    ],
)
def test_perfect_answers_count_as_such(targs):
    assert accuracy(scores, targs) == 1
    assert accuracy(scores.roll(1, 0), targs) < 1


def test_shares_for_each_pixel():
    image = labels[:, None].expand(4, 5)
    assert accuracy(scores[..., None].expand(4, 3, 5), image) == 1
    shares = F.one_hot(image).movedim(-1, 1)
    assert accuracy(scores[..., None].expand(4, 3, 5), shares) == 1


@pytest.mark.parametrize(
    'preds, targs',
    [
        (torch.randn(4), torch.tensor([0, 1, 1, 0])),  # logits of yes
        (torch.randn(4), torch.tensor([0.0, 1, 1, 0])),
        (torch.randn(4, 1), torch.tensor([0, 1, 1, 0])),
        (torch.randn(4, 1), torch.tensor([[0.0], [1], [1], [0]])),
        (torch.randn(4, 3), torch.tensor([[1.0, 1, 0]] * 4)),  # several labels at once
        (torch.randn(4, 3), torch.tensor([[0, 0, 0]] * 4)),
        (torch.randn(4, 1, 6, 6), torch.ones(4, 6, 6, dtype=torch.long)),
        (torch.randn(4, 3), torch.zeros(3, dtype=torch.long)),
        (torch.randn(4, 3), torch.zeros(4, 1, dtype=torch.long)),
    ],
)
def test_what_has_no_classes_is_refused(preds, targs):
    with pytest.raises(ValueError, match='torcheval|Predictions of shape'):
        accuracy(preds, targs)


# the direction of a measure -----------------------------------------------------------


@pytest.mark.parametrize(
    'name, want',
    [
        ('loss', False),
        ('valid_loss', False),
        ('mae', False),
        ('valid_mae', False),
        ('error_rate', False),
        ('MeanSquaredError', False),
        ('BinaryNormalizedEntropy', False),
        ('accuracy_loss', False),
        ('Perplexity', False),
        ('MSELoss', False),
        ('accuracy', True),
        ('MulticlassAccuracy', True),
        ('top5_accuracy', True),
        ('R2Score', True),
        ('BinaryAUROC', True),
        ('F1', True),
    ],
)
def test_the_name_tells(name, want):
    assert is_maximized(name) == want
    assert is_maximized(name, not want) != want


ASK = ['lpips', 'Throughput', 'lossless', 'error_score', 'time', 'x']


@pytest.mark.parametrize('name', ASK)
@pytest.mark.parametrize(
    'cb', [EarlyStoppingCB, BestWeightsCB, partial(CheckpointCB, 'nowhere', best=None)]
)
def test_a_name_that_does_not_tell_is_refused_before_the_training(name, cb):
    def make(**kw):
        if isinstance(cb, partial):
            return CheckpointCB('nowhere', best=name, **kw)
        return cb(name, **kw)

    with pytest.raises(ValueError, match='maximize=True or maximize=False'):
        make()
    for maximize in (True, False):
        assert make(maximize=maximize).maximize == maximize


def test_the_best_of_a_mean_absolute_error_is_the_lowest(tmp_path):
    class MAE:
        def reset(self):
            self.sum, self.n = 0.0, 0

        def update(self, preds, targs):
            self.sum += (preds - targs).abs().sum().item()
            self.n += len(targs)

        def compute(self):
            return self.sum / self.n

    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    dls = DataLoaders(*(TensorLoader(x, x.sum(1, keepdim=True), 16) for _ in range(2)))
    kept, saved = BestWeightsCB('mae'), CheckpointCB(tmp_path, best='mae', keep=1)
    learn = TrainLearner(nn.Linear(3, 1), dls, F.mse_loss, 0.1, MetricsCB(mae=MAE()))
    learn.fit(4, cbs=[kept, saved])
    rows = learn.history
    best = min(rows, key=lambda o: o['valid_mae'])['epoch']
    assert best == 4 == kept.epoch == saved.best_epoch
    assert best_epoch(rows, 'valid_mae', maximize=True) == 1


# losses and batches -------------------------------------------------------------------


def data(y, n=8):
    batches = [(torch.randn(n, 4), y)]
    return DataLoaders(batches, batches)


def test_only_losses_of_classes_speak_of_labels():
    learn = TrainLearner(
        nn.Linear(4, 1), data(torch.ones(8, dtype=torch.long)), nn.BCEWithLogitsLoss()
    )
    with pytest.raises(ValueError) as e:
        learn.fit(1)
    assert 'labels should be' not in str(e.value) and 'arget size' in str(e.value)


@pytest.mark.parametrize(
    'loss',
    [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, reduction='sum')],
)
def test_labels_as_a_list(loss):
    learn = TrainLearner(nn.Linear(4, 3), data([0, 1, 2, 0, 1, 2, 0, 1]), loss)
    with pytest.raises(
        TypeError, match=r'labels of the batch are a list.*torch.tensor'
    ):
        learn.fit(1)


def test_a_loader_whose_labels_are_a_list():
    class Loader(list):
        y = [0, 1, 2, 3]

    dl = Loader([(torch.randn(4, 4), torch.arange(4))])
    TrainLearner(nn.Linear(4, 4), DataLoaders(dl, dl), F.cross_entropy).fit(1)
    with pytest.raises(ValueError, match='go from 0 to 3, but the model has 3'):
        TrainLearner(nn.Linear(4, 3), DataLoaders(dl, dl), F.cross_entropy).fit(1)


def test_everything_frozen():
    model = nn.Linear(4, 3).requires_grad_(False)
    learn = TrainLearner(model, data(torch.arange(8) % 3), F.cross_entropy)
    with pytest.raises(RuntimeError, match='All weights of the model are frozen'):
        learn.fit(1)
    assert len(learn.fit(1, train=False)) == 1


@pytest.mark.parametrize('loss', [nn.CrossEntropyLoss, nn.MSELoss])
def test_a_loss_class(loss):
    learn = TrainLearner(nn.Linear(4, 3), data(torch.arange(8) % 3), loss)
    with pytest.raises(TypeError, match=f'{loss.__name__} is a class.*write'):
        learn.fit(1)


@pytest.mark.parametrize('cbs', [[], [DeviceCB('cpu')]])
def test_the_weights_of_a_loss_follow_the_model(cbs):
    class Noted(nn.CrossEntropyLoss):
        went = ()

        def to(self, device):
            self.went += (torch.device(device).type,)
            return super().to(device)

    loss = Noted(weight=torch.ones(3))
    TrainLearner(nn.Linear(4, 3), data(torch.arange(8) % 3), loss, cbs=cbs).fit(1)
    assert loss.went == ('cpu',)


def dicts(n=12):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    rows = [dict(pixels=o, label=i % 3) for i, o in enumerate(x)]
    return DataLoaders(DataLoader(rows, 4), DataLoader(rows, 4))


class DictLearner(TrainLearner):
    @property
    def inputs(self):
        return (self.batch['pixels'],)

    @property
    def targets(self):
        return (self.batch['label'],)


def test_batches_that_are_dicts_work_where_a_subclass_names_their_parts():
    learn = DictLearner(
        nn.Linear(4, 3), dicts(), F.cross_entropy, 0.1, MetricsCB(a=Accuracy())
    )
    learn.fit(2)
    preds, targs, inps = learn.capture_preds(inps=True)
    want = (preds.argmax(1) == targs).float().mean()
    assert learn.history[-1]['valid_a'] == pytest.approx(want.item())
    assert torch.equal(learn.model(inps), preds) and len(targs) == 12


@pytest.mark.parametrize(
    'batches',
    [dicts(), DataLoaders(*[[torch.randn(8, 4)]] * 2)],
    ids=['dict', 'tensor'],
)
@pytest.mark.parametrize('kind', [TrainLearner, partial(Learner, cbs=TrainCB())])
def test_other_batches_are_refused_at_the_first(batches, kind):
    learn = kind(nn.Linear(4, 4), batches, F.cross_entropy)
    with pytest.raises(TypeError, match='in `inputs` and `targets`'):
        learn.fit(1)


def test_a_learner_of_ones_own_is_left_alone_until_somebody_asks():
    "It predicts from a dict by itself; a metric needs the targets"

    class Own(TrainLearner):
        def predict(self):
            self.preds = self.model(self.batch['pixels'])

        def get_loss(self):
            self.loss = F.cross_entropy(self.preds, self.batch['label'])

    assert Own(nn.Linear(4, 3), dicts()).fit(1)
    for cb in (MetricsCB(a=Accuracy()), CapturePreds()):
        with pytest.raises(TypeError, match='in `inputs` and `targets`'):
            Own(nn.Linear(4, 3), dicts(), cbs=cb).fit(1)


def test_callbacks_in_a_tuple():
    class Count(Callback):
        n = 0

        def after_batch(self, learn):
            self.n += 1

    count = Count()
    learn = TrainLearner(
        nn.Linear(4, 3), data(torch.arange(8) % 3), F.cross_entropy, opt_func=optim.SGD
    )
    learn.cbs = (count,)
    assert not math.isnan(learn.fit(1)[0]['train_loss']) and count.n == 2
    assert learn.cbs == (count,)


# smaller ones -------------------------------------------------------------------------


def test_a_second_fit_goes_on_with_the_optimiser_if_asked():
    "Two fits of one epoch are then one of two, momentum included"

    def learner():
        torch.manual_seed(0)
        x, y = torch.randn(64, 4), torch.randint(3, (64,))
        dls = DataLoaders(TensorLoader(x, y, 16), None)
        opt = partial(optim.SGD, momentum=0.9)
        return TrainLearner(nn.Linear(4, 3), dls, F.cross_entropy, 0.1, opt_func=opt)

    def weights(*fits):
        learn = learner()
        for epochs, kw in fits:
            learn.fit(epochs, valid=False, **kw)
        return learn.model.weight.detach(), learn.opt

    whole, _ = weights((2, {}))
    assert torch.equal(weights((1, {}), (1, dict(reset_opt=False)))[0], whole)
    assert not torch.equal(weights((1, {}), (1, {}))[0], whole)
    found, opt = weights((1, {}), (1, dict(reset_opt=False, lr=0.01)))
    assert opt.param_groups[0]['lr'] == 0.01 and not torch.equal(found, whole)
    assert torch.equal(
        weights((2, dict(reset_opt=False)))[0], whole
    )  # there is none yet


def test_an_error_in_a_cleanup_does_not_hide_the_one_before():
    class Fails(Callback):
        def after_batch(self, learn):
            raise ValueError('first')

        def cleanup_batch(self, learn):
            raise KeyError('second')

    class FailsToo(Callback):
        def cleanup_fit(self, learn):
            raise KeyError('third')

    learn = TrainLearner(
        nn.Linear(4, 3), data(torch.arange(8) % 3), F.cross_entropy, cbs=FailsToo()
    )
    with pytest.raises(ValueError, match='first') as e:
        learn.fit(1, cbs=Fails())
    told, o = [], e.value
    while o is not None:
        told.append(o.args[0])
        o = o.__context__
    assert told == ['first', 'second', 'third']


def test_what_was_captured_is_on_the_cpu_after_each_batch():
    keep = CapturePreds(inps=True)
    seen = []

    class Look(Callback):
        order = 1

        def after_batch(self, learn):
            preds, targs, inps = keep.parts[-1]
            seen.append(preds.device.type == 'cpu' and not preds.requires_grad)

    learn = TrainLearner(
        nn.Linear(4, 3), data(torch.arange(8) % 3), F.cross_entropy, cbs=[keep, Look()]
    )
    learn.fit(1)
    assert seen == [True, True]


@pytest.mark.parametrize('leak', [None, 0.0, 0.1])
def test_an_activation_as_torchscript(leak):
    f = GeneralRelu(leak, 0.4, 6.0)
    x = torch.linspace(-10, 10, 21)
    assert torch.equal(torch.jit.script(f)(x.clone()), f(x.clone()))


@pytest.mark.parametrize('kind', [torch.stack, list])
def test_coloured_batches_are_drawn_in_range(kind):
    from matplotlib import pyplot as plt

    torch.manual_seed(0)
    ims = kind([o for o in torch.randn(4, 3, 6, 6)])
    show_images(ims)
    drawn = [ax.images[0].get_array() for ax in plt.gcf().axes]
    plt.close('all')
    if kind is torch.stack:  # of single images one does not know what belongs together
        values = torch.stack([torch.as_tensor(o.data) for o in drawn])
        assert values.min() == 0 and values.max() == 1
    assert len(drawn) == 4
