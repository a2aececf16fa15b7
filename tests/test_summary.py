"`summarize` and `Learner.summary`: right on every module, and nothing is changed"

import importlib.util, random, sys, time
from collections import namedtuple
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest, torch, torchvision
import torch.nn.functional as F
import children
from conftest import ROOT, mlp
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from miniai.datasets import DataLoaders
from miniai.resnet import get_resnet
from miniai.summary import peek, summarize
from miniai.xtras import map_tensors


def macs(m, *inputs, **kw):
    return summarize(m, *inputs, **kw).total_macs


def n_hooks(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )


# counts -------------------------------------------------------------------------------

ROWS = [514_304, 1_379_840, 1_379_840, 1_525_760, 1_802_240, 1_802_240]
PARAMS = [680, 3_632, 14_432, 57_536, 229_760, 918_272]


@pytest.mark.parametrize(
    'head,params,macs,dead',
    [
        ('pool', [0, 2_570], [0, 2_560], 327_680),
        ('conv', [23_050, 0], [23_040, 0], 348_160),
    ],
)
@pytest.mark.parametrize('how', ['numbers', 'meta'])
def test_the_two_networks_of_the_blog_post(head, params, macs, dead, how):
    model = get_resnet(head=head, device='cpu')
    res = (
        summarize(model, torch.randn(3, 1, 28, 28))
        if how == 'numbers'
        else summarize(model, input_size=(3, 1, 28, 28))
    )
    assert [o.params for o in res.rows] == PARAMS + params and [
        o.macs for o in res.rows
    ] == ROWS + macs
    assert (
        res.total_params == sum(PARAMS + params)
        and res.total_macs == sum(ROWS + macs)
        and res.total_dead == dead
        and res.total_flops == 2 * res.total_macs
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'nm',
    [
        'resnet18',
        'resnet50',
        'vit_b_16',
        'mobilenet_v2',
        'densenet121',
        'swin_t',
        'convnext_tiny',
        'efficientnet_b0',
        'inception_v3',
        'maxvit_t',
        'squeezenet1_1',
        'vgg11',
        'mnasnet1_0',
    ],
)
def test_torchvision_documents_the_same_numbers(nm):
    weights = next(iter(torchvision.models.get_model_weights(nm)))
    size = weights.transforms().crop_size[0]
    with torch.device('meta'):
        model = torchvision.models.get_model(
            nm,
            weights=None,
            **({'init_weights': False} if nm == 'inception_v3' else {}),
        )
    res = summarize(model, input_size=(1, 3, size, size))
    assert res.total_params == weights.meta['num_params']
    assert abs(res.total_macs / 1e9 / weights.meta['_ops'] - 1) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize('nm', ['resnet18', 'vit_b_16'])
def test_numbers_or_not_the_counts_are_the_same(nm):
    model = torchvision.models.get_model(nm, weights=None)
    a, b = (
        summarize(model, torch.randn(1, 3, 224, 224), depth='all'),
        summarize(model, input_size=(1, 3, 224, 224), depth='all'),
    )
    assert [(o.name, o.macs, o.params, o.calls, o.input, o.output) for o in a.rows] == [
        (o.name, o.macs, o.params, o.calls, o.input, o.output) for o in b.rows
    ]
    assert not any(p.is_meta for p in model.parameters())


spec = importlib.util.spec_from_file_location(
    'counts', ROOT / 'benchmarks' / 'counts.py'
)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.slow
@pytest.mark.parametrize('nm', list(bench.NETWORKS))
def test_hand_counts_of_the_benchmark(nm):
    make, inputs, by_hand = bench.NETWORKS[nm]
    model = make()
    assert bench.ours(model, inputs()) == (
        sum(p.numel() for p in model.parameters()),
        by_hand(),
    )


B, T, D = 3, 7, 8
x3 = lambda: torch.randn(B, T, D)
OPS = {
    'matmul': (lambda a: a @ a.mT, T * T * D),
    'einsum': (lambda a: torch.einsum('bnd,bmd->bnm', a, a), T * T * D),
    'bmm': (lambda a: torch.bmm(a, a.mT), T * T * D),
    'mv': (lambda a: a @ torch.ones(D), T * D),
    'baddbmm': (lambda a: torch.baddbmm(torch.zeros(B, T, T), a, a.mT), T * T * D),
    'tensordot': (lambda a: torch.tensordot(a, torch.ones(D, 5), 1), T * D * 5),
    'linear': (lambda a: F.linear(a, torch.ones(4, D), torch.ones(4)), T * D * 4),
    'inner': (lambda a: torch.inner(a, torch.ones(6, D)), T * D * 6),
    'addmm': (
        lambda a: torch.stack(
            [torch.addmm(torch.zeros(T, 2), o, torch.ones(D, 2)) for o in a]
        ),
        T * D * 2,
    ),
    'sdpa': (lambda a: F.scaled_dot_product_attention(a, a, a), T * T * 2 * D),
    'causal': (
        lambda a: F.scaled_dot_product_attention(a, a, a, is_causal=True),
        T * T * 2 * D,
    ),
    'masked': (
        lambda a: F.scaled_dot_product_attention(
            a, a, a, attn_mask=torch.ones(T, T, dtype=torch.bool).tril()
        ),
        T * T * 2 * D,
    ),
    'cross': (
        lambda a: F.scaled_dot_product_attention(
            a, torch.ones(B, 5, D), torch.ones(B, 5, 4)
        ),
        T * 5 * (D + 4),
    ),
    'grouped heads': (
        lambda a: F.scaled_dot_product_attention(
            a.view(B, 1, T, D).expand(B, 4, T, D),
            a[:, None],
            a[:, None],
            enable_gqa=True,
        ),
        4 * T * T * 2 * D,
    ),
    'conv1d': (lambda a: F.conv1d(a, torch.ones(4, T, 3)), 4 * T * 3 * (D - 2)),
    'same': (lambda a: F.conv1d(a, torch.ones(4, T, 3), padding='same'), 4 * T * 3 * D),
    'transposed': (
        lambda a: F.conv_transpose1d(a, torch.ones(T, 2, 3), stride=2),
        T * 2 * 3 * D,
    ),
    'cdist': (lambda a: torch.cdist(a, a), T * T * D),
    'embedding': (
        lambda a: F.embedding(torch.zeros(B, T, dtype=torch.long), torch.ones(9, D)),
        0,
    ),
    'elementwise': (lambda a: (a * 2 + 1).relu().exp()[:, ::2], 0),
}


class Fn(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *args, **kw):
        return self.f(*args, **kw)


@pytest.mark.parametrize('nm', list(OPS))
def test_operations_without_a_layer(nm):
    f, n = OPS[nm]
    assert macs(Fn(f), x3()) == n
    with torch.inference_mode():
        assert macs(Fn(f), x3()) == n


def attention_macs(n, m, d):
    return 2 * n * d * d + 2 * m * d * d + 2 * n * m * d


@pytest.mark.parametrize('need_weights', [True, False])
def test_multi_head_attention(need_weights):
    m, a, b = (
        nn.MultiheadAttention(16, 4, batch_first=True),
        torch.randn(2, 5, 16),
        torch.randn(2, 9, 16),
    )
    assert macs(m, a, b, b, need_weights=need_weights) == attention_macs(5, 9, 16)
    res = summarize(m, a, b, b, need_weights=need_weights)
    assert (
        res.rows[0].notes == ['never called, but its weights are used']
        and res.total_dead == 0
    )  # MultiheadAttention takes them and calls no Linear
    assert macs(
        nn.MultiheadAttention(16, 4),
        torch.randn(5, 2, 16),
        *[torch.randn(9, 2, 16)] * 2,
    ) == attention_macs(5, 9, 16)


@pytest.mark.filterwarnings('ignore:enable_nested_tensor')
def test_transformers_take_no_short_cut():
    layer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2
    )
    per_layer = attention_macs(7, 7, 16) + 2 * 7 * 16 * 32
    for train in (False, True):
        assert macs(layer, torch.randn(3, 7, 16), train=train) == 2 * per_layer
    fast = torch.backends.mha.get_fastpath_enabled()
    res = summarize(
        nn.Transformer(16, 4, 1, 1, 32), torch.randn(6, 2, 16), torch.randn(4, 2, 16)
    )  # time first
    assert torch.backends.mha.get_fastpath_enabled() == fast == True
    assert (
        res.batch_size == 2
        and res.total_macs
        == attention_macs(6, 6, 16)
        + 2 * 6 * 16 * 32
        + attention_macs(4, 4, 16)
        + attention_macs(4, 6, 16)
        + 2 * 4 * 16 * 32
    )


@pytest.mark.parametrize('cls,gates', [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize(
    'kw',
    [
        {},
        {'num_layers': 2},
        {'bidirectional': True},
        {'batch_first': True},
        {'bias': False},
    ],
)
def test_recurrent_layers(cls, gates, kw):
    m, n = cls(5, 6, **kw), 0
    for i in range(kw.get('num_layers', 1)):
        n += 7 * gates * 6 * ((5 if i == 0 else 6) + 6)
    n *= 1 + kw.get('bidirectional', False)
    x = torch.randn(3, 7, 5) if kw.get('batch_first') else torch.randn(7, 3, 5)
    for res in (summarize(m, x), summarize(m, input_size=tuple(x.shape))):
        assert (res.batch_size, res.total_macs) == (3, n)
    assert macs(m, torch.randn(7, 5)) == n  # one sequence, no batch
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 5), torch.randn(2, 5)])
    assert (
        summarize(cls(5, 6), packed).batch_size == 2
        and macs(cls(5, 6), packed) == (4 + 2) * gates * 6 * 11 / 2
    )


@pytest.mark.filterwarnings('ignore:LSTM with projections')
def test_recurrent_cells_projections_and_bilinear_layers():
    assert (
        macs(nn.LSTMCell(5, 6), torch.randn(2, 5)) == 4 * 6 * 11
        and macs(nn.GRUCell(5, 6), torch.randn(2, 5)) == 3 * 6 * 11
    )
    assert macs(nn.LSTM(5, 6, proj_size=2), torch.randn(7, 3, 5)) == 7 * (
        4 * 6 * (5 + 2) + 6 * 2
    )
    assert macs(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4)) == 3 * 4 * 5


def test_deformable_convolutions():
    m = torchvision.ops.DeformConv2d(4, 6, 3, padding=1)
    assert macs(m, torch.randn(2, 4, 8, 8), torch.zeros(2, 18, 8, 8)) == 9 * 4 * 6 * 64


def test_what_has_no_formula_is_listed():
    res = summarize(
        Fn(lambda a: torch.fft.rfft(a).abs() + F.max_pool1d(a, 2, 1, 1)[..., :5]),
        torch.randn(2, 3, 8),
    )
    assert (
        res.total_macs == 0
        and res.uncounted['_fft_r2c'] == 1
        and any('max_pool' in o for o in res.uncounted)
    )
    assert 'fft_r2c (1×)' in repr(res) and 'no formula' in repr(res)
    assert not summarize(mlp(), torch.randn(2, 4)).uncounted


@torch.library.custom_op('miniai_tests::twice', mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_operations_of_others_are_listed_or_counted_with_their_own_formula():
    assert summarize(Fn(twice), torch.randn(2, 4)).uncounted == {
        'miniai_tests::twice': 1
    }
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    packet = torch.ops.miniai_tests.twice
    register_flop_formula(packet)(
        lambda shape, *args, out_shape=None, **kw: 2 * prod(shape)
    )
    try:
        assert macs(Fn(twice), torch.randn(2, 4)) == 4
    finally:
        del flop_registry[packet]


def test_sparse_products_are_not_counted_as_dense():
    a = torch.eye(4).to_sparse()
    res = summarize(Fn(lambda x: torch.sparse.mm(a, x)), torch.randn(4, 3))
    assert res.total_macs == 0 and len(res.uncounted) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_compiled_and_scripted_models():
    m, x = mlp(), torch.randn(2, 4)
    n = 4 * 8 + 8 * 3
    assert macs(torch.compile(m), x) == n
    inner = nn.Sequential(mlp(), nn.Linear(3, 3))
    inner[0].compile()
    assert macs(inner, x) == n + 9
    res = summarize(torch.jit.script(m), x)
    assert (
        res.total_macs == n
        and res.total_params == sum(p.numel() for p in m.parameters())
        and res.total_dead == 0
    )
    assert macs(nn.Sequential(torch.jit.script(m), nn.Linear(3, 3)), x) == n + 9


def test_only_the_modules_of_this_model_are_hooked():
    other = nn.Linear(4, 4)
    assert (
        macs(Fn(lambda a: other(a)), torch.randn(2, 4)) == 16
    )  # not registered: credited to the one that calls it


# random networks against a hand count -------------------------------------------------


def conv_out(n, k, s, p, d):
    return (n + 2 * p - d * (k - 1) - 1) // s + 1


@st.composite
def layers(draw, ni, size, depth=0):
    """A random module for pictures of `ni` channels and `size` pixels

    With channels and size after it, and MACs and parameters by hand.
    """
    kind = draw(
        st.sampled_from(
            ['conv', 'grouped', 'transposed', 'norm', 'relu', '1x1']
            + ['nested', 'twice'] * (depth < 2)
        )
    )
    if kind in ('conv', 'grouped'):
        g = (
            draw(st.sampled_from([o for o in (1, 2, 4) if ni % o == 0]))
            if kind == 'grouped'
            else 1
        )
        nf, k, s, p, d, bias = (
            g * draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 2)),
            draw(st.integers(0, 2)),
            draw(st.integers(1, 2)),
            draw(st.booleans()),
        )
        out = conv_out(size, k, s, p, d)
        if out < 1:
            return nn.ReLU(), ni, size, 0, 0
        return (
            nn.Conv2d(ni, nf, k, s, p, d, g, bias),
            nf,
            out,
            k * k * (ni // g) * nf * out * out,
            k * k * (ni // g) * nf + nf * bias,
        )
    if kind == 'transposed':
        nf, k, s = (
            draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 2)),
        )
        return (
            nn.ConvTranspose2d(ni, nf, k, s),
            nf,
            (size - 1) * s + k,
            k * k * ni * nf * size * size,
            k * k * ni * nf + nf,
        )
    if kind == 'norm':
        return nn.BatchNorm2d(ni), ni, size, 0, 2 * ni
    if kind == 'relu':
        return nn.ReLU(inplace=draw(st.booleans())), ni, size, 0, 0
    if kind == '1x1':
        return (
            nn.Conv2d(ni, ni, 1, bias=False),
            ni,
            size,
            ni * ni * size * size,
            ni * ni,
        )
    if kind == 'twice':  # the same layer at two places of one chain
        m = nn.Conv2d(ni, ni, 1)
        return (
            nn.Sequential(m, nn.ReLU(), nn.Sequential(m)),
            ni,
            size,
            2 * ni * ni * size * size,
            ni * ni + ni,
        )
    parts, total, params = [], 0, 0
    for _ in range(draw(st.integers(1, 3))):
        m, ni, size, a, b = draw(layers(ni, size, depth + 1))
        parts.append(m)
        total += a
        params += b
    return nn.Sequential(*parts), ni, size, total, params


@st.composite
def networks(draw):
    ni, size = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 6))
    first, total, params, parts = (ni, size), 0, 0, []
    for _ in range(draw(st.integers(1, 4))):
        m, ni, size, a, b = draw(layers(ni, size))
        parts.append(m)
        total += a
        params += b
    n_out = draw(st.integers(1, 4))
    parts += [nn.Flatten(), nn.Linear(ni * size * size, n_out)]
    return (
        nn.Sequential(*parts),
        first,
        total + ni * size * size * n_out,
        params + (ni * size * size + 1) * n_out,
    )


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(1, 3), st.booleans())
def test_random_networks_against_a_hand_count(net, bs, train):
    model, (ni, size), total, params = net
    x = torch.randn(bs + 1, ni, size, size)
    kept, state = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    res = summarize(model, x, train=train)
    assert (res.total_macs, res.total_params, res.batch_size) == (total, params, bs + 1)
    assert params == sum(p.numel() for p in model.parameters()) == sum(
        o.params for o in res.rows
    ) and total == sum(o.macs for o in res.rows)
    assert macs(model, input_size=(bs + 1, ni, size, size)) == total
    assert torch.equal(x, kept) and all(
        torch.equal(v, state[k]) for k, v in model.state_dict().items()
    )
    with FlopCounterMode(display=False) as c, torch.no_grad():
        model.eval()(x.clone())
    assert c.get_total_flops() == 2 * total * (bs + 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 2),
)
def test_dead_weights_are_those_without_gradient(
    size, k, stride, padding, dilation, transposed, zeros
):
    x = torch.rand(2, 2, size, size, dtype=torch.double) + 0.5
    cls = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = cls(2, 3, k, stride, padding, dilation=dilation).double()
    model = (
        nn.Sequential(nn.ZeroPad2d((zeros, 0, 0, zeros)), conv)
        if not transposed
        else conv
    )
    try:
        y = model(x)
    except RuntimeError:
        return  # the kernel is larger than the picture
    if not y.numel():
        return
    (y * torch.rand_like(y)).sum().backward()
    assert summarize(model, x).total_dead == sum(
        (p.grad == 0).sum().item() for p in conv.parameters()
    )


# parameters ---------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.mix, self.idle, self.head = (
            nn.Embedding(10, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 10, bias=False),
        )
        self.head.weight = self.emb.weight
        self.mix.requires_grad_(False)

    def forward(self, ids):
        return self.head(self.mix(self.mix(self.emb(ids))))


def test_tied_frozen_repeated_and_idle_modules():
    res = summarize(Tied(), torch.zeros(2, 3, dtype=torch.long))
    emb, mix, idle, head = res.rows
    assert (emb.params, mix.params, idle.params, head.params) == (
        40,
        20,
        20,
        0,
    ) and res.total_params == 80 == sum(p.numel() for p in Tied().parameters())
    assert (
        head.notes == ['40 shared with emb.weight']
        and mix.notes == ['frozen', 'called 2×']
        and idle.notes == ['never called']
        and not emb.notes
    )
    assert (
        mix.trainable == 0
        and res.total_trainable == 60
        and idle.input is None
        and mix.macs == 2 * 3 * 16
    )
    assert res.total_dead == 20 and {o[0] for o in res.dead} == {
        'idle.weight',
        'idle.bias',
    }
    text = repr(res)
    for o in (
        'frozen',
        'called 2×',
        'never called',
        '40 shared with emb.weight',
        '60 of them trainable',
    ):
        assert o in text


def test_a_module_at_two_places_is_credited_where_it_runs():
    lin = nn.Linear(4, 4)
    res = summarize(
        nn.Sequential(
            nn.Sequential(lin, nn.ReLU(), lin), nn.Sequential(lin, nn.Tanh())
        ),
        torch.randn(8, 4),
        depth=2,
    )
    assert [
        (o.name, o.params, o.macs)
        for o in res.rows
        if 'Linear' in o.module or o.depth == 1
    ] == [('0', 20, 32), ('0.0', 20, 32), ('1', 0, 16), ('1.0', 0, 16)]
    assert res.rows[1].notes == ['called 2×'] and res.rows[3].notes == [
        '20 shared with 0.0.weight, 0.0.bias'
    ]


def test_parameters_of_the_model_itself():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.unused, self.lin = (
                nn.Parameter(torch.ones(4)),
                nn.Parameter(torch.ones(3)),
                nn.Linear(4, 4),
            )

        def forward(self, x):
            return self.lin(x * self.scale) @ torch.ones(4, 2)

    res = summarize(M(), torch.randn(2, 4))
    assert [(o.module, o.params, o.macs) for o in res.rows] == [
        ('Linear', 20, 16),
        ('M itself', 7, 8),
    ]
    assert res.dead == [('unused', 3, 3, 'no operation used it')]


def test_quantities_of_memory():
    m = nn.Sequential(nn.Linear(4, 8).half(), nn.Linear(8, 2))
    m.register_buffer('b', torch.zeros(10, dtype=torch.int64))
    m.forward = lambda x: m[1](m[0](x.half()).float())
    res = summarize(m, torch.randn(2, 4), show='dtype')
    assert (res.param_bytes, res.buffer_bytes) == (40 * 2 + 18 * 4, 80) and [
        o.dtype for o in res.rows
    ] == ['float16', 'float32']
    assert (
        res.activation_bytes == 2 * 4 * 2 + 2 * 8 * 2 + 2 * 8 * 4 + 2 * 2 * 4
    )  # x.half(), the first layer, .float(), the second
    assert summarize(nn.ReLU(inplace=True), torch.randn(2, 4)).activation_bytes == 0


def test_parametrised_weights():
    m = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    res = summarize(m, torch.randn(2, 4))
    assert (
        res.total_macs == 12
        and res.total_params == sum(p.numel() for p in m.parameters())
        and res.total_dead == 0
    )


# inputs and outputs -------------------------------------------------------------------

Pair = namedtuple('Pair', 'a b')


@dataclass
class Out:
    logits: torch.Tensor
    extra: object = None


def test_inputs_and_outputs_of_every_kind():
    lin = nn.Linear(4, 4)

    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.inner = (
                lin,
                Fn(
                    lambda pair, d, mode='x', t=None: (
                        Out(pair.a + d['x'][0]),
                        [None, 'word', 3],
                        pair,
                    )
                ),
            )

        def forward(self, d, *, mode, pair=None):
            d['seen'] = True
            return self.inner(Pair(self.lin(d['x'][0]), None), d, mode=mode)

    d = {'x': [torch.randn(5, 4), None], 'name': 'strings are left alone'}
    res = summarize(M(), d, mode='fast')
    row = res.rows[1]
    assert 'seen' not in d and len(d) == 2
    assert (
        row.input[0] == {'a': (5, 4), 'b': None}
        and row.input[1]['x'] == [(5, 4), None]
        and row.input[1]['name'] == 'strings are left alone'
        and row.input[2] == {'mode': 'fast'}
    )
    assert row.output == [
        {'logits': (5, 4), 'extra': None},
        [None, 'word', 3],
        {'a': (5, 4), 'b': None},
    ]
    assert res.batch_size == 5 and '(5, 4)' in repr(res)
    for m, x in (
        (Fn(lambda a: a.sum(1)), torch.randn(3, 2)),
        (Fn(lambda a: a.sum()), torch.randn(3)),
        (Fn(lambda a: None), torch.randn(3)),
        (Fn(lambda a: 'text'), torch.randn(3)),
        (Fn(lambda a: a), 'text'),
    ):
        assert summarize(m, x).rows[0].output == (
            tuple(out.shape) if isinstance(out := m(x), torch.Tensor) else out
        )


@pytest.mark.parametrize(
    'm,x,n',
    [
        (nn.Conv2d(3, 4, 3), torch.randn(3, 5, 5), 3 * 4 * 9 * 9),
        (nn.Linear(4, 3), torch.randn(4), 12),
        (nn.Conv1d(2, 3, 2), torch.randn(2, 6), 2 * 3 * 2 * 5),
        (nn.Linear(4, 3), torch.randn(2, 5, 4), 60),
    ],
)
def test_a_single_item_without_a_batch(m, x, n):
    assert macs(m, x) == n


def test_the_size_of_the_batch_can_be_said():
    res = summarize(nn.Linear(4, 3), torch.randn(6, 4), batch_size=2)
    assert (res.batch_size, res.total_macs) == (2, 36)


def test_keywords_of_the_model_come_first():
    class Deep(nn.Module):
        def forward(self, x, depth, train=False, show=None):
            return x * depth if train else x + (depth == 'all') + (show is not None)

    seen = []
    m = Deep()
    m.register_forward_pre_hook(
        lambda m, a, kw: seen.append((a[1:], kw)), with_kwargs=True
    )
    summarize(m, torch.ones(2), depth=3, train=True)
    summarize(m, torch.ones(2), 7)
    assert seen == [((), {'depth': 3, 'train': True}), ((7,), {})]

    class WithModel(nn.Module):
        def forward(self, x, model=None):
            return x * model

    assert summarize(WithModel(), torch.ones(2), model=2).rows[0].input == [
        (2,),
        {'model': 2},
    ]


def test_lazy_modules_stay_lazy():
    model = nn.Sequential(
        nn.LazyConv2d(8, 3),
        nn.LazyBatchNorm2d(),
        nn.ReLU(True),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    first = model[0].weight
    for res in (
        summarize(model, torch.randn(2, 3, 8, 8)),
        summarize(model, input_size=(2, 3, 8, 8)),
    ):
        assert (
            res.total_params == 8 * 27 + 8 + 16 + 5 * 288 + 5
            and res.total_macs == 27 * 8 * 36 + 288 * 5
        )
        assert (
            type(model[0]) is nn.LazyConv2d
            and model[0].weight is first
            and model[4].has_uninitialized_params()
            and n_hooks(model) == 3
        )
    model(torch.randn(2, 3, 8, 8))
    assert type(model[4]) is nn.Linear and model[4].in_features == 288


# nothing changes ----------------------------------------------------------------------


class Busy(nn.Module):
    "Does all that a `forward` should not"

    def __init__(self):
        super().__init__()
        self.bn, self.drop, self.lin, self.sn = (
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
            nn.Linear(4, 4),
            torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        )
        self.fail, self.steps, self.history, self.cache, self.plain = (
            False,
            0,
            [],
            {},
            torch.zeros(1),
        )
        self.register_buffer('seen', torch.zeros((), dtype=torch.long))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.frozen.eval()

    def forward(self, x):
        self.steps += 1
        self.history.append(1)
        self.cache['x'] = x
        self.new = 1
        self.seen += 1
        self.plain.add_(1)
        x.mul_(2)
        random.random()
        np.random.rand()
        torch.rand(1)
        with torch.no_grad():
            self.lin.weight.clamp_(-0.01, 0.01)
            self.frozen.weight.data = self.frozen.weight.data * 2
        self.lin.bias.requires_grad_(False)
        self.frozen.train()
        if self.lin.weight.grad is not None:
            self.lin.weight.grad.zero_()
        x = self.frozen(self.sn(self.lin(self.drop(self.bn(x)))))
        if self.fail:
            return nn.functional.linear(x, torch.ones(3, 9))
        return x


def snapshot(learn, x):
    "Everything that must not change, as things that can be compared"
    m = learn.model
    tensors = {
        k: (id(v), v.data_ptr(), v.clone(), v.requires_grad, v.device)
        for k, v in [*m.named_parameters(), *m.named_buffers()]
    }
    grads = {
        k: None if p.grad is None else (id(p.grad), p.grad.clone())
        for k, p in m.named_parameters()
    }
    attrs = {
        k: {
            a: (id(v), repr(v) if not isinstance(v, nn.Module) else '')
            for a, v in vars(o).items()
        }
        for k, o in m.named_modules()
    }
    opt = (
        None
        if learn.opt is None
        else (id(learn.opt), map_tensors(torch.clone, learn.opt.state_dict()))
    )
    return dict(
        tensors=tensors,
        grads=grads,
        attrs=attrs,
        opt=opt,
        cbs=list(map(id, learn.cbs)),
        history=learn.history,
        x=x.clone(),
        plain=m.plain.clone(),
        rng=(random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()),
        mode=torch.is_grad_enabled(),
    )


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert (a == b).all()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            assert_same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for o, p in zip(a, b):
            assert_same(o, p)
    else:
        assert a == b


@pytest.mark.parametrize('fail', [False, True])
@pytest.mark.parametrize('how', ['train', 'eval', 'meta'])
def test_nothing_at_all_changes(learner, fail, how):
    learn = learner(
        Busy(),
        loss_func=lambda p, y: F.cross_entropy(p[:, :3], y),
        opt_func=torch.optim.Adam,
    )
    for p in learn.model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    hits = []
    learn.model.lin.register_forward_hook(lambda m, i, o: hits.append(1))
    learn.model.fail = fail
    x = torch.randn(6, 4)
    before = snapshot(learn, x)

    def go(f):
        if not fail:
            return f()
        with pytest.raises(RuntimeError) as e:
            f()
        assert any('came from the model itself (Busy)' in o for o in e.value.__notes__)

    go(
        lambda: summarize(
            learn.model, x if how != 'meta' else x.to('meta'), train=how == 'train'
        )
    )
    assert_same(before, snapshot(learn, x))
    go(
        lambda: learn.summary(
            **({'input_size': (6, 4)} if how == 'meta' else {'train': how == 'train'})
        )
    )
    assert_same(before, snapshot(learn, x))
    assert len(hits) == 2  # the hooks of others are called, and are still there


def test_the_optimiser_and_its_state_stay(learner):
    learn = learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    opt = learn.opt
    state = map_tensors(torch.clone, opt.state_dict()) if opt is not None else None
    learn.summary()
    assert learn.opt is opt and (
        opt is None or not assert_same(state, opt.state_dict())
    )


def test_the_loader_goes_on_where_it_was(learner):
    ds = TensorDataset(torch.randn(40, 4), torch.arange(40) % 3)
    for kw in ({}, {'num_workers': 1, 'persistent_workers': True}):
        g = torch.Generator().manual_seed(3)
        dl = DataLoader(ds, 8, shuffle=True, generator=g, **kw)
        state, it = g.get_state(), iter(dl)
        first = next(it)
        during = g.get_state()
        learner(dls=DataLoaders(dl, None) if kw else DataLoaders(dl, dl)).summary()
        assert torch.equal(g.get_state(), during)
        rest = [o[0] for o in it]
        g.set_state(state)
        again = [o[0] for o in DataLoader(ds, 8, shuffle=True, generator=g)]
        assert all(
            torch.equal(a, b) for a, b in zip([first[0], *rest], again, strict=True)
        )
    with pytest.raises(TypeError, match='would lose one'):
        peek(iter([1, 2]))


def test_a_model_may_catch_its_own_errors():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.good, self.end = (
                nn.Linear(9, 9),
                nn.Linear(4, 4),
                nn.Linear(4, 2),
            )

        def forward(self, x):
            try:
                x = self.bad(x)
            except RuntimeError:
                x = self.good(x)
            return self.end(x)

    assert [o.macs for o in summarize(M(), torch.randn(3, 4)).rows] == [0, 16, 8]


def test_the_error_names_the_module_and_shows_the_rows_so_far():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(7, 3)), nn.Linear(3, 1)
    )
    with pytest.raises(RuntimeError) as e:
        summarize(model, torch.randn(2, 4), depth=2)
    where, rows = e.value.__notes__
    assert '1.1 (Linear)' in where and '(2, 8)' in where
    assert len(rows.split('\n')) == 2 + 4 and '32' in rows and '(3, 1)' not in rows


def test_an_error_within_the_handling_of_another():
    try:
        raise KeyError('outer')
    except KeyError:
        assert macs(mlp(), torch.randn(2, 4)) == 56
        with pytest.raises(RuntimeError) as e:
            summarize(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 4))
    assert '0 (Linear)' in e.value.__notes__[0]


# dead weights, meta, cost -------------------------------------------------------------


def test_dead_weights_say_why():
    res = summarize(
        get_resnet(head='conv', device='cpu'), input_size=(1, 1, 28, 28), show='dead'
    )
    assert [o.dead for o in res.rows] == [0] * 5 + [327_680, 20_480, 0]
    assert (
        '5.conv.1.0.weight: 327,680 of 589,824 weights are dead, '
        '5 of the 9 taps of its 3×3 kernel' in repr(res)
    )
    assert (
        summarize(get_resnet(device='cpu'), input_size=(1, 1, 64, 64)).total_dead == 0
    )
    shared = nn.Conv2d(1, 1, 3, padding=1)  # alive if alive anywhere
    assert (
        macs(
            nn.Sequential(shared, nn.AdaptiveAvgPool2d(1), shared),
            torch.randn(1, 1, 4, 4),
        )
        and summarize(
            nn.Sequential(shared, nn.AdaptiveAvgPool2d(1), shared),
            torch.randn(1, 1, 4, 4),
        ).total_dead
        == 0
    )


def test_without_numbers_there_is_no_memory():
    res = summarize(torchvision.models.resnet18(), input_size=(100_000, 3, 224, 224))
    assert (
        res.activation_bytes > 1e12
        and res.total_macs == 1_814_073_344
        and res.batch_size == 100_000
    )


@pytest.mark.slow
def test_a_summary_costs_no_more_than_two_forward_passes():
    model, x = torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224)

    def seconds(f):  # of CPU: other work may keep it waiting
        start = time.process_time()
        f()
        return time.process_time() - start

    with torch.no_grad():
        ratios = sorted(
            seconds(lambda: summarize(model, x)) / seconds(lambda: model(x))
            for _ in range(9)
        )
    assert ratios[len(ratios) // 2] < 2, ratios


@pytest.mark.slow
def test_importing_does_not_load_the_compiler():
    res = children.python(
        'import sys, torch\n'
        'from miniai.summary import summarize\n'
        'from torch import nn\n'
        'summarize(nn.Linear(2, 2), torch.ones(1, 2))\n'
        'print("torch._dynamo" in sys.modules)'
    )
    assert res.stdout.strip() == 'False', res.stderr


@pytest.mark.parametrize('size', [3, (), (1, 3.5), [(1, 2), 3], 'big'])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match='input_size is'):
        summarize(mlp(), input_size=size)


def test_token_ids_without_numbers():
    with pytest.raises(RuntimeError) as e:
        summarize(nn.Sequential(nn.Embedding(9, 4)), input_size=(2, 5))
    assert 'needs real inputs' in e.value.__notes__[-1]
    assert (
        macs(
            nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)),
            torch.empty(2, 5, dtype=torch.long, device='meta'),
        )
        == 5 * 12
    )


# showing ------------------------------------------------------------------------------


def test_depth_and_columns():
    res = summarize(get_resnet(device='cpu'), torch.randn(2, 1, 28, 28))
    assert (
        len(res.rows) == 8
        and len(res.view(depth=0).rows) == 1
        and len(res.view(depth=2).rows) == 8 + 6 * 4
    )
    assert res.view(depth='all').rows[2].name == '0.conv.0' and res.view(
        show='kernel,share'
    ).cells()[0][-2:] == ['Kernel', 'Share of MACs']
    assert res.view(depth=0).rows[0].macs == res.total_macs and len(res.rows) == 8
    for kw, words in (
        ({'depth': -1}, 'depth is -1'),
        ({'depth': 'deep'}, 'depth is'),
        ({'show': 'cost'}, "no column 'cost'"),
    ):
        with pytest.raises(ValueError, match=words):
            res.view(**kw)
        with pytest.raises(ValueError, match=words):
            summarize(mlp(), torch.randn(2, 4), **kw)
    with pytest.raises(ValueError, match='one of them'):
        summarize(mlp(), torch.randn(2, 4), input_size=(2, 4))


def test_markdown_and_text_have_the_same_cells():
    class Odd_Name(nn.Module):
        def forward(self, x, mode):
            return x

    res = summarize(
        nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU())),
        torch.randn(2, 4),
        depth=2,
    )
    assert (
        len(res._repr_markdown_().split('\n\n')[0].split('\n')) == 2 + 3
        and '&emsp;ReLU' in res._repr_markdown_()
    )
    md = summarize(Odd_Name(), torch.randn(2), mode='a|<b>')._repr_markdown_()
    assert 'Odd\\_Name' in md and 'a\\|&lt;b>' in md
    assert all(line.rstrip() == line for line in repr(res).split('\n'))


def test_pandas(monkeypatch):
    res = summarize(mlp(), torch.randn(2, 4))
    df = res.to_pandas()
    assert (
        list(df.macs) == [32, 0, 24]
        and list(df.columns[:4]) == ['module', 'input', 'output', 'params']
        and len(res.view(depth=0).to_pandas()) == 1
    )
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(ImportError, match='pip install pandas'):
        res.to_pandas()


def test_plot():
    import matplotlib.pyplot as plt

    res = summarize(get_resnet(device='cpu'), torch.randn(2, 1, 28, 28), depth=2)
    axs = res.plot()
    for ax in axs:
        assert sum(o.get_width() for o in ax.patches) == pytest.approx(100)
    assert len(axs[0].patches) == 6 * 4 + 2
    plt.close('all')
    summarize(nn.ReLU(), torch.randn(2)).plot()
    plt.close('all')


def test_summaries_can_be_copied_and_pickled():
    import pickle

    res = summarize(mlp(), torch.randn(2, 4))
    assert repr(pickle.loads(pickle.dumps(res))) == repr(res)


def test_options_of_the_learner(learner):
    learn = learner(
        nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
    )
    res = learn.summary(depth=2, input_size=(5, 4), show=['share'])
    assert (
        res.batch_size == 5
        and len(res.rows) == 4
        and res.cells()[0][-1] == 'Share of MACs'
    )


# what a hostile tester found ----------------------------------------------------------


class With(nn.Module):
    "A forward given as a function of the module, with modules or tensors as attributes"

    def __init__(self, f, **attrs):
        super().__init__()
        self.f = f
        for k, v in attrs.items():
            setattr(self, k, v)

    def forward(self, *args, **kw):
        return self.f(self, *args, **kw)


def conv2(**kw):
    return nn.Conv2d(3, 4, 3, stride=2, padding=kw.pop('padding', 1), bias=False, **kw)


def pad_and_add(m, x):
    y = F.pad(x, (1, 1, 1, 1))
    y += 1
    return m.c(y)


@pytest.mark.parametrize(
    'f,kw',
    [
        (pad_and_add, {'padding': 0}),
        (
            lambda m, x: m.c(F.hardsigmoid(F.pad(x, (1, 1, 1, 1)), inplace=True)),
            {'padding': 0},
        ),
        (lambda m, x: m.c(x) / m.c.weight.norm(), {}),
        (lambda m, x: m.c(x) + m.c.weight.pow(2).sum(), {}),
        (
            lambda m, x: (
                m.c(x) + F.conv2d(x, m.c.weight.flip(-1, -2), stride=2, padding=1)
            ),
            {},
        ),
        (
            lambda m, x: (
                m.c(x)
                + F.conv2d(x, m.c.weight * 1.0, padding=1).mean((2, 3), keepdim=True)
            ),
            {},
        ),
        (lambda m, x: F.conv2d(x, m.c.weight[:, :, :2, :2]) + m.c(x), {}),
        (
            lambda m, x: (
                m.c(x) + F.conv2d(x, m.c.weight.transpose(2, 3), stride=2, padding=1)
            ),
            {},
        ),
    ],
)
def test_no_weight_is_called_dead_that_learns(f, kw):
    m = With(f, c=conv2(**kw)).double()
    x = torch.rand(2, 3, 2, 2, dtype=torch.double) + 0.5
    (m(x.clone()) * torch.rand(4, 1, 1)).sum().backward()
    assert summarize(m, x).total_dead <= (m.c.weight.grad == 0).sum()


def test_two_parameters_in_one_memory():
    flat = torch.randn(2, 4, 3, 3, 3)
    m = With(
        lambda m, x: F.conv2d(x, m.a, padding=1, stride=2) * m.b.sum(),
        a=nn.Parameter(flat[0]),
        b=nn.Parameter(flat[1]),
    )
    assert summarize(m, torch.randn(2, 3, 2, 2)).total_dead == 0


def test_memory_that_is_used_again_is_not_confused():
    def f(m, x):
        torch.zeros(6)
        torch.from_numpy(m.arr).add_(1)
        return m.l(x)

    m = With(f, l=nn.Linear(3, 3), arr=np.zeros(6, 'f'))
    for _ in range(5):
        summarize(m, torch.randn(2, 3))
    assert (m.arr == 0).all()
    arr = np.random.rand(1, 3, 4, 4).astype('f')

    def g(m, x):
        F.pad(x, (1, 1, 1, 1))
        return m.c(torch.from_numpy(arr))

    assert (
        summarize(With(g, c=conv2(padding=0)), torch.randn(1, 3, 2, 2)).total_dead == 0
    )


def test_metadata_of_inputs_and_weights():
    x = torch.randn(2, 3)
    y = x.clone()
    for f in (
        lambda m, x: x.resize_(100, 100).sum(),
        lambda m, x: x.unsqueeze_(1).sum(),
        lambda m, x: x.requires_grad_().sum(),
        lambda m, x: x.set_(torch.ones(5)).sum(),
        lambda m, x: x.t_(),
    ):
        summarize(With(f), x)
        assert (
            torch.equal(x, y)
            and x.stride() == y.stride()
            and not x.requires_grad
            and x.untyped_storage().nbytes() == 24
        )
    m = With(
        lambda m, x: (
            setattr(m.l.weight, 'data', m.l.weight.data.T) or m.l.double() and x
        ),
        l=nn.Linear(3, 3),
    )
    m.l.weight.grad = torch.ones(3, 3)
    w = m.l.weight.detach().clone()
    summarize(m, x)
    assert (
        torch.equal(m.l.weight, w)
        and m.l.weight.dtype == m.l.weight.grad.dtype == torch.float32
    )
    y = torch.randn(3, requires_grad=True) * 1
    z = (y**2).sum()
    summarize(nn.ReLU(inplace=True), y)
    z.backward()


def test_things_inside_things():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.d, self.arr, self.g, self.r, self.npr = (
                {'a': [1], 'b': {'c': set()}},
                np.zeros(2),
                torch.Generator(),
                random.Random(1),
                np.random.default_rng(1),
            )

        def forward(self, past, d):
            self.d['a'].append(2)
            self.d['b']['c'].add(1)
            self.arr[0] = 5
            past[0].append(3)
            d.pop('x')
            return torch.rand(1, generator=self.g), self.r.random(), self.npr.random()

    from collections import OrderedDict

    m, past, d = M(), ([1],), OrderedDict(x=torch.ones(2))
    first = (m.g.get_state(), m.r.getstate(), m.npr.bit_generator.state)
    summarize(m, past, d)
    assert (
        m.d == {'a': [1], 'b': {'c': set()}}
        and m.arr[0] == 0
        and past == ([1],)
        and list(d) == ['x']
    )
    assert_same(first, (m.g.get_state(), m.r.getstate(), m.npr.bit_generator.state))


@pytest.mark.filterwarnings('ignore:Sparse CSR')
def test_sparse_tensors_are_restored_and_listed():
    m = With(lambda m, x: m.s.mul_(2), s=torch.eye(3).to_sparse())
    summarize(m, torch.ones(2))
    assert torch.equal(m.s.to_dense(), torch.eye(3))
    a = torch.eye(4).to_sparse()
    assert (
        '_sparse_sparse_matmul'
        in summarize(Fn(lambda x: torch.sparse.mm(a, a)), torch.ones(1)).uncounted
    )


def test_batches_in_other_wrappings():
    from collections import UserDict

    net = lambda m, xs: m.c(torch.stack(list(xs)))
    assert (
        macs(With(net, c=nn.Conv2d(3, 4, 3)), [torch.rand(3, 6, 6)] * 2) == 27 * 4 * 16
    )
    lin = lambda m, x: m.l(x['a'] if isinstance(x, UserDict) else x.logits)
    for x in (UserDict(a=torch.randn(8, 3)), Out(torch.randn(8, 3))):
        assert macs(With(lin, l=nn.Linear(3, 2)), x) == 6
    assert (
        macs(
            With(lambda m, x: m.l(torch.from_numpy(x)), l=nn.Linear(3, 2)),
            np.ones((8, 3), 'f'),
        )
        == 6
    )
    assert (
        macs(
            With(lambda m, x: m.l(x), l=nn.Linear(5, 2), batch_first=True),
            torch.randn(8, 5),
        )
        == 10
    )
    assert macs(nn.LSTMCell(5, 6), torch.randn(5)) == 4 * 6 * 11
    assert macs(nn.Linear(3, 4), torch.zeros(0, 3)) == 0


def test_layers_made_on_first_use():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 4)

        def forward(self, x):
            if not hasattr(self, 'fc'):
                self.fc = nn.Linear(4, 10)
            return self.fc(self.l(x))

    m = M()
    res = summarize(m, torch.randn(2, 4))
    assert (
        res.total_params
        == 20
        == sum(o.params for o in res.rows)
        == sum(p.numel() for p in m.parameters())
        and res.total_macs == 16 + 40
        and not hasattr(m, 'fc')
    )


@pytest.mark.slow
def test_a_wrapper_that_hands_on_attributes():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.compile(nn.Linear(4, 4)), nn.Linear(4, 2)

        def __getattr__(self, k):
            try:
                return super().__getattr__(k)
            except AttributeError:
                return getattr(self.inner, k)

        def forward(self, x):
            return self.head(self.inner(x))

    assert summarize(Wrapper(), torch.randn(2, 4)).total_params == 30


def test_what_runs_where_it_cannot_be_seen():
    import threading

    def in_thread(m, x):
        out = []
        t = threading.Thread(target=lambda: out.append(m.l(x)))
        t.start()
        t.join()
        return out[0]

    def as_generator(m, x):
        yield m.l(x)

    for f, words in ((in_thread, 'another thread'), (as_generator, 'a generator')):
        res = summarize(With(f, l=nn.Linear(3, 3)), torch.randn(2, 3))
        assert words in repr(res) and res.total_dead == 0 and res.unseen


def test_torch_cond_is_looked_into():
    m = With(
        lambda m, x: torch.cond(
            x.sum() > 0, lambda x: m.l(x), lambda x: m.l(x) + 1, (x,)
        ),
        l=nn.Linear(3, 3),
    )
    try:
        res = summarize(m, torch.ones(2, 3))
    except NotImplementedError as e:
        if 'no rule registered for HOP' in str(e):
            pytest.skip('this PyTorch lets no mode see torch.cond')
        raise
    assert res.total_macs == 9 and res.total_dead == 0


@pytest.mark.filterwarnings('ignore')
def test_models_that_are_hard_to_run():
    frozen = torch.jit.freeze(torch.jit.script(mlp().eval()))
    assert summarize(frozen, torch.randn(2, 4)).total_macs == 56

    class NoMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(3, 3)

        def train(self, mode=True):
            raise NotImplementedError('no')

        def forward(self, x):
            return self.l(x)

    m = NoMode()
    assert macs(m, torch.ones(2, 3), train=False) == 9 and m.l.training
    force = With(
        lambda m, x: torch.autograd.grad(
            m.l(x := x.detach().requires_grad_()).sum(), x
        )[0],
        l=nn.Linear(3, 3),
    )
    assert macs(force, torch.randn(2, 3)) == 9 + 9 and force.l.weight.grad is None
    parent, child = (
        With(lambda m, x: m.child(x)),
        With(lambda m, x: m.l(x), l=nn.Linear(3, 3)),
    )
    parent.child, child.up = child, parent
    assert (
        macs(parent, torch.randn(2, 3)) == 9
        and summarize(parent, torch.ones(2, 3)).total_params == 12
    )
    deep = nn.Linear(2, 2)
    for _ in range(190):
        deep = nn.Sequential(deep)
    assert macs(deep, torch.ones(1, 2)) == 4

    class Any:
        def __getattr__(self, k):
            return None

    assert summarize(With(lambda m, x, a: x), torch.ones(2), Any()).rows[0].input == [
        (2,),
        'Any',
    ]


def test_exceptions_that_take_no_notes():
    @dataclass(frozen=True)
    class Frozen(Exception):
        n: int

    class NoNotes(Exception):
        __notes__ = ()

    def f(m, x):
        raise m.err

    for err in (Frozen(1), NoNotes()):
        with pytest.raises((type(err), Exception)) as e:
            summarize(With(f, err=err), torch.ones(2))
        assert isinstance(e.value, type(err)) or 'Frozen' in repr(e.value)


def test_the_module_that_failed_is_not_the_one_that_ran_last():
    def f(m, x):
        try:
            raise ValueError('own')
        finally:
            m.b(x)

    with pytest.raises(ValueError) as e:
        summarize(With(f, b=nn.Linear(3, 3)), torch.ones(2, 3))
    assert 'the model itself' in e.value.__notes__[0]


def test_a_hook_of_others_that_fails_before_the_module():
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda m, a: (
            (_ for _ in ()).throw(ValueError) if isinstance(m, nn.Tanh) else None
        )
    )

    def f(m, x):
        try:
            return m.t(x)
        except ValueError:
            return m.l(x)

    try:
        assert macs(With(f, t=nn.Tanh(), l=nn.Linear(3, 3)), torch.ones(2, 3)) == 9
    finally:
        handle.remove()


def test_rows_add_up_when_macs_do_not_divide():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                Fn(lambda: torch.ones(1, 2) @ torch.ones(2, 1)),
                Fn(lambda: torch.ones(1, 2) @ torch.ones(2, 1)),
            )

        def forward(self, x):
            return x * self.a() * self.b()

    res = summarize(M(), torch.ones(3))
    assert (
        res.total_macs == pytest.approx(sum(o.macs for o in res.rows))
        and res.total_macs == pytest.approx(4 / 3)
        and '1.3 MACs' in repr(res)
    )


def test_long_kernels_and_strings_with_line_breaks():
    long = nn.Conv1d(1, 1, 4096, padding=4095)
    assert (
        summarize(long, input_size=(1, 1, 64)).total_dead == 0
        and summarize(nn.Conv1d(1, 1, 9, padding=4), input_size=(1, 1, 1)).total_dead
        == 8
    )
    res = summarize(With(lambda m, x, s: x), torch.ones(2), 'two\nlines')
    assert len(res.text().split('\n')) == 2


def test_a_loader_whose_generator_is_deep_inside():
    from torch.utils.data import BatchSampler, RandomSampler

    g = torch.Generator().manual_seed(1)
    ds = TensorDataset(torch.randn(12, 4), torch.arange(12))
    dl, state = (
        DataLoader(
            ds, batch_sampler=BatchSampler(RandomSampler(ds, generator=g), 4, False)
        ),
        g.get_state(),
    )
    peek(dl)
    assert torch.equal(g.get_state(), state)


def test_in_place_products_are_products():
    assert (
        macs(
            Fn(lambda a, b: torch.zeros(5, 6).addmm_(a, b)),
            torch.ones(5, 3),
            torch.ones(3, 6),
        )
        == 5 * 3 * 6 / 5
    )
