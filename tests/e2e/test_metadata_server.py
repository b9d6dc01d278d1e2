# SPDX-License-Identifier: Apache-2.0
"""`ferry metadata-server` as its clients see it: Mooncake's answers, limits, TLS, and what is
there again after a kill. Arguments: the program, if not the build tree's own."""

import http.client
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

PROGRAM = []


class Running:
    def __init__(self, *args, **kw):
        self.process = subprocess.Popen(
            PROGRAM + ["--host", "127.0.0.1", "--port", "0", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
        self.line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on (https?)://127\.0\.0\.1:(\d+)/metadata\n", self.line)
        self.port = int(found.group(2)) if found else None

    def ask(self, method, key=None, body=None, path="/metadata", context=None):
        if context:
            conn = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=context)
        else:
            conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        target = path if key is None else path + "?key=" + urllib.parse.quote(key, safe="")
        conn.request(method, target, body=body)
        reply = conn.getresponse()
        data = reply.read()
        conn.close()
        return reply.status, data

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=10)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        return self.process.returncode, err


class Server(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="ferry-test-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.running = []

    def tearDown(self):
        for server in self.running:
            if server.process.poll() is None:
                server.kill()
            for pipe in (server.process.stdout, server.process.stderr):
                pipe.close()

    def start(self, *args, **kw):
        server = Running(*args, **kw)
        self.running.append(server)
        return server

    def up(self, *args, **kw):
        server = self.start(*args, **kw)
        if server.port is None:
            self.fail("did not start: " + server.line + server.process.stderr.read())
        return server

    def test_answers(self):
        s = self.up()
        key = "mooncake/ram/10.0.0.1:12345"
        self.assertEqual(s.ask("GET", key)[0], 404)
        self.assertEqual(s.ask("DELETE", key)[0], 404)
        self.assertEqual(s.ask("PUT", key, b'{"a":1}')[0], 200)
        self.assertEqual(s.ask("GET", key), (200, b'{"a":1}'))
        self.assertEqual(s.ask("PUT", key, b"")[0], 200)
        self.assertEqual(s.ask("GET", key), (200, b""))
        self.assertEqual(s.ask("DELETE", key)[0], 200)
        self.assertEqual(s.ask("GET", key)[0], 404)
        for method in ("GET", "PUT", "DELETE"):
            self.assertEqual(s.ask(method, "", b"x")[0], 400)
            self.assertEqual(s.ask(method, None, b"x")[0], 400)
            self.assertEqual(s.ask(method, "a\0b", b"x")[0], 400)
        for method in ("POST", "PATCH", "OPTIONS"):
            self.assertEqual(s.ask(method, key, b"x")[0], 405)
        self.assertEqual(s.ask("GET", key, path="/other")[0], 404)
        self.assertEqual(s.ask("GET", path="/health"), (200, b'{"status":"ok","keys":0}'))

    def test_a_key_is_decoded_once(self):
        s = self.up()
        self.assertEqual(s.ask("PUT", "a%2Fb+c d", b"1")[0], 200)
        self.assertEqual(s.ask("GET", "a%2Fb+c d"), (200, b"1"))
        self.assertEqual(s.ask("GET", "a/b+c d")[0], 404)
        self.assertEqual(s.ask("GET", path="/metadata?key=a%252Fb%2Bc%20d"), (200, b"1"))

    def test_rpc_meta_is_not_replaced(self):
        s = self.up()
        key, body = "mooncake/rpc_meta/n", b'{"ip_or_host_name":"h","rpc_port":1}'
        self.assertEqual(s.ask("PUT", key, body)[0], 200)
        self.assertEqual(s.ask("PUT", key, body)[0], 200)
        self.assertEqual(s.ask("PUT", key, body + b" "), (400, b"Duplicate rpc_meta key not allowed"))
        self.assertEqual(s.ask("GET", key), (200, body))
        self.assertEqual(s.ask("DELETE", key)[0], 200)
        self.assertEqual(s.ask("PUT", key, b"2")[0], 200)
        s = self.up("--overwrite")
        self.assertEqual(s.ask("PUT", key, b"1")[0], 200)
        self.assertEqual(s.ask("PUT", key, b"2")[0], 200)

    def test_limits(self):
        s = self.up("--max-body", "64k", "--max-keys", "2")
        self.assertEqual(s.ask("PUT", "a", b"x" * 65536)[0], 200)
        self.assertEqual(s.ask("PUT", "b", b"x" * 65537)[0], 413)
        self.assertEqual(s.ask("PUT", "b", b"x" * 3000000)[0], 413)
        self.assertEqual(s.ask("GET", "b")[0], 404)
        self.assertEqual(s.ask("PUT", "b", b"1")[0], 200)
        self.assertEqual(s.ask("PUT", "c", b"1")[0], 507)
        self.assertEqual(s.ask("PUT", "b", b"2")[0], 200)
        self.assertEqual(s.ask("DELETE", "a")[0], 200)
        self.assertEqual(s.ask("PUT", "c", b"1")[0], 200)

    def test_survives_a_kill(self):
        for data in (self.dir, os.path.join(self.dir, "file")):
            s = self.up("--data", data)
            for i in range(300):
                self.assertEqual(s.ask("PUT", "k%d" % (i % 30), b"%d" % i + bytes(5000))[0], 200)
            self.assertEqual(s.ask("DELETE", "k7")[0], 200)
            s.kill()
            s = self.up("--data", data)
            for i in range(30):
                want = (404, b"metadata not found") if i == 7 else (200, b"%d" % (270 + i) + bytes(5000))
                self.assertEqual(s.ask("GET", "k%d" % i), want)
            s.kill()

    def test_the_log_does_not_grow_for_ever(self):
        path = os.path.join(self.dir, "file")
        s = self.up("--data", path)
        for i in range(60):
            s.ask("PUT", "key", bytes(100000))
        self.assertLess(os.path.getsize(path), 2000000)
        s.kill()
        s = self.up("--data", path)
        self.assertEqual(s.ask("GET", "key"), (200, bytes(100000)))

    def test_a_torn_end_is_cut_off(self):
        path = os.path.join(self.dir, "file")
        s = self.up("--data", path)
        s.ask("PUT", "a", b"1")
        s.ask("PUT", "b", b"2")
        s.kill()
        with open(path, "rb") as f:
            whole = f.read()
        for cut in (1, 10, 17):
            with open(path, "wb") as f:
                f.write(whole[:-cut])
            s = self.up("--data", path)
            self.assertEqual(s.ask("GET", "a"), (200, b"1"))
            self.assertEqual(s.ask("GET", "b")[0], 404)
            self.assertEqual(s.ask("PUT", "b", b"3")[0], 200)
            code, err = s.kill()
            self.assertIn("no whole change, cut off", err)
            s = self.up("--data", path)
            self.assertEqual(s.ask("GET", "b"), (200, b"3"))
            s.kill()
        flipped = bytearray(whole)
        flipped[-1] ^= 1
        with open(path, "wb") as f:
            f.write(flipped + struct.pack("<IIQ", 0, 4000000000, 1 << 62))
        s = self.up("--data", path)
        self.assertEqual(s.ask("GET", "a"), (200, b"1"))
        self.assertEqual(s.ask("GET", "b")[0], 404)

    def test_a_full_disk_is_said_and_spoils_nothing(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

        path = os.path.join(self.dir, "file")
        s = self.up("--data", path, preexec_fn=limit)
        self.assertEqual(s.ask("PUT", "a", b"x" * 60000)[0], 200)
        self.assertEqual(s.ask("PUT", "b", b"x" * 60000)[0], 507)
        self.assertEqual(s.ask("GET", "b")[0], 404)
        self.assertEqual(s.ask("PUT", "c", b"small")[0], 200)
        s.kill()
        s = self.up("--data", path)
        self.assertEqual(s.ask("GET", "a"), (200, b"x" * 60000))
        self.assertEqual(s.ask("GET", "b")[0], 404)
        self.assertEqual(s.ask("GET", "c"), (200, b"small"))

    def test_what_cannot_start_says_why(self):
        path = os.path.join(self.dir, "file")
        s = self.up("--data", path)
        other = self.start("--data", path)
        self.assertIsNone(other.port)
        self.assertIn("another server uses it", other.process.stderr.read())
        self.assertEqual(other.process.wait(10), 1)
        taken = self.start("--port", str(s.port))
        self.assertIn("Address already in use", taken.process.stderr.read())
        self.assertEqual(taken.process.wait(10), 1)
        with open(os.path.join(self.dir, "text"), "w") as f:
            f.write("not one of ours, and somebody's work")
        strange = self.start("--data", os.path.join(self.dir, "text"))
        self.assertIn("not a file of this server", strange.process.stderr.read())
        with open(os.path.join(self.dir, "text")) as f:
            self.assertEqual(f.read(), "not one of ours, and somebody's work")
        alone = self.start("--cert", "/dev/null")
        self.assertIn("--cert and --key belong together", alone.process.stderr.read())

    def test_ends_cleanly(self):
        s = self.up()
        with socket.create_connection(("127.0.0.1", s.port)):  # an idle client holds nothing up
            self.assertEqual(s.kill(signal.SIGTERM)[0], 0)
        s = self.up()
        self.assertEqual(s.kill(signal.SIGINT)[0], 0)

    def test_tls(self):
        cert, key = os.path.join(self.dir, "cert"), os.path.join(self.dir, "key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-days", "2", "-keyout", key, "-out", cert], check=True, capture_output=True)
        s = self.up("--cert", cert, "--key", key)
        self.assertTrue(s.line.startswith("listening on https://"))
        context = ssl.create_default_context(cafile=cert)
        self.assertEqual(s.ask("PUT", "a", b"1", context=context)[0], 200)
        self.assertEqual(s.ask("GET", "a", context=context), (200, b"1"))
        with self.assertRaises(ssl.SSLError):
            s.ask("GET", "a", context=ssl.create_default_context())


if __name__ == "__main__":
    PROGRAM = sys.argv[1:] or [os.path.join(os.environ["FERRY_BUILD"], "tools/ferry"), "metadata-server"]
    unittest.main(argv=sys.argv[:1])
