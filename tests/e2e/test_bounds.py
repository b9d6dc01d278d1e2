#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Only registered ranges are touched, with the rights they were registered with: at the initiator,
and at the target where the initiator lies."""

import random
import socket
import struct

from ferry_e2e import check, main
from ferry_node import BASE, EACCES, EINVAL, ENOTSUP, ERANGE, KIB, MIB, OK, READ_ACCESS, WRITE_ACCESS, Node, pair

ROOM = MIB
READ_ONLY, WRITE_ONLY, LOCAL_ONLY = BASE + 16 * MIB, BASE + 32 * MIB, BASE + 48 * MIB
MAPPED_ONLY = BASE + 64 * MIB
V2_OK, V2_REJECTED = 0x4D43545600000000, 0x4D43545600000001
HELLO, WELCOME, FRAME = 0xF933765952524546, 0xFA33765952524546, 0x334D5246
LAST = (1 << 64) - 1
RESET = "reset"


def scene(lab):
    a, b = pair(lab, ROOM)
    for at, access in ((READ_ONLY, READ_ACCESS), (WRITE_ONLY, WRITE_ACCESS), (LOCAL_ONLY, 0)):
        b.memory(ROOM, at=at, access=access)
    b("map", at=MAPPED_ONLY, len=ROOM)
    for at in (BASE, READ_ONLY, WRITE_ONLY, LOCAL_ONLY, MAPPED_ONLY):
        b("fill", at=at, len=ROOM, seed=at)
    a("fill", at=BASE, len=ROOM, seed=1)
    a("refresh", segment=a.segment(b))
    return a, b


def intact(b):
    for at in (BASE, READ_ONLY, WRITE_ONLY, LOCAL_ONLY, MAPPED_ONLY):
        check(b.same(at, ROOM, at), f"0x{at:x} was touched")


# What nobody may do to the target: op, address, length, how the initiator has to refuse it.
LIES = [
    ("write", MAPPED_ONLY, 8, ERANGE),
    ("read", MAPPED_ONLY, 8, ERANGE),
    ("write", 8, 8, ERANGE),
    ("write", BASE + ROOM - 4, 8, ERANGE),
    ("write", BASE - 4, 8, ERANGE),
    ("write", BASE + ROOM, 8, ERANGE),
    ("read", BASE + 8, ROOM, ERANGE),
    ("write", LAST - 3, 8, ERANGE),
    ("read", BASE + ROOM // 2, LAST - BASE, ERANGE),
    ("read", BASE, LAST, ERANGE),
    ("write", READ_ONLY, 8, EACCES),
    ("read", WRITE_ONLY, 8, EACCES),
    ("write", LOCAL_ONLY, 8, (EACCES, ERANGE)),
    ("read", LOCAL_ONLY, 8, (EACCES, ERANGE)),
]


def refused_here(lab):
    a, b = scene(lab)
    for op, remote, size, status in LIES:
        reply = a.ask("submit", **a.args(b, op, size, remote=remote))  # by the call, not by the peer
        wanted = status if isinstance(status, tuple) else (status,)
        check(reply["status"] in wanted, op, hex(remote), size, reply)
        check("request 0" in reply["error"], "the text does not give the index:", reply)
    # Local ranges; and one bad request refuses the whole call, nothing of it happens.
    for local, size in ((BASE + ROOM - 4, 8), (BASE - 4, 8), (8, 8), (LAST - 3, 8)):
        reply = a.transfer(b, "write", size, local=local)
        check(reply["status"] == ERANGE, hex(local), reply)
    reply = a.transfer(b, "write", ROOM // 4, n=5)
    check(reply["status"] == ERANGE and "request 4" in reply["error"], reply)
    intact(b)
    # What is allowed works.
    for op, remote in (("read", READ_ONLY), ("write", WRITE_ONLY), ("read", BASE), ("write", BASE)):
        reply = a.transfer(b, op, ROOM, remote=remote)
        check(reply["status"] == OK, reply)


def data_port(b):
    document = b("describe", what="segment")["json"]
    return document["tcp_data_port"], int(document["transports"]["tcp"]["tcp_incarnation"], 16)


def exchange(port, request, size, timeout=5):
    """Sends all, then up to `size` bytes of the answer; "" where the target ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        try:
            s.sendall(request)
            got = b""
            while len(got) < size:
                part = s.recv(size - len(got))
                if not part:
                    break
                got += part
            return got
        except (ConnectionResetError, BrokenPipeError):
            return RESET


def mooncake(op, addr, size, version):
    code = (1 if op == "write" else 0) | (0x80 if version == 2 else 0)
    return struct.pack("<QQB7x", size, addr, code)


def refused_there(lab):
    """A liar speaks to the data port itself, in upstream's framing: status 1, or just the end."""
    a, b = scene(lab)
    port, _ = data_port(b)
    for op, addr, size, _ in LIES:
        for version in (1, 2):
            # A part of the payload only: it must not be stored either.
            payload = b"\xee" * min(size, 4 * KIB) if op == "write" else b""
            got = exchange(port, mooncake(op, addr, size, version) + payload, 8)
            if version == 2:
                check(got == RESET or (len(got) == 8 and struct.unpack("<Q", got)[0] == V2_REJECTED), op, hex(addr), got)
            else:
                check(got in (b"", RESET), op, hex(addr), got)
            intact(b)
    # Without payload in the way the status arrives for sure.
    for op, addr, size, _ in LIES:
        got = exchange(port, mooncake(op, addr, size, 2), 8)
        check(got == struct.pack("<Q", V2_REJECTED), op, hex(addr), got)
    got = exchange(port, mooncake("write", BASE, 0, 2), 8)
    check(got == struct.pack("<Q", V2_REJECTED), "length 0", got)
    # And the truth is served.
    got = exchange(port, mooncake("read", READ_ONLY, 16, 2), 24)
    check(len(got) == 24 and struct.unpack_from("<Q", got)[0] == V2_OK, got)
    check(got[8:].hex() == b("peek", at=READ_ONLY, len=16)["hex"], got)
    intact(b)
    check(a.transfer(b, "read", ROOM)["status"] == OK, "the node serves no more")


def frame(kind, descriptors, payload, cookie=1, n=None, length=None):
    head = struct.pack("<IBBHQQQ", FRAME, kind, 0, len(descriptors) if n is None else n, cookie,
                       len(payload) if length is None else length, 0)
    return head + b"".join(struct.pack("<QQ", addr & LAST, size) for addr, size in descriptors) + payload


def refused_in_frames(lab):
    """The same between Ferry nodes: a bad element is refused, its neighbours are done."""
    a, b = scene(lab)
    port, incarnation = data_port(b)
    hello = struct.pack("<QHHIQQ", HELLO, 3, 32, 0, incarnation, 0)
    for op, addr, size, _ in LIES:
        if size > ROOM or addr > LAST - 64:
            continue
        payload = b"\xee" * size if op == "write" else b""
        kind, there = (1, WRITE_ONLY) if op == "write" else (2, READ_ONLY)
        good = bytes.fromhex(b("peek", at=there, len=8)["hex"])  # written over by what is there
        request = hello + frame(kind, [(there, 8), (addr, size)], good + payload if op == "write" else b"",
                                length=8 + size)
        got = exchange(port, request, 40 + 32 + 16 + (8 if op == "read" else 0))
        check(got != RESET and len(got) >= 40 + 32 + 16, op, hex(addr), got)
        ranges = struct.unpack_from("<IIII", got, 72)
        check(ranges[0] == 1 and ranges[1] == 0 and ranges[2] == 1 and ranges[3] in (1, 2), op, hex(addr), ranges)
        intact(b)
    # Tables that wrap or do not add up, stale and strange greetings, and noise.
    chance = random.Random(1)
    strange = [
        hello + frame(1, [(LAST - 3, 8)], b"\xee" * 8),
        hello + frame(1, [(BASE, 16)], b"\xee" * 8),
        hello + frame(1, [(BASE, 8)], b"\xee" * 8, n=1001),
        hello + frame(1, [(BASE, 0)], b""),
        hello + frame(7, [(BASE, 8)], b"\xee" * 8),
        hello + frame(2, [(BASE, LAST)], b"", length=LAST),
        struct.pack("<QHHIQQ", HELLO, 3, 32, 0, incarnation ^ 1, 0) + frame(1, [(WRITE_ONLY, 8)], b"\xee" * 8),
        struct.pack("<QHHIQQ", HELLO, 99, 9, 0, incarnation, 0) + frame(1, [(WRITE_ONLY, 8)], b"\xee" * 8),
    ] + [hello + chance.randbytes(chance.randrange(1, 300)) for _ in range(100)] \
      + [chance.randbytes(chance.randrange(24, 300)) for _ in range(100)]
    sockets = []
    for request in strange:
        s = socket.create_connection(("127.0.0.1", port), timeout=5)
        s.sendall(request)
        sockets.append(s)
    check(a.transfer(b, "read", ROOM)["status"] == OK, "the node serves no more")
    for s in sockets:
        s.close()
    check(a.transfer(b, "read", ROOM)["status"] == OK, "the node serves no more")
    intact(b)


def refused_at_registration(lab):
    """Memory that is not there or not the host's: before a peer finds out."""
    a, b = pair(lab, ROOM)
    there, hole = BASE + 80 * MIB, BASE + 81 * MIB
    b("map", at=there, len=ROOM)
    for at, size in ((hole, 8), (there, ROOM + 1), (there - 1, ROOM), (4, 8)):
        reply = b.ask("register", at=at, len=size)
        check(reply["status"] == EINVAL and f"buffer 0: 0x{at:x}+{size} is not memory" in reply["error"], hex(at), reply)
    reply = b.ask("register", at=there, len=ROOM // 2, n=3)
    check(reply["status"] == EINVAL and "buffer 2: " in reply["error"], reply)
    reply = b.ask("register", at=there, len=ROOM, location="cuda:0")
    check(reply["status"] == ENOTSUP and "device memory" in reply["error"] and "tcp" in reply["error"], reply)
    b("register", at=there, len=ROOM)  # nothing of it was left
    reply = a.transfer(b, "write", ROOM, remote=there)
    check(reply["status"] == OK, reply)
    reply = a.transfer(b, "write", 8, remote=hole)
    check(reply["status"] == ERANGE, reply)


if __name__ == "__main__":
    main(refused_here, refused_there, refused_in_frames, refused_at_registration)
