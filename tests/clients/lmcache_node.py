# SPDX-License-Identifier: Apache-2.0
"""A process with LMCache's context of type "mooncake_te": lmcache_node.py OWN_URL [PEER_URL]

Without a peer it fills its cache and waits for a line. With one it reads the peer's cache into its
own, says "read", and at the next line the peer is gone.
"""

import sys
import time

import mooncake.engine
import torch
from lmcache.v1.distributed.internal_api import L1MemoryDesc
from lmcache.v1.distributed.transfer_channel import factory
from lmcache.v1.distributed.transfer_channel.impl import mooncake_te_impl

OBJECTS, OBJECT_LEN = 1500, 32768


def made():
    return torch.randint(0, 256, (OBJECTS, OBJECT_LEN), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def read(context, client, pairs):
    """Which of the (ours, theirs) were read."""
    ours = context.get_transfer_channel_address([(here * OBJECT_LEN, OBJECT_LEN) for here, _ in pairs])
    theirs = context.get_transfer_channel_address([(there * OBJECT_LEN, OBJECT_LEN) for _, there in pairs])
    task = client.submit_read(ours, theirs)
    until = time.monotonic() + 60
    while not (result := client.query_read_status(task)).is_finished():
        assert time.monotonic() < until
    return result.succeeded_mask


def main():
    print(mooncake.engine.__file__, mooncake_te_impl.__file__)
    cache = made() if len(sys.argv) == 2 else torch.zeros((OBJECTS, OBJECT_LEN), dtype=torch.uint8)
    context = factory.create_transfer_channel_context(
        "mooncake_te", l1_memory_desc=L1MemoryDesc(cache.data_ptr(), OBJECTS * OBJECT_LEN, 4096), listen_url=sys.argv[1],
        advertise_url=sys.argv[1])
    if len(sys.argv) == 2:
        print("ready")
        sys.stdin.readline()
        return
    client = context.get_transfer_channel_client(sys.argv[2])
    order = torch.randperm(OBJECTS, generator=torch.Generator().manual_seed(6)).tolist()
    assert read(context, client, [(0, order[0])]) == [True]
    assert all(read(context, client, list(enumerate(order))))
    assert torch.equal(cache, made()[order])
    print("read")
    sys.stdin.readline()
    before = cache.clone()
    try:
        got = read(context, client, list(enumerate(reversed(order))))
    except RuntimeError as error:  # already at submission
        assert "Failed to submit" in str(error), error
    else:
        assert not any(got)
        assert torch.equal(cache, before)
    context.close()
    print("done")


main()
