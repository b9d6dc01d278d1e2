# SPDX-License-Identifier: Apache-2.0
"""Ferry and upstream's wheels find each other by every metadata server that upstream's wheels have:
http (Ferry's server and upstream's own), etcd, redis. Data moves both ways under names that are no
addresses, a restart under the same name heals, and Ferry takes the keys of a node back that died.
"""

import os
import pathlib
import subprocess
import sys
import time
import unittest

import interop
from interop import FERRY, Node

sys.path.insert(0, str(interop.ROOT / "tests/conformance"))
import servers  # noqa: E402

ENVIRONMENTS = interop.environments()
NEWEST = next(iter(ENVIRONMENTS))
SIZE = 1 << 20


class UpstreamHttp(servers.Server):
    """The metadata server of upstream's wheel, in Python."""

    def __init__(self, python):
        super().__init__()
        self.python = python
        self.uri = f"http://127.0.0.1:{self.port}/metadata"

    def command(self):
        return [self.python, "-m", "mooncake.http_metadata_server", "--host", "127.0.0.1", "--port", str(self.port)]

    def is_up(self):
        return servers.accepts(self.port)


class Stores(unittest.TestCase):
    def start(self, server):
        server.start()
        self.addCleanup(server.close)
        return server.uri

    def node(self, kind, name, uri, **env):
        node = Node(kind, ENVIRONMENTS[kind] if kind != FERRY else None, f"{self._testMethodName}-{name}",
                    MC_TCP_BIND_ADDRESS="127.0.0.1", **env)
        self.addCleanup(node.__exit__)
        return node.open(name, uri).memory(SIZE)

    def move(self, initiator, target):
        for op, source, sink in (("write", initiator, target), ("read", target, initiator)):
            seed = int.from_bytes(os.urandom(4), "little")
            source.ask("fill", 0, SIZE, seed)
            sink.ask("clear", 0, SIZE)
            self.assertEqual(initiator.result("batch", op, target.name, target.addr, 4096, 256, 4096), 0,
                             f"{initiator.kind} {op} {target.kind}")
            self.assertEqual(source.result("sha", 0, SIZE), sink.result("sha", 0, SIZE))

    def found_by_name(self, uri):
        upstream = self.node(NEWEST, "upstream-node", uri)
        ferry = self.node(FERRY, "ferry-node", uri)
        self.move(ferry, upstream)
        self.move(upstream, ferry)
        self.assertEqual(ferry.result("call", "send_probe", upstream.name), 0)
        self.assertEqual(upstream.result("call", "send_probe", ferry.name), 0)
        self.assertEqual(ferry.result("notify", upstream.name, upstream.addr, "to upstream", "x"), 0)
        self.assertEqual(upstream.result("notifies"), [["to upstream", "x"]])
        self.assertEqual(upstream.result("notify", ferry.name, ferry.addr, "to Ferry", "y"), 0)
        self.assertEqual(ferry.result("notifies"), [["to Ferry", "y"]])
        return ferry, upstream

    def heals(self, uri):
        """A node of each kind is killed and comes back under its name; Ferry finds both again."""
        ferry, upstream = self.found_by_name(uri)
        other = self.node(FERRY, "another", uri)
        self.move(other, ferry)
        ferry.kill()
        ferry = self.node(FERRY, "ferry-node", uri)
        self.move(other, ferry)
        self.move(ferry, upstream)
        self.assertEqual(other.result("batch", "write", "nobody", 4096, 8, 1, 8), -1)
        return ferry, upstream, other

    def test_http_of_ferry(self):
        uri = self.start(servers.Http(str(interop.BUILD / "tools/ferry"), "metadata-server"))
        self.heals(uri)

    def test_http_of_upstream(self):
        python = interop.environment(NEWEST, "aiohttp")
        if python is None:
            self.skipTest("aiohttp, which upstream's server needs, cannot be installed")
        ferry, upstream, other = self.heals(self.start(UpstreamHttp(python)))

    def test_etcd(self):
        self.heals(self.start(servers.Etcd()))

    def test_redis(self):
        uri = self.start(servers.Redis())
        for version in ENVIRONMENTS:
            try:
                self.node(version, "probe", uri).kill()
            except ConnectionError as error:  # it aborts
                log = pathlib.Path(str(error).rpartition("see ")[2]).read_text(errors="replace")
                self.assertIn("Unable to find metadata storage plugin redis", log)
            else:
                self.fail(f"upstream {version} has redis: try it as the others")
        print("upstream's wheels are built without redis: Ferry's nodes among themselves")
        one, two = self.node(FERRY, "one", uri), self.node(FERRY, "two", uri)
        self.move(one, two)
        two.kill()
        self.move(one, self.node(FERRY, "two", uri))

    def test_cluster_ids_keep_apart(self):
        uri = self.start(servers.Http(str(interop.BUILD / "tools/ferry"), "metadata-server"))
        first = self.node(NEWEST, "node", uri, MC_METADATA_CLUSTER_ID="one")
        ferry = self.node(FERRY, "ferry", uri, MC_METADATA_CLUSTER_ID="one")
        stranger = self.node(FERRY, "stranger", uri, MC_METADATA_CLUSTER_ID="two")
        self.move(ferry, first)
        self.move(first, ferry)
        self.assertEqual(stranger.result("batch", "write", "node", first.addr, 8, 1, 8), -1)

    def test_upstream_restarts_under_its_name(self):
        uri = self.start(servers.Etcd())
        ferry = self.node(FERRY, "ferry", uri)
        for _ in range(3):
            upstream = self.node(NEWEST, "node", uri)
            self.move(ferry, upstream)
            upstream.kill()
            t0 = time.monotonic()
            self.assertEqual(ferry.result("batch", "write", "node", upstream.addr, 4096, 16, 4096), -1)
            self.assertLess(time.monotonic() - t0, 35)


if __name__ == "__main__":
    unittest.main()
