# SPDX-License-Identifier: Apache-2.0
"""Upstream's wheels in environments of their own, and nodes of both kinds to command.

The wheels come from PyPI when a test runs first, and stay in the build folder. Where PyPI does not
answer, tests end with 77 (skipped) and say so.
"""

import fcntl
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = pathlib.Path(os.environ["FERRY_BUILD"])
CACHE = BUILD / "interop"
LOGS = CACHE / "logs"
# The last of each kind of wire. Those before 0.3.7 have no wheel called non-cuda, and need no CUDA.
VERSIONS = ("0.3.13.post1", "0.3.12.post1", "0.3.10.post1", "0.3.7.post1", "0.3.6.post1", "0.3.4.post2")
SKIP = 77
FERRY = "ferry"


def number(version):
    """To compare by: (0, 3, 13, 1)."""
    return tuple(int(part.replace("post", "")) for part in version.split("."))


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(SKIP)


def pypi_answers():
    """Whatever pip would ask, asked by pip: proxies and mirrors are configured there."""
    probe = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", os.devnull,
                            "--dry-run", "pip"], capture_output=True, timeout=60)
    if probe.returncode == 0:
        return True
    try:
        urllib.request.urlopen("https://pypi.org/simple/pip/", timeout=15).close()
        return True
    except OSError:
        return False


def environment(version, *extra):
    """The interpreter of an environment with that version of upstream's wheel; None where it cannot
    be installed, which is said. Tests that run side by side make it once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"mooncake-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_environment(version, *extra)


def make_environment(version, *extra):
    home = CACHE / f"mooncake-{version}"
    python = home / "bin/python"
    stamp = home / ("installed-" + "-".join(("wheel",) + extra))
    if stamp.exists():
        return str(python)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True, stdout=subprocess.DEVNULL)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "1"]
    if not (home / "installed-wheel").exists():
        # The wheel alone: what it wants besides belongs to its store.
        name = "mooncake-transfer-engine" + ("-non-cuda" if number(version) >= number("0.3.7") else "")
        done = subprocess.run(pip + ["--no-deps", f"{name}=={version}"],
                              capture_output=True, text=True, timeout=300)
        if done.returncode:
            print(f"mooncake {version} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
            return None
        (home / "installed-wheel").touch()
    if extra:
        done = subprocess.run(pip + list(extra), capture_output=True, text=True, timeout=300)
        if done.returncode:
            print(f"{' '.join(extra)} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
            return None
    stamp.touch()
    return str(python)


def environments():
    """{version: interpreter} of all that install; skips where there is none and no PyPI."""
    found = {version: python for version in VERSIONS if (python := environment(version))}
    if not found:
        if pypi_answers():
            sys.exit("PyPI answers, but no version of upstream's wheel could be installed")
        skip("PyPI cannot be reached, and no wheel of upstream's is in " + str(CACHE))
    return found


def ferry_environment():
    env = dict(os.environ)
    env["PYTHONPATH"] = f"{BUILD / 'bindings/python'}:{ROOT / 'compat'}"
    env["PATH"] = f"{BUILD / 'tools'}:{env['PATH']}"
    return env


def free_ports(n):
    """Ports that were free a moment ago, below those of outgoing connections."""
    found, port = [], 20000 + os.getpid() % 5000 * 2
    while len(found) < n:
        port += 2
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
    return found


class Node:
    """One process. `kind` is FERRY or a version of upstream's."""

    def __init__(self, kind, python=None, label="", **env):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.log = LOGS / f"{pathlib.Path(sys.argv[0]).stem}-{label or 'node'}-{kind}.log"
        base = ferry_environment() if kind == FERRY else {key: value for key, value in os.environ.items()
                                                          if key not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
        # 0.3.13 refuses batches that do not fit its queue, which is shorter than our longest.
        base.update({"MC_FORCE_TCP": "true", "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "16384", "PYTHONUNBUFFERED": "1", **env})
        base = {key: value for key, value in base.items() if value is not None}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([python or sys.executable, str(HERE / "node.py")], env=base,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.buffer = b""

    def send(self, what, *args):
        self.process.stdin.write(json.dumps([what, args]).encode() + b"\n")
        self.process.stdin.flush()

    def reply(self, timeout=120.0):
        until = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError(f"{self.kind}: no answer in {timeout} s; see {self.log}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                self.kill()
                raise ConnectionError(f"{self.kind} ended with {self.process.wait()}; see {self.log}")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.kind}: {answer['error']}; see {self.log}")
        return answer

    def ask(self, what, *args, timeout=120.0):
        self.send(what, *args)
        return self.reply(timeout)

    def result(self, what, *args, timeout=120.0):
        return self.ask(what, *args, timeout=timeout)["result"]

    def open(self, name="127.0.0.1", server="P2PHANDSHAKE", *protocol_and_devices):
        """Its own name: with P2PHANDSHAKE the port that it took is part of it."""
        for left in range(4, -1, -1):
            try:
                answer = self.ask("open", name, server, *protocol_and_devices)
                break
            except RuntimeError as error:  # 0.3.4 takes a port at random and fails where it is taken
                if self.kind == FERRY or not left or "Address already in use" not in str(error):
                    raise
        if answer["result"] != 0:
            raise RuntimeError(f"{self.kind}: initialize gave {answer['result']}; see {self.log}")
        self.name = f"127.0.0.1:{answer['port']}" if server == "P2PHANDSHAKE" else name
        return self

    def memory(self, nbytes):
        answer = self.ask("memory", nbytes)
        if answer["result"] != 0:
            raise RuntimeError(f"{self.kind}: register_memory gave {answer['result']}; see {self.log}")
        self.addr, self.nbytes = answer["addr"], nbytes
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
