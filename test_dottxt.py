"""The tests of dottxt, in the order of the module's rooms, over real loopback sockets."""

# ruff: noqa: UP007, UP045 - Union[...] and Optional[...] are among the types under test

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import datetime
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import logging
import os
import pickle
import pty
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import tracemalloc
import typing
import urllib.request
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from random import Random
from types import GenericAlias, MappingProxyType
from typing import Annotated, Any, Literal, NewType, NoReturn, Optional, Union

import anyio
import openai
import openai.types.chat
import pydantic
import pytest
from openai.pagination import AsyncPage, SyncPage
from openai.resources.chat import AsyncCompletions, Completions
from pydantic import AfterValidator, BaseModel, Field, RootModel, TypeAdapter
from typing_extensions import TypedDict

import dottxt
from dottxt import (
    AsyncDotTxt,
    DotTxt,
    InvalidOutputError,
    InvalidSchemaError,
    PatchEvent,
    PatchStreamError,
    apply_add,
    build_response_format,
    normalize_schema,
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

    def wait_for(self, predicate: Callable[[], object], timeout: float = 5) -> None:
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
            raise self._errors[0]

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
        except BaseException as error:
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
                time.sleep(0.01)  # bytes of a request to come: they stay where they are
        connection.settimeout(None)


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; ``retry_after="1"`` becomes the header ``retry-after: 1``."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(json.dumps(value).encode(), status, names)


def api_error(status: int, message: str = "it went wrong", **headers: str) -> Reply:
    """An API error in OpenAI's envelope."""
    return json_reply({"error": {"message": message, "type": "error", "code": None}}, status, **headers)


USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def completion(content: str | None, finish_reason: str = "stop", **message: object) -> Reply:
    """A whole chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish_reason,
        "logprobs": None,
    }
    return json_reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "test-model",
            "choices": [choice],
            "usage": USAGE,
        }
    )


def op(path: str, value: object) -> dict[str, Any]:
    """An ``add`` operation of RFC 6902."""
    return {"op": "add", "path": path, "value": value}


def ndjson(*ops: object) -> Reply:
    """A patch stream, one chunk a line. Steps other than operations go through as they are."""
    lines = [step if isinstance(step, STEPS) else json.dumps(step).encode() + b"\n" for step in ops]
    return Reply(lines, headers={"Content-Type": "application/x-ndjson"})


def patches(*ops: object, done: Mapping[str, object] | None = MappingProxyType({})) -> Reply:
    """A patch stream as server-sent events, one chunk an event; ``done=None``: without its end mark."""
    steps: list[Step] = []
    for step in ops:
        event = b"event: patch\ndata: %b\n\n"
        steps.append(step if isinstance(step, STEPS) else event % json.dumps(step).encode())
    if done is not None:
        steps.append(b"event: done\ndata: %b\n\n" % json.dumps(dict(done)).encode())
    return Reply(steps, headers={"Content-Type": "text/event-stream"})


def sse(*deltas: object, finish_reason: str | None = "stop", usage: object = None) -> Reply:
    """A token stream, one chunk an event.

    A ``str`` or ``None`` is a delta's content, a ``dict`` a whole delta; other steps go through as they are.
    """

    def event(choices: list[object], usage: object = None) -> bytes:
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "test-model",
            "choices": choices,
        }
        if usage is not None:
            chunk["usage"] = usage
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def choice(delta: object, finish_reason: str | None = None) -> object:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason}

    steps: list[Step] = []
    for delta in deltas:
        if isinstance(delta, STEPS):
            steps.append(delta)
        else:
            steps.append(event([choice(delta if isinstance(delta, dict) else {"content": delta})]))
    if finish_reason is not None:
        steps.append(event([choice({}, finish_reason)]))
    if usage is not None:
        steps.append(event([], usage))
    steps.append(b"data: [DONE]\n\n")
    return Reply(steps, headers={"Content-Type": "text/event-stream"})


class Client:
    """Either client behind one blocking face, so that one test runs on both.

    ``raw`` is the client itself; ``wait(x)`` gives ``x``, or what it comes to when it is awaitable.
    """

    def __init__(self, kind: type[DotTxt] | type[AsyncDotTxt], **kwargs: Any) -> None:
        self.raw: Any = kind(**kwargs)
        self.loop = asyncio.new_event_loop() if kind is AsyncDotTxt else None

    def __enter__(self) -> Any:
        return self.raw.__enter__() if self.loop is None else self.wait(self.raw.__aenter__())

    def __exit__(self, *exc_info: object) -> None:
        leave = self.raw.__exit__ if self.loop is None else self.raw.__aexit__
        self.wait(leave(*exc_info))

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

    def until(self, predicate: Callable[[], object], timeout: float = 5) -> None:
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


def short(value: object) -> str:
    """A name for a test's case, the same in each process."""
    return ascii(value)[:40].partition(" object at ")[0]


async def _awaited(value: Any) -> Any:
    return await value


def _defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"model": "test-model", "input": "Hello", "response_format": {"type": "object"}, **kwargs}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the developer's environment says about keys, hosts and proxies."""
    # What runs in the background of a shell ignores Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in os.environ:
        if name.startswith(("OPENAI_", "DOTTXT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    # No test speaks TLS, and loading a system's certificates for each client would take most of the time.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(Path(__file__).parent))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        yield server


@pytest.fixture(params=[DotTxt, AsyncDotTxt], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[Callable[..., Client]]:
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
def client(connect: Callable[..., Client]) -> Client:
    return connect()


# ---------------------------------------------------------------------------------------------------------
# What the tests talk about
# ---------------------------------------------------------------------------------------------------------


class Ticket(BaseModel):
    intent: Literal["billing", "bug"]
    steps: list[str]


TICKET = {"intent": "billing", "steps": ["verify", "refund"]}


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


MESSAGES = [{"role": "user", "content": "Hello"}]
MODELS = json_reply(
    {"object": "list", "data": [{"id": "m-1", "object": "model", "created": 1, "owned_by": "us"}]}
)
NO_PATCH_MODE = api_error(400, "Invalid type for 'stream': expected a boolean, but got a string instead.")


SOON = {"retry_after_ms": "1"}


def list_models(client: Client) -> Any:
    return client.wait(client.raw.models.list())


def create(client: Client, **kwargs: Any) -> Any:
    kwargs = {"model": "test-model", "messages": MESSAGES, **kwargs}
    return client.wait(client.raw.chat.completions.create(**kwargs))


# Every way to the gateway, with the replies that make it succeed.
CALLS: dict[str, tuple[Callable[[Client], object], list[Reply]]] = {
    "generate": (Client.generate, [completion("{}")]),
    "models": (list_models, [MODELS]),
    "chat": (create, [completion("Hi")]),
    "patch stream": (Client.events, [ndjson(op("", {}))]),
    "token stream": (Client.events, [NO_PATCH_MODE, sse("{}")]),
}
every_call = pytest.mark.parametrize(("call", "replies"), CALLS.values(), ids=CALLS)


Call = Callable[[Client], object]
Connect = Callable[..., Client]
MonkeyPatch = pytest.MonkeyPatch


# ---------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------


class Unwelcome(ValueError):
    """An exception that cannot be unpickled, as those with arguments of their own cannot."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"unwelcome with code {code}")


def refuse_with_a_code(value: object) -> object:
    raise Unwelcome(code=7)


class Picky(BaseModel):
    intent: Annotated[str, AfterValidator(refuse_with_a_code)]


class Indescribable:
    """A class without a schema."""


def generating(response_format: object) -> Call:
    return lambda client: client.generate(response_format=response_format)


# Each gives one error of ours, as its user meets it.
FAILURES: dict[str, tuple[type[Exception], Call, Reply]] = {
    "truncated": (InvalidOutputError, Client.generate, completion('{"intent": "bil', "length")),
    "no content": (InvalidOutputError, Client.generate, completion(None, "length")),
    "does not fit": (InvalidOutputError, generating(Ticket), completion('{"intent": "é", "steps": 1}')),
    "an error of the validator's own": (
        InvalidOutputError,
        generating(Picky),
        completion('{"intent": "bug"}'),
    ),
    "bad schema": (InvalidSchemaError, generating({"type": 1}), completion("")),
    "bad type": (InvalidSchemaError, generating(Indescribable), completion("")),
    "status": (PatchStreamError, Client.events, api_error(401, "wrong key")),
    "line": (PatchStreamError, Client.events, ndjson(op("", {}), b"oops\n")),
}


def failure(name: str, client: Client, gateway: Gateway) -> Any:
    kind, call, reply = FAILURES[name]
    gateway.reply(reply)
    with pytest.raises(kind) as caught:
        call(client)
    return caught.value


# The attributes of each error, as they are where it is made by hand and nothing is said.
ATTRIBUTES: dict[type[Exception], dict[str, object]] = {
    InvalidOutputError: {"model": "", "raw_output": "", "finish_reason": None, "original_error": None},
    InvalidSchemaError: {},
    PatchStreamError: {"status_code": 200, "body": ""},
}


def facts(error: Exception) -> dict[str, Any]:
    """All that a handler can read from an error, in comparable form."""
    attributes: dict[str, Any] = {name: getattr(error, name) for name in ATTRIBUTES[type(error)]}
    original = attributes.pop("original_error", None)
    if isinstance(original, json.JSONDecodeError):
        attributes |= vars(original)
    elif original is not None:
        # Without a validator's own exception, which need not survive, and the address of a help page.
        found = original.errors(include_url=False)
        attributes |= {"title": original.title, "errors": [{**one, "ctx": None} for one in found]}
    return {"type": type(error), "str": str(error), "original": type(original), **attributes}


def assert_survives_pickle_and_copy(error: Exception) -> None:
    duplicates = [copy.copy(error), copy.deepcopy(error)]
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    duplicates += [pickle.loads(pickle.dumps(error, protocol)) for protocol in protocols]
    duplicates.append(pickle.loads(pickle.dumps(duplicates[-1])))
    for duplicate in duplicates:
        assert duplicate is not error
        assert facts(duplicate) == facts(error)


@pytest.mark.parametrize("name", FAILURES)
def test_every_error_is_an_error_of_the_sdk_too_and_survives_pickle_and_copy(
    name: str, client: Client, gateway: Gateway
) -> None:
    error = failure(name, client, gateway)
    assert isinstance(error, openai.OpenAIError)
    assert isinstance(error, RuntimeError if isinstance(error, PatchStreamError) else ValueError)
    assert_survives_pickle_and_copy(error)


NOT_A_VALUE = json.JSONDecodeError("Expecting value", "oops", 0)


@pytest.mark.parametrize(
    ("kind", "args", "attributes", "message"),
    [
        (InvalidOutputError, [], {}, "."),
        (InvalidOutputError, ["oh"], {"model": "m"}, "^oh$"),
        (InvalidOutputError, [], {"model": "m-1", "finish_reason": "length"}, "m-1.*length"),
        (InvalidOutputError, [], {"raw_output": "oops", "original_error": NOT_A_VALUE}, "Expecting value"),
        (PatchStreamError, [], {}, "."),
        (PatchStreamError, ["oh"], {"status_code": 500, "body": "b"}, "^oh$"),
        (PatchStreamError, [], {"status_code": 503, "body": "closed"}, "(?s)(?=.*503)(?=.*closed)"),
    ],
)
def test_an_error_can_be_made_by_hand_with_or_without_a_message(
    kind: Any, args: list[str], attributes: dict[str, object], message: str
) -> None:
    error = kind(*args, **attributes)
    expected = {**ATTRIBUTES[kind], **attributes}
    assert {name: getattr(error, name) for name in expected} == expected
    assert re.search(message, str(error))
    assert_survives_pickle_and_copy(error)


# ---------------------------------------------------------------------------------------------------------
# Schemas
# ---------------------------------------------------------------------------------------------------------

OBJECT = {"type": "object", "properties": {"zulu": {"type": "string"}, "alpha": {"type": "integer"}}}


class Builder:
    """Any instance with ``to_json`` builds a schema."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def to_json(self) -> Any:
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


class Exported(BaseModel):
    """A class that merely defines ``to_json`` is a type."""

    name: str

    def to_json(self) -> str:
        return "not a schema"


TYPES: dict[str, Any] = {
    "BaseModel": Ticket,
    "generic BaseModel": RootModel[list[Ticket]],
    "BaseModel with to_json": Exported,
    "TypedDict": Address,
    "dataclass": Point,
    "Enum": Priority,
    "Literal": Literal["yes", "no"],
    "Union": Union[int, Ticket],
    "X | Y": Ticket | int,
    "Optional": Optional[Point],
    "list": list[Ticket],
    "dict": dict[str, Point],
    "tuple": tuple[int, Ticket],
    "Annotated": Annotated[int, Field(ge=1, description="how many")],
    "Annotated with unhashable metadata": Annotated[Ticket, {"un": "hashable"}],
    "Any": Any,
    "NewType": NewType("Id", int),
}


def text_of(schema: object) -> str:
    """A schema's text: the order of its keys is the order in which a model writes the fields."""
    return json.dumps(schema)


def sent_schema(gateway: Gateway) -> Any:
    return gateway.requests[-1].json["response_format"]["json_schema"]["schema"]


@pytest.mark.parametrize("given", TYPES.values(), ids=TYPES)
def test_a_type_or_its_adapter_becomes_the_schema_that_pydantic_gives_it(given: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(given)
    assert text_of(normalize_schema(given)) == text_of(adapter.json_schema())
    assert text_of(normalize_schema(adapter)) == text_of(adapter.json_schema())


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT,
        {},
        {"title": "schéma 😀", "$defs": {"A": {"type": "string"}}, "items": {"$ref": "#/$defs/A"}},
        {"x-order": 1, "propertyOrdering": ["a"], "nullable": "yes"},
        {"pattern": r"^\p{L}+$"},
        {"patternProperties": {r"\p{Lu}(": {}}},
        {"format": "no-such-format"},
        {"minLength": 2.0, "maximum": 1e300, "multipleOf": 0.01},
        {"enum": [], "const": None, "default": [1, {"type": 1}], "examples": [{"type": 1}]},
        {"properties": {"type": True, "required": False, "$ref": {}}},
        {"properties": {"name": {"type": "string"}, "schema": {"type": "object"}}},
        {"maximum": 10**40},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}], "type": 1},
        {"type": "structural-tag", "format": {"type": "json_schema"}, "required": 1},
    ],
    ids=str,
)
def test_a_json_schema_is_sent_as_it_is(schema: dict[str, Any], client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    before = text_of(schema)
    for form in (schema, f" \n{before}\t", Builder(before)):
        client.generate(response_format=form)
        assert text_of(sent_schema(gateway)) == text_of(schema) == before


def test_a_genson_builder_is_asked_anew_each_time() -> None:
    genson = pytest.importorskip("genson")
    builder = genson.SchemaBuilder()
    for example in ({"city": "Paris", "zip": 75001}, {"city": None}):
        builder.add_object(example)
        assert normalize_schema(builder) == builder.to_schema()


def test_a_typing_typed_dict_works_or_names_its_cure() -> None:
    class Old(typing.TypedDict):
        city: str

    for given in (Old, list[Old]):
        if sys.version_info >= (3, 12):
            assert normalize_schema(given) == TypeAdapter(given).json_schema()
        else:
            with pytest.raises(InvalidSchemaError, match=r"typing_extensions\.TypedDict"):
                normalize_schema(given)


def a_function(text: str) -> str:
    return text


DEEP = 100_000
ENVELOPE = {"type": "json_schema", "json_schema": {"name": "answer", "schema": OBJECT}}
INNER = "(?i)inner schema"

# What is given, what the message must say of it, and the chained cause.
REFUSALS: dict[str, tuple[Any, str, type[BaseException] | None]] = {
    "the request's envelope": (ENVELOPE, INNER, None),
    "the text of the envelope": (json.dumps(ENVELOPE), INNER, None),
    "the inner envelope": (ENVELOPE["json_schema"], INNER, None),
    "a path": (Path("ticket.json"), r"read_text\(\)", None),
    "None": (None, "None", None),
    "text that is not JSON": ("an object with a name", "JSON", json.JSONDecodeError),
    "text with NaN": ('{"maximum": NaN}', "JSON", None),
    "text that nests too deep": (
        '{"not":' * DEEP + "{}" + "}" * DEEP,
        "(?i)nest|deep|depth|recursion",
        ValueError,
    ),
    "JSON true": ("true", "object", None),
    "a JSON array": ("[]", "object", None),
    "a raw list": ([{"type": "string"}], r"list\[T\]", None),
    "a function": (a_function, "function", None),
    "an instance of a model": (Ticket(intent="bug", steps=[]), "Ticket", None),
    "an instance of a dataclass": (Point(1), "Point", None),
    "a member of an enum": (Priority.LOW, "Priority", None),
    "a class that Pydantic cannot describe": (Indescribable, "Indescribable", Exception),
    "a type without a schema": (Callable[[int], int], "Callable", Exception),
    "a number": (1, "1", None),
    "bytes": (b"{}", "bytes|b'{}'", None),
    "a tuple": ((1, 2), r"list\[T\]", None),
    "to_json that raises": (Builder(KeyError("field")), "to_json", KeyError),
    "to_json that returns a dict": (Builder({}), r"to_json.*str", None),
    "to_json that is not JSON": (Builder("oops"), "to_json.*JSON", json.JSONDecodeError),
    "to_json of a bad schema": (Builder('{"type": 1}'), "/type", None),
    "a dict with a value outside JSON": ({"enum": {1, 2}}, "JSON", None),
    "a dict with a lone surrogate": ({"description": "\ud800"}, "surrogate|UTF-8", UnicodeError),
    "text with a lone surrogate": ('{"description": "\\ud800"}', "surrogate|UTF-8", UnicodeError),
    "a dict with NaN": ({"maximum": float("nan")}, "maximum|JSON", None),
}


@pytest.mark.parametrize(("given", "message", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_all_else_is_refused_with_a_reason_before_anything_is_sent(
    given: Any, message: str, cause: type[BaseException] | None, client: Client, gateway: Gateway
) -> None:
    for call in (client.generate, client.stream):
        with pytest.raises(InvalidSchemaError, match=f"(?s){message}") as caught:
            call(response_format=given)
        assert len(str(caught.value)) < 1000
        if cause:
            assert isinstance(caught.value.__cause__, cause)
    assert gateway.connections == 0


@pytest.mark.parametrize("key", ["not", "default"])
def test_a_dict_that_contains_itself_or_nests_too_deep_is_refused(key: str) -> None:
    looped: dict[str, Any] = {}
    looped[key] = [looped] if key == "default" else looped
    schema: dict[str, Any] = {}
    for _ in range(DEEP):
        schema = {key: schema}
    for given in (looped, schema):
        with pytest.raises(InvalidSchemaError):
            normalize_schema(given)
    while schema:
        schema = schema[key]  # a dict this deep must be taken apart by hand


# A schema that draft 2020-12's meta-schema refuses, and the place.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"type": 1}, "/type"),
    ({"minLength": -1}, "/minLength"),
    ({"multipleOf": 0}, "/multipleOf"),
    ({"required": "a"}, "/required"),
    ({"required": ["a", 1]}, "/required/1"),
    ({"properties": []}, "/properties"),
    ({"properties": {"a/b~c": {"type": 1}}}, "/properties/a~1b~0c/type"),
    ({"items": [{"type": "string"}]}, "/items"),
    ({"allOf": [{"type": "object"}, {"minimum": "x"}]}, "/allOf/1/minimum"),
    ({"$defs": {"A": {"enum": "abc"}}}, "/$defs/A/enum"),
    ({"if": {"then": {"else": {"not": {"$ref": 1}}}}}, "/if/then/else/not/$ref"),
    ({"dependencies": {"a": ["b", "b"]}}, "/dependencies/a"),
    ({"$id": "a#b"}, "/$id"),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": 1}, "/type"),
    ({"properties": {"a": {"type": "structural-tag"}}}, "/properties/a/type"),
    ({"items": {"$schema": "http://json-schema.org/draft-07/schema#", "type": 1}}, "/items/type"),
]


@pytest.mark.parametrize(("schema", "place"), BROKEN, ids=str)
def test_a_broken_schema_is_refused_and_the_place_is_named(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        normalize_schema(schema)
    assert place in named_places(str(caught.value))


def named_places(message: str) -> list[str]:
    """The JSON Pointers in a message."""
    return re.findall(r"(?<![^\s'\"(`])/[^\s'\":`,;)]*", message)


JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 2.0, -0.0, "", "string", "a#b", "1a"),
    *([], [1], ["a"], ["a", "a"], ["string"], ["string", "string"], [{}], [{"type": 1}], [True], [None]),
    *({}, {"a": 1}, {"a": {}}, {"a": ["b"]}, {"a": ["b", "b"]}, {"a": {"type": 1}}, {"a": True}),
]
# The keywords of draft 2020-12, and values that they may have.
KEYWORDS: dict[str, list[Any]] = {
    "type": ["array", "boolean", "integer", "null", "number", "object", "string", ["string", "null"]],
    "required": [[], ["a"], ["a", "b"]],
    "dependentRequired": [{}, {"a": []}, {"a": ["b", "c"]}],
    "dependencies": [{}, {"a": ["b"]}, {"b/c": {"type": "string"}}, {"~": True}],
    "$vocabulary": [{}, {"a": True}],
    "minLength maxLength minItems maxItems minContains maxContains minProperties maxProperties": [0, 1, 2.0],
    "maximum exclusiveMaximum minimum exclusiveMinimum": [-1, 0, 2.5],
    "multipleOf": [1, 0.5, 1e-9],
    "deprecated readOnly writeOnly uniqueItems": [True, False],
    "$comment title description format pattern contentEncoding contentMediaType": ["a", "("],
    "$id $ref $dynamicRef $recursiveRef": ["a", "#/$defs/a"],
    "$anchor $dynamicAnchor $recursiveAnchor": ["a", "_b.c-1"],
    "const default": JUNK,
    "enum examples": [[], ["a", 1], [{"type": 1}, None]],
}
VALUES_OF = {keyword: values for keywords, values in KEYWORDS.items() for keyword in keywords.split()}
WITH_A_SCHEMA = [
    *("items", "contains", "additionalProperties", "propertyNames", "if", "then", "else", "not"),
    *("contentSchema", "unevaluatedItems", "unevaluatedProperties"),
]
WITH_SCHEMAS = ["prefixItems", "allOf", "anyOf", "oneOf"]
WITH_NAMED_SCHEMAS = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"]


def random_schema(rng: Random, depth: int = 3) -> Any:
    """A schema of draft 2020-12's keywords, broken here and there."""
    if depth < 3 and rng.random() < 0.1:
        return rng.random() < 0.5

    def value(keyword: str) -> Any:
        if rng.random() < 0.08:
            return rng.choice(JUNK)
        if keyword in VALUES_OF:
            return rng.choice(VALUES_OF[keyword])
        schemas = [random_schema(rng, depth - 1) if depth else {} for _ in range(rng.randint(1, 2))]
        if keyword in WITH_NAMED_SCHEMAS:
            return dict(zip(rng.sample(["a", "b/c", "~", "", "type"], 2), schemas, strict=False))
        return schemas if keyword in WITH_SCHEMAS else schemas[0]

    keywords = rng.sample([*VALUES_OF, *WITH_A_SCHEMA, *WITH_SCHEMAS, *WITH_NAMED_SCHEMAS], 4)
    return {keyword: value(keyword) for keyword in keywords[: rng.randint(0, 4)]}


def test_the_schema_check_agrees_with_jsonschema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    draft = jsonschema.Draft202012Validator
    judge = draft(draft.META_SCHEMA)  # as check_schema does, without the formats

    def places(error: Any) -> Iterator[str]:
        yield "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)
        for inner in error.context:
            yield from places(inner)

    rng = Random(20200512)
    refused = 0
    for _ in range(700):
        schema = random_schema(rng)
        errors = list(judge.iter_errors(schema))
        if not errors:
            assert normalize_schema(schema) == schema
            continue
        refused += 1
        with pytest.raises(InvalidSchemaError) as caught:
            normalize_schema(schema)
        wrong = {place for error in errors for place in places(error)}
        assert wrong & set(named_places(str(caught.value))), (schema, str(caught.value), wrong)
    assert 100 < refused < 600


@pytest.mark.parametrize("form", [lambda model: model, TypeAdapter], ids=["class", "TypeAdapter"])
def test_a_types_schema_is_computed_once(
    form: Callable[[Any], Any], connect: Connect, gateway: Gateway
) -> None:
    computed: list[str] = []

    class Counted(BaseModel):
        value: int

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
            computed.append("once more")
            return handler(core_schema)

    given = form(Counted)
    first = normalize_schema(given)
    once = len(computed)
    assert once > 0
    assert build_response_format(given)["json_schema"]["schema"] == first
    gateway.reply(completion('{"value": 1}'))
    for client in (connect(), connect()):
        client.generate(response_format=given)
    assert len(computed) == once


def test_kept_schemas_do_not_pile_up() -> None:
    first = TypeAdapter(int)
    normalize_schema(first)
    gone = weakref.ref(first)
    del first
    for _ in range(2_000):
        normalize_schema(TypeAdapter(int))
    gc.collect()
    assert gone() is None


def test_a_caller_who_changes_a_schema_changes_no_other() -> None:
    first = normalize_schema(Ticket)
    first["properties"]["intent"]["type"] = "broken"
    first["properties"].clear()
    build_response_format(Ticket)["json_schema"]["schema"]["required"].append("broken")
    assert normalize_schema(Ticket) == Ticket.model_json_schema()
    mine: dict[str, Any] = {"type": "string"}
    normalize_schema(mine)
    mine["type"] = 1  # a dict is judged as it is now
    with pytest.raises(InvalidSchemaError, match="/type"):
        normalize_schema(mine)


def test_build_response_format_names_and_wraps_the_schema() -> None:
    inner = {"name": "response", "schema": OBJECT}
    assert build_response_format(OBJECT) == {"type": "json_schema", "json_schema": inner}
    inner = {"name": "ticket", "schema": Ticket.model_json_schema()}
    assert build_response_format(Ticket, name="ticket") == {"type": "json_schema", "json_schema": inner}
    with pytest.raises(InvalidSchemaError):
        build_response_format([])


class Op(BaseModel):
    mine: int


def test_a_name_in_a_type_means_what_it_means_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Messages:  # a name of the module's own
        mine: int

    module = sys.modules[__name__]
    monkeypatch.setattr(module, "ThisOne", Op, raising=False)
    for name in ("Op", "ThisOne", "Messages"):
        for given in (GenericAlias(list, (name,)), Annotated[GenericAlias(dict, (str, name)), "note"]):
            assert "mine" in json.dumps(normalize_schema(given))
    monkeypatch.setattr(module, "ThisOne", int)
    assert normalize_schema(GenericAlias(list, ("ThisOne",)))["items"] == {"type": "integer"}


# ---------------------------------------------------------------------------------------------------------
# Clients
# ---------------------------------------------------------------------------------------------------------


def http_library() -> Any:
    """``httpx`` under SDK 1.x and 2.x, ``httpx2`` under 3.x."""
    return importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


COPIES: dict[str, Callable[..., Any]] = {
    "with_options": lambda raw, **options: raw.with_options(**options),
    "a copy of a copy": lambda raw, **options: raw.with_options(max_retries=0).copy(**options),
}


# Given to the constructor, set in the environment, and sent.
KEYS = {
    "given": ("a-key", None, "a-key"),
    "given and set": ("a-key", "env-key", "a-key"),
    "set": (None, "env-key", "env-key"),
    "given with white space": ("  a-key \t\r\n", None, "a-key"),
    "set with a line end": (None, "env-key\r\n", "env-key"),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_key_goes_out_as_a_bearer_token(
    name: str, connect: Connect, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    given, in_environment, sent_key = KEYS[name]
    if in_environment:
        monkeypatch.setenv("DOTTXT_API_KEY", in_environment)
    gateway.reply(MODELS)
    list_models(connect(api_key=given))
    assert gateway.requests[0].headers["authorization"] == f"Bearer {sent_key}"


BOTH_WAYS = r"(?s)(?=.*\bapi_key\b)(?=.*\bDOTTXT_API_KEY\b)"
WRONG_KEYS = {
    "none": (None, None, BOTH_WAYS),
    "a blank one set": (None, " \n", BOTH_WAYS),
    "an empty one": ("", "marked-env-key", "key"),
    "a blank one": (" \n", "marked-env-key", "key"),
    "a line end within": ("marked\nsecret", None, "key"),
    "not ASCII": ("marked-sécret", None, "key"),
    "a NUL": ("marked\0secret", None, "key"),
}


@pytest.mark.parametrize(("given", "in_environment", "message"), WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_wrong_key_is_a_value_error_that_does_not_quote_it_and_nothing_stands_in_for_it(
    given: str | None, in_environment: str | None, message: str, connect: Connect, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "marked-for-openai")
    raw = connect().raw
    if in_environment is not None:
        monkeypatch.setenv("DOTTXT_API_KEY", in_environment)
    ways: list[Callable[..., Any]] = [connect]
    if given is not None:
        ways += [functools.partial(duplicate, raw) for duplicate in COPIES.values()]
    for way in ways:
        with pytest.raises(ValueError, match=message) as caught:
            way(api_key=given)
        assert "marked" not in "".join(traceback.format_exception(caught.value))


@every_call
def test_a_callable_key_is_called_for_each_request(
    call: Call, replies: list[Reply], connect: Connect, gateway: Gateway
) -> None:
    if "Callable" not in str(inspect.signature(openai.OpenAI).parameters["api_key"].annotation):
        pytest.skip("this SDK takes no callable")
    keys = (f"key-{number}" for number in itertools.count(1))

    def next_key() -> str:
        return next(keys)

    async def async_next_key() -> str:
        return next(keys)

    gateway.reply(*replies)
    client = connect(api_key=async_next_key if connect().loop else next_key)
    client.raw = client.raw.with_options(timeout=5)
    call(client)
    sent_keys = [request.headers["authorization"] for request in gateway.requests]
    assert sent_keys == [f"Bearer key-{number}" for number in range(1, len(replies) + 1)]


# Given to the constructor, set in the environment, and asked for; {} is the server.
URLS = {
    "given": ("{}/given", None, "/given/models"),
    "given and set": ("{}/given", "{}/set", "/given/models"),
    "set": (None, "{}/set", "/set/models"),
    "empty and set": ("", "{}/set", "/set/models"),
    "blank and set": (" \n", "{}/set", "/set/models"),
    "given with a slash": ("{}/given/", None, "/given/models"),
    "given with slashes": ("{}/given///", None, "/given/models"),
    "set with a slash": (None, "{}/set/", "/set/models"),
    "of the server alone": ("{}", None, "/models"),
}


@pytest.mark.parametrize("kind", [str, lambda url: http_library().URL(url)], ids=["str", "URL"])
@pytest.mark.parametrize("name", URLS)
def test_the_base_url_is_the_given_one_or_that_of_the_environment(
    name: str, kind: Callable[[str], Any], connect: Connect, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    given, in_environment, path = URLS[name]
    server = gateway.url.removesuffix("/v1")
    if in_environment:
        monkeypatch.setenv("DOTTXT_BASE_URL", in_environment.format(server))
    if given and given.strip():
        given = kind(given.format(server))
    gateway.reply(MODELS)
    client = connect(base_url=given)
    list_models(client)
    client.raw = client.raw.with_options(max_retries=0)
    list_models(client)
    assert [request.path for request in gateway.requests] == [path, path]


@pytest.mark.parametrize("url", [None, "", " \n"], ids=repr)
def test_the_base_url_is_the_dottxt_api_otherwise(url: str | None, monkeypatch: MonkeyPatch) -> None:
    http = http_library()
    seen: list[str] = []

    def answer(request: Any) -> Any:
        seen.append(str(request.url))
        return http.Response(200, json={"object": "list", "data": []})

    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/leak")
    if url is not None:
        monkeypatch.setenv("DOTTXT_BASE_URL", url)
    transport = http.MockTransport(answer)
    with DotTxt(api_key="k", base_url=url, http_client=http.Client(transport=transport)) as client:
        client.models.list()
        client.copy().models.list()
    assert seen == ["https://api.dottxt.ai/v1/models"] * 2


@pytest.mark.parametrize("url", ["localhost:8000/v1", "api.dottxt.ai/v1", "//localhost/v1", "ftp://host/v1"])
def test_a_base_url_without_http_or_https_is_a_value_error_that_says_so(
    url: str, connect: Connect, monkeypatch: MonkeyPatch
) -> None:
    raw = connect().raw
    for way in (connect, raw.with_options, raw.copy):
        with pytest.raises(ValueError, match=r"(?s)(?=.*http://)(?=.*https://)"):
            way(base_url=url)
    monkeypatch.setenv("DOTTXT_BASE_URL", url)
    with pytest.raises(ValueError, match=r"(?s)(?=.*http://)(?=.*https://)"):
        connect(base_url=None)


OPENAI_ENVIRONMENT = {
    "OPENAI_API_KEY": "leak-key",
    "OPENAI_ORG_ID": "leak-org",
    "OPENAI_PROJECT_ID": "leak-project",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leak-url",
    "OPENAI_ADMIN_KEY": "leak-admin",
    "OPENAI_WEBHOOK_SECRET": "leak-secret",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer leak-auth\nX-Leak: leak-custom\nUser-Agent: leak-agent",
}


def ask_as_admin(client: Client) -> None:
    if hasattr(client.raw, "admin"):
        with suppress(openai.OpenAIError, TypeError):  # the SDK may miss the key that it must not find
            client.wait(client.raw.admin.organization.projects.retrieve("p"))


EVERY_CALL: dict[str, tuple[Call, list[Reply]]] = {
    **CALLS,
    "raw response": (lambda client: client.wait(client.raw.models.with_raw_response.list()), [MODELS]),
    "chat stream": (lambda client: list(client.iterate(create(client, stream=True))), [sse("Hi")]),
    "files": (lambda client: client.wait(client.raw.files.list()), [MODELS]),
    "batches": (lambda client: client.wait(client.raw.batches.list()), [MODELS]),
    "admin": (ask_as_admin, [json_reply({"id": "p"})]),
}
WAYS = {"the client": lambda raw: raw, "a copy of a copy": COPIES["a copy of a copy"]}
MINE = {
    "x-leak": "mine",
    "user-agent": "my-agent",
    "openai-organization": "my-org",
    "openai-project": "my-project",
}
OWN_OPTIONS = {
    "default_headers": {"X-Leak": "mine", "User-Agent": "my-agent"},
    "default_query": {"q": "2"},
    "organization": "my-org",
    "project": "my-project",
}


@pytest.mark.parametrize("own", [False, True], ids=["no options", "options"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_request_carries_what_the_caller_gave_and_nothing_that_the_environment_holds_for_openai(
    call: str, way: str, own: bool, connect: Connect, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    ask, replies = EVERY_CALL[call]
    options, headers = (OWN_OPTIONS, MINE) if own else ({}, {})

    def requests(client: Client) -> list[Request]:
        gateway.reply(*replies)
        before = len(gateway.requests)
        client.raw = WAYS[way](client.raw)
        ask(client)
        return gateway.requests[before:]

    without = requests(connect(**options))
    early = connect(**options)
    for name, value in OPENAI_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    environment = dict(os.environ)
    for within in (requests(early), requests(connect(**options))):
        for before, now in zip(without, within, strict=True):
            assert (now.path, now.headers) == (before.path, before.headers)
            assert now.path.endswith("?q=2") == own
            assert now.headers.items() >= headers.items()
            assert now.headers["authorization"] == "Bearer test-key"
            assert "leak-" not in str(now)
    assert dict(os.environ) == environment


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_differs_from_its_client_only_where_it_was_told_to(
    duplicate: Callable[..., Any], connect: Connect, gateway: Gateway
) -> None:
    client = connect(default_headers={"X-First": "1"})
    first = client.raw
    second = {"api_key": " another-key\n", "base_url": gateway.url.replace("v1", "v2/")}
    gateway.reply(MODELS)
    for options, path, key, header in (
        ({}, "/v1/models", "test-key", None),
        ({"default_headers": {"X-Second": "2"}}, "/v1/models", "test-key", "2"),
        (second, "/v2/models", "another-key", None),
    ):
        for raw, expected in (
            (duplicate(first, **options), (path, key, header)),
            (first, ("/v1/models", "test-key", None)),
        ):
            client.raw = raw
            list_models(client)
            request = gateway.requests[-1]
            sent_key = request.headers["authorization"].removeprefix("Bearer ")
            assert (request.path, sent_key, request.headers.get("x-second")) == expected
            assert request.headers["x-first"] == "1"
    assert gateway.connections == 1


@every_call
def test_the_clients_timeout_holds_for_every_call(
    call: Call, replies: list[Reply], connect: Connect, gateway: Gateway
) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    with pytest.raises(openai.APITimeoutError):
        call(connect(timeout=0.05))


@every_call
def test_the_clients_retries_and_http_client_hold_for_every_call(
    call: Call, replies: list[Reply], connect: Connect, gateway: Gateway
) -> None:
    http = http_library()
    kind = http.AsyncClient if connect().loop else http.Client
    busy = api_error(503, "busy", **SOON)
    gateway.reply(busy, busy, *replies)
    call(connect(max_retries=2, http_client=kind(headers={"X-Mine": "1"})))
    assert [request.headers["x-mine"] for request in gateway.requests] == ["1"] * (2 + len(replies))


def test_models_list_is_the_sdks_page(client: Client, gateway: Gateway) -> None:
    gateway.reply(MODELS)
    page = list_models(client)
    assert isinstance(page, AsyncPage if client.loop else SyncPage)
    assert isinstance(page.data[0], openai.types.Model)
    assert [model.id for model in client.iterate(client.raw.models.list())] == ["m-1"]


@pytest.mark.parametrize("way", ["close", "with", "with and an exception"])
def test_a_client_that_is_closed_or_left_has_no_connection(
    way: str, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion("{}"))

    def work() -> None:
        client.generate()
        assert gateway.open == 1
        if way == "with and an exception":
            raise ZeroDivisionError

    if way == "close":
        work()
        client.wait(client.raw.close())
    else:
        fails = way == "with and an exception"
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), client as entered:
            assert entered is client.raw
            work()
    gateway.wait_for(lambda: gateway.open == 0)


def test_no_repr_message_or_log_shows_the_key(
    connect: Connect, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(api_key="marked-secret")
    gateway.reply(completion("{}"))
    client.generate()
    shown = [client.raw, client.raw.copy(), client.raw.chat, client.raw.models, client.stream()]
    shown += [failure(name, client, gateway) for name in FAILURES]
    assert "marked-secret" not in "\n".join([*map(repr, shown), *map(str, shown), caplog.text])
    assert gateway.requests[0].headers["authorization"] == "Bearer marked-secret"


# ---------------------------------------------------------------------------------------------------------
# generate
# ---------------------------------------------------------------------------------------------------------

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CONVERSATION = [
    {"role": "system", "content": "Be brief.", "name": "s"},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, PICTURE]},
    {"role": "assistant", "content": None, "refusal": "no", "x-unknown": [1]},
]


@pytest.mark.parametrize(
    ("given", "messages"),
    [("Grüße\n😀", [{"role": "user", "content": "Grüße\n😀"}]), (CONVERSATION, CONVERSATION)],
    ids=["text", "messages"],
)
def test_a_text_is_one_user_message_and_messages_are_passed_on_unchanged(
    given: Any, messages: object, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion("{}"))
    before = copy.deepcopy(given)
    client.generate(model="m", input=given, response_format=OBJECT)
    request = gateway.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    body = request.json
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", body["response_format"]["json_schema"].pop("name"))
    response_format = {"type": "json_schema", "json_schema": {"schema": OBJECT}}
    assert body == {"model": "m", "messages": messages, "response_format": response_format}
    assert given == before


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"temperature": 0, "max_tokens": 0, "seed": 0}, {"temperature": 0, "max_tokens": 0, "seed": 0}),
        ({"temperature": 0.7, "seed": None}, {"temperature": 0.7}),
        ({"temperature": None, "max_tokens": None, "seed": None}, {}),
        ({"top_p": 0.9, "stop": ["END"], "user": "u"}, {"top_p": 0.9, "stop": ["END"], "user": "u"}),
        ({"extra_body": {"top_k": 3}}, {"top_k": 3}),
        ({"extra_headers": {"X-Mine": "1"}, "extra_query": {"q": "2"}}, {}),
    ],
    ids=str,
)
def test_options_of_create_are_sent_when_they_are_given(
    given: dict[str, Any], fields: dict[str, Any], client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion("{}"))
    for call in (client.generate, client.generate_with_completion):
        call(**given)
        request = gateway.requests[-1]
        body = {**request.json, **fields}
        assert body == request.json
        assert body.keys() == {"model", "messages", "response_format", *fields}
        assert request.headers.get("x-mine") == given.get("extra_headers", {}).get("X-Mine")
        assert request.path.endswith("?q=2" if "extra_query" in given else "/completions")


@pytest.mark.parametrize("method", ["generate", "generate_with_completion"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stream": True}, r"\bstream\("),
        ({"messages": MESSAGES}, r"\binput\b"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": MESSAGES[0]}, "input"),
    ],
    ids=str,
)
def test_wrong_arguments_are_type_errors_that_say_what_to_use(
    method: str, wrong: dict[str, Any], message: str, client: Client, gateway: Gateway
) -> None:
    with pytest.raises(TypeError, match=message):
        getattr(client, method)(**wrong)
    with pytest.raises(TypeError):
        client.wait(getattr(client.raw, method)("test-model", "Hello", OBJECT))
    assert gateway.connections == 0


def test_tools_that_wrap_create_see_the_whole_request(
    client: Client, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    completions: Any = AsyncCompletions if client.loop else Completions
    original = completions.create

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(completions, "create", wrapped)  # as tracing libraries do
    gateway.reply(completion("{}"))
    client.generate(temperature=0.5, max_tokens=9, seed=1, top_p=0.2)
    assert seen == [((), gateway.requests[0].json)]


class Booking(BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    day: datetime.date
    size: tuple[int, int] = Field(alias="amount")


BOOKING = Booking(day=datetime.date(2024, 2, 29), amount=(1, 2))
# What is wanted, the text that came, and the value.
VALUES: list[tuple[Any, str, object]] = [
    ({}, '{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
    ({}, '["é", "\\ud83d\\ude00", "\u2028"]', ["é", "😀", "\u2028"]),
    ({}, "null", None),
    ({}, str(2**70), 2**70),
    ({}, ' \n\t{"a" : 1}\r\n ', {"a": 1}),
    ({}, '["\\ud800"]', ["\ud800"]),
    (Builder(json.dumps(OBJECT)), '{"zulu": "z"}', {"zulu": "z"}),
    (list[Ticket], json.dumps([TICKET]), [TICKET]),
    (Ticket | None, json.dumps(TICKET), TICKET),
    (Point, '{"x": 1, "y": 2}', {"x": 1, "y": 2}),
    (Priority, '"high"', "high"),
    (Ticket, f" \n\t{json.dumps(TICKET)}\r\n ", Ticket(intent="billing", steps=["verify", "refund"])),
    (Ticket, '{"intent": "bug", "steps": ["NaN", "\\\\"]}', Ticket(intent="bug", steps=["NaN", "\\"])),
    (Booking, '{"day": "2024-02-29", "amount": [1, 2]}', BOOKING),
    (RootModel[list[int]], "[1, 2]", RootModel[list[int]]([1, 2])),
    (TypeAdapter(list[Ticket]), json.dumps([TICKET]), [Ticket(intent="billing", steps=["verify", "refund"])]),
    (TypeAdapter(Point), '{"x": "1"}', Point(1)),
    (TypeAdapter(tuple[int, datetime.date]), '[1, "2024-02-29"]', (1, datetime.date(2024, 2, 29))),
    (TypeAdapter(int), "12", 12),
    (TypeAdapter(str), '"Infinity, -Infinity, \\"NaN\\""', 'Infinity, -Infinity, "NaN"'),
]


@pytest.mark.parametrize(
    ("response_format", "text", "value"),
    VALUES,
    ids=short,
)
def test_generate_returns_a_pydantic_value_where_it_can_and_decoded_json_otherwise(
    response_format: Any, text: str, value: object, client: Client, gateway: Gateway
) -> None:
    finish_reason = (
        "stop" if text[-1].isdigit() else "length"
    )  # whole JSON is whole, but 12 may be cut from 123
    gateway.reply(completion(text, finish_reason))
    got = client.generate(response_format=response_format)
    assert got == value
    assert type(got) is type(value)
    again, answer = client.generate_with_completion(response_format=response_format)
    assert again == value
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert (answer.id, answer.choices[0].finish_reason) == ("chatcmpl-1", finish_reason)
    assert answer.usage
    assert answer.usage.total_tokens == 18


# ---------------------------------------------------------------------------------------------------------
# Completions without the requested output
# ---------------------------------------------------------------------------------------------------------

FORMATS: dict[str, Any] = {"dict": {"type": "object"}, "model": Ticket, "adapter": TypeAdapter(list[Ticket])}


def bad_output(client: Client, gateway: Gateway, reply: Reply, **kwargs: Any) -> InvalidOutputError:
    """The error of ``generate``, with what holds for every one of them checked."""
    gateway.reply(reply)
    before = len(gateway.requests)
    with pytest.raises(InvalidOutputError) as caught:
        client.generate(**kwargs)
    with pytest.raises(InvalidOutputError) as again:
        client.generate_with_completion(**kwargs)
    error = caught.value
    assert str(again.value) == str(error)
    with suppress(ValueError, LookupError, TypeError):  # where the reply is a completion
        choice = json.loads(bytes(reply.body))["choices"][0]  # type: ignore[arg-type]
        expected = (choice["message"]["content"] or "", choice["finish_reason"])
        assert (error.raw_output, error.finish_reason) == expected
    assert error.model == "test-model"
    assert "test-model" in str(error)
    assert len(str(error)) < 2000
    assert not re.search("0x[0-9a-f]{6}|[\ufdd0-\ufdef\ufffe\uffff]", str(error))  # nothing of our insides
    assert type(error.raw_output) is str
    assert error.finish_reason is None or type(error.finish_reason) is str
    assert type(error.original_error) in (json.JSONDecodeError, pydantic.ValidationError)
    assert len(gateway.requests) == before + 2  # asked once each time
    return error


NOT_JSON = [
    "",
    '{"intent": "billing", "steps": ["a',
    "```json\n{}\n```",
    '{"intent": "bug", "steps": [],}',
    "[] x",
    "\ufeff{}",
    '"line\nbreak"',
    "-Infinity",
    '{"a": NaN}',
    '{"intent": "bug", "steps": [], "ignored": NaN}',
    '{"intent": "bug", "steps": [], "ignored": "\\\\", "b": [Infinity]}',
    '[{"intent": "bug", "steps": [], "ignored": -Infinity}]',
    f'{{"intent": "bug", "steps": [], "ignored": {"9" * 10_000}}}',  # longer than Python converts
    f'[{{"intent": "bug", "steps": [], "ignored": -{"9" * 10_000}}}]',
    "[" * DEEP + "]" * DEEP,
    '{"intent": "bug", "steps": [], "ignored": ' + "[" * DEEP + "]" * DEEP + "}",
    '[{"intent": "bug", "steps": [], "ignored": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}]",
]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: ascii(text[:60]))
def test_text_that_is_not_json_is_an_invalid_output(text: str, client: Client, gateway: Gateway) -> None:
    for response_format in FORMATS.values():
        error = bad_output(client, gateway, completion(text), response_format=response_format)
        if isinstance(response_format, dict):
            assert isinstance(error.original_error, json.JSONDecodeError)
            assert error.original_error.doc == text


class Count(BaseModel):
    value: int


@pytest.mark.parametrize(
    ("response_format", "text", "place"),
    [
        (Ticket, '{"intent": "sales", "steps": []}', ("intent",)),
        (Ticket, '{"intent": "bug"}', ("steps",)),
        (Ticket, "null", ()),
        (TypeAdapter(list[Ticket]), '[{"intent": "bug", "steps": [1]}]', (0, "steps", 0)),
        (TypeAdapter(Priority), '"middle"', ()),
        (Ticket, '{"intent": "bug", "steps": ["\\ud800"]}', None),
        (Count, f'{{"value": {"9" * 10_000}}}', None),
        (TypeAdapter(Count), f'{{"value": -{"9" * 10_000}}}', None),
    ],
    ids=short,
)
def test_json_that_does_not_fit_the_type_is_an_invalid_output(
    response_format: Any, text: str, place: tuple[object, ...] | None, client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion(text), response_format=response_format)
    if place is not None:
        assert isinstance(error.original_error, pydantic.ValidationError)
        assert error.original_error.errors()[0]["loc"] == place


@pytest.mark.parametrize(
    ("response_format", "name"),
    [
        (Ticket, "Ticket"),
        # Before 2.10 a TypeAdapter does not tell its type.
        (TypeAdapter(list[Ticket]), "Ticket" if hasattr(TypeAdapter, "rebuild") else "TypeAdapter"),
        (list[Ticket], r"list\[.*Ticket\]"),
        (Ticket | None, r"Ticket.*None"),
        (Point, "Point"),
        (Priority, "Priority"),
        (Literal["yes", "no"], r"Literal\['yes', 'no'\]"),
        (OBJECT, "JSON Schema"),
        (json.dumps(OBJECT), "JSON Schema"),
        (Builder(json.dumps(OBJECT)), "Builder"),
    ],
    ids=short,
)
def test_the_message_names_the_model_and_the_wanted_type(
    response_format: Any, name: str, client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion("oops"), response_format=response_format)
    assert re.search(f"(?s)test-model.*{name}", str(error))


TRUNCATED = "(?is)truncated.*max_tokens"
UNKNOWN = "json_schema"
WRONG_URL = "base_url"
HINTS = (TRUNCATED, UNKNOWN, WRONG_URL)
REFUSAL = "I can't help with \u201cthat\u201d."
TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PAGE = "<!DOCTYPE html><title>Sign in</title>"

# What came, what was wanted, and which hints the message must give; it must not give the other ones.
HINTED: dict[str, tuple[Reply, Any, list[str]]] = {
    "an object that stops short": (completion('{"intent": "bil', "length"), Ticket, [TRUNCATED]),
    "an array that stops short": (completion("[1, 2", "length"), {}, [TRUNCATED]),
    "no text at the limit": (completion("", "length"), {}, [TRUNCATED]),
    "no content at the limit": (completion(None, "length"), Ticket, [TRUNCATED]),
    "a number at the limit": (completion("12", "length"), {}, [TRUNCATED]),
    "a number at the limit, validated": (completion("-1e3", "length"), TypeAdapter(float), [TRUNCATED]),
    "an object that just stops": (completion('{"intent": "bil'), Ticket, []),
    "filtered": (completion('{"a": "', "content_filter"), {}, []),
    "whole JSON at the limit": (completion('{"intent": "sales"}', "length"), Ticket, []),
    "whole JSON for a validator": (completion('{"intent": "bug"}', "length"), Picky, []),
    "prose": (completion("Sure! Here is your ticket."), Ticket, [UNKNOWN]),
    "a code fence": (completion('```json\n{"intent": "bug"}\n```'), {}, [UNKNOWN]),
    "prose after JSON": (completion("{} is your ticket"), {}, []),
    "a web page": (Reply(PAGE.encode(), headers={"Content-Type": "text/html"}), Ticket, [WRONG_URL]),
    "a web page said to be JSON": (Reply(f"\n{PAGE}".encode()), {}, [WRONG_URL]),
    "a refusal": (completion(None, refusal=REFUSAL), Ticket, [re.escape(REFUSAL)]),
    "a tool call": (completion(None, "tool_calls", tool_calls=[TOOL_CALL]), {}, []),
    "a number that JSON does not know": (completion('{"a": NaN}'), {}, []),
    "endless nesting": (completion("[" * 100_000), {}, []),
    "a response that ends in mid-character": (Reply('{"x": "ä'.encode()[:-1]), {}, []),
    "an error instead of choices": (
        json_reply({"error": {"message": "no engine left"}}),
        {},
        ["no engine left"],
    ),
}


@pytest.mark.parametrize(("reply", "response_format", "hints"), HINTED.values(), ids=HINTED)
def test_the_message_says_what_to_do_where_that_is_known(
    reply: Reply, response_format: Any, hints: list[str], client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, reply, response_format=response_format)
    for hint in hints:
        assert re.search(hint, str(error))
    for hint in set(HINTS) - set(hints):
        assert not re.search(hint, str(error))
    assert "\n" not in str(error)


@pytest.mark.parametrize("call", [Client.generate, Client.result])
@pytest.mark.parametrize(
    ("reply", "changes", "last"),
    [
        (api_error(401, "wrong key"), {}, "api_key=.*DOTTXT_API_KEY"),
        (api_error(404, "no such model"), {}, r"models\.list\(\)"),
        (completion('{"intent": "bil', "length"), {}, "max_tokens"),
        (completion('{"intent": "sales", "steps": []}'), {}, "'sales'"),
        (completion(""), {"response_format": {"type": "objekt"}}, '"/type"'),
    ],
    ids=["wrong key", "unknown model", "truncated", "failed validation", "wrong schema"],
)
def test_a_traceback_is_short_and_ends_with_what_to_do(
    reply: Reply, changes: Any, last: str, call: Any, client: Client, gateway: Gateway
) -> None:
    gateway.reply(reply)
    with pytest.raises(openai.OpenAIError) as caught:
        call(client, **{"response_format": Ticket, **changes})
    lines = traceback.format_exception(caught.value)
    assert sum(line.count(f'"{dottxt.__file__}"') for line in lines) <= 3
    if hasattr(caught.value, "add_note") or isinstance(caught.value, PatchStreamError):
        assert re.search(last, lines[-1])


def with_choices(choices: object) -> Reply:
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json_reply(body)


NO_OUTPUT: dict[str, Reply] = {
    "no choices": with_choices([]),
    "choices null": with_choices(None),
    "choices missing": json_reply({"id": "1", "object": "chat.completion"}),
    "an empty choice": with_choices([{}]),
    "message null": with_choices([{"index": 0, "message": None}]),
    "content missing": with_choices([{"index": 0, "message": {"role": "assistant"}}]),
    "content of parts": with_choices([{"message": {"content": [{"type": "text", "text": "{}"}]}}]),
    "a refusal of a number": with_choices([{"message": {"content": None, "refusal": 5}}]),
    "an error with 200": json_reply({"error": {"message": "overloaded"}}),
    "an empty object": json_reply({}),
    "a string that holds JSON": json_reply(json.dumps(TICKET)),
    "null": json_reply(None),
    "nothing": Reply(b""),
    "no content": Reply(status=204),
    "half an object": Reply(b'{"choices": ['),
    "NaN": Reply(b'{"choices": NaN}'),
}


@pytest.mark.parametrize("reply", NO_OUTPUT.values(), ids=NO_OUTPUT)
def test_an_answer_without_an_output_is_an_invalid_output(
    reply: Reply, client: Client, gateway: Gateway
) -> None:
    for response_format in FORMATS.values():
        error = bad_output(client, gateway, reply, response_format=response_format)
        assert error.finish_reason is None


SDK_ERRORS: list[tuple[int, type[openai.APIStatusError]]] = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (404, openai.NotFoundError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "kind"), SDK_ERRORS)
@pytest.mark.parametrize("call", [CALLS["generate"][0], CALLS["models"][0]], ids=["generate", "models"])
def test_api_errors_are_the_sdks_own(
    status: int, kind: type[openai.APIStatusError], call: Call, client: Client, gateway: Gateway
) -> None:
    gateway.reply(api_error(status, "it is so", x_request_id="req-1"))
    with pytest.raises(kind, match="it is so") as caught:
        call(client)
    assert (caught.value.status_code, caught.value.request_id) == (status, "req-1")


# ---------------------------------------------------------------------------------------------------------
# One file
# ---------------------------------------------------------------------------------------------------------


def run_python(code: str, folder: Path) -> str:
    """What the code prints, run in a folder where the module is not."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def vendored(tmp_path: Path) -> Iterator[Path]:
    """A folder with the package ``app``, into which the module is copied under another name."""
    for package in ("app", "app/_vendor"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(dottxt.__file__, tmp_path / "app/_vendor/structured.py")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
        del sys.modules[name]


NAMES = "InvalidSchemaError, build_response_format, normalize_schema"
FROM_SCHEMAS = f"{NAMES} = s.InvalidSchemaError, s.build_response_format, s.normalize_schema"
COPY = "app._vendor.structured"


@pytest.mark.parametrize("place", ["dottxt", COPY])
@pytest.mark.parametrize(
    "form",
    [
        f"from PLACE import {NAMES}",
        f"from PLACE.schemas import {NAMES}",
        f"import PLACE.schemas\nfrom PLACE import {NAMES}",
        f"import PLACE as m\ns = m.schemas\n{FROM_SCHEMAS}",
        f"import PLACE.schemas as s\n{FROM_SCHEMAS}",
        f"from PLACE import schemas as s\n{FROM_SCHEMAS}",
        f"import importlib\ns = importlib.import_module('PLACE.schemas')\n{FROM_SCHEMAS}",
        f"from app.relative import {NAMES}",
    ],
)
def test_the_schema_helpers_can_be_imported_in_each_form_and_from_a_vendored_copy(
    form: str, place: str, vendored: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(vendored)
    relative = "._vendor.structured" if place == COPY else place
    (vendored / "app/relative.py").write_text(f"from {relative}.schemas import {NAMES}\n")
    names: dict[str, Any] = {}
    exec(form.replace("PLACE", place), names)
    module = sys.modules[place]
    assert (module is dottxt) == (place == "dottxt")
    for name in NAMES.split(", "):
        assert names[name] is getattr(module, name) is getattr(module.schemas, name)
    with pytest.raises(module.InvalidSchemaError) as caught:
        names["normalize_schema"]([])
    assert type(caught.value).__module__ == place


def test_a_vendored_copy_works_without_the_module(vendored: Path, gateway: Gateway) -> None:
    gateway.reply(completion('{"x": 1}'), completion("oops"), patches(op("", {}), op("/x", 1)))
    code = f"""
import pickle, sys
from pydantic import BaseModel
from {COPY} import DotTxt, InvalidOutputError

class Point(BaseModel):
    x: int

with DotTxt(api_key="test-key", base_url={gateway.url!r}) as client:
    ask = dict(model="m", input="Hello", response_format=Point)
    print(client.generate(**ask))
    try:
        client.generate(**ask)
    except InvalidOutputError as error:
        again = pickle.loads(pickle.dumps(error))
        print(type(again) is InvalidOutputError, again.raw_output)
    print([event.field for event in client.stream(**ask)])
print("dottxt" in sys.modules)
"""
    assert run_python(code, vendored) == "x=1\nTrue oops\n['', 'x']\nFalse\n"


# ---------------------------------------------------------------------------------------------------------
# What the tests of patches and streams share
# ---------------------------------------------------------------------------------------------------------


def for_all(holds: Callable[..., None], *strategies: Any, examples: int = 200) -> None:
    """Run a property on random input."""
    hypothesis = pytest.importorskip("hypothesis")
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )
    settings(hypothesis.given(*strategies)(holds))()


def escaped(key: str) -> str:
    """A key as a segment of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def ops_of(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations by which a gateway sends a document: containers when they open, then what they hold."""
    if isinstance(value, dict):
        yield op(path, {})
        for key, item in value.items():
            yield from ops_of(item, f"{path}/{escaped(key)}")
    elif isinstance(value, list):
        yield op(path, [])
        for index, item in enumerate(value):
            yield from ops_of(item, f"{path}/{index}")
    else:
        yield op(path, value)


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


def pieces(whole: Any, sizes: list[int]) -> Iterator[Any]:
    """Cut text or bytes into pieces of these sizes, over and over."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(whole):
            return
        yield whole[at : at + size]
        at += size


def random_documents(st: Any) -> Any:
    """JSON documents whose keys and strings try hard to be mistaken for something else."""
    awkward = st.sampled_from(
        ["", "/", "~", "~1", "~0", "-", "0", "01", "a", "ä\u2028\r", '"\\', "😀", "\x00"]
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


def lines(*given: Any) -> bytes:
    """NDJSON with everything outside ASCII as it is."""
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in given)


EVENTS, LINES = "text/event-stream", "application/x-ndjson"
in_both_framings = pytest.mark.parametrize("framing", [EVENTS, LINES], ids=["events", "lines"])
DONE = b"event: done\ndata: {}\n\n"


def framed_as(framing: str, *steps: Any, size: int | None = None) -> Reply:
    """Records in a framing, then steps of the wire as they are, cut into chunks of a size (by default one).

    A ``dict`` is a record (an event of type `patch` where it is an operation), a ``str`` the text of one.
    """
    body: list[Any] = []
    for step in steps:
        if isinstance(step, (dict, str)):
            text = step if isinstance(step, str) else json.dumps(step)
            kind = "event: patch\n" if isinstance(step, dict) and "op" in step else ""
            step = (f"{kind}data: {text}\n\n" if framing == EVENTS else f"{text}\n").encode()
        body.append(step)
    groups = itertools.groupby(body, key=lambda step: isinstance(step, bytes))
    cut = [pieces(b"".join(group), [size or 1 << 30]) if is_bytes else [*group] for is_bytes, group in groups]
    return Reply([*itertools.chain(*cut)], headers={"Content-Type": framing})


def delta(content: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    """A record of a token stream."""
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]}


def engine(tokens: Reply, refusal: Reply = NO_PATCH_MODE) -> Callable[[Request], Reply]:
    """An engine whose `stream` is a boolean."""
    return lambda request: tokens if request.json["stream"] is True else refusal


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


def read(client: Client, stream: Any) -> tuple[list[PatchEvent], Exception | None]:
    """All the events of a stream, and the error that ended it."""
    events: list[PatchEvent] = []
    try:
        for_each(client, stream, events.append)
    except openai.OpenAIError as error:
        return events, error
    return events, None


def outcome(client: Client, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
    """The operations that a stream delivers, and its result or the error that it ends with."""
    stream = client.stream(**kwargs)
    events, error = read(client, stream)
    try:
        end = client.wait(stream.result())
    except openai.OpenAIError as late:
        assert error is None or (type(late), str(late)) == (type(error), str(error))
        end = late
    else:
        assert error is None, "the iteration failed and result() did not"
    return [event.op for event in events], end


@pytest.fixture
def reader(gateway: Gateway) -> Iterator[Client]:
    """A client for tests of what a stream means, which the loop around it does not change."""
    client = Client(DotTxt, api_key="test-key", base_url=gateway.url, max_retries=0)
    yield client
    client.close()


# ---------------------------------------------------------------------------------------------------------
# apply_add: one RFC 6902 add
# ---------------------------------------------------------------------------------------------------------

KEY_POINTERS = {  # RFC 6901 §5: pointer, and the key that it names
    "/foo": "foo",
    "/": "",
    "/a~1b": "a/b",
    "/c%d": "c%d",
    "/e^f": "e^f",
    "/g|h": "g|h",
    "/i\\j": "i\\j",
    '/k"l': 'k"l',
    "/ ": " ",
    "/m~0n": "m~n",
}
KEYED = dict.fromkeys(KEY_POINTERS.values(), 0)
ADDS: list[tuple[Any, str, Any, Any]] = [
    # RFC 6902: A.1, A.2, A.10, A.16 and section 4.1
    ({"foo": "bar"}, "/baz", "qux", {"foo": "bar", "baz": "qux"}),
    ({"foo": ["bar", "baz"]}, "/foo/1", "qux", {"foo": ["bar", "qux", "baz"]}),
    ({"foo": "bar"}, "/child", {"grandchild": {}}, {"foo": "bar", "child": {"grandchild": {}}}),
    ({"foo": ["bar"]}, "/foo/-", ["abc", "def"], {"foo": ["bar", ["abc", "def"]]}),
    ({"a": {"foo": 1}}, "/a/b", 2, {"a": {"foo": 1, "b": 2}}),
    # an index inserts before, its length and a dash append
    ([1, 2], "/0", "new", ["new", 1, 2]),
    ([1, 2], "/2", "new", [1, 2, "new"]),
    ([1, 2], "/-", "new", [1, 2, "new"]),
    ([], "/0", "new", ["new"]),
    ([*range(12)], "/11", "new", [*range(11), "new", 11]),
    # `~1` is unescaped before `~0`
    ({}, "/~01", 1, {"~1": 1}),
    ({}, "/~1~0~01~10", 1, {"/~~1/0": 1}),
    # dashes and digits are ordinary keys of an object
    *[({}, f"/{key}", 1, {key: 1}) for key in ("-", "0", "01", "-1", "__proto__")],
    # an existing key is replaced where it stands
    ({"a": 1, "b": {"deep": True}, "c": 3}, "/b", None, {"a": 1, "b": None, "c": 3}),
    *[(KEYED, pointer, "new", {**KEYED, key: "new"}) for pointer, key in KEY_POINTERS.items()],
]


@pytest.mark.parametrize(("document", "path", "value", "expected"), ADDS)
def test_an_add_changes_the_document_in_place(document: Any, path: str, value: Any, expected: Any) -> None:
    document = copy.deepcopy(document)
    assert apply_add(document, path, value) is document
    assert json.dumps(document) == json.dumps(expected)  # the order of keys counts


@pytest.mark.parametrize("root", [None, 1, "text", True, [1], {"a": 1}])
def test_the_root_is_replaced_whatever_it_was(root: Any) -> None:
    before = copy.deepcopy(root)
    values: list[Any] = [None, 0, "", False, [], {}, {"b": [2]}]
    for value in values:
        assert repr(apply_add(root, "", value)) == repr(value)
    assert root == before


def test_a_container_is_copied_in() -> None:
    value: Any = {"list": [1, {"deep": []}]}
    whole = apply_add(None, "", value)
    part = apply_add({"items": []}, "/items/-", value)
    whole["list"][1]["deep"].append("changed")
    part["items"][0]["list"].append("changed")
    assert value == {"list": [1, {"deep": []}]}
    value["list"].append("changed too")
    assert whole == {"list": [1, {"deep": ["changed"]}]}
    assert part == {"items": [{"list": [1, {"deep": []}, "changed"]}]}
    for path, items in (("/1", [1, [1]]), ("/0", [[1], 1])):  # a document is copied into itself, too
        document: Any = [1]
        assert apply_add(document, path, document) == items


REFUSED_POINTERS = [
    *["a", "items/0", " /a", "#/a"],  # no leading slash
    *["/~", "/a~", "/~2", "/a~b/c", "/~/a"],  # bad escapes
    *["/missing/a", "/object/missing/a", "/items/12/a", "/items/-/a"],  # missing parents; RFC 6902 A.12
    *["/text/0", "/text/-", "/text/a/b", "/number/0", "/null/a", "/true/a", "/items/0/a"],  # scalar parents
    *["/items/13", "/items/1000000000000000000", "/items/-1", "/items/-0", "/items/+1"],
    *["/items/01", "/items/00", "/items/1_0", "/items/1.0", "/items/1e0", "/items/0x1"],
    *["/items/\u0661", "/items/1\u0661", "/items/\u00b2"],  # digits of other scripts, a superscript
    *["/items/ 1", "/items/1 ", "/items/1\n", "/items/", "/items/a", "/items/01/a", "/items/-1/a"],
    *["/items/" + "9" * 5_000, "/items" + "/0" * 100_000, "/" + "~" * 100_000],
]


@pytest.mark.parametrize("pointer", REFUSED_POINTERS, ids=lambda pointer: repr(pointer)[:30])
def test_a_refused_pointer_is_named_and_changes_nothing(pointer: Any) -> None:
    items = [1, {"b": 2}, *range(10)]
    document = {"items": items, "object": {}, "text": "abc", "number": 1, "null": None, "true": True}
    before = copy.deepcopy(document)
    with pytest.raises(ValueError, match=r".") as caught:
        apply_add(document, pointer, {"new": []})
    assert str(pointer)[:20] in str(caught.value) or repr(pointer)[:20] in str(caught.value)
    assert document == before


def test_apply_add_agrees_with_jsonpatch_on_random_documents_and_pointers() -> None:
    st = pytest.importorskip("hypothesis").strategies
    jsonpatch = pytest.importorskip("jsonpatch")
    jsonpointer = pytest.importorskip("jsonpointer")
    keys = st.sampled_from(
        ["", "a", "b", "-", "0", "1", "2", "01", "-1", "+1", "a/b", "m~n", "~1", "ä", "\u0661"]
    )
    documents = st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "abc"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    good = keys.map(escaped)
    segments = good | good | good | st.sampled_from(["~", "~2", "a~", "1_0", " 1"])
    pointers = st.lists(segments, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))

    def holds(document: Any, pointer: str, value: Any) -> None:
        before = copy.deepcopy(document)
        try:
            expected = jsonpatch.apply_patch(document, [op(pointer, value)])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException):
            with pytest.raises(ValueError, match=r"."):
                apply_add(document, pointer, value)
            assert repr(document) == repr(before)
        else:
            assert repr(apply_add(document, pointer, value)) == repr(expected)

    for_all(holds, documents, pointers | st.sampled_from(["a", "a/b", "0", " "]), documents, examples=150)


# ---------------------------------------------------------------------------------------------------------
# PatchEvent: what a stream hands out
# ---------------------------------------------------------------------------------------------------------

OPS = [
    op("", {}),
    op("/intent", "billing"),
    op("/note", 'äöü — 😀 \u2028 \u0085 \r\n \x0b \x0c \x1c \x1e "quoted" \\'),
    op("/steps", []),
    op("/steps/0", "verify"),
    op("/steps/1", None),
    op("/a~1b", 1.5),
    {**op("/ok", False), "by": "nobody knows"},  # RFC 6902 A.11
]


def wreck(value: Any) -> None:
    """Change a value in every place where it can be changed."""
    if isinstance(value, dict):
        for item in value.values():
            wreck(item)
        value.clear()
        value["wrecked"] = True
    elif isinstance(value, list):
        for item in value:
            wreck(item)
        value[:] = ["wrecked"]


def test_an_event_can_be_built_by_hand_and_is_a_value() -> None:
    document = {"steps": ["verify"]}
    event = PatchEvent(op=op("/steps/0", "verify"), snapshot=document)
    same = PatchEvent(op=op("/steps/0", "verify"), snapshot=copy.deepcopy(document))
    document["steps"].append("changed")
    assert (event.field, event.value, event.op) == ("steps/0", "verify", op("/steps/0", "verify"))
    assert event.snapshot == {"steps": ["verify"]}
    match event:
        case PatchEvent("steps/0", "verify"):
            pass
        case _:
            pytest.fail("a hand-built event does not match")
    wreck(event.snapshot)
    assert event == same
    assert (event != same) is False
    assert event != PatchEvent(op=op("/steps/-", "verify"), snapshot=same.snapshot)
    assert event != PatchEvent(op=op("/steps/0", "other"), snapshot=same.snapshot)
    assert event != PatchEvent(op=event.op, snapshot={"steps": ["verify", "more"]})
    others: list[Any] = [event.op, ("steps/0", "verify"), None]
    assert all(event != other for other in others)
    marker = object()
    assert PatchEvent(op=op("/a", 1), snapshot={"a": marker}).snapshot == {"a": marker}
    with pytest.raises(TypeError, match="unhashable"):
        hash(event)
    for name in ("op", "field", "value", "snapshot"):
        with pytest.raises(AttributeError):
            setattr(event, name, None)
    assert event == same
    for given, shown in ((op("/a/0", "b"), ("a/0", "'b'")), (op("", {}), ("''", "{}"))):
        text = repr(PatchEvent(op=given, snapshot=None))
        assert text.startswith("PatchEvent(")
        assert all(each in text for each in shown)


def test_an_event_of_a_stream_is_a_value_too_and_survives_pickle_and_copy(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(patches(*OPS))
    by_hand = [PatchEvent(op=each, snapshot=state) for each, state in zip(OPS, states_of(OPS), strict=True)]
    events = []
    for event in client.iterate(client.stream()):
        events.append(event)
        each = OPS[len(events) - 1]
        assert (event.op, event.field, event.value) == (each, each["path"][1:], each["value"])
        assert pickle.loads(pickle.dumps(event)) == event == by_hand[len(events) - 1]
    again = pickle.loads(pickle.dumps(events))
    assert [type(event) for event in again] == [PatchEvent] * len(OPS)
    assert events == by_hand == again == copy.deepcopy(events) == [copy.copy(event) for event in events]
    assert [event.snapshot for event in again] == states_of(OPS)


def test_snapshots_are_right_whenever_they_are_read_and_whatever_the_caller_does(
    gateway: Gateway, client: Client
) -> None:
    ops = [
        op("", {"seed": [1]}),
        op("/a", {"b": [{}]}),
        op("/seed/0", [2]),
        op("/a/b/0/c", [3]),
        op("/a/b/-", 4),
    ]
    states = states_of(ops)
    gateway.reply(patches(*ops))
    events: list[Any] = []
    folded = None
    for event in client.iterate(client.stream()):
        events.append(event)
        folded = apply_add(folded, event.op["path"], event.op["value"])
        assert folded == event.snapshot
        wreck(event.snapshot)
        assert events[len(events) // 2].snapshot == states[len(events) // 2]
    wreck(folded)
    assert [event.op for event in events] == ops
    for event in events[::2]:
        wreck(event.value)
    assert [event.snapshot for event in reversed(events)] == states[::-1]
    kept = events[2]
    del events, event
    gc.collect()
    assert kept.snapshot == states[2]


def test_random_operations_give_the_right_snapshots_in_any_order(gateway: Gateway, reader: Client) -> None:
    st = pytest.importorskip("hypothesis").strategies
    keys = st.sampled_from(["a", "b", "", "0", "-", "a/b", "m~n", "~1"])
    values = st.recursive(
        st.none() | st.integers(0, 9) | st.just("x"),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
        max_leaves=4,
    )

    def containers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, (dict, list)):
            yield path, value
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                yield from containers(item, f"{path}/{escaped(str(key))}")

    def holds(choices: list[tuple[int, int, str, Any]], rng: Random) -> None:
        ops: list[Any] = []
        document: Any = None
        for where, place, key, value in choices:
            places = list(containers(document)) if where % 10 else []
            path = ""
            if places:
                path, container = places[where % len(places)]
                indices = [*map(str, range(len(container) + 1)), "-"]
                path += "/" + (escaped(key) if isinstance(container, dict) else indices[place % len(indices)])
            ops.append(op(path, value))
            document = apply_add(document, path, value)
        states = states_of(ops)
        gateway.reply(patches(*ops))
        events: list[Any] = []
        folded: Any = None
        for event in reader.iterate(reader.stream()):
            folded = apply_add(folded, event.op["path"], event.op["value"])
            events.append(event)
            now = rng.randrange(len(events))
            snapshot = events[now].snapshot
            assert repr(snapshot) == repr(states[now])
            assert event.op == ops[len(events) - 1]
            wreck(snapshot)
        assert len(events) == len(ops)
        assert repr(folded) == repr(document)
        for now in rng.sample(range(len(ops)), len(ops)):
            wreck(events[now].value)
            assert repr(events[now].snapshot) == repr(states[now])

    steps = st.tuples(st.integers(0, 99), st.integers(0, 99), keys, values)
    for_all(holds, st.lists(steps, min_size=1, max_size=12), st.randoms(use_true_random=False), examples=100)


def test_a_long_stream_takes_little_more_memory_than_its_document(gateway: Gateway, client: Client) -> None:
    ops = [op("", []), *(op(f"/{now}", f"{now:030}") for now in range(10_000))]
    gateway.reply(framed_as(EVENTS, *ops, DONE))
    client.events()  # the connection, and all that is made once

    def peak(work: Callable[[], object]) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    document = peak(lambda: json.loads(json.dumps([each["value"] for each in ops[1:]])))
    assert peak(lambda: for_each(client, client.stream(), lambda event: None)) < 4 * document


# ---------------------------------------------------------------------------------------------------------
# Framings: bytes in, records out
# ---------------------------------------------------------------------------------------------------------


@in_both_framings
def test_any_cut_of_the_bytes_gives_the_same_events(framing: str, gateway: Gateway, reader: Client) -> None:
    st = pytest.importorskip("hypothesis").strategies
    ends = {LINES: ["\n", "\r\n", "\n\n", " \n \t\r\n"], EVENTS: ["\n", "\r\n", "\r"]}[framing]

    def holds(document: Any, sizes: list[int], end: str, ensure_ascii: bool, last: bool) -> None:
        ops = list(ops_of(document))
        texts = [json.dumps(each, ensure_ascii=ensure_ascii) for each in ops]
        if framing == EVENTS:
            texts = [f"event: patch{end}data: {text}{end}" for text in texts]
            texts.append(f"event: done{end}data: {{}}{end}")
        body = end.join([*texts, ""]) if last else end.join(texts)
        data = body.encode(errors="backslashreplace")  # a lone surrogate becomes an escape of JSON
        gateway.reply(Reply([*pieces(data, sizes)], headers={"Content-Type": framing}))
        delivered, result = outcome(reader)
        assert repr(delivered) == repr([json.loads(json.dumps(each)) for each in ops])
        assert repr(result) == repr(json.loads(json.dumps(document)))

    sizes = st.lists(st.integers(1, 40), min_size=1)
    for_all(
        holds, random_documents(st), sizes, st.sampled_from(ends), st.booleans(), st.booleans(), examples=100
    )


def in_step(got: list[Any], steps: Iterable[tuple[bytes, int]], framing: str, gateway: Gateway) -> Reply:
    """A response that goes on only when what it has sent has given so many events."""

    def body() -> Iterator[bytes]:
        for data, count in steps:
            yield data
            gateway.wait_for(lambda count=count: len(got) >= count)  # type: ignore[misc]

    return Reply(body(), headers={"Content-Type": framing})


def line_steps() -> list[tuple[bytes, int]]:
    first, second, third, fourth = lines(*OPS[:4]).splitlines(keepends=True)
    return [(first, 1), (second[:-1], 1), (b"\n" + third + fourth[:9], 3), (fourth[9:], 4)]


def event_steps(end: bytes) -> list[tuple[bytes, int]]:
    first, second, third, fourth = (
        b"event: patch%bdata: %b%b%b" % (end, json.dumps(each).encode(), end, end) for each in OPS[:4]
    )
    # Of `\r\n` the first byte ends a line: nothing waits for the second.
    held = 1 if end == b"\r\n" else 0
    cut = len(second) - held
    done = b"event: done%bdata: {}%b%b" % (end, end, end)
    return [
        (first, 1),
        (second[:cut], 2),
        (second[cut:] + third + fourth[:30], 3),
        (fourth[30:], 4),
        (done, 4),
    ]


TOKEN_STEPS = [
    *[('{"', 1), ('a": "', 1), ('x"', 2), (', "b"', 2), (": [", 3), ("1", 3), (",2 ", 5), (", tru", 5)],
    *[("e", 5), (', "c', 6), ('","d"', 8), (",{", 9), ("},[]", 10), (", -1", 10), ("5e1]", 11), ("}", 11)],
]


@pytest.mark.parametrize(
    ("steps", "framing"),
    [
        pytest.param(line_steps(), LINES, id="lines"),
        pytest.param(event_steps(b"\n"), EVENTS, id="events, LF"),
        pytest.param(event_steps(b"\r"), EVENTS, id="events, CR"),
        pytest.param(event_steps(b"\r\n"), EVENTS, id="events, CRLF"),
        pytest.param(
            [(b"data: %b\n\n" % json.dumps(delta(text)).encode(), count) for text, count in TOKEN_STEPS],
            EVENTS,
            id="tokens",
        ),
    ],
)
def test_an_event_is_delivered_as_soon_as_it_is_complete(
    steps: list[tuple[bytes, int]], framing: str, gateway: Gateway, client: Client
) -> None:
    got: list[Any] = []
    gateway.reply(in_step(got, steps, framing, gateway))
    for_each(client, client.stream(timeout=10), lambda event: got.append(event.op))
    if framing == EVENTS and len(got) > 4:
        document = {"a": "x", "b": [1, 2, True, "c", "d", {}, [], -150.0]}
        assert repr(got) == repr([*ops_of(document)])
    else:
        assert got == OPS[:4]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\u000b", "\u001c", "\r", "\r\n", "\n"])
@in_both_framings
def test_a_line_ends_at_its_line_end_and_nowhere_else(
    framing: str, character: str, gateway: Gateway, reader: Client
) -> None:
    ops = [op("", f"before{character}after"), op("", {})]
    texts = [json.dumps(each, ensure_ascii=character < " ") for each in ops]
    for size in (1, None):
        gateway.reply(framed_as(framing, *texts, DONE if framing == EVENTS else b"", size=size))
        assert outcome(reader) == (ops, {})


def test_in_lines_blank_ones_are_skipped_and_the_last_needs_no_end(gateway: Gateway, reader: Client) -> None:
    first, second = b' { "value" : { "a" : [ ] } ,\t"path":"" , "op":"\\u0061dd" } \r', lines(op("/b", 1))
    for body in (
        b"\n\r\n" + first + b"\n \t \r\n\n" + second + b"\n\n  ",
        first + b"\n" + second[:-1],
    ):
        for size in (1, 4, None):
            gateway.reply(framed_as(LINES, body, size=size))
            assert outcome(reader) == ([op("", {"a": []}), op("/b", 1)], {"a": [], "b": 1})
    gateway.reply(Reply(lines(OPS[0]) + json.dumps(OPS[1]).encode() + b"\r" + lines(OPS[3])))
    delivered, error = outcome(reader)  # a carriage return between operations ends no line
    assert delivered == OPS[:1]
    assert type(error) is PatchStreamError


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_every_way_to_write_server_sent_events_is_read(
    mark: str, end: str, gateway: Gateway, reader: Client
) -> None:
    document = {"ä": "😀 \u2028 \u0085 \x0c data: x", "b": [1, 2.5]}
    first, *rest = (json.dumps(each, ensure_ascii=False) for each in ops_of(document))
    pretty = json.dumps(json.loads(rest[-1]), indent=1).splitlines()
    blocks = [
        [f"data:{first}", "id: 7", "event: patch", "retry: 10", ":"],  # no space; the type after the data
        [": a comment"],
        ["event: ping", "data: {}"],
        *([f"data: {each}", "colour: blue", "words"] for each in rest[:-1]),  # no type, as `patch`
        ["event: message", *(f"data:  {line}" for line in pretty)],
        ["", "", "event: done", "data: {}"],
    ]
    body = mark + "".join(line + end for block in blocks for line in [*block, ""])
    for text in (body, body.removesuffix(end), body.removesuffix(end * 2)):
        for size, kind in ((1, EVENTS), (2, "Text/Event-Stream"), (None, f"{EVENTS}; charset=utf-8")):
            gateway.reply(framed_as(kind, text.encode(), size=size))
            assert outcome(reader) == ([*ops_of(document)], document)


# ---------------------------------------------------------------------------------------------------------
# Records: what they say does not depend on the framing they came in
# ---------------------------------------------------------------------------------------------------------

TICKET_TEXT = json.dumps(TICKET)
OPS_OF_TICKET = [*ops_of(TICKET)]


def whole(content: str | None, **more: Any) -> dict[str, Any]:
    """A record that is a whole completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice], **more}


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([*OPS_OF_TICKET, "[DONE]"], id="operations"),
        pytest.param([*map(delta, pieces(TICKET_TEXT, [5])), delta(None, "stop"), "[DONE]"], id="deltas"),
        pytest.param([*map(delta, TICKET_TEXT)], id="deltas without an end mark"),
        pytest.param([whole(TICKET_TEXT)], id="whole completion"),
        pytest.param([whole(f"\n{TICKET_TEXT} ", usage=USAGE), "[DONE]"], id="whole completion, end mark"),
    ],
)
@pytest.mark.parametrize("size", [1, None], ids=["byte by byte", "one chunk"])
@in_both_framings
def test_operations_deltas_and_whole_completions_give_the_same_events(
    framing: str, size: int | None, records: list[Any], gateway: Gateway, client: Client
) -> None:
    gateway.reply(framed_as(framing, *records, size=size))
    events = client.events()
    assert [event.op for event in events] == OPS_OF_TICKET
    assert [event.snapshot for event in events] == states_of(OPS_OF_TICKET)
    assert client.result(response_format=Ticket) == Ticket.model_validate(TICKET)


def test_a_completion_or_an_error_may_be_broken_over_lines(gateway: Gateway, client: Client) -> None:
    body = json.dumps(whole(TICKET_TEXT), indent=2, ensure_ascii=False)
    for size, end in ((1, ""), (50, "\n"), (None, "\n\n")):
        gateway.reply(framed_as("application/json", (body + end).encode(), size=size))
        assert outcome(client) == (OPS_OF_TICKET, TICKET)
    gateway.reply(framed_as(LINES, json.dumps({"error": {"message": "out of memory"}}, indent=2)))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert str(error).startswith("out of memory")


SKIPPED: list[Any] = [
    *[{"choices": []}, {"choices": [], "usage": None}, {"error": None, "choices": []}, {"error": None}],
    {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]},
    {"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "}", "content": None}}]},
    {"choices": [{"index": 0, "delta": {"content": "", "refusal": None, "tool_calls": None}}]},
]
SKIPPED_EVENTS = [
    *["event: ping\ndata: {}", "event: ping\ndata: not JSON", "event: ping", "event: patch", ": comment"],
    *["data", "data:", "event: patch\ndata:", "id: 1", 'event: metadata\ndata: {"op": "remove"}'],
]


@pytest.mark.parametrize("framing", [EVENTS, LINES])
def test_what_says_nothing_is_skipped(framing: str, gateway: Gateway, client: Client) -> None:
    for skipped in [*SKIPPED, *SKIPPED_EVENTS] if framing == EVENTS else SKIPPED:
        noise = f"{skipped}\n\n".encode() if isinstance(skipped, str) else skipped
        gateway.reply(framed_as(framing, noise, OPS[0], noise, *OPS[1:], noise, "[DONE]"))
        assert outcome(client) == (OPS, fold(OPS)), skipped
        gateway.reply(framed_as(framing, noise, delta("[1"), noise, delta(", 2]"), noise, "[DONE]"))
        assert outcome(client) == ([*ops_of([1, 2])], [1, 2]), skipped


@in_both_framings
def test_what_follows_an_end_mark_is_nothing(framing: str, gateway: Gateway, client: Client) -> None:
    ends: list[Any] = ["[DONE]"] if framing == LINES else ["[DONE]", DONE]
    for end in ends:
        for after in (b"not JSON\n\n", {"error": {"message": "late"}}, op("", 1), delta("1"), end):
            gateway.reply(framed_as(framing, *OPS, end, after))
            assert outcome(client) == (OPS, fold(OPS))
            gateway.reply(framed_as(framing, delta("[1"), delta(", 2]"), end, after))
            assert outcome(client) == ([*ops_of([1, 2])], [1, 2])


ADD = '{"op":"add","path":"/a","value":'
BAD_RECORDS: list[str | bytes] = [
    *["not json", "<html><body>502 Bad Gateway</body></html>", f"data: {ADD}1}}", "[DONE", "done"],
    *[ADD, f"{ADD}1}}}}", f"{ADD}1}}{ADD}1}}", f"{ADD}NaN}}", f"{ADD}-Infinity}}", f'{ADD}"\t"}}'],
    *[ADD + "[" * 100_000, ADD + "[" * 100_000 + "]" * 100_000 + "}", ADD + "9" * 10_000 + "}"],
    f"{ADD}1}}".encode("utf-16"),
    *["[]", f"[{ADD}1}}]", "1", "null", '"add"', "{}", '{"path":"/a","value":1}', '{"finish": "stop"}'],
    *[f'{{"op":{bad},"path":"/a","value":1}}' for bad in ("null", '["add"]', '"ADD"', '"replace"', '"test"')],
    *['{"op":"remove","path":"/a"}', '{"op":"move","from":"/a","path":"/b"}'],
    f'{ADD}1,"op":"remove"}}',  # RFC 6902 A.13: given twice
    *['{"op":"add","path":"/a"}', '{"op":"add","value":1}'],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ("null", "0", '["a"]', '"a"', '"/~2"')],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ('"/b/c"', '"/intent/c"', '"/steps/1"')],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ('"/steps/-1"', '"/steps/01"')],
    json.dumps(op("/x" * 100_000, 1)),
]
BAD_LINES = [b'%b"%b"}' % (ADD.encode(), bad) for bad in (b"\xff", b"\xed\xa0\x80", b"\xc3")]  # not UTF-8


@in_both_framings
def test_a_record_that_breaks_the_protocol_ends_the_stream_after_the_good_ones(
    framing: str, gateway: Gateway, client: Client
) -> None:
    good = [op("", {"steps": []}), op("/intent", "x")]
    for now, bad in enumerate(BAD_RECORDS if framing == EVENTS else [*BAD_RECORDS, *BAD_LINES]):
        size = None if now % 2 or len(bad) > 1_000 else 1
        if isinstance(bad, bytes):
            bad = b"data: %b\n\n" % bad if framing == EVENTS else bad + b"\n"
        gateway.reply(framed_as(framing, *good, bad, op("/steps/0", 1), "[DONE]", size=size))
        delivered, error = outcome(client)
        assert (delivered, type(error)) == (good, PatchStreamError), bad
        assert error.status_code == 200
        assert len(str(error)) < 1_000
        if isinstance(bad, str):
            assert error.body[:100] == bad[:100]
        again = pickle.loads(pickle.dumps(error))
        assert (again.status_code, again.body, str(again)) == (200, error.body, str(error))
        if framing == LINES:
            last = bad.encode() if isinstance(bad, str) else bad.removesuffix(b"\n")
            gateway.reply(framed_as(framing, *good, last))
            assert type(outcome(client)[1]) is PatchStreamError, bad


BAD_TOKENS: list[Any] = [
    *["[]", {"choices": ["odd"]}, {"choices": "odd"}, {"choices": [{"index": 0, "delta": "odd"}]}],
    *[{"choices": [{"delta": {"content": bad}}]} for bad in (["odd"], {"odd": 1}, 5)],
]


@in_both_framings
def test_a_token_stream_that_breaks_the_protocol_ends_after_the_good_events(
    framing: str, gateway: Gateway, client: Client
) -> None:
    for bad in ["not JSON", *BAD_TOKENS]:
        gateway.reply(framed_as(framing, delta('{"a": 1, '), bad, delta('"b": 2}'), "[DONE]"))
        delivered, error = outcome(client)
        assert (delivered, type(error)) == ([op("", {}), op("/a", 1)], PatchStreamError), bad
        assert error.body == (bad if isinstance(bad, str) else json.dumps(bad))


def test_only_the_first_choice_counts(gateway: Gateway, client: Client) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": '{"b": 2}'}, "finish_reason": "length"}]}
    both = {"choices": [*other["choices"], *delta(": 1}")["choices"]]}
    gateway.reply(framed_as(EVENTS, other, delta('{"a"'), other, both, other, delta(None, "stop"), other))
    stream = client.stream()
    assert [event.op for event in client.iterate(stream)] == [op("", {}), op("/a", 1)]
    assert client.wait(stream.result()) == {"a": 1}
    assert stream.finish_reason == "stop"


# ---------------------------------------------------------------------------------------------------------
# JSON text in, operations out
# ---------------------------------------------------------------------------------------------------------


def strict_loads(text: str) -> Any:
    """What the standard library makes of JSON text; it takes NaN and Infinity, which are not JSON."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_text(reader: Client, gateway: Gateway, contents: Iterable[str]) -> tuple[list[Any], Any]:
    """What comes of JSON text in pieces, which must be what `json.loads` makes of it."""
    contents = list(contents)
    text = "".join(contents)
    # Without `[DONE]`, so that the connection serves the next one.
    gateway.reply(engine(framed_as(EVENTS, *map(delta, contents), delta(None, "stop"))))
    delivered, result = outcome(reader)
    try:
        expected = strict_loads(text)
    except (ValueError, RecursionError):
        assert type(result) is InvalidOutputError, text
        assert result.raw_output == text
    else:
        assert repr(result) == repr(expected), text
        assert repr(fold(delivered)) == repr(expected), text
    return delivered, result


def test_keys_are_decoded_and_then_escaped_into_the_pointer(gateway: Gateway, reader: Client) -> None:
    text = r'{"a/b": 1, "m~n": 2, "\u007e1": 3, "\/": 4, "": 5, "\"\n\u00e4\ud83d\ude00": {"~\u002f": [6]}}'
    delivered, _ = read_text(reader, gateway, text)
    assert delivered == [
        *[op("", {}), op("/a~1b", 1), op("/m~0n", 2), op("/~01", 3), op("/~1", 4), op("/", 5)],
        *[op('/"\nä😀', {}), op('/"\nä😀/~0~1', []), op('/"\nä😀/~0~1/0', 6)],
    ]
    delivered, _ = read_text(reader, gateway, '{"a": {"b": 1}, "c": 2, "a": {"d": [3]}, "c": null}')
    assert [each["path"] for each in delivered] == ["", "/a", "/a/b", "/c", "/a", "/a/d", "/a/d/0", "/c"]


def test_random_documents_in_random_pieces_give_the_operations_of_json_loads(
    gateway: Gateway, reader: Client
) -> None:
    st = pytest.importorskip("hypothesis").strategies
    layouts = st.fixed_dictionaries(
        {
            "ensure_ascii": st.booleans(),
            "indent": st.sampled_from([None, 0, 1, "\t"]),
            "separators": st.sampled_from([None, (",", ":"), (" ,\n", " :\r\t")]),
        }
    )

    def holds(document: Any, layout: Any, sizes: list[int], space: str, keep: float) -> None:
        text = space + json.dumps(document, **layout) + space
        delivered, _ = read_text(reader, gateway, pieces(text, sizes))
        assert repr(delivered) == repr([*ops_of(json.loads(text))])  # two surrogates may have become one
        short, _ = read_text(reader, gateway, [text[: int(keep * len(text))]])
        assert repr(short[:-1]) == repr(delivered[: len(short[:-1])])  # the last may be a part of a number

    sizes = st.lists(st.integers(1, 30), min_size=1)
    spaces, parts = st.text(" \t\r\n", max_size=3), st.floats(0, 1, exclude_max=True)
    for_all(holds, random_documents(st), layouts, sizes, spaces, parts, examples=120)


def test_random_damage_is_refused_exactly_when_json_loads_refuses_it(
    gateway: Gateway, reader: Client
) -> None:
    st = pytest.importorskip("hypothesis").strategies
    odd = st.sampled_from(
        [
            *"\"\\{}[],:0-.e+1u \n\x00\x1f\x7f\ufeff\u00a0\u0661'/",
            *["\\u", "tr", "null", "NaN", "Infinity", ""],
        ]
    )
    damage = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), odd), max_size=3)
    noise = st.text('{}[]":,\\ul0123.eE+-tfn \n"a', max_size=12) | st.text(max_size=8)

    def holds(text: str, hurt: list[tuple[int, int, str]], sizes: list[int]) -> None:
        for at, gone, new in hurt:
            at %= len(text) + 1
            text = text[:at] + new + text[at + gone :]
        delivered, _ = read_text(reader, gateway, pieces(text, sizes))
        assert repr(read_text(reader, gateway, [text])[0]) == repr(delivered), text

    sizes = st.lists(st.integers(1, 9), min_size=1)
    texts = st.builds(json.dumps, random_documents(st), ensure_ascii=st.booleans())
    for_all(holds, texts | texts | noise, damage, sizes, examples=120)


REFUSED_TEXTS = [
    *["", " \n", "]", "}", ",", ":", "'", "/", "a", "\ufeff1", "\u00a01", "\x0c1", "\x00", "```json\n[]"],
    *["Nan", "NaN", "Infinity", "-Infinity", "True", "trux", "nul", "t", "fals", "+1", ".5", "01", "-01"],
    *["1.", "1.e1", "1e", "1e+", "-", "--1", "0x1", "1_0", "\u0661", "1\u0661", "1 2", "1 ,", "{} {", "[]]"],
    *["[1],", '"a""', "true n", "[", "[,", "[}", "[:", "[1", "[1,", "[1,]", "[1,,", "[1 2", "[1:", "[1}"],
    *['["a":', '["a" "', "[[][", "[[]", "[truex]", "[12_0]", "[12{}]", "[12true]", "[NaN]", "[1, -Infinity]"],
    *["{", "{,", "{]", "{1", "{a", "{'", "{n", "{{", "{:", '{"a', '{"a"', '{"a"}', '{"a",', '{"a" 1'],
    *[
        '{"a":',
        '{"a":}',
        '{"a":,',
        '{"a"::',
        '{"a":1',
        '{"a":1]',
        '{"a":1 "',
        '{"a":1:',
        '{"a":1,',
        '{"a":1,}',
    ],
    *['{"a":1,,', '{"a":1,1', '{"a":{}', '{"a":{}{', '"', '"a', '"a\\', '"a\n"', '"a\t"', '"\x00"', '"\x1f"'],
    *['{"a\n":1}', '"\\x"', '"\\\'"', '"\\U0000"', '"\\\n"', '{"\\a":1}', '"\\u12', '"\\ug000"', '"\\u12x4"'],
    *['"\\u123"', '"\\u+123"', '"\\u0x12"', '"\\u1_23"', '"\\u\u0661\u0661\u0661\u0661"', '"\\ud83d\\uzzzz"'],
]


def test_text_is_refused_exactly_when_json_loads_refuses_it(gateway: Gateway, reader: Client) -> None:
    for text in REFUSED_TEXTS:
        for contents in (text, [text]):
            assert type(read_text(reader, gateway, contents)[1]) is InvalidOutputError, text


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_taken_far_and_refused_beyond(
    start: str, end: str, gateway: Gateway, client: Client
) -> None:
    delivered, _ = read_text(client, gateway, [start * 90 + "1" + end * 90])
    assert len(delivered) == 90 * len(end) + 1
    deeper, error = read_text(client, gateway, pieces(start * 100_000, [10_000]))
    assert type(error) is InvalidOutputError
    assert deeper[: len(delivered) - 1] == delivered[:-1]
    ops = [op("/0" * depth, []) for depth in range(2_000)]
    gateway.reply(framed_as(EVENTS, *ops[:90], DONE), framed_as(EVENTS, *ops, DONE))
    assert outcome(client) == (ops[:90], fold(ops[:90]))
    delivered, error = outcome(client)
    assert delivered == ops[: len(delivered)]
    assert isinstance(error, (PatchStreamError, InvalidOutputError))


# ---------------------------------------------------------------------------------------------------------
# Streams: what is sent
# ---------------------------------------------------------------------------------------------------------

OUTPUTS = [
    pytest.param({"type": "object"}, TICKET, id="dict"),
    pytest.param('{"type": "array"}', [1, [2.5, None], {"a/b": "~"}], id="text"),
    pytest.param(Ticket, TICKET, id="BaseModel"),
    pytest.param(Address, {"city": "Köln", "zip": "50667"}, id="TypedDict"),
    pytest.param(Point, {"x": 1, "y": 2}, id="dataclass"),
    pytest.param(Priority, "high", id="Enum"),
    pytest.param(Optional[bool], None, id="Optional"),
    pytest.param(str, "", id="str"),
    pytest.param(list[Ticket], [TICKET, TICKET], id="list"),
    pytest.param(tuple[int, str], [1, "a"], id="tuple"),
    pytest.param(TypeAdapter(list[Ticket]), [TICKET], id="TypeAdapter of a list"),
    pytest.param(TypeAdapter(Point), {"x": 1}, id="TypeAdapter of a dataclass"),
    pytest.param(TypeAdapter(tuple[int, Priority]), [1, "low"], id="TypeAdapter of a tuple"),
]


@pytest.mark.parametrize(("response_format", "document"), OUTPUTS)
def test_the_result_of_a_stream_is_what_generate_returns(
    gateway: Gateway, client: Client, response_format: Any, document: Any
) -> None:
    text = json.dumps(document, ensure_ascii=False)
    replies = [
        patches(*ops_of(document)),
        ndjson(*ops_of(document)),
        sse(*pieces(text, [3])),
        completion(text),
    ]
    gateway.reply(completion(text), *replies)
    expected = client.generate(response_format=response_format)
    for _ in replies:
        result = client.result(response_format=response_format)
        assert type(result) is type(expected)
        assert repr(result) == repr(expected)
        assert result == expected


def test_a_stream_sends_the_same_request_as_generate(gateway: Gateway, client: Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    more: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": 7,
        "seed": 3,
        "top_p": 0.5,
        "stop": ["\n"],
        "stream_options": {"include_usage": True},
        "extra_body": {"min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}},
        "extra_headers": {"X-Tenant": "blue"},
        "extra_query": {"version": "2"},
    }
    extra = {"chat_template": "x", "guided": [1], "seed": None}
    gateway.reply(*[completion(TICKET_TEXT), patches(*OPS_OF_TICKET)] * 2, NO_PATCH_MODE, sse(TICKET_TEXT))
    for arguments in ({}, {"input": messages, "response_format": Ticket, **more}):
        before = copy.deepcopy(arguments)
        client.generate(**arguments)
        client.events(**arguments)
        assert arguments == before
    client.events(**before)
    client.events(seed=3, extra=extra)
    assert extra == {"chat_template": "x", "guided": [1], "seed": None}
    plain, plain_stream, full, stream, again, tokens, with_extra = gateway.requests
    assert with_extra.json == {**plain.json, "seed": 3, "chat_template": "x", "guided": [1], "stream": True}
    assert (stream.method, stream.path) == ("POST", "/v1/chat/completions?version=2")
    assert plain_stream.json == {**plain.json, "stream": "patch"}
    assert {*plain.json} == {"model", "messages", "response_format"}
    assert stream.json == {**full.json, "stream": "patch"} == again.json
    assert tokens.json == {**full.json, "stream": True}
    assert stream.json["messages"] == messages
    assert stream.json["min_p"] == 0.1
    for request in (stream, again, tokens):
        assert request.path == full.path
        assert request.headers["authorization"] == "Bearer test-key"
        assert request.headers["x-tenant"] == "blue"


def test_a_stream_asks_for_server_sent_events_and_no_compression(
    gateway: Gateway, connect: Callable[..., Client]
) -> None:
    mine = {"ACCEPT": "application/json", "accept-encoding": "gzip", "X-Tenant": "blue"}
    clients = [connect(), connect(default_headers=mine), connect(), connect(default_headers=mine)]
    options = [{}, {}, {"extra_headers": mine}, {"extra_headers": mine}]
    for client, extra in zip(clients, options, strict=True):
        gateway.reply(NO_PATCH_MODE, sse("1"))
        assert client.result(**extra) == 1
    for request in gateway.requests:
        assert request.headers["accept"] == "text/event-stream"
        assert request.headers["accept-encoding"] == "identity"
    assert [request.headers.get("x-tenant") for request in gateway.requests] == [None] * 2 + ["blue"] * 6


WRONG_ARGUMENTS: list[Any] = [
    *[{"response_format": bad} for bad in ([1, 2], "not JSON", {"type": "text"}, {"type": 1}, None)],
    *[{"messages": []}, {"stream": True}, {"stream": "patch"}],
    *[{place: {field: None}} for place in ("extra", "extra_body") for field in ("messages", "stream")],
    *[{place: {"model": "other"}} for place in ("extra", "extra_body")],
    *[{place: {"response_format": {}}} for place in ("extra", "extra_body")],
    *[{"seed": 1, "extra": {"seed": 1}}, {"seed": 1, "extra_body": {"seed": 2}}],
    *[{"top_p": 1, "extra": {"top_p": 1}}, {"top_p": 1, "extra_body": {"top_p": 1}}],
    {"extra": {"min_p": 1}, "extra_body": {"min_p": 1}},
    *[{"max_token": 5}, {"model": None}, {"input": 5}, {"input": None}],
]


def test_wrong_arguments_are_refused_at_once(gateway: Gateway, client: Client) -> None:
    for arguments in WRONG_ARGUMENTS:
        error = InvalidSchemaError if "response_format" in arguments else TypeError
        with pytest.raises(error) as caught:
            client.stream(**arguments)
        if "messages" in arguments:
            assert "input" in str(caught.value)
    assert gateway.connections == 0


def test_nothing_is_sent_before_a_stream_is_read(gateway: Gateway, client: Client) -> None:
    gateway.reply(patches(op("", {})))
    stream = client.stream()
    client.leave(client.stream())
    time.sleep(0.05)
    assert gateway.connections == 0
    assert len(list(client.iterate(stream))) == 1
    assert len(gateway.requests) == 1


def test_a_clients_headers_and_timeout_hold_for_its_streams_and_a_streams_timeout_goes_before(
    gateway: Gateway, connect: Callable[..., Client]
) -> None:
    client = connect(default_headers={"X-Tenant": "blue"}, timeout=0.1)
    gateway.reply(Reply([threading.Event()], status=None))
    assert type(outcome(client)[1]) is openai.APITimeoutError
    assert type(outcome(client, timeout=None)[1]) is openai.APITimeoutError
    assert gateway.requests[0].headers["x-tenant"] == "blue"
    gateway.reply(patches(op("", {}), 0.3))
    assert client.result(timeout=5) == {}


# ---------------------------------------------------------------------------------------------------------
# Streams: what was received is never taken for complete when it is not
# ---------------------------------------------------------------------------------------------------------

OOM = {"error": {"message": "out of memory", "type": "server_error", "code": 500}}


def done(**told: object) -> bytes:
    return b"event: done\ndata: %b\n\n" % json.dumps(told).encode()


def typed_error(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: error\ndata: {text}\n\n".encode()


REPORTS: list[tuple[str, Any]] = [
    (EVENTS, OOM),
    (EVENTS, {"error": "out of memory"}),
    (EVENTS, typed_error(OOM)),
    (EVENTS, typed_error(OOM["error"])),
    (EVENTS, typed_error("out of memory")),
    (LINES, OOM),
    (LINES, {"error": "out of memory"}),
]

# The framing, what follows some operations, and the error that comes of it (or else the value).
ENDS: dict[str, tuple[str, list[Any], type[Exception] | None]] = {
    "end mark": (EVENTS, [DONE], None),
    "end mark with other data": (EVENTS, [b"event: done\ndata: []\n\n"], None),
    "end mark of both kinds": (EVENTS, [b"event: done\ndata: [DONE]\n\n"], None),
    "end mark without its blank line": (EVENTS, [DONE[:-1]], None),
    "end mark of a token stream": (EVENTS, ["[DONE]"], None),
    "end mark, then cut": (EVENTS, [DONE, CUT], None),
    "finish reason stop": (EVENTS, [done(finish_reason="stop", usage=USAGE)], None),
    "no finish reason": (EVENTS, [done(finish_reason=None, usage=None)], None),
    "finish reason length": (EVENTS, [done(finish_reason="length", usage=USAGE)], InvalidOutputError),
    "finish reason content_filter": (EVENTS, [done(finish_reason="content_filter")], InvalidOutputError),
    "finish reason of a choice": (EVENTS, [delta(None, "stop"), DONE], None),
    "finish reason length of a choice": (EVENTS, [delta(None, "length"), DONE], InvalidOutputError),
    "finish reason length in the end mark's choice": (
        EVENTS,
        [done(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}])],
        InvalidOutputError,
    ),
    "error in the end mark": (EVENTS, [done(error={"message": "out of memory"})], PatchStreamError),
    "no end mark": (EVENTS, [], PatchStreamError),
    "no end mark, but a comment": (EVENTS, [b": bye\n\n", b"event: ping\ndata: {}\n\n"], PatchStreamError),
    "half an operation": (EVENTS, [b'event: patch\ndata: {"op":"add","path":"/x","val'], PatchStreamError),
    **{
        f"error {now}": (framing, [report], PatchStreamError) for now, (framing, report) in enumerate(REPORTS)
    },
    "error, then an end mark": (EVENTS, [OOM, DONE], PatchStreamError),
    "cut": (EVENTS, [b"event: patch\nda", CUT], openai.APIConnectionError),
    "lines": (LINES, [], None),
    "lines, end mark": (LINES, ["[DONE]"], None),
    "lines, finish reason of a choice": (LINES, [delta(None, "stop")], None),
    "lines, finish reason length of a choice": (LINES, [delta(None, "length")], InvalidOutputError),
    "lines, half an operation": (LINES, [b'{"op":"add","path":"/x","val'], PatchStreamError),
    "lines, cut": (LINES, [b'{"op":"add","path":"/x","value":1}', CUT], openai.APIConnectionError),
}


@pytest.mark.parametrize("size", [1, None], ids=["byte by byte", "one chunk"])
@pytest.mark.parametrize(("framing", "end", "error"), ENDS.values(), ids=ENDS)
def test_operations_are_a_result_only_when_the_stream_says_so(
    framing: str,
    end: list[Any],
    error: type[Exception] | None,
    size: int | None,
    gateway: Gateway,
    client: Client,
) -> None:
    for count, state in enumerate([None, *states_of(OPS_OF_TICKET)]):
        gateway.reply(framed_as(framing, *OPS_OF_TICKET[:count], *end, size=size))
        delivered, result = outcome(client)
        assert delivered == OPS_OF_TICKET[:count]
        if count == 0 and (error is None or error is InvalidOutputError):  # nothing is never a result
            assert type(result) in (PatchStreamError, InvalidOutputError)
            assert getattr(result, "raw_output", "") == ""
            continue
        assert result == state if error is None else type(result) is error
        if error is InvalidOutputError:
            assert json.loads(result.raw_output) == state
            assert ("max_tokens" in str(result)) == (result.finish_reason == "length")
        if not end and error is PatchStreamError:
            assert (result.status_code, json.loads(result.body or "null")) == (200, state)
    with pytest.raises(error) if error else contextlib.nullcontext():
        assert client.result() == TICKET  # without iterating before


TELLINGS: dict[str, tuple[Reply, str | None, Any]] = {
    "patches that tell nothing": (patches(*OPS_OF_TICKET), None, None),
    "patches": (patches(*OPS_OF_TICKET, done={"finish_reason": "stop", "usage": USAGE}), "stop", USAGE),
    "patches, usage alone": (patches(*OPS_OF_TICKET, done={"usage": USAGE}), None, USAGE),
    "usage in a chunk": (
        framed_as(EVENTS, *OPS_OF_TICKET, {"choices": [], "usage": USAGE}, DONE),
        None,
        USAGE,
    ),
    "usage beside an operation": (
        patches(*OPS_OF_TICKET[:-1], {**OPS_OF_TICKET[-1], "usage": USAGE}),
        None,
        USAGE,
    ),
    "lines": (ndjson(*OPS_OF_TICKET), None, None),
    "lines, usage": (framed_as(LINES, *OPS_OF_TICKET, {"choices": [], "usage": USAGE}), None, USAGE),
    "tokens that tell nothing": (sse(TICKET_TEXT, finish_reason=None), None, None),
    "tokens": (sse(TICKET_TEXT, usage=USAGE), "stop", USAGE),
    "tokens, complete at the limit": (sse(TICKET_TEXT, finish_reason="length"), "length", None),
    "tokens, an empty finish reason": (sse(TICKET_TEXT, finish_reason=""), None, None),
    "whole completion": (completion(TICKET_TEXT), "stop", USAGE),
    "whole completion, an empty finish reason": (completion(TICKET_TEXT, ""), None, USAGE),
}


@pytest.mark.parametrize(("reply", "finish_reason", "usage"), TELLINGS.values(), ids=TELLINGS)
def test_a_stream_tells_its_finish_reason_and_its_usage(
    reply: Reply, finish_reason: str | None, usage: Any, gateway: Gateway, client: Client
) -> None:
    gateway.reply(reply)
    stream = client.stream(response_format=Ticket)
    assert (stream.finish_reason, stream.usage) == (None, None)
    assert len(list(client.iterate(stream))) == 5
    for _ in range(2):
        assert stream.finish_reason == finish_reason
        assert stream.usage == (usage and openai.types.CompletionUsage(**usage))
        assert client.wait(stream.result()) == Ticket.model_validate(TICKET)


# ---------------------------------------------------------------------------------------------------------
# Streams: result(), and leaving early
# ---------------------------------------------------------------------------------------------------------


def test_the_result_is_there_after_some_events_and_after_all_and_twice(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(patches(*OPS_OF_TICKET))
    for read_before in range(6):
        stream = client.stream(response_format=Ticket)
        assert stream.raw_output == ""
        for state in states_of(OPS_OF_TICKET)[:read_before]:
            event = client.wait(next(stream) if client.loop is None else anext(stream))
            assert event.snapshot == state == json.loads(stream.raw_output)
        assert client.wait(stream.result()) == Ticket.model_validate(TICKET)
        assert client.wait(stream.result()) == Ticket.model_validate(TICKET)
        assert list(client.iterate(stream)) == []
    assert len(gateway.requests) == 6
    stream = client.stream()
    *_, last = client.iterate(stream)
    wreck(client.wait(stream.result()))  # which is the caller's own
    assert client.wait(stream.result()) == TICKET
    assert last.snapshot == TICKET


@pytest.mark.parametrize(
    "reply", [patches(*OPS_OF_TICKET), ndjson(*OPS_OF_TICKET), sse(*pieces(TICKET_TEXT, [4]))]
)
def test_a_stream_that_was_closed_has_a_result_only_if_it_had_ended(
    reply: Reply, gateway: Gateway, client: Client
) -> None:
    gateway.reply(reply)
    ended = client.stream(response_format=Ticket)
    assert len(list(client.iterate(ended))) == 5
    left = client.stream(response_format=Ticket)
    events = client.iterate(left)
    assert [next(events).field for _ in range(2)] == ["", "intent"]
    unread = client.stream(response_format=Ticket)
    for stream in (ended, left, unread):
        client.leave(stream)
        client.leave(stream)  # twice does no harm
        assert list(client.iterate(stream)) == []
    assert client.wait(ended.result()) == Ticket.model_validate(TICKET)
    for stream in (left, unread):
        with pytest.raises(RuntimeError, match="closed") as caught:
            client.wait(stream.result())
        assert type(caught.value) is RuntimeError  # the model is not to blame


@pytest.mark.parametrize("make", [patches, ndjson, lambda *ops: sse(json.dumps(fold(ops)))])
def test_a_document_of_the_wrong_type_is_an_invalid_output(
    make: Callable[..., Reply], gateway: Gateway, client: Client
) -> None:
    document = {"intent": "something else", "steps": ["ä"]}
    gateway.reply(make(*ops_of(document)))
    delivered, error = outcome(client, response_format=Ticket)
    assert delivered == [*ops_of(document)]  # every event is delivered all the same
    assert type(error) is InvalidOutputError
    assert json.loads(error.raw_output) == document
    assert isinstance(error.original_error, pydantic.ValidationError)
    assert error.model == "test-model"
    assert "Ticket" in str(error)


HELD: dict[str, Callable[[Any], Reply]] = {
    "patches": lambda gone: patches(op("", {}), op("/a", "x"), gone, op("/b", "y")),
    "tokens": lambda gone: sse('{"a": "x", ', gone, '"b": "y"}'),
}


@pytest.fixture(params=HELD)
def stalled(request: pytest.FixtureRequest, gateway: Gateway) -> Gateway:
    """The gateway, in the middle of an answer of which two events have come."""
    gateway.reply(HELD[request.param](threading.Event()))
    return gateway


@pytest.mark.parametrize("error", [None, KeyError("mine")])
def test_leaving_a_with_block_closes_the_connection_at_once(
    error: Exception | None, stalled: Gateway, client: Client
) -> None:
    kept = client.stream()

    def visit(event: PatchEvent) -> bool:
        if error and event.field:
            raise error
        return event.field == "a"

    def use() -> None:
        with kept as stream:
            for_each(client, stream, visit)

    async def use_async() -> None:
        async with kept as stream:
            async for event in stream:
                if visit(event):
                    break

    with pytest.raises(KeyError, match="mine") if error else contextlib.nullcontext():
        use() if client.loop is None else client.wait(use_async())
    client.until(lambda: stalled.open == 0)


def test_a_stream_that_is_left_by_break_and_dropped_gives_its_connection_back(
    stalled: Gateway, client: Client
) -> None:
    for_each(client, client.stream(), lambda event: event.field == "a")
    gc.collect()
    client.until(lambda: stalled.open == 0)
    stalled.reply(patches(op("", 1)))
    assert client.result() == 1


@pytest.mark.parametrize(
    "reply", [patches(*OPS_OF_TICKET), patches(*OPS_OF_TICKET, 0.01, b": bye\n\n"), ndjson(*OPS_OF_TICKET)]
)
def test_patch_streams_in_a_row_open_one_connection(reply: Reply, gateway: Gateway, client: Client) -> None:
    gateway.reply(reply)
    for turn in range(10):
        assert client.result() == TICKET if turn % 2 else len(client.events()) == 5
    assert gateway.connections == 1


# ---------------------------------------------------------------------------------------------------------
# Streams: what goes wrong
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_another_status_than_200_is_a_patch_stream_error_with_the_sdks_as_its_cause(
    gateway: Gateway, client: Client, status: int, cause: type[openai.APIStatusError]
) -> None:
    message = "no — not so: " + "x" * 1_000
    reply = api_error(status, message, x_request_id="req-7")
    gateway.reply(reply)
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert error.status_code == status
    assert error.body.encode() == reply.body
    assert str(error).startswith(message)  # whole
    assert type(error.__cause__) is cause
    assert error.__cause__.request_id == "req-7"
    assert error.__cause__.response.headers["x-request-id"] == "req-7"
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", [201, 204, 206])
def test_another_success_than_200_is_a_patch_stream_error(
    status: int, gateway: Gateway, client: Client
) -> None:
    body = b"" if status == 204 else lines(*OPS)
    gateway.reply(Reply(body, status, {"Content-Type": LINES}))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert (error.status_code, error.body.encode()) == (status, body)


@pytest.mark.parametrize("mode", ["operations", "tokens"])
@pytest.mark.parametrize(("framing", "report"), REPORTS, ids=lambda value: str(value)[:40])
def test_an_error_in_mid_stream_is_quoted_first_after_the_good_events(
    framing: str, report: Any, mode: str, gateway: Gateway, client: Client
) -> None:
    good = [op("", {}), op("/a", 1)]
    start, rest = (good, op("/b", 2)) if mode == "operations" else ([delta('{"a": 1, ')], delta('"b": 2}'))
    gateway.reply(framed_as(framing, *start, report, rest, "[DONE]"))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == (good, PatchStreamError)
    assert error.status_code == 200
    assert "out of memory" in str(error)
    if report != typed_error("out of memory"):
        assert str(error).startswith("out of memory")
    text = report.decode().partition("data: ")[2] if isinstance(report, bytes) else json.dumps(report)
    assert error.body == text.strip()


@pytest.mark.parametrize("bad", [op("/a/b", 1), "not JSON", OOM], ids=["operation", "text", "error"])
@in_both_framings
def test_a_broken_protocol_closes_the_connection_at_once(
    framing: str, bad: Any, gateway: Gateway, client: Client
) -> None:
    gateway.reply(framed_as(framing, op("", {}), bad, threading.Event()))
    stream = client.stream(timeout=2)
    start = time.monotonic()
    assert type(read(client, stream)[1]) is PatchStreamError
    assert time.monotonic() - start < 1.5
    client.until(lambda: gateway.open == 0)


# ---------------------------------------------------------------------------------------------------------
# Streams from engines without patch mode
# ---------------------------------------------------------------------------------------------------------

BOOL_PARSING = {
    "type": "bool_parsing",
    "loc": ("body", "stream"),
    "msg": "Input should be a valid boolean, unable to interpret input",
    "input": "patch",
}
LLAMA_CPP = "Field 'stream': [json.exception.type_error.302] type must be boolean, but is string"
OLLAMA = "json: cannot unmarshal string into Go struct field ChatCompletionRequest.stream of type bool"
OPENAI = {
    "message": "Invalid type for 'stream': expected a boolean, but got a string instead.",
    "type": "invalid_request_error",
    "param": "stream",
    "code": "invalid_type",
}
LINES_ABOUT_STREAM = [
    "1 validation error for Request\nstream\n  Input should be a valid boolean [type=bool_parsing]",
    'Failed to parse\r\nstream: invalid type: string "patch", expected a boolean',
    "Validation failed:\n\tstream must be a boolean",
]
# As LiteLLM passes vLLM's refusal on.
LITELLM = """litellm.BadRequestError: Hosted_vllmException - {"error":{"message":"1 validation erroREDACTED  \
{'type': 'bool_parsing', 'loc': 'body.stream', 'msg': 'Input should be a valid boolean, unable to interpret \
input', 'input': 'patch'}","type":"Bad Request","param":"body.stream","code":400}}

LiteLLM: model group 'hosted-vllm' failed with the error above. No fallback was attempted."""
PATCH_REFUSALS = {
    "LiteLLM before vLLM": api_error(400, LITELLM),
    "llama.cpp": api_error(400, LLAMA_CPP),
    "llama.cpp, plain text": Reply(LLAMA_CPP.encode(), 400, {"Content-Type": "text/plain"}),
    "llama-cpp-python": api_error(500, str([BOOL_PARSING])),
    "llama-cpp-python, lines": api_error(500, f"1 validation error:\n  {BOOL_PARSING}\n"),
    "vLLM": json_reply({"object": "error", "message": str([BOOL_PARSING]), "code": 400}, 400),
    "vLLM, error object": api_error(400, f"1 validation error:\n  {BOOL_PARSING}\n"),
    "SGLang": json_reply({"object": "error", "message": f"[{BOOL_PARSING}]", "code": 400}, 400),
    "FastAPI": json_reply({"detail": [BOOL_PARSING]}, 422),
    "Ollama": api_error(400, OLLAMA),
    "OpenAI": json_reply({"error": OPENAI}, 400),
    "OpenAI, 422": json_reply({"error": OPENAI}, 422),
    **{f"lines {now}": api_error(400, text) for now, text in enumerate(LINES_ABOUT_STREAM)},
    **{f"detail {now}": json_reply({"detail": text}, 422) for now, text in enumerate(LINES_ABOUT_STREAM)},
}


def streams_asked_for(gateway: Gateway) -> list[Any]:
    return [request.json["stream"] for request in gateway.requests]


WHOLE = {"LiteLLM": completion(TICKET_TEXT), "LiteLLM, prose": completion("Sure!")}


@pytest.mark.parametrize("first", [*PATCH_REFUSALS.values(), *WHOLE.values()], ids=[*PATCH_REFUSALS, *WHOLE])
def test_an_engine_without_patch_mode_is_asked_for_tokens_and_that_is_remembered(
    first: Reply, gateway: Gateway, connect: Callable[..., Client]
) -> None:
    client = connect(max_retries=0 if first.status == 500 else 2)
    gateway.reply(engine(sse(*pieces(TICKET_TEXT, [5])), first))
    results = [outcome(client, response_format=Ticket)[1] for _ in range(3)]
    assert results[1:] == [Ticket.model_validate(TICKET)] * 2
    assert isinstance(results[0], (Ticket, InvalidOutputError))
    assert streams_asked_for(gateway) == ["patch", *[True] * (2 if first.status == 200 else 3)]
    bodies = [request.json for request in gateway.requests]
    assert bodies[1] == {**bodies[0], "stream": True}
    another = connect()  # knows nothing of it
    read(another, another.stream())
    assert streams_asked_for(gateway)[len(bodies)] == "patch"


def test_what_is_remembered_holds_for_a_base_url_and_a_model_and_in_copies(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(engine(sse(TICKET_TEXT)))
    raw = client.raw
    before = raw.with_options(timeout=5)
    assert client.result() == TICKET
    elsewhere = raw.with_options(base_url=gateway.url.replace("/v1", "/v2"))
    for each in (before, raw.with_options(max_retries=1), raw.copy(), raw, elsewhere, elsewhere, raw):
        client.raw = each
        assert client.result() == TICKET
    assert client.result(model="another") == TICKET
    assert client.result(model="another") == TICKET
    assert client.result() == TICKET
    asked = ["patch", True, *[True] * 4, "patch", True, True, True, "patch", True, True, True]
    assert streams_asked_for(gateway) == asked


@pytest.mark.parametrize(
    "second", [api_error(401), api_error(404), api_error(500), PATCH_REFUSALS["vLLM"], Reply(status=204)]
)
def test_a_refusal_is_not_remembered_when_tokens_are_refused_too(
    gateway: Gateway, client: Client, second: Reply
) -> None:
    gateway.reply(PATCH_REFUSALS["llama.cpp"], second, PATCH_REFUSALS["llama.cpp"], sse("1"))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert (error.status_code, error.body.encode()) == (second.status, second.body)
    assert client.result() == 1
    assert streams_asked_for(gateway) == ["patch", True, "patch", True]


SCHEMA_ECHO = {"stream": "patch", "response_format": {"schema": {"properties": {"ok": {"type": "boolean"}}}}}
OTHER_REFUSALS = {
    "context length": api_error(400, "This model's maximum context length is 4096 tokens."),
    "unknown model": api_error(400, "The model `x` does not exist."),
    "no streaming": api_error(400, "Streaming is not supported with this model."),
    "options": api_error(400, "'stream_options' is only allowed when 'stream' is enabled."),
    "boolean option": api_error(422, "stream_options.include_usage must be a boolean"),
    "another boolean": api_error(400, "'logprobs' must be a boolean, not a string."),
    "another boolean of Pydantic": json_reply(
        {"detail": [{**BOOL_PARSING, "loc": ("body", "logprobs"), "input": "x"}]}, 422
    ),
    "an echo of the request": json_reply(
        {"detail": [{"type": "missing", "loc": ["body", "messages"], "input": SCHEMA_ECHO}]}, 422
    ),
    "401": json_reply({"error": OPENAI}, 401),
    "404": json_reply({"error": OPENAI}, 404),
    "500": api_error(500, "The engine died."),
    "no text": Reply(b"", 400),
}


@pytest.mark.parametrize("reply", OTHER_REFUSALS.values(), ids=OTHER_REFUSALS)
def test_any_other_refusal_is_never_asked_again(gateway: Gateway, client: Client, reply: Reply) -> None:
    gateway.reply(reply, sse("{}"))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert error.status_code == reply.status
    assert len(gateway.requests) == 1


DOCUMENTS: list[Any] = [
    *[TICKET, {}, [], 'text — 😀 \u2028\u0085\r\n \x00 \\ " /', 0, -1.5e300, True, None],
    {"": {"/": [{"~": ["-", {"0": None}]}]}, "ä": [[], [[]], {}, 12345678901234567890, 1e-7, False]},
    [[1, 2], [3, [4, [5]]], {"a": {"b": {"c": []}}}],
    {"a": "\ud800", "\udfff": ["\ud83d", "\ude00"]},  # lone surrogates are data
]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_a_token_stream_gives_the_events_of_a_patch_stream(
    gateway: Gateway, client: Client, size: int
) -> None:
    for document in DOCUMENTS:
        text = json.dumps(document, indent=1 if size == 3 else None, ensure_ascii=size == 1)
        ops = [*ops_of(document)]
        gateway.reply(patches(*ops), ndjson(*ops), completion(text))
        expected = client.events()
        assert client.events() == client.events() == expected
        gateway.reply(sse(*pieces(f" \n{text}\n\n", [size])))
        got = client.events()
        assert got == expected
        assert repr([event.op for event in got]) == repr(ops)
        assert repr(client.result()) == repr(document)


OPEN = op("", [])
# Deltas, the finish reason, and the operations that come of text that is not a Ticket's JSON.
BROKEN_OUTPUTS: dict[str, tuple[list[Any], str | None, list[Any]]] = {
    "in a string": (['{"intent": "bil'], "length", [op("", {})]),
    "in a number": (["[1, ", "2"], "length", [OPEN, op("/0", 1)]),
    "before a key": (['{"a": 1,'], "length", [op("", {}), op("/a", 1)]),
    "finished all the same": (['{"a": "b"'], "stop", [op("", {}), op("/a", "b")]),
    "no finish reason": (['["'], None, [OPEN]),
    "root number": (["12"], "length", []),
    "root number with a fraction": (["-1.5"], "length", []),
    "root literal": (["tru"], "length", []),
    "nothing": ([], "length", []),
    "empty": ([None, ""], "stop", []),
    "white space": (["  \n "], "stop", []),
    "prose": (["Sure, ", "here it is: ", '{"a": 1}'], "stop", []),
    "a fence": (["```json\n", "[1]", "\n```"], "stop", []),
    "text after the root": (['{"a": 1}', " Thanks"], "stop", [op("", {}), op("/a", 1)]),
    "two roots": (["[1]", "[1]"], "stop", [OPEN, op("/0", 1)]),
    "a bad literal": (['{"a": tr', "oe, ", '"b": 1}'], "stop", [op("", {})]),
    "NaN": (["[1, NaN, 2]"], "stop", [OPEN, op("/0", 1)]),
    "a trailing comma": (["[1,", "]"], "stop", [OPEN, op("/0", 1)]),
    "a number of 9,999 digits": (["[", "9" * 9_999, "]"], "stop", [OPEN]),
}


@pytest.mark.parametrize(("contents", "finish_reason", "ops"), BROKEN_OUTPUTS.values(), ids=BROKEN_OUTPUTS)
def test_output_that_is_not_json_ends_in_an_invalid_output_error_with_all_its_text(
    gateway: Gateway, client: Client, contents: list[Any], finish_reason: str | None, ops: list[Any]
) -> None:
    text = "".join(content or "" for content in contents)
    # Tokens, with an end mark and without, and a whole completion, which has all its operations at once.
    for reply in (
        sse(*contents, finish_reason=finish_reason),
        framed_as(EVENTS, *map(delta, contents), delta(None, finish_reason)),
        completion(text, finish_reason or ""),
    ):
        gateway.reply(engine(reply))
        delivered, error = outcome(client, response_format=Ticket)
        assert delivered == ops[: len(delivered)]
        assert type(error) is InvalidOutputError
        assert (error.raw_output, error.finish_reason or None, error.model) == (
            text,
            finish_reason,
            "test-model",
        )
        assert isinstance(error.original_error, (json.JSONDecodeError, pydantic.ValidationError))
        assert "Ticket" in str(error)
        assert ("max_tokens" in str(error)) == (finish_reason == "length")


def test_text_that_stops_short_at_a_clean_end_is_an_invalid_output(gateway: Gateway, client: Client) -> None:
    for text, ops in (('{"a": 1, "b', [op("", {}), op("/a", 1)]), ("12", [])):  # a number may go on
        for size in (1, None):
            gateway.reply(framed_as(EVENTS, *map(delta, text), size=size))
            delivered, error = outcome(client)
            assert (delivered, type(error)) == (ops, InvalidOutputError)
            assert error.raw_output == text


@pytest.mark.parametrize(
    "end", [[delta(None, "stop")], ["[DONE]"], [delta("\n")]], ids=["stop", "mark", "space"]
)
def test_a_root_number_is_whole_when_the_stream_says_so(
    end: list[Any], gateway: Gateway, client: Client
) -> None:
    gateway.reply(framed_as(EVENTS, delta("1"), delta("2"), *end))
    assert outcome(client) == ([op("", 12)], 12)


CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (sse({"content": None}, {"refusal": "I can't "}, {"refusal": "do that."}), "I can't do that."),
        (completion(None, refusal="I can't do that."), "I can't do that."),
        (sse({"role": "assistant"}, {"tool_calls": [CALL]}, finish_reason="tool_calls"), "test-model"),
        (completion(None, "length"), "max_tokens"),
        (json_reply({"object": "chat.completion", "choices": []}), "test-model"),
    ],
    ids=["refusal", "refusal, whole", "tool call", "budget spent", "no choices"],
)
def test_an_answer_without_content_is_an_invalid_output_that_says_why(
    reply: Reply, says: str, gateway: Gateway, client: Client
) -> None:
    gateway.reply(engine(reply))
    delivered, error = outcome(client, response_format=Ticket)
    assert (delivered, type(error)) == ([], InvalidOutputError)
    assert error.raw_output == ""
    assert says in str(error)


def test_the_sdks_own_message_objects_are_messages_of_a_stream_too(client: Client, gateway: Gateway) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    gateway.reply(completion(None, tool_calls=[call]))
    message = create(client).choices[0].message
    messages = [
        message,
        {"role": "assistant", "tool_calls": message.tool_calls},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    gateway.reply(completion("{}"), patches(op("", {})))
    client.generate(input=messages)
    client.result(input=messages)
    generated, streamed = (request.json["messages"] for request in gateway.requests[1:])
    assert streamed[1:] == generated[1:]
    assert streamed[0]["tool_calls"] == [call]


def test_a_stream_that_is_closed_while_it_waits_for_its_response_ends_when_that_comes(
    client: Client, gateway: Gateway
) -> None:
    go_on = threading.Event()

    def reply_late(request: Request) -> Reply:
        go_on.wait(10)
        return patches(op("", {}), op("/a", 1))

    gateway.reply(reply_late)
    stream = client.stream()
    if client.loop is None:
        with ThreadPoolExecutor(1) as pool:
            events = pool.submit(list, stream)
            gateway.wait_for(lambda: gateway.requests)
            stream.close()
            go_on.set()
            assert len(events.result(10)) <= 1  # and no error
    else:

        async def close_while_it_waits() -> list[Any]:
            async def read() -> list[Any]:
                return [event async for event in stream]

            reading = asyncio.ensure_future(read())
            while not gateway.requests:
                await asyncio.sleep(0.005)
            await stream.aclose()
            go_on.set()
            return await reading

        assert len(client.wait(close_while_it_waits())) <= 1
    with pytest.raises(RuntimeError, match="closed"):
        client.wait(stream.result())


def test_an_event_can_be_awaited_in_a_task_of_its_own(gateway: Gateway) -> None:
    gateway.reply(patches(op("", {}), op("/intent", "billing")))

    async def main() -> list[str]:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
            stream = client.stream(model="m", input="Hello", response_format=Ticket)
            first = await asyncio.create_task(stream.__anext__())
            second = await asyncio.wait_for(anext(stream), 5)
            assert await anext(stream, None) is None
            return [first.field, second.field]

    assert asyncio.run(main()) == ["", "intent"]


def test_an_async_stream_that_another_task_closes_ends_at_once(gateway: Gateway) -> None:
    gateway.reply(patches(op("", {}), threading.Event()))

    async def main() -> None:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
            stream = client.stream(model="m", input="Hello", response_format=Ticket)
            assert (await anext(stream)).value == {}
            waiting = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0.05)
            await stream.aclose()
            assert await asyncio.wait_for(waiting, 5) is None
            with pytest.raises(RuntimeError, match="closed"):
                await stream.result()

    asyncio.run(main())


# ---------------------------------------------------------------------------------------------------------
# Streams: what they cost
# ---------------------------------------------------------------------------------------------------------


def tokens_of(text: str) -> Reply:
    return framed_as(EVENTS, *map(delta, pieces(text, [40])), "[DONE]")


# A response for a size.
LONG: dict[str, tuple[Callable[[int], Reply], int]] = {
    "operations": (lambda size: framed_as(EVENTS, *ops_of([*range(size)]), DONE), 2_000),
    "one line in many chunks": (lambda size: framed_as(LINES, op("", "x" * size), size=64), 100_000),
    "one event in many chunks": (lambda size: framed_as(EVENTS, op("", "x" * size), DONE, size=64), 100_000),
    "a string in many deltas": (lambda size: tokens_of('"' + r"abc\n" * (size // 5) + '"'), 100_000),
    "a key in many deltas": (lambda size: tokens_of('{"' + "k" * size + '":1}'), 100_000),
    "numbers in many deltas": (lambda size: tokens_of("[" + "123," * (size // 4) + "0]"), 10_000),
    "white space in many deltas": (lambda size: tokens_of(" " * size + "1"), 100_000),
}


@pytest.mark.parametrize(("make", "size"), LONG.values(), ids=LONG)
def test_eight_times_the_stream_costs_about_eight_times_as_much(
    make: Callable[[int], Reply], size: int, gateway: Gateway, reader: Client
) -> None:
    def cost(size: int) -> float:
        gateway.reply(make(size))
        stream = reader.stream(timeout=60)
        start = time.thread_time()
        assert stream.result() is not None
        return time.thread_time() - start

    assert cost(8 * size) < 20 * min(cost(size) for _ in range(3))


# ---------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------

KEY = "sk-marked-0123456789"
SETTINGS = ("DOTTXT_API_KEY", "DOTTXT_BASE_URL", "DOTTXT_MODEL")
ANY = ("-s", '{"type": "object"}')
HI = [*ANY, "Hi"]
TYPED = ("-s", "cli_app.models:Ticket", "Hi")
TICKET_OPS = [op("", {}), op("/intent", "billing"), op("/steps", []), op("/steps/0", "verify")]


@dataclass
class Ran:
    """What a run of the command line came to."""

    status: object
    out: str
    err: str
    last: str = field(default="", compare=False)  # the stream that was written to last

    @property
    def complaint(self) -> str:
        """The one line on stderr."""
        assert (self.status, self.err.count("\n")) == (1, 1), self
        assert self.err.startswith("dottxt: ")
        return self.err.removeprefix("dottxt: ").removesuffix("\n")


class Descriptor(io.RawIOBase):
    """Keeps what is written; a line must come in one write."""

    def __init__(self, name: str, writes: list[tuple[str, bytes]]) -> None:
        self.name, self.writes = name, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        assert bytes(data)[-1:] in b"\n"
        self.writes.append((self.name, bytes(data)))
        return len(data)


MODELS_PY = """
import pydantic
class Ticket(pydantic.BaseModel):
    urgent: bool
    @pydantic.field_validator("urgent")
    def check(cls, urgent):
        return 1 / urgent
class Outer:
    Inner = int
def make():
    pass
Number, SCHEMA, TEXT, ticket = int, {"type": "integer"}, "oops", Ticket(urgent=True)
"""
FILES = {
    "ticket.json": b'\xef\xbb\xbf{"type": "integer"}',  # with a byte order mark
    "broken.json": b"type: object",
    "wrong.json": b'{"items": {"type": "text"}}',
    "latin.json": '{"title": "é"}'.encode("latin-1"),
    "cli_app/models.py": MODELS_PY.encode(),
    "cli_app/needy.py": b"import cli_app_needs_this",
    "cli_app/failing.py": b"1 / 0",
    "cli_app/script.py": b"raise SystemExit(0)",
}


@pytest.fixture
def settings(gateway: Gateway, monkeypatch: MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment and the current folder of a command."""
    for name, value in zip(SETTINGS, (KEY, gateway.url, "test-model"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(dottxt.__file__).parent))
    monkeypatch.chdir(tmp_path)
    Path("cli_app").mkdir()
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "cli_app"]:
        del sys.modules[name]


Run = Callable[..., Ran]


@pytest.fixture
def run(settings: None, monkeypatch: MonkeyPatch) -> Run:
    """Runs the command line in this process, in a locale that is not UTF-8, without buffers."""

    def run(*argv: str, stdin: Any = b"", timeout: float = 5, **streams: Any) -> Ran:
        monkeypatch.setattr(dottxt, "DotTxt", functools.partial(DotTxt, max_retries=0, timeout=timeout))
        monkeypatch.setattr(sys, "path", sys.path.copy())
        writes: list[tuple[str, bytes]] = []
        for name in ("stdout", "stderr"):
            raw: Any = Descriptor(name, writes)
            streams.setdefault(name, io.TextIOWrapper(raw, encoding="ascii", write_through=True))
        if isinstance(stdin, bytes):
            stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="latin-1")
        for name, stream in {"stdin": stdin, **streams}.items():
            monkeypatch.setattr(sys, name, stream)
        try:
            status: object = dottxt.main(list(argv))
        except SystemExit as end:
            status = end.code
        out, err = (b"".join(data for to, data in writes if to == name) for name in ("stdout", "stderr"))
        return Ran(status, out.decode(), err.decode(), writes[-1][0] if writes else "")

    return run


@contextlib.contextmanager
def start(*command: str, **streams: Any) -> Iterator[Any]:
    """A process that is over afterwards."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with subprocess.Popen(command, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


# What is printed


def user(prompt: str) -> dict[str, Any]:
    return {"role": "user", "content": prompt}


# What is sent where a row of the table says nothing else.
SENT = {"model": "test-model", "messages": [user("Hi")], "response_format": {"type": "object"}}
OPTIONS = ["-m", "other", "--system", "Brief.", "--temperature", "0.5", "--max-tokens", "9", "--seed", "7"]
OPTIONS_SENT = {
    "model": "other",
    "messages": [{"role": "system", "content": "Brief."}, user("Hi")],
    "temperature": 0.5,
    "max_tokens": 9,
    "seed": 7,
}


class Prints(typing.NamedTuple):
    """A command, what is printed (text, or the values of lines of JSON), and the gateway's reply."""

    argv: list[str]
    printed: str | list[Any] = "{}\n"
    reply: Script = completion("{}")
    stdin: bytes = b""
    sent: Mapping[str, Any] | None = MappingProxyType({})  # None: nothing, and no setting is needed
    told: str = ""  # words on stderr


def with_usage(request: Request) -> Reply:
    """A stream of a server that tells usage where it is asked to."""
    asked = request.json.get("stream_options") == {"include_usage": True}
    return patches(*TICKET_OPS, done={"finish_reason": "stop", "usage": USAGE if asked else None})


def prompted(words: list[str], stdin: bytes, prompt: str) -> dict[str, Prints]:
    """The words of a prompt before and after the options."""
    rows = [["generate", *ANY, *words], ["generate", *words, *ANY]]
    messages = {"messages": [user(prompt)]}
    return {f"{argv} {stdin!r}": Prints(argv, stdin=stdin, sent=messages) for argv in rows}


def typed(schema: str) -> dict[str, Prints]:
    """A SCHEMA argument that stands for an integer."""
    sent = {"response_format": {"type": "integer"}}
    shown = json.dumps(sent["response_format"], indent=2) + "\n"
    return {
        f"generate -s {schema}": Prints(["generate", "-s", schema, "Hi"], "3\n", completion("3"), sent=sent),
        f"schema -s {schema}": Prints(["schema", "-s", schema], shown, sent=None),
    }


ODD = '{"price": 0.10,\r\n  "text" : "a  \\"b\\n\u2028é😀", "half": "\\ud800"}'
ODD_OPS = [*TICKET_OPS, op("/note", "ü\u2028😀" + "x" * 20_000)]
RECORDS = [{"id": "openai/gpt-oss-20b", "object": "model", "own": 1.5}, {"id": "zoé"}]
LIST, EMPTY_LIST = json_reply({"object": "list", "data": RECORDS}), json_reply({"data": []})
PARTS = {"message": {"content": [{"type": "text", "text": "{}"}]}, "finish_reason": "stop"}
NO_COUNTS = json_reply({"choices": [PARTS], "usage": {}})
PRINTED = {
    "generate": Prints(["generate", *HI], f"{ODD}\n", completion(f"\n{ODD}\n")),
    "generate, all options": Prints(["generate", *OPTIONS, *HI], sent=OPTIONS_SENT),
    "generate -v": Prints(["generate", "-v", *HI], told="test-model stop 11 7 s"),
    "generate -v, parts": Prints(["generate", "-v", *HI], reply=NO_COUNTS, told="stop None s"),
    "stream": Prints(["stream", *HI], ODD_OPS, patches(*ODD_OPS)),
    "stream, all options": Prints(["stream", *OPTIONS, *HI], [op("", {})], sent=OPTIONS_SENT),
    "stream -v": Prints(["stream", "-v", *HI], TICKET_OPS, with_usage, told="test-model stop 11 7 s"),
    "stream -v, whole": Prints(["stream", "-v", *HI], [op("", {})], told="test-model stop 11 7 s"),
    "models": Prints(["models"], "openai/gpt-oss-20b\nzoé\n", LIST),
    "models --json": Prints(["models", "--json"], [RECORDS], LIST),
    "no models": Prints(["models"], "", EMPTY_LIST),
    "--version": Prints(["--version"], f"dottxt {dottxt.__version__}\n", sent=None),
    **prompted(["I was", "charged", "twice"], b"", "I was charged twice"),
    **prompted([], "Grüße".encode(), "Grüße"),
    **prompted(["-"], "\ufeffGrüße\r\naus Köln\n".encode(), "Grüße\naus Köln"),  # with a byte order mark
    **prompted(["Classify", "this:", "-"], b"I was charged", "Classify this:\n\nI was charged"),
    **prompted(["-", "What", "is it?"], b"I was charged", "I was charged\n\nWhat is it?"),
    **typed("ticket.json"),
    **typed(' {"type": "integer"}'),
    **typed("cli_app.models:Number"),
    **typed("cli_app.models:Outer.Inner"),
    **typed("cli_app.models:SCHEMA"),
}


@pytest.mark.parametrize("row", PRINTED.values(), ids=map(ascii, PRINTED))
def test_what_is_printed(row: Prints, run: Run, monkeypatch: MonkeyPatch, gateway: Gateway) -> None:
    for name in SETTINGS if row.sent is None else ():
        monkeypatch.delenv(name)
    gateway.reply(row.reply)
    ran = run(*row.argv, stdin=row.stdin)
    printed: Any = ran.out
    if isinstance(row.printed, list):
        printed = [json.loads(line) for line in ran.out.split("\n")[:-1]]
    assert (ran.status, printed) == (0, row.printed)
    assert [word for word in row.told.split() if not re.search(rf"\b{word}\b", ran.err)] == []
    assert ran.last == "stderr" if row.told else not ran.err
    requests = [request.json for request in gateway.requests if request.body]
    expected = [] if row.sent is None or row.argv[0] == "models" else [{**SENT, **row.sent}]
    for body in requests:
        assert body.pop("stream", "patch") == "patch"
        body.pop("stream_options", None)
        body["response_format"] = body["response_format"]["json_schema"]["schema"]
    assert requests == expected
    assert {request.headers["authorization"] for request in gateway.requests} <= {f"Bearer {KEY}"}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_schema_may_come_through_a_pipe(run: Run) -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"type": "integer"}')
    os.close(writer)
    assert json.loads(run("schema", "-s", f"/dev/fd/{reader}").out) == {"type": "integer"}
    os.close(reader)


def test_help_needs_neither_key_nor_network(run: Run, monkeypatch: MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name)
        assert name in run("--help").out
    assert run() == run("--help")
    for command in ("models", "generate", "stream", "schema"):
        ran = run(command, "--help")
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith(f"usage: dottxt {command} ")


# What is not sent

# A SCHEMA argument, and what the line must say.
WRONG_SCHEMAS: dict[str, list[str]] = {
    "tickt.json": ["tickt.json", "file"],
    "cli_app": [":Type"],
    "cli_app.models": [":Type"],
    "cli_app.models.Ticket": [":Type"],
    "cli_app/models.py": [":Type"],
    "cli_app/models.py:Ticket": [":Type"],
    "latin.json": ["latin.json"],
    "broken.json": ["broken.json", "JSON"],
    "wrong.json": ["wrong.json", "/items/type"],
    "[]": ["object"],
    '{"type": 1}': ["/type"],
    "cli_app.needy:Ticket": ["cli_app.needy", "cli_app_needs_this"],
    "cli_app.failing:Ticket": ["cli_app.failing", "division by zero"],
    "cli_app.script:Ticket": ["cli_app.script"],
    "cli_app.models:Tickt": ["cli_app.models", "Tickt"],
    "cli_app.models:make": ["cli_app.models:make", "function"],
    "cli_app.models:ticket": ["cli_app.models:ticket", "Ticket"],
    "cli_app.models:TEXT": ["cli_app.models:TEXT", "JSON"],
}
NOBODY = {"DOTTXT_BASE_URL": "http://user:password@127.0.0.1:1/v1"}
NOBODY_SAYS = ["http://127.0.0.1:1/v1", "DOTTXT_BASE_URL", "refused"]
# The command, standard input (None: closed), the settings, and what the line must say.
NOT_SENT: dict[str, tuple[list[str], bytes | None, dict[str, str], list[str]]] = {
    **{
        f"schema {given}": (["schema", "-s", given], b"", {}, words) for given, words in WRONG_SCHEMAS.items()
    },
    "no model": (["generate", *HI], b"", {"DOTTXT_MODEL": " "}, ["-m", "DOTTXT_MODEL", "dottxt models"]),
    "no key": (["generate", *HI], b"", {"DOTTXT_API_KEY": " "}, ["DOTTXT_API_KEY"]),
    "no key to list models": (["models"], b"", {"DOTTXT_API_KEY": ""}, ["DOTTXT_API_KEY"]),
    "a URL without http": (["models"], b"", {"DOTTXT_BASE_URL": "host/v1"}, ["DOTTXT_BASE_URL", "http://"]),
    "an empty prompt": (["generate", *ANY, "", " "], b"", {}, ["prompt", "empty"]),
    "a blank standard input": (["stream", *ANY, "-"], b" \n", {}, ["prompt", "empty"]),
    "a closed standard input": (["generate", *ANY], None, {}, ["prompt", "empty"]),
    "a prompt that is not text": (["generate", *ANY, "a\udcff"], b"", {}, ["prompt", "UTF-8"]),
    "standard input in Latin-1": (["stream", *ANY], b"Gr\xfc\xdfe", {}, ["prompt", "UTF-8"]),
    "standard input in UTF-16": (["generate", *ANY], "Hi".encode("utf-16"), {}, ["prompt", "UTF-8"]),
    "a system message that is not text": (["stream", "--system", "a\udcff", *HI], b"", {}, ["UTF-8"]),
    "a refused connection": (["generate", *HI], b"", NOBODY, NOBODY_SAYS),
    "a stream's refused connection": (["stream", *HI], b"", NOBODY, NOBODY_SAYS),
    "a refused list of models": (["models"], b"", NOBODY, NOBODY_SAYS),
}


@pytest.mark.parametrize("row", NOT_SENT.values(), ids=map(ascii, NOT_SENT))
def test_what_is_wrong_before_anything_is_sent_is_one_line(
    row: Any, run: Run, monkeypatch: MonkeyPatch, gateway: Gateway
) -> None:
    argv, stdin, environment, words = row
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = run(*argv, stdin=stdin)
    assert ran.out == ""
    assert [word for word in words if word not in ran.complaint] == []
    assert not re.search("response_format|password", ran.complaint)
    assert gateway.requests == []


@pytest.mark.parametrize(
    "argv",
    [["guess"], ["generate"], ["schema", *HI], ["stream", *HI, "--guess"], ["models", "--guess"]],
    ids=str,
)
def test_wrong_usage_ends_with_2_and_a_line_on_usage(argv: list[str], run: Run, gateway: Gateway) -> None:
    ran = run(*argv)
    assert (ran.status, ran.out, gateway.requests) == (2, "", [])
    assert ran.err.startswith(f"usage: dottxt {argv[0].replace('guess', '')}")


def test_a_closed_standard_output_is_an_error_and_nothing_is_sent(run: Run, gateway: Gateway) -> None:
    for argv in (["generate", *HI], ["models"], ["--help"]):
        assert "standard output" in run(*argv, stdout=None).complaint
    assert gateway.requests == []


# What goes wrong at the gateway


def echo(status: int, text: str) -> Callable[[Request], Reply]:
    """A server that quotes the Authorization header."""
    return lambda request: Reply(text.replace("%", request.headers["authorization"]).encode(), status)


CUT_SHORT = '{"a":\n "x'
PLAIN = {"Content-Type": "text/plain"}
PAGE_REPLY = Reply(PAGE.encode(), 200, {"Content-Type": "text/html"})
PERHAPS = '{"urgent": "perhaps"}'
WRONG_OP = op("/steps/9", "x" * 1000)
ASKING = "generate stream"
ALL = "models generate stream"
SILENCE = Reply([threading.Event()], status=None)
NO_LISTS: list[Any] = [{}, {"data": None}, {"data": ""}, {"data": {}}, {"data": "ab"}, {"data": {"id": "m"}}]
NO_LISTS += [[{"id": "m"}], None, "m", {"data": [{}]}, {"data": [{"id": None}]}, {"data": ["m"]}]
NO_LIST = ["list of models", "DOTTXT_BASE_URL"]
# The commands, what the gateway sends, what the line must say, and what must be printed after it.
FAILED: dict[str, tuple[str, list[Script], list[str], str | None]] = {
    "wrong key": (ALL, [api_error(401, "Bad key")], ["401", "Bad key", "DOTTXT_API_KEY"], ""),
    "no such model": (ALL, [api_error(404, "None")], ["404", "None", "dottxt models", "/v1"], ""),
    "rate limit": (ASKING, [api_error(429, "Slow down")], ["429", "Slow down"], ""),
    "server error": (ALL, [api_error(503, "Loading")], ["503", "Loading"], ""),
    "two lines": (ASKING, [api_error(400, "Too\n\nlong\x1b[2J")], ["400", "long"], ""),
    "plain text": (ASKING, [Reply(b"Not here", 403, PLAIN)], ["Not here"], ""),
    "no text": (ASKING, [Reply(b"", 404)], ["404", "dottxt models", "/v1"], ""),
    "a long page": (ASKING, [Reply(b"<html>" + b"x" * 5000, 502)], [], ""),
    "silence": (ASKING, [SILENCE], ["127.0.0.1", "DOTTXT_BASE_URL"], ""),
    "a break": (ALL, [Reply([RESET], status=None)], ["127.0.0.1", "DOTTXT_BASE_URL"], ""),
    "a break in mid-stream": ("stream", [patches(*TICKET_OPS, CUT)], ["127.0.0.1"], ""),
    "no end mark": ("stream", [patches(*TICKET_OPS[:2], done=None)], ["end"], '{"intent": "billing"}'),
    "a wrong operation": ("stream", [patches(*TICKET_OPS, WRONG_OP)], ["/steps/9"], json.dumps(WRONG_OP)),
    "output cut short": ("generate", [completion(CUT_SHORT, "length")], ["Ticket", "max_tokens"], CUT_SHORT),
    "tokens cut short": ("stream", [NO_PATCH_MODE, sse(CUT_SHORT)], ["test-model", "Ticket"], CUT_SHORT),
    "a wrong field": (ASKING, [completion(PERHAPS)], ["test-model", "Ticket", "urgent"], PERHAPS),
    "an error nobody foresaw": (ASKING, [completion('{"urgent": false}')], ["ZeroDivisionError"], ""),
    "a page": ("generate", [PAGE_REPLY], ["DOTTXT_BASE_URL"], PAGE),
    "a page, not models": ("models", [PAGE_REPLY], NO_LIST, ""),
    "a page that claims to be JSON": ("models", [Reply(PAGE.encode())], NO_LIST, ""),
    **{f"{value}": ("models", [json_reply(value)], NO_LIST, "") for value in NO_LISTS},
    "the key in an error": (ALL, [echo(400, '{"error": {"message": "Who is %?"}}')], ["Who is"], ""),
    "the key in a long error": (ALL, [echo(400, "x" * 180 + "%" + "x" * 99)], [], ""),
    "the key in a page": (ALL, [echo(200, "x" * 180 + "%" + "x" * 99)], [], None),
    "the key in a stream": ("stream", [echo(200, '{"error": "Who is %?"}')], ["Who is"], None),
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for name, row in FAILED.items() for command in row[0].split()]
)
def test_what_goes_wrong_at_the_gateway_is_one_line_and_then_what_came(
    command: str, name: str, run: Run, gateway: Gateway
) -> None:
    _, replies, words, raw = FAILED[name]
    gateway.reply(*replies)
    ran = run(command, *[TYPED, []][command == "models"], timeout=0.1 if replies == [SILENCE] else 5)
    line, _, after = ran.err.partition("\n")
    assert (ran.status, line[:8]) == (1, "dottxt: ")
    assert line.isprintable()
    assert [word for word in words if word not in line] == []
    if raw is not None:
        assert after.removesuffix("\n") == raw or json.loads(after) == json.loads(raw)
    assert KEY[:8] not in ran.out + ran.err


# Terminals, pipes, notebooks, processes


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end where one reads what it shows, and the end of the program."""
    screen, slave = pty.openpty()
    yield screen, slave
    os.close(screen)


def read_lines(screen: int, count: int) -> list[str]:
    """What a terminal or a pipe shows, until so many lines are there."""
    shown = b""
    while shown.count(b"\n") < count:
        assert select.select([screen], [], [], 10)[0], f"nothing follows {shown!r}"
        shown += os.read(screen, 4096)
    return shown.decode().splitlines()


FIELDS = {
    "nested": (TICKET_OPS, ['intent = "billing"', "steps = []", 'steps/0 = "verify"']),
    "long and far": ([op("", {}), op("/地", "ü\n" * 300)], ["地 = " + '"' + "ü\\n" * 300 + '"']),
    "scalar": ([op("", "yes")], ['"yes"']),
    "control characters": ([op("", {}), op("/\x1b[2J\n", 1)], ["\\u001b[2J\\n = 1"]),
}


@pytest.mark.parametrize(("ops", "lines"), FIELDS.values(), ids=FIELDS)
def test_a_terminal_shows_a_line_for_each_field(
    ops: list[Any], lines: list[str], run: Run, terminal: tuple[int, int], gateway: Gateway
) -> None:
    gateway.reply(patches(*ops))
    screen, slave = terminal
    with os.fdopen(slave, "w", encoding="latin-1") as out:
        assert run("stream", *HI, stdout=out) == Ran(0, "", "")
        assert read_lines(screen, len(lines)) == lines


def test_a_terminal_that_is_read_is_told_so(run: Run, terminal: tuple[int, int], gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    keyboard, slave = terminal
    os.write(keyboard, "Grüße\n\x04".encode())
    with os.fdopen(slave, encoding="latin-1") as stdin:
        ran = run("generate", *ANY, stdin=stdin)
    assert (ran.status, ran.out) == (0, "{}\n")
    assert re.fullmatch(r"(?i)dottxt: .*ctrl-d.*\n", ran.err)
    assert gateway.requests[-1].json["messages"] == [user("Grüße")]


@pytest.mark.parametrize("command", [["--help"], ["schema", *ANY], ["stream", *HI]], ids=lambda argv: argv[0])
def test_a_closed_pipe_is_no_error_and_closes_the_stream(
    command: list[str], run: Run, gateway: Gateway
) -> None:
    gateway.reply(patches(*TICKET_OPS, threading.Event()))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        assert run(*command, stdout=out) == Ran(0, "", "")
    gateway.wait_for(lambda: gateway.open == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_is_one_line(run: Run, gateway: Gateway) -> None:
    gateway.reply(MODELS)
    with open("/dev/full", "w") as full:
        assert "No space left on device" in run("models", stdout=full).complaint


class Unplugged(io.StringIO):
    """A notebook's stream whose other end is gone."""

    def write(self, text: str) -> NoReturn:
        raise OSError("unplugged")


def test_a_notebook_can_run_the_command_line(run: Run, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    streams = {name: io.StringIO() for name in ("stdout", "stderr")}  # without an encoding or a descriptor
    assert run("generate", "-v", *ANY, stdin=io.StringIO("Grüße"), **streams).status == 0
    assert gateway.requests[-1].json["messages"] == [user("Grüße")]
    assert streams["stdout"].getvalue() == "{}\n"
    assert "tokens" in streams["stderr"].getvalue()
    assert "unplugged" in run("generate", *HI, stdout=Unplugged()).complaint
    keyboard = io.TextIOWrapper(io.BytesIO("Ja\nGrüße".encode()), encoding="utf-8")
    assert keyboard.readline() == "Ja\n"  # from now on its encoding is fixed
    assert run("generate", *ANY, stdin=keyboard).status == 0
    assert gateway.requests[-1].json["messages"] == [user("Grüße")]


def test_a_pipe_has_each_line_at_once_and_may_be_closed_early(
    settings: None, monkeypatch: MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    seen = threading.Event()
    gateway.reply(patches(op("", {}), seen, *TICKET_OPS[1:], threading.Event()))
    with start(sys.executable, dottxt.__file__, "stream", *TYPED[:2], stdin=subprocess.PIPE) as process:
        process.stdin.write("Grüße".encode())
        process.stdin.close()
        assert [json.loads(line) for line in read_lines(process.stdout.fileno(), 1)] == [op("", {})]
        process.stdout.close()
        seen.set()
        assert (process.wait(10), process.stderr.read()) == (0, b"")
    assert gateway.requests[0].json["messages"] == [user("Grüße")]
    gateway.wait_for(lambda: gateway.open == 0)


def test_a_terminal_shows_each_field_at_once_and_ctrl_c_closes_the_stream(
    settings: None, terminal: tuple[int, int], gateway: Gateway
) -> None:
    gateway.reply(patches(*TICKET_OPS, threading.Event()))
    screen, slave = terminal
    with start(sys.executable, "-m", "dottxt", "stream", *HI, stdout=slave) as process:
        os.close(slave)
        assert read_lines(screen, 3) == FIELDS["nested"][1]
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (130, b"")
    gateway.wait_for(lambda: gateway.open == 0)


def test_descriptors_that_a_shell_has_closed_are_no_traceback(settings: None, gateway: Gateway) -> None:
    command = f"{sys.executable} -m dottxt generate -s '{ANY[1]}'"
    with start("sh", "-c", f"{command} Hi >&- || {command} <&- 2>&-") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, gateway.requests) == (1, b"", [])
    assert re.fullmatch(rb"dottxt: [^\n]*\n", err)


ROOT = Path(__file__).parent


def run_code(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which finds the module."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(dottxt.__file__).parent), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---------------------------------------------------------------------------------------------------------
# Faults on the wire: for `generate`, for patch streams in both framings, and for token streams
# ---------------------------------------------------------------------------------------------------------

MEDIA_TYPES = {
    "generate": "application/json",
    "events": "text/event-stream",
    "lines": "application/x-ndjson",
    "tokens": "text/event-stream",
}
of_every_call = pytest.mark.parametrize("call", MEDIA_TYPES)
of_every_stream = pytest.mark.parametrize("call", ["events", "lines", "tokens"])
DOCUMENT: Any = {"intent": "billing", "note": "ä — 😀", "steps": ["verify", None, 1.5, {"a/b": []}]}


def body_of(call: str, document: Any = DOCUMENT, size: int = 8) -> bytes:
    """A good answer, in which nothing outside of ASCII is escaped; tokens come in deltas of a size."""
    if call in ("events", "lines"):
        ops = [json.dumps(each, ensure_ascii=False) for each in ops_of(document)]
        if call == "lines":
            return "".join(f"{each}\n" for each in ops).encode()
        done = 'event: done\ndata: {"finish_reason": "stop"}\n\n'
        return "".join([*(f"event: patch\ndata: {each}\n\n" for each in ops), done]).encode()
    text = json.dumps(document, ensure_ascii=False)
    if call == "generate":
        whole = json.loads(bytes(completion(text).body))  # type: ignore[arg-type]
        return json.dumps(whole, ensure_ascii=False).encode()
    choices = [{"index": 0, "delta": {"content": piece}} for piece in pieces(text, [size])]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({"choices": [choice]}, ensure_ascii=False) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def start_of(call: str, more: int = 0) -> bytes:
    """What was sent of a good answer when its second string has got as far as a character of four bytes."""
    body = body_of(call)
    return body[: body.index("😀".encode()) + more]


def reply_to(call: str, *steps: Any, **options: Any) -> Reply:
    """A reply of the right content type."""
    headers = {"Content-Type": MEDIA_TYPES[call], **options.pop("headers", {})}
    return Reply(steps, headers=headers, **options)


def answer(gateway: Gateway, call: str, *replies: Reply) -> None:
    """Answer the next calls with these; an engine with a token stream refuses patch mode each time."""
    left = list(replies)

    def script(request: Request) -> Reply:
        if call == "tokens" and request.method == "POST" and request.json.get("stream") == "patch":
            return NO_PATCH_MODE
        return left.pop(0) if len(left) > 1 else left[0]

    gateway.reply(script)


def ask(client: Client, call: str, **options: Any) -> tuple[list[Any], Any]:
    """The operations that a call delivers, and its value or the error that it ends with, without the key."""
    ops: list[Any] = []
    outcome: Any
    try:
        if call == "generate":
            outcome = client.generate(**options)
        else:
            stream = client.stream(**options)
            try:
                ops.extend(event.op for event in client.iterate(stream))
            except openai.OpenAIError as error:
                with pytest.raises(type(error)):
                    client.wait(stream.result())
                raise
            outcome = client.wait(stream.result())
    except openai.OpenAIError as error:
        assert "test-key" not in "\n".join([str(error), repr(error), repr(vars(error))])
        outcome = error
    return ops, outcome


def ops_from(call: str, document: Any = DOCUMENT) -> list[Any]:
    return [] if call == "generate" else list(ops_of(document))


def assert_serves(client: Client, gateway: Gateway, call: str) -> None:
    """The next answer is right, and no connection is open but the one it came by."""
    answer(gateway, call, reply_to(call, body_of(call)))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    client.until(lambda: gateway.open <= 1)


LOST, LATE = openai.APIConnectionError, openai.APITimeoutError
EVER = threading.Event()  # never set
GZIP = {"Content-Encoding": "gzip"}

# What the server does, the operations that a stream delivers before (None: as many as arrive), and the error.
FAULTS: dict[str, tuple[Callable[[str], Reply], int | None, type[Exception]]] = {
    "closed before the first byte": (lambda call: Reply([CUT], None), 0, LOST),
    "reset before the first byte": (lambda call: Reply([RESET], None), 0, LOST),
    "cut in the headers": (lambda call: Reply([b"HTTP/1.1 200 OK\r\nCont", CUT], None), 0, LOST),
    "cut after the headers": (lambda call: reply_to(call, CUT), 0, LOST),
    "cut in mid-record": (lambda call: reply_to(call, start_of(call), CUT), 2, LOST),
    "cut in mid-character": (lambda call: reply_to(call, start_of(call, 2), CUT), 2, LOST),
    "reset in mid-record": (lambda call: reply_to(call, start_of(call), 0.05, RESET), None, LOST),
    "not HTTP": (lambda call: Reply([b"220 ready\r\n"], None), 0, LOST),
    "Content-Length too great": (
        lambda call: reply_to(call, start_of(call), framing="length", content_length=9999),
        2,
        LOST,
    ),
    "broken gzip": (lambda call: reply_to(call, b"no gzip", headers=GZIP), 0, LOST),
    "silent": (lambda call: Reply([EVER], None), 0, LATE),
    "silent in mid-record": (lambda call: reply_to(call, start_of(call), EVER), 2, LATE),
    "error page that is cut": (lambda call: Reply([b'{"error":', CUT], 500), 0, LOST),
    "error page that is reset": (lambda call: Reply([b'{"error":', 0.05, RESET], 401), 0, LOST),
    "error page that goes silent": (lambda call: Reply([b'{"error":', EVER], 400), 0, LATE),
    "error page of broken gzip": (lambda call: Reply(b"no gzip", 503, GZIP), 0, LOST),
    "another status, cut": (lambda call: reply_to(call, b"{", CUT, status=206), 0, LOST),
    "redirected for ever": (lambda call: Reply(b"", 307, {"Location": "/v1/chat/completions"}), 0, LOST),
}


@of_every_call
@pytest.mark.parametrize(("fault", "delivered", "error"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_an_error_of_the_sdk_and_the_client_goes_on(
    fault: Callable[[str], Reply],
    delivered: int | None,
    error: type[Exception],
    call: str,
    client: Client,
    gateway: Gateway,
) -> None:
    answer(gateway, call, fault(call))
    start = time.monotonic()
    ops, outcome = ask(client, call, timeout=0.5 if error is LATE else 5)
    assert type(outcome) is error
    assert time.monotonic() - start < 10
    assert ops == ops_from(call)[: len(ops) if delivered is None else delivered]
    assert_serves(client, gateway, call)


@of_every_call
def test_only_an_end_mark_makes_an_answer_whole_whose_connection_is_cut(
    call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, reply_to(call, body_of(call), CUT))
    ops, outcome = ask(client, call)
    assert ops == ops_from(call)
    assert outcome == DOCUMENT if call in ("events", "tokens") else type(outcome) is LOST
    assert_serves(client, gateway, call)


# Proxies turn a server that dies in mid-answer into a clean end.
CLEAN_ENDS: dict[str, Callable[[str, int], Reply]] = {
    "last chunk": lambda call, at: reply_to(call, body_of(call)[:at]),
    "closed connection": lambda call, at: reply_to(call, body_of(call)[:at], framing="close"),
}


@of_every_call
@pytest.mark.parametrize("end", CLEAN_ENDS.values(), ids=CLEAN_ENDS)
def test_a_clean_end_in_mid_answer_is_never_taken_for_the_end_of_the_answer(
    end: Callable[[str, int], Reply], call: str, client: Client, gateway: Gateway
) -> None:
    body = body_of(call)
    whole = {"events": body.rfind(b"event: done"), "lines": len(body), "tokens": body.rfind(b"]}}")}
    ends = {*range(0, whole.get(call, len(body)), 17), *(line.end() for line in re.finditer(b"\n\n?", body))}
    for at in sorted(at for at in ends if at < whole.get(call, len(body))):
        answer(gateway, call, end(call, at))
        ops, outcome = ask(client, call)
        assert ops == ops_from(call)[: len(ops)]
        if call == "events":
            assert type(outcome) is PatchStreamError, at
        elif call != "lines" or body[at - 1 : at] not in (b"\n", b"}"):  # of whole lines, nobody can tell
            assert type(outcome) in (InvalidOutputError, PatchStreamError), at


@of_every_call
def test_a_server_error_is_retried_and_passes_or_is_told(
    call: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    client = connect(max_retries=2)
    assert_serves(client, gateway, call)
    before = len(gateway.requests)
    error = api_error(503, "try again", **SOON)
    answer(gateway, call, error, error, reply_to(call, body_of(call)))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert len(gateway.requests) == before + 3
    answer(gateway, call, error)
    ops, outcome = ask(client, call)
    assert ops == []
    assert len(gateway.requests) == before + 6
    assert outcome.status_code == 503
    if call != "generate":
        assert type(outcome) is PatchStreamError
        outcome = outcome.__cause__
    assert type(outcome) is openai.InternalServerError
    assert_serves(client, gateway, call)


def gzipped(call: str) -> Reply:
    pack = zlib.compressobj(wbits=31)
    lines = [pack.compress(line) + pack.flush(zlib.Z_SYNC_FLUSH) for line in body_of(call).splitlines(True)]
    return reply_to(call, *lines, pack.flush(), headers=GZIP)


FRAMINGS: dict[str, Callable[[str], Reply]] = {
    "gzip": gzipped,
    "HTTP/1.0 without keep-alive": lambda call: reply_to(call, body_of(call), framing="close"),
    "byte by byte": lambda call: reply_to(call, *pieces(body_of(call), [1])),
}


@of_every_call
@pytest.mark.parametrize("framed", FRAMINGS.values(), ids=FRAMINGS)
def test_an_answer_is_the_same_however_it_is_sent(
    framed: Callable[[str], Reply], call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, framed(call))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert_serves(client, gateway, call)


EVENT_TYPE = {"Content-Type": "text/event-stream"}
LOGIN_PAGE = Reply(b"<html>\n<body>Please log in</body>\n</html>\n", headers={"Content-Type": "text/html"})

# Answers of status 200 without an answer in them, and whether they break the protocol of a stream (None: they
# do where the framing has an end mark). They hold no output for `generate`.
EMPTY: dict[str, tuple[Callable[[str], Reply], bool | None]] = {
    "nothing": (lambda call: reply_to(call, framing="length"), None),
    "nothing, of no type": (lambda call: Reply(b"", headers={"Content-Type": ""}), False),
    "204": (lambda call: Reply(status=204), True),
    "a proxy's page": (lambda call: LOGIN_PAGE, True),
    "an error": (lambda call: json_reply({"error": {"message": "overloaded"}}), True),
    "an error event": (
        lambda call: Reply(b'event: error\ndata: {"message": 1}\n\n', headers=EVENT_TYPE),
        True,
    ),
}


@of_every_call
@pytest.mark.parametrize(("reply", "breaks_protocol"), EMPTY.values(), ids=EMPTY)
def test_a_200_without_an_answer_is_never_taken_for_one(
    reply: Callable[[str], Reply], breaks_protocol: bool | None, call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, reply(call))
    ops, outcome = ask(client, call)
    if breaks_protocol is None:
        breaks_protocol = call == "events"
    assert ops == []
    assert type(outcome) is (
        PatchStreamError if breaks_protocol and call != "generate" else InvalidOutputError
    )
    assert ("base_url" in str(outcome)) == (reply(call) is LOGIN_PAGE)
    assert_serves(client, gateway, call)


def test_a_token_stream_is_closed_at_its_end_mark(client: Client, gateway: Gateway) -> None:
    noise = b': ping\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'
    answer(gateway, "tokens", reply_to("tokens", body_of("tokens"), *[0.02, noise] * 500))
    start = time.monotonic()
    assert ask(client, "tokens") == (ops_from("tokens"), DOCUMENT)
    client.until(lambda: gateway.open <= 1)
    assert time.monotonic() - start < 3
    assert_serves(client, gateway, "tokens")


@of_every_stream
def test_a_stream_that_never_ends_can_be_left(call: str, client: Client, gateway: Gateway) -> None:
    more = {
        "events": b": ping\n\n",
        "lines": body_of("lines", "once more"),
        "tokens": b': ping\n\ndata: {"choices": []}\n\n',
    }
    body = body_of(call)
    end = {"events": body.rfind(b"event: done"), "lines": len(body), "tokens": body.rfind(b"data: [DONE]")}[
        call
    ]
    answer(gateway, call, reply_to(call, body[:end], *[0.01, more[call]] * 1_000))
    stream = client.stream()
    events = client.iterate(stream)
    assert [next(events).op for _ in ops_from(call)] == ops_from(call)
    client.leave(stream)
    client.until(lambda: gateway.open == 0)
    assert list(events) == []
    assert_serves(client, gateway, call)


def test_whatever_bytes_a_server_sends_the_error_is_a_documented_one(
    client: Client, gateway: Gateway
) -> None:
    st = pytest.importorskip("hypothesis").strategies
    damage = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8))
    types = st.sampled_from([*MEDIA_TYPES.values(), "text/html", "text/plain", ""])
    statuses = st.sampled_from([200, 200, 200, 200, 201, 206, 400, 404, 422, 500])

    def holds(call: str, noise: bytes, hurt: list[Any], kind: str, status: int, sizes: list[int]) -> None:
        body = noise or body_of(call)
        for at, gone, new in hurt:
            start = int(at * len(body))
            body = body[:start] + new + body[start + gone :]
        answer(gateway, call, Reply(pieces(body, sizes), status, {"Content-Type": kind}))
        ops, outcome = ask(client, call)
        if not noise and not hurt and (status, kind) == (200, MEDIA_TYPES[call]):
            assert (ops, outcome) == (ops_from(call), DOCUMENT)

    calls, sizes = st.sampled_from([*MEDIA_TYPES]), st.lists(st.integers(1, 300), min_size=1)
    noise = st.just(b"") | st.binary()
    for_all(holds, calls, noise, st.lists(damage, max_size=3), types, statuses, sizes, examples=60)
    gateway.requests.clear()


# ---------------------------------------------------------------------------------------------------------
# Leaks and load: a gateway in a process of its own, which counts its connections
# ---------------------------------------------------------------------------------------------------------


def serve_echo() -> None:
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


def leave(with_block: bool, raises: bool, client: Any) -> None:
    """Leave a stream after its second event."""
    stream = client.stream(**STALLED)
    with suppress(KeyError), stream if with_block else contextlib.nullcontext():
        for event in stream:
            if event.field and raises:
                raise KeyError
            if event.field:
                break


async def leave_async(with_block: bool, raises: bool, client: Any) -> None:
    stream = client.stream(**STALLED)
    with suppress(KeyError):
        async with stream if with_block else contextlib.nullcontext():
            async for event in stream:
                if event.field and raises:
                    raise KeyError
                if event.field:
                    break


async def leave_by_cancelling(client: Any) -> None:
    async def work() -> None:
        async for event in client.stream(**STALLED):
            if event.field:
                there.set()

    there = asyncio.Event()
    task = asyncio.create_task(work())
    await there.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def leave_by_timeout(client: Any) -> None:
    with anyio.CancelScope() as scope:
        async for event in client.stream(**STALLED):
            if event.field:
                scope.deadline = anyio.current_time()
    assert scope.cancel_called


WAYS_OUT: dict[str, tuple[type[DotTxt] | type[AsyncDotTxt], Callable[[Any], Any]]] = {
    "cancelled task": (AsyncDotTxt, leave_by_cancelling),
    "timeout": (AsyncDotTxt, leave_by_timeout),
}
for with_block, raises in itertools.product([False, True], repeat=2):
    name = f"{'exception' if raises else 'break'}{' in a with block' if with_block else ''}"
    WAYS_OUT[name] = (DotTxt, functools.partial(leave, with_block, raises))
    WAYS_OUT[f"async {name}"] = (AsyncDotTxt, functools.partial(leave_async, with_block, raises))
STREAMS = 500  # left in each way, 5,000 in all
TRACED = 100  # of them, with their memory


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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "leave"), WAYS_OUT.values(), ids=WAYS_OUT)
def test_streams_that_are_left_early_leave_nothing_behind(
    kind: type[DotTxt] | type[AsyncDotTxt],
    leave: Callable[[Any], Any],
    echo_server: Echo,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(kind, api_key="test-key", base_url=echo_server.url, max_retries=0, timeout=10)

    def leave_many(times: int) -> int:
        """Leave streams, see their connections closed, and count the objects that are there then."""

        async def leave_them() -> None:
            for _ in range(times):
                await leave(client.raw)
            await asyncio.sleep(0.05)  # a dropped stream is closed by a task of its own

        if client.loop is None:
            for _ in range(times):
                leave(client.raw)
        else:
            client.wait(leave_them())
        client.until(lambda: echo_server.open == 0)
        gc.collect()
        return len(gc.get_objects())

    with nothing_is_printed(caplog, monkeypatch):
        with client:
            half = leave_many(STREAMS // 2)
            leave_many(STREAMS // 2 - TRACED)
            tracemalloc.start()
            try:
                whole = leave_many(TRACED)
                kept, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert client.generate(input="Hello") == {"text": "Hello"}
            assert client.result(input="Hello") == {"text": "Hello"}
            assert echo_server.open == 1
        client.until(lambda: echo_server.open == 0)
        client.close()
    assert whole < half + STREAMS // 10
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


@pytest.mark.slow
@pytest.mark.parametrize("last_act", LAST_ACTS.values(), ids=LAST_ACTS)
def test_a_program_may_end_with_a_stream_that_it_leaves(last_act: str, echo_server: Echo) -> None:
    there = {"api_key": "test-key", "base_url": echo_server.url}
    code = f"import asyncio, contextlib\nfrom dottxt import *\nthere, stalled = {there!r}, {STALLED!r}\n"
    done = run_code(code + last_act)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert echo_server.open == 0


def odd_texts(count: int) -> list[str]:
    """Prompts of many lengths, each of its own."""
    return [f"{now} " + 'ä😀\u2028"\\\n\x00' * (now % 50) for now in range(count)]


def ask_for(text: str, model: str = "m") -> dict[str, Any]:
    return {"model": model, "input": text, "response_format": {"type": "object"}}


@pytest.mark.slow
def test_thousands_of_calls_at_once_on_one_client_each_get_their_own_answer(echo_server: Echo) -> None:
    limit = openai.DEFAULT_CONNECTION_LIMITS.max_connections
    assert limit
    # The pool under the SDK's 1.x and 2.x takes time that grows with the square of the calls at once.
    count = 1_000 if int(openai.__version__.partition(".")[0]) > 2 else 250
    texts = odd_texts(2 * count)
    asks = [ask_for(text, f"all of {min(limit, 2 * count)}") for text in texts]

    async def main() -> list[Any]:
        async with AsyncDotTxt(api_key="k", base_url=echo_server.url, max_retries=0, timeout=120) as client:
            calls = [client.generate(**each) for each in asks[::2]]
            streams = [client.stream(**each).result() for each in asks[1::2]]
            return await asyncio.gather(*calls, *streams)

    assert asyncio.run(main()) == [{"text": text} for text in texts[::2] + texts[1::2]]
    assert echo_server.count("calls") == 2 * count
    assert echo_server.count("peak") <= limit + 1  # and the one that asks for the counts
    assert echo_server.open == 0


def long_record(call: str, size: int, *, bad: bool = False) -> Iterator[bytes]:
    """An answer that is one record of a size."""
    before, after = {
        "generate": ('{"choices": [{"message": {"content": "\\"', '\\""}}]}'),
        "events": (
            'event: patch\ndata: {"op": "add", "path": "", "value": "',
            '"}\n\nevent: done\ndata: {}\n\n',
        ),
        "lines": ('{"op": "add", "path": "", "value": "', '"}\n'),
        "tokens": (
            'data: {"choices": [{"delta": {"content": "\\"',
            '\\""}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
        ),
    }[call]
    yield before.encode()
    yield from itertools.repeat(b"x" * 65_536, size // 65_536)
    yield (after.replace('"', "!") if bad else after).encode()


@pytest.mark.slow
@of_every_call
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_record_of_64_megabytes_takes_linear_time_and_bounded_memory(
    bad: bool, call: str, client: Client, gateway: Gateway
) -> None:
    megabyte = 1 << 20

    def cost(size: int) -> float:
        reply = Reply(long_record(call, size, bad=bad), headers={"Content-Type": MEDIA_TYPES[call]})
        answer(gateway, call, reply)
        start = time.thread_time()
        _, outcome = ask(client, call)
        spent = time.thread_time() - start
        if bad:
            assert isinstance(outcome, openai.OpenAIError)
            assert len(str(outcome)) < 1_000
        else:
            assert len(outcome) == size
            assert set(outcome[: size // 2]) == {"x"}
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


# ---------------------------------------------------------------------------------------------------------
# Hostile content
# ---------------------------------------------------------------------------------------------------------

VERY_DEEP = 100_000
REFUSED = object()
MANY_KEYS = dict.fromkeys(map(str, range(10_000)))
ODD_KEYS = {
    "/": 1,
    "~": 2,
    "~1": 3,
    "~0": 4,
    "": 5,
    "-": 6,
    "__proto__": {"-": 7},
    "0": 8,
    "01": [9],
    "a/b~": 0,
}

# JSON text that stands for the value of a field, and that value.
HOSTILE: dict[str, tuple[str, Any]] = {
    "nested arrays": ("[" * VERY_DEEP + "]" * VERY_DEEP, REFUSED),
    "nested objects": ('{"a":' * VERY_DEEP + "1" + "}" * VERY_DEEP, REFUSED),
    "arrays that never close": ("[" * VERY_DEEP, REFUSED),
    "an integer of 10,000 digits": ("9" * 10_000, REFUSED),
    "a negative integer of 10,000 digits": ("-" + "9" * 10_000, REFUSED),
    "a fraction of 100,000 digits": ("0." + "3" * 100_000, 1 / 3),
    "NaN": ("NaN", REFUSED),
    "Infinity": ("Infinity", REFUSED),
    "-Infinity": ("-Infinity", REFUSED),
    "a lone surrogate": (r'"\ud800"', "\ud800"),
    "surrogates the wrong way round": (r'"\ude00\ud83d"', "\ude00\ud83d"),
    "NUL": (r'"\u0000"', "\x00"),
    "a bare NUL": ('"\x00"', REFUSED),
    "a key of a megabyte": (f'{{"{"k" * 1_000_000}": 1}}', {"k" * 1_000_000: 1}),
    "a NUL as a key": (r'{"\u0000": {"": [1]}}', {"\x00": {"": [1]}}),
    "a surrogate as a key": (r'{"\ud800": 1}', {"\ud800": 1}),
    "10,000 keys": (json.dumps(MANY_KEYS), MANY_KEYS),
    "keys that look like pointers": (json.dumps(ODD_KEYS).replace('"~0"', r'"\u007e0"'), ODD_KEYS),
}


def hostile_reply(call: str, text: str) -> Reply:
    if call == "generate":
        return completion(f'{{"x": {text}}}')
    if call == "tokens":
        choice = {"index": 0, "delta": {"content": f'{{"x": {text}}}'}, "finish_reason": "stop"}
        return reply_to(call, f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode())
    ops = ['{"op":"add","path":"","value":{}}', f'{{"op":"add","path":"/x","value":{text}}}']
    if call == "lines":
        return reply_to(call, "\n".join(ops).encode())
    return reply_to(call, *(f"data: {each}\n\n".encode() for each in ops), b"event: done\ndata: {}\n\n")


@of_every_call
@pytest.mark.parametrize(("text", "value"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_the_right_value_or_a_documented_error(
    text: str, value: Any, call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, hostile_reply(call, text))
    start = time.monotonic()
    ops, outcome = ask(client, call)
    assert time.monotonic() - start < 10
    if value is REFUSED:
        assert type(outcome) is (PatchStreamError if call in ("events", "lines") else InvalidOutputError)
        assert len(str(outcome)) < 1_000
    else:
        assert outcome == {"x": value}
        assert call == "generate" or fold(ops) == outcome
    assert_serves(client, gateway, call)


def any_json(st: Any) -> Any:
    """What `json.loads` can return, and what it cannot."""
    odd = st.sampled_from(["/-", "/0", "/1", "/~0", "/~1", "/~", "/00", "/-1", "/\x00", "/\ud800", "/type"])
    pointers = st.lists(odd | st.text(max_size=3), max_size=5).map("".join)

    documents = any_json(st)

    def holds(document: Any, pointer: str, value: Any) -> None:
        before = pickle.dumps(document)
        try:
            apply_add(document, pointer, value)
        except ValueError as error:
            assert len(str(error)) < 1_000
            assert pickle.dumps(document) == before

    for_all(holds, documents, pointers, documents, examples=100)


# ---------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------


def echoing(kind: str, status: int, text: str) -> Callable[[Request], Reply]:
    """A server that quotes the headers of a request."""

    def script(request: Request) -> Reply:
        headers = json.dumps(request.headers).replace('"', "'")
        return Reply(text.replace("HEADERS", headers).encode(), status, {"Content-Type": kind})

    return script


ECHO_PAGES = {
    "an error page": echoing("text/html", 401, "<pre>HEADERS</pre>"),
    "an error message": echoing("application/json", 403, '{"error": {"message": "not with HEADERS"}}'),
    "an error message that refuses": echoing("application/json", 422, '{"detail": "HEADERS"}'),
    "another status": echoing("text/plain", 206, "HEADERS"),
    "a page": echoing("text/html", 200, "<pre>HEADERS</pre>"),
    "an error line": echoing("application/x-ndjson", 200, '{"error": "not with HEADERS"}\n'),
    "an operation": echoing("application/x-ndjson", 200, '{"op": "add", "path": "/HEADERS", "value": 1}\n'),
    "an error event": echoing("text/event-stream", 200, "event: error\ndata: HEADERS\n\n"),
    "a patch event": echoing(
        "text/event-stream", 200, 'event: patch\ndata: {"op": "add", "path": "/HEADERS", "value": 1}\n\n'
    ),
}


@pytest.mark.parametrize("refuses_patch_mode", [False, True])
@pytest.mark.parametrize("echo", ECHO_PAGES.values(), ids=ECHO_PAGES)
def test_no_stream_error_shows_a_key_that_the_server_echoes(
    echo: Callable[[Request], Reply],
    refuses_patch_mode: bool,
    connect: Callable[..., Client],
    gateway: Gateway,
) -> None:
    client = connect(api_key="marked-key-0123456789")

    def script(request: Request) -> Reply:
        refuses = refuses_patch_mode and request.json["stream"] == "patch"
        return NO_PATCH_MODE if refuses else echo(request)

    gateway.reply(script)
    _, outcome = ask(client, "stream")
    assert type(outcome) is PatchStreamError
    assert "authorization" in outcome.body
    assert "Bearer" in outcome.body
    assert "marked-key" not in "\n".join([str(outcome), repr(outcome), repr(vars(outcome))])


# ---------------------------------------------------------------------------------------------------------
# Processes, other event loops
# ---------------------------------------------------------------------------------------------------------


# Calls that fail, each with an error of ours.
def test_the_async_client_works_under_trio(gateway: Gateway) -> None:
    trio = pytest.importorskip("trio")
    stalled = reply_to("events", start_of("events"), EVER)

    async def main() -> None:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url, max_retries=1, timeout=5) as client:
            gateway.reply(api_error(503, **SOON), reply_to("generate", body_of("generate")))
            assert await client.generate(**ask_for("Hello")) == DOCUMENT
            gateway.reply(api_error(503, **SOON), reply_to("events", body_of("events")))
            assert await client.stream(**ask_for("Hello")).result() == DOCUMENT
            gateway.reply(stalled)
            with trio.move_on_after(0.2) as scope:
                async for _ in client.stream(**ask_for("Hello")):
                    pass
            assert scope.cancelled_caught
            with pytest.raises(openai.APITimeoutError):
                await client.stream(**ask_for("Hello"), timeout=0.1).result()
            await trio.to_thread.run_sync(gateway.wait_for, lambda: gateway.open <= 1)
            answers: dict[int, Any] = {}

            async def one(now: int) -> None:
                answers[now] = await client.stream(**ask_for(str(now))).result()

            gateway.reply(lambda request: patches(op("", request.json["messages"][0]["content"])))
            async with trio.open_nursery() as nursery:
                for now in range(20):
                    nursery.start_soon(one, now)
            assert answers == {now: str(now) for now in range(20)}

    trio.run(main)
    gateway.wait_for(lambda: gateway.open == 0)


# ---------------------------------------------------------------------------------------------------------
# One file: vendoring
# ---------------------------------------------------------------------------------------------------------


def test_the_module_imports_the_sdk_and_pydantic_and_nothing_else() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(dottxt.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names <= {"openai", "pydantic", "pydantic_core", "typing_extensions"}
    assert "asyncio" not in imported  # it runs on any event loop that the SDK runs on


def from_a_zip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with zipfile.ZipFile(folder / "app.zip", "w") as archive:
        for path in sorted(folder.rglob("*.py")):
            archive.write(path, path.relative_to(folder))
    monkeypatch.syspath_prepend(folder / "app.zip")
    return importlib.import_module("app._vendor.structured")


def from_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch, *, register: bool = False) -> Any:
    spec = importlib.util.spec_from_file_location("structured", folder / "app/_vendor/structured.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    if register:
        monkeypatch.setitem(sys.modules, "structured", module)
    spec.loader.exec_module(module)
    return module


PLACES: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "a zip": from_a_zip,
    "a path": from_a_path,
    "a path, registered": functools.partial(from_a_path, register=True),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_copy_works_wherever_it_stands(
    place: Callable[..., Any], vendored: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "dottxt")
    copied = place(vendored, monkeypatch)
    gateway.reply(completion('{"x": 1}'), patches(op("", {}), op("/x", 1)))
    with copied.DotTxt(api_key="test-key", base_url=gateway.url) as client:
        arguments = {"model": "m", "input": "Hello", "response_format": dict[str, int]}
        assert client.generate(**arguments) == client.stream(**arguments).result() == {"x": 1}
    with pytest.raises(copied.InvalidSchemaError):
        copied.schemas.normalize_schema([])
    with pytest.raises(SystemExit) as ended:
        copied.main(["--version"])
    assert ended.value.code == 0
    assert "dottxt" not in sys.modules


# ---------------------------------------------------------------------------------------------------------
# HTTP/2
# ---------------------------------------------------------------------------------------------------------


def serve_http2(listener: socket.socket, bodies: Iterator[tuple[str, list[Step]]]) -> None:
    """Serve one HTTP/2 connection in clear text with scripted bodies."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import StreamEnded

    protocol = H2Connection(H2Configuration(client_side=False))
    protocol.initiate_connection()
    with listener.accept()[0] as connection:
        connection.sendall(protocol.data_to_send())
        while data := connection.recv(65536):
            for event in protocol.receive_data(data):
                if isinstance(event, StreamEnded):
                    kind, steps = next(bodies)
                    protocol.send_headers(event.stream_id, [(":status", "200"), ("content-type", kind)])
                    for step in steps:
                        if isinstance(step, bytes):
                            protocol.send_data(event.stream_id, step)
                            connection.sendall(protocol.data_to_send())
                        elif isinstance(step, threading.Event):
                            step.wait(5)
                    protocol.end_stream(event.stream_id)
            connection.sendall(protocol.data_to_send())


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt], ids=["sync", "async"])
def test_http2_serves_generate_and_stream_over_one_connection(kind: type[DotTxt] | type[AsyncDotTxt]) -> None:
    pytest.importorskip("h2")
    http: Any = openai.DefaultHttpxClient if kind is DotTxt else openai.DefaultAsyncHttpxClient
    delivered = threading.Event()
    whole = ("application/json", list(completion('{"a": 1}').bytes_and_steps())[1:])
    streamed = ("text/event-stream", list(patches(op("", {}), delivered, op("/a", 1)).body))
    bodies: Any = iter([whole, streamed, whole])
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve_http2, listener, bodies)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        http_client = http(http1=False, http2=True)
        client = Client(
            kind, api_key="test-key", base_url=url, max_retries=0, timeout=5, http_client=http_client
        )
        assert client.generate() == {"a": 1}
        fields = []
        for event in client.iterate(client.stream()):
            fields.append(event.field)
            delivered.set()
        assert fields == ["", "a"]
        assert client.generate() == {"a": 1}
        client.close()
        assert serving.result(5) is None
