"""A machine whose TCP does what it is told, line by line: also to crash, to begin at a number, and to send segments with
wrong checksums. Each line is answered by one."""

import errno
import socket
import struct
import sys
import threading
import time

from scapy.all import Ether, ICMP, ICMPv6EchoRequest, IP, IPv6, TCP, UDP, Raw, conf, getmacbyip, sendp

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
RECEIVED, SENT = 1, 2
DEVICE = "eth0"
PATIENCE = 20
CRASH = b"crash"

connections = {}
listeners = {}
held = []


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(listener, how):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(connection, how), daemon=True).start()


def echo(connection, how):
    try:
        while heard := connection.recv(1000):
            if heard == CRASH:
                vanish(connection)
                return
            connection.sendall(heard)
            if how == "once":
                break
        if how != "hold":
            connection.close()
        else:
            held.append(connection)
    except OSError:
        pass


def vanish(connection):
    """No FIN and no RST, as when the power fails."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    connection.close()


def listen(address, port, how="echo"):
    listener = socket.socket(family(address), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, int(port)))
    listener.listen(100)
    listeners.setdefault(port, []).append(listener)
    threading.Thread(target=serve, args=(listener, how), daemon=True).start()
    return "listening"


def stop(port):
    for listener in listeners.pop(port):
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    return "stopped"


def begin(sport, address, number):
    connection = socket.socket(family(address), socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", int(sport)))
    if number is not None:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SENT)
        connection.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("I", int(number) % 2**32))
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        # Which the other option has taken back.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.settimeout(PATIENCE)
    return connection


def open_(name, sport, address, port, number=None):
    until = time.monotonic() + PATIENCE
    while True:
        connection = begin(sport, address, number)
        try:
            connection.connect((address, int(port)))
            connections[name] = connection
            return "open"
        except OSError as error:
            # Refused; or the connection before waits for its last acknowledgement.
            connection.close()
            if error.errno not in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL) or time.monotonic() > until:
                raise


def say(name):
    connection = connections[name]
    connection.sendall(b"hello")
    heard = b""
    while len(heard) < 5:
        more = connection.recv(5 - len(heard))
        if not more:
            return "closed"
        heard += more
    return "heard"


def say_only(name):
    connections[name].sendall(b"hello")
    return "said"


def hear(name):
    return f"heard {len(connections[name].recv(1000))}"


def crash(name):
    vanish(connections.pop(name))
    return "crashed"


def crash_other(name):
    connections[name].sendall(CRASH)
    return "told"


def reset(name):
    connection = connections.pop(name)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return "reset"


def finish(name):
    connections[name].shutdown(socket.SHUT_WR)
    return "finished"


def close(name):
    connections.pop(name).close()
    return "closed"


def numbers(connection):
    found = []
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    for queue in (SENT, RECEIVED):
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        found.append(struct.unpack("I", connection.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, 4))[0])
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, -1)
    return found


def send(address, packet, mac):
    own = conf.ifaces.dev_from_name(DEVICE).mac
    sendp(Ether(src=own, dst=mac) / packet, iface=DEVICE, verbose=False)
    return "sent"


def ip(source, address):
    return IPv6(src=source, dst=address) if ":" in address else IP(src=source, dst=address)


def spoil(name, kind, mac):
    """A segment of a connection, as it might be but for its checksum."""
    connection = connections[name]
    sent, received = numbers(connection)
    (source, sport), (address, port) = connection.getsockname()[:2], connection.getpeername()[:2]
    flags, payload, ahead = {
        "rst": ("RA", b"", 0),
        "fin": ("FA", b"", 0),
        "data": ("PA", b"x" * 1000, 0),
        # Behind it what is sent at the window's left edge would seem too old.
        "far": ("PA", b"x" * 1400, 60000),
        "syn": ("S", b"", 1000000000),
    }[kind]
    acknowledged = 0 if kind == "syn" else received
    segment = TCP(sport=sport, dport=port, seq=(sent + ahead) % 2**32, ack=acknowledged, flags=flags, window=500, chksum=0x1234)
    return send(address, ip(source, address) / segment / Raw(payload), mac)


def spoil_beginning(kind, source, address, port, mac):
    beginning = {
        "syn": TCP(sport=999, dport=int(port), seq=1, flags="S", chksum=0x1234),
        "udp": UDP(sport=999, dport=int(port), chksum=0x1234) / Raw(b"question"),
        "echo": ICMPv6EchoRequest(id=999, cksum=0x1234) if ":" in address else ICMP(id=999, chksum=0x1234),
    }[kind]
    return send(address, ip(source, address) / beginning, mac)


WORDS = {
    "listen": listen,
    "stop": stop,
    "open": open_,
    "say": say,
    "say-only": say_only,
    "hear": hear,
    "crash": crash,
    "crash-other": crash_other,
    "reset": reset,
    "finish": finish,
    "close": close,
    "spoil": spoil,
    "spoil-beginning": spoil_beginning,
}

print("ready", flush=True)
for line in sys.stdin:
    word, *arguments = line.split()
    try:
        answer = WORDS[word](*arguments)
    except OSError as error:
        answer = f"failed: {error}"
    print(answer, flush=True)
