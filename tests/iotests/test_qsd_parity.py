# SPDX-License-Identifier: GPL-2.0-or-later
"""The same session, sent to wharfd and to qemu-storage-daemon: the replies must look the same.

Compared are success or failure, the error's class, and the result's members and their types; never
the words. What wharfd deliberately does better than QSD is left out here: other tests hold it to that.
wharfd may have further members.
"""

import os

from wharf import *



def is_ours(key, value):
    """Whether wharfd should have the member of this object, which QSD 7.2 has."""
    if key == 'actual-size' and value.get('format', '').startswith('null'):
        return False  # nothing is stored, so there is no such size; so say later versions
    if key == 'backing-image' and 'backing-filename' not in value:
        return False  # the child of a filter, which backs nothing
    return True


# Either type will do: an integer that the one or the other happens to leave out of a float.
NUMBER = (int, float)


def shape_errors(theirs, ours, path='return'):
    """How our value lacks what theirs has: a list of sentences, empty if it lacks nothing."""
    if isinstance(theirs, bool) or isinstance(ours, bool) or not isinstance(theirs, NUMBER):
        if type(theirs) is not type(ours):
            return [f'{path} is {type(ours).__name__}, not {type(theirs).__name__}']
    elif not isinstance(ours, NUMBER):
        return [f'{path} is no number but {ours!r}']
    if isinstance(theirs, dict):
        return [error for key, value in theirs.items() if is_ours(key, theirs)
                for error in (shape_errors(value, ours[key], f'{path}.{key}') if key in ours
                              else [f'{path} lacks {key!r}'])]
    if isinstance(theirs, list):
        if all(isinstance(e, dict) and 'name' in e for e in theirs + ours):
            return shape_errors({e['name']: e for e in theirs}, {e['name']: e for e in ours}, path)
        if len(theirs) != len(ours):
            return [f'{path} has {len(ours)} elements, not {len(theirs)}']
        return [error for i, (a, b) in enumerate(zip(theirs, ours))
                for error in shape_errors(a, b, f'{path}[{i}]')]
    return []


OK = 'ok'


def outcome_of(reply):
    return reply['error']['class'] if 'error' in reply else OK


class Parity(IoTest):
    """Both daemons, each in a directory of its own with the same files in it."""

    def setUp(self):
        super().setUp()
        find_tool('qemu-storage-daemon')
        self.daemons = {}
        self.directories = {}
        for name, start in (('qsd', self.qsd), ('wharfd', self.wharfd)):
            directory = self.path(name + '.d')
            os.mkdir(directory)
            os.mkdir(os.path.join(directory, 'directory'))
            for file, size in (('disk', 1 << 20), ('other', 3000), ('third', 1 << 20), ('odd', 1000),
                               ('mnt', 0)):
                with open(os.path.join(directory, file), 'wb') as f:
                    f.write(b'x' * min(size, 500))
                    f.truncate(size)
            os.symlink('nowhere', os.path.join(directory, 'dangling'))
            os.mkfifo(os.path.join(directory, 'fifo'))
            self.directories[name] = directory
            self.daemons[name] = start(cwd=directory, name=name)
        self.failures = []

    def send(self, name, message):
        client = self.daemons[name].qmp
        if isinstance(message, bytes):
            client.send_raw(message)
            return client.read_reply()
        return client.request(message)

    def step(self, message):
        """Send one message to both; note how the replies differ. Returns wharfd's reply."""
        theirs, ours = self.send('qsd', message), self.send('wharfd', message)
        wanted = outcome_of(theirs)
        if outcome_of(ours) != wanted:
            self.failures.append(f'{message}\n    wanted {wanted}, as in {theirs}\n    got {ours}')
        elif 'return' in ours and 'return' in theirs:
            errors = shape_errors(theirs['return'], ours['return'])
            if errors:
                self.failures.append('\n    '.join([str(message), *errors]))
        if set(theirs) - {'return', 'error'} != set(ours) - {'return', 'error'}:
            self.failures.append(f'{message}\n    wanted the members of {theirs}\n    got {ours}')
        return ours

    def command(self, command, arguments=None, **keywords):
        arguments = {**(arguments or {}),
                     **{k.replace('_', '-'): v for k, v in keywords.items()}}
        message = {'execute': command}
        if arguments:
            message['arguments'] = arguments
        return self.step(message)

    def events(self):
        """The events since the last call, by name and members, must be the same."""
        seen = {}
        for name, daemon in self.daemons.items():
            seen[name] = [(e['event'], sorted(e), e.get('data', {})) for e in daemon.qmp.events]
            daemon.qmp.events.clear()
        theirs, ours = seen['qsd'], seen['wharfd']
        if [e[0] for e in theirs] != [e[0] for e in ours]:
            self.failures.append(f'events\n    wanted {theirs}\n    got {ours}')
            return
        for a, b in zip(theirs, ours):
            errors = shape_errors(a[2], b[2], a[0])
            if errors or not set(a[1]) <= set(b[1]):
                self.failures.append(f'event {b}\n    wanted {a}')

    def done(self):
        if self.failures:
            self.fail(f'{len(self.failures)} differences:\n' + '\n'.join(self.failures))

    # Building blocks

    def add(self, driver, name, **options):
        return self.command('blockdev-add', {'driver': driver, 'node-name': name}, **options)

    def add_file(self, name, filename='disk', **options):
        return self.add('file', name, filename=filename, **options)

    def export(self, name, node, **options):
        options.setdefault('mountpoint', 'mnt')
        return self.command('block-export-add', {'type': 'fuse', 'id': name, 'node-name': node},
                            **options)


class Envelope(Parity):
    def test_greeting(self):
        greetings = {name: d.qmp.greeting for name, d in self.daemons.items()}
        self.assertEqual(shape_errors(greetings['qsd'], greetings['wharfd'], 'greeting'), [])

    def test_negotiation(self):
        first = {name: d.qmp for name, d in self.daemons.items()}
        for client in first.values():
            client.close()
        for daemon in self.daemons.values():
            daemon.qmp = daemon.qmp_client(negotiate=False)
        for message in (
                {'execute': 'query-version'},
                {'execute': 'query-version', 'id': 'x'},
                {'execute': 'nonsense'},
                {'execute': 'quit'},
                {'execute': 'query-version', 'arguments': {'x': 1}},
                {'exec-oob': 'query-version'},
                {'execute': 5},
                {},
                {'execute': 'qmp_capabilities', 'arguments': {'enable': ['nonsense']}},
                {'execute': 'qmp_capabilities', 'arguments': {'enable': 'oob'}},
                {'execute': 'qmp_capabilities', 'arguments': {'nonsense': 1}},
                {'execute': 'query-version'},
                {'execute': 'qmp_capabilities', 'arguments': {'enable': ['oob']}, 'id': 1},
                {'execute': 'qmp_capabilities'},
                {'execute': 'query-version'},
                {'exec-oob': 'query-version'},
                {'exec-oob': 'nonsense'},
                {'exec-oob': 'query-version', 'execute': 'query-version'}):
            self.step(message)
        self.done()

    def test_envelope(self):
        for message in (
                {'execute': 'query-version', 'id': None},
                {'execute': 'query-version', 'id': [1, {'a': 'b'}]},
                {'execute': 'query-version', 'id': 18446744073709551615},
                {'execute': 'query-version', 'id': -9223372036854775808},
                {'execute': 'query-version', 'arguments': {}},
                {'execute': 'query-version', 'arguments': []},
                {'execute': 'query-version', 'arguments': None},
                {'execute': 'query-version', 'arguments': {'a': 1}, 'id': 7},
                {'execute': 'query-version', 'nonsense': 1},
                {'exec-oob': 'query-version'},
                {'execute': None},
                {'execute': ['query-version']},
                {'arguments': {}},
                {'execute': 'query_version'},
                {'execute': 'Query-Version'},
                {'execute': ''},
                {'execute': 'query-status'},
                {'execute': 'stop'},
                {'execute': 'human-monitor-command', 'arguments': {'command-line': 'info'}},
                {'execute': 'qmp_capabilities'},
                [1],
                'x'):
            self.step(message)
        for raw in (
                b"{'execute': 'query-version'}",
                b'{"execute":"query-version"}\n\n',
                b'\t{ "execute" : "query\\u002dversion" } ',
                b'[]', b'"x" ', b'5 ', b'null ',
                b'{"execute": "query-version",}\n',
                b'{"execute": }\n',
                b'{"execute": "query-version", "execute": "query-version"}',
                b'{"execute": "query-version", "id": 1, "id": 1}',
                b'{"execute": "query-version", "id": "\xff"}',
                b'{"execute": "query-version", "id": "\\ud800"}',
                b'{"execute": "query-version", "id": "\\u0000"}',
                b'{"execute": "query-version", "id": "\\x"}',
                b'{"execute": "query-version", "id": 1.5}',
                b'{"execute": "query-version", "id": 1e5}',
                b'}\n', b']\n', b'nonsense\n',
                b'\x01', b'\xff',
                b'{"execute": "query-version", "a": {"b": \x01',
                b'{"execute": "query-version", "id": "end"}'):
            self.step(raw)
        self.done()


class Arguments(Parity):
    def test_types(self):
        """Every kind of wrong argument, before any command code runs."""
        for name, arguments in (
                ('blockdev-add', {}),
                ('blockdev-add', {'driver': 'file'}),
                ('blockdev-add', {'driver': 'nonsense', 'node-name': 'a'}),
                ('blockdev-add', {'driver': 'File', 'node-name': 'a', 'filename': 'disk'}),
                ('blockdev-add', {'driver': 5, 'node-name': 'a'}),
                ('blockdev-add', {'driver': None, 'node-name': 'a'}),
                ('blockdev-add', {'driver': 'file', 'node-name': 5, 'filename': 'disk'}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 5}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': None}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk', 'x': 1}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'size': 512}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'read-only': 'on'}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'read-only': 1}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'read_only': True}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'cache.direct': True}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'cache': {'writeback': True}}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'cache': True}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'discard': 'yes'}),
                ('blockdev-add', {'driver': 'file', 'node-name': 'a', 'filename': 'disk',
                                  'locking': True}),
                ('blockdev-add', {'driver': 'null-co', 'node-name': 'a', 'size': 1.5}),
                ('blockdev-add', {'driver': 'null-co', 'node-name': 'a', 'size': '1024'}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a'}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a', 'file': 5}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a', 'file': None}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a', 'file': {}}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a',
                                  'file': {'driver': 'file'}}),
                ('blockdev-add', {'driver': 'raw', 'node-name': 'a',
                                  'file': {'driver': 'file', 'filename': 'disk', 'x': 1}}),
                ('blockdev-del', {}),
                ('blockdev-del', {'node-name': 5}),
                ('blockdev-del', {'node_name': 'a'}),
                ('block_resize', {'node-name': 'a'}),
                ('block_resize', {'node-name': 'a', 'size': 'big'}),
                ('block_resize', {'node-name': 'a', 'size': 1.0e3}),
                ('block_resize', {'node-name': 'a', 'size': 18446744073709551615}),
                ('query-named-block-nodes', {'flat': 1}),
                ('query-blockstats', {'query-nodes': None}),
                ('blockdev-reopen', {}),
                ('blockdev-reopen', {'options': {}}),
                ('blockdev-reopen', {'options': [5]}),
                ('blockdev-reopen', {'options': [{'driver': 'file', 'node-name': 'a'}]}),
                ('block-export-add', {}),
                ('block-export-add', {'type': 'nonsense', 'id': 'e', 'node-name': 'a'}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'a'}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'mountpoint': 'mnt'}),
                ('block-export-add', {'type': 'fuse', 'node-name': 'a', 'mountpoint': 'mnt'}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'a',
                                      'mountpoint': 'mnt', 'name': 'x'}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'a',
                                      'mountpoint': 'mnt', 'allow-other': True}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'a',
                                      'mountpoint': 'mnt', 'growable': 'yes'}),
                ('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'a',
                                      'mountpoint': 'mnt', 'iothread': 7}),
                ('block-export-del', {}),
                ('block-export-del', {'id': 'e', 'mode': 'soft'}),
                ('object-add', {}),
                ('object-add', {'qom-type': 'iothread'}),
                ('object-add', {'qom-type': 'nonsense', 'id': 'o'}),
                ('object-add', {'qom-type': 'iothread', 'id': 5}),
                ('object-add', {'qom-type': 'iothread', 'id': 'o', 'poll-max-ns': 'x'}),
                ('object-del', {}),
                ('qom-list', {}),
                ('qom-get', {'path': '/objects'})):
            self.command(name, arguments)
        self.command('query-named-block-nodes')
        self.command('query-block-exports')
        self.done()


class Session(Parity):
    def test_nodes(self):
        self.command('query-named-block-nodes')
        self.command('query-block')
        self.command('query-blockstats')
        self.command('query-blockstats', query_nodes=True)
        self.bad_names()
        self.bad_files()
        self.good_nodes()
        self.queries()
        self.resizing()
        self.deleting()
        self.command('query-named-block-nodes')
        self.events()
        self.done()

    def bad_names(self):
        for name in ('', '1a', '-a', 'a b', 'a/b', 'a' * 32, '#block1', 'ä', '_a', 'a:b'):
            self.add('null-co', name)
        for name in ('a' * 31, 'a.b', 'a-b', 'a_b', 'A1'):
            self.add('null-co', name)
            self.add('null-co', name)
            self.command('blockdev-del', node_name=name)
        self.command('blockdev-add', driver='null-co')

    def bad_files(self):
        for filename in ('missing', 'directory', '/dev/null', '', 'dangling', 'fifo', 'disk/x',
                         'file:disk', 'missing/x', 'x' * 300):
            self.add_file('f', filename)
        self.add('host_device', 'h', filename='disk')
        self.add('host_device', 'h', filename='missing')
        self.add('host_device', 'h', filename='directory')
        self.add_file('f', aio='native')
        self.add_file('f', force_share=True)
        self.add_file('f', detect_zeroes='unmap')
        self.add('raw', 'r', file='missing')
        self.add('raw', 'r', file={'driver': 'file', 'filename': 'missing'})
        self.add('raw', 'r', file={'driver': 'file', 'filename': 'disk', 'node-name': '1'})
        for offset, size in ((1 << 30, None), (0, 1 << 30), (4096, 1 << 20), (0, 1000),
                             (1 << 63, None)):
            options = {'offset': offset, **({} if size is None else {'size': size})}
            self.add('raw', 'r', file={'driver': 'file', 'filename': 'disk'}, **options)
        self.command('query-named-block-nodes')

    def good_nodes(self):
        self.add_file('f0')
        self.add_file('f0')
        self.add_file('f1', 'other', cache={'direct': True, 'no-flush': True}, read_only=True,
                      auto_read_only=True, discard='unmap', detect_zeroes='on')
        self.add_file('f2', read_only=True, force_share=True, locking='off')
        self.add_file('f3', aio='threads', locking='on')
        self.add_file('f4', 'odd')  # not io_uring, which not every QSD has
        self.add('raw', 'r0', file='f0')
        # QSD does not share the resizing of what a raw node with an offset lies on; we do.
        self.add('raw', 'r1', file={'driver': 'file', 'filename': 'third', 'node-name': 'inner'},
                 offset=4096, size=8192)
        self.add('raw', 'r2', file={'driver': 'file', 'filename': 'third'}, offset=1)
        self.add('raw', 'r3', file='r1', read_only=True)
        self.add('null-co', 'n0')
        self.add('null-co', 'n1', size=512, latency_ns=1, read_zeroes=True)
        self.add('null-aio', 'n2', size=0)
        self.add('blkdebug', 'd0', image='n1',
                 inject_error=[{'event': 'read_aio', 'errno': 5, 'once': True}],
                 set_state=[{'event': 'pwritev', 'new_state': 2}], align=512)

    def queries(self):
        self.command('query-named-block-nodes')
        self.command('query-named-block-nodes', flat=True)
        self.command('query-named-block-nodes', flat=False)
        self.command('query-block')
        self.command('query-blockstats')
        self.command('query-blockstats', query_nodes=False)
        self.command('query-blockstats', query_nodes=True)

    def resizing(self):
        for name, size in (('f0', 1 << 21), ('f0', 5000), ('r0', 1 << 20), ('f0', 0),
                           ('f0', 1 << 20), ('f0', -1), ('n0', 4096), ('f1', 4096),
                           ('missing', 4096), ('f0', (1 << 63) - 1)):
            self.command('block_resize', node_name=name, size=size)
        self.command('block_resize', device='f0', size=4096)
        self.command('block_resize', size=4096)
        self.command('block_resize', device='nonsense', node_name='f0', size=1 << 20)

    def deleting(self):
        self.command('blockdev-del', node_name='missing')
        self.command('blockdev-del', node_name='f0')
        self.command('blockdev-del', node_name='inner')
        self.command('blockdev-del', node_name='r1')
        for name in ('d0', 'r3', 'r1', 'r2', 'r0', 'f0', 'f1', 'f2', 'f3', 'f4', 'n0', 'n1', 'n2'):
            self.command('blockdev-del', node_name=name)
        self.command('blockdev-del', node_name='n2')

    def test_reopen(self):
        self.add_file('f0')
        self.add_file('f1', 'other')
        self.add('raw', 'r0', file='f0')
        self.add('raw', 'r1', file={'driver': 'file', 'filename': 'odd', 'node-name': 'inner'})
        for options in (
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk'}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk', 'read-only': True}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk',
                  'cache': {'direct': True}}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk',
                  'auto-read-only': True}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'other'}],
                [{'driver': 'raw', 'node-name': 'f0', 'file': 'f1'}],
                [{'driver': 'file', 'node-name': 'missing', 'filename': 'disk'}],
                [{'driver': 'file', 'filename': 'disk'}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'f1'}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'missing'}],
                [{'driver': 'raw', 'node-name': 'r0',
                  'file': {'driver': 'file', 'filename': 'disk'}}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'r0'}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'f0', 'offset': 1 << 30}],
                [{'driver': 'raw', 'node-name': 'r0', 'file': 'f0', 'offset': 512, 'size': 1024}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk'},
                 {'driver': 'file', 'node-name': 'f1', 'filename': 'missing'}],
                [{'driver': 'file', 'node-name': 'f0', 'filename': 'disk'},
                 {'driver': 'file', 'node-name': 'f1', 'filename': 'other'}]):
            self.command('blockdev-reopen', options=options)
            self.command('query-named-block-nodes')
        self.events()
        self.done()

    def test_objects(self):
        for arguments in (
                {'id': 't0'}, {'id': 't0'}, {'id': ''}, {'id': '1'}, {'id': 'a b'},
                {'id': 't1', 'poll-max-ns': 0}, {'id': 't2', 'poll-max-ns': -1},
                {'id': 't3', 'poll-max-ns': 32768, 'poll-grow': 2, 'poll-shrink': 3,
                 'aio-max-batch': 4},
                {'id': 't4', 'thread-pool-min': 4, 'thread-pool-max': 2},
                {'id': 't5', 'thread-pool-min': 1, 'thread-pool-max': 2},
                {'id': 't6', 'nonsense': 1}):
            self.command('object-add', {'qom-type': 'iothread', **arguments})
        for path in ('/objects', '//objects/', '/objects//t0/', '/objects/t0', 't0', 't0/', '/objects/missing',
                     'missing', '/objects/t0/missing', ''):
            self.command('qom-list', path=path)
        for path, name in (('/objects/t3', 'poll-max-ns'), ('t3', 'poll-grow'),
                           ('/objects/t3', 'nonsense'), ('/objects/missing', 'poll-grow'),
                           ('/objects/t3', 'type'), ('', 'type'), ('//', 'type')):
            self.command('qom-get', path=path, property=name)
        for path, name, value in (('/objects/t3', 'poll-max-ns', 1000),
                                  ('/objects/t3', 'poll-max-ns', -5),
                                  ('/objects/t3', 'poll-max-ns', 'x'),
                                  ('/objects/t3', 'nonsense', 1), ('missing', 'poll-max-ns', 1),
                                  ('', 'poll-max-ns', 1)):
            self.command('qom-set', path=path, property=name, value=value)
        self.command('qom-list-types', implements='nonsense')
        for name in ('t0', 't0', 't1', 't3', 't5', 'missing', ''):
            self.command('object-del', id=name)
        self.done()

    def test_exports(self):
        self.need_fuse()
        self.command('query-block-exports')
        self.add_file('f0')
        self.add('raw', 'r0', file='f0')
        self.add('raw', 'ro', file={'driver': 'file', 'filename': 'other'}, read_only=True)
        self.bad_exports()
        self.command('query-block-exports')
        self.export('e0', 'r0', writable=True)
        self.command('query-block-exports')
        self.busy()
        self.command('block-export-del', id='e0')
        self.events()
        self.export('e0', 'ro')
        self.command('block-export-del', id='e0', mode='hard')
        self.command('block-export-del', id='e0', mode='hard')
        self.events()
        self.with_iothread()
        self.command('query-block-exports')
        self.events()
        self.done()

    def bad_exports(self):
        for name in ('', '1', 'a b', 'a/b', '#e'):
            self.export(name, 'r0')
        self.export('e0', 'missing')
        self.export('e0', 'ro', writable=True)
        self.export('e0', 'r0', iothread='missing')
        for mountpoint in ('missing', 'directory', '', 'dangling', 'fifo', '/dev/null', 'mnt/x'):
            self.export('e0', 'r0', mountpoint=mountpoint)
        for kind, options in (('nbd', {}), ('nbd', {'name': 'x' * 5000})):
            self.command('block-export-add',
                         {'type': kind, 'id': 'e1', 'node-name': 'r0', **options})
        self.command('block-export-del', id='missing')
        self.command('block-export-del', id='missing', mode='hard')

    def busy(self):
        self.export('e0', 'r0')
        self.export('e1', 'r0')
        self.command('blockdev-del', node_name='r0')
        self.command('blockdev-del', node_name='f0')
        self.command('blockdev-reopen', options=[
            {'driver': 'raw', 'node-name': 'r0', 'file': 'f0', 'read-only': True}])
        self.command('block_resize', node_name='r0', size=1 << 20)
        self.command('query-named-block-nodes')
        self.command('query-blockstats', query_nodes=True)

    def with_iothread(self):
        self.command('object-add', {'qom-type': 'iothread', 'id': 't0'})
        self.export('e0', 'r0', iothread='t0', writable=True, growable=True, allow_other='off')
        # object-del of the iothread now would kill QSD: a matter for other tests.
        self.command('block-export-del', id='e0')
        self.command('object-del', id='t0')


class Jobs(Parity):
    def create(self, **options):
        """A job to its end, its events, and what is told of it."""
        options = {k.replace('_', '-'): v for k, v in options.items()}
        reply = self.command('blockdev-create', job_id='j', options=options)
        if 'error' in reply:
            return
        for daemon in self.daemons.values():
            wait_until(lambda qmp=daemon.qmp: qmp.cmd('query-jobs')[0]['status'] == 'concluded')
        self.command('query-jobs')
        self.events()
        for verb in ('cancel', 'pause', 'resume', 'complete', 'finalize', 'dismiss', 'dismiss'):
            self.command('job-' + verb, id='j')
        self.events()

    def test_create(self):
        image = {'driver': 'qcow2', 'file': 'f', 'size': 1 << 20}
        self.create(driver='file', filename='new', size=1000)
        self.create(driver='file', filename='missing/new', size=1000)
        self.create(driver='file', filename='new', size=-1)
        self.create(driver='file', filename='new', size=4096, preallocation='metadata')
        self.create(driver='file', filename='new', size=4096, preallocation='full')
        self.create(driver='file', filename='new')
        self.create(driver='raw')
        self.create(driver='null-co')
        self.create(driver='nonsense')
        self.create(driver='file', filename='new', size=0)
        self.add_file('f', 'new')
        self.add_file('ro', 'new', read_only=True)
        for more in ({}, {'size': 1000}, {'size': -512}, {'size': 0}, {'file': 'nope'}, {'file': 'ro'},
                     {'cluster-size': 1000}, {'cluster-size': 256}, {'cluster-size': 1 << 21},
                     {'refcount-bits': 3}, {'refcount-bits': 64}, {'version': 'v2'}, {'version': 'v5'},
                     {'version': 'v2', 'refcount-bits': 8}, {'version': 'v2', 'lazy-refcounts': True},
                     {'version': 'v2', 'extended-l2': True}, {'version': 'v2', 'compression-type': 'zstd'},
                     {'extended-l2': True}, {'extended-l2': True, 'cluster-size': 4096},
                     {'data-file-raw': True}, {'data-file': 'nope'}, {'backing-fmt': 'raw'},
                     {'backing-file': 'disk'}, {'backing-file': 'disk', 'backing-fmt': 'raw'},
                     {'backing-file': 'x' * 1024, 'backing-fmt': 'raw'},
                     {'backing-file': 'disk', 'preallocation': 'metadata'}, {'preallocation': 'metadata'},
                     {'encrypt': {'format': 'luks', 'key-secret': 'nope'}}, {'nonsense': 1}):
            self.create(**{**image, **more})
        self.add('qcow2', 'q', file='f')
        self.create(**image)
        self.command('blockdev-create', job_id='1', options={'driver': 'file', 'filename': 'x', 'size': 1})
        self.command('blockdev-create', job_id='', options={'driver': 'file', 'filename': 'x', 'size': 1})
        self.done()


class Ending(Parity):
    def test_quit(self):
        """Exports go newest first, each with its event, before the answer; then the connection ends."""
        self.need_fuse()
        said = {}
        for name, daemon in self.daemons.items():
            qmp = daemon.qmp
            qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
            for export in ('e0', 'e1'):
                mountpoint = os.path.join(self.directories[name], export)
                with open(mountpoint, 'wb'):
                    pass
                qmp.cmd('block-export-add', {'type': 'fuse', 'id': export, 'node-name': 'n',
                                             'mountpoint': mountpoint})
            qmp.send({'execute': 'quit', 'id': 'q'})
            said[name] = [(m.get('event'), m.get('data', {}).get('id'), m.get('id'))
                          for m in iter(qmp.read, None)]
            self.assertEqual(daemon.wait(), 0)
        # QSD 7.2 begins with the oldest one; later versions, like wharfd, with the newest.
        self.assertEqual(said['wharfd'], sorted(said['qsd'][:-1], reverse=True) + said['qsd'][-1:])


class Introspection(Parity):
    def test_commands(self):
        """Every command that wharfd has is one of QSD's, or one of its own."""
        self.command('query-version')
        lists = {name: d.qmp.cmd('query-commands') for name, d in self.daemons.items()}
        for entries in lists.values():
            for entry in entries:
                self.assertIsInstance(entry['name'], str)
        theirs, ours = ({e['name'] for e in lists[name]} for name in ('qsd', 'wharfd'))
        for name in ('blockdev-add', 'blockdev-del', 'blockdev-reopen', 'query-named-block-nodes',
                     'query-blockstats', 'block_resize', 'block-export-add', 'block-export-del',
                     'query-block-exports', 'object-add', 'object-del', 'qom-list', 'qom-get',
                     'qom-set', 'quit', 'query-version', 'query-commands', 'query-qmp-schema',
                     'qmp_capabilities', 'query-block', 'query-jobs', 'job-cancel', 'job-complete',
                     'job-dismiss', 'job-finalize', 'job-pause', 'job-resume', 'blockdev-create'):
            self.assertIn(name, theirs)
            self.assertIn(name, ours)
        self.done()

    def schema(self, name):
        return {entry['name']: entry
                for entry in self.daemons[name].qmp.cmd('query-qmp-schema')}

    def test_schema(self):
        """Entries have the members that QSD's entries of the same meta-type have."""
        theirs, ours = self.schema('qsd'), self.schema('wharfd')
        members = {}
        for entry in theirs.values():
            members.setdefault(entry['meta-type'], []).append(set(entry))
        for entry in ours.values():
            always = set.intersection(*members[entry['meta-type']])
            self.assertLessEqual(always, set(entry) | {'features'}, entry)
            self.check_references(entry, ours)

    def check_references(self, entry, schema):
        """Every type that is named is there."""
        named = [entry.get(key) for key in ('arg-type', 'ret-type', 'element-type')]
        if entry['meta-type'] != 'enum':
            named += [m['type'] for m in entry.get('members', [])]
        named += [v['type'] for v in entry.get('variants', [])]
        for name in filter(None, named):
            self.assertIn(name, schema, entry)

    def test_same_arguments(self):
        """Arguments of the commands both have: same names, optional or not, same kind of type."""
        theirs, ours = self.schema('qsd'), self.schema('wharfd')
        for command in ('blockdev-del', 'block_resize', 'block-export-del', 'object-del',
                        'query-named-block-nodes', 'query-blockstats', 'qom-list', 'qom-get',
                        'qom-set', 'blockdev-reopen', 'block-export-add', 'blockdev-add',
                        'object-add'):
            want, got = self.arguments(theirs, command), self.arguments(ours, command)
            for name in set(want) & set(got) - {'iothread'}:  # a name or, in later QSDs, a list
                self.assertEqual(got[name], want[name], f'{command} {name}')
            required = {name for name, (optional, _) in want.items() if not optional}
            self.assertLessEqual(required, set(got), command)

    @staticmethod
    def arguments(schema, command):
        found = schema[schema[command]['arg-type']]
        return {m['name']: ('default' in m, schema[m['type']]['meta-type'])
                for m in found['members']}


if __name__ == '__main__':
    main()
