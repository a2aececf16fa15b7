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
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat

from docs_api import api_pages, to_api

ROOT = Path(__file__).resolve().parent.parent
NBS,PROC,DOCS,CACHE = ROOT/'nbs',ROOT/'_proc',ROOT/'_docs',ROOT/'.cache'
STAGE = PROC/'site'
KATEX = ('katex@0.16.11', 'RQrI8rlHY92OLf3rho/Ts8i/XvjgguEjOkO1BEXcU3N8BqPpSzBNwV/G0Ukr+P/l3ivvJUE/Fa/CwbS6HesGNQ==')
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'

# process: what nbdev does, and what we add ----------------------------------------------------------------------

def process():
    "Let nbdev write the pages as they are to be read into _proc/, then add our own"
    check_pages()
    from nbdev.doclinks import _build_modidx
    from nbdev.serve import proc_nbs
    cfg = config()
    shutil.rmtree(PROC, ignore_errors=True)
    _build_modidx()
    with warnings.catch_warnings(action='ignore'): proc_nbs(force=True, n_workers=1)
    targets,times = api_pages(f'{cfg.git_url}/blob/{cfg.branch}'),reading_times()
    for p in sorted(PROC.glob('*.ipynb')):
        nb = nbformat.read(p, 4)
        nb.cells = [c for c in nb.cells if not c.source.startswith('<!-- WARNING: THIS FILE')]
        add_bar(nb, p.name, cfg, times)
        change_text(nb, partial(to_api, targets=targets, host=host(cfg)))
        nbformat.write(nb, p)
    return cfg

@cache
def config():
    "What settings.ini says"
    from nbdev.config import get_config
    return get_config(cfg_name=ROOT/'settings.ini')

def check_pages():
    "Stop with a sentence at a notebook that is no page"
    pages = sorted(NBS.glob('*.ipynb'))
    for p in pages:
        try: cells = nbformat.read(p, 4).cells
        except Exception as e: sys.exit(f'{p.name} cannot be read as a notebook: {e}')
        if not cells or not re.fullmatch(r'# .*\n> .*', cells[0].source): sys.exit(f'The first cell of {p.name} should be "# Title", and below it "> what it is about", and nothing else')
        if p.name[:2].isdigit() and not any(f'/nbs/{p.name})' in c.source for c in cells if c.cell_type=='markdown'): sys.exit(f'{p.name} has no badge that opens it in Colab')
        if not any(c.get('outputs') for c in cells): sys.exit(f'{p.name} has no outputs: make notebooks PAGES={p.stem}')
    lacking = sorted({p.name for p in pages if p.name[:2].isdigit()} - set(reading_times()))
    if lacking: sys.exit(f'The map on the index page lacks {", ".join(lacking)}: make notebooks PAGES=index')

def host(cfg): return f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/')

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
    subprocess.run(['quarto', 'render', PROC, '--no-execute'], check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)

# complete: nothing from outside -----------------------------------------------------------------------------------

def npm_package(name, sha512):
    "The folder of an npm package, fetched once and checked each time; `None` if it is not there and cannot be fetched"
    archive,folder = CACHE/f"{name.replace('@', '-')}.tgz",CACHE/name.replace('@', '-')
    CACHE.mkdir(exist_ok=True)
    if not archive.exists():
        if not shutil.which('npm'): return None
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            if subprocess.run(['npm', 'pack', name, '--silent'], cwd=tmp, stdout=subprocess.DEVNULL).returncode: return None
            next(Path(tmp).glob('*.tgz')).rename(archive)
    got = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if got!=sha512: sys.exit(f'{archive} is not what it should be: its sha512 is {got} instead of {sha512}. Delete it, and it will be fetched again')
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar: tar.extractall(folder, filter='data')
    return folder/'package'

def picture_size(m):
    "The attributes `width` and `height` for an embedded PNG picture, so that the text does not jump when it is drawn"
    head = base64.b64decode(m[2])
    return m[0] if 'width=' in m[3] else '{} width="{}" height="{}"{}'.format(m[1], *(int.from_bytes(head[i:i+4], 'big') for i in (16,20)), m[3])

def finish(s, path, cfg, sources):
    "The HTML `s` of the page in `path`, with what smalldocs leaves out"
    where,root = path.relative_to(DOCS).as_posix(),host(cfg)
    def source(m): return '/tools/docs.py' if m[0].endswith('/api/index.qmd') else f'/nbs/{sources[m[1]]}' if m[1] in sources else m[0]
    s = re.sub(r'(?<=/main)/nbs/(?:api/)?(\w+)\.(?:ipynb|qmd)(?=" class="toc-action|"[^>]*>\s*<i class="bi bi-(?:pencil|code))', source, s)
    s = re.sub(r'(<img [^>]*src="data:image/png;base64,([\w+/]{32})[^"]*")([^>]*>)', picture_size, s)
    s = re.sub(r'((?:name|property)="(?:og:)?description" content=")([^"]*)', lambda m: m[1] + m[2].replace('`', ''), s)
    s = s.replace('<meta property="og:title"', f'<link rel="canonical" href="{root}/{where}"><meta property="og:url" content="{root}/{where}"><meta property="og:type" content="article">'
                  f'<meta property="og:image:alt" content="The network of the series as a row of boxes"><meta name="twitter:card" content="summary_large_image"><meta property="og:title"', 1)
    s = re.sub(r'(<body[^>]*>)', r'\1<a class="skip" href="#quarto-document-content">Skip to the text</a>', s, count=1)
    s = s.replace('<pre', '<pre tabindex="0"').replace('<i class="bi bi-github" role="img">', '<i class="bi bi-github" aria-hidden="true">').replace('<a role="navigation"', '<a role="button" tabindex="0"')
    if where=='404.html': s = re.sub(r'((?:href|src)=")(?!https?:|#|/|data:|")(?:\./)?([^"]+)', rf'\1{cfg.doc_baseurl}/\2', s).replace('content="./"', f'content="{cfg.doc_baseurl}/"')
    return s

def finish_copies(order, root):
    "Take what is for the pages only out of the Markdown copies, the search and the map of the site; `llms.txt` in reading `order`; `root` is where the site is"
    for p in DOCS.rglob('*.llms.md'):
        s = re.sub(r'<div class="page-bar">.*?</div>\s*', '', p.read_text(encoding='utf-8'), flags=re.S)
        p.write_text(re.sub(r' \{#[\w.]+\}$|\{\.source-link\}', '', s, flags=re.M), encoding='utf-8')
    found = json.loads((DOCS/'search.json').read_text(encoding='utf-8'))
    for o in found: o['text'] = re.sub(r'^source |^Open in Colab Download notebook .*? to run ', '', o['text'])
    (DOCS/'search.json').write_text(json.dumps(found, ensure_ascii=False), encoding='utf-8')
    s = (DOCS/'sitemap.xml').read_text(encoding='utf-8')
    (DOCS/'sitemap.xml').write_text(re.sub(r'\s*<url>\s*<loc>[^<]*/404\.html</loc>.*?</url>', '', s, flags=re.S), encoding='utf-8')
    head,*lines = (DOCS/'llms.txt').read_text(encoding='utf-8').split('\n- ')
    place = {f'({root}/{o}.llms.md)': i for i,o in enumerate(order)}
    lines.sort(key=lambda o: next((i for k,i in place.items() if k in o), len(place)))
    (DOCS/'llms.txt').write_text('\n- '.join([head.rstrip('\n') + '\n', *(o.strip() for o in lines)]) + '\n', encoding='utf-8')

def complete(cfg):
    "Put into _docs/ the notebooks to download, and what its pages would fetch from elsewhere; finish the pages"
    shutil.copytree(NBS, DOCS/'notebooks', ignore=lambda d, names: [o for o in names if not re.fullmatch(r'\d\d_\w+\.ipynb', o)], dirs_exist_ok=True)
    names = sorted((p.name for p in NBS.glob('*.ipynb')), key=lambda o: (o!='index.ipynb', o))          # in reading order
    sources = {re.sub(r'^\d+_|\.ipynb$', '', o): o for o in names}
    src = npm_package(*KATEX)
    if src is None: print('KaTeX could not be fetched with npm: formulas will need the network, for they come from a CDN')
    else:
        libs = DOCS/'site_libs'/'katex'
        libs.mkdir(parents=True, exist_ok=True)
        for o in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'): shutil.copy(src/'dist'/o, libs)
        shutil.copytree(src/'dist'/'fonts', libs/'fonts', ignore=shutil.ignore_patterns('*.ttf', '*.woff'), dirs_exist_ok=True)
    for p in DOCS.rglob('*.html'):
        s = finish(p.read_text(encoding='utf-8'), p, cfg, sources)
        up = f'{cfg.doc_baseurl}/' if p.name=='404.html' else '../'*(len(p.relative_to(DOCS).parts)-1)
        if src: s = re.sub(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/(?:contrib/)?([\w.-]+)', rf'{up}site_libs/katex/\1', s)
        p.write_text(s, encoding='utf-8')
    for p in DOCS.rglob('*.css'):
        s = p.read_text(encoding='utf-8')
        new = re.sub(r'@import url\(["\']?https?:[^)]*\);?', '', s)
        if new!=s: p.write_text(new, encoding='utf-8')
    if (DOCS/'llms.txt').exists(): finish_copies([*sources, 'api/index', *(f'api/{o}' for o in sources)], host(cfg))

def make(quarto=False):
    "The whole site"
    if quarto and not shutil.which('quarto'): sys.exit('There is no quarto on the PATH; without --quarto the site is made by smalldocs')
    cfg = process()
    if quarto: render_with_quarto()
    else:
        stage(cfg)
        render()
    complete(cfg)

class Handler(SimpleHTTPRequestHandler):
    "Serves _docs/ as GitHub Pages does: below the name of the project too, and with its own page for what is not there"
    def translate_path(self, path):
        base = config().doc_baseurl
        return super().translate_path(path.removeprefix(base) if path.startswith(f'{base}/') else path)

    def send_error(self, code, message=None, explain=None):
        if code!=404: return super().send_error(code, message, explain)
        body = (DOCS/'404.html').read_bytes()
        self.send_response(404)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(body)

def serve(port):
    "Show _docs/ on localhost until interrupted"
    if not (DOCS/'index.html').exists(): sys.exit('There is no site in _docs/ yet: make docs')
    try: server = ThreadingHTTPServer(('127.0.0.1', port), partial(Handler, directory=DOCS))
    except (OSError, OverflowError) as e: sys.exit(f'Nothing can be served on port {port} ({e}); --port 0 takes any that is free')
    with server:
        print(f'http://localhost:{server.server_port}   (Ctrl-C ends it)', flush=True)
        try: server.serve_forever()
        except KeyboardInterrupt: pass

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='?', choices=['make', 'serve'], default='make')
    p.add_argument('--quarto', action='store_true', help='render with Quarto instead of smalldocs')
    p.add_argument('--port', type=int, default=8000, help='for serve (default: %(default)s; 0: any that is free)')
    args = p.parse_args()
    os.chdir(ROOT)
    serve(args.port) if args.what=='serve' else make(args.quarto)
