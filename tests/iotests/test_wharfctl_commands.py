# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl as a client of any command: arguments, answers, help, and what it says when it cannot."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading

from wharf import *
from wharf.ctl import REFUSED, UNREACHABLE, CtlTest

class Commands(CtlTest):
    def test_scalars_and_json(self):
        self.daemon()
        self.ctl('object-add', 'qom-type=iothread', 'id=io0', 'poll-max-ns=4k')
        self.assertEqual(self.ctl_json('qom-get', 'path=/objects/io0', 'property=poll-max-ns'), 4096)
        self.ctl('qom-set', 'path=/objects/io0', 'property=poll-max-ns', 'value=16')
        self.assertEqual(self.ctl('qom-get', 'path=/objects/io0', 'property=poll-max-ns').stdout, '16\n')
        self.ctl('qom-set', '{"path": "/objects/io0", "property": "poll-max-ns"}', 'value:=17')
        self.ctl('object-add', '-', input='{"qom-type": "iothread", "id": "io1"}\n')
        names = [o['name'] for o in self.ctl_json('qom-list', 'path=/objects')]
        self.assertIn('io1', names)

    def test_nodes(self):
        image = self.make_file('a=b,c d.img', 10 << 20)
        self.daemon()
        self.ctl('blockdev-add', 'driver=file', 'node-name=f', f'filename={image}', 'read-only=on',
                 'cache.no-flush=yes')
        self.ctl('blockdev-add', 'driver=raw', 'node-name=r', 'file=f', 'size=1M', 'offset=512',
                 'read-only=on')
        self.ctl('blockdev-add', 'driver=raw', 'node-name=q', 'read-only=true', 'file.driver=file',
                 f'file.filename={image}')
        nodes = {n['node-name']: n for n in self.ctl_json('query-named-block-nodes', 'flat=on')}
        self.assertEqual(nodes['r']['image']['virtual-size'], 1 << 20)
        self.assertTrue(nodes['f']['cache']['no-flush'])
        self.assertEqual(nodes['q']['file'], image)
        self.assertIn(image, self.ctl('query-named-block-nodes').stdout)
        self.assertEqual(self.ctl('blockdev-del', 'node-name=r').stdout, '')

    def test_list_of_objects(self):
        image = self.make_file('disk.img', 1 << 20)
        self.daemon()
        self.ctl('blockdev-add', 'driver=file', 'node-name=f', f'filename={image}')
        self.ctl('blockdev-reopen', 'options.0.driver=file', 'options.0.node-name=f',
                 f'options.0.filename={image}', 'options.0.read-only=on')
        nodes = self.ctl_json('query-named-block-nodes')
        self.assertTrue(nodes[0]['ro'])
        self.ctl('blockdev-reopen', 'options=[]')

    def test_wrong_arguments(self):
        """Refused before anything is sent, with what was meant."""
        self.daemon()
        for words, part in (
                (['blockdev-del'], "'node-name' (string) is missing"),
                (['blockdev-del', 'nodename=x'], "did you mean 'node-name'?"),
                (['blockdev-del', 'x'], 'key=value'),
                (['query-version', 'x=1'], 'nothing is taken'),
                (['blockdev-add', 'driver=flie'], "did you mean 'file'?"),
                (['blockdev-add', 'filename=x'], "without 'driver'"),
                (['block_resize', 'node-name=x', 'size=big'], "'size' is "),
                (['block-export-add', 'type=fuse', 'id=e', 'node-name=n', 'mountpoint=m', 'writable=1'],
                 "'writable' is on|off"),
                (['block-export-del', 'id=e', 'mode=sfae'], "did you mean 'safe'?"),
                (['blockdev-del', '{"node-name":'], 'no valid JSON'),
                (['blockdev-del', '-'], 'no argument'),
        ):
            with self.subTest(words=words):
                said = self.refused(*words)
                self.assertIn(part, said)
                self.assertIn(words[0], said)

    def test_refused_by_the_daemon(self):
        self.daemon()
        self.assertIn('nosuch', self.refused('blockdev-del', 'node-name=nosuch', status=REFUSED))
        said = self.refused('blockdev-add', '{"driver": "file", "filename": 5}', status=REFUSED)
        self.assertIn('filename', said)

    def test_unknown_command(self):
        self.daemon()
        self.assertIn("did you mean 'query-block-exports'?", self.refused('query-block-export'))
        self.assertIn("did you mean 'blockdev-add'?", self.refused('blockdev_add'))
        self.assertIn("did you mean 'mount'?", self.refused('muont'))
        self.assertIn('wharfctl help', self.refused('xyzzyxyzzy'))

    def test_options(self):
        self.daemon()
        self.assertIn("did you mean '--json'?", self.refused('--jsno', 'ls'))
        self.assertIn("did you mean '--json'?", self.refused('ls', '--jsno'))
        self.assertIn("needs a value", self.refused('ls', '--socket'))
        self.assertIn("unknown option '-z'", self.refused('query-version', '-z'))
        self.assertEqual(json.loads(self.ctl('query-block-exports', '--json').stdout), [])
        self.assertEqual(self.ctl('query-block-exports').stdout, '(none)\n')
        self.assertRegex(self.ctl('--version').stdout, r'^wharfctl \d+\.\d+\.\d+\n$')

    def test_help(self):
        self.daemon()
        general = self.ctl('help').stdout
        self.assertIn('query-named-block-nodes', general)
        self.assertIn('umount', general)
        self.assertEqual(self.ctl('mount', '--help').stdout, self.ctl('help', 'mount').stdout)
        self.assertIn('--writable', self.ctl('help', 'mount').stdout)
        export = self.ctl('help', 'block-export-add').stdout
        self.assertEqual(self.ctl('block-export-add', '--help').stdout, export)
        for part in ('node-name=string', '[writable=on|off]', 'with type=fuse:', 'mountpoint=string'):
            self.assertIn(part, export)
        self.assertIn('takes no arguments', self.ctl('help', 'query-version').stdout)
        self.assertIn("did you mean 'mount'?", self.refused('help', 'muont'))
        # Documentation and defaults come from the daemon, too.
        self.assertIn('(default: off)', export)
        self.assertIn("left at 'mountpoint'", export)
        self.assertIn("export's name (default: '')", self.ctl('help', 'blockdev-add').stdout)
        for command in self.ctl_json('query-commands'):
            text = self.ctl('help', command['name']).stdout
            self.assertIn(f'wharfctl {command["name"]}', text)

    def test_rpc_methods(self):
        self.daemon()
        self.assertIn('openrpc', self.ctl_json('rpc.discover'))

    def test_usage(self):
        self.daemon()
        self.assertIn('Usage: wharfctl', self.refused())
        self.assertIn('Usage: wharfctl', self.ctl('--help').stdout)
        self.assertIn('usage: wharfctl rm', self.refused('rm'))
        self.assertIn('usage: wharfctl mount', self.refused('mount', 'x'))
        self.assertIn('usage: wharfctl ls', self.refused('ls', 'x'))

    def test_quit(self):
        daemon = self.daemon()
        self.ctl('quit')
        self.assertEqual(daemon.wait(), 0)


class Manuals(CtlTest):
    """The manual pages tell of everything that the programs offer."""

    @staticmethod
    def manual(name):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', name)
        with open(path, encoding='utf-8') as f:
            return f.read().replace('\\-', '-')

    def test_wharfctl(self):
        page = self.manual('wharfctl.1')
        general = self.ctl('--help').stdout
        commands = re.findall(r'^  (\w+) {2,}', general.partition('Daily work')[2], re.MULTILINE)
        self.assertIn('umount', commands)
        for command in commands:
            self.assertRegex(page, rf'\n\.SS "?{command}\b')
            for option in re.findall(r'--[-\w]+', self.ctl(command, '--help').stdout):
                self.assertIn(option, page)

    def test_wharfd(self):
        page = self.manual('wharfd.1')
        usage = run(os.environ['WHARFD'], '--help').stdout
        options = set(re.findall(r'^ +(?:-\w, )?(--[-\w]+)', usage, re.MULTILINE))
        self.assertIn('--blockdev', options)
        for option in options:
            self.assertIn(option, page)
        drivers = run(os.environ['WHARFD'], '--blockdev', 'help').stdout
        for driver in re.findall(r'^  ([-\w]+)$', drivers, re.MULTILINE):
            self.assertIn(driver, page)


class Reaching(CtlTest):
    """Which socket, and what is said when nobody can be reached there."""

    def test_no_daemon(self):
        said = self.refused('query-version', status=UNREACHABLE)
        self.assertIn(self.socket, said)
        self.assertIn(f'wharfd --monitor path={self.socket},mode=jsonrpc', said)
        self.assertIn('no daemon', self.refused('help', 'blockdev-add', status=UNREACHABLE))

    def test_no_daemon_and_no_such_short_form(self):
        self.assertIn("did you mean 'ls'?", self.refused('lss'))

    def test_the_hint_works(self):
        """What is said to start a daemon starts one, also where the directory is missing."""
        env = {**self.env}
        done = self.wharfctl('query-version', env=env, check=False)
        hint = next(l for l in done.stderr.splitlines() if l.startswith('Start one with:'))
        command = hint.partition(':')[2].strip()
        self.assertIn(f'{self.runtime}/wharf/wharfd.sock', command)
        command = command.replace('wharfd --', f'exec {os.environ["WHARFD"]} --', 1)
        daemon = subprocess.Popen(['sh', '-c', command], stdin=subprocess.DEVNULL)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        wait_until(lambda: self.wharfctl('query-version', env=env, check=False).returncode == 0)
        self.wharfctl('quit', env=env)

    def test_by_option_variable_and_default(self):
        daemon = self.daemon()
        os.mkdir(f'{self.runtime}/wharf')
        for args, env in ((['-s', daemon.jsonrpc_path], {'WHARF_SOCKET': '/nonexistent'}),
                          ([f'--socket={daemon.jsonrpc_path}'], {}),
                          ([], {'WHARF_SOCKET': daemon.jsonrpc_path})):
            self.wharfctl(*args, 'query-version', env={**self.env, **env})
        os.symlink(daemon.jsonrpc_path, f'{self.runtime}/wharf/wharfd.sock')
        self.wharfctl('query-version', env=self.env)

    def test_not_a_socket(self):
        self.make_file('wharfd.rpc', content=b'x')
        self.assertIn('is not a socket', self.refused('ls', status=UNREACHABLE))

    def test_dead_socket(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.socket)
        said = self.refused('ls', status=UNREACHABLE)
        self.assertIn('its daemon has died', said)

    def test_too_long(self):
        said = self.refused('ls', sock='/' + 'x' * 200)
        self.assertIn('too long', said)

    def test_no_permission(self):
        self.need_root()
        self.daemon()
        setpriv = [find_tool('setpriv'), '--reuid=65534', '--regid=65534', '--clear-groups', '--']
        ctl = self.copy_for_all(os.environ['WHARFCTL'])
        done = run(*setpriv, ctl, '-s', self.socket, 'ls', check=False, env=self.env)
        self.assertEqual(done.returncode, UNREACHABLE)
        self.assertIn('no permission', done.stderr)
        self.assertIn("user 'root'", done.stderr)

    def serve(self, behave):
        """Somebody else who listens at the socket: behave(connection) runs for the first client."""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.socket)
        listener.listen()

        def work():
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=work)
        thread.start()
        self.addCleanup(thread.join)

    def test_not_a_daemon(self):
        def speak(connection):
            connection.sendall(b'SSH-2.0-OpenSSH_9.2\r\n\xff\xff{}}{')
            connection.recv(1 << 16)
        self.serve(speak)
        self.assertIn('no storage daemon', self.refused('query-version', status=UNREACHABLE))

    def test_speaks_something_else_in_json(self):
        def speak(connection):
            connection.recv(1 << 16)
            connection.sendall(b'{"hello": "world"}\n')
            connection.recv(1 << 16)
        self.serve(speak)
        self.assertIn('neither JSON-RPC nor QMP', self.refused('query-version', status=UNREACHABLE))

    def test_connection_lost(self):
        def speak(connection):
            connection.recv(1 << 16)
        self.serve(speak)
        self.assertIn('lost', self.refused('query-version', status=UNREACHABLE))

    @timeout(180)
    def test_silent(self):
        """Somebody who accepts and says nothing is not waited for for ever."""
        def speak(connection):
            while connection.recv(1 << 16):
                pass
        self.serve(speak)
        self.assertIn('does not answer', self.refused('query-version', status=UNREACHABLE))


class Envelopes(CtlTest):
    """The same over QMP, of this daemon and of qemu-storage-daemon."""

    def test_qmp(self):
        daemon = self.daemon()
        self.ctl('object-add', 'qom-type=iothread', 'id=io0', sock=daemon.qmp_path)
        self.assertIn('io0', self.ctl('qom-list', 'path=/objects', sock=daemon.qmp_path).stdout)
        said = self.refused('object-del', 'id=nosuch', status=REFUSED, sock=daemon.qmp_path)
        self.assertIn('nosuch', said)
        self.ctl('quit', sock=daemon.qmp_path)
        self.assertEqual(daemon.wait(), 0)

    def test_qsd(self):
        self.need_root()
        self.need_fuse()
        image = self.make_file('disk.img', 1 << 20)
        daemon = self.qsd()
        daemon.qmp.close()  # it serves one client at a time
        sock = daemon.qmp_path
        mnt = self.path('mnt')
        self.ctl('export', image, mnt, sock=sock)
        self.assertIn('disk', self.ctl('ls', sock=sock).stdout)
        self.assertIn('disk.node', self.ctl('graph', sock=sock).stdout)
        self.assertTrue(self.mounted(mnt))
        self.ctl('rm', 'disk', sock=sock)
        self.assertFalse(self.mounted(mnt))
        self.assertEqual(self.ctl_json('query-named-block-nodes', sock=sock), [])
        self.assertIn('mountpoint=string', self.ctl('help', 'block-export-add', sock=sock).stdout)
        self.ctl('quit', sock=sock)
        daemon.wait()


class Output(CtlTest):
    def test_nobody_reads(self):
        """A pipe that is closed early ends it silently, as it ends any program."""
        self.daemon()
        process = subprocess.Popen(
            [os.environ['WHARFCTL'], '-s', self.socket, '--json', 'query-qmp-schema'],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(TIMEOUT), -signal.SIGPIPE)
        self.assertEqual(said, b'')

    def test_full_disk(self):
        self.daemon()
        with open('/dev/full', 'w', encoding='utf-8') as full:
            done = subprocess.run([os.environ['WHARFCTL'], '-s', self.socket, 'query-version'],
                                  stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT,
                                  check=False)
        self.assertEqual(done.returncode, REFUSED)
        self.assertIn('cannot write the output: No space left on device', done.stderr)

    def on_terminal(self, *args, **env):
        """What is written to a terminal."""
        leader, follower = pty.openpty()
        process = subprocess.Popen([os.environ['WHARFCTL'], '-s', self.socket, *args], stdout=follower,
                                   env={**self.env, 'TERM': 'xterm', **env})
        os.close(follower)
        text = b''
        try:
            while True:
                data = os.read(leader, 1 << 16)
                if not data:
                    break
                text += data
        except OSError:  # the other side is closed
            pass
        os.close(leader)
        self.assertEqual(process.wait(TIMEOUT), 0)
        return text

    def test_emphasis(self):
        """Escape sequences on a terminal alone, and only where they are wanted."""
        self.daemon('--object', 'iothread,id=io0')
        words = ['qom-list', 'path=/objects']
        self.assertIn(b'\033[1m', self.on_terminal(*words))
        self.assertNotIn(b'\033', self.on_terminal(*words, NO_COLOR='1'))
        self.assertNotIn(b'\033', self.on_terminal(*words, TERM='dumb'))
        self.assertNotIn('\033', self.ctl(*words).stdout)

    def test_foreign_text_is_harmless(self):
        """Names with control characters cannot play tricks on the terminal."""
        image = self.make_file('evil\033[2J\n.img', 512)
        self.daemon()
        self.ctl('blockdev-add', 'driver=file', 'node-name=f', f'filename={image}')
        for words in (['query-named-block-nodes'], ['graph'], ['graph', '--dot']):
            text = self.ctl(*words).stdout
            self.assertNotIn('\033', text)
            self.assertIn('evil', text)
        nodes = self.ctl_json('query-named-block-nodes')
        self.assertEqual(nodes[0]['file'], image)


if __name__ == '__main__':
    main()
