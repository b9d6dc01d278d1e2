# SPDX-License-Identifier: Apache-2.0
"""Stands for vllm.config: what MooncakePipe reads of it."""

from .kv_transfer import KVTransferConfig  # noqa: F401
