#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The control channel over a real network: a peer that is stopped, cut off, killed or not there
ends the request within its time, each with a status of its own."""

import time

from ferry_e2e import build_dir, check, main

OK, EUNREACH, ECONNRESET, ETIMEDOUT = 0, -40, -41, -43
PROBE, CALL = 3, 0x46
NODE = build_dir() / "tests" / "e2e" / "control_node"


def serve(lab, host):
    server = lab.start([NODE, "serve"], netns=host, name="server")
    return server, server.wait_for(r"ready on (\d+)")[1]


def start_asking(lab, client, host, port, kind, size=2, timeout_ms=1500):
    return lab.start([NODE, "ask", host, port, kind, size, timeout_ms], netns=client, name="client")


def expect(asking, status, words, at_most_ms):
    match = asking.wait_for(r"status (-?\d+) after (\d+) ms: (.*)")
    check(int(match[1]) == status and words in match[3], match[0])
    check(int(match[2]) <= at_most_ms, match[0])


def answers(lab):
    a, b = lab.cable()
    _, port = serve(lab, b)
    for address in (b.ipv4, b.ipv6):
        expect(start_asking(lab, a, address, port, PROBE), OK, "success", 1000)


def refused(lab):
    a, b = lab.cable()
    expect(start_asking(lab, a, b.ipv4, 9, PROBE), EUNREACH, f"probe request to {b.ipv4}:9: connecting", 1000)
    expect(start_asking(lab, a, b.ipv6, 9, PROBE), EUNREACH, "refused", 1000)


def killed_while_it_answers(lab):
    a, b = lab.cable()
    server, port = serve(lab, b)
    asking = start_asking(lab, a, b.ipv4, port, CALL, timeout_ms=10000)
    time.sleep(0.3)
    server.kill()
    expect(asking, ECONNRESET, "closed without a reply", 5000)


def stopped(lab):
    a, b = lab.cable()
    server, port = serve(lab, b)
    server.pause()
    expect(start_asking(lab, a, b.ipv4, port, PROBE), ETIMEDOUT, "waiting for the reply", 3000)
    # More than the stopped one's kernel takes: the window closes, but is confirmed.
    expect(start_asking(lab, a, b.ipv4, port, PROBE, size=32 << 20), ETIMEDOUT, "sending the request", 3000)
    server.resume()
    expect(start_asking(lab, a, b.ipv4, port, PROBE), OK, "success", 1000)


def cut_off_before(lab):
    a, b = lab.cable()
    _, port = serve(lab, b)
    b.drop()
    expect(start_asking(lab, a, b.ipv4, port, PROBE), EUNREACH, "no answer", 3000)
    b.undrop()
    b.unplug()
    expect(start_asking(lab, a, b.ipv4, port, PROBE, timeout_ms=800), EUNREACH, "connecting", 3000)


def cut_off_while_it_sends(lab):
    a, b = lab.cable()
    _, port = serve(lab, b)
    a.run("tc", "qdisc", "add", "dev", a.device, "root", "tbf", "rate", "40mbit", "burst", "64kb", "latency", "50ms")
    asking = start_asking(lab, a, b.ipv4, port, PROBE, size=32 << 20, timeout_ms=2500)
    time.sleep(0.5)
    a.drop()
    b.drop()
    expect(asking, EUNREACH, "nothing of what we send arrives", 4000)


if __name__ == "__main__":
    main(answers, refused, killed_while_it_answers, stopped, cut_off_before, cut_off_while_it_sends)
