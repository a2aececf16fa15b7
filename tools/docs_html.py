"""Finish the pages that smalldocs or Quarto have written.

Nothing comes from outside, and what they leave out is added.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from docs_pages import CARD, address_of, module_of

ROOT = Path(__file__).resolve().parent.parent
NBS, DOCS, CACHE = ROOT / 'nbs', ROOT / '_docs', ROOT / '.cache'
KATEX = (
    'katex@0.16.11',
    'RQrI8rlHY92OLf3rho/Ts8i/XvjgguEjOkO1BEXcU3N8BqPpSzBNwV/G0Ukr+P/l3ivvJUE/Fa/CwbS6HesGNQ==',
)
KATEX_URL = f'https://cdn.jsdelivr.net/npm/{KATEX[0]}/dist/'

# from npm ---------------------------------------------------------------------------


def npm_package(name, sha512):
    "The folder of an npm package, fetched once, checked each time; `None` if out of reach"
    CACHE.mkdir(exist_ok=True)
    folder = CACHE / name.replace('@', '-')
    archive = folder.parent / f'{folder.name}.tgz'
    if not archive.exists():
        if not shutil.which('npm'):
            return None
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            fetch = ['npm', 'pack', name, '--silent']
            if subprocess.run(fetch, cwd=tmp, stdout=subprocess.DEVNULL).returncode:
                return None
            next(Path(tmp).glob('*.tgz')).rename(archive)
    got = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if got != sha512:
        sys.exit(
            f'{archive} is not what it should be: its sha512 is {got} instead of '
            f'{sha512}. Delete it, and it will be fetched again'
        )
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data')
    return folder / 'package'


def put_katex(site):
    "Copy what typesets formulas into the folder `site`; was it to be had?"
    package = npm_package(*KATEX)
    if package is None:
        print(
            'KaTeX could not be fetched with npm: formulas will need the network, '
            'for they come from a CDN'
        )
        return False
    libs = site / 'site_libs' / 'katex'
    libs.mkdir(parents=True, exist_ok=True)
    for o in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'):
        shutil.copy(package / 'dist' / o, libs)
    shutil.copytree(
        package / 'dist' / 'fonts',
        libs / 'fonts',
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns('*.ttf', '*.woff'),
    )
    return True


# one step each, on the text of one file ---------------------------------------------


def local_katex(s, up):
    "Formulas are set by the copy in the site, `up` being the way to its root"
    cdn = r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/(?:contrib/)?([\w.-]+)'
    return re.sub(cdn, rf'{up}site_libs/katex/\1', s)


def local_styles(s):
    "A style sheet without what it would import from elsewhere (fonts of the theme)"
    url = r'''(?:"https?:[^"]*"|'https?:[^']*'|https?:[^)\s]*)'''
    return re.sub(rf'@import\s*(?:url\(\s*)?{url}\s*\)?[^;{{}}]*;?', '', s)


def size_pictures(s):
    "Embedded PNG pictures say their size, so that the text does not jump around them"

    def sized(m):
        if 'width=' in m[3]:
            return m[0]
        head = base64.b64decode(m[2])
        width, height = (int.from_bytes(head[i : i + 4], 'big') for i in (16, 20))
        return f'{m[1]} width="{width}" height="{height}"{m[3]}'

    return re.sub(
        r'(<img [^>]*src="data:image/png;base64,([\w+/]{32})[^"]*")([^>]*>)', sized, s
    )


def plain_description(s):
    "What other programs show of a page is plain text: no backticks"
    attribute = r'((?:name|property)="(?:og:|twitter:)?description" content=")([^"]*)'
    return re.sub(attribute, lambda m: m[1] + m[2].replace('`', ''), s)


def ease_access(s):
    "For the keyboard and screen readers: code that can be scrolled, what is a button says so"
    s = s.replace('<pre', '<pre tabindex="0"')
    s = s.replace(
        '<i class="bi bi-github" role="img">',
        '<i class="bi bi-github" aria-hidden="true">',
    )
    return s.replace('<a role="navigation"', '<a role="button" tabindex="0"')


def root_links(s, base):
    "Links from the root `base`: the page for what is not there is shown at any address"
    local = r'((?:href|src)=")(?!https?:|#|/|data:|")(?:\./)?([^"]+)'
    return re.sub(local, rf'\1{base}/\2', s).replace(
        'content="./"', f'content="{base}/"'
    )


# the whole site ---------------------------------------------------------------------


def complete(cfg, site=DOCS):
    """Put what pages refer to into the folder `site`, and take its pages through all steps.

    That is notebooks to download, KaTeX, and the picture that other programs show of a page.
    """
    names = sorted((p.name for p in NBS.glob('*.ipynb')), key=reading_order)
    (site / 'notebooks').mkdir(exist_ok=True)
    for o in names:
        shutil.copy(NBS / o, site / 'notebooks')
    (site / 'images').mkdir(exist_ok=True)
    shutil.copy(NBS / CARD.lstrip('/'), site / 'images')
    has_katex = put_katex(site)
    for p in site.rglob('*.html'):
        where, s = p.relative_to(site), p.read_text(encoding='utf-8')
        missing = where.as_posix() == '404.html'
        up = f'{cfg.doc_baseurl}/' if missing else '../' * (len(where.parts) - 1)
        s = ease_access(plain_description(size_pictures(s)))
        if missing:
            s = root_links(s, cfg.doc_baseurl)
        if has_katex:
            s = local_katex(s, up)
        p.write_text(s, encoding='utf-8')
    for p in site.rglob('*.css'):
        s = p.read_text(encoding='utf-8')
        if (new := local_styles(s)) != s:
            p.write_text(new, encoding='utf-8')
    if (site / 'llms.txt').exists():
        finish_copies(site, [*map(module_of, names)], address_of(cfg))


def reading_order(name):
    return (name != 'index.ipynb', name)


def finish_copies(site, modules, address):
    "The Markdown copies, the search and the map of `site` without what is for its pages only"
    for p in site.rglob('*.llms.md'):
        s = re.sub(
            r'<div class="page-bar">.*?</div>\s*',
            '',
            p.read_text(encoding='utf-8'),
            flags=re.S,
        )
        s = re.sub(r' \{#[\w.]+\}$|\{\.source-link\}', '', s, flags=re.M)
        p.write_text(s, encoding='utf-8')
    found = json.loads((site / 'search.json').read_text(encoding='utf-8'))
    bar = r'^source |^Open in Colab Download notebook Edit this page (?:.*? to run )?'
    for o in found:
        o['text'] = re.sub(bar, '', o['text'])
    (site / 'search.json').write_text(
        json.dumps(found, ensure_ascii=False), encoding='utf-8'
    )
    s = (site / 'sitemap.xml').read_text(encoding='utf-8')
    s = re.sub(r'\s*<url>\s*<loc>[^<]*/404\.html</loc>.*?</url>', '', s, flags=re.S)
    (site / 'sitemap.xml').write_text(s, encoding='utf-8')
    order = [*modules, 'api/index', *(f'api/{o}' for o in modules)]
    head, *lines = (site / 'llms.txt').read_text(encoding='utf-8').split('\n- ')
    places = {f'({address}/{o}.llms.md)': i for i, o in enumerate(order)}
    lines.sort(
        key=lambda o: next((i for k, i in places.items() if k in o), len(places))
    )
    lines = [head.rstrip('\n') + '\n', *(o.strip() for o in lines)]
    (site / 'llms.txt').write_text('\n- '.join(lines) + '\n', encoding='utf-8')
