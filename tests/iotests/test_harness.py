# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness itself: its clients against QSD's monitor, its timeouts, its cleaning up."""

import errno
import os
import sys
import time

from wharf import *
from wharf import tools


class Harness(IoTest):
    def test_worker_hands_back_results_and_errors(self):
        fs = self.fs()
        path = self.make_file('x', 4096)
        fd = fs.open(path, os.O_RDWR)
        self.assertEqual(fs.pwrite(fd, b'hello', 0), 5)
        fs.fallocate(fd, 0, 4096, 4096)
        self.assertEqual(fs.fstat(fd).st_size, 8192)
        self.assertEqual(fs.read_file(path, 0, 5), b'hello')
        self.assert_errno(errno.ENOENT, fs.open, path + 'y', os.O_RDONLY)

    def test_worker_times_out(self):
        r, w = os.pipe()
        self.addCleanup(os.close, r)
        self.addCleanup(os.close, w)
        fs = self.fs(timeout=0.2)
        with self.assertRaises(FsTimeout):
            fs.read(r, 1)

    def test_child_times_out(self):
        with self.assertRaises(FsTimeout):
            in_child(time.sleep, 60, timeout=0.2)
        self.assertEqual(in_child(os.getcwd), os.getcwd())

    def test_run_kills_what_hangs(self):
        with self.assertRaises(AssertionError):
            run('sleep', 60, timeout=0.2)

    def test_marked_processes_are_found_and_killed(self):
        mark = 'harness' + str(os.getpid())
        run('sh', '-c', 'setsid sleep 300 </dev/null >/dev/null 2>&1 &',
            env={**os.environ, tools.MARK: mark})
        self.assertEqual(len(wait_until(lambda: tools.marked_processes(mark))), 1)
        self.assertEqual(tools.kill_marked(mark), [])

    def test_sanitizer_runs_leave_out_what_is_not_for_them(self):
        file = self.make_file('test_some.py', content=b"""
from wharf import *

class Both(IoTest):
    def test_everywhere(self):
        pass

    @normal_build_only
    def test_here_only(self):
        pass

@normal_build_only
class Normal(IoTest):
    def test_all(self):
        pass
""")
        runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run')
        for build, passed in ('normal', 3), ('asan', 1):
            done = run(sys.executable, runner, file, env={**os.environ, 'WHARF_BUILD': build})
            self.assertIn(f'{passed} passed, 0 failed, 0 skipped', done.stdout)

    def test_qmp_client(self):
        qsd = self.qsd()
        self.assertIn('qemu', qsd.qmp.cmd('query-version'))
        with self.assertRaises(QmpError) as caught:
            qsd.qmp.cmd('no-such-command')
        self.assertEqual(caught.exception.cls, 'CommandNotFound')
        self.assertEqual(qsd.qmp.cmd('query-block-exports'), [])
        qsd.quit()


if __name__ == '__main__':
    main()
