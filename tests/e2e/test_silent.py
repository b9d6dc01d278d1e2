#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nothing silent: what is named is used or refused with what there is; every transfer tells what
carried it; and where io_uring is forbidden the log says so, once."""

from ferry_e2e import NotRun, build_dir, check, main
from ferry_node import BASE, ENOTSUP, KIB, MIB, OK, Node, pair


def unknown_protocol(lab):
    node = Node(lab)
    for protocol in ("rmda", "tcp,nonsense", "nonsense,tcp"):
        reply = node.ask("open", name="127.0.0.1:0", bind="127.0.0.1", protocol=protocol)
        check(reply["status"] == ENOTSUP, protocol, reply)
        check("tcp" in reply["error"] and "loop" in reply["error"], "does not list what is there:", reply)
    reply = node.ask("open", name="127.0.0.1:0", bind="127.0.0.1", metadata="nosuch://127.0.0.1:1")
    check(reply["status"] == ENOTSUP and "p2p" in reply["error"].lower(), reply)


def only_what_is_named(lab):
    a, b = pair(lab, MIB)
    for node in (a, b):
        names = [t["name"] for t in node("describe", what="statistics")["json"]["transports"]]
        check(names == ["tcp"], "protocol tcp runs", names)
    reply = a.transfer(b, "write", 8, protocol="loop")
    check(reply["status"] == ENOTSUP, "a transport that the engine does not run:", reply)
    # A peer that offers nothing we run: said when it is opened.
    other = Node(lab, "other")
    other.open(protocol="loop")
    reply = a.ask("segment", name=other.engine_name)
    check(reply["status"] == ENOTSUP and "loop" in reply["error"] and "tcp" in reply["error"], reply)


def told(lab):
    a, b = pair(lab, MIB)
    for op in ("read", "write"):
        batch = a.submit(b, op, 4 * KIB, n=64)
        check(a("wait", batch=batch)["done"] == 64, op)
        requests = a("requests", batch=batch, n=64)
        check(requests["transport"] == "tcp" and requests["rail"], requests)
        a("free", batch=batch)
    # Each engine may run several: the request's own choice is kept, and told.
    both = Node(lab, "both")
    both.open(protocol="tcp,loop")
    both.memory(MIB)
    for protocol in ("tcp", "loop"):
        batch = both.submit(both, "write", 8, remote=BASE + KIB, protocol=protocol)
        check(both("wait", batch=batch)["done"] == 1, protocol)
        check(both("requests", batch=batch)["transport"] == protocol, protocol)


def io_uring_forbidden(lab):
    wrapper = build_dir() / "tests" / "e2e" / "no_uring"
    if not wrapper.exists():
        raise NotRun("built without libseccomp")
    nodes = []
    for name in ("initiator", "target"):
        node = Node(lab, name, wrapper=[wrapper])
        node.open(log=3)
        node.memory(32 * MIB)
        nodes.append(node)
    a, b = nodes
    a("fill", at=BASE, len=32 * MIB, seed=1)
    check(a.transfer(b, "write", MIB, n=32)["status"] == OK, "no transfer by epoll")
    check(b.same(BASE, 32 * MIB, 1), "not delivered")
    check(a.transfer(b, "read", 8, n=64)["status"] == OK, "no transfer by epoll")
    for node in nodes:
        lines = [line for line in node.process.output().splitlines() if "io_uring" in line]
        check(len(lines) == 1 and "epoll" in lines[0], "said", len(lines), "times:", lines)


if __name__ == "__main__":
    main(unknown_protocol, only_what_is_named, told, io_uring_forbidden)
