# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of scripts/bench that compares qcow2 images behind FUSE exports.

Each figure comes from an image of its own in tmpfs, which is opened, exported, measured by fio with
O_DIRECT and removed again. "allocated" images have all their clusters, and their requests are
repeated for a while; "empty" ones have none, and are written to for as long as that makes clusters.
The column "raw" is a raw image of the same size in wharfd.
"""

import json
import os
import statistics
import sys

import fuse_table
from wharf import tools

MIB = 1 << 20
KIB = 1 << 10

RANDOM = ('--bs=4k', '--ioengine=libaio', '--iodepth=32')
SEQUENTIAL = ('--bs=1M', '--ioengine=libaio', '--iodepth=4')

# Name, unit, whether the image is allocated, options of fio.
ROWS = (
    ('allocated, 4k random read', 'iops', True, ('--rw=randread', *RANDOM)),
    ('allocated, 1M sequential read', 'MiB/s', True, ('--rw=read', *SEQUENTIAL)),
    ('allocated, 4k random write', 'iops', True, ('--rw=randwrite', *RANDOM)),
    ('allocated, 1M sequential write', 'MiB/s', True, ('--rw=write', *SEQUENTIAL)),
    ('empty, 4k random write', 'iops', False, ('--rw=randwrite', *RANDOM, '--io_size=96M')),
    ('empty, 1M sequential write', 'MiB/s', False, ('--rw=write', *SEQUENTIAL)),
)
CLUSTERS = (64 * KIB, 2 * MIB)
EMPTY_SIZE = 4096 * MIB  # of disks that are written to at random, so that few clusters are met twice


def fio_once(path, options, size):
    """One fio run over so many bytes; returns (operations a second, bytes a second)."""
    done = tools.run('fio', '--name=bench', f'--filename={path}', f'--size={size}', '--direct=1',
                     '--allow_file_create=0', '--output-format=json', *options, timeout=120)
    write = json.loads(done.stdout[done.stdout.index('{'):])['jobs'][0]['write']
    return write['iops'], write['bw_bytes']


class Column:
    """One of those compared: a daemon with so many iothreads, and what it exports."""

    def __init__(self, peer, form, count):
        self.peer = peer
        self.form = form
        self.own = peer.name == 'wharfd'
        self.name = f'{form if self.own else peer.name}/{count}'
        self.threads = [f't{n}' for n in range(count)]
        self.daemon = None
        self.exports = 0

    def start(self):
        objects = [word for name in self.threads for word in ('--object', f'iothread,id={name}')]
        self.daemon = self.peer.start(*objects, tag='-' + self.name.replace('/', '-'))

    def stop(self):
        if self.daemon:
            self.daemon.qmp.cmd('quit', timeout=60)
            self.daemon.wait()

    def measure(self, row, cluster, options, work):
        _, unit, allocated, words = row
        size = EMPTY_SIZE if not allocated and '--rw=randwrite' in words else options.size
        image = os.path.join(work, f'{self.name.replace("/", "-")}.img')
        make_image(image, self.form, size, cluster, allocated)
        self.exports += 1
        extra = {'transport': 'dev'} if self.own else {}
        path = self.peer.export(self.daemon, self.exports, image, self.threads, driver=self.form, **extra)
        try:
            if allocated:
                figures = fuse_table.fio(path, words, options.seconds, size)
            else:
                figures = fio_once(path, words, size)
        finally:
            self.daemon.qmp.cmd('block-export-del', {'id': f'e{self.exports}'})
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': f'n{self.exports}'})
            os.unlink(image)
        return figures[0] if unit == 'iops' else figures[1] / MIB


def make_image(path, form, size, cluster, allocated):
    if form == 'raw':
        with open(path, 'wb') as f:
            f.truncate(size)
    else:
        tools.run('qemu-img', 'create', '-q', '-f', form, '-o', f'cluster_size={cluster}', path, size)
    if allocated:
        tools.run('qemu-io', '-f', form, '-c', f'write -P 165 0 {size}', path, timeout=120)


def all_columns(peers, options):
    columns = []
    for peer in peers:
        for form in ('raw', 'qcow2') if peer.name == 'wharfd' else ('qcow2',):
            columns += [Column(peer, form, count) for count in options.iothreads]
    return columns


def cell(results, column, columns):
    """The median; r: over raw, q: over the best QSD, with as many iothreads."""
    def ratio(other):
        return statistics.median(a / b for a, b in zip(results[column.name], results[other.name]))
    text = f'{statistics.median(results[column.name]):.0f}'
    if column.own and column.form != 'raw':
        same = [other for other in columns if len(other.threads) == len(column.threads) and other is not column]
        raw = [ratio(other) for other in same if other.own]
        qsd = [ratio(other) for other in same if not other.own]
        text += ''.join(f' {mark}{min(ratios):.2f}' for mark, ratios in (('r', raw), ('q', qsd)) if ratios)
    return text


def measure(peers, options, work):
    """Measure all; returns the heading and the lines of the table."""
    columns = fuse_table.chosen_columns(all_columns(peers, options), options.column)
    rows = [(row, cluster) for cluster in CLUSTERS for row in ROWS
            if not options.row or any(part in title(row, cluster) for part in options.row)]
    lines = []
    try:
        for column in columns:
            column.start()
        for row, cluster in rows:
            results = {column.name: [] for column in columns}
            for _ in range(options.rounds):
                for column in columns:
                    results[column.name].append(column.measure(row, cluster, options, work))
            lines.append([title(row, cluster), *(cell(results, column, columns) for column in columns)])
            print('  '.join(lines[-1]), file=sys.stderr)
    finally:
        for column in columns:
            column.stop()
    return ['', *(column.name for column in columns)], lines


def title(row, cluster):
    return f'{cluster // KIB}k, {row[0]} ({row[1]})'
