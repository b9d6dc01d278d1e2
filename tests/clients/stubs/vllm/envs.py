# SPDX-License-Identifier: Apache-2.0
"""Stands for vllm.envs, of which network_utils needs the name alone."""
