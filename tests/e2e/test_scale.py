#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Large numbers without a knob: requests in a batch, buffers of a node, peers of an engine; and an
idle engine, which uses no processor."""

import time

from ferry_e2e import check, main
from ferry_node import BASE, KIB, LONG, MIB, OK, Node, pair

FAR = BASE + (1 << 36)
PEERS = 256 if LONG else 64
A_NODE = 32  # engines in one process


def a_million_requests(lab):
    a, b = pair(lab, 64 * MIB)
    n = 1000000
    a("fill", at=BASE, len=64 * n, seed=1)
    b("fill", at=BASE, len=64 * n, seed=2)
    before = (a.process.rss(), b.process.rss())
    began = time.monotonic()
    batch = a.submit(b, "write", 64, n=n)
    status = a("wait", batch=batch)
    took = time.monotonic() - began
    grown = [(node.process.rss() - old) / MIB for node, old in zip((a, b), before)]
    check(status["done"] == n and b.same(BASE, 64 * n, 1), status)
    a("free", batch=batch)
    left = (a.process.rss() - before[0]) / MIB
    print(f"{n} requests in {took:.1f} s; MiB more at the initiator {grown[0]:.0f}, at the target {grown[1]:.0f}; "
          f"after the batch {left:.0f}")
    check(grown[0] < 256 and grown[1] < 32, "memory of a batch:", grown)


def many_buffers(lab):
    a, b = pair(lab, MIB)
    n = 100000
    b("map", at=FAR, len=n * 8 * KIB)
    took = [b("register", at=FAR, n=n, len=4 * KIB, stride=8 * KIB)["ms"],
            a("refresh", segment=a.segment(b), timeout=20000)["ms"]]
    check(a("buffers", segment=a.segment(b))["n"] == n + 1, "buffers")
    last = FAR + (n - 1) * 8 * KIB
    a("fill", at=BASE, len=4 * KIB, seed=3)
    reply = a.transfer(b, "write", 4 * KIB, remote=last)
    check(reply["status"] == OK and b.same(last, 4 * KIB, 3), reply)
    print(f"{n} buffers: registered in {took[0]:.0f} ms, fetched in {took[1]:.0f} ms, first transfer {reply['ms']:.0f} ms; "
          f"RSS {a.process.rss() / MIB:.0f} and {b.process.rss() / MIB:.0f} MiB")


def many_peers(lab):
    a = Node(lab, "hub")
    a.open()
    a.memory(MIB)
    a("fill", at=BASE, len=4 * KIB, seed=1)
    peers = []
    for first in range(0, PEERS, A_NODE):
        node = Node(lab, f"peers{first}")
        for e in range(A_NODE):
            at = BASE + e * MIB
            name = node.open(e=e, log=1)
            node.memory(4 * KIB, at=at, e=e)
            peers.append((node, name, at))
    began = time.monotonic()
    for _, name, _ in peers:
        a.segment(name)
    for round in range(3):
        batches = [a.submit(name, "write", 4 * KIB, remote=at, timeout=20000) for _, name, at in peers]
        for batch in batches:
            check(a("wait", batch=batch)["done"] == 1, "a batch failed")
            a("free", batch=batch)
    took = time.monotonic() - began
    for node, name, at in peers:
        check(node.same(at, 4 * KIB, 1), name)
    print(f"{PEERS} peers: 3 rounds in {took:.1f} s, {a.process.n_fds()} descriptors, {a.threads()} threads, "
          f"RSS {a.process.rss() / MIB:.0f} MiB")
    check(a.process.n_fds() < 4 * PEERS + 64 and a.threads() < 64, "descriptors or threads")


def idle(lab):
    nodes = pair(lab, MIB)
    time.sleep(0.5)
    before = [node.process.cpu_seconds() for node in nodes]
    time.sleep(3)
    used = [node.process.cpu_seconds() - old for node, old in zip(nodes, before)]
    print(f"used in 3 s: {used}")
    check(max(used) <= 0.03, "an idle engine uses the processor:", used)


if __name__ == "__main__":
    main(a_million_requests, many_buffers, many_peers, idle)
