# SPDX-License-Identifier: Apache-2.0
"""Processes, networks and accidents for the end-to-end tests.

    def test(lab):
        a, b = lab.cable()                      # two network namespaces, one cable
        decode = lab.start(["ferry", "decode"], netns=b, name="decode")
        decode.wait_for(r"ready on (\\S+)")
        a.drop()                                # from now on nothing arrives at a
        decode.pause()                          # SIGSTOP
    main(test, ...)

Everything a Lab started or made is gone when it ends, also after a failure or SIGTERM; after
SIGKILL the kernel kills the processes, and the next Lab deletes the namespaces left over.
Only the standard library is used; `ip` and `nft` for the networks.
"""

import contextlib
import ctypes
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

PR_SET_PDEATHSIG = 1
NETNS_DIR = pathlib.Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """What was expected did not happen."""


class NotRun(Exception):
    """This machine cannot run the test; the words say why."""


def check(condition, *words):
    if not condition:
        raise Failure(" ".join(str(w) for w in words) or "a check failed")


def wait_until(condition, timeout=10.0, what="it"):
    """The first true value of condition(); Failure after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise Failure(f"waited {timeout:g} s for {what}")
        time.sleep(0.01)


# ---- data ----------------------------------------------------------------------------------


def pattern(seed, size):
    """`size` bytes that depend on `seed` alone."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def sha256_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---- processes -----------------------------------------------------------------------------


def _die_with_parent(parent):
    def set_up():
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return set_up


class Process:
    """A process and what it wrote, both streams in one file. Made by Lab.start."""

    def __init__(self, popen, name, log):
        self.popen, self.name, self.log = popen, name, log

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, regex, timeout=10.0):
        """The match in what it has written so far; fails at once where the process has ended."""
        compiled = re.compile(regex, re.MULTILINE)

        def found():
            ended = not self.alive()  # before the look, so that its last words count
            match = compiled.search(self.output())
            if not match and ended:
                raise Failure(f"{self.name} ended ({self.popen.returncode}) and never wrote "
                              f"{regex!r}")
            return match

        return wait_until(found, timeout, f"{self.name} to write {regex!r}")

    def wait(self, timeout=30.0):
        """Its exit status, -N for signal N."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end in {timeout:g} s") from None

    def expect_exit(self, status=0, timeout=30.0):
        got = self.wait(timeout)
        check(got == status, f"{self.name} ended with {got}, not {status}")

    def write(self, text):
        """To its standard input (start it with stdin=True)."""
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def signal(self, number):
        check(self.alive(), f"{self.name} has ended already")
        self.popen.send_signal(number)

    def state(self):
        """R, S, D, T, Z as in /proc."""
        return pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def pause(self):
        """Returns when it is stopped."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: self.state() == "T", 5, f"{self.name} to stop")

    def resume(self):
        self.signal(signal.SIGCONT)
        wait_until(lambda: self.state() != "T", 5, f"{self.name} to go on")

    def kill(self):
        """SIGKILL; returns when it is gone."""
        if self.alive():
            self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout=10.0):
        """SIGTERM; its exit status. A process that does not end in time is a failure."""
        if self.alive():
            self.popen.terminate()
        return self.wait(timeout)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self):
        """Bytes."""
        pages = int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


# ---- networks ------------------------------------------------------------------------------


def _tool(*argv, netns=None):
    if netns:
        argv = ("ip", "netns", "exec", netns, *argv)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except FileNotFoundError as error:
        raise NotRun(f"no program {error.filename}") from None
    if done.returncode:
        raise Failure(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Host:
    """One end of a cable: a network namespace with one device and two addresses."""

    device = "ferry0"

    def __init__(self, netns, ipv4, ipv6):
        self.netns, self.ipv4, self.ipv6 = netns, ipv4, ipv6

    def run(self, *argv):
        """A command here; its output."""
        return _tool(*argv, netns=self.netns)

    def unplug(self):
        """The device goes down: this end is told so, the other only loses the carrier."""
        self.run("ip", "link", "set", self.device, "down")

    def plug(self):
        self.run("ip", "link", "set", self.device, "up")

    def drop(self, percent=100, port=None):
        """Arriving packets vanish, and nobody is told; of TCP, only those from or to `port`."""
        self.undrop()
        if percent <= 0:
            return
        chance = "" if percent >= 100 else f"numgen random mod 100 < {percent}"
        matches = [""] if port is None else [f"tcp sport {port}", f"tcp dport {port}"]
        self.run("nft", "; ".join([
            "add table inet ferry_lab",
            "add chain inet ferry_lab input { type filter hook input priority -300; policy accept; }",
            *(f'add rule inet ferry_lab input iifname "{self.device}" {match} {chance} drop' for match in matches)]))

    def undrop(self):
        """Also where nothing is dropped."""
        self.run("nft", "add table inet ferry_lab; delete table inet ferry_lab")

    def netem(self, *words):
        """tc netem, e.g. ("delay", "20ms"). NotRun where the kernel has none; none undoes it."""
        with contextlib.suppress(Failure):
            self.run("tc", "qdisc", "del", "dev", self.device, "root")
        if words:
            try:
                self.run("tc", "qdisc", "add", "dev", self.device, "root", "netem", *words)
            except Failure as error:
                if "unknown" in str(error):
                    raise NotRun("this kernel has no netem") from None
                raise


def _delete_left_over():
    """Namespaces of Labs that were killed."""
    for path in NETNS_DIR.glob("ferry-*-*") if NETNS_DIR.is_dir() else ():
        pid = path.name.split("-")[1]
        if pid.isdigit() and not pathlib.Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


# ---- the lab -------------------------------------------------------------------------------


class Lab:
    """What a test started and made. A context manager; `dir` is a folder of its own."""

    def __init__(self):
        self.processes, self.namespaces, self.given_ports = [], [], set()
        self.dir = None

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ferry-e2e-"))
        return self

    def __exit__(self, kind, error, trace):
        for process in self.processes:
            with contextlib.suppress(Exception):
                process.kill()
            if process.popen.stdin:
                with contextlib.suppress(OSError):
                    process.popen.stdin.close()
        if kind and not issubclass(kind, (NotRun, SystemExit)):
            self.show_logs()
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def show_logs(self):
        for process in self.processes:
            lines = process.output().splitlines()
            print(f"---- {process.name} (pid {process.pid}, status {process.popen.returncode}), "
                  f"last of {len(lines)} lines:", *lines[-40:], sep="\n")
        sys.stdout.flush()

    def start(self, argv, name=None, netns=None, env=None, stdin=False, cwd=None):
        """A process of its own; `env` is added to ours; `netns` is a Host."""
        argv = [str(word) for word in argv]
        name = name or pathlib.Path(argv[0]).name
        log = self.dir / f"{len(self.processes)}-{name}.log"
        if netns:
            argv = ["ip", "netns", "exec", netns.netns, *argv]  # it becomes the program: same pid
        with open(log, "wb") as out:
            popen = subprocess.Popen(
                argv, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}}, cwd=cwd or self.dir,
                preexec_fn=_die_with_parent(os.getpid()))
        process = Process(popen, name, log)
        self.processes.append(process)
        return process

    def run(self, argv, timeout=60.0, status=0, **keywords):
        """A process from start to end; its output. Another exit status is a failure."""
        process = self.start(argv, **keywords)
        process.expect_exit(status, timeout)
        return process.output()

    def free_ports(self, n=1, host="127.0.0.1"):
        """Ports in a row that are free at this moment, and never given before; the first one. They are
        below those that the system gives to connections, of which thousands may linger."""
        for _ in range(1000):
            with contextlib.ExitStack() as stack:
                def take(port):
                    taken = stack.enter_context(socket.socket(
                        socket.AF_INET6 if ":" in host else socket.AF_INET))
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    taken.bind((host, port))

                first = random.randrange(20000, 32700 - n)
                ports = set(range(first, first + n))
                if ports & self.given_ports:
                    continue
                with contextlib.suppress(OSError):
                    for port in ports:
                        take(port)
                    self.given_ports |= ports
                    return first
        raise Failure(f"no {n} free ports in a row")

    def two_names(self):
        """"host:port" of two nodes for one mooncake.json. Nearer ports than 50 earn a warning, equal ones
        are moved apart by Ferry, to where nobody has looked whether they are free."""
        first, second = self.free_ports(2), self.free_ports(2)
        while abs(first - second) < 50:
            second = self.free_ports(2)
        return f"127.0.0.1:{first}", f"127.0.0.1:{second}"

    def _namespace(self):
        name = f"ferry-{os.getpid()}-{len(self.namespaces)}"
        _tool("ip", "netns", "add", name)
        self.namespaces.append(name)
        _tool("ip", "link", "set", "lo", "up", netns=name)
        return name

    def cable(self):
        """Two hosts with a cable between them, IPv4 and IPv6."""
        if os.geteuid() != 0:
            raise NotRun("network namespaces need root")
        for program in ("ip", "nft"):
            if not shutil.which(program):
                raise NotRun(f"no program {program}")
        _delete_left_over()
        net = len(self.namespaces) // 2
        try:
            hosts = [Host(self._namespace(), f"10.99.{net}.{i}", f"fd99:{net + 1}::{i}") for i in (1, 2)]
        except Failure as error:
            raise NotRun(f"no network namespaces here: {error}") from None
        first, second = hosts
        _tool("ip", "link", "add", "name", Host.device, "netns", first.netns, "type", "veth", "peer",
              "name", Host.device, "netns", second.netns)
        for host in hosts:
            # Addresses stay when the cable is pulled, and are usable at once.
            host.run("sh", "-c", "cd /proc/sys/net/ipv6/conf && echo 1 >all/keep_addr_on_down && "
                     f"echo 0 >{Host.device}/accept_dad && echo 0 >{Host.device}/dad_transmits")
            host.plug()
        for host in hosts:
            host.run("ip", "addr", "add", f"{host.ipv4}/24", "dev", Host.device)
            host.run("ip", "addr", "add", f"{host.ipv6}/64", "dev", Host.device, "nodad")
        return first, second


# ---- running tests -------------------------------------------------------------------------


def build_dir():
    """Where meson built; the tests get it as FERRY_BUILD."""
    return pathlib.Path(os.environ["FERRY_BUILD"])


def _terminate(number, frame):
    raise SystemExit(128 + number)


def main(*tests):
    """Runs functions of one argument, a fresh Lab, one after the other (or those named on the
    command line). Exit status 0: all ran well; 77: none could run; else 1."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    wanted = sys.argv[1:]
    unknown = set(wanted) - {test.__name__ for test in tests}
    check(not unknown, "no such test:", *unknown)
    failed, ran = [], 0
    for test in tests:
        if wanted and test.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            with Lab() as lab:
                test(lab)
        except NotRun as reason:
            print(f"not run: {test.__name__}: {reason}", flush=True)
            continue
        except Exception:  # SystemExit passes
            traceback.print_exc()
            failed.append(test.__name__)
        ran += 1
        word = "FAILED" if failed and failed[-1] == test.__name__ else "ok"
        print(f"{word}: {test.__name__}, {time.monotonic() - began:.1f} s", flush=True)
    sys.exit(1 if failed else 0 if ran else 77)
