# SPDX-License-Identifier: Apache-2.0
"""Whether a suite catches its mutants; the tables of them are in mutants.py and metadata_mutants.py."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def judge(suite, job):
    """job: (mutant, plugin, point, what the report's line of it must say, options); with None for the
    last two but one everything must pass. Whether it is so, in words, and what the suite wrote."""
    name, plugin, point, says, options = job
    only = [] if point is None else ["--only", str(point)]
    done = subprocess.run([suite, plugin] + only + options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=200, check=False)
    if says is None:
        return done.returncode == 0, name + " passes", done.stdout
    line = re.search(r"^%2d \S+ +FAIL.*" % point, done.stdout, re.M)
    good = done.returncode == 1 and line and re.search(says, line.group())
    return good, "%s is caught at point %d" % (name, point), done.stdout


def judge_all(suite, jobs, at_once):
    """Prints TAP. The exit status of the program."""
    print("1..%d" % len(jobs), flush=True)
    bad = 0
    with ThreadPoolExecutor(at_once) as pool:
        for number, (good, what, out) in enumerate(pool.map(lambda job: judge(suite, job), jobs), 1):
            bad += not good
            print("%sok %d - %s" % ("" if good else "not ", number, what))
            if not good:
                for line in out.splitlines():
                    print("# " + line)
            sys.stdout.flush()
    return 1 if bad else 0
