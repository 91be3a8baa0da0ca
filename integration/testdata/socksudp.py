"""Datagrams through a SOCKS5 proxy by PySocks, one task a line of output.

usage: socksudp.py PROXY-PORT TASK [ARGUMENT...]
"""
import os
import select
import socket
import struct
import sys

import socks

COOKIE = 0x2112A442  # RFC 5389 section 6


def new_socket(port):
    s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
    s.set_proxy(socks.SOCKS5, "127.0.0.1", port)
    s.settimeout(5)
    return s


def binding(s, server, change=0):
    """A STUN binding request. Returns who answered and our address as they see it."""
    number = os.urandom(12)
    attributes = struct.pack(">HHI", 3, 4, change) if change else b""  # CHANGE-REQUEST, RFC 5780
    s.sendto(struct.pack(">HHI", 1, len(attributes), COOKIE) + number + attributes, server)
    while True:
        data, peer = s.recvfrom(2048)
        if data[8:20] == number:
            break
    rest = data[20:]
    while rest:
        kind, length = struct.unpack(">HH", rest[:4])
        if kind == 0x20:  # XOR-MAPPED-ADDRESS
            port, addr = struct.unpack(">HI", rest[6:12])
            return peer, "%s:%d" % (socket.inet_ntoa(struct.pack(">I", addr ^ COOKIE)), port ^ COOKIE >> 16)
        rest = rest[4 + (length + 3 & ~3):]
    raise ValueError("no address in the answer")


def stun(port, first, second):
    """One socket is seen alike by every server, and hears from one it never wrote to."""
    s = new_socket(port)
    seen = {binding(s, (host, p))[1] for host in (first, second) for p in (3478, 3479)}
    print("mapped", *sorted(seen))
    peer, mapped = binding(s, (first, 3478), change=6)  # another address and port
    print("answered by %s:%d" % peer, "same" if {mapped} == seen else mapped)


def echo(port, host, size, count):
    """Echoes count datagrams of a size and says how many came back whole.

    There are no more under way than fit into the usual buffer of a socket.
    """
    window = max(1, min(16, 65536 // size))
    s = new_socket(port)
    waiting, sent, right = {}, 0, 0
    while sent < count or waiting:
        while sent < count and len(waiting) < window:
            data = struct.pack(">I", sent) + os.urandom(size - 4)
            waiting[sent] = data
            s.sendto(data, (host, 7))
            sent += 1
        if not select.select([s], [], [], 5)[0]:
            break
        data, _ = s.recvfrom(1 << 16)
        number = struct.unpack(">I", data[:4])[0]
        if waiting.pop(number, None) == data:
            right += 1
    print("right", right)


if __name__ == "__main__":
    task, proxy = sys.argv[2], int(sys.argv[1])
    if task == "stun":
        stun(proxy, *sys.argv[3:5])
    else:
        echo(proxy, sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
