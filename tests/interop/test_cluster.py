# SPDX-License-Identifier: Apache-2.0
"""Two nodes of upstream's and two of Ferry's in one cluster, all pairs under load, while one of each
kind is killed and started again time after time: nothing arrives corrupt, nothing hangs.

Environment: CLUSTER_SECONDS (30) and CLUSTER_RESTART (6) seconds; the long run is 600 and 60.
"""

import hashlib
import os
import random
import sys
import threading
import time

import interop
from interop import FERRY, Node

sys.path.insert(0, str(interop.ROOT / "tests/conformance"))
import servers  # noqa: E402

SECONDS = float(os.environ.get("CLUSTER_SECONDS", "30"))
RESTART = float(os.environ.get("CLUSTER_RESTART", "6"))
SLOT = 64 << 10  # of each pair and way, at the target
PIECES = 16
LIMIT = 45  # seconds for one answer: a transfer ends after 30
NAMES = ("upstream-0", "upstream-1", "ferry-0", "ferry-1")


class Member:
    """A node that others use and that is replaced by another under its name."""

    def __init__(self, name, kind, python, uri):
        self.name, self.kind, self.python, self.uri = name, kind, python, uri
        self.lock = threading.Lock()  # one command at a time
        self.lives = 0
        self.start()

    def start(self):
        self.lives += 1
        self.node = Node(self.kind, self.python, self.name, MC_TCP_BIND_ADDRESS="127.0.0.1",
                         MC_TRANSFER_TIMEOUT="10")
        self.node.open(self.name, self.uri).memory(2 * len(NAMES) * SLOT)

    def restart(self):
        with self.lock:
            self.node.kill()
            self.start()

    def where(self):
        with self.lock:
            return self.lives, self.node.addr

    def ask(self, *words):
        with self.lock:
            return self.node.ask(*words, timeout=LIMIT), self.lives


def cluster(uri, python, version):
    members = [Member(name, version if name.startswith("upstream") else FERRY,
                      python if name.startswith("upstream") else None, uri) for name in NAMES]
    counts = {(a.name, b.name): [0, 0] for a in members for b in members if a is not b}
    problems, until = [], time.monotonic() + SECONDS

    def load(me):
        """Writes to each other member, and looks with that member's eyes at what arrived."""
        source = random.Random(me.name)
        while time.monotonic() < until and not problems:
            for peer in members:
                if peer is me:
                    continue
                seed, at = source.getrandbits(32), (1 + members.index(me)) * SLOT  # 0 is what it sends
                try:
                    lives, addr = peer.where()
                    _, before = me.ask("fill", 0, SLOT, seed)
                    answer, after = me.ask("batch", "write", peer.name, addr + at, SLOT // PIECES, PIECES,
                                           SLOT // PIECES)
                    if before != after:
                        continue  # what was filled is gone
                    if answer["result"] == 0:
                        got, now = peer.ask("sha", at, SLOT)
                        if now != lives:
                            continue  # another process by now
                        if got["result"] != hashlib.sha256(random.Random(seed).randbytes(SLOT)).hexdigest():
                            problems.append(f"{me.name} to {peer.name}: done, and other bytes are there")
                            return
                        counts[me.name, peer.name][0] += 1
                    else:
                        counts[me.name, peer.name][1] += 1
                except TimeoutError as error:
                    problems.append(f"{me.name} to {peer.name}: hangs: {error}")
                    return
                except (ConnectionError, BrokenPipeError) as error:
                    problems.append(f"{me.name} to {peer.name}: a node ended by itself: {error}")
                    return

    def trouble():
        turn = 0
        while time.monotonic() + RESTART < until and not problems:
            time.sleep(RESTART)
            for member in (members[turn % 2], members[2 + turn % 2]):  # of each kind one
                try:
                    member.restart()
                except (RuntimeError, OSError) as error:
                    problems.append(f"{member.name} does not come back: {error}")
            turn += 1

    threads = [threading.Thread(target=load, args=(member,)) for member in members] + [threading.Thread(target=trouble)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 4 * LIMIT)
        if thread.is_alive():
            problems.append("a thread of the test hangs")
    # At the end everybody whom upstream's memory of old addresses does not keep from it reaches everybody.
    for me in members:
        for peer in members:
            if me is not peer and me.kind == FERRY and not problems:
                answer, _ = me.ask("batch", "write", peer.name, peer.node.addr, 4096, 1, 4096)
                if answer["result"]:
                    problems.append(f"{me.name} does not reach {peer.name} at the end")
    lives = [member.lives for member in members]
    for member in members:
        member.node.kill()
    return counts, lives, problems


def main():
    version, python = next(iter(interop.environments().items()))
    server = servers.Etcd()  # whose keys a restarted upstream node may write again
    server.start()
    try:
        counts, lives, problems = cluster(server.uri, python, version)
    finally:
        server.close()
    for (me, peer), (done, failed) in sorted(counts.items()):
        print(f"{me:>10} -> {peer:10} {done:6} verified {failed:4} failed")
    print("lives:", dict(zip(NAMES, lives)))
    idle = [pair for pair, (done, _) in counts.items() if not done]
    if idle:
        problems.append(f"nothing ever arrived: {idle}")
    if max(lives) < 2:
        problems.append("nobody was restarted: CLUSTER_SECONDS is too short")
    sys.exit("\n".join(problems) or 0)


main()
