#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Point x plugin, for every plugin of a build: the tables of docs/conformance.md.

Usage: matrix.py BUILD [--write docs/conformance.md] [--log TITLE=FILE]...
Runs each suite once a plugin, one after the other (five minutes). What needs the VM is taken from what
tests/rxe-vm/*-conformance printed: a FILE for a column. A plugin that is not built is left out and named.
"""

import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TRANSPORTS = [
    ("loop", "loop", ["--processes", "one"]),
    ("tcp", "tcp", ["--processes", "two"]),
    ("tcp v2", "tcp", ["--processes", "two", "--config", "dialect=v2"]),
    ("shm", "shm", ["--processes", "two"]),
    *((f"libfabric {title}", "libfabric",
       ["--processes", "two", "--limit", "300", "--wait", "30000", "--config", "provider=" + provider,
        "--inherits", "libfabric opens its descriptors so"])
      for title, provider in (("tcp", "tcp;ofi_rxm"), ("shm", "shm"), ("udp", "udp;ofi_rxd"))),
    ("fault(tcp)", "fault", ["--processes", "two", "--config", "inner=tcp"]),
    ("template", None, ["--processes", "two"]),
]
STORES = [
    ("memory", "memory", ["--uri", "memory://matrix"]),
    ("p2p", "p2p", ["--uri", "p2p://", "--absent", "unreach"]),
    ("http", "http", ["http"]),
    ("etcd", "etcd", ["etcd"]),
    ("etcd x 3", "etcd", ["etcd3"]),
    ("redis", "redis", ["redis"]),
    ("template", None, None),
]
LINE = re.compile(r"^ ?(\d+) (\S+) +(pass|FAIL|n/a|skip) ", re.M)
WORDS = {"pass": "yes", "FAIL": "**no**", "n/a": "n/a", "skip": "skip"}


def results(text, table):
    """{number: word}; a point that was run more than once (rdma's log) has to pass each time."""
    found = {}
    for number, name, word in LINE.findall(text):
        table[int(number)] = name
        if found.get(int(number)) != "FAIL":
            found[int(number)] = word
    return found


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=600, check=False)
    if not LINE.search(done.stdout):
        print(" ".join(command) + "\n" + done.stdout, file=sys.stderr)
    return done.stdout


def column(names, kind, title, plugin, args, build, columns):
    if plugin:
        path = "%s/ferry_%s_%s.so" % (os.path.join(build, "transports" if kind == "transport"
                                                   else "metadata_plugins"), kind, plugin)
    else:
        path = "%s/templates/ferry_%s_sample.so" % (build, kind)
        args = args or ["--uri", "sample://" + os.path.join(build, "tests")]
    if not os.path.exists(path):
        print("%s: not built" % title, file=sys.stderr)
        return
    if kind == "metadata" and len(args) == 1:
        args = ["--server", sys.executable, os.path.join(HERE, "servers.py")] + args
        if plugin == "http":
            args += [os.path.join(build, "tools/ferry"), "metadata-server"]
    print("%s %s ..." % (kind, title), file=sys.stderr)
    suite = os.path.join(build, "tests/conformance/suite/%s_conformance" % kind)
    columns.append((title, results(run([suite, path] + args), names)))


def table(names, columns):
    lines = ["| point | " + " | ".join(title for title, _ in columns) + " |",
             "|---|" + "---|" * len(columns)]
    for number in sorted(names):
        lines.append("| %d %s | " % (number, names[number]) + " | ".join(
            WORDS.get(found.get(number), "-") for _, found in columns) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build")
    parser.add_argument("--write", metavar="PAGE")
    parser.add_argument("--log", metavar="TITLE=FILE", action="append", default=[])
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    text, failed = "", False
    for kind, plugins in (("transport", TRANSPORTS), ("metadata", STORES)):
        names, columns = {}, []
        for title, plugin, args in plugins:
            column(names, kind, title, plugin, args, build, columns)
        for logged in options.log if kind == "transport" else []:
            title, _, file = logged.partition("=")
            with open(file, encoding="utf-8", errors="replace") as log:
                columns.append((title, results(log.read(), names)))
        failed = failed or any("FAIL" in found.values() for _, found in columns)
        text += table(names, columns) + "\n"
    if options.write:
        with open(options.write, encoding="utf-8") as page:
            old = page.read()
        begin, end = "<!-- matrix -->\n", "<!-- end of matrix -->\n"
        if begin not in old or end not in old:
            sys.exit("%s has no place for the matrix" % options.write)
        head, tail = old.split(begin)[0], old.split(end)[1]
        with open(options.write, "w", encoding="utf-8") as page:
            page.write(head + begin + text + end + tail)
    print(text, end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
