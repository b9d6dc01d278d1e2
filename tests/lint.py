#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The house's rules that a program can check; each finding is one line FILE:LINE: RULE.

Who may name or include whom is checked by tests/lint/core_names_no_plugin.sh.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LINES = 850
PLUGIN_DIRS = ("transports/", "metadata_plugins/", "memory_plugins/")
LIBRARY_DIRS = ("core/",) + PLUGIN_DIRS

COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def blank(match):
    """Comments go, strings stay, line numbers are kept."""
    text = match.group(0)
    return text if text[0] == '"' else re.sub(r"[^\n]", " ", text)


def blank_strings(code):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', code)


FORBIDDEN_IN_LIBRARIES = [
    (re.compile(r"(?<![\w.>])(printf|puts|putchar|perror|vprintf)\s*\("), "libraries print nothing"),
    (re.compile(r"(?<![\w.>])v?fprintf\s*\(\s*std(out|err)"), "libraries print nothing"),
    (re.compile(r"(?<![\w.>])(exit|_exit|abort|quick_exit|atexit)\s*\("), "libraries never end the process"),
    (re.compile(r"(?<![\w.>])(signal|sigaction)\s*\("), "libraries install no signal handlers"),
    (re.compile(r"__attribute__\s*\(\(\s*(constructor|destructor)"), "no constructors"),
    (re.compile(r"(?<![\w.>])(strcat|sprintf|vsprintf|gets|alloca|strtok)\s*\("), "unbounded or unsafe call"),
]
CALLS = [
    (re.compile(r"(?<![\w.>])(socket|accept4|socketpair)\s*\("), "CLOEXEC", "file descriptors are close-on-exec"),
    (re.compile(r"(?<![\w.>])(send|sendmsg|sendto)\s*\("), "MSG_NOSIGNAL", "sends carry MSG_NOSIGNAL"),
]
# Two words nobody may leave behind; written so that this file does not hold them.
LEFTOVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def files():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                         capture_output=True).stdout
    return sorted(name for name in out.decode().split("\0") if name and (ROOT / name).is_file())


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def call_arguments(code, start):
    depth = 0
    for i in range(start, min(len(code), start + 600)):
        depth += {"(": 1, ")": -1}.get(code[i], 0)
        if depth == 0 and code[i] == ")":
            return code[start:i]
    return code[start:start + 600]


def check_c(name, text, report):
    if not text.startswith("/* SPDX-License-Identifier: Apache-2.0 */"):
        report(1, "the first line is the SPDX line")
    lines = text.count("\n")
    if lines > MAX_LINES:
        report(lines, f"{lines} lines: a file above about 800 is two files")
    code = COMMENT.sub(blank, text)
    bare = blank_strings(code)

    if name.endswith(".c") and "/" in name and not name.startswith("tests/"):
        second = text.split("\n", 2)[1] if lines > 1 else ""
        if not second.lstrip().startswith("/*"):
            report(2, "a .c file opens with what it is for and what it must not know")
    if name.endswith(".h") and not re.search(r"#ifndef (\w+_H)\n#define \1\n", text):
        report(2, "include guard")

    if name.startswith(LIBRARY_DIRS):
        for pattern, rule in FORBIDDEN_IN_LIBRARIES:
            for match in pattern.finditer(bare):
                report(line_of(bare, match.start()), f"{rule}: {match.group(0).strip()}")
        for pattern, wanted, rule in CALLS:
            for match in pattern.finditer(bare):
                if wanted not in call_arguments(bare, match.end() - 1):
                    report(line_of(bare, match.start()), rule)


def main():
    found = 0
    for name in files():
        try:
            text = (ROOT / name).read_bytes().decode()
        except UnicodeDecodeError:
            continue

        def report(line, rule):
            nonlocal found
            found += 1
            print(f"{name}:{line}: {rule}")

        plain = not name.startswith(("tests/fuzz/seeds/", "tests/data/"))
        if name.endswith((".c", ".h")):
            check_c(name, text, report)
        first = text.split("\n", 2)[:2]
        if plain and (name.endswith((".py", ".sh")) or text.startswith("#!")) and not any("SPDX" in line for line in first):
            report(1, "the SPDX line stands at the top")
        if plain and text and not name.endswith((".patch", ".svg")):
            if not text.endswith("\n"):
                report(text.count("\n") + 1, "no line feed at the end")
            for number, line in enumerate(text.split("\n"), 1):
                if line != line.rstrip() and not name.endswith(".md"):
                    report(number, "white space at the end of the line")
                if LEFTOVER.search(line):
                    report(number, "nothing is left to be done later: " + line.strip()[:60])
    print(f"{found} findings" if found else "no findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
