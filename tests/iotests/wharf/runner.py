# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs test files in parallel, one line a test, with a timeout for each that nothing survives.

Each file runs in a child that reports over a pipe. When a test takes too long, the stacks of all its
processes are shown, everything it started is killed and unmounted, and a new child goes on with the
tests that are left.
"""

import argparse
import glob
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
import uuid

from . import switch, tools, transport

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_RUN = os.path.join(_HERE, 'run')
_DEFAULT_TIMEOUT = 120
_LOAD_TIMEOUT = 60
_WHY_LENGTH = 200


def why(detail):
    """The last line of a failure's log, which is to say why it failed, cut to what fits a summary."""
    return (detail.strip().splitlines() or ['no word'])[-1].strip()[:_WHY_LENGTH]


def _first_line(error):
    """What an exception says, without the logs that may follow; where it says nothing, what raised it."""
    text = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    if not str(error) and frames:
        text += f': {frames[-1].line}'
    return text[:_WHY_LENGTH]


# The child


class _Reporter(unittest.TestResult):
    """Tells the parent how each test went."""

    def __init__(self, fd):
        super().__init__()
        self._fd = fd
        self._told = False
        self._begun = 0.0

    def _tell(self, **message):
        os.write(self._fd, json.dumps(message).encode() + b'\n')

    def _end(self, outcome, detail='', reason=''):
        self._told = True
        self._tell(what='end', outcome=outcome, detail=detail, reason=reason,
                   seconds=time.monotonic() - self._begun)

    def leave_out(self, test, reason):
        self._tell(what='out', name=test.id(), reason=reason)

    def startTest(self, test):
        super().startTest(test)
        self._told = False
        self._begun = time.monotonic()
        method = getattr(test, test._testMethodName)
        self._tell(what='start', name=test.id(),
                   timeout=getattr(method, 'wharf_timeout', _DEFAULT_TIMEOUT))

    def stopTest(self, test):
        if not self._told:
            self._end('PASS')
        super().stopTest(test)

    def addError(self, test, err):
        self._fail(test, err)

    def addFailure(self, test, err):
        self._fail(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            print(f'--- subtest {subtest.id()}', file=sys.stderr)
            self._fail(test, err)

    def _fail(self, test, err):
        text = self._exc_info_to_string(err, test)
        reason = _first_line(err[1])
        if self._told:  # a second failure, in the cleanup
            print(text, file=sys.stderr)
            self._tell(what='more', detail=text, reason=reason)
        elif hasattr(test, '_testMethodName'):
            self._end('FAIL', text, reason)
        else:  # setUpClass or the like
            self._tell(what='start', name=test.id(), timeout=_DEFAULT_TIMEOUT)
            self._end('FAIL', text, reason)
            self._told = False

    def addSkip(self, test, reason):
        if not hasattr(test, '_testMethodName'):
            self._tell(what='start', name=test.id(), timeout=_DEFAULT_TIMEOUT)
        self._end('SKIP', reason)


def _flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def _load(path):
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def _marks(test, name):
    """What decorators have said under this name about the test and its class."""
    marked = (test, getattr(test, test._testMethodName, None))
    return [getattr(item, name) for item in marked if hasattr(item, name)]


def _belongs_to_build(test):
    """Whether the test is for the build that is under test."""
    return (os.environ.get('WHARF_BUILD', 'normal') == 'normal'
            or not _marks(test, 'wharf_normal_build_only'))


def _belongs_to_transport(test):
    """Whether the test says anything about the transport that is under test."""
    return transport.wanted() != transport.IO_URING or _marks(test, 'wharf_fuse_test')


def _why_left_out(test):
    """Why the test makes no sense on the transport that is under test, or None."""
    for reasons in _marks(test, 'wharf_not_over'):
        if transport.wanted() in reasons:
            return reasons[transport.wanted()]
    return None


def child_main(path, report_fd, patterns):
    """Run one file's tests, but for the names read from stdin (done already)."""
    done = set(json.loads(sys.stdin.read()))
    reporter = _Reporter(report_fd)
    chosen = [test for test in _flatten(_load(path))
              if test.id() not in done and _belongs_to_build(test) and _belongs_to_transport(test)
              and (not patterns or any(p in test.id() for p in patterns))]
    for test in chosen:
        if _why_left_out(test) and not done:
            reporter.leave_out(test, _why_left_out(test))
    unittest.TestSuite(test for test in chosen if not _why_left_out(test)).run(reporter)
    os.write(report_fd, b'{"what": "done"}\n')
    return 0


# The parent


class _File:
    """A test file: its child, its progress and its output."""

    def __init__(self, path, base, patterns):
        self.path = path
        self.patterns = patterns
        self.done = []
        self.finished = False
        self._base = base
        self._buffer = b''
        self._current = None
        self._deadline = 0.0
        self._start()

    def _start(self):
        self.mark = uuid.uuid4().hex
        self.dir = tempfile.mkdtemp(prefix='f', dir=self._base)
        os.chmod(self.dir, 0o755)
        self._output = open(os.path.join(self.dir, 'output'), 'a+b')
        self.fd, report = os.pipe()
        self.child = subprocess.Popen(
            [sys.executable, _RUN, '--child', self.path, '--report-fd', str(report), *self.patterns],
            stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, pass_fds=[report],
            start_new_session=True,
            # Tests read what programs say, which is to be the same in every country.
            env={**os.environ, tools.MARK: self.mark, 'WHARF_TEST_DIR': self.dir,
                 'TMPDIR': self.dir, 'PYTHONDONTWRITEBYTECODE': '1', 'LC_ALL': 'C.UTF-8'})
        os.close(report)
        self.child.stdin.write(json.dumps(self.done).encode())
        self.child.stdin.close()
        self._deadline = time.monotonic() + _LOAD_TIMEOUT
        self._buffer = b''
        self._current = None
        self._timeout = ''
        self._ended = False

    def _take_output(self):
        self._output.seek(0)
        text = self._output.read().decode(errors='replace')
        self._output.seek(0)
        self._output.truncate()
        return text

    def read(self):
        """Handle what the child reports. Yields (outcome, name, seconds, detail)."""
        data = os.read(self.fd, 1 << 16)
        if not data:
            yield from self._child_ended()
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b'\n')
        for line in lines:
            yield from self._handle(json.loads(line))

    def _handle(self, message):
        if message['what'] == 'start':
            yield from self._flush()
            self._current = {'name': message['name'], 'begun': time.monotonic()}
            self._deadline = time.monotonic() + message['timeout']
        elif message['what'] == 'out':
            yield 'OUT', message['name'], 0.0, message['reason']
        elif message['what'] == 'end':
            self._current.update(message)
        elif message['what'] == 'more':
            self._current['outcome'] = 'FAIL'
            self._current['detail'] = self._current.get('detail', '') + message['detail']
            self._current['reason'] = self._current.get('reason') or message['reason']
        elif message['what'] == 'done':
            yield from self._flush()
            self._ended = True

    def _flush(self):
        """Tell how the current test went; only now, for its cleanup may have failed, too."""
        current, self._current = self._current, None
        if current is None:
            return
        self.done.append(current['name'])
        output = self._take_output()
        detail = current.get('detail', '')
        outcome = current.get('outcome', 'FAIL')
        if outcome == 'FAIL':
            detail = f'{output}{detail}\n{current["reason"]}\n'
        yield outcome, current['name'], time.monotonic() - current['begun'], detail

    def _child_ended(self):
        status = self.child.wait()
        os.close(self.fd)
        if self._current is not None:
            self._current['outcome'] = 'FAIL'
            self._current['reason'] = self._timeout or f'the test process died with {status}'
            yield from self._flush()
            again = True
        else:
            again = False
            if status != 0 or not self._ended:
                name = os.path.basename(self.path)
                yield 'FAIL', name, 0.0, f'{self._take_output()}\nthe test process died with {status}\n'
        left = self._clean()
        if left and not again:
            yield 'FAIL', os.path.basename(self.path), 0.0, f'left processes that cannot be killed: {left}\n'
        if again:
            self._start()
        else:
            self.finished = True

    def _clean(self):
        left = tools.clean_up(self.dir, self.mark)
        self._output.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        return left

    def check_deadline(self):
        """Whether the current test takes too long; if so show where and kill it all."""
        if time.monotonic() < self._deadline:
            return
        text = f'TIMEOUT, all that it started is killed\n{tools.tasks_at_work()}\n'
        for pid in tools.marked_processes(self.mark):
            try:
                with open(f'/proc/{pid}/cmdline', 'rb') as f:
                    command = f.read().replace(b'\0', b' ').decode(errors='replace')
            except OSError:
                continue
            text += f'--- process {pid}: {command}\n'
            if 'wharfd' in command:
                text += tools.stacks(pid)
        for path in sorted(glob.glob(os.path.join(self.dir, '*', '*.log'))):
            with open(path, encoding='utf-8', errors='replace') as f:
                text += f'--- {os.path.basename(path)}\n{f.read()}'
        self.abort()
        if self._current is None:
            self._current = {'name': os.path.basename(self.path), 'begun': time.monotonic()}
        with open(os.path.join(self.dir, 'output'), 'ab') as f:
            f.write(text.encode())
        self._timeout = f'TIMEOUT after {time.monotonic() - self._current["begun"]:.0f} s'
        self._deadline = time.monotonic() + _LOAD_TIMEOUT

    def abort(self):
        """Kill the child and all that belongs to it; the end of its pipe tells the rest."""
        tools.kill_marked(self.mark)


class Totals:
    def __init__(self):
        self.counts = {'PASS': 0, 'FAIL': 0, 'SKIP': 0, 'OUT': 0}
        self.failed = []

    def add(self, outcome, name, seconds, detail):
        self.counts[outcome] += 1
        line = f'{outcome} {name} {seconds:.1f}s'
        if outcome in ('SKIP', 'OUT'):
            line += f' ({detail})'
        print(line, flush=True)
        if outcome == 'FAIL':
            self.failed.append(f'{name}: {why(detail)}')
            print('\n'.join('    ' + text for text in detail.splitlines()), flush=True)


def run_files(paths, report, patterns=(), jobs=2, base=None):
    """Run the files, jobs at a time; calls report(outcome, name, seconds, detail) for each test.

    Outcomes are PASS, FAIL with a log whose last line says why, SKIP with a reason where something is
    missing, and OUT with a reason where the test makes no sense on the transport that is under test.
    """
    directory = tempfile.mkdtemp(prefix='wharf-io-', dir=base)
    os.chmod(directory, 0o755)
    waiting = list(paths)
    running = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_File(waiting.pop(0), directory, list(patterns)))
            ready, _, _ = select.select([f.fd for f in running], [], [], 1.0)
            for file in running:
                if file.fd in ready:
                    for result in file.read():
                        report(*result)
                else:
                    file.check_deadline()
            running = [f for f in running if not f.finished]
    finally:
        for file in running:
            tools.clean_up(file.dir, file.mark)
        for point in reversed(tools.mounts_below(directory)):
            tools.unmount(point)
        transport.SWITCH.put_back()
        shutil.rmtree(directory, ignore_errors=True)


def main(argv=None):
    parser = argparse.ArgumentParser(prog='run', description='Run iotests.')
    parser.add_argument('-j', '--jobs', type=int, default=2, help='files at a time (2)')
    parser.add_argument('-k', '--match', action='append', default=[],
                        help='only tests whose name holds this; may be repeated')
    parser.add_argument('-b', '--build', help='build directory with the daemon '
                        '(default: $WHARFD, $WHARFCTL, or build/)')
    parser.add_argument('-n', '--repeat', type=int, default=1, help='run all this often')
    parser.add_argument('files', nargs='*', help='test files (all)')
    if argv is None:
        argv = sys.argv[1:]
    if argv and argv[0] == '--child':
        return child_main(argv[1], int(argv[3]), argv[4:])
    options = parser.parse_args(argv)

    build = options.build or os.path.join(_HERE, '..', '..', 'build')
    if options.build or 'WHARFD' not in os.environ:
        os.environ['WHARFD'] = os.path.abspath(os.path.join(build, 'daemon', 'wharfd'))
        os.environ['WHARFCTL'] = os.path.abspath(os.path.join(build, 'ctl', 'wharfctl'))
    # Sanitizers know what malloc() hands on from thread to thread, not what GLib keeps of its own.
    os.environ.setdefault('G_SLICE', 'always-malloc')
    files = options.files or sorted(
        os.path.join(_HERE, name) for name in os.listdir(_HERE)
        if name.startswith('test_') and name.endswith('.py'))

    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(1))
    # A shell has what it runs in the background ignore these, and so would all that is under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    failed = 0
    for _ in range(options.repeat):
        totals = Totals()
        with switch.fair_scheduling():
            run_files([os.path.abspath(f) for f in files], totals.add, options.match, options.jobs)
        failed += len(totals.failed)
        for name in totals.failed:
            print(f'failed: {name}')
        print('{PASS} passed, {FAIL} failed, {SKIP} skipped'.format(**totals.counts), flush=True)
    return 1 if failed else 0
