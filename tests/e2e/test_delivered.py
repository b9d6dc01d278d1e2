#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Completed means delivered: a WRITE that is done is in the peer's memory, a READ in ours."""

import math
import random

from ferry_e2e import check, main, wait_until
from ferry_node import BASE, ETIMEDOUT, KIB, LONG, MIB, OK, pair

ROOM = 64 * MIB


def stopped_receiver(lab):
    a, b = pair(lab, ROOM)
    a("fill", at=BASE, len=ROOM, seed=5)
    for size in (8, 4 * KIB, 64 * KIB, ROOM):
        b.process.pause()
        reply = a.transfer(b, "write", size, timeout=400)
        check(reply["status"] == ETIMEDOUT, "a WRITE to a stopped peer:", size, reply)
        check(b.engine_name in reply["error"], reply)
        b.process.resume()
        # It succeeds where the peer goes on in time, and is there when it is done.
        b("fill", at=BASE, len=size, seed=6)
        b.process.pause()
        batch = a.submit(b, "write", size, timeout=20000)
        check(a.ask("wait", batch=batch, timeout=500)["done"] == 0, size, "bytes done while the peer was stopped")
        b.process.resume()
        status = a("wait", batch=batch, timeout=20000)
        check(status["done"] == 1, status)
        check(b.same(BASE, size, 5), size, "bytes not there after the end")
        a("free", batch=batch)


def sizes(n, seed):
    """4 KiB to 64 MiB, few large ones: bytes in all are bounded."""
    chance = random.Random(seed)

    def between(low, high):
        return int(math.exp(chance.uniform(math.log(low), math.log(high))))

    large = max(n // 60, 3)
    all = [4 * KIB, ROOM] + [between(MIB, ROOM) for _ in range(large)]
    all += [between(4 * KIB, 256 * KIB) for _ in range(n - len(all))]
    chance.shuffle(all)
    return all


def hashed(lab, op, n):
    """Every transfer moves bytes that were not there before, and is hashed where they have to be
    as soon as it is done."""
    a, b = pair(lab, 2 * ROOM)
    source, sink = (a, b) if op == "write" else (b, a)
    source("fill", at=BASE, len=2 * ROOM, seed=1)
    chance = random.Random(op)
    total = wrong = 0
    for size in sizes(n, op):
        here, there = (chance.randrange(0, 2 * ROOM - size) for _ in range(2))
        local, remote = (here, there) if op == "write" else (there, here)
        reply = a.transfer(b, op, size, local=BASE + local, remote=BASE + remote)
        check(reply["status"] == OK, reply)
        got = sink.start("hash", aside=False, at=BASE + there, len=size)
        want = source.start("hash", aside=False, at=BASE + here, len=size)
        wrong += got.result()["hash"] != want.result()["hash"]
        total += size
    print(f"{n} {op}s, {total / 1e9:.1f} GB, {wrong} mismatches")
    check(wrong == 0, wrong, "mismatches")


def hashed_writes(lab):
    hashed(lab, "write", 10000)


def hashed_reads(lab):
    hashed(lab, "read", 10000 if LONG else 2500)


def hashed_batch(lab):
    """Many at once: each one is there when its own status says so."""
    a, b = pair(lab, ROOM)
    a("fill", at=BASE, len=ROOM, seed=1)
    batch = a.submit(b, "write", 64 * KIB, n=1024)
    wait_until(lambda: a.ask("poll", batch=batch)["done"] == 1024, 20, "the batch")
    check(b.same(BASE, ROOM, 1), "not delivered")
    a("free", batch=batch)


if __name__ == "__main__":
    main(stopped_receiver, hashed_writes, hashed_reads, hashed_batch)
