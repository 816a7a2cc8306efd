# SPDX-License-Identifier: GPL-2.0-or-later
"""Life of exports, seen from QMP (qsd-behaviour B5 to B8)."""

import errno
import os
import subprocess

from wharf import *
from wharf import tools

from test_fuse_lifecycle import DAEMON_GIVES_UP

MIB = 1 << 20


@fuse_test
class ExportTest(IoTest):
    def setUp(self):
        super().setUp()
        self.image = self.make_file('disk.img', MIB)
        self.mnt = self.mountpoint()
        self.daemon = self.wharfd()
        self.worker = self.fs()
        self.node('n0')

    def node(self, name, **options):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': name, **options,
                                             'file': {'driver': 'file', 'filename': self.image, **options}})

    def arguments(self, **options):
        return {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt,
                **{k.replace('_', '-'): v for k, v in options.items()}}

    def add(self, **options):
        self.daemon.qmp.cmd('block-export-add', self.arguments(**options))

    def delete(self, export='e0', **kwargs):
        self.daemon.qmp.cmd('block-export-del', {'id': export, **kwargs})

    def exports(self):
        return self.daemon.qmp.cmd('query-block-exports')

    def ids(self):
        return [e['id'] for e in self.exports()]

    def refused(self, command, arguments, *words):
        with self.assertRaises(QmpError, msg=arguments) as caught:
            self.daemon.qmp.cmd(command, arguments)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def add_refused(self, *words, **options):
        self.refused('block-export-add', {k: v for k, v in self.arguments(**options).items() if v is not Ellipsis},
                     *words)

    def iothread(self, *names):
        for name in names:
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})


class Adding(ExportTest):
    def test_wrong_arguments(self):
        table = (
            (('id',), {'id': ...}),
            (('node-name',), {'node-name': ...}),
            (('mountpoint',), {'mountpoint': ...}),
            (('type',), {'type': 'nonsense'}),
            (('type',), {'type': ...}),
            (('writable',), {'writable': 'on'}),
            (('growable',), {'growable': 1}),
            (('allow-other',), {'allow-other': 'maybe'}),
            (('allow-other',), {'allow-other': True}),
            (('colour',), {'colour': 'red'}),
            (('name',), {'name': 'x'}),
            (('iothread',), {'iothread': None}),
            (('iothread',), {'iothread': 5}),
            (('iothread',), {'iothread': [5]}),
            (('export id',), {'id': '0x'}),
            (('export id',), {'id': ''}),
            (('export id',), {'id': 'a b'}),
            (('export id',), {'id': '#block0'}),
            (('nothing',), {'node-name': 'nothing'}),
            (('io9', 'object-add'), {'iothread': 'io9'}),
            (('io9',), {'iothread': ['io9']}),
            (('empty',), {'iothread': []}),
            (('fixed-iothread', 'list'), {'iothread': ['t0'], 'fixed-iothread': True}),
        )
        self.iothread('t0')
        before = len(self.daemon.fds())
        for words, options in table:
            self.add_refused(*words, **options)
        self.assertEqual(self.ids(), [])
        self.assertEqual(tools.mounts_below(self.dir), [])
        self.assertEqual(len(self.daemon.fds()), before)
        self.daemon.qmp.cmd('object-del', {'id': 't0'})
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_order_of_checks(self):
        """Everything is wrong; whatever is corrected, the next in order is reported."""
        self.node('ro', **{'read-only': True})
        self.add(id='taken')
        wrong = {'id': '0', 'node-name': 'none', 'writable': True, 'iothread': 'io9',
                 'mountpoint': self.path('none'), 'colour': 1}
        steps = (('colour', {'colour': ...}), ('export id', {'id': 'taken'}), ('already', {'id': 'e1'}),
                 ("'none'", {'node-name': 'ro'}), ('read-only', {'writable': False}), ('io9', {'iothread': ...}),
                 ('No such file', {}))
        for word, correction in steps:
            self.add_refused(word, **wrong)
            wrong.update(correction)
        self.assertEqual(self.ids(), ['taken'])

    def test_ids(self):
        long_id = 'a' * 300
        self.add(id=long_id)
        self.add_refused('already', id=long_id)
        self.assertEqual(self.ids(), [long_id])
        self.delete(long_id)
        self.add(id='A-b.c_9')

    def test_types_this_build_does_not_have(self):
        for options in ({'type': 'vhost-user-blk', 'addr': {'type': 'unix', 'path': '/x'}},
                        {'type': 'vduse-blk', 'name': 'x'}):
            self.refused('block-export-add', {'id': 'e0', 'node-name': 'n0', **options}, 'build', options['type'])

    def test_many_exports_of_a_node(self):
        for i in range(5):
            self.add(id=f'e{i}', mountpoint=self.mountpoint(f'm{i}'), writable=i % 2 == 0)
        for i in range(5):
            self.assertEqual(self.worker.stat(self.path(f'm{i}')).st_size, MIB)
        self.refused('blockdev-del', {'node-name': 'n0'}, 'n0')
        self.worker.write_at(self.path('m0'), 0, b'seen by all')
        for i in range(5):
            self.assertEqual(self.worker.read_file(self.path(f'm{i}'), size=11), b'seen by all')
            self.delete(f'e{i}')
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_permissions(self):
        """A writable fuse export needs write, which a node that does not share it refuses."""
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'strict', 'unshare-child-perms': ['write'],
            'image': {'driver': 'file', 'node-name': 'below', 'filename': self.make_file('other.img', MIB)}})
        self.daemon.qmp.cmd('block-export-add', self.arguments(id='e1', node_name='strict',
                                                               mountpoint=self.mountpoint('m1')))
        self.add_refused('below', 'write', node_name='below', writable=True)
        self.add(node_name='below')
        self.assertEqual(sorted(self.ids()), ['e0', 'e1'])

    def test_backing_file_written_below_its_overlay(self):
        """Allowed, but it changes what the overlay shows: the log says so, once each time."""
        self.node('base')
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', self.path('top.qcow2'), str(MIB)], check=True)
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top', 'backing': 'base',
            'file': {'driver': 'file', 'filename': self.path('top.qcow2')}})
        base = {'id': 'e1', 'node_name': 'base', 'mountpoint': self.mountpoint('m1')}
        self.add(node_name='top', writable=True)
        self.add(**base)
        self.delete('e1')
        self.assertNotIn('overlay', self.daemon.log())
        for order in ([base], [{'node_name': 'top'}, base], [base, {'node_name': 'top'}]):
            for options in order:
                self.add(**{'writable': True, **options})
            self.daemon.wait_log("block node 'base' is written to while overlay 'top' is in use")
            for export in self.ids():
                self.delete(export)
        self.assertEqual(self.daemon.log().count("while overlay 'top' is in use"), 3)

    def test_inactive_nodes(self):
        self.node('n1', active=False)
        self.add_refused('n1', 'inactive', node_name='n1', allow_inactive=True)
        self.add(node_name='n1')
        active = {n['node-name']: n['active'] for n in self.daemon.qmp.cmd('query-named-block-nodes')}
        self.assertTrue(active['n1'])
        self.add(id='e1', mountpoint=self.mountpoint('m1'), allow_inactive=True)


class Iothreads(ExportTest):
    def test_names_and_lists(self):
        self.iothread('t0', 't1')
        for iothread, shown in (('t0', ['t0']), (['t0'], ['t0']), (['t1', 't0'], ['t1', 't0']),
                                (['t0', 't0'], ['t0', 't0'])):
            self.add(iothread=iothread, writable=True)
            info = self.exports()[0]
            self.assertEqual((info['iothreads'], info['queues']), (shown, len(shown)))
            self.worker.write_at(self.mnt, 0, b'data')
            self.assertEqual(self.worker.read_file(self.mnt, size=4), b'data')
            self.delete()
        self.add()
        info = self.exports()[0]
        self.assertEqual((info['iothreads'], info['queues']), ([], 1))

    def test_one_in_use_cannot_go(self):
        self.iothread('t0', 't1')
        self.add(iothread=['t0', 't1'])
        for name in ('t0', 't1'):
            self.refused('object-del', {'id': name}, name, "export 'e0'")
        self.assertEqual(self.worker.stat(self.mnt).st_size, MIB)
        self.delete()
        for name in ('t0', 't1'):
            self.daemon.qmp.cmd('object-del', {'id': name})

    def test_fixed(self):
        self.iothread('t0', 't1')
        self.add(iothread='t0', fixed_iothread=True)
        other = self.mountpoint('other')
        self.add_refused('n0', 't1', "export 'e0'", id='e1', mountpoint=other, iothread='t1', fixed_iothread=True)
        for options in ({'iothread': 't0', 'fixed_iothread': True}, {'fixed_iothread': True}, {'iothread': 't1'},
                        {'iothread': ['t0', 't1']}, {}):
            self.add(id='e1', mountpoint=other, **options)
            self.assertEqual(self.worker.stat(other).st_size, MIB)
            self.delete('e1')

    def test_polling_is_changed_while_it_serves(self):
        self.iothread('t0')
        self.add(iothread='t0')
        for value in (0, 1000, 32768):
            self.daemon.qmp.cmd('qom-set', {'path': 't0', 'property': 'poll-max-ns', 'value': value})
            self.assertEqual(self.worker.read_file(self.mnt, size=10), bytes(10))


class Deleting(ExportTest):
    def hung_export(self, seconds=8, **options):
        """An export with a read in flight, which takes so long that much can be done meanwhile."""
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'slow', 'image': 'n0',
            'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': seconds * 10**9}]})
        self.add(node_name='slow', writable=True, **options)
        fd = self.worker.open(self.mnt, os.O_RDWR)
        self.worker.start('pread', fd, 512, 0)
        wait_until(lambda: self.exports()[0]['in-flight'] == 1, what='the read to be in flight')

    def test_unknown(self):
        self.refused('block-export-del', {'id': 'none'}, 'none')
        self.refused('block-export-del', {'id': 'none', 'mode': 'hard'}, 'none')
        self.refused('block-export-del', {'id': 'none', 'mode': 'soft'}, 'mode')
        self.refused('block-export-del', {}, 'id')

    def test_event_comes_before_the_answer(self):
        for mode in ('safe', 'hard'):
            self.add()
            self.daemon.qmp.send({'execute': 'block-export-del', 'arguments': {'id': 'e0', 'mode': mode}})
            event, reply = self.daemon.qmp.read(), self.daemon.qmp.read()
            self.assertEqual(event['event'], 'BLOCK_EXPORT_DELETED')
            self.assertEqual(event['data'], {'id': 'e0', 'reason': 'deleted'})
            self.assertEqual(reply, {'return': {}})

    def test_right_after_a_close(self):
        """Bookkeeping that the kernel does after close() has returned must not be in the way."""
        self.iothread('t0')
        for turn in range(50):
            self.add(writable=True, iothread='t0')
            self.worker.write_at(self.mnt, turn, b'x')
            self.delete()

    def test_in_flight_safe(self):
        self.hung_export()
        self.refused('block-export-del', {'id': 'e0'}, 'e0', 'in use', '1 request', 'hard')
        self.assertEqual([e['shutting-down'] for e in self.exports()], [False])
        self.assertEqual(len(self.worker.finish()), 512)
        self.delete()

    def test_in_flight_hard(self):
        for iothread in (None, 't0'):
            options = {}
            if iothread:
                self.iothread(iothread)
                options = {'iothread': iothread}
            self.hung_export(**options)
            transport = self.exports()[0]['fuse']['transport']
            self.delete(mode='hard')
            # Before the request below has ended: gone for clients, listed, id and node still taken.
            self.assertFalse(self.mounted(self.mnt))
            with self.assertRaises(OSError) as caught:
                self.worker.finish()
            self.assertIn(caught.exception.errno, DAEMON_GIVES_UP[transport])
            if self.exports():
                self.assertEqual([e['shutting-down'] for e in self.exports()], [True])
                self.refused('block-export-del', {'id': 'e0'}, 'shutting down')
                self.refused('block-export-del', {'id': 'e0', 'mode': 'hard'}, 'shutting down')
                self.add_refused('shutting down')
                self.refused('blockdev-del', {'node-name': 'slow'}, 'slow')
                # The place is free for another.
                self.add(id='e1')
                self.delete('e1')
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.assertEqual(self.ids(), [])
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'slow'})

    def test_quit_waits_for_what_is_in_flight(self):
        self.hung_export(seconds=3)  # less than quit has patience
        self.daemon.qmp.send({'execute': 'quit'})
        self.assertEqual(len(self.worker.finish()), 512)
        self.assertEqual(self.daemon.wait(), 0)
        self.assertFalse(self.mounted(self.mnt))

    def test_id_and_place_are_free_afterwards(self):
        for _ in range(3):
            self.add()
            self.delete()
        self.assertEqual(self.ids(), [])


class Querying(ExportTest):
    def test_empty(self):
        self.assertEqual(self.exports(), [])

    def test_newest_first(self):
        for i in (3, 1, 2):
            self.add(id=f'e{i}', mountpoint=self.mountpoint(f'm{i}'))
        self.assertEqual(self.ids(), ['e2', 'e1', 'e3'])
        self.delete('e1')
        self.add(id='e1', mountpoint=self.path('m1'))
        self.assertEqual(self.ids(), ['e1', 'e2', 'e3'])

    def test_members(self):
        self.add(writable=True, growable=True, writethrough=True)
        info = self.exports()[0]
        self.assertEqual({k: info[k] for k in ('id', 'type', 'node-name', 'shutting-down', 'writable', 'growable',
                                               'writethrough', 'mountpoint', 'iothreads', 'queues', 'in-flight')},
                         {'id': 'e0', 'type': 'fuse', 'node-name': 'n0', 'shutting-down': False, 'writable': True,
                          'growable': True, 'writethrough': True, 'mountpoint': os.path.realpath(self.mnt),
                          'iothreads': [], 'queues': 1, 'in-flight': 0})
        self.assertIn(info['fuse']['transport'], ('dev', 'io-uring'))
        self.assertIn('async-dio', info['fuse']['features'])
        self.assertTrue(info['fuse']['protocol'].startswith('7.'))

    def test_counters(self):
        self.add(writable=True)
        fd = self.worker.open(self.mnt, os.O_RDWR)
        for i in range(3):
            self.worker.pwrite(fd, b'x' * 1000, i)
        self.worker.pread(fd, 500, 0)
        stats = self.exports()[0]['stats']
        self.assertEqual((stats['wr-operations'], stats['wr-bytes']), (3, 3000))
        self.assertEqual((stats['rd-operations'], stats['rd-bytes']), (1, 500))
        self.assertEqual(stats['failed-operations'], 0)


class Many(ExportTest):
    @timeout(300)
    def test_many_exports_in_one_daemon(self):
        count = 150
        for i in range(count):
            self.add(id=f'e{i}', mountpoint=self.mountpoint(f'm{i}'), writable=True)
        self.assertEqual(len(self.exports()), count)
        for i in range(count):
            self.worker.write_at(self.path(f'm{i}'), i, bytes([i % 256]))
        self.assertEqual(self.worker.read_file(self.path('m0'), size=count), bytes(i % 256 for i in range(count)))
        self.daemon.quit()
        self.assertEqual(tools.mounts_below(self.dir), [])


if __name__ == '__main__':
    main()
