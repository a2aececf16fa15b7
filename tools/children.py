"""Processes that tests and tools start: each has a time limit, and none outlives its parent

`ruff.toml` lets nothing in tests/ start one otherwise.
"""

import os, shutil, signal, subprocess, sys, time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 1800  # seconds: a busy machine takes many times what a quiet one does
# Linux ends it with the process that started it, even if that is killed
WITH_PARENT = (
    ['setpriv', '--pdeathsig', 'KILL', '--'] if shutil.which('setpriv') else []
)


def popen(cmd, **kw):
    "A process in a group of its own, which `end` ends"
    cmd = [*WITH_PARENT, *map(str, cmd)]
    return subprocess.Popen(cmd, start_new_session=True, text=True, **kw)


@contextmanager
def start(cmd, **kw):
    "A process in a group of its own; with the end of the block all of that group ends"
    with popen(cmd, **kw) as p:
        try:
            yield p
        finally:
            end(p)


def end(p):
    "End the process `p` politely, and then kill what is left of its group"
    if p.poll() is None:
        p.terminate()
        with suppress(subprocess.TimeoutExpired):
            p.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(p.pid, signal.SIGKILL) if hasattr(os, 'killpg') else p.kill()


def run(cmd, check=False, timeout=LIMIT, **kw):
    "How a process ended and what it printed; with `check` it has to end well"
    with start(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw) as p:
        out, err = p.communicate(timeout=timeout)
    assert not check or p.returncode == 0, f'{cmd}: {p.returncode}\n{out}{err}'
    return subprocess.CompletedProcess(cmd, p.returncode, out, err)


def python(code, *args, cwd=ROOT, **kw):
    "Run `code` in a new Python and return what it did"
    return run([sys.executable, '-c', code, *args], cwd=cwd, **kw)


def until(happened, p=None, timeout=LIMIT):
    "Wait until `happened()` is true, or the process `p` has ended; fail when time is up"
    end = time.monotonic() + timeout
    while not (res := happened()) and (p is None or p.poll() is None):
        assert time.monotonic() < end, 'It did not happen'
        time.sleep(0.005)
    return res
