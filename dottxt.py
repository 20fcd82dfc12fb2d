"""dottxt: structured generation with the .txt API and with any OpenAI-compatible engine.

A prompt and an output type go in, data of that shape comes out, whole or field by field:

    from dottxt import DotTxt

    client = DotTxt()  # reads DOTTXT_API_KEY and DOTTXT_BASE_URL
    question = {"model": "openai/gpt-oss-20b", "input": "I was charged twice.", "response_format": Ticket}
    ticket = client.generate(**question)
    for event in client.stream(**question):
        print(event.field, event.value)

One file on the OpenAI SDK and Pydantic: install it, or copy it into a project under any name.
Copyright (c) 2026 The dottxt developers. License: MIT (https://opensource.org/license/mit).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import io
import json
import marshal
import os
import pkgutil
import re
import sys
import time
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, overload

import openai
import pydantic
import typing_extensions
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from pydantic_core import PydanticCustomError, from_json

__version__ = "1.0.0"

__all__ = [
    "AsyncDotTxt",
    "AsyncPatchStream",
    "DotTxt",
    "InvalidOutputError",
    "InvalidSchemaError",
    "PatchEvent",
    "PatchStream",
    "PatchStreamError",
    "apply_add",
    "build_response_format",
    "normalize_schema",
]

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
Typed = type[ModelT] | pydantic.TypeAdapter[T]  # the output types that type checkers can follow
Messages = str | list[Any]  # one user message, or OpenAI-style message dicts
Fields = Mapping[str, Any]  # more fields of a request's body
Op = dict[str, Any]  # one JSON Patch operation (RFC 6902 §4)

# --- Errors -------------------------------------------------------------------------------------------------

# What to do about an HTTP status.
_HINTS = {
    401: ": set api_key= or DOTTXT_API_KEY to a valid key",
    404: ": client.models.list(), or `dottxt models`, lists the models",
}
_WEB_PAGE = ("<!doc", "<html")


class InvalidSchemaError(openai.OpenAIError, ValueError):
    """`response_format` cannot be used as an output type. Raised before anything is sent."""


class InvalidOutputError(openai.OpenAIError, ValueError):
    """The model's output cannot be turned into the requested structure.

    Attributes:
        model: The model that was asked.
        raw_output: All the text that the model sent, `""` if it sent none.
        finish_reason: The completion's finish reason, `None` if the server named none.
        original_error: The `json.JSONDecodeError` or `pydantic.ValidationError` behind it.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        model: str = "",
        raw_output: str = "",
        finish_reason: str | None = None,
        original_error: json.JSONDecodeError | pydantic.ValidationError | None = None,
    ) -> None:
        if message is None:
            reason = original_error or f"finish reason {finish_reason}, {_shorten(raw_output)!r}"
            message = f"{model or 'the model'} did not return valid output: {reason}"
        super().__init__(message)
        self.model = model
        self.raw_output = raw_output
        self.finish_reason = finish_reason
        self.original_error = original_error

    # `pickle` and `copy` rebuild an exception from its message and its state. A ValidationError travels as
    # plain data: one that holds a validator's own exception could not be rebuilt.
    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(error := self.original_error, pydantic.ValidationError):
            state["original_error"] = error.title, error.errors(include_url=False, include_context=False)
        return type(self), self.args, state

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        if isinstance(state["original_error"], tuple):
            title, items = state["original_error"]
            for item in items:
                item["type"] = PydanticCustomError(item["type"], "{text}", {"text": item["msg"]})
            self.original_error = pydantic.ValidationError.from_exception_data(title, items)


class PatchStreamError(openai.OpenAIError, RuntimeError):
    """A stream's response has a status other than 200, reports an error or breaks the protocol.

    Attributes:
        status_code: The HTTP status of the response.
        body: The text of the response, the record at fault, or the JSON text of the document so far where a
            stream ended without its end mark.
    """

    def __init__(self, message: str | None = None, *, status_code: int = 200, body: str = "") -> None:
        if message is None:
            what = "the stream failed" if status_code == 200 else f"the response has status {status_code}"
            said, text = _error_message(body), _shorten(" ".join(body.split()))
            message = f"{said} ({what})" if said else f"{what}: {text or 'no body'}"
            message += _HINTS.get(status_code, "")
        super().__init__(message)
        self.status_code = status_code
        self.body = body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _loads(text: str) -> Any:
    """Decode JSON text (RFC 8259); whatever is wrong with it is a `json.JSONDecodeError`."""
    with contextlib.suppress(ValueError, TypeError):
        return from_json(text, allow_inf_nan=False)
    try:  # the standard library decides: it also takes lone surrogates, and nests deeper
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # NaN, or more digits than Python converts
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise json.JSONDecodeError(what, text, 0) from None


def _error_message(body: str) -> str:
    """Return what a server says in the JSON text of an error, `""` where it says nothing."""
    try:
        said = _loads(body)
    except json.JSONDecodeError:
        return ""
    for key in ("error", "message", "detail"):  # {"error": {"message": "..."}} and its variants
        if isinstance(said, dict):
            said = said.get(key) or said
    return said if isinstance(said, str) else ""


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _show(value: object) -> str:
    """Return a value's `repr`, shortened and without addresses in memory."""
    return _shorten(re.sub(r" (object )?at 0x[0-9A-Fa-f]+", "", repr(value)))


def _redact(text: str, key: str) -> str:
    """Replace the API key, which a server may echo. A short one is a dummy and may be any word."""
    return text.replace(key, "[API key]") if len(key) >= 8 else text


# --- Schemas: any output type in, JSON Schema object out ----------------------------------------------------

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def normalize_schema(response_format: object) -> dict[str, Any]:
    """Return the JSON Schema object for an output type, as a dict of its own.

    Args:
        response_format: A type (`BaseModel` subclass, `TypedDict`, dataclass, `Enum`, `Literal`, union,
            `list[T]`, …), a `pydantic.TypeAdapter`, a JSON Schema object as a dict or as JSON text, or an
            instance with `to_json()`.

    Raises:
        InvalidSchemaError: It is none of these, or a JSON Schema object that the meta-schema of draft 2020-12
            rejects (core §8 to §11, validation §6 to §9); the message names the place as a JSON Pointer.
    """
    return json.loads(json.dumps(_schema(response_format)))  # type: ignore[no-any-return]


def build_response_format(response_format: object, *, name: str = "response") -> dict[str, Any]:
    """Return the `response_format` of a chat completion: `normalize_schema`'s schema with a name."""
    schema = normalize_schema(response_format)
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def _schema(given: Any) -> dict[str, Any]:
    """Return the schema itself. Do not change it: a cache may own it."""
    if isinstance(given, str):
        return _schema_from_text(given)
    if isinstance(given, dict):
        with contextlib.suppress(ValueError):  # it is not plain data, or not a schema
            return _schema_from_dict(marshal.dumps(given))
        return _schema_from_text(_dumps(given))
    if isinstance(given, pydantic.TypeAdapter) or _is_class(given):
        return _describe(given)
    name = type(given).__name__
    if given is None or isinstance(given, (list, tuple, set, frozenset)):
        raise InvalidSchemaError(f"response_format is {_show(given)}: pass list[T] or a JSON Schema object")
    if isinstance(given, pydantic.BaseModel):
        raise InvalidSchemaError(f"response_format is an instance of {name}: pass the class itself")
    if isinstance(given, os.PathLike):
        raise InvalidSchemaError("response_format is a path: pass its read_text()")
    if inspect.isroutine(given):
        raise InvalidSchemaError("response_format is a function: pass a type or a JSON Schema object")
    if typing.get_origin(given) is not None or not callable(getattr(given, "to_json", None)):
        return _describe.__wrapped__(given)  # not from the cache, where `int | str` is equal to `str | int`
    try:
        text = given.to_json()
    except Exception as error:
        raise InvalidSchemaError(f"{name}.to_json() failed: {type(error).__name__}: {error}") from error
    if not isinstance(text, str):
        raise InvalidSchemaError(f"{name}.to_json() returned {type(text).__name__}: it must return a str")
    return _schema_from_text(text, f"the result of {name}.to_json()")


def _is_class(given: object) -> bool:
    # On Python 3.10 `list[int]` passes for a class, hence the look at its origin.
    return isinstance(given, type) and typing.get_origin(given) is None


@functools.lru_cache(maxsize=1024)
def _describe(given: Any) -> dict[str, Any]:
    """Ask Pydantic for the schema of a type."""
    try:
        if isinstance(given, pydantic.TypeAdapter):
            schema = given.json_schema()
        else:
            # Pydantic resolves names (`list["Ticket"]`) in the frame of our caller, not in this module's.
            depth, frame = 2, sys._getframe()
            while frame.f_back is not None and frame.f_globals is globals():
                depth, frame = depth + 1, frame.f_back
            schema = pydantic.TypeAdapter(given, _parent_depth=depth).json_schema()
    except Exception as error:
        hint = "pass the class itself, a TypeAdapter made where its names are known, or a JSON Schema object"
        raise InvalidSchemaError(f"response_format {_show(given)} has no schema: {error}; {hint}") from error
    _dumps(schema, f"the schema of {_show(given)}")
    return schema


def _dumps(schema: dict[str, Any], source: str = "response_format") -> str:
    """Return the text of a schema that can be sent."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()  # fails for lone surrogates
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSchemaError(f"{source} contains a value JSON cannot represent: {error}") from error
    return text


@functools.lru_cache(maxsize=256)
def _schema_from_dict(data: bytes) -> dict[str, Any]:
    # Marshalled data are a cache's key in an eighth of the time that JSON text takes.
    return _schema_from_text(_dumps(marshal.loads(data)))


@functools.lru_cache(maxsize=256)
def _schema_from_text(text: str, source: str = "response_format") -> dict[str, Any]:
    """Read and check the text of a JSON Schema object."""
    try:
        schema = _loads(text)
    except json.JSONDecodeError as error:
        hint = "pass a JSON Schema object as text (of a file, pass its read_text()) or as a dict"
        raise InvalidSchemaError(f"{source} is not JSON ({error}): {hint}") from error
    if not isinstance(schema, dict):
        hint = 'pass a JSON Schema object, such as {"type": "string"}'
        raise InvalidSchemaError(f"{source} is not a JSON object: {_shorten(text)}; {hint}")
    if schema.get("type") == "json_schema" or ("name" in schema and isinstance(schema.get("schema"), dict)):
        raise InvalidSchemaError("response_format is the envelope of a request: pass the inner schema")
    _dumps(schema, source)  # escapes in the text may stand for lone surrogates
    draft = schema.get("$schema", _DRAFT)
    other_draft = isinstance(draft, str) and draft.rstrip("#") != _DRAFT
    if other_draft or schema.get("type") == "structural-tag":
        return schema
    try:
        _meta_schema().validate_python(schema)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{_escape(str(part))}" for part in first["loc"])
        what = "it nests too deep" if first["type"].startswith("recursion") else first["msg"]
        place = f'response_format is not a valid JSON Schema (draft 2020-12) at "{pointer}"'
        raise InvalidSchemaError(f"{place}: {what}") from error.with_traceback(None)
    return schema


@functools.cache
def _meta_schema() -> pydantic.TypeAdapter[Any]:
    """Return the meta-schema of draft 2020-12: a table of keywords and their types."""

    def unique(items: list[Any]) -> list[Any]:
        if len(set(items)) < len(items):
            raise PydanticCustomError("unique_items", "Items should be unique")
        return items

    def when(kind: type, wanted: Any) -> Any:
        """Let `wanted` validate the instances of `kind`, and the annotated type everything else."""
        judge = pydantic.TypeAdapter(wanted, config=pydantic.ConfigDict(strict=True)).validate_python
        return pydantic.WrapValidator(lambda it, other: (judge if isinstance(it, kind) else other)(it))

    anchor = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z_][-A-Za-z0-9._]*$")]
    # An integer may lie beyond floats: its sign tells enough. 2.0 is an integer (core §4.2.3).
    sign = pydantic.BeforeValidator(lambda it: (it > 0) - (it < 0) if type(it) is int else it)
    whole = pydantic.BeforeValidator(lambda it: int(it) if type(it) is float and it % 1 == 0 else it)
    number, count = Annotated[float, sign], Annotated[int, pydantic.Field(ge=0), whole]
    texts = Annotated[list[str], pydantic.AfterValidator(unique)]
    name = Literal["array", "boolean", "integer", "null", "number", "object", "string"]
    names = Annotated[list[name], pydantic.Field(min_length=1), pydantic.AfterValidator(unique)]
    schema: Any = Annotated["Keywords", when(bool, bool)]

    table: list[tuple[str, Any]] = [
        ("$schema $ref $dynamicRef $comment $recursiveRef pattern", str),  # core §8, validation §6
        ("format contentEncoding contentMediaType title description", str),  # validation §7 to §9
        ("$id", Annotated[str, pydantic.Field(pattern="^[^#]*#?$")]),
        ("$anchor $dynamicAnchor $recursiveAnchor", anchor),
        ("$vocabulary", dict[str, bool]),
        ("uniqueItems deprecated readOnly writeOnly", bool),
        ("allOf anyOf oneOf prefixItems", Annotated[list[schema], pydantic.Field(min_length=1)]),  # core §10
        ("not if then else items contains additionalProperties propertyNames", schema),
        ("unevaluatedItems unevaluatedProperties contentSchema", schema),  # core §11, validation §8
        ("$defs definitions properties patternProperties dependentSchemas", dict[str, schema]),
        ("type", Annotated[name, when(list, names)]),
        ("enum examples", list[Any]),
        ("multipleOf", Annotated[number, pydantic.Field(gt=0)]),
        ("maximum exclusiveMaximum minimum exclusiveMinimum", number),
        ("maxLength minLength maxItems minItems maxContains minContains maxProperties minProperties", count),
        ("required", texts),
        ("dependentRequired", dict[str, texts]),
        ("dependencies", dict[str, Annotated[schema, when(list, texts)]]),  # kept from earlier drafts
    ]
    types_of = {keyword: kind for keywords, kind in table for keyword in keywords.split()}
    Keywords = typing_extensions.TypedDict("Keywords", types_of, total=False)  # type: ignore[misc]
    Keywords.__pydantic_config__ = pydantic.ConfigDict(strict=True)  # type: ignore[attr-defined]
    return pydantic.TypeAdapter(Keywords)


# `import dottxt.schemas` works although there is one file, under whatever name it was copied.
schemas = types.ModuleType(f"{__name__}.schemas", "The schema helpers of the module above.")
schemas.__all__ = ["InvalidSchemaError", "build_response_format", "normalize_schema"]  # type: ignore[attr-defined]
schemas.__dict__.update((name, globals()[name]) for name in schemas.__all__)
sys.modules[schemas.__name__] = schemas

# --- Patches: RFC 6902 `add`, RFC 6901 pointers, and the document that folds them ---------------------------

_MAX_DEPTH = 200  # far beyond any schema, and far below Python's recursion limit
_CONTAINERS = (dict, list)
_INDEX = re.compile("0|[1-9][0-9]{0,18}")  # RFC 6901 §4: array-index
_BAD_ESCAPE = re.compile("~(?![01])")  # RFC 6901 §3: escaped


def _copy(value: Any, depth: int = 0) -> Any:
    """Return a deep copy of a JSON value that stands `depth` levels deep in its document."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nests deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        items = value.items()
        return {key: _copy(each, depth + 1) if isinstance(each, _CONTAINERS) else each for key, each in items}
    if isinstance(value, list):
        return [_copy(each, depth + 1) if isinstance(each, _CONTAINERS) else each for each in value]
    return value


def _to_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescape(token: str) -> str:
    if _BAD_ESCAPE.search(token):
        raise ValueError("has a ~ that is neither ~0 nor ~1")
    return token.replace("~1", "/").replace("~0", "~")


def _index(token: str, last: int) -> int:
    if not _INDEX.fullmatch(token) or int(token) > last:
        raise ValueError("has an array index that is malformed or out of range")
    return int(token)


class _Document:
    """A JSON document under construction, and the operations that built it."""

    def __init__(self, root: Any = None) -> None:
        self.root = root
        self.paths: list[str] = []  # of the operations folded so far
        self.values: list[Any] = []  # their values, copied
        # Pointer and container of each step to where the last operation went: the next usually goes there.
        self._opened: list[tuple[str, Any]] = []

    def add(self, path: str, value: Any) -> None:
        """Apply one `add`; a `ValueError` leaves the document as it was."""
        pointer, _, token = path.rpartition("/")
        opened = self._opened
        try:
            if path and path[0] != "/":
                raise ValueError("does not start with /")
            is_container = isinstance(value, _CONTAINERS)
            if is_container:
                value = _copy(value, path.count("/"))
            if not path:
                self.root = value
                opened.clear()
                return
            while opened and opened[-1][0] != pointer:
                opened.pop()
            if not opened:
                opened.append((pointer, self._resolve(pointer)))
            parent = opened[-1][1]
            if isinstance(parent, dict):
                parent[_unescape(token) if "~" in token else token] = value
            elif not isinstance(parent, list):
                raise ValueError("has no parent in the document that is an object or an array")
            elif token in ("-", str(len(parent))):  # RFC 6902 §4.1: - is the place after the last element
                parent.append(value)
            else:
                parent.insert(_index(token, len(parent)), value)
        except ValueError as error:
            opened.clear()
            raise ValueError(f"JSON Pointer {_shorten(path)!r} {error}") from error
        if is_container and token != "-":
            opened.append((path, value))

    def _resolve(self, pointer: str) -> Any:
        """Return the value that a JSON Pointer refers to (RFC 6901 §4)."""
        value = self.root
        for token in pointer.split("/")[1:]:
            if isinstance(value, dict) and (key := _unescape(token)) in value:
                value = value[key]
            elif isinstance(value, list):
                value = value[_index(token, len(value) - 1)]
            else:
                raise ValueError("has no parent in the document")
        return value

    def fold(self, op: Op) -> PatchEvent:
        """Apply a received operation and return its event."""
        path, value = op["path"], op["value"]
        # The caller may change `op`, and the document changes what it holds: keep a third copy.
        self.paths.append(path)
        self.values.append(_copy(value) if isinstance(value, _CONTAINERS) else value)
        self.add(path, value)
        event = PatchEvent.__new__(PatchEvent)
        event._op, event._document, event._count = op, self, len(self.paths)
        return event

    def at(self, count: int) -> Any:
        """Return a copy of the document as it was after the first `count` operations."""
        try:
            # Takes a third of `_copy`'s time, and no other thread can add to the document meanwhile.
            root = marshal.loads(marshal.dumps(self.root))
        except ValueError:  # an event made by hand may hold more than JSON
            root = _copy(self.root)
        if count == len(self.paths):
            return root
        earlier = _Document()
        for path, value in zip(self.paths[:count], self.values, strict=False):
            earlier.add(path, value)
        return earlier.root


class PatchEvent:
    """One operation of a stream, and the document as it was then. A value: it compares by both.

    Args:
        op: The operation (RFC 6902 §4.1), `{"op": "add", "path": …, "value": …}`.
        snapshot: The document up to and including it.
    """

    __slots__ = ("_count", "_document", "_op")
    __match_args__ = ("field", "value")

    def __init__(self, *, op: Op, snapshot: Any) -> None:
        self._op, self._document, self._count = op, _Document(_copy(snapshot)), 0

    @property
    def op(self) -> Op:
        """The operation as received."""
        return self._op

    @property
    def field(self) -> str:
        """The JSON Pointer without its leading `/`: `"intent"`, `"steps/0"`, `""` for the root."""
        return self._op["path"][1:]  # type: ignore[no-any-return]

    @property
    def value(self) -> Any:
        """The operation's value; `{}` and `[]` where a container opens."""
        return self._op["value"]

    @property
    def snapshot(self) -> Any:
        """The document up to and including this operation: a deep copy, made each time it is asked for."""
        return self._document.at(self._count)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PatchEvent):
            return NotImplemented
        return self._op == other._op and bool(self.snapshot == other.snapshot)

    def __repr__(self) -> str:
        return f"PatchEvent(field={self.field!r}, value={self.value!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(PatchEvent, op=_copy(self._op), snapshot=self.snapshot), ()


def apply_add(doc: Any, path: str, value: Any) -> Any:
    """Apply one JSON Patch `add` (RFC 6902 §4.1) to `doc` in place and return the root, which `""` replaces.

    >>> apply_add({"steps": ["verify"]}, "/steps/-", "refund")
    {'steps': ['verify', 'refund']}

    Args:
        doc: The document: what `json.loads` returns.
        path: A JSON Pointer (RFC 6901).
        value: What to add. A container is copied in.

    Raises:
        ValueError: The pointer is malformed or refers to no place in `doc`, which stays as it was.
    """
    document = _Document(doc)
    document.add(path, value)
    return document.root


# --- Parsers: framings (bytes in, records out), a reader (records in, events out), JSON text ----------------


class _Lines:
    """NDJSON: a line ends at `\\n` and nowhere else, and is a record without an event type."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line that has not ended
        self._is_object: bool | None = None  # one JSON object broken over lines: its first line tells

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        self._pieces.append(data)
        if b"\n" not in data or self._is_object:
            return []
        *lines, rest = b"".join(self._pieces).split(b"\n")
        records = [("", line) for line in lines if line.strip()]
        if records and self._is_object is None:
            self._is_object = records[0][1].strip() == b"{"
            if self._is_object:
                return []
        self._pieces = [rest]
        return records

    def close(self) -> list[tuple[str, bytes]]:
        return [("", b"".join(self._pieces))]


class _ServerSentEvents:
    """Server-sent events (HTML standard §9.2.5 and §9.2.6)."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the event that has not ended
        self._last, self._after_cr = b"", False  # the last byte of these; whether it was a \r

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        if self._after_cr:  # the \n of a \r\n whose \r has ended a line already
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._pieces.append(data)
        is_over = b"\n\n" in data or (self._last == b"\n" and data.startswith(b"\n"))
        self._last = data[-1:] or self._last
        if not is_over:
            return []
        *events, rest = b"".join(self._pieces).split(b"\n\n")
        self._pieces = [rest]
        return self._read(events)

    def close(self) -> list[tuple[str, bytes]]:
        return self._read([b"".join(self._pieces)])  # the last event needs no blank line

    def _read(self, events: list[bytes]) -> list[tuple[str, bytes]]:
        records = []
        for event in events:
            if event.startswith(b"event: patch\ndata: ") and event.find(b"\n", 19) < 0:  # the common one
                records.append(("patch", event[19:]))
                continue
            kind, data = "", []
            for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
                field, _, value = line.partition(b":")
                if field == b"data":
                    data.append(value.removeprefix(b" "))
                elif field == b"event":
                    kind = value.removeprefix(b" ").decode(errors="replace")
            if data:
                records.append((kind, b"\n".join(data)))
        return records


class _Reader:
    """Read the records of a stream, whatever framing they come in."""

    def __init__(self, media_type: str = "", key: str = "") -> None:
        self.is_sse = media_type.lower().startswith("text/event-stream")
        self.document = _Document()
        self.text: _Text | None = None  # of a token stream or a whole completion
        self.has_choice = False  # one of these was read, with or without text
        self.ended = False  # an end mark was read
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.refusal = ""
        self._framing = _ServerSentEvents() if self.is_sse else _Lines()
        self._record = b""  # the one that was read last
        self._key = key

    def feed(self, data: bytes) -> Iterator[PatchEvent]:
        """Yield the events of the records that `data` completes. A bad record raises `PatchStreamError`."""
        return self._read(self._framing.feed(data))

    def close(self) -> Iterator[PatchEvent]:
        """Yield the events that the end completes; JSON text that stops short raises `JSONDecodeError`."""
        yield from self._read(self._framing.close())
        if self.text is not None:
            # Something must say that a number is over: 12 may be the start of 123.
            is_over = self.finish_reason == "stop" or (self.ended and not self.finish_reason)
            yield from map(self._fold, self.text.close(is_over))

    def _read(self, records: list[tuple[str, bytes]]) -> Iterator[PatchEvent]:
        for kind, data in records:
            if self.ended:
                return
            self._record = data
            try:
                record = from_json(data, allow_inf_nan=False)
            except ValueError:
                record = None
            if kind in ("", "patch") and isinstance(record, dict) and record.get("op") == "add":
                yield self._fold(record)
            else:
                yield from map(self._fold, self._read_other(kind, record))

    def _fold(self, op: Op) -> PatchEvent:
        if len(op) > 3:
            self._note(op)
        try:
            return self.document.fold(op)
        except ValueError as error:
            self._fail(f"cannot be applied, as its path {error.__cause__ or error}")
        except (KeyError, AttributeError):
            self._fail("cannot be applied, as its path or value is missing")

    def _read_other(self, kind: str, record: Any) -> Iterator[Op]:
        """Yield the operations of a record that is not just one of them."""
        data = self._record.strip()
        self.ended = data == b"[DONE]"
        if self.ended or not data or kind not in ("", "message", "patch", "error", "done"):
            return
        if record is None:
            with contextlib.suppress(ValueError):  # not UTF-8, or not JSON
                record = _loads(data.decode())
        self._note(record)
        match record:
            case _ if kind == "error":
                self._fail()
            case {"error": error} if error:
                self._fail()
            case {"op": "add"}:
                yield record
            case {"choices": list() | None as choices}:
                for choice in choices or ():
                    yield from self._read_choice(choice)
            case {"usage": _} | {"error": None}:
                pass
            case _ if kind != "done":
                self._fail("is not a valid operation")
        if kind == "done":
            self.ended = record is not None  # an end mark may be cut short itself

    def _read_choice(self, choice: Any) -> Iterator[Op]:
        if not isinstance(choice, dict):
            self._fail("is not a chat completion")
        if choice.get("index", 0) != 0:
            return
        self._note(choice)
        part = choice.get("message") or choice.get("delta") or {}
        content = isinstance(part, dict) and (part.get("content") or "")
        refusal = isinstance(part, dict) and (part.get("refusal") or "")
        if not isinstance(content, str) or not isinstance(refusal, str):
            self._fail("is not a chat completion")
        self.refusal += refusal
        self.has_choice = True
        self.ended = choice.get("message") is not None
        if content or self.ended:
            self.text = self.text or _Text()
            yield from self.text.feed(content)

    def _note(self, record: Any) -> None:
        """Keep the finish reason and the usage that a record reports."""
        if isinstance(record, dict):
            reason, usage = record.get("finish_reason"), record.get("usage")
            self.finish_reason = reason if reason and isinstance(reason, str) else self.finish_reason
            self.usage = usage if isinstance(usage, dict) else self.usage

    def _fail(self, what: str | None = None) -> NoReturn:
        """Raise for the record that was read last. Without `what` it is an error that the server reports."""
        record = _redact(self._record.decode(errors="replace"), self._key)
        if record.lstrip()[:5].lower() in _WEB_PAGE:
            what = "is a web page: base_url is probably wrong"
        message = what and f"the stream has a record that {what}: {_shorten(record)}"
        raise PatchStreamError(message, body=record)


class _Text:
    """Read JSON text (RFC 8259) as it arrives, cut anywhere, and make the operations that build its value.

    A recursive-descent parser whose methods are generators: they yield an operation when it is certain, and
    `None` where they need more text. A container is certain when it opens, a string when it closes, all else
    when something follows it.
    """

    _spaces = ("", " ", "\t", "\n", "\r")
    _chars = re.compile(r'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*')  # RFC 8259 §7
    _word_chars = re.compile(r"[-+.0-9A-Za-z]*")
    _word = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[Ee][-+]?[0-9]+)?")  # §3, §6
    _cut = re.compile(r"(?:\\(?:u[0-9A-Fa-f]{0,3})?)?")  # nothing, or an escape that is not all there

    def __init__(self) -> None:
        self.pieces: list[str] = []  # all that was fed
        self._length = 0  # of these
        self._text, self._pos = "", 0  # what is being read, and how far that is
        self._ended = self._is_over = False  # there is no more text, and its end ends a number
        self._error: json.JSONDecodeError | None = None
        self._ops = self._read_document()

    def feed(self, text: str) -> Iterator[Op]:
        """Yield the operations that `text` completes. Once text was not JSON, the rest is only kept."""
        self.pieces.append(text)
        self._length += len(text)
        if self._error is not None:
            return
        self._text, self._pos = self._text[self._pos :] + text, 0
        try:
            for op in self._ops:
                if op is None:
                    return
                yield op
        except json.JSONDecodeError as error:
            self._error = error

    def close(self, is_over: bool) -> Iterator[Op]:
        """Yield the operation of a root number that `is_over`; bad text raises `JSONDecodeError`."""
        self._ended, self._is_over = True, is_over
        yield from self.feed("")
        if self._error is not None:
            raise json.JSONDecodeError(self._error.msg, "".join(self.pieces), self._error.pos)

    def _read_document(self) -> Generator[Op | None, None, None]:
        yield from self._read_value("", 0)
        if (yield from self._peek()):
            self._fail("Extra data")

    def _read_value(self, path: str, depth: int) -> Generator[Op | None, None, None]:
        char = yield from self._peek()
        if char in ("{", "["):
            if depth == _MAX_DEPTH:
                self._fail(f"Nested deeper than {_MAX_DEPTH} levels")
            yield {"op": "add", "path": path, "value": {} if char == "{" else []}
            yield from self._read_members(path, depth + 1, "}" if char == "{" else "]")
            return
        value = yield from self._read_string() if char == '"' else self._read_word()
        yield {"op": "add", "path": path, "value": value}

    def _read_members(self, path: str, depth: int, close: str) -> Generator[Op | None, None, None]:
        index, char = 0, ","
        self._pos += 1
        if (yield from self._peek()) == close:
            self._pos += 1
            return
        while char != close:
            key = str(index)
            if close == "}":
                if (yield from self._peek()) != '"':
                    self._fail("Expecting property name enclosed in double quotes")
                key = _escape((yield from self._read_string()))
                if (yield from self._peek()) != ":":
                    self._fail("Expecting ':' delimiter")
                self._pos += 1
            yield from self._read_value(f"{path}/{key}", depth)
            char = yield from self._peek()
            if char not in (",", close):
                self._fail(f"Expecting ',' or '{close}'")
            self._pos += 1
            index += 1

    def _read_string(self) -> Generator[None, None, str]:
        self._pos += 1
        text = yield from self._take(self._chars)
        if not self._text.startswith('"', self._pos):
            self._fail("Unterminated string, or an invalid escape or control character in it")
        self._pos += 1
        return _loads(f'"{text}"') if "\\" in text else text

    def _read_word(self) -> Generator[None, None, Any]:
        """Read a number or a literal."""
        word = yield from self._take(self._word_chars)
        if not self._word.fullmatch(word):
            self._fail("Expecting value", len(word))
        if self._pos == len(self._text) and word[-1].isdigit() and not self._is_over:
            self._fail("Unterminated number")
        return _loads(word)

    def _peek(self) -> Generator[None, None, str]:
        """Return the next character that is not white space, `""` at the end of the text."""
        while (char := self._text[self._pos : self._pos + 1]) in self._spaces and (char or not self._ended):
            if not char:
                yield None
            self._pos += len(char)
        return char

    def _take(self, pattern: re.Pattern[str]) -> Generator[None, None, str]:
        """Return all that a pattern matches from here on."""
        pieces = []
        while True:
            match = pattern.match(self._text, self._pos)
            pieces.append(match.group())  # type: ignore[union-attr]
            self._pos += len(pieces[-1])
            if self._ended or not self._cut.fullmatch(self._text, self._pos):
                return "".join(pieces)
            yield None

    def _fail(self, message: str, back: int = 0) -> NoReturn:
        raise json.JSONDecodeError(message, "", self._length - len(self._text) + self._pos - back)


# --- Clients: what both share, then streams, then the two ---------------------------------------------------

_SAMPLING = ("temperature", "max_tokens", "seed")
_BASE_URL = "https://api.dottxt.ai/v1"
_ANYTHING = pydantic.TypeAdapter(Any)
_NOT_GIVEN = (type(None), openai.NotGiven, openai._types.Omit)
# For streams: server-sent events have an end mark, and compressing proxies hold events back.
_HEADERS = {"accept": "text/event-stream", "accept-encoding": "identity"}


def _checked_key(api_key: Any) -> Any:
    """Return the key to send, or the SDK's callable that gives it."""
    if callable(api_key):
        return api_key
    key = (os.environ.get("DOTTXT_API_KEY", "") if api_key is None else api_key).strip()
    if not key:
        raise ValueError("no API key: pass DotTxt(api_key=...) or set DOTTXT_API_KEY in the environment")
    if not (key.isascii() and key.isprintable()):
        raise ValueError("the API key contains characters that an HTTP header cannot carry")
    return key


class _Gateway:
    """Sets an SDK client up for the .txt gateway: a mixin that stands before the SDK's class."""

    def __init__(self, *, api_key: Any = None, base_url: Any = None, **client_kwargs: Any) -> None:
        url = str(base_url or "").strip() or os.environ.get("DOTTXT_BASE_URL", "").strip() or _BASE_URL
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://: {_show(url)} does not")
        super().__init__(api_key=_checked_key(api_key), base_url=url.rstrip("/"), **client_kwargs)  # type: ignore[call-arg]
        # The SDK has filled these from OpenAI's own environment variables; only what the caller gave stays.
        for name in ("organization", "project", "admin_api_key", "webhook_secret"):
            setattr(self, name, client_kwargs.get(name))
        self._custom_headers: Mapping[str, str] = dict(client_kwargs.get("default_headers") or {})
        self._token_models: set[tuple[str, str]] = set()  # (base URL, model) of engines without patch mode

    if not typing.TYPE_CHECKING:  # checkers keep the SDK's signatures

        def copy(self, **options: Any) -> Any:
            """Like the SDK's `copy`, but a blank key is a `ValueError`."""
            if options.get("api_key") is not None:  # the SDK would ignore a blank one
                options["api_key"] = _checked_key(options["api_key"])
            client = super().copy(**options)
            client._token_models = self._token_models
            return client

        with_options = copy


def _request(model: Any, input: Any, response_format: object, **options: Any) -> dict[str, Any]:
    """Return the keyword arguments of `chat.completions.create`."""
    if options.get("stream"):
        raise TypeError("stream= is not an argument here: use client.stream(...)")
    if "messages" in options:
        raise TypeError("messages= is not an argument here: use input=, a str or a list of message dicts")
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__}")
    if not isinstance(input, (str, list)):
        raise TypeError(f"input must be a str or a list of message dicts, not {type(input).__name__}")
    messages = [{"role": "user", "content": input}] if isinstance(input, str) else input
    try:
        schema = {"name": "response", "schema": _schema(response_format)}
    except InvalidSchemaError as error:  # a user's traceback shows as little of this module as possible
        raise error.with_traceback(None) from error.__cause__
    options = {name: value for name, value in options.items() if value is not None or name not in _SAMPLING}
    wrapped = {"type": "json_schema", "json_schema": schema}
    return {"model": model, "messages": messages, "response_format": wrapped, **options}


def _add_hint(error: openai.APIStatusError) -> None:
    if error.status_code in _HINTS and sys.version_info >= (3, 11):
        error.add_note(_HINTS[error.status_code].removeprefix(": "))


class _Output(typing.NamedTuple):
    """What a model sent, and the type that was asked for."""

    model: str
    response_format: Any
    text: str
    finish_reason: str | None = None
    refusal: str | None = None

    @classmethod
    def of(cls, model: str, response_format: object, completion: Any) -> _Output:
        """Return what a completion contains. The SDK does not check it: it may be a proxy's HTML page."""
        choices = getattr(completion, "choices", None)
        if not isinstance(choices, list) or not choices:
            text = completion if isinstance(completion, str) else ""
            said = _error_message(_to_text({"error": getattr(completion, "error", None)}))
            error = json.JSONDecodeError(said or "Expecting a chat completion with choices", text, 0)
            raise cls(model, response_format, text).invalid(error)
        message = getattr(choices[0], "message", None)
        content, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
        text = content if isinstance(content, str) else ""
        return cls(model, response_format, text, getattr(choices[0], "finish_reason", None) or None, refusal)

    def value(self, *, delimits_itself: bool = True) -> Any:
        """Return the value of the requested type. JSON text delimits itself unless a number ends it."""
        text, wanted = self.text, self.response_format
        validate: Callable[[str], Any] = _loads
        if isinstance(wanted, pydantic.TypeAdapter):
            validate = wanted.validate_json
        elif _is_class(wanted) and issubclass(wanted, pydantic.BaseModel):
            validate = wanted.model_validate_json
        try:
            if self.finish_reason not in ("stop", None) and (text[-1:].isdigit() or not delimits_itself):
                raise json.JSONDecodeError("The output stops short", text, len(text))
            if "NaN" in text or "Infinity" in text:  # outside of strings Pydantic takes them, JSON does not
                _loads(text)
            return validate(text)
        except (json.JSONDecodeError, pydantic.ValidationError) as error:
            # Without its traceback, so that the user's shows as little of this module as possible.
            raise self.invalid(error) from error.with_traceback(None)

    def invalid(self, error: ValueError) -> InvalidOutputError:
        """Return the error for output that is not of the requested type, with what to do about it."""
        text, start = self.text, self.text.lstrip()
        if not isinstance(error, (json.JSONDecodeError, pydantic.ValidationError)):
            error = json.JSONDecodeError(str(error), text, 0)
        fault: json.JSONDecodeError | pydantic.ValidationError = error
        try:
            _loads(text)
        except json.JSONDecodeError as not_json:
            fault = not_json if text or isinstance(error, pydantic.ValidationError) else error
        if start[:5].lower() in _WEB_PAGE:
            reason = "the response is a web page: base_url is probably wrong"
        elif self.refusal:
            reason = f"the model refused: {self.refusal!r}"
        elif isinstance(fault, pydantic.ValidationError):
            first = fault.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the root"
            reason = f"{first['msg']} (at {place}: {_show(first['input'])})"
        else:
            reason = str(fault) if text else f"it sent no content ({fault.msg})"
            if text and fault.msg.startswith("Expecting") and fault.pos <= len(text) - len(start):
                reason += "; the engine may not know response_format json_schema"
        if isinstance(fault, json.JSONDecodeError) and self.finish_reason == "length":
            reason += "; the output is truncated (finish reason 'length'): raise max_tokens"
        message = f"{self.model} did not return a valid {self.type_name}: {reason}"
        return InvalidOutputError(
            message, model=self.model, raw_output=text, finish_reason=self.finish_reason, original_error=error
        )

    @property
    def type_name(self) -> str:
        """The requested type, for a message."""
        wanted = self.response_format
        if isinstance(wanted, (str, dict)):
            return "instance of the JSON Schema"
        if typing.get_origin(wanted) is not None or isinstance(wanted, pydantic.TypeAdapter):
            return _show(wanted)
        return str((wanted if _is_class(wanted) else type(wanted)).__name__)


class _Exchange:
    """A stream without its I/O: the request, what the response means, and the result."""

    def __init__(self, client: Any, model: str, input: Any, wanted: Any, extra: Any, options: Any) -> None:
        apart = ("extra_headers", "extra_query", "timeout", "extra_body")
        headers, query, timeout, extra_body = (options.pop(name, None) for name in apart)
        known = inspect.unwrap(client.chat.completions.create).__kwdefaults__  # none where a tracer hides it
        if known and (unknown := options.keys() - known - {"messages"}):
            raise TypeError(f"stream() got an unexpected keyword argument {min(unknown)!r}: see extra=")
        body = _request(model, input, wanted)
        for fields in filter(None, (options, extra, extra_body)):
            for name, value in fields.items():
                if name in (*apart, "stream", "messages", "input"):
                    raise TypeError(f"{name} cannot be set here: stream() takes input=, timeout=, extra_…=")
                if isinstance(value, _NOT_GIVEN):
                    continue
                if name in body:
                    raise TypeError(f"{name} is given twice")
                body[name] = value
        # Message objects of the SDK become plain dicts.
        self.body = _ANYTHING.dump_python(body, mode="json", exclude_unset=True)
        headers = headers or {}
        replaced = [name for name in (*client.default_headers, *headers) if name.lower() in _HEADERS]
        headers = {**headers, **dict.fromkeys(replaced, openai._types.Omit()), **_HEADERS}
        given = {"headers": headers, "params": query, "timeout": timeout}
        self.options = {name: value for name, value in given.items() if value is not None}
        self.client, self.model, self.response_format = client, model, wanted
        self.server = (str(client.base_url), model)
        self.patch = self.server not in client._token_models  # whether to ask for patch mode
        self.reader = _Reader()
        self.response: Any = None
        self.closed = False
        # What `result` raises; `None` once the stream has ended well.
        self.error: Exception | None = RuntimeError("the stream was closed before its end: it has no result")

    def send(self, stream_class: Any) -> Any:
        """Return the SDK's stream object, whose response nobody has read yet."""
        # Not by `chat.completions.create`: a tracer that wraps it may read the whole response first.
        body = {**self.body, "stream": "patch" if self.patch else True}
        how = {"cast_to": object, "stream": True, "stream_cls": stream_class[object]}
        return self.client.post("/chat/completions", body=body, options=self.options, **how)

    def refused(self, error: openai.APIStatusError) -> None:
        """Return if the request must be sent again, for a token stream this time; raise otherwise."""
        # The engine says that `stream` must be a boolean. No brace in between: some quote the request.
        words = r"(?i)\bstream\b[^{}]{0,200}bool|bool[^{}]{0,200}\bstream\b"
        text = re.sub(r"\\+[nrt]", " ", error.response.text)  # line breaks are escaped in JSON
        if not (self.patch and error.status_code in (400, 422, 500) and re.search(words, text)):
            body = _redact(error.response.text, self.client.api_key)
            raise PatchStreamError(status_code=error.status_code, body=body) from error.with_traceback(None)
        self.patch = False

    def open(self) -> None:
        """Prepare to read the response. Unless its status is 200, its body has been read."""
        status, key = self.response.status_code, self.client.api_key
        if status != 200:
            raise PatchStreamError(status_code=status, body=_redact(self.response.text, key))
        self.reader = _Reader(self.response.headers.get("content-type", ""), key)
        if not self.patch:
            self.client._token_models.add(self.server)

    @property
    def is_over(self) -> bool:
        """Whether to close the response now. A patch stream is read on, to reuse its connection."""
        # Engines that send tokens may announce that they keep a connection, and close it all the same.
        return self.closed or (self.reader.ended and (self.reader.has_choice or not self.patch))

    def end(self) -> Iterator[PatchEvent]:
        """Yield the events that the end of the response completes. An end that came too soon raises."""
        reader = self.reader
        if self.closed:
            return
        try:
            yield from reader.close()
            if (reader.has_choice or not self.patch) and reader.text is None and not reader.document.paths:
                raise json.JSONDecodeError("Expecting value", "", 0)
        except json.JSONDecodeError as error:
            raise self.output.invalid(error) from error.with_traceback(None)
        finally:
            if reader.text is not None:
                self.client._token_models.add(self.server)
        if reader.text is None and reader.is_sse and not reader.ended:
            what = "the stream ended without its end mark: the answer may be cut short"
            raise PatchStreamError(what, body=_redact(self.output.text, self.client.api_key))
        self.error = None

    def failed(self, error: Exception) -> None:
        """Raise the error that the caller should see, or none if all that matters had arrived."""
        cause = error.__cause__
        if not isinstance(error, openai.OpenAIError):
            if self.closed or self.reader.ended:
                self.error = self.error if self.closed else None
                return
            if request := getattr(self.response or error, "request", None):
                # The transport is httpx, httpx2 or the caller's own: a timeout is known by its name.
                timed_out = any(base.__name__ == "TimeoutException" for base in type(error).__mro__)
                kind = openai.APITimeoutError if timed_out else openai.APIConnectionError
                cause, error = error, kind(request=request)
        self.error = error
        raise error.with_traceback(None) from cause

    @property
    def output(self) -> _Output:
        """What has been received."""
        reader = self.reader
        text = _to_text(reader.document.root) if reader.document.paths else ""
        if reader.text is not None:
            text = "".join(reader.text.pieces)
        return _Output(self.model, self.response_format, text, reader.finish_reason, reader.refusal)

    def result(self) -> Any:
        """Return what `generate` would have returned, once all events have been read."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.output.value(delimits_itself=self.reader.text is not None)

    # These must not refer to the stream object: when it is dropped, they are closed, and the response too.
    def events(self) -> Generator[PatchEvent, None, None]:
        try:
            while self.response is None:
                try:
                    self.response = self.send(openai.Stream).response
                except openai.APIStatusError as error:
                    self.refused(error)
            if self.response.status_code != 200:
                self.response.read()
            self.open()
            for chunk in self.response.iter_bytes():
                yield from self.reader.feed(chunk)
                if self.is_over:
                    break
            yield from self.end()
        except Exception as error:
            self.failed(error)
        finally:
            if self.response is not None:
                self.response.close()

    async def async_events(self) -> AsyncGenerator[PatchEvent, None]:
        chunks: Any = None
        try:
            while self.response is None:
                try:
                    self.response = (await self.send(openai.AsyncStream)).response
                except openai.APIStatusError as error:
                    self.refused(error)
            if self.response.status_code != 200:
                await self.response.aread()
            self.open()
            chunks = self.response.aiter_bytes()
            async for chunk in chunks:
                for event in self.reader.feed(chunk):
                    yield event
                if self.is_over:
                    break
            for event in self.end():
                yield event
        except Exception as error:
            self.failed(error)
        finally:
            if self.response is not None:
                await self.response.aclose()
            with contextlib.suppress(Exception):  # the transport's generators end here, not when collected
                async for _ in chunks:
                    pass


class _AnyStream(Generic[T]):
    """What both kinds of stream report."""

    _exchange: _Exchange

    @property
    def finish_reason(self) -> str | None:
        """The finish reason, once the stream has reported it."""
        return self._exchange.reader.finish_reason

    @property
    def raw_output(self) -> str:
        """The JSON text received so far. For a patch stream it is made from the document."""
        return self._exchange.output.text

    @property
    def usage(self) -> CompletionUsage | None:
        """The token usage, once the stream has reported it."""
        usage = self._exchange.reader.usage
        return None if usage is None else CompletionUsage.construct(**usage)


class PatchStream(_AnyStream[T]):
    """The events of a `stream` call, as an iterator of `PatchEvent` and a context manager.

    Iterating raises `PatchStreamError`, the SDK's errors, and `InvalidOutputError` where an engine's token
    stream is not the JSON text that it should be; the events before that have been delivered.
    """

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange, self._events = exchange, exchange.events()

    def __iter__(self) -> Iterator[PatchEvent]:
        return self._events

    def __next__(self) -> PatchEvent:
        return next(self._events)

    def __enter__(self) -> PatchStream[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def result(self) -> T:
        """Read on to the end and return what `generate` would have returned.

        Raises `InvalidOutputError` for output of another type or cut short, `RuntimeError` if closed early.
        """
        for _ in self._events:
            pass
        return self._exchange.result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection, so that the gateway stops generating. No more events come.

        Called from a thread other than the one that reads, it takes effect at the stream's next chunk.
        """
        self._exchange.closed = True
        with contextlib.suppress(ValueError):  # another thread is reading: it stops at its next chunk
            self._events.close()


class AsyncPatchStream(_AnyStream[T]):
    """The asynchronous `PatchStream`. It raises the same errors."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange, self._events = exchange, exchange.async_events()

    def __aiter__(self) -> AsyncIterator[PatchEvent]:
        return self._events

    async def __anext__(self) -> PatchEvent:
        return await anext(self._events)

    async def __aenter__(self) -> AsyncPatchStream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def result(self) -> T:
        """Like `PatchStream.result`: return the value or raise the same errors."""
        async for _ in self._events:
            pass
        return self._exchange.result()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the connection, so that the gateway stops generating. No more events come."""
        self._exchange.closed = True
        try:
            await self._events.aclose()
        except RuntimeError:  # another task is waiting for an event
            if self._exchange.response is not None:
                await self._exchange.response.aclose()


class DotTxt(_Gateway, openai.OpenAI):
    """The client of the .txt API, and of any OpenAI-compatible engine: an `openai.OpenAI` plus three methods.

    Args:
        api_key: The key; without it the environment variable `DOTTXT_API_KEY`.
        base_url: The URL of the API; without it `DOTTXT_BASE_URL`, else `https://api.dottxt.ai/v1`.
        **client_kwargs: Other arguments of `openai.OpenAI` (`timeout` in seconds, `max_retries`,
            `default_headers`, `http_client`, …). They hold for every call.

    Raises `ValueError` where there is no key, or `base_url` has no scheme.
    """

    # fmt: off
    @overload
    def generate(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> ModelT | T: ...
    @overload
    def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> Any: ...
    def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        **options: Any) -> Any:
        """Ask for data of a type and return it.

        Args:
            model: The model's id.
            input: The prompt, or a list of OpenAI-style message dicts.
            response_format: The output type; see `normalize_schema`.
            temperature: Sampling temperature.
            max_tokens: The most tokens that the model may send.
            seed: Seed of the sampling.
            **options: Other arguments of `chat.completions.create`.

        Returns:
            For a `BaseModel` subclass a validated instance, for a `TypeAdapter` the validated value of its
            type, for all else decoded JSON.

        Raises:
            InvalidSchemaError: `response_format` cannot be used as an output type. Nothing was sent.
            InvalidOutputError: The output is not of the requested type.
            openai.APIError: As the SDK raises it.
        """
        return self.generate_with_completion(model=model, input=input, response_format=response_format,
            temperature=temperature, max_tokens=max_tokens, seed=seed, **options)[0]

    @overload
    def generate_with_completion(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> tuple[ModelT | T, ChatCompletion]: ...
    @overload
    def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> tuple[Any, ChatCompletion]: ...
    def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        **options: Any) -> tuple[Any, ChatCompletion]:
        """Like `generate`; returns the value and the SDK's `ChatCompletion` (usage, finish reason, ids)."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        request = _request(model, input, response_format, **options)
        try:
            completion = self.chat.completions.create(**request)
        except openai.APIStatusError as error:
            _add_hint(error)
            raise
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # the response is not JSON
            raise _Output(model, response_format, getattr(error, "doc", "")).invalid(error) from error
        return _Output.of(model, response_format, completion).value(), completion

    @overload
    def stream(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> PatchStream[ModelT | T]: ...
    @overload
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> PatchStream[Any]: ...
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        timeout: Any = None, extra: Fields | None = None, **options: Any) -> PatchStream[Any]:
        """Ask for data of a type and return an iterator of its parts, each there as soon as it is written.

        The arguments are checked at once; the request is sent when the first event is asked for. An engine
        without the gateway's patch mode is asked for its token stream instead.

        Args:
            timeout: In seconds (or the SDK's `Timeout`), in place of the client's.
            extra: Other fields of the request's body, unknown ones included.
            **options: Other arguments of `chat.completions.create`. All others are as for `generate`.

        Raises:
            InvalidSchemaError: `response_format` cannot be used as an output type.
            TypeError: A field is given twice, or cannot be set here.
            PatchStreamError, InvalidOutputError, openai.APIConnectionError: The stream, when it is read.
        """
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "timeout": timeout}
        return PatchStream(_Exchange(self, model, input, response_format, extra, options))
    # fmt: on


class AsyncDotTxt(_Gateway, openai.AsyncOpenAI):
    """The asynchronous client: an `openai.AsyncOpenAI` with the methods of `DotTxt`, and its arguments."""

    # fmt: off
    @overload
    async def generate(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> ModelT | T: ...
    @overload
    async def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> Any: ...
    async def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        **options: Any) -> Any:
        """Like `DotTxt.generate`. Raises `InvalidSchemaError`, `InvalidOutputError`, `openai.APIError`."""
        return (await self.generate_with_completion(model=model, input=input, response_format=response_format,
            temperature=temperature, max_tokens=max_tokens, seed=seed, **options))[0]

    @overload
    async def generate_with_completion(self, *, model: str, input: Messages,
        response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> tuple[ModelT | T, ChatCompletion]: ...
    @overload
    async def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        **options: Any) -> tuple[Any, ChatCompletion]: ...
    async def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        **options: Any) -> tuple[Any, ChatCompletion]:
        """Like `DotTxt.generate_with_completion`. Raises what `generate` raises."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        request = _request(model, input, response_format, **options)
        try:
            completion = await self.chat.completions.create(**request)
        except openai.APIStatusError as error:
            _add_hint(error)
            raise
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # the response is not JSON
            raise _Output(model, response_format, getattr(error, "doc", "")).invalid(error) from error
        return _Output.of(model, response_format, completion).value(), completion

    @overload
    def stream(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> AsyncPatchStream[ModelT | T]: ...
    @overload
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> AsyncPatchStream[Any]: ...
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = None, max_tokens: int | None = None, seed: int | None = None,
        timeout: Any = None, extra: Fields | None = None, **options: Any) -> AsyncPatchStream[Any]:
        """Like `DotTxt.stream`, but the iterator is asynchronous. Raises the same errors."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "timeout": timeout}
        return AsyncPatchStream(_Exchange(self, model, input, response_format, extra, options))
    # fmt: on


# --- Command line -------------------------------------------------------------------------------------------


class _CommandLine:
    """The commands. Each public method is one, and its docstring is the help."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.started = time.monotonic()

    def models(self) -> None:
        """List the models, one id a line."""
        with DotTxt() as client:
            try:
                answer: Any = client.get("/models", cast_to=object)
                records = answer["data"]
                ids = "".join(record["id"] + "\n" for record in records)
            except (LookupError, TypeError, ValueError):
                records = None
        if not isinstance(records, list):
            raise ValueError("the server did not send a list of models: does DOTTXT_BASE_URL end in /v1?")
        _write(f"{_to_text(records)}\n" if self.arguments.json else ids)

    def generate(self) -> None:
        """Print the data as JSON.

        example:
          cat mail.txt | dottxt generate -s myapp.models:Ticket -m openai/gpt-oss-20b "Classify this:" -
        """
        with DotTxt() as client:
            _, completion = client.generate_with_completion(**self._request())
        said = completion.choices[0].message.content or ""
        _write(f"{said.strip()}\n")
        self._tell(completion.choices[0].finish_reason, completion.usage)

    def stream(self) -> None:
        """Print each field as soon as the model has written it.

        On a terminal, each line is `field = value`. In a pipe, each line is a JSON Patch operation for other
        programs: {"op": "add", "path": "/field", "value": ...}.

        example:
          dottxt stream -s ticket.json "I was charged twice" | jq -r 'select(.path == "/intent").value'
        """
        usage: dict[str, Any] = {"stream_options": {"include_usage": True}} if self.arguments.verbose else {}
        with DotTxt() as client, client.stream(**self._request(), **usage) as stream:
            for event in stream:
                if not sys.stdout.isatty():
                    _write(f"{_to_text(event.op)}\n")
                elif event.field or event.value not in ({}, []):
                    field = _to_text(event.field)[1:-1]  # a key may contain control characters
                    _write(f"{field} = {_to_text(event.value)}\n".removeprefix(" = "))
            stream.result()
        self._tell(stream.finish_reason, stream.usage)

    def schema(self) -> None:
        """Print the JSON Schema that would be sent, which checks it."""
        text = json.dumps(normalize_schema(self._response_format()), ensure_ascii=False, indent=2)
        _write(f"{text}\n")

    def _response_format(self) -> Any:
        given = self.arguments.schema
        try:
            if given.lstrip().startswith(("{", "[", '"')):
                found = given
            elif os.path.exists(given) and not (given.endswith(".py") or os.path.isdir(given)):
                with open(given, encoding="utf-8-sig") as file:
                    found = file.read()
            elif re.fullmatch(r"[\w.]+:[\w.]+", given):
                sys.path.insert(0, "")  # the current folder, where only `python -m` looks by itself
                found = pkgutil.resolve_name(given)
            else:
                raise ValueError("no schema file has this name; a type is package.module:Type, with a colon")
            normalize_schema(found)
        except (Exception, SystemExit) as error:
            message = str(error).replace("response_format", "the schema")
            raise ValueError(f"schema {_shorten(given)}: {message}") from error
        return found

    def _prompt(self) -> str:
        """Return the prompt: the words joined by spaces; `-`, or none at all, stands for standard input."""
        parts = [""]
        for word in self.arguments.prompt or ["-"]:
            if word != "-":
                parts[-1] = f"{parts[-1]} {word}".lstrip()
                continue
            if sys.stdin.isatty():
                end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
                _write(f"dottxt: reading the prompt from the terminal; end it with {end}\n", sys.stderr)
            parts += [sys.stdin.read().strip("\n"), ""]
        return "\n\n".join(part for part in parts if part)

    def _request(self) -> dict[str, Any]:
        """Return the arguments of `generate` and `stream`."""
        given = self.arguments
        response_format = self._response_format()
        given.model = given.model or os.environ.get("DOTTXT_MODEL", "").strip()
        if not given.model:
            raise ValueError("no model: pass -m MODEL or set DOTTXT_MODEL (`dottxt models` lists the models)")
        try:
            prompt = self._prompt()
            f"{prompt}{given.system}".encode()
        except UnicodeError as error:
            raise ValueError(f"the prompt is not UTF-8 text: {error}") from error
        if not prompt.strip():
            raise ValueError("the prompt is empty: pass it as an argument or on standard input")
        said = {"system": given.system, "user": prompt}
        messages = [{"role": role, "content": text} for role, text in said.items() if text is not None]
        options = {name: getattr(given, name) for name in ("model", "temperature", "max_tokens", "seed")}
        return {"input": messages, "response_format": response_format, **options}

    def _tell(self, finish_reason: str | None, usage: CompletionUsage | None) -> None:
        if self.arguments.verbose:
            counts = [getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
            told = f"finish reason {finish_reason}, tokens {counts[0]} + {counts[1]}"
            seconds = f"{time.monotonic() - self.started:.2f} s"
            _write(f"dottxt: model {self.arguments.model}, {told}, {seconds}\n", sys.stderr)


def _write(text: str, stream: Any = None) -> None:
    """Write lines in one piece, at once: parallel commands may share a file."""
    stream = stream or sys.stdout
    stream.write(text)
    stream.flush()


def _cli_message(error: Exception, key: str) -> str:
    """Return what went wrong and what to do next, as one line."""
    if isinstance(error, openai.APIStatusError):
        error = PatchStreamError(status_code=error.status_code, body=_redact(error.response.text, key))
    text = str(error)
    if isinstance(error, openai.APIConnectionError):
        url = re.sub(r"(?<=//)[^/]*@|[?].*", "", str(error.request.url))  # where passwords may stand
        text = f"{text.rstrip('.')} with {url} ({error.__cause__!r}): check base_url"
    elif not isinstance(error, (ValueError, RuntimeError, openai.OpenAIError)):
        text = f"{type(error).__name__}: {text}"
    text = _redact(text, key).replace("base_url", "DOTTXT_BASE_URL")
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text)


def _cli_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Get data of the shape you ask for from a language model."
    parser = argparse.ArgumentParser("dottxt", description=about, epilog=_CLI_EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"dottxt {__version__}")
    parser.set_defaults(run=lambda _: parser.print_help(), parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for run in (_CommandLine.models, _CommandLine.generate, _CommandLine.stream, _CommandLine.schema):
        text = inspect.getdoc(run) or ""  # `python -OO` leaves none
        about = text.partition("\n")[0]
        command = commands.add_parser(run.__name__, formatter_class=raw, help=about, description=text)
        command.set_defaults(run=run, parser=command)
        add = command.add_argument
        if run is _CommandLine.models:
            add("--json", action="store_true", help="print the records, as a JSON array")
        else:
            add("-s", "--schema", required=True, help="a JSON Schema file, JSON text, or package.module:Type")
        if run in (_CommandLine.generate, _CommandLine.stream):
            add("-m", "--model", help="the model's id (default: DOTTXT_MODEL)")
            add("--system", metavar="TEXT", help="a system message")
            add("--temperature", type=float, metavar="T", help="the sampling temperature")
            add("--max-tokens", type=int, metavar="N", help="the most tokens that the model may send")
            add("--seed", type=int, metavar="N", help="the seed of the sampling")
            add("-v", "--verbose", action="store_true", help="report model, finish reason, tokens, seconds")
            add("prompt", metavar="PROMPT", nargs="*", help="the prompt; -, or none, is standard input")
    return parser


_CLI_EPILOG = """\
environment:
  DOTTXT_API_KEY   the key; a local engine takes any text
  DOTTXT_BASE_URL  a gateway or engine other than https://api.dottxt.ai/v1
  DOTTXT_MODEL     the model, where -m names none"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # A closed stream is None, and `print` and `argparse` would put errors on standard output instead.
    sys.stdin, sys.stderr = sys.stdin or io.StringIO(), sys.stderr or io.StringIO()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        how = ("utf-8-sig", "strict") if stream is sys.stdin else ("utf-8", "backslashreplace")
        with contextlib.suppress(AttributeError, ValueError):  # a notebook's stream; one that was read before
            stream.reconfigure(encoding=how[0], errors=how[1])  # type: ignore[union-attr]
    if sys.stdout is None:
        _write("dottxt: standard output is closed\n", sys.stderr)
        return 1
    try:
        try:
            arguments, unknown = _cli_parser().parse_known_args(argv)
            if unknown:
                arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            arguments.run(_CommandLine(arguments))
        finally:
            sys.stdout.flush()  # what argparse printed
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError):  # Python must not try again at exit to write what it could not
            with contextlib.suppress(ValueError):  # a notebook's stream has no descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough
            return 0
        received = error.body if isinstance(error, PatchStreamError) and error.status_code == 200 else ""
        key = os.environ.get("DOTTXT_API_KEY", "").strip()
        _write(f"dottxt: {_cli_message(error, key)}\n", sys.stderr)
        if received := getattr(error, "raw_output", received):
            _write(f"{_redact(received, key)}\n", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
