# SPDX-License-Identifier: Apache-2.0
"""Whatever upstream's newest wheel has in mooncake.engine, ours has: names, and each method's
arguments with their order, keywords and defaults. What is left out on purpose says so."""

import importlib
import inspect
import json
import pathlib
import re
import subprocess
import sys
import unittest

import interop

sys.path[:0] = [str(interop.BUILD / "bindings/python"), str(interop.ROOT / "compat")]
import mooncake.engine as ours  # noqa: E402

SEEN_FROM_THERE = """
import json, mooncake.engine as engine
methods = {name: getattr(engine.TransferEngine, name).__doc__ or "" for name in dir(engine.TransferEngine)
           if not name.startswith("_") and callable(getattr(engine.TransferEngine, name))}
print(json.dumps([[name for name in dir(engine) if not name.startswith("_")], methods]))
"""
LEFT_OUT = {"CoroRPCInterface", "ReceivedData", "ReceivedTensor", "RpcInterface", "SharedSegment", "create_rpc_client",
            "create_rpc_server"}


def arguments_of(doc):
    """[(name, default or None)] of pybind11's first line, without self."""
    inside = re.search(r"\((.*)\) ->", doc.split("\n")[0]).group(1)
    found = re.findall(r"(\w+): (?:[\w.]+(?:\[[\w.]+\])?)(?: = ('[^']*'|\w+))?", inside)
    return [(name, default or None) for name, default in found[1:]]


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        python = next(iter(interop.environments().values()))
        out = subprocess.run([python, "-c", SEEN_FROM_THERE], capture_output=True, text=True, check=True).stdout
        cls.names, cls.methods = json.loads(out.splitlines()[-1])
        cls.python = python

    def test_names(self):
        for name in self.names:
            if name in LEFT_OUT:
                with self.assertRaisesRegex(AttributeError, "is not here"):
                    getattr(ours, name)
            else:
                self.assertTrue(hasattr(ours, name), name)

    def test_methods(self):
        self.assertGreater(len(self.methods), 25)
        for name, doc in self.methods.items():
            if name == "TransferOpcode":
                continue
            with self.subTest(name):
                has = [p for p in inspect.signature(getattr(ours.TransferEngine, name)).parameters.values()][1:]
                wanted = arguments_of(doc)
                self.assertEqual(len(has), len(wanted))
                for own, (theirs, default) in zip(has, wanted):
                    # By keyword nobody can have used those that pybind11 calls arg0.
                    if not re.fullmatch(r"arg\d", theirs):
                        self.assertEqual((own.name, own.kind), (theirs, inspect.Parameter.POSITIONAL_OR_KEYWORD))
                    said = None if own.default is inspect.Parameter.empty else repr(own.default)
                    self.assertEqual(said, default)

    def test_modules(self):
        """Each module of theirs is here, or says at its import that it is not."""
        home = pathlib.Path(next(pathlib.Path(self.python).parent.parent.glob("lib/python3*/site-packages/mooncake")))
        names = {path.name.partition(".")[0] for path in home.iterdir()
                 if path.suffix in (".py", ".so") or path.is_dir() and (path / "__init__.py").exists()}
        names = {name for name in names if not name.startswith(("_", "lib"))}
        self.assertIn("engine", names)
        for name in sorted(names):
            with self.subTest(name):
                if not (interop.ROOT / f"compat/mooncake/{name}.py").exists():
                    with self.assertRaisesRegex(ImportError, "is not here"):
                        importlib.import_module(f"mooncake.{name}")


if __name__ == "__main__":
    unittest.main()
