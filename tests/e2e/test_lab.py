#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it starts it can stop, cut off and clean away."""

import os
import pathlib
import signal
import socket
import sys
import time

from ferry_e2e import (NETNS_DIR, Failure, Lab, check, main, pattern, sha256, sha256_file, wait_until)

# Answers every connection by the byte it got, plus one.
SERVER = """
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready on", s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    with c:
        c.sendall(bytes([c.recv(1)[0] + 1]))
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as c:
    c.sendall(b"a")
    print("answer", c.recv(1))
"""
PYTHON = sys.executable


def gone(pid):
    return not pathlib.Path(f"/proc/{pid}").exists()


def fails(function):
    try:
        function()
    except Failure as failure:
        return str(failure)
    raise Failure("it did not fail")


def processes(lab):
    server = lab.start([PYTHON, "-c", SERVER, "127.0.0.1", "0"], name="server")
    port = int(server.wait_for(r"ready on (\d+)")[1])

    def ask(timeout):
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(b"x")
            return connection.recv(1)

    check(ask(10) == b"y")
    server.pause()
    try:
        ask(0.3)
        raise Failure("a stopped server answered")
    except TimeoutError:
        pass
    server.resume()
    check(ask(10) == b"y")
    check(server.rss() > 1 << 20 and server.n_fds() > 3 and server.cpu_seconds() >= 0)
    server.kill()
    check(server.wait() == -signal.SIGKILL and not server.alive())

    echo = lab.start([PYTHON, "-c", "print(input() + '!'); raise SystemExit(3)"], stdin=True)
    echo.write("hey\n")
    echo.wait_for("^hey!$")
    check("ended with 3, not 0" in fails(lambda: echo.expect_exit(0)))
    check("never wrote" in fails(lambda: echo.wait_for("more")))
    check("A=1" in lab.run(["env"], env={"A": 1}))
    check("did not end" in fails(lambda: lab.start(["sleep", "60"]).wait(0.1)))
    check(lab.start(["sleep", "60"]).stop() == -signal.SIGTERM)


def data(lab):
    check(sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    (lab.dir / "file").write_bytes(pattern(1, 3 << 20))
    check(sha256_file(lab.dir / "file") == sha256(pattern("1", 3 << 20)) != sha256(pattern(2, 3 << 20)))
    port = lab.free_ports(3)
    for i in range(3):
        with socket.socket() as s:
            s.bind(("127.0.0.1", port + i))


def cable(lab):
    a, b = lab.cable()
    check(not pathlib.Path(f"/proc/{os.getpid()}/ns/net").samefile(NETNS_DIR / b.netns))
    servers = {}
    for address in (b.ipv4, b.ipv6):
        servers[address] = lab.start([PYTHON, "-c", SERVER, address, "7000"], netns=b)
    for server in servers.values():
        server.wait_for("ready on 7000")

    def ask(address, status=0, timeout=5):
        lab.run([PYTHON, "-c", CLIENT, address, "7000", timeout], netns=a, status=status)

    for address in servers:
        ask(address)
    for cut, mend in (("unplug", "plug"), ("drop", "undrop")):
        for host in (a, b):
            getattr(host, cut)()
            for address in servers:
                ask(address, status=1, timeout=0.3)
            getattr(host, mend)()
            for address in servers:
                wait_until(lambda: lab.start([PYTHON, "-c", CLIENT, address, "7000", 1], netns=a).wait() == 0,
                           10, "the cable to be whole again")
    a.drop(port=7001)
    ask(b.ipv4)
    a.drop(port=7000)
    ask(b.ipv4, status=1, timeout=0.3)
    a.drop(percent=0)
    ask(b.ipv4)


def netem(lab):
    a, b = lab.cable()
    a.netem("delay", "50ms")
    lab.start([PYTHON, "-c", SERVER, b.ipv4, "7000"], netns=b).wait_for("ready")
    began = time.monotonic()
    lab.run([PYTHON, "-c", CLIENT, b.ipv4, "7000", 5], netns=a)
    check(time.monotonic() - began > 0.1)
    a.netem()


def nothing_is_left(lab):
    seen = {}

    def break_off():
        with Lab() as inner:
            seen["pid"] = inner.start(["sleep", "60"]).pid
            seen["dir"] = inner.dir
            if os.geteuid() == 0:
                seen["netns"] = [host.netns for host in inner.cable()]
            raise Failure("as planned")

    check(fails(break_off) == "as planned")
    check(gone(seen["pid"]) and not seen["dir"].exists())
    for name in seen.get("netns", ()):
        check(not (NETNS_DIR / name).exists(), name)

    # Killed itself, it takes its processes along.
    script = ("import sys, time; sys.path.insert(0, sys.argv[1]); from ferry_e2e import Lab\n"
              "with Lab() as lab: print('pid', lab.start(['sleep', '60']).pid, flush=True); time.sleep(60)")
    here = pathlib.Path(__file__).parent
    outer = lab.start([PYTHON, "-c", script, here])
    pid = int(outer.wait_for(r"pid (\d+)")[1])
    outer.kill()
    wait_until(lambda: gone(pid), 5, "the process to go with its parent")


def a_failing_test_fails(lab):
    script = ("import sys; sys.path.insert(0, sys.argv.pop(1)); import ferry_e2e as e\n"
              "def good(lab): pass\n"
              "def bad(lab): lab.run(['sh', '-c', 'echo words of mine; exit 4'])\n"
              "def cannot(lab): raise e.NotRun('no such machine')\n"
              "e.main(good, bad, cannot)")
    argv = [PYTHON, "-c", script, pathlib.Path(__file__).parent]
    output = lab.run(argv, status=1)
    check("words of mine" in output and "FAILED: bad" in output and "ok: good" in output, output)
    check("not run: cannot: no such machine" in lab.run([*argv, "cannot"], status=77))
    check("ok: good" in lab.run([*argv, "good"]))


if __name__ == "__main__":
    main(processes, data, cable, netem, nothing_is_left, a_failing_test_fails)
