"""The tests of dottxt, through its public names, over real loopback sockets.

The sections stand in the order of the module's rooms. Each holds a promise of the README:

| section | promise |
| --- | --- |
| One file | it works under any name, in any package, and imports the SDK and Pydantic alone |
| Errors | one `except` catches them all; they tell what to do, and cross processes |
| Output types | any type, schema or builder; what cannot be used is refused before anything is sent |
| Document | `apply_add` folds operations; events are values, their snapshots right whenever they are read |
| Framings | any cut of the bytes gives the same events, each as soon as it is complete |
| JSON text in pieces | a token stream gives the events of a patch stream |
| Answer | what was received is never taken for complete when it is not; whole and streamed answers agree |
| Clients | keys, URLs, requests, fallback, faults, leaving early, elements: sync and async alike |
| Command line | `dottxt models`, `generate`, `stream`, `schema` |

The gateway, its replies and clients that read them stand in `.ci/gateway.py`: other tests there share them.
"""

# ruff: noqa: UP007, UP045 - Union[...] and Optional[...] are among the types under test

from __future__ import annotations

import abc
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
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import typing
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import GenericAlias, MappingProxyType
from typing import Annotated, Any, Literal, NewType, NoReturn, Optional, Union
from unittest import mock

import openai
import openai.types.chat
import pydantic
import pytest
from gateway import *
from openai.resources.chat import AsyncCompletions, Completions
from pydantic import AfterValidator, BaseModel, Field, RootModel, TypeAdapter

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


class Missing:
    """Stands for `pty` where it is missing (Windows, WebAssembly): what needs a terminal is skipped."""

    def openpty(self) -> Any:
        pytest.skip("this platform has no terminals")


try:
    pty: Any = importlib.import_module("pty")
except ImportError:
    pty = Missing()


# ---------------------------------------------------------------------------------------------------------
# One file
# ---------------------------------------------------------------------------------------------------------

NAMES = "InvalidSchemaError, build_response_format, normalize_schema"
FROM_SCHEMAS = f"{NAMES} = s.InvalidSchemaError, s.build_response_format, s.normalize_schema"
COPY = "app._vendor.structured"


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
def test_the_helpers_can_be_imported(form: str, place: str, vendored: Path, monkeypatch: MonkeyPatch) -> None:
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


def from_a_package(folder: Path, monkeypatch: MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(COPY)


def from_a_zip(folder: Path, monkeypatch: MonkeyPatch) -> Any:
    with zipfile.ZipFile(folder / "app.zip", "w") as archive:
        for path in sorted(folder.rglob("*.py")):
            archive.write(path, path.relative_to(folder))
    return from_a_package(folder / "app.zip", monkeypatch)


def from_a_path(folder: Path, monkeypatch: MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("structured", folder / "app/_vendor/structured.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("place", [from_a_package, from_a_zip, from_a_path])
def test_a_copy_works_wherever_it_stands(
    place: Callable[..., Any], vendored: Path, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "dottxt")
    copied = place(vendored, monkeypatch)
    gateway.reply(completion('{"x": 1}'), patches(op("", {}), op("/x", 1)), completion("oops"))
    with copied.DotTxt(api_key="test-key", base_url=gateway.url) as client:
        arguments = {"model": "m", "input": "Hello", "response_format": dict[str, int]}
        assert client.generate(**arguments) == client.stream(**arguments).result() == {"x": 1}
        with pytest.raises(copied.InvalidOutputError) as caught:
            client.generate(**arguments)
    if place is not from_a_path:  # which pickle cannot find
        assert pickle.loads(pickle.dumps(caught.value)).raw_output == "oops"
    with pytest.raises(copied.InvalidSchemaError):
        copied.schemas.normalize_schema([])
    with pytest.raises(SystemExit) as ended:
        copied.main(["--version"])
    assert ended.value.code == 0
    assert "dottxt" not in sys.modules


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
    "truncated stream": (InvalidOutputError, Client.result, completion('{"intent": "bil', "length")),
    "no content": (InvalidOutputError, Client.generate, completion(None, "length")),
    "does not fit": (InvalidOutputError, generating(Ticket), completion('{"intent": "é", "steps": 1}')),
    "a validator's own": (InvalidOutputError, generating(Picky), completion('{"intent": "bug"}')),
    "bad schema": (InvalidSchemaError, generating({"type": 1}), completion("")),
    "bad type": (InvalidSchemaError, generating(Indescribable), completion("")),
    "status": (PatchStreamError, Client.events, api_error(401, "wrong key")),
    "line": (PatchStreamError, Client.events, ndjson(op("", {}), "oops")),
}


def failure(name: str, client: Client, gateway: Gateway) -> Any:
    kind, call, reply = FAILURES[name]
    gateway.reply(reply)
    with pytest.raises(kind) as caught:
        call(client)
    return caught.value


# The attributes of each error, as they are where it is made by hand and nothing is said.
NO_OUTPUT = {"raw_output": "", "finish_reason": None, "original_error": None, "completion": None}
ATTRIBUTES: dict[type[Exception], dict[str, object]] = {
    InvalidOutputError: {"model": "", **NO_OUTPUT},
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
def test_every_error_is_one_of_the_sdk_and_survives(name: str, client: Client, gateway: Gateway) -> None:
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
        (InvalidOutputError, [], {"completion": openai.types.chat.ChatCompletion.construct(id="1")}, "."),
        (PatchStreamError, [], {}, "."),
        (PatchStreamError, ["oh"], {"status_code": 500, "body": "b"}, "^oh$"),
        (PatchStreamError, [], {"status_code": 503, "body": "closed"}, "(?s)(?=.*503)(?=.*closed)"),
        (PatchStreamError, [], {"body": '{"error": {"message": "so it is"}}'}, "^so it is"),
    ],
)
def test_errors_can_be_made(kind: Any, args: list[str], attributes: dict[str, object], message: str) -> None:
    error = kind(*args, **attributes)
    expected = {**ATTRIBUTES[kind], **attributes}
    assert {name: getattr(error, name) for name in expected} == expected
    assert re.search(message, str(error))
    assert_survives_pickle_and_copy(error)


STATUSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}
# What to check, for a status.
CHECKS = {401: ["api_key", "DOTTXT_API_KEY"], 404: ["models.list()", "base_url", "/v1"]}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_is_an_error_of_the_sdk(status: int, kind: Any, client: Client, gateway: Gateway) -> None:
    message = "no — not so: " + "x" * 1_000
    reply = api_error(status, message, x_request_id="req-7")
    gateway.reply(reply)
    words = CHECKS.get(status, [])
    for call in (Client.generate, list_models, create):
        with pytest.raises(kind, match="no — not so") as caught:
            call(client)
        assert (caught.value.status_code, caught.value.request_id) == (status, "req-7")
        if call is Client.generate and hasattr(caught.value, "add_note"):
            notes = "".join(getattr(caught.value, "__notes__", []))
            assert [word for word in words if word not in notes] == []
            assert bool(notes) == bool(words)
    stream = client.stream(timeout=5)
    delivered, error = read(client, stream)
    assert stream.response.headers["x-request-id"] == "req-7"
    assert (delivered, type(error), error.status_code) == ([], PatchStreamError, status)
    assert error.body.encode() == reply.body
    assert str(error).startswith(message)  # whole
    for word in itertools.chain(*CHECKS.values()):
        assert (word in str(error)) == (word in words)
    assert type(error.__cause__) is kind
    assert error.__cause__.request_id == "req-7"
    assert error.__cause__.response.headers["x-request-id"] == "req-7"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="has no notes")
def test_a_connection_error_names_the_url_and_the_cause(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    client = connect(base_url=f"http://{place}/v1")
    for call in (Client.generate, Client.events, Client.result):
        with pytest.raises(openai.APIConnectionError) as caught:
            call(client)
        notes = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert notes[0].startswith("Connection error")
        assert caught.value.__cause__
        assert place in notes[-1]
        assert type(caught.value.__cause__).__name__ in notes[-1]


@pytest.mark.parametrize("status", [201, 204, 206])
def test_another_success_is_a_patch_stream_error(status: int, gateway: Gateway, client: Client) -> None:
    body = b"" if status == 204 else body_of(ndjson(*OPS_OF_TICKET))
    gateway.reply(Reply(body, status, {"Content-Type": LINES}))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert (error.status_code, error.body.encode()) == (status, body)


# Where servers put what they say of an error.
SAID: dict[str, Any] = {
    "OpenAI": {"error": {"message": "out of memory", "type": "server_error", "code": 500}},
    "text": {"error": "out of memory"},
    "vLLM": {"object": "error", "message": "out of memory", "code": 400},
    "Starlette": {"detail": "out of memory"},
    "FastAPI": {"detail": [{"type": "oom", "loc": ["body"], "msg": "out of memory", "input": None}]},
    "MiniMax": {"base_resp": {"status_code": 1004, "status_msg": "out of memory"}, "choices": None},
    "a list of messages": {"errors": [{"message": "out of memory", "code": 1}]},
    "a list of descriptions": {"errors": [{"description": "out of memory"}]},
    "Gemini": [{"error": {"code": 429, "message": "out of memory"}}],
    "a list in an array": [{"errors": [{"message": "out of memory"}]}],
    "a message in an array": [{"message": "out of memory"}],
}


@pytest.mark.parametrize("body", SAID.values(), ids=SAID)
def test_what_a_server_says_is_found_wherever_it_stands(body: Any, client: Client, gateway: Gateway) -> None:
    gateway.reply(json_reply(body, 403))
    _, error = outcome(client)
    assert (type(error), error.status_code, json.loads(error.body)) == (PatchStreamError, 403, body)
    assert str(error).startswith("out of memory")
    gateway.reply(json_reply(body))
    _, error = outcome(client, "generate")
    assert type(error) is InvalidOutputError
    assert "out of memory" in str(error)
    is_record = "error" in (body[0] if isinstance(body, list) else body)
    good_ops = [op("", {}), op("/a", 1)]
    for framing in (EVENTS, LINES):
        for start, rest in ((good_ops, op("/b", 2)), ([delta('{"a": 1, ')], delta('"b": 2}'))):
            reports: list[Any] = [body] * is_record
            for report in reports + [event("error", body)] * (framing == EVENTS):
                gateway.reply(framed(framing, *start, report, rest, "[DONE]"))
                delivered, error = outcome(client)
                assert (delivered, type(error), error.status_code) == (good_ops, PatchStreamError, 200)
                assert str(error).startswith("out of memory")
                assert json.loads(error.body) == body


def echoing(kind: str, status: int, text: str) -> Callable[[Request], Reply]:
    """A server that quotes the headers of a request."""

    def script(request: Request) -> Reply:
        headers = json.dumps(request.headers).replace('"', "'")
        escaped = re.sub("[&+]", lambda it: rf"\u{ord(it[0]):04X}", headers).replace("/", r"\/")
        text_of_both = text.replace("HEADERS", headers).replace("ESCAPED", escaped)
        return Reply(text_of_both.encode(), status, {"Content-Type": kind})

    return script


ECHOES = {
    "an error page": echoing("text/html", 401, "<pre>HEADERS</pre>"),
    "an error message": echoing(JSON_TYPE, 403, '{"error": {"message": "not with HEADERS"}}'),
    "an escaped message": echoing(JSON_TYPE, 403, '{"error": {"message": "not with ESCAPED"}}'),
    "a refusal": echoing(JSON_TYPE, 422, '{"detail": "HEADERS"}'),
    "another status": echoing("text/plain", 206, "HEADERS"),
    "a page": echoing("text/html", 200, "<pre>HEADERS</pre>"),
    "an error line": echoing(LINES, 200, '{"error": "not with HEADERS"}\n'),
    "an operation": echoing(LINES, 200, '{"op": "add", "path": "/HEADERS", "value": 1}\n'),
    "an error event": echoing(EVENTS, 200, "event: error\ndata: HEADERS\n\n"),
    "a patch event": echoing(EVENTS, 200, 'data: {"op": "add", "path": "/HEADERS", "value": 1}\n\n'),
    "a document without its end": echoing(
        EVENTS, 200, 'data: {"op": "add", "path": "", "value": "HEADERS"}\n\n'
    ),
}


@pytest.mark.parametrize("refuses_patches", [False, True])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_no_error_shows_a_key_that_is_echoed(
    echo: Any, refuses_patches: bool, connect: Connect, gateway: Gateway
) -> None:
    for key in ("marked/&+", "marked8+", "marked7"):  # a short one is a dummy
        client = connect(api_key=key)
        gateway.reply(engine(echo) if refuses_patches else echo)
        _, error = outcome(client)
        assert type(error) is PatchStreamError
        assert "authorization" in error.body
        assert "Bearer" in error.body
        gateway.reply(echoing(JSON_TYPE, 200, '{"error": "HEADERS"}'))
        _, other = outcome(client, "generate")
        assert "Bearer" in str(other)
        for shown in (str(other), "\n".join([str(error), repr(error), repr(vars(error))])):
            assert ("marked" in shown) == (len(key) < 8)


class NotOurs(Exception):
    """What a signal handler, a transport or a callable raises."""


def raise_not_ours(*_: object) -> NoReturn:
    raise NotOurs


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no timers")
@pytest.mark.parametrize("end", [[], [DONE]], ids=["in mid-stream", "after the end mark"])
def test_what_a_signal_handler_raises_passes_unchanged(
    end: list[bytes], reader: Client, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGALRM, raise_not_ours)
    gateway.reply(framed(EVENTS, op("", {}), *end, EVER))
    stream = reader.stream(timeout=5)
    assert next(stream).value == {}
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(NotOurs) as caught:
            next(stream)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "raise_not_ours"
    assert frames[0].name == "test_what_a_signal_handler_raises_passes_unchanged"
    gateway.wait_for(lambda: gateway.open == 0)


def http_library() -> Any:
    """``httpx`` under SDK 1.x and 2.x, ``httpx2`` under 3.x."""
    return importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


def over_a_transport(client: Client, steps: Iterable[object]) -> Client:
    """The client on a transport of the caller's own, whose response body has these chunks and exceptions."""
    http = http_library()

    def body() -> Iterator[Any]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step

    async def async_body() -> Any:
        for step in body():
            yield step

    def answer(request: Any) -> Any:
        return http.Response(200, content=async_body() if client.loop else body())

    transport = http.MockTransport(answer)
    http_client = (http.AsyncClient if client.loop else http.Client)(transport=transport)
    client.raw = client.raw.with_options(http_client=http_client)
    return client


@pytest.mark.parametrize("name", ["ReadError", "ReadTimeout", "StreamClosed", None])
def test_only_a_transports_own_errors_become_the_sdks(name: str | None, client: Client) -> None:
    error = getattr(http_library(), name)(*["gone"] * (name != "StreamClosed")) if name else NotOurs("mine")
    expected = {"ReadTimeout": openai.APITimeoutError, None: NotOurs}.get(name, openai.APIConnectionError)
    over_a_transport(client, [encoded(op("", {})) + b"\n", error])
    events: list[Any] = []
    with pytest.raises(expected) as caught:
        for_each(client, client.stream(), events.append)
    assert [event.value for event in events] == [{}]
    assert type(caught.value) is expected
    assert caught.value is error if name is None else caught.value.__cause__ is error
    client.wait(client.raw.close())


# ---------------------------------------------------------------------------------------------------------
# Output types
# ---------------------------------------------------------------------------------------------------------


class Exported(BaseModel):
    """A class that merely defines ``to_json`` is a type."""

    name: str
    to_json: typing.ClassVar[Any] = lambda self: "not a schema"


class Overridden(BaseModel):
    """A model with a schema and a validator of its own, as people write them for a provider."""

    amount: int

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().model_json_schema(*args, **kwargs), "title": "Mine"}

    @classmethod
    def model_validate_json(cls, json_data: Any, **kwargs: Any) -> Any:
        return super().model_validate_json(json_data.replace(" EUR", ""), **kwargs)


TICKETS, WORDS = TypeAdapter(list[Ticket]), 'Infinity, -Infinity, "NaN"'
DAY, BOOKED = datetime.date(2024, 2, 29), {"day": "2024-02-29", "amount": [1, 2]}
DATED: TypeAdapter[Any] = TypeAdapter(tuple[int, datetime.date])

# What is asked for, the answer, the value that it becomes (`...`: the answer itself), the name in a message
# (that of a TypeAdapter's type is known from Pydantic 2.10 on).
OUTPUTS: dict[str, tuple[Any, Any, Any, str]] = {
    "BaseModel": (Ticket, TICKET, TICKET_OBJECT, "Ticket"),
    "strict BaseModel": (Booking, BOOKED, Booking(day=DAY, amount=(1, 2)), "Booking"),
    "BaseModel with to_json": (Exported, {"name": "é\u2028"}, Exported(name="é\u2028"), "Exported"),
    "BaseModel with its own methods": (Overridden, {"amount": "5 EUR"}, Overridden(amount=5), "Overridden"),
    "generic BaseModel": (RootModel[list[int]], [1, 2], RootModel[list[int]]([1, 2]), "RootModel"),
    "TypedDict": (Address, {"city": "Köln", "zip": "50667"}, ..., "Address"),
    "dataclass": (Point, {"x": 1, "y": 2}, ..., "Point"),
    "Enum": (Priority, "high", ..., "Priority"),
    "Literal": (Literal["yes", "no"], "yes", ..., r"Literal\['yes', 'no'\]"),
    "Union": (Union[int, Ticket], TICKET, ..., "Ticket"),
    "X | Y": (Ticket | None, None, ..., "Ticket.*None"),
    "Optional": (Optional[bool], None, ..., "bool"),
    "str": (str, "", ..., "str"),
    "list": (list[Ticket], [TICKET, TICKET], ..., r"list\[.*Ticket\]"),
    "dict": (dict[str, Point], {"a/b": {"x": 1}}, ..., "Point"),
    "tuple": (tuple[int, str], [1, "a"], ..., "tuple"),
    "Annotated": (Annotated[int, Field(ge=1, description="how many")], 2, ..., "int"),
    "unhashable metadata": (Annotated[Ticket, {"un": "hashable"}], TICKET, ..., "Ticket"),
    "Any": (Any, [1, [2.5, None], {"a/b": "~"}], ..., "Any|_SpecialForm"),
    "NewType": (NewType("Id", int), 7, ..., "NewType|Id"),
    "TypeAdapter of a list": (TICKETS, [TICKET], [TICKET_OBJECT], "Ticket|TypeAdapter"),
    "TypeAdapter of a dataclass": (TypeAdapter(Point), {"x": "1"}, Point(1), "Point|TypeAdapter"),
    "TypeAdapter of a tuple": (DATED, [1, "2024-02-29"], (1, DAY), "tuple|TypeAdapter"),
    "TypeAdapter of a number": (TypeAdapter(int), 12, 12, "int|TypeAdapter"),
    "TypeAdapter of a text": (TypeAdapter(str), WORDS, WORDS, "str|TypeAdapter"),
    "JSON Schema": (OBJECT, {"zulu": "\ud800", "alpha": 2**70}, ..., "JSON Schema"),
    "text of a JSON Schema": (json.dumps(OBJECT), TICKET, ..., "JSON Schema"),
    "builder": (Builder(json.dumps(OBJECT)), {"zulu": "z"}, ..., "Builder"),
}


def text_of(schema: object) -> str:
    """A schema's text: the order of its keys is the order in which a model writes the fields."""
    return json.dumps(schema)


def sent_schema(gateway: Gateway) -> Any:
    return gateway.requests[-1].json["response_format"]["json_schema"]["schema"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_value_is_the_same_whole_and_streamed(name: str, client: Client, gateway: Gateway) -> None:
    given, document, value, message = OUTPUTS[name]
    expected = document if value is ... else value
    ops, text = [*ops_of(document)], encoded(document).decode()
    gateway.reply(completion(f" \n\t{text}\r\n "))
    got, answer = client.generate_with_completion(response_format=given)
    assert (got, type(got), repr(got)) == (expected, type(expected), repr(expected))
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert (answer.id, answer.usage and answer.usage.total_tokens) == ("chatcmpl-1", 18)
    schema = OBJECT
    if "JSON Schema" not in message and not isinstance(given, Builder):
        adapter = given if isinstance(given, TypeAdapter) else TypeAdapter(given)
        schema = Overridden.model_json_schema() if given is Overridden else adapter.json_schema()
        assert text_of(normalize_schema(adapter)) == text_of(adapter.json_schema())
    assert text_of(sent_schema(gateway)) == text_of(normalize_schema(given)) == text_of(schema)
    for reply in (*(good(way, document) for way in WAYS), patches(*ops)):
        gateway.reply(reply)
        delivered, got = outcome(client, response_format=given)
        assert (repr(delivered), repr(got), type(got)) == (repr(ops), repr(expected), type(expected))
    gateway.reply(completion("oops"))
    _, error = outcome(client, "generate", response_format=given)
    assert re.search(f"test-model did not return a valid .*(?:{message})", str(error))
    assert str(outcome(client, response_format=given)[1]) == str(error)


OTHER_DRAFT = "http://json-schema.org/draft-07/schema#"
SENT_AS_IT_IS: list[dict[str, Any]] = [
    *({}, {"format": "no-such-format"}, {"maximum": 10**40}, {"patternProperties": {r"\p{Lu}(": {}}}),
    {"title": "schéma 😀", "$defs": {"A": {"type": "string"}}, "items": {"$ref": "#/$defs/A"}},
    {"type": "object", "x-order": 1, "propertyOrdering": ["a"], "nullable": "yes"},
    {"minLength": 2.0, "maximum": 1e300, "multipleOf": 0.01, "pattern": r"^\p{L}+$"},
    {"enum": [], "const": None, "default": [1, {"type": 1}], "examples": [{"type": 1}]},
    {"properties": {"type": True, "required": False, "$ref": {}}},
    {"properties": {"name": {"type": "string"}, "schema": {"type": "object"}}},
    {"$schema": OTHER_DRAFT, "items": [{}], "type": 1},
    {"type": "structural-tag", "format": {"type": "json_schema"}, "required": 1},
]


@pytest.mark.parametrize("schema", SENT_AS_IT_IS, ids=str)
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
        cure = pytest.raises(InvalidSchemaError, match=r"typing_extensions\.TypedDict")
        with contextlib.nullcontext() if sys.version_info >= (3, 12) else cure:
            assert normalize_schema(given) == TypeAdapter(given).json_schema()


class Incomplete(BaseModel):
    line: Nowhere  # type: ignore[name-defined]


class Abstract(BaseModel, abc.ABC):
    @abc.abstractmethod
    def price(self) -> int: ...


ENVELOPE = {"type": "json_schema", "json_schema": {"name": "answer", "schema": OBJECT}}
INNER, SURROGATE = "(?i)inner schema", "surrogate|UTF-8"
NESTED = '{"not":' * DEEP + "{}" + "}" * DEEP

# What is given, what the message must say of it, and the chained cause.
REFUSALS: dict[str, tuple[Any, str, type[BaseException] | None]] = {
    "the request's envelope": (ENVELOPE, INNER, None),
    "the text of the envelope": (json.dumps(ENVELOPE), INNER, None),
    "the inner envelope": (ENVELOPE["json_schema"], INNER, None),
    "a path": (Path("ticket.json"), r"read_text\(\)", None),
    "None": (None, "None", None),
    "text that is not JSON": ("an object with a name", "JSON", json.JSONDecodeError),
    "text with NaN": ('{"maximum": NaN}', "JSON", None),
    "text that nests too deep": (NESTED, "(?i)nest|deep|depth|recursion", ValueError),
    "JSON true": ("true", "object", None),
    "a JSON array": ("[]", "object", None),
    "a raw list": ([{"type": "string"}], r"list\[T\] or a JSON Schema object", None),
    "a tuple": ((1, 2), r"list\[T\]", None),
    "a function": (text_of, "function", None),
    "an instance of a model": (TICKET_OBJECT, "Ticket: pass the class", None),
    "an instance of a dataclass": (Point(1), "Point", None),
    "a member of an enum": (Priority.LOW, "Priority", None),
    "a class that Pydantic cannot describe": (Indescribable, "Indescribable", Exception),
    "a type without a schema": (Callable[[int], int], "Callable", Exception),
    "a model that stays incomplete": (Incomplete, "Nowhere", Exception),
    "a type of unknown names": (GenericAlias(list, ("Nowhere",)), "Nowhere.*TypeAdapter", Exception),
    "BaseModel itself": (BaseModel, "BaseModel", None),
    "an abstract model": (Abstract, "Abstract", None),
    "a number": (1, "1", None),
    "a number that Python does not print": (10**5000, "int", None),
    "bytes": (b"{}", "bytes|b'{}'", None),
    "to_json that raises": (Builder(KeyError("field")), "to_json", KeyError),
    "to_json that returns a dict": (Builder({}), r"to_json.*str", None),
    "to_json that is not JSON": (Builder("oops"), "to_json.*JSON", json.JSONDecodeError),
    "to_json of a bad schema": (Builder('{"type": 1}'), "/type", None),
    "a dict with a value outside JSON": ({"enum": {1, 2}}, "JSON", None),
    "a dict with a lone surrogate": ({"description": "\ud800"}, SURROGATE, UnicodeError),
    "text with a lone surrogate": ('{"description": "\\ud800"}', SURROGATE, UnicodeError),
    "a dict with NaN": ({"maximum": float("nan")}, "maximum|JSON", None),
    "an integer of 5,000 digits": ({"maximum": 10**5000}, "JSON", None),
    "fields without a schema around them": ({"intent": "string"}, '"properties"', None),
    "text of fields": ('{"intent": {"kind": "string"}, "steps": []}', '"properties"', None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_all_else_is_refused_before_anything_is_sent(name: str, client: Client, gateway: Gateway) -> None:
    given, message, cause = REFUSALS[name]
    for call in (client.generate, client.stream):
        with pytest.raises(InvalidSchemaError, match=f"(?s){message}") as caught:
            call(response_format=given)
        assert len(str(caught.value)) < 1000
        assert not (isinstance(given, type) and "pass the class" in str(caught.value))
        assert cause is None or isinstance(caught.value.__cause__, cause)
    assert gateway.connections == 0


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the old Pydantic does not run here")
def test_a_model_of_the_old_pydantic_is_told_its_cure() -> None:
    old = importlib.import_module("pydantic.v1").create_model("Old", intent=(str, ...))
    with pytest.raises(InvalidSchemaError, match=r"Old.*schema\(\)"):
        normalize_schema(old)
    assert normalize_schema(old.schema())["title"] == "Old"


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
BROKEN: list[Any] = [
    *[({"type": 1}, "/type"), ({"minLength": -1}, "/minLength"), ({"multipleOf": 0}, "/multipleOf")],
    *[({"required": "a"}, "/required"), ({"required": ["a", 1]}, "/required/1"), ({"$id": "a#b"}, "/$id")],
    *[({"properties": []}, "/properties"), ({"items": [{"type": "string"}]}, "/items")],
    ({"properties": {"a/b~c": {"type": 1}}}, "/properties/a~1b~0c/type"),
    ({"allOf": [{"type": "object"}, {"minimum": "x"}]}, "/allOf/1/minimum"),
    ({"$defs": {"A": {"enum": "abc"}}}, "/$defs/A/enum"),
    ({"if": {"then": {"else": {"not": {"$ref": 1}}}}}, "/if/then/else/not/$ref"),
    ({"dependencies": {"a": ["b", "b"]}}, "/dependencies/a"),
    ({"$schema": 1, "type": "string"}, "/$schema"),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": 1}, "/type"),
    ({"properties": {"a": {"type": "structural-tag"}}}, "/properties/a/type"),
    ({"items": {"$schema": OTHER_DRAFT, "type": 1}}, "/items/type"),
]


def named_places(message: str) -> list[str]:
    """The JSON Pointers in a message."""
    return re.findall(r"(?<![^\s'\"(`])/[^\s'\":`,;)]*", message)


@pytest.mark.parametrize(("schema", "place"), BROKEN, ids=str)
def test_a_broken_schema_is_refused_and_the_place_is_named(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        normalize_schema(schema)
    assert place in named_places(str(caught.value))


VALUES: list[Any] = json.loads("""
    [null, true, false, 0, -1, 1, 1.5, 2.0, -0.0, 1e-9, "", "string", "a#b", "1a", "_b.c-1", "#/$defs/a", "(",
    [], [1], ["a"], ["a", "a"], ["string"], ["string", "string"], [{}], [{"type": 1}], [true], [null],
    {}, {"a": 1}, {"a": {}}, {"a": ["b"]}, {"a": ["b", "b"]}, {"a": {"type": 1}}, {"a": true}]
""")
KEYWORD_TEXT = """
type required dependentRequired dependencies $vocabulary minLength maxLength minItems maxItems minContains
maxContains minProperties maxProperties maximum exclusiveMaximum minimum exclusiveMinimum multipleOf const
deprecated readOnly writeOnly uniqueItems $comment title description format pattern contentEncoding default
contentMediaType $id $ref $dynamicRef $recursiveRef $anchor $dynamicAnchor $recursiveAnchor enum examples
contains additionalProperties propertyNames if then else not contentSchema unevaluatedItems allOf anyOf
unevaluatedProperties prefixItems properties patternProperties dependentSchemas $defs definitions oneOf
items unknown"""
KEYWORDS = KEYWORD_TEXT.split()


def random_schemas(st: Any, pairs: Any) -> Any:
    """Schemas of pairs of a keyword and its value, and of schemas within them."""

    def within(inner: Any) -> Any:
        one = st.tuples(st.sampled_from(["items", "not", "if", "contains", "additionalProperties"]), inner)
        some = st.tuples(st.sampled_from(["allOf", "oneOf", "prefixItems"]), st.lists(inner, max_size=2))
        named = st.dictionaries(st.sampled_from(["a", "b/c~"]), inner)
        named = st.tuples(st.sampled_from(["properties", "$defs", "dependentSchemas"]), named)
        return st.lists(one | some | named | pairs, min_size=1, max_size=3).map(dict)

    return st.recursive(st.lists(pairs, min_size=1, max_size=2).map(dict), within, max_leaves=4)


def test_the_schema_check_agrees_with_jsonschema() -> None:
    st = pytest.importorskip("hypothesis").strategies
    draft = pytest.importorskip("jsonschema").Draft202012Validator
    judge = draft(draft.META_SCHEMA)  # as check_schema does, without the formats
    some = Random(1).sample([(keyword, value) for keyword in KEYWORDS for value in VALUES], 800)
    right = [pair for pair in some if judge.is_valid(dict([pair]))]
    seen: list[bool] = []

    def places(error: Any) -> Iterator[str]:
        yield "".join("/" + escaped(str(part)) for part in error.absolute_path)
        for inner in error.context:
            yield from places(inner)

    def holds(schema: dict[str, Any]) -> None:
        schema = {"title": "a keyword", **schema}
        errors = list(judge.iter_errors(schema))
        seen.append(not errors)
        if not errors:
            assert normalize_schema(schema) == schema
            return
        with pytest.raises(InvalidSchemaError) as caught:
            normalize_schema(schema)
        wrong = {place for error in errors for place in places(error)}
        assert wrong & set(named_places(str(caught.value))), (schema, str(caught.value), wrong)

    for pair in some:
        holds(dict([pair]))
    pairs = st.sampled_from(right) | st.sampled_from(right) | st.sampled_from(right) | st.sampled_from(some)
    for_all(holds, random_schemas(st, pairs), examples=200)
    assert 200 < sum(seen) < 800


def test_whatever_a_schema_holds_it_is_sent_as_it_is_or_refused() -> None:
    st = pytest.importorskip("hypothesis").strategies
    odd = st.sampled_from([float("nan"), float("inf"), "\ud800", 1e300, (1,), b"x", {1: 2}, {1}])
    odd |= st.just(5000).map(lambda digits: 10**digits) | random_documents(st)

    def holds(schema: dict[str, Any]) -> None:
        with suppress(InvalidSchemaError):
            assert normalize_schema(schema) == json.loads(json.dumps(schema))

    for_all(holds, random_schemas(st, st.tuples(st.sampled_from(KEYWORDS), odd)), examples=200)


def test_the_meta_schema_is_built_once() -> None:
    normalize_schema({"title": "first"})
    start = time.thread_time()
    for now in range(30):
        normalize_schema({"title": str(now)})  # 0.3 ms each; with the meta-schema, 20
    assert time.thread_time() - start < 0.2


@pytest.mark.parametrize("form", [lambda model: model, TypeAdapter], ids=["class", "TypeAdapter"])
def test_a_type_is_described_once(form: Callable[[Any], Any], connect: Connect, gateway: Gateway) -> None:
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


def test_what_has_changed_is_described_anew() -> None:
    class Order(BaseModel):
        line: int

    assert "description" not in normalize_schema(Order)["properties"]["line"]
    Order.model_fields["line"].description = "new"
    Order.model_rebuild(force=True)
    assert normalize_schema(Order)["properties"]["line"]["description"] == "new"
    mine: dict[str, Any] = {"type": "string"}
    normalize_schema(mine)
    mine["type"] = 1
    with pytest.raises(InvalidSchemaError, match="/type"):
        normalize_schema(mine)


@pytest.mark.parametrize(
    "given", [OBJECT, json.dumps(OBJECT), Builder(json.dumps(OBJECT)), Ticket, TICKETS], ids=short
)
def test_requests_own_schemas(given: Any, client: Client, gateway: Gateway, monkeypatch: MonkeyPatch) -> None:
    completions: Any = AsyncCompletions if client.loop else Completions
    original, text, before = completions.create, text_of(OBJECT), normalize_schema(given)

    def strict(self: Any, **kwargs: Any) -> Any:
        kwargs["response_format"]["json_schema"]["schema"].clear()  # as strictness helpers change it
        return original(self, **kwargs)

    gateway.reply(completion("{}"))
    with monkeypatch.context() as here:
        here.setattr(completions, "create", strict)
        outcome(client, "generate", response_format=given)
    assert sent_schema(gateway) == {}
    normalize_schema(given).clear()
    build_response_format(given)["json_schema"]["schema"].clear()
    outcome(client, "generate", response_format=given)
    assert sent_schema(gateway) == normalize_schema(given) == before
    assert text_of(OBJECT) == text


def test_build_response_format_names_and_wraps_the_schema() -> None:
    inner = {"name": "response", "schema": OBJECT}
    assert build_response_format(OBJECT) == {"type": "json_schema", "json_schema": inner}
    inner = {"name": "ticket", "schema": Ticket.model_json_schema()}
    assert build_response_format(Ticket, name="ticket") == {"type": "json_schema", "json_schema": inner}
    with pytest.raises(InvalidSchemaError):
        build_response_format([])


class Op(BaseModel):
    mine: int


def test_a_name_in_a_type_means_what_it_means_to_the_caller(monkeypatch: MonkeyPatch) -> None:
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


def local_models() -> tuple[Any, Any]:
    """A model with a type that only the caller knows, as one that is imported for type checkers alone."""

    class Order(BaseModel):
        lines: list[LocalLine]  # type: ignore[name-defined]

    return Order, pydantic.create_model("Line", price=(int, ...))


ORDER = {"lines": [{"price": 3}]}


def test_a_model_is_completed_by_the_names_of_its_caller(gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(ORDER)))
    ask: dict[str, Any] = {"model": "m", "input": "Hello"}
    with DotTxt(api_key="test-key", base_url=gateway.url) as client:
        for way in ("generate", "stream", "normalize_schema"):
            Order, LocalLine = local_models()
            if way == "generate":
                order = client.generate(**ask, response_format=Order)
            elif way == "stream":
                order = client.stream(**ask, response_format=Order).result()
            else:
                normalize_schema(Order)
                order = Order.model_validate(ORDER)
            assert (type(order), type(order.lines[0])) == (Order, LocalLine)


@asynchronous
async def test_a_model_is_completed_where_a_call_is_awaited_directly(gateway: Gateway) -> None:
    gateway.reply(completion(json.dumps(ORDER)))
    ask: dict[str, Any] = {"model": "m", "input": "Hello"}
    async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
        Order, LocalLine = local_models()
        stream = client.stream(**ask, response_format=Order)
        assert type((await asyncio.create_task(stream.result())).lines[0]) is LocalLine
        Order, LocalLine = local_models()
        with pytest.raises(InvalidSchemaError, match=r"(?s)LocalLine.*TypeAdapter"):
            await asyncio.create_task(client.generate(**ask, response_format=Order))
        order = await client.generate(**ask, response_format=Order)
        assert (type(order), type(order.lines[0])) == (Order, LocalLine)
    assert len(gateway.requests) == 2


# ---------------------------------------------------------------------------------------------------------
# Document: apply_add, and the events of a stream
# ---------------------------------------------------------------------------------------------------------

KEY_POINTERS = {  # RFC 6901 §5: pointer, and the key that it names
    **{"/foo": "foo", "/": "", "/a~1b": "a/b", "/c%d": "c%d", "/e^f": "e^f", "/g|h": "g|h"},
    **{"/i\\j": "i\\j", '/k"l': 'k"l', "/ ": " ", "/m~0n": "m~n"},
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
def test_a_refused_pointer_is_named_and_changes_nothing(pointer: str) -> None:
    items = [1, {"b": 2}, *range(10)]
    document = {"items": items, "object": {}, "text": "abc", "number": 1, "null": None, "true": True}
    before = copy.deepcopy(document)
    with pytest.raises(ValueError, match=r".") as caught:
        apply_add(document, pointer, {"new": []})
    assert pointer[:20] in str(caught.value) or repr(pointer)[:20] in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert document == before


def test_an_add_agrees_with_jsonpatch_or_is_a_value_error_that_changes_nothing() -> None:
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
    segments = (
        good
        | good
        | good
        | st.sampled_from(["~", "~2", "a~", "1_0", " 1", "\x00", "\ud800"])
        | st.text(max_size=3)
    )
    pointers = st.lists(segments, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))

    def holds(document: Any, pointer: str, value: Any) -> None:
        before = copy.deepcopy(document)
        try:
            expected = jsonpatch.apply_patch(document, [op(pointer, value)])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException):
            with pytest.raises(ValueError, match=r"(?s)^.{1,999}$"):
                apply_add(document, pointer, value)
            assert repr(document) == repr(before)
        else:
            assert repr(apply_add(document, pointer, value)) == repr(expected)

    for_all(holds, documents, pointers | st.sampled_from(["a", "a/b", "0", " "]), documents, examples=150)


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


def matched(event: Any) -> Any:
    match event:
        case PatchEvent("steps/0", value) | PatchEvent(field="a", value=value):
            return value
        case _:
            return None


def test_an_event_can_be_built_by_hand_and_is_a_value() -> None:
    document = {"steps": ["verify"]}
    event = PatchEvent(op=op("/steps/0", "verify"), snapshot=document)
    same = PatchEvent(op=op("/steps/0", "verify"), snapshot=copy.deepcopy(document))
    document["steps"].append("changed")
    assert (event.field, event.value, event.op) == ("steps/0", "verify", op("/steps/0", "verify"))
    assert event.snapshot == {"steps": ["verify"]}
    assert [*map(matched, (event, PatchEvent(op=op("/a", 1), snapshot={}), event.op))] == ["verify", 1, None]
    wreck(event.snapshot)
    assert event == same
    assert (event != same) is False
    assert event != PatchEvent(op=op("/steps/-", "verify"), snapshot=same.snapshot)
    assert event != PatchEvent(op=op("/steps/0", "other"), snapshot=same.snapshot)
    assert event != PatchEvent(op=event.op, snapshot={"steps": ["verify", "more"]})
    assert event != event.op
    assert PatchEvent(op=op("/a", 1), snapshot={"a": list}).snapshot == {"a": list}
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


def test_an_event_of_a_stream_is_a_value_too(gateway: Gateway, client: Client) -> None:
    gateway.reply(patches(*OPS))
    by_hand = [PatchEvent(op=each, snapshot=state) for each, state in zip(OPS, states_of(OPS), strict=True)]
    events: list[Any] = []
    for event in client.iterate(client.stream()):
        each = OPS[len(events)]
        events.append(event)
        assert (event.op, event.field, event.value) == (each, each["path"][1:], each["value"])
        assert pickle.loads(pickle.dumps(event)) == event == by_hand[len(events) - 1]
    again = pickle.loads(pickle.dumps(events))
    assert [type(event) for event in again] == [PatchEvent] * len(OPS)
    assert events == by_hand == again == copy.deepcopy(events) == [copy.copy(event) for event in events]
    assert [event.snapshot for event in again] == states_of(OPS)


def test_snapshots_are_right_whatever_the_caller_does(gateway: Gateway, client: Client) -> None:
    ops = [op("", {"seed": [1]}), op("/a", {"b": [{}]}), op("/seed/0", [2]), op("/a/b/0/c", [3])]
    ops += [op("/a/b/-", 4), op("/a/b/1", {}), op("/a/b/1/~0", None), op("/-", {}), op("/-/x", 1)]
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

    def holds(steps: list[tuple[str, Any]], rng: Random) -> None:
        ops = [op("", {})]
        for path, value in steps:
            with suppress(ValueError):
                states_of([*ops, op(path, value)])
                ops.append(op(path, value))
        states = states_of(ops)
        gateway.reply(patches(*ops))
        events: list[Any] = []
        for event in reader.iterate(reader.stream()):
            events.append(event)
            now = rng.randrange(len(events))
            snapshot = events[now].snapshot
            assert repr(snapshot) == repr(states[now])
            assert event.op == ops[len(events) - 1]
            wreck(snapshot)
        assert len(events) == len(ops)
        for now in rng.sample(range(len(ops)), len(ops)):
            wreck(events[now].value)
            assert repr(events[now].snapshot) == repr(states[now])

    segments = st.sampled_from(["", "/a", "/a", "/b", "/0", "/0", "/1", "/-", "/a~1b", "/~0"])
    steps = st.tuples(st.lists(segments, max_size=3).map("".join), values)
    for_all(holds, st.lists(steps, max_size=20), st.randoms(use_true_random=False))


def test_a_long_stream_takes_little_more_than_its_document(gateway: Gateway, client: Client) -> None:
    ops = [op("", []), *(op(f"/{now}", f"{now:030}") for now in range(10_000))]
    gateway.reply(framed(EVENTS, *ops, DONE, size=None))
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
    # The first line tells the framing, the content type nothing.
    types = st.sampled_from([EVENTS, LINES, JSON_TYPE, "text/html", f"{EVENTS}; charset=utf-8"])
    starts = (
        ["", "\n \n"] if framing == LINES else ["", "\ufeff", "\n", ": x\n", "id: 7\n\n", "retry: 9\n", ":\n"]
    )

    def holds(document: Any, sizes: list[int], end: str, start: str, kind: str, last: bool) -> None:
        ops = list(ops_of(document))
        texts = [encoded(each).decode() for each in ops]
        if framing == EVENTS:
            texts = [f"event: patch{end}data: {text}{end}" for text in texts]
            texts.append(f"event: done{end}data: {{}}{end}")
        body = start + (end.join([*texts, ""]) if last else end.join(texts))
        gateway.reply(Reply([*pieces(body.encode(), sizes)], headers={"Content-Type": kind}))
        delivered, result = outcome(reader)
        assert repr(delivered) == repr([json.loads(json.dumps(each)) for each in ops])
        assert repr(result) == repr(json.loads(json.dumps(document)))

    sizes = st.lists(st.integers(1, 40), min_size=1)
    some_end, some_start = st.sampled_from(ends), st.sampled_from(starts)
    for_all(holds, random_documents(st), sizes, some_end, some_start, types, st.booleans())


def in_step(got: list[Any], steps: Iterable[tuple[bytes, int]], framing: str, gateway: Gateway) -> Reply:
    """A response that goes on only when what it has sent has given so many events."""

    def body() -> Iterator[bytes]:
        for data, count in steps:
            yield data
            gateway.wait_for(lambda count=count: len(got) >= count)  # type: ignore[misc]

    return Reply(body(), headers={"Content-Type": framing})


def line_steps() -> list[tuple[bytes, int]]:
    first, second, third, fourth = (encoded(each) + b"\n" for each in OPS[:4])
    return [(first, 1), (second[:-1], 1), (b"\n" + third + fourth[:9], 3), (fourth[9:], 4)]


def event_steps(end: bytes) -> list[tuple[bytes, int]]:
    first, second, third, fourth = (
        b"event: patch%bdata: %b%b%b" % (end, encoded(each), end, end) for each in OPS[:4]
    )
    # Of `\r\n` the first byte ends a line: nothing waits for the second.
    cut = len(second) - (end == b"\r\n")
    rest = [(second[cut:] + third + fourth[:30], 3), (fourth[30:], 4), (DONE.replace(b"\n", end), 4)]
    return [(first, 1), (second[:cut], 2), *rest]


TEXT_STEPS = [
    *[('{"', 1), ('a": "', 1), ('x"', 2), (', "b"', 2), (": [", 3), ("1", 3), (",2 ", 5), (", tru", 5)],
    *[("e", 5), (', "c', 6), ('","d"', 8), (",{", 9), ("},[]", 10), (", -1", 10), ("5e1]", 11), ("}", 11)],
]
TOKEN_STEPS = [(body_of(framed(EVENTS, delta(text))), count) for text, count in TEXT_STEPS]
BUILT = {"a": "x", "b": [1, 2, True, "c", "d", {}, [], -150.0]}


IN_STEP: dict[str, tuple[list[tuple[bytes, int]], str, list[Any]]] = {
    "lines": (line_steps(), LINES, OPS[:4]),
    "events, LF": (event_steps(b"\n"), EVENTS, OPS[:4]),
    "events, CR": (event_steps(b"\r"), EVENTS, OPS[:4]),
    "events, CRLF": (event_steps(b"\r\n"), EVENTS, OPS[:4]),
    "tokens": (TOKEN_STEPS, EVENTS, [*ops_of(BUILT)]),
}


@pytest.mark.parametrize("name", IN_STEP)
def test_an_event_comes_as_soon_as_it_is_complete(name: str, gateway: Gateway, client: Client) -> None:
    steps, framing, ops = IN_STEP[name]
    got: list[Any] = []
    gateway.reply(in_step(got, steps, framing, gateway))
    for_each(client, client.stream(timeout=10), lambda event: got.append(event.op))
    assert repr(got) == repr(ops)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_all_ways_to_write_events_are_read(mark: str, end: str, gateway: Gateway, reader: Client) -> None:
    document = {"ä": "😀 \u2028 \u0085 \x0c data: x", "b": [1, 2.5]}
    first, second, *rest = (encoded(each).decode() for each in ops_of(document))
    pretty = json.dumps(json.loads(rest[-1]), indent=1).splitlines()
    blocks = [
        [f"data:{first}", "id: 7", "event: patch", "retry: 10", ":"],  # no space; the type after the data
        [": a comment"],
        ["event: ping", "data: {}"],
        ["event: patch", f"data: {second}", "id: 7"],  # a field after the data
        *([f"data: {each}", "colour: blue", "words"] for each in rest[:-1]),  # no type, as `patch`
        ["event: message", *(f"data:  {line}" for line in pretty)],
        ["", "", "event: done", "data: {}"],
    ]
    body = mark + "".join(line + end for block in blocks for line in [*block, ""])
    for text in (body, body.removesuffix(end), body.removesuffix(end * 2)):
        for size, kind in ((1, EVENTS), (2, "Text/Event-Stream"), (None, "")):
            gateway.reply(framed(kind, text.encode(), size=size))
            assert outcome(reader) == ([*ops_of(document)], document)


@pytest.mark.parametrize("kind", [EVENTS, LINES, JSON_TYPE, "text/plain", ""])
def test_the_first_line_tells_the_framing(kind: str, client: Client, gateway: Gateway) -> None:
    for way in WAYS:  # a whole completion is a line, whatever its label says
        for size in (1, 7, None):
            body = [*pieces(body_of(good(way)), [size or 1 << 20])]
            gateway.reply(Reply(body, headers={"Content-Type": kind}))
            assert outcome(client) == ([*ops_of(DOCUMENT)], DOCUMENT)
    for body in ([], [b""], [b"\n\n"], [b" \n\r\n"]):
        gateway.reply(Reply(body, headers={"Content-Type": kind}))
        delivered, error = outcome(client, model="patches")
        assert (delivered, type(error), error.status_code) == ([], PatchStreamError, 200)
        assert "is empty" in str(error)
        gateway.reply(engine(Reply(body, headers={"Content-Type": kind})))
        delivered, error = outcome(client, model=f"tokens {body}")
        assert (delivered, type(error), error.raw_output) == ([], InvalidOutputError, "")


def test_chunks_may_be_any_bytes_like_objects(client: Client) -> None:
    for way in WAYS[1:]:
        for size in (1, 7, 1 << 20):
            chunks = [memoryview(piece) for piece in pieces(body_of(good(way)), [size])]
            over_a_transport(client, chunks)
            assert outcome(client) == ([*ops_of(DOCUMENT)], DOCUMENT)
            client.wait(client.raw.close())


# ---------------------------------------------------------------------------------------------------------
# JSON text in pieces
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
    gateway.reply(engine(framed(EVENTS, *map(delta, contents), delta(None, "stop"))))
    delivered, result = outcome(reader)
    try:
        expected = strict_loads(text)
    except (ValueError, RecursionError) as error:
        assert type(result) is InvalidOutputError, text
        assert result.raw_output == text
        assert isinstance(result.original_error, json.JSONDecodeError)
        if isinstance(error, json.JSONDecodeError):
            assert str(result).startswith("test-model did not return a valid instance of the JSON Schema")
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


def test_random_documents_give_the_operations_of_json_loads(gateway: Gateway, reader: Client) -> None:
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
    for_all(holds, random_documents(st), layouts, sizes, spaces, parts)


def test_random_damage_is_refused_as_json_loads_refuses_it(gateway: Gateway, reader: Client) -> None:
    st = pytest.importorskip("hypothesis").strategies
    words = ["\\u", "tr", "null", "NaN", "Infinity", ""]
    odd = st.sampled_from([*"\"\\{}[],:0-.e+1u \n\x00\x1f\x7f\ufeff\u00a0\u0661'/", *words])
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
    for_all(holds, texts | texts | noise, damage, sizes)


# Beside what random damage finds; no text has white space here but those at the end.
NOT_TEXTS = r"""
] ' / Nan True nul +1 .5 01 1. 1.e1 1e+ - --1 0x1 1_0 [,] [} [1,] [1,, [1: [1} [truex] [12_0] [12{}] []] {
{, {] {1 {{ {"a"} {"a":} {"a":: {"a":1] {"a":1" {"a":1,} {"a":1,1 {"a":{}{ "a\ "a"" "\x" "\'" "\U0000"
{"\a":1} "\u12x4" "\u123" "\u+123" "\u0x12" "\u1_23" "\ud83d\uzzzz" -Infinity [1,NaN]
"""
REFUSED_TEXTS = [
    *NOT_TEXTS.split(),
    *["", " \n", "\ufeff1", "\u00a01", "\x0c1", "\x00", "\u0661", "1\u0661"],
    *["1 2", "{} {", "true n", '{"a" 1'],
    *["[1 2", '"a\n"', '"\x1f"', '{"a\n":1}', '"\\\n"', '"\\u\u0661\u0661\u0661\u0661"'],
]


def test_text_is_refused_exactly_when_json_loads_refuses_it(gateway: Gateway, reader: Client) -> None:
    for text in REFUSED_TEXTS:
        for contents in (text, [text]):
            assert type(read_text(reader, gateway, contents)[1]) is InvalidOutputError, text
    for text in ("0", "-0", "-1.5", "1E3", "1e-2", str(2**70), '""', "true", "null", r'"\ud83d\n\ude00"'):
        for contents in (text, [text], [text, "\n", " "]):
            assert read_text(reader, gateway, contents)[0] == [op("", json.loads(text))]


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_taken_far_and_no_further(start: str, end: str, gateway: Gateway, client: Client) -> None:
    count = 200 // len(end)
    delivered, _ = read_text(client, gateway, [start * count + "1" + end * count])
    assert len(delivered) == 201
    deeper, error = read_text(client, gateway, pieces(start * DEEP, [10_000]))
    assert type(error) is InvalidOutputError
    assert deeper[: len(delivered) - 1] == delivered[:-1]
    ops = [op("/0" * depth, []) for depth in range(2_000)]
    gateway.reply(patches(*ops[:90]), framed(EVENTS, *ops, DONE, size=None))
    assert outcome(client) == (ops[:90], fold(ops[:90]))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == (ops[: len(delivered)], PatchStreamError)
    assert len(delivered) == 201


def text_in_deltas(text: str) -> Reply:
    return framed(EVENTS, *map(delta, pieces(text, [40])), "[DONE]", size=None)


# A response for a size.
LONG: dict[str, tuple[Callable[[int], Reply], int]] = {
    "operations": (lambda size: framed(EVENTS, *ops_of([*range(size)]), DONE, size=None), 2_000),
    "one line in many chunks": (lambda size: framed(LINES, op("", "x" * size), size=64), 100_000),
    "one event in many chunks": (lambda size: framed(EVENTS, op("", "x" * size), DONE, size=64), 100_000),
    "a string in many deltas": (lambda size: text_in_deltas('"' + r"abc\n" * (size // 5) + '"'), 100_000),
    "a key in many deltas": (lambda size: text_in_deltas('{"' + "k" * size + '":1}'), 100_000),
    "numbers in many deltas": (lambda size: text_in_deltas("[" + "123," * (size // 4) + "0]"), 10_000),
    "white space in many deltas": (lambda size: text_in_deltas(" " * size + "1"), 100_000),
    "elements": (
        lambda size: framed(EVENTS, *ops_of([{"x": now} for now in range(size)]), DONE, size=None),
        1_000,
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_eight_times_the_stream_costs_eight_times_it(name: str, gateway: Gateway, reader: Client) -> None:
    make, size = LONG[name]

    def cost(size: int) -> float:
        gateway.reply(make(size))
        stream = reader.stream(timeout=60)
        start = time.thread_time()
        if name == "elements":
            assert sum(1 for _ in stream.elements(TypeAdapter(dict[str, int]))) == size
        assert stream.result() is not None
        return time.thread_time() - start

    assert cost(8 * size) < 20 * min(cost(size) for _ in range(3))


# ---------------------------------------------------------------------------------------------------------
# Answer: what the model said, whether it is whole, and what it is worth
# ---------------------------------------------------------------------------------------------------------

MISSING: Any = object()
TRUNCATED, UNKNOWN, WRONG_URL = "truncated.*max_tokens", "json_schema", "base_url"
REFUSAL = "I can't help with \u201cthat\u201d."
TOOL_CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class Said:
    """What a model said, as a whole or in deltas, and what must come of it, in either form."""

    def __init__(self, content: Any, *says: str, is_: Any = MISSING, **more: Any) -> None:
        self.content, self.says, self.value = content, says, is_  # words of the error's message, or the value
        self.finish_reason = more.pop("finish", "stop")
        self.wanted = more.pop("wanted", {"type": "object"})
        self.ops = more.pop("ops", None)  # by default those of the text's JSON
        self.at = more.pop(
            "at", None
        )  # the place of the original error: in the text, or as a validator names it
        self.message = more  # more of its fields
        self.text: str = content or ""
        if isinstance(content, list):
            self.text = "".join(part["text"] for part in content if part["type"] == "text")

    def deltas(self, size: int) -> Iterator[Any]:
        """Its records, with the text in pieces."""
        for name, value in self.message.items():
            yield delta({name: value})
        for piece in self.content if isinstance(self.content, list) else pieces(self.text, [size]):
            yield delta([piece] if isinstance(self.content, list) else piece)
        yield delta({}, self.finish_reason)


def bug(ignored: str) -> str:
    """A ticket's JSON, with a field that its type ignores."""
    return f'{{"intent": "bug", "steps": [], "ignored": {ignored}}}'


THOUGHTS = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see: {"}]}
IN_PARTS = [THOUGHTS, *({"type": "text", "text": piece} for piece in pieces(TICKET_TEXT, [20]))]
OBJ, ARR = [op("", {})], [op("", [])]
ONE, AN_A = [*ops_of([1])], [*ops_of({"a": 1})]
TWICE = [*OBJ, op("/a", {}), op("/a/b", 1), op("/a", 2)]
MANY_KEYS = dict.fromkeys(map(str, range(2_000)))
ODD_KEYS = {"/": 1, "~1": 3, "~0": 4, "": 5, "-": 6, "__proto__": {"-": 7}, "01": [9], "\ud800": {"\x00": 0}}
LIMIT: Any = {"finish": "length"}
FILTER: Any = {"finish": "content_filter"}

ANSWERS: dict[str, Said] = {
    # values
    "an object": Said(' \n\t{"a" : [1, 2.5, null, true]}\r\n ', is_={"a": [1, 2.5, None, True]}),
    "whole JSON at the limit": Said('{"a": 1}', is_={"a": 1}, **LIMIT),
    "whole JSON of a type at the limit": Said(TICKET_TEXT, is_=TICKET_OBJECT, wanted=Ticket, **LIMIT),
    "no finish reason": Said('{"a": 1}', is_={"a": 1}, finish=None),
    "an empty finish reason": Said('{"a": 1}', is_={"a": 1}, finish=""),
    "a number": Said("-1.5e300", is_=-1.5e300, wanted=TypeAdapter(float)),
    "a number beyond floats": Said('{"a": 1E400}', is_={"a": float("inf")}),
    "null": Said("null", is_=None),
    "text that looks like NaN": Said('["NaN", "\\\\", "Infinity"]', is_=["NaN", "\\", "Infinity"]),
    "a fraction of 10,000 digits": Said(f"[0.{'3' * 10_000}]", is_=[1 / 3]),
    "odd strings": Said(r'["\ud800", "\ude00\ud83d", "\u0000"]', is_=["\ud800", "\ude00\ud83d", "\x00"]),
    "odd keys": Said(json.dumps(ODD_KEYS).replace('"~0"', r'"\u007e0"'), is_=ODD_KEYS),
    "2,000 keys": Said(json.dumps(MANY_KEYS), is_=MANY_KEYS),
    "a key of 100,000 characters": Said(f'{{"{"k" * 100_000}": 1}}', is_={"k" * 100_000: 1}),
    "a key twice": Said('{"a": {"b": 1}, "a": 2}', is_={"a": 2}, ops=TWICE),
    "parts": Said(IN_PARTS, is_=TICKET_OBJECT, wanted=Ticket),
    "reasoning beside the text": Said("[1]", is_=[1], reasoning_content='{"a": 1}', reasoning="hm"),
    "empty fields beside the text": Said("[1]", is_=[1], refusal=None, tool_calls=None),
    # text that stops short
    "in a string": Said('{"intent": "bil', TRUNCATED, wanted=Ticket, ops=OBJ, **LIMIT),
    "in an array": Said("[1, 2", TRUNCATED, ops=ONE, at=5, **LIMIT),
    "before a key": Said('{"a": 1,', TRUNCATED, ops=AN_A, **LIMIT),
    "in parts": Said(IN_PARTS[:2], TRUNCATED, wanted=Ticket, ops=[*ops_of({"intent": "billing"})], **LIMIT),
    "in a root number": Said("12", TRUNCATED, ops=[], at=2, **LIMIT),
    "in a validated root number": Said("-1e3", TRUNCATED, wanted=TypeAdapter(float), ops=[], **LIMIT),
    "in a root literal": Said("tru", TRUNCATED, ops=[], **LIMIT),
    "nothing at the limit": Said(None, TRUNCATED, wanted=Ticket, ops=[], **LIMIT),
    "empty text at the limit": Said("", TRUNCATED, ops=[], **LIMIT),
    "reasoning at the limit": Said(None, TRUNCATED, ops=[], reasoning="Let me", **LIMIT),
    "prose at the limit": Said("Sure! Here is", TRUNCATED, wanted=Ticket, ops=[], **LIMIT),
    "finished all the same": Said('{"a": "b"', ops=[*ops_of({"a": "b"})], at=9),
    "cut by a filter": Said('{"a": "', "filter", ops=OBJ, **FILTER),
    "nothing, by a filter": Said(None, "filter", ops=[], **FILTER),
    "a root number, by a filter": Said("12", "filter", ops=[], **FILTER),
    "a finish reason of a server's own": Said("[1", "busy_resource", ops=ARR, finish="busy_resource"),
    # text that is not JSON
    "prose": Said('Sure, here it is: {"a": 1}', UNKNOWN, wanted=Ticket, ops=[]),
    "a fence": Said("```json\n[1]\n```", UNKNOWN, ops=[], at=0),
    "white space": Said("  \n ", UNKNOWN, ops=[]),
    "a byte order mark": Said("\ufeff{}", ops=[]),
    "text after the root": Said('{"a": 1} Thanks', ops=AN_A, at=9),
    "two roots": Said("[1][1]", ops=ONE, at=3),
    "a bad literal": Said('{"a": troe, "b": 1}', ops=OBJ, at=6),
    "a bad literal within": Said('{"a": [1, {"b": tru, "c": 3}]}', ops=[*ops_of({"a": [1, {}]})], at=16),
    "a trailing comma": Said("[1,]", ops=ONE),
    "a line break in a string": Said('"line\nbreak"', ops=[]),
    "NaN": Said("[1, NaN, 2]", "NaN", ops=ONE),
    "NaN that a type ignores": Said(bug("NaN"), "NaN", wanted=Ticket, ops=MISSING),
    "-Infinity that a type ignores": Said(f"[{bug('-Infinity')}]", "Infinity", wanted=TICKETS, ops=MISSING),
    "5,000 digits": Said(f"[{'9' * 5_000}]", "digits", ops=ARR),
    "digits that a type ignores": Said(bug(DIGITS), "digits", wanted=Ticket, ops=MISSING),
    "endless nesting": Said("[" * 9_000, "nest|deep", ops=MISSING),
    "nesting that a type ignores": Said(
        bug("[" * 9_000 + "]" * 9_000), "nest|deep", wanted=Ticket, ops=MISSING
    ),
    # JSON that does not fit
    "a wrong value": Said('{"intent": "no", "steps": []}', "intent", "'no'", wanted=Ticket, at=("intent",)),
    "a wrong value at the limit": Said('{"intent": "no"}', "length", wanted=Ticket, at=("intent",), **LIMIT),
    "a missing field": Said('{"intent": "bug"}', "steps", wanted=Ticket, at=("steps",)),
    "a wrong root": Said("null", "at the root", wanted=Ticket, at=()),
    "a wrong element": Said('[{"intent": "bug", "steps": [1]}]', wanted=TICKETS, at=(0, "steps", 0)),
    "no member": Said('"middle"', "'middle'", wanted=TypeAdapter(Priority), at=()),
    "a lone surrogate": Said('{"intent": "bug", "steps": ["\\ud800"]}', wanted=Ticket),
    "a validator's own error": Said(
        '{"intent": "bug"}', "unwelcome with code 7", wanted=Picky, at=("intent",)
    ),
    # no text
    "nothing": Said(None, "no content", ops=[]),
    "thoughts alone": Said([THOUGHTS], "no content", ops=[]),
    "reasoning_content alone": Said(None, "reasoning_content", ops=[], reasoning_content="Hm."),
    "reasoning alone": Said("", "reasoning", ops=[], reasoning="Let me think."),
    "tool calls": Said(None, "tool_calls", ops=[], tool_calls=[TOOL_CALL], finish="tool_calls"),
    "a function call": Said(None, "only function_call", ops=[], function_call=TOOL_CALL["function"]),
    "a refusal": Said(None, re.escape(REFUSAL), wanted=Ticket, ops=[], refusal=REFUSAL),
    "a page": Said(PAGE, WRONG_URL, wanted=Ticket, ops=[]),
}


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_comes_to_the_same_whole_and_streamed(said: Said, client: Client, gateway: Gateway) -> None:
    answer = completion(said.content, said.finish_reason, **said.message)
    forms = {"generate": answer, "whole": answer, "lines": framed(LINES, *said.deltas(7))}
    for size in (1, 7, 1 << 20) if len(said.text) < 1_000 else (1 << 10,):
        forms[f"deltas of {size}"] = framed(EVENTS, *said.deltas(size), "[DONE]")
    ops = [*ops_of(json.loads(said.text))] if said.ops is None else said.ops
    messages = set()
    for form, reply in forms.items():
        gateway.reply(engine(reply))
        delivered, end = outcome(client, form, response_format=said.wanted)
        if form != "generate" and ops is not MISSING:
            assert repr(delivered) == repr(ops), form
        if said.value is not MISSING:
            assert (repr(end), type(end)) == (repr(said.value), type(said.value)), form
            continue
        told = type(end), end.raw_output, end.finish_reason, end.model
        assert told == (InvalidOutputError, said.text, said.finish_reason or None, "test-model"), form
        assert [words for words in said.says if not re.search(words, str(end))] == [], form
        others = {TRUNCATED, UNKNOWN, WRONG_URL} - {*said.says}
        assert [hint for hint in others if re.search(hint, str(end))] == [], form
        assert said.finish_reason in ("stop", None) or said.finish_reason in str(end)
        if isinstance(said.at, tuple):
            assert end.original_error.errors()[0]["loc"] == said.at, form
        elif said.at is not None:
            assert (end.original_error.pos, end.original_error.doc) == (said.at, said.text), form
        assert getattr(end.completion, "id", None) == ("chatcmpl-1" if form == "generate" else None)
        messages.add(str(end))
    assert len(messages) <= 1


def same(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


# What `generate` gets instead of an output, and words of the message.
NO_ANSWER: dict[str, tuple[Reply, str]] = {
    "no choices": (json_reply(chunk()), "no content"),
    "choices null": (json_reply({**chunk(), "choices": None}), "no content"),
    "choices missing": (json_reply({"id": "1", "object": "chat.completion"}), "no content"),
    "an empty choice": (json_reply(chunk({})), "no content"),
    "message null": (json_reply(chunk({"index": 0, "message": None})), "no content"),
    "content missing": (json_reply(chunk({"index": 0, "message": {"role": "assistant"}})), "no content"),
    "content of a number": (json_reply(chunk({"message": {"content": 5}})), "no content"),
    "a refusal of a number": (json_reply(chunk({"message": {"content": None, "refusal": 5}})), "no content"),
    "an error in the choice": (json_reply(chunk({"message": {}, **SAID["OpenAI"]})), "^out of memory"),
    "an error without words": (json_reply(chunk({"message": same("1"), "error": {"at": 5}})), '"at":5'),
    "an error with 200": (api_error(200, "overloaded"), "overloaded"),
    "an empty object": (json_reply({}), "no content"),
    "a string that holds JSON": (json_reply(TICKET_TEXT), "Expecting a chat completion"),
    "an array": (json_reply([]), "no content"),
    "null": (json_reply(None), "no content"),
    "nothing": (Reply(b""), "no content"),
    "no content": (Reply(status=204), "no content"),
    "half an object": (Reply(b'{"choices": ['), "Expecting value"),
    "a response that ends in mid-character": (Reply('{"x": "ä'.encode()[:-1]), "no content"),
    "a page": (Reply(PAGE.encode(), headers={"Content-Type": "text/html"}), WRONG_URL),
    "a page said to be JSON": (Reply(f"\n{PAGE}".encode()), WRONG_URL),
}


@pytest.mark.parametrize(("reply", "words"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_no_answer_is_an_invalid_output(reply: Reply, words: str, client: Client, gateway: Gateway) -> None:
    gateway.reply(reply)
    for wanted in (OBJECT, Ticket, TICKETS):
        _, error = outcome(client, "generate", response_format=wanted)
        assert (type(error), error.model, error.finish_reason) == (InvalidOutputError, "test-model", None)
        assert re.search(words, str(error))


class Told:
    """The records of a stream, in a framing or in both, and what must come of them."""

    def __init__(self, *steps: Any, is_: Any = MISSING, **more: Any) -> None:
        self.steps, self.value = steps, is_
        self.error, self.says = more.get("error"), more.get("says", "")
        self.framings = [more["framing"]] if "framing" in more else [EVENTS, LINES]
        self.ops = more.get("ops", OPS_OF_TICKET if is_ is MISSING else [*ops_of(is_)])
        self.finish_reason, self.usage = more.get("finish"), more.get("usage")
        self.wanted = more.get("wanted", {"type": "object"})


def beside(first: str, second: str, last: str) -> list[Any]:
    """Two deltas and an end, each with a message beside it."""
    return [
        delta("4", message=same(first)),
        delta("2", message=same(second)),
        delta({}, "stop", message=same(last)),
    ]


DOC, INT = OPS_OF_TICKET, TypeAdapter(int)
WITH_USAGE = [*DOC[:-1], {**DOC[-1], "usage": USAGE}]
WRONG_OPS, INF = [*ops_of({"intent": "no", "steps": []})], float("inf")
TOLD = {"finish_reason": "stop", "usage": USAGE}
GAPS, LATE_OP = [b" \n\t\r\n", DOC[0], b"\n \n"], encoded(op("/a", 1))
IN_LINES, OOM_IN_LINES = json.dumps(whole(TICKET_TEXT), indent=2), json.dumps(SAID["OpenAI"], indent=2)
MESSAGE_AT_END = [delta({}, "stop", message=same("[1]")), chunk(usage=USAGE), "[DONE]"]
STOP: Any = {"finish": "stop"}
SSE: Any = {"framing": EVENTS}
NDJSON: Any = {"framing": LINES}
BROKEN_OFF: Any = {"error": openai.APIConnectionError}
BREAKS: Any = {"error": PatchStreamError}
IS_NOT: Any = {**BREAKS, "says": "^the stream has a record that is not "}
ENDLESS: Any = {**BREAKS, **SSE, "says": "end mark"}
INVALID: Any = {"error": InvalidOutputError}
CUT_OFF: Any = {**INVALID, "finish": "length", "says": "length.*max_tokens"}

FAILURE: Any = {"error": {"code": 502, "message": "out of memory"}, "finish_reason": "error"}
FAILED_CHOICE = chunk({"index": 0, "delta": {"content": ""}, **FAILURE})

STREAMS: dict[str, Told] = {
    # operations, and what ends them
    "an end mark": Told(*DOC, DONE, is_=TICKET, **SSE),
    "an end mark with other data": Told(*DOC, event("done", []), is_=TICKET, **SSE),
    "an end mark of both kinds": Told(*DOC, event("done", "[DONE]"), is_=TICKET, **SSE),
    "an end mark without its blank line": Told(*DOC, DONE[:-1], is_=TICKET, **SSE),
    "[DONE]": Told(*DOC, "[DONE]", is_=TICKET),
    "an end mark, then cut": Told(*DOC, DONE, CUT, is_=TICKET, **SSE),
    "stop and usage": Told(*DOC, mark(**TOLD), is_=TICKET, usage=USAGE, **STOP, **SSE),
    "usage alone": Told(*DOC, mark(usage=USAGE), is_=TICKET, usage=USAGE, **SSE),
    "nulls in the end mark": Told(*DOC, mark(finish_reason=None, usage=None), is_=TICKET, **SSE),
    "an empty finish reason": Told(*DOC, mark(finish_reason=""), is_=TICKET, **SSE),
    "a finish reason in a choice": Told(*DOC, delta(None, "stop"), "[DONE]", is_=TICKET, **STOP),
    "usage in a chunk": Told(*DOC, chunk(usage=USAGE), "[DONE]", is_=TICKET, usage=USAGE),
    "usage beside an operation": Told(*WITH_USAGE, "[DONE]", is_=TICKET, usage=USAGE, ops=WITH_USAGE),
    "usage before the operations": Told(chunk(usage=USAGE), *DOC, "[DONE]", is_=TICKET, usage=USAGE),
    "length": Told(*DOC, mark(finish_reason="length"), **CUT_OFF, **SSE, wanted=Ticket),
    "length in a choice": Told(*DOC, delta(None, "length"), "[DONE]", **CUT_OFF),
    "length in the end mark's choice": Told(*DOC, mark(**delta({}, "length")), **CUT_OFF, **SSE),
    "a filter": Told(*DOC, mark(finish_reason="content_filter"), says="filter", **INVALID, **FILTER, **SSE),
    "an error in the end mark": Told(*DOC, mark(**SAID["OpenAI"]), says="^out of memory", **BREAKS, **SSE),
    "an error in a choice": Told(*DOC, FAILED_CHOICE, says="^out of memory", **BREAKS),
    "an error in an array's choice": Told(*DOC, [FAILED_CHOICE], says="^out of memory", **BREAKS),
    "an error event of a page": Told(*DOC, event("error", PAGE), says="^the.*base_url", **BREAKS, **SSE),
    "an error event of text": Told(*DOC, event("error", "No."), says="No.", **BREAKS, **SSE),
    "a page": Told(PAGE, says=WRONG_URL, ops=[], **BREAKS, **NDJSON),
    "an error, then an end mark": Told(*DOC, SAID["text"], "[DONE]", says="^out of memory", **BREAKS),
    "no end mark": Told(*DOC, **ENDLESS),
    "a reason, and no end mark": Told(*DOC, SAID["Starlette"], says="^out of.*end mark", **BREAKS, **SSE),
    "a reason alone": Told(SAID["Starlette"], "[DONE]", ops=[], says="^out of memory", **INVALID),
    "a reason in a line": Told(SAID["Starlette"], ops=[], says="^out of memory", **INVALID, **NDJSON),
    "no end mark, but a comment and a ping": Told(*DOC, b": bye\n\n", event("ping", {}), **ENDLESS),
    "an end mark without data": Told(*DOC, b"event: done\n\n", **ENDLESS),
    "half an end mark": Told(*DOC, b'event: done\ndata: {"fin', **BREAKS, **SSE),
    "half an operation": Told(*DOC, b'event: patch\ndata: {"op":"add","path":"/x","val', **BREAKS, **SSE),
    "cut": Told(*DOC, b"event: patch\nda", CUT, **BROKEN_OFF, **SSE),
    "an end mark alone": Told(DONE, says="no content", ops=[], **INVALID, **SSE),
    "[DONE] alone": Told("[DONE]", says="no content", ops=[], **INVALID),
    "less than a field's name": Told(b"da", ops=[], **BREAKS),
    "decoded JSON": Told(whole({"a": 1}), is_={"a": 1}, usage=USAGE, **STOP),
    "an element that is not there": Told(
        *ARR, op("/-", {}), op("/-/x", 1), ops=[*ARR, op("/-", {})], **BREAKS
    ),
    "a bad first operation": Told(op("/a", 1), "[DONE]", says="/a", ops=[], **BREAKS),
    "lines": Told(*DOC, is_=TICKET, **NDJSON),
    "blank lines": Told(*GAPS, *DOC[1:-1], encoded(DOC[-1]), ops=DOC, is_=TICKET, **NDJSON),
    "a carriage return, no line end": Told(
        DOC[0], b"%b\r" % LATE_OP, LATE_OP, ops=DOC[:1], **BREAKS, **NDJSON
    ),
    "one completion in lines": Told(IN_LINES, is_=TICKET, usage=USAGE, **STOP, **NDJSON),
    "one error in lines": Told(OOM_IN_LINES, ops=[], says="^out of memory", **BREAKS, **NDJSON),
    "lines, length": Told(*DOC, delta(None, "length"), **CUT_OFF, **NDJSON),
    "lines, half an operation": Told(*DOC, b'{"op":"add","path":"/x","val', **BREAKS, **NDJSON),
    "lines, cut": Told(*DOC, b'{"op":"add","path":"/x","value":1}', CUT, **BROKEN_OFF, **NDJSON),
    "a wrong type": Told(*WRONG_OPS, "[DONE]", ops=WRONG_OPS, says="Ticket.*'no'", wanted=Ticket, **INVALID),
    "a number beyond floats": Told(*ARR, '{"op":"add","path":"/0","value":1E400}', DONE, is_=[INF], **SSE),
    # token streams
    "deltas": Told(*map(delta, pieces(TICKET_TEXT, [5])), delta(None, "stop"), "[DONE]", is_=TICKET, **STOP),
    "deltas without an end mark": Told(*map(delta, pieces(TICKET_TEXT, [9])), is_=TICKET),
    "complete at the limit": Told(delta(TICKET_TEXT, "length"), is_=TICKET, **LIMIT),
    "usage in the last chunk": Told(delta("[1]", "stop"), chunk(usage=USAGE), is_=[1], usage=USAGE, **STOP),
    "usage beside a delta": Told(delta("[1]") | {"usage": USAGE}, "[DONE]", is_=[1], usage=USAGE),
    "usage in x_groq": Told(delta("[1]"), chunk(x_groq={"usage": USAGE}), is_=[1], usage=USAGE),
    "a choice without an index": Told(chunk({"delta": {"content": "[1]"}}), "[DONE]", is_=[1]),
    "another choice": Told(delta("[1"), delta("9", "length", index=1), delta("]", "stop"), is_=[1], **STOP),
    "two choices in a chunk": Told(chunk(*delta("9", index=1)["choices"], *delta("[1]")["choices"]), is_=[1]),
    "events called chunk": Told(*(event("chunk", each) for each in (delta("[1]"), "[DONE]")), is_=[1], **SSE),
    "an error in x_groq": Told(delta("[1"), chunk(x_groq=SAID["text"]), ops=ARR, says="^out of", **BREAKS),
    "an error in a delta": Told(delta("[1"), FAILED_CHOICE, ops=ARR, says="^out of memory", **BREAKS),
    "stops short": Told(delta('{"a": 1, "b'), ops=AN_A, **INVALID),
    "a number and stop": Told(delta("1"), delta("2"), delta(None, "stop"), is_=12, wanted=INT, **STOP),
    **{f"a number and {end}": Told(delta("12", end), is_=12, finish=end) for end in ("eos", "END_TURN")},
    "a number and an end mark": Told(delta("1"), delta("2"), "[DONE]", is_=12),
    "a number alone": Told(delta("1"), delta("2"), ops=[], **INVALID),
    "a number, length and an end mark": Told(delta("12", "length"), "[DONE]", ops=[], **CUT_OFF),
    "a refusal in pieces": Told(*(delta({"refusal": x}) for x in "No."), ops=[], says="'No.'", **INVALID),
    # whole completions, and messages beside deltas
    "a whole completion": Told(whole(f"\n{TICKET_TEXT} "), is_=TICKET, usage=USAGE, **STOP),
    "a whole completion, an end mark": Told(whole(TICKET_TEXT), "[DONE]", is_=TICKET, usage=USAGE, **STOP),
    "a whole completion, and more": Told(whole("[1]"), delta("2"), "oops", is_=[1], usage=USAGE, **STOP),
    "all so far beside each piece": Told(*beside("4", "42", "42"), is_=42, wanted=INT, **STOP),
    "each piece twice": Told(*beside("4", "2", "42"), chunk(usage=USAGE), is_=42, usage=USAGE, **STOP),
    "all once more at the end": Told(delta("4"), delta("2"), whole("42"), is_=42, usage=USAGE, **STOP),
    "all once more, cut": Told(delta("[1,"), whole("[1,", "length"), ops=ONE, usage=USAGE, **CUT_OFF),
    "a message beside a first delta": Told(delta("", message=same("4")), delta("42", "stop"), is_=42, **STOP),
    "a message beside an empty delta": Told(*MESSAGE_AT_END, is_=[1], usage=USAGE, **STOP),
    # token streams that break the protocol
    **{
        f"a bad record, {now}": Told(delta('{"a": 1, '), bad, delta('"b": 2}'), ops=AN_A, **IS_NOT)
        for now, bad in enumerate(["no JSON", "[]", chunk("odd"), {"choices": "odd"}, delta(5), delta([5])])
    },
    "a delta of decoded JSON": Told(delta({"content": {"a": 1}}), "[DONE]", ops=[], **BREAKS),
    "a bad delta": Told(chunk({"index": 0, "delta": "odd"}), "[DONE]", ops=[], **BREAKS),
    "a bad refusal": Told(delta({"refusal": 5}), "[DONE]", ops=[], **BREAKS),
}


@pytest.mark.parametrize("told", STREAMS.values(), ids=STREAMS)
def test_a_stream_comes_to_what_its_records_say(told: Told, client: Client, gateway: Gateway) -> None:
    for framing, size in itertools.product(told.framings, [0, 1, 7, None]):
        gateway.reply(framed(framing, *told.steps, size=size))
        stream = client.stream(response_format=told.wanted)
        assert (stream.finish_reason, stream.usage) == (None, None)
        delivered, end = read(client, stream)
        assert repr(delivered) == repr(told.ops), size
        assert stream.finish_reason == told.finish_reason, size
        assert stream.usage == (told.usage and openai.types.CompletionUsage(**told.usage)), size
        if told.error is None:
            assert (repr(end), type(end)) == (repr(told.value), type(told.value)), size
            assert repr(client.result(response_format=told.wanted)) == repr(end)  # without iterating before
            continue
        assert type(end) is told.error, size
        assert re.search(told.says, str(end)), size
        if isinstance(end, InvalidOutputError) and told.steps[0] == DOC[0]:
            assert json.loads(end.raw_output) == fold(told.ops)
        if told.says == "end mark":
            assert (end.status_code, json.loads(end.body)) == (200, fold(told.ops))


SKIPPED: list[Any] = [
    *[chunk(), chunk(usage=None), {"error": None, "choices": []}, {"error": None}, "null"],
    *[{"type": "ping"}, {"sources": []}, {}, {"path": "/a", "value": 1}],
    chunk({"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}),
    delta({"role": "assistant", "reasoning_content": "}", "content": None}),
    delta({"content": "", "refusal": None, "tool_calls": None}),
    chunk({"index": 0, "delta": None}),
]
SKIPPED_EVENTS = [
    *["event: ping\ndata: {}", "event: ping\ndata: 2024-02-29", "event: ping", "event: patch", ": comment"],
    *["id: 1\ndata", "data:", "event: patch\ndata:", "id: 1", "event: other\ndata: no JSON", "event: done"],
]


@in_both_framings
def test_what_says_nothing_is_skipped(framing: str, gateway: Gateway, client: Client) -> None:
    for skipped in [*SKIPPED, *(f"{each}\n\n".encode() for each in SKIPPED_EVENTS if framing == EVENTS)]:
        gateway.reply(framed(framing, skipped, OPS[0], skipped, *OPS[1:], skipped, "[DONE]"))
        assert outcome(client) == (OPS, fold(OPS)), skipped
        gateway.reply(framed(framing, skipped, delta("[1"), skipped, delta(", 2]"), skipped, "[DONE]"))
        assert outcome(client) == ([*ops_of([1, 2])], [1, 2]), skipped


@in_both_framings
def test_what_follows_an_end_mark_is_nothing(framing: str, gateway: Gateway, client: Client) -> None:
    for end in ["[DONE]"] if framing == LINES else ["[DONE]", DONE]:
        for after in (b"not JSON\n\n", SAID["OpenAI"], op("", 1), delta("1"), whole("[3]", "length"), end):
            gateway.reply(framed(framing, *OPS, end, after))
            assert outcome(client) == (OPS, fold(OPS))
            gateway.reply(framed(framing, delta("[1"), delta(", 2]"), end, after))
            assert outcome(client) == ([*ops_of([1, 2])], [1, 2])


ADD = '{"op":"add","path":"/a","value":'
BAD_RECORDS: list[str] = [
    *["not json", "<html><body>502 Bad Gateway</body></html>", "[DONE", "done"],
    *[ADD, f"{ADD}1}}}}", f"{ADD}1}}{ADD}1}}", f"{ADD}NaN}}", f"{ADD}-Infinity}}", f'{ADD}"\t"}}'],
    *[ADD + "[" * DEEP, ADD + "[" * DEEP + "]" * DEEP + "}", ADD + DIGITS + "}"],
    *["[]", f"[{ADD}1}}]", "1", '"add"', "true"],
    *[f'{{"op":{bad},"path":"/a","value":1}}' for bad in ("null", '["add"]', '"ADD"', '"replace"', '"test"')],
    *['{"op":"remove","path":"/a"}', '{"op":"move","from":"/a","path":"/b"}'],
    f'{ADD}1,"op":"remove"}}',  # RFC 6902 A.13: given twice
    *['{"op":"add","path":"/a"}', '{"op":"add","value":1}'],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ("null", "0", '["a"]', '"a"', '"/~2"')],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ('"/b/c"', '"/intent/c"', '"/steps/1"')],
    *[f'{{"op":"add","path":{bad},"value":1}}' for bad in ('"/steps/-1"', '"/steps/01"')],
    json.dumps(op("/x" * DEEP, 1)),
]
NOT_UTF_8 = [b'%b"%b"}' % (ADD.encode(), bad) for bad in (b"\xff", b"\xed\xa0\x80", b"\xc3")]


@in_both_framings
def test_a_bad_record_comes_after_the_good_ones(framing: str, gateway: Gateway, client: Client) -> None:
    good_ops = [op("", {"steps": []}), op("/intent", "x")]
    records = [*(bad.encode() for bad in BAD_RECORDS), *NOT_UTF_8]
    for now, record in enumerate(records):
        step = b"data: %b\n\n" % record if framing == EVENTS else record + b"\n"
        size = None if now % 2 or len(record) > 1_000 else 1
        gateway.reply(framed(framing, *good_ops, step, op("/steps/0", 1), "[DONE]", size=size))
        delivered, error = outcome(client)
        assert (delivered, type(error), error.status_code) == (good_ops, PatchStreamError, 200), record
        assert re.match("the stream has a record that (is not|cannot be) [^:]+: .", str(error)), record
        assert len(str(error)) < 1_000
        assert error.body == record.decode(errors="replace")
        gateway.reply(framed(framing, *good_ops, step.rstrip(b"\n")))
        assert type(outcome(client)[1]) is PatchStreamError, record


@of_every_way
@pytest.mark.parametrize("framing", ["chunked", "close"], ids=["last chunk", "closed connection"])
def test_a_clean_end_in_mid_answer_is_no_end(
    framing: str, way: str, client: Client, gateway: Gateway
) -> None:
    body = body_of(good(way))  # proxies turn a server that dies in mid-answer into a clean end
    ends = {"events": body.rfind(b"event: done"), "lines": len(body), "tokens": body.rfind(b'"content"')}
    last, streamed = ends.get(way, len(body)), way in ("events", "lines")
    assert last > 100
    for at in sorted({*range(0, last, 17), *(end.end() for end in re.finditer(b"\n\n?", body[: last - 1]))}):
        reply = Reply([body[:at]], framing=framing)
        gateway.reply(engine(reply) if way == "tokens" else reply)
        delivered, end = outcome(client, way)
        assert delivered == ops_from(way)[: len(delivered)]
        if streamed:  # the records that have ended, and one that lacks nothing but its end
            whole_ones = body[:at].count(b"\n\n" if way == "events" else b"\n")
            assert whole_ones <= len(delivered) <= whole_ones + body[:at].rstrip().endswith(b"}"), at
        if way == "lines" and body[:at].rstrip().endswith(b"}"):
            assert end == fold(delivered), at  # of whole lines, nobody can tell
        else:
            record = body[:at].rpartition(b"\n\n")[2]
            torn = way == "tokens" and len(record) > 6 and not record.rstrip().endswith(b"]}")
            assert type(end) is (PatchStreamError if streamed or torn else InvalidOutputError), at


# ---------------------------------------------------------------------------------------------------------
# Clients: the constructor, copies, and what the SDK does
# ---------------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[..., Any]] = {
    "with_options": lambda raw, **options: raw.with_options(**options),
    "a copy of a copy": lambda raw, **options: raw.with_options(max_retries=0).copy(**options),
}


@pytest.mark.parametrize(
    ("given", "variable", "sent_key"),
    [
        ("a-key", None, "a-key"),
        ("a-key", "env-key", "a-key"),
        (None, "env-key", "env-key"),
        ("  a-key \t\r\n", None, "a-key"),
        (None, "env-key\r\n", "env-key"),
    ],
)
def test_the_key_goes_out_as_a_bearer_token(
    given: str, variable: str, sent_key: str, connect: Connect, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("DOTTXT_API_KEY", variable)
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


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_nothing_stands_in_for_a_wrong_key(name: str, connect: Connect, monkeypatch: MonkeyPatch) -> None:
    given, in_environment, message = WRONG_KEYS[name]
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
    keys = iter([f"key-{number}" for number in range(len(replies))])

    def next_key() -> str:
        for key in keys:
            return key
        raise NotOurs

    async def async_next_key() -> str:
        return next_key()

    gateway.reply(*replies)
    client = connect(api_key=async_next_key if connect().loop else next_key)
    client.raw = client.raw.with_options(timeout=5)
    call(client)
    sent_keys = [request.headers["authorization"] for request in gateway.requests]
    assert sent_keys == [f"Bearer key-{number}" for number in range(len(replies))]
    with pytest.raises(NotOurs):
        call(client)


# Given to the constructor, set in the environment, and asked for; {} is the server.
URLS = {
    "given": ("{}/given", None, "/given/models"),
    "given and set": ("{}/given", "{}/set", "/given/models"),
    "set": (None, "{}/set", "/set/models"),
    "empty and set": ("", "{}/set", "/set/models"),
    "blank and set": (" \n", "{}/set", "/set/models"),
    "given with slashes": ("{}/given///", None, "/given/models"),
    "set with a slash": (None, "{}/set/", "/set/models"),
    "of the server alone": ("{}", None, "/models"),
}


@pytest.mark.parametrize("kind", [str, lambda url: http_library().URL(url)], ids=["str", "URL"])
@pytest.mark.parametrize("name", URLS)
def test_the_base_url_is_given_or_set(
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
    monkeypatch.setenv("DOTTXT_BASE_URL", f"{server}/later")
    for options in ({"max_retries": 0}, {"base_url": None}, {"base_url": " "}, {"base_url": ""}):
        client.raw = client.raw.with_options(**options)
        list_models(client)
    assert [request.path for request in gateway.requests] == [path] * 5


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
def test_a_base_url_has_http_or_https(url: str, connect: Connect, monkeypatch: MonkeyPatch) -> None:
    raw = connect().raw
    for way in (connect, raw.with_options, raw.copy):
        with pytest.raises(ValueError, match=r"(?s)(?=.*http://)(?=.*https://)"):
            way(base_url=url)
    monkeypatch.setenv("DOTTXT_BASE_URL", url)
    with pytest.raises(ValueError, match=r"(?s)(?=.*http://)(?=.*https://)"):
        connect(base_url=None)


def ask_as_admin(client: Client) -> None:
    # The SDK may miss the key that it must not find, or have no such thing.
    with suppress(openai.OpenAIError, TypeError, AttributeError):
        client.wait(client.raw.admin.organization.projects.retrieve("p"))


EVERY_CALL: dict[str, tuple[Call, list[Reply]]] = {
    **CALLS,
    "raw response": (lambda client: client.wait(client.raw.models.with_raw_response.list()), [MODELS]),
    "chat stream": (lambda client: list(client.iterate(create(client, stream=True))), [sse("Hi")]),
    "files": (lambda client: client.wait(client.raw.files.list()), [MODELS]),
    "batches": (lambda client: client.wait(client.raw.batches.list()), [MODELS]),
    "admin": (ask_as_admin, [json_reply({"id": "p"})]),
}
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
@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_request_carries_nothing_that_is_set_for_openai(
    call: str, own: bool, connect: Connect, gateway: Gateway, monkeypatch: MonkeyPatch
) -> None:
    ask, replies = EVERY_CALL[call]
    options, headers = (OWN_OPTIONS, MINE) if own else ({}, {})

    def requests(client: Client) -> list[Request]:
        gateway.reply(*replies)
        before = len(gateway.requests)
        ask(client)
        client.raw = COPIES["a copy of a copy"](client.raw, base_url=gateway.url + "/")
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
def test_a_copy_differs_where_told_to(
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
            assert type(raw) is (AsyncDotTxt if client.loop else DotTxt)
            client.raw = raw
            list_models(client)
            request = gateway.requests[-1]
            sent_key = request.headers["authorization"].removeprefix("Bearer ")
            assert (request.path, sent_key, request.headers.get("x-second")) == expected
            assert request.headers["x-first"] == "1"
    assert gateway.connections == 1


@every_call
def test_the_clients_options_hold_for_every_call(
    call: Call, replies: list[Reply], connect: Connect, gateway: Gateway
) -> None:
    busy = api_error(503, "busy", **SOON)
    rest = iter([busy, busy, *replies])
    # The request that is given up may arrive late.
    gateway.reply(lambda it: next(rest) if "x-mine" in it.headers else Reply([EVER], status=None))
    with pytest.raises(openai.APITimeoutError):
        call(connect(timeout=0.05))
    http = http_library()
    kind = http.AsyncClient if connect().loop else http.Client
    call(connect(max_retries=2, http_client=kind(headers={"X-Mine": "1"})))
    assert len([1 for request in gateway.requests if "x-mine" in request.headers]) == 2 + len(replies)


def test_nothing_shows_the_key(connect: Connect, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(api_key="marked-secret")
    gateway.reply(completion("{}"))
    client.generate()
    shown = [client.raw, client.raw.copy(), client.raw.chat, client.raw.models, client.stream()]
    shown += [failure(name, client, gateway) for name in FAILURES]
    assert "marked-secret" not in "\n".join([*map(repr, shown), *map(str, shown), caplog.text])
    assert gateway.requests[0].headers["authorization"] == "Bearer marked-secret"


# ---------------------------------------------------------------------------------------------------------
# Clients: what is sent, and what engines without patch mode are asked for
# ---------------------------------------------------------------------------------------------------------

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CONVERSATION = [
    {"role": "system", "content": "Be brief.", "name": "s"},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, PICTURE]},
    {"role": "assistant", "content": None, "refusal": "no", "x-unknown": [1]},
]
SAMPLING = {"temperature": 0.0, "max_tokens": 7, "seed": 3}
TEMPLATE = {"chat_template_kwargs": {"enable_thinking": False}}

# The arguments, and the fields of the body that come of them.
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "text": ({"input": "Grüße\n😀"}, {"messages": [{"role": "user", "content": "Grüße\n😀"}]}),
    "messages": ({"input": CONVERSATION}, {"messages": CONVERSATION}),
    "another model": ({"model": "m"}, {"model": "m"}),
    "sampling": (SAMPLING, SAMPLING),
    "sampling of zeros": (dict.fromkeys(SAMPLING, 0), dict.fromkeys(SAMPLING, 0)),
    "sampling that is None": (dict.fromkeys(SAMPLING), {}),
    "other options": (
        {"top_p": 0.5, "stop": ["\n"], "user": "u"},
        {"top_p": 0.5, "stop": ["\n"], "user": "u"},
    ),
    "usage": ({"stream_options": {"include_usage": True}}, {"stream_options": {"include_usage": True}}),
    "what is not given": ({"top_p": openai.NOT_GIVEN}, {}),
    "extra_body": ({"extra_body": {"min_p": 0.1, **TEMPLATE}}, {"min_p": 0.1, **TEMPLATE}),
    "headers and query": ({"extra_headers": {"X-Tenant": "blue"}, "extra_query": {"version": "2"}}, {}),
    "timeout": ({"timeout": 5}, {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_call_sends_the_same_request(name: str, client: Client, gateway: Gateway) -> None:
    given, fields = REQUESTS[name]
    gateway.reply(completion("{}"), completion("{}"), patches(op("", {})), NO_PATCH_MODE, sse("{}"))
    before = repr(given)
    client.generate(**given)
    client.generate_with_completion(**given)
    client.result(**given)
    client.result(**{"model": "test-model", **given})
    assert repr(given) == before
    schema = {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}}
    body = {"model": "test-model", "messages": MESSAGES, "response_format": schema, **fields}
    asked: list[dict[str, Any]] = [{}, {}, {"stream": "patch"}, {"stream": "patch"}, {"stream": True}]
    assert [request.json for request in gateway.requests] == [body | stream for stream in asked]
    path = "/v1/chat/completions" + "?version=2" * ("extra_query" in given)
    for request in gateway.requests:
        assert (request.method, request.path) == ("POST", path)
        assert request.headers["authorization"] == "Bearer test-key"
        assert request.headers.get("x-tenant") == given.get("extra_headers", {}).get("X-Tenant")


def test_extra_is_more_fields_of_a_streams_body(client: Client, gateway: Gateway) -> None:
    gateway.reply(patches(op("", {})))
    booking = Booking(day=DAY, amount=(1, 2))
    extra = {"chat_template": "x", "guided": [booking], "seed": None}
    client.events(seed=4, top_p=None, extra={**extra, "top_p": 0.5}, extra_body={"min_p": 0.1})
    client.events(extra=extra)
    assert extra == {"chat_template": "x", "guided": [booking], "seed": None}
    first, second = (request.json for request in gateway.requests)
    body = {**second, "seed": 4, "top_p": 0.5, "min_p": 0.1}
    assert (first, second["chat_template"], second["guided"]) == (body, "x", [BOOKED])
    assert "seed" not in second


def test_the_sdks_own_message_objects_are_messages_too(client: Client, gateway: Gateway) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    gateway.reply(completion(None, tool_calls=[call]))
    message = create(client).choices[0].message
    messages = [message, {"role": "assistant", "tool_calls": message.tool_calls}, CONVERSATION[1]]
    gateway.reply(completion("{}"), patches(op("", {})))
    client.generate(input=messages)
    client.result(input=messages)
    generated, streamed = (request.json["messages"] for request in gateway.requests[1:])
    assert streamed[1:] == generated[1:]
    assert streamed[0]["tool_calls"] == [call]


def test_a_stream_asks_for_events_without_compression(gateway: Gateway, connect: Connect) -> None:
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


def test_a_number_that_json_lacks_is_never_sent(client: Client, gateway: Gateway) -> None:
    for call in (client.generate, client.result):
        with pytest.raises(ValueError, match="JSON"):
            call(temperature=float("nan"))
    assert gateway.requests == []


# Wrong for every method, and wrong for a stream alone.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stream": True}, "stream"),
    ({"messages": MESSAGES}, "input="),
    ({"no_such_option": 1}, "no_such_option"),
    ({"model": None}, "model must be a str"),
    ({"input": None}, "input must be a str or a list"),
    ({"input": MESSAGES[0]}, "input must be a str or a list"),
]
WRONG_FOR_A_STREAM: list[tuple[dict[str, Any], str]] = [
    ({"stream": "patch"}, "stream"),
    *[({place: {name: None}}, name) for place in ("extra", "extra_body") for name in ("messages", "stream")],
    *[({place: {"model": "other"}}, "model is given twice") for place in ("extra", "extra_body")],
    *[({place: {"response_format": {}}}, "format is given twice") for place in ("extra", "extra_body")],
    ({"seed": 1, "extra": {"seed": 1}}, "seed is given twice"),
    ({"seed": 1, "extra_body": {"seed": 2}}, "seed is given twice"),
    ({"top_p": 1, "extra": {"top_p": 1}}, "top_p is given twice"),
    ({"top_p": 1, "extra_body": {"top_p": 1}}, "top_p is given twice"),
    ({"extra": {"min_p": 1}, "extra_body": {"min_p": 1}}, "min_p is given twice"),
    ({"extra": {"extra_headers": {}}}, "extra_headers"),
]


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        *[(method, *row) for method in ("generate", "generate_with_completion", "stream") for row in WRONG],
        *[("stream", *row) for row in WRONG_FOR_A_STREAM],
        ("generate", {"stream": True}, r"use .*stream\(\)"),
    ],
    ids=short,
)
def test_wrong_arguments_are_type_errors(
    method: str, wrong: dict[str, Any], message: str, client: Client, gateway: Gateway
) -> None:
    with pytest.raises(TypeError, match=message):
        getattr(client, method)(**wrong)
    assert gateway.connections == 0


def test_type_errors_name_the_client_and_its_signature_shows_the_arguments() -> None:
    for kind in (DotTxt, AsyncDotTxt):
        for args, kwargs in ((["test-key"], {}), ([], {"api_key": "test-key", "no_such_option": 1})):
            with pytest.raises(TypeError, match=f"{kind.__name__}|OpenAI"):
                kind(*args, **kwargs)
        assert {"api_key", "base_url"} <= {*inspect.signature(kind).parameters}
        with contextlib.closing(Client(kind, api_key="test-key")) as client:
            for method in ("generate", "generate_with_completion", "stream"):
                with pytest.raises(TypeError, match=f"{kind.__name__}.{method}"):
                    getattr(client.raw, method)("test-model", "Hello", OBJECT)
                assert inspect.iscoroutinefunction(getattr(AsyncDotTxt, method)) == (method != "stream")


def test_tools_that_wrap_create_see_all(client: Client, gateway: Gateway, monkeypatch: MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    "wrap", [functools.partial, lambda create: mock.Mock(side_effect=create)], ids=["partial", "object"]
)
def test_create_may_be_any_callable(wrap: Callable[[Any], Any], client: Client, gateway: Gateway) -> None:
    client.raw.chat.completions.create = wrap(client.raw.chat.completions.create)
    gateway.reply(patches(op("", {})), completion("{}"))
    assert client.result(top_p=0.5) == client.generate(top_p=0.5) == {}
    assert [request.json["top_p"] for request in gateway.requests] == [0.5, 0.5]


def test_nothing_is_sent_before_a_stream_is_read(gateway: Gateway, client: Client) -> None:
    gateway.reply(patches(op("", {})))
    stream = client.stream()
    client.leave(client.stream())
    time.sleep(0.05)
    assert gateway.connections == 0
    assert len(list(client.iterate(stream))) == 1
    assert len(gateway.requests) == 1


def test_a_streams_timeout_goes_first(gateway: Gateway, connect: Connect) -> None:
    client = connect(timeout=0.1)
    gateway.reply(Reply([EVER], status=None))
    more: list[dict[str, Any]] = [{}, {"timeout": None}]
    for options in more:
        assert type(outcome(client, **options)[1]) is openai.APITimeoutError
    gateway.reply(patches(op("", {}), 0.3))
    assert client.result(timeout=5) == {}


BOOL_PARSING = {
    "type": "bool_parsing",
    "loc": ("body", "stream"),
    "msg": "Input should be a valid boolean, unable to interpret input",
    "input": "patch",
}
LLAMA_CPP = "Field 'stream': [json.exception.type_error.302] type must be boolean, but is string"
REFUSALS_OF_PATCHES = {
    "llama.cpp": api_error(400, LLAMA_CPP),
    "llama.cpp, plain text": Reply(LLAMA_CPP.encode(), 400, {"Content-Type": "text/plain"}),
    "llama-cpp-python": api_error(500, str([BOOL_PARSING])),
    "llama-cpp-python, lines": api_error(500, f"1 validation error:\n  {BOOL_PARSING}\n"),
    "vLLM": json_reply({"object": "error", "message": str([BOOL_PARSING]), "code": 400}, 400),
    "FastAPI": json_reply({"detail": [BOOL_PARSING]}, 422),
    "words that speak of nothing": api_error(400, "Invalid API parameter"),
    "words of a reader": api_error(422, "Failed to read request"),
    "not acceptable": api_error(406, "text/event-stream is not served here"),
    "no words": Reply(b"", 400),
}
WHOLE = {"a whole completion": completion(TICKET_TEXT), "a whole completion of prose": completion("Sure!")}


def streams_asked_for(gateway: Gateway) -> list[Any]:
    return [request.json["stream"] for request in gateway.requests]


@pytest.mark.parametrize(
    "first", [*REFUSALS_OF_PATCHES.values(), *WHOLE.values()], ids=[*REFUSALS_OF_PATCHES, *WHOLE]
)
def test_an_engine_without_patches_is_asked_for_tokens(
    first: Reply, gateway: Gateway, connect: Connect
) -> None:
    client = connect(max_retries=0 if first.status == 500 else 2)
    gateway.reply(engine(sse(*pieces(TICKET_TEXT, [5])), first))
    results = [outcome(client, response_format=Ticket)[1] for _ in range(3)]
    assert results[1:] == [TICKET_OBJECT] * 2
    assert isinstance(
        results[0], InvalidOutputError if first is WHOLE["a whole completion of prose"] else Ticket
    )
    assert streams_asked_for(gateway) == ["patch", *[True] * (2 if first.status == 200 else 3)]
    bodies = [request.json for request in gateway.requests]
    assert bodies[1] == {**bodies[0], "stream": True}
    another = connect()  # knows nothing of it
    outcome(another)
    assert streams_asked_for(gateway)[len(bodies)] == "patch"


def test_that_is_remembered_for_a_base_url_and_a_model(gateway: Gateway, client: Client) -> None:
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


@pytest.mark.parametrize("status", [204, 400, 401, 404, 422, 500])
def test_a_refusal_of_tokens_too_is_not_remembered(status: int, gateway: Gateway, client: Client) -> None:
    second = Reply(status=204) if status == 204 else api_error(status, "not so either")
    gateway.reply(NO_PATCH_MODE, second, NO_PATCH_MODE, sse("1"))
    delivered, error = outcome(client)
    assert (delivered, type(error)) == ([], PatchStreamError)
    assert (error.status_code, error.body.encode()) == (status, second.body)
    assert client.result() == 1
    assert streams_asked_for(gateway) == ["patch", True, "patch", True]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 429, 500, 503])
def test_any_other_refusal_is_never_asked_again(status: int, gateway: Gateway, client: Client) -> None:
    words = "the engine died" if status == 500 else LLAMA_CPP
    gateway.reply(api_error(status, words), sse("{}"))
    delivered, error = outcome(client)
    assert (delivered, type(error), error.status_code) == ([], PatchStreamError, status)
    assert streams_asked_for(gateway) == ["patch"]


# ---------------------------------------------------------------------------------------------------------
# Clients: streams that people hold in their hands
# ---------------------------------------------------------------------------------------------------------


def test_the_result_is_there_at_any_time_and_twice(gateway: Gateway, client: Client) -> None:
    gateway.reply(patches(*OPS_OF_TICKET))
    for read_before in range(6):
        stream = client.stream(response_format=Ticket)
        assert stream.raw_output == ""
        for state in states_of(OPS_OF_TICKET)[:read_before]:
            event = client.wait(next(stream) if client.loop is None else anext(stream))
            assert event.snapshot == state == json.loads(stream.raw_output)
        assert client.wait(stream.result()) == TICKET_OBJECT
        assert client.wait(stream.result()) == TICKET_OBJECT
        assert list(client.iterate(stream)) == []
    assert len(gateway.requests) == 6
    stream = client.stream()
    *_, last = client.iterate(stream)
    wreck(client.wait(stream.result()))  # which is the caller's own
    assert client.wait(stream.result()) == TICKET
    assert last.snapshot == TICKET


def test_elements_takes_a_model_or_an_adapter(client: Client, gateway: Gateway) -> None:
    with pytest.raises(TypeError, match="BaseModel subclass or a TypeAdapter"):
        elements(client, client.stream(), dict, "a", bool)
    with pytest.raises(InvalidSchemaError, match="BaseModel"):
        elements(client, client.stream(), BaseModel, "a", bool)
    assert gateway.connections == 0


class Line(BaseModel):
    item: str
    price: int = 0


LINE_ITEMS = [{"item": "a", "price": 1}, {"item": "b"}, {"item": "c", "price": 3}]
INVOICE = {"number": 7, "li/nes": LINE_ITEMS, "total": 4}
LINE_OBJECTS = [Line.model_validate(line) for line in LINE_ITEMS]

# The document, the kind of an element, the field, the elements, and how many operations each takes to come: a
# container is complete at an operation outside of it, the last one of all at the end.
ELEMENTS: dict[str, tuple[Any, Any, str, list[Any], list[int]]] = {
    "models": (INVOICE, Line, "li~1nes", LINE_OBJECTS, [7, 9, 12]),
    "models of the root": (LINE_ITEMS, Line, "", LINE_OBJECTS, [5, 7, 99]),
    "models at the end": ({"lines": LINE_ITEMS}, Line, "lines", LINE_OBJECTS, [6, 8, 99]),
    "deep within": ({"a": [[], [{"b": [1, 2]}]]}, TypeAdapter(int), "a/1/0/b", [1, 2], [7, 8]),
    "scalars": (["a", None, "b"], TypeAdapter(Optional[str]), "", ["a", None, "b"], [2, 3, 4]),
    "containers in containers": ([[[1]], []], TypeAdapter(list[Any]), "", [[[1]], []], [5, 99]),
    "an empty array": ({"lines": []}, Line, "lines", [], []),
    "an object": ({"lines": {"0": 1}}, TypeAdapter(int), "lines", [], []),
    "no such field": (INVOICE, Line, "lines", [], []),
    "a field with a longer name": ({"lines2": [1], "line": [2]}, TypeAdapter(int), "lines", [], []),
}


def elements(client: Client, stream: Any, kind: Any, field: str, visit: Callable[[Any], object]) -> None:
    given = (kind, field) if field else (kind,)
    for_each(client, stream.elements(*given), visit)


@pytest.mark.parametrize("name", ELEMENTS)
def test_an_element_comes_as_soon_as_it_is_complete(name: str, client: Client, gateway: Gateway) -> None:
    document, kind, at, expected, counts = ELEMENTS[name]
    ops = [*ops_of(document)]
    replies = [good(way, document) for way in WAYS] + [good("tokens", document, size=1)]
    for reply in replies:
        gateway.reply(reply)
        stream = client.stream()
        for _ in range(2):  # each begins at the first element
            got: list[Any] = []
            elements(client, stream, kind, at, got.append)
            assert (got, [*map(type, got)]) == (expected, [*map(type, expected)])
        assert client.wait(stream.result()) == document
    got = []
    seen: list[int] = []

    def body() -> Iterator[bytes]:
        for number, each in enumerate(ops, 1):
            yield body_of(framed(EVENTS, each))
            gateway.wait_for(lambda: len(got) >= sum(count <= number for count in counts))  # noqa: B023
            seen.append(len(got))
        yield DONE

    gateway.reply(Reply(body(), headers={"Content-Type": EVENTS}))
    elements(client, client.stream(timeout=10), kind, at, got.append)
    assert seen == [sum(count <= number for count in counts) for number in range(1, len(ops) + 1)]
    assert got == expected


# What ends the stream, and whether its last element counts.
LAST: dict[str, tuple[list[Any], Any]] = {
    "an end mark": ([DONE], None),
    "stop": ([mark(finish_reason="stop")], None),
    "no end mark": ([], PatchStreamError),
    "length": ([mark(finish_reason="length")], InvalidOutputError),
    "an error": ([SAID["OpenAI"]], PatchStreamError),
    "cut": ([CUT], openai.APIConnectionError),
}


@pytest.mark.parametrize(("end", "error"), LAST.values(), ids=LAST)
def test_the_last_element_may_be_cut(end: list[Any], error: Any, client: Client, gateway: Gateway) -> None:
    gateway.reply(framed(EVENTS, *ops_of(LINE_ITEMS), *end))
    stream = client.stream()
    got: list[Any] = []
    with pytest.raises(error) if error else contextlib.nullcontext():
        elements(client, stream, Line, "", got.append)
    assert got == LINE_OBJECTS[: 2 if error else 3]
    with pytest.raises(error) if error else contextlib.nullcontext():
        assert client.wait(stream.result()) == LINE_ITEMS
    text = json.dumps(LINE_ITEMS)
    for cut in (text[:-1], text[:-2]):
        gateway.reply(engine(sse(cut, finish_reason="length")))
        got = []
        with pytest.raises(InvalidOutputError, match="max_tokens"):
            elements(client, client.stream(), Line, "", got.append)
        assert got == LINE_OBJECTS[:2]
    gateway.reply(ndjson(*ops_of(LINE_ITEMS)))
    got = []
    elements(client, client.stream(), Line, "", got.append)
    assert got == LINE_OBJECTS  # lines that have ended


def test_an_element_that_does_not_fit_is_named(client: Client, gateway: Gateway) -> None:
    bad = {"lines": [LINE_ITEMS[0], {"item": "é", "price": "free"}, LINE_ITEMS[2]]}
    for way in WAYS:
        gateway.reply(good(way, bad))
        stream = client.stream()
        got: list[Any] = []
        with pytest.raises(InvalidOutputError, match="/lines/1") as caught:
            elements(client, stream, Line, "lines", got.append)
        assert got == LINE_OBJECTS[:1]
        assert json.loads(caught.value.raw_output) == bad["lines"][1]
        assert isinstance(caught.value.original_error, pydantic.ValidationError)
        assert (caught.value.model, caught.value.completion) == ("test-model", None)
        assert "Line" in str(caught.value)
        assert client.wait(stream.result()) == bad


def test_the_response_is_there_after_an_error_too(client: Client, gateway: Gateway) -> None:
    for end in (DONE, SAID["OpenAI"]):
        body = framed(EVENTS, *OPS_OF_TICKET, end).body
        gateway.reply(Reply(body, headers={"X-Request-Id": "req-7"}))
        stream = client.stream()
        assert [stream.response] == [None]
        events = client.iterate(stream)
        next(events)
        assert stream.response.status_code == 200
        with suppress(PatchStreamError):
            list(events)
        assert stream.response.headers["x-request-id"] == "req-7"


@pytest.mark.parametrize(
    "reply", [patches(*OPS_OF_TICKET), ndjson(*OPS_OF_TICKET), sse(*pieces(TICKET_TEXT, [4]))]
)
def test_a_closed_stream_has_a_result_if_it_had_ended(reply: Reply, gateway: Gateway, client: Client) -> None:
    gateway.reply(reply)
    ended = client.stream(response_format=Ticket)
    assert len(list(client.iterate(ended))) == 5
    gateway.reply(Reply([body_of(reply)], headers=reply.headers))  # all of it has arrived
    left = client.stream(response_format=Ticket)
    events = client.iterate(left)
    assert [next(events).field for _ in range(2)] == ["", "intent"]
    unread = client.stream(response_format=Ticket)
    for stream in (ended, left, unread):
        client.leave(stream)
        client.leave(stream)  # twice does no harm
        assert list(client.iterate(stream)) == []
    assert list(events) == []
    assert client.wait(ended.result()) == TICKET_OBJECT
    for stream in (left, unread):
        with pytest.raises(RuntimeError, match="closed") as caught:
            client.wait(stream.result())
        assert type(caught.value) is RuntimeError  # the model is not to blame
        with pytest.raises(RuntimeError, match="closed"):
            elements(client, stream, INT, "steps", bool)


def test_threads_share_a_client(reader: Client, gateway: Gateway) -> None:
    gateway.reply(lambda it: good("generate" if "stream" not in it.json else "events", it.json["messages"]))
    with ThreadPoolExecutor(16) as pool:
        for call in (reader.generate, reader.result):
            got = pool.map(lambda now, call=call: call(input=str(now)), range(100))
            assert [each[0]["content"] for each in got] == [*map(str, range(100))]
    assert gateway.connections <= 16


HELD: dict[str, Callable[[Any], Reply]] = {
    "patches": lambda gone: patches(op("", {}), op("/a", "x"), gone, op("/b", "y")),
    "lines": lambda gone: ndjson(op("", {}), op("/a", "x"), *[0.01, b"\n"] * 500),
    "tokens": lambda gone: sse('{"a": "x", ', gone, '"b": "y"}'),
}


@pytest.fixture(params=HELD)
def stalled(request: pytest.FixtureRequest, gateway: Gateway) -> Gateway:
    """The gateway, in the middle of an answer of which two events have come."""
    gateway.reply(HELD[request.param](EVER))
    return gateway


@pytest.mark.parametrize("error", [None, KeyError("mine")])
def test_leaving_a_block_closes_at_once(error: Exception | None, stalled: Gateway, client: Client) -> None:
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
            async for event in stream:  # pragma: no branch
                if visit(event):
                    break

    with pytest.raises(KeyError, match="mine") if error else contextlib.nullcontext():
        use() if client.loop is None else client.wait(use_async())
    client.until(lambda: stalled.open == 0)


def test_a_dropped_stream_gives_its_connection_back(stalled: Gateway, client: Client) -> None:
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


@pytest.mark.parametrize("deltas", [[*pieces(TICKET_TEXT, [8])], [None], [{"refusal": "no"}]], ids=short)
def test_tokens_are_closed_at_their_end_mark(deltas: list[Any], client: Client, gateway: Gateway) -> None:
    noise = b': ping\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'
    gateway.reply(engine(framed(EVENTS, *map(delta, deltas), "[DONE]", *[0.02, noise] * 500)))
    start = time.monotonic()
    for _ in range(2):
        delivered, end = outcome(client)
        assert (
            (delivered, end) == (OPS_OF_TICKET, TICKET)
            if len(deltas) > 1
            else type(end) is InvalidOutputError
        )
    client.until(lambda: gateway.open <= 1)  # that of the refusal
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("bad", [op("/a/b", 1), "not JSON", SAID["text"]], ids=["operation", "text", "error"])
@in_both_framings
def test_a_broken_protocol_closes_at_once(framing: str, bad: Any, gateway: Gateway, client: Client) -> None:
    gateway.reply(framed(framing, op("", {}), bad, EVER))
    start = time.monotonic()
    assert type(outcome(client, timeout=2)[1]) is PatchStreamError
    assert time.monotonic() - start < 1.5
    client.until(lambda: gateway.open == 0)


def async_stream(client: AsyncDotTxt) -> Any:
    return client.stream(model="m", input="Hello", response_format={"type": "object"})


def held(count: int, go_on: threading.Event) -> Reply:
    """A response that waits before its first byte, or after an operation."""
    if count:
        return framed(EVENTS, op("", {}), go_on, op("/a", 1), op("/b", 2), DONE)
    return Reply([go_on, *Reply([encoded(whole("[1, 2]"))]).bytes_and_steps()], status=None)


@pytest.mark.parametrize("count", [0, 1], ids=["before the response", "after an event"])
def test_a_stream_closed_in_a_thread_gives_no_more(count: int, reader: Client, gateway: Gateway) -> None:
    go_on = threading.Event()
    gateway.reply(held(count, go_on))
    stream = reader.stream(timeout=10)
    got: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(for_each, reader, stream, lambda event: got.append(event.field))
        gateway.wait_for(lambda: gateway.requests and len(got) == count)
        stream.close()
        go_on.set()
        assert reading.result(10) is None  # and no error
    assert got == [""] * count
    with pytest.raises(RuntimeError, match="closed"):
        stream.result()


@asynchronous
async def test_a_stream_that_another_task_closes_ends(gateway: Gateway) -> None:
    async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
        for count in (0, 1):
            gateway.reply(held(count, go_on := threading.Event()))
            stream = async_stream(client)
            for _ in range(count):
                await anext(stream)
            waiting = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0.05)
            await stream.aclose()
            if not count:
                go_on.set()
            assert await asyncio.wait_for(waiting, 5) is None
            assert await anext(stream, None) is None
            with pytest.raises(RuntimeError, match="closed"):
                await stream.result()


@asynchronous
async def test_a_cancelled_wait_never_looks_like_an_end(gateway: Gateway) -> None:
    whole: tuple[Reply, int] = patches(op("", [1]), EVER, op("/1", 2)), 1
    ways: list[Callable[[Any], Any]] = [lambda stream: stream, lambda stream: stream.elements(INT)]
    async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
        for way, (reply, count) in itertools.product(ways, (whole, (Reply([EVER], status=None), 0))):
            gateway.reply(reply)
            stream = async_stream(client)
            iterator = way(stream)
            for _ in range(count):
                await anext(iterator)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(iterator), 0.1)
            for wait in (anext(iterator), anext(stream), anext(aiter(iterator)), stream.result()):
                with pytest.raises(RuntimeError) as caught:
                    await wait
                assert type(caught.value) is RuntimeError
            assert aiter(iterator) is iterator
            while gateway.open:
                await asyncio.sleep(0.005)


@asynchronous
async def test_a_heartbeat_that_waits_for_a_task_keeps_the_stream(gateway: Gateway) -> None:
    go_on = threading.Event()
    gateway.reply(patches(op("", {}), go_on, op("/a", 1)))
    async with AsyncDotTxt(api_key="test-key", base_url=gateway.url) as client:
        stream = async_stream(client)
        assert (await anext(stream)).field == ""
        task = asyncio.ensure_future(anext(stream))
        while not (await asyncio.wait([task], timeout=0.05))[0]:
            go_on.set()  # after one beat
        assert (await task).field == "a"
        assert await stream.result() == {"a": 1}


# ---------------------------------------------------------------------------------------------------------
# Clients: faults on the wire, HTTP/2, other event loops
# ---------------------------------------------------------------------------------------------------------

LOST, LATE = openai.APIConnectionError, openai.APITimeoutError
GZIP = {"Content-Encoding": "gzip"}

# What the server does, the operations that a stream delivers before (None: as many as arrive), and the error.
FAULTS: dict[str, tuple[Callable[[str], Reply], int | None, type[Exception]]] = {
    "closed before the first byte": (lambda way: Reply([CUT], None), 0, LOST),
    "reset before the first byte": (lambda way: Reply([RESET], None), 0, LOST),
    "cut in the headers": (lambda way: Reply([b"HTTP/1.1 200 OK\r\nCont", CUT], None), 0, LOST),
    "cut after the headers": (lambda way: Reply([CUT]), 0, LOST),
    "cut in mid-record": (lambda way: cut_short(way, CUT), 2, LOST),
    "cut in mid-character": (lambda way: cut_short(way, CUT, at=2), 2, LOST),
    "reset in mid-record": (lambda way: cut_short(way, 0.05, RESET), None, LOST),
    "not HTTP": (lambda way: Reply([b"220 ready\r\n"], None), 0, LOST),
    "Content-Length too great": (lambda way: cut_short(way, framing="length", content_length=9999), 2, LOST),
    "broken gzip": (lambda way: Reply(b"no gzip", headers=GZIP), 0, LOST),
    "silent": (lambda way: Reply([EVER], None), 0, LATE),
    "silent in mid-record": (lambda way: cut_short(way, EVER), 2, LATE),
    "error page that is cut": (lambda way: Reply([b'{"error":', CUT], 500), 0, LOST),
    "error page that is reset": (lambda way: Reply([b'{"error":', 0.05, RESET], 401), 0, LOST),
    "error page that goes silent": (lambda way: Reply([b'{"error":', EVER], 400), 0, LATE),
    "error page of broken gzip": (lambda way: Reply(b"no gzip", 503, GZIP), 0, LOST),
    "another status, cut": (lambda way: Reply([b"{", CUT], 206), 0, LOST),
    "redirected for ever": (lambda way: Reply(b"", 307, {"Location": "/v1/chat/completions"}), 0, LOST),
}


def assert_serves(client: Client, gateway: Gateway, way: str) -> None:
    """The next answer is right, and no connection is open but the one it came by."""
    gateway.reply(good(way))
    assert outcome(client, way) == (ops_from(way), DOCUMENT)
    client.until(lambda: gateway.open <= 1)


@of_every_way
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_an_error_and_the_client_goes_on(
    name: str, way: str, client: Client, gateway: Gateway
) -> None:
    fault, count, error = FAULTS[name]
    reply = fault(way)
    gateway.reply(engine(reply) if way == "tokens" else reply)
    start = time.monotonic()
    delivered, end = outcome(client, way, timeout=0.3 if error is LATE else 5)
    assert type(end) is error
    assert time.monotonic() - start < 10
    assert delivered == ops_from(way)[: len(delivered) if count is None else count]
    assert_serves(client, gateway, way)


@of_every_way
def test_an_end_mark_makes_an_answer_whole_that_is_cut(way: str, client: Client, gateway: Gateway) -> None:
    gateway.reply(good(way, DOCUMENT, CUT))
    delivered, end = outcome(client, way)
    assert delivered == ops_from(way)
    assert end == DOCUMENT if way in ("events", "tokens") else type(end) is LOST
    assert_serves(client, gateway, way)


@of_every_way
def test_a_server_error_is_retried_or_told(way: str, connect: Connect, gateway: Gateway) -> None:
    client = connect(max_retries=2)
    busy = api_error(503, "try again", **SOON)
    gateway.reply(busy, busy, good(way))
    assert outcome(client, way) == (ops_from(way), DOCUMENT)
    assert len(gateway.requests) == 3
    gateway.reply(busy)
    delivered, end = outcome(client, way)
    assert (delivered, len(gateway.requests), end.status_code) == ([], 6, 503)
    if way != "generate":
        assert type(end) is PatchStreamError
        end = end.__cause__
        gateway.reply(cut_short(way, CUT))  # never once it has begun
        assert (type(outcome(client, way)[1]), len(gateway.requests)) == (LOST, 7)
    assert type(end) is openai.InternalServerError


def gzipped(way: str) -> Reply:
    pack = zlib.compressobj(wbits=31)
    rows = [
        pack.compress(line) + pack.flush(zlib.Z_SYNC_FLUSH) for line in body_of(good(way)).splitlines(True)
    ]
    return Reply([*rows, pack.flush()], headers=GZIP)


@of_every_way
def test_an_answer_is_the_same_however_it_is_sent(way: str, client: Client, gateway: Gateway) -> None:
    body = body_of(good(way))
    for reply in (gzipped(way), Reply(body, framing="close"), Reply([*pieces(body, [1])])):
        gateway.reply(reply)
        assert outcome(client, way) == (ops_from(way), DOCUMENT)
    assert_serves(client, gateway, way)


def test_whatever_a_server_sends_the_error_is_documented(client: Client, gateway: Gateway) -> None:
    st = pytest.importorskip("hypothesis").strategies
    damage = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8))
    types = st.sampled_from([EVENTS, LINES, JSON_TYPE, "text/html", ""])
    statuses = st.sampled_from([200, 200, 200, 200, 201, 206, 400, 404, 422, 500])

    def holds(way: str, noise: bytes, hurt: list[Any], kind: str, status: int, sizes: list[int]) -> None:
        body = noise or body_of(good(way))
        for at, gone, new in hurt:
            start = int(at * len(body))
            body = body[:start] + new + body[start + gone :]
        reply = Reply([*pieces(body, sizes)], status, {"Content-Type": kind})
        gateway.reply(engine(reply) if way == "tokens" else reply)
        delivered, end = outcome(client, way)
        if not noise and not hurt and status == 200:
            assert (delivered, end) == (ops_from(way), DOCUMENT)

    ways, sizes = st.sampled_from(WAYS), st.lists(st.integers(1, 300), min_size=1)
    noise = st.just(b"") | st.binary()
    for_all(holds, ways, noise, st.lists(damage, max_size=3), types, statuses, sizes, examples=60)


class Http2Server:
    """Serves HTTP/2 in clear text. A body that ends in None is never ended."""

    def __init__(self) -> None:
        self.bodies: list[list[Any]] = []
        self.connections = 0
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.url = f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}/v1"

    def serve(self) -> None:
        with suppress(OSError):  # all is closed at the end
            while True:
                self._sockets.append(self._sockets[0].accept()[0])
                self.connections += 1
                self._serve(self._sockets[-1])

    def _serve(self, connection: socket.socket) -> None:
        config, events = importlib.import_module("h2.config"), importlib.import_module("h2.events")
        h2 = importlib.import_module("h2.connection").H2Connection(config.H2Configuration(client_side=False))
        h2.initiate_connection()
        connection.sendall(h2.data_to_send())
        while data := connection.recv(65536):
            for event in h2.receive_data(data):
                if not isinstance(event, events.StreamEnded):
                    continue
                h2.send_headers(event.stream_id, [(":status", "200"), ("content-type", EVENTS)])
                for step in (body := self.bodies.pop(0)):
                    if isinstance(step, threading.Event):
                        connection.sendall(h2.data_to_send())
                        assert step.wait(5)
                    elif step:
                        h2.send_data(event.stream_id, step)
                if body[-1] is not None:
                    h2.end_stream(event.stream_id)
            connection.sendall(h2.data_to_send())

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):  # the client may have gone first
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def http2() -> Iterator[Http2Server]:
    pytest.importorskip("h2")
    with contextlib.closing(Http2Server()) as server, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(server.serve)
        yield server
        server.close()
        assert serving.result(5) is None


@pytest.mark.parametrize("kind", [DotTxt, AsyncDotTxt], ids=["sync", "async"])
def test_http2_serves_every_call_and_is_left_at_once(kind: Any, http2: Http2Server) -> None:
    http: Any = openai.DefaultHttpxClient if kind is DotTxt else openai.DefaultAsyncHttpxClient
    delivered = threading.Event()
    tokens = body_of(framed(EVENTS, *map(delta, pieces(TICKET_TEXT, [8])), delta(None, "stop"), "[DONE]"))
    live = [body_of(framed(EVENTS, op("", {}))), delivered, body_of(patches(op("/a", 1)))]
    held = body_of(framed(EVENTS, op("", {}), op("/a", 1)))
    whole_body = [encoded(whole('{"a": 1}'))]
    http2.bodies = [whole_body, live, [tokens, None], [held, None], [tokens], [tokens], whole_body]
    options = {"api_key": "test-key", "base_url": http2.url, "max_retries": 0, "timeout": 20}
    start = time.monotonic()
    with contextlib.closing(Client(kind, **options, http_client=http(http1=False, http2=True))) as client:
        assert client.generate() == {"a": 1}
        fields = []
        for event in client.iterate(client.stream()):
            fields.append(event.field)
            delivered.set()
        assert fields == ["", "a"]
        assert client.result() == TICKET  # to its end mark, though the server goes on
        stream = client.stream()
        assert next(client.iterate(stream)).field == ""
        client.leave(stream)

        async def both() -> list[Any]:
            return [*await asyncio.gather(*(client.stream().result() for _ in range(2)))]

        if client.loop:
            assert client.wait(both()) == [TICKET, TICKET]
        else:
            with ThreadPoolExecutor(2) as pool:
                assert [*pool.map(lambda _: client.result(), range(2))] == [TICKET, TICKET]
        assert client.generate() == {"a": 1}
    assert time.monotonic() - start < 10  # nothing waits for the timeout
    assert http2.connections == 1


def test_the_async_client_works_under_trio(gateway: Gateway) -> None:
    trio = pytest.importorskip("trio")
    ask: dict[str, Any] = {"model": "m", "input": "Hello", "response_format": OBJECT}

    async def main() -> None:
        async with AsyncDotTxt(api_key="test-key", base_url=gateway.url, max_retries=1, timeout=5) as client:
            gateway.reply(api_error(503, **SOON), good("generate"))
            assert await client.generate(**ask) == DOCUMENT
            gateway.reply(api_error(503, **SOON), good("events"))
            assert await client.stream(**ask).result() == DOCUMENT
            gateway.reply(cut_short("events", EVER))
            with trio.move_on_after(0.2) as scope:
                async for _ in client.stream(**ask):
                    pass
            assert scope.cancelled_caught
            with pytest.raises(openai.APITimeoutError):
                await client.stream(**ask, timeout=0.1).result()
            await trio.to_thread.run_sync(gateway.wait_for, lambda: gateway.open <= 1)

    trio.run(main)
    gateway.wait_for(lambda: gateway.open == 0)


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
    words = r"\b.*\b".join(row.told.split())
    assert re.search(rf"\b{words}\b" if words else "", ran.err)
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


def test_the_names_of_a_schemas_own_are_left_alone(run: Run) -> None:
    schema = '{"properties": {"response_format": {"type": 1}}}'
    assert 'at "/properties/response_format/type"' in run("schema", "-s", schema).complaint


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
SILENCE = Reply([EVER], status=None)
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
    "a name of ours": (ASKING, [api_error(400, "no base_url in tools")], ["no base_url in tools"], ""),
    "no text": (ASKING, [Reply(b"", 404)], ["404", "dottxt models", "/v1"], ""),
    "a long page": (ASKING, [Reply(b"<html>" + b"x" * 5000, 502)], ["DOTTXT_BASE_URL"], ""),
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
        assert select.select([screen], [], [], 60)[0], f"nothing follows {shown!r}"
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
    gateway.reply(patches(*TICKET_OPS, EVER))
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


@pytest.mark.skipif(os.name == "nt", reason="cannot wait for a pipe")
def test_a_pipe_has_each_line_at_once_and_may_be_closed_early(
    settings: None, monkeypatch: MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    seen = threading.Event()
    gateway.reply(patches(op("", {}), seen, *TICKET_OPS[1:], EVER))
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
    gateway.reply(patches(*TICKET_OPS, EVER))
    screen, slave = terminal
    with start(sys.executable, "-m", "dottxt", "stream", *HI, stdout=slave) as process:
        os.close(slave)
        assert read_lines(screen, 3) == FIELDS["nested"][1]
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (130, b"")
    gateway.wait_for(lambda: gateway.open == 0)


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_descriptors_that_a_shell_has_closed_are_no_traceback(settings: None, gateway: Gateway) -> None:
    command = f"{sys.executable} -m dottxt generate -s '{ANY[1]}'"
    with start("sh", "-c", f"{command} Hi >&- || {command} <&- 2>&-") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, gateway.requests) == (1, b"", [])
    assert re.fullmatch(rb"dottxt: [^\n]*\n", err)
