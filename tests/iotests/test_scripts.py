# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/run as a newcomer uses it."""

import glob
import os
import signal
import subprocess

from wharf import *

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'scripts', 'run')


@normal_build_only  # the script runs that one
class ScriptsRun(IoTest):
    def setUp(self):
        super().setUp()
        self.need_fuse()

    def start(self, *args):
        """Start scripts/run; its output goes to a file."""
        self.output = self.path('output')
        with open(self.output, 'wb') as f:
            self.process = subprocess.Popen([RUN, *args], stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                            env={**os.environ, 'TMPDIR': self.dir}, start_new_session=True)

    def text(self):
        with open(self.output, encoding='utf-8', errors='replace') as f:
            return f.read()

    def wait_for(self, text):
        def there():
            if self.process.poll() is not None:
                self.fail(f'scripts/run ended with {self.process.returncode}\n{self.text()}')
            return text in self.text()
        wait_until(there, what=f'{text!r} in the output of scripts/run')

    def end(self, sig):
        """End it as a terminal or a service manager does, and expect nothing left."""
        os.kill(self.process.pid, sig)
        self.assertEqual(self.process.wait(TIMEOUT), 0, self.text())
        left = [name for name in os.listdir(self.dir) if name.startswith('wharf-run')]
        self.assertEqual(left, [])

    def test_demonstration(self):
        find_tool('mkfs.ext4')
        self.start()
        self.wait_for('Hello from inside the image.')
        self.end(signal.SIGTERM)

    def test_image_and_missing_mountpoint(self):
        image = self.make_file('disk, with a comma.img', content=b'content' * 1000)
        file = self.path('seen')
        self.start(image, file)
        self.wait_for('stop ')
        run('cmp', image, file)
        self.end(signal.SIGINT)
        self.assertFalse(os.path.exists(file))

    def test_writable_and_present_mountpoint(self):
        image = self.make_file('disk.img', content=b'content' * 1000)
        file = self.mountpoint('seen')
        self.start('--writable', image, file)
        self.wait_for('stop ')
        self.fs().write_at(file, 0, b'CHANGED')
        self.end(signal.SIGTERM)
        self.assertEqual(os.stat(file).st_size, 0)
        with open(image, 'rb') as f:
            self.assertEqual(f.read(7), b'CHANGED')

    def test_dead_mount_of_a_run_before(self):
        image = self.make_file('disk.img', content=b'content' * 1000)
        file = self.mountpoint('seen')
        self.start(image, file)
        self.wait_for('stop ')
        with open(glob.glob(self.path('wharf-run*/pid'))[0], encoding='ascii') as f:
            os.kill(int(f.read()), signal.SIGKILL)
        self.process.wait(TIMEOUT)
        self.assertTrue(self.mounted(file))
        self.start(image, file)
        self.wait_for('stop ')
        run('cmp', image, file)
        self.end(signal.SIGTERM)

    def test_mistakes(self):
        for args in (('only-an-image',), ('a', 'b', 'c'), ('--no-such-option',)):
            done = run(RUN, *args, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn('run [--writable] IMAGE FILE', done.stderr)
        done = run(RUN, self.path('missing.img'), self.path('seen'), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('missing.img', done.stderr)
        image = self.make_file('disk.img', content=b'content')
        for file in (self.path('no/such/dir/seen'), '/dev/null'):
            done = run(RUN, image, file, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(file, done.stderr)
        self.assertTrue(os.path.exists('/dev/null'))


if __name__ == '__main__':
    main()
