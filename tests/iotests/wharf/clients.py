# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of the daemon's sockets: QMP and JSON-RPC 2.0."""

import collections
import json
import socket
import time

from . import transport
from .tools import TIMEOUT


class ClientError(AssertionError):
    """The daemon said nothing in time, closed the connection, or broke the protocol."""


class QmpError(Exception):
    """The daemon answered with an error."""

    def __init__(self, reply):
        error = reply['error']
        self.reply = reply
        self.cls = error.get('class')
        self.code = error.get('code')
        self.desc = error.get('desc') or error.get('message')
        self.data = error.get('data')
        super().__init__(f'{self.cls or self.code}: {self.desc}')


class LineClient:
    """JSON values, one a line, over a stream socket."""

    # The transport for FUSE exports that name none; their Daemon sets it.
    transport = None

    # What the members of a command are called.
    COMMAND = ARGUMENTS = None

    def __init__(self, path=None, sock=None, timeout=TIMEOUT):
        self.timeout = timeout
        self.events = collections.deque()
        self._buffer = b''
        if sock is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            try:
                sock.connect(path)
            except OSError:
                sock.close()
                raise
        self.sock = sock

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send_raw(self, data):
        self.sock.settimeout(self.timeout)
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def send(self, value):
        self.send_raw(json.dumps(self._with_transport(value)).encode() + b'\n')

    def _leaves_transport_to_us(self, value):
        return (self.transport is not None and isinstance(value, dict)
                and value.get(self.COMMAND) == 'block-export-add'
                and transport.is_open(value.get(self.ARGUMENTS)))

    def _with_transport(self, value):
        if not self._leaves_transport_to_us(value):
            return value
        return {**value, self.ARGUMENTS: {**value[self.ARGUMENTS], 'transport': self.transport}}

    def cmd(self, command, arguments=None, timeout=None, **kwargs):
        raise NotImplementedError

    def check_transport(self, export=None):
        """The export, or all of them, must use the transport that was asked for."""
        for info in self.cmd('query-block-exports'):
            if info['type'] == 'fuse' and export in (None, info['id']):
                assert info['fuse']['transport'] == self.transport, (
                    f'export {info["id"]} runs over {info["fuse"]["transport"]}, not {self.transport}')

    def read_line(self, timeout=None):
        """The next line without its end, or None at the end of the connection."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while b'\n' not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ClientError(f'no line in time; so far: {self._buffer!r}')
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 20)
            except socket.timeout:
                continue
            except ConnectionResetError:
                data = b''
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b'\n')
        return line.rstrip(b'\r')

    def read(self, timeout=None):
        """The next value, whatever it is, or None at the end of the connection."""
        line = self.read_line(timeout)
        if line is None:
            return None
        try:
            return json.loads(line)
        except ValueError:
            raise ClientError(f'not JSON: {line!r}') from None

    def _event_name(self, value):
        raise NotImplementedError

    def read_reply(self, timeout=None):
        """The next value that is no event; events that come before it are kept."""
        while True:
            value = self.read(timeout)
            if value is None:
                raise ClientError('the daemon closed the connection')
            if self._event_name(value) is None:
                return value
            self.events.append(value)

    def wait_event(self, name, match=None, timeout=None):
        """Wait for an event of this name whose data holds all of match; return and forget it."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        seen = 0
        while True:
            while seen < len(self.events):
                event = self.events[seen]
                if self._event_name(event) == name and self._holds(event, match):
                    del self.events[seen]
                    return event
                seen += 1
            value = self.read(max(0, deadline - time.monotonic()))
            if value is None:
                raise ClientError(f'the connection ended before event {name}')
            if self._event_name(value) is None:
                raise ClientError(f'a reply came instead of event {name}: {value}')
            self.events.append(value)

    def _event_data(self, event):
        return event.get('data', {})

    def _holds(self, event, match):
        data = self._event_data(event)
        return all(data.get(key) == value for key, value in (match or {}).items())


class QmpClient(LineClient):
    """A QMP client. With negotiate it has already left the negotiation mode."""

    COMMAND, ARGUMENTS = 'execute', 'arguments'

    def __init__(self, path=None, sock=None, timeout=TIMEOUT, negotiate=True):
        super().__init__(path, sock, timeout)
        self.greeting = self.read()
        if not isinstance(self.greeting, dict) or 'QMP' not in self.greeting:
            raise ClientError(f'no greeting: {self.greeting!r}')
        if negotiate:
            self.cmd('qmp_capabilities')

    def _event_name(self, value):
        return value.get('event') if isinstance(value, dict) else None

    def request(self, value, timeout=None):
        """Send any JSON value, return the whole reply (success or error)."""
        self.send(value)
        reply = self.read_reply(timeout)
        if self._leaves_transport_to_us(value) and 'return' in reply:
            self.check_transport(value['arguments']['id'])
        return reply

    def execute(self, command, arguments=None, timeout=None):
        """Run a command with its arguments as a dict, return the whole reply."""
        message = {'execute': command}
        if arguments is not None:
            message['arguments'] = arguments
        return self.request(message, timeout)

    def cmd(self, command, arguments=None, timeout=None, **kwargs):
        """Run a command, return its result or raise QmpError.

        Arguments come as a dict, as keywords (an underscore stands for a dash), or both.
        """
        if kwargs:
            arguments = {**(arguments or {}), **{k.replace('_', '-'): v for k, v in kwargs.items()}}
        reply = self.execute(command, arguments, timeout)
        if 'error' in reply:
            raise QmpError(reply)
        if 'return' not in reply:
            raise ClientError(f'neither return nor error: {reply}')
        return reply['return']


class JsonRpcClient(LineClient):
    """A JSON-RPC 2.0 client."""

    COMMAND, ARGUMENTS = 'method', 'params'

    def __init__(self, path=None, sock=None, timeout=TIMEOUT):
        super().__init__(path, sock, timeout)
        self._next_id = 1

    def _event_name(self, value):
        """Events come as notifications of the method 'event', after a subscribe."""
        if isinstance(value, dict) and value.get('method') == 'event' and 'id' not in value:
            return value['params']['event']
        return None

    def _event_data(self, event):
        return event['params'].get('data', {})

    def request(self, value, timeout=None):
        """Send any JSON value, return the whole reply."""
        self.send(value)
        return self.read_reply(timeout)

    def notify(self, method, params=None):
        message = {'jsonrpc': '2.0', 'method': method}
        if params is not None:
            message['params'] = params
        self.send(message)

    def cmd(self, method, params=None, timeout=None, **kwargs):
        """Call a method, return its result or raise QmpError (with code)."""
        if kwargs:
            params = {**(params or {}), **{k.replace('_', '-'): v for k, v in kwargs.items()}}
        message = {'jsonrpc': '2.0', 'id': self._next_id, 'method': method}
        self._next_id += 1
        if params is not None:
            message['params'] = params
        reply = self.request(message, timeout)
        if reply.get('id') != message['id']:
            raise ClientError(f'reply to another request: {reply}')
        if 'error' in reply:
            raise QmpError(reply)
        return reply['result']
