# SPDX-License-Identifier: Apache-2.0
"""A process with SGLang's MooncakeTransferEngine: sglang_node.py target | initiator SESSION ADDRESS

The target says its session and the address of its tensor, then answers each line of its input with
the sum of what is there. The initiator hands over what SGLang's prefill would, the tensor's rows as
blocks, and says "delivered"; at the next line the target is gone.
"""

import concurrent.futures
import sys

import mooncake.engine
import torch
from sglang.srt.distributed.device_communicators import mooncake_transfer_engine
from sglang.srt.distributed.device_communicators.mooncake_transfer_engine import MooncakeTransferEngine

ROWS, COLUMNS = 2048, 4096
ROW_LEN = COLUMNS * 2


def made():
    return torch.randn((ROWS, COLUMNS), generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)


def target(engine):
    there = torch.zeros((ROWS, COLUMNS), dtype=torch.bfloat16)
    half = ROWS // 2 * ROW_LEN
    assert engine.batch_register([there.data_ptr(), there.data_ptr() + half], [half, half]) == 0
    print(engine.get_session_id(), there.data_ptr())
    sys.stdin.readline()
    assert torch.equal(there, made())
    assert engine.batch_deregister([there.data_ptr(), there.data_ptr() + half]) == 0
    print("same")
    sys.stdin.readline()


def initiator(engine, session, address):
    here = made()
    engine.register(here.data_ptr(), ROWS * ROW_LEN)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(8)).tolist()

    def rows(numbers):
        offsets = [number * ROW_LEN for number in numbers]
        return engine.batch_transfer_sync(session, [here.data_ptr() + offset for offset in offsets],
                                          [address + offset for offset in offsets], [ROW_LEN] * len(offsets))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # as SGLang's transfer workers
        assert set(pool.map(rows, (order[i:i + 100] for i in range(0, ROWS - 1, 100)))) == {0}
    assert engine.transfer_sync(session, here.data_ptr(), address, ROW_LEN) == 0
    assert engine.send_probe(session) == 0
    assert engine.get_engine() is not None
    for _ in range(20):  # embeddings come and go
        one = torch.ones(1 << 16)
        engine.register(one.data_ptr(), 4 << 16)
        engine.deregister(one.data_ptr())
    print("delivered")
    sys.stdin.readline()
    assert rows(order[:10]) < 0
    assert engine.transfer_sync(session, here.data_ptr(), address, ROW_LEN) < 0
    assert engine.send_probe(session) != 0
    engine.deregister(here.data_ptr())
    print("done")


def main():
    print(mooncake.engine.__file__, mooncake_transfer_engine.__file__)
    engine = MooncakeTransferEngine("127.0.0.1", 0, None)
    if sys.argv[1] == "target":
        target(engine)
    else:
        initiator(engine, sys.argv[2], int(sys.argv[3]))


main()
