# SPDX-License-Identifier: GPL-2.0-or-later
"""The base class of wharfctl's tests."""

import json
import os
import shutil

from .iotest import IoTest

# Exit statuses.
DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3


class CtlTest(IoTest):
    """Runs wharfctl against self.socket, with an environment of the test's own."""

    def setUp(self):
        super().setUp()
        self.socket = self.path('wharfd.rpc')
        self.runtime = self.path('run')
        os.mkdir(self.runtime, 0o700)
        self.env = {k: v for k, v in os.environ.items() if k not in ('WHARF_SOCKET', 'NO_COLOR')}
        self.env.update(XDG_RUNTIME_DIR=self.runtime, LC_ALL='C.UTF-8')

    def ctl(self, *args, status=DONE, sock=None, **kwargs):
        """Run it, check its exit status, and that it tells why on stderr exactly if it failed."""
        env = {**self.env, 'WHARF_SOCKET': sock or self.socket}
        done = self.wharfctl(*args, env=env, check=False, **kwargs)
        self.assertEqual(done.returncode, status, f'{args}\n{done.stdout}\n{done.stderr}')
        if status:
            self.assertRegex(done.stderr, r'^wharfctl: \S')
        else:
            self.assertEqual(done.stderr, '')
        return done

    def ctl_json(self, *args, **kwargs):
        return json.loads(self.ctl('--json', *args, **kwargs).stdout)

    def refused(self, *args, status=USAGE, **kwargs):
        """Run it, expect it to fail, return what it says."""
        done = self.ctl(*args, status=status, **kwargs)
        self.assertEqual(done.stdout, '')
        return done.stderr

    def daemon(self, *args):
        """A wharfd that listens at self.socket."""
        return self.wharfd(*args, name='wharfd', jsonrpc=True)

    def copy_for_all(self, binary):
        """The build directory may lie where nobody may look."""
        copy = shutil.copy(binary, self.path(os.path.basename(binary)))
        os.chmod(copy, 0o755)
        return copy
