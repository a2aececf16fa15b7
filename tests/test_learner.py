"""The loop: order of events, clean-up, cancelling, errors

Also that it never waits for the device.
"""

import numpy as np, pytest, torch
import torch.nn.functional as F
from conftest import mlp
from torch import nn
from torcheval.metrics import MulticlassAccuracy

from miniai.conv import to_device
from miniai.datasets import DataLoaders, TensorLoader
from miniai.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    DeviceCB,
    Learner,
    MetricsCB,
    MomentumLearner,
    ProgressCB,
    SaveHistoryCB,
    SingleBatchCB,
    TerminateOnNaN,
    TrainCB,
    TrainLearner,
    run_cbs,
)

BATCH = 'before_batch predict after_predict get_loss after_loss'.split()
STEP = 'backward after_backward step after_step zero_grad'.split()
END = 'after_batch cleanup_batch'.split()


class Log(Callback):
    "Writes down every event, the five steps included"

    def __init__(self):
        self.log = []

    def __getattr__(self, nm):
        if nm.startswith('_'):
            raise AttributeError(nm)
        return lambda learn: self.log.append(nm)


def one_batch(dls):
    return DataLoaders(list(dls.train)[:1], list(dls.valid)[:1])


def test_order_of_events(dls):
    log = Log()
    Learner(mlp(), one_batch(dls), F.cross_entropy, cbs=[TrainCB(), log]).fit(1)
    epoch = lambda steps: [
        'before_epoch',
        *BATCH,
        *steps,
        *END,
        'after_epoch',
        'cleanup_epoch',
    ]
    assert log.log == [
        'before_fit',
        *epoch(STEP),
        *epoch([]),
        'after_fit',
        'cleanup_fit',
    ]


@pytest.mark.parametrize(
    'level,exc,skipped',
    [
        ('batch', CancelBatchException, 6 * ['after_batch']),
        ('epoch', CancelEpochException, ['after_epoch']),
        ('fit', CancelFitException, ['after_fit']),
    ],
)
def test_cancel_skips_after_but_not_cleanup(learner, level, exc, skipped):
    class Cancel(Callback):
        def after_loss(self, learn):
            raise exc()

    log = Log()
    for nm in ('predict', 'get_loss', 'backward', 'step', 'zero_grad'):
        setattr(log, nm, lambda learn: None)
    h = learner(
        cbs=[log, Cancel(), MetricsCB()]
        if level != 'batch'
        else [log, Cancel(), Quiet()]
    ).fit(1, valid=False)
    assert f'after_{level}' not in log.log
    n = {'batch': 6, 'epoch': 1, 'fit': 1}[level]
    assert log.log.count(f'cleanup_{level}') == n and log.log.count('cleanup_fit') == 1
    if level != 'fit':
        assert 'after_fit' in log.log
    if level != 'batch':
        assert len(h) == 0


class Quiet(MetricsCB):
    "Stands in for the default `MetricsCB`, and records nothing"

    def after_epoch(self, learn):
        pass


@pytest.mark.parametrize(
    'event',
    (
        'before_fit before_epoch before_batch after_predict after_loss after_backward '
        'after_step after_batch after_epoch after_fit'
    ).split(),
)
def test_an_error_names_callback_and_event_and_leaves_the_learner_usable(
    learner, event
):
    class Bad(Callback):
        pass

    def fail(self, learn):
        raise ValueError('oops')

    setattr(Bad, event, fail)
    log, learn = Log(), learner()
    for nm in ('predict', 'get_loss', 'backward', 'step', 'zero_grad'):
        setattr(log, nm, lambda learn: None)
    with pytest.raises(ValueError, match='oops') as e:
        learn.fit(1, cbs=[log, Bad()])
    assert e.value.__notes__ == [f'(raised in Bad.{event})']
    assert log.log[-1] == 'cleanup_fit'
    assert learn.cbs == []
    assert len(learn.fit(1)) == 1


def test_every_cleanup_runs_when_one_fails(learner):
    class Bad(Callback):
        def cleanup_fit(self, learn):
            raise ValueError('oops')

    log = Log()
    for nm in ('predict', 'get_loss', 'backward', 'step', 'zero_grad'):
        setattr(log, nm, lambda learn: None)
    with pytest.raises(ValueError, match='oops'):
        learner(cbs=[Bad(), log]).fit(1)
    assert log.log[-1] == 'cleanup_fit'


def test_methods_are_looked_up_once_per_fit(learner):
    class Counting(Callback):
        looked = 0

        def __getattribute__(self, nm):
            if nm == 'after_batch':
                Counting.looked += 1
            return super().__getattribute__(nm)

        def after_batch(self, learn):
            pass

    learner(cbs=Counting()).fit(3)
    assert Counting.looked == 1


def test_order_decides_then_place_in_the_list():
    said = []

    class Say(Callback):
        def __init__(self, nm, order):
            self.nm, self.order = nm, order

        def hello(self, learn):
            said.append(self.nm)

    run_cbs([Say('c', 1), Say('a', 0), Say('b', 0)], 'hello')
    assert said == list('abc')


def test_the_callers_list_is_left_alone(learner):
    mine, more = [SingleBatchCB()], [SingleBatchCB()]
    learn = learner(cbs=mine)
    learn.fit(1, cbs=more)
    assert (len(mine), len(more), len(learn.cbs)) == (1, 1, 1) and learn.cbs is not mine


def test_a_learner_that_cannot_train_says_so(dls):
    with pytest.raises(
        ValueError, match='no way to predict, get_loss, backward, step, zero_grad'
    ):
        Learner(mlp(), dls).fit(1)
    with pytest.raises(ValueError, match='no way to predict, get_loss:'):
        Learner(mlp(), dls).fit(1, train=False)

    class Half(Callback):
        def predict(self, learn):
            pass

    with pytest.raises(ValueError, match='no way to get_loss'):
        Learner(mlp(), dls, cbs=Half()).fit(1)


def test_fit_from_inside_a_fit_is_refused(learner):
    class Again(Callback):
        def after_epoch(self, learn):
            learn.fit(1)

    with pytest.raises(RuntimeError, match='second Learner'):
        learner(cbs=Again()).fit(1)


def test_validation_alone_leaves_weights_and_optimiser(learner):
    learn = learner()
    learn.fit(1)
    opt, before = learn.opt, [p.clone() for p in learn.model.parameters()]
    h = learn.fit(1, train=False)
    assert learn.opt is opt and 'train_loss' not in h[0]
    for a, b in zip(before, learn.model.parameters()):
        assert torch.equal(a, b)


def test_fit_zero_and_bad_numbers_of_epochs(learner):
    h = learner().fit(0)
    assert len(h) == 0 and 'No epoch' in repr(h)
    for n in (-1, 1.5, True, '2'):
        with pytest.raises(ValueError, match='n_epochs'):
            learner().fit(n)


def test_without_devicecb_the_batch_goes_where_the_model_is(dls):
    seen = []

    class Meta(nn.Linear):
        def forward(self, x):
            seen.append(x.device.type)
            raise CancelFitException()

    TrainLearner(Meta(4, 3, device='meta'), dls, F.cross_entropy).fit(1)
    assert seen == ['meta']


def test_a_model_without_parameters_can_be_validated(dls):
    assert (
        len(TrainLearner(nn.Identity(), dls, F.cross_entropy).fit(1, train=False)) == 1
    )


def test_means_weigh_by_items_and_are_numbers(learner, dls):
    class Accuracy:
        def reset(self):
            self.hits, self.n = 0, 0

        def update(self, preds, targs):
            self.hits, self.n = (
                self.hits + (preds.argmax(1) == targs).sum(),
                self.n + len(targs),
            )

        def compute(self):
            return self.hits / self.n

    learn = learner(cbs=MetricsCB(accuracy=Accuracy()))
    h = learn.fit(1, train=False)
    with torch.no_grad():
        preds = learn.model(dls.valid.x)
    assert h[0]['valid_loss'] == pytest.approx(
        F.cross_entropy(preds, dls.valid.y).item()
    )
    assert h[0]['valid_accuracy'] == pytest.approx(
        (preds.argmax(1) == dls.valid.y).float().mean().item()
    )
    assert all(type(v) in (int, float) for v in h[0].values())


def test_losses_are_summed_in_float32_and_by_items(dls):
    "Half precision, and inputs in a dict"

    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x['x'].to(torch.bfloat16))

    model = Half(4, 3, dtype=torch.bfloat16)
    batches = [({'x': x, 'name': 'a'}, y) for x, y in dls.valid] * 50
    h = TrainLearner(model, DataLoaders(None, batches), F.cross_entropy).fit(
        1, train=False
    )
    want = sum(
        F.cross_entropy(model(b[0]), b[1]).item() * len(b[1]) for b in batches
    ) / sum(len(b[1]) for b in batches)
    assert h[0]['valid_loss'] == pytest.approx(want, rel=1e-4)


def test_metrics_go_where_the_model_goes_whatever_the_order(dls):
    seen = []

    class Metric:
        def reset(self):
            pass

        def update(self, p, t):
            pass

        def compute(self):
            return 0

        def to(self, device):
            seen.append(str(device))
            return self

    class Meta(DeviceCB):
        def before_batch(self, learn):
            raise CancelFitException()

    TrainLearner(
        mlp(), dls, F.cross_entropy, cbs=[MetricsCB(m=Metric()), Meta('meta')]
    ).fit(1)
    assert seen == ['meta']


def test_an_epoch_whose_batches_were_all_cancelled(learner):
    class Skip(Callback):
        def before_batch(self, learn):
            raise CancelBatchException()

    assert str(learner(cbs=Skip()).fit(1)[0]['train_loss']) == 'nan'


def test_a_callback_that_would_never_be_asked_is_refused(dls):
    class Scaled(TrainCB):
        def backward(self, learn):
            (learn.loss * 2).backward()

    with pytest.raises(
        ValueError, match='Scaled defines backward, which TrainLearner does itself'
    ):
        TrainLearner(mlp(), dls, F.cross_entropy, cbs=Scaled()).fit(1)
    assert len(Learner(mlp(), dls, F.cross_entropy, cbs=Scaled()).fit(1)) == 1
    assert len(TrainLearner(mlp(), dls, F.cross_entropy, cbs=TrainCB()).fit(1)) == 1


@pytest.mark.parametrize(
    'batch',
    [
        (['abc'] * 16, torch.zeros(16)),
        ({'text': ['abc'] * 16, 'n': 3}, None),
        (torch.zeros(()), torch.zeros(16)),
        ('abc', 2),
    ],
)
def test_batches_without_an_obvious_length(batch):
    class Own(TrainLearner):
        def predict(self):
            self.preds = self.model(torch.randn(16, 4))

        def get_loss(self):
            self.loss = self.preds.mean()

    assert len(Own(mlp(), DataLoaders([batch], [batch])).fit(1)) == 1


def test_a_loss_that_is_a_plain_number(dls, monkeypatch):
    monkeypatch.setattr(
        'miniai.progress._Lines.interval', 0.0
    )  # read the loss at every batch

    class Own(TrainLearner):
        def get_loss(self):
            self.loss = 1.5

    assert (
        Own(mlp(), dls, cbs=[TerminateOnNaN(2), ProgressCB()]).fit(1, train=False)[0][
            'valid_loss'
        ]
        == 1.5
    )


def test_metrics_that_are_no_single_number(learner):
    class Both:
        def reset(self):
            pass

        def update(self, p, t):
            pass

        def compute(self):
            return {'a': torch.ones(2), 'b': torch.tensor(3.0)}

    class Numpy(Both):
        def compute(self):
            return np.float32(2.0)

    h = learner(cbs=MetricsCB(both=Both(), one=Numpy())).fit(2)
    assert h['train_one'] == [2.0, 2.0] and type(h[0]['train_one']) is float
    assert h[0]['train_both'] == {'a': [1.0, 1.0], 'b': 3.0} and 'both' in repr(h)
    assert [ax.get_ylabel() for ax in h.plot().flat] == ['loss', 'one']
    with pytest.raises(KeyError, match='no column'):
        h['valid_los']


def test_a_wrong_loss_for_outputs_that_are_no_tensor(dls):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 3)

        def forward(self, x):
            return {'out': self.l(x)}

    def loss(p, t):
        raise RuntimeError('my own')

    with pytest.raises(RuntimeError, match='my own'):
        TrainLearner(Two(), dls, loss).fit(1)


def test_nothing_to_do_is_an_error(learner):
    with pytest.raises(ValueError, match='would do nothing'):
        learner().fit(1, train=False, valid=False)


def test_saving_the_history_needs_a_folder(learner, tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        learner(cbs=SaveHistoryCB(tmp_path / 'a' / 'm.csv')).fit(1)
    learner(cbs=SaveHistoryCB(tmp_path / 'm.csv')).fit(2)
    assert len((tmp_path / 'm.csv').read_text().splitlines()) == 3


def test_metrics_that_are_none(learner):
    with pytest.raises(ValueError, match="'loss' is taken"):
        MetricsCB(loss=MetricsCB)
    with pytest.raises(TypeError, match='reset, update and compute'):
        MetricsCB(accuracy=lambda p, t: 0)


READS = (
    'item tolist __bool__ __float__ __int__ __index__ __array__ cpu numpy nonzero'
).split()


def test_nothing_is_read_from_the_device_per_step(monkeypatch):
    """The number of reads does not grow with the number of batches

    But for a look at the losses every 20.
    """

    def reads(n):
        def tl(k):
            return TensorLoader(
                torch.randn(16 * k, 4), torch.zeros(16 * k, dtype=torch.int64), 16
            )

        learn = TrainLearner(
            mlp(),
            DataLoaders(tl(n), tl(n)),
            F.cross_entropy,
            cbs=[
                DeviceCB('cpu'),
                MetricsCB(accuracy=MulticlassAccuracy()),
                TerminateOnNaN(),
            ],
        )
        count = 0
        with monkeypatch.context() as m:
            for nm in READS:

                def counted(self, *a, _f=getattr(torch.Tensor, nm), **k):  # noqa: B008
                    nonlocal count
                    count += 1
                    return _f(self, *a, **k)

                m.setattr(torch.Tensor, nm, counted)
            learn.fit(1)
        return count

    few, many = reads(19), reads(199)
    assert few > 0 and many - few <= 2 * 2 * (200 // 20), (few, many)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='counts waits of a GPU')
def test_a_gpu_is_not_waited_for_within_an_epoch(dls):
    class Strict(Callback):
        def before_batch(self, learn):
            torch.cuda.set_sync_debug_mode('error' if learn.iter else 'default')

        def cleanup_batch(self, learn):
            torch.cuda.set_sync_debug_mode('default')

    data = DataLoaders(
        *[[tuple(o.cuda() for o in b) for b in dl] for dl in (dls.train, dls.valid)]
    )
    TrainLearner(
        mlp(),
        data,
        F.cross_entropy,
        cbs=[
            DeviceCB('cuda'),
            MetricsCB(accuracy=MulticlassAccuracy()),
            TerminateOnNaN(1000),
            Strict(),
        ],
    ).fit(2)


def test_the_batch_is_not_copied(dls):
    xb, yb = next(iter(dls.valid))
    assert to_device((xb, yb), 'cpu')[0] is xb


def test_momentum_learner_with_defaults_and_frozen_parameters(dls):
    model = mlp()
    model[0].weight.requires_grad_(False)
    assert len(MomentumLearner(model, dls, F.cross_entropy, lr=None).fit(2)) == 2


def test_two_fits_in_a_row_do_not_share_gradients(dls):
    "MomentumLearner leaves gradients behind; the next fit must not begin with them"

    def fit(learn):
        learn.fit(1, valid=False, lr=0.0)
        return [p.grad.clone() for p in learn.model.parameters()]

    fixed = DataLoaders(TensorLoader(dls.train.x, dls.train.y, 16))
    learn = MomentumLearner(mlp(), fixed, F.cross_entropy)
    for a, b in zip(fit(learn), fit(learn)):
        assert torch.allclose(a, b)


# Bad input ----------------------------------------------------------------------------


def with_labels(y, n_out=3, x=None):
    y = torch.as_tensor(y)
    x = torch.randn(len(y), 4) if x is None else x
    return TrainLearner(
        nn.Linear(4, n_out), DataLoaders(TensorLoader(x, y, 4)), F.cross_entropy
    )


@pytest.mark.parametrize(
    'y,why',
    [
        ([0, 1, 2, 3], 'labels go from 0 to 3, but the model has 3 outputs'),
        ([0, 1, -1, 2], 'labels go from -1 to 2'),
        ([0] * 4 + [9] * 4, 'labels go from 0 to 9'),
    ],
)
def test_labels_out_of_range(y, why):
    with pytest.raises(ValueError, match=why):
        with_labels(y).fit(1, valid=False)


def test_labels_out_of_range_in_a_later_batch_of_a_loader_that_does_not_know():
    learn = with_labels([0] * 4 + [9] * 4)
    learn.dls = DataLoaders(list(learn.dls.train))
    with pytest.raises(ValueError, match='labels go from 9 to 9'):
        learn.fit(1, valid=False)


def test_ignored_labels_are_not_out_of_range():
    assert len(with_labels([0, 1, -100, 2]).fit(1, valid=False)) == 1
    learn = with_labels([0, 1, 7, 2])
    learn.loss_func = nn.CrossEntropyLoss(ignore_index=7)
    assert len(learn.fit(1, valid=False)) == 1


def test_outputs_that_do_not_fit(dls):
    with pytest.raises(ValueError, match=r'shape \(16, 2, 2\).*Flatten'):
        TrainLearner(
            nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))),
            dls,
            F.cross_entropy,
        ).fit(1)
    with pytest.raises(
        ValueError, match='predictions for 32 items, but the batch has 16 labels'
    ):
        TrainLearner(
            nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1), nn.Linear(2, 3)),
            dls,
            F.cross_entropy,
        ).fit(1)
    with pytest.raises(ValueError, match='wants torch.int64'):
        with_labels(torch.tensor([0, 1, 2], dtype=torch.int32)).fit(1, valid=False)


def test_other_errors_of_a_loss_stay_what_they_are(learner):
    def loss(p, t):
        raise RuntimeError('my own')

    with pytest.raises(RuntimeError, match='my own'):
        learner(loss_func=loss).fit(1)


def test_an_empty_or_missing_loader(dls):
    with pytest.raises(ValueError, match='train loader is empty'):
        TrainLearner(mlp(), DataLoaders([], dls.valid), F.cross_entropy).fit(1)
    with pytest.raises(ValueError, match='valid loader is empty'):
        TrainLearner(mlp(), DataLoaders(dls.train, []), F.cross_entropy).fit(1)
    log = Log()
    with pytest.raises(ValueError, match='no valid loader'):
        TrainLearner(mlp(), DataLoaders(dls.train), F.cross_entropy).fit(1, cbs=log)
    assert log.log == []  # before anything was trained


def test_a_class_instead_of_a_callback(dls):
    with pytest.raises(TypeError, match=r'write TrainCB\(\)'):
        Learner(mlp(), dls, cbs=[TrainCB])
    with pytest.raises(TypeError, match=r'write TrainCB\(\)'):
        Learner(mlp(), dls).fit(1, cbs=TrainCB)


def test_an_unknown_device():
    for nm in ('tpu9', 'cuda:77'):
        with pytest.raises(ValueError, match=f"no device '{nm}'"):
            DeviceCB(nm)


@pytest.mark.parametrize('phase,bad', [('train', 3), ('train', 5), ('valid', 2)])
@pytest.mark.parametrize('every', [1, 2, 100])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_the_first_bad_batch_is_named_and_nothing_recorded(
    learner, phase, bad, every, value
):
    class Poison(Callback):
        order = -10

        def after_loss(self, learn):
            if learn.epoch == 1 and learn.phase == phase and learn.iter >= bad - 1:
                learn.loss = learn.loss * value

    learn = learner(cbs=[Poison(), TerminateOnNaN(every)])
    with pytest.raises(
        FloatingPointError, match=f'in epoch 2 of 3, at {phase} batch {bad}[.]'
    ):
        learn.fit(3)
    row = learn.history.rows[-1]
    assert row['epoch'] == 1 or f'{phase}_loss' not in row
