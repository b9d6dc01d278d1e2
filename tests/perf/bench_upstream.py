# SPDX-License-Identifier: Apache-2.0
"""Mooncake's wheel and Ferry by turns, through the same Python program (tests/interop/node.py): a table in
Markdown. Both ends on loopback, P2PHANDSHAKE, tcp; three pairs of processes stay up and take turns row by
row, so that what the machine does besides meets all of them."""

import argparse
import itertools
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
import interop  # noqa: E402
from interop import FERRY, Node  # noqa: E402

UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
DEFAULTS = {"MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": None}  # which interop.py sets
POOL = {"MC_TCP_ENABLE_CONNECTION_POOL": "1"}
FILLED = 64 << 20  # bytes that Python's generator makes at once
LONG = 2 << 30  # bytes: rows whose batches move more at once are measured in one turn
LONGEST = 64 << 30  # and those beyond this not at all, but for --all
ONE_CALL = 300.0  # seconds


def number(text):
    return int(text[:-1]) * UNITS[text[-1].lower()] if text[-1].lower() in UNITS else int(text)


def numbers(text):
    return [number(item) for item in text.split(",")]


def short(nbytes):
    return next((f"{nbytes >> shift} {unit}" for shift, unit in ((20, "MiB"), (10, "KiB")) if not nbytes % (1 << shift)),
                f"{nbytes} B")


class Pair:
    """Two processes of one kind; a pair that failed is replaced, as Mooncake's may fail for ever after."""

    def __init__(self, title, kind, python, region, env):
        self.title, self.kind, self.python, self.region, self.env = title, kind, python, region, env
        self.start()

    def start(self):
        self.target = Node(self.kind, self.python, "target", **self.env)
        self.initiator = Node(self.kind, self.python, "initiator", **self.env)
        for node in (self.target, self.initiator):
            node.open().memory(self.region)
            for at in range(0, self.region, FILLED):
                node.ask("fill", at, min(FILLED, self.region - at), 1)

    def measure(self, op, size, batch, threads, seconds):
        """GB/s and the median of a batch in seconds; None where a transfer failed."""
        answer = self.initiator.ask("measure", op, self.target.name, self.target.addr, size, batch, threads, seconds,
                                    timeout=ONE_CALL)
        if answer["failed"]:
            self.close()
            self.start()
            return None
        return answer["bytes"] / answer["seconds"] / 1e9, statistics.median(answer["times"])

    def close(self):
        self.initiator.kill()
        self.target.kill()


def row(pairs, op, size, batch, threads, seconds, reps):
    """For each pair its turns' (GB/s, median of a batch), or None."""
    turns = 1 if size * batch * threads > LONG else reps
    found = [[] for _ in pairs]
    for turn in range(turns + (turns > 1)):
        for i in range(len(pairs)):
            which = (i + turn) % len(pairs)
            if found[which] is None:
                continue
            result = pairs[which].measure(op, size, batch, threads, seconds if turn else seconds / 4)
            if result is None:
                found[which] = None
            elif turn or turns == 1:  # the first of many warms up
                found[which].append(result)
    return found


def figures(found):
    """GB/s of each, and the median of Ferry's ratio to the best of the others in the same turn."""
    cells = ["fails" if turns is None else f"{statistics.median(gbs for gbs, _ in turns):.2f}" for turns in found]
    ours, others = found[0], [turns for turns in found[1:] if turns is not None]
    if ours is None or not others:
        return cells + ["-"]
    return cells + [f"{statistics.median(one[0] / max(turn[0] for turn in rest) for one, *rest in zip(ours, *others)):.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default=interop.VERSIONS[0], help="Mooncake's (%(default)s)")
    parser.add_argument("--size", type=numbers, default=numbers("4k,64k,1m,16m"))
    parser.add_argument("--batch", type=numbers, default=numbers("1,128,2048"))
    parser.add_argument("--threads", type=numbers, default=numbers("1,8"))
    parser.add_argument("--seconds", type=float, default=0.25, help="of one run (%(default)s)")
    parser.add_argument("--reps", type=int, default=3, help="turns of each row (%(default)s)")
    parser.add_argument("--region", type=number, default=number("256m"), help="memory of each process (256m)")
    parser.add_argument("--all", action="store_true", help="also rows that move more than 64 GiB at once")
    args = parser.parse_args()
    python = interop.environment(args.version)
    if python is None:
        interop.skip(f"Mooncake's {args.version} cannot be installed")

    pairs = [Pair("Ferry", FERRY, None, args.region, DEFAULTS),
             Pair("Mooncake", args.version, python, args.region, DEFAULTS),
             Pair("its pool", args.version, python, args.region, {**DEFAULTS, **POOL})]
    titles = [pair.title for pair in pairs] + ["ratio"]
    print(f"Mooncake {args.version}; GB/s; ratio: Ferry's to the better of Mooncake's two in the same turn\n")
    print("| piece x batch | threads | " + " | ".join(f"{op} {title}" for op in ("WRITE", "READ") for title in titles) + " |")
    print("|---|---|" + "---|" * (2 * len(titles)))
    slower, failed = [], False
    for size, batch, threads in itertools.product(args.size, args.batch, args.threads):
        name = f"{short(size)} x {batch:,} | {threads}"
        if size * batch * threads > LONGEST and not args.all:
            print(f"| {name} | " + "- | " * (2 * len(titles)), flush=True)
            continue
        cells = []
        for op in ("write", "read"):
            cells += figures(row(pairs, op, size, batch, threads, args.seconds, args.reps))
            failed = failed or cells[-len(titles)] == "fails"
            if cells[-1] != "-" and float(cells[-1]) < 1:
                slower.append(f"{op.upper()} {name.replace(' | ', ', threads: ')}: {cells[-1]}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for pair in pairs:
        pair.close()
    print("\nFerry is slower in: " + "; ".join(slower) if slower else "\nFerry is slower nowhere.")
    sys.exit("a transfer of Ferry's failed: see " + str(interop.LOGS) if failed else 0)


main()
