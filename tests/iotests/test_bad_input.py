# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong messages, commands, options and files, and the error that each gets.

Each row names what must be in the error's text: the thing that is wrong. After each the daemon is alive
and nothing has changed.
"""

import json
import os
import socket

from wharf import *
from wharf import tools

G, CNF, DNF = 'GenericError', 'CommandNotFound', 'DeviceNotFound'

# Bytes that are no JSON in QMP's dialect, or no QMP message.
QMP_BYTES = (
    (b'[1]', G, 'object'),
    (b'"x"\n', G, 'object'),
    (b'5\n', G, 'object'),
    (b'null\n', G, 'object'),
    (b'true\n', G, 'object'),
    (b'-1e3\n', G, 'object'),
    (b'[[[]]]', G, 'object'),
    (b'{"execute":"query-version",}', G, 'line'),
    (b'{"execute":}', G, 'line'),
    (b'{"execute" "x"}', G, 'line'),
    (b'{"a":1 "b":2}', G, 'line'),
    (b'{1:2}', G, 'line'),
    (b'{"a":[1,]}', G, 'line'),
    (b'{,}', G, 'line'),
    (b'}', G, 'line'),
    (b']', G, 'line'),
    (b'nope\n', G, 'nope'),
    (b'{"a":nope}', G, 'nope'),
    (b'{"a":1,"a":2}', G, "'a'"),
    (b'{"id":1,"id":2,"execute":"x"}', G, "'id'"),
    (b'{"execute":"x","id":{"b":1,"b":1}}', G, "'b'"),
    (b'{"a":"\xff"', G, 'line'),
    (b'{"a":"\\x41"}', G, 'line'),
    (b'{"a":"\\u12"}', G, 'line'),
    (b'{"a":"\\ud800"}', G, 'line'),
    (b'{"a":"\\udc00\\ud800"}', G, 'line'),
    (b'{"a":"\\uffff"}', G, 'line'),
    (b'{"a":"\xed\xa0\x80"}', G, 'line'),
    (b'{"a":1E400}', G, 'line'),
    (b'\x00', G, 'line'),
    (b'\x01', G, 'line'),
    (b'\xff', G, 'line'),
    (b'%', G, 'line'),
    (b'{"a":\x01', G, 'line'),
    (b'{"a":"\n', G, 'line'),
    (b'\xef\xbb\xbf', G, 'line'),
)

# QMP messages that are objects.
QMP_MESSAGES = (
    ({}, G, 'execute'),
    ({'id': 1}, G, 'execute'),
    ({'execute': None}, G, 'execute'),
    ({'execute': 1}, G, 'execute'),
    ({'execute': {}}, G, 'execute'),
    ({'execute': ['quit']}, G, 'execute'),
    ({'execute': 'quit', 'arguments': []}, G, 'arguments'),
    ({'execute': 'quit', 'arguments': 1}, G, 'arguments'),
    ({'execute': 'quit', 'argument': {}}, G, 'argument'),
    ({'Execute': 'quit'}, G, 'Execute'),
    ({'exec-oob': 'quit'}, G, 'exec-oob'),
    ({'execute': 'quit', 'exec-oob': 'quit'}, G, 'exec-oob'),
    ({'execute': 'quit', 'arguments': {'now': True}}, G, 'now'),
    ({'execute': 'Quit'}, CNF, 'Quit'),
    ({'execute': ' quit'}, CNF, ' quit'),
    ({'execute': 'quit\0'}, G, 'execute'),
    ({'execute': 'human-monitor-command'}, CNF, 'human-monitor-command'),
    ({'execute': 'query-status'}, CNF, 'query-status'),
    ({'execute': 'getfd'}, CNF, 'getfd'),
    ({'execute': 'qmp_capabilities'}, CNF, 'qmp_capabilities'),
)

FILE = {'driver': 'file', 'node-name': 'x'}
RAW = {'driver': 'raw', 'node-name': 'x'}
NULL = {'driver': 'null-co', 'node-name': 'x'}
FUSE = {'type': 'fuse', 'id': 'x', 'node-name': 'img'}

# Commands with wrong arguments. IMAGE, DIR and others stand for paths.
COMMANDS = (
    # jobs
    ('blockdev-create', {}, G, 'job-id'),
    ('blockdev-create', {'job-id': 'j'}, G, 'options'),
    ('blockdev-create', {'job-id': 'j', 'options': {}}, G, 'options.driver'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'raw'}}, G, 'raw'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'vmdk', 'size': 1}}, G, 'vmdk'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'file', 'size': 1}}, G, 'options.filename'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'file', 'filename': 'x'}}, G, 'options.size'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'file', 'filename': 'x', 'size': '1'}}, G,
     'options.size'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'file', 'filename': 'x', 'size': 2**63}}, G,
     'options.size'),
    ('blockdev-create', {'job-id': '0', 'options': {'driver': 'file', 'filename': 'x', 'size': 1}}, G, "'0'"),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'qcow2', 'size': 1}}, G, 'options.file'),
    ('blockdev-create', {'job-id': 'j', 'options': {'driver': 'qcow2', 'file': 1, 'size': 1}}, G, 'options.file'),
    ('job-cancel', {'id': 'nope'}, G, 'nope'),
    ('job-pause', {'id': 'nope'}, G, 'nope'),
    ('job-resume', {'id': 'nope'}, G, 'nope'),
    ('job-complete', {'id': 'nope'}, G, 'nope'),
    ('job-finalize', {'id': 'nope'}, G, 'nope'),
    ('job-dismiss', {'id': 'nope'}, G, 'nope'),
    ('job-dismiss', {}, G, 'id'),

    # blockdev-add
    ('blockdev-add', {}, G, 'driver'),
    ('blockdev-add', {'driver': 'nope'}, G, 'nope'),
    ('blockdev-add', {'driver': 1}, G, 'driver'),
    ('blockdev-add', {'driver': 'File'}, G, 'File'),
    ('blockdev-add', {'driver': 'null-co'}, G, 'node-name'),
    ('blockdev-add', FILE, G, 'filename'),
    ('blockdev-add', RAW, G, 'file'),
    ('blockdev-add', {**RAW, 'file': 'nope'}, G, 'nope'),
    ('blockdev-add', {**RAW, 'file': 5}, G, 'file'),
    ('blockdev-add', {**RAW, 'file': None}, G, 'file'),
    ('blockdev-add', {**RAW, 'file': {'driver': 'file'}}, G, 'file.filename'),
    ('blockdev-add', {**RAW, 'file': {'driver': 'raw', 'file': {'driver': 'raw'}}}, G, 'file.file.file'),
    ('blockdev-add', {**RAW, 'file': 'img', 'offset': -1}, G, 'offset'),
    ('blockdev-add', {**RAW, 'file': 'img', 'offset': 2**40}, G, ''),
    ('blockdev-add', {**RAW, 'file': 'img', 'size': 100}, G, '512'),
    ('blockdev-add', {**RAW, 'file': 'img', 'size': 2**40}, G, ''),
    ('blockdev-add', {**RAW, 'file': 'img', 'nope': 1}, G, 'nope'),
    ('blockdev-add', {**NULL, 'size': -1}, G, 'size'),
    ('blockdev-add', {**NULL, 'size': '1'}, G, 'size'),
    ('blockdev-add', {**NULL, 'size': 1.5}, G, 'size'),
    ('blockdev-add', {**NULL, 'size': 2**64}, G, 'size'),
    ('blockdev-add', {**NULL, 'latency-ns': -1}, G, 'latency-ns'),
    ('blockdev-add', {**NULL, 'read-zeroes': 'on'}, G, 'read-zeroes'),
    ('blockdev-add', {**NULL, 'node-name': 'img'}, G, 'img'),
    ('blockdev-add', {**NULL, 'node-name': ''}, G, ''),
    ('blockdev-add', {**NULL, 'node-name': '0x'}, G, '0x'),
    ('blockdev-add', {**NULL, 'node-name': '#x'}, G, '#x'),
    ('blockdev-add', {**NULL, 'node-name': 'a b'}, G, 'a b'),
    ('blockdev-add', {**NULL, 'node-name': 'x' * 32}, G, 'x' * 32),
    ('blockdev-add', {**NULL, 'node-name': 5}, G, 'node-name'),
    ('blockdev-add', {**NULL, 'cache.direct': True}, G, 'cache.direct'),
    ('blockdev-add', {**NULL, 'cache': {'writeback': True}}, G, 'cache.writeback'),
    ('blockdev-add', {**NULL, 'cache': {'direct': 'on'}}, G, 'cache.direct'),
    ('blockdev-add', {**NULL, 'cache': True}, G, 'cache'),
    ('blockdev-add', {**NULL, 'detect-zeroes': 'unmap'}, G, 'detect-zeroes'),
    ('blockdev-add', {**NULL, 'detect-zeroes': 'maybe'}, G, 'maybe'),
    ('blockdev-add', {**NULL, 'discard': True}, G, 'discard'),
    ('blockdev-add', {**NULL, 'read-only': 'yes'}, G, 'read-only'),
    ('blockdev-add', {**NULL, 'force-share': True}, G, 'force-share'),
    ('blockdev-add', {**FILE, 'filename': ''}, G, ''),
    ('blockdev-add', {**FILE, 'filename': 'DIR/none'}, G, 'DIR/none'),
    ('blockdev-add', {**FILE, 'filename': 'DIR'}, G, 'DIR'),
    ('blockdev-add', {**FILE, 'filename': '/dev/null'}, G, '/dev/null'),
    ('blockdev-add', {**FILE, 'filename': 'IMAGE/x'}, G, 'IMAGE/x'),
    ('blockdev-add', {**FILE, 'filename': 'FIFO'}, G, 'FIFO'),
    ('blockdev-add', {**FILE, 'filename': 'LOOP'}, G, 'LOOP'),
    ('blockdev-add', {**FILE, 'filename': 'file:IMAGE'}, G, 'file:IMAGE'),
    ('blockdev-add', {**FILE, 'filename': 'IMAGE', 'aio': 'posix'}, G, 'posix'),
    ('blockdev-add', {**FILE, 'filename': 'IMAGE', 'aio': 'native'}, G, 'direct'),
    ('blockdev-add', {**FILE, 'filename': 'IMAGE', 'locking': True}, G, 'locking'),
    ('blockdev-add', {**FILE, 'driver': 'host_device', 'filename': 'IMAGE'}, G, 'IMAGE'),
    ('blockdev-add', {**FILE, 'driver': 'qcow3', 'filename': 'IMAGE'}, G, 'qcow3'),
    # other commands on nodes
    ('blockdev-del', {}, G, 'node-name'),
    ('blockdev-del', {'node-name': 'nope'}, G, 'nope'),
    ('blockdev-del', {'node-name': ['img']}, G, 'node-name'),
    ('blockdev-reopen', {}, G, 'options'),
    ('blockdev-reopen', {'options': {}}, G, 'options'),
    ('blockdev-reopen', {'options': [1]}, G, 'options[0]'),
    ('blockdev-reopen', {'options': [{'driver': 'file', 'filename': 'IMAGE'}]}, G, 'node-name'),
    ('blockdev-reopen', {'options': [{**NULL, 'node-name': 'img'}]}, G, 'driver'),
    ('blockdev-reopen', {'options': [{'driver': 'file', 'node-name': 'nope', 'filename': 'IMAGE'}]}, G, 'nope'),
    ('blockdev-reopen', {'options': [{'driver': 'file', 'node-name': 'img', 'filename': 'DIR/x'}]}, G, 'filename'),
    ('blockdev-snapshot-internal-sync', {'device': 'img'}, G, 'name'),
    ('blockdev-snapshot-internal-sync', {'name': 'a'}, G, 'device'),
    ('blockdev-snapshot-internal-sync', {'device': 'nope', 'name': 'a'}, G, 'nope'),
    ('blockdev-snapshot-internal-sync', {'device': 'img', 'name': 1}, G, 'name'),
    ('blockdev-snapshot-internal-sync', {'device': 'img', 'name': 'a'}, G, 'img'),
    ('blockdev-snapshot-delete-internal-sync', {}, G, 'device'),
    ('blockdev-snapshot-delete-internal-sync', {'device': 'nope', 'name': 'a'}, G, 'nope'),
    ('blockdev-snapshot-delete-internal-sync', {'device': 'img', 'id': 1}, G, 'id'),
    ('blockdev-snapshot-apply-internal-sync', {'device': 'nope', 'name': 'a'}, G, 'nope'),
    ('blockdev-snapshot-apply-internal-sync', {'device': 'img', 'name': 'a'}, G, 'img'),
    ('block_resize', {}, G, 'size'),
    ('block_resize', {'node-name': 'img'}, G, 'size'),
    ('block_resize', {'size': 1}, G, 'node-name'),
    ('block_resize', {'node-name': 'nope', 'size': 1}, G, 'nope'),
    ('block_resize', {'node-name': 'img', 'size': -1}, G, ''),
    ('block_resize', {'device': 'img', 'size': 1}, G, ''),
    ('block_resize', {'node-name': 'img', 'size': '1k'}, G, 'size'),
    ('block_resize', {'node-name': 'img', 'size': 2**63}, G, 'size'),
    ('query-named-block-nodes', {'flat': 1}, G, 'flat'),
    ('query-blockstats', {'query-nodes': 'on'}, G, 'query-nodes'),
    # exports
    ('block-export-add', {}, G, ''),
    ('block-export-add', {**FUSE, 'type': 'nope'}, G, 'nope'),
    ('block-export-add', FUSE, G, 'mountpoint'),
    ('block-export-add', {**FUSE, 'mountpoint': 5}, G, 'mountpoint'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'id': '5'}, G, "'5'"),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'id': ''}, G, ''),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'node-name': 'nope'}, G, 'nope'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'name': 'x'}, G, 'name'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'growable': 'on'}, G, 'growable'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'allow-other': True}, G, 'allow-other'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'allow-other': 'yes'}, G, 'yes'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'iothread': 'nope'}, G, 'nope'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'iothread': []}, G, 'iothread'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'iothread': None}, G, 'iothread'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'iothread': ['t', 5]}, G, 'iothread[1]'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'iothread': ['t'], 'fixed-iothread': True}, G,
     'fixed-iothread'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'node-name': 'ro', 'writable': True}, G, 'ro'),
    ('block-export-add', {**FUSE, 'mountpoint': 'POINT', 'allow-inactive': True, 'node-name': 'nope'}, G, 'nope'),
    ('block-export-add', {**FUSE, 'mountpoint': ''}, G, ''),
    ('block-export-add', {**FUSE, 'mountpoint': 'DIR'}, G, 'DIR'),
    ('block-export-add', {**FUSE, 'mountpoint': 'DIR/none'}, G, 'DIR/none'),
    ('block-export-add', {**FUSE, 'mountpoint': 'FIFO'}, G, 'FIFO'),
    ('block-export-add', {**FUSE, 'mountpoint': '/dev/null'}, G, '/dev/null'),
    ('block-export-add', {**FUSE, 'mountpoint': 'IMAGE/x'}, G, 'IMAGE/x'),
    ('block-export-add', {**FUSE, 'mountpoint': 'LOOP'}, G, 'LOOP'),
    ('block-export-add', {**FUSE, 'mountpoint': 'DANGLING'}, G, 'DANGLING'),
    ('block-export-add', {'type': 'nbd', 'id': 'x', 'node-name': 'img'}, G, 'nbd'),
    ('block-export-add', {'type': 'vhost-user-blk', 'id': 'x', 'node-name': 'img', 'addr': {'type': 'unix',
     'path': 'DIR/v'}}, G, 'vhost-user-blk'),
    ('block-export-add', {'type': 'vhost-user-blk', 'id': 'x', 'node-name': 'img'}, G, 'addr'),
    ('block-export-add', {'type': 'vduse-blk', 'id': 'x', 'node-name': 'img', 'name': 'v'}, G, 'vduse-blk'),
    ('block-export-del', {}, G, 'id'),
    ('block-export-del', {'id': 'nope'}, G, 'nope'),
    ('block-export-del', {'id': 'nope', 'mode': 'soft'}, G, 'soft'),
    ('query-block-exports', {'id': 'x'}, G, 'id'),
    ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': 'DIR/none/n'}}}, G, 'DIR/none/n'),
    ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': 'IMAGE'}}}, G, 'IMAGE'),
    ('nbd-server-start', {'addr': {'type': 'unix', 'path': 'DIR/n'}}, G, 'addr'),
    ('nbd-server-start', {'addr': {'type': 'vsock', 'data': {'cid': '2', 'port': '1'}}}, G, 'vsock'),
    ('nbd-server-start', {'addr': {'type': 'inet', 'data': {'host': '::1', 'port': '0', 'ipv4': False,
     'ipv6': False}}}, G, 'family'),
    ('nbd-server-start', {'addr': {'type': 'inet', 'data': {'host': 'localhost', 'port': '0',
     'numeric': True}}}, G, 'localhost'),
    ('nbd-server-start', {'addr': {'type': 'fd', 'data': {'str': '1000'}}}, G, '1000'),
    ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': 'DIR/n'}}, 'tls-authz': 'a'}, G, 'tls-creds'),
    ('nbd-server-start', {}, G, 'addr'),
    ('nbd-server-stop', {}, G, 'nbd-server-start'),
    ('nbd-server-add', {'device': 'img'}, G, 'nbd-server-start'),
    ('nbd-server-remove', {'name': 'img'}, G, 'nbd-server-start'),
    # objects
    ('object-add', {}, G, ''),
    ('object-add', {'qom-type': 'iothread'}, G, 'id'),
    ('object-add', {'id': 'x'}, G, 'qom-type'),
    ('object-add', {'qom-type': 'nope', 'id': 'x'}, G, 'nope'),
    ('object-add', {'qom-type': 'iothread', 'id': '-'}, G, "'-'"),
    ('object-add', {'qom-type': 'iothread', 'id': 't'}, G, "'t'"),
    ('object-add', {'qom-type': 'iothread', 'id': 'x', 'poll-max-ns': -1}, G, 'poll-max-ns'),
    ('object-add', {'qom-type': 'iothread', 'id': 'x', 'poll-max-ns': True}, G, 'poll-max-ns'),
    ('object-add', {'qom-type': 'iothread', 'id': 'x', 'thread-pool-min': 5, 'thread-pool-max': 4}, G,
     'thread-pool-min'),
    ('object-add', {'qom-type': 'iothread', 'id': 'x', 'nope': 1}, G, 'nope'),
    ('object-add', {'qom-type': 'secret', 'id': 'x'}, G, 'data'),
    ('object-add', {'qom-type': 'secret', 'id': 'x', 'file': 'DIR/nope'}, G, 'DIR/nope'),
    ('object-add', {'qom-type': 'authz-simple', 'id': 'x'}, G, 'identity'),
    ('object-add', {'qom-type': 'authz-list', 'id': 'x', 'policy': 'maybe'}, G, 'maybe'),
    ('object-add', {'qom-type': 'authz-list', 'id': 'x', 'rules': [{'match': 'a'}]}, G, 'rules[0].policy'),
    ('object-add', {'qom-type': 'authz-list-file', 'id': 'x', 'filename': 'DIR/nope'}, G, 'DIR/nope'),
    ('object-add', {'qom-type': 'tls-creds-x509', 'id': 'x'}, G, ''),
    ('object-add', {'qom-type': 'tls-creds-x509', 'id': 'x', 'dir': 'DIR', 'endpoint': 'both'}, G, 'both'),
    ('object-add', {'qom-type': 'tls-creds-x509', 'id': 'x', 'dir': 'DIR', 'username': 'a'}, G, 'username'),
    ('object-del', {'id': 'nope'}, G, 'nope'),
    ('object-del', {}, G, 'id'),
    ('qom-list', {'path': '/nope'}, DNF, '/nope'),
    ('qom-list', {}, G, 'path'),
    ('qom-get', {'path': '/objects/t', 'property': 'nope'}, G, 'nope'),
    ('qom-get', {'path': '/objects/nope', 'property': 'type'}, DNF, '/objects/nope'),
    ('qom-set', {'path': '/objects/t', 'property': 'poll-max-ns', 'value': 'x'}, G, 'poll-max-ns'),
    ('qom-list-properties', {'typename': 'nope'}, DNF, 'nope'),
    # monitors
    ('chardev-add', {'id': 'x'}, G, 'backend'),
    ('chardev-add', {'id': 'x', 'backend': {'type': 'pty', 'data': {}}}, G, 'pty'),
    ('chardev-add', {'id': 'x', 'backend': {'type': 'socket', 'data': {'addr': {'type': 'unix',
     'path': 'DIR/s'}}}}, G, 'backend.data.addr'),
    ('chardev-add', {'id': 'x', 'backend': {'type': 'socket', 'data': { 'addr': {'type': 'unix',
     'data': {'path': 'IMAGE'}}}}}, G, 'IMAGE'),
    ('chardev-remove', {'id': 'nope'}, G, 'nope'),
    ('subscribe', {'since': -1}, G, 'since'),
    ('subscribe', {'events': 'all'}, G, 'events'),
    ('unsubscribe', {'events': []}, G, 'events'),
)

# What JSON-RPC makes of wrong input: bytes and the code.
RPC_BYTES = (
    (b'{"jsonrpc": "2.0", "method"\n}', -32700),
    (b'nope\n', -32700),
    (b'}', -32700),
    (b'{"a":1,"a":2}', -32700),
    (b'[]', -32600),
    (b'5\n', -32600),
    (b'"x"\n', -32600),
    (b'{}', -32600),
    (b'{"method":"quit","id":1}', -32600),
    (b'{"jsonrpc":"1.0","method":"quit","id":1}', -32600),
    (b'{"jsonrpc":2.0,"method":"quit","id":1}', -32600),
    (b'{"jsonrpc":"2.0","method":1,"id":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1}', -32600),
    (b'{"jsonrpc":"2.0","method":"quit","params":1,"id":1}', -32600),
    (b'{"jsonrpc":"2.0","method":"quit","id":{}}', -32600),
    (b'{"jsonrpc":"2.0","method":"quit","id":true}', -32600),
    (b'{"jsonrpc":"2.0","method":"nope","id":1}', -32601),
    (b'{"jsonrpc":"2.0","method":"qmp_capabilities","id":1}', -32601),
    (b'{"jsonrpc":"2.0","method":"quit","params":[1],"id":1}', -32602),
    (b'{"jsonrpc":"2.0","method":"quit","params":{"a":1},"id":1}', -32602),
    (b'{"jsonrpc":"2.0","method":"blockdev-del","params":{"node-name":"nope"},"id":1}', -32002),
    (b'{"jsonrpc":"2.0","method":"qom-list","params":{"path":"/nope"},"id":1}', -32001),
    (b'{"jsonrpc":"2.0","method":"nbd-server-stop","id":1}', None),
)


class BadInput(IoTest):
    def setUp(self):
        super().setUp()
        image = self.make_file('img', 1 << 20)
        os.mkfifo(self.path('fifo'))
        os.symlink('loop', self.path('loop'))
        os.symlink('nowhere', self.path('dangling'))
        self.paths = {'IMAGE': image, 'POINT': self.mountpoint(), 'FIFO': self.path('fifo'),
                      'LOOP': self.path('loop'), 'DANGLING': self.path('dangling'), 'DIR': self.dir}
        self.daemon = self.wharfd('--object', 'iothread,id=t', '--blockdev', f'file,node-name=img,filename={image}',
                                  '--blockdev', 'null-co,node-name=ro,read-only=on', jsonrpc=True)
        self.qmp = self.daemon.qmp
        self.before = self.state()

    def state(self):
        """All that the daemon has set up, and the files beside it."""
        return [self.qmp.cmd(f'query-{what}') for what in ('named-block-nodes', 'block-exports', 'chardev')] + [
            self.qmp.cmd('qom-list', path='/objects'), sorted(os.listdir(self.dir)), tools.mounts_below(self.dir)]

    def place(self, value):
        """A row with its placeholders replaced by paths."""
        text = json.dumps(value)
        for name, path in self.paths.items():
            text = text.replace(name, path)
        return json.loads(text)

    def test_qmp_bytes(self):
        for data, cls, words in QMP_BYTES:
            with self.subTest(data):
                self.qmp.send_raw(data)
                self.qmp.send_raw(b'\xff\n{"execute":"query-version","id":"alive"}')
                first = self.qmp.read_reply()
                self.assertEqual(first['error']['class'], cls)
                self.assertIn(words, first['error']['desc'])
                self.assertNotIn('id', first)
                reply = first
                while 'error' in reply:
                    reply = self.qmp.read_reply()
                self.assertEqual(reply['id'], 'alive')
        self.assertEqual(self.state(), self.before)

    def test_qmp_messages(self):
        for message, cls, words in QMP_MESSAGES:
            with self.subTest(message):
                reply = self.qmp.request({**message, 'id': 'x'})
                self.assertEqual((reply['error']['class'], reply['id']), (cls, 'x'))
                self.assertIn(words, reply['error']['desc'])
        self.assertEqual(self.state(), self.before)

    def test_commands(self):
        for command, arguments, cls, words in COMMANDS:
            with self.subTest((command, arguments)):
                reply = self.qmp.execute(command, self.place(arguments))
                self.assertIn('error', reply)
                self.assertEqual(reply['error']['class'], cls, reply)
                self.assertIn(self.place(words), reply['error']['desc'])
        self.assertEqual(self.state(), self.before)

    def test_jsonrpc(self):
        rpc = self.daemon.jsonrpc_client()
        for data, code in RPC_BYTES:
            with self.subTest(data):
                rpc.send_raw(data)
                reply = rpc.read_reply()
                self.assertEqual(reply['jsonrpc'], '2.0')
                if code:
                    self.assertEqual(reply['error']['code'], code, reply)
                self.assertIn(reply['error']['data']['class'], (G, CNF, DNF))
                self.assertEqual(reply['id'], 1 if b'"id":1' in data and code != -32700 else None)
        self.assertEqual(self.state(), self.before)

    def test_there_are_enough(self):
        self.assertGreaterEqual(len(QMP_BYTES) + len(QMP_MESSAGES) + len(COMMANDS) + len(RPC_BYTES), 100)


class BadFiles(IoTest):
    """Files, sockets and places on the command line that are not what they should be."""

    def test_table(self):
        image = self.make_file('img', 4096, b'precious')
        live = socket.socket(socket.AF_UNIX)
        self.addCleanup(live.close)
        live.bind(self.path('live'))
        live.listen()
        os.mkfifo(self.path('fifo'))
        binary = os.environ.get('WHARFD') or self.skipTest('WHARFD is not set')
        node = ('--blockdev', f'file,node-name=n,filename={image}')
        before = sorted(os.listdir(self.dir))
        for args, words in (
                (('--blockdev', f'file,node-name=n,filename={self.dir}'), self.dir),
                (('--blockdev', f'file,node-name=n,filename={self.path("fifo")}'), 'fifo'),
                (('--blockdev', f'file,node-name=n,filename={self.path("live")}'), 'live'),
                (('--blockdev', f'host_device,node-name=n,filename={image}'), 'img'),
                (('--blockdev', f'file,node-name=n,filename={image}/'), 'img/'),
                ((*node, '--export', f'fuse,id=e,node-name=n,mountpoint={self.path("fifo")}'), 'fifo'),
                ((*node, '--export', f'fuse,id=e,node-name=n,mountpoint={self.path("live")}'), 'live'),
                ((*node, '--export', f'fuse,id=e,node-name=n,mountpoint={self.dir}'), self.dir),
                (('--monitor', f'path={image}'), 'img'), (('--monitor', f'path={self.path("live")}'), 'live'),
                (('--monitor', f'path={self.path("fifo")}'), 'fifo'), (('--monitor', f'path={self.dir}'), self.dir),
                (('--monitor', f'path={image}/sock'), 'img/sock'),
                (('--pidfile', image), 'img'), (('--pidfile', self.path('fifo')), 'fifo'),
                (('--pidfile', self.path('live')), 'live'), (('--pidfile', self.dir), self.dir),
                (('--log', f'file={self.dir}'), self.dir)):
            with self.subTest(args):
                result = run(binary, *args, check=False)
                self.assertEqual(result.returncode, 1)
                self.assertIn(words, result.stderr)
                self.assertEqual(sorted(os.listdir(self.dir)), before)
        with open(image, 'rb') as f:
            self.assertEqual(f.read(8), b'precious')


if __name__ == '__main__':
    main()
