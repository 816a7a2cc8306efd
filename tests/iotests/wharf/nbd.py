# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD client made of raw bytes, for what real clients never send."""

import socket
import struct

from .tools import TIMEOUT

OPTION_MAGIC = 0x49484156454f5054
REPLY_MAGIC = 0x3e889045565a9
REQUEST, EXT_REQUEST = 0x25609513, 0x21e41c71
SIMPLE, STRUCTURED, EXT_REPLY = 0x67446698, 0x668e33ef, 0x6e8a278c

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = 8, 9, 10, 11

ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, SHUTDOWN, TOO_BIG, EXT_REQD = (
    0x80000000 + n for n in (1, 2, 3, 5, 6, 7, 9, 10))

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = (1 << n for n in range(6))
DONE = 1
NONE, DATA, HOLE, STATUS, STATUS_EXT, ERROR = 0, 1, 2, 5, 6, 0x8001
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108


def text(string):
    """A string behind its length."""
    data = string.encode() if isinstance(string, str) else string
    return struct.pack('>I', len(data)) + data


def info_data(name='', infos=()):
    """The data of INFO and GO."""
    return text(name) + struct.pack(f'>H{len(infos)}H', len(infos), *infos)


def meta_data(name='', queries=()):
    """The data of LIST_META and SET_META."""
    return text(name) + struct.pack('>I', len(queries)) + b''.join(map(text, queries))


class Closed(Exception):
    """The server has closed the connection."""


class Refused(AssertionError):
    """The server has answered a request with an error."""

    def __init__(self, error):
        super().__init__(f'error {error}')
        self.error = error


class RawClient:
    """One connection. What is sent is never checked, what comes must be well-formed."""

    def __init__(self, path=None, sock=None, timeout=TIMEOUT):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(path)
        self.sock = sock
        self.sock.settimeout(timeout)
        self.structured = self.extended = False
        self.contexts = {}
        self.size = self.flags = None
        self.cookie = 0

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, size):
        """Exactly so many bytes."""
        data = b''
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionError:
                part = b''
            if not part:
                raise Closed(f'{len(data)} of {size} bytes')
            data += part
        return data

    def unpack(self, form):
        return struct.unpack('>' + form, self.recv(struct.calcsize('>' + form)))

    def closed(self):
        """Whether the server closes the connection, with nothing more to say."""
        try:
            return self.sock.recv(1) == b''
        except ConnectionError:
            return True

    # Handshake

    def greet(self, flags=3):
        magic, option_magic, server_flags = self.unpack('QQH')
        assert (magic, option_magic, server_flags) == (0x4e42444d41474943, OPTION_MAGIC, 3)
        if flags is not None:
            self.send(struct.pack('>I', flags))
        return self

    def send_option(self, option, data=b'', length=None, magic=OPTION_MAGIC):
        self.send(struct.pack('>QII', magic, option, len(data) if length is None else length) + data)

    def recv_reply(self, option):
        """(type, data) of one reply."""
        magic, echoed, kind, length = self.unpack('QIII')
        assert (magic, echoed) == (REPLY_MAGIC, option), (hex(magic), echoed)
        return kind, self.recv(length)

    def option(self, option, data=b'', **kwargs):
        """Send an option; all replies to it, the last one of which is ACK or an error."""
        self.send_option(option, data, **kwargs)
        replies = []
        while not replies or (replies[-1][0] != ACK and not replies[-1][0] & 0x80000000):
            replies.append(self.recv_reply(option))
        if replies[-1][0] == ACK:
            self.structured |= option in (STRUCTURED_REPLY, EXTENDED_HEADERS)
            self.extended |= option == EXTENDED_HEADERS
        return replies

    def result(self, option, data=b'', **kwargs):
        """The last reply's type."""
        return self.option(option, data, **kwargs)[-1][0]

    def go(self, name='', structured=False, extended=False, contexts=()):
        """The whole handshake, up to the transmission."""
        self.greet()
        if structured:
            assert self.result(STRUCTURED_REPLY) == ACK
        if extended:
            assert self.result(EXTENDED_HEADERS) == ACK
        if contexts:
            for kind, data in self.option(SET_META, meta_data(name, contexts)):
                if kind == REP_META:
                    self.contexts[data[4:].decode()] = struct.unpack('>I', data[:4])[0]
        replies = self.option(GO, info_data(name))
        assert replies[-1][0] == ACK, replies
        for kind, data in replies:
            if kind == REP_INFO and data[:2] == b'\0\0':
                self.size, self.flags = struct.unpack('>QH', data[2:])
        return self

    # Transmission

    def send_request(self, command, offset=0, length=0, flags=0, payload=b'', magic=None):
        """Returns the request's cookie."""
        self.cookie += 1
        if magic is None:
            magic = EXT_REQUEST if self.extended else REQUEST
        self.send(struct.pack('>IHHQQ' + ('Q' if self.extended else 'I'), magic, flags, command, self.cookie,
                              offset, length) + payload)
        return self.cookie

    def recv_chunk(self):
        """(cookie, error, done, type, payload); type None: a simple reply, without its data."""
        magic, = self.unpack('I')
        if magic == SIMPLE:
            error, cookie = self.unpack('IQ')
            return cookie, error, True, None, b''
        flags, kind, cookie = self.unpack('HHQ')
        if magic == EXT_REPLY:
            _, length = self.unpack('QQ')
        else:
            assert magic == STRUCTURED, hex(magic)
            length, = self.unpack('I')
        payload = self.recv(length)
        error = struct.unpack('>I', payload[:4])[0] if kind & 0x8000 else 0
        return cookie, error, bool(flags & DONE), kind, payload

    def recv_answers(self, cookies, data=0):
        """{cookie: (error, chunks)} of the answers to these requests, in whatever order they come.

        data: bytes that follow each simple reply.
        """
        answers, open_ones = {}, set(cookies)
        while open_ones:
            cookie, error, done, kind, payload = self.recv_chunk()
            assert cookie in open_ones, (cookie, open_ones)
            if kind is None and not error:
                payload = self.recv(data)
            before = answers.get(cookie, (0, []))
            answers[cookie] = (before[0] or error, before[1] + [(kind, payload)])
            if done:
                open_ones.remove(cookie)
        return answers

    def recv_answer(self, cookie, data=0):
        """(error, chunks) of the answer to the only request in flight."""
        return self.recv_answers([cookie], data)[cookie]

    def request(self, command, offset=0, length=0, flags=0, payload=b'', **kwargs):
        """Send a request; (error, chunks) of its answer."""
        if self.extended and command == WRITE:
            flags |= PAYLOAD
        cookie = self.send_request(command, offset, length, flags, payload, **kwargs)
        return self.recv_answer(cookie, length if command == READ else 0)

    def error(self, *args, **kwargs):
        """The error of a request."""
        return self.request(*args, **kwargs)[0]

    def read(self, offset, length, flags=0):
        """The data of a read, put together from its chunks."""
        error, chunks = self.request(READ, offset, length, flags)
        if error:
            raise Refused(error)
        found = bytearray(length)
        covered = 0
        for kind, payload in chunks:
            if kind is None:
                return payload
            if kind == DATA:
                at = struct.unpack('>Q', payload[:8])[0] - offset
                found[at:at + len(payload) - 8] = payload[8:]
                covered += len(payload) - 8
            elif kind == HOLE:
                covered += struct.unpack('>QI', payload)[1]
        assert covered == length and len(found) == length, (covered, length)
        return bytes(found)

    def status(self, offset, length, flags=0, payload=b''):
        """{context id: [(length, status)]}."""
        error, chunks = self.request(BLOCK_STATUS, offset, len(payload) if payload else length,
                                     flags | (PAYLOAD if payload else 0), payload)
        assert not error, error
        found = {}
        for kind, data in chunks:
            context, = struct.unpack('>I', data[:4])
            if kind == STATUS_EXT:
                found[context] = [(n, status) for n, _, status in struct.iter_unpack('>QII', data[8:])]
            else:
                assert kind == STATUS, kind
                found[context] = list(struct.iter_unpack('>II', data[4:]))
        return found
