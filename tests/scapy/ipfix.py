#!/usr/bin/python3
"""IPFIX messages as scapy reads them, which shares no code with whoever wrote them.

usage: ipfix.py < MESSAGES

Reads one message a line, in hexadecimal digits, and prints the records of all of them as one JSON list.
"""

import json
import logging
import sys

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.netflow import NetflowDataflowsetV9, NetflowHeader, netflowv9_defragment


def value(found):
    """Numbers that scapy has no form for are bytes."""
    if isinstance(found, bytes):
        return int.from_bytes(found, "big")
    return found if isinstance(found, (int, str)) else float(found)


def main():
    messages = [NetflowHeader(bytes.fromhex(line)) for line in sys.stdin]
    packets = netflowv9_defragment([Ether() / IP() / UDP(sport=4739, dport=4739) / message for message in messages])
    records = []
    for packet in packets:
        if NetflowDataflowsetV9 not in packet:
            continue
        for record in packet[NetflowDataflowsetV9].records:
            records.append({name: value(found) for name, found in record.fields.items() if name != "padding"})
    json.dump(records, sys.stdout)


main()
