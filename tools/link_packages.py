#!/usr/bin/env python3
"""Put packages of this environment, with all they depend on, into another one.

Without downloading or copying them:

    .venv/bin/python tools/link_packages.py OTHER/bin/python torch torchvision numpy

Files are hard links (copies, where the two are on different disks), so the other
environment can be deleted, and its pip can replace a package, without harm to this one.
Programs in bin/ are left out.
"""

import argparse, os, re, shutil, subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def closure(names):
    """The distributions called `names` and all that they need here.

    Also by way of extras such as `cuda-toolkit[cublas]`."""
    todo, found, done = [Requirement(o) for o in names], {}, set()
    while todo:
        req = todo.pop()
        nm = re.sub(r'[-_.]+', '-', req.name).lower()
        if (nm, *sorted(req.extras)) in done:
            continue
        done.add((nm, *sorted(req.extras)))
        try:
            found[nm] = distribution(nm)
        except PackageNotFoundError:
            if req.name in names:
                raise SystemExit(f'{nm} is not installed here') from None
            continue
        needs = [Requirement(o) for o in found[nm].requires or []]
        todo += [
            o
            for o in needs
            if o.marker is None
            or any(o.marker.evaluate({'extra': e}) for e in ('', *req.extras))
        ]
    return found


def link(dist, site):
    "Link the files of `dist` into the folder `site`; how many there are"
    n = 0
    for f in dist.files or []:
        if '..' in f.parts or '__pycache__' in f.parts:
            continue
        src, dst = Path(dist.locate_file(f)), site / f
        if not src.exists() or dst.exists():
            continue
        dst.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(src.resolve(), dst)
        except OSError:
            shutil.copy2(src, dst)
        n += 1
    return n


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('python', help='the Python of the other environment')
    p.add_argument('package', nargs='+', help='distributions that are installed here')
    args = p.parse_args()
    site = Path(
        subprocess.run(
            [
                args.python,
                '-c',
                'import sysconfig; print(sysconfig.get_path("purelib"))',
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    dists = closure(args.package)
    files = sum(link(o, site) for o in dists.values())
    print(f'{len(dists)} packages, {files} files: {", ".join(sorted(dists))}')
