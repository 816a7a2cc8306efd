# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: forms, order, help, chardevs, pidfile, background, signals, failed starts."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import time

from wharf import *
from wharf import tools


class CommandLine(IoTest):
    def setUp(self):
        super().setUp()
        self.image = self.make_file('img', 1 << 20, b'content')
        self.binary = os.environ.get('WHARFD')
        if not self.binary:
            self.skipTest('WHARFD is not set')

    def run_it(self, *args, **kwargs):
        """Run it to its end, which must come by itself."""
        return run(self.binary, *args, check=False, cwd=self.dir, **kwargs)

    @staticmethod
    def catches(pid, sig):
        """Whether the process has a handler for the signal."""
        with open(f'/proc/{pid}/status', encoding='utf-8') as f:
            caught = [line for line in f if line.startswith('SigCgt:')][0]
        return int(caught.split()[1], 16) >> (sig - 1) & 1

    def assert_refused(self, *args, words=(), **kwargs):
        """It must end with 1, one line on stderr that holds all the words, and nothing left."""
        before = sorted(os.listdir(self.dir))
        result = self.run_it(*args, **kwargs)
        self.assertEqual(result.returncode, 1, (args, result.stderr))
        self.assertEqual(result.stdout, '')
        self.assertTrue(result.stderr.startswith('wharfd: '), result.stderr)
        self.assertEqual(result.stderr.count('\n'), 1, result.stderr)
        for word in (words,) if isinstance(words, str) else words:
            self.assertIn(word, result.stderr)
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        self.assertEqual(tools.mounts_below(self.dir), [])
        return result.stderr


class Forms(CommandLine):
    def test_wrong_options(self):
        for args, words in (
                (('--nope',), "'--nope'"), (('--nope=1',), "'--nope'"), (('-x',), "'-x'"),
                (('word',), "'word'"), (('-',), "'-'"), (('--',), "'--'"), (('--blockdev',), '--blockdev'),
                (('--pidfile',), '--pidfile'), (('-T',), '-T'), (('--daemonize=yes',), '--daemonize'),
                (('--help=x',), '--help'), (('--e',), ('ambiguous', '--export', '--exit-when-idle')),
                (('--Blockdev', 'x'), '--Blockdev'), (('-blockdev', 'x'), '-blockdev'), (('',), "''")):
            with self.subTest(args):
                self.assert_refused(*args, words=words)

    def test_help_and_version(self):
        for args in (('--help',), ('-h',), ('--he',), ('--blockdev', 'nonsense', '--help'),
                     ('--help', '--version')):
            result = self.run_it(*args)
            self.assertEqual((result.returncode, result.stderr), (0, ''))
            self.assertIn('--blockdev', result.stdout)
        for args in (('--version',), ('-V',), ('--export', 'nonsense', '-V')):
            result = self.run_it(*args)
            self.assertEqual((result.returncode, result.stderr), (0, ''))
            self.assertTrue(result.stdout.startswith('wharfd '), result.stdout)
        self.assert_refused('--help', '--nope', words='--nope')

    def test_help_for_values(self):
        for option, value, words in (
                ('--blockdev', 'help', ('file', 'raw', 'null-co')),
                ('--blockdev', 'file,help', ('filename=', 'node-name=', 'cache.direct=')),
                ('--blockdev', 'driver=raw,help', ('offset=', 'size=')),
                ('--export', 'help', ('fuse', 'nbd')), ('--export', 'fuse,help', ('mountpoint=', 'growable=')),
                ('--object', 'help', ('iothread',)), ('--object', 'iothread,help', ('poll-max-ns=',)),
                ('--chardev', 'help', ('socket', 'stdio')), ('--chardev', 'socket,help', ('path=', 'wait=')),
                ('--monitor', 'help', ('mode=', 'path=')),
                ('--nbd-server', 'help', ('addr.type=inet|unix', 'addr.path=<str> (required; with addr.type=unix)',
                                          'addr.ipv4=on|off (with addr.type=inet)')),
                ('--blockdev', 'raw,help', ('driver=raw\n',)),
                ('--blockdev', 'nbd,help', ('server.path=', 'server.port=', "export=<str> (default: '')")),
                ('--export', 'fuse,help', ('follows from it:\n        - Statistics',)),
                ('--export', 'help', ('fuse\n', 'vduse-blk (not in this build)\n')),
                ('-T', 'help', ('debug',)), ('--blockdev', '?', ('file',))):
            with self.subTest((option, value)):
                result = self.run_it(option, value)
                self.assertEqual((result.returncode, result.stderr), (0, ''))
                for word in words:
                    self.assertIn(word, result.stdout)
        for option in ('--blockdev', '--object', '--export', '--chardev'):
            self.assert_refused(option, 'nope,help', words=f"{option} nope,help: there is no 'nope'; '{option} help'")

    def test_values_are_checked_before_anything_happens(self):
        path = self.path('sock')
        message = self.assert_refused('--monitor', f'path={path}', '--blockdev', 'nope,node-name=n',
                                      words='nope')
        self.assertIn('--blockdev nope,node-name=n: ', message)

    def test_nothing_to_do(self):
        daemon = self.wharfd(qmp=False)
        wait_until(lambda: self.catches(daemon.pid, signal.SIGTERM))
        daemon.terminate()

    def test_equals_abbreviations_and_json(self):
        daemon = self.wharfd(
            f'--blockdev=driver=file,node-name=a,filename={self.image}',
            '--block', json.dumps({'driver': 'raw', 'node-name': 'b', 'file': 'a', 'offset': 512}),
            '--obj', '{"qom-type": "iothread", "id": "t"}',
            '--chard=' + json.dumps({'backend': 'socket', 'id': 'j', 'path': self.path('j'),
                                     'server': True, 'wait': False}),
            '--mon', '{"chardev": "j", "pretty": true}')
        names = {n['node-name'] for n in daemon.qmp.cmd('query-named-block-nodes')}
        self.assertEqual(names, {'a', 'b'})
        with daemon.raw_client(self.path('j')) as client:
            self.assertIn(b'\r\n    "QMP"', client.recv(4096))

    def test_key_value(self):
        path = self.make_file('a,b=c', 4096)
        daemon = self.wharfd(
            '--blockdev', 'file,node-name=f,read-only=yes,cache.direct=off,cache.no-flush=true,'
            f'filename=wrong,filename={path.replace(",", ",,")},',
            '--blockdev', 'null-co,node-name=n,size=64k', '--blockdev', 'null-co,node-name=m,size=0x200',
            '--blockdev', 'raw,node-name=r,file.driver=null-co,file.size=1M')
        nodes = {n['node-name']: n for n in daemon.qmp.cmd('query-named-block-nodes')}
        self.assertEqual((nodes['f']['file'], nodes['f']['ro']), (path, True))
        self.assertEqual(nodes['f']['cache'], {'writeback': True, 'direct': False, 'no-flush': True})
        self.assertEqual(nodes['n']['image']['virtual-size'], 65536)
        self.assertEqual(nodes['m']['image']['virtual-size'], 512)
        self.assertEqual(nodes['r']['image']['virtual-size'], 1 << 20)

    def test_wrong_values(self):
        image = self.image
        for option, value, words in (
                ('--blockdev', '', 'driver'), ('--blockdev', 'nope', 'nope'),
                ('--blockdev', f'file,filename={image}', 'node-name'),
                ('--blockdev', f'file,node-name=1,filename={image}', '1'),
                ('--blockdev', 'file,node-name=n', 'filename'),
                ('--blockdev', f'file,node-name=n,filename={image}x', image + 'x'),
                ('--blockdev', f'file,node-name=n,filename={image},read-only', 'read-only'),
                ('--blockdev', f'file,node-name=n,filename={image},read-only=1', 'read-only'),
                ('--blockdev', f'file,node-name=n,filename={image},cache=x,cache.direct=on', 'cache'),
                ('--blockdev', 'null-co,node-name=n,size=1x', 'size'),
                ('--blockdev', 'null-co,node-name=n,size=-1', 'size'),
                ('--blockdev', 'raw,node-name=n', 'file'), ('--blockdev', 'raw,node-name=n,file=m', 'm'),
                ('--blockdev', '{"driver": "null-co"', ''), ('--blockdev', '{"driver": 5}', 'driver'),
                ('--blockdev', '{"driver": "null-co", "node-name": "n", "size": "1"}', 'size'),
                ('--blockdev', '{"driver": "null-co", "node-name": "n"} x', ''),
                ('--blockdev', ' {"driver": "null-co", "node-name": "n"}', ''),
                ('--export', 'fuse', 'id'), ('--export', 'nope,id=e', 'nope'),
                ('--export', 'fuse,id=e,node-name=n', 'mountpoint'),
                ('--export', 'fuse,id=e,node-name=n,mountpoint=/x,iothread.0=a,iothread.2=b', 'iothread'),
                ('--export', 'fuse,id=e,node-name=nope,mountpoint=/x', 'nope'),
                ('--object', 'iothread', 'id'), ('--object', 'iothread,id=', "''"),
                ('--object', 'iothread,id=t,poll-max-ns=-1', 'poll-max-ns'),
                ('--object', 'iothread,id=t,nope=1', 'nope'),
                ('--monitor', 'c', "'c'"), ('--monitor', '', ''), ('--monitor', 'c,mode=readline', 'readline'),
                ('--monitor', f'c,path={image}.sock', 'chardev'), ('--monitor', 'path=', ''),
                ('--monitor', f'path={image}.sock,socket-mode=9', 'octal'),
                ('--monitor', f'path={image}.sock,id=0', '0'), ('--monitor', f'path={"x" * 108}', '107'),
                ('--nbd-server', f'addr.type=unix,addr.path={image}/nbd', 'NBD server'),
                ('--nbd-server', 'addr.type=vsock,addr.cid=2,addr.port=1', 'vsock'),
                ('--nbd-server', 'addr.type=fd,addr.str=nope', 'nope'), ('--nbd-server', 'addr.type=nope', ''),
                ('--log', 'loud', 'loud'), ('--log', 'format=xml', 'xml'),
                ('--log', 'nope=1', 'nope'), ('--log', 'file=/no/such/dir/log', '/no/such/dir/log'),
                ('--aio', 'threads', 'io_uring'), ('--pidfile', '', ''),
                ('--pidfile', '/no/such/dir/pid', '/no/such/dir/pid'), ('--pidfile', '.', '')):
            with self.subTest((option, value)):
                self.assert_refused(option, value, words=words)

    def test_exports_of_other_types_are_refused(self):
        for options in ('nbd', 'vhost-user-blk,addr.type=unix,addr.path=/x', 'vduse-blk,name=x'):
            message = self.assert_refused('--blockdev', 'null-co,node-name=n',
                                          '--export', options + ',id=e,node-name=n')
            self.assertIn(options.partition(',')[0], message)


class Order(CommandLine):
    @fuse_test
    def test_any_order(self):
        point = self.mountpoint()
        options = [('--monitor', 'c'),
                   ('--export', f'fuse,id=e,node-name=top,mountpoint={point},iothread=t'),
                   ('--blockdev', 'raw,node-name=top,file=middle'),
                   ('--blockdev', '{"driver": "raw", "node-name": "middle", "file": "low"}'),
                   ('--chardev', f'socket,id=c,path={self.path("c")},server=on,wait=off'),
                   ('--blockdev', f'file,node-name=low,filename={self.image}'),
                   ('--object', 'iothread,id=t')]
        for order in (options, options[::-1], options[3:] + options[:3]):
            daemon = self.wharfd(*[word for option in order for word in option])
            with QmpClient(self.path('c')) as client:
                self.assertEqual([e['id'] for e in client.cmd('query-block-exports')], ['e'])
            self.assertEqual(self.fs().read_file(point, 0, 7), b'content')
            daemon.terminate()

    def test_given_order_stays_where_it_works(self):
        daemon = self.wharfd('--blockdev', 'null-co,node-name=z', '--blockdev', 'null-co,node-name=a',
                             '--blockdev', 'null-co,node-name=m')
        names = [n['node-name'] for n in daemon.qmp.cmd('query-named-block-nodes')]
        self.assertEqual(names, ['m', 'a', 'z'])

    def test_circle(self):
        self.assert_refused('--blockdev', 'raw,node-name=a,file=b', '--blockdev', 'raw,node-name=b,file=a')
        self.assert_refused('--blockdev', 'raw,node-name=a,file=a')

    def test_name_that_looks_like_a_file(self):
        """A file name that is a node's name, too, is no reference to it."""
        os.rename(self.image, self.path('top'))
        daemon = self.wharfd('--blockdev', 'file,node-name=low,filename=top',
                             '--blockdev', 'raw,node-name=top,file=low', cwd=self.dir)
        self.assertEqual(len(daemon.qmp.cmd('query-named-block-nodes')), 2)

    def test_same_name_twice(self):
        for option in (('--blockdev', 'null-co,node-name=x'), ('--object', 'iothread,id=x'),
                       ('--chardev', f'socket,id=x,path={self.path("x")},server=on,wait=off')):
            self.assert_refused(*option, *option, words='x')
        self.assert_refused('--object', 'iothread,id=x', '--monitor', f'path={self.path("x")},id=x', words="'x'")


class FailedStarts(CommandLine):
    @fuse_test
    def test_leave_nothing(self):
        points = [self.mountpoint(f'mnt{i}') for i in range(2)]
        self.assert_refused(
            '--object', 'iothread,id=t', '--monitor', f'path={self.path("rpc")},mode=jsonrpc',
            '--chardev', f'socket,id=c,path={self.path("qmp")},server=on,wait=off', '--monitor', 'c',
            '--blockdev', f'file,node-name=n,filename={self.image}',
            '--export', f'fuse,id=e0,node-name=n,mountpoint={points[0]},iothread=t',
            '--export', f'fuse,id=e1,node-name=n,mountpoint={points[1]},writable=on',
            '--export', f'fuse,id=e2,node-name=n,mountpoint={self.dir}',
            '--pidfile', self.path('pid'), words=('--export fuse,id=e2', self.dir))

    def test_of_the_pidfile(self):
        self.assert_refused('--monitor', f'path={self.path("rpc")}', '--pidfile', self.image, words='img')
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(7), b'content')


class Chardevs(CommandLine):
    def spell(self, options):
        return f'socket,id=c,{options}'

    def test_sockets_get_their_mode(self):
        for extra, mode in (('', 0o600), (',mode=0660', 0o660), (',mode=777', 0o777)):
            daemon = self.wharfd('--chardev', self.spell(f'path={self.path("c")},server=on,wait=off{extra}'),
                                 '--monitor', 'c', umask=0o027)
            self.assertEqual(stat.S_IMODE(os.stat(self.path('c')).st_mode), mode)
            daemon.terminate()
            self.assertFalse(os.path.exists(self.path('c')))

    def test_short_booleans(self):
        daemon = self.wharfd('--chardev', self.spell(f'path={self.path("c")},server,nowait'), '--monitor', 'c')
        with QmpClient(self.path('c')) as client:
            client.cmd('query-version')
        daemon.terminate()

    def test_commas_in_paths(self):
        for name in ('a,b', 'server', 'x,server,nowait'):
            path = self.path(name)
            daemon = self.wharfd('--chardev', self.spell(f'path={path.replace(",", ",,")},server=on,wait=off'),
                                 '--monitor', 'c')
            with QmpClient(path) as client:
                client.cmd('query-version')
            daemon.terminate()

    def test_abstract(self):
        for tight in ('on', 'off'):
            name = f'wharf-{os.getpid()}-{tight}'
            daemon = self.wharfd('--chardev', self.spell(
                f'path={name},abstract=on,tight={tight},server=on,wait=off'), '--monitor', 'c')
            address = b'\0' + name.encode()
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address if tight == 'on' else address.ljust(108, b'\0'))
            with QmpClient(sock=sock) as client:
                client.cmd('query-version')
            daemon.terminate()

    def test_tcp(self):
        daemon = self.wharfd('--chardev', self.spell('host=127.0.0.1,port=0,server=on,wait=off,nodelay=on'),
                             '--monitor', 'c')
        where = [c for c in daemon.qmp.cmd('query-chardev') if c['label'] == 'c'][0]['filename']
        port = int(where.partition(',')[0].rpartition(':')[2])
        with QmpClient(sock=socket.create_connection(('127.0.0.1', port))) as client:
            client.send_raw(b'{"execute":"quit"}\n')
            self.assertEqual(client.read_reply(), {'return': {}})
            client.sock.settimeout(TIMEOUT)
            self.assertEqual(client.sock.recv(1), b'')
        self.assertEqual(daemon.wait(), 0)

    def test_inherited_listener(self):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path('mine'))
            listener.listen()
            daemon = self.wharfd('--chardev', self.spell(f'fd={listener.fileno()},server=on,wait=off'),
                                 '--monitor', 'c', pass_fds=[listener.fileno()])
            with QmpClient(self.path('mine')) as client:
                client.cmd('query-version')
            daemon.terminate()
            self.assertTrue(os.path.exists(self.path('mine')))

    def test_inherited_connection(self):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                daemon = self.wharfd('--chardev', self.spell(f'fd={theirs.fileno()}'), '--monitor', 'c',
                                     pass_fds=[theirs.fileno()])
            with QmpClient(sock=ours) as client:
                client.cmd('query-version')
            daemon.terminate()

    def test_connects(self):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path('mine'))
            listener.listen()
            listener.settimeout(TIMEOUT)
            daemon = self.wharfd('--chardev', self.spell(f'path={self.path("mine")}'), '--monitor', 'c')
            with QmpClient(sock=listener.accept()[0]) as client:
                client.cmd('query-version')
            self.assertIn('qemu', daemon.qmp.cmd('query-version'))

    def test_reconnects(self):
        daemon = self.wharfd('--chardev', self.spell(f'path={self.path("mine")},reconnect-ms=20'),
                             '--monitor', 'c')
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(self.path('mine'))
                listener.listen()
                listener.settimeout(TIMEOUT)
                for _ in range(3):
                    with QmpClient(sock=listener.accept()[0]) as client:
                        client.cmd('query-version')
            os.unlink(self.path('mine'))
        daemon.terminate()

    def test_wait(self):
        path = self.path('c')
        daemon = self.wharfd('--chardev', self.spell(f'path={path},server=on'), '--monitor', 'c',
                             '--blockdev', 'null-co,node-name=later', qmp=False)
        daemon.wait_log(path)
        with daemon.raw_client(path) as client:
            self.assertIn(b'QMP', client.recv(4096))
            client.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-named-block-nodes"}')
            data = b''
            while data.count(b'\n') < 2:
                data += client.recv(65536)
            self.assertIn(b'later', data)
        daemon.terminate()

    def test_signal_while_waiting(self):
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            daemon = self.wharfd('--chardev', self.spell(f'path={self.path("c")},server=on'),
                                 '--monitor', 'c', qmp=False)
            daemon.wait_log(self.path('c'))
            daemon.terminate(sig)
            self.assertFalse(os.path.exists(self.path('c')))

    def test_wrong(self):
        for options in ('', 'server=on', f'path={self.path("s")},fd=3,server=on', 'host=localhost,server=on',
                        'port=5,server=on', f'path={self.path("s")},host=x,port=1,server=on',
                        'fd=x,server=on', 'fd=0,server=on', 'fd=99,server=on', 'fd=1',
                        f'path={"x" * 108},server=on', 'path=/no/such/dir/sock,server=on',
                        f'path={self.path("s")},server=on,reconnect=1', f'path={self.path("s")},nope=1',
                        f'path={self.path("s")},server=on,reconnect-ms=5', f'path={self.path("s")}',
                        f'path={self.path("s")},wait=on', f'path={self.path("s")},mode=0600',
                        f'path={self.path("s")},server=on,mode=rw', 'path=x,abstract=on,mode=0600,server=on',
                        f'path={self.path("s")},server=maybe', 'host=::1,port=0,ipv4=off,ipv6=off,server=on',
                        f'path={self.path("s")},ipv4=on,server=on', 'fd=3,abstract=on,server=on',
                        'host=localhost,port=65536,server=on', 'host=localhost,port=4294967296,server=on',
                        'host=localhost,port=,server=on', 'host=localhost,port=-1,server=on',
                        'host=localhost,port=no-such,server=on'):
            with self.subTest(options):
                self.assert_refused('--chardev', self.spell(options))
        for value in ('socket,server=on', 'socket,id=0,path=x,server=on', 'file,id=c,path=x', 'nope,id=c',
                      'id=c', 'stdio', 'stdio,id=c,path=x'):
            with self.subTest(value):
                self.assert_refused('--chardev', value)
        self.assert_refused('--chardev', 'stdio,id=a', '--chardev', 'stdio,id=b', words="'b'")
        self.assert_refused('--chardev', 'stdio,id=a', '--monitor', 'a', '--monitor', 'a', words="'a'")

    def test_places_that_are_taken(self):
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(self.path('live'))
            live.listen()
            os.symlink('nowhere', self.path('link'))
            for path in (self.image, self.path('live'), self.path('link'), self.dir):
                for option in (('--monitor', f'path={path}'),
                               ('--chardev', self.spell(f'path={path},server=on,wait=off'))):
                    with self.subTest(option):
                        self.assert_refused(*option, words=path)
            with open(self.image, 'rb') as f:
                self.assertEqual(f.read(7), b'content')
        # Nobody listens there any more.
        daemon = self.wharfd('--monitor', f'path={self.path("live")}')
        with QmpClient(self.path('live')) as client:
            client.cmd('query-version')
        daemon.kill()
        self.assertTrue(os.path.exists(self.path('live')))
        self.wharfd('--monitor', f'path={self.path("live")}').terminate()

    def test_what_took_our_place_stays(self):
        daemon = self.wharfd('--monitor', f'path={self.path("s")}')
        os.unlink(self.path('s'))
        self.make_file('s', content=b'new')
        daemon.terminate()
        with open(self.path('s'), 'rb') as f:
            self.assertEqual(f.read(), b'new')

    def test_many_monitors_on_one_chardev(self):
        self.assert_refused('--chardev', self.spell(f'path={self.path("s")},server=on,wait=off'),
                            '--monitor', 'c', '--monitor', 'c', words="'c'")


class Stdio(CommandLine):
    def start(self, *args):
        process = subprocess.Popen([self.binary, '--chardev', 'stdio,id=s', '--monitor', 's', *args],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.dir)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        return process

    def test_session(self):
        process = self.start()
        self.assertIn('QMP', json.loads(process.stdout.readline()))
        process.stdin.write(b'{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}')
        process.stdin.flush()
        self.assertEqual(json.loads(process.stdout.readline()), {'return': {}})
        self.assertEqual(json.loads(process.stdout.readline())['id'], 1)
        process.stdin.write(b'{"execute":"quit"}\n')
        process.stdin.flush()
        self.assertEqual(json.loads(process.stdout.readline()), {'return': {}})
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_end_of_input_does_not_end_it(self):
        process = self.start('--monitor', f'path={self.path("s")}')
        process.stdin.write(b'{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}')
        process.stdin.close()
        self.assertEqual(process.stdout.readline().count(b'QMP'), 1)
        process.stdout.readline()
        self.assertEqual(json.loads(process.stdout.readline())['id'], 1)
        with QmpClient(self.path('s')) as client:
            client.cmd('query-version')
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_files_and_null(self):
        commands = self.make_file('in', content=b'{"execute":"qmp_capabilities"}'
                                  b'{"execute":"query-version","id":1}{"execute":"quit"}')
        for target in (self.path('out'), '/dev/null'):
            with open(commands, 'rb') as stdin, open(target, 'wb') as stdout:
                result = subprocess.run([self.binary, '--chardev', 'stdio,id=s', '--monitor', 's'],
                                        stdin=stdin, stdout=stdout, timeout=TIMEOUT, check=False)
            self.assertEqual(result.returncode, 0)
        with open(self.path('out'), 'rb') as f:
            self.assertEqual(f.read().count(b'\r\n'), 4)

    def test_not_with_daemonize(self):
        self.assert_refused('--chardev', 'stdio,id=s', '--daemonize', words='--daemonize')


class Process(CommandLine):
    def daemonize(self, *args):
        """Start one in the background; returns its process id. Ended with the test."""
        pidfile = self.path('pid')
        result = self.run_it('--daemonize', '--pidfile', 'pid', *args)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(pidfile, encoding='ascii') as f:
            text = f.read()
        self.assertRegex(text, r'^\d+\n$')
        pid = int(text)
        self.addCleanup(self.end, pid)
        return pid

    def end(self, pid, sig=signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
        wait_until(lambda: not os.path.exists(f'/proc/{pid}') or self.state(pid) == 'Z',
                   what='the daemon to end')

    @staticmethod
    def state(pid):
        try:
            with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
                return f.read().rpartition(')')[2].split()[0]
        except FileNotFoundError:
            return 'Z'

    def test_background(self):
        pid = self.daemonize('--monitor', 'path=sock', '--log', 'file=log')
        self.assertEqual(os.readlink(f'/proc/{pid}/cwd'), '/')
        for fd in range(3):
            self.assertEqual(os.readlink(f'/proc/{pid}/fd/{fd}'), '/dev/null')
        with open(f'/proc/{pid}/status', encoding='utf-8') as f:
            status = dict(line.split(':\t', 1) for line in f)
        self.assertEqual(int(status['Umask'], 8), 0o027)
        self.assertEqual(os.getsid(pid) == os.getsid(0), False)
        self.assertEqual(stat.S_IMODE(os.stat(self.path('pid')).st_mode), 0o600)
        with QmpClient(self.path('sock')) as client:
            client.cmd('query-version')
        self.end(pid)
        # Relative names are removed, too, though the daemon's directory was another one.
        self.assertEqual(sorted(os.listdir(self.dir)), ['img', 'log'])

    def test_closed_standard_descriptors_are_filled(self):
        def close_all():
            for fd in range(3):
                os.close(fd)
        for args in ((), ('--daemonize',)):
            daemon = subprocess.Popen([self.binary, '--pidfile', 'pid', *args], cwd=self.dir,
                                      preexec_fn=close_all)
            self.addCleanup(daemon.wait)
            self.addCleanup(daemon.kill)
            if args:
                self.assertEqual(daemon.wait(TIMEOUT), 0)
            path = self.path('pid')
            wait_until(lambda: os.path.exists(path) and os.path.getsize(path) > 0)
            with open(path, encoding='ascii') as f:
                pid = int(f.read())
            for fd in range(3):
                self.assertEqual(os.readlink(f'/proc/{pid}/fd/{fd}'), '/dev/null')
            self.end(pid)

    @fuse_test
    def test_relative_image_and_mountpoint(self):
        self.mountpoint('mnt')
        pid = self.daemonize('--blockdev', 'file,node-name=n,filename=img',
                             '--export', 'fuse,id=e,node-name=n,mountpoint=mnt')
        self.assertEqual(self.fs().read_file(self.path('mnt'), 0, 7), b'content')
        self.end(pid)
        self.assertFalse(self.mounted(self.path('mnt')))

    def test_few_descriptors(self):
        for limit in range(3, 24):
            with self.subTest(limit=limit):
                done = run('prlimit', f'--nofile={limit}', self.binary, '--object', 'iothread,id=a',
                           '--blockdev', f'file,node-name=n,filename={self.image}',
                           '--blockdev', 'file,node-name=nope,filename=/nope', check=False)
                if done.returncode != 127:  # the program itself needs some to be loaded
                    self.assertEqual(done.returncode, 1)
                    self.assertRegex(done.stderr, 'descriptor|Too many open files|/nope')

    def test_failure_is_told_by_the_parent(self):
        self.assert_refused('--daemonize', '--pidfile', 'pid', '--monitor', 'path=sock',
                            '--blockdev', 'file,node-name=n,filename=nope', words='nope')

    def test_start_in_the_background_is_given_up(self):
        """Whoever waits for it is interrupted, or killed: then the daemon goes, too."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            with self.subTest(sig=sig):
                path = self.path(f'waiting-{int(sig)}')
                daemon = self.wharfd(
                    '--daemonize', '--chardev', f'socket,id=w,path={path},server=on', '--monitor', 'w',
                    qmp=False, wait=False)
                daemon.wait_log('waiting for a client')
                os.kill(daemon.pid, sig)
                self.assertEqual(daemon.wait(), -sig)
                wait_until(lambda: not os.path.exists(path), TIMEOUT, 'the daemon to end')

    def test_pidfile(self):
        daemon = self.wharfd('--pidfile', 'pid', cwd=self.dir)
        wait_until(lambda: os.path.exists(self.path('pid')) and os.path.getsize(self.path('pid')))
        with open(self.path('pid'), encoding='ascii') as f:
            self.assertEqual(f.read(), f'{daemon.pid}\n')
        self.assert_refused('--pidfile', 'pid', words='pid')
        with open(self.path('pid'), encoding='ascii') as f:
            self.assertEqual(f.read(), f'{daemon.pid}\n')
        daemon.terminate()
        self.assertFalse(os.path.exists(self.path('pid')))

    def test_pidfile_last_one_wins(self):
        daemon = self.wharfd('--pidfile', self.path('one'), '--pidfile', self.path('two'))
        wait_until(lambda: os.path.exists(self.path('two')))
        self.assertFalse(os.path.exists(self.path('one')))
        daemon.terminate()

    def test_stale_pidfile(self):
        for content in (b'', b'12345\n', b'1'):
            self.make_file('pid', content=content)
            daemon = self.wharfd('--pidfile', self.path('pid'))
            wait_until(lambda: open(self.path('pid'), 'rb').read() == b'%d\n' % daemon.pid)
            daemon.terminate()

    def test_pidfile_that_somebody_replaced_stays(self):
        daemon = self.wharfd('--pidfile', self.path('pid'))
        wait_until(lambda: os.path.exists(self.path('pid')))
        os.unlink(self.path('pid'))
        self.make_file('pid', content=b'other')
        daemon.terminate()
        self.assertTrue(os.path.exists(self.path('pid')))

    @fuse_test
    def test_signals(self):
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            daemon = self.wharfd()
            point = self.mountpoint()
            self.add_file_export(daemon, self.image, point)
            for ignored in (signal.SIGPIPE, signal.SIGUSR1):
                os.kill(daemon.pid, ignored)
            self.assertIn('qemu', daemon.qmp.cmd('query-version'))
            os.kill(daemon.pid, sig)
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.assertIsNone(daemon.qmp.read())
            self.assertEqual(daemon.wait(), 0)
            self.assertFalse(self.mounted(point))
            self.assertFalse(os.path.exists(daemon.qmp_path))

    def test_signal_that_comes_twice(self):
        """timeout(1) tells its child, and then the group that it is in, which is no second wish."""
        for _ in range(5):
            path = self.path('qmp')
            with subprocess.Popen(['timeout', str(TIMEOUT), self.binary, '--object', 'iothread,id=a', '--monitor',
                                   f'path={path}'], stderr=subprocess.PIPE, start_new_session=True) as process:
                wait_until(lambda: listens_at(path))
                process.terminate()  # which has it do what it does when the time is over
                self.assertEqual((process.wait(TIMEOUT), process.stderr.read()), (0, b''))
            self.assertFalse(os.path.exists(path))

    def test_second_signal_ends_it_at_once(self):
        # It waits at its end for a client that does not read.
        daemon = self.wharfd('--pidfile', self.path('pid'))
        client = daemon.qmp_client()
        client.sock.settimeout(0.5)
        with contextlib.suppress(socket.timeout):
            while True:
                client.sock.sendall(b'{"execute":"query-qmp-schema"}' + b' ' * 4000)
        os.kill(daemon.pid, signal.SIGTERM)
        # Either signal may be taken before the other has been seen; send until it has ended.
        while daemon.process.poll() is None:
            os.kill(daemon.pid, signal.SIGTERM)
            time.sleep(0.01)
        self.assertIn(daemon.wait(), (0, 1))
        self.assertFalse(os.path.exists(daemon.qmp_path))
        self.assertFalse(os.path.exists(self.path('pid')))

    @fuse_test
    def test_second_signal_leaves_no_mount(self):
        daemon, point = self.wharfd(), self.mountpoint()
        # A request that does not end, so that the first signal waits for it.
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'd', 'image': {'driver': 'null-co', 'size': 1 << 20},
            'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': 3600 * 10**9}]})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'd', 'mountpoint': point})
        hanging, idle = self.fs(), self.fs()
        fd = idle.open(point, os.O_RDONLY)
        hanging.start('read_file', point)
        wait_until(lambda: daemon.qmp.cmd('query-block-exports')[0]['in-flight'])
        while daemon.process.poll() is None:
            os.kill(daemon.pid, signal.SIGTERM)
            time.sleep(0.01)
        self.assertEqual(daemon.wait(), 1)
        wait_until(lambda: not self.mounted(point))
        with self.assertRaises(OSError) as caught:
            idle.pread(fd, 1, 0)
        # The kernel may be at ending the connection still.
        self.assertIn(caught.exception.errno, (errno.ENOTCONN, errno.ECONNABORTED))
        self.assertEqual(os.stat(point).st_size, 0)

    @fuse_test
    def test_command_that_hangs_does_not_keep_it(self):
        # Through /dev/fuse: over io_uring a request is delivered at once, and whoever waits for its
        # answer cannot be killed before it comes.
        below, daemon = self.wharfd(name='below'), self.wharfd()
        hanging, point = self.mountpoint('hanging'), self.mountpoint()
        self.add_file_export(below, self.image, hanging, transport='dev')
        self.add_file_export(daemon, self.make_file('other', 1 << 20), point)
        os.kill(below.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, below.pid, signal.SIGCONT)
        daemon.qmp_client().send({'execute': 'block-export-add', 'arguments': {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n0', 'mountpoint': hanging}})
        for _ in range(3):  # then the command has certainly begun
            daemon.qmp.cmd('query-version')
        os.kill(daemon.pid, signal.SIGTERM)
        self.assertEqual(daemon.wait(), 1)
        self.assertIn('did not end', daemon.log())
        self.assertFalse(self.mounted(point))
        self.assertFalse(os.path.exists(daemon.qmp_path))

    def requests_waiting(self, connection):
        """How many requests of clients wait in the kernel or are being served."""
        with open(os.path.join(self.fuse_control(), str(connection), 'waiting'), encoding='ascii') as f:
            return int(f.read())

    @fuse_test
    def test_start_that_hangs_does_not_keep_it(self):
        below = self.wharfd(name='below')
        hanging, point = self.mountpoint('hanging'), self.mountpoint()
        self.add_file_export(below, self.image, hanging, transport='dev')
        connection = below.qmp.cmd('query-block-exports')[0]['fuse']['connection']
        wait_until(lambda: self.requests_waiting(connection) == 0, what='it to be idle')
        os.kill(below.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, below.pid, signal.SIGCONT)
        monitor = self.path('monitor')
        daemon = self.wharfd('--pidfile', self.path('pid'),
                             '--chardev', f'socket,id=m,path={monitor},server=on,wait=off', '--monitor', 'm',
                             '--blockdev', f'file,node-name=f,filename={self.make_file("other", 1 << 20)}',
                             '--export', f'fuse,id=e,node-name=f,mountpoint={point}',
                             '--blockdev', f'file,node-name=g,filename={hanging}', qmp=False, wait=False)
        wait_until(lambda: self.requests_waiting(connection), what='the file to be looked at')
        self.assertTrue(self.mounted(point))
        self.assertTrue(os.path.exists(monitor))
        os.kill(daemon.pid, signal.SIGTERM)
        self.assertEqual(daemon.wait(), 1)
        self.assertIn(f'--blockdev file,node-name=g,filename={hanging}: this does not end', daemon.log())
        self.assertFalse(self.mounted(point))
        self.assertFalse(os.path.exists(monitor))
        self.assertFalse(os.path.exists(self.path('pid')))

    def test_service_manager(self):
        path = self.path('notify')
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(TIMEOUT)
            daemon = self.wharfd(env={'NOTIFY_SOCKET': path})
            self.assertEqual(manager.recv(100), b'READY=1')
            daemon.terminate()
            self.assertEqual(manager.recv(100), b'STOPPING=1')

    @fuse_test
    def test_exit_when_idle(self):
        points = [self.mountpoint(f'mnt{i}') for i in range(2)]
        daemon = self.wharfd('--exit-when-idle', '--blockdev', f'file,node-name=n,filename={self.image}',
                             '--export', f'fuse,id=e0,node-name=n,mountpoint={points[0]}',
                             '--export', f'fuse,id=e1,node-name=n,mountpoint={points[1]}')
        daemon.qmp.cmd('block-export-del', id='e0')
        self.assertIn('qemu', daemon.qmp.cmd('query-version'))
        daemon.qmp.send({'execute': 'block-export-del', 'arguments': {'id': 'e1'}})
        self.assertEqual(daemon.wait(), 0)

    @fuse_test
    def test_exit_when_idle_after_umount(self):
        self.need_root()
        point = self.mountpoint()
        daemon = self.wharfd('--exit-when-idle', '--blockdev', f'file,node-name=n,filename={self.image}',
                             '--export', f'fuse,id=e0,node-name=n,mountpoint={point}')
        run('umount', point)
        self.assertEqual(daemon.wait(), 0)


class Logging(CommandLine):
    def provoke(self, *args, said=True):
        """A daemon that says something: the info line of wait=on. Returns its log, on stderr and in a file."""
        path = self.path('c')
        daemon = self.wharfd('--chardev', f'socket,id=c,path={path},server=on', '--monitor', 'c', *args,
                             qmp=False)

        def logs():
            file = self.path('log')
            return daemon.log(), open(file, encoding='utf-8').read() if os.path.exists(file) else ''

        wait_until(lambda: 'waiting' in ''.join(logs()) if said else os.path.exists(path))
        daemon.terminate()
        return logs()

    def test_text(self):
        text, _ = self.provoke()
        self.assertRegex(text, r'(?m)^wharfd: waiting for a client on .*c')

    def test_levels(self):
        self.assertEqual(self.provoke('--log', 'warning', said=False)[0], '')
        self.assertEqual(self.provoke('--log', 'level=error', said=False)[0], '')

    def test_json(self):
        text, _ = self.provoke('--log', 'format=json')
        lines = [json.loads(line) for line in text.splitlines()]
        self.assertEqual(len(lines), 1)
        self.assertEqual(lines[0]['level'], 'notice')
        self.assertEqual(lines[0]['domain'], 'monitor')
        self.assertRegex(lines[0]['time'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$')
        self.assertIn('waiting', lines[0]['message'])

    def test_file(self):
        text, log = self.provoke('--log', f'file={self.path("log")}')
        self.assertEqual(text, '')
        self.assertIn('waiting', log)

    def test_failed_start_is_told_to_who_started_it(self):
        log = self.make_file('log')
        for mode in ((), ('--daemonize',)):
            self.assert_refused(*mode, '--log', f'file={log}', '--blockdev', 'file,node-name=n,filename=/nope',
                                words='/nope')
            with open(log, encoding='utf-8') as f:
                self.assertIn('/nope', f.read())
            os.truncate(log, 0)

    def test_trace(self):
        self.provoke('-T', 'qmp_*')
        self.provoke('--trace', 'enable=nope')

    def test_error_as_json(self):
        result = self.run_it('--log', 'format=json', '--monitor', 'nope')
        self.assertEqual(result.returncode, 1)
        line = json.loads(result.stderr)
        self.assertEqual(line['level'], 'error')
        self.assertIn('--monitor nope', line['message'])

    def test_nobody_reads(self):
        """A full pipe on stderr stops nothing."""
        r, w = os.pipe()
        self.addCleanup(os.close, r)
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(w, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(w, b'x' * 4096)
        os.set_blocking(w, True)
        path = self.path('c')
        process = subprocess.Popen([self.binary, '--chardev', f'socket,id=c,path={path},server=on',
                                    '--monitor', 'c', '--log', 'debug'], stderr=w)
        os.close(w)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_until(lambda: os.path.exists(path))
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)


class Backends(CommandLine):
    def test_aio(self):
        for backend in ('epoll', 'auto'):
            daemon = self.wharfd('--aio', backend, '--blockdev', f'file,node-name=n,filename={self.image}')
            self.assertIn('qemu', daemon.qmp.cmd('query-version'))
            daemon.terminate()


if __name__ == '__main__':
    main()
