# SPDX-License-Identifier: Apache-2.0
"""Ferry and upstream's own wheels exchange data both ways over TCP, with no metadata server.

Every version that installs, as initiator and as target: READ and WRITE, batches of 1 to 5,000, 1 byte
to 64 MiB, hashed with what lies between the pieces; notifications, probes, and what is refused.
"""

import contextlib
import functools
import hashlib
import os
import random
import socket
import struct
import time
import unittest

import interop
from interop import FERRY, Node, number

MIB = 1 << 20
# bytes a piece, pieces, distance of one piece to the next
SHAPES = ((1, 1, 1), (4097, 1, 4097), (MIB, 1, MIB), (64 * MIB, 1, 64 * MIB), (1, 128, 3), (65536, 128, 65536),
          (200, 5000, 203), (4096, 5000, 4160))
IDLE = float(os.environ.get("TCP_IDLE", "2"))  # seconds that pooled connections are left alone
POOL = {"MC_TCP_ENABLE_CONNECTION_POOL": "1"}
GUARD = 4096  # looked at behind the last piece
ENVIRONMENTS = interop.environments()


@functools.lru_cache(None)
def wanted(seed, size, count, stride):
    """The hash of the destination: pieces of what the source holds, and nothing else changed."""
    span = (count - 1) * stride + size
    source = random.Random(seed).randbytes(span)
    result = bytearray(span + GUARD)
    for at in range(0, count * stride, stride):
        result[at:at + size] = source[at:at + size]
    return hashlib.sha256(result).hexdigest()


class Pair:
    """An initiator and a target, one of them Ferry's, with 64 MiB and a guard each."""

    def __init__(self, version, ferry_is_initiator, **env):
        python = ENVIRONMENTS[version]
        kinds = (FERRY, version) if ferry_is_initiator else (version, FERRY)
        self.initiator = Node(kinds[0], python if kinds[0] != FERRY else None, "initiator", **env)
        self.target = Node(kinds[1], python if kinds[1] != FERRY else None, "target", **env)

    def __enter__(self):
        for node in (self.initiator, self.target):
            node.open().memory(64 * MIB + GUARD)
        return self.initiator, self.target

    def __exit__(self, *exc):
        self.initiator.__exit__()
        self.target.__exit__()


def connections_of(pid):
    """Its sockets that are connected."""
    with open(f"/proc/{pid}/net/tcp") as four, open(f"/proc/{pid}/net/tcp6") as six:
        connected = {line.split()[9] for line in [*four, *six] if line.split()[3] == "01"}
    mine = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            mine.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = {inode for inode in connected if f"socket:[{inode}]" in mine}
    assert found, "a pool without connections"
    return found


def both_ways(least="0"):
    """(what, version, whether Ferry begins) for all versions from `least` on."""
    return [(f"{'Ferry to ' + version if ours else version + ' to Ferry'}", version, ours)
            for version in ENVIRONMENTS if number(version) >= number(least) for ours in (True, False)]


class Tcp(unittest.TestCase):
    def move(self, initiator, target, op, shape, how="sync"):
        size, count, stride = shape
        span = (count - 1) * stride + size
        source, sink = (initiator, target) if op == "write" else (target, initiator)
        source.ask("fill", 0, span, 7)
        sink.ask("clear", 0, span + GUARD)
        answer = initiator.ask("batch", op, target.name, target.addr, size, count, stride, how)
        self.assertEqual(answer["result"], 0, answer)
        until = time.monotonic() + (0 if initiator.kind == FERRY or number(initiator.kind) >= number("0.3.12") else 20)
        while (got := sink.result("sha", 0, span + GUARD)) != (want := wanted(7, size, count, stride)):
            if time.monotonic() > until:  # old upstreams call a WRITE done when it is sent
                self.assertEqual(got, want)
            time.sleep(0.02)

    def test_data(self):
        for what, version, ours in both_ways():
            with Pair(version, ours) as (initiator, target):
                for op in ("write", "read"):
                    for shape in SHAPES:
                        with self.subTest(what, op=op, shape=shape):
                            self.move(initiator, target, op, shape)
                    if ours or number(version) >= number("0.3.6"):  # which brought these calls
                        with self.subTest(what, op=op, how="async"):
                            self.move(initiator, target, op, (4096, 128, 4096), "async")

    def test_notifications(self):
        for what, version, ours in both_ways("0.3.7"):
            with self.subTest(what), Pair(version, ours) as (initiator, target):
                for name, msg in (("label", "text"), ("n\u00e4me", "\u2713 umlaut \u00e4, quote \", tab \t"), ("", "long " * 5000)):
                    self.assertEqual(initiator.result("notify", target.name, target.addr, name, msg), 0)
                    self.assertEqual(target.result("notifies"), [[name, msg]])

    def test_old_ones_take_no_notifications(self):
        """0.3.6 answers `null`, those before 0.3.5 would die and are not asked: Ferry does not wait, and says
        what Mooncake's own say, which is how the data fared."""
        for version in (item for item in ENVIRONMENTS if number(item) < number("0.3.7")):
            with self.subTest(version), Pair(version, True) as (initiator, target):
                self.move(initiator, target, "write", (4096, 1, 4096))
                for node in (initiator, target):
                    node.ask("clear", 0, 4096)
                initiator.ask("fill", 0, 8, 9)  # which goes along
                begun = time.monotonic()
                self.assertEqual(initiator.result("notify", target.name, target.addr, "label", "text"), 0)
                self.assertLess(time.monotonic() - begun, 5)
                self.assertEqual(target.result("sha", 0, 4096), initiator.result("sha", 0, 4096))
                self.move(initiator, target, "read", (4096, 1, 4096))  # and it is none the worse

    def test_probes(self):
        for what, version, ours in both_ways():
            if not ours and number(version) < number("0.3.11"):
                continue  # has no such call
            with self.subTest(what), Pair(version, ours) as (initiator, target):
                self.assertEqual(initiator.result("call", "send_probe", target.name), 0)  # or closes: it is there
                target.kill()
                self.assertNotEqual(initiator.result("call", "send_probe", target.name), 0)

    def test_unregistered_memory_is_refused(self):
        for what, version, ours in both_ways("0.3.12"):  # older ones look at no address, and are told nothing
            with self.subTest(what), Pair(version, ours) as (initiator, target):
                self.move(initiator, target, "write", (4096, 128, 4096))
                for addr in (4096, target.addr - 4096, target.addr + target.nbytes - 100):
                    for op in ("write", "read"):
                        self.assertNotEqual(initiator.result("batch", op, target.name, addr, 4096, 1, 1), 0)
                # So long that a reset overtakes the word that refuses it.
                self.assertNotEqual(initiator.result("batch", "write", target.name, 4096, 16 * MIB, 1, 1), 0)
                self.move(initiator, target, "write", (4096, 128, 4096))  # and nothing is spoilt
                # What the initiator's copy of the document still has, the target refuses.
                target.ask("clear", 0, 8192)
                self.assertEqual(target.result("call", "unregister_memory", target.addr), 0)
                self.assertNotEqual(initiator.result("batch", "write", target.name, target.addr, 4096, 1, 1), 0)
                self.assertNotEqual(initiator.result("batch", "read", target.name, target.addr, 4096, 1, 1), 0)
                self.assertEqual(target.result("sha", 0, 8192), hashlib.sha256(bytes(8192)).hexdigest())

    def test_ferry_refuses_old_ones(self):
        """Which are not told of a WRITE's end, but see that of a READ."""
        for what, version, ours in both_ways():
            if ours or number(version) >= number("0.3.12"):
                continue
            with self.subTest(what), Pair(version, False) as (initiator, target):
                self.assertNotEqual(initiator.result("batch", "read", target.name, target.addr + target.nbytes - 100,
                                                     4096, 1, 1), 0)
                initiator.ask("fill", 0, 4096, 1)
                self.assertEqual(target.result("call", "unregister_memory", target.addr), 0)
                target.ask("clear", 0, 8192)
                initiator.ask("batch", "write", target.name, target.addr, 4096, 1, 1)
                self.assertNotEqual(initiator.result("batch", "read", target.name, target.addr, 4096, 1, 1), 0)
                self.assertEqual(target.result("sha", 0, 8192), hashlib.sha256(bytes(8192)).hexdigest())

    def test_a_silent_client_of_the_control_channel(self):
        """Mooncake serves one at a time: who stays silent keeps all others waiting, who give up in time, do
        it no harm by that, and get through when it is gone. Ferry's is not impressed by twenty."""
        for what, version, ours in both_ways():
            if version not in (next(iter(ENVIRONMENTS)), list(ENVIRONMENTS)[-1]):
                continue  # each takes its 10 s
            # As Python does; without it Mooncake dies when it answers who has given up (docs/wire.md).
            with self.subTest(what), Pair(version, ours, NODE_SIGPIPE="ignored") as (initiator, target), \
                    contextlib.ExitStack() as silent:
                for _ in range(1 if ours else 20):
                    silent.enter_context(socket.create_connection(("127.0.0.1", int(target.name.rpartition(":")[2]))))
                if ours:
                    time.sleep(1.2)  # it looks for clients once a second
                    begun = time.monotonic()
                    found = initiator.result("call", "get_first_buffer_address", target.name)
                    self.assertIn(found, (0, target.addr))  # 0.3.13 throws the silent one out after 5 s
                    self.assertLess(time.monotonic() - begun, 15)
                    silent.close()
                self.move(initiator, target, "write", (4096, 16, 4096))

    def test_what_is_no_document_is_refused(self):
        """`null`, as a Mooncake node says that has none yet, and what none would say."""
        version = next(iter(ENVIRONMENTS))
        with Pair(version, True) as (initiator, target), socket.create_server(("127.0.0.1", 0)) as server:
            for body in (b"null\n", b"[]\n", b'"x"\n', b'{"protocol":7}\n', b'{"buffers":{},"name":[],"protocol":{}}\n', b"{"):
                initiator.send("call", "get_first_buffer_address", f"127.0.0.1:{server.getsockname()[1]}")
                client, _ = server.accept()
                with client:
                    self.assertEqual(client.recv(65536)[8], 1)
                    client.sendall(struct.pack("<QB", len(body) + 1, 1) + body)
                    self.assertEqual(client.recv(1), b"")  # it closes at once
                self.assertEqual(initiator.reply(15)["result"], 0, body)
            self.move(initiator, target, "write", (4096, 16, 4096))

    def test_pooled_connections_stay(self):
        """Mooncake does not see that a pooled connection was closed, and fails the next transfer."""
        for version in ENVIRONMENTS:
            if number(version) < number("0.3.10"):
                continue  # opens one for each request
            with self.subTest(version), Node(version, ENVIRONMENTS[version], "initiator", **POOL) as initiator, \
                    Node(FERRY, None, "target") as target:
                for node in (initiator, target):
                    node.open().memory(MIB + GUARD)
                for op in ("write", "read"):
                    self.move(initiator, target, op, (4096, 64, 4096))
                before = connections_of(target.process.pid)
                time.sleep(IDLE)
                if IDLE < 50:  # 0.3.12 and older close them themselves after a minute
                    self.assertEqual(connections_of(target.process.pid), before)
                for op in ("write", "read"):
                    self.move(initiator, target, op, (4096, 64, 4096))

    def test_first_buffer(self):
        """The one that was registered first, which is not the lowest. Mooncake's own, before 0.3.10, register
        2 GiB of their pool before all else."""
        for what, version, ours in both_ways():
            with self.subTest(what), Pair(version, ours) as (initiator, target):
                self.assertEqual(target.result("call", "unregister_memory", target.addr), 0)
                two = target.ask("two", 4096)
                self.assertEqual(two["result"], [0, 0])
                own = target.result("call", "get_first_buffer_address", target.name)
                if not ours or number(version) >= number("0.3.10"):
                    self.assertEqual(own, two["addr"])
                self.assertEqual(initiator.result("call", "get_first_buffer_address", target.name), own)

    def test_ferry_restarts_on_its_port(self):
        for version in (item for item in ENVIRONMENTS if number(item) >= number("0.3.12")):
            port = str(interop.free_ports(1)[0])
            with self.subTest(version), Node(version, ENVIRONMENTS[version], "initiator") as initiator:
                initiator.open().memory(64 * MIB + GUARD)
                for turn in range(3):
                    with Node(FERRY, None, "target", MC_MIN_RPC_PORT=port, MC_MAX_RPC_PORT=port) as target:
                        target.open().memory(MIB + GUARD + turn * 8192)
                        self.assertEqual(target.name, f"127.0.0.1:{port}")
                        # A failure or two is what it takes upstream to look again.
                        until = time.monotonic() + 20
                        while initiator.result("batch", "write", target.name, target.addr, 8, 1, 8):
                            self.assertLess(time.monotonic(), until)
                            time.sleep(0.1)
                        self.move(initiator, target, "write", (4096, 16, 4096))
                        self.move(initiator, target, "read", (4096, 16, 4096))


def load_tests(loader, tests, pattern):
    """Where no test is named: all but `test_data`, which takes as long as the rest and is a test of its own."""
    names = [name for name in loader.getTestCaseNames(Tcp) if name != "test_data"]
    return unittest.TestSuite(Tcp(name) for name in names)


if __name__ == "__main__":
    unittest.main()
