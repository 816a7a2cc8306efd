# SPDX-License-Identifier: GPL-2.0-or-later
"""Block nodes over QMP, by the contract's sections B1 to B4, B5 (active), B8, B9 and B10."""

import json
import os
import threading

from wharf import *

KIB = 1 << 10
MIB = 1 << 20


class NodeTest(IoTest):
    def setUp(self):
        super().setUp()
        self.image = self.make_file('disk.img', MIB, b'first bytes')
        self.daemon = self.wharfd()
        self.qmp = self.daemon.qmp

    def add(self, **options):
        self.qmp.cmd('blockdev-add', {key.replace('_', '-'): v for key, v in options.items()})

    def refused(self, command, arguments, *words):
        """The command is refused with GenericError, and its text names the given words."""
        with self.assertRaises(QmpError, msg=f'{command} {arguments}') as caught:
            self.qmp.cmd(command, arguments)
        self.assertEqual(caught.exception.cls, 'GenericError', caught.exception.desc)
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def add_refused(self, options, *words):
        """So is blockdev-add, and it leaves no node and no descriptor behind."""
        before = self.names(), len(self.daemon.fds())
        self.refused('blockdev-add', options, *words)
        self.assertEqual((self.names(), len(self.daemon.fds())), before)

    def names(self):
        return [node['node-name'] for node in self.qmp.cmd('query-named-block-nodes')]

    def node(self, name):
        for node in self.qmp.cmd('query-named-block-nodes'):
            if node['node-name'] == name:
                return node
        raise AssertionError(f'no node {name}')

    def stats(self, name):
        for element in self.qmp.cmd('query-blockstats', {'query-nodes': True}):
            if element['node-name'] == name:
                return element
        raise AssertionError(f'no node {name}')


class Names(NodeTest):
    def test_node_names(self):
        for good in ('a', 'Z', 'x9-._', 'a' * 31):
            self.add(driver='null-co', node_name=good)
            self.qmp.cmd('blockdev-del', {'node-name': good})
        for bad in ('', '9', '-x', '.x', '_x', '#block007', 'a b', 'a/b', 'a,b', 'ä', 'a\x00b', 'a' * 32):
            self.add_refused({'driver': 'null-co', 'node-name': bad})
        self.add_refused({'driver': 'null-co', 'node-name': 'a' * 32}, '31')
        self.add(driver='null-co', node_name='n')
        self.add_refused({'driver': 'null-co', 'node-name': 'n'}, "'n'")
        self.add_refused({'driver': 'null-co'}, 'node-name')
        self.add(driver='null-co', node_name='N')

    def test_implicit_names(self):
        self.add(driver='raw', node_name='top', file={'driver': 'null-co'})
        inner = next(name for name in self.names() if name != 'top')
        self.assertRegex(inner, '^#block[0-9]+$')
        self.refused('blockdev-del', {'node-name': inner}, 'top')


class Adding(NodeTest):
    def test_schema(self):
        add = self.add_refused
        add({'node-name': 'n'}, 'driver')
        add({'driver': 'nonesuch', 'node-name': 'n'}, 'nonesuch')
        add({'driver': 5, 'node-name': 'n'}, 'driver')
        add({'driver': 'raw', 'node-name': 'n'}, 'file')
        add({'driver': 'raw', 'node-name': 'n', 'file': 'nobody'}, 'nobody')
        add({'driver': 'raw', 'node-name': 'n', 'file': {'driver': 'raw', 'file': 'nobody'}}, 'nobody')
        add({'driver': 'null-co', 'node-name': 'n', 'cache.direct': True}, 'cache.direct')
        add({'driver': 'null-co', 'node-name': 'n', 'cache': {'writeback': True}}, 'writeback')
        add({'driver': 'null-co', 'node-name': 'n', 'read-only': 'on'}, 'read-only')
        add({'driver': 'null-co', 'node-name': 'n', 'size': -1}, 'size')
        add({'driver': 'null-co', 'node-name': 'n', 'size': 1 << 63}, 'size')
        add({'driver': 'null-co', 'node-name': 'n', 'size': 512.0}, 'size')
        add({'driver': 'null-co', 'node-name': 'n', 'latency-ns': -1}, 'latency-ns')
        add({'driver': 'null-co', 'node-name': 'n', 'offset': 0}, 'offset')
        add({'driver': 'memory', 'node-name': 'n'}, 'size')

    def test_options_that_clash(self):
        self.add_refused({'driver': 'null-co', 'node-name': 'n', 'detect-zeroes': 'unmap'}, 'discard')
        self.add_refused({'driver': 'null-co', 'node-name': 'n', 'force-share': True}, 'read-only')
        self.add_refused({'driver': 'file', 'node-name': 'n', 'filename': self.image, 'aio': 'native'},
                         'cache', 'direct')
        self.add(driver='null-co', node_name='a', detect_zeroes='unmap', discard='unmap')
        self.add(driver='null-co', node_name='b', force_share=True, read_only=True)

    def test_files(self):
        def add(filename, *words):
            self.add_refused({'driver': 'file', 'node-name': 'n', 'filename': filename}, *words)

        add(self.path('missing'), 'missing', 'No such file')
        add(self.path('.'), self.path('.'))
        add('/dev/null', '/dev/null')
        add('')
        add('file:' + self.image, 'file:')
        self.add_refused({'driver': 'host_device', 'node-name': 'n', 'filename': self.image}, self.image)
        self.add_refused({'driver': 'raw', 'node-name': 'n',
                          'file': {'driver': 'file', 'filename': self.path('missing')}}, 'missing')

    def test_raw_window(self):
        self.add(driver='file', node_name='f', filename=self.image)
        for options, word in (({'offset': MIB + 1}, 'offset'), ({'offset': MIB, 'size': 512}, 'size'),
                              ({'size': MIB + 512}, 'size'), ({'size': 1000}, '512')):
            self.add_refused({'driver': 'raw', 'node-name': 'n', 'file': 'f', **options}, word)
        self.add(driver='raw', node_name='n', file='f', offset=7, size=512)
        self.assertEqual(self.node('n')['image']['virtual-size'], 512)
        self.add(driver='raw', node_name='empty', file='f', offset=MIB)
        self.assertEqual(self.node('empty')['image']['virtual-size'], 0)

    def test_null_sizes(self):
        self.add(driver='null-co', node_name='default')
        self.assertEqual(self.node('default')['image']['virtual-size'], 1 << 30)
        for size in (0, 1, 1000, (1 << 63) - (1 << 26)):
            self.add(driver='null-co', node_name='n', size=size)
            self.assertEqual(self.node('n')['image']['virtual-size'], (size + 511) // 512 * 512)
            self.qmp.cmd('blockdev-del', {'node-name': 'n'})

    def test_a_file_in_two_nodes(self):
        self.add(driver='file', node_name='a', filename=self.image)
        self.add(driver='file', node_name='b', filename=self.image)

    def test_deep_nesting(self):
        options = {'driver': 'null-co'}
        for _ in range(150):
            options = {'driver': 'raw', 'file': options}
        self.add_refused({**options, 'node-name': 'n'}, '64')
        self.add(driver='null-co', node_name='n0')
        with self.assertRaises(QmpError):
            for i in range(1, 200):
                self.add(driver='raw', node_name=f'n{i}', file=f'n{i - 1}')
        self.assertEqual(i, 64)

    def test_same_name_by_many_clients(self):
        clients = [self.daemon.qmp_client() for _ in range(8)]
        outcomes = []

        def add_and_del(client):
            for _ in range(20):
                try:
                    client.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n', 'file': {
                        'driver': 'file', 'node-name': 'inner', 'filename': self.image}})
                    outcomes.append(True)
                    client.cmd('blockdev-del', {'node-name': 'n'})
                except QmpError as e:
                    self.assertEqual(e.cls, 'GenericError')
                    outcomes.append(False)

        threads = [threading.Thread(target=add_and_del, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(outcomes), 160)
        self.assertIn(True, outcomes)
        # Whatever is left was added by one and deleted by nobody.
        self.assertIn(self.names(), ([], ['n', 'inner'], ['inner', 'n']))


class Deleting(NodeTest):
    def test_del(self):
        self.refused('blockdev-del', {'node-name': 'nobody'}, 'nobody')
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='raw', node_name='r', file='f')
        self.refused('blockdev-del', {'node-name': 'f'}, "'f'", "'r'")
        self.qmp.cmd('blockdev-del', {'node-name': 'r'})
        self.qmp.cmd('blockdev-del', {'node-name': 'f'})
        self.assertEqual(self.names(), [])
        self.assertNotIn(os.path.realpath(self.image), self.daemon.fds().values())

    def test_inline_children_go_too(self):
        self.add(driver='raw', node_name='top', file={
            'driver': 'raw', 'node-name': 'middle', 'file': {
                'driver': 'file', 'node-name': 'low', 'filename': self.image}})
        self.refused('blockdev-del', {'node-name': 'middle'}, 'middle', 'top')
        self.qmp.cmd('blockdev-del', {'node-name': 'top'})
        self.assertEqual(self.names(), [])
        self.assertNotIn(os.path.realpath(self.image), self.daemon.fds().values())

    @fuse_test
    def test_in_use_by_export(self):
        self.add_file_export(self.daemon, self.image, self.mountpoint())
        self.refused('blockdev-del', {'node-name': 'n0'}, 'n0', 'e0')


class Reopening(NodeTest):
    def reopen(self, *options):
        self.qmp.cmd('blockdev-reopen', {'options': list(options)})

    def reopen_refused(self, *options, words=()):
        self.refused('blockdev-reopen', {'options': list(options)}, *words)

    def test_empty(self):
        self.reopen()

    def test_defaults_return(self):
        self.add(driver='file', node_name='f', filename=self.image)
        file = {'driver': 'file', 'node-name': 'f', 'filename': self.image}
        self.reopen({**file, 'read-only': True, 'cache': {'no-flush': True}})
        self.assertTrue(self.node('f')['ro'])
        self.assertTrue(self.node('f')['cache']['no-flush'])
        self.reopen(file)
        self.assertFalse(self.node('f')['ro'])
        self.assertFalse(self.node('f')['cache']['no-flush'])

    def test_refused(self):
        other = self.make_file('other.img', MIB)
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='raw', node_name='r', file='f')
        file = {'driver': 'file', 'node-name': 'f', 'filename': self.image}
        raw = {'driver': 'raw', 'node-name': 'r', 'file': 'f'}
        self.reopen_refused({'driver': 'raw', 'file': 'f'}, words=['node-name'])
        self.reopen_refused({**raw, 'node-name': 'nobody'}, words=['nobody'])
        self.reopen_refused({'driver': 'null-co', 'node-name': 'r'}, words=['driver'])
        self.reopen_refused({**file, 'filename': other}, words=['filename'])
        self.reopen_refused({'driver': 'raw', 'node-name': 'r'}, words=['file'])
        self.reopen_refused({**raw, 'file': 'nobody'}, words=['nobody'])
        self.reopen_refused({**raw, 'file': file}, words=['file'])
        self.reopen_refused({**raw, 'file': 'r'}, words=['itself'])
        # All or none, in either order.
        for options in ([{**raw, 'read-only': True}, {**file, 'filename': other}],
                        [{**file, 'filename': other}, {**raw, 'read-only': True}]):
            self.reopen_refused(*options, words=['filename'])
            self.assertFalse(self.node('r')['ro'])

    @fuse_test
    def test_exchange_while_exported(self):
        second = self.make_file('second.img', 2 * MIB, b'second bytes')
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='file', node_name='g', filename=second)
        self.add(driver='raw', node_name='r', file='f')
        mnt = self.mountpoint()
        self.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'r',
                                          'mountpoint': mnt, 'writable': True})
        fs = self.fs()
        fd = fs.open(mnt, os.O_RDWR)
        self.assertEqual(fs.pread(fd, 11, 0), b'first bytes')
        self.reopen({'driver': 'raw', 'node-name': 'r', 'file': 'g'})
        self.assertEqual(fs.pread(fd, 12, 0), b'second bytes')
        wait_until(lambda: fs.fstat(fd).st_size == 2 * MIB, what='the new length')
        self.refused('blockdev-del', {'node-name': 'g'}, 'r')
        self.qmp.cmd('blockdev-del', {'node-name': 'f'})
        # A writer is there, so neither of the two can become read-only.
        self.reopen_refused({'driver': 'raw', 'node-name': 'r', 'file': 'g', 'read-only': True},
                            words=['read-only', 'e'])
        self.reopen_refused({'driver': 'file', 'node-name': 'g', 'filename': second, 'read-only': True},
                            words=['read-only'])
        fs.pwrite(fd, b'written', 0)
        fs.close(fd)

    @fuse_test
    def test_under_our_own_mount(self):
        """B13: the file's path is covered by our own export of it."""
        self.add_file_export(self.daemon, self.image, self.image, writable=True)
        node = next(name for name in self.names() if self.node(name)['drv'] == 'file')
        self.reopen({'driver': 'file', 'node-name': node, 'filename': self.image,
                     'discard': 'unmap'})
        self.reopen({'driver': 'file', 'node-name': node, 'filename': self.image,
                     'cache': {'no-flush': True}})
        fs = self.fs()
        fd = fs.open(self.image, os.O_RDONLY)
        self.assertEqual(fs.pread(fd, 11, 0), b'first bytes')
        fs.close(fd)


class Active(NodeTest):
    def set_active(self, active, name=None):
        arguments = {'active': active}
        if name:
            arguments['node-name'] = name
        self.qmp.cmd('blockdev-set-active', arguments)

    def test_set_active(self):
        self.add(driver='raw', node_name='r', active=False, file={
            'driver': 'file', 'node-name': 'f', 'filename': self.image})
        self.assertFalse(self.node('r')['active'])
        self.assertFalse(self.node('f')['active'])
        self.set_active(True, 'r')
        self.assertTrue(self.node('f')['active'])
        self.refused('blockdev-set-active', {'node-name': 'f', 'active': False}, 'r')
        self.set_active(False)
        self.assertFalse(self.node('r')['active'])
        self.refused('blockdev-set-active', {'node-name': 'nobody', 'active': False}, 'nobody')

    @fuse_test
    def test_exports(self):
        self.add(driver='raw', node_name='r', active=False, file={
            'driver': 'file', 'filename': self.image})
        self.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'r',
                                          'mountpoint': self.mountpoint()})
        self.assertTrue(self.node('r')['active'])
        # Better than QSD: also below one that only reads.
        self.refused('blockdev-set-active', {'node-name': 'r', 'active': False}, 'e')
        self.qmp.cmd('block-export-del', {'id': 'e'})
        self.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e'})
        self.set_active(False, 'r')


class Queries(NodeTest):
    def test_nodes(self):
        self.add(driver='file', node_name='f', filename=self.image, discard='unmap',
                 cache={'no-flush': True})
        self.add(driver='raw', node_name='r', file='f', read_only=True)
        self.add(driver='null-co', node_name='n')
        self.add(driver='null-co', node_name='sized', size=1000)
        self.assertEqual(self.names(), ['sized', 'n', 'r', 'f'])
        file, raw = self.node('f'), self.node('r')
        for node in file, raw:
            self.assertEqual(node['file'], self.image)
            self.assertEqual(node['image']['filename'], self.image)
            self.assertEqual(node['image']['virtual-size'], MIB)
            self.assertEqual(node['image']['actual-size'], os.stat(self.image).st_blocks * 512)
            self.assertFalse(node['image']['dirty-flag'])
            self.assertFalse(node['encrypted'])
            self.assertTrue(node['active'])
            self.assertEqual(node['detect_zeroes'], 'off')
            self.assertEqual(node['backing_file_depth'], 0)
            self.assertEqual(node['write_threshold'], 0)
            self.assertEqual([node[key] for key in ('bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr')],
                             [0] * 6)
            limits = node['image']['limits']
            for key in ('request-alignment', 'min-mem-alignment', 'opt-mem-alignment', 'max-iov'):
                self.assertGreater(limits[key], 0)
        self.assertEqual(file['drv'], 'file')
        self.assertEqual(file['cache'], {'writeback': True, 'direct': False, 'no-flush': True})
        self.assertFalse(file['ro'])
        self.assertEqual(file['children'], [])
        self.assertTrue(raw['ro'])
        self.assertEqual(raw['image']['format'], 'raw')
        self.assertEqual(raw['children'], [{'child': 'file', 'node-name': 'f'}])
        self.assertEqual(self.node('n')['file'], 'null-co://')
        self.assertNotIn('dirty-flag', self.node('n')['image'])
        name = self.node('sized')['file']
        self.assertTrue(name.startswith('json:'), name)
        self.assertEqual(json.loads(name[5:])['size'], 1000)
        self.assertEqual(self.qmp.cmd('query-named-block-nodes', {'flat': True}),
                         self.qmp.cmd('query-named-block-nodes'))
        self.assertEqual(self.qmp.cmd('query-block'), [])

    @fuse_test
    def test_blockstats(self):
        self.assertEqual(self.qmp.cmd('query-blockstats'), [])
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='raw', node_name='r', file='f', offset=512)
        mnt = self.mountpoint()
        self.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'r',
                                          'mountpoint': mnt, 'writable': True})
        fs = self.fs()
        fd = fs.open(mnt, os.O_RDWR)
        fs.pwrite(fd, b'x' * 4096, 8192)
        fs.pread(fd, 512, 0)
        fs.fsync(fd)
        fs.close(fd)
        self.assertEqual([e['node-name'] for e in
                          self.qmp.cmd('query-blockstats', {'query-nodes': True})], ['f', 'r'])
        raw, file = self.stats('r')['stats'], self.stats('f')['stats']
        for stats in raw, file:
            self.assertEqual(stats['wr_operations'], 1)
            self.assertEqual(stats['wr_bytes'], 4096)
            self.assertGreater(stats['wr_total_time_ns'], 0)
            self.assertGreaterEqual(stats['rd_operations'], 1)
            self.assertGreaterEqual(stats['flush_operations'], 1)
            self.assertEqual(stats['failed_wr_operations'], 0)
            self.assertEqual(stats['timed_stats'], [])
        self.assertEqual(raw['wr_highest_offset'], 8192 + 4096)
        self.assertEqual(file['wr_highest_offset'], 512 + 8192 + 4096)
        self.assertEqual(self.stats('r')['parent']['node-name'], 'f')
        self.assertEqual(self.stats('f')['driver-specific']['driver'], 'file')


class Resizing(NodeTest):
    def resize(self, size, name='f'):
        self.qmp.cmd('block_resize', {'node-name': name, 'size': size})

    def resize_refused(self, arguments, *words):
        self.refused('block_resize', arguments, *words)

    def test_file(self):
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='raw', node_name='r', file='f')
        for size in (2 * MIB, 1000, 0, 12345):
            self.resize(size)
            self.assertEqual(os.stat(self.image).st_size, size)
            self.assertEqual(self.node('r')['image']['virtual-size'], (size + 511) // 512 * 512)
        self.resize(777, 'r')
        self.assertEqual(os.stat(self.image).st_size, 777)

    def test_refused(self):
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='null-co', node_name='n')
        self.add(driver='raw', node_name='ro', file='f', read_only=True)
        self.add(driver='raw', node_name='sized', file='f', size=512)
        self.resize_refused({'size': 512}, 'node-name')
        self.resize_refused({'device': 'f', 'size': 512}, 'f')
        self.resize_refused({'node-name': 'nobody', 'size': 512}, 'nobody')
        self.resize_refused({'node-name': 'f', 'size': -1}, 'size')
        self.resize_refused({'node-name': 'f', 'size': 1 << 63}, 'size')
        self.resize_refused({'node-name': 'f', 'size': (1 << 63) - 1}, 'f')
        self.resize_refused({'node-name': 'n', 'size': 512}, 'n')
        self.resize_refused({'node-name': 'ro', 'size': 512}, 'read-only')
        self.resize_refused({'node-name': 'sized', 'size': 1024}, 'size')
        self.assertEqual(os.stat(self.image).st_size, MIB)
        self.qmp.cmd('block_resize', {'node-name': 'f', 'device': 'ignored', 'size': 512})
        self.assertEqual(os.stat(self.image).st_size, 512)

    def test_backing(self):
        """Also while nobody uses the overlay, whose length stays what it is."""
        overlay = self.path('overlay.qcow2')
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='file', node_name='g', filename=self.make_file('overlay.qcow2', 0))
        self.qmp.cmd('blockdev-create', {'job-id': 'j', 'options': {
            'driver': 'qcow2', 'file': 'g', 'size': MIB, 'backing-file': self.image,
            'backing-fmt': 'raw'}})
        wait_until(lambda: self.qmp.cmd('query-jobs')[0]['status'] == 'concluded', what='the job')
        self.qmp.cmd('job-dismiss', {'id': 'j'})
        self.add(driver='qcow2', node_name='o', file='g', backing='f')
        self.resize_refused({'node-name': 'f', 'size': 512}, 'f', 'o', 'backing')
        self.assertEqual(os.stat(self.image).st_size, MIB)
        self.resize(2 * MIB, 'o')
        self.qmp.cmd('blockdev-del', {'node-name': 'o'})
        self.resize(512)
        self.assertEqual(os.stat(self.image).st_size, 512)
        self.assertGreater(os.stat(overlay).st_size, 0)

    @fuse_test
    def test_exported(self):
        self.add(driver='file', node_name='f', filename=self.image)
        self.add(driver='raw', node_name='r', file='f')
        for i, name in enumerate(('f', 'r')):
            self.qmp.cmd('block-export-add', {'type': 'fuse', 'id': f'e{i}', 'node-name': name,
                                              'mountpoint': self.mountpoint(f'mnt{i}')})
        fs = self.fs()
        fds = [fs.open(self.path(f'mnt{i}'), os.O_RDONLY) for i in range(2)]
        self.resize(3 * MIB)
        for fd in fds:
            # Reads follow at once, attributes at the latest when the kernel's copy of them expires.
            self.assertEqual(fs.pread(fd, 10, 3 * MIB - 5), bytes(5))
            wait_until(lambda fd=fd: fs.fstat(fd).st_size == 3 * MIB, what='the new length')
            fs.close(fd)


if __name__ == '__main__':
    main()
