#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The conformance suite's own test: each mutant must fail at the point that names its fault.

Usage: mutants.py CONFORMANCE MUTANT_DIR TRANSPORT_DIR [MUTANT...]
Prints TAP. A line of the table: mutant, point, what the report must say (a regular expression).
"""

import os
import sys

from judge import judge_all

LIMITS = ["--limit", "8", "--wait", "1500"]

# Faults of the descriptor: files of their own.
FILES = [
    ("wrong_magic", 0, r"expected: magic"),
    ("wrong_major", 0, r"expected: ABI major 1"),
    ("short_table", 0, r"a table that holds all of ABI 1\.0"),
    ("no_poll", 0, r"poll is NULL"),
    ("no_symbol", 0, r"the symbol ferry_transport_plugin"),
    ("bad_name", 0, r"a name of at most 31"),
    ("thread_at_load", 0, r"no thread before open"),
]

# Round loop, both ends in one process.
LOOP = [
    ("crashes-in-open", 12, r"died of SIGSEGV in open"),
    ("hangs-in-close", 12, r"hung in close"),
    ("crashes-at-close-of-null", 12, r"died of SIGSEGV in close"),
    ("takes-unknown-key", 12, r"expected: FERRY_EINVAL"),
    ("writes-output-on-failure", 12, r"outputs to be written on success only"),
    ("completes-early", 1, r"equal bytes as soon as the completion says FERRY_OK"),
    ("completes-early", 15, r"the bytes to be in the target's memory at FERRY_OK"),
    ("wrong-bytes", 1, r"equal bytes"),
    ("counts-no-bytes", 1, r"a completion's bytes"),
    ("completes-with-eagain", 1, r"a final status in each completion"),
    ("keeps-list", 1, r"died of SIG(SEGV|BUS) in poll"),
    ("keeps-regions", 1, r"one region_put for each region_get"),
    ("blocks-in-submit", 1, r"queue calls never to block"),
    ("allocates-from-host", 1, r"queue calls to use only log, region_get and region_put"),
    ("loses-element", 2, r"every accepted element to complete|FERRY_EAGAIN to pass"),
    ("completes-twice", 2, r"completed a second time|lists that are in flight only"),
    ("full-is-ok", 2, r"FERRY_OK where all were accepted and only there"),
    ("overfills", 2, r"at most max"),
    ("wrong-range", 2, r"completion ranges inside the list"),
    ("leaves-accepted-unwritten", 3, r"always to write \*accepted_out"),
    ("goes-on-after-bad-element", 3, r"completions of accepted elements only"),
    ("drops-those-before-bad-element", 3, r"those before it to end with FERRY_OK"),
    ("ignores-access", 4, r"FERRY_ERANGE or FERRY_EACCESS for what is not allowed"),
    ("ignores-local-access", 4, r"READ into memory without LOCAL_WRITE"),
    ("refusal-spoils-others", 4, r"the other elements of the list to be done"),
    ("writes-past-range", 5, r"no byte beside the range to be touched"),
    ("reads-past-range", 5, r"no byte beside the range to be touched"),
    ("writes-beyond-size", 6, r"died of SIGSEGV in query"),
    ("packed-descriptions", 6, r"mem_reg"),
    ("mixes-queues", 7, r"lists that are in flight only"),
    ("deaf-descriptor", 8, r"an armed descriptor to become readable"),
    ("arms-with-completions-waiting", 8, r"an armed descriptor to become readable"),
    ("ignores-cancel", 9, r"cancel to cut at least one of many"),
    ("refuses-cancel", 9, r"cancel (to return|of nothing)"),
    ("cancel-does-not-wait", 9, r"local memory to be untouched|no byte to land at the target"),
    ("cancels-everything", 9, r"elements of other lists to end well"),
    ("touches-after-completion", 9, r"local memory to be untouched"),
    ("forgets-dead-peers", 10, r"every element of a killed peer to end soon"),
    ("dead-peer-is-eio", 10, r"a status with peer scope"),
    ("dead-peer-spoils-queue", 10, r"a queue that works"),
    ("attaches-to-the-dead", 10, r"peer_attach to a dead peer to fail"),
    ("attach-blames-transfer", 10, r"peer_attach to a dead peer to fail with peer scope"),
    ("attach-takes-long", 10, r"peer_attach to keep its timeout"),
    ("peer-close-does-not-wait", 11, r"local memory to be untouched|died of SIG"),
    ("touches-after-queue-close", 11, r"died of SIG(SEGV|BUS)"),
    ("leaks-descriptor", 13, r"as many descriptors and threads as before"),
    ("leaks-thread", 13, r"as many descriptors and threads as before"),
    ("leaks-memory", 13, r"memory to stay level"),
    ("open-on-exec", 13, r"descriptors that are closed on exec"),
    ("takes-any-kind", 14, r"refuse each kind that caps\.local_mem lacks"),
    ("registers-some", 14, r"all or nothing"),
    ("claims-device-memory", 14, r"refuse each kind that caps\.local_mem lacks"),
    ("denies-read", 17, r"refuse an operation that caps deny"),
    ("denies-loopback", 17, r"deny FERRY_CAP_LOOPBACK"),
    ("denies-cancel", 17, r"cancel to return FERRY_ENOTSUP"),
    ("few-queues", 17, r"refuse more than caps\.max_queues"),
    ("short-transfers", 17, r"longer than caps\.max_xfer_len"),
    ("any-device", 17, r"device to refuse an index"),
    ("allocates", 19, r"to allocate nothing"),
    ("touches-after-completion", 18,
     r"local memory to be untouched|FERRY_OK only where the bytes are in place"),
    ("completes-twice", 18, r"completed a second time|lists that are in flight only"),
    ("loses-element", 18, r"every element to end|to complete at the next poll"),
]

# Round tcp, two processes.
TCP = [
    ("ignores-cancel", 16, r"to end though the peer is stopped"),
    ("cancel-does-not-wait", 16, r"no late byte to land|local memory to be untouched"),
    ("completes-early", 15, r"the bytes to be in the target's memory at FERRY_OK"),
    ("completes-early", 16, r"FERRY_OK only where the bytes are in place"),
    ("forgets-dead-peers", 10, r"every element of a killed peer to end soon"),
    ("leaks-descriptor", 13, r"as many descriptors and threads as before"),
    ("deaf-descriptor", 8, r"an armed descriptor to become readable"),
]


def main():
    suite, mutants, transports = sys.argv[1:4]
    chosen = sys.argv[4:]
    plugin = os.path.join(mutants, "mutant.so")
    jobs = []

    def wrapped(name, inner, processes):
        path = os.path.join(transports, "ferry_transport_%s.so" % inner)
        limits = [] if name == "none" else LIMITS  # nothing of it is to hang
        return limits + ["--processes", processes, "--config", "wrapped=" + path,
                         "--config", "mutant=" + name]

    for name, point, says in FILES:
        jobs.append((name, os.path.join(mutants, "mutant_%s.so" % name), point, says, LIMITS))
    jobs.append(("none", plugin, None, None, wrapped("none", "loop", "one")))
    for name, point, says in LOOP:
        jobs.append((name, plugin, point, says, wrapped(name, "loop", "one")))
    if os.path.exists(os.path.join(transports, "ferry_transport_tcp.so")):
        for name, point, says in TCP:
            jobs.append((name + "/tcp", plugin, point, says, wrapped(name, "tcp", "two")))
    if chosen:
        jobs = [job for job in jobs if job[0] in chosen]
    return judge_all(suite, jobs, 2)


if __name__ == "__main__":
    sys.exit(main())
