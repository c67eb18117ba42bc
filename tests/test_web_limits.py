"""The page's limits, by a queue and an application that are looked into."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")

from starlette.formparsers import MultiPartException  # noqa: E402

from hsd_jax.web import limits  # noqa: E402
from hsd_jax.web.limits import FairQueue, Limits, in_turns  # noqa: E402

NEAR, FAR = "127.0.0.1", "192.0.2.7"


def event(session: str, address: str = NEAR, name: str = "") -> Any:
    client = SimpleNamespace(host=address)
    return SimpleNamespace(session_hash=session, request=SimpleNamespace(client=client), name=name)


def filled(*events: Any) -> FairQueue:
    queue = FairQueue()
    for each in events:
        queue.append(each)
    return queue


def test_clients_take_turns_and_each_keeps_its_order():
    assert in_turns(["a1", "a2", "a3", "b1", "b2", "c1"], lambda name: name[0]) == [
        "a1", "b1", "c1", "a2", "b2", "a3"
    ]  # fmt: skip
    queue = filled(*[event("a", name=f"a{i}") for i in range(4)], event("b", name="b0"))
    assert [each.name for each in queue] == ["a0", "b0", "a1", "a2", "a3"]
    queue.remove(queue[0])  # served
    queue.append(event("b", name="b1"))
    assert [each.name for each in queue] == ["b0", "a1", "a2", "b1", "a3"]


def test_an_address_gains_nothing_by_many_sessions():
    many = [event(f"s{i}", FAR, f"s{i}") for i in range(4)]
    queue = filled(*many, event("x", "192.0.2.8", "x0"), event("x", "192.0.2.8", "x1"))
    assert [each.name for each in queue] == ["s0", "x0", "s1", "x1", "s2", "s3"]


def ask(limited: Limits, path: str, address: str = FAR, receive: Any = None) -> tuple[int, str]:
    """The status and the words of an answer to a POST."""
    parts: list[Any] = []

    async def send(message: Any) -> None:
        parts.append(message)

    async def nothing() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "POST", "path": path, "client": (address, 1), "headers": []}
    asyncio.run(limited(scope, receive or nothing, send))
    return parts[0]["status"], parts[1]["body"].decode()


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads a body, as Gradio does, and says what it came to."""
    try:
        while (await receive()).get("more_body"):
            pass
        status, text = 200, "read"
    except MultiPartException as error:
        status, text = 400, error.message
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def test_an_address_may_fill_half_the_queue_but_this_machine_all(tmp_path):
    queue = filled(*[event(str(i), FAR) for i in range(32)], *[event("n") for _ in range(32)])
    limited = Limits(reading, tmp_path, queue)
    for path in ("/gradio_api/call/swap", "/gradio_api/queue/join"):
        status, text = ask(limited, path)
        assert status == 503 and "from your address wait already" in text
        assert ask(limited, path, NEAR)[0] == ask(limited, path, "192.0.2.8")[0] == 200
    assert ask(limited, "/gradio_api/run/swap")[0] == 404


def test_uploads_end_in_time_and_within_their_size(tmp_path, monkeypatch):
    async def for_ever() -> Any:
        await asyncio.sleep(60)

    async def endless() -> Any:
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    limited = Limits(reading, tmp_path, FairQueue(), seconds=0.05)
    for path in ("/upload", "/component_server"):
        assert ask(limited, path, receive=for_ever) == (400, "the upload took too long")
    limited = Limits(reading, tmp_path, FairQueue())
    assert "maximum allowed size" in ask(limited, "/upload", receive=endless)[1]
    assert "broken off" in ask(limited, "/upload", receive=gone)[1]
    assert ask(limited, "/upload") == (200, "read")
    (tmp_path / "a").write_bytes(bytes(11))
    monkeypatch.setattr(limits, "MAX_KEPT", 10)
    assert ask(limited, "/upload")[0] == 503


def test_an_address_uploads_a_few_photos_at_once(tmp_path: Path):
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await reading(scope, receive, send)

    limited = Limits(slow, tmp_path, FairQueue())

    async def one(address: str, statuses: list[int]) -> None:
        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": "POST", "path": "/upload", "headers": []}
        await limited({**scope, "client": (address, 1)}, receive, send)

    async def many(address: str) -> list[int]:
        statuses: list[int] = []
        await asyncio.gather(*[one(address, statuses) for _ in range(10)])
        return [status for status in statuses if status]

    assert sorted(asyncio.run(many(FAR))) == [200] * 8 + [503] * 2
    assert asyncio.run(many(FAR)).count(200) == 8  # none is held after its end
    assert asyncio.run(many(NEAR)) == [200] * 10
