"""The reference: a page for each module, made from the docstrings.

And links to it, from names in backticks on the other pages.
"""

import json
import re
from importlib import import_module
from inspect import unwrap
from operator import attrgetter
from pathlib import Path

import nbformat
import yaml

from docs_pages import add_card, module_of

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC = ROOT / 'nbs', ROOT / '_proc'


def api_pages(source, address):
    """A page for each module and one of all in _proc/api/

    `source` is where the repository is, `address` where the site is.
    Returns a dict from names, in lower case as nbdev links to them, to places on these pages.
    """
    from smalldocs import api

    import miniai.all  # noqa: F401             methods that later pages patch onto classes

    settings = api.Settings(
        site=PROC, packages=['miniai'], out='api', root=ROOT, source=source
    )
    pages = [p for p in api.build(settings) if miniai._names.get(p.stem)]
    for p in (PROC / 'api').iterdir():
        if p not in pages:
            p.unlink()
    heads = {
        module_of(p.stem): nbformat.read(p, 4).cells[0].source
        for p in NBS.glob('[0-9]*.ipynb')
    }
    lessons = {o: heads[o] for o in miniai._names}  # by floors
    lines = []
    for name, head in lessons.items():
        p = PROC / 'api' / f'{name}.qmd'
        if p not in pages:
            continue
        title, about = re.match(r'# (.*)\n> (.*)', head).groups()
        text = api_page(p.read_text(encoding='utf-8'), name, title, source)
        text = add_card(text, f'{address}/api/{name}.html')
        p.write_text(text, encoding='utf-8')
        lines.append(
            f'| [`miniai.{name}`]({name}.qmd) | {about} | [{title}](../{name}.html) |'
        )
    text = add_card('\n'.join([*INDEX, *lines, '']), f'{address}/api/index.html')
    (PROC / 'api' / 'index.qmd').write_text(text, encoding='utf-8')
    add_to_sidebar(
        [
            f'api/{o}.qmd'
            for o in ('index', *lessons)
            if (PROC / 'api' / f'{o}.qmd').exists()
        ]
    )
    return places([p.stem for p in pages])


INDEX = [
    '---',
    'title: All modules',
    'description: What the package gives, made from the docstrings',
    '---',
    '',
    'Each module is the code of one page, and needs only those above it. '
    '`from miniai.all import *` gives what stands here at once.',
    '',
    '| Module | What it is about | Built on |',
    '| --- | --- | --- |',
]


def places(modules):
    "Where names stand on the pages of `modules`: a dict from names in lower case"
    names = json.loads((PROC / '_symbols.json').read_text(encoding='utf-8'))
    (PROC / '_symbols.json').unlink()
    kept = set()
    for o in modules:
        text = (PROC / 'api' / f'{o}.qmd').read_text(encoding='utf-8')
        kept |= {(o, name) for name in re.findall(r'\{#([\w.]+)\}$', text, re.M)}
    found = {k: v.lstrip('/').replace('.qmd', '.html') for k, v in names.items()}
    return {
        k.lower(): v
        for k, v in found.items()
        if (Path(v.split('#')[0]).stem, k) in kept
    }


def api_page(text, name, title, source):
    "`text`, made by smalldocs for module `name`, easier to read; `title` is that of its lesson"
    module = import_module(f'miniai.{name}')

    def where(m):  # methods that are patched on stand in another file than their class
        f = unwrap(attrgetter(m[2])(module))
        code = getattr(f.fget if isinstance(f, property) else f, '__code__', None)
        file = Path(code.co_filename).resolve() if code else None
        if file is None or not file.is_relative_to(ROOT):
            return m[0]
        line = f'{file.relative_to(ROOT).as_posix()}#L{code.co_firstlineno}'
        return f'{m[1]}[source]({source}/{line})'

    text = re.sub(
        r'^(#+ .*\{#([\w.]+)\}\n\n)\[source\]\([^)]*\)', where, text, flags=re.M
    )
    text = SILENT.sub('', text)
    text = without_twins(text)
    text = only_public(text, module.__name__)
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>|<function (\w+)[^>]*>", r'\1\2', text)
    parts = re.split(r'^(```.*?^```)', text, flags=re.M | re.S)
    text = ''.join(signature(o) if o.startswith('```') else prose(o) for o in parts)
    text = re.sub(
        r'^description: "',
        f'description: "Classes and functions of miniai.{name}: ',
        text,
        count=1,
        flags=re.M,
    )
    built = f'Built, explained and tried on the page [{title}](../{name}.html).'
    return re.sub(r'\A(---\n.*?\n---\n)', rf'\1\n{built}\n', text, flags=re.S)


# a method of which there is nothing to say but its parameters
SILENT = re.compile(
    r'^### .*\n\n\[source\].*\n\n```python\n.*\n```\n+'
    r'(?:\| Parameter.*\n(?:\|.*\n)+\n*)?(?=#|\Z)',
    re.M,
)


def without_twins(text):
    "`text` without sections whose id an earlier one has: a function that a class has too"
    seen, kept = set(), []
    for o in re.split(r'^(?=#{2,3} )', text, flags=re.M):
        found = re.match(r'#+ .*\{#([\w.]+)\}', o)
        if found and found[1] in seen:
            continue
        if found:
            seen.add(found[1])
        kept.append(o)
    return ''.join(kept)


def only_public(text, module):
    "`text` without sections on names that are not in the list of miniai/__init__.py"
    import miniai

    public = {*miniai._names[module.removeprefix('miniai.')], 'conv'}
    kept = []
    for o in re.split(r'^(?=#{2,3} )', text, flags=re.M):
        found = re.match(r'#+ .*\{#([^}]+)\}', o)
        if not found or found[1].split('.')[0] in public:
            kept.append(o)
    return ''.join(kept)


def signature(fence):
    "A signature with a parameter on each line, if one line is too short for it"
    m = re.fullmatch(r'```python\n(\S+?)\((.*)\)\n```', fence)
    if not m or len(fence) < 100:
        return fence
    args, depth = [''], 0
    for c in m[2]:
        depth += (c in '([{') - (c in ')]}')
        if c == ',' and not depth:
            args.append('')
        else:
            args[-1] += c
    lines = [f'    {o.strip()},' for o in args]
    return '\n'.join(['```python', f'{m[1]}(', *lines, ')', '```'])


def prose(text):
    "Docstrings and tables of parameters: code is marked as code, what says nothing is left out"
    # the type of a default is no type
    text = re.sub(r'^(\| `[^`]*` \|) None \|', r'\1  |', text, flags=re.M)
    text = re.sub(
        r'^\| `(\*{0,2}(?:kw)?args)` \|(.*)\| required \|',
        r'| `\1` |\2|  |',
        text,
        flags=re.M,
    )
    text = re.sub(r'\| Parameter \|.*\n\| ---.*\n(?:\|.*\|  \|\n)+(?!\|)\n?', '', text)
    quoted = r"(?<![\w`=])'([\w*.-]+)'(?![\w`])(?=[^`\n]*(?:`[^`\n]*`[^`\n]*)*$)"
    return re.sub(quoted, r"`'\1'`", text, flags=re.M)


def add_to_sidebar(pages):
    "Add a section for the API: it is not in the _quarto.yml that is kept, for it exists only here"
    path = PROC / '_quarto.yml'
    conf = yaml.safe_load(path.read_text(encoding='utf-8'))
    sections = conf['website']['sidebar']['contents']
    reference = next(
        (
            o
            for o in sections
            if isinstance(o, dict) and o.get('section') == 'Reference'
        ),
        None,
    )
    if reference is None:
        sections.append({'section': 'Reference', 'contents': pages})
    else:
        reference['contents'] += pages
    text = yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding='utf-8')


def to_api(s, targets, host):
    "`s` with nbdev's links to names turned into links to the pages of `api_pages`"

    def link(m):
        return f']({targets.get(m[2], m[1])})'

    # names in the text of a link that is there already
    inner = r'\[([^][]*)\[(`[^`]*`)\]\([^)]*\)([^][]*(?:\[`[^`]*`\]\([^)]*\)[^][]*)*)\](?=\()'
    while (plain := re.sub(inner, r'[\1\2\3]', s)) != s:
        s = plain
    return re.sub(rf'\]\({re.escape(host)}/([\w./]+\.html)(?:#([\w.]+))?\)', link, s)
