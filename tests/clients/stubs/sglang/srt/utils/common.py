# SPDX-License-Identifier: Apache-2.0
"""Stands for sglang.srt.utils.common."""

import concurrent.futures


def run_with_deadline(fn, *, timeout_s, what):
    """On a thread of its own, as SGLang has it: an engine is made there and used elsewhere."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return pool.submit(fn).result(timeout_s)
    finally:
        pool.shutdown(wait=False)
