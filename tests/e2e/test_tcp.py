#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The tcp transport alone over a real network: cut cables, stopped, killed and restarted peers,
each with a status of its own and in bounded time; nothing lands after the end; io_uring forbidden."""

import re
import time

from ferry_e2e import build_dir, check, main

OK, ECANCELED, EUNREACH, ECONNRESET, ESTALE, ETIMEDOUT = 0, -20, -40, -41, -42, -43
NODE = build_dir() / "tests" / "e2e" / "transport_node"
PLUGIN = build_dir() / "transports" / "ferry_transport_tcp.so"
LEN = 64 << 20
SMALL = 64 << 10


class Node:
    def __init__(self, lab, host, *keys, before=()):
        self.host = host
        self.process = lab.start([NODE, *before, PLUGIN, LEN, *keys], netns=host, stdin=True)
        self.address = self.process.wait_for(r"^ready (\d+)")[1]
        self.attrs = dict(re.findall(r"^attr (\S+) (\S+)$", self.process.output(), re.M))
        self.seen = 0
        self.lists = 0

    def say(self, line, answer=None, timeout=10.0):
        """Sends it and returns the groups of the next answer."""
        self.process.write(line + "\n")
        return self.hear(answer, timeout) if answer else None

    def hear(self, answer, timeout=10.0, since=None):
        """The next one; with `since`, the first from there."""
        start = self.seen if since is None else since

        def look():
            return re.compile(answer, re.M).search(self.process.output(), start)

        end = time.monotonic() + timeout
        while not (match := look()):
            check(self.process.alive(), self.process.name, "ended")
            check(time.monotonic() < end, "no", answer)
            time.sleep(0.005)
        self.seen = max(self.seen, match.end())
        return match.groups()

    def know(self, target, address=None):
        attrs = {"tcp_host": address or target.host.ipv4, **target.attrs}
        words = " ".join(f"{k}={v}" for k, v in attrs.items())
        self.say(f"peer it:1 {target.address} {words}", r"^peer")

    def attach(self, want=OK, at_most_ms=1000, timeout_ms=2000):
        status, ms = map(int, self.say(f"attach {timeout_ms}", r"^attach (\S+) (\d+)"))
        check(status == want and ms <= at_most_ms, f"attach: {status} after {ms} ms")

    def start(self, op, byte, length):
        self.say(f"{op} {byte} {length}")
        self.lists += 1
        return self.lists - 1

    def end_of(self, cookie, timeout=10.0):
        """Status and milliseconds; it may have ended before what was heard last."""
        return map(int, self.hear(rf"^done {cookie} (\S+) (\d+)", timeout, since=0))

    def ended(self, cookie, want, at_most_ms, timeout=15.0):
        status, ms = self.end_of(cookie, timeout)
        check(status == want and ms <= at_most_ms, f"list {cookie}: {status} after {ms} ms, not {want}")
        return ms

    def transfer(self, op, byte, length, want=OK, at_most_ms=5000):
        self.ended(self.start(op, byte, length), want, at_most_ms)

    def cancel(self, cookie, want, at_most_ms):
        """`at_most_ms` from here on."""
        began = time.monotonic()
        self.say(f"cancel {cookie}", rf"^cancelled {cookie}")
        self.ended(cookie, want, 60000)
        took = (time.monotonic() - began) * 1000
        check(took <= at_most_ms, f"cancel took {took:.0f} ms")

    def count(self, byte, length):
        return int(self.say(f"count {byte} {length}", r"^count (\d+)", 30)[0])


def pair(lab, *keys):
    a, b = lab.cable()
    target, initiator = Node(lab, b, *keys), Node(lab, a, *keys)
    initiator.know(target)
    initiator.attach()
    initiator.transfer("write", 1, LEN)
    check(target.count(1, LEN) == LEN)
    return initiator, target, a, b


def addresses(lab):
    """IPv4, IPv6, and the IPv6 address that is one with its device's name only."""
    a, b = lab.cable()
    target = Node(lab, b)
    local = re.search(r"inet6 (fe80::\S+)/64", b.run("ip", "addr", "show", "dev", b.device))[1]
    for byte, address in enumerate((b.ipv4, b.ipv6, f"{local}%{a.device}"), 1):
        initiator = Node(lab, a)
        initiator.know(target, address)
        initiator.attach()
        initiator.transfer("write", byte, SMALL)
        check(target.count(byte, SMALL) == SMALL, address)


def cut_cable(lab):
    """Whatever is asked ends as unreachable: by a cancel, and without one."""
    initiator, target, a, b = pair(lab, "user_timeout_ms=2500")
    a.drop()
    b.drop()
    cookie = initiator.start("write", 2, LEN)
    time.sleep(1.5)
    initiator.cancel(cookie, EUNREACH, 250)
    a.undrop()
    b.undrop()
    initiator.transfer("write", 3, LEN)  # connects again by itself
    a.drop()
    b.drop()
    initiator.transfer("write", 4, LEN, EUNREACH, 6000)
    initiator.attach(EUNREACH, 1500, 1000)


def cut_while_reading(lab):
    initiator, target, a, b = pair(lab, "user_timeout_ms=2500", "keepalive_count=2")
    cookie = initiator.start("read", 9, LEN)
    initiator.ended(cookie, OK, 5000)
    a.drop()
    b.drop()
    initiator.transfer("read", 9, LEN, EUNREACH, 8000)


def stopped_target_stores_nothing_late(lab):
    """What its kernel took in for it while it was stopped is not stored when it goes on."""
    initiator, target, _, _ = pair(lab)
    for length in (SMALL, LEN):  # all of it lies in its kernel; part of it does
        target.process.pause()
        cookie = initiator.start("write", 2, length)
        time.sleep(0.6)
        initiator.cancel(cookie, ECANCELED, 250)
        target.process.resume()
        time.sleep(0.3)
        check(target.count(2, LEN) == 0, f"{length} bytes: some of a cancelled WRITE came late")
        initiator.transfer("write", 1, LEN)


def stopped_target_without_cancel(lab):
    """Its kernel acknowledges, so it is not unreachable; nor does anything land later."""
    initiator, target, _, _ = pair(lab, "user_timeout_ms=2000")
    target.process.pause()
    initiator.transfer("write", 2, LEN, ETIMEDOUT, 12000)
    target.process.resume()
    time.sleep(0.3)
    check(target.count(2, LEN) == 0)


def stopped_target_is_not_attached(lab):
    initiator, target, _, _ = pair(lab)
    target.process.pause()
    initiator.say("reopen", r"^reopened")
    initiator.attach(ETIMEDOUT, 1200, 1000)
    target.process.resume()
    initiator.attach()


def close_does_not_wait_for_stopped(lab):
    initiator, target, _, _ = pair(lab)
    target.process.pause()
    cookie = initiator.start("write", 2, LEN)
    time.sleep(0.2)
    (ms,) = initiator.say("reopen", r"^reopened (\d+)")
    check(int(ms) < 250, f"{ms} ms")
    initiator.ended(cookie, ECANCELED, 2000)
    target.process.resume()
    time.sleep(0.3)
    check(target.count(2, LEN) == 0)


def cancel_spares_others(lab):
    """What else is in flight on the connection goes on on a new one; nobody is told."""
    initiator, target, _, _ = pair(lab)
    for first, other in (("write", "write"), ("write", "read"), ("read", "read")):
        lists = [initiator.start(first, 2, LEN), initiator.start(other, 3, LEN)]
        initiator.say(f"cancel {lists[0]}", rf"^cancelled {lists[0]}")
        for cookie in lists:
            status, _ = initiator.end_of(cookie)
            check(status == OK or (cookie == lists[0] and status == ECANCELED), f"list {cookie}: {status}")
        if other == "write":
            check(target.count(3, LEN) == LEN)


def killed(lab):
    initiator, target, _, _ = pair(lab)
    target.process.pause()
    cookie = initiator.start("write", 2, LEN)
    time.sleep(0.1)
    target.process.kill()
    initiator.ended(cookie, ECONNRESET, 2000)
    initiator.attach(EUNREACH, 500)


def restarted(lab):
    """On the same port: another incarnation, which is noticed before a byte is sent to it."""
    a, b = lab.cable()
    target, initiator = Node(lab, b, "port=7777"), Node(lab, a)
    initiator.know(target)
    initiator.attach()
    initiator.transfer("write", 1, SMALL)
    target.process.kill()
    Node(lab, b, "port=7777")
    initiator.say(f"write 1 {SMALL}", rf"^submit {ECONNRESET}")
    initiator.attach(ESTALE)


def restarted_at_once(lab):
    """The port of a process that was killed is free a little later than the process is gone."""
    _, b = lab.cable()
    for _ in range(40):
        Node(lab, b, "port=7778").process.kill()


def io_uring_forbidden(lab):
    a, b = lab.cable()
    target, initiator = Node(lab, b, before=["--no-io-uring"]), Node(lab, a)
    said = re.findall(r"^log 2 .*no io_uring.*epoll serves", target.process.output(), re.M)
    check(len(said) == 1, target.process.output())
    initiator.know(target)
    initiator.attach()
    initiator.transfer("write", 5, LEN)
    check(target.count(5, LEN) == LEN)


def idle_costs_nothing(lab):
    initiator, target, _, _ = pair(lab)
    before = initiator.process.cpu_seconds() + target.process.cpu_seconds()
    time.sleep(1.5)
    after = initiator.process.cpu_seconds() + target.process.cpu_seconds()
    check(after - before <= 0.011, f"{after - before} s of processor time")


main(addresses, cut_cable, cut_while_reading, stopped_target_stores_nothing_late,
     stopped_target_without_cancel, stopped_target_is_not_attached, close_does_not_wait_for_stopped,
     cancel_spares_others, killed, restarted, restarted_at_once, io_uring_forbidden, idle_costs_nothing)
