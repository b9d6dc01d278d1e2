#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry bench` over libfabric beside fabtests' fi_rma_bw on the same provider, in turns, on loopback:
the table of docs/libfabric.md.

    FI_RMA_BW=/path/to/fi_rma_bw tests/perf/fabric_bench.py [PROVIDER [TURNS]]     (tcp, 5)

Debian has no package of fabtests: it lies in libfabric's own source tree, folder fabtests of the same
version, and is built with ./autogen.sh, ./configure and make. fi_rma_bw keeps 64 operations on their
way and asks for no proof of delivery unless it is told to (-U), as it is here since Ferry always does.
Ferry submits a batch, waits for all of it, submits the next; its 4 KiB pieces lie two sizes apart.
"""

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ.get("FERRY_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
# operation, bytes a piece, pieces a batch, distance in sizes, fi_rma_bw's iterations
ROWS = tuple((op, size, batch, stride, iterations) for op in ("write", "read") for size, batch, stride, iterations in
             ((4096, 128, 2, 6000), (65536, 16, 1, 5000), (1 << 20, 16, 1, 500)))
NAMES = {"tcp": "tcp;ofi_rxm"}  # what Ferry's "tcp" is with libfabric 1.17


def reference(program, provider, op, size, iterations):
    """GB/s"""
    port = str(random.randrange(20000, 30000))
    words = ["-p", NAMES.get(provider, provider), "-e", "rdm", "-o", op, "-U", "-m", "-S", str(size), "-I",
             str(iterations), "-W", "64"]
    environment = dict(os.environ, FI_TCP_IFACE="lo")
    server = subprocess.Popen([program, "-B", port, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              env=environment)
    try:
        time.sleep(0.5)
        client = subprocess.run([program, "-P", port, *words, "127.0.0.1"], capture_output=True, text=True, timeout=60,
                                env=environment)
    finally:
        server.kill()
        server.wait()
    for line in client.stdout.splitlines():
        if "MB/sec" in line:  # - { xfer_size: 65536, ..., MB/sec: 331.1, ... }
            return float(line.split("MB/sec:")[1].split(",")[0]) / 1000
    raise RuntimeError(f"{program}: {client.stdout}{client.stderr}")


def ferry(provider, op, size, batch, stride):
    """GB/s"""
    rows = pathlib.Path(tempfile.gettempdir()) / f"fabric-rows-{os.getpid()}.json"
    command = [str(BUILD / "tools/ferry"), "bench", "--local", "--protocol", "libfabric", "--config-json",
               json.dumps({"libfabric": {"provider": provider}}), "--op", op, "--size", str(size), "--batch", str(batch),
               "--stride", str(stride), "--hot", "--no-raw", "--reps", "1", "--duration", "0.6", "--region", "64m",
               "--json", str(rows)]
    environment = dict(os.environ, FERRY_PLUGIN_PATH=f"{BUILD / 'transports'}:{BUILD / 'metadata_plugins'}",
                       FI_TCP_IFACE="lo")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    try:
        return json.loads(rows.read_text())["rows"][0]["ferry"]["GBps"]
    finally:
        rows.unlink()


def main():
    program = os.environ.get("FI_RMA_BW")
    if not program:
        sys.exit("FI_RMA_BW does not name fabtests' fi_rma_bw\n" + __doc__)
    provider = sys.argv[1] if len(sys.argv) > 1 else "tcp"
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"provider {provider}, {turns} turns, medians\n")
    print("| | fi_rma_bw, GB/s | Ferry, GB/s | ratio |\n|---|---|---|---|")
    for op, size, batch, stride, iterations in ROWS:
        pairs = [(reference(program, provider, op, size, iterations), ferry(provider, op, size, batch, stride))
                 for _ in range(turns)]
        raw, ours = (statistics.median(column) for column in zip(*pairs))
        name = f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"
        print(f"| {op.upper()} {name} x {batch}{', nothing adjacent' if stride > 1 else ''} | {raw:.3f} | {ours:.3f} | "
              f"{statistics.median(b / a for a, b in pairs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
