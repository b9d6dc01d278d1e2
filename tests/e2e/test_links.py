#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry links` against running nodes: what it shows, whom it finds, and that it holds nothing up."""

import json
import os
import time

from ferry_e2e import check, main
from ferry_node import BASE, MIB, OK, Node, pair
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


def a_pair_that_memory_does_not_reach(lab):
    """Another user's process on the same host: shared memory is refused with its reason, tcp carries."""
    if os.geteuid() != 0:
        print("not run: a_pair_that_memory_does_not_reach: only root can become another user")
        return
    lab.dir.chmod(0o755)
    a = Node(lab, "root")
    a.open(protocol=None)
    a.memory(8 * MIB)
    if "shm" not in [t["name"] for t in a("describe", what="statistics")["json"]["transports"]]:
        print("not run: a_pair_that_memory_does_not_reach: there is no shm transport here")
        return
    same, before = Node(lab, "same"), os.umask(0)  # the node's command socket is for the other user, too
    other = Node(lab, "other", wrapper=("setpriv", "--reuid=65534", "--clear-groups"))
    os.umask(before)
    for node in (same, other):
        node.open(protocol=None)
        node.memory(8 * MIB)
        node("fill", at=BASE, len=4 * MIB, seed=7)
        check(a.transfer(node, "read", 4 * MIB)["status"] == OK and a.same(BASE, 4 * MIB, 7), node.name)
    links = {link["peer"]: link for link in links_of(lab, a)}
    check(links[same.engine_name]["carries"] == "shm", links)
    link = links[other.engine_name]
    shm = {path["transport"]: path for path in link["paths"]}["shm"]
    check(link["carries"] not in ("", "shm") and "user" in (shm.get("refused") or shm["passed_over"]) and shm["bytes"] == 0, link)
    check("user" in ferry(lab, a.engine_name, "--peer", other.engine_name), "the table does not say why")


if __name__ == "__main__":
    main(a_pair_that_memory_does_not_reach, shows_each_path, finds_nodes, is_a_live_table)
