#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry links` against running nodes: what it shows, whom it finds, and that it holds nothing up."""

import json
import time

from ferry_e2e import check, main
from ferry_node import MIB, OK, Node, pair
from stores import FERRY


def ferry(lab, *words, status=0):
    return lab.run([FERRY, "links", *words], status=status, timeout=30)


def links_of(lab, node):
    return json.loads(ferry(lab, str(node.process.pid), "--json", "-"))


def shows_each_path(lab):
    a, b = pair(lab, len=8 * MIB)
    check(a.transfer(b, "write", 4 * MIB)["status"] == OK, "a transfer failed")
    link, = links_of(lab, a)
    check(link["peer"] == b.engine_name and link["carries"] == "tcp" and link["offers"] == ["tcp"], link)
    path, = link["paths"]
    check(path["state"] == "ready" and path["bytes"] >= 4 * MIB and path["since_s"] >= 0 and path["rails"], path)
    table = ferry(lab, a.engine_name, "--once", "--rails")
    check(b.engine_name in table and "*tcp" in table and "tcp/0" in table and "\x1b" not in table, table)
    check("no peer is open" in ferry(lab, b.engine_name), "the target opened nobody")
    check("no link to 192.0.2.1:1" in ferry(lab, a.engine_name, "--peer", "192.0.2.1:1", status=1), "an unknown peer")

    b.process.kill()
    a.ask("transfer", **a.args(b, "write", MIB, timeout=1000))
    path, = links_of(lab, a)[0]["paths"]
    check(path["failed"] > 0 and path["last_error"]["text"], path)


def finds_nodes(lab):
    a, b = pair(lab, len=MIB)
    out = ferry(lab, "--list")
    check(a.engine_name in out and b.engine_name in out, out)
    ours = {str(n.process.pid) for n in (a, b)}
    check(ours <= {str(n["pid"]) for n in json.loads(ferry(lab, "--list", "--json", "-"))}, out)
    lab.run([FERRY, "links", "nobody"], status=1, timeout=30)
    b.process.kill()
    check(b.engine_name not in ferry(lab, "--list"), "a dead node is listed")
    c = Node(lab, "c")
    c.open(config={"status_socket": False})
    check(c.engine_name not in ferry(lab, "--list"), "one that does not want to be seen")
    a.process.pause()  # it is asked for a while, and the others all the same
    began = time.monotonic()
    ferry(lab, "--list", "--timeout", "1")
    check(time.monotonic() - began < 10, "a stopped node holds everything up")
    a.process.resume()


def is_a_live_table(lab):
    a, b = pair(lab, len=8 * MIB)
    watching = lab.start([FERRY, "links", a.engine_name, "--interval", "0.2"], name="links")
    watching.wait_for("0/0", 5)
    for _ in range(5):
        check(a.transfer(b, "write", 8 * MIB)["status"] == OK, "a transfer failed")
        time.sleep(0.2)
    watching.wait_for("MiB", 5)
    watching.stop()


if __name__ == "__main__":
    main(shows_each_path, finds_nodes, is_a_live_table)
