# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers for tests of the nbd block driver: others' programs, and our own that misbehave."""

import os
import random
import signal
import socket
import struct
import subprocess
import threading

from .tools import TIMEOUT, find_tool, listens_at, run, wait_until


class Server:
    """A process that serves at a socket; can be stopped, killed and started again."""

    def __init__(self, socket_path, command):
        self.path = socket_path
        self.command = [os.fspath(word) for word in command]
        self.process = None
        self.start()

    def start(self, probe=True):
        """@probe: wait until it accepts, by connecting once."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self._accepts if probe else lambda: listens_at(self.path), TIMEOUT,
                   f'{self.command} to listen')

    def _accepts(self):
        if self.process.poll() is not None:
            raise AssertionError(f'{self.command} ended with {self.process.returncode}')
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
            return True
        except OSError:
            return False

    def kill(self, sig=signal.SIGKILL):
        """End it at once, or by another signal."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(sig)
        self.process.wait(TIMEOUT)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process.poll() is None:
            self.kill()


def nbdkit(test, name, *args, plugin='file', tls=()):
    """nbdkit at test.path(name), closed with the test: filters are among args."""
    filters = [a for a in args if a.startswith('--')]
    rest = [a for a in args if not a.startswith('--')]
    path = test.path(name)
    server = Server(path, [find_tool('nbdkit'), '-f', '-U', path, *tls, *filters, plugin, *rest])
    test.addCleanup(server.close)
    return server


def qemu_nbd(test, name, image, *args):
    path = test.path(name)
    server = Server(path, [find_tool('qemu-nbd'), '-t', '-e', '8', '-f', 'raw', '-k', path, *args, image])
    test.addCleanup(server.close)
    return server


def qsd(test, name, image, *args, tls=''):
    """qemu-storage-daemon with one export, called 'e'."""
    path = test.path(name)
    server = Server(path, [
        find_tool('qemu-storage-daemon'), *args, '--blockdev',
        f'file,node-name=f,filename={image},discard=unmap', '--nbd-server',
        f'addr.type=unix,addr.path={path}{tls}',
        '--export', 'nbd,id=e,node-name=f,name=e,writable=on'])
    test.addCleanup(server.close)
    return server


class Proxy:
    """Passes connections on to another socket, and cuts each off after a random number of bytes."""

    def __init__(self, path, target, seed, cut_after):
        self.target = target
        self.random = random.Random(seed)
        self.cut_after = cut_after  # (least, most) bytes from the server; None: no more
        self.cuts = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.target)
            except OSError:
                return
            limit = self.random.randint(*self.cut_after) if self.cut_after else None
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, limit), daemon=True).start()

    def _pass(self, source, sink, limit):
        passed = 0
        try:
            while True:
                data = source.recv(65536)
                if limit is not None and passed + len(data) >= limit:
                    sink.sendall(data[:limit - passed])
                    self.cuts += 1
                    break
                if not data:
                    break
                passed += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        # shutdown() wakes who accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(TIMEOUT)


MAGIC = b'NBDMAGIC'
OPTION = b'IHAVEOPT'
REPLY_MAGIC = 0x0003e889045565a9
OPT_STARTTLS, OPT_GO, OPT_STRUCTURED = 5, 7, 8
REP_ACK, REP_INFO, REP_ERR_UNSUP, REP_ERR_POLICY = 1, 3, (1 << 31) + 1, (1 << 31) + 2
FLAG_HAS, FLAG_READ_ONLY, FLAG_FLUSH = 1, 2, 4
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
SIMPLE_REPLY_MAGIC = 0x67446698


def receive(sock, count):
    data = b''
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def greet(sock, flags=3):
    sock.sendall(MAGIC + OPTION + struct.pack('>H', flags))
    receive(sock, 4)


def take_option(sock):
    """The number of the client's next option."""
    magic, option, length = struct.unpack('>8sII', receive(sock, 16))
    assert magic == OPTION, magic
    receive(sock, length)
    return option


def reply_option(sock, option, kind, data=b''):
    sock.sendall(struct.pack('>QIII', REPLY_MAGIC, option, kind, len(data)) + data)


def negotiate(sock, size=1 << 20, flags=FLAG_HAS | FLAG_FLUSH, blocks=None, structured=False):
    """All of the handshake, for a client that wants no more than NBD_OPT_GO, or @structured replies, too.

    @blocks: (minimum, preferred, maximum) sizes.
    """
    greet(sock)
    while True:
        option = take_option(sock)
        if option == OPT_STRUCTURED and structured:
            reply_option(sock, option, REP_ACK)
            continue
        if option == OPT_GO:
            reply_option(sock, option, REP_INFO, struct.pack('>HQH', 0, size, flags))
            if blocks:
                reply_option(sock, option, REP_INFO, struct.pack('>HIII', 3, *blocks))
            reply_option(sock, option, REP_ACK)
            return
        reply_option(sock, option, REP_ERR_UNSUP)


def take_request(sock):
    """(flags, type, cookie, offset, length) of the next request."""
    magic, flags, kind, cookie, offset, length = struct.unpack('>IHHQQI', receive(sock, 28))
    assert magic == 0x25609513, magic
    return flags, kind, cookie, offset, length


class Fake:
    """A server that is a function of a connected socket; each connection in a thread of its own."""

    def __init__(self, test, name, talk, tcp=False):
        self.talk = talk
        self.connections = 0
        self.open = []
        self.path = test.path(name)
        self.listener = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.listener.bind(('127.0.0.1', 0) if tcp else self.path)
        self.port = self.listener.getsockname()[1] if tcp else None
        self.listener.listen(16)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        test.addCleanup(self.close)

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(client)
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client):
        try:
            self.talk(client)
            client.shutdown(socket.SHUT_RDWR)
        except (OSError, ConnectionError, struct.error):
            pass
        client.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(TIMEOUT)
        for client in self.open:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Forgetful(Fake):
    """A server with a cache that is written back by flushes alone; a crash forgets some of it."""

    def __init__(self, test, name, data, seed=0):
        self.data = bytearray(data)
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.crashes = 0
        self.crash_rate = 0  # probability that a request finds it crashing
        self.crash_at = None  # the kind of request that finds it crashing, once
        self.unflushed = []  # (offset, what was there), oldest first
        super().__init__(test, name, self._export)

    def crash(self):
        with self.lock:
            self._crash()

    def _crash(self):
        """End all connections; half of the writes that were not flushed are kept."""
        self.crashes += 1
        for client in self.open:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        kept = []
        for offset, before in reversed(self.unflushed):
            if self.random.random() < 0.5:
                kept.append((offset, self.data[offset:offset + len(before)]))
            self.data[offset:offset + len(before)] = before
        for offset, after in reversed(kept):
            self.data[offset:offset + len(after)] = after
        self.unflushed = []

    def _export(self, sock):
        crashes = self.crashes
        negotiate(sock, len(self.data))
        while True:
            _, kind, cookie, offset, length = take_request(sock)
            payload = receive(sock, length) if kind == CMD_WRITE else b''
            with self.lock:
                if kind == self.crash_at or self.random.random() < self.crash_rate:
                    self.crash_at = None
                    self._crash()
                if self.crashes != crashes:
                    return
                answer = self._carry_out(kind, offset, length, payload)
            sock.sendall(struct.pack('>IIQ', SIMPLE_REPLY_MAGIC, 0, cookie) + answer)

    def _carry_out(self, kind, offset, length, payload):
        if kind == CMD_WRITE:
            self.unflushed.append((offset, bytes(self.data[offset:offset + length])))
            self.data[offset:offset + length] = payload
        elif kind == CMD_FLUSH:
            self.unflushed = []
        elif kind == CMD_READ:
            return bytes(self.data[offset:offset + length])
        elif kind == CMD_DISC:
            raise ConnectionError
        return b''


def make_certificates(directory):
    """ca, server and client certificates (server's name: localhost) and keys.psk."""
    certtool = find_tool('certtool')
    os.makedirs(directory)

    def path(name):
        return os.path.join(directory, name)

    def template(name, *lines):
        with open(path(name), 'w', encoding='ascii') as f:
            f.write('\n'.join((*lines, 'expiration_days = 2', '')))
        return path(name)

    for who in ('ca', 'server', 'client'):
        run(certtool, '--generate-privkey', '--key-type', 'ecdsa', '--outfile', path(f'{who}-key.pem'))
    run(certtool, '--generate-self-signed', '--load-privkey', path('ca-key.pem'), '--template',
        template('ca.t', 'cn = "Test CA"', 'ca', 'cert_signing_key'), '--outfile', path('ca-cert.pem'))
    for who, lines in (('server', ('cn = localhost', 'dns_name = localhost', 'tls_www_server')),
                       ('client', ('cn = backup', 'organization = Example', 'tls_www_client'))):
        run(certtool, '--generate-certificate', '--load-ca-certificate', path('ca-cert.pem'),
            '--load-ca-privkey', path('ca-key.pem'), '--load-privkey', path(f'{who}-key.pem'), '--template',
            template(f'{who}.t', *lines, 'signing_key', 'encryption_key'), '--outfile', path(f'{who}-cert.pem'))
    with open(path('keys.psk'), 'w', encoding='ascii') as f:
        f.write('qemu:00112233445566778899aabbccddeeff\n')
    return directory
