# SPDX-License-Identifier: Apache-2.0
"""Stands for vllm.logger."""

import logging


def init_logger(name):
    return logging.getLogger(name)
