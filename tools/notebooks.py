#!/usr/bin/env python3
"""Work on the notebooks, the source of the package, of the README and of the site.

    python tools/notebooks.py check             exported, clean, README up to date?
                                                names every file that is not
    python tools/notebooks.py run [PAGE …]      run each page in a fresh kernel and
                                                save its outputs
    python tools/notebooks.py readme            write README.md from nbs/index.ipynb

PAGE is a name such as 03_learner; without one, all of them. To run pages and save nothing:
pytest tests/test_pages.py -k 03_learner
"""

import argparse, base64, filecmp, os, re, shutil, sys, tempfile, time
from pathlib import Path

import nbformat

import children
from children import ROOT

NBS = ROOT / 'nbs'


def pages(names):
    "The paths of the pages called `names`, or of all"
    if not names:
        return sorted(NBS.glob('*.ipynb'))
    paths = [NBS / f'{Path(o).stem}.ipynb' for o in names]
    for p in paths:
        if not p.exists():
            sys.exit(
                f'There is no page {p.stem}; the pages are: '
                f'{", ".join(o.stem for o in pages([]))}'
            )
    return paths


# run ----------------------------------------------------------------------------------


def run(paths):
    "Execute each page in a fresh kernel and save its outputs"
    from nbclient import NotebookClient
    from nbdev.clean import nbdev_clean

    os.environ['PYTHONWARNINGS'] = (
        'ignore:IProgress not found'  # tqdm's, where ipywidgets is missing
    )
    for p in paths:
        start, nb = time.perf_counter(), nbformat.read(p, 4)
        NotebookClient(
            nb,
            timeout=3600,
            kernel_name='python3',
            coalesce_streams=True,
            resources={'metadata': {'path': str(NBS)}},
        ).execute()
        nb.metadata = {'kernelspec': nb.metadata['kernelspec']}
        nbformat.write(nb, p)
        nbdev_clean(fname=str(p))
        print(f'{p.stem}: {time.perf_counter() - start:.0f} s', flush=True)


# check --------------------------------------------------------------------------------


def differences(a, b, pattern):
    "The files matching `pattern` that are not the same in folders `a` and `b`"
    names = {
        p.relative_to(d)
        for d in (a, b)
        for p in d.rglob(pattern)
        if '.ipynb_checkpoints' not in p.parts
    }
    return sorted(
        str(n)
        for n in names
        if not (
            (a / n).exists()
            and (b / n).exists()
            and filecmp.cmp(a / n, b / n, shallow=False)
        )
    )


def check():
    "Export and clean a copy of the project; complain about every file that differs"
    complaints = []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for o in ('nbs', 'miniai'):
            shutil.copytree(
                ROOT / o,
                tmp / o,
                symlinks=True,
                ignore=shutil.ignore_patterns(
                    'data', '__pycache__', '.ipynb_checkpoints'
                ),
            )
        for o in ('settings.ini', '_quarto.yml'):
            shutil.copy(ROOT / o, tmp / o)
        for o in (tmp / 'miniai').glob('*.py'):
            if o.name not in ('__init__.py', 'all.py'):
                o.unlink()
        code = (
            'from nbdev.doclinks import nbdev_export; '
            'from nbdev.clean import nbdev_clean; '
            'nbdev_export(); nbdev_clean()'
        )
        env = {**os.environ, 'PYTHONPATH': str(tmp)}
        children.python(code, cwd=tmp, check=True, env=env)
        for o in differences(ROOT / 'miniai', tmp / 'miniai', '*.py'):
            complaints.append(
                f'miniai/{o} is not what the notebooks export: run nbdev_export'
                if (tmp / 'miniai' / o).exists()
                else f'miniai/{o} is exported by no notebook: delete it'
            )
        for o in differences(NBS, tmp / 'nbs', '*.ipynb'):
            complaints.append(f'nbs/{o} is not clean: run nbdev_clean')
    text, images = readme()
    made = {'README.md': text.encode(), **images}
    if any(
        not (ROOT / o).exists() or (ROOT / o).read_bytes() != data
        for o, data in made.items()
    ):
        complaints.append(
            'README.md or a picture in it is not made from nbs/index.ipynb: '
            'run python tools/notebooks.py readme'
        )
    if complaints:
        sys.exit('\n'.join(complaints))
    print('The notebooks are clean, and miniai/ and README.md are what they make.')


# README -------------------------------------------------------------------------------


def as_markdown(output, alt, images):
    "One saved output of a cell as Markdown; a picture's bytes go to `images`, by path"
    if output.output_type == 'stream':
        return f'```\n{output.text.rstrip()}\n```'
    data = output.get('data', {})
    if 'text/markdown' in data:
        return data['text/markdown'].rstrip()
    if 'image/png' not in data:
        return f'```\n{data["text/plain"]}\n```' if 'text/plain' in data else ''
    path = f'nbs/images/index_{len(images) + 1}.png'
    images[path] = base64.b64decode(data['image/png'])
    return f'![{alt}]({path})'


def readme():
    """README.md as a string, and its pictures, a dict from paths to bytes.

    It is the prose of the index page, its shown code and its outputs."""
    parts, images = [], {}
    for c in nbformat.read(NBS / 'index.ipynb', 4).cells:
        flags = re.findall(r'^#\| *(\S+)', c.source, re.M)
        if 'hide' in flags:
            continue
        if c.cell_type == 'markdown':
            parts.append(c.source)
        elif c.cell_type == 'code':
            src = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            if src and 'echo:' not in flags:
                parts.append(f'```python\n{src}\n```')
            alt = re.search(r'^#\| *fig-alt: *(.*)', c.source, re.M)
            parts += [
                o
                for o in (
                    as_markdown(o, alt[1] if alt else '', images) for o in c.outputs
                )
                if o
            ]
    text = re.sub(r'\]\((\w+\.ipynb)', r'](nbs/\1', '\n\n'.join(parts))
    return (
        '<!-- Made from nbs/index.ipynb by tools/notebooks.py: change it there. -->'
        f'\n\n{text}\n',
        images,
    )


def write_readme():
    "Write README.md and its pictures"
    text, images = readme()
    (ROOT / 'README.md').write_text(text, encoding='utf-8')
    for path, data in images.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_bytes(data)


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('what', choices=['check', 'run', 'readme'])
    p.add_argument('page', nargs='*')
    args = p.parse_args()
    if args.what == 'check':
        check()
    elif args.what == 'readme':
        write_readme()
    else:
        run(pages(args.page))
