"""What the tests share: a scripted gateway on a loopback port, its replies, and clients that read them."""

from __future__ import annotations

import asyncio
import copy
import datetime
import functools
import inspect
import itertools
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import openai
import openai.types.chat
import pydantic
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from dottxt import (
    AsyncDotTxt,
    DotTxt,
    InvalidOutputError,
    apply_add,
)

# ---------------------------------------------------------------------------------------------------------
# The gateway: an HTTP server on a loopback port that sends exactly the bytes a test scripts
# ---------------------------------------------------------------------------------------------------------


class Break(Enum):
    """Steps that end a connection in the middle of a reply."""

    CUT = "close the socket, the body unfinished"
    RESET = "close it with a TCP reset"


CUT, RESET = Break.CUT, Break.RESET

# bytes go out as one chunk, flushed; a float is a pause; an Event is waited for.
Step = bytes | float | threading.Event | Break
STEPS = (bytes, float, threading.Event, Break)


@dataclass
class Reply:
    """One scripted answer. ``status=None`` sends no head: the steps are then all that goes over the wire."""

    body: bytes | Iterable[Step] = b""
    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: str = ""  # "chunked", "length" or "close" (HTTP/1.0); by default as the kind of body suggests
    content_length: int | None = None  # a wrong one, with framing "length"; the connection is closed after it

    def bytes_and_steps(self) -> Iterator[Step]:
        """Everything that goes over the wire, head and framing included."""
        steps: Iterable[Step] = self.body
        framing = self.framing or "chunked"
        if isinstance(self.body, bytes):
            steps = [self.body]
            framing = self.framing or "length"
        if self.status is None:
            yield from steps
            return
        head = {"Content-Type": "application/json", **self.headers}
        if framing == "close":
            head["Connection"] = "close"
        elif framing == "chunked":
            head["Transfer-Encoding"] = "chunked"
        elif self.status != 204:
            if not isinstance(self.body, bytes):
                steps = list(steps)
            length = sum(len(step) for step in steps if isinstance(step, bytes))
            head["Content-Length"] = str(length if self.content_length is None else self.content_length)
        version = "HTTP/1.0" if framing == "close" else "HTTP/1.1"
        lines = [f"{version} {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        yield "\r\n".join([*lines, "", ""]).encode("latin-1")
        for step in steps:
            if framing == "chunked" and isinstance(step, bytes):
                if step:
                    yield b"%x\r\n%b\r\n" % (len(step), step)
            else:
                yield step
        if framing == "chunked":
            yield b"0\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request as it arrived. ``connection`` counts from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Reply | Callable[[Request], Reply]


class Gateway:
    """The scripted server. A context manager; leaving it closes every socket and ends every thread."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._scripts: list[Script] = []
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._closing = False
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}/v1"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def open(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._sockets)

    def reply(self, *scripts: Script) -> None:
        """Answer the next requests with these, in order, and all after them with the last."""
        with self._lock:
            self._scripts = list(scripts)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 20) -> None:
        """Return as soon as the predicate holds; fail when it does not in time."""
        deadline = time.monotonic() + timeout
        while not predicate():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.002)

    def close(self) -> None:
        self._closing = True
        socket.create_connection(self.address).close()  # wakes accept()
        self._threads[0].join(5)
        self._listener.close()
        with self._lock:
            for connection in self._sockets:
                with suppress(OSError):  # the client may just have reset it
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "the gateway left a thread behind"
        if self._errors:
            raise self._errors[0]  # pragma: no cover - a script of a test is wrong

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._sockets.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with connection.makefile("rb") as reader:
                while request := self._read(reader, number):
                    with self._lock:
                        self.requests.append(request)
                        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                    reply = script if isinstance(script, Reply) else script(request)
                    for step in reply.bytes_and_steps():
                        if isinstance(step, bytes):
                            connection.sendall(step)
                        elif isinstance(step, Break):
                            if step is RESET:
                                linger = struct.pack("ii", 1, 0)
                                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                            return
                        else:
                            self._pause(connection, step)
                    if reply.framing == "close" or reply.status is None or reply.content_length is not None:
                        return
        except OSError:
            pass  # the client went away
        except BaseException as error:  # pragma: no cover
            self._errors.append(error)
        finally:
            with self._lock:
                self._sockets.discard(connection)
                connection.close()

    @staticmethod
    def _read(reader: Any, number: int) -> Request | None:
        line = reader.readline()
        if not line.endswith(b"\n"):
            return None
        method, path, _ = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        body = reader.read(int(headers.get("content-length", 0)))
        return Request(method, path, headers, body, number)

    @staticmethod
    def _pause(connection: socket.socket, step: float | threading.Event) -> None:
        """Wait, and notice at once when the client hangs up."""
        end = time.monotonic() + (step if isinstance(step, (int, float)) else 3600)
        connection.settimeout(0.01)
        while time.monotonic() < end and not (isinstance(step, threading.Event) and step.is_set()):
            with suppress(TimeoutError):
                if not connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionError("the client went away")
                time.sleep(0.01)  # pragma: no cover - bytes of a request to come: they stay where they are
        connection.settimeout(None)


# ---------------------------------------------------------------------------------------------------------
# Replies: records, framings that carry them, and whole responses
# ---------------------------------------------------------------------------------------------------------

EVENTS, LINES, JSON_TYPE = "text/event-stream", "application/x-ndjson", "application/json"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
SOON = {"retry_after_ms": "1"}
EVER = threading.Event()  # never set


def encoded(value: object) -> bytes:
    """JSON text in which nothing is escaped but control characters and lone surrogates."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; ``retry_after="1"`` becomes the header ``retry-after: 1``."""
    return Reply(encoded(value), status, {name.replace("_", "-"): text for name, text in headers.items()})


def api_error(status: int, message: str = "it went wrong", **headers: str) -> Reply:
    """An API error in OpenAI's envelope."""
    return json_reply({"error": {"message": message, "type": "error", "code": None}}, status, **headers)


def op(path: str, value: object) -> dict[str, Any]:
    """An ``add`` operation of RFC 6902."""
    return {"op": "add", "path": path, "value": value}


def chunk(*choices: object, **more: object) -> dict[str, Any]:
    """A record of a token stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "test-model"}
    return {**head, "choices": [*choices], **more}


def delta(content: object, finish_reason: str | None = None, **beside: object) -> dict[str, Any]:
    """A record with a piece of the text, or with a whole delta; `beside` are more fields of the choice."""
    part = content if isinstance(content, dict) else {"content": content}
    return chunk({"index": 0, "delta": part, "finish_reason": finish_reason, **beside})


def whole(content: object, finish_reason: str | None = "stop", **message: object) -> dict[str, Any]:
    """A whole chat completion."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason, "logprobs": None}
    return chunk(choice, object="chat.completion", usage=USAGE)


def completion(content: object, finish_reason: str | None = "stop", **message: object) -> Reply:
    return json_reply(whole(content, finish_reason, **message))


def event(kind: str, data: object) -> bytes:
    """A server-sent event of a type."""
    text = data.encode() if isinstance(data, str) else encoded(data)
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), text)


def mark(**told: object) -> bytes:
    """The end mark of a patch stream, and what it tells."""
    return event("done", told)


DONE = mark()


def pieces(whole: Any, sizes: list[int]) -> Iterator[Any]:
    """Cut text or bytes into pieces of these sizes, over and over."""
    at = 0
    for size in itertools.cycle(sizes):  # pragma: no branch
        if at >= len(whole):
            return
        yield whole[at : at + size]
        at += size


def framed(framing: str, *steps: object, size: int | None = 0) -> Reply:
    """Records in a framing: each in a chunk of its own, or cut into chunks of a size, or all in one (None).

    A ``dict`` or ``list`` is a record, a ``str`` the text of one, ``[DONE]`` say; other steps of a body go
    through as they are.
    """
    body: list[Step] = []
    for step in steps:
        if isinstance(step, (dict, list, str)):
            text = step.encode() if isinstance(step, str) else encoded(step)
            kind = b"event: patch\n" if isinstance(step, dict) and "op" in step else b""
            step = kind + b"data: " + text + b"\n\n" if framing == EVENTS else text + b"\n"
        assert isinstance(step, STEPS)
        body.append(step)
    if size != 0:
        groups: Any = itertools.groupby(body, key=lambda step: isinstance(step, bytes))
        sizes = [size or 1 << 30]
        cut = [pieces(b"".join(group), sizes) if is_bytes else [*group] for is_bytes, group in groups]
        body = [step for group in cut for step in group]
    return Reply(body, headers={"Content-Type": framing})


def patches(*ops: object, done: Mapping[str, object] | None = MappingProxyType({})) -> Reply:
    """A patch stream as server-sent events; ``done=None``: without its end mark."""
    return framed(EVENTS, *ops, *([] if done is None else [mark(**done)]))


def ndjson(*ops: object) -> Reply:
    """A patch stream of lines."""
    return framed(LINES, *ops)


def sse(*deltas: object, finish_reason: str | None = "stop", usage: object = None) -> Reply:
    """A token stream: pieces of text, or whole deltas, or other steps as they are."""
    records = [each if isinstance(each, STEPS) else delta(each) for each in deltas]
    records += [delta({}, finish_reason)] if finish_reason is not None else []
    records += [chunk(usage=usage)] if usage is not None else []
    return framed(EVENTS, *records, "[DONE]")


def engine(tokens: Script, refusal: Reply | None = None) -> Callable[[Request], Reply]:
    """An engine whose `stream` is a boolean."""

    def script(request: Request) -> Reply:
        if request.method == "POST" and request.json.get("stream") == "patch":
            return refusal or NO_PATCH_MODE
        return tokens if isinstance(tokens, Reply) else tokens(request)

    return script


def escaped(key: str) -> str:
    """A key as a segment of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def ops_of(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations by which a gateway sends a document: containers when they open, then what they hold."""
    if not isinstance(value, (dict, list)):
        yield op(path, value)
        return
    yield op(path, type(value)())
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from ops_of(item, f"{path}/{escaped(str(key))}")


def states_of(ops: Iterable[dict[str, Any]]) -> list[Any]:
    """The document after each of the operations."""
    document, states = None, []
    for each in ops:
        document = apply_add(document, each["path"], each["value"])
        states.append(copy.deepcopy(document))
    return states


def fold(ops: Iterable[dict[str, Any]]) -> Any:
    """The document after all the operations."""
    return functools.reduce(lambda doc, each: apply_add(doc, each["path"], each["value"]), ops, None)


# The four ways in which an answer comes.
WAYS = ["generate", "events", "lines", "tokens"]
of_every_way = pytest.mark.parametrize("way", WAYS)
in_both_framings = pytest.mark.parametrize("framing", [EVENTS, LINES], ids=["events", "lines"])
DOCUMENT: Any = {"intent": "billing", "note": "ä — 😀", "steps": ["verify", None, 1.5, {"a/b": []}]}


def good(way: str, document: Any = DOCUMENT, *more: object, size: int | None = 0) -> Reply:
    """A good answer, and then some more steps."""
    text = encoded(document).decode()
    if way == "generate":
        return Reply([encoded(whole(text)), *more])  # type: ignore[list-item]
    if way == "tokens":
        return framed(EVENTS, *map(delta, pieces(text, [8])), delta({}, "stop"), "[DONE]", *more, size=size)
    if way == "lines":
        return framed(LINES, *ops_of(document), *more, size=size)
    return framed(EVENTS, *ops_of(document), mark(finish_reason="stop"), *more, size=size)


def body_of(reply: Reply) -> bytes:
    steps = [reply.body] if isinstance(reply.body, bytes) else reply.body
    return b"".join(step for step in steps if isinstance(step, bytes))


def cut_short(way: str, *more: Step, at: int = 0, **options: Any) -> Reply:
    """A good answer up to a character of four bytes in its second string, then some steps."""
    reply = good(way)
    body = body_of(reply)
    return Reply([body[: body.index("😀".encode()) + at], *more], headers=reply.headers, **options)


def ops_from(way: str, document: Any = DOCUMENT) -> list[Any]:
    return [] if way == "generate" else [*ops_of(document)]


# ---------------------------------------------------------------------------------------------------------
# Clients, and what a call comes to
# ---------------------------------------------------------------------------------------------------------


class Client:
    """Either client behind one blocking face, so that one test runs on both.

    ``raw`` is the client itself; ``wait(x)`` gives ``x``, or what it comes to when it is awaitable.
    """

    def __init__(self, kind: type[DotTxt] | type[AsyncDotTxt], **kwargs: Any) -> None:
        self.raw: Any = kind(**kwargs)
        self.loop = asyncio.new_event_loop() if kind is AsyncDotTxt else None

    def wait(self, value: Any) -> Any:
        if not inspect.isawaitable(value):
            return value
        assert self.loop
        return self.loop.run_until_complete(_awaited(value))

    def generate(self, **kwargs: Any) -> Any:
        return self.wait(self.raw.generate(**_defaults(kwargs)))

    def generate_with_completion(self, **kwargs: Any) -> Any:
        return self.wait(self.raw.generate_with_completion(**_defaults(kwargs)))

    def stream(self, **kwargs: Any) -> Any:
        """The client's own stream object, for ``iterate``, ``wait(stream.result())`` and ``leave``."""
        return self.raw.stream(**_defaults(kwargs))

    def iterate(self, stream: Any) -> Iterator[Any]:
        if self.loop is None:
            yield from stream
            return
        iterator = stream.__aiter__()
        while True:
            try:
                event = self.wait(iterator.__anext__())
            except StopAsyncIteration:
                return
            yield event

    def leave(self, stream: Any) -> None:
        self.wait(stream.close() if self.loop is None else stream.aclose())

    def events(self, **kwargs: Any) -> list[Any]:
        return list(self.iterate(self.stream(**kwargs)))

    def result(self, **kwargs: Any) -> Any:
        return self.wait(self.stream(**kwargs).result())

    def until(self, predicate: Callable[[], object], timeout: float = 20) -> None:
        """Wait for the predicate while the client's loop, if it has one, goes on turning."""
        deadline = time.monotonic() + timeout
        while not predicate():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.002) if self.loop is None else self.loop.run_until_complete(asyncio.sleep(0.002))

    def close(self) -> None:
        self.wait(self.raw.close())
        if self.loop:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


async def _awaited(value: Any) -> Any:
    return await value


def _defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"model": "test-model", "input": "Hello", "response_format": {"type": "object"}, **kwargs}


def for_each(client: Client, stream: Any, visit: Callable[[Any], object]) -> None:
    """Call `visit` with every event of a stream; leave the loop by `break` when it returns something true."""
    if client.loop is None:
        for event in stream:
            if visit(event):
                break
        return

    async def loop() -> None:
        async for event in stream:
            if visit(event):
                break

    client.wait(loop())


def read(client: Client, stream: Any) -> tuple[list[Any], Any]:
    """The operations that a stream delivers, and its value or its error, which `result()` raises again."""
    ops: list[Any] = []
    try:
        for_each(client, stream, lambda event: ops.append(event.op))
    except openai.OpenAIError as error:
        with pytest.raises(type(error)) as again:
            client.wait(stream.result())
        assert str(again.value) == str(error)
        return ops, documented(error)
    try:
        return ops, client.wait(stream.result())
    except openai.OpenAIError as error:
        return ops, documented(error)


def outcome(client: Client, way: str = "", **options: Any) -> tuple[list[Any], Any]:
    """The operations that a call delivers, and its value or its error."""
    if way != "generate":
        return read(client, client.stream(**options))
    try:
        return [], client.generate(**options)
    except openai.OpenAIError as error:
        return [], documented(error)


def documented(error: openai.OpenAIError) -> openai.OpenAIError:
    """The error, with what holds for each of them checked."""
    assert "test-key" not in "\n".join([str(error), repr(error), repr(vars(error))])
    assert not re.search("0x[0-9a-f]{6}|[\ufdd0-\ufdef\ufffe\uffff]", str(error))  # nothing of our insides
    if isinstance(error, InvalidOutputError):
        assert type(error.original_error) in (json.JSONDecodeError, pydantic.ValidationError)
        assert (type(error.raw_output), type(error.model)) == (str, str)
        assert error.finish_reason is None or type(error.finish_reason) is str
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
    return error


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that is a coroutine function."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: MonkeyPatch) -> None:
    """No test sees what the developer's environment says about keys, hosts and proxies."""
    # What runs in the background of a shell ignores Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = [name for name in os.environ if name.startswith(("OPENAI_", "DOTTXT_"))]
    list(map(monkeypatch.delenv, ours))
    monkeypatch.setenv("NO_PROXY", "*")
    # No test speaks TLS, and loading a system's certificates for each client would take most of the time.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(Path(__file__).parent))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        yield server


@pytest.fixture(params=[DotTxt, AsyncDotTxt], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[Connect]:
    """Makes clients of the gateway, without retries unless asked for, and closes them."""
    clients: list[Client] = []

    def make(**kwargs: Any) -> Client:
        options = {"api_key": "test-key", "base_url": gateway.url, "max_retries": 0, **kwargs}
        clients.append(Client(request.param, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


@pytest.fixture
def reader(gateway: Gateway) -> Iterator[Client]:
    """A client for tests of what a stream means, which the loop around it does not change."""
    client = Client(DotTxt, api_key="test-key", base_url=gateway.url, max_retries=0)
    yield client
    client.close()


# ---------------------------------------------------------------------------------------------------------
# What the tests talk about
# ---------------------------------------------------------------------------------------------------------

Call = Callable[[Client], object]
Connect = Callable[..., Client]
MonkeyPatch = pytest.MonkeyPatch


class Ticket(BaseModel):
    intent: Literal["billing", "bug"]
    steps: list[str]


class Priority(Enum):
    LOW = "low"
    HIGH = "high"


class Address(TypedDict):
    city: str
    zip: str


@dataclass
class Point:
    x: int
    y: int = 0


class Booking(BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    day: datetime.date
    size: tuple[int, int] = Field(alias="amount")


class Builder:
    """Any instance with ``to_json`` builds a schema."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def to_json(self) -> Any:
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


TICKET = {"intent": "billing", "steps": ["verify", "refund"]}
TICKET_TEXT, TICKET_OBJECT = json.dumps(TICKET), Ticket.model_validate(TICKET)
OPS_OF_TICKET = [*ops_of(TICKET)]
OBJECT = {"type": "object", "properties": {"zulu": {"type": "string"}, "alpha": {"type": "integer"}}}
MESSAGES = [{"role": "user", "content": "Hello"}]
MODELS = json_reply(
    {"object": "list", "data": [{"id": "m-1", "object": "model", "created": 1, "owned_by": "us"}]}
)
NO_PATCH_MODE = api_error(400, "Invalid type for 'stream': expected a boolean, but got a string instead.")
PAGE = "<!DOCTYPE html><title>Sign in</title>"
DEEP = 100_000
DIGITS = "9" * 10_000  # more than Python converts
OPENAI_ENVIRONMENT = {
    "OPENAI_API_KEY": "leak-key",
    "OPENAI_ORG_ID": "leak-org",
    "OPENAI_PROJECT_ID": "leak-project",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leak-url",
    "OPENAI_ADMIN_KEY": "leak-admin",
    "OPENAI_WEBHOOK_SECRET": "leak-secret",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer leak-auth\nX-Leak: leak-custom\nUser-Agent: leak-agent",
}


def list_models(client: Client) -> Any:
    return client.wait(client.raw.models.list())


def create(client: Client, **kwargs: Any) -> Any:
    kwargs = {"model": "test-model", "messages": MESSAGES, **kwargs}
    return client.wait(client.raw.chat.completions.create(**kwargs))


# Every way to the gateway, with the replies that make it succeed.
CALLS: dict[str, tuple[Call, list[Reply]]] = {
    "generate": (Client.generate, [completion("{}")]),
    "models": (list_models, [MODELS]),
    "chat": (create, [completion("Hi")]),
    "patch stream": (Client.events, [patches(op("", {}))]),
    "token stream": (Client.events, [NO_PATCH_MODE, sse("{}")]),
}
every_call = pytest.mark.parametrize(("call", "replies"), CALLS.values(), ids=CALLS)


def short(value: object) -> str:
    """A name for a test's case, the same in each process."""
    return ascii(value)[:40].partition(" object at ")[0]


def for_all(holds: Callable[..., None], *strategies: Any, examples: int = 100) -> None:
    """Run a property on random input."""
    hypothesis = pytest.importorskip("hypothesis")
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )
    settings(hypothesis.given(*strategies)(holds))()


def random_documents(st: Any) -> Any:
    """JSON documents whose keys and strings try hard to be mistaken for something else."""
    awkward = st.sampled_from(
        [
            "",
            "/",
            "~",
            "~1",
            "~0",
            "-",
            "0",
            "01",
            "a",
            "ä\u2028\u2029\u0085\x0b\x1c\r",
            '"\\',
            "😀",
            "\x00",
            "\ud83d",
            "\ude00",
        ]
    )
    text = awkward | st.text(st.characters(), max_size=8)
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
        max_leaves=20,
    )


def wreck(value: Any) -> None:
    """Change a value in every place where it can be changed."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        wreck(item)
    if isinstance(value, dict):
        value.clear()
        value["wrecked"] = True
    elif isinstance(value, list):
        value[:] = ["wrecked"]
