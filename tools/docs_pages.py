"Work on the pages before they are rendered: what nbdev leaves undone, on notebooks"

import ast
import re
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
CARD = '/images/card.png'  # what a link to any page of the site shows elsewhere

# are these pages? -------------------------------------------------------------------


def check_pages():
    "Stop with a sentence at a notebook that is no page of the site"
    pages, times = sorted(NBS.glob('*.ipynb')), reading_times()
    sections = sidebar_sections()
    for p in pages:
        try:
            cells = nbformat.read(p, 4).cells
        except Exception as e:
            sys.exit(f'{p.name} cannot be read as a notebook: {e}')
        check_page(p, cells)
        wanted = section_of(p.name)
        if wanted and sections.get(p.name) != wanted:
            sys.exit(
                f'{p.name} belongs into the section {wanted} of the sidebar: '
                'add it there in _quarto.yml'
            )
    lacking = sorted({p.name for p in pages if section_of(p.name)} - set(times))
    if lacking:
        sys.exit(
            f'The map on the index page lacks {", ".join(lacking)}: '
            'make notebooks PAGES=index'
        )


def check_page(path, cells):
    "Stop with a sentence if `cells`, those of the notebook `path`, are no page"
    name = path.name
    if not cells or not re.fullmatch(r'# .*\n> .*', cells[0].source):
        sys.exit(
            f'The first cell of {name} should be "# Title", and below it '
            '"> what it is about", and nothing else'
        )
    prose = [c.source for c in cells if c.cell_type == 'markdown']
    if section_of(name) and not any(f'/nbs/{name})' in o for o in prose):
        sys.exit(f'{name} has no badge that opens it in Colab')
    if not any(c.get('outputs') for c in cells):
        sys.exit(f'{name} has no outputs: make notebooks PAGES={path.stem}')


def section_of(name):
    "The section of the sidebar to which the notebook `name` belongs, by its number"
    found = re.match(r'(\d\d)[a-z]?_', name)
    if not found:
        return None
    number = int(found[1])
    if number >= 20:
        return 'Workshop'
    return 'Below the floor' if number >= 16 else 'Lessons'


def sidebar_sections():
    "Which section of the sidebar in _quarto.yml each notebook is in: a dict of names"
    conf = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))
    items = conf['website']['sidebar']['contents']
    sections = [o for o in items if isinstance(o, dict) and 'section' in o]
    return {page: o['section'] for o in sections for page in map(href, o['contents'])}


def href(item):
    "The page that an entry of the sidebar leads to"
    return item['href'] if isinstance(item, dict) else item


def reading_times():
    "What the map on the index page says: a dict from notebooks to (minutes, run time)"
    cells = nbformat.read(NBS / 'index.ipynb', 4).cells
    outputs = [o.get('data', {}) for c in cells for o in c.get('outputs', [])]
    text = '\n'.join(
        ''.join(o['text/markdown']) for o in outputs if 'text/markdown' in o
    )
    row = re.compile(r'^\|\[[^]]*\]\((\w+\.ipynb)\)\|.*\|(\d+) min\|(.*)\|$', re.M)
    return {m[1]: (m[2], m[3]) for m in row.finditer(text)}


# what is done to each page ----------------------------------------------------------


def finish_page(nb, name, cfg, times):
    "Do to the processed notebook `nb`, of the file `name`, all that is done to notebooks"
    nb.cells = [
        c for c in nb.cells if not c.source.startswith('<!-- WARNING: THIS FILE')
    ]
    head = nb.cells[0]
    head.source = add_card(head.source, f'{address_of(cfg)}/{module_of(name)}.html')
    fold_code(nb, nbformat.read(NBS / name, 4).cells)
    add_bar(nb, name, cfg, times)


def add_card(text, address):
    """`text`, which begins with front matter, with what other programs show of the page

    A picture (Quarto would take the first one, a badge), its words, the `address`.
    """
    lines = [
        f'image: {CARD}',
        'include-in-header:',
        '  - text: |',
        f'      <link rel="canonical" href="{address}">',
        f'      <meta property="og:url" content="{address}">',
        '      <meta property="og:type" content="article">',
        '      <meta property="og:image:alt" content="The network as a row of boxes">',
    ]
    return text.replace('---\n', '\n'.join(['---', *lines, '']), 1)


def module_of(name):
    "The name on the site of the notebook `name`: without its number"
    return re.sub(r'^\d+[a-z]?_|\.ipynb$', '', name)


def address_of(cfg):
    "Where the site is, without a slash at the end"
    return f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/')


OPTION = re.compile(r'#\| *([\w-]+): *(.*?) *(?:\n|\Z)')


def split_options(source):
    "The options at the top of a cell as a dict of texts, of equal ones the last; the code"
    options, at = {}, 0
    while found := OPTION.match(source, at):
        options[found[1]] = found[2]
        at = found.end()
    return options, source[at:]


def join_options(options, code):
    "The source of a cell with `options`, each once, above its `code`"
    return ''.join(f'#| {k}: {v}\n' for k, v in options.items()) + code


def fold_code(nb, written):
    """Fold the imports at the top of a page, and say of exported code where it goes.

    `written` are the cells as they stand in nbs/, where one sees what is exported.
    """
    exported = {c.id for c in written if re.search(r'^#\| *exports\b', c.source, re.M)}
    module = next(
        (
            m[1]
            for c in written
            if (m := re.search(r'^#\| *default_exp (\w+)', c.source, re.M))
        ),
        None,
    )
    top, before, cells = True, None, []  # `before`: the set-up just above
    for c in nb.cells:
        if c.cell_type == 'markdown' and re.search(r'^##+ ', c.source, re.M):
            top = False
        options, code = split_options(c.source)
        setup = top and c.cell_type == 'code' and not c.outputs and is_setup(code)
        if setup and before:
            before.source += f'\n{code}'
            continue
        before = c if setup else None
        if c.get('id') in exported:
            folded = options.setdefault('code-fold', 'show') == 'true'
            names = f': {defined_names(code)}' if folded else ''
            options.setdefault('code-summary', f'"miniai.{module}{names}"')
        elif setup:
            options.setdefault('code-fold', 'true')
            options.setdefault('code-summary', '"Imports"')
        if c.cell_type == 'code':
            c.source = join_options(options, code)
        cells.append(c)
    nb.cells = cells


def is_setup(code):
    "Does `code` import, and otherwise only call what needs no explanation?"
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return False  # a magic of IPython
    imports = (ast.Import, ast.ImportFrom)

    def is_import(o):
        if isinstance(o, ast.With):
            return all(map(is_import, o.body))
        return isinstance(o, imports)

    def is_call(o):
        return isinstance(o, ast.Expr) and isinstance(o.value, ast.Call)

    return bool(body) and all(is_import(o) or is_call(o) for o in body)


def defined_names(code):
    "What `code` defines, or what its first words are if it defines nothing with a name"
    body = ast.parse(code).body
    names = [o.name for o in body if hasattr(o, 'name')]
    targets = [t for o in body if isinstance(o, ast.Assign) for t in o.targets]
    names += [t.id for t in targets if isinstance(t, ast.Name)]
    return ', '.join(names) or code.split('\n')[0]


def add_bar(nb, name, cfg, times):
    "Put a line under the title: open in Colab, download, how long it takes"
    where = f'{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{name}'
    colab = f'https://colab.research.google.com/github/{where}'
    badges = re.compile(rf'\[!\[[^]]*\]\({re.escape(BADGE)}\)\]\([^)]*\)\s*')
    for c in nb.cells:
        if c.cell_type == 'markdown':
            c.source = badges.sub('', c.source)
    minutes, run = times.get(name, (None, None))
    time = (
        f' [{minutes} minutes to read, {run} to run]{{.page-time}}' if minutes else ''
    )
    edit = f'{cfg.git_url}/edit/{cfg.branch}/nbs/{name}'
    nb.cells.insert(
        1,
        nbformat.v4.new_markdown_cell(
            '::: {.page-bar}\n'
            f'[![Open in Colab](images/colab.svg)]({colab}) '
            f'<a href="notebooks/{name}" download data-noresolveinput>Download notebook</a> '
            f'<a href="{edit}">Edit this page</a>'
            f'{time}\n:::'
        ),
    )


def change_text(nb, f):
    "Apply `f` to the Markdown of `nb`, cells and outputs"
    for c in nb.cells:
        if c.cell_type == 'markdown':
            c.source = f(c.source)
        for o in c.get('outputs', []):
            data = o.get('data', {})
            for mime in ('text/markdown', 'text/html'):
                if mime in data:
                    data[mime] = f(data[mime])
