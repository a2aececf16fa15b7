"The reference: a page for each module, made from the docstrings, and links to it from names in backticks"
import json, re
from importlib import import_module
from inspect import unwrap
from operator import attrgetter
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS,PROC = ROOT/'nbs',ROOT/'_proc'

def api_pages(source):
    "A page for each module and one of all in _proc/api/, made from the docstrings; returns a dict from names, in lower case as nbdev links to them, to places on these pages"
    from smalldocs import api
    import miniai.all                                   # methods that later pages patch onto earlier classes
    settings = api.Settings(site=PROC, packages=['miniai'], out='api', root=ROOT, source=source)
    pages = [p for p in api.build(settings) if p.stem not in ('all', '_modidx')]
    for p in (PROC/'api').iterdir():
        if p not in pages: p.unlink()
    lessons = {re.sub(r'^\d+_', '', p.stem): nbformat.read(p, 4).cells[0].source for p in sorted(NBS.glob('[0-9]*.ipynb'))}
    lines = []
    for name,head in lessons.items():
        p = PROC/'api'/f'{name}.qmd'
        if p not in pages: continue
        title,about = re.match(r'# (.*)\n> (.*)', head).groups()
        p.write_text(api_page(p.read_text(encoding='utf-8'), name, title, source), encoding='utf-8')
        lines.append(f'| [`miniai.{name}`]({name}.qmd) | {about} | [{title}](../{name}.html) |')
    (PROC/'api'/'index.qmd').write_text('\n'.join(['---', 'title: All modules', 'description: What the package gives, made from the docstrings', '---', '',
        'Each module is the code of one page, and needs only those above it. `from miniai.all import *` gives all of them at once.', '',
        '| Module | What it is about | Built on |', '| --- | --- | --- |', *lines, '']), encoding='utf-8')
    add_to_sidebar([f'api/{o}.qmd' for o in ('index', *lessons) if (PROC/'api'/f'{o}.qmd').exists()])
    names = json.loads((PROC/'_symbols.json').read_text(encoding='utf-8'))
    (PROC/'_symbols.json').unlink()
    kept = {(p.stem, o) for p in pages for o in re.findall(r'\{#([\w.]+)\}$', p.read_text(encoding='utf-8'), re.M)}
    places = {k: v.lstrip('/').replace('.qmd', '.html') for k,v in names.items() if not k.startswith('miniai.')}
    return {k.lower(): v for k,v in places.items() if (Path(v.split('#')[0]).stem, k) in kept}

def api_page(text, name, title, source):
    "The text that smalldocs made for the page of module `name`, easier to read; `title` is that of its lesson, `source` where the repository is"
    module = import_module(f'miniai.{name}')
    def where(m):                                       # methods that are patched on stand in another file than their class
        f = unwrap(attrgetter(m[2])(module))
        code = getattr(f.fget if isinstance(f, property) else f, '__code__', None)
        file = Path(code.co_filename).resolve() if code else None
        return m[0] if file is None or not file.is_relative_to(ROOT) else f'{m[1]}[source]({source}/{file.relative_to(ROOT).as_posix()}#L{code.co_firstlineno})'
    text = re.sub(r'^(#+ .*\{#([\w.]+)\}\n\n)\[source\]\([^)]*\)', where, text, flags=re.M)
    text = SILENT.sub('', text)
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>|<function (\w+)[^>]*>", r'\1\2', text)
    parts = re.split(r'^(```.*?^```)', text, flags=re.M|re.S)
    text = ''.join(signature(o) if o.startswith('```') else prose(o) for o in parts)
    text = re.sub(r'^description: "', f'description: "Classes and functions of miniai.{name}: ', text, count=1, flags=re.M)
    return re.sub(r'\A(---\n.*?\n---\n)', rf'\1\nBuilt, explained and tried on the page [{title}](../{name}.html).\n', text, flags=re.S)

# a method of which there is nothing to say but its parameters
SILENT = re.compile(r'^### .*\n\n\[source\].*\n\n```python\n.*\n```\n+(?:\| Parameter.*\n(?:\|.*\n)+\n*)?(?=#|\Z)', re.M)

def signature(fence):
    "A signature with a parameter on each line, if one line is too short for it"
    m = re.fullmatch(r'```python\n(\S+?)\((.*)\)\n```', fence)
    if not m or len(fence)<100: return fence
    args,depth = [''],0
    for c in m[2]:
        depth += (c in '([{') - (c in ')]}')
        if c==',' and not depth: args.append('')
        else: args[-1] += c
    return '\n'.join(['```python', f'{m[1]}(', *(f'    {o.strip()},' for o in args), ')', '```'])

def prose(text):
    "Docstrings and tables of parameters: what is code is marked as code, what says nothing is left out"
    text = re.sub(r'^(\| `[^`]*` \|) None \|', r'\1  |', text, flags=re.M)                              # the type of a default is no type
    text = re.sub(r'^\| `(\*{0,2}(?:kw)?args)` \|(.*)\| required \|', r'| `\1` |\2|  |', text, flags=re.M)
    text = re.sub(r'\| Parameter \|.*\n\| ---.*\n(?:\|.*\|  \|\n)+(?!\|)\n?', '', text)
    return re.sub(r"(?<![\w`=])'([\w*.-]+)'(?![\w`])(?=[^`\n]*(?:`[^`\n]*`[^`\n]*)*$)", r"`'\1'`", text, flags=re.M)

def add_to_sidebar(pages):
    "Add a section for the API to the sidebar; it is not in the _quarto.yml that is kept, for its pages exist only here"
    import yaml
    path = PROC/'_quarto.yml'
    conf = yaml.safe_load(path.read_text(encoding='utf-8'))
    conf['website']['sidebar']['contents'].append({'section': 'Reference', 'contents': pages})
    path.write_text(yaml.safe_dump(conf, sort_keys=False, allow_unicode=True), encoding='utf-8')

def to_api(s, targets, host):
    "`s` with nbdev's links to names turned into links to the pages of `api_pages`"
    def link(m): return f']({targets.get(m[2], m[1])})'
    s = re.sub(r'\[\[(`[^`]*`)\]\([^)]*\)\](?=\()', r'[\1]', s)         # a name in a link that is there already
    return re.sub(rf'\]\({re.escape(host)}/([\w./]+\.html)(?:#([\w.]+))?\)', link, s)
