# SPDX-License-Identifier: Apache-2.0
"""The module that vLLM up to 0.8.4 imports, on Ferry: mooncake.engine by its old names."""

from __future__ import annotations

from typing import Any, Union

from mooncake.engine import READ, WRITE, TransferEngine, TransferOpcode


class mooncake_vllm_adaptor:
    """Mooncake's old class. Addresses are integers; 0 and negative results are failures."""

    TransferOpcode = TransferOpcode

    def __init__(self) -> None:
        self._engine = TransferEngine()

    def initialize(self, local_hostname: str, metadata_server: str, protocol: str, device_name: str, /) -> int:
        """0, or -1."""
        return self._engine.initialize(local_hostname, metadata_server, protocol, device_name)

    def initializeExt(self, local_hostname: str, metadata_server: str, protocol: str, device_name: str,
                      metadata_type: str, /) -> int:
        """0, or -1; `metadata_type` is the scheme of a metadata server that has none."""
        return self._engine.initialize_ext(local_hostname, metadata_server, protocol, device_name, metadata_type)

    def allocateManagedBuffer(self, length: int) -> int:
        """The address of registered memory, or 0."""
        return self._engine.allocate_managed_buffer(length)

    def freeManagedBuffer(self, buffer: int, length: int) -> int:
        """0, or -1."""
        return self._engine.free_managed_buffer(buffer, length)

    def transferSync(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int) -> int:
        """The peer's memory to ours: 0, or -1."""
        return self._engine.transfer_sync_read(target_hostname, buffer, peer_buffer_address, length)

    def transferSyncExt(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                        opcode: TransferOpcode) -> int:
        """Either way: 0, or -1."""
        return self._engine.transfer_sync(target_hostname, buffer, peer_buffer_address, length, opcode)

    def writeBytesToBuffer(self, buffer: int, user_data: Union[str, bytes], length: int) -> int:
        """0, or -1."""
        return self._engine.write_bytes_to_buffer(buffer, user_data, length)

    def readBytesFromBuffer(self, buffer: int, length: int) -> bytes:
        """The bytes at the address."""
        return self._engine.read_bytes_from_buffer(buffer, length)

    def getFirstBufferAddress(self, segment_name: str) -> int:
        """Where the buffer begins that the peer registered first, or 0."""
        return self._engine.get_first_buffer_address(segment_name)

    def expRegisterMemory(self, buffer_addr: int, capacity: int) -> int:
        """0, or negative."""
        return self._engine.register_memory(buffer_addr, capacity)

    def expUnregisterMemory(self, buffer_addr: int) -> int:
        """0, or negative."""
        return self._engine.unregister_memory(buffer_addr)


def __getattr__(name: str) -> Any:
    if name == "MooncakeDistributedStore":
        raise ImportError("MooncakeDistributedStore is not here: this is Ferry's, which has Mooncake's Transfer Engine "
                          "and no store")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
