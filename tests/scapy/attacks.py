#!/usr/bin/python3
"""Frames as a guest sends them that wants what is not its own, built by an encoder that shares no code with eastgate.

usage: attacks.py DEVICE NAME (web1, web2 or db1: whose segments `segment` sends)

Reads one case a line (`NAME [ARGUMENT..]`), sends its frames out of DEVICE in order, and answers `sent COUNT`. What each
case must lead to is written in tests/attacks/cases.rs.
"""

import logging
import os
import sys

# It warns of interfaces that have no address, which is as it should be here.
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.config import conf
from scapy.contrib.lldp import LLDPDU, LLDPDUChassisID, LLDPDUEndOfLLDPDU, LLDPDUPortID, LLDPDUTimeToLive
from scapy.contrib.mpls import MPLS
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.eap import EAPOL
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_RR, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

OWN, OWN_V4, OWN_V6 = "02:00:00:00:00:11", "10.1.0.11", "fd00:1::11"
# The one on the sender's host, and the one on another.
WEB2 = ("02:00:00:00:00:12", "10.1.0.12", "fd00:1::12")
DB1 = ("02:00:00:00:00:21", "10.1.0.21", "fd00:1::21")
VICTIMS = (WEB2, DB1)
BROADCAST = "ff:ff:ff:ff:ff:ff"
# A MAC and addresses of the network that are nobody's.
NOBODY = ("02:00:00:00:00:99", "10.1.0.99", "fd00:1::99")
VTEPS = ("192.0.2.1", "192.0.2.2")
OPEN, CLOSED = 7000, 22
TCP_OPEN = 5432


def link(to, src=OWN, **more):
    return Ether(src=src, dst=to[0], **more)


def v4(to, src=OWN_V4, link_src=OWN, **more):
    return link(to, link_src) / IP(src=src, dst=to[1], **more)


def v6(to, src=OWN_V6, link_src=OWN, **more):
    return link(to, link_src) / IPv6(src=src, dst=to[2], **more)


def udp(dport=OPEN, text=b"attack", **more):
    return UDP(sport=4000, dport=dport, **more) / Raw(text)


def each(make):
    """One for each victim."""
    return lambda: [make(victim) for victim in VICTIMS]


def once(make):
    return lambda: [make()]


def both(*makes):
    """Each of them for each victim."""
    return lambda: [make(victim) for make in makes for victim in VICTIMS]


# ------------------------------------------------------------------------------------------------ ARP and ND


def arp(src=OWN, dst=BROADCAST, **fields):
    fields = {"hwsrc": OWN, "psrc": OWN_V4, "pdst": NOBODY[1], **fields}
    return Ether(src=src, dst=dst) / ARP(**fields)


def somebody_elses_arp():
    return ARP(op=2, hwsrc=OWN, psrc=WEB2[1], hwdst=DB1[0], pdst=DB1[1])


def behind_snap(payload, length=None):
    """As 802.2 has it: a length, LLC, SNAP, and the ethertype behind those."""
    return Dot3(src=OWN, dst=BROADCAST, len=length) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x806) / payload


def advertisement(target, src=OWN_V6, to=DB1, mac=OWN, hlim=255):
    return (
        link(to)
        / IPv6(src=src, dst=to[2], hlim=hlim)
        / ICMPv6ND_NA(R=0, S=1, O=1, tgt=target)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


def solicitation(src, mac=OWN):
    group = ("33:33:ff:00:00:21", "", "ff02::1:ff00:21")
    return link(group) / IPv6(src=src, dst=group[2], hlim=255) / ICMPv6ND_NS(tgt=DB1[2]) / ICMPv6NDOptSrcLLAddr(lladdr=mac)


ALL_NODES = ("33:33:00:00:00:01", "", "ff02::1")


def behind_an_extension_header():
    inner = ICMPv6ND_NA(R=0, S=1, O=1, tgt=WEB2[2]) / ICMPv6NDOptDstLLAddr(lladdr=OWN)
    return link(DB1) / IPv6(src=OWN_V6, dst=DB1[2], hlim=255) / IPv6ExtHdrHopByHop() / inner


def in_a_fragment():
    whole = bytes(IPv6(src=OWN_V6, dst=DB1[2], hlim=255) / ICMPv6ND_NA(tgt=WEB2[2]) / ICMPv6NDOptDstLLAddr(lladdr=OWN))[40:]
    return link(DB1) / IPv6(src=OWN_V6, dst=DB1[2], hlim=255) / IPv6ExtHdrFragment(nh=58, id=5, m=1) / Raw(whole[:24])


def router_advertisement(to=ALL_NODES):
    link_local = "fe80::ff:fe00:11"
    return (
        link(to)
        / IPv6(src=link_local, dst=to[2], hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
        / ICMPv6NDOptSrcLLAddr(lladdr=OWN)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
    )


def redirect():
    return (
        link(DB1)
        / IPv6(src="fe80::ff:fe00:11", dst=DB1[2], hlim=255)
        / ICMPv6ND_Redirect(tgt=OWN_V6, dst=WEB2[2])
        / ICMPv6NDOptDstLLAddr(lladdr=OWN)
    )


def dhcp_offer():
    offer = BOOTP(op=2, yiaddr=NOBODY[1], siaddr=OWN_V4, chaddr=bytes.fromhex("020000000021"))
    options = DHCP(options=[("message-type", "offer"), ("server_id", OWN_V4), ("router", OWN_V4), "end"])
    return link((BROADCAST,)) / IP(src=OWN_V4, dst="255.255.255.255") / UDP(sport=67, dport=68) / offer / options


def dhcpv6_advertise():
    return v6(DB1) / UDP(sport=547, dport=546) / DHCP6_Advertise(trid=7)


# ------------------------------------------------------------------------------------------------ other link layers


def lldp():
    tlvs = (
        LLDPDUChassisID(subtype=4, id=OWN)
        / LLDPDUPortID(subtype=3, id=OWN)
        / LLDPDUTimeToLive(ttl=120)
        / LLDPDUEndOfLLDPDU()
    )
    return Ether(src=OWN, dst="01:80:c2:00:00:0e", type=0x88CC) / tlvs


def bpdu():
    return Dot3(src=OWN, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP(rootmac=OWN, bridgemac=OWN)


# ------------------------------------------------------------------------------------------------ state


def tcp(to, flags, sport=4100, dport=TCP_OPEN, **more):
    return v4(to) / TCP(sport=sport, dport=dport, flags=flags, **more)


def quoting_nothing(to):
    """An error about a connection of the victim's that there is not."""
    quoted = IP(src=to[1], dst=OWN_V4) / UDP(sport=4444, dport=5555) / Raw(b"quoted..")
    return v4(to) / ICMP(type=3, code=3) / quoted


def quoting_nothing_v6(to):
    return v6(to) / ICMPv6DestUnreach(code=4) / IPv6(src=to[2], dst=OWN_V6) / UDP(sport=4444, dport=5555) / Raw(b"quoted..")


# ------------------------------------------------------------------------------------------------ fragments

identification = 100


def fragment(to, payload, offset, more, proto=17, ident=None):
    global identification
    identification += 1
    ident = identification if ident is None else ident
    return v4(to, flags="MF" if more else 0, frag=offset, proto=proto, id=ident) / Raw(payload)


def datagram(size):
    """A datagram to the open port, whole, of so many bytes."""
    return bytes(IP(src=OWN_V4, dst=DB1[1]) / udp(text=b"x" * (size - 8)))[20:]


def overlapping(to):
    whole, ident = datagram(64), 60000 + VICTIMS.index(to)
    # The second one begins in the middle of the first, to say something else of what was looked at.
    return [fragment(to, whole[:32], 0, True, ident=ident), fragment(to, b"y" * 40, 1, False, ident=ident)]


def twice_the_same(to):
    whole, ident = datagram(64), 60010 + VICTIMS.index(to)
    first = fragment(to, whole[:32], 0, True, ident=ident)
    return [first, fragment(to, whole[:32], 0, True, ident=ident)]


def past_the_end(to):
    whole, ident = datagram(64), 60020 + VICTIMS.index(to)
    return [fragment(to, whole[:32], 0, True, ident=ident), fragment(to, b"z" * 64, 8190, False, ident=ident)]


def odd_size(to):
    return fragment(to, datagram(64)[:30], 0, True)


def two_fragment_headers(to):
    return (
        v6(to)
        / IPv6ExtHdrFragment(nh=44, id=9, offset=0, m=0)
        / IPv6ExtHdrFragment(nh=17, id=10, offset=0, m=0)
        / udp()
    )


def flat(make):
    return lambda: [frame for victim in VICTIMS for frame in make(victim)]


# ------------------------------------------------------------------------------------------------ headers


def options_by_hand(to, options):
    return v4(to, options=options) / udp()


def quoted_length(to, delta):
    """An IPv4 header that tells more bytes than there are, or fewer than a header has."""
    whole = bytes(IP(src=OWN_V4, dst=to[1]) / udp())
    return link(to) / IP(src=OWN_V4, dst=to[1], len=max(0, len(whole) + delta)) / udp()


def wrong_header_checksum(to):
    right = IP(bytes(IP(src=OWN_V4, dst=to[1]) / udp())).chksum
    return v4(to, chksum=right ^ 0x5555) / udp()


def wrong_tcp_checksum(to):
    right = IP(bytes(IP(src=OWN_V4, dst=to[1]) / TCP(sport=4100, dport=TCP_OPEN, flags="S", seq=1)))[TCP].chksum
    return tcp(to, "S", seq=1, chksum=right ^ 0x5555)


def as_if_it_had_ports(to, proto):
    """A protocol without ports, its bytes those of a datagram to the open one."""
    return v4(to, proto=proto) / Raw(datagram(32))


CASES = {
    "arp-request-of-others": once(lambda: arp(psrc=WEB2[1])),
    "arp-reply-of-others": once(lambda: arp(op=2, dst=DB1[0], psrc=WEB2[1], hwdst=DB1[0], pdst=DB1[1])),
    "arp-announcement-of-others": once(lambda: arp(psrc=WEB2[1], pdst=WEB2[1])),
    "arp-mac-unlike-the-frames": once(lambda: arp(hwsrc=WEB2[0])),
    "arp-as-somebody-else": once(lambda: arp(src=WEB2[0], hwsrc=WEB2[0], psrc=WEB2[1])),
    "arp-of-other-lengths": lambda: [arp(hwlen=5), arp(plen=16), arp(hwtype=6), arp(ptype=0x86DD), arp(op=9)],
    "arp-behind-a-priority-tag": once(lambda: link((BROADCAST,)) / Dot1Q(vlan=0, prio=7) / somebody_elses_arp()),
    "arp-behind-tags": lambda: [
        link((BROADCAST,)) / Dot1Q(vlan=7) / somebody_elses_arp(),
        link((BROADCAST,)) / Dot1Q(vlan=0) / Dot1Q(vlan=7) / somebody_elses_arp(),
        link((BROADCAST,)) / Dot1AD(vlan=7) / Dot1Q(vlan=7) / somebody_elses_arp(),
    ],
    "arp-behind-snap": once(lambda: behind_snap(somebody_elses_arp())),
    "arp-behind-a-wrong-length": lambda: [behind_snap(somebody_elses_arp(), length) for length in (3, 1400)],
    "nd-advertisement-of-others": once(lambda: advertisement(WEB2[2])),
    "nd-solicitation-of-others": once(lambda: solicitation(WEB2[2])),
    "nd-mac-of-others": once(lambda: advertisement(OWN_V6, mac=WEB2[0])),
    "nd-from-afar": once(lambda: advertisement(OWN_V6, hlim=64)),
    "nd-behind-an-extension-header": once(behind_an_extension_header),
    "nd-in-a-fragment": once(in_a_fragment),
    "router-advertisement": lambda: [router_advertisement(), router_advertisement(DB1)],
    "redirect": once(redirect),
    "dhcp-server": once(dhcp_offer),
    "dhcpv6-server": once(dhcpv6_advertise),
    "mac-of-others": each(lambda to: v4(to, link_src=NOBODY[0]) / udp()),
    "mac-of-nobody": both(
        lambda to: v4(to, link_src="00:00:00:00:00:00") / udp(), lambda to: v4(to, link_src="01:00:5e:00:00:01") / udp()
    ),
    "address-of-others": both(lambda to: v4(to, NOBODY[1]) / udp(), lambda to: v6(to, NOBODY[2]) / udp()),
    "address-of-others-behind-a-priority-tag": each(
        lambda to: link(to) / Dot1Q(vlan=0) / IP(src=NOBODY[1], dst=to[1]) / udp()
    ),
    "lldp": once(lldp),
    "stp": once(bpdu),
    "pause": once(lambda: Ether(src=OWN, dst="01:80:c2:00:00:01", type=0x8808) / Raw(b"\0\1\xff\xff" + bytes(42))),
    "eapol": once(lambda: Ether(src=OWN, dst="01:80:c2:00:00:03") / EAPOL(version=2, type=1)),
    "mpls": each(lambda to: link(to) / MPLS(label=16, ttl=64) / IP(src=OWN_V4, dst=to[1]) / udp()),
    "other-ethertypes": both(
        lambda to: link(to, type=0x88B5) / Raw(bytes(46)),
        lambda to: link(to, type=0x8137) / Raw(bytes(46)),
        lambda to: link(to, type=0x0601) / Raw(bytes(46)),
    ),
    "to-the-underlay": lambda: [v4((DB1[0], vtep)) / udp() for vtep in VTEPS],
    "tunnel-to-a-vtep": lambda: [
        v4((DB1[0], vtep)) / UDP(sport=50000, dport=4789) / VXLAN(flags="Instance", vni=5001) / (v4(WEB2) / udp())
        for vtep in VTEPS
    ],
    "closed-port": both(lambda to: v4(to) / udp(CLOSED), lambda to: v6(to) / udp(CLOSED), lambda to: tcp(to, "S", dport=CLOSED)),
    "empty-datagram": each(lambda to: v4(to) / UDP(sport=4000, dport=CLOSED)),
    "protocols-without-ports": both(
        *(lambda to, proto=proto: as_if_it_had_ports(to, proto) for proto in (0, 2, 47, 50, 51, 103, 253, 255))
    ),
    "gre": each(lambda to: v4(to) / GRE(proto=0x800) / IP(src=NOBODY[1], dst=to[1]) / udp()),
    "never-opened": both(
        lambda to: tcp(to, "A", sport=4201, seq=7, ack=9), lambda to: tcp(to, "R", sport=4202, seq=7)
    ),
    "flags-of-nobody": both(
        *(lambda to, flags=flags: tcp(to, flags, sport=4203) for flags in ("", "SF", "SR", "FPU", "SRFPAU"))
    ),
    "icmp-error-about-nothing": both(quoting_nothing, quoting_nothing_v6),
    "icmp-reply-to-nothing": both(
        lambda to: v4(to) / ICMP(type=0, id=7, seq=1) / Raw(b"reply"), lambda to: v6(to) / ICMPv6EchoReply(id=7) / Raw(b"reply")
    ),
    "fragment-too-small-for-its-header": each(lambda to: fragment(to, datagram(64)[:8], 0, True, proto=6)),
    "fragment-over-a-header": each(lambda to: fragment(to, datagram(64)[8:], 1, False, proto=6)),
    "fragment-over-another": flat(overlapping),
    "fragment-twice": flat(twice_the_same),
    "fragment-past-the-end": flat(past_the_end),
    "fragment-of-odd-size": each(odd_size),
    "fragment-without-its-first": each(lambda to: fragment(to, bytes(32), 8, False)),
    "two-fragment-headers": each(two_fragment_headers),
    "first-fragment-to-a-closed-port": each(
        lambda to: v4(to, flags="MF", id=61000 + VICTIMS.index(to)) / UDP(sport=4000, dport=CLOSED, len=64) / Raw(bytes(24))
    ),
    "ip-length-too-long": each(lambda to: quoted_length(to, 600)),
    "ip-length-too-short": each(lambda to: quoted_length(to, -1000)),
    "ip-header-length": each(lambda to: v4(to, ihl=4) / udp()),
    "ip-version": each(lambda to: v4(to, version=5) / udp()),
    "ip-checksum": each(wrong_header_checksum),
    "tcp-checksum": each(wrong_tcp_checksum),
    "udp-length": each(lambda to: v4(to) / udp(len=4)),
    "tcp-header-length": each(lambda to: tcp(to, "S", dataofs=3)),
    "source-route": both(
        lambda to: options_by_hand(to, [IPOption_LSRR(routers=[NOBODY[1]])]),
        lambda to: options_by_hand(to, [IPOption_SSRR(routers=[NOBODY[1]])]),
        lambda to: v6(to) / IPv6ExtHdrRouting(type=0, addresses=[NOBODY[2]], segleft=1) / udp(),
    ),
    "options-past-their-end": each(lambda to: options_by_hand(to, [IPOption_RR(length=32, routers=[])])),
    "land": lambda: [link(WEB2) / IP(src=OWN_V4, dst=OWN_V4) / udp(), link(WEB2) / IPv6(src=OWN_V6, dst=OWN_V6) / udp()],
    "loopback": both(
        lambda to: v4(to, "127.0.0.1") / udp(),
        lambda to: link(to) / IP(src=OWN_V4, dst="127.0.0.1") / udp(),
        lambda to: v6(to, "::1") / udp(),
    ),
    "impossible-sources": both(*(lambda to, src=src: v4(to, src) / udp() for src in ("224.0.0.5", "255.255.255.255", "240.0.0.1"))),
    "mapped-addresses": each(lambda to: v6(to, "::ffff:10.1.0.12") / udp()),
    "to-a-mac-of-nobody": once(lambda: v4((NOBODY[0], WEB2[1])) / udp()),
    "to-a-group": lambda: [
        v4(("01:00:5e:01:01:01", "239.1.1.1")) / udp(),
        v6(("33:33:00:00:12:34", "", "ff02::1234")) / udp(),
        v4((BROADCAST, "10.1.0.255")) / udp(),
        v4((BROADCAST, "255.255.255.255")) / udp(),
    ],
    "to-the-real-mac": both(lambda to: v4(to) / udp(CLOSED), lambda to: v6(to) / udp(CLOSED)),
}


def segment(to, sport, dport, flags, seq, ack, text=""):
    """A segment that the test has worked out, from whoever runs this."""
    own = dict(zip(("web1", "web2", "db1"), ((OWN, OWN_V4), WEB2, DB1)))
    (mac, address), (to_mac, to_address, *_) = own[sys.argv[2]][:2], own[to]
    packet = IP(src=address, dst=to_address) / TCP(sport=int(sport), dport=int(dport), flags=flags, seq=int(seq), ack=int(ack))
    return [Ether(src=mac, dst=to_mac) / packet / Raw(text.encode())]


def marker(text):
    return [v4(victim) / udp(text=f"marker {text}".encode()) for victim in VICTIMS]


def main():
    # On one processor the frames stay in order.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    socket = conf.L2socket(iface=sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        frames = {"segment": segment, "marker": marker}.get(name, CASES.get(name))(*arguments)
        for frame in frames:
            socket.send(frame)
        print("sent", len(frames), flush=True)


main()
