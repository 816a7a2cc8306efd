# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP protocol: negotiation, messages, framing, envelope, out of band, clients, ending."""

import contextlib
import json
import os
import socket
import stat

from wharf import *

G, CNF = 'GenericError', 'CommandNotFound'


class Qmp(IoTest):
    """A daemon with one QMP socket, and helpers for raw bytes."""

    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd()
        self.qmp = self.daemon.qmp

    def fresh(self):
        """A client that has not negotiated."""
        return self.daemon.qmp_client(negotiate=False)

    def reply_to(self, data, client=None):
        client = client or self.qmp
        client.send_raw(data)
        return client.read_reply()

    def assert_error(self, reply, cls=G, **members):
        self.assertEqual(reply.get('error', {}).get('class'), cls, reply)
        self.assertTrue(reply['error']['desc'])
        for key, value in members.items():
            self.assertEqual(reply[key], value)
        return reply['error']['desc']

    def assert_alive(self, client=None):
        """The connection goes on: the next reply is the one to the next command."""
        reply = self.reply_to(b'{"execute":"query-version","id":"alive"}', client)
        self.assertEqual(reply.get('id'), 'alive', reply)
        self.assertIn('return', reply)


class Negotiation(Qmp):
    def test_greeting_is_the_version(self):
        greeting = self.fresh().greeting
        self.assertEqual(list(greeting), ['QMP'])
        self.assertEqual(greeting['QMP']['capabilities'], ['oob'])
        version = greeting['QMP']['version']
        self.assertEqual(version, self.qmp.cmd('query-version'))
        self.assertEqual(set(version), {'qemu', 'package'})
        self.assertEqual(set(version['qemu']), {'major', 'minor', 'micro'})
        self.assertIsInstance(version['package'], str)

    def test_nothing_else_runs_before(self):
        client = self.fresh()
        for command in ('query-version', 'quit', 'no-such-command', 'block-export-add'):
            reply = client.request({'execute': command, 'arguments': {'x': 1}, 'id': [command]})
            self.assert_error(reply, CNF, id=[command])
        self.assert_error(client.request({'exec-oob': 'query-version', 'id': 1}), G, id=1)
        self.assert_error(client.request({'execute': 5, 'id': 1}), G, id=1)
        self.assert_error(client.request({'execute': 'query-version', 'x': 1}), G)
        self.assert_error(client.request([1]), G)
        self.assertEqual(client.cmd('qmp_capabilities'), {})
        self.assert_alive(client)

    def test_enable(self):
        for arguments in (None, {}, {'enable': []}, {'enable': ['oob']}):
            self.assertEqual(self.fresh().cmd('qmp_capabilities', arguments), {})

    def test_bad_enable_can_be_tried_again(self):
        client = self.fresh()
        for arguments in ({'enable': ['nope']}, {'enable': 'oob'}, {'enable': [1]}, {'enable': None},
                          {'enable': {}}, {'other': []}, {'enable': ['oob', 'nope']}):
            reply = client.execute('qmp_capabilities', arguments)
            desc = self.assert_error(reply)
            self.assertIn(next(iter(arguments)), desc)
            self.assert_error(client.execute('query-version'), CNF)
        self.assert_error(client.request({'exec-oob': 'query-version'}), G)
        client.cmd('qmp_capabilities')
        self.assert_alive(client)

    def test_second_time(self):
        self.assert_error(self.qmp.execute('qmp_capabilities'), CNF)
        self.assert_error(self.qmp.execute('qmp_capabilities', {'enable': ['oob']}), CNF)
        self.assert_alive()

    def test_events_only_after_it(self):
        silent = self.fresh()
        self.make_export('e0')
        self.qmp.cmd('block-export-del', id='e0')
        self.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        silent.cmd('qmp_capabilities')
        self.assertEqual(list(silent.events), [])
        self.assert_alive(silent)
        self.assertEqual(list(silent.events), [])

    def make_export(self, name):
        self.need_fuse()
        image = self.make_file('img', 65536)
        self.add_file_export(self.daemon, image, self.mountpoint(), export=name)


class Messages(Qmp):
    def test_one_line_of_ascii_each(self):
        text = 'ä€\U0001f600\x7f\t"\\/'
        self.qmp.send_raw(json.dumps({'execute': 'query-version', 'id': text},
                                     ensure_ascii=False).encode())
        line = self.qmp.sock.recv(1 << 16)
        self.assertTrue(line.endswith(b'}\r\n'), line)
        self.assertEqual(line.count(b'\n'), 1)
        self.assertTrue(line.isascii())
        self.assertIn(b'\\u007f', line.lower())
        self.assertIn(b'\\ud83d\\ude00', line.lower())
        self.assertEqual(json.loads(line)['id'], text)

    def test_id_of_any_kind(self):
        for value in (None, True, 0, -1, 'x', '', [], {}, [1, [2, {'a': None}]], {'b': {'c': []}},
                      -2**63, 2**63 - 1, 2**63, 2**64 - 1, 1.5, -0.25, 1e300):
            with self.subTest(value):
                reply = self.qmp.request({'execute': 'query-version', 'id': value})
                self.assertIn('return', reply)
                self.assertEqual(reply['id'], value)
                self.assertIs(type(reply['id']), type(value))
        self.assertNotIn('id', self.qmp.execute('query-version'))

    def test_numbers_come_back_exact(self):
        for text, want in ((b'9223372036854775807', b'9223372036854775807'),
                           (b'18446744073709551615', b'18446744073709551615'),
                           (b'-9223372036854775808', b'-9223372036854775808'),
                           (b'1.0', b'1'), (b'1e5', b'100000'), (b'-0', b'0')):
            with self.subTest(text):
                self.qmp.send_raw(b'{"execute":"query-version","id":' + text + b'}')
                self.assertIn(b'"id": ' + want + b'}', self.qmp.read_line())
        reply = self.reply_to(b'{"execute":"query-version","id":18446744073709551616}')
        self.assertEqual(float(reply['id']), 2.0**64)

    def test_number_too_large_for_anything(self):
        self.assert_error(self.reply_to(b'{"execute":"query-version","id":1E400}'))
        self.assert_alive()

    def test_id_in_errors(self):
        for message in ({'execute': 'nope'}, {'execute': 'query-version', 'arguments': []},
                        {'execute': 'query-version', 'arguments': {'x': 1}}, {'execute': 1}, {},
                        {'execute': 'query-version', 'extra': 0}, {'execute': 'qmp_capabilities'}):
            reply = self.qmp.request({**message, 'id': {'a': [message]}})
            self.assertEqual(reply['id'], {'a': [message]})
            self.assertIn('error', reply)

    def test_pipelined_without_limit(self):
        n = 5000
        sent = b''.join(b'{"execute":"query-version","id":%d}' % i for i in range(n))
        reader = self.daemon.qmp_client()
        reader.sock.setblocking(False)
        done = 0
        for i in range(n):
            while done < len(sent):
                try:
                    done += reader.sock.send(sent[done:done + 65536])
                except BlockingIOError:
                    break
            self.assertEqual(reader.read()['id'], i)
            reader.sock.setblocking(False)

    def test_pretty(self):
        daemon = self.wharfd('--chardev', f'socket,id=p,path={self.path("p")},server=on,wait=off',
                             '--monitor', 'p,pretty=on')
        with daemon.raw_client(self.path('p')) as client:
            data = b''
            while b'}\r\n' not in data or data.count(b'{') != data.count(b'}'):
                data += client.recv(65536)
            self.assertTrue(data.startswith(b'{\r\n    "QMP": {\r\n        "'), data)
            self.assertEqual(json.loads(data), self.fresh().greeting)
            client.sendall(b'{"execute":"qmp_capabilities"}')
            self.assertEqual(client.recv(65536), b'{\r\n    "return": {\r\n    }\r\n}\r\n')


class Framing(Qmp):
    def test_no_white_space_is_needed(self):
        self.qmp.send_raw(b'{"execute":"query-version","id":1}{"execute":"query-version","id":2}'
                          b'\n\t \r\n  {"execute" : "query-version" , "id":3}')
        self.assertEqual([self.qmp.read_reply()['id'] for _ in range(3)], [1, 2, 3])

    def test_in_single_bytes(self):
        for byte in b'{"execute":"query-version",\n "id": "x"}':
            self.qmp.send_raw(bytes([byte]))
        self.assertEqual(self.qmp.read_reply()['id'], 'x')

    def test_single_quotes(self):
        reply = self.reply_to(b"{'execute':'query-version','id':'a\\'b\"c'}")
        self.assertEqual(reply['id'], 'a\'b"c')
        reply = self.reply_to(b'{"execute":"query-version","id":"a\\\'b"}')
        self.assertEqual(reply['id'], "a'b")

    # Each of these gives one error without id, and the next command works.
    ONE_ERROR = (
        b'[1]', b'"x"', b'5\n', b'null\n', b'true ', b'[]', b'-3.5\n', b"'x'",
        b'{"execute":"query-version",}', b'{"execute":}', b'{"execute" "query-version"}',
        b'{"execute":"query-version" "id":1}', b'{1:2}', b'{"a":[1,]}', b'{,}', b'[,]',
        b'}', b']', b'nope\n', b'{"a":nope}',
        b'{"execute":"query-version","execute":"query-version"}',
        b'{"execute":"query-version","id":1,"id":2}',
        b'{"execute":"query-version","id":{"a":1,"a":2}}',
        b'{"execute":"query-version","id":"\xed\xa0\x80"}',
        b'{"execute":"query-version","id":"\\ud800"}',
        b'{"execute":"query-version","id":"\\uffff"}',
        b'{"execute":"query-version","id":"\\x41"}',
        b'{"execute":"query-version","id":"\\u12g4"}',
        b'\x00', b'\x01', b'\xff', b'{"execute":\x01', b'{"execute":"query-version"\xff',
        b'{"a":[}' + b'{"execute":"quit"}' + b'\x01',
    )

    def test_broken_input_gives_one_error(self):
        for data in self.ONE_ERROR:
            with self.subTest(data):
                reply = self.reply_to(data + b'\n')
                self.assert_error(reply)
                self.assertNotIn('id', reply)
                self.assert_alive()

    # Lexical errors reset the parser at once, and brackets that do not match end a value early; what is
    # left may raise more errors.
    SEVERAL_ERRORS = (b'{"a":[}]}', b'{"a":{]}}', b'{"execute":"query-version","id":"\xff"}',
               b'\xef\xbb\xbf', b'%', b'// comment\n', b'/* comment */', b'{"id":01}', b'{"id":+1}',
               b'{"id":1.}', b'{"id":.5}', b'{"id":NaN}', b'{"id":"a\tb"}', b'{"id":"a\nb"}',
               b'{"id":"a\x02b"}', b'{"id":-}', b'{"id":1e}', b'\x0b', b'\x7f', b'{"id":Infinity}')

    def test_broken_input_gives_several_errors(self):
        for data in self.SEVERAL_ERRORS:
            with self.subTest(data):
                self.qmp.send_raw(data + b'\n\xff\n{"execute":"query-version","id":"alive"}')
                self.assert_error(self.qmp.read_reply())
                while True:
                    reply = self.qmp.read_reply()
                    if 'return' in reply:
                        break
                    self.assert_error(reply)
                self.assertEqual(reply['id'], 'alive')

    def test_unbalanced_value_swallows_until_reset(self):
        self.assert_error(self.reply_to(b'{"a":[}'))
        self.qmp.send_raw(b'{"execute":"query-version","id":"swallowed"}')
        self.qmp.send_raw(b'\x01')
        self.assert_alive()

    def test_odd_strings_that_are_fine(self):
        for data, want in ((b'"\\u0000"', '\0'), (b'"\xc0\x80"', '\0'), (b'"\\ud83d\\ude00"', '\U0001f600'),
                           (b'"\\/\\b\\f\\n\\r\\t\\\\"', '/\b\f\n\r\t\\'), (b'"\x7f"', '\x7f')):
            with self.subTest(data):
                reply = self.reply_to(b'{"execute":"query-version","id":' + data + b'}')
                self.assertEqual(reply['id'], want)

    def test_parse_error_begins_with_the_place(self):
        client = self.fresh()
        desc = self.assert_error(self.reply_to(b'\n\n  {"a":}\n', client))
        self.assertRegex(desc, r'^\D*3\D+\d+')

    def test_close_in_the_middle_runs_nothing(self):
        for data in (b'{"execute":"quit"', b'{"execute":"quit","id":"', b'{"execu'):
            client = self.daemon.qmp_client()
            client.send_raw(data)
            client.close()
        self.assert_alive(self.daemon.qmp_client())
        self.assertTrue(self.daemon.running())

    def test_half_close_is_answered(self):
        client = self.daemon.qmp_client()
        client.send_raw(b'{"execute":"query-version","id":1}{"execute":"query-commands","id":2}')
        client.sock.shutdown(socket.SHUT_WR)
        self.assertEqual([client.read_reply()['id'] for _ in range(2)], [1, 2])
        self.assertIsNone(client.read())


class Envelope(Qmp):
    CASES = (
        ({}, G, 'execute'),
        ({'arguments': {}}, G, 'execute'),
        ({'execute': 5}, G, 'execute'),
        ({'execute': None}, G, 'execute'),
        ({'execute': ['query-version']}, G, 'execute'),
        ({'execute': 'query-version', 'arguments': []}, G, 'arguments'),
        ({'execute': 'query-version', 'arguments': None}, G, 'arguments'),
        ({'execute': 'query-version', 'arguments': 'x'}, G, 'arguments'),
        ({'execute': 'query-version', 'control': {}}, G, 'control'),
        ({'execute': 'query-version', 'Id': 1}, G, 'Id'),
        ({'exec-oob': 'query-version'}, G, 'exec-oob'),
        ({'execute': 'query-version', 'exec-oob': 'query-version'}, G, 'exec-oob'),
        ({'execute': 'nope'}, CNF, 'nope'),
        ({'execute': 'Query-Version'}, CNF, 'Query-Version'),
        ({'execute': 'query_version'}, CNF, 'query_version'),
        ({'execute': ''}, CNF, ''),
        ({'execute': 'query-version\0'}, G, 'execute'),
        ({'execute': 'query-version', 'arguments': {'x': 1}}, G, 'x'),
        ({'execute': 'chardev-remove'}, G, 'id'),
        ({'execute': 'chardev-remove', 'arguments': {'id': 1}}, G, 'id'),
        ({'execute': 'chardev-remove', 'arguments': {'id': None}}, G, 'id'),
        ({'execute': 'chardev-remove', 'arguments': {'id': 'x', 'force': True}}, G, 'force'),
        ({'execute': 'subscribe', 'arguments': {'since': -1}}, G, 'since'),
        ({'execute': 'subscribe', 'arguments': {'since': 512.0}}, G, 'since'),
        ({'execute': 'subscribe', 'arguments': {'since': '1'}}, G, 'since'),
        ({'execute': 'subscribe', 'arguments': {'events': ['a', 1]}}, G, 'events[1]'),
        ({'execute': 'chardev-add', 'arguments': {'id': 'c', 'backend': {'type': 'file'}}}, G,
         'backend.type'),
        ({'execute': 'chardev-add', 'arguments': {'id': 'c', 'backend': {'type': 'socket'}}}, G,
         'backend.data'),
        ({'execute': 'chardev-add', 'arguments': {'id': 'c', 'backend': {
            'type': 'socket', 'data': {'addr': {'type': 'unix', 'data': {}}}}}}, G,
         'backend.data.addr.data.path'),
        ({'execute': 'object-add', 'arguments': {'qom-type': 'iothread', 'id': 'x',
                                                 'poll-max-ns': '5'}}, G, 'poll-max-ns'),
        ({'execute': 'object-add', 'arguments': {'qom-type': 'Iothread', 'id': 'x'}}, G, 'Iothread'),
    )

    def test_table(self):
        for message, cls, words in self.CASES:
            with self.subTest(message):
                reply = self.qmp.request({**message, 'id': 'x'})
                self.assertIn(words, self.assert_error(reply, cls, id='x'))
                self.assert_alive()
        self.assertEqual([c['label'] for c in self.qmp.cmd('query-chardev')], ['wharfd-qmp'])

    def test_empty_arguments(self):
        self.assertIn('qemu', self.qmp.cmd('query-version', {}))

    def test_oob(self):
        client = self.fresh()
        client.cmd('qmp_capabilities', {'enable': ['oob']})
        desc = self.assert_error(client.request({'exec-oob': 'query-version', 'id': 7}), G, id=7)
        self.assertIn('query-version', desc)
        self.assert_error(client.request({'exec-oob': 'query-version'}), G)
        self.assert_error(client.request({'exec-oob': 'nope', 'id': 8}), CNF, id=8)
        self.assert_error(client.request({'exec-oob': 5}), G)
        reply = client.request({'exec-oob': 'query-version', 'execute': 'query-version'})
        self.assert_error(reply, G)
        self.assert_alive(client)


class Clients(Qmp):
    def test_many_at_once(self):
        clients = [self.daemon.qmp_client(negotiate=False) for _ in range(20)]
        for client in clients[::2]:
            client.cmd('qmp_capabilities')
        for i, client in enumerate(clients):
            self.assertEqual('return' in client.execute('query-version'), i % 2 == 0)
        for client in clients:
            client.close()
        for _ in range(20):
            with self.daemon.qmp_client() as client:
                self.assert_alive(client)
        self.assert_alive()

    def test_several_monitors(self):
        daemon = self.wharfd(
            '--chardev', f'socket,id=a,path={self.path("a")},server=on,wait=off',
            '--chardev', f'socket,id=b,path={self.path("b")},server=on,wait=off',
            '--monitor', 'a', '--monitor', 'chardev=b,mode=control,id=second')
        for name in ('a', 'b'):
            with QmpClient(self.path(name)) as client:
                self.assert_alive(client)
        labels = {c['label']: c for c in daemon.qmp.cmd('query-chardev')}
        self.assertEqual(set(labels), {'a', 'b', daemon.name + '-qmp'})
        self.assertTrue(all(c['frontend-open'] for c in labels.values()))
        self.assertIn(self.path('a'), labels['a']['filename'])

    def test_descriptors_do_not_pile_up(self):
        before = len(self.daemon.fds())
        for _ in range(50):
            self.daemon.qmp_client().close()
        wait_until(lambda: len(self.daemon.fds()) <= before, what='closed connections to go')


class MonitorObjects(Qmp):
    def test_those_of_the_command_line(self):
        daemon = self.wharfd('--monitor', f'path={self.path("a")},id=named', '--monitor', f'path={self.path("b")}')
        objects = {o['name']: o['type'] for o in daemon.qmp.cmd('qom-list', path='/objects')}
        for name in ('named', 'compat_monitor0', 'compat_monitor1'):
            self.assertEqual(objects[name], 'child<monitor-qmp>')
        self.assertEqual(daemon.qmp.cmd('qom-get', path='/objects/named', property='chardev'), 'named')

    def add(self, name, chardev, **properties):
        self.qmp.cmd('object-add', {'qom-type': 'monitor-qmp', 'id': name, 'chardev': chardev, **properties})

    def test_at_run_time(self):
        path = self.path('c')
        self.qmp.cmd('chardev-add', {'id': 'c', 'backend': {'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': path}}}}})
        for properties in ({'chardev': 'nope'}, {'chardev': 'wharfd-qmp'}, {}, {'chardev': 'c', 'mode': 'readline'}):
            with self.assertRaises(QmpError) as caught:
                self.qmp.cmd('object-add', {'qom-type': 'monitor-qmp', 'id': 'm', **properties})
            self.assertEqual(caught.exception.cls, G)
        self.add('m', 'c')
        with self.assertRaises(QmpError):
            self.add('m2', 'c')
        with self.assertRaises(QmpError):
            self.qmp.cmd('chardev-remove', id='c')
        with QmpClient(path) as client:
            with self.assertRaises(QmpError) as caught:
                client.cmd('object-del', id='m')
            self.assertEqual(caught.exception.cls, G)
            with self.assertRaises(QmpError):
                client.cmd('qom-set', path='/objects/m', property='pretty', value=True)
            self.qmp.cmd('object-del', id='m')
            # Its client stays, and so does the chardev.
            self.assert_alive(client)
        self.add('m', 'c', mode='jsonrpc')
        with JsonRpcClient(path) as client:
            self.assertIn('qemu', client.cmd('query-version'))
            client.cmd('object-del', id='compat_monitor0')
        self.assert_alive()
        self.assertEqual([o['name'] for o in self.qmp.cmd('qom-list', path='/objects')], ['type', 'm'])

    def test_one_name_space(self):
        self.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': 'x'})
        self.qmp.cmd('chardev-add', {'id': 'c', 'backend': {'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': self.path('c')}}}}})
        for name in ('x', 'compat_monitor0'):
            with self.assertRaises(QmpError):
                self.add(name, 'c')
        self.qmp.cmd('chardev-remove', id='c')


class Secrets(Qmp):
    def test_nobody_is_told(self):
        self.qmp.cmd('object-add', {'qom-type': 'secret', 'id': 's', 'data': 'hush'})
        self.qmp.cmd('qom-list', path='/objects/s')
        for command, more in (('qom-get', {}), ('qom-set', {'value': 'x'})):
            with self.assertRaises(QmpError) as caught:
                self.qmp.cmd(command, path='/objects/s', property='data', **more)
            self.assertEqual(caught.exception.cls, G)
            self.assertNotIn('hush', caught.exception.desc)
        self.assertNotIn('hush', self.daemon.log())


class Ending(Qmp):
    def test_quit_answers_then_closes(self):
        other = self.daemon.qmp_client()
        self.qmp.send_raw(b'{"execute":"quit","id":1}{"execute":"query-version","id":2}\n\n')
        self.assertEqual(self.qmp.read_reply(), {'return': {}, 'id': 1})
        # The end of the stream, and no reset for input that nobody read.
        self.assertEqual(self.qmp.sock.recv(1), b'')
        self.assertIsNone(other.read())
        self.assertEqual(self.daemon.wait(), 0)
        self.assertFalse(os.path.exists(self.daemon.qmp_path))

    def test_quit_by_two(self):
        other = self.daemon.qmp_client()
        other.send({'execute': 'quit'})
        with contextlib.suppress(OSError):      # it may be gone already
            self.qmp.send({'execute': 'quit'})
        self.assertEqual(self.daemon.wait(), 0)

    def test_quit_of_a_client_that_has_gone(self):
        client = self.daemon.qmp_client()
        client.send({'execute': 'quit'})
        client.close()
        self.assertEqual(self.daemon.wait(), 0)

    def test_chardevs_at_run_time(self):
        def add(name, addr, **data):
            self.qmp.cmd('chardev-add', {'id': name, 'backend': {
                'type': 'socket', 'data': {'addr': addr, **data}}})

        def unix(name):
            return {'type': 'unix', 'data': {'path': self.path(name)}}

        add('c1', unix('c1.sock'), server=True, wait=False)
        self.assertEqual(stat.S_IMODE(os.stat(self.path('c1.sock')).st_mode), 0o600)
        add('c2', unix('c2.sock'), mode='0660')
        self.assertEqual(stat.S_IMODE(os.stat(self.path('c2.sock')).st_mode), 0o660)
        add('c3', {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '0'}})
        shown = {c['label']: c['filename'] for c in self.qmp.cmd('query-chardev')}
        self.assertRegex(shown['c3'], r'127\.0\.0\.1:[1-9]')
        for bad in (lambda: add('c1', unix('other')), lambda: add('c4', unix('c1.sock')),
                    lambda: add('4', unix('c4.sock')), lambda: add('c4', unix('no/dir')),
                    lambda: add('c4', unix('c4.sock'), wait=True),
                    lambda: add('c4', {'type': 'fd', 'data': {'str': '0'}}),
                    lambda: add('c4', unix('nobody'), server=False)):
            with self.assertRaises(QmpError) as caught:
                bad()
            self.assertEqual(caught.exception.cls, G)
        with self.assertRaises(QmpError):
            self.qmp.cmd('chardev-remove', id='wharfd-qmp')
        with self.assertRaises(QmpError):
            self.qmp.cmd('chardev-remove', id='c4')
        for name in ('c1', 'c2', 'c3'):
            self.qmp.cmd('chardev-remove', id=name)
        self.assertFalse(os.path.exists(self.path('c1.sock')))
        self.assertEqual(len(self.qmp.cmd('query-chardev')), 1)


class Introspection(Qmp):
    def test_commands(self):
        names = [c['name'] for c in self.qmp.cmd('query-commands')]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual({'qmp_capabilities', 'query-version', 'query-commands', 'quit',
                              'query-qmp-schema', 'chardev-add', 'subscribe'}, set(names))

    def test_schema(self):
        schema = self.qmp.cmd('query-qmp-schema')
        entries = {e['name']: e for e in schema}
        self.assertEqual(len(entries), len(schema))
        for command in self.qmp.cmd('query-commands'):
            self.assertEqual(entries[command['name']]['meta-type'], 'command')
        for entry in schema:
            for key in ('arg-type', 'ret-type', 'element-type'):
                self.assertIn(entry.get(key, 'str'), entries)
            for member in entry.get('members', []) if entry['meta-type'] != 'enum' else []:
                self.assertIn(member['type'], entries)
            self.assertEqual('variants' in entry, 'tag' in entry)


if __name__ == '__main__':
    main()
