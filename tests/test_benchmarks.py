"The programs in benchmarks/ that need no other library, and what they wrote"

import csv, importlib, json, sys

import pytest
import children
from conftest import ROOT

BENCH = ROOT / 'benchmarks'


@pytest.fixture(scope='module')
def compare():
    sys.path[:0] = [str(BENCH), str(BENCH / 'contestants')]
    yield importlib.import_module('compare')
    del sys.path[:2]


def test_the_same_work_gives_the_same_numbers(compare):
    hand, ours = (
        importlib.import_module(o).fit(
            compare.mlp(), compare.ready(20, 64, 784), 0.05, 2
        )
        for o in ('by_hand', 'with_miniai')
    )
    assert hand == pytest.approx(ours, abs=1e-5)


def test_other_work_is_noticed(compare):
    found = {
        'by_hand': dict(overhead_recorded=[2.3, 0.10], images_recorded=[2.3, 0.10]),
        'with_x': dict(overhead_recorded=[2.3, 0.10], images_recorded=[2.3, 0.11]),
    }
    with pytest.raises(SystemExit, match='with_x .* not the same work'):
        compare.check(found)


def test_every_contestant_is_in_the_results_in_every_round(compare):
    res = json.loads((BENCH / 'results.json').read_text())
    assert {(o['contestant'], o['round']) for o in res['rows']} == {
        (nm, r) for nm in [*compare.CONTESTANTS, 'peak'] for r in range(1, 6)
    }
    assert (
        res['machine']
        and res['date']
        and {'fastai', 'Lightning', 'skorch', 'Keras'} <= set(res['versions'])
    )
    for r in range(1, 6):
        compare.check({o['contestant']: o for o in res['rows'] if o['round'] == r})


def test_growth_has_all_its_points(compare):  # which put the folder on the path
    points = importlib.import_module('growth').POINTS
    rows = list(csv.DictReader((ROOT / 'nbs' / 'results' / 'growth.csv').open()))
    for nm, values in points.items():
        assert {float(o[nm]) for o in rows if o['varied'] == nm} == set(
            map(float, values)
        ), nm


@pytest.mark.slow
@pytest.mark.parametrize('nm', ['compare', 'growth'])
def test_help(nm):
    res = children.run([sys.executable, BENCH / f'{nm}.py', '--help'])
    assert res.returncode == 0 and 'make bench' in res.stdout


@pytest.fixture(scope='module')
def recipes(compare):
    return importlib.import_module('recipes')  # which put the folder on the path


def test_what_the_race_is_run_against(recipes):
    import torch
    from miniai.summary import summarize

    found = summarize(recipes.course_model(), torch.randn(1, 1, 28, 28))
    assert (found.total_params, found.total_macs) == (4_905_572, 36_908_544)


def test_the_race_is_complete():
    rows = list(csv.DictReader((ROOT / 'nbs' / 'results' / 'race.csv').open()))
    assert [o['what'] for o in rows] == [
        'course epoch',
        *['recipe 94'] * 5,
        'course epoch',
    ] and len({(o['machine'], o['torch'], o['date']) for o in rows}) == 1
    assert sorted(o['seed'] for o in rows if o['what'] == 'recipe 94') == list('01234')


def test_a_new_column_loses_no_row(recipes, tmp_path):
    path = tmp_path / 'new' / 'a.csv'
    for row in (
        {'what': 'a', 'n': 1},
        {'what': 'b, c', 'n': 2},
        {'what': 'd', 'numbers': 'float32', 'n': 3},
    ):
        recipes.write(path, [row])
    assert path.read_text() == 'what,n,numbers\na,1,\n"b, c",2,\nd,3,float32\n'
    assert recipes.read(path)[1] == {
        'what': 'b, c',
        'n': '2',
        'numbers': '',
    } and not recipes.read(tmp_path / 'none.csv')


@pytest.mark.slow
def test_every_part_of_the_recipe_can_be_exchanged(recipes):
    from miniai.datasets import get_dls

    dls = get_dls(bs=100, valid=300, limit=400)
    losses = {
        nm: recipes.train_part(nm, 0, dls, epochs=2)['valid_loss']
        for nm in recipes.PARTS
    }
    assert len(set(losses.values())) == len(losses) and all(
        o == o for o in losses.values()
    )
    assert {
        o['variant']
        for o in csv.DictReader((ROOT / 'nbs' / 'results' / 'recipes.csv').open())
    } <= set(recipes.PARTS)


@pytest.mark.slow
@pytest.mark.parametrize('nm', ['recipes', 'explore'])
def test_help_of_the_trials(nm):
    res = children.run([sys.executable, BENCH / f'{nm}.py', '--help'])
    assert res.returncode == 0 and 'nbs/results' in res.stdout


@pytest.mark.slow
def test_runs_are_collected_and_others_added(small, tmp_path):
    from miniai.train import run_training

    for seed in range(3):
        run_training(
            1,
            64,
            data=small,
            limit=200,
            seed=seed,
            device='cpu',
            out=tmp_path / str(seed),
            quiet=True,
        )
    last = {'data': small, 'limit': 200, 'device': 'cpu'}
    run_training(1, 32, seed=3, out=tmp_path / '3', quiet=True, **last)

    def collect(seeds, machine, *more):
        return children.run(
            [
                sys.executable,
                ROOT / 'tools' / 'collect_runs.py',
                tmp_path / 'all.json',
                *(tmp_path / str(o) for o in seeds),
                '--machine',
                machine,
                *more,
            ]
        )

    assert (
        collect([2], 'mine').returncode == 0
        and collect([0, 1], 'yours', '--add').returncode == 0
    )
    res = json.loads((tmp_path / 'all.json').read_text())
    assert [(o['seed'], o.get('machine')) for o in res['runs']] == [
        (0, 'yours'),
        (1, 'yours'),
        (2, None),
    ] and res['machine'] == 'mine'
    assert 'channels-last' in res['numbers'] and not any(
        'numbers' in o for o in res['runs']
    )
    assert all(
        0 <= o['test_accuracy'] <= 1 and o['seconds'] > 0 and 'versions' not in o
        for o in res['runs']
    )
    for seed, why in ((0, 'seeds already: [0]'), (3, 'other options')):
        res = collect([seed], 'mine', '--add')
        assert res.returncode == 1 and why in res.stderr
