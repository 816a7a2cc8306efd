# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD server with TLS: pre-shared keys, certificates, and whom it lets in."""

import os
import socket
import ssl
import struct

from wharf import *
from wharf.nbd import *
from wharf.nbd_test import MIB, NbdTest

HOUR = 'expiration_days = 10\n'


class HalfClosing:
    """A TLS client's socket that can say goodbye and read on, which SSLSocket cannot."""

    def __init__(self, sock, context):
        self.sock = sock
        self.coming, self.going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.coming, self.going, server_hostname='localhost')
        self.until_done(self.tls.do_handshake)

    def settimeout(self, timeout):
        self.sock.settimeout(timeout)

    def flush(self):
        if self.going.pending:
            self.sock.sendall(self.going.read())

    def until_done(self, function, *args):
        while True:
            try:
                result = function(*args)
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if data:
                    self.coming.write(data)
                else:
                    self.coming.write_eof()

    def sendall(self, data):
        self.until_done(self.tls.write, data)

    def recv(self, size):
        try:
            return self.until_done(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b''

    def say_goodbye(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


class Tls(NbdTest):
    def setUp(self):
        IoTest.setUp(self)
        self.socket = self.path('nbd')
        self.clients = []
        self.addCleanup(self.close_clients)
        self.content = os.urandom(2 * MIB)
        self.image = self.make_file('n0.img', 4 * MIB, self.content)

    def start(self, *words, export='', server=''):
        """A daemon with one export called disk, in two iothreads."""
        self.daemon = self.wharfd(
            *words, '--nbd-server', f'addr.type=unix,addr.path={self.socket}{server}', '--object', 'iothread,id=t0',
            '--object', 'iothread,id=t1', '--blockdev',
            f'raw,node-name=n0,file.driver=file,file.filename={self.image}', '--export',
            f'nbd,id=e0,node-name=n0,name=disk,writable=on,iothread.0=t0,iothread.1=t1{export}')

    def start_psk(self, *words, server=''):
        os.mkdir(self.path('keys'))
        for name in 'alice', 'bob':
            run(find_tool('psktool', 'gnutls-bin'), '-u', name, '-p', self.path('keys/keys.psk'))
        self.start('--object', f'tls-creds-psk,id=tls0,endpoint=server,dir={self.path("keys")}', *words,
                   server=',tls-creds=tls0' + server)

    def psk_uri(self, name='disk', user='alice'):
        return f'nbds+unix://{user}@/{name}?socket={self.socket}&tls-psk-file={self.path("keys/keys.psk")}'

    def test_keys(self):
        self.start_psk()
        self.assertEqual(run(find_tool('nbdinfo'), '--size', self.psk_uri()).stdout, f'{4 * MIB}\n')
        copy = self.path('copy')
        for options in (), ('--connections=1',), ('--synchronous',), ('--request-size=4096',):
            run(find_tool('nbdcopy'), *options, self.psk_uri(), copy)
            self.assertEqual(self.image_bytes(copy), self.image_bytes(self.image), options)
        source = self.make_file('source', 4 * MIB, os.urandom(3 * MIB))
        run(find_tool('nbdcopy'), '--flush', source, self.psk_uri())
        self.assertEqual(self.image_bytes(self.image), self.image_bytes(source))
        self.assertEqual(self.daemon.qmp.cmd('query-nbd-server')['connections'], 0)
        self.delete()  # nobody is connected any more

    def test_wrong_key(self):
        self.start_psk()
        with open(self.path('keys/other.psk'), 'w', encoding='ascii') as f:
            f.write('alice:' + '00' * 32 + '\n')
        uri = self.psk_uri().replace('keys.psk', 'other.psk')
        self.assertNotEqual(run(find_tool('nbdinfo'), '--size', uri, check=False).returncode, 0)
        wait_until(lambda: self.connections() == 0)

    def test_leave(self):
        """Of those who prove who they are, only some are let in."""
        self.start_psk('--object', 'authz-simple,id=a0,identity=bob', server=',tls-authz=a0')
        nbdinfo = find_tool('nbdinfo')
        self.assertEqual(run(nbdinfo, '--size', self.psk_uri(user='bob')).stdout, f'{4 * MIB}\n')
        self.assertNotEqual(run(nbdinfo, '--size', self.psk_uri(), check=False).returncode, 0)
        for used in 'tls0', 'a0':
            with self.assertRaises(QmpError) as caught:
                self.daemon.qmp.cmd('object-del', {'id': used})
            self.assertIn('NBD server', caught.exception.desc)
        self.daemon.qmp.cmd('nbd-server-stop')
        for used in 'a0', 'tls0':
            self.daemon.qmp.cmd('object-del', {'id': used})

    def test_nothing_goes_in_clear_text(self):
        self.start_psk()
        client = self.raw().greet()
        for option, data in ((LIST, b''), (INFO, info_data('disk')), (GO, info_data('disk')), (99, b'x'),
                             (STRUCTURED_REPLY, b''), (SET_META, meta_data('disk', ['base:allocation']))):
            self.assertEqual(client.option(option, data)[0][0], TLS_REQD)
        self.assertEqual(client.result(STARTTLS, b'x'), INVALID)
        self.assertEqual(client.option(ABORT), [(ACK, b'')])
        self.assertTrue(client.closed())
        client = self.raw().greet()
        client.send_option(EXPORT_NAME, b'disk')
        self.assertTrue(client.closed())
        # Accepted, and then no TLS: the end, whatever comes.
        for then in b'', b'x' * 100, struct.pack('>QII', OPTION_MAGIC, GO, 10) + info_data('disk'):
            client = self.raw().greet()
            self.assertEqual(client.result(STARTTLS), ACK)
            client.send(then)
            client.sock.shutdown(socket.SHUT_WR)
            self.assertNotIn(b'disk', self.all_of(client))
        client = self.raw().greet(1)
        self.assertEqual(client.result(STARTTLS), ACK)
        wait_until(lambda: self.connections() >= 1)
        self.daemon.qmp.cmd('nbd-server-stop')  # holds nobody up
        self.all_of(client)

    @staticmethod
    def all_of(client):
        data = b''
        try:
            while True:
                part = client.sock.recv(65536)
                if not part:
                    return data
                data += part
        except ConnectionError:
            return data

    def test_credentials_that_do_not_fit(self):
        self.start_psk('--object', f'tls-creds-psk,id=c0,endpoint=client,dir={self.path("keys")},username=alice')
        self.daemon.qmp.cmd('nbd-server-stop')
        addr = {'type': 'unix', 'data': {'path': self.socket}}
        for options, word in (({'tls-creds': 'nope'}, 'nope'), ({'tls-creds': 'c0'}, 'c0'),
                              ({'tls-creds': 'tls0', 'tls-authz': 'nope'}, 'nope'), ({'tls-authz': 'a0'}, 'tls-creds')):
            with self.assertRaises(QmpError) as caught:
                self.daemon.qmp.cmd('nbd-server-start', {'addr': addr, **options})
            self.assertIn(word, caught.exception.desc)
            self.assertFalse(os.path.exists(self.socket))
        self.daemon.qmp.cmd('object-del', {'id': 'tls0'})

    # Certificates

    def certtool(self, *words):
        run(find_tool('certtool', 'gnutls-bin'), *words)

    def make_certificates(self):
        for where in 'server', 'client':
            os.mkdir(self.path(where))
        ca_key, ca = self.path('ca-key.pem'), self.path('ca.pem')
        self.certtool('--generate-privkey', '--key-type=ecdsa', '--outfile', ca_key)
        template = self.make_file('ca.info', content=b'cn = Authority\nca\ncert_signing_key\n' + HOUR.encode())
        self.certtool('--generate-self-signed', '--load-privkey', ca_key, '--template', template, '--outfile', ca)
        for where, usage in ('server', 'tls_www_server'), ('client', 'tls_www_client'):
            key = self.path(f'{where}/{where}-key.pem')
            self.certtool('--generate-privkey', '--key-type=ecdsa', '--outfile', key)
            template = self.make_file(f'{where}.info', content=(
                f'organization = Example\ncn = {where}\ndns_name = localhost\n{usage}\nsigning_key\n{HOUR}').encode())
            self.certtool('--generate-certificate', '--load-ca-certificate', ca, '--load-ca-privkey', ca_key,
                          '--load-privkey', key, '--template', template, '--outfile',
                          self.path(f'{where}/{where}-cert.pem'))
            with open(ca, 'rb') as source, open(self.path(f'{where}/ca-cert.pem'), 'wb') as copy:
                copy.write(source.read())

    def start_x509(self, *words, server=''):
        self.make_certificates()
        self.start('--object', f'tls-creds-x509,id=tls0,endpoint=server,dir={self.path("server")},verify-peer=on',
                   *words, server=',tls-creds=tls0' + server)

    def tls_client(self, certificate=True):
        """A client of our own, past STARTTLS, with Python's TLS instead of GnuTLS."""
        context = ssl.create_default_context(cafile=self.path('client/ca-cert.pem'))
        if certificate:
            context.load_cert_chain(self.path('client/client-cert.pem'), self.path('client/client-key.pem'))
        client = self.raw().greet()
        self.assertEqual(client.result(STRUCTURED_REPLY), TLS_REQD)
        self.assertEqual(client.result(STARTTLS), ACK)
        client.sock = context.wrap_socket(client.sock, server_hostname='localhost')
        self.clients.append(client)
        return client

    def test_certificates(self):
        self.start_x509()
        client = self.tls_client()
        self.assertEqual(client.result(STARTTLS), INVALID)
        self.assertEqual(client.result(GO, info_data('disk')), ACK)
        for offset, length in ((0, 1), (5, 4096), (0, 2 * MIB), (MIB, 3 * MIB)):
            self.assertEqual(client.read(offset, length), self.image_bytes(self.image, offset, length))
        data = os.urandom(MIB + 13)
        self.assertEqual(client.error(WRITE, 4096, len(data), payload=data), 0)
        self.assertEqual(self.image_bytes(self.image, 4096, len(data)), data)
        self.assertEqual(client.error(READ, 4 * MIB, 1), EINVAL)
        with self.assertRaises(QmpError):
            self.delete()
        cookies = [client.send_request(READ, i * 4096, 4096) for i in range(100)]
        client.send_request(DISC)
        self.assertEqual({error for error, _ in client.recv_answers(cookies, 4096).values()}, {0})
        self.assertTrue(client.closed())
        self.delete()

    def test_half_closed(self):
        """A client that says goodbye in one direction still gets all its answers."""
        self.start_x509()
        context = ssl.create_default_context(cafile=self.path('client/ca-cert.pem'))
        context.load_cert_chain(self.path('client/client-cert.pem'), self.path('client/client-key.pem'))
        plain = self.raw().greet()
        self.assertEqual(plain.result(STARTTLS), ACK)
        client = RawClient(sock=HalfClosing(plain.sock, context))
        self.assertEqual(client.result(GO, info_data('disk')), ACK)
        cookies = range(1, 1501)
        client.send(b''.join(struct.pack('>IHHQQI', REQUEST, 0, READ, i, i * 512, 512) for i in cookies))
        client.sock.say_goodbye()
        for cookie, (error, chunks) in client.recv_answers(cookies, 512).items():
            self.assertEqual((error, chunks[0][1]), (0, self.content[cookie * 512:cookie * 512 + 512]))
        self.assertTrue(client.closed())
        wait_until(lambda: self.connections() == 0)

    def test_end_in_the_middle(self):
        """Deletion and stop with TLS clients connected, and clients that vanish."""
        self.start_x509()
        clients = [self.tls_client() for _ in range(3)]
        for client in clients:
            self.assertEqual(client.result(GO, info_data('disk')), ACK)
        clients[0].send_request(WRITE, 0, MIB, payload=b'x' * 5000)
        clients[0].sock.close()
        self.assertEqual(clients[1].read(MIB, 5), self.content[MIB:MIB + 5])
        self.delete(mode='hard')
        for client in clients[1:]:
            with self.assertRaises((Closed, ssl.SSLError, OSError)):
                client.read(0, 5)
        wait_until(lambda: self.connections() == 0)
        self.assertEqual(self.image_bytes(self.image, 0, 10), self.content[:10])

    def test_certificate_is_asked_for(self):
        self.start_x509()
        with self.assertRaises((Closed, ssl.SSLError, OSError)):
            self.tls_client(certificate=False).result(LIST)

    def test_list_of_names(self):
        """Leave by a list of distinguished names."""
        self.start_x509('--object', 'authz-list,id=a0,policy=deny,rules.0.match=*CN=client*,rules.0.policy=allow,'
                        'rules.0.format=glob', server=',tls-authz=a0')
        self.assertEqual(self.tls_client().result(GO, info_data('disk')), ACK)

    def test_qemu(self):
        self.start_x509()
        run(find_tool('qemu-img'), 'compare', '--object',
            f'tls-creds-x509,id=t0,endpoint=client,dir={self.path("client")}', '--image-opts',
            f'driver=raw,file.driver=file,file.filename={self.image},file.locking=off',
            f'driver=nbd,server.type=unix,server.path={self.socket},export=disk,tls-creds=t0,tls-hostname=localhost')

    def test_handshake_that_never_ends(self):
        self.start_psk(server=',handshake-max-seconds=1')
        client = self.raw().greet()
        self.assertEqual(client.result(STARTTLS), ACK)
        self.all_of(client)
        wait_until(lambda: self.connections() == 0)


if __name__ == '__main__':
    main()
