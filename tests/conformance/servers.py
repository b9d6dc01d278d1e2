# SPDX-License-Identifier: Apache-2.0
"""Real metadata servers for tests, on free loopback ports, with data in a directory of their own.

As a program it minds one for metadata_conformance: it says "uri ...", "config KEY=VALUE" and
"ready", then obeys one word a line (stop, start, empty, freeze, thaw, compact) and answers "ok"
or "cannot"; at the end of its input everything it started is ended and removed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    """A port that nobody listens on, out of the range that outgoing connections get."""
    for _ in range(200):
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 10000
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def wait_for(what, check, seconds=15):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(what + " did not come up")
        time.sleep(0.02)


def accepts(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def stands_still(pid):
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, thread)) as f:
            if f.read().rpartition(")")[2].split()[0] != "T":
                return False
    return True


class Server:
    """One server process; subclasses say how it is started and when it is up."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="ferry-test-")
        self.port = free_port()
        self.config = {}
        self.process = None

    def path(self, name):
        return os.path.join(self.dir, name)

    def command(self):
        raise NotImplementedError

    def is_up(self):
        return accepts(self.port)

    def start(self):
        if self.process:
            return
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(type(self).__name__, lambda: self.process.poll() is None and self.is_up())
        except RuntimeError:
            sys.stderr.write(open(self.path("log"), errors="replace").read()[-3000:])
            raise

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def data(self):
        """What is removed to make it empty."""
        return self.path("data")

    def empty(self):
        self.stop()
        data = self.data()
        if os.path.isdir(data):
            shutil.rmtree(data)
        elif os.path.exists(data):
            os.unlink(data)
        self.start()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        wait_for("a stopped state", lambda: stands_still(self.process.pid))

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


class Http(Server):
    """ferry metadata-server"""

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.uri = "http://127.0.0.1:%d/metadata" % self.port

    def command(self):
        return [self.program, "--host", "127.0.0.1", "--port", str(self.port), "--data", self.data()]


KINDS = {"http": Http}


def main(kind, *args):
    server = KINDS[kind](*args)
    try:
        server.start()
        print("uri", server.uri)
        for key, value in server.config.items():
            print("config %s=%s" % (key, value))
        print("ready", flush=True)
        for line in sys.stdin:
            word = line.strip()
            if word not in ("stop", "start", "empty", "freeze", "thaw", "compact") or not hasattr(server, word):
                print("cannot", flush=True)
                continue
            getattr(server, word)()
            print("ok", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
