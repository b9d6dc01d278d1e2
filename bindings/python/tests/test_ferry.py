# SPDX-License-Identifier: Apache-2.0
"""The package ferry as its users have it, over tcp: in one process, and beside a second one that
can be stopped and killed."""

import array
import asyncio
import ctypes
import gc
import hashlib
import http.server
import logging
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings

import ferry

NODE = """
import sys, ferry
engine = ferry.Engine("127.0.0.1", protocol="tcp")
memory = engine.alloc(64 << 20)
print(engine.name, memory.addr, flush=True)
sys.stdin.read()
"""


def pair(**options):
    return (ferry.Engine("127.0.0.1", protocol="tcp", **options), ferry.Engine("127.0.0.1", protocol="tcp", **options))


class Node:
    """Another process with 64 MiB to write to."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.name, addr = self.process.stdout.readline().split()
        self.addr = int(addr)
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.communicate()


class InOneProcess(unittest.TestCase):
    def setUp(self):
        self.a, self.b = pair()
        self.addCleanup(self.a.close)
        self.addCleanup(self.b.close)
        self.mine = self.a.register(bytearray(os.urandom(1 << 20)))
        self.theirs = self.b.alloc(1 << 20)
        self.peer = self.a.open(self.b.name)

    def test_write_and_read(self):
        self.peer.write(self.mine.view[100:1100], self.theirs.at(50))
        self.assertEqual(bytes(self.theirs.view[50:1050]), bytes(self.mine.view[100:1100]))
        back = self.a.alloc(4096)
        self.peer.read(back.view[:1000], self.theirs.at(50))
        self.assertEqual(bytes(back.view[:1000]), bytes(self.mine.view[100:1100]))
        self.assertEqual(bytes(back.view[1000:]), bytes(len(back) - 1000))
        self.peer.write(self.mine, self.theirs.addr)
        self.assertEqual(hashlib.sha256(self.theirs.view).digest(), hashlib.sha256(self.mine.view).digest())
        self.peer.read(back.addr, self.theirs.addr, 7)  # by address
        self.assertEqual(bytes(back.view[:7]), bytes(self.mine.view[:7]))

    def test_many_at_once_in_every_form(self):
        offsets = list(range(0, 1 << 20, 1 << 12))
        locals_ = [self.mine.at(offset) for offset in offsets]
        remotes = [self.theirs.at(offset) for offset in offsets]
        forms = {
            "lists": (locals_, remotes, [4096] * 256),
            "tuples": (tuple(locals_), tuple(remotes), (4096,) * 256),
            "one length": (locals_, remotes, 4096),
            "arrays of Q": (array.array("Q", locals_), array.array("Q", remotes), array.array("Q", [4096] * 256)),
            "arrays of q": (array.array("q", locals_), array.array("q", remotes), array.array("q", [4096] * 256)),
            "other arrays": (locals_, remotes, array.array("H", [4096] * 256)),
            "views": ([self.mine.view[offset:offset + 4096] for offset in offsets], remotes, None),
        }
        for name, ends in forms.items():
            with self.subTest(name):
                self.mine.owner[:] = os.urandom(1 << 20)
                with self.peer.start_write(*ends) as batch:
                    self.assertEqual(batch.wait(20), (True, 256, 256, 0, 1 << 20, 0))
                    self.assertEqual(batch.request(255).transport, "tcp")
                self.assertEqual(bytes(self.theirs.view), bytes(self.mine.owner))
                self.mine.owner[:] = bytes(1 << 20)
                self.peer.read(*ends)
                self.assertEqual(bytes(self.theirs.view), bytes(self.mine.owner))

    def test_one_batch_both_ways(self):
        self.peer.write(self.mine, self.theirs.addr)
        into = self.a.alloc(4096)
        with self.a.submit([ferry.Request(ferry.READ, self.peer, into.view[:100], self.theirs.addr),
                            (ferry.WRITE, self.peer, self.mine.view[:100], self.theirs.at(5000))]) as batch:
            self.assertEqual(batch.wait(20).nbytes, 200)
        self.assertEqual(bytes(into.view[:100]), bytes(self.mine.view[:100]))
        self.assertEqual(bytes(self.theirs.view[5000:5100]), bytes(self.mine.view[:100]))

    def test_numbers_that_are_none(self):
        addr, remote = self.mine.addr, self.theirs.addr
        for ends, error in [(([addr], [remote, remote], [1]), ValueError), (([-1], [remote], [1]), OverflowError),
                            (([addr], [1 << 64], [1]), OverflowError), (([addr], ["x"], [1]), TypeError),
                            (([addr], "x", [1]), TypeError), (([addr], b"12345678", [1]), TypeError),
                            ((array.array("q", [-5]), [remote], [1]), OverflowError),
                            (([addr], [1.5], [1]), TypeError)]:
            with self.subTest(ends=ends), self.assertRaises(error):
                self.peer.write(*ends)
        with self.assertRaises(ferry.InvalidArgument):
            self.peer.write([], [], [])

    def test_errors_by_cause(self):
        with self.assertRaises(ferry.OutOfRange) as caught:
            self.peer.write([self.mine.addr] * 3, [self.theirs.addr, self.theirs.addr, 4096], 10)
        self.assertEqual((caught.exception.status, caught.exception.index), (-7, 2))
        self.assertIsInstance(caught.exception, ferry.CallError)
        self.assertIn("request 2", str(caught.exception))
        with self.assertRaises(ferry.OutOfRange):
            self.peer.read(bytearray(10), self.theirs.addr)
        with self.b.register(bytearray(4096), access=ferry.REMOTE_READ) as readable:
            self.peer.read(self.mine.view[:4096], readable.addr)
            with self.assertRaises(ferry.AccessDenied) as caught:
                self.peer.write(self.mine.view[:4096], readable.addr)
            self.assertIsInstance(caught.exception, PermissionError)
        with self.assertRaises(ferry.AccessDenied):  # the peer refuses: it is registered no more
            self.peer.read(self.mine.view[:4096], readable.addr)
        with self.assertRaises(ferry.AlreadyExists):
            self.a.register(self.mine.view[:10])
        with self.assertRaises(ferry.NotSupported):
            ferry.Engine("127.0.0.1", protocol="pigeon")
        with self.assertRaises(ferry.NotSupported):
            self.peer.write(self.mine, self.theirs.addr, protocol="pigeon")
        with self.assertRaises(ConnectionError):
            self.a.open("127.0.0.1:9", timeout=3)
        with self.assertRaises(ferry.InvalidArgument):
            self.a.register(b"bytes are read-only")
        with self.a.register(b"but peers may read them", access=ferry.REMOTE_READ) as text:
            with self.assertRaises(ferry.InvalidArgument):
                self.peer.read(text.owner, self.theirs.addr)
        self.peer.close()
        with self.assertRaises(ferry.InvalidArgument):
            self.peer.probe()

    def test_every_status_has_a_class(self):
        names = {}
        for status in [*range(-9, 0), *range(-22, -19), *range(-43, -39), -61, -60]:
            error = ferry._errors.make_error(status, "")
            self.assertEqual(error.status, status)
            self.assertTrue(str(error))
            names[type(error)] = status
        self.assertEqual(len(names), 18)
        self.assertIs(type(ferry._errors.make_error(-30, "later")), ferry.TransferError)

    def test_memory_is_held_while_registered(self):
        data = bytearray(4096)
        memory = self.a.register(data)
        with self.assertRaises(BufferError):
            data.extend(b"more")
        memory.unregister()
        memory.unregister()
        data.extend(b"more")
        with self.assertRaises(ferry.OutOfRange):
            self.peer.write(data, self.theirs.addr)
        view = self.b.alloc(8192).view
        self.b.close()
        gc.collect()
        view[8191] = 7  # still mapped
        held = self.mine.owner
        with self.assertRaises(BufferError):
            held.extend(b"more")
        self.a.close()
        held.extend(b"more")

    def test_register_all_or_none(self):
        first, second = bytearray(100), bytearray(100)
        with self.assertRaises(ferry.AlreadyExists):
            self.b.register_all([first, second, first])
        items = self.b.register_all([first, second])
        self.peer.refresh()
        self.assertEqual({item.addr for item in items} - {buffer.addr for buffer in self.peer.buffers()}, set())
        self.b.unregister_all(items)
        self.peer.refresh()
        self.assertEqual([buffer.addr for buffer in self.peer.buffers()], [self.theirs.addr])

    def test_addresses_and_tensors(self):
        class Tensor:
            def __init__(self, size, contiguous=True):
                self.bytes = (ctypes.c_char * size)()
                self.contiguous = contiguous

            def data_ptr(self):
                return ctypes.addressof(self.bytes)

            def numel(self):
                return len(self.bytes) // 2

            def element_size(self):
                return 2

            def is_contiguous(self):
                return self.contiguous

        tensor = Tensor(4096)
        with self.b.register(tensor) as memory:
            self.assertEqual((memory.addr, memory.nbytes), (tensor.data_ptr(), 4096))
            self.peer.write(self.mine.view[:4096], tensor.data_ptr())
            self.assertEqual(tensor.bytes.raw, bytes(self.mine.view[:4096]))
        with self.assertRaises(ferry.InvalidArgument):
            self.b.register(Tensor(4096, contiguous=False))
        plain = (ctypes.c_char * 64)()
        with self.b.register(ctypes.addressof(plain), 64) as memory, self.assertRaises(ferry.InvalidArgument):
            memory.view
        with self.assertRaises(ferry.InvalidArgument):
            self.b.register(ctypes.addressof(plain))

    def test_notifications(self):
        self.assertIsNone(self.b.notification())
        self.peer.notify("label", "text")
        self.peer.notify("label", b"\x00\xff")
        self.peer.write(self.mine, self.theirs.addr, notify=("data", "is there"))
        self.assertEqual([self.b.notification(5)[1:] for _ in range(3)],
                         [("label", b"text"), ("label", b"\x00\xff"), ("data", b"is there")])

    def test_a_notification_that_fails(self):
        with ferry.Engine("127.0.0.1", protocol="tcp", config={"control_max_len": 1 << 20}) as target:
            there, peer = target.alloc(1 << 20), self.a.open(target.name)
            peer.write(self.mine, there.addr, notify=("label", b"short"))
            long = ("label", bytes(2 << 20))
            with self.assertRaises(ferry.Error) as caught:
                peer.write(self.mine.view[:10], there.addr + 5, notify=long)
            self.assertEqual((caught.exception.delivered, caught.exception.index), (True, None))
            self.assertIn("data delivered, notification to", str(caught.exception))
            self.assertEqual(there.view[5:15], self.mine.view[:10])
            with peer.start_write(self.mine.view[:10], there.addr + 20, notify=long) as batch, \
                    self.assertRaisesRegex(ferry.Error, "data delivered, notification not") as caught:
                batch.wait()
            self.assertTrue(caught.exception.delivered)
            self.assertEqual(there.view[20:30], self.mine.view[:10])
            with self.assertRaises(ferry.OutOfRange) as caught:
                peer.write(self.mine.view[:10], 4096, notify=long)
            self.assertFalse(caught.exception.delivered)
            self.assertEqual([(item.name, item.data) for item in iter(target.notification, None)],
                             [("label", b"short")])

    def test_buffers_are_in_the_order_of_registration(self):
        pages = mmap.mmap(-1, 3 * 4096)
        first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        upper, lower = self.b.register((first + 8192, 4096)), self.b.register((first, 4096))
        self.peer.refresh()
        self.assertEqual([buffer.addr for buffer in self.peer.buffers()],
                         [self.theirs.addr, first + 8192, first])
        self.b.unregister_all([upper, lower])

    def test_describe(self):
        self.assertEqual(self.a.describe("segment")["name"], self.a.name)
        self.assertEqual(self.a.port, int(self.a.name.rsplit(":", 1)[1]))
        self.assertIn("tcp", str(ferry.plugins()))
        with self.assertRaises(ferry.InvalidArgument):
            self.a.describe("the weather")

    def test_other_threads_run_while_one_waits(self):
        waiting = threading.Thread(target=self.a.notification, args=(1.0,))
        waiting.start()
        turns, until = 0, time.monotonic() + 0.3
        while time.monotonic() < until:
            turns += 1
        waiting.join()
        self.assertGreater(turns, 1000)

    def test_closing_ends_waits(self):
        caught = []

        def wait():
            try:
                self.a.notification(None)
            except ferry.Error as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        self.a.close()
        thread.join(5)
        self.assertFalse(thread.is_alive())
        self.assertIsInstance(caught[0], ferry.Canceled)
        with self.assertRaises(ferry.Canceled):
            self.a.open(self.b.name)
        self.a.close()

    def test_signals_interrupt_waits(self):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        t0 = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            self.a.notification(20)
        self.assertLess(time.monotonic() - t0, 5)

    def test_eight_threads_on_one_engine(self):
        failures = []

        def work(number):
            try:
                for turn in range(20):
                    at = number << 17
                    self.peer.write(self.mine.view[at:at + (1 << 17)], self.theirs.at(at))
                    self.peer.read(self.mine.view[at:at + (1 << 17)], self.theirs.at(at))
            except Exception as error:
                failures.append(error)

        want = bytes(self.mine.view)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(bytes(self.theirs.view), want)


class MappedMemory(unittest.TestCase):
    """What `alloc` makes can be mapped by a peer of this host; "mode": "map" refuses all else."""

    def test_only_what_alloc_made(self):
        config = {"shm": {"mode": "map"}}
        with ferry.Engine("127.0.0.1", protocol="shm", config=config) as a, \
                ferry.Engine("127.0.0.1", protocol="shm", config=config) as b:
            mine = a.register(bytearray(os.urandom(3 << 20)))
            theirs, plain = b.alloc(3 << 20), b.register(bytearray(4096))
            peer = a.open(b.name)
            peer.write(mine.view, theirs.addr)
            self.assertEqual(bytes(theirs.view[:3 << 20]), bytes(mine.view))
            with self.assertRaises(ferry.Error):
                peer.write(mine.view[:4096], plain.addr)


class Opening(unittest.TestCase):
    def test_context_and_forgotten(self):
        with ferry.Engine("127.0.0.1", config={"min_port": 17500, "max_port": 17999}) as engine:
            name = engine.name
            self.assertFalse(engine.closed)
        self.assertTrue(engine.closed)
        with ferry.Engine(name, protocol="tcp") as again:  # the port is free again
            self.assertEqual(again.name, name)
        forgotten = ferry.Engine("127.0.0.1")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del forgotten
            gc.collect()
        self.assertEqual([item.category for item in caught], [ResourceWarning])

    def test_from_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write('{"prefill_url": "127.0.0.1:15903", "decode_url": "127.0.0.1:15953", "protocol": "tcp"}')
            file.flush()
            with ferry.Engine.from_file(file.name, "prefill") as prefill, \
                    ferry.Engine.from_file(file.name, "decode") as decode:
                self.assertEqual((prefill.name, decode.name), ("127.0.0.1:15903", "127.0.0.1:15953"))
                prefill.open(decode.name).probe()
            with self.assertRaises(ferry.InvalidArgument):
                ferry.Engine.from_file(file.name, "spectator")

    def test_log(self):
        lines = []
        with ferry.Engine("127.0.0.1", log=lambda level, text: lines.append((level, text))) as engine:
            name = engine.name
        self.assertIn((logging.INFO, f"engine {name} is open"), lines)
        with self.assertLogs("ferry", logging.INFO) as caught:
            ferry.Engine("127.0.0.1", log_level=logging.INFO).close()
        self.assertIn("is open", " ".join(caught.output))

    def test_what_a_server_says_need_not_be_utf8(self):
        """Its words are cut after so many bytes, in the middle of a character."""
        class Wrong(http.server.BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b"x" + "\u00e9".encode() * 100
                self.send_response(500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_DELETE = answer

            def log_message(self, *arguments):
                pass

        lines = []
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wrong) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                with self.assertRaisesRegex(ferry.Unreachable, "HTTP 500: x\u00e9"):
                    ferry.Engine("127.0.0.1", protocol="tcp", log=lambda level, text: lines.append(text),
                                 metadata_server="http://127.0.0.1:%d/metadata" % server.server_port)
            finally:
                server.shutdown()
                thread.join()

    def test_config(self):
        with ferry.Engine("127.0.0.1", config={"tcp": {"engine": "epoll"}, "min_port": 15800,
                                               "max_port": 15899}) as engine:
            self.assertTrue(15800 <= engine.port <= 15899)
        with self.assertRaises(ferry.InvalidArgument):
            ferry.Engine("127.0.0.1", config="{")


class Asyncio(unittest.TestCase):
    def test_await(self):
        async def main(a, b):
            mine, theirs = a.register(bytearray(os.urandom(100000))), b.alloc(100000)
            peer = a.open(b.name)
            statuses = await asyncio.gather(*(peer.start_write(mine.view[i * 1000:(i + 1) * 1000], theirs.at(i * 1000))
                                              for i in range(100)))
            self.assertEqual({status.nbytes for status in statuses}, {1000})
            self.assertEqual(bytes(theirs.view[:100000]), bytes(mine.view))
            batch = peer.start_read(mine, theirs.addr)
            await batch
            self.assertTrue((await batch).ended)  # again
            b.close()
            with self.assertRaises(ConnectionError):
                await peer.start_write(mine, theirs.addr, timeout=5)

        a, b = pair()
        with a, b:
            asyncio.run(main(a, b))

    def test_two_loops_and_a_batch_from_outside(self):
        a, b = pair()
        mine, theirs = a.alloc(4096), b.alloc(4096)
        peer = a.open(b.name)
        outside = peer.start_write(mine, theirs.addr)
        done = []

        async def main():
            for _ in range(50):
                done.append((await peer.start_write(mine, theirs.addr)).ended)
            done.append((await outside).ended)

        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(done, [True] * 102)
        a.close()
        b.close()


class BesideAnotherProcess(unittest.TestCase):
    def setUp(self):
        self.engine = ferry.Engine("127.0.0.1", protocol="tcp")
        self.addCleanup(self.engine.close)
        self.mine = self.engine.alloc(32 << 20)

    def stop(self, node):
        node.process.send_signal(signal.SIGSTOP)
        self.addCleanup(node.process.send_signal, signal.SIGKILL)

    def test_stopped_peer(self):
        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            batch = peer.start_write(self.mine, node.addr)
            with self.assertRaises(ferry.NotReady):
                batch.wait(0.2)
            self.assertFalse(batch.poll().ended)
            self.assertTrue(batch.request(0).pending)
            self.assertTrue(batch.cancel(10))
            with self.assertRaises(ferry.Canceled):
                batch.wait(0)
            with self.assertRaises(TimeoutError):
                peer.write(self.mine, node.addr, timeout=0.5)

    def test_cancelled_task_cancels_the_batch(self):
        async def main(peer, node):
            batch = peer.start_write(self.mine, node.addr)
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(batch, 0.2)
            with self.assertRaises(ferry.Canceled):
                batch.wait(10)

        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            asyncio.run(main(peer, node))

    def test_one_batch_for_two_tasks(self):
        async def result(batch):
            return await batch

        async def main(peer, node):
            batch = peer.start_write(self.mine, node.addr)
            first, second, third = [asyncio.ensure_future(result(batch)) for _ in range(3)]
            await asyncio.sleep(0.1)
            self.assertFalse(first.done() or second.done() or third.done())
            node.process.send_signal(signal.SIGCONT)
            statuses = await asyncio.wait_for(asyncio.gather(first, second, third), 20)
            self.assertEqual({status.nbytes for status in statuses}, {len(self.mine.view)})

        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            asyncio.run(main(peer, node))

    def test_a_task_cancelled_after_its_engine_is_closed(self):
        async def main(engine, peer, node):
            batch = peer.start_write(self.mine, node.addr)
            task = asyncio.ensure_future(wait_for(batch))
            await asyncio.sleep(0.1)
            engine.close()
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        async def wait_for(batch):
            await batch

        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            asyncio.run(main(self.engine, peer, node))

    def test_killed_peer_and_close_under_way(self):
        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            batch = peer.start_write(self.mine, node.addr)
            node.process.kill()
            with self.assertRaises(ConnectionError):
                batch.wait(20)
        with Node() as node:
            peer = self.engine.open(node.name)
            peer.write(self.mine.view[:100], node.addr)
            self.stop(node)
            batch = peer.start_write(self.mine, node.addr)
            caught = []
            thread = threading.Thread(target=lambda: caught.append(self.assertRaises(ferry.Canceled, batch.wait)))
            thread.start()
            time.sleep(0.1)
            self.engine.close()
            thread.join(10)
            self.assertFalse(thread.is_alive())
            self.assertEqual(len(caught), 1)


if __name__ == "__main__":
    unittest.main()
