#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every batch ends within its time, whatever becomes of the peer, and says why; other peers are
served meanwhile, and the peer itself as soon as it is back."""

import time

from ferry_e2e import check, main, wait_until
from ferry_node import (BASE, ECONNRESET, ETIMEDOUT, EUNREACH, KIB, MIB, OK, Node, elapsed_ms)
from stores import store

ROOM = 32 * MIB
TIME_MS = 1500
# Stopped or cut off: what the kernel sends again has to stay unanswered a few times to tell them
# apart. Who only waits for data has nothing unanswered before the first keepalive probe.
CUT_OFF_MS, READ_CUT_OFF_MS = 2500, 3500


def latest_ms(time_ms):
    return time_ms * 1.1 + 300


class Scene:
    """One engine, the peer that comes to harm, and one that does not."""

    def __init__(self, lab, hosts=None):
        self.lab = lab
        self.here, self.there = hosts or (None, None)
        self.a = Node(lab, "initiator", netns=self.here)
        self.a.open()
        self.a.memory(ROOM)
        self.a("fill", at=BASE, len=ROOM, seed=3)
        self.other = self.target("other", self.here)
        self.peer = self.target("peer", self.there)
        self.works(self.peer)
        self.works(self.other)

    def target(self, name, host, engine_name=None):
        node = Node(self.lab, name, netns=host)
        node.open(name=engine_name)
        node.memory(ROOM)
        return node

    def works(self, node, size=MIB):
        reply = self.a.transfer(node, "write", size, timeout=TIME_MS)
        check(reply["status"] == OK, "transfer to", node.name, reply)
        check(node.same(BASE, size, 3), node.name, "has other bytes")

    def mid_batch(self, op, time_ms=TIME_MS):
        """A batch of 2 GB that has begun."""
        batch = self.a.submit(self.peer, op, MIB, n=2000, wrap=32, timeout=time_ms)

        def begun():
            return self.a.ask("poll", batch=batch)["done"]

        check(0 < wait_until(begun, 5, "the batch to begin") < 2000, "the batch is over already")
        return batch

    def ends(self, batch, since, causes, time_ms=TIME_MS):
        """All its requests, with one of these causes each; and the other peer works until then."""
        waiting = self.a.start("wait", batch=batch)
        while not waiting.done.is_set():
            self.works(self.other, 64 * KIB)
            check(elapsed_ms(since) < 2 * latest_ms(time_ms), "it does not end")
        status = waiting.result()
        took = elapsed_ms(since)
        check(status["status"] == OK and status["done"] + status["failed"] == status["total"], status)
        check(status["failed"] > 0 and took <= latest_ms(time_ms), f"{took:.0f} ms", status)
        check(self.peer.engine_name in status["cause"], "the text does not name the peer:", status)
        requests = self.a("requests", batch=batch, n=status["total"])
        got = {int(key) for key in requests["by_status"]} - {OK}
        check(got and got <= causes, "ended with", requests["by_status"], "not", causes)
        check(status["first_error"] in causes, status)
        print(f"  {took:.0f} ms: {status['failed']} failed: {status['cause']}")
        self.a("free", batch=batch)

    def small_and_large(self, causes, time_ms=TIME_MS):
        """Batches submitted after the accident."""
        for size, n in ((8, 1), (MIB, 32)):
            for op in ("write", "read"):
                since = time.monotonic()
                batch = self.a.submit(self.peer, op, size, n=n, wrap=32, timeout=time_ms)
                self.ends(batch, since, causes, time_ms)


def killed(lab):
    scene = Scene(lab)
    for op in ("write", "read"):
        batch = scene.mid_batch(op)
        scene.peer.process.kill()
        scene.ends(batch, time.monotonic(), {ECONNRESET})
        # Afterwards nobody listens.
        scene.small_and_large({EUNREACH, ECONNRESET})
        scene.peer = scene.target("peer", None, scene.peer.engine_name)
        scene.works(scene.peer)


def stopped(lab):
    scene = Scene(lab)
    for op in ("write", "read"):
        since = time.monotonic()
        batch = scene.mid_batch(op)
        scene.peer.process.pause()
        scene.ends(batch, since, {ETIMEDOUT})
        scene.peer.process.resume()
        scene.works(scene.peer)
    scene.peer.process.pause()
    scene.small_and_large({ETIMEDOUT})
    scene.peer.process.resume()
    scene.works(scene.peer)


def cut_off(lab):
    hosts = lab.cable()
    scene = Scene(lab, hosts)
    for cut, mend in (("drop", "undrop"), ("unplug", "plug")):
        for op, time_ms in (("write", CUT_OFF_MS), ("read", READ_CUT_OFF_MS)):
            since = time.monotonic()
            batch = scene.mid_batch(op, time_ms)
            for host in hosts:
                getattr(host, cut)()
            scene.ends(batch, since, {EUNREACH}, time_ms)
            for host in hosts:
                getattr(host, mend)()
            scene.works(scene.peer)
    hosts[0].drop()
    hosts[1].drop()
    scene.small_and_large({EUNREACH}, CUT_OFF_MS)
    hosts[0].undrop()
    hosts[1].undrop()
    scene.works(scene.peer)


def not_there(lab):
    """A peer that is in the metadata no more, and one that never was."""
    scene = Scene(lab)
    scene.peer("close")
    reply = scene.a.transfer(scene.peer, "write", 8, timeout=TIME_MS)
    check(reply["status"] in (EUNREACH, ECONNRESET) and reply["ms"] < latest_ms(TIME_MS), reply)
    reply = scene.a.ask("segment", name=f"127.0.0.1:{lab.free_ports()}", timeout=TIME_MS)
    check(reply["status"] == EUNREACH and reply["ms"] < latest_ms(TIME_MS), reply)


def many_do_not_answer(lab):
    """They are published and stand still while they are connected to; another one is not waited for."""
    with store("http") as server:
        hub, many, well = Node(lab, "hub"), Node(lab, "many"), Node(lab, "well")
        hub.open(metadata=server.uri)
        hub.memory(MIB)
        names = [many.open(e=e, log=1, metadata=server.uri) for e in range(40)]
        well.open(metadata=server.uri)
        well.memory(MIB)
        many.process.pause()
        for name in names:
            hub.segment(name)
        reply = hub.transfer(well, "write", 8, timeout=TIME_MS)
        check(reply["status"] == OK and reply["ms"] < 1500, reply)
        many.process.resume()


if __name__ == "__main__":
    main(killed, stopped, cut_off, not_there, many_do_not_answer)
