# SPDX-License-Identifier: Apache-2.0
"""A node that does what it is told, one JSON object a line; runs on Mooncake's package and on
Ferry's alike, by whichever `mooncake.engine` its interpreter finds."""

import ctypes
import hashlib
import json
import mmap
import os
import random
import signal
import sys
import threading
import time

from mooncake.engine import TransferEngine


class Node:
    def __init__(self):
        self.engine = self.pages = self.addr = None

    def open(self, name, server, protocol="tcp", devices=""):
        self.engine = TransferEngine()  # a new one for each attempt
        result = self.engine.initialize(name, server, protocol, devices)
        return {"result": result, "port": self.engine.get_rpc_port() if result == 0 else 0}

    def memory(self, nbytes):
        self.pages = mmap.mmap(-1, nbytes)
        self.addr = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        return {"result": self.engine.register_memory(self.addr, nbytes), "addr": self.addr}

    def two(self, nbytes):
        """Two ranges apart from each other, the upper one registered first."""
        self.pages = mmap.mmap(-1, 3 * nbytes)
        lower = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        self.addr = lower + 2 * nbytes
        return {"result": [self.engine.register_memory(addr, nbytes) for addr in (self.addr, lower)],
                "addr": self.addr}

    def fill(self, offset, nbytes, seed):
        self.pages[offset:offset + nbytes] = random.Random(seed).randbytes(nbytes)
        return {}

    def clear(self, offset, nbytes):
        self.pages[offset:offset + nbytes] = bytes(nbytes)
        return {}

    def sha(self, offset, nbytes):
        return {"result": hashlib.sha256(memoryview(self.pages)[offset:offset + nbytes]).hexdigest()}

    def batch(self, op, peer, remote, size, count, stride, how="sync"):
        """`count` pieces, `stride` apart on both sides. Ends when they have."""
        here = [self.addr + i * stride for i in range(count)]
        there = [remote + i * stride for i in range(count)]
        if how == "sync" and count == 1:
            return {"result": getattr(self.engine, f"transfer_sync_{op}")(peer, here[0], there[0], size)}
        if how == "sync":
            return {"result": getattr(self.engine, f"batch_transfer_sync_{op}")(peer, here, there, [size] * count)}
        number = getattr(self.engine, f"batch_transfer_async_{op}")(peer, here, there, [size] * count)
        return {"number": number, "result": self.engine.get_batch_transfer_status([number]) if number else -1}

    def measure(self, op, peer, remote, size, count, threads, seconds):
        """Batches one after the other in each thread, for so long and at least one; memory is walked
        through from its start again and again."""
        call = getattr(self.engine, f"batch_transfer_sync_{op}")
        start, spans, failed = threading.Barrier(threads), [[] for _ in range(threads)], []

        def work(number):
            offsets = [(number * count + i) * size % len(self.pages) for i in range(count)]
            here, there = [self.addr + at for at in offsets], [remote + at for at in offsets]
            lengths = [size] * count
            start.wait()
            until = time.perf_counter() + seconds
            while not failed:
                begun = time.perf_counter()
                if call(peer, here, there, lengths):
                    failed.append(number)
                spans[number].append((begun, time.perf_counter()))
                if spans[number][-1][1] > until:
                    return

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        every = [span for own in spans for span in own]
        return {"failed": bool(failed), "bytes": len(every) * count * size,
                "seconds": max(end for _, end in every) - min(begun for begun, _ in every),
                "times": [end - begun for begun, end in every][:10000]}

    def notify(self, peer, remote, name, msg):
        from mooncake.engine import TransferNotify, TransferOpcode
        return {"result": self.engine.transfer_sync(peer, self.addr, remote, 8, TransferOpcode.Write,
                                                    TransferNotify(name, msg))}

    def notifies(self):
        return {"result": [[item.name, item.msg] for item in self.engine.get_notifies()]}

    def call(self, method, *args):
        return {"result": getattr(self.engine, method)(*args)}


def main():
    if os.environ.get("NODE_SIGPIPE") != "ignored":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in programs that are not Python's
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    node = Node()
    for line in sys.stdin:
        what, args = json.loads(line)
        try:
            reply = getattr(node, what)(*args)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()
    os._exit(0)


main()
