# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that boots from an NBD export: all it does is read a sector, tell it, and write another."""

import os
import struct

from wharf import *
from wharf.nbd_test import MIB, NbdTest

SECTOR = 512
READ_AT, WRITE_AT = 1000, 3000  # sectors
LOADED, BUFFER = 0x7c00, 0x8000  # addresses in the guest
SERIAL, EXIT = 0x3f8, 0xf4  # ports
DONE, FAILED = 0x10, 0x11  # what it says to the latter; QEMU's status is twice that and one


def word(n):
    return struct.pack('<H', n)


def packet(sector):
    """What the BIOS wants to know of a transfer of one sector to or from the buffer (int 0x13, 0x42 and 0x43)."""
    return struct.pack('<BBHHHQ', 16, 0, 1, BUFFER, 0, sector)


def boot_sector():
    """The guest: real mode, DL is the disk. Jumps are short, their distances computed where they are."""
    fail = b'\xb0' + bytes([FAILED]) + b'\xe6' + bytes([EXIT])  # mov al, FAILED; out EXIT, al
    put = b'\xba' + word(SERIAL) + b'\xee'  # mov dx, SERIAL; out dx, al
    tell = b'\xac\x84\xc0\x74' + bytes([len(put) + 2]) + put  # lodsb; test al, al; jz behind it
    tell += b'\xeb' + bytes([256 - len(tell) - 2])  # jmp to its begin

    def transfer(function, at):
        # mov si, packet; mov ax, function; int 0x13; jnc over the failure
        return b'\xbe' + word(at) + b'\xb8' + word(function << 8) + b'\xcd\x13\x73' + bytes([len(fail)]) + fail

    packets = LOADED + SECTOR - 2 - 32
    code = b'\xfc\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc' + word(LOADED)  # cld; all segments 0; mov sp, LOADED
    code += transfer(0x42, packets)
    code += b'\x52\xbe' + word(BUFFER) + tell + b'\x5a'  # push dx; mov si, BUFFER; ...; pop dx
    code += b'\xfe\x06' + word(BUFFER)  # inc byte [BUFFER]
    code += transfer(0x43, packets + 16)
    code += b'\xb0' + bytes([DONE]) + b'\xe6' + bytes([EXIT]) + b'\xf4'  # mov al, DONE; out EXIT, al; hlt
    return code.ljust(SECTOR - 2 - 32, b'\0') + packet(READ_AT) + packet(WRITE_AT) + b'\x55\xaa'


class Guest(NbdTest):
    def setUp(self):
        super().setUp()
        self.qemu = find_tool('qemu-system-x86_64', 'qemu-system-x86')
        self.token = b'A token: ' + os.urandom(8).hex().encode()
        self.image = self.make_file('disk.img', 4 * MIB, boot_sector())
        with open(self.image, 'r+b') as f:
            f.seek(READ_AT * SECTOR)
            f.write(self.token)

    def boot(self, *device):
        """Run the guest and check what it has told, and that the export has what it wrote."""
        guest = run(self.qemu, '-nodefaults', '-no-user-config', '-display', 'none', '-machine', 'pc,accel=tcg',
                    '-m', '16', '-boot', 'c', '-serial', 'stdio', '-device', f'isa-debug-exit,iobase={EXIT},iosize=4',
                    '-blockdev', 'raw,node-name=disk,file.driver=nbd,file.server.type=unix,'
                    f'file.server.path={self.socket},file.export=disk', *device, check=False)
        self.assertEqual((guest.returncode, guest.stderr), (2 * DONE + 1, ''))
        self.assertIn(self.token.decode(), guest.stdout)
        self.assertEqual(self.connected('disk').read(WRITE_AT * SECTOR, SECTOR), self.written())

    def written(self):
        return (b'B' + self.token[1:]).ljust(SECTOR, b'\0')

    def test_ide(self):
        self.node(image=self.image)
        self.export(name='disk')
        self.boot('-device', 'ide-hd,drive=disk')
        self.assertEqual(self.image_bytes(self.image, WRITE_AT * SECTOR, SECTOR), self.written())

    def test_virtio_and_qcow2(self):
        image = self.path('disk.qcow2')
        run(find_tool('qemu-img'), 'convert', '-f', 'raw', '-O', 'qcow2', self.image, image)
        self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': 't0'})
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'n0',
                                             'file': {'driver': 'file', 'filename': image}})
        self.export(name='disk', iothread='t0')
        self.boot('-device', 'virtio-blk-pci,drive=disk')
        self.close_clients()
        self.delete()
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        run(find_tool('qemu-img'), 'check', image)
        run(find_tool('qemu-img'), 'convert', '-O', 'raw', image, self.image)
        self.assertEqual(self.image_bytes(self.image, WRITE_AT * SECTOR, SECTOR), self.written())


if __name__ == '__main__':
    main()
