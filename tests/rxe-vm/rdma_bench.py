#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry bench` over rdma beside perftest's ib_write_bw and ib_read_bw, in turns, in one VM: the table
of docs/rdma.md.

    tests/rxe-vm/rdma_bench.py [TURNS]       3 turns take about 4 minutes; needs ./dev build first

The devices are emulated, so only the ratios mean something. Ferry submits a batch, waits for all of it
and submits the next; perftest keeps its send queue full. With 4 KiB pieces Ferry's lie two sizes apart,
so that none can be merged, and perftest posts lists of 128 like Ferry. 0.9 is the goal of each row.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("FERRY_BUILD", HERE.parent.parent / "build"))
# operation, bytes a piece, pieces a batch, distance in sizes, perftest's iterations and words
ROWS = (
    ("write", 65536, 128, 1, 1500, ()),
    ("write", 1 << 20, 16, 1, 100, ()),
    ("write", 4096, 128, 2, 12800, ("-l", "128", "-t", "256")),
    ("read", 65536, 128, 1, 1500, ()),
    ("read", 1 << 20, 16, 1, 100, ()),
    ("read", 4096, 128, 2, 12800, ("-l", "128", "-t", "256")),
)
SECONDS = "3"  # of one of Ferry's runs


def perftest(op, size, iterations, words):
    """GB/s between two processes on rxe0."""
    command = [f"ib_{op}_bw", "-d", "rxe0", "-x", "1", "-F", "-s", str(size), "-n", str(iterations), *words]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    client = subprocess.run(command + ["127.0.0.1"], capture_output=True, text=True, timeout=120)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:  # perftest's servers do not always hear that their client is done
        server.kill()
        server.wait()
    lines = client.stdout.splitlines()
    figures = next((lines[i + 1].split() for i, line in enumerate(lines) if line.startswith(" #bytes")), None)
    if not figures:
        raise RuntimeError(f"{' '.join(command)}: {client.stdout}{client.stderr}")
    return float(figures[3]) * 1024 * 1024 / 1e9


def ferry(devices, op, size, batch, stride):
    """GB/s between two processes, both with these devices."""
    rows = pathlib.Path(tempfile.gettempdir()) / "rows.json"
    command = [str(BUILD / "tools/ferry"), "bench", "--local", "--protocol", "rdma", "--device", devices, "--op", op,
               "--size", str(size), "--batch", str(batch), "--stride", str(stride), "--wait", "block", "--hot", "--no-raw",
               "--no-pin", "--reps", "1", "--duration", SECONDS, "--region", "64m", "--json", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return json.loads(rows.read_text())["rows"][0]["ferry"]["GBps"]


def measured(turns):
    """{row: {contender: [GB/s of each turn]}}"""
    seen = {row: {"perftest": [], "one": [], "two": []} for row in ROWS}
    for turn in range(turns):
        for row, figures in seen.items():
            op, size, batch, stride, iterations, words = row
            figures["perftest"].append(perftest(op, size, iterations, words))
            figures["one"].append(ferry("rxe0", op, size, batch, stride))
            figures["two"].append(ferry("rxe0,rxe1", op, size, batch, stride))
            print(f"turn {turn + 1}: {op} {size_name(size)} x {batch}: perftest, one device, two devices:",
                  *(f"{figures[key][-1] * 1000:.1f}" for key in ("perftest", "one", "two")), "MB/s", file=sys.stderr, flush=True)
    return seen


def size_name(size):
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


def table(seen):
    print("| | perftest, MB/s | Ferry, MB/s | ratio | two devices, MB/s | to one |")
    print("|---|---|---|---|---|---|")
    for (op, size, batch, stride, _, words), figures in seen.items():
        ratio = statistics.median(a / b for a, b in zip(figures["one"], figures["perftest"]))
        two = statistics.median(a / b for a, b in zip(figures["two"], figures["one"]))
        one, both, raw = (statistics.median(figures[key]) * 1000 for key in ("one", "two", "perftest"))
        print(f"| {op.upper()} {size_name(size)} x {batch}{', nothing adjacent' if stride > 1 else ''} beside "
              f"`{' '.join((f'ib_{op}_bw -s {size}', *words))}` | {raw:.1f} | {one:.1f} | {ratio:.2f} | {both:.1f} | {two:.2f} |")


if __name__ == "__main__":
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if os.environ.get("RXE_VM") != "1":
        os.execv(HERE / "run", ["run", "-t", str(60 + 300 * turns), "-m", "3072", "-e", "FERRY_BUILD", "--", sys.executable,
                                os.path.abspath(__file__), str(turns)])
    os.environ["FERRY_PLUGIN_PATH"] = f"{BUILD / 'transports'}:{BUILD / 'metadata_plugins'}"
    table(measured(turns))
