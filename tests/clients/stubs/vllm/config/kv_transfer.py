# SPDX-License-Identifier: Apache-2.0
"""Stands for vllm.config.kv_transfer: what MooncakePipe reads of it."""

import dataclasses


@dataclasses.dataclass
class KVTransferConfig:
    kv_rank: int
    kv_buffer_device: str = "cuda"
