#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What happens to real metadata servers is not felt between nodes that know each other, and new ones
find their way as soon as the server is back. Keys of the dead go; those who come back are found."""

import base64
import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request

from ferry_e2e import Failure, NotRun, check, main, wait_until
from ferry_node import BASE, ESTALE, MIB, OK, Node
from stores import FERRY, SERVER, section, servers, store

TTL_MS = 3000
JOIN_S = 5.0
LEN = 256 << 10


def config(server, kind, **more):
    sections = {"metadata": {"ttl_ms": TTL_MS}, **more}
    if server.config:
        sections[section(kind)] = dict(server.config)
    return sections


def node(lab, name, server, kind, engine_name="127.0.0.1:0"):
    a = Node(lab, name)
    a.open(name=engine_name, metadata=server.uri, config=config(server, kind))
    a.memory(MIB)
    return a


class Load:
    """Transfers from one node to another, one after the other and without a pause, and messages beside."""

    def __init__(self, a, b):
        self.a, self.b = a, b
        self.n, self.failed, self.stop, self.longest = 0, [], False, 0.0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop:
            began = time.monotonic()
            reply = self.a.transfer(self.b, "write", LEN)
            if reply["status"] == OK and self.n % 50 == 0:
                reply = self.a.ask("notify", segment=self.a.segment(self.b), name="word", data="x", timeout=2000)
            self.longest = max(self.longest, time.monotonic() - began)
            self.n += 1
            if reply["status"] != OK:
                self.failed.append(reply)
            time.sleep(0.002)  # two processors

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self.stop = True
        self.thread.join(30)


def joins(lab, server, kind, old, within=JOIN_S):
    """A node that is new opens its engine, finds an old one and writes to it, in time."""
    began = time.monotonic()
    fresh = Node(lab, "fresh")
    host = "127.0.0.1:0"

    def opened():
        reply = fresh.ask("open", name=host, bind="127.0.0.1", protocol="tcp", metadata=server.uri,
                          config=json.dumps(config(server, kind), separators=(",", ":")))
        if reply["status"] == OK:
            fresh.engine_name = reply["name"]
        return reply["status"] == OK

    wait_until(opened, within, "a new node to open")
    fresh.memory(MIB)
    found = wait_until(lambda: fresh.ask("segment", name=old.engine_name, timeout=500).get("segment"), within,
                       "a new node to find an old one")
    fresh.segments[None, old.engine_name] = found
    reply = fresh.transfer(old, "write", LEN)
    took = time.monotonic() - began
    check(reply["status"] == OK and took <= within, f"{kind}: joined after {took:.1f} s: {reply}")
    fresh.process.kill()
    return took


def accidents(lab, kind, *what):
    with store(kind) as server:
        a, b = node(lab, "a", server, kind), node(lab, "b", server, kind)
        check(a.transfer(b, "write", LEN)["status"] == OK, "not even without an accident")
        with Load(a, b) as load:
            for number, (name, begin, end) in enumerate(what):
                n = load.n
                begin(server)
                time.sleep(1.0)
                at = BASE + (number + 1) * 16 * MIB  # what is registered meanwhile is written to at once
                registered = time.monotonic()
                b.memory(MIB, at=at)
                check(time.monotonic() - registered < 6, f"{kind}, {name}: registering waited too long")
                reply = a.transfer(b, "write", LEN, remote=at)
                check(reply["status"] == OK, f"{kind}, {name}: memory registered meanwhile: {reply}")
                end(server)
                took = joins(lab, server, kind, b)
                check(not load.failed, f"{kind}, {name}: {len(load.failed)} failed: {load.failed[:1]}")
                print(f"{kind}, {name}: {load.n - n} transfers, longest {load.longest * 1e3:.0f} ms, "
                      f"a new node joined {took:.1f} s after", flush=True)
                check(load.n - n > 20, "hardly any transfer was made")


RESTART = ("restart", lambda server: server.stop(), lambda server: server.start())
EMPTY = ("empty", lambda server: server.stop(), lambda server: server.empty())
FREEZE = ("SIGSTOP", lambda server: server.freeze(), lambda server: server.thaw())


def http(lab):
    accidents(lab, "http", RESTART, EMPTY, FREEZE)


def etcd(lab):
    accidents(lab, "etcd", RESTART, EMPTY, FREEZE)


def redis(lab):
    accidents(lab, "redis", RESTART, EMPTY, FREEZE)


def etcd_loses_its_leader(lab):
    accidents(lab, "etcd3", ("leader killed", lambda server: server.lose_leader(), lambda server: None))


# ---- nodes that die and come back ----------------------------------------------------------


def names(lab, server):
    out = lab.run([FERRY, "metadata", "list", "-s", server.uri, "--timeout", "1", "--json", "-"])
    return {entry["name"] for entry in json.loads(out)}


def the_dead_are_forgotten(lab):
    with contextlib.ExitStack() as stack:
        running = []
        for kind in ("etcd", "redis"):
            with contextlib.suppress(NotRun):
                server = stack.enter_context(store(kind))
                running.append((kind, server, node(lab, f"{kind}-a", server, kind), node(lab, f"{kind}-b", server, kind)))
        if not running:
            raise NotRun("neither etcd nor redis is here")
        for kind, server, a, b in running:
            check(names(lab, server) == {a.engine_name, b.engine_name}, "not both are listed")
            b.process.kill()
        killed = time.monotonic()
        for kind, server, a, b in running:
            wait_until(lambda: names(lab, server) == {a.engine_name},
                       TTL_MS / 1000 + 5 - (time.monotonic() - killed), f"{kind} to forget a killed node")
            print(f"{kind}: forgotten {time.monotonic() - killed:.1f} s after SIGKILL", flush=True)


def who_comes_back_is_found(lab):
    for kind in ("http", "etcd", "redis"):
        with contextlib.suppress(NotRun), store(kind) as server:
            a, b = node(lab, "a", server, kind), node(lab, "b", server, kind)
            check(a.transfer(b, "write", LEN)["status"] == OK, "not even before")
            for _ in range(3):
                b.process.kill()
                b = node(lab, "b", server, kind, b.engine_name)
                b("fill", at=BASE, len=LEN, seed=9)
                reply = a.transfer(b, "write", LEN)
                if reply["status"] == ESTALE:  # bytes were on the way to the dead one; never to another
                    reply = a.transfer(b, "write", LEN)
                check(reply["status"] == OK, f"{kind}: {reply}")
                check(b.hash(BASE, LEN) == a.hash(BASE, LEN), "did not arrive")


# ---- the main job --------------------------------------------------------------------------


def main_job(lab, **members):
    prefill, decode = lab.two_names()
    file = lab.dir / f"{decode}.json"
    file.write_text(json.dumps({"prefill_url": prefill, "decode_url": decode, **members}))
    decode = lab.start([FERRY, "decode", "-c", file, "--memory", "32m"], name="decode")
    out = lab.run([FERRY, "prefill", "-c", file, "--memory", "32m", "--synthetic", "4", "--model", "qwen2.5-0.5b"],
                  name="prefill")
    decode.expect_exit(0, 20)
    check("4 requests" in out or "requests" in out, out)


def every_form_of_url(lab):
    with store("etcd") as server:
        dead = lab.free_ports()
        main_job(lab, metadata_server=f"127.0.0.1:{server.port}")
        main_job(lab, metadata_server=f"etcd://127.0.0.1:{server.port}")
        main_job(lab, metadata_server=f"etcd://127.0.0.1:{dead},127.0.0.1:{server.port}")
        main_job(lab, metadata_server=f"127.0.0.1:{server.port}", metadata_backend="etcd")
    with store("redis") as server:
        main_job(lab, metadata_server=f"redis://127.0.0.1:{server.port}")
        main_job(lab, metadata_server=f"127.0.0.1:{server.port}", metadata_backend="redis")
    with store("http") as server:
        main_job(lab, metadata_server=f"http://127.0.0.1:{server.port}/metadata")


# ---- what cannot go well -------------------------------------------------------------------


def says(lab, what, status, *parts, **members):
    """`ferry decode` with such a file: one line, and these words in it."""
    prefill, decode = lab.two_names()
    file = lab.dir / f"{decode}.json"
    file.write_text(json.dumps({"prefill_url": prefill, "decode_url": decode, "protocol": "tcp", **members}))
    out = lab.run([FERRY, "decode", "-c", file, "--memory", "16m", "--wait", "1"], status=status, timeout=20)
    lines = out.splitlines()
    check(len(lines) == 1 and all(part in lines[0] for part in parts), f"{what}: {parts} expected:", out)
    check("hush" not in out, f"{what}: a password is shown:", out)
    print(f"{what}: {lines[0].replace(str(lab.dir), '')}", flush=True)


def errors_of_every_store(lab):
    dead, away = lab.free_ports(), "192.0.2.177"
    says(lab, "nobody listens", 3, "Connection refused", metadata_server=f"http://127.0.0.1:{dead}/metadata")
    says(lab, "no such host", 3, "ferry.invalid", metadata_server="http://ferry.invalid/metadata",
         ferry={"advertise": "127.0.0.1"})
    says(lab, "wrong URL", 2, "did you mean", metadata_server="P2P")
    says(lab, "wrong scheme", 3, "no metadata plugin for", "zookeeper", "http",
         metadata_server=f"zookeeper://127.0.0.1:{dead}")
    says(lab, "loopback at another machine's store", 2, "ferry.advertise", metadata_server=f"http://{away}:9/metadata")
    with store("http") as server:
        says(lab, "wrong path", 3, "404", metadata_server=server.uri + "x")
        server.stop()
        server.extra = ["--max-body", "150"]
        server.start()
        says(lab, "value too large for http", 3, "413", metadata_server=server.uri)


def errors_of_a_full_disk(lab):
    if os.geteuid() != 0:
        raise NotRun("a small file system needs root")
    server = servers.Http()
    server.program = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=8k none {server.dir} && exec "$@"', "sh", *SERVER]
    try:
        server.start()
        with contextlib.suppress(urllib.error.HTTPError):
            for i in range(9):
                urllib.request.urlopen(urllib.request.Request(f"{server.uri}?key=k{i}", bytes(b"x" * 2000), method="PUT"),
                                       timeout=10).close()
        says(lab, "full disk (http)", 3, "507", "could not be written", metadata_server=server.uri)
    finally:
        server.close()


def errors_of_https(lab):
    with store("https") as server:
        says(lab, "unknown authority", 3, "certificate", metadata_server=server.uri)


def errors_of_expired_certificates(lab):
    with store("https", days=0) as server:
        time.sleep(1.1)
        says(lab, "expired certificate", 3, "expired", metadata_server=server.uri,
             ferry={"http": {"ca_file": server.config["ca_file"]}})


def fill(server):
    """Until it takes no more; how large it is, it notices now and then."""
    for i in range(100):
        body = json.dumps({"key": base64.b64encode(b"fill%d" % i).decode(), "value": base64.b64encode(bytes(400000)).decode()})
        try:
            urllib.request.urlopen(server.url() + "/v3/kv/put", body.encode(), timeout=10).close()
        except urllib.error.HTTPError:
            return
    raise Failure("it takes more than it was told to")


def errors_of_etcd(lab):
    with store("etcd") as server:
        server.stop()
        server.extra = ["--quota-backend-bytes", "2000000"]
        server.start()
        fill(server)
        says(lab, "full disk (etcd)", 3, "space exceeded", metadata_server=server.uri)
    with store("etcd-tls") as server:
        given = {key: server.config[key] for key in ("ca_file", "cert_file", "key_file")}
        says(lab, "wrong password (etcd)", 3, "invalid user ID or password", metadata_server=server.uri,
             ferry={"etcd": {**given, "username": "ferry", "password": "hush"}})


def errors_of_redis(lab):
    with store("redis-user") as server:
        says(lab, "wrong password (redis)", 3, "WRONGPASS", metadata_server=server.uri,
             ferry={"redis": {"username": "ferry", "password": "hush"}})
        says(lab, "no password (redis)", 3, "NOAUTH", "MC_REDIS_PASSWORD", metadata_server=server.uri)
    with store("redis") as server:
        server.say("CONFIG", "SET", "maxmemory", "1")
        says(lab, "full memory (redis)", 3, "OOM", metadata_server=server.uri)


if __name__ == "__main__":
    main(http, etcd, redis, etcd_loses_its_leader, the_dead_are_forgotten, who_comes_back_is_found, every_form_of_url,
         errors_of_every_store, errors_of_a_full_disk, errors_of_https, errors_of_expired_certificates, errors_of_etcd, errors_of_redis)
