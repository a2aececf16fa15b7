#!/usr/bin/env python3
"""Make the website in _docs/ from the notebooks.

    python tools/docs.py              with smalldocs, which is pure Python
    python tools/docs.py --quarto     with Quarto, if it is there: same pages, same addresses
    python tools/docs.py serve        show _docs/ on localhost

Four steps. nbdev processes the notebooks into _proc/: cells are hidden and shown, names
in backticks become links. The pages get what every page should have (docs_pages.py): folded
imports, where to run it, how long it takes; and each module a page with all it gives
(docs_api.py). For smalldocs, which names pages after their files, they are copied to
_proc/site/ under the names that they have on the site. At the end (docs_html.py) whatever the
pages would fetch from elsewhere, the typesetter of the formulas above all, is put into the site.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import yaml

from docs_api import api_pages, to_api
from docs_html import DOCS, KATEX_URL, complete
from docs_pages import address_of, change_text, check_pages, finish_page, reading_times

ROOT = Path(__file__).resolve().parent.parent
PROC = ROOT / '_proc'
STAGE = PROC / 'site'

# process: what nbdev does, and what we add ------------------------------------------


def process():
    "Let nbdev write the pages as they are to be read into _proc/, then add our own"
    check_pages()
    from nbdev.doclinks import _build_modidx
    from nbdev.serve import proc_nbs

    cfg = config()
    shutil.rmtree(PROC, ignore_errors=True)
    _build_modidx()
    with warnings.catch_warnings(action='ignore'):
        proc_nbs(force=True, n_workers=1)
    targets = api_pages(f'{cfg.git_url}/blob/{cfg.branch}', address_of(cfg))
    times = reading_times()
    for p in sorted(PROC.glob('*.ipynb')):
        nb = nbformat.read(p, 4)
        finish_page(nb, p.name, cfg, times)
        change_text(nb, partial(to_api, targets=targets, host=address_of(cfg)))
        nbformat.write(nb, p)
    return cfg


@cache
def config():
    "What settings.ini says"
    from nbdev.config import get_config

    return get_config(cfg_name=ROOT / 'settings.ini')


def change_config(folder, change):
    "Let `change` work on the dict that the _quarto.yml of `folder` holds"
    path = folder / '_quarto.yml'
    conf = yaml.safe_load(path.read_text(encoding='utf-8'))
    change(conf)
    text = yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding='utf-8')


# render with smalldocs --------------------------------------------------------------


def site_name(nb):
    "The name of a processed notebook on the site, from its front matter; without `.html`"
    found = re.search(r'^output-file: (\S+)\.html$', nb.cells[0].source, re.M)
    return found and found[1]


def stage(cfg):
    "Copy _proc/ to _proc/site/, with the final names of the pages and relative links"
    STAGE.mkdir(parents=True)
    nbs = {p.name: nbformat.read(p, 4) for p in sorted(PROC.glob('*.ipynb'))}
    names = {k: site_name(nb) or Path(k).stem for k, nb in nbs.items()}

    def link(m):
        return f'{m[1]}{names.get(m[2], m[2][:-6])}.html'

    def relink(s):
        s = re.sub(r'(\]\(|href=")(\w+\.ipynb)', link, s)
        return s.replace(f'{address_of(cfg)}/', '')

    for k, nb in nbs.items():
        change_text(nb, relink)
        head = nb.cells[0]
        head.source = re.sub(r'^output-file: .*\n', '', head.source, flags=re.M)
        nbformat.write(nb, STAGE / f'{names[k]}.ipynb')
    for p in PROC.iterdir():
        if p.is_dir() and p != STAGE:
            shutil.copytree(p, STAGE / p.name)
        elif p.is_file() and p.suffix != '.ipynb':
            shutil.copy(p, STAGE)
    text = (STAGE / '_quarto.yml').read_text(encoding='utf-8')
    for k, v in names.items():
        text = text.replace(k, f'{v}.ipynb')
    (STAGE / '_quarto.yml').write_text(text, encoding='utf-8')
    change_config(STAGE, for_smalldocs)


def for_smalldocs(conf):
    "The way to _docs/ from here, and without what only matters where code runs"
    conf.pop('execute', None)
    conf['project']['output-dir'] = os.path.relpath(DOCS, STAGE)
    conf['website']['llms-txt'] = True


def render():
    "Let smalldocs write _docs/; stop if it has anything to complain about"
    from smalldocs.site import build

    site = build(STAGE, quiet=True)
    # the notebooks to download are put there at the end
    complaints = [o for o in site.warnings if 'broken link notebooks/' not in o]
    if complaints:
        sys.exit('\n'.join(['smalldocs complains:', *complaints]))
    print(f'{len(site.pages)} pages in {DOCS.relative_to(ROOT)}/')


# render with Quarto -----------------------------------------------------------------


def for_quarto(conf):
    "Formulas by KaTeX, as smalldocs does it: MathJax and its polyfill come from outside"
    conf['format']['html']['html-math-method'] = {'method': 'katex', 'url': KATEX_URL}


def render_with_quarto():
    "Let Quarto write _docs/"
    change_config(PROC, for_quarto)
    subprocess.run(['quarto', 'render', PROC, '--no-execute'], check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC / '_docs', DOCS)


# make and serve ---------------------------------------------------------------------


def make(quarto=False):
    "The whole site"
    if quarto and not shutil.which('quarto'):
        sys.exit(
            'There is no quarto on the PATH; without --quarto the site is made by smalldocs'
        )
    cfg = process()
    if quarto:
        render_with_quarto()
    else:
        stage(cfg)
        render()
    complete(cfg)


class Handler(SimpleHTTPRequestHandler):
    """Serves _docs/ as GitHub Pages does.

    Below the name of the project too, and with its own page for what is not there.
    """

    def translate_path(self, path):
        base = config().doc_baseurl
        if path.startswith(f'{base}/'):
            path = path.removeprefix(base)
        return super().translate_path(path)

    def send_error(self, code, message=None, explain=None):
        if code != 404:
            return super().send_error(code, message, explain)
        body = (DOCS / '404.html').read_bytes()
        self.send_response(404)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)


def serve(port):
    "Show _docs/ on localhost until interrupted"
    if not (DOCS / 'index.html').exists():
        sys.exit('There is no site in _docs/ yet: make docs')
    handler = partial(Handler, directory=DOCS)
    try:
        server = ThreadingHTTPServer(('127.0.0.1', port), handler)
    except (OSError, OverflowError) as e:
        sys.exit(
            f'Nothing can be served on port {port} ({e}); --port 0 takes any that is free'
        )
    with server:
        print(f'http://localhost:{server.server_port}   (Ctrl-C ends it)', flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('what', nargs='?', choices=['make', 'serve'], default='make')
    p.add_argument(
        '--quarto', action='store_true', help='render with Quarto instead of smalldocs'
    )
    p.add_argument(
        '--port',
        type=int,
        default=8000,
        help='for serve (default: %(default)s; 0: any that is free)',
    )
    args = p.parse_args()
    os.chdir(ROOT)
    if args.what == 'serve':
        serve(args.port)
    else:
        make(args.quarto)
