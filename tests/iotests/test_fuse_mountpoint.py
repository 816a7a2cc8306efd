# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a FUSE export may be mounted, and what becomes of the mount when others meddle with it."""

import errno
import fcntl
import os
import signal
import stat
import time

from wharf import *
from wharf import tools

MIB = 1 << 20


@fuse_test
class MountTest(IoTest):
    """One daemon with a node n0 over a small image."""

    CONTENT = bytes(range(256)) * 64
    PLAIN = b'the file below\n'

    def setUp(self):
        super().setUp()
        self.image = self.make_file('disk.img', content=self.CONTENT)
        self.runtime = self.path('run')
        os.mkdir(self.runtime, 0o700)
        self.env = {'XDG_RUNTIME_DIR': self.runtime}
        self.mnt = self.make_file('mnt', content=self.PLAIN)
        self.worker = self.fs()
        self.daemon = self.start()

    def start(self, **kwargs):
        daemon = self.wharfd(env=self.env, **kwargs)
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0',
                                        'file': {'driver': 'file', 'filename': self.image}})
        return daemon

    def add(self, mountpoint=None, export='e0', daemon=None, **options):
        (daemon or self.daemon).qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': export, 'node-name': 'n0',
            'mountpoint': self.mnt if mountpoint is None else mountpoint,
            **{k.replace('_', '-'): v for k, v in options.items()}})

    def refused(self, mountpoint, *words, **options):
        """The add is refused, names all words, and leaves nothing."""
        with self.assertRaises(QmpError) as caught:
            self.add(mountpoint, **options)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)
        self.assertEqual(self.daemon.qmp.cmd('query-block-exports'), [])
        return caught.exception.desc

    def delete(self, export='e0', **kwargs):
        self.daemon.qmp.cmd('block-export-del', {'id': export, **kwargs})

    def exports(self):
        return [e['id'] for e in self.daemon.qmp.cmd('query-block-exports')]

    def assert_exported(self, path=None):
        self.assertEqual(self.worker.read_file(path or self.mnt), self.CONTENT)

    def assert_plain(self, path=None):
        self.assertEqual(self.worker.read_file(path or self.mnt), self.PLAIN)

    def connection(self):
        return self.daemon.qmp.cmd('query-block-exports')[0]['fuse']['connection']

    def abort_connection(self):
        """Cut the connection off as an administrator does."""
        with open(f'{self.fuse_control()}/{self.connection()}/abort', 'w', encoding='ascii') as f:
            f.write('1')

    def wait_dead(self, path=None):
        """Wait until the kernel has let go of a killed daemon; it may still be at it for a moment."""
        def dead():
            try:
                self.worker.close(self.worker.open(path or self.mnt, os.O_RDONLY))
            except OSError as e:
                return e.errno == errno.ENOTCONN
            return False
        wait_until(dead, what='the mount to be dead')


class Places(MountTest):
    def test_file_is_covered_and_comes_back(self):
        before = os.stat(self.mnt)
        self.add()
        self.assert_exported()
        self.delete()
        self.assert_plain()
        after = os.stat(self.mnt)
        self.assertEqual((before.st_mtime_ns, before.st_size, before.st_ino),
                         (after.st_mtime_ns, after.st_size, after.st_ino))

    def test_modes_of_the_file_below_do_not_matter(self):
        os.chmod(self.mnt, 0o444)
        self.add(writable=True)
        self.assertEqual(stat.S_IMODE(self.worker.stat(self.mnt).st_mode), 0o600)
        self.delete()
        self.assertEqual(stat.S_IMODE(os.stat(self.mnt).st_mode), 0o444)

    def test_symlink_is_followed(self):
        link = self.path('link')
        os.symlink('mnt', link)
        self.add(link)
        self.assert_exported()
        self.assert_exported(link)
        info = self.daemon.qmp.cmd('query-block-exports')[0]
        self.assertEqual(info['mountpoint'], os.path.realpath(self.mnt))
        self.delete()
        self.assertTrue(os.path.islink(link))
        self.assert_plain(link)

    def test_what_is_no_regular_file(self):
        directory = self.path('dir')
        os.mkdir(directory)
        os.symlink('dir', self.path('to-dir'))
        os.symlink('nowhere', self.path('dangling'))
        os.mkfifo(self.path('fifo'))
        missing = 'No such file or directory'
        for path, words in ((self.path('none'), (missing, self.path('none'))),
                            (self.path('dangling'), (missing,)),
                            ('', (missing,)),
                            (self.path('none/deeper'), (missing,)),
                            (self.mnt + '/inside', ('Not a directory',)),
                            (directory, ('directory', 'regular file')),
                            (self.path('to-dir'), ('directory', 'regular file')),
                            (self.path('fifo'), ('fifo', 'regular file')),
                            ('/dev/null', ('device', 'regular file')),
                            (self.path('x' * 300), ('too long',))):
            self.refused(path, *words)
        self.add()
        self.assert_exported()

    def test_odd_names(self):
        for i, name in enumerate(('with blank', 'back\\slash', 'new\nline', 'comma,name', '-dash', 'ünï', 'tab\t')):
            path = self.make_file(name, content=self.PLAIN)
            self.add(path, export=f'e{i}')
            self.assert_exported(path)
            self.delete(f'e{i}')
            self.assert_plain(path)

    def test_relative_counts_from_the_start(self):
        daemon = self.start(name='relative', cwd=self.dir)
        self.add('mnt', daemon=daemon)
        self.assert_exported()
        self.assertEqual(daemon.qmp.cmd('query-block-exports')[0]['mountpoint'], os.path.realpath(self.mnt))
        daemon.quit()
        self.assert_plain()

    def test_the_image_itself(self):
        self.add(self.image, writable=True)
        self.assert_exported(self.image)
        self.worker.write_at(self.image, 0, b'over')
        self.assertEqual(self.worker.read_file(self.image, size=4), b'over')
        self.delete()
        self.assertEqual(self.worker.read_file(self.image, size=4), b'over')

    def test_plain_file_stays_for_those_who_had_it_open(self):
        fd = self.worker.open(self.mnt, os.O_RDONLY)
        self.add()
        self.assertEqual(self.worker.pread(fd, 100, 0), self.PLAIN)
        self.delete()
        self.assertEqual(self.worker.pread(fd, 100, 0), self.PLAIN)

    def test_mount_options(self):
        self.need_root()
        self.add(writable=True)
        with open('/proc/mounts', encoding='utf-8') as f:
            line = next(line.split() for line in f if line.split()[1] == os.path.realpath(self.mnt))
        self.assertEqual(line[0], '/dev/fuse')
        self.assertEqual(line[2], 'fuse')
        options = set(line[3].split(','))
        self.assertLessEqual({'rw', 'nosuid', 'nodev', 'noatime', 'default_permissions', 'user_id=0',
                              'group_id=0', 'max_read=1048576', 'allow_other'}, options)
        self.delete()
        self.add(allow_other='off')
        with open('/proc/mounts', encoding='utf-8') as f:
            line = next(line.split() for line in f if line.split()[1] == os.path.realpath(self.mnt))
        options = set(line[3].split(','))
        self.assertIn('ro', options)
        self.assertNotIn('allow_other', options)


class OwnMounts(MountTest):
    """A path that leads to a mount of our own is refused at once, however it is spelt (B13)."""

    def spellings(self):
        os.symlink('mnt', self.path('link'))
        os.symlink('.', self.path('here'))
        os.mkdir(self.path('sub'))
        return (self.mnt, self.path('./mnt'), self.path('sub/../mnt'), self.path('link'),
                self.path('here/here/mnt'), self.mnt.replace('/', '//'), 'mnt')

    def check_refused(self):
        for spelling in self.spellings():
            with self.assertRaises(QmpError) as caught:
                self.add(spelling, export='e1')
            self.assertIn('e0', caught.exception.desc, spelling)
        self.assertEqual(self.exports(), ['e0'])
        self.assert_exported()

    def start(self, **kwargs):
        return super().start(cwd=self.dir, **kwargs)

    def test_in_the_main_thread(self):
        self.add()
        self.check_refused()

    def test_in_an_iothread(self):
        self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': 'io0'})
        self.add(iothread='io0')
        self.check_refused()

    def test_hard_link_is_another_file(self):
        """Covering a file covers one name of it, so its other names may be used."""
        other = self.path('other')
        os.link(self.mnt, other)
        self.add()
        self.add(other, export='e1')
        self.assert_exported(other)
        self.assertEqual(self.exports(), ['e1', 'e0'])

    def test_two_adds_at_the_same_time(self):
        """One of them wins, the other is refused, and nothing is mounted twice."""
        clients = [self.daemon.qmp_client() for _ in range(4)]
        for turn in range(5):
            for i, client in enumerate(clients):
                client.send({'execute': 'block-export-add', 'arguments': {
                    'type': 'fuse', 'id': f'e{i}', 'node-name': 'n0', 'mountpoint': self.mnt}})
            replies = [client.read_reply() for client in clients]
            self.assertEqual(sum('return' in r for r in replies), 1, replies)
            (there,) = self.exports()
            self.assert_exported()
            self.delete(there)
            self.assertFalse(self.mounted(self.mnt), turn)

    def test_image_on_our_own_export(self):
        """A node whose file lies on an export of this daemon works, or is refused; nothing hangs."""
        self.add(writable=True)
        try:
            self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n1', 'filename': self.mnt})
        except QmpError as e:
            self.assertEqual(e.cls, 'GenericError')
            return
        other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n1', 'mountpoint': other})
        self.assertEqual(self.worker.read_file(other), self.CONTENT)
        self.delete('e1')

    def test_reopen_of_a_covered_image(self):
        """The image's own path leads to the export; a reopen must not go through it."""
        self.add(self.image, writable=True)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n1', 'filename': self.make_file('b')})
        self.daemon.qmp.cmd('blockdev-reopen', {'options': [{'driver': 'file', 'node-name': 'n1',
                                                             'filename': self.path('b')}]})
        self.assert_exported(self.image)


class Outsiders(MountTest):
    """C11: what others do to the mount."""

    def lost(self, reason, log):
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0', 'reason': reason})
        self.assertEqual(self.exports(), [])
        self.assertFalse(self.mounted(self.mnt))
        self.assert_plain()
        self.assertEqual(self.daemon.log().count(log), 1)
        self.assert_idle(self.daemon)
        self.add()
        self.assert_exported()

    def iothreads(self, n):
        for i in range(n):
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': f'io{i}'})
        return [f'io{i}' for i in range(n)]

    def test_unmount(self):
        self.add()
        run('umount', self.mnt)
        self.lost('unmounted', 'somebody else has unmounted it')

    def test_unmount_with_several_queues(self):
        self.add(iothread=self.iothreads(3))
        self.assert_exported()
        run('umount', self.mnt)
        self.lost('unmounted', 'somebody else has unmounted it')

    def test_unmount_while_open(self):
        self.add()
        fd = self.worker.open(self.mnt, os.O_RDONLY)
        self.assertNotEqual(run('umount', self.mnt, check=False).returncode, 0)
        self.assertEqual(self.exports(), ['e0'])
        run('umount', '-l', self.mnt)
        self.assertEqual(self.worker.pread(fd, len(self.CONTENT), 0), self.CONTENT)
        self.assertEqual(self.exports(), ['e0'])
        self.worker.close(fd)
        self.lost('unmounted', 'somebody else has unmounted it')

    def test_abort(self):
        self.add()
        self.abort_connection()
        self.lost('aborted', 'was cut off')

    def test_abort_with_several_queues_and_open_files(self):
        self.add(iothread=self.iothreads(2))
        fd = self.worker.open(self.mnt, os.O_RDONLY)
        self.abort_connection()
        self.lost('aborted', 'was cut off')
        self.assert_errno(errno.ENOTCONN, self.worker.pread, fd, 1, 0)

    def test_moved_mount(self):
        """The directory above is renamed: the mount is found where it went."""
        os.mkdir(self.path('a'))
        below = self.make_file('a/mnt', content=self.PLAIN)
        self.add(below)
        os.rename(self.path('a'), self.path('b'))
        self.assert_exported(self.path('b/mnt'))
        self.delete()
        self.assertFalse(self.mounted(self.path('b/mnt')))
        self.assert_plain(self.path('b/mnt'))

    def test_something_else_on_top(self):
        self.need_root()
        other = self.make_file('other', content=b'on top')
        self.add()
        run('mount', '--bind', other, self.mnt)
        self.delete()
        self.assertEqual(self.worker.read_file(self.mnt), b'on top')
        self.daemon.wait_log('leaves its mount behind')
        run('umount', self.mnt)
        self.assert_errno(errno.ENOTCONN, self.worker.open, self.mnt, os.O_RDONLY)
        self.add(replace_stale=True)
        self.assert_exported()

    def test_something_else_in_its_place(self):
        self.need_root()
        other = self.make_file('other', content=b'instead')
        self.add()
        self.worker.open(self.mnt, os.O_RDONLY)  # keeps the export alive
        run('umount', '-l', self.mnt)
        run('mount', '--bind', other, self.mnt)
        self.delete()
        self.assertEqual(self.worker.read_file(self.mnt), b'instead')


class DeadDaemons(MountTest):
    """What a killed daemon leaves, and how the next one deals with it."""

    def killed(self, **options):
        """A mount whose daemon is dead."""
        self.add(**options)
        self.daemon.kill()
        self.wait_dead()

    def test_own_corpse_is_cleared(self):
        self.killed()
        self.daemon = self.start(name='second')
        self.add()
        self.assert_exported()
        self.daemon.wait_log('cleared')
        self.delete()
        self.assert_plain()

    def test_corpse_that_the_kernel_still_knows_well(self):
        """It goes on telling what stat has found for a second after the death."""
        self.add()
        self.worker.stat(self.mnt)
        self.daemon.kill()
        self.daemon = self.start(name='second')
        self.add()
        self.assert_exported()
        self.delete()
        self.assert_plain()

    def test_all_own_corpses_are_cleared(self):
        other = self.make_file('other', content=self.PLAIN)
        third = self.make_file('third', content=self.PLAIN)
        self.add(other, export='e1')
        self.killed()
        self.daemon = self.start(name='second')
        self.add(third)
        for path in (self.mnt, other):
            self.assertFalse(self.mounted(path))
            self.assert_plain(path)

    def test_things_of_others_beside_the_records_stay(self):
        self.killed()
        base = os.path.join(self.runtime, 'wharf')
        left, = os.listdir(base)
        files = [os.path.join(base, d, name) for d in ('mine', left) for name in ('lock', 'notes')]
        os.mkdir(os.path.join(base, 'mine'))
        for path in files:
            with open(path, 'a', encoding='ascii'):
                pass
        self.daemon = self.start(name='second')
        self.add()
        self.assert_exported()
        self.assertEqual([os.path.exists(path) for path in files], [True, True, False, True])

    def test_living_daemons_are_left_alone(self):
        self.add()
        other = self.make_file('other', content=self.PLAIN)
        second = self.start(name='second')
        self.add(other, daemon=second)
        self.assert_exported()
        self.assert_exported(other)

    def test_foreign_corpse_is_reported(self):
        self.killed()
        self.env = {'XDG_RUNTIME_DIR': self.path('elsewhere')}
        self.daemon = self.start(name='second')
        text = self.refused(self.mnt, 'stale', 'fusermount3 -u', 'replace-stale')
        self.assertIn(self.mnt, text)
        self.add(replace_stale=True)
        self.assert_exported()
        self.delete()
        self.assert_plain()

    def test_corpse_of_qsd(self):
        qsd = self.qsd('--blockdev', f'driver=file,node-name=f,filename={self.image},locking=off', '--export',
                       f'type=fuse,id=e,node-name=f,mountpoint={self.mnt}')
        self.assert_exported()
        qsd.kill()
        self.wait_dead()
        self.refused(self.mnt, 'stale')
        self.add(replace_stale=True)
        self.assert_exported()

    def test_a_living_mount_is_not_covered(self):
        """Neither that of another kind of server nor one of another of our daemons, however it is spelt."""
        qsd = self.qsd('--blockdev', f'driver=file,node-name=f,filename={self.image},locking=off', '--export',
                       f'type=fuse,id=e,node-name=f,mountpoint={self.mnt}')
        second, other = self.start(name='second'), self.make_file('other', content=self.PLAIN)
        self.add(other, daemon=second)
        os.symlink(other, self.path('link'))
        for place in (self.mnt, other, self.path('link')):
            for options in ({}, {'replace_stale': True}):
                self.refused(place, 'another FUSE server', 'fusermount3 -u', 'choose another file', **options)
        self.assert_exported()
        self.assert_exported(other)
        qsd.stop()
        self.wait_unmounted(self.mnt)
        self.add()
        self.assert_exported()

    def test_two_daemons_at_the_same_time(self):
        """Who is about to mount has the file locked; another one waits, and looks again."""
        daemons = [self.daemon, self.start(name='second')]
        with open(self.mnt) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            for daemon in daemons:
                daemon.qmp.send({'execute': 'block-export-add', 'arguments': {
                    'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt}})
            time.sleep(0.3)
            self.assertFalse(self.mounted(self.mnt))
        replies = [daemon.qmp.read_reply() for daemon in daemons]
        self.assertEqual(sum('return' in r for r in replies), 1, replies)
        self.assertIn('another FUSE server', str(replies))
        self.assert_exported()

    def test_file_locked_by_others(self):
        """Who has it locked for ends of his own keeps nobody away."""
        with open(self.mnt) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.add()
            self.assert_exported()

    def test_records_end_with_the_daemon(self):
        self.add()
        self.assertTrue(os.listdir(os.path.join(self.runtime, 'wharf')))
        self.daemon.quit()
        self.assertEqual(os.listdir(os.path.join(self.runtime, 'wharf')), [])

    def test_record_of_a_covered_mount_stays_until_it_is_cleared(self):
        self.need_root()
        other = self.make_file('other', content=self.PLAIN)
        third = self.make_file('third', content=self.PLAIN)
        base = os.path.join(self.runtime, 'wharf')
        self.add()
        run('mount', '--bind', other, self.mnt)
        self.daemon.quit()
        left, = os.listdir(base)
        self.daemon = self.start(name='second')
        self.add(third)
        self.daemon.wait_log('something else is mounted over')
        self.daemon.quit()
        self.assertEqual(os.listdir(base), [left])
        run('umount', self.mnt)
        self.wait_dead()
        self.daemon = self.start(name='third')
        self.add(third)
        self.daemon.wait_log('cleared')
        self.assert_plain()
        self.daemon.quit()
        self.assertEqual(os.listdir(base), [])

    def test_damaged_records_do_no_harm(self):
        base = os.path.join(self.runtime, 'wharf', 'fuse-1-damage')
        os.makedirs(base, 0o700)
        os.chmod(os.path.dirname(base), 0o700)
        for name, content in (('lock', b''), ('0:1:1', b'garbage'), ('nonsense', b'1\n/'), ('0:2:2', b''),
                              ('0:3:3', b'5\n/etc/passwd'), ('4294967295:4294967295:1', b'1\n' + b'/' * 9000)):
            with open(os.path.join(base, name), 'wb') as f:
                f.write(content)
        self.add()
        self.assert_exported()
        self.assertEqual(os.listdir(base), ['nonsense'])  # no record: not ours to remove


class Endings(MountTest):
    """Every orderly end removes the mount, with files open or not."""

    def check_ends(self, end, reason=None):
        self.add(writable=True)
        fd = self.worker.open(self.mnt, os.O_RDWR)
        self.worker.pwrite(fd, b'data', 0)
        end()
        self.assertFalse(self.mounted(self.mnt))
        self.assert_plain()
        self.assert_errno(errno.ENOTCONN, self.worker.pread, fd, 4, 0)
        self.assert_errno(errno.ENOTCONN, self.worker.close, fd)
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(4), b'data')

    def test_delete_with_open_files(self):
        self.check_ends(self.delete)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0', 'reason': 'deleted'})
        self.assertIn('1 open file', self.daemon.log())

    def test_quit_with_open_files(self):
        self.check_ends(self.daemon.quit)

    def test_signals_with_open_files(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(signal=number):
                self.check_ends(lambda number=number: self.daemon.terminate(number))
                with open(self.image, 'r+b') as f:
                    f.write(self.CONTENT)
                self.worker = self.fs()
                self.daemon = self.start(name=f'after{number}')

    def test_events_at_quit_newest_first(self):
        for i in range(4):
            self.add(self.mountpoint(f'm{i}'), export=f'e{i}')
        client = self.daemon.qmp_client()
        client.send({'execute': 'quit', 'id': 'q'})
        seen = []
        while True:
            message = client.read()
            if message.get('id') == 'q':
                break
            self.assertEqual(message['data']['reason'], 'shutdown')
            seen.append(message['data']['id'])
        self.assertEqual(seen, ['e3', 'e2', 'e1', 'e0'])

    def test_failed_start_leaves_no_mount(self):
        binary = os.environ['WHARFD']
        result = run(binary, '--blockdev', f'driver=file,node-name=f,filename={self.image}', '--export',
                     f'type=fuse,id=e,node-name=f,mountpoint={self.mnt}', '--export',
                     f'type=fuse,id=f,node-name=f,mountpoint={self.path("none")}', check=False, env={
                         **os.environ, **self.env})
        self.assertEqual(result.returncode, 1)
        self.assertIn('none', result.stderr)
        self.assertFalse(self.mounted(self.mnt))
        self.assert_plain()


class Cycles(MountTest):
    def test_nothing_is_left(self):
        """Descriptors and mounts come and go with exports."""
        self.add()
        self.delete()
        before = len(self.daemon.fds())
        for _ in range(20):
            self.add()
            self.assert_exported()
            self.delete()
            self.assertEqual(tools.mounts_below(self.dir), [])
        self.assertEqual(len(self.daemon.fds()), before)


if __name__ == '__main__':
    main()
