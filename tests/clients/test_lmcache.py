# SPDX-License-Identifier: Apache-2.0
"""LMCache's transfer channel "mooncake_te", unmodified, between two processes on Ferry's `mooncake`."""

import unittest

import clients
from interop import free_ports

VERSION = "0.5.6"
CHANNEL = "lmcache/v1/distributed/transfer_channel"
FILES = [f"{CHANNEL}/{name}" for name in ("impl/mooncake_te_impl.py", "abstract.py", "api.py", "factory.py")]
FOLDER = clients.files_of("lmcache", VERSION, *FILES, "lmcache/logging.py")
PYTHON = clients.environment()


class Lmcache(unittest.TestCase):
    def node(self, role, *urls):
        node = clients.start(PYTHON, [str(clients.HERE / "lmcache_node.py"), *urls], f"lmcache-{role}", [FOLDER])
        self.addCleanup(clients.end, node)
        self.assertEqual(clients.line(node).split(), [str(clients.ROOT / "compat/mooncake/engine.py"),
                                                      str(FOLDER / FILES[0])])
        return node

    def test_reads(self):
        urls = [f"127.0.0.1:{port}" for port in free_ports(2)]
        owner = self.node("owner", urls[0])
        self.assertEqual(clients.line(owner), "ready")
        reader = self.node("reader", urls[1], urls[0])
        self.assertEqual(clients.line(reader), "read")
        owner.kill()
        owner.wait()
        print(file=reader.stdin, flush=True)
        self.assertEqual(clients.finish(reader).split(), ["done"])


if __name__ == "__main__":
    unittest.main()
