"""The website, made afresh and read in a browser.

Nothing from outside, nothing broken, nothing too wide, readable by everybody.
"""

import os, re, shutil, sys, tempfile, threading
from functools import partial
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from string import Template
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import numpy as np
import pytest
import children
import yaml
from PIL import Image

import miniai

ROOT = Path(__file__).parent.parent
DOCS = ROOT / '_docs'
SHOTS = ROOT / 'screenshots'
PHONE, DESKTOP = {'width': 390, 'height': 844}, {'width': 1280, 'height': 900}
PATIENCE = 300_000  # milliseconds: a limit for what hangs, not for what is slow
AXE = (
    'axe-core@4.14.1',
    'FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==',
)


@pytest.fixture(scope='module')
def site():
    "The folder of the site, made afresh; MINIAI_SITE=keep reads the one that is there"
    if os.environ.get('MINIAI_SITE') == 'keep' and (DOCS / 'index.html').exists():
        return DOCS
    res = children.run([sys.executable, ROOT / 'tools' / 'docs.py'], cwd=ROOT)
    assert res.returncode == 0, res.stdout + res.stderr
    return DOCS


@pytest.fixture(scope='module')
def pages(site):
    return sorted(
        str(p.relative_to(site))
        for p in site.rglob('*.html')
        if 'site_libs' not in p.parts
    )


@pytest.fixture(scope='module')
def url(site):
    from docs import Handler

    class Quiet(Handler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(
        ('127.0.0.1', 0), partial(Quiet, directory=site)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='module')
def browser():
    "Chromium; without it tests are skipped, but for where MINIAI_BROWSER is set"
    path = (
        shutil.which('chromium')
        or shutil.which('chromium-browser')
        or shutil.which('google-chrome')
    )
    if not path:
        say = 'There is no Chromium to read the site with (Debian: apt-get install chromium)'
        pytest.fail(say) if os.environ.get('MINIAI_BROWSER') else pytest.skip(say)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield b
        b.close()


def from_npm(package):
    "The folder of an npm package; without npm tests are skipped, as without Chromium"
    from docs_html import npm_package

    folder = npm_package(*package)
    if folder is None:
        say = f'There is no npm to fetch {package[0]} with'
        pytest.fail(say) if os.environ.get('MINIAI_BROWSER') else pytest.skip(say)
    return folder


def visit(browser, url, **kw):
    "A page of the browser, with what it asked for outside and what it complained about"
    context = browser.new_context(**kw)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.outside, page.complaints = [], []
    page.on(
        'request',
        lambda r: (
            page.outside.append(r.url)
            if urlparse(r.url).hostname != '127.0.0.1'
            and not r.url.startswith(('data:', 'blob:'))
            else None
        ),
    )
    page.on(
        'console',
        lambda m: (
            page.complaints.append(m.text) if m.type in ('error', 'warning') else None
        ),
    )
    page.on('pageerror', lambda e: page.complaints.append(str(e)))
    page.on(
        'response',
        lambda r: (
            page.complaints.append(f'{r.status} {r.url}') if r.status >= 400 else None
        ),
    )
    page.goto(url, wait_until='load')
    return page


# without a browser ------------------------------------------------------------------


def test_every_notebook_and_module_has_its_page(pages):
    modules = [k for k, names in miniai._names.items() if names]
    lessons = {
        re.sub(r'^\d+[a-z]?_', '', p.stem) for p in (ROOT / 'nbs').glob('*.ipynb')
    }
    assert {
        *(f'{o}.html' for o in lessons),
        *(f'api/{o}.html' for o in ('index', *modules)),
    } <= set(pages)
    assert '404.html' in pages


def links_and_ids(text):
    text = re.sub(r'<pre.*?</pre>|<script.*?</script>', '', text, flags=re.S)
    return re.findall(r'<a\s[^>]*?href="([^"]*)"', text), set(
        re.findall(r'\sid="([^"]+)"', text)
    )


def test_no_link_is_broken(site, pages):
    found = {p: links_and_ids((site / p).read_text(encoding='utf-8')) for p in pages}
    broken = []
    for p, (links, _) in found.items():
        for link in links:
            if urlparse(link).scheme or not link:
                continue
            link = link.removeprefix('/miniai')
            target, fragment = urldefrag(urljoin(f'/{p}', link))
            target = unquote(target).lstrip('/') or 'index.html'
            if target.endswith('/'):
                target += 'index.html'
            if not (site / target).is_file():
                broken.append(f'{p}: {link}')
            elif (
                fragment
                and target in found
                and unquote(fragment) not in found[target][1]
            ):
                broken.append(f'{p}: {link} (no such place on the page)')
    assert not broken, '\n'.join(broken)


def test_names_are_linked_to_the_reference(site):
    names = [
        re.sub(r'^[0-9]+[a-z]?_', '', p.stem) for p in (ROOT / 'nbs').glob('0*.ipynb')
    ]
    links = [
        len(
            re.findall(
                r'<a href="api/\w+\.html#[^"]*"[^>]*><code>',
                (site / f'{o}.html').read_text(encoding='utf-8'),
            )
        )
        for o in names
    ]
    assert min(links) > 0 and sum(links) > 100, dict(zip(names, links))


def test_links_into_the_repository_lead_to_files(site, pages):
    wrong, n = [], 0
    for p in pages:
        for path, line in re.findall(
            r'href="https://github\.com/miniai-nb/miniai/(?:edit|blob|raw)/main/([^"#]+)(?:#L(\d+))?"',
            (site / p).read_text(encoding='utf-8'),
        ):
            n, file = n + 1, ROOT / path
            if not file.is_file() or (
                line
                and not re.match(
                    r'\s*(@|def |class |\w+ = )',
                    file.read_text(encoding='utf-8').splitlines()[int(line) - 1],
                )
            ):
                wrong.append(f'{p}: {path} {line}')
    assert not wrong and n > 200, '\n'.join(wrong)


def test_nothing_of_the_source_shows(site, pages):
    left = []
    for p in pages:
        text = (site / p).read_text(encoding='utf-8')
        text = re.sub(r'<(pre|code|script|style)\b.*?</\1>', '', text, flags=re.S)
        text = re.sub(r'<[^>]*>', '', text)
        left += [
            f'{p}: {m[0]!r}'
            for m in re.finditer(
                r'.{0,30}(#\| |:::|\{[.#][\w-]+[ }]|\$\$|\]\(\w).{0,30}', text
            )
        ]
    assert not left, '\n'.join(left)


def test_pages_weigh_little(site, pages):
    heavy = {
        p: (site / p).stat().st_size for p in pages if (site / p).stat().st_size > 1.5e6
    }
    assert not heavy
    assert sum(p.stat().st_size for p in site.rglob('*') if p.is_file()) < 40e6


def test_what_machines_read(site):
    index = (site / 'index.html').read_text(encoding='utf-8')
    for o in ('og:image', 'og:title', 'rel="icon"', 'name="description"'):
        assert o in index, o
    assert 'learner.llms.md' in (site / 'llms.txt').read_text(encoding='utf-8')
    assert '/learner.html' in (site / 'sitemap.xml').read_text(encoding='utf-8')


def test_what_comes_from_npm_is_checked(tmp_path, monkeypatch):
    import docs_html

    monkeypatch.setattr(docs_html, 'CACHE', tmp_path)
    (tmp_path / 'katex-0.16.11.tgz').write_bytes(b'something else')
    with pytest.raises(SystemExit, match='not what it should be'):
        docs_html.npm_package(*docs_html.KATEX)


def test_a_notebook_that_is_no_page_is_named(tmp_path, monkeypatch):
    import docs_pages
    import nbformat

    (tmp_path / 'index.ipynb').write_bytes((ROOT / 'nbs' / 'index.ipynb').read_bytes())
    monkeypatch.setattr(docs_pages, 'NBS', tmp_path)

    def stops(cells, match):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / '14_new.ipynb')
        with pytest.raises(SystemExit, match=match):
            docs_pages.check_pages()

    head = nbformat.v4.new_markdown_cell('# New\n> What it is about')
    stops([], 'first cell of 14_new')
    stops([nbformat.v4.new_markdown_cell('# New')], 'first cell of 14_new')
    stops([head], '14_new.*no badge')
    (tmp_path / '14_new.ipynb').write_text('{"cells": [')
    with pytest.raises(SystemExit, match='14_new.*cannot be read'):
        docs_pages.check_pages()


@pytest.mark.parametrize(
    'name, section',
    [
        ('14_new', 'Lessons'),
        ('02b_new', 'Lessons'),
        ('16_new', 'Below the floor'),
        ('20_new', 'Workshop'),
    ],
)
def test_a_page_that_is_missing_in_the_sidebar_is_named(
    tmp_path, monkeypatch, name, section
):
    import docs_pages
    import nbformat

    (tmp_path / 'index.ipynb').write_bytes((ROOT / 'nbs' / 'index.ipynb').read_bytes())
    cell = nbformat.v4.new_markdown_cell
    code = nbformat.v4.new_code_cell(
        '1', outputs=[nbformat.v4.new_output('stream', text='1')]
    )
    badge = cell(f'[![Open in Colab](x)](https://example.org/nbs/{name}.ipynb)')
    page = nbformat.v4.new_notebook(
        cells=[cell('# New\n> What it is about'), badge, code]
    )
    nbformat.write(page, tmp_path / f'{name}.ipynb')
    monkeypatch.setattr(docs_pages, 'NBS', tmp_path)
    with pytest.raises(SystemExit, match=f'{name}.*section {section}'):
        docs_pages.check_pages()


def test_quarto_knows_every_key():
    from smalldocs.config import load

    known = [o for o in load(ROOT / 'nbs').warnings if 'execute' not in o]
    assert not known


# what real Quarto found ------------------------------------------------------------------


class Strict(yaml.SafeLoader):
    "A YAML loader that refuses a key that is there twice, as Quarto does"

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(k, deep=deep) for k, _ in node.value]
        twice = sorted({k for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f'twice: {twice}')
        return super().construct_mapping(node, deep)


def test_the_loader_that_the_next_test_uses_refuses_what_Quarto_refuses():
    assert yaml.load('a: 1\nb: 2', Strict) == {'a': 1, 'b': 2}
    with pytest.raises(yaml.constructor.ConstructorError, match='code-fold'):
        yaml.load('code-fold: show\ncode-fold: true', Strict)


def test_options_of_cells_are_yaml_that_quarto_reads(site):
    "Both for what tools/docs.py makes and for what nbdev alone does, as in nbdev_docs"
    import nbformat

    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        for o in ('nbs', 'miniai', 'settings.ini', '_quarto.yml'):
            (shutil.copytree if (ROOT / o).is_dir() else shutil.copy)(
                ROOT / o, copy / o
            )
        code = (
            'from nbdev.doclinks import _build_modidx; from nbdev.serve import proc_nbs; '
            '_build_modidx(); proc_nbs(force=True, n_workers=1)'
        )
        children.run(
            [sys.executable, '-W', 'ignore', '-c', code],
            cwd=copy,
            check=True,
            env={**os.environ, 'PYTHONPATH': tmp},
        )
        files = [*(ROOT / '_proc').glob('*.ipynb'), *(copy / '_proc').glob('*.ipynb')]
        wrong, n = [], 0
        for p in files:
            for c in nbformat.read(p, 4).cells:
                front = re.match(r'---\n(.*?)\n---', c.source, re.S)
                top = re.match(r'(?:#\|.*\n?)*', c.source)[0]
                text = (
                    front[1]
                    if front and c.cell_type == 'raw'
                    else re.sub(r'^#\| ?', '', top, flags=re.M)
                )
                n += bool(text)
                try:
                    yaml.load(text, Strict)
                except yaml.YAMLError as e:
                    wrong.append(f'{p.name}: {e}\n{text}')
    assert not wrong and n > 400, (n, '\n'.join(wrong))


def test_nothing_that_the_site_loads_lies_elsewhere(site):
    "Whatever a browser fetches by itself, in pages, style sheets and scripts"
    elsewhere = []
    for p in [*site.rglob('*.html'), *site.rglob('*.css')]:
        s = p.read_text(encoding='utf-8')
        loads = re.findall(r'<script[^>]*\ssrc="([^"]*)"', s)
        loads += re.findall(
            r'<(?:img|iframe|source|video|audio)[^>]*\ssrc="([^"]*)"', s
        )
        loads += [
            m[1]
            for m in re.finditer(r'<link([^>]*)>', s)
            if re.search(r'rel="[^"]*(?:stylesheet|icon|preload)', m[1])
            for m in [re.search(r'href="([^"]*)"', m[1])]
        ]
        loads += re.findall(r'@import\s*(?:url\()?\s*["\']?([^"\');]+)', s)
        loads += (
            re.findall(r'url\(\s*["\']?([^"\')]+)', s) if p.suffix == '.css' else []
        )
        elsewhere += [
            f'{p.relative_to(site)}: {o}' for o in loads if re.match(r'(https?:)?//', o)
        ]
    assert not elsewhere, '\n'.join(elsewhere)


@pytest.mark.parametrize(
    'style',
    [
        '@import url("https://fonts.googleapis.com/css2?family=Lato:wght@300;400&display=swap");',
        "@import url('https://fonts.googleapis.com/css?family=Lato');",
        '@import url(https://fonts.googleapis.com/css?family=Lato);',
        '@import"https://fonts.googleapis.com/css2?family=Lato:ital,wght@0,400;0,700&display=swap";',
        "@import 'https://fonts.googleapis.com/css2?family=Lato' ;",
        '@import url(https://fonts.googleapis.com/css2?family=Lato:wght@300;400) screen;',
    ],
)
def test_fonts_of_a_theme_are_not_fetched(style):
    from docs_html import local_styles

    assert local_styles(f'/* a */{style}body{{color:red}}') == '/* a */body{color:red}'
    assert local_styles('@import"other.css";a{}') == '@import"other.css";a{}'


def test_quarto_sets_formulas_with_the_katex_of_the_site():
    from docs import for_quarto
    from docs_html import local_katex

    conf = {'format': {'html': {'toc': True}}}
    for_quarto(conf)
    method = conf['format']['html']['html-math-method']
    page = f'<script defer="" src="{method["url"]}katex.min.js"></script>'
    assert method['method'] == 'katex'
    assert (
        local_katex(page, '../')
        == '<script defer="" src="../site_libs/katex/katex.min.js"></script>'
    )


def test_pictures_say_their_size():
    import base64

    from docs_html import size_pictures

    f = BytesIO()
    Image.new('L', (31, 17)).save(f, 'PNG')
    data = base64.b64encode(f.getvalue()).decode()
    img = f'<img alt="a" src="data:image/png;base64,{data}" class="b">'
    want = img.replace(' class="b"', ' width="31" height="17" class="b"')
    assert size_pictures(f'<p>{img}</p>') == f'<p>{want}</p>'
    assert size_pictures(want.replace('31', '9')) == want.replace('31', '9')


def test_descriptions_are_plain():
    from docs_html import plain_description

    for o in ('name="description"', 'property="og:description"'):
        s = f'<meta {o} content="the loop of `fit`"><p>`x`</p>'
        assert plain_description(s) == s.replace('`fit`', 'fit')


def test_the_page_for_what_is_not_there_links_from_the_root():
    from docs_html import root_links

    for link, want in (
        ('a.html', '/miniai/a.html'),
        ('./api/b.html#c', '/miniai/api/b.html#c'),
        ('/x', '/x'),
        ('#top', '#top'),
        ('https://example.org', 'https://example.org'),
        ('data:,x', 'data:,x'),
    ):
        assert root_links(f'<a href="{link}">', '/miniai') == f'<a href="{want}">'


def test_a_card_keeps_the_front_matter():
    from docs_pages import add_card

    text = add_card(
        '---\ntitle: A\noutput-file: a.html\n---\n# B\n---\n', 'https://x/a.html'
    )
    front = yaml.load(text.split('---\n')[1], Strict)
    assert front['title'] == 'A' and text.endswith('---\n# B\n---\n')
    assert 'href="https://x/a.html"' in front['include-in-header'][0]['text']


def test_an_id_is_there_once_on_a_page(site, pages):
    twice = []
    for p in pages:
        s = re.sub(
            r'<svg.*?</svg>', '', (site / p).read_text(encoding='utf-8'), flags=re.S
        )
        ids = re.findall(r'<[a-z][^>]*?\sid="([^"]+)"', s)
        twice += [f'{p}: {o}' for o in sorted({o for o in ids if ids.count(o) > 1})]
    assert not twice, '\n'.join(twice)


def test_a_link_to_any_page_shows_the_same_picture(site, pages):
    address = 'https://miniai-nb.github.io/miniai/'
    for p in pages:
        s = (site / p).read_text(encoding='utf-8')
        for o in ('og:image', 'og:title', 'og:image:alt', 'og:url'):
            n = len(re.findall(f'<meta (?:property|name)="{o}"', s))
            assert n == (o in ('og:image', 'og:title') or p != '404.html'), (p, o, n)
        own = re.findall('<link rel="canonical" href="([^"]*)"', s)
        assert own == [address + p] * (p != '404.html'), (p, own)
        image = re.search('<meta property="og:image" content="([^"]*)"', s)[1]
        assert (
            image.startswith(address) and (site / image.removeprefix(address)).is_file()
        ), (p, image)


def test_no_badge_stands_alone_and_notebooks_to_download_are_no_pages():
    "Quarto makes a figure with a caption of a picture alone, and looks for what a link ends in"
    import nbformat

    for p in sorted((ROOT / '_proc').glob('*.ipynb')):
        prose = [
            c.source for c in nbformat.read(p, 4).cells if c.cell_type == 'markdown'
        ]
        alone = [
            o
            for s in prose
            for o in re.split(r'\n{2,}', s)
            if re.fullmatch(r'(\[?!\[[^]]*\]\([^)]*\)(\]\([^)]*\))?\s*)+', o)
        ]
        assert not alone, (p.name, alone)
        links = re.findall(r'<a [^>]*href="notebooks/[^>]*>', '\n'.join(prose))
        assert len(links) == 1 and 'data-noresolveinput' in links[0], (p.name, links)


def test_imports_at_the_top_are_folded_and_other_code_is_not():
    import docs_pages
    import nbformat

    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell

    def page():
        cells = [
            text('Words'),
            code('import os\nfrom math import pi'),
            code('with suppress(Exception): import x\nplot_style()'),
            code('print(1)', outputs=[nbformat.v4.new_output('stream', text='1')]),
            code('a = 1\nimport b'),
            code('#| exports\ndef f(): pass'),
            code('#| exports\n#| code-fold: true\ndef g(): pass\nclass H: pass'),
            text('## Next'),
            code('import json'),
            code('#| fig-alt: a picture\nplot()'),
        ]
        for i, c in enumerate(cells):
            c.id = f'c{i}'
        cells.insert(0, code('#| default_exp things'))
        return nbformat.v4.new_notebook(cells=cells)

    nb = page()
    for c in nb.cells:
        c.source = re.sub(r'^#\| (exports|default_exp.*)\n?', '', c.source, flags=re.M)
    docs_pages.fold_code(nb, page().cells)
    assert [c.source for c in nb.cells if c.cell_type == 'code' and c.source] == [
        '#| code-fold: true\n#| code-summary: "Imports"\nimport os\nfrom math import pi\n'
        'with suppress(Exception): import x\nplot_style()',
        'print(1)',
        'a = 1\nimport b',
        '#| code-fold: show\n#| code-summary: "miniai.things"\ndef f(): pass',
        '#| code-fold: true\n#| code-summary: "miniai.things: g, H"\ndef g(): pass\nclass H: pass',
        'import json',
        '#| fig-alt: a picture\nplot()',
    ]


def test_names_in_the_text_of_a_link_are_no_links_of_their_own():
    from docs_api import to_api

    host = 'https://example.org/x'
    f, g = f'[`f`]({host}/a.html#f)', f'[`g`]({host}/a.html#g)'
    places = {'f': 'api/a.html#f', 'g': 'api/a.html#g'}
    for text, want in (
        (f'see {f}, {g}', 'see [`f`](api/a.html#f), [`g`](api/a.html#g)'),
        (f'[{f}](b.ipynb)', '[`f`](b.ipynb)'),
        (f'{g}, [beside {f}](b.ipynb)', '[`g`](api/a.html#g), [beside `f`](b.ipynb)'),
        (f'[{f} and {g}, too](b.ipynb)', '[`f` and `g`, too](b.ipynb)'),
    ):
        assert to_api(text, places, host) == want


def test_a_name_is_on_a_page_of_the_reference_once():
    from docs_api import without_twins

    text = (
        'head\n## f {#f}\nthe function\n## C {#C}\nthe class\n### f {#f}\nits attribute\n'
        '### g {#C.g}\nits method\n'
    )
    assert without_twins(text) == text.replace('### f {#f}\nits attribute\n', '')


def test_deployed_is_the_site_that_these_tests_read_and_quarto_has_to_make_the_same_pages():
    jobs = yaml.safe_load(
        (ROOT / '.github/workflows/docs.yml').read_text(encoding='utf-8')
    )['jobs']
    steps = [o.get('run') or o.get('uses', '') for o in jobs['build']['steps']]
    quarto = next(i for i, o in enumerate(steps) if 'QUARTO=1' in o)
    plain = next(i for i, o in enumerate(steps) if re.search(r'make docs$', o, re.M))
    upload = next(i for i, o in enumerate(steps) if 'upload-pages-artifact' in o)
    compare = next(i for i, o in enumerate(steps) if 'diff' in o)
    assert quarto < plain < compare < upload


# in a browser -----------------------------------------------------------------------


WIDE = """[...document.querySelectorAll('main *')]
          .filter(o => o.getBoundingClientRect().right>391)
          .filter(o => !o.closest('pre, .cell-output, .table-responsive'))
          .slice(0,3).map(o => o.tagName+'.'+o.className).join(' ')"""
RULES = [
    'heading-order',
    'image-alt',
    'link-name',
    'button-name',
    'document-title',
    'html-has-lang',
    'label',
    'list',
    'duplicate-id-aria',
]


NO_ALT = '[...document.images].filter(o => !o.alt).map(o => o.src.slice(-60))'
UNFOLD = "document.querySelectorAll('details').forEach(o => o.open = true)"


@pytest.fixture(scope='module')
def looks(browser, url, pages):
    """What was seen on each page, a dict of dicts

    Each is loaded once, by a phone, and then shown on a desktop and unfolded.
    """
    from docs_html import KATEX

    from_npm(KATEX)  # without it the formulas do come from outside
    axe, seen = from_npm(AXE), {}
    for p in pages:
        page = visit(browser, url + p, viewport=PHONE, color_scheme='light')
        o = seen[p] = {'no words': page.evaluate(NO_ALT)}
        width = page.evaluate('document.documentElement.scrollWidth')
        o['too wide'] = [] if width <= 390 else [f'{width}: {page.evaluate(WIDE)}']
        page.set_viewport_size(DESKTOP)
        o['axe'] = axe_says(page, axe, RULES)[:9]
        page.evaluate(UNFOLD)
        pushed = f'os => os.map(o => [o, ...o.querySelectorAll("pre")].some({PUSHED}))'
        o['pushed'] = page.locator('div.sourceCode').evaluate_all(pushed)
        o['outside'], o['complaints'] = page.outside, page.complaints
        page.context.close()
    return seen


@pytest.mark.parametrize(
    'what', ['outside', 'complaints', 'too wide', 'no words', 'axe']
)
def test_on_no_page_is_anything(looks, what):
    "from outside, to complain about, too wide for a phone, without words, against the rules"
    assert not (wrong := {k: o[what] for k, o in looks.items() if o[what]}), wrong


# a page of each kind: what has a colour stands on one of them
KINDS = 'index learner summary results 404 api/learner'.split()
# of many blocks of code some: looking at the ground of every word takes long
THIN_OUT = '''document.querySelectorAll('div.sourceCode').forEach(
    (o, i, all) => all.length > 20 && i % 5 && o.remove())'''


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('which', [KINDS, pytest.param(None, marks=pytest.mark.soak)])
def test_everybody_can_read_it(browser, url, pages, scheme, which):
    axe, wrong = from_npm(AXE), []
    for p in [f'{o}.html' for o in which] if which else pages:
        page = visit(browser, url + p, color_scheme=scheme, viewport=DESKTOP)
        if which:
            page.evaluate(THIN_OUT)
        wrong += [f'{p}: {o}' for o in axe_says(page, axe, ['color-contrast'])[:9]]
        page.context.close()
    assert not wrong, '\n'.join(wrong)


def test_search_finds_and_the_colours_can_be_changed(browser, url):
    page = visit(browser, url + 'learner.html', color_scheme='light', viewport=DESKTOP)
    light = page.evaluate('getComputedStyle(document.body).backgroundColor')
    page.click('.quarto-color-scheme-toggle')
    page.wait_for_function(
        'was => getComputedStyle(document.body).backgroundColor!=was', arg=light
    )
    page.fill('input[type=search]', 'callback')
    page.wait_for_selector('.smalldocs-search-results a')
    assert page.locator('.katex').count() > 0 and not page.complaints
    page.context.close()


def test_a_folded_answer_opens(browser, url):
    page = visit(browser, url + 'conv.html')
    answer = page.locator('details:not(.code-fold)', has_text='Answer').first
    assert not answer.evaluate('o => o.open')
    answer.locator('summary').click()
    assert answer.evaluate('o => o.open')
    page.context.close()


def test_the_menu_of_a_phone_is_below_the_bar(browser, url):
    page = visit(browser, url + 'learner.html', viewport=PHONE)
    page.click('.quarto-btn-toggle')
    page.wait_for_function(  # it slides there
        """() => [['#quarto-sidebar a', 'top'], ['#quarto-header', 'bottom']]
        .map(([what, side]) => document.querySelector(what).getBoundingClientRect()[side])
        .reduce((a, b) => a - b) >= 0"""
    )
    assert page.evaluate(
        """(o => o.scrollHeight<=o.clientHeight || getComputedStyle(o).overflowY=='auto')(
        document.querySelector('#quarto-sidebar'))"""
    )
    page.context.close()


def test_a_wrong_address_leads_to_a_page(browser, url):
    page = visit(browser, url + 'miniai/api/nosuch.html', viewport=DESKTOP)
    assert len(page.complaints) <= 2 and all('404' in o for o in page.complaints), (
        page.complaints
    )  # that of the page itself
    page.click('#quarto-sidebar a.sidebar-item-text:has-text("Lessons")')
    page.click('#quarto-sidebar a[href$="miniai/learner.html"]')
    page.wait_for_url('**/miniai/learner.html')
    page.context.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_can_be_read_without_scripts(browser, url, scheme):
    page = visit(
        browser, url + 'learner.html', color_scheme=scheme, java_script_enabled=False
    )

    def light(what, css):
        return (
            sum(
                map(
                    int,
                    re.findall(
                        r'\d+',
                        page.locator(what).first.evaluate(
                            f'o => getComputedStyle(o).{css}'
                        ),
                    )[:3],
                )
            )
            / 3
        )

    assert abs(light('main p', 'color') - light('body', 'backgroundColor')) > 100
    assert (
        abs(
            light('main pre code', 'color') - light('div.sourceCode', 'backgroundColor')
        )
        > 100
    )
    page.context.close()


ON_BODY = """() => { document.documentElement.classList.remove('quarto-dark');
    document.body.classList.add('quarto-dark') }"""  # where Quarto marks the dark mode


@pytest.mark.parametrize('name', ['index', 'learner', 'resnet', 'api/learner'])
def test_take_pictures(browser, url, name):
    "To be looked at; and what is dark by a mark on <body> looks the same as by one on <html>"
    SHOTS.mkdir(exist_ok=True)
    for size, viewport in {'desktop': DESKTOP, 'phone': PHONE}.items():
        shots = {}
        for look in ('light', 'dark', 'dark-body'):
            page = visit(
                browser,
                f'{url}{name}.html',
                color_scheme=look.split('-')[0],
                viewport=viewport,
            )
            if look == 'dark-body':
                page.evaluate(ON_BODY)
            page.mouse.move(1, 1)
            path = SHOTS / f'{name.replace("/", "-")}-{size}-{look}.png'
            shots[look] = page.screenshot(path=path, animations='disabled')
            page.context.close()

        def pixels(o):
            return np.asarray(Image.open(BytesIO(shots[o])).convert('RGB'), int)

        assert np.abs(pixels('dark') - pixels('dark-body')).mean() < 1
        assert np.abs(pixels('dark') - pixels('light')).mean() > 100


# as Quarto writes it ----------------------------------------------------------------------

SHEETS = {  # the theme that Quarto loads in each mode
    'light': {
        'text': '#373a3c',
        'ground': '#ffffff',
        'faint': '#898b8e',
        'bar': '.5rem',
    },
    'dark': {'text': '#ffffff', 'ground': '#222222', 'faint': '#888888', 'bar': '1rem'},
}
MARKS = {
    'light': ('light', '', 'quarto-light'),
    'on html': ('dark', 'quarto-dark', ''),
    'on body': ('dark', '', 'quarto-dark'),
}
LINE = 'x' * 88


def quarto_sample(browser, mark, width=1280):
    "A small page as Quarto writes it, with our styles, the dark mode marked as `mark` says"
    mode, root, body = MARKS[mark]
    page = browser.new_context(viewport={'width': width, 'height': 900}).new_page()
    text = Template((ROOT / 'tests' / 'quarto_sample.html').read_text(encoding='utf-8'))
    styles = (ROOT / 'nbs' / 'styles.css').read_text(encoding='utf-8')
    page.set_content(
        text.substitute(SHEETS[mode], root=root, body=body, styles=styles, line=LINE)
    )
    return page


def axe_says(page, axe, rules):
    "What axe-core has to say against `page`, a list of sentences"
    if not page.evaluate('"axe" in window'):
        page.add_script_tag(path=axe / 'axe.min.js')
    found = page.evaluate(
        'rules => axe.run({runOnly: {type: "rule", values: rules}})'
        '.then(r => r.violations)',
        rules,
    )
    return [
        f'{v["id"]}: {n["html"][:120]} {n["any"][0]["message"][:150] if n["any"] else ""}'
        for v in found
        for n in v['nodes']
    ]


def css(page, what, name):
    return page.locator(what).first.evaluate(f'o => getComputedStyle(o).{name}')


def lightness(color):
    return sum(map(int, re.findall(r'\d+', color)[:3])) / 3


@pytest.mark.parametrize('mark', MARKS)
def test_quartos_pages_can_be_read_in_every_mode(browser, mark):
    page = quarto_sample(browser, mark)
    assert not axe_says(page, from_npm(AXE), ['color-contrast'])
    ground = css(page, 'body', 'backgroundColor')
    assert (lightness(ground) < 64) == (MARKS[mark][0] == 'dark')
    assert css(page, '.navbar', 'backgroundColor') == ground
    for o in ('p code', 'td code', '.description', 'div.sourceCode', 'td', 'details'):
        back = page.locator(o).first.evaluate(BACK)
        assert abs(lightness(css(page, o, 'color')) - lightness(back)) > 90, (o, back)
        assert abs(lightness(back) - lightness(ground)) < 30, (o, back)
    accent = css(page, 'main p a', 'color')
    for o in ('.sidebar-link.active', '#TOC .nav-link.active', 'p a code'):
        assert css(page, o, 'color') == accent, o
    page.context.close()


# the colour behind an element: that of the nearest one around it which has any
BACK = """o => { for (; o; o = o.parentElement) { const c = getComputedStyle(o).backgroundColor;
    if (c!='rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' }"""
PUSHED = 'o => o.scrollWidth > o.clientWidth + 1'


def test_quartos_bar_keeps_its_height_when_the_mode_changes(browser):
    heights = set()
    for mark in MARKS:
        page = quarto_sample(browser, mark)
        heights.add(page.locator('.navbar').evaluate('o => o.offsetHeight'))
        page.context.close()
    assert len(heights) == 1


@pytest.mark.parametrize('width', [1060, 1200, 1280, 1920])
def test_88_characters_fit_into_quartos_column(browser, width):
    page = quarto_sample(browser, 'light', width)
    assert not page.locator('#wide').evaluate(PUSHED)
    toc = page.locator('#quarto-margin-sidebar')
    assert toc.is_visible() == (width >= 1280)
    boxes = [
        page.locator(o).bounding_box() for o in ('#quarto-sidebar', 'main.content')
    ]
    if width >= 1280:
        boxes.append(toc.bounding_box())
    for a, b in zip(boxes, boxes[1:]):
        assert a['x'] + a['width'] <= b['x'] + 1, (a, b)
    assert boxes[-1]['x'] + boxes[-1]['width'] <= width
    page.context.close()


def test_quartos_tables_are_as_wide_as_what_is_in_them(browser):
    page = quarto_sample(browser, 'light')
    widths = page.locator('#tables th').evaluate_all('os => os.map(o => o.offsetWidth)')
    assert widths[1] > 3 * widths[2], widths
    assert page.locator('#tables a').evaluate('o => o.getClientRects().length') == 1
    assert css(page, '#tables a', 'wordBreak') == 'normal'
    page.context.close()


# code and paper -----------------------------------------------------------------------


def test_88_characters_of_code_fit_and_how_much_does_not(browser, url, looks, capsys):
    "Prints the share of code cells that have to be pushed sideways; it falls as pages are wrapped"
    page = visit(browser, url + 'learner.html', viewport=DESKTOP)
    code = page.locator('div.sourceCode:visible').first
    code.locator('code').evaluate(f'o => o.textContent = "{LINE}"')
    assert not code.evaluate(PUSHED) and not code.locator('pre').evaluate(PUSHED)
    code.locator('code').evaluate(f'o => o.textContent = "{LINE * 2}"')
    assert code.evaluate(PUSHED) or code.locator('pre').evaluate(PUSHED)
    prose = page.locator('main section > p').first.evaluate('o => o.offsetWidth')
    assert prose < code.evaluate('o => o.offsetWidth')
    page.context.close()
    pushed = {k.removesuffix('.html'): v['pushed'] for k, v in looks.items()}
    pushed = {k: v for k, v in pushed.items() if '/' not in k}
    n, of = sum(map(sum, pushed.values())), sum(map(len, pushed.values()))
    assert of > 1000
    with capsys.disabled():
        print(
            f'\ncode cells pushed sideways at 1280 pixels: {n} of {of} ({n / of:.1%}): '
            + ', '.join(f'{k} {sum(v)}' for k, v in pushed.items() if sum(v))
        )


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_lesson_prints_well(browser, url, scheme, tmp_path):
    page = visit(browser, url + 'resnet.html', color_scheme=scheme)
    page.emulate_media(media='print', color_scheme=scheme)
    page.set_viewport_size({'width': 680, 'height': 960})  # A4 without its margins
    for o in (
        '#quarto-header',
        '#quarto-sidebar',
        '#quarto-margin-sidebar',
        '.page-bar',
    ):
        assert not page.locator(o).is_visible(), o
    assert not any(
        page.locator('div.sourceCode').evaluate_all(f'os => os.map({PUSHED})')
    )
    assert page.evaluate('document.documentElement.scrollWidth') <= 680
    for o in ('main section p', 'main pre code', 'main td', 'main h2'):
        assert lightness(css(page, o, 'color')) < 90, o
    pdf = page.pdf(format='A4')
    assert pdf.startswith(b'%PDF') and pdf.count(b'/Type /Page\n') > 3
    page.context.close()
