"The website, made afresh and read in a browser: nothing from outside, nothing broken, nothing too wide, readable by everybody"
import os, re, shutil, subprocess, sys, threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT/'_docs'
SHOTS = ROOT/'screenshots'
AXE = ('axe-core@4.14.1', 'FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==')
sys.path.insert(0, str(ROOT/'tools'))

@pytest.fixture(scope='module')
def site():
    "The folder of the site, made by the program that everybody uses"
    res = subprocess.run([sys.executable, ROOT/'tools'/'docs.py'], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert res.returncode==0, res.stdout+res.stderr
    return DOCS

@pytest.fixture(scope='module')
def pages(site): return sorted(str(p.relative_to(site)) for p in site.rglob('*.html') if 'site_libs' not in p.parts)

@pytest.fixture(scope='module')
def url(site):
    from docs import Handler
    class Quiet(Handler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()

@pytest.fixture(scope='module')
def browser():
    "Chromium; without it the tests are skipped, but for where MINIAI_BROWSER says that it has to be there"
    path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not path:
        say = 'There is no Chromium to read the site with (Debian: apt-get install chromium)'
        pytest.fail(say) if os.environ.get('MINIAI_BROWSER') else pytest.skip(say)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield b
        b.close()

def from_npm(package):
    "The folder of an npm package; without npm the test is skipped, but for where MINIAI_BROWSER is set"
    from docs import npm_package
    folder = npm_package(*package)
    if folder is None:
        say = f'There is no npm to fetch {package[0]} with'
        pytest.fail(say) if os.environ.get('MINIAI_BROWSER') else pytest.skip(say)
    return folder

def visit(browser, url, **kw):
    "A page of the browser, with what it asked for outside and what it complained about"
    context = browser.new_context(**kw)
    page = context.new_page()
    page.outside,page.complaints = [],[]
    page.on('request', lambda r: page.outside.append(r.url) if urlparse(r.url).hostname!='127.0.0.1' and not r.url.startswith(('data:', 'blob:')) else None)
    page.on('console', lambda m: page.complaints.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: page.complaints.append(str(e)))
    page.on('response', lambda r: page.complaints.append(f'{r.status} {r.url}') if r.status>=400 else None)
    page.goto(url, wait_until='load')
    return page

# without a browser ------------------------------------------------------------------------------------------------

def test_every_notebook_and_module_has_its_page(pages):
    modules = sorted(p.stem for p in (ROOT/'miniai').glob('*.py') if p.stem not in ('__init__', '_modidx', 'all'))
    lessons = {re.sub(r'^\d+_', '', p.stem) for p in (ROOT/'nbs').glob('*.ipynb')}
    assert {*(f'{o}.html' for o in lessons), *(f'api/{o}.html' for o in ('index', *modules))} <= set(pages)
    assert '404.html' in pages

def links_and_ids(text):
    text = re.sub(r'<pre.*?</pre>|<script.*?</script>', '', text, flags=re.S)
    return re.findall(r'<a\s[^>]*?href="([^"]*)"', text),set(re.findall(r'\sid="([^"]+)"', text))

def test_no_link_is_broken(site, pages):
    found = {p: links_and_ids((site/p).read_text(encoding='utf-8')) for p in pages}
    broken = []
    for p,(links,_) in found.items():
        for link in links:
            if urlparse(link).scheme or not link: continue
            link = link.removeprefix('/miniai')
            target,fragment = urldefrag(urljoin(f'/{p}', link))
            target = unquote(target).lstrip('/') or 'index.html'
            if target.endswith('/'): target += 'index.html'
            if not (site/target).is_file(): broken.append(f'{p}: {link}')
            elif fragment and target in found and unquote(fragment) not in found[target][1]: broken.append(f'{p}: {link} (no such place on the page)')
    assert not broken, '\n'.join(broken)

def test_names_are_linked_to_the_reference(site):
    names = [re.sub(r'^[0-9]+_', '', p.stem) for p in (ROOT/'nbs').glob('0*.ipynb')]
    links = [len(re.findall(r'<a href="api/\w+\.html#[^"]*"[^>]*><code>', (site/f'{o}.html').read_text(encoding='utf-8'))) for o in names]
    assert min(links)>0 and sum(links)>100, dict(zip(names, links))

def test_links_into_the_repository_lead_to_files(site, pages):
    wrong,n = [],0
    for p in pages:
        for path,line in re.findall(r'href="https://github\.com/miniai-nb/miniai/(?:edit|blob|raw)/main/([^"#]+)(?:#L(\d+))?"', (site/p).read_text(encoding='utf-8')):
            n,file = n+1,ROOT/path
            if not file.is_file() or (line and not re.match(r'\s*(@|def |class |\w+ = )', file.read_text(encoding='utf-8').splitlines()[int(line)-1])): wrong.append(f'{p}: {path} {line}')
    assert not wrong and n>200, '\n'.join(wrong)

def test_nothing_of_the_source_shows(site, pages):
    left = []
    for p in pages:
        text = (site/p).read_text(encoding='utf-8')
        text = re.sub(r'<(pre|code|script|style)\b.*?</\1>', '', text, flags=re.S)
        text = re.sub(r'<[^>]*>', '', text)
        left += [f'{p}: {m[0]!r}' for m in re.finditer(r'.{0,30}(#\| |:::|\{[.#][\w-]+[ }]|\$\$|\]\(\w).{0,30}', text)]
    assert not left, '\n'.join(left)

def test_pages_weigh_little(site, pages):
    heavy = {p: (site/p).stat().st_size for p in pages if (site/p).stat().st_size>1.5e6}
    assert not heavy
    assert sum(p.stat().st_size for p in site.rglob('*') if p.is_file()) < 40e6

def test_what_machines_read(site):
    index = (site/'index.html').read_text(encoding='utf-8')
    for o in ('og:image', 'og:title', 'rel="icon"', 'name="description"'): assert o in index, o
    assert 'learner.llms.md' in (site/'llms.txt').read_text(encoding='utf-8')
    assert '/learner.html' in (site/'sitemap.xml').read_text(encoding='utf-8')

def test_what_comes_from_npm_is_checked(tmp_path, monkeypatch):
    import docs
    monkeypatch.setattr(docs, 'CACHE', tmp_path)
    (tmp_path/'katex-0.16.11.tgz').write_bytes(b'something else')
    with pytest.raises(SystemExit, match='not what it should be'): docs.npm_package(*docs.KATEX)

def test_a_notebook_that_is_no_page_is_named(tmp_path, monkeypatch):
    import docs, nbformat
    monkeypatch.setattr(docs, 'NBS', tmp_path)
    def stops(cells, match):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/'14_new.ipynb')
        with pytest.raises(SystemExit, match=match): docs.check_pages()
    head = nbformat.v4.new_markdown_cell('# New\n> What it is about')
    stops([], 'first cell of 14_new')
    stops([nbformat.v4.new_markdown_cell('# New')], 'first cell of 14_new')
    stops([head], '14_new.*no badge')
    (tmp_path/'14_new.ipynb').write_text('{"cells": [')
    with pytest.raises(SystemExit, match='14_new.*cannot be read'): docs.check_pages()

def test_quarto_knows_every_key():
    from smalldocs.config import load
    known = [o for o in load(ROOT/'nbs').warnings if 'execute' not in o]
    assert not known

# in a browser -----------------------------------------------------------------------------------------------------

def test_pages_need_nothing_from_outside_and_fit_a_phone(browser, url, pages):
    from docs import KATEX
    from_npm(KATEX)                                     # without it the formulas do come from outside
    wrong = []
    for p in pages:
        page = visit(browser, url+p, viewport={'width': 390, 'height': 844})
        wrong += [f'{p} asks for {o}' for o in page.outside] + [f'{p}: {o}' for o in page.complaints]
        width = page.evaluate('document.documentElement.scrollWidth')
        if width>390: wrong.append(f'{p} is {width} pixels wide on a phone of 390: ' + page.evaluate(WIDE))
        wrong += [f'{p}: no alternative text for {o}' for o in page.evaluate("[...document.images].filter(o => !o.alt).map(o => o.src.slice(-60))")]
        page.context.close()
    assert not wrong, '\n'.join(wrong)

WIDE = """[...document.querySelectorAll('main *')].filter(o => o.getBoundingClientRect().right>391 && !o.closest('pre, .cell-output, .table-responsive'))
          .slice(0,3).map(o => o.tagName+'.'+o.className).join(' ')"""
RULES = ['color-contrast', 'heading-order', 'image-alt', 'link-name', 'button-name', 'document-title', 'html-has-lang', 'label', 'list', 'duplicate-id-aria']

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_everybody_can_read_it(browser, url, pages, scheme):
    axe = from_npm(AXE)
    wrong = []
    for p in pages:
        page = visit(browser, url+p, color_scheme=scheme, viewport={'width': 1280, 'height': 900})
        page.add_script_tag(path=axe/'axe.min.js')
        for v in page.evaluate('rules => axe.run({runOnly: {type: "rule", values: rules}}).then(r => r.violations)', RULES):
            wrong += [f'{p}: {v["id"]}: {n["html"][:120]} {n["any"][0]["message"][:150] if n["any"] else ""}' for n in v['nodes'][:3]]
        page.context.close()
    assert not wrong, '\n'.join(wrong)

def test_search_finds_and_the_colours_can_be_changed(browser, url):
    page = visit(browser, url+'learner.html', color_scheme='light', viewport={'width': 1280, 'height': 900})
    light = page.evaluate('getComputedStyle(document.body).backgroundColor')
    page.click('.quarto-color-scheme-toggle')
    page.wait_for_function('was => getComputedStyle(document.body).backgroundColor!=was', arg=light, timeout=5_000)
    page.fill('input[type=search]', 'callback')
    page.wait_for_selector('.smalldocs-search-results a', timeout=10_000)
    assert page.locator('.katex').count()>0 and not page.complaints
    page.context.close()

def test_a_folded_answer_opens(browser, url):
    page = visit(browser, url+'conv.html')
    answer = page.locator('details', has_text='Answer').first
    assert not answer.evaluate('o => o.open')
    answer.locator('summary').click()
    assert answer.evaluate('o => o.open')
    page.context.close()

def test_the_menu_of_a_phone_is_below_the_bar(browser, url):
    page = visit(browser, url+'learner.html', viewport={'width': 390, 'height': 844})
    page.click('.quarto-btn-toggle')
    page.wait_for_timeout(400)
    top = page.evaluate("document.querySelector('#quarto-sidebar a').getBoundingClientRect().top - document.querySelector('#quarto-header').getBoundingClientRect().bottom")
    assert top>=0
    assert page.evaluate("(o => o.scrollHeight<=o.clientHeight || getComputedStyle(o).overflowY=='auto')(document.querySelector('#quarto-sidebar'))")
    page.context.close()

def test_a_wrong_address_leads_to_a_page(browser, url):
    page = visit(browser, url+'miniai/api/nosuch.html', viewport={'width': 1280, 'height': 900})
    assert len(page.complaints)<=2 and all('404' in o for o in page.complaints), page.complaints       # that of the page itself
    page.click('#quarto-sidebar a[href$="learner.html"]')
    page.wait_for_url('**/miniai/learner.html')
    page.context.close()

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_can_be_read_without_scripts(browser, url, scheme):
    page = visit(browser, url+'learner.html', color_scheme=scheme, java_script_enabled=False)
    def light(what, css): return sum(map(int, re.findall(r'\d+', page.locator(what).first.evaluate(f'o => getComputedStyle(o).{css}'))[:3]))/3
    assert abs(light('main p', 'color')-light('body', 'backgroundColor'))>100
    assert abs(light('main pre code', 'color')-light('div.sourceCode', 'backgroundColor'))>100
    page.context.close()

@pytest.mark.parametrize('name', ['index', 'learner', 'resnet'])
def test_take_pictures(browser, url, name):
    SHOTS.mkdir(exist_ok=True)
    for scheme in ('light', 'dark'):
        for size,(w,h) in {'desktop': (1280, 900), 'phone': (390, 844)}.items():
            page = visit(browser, f'{url}{name}.html', color_scheme=scheme, viewport={'width': w, 'height': h})
            page.screenshot(path=SHOTS/f'{name}-{size}-{scheme}.png')
            page.context.close()
    assert len(list(SHOTS.glob(f'{name}-*.png')))==4
