"""Tests of load and leaks: a gateway in a process of its own counts its connections (`nox -s slow`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import json
import logging
import os
import resource
import subprocess
import sys
import time
import tracemalloc
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from gateway import DONE, Client, Gateway, Reply, encoded, of_every_way, op, outcome

import dottxt
from dottxt import AsyncDotTxt, DotTxt

pytest_plugins = ["gateway"]  # for its fixtures


def serve_echo() -> None:  # noqa: C901
    """Answer each call with its prompt. Model `stalled` stops in mid-stream, `all of N` waits for N calls."""
    import asyncio
    import json

    counts = {"open": 0, "peak": 0, "calls": 0}
    all_there = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            return await send(writer, "application/json", json.dumps(counts))
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        request = json.loads(await reader.readexactly(int(length)))
        counts["calls"] += 1
        if request["model"].startswith("all of "):
            if counts["calls"] >= int(request["model"][7:]):
                all_there.set()
            await all_there.wait()
        text = request["messages"][0]["content"]
        if "stream" not in request:
            message = {"content": json.dumps({"text": text})}
            return await send(writer, "application/json", json.dumps({"choices": [{"message": message}]}))
        if request["model"] != "stalled":
            done = "event: done\ndata: {}\n\n"
            return await send(writer, "text/event-stream", add("", {}), add("/text", text), done)
        await send(writer, "text/event-stream", add("", {}), add("/text", ""), "")
        await reader.read(1)
        return False

    def add(path: str, value: object) -> str:
        return f"event: patch\ndata: {json.dumps({'op': 'add', 'path': path, 'value': value})}\n\n"

    async def send(writer: asyncio.StreamWriter, kind: str, *parts: str) -> bool:
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for part in parts:
            writer.write(f"{len(part.encode()):x}\r\n{part}\r\n".encode() if part else b"")
            await asyncio.sleep(0)
        if part:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts["open"] += 1
        counts["peak"] = max(counts["peak"], counts["open"])
        try:
            while await reply(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            counts["open"] -= 1
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


class Echo:
    """The gateway above, seen from outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"

    def count(self, name: str) -> int:
        with urllib.request.urlopen(self.url) as counts:
            return int(json.load(counts)[name])

    @property
    def open(self) -> int:
        """How many connections are open now, beside the one that asks."""
        return self.count("open") - 1


@pytest.fixture
def echo_server() -> Iterator[Echo]:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    code = f"{inspect.getsource(serve_echo)}\nserve_echo()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Echo(int(process.stdout.readline()))
        finally:
            process.kill()
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


STALLED: dict[str, Any] = {"model": "stalled", "input": "Hello", "response_format": {"type": "object"}}
STREAMS_LEFT = 500  # in each way, 5,000 in all
TRACED = 100  # of them, with their memory


def leave(raw: Any, way: str) -> None:
    """Leave a stream at its second event."""
    stream = raw.stream(**STALLED)
    with suppress(KeyError), stream if "with" in way else contextlib.nullcontext():
        for event in stream:
            if event.field and "exception" in way:
                raise KeyError
            if event.field:
                break


async def leave_async(raw: Any, way: str) -> None:
    there = asyncio.Event()

    async def work() -> None:
        stream = raw.stream(**STALLED)
        with anyio.CancelScope() as scope:
            async with stream if "with" in way else contextlib.nullcontext():
                async for event in stream:
                    if not event.field:
                        continue
                    there.set()
                    if "break" in way:
                        break
                    if "exception" in way:
                        raise KeyError
                    if "timeout" in way:
                        scope.cancel()

    if "cancelled" not in way:
        with suppress(KeyError):
            await work()
        return
    task = asyncio.create_task(work())
    await there.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@contextlib.contextmanager
def nothing_is_printed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No warning, and nothing from asyncio or from what is collected as garbage."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unraisable.append(repr(found)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert unraisable == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


LEAVING = ["break", "exception", "break in a with block", "exception in a with block"]


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *itertools.product([DotTxt, AsyncDotTxt], LEAVING),
        (AsyncDotTxt, "cancelled task"),
        (AsyncDotTxt, "timeout"),
    ],
)
def test_streams_that_are_left_early_leave_nothing_behind(
    kind: Any, way: str, echo_server: Echo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(kind, api_key="test-key", base_url=echo_server.url, max_retries=0, timeout=10)

    def leave_many(times: int) -> int:
        """Leave streams, see their connections closed, and count the objects that are there then."""

        async def leave_them() -> None:
            for _ in range(times):
                await leave_async(client.raw, way)
            await asyncio.sleep(0.05)  # a dropped stream is closed by a task of its own

        if client.loop is None:
            for _ in range(times):
                leave(client.raw, way)
        else:
            client.wait(leave_them())
        client.until(lambda: echo_server.open == 0)
        gc.collect()
        return len(gc.get_objects())

    with nothing_is_printed(caplog, monkeypatch):
        half = leave_many(STREAMS_LEFT // 2)
        leave_many(STREAMS_LEFT // 2 - TRACED)
        tracemalloc.start()
        try:
            whole = leave_many(TRACED)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert client.generate(input="Hello") == {"text": "Hello"}
        assert client.result(input="Hello") == {"text": "Hello"}
        assert echo_server.open == 1
        client.wait(client.raw.close())
        client.until(lambda: echo_server.open == 0)
        client.close()
    assert whole < half + STREAMS_LEFT // 10
    assert kept < 1_000 * TRACED


LAST_ACTS = {
    "loop": "for event in DotTxt(**there).stream(**stalled): break",
    "async loop": """
async def main():
    async for event in AsyncDotTxt(**there).stream(**stalled):
        break
asyncio.run(main())
""",
    "async loop that raises in a client's with block": """
async def main():
    async with AsyncDotTxt(**there) as client:
        async for event in client.stream(**stalled):
            raise KeyError("mine")
with contextlib.suppress(KeyError):
    asyncio.run(main())
""",
}


def run_python(code: str) -> str:
    """What the code prints in a process of its own, which must end well and say nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(Path(dottxt.__file__).parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("last_act", LAST_ACTS.values(), ids=LAST_ACTS)
def test_a_program_may_end_with_a_stream_that_it_leaves(last_act: str, echo_server: Echo) -> None:
    there = {"api_key": "test-key", "base_url": echo_server.url}
    code = f"import asyncio, contextlib\nfrom dottxt import *\nthere, stalled = {there!r}, {STALLED!r}\n"
    assert run_python(code + last_act) == ""
    assert echo_server.open == 0


def test_thousands_of_calls_at_once_on_one_client_each_get_their_own_answer(echo_server: Echo) -> None:
    limit = openai.DEFAULT_CONNECTION_LIMITS.max_connections
    assert limit
    # The pool under the SDK's 1.x and 2.x takes time that grows with the square of the calls at once.
    count = 1_000 if int(openai.__version__.partition(".")[0]) > 2 else 250
    texts = [f"{now} " + 'ä😀\u2028"\\\n\x00' * (now % 50) for now in range(2 * count)]
    ask: dict[str, Any] = {"model": f"all of {min(limit, 2 * count)}", "response_format": {"type": "object"}}

    async def main() -> list[Any]:
        async with AsyncDotTxt(api_key="k", base_url=echo_server.url, max_retries=0, timeout=120) as client:
            calls = [client.generate(**ask, input=text) for text in texts[::2]]
            streams = [client.stream(**ask, input=text).result() for text in texts[1::2]]
            return await asyncio.gather(*calls, *streams)

    assert asyncio.run(main()) == [{"text": text} for text in texts[::2] + texts[1::2]]
    assert echo_server.count("calls") == 2 * count
    assert echo_server.count("peak") <= limit + 1  # and the one that asks for the counts
    assert echo_server.open == 0


def long_record(way: str, size: int, *, bad: bool = False) -> Iterator[bytes]:
    """An answer that is one record of a size."""
    start, end = encoded(op("", "x")).split(b"x")
    before, after = {
        "generate": (b'{"choices": [{"message": {"content": "\\"', b'\\""}}]}'),
        "events": (b"event: patch\ndata: " + start, end + b"\n\n" + DONE),
        "lines": (start, end + b"\n"),
        "tokens": (
            b'data: {"choices": [{"delta": {"content": "\\"',
            b'\\""}, "finish_reason": "stop"}]}\n\n',
        ),
    }[way]
    yield before
    yield from itertools.repeat(b"x" * 65_536, size // 65_536)
    yield after.replace(b'"', b"!") if bad else after


@of_every_way
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_record_of_64_megabytes_takes_linear_time_and_bounded_memory(
    bad: bool, way: str, client: Client, gateway: Gateway
) -> None:
    megabyte = 1 << 20

    def cost(size: int) -> float:
        gateway.reply(Reply(long_record(way, size, bad=bad)))
        start = time.thread_time()
        _, end = outcome(client, way)
        spent = time.thread_time() - start
        if bad:
            assert isinstance(end, openai.OpenAIError)
            assert len(str(end)) < 1_000
        else:
            assert len(end) == size
            assert set(end[: size // 2]) == {"x"}
        return spent

    tracemalloc.start()
    try:
        part = min(cost(4 * megabyte) for _ in range(3))
        whole = cost(64 * megabyte)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole < 64 * part  # sixteen times the record; its square would be 256 times
    assert peak < 8 * 64 * megabyte
