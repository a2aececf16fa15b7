"""A folder of one's own is read by rules, and what they do not cover is refused

Each case is a layout of folders and what comes of it. Nothing is said in silence: a class
less, a picture in the wrong split or another folder's pictures would be the worst faults.
"""

import csv, os

import numpy as np, pytest, torch
from datasets import Dataset, Features, Image as Pic, Value
from PIL import Image

from miniai import pictures
from miniai.cli import describe, get_data
from miniai.datasets import class_lines, get_dls, load_dd
from miniai.listing import list_files
from miniai.sources import split_of


def make(root, names, size=(8, 8)):
    "Small pictures, each another, called `names`; empty files where the name is of none"
    for i, name in enumerate(names.split() if isinstance(names, str) else names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        if path.suffix.lower() in ('.png', '.jpg', '.gif'):
            Image.fromarray(pixels).save(path)
        else:
            path.write_bytes(b'x')
    return root


def found(root, **kw):
    "From splits to classes to numbers of pictures"
    dd = load_dd(root, **kw)
    names = dd['train'].features['label'].names
    return {
        k: {o: ds['label'][:].count(i) for i, o in enumerate(names)}
        for k, ds in dd.items()
    }


def each(places, n=2, end='png'):
    "`n` names of pictures in each of `places`"
    return [f'{p}/{i}.{end}' for p in places.split() for i in range(n)]


# splits or classes --------------------------------------------------------------------

CLASSES = {
    'trains are no training': 'airport train_station train_yard',
    'words in names': 'control-test stress-test my.train dev_board eval-1',
    'good and test': 'good test',
    'bus and train': 'bus train',
    'a split name alone does not make a split': 'valid test',
    'many splits without one to train': 'dev val eval',
    'spaces and signs': 'a[1] b*c ?d e#f',
    'words within words': 'trainer contest validate',
}


@pytest.mark.parametrize('name', CLASSES)
def test_folders_at_the_top_are_classes(name, tmp_path):
    places = CLASSES[name]
    make(tmp_path, each(places))
    assert found(tmp_path) == {'train': {o: 2 for o in sorted(places.split())}}


@pytest.mark.parametrize(
    'train,valid,test',
    [
        ('train', None, 'test'),
        ('Train', None, 'Test'),
        ('TRAINING', 'VAL', 'EVAL'),
        ('train', 'validation', 'evaluation'),
        ('training', 'dev', 'testing'),
        ('train', 'Valid', None),
    ],
)
def test_splits_have_many_names(train, valid, test, tmp_path):
    make(tmp_path, each(f'{train}/a {train}/b', 3))
    want = {'train': {'a': 3, 'b': 3}}
    if valid:
        make(tmp_path, each(f'{valid}/a {valid}/b', 1))
        want['validation'] = {'a': 1, 'b': 1}
    if test:
        make(tmp_path, each(f'{test}/a {test}/b'))
        want['test'] = {'a': 2, 'b': 2}
    assert found(tmp_path) == want


@pytest.mark.parametrize(
    'classes', ['bus train', 'control stress-test', 'test train valid', 'dev eval']
)
def test_classes_may_have_names_of_splits(classes, tmp_path):
    names = classes.split()
    make(tmp_path, [f'train/{c}/{i}.png' for c in names for i in range(3)])
    make(tmp_path, [f'test/{c}/{i}.png' for c in names for i in range(2)])
    assert found(tmp_path) == {
        'train': dict.fromkeys(names, 3),
        'test': dict.fromkeys(names, 2),
    }
    dls = get_dls(tmp_path, 4)
    for dl, split in ((dls.train, 'train'), (dls.valid, 'test')):
        assert {o.parent.parent.name for o in dl.paths} == {split}
        for y, o in zip(dl.y, dl.paths):
            assert o.parent.name == dls.classes[y]


def test_words_in_file_names_say_nothing(tmp_path):
    make(
        tmp_path, each('a b', 50) + ['a/train_1.png', 'b/train-2.png', 'b/my train.png']
    )
    make(tmp_path, ['a/test.png'])
    assert found(tmp_path) == {'train': {'a': 52, 'b': 52}}


def test_words_above_the_folder_say_nothing(tmp_path):
    root = make(tmp_path / 'test' / 'eval-dev' / 'train', each('a b'))
    assert found(root) == {'train': {'a': 2, 'b': 2}}


REFUSED = {
    'a stranger beside splits': (
        'train/a/1.png train/b/2.png test/a/3.png extra/a/4.png',
        ['training split train', 'beside extra'],
    ),
    'two names for training': (
        'train/a/1.png train/b/2.png training/a/3.png',
        ['train and training', 'two names'],
    ),
    'two names for validation': (
        'train/a/1.png train/b/2.png val/a/3.png dev/a/4.png',
        ['two names for the validation split'],
    ),
    'two cases': ('train/a/1.png Train/b/2.png', ['two names']),
    'a picture beside classes': ('a/1.png b/2.png stray.png', ['stray.png', 'beside']),
    'a picture in a split': (
        'train/a/1.png train/b/2.png train/stray.png',
        ['train/stray.png', 'beside'],
    ),
    'a picture beside splits': (
        'train/a/1.png train/b/2.png stray.png',
        ['stray.png', 'beside the folders of the splits'],
    ),
    'a picture in the test split': (
        'train/a/1.png train/b/2.png test/a/3.png test/stray.png',
        ['test/stray.png', 'beside'],
    ),
    'unequal depth': ('a/1.png b/2.png b/old/3.png', ['b/old/3.png', 'deeper']),
    'unequal depth in a split': (
        'train/a/1.png train/b/x/2.png',
        ['train/b/x/2.png', 'deeper than train/CLASS/FILE'],
    ),
    'a folder around it': ('data/a/1.png data/b/2.png', ['deeper', 'data the folder']),
    'splits without training': (
        'valid/a/1.png test/a/2.png',
        ['deeper', 'is there no training split?'],
    ),
    'one class': (
        'boot/1.png boot/2.png',
        ['only the class boot', 'two classes or more'],
    ),
    'one class in train': (
        'train/boot/1.png test/boot/2.png',
        ['train', 'only the class boot'],
    ),
    'no classes': ('1.png 2.png', ['1.png', 'beside the folders']),
    'a class in test only': (
        'train/a/1.png train/b/2.png test/a/3.png test/c/4.png',
        ['class c', 'test/c/4.png', 'test split only'],
    ),
    'another case in test': (
        'train/cat/1.png train/dog/2.png test/Cat/3.png',
        ['class Cat', 'misspelt'],
    ),
    'a class that cannot be read': (
        'a/1.png b/2.png c/3.heic c/4.heic',
        ['class', '/c ', '3.heic', 'PNG, JPEG', 'TIFF are read'],
    ),
    'a class that cannot be read in test': (
        'train/a/1.png train/b/2.png test/a/3.heic test/b/4.png',
        ['test/a', '3.heic'],
    ),
    'an empty data set': ('a/x.heic b/y.svg', ['no data set', 'a/x.heic', 'PNG, JPEG']),
    'pictures and tables': (
        'a/1.png b/2.png c.parquet',
        ['parquet', 'take them apart'],
    ),
    'files without an end': ('a/1.png b/2', ['/b ', 'b/2']),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_clear_is_refused(name, tmp_path):
    names, words = REFUSED[name]
    with pytest.raises(ValueError) as e:
        load_dd(make(tmp_path, names))
    for o in words:
        assert o in str(e.value), str(e.value)
    assert str(tmp_path) in str(e.value) and len(str(e.value)) < 900


def test_an_empty_class_is_refused(tmp_path):
    make(tmp_path, each('a b'))
    (tmp_path / 'c').mkdir()
    with pytest.raises(ValueError, match='The class .*/c has no picture'):
        load_dd(tmp_path)


def test_a_test_split_without_labels_is_left_out_and_said(tmp_path):
    make(tmp_path, each('train/a train/b', 10) + ['test/1.png', 'test/2.png'])
    dls = get_dls(tmp_path, 4, keep_test=True)
    assert dls.test is None and len(dls.valid.x) == 2
    assert len(dls.notes) == 1 and 'there is no test split' in dls.notes[0]
    assert f'{tmp_path}/test' in dls.notes[0] and dls.notes[0] in repr(dls)


def test_two_folders_called_train_and_test_with_bare_pictures(tmp_path):
    "By the rule they are classes; as few people mean that, it is said"
    make(tmp_path, ['train/1.png', 'train/2.png', 'test/3.png', 'test/4.png'])
    assert found(tmp_path) == {'train': {'test': 2, 'train': 2}}
    assert 'test, train are taken for classes' in load_dd(tmp_path).notes[0]


# files --------------------------------------------------------------------------------


def test_hidden_files_are_ignored_and_others_named(tmp_path):
    make(tmp_path, each('a b') + ['a/notes.txt', 'Thumbs.db', 'b/c.svg', 'x.csv'])
    make(tmp_path, ['.git/1.png', 'a/.2.png', 'a/.cache/3.png', '__MACOSX/a/1.png'])
    assert found(tmp_path) == {'train': {'a': 2, 'b': 2}}
    assert load_dd(tmp_path).notes == (
        '4 files that are no pictures were left out: Thumbs.db, a/notes.txt, b/c.svg, …',
    )


@pytest.mark.parametrize(
    'name', ['pics[1]', 'pics*', 'pics?', 'a::b', 'x y', 'pi[!c]s']
)
def test_signs_in_a_path_are_letters(name, tmp_path):
    make(tmp_path / name, each('a b', 2))
    make(tmp_path / 'pics1', each('c d', 3))
    root = tmp_path / name
    assert found(root) == {'train': {'a': 2, 'b': 2}}
    dls = get_dls(root, 4, valid=1)
    assert all(o.is_relative_to(root) for o in dls.train.paths + dls.valid.paths)


@pytest.mark.parametrize('name', ['pics[1]', 'pics*', 'test'])
def test_signs_in_the_path_of_tables_are_letters(name, tmp_path):
    for folder, n in ((name, 2), ('pics1', 5)):
        (tmp_path / folder).mkdir()
        feats = Features({'image': Pic(), 'label': Value('string')})
        ims = [Image.new('L', (4, 4), i) for i in range(n)]
        rows = {'image': ims, 'label': ['x', 'y', 'x', 'y', 'x'][:n]}
        ds = Dataset.from_dict(rows, features=feats)
        ds.to_parquet(tmp_path / folder / '0.parquet')
    assert {k: len(v) for k, v in load_dd(tmp_path / name).items()} == {'train': 2}


def test_tables_of_which_some_belong_to_no_split(tmp_path):
    ds = Dataset.from_dict({'x': [1], 'label': ['a']})
    for o in ('train-0.parquet', 'more.parquet'):
        ds.to_parquet(tmp_path / o)
    with pytest.raises(ValueError, match='more.parquet belongs to no split'):
        load_dd(tmp_path)
    (tmp_path / 'more.parquet').rename(tmp_path / 'test-train.parquet')
    with pytest.raises(ValueError, match='several splits'):
        load_dd(tmp_path)


def test_links_to_folders_and_files_are_followed(tmp_path):
    make(tmp_path / 'far', each('boot', 3) + ['shirt.png'])
    root = make(tmp_path / 'data', each('shirt'))
    (root / 'boot').symlink_to(tmp_path / 'far' / 'boot')
    (root / 'shirt' / 'more.png').symlink_to(tmp_path / 'far' / 'shirt.png')
    assert found(root) == {'train': {'boot': 3, 'shirt': 3}}
    (tmp_path / 'way').symlink_to(root)
    assert found(tmp_path / 'way') == {'train': {'boot': 3, 'shirt': 3}}


@pytest.mark.parametrize(
    'link,to,why',
    [
        ('a/back', '.', 'same folder'),
        ('a/up', 'a', 'same folder'),
        ('c', 'a', 'same folder'),
        ('a/9.png', 'nowhere', 'leads nowhere'),
        ('a/8.png', 'a/8.png', 'leads nowhere'),
    ],
)
def test_links_that_make_no_sense_are_refused(link, to, why, tmp_path):
    root = make(tmp_path / 'data', each('a b'))
    (root / link).symlink_to(root / to)
    with pytest.raises(ValueError, match=why) as e:
        load_dd(root)
    assert link in str(e.value)


def test_the_training_pictures_are_no_test_pictures_by_a_link(tmp_path):
    make(tmp_path, each('train/a train/b'))
    (tmp_path / 'test').symlink_to(tmp_path / 'train')
    with pytest.raises(ValueError, match='same folder'):
        load_dd(tmp_path)


@pytest.mark.hostile
def test_what_is_no_file_is_refused_by_name(tmp_path):
    make(tmp_path, each('a b'))
    os.mkfifo(tmp_path / 'a' / 'pipe.png')
    with pytest.raises(ValueError, match='pipe.png is neither a file nor a folder'):
        load_dd(tmp_path)


@pytest.mark.hostile
def test_a_name_that_is_no_text(tmp_path):
    make(tmp_path, each('a b'))
    try:
        (tmp_path / 'a' / os.fsdecode(b'\xff.png')).write_bytes(b'')
    except OSError:
        pytest.skip('the file system takes only UTF-8')
    with pytest.raises(ValueError, match='not UTF-8'):
        load_dd(tmp_path)


def test_listing_opens_nothing(tmp_path, monkeypatch):
    for o in ('a', 'b', 'c'):
        (tmp_path / o).mkdir()
        for i in range(1000):
            os.close(os.open(tmp_path / o / f'{i}.png', os.O_CREAT))
    opened = []
    monkeypatch.setattr('builtins.open', lambda *a, **k: opened.append(a))
    monkeypatch.setattr('io.open', lambda *a, **k: opened.append(a))
    monkeypatch.setattr('os.open', lambda *a, **k: opened.append(a))
    files = list_files(tmp_path)
    assert len(files.pictures) == 3000 and not opened


# TIFF ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'missing', [['tifffile'], ['imagecodecs'], ['tifffile', 'imagecodecs']]
)
def test_a_tiff_says_what_is_missing(missing, tmp_path, monkeypatch):
    for o in 'ab':
        (tmp_path / o).mkdir()
        for i in range(3):
            Image.new('L', (9, 9), 20 * i).save(tmp_path / o / f'{i}.tif')
    find = pictures.find_spec
    monkeypatch.setattr(
        pictures, 'find_spec', lambda o: None if o in missing else find(o)
    )
    with pytest.raises(ValueError, match=f'pip install {" ".join(missing)}$'):
        get_dls(tmp_path, 2, valid=1)


# labels -------------------------------------------------------------------------------


def write_labels(path, rows, columns=('file_name', 'label')):
    with open(path, 'w', newline='') as f:
        csv.writer(f).writerows([columns, *rows])
    return path


def test_labels_are_the_folders_whatever_lies_there(tmp_path):
    make(tmp_path, each('a b'))
    write_labels(tmp_path / 'metadata.csv', [(o, 'x') for o in each('a b')])
    write_labels(tmp_path / 'a' / 'metadata.csv', [('0.png', 'y'), ('1.png', 'z')])
    assert found(tmp_path) == {'train': {'a': 2, 'b': 2}}


def test_labels_from_a_file(tmp_path):
    root = make(tmp_path / 'data', ['1.png', 'sub/2.png', 'sub/deep/3.png', '4.png'])
    rows = [('1.png', 'cat'), ('sub/2.png', 'dog'), ('./sub/deep/3.png', 'cat')]
    rows += [('4.png', 'dog')]
    for place in (root / 'labels.csv', tmp_path / 'elsewhere.csv'):
        labels = write_labels(place, rows)
        assert found(root, labels=labels) == {'train': {'cat': 2, 'dog': 2}}
        dls = get_dls(root, 4, valid=1, labels=str(labels))
        assert dls.classes == ['cat', 'dog'] and not dls.notes
        (tmp_path / 'elsewhere.csv').exists() or labels.unlink()


def test_labels_from_a_file_in_a_split(tmp_path):
    make(tmp_path, ['train/1.png', 'train/2.png', 'train/3.png', 'test/1.png'])
    rows = [('1.png', 'a'), ('2.png', 'b'), ('3.png', 'b')]
    labels = write_labels(tmp_path / 'train' / 'metadata.csv', rows)
    dd = load_dd(tmp_path, labels=labels)
    assert list(dd) == ['train'] and 'no test split' in dd.notes[0]


def test_labels_from_a_function(tmp_path):
    make(tmp_path, ['cat_1.png', 'dog_2.png', 'x/cat_3.png', 'x/dog_4.png'])
    assert found(tmp_path, labels=lambda o: o.name[:3]) == {
        'train': {'cat': 2, 'dog': 2}
    }
    dls = get_dls(tmp_path, 2, valid=0, labels=lambda o: 10 - int(o.stem[-1]))
    assert dls.classes == ['6', '7', '8', '9']
    assert {o.name: dls.classes[y] for y, o in zip(dls.train.y, dls.train.paths)} == {
        'cat_1.png': '9',
        'dog_2.png': '8',
        'cat_3.png': '7',
        'dog_4.png': '6',
    }


LABEL_FILES = {
    'not there': (
        [('a.png', 'x'), ('c.png', 'y')],
        "line 3: there is no picture 'c.png'",
    ),
    'outside': ([('../out.png', 'x')], 'there is no picture'),
    'device': ([('/dev/zero', 'x')], 'there is no picture'),
    'twice': ([('a.png', 'x'), ('a.png', 'y')], 'has a label already'),
    'missing': ([('a.png', 'x')], 'b.png has no label in'),
    'empty': ([('a.png', 'x'), ('b.png', '')], 'b.png has no label in'),
    'nan': ([('a.png', 'x'), ('b.png', 'NaN')], 'b.png has no label in'),
    'one class': ([('a.png', 'x'), ('b.png', 'x')], 'only the class x'),
    'none': ([], 'No picture in .* has a label'),
}


@pytest.mark.parametrize('name', LABEL_FILES)
def test_label_files_that_are_wrong(name, tmp_path):
    rows, why = LABEL_FILES[name]
    make(tmp_path / 'data', ['a.png', 'b.png'])
    make(tmp_path, ['out.png'])
    labels = write_labels(tmp_path / 'l.csv', rows)
    with pytest.raises(ValueError, match=why):
        load_dd(tmp_path / 'data', labels=labels)


def test_spaces_around_what_is_in_a_label_file(tmp_path):
    root = make(tmp_path / 'data', ['1.png', '2.png', '3.png', '4.png'])
    text = 'file_name, label\n1.png, cat\n2.png,dog \n3.png,  cat\n4.png,dog\n'
    (tmp_path / 'l.csv').write_text(text)
    assert found(root, labels=tmp_path / 'l.csv') == {'train': {'cat': 2, 'dog': 2}}


@pytest.mark.parametrize('labels', [['a', 'b'], {}, 3])
def test_labels_of_another_kind(labels, tmp_path):
    make(tmp_path, each('a b'))
    with pytest.raises(TypeError, match='a CSV file, or a function.*got'):
        load_dd(tmp_path, labels=labels)


@pytest.mark.parametrize(
    'twin', ['e\u0301t\u00e9', 'e\u0301te\u0301', ' \u00e9t\u00e9']
)
def test_names_that_look_the_same(twin, tmp_path):
    "As a Mac and a Linux write them, or with a space at the end"
    make(tmp_path, [f'{o}/1.png' for o in (twin, '\u00e9t\u00e9', 'hiver')])
    with pytest.raises(ValueError, match='look the same.*xe9t'):
        load_dd(tmp_path)


def test_label_files_that_are_none(tmp_path):
    root = make(tmp_path / 'data', ['a.png', 'b.png'])
    with pytest.raises(FileNotFoundError, match='There is no file'):
        load_dd(root, labels=tmp_path / 'l.csv')
    write_labels(tmp_path / 'l.csv', [('a.png', 'x')], ('name', 'kind'))
    with pytest.raises(
        ValueError, match='needs the columns file_name and label; it has name'
    ):
        load_dd(root, labels=tmp_path / 'l.csv')
    for data in (b'\xff\xfe\0', b''):
        (tmp_path / 'l.csv').write_bytes(data)
        with pytest.raises(ValueError, match='CSV|columns'):
            load_dd(root, labels=tmp_path / 'l.csv')
    with pytest.raises(ValueError, match='labels= is for'):
        get_dls(labels=tmp_path / 'l.csv')


@pytest.mark.parametrize('bad', [float('nan'), None, ''])
def test_a_function_that_does_not_know(bad, tmp_path):
    make(tmp_path, ['a.png', 'b.png', 'c.png'])
    with pytest.raises(ValueError, match='b.png has no label in'):
        load_dd(tmp_path, labels=lambda o: bad if o.stem == 'b' else o.stem)
    with pytest.raises(ValueError, match='a label is a text or a whole number'):
        load_dd(tmp_path, labels=lambda o: 1.5)


def test_labels_that_are_no_number_in_a_table(tmp_path):
    feats = Features({'image': Pic(), 'label': Value('float64')})
    ims = [Image.new('L', (4, 4), i) for i in range(4)]
    rows = {'image': ims, 'label': [1.0, float('nan'), 2.0, 1.0]}
    Dataset.from_dict(rows, features=feats).to_parquet(tmp_path / 'x.parquet')
    with pytest.raises(ValueError, match='Row 1 of column .label. has the label nan'):
        get_dls(tmp_path, valid=1)


# what comes of it ---------------------------------------------------------------------


def test_paths_are_the_files_of_the_rows(tmp_path):
    make(tmp_path, each('train/a train/b', 10) + each('test/a test/b'))
    dls = get_dls(tmp_path, 4, keep_test=True, limit=12)
    for dl in (dls.train, dls.valid, dls.test):
        assert len(dl.paths) == len(dl.x)
        for x, y, o in zip(dl.x, dl.y, dl.paths):
            assert o.parent.name == dls.classes[y]
            assert np.array_equal(np.asarray(Image.open(o)), x[0].numpy())
    assert not set(dls.train.paths) & set(dls.valid.paths)
    assert get_dls(limit=10).train.paths is None


@pytest.mark.parametrize('valid', [0.1, 0.5, 0.9, 1, 5, 10])
def test_a_class_with_one_picture_stays_in_train(valid, tmp_path):
    make(tmp_path, each('a b', 8) + ['rare/1.png', 'scarce/1.png'])
    dls = get_dls(tmp_path, 4, valid=valid)
    assert (dls.train.y.bincount(minlength=4) > 0).all()
    assert dls.valid.y.max() < 2


def test_pictures_that_are_all_the_same(tmp_path):
    for o in each('a b'):
        (tmp_path / o).parent.mkdir(exist_ok=True)
        Image.new('L', (8, 8), 7).save(tmp_path / o)
    with pytest.raises(ValueError, match='All 3 training pictures are the same'):
        get_dls(tmp_path, 4, valid=1)


def test_the_command_counts_classes(tmp_path):
    make(tmp_path / 'd', each('train/a train/bb', 6) + each('test/a', 2) + ['x.txt'])
    dls = get_data(tmp_path / 'd', 4, None, None, None, tmp_path / 'o')
    plan = describe(dls, torch.device('cpu'), 1, 4, 0.1, 42, tmp_path / 'o')
    assert '          a   6 train  0 valid  2 test\n' in plan
    assert '          bb  5 train  1 valid  0 test\n' in plan
    assert 'note      one file that is no picture was left out: x.txt\n' in plan


def test_many_classes_are_summed_up(tmp_path):
    make(tmp_path, [f'{i}/{j}.png' for i in range(40) for j in 'ab'])
    lines = class_lines(get_dls(tmp_path, 4, valid=0))
    assert len(lines) == 31 and lines[-1].endswith('… and 10 more')


def test_names_of_splits():
    names = 'train TRAINING Valid validation val dev test testing eval Evaluation'
    assert all(map(split_of, names.split()))
    assert not any(map(split_of, 'trains train1 tests train_ data a'.split()))
