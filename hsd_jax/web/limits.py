"""What one client may take of the page: its place in the queue, and what it uploads.

A client is an address in the network and, behind one address, a session (an open page, or a
`gradio_client`). Sessions cost nothing, so only addresses have limits, and this machine's has none.
"""

import asyncio
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse

MAX_UPLOAD = 50 * 2**20
"""Bytes of one photo; its pixels are limited by `imaging.files.MAX_PIXELS`."""
MAX_KEPT = 4 * 2**30
"""Bytes of uploads and results that lie in the folder before more is refused."""
MAX_WAITING = 64
"""Requests in the queue."""
_MOST = {"waiting": MAX_WAITING // 2, "uploading": 8}  # of one address
_UPLOAD_SECONDS = 600.0
_FORM = 2**20  # bytes of an upload's request that are no photo
_UPLOADS = ("/upload", "/component_server")  # the second is for what is drawn
_POSTS = (*_UPLOADS, "/login", "/queue/join", "/call/swap", "/cancel", "/reset")


class FairQueue(list[Any]):
    """Waiting events of Gradio's queue, in the order of being served: clients take turns."""

    def append(self, event: Any) -> None:
        """Adds an event before those of clients who have had more turns by then."""
        super().append(event)
        self[:] = in_turns(in_turns(self, _session), _address)

    def held_by(self, address: str) -> int:
        """How many events of an address wait."""
        return sum(_address(event) == address for event in self)


def in_turns(events: Sequence[Any], client: Callable[[Any], str]) -> list[Any]:
    """The first event of each client, then the second of each; each client's keep their order."""
    seen: Counter[str] = Counter()
    numbered = []
    for event in events:
        seen[client(event)] += 1
        numbered.append((seen[client(event)], event))
    return [event for _, event in sorted(numbered, key=itemgetter(0))]


def _session(event: Any) -> str:
    return event.session_hash


def _address(event: Any) -> str:
    return event.request.client.host if event.request.client else ""


class Limits:
    """An ASGI middleware that refuses what is too much before Gradio sees it."""

    def __init__(self, app: Any, folder: Path, queue: FairQueue, seconds: float = _UPLOAD_SECONDS):
        """Takes what it guards.

        Args:
          app: the application.
          folder: where uploads and results lie.
          queue: the waiting requests.
          seconds: what an upload may take.
        """
        self._app, self._folder, self._queue, self._seconds = app, folder, queue, seconds
        self._uploading: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        path, address = scope["path"].rstrip("/"), (scope.get("client") or ("",))[0]
        if status_reason := self._refusal(path, address):
            status, reason = status_reason
            return await PlainTextResponse(reason, status)(scope, receive, send)
        if not path.endswith(_UPLOADS):
            return await self._app(scope, receive, send)
        self._uploading[address] += 1
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            self._uploading[address] -= 1
            self._uploading += Counter()  # forgets those without any

    def _refusal(self, path: str, address: str) -> tuple[int, str] | None:
        if not path.endswith(_POSTS):  # Gradio has more, for pages of other kinds
            return 404, "there is nothing"
        is_upload, near = path.endswith(_UPLOADS), is_loopback(address)
        if not near and is_upload and self._uploading[address] >= _MOST["uploading"]:
            return 503, "too many uploads at once from your address"
        if not near and not is_upload and self._queue.held_by(address) >= _MOST["waiting"]:
            return 503, "too many requests from your address wait already"
        if is_upload and _size(self._folder) > MAX_KEPT:
            return 503, "too many photos lie here: come again in an hour"
        return None

    def _bounded(self, receive: Any) -> Any:
        """Receives a body up to a size, within a time, to its end, or else has Gradio undo it."""
        ends, left = time.monotonic() + self._seconds, MAX_UPLOAD + _FORM

        async def receive_more() -> Any:
            nonlocal left
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except TimeoutError:
                raise MultiPartException("the upload took too long") from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise MultiPartException("the upload is over the maximum allowed size")
            if message["type"] == "http.disconnect":
                raise MultiPartException("the upload was broken off")
            return message

        return receive_more


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or has it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; those that go meanwhile do not count."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total
