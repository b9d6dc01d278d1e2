#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The main job: `ferry prefill` hands the KV cache of a trace over to `ferry decode`, over tcp.
The tests make the trace, so that they know how many blocks must be sent and how many not; and
they damage memory, kill, stop and refuse, so that they know that it would be noticed."""

import json
import random
import re
import signal
import time

from ferry_e2e import Failure, NotRun, build_dir, check, main, wait_until
from ferry_node import Node

FERRY = build_dir() / "tools" / "ferry"
LAYERS, KV_HEADS, HEAD_DIM, DTYPE, TOKENS = 4, 2, 32, 2, 16
MODEL = f"layers={LAYERS},kv_heads={KV_HEADS},head_dim={HEAD_DIM},dtype={DTYPE}"
PIECE = TOKENS * KV_HEADS * HEAD_DIM * DTYPE
BLOCK = 2 * LAYERS * PIECE


def write_trace(path, n, seed, gap_ms=0):
    """Requests as in Mooncake's traces: conversations that grow behind a common prompt. Returns
    the requests as (tokens, hashes)."""
    rng = random.Random(seed)
    requests, talks, next_hash = [], [[0] for _ in range(5)], 1
    with open(path, "w") as file:
        for i in range(n):
            talk = rng.choice(talks)
            for _ in range(rng.randint(1, 3)):
                talk.append(next_hash)
                next_hash += 1
            hashes = list(talk)
            tokens = (len(hashes) - 1) * 512 + rng.randint(1, 512)
            requests.append((tokens, hashes))
            file.write(json.dumps({"timestamp": i * gap_ms, "input_length": tokens,
                                   "output_length": rng.randint(1, 500), "hash_ids": hashes}) + "\n")
            if len(talk) > 12:
                del talk[1:]
            elif tokens % 512:
                talk.pop()  # the next turn fills that block up: another hash
    return requests


def blocks_of(requests):
    """Every block of every request, by its name: (hash, place in it)."""
    blocks = []
    for tokens, hashes in requests:
        n = (len(hashes) - 1) * (512 // TOKENS) + -(-((tokens - 1) % 512 + 1) // TOKENS)
        blocks.append([(hashes[i * TOKENS // 512], i % (512 // TOKENS)) for i in range(n)])
    return blocks


class Job:
    """A configuration, a trace and the two commands."""

    def __init__(self, lab, n=50, gap_ms=0, metadata_server="P2PHANDSHAKE", **members):
        self.lab = lab
        self.prefill_name, self.decode_name = lab.two_names()
        self.config = lab.dir / "mooncake.json"
        self.transport = members.get("protocol", "tcp")
        self.config.write_text(json.dumps({
            "prefill_url": self.prefill_name, "decode_url": self.decode_name,
            "metadata_server": metadata_server, "protocol": "tcp", "device_name": "", **members}))
        self.trace = lab.dir / "trace.jsonl"
        self.requests = write_trace(self.trace, n, seed=n + gap_ms, gap_ms=gap_ms)
        self.blocks = blocks_of(self.requests)

    def decode(self, *options, memory="64m"):
        process = self.lab.start([FERRY, "decode", "--config", self.config, "--memory", memory,
                                  "--json", self.lab.dir / "decode.json", *options], name="decode")
        process.wait_for("waits for a prefill node")
        return process

    def prefill(self, *options, memory="64m"):
        return self.lab.start([FERRY, "prefill", "--config", self.config, "--trace", self.trace,
                               "--model", MODEL, "--scale", "1/1", "--memory", memory,
                               "--json", self.lab.dir / "prefill.json", *options], name="prefill")

    def results(self):
        return [json.loads((self.lab.dir / f"{side}.json").read_text()) for side in ("prefill", "decode")]

    def expect(self, mode, everything_fits):
        prefill, decode = self.results()
        total = sum(map(len, self.blocks))
        distinct = len({block for request in self.blocks for block in request})
        for side in (prefill, decode):
            check(side["mode"] == mode, side)
            check(side["requests"] == len(self.requests), side)
            check(side["tokens"] == sum(tokens for tokens, _ in self.requests), side)
            check(side["blocks_bad"] == 0, side)
            check(side["bytes"] == side["blocks_verified"] * BLOCK, side)
        check(prefill["transports"] == self.transport, prefill["transports"])
        check(prefill["blocks_sent"] == decode["blocks_verified"], prefill, decode)
        check(prefill["blocks_sent"] + prefill["blocks_reused"] == total, prefill, total)
        check(prefill["blocks_reused"] == decode["blocks_reused"], prefill, decode)
        check(prefill["handover_p50_ms"] > 0 and prefill["transfer_GBps"] > 0, prefill)
        if everything_fits:
            check(prefill["blocks_sent"] == distinct, prefill["blocks_sent"], distinct)
            check(decode["blocks_looked_at_again"] == distinct, decode)
        else:
            check(prefill["blocks_sent"] > distinct, "nothing was evicted", prefill)


def hand_over(lab, mode, everything_fits, decode_options=(), **keywords):
    job = Job(lab, **keywords)
    memory = "64m" if everything_fits else "7m"  # a little more than the largest request
    decode = job.decode("--verify=full", *decode_options, memory=memory)
    prefill = job.prefill(f"--{mode}", memory=memory)
    prefill.expect_exit(0, 60)
    decode.expect_exit(0, 10)
    check("every block verified" in prefill.output(), prefill.output())
    check("every block verified" in decode.output(), decode.output())
    job.expect(mode, everything_fits)


def push_sends_each_block_once(lab):
    hand_over(lab, "push", True)


def pull_fetches_each_block_once(lab):
    hand_over(lab, "pull", True, decode_options=["--pull"])


def push_over_shm(lab):
    hand_over(lab, "push", True, protocol="shm", ferry={"shm": {"mode": "map"}})  # fails where it is not mapped


def pull_over_shm_with_a_cache_that_is_too_small(lab):
    hand_over(lab, "pull", False, decode_options=["--pull"], protocol="shm")


def push_over_libfabric(lab):
    if not (build_dir() / "transports/ferry_transport_libfabric.so").exists():
        raise NotRun("built without libfabric")
    hand_over(lab, "push", True, protocol="libfabric")


def push_with_a_cache_that_is_too_small(lab):
    hand_over(lab, "push", False)


def pull_with_a_cache_that_is_too_small(lab):
    hand_over(lab, "pull", False)


def over_a_metadata_server(lab):
    server = lab.start([FERRY, "metadata-server", "--host", "127.0.0.1", "--port", "0"], name="server")
    url = server.wait_for(r"listening on (\S+)").group(1)
    hand_over(lab, "push", True, n=20, metadata_server=url)


def prefill_may_come_first(lab):
    job = Job(lab, n=10)
    prefill = job.prefill("--synthetic", "1", "--wait", "20")
    prefill.expect_exit(2)  # a trace and a synthetic one
    prefill = job.prefill("--wait", "20")
    time.sleep(0.5)
    decode = job.decode()
    prefill.expect_exit(0)
    decode.expect_exit(0)
    job.expect("push", True)


def the_model_of_the_readme_at_a_scale_that_fits(lab):
    job = Job(lab, n=1)
    decode = job.decode(memory="128m")
    prefill = lab.start([FERRY, "prefill", "--config", job.config, "--synthetic", "10", "--memory", "128m"],
                        name="prefill")
    prefill.expect_exit(0, 60)
    decode.expect_exit(0)
    check(re.search(r"28 layers, 4 KV heads of 128", prefill.output()), prefill.output())
    check(re.search(r"tokens scaled to 1/\d+ so that they fit", prefill.output()), prefill.output())


# ---- accidents -----------------------------------------------------------------------------


def cache_address(process):
    """Of a decode or prefill process that was started with --log info."""
    return int(process.wait_for(r"info: cache of \d+ bytes at (0x[0-9a-f]+)").group(1), 16)


def flip(process, offset):
    with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(cache_address(process) + offset)
        byte = memory.read(1)[0]
        memory.seek(cache_address(process) + offset)
        memory.write(bytes([byte ^ 4]))


def a_byte_that_changes_later_is_found(lab):
    """As a late or stray write would do it: the last look at the cache."""
    job = Job(lab, n=20, gap_ms=100)
    decode = job.decode("--log", "info")
    prefill = job.prefill("--speed", "1")

    def filled():
        """A place in the first layer's keys that a block has come to; slots are taken in no order."""
        with open(f"/proc/{decode.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(cache_address(decode))
            data = memory.read(1 << 20)
        return [at for at in range(0, len(data), PIECE) if any(data[at:at + 64])]

    offset = wait_until(filled, 20, "a block")[0]
    time.sleep(0.5)  # it has been verified by now
    flip(decode, offset + 33)
    decode.expect_exit(1, 30)
    prefill.expect_exit(1, 10)
    check("changed after it was verified" in decode.output(), decode.output())
    check("FAILED" in prefill.output(), prefill.output())
    check(job.results()[1]["blocks_changed"] == 1, job.results())


def a_byte_that_changes_before_it_is_sent_is_found(lab):
    """Prefill's cache is damaged behind its back, so that what arrives is not what its checksum
    says."""
    job = Job(lab, n=30, gap_ms=100)
    decode = job.decode("--verify=full", memory="8m")
    prefill = job.prefill("--speed", "1", "--inflight", "1", "--log", "info")
    end = time.monotonic() + 20
    while prefill.alive() and time.monotonic() < end:
        for offset in range(0, 60 << 20, PIECE * 64):
            try:
                flip(prefill, offset)
            except (OSError, Failure, IndexError):  # it has ended
                break
        time.sleep(0.05)
    prefill.expect_exit(1, 10)
    decode.expect_exit(1, 10)
    check(re.search(r"request \d+: \d+ blocks bad: block \d+ in slot \d+: wrong from byte \d+ of the "
                    r"(keys|values) of layer \d", decode.output()), decode.output())
    check(job.results()[0]["blocks_bad"] > 0, job.results())


def lost(lab, victim, how, patience):
    job = Job(lab, n=200, gap_ms=50)
    decode = job.decode("--peer-timeout", "3")
    prefill = job.prefill("--speed", "1", "--peer-timeout", "3")
    decode.wait_for("cache")
    time.sleep(1)
    check(prefill.alive() and decode.alive(), "over before the accident")
    broken, survivor = (prefill, decode) if victim == "prefill" else (decode, prefill)
    began = time.monotonic()
    getattr(broken, how)()
    survivor.expect_exit(3, patience)
    print(f"    {how} of {victim} noticed after {time.monotonic() - began:.1f} s: "
          f"{survivor.output().strip().splitlines()[-1]}")
    name = job.prefill_name if victim == "prefill" else job.decode_name
    check(re.search(rf"lost {re.escape(name)} while .+: .+", survivor.output()), survivor.output())


def decode_is_killed(lab):
    lost(lab, "decode", "kill", 10)


def decode_is_stopped(lab):
    lost(lab, "decode", "pause", 15)


def prefill_is_killed(lab):
    lost(lab, "prefill", "kill", 10)


def prefill_is_stopped(lab):
    lost(lab, "prefill", "pause", 15)


def an_interrupt_ends_both_sides(lab):
    job = Job(lab, n=200, gap_ms=50)
    decode = job.decode()
    prefill = job.prefill("--speed", "1")
    decode.wait_for("cache")
    time.sleep(0.5)
    prefill.signal(signal.SIGINT)
    prefill.expect_exit(130, 10)
    decode.expect_exit(3, 10)
    check(f"{job.prefill_name} gave up: interrupted" in decode.output(), decode.output())


def nobody_is_there(lab):
    job = Job(lab, n=1)
    prefill = job.prefill("--wait", "1")
    prefill.expect_exit(3, 10)
    check(f"no peer {job.decode_name}" in prefill.output(), prefill.output())
    decode = job.decode("--wait", "1")
    decode.expect_exit(3, 10)
    check("no prefill node came within 1 s" in decode.output(), decode.output())


def a_request_that_does_not_fit_is_refused_and_the_next_is_served(lab):
    job = Job(lab, n=30)
    decode = job.decode("--push", memory="1m")
    prefill = job.prefill()
    prefill.expect_exit(3, 10)
    check(re.search(r"refuses: its largest request takes \d+ blocks, the cache here holds \d+",
                    prefill.output()), prefill.output())
    prefill = job.prefill("--limit", "1", "--pull", "--scale", "1/16")
    prefill.expect_exit(3, 10)
    check("decode was told to be written to" in prefill.output(), prefill.output())
    check(decode.alive(), "decode did not go on")
    prefill = job.prefill("--limit", "1", "--scale", "1/32")
    prefill.expect_exit(0, 10)
    decode.expect_exit(0, 10)


def sent_before_it_was_granted_ends_decode(lab):
    """A prefill node that is wrong. It is stopped while the only worker has a grant for it, so that the next
    grant has to wait; another node says the rest in its name."""
    job = Job(lab, n=1)
    decode = job.decode("--inflight", "1")
    prefill, other = (Node(lab, name) for name in ("prefill", "other"))
    model = {"name": "m", "layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "dtype": DTYPE}

    def say(node, kind, request=0, text="", **more):
        message = {"v": 1, "type": kind, "session": "5", "request": f"{request:x}", "text": text, **more}
        node("notify", segment=node.segment(job.decode_name), name="ferry.kv",
             message=json.dumps(message, separators=(",", ":")))

    for node in prefill, other:
        node.open()
    say(prefill, "hello", model=model, block_tokens=TOKENS, slots=16, base="0", pull=False, requests=2, most_blocks=1)
    check('"type":"welcome"' in prefill("next", timeout=10000)["message"], "no welcome")
    prefill.process.pause()
    for request in 1, 2:
        say(other, "offer", request, tokens=TOKENS, n=1, keys=f"{request:016x}")
    say(other, "sent", 2, text="failed", n=1, sums="0" * 16)
    prefill.process.resume()
    decode.expect_exit(3, 10)
    check("sent request 2 out of turn" in decode.output(), decode.output())


def wrong_words_are_refused_in_one_line(lab):
    job = Job(lab, n=2)
    for words, message in [
            (["--trcae", "x"], "no option --trcae; did you mean --trace?"),
            (["--model", "gpt-9"], "no model 'gpt-9'; there are qwen2.5-7b"),
            (["--block-tokens", "24"], "24 tokens a block: not a power of two"),
            (["--scale", "1/3"], "scale 1/3: the divisor is a power of two"),
            (["--trace", lab.dir / "none"], "No such file"),
            (["--push", "--pull"], "--push and --pull exclude each other"),
            (["--inflight", "65"], "--inflight: 65 is outside 1 to 64")]:
        process = job.prefill(*words)
        process.expect_exit(2)
        check(message in process.output(), words, process.output())
        check(process.output().startswith("ferry prefill: ") and process.output().count("\n") == 1,
              process.output())


main(push_sends_each_block_once,
     pull_fetches_each_block_once,
     push_over_shm,
     pull_over_shm_with_a_cache_that_is_too_small,
     push_over_libfabric,
     push_with_a_cache_that_is_too_small,
     pull_with_a_cache_that_is_too_small,
     over_a_metadata_server,
     prefill_may_come_first,
     the_model_of_the_readme_at_a_scale_that_fits,
     a_byte_that_changes_later_is_found,
     a_byte_that_changes_before_it_is_sent_is_found,
     decode_is_killed,
     decode_is_stopped,
     prefill_is_killed,
     prefill_is_stopped,
     an_interrupt_ends_both_sides,
     nobody_is_there,
     a_request_that_does_not_fit_is_refused_and_the_next_is_served,
     sent_before_it_was_granted_ends_decode,
     wrong_words_are_refused_in_one_line)
