# SPDX-License-Identifier: Apache-2.0
"""Ferry and every version of upstream's that installs find each other by a metadata server: http
(Ferry's server and upstream's own), etcd, and redis by a detour, as no wheel of upstream's has a client
for it. Data moves both ways under names that are no addresses, a restart under the same name heals, and
Ferry takes the keys of a node back that died.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

import interop
from interop import FERRY, Node, number

sys.path.insert(0, str(interop.ROOT / "tests/conformance"))
import servers  # noqa: E402

ENVIRONMENTS = interop.environments()
NEWEST = next(iter(ENVIRONMENTS))
OLD = {version for version in ENVIRONMENTS if number(version) < number("0.3.12")}  # a WRITE is done when it is sent
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


def keys_of(name):
    return f"mooncake/rpc_meta/{name}", f"mooncake/ram/{name}"


def ask_server(command, text):
    return subprocess.run(command, input=text, capture_output=True, check=True, timeout=20,
                          env={**os.environ, "ETCDCTL_API": "3"}).stdout


def redis_cli(server, *words, text=None):
    return ask_server(["redis-cli", "-p", str(server.port), *words], text)


def etcdctl(server, *words, text=None):
    return ask_server(["etcdctl", "--endpoints", f"127.0.0.1:{server.port}", *words], text)


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
            until = time.monotonic() + (20 if initiator.kind in OLD else 0)
            while (got := sink.result("sha", 0, SIZE)) != (want := source.result("sha", 0, SIZE)):
                if time.monotonic() > until:
                    self.assertEqual(got, want, f"{initiator.kind} {op} {target.kind}")
                time.sleep(0.02)

    def found_by_name(self, ferry, upstream):
        version = number(upstream.kind)
        self.move(ferry, upstream)
        self.move(upstream, ferry)
        if version >= number("0.3.11"):
            self.assertEqual(ferry.result("call", "send_probe", upstream.name), 0)
            self.assertEqual(upstream.result("call", "send_probe", ferry.name), 0)
        if version >= number("0.3.8"):  # older ones serve no control channel where there is a metadata server
            self.assertEqual(ferry.result("notify", upstream.name, upstream.addr, "to upstream", "x"), 0)
            self.assertEqual(upstream.result("notifies"), [["to upstream", "x"]])
        if version >= number("0.3.7"):
            self.assertEqual(upstream.result("notify", ferry.name, ferry.addr, "to Ferry", "y"), 0)
            self.assertEqual(ferry.result("notifies"), [["to Ferry", "y"]])

    def heals(self, uri):
        """Every version meets Ferry; then a node of each kind is killed and comes back under its name,
        and Ferry finds both again."""
        ferry = self.node(FERRY, "ferry-node", uri)
        for version in ENVIRONMENTS:
            with self.subTest(version):
                upstream = self.node(version, f"upstream-{version}", uri)
                self.found_by_name(ferry, upstream)
                if version != NEWEST:
                    upstream.kill()
        upstream = self.node(NEWEST, "upstream-node", uri)
        self.move(ferry, upstream)
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
        """Upstream hands one text to the plugin of whichever store it has: what its nodes wrote to etcd,
        copied to redis key by key, is found by a Ferry node there, and the other way round."""
        redis, etcd = servers.Redis(), servers.Etcd()
        ferry = self.node(FERRY, "ferry-node", self.start(redis))
        etcd_uri = self.start(etcd)
        for version in ENVIRONMENTS:
            with self.subTest(version):
                with self.assertRaises(ConnectionError) as raised:  # it aborts
                    self.node(version, "probe", redis.uri)
                log = pathlib.Path(str(raised.exception).rpartition("see ")[2]).read_text(errors="replace")
                self.assertIn("Unable to find metadata storage plugin redis", log)
                upstream = self.node(version, f"upstream-{version}", etcd_uri)
                ours, theirs = keys_of("ferry-node"), keys_of(upstream.name)
                for key in theirs:
                    redis_cli(redis, "-x", "SET", key, text=etcdctl(etcd, "get", "--print-value-only", key)[:-1])
                for key in ours:
                    etcdctl(etcd, "put", key, text=redis_cli(redis, "GET", key)[:-1])
                self.same_shape(*(json.loads(redis_cli(redis, "GET", keys[0])) for keys in (ours, theirs)))
                self.same_shape(*(json.loads(redis_cli(redis, "GET", keys[1])) for keys in (ours, theirs)))
                self.found_by_name(ferry, upstream)
        two = self.node(FERRY, "two", redis.uri)
        self.move(ferry, two)
        two.kill()
        self.move(ferry, self.node(FERRY, "two", redis.uri))

    def same_shape(self, ours, theirs):
        """Every member of theirs is in ours, with a value of the same type; but for those that nobody needs."""
        for name, value in theirs.items():
            if name not in ("rdma_server_name", "tcp_data_host"):
                self.assertIs(type(ours.get(name)), type(value), f"{name} in {ours}, {theirs}")
            if isinstance(value, list) and value:
                self.same_shape(ours[name][0], value[0])

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
