#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The metadata suite's own test: each mutant must fail at the point that names its fault.

Usage: metadata_mutants.py CONFORMANCE MUTANT_DIR METADATA_DIR SERVERS.py FERRY
Prints TAP. A line of the table: mutant, point, what the report must say (a regular expression).
"""

import os
import sys

from judge import judge_all

# Faults of the descriptor: files of their own.
FILES = [
    ("wrong_magic", 0, r"expected: magic"),
    ("wrong_major", 0, r"expected: ABI major 1"),
    ("short_table", 0, r"a table that holds all of ABI 1\.0"),
    ("no_put", 0, r"put is NULL"),
    ("no_scheme", 0, r"at least one URL scheme"),
    ("bad_name", 0, r"a name of at most 31"),
]

# Round memory.
MEMORY = [
    ("crashes-in-open", 0, r"died of SIGSEGV in open"),
    ("takes-unknown-key", 0, r"FERRY_EINVAL; seen: FERRY_OK"),
    ("hangs-in-close", 1, r"hung in close"),
    ("absent-is-unreach", 1, r"get_status\(store, key, 5000\) to give absent; seen: FERRY_EUNREACH"),
    ("appends-on-failure", 1, r"append nothing where it fails"),
    ("deletes-nothing", 1, r"to give absent; seen: FERRY_OK"),
    ("cuts-at-nul", 3, r"holds\(key, all"),
    ("joins-slashes", 4, r"holds\(key_of\(names"),
    ("cuts-keys", 4, r"holds\(key_of\(names"),
    ("cuts-large", 5, r"all of a large value"),
    ("lies-about-length", 6, r"FERRY_ERANGE"),
    ("shares-a-buffer", 7, r"each thread to find what it put"),
    ("writes-beyond-size", 8, r"0xa5|small->size"),
    ("leaks-descriptor", 9, r"/proc/self/fd"),
    ("leaks-thread", 9, r"/proc/self/task"),
    ("crashes-at-close-of-null", 9, r"died of SIGSEGV in close"),
    ("ignores-revision", 10, r"FERRY_ECONFLICT; seen: FERRY_OK"),
    ("denies-cas", 10, r"FERRY_ENOTSUP"),
    ("races-in-compare", 11, r'holds\(key, "100", 3\)'),
    ("ignores-ttl", 12, r"becomes\(mine, key, FERRY_ENOENT"),
    ("denies-lease", 12, r"FERRY_ENOTSUP"),
    ("lists-values", 14, r"with_value"),
    ("lists-twice", 14, r"listing\.n == 4"),
    ("lists-patterns", 14, r"listing\.n == 1"),
    ("denies-list", 14, r"FERRY_ENOTSUP"),
    ("loses-deletes", 15, r"seen\.deletes"),
    ("tells-twice", 15, r"seen\.puts == 2|out_of_order"),
    ("tells-after-unwatch", 15, r"seen\.n == n"),
    ("denies-watch", 15, r"FERRY_ENOTSUP"),
    ("hides-resync", 16, r"n == many \+ 1 \|\| resynced|sees"),
]

# Round http, with a server that is stopped and frozen.
HTTP = [
    ("outage-is-absent", 19, r"FERRY_EUNREACH; seen: FERRY_ENOENT"),
    ("forgets-its-time", 20, r"now_ms\(\) - start < at_most_ms"),
]


def main():
    suite, mutants, plugins, servers, ferry = sys.argv[1:6]
    plugin = os.path.join(mutants, "metadata_mutant.so")
    jobs = []

    def wrapped(name, inner):
        limit = [] if name == "none" else ["--limit", "2" if "hangs" in name else "15"]
        return limit + ["--config", "mutant=" + name,
                        "--config", "wrapped=%s/ferry_metadata_%s.so" % (plugins, inner)]

    for name, point, says in FILES:
        jobs.append((name, os.path.join(mutants, "metadata_mutant_%s.so" % name), point, says, []))
    for name, point, says in MEMORY:
        jobs.append((name, plugin, point, says, ["--uri", "memory://mutant"] + wrapped(name, "memory")))
    if os.path.exists(os.path.join(plugins, "ferry_metadata_http.so")):
        for name, point, says in HTTP:
            jobs.append((name, plugin, point, says, wrapped(name, "http") +
                         ["--server", sys.executable, servers, "http", ferry, "metadata-server"]))
    jobs.append(("none", plugin, None, None, ["--uri", "memory://mutant", "--only",
                                              "0,1,2,3,4,5,6,7,8,9,10,11,14,16"] + wrapped("none", "memory")))
    return judge_all(suite, jobs, 4)


if __name__ == "__main__":
    sys.exit(main())
