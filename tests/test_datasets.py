"""The embedded data, the order of batches, and other people's data sets

Also what is said when something is wrong.
"""

import hashlib, os, shutil

import numpy as np, pytest, torch
import children
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    load_dataset,
)
from PIL import Image as PILImage
from torch.utils.data import DataLoader, Dataset as Dataset_, TensorDataset

from miniai.datasets import (
    DataLoaders,
    TensorLoader,
    choose_splits,
    decode_images,
    embedded_path,
    find_columns,
    get_dls,
    get_grid,
    load_dd,
    pixel_stats,
    show_image,
    show_images,
    stratified,
)
from miniai.xtras import set_seed


@pytest.fixture(scope='module')
def fashion():
    return get_dls()


def test_every_pixel_and_label_is_the_original(fashion, root):
    text = (root / 'tools' / 'build_fashion_mnist.py').read_text()
    for split, dl in (('train', fashion.train), ('test', fashion.valid)):
        for kind, t in (('images', dl.x), ('labels', dl.y.byte())):
            assert (
                f"'{split}-{kind}': '{hashlib.sha256(t.numpy().tobytes()).hexdigest()}'"
                in text
            )


def test_load_dataset_reads_the_folder():
    dd = load_dataset(str(embedded_path()))
    assert {k: len(v) for k, v in dd.items()} == {'train': 60_000, 'test': 10_000}
    assert (
        isinstance(dd['train'].features['image'], Image)
        and dd['train'].features['label'].names[9] == 'Ankle boot'
    )


@pytest.mark.parametrize(
    'seed,labels',
    [(42, [5, 7, 4, 7, 3, 8, 9, 5, 3, 1]), (1, [5, 4, 9, 4, 3, 0, 6, 5, 7, 6])],
)
def test_known_first_batches(fashion, seed, labels):
    set_seed(seed)
    xb, yb = next(iter(fashion.train))
    assert xb.shape == (1024, 1, 28, 28) and yb[:10].tolist() == labels


@pytest.mark.parametrize(
    'n,bs,shuffle',
    [(100, 10, True), (101, 10, True), (7, 50, True), (1, 1, True), (33, 8, False)],
)
def test_same_batches_and_random_state_as_the_stock_loader(n, bs, shuffle):
    x, y = torch.randn(n, 3), torch.arange(n)
    res = []
    for dl in (
        TensorLoader(x, y, bs, shuffle),
        DataLoader(TensorDataset(x, y), bs, shuffle),
    ):
        set_seed(3)
        res.append(
            [b for _ in range(3) for b in dl] + [(torch.rand(5), torch.zeros(1))]
        )
        assert len(dl) == -(-n // bs)
    for (xa, ya), (xb, yb) in zip(*res, strict=True):
        assert torch.equal(xa, xb) and torch.equal(ya, yb)


@pytest.mark.slow
def test_the_held_out_images_are_stratified_fixed_and_not_trained_on():
    set_seed(1)
    a = get_dls(valid=5_000)
    set_seed(2)
    b = get_dls(valid=5_000)
    assert torch.equal(a.valid.x, b.valid.x) and torch.equal(a.train.x, b.train.x)
    assert [len(o.x) for o in (a.train, a.valid, a.test)] == [55_000, 5_000, 10_000]
    assert (
        a.valid.y.bincount().tolist() == [500] * 10
        and a.train.y.bincount().tolist() == [5_500] * 10
    )


def test_stratified_on_uneven_classes():
    y = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)[torch.randperm(1000)]
    assert y[stratified(y, 100)].bincount().tolist() == [90, 9, 1]
    assert stratified(y, 1000).tolist() == list(range(1000))


def test_limit_keeps_all_classes():
    dls = get_dls(limit=50)
    assert dls.train.y.bincount().tolist() == [5] * 10 and len(dls.valid.x) == 50


def test_pixel_statistics():
    x = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8)
    m, s = pixel_stats(x)
    assert torch.allclose(
        torch.tensor(m), x.double().div(255).mean((0, 2, 3)).float(), atol=1e-6
    )
    assert torch.allclose(
        torch.tensor(s),
        x.double().div(255).transpose(0, 1).flatten(1).std(1, correction=0).float(),
        atol=1e-6,
    )


# Other data sets ----------------------------------------------------------------------


def picture(i, size=(12, 10), mode='RGB'):
    return PILImage.fromarray(
        np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
    ).convert(mode)


def image_folder(path, splits=('train', 'test'), mode='RGB', n=6, size=(12, 10)):
    for split in splits:
        for i in range(n):
            d = path / split / ('boot', 'shirt')[i % 2]
            d.mkdir(parents=True, exist_ok=True)
            picture(i, size, mode).save(d / f'{i}.png')
    return path


@pytest.mark.parametrize(
    'mode,channels', [('RGB', 3), ('L', 1), ('RGBA', 3), ('P', 3), ('1', 1)]
)
def test_a_folder_of_images(tmp_path, mode, channels):
    dls = get_dls(image_folder(tmp_path, mode=mode), bs=4)
    assert dls.classes == ['boot', 'shirt'] and next(iter(dls.train))[0].shape == (
        4,
        channels,
        12,
        10,
    )
    assert len(dls.train.x) == 6 and len(dls.valid.x) == 6 and dls.test is None


def test_a_folder_without_a_test_split_holds_some_out(tmp_path):
    dls = get_dls(image_folder(tmp_path, ('train',), n=40), bs=4)
    assert len(dls.train.x) == 36 and len(dls.valid.x) == 4 and dls.test is None


def test_three_splits(tmp_path):
    dls = get_dls(image_folder(tmp_path, ('train', 'validation', 'test')), bs=4)
    assert [len(o.x) for o in (dls.train, dls.valid, dls.test)] == [6, 6, 6]
    dls = get_dls(tmp_path, bs=4, valid=2)
    assert [len(o.x) for o in (dls.train, dls.valid, dls.test)] == [4, 2, 6]


def test_a_test_split_that_is_kept_for_the_end(tmp_path):
    dls = get_dls(image_folder(tmp_path / 'two', n=20), bs=4, keep_test=True)
    assert [len(o.x) for o in (dls.train, dls.valid, dls.test)] == [18, 2, 20]
    dls = get_dls(
        image_folder(tmp_path / 'three', ('train', 'validation', 'test')),
        bs=4,
        keep_test=True,
    )
    assert [len(o.x) for o in (dls.train, dls.valid, dls.test)] == [6, 6, 6]
    dls = get_dls(
        image_folder(tmp_path / 'one', ('train',), n=20), bs=4, keep_test=True
    )
    assert [len(dls.train.x), len(dls.valid.x), dls.test] == [18, 2, None]


def test_size(tmp_path):
    path = image_folder(tmp_path)
    assert get_dls(path, size=8).train.x.shape == (6, 3, 8, 8)
    assert get_dls(path, size=(6, 9)).train.x.shape == (6, 3, 6, 9)


def test_images_of_different_sizes_ask_for_one(tmp_path):
    path = image_folder(tmp_path)
    picture(9, (20, 20)).save(path / 'train' / 'boot' / '9.png')
    with pytest.raises(ValueError, match='differ in size.*size=64'):
        get_dls(path)
    assert get_dls(path, size=8).train.x.shape == (7, 3, 8, 8)


def test_a_grey_picture_among_coloured_ones(tmp_path):
    path = image_folder(tmp_path)
    picture(9, mode='L').save(path / 'train' / 'boot' / '9.png')
    assert get_dls(path).train.x.shape == (7, 3, 12, 10)


def parquet(path, rows, features=None, split='train'):
    path.mkdir(exist_ok=True, parents=True)
    Dataset.from_dict(rows, features=features).to_parquet(
        path / f'{split}-00000-of-00001.parquet'
    )
    return path


def test_labels_that_are_words_or_odd_numbers(tmp_path):
    ims = [picture(i) for i in range(4)]
    dls = get_dls(
        parquet(
            tmp_path / 'a',
            {'picture': ims, 'label': ['dog', 'cat', 'dog', 'cat']},
            Features({'picture': Image(), 'label': Value('string')}),
        ),
        valid=1,
    )
    assert dls.classes == ['cat', 'dog']
    dls = get_dls(
        parquet(
            tmp_path / 'b',
            {'picture': ims, 'target': [7, 3, 7, 3]},
            Features({'picture': Image(), 'target': Value('int64')}),
        ),
        valid=1,
    )
    assert dls.classes == ['3', '7'] and set(dls.train.y.tolist()) == {0, 1}


def test_columns_that_cannot_be_told_apart(tmp_path):
    f = Features(
        {
            'a': Image(),
            'b': Image(),
            'c': ClassLabel(names=['x', 'y']),
            'd': ClassLabel(names=['x', 'y']),
        }
    )
    rows = {
        'a': [picture(i) for i in range(4)],
        'b': [picture(i) for i in range(4, 8)],
        'c': [0, 1, 0, 1],
        'd': [1, 0, 1, 0],
    }
    path = parquet(tmp_path / 'a', rows, f)
    with pytest.raises(ValueError, match="Which column holds the images.*'a', 'b'"):
        get_dls(path, valid=1)
    with pytest.raises(ValueError, match="Which column holds the labels.*'c', 'd'"):
        get_dls(path, valid=1, image='a')
    with pytest.raises(ValueError, match="no column 'e'"):
        get_dls(path, valid=1, image='e')
    assert len(get_dls(path, valid=1, image='a', label='d').train.x) == 3


def test_fine_label_is_preferred(tmp_path):
    ds = Dataset.from_dict(
        {'img': [picture(0)], 'fine_label': [1], 'coarse_label': [0]},
        features=Features(
            {'img': Image(), 'fine_label': ClassLabel(2), 'coarse_label': ClassLabel(1)}
        ),
    )
    assert find_columns(ds) == ('img', 'fine_label')


def test_a_test_split_without_labels_is_none(tmp_path):
    f = Features({'image': Image(), 'label': ClassLabel(names=['x', 'y'])})
    parquet(
        tmp_path / 'a',
        {'image': [picture(i) for i in range(4)], 'label': [0, 1, 0, 1]},
        f,
    )
    parquet(
        tmp_path / 'a',
        {'image': [picture(i) for i in range(2)], 'label': [-1, -1]},
        f,
        'test',
    )
    dls = get_dls(tmp_path / 'a', valid=2)
    assert dls.test is None and len(dls.valid.x) == 2


def test_one_class_only_is_explained(tmp_path):
    for i in range(4):
        (tmp_path / 'train' / 'boot').mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / 'train' / 'boot' / f'{i}.png')
    with pytest.raises(ValueError, match='named after two classes or more'):
        get_dls(tmp_path)


def test_labels_in_a_csv_file(tmp_path):
    (tmp_path / 'train').mkdir()
    for i in range(6):
        picture(i).save(tmp_path / 'train' / f'{i}.png')
    labels = tmp_path / 'train' / 'metadata.csv'
    labels.write_text(
        'file_name,species\n'
        + '\n'.join(f'{i}.png,{"cat" if i % 2 else "dog"}' for i in range(6))
    )
    dls = get_dls(tmp_path, valid=2, labels=labels, label='species')
    assert dls.classes == ['cat', 'dog'] and not dls.notes
    with pytest.raises(ValueError, match='two classes or more'):
        get_dls(tmp_path, valid=2)


@pytest.mark.slow
def test_from_dd_with_a_data_set_of_ones_own_and_worker_processes():
    class Tab(Dataset_):
        def __init__(self):
            self.features, self.labels = torch.randn(10, 3), torch.arange(10)

        def __len__(self):
            return 10

        def __getitem__(self, i):
            return self.features[i], self.labels[i]

    assert next(iter(DataLoaders.from_dd({'train': Tab()}, 4).train))[0].shape == (4, 3)
    ds = Dataset.from_dict({'x': list(range(10)), 'label': [0, 1] * 5})
    xb, yb = next(
        iter(
            DataLoaders.from_dd(
                {'train': ds}, 4, num_workers=1, multiprocessing_context='spawn'
            ).train
        )
    )
    assert len(xb) == len(yb) == 4


def test_from_tensors():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    dls = DataLoaders.from_tensors(
        (x, y), (x[:4], y[:4]), bs=4, classes=list('abcdefghij')
    )
    assert (
        [len(dls.train), len(dls.valid), dls.test] == [3, 1, None]
        and dls.train.shuffle
        and not dls.valid.shuffle
    )
    xb, yb = next(iter(dls.train))
    assert torch.equal(xb[:, 0].long(), yb) and '10 classes' in repr(dls)
    with pytest.raises(ValueError, match='batch size'):
        DataLoaders.from_tensors((x, y), bs=0)


def test_from_dd_has_stock_loaders():
    ds = Dataset.from_dict({'x': list(range(10)), 'label': [0, 1] * 5})
    dls = DataLoaders.from_dd(DatasetDict(train=ds, test=ds), 4, num_workers=0)
    assert isinstance(dls.train, DataLoader) and len(next(iter(dls.train))) == 2
    assert isinstance(
        next(iter(DataLoaders.from_dd({'train': ds}, 4, as_tuple=False).train)), dict
    )
    with pytest.raises(ValueError, match="No 'train' split"):
        DataLoaders.from_dd({'test': ds}, 4)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize('bs', [0, -1, 2.5, '64', None, True])
def test_bad_batch_sizes(bs):
    for f in (
        lambda: get_dls(bs=bs),
        lambda: TensorLoader(torch.zeros(4, 1), torch.zeros(4), bs),
        lambda: DataLoaders.from_dd({'train': []}, bs),
    ):
        with pytest.raises(
            ValueError, match='batch size must be a whole number of at least 1; got'
        ):
            f()


def test_a_batch_larger_than_the_data_is_one_batch():
    assert len(get_dls(bs=10**6, limit=20).train) == 1


@pytest.mark.slow
def test_an_unknown_name_while_offline_is_not_asked_for_again_and_again(tmp_path):
    "The hub's own client waits 23 seconds before it gives up: counted, not waited for"
    code = (
        'import time; from miniai.datasets import get_dls\n'
        'waits = []; time.sleep = waits.append\n'
        "try: get_dls('owner/name')\n"
        'except ConnectionError as e: print(sum(waits) < 3, e)'
    )
    env = {'HF_ENDPOINT': 'http://localhost:9', 'HF_HOME': str(tmp_path)}
    res = children.python(code, env={**os.environ, **env})
    assert (
        res.stdout.startswith('True')
        and "'owner/name' is neither a folder" in res.stdout
    ), res.stdout + res.stderr


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        load_dd(str(tmp_path / 'nowhere'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='is no data set'):
        load_dd(tmp_path / 'empty')
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'a.bin').write_bytes(b'abc')
    with pytest.raises(ValueError, match='is no data set'):
        load_dd(tmp_path / 'notes')
    with pytest.raises(ValueError, match='is a file'):
        load_dd(tmp_path / 'notes' / 'a.bin')


@pytest.mark.parametrize('damage', ['cut', 'noise', 'empty'])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    shutil.copytree(embedded_path(), tmp_path / 'd')
    bad = tmp_path / 'd' / 'test-00000-of-00001.parquet'
    raw = bytearray(bad.read_bytes())
    if damage == 'cut':
        raw = raw[: len(raw) // 2]
    elif damage == 'noise':
        raw[1000:200_000] = bytes(199_000)
    else:
        raw = b''
    bad.write_bytes(raw)
    match = (
        'row 0 of the valid split .* is damaged'
        if damage == 'noise'
        else 'test-00000-of-00001.parquet is damaged'
    )
    with pytest.raises(ValueError, match=match):
        get_dls(tmp_path / 'd', limit=10)


def test_a_picture_that_cannot_be_unpacked_is_named(tmp_path):
    path = image_folder(tmp_path)
    (path / 'train' / 'boot' / '0.png').write_bytes(b'no picture')
    with pytest.raises(
        ValueError, match='row . of the train split .*0.png. is damaged'
    ):
        get_dls(path)


def test_labels_out_of_range_in_a_data_set(tmp_path):
    f = Features({'image': Image(), 'label': ClassLabel(names=['x', 'y'])})
    path = parquet(
        tmp_path / 'a',
        {'image': [picture(i) for i in range(4)], 'label': [0, 1, -1, 1]},
        f,
    )
    with pytest.raises(ValueError, match='Row 2 .* label -1'):
        get_dls(path, valid=1)


@pytest.mark.parametrize('valid', [False, -5, 60_000, 1.5, 'x'])
def test_bad_valid(valid):
    with pytest.raises(ValueError, match='valid='):
        choose_splits(load_dd(), 'label', valid)


@pytest.mark.parametrize('limit', [0, -1, 1.5, True])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match='limit must be a whole number'):
        get_dls(limit=limit)


def test_lengths_that_differ():
    with pytest.raises(ValueError, match='3 inputs, but 2 labels'):
        TensorLoader(torch.zeros(3), torch.zeros(2))


# Drawing ------------------------------------------------------------------------------


@pytest.mark.parametrize('n', [1, 2, 3, 5, 7, 8, 13])
def test_a_grid_has_room_for_all_and_hides_the_rest(n):
    axs = get_grid(n, imsize=0.2)[1].flat
    assert len(axs) >= n and sum(ax.axison for ax in axs) == n
    show_images([torch.zeros(4, 4)] * n, titles=['a'], imsize=0.2)
    __import__('matplotlib.pyplot').pyplot.close('all')


def test_grids_of_a_given_shape():
    assert (
        get_grid(5, nrows=1, imsize=0.2)[1].shape == (1, 5)
        and get_grid(5, ncols=2, imsize=0.2)[1].shape == (3, 2)
        and get_grid(3, nrows=4, imsize=0.2)[1].shape == (4, 1)
    )
    show_images([torch.zeros(4, 4)] * 2, nrows=2, ncols=3, imsize=0.2)
    with pytest.raises(ValueError, match='5 images do not fit'):
        get_grid(5, 2, 2)
    __import__('matplotlib.pyplot').pyplot.close('all')


@pytest.mark.parametrize(
    'im',
    [
        torch.zeros(1, 5, 6),
        torch.zeros(3, 5, 6),
        torch.zeros(5, 6),
        np.zeros((5, 6, 3)),
        torch.zeros(3, 5, 6, dtype=torch.bfloat16),
        PILImage.new('L', (6, 5)),
    ],
)
def test_images_of_any_kind(im):
    ax = show_image(im)
    assert ax.images[0].get_array().shape[:2] == (5, 6)
    __import__('matplotlib.pyplot').pyplot.close('all')


@pytest.fixture(scope='module')
def pixels():
    "All pictures, by what `embedded_pixels` says of them, unpacked once"
    return {
        f'the {k} split': decode_images(v, split=f'the {k} split')
        for k, v in load_dd().items()
    }


@pytest.fixture
def unpacked(pixels, monkeypatch):
    "A list of what `embedded_pixels` unpacks from now on"
    import miniai.sources as D

    asked = []

    def decode(dd, split=None, **kw):
        asked.append(split)
        return pixels[split]

    monkeypatch.setattr(D, 'decode_images', decode)
    return asked


@pytest.mark.slow
def test_the_cache_of_pixels_is_never_trusted(tmp_path, monkeypatch, unpacked, pixels):
    import miniai.sources as D

    path, dd, both = tmp_path / 'pixels.bin', load_dd(), list(pixels)
    monkeypatch.setattr(D, '_cache_path', lambda: path)
    want = torch.cat([*pixels.values()])

    def right():
        unpacked.clear()
        assert torch.equal(D.embedded_pixels(dd), want)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == D.PIXELS
        return unpacked == both, unpacked == []

    assert right() == (True, False) and right() == (False, True)
    whole = path.read_bytes()
    for bad in (b'', whole[:-1], whole + b'?', b'?' + whole[1:], bytes(len(whole))):
        path.write_bytes(bad)
        assert right() == (True, False)
    assert [o.name for o in tmp_path.iterdir()] == ['pixels.bin']
    dls = get_dls(limit=100, valid=50)
    some = choose_splits(load_dd(), 'label', 50, 100)['train']
    assert torch.equal(dls.train.x, decode_images(some))


@pytest.mark.slow
def test_no_place_for_the_cache_is_no_error(tmp_path, monkeypatch, unpacked):
    import miniai.sources as D

    def nowhere():
        raise PermissionError('read-only')

    for path in (lambda: tmp_path / 'nosuch' / 'pixels.bin', lambda: tmp_path, nowhere):
        monkeypatch.setattr(D, '_cache_path', path)
        assert len(get_dls(limit=100).train.x) == 100
    assert len(unpacked) == 6
