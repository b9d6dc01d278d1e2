# SPDX-License-Identifier: Apache-2.0
"""Upstream's own pair of tests, transfer_engine_target.py and transfer_engine_initiator_test.py, on
Ferry's `mooncake`: over http, etcd by its bare address, redis, and P2PHANDSHAKE with a pinned port.

PyPI has them in no package. MOONCAKE_TESTS names a folder with the two (of Mooncake's repository,
mooncake-wheel/tests).
"""

import os
import pathlib
import sys
import unittest

import clients
import servers
from interop import free_ports

FOLDER = os.environ.get("MOONCAKE_TESTS")
if not FOLDER:
    clients.skip("set MOONCAKE_TESTS to mooncake-wheel/tests of Mooncake's repository: PyPI has no package with "
                 "transfer_engine_initiator_test.py")
TARGET = pathlib.Path(FOLDER, "transfer_engine_target.py")
INITIATOR = pathlib.Path(FOLDER, "transfer_engine_initiator_test.py")


class Pair(unittest.TestCase):
    def run_pair(self, metadata, **pinned):
        ports = free_ports(2)
        target_name, initiator_name = (f"127.0.0.1:{port}" for port in ports)
        env = dict(TARGET_SERVER_NAME=target_name, INITIATOR_SERVER_NAME=initiator_name, MC_METADATA_SERVER=metadata,
                   PROTOCOL="tcp", CIRCLE="1000", MC_FORCE_TCP="true", MC_TCP_BIND_ADDRESS="127.0.0.1")
        pins = dict(MC_MIN_RPC_PORT=str(ports[0]), MC_MAX_RPC_PORT=str(ports[0])) if metadata == "P2PHANDSHAKE" else {}
        label = f"mooncake-{self._testMethodName}"
        target = clients.start(sys.executable, [str(TARGET)], f"{label}-target", **env, **pins)
        self.addCleanup(clients.end, target)
        while not clients.line(target).startswith("Target server ready"):
            pass
        initiator = clients.start(sys.executable, [str(INITIATOR), "-v"], f"{label}-initiator", **env)
        self.addCleanup(clients.end, initiator)
        clients.finish(initiator)
        said = initiator.log.read_text()
        self.assertIn("Ran 6 tests", said)
        self.assertTrue(said.rstrip().endswith("OK"), said)

    def over(self, server):
        server.start()
        self.addCleanup(server.close)
        return server

    def test_http(self):
        self.run_pair(self.over(servers.Http(str(clients.BUILD / "tools/ferry"), "metadata-server")).uri)

    def test_etcd(self):
        self.run_pair(self.over(servers.Etcd()).uri.partition("://")[2])

    def test_redis(self):
        self.run_pair(self.over(servers.Redis()).uri)

    def test_p2phandshake(self):
        self.run_pair("P2PHANDSHAKE")


if __name__ == "__main__":
    unittest.main()
