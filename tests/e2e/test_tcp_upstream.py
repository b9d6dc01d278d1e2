#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Mooncake's framing of the tcp transport, v1 and v2, against programs that keep to it byte by byte:
clients of our target as upstream's are and as the format allows, and servers as upstream's are."""

import contextlib
import json
import re
import select
import socket
import struct
import threading
import time

from ferry_e2e import build_dir, check, main, pattern, wait_until

OK, EACCESS, EIO, EUNREACH, ECONNRESET = 0, -21, -22, -40, -41
NODE = build_dir() / "tests" / "e2e" / "transport_node"
PLUGIN = build_dir() / "transports" / "ferry_transport_tcp.so"
LEN = 8 << 20
GOOD, REFUSED = bytes.fromhex("00000000 5654434d"), bytes.fromhex("01000000 5654434d")


def request(opcode, address, size, padding=b"\xa5" * 7):
    return struct.pack("<QQB", size, address, opcode) + padding


def receive(connection, size):
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        check(piece, f"the connection ended after {len(data)} of {size} bytes")
        data += piece
    return bytes(data)


def ended(connection):
    """By FIN, not by RST."""
    connection.settimeout(5)
    check(connection.recv(1) == b"", "bytes instead of the end")


class Node:
    def __init__(self, lab, *keys):
        self.process = lab.start([NODE, PLUGIN, LEN, "core.bind=127.0.0.1", *keys], stdin=True)
        self.address = int(self.process.wait_for(r"^ready (\d+)")[1])
        self.port = int(self.process.wait_for(r"^attr tcp_data_port (\d+)")[1])
        self.seen, self.lists = 0, 0

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def say(self, line, answer):
        self.process.write(line + "\n")
        return self.hear(answer)

    def hear(self, answer):
        end = time.monotonic() + 10
        while not (match := re.compile(answer, re.M).search(self.process.output(), self.seen)):
            check(time.monotonic() < end, "no", answer)
            time.sleep(0.005)
        self.seen = match.end()
        return match.groups()

    def transfer(self, op, byte, size, want=OK):
        status = int(self.say(f"{op} {byte} {size}", rf"^done {self.lists} (\S+)")[0])
        self.lists += 1
        check(status == want, f"{op}: {status}, not {want}")


# ---- our target ------------------------------------------------------------------------------


def worked_examples(lab):
    """A WRITE and a READ of 16 bytes, v2 and v1, any padding."""
    node = Node(lab)
    with node.connect() as c:
        c.sendall(request(0x81, node.address, 16) + b"ABCDEFGHIJKLMNOP")
        check(receive(c, 8) == GOOD)
        c.sendall(request(0x80, node.address, 16, b"\0" * 7))
        check(receive(c, 24) == GOOD + b"ABCDEFGHIJKLMNOP")
        c.sendall(request(0x01, node.address, 4) + b"1234")
        c.sendall(request(0x00, node.address, 16))
        check(receive(c, 16) == b"1234EFGHIJKLMNOP")
        c.shutdown(socket.SHUT_WR)
        ended(c)


def half_closed_write(lab):
    """As clients of old servers acknowledge for themselves: the end without a reset."""
    node = Node(lab)
    data = pattern("v1", LEN)
    for size in (1, 5000, LEN):
        with node.connect() as c:
            c.sendall(request(0x01, node.address, size) + data[:size])
            c.shutdown(socket.SHUT_WR)
            ended(c)
        with node.connect() as c:
            c.sendall(request(0x00, node.address, size))
            check(receive(c, size) == data[:size])


def pipelined(lab):
    """Thousands of requests before the first answer is read, of both versions and kinds."""
    node = Node(lab)
    out, want = [], []
    for i in range(2000):
        at, data = node.address + i * 1000, pattern(i, 1 + i * 7 % 900)
        v2 = i % 3 != 0
        out.append(request(0x81 if v2 else 0x01, at, len(data)) + data)
        out.append(request(0x80 if i % 5 else 0x00, at, len(data)))
        want += [GOOD if v2 else b"", GOOD if i % 5 else b"", data]
    out, want = b"".join(out), b"".join(want)
    with node.connect() as c:
        sender = threading.Thread(target=c.sendall, args=(out,))
        sender.start()
        check(receive(c, len(want)) == want)
        sender.join()
        for i in range(0, 4000, 7):  # and in pieces that cut through everything
            c.sendall(out[i:i + 7])
            time.sleep(0.0003)


def refused_v2(lab):
    """What came before is answered, the refusal arrives although nobody reads the body, then the end."""
    node = Node(lab)
    beyond = node.address + LEN - 10
    for op, address, size in ((0x81, beyond, 11), (0x80, beyond, 11), (0x81, node.address, 0),
                              (0x80, (1 << 64) - 4, 8), (0x81, 16, 4 << 20)):
        with node.connect() as c:
            c.sendall(request(0x81, node.address, 3) + b"abc" + request(op, address, size)
                      + (b"x" * size if op == 0x81 else b"") + request(0x81, node.address, 3) + b"xyz")
            check(receive(c, 16) == GOOD + REFUSED)
            ended(c)
    with node.connect() as c:  # READs are answered together, up to the refused one
        c.sendall(b"".join(request(0x80, address, 3) for address in (node.address, beyond + 8, node.address)))
        check(receive(c, 19) == GOOD + b"abc" + REFUSED)
        ended(c)
    with node.connect() as c:
        c.sendall(request(0x80, node.address, 3))
        check(receive(c, 11) == GOOD + b"abc", "a request behind the refused one was done")


def refused_v1(lab):
    node = Node(lab)
    with node.connect() as c:
        c.sendall(request(0x00, node.address + LEN, 1))
        ended(c)
    with node.connect() as c, contextlib.suppress(ConnectionResetError):
        c.sendall(request(0x01, node.address + LEN, 8) + b"12345678")
        check(c.recv(1) == b"")
    with node.connect() as c:
        c.sendall(request(0x80, node.address, 1))
        check(receive(c, 9) == GOOD + b"\0")


def slow_reader_blocks_nobody(lab):
    node = Node(lab)
    with node.connect() as slow, node.connect() as quick:
        slow.sendall(request(0x80, node.address, LEN) * 8)
        time.sleep(0.1)
        for _ in range(20):
            quick.sendall(request(0x80, node.address, 64))
            check(receive(quick, 72)[:8] == GOOD)
        check(receive(slow, 8 * (LEN + 8))[:8] == GOOD)


def many_short_connections(lab):
    node = Node(lab)
    idle = [node.connect() for _ in range(100)]
    for i in range(500):
        with node.connect() as c:
            c.sendall(request(0x81, node.address + i, 1) + b"z")
            check(receive(c, 8) == GOOD)
    for c in idle:  # they are never closed from our side
        c.sendall(request(0x80, node.address, 1))
        check(receive(c, 9) == GOOD + b"z")
        c.close()


# ---- our initiator ---------------------------------------------------------------------------


class Server:
    """As upstream's: one request after the other on a connection, exact reads. `once`: one request, as
    before 0.3.10. `refuse`: from that request on, all are."""

    def __init__(self, once=False, refuse=None, word=REFUSED):
        self.once, self.refuse, self.word = once, refuse, word
        self.memory = bytearray(LEN)
        self.requests, self.connections, self.failures = [], 0, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, c):
        with c, contextlib.suppress(ConnectionError):
            while True:
                head = c.recv(24, socket.MSG_WAITALL)
                if len(head) < 24:
                    return
                size, address, opcode = struct.unpack("<QQB", head[:17])
                self.requests.append((opcode, address, size))
                if self.refuse is not None and len(self.requests) > self.refuse:
                    c.sendall(self.word if opcode & 0x80 else b"")
                    return
                if opcode & 0x7F == 1:
                    data = receive(c, size)
                    self.memory[address - 4096:address - 4096 + size] = data
                    if opcode & 0x80:
                        c.sendall(GOOD)
                else:
                    c.sendall((GOOD if opcode & 0x80 else b"") + self.memory[address - 4096:][:size])
                if self.once:
                    # Its end is the client's acknowledgement, so nothing may be left unread.
                    if opcode & 0x7F == 1 and not select.select([c], [], [], 2)[0]:
                        self.failures.append("the client does not half-close after a WRITE")
                    return


def initiator(lab, server, *attrs):
    node = Node(lab)
    node.say(f"peer 127.0.0.1:1 4096 {' '.join(attrs)}", r"^peer")
    check(node.say("attach 2000", r"^attach (\S+)") == ("0",))
    return node


def to_v2(lab):
    for attrs in (["tcp_proto_version=2"], ["tcp_proto_version=3"]):
        server = Server()
        node = initiator(lab, server, f"tcp_data_port={server.port}", *attrs)
        node.transfer("write", 7, LEN)
        check(server.memory == b"\7" * LEN)
        for size in (1, 63, 65536, LEN):
            node.transfer("read", 0, size)
        check([r[0] for r in server.requests] == [0x81] + [0x80] * 4 and server.connections == 1)


def refused_by_v2(lab):
    """The element at fault fails; the next transfer finds a connection."""
    for word, want in ((REFUSED, EACCESS), (b"\x05" + REFUSED[1:], EIO), (b"garbage!", EIO)):
        server = Server(refuse=1, word=word)
        node = initiator(lab, server, f"tcp_data_port={server.port}", "tcp_proto_version=2")
        node.transfer("write", 1, 100)
        node.transfer("write", 2, LEN, want)
        server.refuse = None
        node.transfer("write", 3, 100)
        check(server.memory[:100] == b"\3" * 100 and server.connections == 2)


def reset_by_v2(lab):
    """The word that refuses is lost in the reset that closing with unread bytes causes."""
    server = Server(refuse=1, word=b"")
    node = initiator(lab, server, f"tcp_data_port={server.port}", "tcp_proto_version=2")
    node.transfer("write", 1, 100)
    node.transfer("write", 2, LEN, ECONNRESET)


def to_v1(lab):
    """One connection a request; a WRITE is done when the server has ended it without a reset."""
    server = Server(once=True)
    node = initiator(lab, server, f"tcp_data_port={server.port}")
    wait_until(lambda: server.connections == 1, 5, "the connection that attaching makes to be counted")
    for byte, size in ((1, 1), (2, 70000), (3, LEN)):
        node.transfer("write", byte, size)
        check(server.memory[:size] == bytes([byte]) * size)
        node.transfer("read", 0, size)
    check(server.connections == 7 and not server.failures, server.connections, *server.failures)
    check([r[0] for r in server.requests] == [1, 0] * 3)
    server.refuse = 0
    node.transfer("write", 4, LEN, ECONNRESET)
    node.transfer("read", 4, 100, ECONNRESET)


def before_tcp_data_port(lab):
    """Upstream before 0.3.5: the control port and one."""
    server = Server(once=True)
    node = initiator(lab, server, f"core.rpc_port={server.port - 1}")
    node.transfer("write", 6, 100)
    check(server.memory[:100] == b"\6" * 100)


def the_protocol_named_is_one_of_mooncakes(lab):
    """Where the node chooses its transports itself, whichever of them Ferry's nodes prefer."""
    prefill, name = lab.two_names()
    file = lab.dir / "mooncake.json"
    file.write_text(json.dumps({"prefill_url": prefill, "decode_url": name, "metadata_server": "P2PHANDSHAKE"}))
    decode = lab.start([build_dir() / "tools" / "ferry", "decode", "-c", file, "--memory", "1m"], name="decode")
    decode.wait_for("waits for a prefill node")
    reply = b""
    with socket.create_connection(("127.0.0.1", int(name.rpartition(":")[2])), 10) as stream:
        stream.sendall(struct.pack("<Q", 4) + b"\1{}\n")
        while chunk := stream.recv(65536):
            reply += chunk
    document = json.loads(reply[9:])
    check(document["protocol"] in ("tcp", "rdma"), document)
    check(document["protocol"] == "rdma" or document["tcp_data_port"], document)
    check(len(document["transports"]) > 1, "there is nothing to choose from:", document["transports"])


main(the_protocol_named_is_one_of_mooncakes, worked_examples, half_closed_write, pipelined, refused_v2, refused_v1, slow_reader_blocks_nobody,
     many_short_connections, to_v2, refused_by_v2, reset_by_v2, to_v1, before_tcp_data_port)
