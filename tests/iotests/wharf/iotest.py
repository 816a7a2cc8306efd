# SPDX-License-Identifier: GPL-2.0-or-later
"""The base class of all iotests."""

import os
import shutil
import sys
import tempfile
import unittest

from . import tools, transport
from .clients import ClientError
from .daemon import Daemon
from .fs import FsWorker
from .tools import TIMEOUT, find_tool, wait_until

MIB = 1 << 20


def timeout(seconds):
    """Decorator: how long this test may take in all (default 120 s) before it is killed."""
    def mark(function):
        function.wharf_timeout = seconds
        return function
    return mark


def normal_build_only(item):
    """Decorator for a test or a class of tests that say nothing about a build with a sanitizer, or
    cannot work there: the runner leaves them out of such runs."""
    item.wharf_normal_build_only = True
    return item


def fuse_test(item):
    """Decorator for a test or a class of tests of FUSE exports, which are to be run on each transport:
    with $WHARF_FUSE_TRANSPORT=io-uring the runner takes no others."""
    item.wharf_fuse_test = True
    return item


def not_over(name, reason):
    """Decorator for a test or a class of tests that make no sense on this transport."""
    def mark(item):
        item.wharf_not_over = {**getattr(item, 'wharf_not_over', {}), name: reason}
        return item
    return mark


def has_fuse():
    """Whether FUSE can be mounted here at all."""
    return os.path.exists('/dev/fuse') and (os.geteuid() == 0 or bool(shutil.which('fusermount3')))


class IoTest(unittest.TestCase):
    """One test with a private directory, self.dir, that lies on a file system with holes."""

    maxDiff = None

    def setUp(self):
        base = os.environ.get('WHARF_TEST_DIR')
        self.dir = tempfile.mkdtemp(prefix='t', dir=base)
        os.chmod(self.dir, 0o755)
        self.addCleanup(self._remove_dir)
        # Daemons clear the mounts of dead ones that left a record here: not those of other tests.
        self.runtime_dir = tempfile.mkdtemp(prefix='r', dir=base)
        self.addCleanup(shutil.rmtree, self.runtime_dir, ignore_errors=True)
        os.environ['XDG_RUNTIME_DIR'] = self.runtime_dir
        self._daemons = []
        if self.is_marked('wharf_fuse_test'):
            self.need_fuse()

    def is_marked(self, name):
        """Whether a decorator has put a mark on this test or its class."""
        return any(hasattr(item, name) for item in (self, getattr(self, self._testMethodName)))

    def _remove_dir(self):
        for point in reversed(tools.mounts_below(self.dir)):
            tools.unmount(point)
        tools.detach_loops_below(self.dir)
        shutil.rmtree(self.dir, ignore_errors=True)

    # Files

    def path(self, name):
        return os.path.join(self.dir, name)

    def make_file(self, name, size=0, content=b''):
        """A file in the test's directory; what content leaves of size is a hole."""
        path = self.path(name)
        with open(path, 'wb') as f:
            f.write(content)
            f.truncate(max(size, len(content)))
        return path

    def mountpoint(self, name='mnt'):
        """An empty file to export at."""
        return self.make_file(name)

    def fs(self, **kwargs):
        """A child for file system calls that ends with the test."""
        worker = FsWorker(**kwargs)
        self.addCleanup(worker.kill)
        return worker

    # Daemons

    def wharfd(self, *args, **kwargs):
        """Start the wharfd under test ($WHARFD); stopped and judged at the end of the test.

        Keywords: binary (another one), qmp (True), jsonrpc (False), name, env, prefix, cwd, wait; see Daemon.
        """
        binary = kwargs.pop('binary', None) or os.environ.get('WHARFD')
        if not binary:
            raise unittest.SkipTest('WHARFD is not set')
        return self._start(binary, args, kwargs)

    def built(self, *path):
        """A program beside the wharfd under test, by its place in the build directory."""
        build = os.path.dirname(os.path.dirname(os.environ.get('WHARFD', '')))
        program = os.path.join(build, *path)
        if not os.path.exists(program):
            raise unittest.SkipTest(f'{path[-1]} is not built')
        return program

    def qsd(self, *args, **kwargs):
        """Start the system's qemu-storage-daemon, for comparison."""
        kwargs.setdefault('name', 'qsd')
        # QSD 7.2 loses a signal, or its first client, that comes just before it goes to sleep.
        try:
            daemon = self._start_qsd(args, {**kwargs, 'greet_timeout': 5})
        except ClientError:
            daemon = self._start_qsd(args, kwargs)
        self.addCleanup(daemon.kill)
        return daemon

    def _start_qsd(self, args, kwargs):
        return self._start(find_tool('qemu-storage-daemon'), args, {'transport': None, **kwargs})

    def _start(self, binary, args, kwargs):
        if 'name' not in kwargs:
            kwargs['name'] = f'wharfd{len(self._daemons) or ""}'
        kwargs.setdefault('transport', transport.wanted())
        daemon = Daemon(self.dir, binary, args, **kwargs)
        self._daemons.append(daemon)
        self.addCleanup(daemon.stop)
        return daemon

    def wharfctl(self, *args, **kwargs):
        """Run wharfctl ($WHARFCTL) to its end; see tools.run()."""
        binary = os.environ.get('WHARFCTL')
        if not binary:
            raise unittest.SkipTest('WHARFCTL is not set')
        return tools.run(binary, *args, **kwargs)

    def need_root(self):
        if os.geteuid() != 0:
            self.skipTest('needs root')

    def need_fuse(self):
        if not has_fuse():
            self.skipTest('no /dev/fuse here')
        if transport.wanted() == transport.IO_URING:
            self.need_uring()

    def need_uring(self):
        """Have FUSE over io_uring switched on in the kernel until the test ends."""
        self.addCleanup(transport.switch_on())

    def fuse_control(self):
        """The directory with the control files of FUSE connections, mounted for this test."""
        path = self.path('fusectl')
        if not os.path.exists(path):
            self.need_root()
            os.mkdir(path)
            tools.run('mount', '-t', 'fusectl', 'none', path)
        return path

    def need_loop(self):
        self.need_root()
        if not tools.loop_is_free():
            self.skipTest('no loop devices here')

    def loop_device(self, name='backing', size=16 * MIB):
        """A loop device over a new file of that size; it goes with the test."""
        self.need_loop()
        path = self.make_file(name, size)
        return tools.run(find_tool('losetup'), '--find', '--show', path).stdout.strip()

    def ext4(self, name='ext4', size=64 * MIB, options='discard'):
        """The directory of a new ext4 file system on a loop device. Returns it and the device."""
        device = self.loop_device(name + '.backing', size)
        tools.run(find_tool('mkfs.ext4'), '-q', '-F', device)
        directory = self.path(name)
        os.mkdir(directory)
        tools.run('mount', '-o', options, device, directory)
        return directory, device

    def add_file_export(self, daemon, image, mountpoint, export='e0', node='n0', **options):
        """blockdev-add of a raw file and block-export-add of it over fuse, with further options."""
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': node,
                                        'file': {'driver': 'file', 'filename': image}})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': export, 'node-name': node,
                                            'mountpoint': mountpoint, 'writable': True,
                                            **{k.replace('_', '-'): v for k, v in options.items()}})

    # Assertions

    def mounted(self, path):
        """Whether something is mounted at that path, without touching it."""
        return os.path.realpath(self.dir) + path[len(self.dir):] in tools.mounts_below(self.dir)

    def wait_unmounted(self, path):
        wait_until(lambda: not self.mounted(path), TIMEOUT, f'{path} to be unmounted')

    def assert_idle(self, daemon):
        """It sleeps: in a while of CPU time nothing is used up."""
        before = daemon.cpu_seconds()
        tools.run('sleep', '1')
        self.assertLess(daemon.cpu_seconds() - before, 0.7)

    def assert_errno(self, errno_wanted, function, *args, **kwargs):
        """The call must fail with exactly this errno."""
        try:
            result = function(*args, **kwargs)
        except OSError as e:
            self.assertEqual(os.strerror(errno_wanted), os.strerror(e.errno))
            return
        self.fail(f'gave {result!r} instead of {os.strerror(errno_wanted)}')

    def doCleanups(self):
        # The directory with the logs goes in a cleanup: show them before, where the test failed.
        outcome = getattr(self, '_outcome', None)
        if outcome is not None and not outcome.success:
            self._print_logs(getattr(self, '_daemons', []))
        return super().doCleanups()

    @staticmethod
    def _print_logs(daemons):
        for daemon in daemons:
            try:
                print(f'--- {daemon.name} (pid {daemon.pid}): {" ".join(daemon.command)}\n'
                      f'{daemon.log()}---', file=sys.stderr)
            except OSError:
                pass


def main():
    """For `python3 test_x.py`: runs this file alone, as the runner does."""
    from . import runner
    sys.exit(runner.main([os.path.abspath(sys.argv[0]), *sys.argv[1:]]))
