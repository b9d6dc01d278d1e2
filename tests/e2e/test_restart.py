#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A restart heals by itself: a peer that comes back under its name is found by the next transfer,
and nothing that was meant for the dead one is done to it."""

import threading
import time

from ferry_e2e import check, main
from ferry_node import BASE, ECONNRESET, ERANGE, ESTALE, EUNREACH, KIB, MIB, OK, Node, elapsed_ms, pair

RESTARTS = 100
ROOM = 4 * MIB
SLICE = 1 * MIB


def restarted_under_load(lab):
    a = Node(lab, "survivor")
    a.open()
    a.memory(2 * ROOM)
    name, stop, errors, moved = None, threading.Event(), [], [0, 0]

    def start_peer(number):
        peer = Node(lab, f"peer{number}")
        peer.open(name=name)
        peer.memory(2 * ROOM)
        return peer

    peer = start_peer(0)
    name = peer.engine_name
    a.segment(peer)

    def load(half):
        """WRITEs without a pause; they fail while the peer is not there."""
        while not stop.is_set():
            reply = a.start("transfer", **a.args(name, "write", 64 * KIB, n=16, local=BASE + half * ROOM,
                                                 remote=BASE + half * ROOM, timeout=5000)).result()
            if reply["status"] == OK:
                moved[half] += 1
            elif reply["status"] == ERANGE and "(0 known)" in reply["error"]:
                pass  # it is there, and has registered nothing yet
            elif reply["status"] not in (ECONNRESET, EUNREACH, ESTALE):
                errors.append(reply)

    threads = [threading.Thread(target=load, args=(half,)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    healed, before, slow = [], None, []
    try:
        for number in range(1, RESTARTS + 1):
            peer.process.kill()
            peer = start_peer(number)
            since = time.monotonic()
            place = BASE + 3 * ROOM // 2
            args = a.args(name, "write", 8, local=place, remote=place, timeout=5000)
            while (reply := a.start("transfer", **args).result())["status"] != OK:
                slow = [reply] if reply["ms"] > 1000 else slow
                check(elapsed_ms(since) < 10000, "not healed in 10 s")
            healed.append(elapsed_ms(since))
            if number == 10:
                before = (a.process.n_fds(), a.threads(), a.process.rss())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    after = (a.process.n_fds(), a.threads(), a.process.rss())
    healed.sort()
    print(f"first success after the peer is ready: median {healed[len(healed) // 2]:.0f} ms, longest {healed[-1]:.0f} ms; "
          f"{sum(moved)} batches; fds, threads, bytes: {before} then {after}")
    check(not errors, errors[:3])
    check(healed[-1] <= 3000, "longest", healed[-1], "ms", slow)
    check(after[0] <= before[0] + 8 and after[1] <= before[1] + 16, "descriptors or threads grow")
    check(a.sanitized() or after[2] <= before[2] + 8 * MIB, "memory grows")
    check(min(moved) > RESTARTS // 4, "hardly any load:", moved)


def not_for_the_next_one(lab):
    """What was under way at the restart ends, and does nothing to the new incarnation, although
    its memory is at the same place."""
    a, b = pair(lab, 2 * ROOM)
    name = b.engine_name
    for round in range(10):
        a("fill", at=BASE, len=ROOM, seed=100 + round)  # meant for this incarnation
        batches = [a.submit(name, "write", SLICE, n=2000, wrap=4, timeout=10000) for _ in range(3)]
        while not a.ask("poll", batch=batches[0])["done"]:
            pass
        b.process.kill()
        b = Node(lab, f"target{round}")
        b.open(name=name)
        b.memory(2 * ROOM)
        b("fill", at=BASE, len=2 * ROOM, seed=7)
        for batch in batches:
            status = a("wait", batch=batch)
            check(status["failed"] > 0, "a batch under way survived the restart:", status)
            got = {int(key) for key in a("requests", batch=batch, n=2000)["by_status"]} - {OK}
            check(got <= {ESTALE, ECONNRESET, EUNREACH}, got)
            a("free", batch=batch)
        check(b.same(BASE, 2 * ROOM, 7), f"round {round}: written to by a batch that was meant for its predecessor")
        # The next one is meant for it, and is found without any call in between.
        check(a.transfer(name, "write", ROOM)["status"] == OK, "the next transfer fails")
        check(b.same(BASE, ROOM, 100 + round), "not delivered")


def idle_restart(lab):
    """Restarted while nobody transfers: the first transfer succeeds, also where memory is elsewhere."""
    a, b = pair(lab, 2 * ROOM)
    a("fill", at=BASE, len=ROOM, seed=1)
    name, at = b.engine_name, BASE
    for round in range(5):
        b.process.kill()
        time.sleep(0.05)
        at += 16 * ROOM
        b = Node(lab, f"target{round}")
        b.open(name=name)
        b.memory(2 * ROOM, at=at)
        reply = a.transfer(name, "write", ROOM, remote=at)
        check(reply["status"] == OK, reply)
        check(b.same(at, ROOM, 1), "not delivered")


if __name__ == "__main__":
    main(restarted_under_load, not_for_the_next_one, idle_restart)
