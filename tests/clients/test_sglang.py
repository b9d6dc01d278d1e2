# SPDX-License-Identifier: Apache-2.0
"""SGLang's Mooncake transfer wrapper, unmodified, between two processes on Ferry's `mooncake`."""

import unittest

import clients

VERSION = "0.5.23"
FILES = [f"sglang/srt/{name}" for name in ("distributed/device_communicators/mooncake_transfer_engine.py", "environ.py",
                                           "utils/network.py")]
FOLDER = clients.files_of("sglang", VERSION, *FILES)
PYTHON = clients.environment()


class Sglang(unittest.TestCase):
    def node(self, role, *arguments, **env):
        node = clients.start(PYTHON, [str(clients.HERE / "sglang_node.py"), role, *arguments],
                             f"sglang-{self._testMethodName}-{role}", [FOLDER], **env)
        self.addCleanup(clients.end, node)
        self.assertEqual(clients.line(node).split(), [str(clients.ROOT / "compat/mooncake/engine.py"),
                                                      str(FOLDER / FILES[0])])
        return node

    def hand_over(self, **env):
        target = self.node("target", **env)
        initiator = self.node("initiator", *clients.line(target).split(), **env)
        self.assertEqual(clients.line(initiator), "delivered")
        print(file=target.stdin, flush=True)
        self.assertEqual(clients.line(target), "same")
        target.kill()
        target.wait()
        print(file=initiator.stdin, flush=True)
        self.assertEqual(clients.finish(initiator).split(), ["done"])

    def test_as_it_comes(self):
        """Its protocol is "rdma" where nobody says otherwise, also on machines without such devices."""
        self.hand_over()

    def test_tcp_forced(self):
        self.hand_over(MC_FORCE_TCP="1", MOONCAKE_PROTOCOL="rdma")

    def test_tcp_asked_for(self):
        self.hand_over(MOONCAKE_PROTOCOL="tcp")


if __name__ == "__main__":
    unittest.main()
