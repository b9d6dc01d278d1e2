#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Notifications: after the data and not before, once, whole; and how an engine is closed."""

import time

from ferry_e2e import check, main, wait_until
from ferry_node import BASE, EAGAIN, ECANCELED, ENOENT, ESTALE, EUNREACH, ETIMEDOUT, KIB, MIB, OK, Node, elapsed_ms, pair


def after_the_data(lab):
    a, b = pair(lab, 32 * MIB)
    for round in range(50):
        a("fill", at=BASE, len=MIB, seed=round)
        size = (MIB, 64 * KIB, 8)[round % 3]
        checked = b.start("next", check=BASE + 8 * MIB, len=size, seed=round)
        batch = a.submit(b, "write", size, remote=BASE + 8 * MIB, notify=f"round{round}", message="done")
        got = checked.result(10)
        check(got["status"] == OK and got["same"] == size, "seen before its data:", got)
        check((got["name"], got["message"], got["from"]) == (f"round{round}", "done", a.engine_name), got)
        check(a("wait", batch=batch)["done"] == 1, "the batch")
        a("free", batch=batch)
    check(b.ask("next", timeout=200)["status"] == EAGAIN, "one came twice")
    # A batch that fails notifies nobody.
    b.process.pause()
    batch = a.submit(b, "write", 8, timeout=200, notify="failed", message="x")
    check(a("wait", batch=batch)["failed"] == 1, "a WRITE to a stopped peer")
    b.process.resume()
    check(b.ask("next", timeout=500)["status"] == EAGAIN, "told of a batch that failed")


def whole(lab):
    """Bytes of all values, up to 1 MiB, none cut."""
    a, b = pair(lab, MIB)
    for seed, size in enumerate((0, 1, 255, 4095, 4096, 65537, MIB)):
        a("notify", segment=a.segment(b), name="bytes", size=size, seed=seed)
        got = b("next", content=seed)
        check(got["size"] == size and got["content"] == size and got["ends_with"] == 0, got)


def once(lab):
    a, b = pair(lab, MIB)
    senders = [a.start("notify", segment=a.segment(b), name=f"n{i}", message="x", n=500) for i in range(4)]
    got = b.start("drain", timeout=1500)
    for sender in senders:
        check(sender.result(30)["status"] == OK, sender.value)
    check(got.result(30)["n"] == 2000, "sent 2000, got", got.value["n"])
    b.process.kill()
    reply = a.ask("notify", segment=a.segment(b), name="n", message="x", timeout=500)
    check(reply["status"] in (EUNREACH, ETIMEDOUT) and reply["ms"] < 1000, "told a dead peer:", reply)


def closed_under_load(lab):
    """Batches under way are cancelled, the peer lives on, the name is gone, and nothing hangs."""
    a, b = pair(lab, 32 * MIB)
    for timeout in (0, 500):
        for op in ("write", "read"):
            a.submit(b, op, MIB, n=3000, wrap=32, timeout=20000)
        took = a("close", timeout=timeout)["ms"]
        print(f"  close with {timeout} ms took {took:.0f} ms")
        check(took <= timeout + 1000, f"close took {took:.0f} ms")
        check(b.ask("segment", name=a.engine_name, timeout=1000)["status"] in (EUNREACH, ENOENT), "still published")
        a.segments.clear()
        a.open()
        a("register", at=BASE, len=32 * MIB)
        check(a.transfer(b, "write", MIB)["status"] == OK, "not open again")
    # With the peer stopped.
    b.process.pause()
    a.submit(b, "write", MIB, n=32, timeout=20000)
    took = a("close", timeout=100)["ms"]
    check(took <= 1100, f"close took {took:.0f} ms")
    b.process.resume()
    b("close")
    for node in (a, b):
        node.link.shutdown(1)
        node.process.expect_exit(0, 20)  # the sanitizers' word comes with the exit status


def held_up(lab):
    """Data that is there, and a stopped peer that does not take its notification: cancel, free and close
    do not wait for it."""
    a, b = pair(lab, MIB, protocol="shm")  # which delivers to a stopped peer too
    end = {"cancel": lambda batch: a.ask("cancel", batch=batch, timeout=5000),
           "free": lambda batch: a("free", batch=batch),
           "close": lambda batch: a("close", timeout=0)}
    for verb, run in end.items():
        b.process.pause()
        batch = a.submit(b, "write", 8, timeout=20000, notify="n", message="x")
        time.sleep(0.2)
        check(a.ask("poll", batch=batch)["status"] == EAGAIN, "the notification is not under way")
        reply = run(batch)
        check(reply["status"] == OK and reply["ms"] < 1000, verb, reply)
        b.process.resume()
        if verb == "cancel":
            reply = a("wait", batch=batch)
            check(reply["done"] == 1 and reply["first_error"] == ECANCELED, reply)


def many_held_up(lab):
    """More of those than there are threads: a first transfer to another peer does not wait for them either."""
    a, b = pair(lab, MIB, protocol="shm")
    other = Node(lab, "other")
    other.open(protocol="shm")
    other.memory(MIB)
    b.process.pause()
    batches = [a.submit(b, "write", 8, timeout=20000, notify="n", message="x") for _ in range(100)]
    time.sleep(0.2)
    reply = a.transfer(other, "write", 8, timeout=5000)
    check(reply["status"] == OK and reply["ms"] < 2000, reply)
    took = sum(a("free", batch=batch)["ms"] for batch in reversed(batches))
    check(took < 5000, f"freed in {took:.0f} ms")
    b.process.resume()


def restarted(lab, node, host):
    """Another process of that name, on a host that is reached again."""
    node.process.kill()
    again = Node(lab, "again", netns=host)
    again.open(name=node.engine_name)
    again.memory(MIB)
    host.undrop()
    return again


def restarted_in_between(lab):
    """The data is there, its notification is on the way for longer than the peer lives: who comes back under the
    name is not told, as it has not the data."""
    hosts = lab.cable()
    a, b = pair(lab, MIB, hosts)
    a("fill", at=BASE, len=64 * KIB, seed=1)
    hosts[1].drop(port=int(b.engine_name.rsplit(":", 1)[1]))
    batch = a.submit(b, "write", 64 * KIB, timeout=20000, notify="ready", message="x")
    wait_until(lambda: b.same(BASE, 64 * KIB, 1), 10, "the data")
    check(a.ask("poll", batch=batch)["status"] == EAGAIN, "the notification is not under way")
    again = restarted(lab, b, hosts[1])
    reply = a("wait", batch=batch)
    check(reply["done"] == 1 and reply["first_error"] == ESTALE, reply)
    check(again.ask("next", timeout=500)["status"] == EAGAIN, "told of data that it has not")
    # What is meant for it, it is told.
    reply = a.transfer(again, "write", 64 * KIB, notify="ready", message="y")
    check(reply["status"] == OK, reply)
    check(again("next")["message"] == "y" and again.same(BASE, 64 * KIB, 1), "the next one")


def restarted_before(lab):
    """Nothing of the data had left when the peer restarted: it goes to the new process, and so does the notification."""
    hosts = lab.cable()
    a, b = (Node(lab, name, netns=host) for name, host in zip(("initiator", "target"), hosts))
    for node in (a, b):
        node.open()
        node.memory(MIB)
    a("fill", at=BASE, len=64 * KIB, seed=1)
    hosts[1].drop(port=b("describe", what="segment")["json"]["tcp_data_port"])  # it will not connect
    batch = a.submit(b, "write", 64 * KIB, timeout=20000, notify="ready", message="x")
    again = restarted(lab, b, hosts[1])
    reply = a("wait", batch=batch)
    check(reply["done"] == 1 and reply["first_error"] == OK, reply)
    check(again("next")["message"] == "x" and again.same(BASE, 64 * KIB, 1), "the data and its notification")


if __name__ == "__main__":
    main(after_the_data, whole, once, closed_under_load, held_up, many_held_up, restarted_in_between,
         restarted_before)
