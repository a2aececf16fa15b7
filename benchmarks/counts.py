#!/usr/bin/env python3
"""Count parameters and MACs of ten networks with four counters, and by hand.

    make bench            installs everything and runs this
    python benchmarks/counts.py [OUT]

What came out is written to a JSON file. The hand counts are arithmetic on the
architectures as their papers (and torchvision) define them; no tensor is involved.
"""

import argparse, json, logging, warnings
from pathlib import Path

import torch, torchvision.models as tvm
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from miniai.resnet import get_resnet
from miniai.summary import summarize
from miniai.xtras import versions

OUT = (
    Path(__file__).resolve().parent.parent
    / 'miniai'
    / 'data'
    / 'results'
    / 'counts.json'
)

# networks that torchvision does not have ----------------------------------------------


class UNet(nn.Module):
    "Halves a picture twice and doubles it twice, with transposed convolutions"

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(
            [
                nn.Conv2d(3, 16, 3, 1, 1),
                nn.Conv2d(16, 32, 3, 2, 1),
                nn.Conv2d(32, 64, 3, 2, 1),
            ]
        )
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(64, 16, 2, 2)]
        )
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x):
        a = F.relu(self.down[0](x))
        b = F.relu(self.down[1](a))
        c = F.relu(self.down[2](b))
        return self.out(torch.cat([a, self.up[1](torch.cat([b, self.up[0](c)], 1))], 1))


class GPTBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj, self.mlp = (
            nn.Linear(d, 3 * d),
            nn.Linear(d, d),
            nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)),
        )

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (
            self.qkv(self.norm1(x))
            .view(b, n, 3, self.heads, d // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        x = x + self.proj(
            F.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(1, 2)
            .reshape(b, n, d)
        )
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    "A small language model; its output layer is its embedding (tied weights)"

    def __init__(self, vocab=5000, n=128, d=128, layers=4, heads=4):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(n, d)
        self.blocks, self.norm, self.head = (
            nn.Sequential(*(GPTBlock(d, heads) for _ in range(layers))),
            nn.LayerNorm(d),
            nn.Linear(d, vocab, bias=False),
        )
        self.head.weight = self.tok.weight

    def forward(self, ids):
        return self.head(
            self.norm(
                self.blocks(
                    self.tok(ids)
                    + self.pos(torch.arange(ids.shape[1], device=ids.device))
                )
            )
        )


class LSTMModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.lstm, self.head = (
            nn.Embedding(1000, 64),
            nn.LSTM(64, 128, 2, batch_first=True, bidirectional=True),
            nn.Linear(256, 10),
        )

    def forward(self, ids):
        return self.head(self.lstm(self.emb(ids))[0][:, -1])


class Twins(nn.Module):
    "One encoder for two pictures"

    def __init__(self):
        super().__init__()
        self.enc, self.head = (
            nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(784, 32),
            ),
            nn.Linear(64, 1),
        )

    def forward(self, a, b):
        return self.head(torch.cat([self.enc(a), self.enc(b)], 1))


class Mixer(nn.Module):
    "Weights that are no layer: all is an einsum with parameters of the module itself"

    def __init__(self, n=64, d=32):
        super().__init__()
        self.tokens, self.channels = (
            nn.Parameter(torch.randn(n, n)),
            nn.Parameter(torch.randn(d, d)),
        )

    def forward(self, x):
        return torch.einsum(
            'bnd,de->bne',
            torch.einsum('bnd,nm->bmd', x, self.tokens).relu(),
            self.channels,
        )


# counts by hand -----------------------------------------------------------------------


def conv(ni, nf, k, size, groups=1):
    return k * k * ni // groups * nf * size * size


def pooled_resnet():
    "A block's first convolution works before the halving, second and 1×1 after it"
    nfs, sizes = (1, 8, 16, 32, 64, 128, 256), (28, 28, 14, 7, 4, 2, 1)
    blocks = zip(nfs, nfs[1:], sizes, sizes[1:])
    return (
        sum(
            conv(ni, nf, 3, a) + conv(nf, nf, 3, b) + conv(ni, nf, 1, b)
            for ni, nf, a, b in blocks
        )
        + 256 * 10
    )


def resnet18():
    stages = sum(
        conv(ni, nf, 3, s) + 3 * conv(nf, nf, 3, s) + conv(ni, nf, 1, s)
        for ni, nf, s in ((64, 128, 28), (128, 256, 14), (256, 512, 7))
    )
    return conv(3, 64, 7, 112) + 4 * conv(64, 64, 3, 56) + stages + 512 * 1000


def resnet50():
    "The bottleneck blocks with the stride in their 3×3 convolution, as in torchvision"

    def block(ni, c, before, after):
        return conv(ni, c, 1, before) + conv(c, c, 3, after) + conv(c, 4 * c, 1, after)

    total = conv(3, 64, 7, 112) + 2048 * 1000
    for ni, c, n, before, after in (
        (64, 64, 3, 56, 56),
        (256, 128, 4, 56, 28),
        (512, 256, 6, 28, 14),
        (1024, 512, 3, 14, 7),
    ):
        total += (
            block(ni, c, before, after)
            + conv(ni, 4 * c, 1, after)
            + (n - 1) * block(4 * c, c, after, after)
        )
    return total


def mobilenet_v2():
    total, ni, size = conv(3, 32, 3, 112), 32, 112
    for t, c, n, s in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(n):
            after = size // (s if i == 0 else 1)
            total += (
                (conv(ni, t * ni, 1, size) if t > 1 else 0)
                + conv(t * ni, t * ni, 3, after, groups=t * ni)
                + conv(t * ni, c, 1, after)
            )
            ni, size = c, after
    return total + conv(320, 1280, 1, 7) + 1280 * 1000


def transformer(n, d, layers, hidden):
    return layers * (n * (4 * d * d + 2 * d * hidden) + 2 * n * n * d)


def vit_b_16():
    return conv(3, 768, 16, 14) + transformer(14 * 14 + 1, 768, 12, 3072) + 768 * 1000


def gpt():
    return transformer(128, 128, 4, 512) + 128 * 128 * 5000


def unet():
    return (
        conv(3, 16, 3, 64)
        + conv(16, 32, 3, 32)
        + conv(32, 64, 3, 16)
        + 64 * 32 * 4 * 16 * 16
        + 64 * 16 * 4 * 32 * 32
        + conv(32, 2, 1, 64)
    )


def lstm():
    return 20 * 2 * 4 * 128 * ((64 + 128) + (256 + 128)) + 256 * 10


def twins():
    return 2 * (conv(1, 8, 3, 14) + conv(8, 16, 3, 7) + 784 * 32) + 64


def mixer():
    return 64 * 64 * 32 + 64 * 32 * 32


def picture(size, n=3):
    return lambda: (torch.randn(1, n, size, size),)


def ids(n, vocab):
    return lambda: (torch.randint(vocab, (1, n)),)


NETWORKS = {
    'ResNet of page 07': (
        lambda: get_resnet(device='cpu'),
        picture(28, 1),
        pooled_resnet,
    ),
    'ResNet-18': (tvm.resnet18, picture(224), resnet18),
    'ResNet-50': (tvm.resnet50, picture(224), resnet50),
    'MobileNetV2': (tvm.mobilenet_v2, picture(224), mobilenet_v2),
    'ViT-B/16': (tvm.vit_b_16, picture(224), vit_b_16),
    'small GPT': (GPT, ids(128, 5000), gpt),
    'U-Net': (UNet, picture(64), unet),
    'LSTM': (LSTMModel, ids(20, 1000), lstm),
    'twins': (
        Twins,
        lambda: (torch.randn(1, 1, 28, 28), torch.randn(1, 1, 28, 28)),
        twins,
    ),
    'einsum': (Mixer, lambda: (torch.randn(1, 64, 32),), mixer),
}

# counters -----------------------------------------------------------------------------


def ours(model, inputs):
    res = summarize(model, *inputs)
    return res.total_params, res.total_macs


def torchinfo(model, inputs):
    import torchinfo

    res = torchinfo.summary(model, input_data=inputs, verbose=0, device='cpu')
    return res.total_params, int(res.total_mult_adds)


def fvcore(model, inputs):
    from fvcore.nn import FlopCountAnalysis, parameter_count

    return parameter_count(model)[''], int(
        FlopCountAnalysis(model, inputs)
        .unsupported_ops_warnings(False)
        .uncalled_modules_warnings(False)
        .total()
    )


def flop_counter_mode(model, inputs):
    with FlopCounterMode(display=False) as c, torch.no_grad():
        model(*inputs)
    return None, c.get_total_flops() // 2  # it does not count parameters


COUNTERS = {
    'miniai': ours,
    'torchinfo': torchinfo,
    'fvcore': fvcore,
    'FlopCounterMode': flop_counter_mode,
}


def measure(make, inputs, by_hand):
    "What each counter says about a network of its own, and the truth"
    model = make()
    res = {
        'true': {
            'params': sum(p.numel() for p in model.parameters()),
            'macs': by_hand(),
        }
    }
    for nm, count in COUNTERS.items():
        torch.manual_seed(0)
        try:
            params, macs = count(make().eval(), inputs())
        except Exception as e:
            res[nm] = {'error': f'{type(e).__name__}: {e}'.split('\n')[0]}
        else:
            res[nm] = {'params': params, 'macs': macs}
    return res


def main():
    from importlib.metadata import version

    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        'out', nargs='?', type=Path, default=OUT, help='the JSON file to write'
    )
    args = p.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    networks = {}
    for nm, o in NETWORKS.items():
        networks[nm] = measure(*o)
        print(
            f'{nm:18}',
            *(
                f'{k} {v.get("macs", v.get("error"))}/{v.get("params")}'
                for k, v in networks[nm].items()
            ),
            sep='  ',
            flush=True,
        )
    vs = {
        k: v for k, v in versions().items() if k in ('python', 'torch', 'torchvision')
    }
    res = dict(
        command='make bench',
        versions={**vs, **{o: version(o) for o in ('torchinfo', 'fvcore')}},
        networks=networks,
    )
    args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
