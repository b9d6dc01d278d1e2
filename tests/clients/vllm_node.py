# SPDX-License-Identifier: Apache-2.0
"""One of two processes with vLLM's MooncakePipe and SimpleBuffer: vllm_node.py RANK [LARGE]

Rank 0 makes KV cache and rank 1 selects it, as vLLM's SimpleConnector has them. Both make the same
tensors of the same seeds, so each can compare every bit. LARGE is the MiB of one more tensor.
"""

import sys

import mooncake.engine
import torch
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_lookup_buffer import simple_buffer
from vllm.distributed.kv_transfer.kv_pipe import mooncake_pipe

RANK = int(sys.argv[1])
LARGE = int(sys.argv[2]) if len(sys.argv) > 2 else 0
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
REQUESTS = 6


def tensor(shape, dtype, seed):
    made = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=made).to(dtype)
    return torch.randint(0, 200, shape, generator=made).to(dtype)


def plain_tensors():
    shapes = ((1,), (7, 3), (2, 128, 64), (4, 1024, 256))
    found = [tensor(shape, dtype, i) for i, (shape, dtype) in
             enumerate((shape, dtype) for shape in shapes for dtype in TYPES)]
    if LARGE:
        found.append(tensor((LARGE << 18,), torch.float32, 99))
    return found


def same(one, other):
    return one is not None and one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def request(number):
    """(tokens, roi, key, value, hidden) of a model with 4 layers."""
    n = 64 + 16 * number
    tokens = tensor((n,), torch.int64, 1000 + number) + 1000 * number
    return (tokens, torch.ones(n, dtype=torch.bool), tensor((4, n, 8, 64), torch.bfloat16, 2000 + number),
            tensor((4, n, 8, 64), torch.bfloat16, 3000 + number), tensor((n, 512), torch.float16, 4000 + number))


def send_all(pipe):
    for item in plain_tensors():
        pipe.send_tensor(item)
    pipe.send_tensor(None)


def receive_all(pipe):
    for i, item in enumerate(plain_tensors()):
        assert same(pipe.recv_tensor(), item), f"tensor {i} differs"
    assert pipe.recv_tensor() is None


def main():
    for module in (mooncake.engine, mooncake_pipe, simple_buffer):
        print(module.__file__)
    pipe = mooncake_pipe.MooncakePipe(0, KVTransferConfig(kv_rank=RANK, kv_buffer_device="cpu"))
    (send_all, receive_all)[RANK](pipe)
    (receive_all, send_all)[RANK](pipe)

    buffer = simple_buffer.SimpleBuffer(pipe, pipe, 1e9)
    if RANK == 0:
        for number in range(REQUESTS):
            buffer.insert(*request(number))
    else:
        for number in (3, 0, 5, 1, 4, 2):
            tokens, roi, *rest = request(number)
            for got, sent in zip(buffer.drop_select(tokens, roi), (tokens, roi, *rest)):
                assert same(got, sent), f"request {number} differs"
    buffer.close()
    pipe.transport_thread.shutdown()
    pipe.transfer_engine.buffer_cleaner.shutdown()  # every acknowledgement has come
    pipe.close()
    print("done")


main()
