"""What is imported, what is exported, what is said about where things are

And the wheel in a clean environment.
"""

import ast, configparser, json, re, shutil, sys, venv
from inspect import Parameter, isclass, isfunction, signature
from pathlib import Path

import nbformat, pytest
import children
from conftest import ROOT

import miniai

PAGES = [
    re.sub(r'^\d+[a-z]?_', '', p.stem)
    for p in sorted((ROOT / 'nbs').glob('[0-9]*.ipynb'))
]
MODULES = [o for o in PAGES if (ROOT / 'miniai' / f'{o}.py').exists()]


def settings():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini')
    return cfg['DEFAULT']


def tree(module):
    return ast.parse((ROOT / 'miniai' / f'{module}.py').read_text())


def test_import_miniai_loads_nothing_heavy():
    res = children.python(
        "import sys, miniai; print([o for o in ('torch','torchvision','datasets',"
        "'matplotlib','torcheval','nbdev','numpy','fastcore') if o in sys.modules])"
    )
    assert res.stdout.strip() == '[]', res.stdout + res.stderr


def test_lazy_names_are_the_modules_own():
    for module, names in miniai._names.items():
        m = getattr(miniai, module)
        for nm in names:
            assert (
                getattr(miniai, nm) is getattr(m, nm)
                and nm in dir(miniai)
                and nm not in MODULES
            )
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        miniai.nonsense
    assert set(miniai._names) == set(MODULES)


@pytest.mark.slow
def test_the_first_batch_in_one_line():
    res = children.python(
        "from miniai.datasets import *; from miniai.conv import *; "
        "from miniai.learner import *; from miniai.activations import *; "
        "from miniai.init import *; from miniai.sgd import *; "
        "from miniai.xtras import *; set_seed(42); "
        "xb,yb = next(iter(get_dls().train)); print(xb.shape, yb[:10])"
    )
    assert (
        res.stdout
        == 'torch.Size([1024, 1, 28, 28]) tensor([5, 7, 4, 7, 3, 8, 9, 5, 3, 1])\n'
    ), res.stderr


@pytest.mark.slow
def test_all_gives_the_public_names_and_the_methods_of_later_pages():
    res = children.python('''
before = set(globals())
from miniai.all import *
print(*sorted(set(globals())-before-{'before'}))
import sys
print(Learner.summary.__name__, Learner.lr_find.__name__, 'nbdev' in sys.modules)''')
    names, rest = res.stdout.splitlines()
    assert names.split() == sorted([*miniai._where, 'conv'])
    assert rest.split() == ['summary', 'lr_find', 'False'], res.stderr


def test_the_list_of_public_names_is_short_and_has_each_name_once():
    names = [o for names in miniai._names.values() for o in names]
    assert len(names) == len(set(names)) and 100 <= len(names) <= 130
    for module, some in miniai._names.items():
        assert some == sorted(some) and set(some) <= set(
            getattr(miniai, module).__all__
        ), module


def test_names_that_version_0_1_gave_in_all_can_still_be_asked_for():
    old = json.loads((ROOT / 'tests' / 'data' / 'v0_1' / 'names.json').read_text())
    import miniai.all as everything

    names = {o for k, v in old.items() if k != 'miniai' for o in v['exported']}
    assert len(names) > 200
    for o in names:
        assert getattr(everything, o) is not None
    with pytest.raises(AttributeError, match='nonsense'):
        everything.nonsense


def parameters(f):
    "The parameters of `f` that should say what they are"
    return [
        o for o in signature(f).parameters.values() if o.name not in ('self', 'cls')
    ]


@pytest.mark.parametrize('name', miniai.__all__[1:])
def test_public_names_are_annotated(name):
    "Functions with what they return, classes as they are made"
    o = getattr(miniai, name)
    if not isfunction(o) and not isclass(o):
        return  # a table, such as RECIPES
    if isclass(o) and not isfunction(o.__init__):
        return  # made without anything, such as an exception
    bare = [p.name for p in parameters(o) if p.annotation is Parameter.empty]
    assert not bare, f'{name}: {bare} have no annotation'
    if isfunction(o):
        assert signature(o).return_annotation is not Parameter.empty, name


def test_the_types_are_announced():
    assert (ROOT / 'miniai' / 'py.typed').exists() and 'py.typed' in (
        ROOT / 'MANIFEST.in'
    ).read_text()


@pytest.mark.parametrize(
    'nm,module',
    [
        ('to_cpu', 'learner'),
        ('set_seed', 'activations'),
        ('conv', 'init'),
        ('clean_mem', 'init'),
        ('set_seed', 'xtras'),
        ('def_device', 'conv'),
    ],
)
def test_names_handed_on_are_the_same_objects(nm, module):
    m = __import__(f'miniai.{module}', fromlist=[nm])
    assert nm in m.__all__ and getattr(m, nm) is getattr(
        miniai.conv if nm == 'conv' else miniai, nm
    )


@pytest.mark.parametrize('module', MODULES)
def test_modules_import_by_name_and_nothing_private_of_each_other(module):
    for o in ast.walk(tree(module)):
        if not isinstance(o, ast.ImportFrom):
            continue
        names = [a.name for a in o.names]
        assert '*' not in names, f'{module} imports * from {o.module}'
        ours = o.level or (o.module or '').startswith('miniai')
        private = [a for a in names if a.startswith('_') and a != '__version__']
        assert not (ours and private), f'{module} imports {private} from {o.module}'


def test_modules_import_only_from_the_floors_below():
    res = children.run(
        [Path(sys.executable).parent / 'lint-imports', ROOT / 'tools' / 'floors.ini'],
        cwd=ROOT,
    )
    assert res.returncode == 0 and '1 kept, 0 broken' in res.stdout, (
        res.stdout + res.stderr
    )
    floors = (ROOT / 'tools' / 'floors.ini').read_text().split('layers =')[1].split()
    assert floors[::-1] == list(miniai._names)


def lines_of_code(module):
    "Lines that are not blank, no comment, and not in a docstring"
    text, docs = (ROOT / 'miniai' / f'{module}.py').read_text(), set()
    for o in ast.walk(ast.parse(text)):
        if isinstance(
            o, (ast.Module, ast.FunctionDef, ast.ClassDef)
        ) and ast.get_docstring(o):
            docs.update(range(o.body[0].lineno, o.body[0].end_lineno + 1))
    return sum(
        bool(s.strip()) and not s.strip().startswith('#')
        for i, s in enumerate(text.splitlines(), 1)
        if i not in docs
    )


@pytest.mark.parametrize('module', MODULES)
def test_rooms_are_small(module):
    assert lines_of_code(module) <= 330


def test_exported_lines_fit():
    "At most 2 % of the package's lines exceed 88 characters, and none exceeds 100"
    long = all_lines = 0
    for p in (ROOT / 'nbs').glob('*.ipynb'):
        for c in nbformat.read(p, 4).cells:
            if not re.search(r'^#\| *exports?\b', c.source, re.M):
                continue
            widths = list(map(len, c.source.splitlines()))
            assert max(widths) <= 100, (
                f'{p.name}: {max(c.source.splitlines(), key=len)}'
            )
            long, all_lines = (
                long + sum(o > 88 for o in widths),
                all_lines + len(widths),
            )
    assert long <= 0.02 * all_lines and all_lines > 3000


@pytest.mark.parametrize('module', MODULES)
def test_public_functions_and_classes_have_docstrings(module):
    for o in tree(module).body:
        if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and not o.name.startswith(
            '_'
        ):
            patched = any('patch' in ast.unparse(d) for d in o.decorator_list)
            if not patched:
                assert ast.get_docstring(o), f'miniai.{module}.{o.name}'


# What is written down somewhere -------------------------------------------------------


def git_files():
    "Names of all files of the project, those not yet committed too"
    return children.run(
        ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, check=True
    ).stdout.splitlines()


def text_files():
    for nm in git_files():
        if (
            nm.endswith(('.parquet', '.png', '.safetensors'))
            or not (ROOT / nm).is_file()
            or nm == 'tests/test_package.py'
        ):
            continue
        yield nm, (ROOT / nm).read_text(encoding='utf-8')


def test_every_address_of_the_project_is_made_from_settings():
    s = settings()
    ours = {s['git_url'], s['doc_host'], s['doc_host'] + s['doc_baseurl']}
    colab = (
        f"https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/"
        f"{s['branch']}/nbs/"
    )
    n = 0
    for nm, text in text_files():
        for url in re.findall(r'https?://[^\s"\'<>)\]|\\,;`]+', text):
            if 'miniai' not in url or '%(' in url:
                continue
            url, n = url.rstrip('.'), n + 1
            assert url.startswith(colab) or any(
                url == o or url.startswith(o + '/') or url == o + '.git' for o in ours
            ), f'{nm}: {url}'
    assert n > 20


def test_every_page_has_its_own_badge():
    s = settings()
    for p in (ROOT / 'nbs').glob('*.ipynb'):
        url = (
            f"https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/"
            f"{s['branch']}/nbs/{p.name}"
        )
        cells = nbformat.read(p, 4).cells
        assert re.fullmatch(r'# .*\n> .*', cells[0].source), (
            f'{p.name}: nbdev keeps of the first cell the title and the subtitle only'
        )
        assert cells[1].cell_type == 'markdown' and f'({url})' in cells[1].source, (
            p.name
        )
        assert any(
            "'google.colab' in sys.modules" in c.source
            and f"git+{s['git_url']}" in c.source
            for c in cells
        ), p.name


def test_nothing_says_pip_install_miniai():
    for nm, text in text_files():
        assert not re.search(r'pip install[^\n]*\s(miniai|miniai-nb)\b(?!/)', text), nm
    assert 'pkg_resources' not in (ROOT / 'setup.py').read_text()


def test_versions_agree():
    assert (
        miniai.__version__ == settings()['version']
        and f"## {miniai.__version__}" in (ROOT / 'CHANGELOG.md').read_text()
    )


def test_torch_is_not_pinned():
    for o in settings()['requirements'].split():
        if o.startswith('torch'):
            assert '>=' in o and '==' not in o and '<' not in o


def test_saved_outputs_are_clean():
    "No warnings, no paths of one machine, no bars that were left behind, no errors"
    for p in (ROOT / 'nbs').glob('*.ipynb'):
        for c in nbformat.read(p, 4).cells:
            for o in c.get('outputs', []):
                text = str(
                    {
                        k: v
                        for k, v in o.get('data', {}).items()
                        if not k.startswith('image/')
                    }
                    or o
                )
                assert (
                    o.output_type != 'error'
                    and 'Warning' not in text
                    and '<progress' not in text
                ), f'{p.name}: {text[:300]}'
                assert not re.search(r'/(home|root|Users|work|tmp)/', text), (
                    f'{p.name}: {text[:300]}'
                )


def test_every_page_was_run():
    for p in (ROOT / 'nbs').glob('*.ipynb'):
        assert any(c.get('outputs') for c in nbformat.read(p, 4).cells), p.name


@pytest.mark.parametrize(
    'schema,files',
    [
        ('github-workflows', 'workflows/*.yml'),
        ('github-issue-forms', 'ISSUE_TEMPLATE/[!c]*.yml'),
        ('github-issue-config', 'ISSUE_TEMPLATE/config.yml'),
    ],
)
def test_github_can_read_its_files(schema, files):
    paths = sorted((ROOT / '.github').glob(files))
    res = children.run(
        [
            sys.executable,
            '-m',
            'check_jsonschema',
            '--builtin-schema',
            f'vendor.{schema}',
            *paths,
        ]
    )
    assert paths and res.returncode == 0, res.stdout + res.stderr


# The wheel ----------------------------------------------------------------------------


def environment(where, *packages):
    "The Python of a new environment in `where`; `packages` are linked in from this one"
    shutil.rmtree(where, ignore_errors=True)
    venv.create(where, with_pip=True)
    py = where / ('Scripts' if sys.platform == 'win32' else 'bin') / 'python'
    children.run(
        [sys.executable, ROOT / 'tools' / 'link_packages.py', py, *packages], check=True
    )
    return py


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    where = tmp_path_factory.mktemp('wheel')
    for nm in (
        git_files()
    ):  # a build leaves files beside the sources, and would find old ones there
        (where / 'src' / nm).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / nm, where / 'src' / nm)
    children.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '-q',
            '--no-deps',
            '-w',
            where / 'dist',
            where / 'src',
        ],
        check=True,
    )
    return next((where / 'dist').glob('miniai_nb-*.whl'))


def colab_cell(path):
    "The number and the text of the cell that installs the package on Colab"
    ((i, c),) = [
        (i, c)
        for i, c in enumerate(nbformat.read(path, 4).cells)
        if "'google.colab' in sys.modules" in c.source
    ]
    return i, c.source


def test_the_colab_cell_is_the_same_everywhere_and_comes_first():
    cells = {p.name: colab_cell(p) for p in (ROOT / 'nbs').glob('*.ipynb')}
    assert len({text for _, text in cells.values()}) == 1
    assert all(
        c.cell_type == 'markdown' or '#| default_exp' in c.source
        for nm, (i, _) in cells.items()
        for c in nbformat.read(ROOT / 'nbs' / nm, 4).cells[:i]
    )


@pytest.fixture(scope='module')
def colab(wheel, tmp_path_factory):
    """The Python of an environment like Colab's, where the first cell of a page was run

    There are torch, torchvision, numpy and a kernel; the cell adds the package, from the
    wheel instead of the repository, and leaves those as they are. Then the page runs.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    tmp, where = tmp_path_factory.mktemp('colab'), ROOT / '.venv-colab'
    py = environment(where, 'torch', 'torchvision', 'numpy', 'ipykernel')
    page, url = ROOT / 'nbs' / '02b_events.ipynb', f"git+{settings()['git_url']}"

    def installed():
        code = (
            "import numpy, torch, torchvision, os, json; "
            "print(json.dumps([(o.__version__, o.__file__, "
            "os.stat(o.__file__).st_ino) for o in (numpy, torch, torchvision)]))"
        )
        return children.run([py, '-c', code], check=True, cwd=tmp).stdout

    before, nb = installed(), nbformat.read(page, 4)
    i, text = colab_cell(page)
    assert text.count(url) == 1
    nb.cells[i].source = text.replace(url, str(wheel))
    colab = (
        "import sys, types\n"
        "assert '.venv-colab' in sys.prefix\n"
        "try: import miniai\n"
        "except ImportError: pass\n"
        "else: raise SystemExit('miniai is there already')\n"
        "sys.modules['google.colab'] = types.ModuleType('google.colab')"
    )
    nb.cells.insert(0, nbformat.v4.new_code_cell(colab))
    last = "import miniai\nprint('installed', '.venv-colab' in miniai.__file__)"
    nb.cells.append(nbformat.v4.new_code_cell(last))
    start = [str(py), '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    spec = {'argv': start, 'display_name': 'colab', 'language': 'python'}
    (tmp / 'kernels' / 'colab').mkdir(parents=True)
    (tmp / 'kernels' / 'colab' / 'kernel.json').write_text(json.dumps(spec))
    client = NotebookClient(
        nb,
        timeout=children.LIMIT,
        kernel_name='colab',
        resources={'metadata': {'path': str(tmp)}},
    )
    client.create_kernel_manager().kernel_spec_manager = KernelSpecManager(
        kernel_dirs=[str(tmp / 'kernels')]
    )
    client.execute()
    assert nb.cells[-1].outputs[0].text == 'installed True\n'
    assert installed() == before
    yield py
    shutil.rmtree(where)


def test_a_page_runs_on_colab_and_the_wheel_trains_there(colab, tmp_path):
    "With the newest of everything but torch, and without nbdev"
    code = '''
import sys
from importlib.metadata import version
from pathlib import Path
import miniai
assert '.venv-colab' in miniai.__file__, miniai.__file__
try: import nbdev; sys.exit('nbdev is there')
except ImportError: pass
assert int(version('fastcore').split('.')[0])>=2, version('fastcore')
from miniai.all import *
import torch.nn.functional as F
dls = get_dls(bs=32, limit=64)
learn = TrainLearner(get_resnet(), dls, F.cross_entropy, lr=.01)
learn.fit(1, cbs=SingleBatchCB())
learn.lr_find(plot=False, max_epochs=1)
learn.summary()
assert (embedded_path()/'LICENSE').exists()
print('trained', float(learn.loss))
'''
    res = children.run([colab, '-c', code], cwd=tmp_path)
    assert res.returncode == 0 and res.stdout.splitlines()[-1].startswith('trained'), (
        res.stdout + res.stderr
    )
    command = colab.parent / 'miniai-train'
    res = children.run(
        [command, '--limit', '64', '--epochs', '1', '--bs', '32', '--quiet'],
        cwd=tmp_path,
    )
    assert res.returncode == 0 and res.stdout.startswith('Test accuracy'), (
        res.stdout + res.stderr
    )


@pytest.mark.slow
def test_the_map_of_the_series_is_up_to_date(root):
    """The index reads the pages to say how long they take

    Its saved output must be that of the pages as they are.
    """
    cells = nbformat.read(root / 'nbs' / 'index.ipynb', 4).cells
    cells = [
        c
        for c in cells
        if c.cell_type == 'code' and re.search(r'^table\(', c.source, re.M)
    ]
    code = '\n'.join(
        [
            'import json, re',
            'from pathlib import Path',
            'Markdown = print',
            *(c.source for c in cells),
        ]
    )
    res = children.python(code, cwd=root / 'nbs')
    saved = [c.outputs[0]['data']['text/markdown'] for c in cells]
    assert len(saved) == 2
    assert res.stdout.rstrip() == '\n'.join(saved), (
        'run the page again: make notebooks PAGES=index'
    )
