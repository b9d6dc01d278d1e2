#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry metadata` and `ferry doctor` against real servers and nodes: what they show, and that gc never
takes what belongs to a node that is there."""

import json
import time

from ferry_e2e import check, main, wait_until
from ferry_node import MIB, Node
from stores import FERRY, store


def ferry(lab, *words, status=0):
    return lab.run([FERRY, *words], status=status, timeout=30)


def node(lab, name, server, port=0, **more):
    a = Node(lab, name)
    a.open(name=f"127.0.0.1:{port}", metadata=server.uri, config=more or None)
    a.memory(MIB)
    return a


SOON = ("--timeout", "1")  # of which a node that is silent takes all


def listed(lab, server):
    out = ferry(lab, "metadata", "list", "-s", server.uri, *SOON, "--json", "-")
    return {entry["name"]: entry for entry in json.loads(out)}


def shows_and_collects(lab, kind):
    with store(kind) as server:
        alive, stopped, dead = (node(lab, name, server) for name in ("alive", "stopped", "dead"))
        stopped.process.pause()
        dead.process.kill()
        nodes = listed(lab, server)
        check({entry["state"] for entry in nodes.values()} == {"answers", "silent", "gone"}, nodes)
        entry = nodes[alive.engine_name]
        check(entry["state"] == "answers" and entry["kind"] == "ferry" and entry["address"] == alive.engine_name and
              entry["transports"] == ["tcp"] and entry["buffers"] == 1 and entry["bytes"] == MIB and
              len(entry["epoch"]) == 16 and entry["published"], entry)
        check(nodes[stopped.engine_name]["state"] == "silent", nodes)
        check("refused" in nodes[dead.engine_name]["why"], nodes)

        out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON)
        check(f"would remove {dead.engine_name}" in out and "2 of them there" in out, out)
        check(len(listed(lab, server)) == 3, "a dry run removed something")
        out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON, "--yes")
        check(f"removed {dead.engine_name}" in out and "1 removed" in out, out)
        out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON, "--yes", alive.engine_name, stopped.engine_name)
        check("0 removed" in out, out)
        check(set(listed(lab, server)) == {alive.engine_name, stopped.engine_name}, "gc took the wrong ones")
        stopped.process.resume()
        out = ferry(lab, "metadata", "get", "-s", server.uri, stopped.engine_name)
        check('"tcp_data_port"' in out and " answers " in out, out)


def with_etcd(lab):
    shows_and_collects(lab, "etcd")


def with_redis(lab):
    shows_and_collects(lab, "redis")


def nobody_answers(lab):
    """More likely this machine is in the wrong network than that all are dead."""
    with store("redis") as server:
        for names in ("one",), ("two", "three"):
            gone = [node(lab, name, server) for name in names]
            for a in gone:
                a.process.kill()
            out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON)
            check(f"{len(gone)} to be removed (ferry metadata gc --yes NAME... does it)" in out, out)
            out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON, "--yes", status=1)
            check("Nothing was removed" in out and len(listed(lab, server)) == len(gone), out)
            ferry(lab, "metadata", "gc", "-s", server.uri, *SOON, "--yes", *(a.engine_name for a in gone))
            check(not listed(lab, server), "named ones were not removed")


def http_cannot_list(lab):
    with store("http") as server:
        out = ferry(lab, "metadata", "list", "-s", server.uri, status=2)
        check("cannot list" in out and "give the names" in out, out)
        a = node(lab, "a", server)
        check(" answers " in ferry(lab, "metadata", "list", "-s", server.uri, a.engine_name), "is not found")
        check("nothing is published" in ferry(lab, "metadata", "get", "-s", server.uri, "nobody:1", status=1), "?")
        a.process.kill()
        out = ferry(lab, "metadata", "gc", "-s", server.uri, *SOON, "--yes", a.engine_name)
        check("1 removed" in out, out)
        server.stop()
        out = ferry(lab, "metadata", "get", "-s", server.uri, a.engine_name, status=3)
        check("refused" in out and out.count("\n") == 1, out)


def other_clusters_are_not_seen(lab):
    with store("redis") as server:
        a = node(lab, "a", server, cluster_id="prod")
        check(not listed(lab, server), "another cluster's node is listed")
        out = ferry(lab, "metadata", "list", "-s", server.uri, "--cluster", "prod")
        check(a.engine_name in out, out)


def watches(lab):
    with store("etcd") as server:
        watching = lab.start([FERRY, "metadata", "watch", "-s", server.uri, "--interval", "30"])
        a = node(lab, "a", server)
        watching.wait_for(rf"\+ {a.engine_name}: answers", 5)  # by a watch, long before the interval
        a.process.kill()
        b = node(lab, "b", server, lab.free_ports(2))  # never those of a, which would then answer
        watching.wait_for(rf"\+ {b.engine_name}: answers", 5)
        watching.wait_for(rf"gone {a.engine_name}", 5)
        watching.stop()


def watch_outlasts_the_server(lab):
    """A node of which nothing can be learnt has not left; one that the server does not know has."""
    with store("http") as server:
        a = node(lab, "a", server)
        watching = lab.start([FERRY, "metadata", "watch", "-s", server.uri, *SOON, "--interval", "0.2", a.engine_name])
        watching.wait_for(rf"\+ {a.engine_name}: answers")
        server.stop()
        watching.wait_for("at metadata server")
        time.sleep(1)  # a few looks
        server.start()
        watching.wait_for("answers again")
        out = watching.output()
        check(f"- {a.engine_name}" not in out and out.count("at metadata server") == 1, out)
        a.process.kill()
        server.empty()
        watching.wait_for(f"- {a.engine_name}")
        watching.stop()


def watch_of_all_says_once_that_the_server_is_away(lab):
    with store("redis") as server:
        a = node(lab, "a", server)
        watching = lab.start([FERRY, "metadata", "watch", "-s", server.uri, *SOON, "--interval", "0.2"])
        watching.wait_for(rf"\+ {a.engine_name}: answers")
        for turn in 1, 2:
            server.stop()
            wait_until(lambda: watching.output().count("at metadata server") == turn, 10, "the complaint")
            time.sleep(1)  # a few looks
            server.start()
            wait_until(lambda: watching.output().count("answers again") == turn, 10, "the server")
        out = watching.output()
        check(out.count("at metadata server") == 2, out)
        watching.stop()


def doctor(lab):
    def lines(*words, status=0):
        out = ferry(lab, "doctor", "--json", "-", *words, status=status)
        found = json.loads(out)
        return {entry["check"]: entry for entry in found}

    file = lab.dir / "mooncake.json"
    prefill, name = lab.two_names()
    content = {"prefill_url": prefill, "decode_url": name}
    with store("http") as server:
        file.write_text(json.dumps({**content, "metadata_server": server.uri}))
        found = lines("-c", file)
        check({"configuration", "store", "clock", "address", "ports", "plugins", "memlock", "io_uring", "congestion",
               "descriptors", "peer"} <= set(found), found)
        check(found["store"]["verdict"] == "OK" and "within" in found["clock"]["text"], found)
        check(found["ports"]["verdict"] == "OK" and found["peer"]["verdict"] == "WARN", found)
        decode = Node(lab, "decode")
        decode.open(name=content["decode_url"], metadata=server.uri)
        check(lines("-c", file)["peer"]["verdict"] == "OK", "the peer is not seen")
        found = lines("-c", file, "--role", "decode")["ports"]
        check(found["verdict"] == "WARN" and "taken" in found["text"], found)
    found = lines("-c", file, status=1)["store"]
    check(found["verdict"] == "FAIL" and "refused" in found["text"] and found["remedy"], found)
    file.write_text(json.dumps({**content, "metadata_server": "http://192.0.2.177:9/metadata"}))
    found = lines("-c", file, "--timeout", "0.3", status=1)["address"]
    check(found["verdict"] == "FAIL" and "loopback" in found["text"] and "ferry.advertise" in found["text"], found)
    file.write_text(json.dumps({**content, "protocl": "tcp"}))
    found = lines("-c", file, status=1)["configuration"]
    check("did you mean \"protocol\"" in found["text"], found)
    file.write_text(json.dumps({**content, "ferry": {"tcp": {"congestion": "nosuch"}}}))
    check(lines("-c", file, status=1)["congestion"]["verdict"] == "FAIL", "no such congestion control")
    limited = lab.run(["sh", "-c", f"ulimit -n 256; exec {FERRY} doctor --json - -c {file}"], status=1)
    check("256 at most" in limited, limited)
    plugins = {entry["name"]: entry for entry in json.loads(ferry(lab, "plugins", "--json", "-"))
               if entry["kind"] == "transport" and entry["status"] == "ok"}
    there = {name: entry.get("usable", True) for name, entry in plugins.items()}
    for names in (*there, "nonsense", "cuda,tcp", "tcp,nonsense", "tcp, shm"):
        bad = [name.strip() for name in names.split(",") if not there.get(name.strip(), False)]
        file.write_text(json.dumps({**content, "metadata_server": "P2PHANDSHAKE", "protocol": names}))
        out = lab.run(["sh", "-c", f"ulimit -l 64; exec {FERRY} doctor --json - -c {file}"], status=1 if bad else 0)
        found = [entry for entry in json.loads(out) if entry["check"] == "protocol"]
        check([entry["verdict"] for entry in found] == (["FAIL"] * len(bad) or ["OK"]), names, found)
        for name, entry in zip(bad, found):
            wanted = plugins[name]["reason"] if name in there else "tcp"  # of those that there are
            check(name in entry["text"] and wanted in entry["text"], names, entry)
        locked = next(entry for entry in json.loads(out) if entry["check"] == "memlock")
        check((locked["verdict"] == "WARN") == (names in ("rdma", "libfabric")), names, locked)


if __name__ == "__main__":
    main(with_etcd, with_redis, nobody_answers, http_cannot_list, other_clusters_are_not_seen, watches,
         watch_outlasts_the_server, watch_of_all_says_once_that_the_server_is_away, doctor)
