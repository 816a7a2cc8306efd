# SPDX-License-Identifier: GPL-2.0-or-later
"""What the NBD server answers, byte by byte, and what it does with those who break the protocol."""

import os
import struct

from wharf import *
from wharf import nbd
from wharf.nbd import *
from wharf.nbd_test import MIB, NbdTest


class Handshake(NbdTest):
    def setUp(self):
        super().setUp()
        self.node()
        self.export(name='disk', description='a disk', allocation_depth=True)
        self.node('n1', size=1000)
        self.export('n1', 'e1', writable=False)

    def test_list(self):
        replies = self.raw().greet().option(LIST)
        self.assertEqual(replies, [(REP_SERVER, text('disk') + b'a disk'), (REP_SERVER, text('n1')), (ACK, b'')])

    def test_info_and_go(self):
        client = self.raw().greet()
        for option in (INFO, GO):
            replies = client.option(option, info_data('disk', [3, 1, 2, 77]))
            infos = {struct.unpack('>H', data[:2])[0]: data[2:] for kind, data in replies[:-1]
                     if kind == REP_INFO}
            self.assertEqual(replies[-1], (ACK, b''))
            self.assertEqual(infos[1], b'disk')
            self.assertEqual(infos[2], b'a disk')
            self.assertEqual(struct.unpack('>III', infos[3]), (1, 4096, 32 * MIB))
            size, flags = struct.unpack('>QH', infos[0])
            self.assertEqual(size, 4 * MIB)
            # flags, flush, FUA, trim, zeroes, multi-conn, cache, fast zero
            self.assertEqual(flags, 0b110101101101)
        self.assertEqual(client.read(0, 10), bytes(10))

    def test_flags_follow_what_was_agreed_on(self):
        client = self.raw().go('n1', extended=True, contexts=['base:allocation'])
        self.assertEqual(client.size, 1000)
        # flags, read-only, flush, FUA, DF, multi-conn, cache, payload of block status
        self.assertEqual(client.flags, 0b1010110001111)
        self.assertEqual(self.raw().go('n1', structured=True).flags, 0b10110001111)

    def test_old_way_to_choose(self):
        for flags, zeroes in (1, 124), (3, 0), (2, 0), (0, 124):
            with self.subTest(flags):
                client = self.raw().greet(flags)
                client.send_option(EXPORT_NAME, b'disk')
                size, _ = client.unpack('QH')
                self.assertEqual(size, 4 * MIB)
                self.assertEqual(client.recv(zeroes), bytes(zeroes))
                self.assertEqual(client.read(4096, 512), bytes(512))

    def test_default_export(self):
        """The one without a name; there is no other that comes instead of it."""
        self.assertEqual(self.raw().greet().result(GO, info_data('')), UNKNOWN)
        self.node('n2')
        self.export('n2', 'e2', name='')
        self.assertEqual(self.connected('').size, 4 * MIB)
        self.assertIn((REP_SERVER, text('')), self.raw().greet().option(LIST))

    def test_contexts(self):
        client = self.raw().greet()
        self.assertEqual(client.result(LIST_META, meta_data('disk')), INVALID)
        self.assertEqual(client.result(STRUCTURED_REPLY), ACK)
        both = ['base:allocation', 'qemu:allocation-depth']
        for queries, wanted in (
                ([], both), (['base:'], both[:1]), (['qemu:'], both[1:]), (['base:allocation'], both[:1]),
                (['qemu:', 'base:', 'x:'], both), (['base'], []), (['base:alloc'], []), ([''], []), ([':'], []),
                (['qemu:dirty-bitmap:'], []), (['qemu:allocation-depth'], both[1:]), (['a:b'] * 1000, [])):
            with self.subTest(queries[:4]):
                replies = client.option(LIST_META, meta_data('disk', queries))
                self.assertEqual([data[4:].decode() for kind, data in replies if kind == REP_META], wanted)
                self.assertEqual(replies[-1][0], ACK)
        for queries, wanted in (
                ([], []), (['base:'], []), (both, both), (['base:allocation'] * 3, both[:1])):
            with self.subTest(('set', queries)):
                replies = client.option(SET_META, meta_data('disk', queries))
                self.assertEqual([data[4:].decode() for kind, data in replies if kind == REP_META], wanted)
        self.assertEqual(client.result(LIST_META, meta_data('nope')), UNKNOWN)
        self.assertEqual(client.option(LIST_META, meta_data('n1'))[0][1][4:], b'base:allocation')

    def test_contexts_belong_to_one_export(self):
        """Those selected of another export are none, and neither are those of a request that failed."""
        for selected, then in (('n1', None), ('disk', meta_data('nope', ['base:allocation'])),
                               ('disk', b'broken')):
            client = self.raw().greet()
            client.option(STRUCTURED_REPLY)
            client.option(SET_META, meta_data(selected, ['base:allocation']))
            if then:
                self.assertIn(client.result(SET_META, then), (UNKNOWN, INVALID))
            self.assertEqual(client.result(GO, info_data('disk')), ACK)
            self.assertEqual(client.error(BLOCK_STATUS, 0, 4096), EINVAL)

    # What breaks the protocol: the answer, or 'closed'

    REFUSED = (
        ('unknown option', 99, b'', UNSUP),
        ('unknown option with data', 99, b'x' * 5000, UNSUP),
        ('withdrawn option', 4, b'disk', UNSUP),
        ('LIST with data', LIST, b'x', INVALID),
        ('STARTTLS without credentials', STARTTLS, b'', POLICY),
        ('STARTTLS with data', STARTTLS, b'x', INVALID),
        ('STRUCTURED_REPLY with data', STRUCTURED_REPLY, b'x', INVALID),
        ('EXTENDED_HEADERS with data', EXTENDED_HEADERS, b'x', INVALID),
        ('INFO without data', INFO, b'', INVALID),
        ('INFO, name longer than the data', INFO, struct.pack('>I', 9) + b'disk\0\0', INVALID),
        ('INFO, name longer than any', INFO, info_data('x' * 4097), INVALID),
        ('INFO, fewer infos than said', INFO, text('disk') + b'\0\2\0\1', INVALID),
        ('INFO, more data than said', INFO, info_data('disk') + b'x', INVALID),
        ('INFO of no export', INFO, info_data('nope'), UNKNOWN),
        ('INFO, zero byte behind the name', INFO, info_data('disk\0'), UNKNOWN),
        ('INFO, no UTF-8', INFO, info_data(b'\xff\xfe'), UNKNOWN),
        ('GO to no export', GO, info_data('nope'), UNKNOWN),
        ('GO, too much data', GO, info_data('disk', [1] * 40000), TOO_BIG),
        ('LIST_META, too much data', LIST_META, meta_data('disk', ['a:b'] * 20000), TOO_BIG),
        ('SET_META before structured replies', SET_META, meta_data('disk', ['base:allocation']), INVALID),
        ('EXPORT_NAME of no export', EXPORT_NAME, b'nope', 'closed'),
        ('EXPORT_NAME, too long', EXPORT_NAME, b'x' * 4097, 'closed'),
        ('EXPORT_NAME, far too long', EXPORT_NAME, b'x' * 70000, 'closed'),
    )

    def test_violations(self):
        before = len(self.daemon.fds())
        for name, option, data, wanted in self.REFUSED:
            with self.subTest(name), RawClient(self.socket) as client:
                client.greet()
                if wanted == 'closed':
                    client.send_option(option, data)
                    self.assertTrue(client.closed())
                    continue
                self.assertEqual(client.result(option, data), wanted)
                # The next option works.
                self.assertEqual(client.result(GO, info_data('disk')), ACK)
                self.assertEqual(client.read(0, 1), b'\0')
        wait_until(lambda: len(self.daemon.fds()) <= before, what='sockets to be closed')

    def test_broken_greetings(self):
        for flags in 4, 0x80000001, 0xffffffff:
            client = self.raw().greet(flags)
            self.assertTrue(client.closed(), hex(flags))
        client = self.raw().greet(0)
        client.send_option(LIST)  # fixed newstyle alone knows that
        self.assertTrue(client.closed())
        client = self.raw().greet()
        client.send_option(LIST, magic=OPTION_MAGIC + 1)
        self.assertTrue(client.closed())
        client = self.raw().greet()
        client.send_option(99, length=32 * MIB + 1)
        self.assertTrue(client.closed())

    def test_meta_queries_that_do_not_add_up(self):
        client = self.raw().greet()
        client.option(STRUCTURED_REPLY)
        good = meta_data('disk', ['base:allocation'])
        for data in (b'', good[:-1], good + b'x', text('disk'), text('disk') + struct.pack('>I', 2) + text('a:b'),
                     text('disk') + struct.pack('>I', 0xffffffff), struct.pack('>I', 0xffffffff) + b'disk',
                     meta_data('disk', ['x' * 4097])):
            for option in LIST_META, SET_META:
                self.assertEqual(client.result(option, data), INVALID, data)
        self.assertEqual(client.result(SET_META, good), ACK)

    def test_agreed_on_twice(self):
        client = self.raw().greet()
        self.assertEqual(client.result(STRUCTURED_REPLY), ACK)
        self.assertEqual(client.result(STRUCTURED_REPLY), INVALID)
        self.assertEqual(client.result(EXTENDED_HEADERS), ACK)
        self.assertEqual(client.result(EXTENDED_HEADERS), INVALID)
        self.assertEqual(client.result(STRUCTURED_REPLY), EXT_REQD)
        client.send_option(EXPORT_NAME, b'disk')  # does not go with extended headers
        self.assertTrue(client.closed())

    def test_abort(self):
        for data in b'', b'ignored', b'x' * 70000:
            client = self.raw().greet()
            self.assertEqual(client.option(ABORT, data), [(ACK, b'')])
            self.assertTrue(client.closed())

    def test_one_byte_after_the_other(self):
        client = self.raw().greet(None)
        message = struct.pack('>I', 3) + struct.pack('>QII', OPTION_MAGIC, GO, 10) + info_data('disk')
        for byte in message:
            client.send(bytes([byte]))
        while client.recv_reply(GO)[0] != ACK:
            pass
        client.send_request(READ, 0, 8)
        self.assertEqual(client.recv_answer(1, 8)[0], 0)


class Transmission(NbdTest):
    STYLES = ({}, {'structured': True}, {'extended': True})

    def setUp(self):
        super().setUp()
        self.content = os.urandom(64 * 1024)
        self.image = self.node(content=self.content)
        self.export(allocation_depth=True)
        self.node('ro', image=self.image, **{'read-only': True})
        self.export('ro', 'e1', writable=False)

    def each_style(self, name='n0', **kwargs):
        for style in self.STYLES:
            with self.subTest(style):
                client = self.connected(name, **style, **kwargs)
                yield client
                self.assertEqual(client.read(0, 16), self.content[:16])
                client.close()

    def test_read(self):
        for client in self.each_style():
            for offset, length in ((0, 1), (0, 65536), (1, 4095), (65535, 2), (4 * MIB - 1, 1), (0, 4 * MIB),
                                   (60000, 100000)):
                self.assertEqual(client.read(offset, length), self.image_bytes(self.image, offset, length))
            self.assertEqual(client.error(READ, 5, 0), 0)

    def test_holes_are_told_as_such(self):
        for style in self.STYLES[1:]:
            client = self.connected(**style)
            self.assertEqual([kind for kind, _ in client.request(READ, 0, 65536)[1]], [DATA])
            self.assertEqual([kind for kind, _ in client.request(READ, MIB, 65536)[1]], [HOLE])
            self.assertEqual([kind for kind, _ in client.request(READ, MIB + 1, 3)[1]], [HOLE])
            self.assertEqual([kind for kind, _ in client.request(READ, 32768, 65536)[1]], [DATA, HOLE])
            self.assertEqual([kind for kind, _ in client.request(READ, 32768, 65536, DF)[1]], [DATA])
            # Many small holes: at most some chunks, and all of the data.
            for i in range(0, 64, 2):
                client.request(WRITE, 2 * MIB + i * 16384, 16384, payload=b'x' * 16384)
            chunks = client.request(READ, 2 * MIB, MIB)[1]
            self.assertLessEqual(len(chunks), 16)
            self.assertEqual(client.read(2 * MIB, MIB), (b'x' * 16384 + bytes(16384)) * 32)
            client.request(WRITE_ZEROES, 2 * MIB, MIB)

    def test_large_requests(self):
        """They do the same whatever lies below, and reads are counted once."""
        data = os.urandom(4 * MIB)
        for where, image in (('disk', self.make_file('large.img', content=data)),
                             ('memory', self.memory_file('large.img', content=data))):
            self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': where, 'filename': image})
            for name, skip, top in (
                    ('raw', 0, {'driver': 'raw', 'file': where}),
                    ('part', 5000, {'driver': 'raw', 'file': where, 'offset': 5000, 'size': 3 * MIB}),
                    ('filter', 0, {'driver': 'blkdebug', 'image': where})):
                with self.subTest(where=where, node=name):
                    name = f'{where}-{name}'
                    self.daemon.qmp.cmd('blockdev-add', {**top, 'node-name': name})
                    self.export(name, f'e-{name}')
                    for style in self.STYLES:
                        self.large_requests(self.connected(name, **style), image, skip, name, where)
                    self.delete(f'e-{name}', mode='hard')
                    self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': f'e-{name}'})

    def test_zero_copy(self):
        """Large reads need a pipe, unless the image's pages are to stay here."""
        data = os.urandom(2 * MIB)
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'file', 'node-name': 'large', 'filename': self.memory_file('large.img', content=data)})
        self.export('large', 'copied', name='copied', writable=False, zero_copy=False)
        self.export('large', 'spliced', name='spliced', writable=False)
        before = self.pipe_ends()
        self.assertEqual(self.connected('copied').read(4096, MIB), data[4096:MIB + 4096])
        self.assertEqual(self.pipe_ends(), before)
        client = self.connected('spliced')

        def has_pipe():
            """It is closed again when it has not been used for a while."""
            self.assertEqual(client.read(4096, MIB), data[4096:MIB + 4096])
            return self.pipe_ends() == before + 2
        wait_until(has_pipe, what='a read that takes a pipe')

    def pipe_ends(self):
        return sum(what.startswith('pipe:') for what in self.daemon.fds().values())

    def large_requests(self, client, image, skip, *nodes):
        for offset, length in ((0, MIB), (4096, 65536), (MIB - 1, 16384), (777, MIB + 1), (MIB + 5, MIB), (3, MIB)):
            before = [self.reads(node) for node in nodes]
            wanted = self.image_bytes(image, skip + offset, length)
            self.assertEqual(client.read(offset, length), wanted)
            self.assertEqual([self.reads(node) for node in nodes],
                             [(ops + 1, total + length) for ops, total in before])
            data = os.urandom(length)
            self.assertEqual(client.error(WRITE, offset, length, payload=data), 0)
            self.assertEqual(self.image_bytes(image, skip + offset, length), data)
            self.assertEqual(client.read(offset, length), data)

    def reads(self, node):
        stats = {s['node-name']: s['stats'] for s in self.daemon.qmp.cmd('query-blockstats', {'query-nodes': True})}
        return stats[node]['rd_operations'], stats[node]['rd_bytes']

    def test_write(self):
        for client in self.each_style():
            for offset, length, flags in ((MIB, 4096, 0), (MIB + 5, 1, FUA), (2 * MIB - 7, 300000, 0), (MIB, 0, 0)):
                data = os.urandom(length)
                self.assertEqual(client.error(WRITE, offset, length, flags, data), 0)
                self.assertEqual(self.image_bytes(self.image, offset, length), data)
            self.assertEqual(client.error(FLUSH), 0)
            self.assertEqual(client.error(FLUSH, flags=FUA), 0)

    def test_each_client_hears_of_a_lost_write(self):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'lossy',
            'image': {'driver': 'file', 'filename': self.make_file('lossy.img', MIB)},
            'inject-error': [{'event': 'none', 'iotype': 'flush', 'errno': EIO, 'once': True}]})
        self.export('lossy', 'e2')
        clients = [self.connected('lossy') for _ in range(2)]
        for client in clients:
            self.assertEqual(client.error(WRITE, 0, 512, payload=bytes(512)), 0)
        self.assertEqual([client.error(FLUSH) for client in clients], [EIO, EIO])
        self.assertEqual([client.error(FLUSH) for client in clients], [0, 0])
        self.assertEqual(self.connected('lossy').error(FLUSH), 0)

    def test_largest(self):
        self.node('big', size=40 * MIB)
        self.export('big', 'e2')
        for style in self.STYLES:
            client = self.connected('big', **style)
            data = os.urandom(1 * MIB) * 32
            self.assertEqual(client.error(WRITE, 4096, 32 * MIB, payload=data), 0)
            self.assertEqual(client.read(4096, 32 * MIB), data)
            self.assertEqual(client.error(READ, 0, 32 * MIB + 1), EINVAL)
            self.assertEqual(client.error(CACHE, 0, 32 * MIB + 1), EINVAL)
            self.assertEqual(client.error(WRITE_ZEROES, 0, 40 * MIB), 0)
            self.assertEqual(client.read(0, 32 * MIB), bytes(32 * MIB))
            # Too large to be skipped: it may be anything that follows.
            client.send_request(WRITE, 0, 32 * MIB + 1, PAYLOAD if client.extended else 0)
            self.assertTrue(client.closed())

    def test_zeroes_and_trim(self):
        for client in self.each_style():
            client.request(WRITE, MIB, MIB, payload=b'x' * MIB)
            self.assertEqual(client.error(WRITE_ZEROES, MIB + 4096, 8192), 0)
            self.assertEqual(client.error(WRITE_ZEROES, MIB + 99, 1, NO_HOLE | FUA), 0)
            self.assertEqual(client.read(MIB, 16384), b'x' * 99 + b'\0' + b'x' * 3996 + bytes(8192) + b'x' * 4096)
            self.assertIn(client.error(WRITE_ZEROES, MIB, MIB, FAST_ZERO), (0, ENOTSUP))
            self.assertEqual(client.error(TRIM, MIB, MIB, FUA), 0)
            self.assertEqual(client.error(TRIM, MIB, 0), 0)
            self.assertEqual(client.error(WRITE_ZEROES, MIB, 0), 0)
            self.assertEqual(client.error(CACHE, 0, 4 * MIB), 0)
            self.assertEqual(client.error(CACHE, 5, 0, FUA), 0)
        self.assertLess(os.stat(self.image).st_blocks * 512, MIB)

    # name, request, the error
    REFUSED = (
        ('unknown command', (8,), EINVAL),
        ('unknown command', (0xffff, 1, 2), EINVAL),
        ('read beyond the end', (READ, 4 * MIB, 1), EINVAL),
        ('read across the end', (READ, 4 * MIB - 1, 2), EINVAL),
        ('read, offset wraps', (READ, 0xfffffffffffffff0, 32), EINVAL),
        ('read, unknown flag', (READ, 0, 1, 1 << 15), EINVAL),
        ('read, flag of others', (READ, 0, 1, NO_HOLE), EINVAL),
        ('trim beyond the end', (TRIM, 4 * MIB, 1), EINVAL),
        ('trim, flag of others', (TRIM, 0, 1, FAST_ZERO), EINVAL),
        ('cache beyond the end', (CACHE, 0, 4 * MIB + 1), EINVAL),
        ('zeroes beyond the end', (WRITE_ZEROES, 4 * MIB - 1, 2), ENOSPC),
        ('zeroes, offset wraps', (WRITE_ZEROES, 0xffffffffffffffff, 0xffffffff), ENOSPC),
        ('zeroes, flag of others', (WRITE_ZEROES, 0, 1, DF), EINVAL),
        ('flush with a range', (FLUSH, 1, 0), EINVAL),
        ('flush with a length', (FLUSH, 0, 1), EINVAL),
        ('flush, flag of others', (FLUSH, 0, 0, REQ_ONE), EINVAL),
        ('status without contexts', (BLOCK_STATUS, 0, 1), EINVAL),
        ('write beyond the end', (WRITE, 4 * MIB, 3, 0, b'abc'), ENOSPC),
        ('write across the end', (WRITE, 4 * MIB - 2, 3, 0, b'abc'), ENOSPC),
        ('write, flag of others', (WRITE, 0, 3, NO_HOLE, b'abc'), EINVAL),
        ('large write beyond the end', (WRITE, 4 * MIB, MIB, 0, bytes(MIB)), ENOSPC),
    )

    def test_violations(self):
        for client in self.each_style():
            for name, request, wanted in self.REFUSED:
                self.assertEqual(client.error(*request), wanted, name)
                self.assertEqual(client.read(1, 3), self.content[1:4], name)
            if not client.structured:
                self.assertEqual(client.error(READ, 0, 1, DF), EINVAL)

    def test_read_only(self):
        for client in self.each_style('ro'):
            self.assertEqual(client.error(WRITE, 0, 3, 0, b'abc'), EPERM)
            self.assertEqual(client.error(WRITE_ZEROES, 0, 3), EPERM)
            self.assertEqual(client.error(TRIM, 0, 3), EPERM)
            self.assertEqual(client.error(FLUSH), 0)

    def test_wrong_magic(self):
        for style in self.STYLES:
            client = self.connected(**style)
            client.send_request(READ, 0, 1, magic=REQUEST ^ EXT_REQUEST)
            self.assertTrue(client.closed())

    def test_errors_come_with_words(self):
        for style in self.STYLES[1:]:
            error, chunks = self.connected(**style).request(READ, 4 * MIB, 1)
            self.assertEqual(error, EINVAL)
            self.assertIn(b'end of the export', chunks[-1][1])

    def test_error_of_the_node(self):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'bad', 'image': 'n0', 'inject-error': [
                {'event': 'none', 'iotype': 'read', 'errno': 5, 'sector': 0, 'once': False},
                {'event': 'none', 'iotype': 'write', 'errno': 28, 'sector': 0, 'once': False}]})
        self.delete()
        self.export('bad')
        for style in self.STYLES:
            client = self.connected('bad', **style)
            self.assertEqual(client.error(READ, 0, 512), EIO)
            self.assertEqual(client.error(WRITE, 0, 512, payload=bytes(512)), ENOSPC)
            self.assertEqual(client.read(4096, 512), self.content[4096:4608])

    def test_disconnect(self):
        """What was asked for before is still answered."""
        for style in self.STYLES:
            client = self.connected(**style)
            cookies = [client.send_request(READ, i * 512, 512) for i in range(20)]
            client.send_request(DISC)
            answers = client.recv_answers(cookies, 512)
            self.assertEqual({error for error, _ in answers.values()}, {0})
            self.assertTrue(client.closed())
        wait_until(lambda: self.exports()['e0']['nbd']['connections'] == 0)

    def test_half_closed(self):
        """A client that sends no more still gets all its answers."""
        client = self.connected(structured=True)
        cookies = [client.send_request(READ, i * 4096, 4096) for i in range(16)]
        client.sock.shutdown(1)
        self.assertEqual({error for error, _ in client.recv_answers(cookies).values()}, {0})
        self.assertTrue(client.closed())

    def test_one_byte_after_the_other(self):
        client = self.connected(structured=True)
        for byte in struct.pack('>IHHQQI', REQUEST, 0, WRITE, 7, 512, 5) + b'hello':
            client.send(bytes([byte]))
        self.assertEqual(client.recv_answer(7), (0, [(None, b'')]))
        for byte in struct.pack('>IHHQQI', REQUEST, 0, READ, 8, 512, 5):
            client.send(bytes([byte]))
        self.assertEqual(client.recv_answer(8)[1][0][1][8:], b'hello')

    def test_many_at_once(self):
        """More than are taken at once, of all sizes, in one stream."""
        for style in self.STYLES:
            client = self.connected(**style)
            wanted = {}
            stream = b''
            for i in range(1000):
                length = 1 + i * 37 % 3000
                wanted[i + 1] = (i * 61 % 60000, length)
                head = struct.pack('>IHHQQ' + ('Q' if client.extended else 'I'),
                                   EXT_REQUEST if client.extended else REQUEST, 0, READ, i + 1,
                                   wanted[i + 1][0], length)
                stream += head
            sender = self.in_thread(client.send, stream)
            for _ in range(1000):
                cookie, error, done, kind, payload = client.recv_chunk()
                offset, length = wanted.pop(cookie)
                self.assertEqual((error, done), (0, True))
                data = client.recv(length) if kind is None else payload[8:]
                self.assertEqual(data, self.content[offset:offset + length])
            sender.join()

    def in_thread(self, function, *args):
        import threading
        thread = threading.Thread(target=function, args=args)
        thread.start()
        self.addCleanup(thread.join)
        return thread

    # Extended headers

    def test_extended_writes(self):
        client = self.connected(extended=True)
        # Without the flag there is no payload.
        cookie = client.send_request(WRITE, 0, 3)
        self.assertEqual(client.recv_answer(cookie)[0], EINVAL)
        # A payload where none belongs is skipped.
        for command in READ, TRIM, CACHE, WRITE_ZEROES, FLUSH, 77:
            cookie = client.send_request(command, 0, 5, PAYLOAD, b'12345')
            self.assertEqual(client.recv_answer(cookie)[0], EINVAL)
        self.assertEqual(client.read(0, 3), self.content[:3])
        client.send_request(TRIM, 0, 1 << 40, PAYLOAD)
        self.assertTrue(client.closed())

    def test_extended_lengths(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'null', 'size': 1 << 50,
                                             'read-zeroes': True})
        self.export('null', 'e2')
        client = self.connected('null', extended=True, contexts=['base:allocation'])
        self.assertEqual(client.size, 1 << 50)
        self.assertEqual(client.error(TRIM, 4096, 1 << 40), 0)
        self.assertEqual(client.error(WRITE_ZEROES, 4096, 1 << 40), 0)
        self.assertEqual(client.error(READ, 0, 1 << 40), EINVAL)
        self.assertEqual(client.error(CACHE, 0, 1 << 40), EINVAL)
        extents = client.status(0, 1 << 50)[0]
        self.assertGreater(extents[0][0], 1 << 32)

    # Block status

    def test_status(self):
        hole = 4 * MIB - 65536
        for style in self.STYLES[1:]:
            client = self.connected(contexts=['base:allocation'], **style)
            self.assertEqual(client.contexts, {'base:allocation': 0})
            self.assertEqual(client.status(0, 4 * MIB), {0: [(65536, 0), (hole, 3)]})
            self.assertEqual(client.status(0, 4 * MIB, REQ_ONE), {0: [(65536, 0)]})
            self.assertEqual(client.status(65536 - 512, 1024), {0: [(512, 0), (512, 3)]})
            self.assertEqual(client.status(4 * MIB - 1, 1), {0: [(1, 3)]})
            for offset, length, flags in ((0, 0, 0), (4 * MIB, 1, 0), (1, 4 * MIB, 0), (0, 1, DF)):
                self.assertEqual(client.error(BLOCK_STATUS, offset, length, flags), EINVAL)

    def test_status_of_two_contexts(self):
        both = ['base:allocation', 'qemu:allocation-depth']
        client = self.connected(structured=True, contexts=both)
        self.assertEqual(sorted(client.status(0, 4 * MIB)), sorted(client.contexts.values()))
        client = self.connected(structured=True, contexts=both[1:])
        self.assertEqual(list(client.status(0, 4 * MIB)), list(client.contexts.values()))

    def test_status_of_many_extents(self):
        """A chunk has bounded room; who asks again gets on."""
        with open(self.image, 'r+b') as f:
            for i in range(0, 512, 2):
                f.seek(MIB + i * 4096)
                f.write(b'x' * 4096)
        client = self.connected(structured=True, contexts=['base:allocation'])
        found, offset = [], 0
        while offset < 4 * MIB:
            part = client.status(offset, 4 * MIB - offset)[0]
            offset += sum(length for length, _ in part)
            found += part
        self.assertEqual(offset, 4 * MIB)
        self.assertEqual(len(found), 2 + 512)

    def test_status_with_a_payload(self):
        both = ['base:allocation', 'qemu:allocation-depth']
        client = self.connected(extended=True, contexts=both)
        base, depth = (client.contexts[name] for name in both)

        def ids(length, *wanted):
            return struct.pack(f'>Q{len(wanted)}I', length, *wanted)

        self.assertEqual(sorted(client.status(0, MIB)), sorted([base, depth]))
        self.assertEqual(list(client.status(0, 0, payload=ids(MIB, base))), [base])
        self.assertEqual(list(client.status(0, 0, payload=ids(MIB, depth, base))), [depth, base])
        self.assertEqual(client.status(0, 0, REQ_ONE, ids(MIB, base)), {base: [(65536, 0)]})
        for payload in (b'x', ids(MIB), ids(MIB, 99), ids(MIB, base, base), ids(MIB, base, depth, base),
                        ids(MIB, base) + b'x', ids(4 * MIB + 1, base), ids(0, base), ids(1 << 63, base),
                        ids(MIB, *range(1000))):
            error = client.error(BLOCK_STATUS, 0, len(payload), PAYLOAD, payload)
            self.assertEqual(error, EINVAL, payload)
        self.assertEqual(client.error(BLOCK_STATUS, 4 * MIB, 12, PAYLOAD, ids(1, base)), EINVAL)
        self.assertEqual(client.read(0, 5), self.content[:5])

    def test_depth(self):
        """Where in the backing chain data lies; what is behind the end of a short image counts as its."""
        base, top = self.path('base.qcow2'), self.path('top.qcow2')
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', base, '1M')
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top, '2M')
        qemu_io = find_tool('qemu-io')
        run(qemu_io, '-c', 'write -P 1 0 256k', base)
        run(qemu_io, '-c', 'write -P 2 128k 256k', '-c', 'write -P 3 1536k 64k', top)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top',
                                             'file': {'driver': 'file', 'filename': top}})
        self.export('top', 'e2', allocation_depth=True)
        client = self.connected('top', structured=True, contexts=['qemu:allocation-depth'])
        k = 1024
        self.assertEqual(client.status(0, 2 * MIB)[1], [
            (128 * k, 2), (256 * k, 1), (640 * k, 0), (512 * k, 2), (64 * k, 1), (448 * k, 2)])


if __name__ == '__main__':
    main()
