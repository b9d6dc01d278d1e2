# SPDX-License-Identifier: Apache-2.0
"""transfer_engine_bench: Mooncake's benchmark by its own flags, also against Mooncake's nodes.

`ferry bench` measures more, beside a reference of the same shape; it speaks to its own kind alone.
"""

from __future__ import annotations

import argparse
import array
import re
import signal
import socket
import sys
import threading
import time
from typing import List, Optional

import ferry

from .engine import TransferEngine, _host_of

_UNITS = {"GB": 1e9, "GiB": 2**30, "Gb": 1e9 / 8, "MB": 1e6, "MiB": 2**20, "Mb": 1e6 / 8, "KB": 1e3, "KiB": 2**10,
          "Kb": 1e3 / 8}


def _parse(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="transfer_engine_bench", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--local_server_name", default=socket.gethostname(), help="our name")
    add("--metadata_server", default="P2PHANDSHAKE", help="where names are found")
    add("--mode", choices=("initiator", "target"), default="initiator", help="a target waits until it is interrupted")
    add("--operation", choices=("read", "write"), default="read")
    add("--protocol", default="", help="transports in order of preference; none is by what both ends can")
    add("--device_name", default="", help="network devices, with commas between")
    add("--nic_priority_matrix", default="", help="accepted; devices are found out")
    add("--segment_id", default="", help="the target's name")
    add("--buffer_size", type=int, default=1 << 30, help="bytes of registered memory")
    add("--batch_size", type=int, default=128, help="pieces a batch")
    add("--block_size", type=int, default=65536, help="bytes a piece")
    add("--duration", type=float, default=10, help="seconds")
    add("--threads", type=int, default=12, help="threads that submit")
    add("--auto_discovery", nargs="?", const="true", default="false", help="accepted; devices are found out")
    add("--report_unit", choices=sorted(_UNITS), default="GB")
    add("--report_precision", type=int, default=2)
    add("--backend", default="classic", help="accepted; there is one only")
    # As gflags have it: one dash will do, and --noX is false.
    return parser.parse_args([re.sub(r"^--?no(auto_discovery)$", r"--\1=false", re.sub(r"^-(?=[a-z_]{2})", "--", item))
                              for item in arguments])


def _open(options: argparse.Namespace) -> ferry.Engine:
    name = options.local_server_name
    if options.metadata_server == "P2PHANDSHAKE":
        name = _host_of(name)
    return ferry.Engine(name, metadata_server=options.metadata_server, protocol=options.protocol or None,
                        device_name=options.device_name or None)


def _target(engine: ferry.Engine, options: argparse.Namespace) -> int:
    engine.alloc(options.buffer_size)
    print(f"Target {engine.name}: {options.buffer_size} bytes at the initiators' disposal", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def _initiator(engine: ferry.Engine, options: argparse.Namespace) -> int:
    memory = engine.alloc(options.buffer_size)
    segment = engine.open(options.segment_id)
    remote = segment.buffers()
    if not remote:
        print(f"{options.segment_id} has no memory to use", file=sys.stderr)
        return 1
    size = options.block_size
    blocks = min(options.buffer_size, remote[0].nbytes) // size
    if blocks < options.batch_size * options.threads:
        print(f"{options.threads} threads with {options.batch_size} pieces of {size} bytes need larger buffers",
              file=sys.stderr)
        return 1
    move = segment.read if options.operation == "read" else segment.write
    counts, failures = [0] * options.threads, []
    until = time.monotonic() + options.duration

    def work(number: int) -> None:
        offsets = [(i * options.threads + number) * size for i in range(options.batch_size)]
        local = array.array("Q", (memory.addr + offset for offset in offsets))
        there = array.array("Q", (remote[0].addr + offset for offset in offsets))
        try:
            while time.monotonic() < until and not failures:
                move(local, there, size)
                counts[number] += 1
        except ferry.Error as error:
            failures.append(error)

    begin = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, batches = time.monotonic() - begin, sum(counts)
    if failures:
        print(f"Test failed: {failures[0]}", file=sys.stderr)
        return 1
    rate = batches * options.batch_size * size / took / _UNITS[options.report_unit]
    print(f"Test completed: duration {took:.2f}, batch count {batches}, throughput "
          f"{rate:.{options.report_precision}f} {options.report_unit}/s")
    return 0


def main(arguments: Optional[List[str]] = None) -> int:
    """The exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    if options.mode == "target":  # before there are threads, which inherit it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with _open(options) as engine:
            return _target(engine, options) if options.mode == "target" else _initiator(engine, options)
    except ferry.Error as error:
        print(f"transfer_engine_bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
