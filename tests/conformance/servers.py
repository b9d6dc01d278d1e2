# SPDX-License-Identifier: Apache-2.0
"""Real metadata servers for tests, on free loopback ports, with data in a directory of their own.

As a program it minds one for metadata_conformance: it says "uri ...", "config KEY=VALUE" and
"ready", then obeys one word a line (COMMANDS) and answers "ok"
or "cannot"; at the end of its input everything it started is ended and removed.
"""

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time


given_ports = set()


def free_port():
    """A port that nobody listens on, and that was not given before: a server that is stopped comes back
    to its own. Below those of nodes (15000 and more) and of outgoing connections."""
    for _ in range(200):
        port = random.randrange(10000, 15000)
        if port in given_ports:
            continue
        given_ports.add(port)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def wait_for(what, check, seconds=15):
    def holds():
        try:
            return check()
        except OSError:
            return False

    end = time.monotonic() + seconds
    while not holds():
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
        self.extra = []
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
            self.process = subprocess.Popen(self.command() + self.extra, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(type(self).__name__, lambda: self.process.poll() is None and self.is_up())
        except RuntimeError:
            with open(self.path("log"), errors="replace") as log:
                sys.stderr.write(log.read()[-3000:])
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

    def __init__(self, *program):
        super().__init__()
        self.program = list(program)
        self.uri = "http://127.0.0.1:%d/metadata" % self.port

    def command(self):
        return [*self.program, "--host", "127.0.0.1", "--port", str(self.port), "--data", self.data()]


def certificates(path, days=2):
    """A CA, a server's certificate for 127.0.0.1 and localhost, and a client's, all in path.
    The client's has no common name: etcd's gateway refuses those that have one."""

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=path)

    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *ec, "-subj", "/CN=Test CA", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt")
    for name, subject in (("server", "/CN=localhost"), ("client", "/O=Ferry")):
        openssl("req", *ec, "-subj", subject, "-keyout", name + ".key", "-out", name + ".csr")
        with open(os.path.join(path, name + ".ext"), "w") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", str(days), "-extfile", name + ".ext", "-out", name + ".crt")


class Https(Server):
    """ferry metadata-server behind nginx, which speaks TLS."""

    def __init__(self, *program, days=2):
        super().__init__()
        self.behind = Http(*program)
        certificates(self.dir, days)
        self.uri = "https://localhost:%d/metadata" % self.port
        self.config["ca_file"] = self.path("ca.crt")
        with open(self.path("nginx.conf"), "w") as f:
            f.write("""
daemon off; master_process off; pid %(dir)s/nginx.pid; error_log stderr;
events { worker_connections 256; }
http {
    access_log off; client_max_body_size 64m;
    client_body_temp_path %(dir)s/body; proxy_temp_path %(dir)s/proxy;
    fastcgi_temp_path %(dir)s/a; uwsgi_temp_path %(dir)s/b; scgi_temp_path %(dir)s/c;
    server {
        listen 127.0.0.1:%(port)d ssl;
        ssl_certificate %(dir)s/server.crt; ssl_certificate_key %(dir)s/server.key;
        location / { proxy_pass http://127.0.0.1:%(behind)d; }
    }
}
""" % {"dir": self.dir, "port": self.port, "behind": self.behind.port})

    def command(self):
        return ["nginx", "-p", self.dir, "-e", "stderr", "-c", self.path("nginx.conf")]

    def start(self):
        self.behind.start()
        super().start()

    def stop(self):
        super().stop()
        self.behind.stop()

    def empty(self):
        self.stop()
        self.behind.empty()
        super().start()

    def freeze(self):
        self.behind.freeze()
        super().freeze()

    def thaw(self):
        super().thaw()
        self.behind.thaw()

    def close(self):
        super().close()
        self.behind.close()


class Etcd(Server):
    """One etcd; `peers` makes it a member of a cluster."""

    def __init__(self, name="n0", peer_port=None, cluster=None):
        super().__init__()
        self.name = name
        self.peer_port = peer_port or free_port()
        self.cluster = cluster
        self.tls = False
        self.uri = "etcd://127.0.0.1:%d" % self.port

    def url(self):
        return "%s://127.0.0.1:%d" % ("https" if self.tls else "http", self.port)

    def command(self):
        peer = "http://127.0.0.1:%d" % self.peer_port
        command = ["etcd", "--name", self.name, "--data-dir", self.data(), "--logger", "zap", "--log-level", "error",
                   "--listen-client-urls", self.url(), "--advertise-client-urls", self.url(),
                   "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                   "--initial-cluster", self.cluster or "%s=%s" % (self.name, peer),
                   "--max-request-bytes", str(16 << 20), "--heartbeat-interval", "50", "--election-timeout", "500"]
        if self.tls:
            command += ["--bcrypt-cost", "4", "--cert-file", self.path("server.crt"), "--key-file", self.path("server.key"),
                        "--client-cert-auth", "--trusted-ca-file", self.path("ca.crt")]
        return command

    def ctl(self, *args, check=True):
        env = dict(os.environ, ETCDCTL_API="3")
        tls = ["--cacert", self.path("ca.crt"), "--cert", self.path("client.crt"), "--key", self.path("client.key")]
        return subprocess.run(["etcdctl", "--endpoints", self.url(), *(tls if self.tls else []), *args], env=env,
                              check=check, capture_output=True, text=True)

    def is_up(self):
        return accepts(self.port) and self.ctl("get", "x", "--command-timeout=1s", check=False).returncode == 0

    def compact(self):
        out = self.ctl("get", "x", "-w", "json").stdout
        revision = out.partition('"revision":')[2].partition(",")[0].partition("}")[0]
        self.ctl("compact", revision)


class EtcdTls(Etcd):
    """TLS with a client's certificate, and a user with a password, which only may read and write."""

    def __init__(self):
        super().__init__()
        self.tls = True
        certificates(self.dir)
        self.uri = "etcds://127.0.0.1:%d" % self.port
        self.config = {"ca_file": self.path("ca.crt"), "cert_file": self.path("client.crt"),
                       "key_file": self.path("client.key"), "username": "ferry", "password": "s3cret:%40"}

    def ctl(self, *args, check=True):
        return super().ctl(*self.login(), *args, check=check)

    def login(self):
        return ["--user", "root:root"] if self.auth() else []

    def auth(self):
        return os.path.exists(self.data() + "/auth-on")

    def start(self):
        super().start()
        if self.auth():
            return
        for args in (("user", "add", "root:root"), ("user", "grant-role", "root", "root"),
                     ("role", "add", "kv"), ("role", "grant-permission", "kv", "readwrite", "", "--prefix"),
                     ("user", "add", "ferry:" + self.config["password"]), ("user", "grant-role", "ferry", "kv"),
                     ("auth", "enable")):
            self.ctl(*args)
        open(self.data() + "/auth-on", "w").close()


class Etcd3:
    """Three etcds; whatever is done is done to the leader, except stopping, freezing and emptying all."""

    def __init__(self):
        ports = [free_port() for _ in range(3)]
        cluster = ",".join("n%d=http://127.0.0.1:%d" % (i, port) for i, port in enumerate(ports))
        self.members = [Etcd("n%d" % i, port, cluster) for i, port in enumerate(ports)]
        self.uri = "etcd://" + ",".join("127.0.0.1:%d" % m.port for m in self.members)
        self.config = {}

    def start(self):
        for member in self.members:
            if not member.process:
                log = open(member.path("log"), "ab")
                member.process = subprocess.Popen(member.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                log.close()
        for member in self.members:
            wait_for("etcd " + member.name, member.is_up)

    def stop(self):
        for member in self.members:
            member.stop()

    def empty(self):
        self.stop()
        for member in self.members:
            shutil.rmtree(member.data(), ignore_errors=True)
        self.start()

    def freeze(self):
        for member in self.members:
            member.freeze()

    def thaw(self):
        for member in self.members:
            if member.process:
                member.thaw()

    def compact(self):
        self.members[0].compact()

    def leader(self):
        for member in self.members:
            if member.process:
                status = member.ctl("endpoint", "status", "-w", "json").stdout
                name = status.partition('"leader":')[2].partition(",")[0]
                own = status.partition('"member_id":')[2].partition(",")[0]
                if name and name == own:
                    return member
        raise RuntimeError("no leader")

    def lose_leader(self):
        self.leader().stop()

    def freeze_leader(self):
        self.leader().freeze()

    def lose_first(self):
        self.members[0].stop()

    def freeze_first(self):
        self.members[0].freeze()

    def close(self):
        for member in self.members:
            member.close()


class Redis(Server):
    """One redis-server that writes everything down at once."""

    def __init__(self):
        super().__init__()
        self.uri = "redis://127.0.0.1:%d" % self.port

    def command(self):
        os.makedirs(self.data(), exist_ok=True)
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.data(), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]

    def say(self, *words):
        with socket.create_connection(("127.0.0.1", self.port), 1) as s:
            s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            return s.recv(4096)

    def is_up(self):
        return self.say("PING").startswith((b"+PONG", b"-NOAUTH"))


class RedisUser(Redis):
    """A user with a password who may not run scripts, and a database of its own."""

    def __init__(self):
        super().__init__()
        self.uri += "/3"
        self.config = {"username": "ferry", "password": "s3cret:%40"}

    def command(self):
        with open(self.path("users"), "w") as f:
            f.write("user default off\nuser ferry on >%s ~* &* +@all -@scripting -info\n" % self.config["password"])
        return super().command() + ["--aclfile", self.path("users")]


class RedisTls(Redis):
    """TLS with a client's certificate, and a password in the URL."""

    def __init__(self):
        super().__init__()
        certificates(self.dir)
        self.uri = "rediss://:p%%40ss@localhost:%d" % self.port
        self.config = {"ca_file": self.path("ca.crt"), "cert_file": self.path("client.crt"),
                       "key_file": self.path("client.key")}

    def command(self):
        command = super().command()
        command[1:3] = ["--port", "0", "--tls-port", str(self.port), "--requirepass", "p@ss", "--tls-cert-file",
                        self.path("server.crt"), "--tls-key-file", self.path("server.key"), "--tls-ca-cert-file",
                        self.path("ca.crt")]
        return command

    def is_up(self):
        context = ssl.create_default_context(cafile=self.path("ca.crt"))
        context.load_cert_chain(self.path("client.crt"), self.path("client.key"))
        with socket.create_connection(("127.0.0.1", self.port), 1) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as s:
                s.sendall(b"PING\r\n")
                return s.recv(64).startswith((b"+PONG", b"-NOAUTH"))


COMMANDS = ("stop", "start", "empty", "freeze", "thaw", "compact", "lose_leader", "freeze_leader",
            "lose_first", "freeze_first")
KINDS = {"http": Http, "https": Https, "etcd": Etcd, "etcd-tls": EtcdTls, "etcd3": Etcd3,
         "redis": Redis, "redis-user": RedisUser, "redis-tls": RedisTls}


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
            if word not in COMMANDS or not hasattr(server, word):
                print("cannot", flush=True)
                continue
            getattr(server, word)()
            print("ok", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
