#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whole nodes over RDMA, in one VM: the main job with the seed's mooncake.json and etcd, and Ferry's
nodes with Mooncake's own (its wheel is made ready before the VM boots).

    tests/rxe-vm/rdma_nodes.py          in the build's environment (meson test rdma_nodes)
    FERRY_RDMA_LONG=1                   every version of the wheel that can, each way of finding a peer
                                        with one and with two devices

Ferry's rails to Mooncake need 0.3.11 or newer there: older ones look our NIC path up in our document.
"""

import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop"), str(HERE.parent / "conformance")]
import interop  # noqa: E402
import servers  # noqa: E402
from interop import FERRY, Node  # noqa: E402

LONG = bool(os.environ.get("FERRY_RDMA_LONG"))
GUEST = os.environ.get("RXE_VM") == "1"
VERSIONS = [version for version in interop.VERSIONS if int(version.split(".")[2]) > 10][:None if LONG else 1]
MIB = 1 << 20
TOOL = str(interop.BUILD / "tools/ferry")
# bytes a piece, pieces, distance of one piece to the next
SHAPES = ((1, 1, 1), (4097, 7, 5000), (65536, 32, 65536)) + (((4096, 512, 4096), (4 * MIB, 1, 4 * MIB)) if LONG else ())


def etcd(test):
    if not hasattr(etcd, "server"):
        etcd.server = servers.Etcd()
        etcd.server.start()
        unittest.addModuleCleanup(etcd.server.close)
    return etcd.server.uri


class MainJob(unittest.TestCase):
    """`ferry prefill` and `ferry decode` with the seed's file."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def config(self, devices, **ferry):
        first, second = interop.free_ports(2)[0], interop.free_ports(40)[39]
        file = pathlib.Path(self.dir.name) / "mooncake.json"
        file.write_text(json.dumps({
            "prefill_url": f"127.0.0.1:{first}", "decode_url": f"127.0.0.1:{second}",
            "metadata_server": etcd(self).removeprefix("etcd://"), "metadata_backend": "etcd",
            "protocol": "rdma", "device_name": devices, **ferry}))
        return str(file)

    def tool(self, *words, **env):
        return subprocess.Popen([TOOL, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, cwd=self.dir.name, env={**os.environ, **env})

    def job(self, devices, **env):
        """`env` is of the decode node alone."""
        file = self.config(devices)
        report = pathlib.Path(self.dir.name) / "decode.json"
        decode = self.tool("decode", "-c", file, "--memory", "64m", "--json", str(report), **env)
        prefill = self.tool("prefill", "-c", file, "--memory", "64m", "--synthetic", "2", "--model", "qwen2.5-0.5b")
        said = prefill.communicate(timeout=240)[0]
        heard = decode.communicate(timeout=60)[0]
        self.assertEqual((prefill.returncode, decode.returncode), (0, 0), said + heard)
        return json.loads(report.read_text()), said + heard

    def test_every_block_is_verified(self):
        # The second time the nodes differ in their MTU: the smaller one counts.
        for devices, env in (("rxe0", {}), ("rxe0,rxe1", {"MC_MTU": "1024", "MC_IB_TC": "96"})):
            with self.subTest(devices):
                began = time.monotonic()
                report, said = self.job(devices, **env)
                self.assertEqual((report["requests"], report["blocks_bad"]), (2, 0), said)
                self.assertGreater(report["blocks_verified"], 50)
                print(f"main job, {devices}: {report['blocks_verified']} blocks, {report['bytes']} bytes in "
                      f"{report['wall_s']:.1f} s, with everything {time.monotonic() - began:.1f} s", flush=True)

    def test_device_names(self):
        done = self.tool("decode", "-c", self.config("rxe7"), "--memory", "1m", "--wait", "1").communicate(timeout=60)[0]
        self.assertRegex(done, r'there is no device "rxe7"; there are: rxe[01], rxe[01]')
        done = self.tool("decode", "-c", self.config("rxe1, rxe0"), "--memory", "1m", "--wait", "0.2").communicate(timeout=60)[0]
        self.assertIn('"device_name" has spaces around its names', done)


class Operator(MainJob):
    """What `ferry doctor --rdma` and `ferry topo` say, and what peers are told."""

    test_every_block_is_verified = test_device_names = None

    def doctor(self, *before, **env):
        done = subprocess.run([*before, TOOL, "doctor", "--rdma", "--json", "-"], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **env})
        found = {}
        for line in json.loads(done.stdout):
            found.setdefault(line["check"], []).append(f"{line['verdict']} {line['text']} -> {line.get('remedy', '')}")
        return found

    def about(self, device, **env):
        return "".join(line for line in self.doctor(**env).get("rdma device", []) if device in line)

    def test_devices_and_gids(self):
        found = self.doctor()
        self.assertEqual(len(found["rdma port"]), 2, found)
        self.assertRegex(found["rdma port"][0], "^OK rxe0 port 1: 4: ACTIVE, Ethernet")
        self.assertRegex(self.about("rxe1"), r"^OK device rxe1 port 1, MTU 4096, GID 1 [0:]*:ff:ff:0a:4d:00:02 \(RoCE v2, IPv4\)"
                         r", LID 0, regions up to \d+ bytes")
        self.assertIn("no partition key of the index configured", self.about("rxe1", MC_PKEY_INDEX="64"))
        self.assertIn("no GID of the index configured (gid_index) -> ", self.about("rxe1", MC_GID_INDEX="99"))
        self.assertIn("no port of the number configured (port) -> ", self.about("rxe1", MC_IB_PORT="2"))
        self.assertRegex(found["rdma memory"][0], "^OK 64.0 MiB were registered on every device")
        self.assertRegex(found["rdma modules"][0], "^OK")

        def sh(line):
            subprocess.run(line, shell=True, check=True)

        sh("ip link add third type dummy && echo 1 >/proc/sys/net/ipv6/conf/third/disable_ipv6 && "
           "rdma link add rxe2 type rxe netdev third")
        self.addCleanup(sh, "rdma link del rxe2; ip link del third")
        self.assertRegex(self.about("rxe2"), "^WARN device rxe2 is not used: its port is down -> cable")
        sh("ip link set third up")
        self.assertRegex(self.about("rxe2"), "link-local: there is no other|^WARN .*no usable GID.* -> an IP address")
        sh("echo 0 >/proc/sys/net/ipv6/conf/third/disable_ipv6; ip addr add fd00:77::1/64 dev third nodad")
        self.assertRegex(self.about("rxe2"), r"^OK .* fd:00:00:77:.* \(RoCE v2, IPv6: there is no IPv4\)")
        sh("ip addr add 10.78.0.1/24 dev third")
        self.assertRegex(self.about("rxe2"), r":0a:4e:00:01 \(RoCE v2, IPv4\)")

    def test_bad_connection_messages(self):
        """What a stranger sends to the control port is refused in words, and harms nobody."""
        config = self.config("rxe0")
        name = json.loads(pathlib.Path(config).read_text())["decode_url"]
        decode = self.tool("decode", "-c", config, "--memory", "1m", "--wait", "60")
        port = int(name.rpartition(":")[2])
        servers.wait_for("decode", lambda: servers.accepts(port))

        def ask(body, typed=True):
            body = body.encode() + b"\n"
            with socket.create_connection(("127.0.0.1", port), 20) as stream:
                stream.sendall(struct.pack("<Q", len(body) + typed) + b"\0" * typed + body)
                reply = b""
                while chunk := stream.recv(65536):
                    reply += chunk
            return json.loads(reply[8 + typed:])

        gid = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:4d:00:02"
        good = {"local_nic_path": "stranger@rxe1", "peer_nic_path": f"{name}@rxe0", "qp_num": [17, 18],
                "local_gid": gid, "local_lid": 0, "reply_msg": ""}
        for change, words in (({"peer_nic_path": f"{name}@mlx5_9"}, f"no device in use here: {name}@mlx5_9"),
                              ({"peer_nic_path": ""}, "no device in use here"), ({"local_gid": ""}, "has no GID"),
                              ({"local_gid": "fe80::1"}, "local_gid is no GID"), ({"qp_num": []}, "queue pairs"),
                              ({"qp_num": [-1]}, "queue pair numbers"), ({"qp_num": list(range(17))}, "too many"),
                              ({"local_nic_path": 5}, "no string"), ({"local_nic_path": "x" * 400}, "of that length"),
                              ({"ready_ack": True}, "ready_ack for queue pairs that are not connected")):
            answer = ask(json.dumps({**good, **change}))
            self.assertIn(words, answer["reply_msg"])
            self.assertEqual(answer["qp_num"], [])
        for body in ("[]", "{", '"x"', "null", "[" * 2000):
            self.assertNotEqual(ask(body)["reply_msg"], "", body)
        first = ask(json.dumps(good))
        self.assertEqual((first["reply_msg"], len(first["qp_num"]), first["local_nic_path"], first["peer_nic_path"]),
                         ("", 2, f"{name}@rxe0", "stranger@rxe1"))
        self.assertNotIn("ready_ack", first)
        self.assertEqual(ask(json.dumps(good), typed=False)["qp_num"], first["qp_num"])  # the same question again
        self.assertEqual(ask(json.dumps({**good, "ready_ack": True})), {**first, "qp_num": []})
        other = ask(json.dumps({**good, "qp_num": [19, 20]}))["qp_num"]  # it restarted
        self.assertFalse(set(other) & set(first["qp_num"]))
        self.assertIsNone(decode.poll())
        decode.terminate()
        self.assertNotIn("Sanitizer", decode.communicate(timeout=30)[0])

    def test_locked_memory(self):
        subprocess.run("chmod 666 /dev/infiniband/*", shell=True, check=True)
        found = self.doctor("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                            "--bounding-set=-all", "prlimit", "--memlock=1048576:1048576")
        line = "".join(found["rdma device"])
        self.assertRegex(line, "FAIL device rxe[01]: registering .* Cannot allocate memory; the limit of locked memory is 1024 KiB")
        self.assertIn("-> ulimit -l unlimited", line)

    def test_topology(self):
        matrix = json.loads(subprocess.run([TOOL, "topo", "--matrix"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual(matrix["cpu:0"], [["rxe0", "rxe1"], []])
        file = pathlib.Path(self.dir.name) / "topo.json"
        for text, want in ((None, matrix), ('{"cpu:0": [["rxe1"], ["rxe0", "gone"]]}', {"cpu:0": [["rxe1"], ["rxe0"]]})):
            if text:
                file.write_text(text)
            config = self.config("rxe0,rxe1", **({"ferry": {"rdma": {"topology": str(file)}}} if text else {}))
            decode = self.tool("decode", "-c", config, "--memory", "1m", "--wait", "20")
            name = json.loads(pathlib.Path(config).read_text())["decode_url"]
            until = time.monotonic() + 20
            while not (document := etcd.server.ctl("get", "--print-value-only", f"mooncake/ram/{name}").stdout):
                self.assertLess(time.monotonic(), until)
                time.sleep(0.1)
            document = json.loads(document)
            self.assertEqual(document["priority_matrix"], want)
            self.assertEqual([device["name"] for device in document["devices"]], ["rxe0", "rxe1"])
            decode.terminate()
            said = decode.communicate(timeout=30)[0]
            self.assertEqual("not in use here: gone" in said, bool(text), said)
        file.write_text("{}")
        decode = self.tool("decode", "-c", self.config("rxe0", ferry={"rdma": {"topology": str(file)}}), "--memory", "1m")
        self.assertIn("no object with a member for each location", decode.communicate(timeout=30)[0])


class Upstream(unittest.TestCase):
    def setUp(self):
        self.nodes = []

    def node(self, kind, devices, name, uri, **env):
        python = None if kind == FERRY else interop.environment(kind)
        node = Node(kind, python, f"rdma-{name}-{time.monotonic_ns()}", MC_FORCE_TCP=None, MC_GID_INDEX="1",
                    MC_TCP_BIND_ADDRESS="127.0.0.1", **env)
        self.nodes.append(node)
        self.addCleanup(node.__exit__)
        return node.open(name if uri != "P2PHANDSHAKE" else "127.0.0.1", uri, "rdma", devices).memory(4 * MIB)

    def move(self, initiator, target, op, shape):
        size, count, stride = shape
        span = (count - 1) * stride + size
        source, sink = (initiator, target) if op == "write" else (target, initiator)
        seed = int.from_bytes(os.urandom(4), "little")
        source.ask("fill", 0, span, seed)
        sink.ask("fill", 0, span, seed + 1)
        self.assertEqual(initiator.result("batch", op, target.name, target.addr, size, count, stride), 0)
        for at in range(0, count * stride, stride) if count < 8 else (0,):
            length = size if count < 8 else span
            self.assertEqual(source.result("sha", at, length), sink.result("sha", at, length))

    def each(self, when, *pairs):
        for initiator, target in pairs:
            for op in ("write", "read"):
                for shape in SHAPES:
                    with self.subTest(f"{when}: {initiator.kind} to {target.kind}", op=op, shape=shape):
                        self.move(initiator, target, op, shape)

    def at_once(self, one, other):
        """Neither has a connection yet, and both want one at the same moment."""
        for node in (one, other):
            node.ask("fill", 0, MIB, 5)
        results = {}

        def write(initiator, target, at):
            for i in range(4):
                results[initiator, i] = initiator.result("batch", "write", target.name, target.addr + at, 65536, 8, 65536)

        threads = [threading.Thread(target=write, args=pair) for pair in ((one, other, MIB), (other, one, 2 * MIB))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(set(results.values()), {0})
        self.assertEqual(one.result("sha", 0, 8 * 65536), other.result("sha", MIB, 8 * 65536))
        self.assertEqual(other.result("sha", 0, 8 * 65536), one.result("sha", 2 * MIB, 8 * 65536))

    def pair(self, version, uri, devices):
        ours, theirs = devices
        return (self.node(FERRY, ours, f"ferry-{time.monotonic_ns()}", uri),
                self.node(version, theirs, f"upstream-{time.monotonic_ns()}", uri))

    def test_data(self):
        one, two = ("rxe0", "rxe1"), ("rxe0,rxe1", "rxe0,rxe1")
        for version in VERSIONS:
            if not pathlib.Path(interop.CACHE / f"mooncake-{version}").exists():
                self.skipTest(f"no wheel {version}")
            for store in (None, etcd):
                for devices in (one, two) if LONG else ((two,) if store else (one,)):
                    uri = store(self) if store else "P2PHANDSHAKE"
                    with self.subTest(version, uri=uri, devices=devices):
                        began = time.monotonic()
                        ferry, upstream = self.pair(version, uri, devices)
                        self.at_once(ferry, upstream)
                        self.each("", (ferry, upstream), (upstream, ferry))
                        if store:  # a restart under the same name
                            upstream.kill()
                            upstream = self.node(version, devices[1], upstream.name, uri)
                            self.each("upstream restarted", (ferry, upstream), (upstream, ferry))
                            # Mooncake keeps a node's control address for ever, and on rxe its queue
                            # pairs (retry 7) never fail: it does not find our new node.
                            ferry.kill()
                            ferry = self.node(FERRY, devices[0], ferry.name, uri)
                            self.each("Ferry restarted", (ferry, upstream))
                        print(f"{version}, {uri}, {devices}: {time.monotonic() - began:.1f} s", flush=True)
                        for node in (ferry, upstream):
                            node.kill()

    @unittest.skipUnless(LONG, "only with FERRY_RDMA_LONG=1")
    def test_queue_pair_counts(self):
        """Both sides must want as many; who does not is told where to say so."""
        version = VERSIONS[0]
        upstream = self.node(version, "rxe1", "", "P2PHANDSHAKE", MC_NUM_QP_PER_EP="4")
        ferry = self.node(FERRY, "rxe0", "", "P2PHANDSHAKE", MC_NUM_QP_PER_EP="4")
        self.each("four", (ferry, upstream), (upstream, ferry))
        other = self.node(FERRY, "rxe0", "", "P2PHANDSHAKE")
        self.assertNotEqual(other.result("batch", "write", upstream.name, upstream.addr, 8, 1, 8), 0)
        self.assertIn("ferry.rdma.qp_per_peer", other.log.read_text())

    def tearDown(self):
        failures = self._outcome.result.failures + self._outcome.result.errors
        for node in self.nodes if failures else ():
            print(f"---- {node.log}", *node.log.read_text(errors="replace").splitlines()[-60:], sep="\n")


def outside():
    """Makes ready what the guest cannot, and boots."""
    for version in VERSIONS:
        if not interop.environment(version):
            print(f"not run: upstream {version}: its wheel cannot be installed")
    variables = [name for name in os.environ if name.startswith(("FERRY_", "PYTHON", "ASAN_", "UBSAN_", "LSAN_"))]
    words = [word for name in variables for word in ("-e", name)]
    os.execv(HERE / "run", ["run", "-t", "1500" if LONG else "400", "-m", "3072", *words, "--", sys.executable,
                            os.path.abspath(__file__), *sys.argv[1:]])


if __name__ == "__main__":
    if not GUEST:
        outside()
    unittest.main(verbosity=2)
