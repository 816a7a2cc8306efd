# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl's short forms on a running daemon: export, rm, ls, graph, events."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import threading

from wharf import *
from wharf.ctl import REFUSED, UNREACHABLE, CtlTest

QCOW2 = b'QFI\xfb\0\0\0\3'


class ExportTest(CtlTest):
    def setUp(self):
        super().setUp()
        self.need_fuse()
        self.mnt = self.path('mnt')

    def nodes(self):
        return self.ctl_json('query-named-block-nodes')

    def read(self, path, size=64):
        """The first bytes at a mountpoint, by a child that cannot hang us."""
        return in_child(_read, path, size)


def _write(path, data):
    with open(path, 'r+b') as f:
        f.write(data)


def _read(path, size):
    with open(path, 'rb') as f:
        return f.read(size)


class Export(ExportTest):
    def test_export_and_rm(self):
        image = self.make_file('disk.img', 1 << 20, b'hello')
        self.daemon()
        said = self.ctl('export', image, self.mnt).stdout
        self.assertIn('read-only', said)
        self.assertIn('wharfctl rm disk', said)
        self.assertEqual(self.read(self.mnt, 5), b'hello')
        self.assert_errno(errno.EROFS, in_child, os.open, self.mnt, os.O_WRONLY)
        self.assertEqual(self.ctl('rm', 'disk').stdout, '')
        self.assertFalse(self.mounted(self.mnt))
        self.assertEqual(self.nodes(), [])
        self.assertEqual(os.path.getsize(self.mnt), 0)

    def test_writable(self):
        image = self.make_file('disk.img', 1000, b'hello')
        self.daemon()
        self.ctl('export', '-w', image, self.mnt)
        run('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=5', 'count=1', 'conv=notrunc,fsync')
        with open(image, 'rb') as f:
            self.assertEqual(f.read(6), b'\0\0\0\0\0\0')
        self.assertEqual(os.path.getsize(image), 1000)

    def test_growable(self):
        image = self.make_file('disk.img', 0)
        self.daemon()
        self.assertIn('--writable', self.refused('export', '-g', image, self.mnt))
        self.ctl('export', '-wg', image, self.mnt)
        run('sh', '-c', 'echo more > "$1"', 'sh', self.mnt)
        with open(image, 'rb') as f:
            self.assertEqual(f.read(), b'more\n')

    def test_punched_holes_reach_the_image(self):
        image = self.make_file('disk.img', content=b'x' * (1 << 20))
        self.daemon()
        self.ctl('export', '-w', image, self.mnt)
        run('fallocate', '-p', '-o', 0, '-l', 1 << 19, self.mnt)
        self.assertLess(os.stat(image).st_blocks * 512, 1 << 20)

    def test_json(self):
        image = self.make_file('disk.img', 4096)
        self.daemon()
        facts = self.ctl_json('export', '--writable', '--id', 'e0', image, self.mnt)
        self.assertEqual(facts, {'id': 'e0', 'image': image, 'mountpoint': self.mnt, 'writable': True})
        row, = self.ctl_json('ls')
        self.assertEqual((row['id'], row['image'], row['size'], row['mountpoint'], row['socket']),
                         ('e0', image, 4096, self.mnt, self.socket))

    def test_relative_paths(self):
        """They count from where the user is, not from where the daemon is."""
        self.make_file('disk.img', 512, b'here')
        self.daemon()
        os.mkdir(self.path('sub'))
        self.ctl('export', '../disk.img', 'mnt', cwd=self.path('sub'))
        self.assertEqual(self.read(self.path('sub/mnt'), 4), b'here')

    def test_names(self):
        """Ids come from file names, whatever these are, and never clash."""
        self.daemon()
        os.mkdir(self.path('d'))
        for n, (name, wanted) in enumerate((('disk.img', 'disk'), ('disk.raw', 'disk-2'),
                                            ('d/disk.img', 'disk-3'), ('7 of 9, (new)', 'image-7-of-9-new'),
                                            ('ü=\'"$(x).img', 'image-x'), ('x' * 200, 'x' * 26))):
            image = self.make_file(name, 512)
            facts = self.ctl_json('export', image, self.path(f'mnt {n} ü,=\'"'))
            self.assertEqual(facts['id'], wanted)
        self.assertEqual(len(self.ctl('ls').stdout.splitlines()), 7)

    def test_name_taken(self):
        image = self.make_file('disk.img', 512)
        self.daemon()
        self.ctl('export', '--id=e0', image, self.mnt)
        said = self.refused('export', '--id=e0', image, self.path('other'), status=REFUSED)
        self.assertIn('e0', said)
        self.assertFalse(os.path.exists(self.path('other')))
        self.assertIn('too long', self.refused('export', '-i', 'x' * 40, image, self.path('other')))
        for wrong in ('9x', 'ü', ''):
            self.assertIn(f"'{wrong}' is no export id", self.refused('export', '-i', wrong, image, self.path('other')))
        self.assertIn('IMAGE is empty', self.refused('export', '', self.path('other')))
        self.assertIn('FILE is empty', self.refused('export', image, ''))
        self.assertEqual(len(self.ctl_json('ls')), 1)

    def test_many_at_once(self):
        """Several users export images of the same name at the same moment."""
        image = self.make_file('disk.img', 512)
        self.daemon()
        env = {**self.env, 'WHARF_SOCKET': self.socket}
        started = [subprocess.Popen([os.environ['WHARFCTL'], 'export', image, self.path(f'm{i}')], env=env,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(8)]
        for process in started:
            _, said = process.communicate(timeout=TIMEOUT)
            self.assertEqual((process.returncode, said), (0, b''))
        ids = {row['id'] for row in self.ctl_json('ls')}
        self.assertEqual(ids, {'disk'} | {f'disk-{i}' for i in range(2, 9)})
        said = self.refused('rm', 'nobody', *sorted(ids), status=REFUSED)
        self.assertIn("no export 'nobody'", said)
        self.assertEqual((self.ctl_json('ls'), self.nodes()), ([], []))

    def test_failure_leaves_nothing(self):
        image = self.make_file('disk.img', 512)
        os.mkdir(self.path('dir'))
        self.daemon()
        for words, part in (
                ([image, self.path('dir')], 'regular file'),
                ([image, self.path('no/such')], 'No such file or directory'),
                ([self.path('nosuch'), self.mnt], 'No such file or directory'),
                ([self.path('dir'), self.mnt], 'is a directory'),
                (['/dev/null', self.mnt], 'neither a file nor a block device'),
                ([image, '/dev/null'], 'regular file'),
        ):
            with self.subTest(words=words):
                said = self.refused('export', *words, status=REFUSED)
                self.assertIn(part, said)
                self.assertIn(words[0], said)
                self.assertIn(words[1], said)
        self.assertEqual((self.ctl_json('ls'), self.nodes()), ([], []))
        self.assertFalse(os.path.exists(self.mnt))

    def test_other_formats(self):
        """A guess never opens anything but raw, and says what it has seen."""
        self.daemon()
        image = self.make_file('disk.qcow2', 1 << 16, QCOW2)
        said = self.refused('export', image, self.mnt, status=REFUSED)
        self.assertIn('qcow2', said)
        self.assertIn('--format=raw', said)
        self.assertIn('--format=qcow2', said)
        self.assertIn("cannot be 'vmdk'", self.refused('export', '-f', 'vmdk', image, self.mnt))
        self.assertIn('2^0 bytes', self.refused('export', '-f', 'qcow2', image, self.mnt, status=REFUSED))
        self.ctl('export', '--format=raw', image, self.mnt)
        self.assertEqual(self.read(self.mnt, 8), QCOW2)

    def test_qcow2(self):
        self.daemon()
        image = self.path('disk.qcow2')
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', image, '1M')
        run(find_tool('qemu-io'), '-f', 'qcow2', '-c', 'write -P 120 64k 4k', image)
        self.ctl('export', '--format=qcow2', image, self.mnt)
        self.assertEqual(self.read(self.mnt, 1 << 20), b'\0' * 65536 + b'x' * 4096 + b'\0' * (1048576 - 69632))
        self.ctl('umount', self.mnt)
        self.ctl('export', '-wf', 'qcow2', image, self.mnt)
        in_child(_write, self.mnt, b'changed')
        self.ctl('umount', self.mnt)
        run(find_tool('qemu-img'), 'check', '-f', 'qcow2', image)
        run(find_tool('qemu-io'), '-f', 'qcow2', '-c', 'read -P 99 0 1', image)

    def test_small_images(self):
        self.daemon()
        for size in (0, 1, 511):
            image = self.make_file(f'd{size}.img', content=b'x' * size)
            self.ctl('export', image, self.path(f'm{size}'))
            self.assertEqual(self.read(self.path(f'm{size}'), 4096), b'x' * size)
        sizes = {row['id']: row['size'] for row in self.ctl_json('ls')}
        self.assertEqual(sizes, {'d0': 0, 'd1': 1, 'd511': 511})

    def test_device(self):
        self.need_loop()
        losetup = find_tool('losetup')
        image = self.make_file('disk.img', 1 << 20, b'device')
        device = run(losetup, '-f', '--show', image).stdout.strip()
        self.addCleanup(run, losetup, '-d', device, check=False)
        self.daemon()
        self.ctl('export', device, self.mnt)
        self.assertEqual(self.read(self.mnt, 6), b'device')
        self.ctl('rm', os.path.basename(device))


class Rm(ExportTest):
    def test_unknown(self):
        image = self.make_file('disk.img', 512)
        self.daemon()
        self.assertIn("no export 'x'", self.refused('rm', 'x', status=REFUSED))
        self.ctl('export', image, self.mnt)
        self.assertIn("did you mean 'disk'?", self.refused('rm', 'disl', status=REFUSED))

    def test_other_nodes_stay(self):
        """Only the node that export made goes with it, and only if nobody else uses it."""
        image = self.make_file('disk.img', 512)
        self.daemon()
        self.ctl('blockdev-add', 'driver=file', 'node-name=mine', f'filename={image}', 'read-only=on')
        for name in ('m0', 'm1'):
            self.mountpoint(name)
        self.ctl('block-export-add', 'type=fuse', 'id=e0', 'node-name=mine',
                 f'mountpoint={self.path("m0")}')
        self.ctl('rm', 'e0')
        self.assertIn('mine', [n['node-name'] for n in self.nodes()])

        self.ctl('export', image, self.mnt)
        self.ctl('block-export-add', 'type=fuse', 'id=e1', 'node-name=disk.node',
                 f'mountpoint={self.path("m1")}')
        env = {**self.env, 'WHARF_SOCKET': self.socket}
        done = self.wharfctl('rm', 'disk', env=env)
        self.assertIn("note: the node 'disk.node' stays", done.stderr)
        self.assertIn('disk.node', [n['node-name'] for n in self.nodes()])

    def test_open_by_a_program(self):
        image = self.make_file('disk.img', 512, b'x')
        self.daemon()
        self.ctl('export', image, self.mnt)
        fs = self.fs()
        fd = fs.open(self.mnt, os.O_RDONLY)
        self.ctl('rm', 'disk')
        self.assert_errno(errno.ENOTCONN, fs.pread, fd, 1, 0)

    def test_umount_of_an_export(self):
        """umount refuses where rm cuts off, and takes the node along, too."""
        image = self.make_file('disk.img', 512, b'x')
        self.daemon()
        self.ctl('export', image, self.mnt)
        fs = self.fs()
        fd = fs.open(self.mnt, os.O_RDONLY)
        said = self.refused('umount', self.mnt, status=REFUSED)
        self.assertIn('is in use', said)
        self.assertIn('--lazy', said)
        self.assertEqual(fs.pread(fd, 1, 0), b'x')
        fs.close(fd)
        # The kernel tells of the close a little later than close() returns.
        wait_until(lambda: self.wharfctl('umount', self.mnt, check=False,
                                         env={**self.env, 'WHARF_SOCKET': self.socket}).returncode == 0)
        self.assertEqual((self.ctl_json('ls'), self.nodes()), ([], []))


class Show(ExportTest):
    def test_ls(self):
        image = self.make_file('disk.img', 10 << 20)
        self.daemon()
        self.assertEqual(self.ctl('ls').stdout, 'Nothing is exported.\n')
        self.assertEqual(self.ctl_json('ls'), [])
        self.ctl('export', '-w', image, self.mnt)
        header, row = self.ctl('ls').stdout.splitlines()
        self.assertEqual(header.split(), ['ID', 'TYPE', 'MODE', 'SIZE', 'IMAGE', 'FILE'])
        self.assertEqual(row.split(), ['disk', 'fuse', 'rw', '10', 'MiB', image, self.mnt])

    def test_ls_shows_the_image_below(self):
        """Whatever lies between an export and its image."""
        image = self.make_file('disk.img', 1 << 20)
        self.daemon()
        self.ctl('blockdev-add', 'driver=raw', 'node-name=part', 'offset=512', 'file.driver=raw',
                 'file.file.driver=file', f'file.file.filename={image}', 'read-only=on')
        self.ctl('block-export-add', 'type=fuse', 'id=e0', 'node-name=part',
                 f'mountpoint={self.mountpoint()}')
        row, = self.ctl_json('ls')
        self.assertEqual(row['image'], image)

    def test_ls_without_a_daemon(self):
        self.refused('ls', status=UNREACHABLE)
        self.assertEqual(self.wharfctl('ls', env=self.env).stdout, 'Nothing is exported.\n')

    def test_graph(self):
        image = self.make_file('disk.img', 1 << 20)
        self.daemon()
        self.assertIn('no nodes', self.ctl('graph').stdout)
        self.ctl('export', image, self.mnt)
        self.ctl('blockdev-add', 'driver=null-co', 'node-name=alone')
        tree = self.ctl('graph').stdout.splitlines()
        self.assertRegex(tree[0], rf'^disk  \(fuse export, read-only, {self.mnt}\)$')
        self.assertRegex(tree[1], r'^└─ disk\.node  \(raw, 1 MiB, read-only\)$')
        self.assertRegex(tree[2], rf'^   └─ file: #block\d+  \(file, 1 MiB, read-only, {image}\)$')
        self.assertRegex(tree[3], r'^alone  \(null-co, 1 GiB.*\)$')
        self.assertEqual(len(tree), 4)
        plain = self.wharfctl('graph', env={**self.env, 'LC_ALL': 'C', 'WHARF_SOCKET': self.socket}).stdout
        self.assertTrue(plain.isascii())
        self.assertIn('`- disk.node', plain)

    def test_graph_shared_node(self):
        image = self.make_file('disk.img', 1 << 20)
        self.daemon()
        self.ctl('blockdev-add', 'driver=file', 'node-name=f', f'filename={image}')
        self.ctl('blockdev-add', 'driver=raw', 'node-name=a', 'file=f', 'size=512')
        self.ctl('blockdev-add', 'driver=raw', 'node-name=b', 'file=f', 'offset=512')
        tree = self.ctl('graph').stdout
        self.assertEqual(tree.count('see above'), 1)
        self.assertEqual(len(tree.splitlines()), 4)

    def test_graph_dot(self):
        image = self.make_file('a "b" \\.img', 512)
        self.daemon()
        self.ctl('export', '--id=e0', image, self.mnt)
        text = self.ctl('graph', '--dot').stdout
        self.assertTrue(text.startswith('digraph'))
        self.assertIn('"export:e0" -> "node:e0.node"', text)
        self.assertIn('[label="file"]', text)
        self.assertEqual(text.count('{'), text.count('}'))


class Relay:
    """Stands between a client and a daemon's socket, and can cut all connections."""

    def __init__(self, path, target):
        self.path = path
        self.target = target
        self.sockets = []
        self.open()

    def open(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self.serve, args=(self.listener,), daemon=True).start()

    def serve(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(self.target)
            self.sockets += [client, daemon]
            for source, sink in ((client, daemon), (daemon, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        os.unlink(self.path)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its other side has gone already
        self.sockets.clear()


class Events(ExportTest):
    def start(self, *args, sock=None):
        process = subprocess.Popen(
            [os.environ['WHARFCTL'], '-s', sock or self.socket, '--json', 'events', *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env, text=True)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        process.communicate()

    def deleted(self, name, i):
        """Make an event: an export that goes."""
        image = self.make_file(f'{name}.img', 512)
        self.ctl('export', image, self.path(f'm{i}'))
        self.ctl('rm', name)

    def first_line(self, process):
        """Events are heard from the moment of the subscription on: make some until one is."""
        for i in range(300):
            self.deleted(f'e{i}', i)
            if select.select([process.stdout], [], [], 0.2)[0]:
                return process.stdout.readline()
        self.fail('no event came')

    def first_event(self, process):
        return json.loads(self.first_line(process))

    def test_follow(self):
        self.daemon()
        process = self.start()
        line = self.first_event(process)
        self.assertEqual(line['event'], 'BLOCK_EXPORT_DELETED')
        self.assertTrue(line['data']['id'].startswith('e'))

    def test_text(self):
        self.daemon()
        process = subprocess.Popen([os.environ['WHARFCTL'], '-s', self.socket, 'events'],
                                   stdout=subprocess.PIPE, env=self.env, text=True)
        self.addCleanup(self.end, process)
        self.assertRegex(self.first_line(process), r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} '
                         r'BLOCK_EXPORT_DELETED id=e\d+ reason=deleted\n$')

    def test_ends_with_its_reader(self):
        """A pipe that nobody reads any longer ends it at once, not at the next event."""
        self.daemon()
        process = self.start()
        self.first_event(process)
        process.stdout.close()
        process.stdout = None
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_reconnect(self):
        """A daemon that comes back is followed again."""
        daemon = self.daemon()
        process = self.start()
        self.first_event(process)
        daemon.quit()
        said = process.stderr.readline()
        self.assertIn('lost', said)
        self.wharfd(name='wharfd', jsonrpc=True)
        self.assertIn('connected again', process.stderr.readline())
        self.assertIn('new run', process.stderr.readline())
        self.assertEqual(self.first_event(process)['event'], 'BLOCK_EXPORT_DELETED')

    def test_missed_events(self):
        """What happened while the connection was lost comes after all, once and in order."""
        self.daemon()
        relay = Relay(self.path('relay'), self.socket)
        process = self.start(sock=relay.path)
        last = self.first_event(process)
        relay.cut()
        self.assertIn('lost', process.stderr.readline())
        for i in range(3):
            self.deleted(f'missed{i}', 1000 + i)
        relay.open()
        self.addCleanup(relay.cut)
        self.assertIn('connected again', process.stderr.readline())
        seen = []
        while len(seen) < 3:
            event = json.loads(process.stdout.readline())
            self.assertEqual(event['seq'], last['seq'] + 1)
            last = event
            if event['data']['id'].startswith('missed'):
                seen.append(event['data']['id'])
        self.assertEqual(seen, ['missed0', 'missed1', 'missed2'])

    def test_no_reconnect(self):
        daemon = self.daemon()
        process = self.start('--no-reconnect')
        self.first_event(process)
        daemon.quit()
        _, said = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, UNREACHABLE)
        self.assertIn('lost', said)

    def test_interrupt(self):
        self.daemon()
        process = self.start()
        self.first_event(process)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT), -signal.SIGINT)


if __name__ == '__main__':
    main()
