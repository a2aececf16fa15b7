"What tests start ends with them, and which tests belong to a page"

import os, signal, subprocess, sys
from pathlib import Path

import children
import pytest
from children import ROOT

SLEEP = [sys.executable, '-c', 'import time; time.sleep(600)']


def ended(pid):
    "Is the process gone, or at least dead?"
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return True
    return stat.rsplit(')', 1)[1].split()[0] == 'Z'


linux = pytest.mark.skipif(sys.platform != 'linux', reason='as Linux does it')


@linux
def test_what_takes_too_long_is_ended_with_all_that_it_started():
    code = (
        'import subprocess, sys, time\n'
        f'p = subprocess.Popen({SLEEP})\n'
        'print(p.pid, flush=True); time.sleep(600)'
    )
    with children.start([sys.executable, '-c', code], stdout=subprocess.PIPE) as p:
        pid = int(p.stdout.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            p.communicate(timeout=0.01)
        assert not ended(p.pid) and not ended(pid)
    children.until(lambda: ended(pid))
    assert p.poll() is not None


@linux
def test_a_process_ends_with_its_parent_even_if_that_is_killed():
    code = f'import children; print(children.popen({SLEEP}).pid, flush=True); input()'
    cmd, pipes = [sys.executable, '-c', code], dict.fromkeys(('stdin', 'stdout'), -1)
    env = {**os.environ, 'PYTHONPATH': str(ROOT / 'tools')}
    with children.start(cmd, env=env, **pipes) as p:
        pid = int(p.stdout.readline())
        assert not ended(pid)
        p.send_signal(signal.SIGKILL)
        children.until(lambda: ended(pid))


def test_the_linter_knows_who_starts_processes_otherwise():
    ruff = Path(sys.executable).parent / 'ruff'
    check = [ruff, 'check', '--output-format', 'concise', '--stdin-filename']
    code = 'import os, subprocess\n\nsubprocess.run([])\nsubprocess.call([])\nos.system("")\n'
    for name, found in (('tests/test_x.py', 3), ('benchmarks/x.py', 0)):
        with children.start(
            [*check, name, '-'], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as p:
            said, _ = p.communicate(code, children.LIMIT)
        assert said.count('TID251') == found, said


@pytest.mark.slow
def test_a_page_has_its_run_and_the_quick_tests_of_its_module():
    cmd = [sys.executable, '-m', 'pytest', 'tests', '--collect-only', '-qq', '--page']
    said = children.run([*cmd, '02_conv'], cwd=ROOT).stdout
    files = {o.split(':')[0] for o in said.splitlines() if ':' in o}
    assert {'test_pages.py', 'test_learner.py', 'test_xtras.py'} <= {
        Path(o).name for o in files
    }
    assert 'test_security' not in said and 'test_site' not in said
