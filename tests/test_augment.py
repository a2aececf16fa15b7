"Random changes of batches, looks without a trace, predictions kept or averaged"

import importlib, random, sys
from copy import deepcopy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from miniai.augment import (
    CapturePreds,
    RandCopy,
    RandCrop,
    RandErase,
    RandFlip,
    TTACB,
    hflip,
    rand_copy,
    rand_crop,
    rand_erase,
    rand_flip,
    tfm_batch,
)
from miniai.datasets import DataLoaders, TensorLoader
from miniai.init import BatchTransformCB
from miniai.learner import (
    Accuracy,
    Callback,
    Learner,
    MetricsCB,
    SingleBatchCB,
    TrainCB,
    TrainLearner,
)
from miniai.sgd import BatchSchedCB, RecorderCB
from miniai.xtras import set_seed

TFMS = {'crop': rand_crop, 'flip': rand_flip, 'erase': rand_erase, 'copy': rand_copy}
MODULES = {'crop': RandCrop, 'flip': RandFlip, 'erase': RandErase, 'copy': RandCopy}
every = pytest.mark.parametrize('nm', list(TFMS))


def numbered(n, c=1, h=12, w=12):
    """Images no two of whose pixels are alike

    The whole part of a pixel divided by `c*h*w` is the number of its image.
    """
    return torch.arange(float(n * c * h * w)).view(n, c, h, w)


# transforms ---------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    'shape',
    [
        (8, 1, 28, 28),
        (8, 3, 28, 28),
        (4, 3, 9, 17),
        (4, 1, 17, 9),
        (1, 1, 12, 12),
        (3, 1, 1, 1),
        (3, 3, 1, 5),
        (1, 1, 1, 1),
        (1, 3, 2, 2),
    ],
)
def test_shape_and_caller_stay(nm, shape):
    x = torch.randn(shape)
    before = x.clone()
    for _ in range(5):
        y = TFMS[nm](x)
        assert (
            y.shape == shape
            and y.dtype == x.dtype
            and y.device == x.device
            and y.isfinite().all()
        )
        assert torch.equal(x, before)
        y.zero_()  # and a change to the result does not reach the caller either
        assert torch.equal(x, before)


@every
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_stays(nm, dtype):
    assert TFMS[nm](torch.randn(4, 3, 8, 8, dtype=dtype)).dtype == dtype


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_device_stays(nm):
    x = torch.randn(4, 3, 8, 8, device='cuda')
    assert TFMS[nm](x).device == x.device


@every
def test_memory_format_does_not_matter(nm):
    x = torch.randn(8, 3, 12, 10)
    set_seed(1)
    a = TFMS[nm](x)
    set_seed(1)
    b = TFMS[nm](x.to(memory_format=torch.channels_last))
    if nm != 'erase':
        assert torch.equal(a, b)  # noise is drawn in the order of the memory
    else:
        assert torch.equal(a != x, b != x)


@every
def test_same_seed_same_pictures(nm):
    x = torch.randn(16, 1, 12, 12)
    set_seed(3)
    a = TFMS[nm](x)
    set_seed(3)
    b = TFMS[nm](x)
    c = TFMS[nm](x)
    assert torch.equal(a, b) and not torch.equal(a, c)


@every
def test_each_image_gets_its_own_change(nm):
    x = numbered(1, 1, 28, 28).expand(64, -1, -1, -1)
    y = TFMS[nm](x)
    assert len({tuple(o.flatten().tolist()) for o in y}) >= (2 if nm == 'flip' else 20)


@every
def test_channels_change_together(nm):
    base = torch.tensor([0.0, 100.0, 200.0]).view(1, 3, 1, 1)
    x = (
        torch.rand(32, 1, 12, 12)
        if nm == 'erase'
        else torch.randint(0, 50, (32, 1, 12, 12))
    ) + base
    y = TFMS[nm](x)
    if nm == 'erase':
        y = (y != x) * 1.0 + base  # noise is each channel's own, its places are not
    assert torch.equal(y - base, (y - base)[:, :1].expand_as(y))


def shifted(im, dy, dx, fill):
    out = fill.view(-1, 1, 1).expand_as(im).clone()
    _, h, w = im.shape
    for i in range(h):
        for j in range(w):
            if 0 <= i + dy < h and 0 <= j + dx < w:
                out[:, i, j] = im[:, i + dy, j + dx]
    return out


@pytest.mark.parametrize(
    'c,h,w,pad', [(1, 6, 6, 2), (3, 5, 8, 1), (2, 8, 5, 3), (1, 3, 3, 4)]
)
def test_a_crop_is_one_of_the_shifts_filled_with_black(c, h, w, pad):
    x = numbered(40, c, h, w)
    dark, seen = x.amin((0, 2, 3)), set()
    for im, y in zip(x, rand_crop(x, pad)):
        found = [
            (i, j)
            for i in range(-pad, pad + 1)
            for j in range(-pad, pad + 1)
            if torch.equal(y, shifted(im, i, j, dark))
        ]
        assert found
        seen.update(found)
    assert min(o[0] for o in seen) < 0 < max(o[0] for o in seen) and min(
        o[1] for o in seen
    ) < 0 < max(o[1] for o in seen)


def test_a_crop_of_nothing_and_a_flip_of_none_and_of_all():
    x = torch.randn(8, 3, 6, 7)
    assert (
        torch.equal(rand_crop(x, 0), x)
        and torch.equal(rand_flip(x, 0.0), x)
        and torch.equal(rand_flip(x, 1.0), hflip(x))
    )
    assert torch.equal(hflip(x)[..., 0], x[..., -1]) and torch.equal(hflip(hflip(x)), x)


def test_about_half_are_flipped_and_the_rest_is_left_alone():
    x = numbered(400)
    y = rand_flip(x)
    same, turned = ((y == o).flatten(1).all(1) for o in (x, hflip(x)))
    assert torch.equal(same, ~turned) and 140 < turned.sum() < 260


def test_erase_changes_whole_rectangles_and_nothing_else():
    x = numbered(300, 1, 20, 20) + 1000 * torch.randn(300, 1, 20, 20)
    changed = rand_erase(x, 0.3, 1) != x  # one patch of 6 by 6, or none
    n = changed.flatten(1).sum(1)
    for m in changed[n > 0]:
        i, j = m[0].nonzero(as_tuple=True)
        assert (i.max() - i.min() + 1, j.max() - j.min() + 1) == (
            6,
            6,
        ) and m.sum() == 36
    assert set(n.tolist()) == {0, 36} and 90 < (n == 0).sum() < 210


def test_the_number_of_patches_goes_from_none_to_max_num():
    x = numbered(600, 1, 40, 40)
    n = (rand_erase(x, 0.05, 4) != x).flatten(1).sum(1)  # of 2 by 2; some overlap
    assert n.min() == 0 and n.max() == 16 and 40 < (n == 0).sum() < 200


def test_noise_is_like_the_batch():
    x = 3 * torch.randn(400, 1, 28, 28) + 5
    y = rand_erase(x, 0.5, 4)
    new = y[y != x]
    assert (
        abs(new.mean() - x.mean()) < 0.05
        and abs(new.std() - x.std()) < 0.05
        and x.min() <= new.min()
        and new.max() <= x.max()
    )
    assert torch.equal(
        rand_erase(torch.full((4, 1, 8, 8), 0.7), 1.0), torch.full((4, 1, 8, 8), 0.7)
    )


def test_copies_come_from_the_same_image_and_rectangles_stay_whole():
    x = numbered(200, 3, 10, 14)
    y = rand_copy(x, 0.3, 4)
    size = 3 * 10 * 14
    assert torch.equal(
        (y / size).long(), torch.arange(200).view(-1, 1, 1, 1).expand_as(y)
    )  # of the same image
    assert torch.equal(
        (y % size / 140).long(), torch.arange(3).view(1, -1, 1, 1).expand_as(y)
    )  # and of the same channel
    one = rand_copy(x, 0.3, 1)
    offset = (one - x)[:, 0]
    for o in offset:
        assert len(o.unique()) <= 2  # a patch is moved as a whole
    assert ((one != x).flatten(1).sum(1) / 3 <= 3 * 4).all() and (one != x).any()


def test_a_picture_of_one_pixel_is_copied_to_itself():
    x = torch.randn(5, 3, 1, 1)
    assert torch.equal(rand_copy(x), x)


@pytest.mark.parametrize('f', [rand_erase, rand_copy])
def test_no_patches_and_patches_as_large_as_the_picture(f):
    x = torch.randn(6, 1, 8, 8)
    assert torch.equal(f(x, max_num=0), x)
    assert f(x, pct=1.0).shape == x.shape
    if f is rand_copy:
        assert torch.equal(f(x, pct=1.0), x)


@pytest.mark.parametrize('f', [rand_erase, rand_copy, lambda x, pct: RandErase(pct)(x)])
@pytest.mark.parametrize('pct', [1.01, 20, -0.1])
def test_a_side_that_is_no_share_is_refused(f, pct):
    with pytest.raises(ValueError, match=r'pct is .*between 0 and 1'):
        f(torch.randn(2, 1, 8, 8), pct=pct)


def test_gradients_flow_through():
    for f in TFMS.values():
        x = torch.randn(8, 1, 6, 6, requires_grad=True)
        f(x).sum().backward()
        assert x.grad.isfinite().all() and (x.grad != 0).any()


# modules ------------------------------------------------------------------------------


@every
def test_modules_do_what_their_functions_do_and_nothing_in_evaluation(nm):
    x, m = torch.randn(16, 1, 12, 12), MODULES[nm]()
    set_seed(5)
    a = m(x)
    set_seed(5)
    b = TFMS[nm](x)
    assert torch.equal(a, b) and not torch.equal(a, x)
    state = torch.get_rng_state()
    assert m.eval()(x) is x and torch.equal(state, torch.get_rng_state())
    assert not list(m.parameters()) and not m.state_dict()


def test_modules_tell_their_settings():
    assert (
        repr(RandErase(0.3, 2)) == 'RandErase(pct=0.3, max_num=2)'
        and repr(RandCrop()) == 'RandCrop(pad=2)'
    )
    x = torch.randn(4, 1, 6, 6)
    assert torch.equal(RandFlip(1.0)(x), hflip(x))
    deepcopy(nn.Sequential(*(m() for m in MODULES.values())))


def test_tfm_batch():
    x, y = torch.randn(2, 1, 4, 4), torch.tensor([0, 1])
    assert tfm_batch((x, y)) == (x, y)
    a, b = tfm_batch((x, y), hflip, lambda o: o + 1)
    assert torch.equal(a, hflip(x)) and b.tolist() == [1, 2]


# learners -----------------------------------------------------------------------------


def cnn(n_in=1):
    return nn.Sequential(
        nn.Conv2d(n_in, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * 16, 3),
    )


def image_dls(n_in=1, valid=50):
    return DataLoaders(
        TensorLoader(torch.randn(96, n_in, 8, 8), torch.arange(96) % 3, 16, True),
        TensorLoader(torch.randn(valid, n_in, 8, 8), torch.arange(valid) % 3, 16)
        if valid
        else None,
    )


@pytest.fixture
def learn():
    return TrainLearner(
        cnn(),
        image_dls(),
        F.cross_entropy,
        0.01,
        [BatchTransformCB(partial(tfm_batch, tfm_x=RandErase()), on_valid=False)],
    )


class Trace:
    "Everything about a learner that a look must leave alone"

    def __init__(self, learn):
        self.learn, self.was = learn, self.now(learn)

    @staticmethod
    def now(learn):
        return dict(
            state={k: v.clone() for k, v in learn.model.state_dict().items()},
            grads=[
                None if p.grad is None else p.grad.clone()
                for p in learn.model.parameters()
            ],
            modes=[m.training for m in learn.model.modules()],
            torch=torch.get_rng_state(),
            np=np.random.get_state()[1].tolist(),
            py=random.getstate(),
            opt=learn.opt,
            opt_state=deepcopy(learn.opt.state_dict()) if learn.opt else None,
            history=learn.history,
            cbs=list(learn.cbs),
            own={k: id(v) for k, v in vars(learn).items()},
        )

    def check(self):
        now = self.now(self.learn)
        for k in ('modes', 'np', 'py', 'cbs', 'own'):
            assert now[k] == self.was[k], k
        for k in ('opt', 'history'):
            assert now[k] is self.was[k], k
        assert torch.equal(now['torch'], self.was['torch'])
        for k, v in self.was['state'].items():
            assert torch.equal(v, now['state'][k]), k
        for a, b in zip(self.was['grads'], now['grads']):
            assert (a is None and b is None) or torch.equal(a, b)
        assert str(self.was['opt_state']) == str(now['opt_state'])


LOOKS = {
    'show_image_batch': lambda l: l.show_image_batch(),
    'capture_preds': lambda l: l.capture_preds(),
    'tta': lambda l: l.tta(),
}


@pytest.mark.parametrize('look', list(LOOKS))
@pytest.mark.parametrize('fitted', [False, True])
def test_a_look_leaves_no_trace(learn, look, fitted):
    sched = BatchSchedCB(
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=6)
    )
    learn.cbs += [
        sched,
        RecorderCB(lr=lambda cb: cb.learn.opt.param_groups[0]['lr']),
        MetricsCB(accuracy=Accuracy()),
    ]
    learn.opt_func = torch.optim.AdamW
    if fitted:
        learn.fit(1)
        learn.model.train()
        learn.model[1].eval()
        F.cross_entropy(
            learn.model(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])
        ).backward()
    trace = Trace(learn)
    LOOKS[look](learn)
    plt.close('all')
    trace.check()


@pytest.mark.parametrize('look', list(LOOKS))
def test_training_goes_on_as_if_nobody_had_looked(look):
    def losses(looks):
        set_seed(0)
        learn = TrainLearner(
            cnn(), image_dls(), F.cross_entropy, 0.01, opt_func=torch.optim.AdamW
        )
        learn.fit(1)
        if looks:
            LOOKS[look](learn)
            plt.close('all')
        return learn.fit(1)['train_loss']

    assert losses(True) == losses(False)


@pytest.mark.parametrize('look', list(LOOKS))
def test_a_look_that_fails_leaves_no_trace_either(learn, look):
    class Bad(Callback):
        def before_batch(self, learn):
            raise RuntimeError('oops')

    learn.fit(1)
    learn.cbs.append(Bad())
    trace = Trace(learn)
    with pytest.raises(RuntimeError, match='oops'):
        LOOKS[look](learn)
    trace.check()


def drawn():
    "The images in the current figure"
    return [ax.images[0].get_array() for ax in plt.gcf().axes if ax.images]


def test_show_image_batch_draws_what_the_callbacks_leave(learn):
    learn.cbs = [BatchTransformCB(lambda b: (torch.full_like(b[0], 7.0), b[1]))]
    learn.show_image_batch(max_n=5)
    assert len(drawn()) == 5 and all((o == 7).all() for o in drawn())
    learn.show_image_batch(cbs=BatchTransformCB(lambda b: (b[0] + 1, b[1])), nrows=1)
    assert len(drawn()) == 9 and all((o == 8).all() for o in drawn())
    plt.close('all')


def test_show_image_batch_shows_the_batch_that_training_would_begin_with(learn):
    class Keep(Callback):
        in_trial = False

        def before_fit(self, learn):
            self.batches = []

        def before_batch(self, learn):
            self.batches.append(learn.batch[0])

    keep = Keep()
    learn.cbs.append(keep)
    set_seed(1)
    learn.show_image_batch(max_n=16)
    shown = np.stack(drawn())
    set_seed(1)
    learn.fit(1, valid=False, cbs=SingleBatchCB())
    assert np.array_equal(shown, keep.batches[0][:, 0].numpy())
    plt.close('all')


def test_show_image_batch_of_coloured_and_of_no_pictures(learner, caplog):
    TrainLearner(cnn(3), image_dls(3), F.cross_entropy).show_image_batch(max_n=4)
    ims = np.stack(drawn())
    assert (
        ims.shape == (4, 8, 8, 3)
        and ims.min() >= 0
        and ims.max() <= 1
        and not caplog.records
    )
    plt.close('all')
    with pytest.raises(
        ValueError,
        match=r'draws inputs of the shape \(b, c, h, w\); these are \(9, 4\)',
    ):
        learner().show_image_batch()


def test_looks_inside_a_fit_are_refused(learn):
    class Look(Callback):
        def after_batch(self, learn):
            learn.capture_preds()

    with pytest.raises(RuntimeError, match='from inside a fit'):
        learn.fit(1, cbs=Look())


def by_hand(learn, tfm=lambda x: x):
    learn.model.eval()
    with torch.no_grad():
        return torch.cat([learn.model(tfm(xb)) for xb, _ in learn.dls.valid])


def test_capture_preds_is_a_loop_by_hand(learn):
    learn.fit(1)
    preds, targs = learn.capture_preds()
    assert torch.equal(preds, by_hand(learn)) and torch.equal(targs, learn.dls.valid.y)
    preds, targs, inps = learn.capture_preds(inps=True)
    assert torch.equal(inps, learn.dls.valid.x) and not preds.requires_grad


def test_capture_preds_takes_callbacks_and_ignores_those_of_training(learn):
    cb = BatchTransformCB(partial(tfm_batch, tfm_x=hflip), on_train=False)
    for cbs in (cb, [cb]):
        assert torch.equal(learn.capture_preds(cbs)[0], by_hand(learn, hflip))
    assert torch.equal(learn.capture_preds(cb, inps=True)[2], hflip(learn.dls.valid.x))


@pytest.mark.parametrize('look', ['capture_preds', 'tta'])
def test_without_a_validation_loader_the_learner_says_so(look):
    learn = TrainLearner(cnn(), image_dls(valid=0), F.cross_entropy)
    with pytest.raises(ValueError, match='There is no valid loader'):
        getattr(learn, look)()
    learn.show_image_batch()
    plt.close('all')


def test_an_empty_loader_is_named(learn):
    learn.dls.valid = []
    with pytest.raises(ValueError, match='The valid loader is empty'):
        learn.capture_preds()


def test_plain_learners_and_stock_loaders(learn):
    ds = TensorDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 3)
    plain = Learner(
        cnn(),
        DataLoaders(DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8)),
        F.cross_entropy,
        cbs=TrainCB(),
    )
    preds, targs = plain.capture_preds()
    assert torch.equal(preds, by_hand(plain)) and torch.equal(targs, ds.tensors[1])
    probs, _ = plain.tta()
    torch.testing.assert_close(
        probs, (by_hand(plain).softmax(1) + by_hand(plain, hflip).softmax(1)) / 2
    )


def test_capture_preds_of_nested_and_several():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 2)

        def forward(self, a, b):
            return {'sum': self.lin(a + b), 'both': (a, [b])}

    batches = [
        (torch.randn(n, 4), torch.randn(n, 4), torch.randn(n, 2), torch.arange(n))
        for n in (5, 3)
    ]
    learn = Learner(
        Two(),
        DataLoaders(batches, batches),
        lambda preds, t, i: F.mse_loss(preds['sum'], t),
        cbs=TrainCB(n_inp=2),
    )
    preds, targs, inps = learn.capture_preds(inps=True)
    assert (
        preds['sum'].shape == (8, 2)
        and torch.equal(preds['both'][0], inps[0])
        and torch.equal(preds['both'][1][0], inps[1])
    )
    assert targs[0].shape == (8, 2) and targs[1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_the_callback_in_a_fit_keeps_the_last_epoch(learn):
    cb = CapturePreds(inps=True)
    learn.fit(2, cbs=cb)
    assert (
        torch.equal(cb.all_preds, by_hand(learn))
        and torch.equal(cb.all_targs, learn.dls.valid.y)
        and torch.equal(cb.all_inps, learn.dls.valid.x)
    )
    learn.fit(1, valid=False, cbs=cb)
    assert len(cb.all_preds) == 96 and not cb.all_preds.requires_grad
    learn.fit(1, valid=False, cbs=[CapturePreds(), SingleBatchCB()])
    once = CapturePreds()
    learn.fit(
        1, valid=False, cbs=[once, SingleBatchCB()]
    )  # a cancelled epoch: what there was
    assert len(once.all_preds) == 16 and once.all_inps is None


def test_half_precision_comes_back_as_float(learn):
    class Half(TrainLearner):
        def predict(self):
            self.preds = self.model(self.batch[0]).bfloat16()

        def get_loss(self):
            self.loss = self.loss_func(self.preds.float(), self.batch[1])

    half = Half(cnn(), learn.dls, F.cross_entropy)
    assert (
        half.capture_preds()[0].dtype == torch.float32
        and half.tta()[0].dtype == torch.float32
    )


# test-time augmentation ---------------------------------------------------------------


def test_tta_is_the_mean_by_hand(learn):
    learn.fit(1)
    probs, targs = learn.tta()
    torch.testing.assert_close(
        probs, (by_hand(learn).softmax(1) + by_hand(learn, hflip).softmax(1)) / 2
    )
    torch.testing.assert_close(probs.sum(1), torch.ones(50))
    assert torch.equal(targs, learn.dls.valid.y)
    up = partial(torch.roll, shifts=1, dims=2)
    torch.testing.assert_close(
        learn.tta([None, hflip, up])[0],
        sum(by_hand(learn, f).softmax(1) for f in (lambda x: x, hflip, up)) / 3,
    )
    torch.testing.assert_close(learn.tta([None])[0], by_hand(learn).softmax(1))


def test_random_versions_differ_from_each_other(learn):
    crop = RandCrop(2)
    one, two = learn.tta([crop])[0], learn.tta([crop, crop])[0]
    assert not torch.allclose(one, two)
    assert torch.equal(
        one, learn.tta([crop])[0]
    )  # the random numbers go on as before, so the same call gives the same


def test_tta_with_a_loader_that_shuffles(learn):
    learn.dls.valid.shuffle = True
    probs, targs = learn.tta()
    learn.dls.valid.shuffle = False
    true = (by_hand(learn).softmax(1) + by_hand(learn, hflip).softmax(1)) / 2
    assert sorted(targs.tolist()) == sorted(learn.dls.valid.y.tolist())
    order = torch.cdist(probs, true).argmin(1)
    assert torch.equal(learn.dls.valid.y[order], targs) and not torch.equal(
        targs, learn.dls.valid.y
    )


def test_as_a_callback_it_changes_the_metrics_but_not_the_loss(learn):
    metric = MetricsCB(accuracy=Accuracy())
    plain = learn.fit(1, train=False, cbs=metric)[0]
    twice = learn.fit(1, train=False, cbs=[MetricsCB(accuracy=Accuracy()), TTACB()])[0]
    probs, targs = learn.tta()
    assert plain['valid_loss'] == pytest.approx(twice['valid_loss']) and twice[
        'valid_accuracy'
    ] == pytest.approx((probs.argmax(1) == targs).float().mean().item())

    def weights(*cbs):
        set_seed(0)
        l = TrainLearner(cnn(), image_dls(), F.cross_entropy, 0.01, cbs)
        l.fit(1)
        return l.model.state_dict()

    for a, b in zip(weights().values(), weights(TTACB()).values()):
        assert torch.equal(a, b)


def test_a_learner_with_the_callback_still_captures_plain_predictions(learn):
    learn.cbs.append(TTACB())
    assert torch.equal(learn.capture_preds()[0], by_hand(learn))


def test_tta_of_something_that_is_no_class_is_refused(learn):
    learn.model, learn.loss_func = (
        nn.Conv2d(1, 2, 3, padding=1),
        lambda preds, y: preds.mean(),
    )
    with pytest.raises(ValueError, match='mean of class probabilities'):
        learn.tta()


def test_of_all_variants_of_the_experiments_the_transforms_are_these(root):
    sys.path.insert(0, str(root / 'benchmarks'))
    try:
        names = importlib.import_module('experiments').AUGMENT
    finally:
        sys.path.pop(0)
    x = torch.randn(4, 1, 28, 28)
    for make, tfms in names.values():
        assert nn.Sequential(*(tfms() if tfms else []))(x).shape == x.shape and make()(
            x
        ).shape == (4, 10)
