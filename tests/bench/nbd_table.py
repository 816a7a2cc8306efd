# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of scripts/bench that compares NBD servers over a Unix socket, each row measured within
the same minutes.

Clients are fio's nbd engine, with one connection or four, and nbdcopy, which reads all of the image. A
cell is the median of the rounds and, behind it, the processor time that the server took: microseconds a
request, or milliseconds for each GB. That says more than speed where the machine is busy.
"""

import json
import os
import shutil
import statistics
import time

from wharf import tools
from wharf.daemon import Daemon

GB = 1e9
TICKS = os.sysconf('SC_CLK_TCK')


def _fio_row(name, unit, *options):
    return (name, unit, lambda column, seconds, size: fio(column, options, seconds, size, unit))


# Name, unit, measure(column, seconds, size): (speed, what the server spent on one unit).
ROWS = (
    _fio_row('4k random read, depth 1', 'iops', '--rw=randread', '--bs=4k', '--iodepth=1'),
    _fio_row('4k random read, depth 32', 'iops', '--rw=randread', '--bs=4k', '--iodepth=32'),
    _fio_row('4k random write, depth 32', 'iops', '--rw=randwrite', '--bs=4k', '--iodepth=32'),
    _fio_row('4k random read, depth 32, 4 connections', 'iops', '--rw=randread', '--bs=4k', '--iodepth=32',
             '--numjobs=4'),
    _fio_row('4k random write, depth 32, 4 connections', 'iops', '--rw=randwrite', '--bs=4k', '--iodepth=32',
             '--numjobs=4'),
    _fio_row('1M read, depth 4', 'GB/s', '--rw=read', '--bs=1M', '--iodepth=4'),
    _fio_row('1M write, depth 4', 'GB/s', '--rw=write', '--bs=1M', '--iodepth=4'),
    _fio_row('1M read, depth 4, 4 connections', 'GB/s', '--rw=read', '--bs=1M', '--iodepth=4', '--numjobs=4'),
    _fio_row('1M write, depth 4, 4 connections', 'GB/s', '--rw=write', '--bs=1M', '--iodepth=4', '--numjobs=4'),
    ('nbdcopy to nowhere', 'GB/s', lambda column, seconds, size: copy(column, seconds, size)),
)

RAMP = 0.2

# Where a root directory has programs.
PROGRAMS = ('usr/bin', 'usr/sbin')


class Column:
    """One server. socket: where it is for clients; start(): begins to serve."""

    def __init__(self, name, socket, start):
        self.name = name
        self.socket = socket
        self.start = start
        self.pid = None
        self.stop = lambda: None

    def uri(self):
        return f'nbd+unix:///?socket={self.socket}'

    def processor_seconds(self):
        with open(f'/proc/{self.pid}/stat', encoding='ascii') as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def fio(column, options, seconds, size, unit):
    before = column.processor_seconds()
    done = tools.run('fio', '--name=bench', '--ioengine=nbd', f'--uri={column.uri()}', f'--size={size}', '--time_based',
                     f'--runtime={int(seconds * 1000)}ms', f'--ramp_time={int(RAMP * 1000)}ms', '--group_reporting',
                     '--output-format=json', *options, timeout=seconds + 60)
    spent = column.processor_seconds() - before
    job = json.loads(done.stdout[done.stdout.index('{'):])['jobs'][0]
    iops, bandwidth = (sum(job[d][what] for d in ('read', 'write')) for what in ('iops', 'bw_bytes'))
    if unit == 'iops':
        return iops, spent / (iops * (seconds + RAMP)) * 1e6
    return bandwidth / GB, spent / (bandwidth / GB * (seconds + RAMP)) * 1e3


def copy(column, seconds, size):
    passes, before, begun = 0, column.processor_seconds(), time.monotonic()
    while time.monotonic() < begun + seconds:
        tools.run('nbdcopy', column.uri(), 'null:')
        passes += 1
    done = passes * size / GB
    return done / (time.monotonic() - begun), (column.processor_seconds() - before) / done * 1e3


# How each kind of server is started


def _daemon_column(peer, iothreads, image):
    name = f'{peer.name}/{iothreads}'
    socket = f'nbd{iothreads}'

    def start(column):
        names = [f't{n}' for n in range(iothreads)]
        words = [word for thread in names for word in ('--object', f'iothread,id={thread}')]
        daemon = peer.start(*words, tag=f'-nbd{iothreads}')
        column.stop = lambda: (daemon.qmp.cmd('quit', timeout=60), daemon.wait())
        column.pid = daemon.pid
        daemon.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{peer.inside}/{socket}'}}})
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0',
                                        'file': {'driver': 'file', 'filename': image}})
        options = {'iothread': names[0] if iothreads == 1 else names} if iothreads else {}
        daemon.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e0', 'node-name': 'n0', 'name': '',
                                            'writable': True, **options})
    return Column(name, os.path.join(peer.outside, socket), start)


def _nbdkit_column(name, root, outside, inside, image):
    def start(column):
        os.makedirs(outside, exist_ok=True)
        server = Daemon(outside, 'nbdkit', ['-f', '-U', os.path.join(inside, 'nbdkit'), 'file', image], qmp=False,
                        name='nbdkit', prefix=('chroot', root) if root else ())
        tools.wait_until(lambda: os.path.exists(column.socket), what=name)
        column.pid = server.pid
        column.stop = server.kill
    return Column(name, os.path.join(outside, 'nbdkit'), start)


def all_columns(peers, options, work, image):
    columns = []
    for peer in peers:
        counts = [0, *options.iothreads] if peer.name == 'wharfd' else [0, 1]  # QSD knows no more for NBD
        columns += [_daemon_column(peer, n, image) for n in dict.fromkeys(counts)]
    if shutil.which('nbdkit'):
        place = os.path.join(work, 'nbdkit')
        columns.append(_nbdkit_column('nbdkit', None, place, place, image))
    for peer in peers:
        if peer.root and shutil.which('nbdkit', path=':'.join(os.path.join(peer.root, d) for d in PROGRAMS)):
            columns.append(_nbdkit_column('nbdkit-new', peer.root, peer.outside, peer.inside, image))
    return columns


def measure(peers, options, work):
    """Measure all; returns the heading and the lines of the table."""
    image = os.path.join(work, 'nbd.img')
    with open(image, 'wb') as f:
        for _ in range(options.size >> 20):
            f.write(os.urandom(1 << 20))
    rows = [row for row in ROWS if not options.row or any(text in row[0] for text in options.row)]
    columns = [column for column in all_columns(peers, options, work, image)
               if not options.column or column.name in options.column]
    results = {}
    try:
        for column in columns:
            column.start(column)
        for _ in range(options.rounds):
            for row in rows:
                for column in columns:
                    results.setdefault((row[0], column), []).append(row[2](column, options.seconds, options.size))
    finally:
        for column in columns:
            column.stop()
        os.unlink(image)
    return ['', *(column.name for column in columns)], [
        [f'{row[0]} ({row[1]})', *(_cell(results[row[0], column], row[1]) for column in columns)] for row in rows]


def _cell(values, unit):
    speed, cost = (statistics.median(value[i] for value in values) for i in (0, 1))
    return f'{speed:.0f} {cost:.1f}us' if unit == 'iops' else f'{speed:.2f} {cost:.0f}ms'
