# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU and we change the same qcow2 image by turns: requests, lengths, snapshots, at random."""

import random

from wharf import *
from wharf import nbd
from wharf.nbd import RawClient
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest

TURNS = 6


class Turns:
    """One image, with what it must read as."""

    def __init__(self, test, daemon, seed):
        self.test, self.daemon = test, daemon
        self.rng = random.Random(seed)
        self.cluster = self.rng.choice([512, 4 * KIB, 64 * KIB, 2 * MIB])
        self.model = bytearray(self.rng.randrange(1, 4 * MIB // 512) * 512)
        self.snapshots = {}
        self.image = self.create(seed)

    def create(self, seed):
        rng, size = self.rng, len(self.model)
        options = {'cluster_size': self.cluster}
        if self.cluster >= 16 * KIB and rng.random() < 0.5:
            options['extended_l2'] = 'on'
        if rng.random() < 0.3:
            options['lazy_refcounts'] = 'on'
        backing = None
        if rng.random() < 0.6:
            content = rng.randbytes(max(1, size + rng.randrange(-size, 100 * KIB)))
            backing = self.test.make_file(f'{seed}.base', content=content)
            common = min(size, len(content))
            self.model[:common] = content[:common]
        return self.test.create(f'{seed}.qcow2', str(size), backing=backing, backing_format='raw', **options)

    def a_range(self):
        size = len(self.model)
        offset = self.rng.choice([0, self.rng.randrange(size), self.rng.randrange(size) // self.cluster * self.cluster])
        return offset, min(size - offset, self.rng.choice([1, 512, 513, self.cluster, self.rng.randrange(1, size + 1)]))

    def a_length(self):
        return self.rng.choice([self.cluster, self.rng.randrange(512, 4 * MIB), len(self.model) + 512]) // 512 * 512

    def resized(self, size):
        self.model[size:] = bytes(max(0, size - len(self.model)))

    def fill(self, offset, length, byte):
        self.model[offset:offset + length] = bytes([byte]) * length

    # Our turn

    def many_at_once(self, clients):
        """Requests that touch each other, but do not overlap, on several connections."""
        at, size, sent = self.rng.randrange(len(self.model)), len(self.model), {}
        for _ in range(30):
            length = min(size - at, self.rng.choice([1, 511, 512, 4096, self.cluster // 4, self.cluster + 7]))
            if length == 0:
                break
            client, byte = self.rng.choice(clients), self.rng.choice([0, self.rng.randrange(256)])
            args = (nbd.WRITE, at, length, self.rng.choice([0, nbd.FUA]), bytes([byte]) * length)
            if byte == 0 and self.rng.random() < 0.7:
                args = (nbd.WRITE_ZEROES, at, length, self.rng.choice([0, nbd.NO_HOLE]))
            sent.setdefault(client, []).append(client.send_request(*args))
            self.fill(at, length, byte)
            at += length
        for client, cookies in sent.items():
            errors = [error for error, _ in client.recv_answers(cookies).values()]
            self.test.assertEqual(errors, [0] * len(cookies))

    def discard(self, client):
        """What is there afterwards is anybody's guess, but the same for all."""
        offset, length = self.a_range()
        self.test.assertEqual(client.error(nbd.TRIM, offset, length), 0)
        self.model[offset:offset + length] = client.read(offset, length)

    def requests(self):
        qmp = self.daemon.qmp
        qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'q', 'name': 'e', 'writable': True,
                                     'iothread': ['i0', 'i1']})
        with RawClient(self.test.socket) as first, RawClient(self.test.socket) as second:
            clients = [first.go('e', structured=True), second.go('e', structured=True)]
            for _ in range(8):
                self.many_at_once(clients)
                self.discard(self.rng.choice(clients))
            self.test.assertEqual(first.read(0, len(self.model)), bytes(self.model))
        qmp.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
        qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e'})

    def our_length(self):
        size = self.a_length()
        self.daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})
        self.resized(size)

    def our_snapshot(self):
        name = f's{len(self.snapshots)}'
        self.daemon.qmp.cmd('blockdev-snapshot-internal-sync', {'device': 'q', 'name': name})
        self.snapshots[name] = bytes(self.model)

    def we(self):
        file = {'driver': 'file', 'filename': self.image, 'discard': 'unmap',
                'cache': {'direct': self.rng.random() < 0.3}}
        self.test.add(self.daemon, self.image, **{'read-only': False, 'discard': 'unmap', 'file': file,
                                                  'detect-zeroes': self.rng.choice(['off', 'on', 'unmap'])})
        for step in self.rng.sample([self.requests, self.our_length, self.our_snapshot], 2):
            step()
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})

    # QEMU's turn

    def qemu_requests(self):
        commands = []
        for _ in range(8):
            offset, length = self.a_range()
            byte = self.rng.choice([0, self.rng.randrange(256)])
            commands.append(f'write -z {self.rng.choice(["", "-u "])}{offset} {length}' if byte == 0 else
                            f'write -P {byte} {offset} {length}')
            self.fill(offset, length, byte)
        self.test.qemu_io(self.image, *commands)

    def qemu_snapshot(self):
        """To one of those there are, of whatever length."""
        if self.snapshots:
            name = self.rng.choice(sorted(self.snapshots))
            run(self.test.qemu_img, 'snapshot', '-a', name, self.image)
            self.model[:] = self.snapshots[name]

    def qemu(self):
        self.rng.choice([self.qemu_requests, self.qemu_requests, self.qemu_snapshot])()


class TurnsTest(Qcow2WriteTest):
    def test_turns(self):
        self.socket = self.path('nbd')
        daemon = self.wharfd('--object', 'iothread,id=i0', '--object', 'iothread,id=i1',
                             '--nbd-server', f'addr.type=unix,addr.path={self.socket}')
        for seed in range(10):
            with self.subTest(seed=seed):
                turns = Turns(self, daemon, seed)
                for _ in range(TURNS):
                    turns.rng.choice([turns.we, turns.qemu])()
                    self.check(turns.image)
                    self.compare(turns.image, bytes(turns.model))


if __name__ == '__main__':
    main()
