# SPDX-License-Identifier: Apache-2.0
"""Steering of tests/e2e/node.c: engines in processes of their own, one command at a time or
several at once.

    node = Node(lab, "decode", netns=b)
    node.open()                                    # tcp, on 127.0.0.1 or the netns' address
    node.memory(64 * MIB)                          # mapped at BASE and registered
    asked = node.start("transfer", op="write", ...)
    reply = asked.result(5)                        # {"status": 0, "ms": 1.2, ...}
    node("hash", at=BASE, len=MIB)["hash"]
"""

import json
import re
import socket
import sys
import threading
import time

from ferry_e2e import Failure, build_dir, check

OK, EAGAIN, EINVAL, ENOTSUP, ENOENT, ERANGE = 0, -1, -2, -4, -5, -7
ECANCELED, EACCES, EIO = -20, -21, -22
EUNREACH, ECONNRESET, ESTALE, ETIMEDOUT = -40, -41, -42, -43

KIB, MIB = 1 << 10, 1 << 20
BASE = 0x7E9000000000  # where nodes map their memory unless told otherwise; free under ASan and TSan too
READ_ACCESS, WRITE_ACCESS = 2, 4
LONG = "--long" in sys.argv and not sys.argv.remove("--long")


class Asked:
    """An answer to come."""

    def __init__(self, node, words):
        self.node, self.words = node, words
        self.done = threading.Event()
        self.value = None

    def result(self, timeout=60.0):
        if not self.done.wait(timeout):
            raise Failure(f"{self.node.name}: no answer in {timeout:g} s to: {self.words}")
        if self.value is None:
            raise Failure(f"{self.node.name} ended before it answered: {self.words}")
        return self.value


class Node:
    def __init__(self, lab, name="node", netns=None, wrapper=(), env=None):
        self.lab, self.name, self.netns = lab, name, netns
        self.segments = {}
        self.tag = 0
        self.asked = {}
        self.lock = threading.Lock()
        path = lab.dir / f"{len(lab.processes)}-{name}.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(10)
            self.process = lab.start([*wrapper, build_dir() / "tests" / "e2e" / "node", path],
                                     name=name, netns=netns, env=env)
            self.link, _ = listener.accept()
        self.link.settimeout(None)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            with self.link.makefile("r") as lines:
                for line in lines:
                    value = json.loads(line)
                    with self.lock:
                        asked = self.asked.pop(value["tag"])
                    asked.value = value
                    asked.done.set()
        except (OSError, ValueError):
            pass
        with self.lock:
            left, self.asked = self.asked, None
        for asked in left.values():
            asked.done.set()

    def start(self, verb, aside=True, **args):
        """Does not wait for the answer; `aside`: nor do later commands."""
        words = [verb] + [f"{key}={value}" for key, value in args.items() if value is not None]
        check(not any(re.search(r"\s", word) for word in words), "white space in", words)
        asked = Asked(self, " ".join(words))
        with self.lock:
            if self.asked is None:
                raise Failure(f"{self.name} has ended")
            self.tag += 1
            self.asked[self.tag] = asked
        try:
            self.link.sendall(f"{self.tag} {'& ' if aside else ''}{asked.words}\n".encode())
        except OSError:
            raise Failure(f"{self.name} has ended") from None
        return asked

    def ask(self, verb, **args):
        """The answer, whatever its status."""
        return self.start(verb, aside=False, **args).result()

    def __call__(self, verb, **args):
        """The answer; its status has to be OK."""
        reply = self.ask(verb, **args)
        check(reply["status"] == OK, f"{self.name}: {verb} {args}: {reply}")
        return reply

    # ---- what most tests need ---------------------------------------------------------------

    def open(self, e=None, name=None, bind=None, protocol="tcp", config=None, **args):
        host = self.netns.ipv4 if self.netns else "127.0.0.1"
        given = json.dumps(config, separators=(",", ":")) if config else None
        opened = self("open", e=e, name=name or f"{host}:0", bind=bind or host, protocol=protocol,
                      config=given, **args)["name"]
        if not e:
            self.engine_name = opened
        return opened

    def memory(self, len, at=BASE, access=None, e=None):
        self("map", at=at, len=len)
        self("register", e=e, at=at, len=len, access=access)

    def segment(self, peer, e=None, timeout=None):
        """Number of a peer's segment, opened once."""
        name = peer if isinstance(peer, str) else peer.engine_name
        if (e, name) not in self.segments:
            self.segments[e, name] = self("segment", e=e, name=name, timeout=timeout)["segment"]
        return self.segments[e, name]

    def args(self, peer, op, len, local=BASE, remote=BASE, **more):
        return dict(op=op, segment=self.segment(peer, more.get("e")), local=local, remote=remote, len=len, **more)

    def transfer(self, peer, op, len, **more):
        return self.ask("transfer", **self.args(peer, op, len, **more))

    def submit(self, peer, op, len, **more):
        return self("submit", **self.args(peer, op, len, **more))["batch"]

    def hash(self, at, len):
        return self("hash", at=at, len=len)["hash"]

    def same(self, at, len, seed):
        """Is it the content of `seed`?"""
        return self("check", at=at, len=len, seed=seed)["same"] == len

    def sanitized(self):
        """A sanitizer keeps freed memory back, so that figures of memory say nothing."""
        with open(f"/proc/{self.process.pid}/exe", "rb") as file:
            return re.search(rb"__[at]san_init", file.read()) is not None

    def threads(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"^Threads:\s*(\d+)", file.read(), re.MULTILINE)[1])


def pair(lab, len=64 * MIB, hosts=(None, None), **args):
    """Two nodes with memory at BASE, connected."""
    nodes = [Node(lab, name, netns=host) for name, host in zip(("initiator", "target"), hosts)]
    for node in nodes:
        node.open(**args)
        node.memory(len)
    reply = nodes[0].transfer(nodes[1], "write", 8)
    check(reply["status"] == OK, reply)
    return nodes


def elapsed_ms(since):
    return (time.monotonic() - since) * 1000
