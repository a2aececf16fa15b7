"""A prediction is what the evaluation was

Whatever a picture is (its mode, its format, the note which way is up, its size) and however
it is handed over, the network sees the same numbers as when its accuracy was printed.
"""

import random
from dataclasses import asdict

import numpy as np, pytest, torch
from PIL import Image

from miniai.cli import run_training
from miniai.datasets import get_dls
from miniai.pictures import full_range
from miniai.runs import Run, images_part, load_run

MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')
# which formats can hold which mode
FORMATS = {
    'png': MODES,
    'bmp': ('1', 'L', 'P', 'RGB'),
    'webp': ('RGB', 'RGBA'),
    'jpg': ('L', 'RGB'),
    'tif': MODES,
    'gif': ('P',),
}


def picture(rng, mode, size, top=4096):
    "A picture with noise in it, of a mode and a size `(w, h)`"
    w, h = size
    n = {'LA': 2, 'RGB': 3, 'RGBA': 4}.get(mode, 1)
    if mode == 'I;16':
        return Image.fromarray(rng.integers(0, top, (h, w)).astype(np.uint16))
    a = rng.integers(0, 256, (h, w, n), dtype=np.uint8)
    if mode in ('1', 'P'):
        im = Image.fromarray(a[..., 0]).convert(mode)
        if mode == 'P':
            im.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return im
    return Image.fromarray(a[..., 0] if n == 1 else a, mode if n > 1 else None)


def save(im, path, turned):
    "`im` in a file, with a note which way is up if the format has a place for it"
    note = Image.Exif()
    note[0x0112] = turned
    how = dict(exif=note) if path.suffix in ('.png', '.jpg', '.webp', '.tif') else {}
    if path.suffix == '.tif':
        how['compression'] = 'tiff_lzw' if im.mode != '1' else None
    im.save(path, **how)


def fill(root, seed, modes=MODES, sizes=((12, 9), (9, 12), (16, 16), (10, 10))):
    "A folder with a training and a test split, in which nearly everything is mixed"
    rng, pick = np.random.default_rng(seed), random.Random(seed)
    n = 0
    for split, many in (('train', 12), ('test', 8)):
        for i in range(many):
            for label in 'ab':
                mode = modes[n % len(modes)]
                n += 1
                end = pick.choice([k for k, v in FORMATS.items() if mode in v])
                path = root / split / label / f'{i}.{end}'
                path.parent.mkdir(parents=True, exist_ok=True)
                turned = pick.randint(1, 8)
                save(picture(rng, mode, pick.choice(sizes)), path, turned)
    return root


def run_of(dls):
    "A run as it is after training, but for the network: that one would take time"
    part = asdict(images_part(dls))
    return Run('nowhere', torch.nn.Identity(), dict(images=part, classes=dls.classes))


def ways(path):
    "The picture in `path`, in the ways in which it may be handed over"
    yield path
    yield str(path)
    if path.suffix != '.tif':
        with Image.open(path) as im:
            yield im
            yield im.copy()  # of no format any more


def check(dls, dl, **kw):
    "Every row of `dl` is, to the bit, what `prepare` makes of its file"
    run = run_of(dls)
    dl.shuffle = False
    rows = torch.cat([xb for xb, _ in dl])
    assert len(rows) == len(dl.paths) > 0
    for row, path in zip(rows, dl.paths):
        for o in ways(path):
            assert torch.equal(run.prepare(o, **kw)[0], row), (path, o)


HOWS = [
    dict(size=8),
    dict(size=8, resize='crop'),
    dict(size=8, resize='pad'),
    dict(size=8, resize='squash', ground='black'),
    dict(size=(6, 10), resize='pad', ground='#204080'),
    dict(size=(6, 10), resize='crop'),
    dict(size=(6, 10), ground='navy'),
]


@pytest.mark.parametrize('how', range(len(HOWS)))
@pytest.mark.parametrize('modes', [MODES, *((o,) for o in MODES)], ids='-'.join)
def test_a_picture_is_what_it_was_in_the_evaluation(modes, how, tmp_path):
    root = fill(tmp_path, how, modes)
    dls = get_dls(root, 5, keep_test=True, valid=4, **HOWS[how])
    colours = {'P', 'RGB', 'RGBA'}
    if HOWS[how].get('ground') in ('#204080', 'navy'):
        colours |= {'LA'}
    assert dls.train.x.shape[1] == (3 if set(modes) & colours else 1)
    for dl in (dls.train, dls.valid, dls.test):
        check(dls, dl)


@pytest.mark.parametrize('mode', MODES)
def test_a_picture_of_the_one_size_they_all_have(mode, tmp_path):
    root = fill(tmp_path, 3, (mode,), ((9, 9),))
    dls = get_dls(root, 5, keep_test=True, valid=0)
    check(dls, dls.test)


def test_more_than_there_was_in_training_is_clipped_and_said(tmp_path):
    rng = np.random.default_rng(0)
    for split, top in (('train', 4096), ('test', 60_000)):
        for label in 'ab':
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(4):
                im = picture(rng, 'I;16', (8, 8), top)
                im.save(tmp_path / split / label / f'{i}.png')
    dls = get_dls(tmp_path, 4, keep_test=True, valid=0)
    assert dls.form.top == 4096 and 'clipped at 4,095' in ' '.join(dls.notes)
    check(dls, dls.test)
    notes = []
    run_of(dls).prepare(dls.test.paths[0], notes=notes)
    assert len(notes) == 1 and 'clipped at 4,095' in notes[0]


@pytest.mark.parametrize(
    'largest, top', [(0, 256), (255, 256), (256, 512), (4095, 4096), (65535, 65536)]
)
def test_the_range_is_a_power_of_two_above(largest, top):
    assert full_range(largest) == top


# positive or negative -----------------------------------------------------------------


def on_ground(root, grounds, n=12):
    "Classes a and b: a bright or dark square on the ground of `grounds`, or of one of them"
    rng = np.random.default_rng(1)
    for split in ('train', 'test'):
        for label in 'ab':
            (root / split / label).mkdir(parents=True)
            for i in range(n):
                g = grounds[label] if isinstance(grounds, dict) else grounds
                a = np.full((10, 10), g, np.uint8)
                side = 3 if label == 'a' else 5
                a[3 : 3 + side, 3 : 3 + side] = rng.integers(90, 165)
                Image.fromarray(a).save(root / split / label / f'{i}.png')
    return root


def test_opposite_polarity_is_not_taken_away(tmp_path):
    "That was once printed 100 % and predicted 50 %"
    dls = get_dls(on_ground(tmp_path, dict(a=0, b=255)), 4, keep_test=True, valid=0)
    assert run_of(dls).config['images']['background'] is None
    check(dls, dls.test)


@pytest.mark.parametrize('ground', [0, 30, 255])
def test_a_negative_is_turned_where_all_share_a_ground(ground, tmp_path):
    dls = get_dls(on_ground(tmp_path, ground), 4, keep_test=True, valid=0)
    run = run_of(dls)
    assert run.config['images']['background'] == pytest.approx(ground / 255)
    check(dls, dls.test)
    im = Image.open(dls.test.paths[0])
    negative = Image.fromarray(255 - np.asarray(im))
    notes = []
    assert torch.equal(run.prepare(negative, notes=notes), run.prepare(im))
    assert len(notes) == 1 and 'negative' in notes[0]
    plain = run.prepare(negative, invert=False)
    assert not torch.equal(plain, run.prepare(im))
    check(dls, dls.test, invert=False)


def test_one_negative_in_the_test_split_leaves_all_as_they_are(tmp_path):
    "Else that one would be judged as it is, and predicted turned"
    root = on_ground(tmp_path, 0)
    path = root / 'test' / 'a' / '0.png'
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    dls = get_dls(root, 4, keep_test=True, valid=0)
    assert run_of(dls).config['images']['background'] is None
    check(dls, dls.test)


# tensors ------------------------------------------------------------------------------


def test_batches_of_a_loader_are_known(tmp_path):
    root = fill(tmp_path, 0, ('L',), ((9, 9),))
    dls = get_dls(root, 4, keep_test=True, valid=0)
    run = run_of(dls)
    for xb, _ in dls.test:
        for x in xb:
            for o in (x, x[None]):
                assert torch.equal(run.prepare(o)[0], x)


def test_a_normalised_tensor_without_negative_numbers(tmp_path):
    "It was taken for pixels; now its numbers tell, or it is asked"
    dls = get_dls(on_ground(tmp_path, 0), 4, keep_test=True, valid=0)
    run = run_of(dls)
    mean, std = (np.array(run.config['images'][k]) for k in ('mean', 'std'))
    bright = torch.full((1, 10, 10), 250, dtype=torch.uint8)
    as_loader = (bright.float() / 255 - mean[0]) / std[0]
    assert as_loader.min() > 0
    assert torch.equal(run.prepare(as_loader)[0], as_loader)
    pixels = bright.float() / 255
    assert torch.equal(run.prepare(pixels), run.prepare(bright))
    unclear = torch.rand(1, 10, 10)
    with pytest.raises(ValueError, match='normalised=False or True'):
        run.prepare(unclear)
    assert torch.equal(run.prepare(unclear, normalised=True)[0], unclear)
    assert run.prepare(unclear, normalised=False).shape == (1, 1, 10, 10)


# all of it ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    'modes, how',
    [
        (MODES, dict(size=12, resize='pad')),
        (('L', '1', 'LA'), dict(size=12)),
        (('I;16',), dict(size=12, resize='squash')),
        (('RGBA',), dict(size=12, resize='crop', ground='teal')),
    ],
    ids=['all', 'grey', 'deep', 'transparent'],
)
def test_the_printed_accuracy_is_that_of_the_predictions(modes, how, tmp_path):
    root = fill(tmp_path / 'data', 7, modes)
    out = tmp_path / 'run'
    run_training(1, data=root, device='cpu', out=out, quiet=True, **how)
    run = load_run(out, 'cpu')
    files = sorted((root / 'test').rglob('*.*'))
    result = run.config['result']
    assert result['images'] == len(files)
    hits = sum(run.predict(o).label == o.parent.name for o in files)
    assert hits / len(files) == pytest.approx(result['accuracy'])
