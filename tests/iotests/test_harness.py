# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness itself: its clients against QSD's monitor, its timeouts, its cleaning up."""

import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from wharf import *
from wharf import imagelocks, tools, transport
from wharf.switch import AUTOGROUP, Switch


def _die_with_the_switch_on():
    transport.switch_on()  # nobody calls what this returns


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

    def test_bound_is_not_listening(self):
        path = self.path('s')
        self.assertFalse(tools.listens_at(path))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            self.assertFalse(tools.listens_at(path))
            server.listen()
            self.assertTrue(tools.listens_at(path))
        self.assertFalse(tools.listens_at(path))

    def lock(self, path):
        """A descriptor that holds a lock."""
        fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        return fd

    def test_locks_of_nobody_are_waited_for(self):
        path = self.make_file('x')
        living = self.lock(path)
        self.addCleanup(os.close, living)
        files = imagelocks.locked_files(os.getpid())
        self.assertEqual(list(files.values()), [path])
        imagelocks.wait_unlocked(files)
        # What is on its way through a socket belongs to no process.
        ours, theirs = socket.socketpair()
        orphan = self.lock(path)
        socket.send_fds(ours, [b'x'], [orphan])
        os.close(orphan)
        ours.close()
        begun = time.monotonic()
        threading.Timer(0.3, theirs.close).start()
        imagelocks.wait_unlocked(files)
        self.assertGreaterEqual(time.monotonic() - begun, 0.3)

    def test_locks_end_with_a_killed_daemon(self):
        """And it is the image that they are looked for on."""
        daemon = self.wharfd()
        image = self.make_file('x', 4096)
        daemon.qmp.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd', 'take-child-perms': ['write'],
                                        'image': {'driver': 'file', 'filename': image}})
        files = imagelocks.locked_files(daemon.pid)
        self.assertEqual(list(files.values()), [image])
        daemon.kill()
        self.assertEqual(imagelocks.locked_files(daemon.pid), {})
        with open('/proc/locks', encoding='ascii') as f:
            self.assertNotIn(next(iter(files)), f.read().split())

    def test_what_is_no_json_is_shown(self):
        with self.assertRaisesRegex(AssertionError, 'the reason'):
            tools.json_of(run('sh', '-c', 'echo the reason >&2; exit 1', check=False))
        self.assertEqual(tools.json_of(run('echo', '[1]')), [1])

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

    def test_each_transport_gets_its_tests(self):
        file = self.make_file('test_some.py', content=b"""
from wharf import *

class Other(IoTest):
    def test_all(self):
        pass

@fuse_test
class Fuse(IoTest):
    def setUp(self):
        pass

    def test_all(self):
        pass

    @not_over('io-uring', 'cannot fly')
    def test_here_only(self):
        pass
""")
        runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run')
        for name, passed in ('', 3), ('dev', 3), ('io-uring', 1):
            done = run(sys.executable, runner, file, env={**os.environ, 'WHARF_FUSE_TRANSPORT': name})
            self.assertIn(f'{passed} passed, 0 failed, 0 skipped', done.stdout)
            self.assertEqual('OUT test_some.Fuse.test_here_only 0.0s (cannot fly)' in done.stdout, name == 'io-uring')

    def test_failures_end_with_why(self):
        file = self.make_file('test_some.py', content=b"""
import os
import subprocess
import time
from wharf import *

class Some(IoTest):
    def test_dies(self):
        os._exit(3)

    def test_fails(self):
        def fail_again():
            raise OSError('another thing')
        self.addCleanup(fail_again)
        subprocess.run(['echo', 'much is told'])
        self.fail('the reason\\nand a long log')

    @timeout(1)
    def test_hangs(self):
        time.sleep(60)

    def test_says_nothing(self):
        assert 1 == 2
""")
        runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run')
        done = run(sys.executable, runner, file, check=False)
        reasons = {'dies': 'the test process died with 3', 'fails': 'AssertionError: the reason',
                   'hangs': 'TIMEOUT after [12] s', 'says_nothing': 'AssertionError: assert 1 == 2'}
        for name, reason in reasons.items():
            self.assertRegex(done.stdout, f'(?m)^    {reason}\n(PASS|FAIL|failed:)')
            self.assertRegex(done.stdout, f'(?m)^failed: test_some.Some.test_{name}: {reason}$')
        self.assertIn('another thing', done.stdout)

    def test_signals_that_a_shell_ignores_are_heeded(self):
        file = self.make_file('test_some.py', content=b"""
from wharf import *

class Some(IoTest):
    def test_interrupt(self):
        for name in 'INT', 'QUIT':
            self.assertLess(run('sh', '-c', f'kill -{name} $$', check=False).returncode, 0)
""")
        runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run')
        done = run('sh', '-c', 'trap "" INT QUIT; exec "$@"', 'sh', sys.executable, runner, file, check=False)
        self.assertIn('1 passed', done.stdout)

    def test_transport_on_the_command_line(self):
        words = ['--export', 'fuse,id=e', '--export', 'type=fuse,transport=dev', '--export', '{"type": "fuse"}',
                 '--export', 'nbd,id=fuse', '--blockdev', 'fuse']
        self.assertEqual(transport.add_to_words(words, None), words)
        self.assertEqual(transport.add_to_words(words, 'io-uring'), [
            '--export', 'fuse,id=e,transport=io-uring', '--export', 'type=fuse,transport=dev',
            '--export', '{"type": "fuse", "transport": "io-uring"}', '--export', 'nbd,id=fuse',
            '--blockdev', 'fuse'])

    @fuse_test
    def test_another_transport_than_asked_for_is_noticed(self):
        daemon = self.wharfd(env={'WHARF_AIO': 'epoll'}, transport='io-uring')
        with self.assertRaisesRegex(AssertionError, 'runs over dev, not io-uring'):
            self.add_file_export(daemon, self.make_file('disk.img', 4096), self.mountpoint())
        with self.assertRaisesRegex(AssertionError, 'no FUSE over io_uring'):
            daemon.stop()

    def replace_switch(self, value):
        """A file for the kernel's switch, and a lock of its own."""
        self.addCleanup(setattr, transport, 'SWITCH', transport.SWITCH)
        transport.SWITCH = Switch(self.make_file('switch', content=value), self.path('lock'), 'Y')
        return transport.SWITCH

    def test_switch_goes_back_with_the_last_user(self):
        self.need_root()
        for before in b'N\n', b'Y\n':
            switch = self.replace_switch(before)
            first, second = transport.switch_on(), transport.switch_on()
            self.assertEqual(switch.read(), 'Y')
            self.assertIsNone(switch.try_to_keep_free())
            first()
            switch.put_back()
            self.assertEqual(switch.read(), 'Y')
            second()
            self.assertEqual(switch.read(), before.decode().strip())
            os.close(switch.try_to_keep_free())

    def test_switch_goes_back_after_a_death(self):
        self.need_root()
        switch = self.replace_switch(b'N\n')
        in_child(_die_with_the_switch_on)
        self.assertEqual(switch.read(), 'Y')
        switch.put_back()
        self.assertEqual(switch.read(), 'N')

    def test_all_sessions_are_scheduled_alike(self):
        """Else one of them can take all processors from the others for a minute."""
        self.need_root()
        if Switch(AUTOGROUP, None, '0').read() is not None:
            self.assertEqual(Switch(AUTOGROUP, None, '0').read(), '0')

    def test_tasks_at_work_are_shown(self):
        with subprocess.Popen([sys.executable, '-c', 'while True: pass']) as spinner:
            self.addCleanup(spinner.kill)
            wait_until(lambda: f'thread {spinner.pid} (' in tools.tasks_at_work())
            spinner.kill()

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
