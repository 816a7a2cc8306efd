# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl mount and umount: a daemon of the user's own, that ends with its mount."""

import json
import os
import shutil
import signal
import socket
import subprocess

from wharf import *
from wharf import tools
from wharf.ctl import DONE, REFUSED, USAGE, CtlTest

NOBODY = 65534


def _read(path, size):
    with open(path, 'rb') as f:
        return f.read(size)


class MountTest(CtlTest):
    """Daemons have no client that knows them: they are found by their sockets, and by /proc."""

    as_user = []

    def setUp(self):
        super().setUp()
        self.need_fuse()
        self.mnt = self.path('mnt')
        self.image = self.make_file('disk.img', 1 << 20, b'hello')
        self.binary = os.environ['WHARFCTL']
        self.env['WHARFD'] = os.environ['WHARFD']

    def ctl(self, *args, status=DONE, env=None, **kwargs):
        done = run(*self.as_user, self.binary, *args, check=False, env={**self.env, **(env or {})}, **kwargs)
        self.assertEqual(done.returncode, status, f'{args}\n{done.stdout}\n{done.stderr}')
        if status:
            self.assertRegex(done.stderr, r'^wharfctl: \S')
        else:
            self.assertEqual(done.stderr, '')
        return done

    def sockets(self):
        directory = f'{self.runtime}/wharf'
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []

    def daemons(self):
        """Ids of the daemons that this test has started."""
        mark = os.fsencode(self.dir)
        found = []
        for entry in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{entry}/cmdline', 'rb') as f:
                    command = f.read()
            except OSError:
                continue
            if mark in command and b'--exit-when-idle' in command:
                found.append(int(entry))
        return found

    def wait_over(self):
        """The daemon and all traces of it are gone."""
        wait_until(lambda: not self.daemons(), what='the daemon to end')
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(self.sockets(), [])

    def read(self, path, size):
        return run(*self.as_user, 'head', '-c', size, path).stdout.encode()


class Mount(MountTest):
    def test_mount_and_umount(self):
        said = self.ctl('mount', self.image, self.mnt).stdout
        self.assertIn(f'{self.image} is at {self.mnt}, read-only.', said)
        self.assertIn(f'wharfctl umount {self.mnt}', said)
        self.assertIn(f'fusermount3 -u {self.mnt}', said)
        self.assertEqual(self.read(self.mnt, 5), b'hello')
        size, mode = run(*self.as_user, 'stat', '-c', '%s %a', self.mnt).stdout.split()
        self.assertEqual((size, mode), ('1048576', '400'))
        self.assertEqual(len(self.daemons()), 1)
        self.assertEqual(self.ctl('umount', self.mnt).stdout, '')
        self.wait_over()
        self.assertEqual(os.stat(self.mnt).st_size, 0)

    def test_fusermount(self):
        """Whoever unmounts it, and however: the daemon ends."""
        self.ctl('mount', self.image, self.mnt)
        run(*self.as_user, 'fusermount3', '-u', self.mnt)
        self.wait_over()

    def test_writable(self):
        self.ctl('mount', '--writable', self.image, self.mnt)
        run(*self.as_user, 'sh', '-c', 'printf HELLO | dd of="$1" conv=notrunc status=none', 'sh', self.mnt)
        self.ctl('umount', self.mnt)
        self.wait_over()
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(6), b'HELLO\0')
        self.assertEqual(os.path.getsize(self.image), 1 << 20)

    def test_json(self):
        facts = json.loads(self.ctl('--json', 'mount', '-w', self.image, self.mnt).stdout)
        self.assertEqual((facts['image'], facts['mountpoint'], facts['writable']), (self.image, self.mnt, True))
        self.assertTrue(facts['socket'].startswith(f'{self.runtime}/wharf/mount-'))
        # It is a daemon like any other.
        export, = json.loads(self.ctl('-s', facts['socket'], '--json', 'query-block-exports').stdout)
        self.assertEqual(export['id'], 'disk')
        self.ctl('-s', facts['socket'], 'quit')
        self.wait_over()

    def test_rm_ends_it(self):
        facts = json.loads(self.ctl('--json', 'mount', self.image, self.mnt).stdout)
        self.ctl('-s', facts['socket'], 'rm', 'disk')
        self.wait_over()

    def test_ls(self):
        self.assertEqual(self.ctl('ls').stdout, 'Nothing is exported.\n')
        other = self.make_file('other.img', 512)
        self.ctl('mount', self.image, self.mnt)
        self.ctl('mount', '-w', other, self.path('mnt2'))
        rows = {row['id']: row for row in json.loads(self.ctl('--json', 'ls').stdout)}
        self.assertEqual(rows['disk']['mountpoint'], self.mnt)
        self.assertEqual(rows['other']['image'], other)
        self.assertEqual(len(self.ctl('ls').stdout.splitlines()), 3)
        # One that fails does not keep the others.
        said = self.ctl('umount', '/no/such', self.mnt, self.image, self.path('mnt2'), status=REFUSED).stderr
        self.assertRegex(said, r'^wharfctl: [^\n]*/no/such[^\n]*\n[^\n]*nothing is mounted[^\n]*\n$')
        self.wait_over()

    def test_mountpoint_kept(self):
        """A file that was there comes back untouched."""
        keep = self.make_file('keep', content=b'mine')
        self.ctl('mount', self.image, keep)
        self.assertEqual(self.read(keep, 5), b'hello')
        self.ctl('umount', keep)
        with open(keep, 'rb') as f:
            self.assertEqual(f.read(), b'mine')

    def test_relative_and_linked_paths(self):
        os.mkdir(self.path('sub'))
        os.symlink('../disk.img', self.path('sub/link.img'))
        os.symlink(self.path('sub'), self.path('linked'))
        self.own(self.path('sub'))
        self.ctl('mount', 'link.img', 'm', cwd=self.path('linked'))
        self.assertEqual(self.read(self.path('sub/m'), 5), b'hello')
        os.symlink('m', self.path('sub/to-m'))
        self.ctl('umount', 'linked/../sub/to-m', cwd=self.dir)
        self.wait_over()

    def own(self, path):
        return path

    def test_names(self):
        for name in ('a, b=c', 'ü"\'\\', 'new\nline', '-dash', '{brace}', '%s%n'):
            with self.subTest(name=name):
                image = self.own(self.make_file(name + '.img', content=b'x'))
                self.ctl('mount', '--', os.path.basename(image), name, cwd=self.dir)
                self.assertEqual(self.read(self.path(name), 2), b'x')
                self.ctl('umount', '--', name, cwd=self.dir)
        self.wait_over()

    def test_name_that_is_not_text(self):
        name = os.fsencode(self.dir) + b'/\xff\xfe.img'
        shutil.copy(self.image, name)
        said = self.ctl('mount', name, self.mnt, status=REFUSED).stderr
        self.assertIn('is not UTF-8', said)
        self.assertIn('\\xff\\xfe', said)

    def test_failure_leaves_nothing(self):
        directory = self.path('dir')
        os.mkdir(directory)
        self.own(directory)
        fifo = self.path('fifo')
        os.mkfifo(fifo)
        for words, part in (
                ([self.path('nosuch'), self.mnt], 'No such file or directory'),
                ([directory, self.mnt], 'is a directory'),
                ([fifo, self.mnt], 'neither a file nor a block device'),
                ([self.image, directory], 'regular file'),
                ([self.image, self.path('no/such')], 'No such file or directory'),
                ([self.image, fifo], 'regular file'),
                ([self.image, self.image + '/x'], 'Not a directory'),
        ):
            with self.subTest(words=words):
                said = self.ctl('mount', *words, status=REFUSED).stderr
                self.assertIn(f"cannot mount '{words[0]}' at '{words[1]}'", said)
                self.assertIn(part, said)
                self.assertNotIn('--export', said)
        self.wait_over()
        self.assertFalse(os.path.exists(self.mnt))

    def test_interrupted(self):
        """Whoever ends wharfctl while the daemon starts wants no mount."""
        program = self.path('waiting')
        with open(program, 'w', encoding='utf-8') as f:
            f.write(f'#!/bin/sh\nexec {self.env["WHARFD"]} "$@" --monitor w'
                    f' --chardev socket,id=w,path={self.dir}/waits-$$,server=on\n')
        os.chmod(program, 0o755)
        self.own(self.dir)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(sig=sig):
                before = set(os.listdir(self.dir))
                child = subprocess.Popen([*self.as_user, self.binary, 'mount', self.image, self.mnt],
                                         env={**self.env, 'WHARFD': program}, stderr=subprocess.PIPE, text=True)
                wait_until(lambda: any(f.startswith('waits-') for f in os.listdir(self.dir)),
                           what='the daemon to wait')
                child.send_signal(sig)
                said = child.communicate(timeout=tools.TIMEOUT)[1]
                self.assertEqual(child.returncode, REFUSED, said)
                self.assertIn('nothing is mounted', said)
                self.wait_over()
                self.assertEqual(set(os.listdir(self.dir)), before)

    def test_no_program(self):
        said = self.ctl('mount', self.image, self.mnt, status=REFUSED, env={'WHARFD': '/nonexistent'}).stderr
        self.assertIn("/nonexistent", said)
        said = self.ctl('mount', self.image, self.mnt, status=REFUSED, env={'WHARFD': '/bin/false'}).stderr
        self.assertIn("failed with status 1", said)
        said = self.ctl('mount', self.image, self.mnt, status=REFUSED, env={'WHARFD': self.image}).stderr
        self.assertIn("Permission denied", said)
        self.assertFalse(os.path.exists(self.mnt))

    def test_over_itself(self):
        """An image may cover its own file; nobody notices."""
        self.ctl('mount', self.image, self.image)
        self.assertEqual(self.read(self.image, 5), b'hello')
        self.ctl('umount', self.image)
        self.assertEqual(self.read(self.image, 5), b'hello')
        self.wait_over()

    def test_of_an_export(self):
        """An image may lie on an export, which cannot go before it."""
        second = self.path('mnt2')
        self.ctl('mount', self.image, self.mnt)
        self.ctl('mount', self.mnt, second)
        self.assertEqual(self.read(second, 5), b'hello')
        self.assertIn('is in use', self.ctl('umount', self.mnt, status=REFUSED).stderr)
        self.ctl('umount', second)
        # The kernel tells of the close a little later than the daemon is gone.
        wait_until(lambda: run(*self.as_user, self.binary, 'umount', self.mnt, check=False,
                               env=self.env).returncode == 0)
        self.wait_over()

    def test_directory_gone(self):
        gone = self.path('gone')
        os.mkdir(gone)
        self.own(gone)
        done = run(*self.as_user, 'sh', '-c', 'rmdir "$1"; exec "$2" mount disk.img mnt', 'sh', gone,
                   self.binary, cwd=gone, env=self.env, check=False)
        self.assertEqual(done.returncode, REFUSED)
        self.assertIn('current directory', done.stderr)

    def test_children_ignored(self):
        """Whoever ignores its children passes that on."""
        run(*self.as_user, 'sh', '-c', 'trap "" CHLD; exec "$1" mount "$2" "$3"', 'sh', self.binary,
            self.image, self.mnt, env=self.env)
        self.ctl('umount', self.mnt)
        self.wait_over()

    def test_a_daemon_is_named(self):
        said = self.ctl('-s', '/x', 'mount', self.image, self.mnt, status=USAGE).stderr
        self.assertIn('wharfctl export', said)

    def test_twice(self):
        self.ctl('mount', self.image, self.mnt)
        said = self.ctl('mount', self.image, self.mnt, status=REFUSED).stderr
        self.assertIn('is mounted', said)
        self.assertEqual(self.read(self.mnt, 5), b'hello')
        self.ctl('umount', self.mnt)
        self.wait_over()

    def test_read_only_image(self):
        os.chmod(self.image, 0o444)
        self.ctl('mount', self.image, self.mnt)
        self.ctl('umount', self.mnt)
        self.wait_over()

    def test_runs_without_its_terminal(self):
        """The daemon keeps neither the terminal nor the output of who started it."""
        done = run(*self.as_user, 'sh', '-c', f'"{self.binary}" mount "$1" "$2" | cat', 'sh', self.image,
                   self.mnt, env=self.env)
        self.assertIn('read-only', done.stdout)
        pid, = self.daemons()
        for fd in (0, 1, 2):
            self.assertEqual(os.readlink(f'/proc/{pid}/fd/{fd}'), '/dev/null')
        self.assertNotEqual(os.getsid(pid), os.getsid(0))
        self.ctl('umount', self.mnt)
        self.wait_over()

    def test_killed_daemon(self):
        """What it leaves is named by ls, cleared by umount, and no obstacle to mounting again."""
        self.ctl('mount', self.image, self.mnt)
        pid, = self.daemons()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.daemons())
        self.assertTrue(self.mounted(self.mnt))
        self.ctl('umount', self.mnt)
        self.assertFalse(self.mounted(self.mnt))
        self.ctl('mount', self.image, self.mnt)
        pid, = self.daemons()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.daemons())
        said = run(*self.as_user, self.binary, 'mount', self.image, self.mnt, env=self.env).stderr
        self.assertIn(f"cleared '{self.mnt}'", said)
        self.assertEqual(self.read(self.mnt, 5), b'hello')
        self.ctl('umount', self.mnt)

    def test_terminated_daemon(self):
        self.ctl('mount', self.image, self.mnt)
        pid, = self.daemons()
        os.kill(pid, signal.SIGTERM)
        self.wait_over()

    def test_dead_sockets(self):
        """Dead sockets do not disturb, and go once they are old."""
        os.mkdir(f'{self.runtime}/wharf', 0o700)
        self.own(f'{self.runtime}/wharf')
        dead = f'{self.runtime}/wharf/mount-1-00000000.sock'
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(dead)
        self.own(dead)
        self.assertEqual(self.ctl('ls').stdout, 'Nothing is exported.\n')
        self.assertTrue(os.path.exists(dead))
        os.utime(dead, (1, 1))
        self.assertEqual(self.ctl('ls').stdout, 'Nothing is exported.\n')
        self.assertFalse(os.path.exists(dead))


class Umount(MountTest):
    def test_in_use(self):
        self.ctl('mount', self.image, self.mnt)
        fs = self.fs()
        fd = fs.open(self.mnt, os.O_RDONLY)
        said = self.ctl('umount', self.mnt, status=REFUSED).stderr
        self.assertIn('is in use', said)
        self.assertIn(f'fuser -v {self.mnt}', said)
        self.assertEqual(fs.pread(fd, 5, 0), b'hello')
        self.ctl('umount', '--lazy', self.mnt)
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(fs.pread(fd, 5, 0), b'hello')
        self.assertEqual(len(self.daemons()), 1)
        fs.close(fd)
        self.wait_over()

    def test_mounted_elsewhere_too(self):
        """Then the export goes on, which is no failure, and nothing to wait for."""
        self.need_root()
        other = self.mountpoint('other')
        self.ctl('mount', self.image, self.mnt)
        run('mount', '--bind', self.mnt, other)
        done = run(*self.as_user, self.binary, 'umount', self.mnt, env=self.env)
        self.assertIn('goes on', done.stderr)
        self.assertIn('mount namespace', done.stderr)
        self.assertNotIn('GLib', done.stderr)
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(self.read(other, 5), b'hello')
        run('umount', other)
        self.wait_over()

    @timeout(180)
    def test_daemon_that_hangs(self):
        """It is found out in time, and does not keep others from being seen."""
        self.ctl('mount', self.image, self.mnt)
        hanging = self.daemons()[0]
        os.kill(hanging, signal.SIGSTOP)
        self.addCleanup(os.kill, hanging, signal.SIGCONT)
        self.ctl('mount', self.image, self.path('second'))
        done = run(*self.as_user, self.binary, 'ls', env=self.env)
        self.assertIn('does not answer', done.stderr)
        self.assertIn(self.path('second'), done.stdout)
        self.ctl('umount', self.path('second'))

    def test_not_ours(self):
        self.assertIn('nothing is mounted', self.ctl('umount', self.image, status=REFUSED).stderr)
        self.assertIn('No such file', self.ctl('umount', '/no/such', status=REFUSED).stderr)
        said = self.ctl('umount', '/proc', status=REFUSED).stderr
        self.assertIn('no export, but of type proc', said)

    def test_everything_is_written(self):
        """When umount returns the image is complete, whatever program wrote last."""
        self.ctl('mount', '-w', self.image, self.mnt)
        run(*self.as_user, 'dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=64k', 'count=16', 'conv=notrunc')
        self.ctl('umount', self.mnt)
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read().count(0), 1 << 20)


class Unprivileged(Mount):
    """All of it by an ordinary user, through fusermount3."""

    @classmethod
    def setUpClass(cls):
        tools.let_all_use_fuse()

    def setUp(self):
        super().setUp()
        self.need_root()
        self.as_user = [find_tool('setpriv'), f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups',
                        '--']
        self.env['WHARFD'] = self.copy_for_all(os.environ['WHARFD'])
        self.binary = self.copy_for_all(os.environ['WHARFCTL'])
        for path in (self.dir, self.runtime, self.image):
            self.own(path)
        done = run(*self.as_user, self.binary, '--version', check=False)
        if done.returncode:
            self.skipTest(f'nobody cannot run programs here: {done.stderr}')

    def own(self, path):
        os.chown(path, NOBODY, NOBODY)
        return path

    def make_file(self, *args, **kwargs):
        return self.own(super().make_file(*args, **kwargs))

    def test_without_permission(self):
        secret = self.make_file('secret.img', 512)
        os.chown(secret, 0, 0)
        os.chmod(secret, 0o600)
        said = self.ctl('mount', secret, self.mnt, status=REFUSED).stderr
        self.assertIn('no permission to read the image', said)
        said = self.ctl('mount', '--format=raw', secret, self.mnt, status=REFUSED).stderr
        self.assertIn('Permission denied', said)
        os.chmod(secret, 0o644)
        said = self.ctl('mount', '-w', secret, self.mnt, status=REFUSED).stderr
        self.assertIn('Permission denied', said)
        self.assertIn(secret, said)
        foreign = self.make_file('foreign')
        os.chown(foreign, 0, 0)
        said = self.ctl('mount', self.image, foreign, status=REFUSED).stderr
        self.assertIn(foreign, said)
        self.wait_over()

    def test_no_place_for_sockets(self):
        """Another's directory in /tmp is not trusted."""
        os.chown(self.runtime, 0, 0)
        env = {'XDG_RUNTIME_DIR': self.runtime}
        place = f'/tmp/wharf-{NOBODY}'
        if os.path.exists(place):
            self.skipTest(f'{place} is in use')
        os.mkdir(place, 0o777)
        self.addCleanup(shutil.rmtree, place)
        said = self.ctl('mount', self.image, self.mnt, status=REFUSED, env=env).stderr
        self.assertIn('no directory of yours alone', said)


if __name__ == '__main__':
    main()
