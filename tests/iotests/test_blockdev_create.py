# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-create and the jobs that it makes: events, verbs, errors, and images that QEMU's tools judge."""

import json
import os

from wharf import *
from wharf.qcow2 import KIB, MIB, TIB

SUCCESS = ['created', 'running', 'waiting', 'pending', 'concluded']
FAILURE = ['created', 'running', 'aborting', 'concluded']


class JobTest(IoTest):
    """A daemon with a client; create() is one job from its beginning to its end."""

    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd(jsonrpc=True)
        self.client = self.daemon.qmp
        self.serial = 0

    def cmd(self, name, **arguments):
        return self.client.cmd(name, {k.replace('_', '-'): v for k, v in arguments.items()})

    def refused(self, name, *words, **arguments):
        with self.assertRaises(QmpError) as caught:
            self.cmd(name, **arguments)
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def info(self, job):
        return next(info for info in self.cmd('query-jobs') if info['id'] == job)

    def begin(self, **options):
        self.serial += 1
        job = f'job{self.serial}'
        self.cmd('blockdev-create', job_id=job,
                 options={k.replace('_', '-'): v for k, v in options.items()})
        return job

    def wait(self, job, status):
        self.client.wait_event('JOB_STATUS_CHANGE', {'id': job, 'status': status})

    def end(self, job):
        self.wait(job, 'concluded')
        info = self.info(job)
        self.cmd('job-dismiss', id=job)
        self.wait(job, 'null')
        return info

    def create(self, **options):
        info = self.end(self.begin(**options))
        self.assertNotIn('error', info, options)
        self.assertEqual(info['current-progress'], info['total-progress'])

    def fails(self, *words, **options):
        error = self.end(self.begin(**options)).get('error')
        self.assertIsNotNone(error, options)
        for word in words:
            self.assertIn(word, error)

    def add_file(self, name='image', node='file', **options):
        path = self.path(name)
        self.create(driver='file', filename=path, size=0)
        self.cmd('blockdev-add', driver='file', node_name=node, filename=path, **options)
        return path

    def slow_node(self, path, node='slow', seconds=30, **rule):
        """A node over the file node for the path, whose writes take long."""
        self.cmd('blockdev-add', driver='blkdebug', node_name=node,
                 image={'driver': 'file', 'filename': path},
                 inject_delay=[{'event': 'write_aio', 'delay-ns': int(seconds * 1e9), **rule}])


class EventTest(JobTest):
    def statuses(self, client, job):
        """What the events said that have come, in order."""
        seen = []
        while not seen or seen[-1] != 'concluded':
            event = client.wait_event('JOB_STATUS_CHANGE', {'id': job})
            seen.append(client._event_data(event)['status'])
        return seen

    def both(self):
        rpc = self.daemon.jsonrpc_client()
        rpc.cmd('subscribe', {'events': ['JOB_STATUS_CHANGE']})
        return self.daemon.qmp, rpc

    def test_events(self):
        for number, client in enumerate(self.both()):
            for job, directory, expected in (('good', '', SUCCESS), ('bad', 'missing/', FAILURE)):
                job = f'{job}{number}'
                path = self.path(f'{directory}{job}')
                client.cmd('blockdev-create', {
                    'job-id': job, 'options': {'driver': 'file', 'filename': path, 'size': 1000}})
                self.assertEqual(self.statuses(client, job), expected)
                [info] = client.cmd('query-jobs')
                self.assertEqual((info['id'], info['type'], info['status']), (job, 'create', 'concluded'))
                self.assertEqual('error' in info, expected is FAILURE)
                client.cmd('job-dismiss', {'id': job})
                client.wait_event('JOB_STATUS_CHANGE', {'id': job, 'status': 'null'})
                self.assertEqual(client.cmd('query-jobs'), [])

    def test_verbs_of_a_job_that_has_ended(self):
        for client in self.both():
            self.client = client
            job = self.begin(driver='file', filename=self.path('a'), size=0)
            self.wait(job, 'concluded')
            for verb in ('cancel', 'complete', 'finalize', 'pause', 'resume'):
                self.refused(f'job-{verb}', job, 'concluded', verb, id=job)
            self.cmd('job-dismiss', id=job)
            for verb in ('cancel', 'complete', 'finalize', 'pause', 'resume', 'dismiss'):
                self.refused(f'job-{verb}', job, id=job)

    def test_ids(self):
        options = {'driver': 'file', 'filename': self.path('a'), 'size': 0}
        for bad in ('', '1', 'a b', '#x', 'ä'):
            self.refused('blockdev-create', 'job id', job_id=bad, options=options)
        self.assertFalse(os.path.exists(self.path('a')))
        self.cmd('blockdev-create', job_id='x' * 300, options=options)
        self.refused('blockdev-create', 'already', job_id='x' * 300, options=options)
        self.wait('x' * 300, 'concluded')
        self.refused('blockdev-create', 'already', job_id='x' * 300, options=options)
        self.cmd('job-dismiss', id='x' * 300)

    def test_newest_first(self):
        for name in 'abc':
            self.cmd('blockdev-create', job_id=name,
                     options={'driver': 'file', 'filename': self.path(name), 'size': 0})
            self.wait(name, 'concluded')
        self.assertEqual([info['id'] for info in self.cmd('query-jobs')], ['c', 'b', 'a'])


class FileTest(JobTest):
    def test_sizes_and_preallocation(self):
        path = self.path('f')
        for size in (0, 1, 1000, 9 * MIB + 1):
            for mode in ('off', 'falloc', 'full'):
                self.create(driver='file', filename=path, size=size, preallocation=mode, nocow=True)
                st = os.stat(path)
                self.assertEqual(st.st_size, size)
                if mode != 'off':
                    self.assertGreaterEqual(st.st_blocks * 512, size)
                elif size:
                    self.assertLess(st.st_blocks * 512, size)
                with open(path, 'rb') as f:
                    self.assertFalse(f.read().strip(b'\0'))
                if size == 1000:
                    os.unlink(path)
        self.create(driver='file', filename=path, size=TIB)
        self.assertEqual(os.stat(path).st_mode & 0o7111, 0)

    def test_errors(self):
        path = self.path('f')
        self.fails('missing', driver='file', filename=self.path('missing/f'), size=1)
        self.fails("''", driver='file', filename='', size=1)
        self.fails(self.dir, driver='file', filename=self.dir, size=1)
        self.fails(path, "-1", driver='file', filename=path, size=-1)
        self.fails(path, 'metadata', driver='file', filename=path, size=1, preallocation='metadata')
        self.fails(path, driver='file', filename=path, size=(1 << 63) - 1)
        self.assertFalse(os.path.exists(path))
        os.symlink('nowhere', path)
        self.fails(path, driver='file', filename=path, size=1)

    def test_refused_at_once(self):
        for driver in ('raw', 'null-co', 'host_device', 'memory', 'blkdebug'):
            self.refused('blockdev-create', driver, 'support', job_id='j', options={'driver': driver})
        self.refused('blockdev-create', 'vmdk', job_id='j', options={'driver': 'vmdk'})
        self.refused('blockdev-create', 'size', job_id='j',
                     options={'driver': 'file', 'filename': self.path('f')})
        self.refused('blockdev-create', 'colour', job_id='j',
                     options={'driver': 'file', 'filename': self.path('f'), 'size': 1, 'colour': 1})
        self.assertEqual(self.cmd('query-jobs'), [])
        self.assertEqual([n for n in os.listdir(self.dir) if n == 'f'], [])

    def test_in_use(self):
        """What somebody uses is left as it is."""
        path = self.make_file('f', content=b'precious' * 512)
        self.cmd('blockdev-add', driver='qcow2', node_name='top',
                 file={'driver': 'file', 'node-name': 'below', 'filename': self.qcow2(self.path('q'))})
        before = open(self.path('q'), 'rb').read()
        self.fails(self.path('q'), 'lock', driver='file', filename=self.path('q'), size=1)
        self.fails('below', 'write', driver='qcow2', file='below', size=MIB)
        self.assertEqual(open(self.path('q'), 'rb').read(), before)
        self.create(driver='file', filename=path, size=3)
        self.assertEqual(open(path, 'rb').read(), b'\0' * 3)

    def qcow2(self, path):
        self.create(driver='file', filename=path, size=0)
        self.create(driver='qcow2', file={'driver': 'file', 'filename': path}, size=MIB)
        return path

    def test_no_space(self):
        self.need_root()
        directory = self.path('tmpfs')
        os.mkdir(directory)
        run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', directory)
        path = os.path.join(directory, 'f')
        for mode in ('falloc', 'full'):
            self.fails(path, 'space', driver='file', filename=path, size=8 * MIB, preallocation=mode)
            self.assertEqual(os.listdir(directory), [])
            self.make_file('tmpfs/f', content=b'x' * 100)
            self.fails(path, 'space', driver='file', filename=path, size=8 * MIB, preallocation=mode)
            self.assertEqual(os.stat(path).st_blocks, 0)
            node = {'driver': 'file', 'filename': path}
            self.fails('space', driver='qcow2', file=node, size=8 * MIB, preallocation=mode)
            self.assertEqual(os.stat(path).st_size, 0)
            os.unlink(path)


class InterruptTest(JobTest):
    def paused(self):
        """A job that writes a file and was told to rest before it has begun."""
        path = self.path('f')
        self.daemon.qmp.send_raw(json.dumps({'execute': 'blockdev-create', 'arguments': {
            'job-id': 'j', 'options': {'driver': 'file', 'filename': path, 'size': 1 << 40,
                                       'preallocation': 'full'}}})
            + json.dumps({'execute': 'job-pause', 'arguments': {'id': 'j'}}))
        for _ in range(2):
            self.assertEqual(self.daemon.qmp.read_reply(), {'return': {}})
        self.wait('j', 'paused')
        self.refused('job-pause', 'already', id='j')
        self.refused('job-complete', 'paused', id='j')
        return path

    def test_cancel(self):
        path = self.paused()
        self.cmd('job-cancel', id='j')
        self.wait('j', 'aborting')
        self.wait('j', 'concluded')
        self.assertIn('cancel', self.info('j')['error'])
        self.assertFalse(os.path.exists(path))

    def test_resume(self):
        path = self.paused()
        self.cmd('job-resume', id='j')
        self.refused('job-resume', 'not paused', id='j')
        self.wait('j', 'running')
        before = self.info('j')['current-progress']
        wait_until(lambda: self.info('j')['current-progress'] > before)
        self.cmd('job-cancel', id='j')
        self.wait('j', 'concluded')
        self.assertFalse(os.path.exists(path))

    def test_kill(self):
        path = self.paused()
        self.daemon.kill()
        self.assertFalse(os.path.exists(path))

    def test_quit(self):
        path = self.paused()
        self.daemon.qmp.send({'execute': 'quit'})
        for status in ('running', 'aborting', 'concluded', 'null'):
            self.wait('j', status)
        self.assertEqual(self.daemon.qmp.read_reply(), {'return': {}})
        self.assertEqual(self.daemon.wait(), 0)
        self.assertFalse(os.path.exists(path))

    def slow_qcow2(self, **rule):
        path = self.make_file('q', content=b'QFI\xfb old')
        self.slow_node(path, **rule)
        return path, self.begin(driver='qcow2', file='slow', size=64 * MIB, cluster_size=4096,
                                preallocation='metadata')

    def test_cancel_qcow2(self):
        path, job = self.slow_qcow2(seconds=0.1)
        wait_until(lambda: self.info(job)['current-progress'] > 0)
        self.cmd('job-cancel', id=job)
        self.assertIn('cancel', self.end(job)['error'])
        self.assertEqual(os.stat(path).st_size, 0)

    def test_kill_qcow2(self):
        """Before the last write, that of the header, the file is no image."""
        path, job = self.slow_qcow2(sector=0)
        info = self.info(job)
        wait_until(lambda: 0 < self.info(job)['current-progress']
                   == info['total-progress'] - 4096)
        self.daemon.kill()
        with open(path, 'rb') as f:
            self.assertEqual(f.read(512), bytes(512))

    def test_quit_qcow2(self):
        path, _ = self.slow_qcow2(seconds=0.1)
        self.daemon.quit()
        self.assertEqual(os.stat(path).st_size, 0)

    def test_drained(self):
        """Its requests wait like others while a node below it is reopened."""
        path, job = self.slow_qcow2(seconds=0.05)
        for _ in range(3):
            self.cmd('blockdev-reopen', options=[{
                'driver': 'blkdebug', 'node-name': 'slow', 'image': self.child('slow'),
                'inject-delay': [{'event': 'write_aio', 'delay-ns': 1000}]}])
        self.assertNotIn('error', self.end(job))
        run(find_tool('qemu-img'), 'check', '-f', 'qcow2', path)

    def child(self, name):
        nodes = self.cmd('query-named-block-nodes')
        return next(n for n in nodes if n['node-name'] == name)['children'][0]['node-name']


class Qcow2Test(JobTest):
    def setUp(self):
        super().setUp()
        self.qemu_img = find_tool('qemu-img')
        self.qemu_io = find_tool('qemu-io')

    def image_info(self, path):
        return json.loads(run(self.qemu_img, 'info', '-f', 'qcow2', '--output=json', path).stdout)

    def judge(self, path, size):
        """QEMU finds nothing wrong, reads zeros, and can write."""
        zeros = self.make_file('zeros', size=size)
        run(self.qemu_img, 'check', '-f', 'qcow2', path)
        run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', zeros, path)
        if size:
            run(self.qemu_io, '-f', 'qcow2', '-c', f'write -P 7 {size // 2 & ~511} 512',
                '-c', f'read -P 7 {size // 2 & ~511} 512', path)
            run(self.qemu_img, 'check', '-f', 'qcow2', path)

    @timeout(400)
    def test_matrix(self):
        path = self.add_file()
        data = self.add_file('data', 'data')
        size = 3 * MIB + 512
        kinds = [{'version': 'v2'}] + [{'refcount_bits': 1 << n} for n in range(7)]
        kinds += [{'extended_l2': True}, {'data_file': 'data'}, {'compression_type': 'zstd'},
                  {'data_file': 'data', 'data_file_raw': True}, {'lazy_refcounts': True},
                  {'data_file': 'data', 'extended_l2': True, 'refcount_bits': 64}]
        for number, kind in enumerate(kinds):
            for bits in (9, 12, 14, 16, 21):
                if kind.get('extended_l2') and bits < 14:
                    continue
                modes = ['off', 'metadata', 'falloc', 'full']
                for mode in modes if bits in (9, 16) else [modes[(number + bits) % 4]]:
                    with self.subTest(kind=kind, bits=bits, mode=mode):
                        os.truncate(data, 0)
                        self.create(driver='qcow2', file='file', size=size, cluster_size=1 << bits,
                                    preallocation=mode, **kind)
                        self.check_info(path, kind, bits, size)
                        self.judge(path, size)

    def check_info(self, path, kind, bits, size):
        info = self.image_info(path)
        specific = info['format-specific']['data']
        self.assertEqual((info['virtual-size'], info['cluster-size']), (size, 1 << bits))
        self.assertEqual(specific['compat'], '0.10' if kind.get('version') == 'v2' else '1.1')
        self.assertEqual(specific['refcount-bits'], kind.get('refcount_bits', 16))
        self.assertEqual(specific['compression-type'], kind.get('compression_type', 'zlib'))
        if 'version' not in kind:
            self.assertEqual(specific['lazy-refcounts'], kind.get('lazy_refcounts', False))
            self.assertEqual(specific['extended-l2'], kind.get('extended_l2', False))
        if 'data_file' in kind:
            self.assertEqual(specific['data-file'], self.path('data'))
            self.assertEqual(specific['data-file-raw'], kind.get('data_file_raw', False))

    def test_preallocation_takes_space(self):
        path = self.add_file()
        data = self.add_file('data', 'data')
        for mode, least in (('off', 0), ('metadata', 0), ('falloc', 8 * MIB), ('full', 8 * MIB)):
            for kind, where in (({}, path), ({'data_file': 'data'}, data)):
                self.create(driver='qcow2', file='file', size=8 * MIB, preallocation=mode, **kind)
                used = os.stat(where).st_blocks * 512
                self.assertGreaterEqual(used, least)
                self.assertLess(used, least + MIB)
                self.judge(path, 8 * MIB)

    def test_large(self):
        """As large as there can be."""
        path = self.add_file()
        for bits, size in ((9, 1 << 37), (12, 1 << 43), (16, 1 << 51), (21, (1 << 61))):
            self.create(driver='qcow2', file='file', size=size, cluster_size=1 << bits)
            self.assertEqual(self.image_info(path)['virtual-size'], size)
            run(self.qemu_img, 'check', '-f', 'qcow2', path)
        self.fails('too large', driver='qcow2', file='file', size=(1 << 37) + 512, cluster_size=512)
        self.fails('too large', driver='qcow2', file='file', size=1 << 62)
        self.create(driver='qcow2', file='file', size=0)
        self.judge(path, 0)

    def test_backing(self):
        base = self.make_file('base', content=b'abc' * 400000)
        size = 2 * MIB
        path = self.add_file()
        model = self.make_file('model', content=open(base, 'rb').read(), size=size)
        for kind in ({}, {'extended_l2': True}, {'extended_l2': True, 'preallocation': 'metadata'},
                     {'extended_l2': True, 'preallocation': 'falloc'},
                     {'version': 'v2', 'cluster_size': 512}):
            for name in (base, 'base'):
                self.create(driver='qcow2', file='file', size=size, backing_file=name,
                            backing_fmt='raw', **kind)
                run(self.qemu_img, 'check', '-f', 'qcow2', path)
                run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', model, path)
                info = self.image_info(path)
                self.assertEqual((info['backing-filename'], info['backing-filename-format']),
                                 (name, 'raw'))
        self.create(driver='qcow2', file='file', size=size, backing_file='x')
        self.assertNotIn('backing-filename-format', self.image_info(path))
        self.create(driver='qcow2', file='file', size=size, backing_file='', backing_fmt='raw')
        self.judge(path, size)
        self.create(driver='qcow2', file='file', size=size, backing_file='y' * 300, backing_fmt='raw',
                    cluster_size=512)
        self.assertEqual(self.image_info(path)['backing-filename'], 'y' * 300)

    def test_raw_data_file_keeps_its_content(self):
        content = os.urandom(MIB)
        data = self.make_file('data', content=content)
        self.cmd('blockdev-add', driver='file', node_name='data', filename=data)
        path = self.add_file()
        self.create(driver='qcow2', file='file', size=2 * MIB, data_file='data', data_file_raw=True)
        with open(data, 'rb') as f:
            self.assertEqual(f.read(), content + bytes(MIB))
        run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', data, path)

    def test_errors(self):
        path = self.add_file()
        self.add_file('other', 'readonly', read_only=True)
        self.add_file('data', 'data')
        with open(path, 'wb') as f:
            f.write(b'still here')
        rows = (
            ({'size': 1000}, 'size'), ({'size': -512}, 'size'),
            ({'file': 'nope'}, 'nope'), ({'file': 'readonly'}, 'readonly'),
            ({'file': {'driver': 'file', 'filename': self.path('missing')}}, 'missing'),
            ({'cluster_size': 0}, 'cluster-size'), ({'cluster_size': 256}, 'cluster-size'),
            ({'cluster_size': 513}, 'cluster-size'), ({'cluster_size': 1 << 22}, 'cluster-size'),
            ({'cluster_size': -1}, 'cluster-size'),
            ({'refcount_bits': 0}, 'refcount-bits'), ({'refcount_bits': 3}, 'refcount-bits'),
            ({'refcount_bits': 128}, 'refcount-bits'),
            ({'version': 'v2', 'refcount_bits': 8}, 'refcount-bits'),
            ({'version': 'v2', 'lazy_refcounts': True}, 'lazy-refcounts'),
            ({'version': 'v2', 'compression_type': 'zstd'}, 'compression-type'),
            ({'version': 'v2', 'extended_l2': True}, 'extended-l2'),
            ({'version': 'v2', 'data_file': 'data'}, 'data-file'),
            ({'extended_l2': True, 'cluster_size': 8192}, 'extended-l2'),
            ({'data_file_raw': True}, 'data-file'), ({'data_file': 'nope'}, 'nope'),
            ({'data_file': 'file'}, 'file'),
            ({'data_file': 'data', 'data_file_raw': True, 'backing_file': '/x'}, 'data-file-raw'),
            ({'backing_fmt': 'raw'}, 'backing-fmt'),
            ({'backing_file': 'y' * 1024, 'backing_fmt': 'raw'}, 'backing-file'),
            ({'backing_file': 'y' * 1000, 'cluster_size': 1024}, 'backing'),
            ({'backing_file': '/x', 'preallocation': 'metadata'}, 'extended-l2'),
            ({'backing_file': '/x', 'preallocation': 'full'}, 'extended-l2'),
            ({'encrypt': {'format': 'luks', 'key-secret': 's'}}, 'encrypt'),
        )
        for options, word in rows:
            with self.subTest(options=options):
                self.fails(word, **{'driver': 'qcow2', 'file': 'file', 'size': MIB, **options})
                self.assertEqual(open(path, 'rb').read(), b'still here')
        for options, word in (({'version': 'v4'}, 'v4'), ({'backing_fmt': 'vmdk'}, 'vmdk')):
            options = {'driver': 'qcow2', 'file': 'file', 'size': MIB,
                       **{k.replace('_', '-'): v for k, v in options.items()}}
            self.refused('blockdev-create', word, job_id='j', options=options)

    def test_device(self):
        """A device keeps its size, and what was there does not show."""
        self.need_loop()
        disk = self.make_file('disk', content=b'x' * (16 * MIB))
        device = run('losetup', '--find', '--show', disk).stdout.strip()
        self.cmd('blockdev-add', driver='host_device', node_name='device', filename=device)
        for kind in ({}, {'preallocation': 'metadata'}, {'preallocation': 'falloc'}):
            self.create(driver='qcow2', file='device', size=8 * MIB, **kind)
            run(self.qemu_img, 'check', '-f', 'qcow2', device)
            run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', self.make_file('z', 8 * MIB), device)
        self.fails('16777216', driver='qcow2', file='device', size=32 * MIB, preallocation='metadata')
        self.cmd('blockdev-del', node_name='device')

    def test_use_here(self):
        """An image made here is used here."""
        path = self.add_file()
        self.create(driver='qcow2', file='file', size=16 * MIB, cluster_size=4 * KIB)
        self.cmd('blockdev-add', driver='qcow2', node_name='q', file='file')
        self.fails('file', driver='qcow2', file='file', size=MIB)
        self.cmd('block_resize', node_name='q', size=TIB // 64)
        self.cmd('blockdev-del', node_name='q')
        run(self.qemu_img, 'check', '-f', 'qcow2', path)


if __name__ == '__main__':
    main()
