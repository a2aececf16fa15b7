#!/usr/bin/env python3
"""Make the website in _docs/ from the notebooks.

    python tools/docs.py              with smalldocs, which is pure Python
    python tools/docs.py --quarto     with Quarto, if it is there; same pages, same addresses
    python tools/docs.py serve        show _docs/ on localhost

Four steps. nbdev processes the notebooks into _proc/: cells are hidden and shown, names in backticks become links. The pages get what
every page should have: where to run it, how long it takes to read and to run; and each module a page with all it gives. For smalldocs,
which names pages after their files, they are copied to _proc/site/ under the names that they have on the site. At the end whatever the
pages would fetch from elsewhere, the typesetter of the formulas above all, is put into the site.
"""
import argparse, base64, hashlib, json, os, re, shutil, subprocess, sys, tarfile, tempfile, warnings
from functools import partial
from importlib import import_module
from inspect import unwrap
from operator import attrgetter
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS,PROC,DOCS,CACHE = ROOT/'nbs',ROOT/'_proc',ROOT/'_docs',ROOT/'.cache'
STAGE = PROC/'site'
KATEX = ('katex@0.16.11', 'RQrI8rlHY92OLf3rho/Ts8i/XvjgguEjOkO1BEXcU3N8BqPpSzBNwV/G0Ukr+P/l3ivvJUE/Fa/CwbS6HesGNQ==')
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'

# process: what nbdev does, and what we add ----------------------------------------------------------------------

def process():
    "Let nbdev write the pages as they are to be read into _proc/, then add our own"
    from nbdev.config import get_config
    from nbdev.doclinks import _build_modidx
    from nbdev.serve import proc_nbs
    cfg = get_config()
    shutil.rmtree(PROC, ignore_errors=True)
    _build_modidx()
    with warnings.catch_warnings(action='ignore'): proc_nbs(force=True, n_workers=1)
    targets,times = api_pages(cfg),reading_times()
    for p in sorted(PROC.glob('*.ipynb')):
        nb = nbformat.read(p, 4)
        add_bar(nb, p.name, cfg, times)
        change_text(nb, partial(to_api, targets=targets, host=host(cfg)))
        nbformat.write(nb, p)
    return cfg

def host(cfg): return f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/')

def api_pages(cfg):
    "A page for each module and one of all in _proc/api/, made from the docstrings; returns a dict from names, in lower case as nbdev links to them, to places on these pages"
    from smalldocs import api
    import miniai.all                                   # methods that later pages patch onto earlier classes
    settings = api.Settings(site=PROC, packages=['miniai'], out='api', root=ROOT, source=f'{cfg.git_url}/blob/{cfg.branch}')
    pages = [p for p in api.build(settings) if p.stem not in ('all', '_modidx')]
    for p in (PROC/'api').iterdir():
        if p not in pages: p.unlink()
    lessons = {re.sub(r'^\d+_', '', p.stem): nbformat.read(p, 4).cells[0].source for p in sorted(NBS.glob('[0-9]*.ipynb'))}
    lines = []
    for name,head in lessons.items():
        p = PROC/'api'/f'{name}.qmd'
        if p not in pages: continue
        title,about = re.match(r'# (.*)\n> (.*)', head).groups()
        p.write_text(api_page(p.read_text(encoding='utf-8'), name, title, settings.source), encoding='utf-8')
        lines.append(f'| [`miniai.{name}`]({name}.qmd) | {about} | [{title}](../{name}.html) |')
    (PROC/'api'/'index.qmd').write_text('\n'.join(['---', 'title: All modules', 'description: What the package gives, made from the docstrings', '---', '',
        'Each module is the code of one page, and needs only those above it. `from miniai.all import *` gives all of them at once.', '',
        '| Module | What it is about | Built on |', '| --- | --- | --- |', *lines, '']), encoding='utf-8')
    add_to_sidebar([f'api/{o}.qmd' for o in ('index', *lessons) if (PROC/'api'/f'{o}.qmd').exists()])
    names = json.loads((PROC/'_symbols.json').read_text(encoding='utf-8'))
    (PROC/'_symbols.json').unlink()
    return {k.lower(): v.lstrip('/').replace('.qmd', '.html') for k,v in names.items() if not k.startswith('miniai.')}

def api_page(text, name, title, source):
    "The text of the page of module `name` with the page that builds it, the right file for methods that are patched on, and no tables that say nothing"
    module = import_module(f'miniai.{name}')
    def where(m):
        f = unwrap(attrgetter(m[2])(module))
        code = getattr(f.fget if isinstance(f, property) else f, '__code__', None)
        file = Path(code.co_filename).resolve() if code else None
        return m[0] if file is None or not file.is_relative_to(ROOT) else f'{m[1]}[source]({source}/{file.relative_to(ROOT).as_posix()}#L{code.co_firstlineno})'
    text = re.sub(r'^(#+ .*\{#([\w.]+)\}\n\n)\[source\]\([^)]*\)', where, text, flags=re.M)
    text = re.sub(r'\| Parameter \|.*\n\| ---.*\n(?:\|.*\|  \|\n)+(?!\|)\n?', '', text)
    return re.sub(r'\A(---\n.*?\n---\n)', rf'\1\nBuilt, explained and tried on the page [{title}](../{name}.html).\n', text, flags=re.S)

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
    return re.sub(rf'\]\({re.escape(host)}/([\w./]+\.html)(?:#([\w.]+))?\)', link, s)

def change_text(nb, f):
    "Apply `f` to the Markdown of `nb`, cells and outputs"
    for c in nb.cells:
        if c.cell_type=='markdown': c.source = f(c.source)
        for o in c.get('outputs', []):
            for mime in ('text/markdown', 'text/html'):
                if mime in o.get('data', {}): o['data'][mime] = f(o['data'][mime])

def reading_times():
    "What the map on the index page says of each page: a dict from notebook names to minutes and running time"
    text = '\n'.join(''.join(o['data']['text/markdown']) for c in nbformat.read(NBS/'index.ipynb', 4).cells for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {}))
    return {m[1]: (m[2], m[3]) for m in re.finditer(r'^\|\[[^]]*\]\((\w+\.ipynb)\)\|.*\|(\d+) min\|(.*)\|$', text, re.M)}

def add_bar(nb, name, cfg, times):
    "Put a line under the title of a numbered page: open in Colab, download, how long it takes"
    for c in nb.cells: c.source = c.source.replace(BADGE, 'images/colab.svg')
    if not name[:2].isdigit(): return
    colab = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{name}'
    badge = next(c for c in nb.cells if c.cell_type=='markdown' and f'({colab})' in c.source)
    badge.source = re.sub(r'\[!\[[^]]*\]\([^)]*\)\]\([^)]*\)', '', badge.source).lstrip()
    nb.cells.insert(1, nbformat.v4.new_markdown_cell('::: {.page-bar}\n'
        f'[![Open in Colab](images/colab.svg)]({colab}) <a href="notebooks/{name}" download>Download notebook</a> [{times[name][0]} minutes to read, {times[name][1]} to run]{{.page-time}}\n:::'))

# render ---------------------------------------------------------------------------------------------------------

def site_name(nb):
    "The name of a processed notebook on the site, as its front matter gives it; without `.html`"
    found = re.search(r'^output-file: (\S+)\.html$', nb.cells[0].source, re.M)
    return found and found[1]

def stage(cfg):
    "Copy _proc/ to _proc/site/, with the final names of the pages and relative links"
    STAGE.mkdir(parents=True)
    nbs = {p.name: nbformat.read(p, 4) for p in sorted(PROC.glob('*.ipynb'))}
    names = {k: site_name(nb) or Path(k).stem for k,nb in nbs.items()}
    def relink(s):
        s = re.sub(r'(\]\(|href=")(\w+\.ipynb)', lambda m: m[1] + f'{names.get(m[2], m[2][:-6])}.html', s)
        return s.replace(f'{host(cfg)}/', '')
    for k,nb in nbs.items():
        change_text(nb, relink)
        nb.cells[0].source = re.sub(r'^output-file: .*\n', '', nb.cells[0].source, flags=re.M)
        nbformat.write(nb, STAGE/f'{names[k]}.ipynb')
    for p in PROC.iterdir():
        if p.is_dir() and p!=STAGE: shutil.copytree(p, STAGE/p.name)
        elif p.is_file() and p.suffix!='.ipynb' and p.name!='_quarto.yml': shutil.copy(p, STAGE)
    (STAGE/'_quarto.yml').write_text(staged_config(names), encoding='utf-8')

def staged_config(names):
    "`_quarto.yml` for smalldocs: final names, the way to _docs/ from here, and without what only matters where code runs"
    import yaml
    text = (PROC/'_quarto.yml').read_text(encoding='utf-8')
    for k,v in names.items(): text = text.replace(k, f'{v}.ipynb')
    conf = yaml.safe_load(text)
    conf.pop('execute', None)
    conf['project']['output-dir'] = os.path.relpath(DOCS, STAGE)
    conf['website']['llms-txt'] = True
    return yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)

def render():
    "Let smalldocs write _docs/; raise if it has anything to complain about"
    from smalldocs.site import build
    site = build(STAGE, quiet=True)
    site.warnings = [o for o in site.warnings if 'broken link notebooks/' not in o]       # they are put there at the end
    if site.warnings: sys.exit('\n'.join(['smalldocs complains:', *site.warnings]))
    print(f'{len(site.pages)} pages in {DOCS.relative_to(ROOT)}/')

def render_with_quarto():
    "Let Quarto write _docs/"
    quarto = shutil.which('quarto')
    if not quarto: sys.exit('There is no quarto on the PATH; without --quarto the site is made by smalldocs')
    subprocess.run([quarto, 'render', PROC, '--no-execute'], check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)

# complete: nothing from outside -----------------------------------------------------------------------------------

def npm_package(name, sha512):
    "The folder of an npm package in the cache, fetched once and checked; `None` without npm"
    folder = CACHE/name.replace('@', '-')
    if folder.exists(): return folder
    if not shutil.which('npm'): return None
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        subprocess.run(['npm', 'pack', name, '--silent'], cwd=tmp, check=True, stdout=subprocess.DEVNULL)
        archive = next(Path(tmp).glob('*.tgz'))
        got = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if got!=sha512: sys.exit(f'{archive.name} is not what it should be: sha512 {got} instead of {sha512}')
        with tarfile.open(archive) as tar: tar.extractall(tmp, filter='data')
        (Path(tmp)/'package').rename(folder)
    return folder

def complete():
    "Put into _docs/ the notebooks to download, the true places of what the pages were made from, and what they would fetch from elsewhere"
    shutil.copytree(NBS, DOCS/'notebooks', ignore=lambda d, names: [o for o in names if not re.fullmatch(r'\d\d_\w+\.ipynb', o)], dirs_exist_ok=True)
    sources = {re.sub(r'^\d+_', '', p.stem): p.name for p in NBS.glob('*.ipynb')}
    def source(m): return f'{m[1]}/{sources[m[2]]}' if m[2] in sources else m[0]
    for p in DOCS.rglob('*.html'):                      # where a page is edited is not called what the page is called
        s = p.read_text(encoding='utf-8')
        p.write_text(re.sub(r'(/(?:edit|blob)/\w+/nbs)/(?:api/)?(\w+)\.(?:ipynb|qmd)(?=")', source, s), encoding='utf-8')
    src = npm_package(*KATEX)
    if src is None: print('There is no npm to fetch KaTeX with: formulas will need the network, for they come from a CDN')
    else:
        libs = DOCS/'site_libs'/'katex'
        libs.mkdir(parents=True)
        for o in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'): shutil.copy(src/'dist'/o, libs)
        shutil.copytree(src/'dist'/'fonts', libs/'fonts', ignore=shutil.ignore_patterns('*.ttf', '*.woff'))
        for p in DOCS.rglob('*.html'):
            up = '../'*(len(p.relative_to(DOCS).parts)-1)
            s = re.sub(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/(?:contrib/)?([\w.-]+)', rf'{up}site_libs/katex/\1', p.read_text(encoding='utf-8'))
            p.write_text(s, encoding='utf-8')
    for p in DOCS.rglob('*.css'):
        s = p.read_text(encoding='utf-8')
        new = re.sub(r'@import url\(["\']?https?:[^)]*\);?', '', s)
        if new!=s: p.write_text(new, encoding='utf-8')

def make(quarto=False):
    "The whole site"
    cfg = process()
    if quarto: render_with_quarto()
    else:
        stage(cfg)
        render()
    complete()

def serve(port):
    "Show _docs/ on localhost until interrupted"
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    if not (DOCS/'index.html').exists(): sys.exit('There is no site in _docs/ yet: make docs')
    with ThreadingHTTPServer(('127.0.0.1', port), partial(SimpleHTTPRequestHandler, directory=DOCS)) as server:
        print(f'http://localhost:{server.server_port}   (Ctrl-C ends it)', flush=True)
        try: server.serve_forever()
        except KeyboardInterrupt: pass

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='?', choices=['make', 'serve'], default='make')
    p.add_argument('--quarto', action='store_true', help='render with Quarto instead of smalldocs')
    p.add_argument('--port', type=int, default=8000, help='for serve (default: %(default)s; 0: any that is free)')
    args = p.parse_args()
    serve(args.port) if args.what=='serve' else make(args.quarto)
