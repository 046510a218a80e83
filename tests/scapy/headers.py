#!/usr/bin/python3
"""Datagrams for a VXLAN tunnel end point, built by an encoder that shares no code with it.

usage: headers.py DEVICE OWN_ADDRESS VTEP_ADDRESS VTEP_MAC

Reads one case a line (`NAME [ARGUMENT..]`), sends its datagrams out of DEVICE in order, and answers `sent COUNT`.
What each case must lead to is written in tests/interop.rs.
"""

import logging
import os
import random
import struct
import sys

# It warns of interfaces that have no address, which is as it should be here.
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.config import conf
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

DEVICE, OWN, VTEP, VTEP_MAC = sys.argv[1:5]
V6 = ":" in VTEP
STRANGER = "2001:db8::66" if V6 else "192.0.2.66"

FAR1, WEB1 = "02:00:00:00:00:31", "02:00:00:00:00:11"
NETWORK, STRICT, UNSERVED = 5001, 5002, 5999
NOT_ECT, ECT0, CE = 0, 2, 3


def inner(payload=b"payload", src_mac=FAR1, src="10.1.0.31", dport=7000, tos=0, dst="10.1.0.11"):
    return Ether(src=src_mac, dst=WEB1) / IP(src=src, dst=dst, tos=tos) / UDP(sport=4000, dport=dport) / Raw(payload)


def vxlan(frame, vni=NETWORK):
    return bytes(VXLAN(flags="Instance", vni=vni) / frame)


def outer(payload, src=OWN, tos=0, **udp):
    """The whole frame; the UDP checksum is zero unless `udp` says otherwise."""
    ip = IPv6(src=src, dst=VTEP, tc=tos) if V6 else IP(src=src, dst=VTEP, tos=tos, flags="DF")
    fields = {"sport": 50000, "dport": 4789, "chksum": 0, **udp}
    if fields["chksum"] == "right":
        del fields["chksum"]
    return Ether(dst=VTEP_MAC) / ip / UDP(**fields) / Raw(payload)


def pieces(size):
    """A good datagram in outer fragments of `size` bytes."""
    whole = outer(vxlan(inner(b"in pieces" * 40)), chksum="right")
    link, packet = Ether(dst=VTEP_MAC), whole.payload
    if V6:
        packet = IPv6(src=OWN, dst=VTEP) / IPv6ExtHdrFragment(id=7) / packet.payload
        return [link / piece for piece in fragment6(packet, size + 48)]
    packet = packet.__class__(bytes(packet))
    packet.flags, packet.chksum, packet.id = 0, None, random.randrange(1, 65536)
    return [link / piece for piece in fragment(packet, size)]


def reserved_bits(vni):
    good = vxlan(inner(), vni)
    for bit in range(64):
        if bit != 4 and not 32 <= bit < 56:
            header = int.from_bytes(good[:8], "big") | 1 << 63 - bit
            yield outer(header.to_bytes(8, "big") + good[8:])


def overlapping():
    first, second, *rest = pieces(128)
    shifted = second.copy()
    if V6:
        shifted[IPv6ExtHdrFragment].offset -= 1
    else:
        shifted[IP].frag -= 1
        del shifted[IP].chksum
    return [first, shifted, second, *rest]


def wrong_checksum():
    right = Ether(bytes(outer(vxlan(inner()), chksum="right")))
    return [outer(vxlan(inner()), chksum=(right[UDP].chksum ^ 0x5555) or 1)]


def nested():
    address = IPv6(src="fd00:1::31", dst=VTEP) if V6 else IP(src="10.1.0.31", dst=VTEP)
    frame = Ether(src=FAR1, dst=WEB1) / address / UDP(sport=50000, dport=4789) / Raw(vxlan(inner(b"nested")))
    return [outer(vxlan(frame))]


def cut():
    """A frame that ends inside its IP header, at every byte of it."""
    whole = vxlan(inner())
    return [outer(whole[: 8 + 14 + length]) for length in range(1, 20)]


def fuzz(seed, count):
    """Good datagrams with bytes changed, cut off or made up, the same for the same seed."""
    rng = random.Random(int(seed))
    mutants = []
    for _ in range(int(count)):
        data = bytearray(vxlan(inner(rng.randbytes(rng.randrange(0, 64)), tos=rng.randrange(256)), NETWORK))
        kind = rng.randrange(4)
        if kind == 0:
            data = bytearray(rng.randbytes(rng.randrange(0, 200)))
        elif kind == 1:
            del data[rng.randrange(len(data)):]
        # Most keep their VXLAN header, so that what is behind it is reached.
        start = rng.choice([0, 8, 8, 8, 20, 22])
        if len(data) > start:
            for _ in range(rng.randrange(1, 12)):
                data[rng.randrange(start, len(data))] = rng.randrange(256)
        mutants.append(outer(bytes(data)))
    return mutants


CASES = {
    "good": lambda *text: [outer(vxlan(inner(" ".join(text).encode() or b"payload")))],
    "good-in-strict": lambda: [outer(vxlan(inner(), STRICT))],
    "right-checksum": lambda: [outer(vxlan(inner()), chksum="right")],
    "wrong-checksum": wrong_checksum,
    "reserved-bits": lambda: list(reserved_bits(NETWORK)),
    "reserved-bits-in-strict": lambda: list(reserved_bits(STRICT)),
    "i-flag-clear": lambda: [outer(b"\0" + vxlan(inner())[1:]), outer(b"\xf7" + vxlan(inner())[1:])],
    "truncated": lambda: [outer(vxlan(inner())[:length]) for length in range(22)],
    "cut": cut,
    "udp-length-too-long": lambda: [outer(vxlan(inner()), len=1000)],
    "fragments": lambda: pieces(128),
    "fragment-alone": lambda: pieces(128)[:1],
    "fragments-overlap": overlapping,
    "unknown-vtep": lambda: [outer(vxlan(inner()), src=STRANGER)],
    "unknown-vni": lambda: [outer(vxlan(inner(), UNSERVED))],
    "inner-vlan": lambda: [outer(vxlan(Ether(src=FAR1, dst=WEB1) / Dot1Q(vlan=7) / inner().payload))],
    "congested": lambda: [outer(vxlan(inner(b"congested", tos=ECT0)), tos=CE)],
    "capable": lambda: [outer(vxlan(inner(b"capable", tos=ECT0)), tos=ECT0)],
    "congested-not-capable": lambda: [outer(vxlan(inner(tos=NOT_ECT)), tos=CE)],
    "nested": nested,
    "bad-source-mac": lambda: [
        outer(vxlan(inner(src_mac=mac))) for mac in ("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00")
    ],
    "mac-spoofed": lambda: [outer(vxlan(inner(src_mac=WEB1)))],
    "ip-spoofed": lambda: [outer(vxlan(inner(src="10.1.0.77")))],
    "unknown_host": lambda: [outer(vxlan(inner(src_mac="02:00:00:00:00:77")))],
    "denied": lambda: [outer(vxlan(inner(dport=22)))],
    "fuzz": fuzz,
}


def main():
    # On one processor the frames stay in order.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    socket = conf.L2socket(iface=DEVICE)
    assert vxlan(inner())[:8] == struct.pack("!II", 0x08000000, NETWORK << 8)
    print("ready", flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        frames = CASES[name](*arguments)
        for frame in frames:
            socket.send(frame)
        print("sent", len(frames), flush=True)


main()
