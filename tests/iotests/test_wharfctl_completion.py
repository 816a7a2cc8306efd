# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion of wharfctl, through bash as a user has it."""

import os

from wharf import *
from wharf.ctl import CtlTest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'ctl', 'wharfctl.bash')

# Completes the line $1 as bash does: with the words split at COMP_WORDBREAKS.
DRIVER = r'''
source "$2"
[ -z "$3" ] || COMP_WORDBREAKS=$3
COMP_LINE=$1 COMP_POINT=${#1}
compopt() { :; }
_wharfctl
printf '%s\n' "${COMPREPLY[@]}"
'''


class Completion(CtlTest):
    def setUp(self):
        super().setUp()
        self.bash = find_tool('bash')
        bin_dir = self.path('bin')
        os.mkdir(bin_dir)
        os.symlink(os.environ['WHARFCTL'], f'{bin_dir}/wharfctl')
        self.env['PATH'] = f'{bin_dir}:{os.environ["PATH"]}'

    def complete(self, line, breaks='', **env):
        """What bash would offer for the last word; without what stands before its last '=', at which
        words are broken unless other breaks are given.
        """
        done = run(self.bash, '--norc', '-c', DRIVER, 'bash', line, SCRIPT, breaks, cwd=self.dir,
                   env={**self.env, 'WHARF_SOCKET': self.socket, **env})
        self.assertEqual(done.stderr, '')
        return done.stdout.split('\n')[:-1] if done.stdout != '\n' else []

    def test_without_a_daemon(self):
        self.assertEqual(self.complete('wharfctl mo'), ['mount'])
        self.assertEqual(self.complete('wharfctl m'), ['mount'])
        self.assertIn('umount', self.complete('wharfctl '))
        self.assertEqual(self.complete('wharfctl blockdev-'), [])
        self.assertEqual(self.complete('wharfctl --js'), ['--json'])
        self.assertEqual(self.complete('wharfctl mount --wr'), ['--writable'])
        self.assertEqual(self.complete('wharfctl mount --allow-other=a'), ['auto'])
        self.assertEqual(self.complete('wharfctl check --rep'), ['--repair='])
        self.assertEqual(sorted(self.complete('wharfctl check --repair=')), ['all', 'leaks'])
        self.assertEqual(self.complete('wharfctl rm '), [])
        self.assertEqual(self.complete('wharfctl help umo'), ['umount'])
        self.assertEqual(self.complete('wharfctl ls '), [])

    def test_files(self):
        self.make_file('disk one.img')
        self.make_file('disk.img')
        self.assertEqual(self.complete('wharfctl mount disk.'), ['disk.img'])
        self.assertEqual(sorted(self.complete('wharfctl mount disk.img di')), ['disk one.img', 'disk.img'])
        self.assertEqual(self.complete('wharfctl --socket=disk.'), ['disk.img'])
        self.assertEqual(self.complete('wharfctl umount -l disk.'), ['disk.img'])

    def test_with_a_daemon(self):
        self.daemon()
        self.assertEqual(self.complete('wharfctl blockdev-d'), ['blockdev-del'])
        self.assertEqual(self.complete('wharfctl help blockdev-d'), ['blockdev-del'])
        self.assertEqual(self.complete('wharfctl blockdev-add dr'), ['driver='])
        self.assertEqual(self.complete('wharfctl blockdev-add driver=fi'), ['file'])
        self.assertIn('filename=', self.complete('wharfctl blockdev-add driver=file '))
        self.assertEqual(self.complete('wharfctl blockdev-add driver=file read-only='), ['on', 'off'])
        self.assertEqual(self.complete('wharfctl blockdev-add driver=file cache.d'), ['cache.direct='])
        self.assertEqual(self.complete('wharfctl events BLOCK_EXPORT'), ['BLOCK_EXPORT_DELETED'])
        self.make_file('disk.img')
        self.assertEqual(self.complete('wharfctl blockdev-add driver=file filename=disk'), ['disk.img'])

    def test_names(self):
        self.need_fuse()
        image = self.make_file('disk.img', 512)
        self.daemon()
        self.ctl('export', image, self.path('mnt'))
        self.assertEqual(self.complete('wharfctl rm d'), ['disk'])
        self.assertEqual(self.complete('wharfctl block-export-del id='), ['disk'])
        self.assertEqual(self.complete('wharfctl blockdev-del node-name=d'), ['disk.node'])
        # Another daemon than the default one.
        line = f'wharfctl -s {self.socket} rm d'
        self.assertEqual(self.complete(line, WHARF_SOCKET='/nonexistent'), ['disk'])

    def test_words_broken_elsewhere(self):
        """Users may take '=' out of COMP_WORDBREAKS; candidates are whole words then."""
        line = 'wharfctl mount --allow-other=a'
        self.assertEqual(self.complete(line, breaks=' \t\n'), ['--allow-other=auto'])


if __name__ == '__main__':
    main()
