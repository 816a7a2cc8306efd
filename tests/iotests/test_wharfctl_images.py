# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl create and info, next to qemu-img."""

import json
import os
import signal
import subprocess

from wharf import *
from wharf.ctl import REFUSED, UNREACHABLE, USAGE, CtlTest
from wharf.qcow2 import KIB, MIB


class ImageTest(CtlTest):
    def setUp(self):
        super().setUp()
        self.qemu_img = find_tool('qemu-img')
        self.image = self.path('new.img')

    def make(self, *args):
        """In the test's directory."""
        return self.ctl('create', *args, cwd=self.dir)

    def not_made(self, *args, status=REFUSED):
        before = sorted(os.listdir(self.dir))
        message = self.refused('create', *args, status=status, cwd=self.dir)
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        return message

    def theirs(self, path, *options):
        return json.loads(run(self.qemu_img, 'info', '--output=json', *options, path).stdout)

    def zeros(self, path, size):
        run(self.qemu_img, 'check', '-f', 'qcow2', path)
        model = self.make_file('zeros', size=size)
        run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', model, path)
        os.unlink(model)


class CreateTest(ImageTest):
    def test_raw(self):
        for text, size in (('1000', 1000), ('3k', 3 * KIB), ('1.5M', 3 * MIB // 2), ('0', 0)):
            self.make('--force', 'new.img', text)
            self.assertEqual(os.stat(self.image).st_size, size)
        self.make('-f', 'raw', '-o', 'preallocation=falloc', 'new.img', '1M')
        self.assertGreaterEqual(os.stat(self.image).st_blocks, 2048)
        self.make('--force', '-o', 'size=5', 'new.img')
        self.assertEqual(os.stat(self.image).st_size, 5)
        self.make('a,b', '4')
        self.assertEqual(os.stat(self.path('a,b')).st_size, 4)

    def test_qcow2(self):
        self.assertIn('qcow2', self.make('-f', 'qcow2', 'new.img', '10M').stdout)
        self.zeros(self.image, 10 * MIB)
        for option, key, value in (
                ('cluster_size=4k', 'cluster-size', 4096), ('refcount_bits=1', 'refcount-bits', 1),
                ('compat=0.10', 'compat', '0.10'), ('compat=1.1', 'compat', '1.1'),
                ('lazy_refcounts=on', 'lazy-refcounts', True), ('extended-l2=on', 'extended-l2', True),
                ('compression_type=zstd', 'compression-type', 'zstd')):
            self.make('--force', '-f', 'qcow2', '-o', option, 'new.img', '1M')
            info = self.theirs(self.image)
            self.assertEqual({**info, **info['format-specific']['data']}[key], value, option)
            self.zeros(self.image, MIB)

    def test_rounded_up(self):
        self.make('-f', 'qcow2', 'new.img', '1000')
        self.assertEqual(self.theirs(self.image)['virtual-size'], 1024)

    def test_preallocation_and_what_concerns_the_file(self):
        self.make('-f', 'qcow2', '-o', 'preallocation=full,nocow=on,extent_size_hint=64k', 'new.img', '4M')
        self.assertGreaterEqual(os.stat(self.image).st_blocks, 8192)
        self.zeros(self.image, 4 * MIB)

    def test_backing(self):
        self.make('-f', 'qcow2', 'base', '3M')
        os.mkdir(self.path('sub'))
        self.make('-f', 'qcow2', '-b', '../base', '-F', 'qcow2', 'sub/top')
        info = self.theirs(self.path('sub/top'))
        self.assertEqual(info['virtual-size'], 3 * MIB)
        self.assertEqual((info['backing-filename'], info['backing-filename-format']), ('../base', 'qcow2'))
        self.make('-f', 'qcow2', '-o', 'backing_file=base,backing_fmt=qcow2', 'top', '8M')
        self.assertEqual(self.theirs(self.path('top'))['virtual-size'], 8 * MIB)
        self.zeros(self.path('top'), 8 * MIB)
        self.make('-f', 'qcow2', '-u', '-b', 'missing', '-F', 'raw', 'new.img', '1M')
        self.assertEqual(self.theirs(self.image)['backing-filename'], 'missing')

    def test_data_file(self):
        self.make('-f', 'qcow2', '-o', 'data_file=data,data_file_raw=on', 'new.img', '2M')
        data = self.theirs(self.image)['format-specific']['data']
        self.assertEqual((data['data-file'], data['data-file-raw']), (self.path('data'), True))
        self.assertEqual(os.stat(self.path('data')).st_size, 2 * MIB)
        self.zeros(self.image, 2 * MIB)

    def test_data_file_that_is_there(self):
        """What is in it stays, unless it is given up."""
        data = self.make_file('data', content=b'\xaa' * MIB)
        options = f'data_file={data},preallocation=metadata'
        self.assertIn('data_file_raw', self.not_made('-f', 'qcow2', '-o', options, 'new.img', '2M'))
        self.make('-f', 'qcow2', '-o', options + ',data_file_raw=on', 'new.img', '2M')
        with open(data, 'rb') as f:
            self.assertEqual(f.read(MIB), b'\xaa' * MIB)
        self.make('--force', '-f', 'qcow2', '-o', options, 'new.img', '2M')
        self.zeros(self.image, 2 * MIB)

    def test_json(self):
        facts = json.loads(self.ctl('create', '--json', '-f', 'qcow2', self.image, '1M').stdout)
        self.assertEqual(facts, {'image': self.image, 'format': 'qcow2', 'size': MIB})
        self.assertEqual(self.make('-q', 'other', '1M').stdout, '')

    def test_errors(self):
        self.make_file('raw', size=MIB)
        rows = (
            ((), 'IMAGE'), (('new.img',), 'large'), (('new.img', 'ten'), 'ten'), (('new.img', '-1'), '-1'),
            (('-f', 'vmdk', 'new.img', '1M'), 'vmdk'), (('-b', 'raw', '-F', 'raw', 'new.img'), 'raw'),
            (('-f', 'qcow2', '-b', 'raw', 'new.img'), '--backing-format'),
            (('-f', 'qcow2', '-F', 'raw', 'new.img', '1M'), '--backing'),
            (('-f', 'qcow2', '-u', 'new.img', '1M'), '--backing'),
            (('-f', 'qcow2', '-u', '-b', 'x', '-F', 'raw', 'new.img'), 'large'),
            (('-f', 'qcow2', '-o', 'cluster', 'new.img', '1M'), 'cluster'),
            (('-f', 'qcow2', '-o', 'cluter_size=1', 'new.img', '1M'), "'cluster-size'"),
            (('-f', 'qcow2', '-o', 'preallocation=some', 'new.img', '1M'), 'some'),
            (('-s', 'x', 'new.img', '1M'), '--socket'),
        )
        for args, word in rows:
            self.assertIn(word, self.not_made(*args, status=USAGE), args)
        rows = (
            (('-f', 'qcow2', '-o', 'cluster_size=3', 'new.img', '1M'), 'cluster-size'),
            (('-f', 'qcow2', '-b', 'missing', '-F', 'raw', 'new.img'), 'missing'),
            (('-f', 'qcow2', '-b', 'raw', '-F', 'qcow2', 'new.img'), 'qcow2'),
            (('-f', 'qcow2', '-o', 'data_file=data,compat=0.10', 'new.img', '1M'), 'data-file'),
            (('-o', 'preallocation=metadata', 'new.img', '1M'), 'metadata'),
            (('missing/new.img', '1M'), 'missing'), (('.', '1M'), 'directory'), (('raw', '1M'), '--force'),
        )
        for args, word in rows:
            self.assertIn(word, self.not_made(*args), args)

    def test_what_is_there_survives_a_mistake(self):
        content = os.urandom(1000)
        path = self.make_file('new.img', content=content)
        self.not_made('--force', '-f', 'qcow2', '-o', 'refcount_bits=3', 'new.img', '1M')
        for form in ('raw', 'qcow2'):
            self.assertIn('--force', self.not_made('-f', form, 'new.img', '1M'))
        with open(path, 'rb') as f:
            self.assertEqual(f.read(), content)

    def test_what_is_there_and_empty(self):
        for form in ('raw', 'qcow2'):
            path = self.make_file('new.img', size=0)
            inode = os.stat(path).st_ino
            self.make('-f', form, 'new.img', '1M')
            self.assertEqual(os.stat(path).st_ino, inode)
            self.make('--force', '-f', form, 'new.img', '2M')
            self.assertEqual(self.theirs(path)['virtual-size'], 2 * MIB)

    def test_device(self):
        self.need_loop()
        disk = self.make_file('disk', size=8 * MIB)
        device = run(find_tool('losetup'), '--find', '--show', disk).stdout.strip()
        self.addCleanup(run, find_tool('losetup'), '--detach', device)
        with open(device, 'r+b') as f:
            f.seek(MIB - 1)
            f.write(b'x')
        self.assertIn('--force', self.not_made('-f', 'qcow2', device, '4M'))
        self.make('--force', '-f', 'qcow2', device, '4M')
        self.assertEqual(self.theirs(device)['virtual-size'], 4 * MIB)

    def test_on_itself(self):
        """An image is no backing file of itself, however that is spelt; it keeps what it has."""
        self.make('-f', 'qcow2', 'new.img', '1M')
        os.symlink(self.image, self.path('link'))
        os.link(self.image, self.path('twin'))
        with open(self.image, 'rb') as f:
            content = f.read()
        for name in ('new.img', 'link', 'twin', self.image):
            for more in ([], ['--unsafe', '1M']):
                result = self.wharfctl('create', '--force', '-f', 'qcow2', '-b', name, '-F', 'qcow2', self.image,
                                       *more, check=False)
                self.assertNotEqual(result.returncode, 0)
                self.assertIn('its own backing file', result.stderr)
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(), content)

    def test_in_use(self):
        self.make('-f', 'qcow2', 'new.img', '1M')
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                        'file': {'driver': 'file', 'filename': self.image}})
        for form in ('raw', 'qcow2'):
            self.assertIn('lock', self.not_made('--force', '-f', form, 'new.img', '2M'))
        self.assertEqual(self.theirs(self.image, '-U')['virtual-size'], MIB)

    def start_large(self, form, path, *options):
        """Make an image of a size that takes for ever; returns wharfctl and its daemon, both at it."""
        process = subprocess.Popen(
            [os.environ['WHARFCTL'], 'create', '-f', form, '-o', ','.join(('preallocation=full', *options)),
             path, '1T'], env=self.env, stderr=subprocess.DEVNULL)
        return process, wait_until(lambda: self.busy_child(process.pid))

    def interrupt(self, process, daemon, sig):
        process.send_signal(sig)
        self.assertNotEqual(process.wait(TIMEOUT), 0)
        wait_until(lambda: not os.path.exists(f'/proc/{daemon}'))

    def test_interrupted(self):
        """Ctrl-C, and the death of wharfctl."""
        for form in ('raw', 'qcow2'):
            for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                path = self.path(f'{form}{sig}')
                self.interrupt(*self.start_large(form, path), sig)
                self.assertFalse(os.path.exists(path))

    def test_what_others_make_meanwhile_is_theirs(self):
        for form, options in (('raw', ()), ('qcow2', ()), ('qcow2', (f'data_file={self.path("data")}',))):
            started = self.start_large(form, self.image, *options)
            theirs = self.path('theirs')
            for path in (self.image, self.path('data')):
                self.make_file('theirs', content=b'theirs')
                os.rename(theirs, path)
            self.interrupt(*started, signal.SIGINT)
            for path in (self.image, self.path('data')):
                with open(path, 'rb') as f:
                    self.assertEqual(f.read(), b'theirs')
                os.unlink(path)

    def test_daemon_that_ends_badly(self):
        self.env['WHARFD'] = self.script(f'"{os.environ["WHARFD"]}" "$@"; exit 7')
        for args in (('-f', 'raw'), ('-f', 'qcow2'), ('-f', 'qcow2', '-o', 'data_file=data')):
            self.assertIn('did not end well', self.not_made(*args, 'new.img', '1M'))

    def test_daemon_that_hangs(self):
        """It says nothing any more, but lives."""
        self.env['WHARFD'] = self.script('exec 0<&- 1>&-; exec sleep 1000')
        self.assertIn('daemon', self.not_made('new.img', '1M', status=UNREACHABLE))

    def script(self, text):
        path = self.make_file('daemon', content=f'#!/bin/sh\n{text}\n'.encode())
        os.chmod(path, 0o755)
        return path

    def busy_child(self, pid):
        """Its daemon, if that has written something worth mentioning."""
        with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
            children = f.read().split()
        if not children:
            return None
        try:
            with open(f'/proc/{children[0]}/io', encoding='ascii') as f:
                written = next(line for line in f if line.startswith('wchar')).split()[1]
        except FileNotFoundError:
            return None
        return children[0] if int(written) > 4 * MIB else None

    def test_help(self):
        self.assertIn('cluster-size', self.ctl('create', '-f', 'qcow2', '-o', 'help').stdout)
        self.assertIn('nocow', self.ctl('create', '-o', 'help').stdout)
        self.assertIn('--backing', self.ctl('create', '--help').stdout)

    @normal_build_only
    def test_without_privileges(self):
        self.need_root()
        os.chmod(self.dir, 0o777)
        env = {**self.env, 'WHARFD': self.copy_for_all(os.environ['WHARFD'])}
        ctl = self.copy_for_all(os.environ['WHARFCTL'])
        run('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups',
            ctl, 'create', '-f', 'qcow2', self.image, '1M', env=env)
        self.assertEqual(os.stat(self.image).st_uid, 65534)
        run('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', ctl, 'info', self.image, env=env)


class NameTest(ImageTest):
    def test_name_that_is_not_text(self):
        """It is said that it is this, and not that the image is not there."""
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', self.image, '1M')
        name = os.fsencode(self.dir) + b'/\xff\xfe.img'
        os.rename(self.image, name)
        for command in (['info', name], ['check', name], ['snapshot', name],
                        ['create', '-f', 'qcow2', '-F', 'qcow2', '-b', name, self.image]):
            with self.subTest(command=command[0]):
                message = self.refused(*command, status=REFUSED)
                self.assertIn('is not UTF-8', message)
                self.assertIn('\\xff\\xfe.img', message)
                self.assertFalse(os.path.exists(self.image))


class InfoTest(ImageTest):
    def info(self, *args):
        return json.loads(self.ctl('info', '--output=json', *args, cwd=self.dir).stdout)

    def test_like_qemu_img(self):
        """All that it tells is here, too, and the same."""
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', self.path('base'), '2M')
        for options in ('cluster_size=64k', 'compat=0.10,cluster_size=4k', 'extended_l2=on,lazy_refcounts=on',
                        f'data_file={self.path("data")}', 'compression_type=zstd,refcount_bits=1'):
            for backing in ((), ('-b', 'base', '-F', 'qcow2')):
                run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '-o', options, *backing, self.image, '3M')
                if 'refcount_bits=1' not in options and 'data_file' not in options:
                    run(self.qemu_img, 'snapshot', '-c', 'first', self.image)
                self.compare(self.theirs(self.image), self.info(self.image))

    def compare(self, theirs, ours):
        for key, value in theirs.items():
            if key == 'children':
                continue
            if key == 'snapshots':
                self.assertEqual([s['name'] for s in ours[key]], [s['name'] for s in value])
            elif key == 'format-specific':
                self.assertEqual({**ours[key]['data'], **value['data']}, ours[key]['data'])
            else:
                self.assertEqual(ours.get(key), value, key)

    def test_encrypted(self):
        """As much as can be told without a key."""
        secret = ('--object', 'secret,id=s,data=abc', '-o', 'encrypt.key-secret=s')
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', *secret, '-o', 'encrypt.format=aes', self.image, '3M')
        self.compare(self.theirs(self.image), self.info(self.image))
        # What is said of a key by itself they alone tell. They cannot always make such an image, for they measure
        # how long that takes; it looks the same from afar.
        done = run(self.qemu_img, 'create', '-q', '-f', 'qcow2', *secret, '-o',
                   'encrypt.format=luks,encrypt.iter-time=10', self.path('luks'), '3M', check=False)
        if done.returncode:
            os.rename(self.image, self.path('luks'))
            with open(self.path('luks'), 'r+b') as f:
                f.seek(35)
                f.write(b'\2')
        info = self.info(self.path('luks'))
        self.assertEqual((info['virtual-size'], info['encrypted']), (3 * MIB, True))
        self.assertEqual(info['format-specific']['data']['encrypt'], {'format': 'luks'})
        text = self.ctl('info', self.path('luks')).stdout
        self.assertIn('encrypted: yes\n', text)
        self.assertIn('    encrypt:\n        format: luks\n', text)
        # As one of a chain.
        run(self.qemu_img, 'create', '-q', '-u', '-f', 'qcow2', '-b', 'luks', '-F', 'qcow2', self.path('top'), '4M')
        chain = self.info('--backing-chain', 'top')
        self.assertEqual([(i['virtual-size'], i.get('encrypted', False)) for i in chain],
                         [(4 * MIB, False), (3 * MIB, True)])

    def test_data_file_is_not_opened(self):
        data = self.path('data')
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '-o', f'data_file={data}', self.image, '3M')
        os.unlink(data)
        self.assertEqual(self.info(self.image)['format-specific']['data']['data-file'], data)
        self.assertIn('data', self.refused('info', '--backing-chain', self.image, status=REFUSED))

    def test_chain(self):
        run(self.qemu_img, 'create', '-q', '-f', 'raw', self.path('bottom'), '1000k')
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '-b', 'bottom', '-F', 'raw', self.path('middle'))
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '-b', 'middle', '-F', 'qcow2', self.image)
        chain = self.info('--backing-chain', 'new.img')
        self.assertEqual([i['format'] for i in chain], ['qcow2', 'qcow2', 'raw'])
        self.assertEqual([os.path.basename(i['filename']) for i in chain], ['new.img', 'middle', 'bottom'])
        self.assertEqual(chain[0]['actual-size'], os.stat(self.image).st_blocks * 512)
        self.assertEqual(self.ctl('info', '--backing-chain', self.image).stdout.count('virtual size'), 3)
        # Without being asked nothing is opened but the image itself.
        os.unlink(self.path('middle'))
        self.assertEqual(self.info('new.img')['backing-filename'], 'middle')
        self.assertIn('middle', self.refused('info', '--backing-chain', self.image, status=REFUSED))

    def test_text(self):
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', self.image, '1G')
        run(self.qemu_img, 'snapshot', '-c', 'esc\x1b[0m', self.image)
        text = self.ctl('info', self.image).stdout
        for line in (f'image: {self.image}', 'file format: qcow2', 'virtual size: 1 GiB (1073741824 bytes)',
                     'cluster_size: 65536', 'Snapshot list:', '    compat: 1.1'):
            self.assertIn(line + '\n', text)
        self.assertNotIn('\x1b', text)

    def test_raw_and_others(self):
        path = self.make_file('odd', size=1001)
        self.assertIn('1001 bytes', self.ctl('info', path).stdout)
        self.assertEqual(self.info(path)['format'], 'raw')
        path = self.make_file('vmdk', content=b'KDMV' + bytes(1000))
        self.assertIn('vmdk', self.refused('info', path, status=REFUSED))
        self.assertEqual(self.info('-f', 'raw', path)['virtual-size'], 1024)
        self.refused('info', self.path('missing'), status=REFUSED)
        self.refused('info', self.dir, status=REFUSED)
        self.refused('info', status=USAGE)

    def test_in_use(self):
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', self.image, '1M')
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                        'file': {'driver': 'file', 'filename': self.image}})
        self.assertIn('lock', self.refused('info', self.image, status=REFUSED))
        self.assertEqual(self.info('-U', self.image)['virtual-size'], MIB)


if __name__ == '__main__':
    main()
