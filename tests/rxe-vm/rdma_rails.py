#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with RDMA, in one VM: paths that swallow packets, ports that go down, peers that
die, keys, limits and MTUs that do not fit; and that nothing is left behind.

    tests/rxe-vm/rdma_rails.py [--long] [TEST...]      needs ./dev build first
    --long: ten seconds of black hole, a thousand cycles (minutes)

Two cables: rxe0 to rxe1 and rxe2 to rxe3. One node has rxe0 and rxe2, the other rxe1 and rxe3, so that
each rail has a cable of its own; words between the nodes go over lo, which nothing here disturbs.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("FERRY_BUILD", HERE.parent.parent / "build"))
GUEST = os.environ.get("RXE_VM") == "1"
sys.path.insert(0, str(HERE.parent / "e2e"))
if not GUEST:
    os.execv(HERE / "run", ["run", "-t", "840", "-m", "3072", "-M", "sch_netem,sch_ingress,cls_u32,act_gact",
                            "-e", "FERRY_BUILD", "-e", "ASAN_OPTIONS", "-e", "UBSAN_OPTIONS", "-e", "LSAN_OPTIONS",
                            "--", sys.executable, os.path.abspath(__file__), *sys.argv[1:]])
os.environ["FERRY_BUILD"] = str(BUILD)
os.environ.setdefault("FERRY_PLUGIN_PATH", f"{BUILD / 'transports'}:{BUILD / 'metadata_plugins'}")
os.environ["MALLOC_ARENA_MAX"] = "1"

from ferry_e2e import check, main, wait_until  # noqa: E402
from ferry_node import (BASE, EACCES, EINVAL, ERANGE, ETIMEDOUT, EUNREACH, KIB, LONG, MIB, OK, Node,  # noqa: E402
                        elapsed_ms)

# Emulated, on a machine that others use: a second is aimed at, and shown; this much fails the test.
PATIENCE_MS = 5000


def sh(line):
    return subprocess.run(["/bin/bash", "-ec", line], check=True, capture_output=True, text=True).stdout


def lay_second_cable():
    sh("""
    ip link add nic2 type veth peer name nic3
    for i in 2 3; do
        cd /proc/sys/net/ipv4/conf/nic$i
        echo 0 >rp_filter; echo 1 >accept_local; echo 1 >arp_ignore
        ip addr add 10.78.0.$((i - 1))/24 dev nic$i
        ip link set nic$i mtu 4500 up
    done
    ip rule add pref 3 iif lo from 10.78.0.1 to 10.78.0.2 lookup 102
    ip rule add pref 4 iif lo from 10.78.0.2 to 10.78.0.1 lookup 103
    rdma link add rxe2 type rxe netdev nic2
    rdma link add rxe3 type rxe netdev nic3
    """)
    routes()


def routes():
    """They go with a link that is taken down."""
    sh("""
    ip route replace 10.77.0.2 dev nic0 src 10.77.0.1 table 100
    ip route replace 10.77.0.1 dev nic1 src 10.77.0.2 table 101
    ip route replace 10.78.0.2 dev nic2 src 10.78.0.1 table 102
    ip route replace 10.78.0.1 dev nic3 src 10.78.0.2 table 103
    """)


def swallow(*nics):
    for nic in nics:
        sh(f"tc qdisc add dev {nic} root netem loss 100%")


def let_pass(*nics):
    for nic in nics:
        sh(f"tc qdisc del dev {nic} root")


def sent(nic, what="bytes"):
    return int(pathlib.Path(f"/sys/class/net/{nic}/statistics/tx_{what}").read_text())


def resources(kind):
    return json.loads(sh(f"rdma -j -d resource show {kind}") or "[]")


def open_node(lab, name, devices, config=None, **more):
    node = Node(lab, name, **more)
    node.open(protocol="rdma", config=config, devices=devices)
    return node


def two_nodes(lab, devices=("rxe0,rxe2", "rxe1,rxe3"), len=16 * MIB, config=None):
    a, b = (open_node(lab, *pair, config=config) for pair in zip(("initiator", "target"), devices))
    for node in (a, b):
        node.memory(len)
    return a, b


class Load:
    """WRITEs from several threads, without a pause; `gap_ms`: the longest time in which none ended."""

    def __init__(self, a, b, size=256 * KIB, n=4, threads=3):
        self.replies, self.ended, self.stop = [], [time.monotonic()], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(a, b, size, n, i)) for i in range(threads)]
        a.segment(b)
        for thread in self.threads:
            thread.start()

    def run(self, a, b, size, n, i):
        at = BASE + i * size * n
        while not self.stop.is_set():
            reply = a.start("transfer", **a.args(b, "write", size, n=n, local=at, remote=at, timeout=30000)).result()
            self.ended.append(time.monotonic())
            self.replies.append(reply)

    def gap_ms(self, since):
        times = [since] + sorted(t for t in self.ended if t > since)
        return max((b - a) * 1000 for a, b in zip(times, times[1:])) if len(times) > 1 else 1e9

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return [reply for reply in self.replies if reply["status"] != OK]


def rail_in_black_hole(lab):
    a, b = two_nodes(lab)
    load = Load(a, b)
    try:
        wait_until(lambda: len(load.replies) > 3 and sent("nic0") > MIB and sent("nic2") > MIB, 30, "both rails to work")
        since, before, moved = time.monotonic(), len(load.replies), sent("nic2")
        swallow("nic0")
        time.sleep(10 if LONG else 3)
        gap, during, moved = load.gap_ms(since), len(load.replies) - before, sent("nic2") - moved
        let_pass("nic0")
        back, was = time.monotonic(), sent("nic0")
        wait_until(lambda: sent("nic0") > was + 2 * MIB, 40, "traffic to return")
        back = elapsed_ms(back)
    finally:
        bad = load.finish()
    print(f"one rail swallowed: {during} batches meanwhile, at most {gap:.0f} ms without one, {moved >> 20} MiB on the other; "
          f"2 MiB over the first again {back:.0f} ms after it was well; failed: {len(bad)} of {len(load.replies)}")
    check(not bad, bad[:2])
    check(during > 0 and moved > MIB and gap < PATIENCE_MS, "traffic did not move")


def both_rails_in_black_holes(lab):
    a, b = two_nodes(lab)
    check(a.transfer(b, "write", MIB)["status"] == OK)
    swallow("nic0", "nic2")
    try:
        asked = [a.start("transfer", **a.args(b, "write", MIB, n=2, timeout=4000)) for _ in range(3)]
        replies = [one.result() for one in asked]
    finally:
        let_pass("nic0", "nic2")
    print("both rails swallowed, limit 4000 ms:", "; ".join(f"{r['status']} after {r['ms']:.0f} ms" for r in replies),
          f"({replies[0].get('error') or replies[0].get('cause')})")
    for reply in replies:
        # The last attempt to connect ends with the batch's time, and its failure is the cause.
        check(reply["status"] in (ETIMEDOUT, EUNREACH) and 3500 < reply["ms"] < 4000 + PATIENCE_MS, reply)
        check("over rdma: " in reply.get("error", ""), "without a cause:", reply)
    since = time.monotonic()
    wait_until(lambda: a.transfer(b, "write", MIB, timeout=10000)["status"] == OK, 40, "it to work again")
    print(f"works again {elapsed_ms(since):.0f} ms after they were well")


def long_packets_swallowed(lab):
    """A path that carries words and probes and no data, as one whose MTU is smaller than both ends'. It
    comes up time and again, which must not go on for ever."""
    a, b = two_nodes(lab, ("rxe0", "rxe1"), config={"rdma": {"retry_count": 2}})
    check(a.transfer(b, "write", MIB)["status"] == OK)
    # those with 4096 bytes of data: that bit of their length is set
    sh("""
    tc qdisc add dev nic1 ingress
    tc filter add dev nic1 parent ffff: protocol ip u32 match u16 0x1000 0x1000 at 2 action drop
    """)
    try:
        reply = a.transfer(b, "write", MIB, timeout=60000)
        check(a.transfer(b, "write", 64, timeout=10000)["status"] == OK, "short packets are swallowed too")
    finally:
        sh("tc qdisc del dev nic1 ingress")
    print(f"long packets swallowed: {reply['status']} after {reply['ms']:.0f} ms ({reply.get('error')})")
    check(reply["status"] == EUNREACH and reply["ms"] < 30000, reply)
    check(a.transfer(b, "write", MIB, timeout=20000)["status"] == OK, "it does not work again")


def no_error_ever(lab):
    """Soft-RoCE does not give up on packets that the interface itself refuses: nothing completes, and
    who waits for it sleeps."""
    a, b = two_nodes(lab, ("rxe0", "rxe1"), config={"rdma": {"retry_count": 1, "stall_ms": 500}})
    check(a.transfer(b, "write", MIB)["status"] == OK)
    sh("ip link set nic1 mtu 1000")
    try:
        reply = a.transfer(b, "write", MIB, timeout=60000)
    finally:
        sh("ip link set nic1 mtu 4500")
        routes()
    print(f"no error ever: {reply['status']} after {reply['ms']:.0f} ms ({reply.get('error')})")
    check(reply["status"] == EUNREACH and reply["ms"] < 30000, reply)
    check(a.transfer(b, "write", MIB, timeout=20000)["status"] == OK, "it does not work again")


def port_down(lab):
    """`ip link set down` of one end of a veth pair takes both ends down, and both ports."""
    a, b = two_nodes(lab)
    load = Load(a, b)
    try:
        wait_until(lambda: sent("nic0") > MIB and sent("nic2") > MIB, 30, "both rails to work")
        since = time.monotonic()
        sh("ip link set nic0 down")
        time.sleep(2)
        gap = load.gap_ms(since)
        sh("ip link set nic0 up")
        routes()
        back, was = time.monotonic(), sent("nic0")
        wait_until(lambda: sent("nic0") > was + MIB, 40, "traffic to return")
        back = elapsed_ms(back)
    finally:
        bad = load.finish()
    print(f"port down for 2 s: at most {gap:.0f} ms without a batch, back {back:.0f} ms after it was up; failed: {len(bad)}")
    check(not bad, bad[:2])
    check(gap < PATIENCE_MS, "traffic did not move")


def peer_stopped_killed_restarted(lab):
    a, b = two_nodes(lab)
    load = Load(a, b)
    try:
        wait_until(lambda: len(load.replies) > 3, 30, "load")
        b.process.pause()  # its NIC serves us all the same
        since, before = time.monotonic(), len(load.replies)
        time.sleep(1)
        wait_until(lambda: len(load.replies) > before + 3, 20, "a stopped peer's NIC to serve")
        b.process.resume()
        check(not [r for r in load.replies if r["status"] != OK], "failed while the peer was stopped")
        since, before = time.monotonic(), len(load.replies)
        b.process.kill()
        wait_until(lambda: [r for r in load.replies[before:] if r["status"] != OK], 40, "a dead peer to be seen")
        print(f"stopped: served; killed: first batch ends with {[r for r in load.replies[before:] if r['status'] != OK][0]['status']} "
              f"after {elapsed_ms(since):.0f} ms")
    finally:
        load.finish()
    again = Node(lab, "restarted")
    again.open(protocol="rdma", devices="rxe1,rxe3", name=b.engine_name)
    again.memory(16 * MIB)
    again("fill", at=BASE, len=MIB, seed=5)
    since = time.monotonic()
    args = dict(op="read", segment=a.segment(b), local=BASE, remote=BASE, len=MIB, timeout=10000)
    wait_until(lambda: a.ask("transfer", **args)["status"] == OK, 30, "the restarted peer to be found")
    check(a.same(BASE, MIB, 5), "wrong bytes from the restarted peer")
    print(f"restarted: found after {elapsed_ms(since):.0f} ms")


def keys(lab):
    """A document that tells lies: one device's wrong rkey, and the raw rkey of memory that was
    registered for local use only."""
    server = lab.start([BUILD / "tools/ferry", "metadata-server", "--host", "127.0.0.1", "--port", "18080"], name="store")
    url = "http://127.0.0.1:18080/metadata"
    server.wait_for("18080", 20)
    target = Node(lab, "target")
    target.open(protocol="rdma", devices="rxe1", metadata=url)
    target.memory(MIB)
    secret = BASE + 64 * MIB
    target.memory(2 * MIB, at=secret, access=0)
    target("fill", at=secret, len=2 * MIB, seed=3)
    raw = [r for r in resources("mr") if r.get("mrlen") == 2 * MIB and r.get("pid") == target.process.pid]
    check(raw, "the kernel does not show the region:", resources("mr"))
    raw_key = int(raw[0]["lkey"], 16)  # rxe has one key for both uses
    document_url = f"{url}?key=mooncake/ram/{target.engine_name}"
    with urllib.request.urlopen(document_url, timeout=10) as got:
        document = json.load(got)
    check(len(document["buffers"]) == 1, "local memory is published:", document["buffers"])

    def forge(key, **members):
        """The published buffer with another key, in each place where keys are."""
        pair = {"rkey": [key], "lkey": [key]}
        return {**document["buffers"][0], **members, **pair, "transports": {"rdma": pair}}

    document["buffers"] = [forge(document["buffers"][0]["rkey"][0] ^ 0x55),
                           forge(raw_key, addr=secret, length=2 * MIB)]
    said = []
    for what, op, at in (("wrong rkey", "write", BASE), ("wrong rkey", "read", BASE),
                         ("local memory's", "write", secret), ("local memory's", "read", secret)):
        urllib.request.urlopen(urllib.request.Request(document_url, json.dumps(document).encode(), method="PUT"),
                               timeout=10).close()
        a = Node(lab, "initiator")  # who was refused looks for itself, and is deceived no more
        a.open(protocol="rdma", devices="rxe0", metadata=url)
        a.memory(4 * MIB)
        reply = a.ask("transfer", op=op, segment=a.segment(target.engine_name), local=BASE, remote=at, len=64 * KIB, timeout=5000)
        said.append(f"{what} {op}: {reply['status']}")
        check("remote access error" in a.process.output(), what, op, "the device did not refuse it", reply)
        # The target itself knows the right key of what it shares, and shares no other.
        check(reply["status"] == (OK if at == BASE else EACCES), what, op, reply)
        a.process.kill()
    check(target.same(secret, 2 * MIB, 3), "local memory was written")
    print("keys:", "; ".join(said), f"({reply['error']})")


def mtu(lab):
    a = open_node(lab, "initiator", "rxe0")
    b = open_node(lab, "target", "rxe1", config={"rdma": {"mtu": 1024}})
    for node in (a, b):
        node.memory(4 * MIB)
    for first, second in ((a, b), (b, a)):
        nic = "nic0" if first is a else "nic1"
        first("fill", at=BASE, len=4 * MIB, seed=9)
        before = sent(nic), sent(nic, "packets")
        check(first.transfer(second, "write", 4 * MIB, timeout=30000)["status"] == OK)
        size = (sent(nic) - before[0]) / (sent(nic, "packets") - before[1])
        check(second.same(BASE, 4 * MIB, 9), "wrong bytes")
        check(900 < size < 1200, "bytes a packet:", size)
    print(f"MTU 4096 to 1024: {size:.0f} bytes a packet")


def memory_limits(lab):
    """Regions in chunks where a device limits them (MC_MAX_MR_SIZE); and too little may be locked."""
    limit = {"MC_MAX_MR_SIZE": 256 * KIB}
    a = open_node(lab, "initiator", "rxe0,rxe2", env=limit)
    b = open_node(lab, "target", "rxe1,rxe3", env=limit)
    for node in (a, b):
        node.memory(3 * MIB + 12 * KIB)
    mrs = [r for r in resources("mr") if r.get("pid") == a.process.pid]
    check(len(mrs) == 2 * 13 and max(r["mrlen"] for r in mrs) == 256 * KIB, "regions:", len(mrs))
    a("fill", at=BASE, len=3 * MIB, seed=4)
    check(a.transfer(b, "write", 3 * MIB - 1000, local=BASE + 1000, remote=BASE + 7, timeout=30000)["status"] == OK)
    check(a.transfer(b, "read", 3 * MIB - 1000, local=BASE + 1000, remote=BASE + 7, timeout=30000)["status"] == OK)
    check(a.same(BASE, 3 * MIB, 4), "wrong bytes through chunks")
    bare = Node(lab, "bare", wrapper=["setpriv", "--bounding-set", "-ipc_lock", "prlimit", "--memlock=262144:262144"])
    bare.open(protocol="rdma", devices="rxe0")
    bare("map", at=BASE, len=MIB)
    reply = bare.ask("register", at=BASE, len=MIB)
    check(reply["status"] != OK, "registered more than may be locked")
    wait_until(lambda: "locked memory" in bare.process.output(), 5, "the reason")
    line = [line for line in bare.process.output().splitlines() if "locked memory" in line][0]
    check("rxe0" in line and "1048576" in line and "256 KiB" in line and "ulimit -l" in line, line)
    check("ulimit -l" in reply["error"], "the caller is not told:", reply["error"])
    print("chunks: 26 regions of at most 256 KiB;", line.split(": ", 1)[1])


def memory_taken_back(lab):
    """The device refuses a key that is gone, and the connection works on; the new key is found."""
    a, b = two_nodes(lab)
    check(a.transfer(b, "write", MIB)["status"] == OK)
    b("unregister", at=BASE)
    reply = a.transfer(b, "write", MIB, timeout=10000)
    check(reply["status"] in (EACCES, ERANGE), reply)
    b("register", at=BASE, len=16 * MIB)
    a("fill", at=BASE, len=MIB, seed=6)
    check(a.transfer(b, "write", MIB, timeout=10000)["status"] == OK, "after the memory was registered again")
    check(b.same(BASE, MIB, 6), "wrong bytes")
    print(f"memory taken back: {reply['error']}")


def wrong_name(lab):
    node = Node(lab)
    reply = node.ask("open", name="127.0.0.1:0", bind="127.0.0.1", protocol="rdma", devices="rxe0,rxe9")
    said = reply["error"] + node.process.output()
    check(reply["status"] == EINVAL and all(f"rxe{i}" in said for i in (0, 1, 2, 3, 9)), reply, said)
    print("wrong name:", [line for line in said.splitlines() if "rxe9" in line][0])


def cycles(lab):
    """Connecting and disconnecting, registering and unregistering: nothing grows."""
    n = 1000 if LONG else 10
    a, b = two_nodes(lab, ("rxe0", "rxe1"))

    def state():
        return {"qp": len(resources("qp")), "mr": len(resources("mr")), "cq": len(resources("cq")), "pd": len(resources("pd")),
                "fds": (a.process.n_fds(), b.process.n_fds()), "KiB": tuple(p.process.rss() >> 10 for p in (a, b))}

    def connect():
        segment = a("segment", name=b.engine_name)["segment"]
        check(a.ask("transfer", op="write", segment=segment, local=BASE, remote=BASE, len=8)["status"] == OK)
        a("forget", segment=segment)

    def register():
        a("register", at=BASE + 32 * MIB, len=MIB)
        a("unregister", at=BASE + 32 * MIB)

    a("map", at=BASE + 32 * MIB, len=MIB)
    for what, cycle in (("connect and disconnect", connect), ("register and unregister", register)):
        for _ in range(100 if LONG else 30):  # until every thread and table is there
            cycle()
        before = state()
        began = time.monotonic()
        for _ in range(n):
            cycle()
        took = time.monotonic() - began
        wait_until(lambda: state()["qp"] <= before["qp"], 10, "queue pairs to go")
        after = state()
        print(f"{n} times {what}: {took * 1000 / n:.1f} ms each; {before} then {after}")
        for kind in ("qp", "mr", "cq", "pd"):
            check(after[kind] <= before[kind], kind, before, after)
        check(all(x <= y + 1 for x, y in zip(after["fds"], before["fds"])), "descriptors", before, after)
        check(a.sanitized() or all(x <= y + 2048 for x, y in zip(after["KiB"], before["KiB"])), "memory", before, after)


if __name__ == "__main__":
    lay_second_cable()
    main(wrong_name, mtu, memory_limits, memory_taken_back, keys, peer_stopped_killed_restarted, rail_in_black_hole,
         both_rails_in_black_holes, long_packets_swallowed, no_error_ever, port_down, cycles)
