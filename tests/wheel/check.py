# SPDX-License-Identifier: Apache-2.0
"""What `./dev wheel` made: right tags, complete, and TCP needs no library that a machine may lack.

usage: check.py WHEEL...; the interpreter is one that has them installed, and nothing of the tree.
"""

import ctypes
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGINS = {f"ferry_{kind}_{path.parent.name}.so" for folder, kind in (("transports", "transport"), ("metadata_plugins", "metadata"))
           for path in (ROOT / folder).glob("*/plugin.c")}
# Libraries that only machines with such devices have. A transport that wants one loads it itself.
FOREIGN = re.compile(r"lib(ibverbs|rdmacm|fabric|cuda|cudart|nvidia)")
# Runs a command where the system has none of them: the folder of libraries, less these.
BARE = r"""
set -e
lib=/usr/lib/$(uname -m)-linux-gnu; shown=$1; shift
mount -t tmpfs none "$shown"
mkdir "$shown/all" "$shown/bare"
mount --rbind "$lib" "$shown/all"
for path in "$shown"/all/*; do
    name=${path##*/}
    case $name in libibverbs*|librdmacm*|libfabric*|libcuda*|libnvidia*) ;; *) ln -s "$path" "$shown/bare/$name" ;; esac
done
mount --bind "$shown/bare" "$lib"
exec "$@"
"""


def check(condition, what):
    if not condition:
        sys.exit(f"wheel: {what}")


def needed(path):
    out = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", out)


def transfers():
    """TCP, between two engines of this process."""
    import ferry
    with ferry.Engine("127.0.0.1", protocol="tcp") as one, ferry.Engine("127.0.0.1", protocol="tcp") as two:
        here, there = one.register(bytearray(b"from a wheel")), two.alloc(64)
        one.open(two.name).write(here, there.addr)
        check(bytes(there.view[:12]) == b"from a wheel", "wrong bytes")


def bare():
    """On a machine without such libraries every plugin is read, or says in words what it lacks."""
    import ferry
    for name in ("libibverbs.so.1", "librdmacm.so.1", "libfabric.so.1", "libcuda.so.1"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        sys.exit(f"{name} is there")
    transfers()
    for line in subprocess.run([os.path.join(os.path.dirname(sys.executable), "ferry"), "plugins"], check=True,
                               capture_output=True, text=True, timeout=60).stdout.splitlines():
        print("  " + line)


def main(wheels):
    native = next(name for name in wheels if os.path.basename(name).startswith("ferry"))
    compat = next(name for name in wheels if os.path.basename(name).startswith("mooncake"))
    check(re.search(r"-cp39-abi3-manylinux_2_\d+_\w+\.whl$", native), f"{native}: not for CPython 3.9 and later")
    check(compat.endswith("-py3-none-any.whl"), f"{compat}: not plain Python")
    names = {os.path.basename(name) for name in zipfile.ZipFile(native).namelist()}
    check(PLUGINS <= names, f"left out: {PLUGINS - names}")
    check({"libferry.so", "_ferry.abi3.so", "ferry", "py.typed", "_ferry.pyi"} <= names, "core or package incomplete")

    import ferry
    home = os.path.dirname(os.path.abspath(ferry.__file__))
    check("site-packages" in home, f"ferry is taken from {home}")
    for folder, _, files in os.walk(os.path.dirname(home)):
        for name in files:
            if name.startswith(("libferry", "_ferry", "ferry_")) and ".so" in name:
                path = os.path.join(folder, name)
                foreign = [lib for lib in needed(path) if FOREIGN.match(lib)]
                check(not foreign, f"{name} needs {foreign}")
    check(importlib.metadata.version("mooncake-transfer-engine").endswith("+ferry." + ferry.__version__),
          "mooncake-transfer-engine's version does not say that it is Ferry's")
    found = str(ferry.plugins())
    check(all(name in found for name in ("tcp", "p2p", "http", "etcd", "redis")), f"plugins found: {found}")
    transfers()
    with tempfile.TemporaryDirectory() as shown:
        flags = "-m" if os.geteuid() == 0 else "-rm"
        if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
            print("not run: without libibverbs, libfabric, CUDA: this machine allows no mount namespace")
        else:
            done = subprocess.run(["unshare", flags, "sh", "-c", BARE, "sh", shown, sys.executable, __file__, "--bare"],
                                  capture_output=True, text=True, timeout=120)
            check(done.returncode == 0, f"without libibverbs, libfabric, CUDA: {done.stdout}{done.stderr}")
            print(done.stdout, end="")
    for command in (["ferry", "--help"], ["transfer_engine_topology_dump"], ["transfer_engine_bench", "--help"],
                    ["mooncake_http_metadata_server", "--help"]):
        command[0] = os.path.join(os.path.dirname(sys.executable), command[0])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"{command}: {done.stderr}")
    print(f"{os.path.basename(native)} and {os.path.basename(compat)}: complete")


if sys.argv[1:] == ["--bare"]:
    bare()
else:
    main(sys.argv[1:])
