# SPDX-License-Identifier: GPL-2.0-or-later
"""Life of the NBD server and of its exports (qsd-behaviour B1, B5, B6, B11)."""

import errno
import os
import socket
import struct
import threading

from wharf import *
from wharf.nbd import *
from wharf.nbd_test import MIB, NbdTest


class Server(NbdTest):
    def setUp(self):
        IoTest.setUp(self)
        self.socket = self.path('nbd')
        self.clients = []
        self.addCleanup(self.close_clients)
        self.daemon = self.wharfd()

    def start(self, addr=None, **options):
        self.daemon.qmp.cmd('nbd-server-start', {
            'addr': addr or {'type': 'unix', 'data': {'path': self.socket}},
            **{k.replace('_', '-'): v for k, v in options.items()}})

    def refused(self, command, arguments, *words):
        with self.assertRaises(QmpError, msg=(command, arguments)) as caught:
            self.daemon.qmp.cmd(command, arguments)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def query(self):
        return self.daemon.qmp.cmd('query-nbd-server')

    def test_start_and_stop(self):
        before = len(self.daemon.fds())
        self.assertEqual(self.query(), {'running': False})
        for _ in range(3):
            self.start()
            self.assertEqual(self.query(), {'running': True, 'address': f'unix:{self.socket}', 'connections': 0,
                                            'max-connections': 100})
            self.refused('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': self.path('other')}}},
                         'already running')
            self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o600)
            self.raw().greet()
            self.daemon.qmp.cmd('nbd-server-stop')
            self.assertFalse(os.path.exists(self.socket))
            self.refused('nbd-server-stop', None, 'not running')
        self.close_clients()
        self.assertEqual(len(self.daemon.fds()), before)

    def test_places_that_are_taken(self):
        image = self.make_file('image', 4096)
        self.refused('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': image}}}, image, 'no socket')
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.socket)
        listener.listen()
        self.refused('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': self.socket}}}, self.socket)
        listener.close()
        self.start()  # what a dead one has left is replaced
        self.raw().greet()

    def test_tcp(self):
        for host, family in ('127.0.0.1', socket.AF_INET), ('::1', socket.AF_INET6):
            try:
                self.start({'type': 'inet', 'data': {'host': host, 'port': '0'}})
            except QmpError:
                self.assertEqual(family, socket.AF_INET6)
                continue
            address = self.query()['address']
            port = int(address.rpartition(':')[2])
            self.assertGreater(port, 0, address)
            sock = socket.socket(family)
            sock.connect((host, port))
            client = RawClient(sock=sock)
            self.clients.append(client)
            self.assertEqual(client.greet().option(LIST), [(ACK, b'')])
            # The next free port, where there may be one.
            second = self.wharfd('--nbd-server',
                                 f'addr.type=inet,addr.host={host},addr.port={port},addr.to={port + 50}')
            found = second.qmp.cmd('query-nbd-server')['address']
            self.assertGreater(int(found.rpartition(':')[2]), port)
            self.daemon.qmp.cmd('nbd-server-stop')

    def test_inherited_descriptor(self):
        """By number, and by the name that a service manager gives; its path is left alone."""
        for i, name in enumerate(('3', 'nbd-socket')):
            path = self.path(f'inherited{i}')
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            # The descriptor becomes 3, with the shell's process id for LISTEN_PID.
            script = (f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1 '
                      'LISTEN_FDNAMES=nbd-socket; exec "$@"')
            daemon = self.wharfd('--nbd-server', f'addr.type=fd,addr.str={name}', '--blockdev',
                                 'null-co,node-name=n0', '--export', 'nbd,id=e0,node-name=n0',
                                 prefix=('sh', '-c', script, 'sh'), pass_fds=(listener.fileno(),))
            listener.close()
            client = RawClient(path)
            self.clients.append(client)
            client.go('n0')
            daemon.quit()
            self.assertTrue(os.path.exists(path))

    def test_exports_need_the_server(self):
        self.node()
        self.refused('block-export-add', {'type': 'nbd', 'id': 'e0', 'node-name': 'n0'}, 'nbd-server-start')
        self.start()
        self.export()
        self.connected()

    def test_stop_takes_exports_along(self):
        """Newest first, and clients are disconnected."""
        self.node()
        self.start()
        for i in range(3):
            self.export(export=f'e{i}', name=f'x{i}')
        client = self.connected('x1')
        negotiating = self.raw().greet()
        self.daemon.qmp.cmd('nbd-server-stop')
        events = [self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED') for _ in range(3)]
        self.assertEqual([e['data']['id'] for e in events], ['e2', 'e1', 'e0'])
        self.assertTrue(client.closed())
        self.assertTrue(negotiating.closed())
        self.assertEqual(self.exports(), {})
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_socket_goes_with_the_daemon(self):
        for end in ('quit', 'terminate'):
            daemon = self.wharfd('--nbd-server', f'addr.type=unix,addr.path={self.socket}')
            self.raw().greet()
            getattr(daemon, end)()
            self.assertFalse(os.path.exists(self.socket), end)

    def test_start_that_fails_leaves_no_socket(self):
        done = run(os.environ['WHARFD'], '--nbd-server', f'addr.type=unix,addr.path={self.socket}', '--blockdev',
                   'null-co,node-name=n', '--export', 'nbd,id=e,node-name=nope', check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('nope', done.stderr)
        self.assertFalse(os.path.exists(self.socket))

    def test_command_line_in_any_order(self):
        image = self.make_file('a.img', MIB)
        self.wharfd('--export', 'nbd,id=e0,node-name=n0,name=,writable=on', '--blockdev',
                    f'file,node-name=n0,filename={image}', '--nbd-server',
                    f'addr.type=unix,addr.path={self.socket},max-connections=3,handshake-max-seconds=20')
        self.assertEqual(self.connected('').size, MIB)

    def test_limit_of_connections(self):
        """Those beyond it wait until somebody leaves."""
        self.node()
        self.start(max_connections=2)
        self.export()
        first, second = self.connected(), self.raw().greet()
        third = self.raw(timeout=0.5)
        with self.assertRaises(TimeoutError):
            third.recv(1)
        third.sock.settimeout(TIMEOUT)
        second.close()
        third.go('n0')
        fourth = self.raw()
        first.close()
        fourth.go('n0')
        self.assertEqual(self.exports()['e0']['nbd']['connections'], 2)

    def test_single_connection(self):
        """Clients are not told to use several where there can be but one."""
        self.node()
        self.start(max_connections=1)
        self.export()
        self.assertFalse(self.connected().flags & 1 << 8)
        self.assertFalse(self.exports()['e0']['nbd']['multi-conn'])

    def test_time_limit_of_the_handshake(self):
        self.node()
        self.start(handshake_max_seconds=1)
        self.export()
        silent, slow, chosen = self.raw(), self.raw().greet(), self.connected()
        slow.send(b'\0' * 5)
        for client in silent, slow:
            if client is silent:
                client.recv(18)
            self.assertTrue(client.closed())
        self.assertEqual(chosen.read(0, 1), b'\0')  # the limit was for that alone
        wait_until(lambda: self.connections() == 1, what='the others to be forgotten')

    def test_old_commands(self):
        self.node()
        self.node('ro', **{'read-only': True})
        self.start()
        self.daemon.qmp.cmd('nbd-server-add', {'device': 'n0', 'writable': True, 'description': 'old'})
        self.daemon.qmp.cmd('nbd-server-add', {'device': 'ro', 'name': 'other', 'writable': True})
        self.assertEqual({(e['id'], e['nbd']['name'], e['writable']) for e in self.exports().values()},
                         {('n0', 'n0', True), ('other', 'other', False)})
        self.refused('nbd-server-add', {'device': 'n0'}, 'n0')
        self.refused('nbd-server-add', {'device': 'nope'}, 'nope')
        self.refused('nbd-server-add', {'device': 'n0', 'name': 'a b'}, 'a b')
        self.refused('nbd-server-add', {'device': 'n0', 'name': 'x', 'bitmap': 'b0'}, 'b0')
        client = self.connected('other')
        self.refused('nbd-server-remove', {'name': 'other'}, 'in use')
        self.daemon.qmp.cmd('nbd-server-remove', {'name': 'other', 'mode': 'hard'})
        self.assertTrue(client.closed())
        self.daemon.qmp.cmd('nbd-server-remove', {'name': 'n0'})
        self.refused('nbd-server-remove', {'name': 'n0'}, 'n0')


class Exports(NbdTest):
    def refused(self, *words, **options):
        with self.assertRaises(QmpError, msg=options) as caught:
            self.export(**options)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def test_names(self):
        self.node()
        self.export(name='x' * 4096, description='d' * 4096)
        self.export(export='e1', name='with blanks/ümläut')
        self.export(export='e2', name='')
        self.refused('4097', export='e3', name='x' * 4097)
        self.refused('4097', export='e3', description='x' * 4097)
        self.refused("'e2'", export='e3', name='')
        self.export(export='e3')
        self.refused("'e3'", export='e4', name='n0')
        for name in 'x' * 4096, 'with blanks/ümläut', '', 'n0':
            self.assertEqual(self.raw().go(name).size, 4 * MIB)
        self.assertEqual(self.exports()['e1']['nbd'], {
            'name': 'with blanks/ümläut', 'size': 4 * MIB, 'multi-conn': True, 'contexts': ['base:allocation'],
            'connections': 1})

    def test_bitmaps(self):
        self.node()
        for bitmaps in ['b0'], [{'node': 'n0', 'name': 'b0'}]:
            self.refused("'b0'", bitmaps=bitmaps)
        self.export(bitmaps=[])

    def test_a_failed_add_leaves_nothing(self):
        self.node()
        for _ in range(3):
            self.refused('b0', bitmaps=['b0'], name='x')
        self.export(name='x')

    def test_permissions(self):
        """Nobody changes the length meanwhile; further writers are fine (B8)."""
        self.node()
        self.export()
        self.export(export='e1', name='second')
        self.export(export='e2', name='third', writable=False)
        with self.assertRaises(QmpError) as caught:
            self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 8 * MIB})
        self.assertIn('resize', caught.exception.desc)
        for export in 'e0', 'e1', 'e2':
            self.delete(export)
        for size in 8 * MIB, MIB:
            self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': size})
            self.export()
            client = self.connected()
            self.assertEqual((client.size, client.read(size - 4, 4), client.error(READ, size - 4, 5)),
                             (size, bytes(4), EINVAL))
            self.assertEqual(client.error(WRITE, size, 4, payload=b'abcd'), ENOSPC)
            client.close()
            self.delete()
        self.node('ro', **{'read-only': True})
        self.refused('read-only', node='ro', export='e3')

    def test_exact_size(self):
        self.node(size=1000, content=b'x' * 1000)
        self.export()
        client = self.connected()
        self.assertEqual(client.size, 1000)
        self.assertEqual(client.read(999, 1), b'x')
        self.assertEqual(client.error(READ, 999, 2), EINVAL)

    def test_empty(self):
        self.node(size=0)
        self.export()
        client = self.connected()
        self.assertEqual((client.size, client.error(READ, 0, 0), client.error(READ, 0, 1)), (0, 0, EINVAL))

    # Deletion

    def test_safe_deletion(self):
        self.node()
        self.export()
        negotiating = self.raw().greet()
        client = self.connected()
        with self.assertRaises(QmpError) as caught:
            self.delete()
        self.assertIn('1 client', caught.exception.desc)
        self.assertEqual(client.read(0, 4), bytes(4))
        client.close()
        self.delete()  # at once: the client has gone, whether the daemon has looked or not
        self.assertEqual(self.exports(), {})
        self.assertEqual(negotiating.result(GO, info_data('n0')), UNKNOWN)
        self.export()
        self.assertEqual(negotiating.result(GO, info_data('n0')), ACK)
        self.assertEqual(self.exports()['e0']['nbd']['connections'], 1)

    def test_clients_that_have_gone_do_not_count(self):
        self.node()
        for _ in range(20):
            self.export()
            clients = [self.connected() for _ in range(3)]
            clients[0].send_request(DISC)
            for client in clients:
                client.close()
            self.delete()

    def test_hard_deletion(self):
        self.node()
        self.export()
        clients = [self.connected() for _ in range(3)]
        self.delete(mode='hard')
        for client in clients:
            self.assertTrue(client.closed())
        event = self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.assertEqual(event['data'], {'id': 'e0', 'reason': 'deleted'})
        wait_until(lambda: self.connections() == 0)

    def test_each_iothread_gets_its_share(self):
        for name in 't0', 't1':
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.node(content=b'abc')
        self.export(iothread=['t0', 't1'])
        clients = [self.connected(structured=True) for _ in range(4)]
        for _ in range(10):
            for client in clients:
                self.assertEqual(client.read(0, 3), b'abc')
        with self.assertRaises(QmpError):
            self.daemon.qmp.cmd('object-del', {'id': 't1'})
        for client in clients:
            client.close()
        self.delete()
        self.daemon.qmp.cmd('object-del', {'id': 't1'})
        self.daemon.qmp.cmd('object-del', {'id': 't0'})

    def test_all_connections_see_the_same(self):
        for name in 't0', 't1':
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.node()
        self.export(iothread=['t0', 't1'])
        clients = [self.connected() for _ in range(4)]
        for i in range(100):
            data = os.urandom(512)
            self.assertEqual(clients[i % 4].error(WRITE, i * 512, 512, payload=data), 0)
            self.assertEqual(clients[(i + 1) % 4].error(FLUSH), 0)
            self.assertEqual(clients[(i + 2) % 4].read(i * 512, 512), data)

    def bulk_writer(self, in_memory):
        """An export in two iothreads, and its only client; in_memory: large writes are done in pieces."""
        for name in 't0', 't1':
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        image = self.memory_file('image', 8 * MIB) if in_memory else None
        self.image = self.node(image=image, size=8 * MIB)
        self.export(iothread=['t0', 't1'])
        return self.connected()

    def test_one_connection_writes_in_bulk(self):
        """Large writes one behind the other, between them small ones and reads of what was written."""
        self.write_in_bulk(in_memory=False)

    def test_one_connection_writes_in_bulk_to_memory(self):
        self.write_in_bulk(in_memory=True)

    def test_part_of_bulk_fails(self):
        """Of several large writes in pieces that one fails in which a piece does."""
        for name in 't0', 't1':
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        bad = 5 * MIB + 600 * 1024
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'n0', 'image': {'driver': 'memory', 'size': 8 * MIB},
            'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': errno.ENOSPC, 'sector': bad // 512}]})
        self.export(iothread=['t0', 't1'])
        client = self.connected()
        data = os.urandom(8 * MIB)
        for _ in range(5):
            cookies = [client.send_request(WRITE, at, MIB, payload=data[at:at + MIB]) for at in range(0, 8 * MIB, MIB)]
            answers = client.recv_answers(cookies)
            self.assertEqual([answers[cookie][0] for cookie in cookies], [0] * 5 + [ENOSPC] + [0] * 2)
        for at in (n * MIB for n in range(8) if n != 5):
            self.assertEqual(client.read(at, MIB), data[at:at + MIB])

    def write_in_bulk(self, in_memory):
        client = self.bulk_writer(in_memory)
        for flags in 0, 0, FUA, 0:
            data = os.urandom(8 * MIB)
            cookies = [client.send_request(WRITE, at, MIB, flags, data[at:at + MIB]) for at in range(0, 8 * MIB, MIB)]
            cookies += [client.send_request(WRITE, 0, 512, payload=b'x' * 512), client.send_request(FLUSH)]
            self.assertEqual({error for error, _ in client.recv_answers(cookies).values()}, {0})
            for at in range(MIB, 8 * MIB, MIB):
                self.assertEqual(client.read(at, MIB), data[at:at + MIB])

    def test_end_in_the_middle_of_bulk(self):
        self.end_in_the_middle_of_bulk(in_memory=False)

    def test_end_in_the_middle_of_bulk_to_memory(self):
        self.end_in_the_middle_of_bulk(in_memory=True)

    def end_in_the_middle_of_bulk(self, in_memory):
        client = self.bulk_writer(in_memory)
        data = os.urandom(MIB)
        for way in 'hard', 'close', 'half', 'stop':
            cookies = [client.send_request(WRITE, i * MIB, MIB, payload=data) for i in range(8)]
            if way == 'hard':
                self.delete(mode='hard')
                self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
                self.export(iothread=['t0', 't1'])
            elif way == 'close':
                client.close()
            elif way == 'half':
                client.sock.shutdown(socket.SHUT_WR)
                self.assertEqual({error for error, _ in client.recv_answers(cookies).values()}, {0})
                self.assertTrue(client.closed())
            else:
                self.daemon.qmp.cmd('nbd-server-stop')
                answers = client.recv_answers(cookies)
                for i, cookie in enumerate(cookies):
                    if answers[cookie][0]:
                        self.assertEqual(answers[cookie][0], ESHUTDOWN)
                    else:
                        self.assertEqual(self.image_bytes(self.image, i * MIB, MIB), data)
                return
            client.close()
            client = self.connected()
            data = os.urandom(MIB)


class Hostile(NbdTest):
    """Clients that hold nothing and nobody up."""

    def setUp(self):
        super().setUp()
        self.image = self.node(content=os.urandom(4 * MIB))
        self.export()

    def test_one_that_does_not_read(self):
        """It asks and asks and takes no answer: it gets no more served, others do, and it costs little."""
        greedy = self.connected()
        before = self.memory()
        request = b''.join(struct.pack('>IHHQQI', REQUEST, 0, READ, i, 0, MIB) for i in range(100))
        greedy.sock.settimeout(0.5)
        with self.assertRaises(TimeoutError):
            for _ in range(100000):
                greedy.send(request)
        other = self.connected()
        for _ in range(20):
            self.assertEqual(other.read(4096, 4096), self.image_bytes(self.image, 4096, 4096))
        self.assertLess(self.memory() - before, 64 * MIB)
        self.delete(mode='hard')
        self.export()
        self.connected()

    def memory(self):
        with open(f'/proc/{self.daemon.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def test_vanishing_in_the_middle(self):
        """At each byte of a conversation; nothing stays behind."""
        whole = (struct.pack('>I', 3) + struct.pack('>QII', OPTION_MAGIC, STRUCTURED_REPLY, 0) +
                 struct.pack('>QII', OPTION_MAGIC, GO, 8) + info_data('n0') +
                 struct.pack('>IHHQQI', REQUEST, 0, READ, 1, 0, MIB) +
                 struct.pack('>IHHQQI', REQUEST, 0, WRITE, 2, 4096, 20) + b'x' * 20)
        before = len(self.daemon.fds())
        for size in range(len(whole)):
            with RawClient(self.socket) as client:
                client.send(whole[:size])
        wait_until(lambda: len(self.daemon.fds()) <= before, what='all sockets to be closed')
        wait_until(lambda: self.exports()['e0']['nbd']['connections'] == 0)
        self.delete()

    def test_half_a_write(self):
        """Payload that never comes keeps nobody, and is not written."""
        stuck = self.connected()
        stuck.send_request(WRITE, 0, MIB, payload=b'y' * 1000)
        other = self.connected()
        self.assertNotEqual(other.read(0, 1000), b'y' * 1000)
        other.close()
        self.delete(mode='hard')
        self.export()
        stuck = self.connected()
        stuck.send_request(WRITE, 0, MIB, payload=b'y' * 1000)
        self.daemon.qmp.cmd('nbd-server-stop')
        answer = stuck.recv_answer(1)
        self.assertEqual(answer[0], ESHUTDOWN)
        self.assertTrue(stuck.closed())
        self.assertNotEqual(self.image_bytes(self.image, 0, 1000), b'y' * 1000)

    def test_in_flight_at_the_end(self):
        """Requests that have begun when the server stops are answered."""
        client = self.connected(structured=True)
        cookies = [client.send_request(WRITE, i * 4096, 4096, payload=b'z' * 4096) for i in range(50)]
        self.daemon.qmp.cmd('nbd-server-stop')
        answers = client.recv_answers(cookies)
        errors = {error for error, _ in answers.values()}
        self.assertLessEqual(errors, {0, ESHUTDOWN})
        for i, cookie in enumerate(cookies):
            if answers[cookie][0] == 0:
                self.assertEqual(self.image_bytes(self.image, i * 4096, 4096), b'z' * 4096)
        self.assertTrue(client.closed())

    def test_many_that_come_and_go(self):
        before = len(self.daemon.fds())

        def come_and_go():
            for i in range(30):
                with RawClient(self.socket) as client:
                    if i % 3:
                        client.go('n0', structured=i % 2 == 1)
                        client.send_request(READ, 0, 65536)

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(self.daemon.fds()) <= before, what='all sockets to be closed')

    def test_garbage(self):
        """Random bytes instead of requests, and instead of options."""
        for i in range(50):
            for client in self.raw().greet(), self.connected(extended=i % 2 == 0):
                try:
                    client.send(os.urandom(1 + i * 97))
                    client.sock.shutdown(socket.SHUT_WR)
                    while client.sock.recv(65536):
                        pass
                except ConnectionError:
                    pass
                client.close()
        self.assertEqual(len(self.connected().read(0, 10)), 10)

    def test_killed_daemon_and_a_new_one(self):
        """The socket that a killed daemon has left is replaced."""
        self.daemon.kill()
        self.assertTrue(os.path.exists(self.socket))
        self.daemon = self.start_nbd()
        self.node()
        self.export()
        self.connected()


@normal_build_only  # sanitizers do not work below strace
class CountedSyncs(NbdTest):
    """What must be on stable storage before it is answered is synced, seen from outside by strace (C9)."""

    def setUp(self):
        self.trace = None
        super().setUp()
        self.image = self.make_file('n0.img', 4 * MIB)

    def start_nbd(self, *args):
        self.trace = self.path('trace')
        return self.wharfd('--nbd-server', f'addr.type=unix,addr.path={self.socket}', prefix=(
            find_tool('strace'), '-f', '-o', self.trace, '-e', 'trace=pwritev2,fdatasync,fsync'))

    def tearDown(self):
        self.close_clients()
        self.daemon.quit()  # by hand: a signal would hit strace
        super().tearDown()

    def serve(self, **options):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'n0', 'discard': 'unmap',
            'file': {'driver': 'file', 'filename': self.image, 'aio': 'threads', 'discard': 'unmap'}})
        self.export(**options)
        return self.connected(structured=True)

    def syncs(self):
        with open(self.trace, encoding='utf-8', errors='replace') as f:
            text = f.read()
        return text.count('RWF_DSYNC') + text.count('fdatasync(') + text.count('fsync(')

    def assert_synced(self, client, *request, **kwargs):
        before = self.syncs()
        self.assertEqual(client.error(*request, **kwargs), 0)
        wait_until(lambda: self.syncs() > before, what=f'{request} to sync')

    def test_fua(self):
        """The very first one, and the first after a flush, too."""
        client = self.serve()
        for _ in range(2):
            for offset in 0, 4096, 8192:
                self.assert_synced(client, WRITE, offset, 512, FUA, b'x' * 512)
            self.assertEqual(client.error(WRITE, 0, 512, payload=b'y' * 512), 0)
            self.assert_synced(client, FLUSH)
            self.assert_synced(client, WRITE_ZEROES, 0, 65536, FUA)
            self.assertEqual(client.error(WRITE, 0, 512, payload=b'y' * 512), 0)
            self.assert_synced(client, TRIM, 0, 65536, FUA)

    def test_plain_writes_are_not(self):
        client = self.serve()
        self.assertEqual(client.error(WRITE, 0, 512, payload=b'y' * 512), 0)
        self.assertEqual(self.syncs(), 0)

    def test_writethrough(self):
        client = self.serve(writethrough=True)
        for _ in range(3):
            self.assert_synced(client, WRITE, 0, 512, payload=b'x' * 512)
            self.assert_synced(client, WRITE_ZEROES, 4096, 4096)

    def test_flush_of_another_connection(self):
        """What multi-conn promises: a flush covers what was answered over all connections."""
        client, other = self.serve(), self.connected()
        self.assertEqual(client.error(WRITE, 0, 512, payload=b'y' * 512), 0)
        self.assert_synced(other, FLUSH)


if __name__ == '__main__':
    main()
