"""A terminal of 80 columns and 24 lines, for a program that is run in it: pyte reads what the program writes.

Arguments: the command. On stdin a line for each order, JSON: {"keys": TEXT} types, {"signal": N} sends one, {"screen": true} answers with a line
of JSON: "lines" as they are on the screen, "raw" all that was written since the last time, "code" when the program has ended.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

import pyte

COLUMNS, LINES = 80, 24

pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    os.environ["TERM"] = "xterm-256color"
    os.execvp(sys.argv[1], sys.argv[1:])
screen = pyte.Screen(COLUMNS, LINES)
stream = pyte.ByteStream(screen)
raw, code, orders, is_open = b"", None, b"", True

print("ready", flush=True)
while True:
    readable, _, _ = select.select([0] + ([terminal] if is_open else []), [], [])
    if terminal in readable:
        try:
            written = os.read(terminal, 65536)
        except OSError:
            written = b""
        if written:
            raw += written
            stream.feed(written)
        else:
            is_open = False
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if 0 in readable:
        more = os.read(0, 65536)
        if not more:
            break
        orders += more
        while b"\n" in orders:
            line, orders = orders.split(b"\n", 1)
            order = json.loads(line)
            if "keys" in order:
                os.write(terminal, order["keys"].encode())
            elif "signal" in order:
                os.kill(pid, order["signal"])
            else:
                answer = {"lines": screen.display, "raw": raw.decode(errors="replace"), "code": code}
                raw = b""
                print(json.dumps(answer), flush=True)
if code is None:
    os.kill(pid, 9)
