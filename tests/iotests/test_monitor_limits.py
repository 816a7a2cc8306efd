# SPDX-License-Identifier: GPL-2.0-or-later
"""Large, deep, slow and dead: no client costs the daemon more than a bounded part, or others anything."""

import json
import socket
import threading
import time

from wharf import *

MIB = 1 << 20


class Limits(IoTest):
    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd(jsonrpc=True)
        self.qmp = self.daemon.qmp

    def assert_others_are_served(self):
        with self.daemon.qmp_client() as client:
            self.assertIn('qemu', client.cmd('query-version'))

    def send_while_reading(self, client, data):
        """Send without waiting for each other: the daemon may want its replies to be read."""
        def feed():
            try:
                client.sock.sendall(data)
            except OSError:
                pass
        client.sock.settimeout(None)
        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        return thread

    # Nesting

    def nested(self, levels):
        """A message of so many levels, the outer object included."""
        return (b'{"execute":"query-version","id":' + b'[' * (levels - 1) + b']' * (levels - 1) + b'}')

    def test_1024_levels(self):
        self.qmp.send_raw(self.nested(1024))
        line = self.qmp.read_line()                    # too deep for Python to parse
        self.assertIn(b'"return"', line)
        self.assertEqual(line.count(b'['), 1023)

    def test_1025_levels(self):
        self.qmp.send_raw(self.nested(1025))
        self.assertIn('error', self.qmp.read_reply())
        self.assertIn('qemu', self.qmp.cmd('query-version'))

    def test_bottomless(self):
        for opening in (b'[', b'{"a":'):
            client = self.daemon.qmp_client()
            self.send_while_reading(client, opening * 300000 + b'\xff{"execute":"query-version","id":7}')
            self.assertIn('error', client.read_reply())
            while 'return' not in client.read_reply():
                pass
        self.assert_others_are_served()

    def test_deep_arguments(self):
        """Deep input reaches the checks of a command without harm to its small stack."""
        node = b'{"driver":"raw","file":' * 1000 + b'"x"' + b'}' * 1000
        self.qmp.send_raw(b'{"execute":"blockdev-add","arguments":' + node + b'}')
        self.assertIn('error', self.qmp.read_reply())
        self.assert_others_are_served()

    # Size

    def test_large_message(self):
        text = 'x' * (15 * MIB)
        client = self.daemon.qmp_client()
        self.send_while_reading(client, json.dumps({'execute': 'query-version', 'id': text}).encode())
        self.assertEqual(client.read_reply()['id'], text)
        self.assert_others_are_served()

    @timeout(300)
    def test_too_large_message(self):
        client = self.daemon.qmp_client()
        chunk = b'x' * MIB
        client.send_raw(b'{"execute":"query-version","id":"')
        for _ in range(17):
            client.send_raw(chunk)
        client.send_raw(b'"}{"execute":"query-version","id":"after"}')
        self.assertIn('error', client.read_reply())
        self.assertEqual(client.read_reply()['id'], 'after')
        self.assert_others_are_served()

    @timeout(300)
    def test_too_many_tokens(self):
        client = self.daemon.qmp_client()
        self.send_while_reading(client, b'{"execute":"query-version","id":[' + b'1,' * 1100000 + b'1]}'
                                b'{"execute":"query-version","id":"after"}')
        self.assertIn('error', client.read_reply())
        self.assertEqual(client.read_reply()['id'], 'after')

    def test_memory_of_garbage_is_bounded(self):
        before = self.daemon.rss()
        client = self.daemon.qmp_client()
        client.send_raw(b'{"a":[}')                    # swallows what follows
        for _ in range(64):
            client.send_raw(b'"' + b'y' * MIB + b'",')
        self.assert_others_are_served()
        self.assertLess(self.daemon.rss() - before, 32 * MIB * self.sanitizer_factor())

    def sanitizer_factor(self):
        """Sanitizers keep freed memory and shadow what is used."""
        with open(f'/proc/{self.daemon.pid}/maps', encoding='utf-8') as f:
            return 20 if 'san' in f.read() else 1

    # Slow and dead clients

    def fill_until_blocked(self, client, message):
        """Send a message again and again until the daemon reads no further; return how often."""
        client.sock.setblocking(False)
        sent = 0
        while True:
            try:
                n = client.sock.send(message)
            except BlockingIOError:
                # Blocked for a moment, or for good? It is for good when nothing has moved for a while
                # although the daemon has answered others meanwhile.
                for _ in range(20):
                    self.assert_others_are_served()
                try:
                    n = client.sock.send(message)
                except BlockingIOError:
                    return sent
            if n < len(message):
                client.sock.setblocking(True)
                client.sock.sendall(message[n:])
                client.sock.setblocking(False)
            sent += 1

    def test_client_that_does_not_read(self):
        before = self.daemon.rss()
        client = self.daemon.qmp_client()
        message = b'{"execute":"query-qmp-schema"}' + b' ' * 4000
        sent = self.fill_until_blocked(client, message)
        self.assertLess(sent, 2000)
        self.assertLess(self.daemon.rss() - before, 64 * MIB * self.sanitizer_factor())
        # Once it reads, everything is there, in order.
        client.sock.setblocking(True)
        for _ in range(sent):
            self.assertIn('return', client.read_reply())
        self.assertIn('qemu', client.cmd('query-version'))

    def test_dead_client_is_forgotten(self):
        fds = len(self.daemon.fds())
        client = self.daemon.qmp_client()
        self.fill_until_blocked(client, b'{"execute":"query-qmp-schema"}' + b' ' * 4000)
        client.close()
        wait_until(lambda: len(self.daemon.fds()) <= fds, what='the dead client to go')
        self.assert_others_are_served()

    def test_slow_writer(self):
        slow = self.daemon.qmp_client()
        for byte in b'{"execute":"query-version","id":"slow"}':
            slow.send_raw(bytes([byte]))
            self.assert_others_are_served()
        self.assertEqual(slow.read_reply()['id'], 'slow')

    def test_slow_reader(self):
        client = self.daemon.qmp_client()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.send_raw(b'{"execute":"query-qmp-schema","id":1}{"execute":"query-version","id":2}')
        data = b''
        while data.count(b'\n') < 2:
            data += client.sock.recv(1000)
        replies = [json.loads(line) for line in data.splitlines()]
        self.assertEqual([r['id'] for r in replies], [1, 2])

    def test_ending_does_not_wait_for_one_who_does_not_read(self):
        client = self.daemon.qmp_client()
        self.fill_until_blocked(client, b'{"execute":"query-qmp-schema"}' + b' ' * 4000)
        self.daemon.terminate()

    def test_more_clients_than_are_served(self):
        """Those beyond the limit wait in the queue and get their turn."""
        first = [self.daemon.qmp_client() for _ in range(255)]         # and self.qmp
        waiting = self.daemon.raw_client()
        waiting.sendall(b'{"execute":"qmp_capabilities"}')
        self.assertIn('qemu', first[0].cmd('query-version'))
        first[5].close()
        data = b''
        while data.count(b'\n') < 2:
            data += waiting.recv(65536)
        self.assertIn(b'"return"', data)

    def test_no_descriptors_left(self):
        """The daemon goes on, sleeps, and says it once; those beyond get their turn."""
        daemon = self.wharfd(prefix=('prlimit', '--nofile=40'))
        clients = [daemon.raw_client() for _ in range(60)]
        daemon.wait_log('cannot accept a connection for now')
        self.assertIn('qemu', daemon.qmp.cmd('query-version'))
        before = daemon.cpu_seconds()
        time.sleep(2)
        self.assertLess(daemon.cpu_seconds() - before, 1)
        self.assertEqual(daemon.log().count('\n'), 1, daemon.log())
        for client in clients[:50]:
            client.close()
        self.assertIn(b'QMP', clients[-1].recv(65536))

    def test_batch_that_does_not_read(self):
        rpc = self.daemon.jsonrpc_client()
        batch = json.dumps([{'jsonrpc': '2.0', 'method': 'query-qmp-schema', 'id': i}
                            for i in range(100)]).encode()
        self.fill_until_blocked(rpc, batch + b' ' * 4000)
        self.assert_others_are_served()


if __name__ == '__main__':
    main()
