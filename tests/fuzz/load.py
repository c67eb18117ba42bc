"""Loads the page with many clients of four kinds; prints who was answered, and the memory.

    python tests/fuzz/load.py --clients 50 --seconds 480    # or: make load

Rounds of all clients at once, until the time is over. Of ten clients two swap, three send no image,
one uploads slowly and swaps, four go away while their swap waits or is done. So three of ten
requests are good, with photos of 400 pixels, and what these cost does not hide what the page does.
The status is 1 unless each swap that was waited for is answered, each bad file is refused in words,
the server lives, and nothing of an upload is left when it ends.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from itertools import count
from pathlib import Path

import httpx
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from hsd_jax.imaging.demo import find_photos  # noqa: E402
from hsd_jax.runtime.console import table  # noqa: E402

KINDS = ("good", "bad", "cancelled", "bad", "slow", "cancelled", "good", "cancelled", "bad",
         "cancelled")  # fmt: skip
SIDE = 400  # pixels of the photos
_TIMEOUT = httpx.Timeout(1200.0)


def main() -> int:
    """Runs the page and its clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=480, help="after which no round begins")
    parser.add_argument("--weights", default="embedded")
    arguments = parser.parse_args()
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "hsd_jax.cli", "web", "--weights", arguments.weights]
        server = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=said, text=True,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        try:
            assert server.stdout is not None and server.stdout.readline()
            good = _rounds(f"http://127.0.0.1:{port}/", server.pid, arguments)
            good &= server.poll() is None
            server.send_signal(signal.SIGTERM)
            good &= server.wait(60) == 0
            left = [path for path in Path(folder).rglob("*") if path.is_file()]
            said.seek(0)
            tracebacks = said.read().count("Traceback")
            print(f"files left: {len(left)}; tracebacks on stderr: {tracebacks}")
            return 0 if good and not left and not tracebacks else 1
        finally:
            server.kill()
            server.wait()


def _rounds(url: str, pid: int, arguments: argparse.Namespace) -> bool:
    """One swap to compile, then the rounds; whether all went as it should."""
    first = _client(url, "good", 0)
    print(f"the first swap: {first}; memory {_memory(pid)} MB", flush=True)
    rows, good = [], first == "answered"
    begun = time.monotonic()
    for number in count(1):
        start, before = time.monotonic(), _memory(pid)
        if start - begun > arguments.seconds:
            break
        kinds = [KINDS[i % len(KINDS)] for i in range(arguments.clients)]
        with ThreadPoolExecutor(arguments.clients) as pool:
            seeds = range(number * 1000, number * 1000 + arguments.clients)
            came = pool.map(_client, [url] * len(kinds), kinds, seeds)
            ends = Counter(zip(kinds, came, strict=True))
        wanted = {"good": "answered", "slow": "answered", "bad": "refused", "cancelled": "left"}
        failed = [end for end in ends.elements() if wanted[end[0]] != end[1]]
        by_end = Counter(end for _, end in ends.elements())
        rows.append([number, by_end["answered"], by_end["refused"], by_end["left"], len(failed),
                     before, _memory(pid), round(time.monotonic() - start)])  # fmt: skip
        good &= not failed
        for end, times in Counter(failed).items():
            print(f"failed: {times} of the {end[0]}: {end[1]}", flush=True)
    names = ("round", "answered", "refused", "left", "failed", "MB before", "MB after", "seconds")
    print(table(names, rows, "github"))
    return good


def _client(url: str, kind: str, seed: int) -> str:
    """Uploads two files and asks for a swap; what came of it."""
    try:
        with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            head, body = _photos()
            sent = [_upload(client, data, kind == "slow")
                    for data in (b"no image" if kind == "bad" else head, body)]  # fmt: skip
            files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
            asked = {"data": [*files, seed, 2, 1, "auto", 1, 1, "head", "shift", "match"]}
            event = client.post("gradio_api/call/swap", json=asked).json()["event_id"]
            with client.stream("GET", f"gradio_api/call/swap/{event}") as answer:
                if kind == "cancelled":
                    time.sleep(1)
                    return "left"
                text = "".join(answer.iter_text())
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    if "event: error" in text:
        return "refused" if "the head photo" in text else text[-120:]
    return "answered" if f"swap-{seed}.png" in text else text[-120:]


@cache
def _photos() -> list[bytes]:
    """The demo's, small."""
    small = []
    for path in find_photos():
        photo, file = Image.open(path).convert("RGB"), BytesIO()
        photo.thumbnail((SIDE, SIDE))
        photo.save(file, "JPEG", quality=90)
        small.append(file.getvalue())
    return small


def _upload(client: httpx.Client, data: bytes, slowly: bool) -> str:
    if not slowly:
        return client.post("gradio_api/upload", files={"files": ("a.jpg", data)}).json()[0]
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'

    def pieces() -> Iterator[bytes]:
        whole = start + data + b"\r\n--x--\r\n"
        for at in range(0, len(whole), -(-len(whole) // 20)):
            yield whole[at : at - (-len(whole) // 20)]
            time.sleep(0.5)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    return client.post("gradio_api/upload", content=pieces(), headers=form).json()[0]


def _memory(pid: int) -> int:
    """Resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
