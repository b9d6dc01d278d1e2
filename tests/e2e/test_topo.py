#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry topo` on a machine that is made of files: 2 NUMA nodes, 8 NICs, 8 GPUs."""

import json
import os

from ferry_e2e import build_dir, check, main

FERRY = build_dir() / "tools" / "ferry"


class Sysfs:
    """What a kernel shows of a machine: each socket has four host bridges; behind each a switch with
    one GPU and one NIC, except that the last NIC of a socket is at the root port itself."""

    def __init__(self, root):
        self.root = root
        for node in (0, 1):
            (root / f"devices/system/node/node{node}").mkdir(parents=True)
        for name in ("class/infiniband", "class/net", "bus/pci/devices"):
            (root / name).mkdir(parents=True)
        for pair in range(8):
            node, bus = pair // 4, 0x10 + 0x18 * pair
            bridge = f"pci0000:{bus:02x}/0000:{bus:02x}:01.0"
            switch = f"{bridge}/0000:{bus + 1:02x}:00.0"
            self.device(f"{switch}/0000:{bus + 2:02x}:00.0/0000:{bus + 3:02x}:00.0", node, 0x10de, 0x2330, 0x030200)
            at = f"{switch}/0000:{bus + 2:02x}:01.0/0000:{bus + 4:02x}:00.0"
            if pair % 4 == 3:
                at = f"pci0000:{bus:02x}/0000:{bus:02x}:02.0/0000:{bus + 5:02x}:00.0"
            self.link(f"class/infiniband/mlx5_{pair}/device", self.device(at, node, 0x15b3, 0x1021, 0x020700))

    def device(self, path, node, vendor, device, kind):
        directory = self.root / "devices" / path
        directory.mkdir(parents=True)
        for name, text in (("numa_node", f"{node}"), ("vendor", f"{vendor:#06x}"), ("device", f"{device:#06x}"),
                           ("class", f"{kind:#08x}")):
            (directory / name).write_text(text + "\n")
        self.link(f"bus/pci/devices/{directory.name}", directory)
        return directory

    def link(self, name, target):
        link = self.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))


def topo(lab, *words, status=0):
    return lab.run([FERRY, "topo", "--sysfs", lab.dir / "sys", *words], status=status,
                   env={"MC_CUSTOM_TOPO_JSON": ""})


def two_sockets(lab):
    Sysfs(lab.dir / "sys")
    found = json.loads(topo(lab, "--json", "-"))
    nics = [f"mlx5_{i}" for i in range(8)]
    check([nic["name"] for nic in found["devices"]] == nics, found["devices"])
    check(found["devices"][5] == {"name": "mlx5_5", "pci": "0000:8c:00.0", "model": "15b3:1021", "numa_node": 1},
          found["devices"][5])
    check([gpu["name"] for gpu in found["gpus"]] == [f"cuda:{i}" for i in range(8)], found["gpus"])
    check(found["numa_nodes"] == [0, 1], found)
    matrix = found["priority_matrix"]
    check(matrix["cpu:0"] == [nics[:4], nics[4:]] and matrix["cpu:1"] == [nics[4:], nics[:4]], matrix)
    for i in range(8):
        check(matrix[f"cuda:{i}"] == [[nics[i]], nics[:i] + nics[i + 1:]], i, matrix)
        for k in range(8):
            want = ("PHB" if i % 4 == 3 else "PIX") if i == k else "NODE" if i // 4 == k // 4 else "SYS"
            check(found["distances"][f"cuda:{i}"][f"mlx5_{k}"] == want, i, k, found["distances"])
    check(found["reasons"]["cuda:0"] == "behind the same switch", found["reasons"])
    check(found["reasons"]["cuda:3"] == "at the same host bridge", found["reasons"])
    check(json.loads(topo(lab, "--matrix")) == matrix, "--matrix")
    text = topo(lab)
    for part in ("mlx5_7", "0000:8c:00.0", "PIX same switch", "cpu:1   mlx5_4, mlx5_5, mlx5_6, mlx5_7"):
        check(part in text, part, text)


def some_devices(lab):
    Sysfs(lab.dir / "sys")
    found = json.loads(topo(lab, "--matrix", "--devices", "mlx5_6, mlx5_1"))
    check(found["cpu:0"] == [["mlx5_1"], ["mlx5_6"]] and found["cuda:4"] == [["mlx5_6"], ["mlx5_1"]], found)
    check(found["cuda:1"] == [["mlx5_1"], ["mlx5_6"]], found)
    error = topo(lab, "--devices", "mlx5_1,mlx5_9", status=2)
    check('there is no device "mlx5_9"; there are: ' in error and "mlx5_7" in error, error)


def a_file_instead(lab):
    Sysfs(lab.dir / "sys")
    file = lab.dir / "topo.json"
    file.write_text('{"cpu:0": [["mlx5_7"], ["mlx5_0", "bond9"]], "cuda:0": [["mlx5_0"], []]}')
    text = lab.run([FERRY, "topo", "--sysfs", lab.dir / "sys"], env={"MC_CUSTOM_TOPO_JSON": file})
    check("the file says so" in text and "not in use here: bond9" in text, text)
    check(text.rindex("mlx5_7") < text.rindex("mlx5_0"), text)
    for wrong, words in (("[]", "no object"), ("{}", "no object"), ('{"cpu:0": [["a"]]}', 'two lists'),
                         ('{"cpu:0": [["a"], [7]]}', '"cpu:0" is not two lists'), ('{"cpu:0": ', "is no JSON")):
        file.write_text(wrong)
        error = topo(lab, "--topology", file, status=2)
        check(words in error and len(error.splitlines()) == 1, wrong, error)
    check("cannot be read" in topo(lab, "--topology", "/nowhere", status=2), "a file that is not there")


def an_unknown_machine(lab):
    """No NUMA nodes, no PCI: a Soft-RoCE device on a virtual interface."""
    root = lab.dir / "sys"
    (root / "class/infiniband/rxe0").mkdir(parents=True)
    (root / "class/infiniband/rxe0/parent").write_text("nic0\n")
    found = json.loads(topo(lab, "--json", "-"))
    check(found["devices"] == [{"name": "rxe0"}], found)
    check(found["priority_matrix"] == {"cpu:0": [["rxe0"], []]}, found)
    check(found["reasons"]["cpu:0"] == "nobody knows their NUMA node", found)


if __name__ == "__main__":
    main(two_sockets, some_devices, a_file_instead, an_unknown_machine)
