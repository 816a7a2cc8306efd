# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON-RPC 2.0: requests, notifications, batches, errors, events, discovery."""

import json
import socket

from wharf import *

PARSE, REQUEST, METHOD, PARAMS = -32700, -32600, -32601, -32602


class JsonRpc(IoTest):
    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd(jsonrpc=True)
        self.rpc = self.daemon.jsonrpc_client()

    def reply_to(self, data):
        self.rpc.send_raw(data)
        return self.rpc.read_reply()

    def assert_error(self, reply, code, id=None, cls='GenericError'):
        self.assertEqual(set(reply), {'jsonrpc', 'id', 'error'}, reply)
        self.assertEqual(reply['jsonrpc'], '2.0')
        self.assertEqual(reply['error']['code'], code, reply)
        self.assertTrue(reply['error']['message'])
        self.assertEqual(reply['error']['data'], {'class': cls})
        self.assertEqual(reply['id'], id)
        return reply['error']['message']

    def call(self, method='query-version', id=1, **members):
        return {'jsonrpc': '2.0', 'method': method, 'id': id, **members}


class Requests(JsonRpc):
    def test_result(self):
        reply = self.rpc.request(self.call())
        self.assertEqual(set(reply), {'jsonrpc', 'id', 'result'})
        self.assertEqual((reply['jsonrpc'], reply['id']), ('2.0', 1))
        self.assertEqual(reply['result'], self.daemon.qmp.cmd('query-version'))

    def test_nobody_greets(self):
        self.rpc.notify('query-version')
        self.assertEqual(self.rpc.request(self.call(id='first'))['id'], 'first')

    def test_ids(self):
        for value in ('x', '', 0, -1, 2**63, 2**64 - 1, 1.5, None):
            with self.subTest(value):
                self.assertEqual(self.rpc.request(self.call(id=value))['id'], value)

    def test_bad_ids(self):
        for value in (True, [], {}, [1]):
            with self.subTest(value):
                self.assert_error(self.rpc.request(self.call(id=value)), REQUEST)

    def test_params(self):
        for params in ({}, []):
            self.assertIn('result', self.rpc.request(self.call(params=params)))
        for params in (None, 5, 'x', True):
            self.assert_error(self.rpc.request(self.call(params=params)), REQUEST, 1)
        self.assert_error(self.rpc.request(self.call(params=[1])), PARAMS, 1)
        self.assertIn('x', self.assert_error(self.rpc.request(self.call(params={'x': 1})), PARAMS, 1))
        self.assertIn('id', self.assert_error(
            self.rpc.request(self.call('chardev-remove', params={'id': 5})), PARAMS, 1))

    def test_unknown_method(self):
        for method in ('nope', 'Query-Version', 'query_version', '', 'rpc.nope', 'qmp_capabilities'):
            with self.subTest(method):
                self.assert_error(self.rpc.request(self.call(method)), METHOD, 1, 'CommandNotFound')

    def test_invalid_requests(self):
        for request in ({}, {'method': 'query-version', 'id': 1}, 5, 'x', None, True,
                        {'jsonrpc': 2.0, 'method': 'query-version'},
                        {'jsonrpc': '1.0', 'method': 'query-version'},
                        {'jsonrpc': '2.0', 'id': 1}, {'jsonrpc': '2.0', 'method': 5, 'id': 1},
                        {'jsonrpc': '2.0', 'method': None, 'id': 1},
                        {'jsonrpc': '2.0', 'method': 'query-version\0', 'id': 1},
                        {'jsonrpc': '2.0', 'execute': 'query-version', 'id': 1}):
            with self.subTest(request):
                has_id = isinstance(request, dict) and 'id' in request
                self.assert_error(self.rpc.request(request), REQUEST, 1 if has_id else None)

    def test_own_error_codes(self):
        with self.assertRaises(QmpError) as caught:
            self.rpc.cmd('chardev-remove', id='nope')
        self.assertEqual((caught.exception.code, caught.exception.data['class']), (-32002, 'GenericError'))
        with self.assertRaises(QmpError) as caught:
            self.rpc.cmd('chardev-remove', id='wharfd-qmp')
        self.assertEqual(caught.exception.code, -32004)
        with self.assertRaises(QmpError) as caught:
            self.rpc.cmd('qom-list', path='/nope')
        self.assertEqual((caught.exception.code, caught.exception.data['class']), (-32001, 'DeviceNotFound'))

    def test_parse_errors(self):
        for data in (b'{"jsonrpc":"2.0",}\n', b'nope\n', b'}\n', b"{'jsonrpc':'2.0'}\n\xff\n",
                     b'{"jsonrpc":"2.0","jsonrpc":"2.0"}\n', b'["\xff"]\n\xff\n'):
            with self.subTest(data):
                self.assert_error(self.reply_to(data), PARSE)
                self.rpc.send(self.call(id='alive'))
                while (reply := self.rpc.read_reply())['id'] != 'alive':
                    self.assert_error(reply, PARSE)
                self.assertIn('result', reply)

    def test_one_line_each(self):
        self.rpc.send_raw(b'\n\t{"jsonrpc":\n"2.0","method":"query-version",\n"id":"\xc3\xa4"}')
        line = self.rpc.read_line()
        self.assertTrue(line.isascii())
        self.assertEqual(json.loads(line)['id'], 'ä')


class Notifications(JsonRpc):
    def test_run_but_not_answered(self):
        path = self.path('c')
        self.rpc.notify('chardev-add', {'id': 'c', 'backend': {'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': path}}}}})
        self.rpc.notify('nope')
        self.rpc.notify('chardev-remove', {'id': 5})
        labels = [c['label'] for c in self.rpc.cmd('query-chardev')]
        self.assertIn('c', labels)

    def test_quit(self):
        self.rpc.notify('quit')
        self.assertIsNone(self.rpc.read())
        self.assertEqual(self.daemon.wait(), 0)


class Batches(JsonRpc):
    def test_empty(self):
        self.assert_error(self.rpc.request([]), REQUEST)

    def test_mixed(self):
        reply = self.rpc.request([
            self.call(id='a'), 1, {'jsonrpc': '2.0', 'method': 'query-version'},
            self.call('nope', id='b'), {'foo': 'bar'}, self.call(id=7, params={'x': 1}), []])
        self.assertEqual(len(reply), 6)
        self.assertEqual((reply[0]['id'], 'result' in reply[0]), ('a', True))
        self.assert_error(reply[1], REQUEST)
        self.assert_error(reply[2], METHOD, 'b', 'CommandNotFound')
        self.assert_error(reply[3], REQUEST)
        self.assert_error(reply[4], PARAMS, 7)
        self.assert_error(reply[5], REQUEST)

    def test_notifications_only(self):
        self.rpc.send([{'jsonrpc': '2.0', 'method': 'query-version'}] * 3)
        self.assertEqual(self.rpc.request(self.call(id='next'))['id'], 'next')

    def test_large(self):
        reply = self.rpc.request([self.call(id=i) for i in range(2000)])
        self.assertEqual([r['id'] for r in reply], list(range(2000)))

    def test_in_order(self):
        add = self.call('object-add', 1, params={'qom-type': 'iothread', 'id': 't'})
        remove = self.call('object-del', 2, params={'id': 't'})
        reply = self.rpc.request([add, remove, remove])
        self.assertEqual(['result' in r for r in reply], [True, True, False])


class Events(JsonRpc):
    def setUp(self):
        super().setUp()
        self.need_fuse()
        self.image = self.make_file('img', 65536)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n', 'filename': self.image})
        self.point = self.mountpoint()

    def make_event(self, name):
        """One BLOCK_EXPORT_DELETED."""
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': name, 'node-name': 'n',
                                                 'mountpoint': self.point})
        self.daemon.qmp.cmd('block-export-del', {'id': name})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': name})

    def test_only_after_subscribe(self):
        self.make_event('e0')
        self.assertEqual(self.rpc.request(self.call())['id'], 1)
        self.assertFalse(self.rpc.events)
        subscription = self.rpc.cmd('subscribe')
        self.assertEqual(set(subscription), {'instance', 'next', 'lost'})
        self.assertEqual(subscription['lost'], 0)
        self.make_event('e1')
        event = self.rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e1'})
        self.assertEqual(set(event), {'jsonrpc', 'method', 'params'})
        self.assertEqual(event['params']['seq'], subscription['next'])
        self.assertEqual(set(event['params']['timestamp']), {'seconds', 'microseconds'})
        self.rpc.cmd('unsubscribe')
        self.make_event('e2')
        self.rpc.cmd('query-version')
        self.assertFalse(self.rpc.events)

    def test_names(self):
        self.rpc.cmd('subscribe', events=['EVENTS_LOST'])
        self.make_event('e0')
        self.rpc.cmd('query-version')
        self.assertFalse(self.rpc.events)
        self.rpc.cmd('subscribe', events=['BLOCK_EXPORT_DELETED'])
        self.make_event('e1')
        self.rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e1'})

    def test_unknown_names(self):
        self.rpc.cmd('subscribe', events=['BLOCK_EXPORT_DELETED'])
        for names, place in ((['BLOCK_EXPORT_DELETE'], 'events[0]'), (['EVENTS_LOST', ''], 'events[1]')):
            with self.assertRaises(QmpError) as caught:
                self.rpc.cmd('subscribe', events=names)
            for part in (place, 'BLOCK_EXPORT_DELETED', f'"{names[-1]}"'):
                self.assertIn(part, str(caught.exception))
        self.make_event('e0')  # the subscription is what it was
        self.rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_replay_after_a_reconnect(self):
        first = self.rpc.cmd('subscribe')
        self.make_event('e0')
        seen = self.rpc.wait_event('BLOCK_EXPORT_DELETED')['params']['seq']
        self.rpc.close()
        self.make_event('e1')
        self.make_event('e2')
        rpc = self.daemon.jsonrpc_client()
        again = rpc.cmd('subscribe', since=seen + 1, instance=first['instance'])
        self.assertEqual(again, {'instance': first['instance'], 'next': seen + 1, 'lost': 0})
        for i, name in enumerate(('e1', 'e2')):
            event = rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': name})
            self.assertEqual(event['params']['seq'], seen + 1 + i)
        self.make_event('e3')
        rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e3'})

    def test_another_instance(self):
        self.make_event('e0')
        got = self.rpc.cmd('subscribe', since=1000, instance='another-run')
        self.assertEqual((got['next'], got['lost']), (1, 0))
        self.rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_since_the_future(self):
        got = self.rpc.cmd('subscribe', since=10**6)
        self.assertLess(got['next'], 10**6)
        self.make_event('e0')
        self.rpc.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_qmp_has_numbers_after_subscribe_only(self):
        qmp = self.daemon.qmp_client()
        self.make_event('e0')
        self.assertNotIn('seq', qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'}))
        subscription = qmp.cmd('subscribe', since=1)
        self.assertEqual(subscription['next'], 1)
        self.assertEqual(qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})['seq'], 1)
        qmp.cmd('unsubscribe')
        self.make_event('e1')
        self.assertNotIn('seq', qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e1'}))


class Discovery(JsonRpc):
    def test_document(self):
        document = self.rpc.cmd('rpc.discover')
        self.assertRegex(document['openrpc'], r'^1\.')
        self.assertEqual(document['info']['title'], 'wharfd')
        methods = {m['name']: m for m in document['methods']}
        commands = {c['name'] for c in self.rpc.cmd('query-commands')} - {'qmp_capabilities'}
        self.assertEqual(set(methods), commands)
        schemas = document['components']['schemas']

        def check(value):
            if isinstance(value, dict):
                if '$ref' in value:
                    self.assertIn(value['$ref'].rpartition('/')[2], schemas)
                value = list(value.values())
            if isinstance(value, list):
                for item in value:
                    check(item)
        check(document['methods'])
        check(schemas)
        remove = methods['chardev-remove']
        self.assertTrue(remove['description'])
        self.assertEqual(remove['paramStructure'], 'by-name')
        self.assertEqual([(p['name'], p['required']) for p in remove['params']], [('id', True)])


class Sockets(JsonRpc):
    def test_mode_and_end(self):
        import os
        import stat
        self.assertEqual(stat.S_IMODE(os.stat(self.daemon.jsonrpc_path).st_mode), 0o600)
        self.daemon.terminate()
        self.assertFalse(os.path.exists(self.daemon.jsonrpc_path))

    def test_half_close(self):
        self.rpc.send([self.call(id=1)])
        self.rpc.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self.rpc.read()[0]['id'], 1)
        self.assertIsNone(self.rpc.read())


if __name__ == '__main__':
    main()
