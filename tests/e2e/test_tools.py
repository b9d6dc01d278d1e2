#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry bench` and `ferry plugins` as users see them: every row measured and verified, both ways
of starting it, the picture, and what is said where something is missing. No figure is judged:
that is for `./dev bench` on a quiet machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

from ferry_e2e import NotRun, build_dir, check, main
from ferry_node import MIB, Node

FERRY = build_dir() / "tools" / "ferry"
LITTLE = ["--bytes", "256k", "--reps", "1", "--region", "4m", "--memory", "32m"]


def rows_of(path):
    return json.loads(path.read_text())["rows"]


def every_shape_is_measured_and_verified(lab):
    out = lab.dir / "rows.json"
    text = lab.run([FERRY, "bench", "--local", "--protocol", "tcp", "--size", "1k,64k", "--batch", "1,33",
                    "--threads", "1,3", "--wait", "spin,block", "--stride", "2", "--verify", "--json", out,
                    *LITTLE], timeout=100)
    rows = rows_of(out)
    check(len(rows) == 2 * 2 * 2 * 2 * 2 * 2, len(rows))
    check(len({json.dumps([row[k] for k in ("op", "size", "batch", "threads", "wait", "memory")])
               for row in rows}) == len(rows), "rows repeat")
    for row in rows:
        check("error" not in row, row)
        check(row["verified"] is True and row["ferry"]["GBps"] > 0 and row["raw"]["GBps"] > 0, row)
        check(row["ferry"]["p50_us"] <= row["ferry"]["p99_us"], row)
        check(abs(row["ferry"]["ratio"] - row["ferry"]["GBps"] / row["raw"]["GBps"]) < 0.01, row)
    check(text.count("verified") == len(rows), text)
    check(re.search(r"congestion control: ferry (cubic|reno), raw (cubic|reno), system", text), text)


def two_configurations_side_by_side(lab):
    out = lab.dir / "rows.json"
    lab.run([FERRY, "bench", "--local", "--protocol", "tcp", "--size", "16k", "--batch", "8", "--hot",
             "--against", '{"tcp":{"engine":"epoll","dialect":"v2"}}', "--verify", "--json", out, *LITTLE])
    for row in rows_of(out):
        check(row["verified"] and row["other"]["GBps"] > 0 and row["other"]["ratio"] > 0, row)


def target_and_initiator_in_two_commands(lab):
    out = lab.dir / "rows.json"
    target = lab.start([FERRY, "bench", "target", "--name", "127.0.0.1:0", "--bind", "127.0.0.1",
                        "--protocol", "tcp", "--memory", "32m"], name="target")
    name = target.wait_for(r"target +(\S+) waits").group(1)
    lab.run([FERRY, "bench", "initiator", "--peer", name, "--name", "127.0.0.1:0", "--protocol", "tcp",
             "--size", "4k", "--latency", "--verify", "--json", out, *LITTLE])
    target.expect_exit(0, 10)
    check(len(rows_of(out)) == 4 and all(row["verified"] for row in rows_of(out)), rows_of(out))


def a_target_that_is_killed_fails_the_row(lab):
    target = lab.start([FERRY, "bench", "target", "--name", "127.0.0.1:0", "--protocol", "tcp",
                        "--memory", "32m"], name="target")
    name = target.wait_for(r"target +(\S+) waits").group(1)
    initiator = lab.start([FERRY, "bench", "initiator", "--peer", name, "--name", "127.0.0.1:0",
                           "--protocol", "tcp", "--size", "4k", "--batch", "1", "--op", "write", "--hot",
                           "--duration", "60", "--memory", "32m"], name="initiator")
    initiator.wait_for("^OP ")
    target.kill()
    initiator.expect_exit(1, 60)
    check("| failed: " in initiator.output(), initiator.output())


def an_interrupt_ends_a_turn_that_stands_still(lab):
    for threads, wait in (1, "spin"), (3, "block"):
        target = lab.start([FERRY, "bench", "target", "--name", "127.0.0.1:0", "--protocol", "tcp",
                            "--wait", wait, "--memory", "32m"], name="target")
        name = target.wait_for(r"target +(\S+) waits").group(1)
        initiator = lab.start([FERRY, "bench", "initiator", "--peer", name, "--name", "127.0.0.1:0",
                               "--protocol", "tcp", "--size", "4k", "--batch", "1", "--op", "write", "--hot",
                               "--threads", threads, "--wait", wait, "--bytes", "100g"], name="initiator")
        initiator.wait_for("^OP ")
        time.sleep(0.5)  # the first 100 GiB are the reference's
        target.pause()
        initiator.signal(signal.SIGINT)
        initiator.expect_exit(130, 5)
        check("| failed: interrupted" in initiator.output(), initiator.output())
        target.kill()


def an_interrupt_ends_the_wait_for_a_target(lab):
    def initiator(peer):
        return lab.start([FERRY, "bench", "initiator", "--peer", peer, "--name", "127.0.0.1:0", "--bind", "127.0.0.1",
                          "--protocol", "tcp", "--size", "4k", "--latency", *LITTLE], name="initiator")

    def ends_at_once(process):
        process.signal(signal.SIGINT)
        process.expect_exit(130, 5)
        check(process.output() == "", process.output())

    with socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = initiator(f"127.0.0.1:{silent.getsockname()[1]}")
        silent.settimeout(10)
        with silent.accept()[0]:
            ends_at_once(waiting)
    node = Node(lab)  # takes the greeting and knows no answer
    node.open()
    node.memory(64 * MIB)
    waiting = initiator(node.engine_name)
    node("next", timeout=10000)
    time.sleep(0.3)  # it waits for the answer
    ends_at_once(waiting)


def a_picture_is_drawn(lab):
    if not shutil.which("gnuplot"):
        raise NotRun("no program gnuplot")
    picture = lab.dir / "a picture.svg"
    command = [FERRY, "bench", "--local", "--protocol", "tcp", "--size", "4k", "--batch", "4", "--hot",
               "--plot", picture, *LITTLE]
    lab.run(command)
    check("write 4k x 4, 1 thread, spin, hot" in picture.read_text(), picture.read_text())
    empty = lab.dir / "empty"
    empty.mkdir()
    text = lab.run(command, status=1, env={"PATH": empty})
    check("--plot needs gnuplot" in text, text)


def wrong_words(lab):
    for words, message in [
            ([], "one of target, initiator and --local is needed"),
            (["target", "--local"], "one of target, initiator and --local is needed"),
            (["initiator"], "initiator needs --peer NAME"),
            (["--local", "--op", "wriet"], "--op: 'wriet' is none of write, read and write,read"),
            (["--local", "--size", "4k,x"], "'x' is not a size"),
            (["--local", "--size", "1g", "--batch", "2"], "the largest row needs a region of 2.00 GiB"),
            (["--local", "--stirde", "2"], "no option --stirde; did you mean --stride?")]:
        text = lab.run([FERRY, "bench", *words], status=2)
        check(message in text and text.count("\n") == 1, words, text)
    check("did you mean 'bench'?" in lab.run([FERRY, "bnech"], status=2))


def plugins_are_listed_and_refusals_explained(lab):
    found = json.loads(subprocess.run([FERRY, "plugins", "--json", "-"], check=True, capture_output=True,
                                      text=True).stdout)
    names = {(plugin["kind"], plugin["name"]) for plugin in found}
    check({("transport", "tcp"), ("metadata", "p2p")} <= names, names)
    text = lab.run([FERRY, "plugins"])
    check(re.search(r"^transport +tcp +\d+\.\d+\.\d+ +1\.\d", text, re.MULTILINE), text)
    junk = lab.dir / "plugins"
    junk.mkdir(mode=0o755)
    (junk / "ferry_transport_junk.so").write_bytes(b"not a library")
    text = lab.run([FERRY, "plugins"], status=1,
                   env={"FERRY_PLUGIN_PATH": f"{junk}:{os.environ['FERRY_PLUGIN_PATH']}"})
    check(re.search(r"^refused: .*ferry_transport_junk\.so: .+", text, re.MULTILINE), text)
    check(re.search(r"^transport +tcp", text, re.MULTILINE), text)


def help_manual_and_completion_agree(lab):
    overview = lab.run([FERRY, "--help"])
    commands = re.findall(r"^  (\S+)  ", overview, re.MULTILINE)
    check({"prefill", "decode", "bench", "plugins", "metadata-server"} <= set(commands), overview)
    manual = lab.run([FERRY, "help", "--man"]).replace("\\-", "-")
    completion = lab.dir / "ferry.bash"
    completion.write_text(lab.run([FERRY, "help", "--completion", "bash"]))
    for command in commands:
        text = lab.run([FERRY, command, "--help"])
        check(max(map(len, text.splitlines())) <= 100, "long lines in", command)
        for option in re.findall(r"^ +(?:-., )?(--[a-z-]+)", text, re.MULTILINE):
            if option != "--help":
                check(re.search(rf"{option}(?![a-z-])", manual), command, option)
            offered = lab.run(["bash", "-c", f". {completion}; COMP_WORDS=(ferry {command} {option[:4]}); "
                               "COMP_CWORD=2; _ferry; echo \"${COMPREPLY[@]}\""])
            check(option in offered.split(), command, option, offered)
    check(re.fullmatch(r"ferry (\d+\.\d+\.\d+) \(library \1\)\n", lab.run([FERRY, "--version"])))


main(every_shape_is_measured_and_verified,
     two_configurations_side_by_side,
     target_and_initiator_in_two_commands,
     a_target_that_is_killed_fails_the_row,
     an_interrupt_ends_a_turn_that_stands_still,
     an_interrupt_ends_the_wait_for_a_target,
     a_picture_is_drawn,
     wrong_words,
     plugins_are_listed_and_refusals_explained,
     help_manual_and_completion_agree)
