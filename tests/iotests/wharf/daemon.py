# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon under test."""

import os
import signal
import socket
import subprocess

from . import imagelocks
from . import transport as transports
from .clients import ClientError, JsonRpcClient, QmpClient
from .tools import TIMEOUT, complaint, listens_at, stacks, wait_until


class Daemon:
    """A running wharfd (or QSD), its log and its sockets. Made by IoTest.wharfd() and IoTest.qsd()."""

    def __init__(self, directory, binary, args=(), qmp=True, jsonrpc=False, name='wharfd', env=None,
                 prefix=(), cwd=None, wait=True, timeout=TIMEOUT, transport=None, greet_timeout=TIMEOUT,
                 **popen):
        self.name = name
        self.transport = transport  # for FUSE exports that name none
        self.timeout = timeout
        self.qmp_path = os.path.join(directory, f'{name}.qmp')
        self.jsonrpc_path = os.path.join(directory, f'{name}.rpc')
        self.log_path = os.path.join(directory, f'{name}.log')
        self._clients = []
        self._judged = False
        command = [*prefix, binary, *transports.add_to_words(args, transport)]
        if qmp:
            command += ['--chardev', f'socket,id={name}-qmp,path={self.qmp_path},server=on,wait=off',
                        '--monitor', f'chardev={name}-qmp']
        if jsonrpc:
            command += ['--monitor', f'path={self.jsonrpc_path},mode=jsonrpc']
        self.command = [os.fspath(c) for c in command]
        with open(self.log_path, 'ab') as log:
            self.process = subprocess.Popen(
                self.command, stdin=popen.pop('stdin', subprocess.DEVNULL),
                stdout=popen.pop('stdout', log), stderr=log, cwd=cwd,
                env={**os.environ, **(env or {})}, start_new_session=True, **popen)
        self.pid = self.process.pid
        if wait and (qmp or jsonrpc):
            self._wait_listening([p for p, on in ((self.qmp_path, qmp), (self.jsonrpc_path, jsonrpc)) if on])
        self.qmp = self._greet(greet_timeout) if wait and qmp else None
        if self.qmp and transport and '--export' in args:
            self.qmp.check_transport()

    def _greet(self, timeout):
        """Its first client, once it answers; it is killed where it does not within timeout seconds."""
        try:
            client = self.qmp_client(timeout=timeout)
        except ClientError:
            self.kill(wait_unlocked=False)
            raise
        client.timeout = TIMEOUT
        return client

    def _wait_listening(self, paths):
        def listening():
            if self.process.poll() is not None:
                self._judged = True
                raise AssertionError(f'{self.name} ended with {self.process.returncode} at its start\n'
                                     f'{self.command}\n{self.log()}')
            return all(map(listens_at, paths))
        # The last monitor is listening only once all options have been carried out.
        wait_until(listening, self.timeout, f'{self.name} to listen on {paths}')

    def qmp_client(self, **kwargs):
        """A further QMP client; closed with the daemon."""
        return self._keep(QmpClient(self.qmp_path, **kwargs))

    def jsonrpc_client(self, **kwargs):
        """A further JSON-RPC client; closed with the daemon."""
        return self._keep(JsonRpcClient(self.jsonrpc_path, **kwargs))

    def _keep(self, client):
        client.transport = self.transport
        self._clients.append(client)
        return client

    def raw_client(self, path=None):
        """A bare connected socket to the QMP (or another) path."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(self.timeout)
        client.connect(path or self.qmp_path)
        self._clients.append(client)
        return client

    def log(self):
        """All that the daemon has written to stderr (and stdout) so far."""
        with open(self.log_path, encoding='utf-8', errors='replace') as f:
            return f.read()

    def wait_log(self, text, timeout=TIMEOUT):
        """Wait until the log holds a text."""
        wait_until(lambda: text in self.log(), timeout, f'{text!r} in the log')

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout=None):
        """Wait for the end of the process; return its exit status. It hangs: show where, and kill it."""
        timeout = self.timeout if timeout is None else timeout
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            where = stacks(self.pid)
            self.kill(wait_unlocked=False)
            raise AssertionError(f'{self.name} did not end within {timeout} s\n{where}') from None
        self._judged = True
        return status

    def quit(self):
        """End it by the quit command; it must exit with 0 and without a sanitizer's complaint."""
        client = self.qmp_client() if self.qmp is None else self.qmp
        client.cmd('quit')
        self._expect_clean(self.wait())

    def terminate(self, sig=signal.SIGTERM):
        """End it by a signal; it must exit with 0 and without a sanitizer's complaint."""
        self.process.send_signal(sig)
        self._expect_clean(self.wait())

    def kill(self, wait_unlocked=True):
        """SIGKILL: the state that is left is the caller's affair.

        Waits until the kernel has ended what the daemon had begun, too, and with it its locks, so that
        others can have its images: not with wait_unlocked=False, as where they stay open anyway.
        """
        locked = imagelocks.locked_files(self.pid) if wait_unlocked else {}
        self._judged = True
        self.process.kill()
        self.process.wait(self.timeout)
        imagelocks.wait_unlocked(locked)

    def stop(self):
        """End it if it still runs, and judge how it ended. Called at the end of each test."""
        for client in self._clients:
            client.close()
        if self._judged:
            return
        if self.running():
            self.terminate()
        else:
            self._judged = True
            self._expect_clean(self.process.returncode)

    def _expect_clean(self, status):
        log = self.log()
        if status != 0 or complaint(log):
            raise AssertionError(f'{self.name} ended with status {status} {complaint(log)}\n{log}')
        if self.transport == transports.IO_URING:
            assert not any(words in log for words in transports.FALLBACKS), log

    # What it holds, for leak checks.

    def fds(self):
        """Its open descriptors: {fd: what it is}."""
        found = {}
        for fd in os.listdir(f'/proc/{self.pid}/fd'):
            try:
                found[int(fd)] = os.readlink(f'/proc/{self.pid}/fd/{fd}')
            except OSError:
                pass
        return found

    def threads(self):
        """The names of its threads."""
        names = []
        for task in os.listdir(f'/proc/{self.pid}/task'):
            try:
                with open(f'/proc/{self.pid}/task/{task}/comm', encoding='utf-8') as f:
                    names.append(f.read().strip())
            except OSError:
                pass
        return sorted(names)

    def children(self):
        """The pids of the processes that it has started."""
        pids = []
        for entry in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{entry}/stat', encoding='utf-8') as f:
                    parent = int(f.read().rpartition(')')[2].split()[1])
            except OSError:
                continue
            if parent == self.pid:
                pids.append(int(entry))
        return pids

    def rss(self):
        """Resident memory in bytes."""
        with open(f'/proc/{self.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def pinned(self):
        """Memory that the kernel holds in place for it, in bytes."""
        with open(f'/proc/{self.pid}/status', encoding='utf-8') as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith('VmPin'))

    def cpu_seconds(self):
        """Processor time used so far."""
        with open(f'/proc/{self.pid}/stat', encoding='utf-8') as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
