# SPDX-License-Identifier: Apache-2.0
"""The metadata servers of tests/conformance/servers.py for end-to-end tests: started on free loopback
ports, ended with the test."""

import contextlib
import importlib
import pathlib
import shutil
import sys

from ferry_e2e import NotRun, build_dir

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "conformance"))
servers = importlib.import_module("servers")

FERRY = build_dir() / "tools" / "ferry"
SERVER = (str(FERRY), "metadata-server")
NEEDS = {"etcd": ("etcd", "etcdctl"), "etcd3": ("etcd", "etcdctl"), "etcd-tls": ("etcd", "etcdctl", "openssl"),
         "redis": ("redis-server",), "redis-user": ("redis-server",), "redis-tls": ("redis-server", "openssl"),
         "https": ("nginx", "openssl")}


def section(kind):
    """The plugin that a kind of server is served by."""
    return {"https": "http"}.get(kind, kind.partition("-")[0].rstrip("3"))


@contextlib.contextmanager
def store(kind, **more):
    """A started server; NotRun where its package is not installed."""
    for program in NEEDS.get(kind, ()):
        if not shutil.which(program):
            raise NotRun(f"no program {program}")
    if not (build_dir() / "metadata_plugins" / f"ferry_metadata_{section(kind)}.so").exists():
        raise NotRun(f"the plugin {section(kind)} was not built")
    server = servers.KINDS[kind](*(SERVER if section(kind) == "http" else ()), **more)
    try:
        server.start()
        yield server
    finally:
        server.close()
