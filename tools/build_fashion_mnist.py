#!/usr/bin/env python3
"""Make the Fashion-MNIST in miniai/data/fashion_mnist from the four original idx files.

    python tools/build_fashion_mnist.py FOLDER_WITH_THE_IDX_FILES
        [--out miniai/data/fashion_mnist]

The idx files are those of https://github.com/zalandoresearch/fashion-mnist (also
Debian's package dataset-fashion-mnist). The result is laid out as on the Hugging Face
hub: an `image` column of PNG bytes with the `Image` feature, a `label` column with the
`ClassLabel` feature. Pixels and labels are checked against the sums below before
anything is written, and again after reading it back.
The result is committed once and never rewritten.
"""

import argparse, gzip, hashlib, io, struct
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars
from PIL import Image as PILImage

CLASSES = [
    'T - shirt / top',
    'Trouser',
    'Pullover',
    'Dress',
    'Coat',
    'Sandal',
    'Shirt',
    'Sneaker',
    'Bag',
    'Ankle boot',
]
SPLITS = {'train': 'train', 'test': 't10k'}  # the beginnings of the original file names
# of the raw bytes behind the idx headers: uint8 pixels row by row, uint8 labels
SHA256 = {
    'train-images': '2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012',
    'train-labels': '657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7',
    'test-images': 'c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a',
    'test-labels': '3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9',
}


def read_idx(path):
    "The array in the (gzipped) idx file `path`"
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as f:
        raw = f.read()
    ndim = raw[3]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(
        struct.unpack(f'>{ndim}I', raw[4 : 4 + 4 * ndim])
    )


def check(name, array):
    "Raise unless the bytes of `array` have the known sum"
    got = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    if got != SHA256[name]:
        raise ValueError(
            f'{name}: SHA-256 is {got}, expected {SHA256[name]}; not the original files'
        )


def png(pixels):
    "`pixels` (28×28, uint8) as the bytes of a grey PNG"
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, 'PNG', optimize=True)
    return out.getvalue()


def find(folder, stem):
    "The idx file `stem`, gzipped or not, in `folder`"
    found = sorted(Path(folder).glob(stem + '*'))
    if not found:
        raise FileNotFoundError(f'{folder} holds no {stem} or {stem}.gz')
    return found[0]


def build(folder, out):
    "Write `out/{train,test}-00000-of-00001.parquet` from the idx files in `folder`"
    out.mkdir(parents=True, exist_ok=True)
    features = Features({'image': Image(), 'label': ClassLabel(names=CLASSES)})
    arrays = {
        k: [
            read_idx(find(folder, f'{stem}-{o}-ubyte'))
            for o in ('images-idx3', 'labels-idx1')
        ]
        for k, stem in SPLITS.items()
    }
    for split, (x, y) in arrays.items():
        check(f'{split}-images', x)
        check(f'{split}-labels', y)
    for split, (x, y) in arrays.items():
        path = out / f'{split}-00000-of-00001.parquet'
        rows = {
            'image': [{'bytes': png(o), 'path': None} for o in x],
            'label': y.tolist(),
        }
        Dataset.from_dict(rows, features=features).to_parquet(path)
        back = Dataset.from_parquet(str(path), keep_in_memory=True)
        check(f'{split}-images', np.stack([np.asarray(o) for o in back['image']]))
        check(f'{split}-labels', np.array(back['label'], np.uint8))
        print(
            f'{path}: {len(x):,} images, '
            f'{path.stat().st_size / 1e6:.1f} MB, sums as expected'
        )


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('folder', type=Path, help='holds the four original idx files')
    p.add_argument(
        '--out',
        type=Path,
        default=Path('miniai/data/fashion_mnist'),
        help='where to write (default: %(default)s)',
    )
    args = p.parse_args()
    disable_progress_bars()
    build(args.folder, args.out)
