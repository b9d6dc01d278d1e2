# SPDX-License-Identifier: Apache-2.0
"""vLLM's MooncakePipe and SimpleBuffer, unmodified, between two processes on Ferry's `mooncake`.

0.8.4 is the newest that imports mooncake_vllm_adaptor, 0.8.5.post1 the oldest and 0.12.0 the newest
that imports mooncake.engine; 0.13 has no pipe any more.
"""

import json
import os
import socket
import tempfile
import unittest

import clients
import servers

TRANSFER = "vllm/distributed/kv_transfer"
FILES = [f"{TRANSFER}/{name}" for name in ("kv_pipe/base.py", "kv_pipe/mooncake_pipe.py", "kv_lookup_buffer/base.py",
                                           "kv_lookup_buffer/simple_buffer.py")]
VERSIONS = {"0.8.4": FILES, "0.8.5.post1": FILES, "0.12.0": FILES + ["vllm/utils/network_utils.py"]}
FOLDERS = {version: clients.files_of("vllm", version, *files) for version, files in VERSIONS.items()}
PYTHON = clients.environment()


def two_ports():
    """For prefill and decode: the pipe takes the 9th and 10th after each as well."""
    while True:
        first = 20000 + int.from_bytes(os.urandom(2), "big") % 10000
        try:
            for port in (first + near + far for near in (0, 1, 9, 10) for far in (0, 100)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first, first + 100
        except OSError:
            pass


class Vllm(unittest.TestCase):
    def run_pair(self, version, metadata, large=0, **members):
        label = f"vllm-{self._testMethodName}"
        prefill, decode = two_ports()
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="mooncake-") as file:
            json.dump({"prefill_url": f"127.0.0.1:{prefill}", "decode_url": f"127.0.0.1:{decode}",
                       "metadata_server": metadata, "protocol": "tcp", "device_name": "", **members}, file)
            file.flush()
            nodes = []
            for rank, port in enumerate((prefill, decode)):
                pins = ({"MC_MIN_RPC_PORT": str(port), "MC_MAX_RPC_PORT": str(port)}
                        if metadata == "P2PHANDSHAKE" else {"MC_TCP_BIND_ADDRESS": "127.0.0.1"})
                nodes.append(clients.start(PYTHON, [str(clients.HERE / "vllm_node.py"), str(rank), str(large)],
                                           f"{label}-{rank}", [FOLDERS[version]], MOONCAKE_CONFIG_PATH=file.name, **pins))
                self.addCleanup(clients.end, nodes[-1])
            clients.wait(nodes)
            for node in nodes:
                said = clients.finish(node).splitlines()
                self.assertEqual(said[0], str(clients.ROOT / "compat/mooncake/engine.py"))
                self.assertTrue(all(str(FOLDERS[version]) in path for path in said[1:3]), said)
                self.assertEqual(said[-1], "done")

    def over(self, server):
        server.start()
        self.addCleanup(server.close)
        return server.uri.partition("://")[2]


def add_tests(version):
    label = version.replace(".", "_")

    def p2phandshake(self):
        self.run_pair(version, "P2PHANDSHAKE", large=300)

    def etcd(self):
        self.run_pair(version, self.over(servers.Etcd()), metadata_backend="etcd")

    def redis(self):
        self.run_pair(version, self.over(servers.Redis()), metadata_backend="redis")

    for test in (p2phandshake, etcd, redis):
        setattr(Vllm, f"test_{test.__name__}_{label}", test)


for version in VERSIONS:
    add_tests(version)

if __name__ == "__main__":
    unittest.main()
