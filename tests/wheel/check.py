# SPDX-License-Identifier: Apache-2.0
"""What `./dev wheel` made: right tags, complete, and TCP needs no library that a machine may lack.

usage: check.py WHEEL...; the interpreter is one that has them installed, and nothing of the tree.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile

PLUGINS = {"ferry_transport_tcp.so", "ferry_transport_loop.so", "ferry_metadata_p2p.so", "ferry_metadata_http.so",
           "ferry_metadata_etcd.so", "ferry_metadata_redis.so"}
# Libraries that only machines with such devices have. A transport that wants one loads it itself.
FOREIGN = re.compile(r"lib(ibverbs|rdmacm|fabric|cuda|cudart|nvidia)")


def check(condition, what):
    if not condition:
        sys.exit(f"wheel: {what}")


def needed(path):
    out = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", out)


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
    with ferry.Engine("127.0.0.1", protocol="tcp") as one, ferry.Engine("127.0.0.1", protocol="tcp") as two:
        here, there = one.register(bytearray(b"from a wheel")), two.alloc(64)
        one.open(two.name).write(here, there.addr)
        check(bytes(there.view[:12]) == b"from a wheel", "wrong bytes")
    for command in (["ferry", "--help"], ["transfer_engine_topology_dump"], ["transfer_engine_bench", "--help"],
                    ["mooncake_http_metadata_server", "--help"]):
        command[0] = os.path.join(os.path.dirname(sys.executable), command[0])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"{command}: {done.stderr}")
    print(f"{os.path.basename(native)} and {os.path.basename(compat)}: complete")


main(sys.argv[1:])
