# SPDX-License-Identifier: Apache-2.0
"""Programs written for Mooncake, unmodified, on Ferry's `mooncake`: where they come from and how
they are run.

Files are read out of the wheels on PyPI, of which only the parts that are wanted are transferred,
and compared with the digests that the wheel lists. What else those files import comes from Debian,
from PyPI or, where that would be all of vLLM, from stubs/, which has what they use of it.
"""

import atexit
import base64
import csv
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = pathlib.Path(os.environ["FERRY_BUILD"])
CACHE = BUILD / "clients"
LOGS = CACHE / "logs"
INDEX = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
SKIP = 77
# What the clients import of PyPI's; torch, zmq and psutil are Debian's.
PACKAGES = ("safetensors", "msgspec")

sys.path[:0] = [str(ROOT / "tests/conformance"), str(ROOT / "tests/interop")]


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(SKIP)


class RemoteFile(io.RawIOBase):
    """A file on a server, read in parts."""

    def __init__(self, url, size):
        super().__init__()
        self.url, self.size, self.position = url, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer):
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        part = urllib.request.Request(self.url, headers={"Range": f"bytes={self.position}-{end - 1}"})
        with urllib.request.urlopen(part, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.url}: the server gives no parts of files")
            data = answer.read()
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)


def find_wheel(package, version):
    """(name, url, bytes) of one wheel for x86_64 or any machine; the files wanted are the same in all."""
    asked = urllib.request.Request(f"{INDEX}/{package}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        files = json.load(answer)["files"]
    for file in files:
        name = file["filename"]
        if name.startswith(f"{package}-{version}-") and name.endswith(("x86_64.whl", "any.whl")):
            return name, file["url"], file["size"]
    sys.exit(f"PyPI answers, but has no wheel of {package} {version}")


def files_of(package, version, *names):
    """A folder with those files of that wheel, byte for byte as the wheel's own list has them."""
    home = CACHE / f"{package}-{version}"
    if all((home / name).exists() for name in names):
        return home
    try:
        wheel, url, size = find_wheel(package, version)
        with zipfile.ZipFile(io.BufferedReader(RemoteFile(url, size), 1 << 16)) as archive:
            text = archive.read(f"{package}-{version}.dist-info/RECORD").decode()
            digests = {row[0]: row[1] for row in csv.reader(io.StringIO(text)) if row}
            for name in names:
                data = archive.read(name)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                if digests[name] != f"sha256={digest}":
                    sys.exit(f"{wheel}: {name} is not what the wheel lists")
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(data)
                print(f"{name} of {wheel}, sha256 {hashlib.sha256(data).hexdigest()}")
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        skip(f"PyPI cannot be reached ({error.reason}), and {package} {version} is not in {CACHE}")
    return home


def environment():
    """An interpreter with what the clients import."""
    home = CACHE / "environment"
    python = home / "bin/python"
    if (home / "installed").exists():
        return str(python)
    for module in ("torch", "zmq", "psutil"):
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode:
            skip(f"python3-{module} is not installed: ./dev packages clients")
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--system-site-packages", str(home)], check=True)
    done = subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries",
                           "1", *PACKAGES], capture_output=True, text=True, timeout=300)
    if done.returncode:
        skip(f"{' '.join(PACKAGES)} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    (home / "installed").touch()
    return str(python)


def start(python, arguments, label, folders=(), **env):
    """A process on Ferry's packages, and on the modules in `folders`, with a log of its own."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = [BUILD / "bindings/python", ROOT / "compat", *folders, HERE / "stubs"]
    log = LOGS / f"{label}.log"
    base = dict(os.environ, PYTHONPATH=":".join(map(str, path)), PYTHONUNBUFFERED="1", OMP_NUM_THREADS="1", **env)
    with open(log, "wb") as output:
        process = subprocess.Popen([python, *arguments], env=base, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=output, text=True)
    process.log = log
    atexit.register(end, process)
    return process


def line(process):
    """Its next line; a process that ended instead is an error with the end of its log."""
    text = process.stdout.readline()
    if not text:
        raise AssertionError(f"ended with {process.wait()}:\n{tail(process)}")
    return text.strip()


def tail(process):
    return process.log.read_text(errors="replace")[-3000:]


def wait(processes, seconds=120):
    """Until all have ended or one has failed, without which the others would wait."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [process.poll() for process in processes]
        if any(states) or None not in states:
            for process, state in zip(processes, states):
                if state:
                    finish(process)
            return
        time.sleep(0.05)


def finish(process, seconds=120):
    """What it still says; anything but success is an error with the end of its log."""
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"did not end in {seconds} s:\n{tail(process)}") from None
    if process.returncode:
        raise AssertionError(f"ended with {process.returncode}:\n{out}\n{tail(process)}")
    return out


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if not stream.closed:
            try:
                stream.close()
            except OSError:
                pass
