# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with metadata servers, each once with a real server: the status that comes of
it and the words that a user sees. No words ever hold a password.

Environment: FERRY_BUILD, the build folder. Prints the table of all cases at its end."""

import http.server
import os
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../conformance"))
import servers  # noqa: E402

BUILD = os.environ["FERRY_BUILD"]
SERVER = [os.path.join(BUILD, "tools/ferry"), "metadata-server"]
OK, EINVAL, ENOTSUP, ENOENT, ERANGE, EUNREACH = 0, -2, -4, -5, -7, -40
SECRET = "hush:%40"
TABLE = []


def attempt(plugin, uri, *call, env=None, **config):
    """(status, milliseconds, words) of one call."""
    args = []
    for key, value in {"timeout_ms": "8000", "connect_timeout_ms": "8000", **config}.items():
        args += ["--config", "%s=%s" % (key, value)]
    out = subprocess.run(
        [os.path.join(BUILD, "tests/conformance/suite/metadata_conformance"),
         os.path.join(BUILD, "metadata_plugins/ferry_metadata_%s.so" % plugin), uri, *args, "--try", *call],
        capture_output=True, text=True, timeout=60, env=dict(os.environ, **(env or {})), check=True).stdout
    status, ms, words = out.split("\n")[0].split(" ", 2)
    return int(status), int(ms), words


class Case(unittest.TestCase):
    def expect(self, what, got, status, *parts):
        TABLE.append((what, got[2]))
        self.assertEqual(got[0], status, got[2])
        for part in parts:
            self.assertIn(part, got[2])
        self.assertNotIn("hush", got[2])
        self.assertLess(got[1], 12000)

    def run_server(self, server):
        self.addCleanup(server.close)
        server.start()
        return server


class Http(Case):
    def test_addresses(self):
        nowhere = "http://127.0.0.1:%d/metadata" % servers.free_port()
        self.expect("nobody listens", attempt("http", nowhere, "get", "k"), EUNREACH, "Connection refused")
        self.expect("no such host", attempt("http", "http://ferry.invalid/metadata", "get", "k"), EUNREACH,
                    "Could not resolve host")
        got = attempt("http", "http://127.0.0.1:%d/metadata" % self.run_server(servers.Redis()).port, "get", "k")
        self.expect("another service", got, EUNREACH)

    def test_answers(self):
        s = self.run_server(servers.Http(*SERVER))
        self.expect("absent", attempt("http", s.uri, "get", "k"), ENOENT)
        self.expect("wrong path", attempt("http", s.uri + "x", "put", "k"), EUNREACH, "HTTP 404", "/metadata is wanted")
        self.expect("too large for the server", attempt("http", s.uri, "put", "k", str(40 << 20)), ERANGE, "HTTP 413")
        self.expect("unknown setting", attempt("http", s.uri, "get", "k", colour="red"), EINVAL, "colour")
        self.expect("wrong number", attempt("http", s.uri, "get", "k", timeout_ms="soon"), EINVAL, "timeout_ms", "soon")

    def test_proxies_only_if_asked(self):
        s = self.run_server(servers.Http(*SERVER))
        dead = "http://127.0.0.1:%d" % servers.free_port()
        env = {"http_proxy": dead, "HTTP_PROXY": dead, "all_proxy": dead, "ALL_PROXY": dead, "no_proxy": ""}
        self.expect("proxy in the environment", attempt("http", s.uri, "put", "k", env=env), OK)
        self.expect("proxy that is down", attempt("http", s.uri, "get", "k", proxy=dead), EUNREACH, "refused")

    def test_redirects_and_strange_answers(self):
        class Strange(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(int(self.path[1:4]))
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        strange = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange)
        threading.Thread(target=strange.serve_forever).start()
        self.addCleanup(strange.server_close)
        self.addCleanup(strange.shutdown)
        base = "http://127.0.0.1:%d/" % strange.server_port
        self.expect("redirect", attempt("http", base + "302", "get", "k"), EUNREACH, "HTTP 302")
        self.expect("204", attempt("http", base + "204", "get", "k"), EUNREACH, "HTTP 204")
        self.expect("500", attempt("http", base + "500", "get", "k"), EUNREACH, "HTTP 500")
        got = attempt("http", base.replace("//", "//user:" + SECRET + "@") + "401", "get", "k")
        self.expect("wrong password", got, EUNREACH, "HTTP 401")

    def test_tls(self):
        s = self.run_server(servers.Https(*SERVER))
        ca = s.config["ca_file"]
        self.expect("unknown CA", attempt("http", s.uri, "get", "k"), EUNREACH, "certificate")
        self.expect("not verified", attempt("http", s.uri, "get", "k", verify="false"), ENOENT)
        self.expect("known CA", attempt("http", s.uri, "get", "k", ca_file=ca), ENOENT)
        self.expect("http to https", attempt("http", s.uri.replace("https", "http"), "get", "k"), EUNREACH, "HTTP 400")
        self.expect("no such CA file", attempt("http", s.uri, "get", "k", ca_file="/nothing"), EUNREACH, "/nothing")

    def test_expired_certificate(self):
        s = self.run_server(servers.Https(*SERVER, days=0))
        time.sleep(1.1)
        got = attempt("http", s.uri, "get", "k", ca_file=s.config["ca_file"])
        self.expect("expired certificate", got, EUNREACH, "certificate has expired")


class Etcd(Case):
    def test_addresses(self):
        for uri in ("etcd://", "etcd://,;", "etcd://127.0.0.1:1/path"):
            self.expect("URL " + uri, attempt("etcd", uri, "get", "k"), EINVAL)
        self.expect("nobody listens", attempt("etcd", "etcd://127.0.0.1:%d" % servers.free_port(), "get", "k"),
                    EUNREACH, "Connection refused")
        got = attempt("etcd", "etcd://127.0.0.1:%d" % self.run_server(servers.Http(*SERVER)).port, "get", "k")
        self.expect("another service", got, EUNREACH, "HTTP 404")

    def test_limits(self):
        s = servers.Etcd()
        s.extra = ["--max-request-bytes", "1500000", "--quota-backend-bytes", "2000000"]
        self.run_server(s)
        self.expect("absent", attempt("etcd", s.uri, "get", "k"), ENOENT)
        self.expect("too large for the server", attempt("etcd", s.uri, "put", "k", "3000000"), ERANGE, "larger than max")
        for i in range(40):  # etcd weighs what it has written to disk, which it does now and then
            got = attempt("etcd", s.uri, "put", "k%d" % i, "900000")
            if got[0]:
                break
        self.expect("full disk", got, EUNREACH, "space exceeded")
        self.expect("user without authentication",
                    attempt("etcd", s.uri, "get", "k", username="u", password=SECRET), EUNREACH, "not enabled")

    def test_users_and_tls(self):
        s = self.run_server(servers.EtcdTls())
        tls = {key: s.config[key] for key in ("ca_file", "cert_file", "key_file")}
        self.expect("absent", attempt("etcd", s.uri, "get", "k", **s.config), ENOENT)
        self.expect("wrong password", attempt("etcd", s.uri, "get", "k", username="ferry", password=SECRET, **tls),
                    EUNREACH, "invalid user ID or password")
        self.expect("no user", attempt("etcd", s.uri, "get", "k", **tls), EUNREACH, "user name is empty")
        self.expect("no client certificate", attempt("etcd", s.uri, "get", "k", ca_file=tls["ca_file"]), EUNREACH)
        self.expect("unknown CA", attempt("etcd", s.uri, "get", "k", cert_file=tls["cert_file"],
                                          key_file=tls["key_file"]), EUNREACH, "certificate")
        self.expect("plain to TLS", attempt("etcd", s.uri.replace("etcds", "etcd"), "get", "k"), EUNREACH)


    def test_a_server_that_is_unable_for_a_moment_is_asked_again(self):
        class Unable(http.server.BaseHTTPRequestHandler):
            asked = 0

            def do_POST(self):
                Unable.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                able = Unable.asked > 3
                body = b'{"header":{"revision":"1"}}' if able else b'{"error":"etcdserver: no leader","code":14}'
                self.send_response(200 if able else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        unable = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unable)
        threading.Thread(target=unable.serve_forever).start()
        self.addCleanup(unable.server_close)
        self.addCleanup(unable.shutdown)
        uri = "etcd://127.0.0.1:%d" % unable.server_port
        self.expect("no leader for a moment", attempt("etcd", uri, "get", "k"), ENOENT)
        self.assertEqual(Unable.asked, 4)
        Unable.asked = -1000
        self.expect("no leader", attempt("etcd", uri, "get", "k", timeout_ms="500"), EUNREACH, "no leader")


class Redis(Case):
    def test_addresses(self):
        for uri in ("redis://", "redis://h:1/x", "redis://a:1,b:2"):
            self.expect("URL " + uri, attempt("redis", uri, "get", "k"), EINVAL)
        self.expect("nobody listens", attempt("redis", "redis://127.0.0.1:%d" % servers.free_port(), "get", "k"),
                    EUNREACH, "Connection refused")
        self.expect("no such host", attempt("redis", "redis://ferry.invalid", "get", "k"), EUNREACH, "ferry.invalid")
        got = attempt("redis", "redis://127.0.0.1:%d" % self.run_server(servers.Http(*SERVER)).port, "get", "k")
        self.expect("another service", got, EUNREACH)

    def test_answers(self):
        s = self.run_server(servers.Redis())
        self.expect("absent", attempt("redis", s.uri, "get", "k"), ENOENT)
        self.expect("no such database", attempt("redis", s.uri + "/99", "get", "k"), EUNREACH, "SELECT", "range")
        self.expect("password where there is none",
                    attempt("redis", s.uri, "get", "k", password=SECRET), EUNREACH, "AUTH")
        self.expect("TLS to plain", attempt("redis", s.uri.replace("redis", "rediss"), "get", "k", timeout_ms="500"),
                    EUNREACH, "TLS")
        s.say("RPUSH", "list", "x")
        self.expect("another kind of value", attempt("redis", s.uri, "get", "list"), EUNREACH, "WRONGTYPE")
        s.say("CONFIG", "SET", "maxmemory", "1mb")
        self.expect("full memory", attempt("redis", s.uri, "put", "k", "100000"), EUNREACH, "OOM")
        s.say("CONFIG", "SET", "maxmemory", "0")
        s.say("REPLICAOF", "127.0.0.1", str(servers.free_port()))
        self.expect("a replica", attempt("redis", s.uri, "put", "k"), EUNREACH, "READONLY", "name the primary")

    def test_value_too_large(self):
        s = servers.Redis()
        s.extra = ["--proto-max-bulk-len", "1mb"]
        self.run_server(s)
        got = attempt("redis", s.uri, "put", "k", "2000000")
        self.expect("too large for the server", got, ERANGE, "bulk length")

    def test_users(self):
        s = self.run_server(servers.RedisUser())
        self.expect("absent", attempt("redis", s.uri, "get", "k", **s.config), ENOENT)
        self.expect("wrong password", attempt("redis", s.uri, "get", "k", username="ferry", password=SECRET),
                    EUNREACH, "WRONGPASS")
        url = s.uri.replace("//", "//ferry:hush%3a%2540@")
        self.expect("wrong password in the URL", attempt("redis", url, "get", "k"), EUNREACH, "WRONGPASS")
        self.expect("no password", attempt("redis", s.uri, "get", "k"), EUNREACH, "NOAUTH", "MC_REDIS_PASSWORD")

    def test_cluster_and_sentinel(self):
        s = servers.Redis()
        # Its own choice is its port + 10000, which may be that of some outgoing connection.
        s.extra = ["--cluster-enabled", "yes", "--cluster-port", str(servers.free_port())]
        self.run_server(s)
        self.expect("Cluster", attempt("redis", s.uri, "get", "k"), EUNREACH, "Redis Cluster", "not support")
        s = servers.Redis()
        with open(s.path("conf"), "w") as f:
            f.write("port %d\nbind 127.0.0.1\n" % s.port)
        s.command = lambda: ["redis-server", s.path("conf"), "--sentinel"]
        self.run_server(s)
        self.expect("Sentinel", attempt("redis", s.uri, "get", "k"), EUNREACH, "Sentinel", "not support")

    def test_tls(self):
        s = self.run_server(servers.RedisTls())
        self.expect("absent", attempt("redis", s.uri, "get", "k", **s.config), ENOENT)
        mine = {key: s.config[key] for key in ("cert_file", "key_file")}
        self.expect("unknown CA", attempt("redis", s.uri, "get", "k", **mine), EUNREACH, "certificate")
        self.expect("not verified", attempt("redis", s.uri, "get", "k", verify="false", **mine), ENOENT)
        self.expect("wrong host name", attempt("redis", s.uri.replace("localhost", "127.1"), "get", "k", **s.config),
                    EUNREACH, "certificate", "mismatch")
        self.expect("no client certificate", attempt("redis", s.uri, "get", "k", ca_file=s.config["ca_file"]),
                    EUNREACH)
        self.expect("no such CA file", attempt("redis", s.uri, "get", "k", ca_file="/nothing"), EINVAL, "/nothing")


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    for row in TABLE:
        print("%-30s %s" % row)
    sys.exit(not result.wasSuccessful())
