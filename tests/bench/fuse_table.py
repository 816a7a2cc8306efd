# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of scripts/bench that compares FUSE exports, each row measured within the same minutes.

Rows "direct" are O_DIRECT by fio. Rows "buffered" and "page cache" are plain reads and writes of
1 MiB, one after the other from the beginning to the end of the image, by a loop of our own: before
each pass the kernel is told to drop what it has cached of the file (POSIX_FADV_DONTNEED), and only
the passes are timed. So nothing is read a second time from the cache of the mount, and dropping it,
which takes as long as reading, is nobody's speed. The image lies in tmpfs and stays there. It is one
for all columns, for in a virtual machine one piece of memory can be half as fast as another, and
which of them an image gets would decide more than who serves it. "buffered"
is the export as it is by default, whose opens are for direct I/O; "page cache" has cache=page
and a read-ahead of 4 MiB (QSD, which has no such thing, is the same in both).
"""

import json
import mmap
import os
import statistics
import sys
import tempfile
import time

from wharf import tools
from wharf.clients import ClientError, QmpError
from wharf.daemon import Daemon
from wharf.fs import in_child

MIB = 1 << 20
READ_AHEAD = 4 * MIB
SWITCH = '/sys/module/fuse/parameters/enable_uring'


def _fio_row(name, *options):
    return (name, 'iops', 'direct', lambda path, seconds, size: fio(path, options, seconds, size)[0])


def _fio_rate_row(name, *options):
    return (name, 'MiB/s', 'direct', lambda path, seconds, size: fio(path, options, seconds, size)[1] / MIB)


def _stream_row(name, cache, write):
    return (name, 'MiB/s', cache,
            lambda path, seconds, size: in_child(stream, path, write, seconds, timeout=seconds * 10 + 60) / MIB)


# Name, unit, cache mode of the mount it is for, measure(path, seconds, size).
ROWS = (
    _fio_row('4k random read, 1 job', '--rw=randread', '--bs=4k', '--ioengine=psync'),
    _fio_row('4k random write, 1 job', '--rw=randwrite', '--bs=4k', '--ioengine=psync'),
    _fio_row('4k random read, 4 jobs', '--rw=randread', '--bs=4k', '--ioengine=psync', '--numjobs=4'),
    _fio_row('4k random write, 4 jobs', '--rw=randwrite', '--bs=4k', '--ioengine=psync', '--numjobs=4'),
    _fio_row('4k random read, depth 32', '--rw=randread', '--bs=4k', '--ioengine=libaio', '--iodepth=32'),
    _fio_row('4k random write, depth 32', '--rw=randwrite', '--bs=4k', '--ioengine=libaio', '--iodepth=32'),
    _fio_rate_row('1M sequential read, direct', '--rw=read', '--bs=1M', '--ioengine=psync'),
    _fio_rate_row('1M sequential write, direct', '--rw=write', '--bs=1M', '--ioengine=psync'),
    _stream_row('1M sequential read, buffered', 'direct', False),
    _stream_row('1M sequential write, buffered', 'direct', True),
    _stream_row('1M sequential read, page cache', 'page', False),
    _stream_row('1M sequential write, page cache', 'page', True),
)


def fio(path, options, seconds, size):
    """One fio run; returns (operations a second, bytes a second) of both directions together."""
    done = tools.run('fio', '--name=bench', f'--filename={path}', f'--size={size}', '--direct=1',
                     '--time_based', f'--runtime={int(seconds * 1000)}ms', '--ramp_time=200ms', '--group_reporting',
                     '--allow_file_create=0', '--output-format=json', *options, timeout=seconds + 60)
    job = json.loads(done.stdout[done.stdout.index('{'):])['jobs'][0]
    return (sum(job[d]['iops'] for d in ('read', 'write')), sum(job[d]['bw_bytes'] for d in ('read', 'write')))


def stream(path, write, seconds):
    """Whole passes over the file, nothing of it cached when one begins; bytes a second."""
    fd = os.open(path, os.O_RDWR)
    size = os.fstat(fd).st_size
    buffer = mmap.mmap(-1, MIB)
    buffer[:] = os.urandom(MIB)
    call = os.pwritev if write else os.preadv
    done, spent = 0, 0
    while spent < seconds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.monotonic()
        for offset in range(0, size, MIB):
            done += call(fd, [buffer], offset)
        spent += time.monotonic() - begun
    return done / spent


class Column:
    """One of those compared. group: whose it is; transport: whose probe it is compared with.

    threads: how many serve. The probes that an export is compared with have no more than it has.
    """

    def __init__(self, name, group, transport, threads, start):
        self.name = name
        self.group = group
        self.transport = transport
        self.threads = threads
        self.start = start  # (column, images): begins to serve and sets paths
        self.paths = {}     # of the file to read and write, by cache mode
        self.stop = lambda: None


class LeftOut(Exception):
    """A column cannot be had here; the text says why."""


# How each kind of column is started


def _start_file(column, images):
    column.paths = images


def _daemon_starter(peer, iothreads, options):
    def start(column, images):
        names = [f't{n}' for n in range(iothreads)]
        objects = [word for name in names for word in ('--object', f'iothread,id={name}')]
        daemon = peer.start(*objects, tag=f'-{column.name.replace("/", "-")}')
        column.stop = lambda: _quit(daemon)
        for number, (cache, image) in enumerate(images.items()):
            extra = dict(options)
            if cache == 'page' and column.group == 'wharf' and column.transport != 'file':
                extra.update({'cache': 'page', 'read-ahead': READ_AHEAD})
            try:
                column.paths[cache] = peer.export(daemon, number, image, names, locking='off', **extra)
            except QmpError as e:
                raise LeftOut(str(e)) from None
        _check_transport(column, daemon)
    return start


def _quit(daemon):
    try:
        daemon.qmp.cmd('quit', timeout=60)
    except (ClientError, OSError) as e:
        print(f'{daemon.name} does not quit as it should: {e}')
    status = daemon.wait()
    if status:
        print(f'{daemon.name} ended with {status}: {daemon.log()[-200:]}')


def _check_transport(column, daemon):
    if column.group != 'wharf':
        return
    for export in daemon.qmp.cmd('query-block-exports'):
        fuse = export['fuse']
        if column.transport in ('dev', 'io-uring') and fuse['transport'] != column.transport:
            raise LeftOut(f'the export uses {fuse["transport"]}')
        if column.transport == 'file' and not fuse.get('passthrough'):
            raise LeftOut('the export does not pass the file through')


def _probe_starter(binary, work, args):
    def start(column, images):
        probes = []
        column.stop = lambda: [probe.terminate() for probe in probes]
        for cache, image in images.items():
            name = f'{column.name.replace("/", "-")}-{cache}'
            mountpoint = os.path.join(work, f'{name}.mnt')
            with open(mountpoint, 'wb'):
                pass
            extra = ['--cache', 'page', '--read-ahead', str(READ_AHEAD)] if cache == 'page' else []
            probe = Daemon(work, binary, [*args, *extra, image, mountpoint], qmp=False, name=name)
            tools.wait_until(lambda: 'ready\n' in probe.log() or not probe.running(), what=name)
            if not probe.running():
                raise LeftOut(probe.log().strip())
            probes.append(probe)
            column.paths[cache] = mountpoint
    return start


def _knows_passthrough(peer):
    """Whether FUSE exports of this wharfd have the option."""
    daemon = peer.start(tag='-schema')
    schema = daemon.qmp.cmd('query-qmp-schema')
    _quit(daemon)
    return any({'mountpoint', 'passthrough'} <= {member.get('name') for member in entry.get('members', ())}
               for entry in schema)


def all_columns(peers, options, work):
    """Every column there is on this machine: those that are measured by default."""
    columns = [Column('file', 'file', 'file', 0, _start_file)]
    uring = _uring_is_on()
    for peer in peers:
        own = peer.name == 'wharfd'
        for transport in ('dev', 'io-uring') if own and uring else ('dev',):
            extra = {'transport': transport} if own else {}
            for count in options.iothreads:
                name = f'wharf-{transport}' if own else peer.name
                columns.append(Column(f'{name}/{count}', 'wharf' if own else 'qsd', transport, max(count, 1),
                                      _daemon_starter(peer, count, extra)))
        if own and _knows_passthrough(peer):
            columns.append(Column('wharf-passthrough', 'wharf', 'file', 1,
                                  _daemon_starter(peer, 1, {'passthrough': 'on', 'growable': True})))
    return columns + _probe_columns(options, work, uring)


def _probe_columns(options, work, uring):
    if options.directory:
        return []  # they know nothing of direct I/O to the image
    build = os.path.dirname(os.path.dirname(options.wharfd))
    binary = os.path.join(build, 'tests', 'bench', 'fuse-probe')
    if not os.path.exists(binary):
        print(f'{binary} is not built: no probes')
        return []
    counts = sorted({max(count, 1) for count in options.iothreads})
    kinds = [(f'probe-dev/{count}', 'dev', count, []) for count in counts]
    if uring:
        kinds += [(f'probe-io-uring/{count}{mark}', 'io-uring', count, ['--transport', 'io-uring', *args])
                  for count in counts for mark, args in (('', ['--no-pin']), ('-pinned', [])) if count > 1 or args]
    return [Column(name, 'probe', transport, count,
                   _probe_starter(binary, work, ['--queues', str(count), *args]))
            for name, transport, count, args in kinds]


def _uring_is_on():
    try:
        with open(SWITCH, encoding='ascii') as f:
            if f.read().strip() == 'Y':
                return True
    except OSError:
        pass
    print(f'without io-uring: {SWITCH} is not on')
    return False


def chosen_columns(columns, names):
    if not names:
        return columns
    by_name = {column.name: column for column in columns}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        sys.exit(f'no column {unknown[0]}; there are: {", ".join(by_name)}')
    return [by_name[name] for name in names]


def chosen_rows(parts):
    rows = [row for row in ROWS if not parts or any(part in row[0] for part in parts)]
    if not rows:
        sys.exit('no such row; there are:\n' + '\n'.join(row[0] for row in ROWS))
    return rows


def _make_images(caches, size, work):
    images = {}
    for cache in caches:
        images[cache] = os.path.join(work, f'{cache}.img')
        with open(images[cache], 'wb') as f:
            for _ in range(size // MIB):
                f.write(os.urandom(MIB))
    return images


def start_columns(columns, rows, options, work):
    """Start what serves the columns, from images in @work; returns those that are there."""
    images = _make_images(sorted({row[2] for row in rows}), options.size, work)
    started = []
    for column in columns:
        try:
            column.start(column, images)
            started.append(column)
        except LeftOut as e:
            print(f'without {column.name}: {e}')
            column.stop()
    return started


class Results:
    """Figures by row and column, one a round."""

    def __init__(self, columns):
        self.columns = columns
        self.figures = {}

    def add(self, row, column, figure):
        self.figures.setdefault((row, column.name), []).append(figure)

    def complete(self, row):
        """Whether there is something for each column."""
        return all((row, column.name) in self.figures for column in self.columns)

    def median(self, row, column):
        return statistics.median(self.figures[row, column.name])

    def ratio(self, row, column, wanted):
        """The median of the rounds' ratios to the best of the wanted columns, or None."""
        others = [other for other in self.columns if other is not column and wanted(other)]
        if not others:
            return None
        best = max(others, key=lambda other: self.median(row, other))
        return statistics.median(a / b for a, b in zip(self.figures[row, column.name],
                                                       self.figures[row, best.name]))

    def cell(self, row, column):
        parts = [f'{self.median(row, column):.0f}']
        if column.group in ('wharf', 'qsd'):
            parts.append(self.ratio(row, column, lambda other: other.transport == column.transport
                                    and other.threads <= column.threads and other.group in ('probe', 'file')))
        if column.group == 'wharf':
            parts.append(self.ratio(row, column, lambda other: other.group == 'qsd'))
        return ' '.join(part if isinstance(part, str) else f'{mark}{part:.2f}'
                        for mark, part in zip(('', 'p', 'q'), parts) if part is not None)


def _run_rounds(results, rows, columns, options):
    for turn in range(options.rounds):
        for name, _, cache, function in rows:
            for column in columns:
                results.add(name, column, function(column.paths[cache], options.seconds, options.size))
        print(f'round {turn + 1} of {options.rounds} done', file=sys.stderr)


def measure(peers, options, work):
    """Measure all, or until told to end; returns the heading and the lines of the table."""
    if not options.directory:
        return _measure(peers, options, work, work)
    for peer in peers:
        peer.direct = True
    with tempfile.TemporaryDirectory(prefix='wharf-bench-', dir=options.directory) as images:
        return _measure(peers, options, work, images)


def _measure(peers, options, work, images):
    rows = chosen_rows(options.row)
    columns = start_columns(chosen_columns(all_columns(peers, options, work), options.column), rows, options, images)
    results = Results(columns)
    try:
        _run_rounds(results, rows, columns, options)
    except (KeyboardInterrupt, SystemExit):
        print('interrupted: what has been measured so far')
    finally:
        for column in columns:
            column.stop()
    lines = [[f'{row[0]} ({row[1]})', *(results.cell(row[0], column) for column in columns)]
             for row in rows if results.complete(row[0])]
    return ['', *(column.name for column in columns)], lines
