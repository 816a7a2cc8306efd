# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfd as an ordinary user, who mounts through fusermount3."""

import errno
import os
import shutil
import signal
import subprocess
import time

from wharf import *
from wharf import tools

NOBODY = 65534
FUSE_CONTROL = '/sys/fs/fuse/connections'


class AsNobody(IoTest):
    """The tests run as root, the daemon and its users as nobody."""

    @classmethod
    def setUpClass(cls):
        tools.let_all_use_fuse()

    def setUp(self):
        super().setUp()
        self.need_root()
        find_tool('fusermount3')
        self.as_nobody = [find_tool('setpriv'), f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', '--']
        # The build directory may lie where nobody may look.
        self.binary = shutil.copy(os.environ['WHARFD'], self.path('wharfd.bin'))
        os.chmod(self.binary, 0o755)
        os.chown(self.dir, NOBODY, NOBODY)
        os.chown(self.runtime_dir, NOBODY, NOBODY)
        self.image = self.own(self.make_file('disk.img', content=b'hello' * 1000))
        self.mnt = self.own(self.mountpoint())
        done = run(*self.as_nobody, self.binary, '--version', check=False)
        if done.returncode:
            self.skipTest(f'nobody cannot run programs here: {done.stderr}')

    @staticmethod
    def own(path):
        os.chown(path, NOBODY, NOBODY)
        return path

    def start(self, *args, **kwargs):
        return self._start(self.binary, args, {'prefix': self.as_nobody, **kwargs})

    def add(self, daemon, mountpoint=None, **options):
        if not any(n['node-name'] == 'n0' for n in daemon.qmp.cmd('query-named-block-nodes')):
            daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': {
                'driver': 'file', 'filename': self.image}})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'writable': True,
                                            'mountpoint': mountpoint or self.mnt, **options})

    def as_user(self, *command, **kwargs):
        return run(*self.as_nobody, *command, **kwargs)


@fuse_test
class Unprivileged(AsNobody):
    def test_read_write_and_quit(self):
        daemon = self.start()
        self.add(daemon)
        self.assertEqual(self.as_user('cat', self.mnt).stdout, 'hello' * 1000)
        self.as_user('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=5', 'count=1', 'conv=notrunc,fsync')
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(10), b'\0\0\0\0\0hello')
        owner = self.as_user('stat', '-c', '%u %g %a %s', self.mnt).stdout.split()
        self.assertEqual(owner, [str(NOBODY), str(NOBODY), '600', '5000'])
        daemon.quit()
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(os.stat(self.mnt).st_size, 0)

    def test_no_write_back_cache(self):
        """The page cache serves instead, and a line in the log says why."""
        daemon = self.start()
        self.add(daemon, cache='writeback', growable=True)
        daemon.wait_log('no write-back cache')
        self.assertEqual(daemon.qmp.cmd('query-block-exports')[0]['fuse']['cache'], 'page')
        self.as_user('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=5', 'count=1', 'conv=notrunc')
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(10), b'\0\0\0\0\0hello')

    def test_second_signal_leaves_no_mount(self):
        daemon = self.start()
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'n0', 'image': {'driver': 'null-co', 'size': 1 << 20},
            'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': 3600 * 10**9}]})
        self.add(daemon)
        with subprocess.Popen([*self.as_nobody, 'cat', self.mnt], stderr=subprocess.DEVNULL) as reader:
            wait_until(lambda: daemon.qmp.cmd('query-block-exports')[0]['in-flight'])
            while daemon.process.poll() is None:
                os.kill(daemon.pid, signal.SIGTERM)
                time.sleep(0.01)
            self.assertNotEqual(reader.wait(TIMEOUT), 0)
        self.assertEqual(daemon.wait(), 1)
        self.wait_unmounted(self.mnt)

    def test_others_are_kept_out(self):
        daemon = self.start()
        self.add(daemon, **{'allow-other': 'off'})
        self.assert_errno(errno.EACCES, in_child, os.open, self.mnt, os.O_RDONLY)
        daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.wait_unmounted(self.mnt)

    def test_allow_other_falls_back_quietly(self):
        if self.user_allow_other():
            self.skipTest('user_allow_other is set in fuse.conf')
        daemon = self.start()
        self.add(daemon)  # auto
        self.assertNotIn('fusermount', daemon.log())
        daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.wait_unmounted(self.mnt)
        with self.assertRaises(QmpError):
            self.add(daemon, **{'allow-other': 'on'})
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(daemon.qmp.cmd('query-block-exports'), [])

    @staticmethod
    def user_allow_other():
        try:
            with open('/etc/fuse.conf', encoding='utf-8') as f:
                return any(line.strip() == 'user_allow_other' for line in f)
        except OSError:
            return False

    def test_foreign_mountpoint_is_refused_with_the_reason(self):
        foreign = self.mountpoint('foreign')
        os.chmod(foreign, 0o644)
        daemon = self.start()
        with self.assertRaises(QmpError) as caught:
            self.add(daemon, foreign)
        self.assertIn('foreign', caught.exception.desc)
        self.assertRegex(caught.exception.desc, 'ermission|write access|not owned')
        self.assertFalse(self.mounted(foreign))
        self.add(daemon)
        self.assertEqual(self.as_user('head', '-c', 5, self.mnt).stdout, 'hello')

    def test_several_iothreads(self):
        daemon = self.start('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        self.add(daemon, iothread=['t0', 't1'])
        self.assertEqual(self.as_user('cat', self.mnt).stdout, 'hello' * 1000)

    def test_foreign_image_is_refused(self):
        secret = self.make_file('secret', content=b'secret')
        os.chmod(secret, 0o600)
        daemon = self.start()
        with self.assertRaises(QmpError) as caught:
            daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': secret})
        self.assertIn('ermission denied', caught.exception.desc)

    def test_signal_unmounts(self):
        daemon = self.start()
        self.add(daemon)
        daemon.terminate()
        self.assertFalse(self.mounted(self.mnt))

    def test_unmounts_without_a_descriptor_to_spare(self):
        """Which the helper program takes some of. Those of the export itself must do."""
        daemon = self.start(prefix=[find_tool('prlimit'), '--nofile=80:80', *self.as_nobody])
        self.add(daemon)
        with self.assertRaises(QmpError) as caught:
            for i in range(80):
                daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': f'f{i}', 'read-only': True,
                                                'filename': self.image, 'locking': 'off'})
        self.assertIn('Too many open files', caught.exception.desc)
        daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.assertFalse(self.mounted(self.mnt))

    def test_many_cycles(self):
        daemon = self.start()
        for _ in range(15):
            self.add(daemon)
            self.as_user('cmp', self.mnt, self.image)
            daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.assertEqual(tools.fuse_mounts_below(self.dir), [])


class RingQueues(AsNobody):
    def test_ring_queues_need_the_control_file(self):
        """Who cannot abort the connection does without ring queues; a line in the log says so."""
        self.need_fuse()
        self.need_uring()
        # A mount namespace of its own, which we do not see into.
        alone = [find_tool('unshare'), '--mount', 'sh', '-c', 'umount "$0" && exec "$@"', FUSE_CONTROL]
        daemon = self.start(prefix=[*alone, *self.as_nobody])
        self.add(daemon, transport='io-uring')
        self.assertIn('cannot open the control file of FUSE connection', daemon.log())
        self.assertEqual(daemon.qmp.cmd('query-block-exports')[0]['fuse']['transport'], 'dev')
        daemon.quit()


if __name__ == '__main__':
    main()
