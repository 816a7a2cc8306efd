# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs, waiting, mounts and processes."""

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
import unittest

# How long anything may take before it counts as hung; generous, for busy machines and sanitizers.
TIMEOUT = 60

# Every process of a test run carries this variable, so that it is found whatever became of its parent.
MARK = 'WHARF_TEST_MARK'

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FUSE_CONTROL = '/sys/fs/fuse/connections'
_LOOP_CLR_FD = 0x4C01
_LOOP_CTL_GET_FREE = 0x4C82


def wait_until(condition, timeout=TIMEOUT, what=None, interval=0.02):
    """Wait for condition() to return something true, return that; fail after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f'waited {timeout} s in vain for {what or condition}')
        time.sleep(interval)


def listens_at(path):
    """Whether somebody listens at a socket. Leaves no trace on a server that serves one at a time.

    That the socket is there says less: connecting is refused until listen() is called.
    """
    if not os.path.exists(path):
        return False
    with open('/proc/net/unix', encoding='utf-8', errors='surrogateescape') as f:
        for line in f:
            words = line.split()
            # flags: __SO_ACCEPTCON
            if len(words) == 8 and words[7] == path and int(words[3], 16) & 0x10000:
                return True
    return False


def find_tool(name, hint=None):
    """The path of a program; the test is skipped where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path='/usr/sbin:/sbin')
    if not path:
        raise unittest.SkipTest(f'{name} is not installed' + (f' ({hint})' if hint else ''))
    return path


def run(*command, timeout=TIMEOUT, check=True, input=None, text=True, **popen):
    """Run a program to its end and return its CompletedProcess (stdout and stderr captured).

    Fails the test where it exits with another status than 0 (unless check is False), or where it has
    not ended after timeout seconds: then it and all its children are killed.
    """
    command = [os.fspath(c) if not isinstance(c, bytes) else c for c in map(_word, command)]
    stdin = subprocess.PIPE if input is not None else subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=text, start_new_session=True, **popen)
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        raise AssertionError(f'{command} did not end within {timeout} s') from None
    result = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check and process.returncode:
        raise AssertionError(f'{command} exited with {process.returncode}\n{out}\n{err}')
    return result


def json_of(done):
    """What a program that has run() printed, which must be JSON: else the test shows all that it said."""
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f'{done.args} exited with {done.returncode} and printed no JSON\n'
                             f'{done.stdout}\n{done.stderr}') from None


def _word(value):
    return str(value) if isinstance(value, (int, float)) else value


_SANITIZER = re.compile(r'SUMMARY: \w+Sanitizer.*|==\d+==ERROR.*|WARNING: ThreadSanitizer.*|.*runtime error:.*')


def complaint(log):
    """A line with a sanitizer's complaint in what a program has said, the shortest account if any; or ''."""
    found = _SANITIZER.findall(log)
    return next((line for line in found if line.startswith('SUMMARY')), found[0] if found else '')


def kill_group(pid):
    """Kill the process group that a child leads. Does not wait: it may hang in the kernel."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def marked_processes(mark):
    """Ids of all live processes that carry this mark, but for this one."""
    wanted = f'{MARK}={mark}'.encode()
    found = []
    for entry in os.listdir('/proc'):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f'/proc/{entry}/environ', 'rb') as f:
                environ = f.read().split(b'\0')
            with open(f'/proc/{entry}/stat', 'rb') as f:
                state = f.read().rpartition(b')')[2].split()[0]
        except OSError:
            continue
        if wanted in environ and state != b'Z':
            found.append(int(entry))
    return found


def mounts_below(directory):
    """Mountpoints at or below a directory, innermost last, without touching any of them."""
    directory = os.path.realpath(directory)
    found = []
    with open('/proc/self/mountinfo', encoding='utf-8', errors='surrogateescape') as f:
        for line in f:
            point = line.split()[4].encode('utf-8', 'surrogateescape').decode('unicode_escape')
            if point == directory or point.startswith(directory + '/'):
                found.append(point)
    return found


def fuse_mounts_below(directory):
    """The FUSE mounts among mounts_below()."""
    directory = os.path.realpath(directory)
    found = []
    with open('/proc/self/mountinfo', encoding='utf-8', errors='surrogateescape') as f:
        for line in f:
            left, _, right = line.partition(' - ')
            point = left.split()[4]
            if right.split()[0].startswith('fuse') and point.startswith(directory + '/'):
                found.append(point)
    return found


def unmount(path):
    """Detach a mount now, whoever uses it. Never blocks on whoever serves it."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        return
    tool = shutil.which('fusermount3')
    if tool:
        subprocess.run([tool, '-u', '-z', path], timeout=TIMEOUT, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _loop_backing(entry):
    """The path of the file behind a loop device, or an empty string."""
    try:
        with open(f'/sys/block/{entry}/loop/backing_file', encoding='utf-8') as f:
            return f.read().strip()
    except OSError:
        return ''


def loop_is_free():
    """Whether there is a loop device to be had; in a container its node may be missing."""
    try:
        fd = os.open('/dev/loop-control', os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.path.exists(f'/dev/loop{fcntl.ioctl(fd, _LOOP_CTL_GET_FREE)}')
    except OSError:
        return False
    finally:
        os.close(fd)


def detach_loops_below(directory):
    """Detach the loop devices whose backing file lies below a directory."""
    below = os.path.realpath(directory) + '/'
    for entry in os.listdir('/sys/block'):
        if not _loop_backing(entry).startswith(below):
            continue
        try:
            fd = os.open(f'/dev/{entry}', os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # While it is open nobody else can get the device for another file: look once more.
            if _loop_backing(entry).startswith(below):
                fcntl.ioctl(fd, _LOOP_CLR_FD, 0)
        except OSError:
            pass
        finally:
            os.close(fd)


def kill_marked(mark, timeout=20):
    """Kill everything that carries the mark and wait for it to go. Returns what is left."""
    deadline = time.monotonic() + timeout
    while True:
        left = marked_processes(mark)
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


def let_all_use_fuse():
    """Let every user open /dev/fuse and reach the control files of FUSE, as udev and systemd do, where
    on this machine only root can.

    Moves the calling process into a mount namespace of its own for that, so that the machine stays as
    it is: mounts made from here on are seen by this process and its children alone. To be called
    from setUpClass: each test file runs in its own process. Skips the test where this cannot be had.
    """
    if not os.path.exists('/dev/fuse') or os.geteuid() != 0:
        raise unittest.SkipTest('needs root and /dev/fuse')
    status = os.stat('/dev/fuse')
    open_to_all = status.st_mode & 0o006 == 0o006
    controlled = os.path.ismount(_FUSE_CONTROL)
    if open_to_all and controlled:
        return
    _leave_mount_namespace()
    if not controlled:
        run('mount', '-t', 'fusectl', 'none', _FUSE_CONTROL)
    if not open_to_all:
        node = os.path.join(os.environ['WHARF_TEST_DIR'], 'fuse-device')
        os.mknod(node, 0o666 | stat.S_IFCHR, status.st_rdev)
        os.chmod(node, 0o666)
        run('mount', '--bind', node, '/dev/fuse')


def _leave_mount_namespace():
    clone_newns = 0x00020000
    if _libc.unshare(clone_newns) != 0:
        raise unittest.SkipTest(f'no mount namespace: {os.strerror(ctypes.get_errno())}')
    if run('mount', '--make-rprivate', '/', check=False).returncode:
        raise unittest.SkipTest('the root directory is no mount of its own (a chroot?)')


def clean_up(directory, mark):
    """End every process with the mark, undo every mount and loop device below the directory."""
    left = kill_marked(mark)
    for _ in range(16):
        points = mounts_below(directory)
        if not points:
            break
        for point in reversed(points):
            unmount(point)
    detach_loops_below(directory)
    return left


def stacks(pid):
    """The stacks of all threads of a process, as text, as well as this machine can tell."""
    lines = []
    gdb = shutil.which('gdb')
    if gdb:
        try:
            result = subprocess.run(
                [gdb, '-p', str(pid), '-batch', '-nx', '-ex', 'set pagination off',
                 '-ex', 'thread apply all bt 40'],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=60, check=False, env={**os.environ, 'DEBUGINFOD_URLS': ''})
            lines.append(result.stdout.decode(errors='replace'))
        except subprocess.TimeoutExpired:
            lines.append('(gdb did not end)')
    return '\n'.join(lines + [text for _, text in _tasks(pid)])


def _tasks(pid):
    """Yield the state of each thread of a process, and that with its stack in the kernel as text.

    Reads nothing that needs the process's memory map, whose lock may be what is waited for.
    """
    try:
        for task in sorted(os.listdir(f'/proc/{pid}/task'), key=int):
            base = f'/proc/{pid}/task/{task}'
            with open(f'{base}/stat', encoding='utf-8', errors='replace') as f:
                name, _, rest = f.read().partition('(')[2].rpartition(')')
            state = rest.split()[0]
            try:
                with open(f'{base}/stack', encoding='utf-8') as f:
                    kernel = f.read()
            except OSError:
                kernel = ''
            yield state, f'thread {task} ({name}) state {state}\n{kernel}'
    except OSError:
        pass


def tasks_at_work():
    """All threads of the machine that run, or that wait in the kernel for what must come, as text."""
    return '\n'.join(text for pid in os.listdir('/proc') if pid.isdigit()
                     for state, text in _tasks(pid) if state in 'RD')
