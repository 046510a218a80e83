"""The machine behind a macvtap device, as a hypervisor's virtual machine is: what it sends is written to the device's file, and what is read
from that it receives. Its card is a TAP device. Both take packets with open checksums, and segments whole.

    macvtap.py MACVTAP CARD
"""

import fcntl
import os
import struct
import sys
import tempfile
import threading

# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
# The largest packet with its Ethernet and virtio-net headers
FRAME_MAX = 1 << 17


def opened(path, name):
    file = os.open(path, os.O_RDWR)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return file


def file_of(macvtap):
    """The device's file: a hypervisor has udev, which makes it."""
    with open(f"/sys/class/net/{macvtap}/ifindex") as index:
        number = index.read().strip()
    with open(f"/sys/class/net/{macvtap}/tap{number}/dev") as device:
        major, minor = map(int, device.read().split(":"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, macvtap)
        os.mknod(path, 0o020600, os.makedev(major, minor))
        return opened(path, macvtap)


def carry(source, destination):
    while True:
        try:
            frame = os.read(source, FRAME_MAX)
            os.write(destination, frame)
        except OSError:
            # A device that is down, or has no room: the frame is lost, as on any wire.
            continue


macvtap, card = sys.argv[1:]
ends = [file_of(macvtap), opened("/dev/net/tun", card)]
for ways in (ends, ends[::-1]):
    threading.Thread(target=carry, args=ways, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
