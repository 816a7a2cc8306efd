#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds and runs all stages of scripts/test; see there.

Every test gives one line, every failure its whole log, the last line of which says why. In the end the
failures are listed again, each with that line, and the last line of all is
`N passed, M failed, K skipped`.
"""

import argparse
import collections
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'iotests'))

from wharf import runner, switch, tools, transport  # noqa: E402

JOBS = max(2, os.cpu_count() or 2)
BUILD_TIMEOUT = 900
FUZZ_SECONDS = 20

# Tests that keep all threads busy.
UNDER_LOAD = ['test_fuse_lifecycle', 'test_faults.ChangesUnderLoad']

SANITIZER_ENV = {
    'ASAN_OPTIONS': 'detect_leaks=1:detect_stack_use_after_return=0:abort_on_error=0:exitcode=66',
    'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
    'TSAN_OPTIONS': 'second_deadlock_stack=1:exitcode=66:atexit_sleep_ms=0',
    'G_SLICE': 'always-malloc',
}

# Build directory and options of each kind of build.
Build = collections.namedtuple('Build', 'directory compiler options')
BUILDS = {
    'normal': Build('build', 'gcc', []),
    'asan': Build('build-asan', 'gcc', ['-Db_sanitize=address,undefined', '-Db_lundef=false']),
    'tsan': Build('build-tsan', 'gcc', ['-Db_sanitize=thread', '-Db_lundef=false']),
    'fuzz': Build('build-fuzz', 'clang-14',
                  ['-Dfuzz=true', '-Db_sanitize=address,undefined', '-Db_lundef=false',
                   '-Dc_args=-fsanitize=fuzzer-no-link']),
}


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []
        self.lock = threading.Lock()

    def add(self, outcome, name, detail='', seconds=None):
        """Count and print one test; detail is the reason of a skip or the log of a failure.

        OUT is a test that makes no sense in this stage: shown with its reason, and not counted.
        """
        with self.lock:
            line = f'{outcome} {name}' + ('' if seconds is None else f' {seconds:.1f}s')
            if outcome == 'PASS':
                self.passed += 1
            elif outcome in ('SKIP', 'OUT'):
                self.skipped += outcome == 'SKIP'
                line += f' ({detail})' if detail else ''
            else:
                self.failed += 1
                self.failures.append(f'{name}: {runner.why(detail)}')
                line += ''.join(f'\n    {text}' for text in detail.splitlines())
            print(line, flush=True)


totals = Totals()


def with_status(output, status):
    """The log of a program that failed: its output, and a last line that says how."""
    return f'{output}\nended with {status}: {tools.complaint(output) or runner.why(output)}'


def run_logged(command, timeout, env=None):
    """Run a command; return (status, output). A status of None stands for a timeout."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True,
                               env={**os.environ, **(env or {})})
    try:
        output, _ = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        where = tools.stacks(process.pid)
        tools.kill_group(process.pid)
        output, _ = process.communicate()
        output += f'\n{where}\nno end within {timeout} s'.encode()
        status = None
    return status, output.decode(errors='replace')


def in_parallel(function, items):
    """Call the function for each item, JOBS at a time. What it raises counts as a failure."""
    waiting = collections.deque(items)

    def work():
        while True:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                function(item)
            except Exception:
                totals.add('FAIL', f'{item}', traceback.format_exc())

    threads = [threading.Thread(target=work) for _ in range(JOBS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Building


_built = {}


def configure(kind):
    """Set a build directory up; True where that worked."""
    build = BUILDS[kind]
    compiler = f'ccache {build.compiler}' if shutil.which('ccache') else build.compiler
    # An old directory learns here what has changed in the meson.build files.
    command = ['ninja', '-C', build.directory, 'build.ninja']
    status = 1
    if os.path.exists(os.path.join(ROOT, build.directory, 'build.ninja')):
        status, output = run_logged(command, BUILD_TIMEOUT)
    if status != 0:
        shutil.rmtree(os.path.join(ROOT, build.directory), ignore_errors=True)
        command = ['meson', 'setup', build.directory, *build.options]
        status, output = run_logged(command, BUILD_TIMEOUT, {'CC': compiler})
    if status != 0:
        totals.add('FAIL', f'configure {build.directory}', output)
    return status == 0


def introspect(kind, what):
    output = subprocess.run(['meson', 'introspect', what, BUILDS[kind].directory], cwd=ROOT,
                            stdout=subprocess.PIPE, check=True).stdout
    return json.loads(output)


def compile_targets(kind, targets=()):
    """Build these targets (paths inside the build directory; default: all)."""
    directory = BUILDS[kind].directory
    begun = time.monotonic()
    status, output = run_logged(['ninja', '-C', directory, f'-j{JOBS}', *targets], BUILD_TIMEOUT)
    if status != 0:
        totals.add('FAIL', f'build {directory}', output)
        return False
    print(f'built {directory} in {time.monotonic() - begun:.0f}s', flush=True)
    return True


def build(kind, wanted):
    """Build what a stage wants of a kind: 'all', 'daemon', or a suite of tests. Done once each."""
    key = (kind, wanted)
    if key not in _built:
        _built[key] = configure(kind) and compile_targets(kind, _targets(kind, wanted))
    return _built[key]


def _targets(kind, wanted):
    base = os.path.join(ROOT, BUILDS[kind].directory)
    if wanted == 'all':
        return ()
    if wanted == 'daemon':
        names = ['wharfd', 'wharfctl', 'wharfd-lose-entry'] + ['fuse-probe'] * (kind == 'normal')
        paths = [t['filename'][0] for t in introspect(kind, '--targets') if t['name'] in names]
    elif wanted == 'fuzz':
        paths = fuzz_programs()
    else:
        paths = [test['cmd'][0] for test in tests_of(kind, wanted)]
    # A test may be a script, which is not built.
    return sorted({os.path.relpath(path, base) for path in paths if path.startswith(base + os.sep)})


# Unit tests


def tests_of(kind, suite):
    return [test for test in introspect(kind, '--tests')
            if any(s.rpartition(':')[2] == suite for s in test['suite'])]


def judge_unit(label, status, output):
    """Count what a TAP program said about its tests; the program itself counts where it broke."""
    told_failure = False
    for line in output.splitlines():
        match = re.match(r'(ok|not ok) \d+ (\S+)(.*)', line)
        if not match:
            continue
        name = f'{label} {match.group(2)}'
        skip = re.search(r'# SKIP ?(.*)', match.group(3), re.IGNORECASE)
        if skip:
            totals.add('SKIP', name, skip.group(1))
        elif match.group(1) == 'ok':
            totals.add('PASS', name)
        else:
            told_failure = True
            totals.add('FAIL', name, f'{output}\n{line}')
    if status == 77:
        totals.add('SKIP', label, 'by its own word')
    elif status != 0 and not told_failure:
        totals.add('FAIL', label, with_status(output, status))
    elif '\n1..' not in '\n' + output:
        totals.add('FAIL', label, f'{output}\nran no test')


def run_unit(prefix, test):
    label = f'{prefix} {test["name"]}'
    begun = time.monotonic()
    status, output = run_logged(test['cmd'], test['timeout'] * 2, test['env'])
    if test['protocol'] == 'tap':
        judge_unit(label, status, output)
    elif status == 0:
        totals.add('PASS', label, seconds=time.monotonic() - begun)
    else:
        totals.add('FAIL', label, with_status(output, status))


def unit_stage(kind, suite, prefix):
    if not build(kind, suite):
        return
    tests = tests_of(kind, suite)
    if not tests:
        totals.add('FAIL', prefix, 'no tests there')
    in_parallel(lambda test: run_unit(prefix, test), tests)


# The other stages


def choose_build(kind):
    """Have iotests run with the daemon of this build."""
    base = os.path.join(ROOT, BUILDS[kind].directory)
    os.environ['WHARFD'] = os.path.join(base, 'daemon', 'wharfd')
    os.environ['WHARFCTL'] = os.path.join(base, 'ctl', 'wharfctl')
    os.environ['WHARF_BUILD'] = kind


def iotests_stage(kind, prefix, over, patterns=()):
    """The iotests with a build, FUSE exports over one transport."""
    if over == transport.IO_URING and transport.why_no_uring():
        totals.add('SKIP', prefix, transport.why_no_uring())
        return
    if not build(kind, 'daemon'):
        return
    choose_build(kind)
    os.environ['WHARF_FUSE_TRANSPORT'] = over
    directory = os.path.join(ROOT, 'tests', 'iotests')
    files = sorted(os.path.join(directory, name) for name in os.listdir(directory)
                   if name.startswith('test_') and name.endswith('.py'))
    runner.run_files(files, patterns=patterns, jobs=2, base=os.environ['TMPDIR'],
                     report=lambda outcome, name, seconds, detail:
                     totals.add(outcome, f'{prefix} {name}', detail, seconds))


def fuzz_programs():
    return [target['filename'][0] for target in introspect('fuzz', '--targets')
            if target['name'].startswith('fuzz-') and target['type'] == 'executable']


def fuzz_one(program):
    """A short run from the committed corpus, always with the same seed."""
    name = os.path.basename(program)
    corpus = os.path.join(ROOT, 'tests', 'fuzz', 'corpus', name.removeprefix('fuzz-'))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=name) as work:
        command = [program, '-seed=1', f'-max_total_time={FUZZ_SECONDS}', '-timeout=20', '-max_len=65536',
                   '-rss_limit_mb=3072', f'-artifact_prefix={work}/crash-', '-print_final_stats=1', work]
        if os.path.isdir(corpus):
            command.append(corpus)
        status, output = run_logged(command, FUZZ_SECONDS * 4 + 60)
        for entry in sorted(os.listdir(work)):
            if entry.startswith('crash-'):
                with open(os.path.join(work, entry), 'rb') as f:
                    output += f'\n{entry}: {f.read()!r}'
    if status == 0:
        totals.add('PASS', f'fuzz {name}', seconds=time.monotonic() - begun)
    else:
        totals.add('FAIL', f'fuzz {name}', with_status(output, status))


def fuzz_stage():
    if not configure('fuzz'):
        return
    programs = fuzz_programs()
    if not programs:
        totals.add('SKIP', 'fuzz', 'no targets')
        return
    if not build('fuzz', 'fuzz'):
        return
    in_parallel(fuzz_one, programs)


def lint_stage():
    """scripts/lint gives lines of its own, the log of a failure below each, indented."""
    if not build('normal', 'all'):
        return
    status, output = run_logged(['scripts/lint'], BUILD_TIMEOUT)
    found = []
    for line in output.splitlines():
        match = re.match(r'(PASS|FAIL|SKIP) (.*)', line)
        if match:
            found.append([match.group(1), match.group(2), []])
        elif found:
            found[-1][2].append(line.strip() if found[-1][0] == 'SKIP' else line)
    for outcome, name, detail in found:
        totals.add(outcome, f'lint {name}', '\n'.join(detail))
    if status != 0 and not any(outcome == 'FAIL' for outcome, _, _ in found):
        totals.add('FAIL', 'lint', with_status(output, status))


STAGES = {
    'unit': (lambda: unit_stage('normal', 'unit', 'unit'), 'unit tests'),
    'iotests': (lambda: iotests_stage('normal', 'iotests', transport.DEV),
                'tests against a running daemon'),
    'iotests-uring': (lambda: iotests_stage('normal', 'iotests-uring', transport.IO_URING),
                      'tests of FUSE exports, over io_uring'),
    'lint': (lint_stage, 'static checks (scripts/lint)'),
    'unit-asan': (lambda: unit_stage('asan', 'unit', 'unit-asan'),
                  'unit tests under AddressSanitizer and UBSan'),
    'iotests-asan': (lambda: iotests_stage('asan', 'iotests-asan', transport.DEV),
                     'tests against a daemon under AddressSanitizer and UBSan'),
    'iotests-uring-asan': (lambda: iotests_stage('asan', 'iotests-uring-asan', transport.IO_URING),
                           'tests of FUSE exports, over io_uring, under AddressSanitizer and UBSan'),
    'unit-tsan': (lambda: unit_stage('tsan', 'threads', 'unit-tsan'),
                  'unit tests with threads under ThreadSanitizer'),
    'iotests-tsan': (lambda: iotests_stage('tsan', 'iotests-tsan', transport.DEV, ['test_soak']),
                     'the soak test under ThreadSanitizer'),
    'iotests-uring-tsan': (lambda: iotests_stage('tsan', 'iotests-uring-tsan', transport.IO_URING, UNDER_LOAD),
                           'FUSE exports under load, over io_uring, under ThreadSanitizer'),
    'fuzz': (fuzz_stage, 'a short run of each fuzz target'),
}


def without_aslr():
    """Sanitizers of this age cannot stand the address space randomness of newer kernels."""
    addr_no_randomize = 0x0040000
    ctypes.CDLL(None).personality(addr_no_randomize)


def parse_args():
    text = '\n'.join(f'  {name:18} {what}' for name, (_, what) in STAGES.items())
    parser = argparse.ArgumentParser(
        prog='scripts/test', epilog='stages:\n' + text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Install what is needed, build, and run all tests or only some stages.')
    parser.add_argument('stage', nargs='*', help='what to run, in this order (default: all)')
    options = parser.parse_args()
    for name in options.stage:
        if name not in STAGES:
            parser.error(f'no stage {name}; there are: {", ".join(STAGES)}')
    return options


def run_stage(name):
    begun = time.monotonic()
    print(f'== {name}: {STAGES[name][1]}', flush=True)
    try:
        STAGES[name][0]()
    except Exception:
        totals.add('FAIL', name, traceback.format_exc())
    print(f'== {name} took {time.monotonic() - begun:.0f}s', flush=True)


def main():
    options = parse_args()
    mark = uuid.uuid4().hex
    directory = os.path.realpath(tempfile.mkdtemp(prefix='wharf-'))
    os.chmod(directory, 0o755)
    os.environ.update({tools.MARK: mark, 'TMPDIR': directory, **SANITIZER_ENV})
    tempfile.tempdir = directory
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, _: sys.exit(128 + number))
    without_aslr()
    status = 1
    try:
        with switch.fair_scheduling():
            for name in options.stage or STAGES:
                run_stage(name)
        status = 1 if totals.failed or not totals.passed else 0
    except SystemExit:
        print('interrupted', flush=True)
        totals.failed += 1
        raise
    finally:
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)
        tools.clean_up(directory, mark)
        shutil.rmtree(directory, ignore_errors=True)
        for name in totals.failures:
            print(f'failed: {name}')
        print(f'{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped', flush=True)
    sys.exit(status)


if __name__ == '__main__':
    main()
