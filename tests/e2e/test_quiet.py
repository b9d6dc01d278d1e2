#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Terminal means quiet: after a time-out or a cancel no byte of it lands, here or there."""

import time

from ferry_e2e import check, main, wait_until
from ferry_node import BASE, ECANCELED, ETIMEDOUT, KIB, LONG, MIB, OK, pair

ROOM = 16 * MIB
RUNS = 1000 if LONG else 100
SIZES = (8, 4 * KIB, 256 * KIB, ROOM)


def stopped_receiver(lab):
    """Its range holds a pattern; a WRITE is submitted while it is stopped, ends, and must not
    land when it goes on. Times out and is cancelled in turns."""
    a, b = pair(lab, ROOM)
    a("fill", at=BASE, len=ROOM, seed=1)
    b("fill", at=BASE, len=ROOM, seed=2)
    for run in range(RUNS):
        size = SIZES[run % len(SIZES)]
        b.process.pause()
        batch = a.submit(b, "write", size, timeout=20 if run % 3 else 20000)
        if run % 3:
            status = a("wait", batch=batch)
        else:
            time.sleep(0.01)
            a("cancel", batch=batch)
            status = a("poll", batch=batch)
        check(status["failed"] == 1, status)
        check(status["first_error"] == (ETIMEDOUT if run % 3 else ECANCELED), status)
        b.process.resume()
        # Later transfers go on, so whatever was under way has had its turn.
        if run % 10 == 9:
            check(a.transfer(b, "read", 8)["status"] == OK, "the peer is lost")
            time.sleep(0.05)
        check(b.same(BASE, size, 2), f"run {run}: {size} bytes were touched after the end")
        a("free", batch=batch)
    time.sleep(0.3)
    check(b.same(BASE, ROOM, 2), "touched after the end")


def stopped_sender(lab):
    """The same for a READ and our own memory."""
    a, b = pair(lab, ROOM)
    b("fill", at=BASE, len=ROOM, seed=1)
    for run in range(RUNS):
        size = SIZES[run % len(SIZES)]
        if run % 2:  # under way already
            batch = a.submit(b, "read", size, timeout=20000)
            b.process.pause()
            a("cancel", batch=batch)
        else:
            b.process.pause()
            batch = a.submit(b, "read", size, timeout=20)
            check(a("wait", batch=batch)["first_error"] == ETIMEDOUT, "a READ from a stopped peer succeeded")
        a("fill", at=BASE, len=size, seed=3)
        b.process.resume()
        if run % 10 == 9:
            check(a.transfer(b, "write", 8, remote=BASE + ROOM - 8)["status"] == OK, "the peer is lost")
            b("fill", at=BASE, len=ROOM, seed=1)
            time.sleep(0.05)
        check(a.same(BASE, size, 3), f"run {run}: {size} bytes were touched after the end")
        a("free", batch=batch)
    time.sleep(0.3)
    check(a.same(BASE, ROOM, 3), "touched after the end")


def cancelled_under_way(lab):
    """A large WRITE to a live peer: from the end of the cancel on its memory does not change."""
    a, b = pair(lab, 64 * MIB)
    a("fill", at=BASE, len=64 * MIB, seed=1)
    for run in range(20 if LONG else 6):
        b("fill", at=BASE, len=64 * MIB, seed=2)
        whole = run % 2 == 0
        more = {"n": 1} if whole else {"n": 640, "wrap": 64}
        batch = a.submit(b, "write", 64 * MIB if whole else MIB, timeout=20000, **more)
        if whole:
            time.sleep(0.003)
        else:
            wait_until(lambda: a.ask("poll", batch=batch)["done"] > 20, 5, "the batch to begin")
        a("cancel", batch=batch)
        first = b.hash(BASE, 64 * MIB)
        status = a("poll", batch=batch)
        time.sleep(0.2)
        check(b.hash(BASE, 64 * MIB) == first, f"run {run}: bytes landed after the cancel:", status)
        check(status["done"] + status["failed"] == status["total"], status)
        print(f"  {status['done']} of {status['total']} were done, first error {status['first_error']}")
        check(status["first_error"] in (OK, ECANCELED), status)
        check(whole or status["first_error"] == ECANCELED, "the batch was over before it was cancelled")
        a("free", batch=batch)
        check(a.transfer(b, "write", 4 * KIB)["status"] == OK, "no transfer after a cancel")


if __name__ == "__main__":
    main(stopped_receiver, stopped_sender, cancelled_under_way)
