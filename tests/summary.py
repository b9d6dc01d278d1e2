#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what `./dev test` ran: summary.py LOGDIR

LOGDIR/stages has a line "pass|fail NAME" or "skip NAME REASON" (tab-separated) for each stage,
LOGDIR/FLAVOUR.json is meson's log of one build's tests. Prints the last words of each test that
failed, what failed, what could not run with its reason, and as the last line the two counts; exits
1 if anything failed or nothing ran.
A test that could not run exits 77 and prints why. One of which a part could not run says so in
lines "not run: NAME: REASON"; cmocka's "[  SKIPPED ] name" counts as such a line too.
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ET

PASSED = {"OK", "EXPECTEDFAIL"}
LAST_WORDS = 40  # lines
NOT_RUN = re.compile(r"^\s*not run: (.+)$", re.MULTILINE)
SKIPPED_CASE = re.compile(r"^\[  SKIPPED \] (?!\d+ test)(\S+)", re.MULTILINE)


def output_of(test):
    return (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")


def reason_of(test):
    """The line that says why a whole test did not run."""
    text = output_of(test)
    said = NOT_RUN.findall(text)
    if said:
        return said[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def last_words(label, test):
    """Once more at the end: the place where it failed is thousands of lines up."""
    lines = [line for line in output_of(test).splitlines() if line.strip()]
    print(f"== {label}, its last {min(len(lines), LAST_WORDS)} lines of {len(lines)}:")
    print("\n".join(lines[-LAST_WORDS:]))


def read_tests(path):
    """Meson writes one JSON object a line; a line cut short by a kill is a failure to count."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"name": "log of " + path.stem, "result": "ERROR", "stdout": line}


def main(directory):
    passed, failed, not_run = 0, [], []
    report = ET.Element("testsuites")

    stages = directory / "stages"
    for line in stages.read_text().splitlines() if stages.exists() else []:
        word, name, *rest = line.split("\t")
        if word == "pass":
            passed += 1
        elif word == "fail":
            failed.append(name)
        else:
            not_run.append(f"{name}: {' '.join(rest)}")

    for path in sorted(directory.glob("*.json")):
        suite = ET.SubElement(report, "testsuite", name=path.stem)
        for test in read_tests(path):
            name, result = test["name"], test["result"]
            label = f"{path.stem}: {name}"
            case = ET.SubElement(suite, "testcase", name=name,
                                 time=f"{test.get('duration', 0):.2f}")
            if result == "SKIP":
                reason = reason_of(test)
                not_run.append(f"{label}: {reason}")
                ET.SubElement(case, "skipped", message=reason)
                continue
            text = output_of(test)
            for said in NOT_RUN.findall(text):
                not_run.append(f"{label}: {said}")
            for said in dict.fromkeys(SKIPPED_CASE.findall(text)):
                not_run.append(f"{label}: {said}: skipped by the test")
            if result in PASSED:
                passed += 1
            else:
                last_words(label, test)
                code = test.get("returncode")
                failed.append(f"{label}: {result.lower()}, exit status {code}")
                ET.SubElement(case, "failure", message=result)

    ET.ElementTree(report).write(directory / "junit.xml", encoding="utf-8", xml_declaration=True)
    for line in failed:
        print("failed:", line)
    for line in not_run:
        print("not run:", line)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1])))
