# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything at once, at random, for a while: in the end nothing hangs or is left, every byte is right.

$WHARF_SOAK_SECONDS and $WHARF_SOAK_SEED say how long, and which random numbers; scripts/soak sets them.
"""

import contextlib
import errno
import itertools
import mmap
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

from wharf import *
from wharf import fs as fs_module
from wharf import nbd, tools, transport

KIB = 1 << 10
MIB = 1 << 20
SECONDS = float(os.environ.get('WHARF_SOAK_SECONDS') or 15)
PATIENCE = 90  # seconds without progress that count as hung

CUT_OFF = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)

CLIENTS = 3
REGION = 512 * KIB  # of an image, for a client
FIO_JOBS = 2
FIO_SIZE = MIB  # of an image, for a job of fio
SPARE = CLIENTS * REGION + FIO_JOBS * FIO_SIZE  # where nobody else writes, for what is done once
SOLID = SPARE + 64 * KIB  # the image never gets shorter than this
ELASTIC = MIB  # what its length varies by


class Region:
    """A part of an image that one client at a time writes, and what must be in it.

    Lies in memory that outlives the client. While an operation is under way its range holds old or new
    bytes; when it is cut off, whoever comes next looks which.
    """

    RECORD = struct.Struct('<QQQ')  # offset, length, seed of the new bytes; a length of 0 for none

    def __init__(self, offset):
        self.offset = offset
        self.bytes = mmap.mmap(-1, REGION)
        self._record = mmap.mmap(-1, self.RECORD.size)
        self.turns = mmap.mmap(-1, 8)

    @staticmethod
    def new_bytes(length, seed):
        return random.Random(seed).randbytes(length) if seed else bytes(length)

    def begin(self, offset, length, seed):
        self._record[:] = self.RECORD.pack(offset, length, seed)

    def end(self):
        offset, length, seed = self.RECORD.unpack(self._record[:])
        self.bytes[offset:offset + length] = self.new_bytes(length, seed)
        self.begin(0, 0, 0)

    def under_way(self):
        """Offset and length of what was begun and not ended."""
        return self.RECORD.unpack(self._record[:])[:2]

    def settle(self, found):
        """What was under way has led to these bytes."""
        offset, length, seed = self.RECORD.unpack(self._record[:])
        old, new = self.bytes[offset:offset + length], self.new_bytes(length, seed)
        for at in range(0, length, 512):
            got, *allowed = (b[at:at + 512] for b in (found, old, new))
            if got not in allowed and not all(g in pair for g, *pair in zip(got, *allowed)):
                raise AssertionError(f'neither old nor new bytes at {self.offset + offset + at}')
        self.bytes[offset:offset + length] = found
        self.begin(0, 0, 0)

    def count(self):
        self.turns[:] = struct.pack('<Q', self.progress() + 1)

    def progress(self):
        return struct.unpack('<Q', self.turns[:])[0]


class Client:
    """A child that reads, writes and compares its region, and comes back whenever it is cut off."""

    def __init__(self, region, path, image, stop, seed, log):
        self.region = region
        self.path = path
        self.image = image
        self.stop = stop
        self.random = random.Random(seed)
        self.below = os.stat(os.path.dirname(path)).st_dev
        self.fds = ()
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.run()
                status = 0
            except BaseException:
                with open(log, 'a', encoding='utf-8') as f:
                    traceback.print_exc(file=f)
            finally:
                os._exit(status)

    # What the test does with it

    def ended(self):
        if self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if done else None
        return self.status is not None

    def kill(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)

    # What it does

    def run(self):
        while not self.stop[0]:
            try:
                if self.open():
                    self.look_what_became_of_it()
                    self.work()
                else:
                    time.sleep(0.005)
            except OSError as e:
                if e.errno not in CUT_OFF:
                    raise
            self.close()

    def open(self):
        """Whether there is an export."""
        for flags in (0, os.O_DIRECT):
            self.fds = (*self.fds, os.open(self.path, os.O_RDWR | flags))
            # Without an export there is the file below, which does not know direct I/O as we do it.
            if os.fstat(self.fds[-1]).st_dev == self.below:
                return False
        return True

    def close(self):
        for fd in self.fds:
            try:
                os.close(fd)
            except OSError as e:
                if e.errno not in CUT_OFF:
                    raise
        self.fds = ()

    # A call that is cut off may have done a part; the next one tells why.

    def read(self, fd, offset, length):
        found = b''
        while len(found) < length:
            part = fs_module.pread_direct(fd, length - len(found), self.region.offset + offset + len(found))
            if not part:
                raise AssertionError(f'{self.path} ends at {self.region.offset + offset + len(found)}')
            found += part
        return found

    def write(self, fd, offset, data):
        done = 0
        while done < len(data):
            done += fs_module.pwrite_direct(fd, data[done:], self.region.offset + offset + done)

    def look_what_became_of_it(self):
        offset, length = self.region.under_way()
        if length:
            self.region.settle(self.read(self.fds[1], offset, length))

    def work(self):
        while not self.stop[0]:
            length = self.random.choice((1, 512, 4096, 4096, 4097, 16 * KIB, 64 * KIB, 200 * KIB))
            offset = self.random.randrange(REGION - length + 1)
            if self.random.random() < 0.5:
                offset &= ~4095
            kind = self.random.choice(('read', 'read', 'read', 'write', 'write', 'write', 'zero', 'sync'))
            getattr(self, f'do_{kind}')(offset, length)
            self.region.count()

    def do_read(self, offset, length):
        fd = self.random.choice(self.fds)
        found = self.read(fd, offset, length)
        if found != self.region.bytes[offset:offset + length]:
            self.fail(fd, offset, found)

    def fail(self, fd, offset, found):
        """Tell how the bytes are wrong: by now, directly, and in the image."""
        wanted = self.region.bytes[offset:offset + len(found)]
        wrong = [i for i, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1]]
        with open(self.image, 'rb') as f:
            stored = os.pread(f.fileno(), len(found), self.region.offset + offset)
        raise AssertionError(
            f'{len(wrong)} wrong bytes of {len(found)} from {self.path} at {self.region.offset + offset}, '
            f'the first at {self.region.offset + offset + wrong[0]}, the last at '
            f'{self.region.offset + offset + wrong[-1]}, zeros: {not any(found[i] for i in wrong)}; '
            f'direct I/O: {fd == self.fds[1]}; the image is right: {stored == wanted}; '
            f'right when read again, with the page cache: {self.read(self.fds[0], offset, len(found)) == wanted}, '
            f'directly: {self.read(self.fds[1], offset, len(found)) == wanted}')

    def do_write(self, offset, length):
        seed = self.random.randrange(1, 1 << 32)
        self.region.begin(offset, length, seed)
        self.write(self.random.choice(self.fds), offset, self.region.new_bytes(length, seed))
        self.region.end()

    def do_zero(self, offset, length):
        mode = self.random.choice((fs_module.FALLOC_PUNCH_HOLE, fs_module.FALLOC_ZERO_RANGE))
        self.region.begin(offset, length, 0)
        fs_module.fallocate(self.random.choice(self.fds), mode | fs_module.FALLOC_KEEP_SIZE,
                            self.region.offset + offset, length)
        self.region.end()

    def do_sync(self, *_):
        os.fsync(self.random.choice(self.fds))


class NbdClient(Client):
    """The same over two connections to an NBD export at a time, which must show the same."""

    def __init__(self, export, *args):
        self.export = export
        super().__init__(*args)

    def open(self):
        style = self.random.choice(((), (nbd.STRUCTURED_REPLY,), (nbd.EXTENDED_HEADERS,)))
        try:
            for _ in range(2):
                self.fds = (*self.fds, nbd.RawClient(self.path, timeout=PATIENCE))
                if not self.choose(self.fds[-1].greet(), style):
                    return False
        except (nbd.Closed, FileNotFoundError, ConnectionError):
            return False
        return True

    def choose(self, client, style):
        """Whether there is the export, for a client that has been greeted."""
        return all(client.result(option) == nbd.ACK for option in style) and \
            client.result(nbd.GO, nbd.info_data(self.export)) == nbd.ACK

    def close(self):
        for client in self.fds:
            client.close()
        self.fds = ()

    @staticmethod
    def done(function, *args, **kwargs):
        """The result of a request; one that is cut off looks as over FUSE."""
        try:
            return function(*args, **kwargs)
        except (nbd.Closed, ConnectionError):
            raise OSError(errno.ECONNABORTED, 'closed') from None
        except nbd.Refused as e:
            if e.error == nbd.ESHUTDOWN:
                raise OSError(errno.ECONNABORTED, 'shut down') from None
            raise

    def read(self, client, offset, length):
        return self.done(client.read, self.region.offset + offset, length)

    def change(self, client, command, offset, length=0, flags=0, payload=b''):
        error = self.done(client.error, command, offset, length, flags, payload)
        if error == nbd.ESHUTDOWN:
            raise OSError(errno.ECONNABORTED, 'shut down')
        if error:
            raise nbd.Refused(error)

    def write(self, client, offset, data):
        flags = self.random.choice((0, 0, nbd.FUA))
        self.change(client, nbd.WRITE, self.region.offset + offset, len(data), flags, data)

    def fail(self, client, offset, found):
        wanted = self.region.bytes[offset:offset + len(found)]
        wrong = [i for i, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1]]
        again = [self.read(one, offset, len(found)) == wanted for one in self.fds]
        raise AssertionError(f'{len(wrong)} wrong bytes of {len(found)} from {self.export}, the first at '
                             f'{self.region.offset + offset + wrong[0]}; right when read again: {again}')

    def do_zero(self, offset, length):
        self.region.begin(offset, length, 0)
        self.change(self.random.choice(self.fds), nbd.WRITE_ZEROES, self.region.offset + offset, length,
                    self.random.choice((0, nbd.NO_HOLE)))
        self.region.end()

    def do_sync(self, *_):
        self.change(self.random.choice(self.fds), nbd.FLUSH, 0)


class Station:
    """An image and its node, with an export that stays, for fio, and one that comes and goes."""

    THINGS = {}  # what may happen, and how often
    FORMAT = 'raw'

    def __init__(self, soak, number):
        self.soak = soak
        self.rng = soak.rng
        self.number = number
        self.image = self.make_image()
        self.regions = [Region(i * REGION) for i in range(CLIENTS)]
        self.clients = []
        self.fio = None
        self.qmp = soak.daemon.qmp
        self.qmp.cmd('blockdev-add', self.file_options())
        self.qmp.cmd('blockdev-add', self.node_options())
        self.add_both()
        for region in self.regions:
            self.clients.append(self.client(region))

    def make_image(self):
        return self.soak.make_file(f'disk{self.number}', SOLID + ELASTIC)

    def client_words(self):
        """What else a client needs."""
        return self.soak.stop, self.rng.randrange(1 << 32), self.soak.path('clients.log')

    def file_options(self, **options):
        return {'driver': 'file', 'node-name': f'f{self.number}', 'filename': self.image, 'discard': 'unmap',
                **options}

    def node_options(self):
        return {'driver': self.FORMAT, 'node-name': f'n{self.number}', 'file': f'f{self.number}', 'discard': 'unmap'}

    # What happens to it

    def add(self, export, **options):
        threads = self.rng.sample(sorted(self.soak.threads), self.rng.randrange(3))
        self.qmp.cmd('block-export-add', {
            'id': export, 'node-name': f'n{self.number}', 'writable': True, 'writethrough': self.rng.random() < 0.1,
            **({'iothread': threads} if threads else {}), **options})

    def add_both(self):
        self.add_steady()
        self.add_changing()

    def delete(self, mode):
        self.qmp.cmd('block-export-del', {'id': f'e{self.number}', 'mode': mode})

    def delete_safely(self):
        for _ in range(3):
            try:
                self.delete('safe')
                return
            except QmpError as e:
                self.soak.assertIn('in use', e.desc)
        self.delete('hard')

    def wait_deleted(self, name='e'):
        self.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': f'{name}{self.number}'})

    def do_exchange(self):
        self.take_away()
        self.add_changing()

    def do_reopen(self):
        options = {'cache': {'direct': self.rng.random() < 0.5},
                   'detect-zeroes': self.rng.choice(('off', 'on', 'unmap'))}
        self.qmp.cmd('blockdev-reopen', {'options': [self.file_options(**options), self.node_options()]})

    def some_length(self):
        return SOLID + self.rng.randrange(ELASTIC)

    def do_resize(self):
        self.qmp.cmd('block_resize', {'node-name': f'n{self.number}', 'size': self.some_length()})

    def do_kill_client(self):
        i = self.rng.randrange(CLIENTS)
        self.clients[i].kill()
        self.soak.reap(self.clients[i])
        self.clients[i] = self.client(self.regions[i])

    def do_kill_fio(self):
        if self.fio:
            tools.kill_group(self.fio.pid)
            self.wait_fio()
            self.fio = None

    def wait_fio(self):
        """Its output. How much it has to do is fixed, how long that takes is the disk's affair."""
        done, deadline = -1, 0
        while True:
            if done != (done := self.operations()):
                deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                self.soak.fail(f'fio on export s{self.number} hangs\n{tools.stacks(self.fio.pid)}')
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.fio.communicate(timeout=1)[0].decode(errors='replace')

    def steady(self):
        """What is told of the export that stays."""
        return next(export for export in self.qmp.cmd('query-block-exports') if export['id'] == f's{self.number}')

    def operations(self):
        """That have been done on the export that stays."""
        return sum(count for name, count in self.steady()['stats'].items() if name.endswith('-operations'))

    # What is to go on

    def start_fio(self):
        """Its jobs are threads: as processes they leave its group, and one that it had just forked when it
        was killed would wait for it for ever."""
        choose = self.rng.choice
        size = choose(('--bs=512', '--bs=4k', '--bs=64k', '--bsrange=512-128k'))
        self.fio = subprocess.Popen(
            [find_tool('fio'), '--name=soak', f'--offset={CLIENTS * REGION}',
             f'--size={FIO_SIZE}', f'--offset_increment={FIO_SIZE}', f'--numjobs={FIO_JOBS}',
             f'--io_size={FIO_SIZE if size != "--bs=512" else FIO_SIZE // 4}', size, *self.fio_words(),
             f'--rw={choose(("write", "randwrite"))}', '--verify=crc32c',
             '--verify_fatal=1', '--verify_state_save=0', '--serialize_overlap=1', '--allow_file_create=0',
             f'--randseed={self.rng.randrange(1 << 30)}', '--group_reporting', '--thread'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.soak.dir,
            start_new_session=True)
        self.soak.addCleanup(tools.kill_group, self.fio.pid)

    def finish_fio(self):
        if self.fio:
            output = self.wait_fio()
            if self.fio.returncode:
                found = re.findall('.*(?:verify: |error=|Assertion).*', output) or ['no word of an error']
                self.soak.fail(f'fio on export s{self.number} ended with {self.fio.returncode}, {found[0]}\n{output}')
            self.fio = None

    def keep_fio_busy(self):
        if self.fio and self.fio.poll() is not None:
            self.finish_fio()
        if not self.fio:
            self.start_fio()

    def close(self):
        for export in self.qmp.cmd('query-block-exports'):
            if export['node-name'] == f'n{self.number}':
                self.qmp.cmd('block-export-del', {'id': export['id'], 'mode': 'safe'})
                self.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': export['id']})
        for node in 'n', 'f':
            self.qmp.cmd('blockdev-del', {'node-name': f'{node}{self.number}'})

    def check_image(self):
        with open(self.image, 'rb') as f:
            for region in self.regions:
                f.seek(region.offset)
                found = f.read(REGION)
                offset, length = region.under_way()
                region.settle(found[offset:offset + length])
                self.soak.assertTrue(found == region.bytes[:], f'wrong bytes in {self.image}')


class FuseStation(Station):
    THINGS = {'exchange': 8, 'reopen': 4, 'resize': 2, 'truncate': 2, 'kill_client': 2, 'kill_fio': 1}

    def __init__(self, soak, number, over, cache):
        self.options = {'transport': over, 'cache': cache}
        self.steady_point = soak.mountpoint(f'steady{number}')
        self.point = soak.mountpoint(f'mnt{number}')
        super().__init__(soak, number)

    def client(self, region):
        return Client(region, self.point, self.image, *self.client_words())

    def add_at(self, name, point):
        over = self.options['transport']
        self.add(name, type='fuse', mountpoint=point, **self.options,
                 **({'queue-depth': self.rng.choice((1, 2, 32))} if over == 'io-uring' else {}))
        info = next(e for e in self.qmp.cmd('query-block-exports') if e['id'] == name)
        self.soak.assertEqual((info['fuse']['transport'], info['fuse']['cache']),
                              (over, self.options['cache']))

    def add_steady(self):
        self.add_at(f's{self.number}', self.steady_point)

    def add_changing(self):
        self.add_at(f'e{self.number}', self.point)

    def unmount(self, *options):
        return run('umount', *options, self.point, check=False).returncode == 0

    def take_away(self):
        """End the export in one way or another; returns once it is gone."""
        way = self.rng.randrange(5)
        if way == 0:
            self.delete_safely()
        elif way == 1:
            self.delete('hard')
        elif way == 2:
            self.unmount('-f', '-l')
        elif way == 3:
            self.unmount('-l')
            self.delete_unless_gone()
        elif not self.unmount():  # it is busy, most of the time
            self.delete('hard')
        self.wait_deleted()

    def delete_unless_gone(self):
        """It goes by itself when nobody has it open."""
        try:
            self.delete('hard')
        except QmpError as e:
            self.soak.assertRegex(e.desc, 'shutting down|e[0-9]')

    def do_truncate(self):
        in_child(os.truncate, self.steady_point, self.some_length())

    def fio_words(self):
        choose = self.rng.choice
        return (f'--filename={self.steady_point}', f'--direct={choose((0, 1))}',
                *choose((['--ioengine=psync', '--fsync=64'], ['--ioengine=libaio', '--iodepth=8'])))


class NbdStation(Station):
    """The two exports have names on the one NBD server, e and s with a number."""

    THINGS = {'exchange': 8, 'reopen': 4, 'resize': 1, 'kill_client': 2, 'kill_fio': 1, 'vanish': 6, 'qemu': 2}

    def client(self, region):
        return NbdClient(f'e{self.number}', region, self.soak.nbd_socket, self.image, *self.client_words())

    def uri(self):
        return f'nbd+unix:///s{self.number}?socket={self.soak.nbd_socket}'

    def add_steady(self):
        self.add(f's{self.number}', type='nbd', name=f's{self.number}')

    def add_changing(self):
        self.add(f'e{self.number}', type='nbd', name=f'e{self.number}')

    def take_away(self):
        if self.rng.random() < 0.3:
            self.delete_safely()
        else:
            self.delete('hard')
        self.wait_deleted()

    def do_kill_client(self):
        """As with fio, nothing of it must come after what the next one does."""
        i = self.rng.randrange(CLIENTS)
        self.clients[i].kill()
        self.soak.reap(self.clients[i])
        self.do_exchange()
        self.clients[i] = self.client(self.regions[i])

    def do_kill_fio(self):
        """What it has sent and the server has not read yet must not come after what the next one does."""
        super().do_kill_fio()
        wait_until(lambda: not self.steady()['nbd']['connections'], what=f'the connections of s{self.number} to end')

    def do_resize(self):
        """Clients have been told the length."""
        try:
            super().do_resize()
            self.soak.fail('an image that NBD clients use was resized')
        except QmpError as e:
            self.soak.assertIn('resize', e.desc)

    def do_vanish(self):
        """A client that asks for much, takes little, and goes in one way or another."""
        rng = self.rng
        with nbd.RawClient(self.soak.nbd_socket).go(f's{self.number}') as client:
            for _ in range(rng.randrange(40)):
                client.send_request(nbd.READ, rng.randrange(SOLID // 2), rng.choice((1, 4096, 100 * KIB)))
            way = rng.randrange(4)
            if way == 0:
                client.send_request(nbd.DISC)
            elif way == 1:
                client.sock.shutdown(socket.SHUT_WR)
            elif way == 2:
                client.send(b'\0' * 40)
            client.sock.settimeout(0.01)
            try:
                while way and client.sock.recv(64 * KIB):
                    pass
            except OSError:
                pass

    def do_qemu(self):
        pattern = self.rng.randrange(256)
        at, length = self.rng.randrange(SPARE, SOLID - 4096, 512), 4096
        run(find_tool('qemu-io'), '-f', 'raw', '-c', f'write -P {pattern} {at} {length}', '-c', 'flush',
            '-c', f'discard {at} 512', '-c', f'read -P {pattern} {at + 512} {length - 512}', self.uri())

    def fio_words(self):
        return '--ioengine=nbd', f'--uri={self.uri()}', '--iodepth=8'


class Qcow2Station(NbdStation):
    FORMAT = 'qcow2'

    def make_image(self):
        image = self.soak.path(f'disk{self.number}.qcow2')
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', image, SOLID)
        return image

    def some_length(self):
        return super().some_length() & ~511

    def check_image(self):
        raw = self.soak.path(f'disk{self.number}.raw')
        run(find_tool('qemu-img'), 'check', '-q', self.image)
        run(find_tool('qemu-img'), 'convert', '-O', 'raw', self.image, raw)
        os.replace(raw, self.image)
        super().check_image()


class Soak(IoTest):
    def setUp(self):
        super().setUp()
        self.need_root()
        self.need_fuse()
        find_tool('fio')
        self.transports = [transport.DEV]
        if not transport.why_no_uring():
            self.need_uring()
            self.transports.append(transport.IO_URING)
        self.seed = int(os.environ.get('WHARF_SOAK_SEED') or random.SystemRandom().randrange(1 << 32))
        print(f'WHARF_SOAK_SEED={self.seed}', file=sys.stderr, flush=True)
        self.rng = random.Random(self.seed)
        self.stop = mmap.mmap(-1, 1)
        self.threads = set()
        self.stations = []
        self.nbd_socket = self.path('nbd')
        self.daemon = self.wharfd(transport=None)
        self.start_server()
        self.addCleanup(self.kill_clients)

    def kill_clients(self):
        for client in self.clients():
            client.kill()

    # Iothreads

    def add_thread(self):
        name = next(f't{i}' for i in itertools.count() if f't{i}' not in self.threads)
        self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.threads.add(name)

    def remove_thread(self, name):
        try:
            self.daemon.qmp.cmd('object-del', {'id': name})
            self.threads.remove(name)
        except QmpError as e:
            self.assertIn('export', e.desc)

    def do_threads(self):
        if len(self.threads) < 5:
            self.add_thread()
        else:
            self.remove_thread(self.rng.choice(sorted(self.threads)))

    # The NBD server

    def start_server(self):
        self.daemon.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': self.nbd_socket}}})

    def do_server(self):
        """Stop it, with its exports, and start it again; in between the images may be resized."""
        stations = [station for station in self.stations if isinstance(station, NbdStation)]
        for station in stations:
            station.do_kill_fio()
        self.daemon.qmp.cmd('nbd-server-stop')
        for station in stations:
            station.wait_deleted('s')
            station.wait_deleted('e')
            Station.do_resize(station)
        self.start_server()
        for station in stations:
            station.add_both()

    # The clients

    def clients(self):
        return [client for station in self.stations for client in station.clients]

    def client_log(self):
        try:
            with open(self.path('clients.log'), encoding='utf-8') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    def check_log(self):
        log = self.client_log()
        if log:
            self.fail(f'a client has ended with {log.splitlines()[-1]}\n{log}')

    def check_clients(self):
        """None has found anything wrong, none hangs."""
        now = time.monotonic()
        self.check_log()
        for client in self.clients():
            progress = client.region.progress()
            seen, since = self.progress.get(client.region, (None, now))
            self.progress[client.region] = (progress, now if seen != progress else since)
            if seen == progress and now - since > PATIENCE:
                self.hangs(client)

    def stop_clients(self):
        self.stop[0] = 1
        for client in self.clients():
            self.reap(client)
        self.check_log()
        self.assertEqual({client.status for client in self.clients()}, {0})

    def reap(self, client):
        """Wait until it has ended, as it was told to."""
        deadline = time.monotonic() + PATIENCE
        while not client.ended():
            if time.monotonic() > deadline:
                self.hangs(client)
            time.sleep(0.005)

    def hangs(self, client):
        self.fail(f'client {client.pid} of {client.path} hangs\n{tools.stacks(client.pid)}')

    # The whole

    def one_thing(self):
        station = self.rng.choice(self.stations)
        things = {**station.THINGS, 'threads': 2, 'server': 1}
        name = self.rng.choices(list(things), list(things.values()))[0]
        getattr(self if name in ('threads', 'server') else station, f'do_{name}')()

    def build_up(self):
        for _ in range(2):
            self.add_thread()
        for number, (over, cache) in enumerate(itertools.product(self.transports, ('direct', 'page'))):
            self.stations.append(FuseStation(self, number, over, cache))
        for kind in NbdStation, Qcow2Station:
            self.stations.append(kind(self, len(self.stations)))

    def in_flight(self):
        return sum(export['in-flight'] for export in self.daemon.qmp.cmd('query-block-exports'))

    def take_down(self):
        for station in self.stations:
            station.finish_fio()
        self.stop_clients()
        # What the kernel reads ahead nobody waits for.
        wait_until(lambda: not self.in_flight(), what='no request to be in flight')
        self.assert_idle(self.daemon)
        for station in self.stations:
            station.close()
            station.check_image()
        for name in sorted(self.threads):
            self.daemon.qmp.cmd('object-del', {'id': name})
        self.stations, self.threads = [], set()
        self.stop[0] = 0

    def for_a_while(self, seconds):
        self.progress = {}
        self.build_up()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for station in self.stations:
                station.keep_fio_busy()
            self.one_thing()
            self.check_clients()
        self.take_down()

    def nothing_left(self):
        self.assertEqual(self.daemon.qmp.cmd('query-block-exports'), [])
        self.assertEqual(self.daemon.qmp.cmd('query-named-block-nodes'), [])
        self.assertEqual(tools.fuse_mounts_below(self.dir), [])

    @timeout(SECONDS * 2 + 300)
    def test_everything_at_once(self):
        self.for_a_while(SECONDS / 4)
        self.nothing_left()
        fds, threads, rss = len(self.daemon.fds()), len(self.daemon.threads()), self.daemon.rss()
        self.for_a_while(SECONDS * 3 / 4)
        self.nothing_left()
        wait_until(lambda: len(self.daemon.fds()) <= fds, what=f'no more than {fds} descriptors: {self.daemon.fds()}')
        # The worker pool may have grown a little since; what was more at times ends when it is idle.
        wait_until(lambda: len(self.daemon.threads()) < threads + 20,
                   what=f'no more than {threads} threads and a few: {self.daemon.threads()}')
        if os.environ.get('WHARF_BUILD', 'normal') == 'normal':
            self.assertLess(self.daemon.rss(), rss + 32 * MIB)
        self.daemon.quit()


if __name__ == '__main__':
    main()
