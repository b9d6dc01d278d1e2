#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes down the ABI as include/ferry/*.h have it now: freeze.py 1_0

Run once for a release (and never again for it): abi_1_0.h holds a copy of every struct,
abi_1_0.inc every member, number, text and function. test_abi.c compares later headers to them.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*', re.DOTALL)
STRUCT = re.compile(r"^struct (ferry_\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
ENUM = re.compile(r"^enum (?:\w+ )?\{(.*?)\};", re.DOTALL | re.MULTILINE)
MACRO = re.compile(r"^#define (FERRY_\w+)[ \t]+(\S.*)$", re.MULTILINE)
FUNCTION = re.compile(r"^FERRY_API ([^;]*?)(ferry_\w+)(\([^;]*\));", re.DOTALL | re.MULTILINE)


def members(body):
    body = re.sub(r"^#.*$", "", body, flags=re.MULTILINE)
    depth, start = 0, 0
    for i, c in enumerate(body):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if c == ";" and depth == 0:
            declaration, start = body[start:i].strip(), i + 1
            pointer = re.search(r"\(\*\s*(\w+)\)\(", declaration)
            if pointer:
                yield pointer[1]
            else:
                for declarator in declaration.split(","):
                    yield re.search(r"(\w+)\s*(\[[^]]*\])?$", declarator)[1]


def numbers(names):
    """What the compiler makes of them."""
    source = "".join(f'#include "ferry/{h.name}"\n' for h in sorted((INCLUDE / "ferry").glob("*.h")))
    source += '#include <stdio.h>\nint main(void)\n{\n'
    source += "".join(f'    printf("%lld\\n", (long long)({name}));\n' for name in names) + "    return 0;\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "numbers"
        subprocess.run(["cc", "-I", INCLUDE, "-x", "c", "-", "-o", path], input=source.encode(), check=True)
        return subprocess.run([path], check=True, capture_output=True, text=True).stdout.split()


def main(version):
    tag = "abi" + version.replace("_", "")
    structs, lines, names, texts, functions, headers = [], [], [], [], [], []
    for header in sorted((INCLUDE / "ferry").glob("*.h")):
        code = COMMENT.sub("", header.read_text())
        code = re.sub(r"[ \t]+$", "", code, flags=re.MULTILINE)
        code = re.sub(r"[ \t]*\\\n\s*", " ", code)
        headers.append(f'#include "ferry/{header.name}"\n')
        for name, body in STRUCT.findall(code):
            short = name.removeprefix("ferry_")
            body = re.sub(r"\n{2,}", "\n", body)
            structs.append(f"struct {tag}_{short} {{\n{body}}};\n\n")
            first = next(members(body))
            growable = "GROWS" if first == "size" or (first == "hdr") else "FROZEN"
            lines.append(f"ABI_STRUCT({short}, {growable})\n")
            lines += [f"ABI_MEMBER({short}, {member})\n" for member in members(body)]
        for body in ENUM.findall(code):
            names += re.findall(r"\bFERRY_\w+(?=\s*(?:=|,|$|\}))", body + ",")
        for name, value in MACRO.findall(code):
            if value.startswith('"'):
                texts.append(f"ABI_TEXT({name}, {value.strip()})\n")
            elif not name.endswith(("_H", "_ABI_MINOR")) and not value.startswith("__attribute__"):
                names.append(name)
        functions += [f"ABI_FUNCTION({name}, {' '.join(result.split())}, {' '.join(args.split())})\n"
                      for result, name, args in FUNCTION.findall(code)]
    names = list(dict.fromkeys(names))
    values = [f"ABI_NUMBER({name}, {value}LL)\n" for name, value in zip(names, numbers(names))]
    note = "/* SPDX-License-Identifier: Apache-2.0 */\n"
    guard = f"ABI_{version}_H"
    (HERE / f"abi_{version}.h").write_text(
        f"{note}#ifndef {guard}\n#define {guard}\n\n"
        f"/* The public structs as they were in ABI {version.replace('_', '.')}. Never changed (freeze.py). */\n"
        + "".join(headers) + "\n" + "".join(structs) + f"#endif /* {guard} */\n")
    (HERE / f"abi_{version}.inc").write_text(
        f"{note}/* ABI {version.replace('_', '.')}: never changed (freeze.py). */\n"
        + "".join(lines + values + texts + functions))
    subprocess.run(["clang-format-14", "-i", HERE / f"abi_{version}.h"], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
