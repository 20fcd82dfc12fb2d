"""dottxt: structured generation with the .txt API and with any OpenAI-compatible engine.

A prompt and an output type go in, data of that shape comes out, whole or field by field:

    from dottxt import DotTxt

    client = DotTxt()  # reads DOTTXT_API_KEY and DOTTXT_BASE_URL
    ticket = client.generate(model="openai/gpt-oss-20b", input="I was charged twice.", response_format=Ticket)
    for event in client.stream(model="openai/gpt-oss-20b", input="It crashes.", response_format=Ticket):
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
from contextlib import aclosing, closing
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
E = TypeVar("E")
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
Typed = type[ModelT] | pydantic.TypeAdapter[T]  # the output types that type checkers can follow
Messages = str | list[Any]  # one user message, or OpenAI-style message dicts
Fields = Mapping[str, Any]  # more fields of a request's body
Fault = json.JSONDecodeError | pydantic.ValidationError  # what is wrong with an output
Float = float | None
Int = int | None
Op = dict[str, Any]  # one JSON Patch operation (RFC 6902 §4)

# --- JSON text ----------------------------------------------------------------------------------------------


def _loads(text: str) -> Any:
    """Decode JSON text (RFC 8259). Whatever is wrong with it is a `json.JSONDecodeError`."""
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:
        if "recursion limit" in str(error):  # the same limit as that of Pydantic's validators
            raise json.JSONDecodeError("Nested too deep", text, 0) from None
    constants: dict[str, Any] = {}  # JSON has none
    try:  # the standard library also takes lone surrogates, and names the place of an error
        return json.loads(text, parse_constant=constants.__getitem__)
    except (KeyError, ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        what = f"{error.args[0]} is not JSON" if isinstance(error, KeyError) else str(error)
        raise json.JSONDecodeError(what, text, 0) from None


def _encode(value: Any) -> str:
    """Return the JSON text of a decoded value."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if "Infinity" in text:  # a number such as 1e400, which JSON allows; the word may also stand in a string
        text = re.sub(r'("(?:[^"\\]|\\.)*")|Infinity', lambda match: match[1] or "1e999", text)
    if re.search("[\ud800-\udfff]", text):  # UTF-8 has no lone surrogates, JSON has escapes for them
        text = json.dumps(value, separators=(",", ":"))
    return text


def _escape(key: str) -> str:
    """Return a key as a token of a JSON Pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _show(value: object) -> str:
    """Return a value's `repr`, shortened and without addresses in memory."""
    with contextlib.suppress(Exception):  # an integer of 5,000 digits has none
        return _shorten(re.sub(r" (object )?at 0x[0-9A-Fa-f]+", "", repr(value)))
    return f"an instance of {type(value).__name__}"


# --- Errors -------------------------------------------------------------------------------------------------

# What to check after an HTTP status.
_HINTS = {
    401: "set api_key= or DOTTXT_API_KEY to a valid key",
    404: "client.models.list(), or `dottxt models`, lists the models; base_url usually ends in /v1",
}
# Where servers put what they have to say.
_MESSAGE_KEYS = ("error", "message", "detail", "errors", "msg", "description", "x_groq", "base_resp",
    "status_msg", "choices")  # fmt: skip
_WRONG_URL = "it is a web page: base_url is probably wrong"
_is_web_page = re.compile(r"\s*<(?:!doc|html)", re.IGNORECASE).match


class InvalidSchemaError(openai.OpenAIError, ValueError):
    """`response_format` cannot be used as an output type. Raised before anything is sent."""


class InvalidOutputError(openai.OpenAIError, ValueError):
    """The model's output cannot be turned into the requested structure.

    Attributes:
        model: The model that was asked.
        raw_output: All the text that the model sent, `""` if it sent none.
        finish_reason: The completion's finish reason, `None` if the server named none.
        original_error: The `json.JSONDecodeError` or `pydantic.ValidationError` behind it.
        completion: The SDK's `ChatCompletion` of a `generate`, else `None`.
    """

    def __init__(self, message: str | None = None, *, model: str = "", raw_output: str = "",
        finish_reason: str | None = None, original_error: Fault | None = None,
        completion: ChatCompletion | None = None) -> None:  # fmt: skip
        if message is None:
            reason = original_error or f"finish reason {finish_reason}, {_shorten(raw_output)!r}"
            message = f"{model or 'the model'} did not return valid output: {reason}"
        super().__init__(message)
        self.model, self.raw_output, self.finish_reason = model, raw_output, finish_reason
        self.original_error, self.completion = original_error, completion

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
            said, text = _server_message(body), _shorten(" ".join(body.split()))
            message = f"{said} ({what})" if said else f"{what}: {text or 'no body'}"
            hint = _WRONG_URL if _is_web_page(body) else _HINTS.get(status_code)
            message += f"; {hint}" if hint else ""
        super().__init__(message)
        self.status_code, self.body = status_code, body


def _server_message(body: str) -> str:
    """Return what a server says in the JSON text of an error, `""` where it says nothing."""

    def find(said: Any) -> str:
        if isinstance(said, list):
            return "; ".join(filter(None, map(find, said)))
        if isinstance(said, dict):
            return next(filter(None, (find(said.get(key)) for key in _MESSAGE_KEYS)), "")
        return said.strip() if isinstance(said, str) else ""

    with contextlib.suppress(json.JSONDecodeError):
        return find(_loads(body))
    return ""


def _redact(text: str, key: str) -> str:
    """Replace the API key, which a server may echo. A short one is a dummy and may be any word."""
    # JSON may also write a character as an escape: PHP does so with /, Go with &, .NET with +.
    written = "".join(rf"(?:(?i:\\u{ord(char):04x})|\\?{re.escape(char)})" for char in key)
    return re.sub(written, "[API key]", text) if len(key) >= 8 else text


def _hint(error: Exception) -> str:
    """Return what to check after an error of the SDK, `""` where there is nothing to say."""
    if isinstance(error, openai.APIConnectionError):
        url = re.sub(r"(?<=//)[^/]*@|[?].*", "", str(error.request.url))  # where passwords may stand
        return f"the connection to {url} failed: {error.__cause__!r}"
    return _HINTS.get(getattr(error, "status_code", 0), "")


# --- Output types: any response_format in, a JSON Schema and a validator out --------------------------------

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class _OutputType:
    """A type that data is asked for in: its JSON Schema, and the validator that reads JSON text."""

    def __init__(self, given: Any, schema: bytes = b"") -> None:
        self.schema = schema  # marshalled: that copies a dict faster than JSON text does
        self.validate: Callable[[str], Any] = _loads
        if isinstance(given, (str, dict)):
            self.name = "instance of the JSON Schema"  # for messages
        elif _is_class(given):
            self.name = given.__name__
            self.validate = given.model_validate_json if _is_model(given) else _loads
        elif isinstance(given, pydantic.TypeAdapter):
            self.name, self.validate = _show(given), given.validate_json
        else:
            self.name = _show(given) if typing.get_origin(given) is not None else type(given).__name__

    def request(self, name: str = "response") -> dict[str, Any]:
        """Return the field of a request: a dict of its own, for wrappers of the SDK's `create` change it."""
        return {"type": "json_schema", "json_schema": {"name": name, "schema": marshal.loads(self.schema)}}


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
    return marshal.loads(_output_type(response_format).schema)  # type: ignore[no-any-return]


def build_response_format(response_format: object, *, name: str = "response") -> dict[str, Any]:
    """Return the `response_format` of a chat completion: `normalize_schema`'s schema with a name."""
    return _output_type(response_format).request(name)


def _output_type(given: Any) -> _OutputType:
    """Return the schema and the validator of an output type, or raise `InvalidSchemaError`."""
    if isinstance(given, str):
        return _OutputType(given, _checked(given))
    if isinstance(given, dict):
        try:  # marshalled data are a cache's key in an eighth of the time that JSON text takes
            data = marshal.dumps(given)
        except ValueError:  # it is not plain data
            data = _plain(given)
        return _OutputType(given, _checked(data))
    if _is_class(given) or isinstance(given, pydantic.TypeAdapter):
        return _described(given)
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
        return _described(given)
    try:
        text = given.to_json()
    except Exception as error:
        raise InvalidSchemaError(f"{name}.to_json() failed: {type(error).__name__}: {error}") from error
    if not isinstance(text, str):
        raise InvalidSchemaError(f"{name}.to_json() returned {type(text).__name__}: it must return a str")
    return _OutputType(given, _checked(text, f"the result of {name}.to_json()"))


def _is_class(given: object) -> bool:
    # On Python 3.10 `list[int]` passes for a class, hence the look at its origin.
    return isinstance(given, type) and typing.get_origin(given) is None


def _is_model(given: Any) -> bool:
    return _is_class(given) and issubclass(given, pydantic.BaseModel)


def _described(given: Any) -> _OutputType:
    """Return a type as Pydantic describes it, from the cache if it is a class."""
    try:
        if _is_model(given):
            _complete(given)
        if _is_class(given) or isinstance(given, pydantic.TypeAdapter):
            # A class that is rebuilt gets another validator.
            return _describe(given, getattr(given, "__pydantic_validator__", None))
        return _describe.__wrapped__(given)  # the cache would take `int | str` for `str | int`
    except Exception as error:
        hint = "pass a type that Pydantic can describe, or a JSON Schema object"
        if isinstance(error, NameError) or getattr(error, "code", "") == "class-not-fully-defined":
            hint = "define the name where the type is defined, or pass a TypeAdapter made where it is known"
        elif _is_class(given) and any(base.__module__ == "pydantic.v1.main" for base in given.__mro__):
            hint = "it is a model of pydantic.v1: pass its schema()"
        raise InvalidSchemaError(f"response_format {_show(given)} has no schema: {error}; {hint}") from error


def _complete(model: type[pydantic.BaseModel]) -> None:
    """Resolve the names that only the caller knows, in the class itself."""
    if model is pydantic.BaseModel or inspect.isabstract(model):
        raise TypeError(f"{model.__name__} has no instances, only its subclasses have")
    if not model.__pydantic_complete__:
        frame, _ = _caller()
        own = getattr(sys.modules.get(model.__module__), "__dict__", {})
        model.model_rebuild(_types_namespace={**frame.f_globals, **frame.f_locals, **own})


def _caller() -> tuple[types.FrameType, int]:
    """Return the first frame outside of this module, and its distance from the function that asks."""
    frame, distance = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_globals is globals():
        frame, distance = frame.f_back, distance + 1
    return frame, distance


@functools.lru_cache(maxsize=1024)
def _describe(given: Any, _validator: object = None) -> _OutputType:
    """Ask Pydantic for the schema of a type."""
    if _is_model(given):
        schema = given.model_json_schema()  # people override it
    elif isinstance(given, pydantic.TypeAdapter):
        schema = given.json_schema()
    else:  # names (`list["Ticket"]`) are resolved in the frame of our caller, not in this module's
        schema = pydantic.TypeAdapter(given, _parent_depth=_caller()[1] + 2).json_schema()
    return _OutputType(given, _plain(schema, f"the schema of {_show(given)}"))


def _plain(schema: Any, source: str = "response_format") -> bytes:
    """Return a schema as marshalled JSON data."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()  # fails for lone surrogates
        return marshal.dumps(_loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSchemaError(f"{source} contains a value JSON cannot represent: {error}") from error


@functools.lru_cache(maxsize=256)
def _checked(given: str | bytes, source: str = "response_format") -> bytes:
    """Check a JSON Schema object, which is text or marshalled, and return it as marshalled JSON data."""
    try:
        data = _plain(_loads(given) if isinstance(given, str) else marshal.loads(given), source)
    except json.JSONDecodeError as error:
        hint = "pass a JSON Schema object as text (of a file, pass its read_text()) or as a dict"
        raise InvalidSchemaError(f"{source} is not JSON ({error}): {hint}") from error
    schema = marshal.loads(data)
    if not isinstance(schema, dict):
        raise InvalidSchemaError(f'{source} is {_show(schema)}: pass an object, such as {{"type": "string"}}')
    if schema.get("type") == "json_schema" or ("name" in schema and isinstance(schema.get("schema"), dict)):
        raise InvalidSchemaError("response_format is the envelope of a request: pass the inner schema")
    keywords, meta_schema = _meta_schema()
    if schema and not keywords & schema.keys():
        form = _encode({"type": "object", "properties": {next(iter(schema)): {"type": "string"}}})
        hint = f"it would constrain nothing; to ask for an object, pass {form}"
        raise InvalidSchemaError(f"{source} contains no keyword of JSON Schema: {hint}")
    draft = schema.get("$schema", _DRAFT)
    if (isinstance(draft, str) and draft.rstrip("#") != _DRAFT) or schema.get("type") == "structural-tag":
        return data
    try:
        meta_schema.validate_python(schema)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{_escape(str(part))}" for part in first["loc"])
        what = "it nests too deep" if first["type"].startswith("recursion") else first["msg"]
        place = f'response_format is not a valid JSON Schema (draft 2020-12) at "{pointer}"'
        raise InvalidSchemaError(f"{place}: {what}") from error
    return data


@functools.cache
def _meta_schema() -> tuple[frozenset[str], pydantic.TypeAdapter[Any]]:
    """Return the keywords of draft 2020-12, and its meta-schema: a table of keywords and their types."""

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
        ("const default", Any),
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
    return frozenset(types_of), pydantic.TypeAdapter(Keywords)


# `import dottxt.schemas` works although there is one file, under whatever name it was copied.
schemas = types.ModuleType(f"{__name__}.schemas", "The schema helpers of the module above.")
schemas.__all__ = ["InvalidSchemaError", "build_response_format", "normalize_schema"]  # type: ignore[attr-defined]
schemas.__dict__.update((name, globals()[name]) for name in schemas.__all__)
sys.modules[schemas.__name__] = schemas

# --- Document: RFC 6902 `add`, RFC 6901 pointers, and the document that folds them --------------------------

_MAX_DEPTH = 200  # levels of containers, as Pydantic's parser has it
_CONTAINERS = (dict, list)
_INDEX = re.compile("0|[1-9][0-9]{0,18}")  # RFC 6901 §4: array-index
_BAD_ESCAPE = re.compile("~(?![01])")  # RFC 6901 §3: escaped


def _copy(value: Any, depth: int = 0) -> Any:
    """Return a deep copy of a JSON value that stands `depth` levels deep in its document."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nests deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _copy(it, depth + 1) if isinstance(it, _CONTAINERS) else it for key, it in value.items()}
    if isinstance(value, list):
        return [_copy(it, depth + 1) if isinstance(it, _CONTAINERS) else it for it in value]
    return value


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
                opened.append((pointer, self.resolve(pointer)))
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

    def resolve(self, pointer: str) -> Any:
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

    def array(self, pointer: str) -> tuple[list[Any], int]:
        """Return the array that a JSON Pointer refers to, and how many of its elements are complete."""
        try:
            array = self.resolve(pointer)
        except ValueError:  # it is not there, or not yet
            array = None
        if not isinstance(array, list):
            return [], 0
        # A container is complete when an operation goes elsewhere.
        last, place = f"{self.paths[-1]}/", f"{pointer}/{len(array) - 1}/"
        is_open = last.startswith((place, f"{pointer}/-/")) or place.startswith(last)
        return array, len(array) - (is_open and isinstance((array or [None])[-1], _CONTAINERS))

    def fold(self, op: Op) -> PatchEvent:
        """Apply a received operation and return its event."""
        path, value = op["path"], op["value"]
        self.add(path, value)
        # The caller may change `op`, and the document changes what it holds: keep a third copy.
        self.paths.append(path)
        self.values.append(_copy(value) if isinstance(value, _CONTAINERS) else value)
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


# --- Framings: bytes in, records out ------------------------------------------------------------------------


class _Lines:
    """A line ends at `\\n` and nowhere else, and is a record without an event name."""

    def __init__(self) -> None:
        self._rest = bytearray()  # what no line has ended yet
        self._is_one_record: bool | None = None  # the first line tells

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        if b"\n" not in data or self._is_one_record:
            self._rest += data
            return []
        body = bytes(self._rest + data) if self._rest else data
        *lines, rest = body.split(b"\n")
        records = [("", line) for line in lines if line and not line.isspace()]
        if records and self._is_one_record is None:
            self._is_one_record = records[0][1].strip() in (b"{", b"[", b"[{")  # JSON broken over lines
            rest, records = (body, []) if self._is_one_record else (rest, records)
        self._rest[:] = rest
        return records

    def finish(self) -> list[tuple[str, bytes]]:
        return [("", bytes(self._rest))]  # the last line needs no \n


class _ServerSentEvents:
    """The event streams of the HTML standard (§9.2.5 and §9.2.6)."""

    def __init__(self) -> None:
        self._rest = bytearray()  # what no blank line has ended yet
        self._after_cr = False

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        if self._after_cr:  # the \n of a \r\n whose \r has ended a line already
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._rest += data
        if self._rest.find(b"\n\n", -len(data) - 1) < 0:
            return []
        *events, rest = bytes(self._rest).split(b"\n\n")
        self._rest[:] = rest
        return self._read(events)

    def finish(self) -> list[tuple[str, bytes]]:
        return self._read([bytes(self._rest)])  # the last event needs no blank line

    def _read(self, events: list[bytes]) -> list[tuple[str, bytes]]:
        records = []
        for event in events:
            if event.startswith(b"event: patch\ndata: ") and event.find(b"\n", 19) < 0:  # the common one
                records.append(("patch", event[19:]))
                continue
            name, data = "", []
            for line in event.split(b"\n"):
                field, _, value = line.partition(b":")
                if field == b"data":
                    data.append(value.removeprefix(b" "))
                elif field == b"event":
                    name = value.removeprefix(b" ").decode(errors="replace")
            if data:
                records.append((name, b"\n".join(data)))
        return records


_BEFORE_TEXT = b"\xef\xbb\xbf \t\n\r\x0b\x0c"  # a byte order mark, white space
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")  # no JSON text begins so


# --- JSON text in pieces: an incremental parser -------------------------------------------------------------


class _Text:
    """Read JSON text (RFC 8259) as it arrives, cut anywhere, and make the operations that build its value.

    A container is certain when it opens, a string when it closes, all else when something follows it.
    """

    # RFC 8259 §2: after white space a bracket, comma or colon; a string without escapes; a literal or number.
    _token = re.compile(r'[ \t\n\r]*(?:([{}\[\],:])|"([^"\\\x00-\x1f]*)"|([-+.0-9A-Za-z]+))?')
    _scalar = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[Ee][-+]?[0-9]+)?")  # §3, §6
    _chars = re.compile(r'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*')  # §7
    _cut = re.compile(r"(?:\\(?:u[0-9A-Fa-f]{0,3})?)?")  # nothing, or an escape that is not all there

    def __init__(self) -> None:
        self.is_bad = False  # not JSON, or, once it is finished, not all of it
        self._text, self._pos = "", 0  # what is being read, and how far that is
        self._string: list[str] | None = None  # pieces of a string that is not closed
        self._opened: list[list[Any]] = []  # of each container: path, index to come, closing bracket
        self._path = ""  # of the next value
        self._expected = "value"  # what the grammar wants next

    def feed(self, text: str, finished: bool = False, ends_number: bool = False) -> Iterator[Op]:
        """Yield the operations that `text` completes. `ends_number`: a 12 at its end is not cut from 123."""
        self._text, self._pos = self._text[self._pos :] + text, 0
        try:
            while not self.is_bad and (token := self._next(finished, ends_number)):
                if op := self._take(*token):
                    yield op
        except ValueError:
            self.is_bad = True
        self.is_bad = self.is_bad or (finished and self._expected != "end")

    def _next(self, finished: bool, ends_number: bool) -> tuple[str, Any] | None:
        """Return the kind and the value of the next token, `None` where it needs more text."""
        text = self._text
        if self._string is None:
            match: Any = self._token.match(text, self._pos)
            group, end = match.lastindex, match.end()
            if group == 3:
                word = match[3]
                is_over = finished and (not word[-1].isdigit() or (ends_number and not self._opened))
                if end == len(text) and not is_over:
                    return None
                if not self._scalar.fullmatch(word):
                    raise ValueError
                self._pos = end
                return "scalar", _loads(word)
            self._pos = end
            if group is not None:
                return (match[1], None) if group == 1 else ("string", match[2])
            if end == len(text):
                return None
            if text[end] != '"':
                raise ValueError
            self._pos, self._string = end + 1, []
        match = self._chars.match(text, self._pos)
        self._string.append(match[0])
        self._pos = match.end()
        if not text.startswith('"', self._pos):
            if not self._cut.fullmatch(text, self._pos):
                raise ValueError
            return None
        string, self._string = "".join(self._string), None
        self._pos += 1
        return "string", _loads(f'"{string}"') if "\\" in string else string

    def _take(self, kind: str, value: Any) -> Op | None:
        """Go on by a token, and return the operation that it makes, if it does."""
        expected, path, opened = self._expected, self._path, self._opened
        if expected in ("value", "first value") and kind in ("scalar", "string", "{", "["):
            if len(opened) > _MAX_DEPTH:
                raise ValueError
            self._expected = "next" if opened else "end"
            if kind in ("{", "["):
                value, closing, first = ({}, "}", "first key") if kind == "{" else ([], "]", "first value")
                self._path = f"{path}/0"
                self._expected = first
                opened.append([path, 0, closing])
            return {"op": "add", "path": path, "value": value}
        if kind == "string" and expected in ("key", "first key"):
            self._path, self._expected = f"{opened[-1][0]}/{_escape(value)}", ":"
        elif kind == expected == ":":
            self._expected = "value"
        elif kind == "," and expected == "next":
            opened[-1][1] += 1
            self._path = f"{opened[-1][0]}/{opened[-1][1]}"
            self._expected = "key" if opened[-1][2] == "}" else "value"
        elif opened and kind == opened[-1][2] and expected in ("next", "first key", "first value"):
            opened.pop()
            self._expected = "next" if opened else "end"
        else:
            raise ValueError
        return None


# --- Answer: records in; events, completeness and the value out ---------------------------------------------

_ENDS = ("stop", "end", "end_turn", "eos", "eos_token", "stop_sequence")  # servers' names for `stop`
_BESIDE_CONTENT = ("reasoning_content", "reasoning", "tool_calls", "function_call")


def _content(part: dict[str, Any]) -> str:
    """Return the text of a message or a delta: its content is text, or a list of parts."""
    content = part.get("content") or ""
    if isinstance(content, list):
        content = "".join(each.get("text") or "" for each in content if each.get("type") == "text")
    if isinstance(content, dict):  # Cloudflare's engines send decoded JSON
        content = _encode(content)
    if not isinstance(content, str):
        raise TypeError
    return content


def _is_error(it: Any) -> bool:
    """Return whether an error stands in a record, in its choice, or in one of an array of records."""
    if isinstance(it, dict):
        if it.get("error") or it.get("object") == "error" or ("x_groq" in it and _is_error(it["x_groq"])):
            return True
        it = it.get("choices")
    return isinstance(it, list) and any(map(_is_error, it))


class _Answer:
    """What a server answers: reads its records, makes events of them, and judges what they are worth."""

    def __init__(self, model: str, wanted: _OutputType, redact: Callable[[str], str]) -> None:
        self.model, self.wanted, self.redact = model, wanted, redact
        self.completion: ChatCompletion | None = None
        self.document = _Document()
        self.expects_text = False  # a token stream was asked for, or a choice was read
        self.has_end_mark = False
        self.is_abandoned = False  # the caller wants no more of it
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self._start = b""  # what came before the framing was known
        self._framing: _Lines | _ServerSentEvents | None = None
        self._record = b""  # the one that was read last
        self._pieces: list[str] = []  # of the text
        self._text = _Text()
        self._refusal = ""
        self._elsewhere: dict[str, None] = {}  # the other fields in which something stood

    @property
    def is_text(self) -> bool:
        """Whether it is a token stream or a completion, not operations."""
        return bool(self._pieces) or (self.expects_text and not self.document.paths)

    @property
    def raw_output(self) -> str:
        """The JSON text received so far. For operations it is made from the document."""
        if self.is_text:
            return "".join(self._pieces)
        return _encode(self.document.root) if self.document.paths else ""

    def feed(self, data: bytes) -> Iterator[PatchEvent]:
        """Yield the events of the records that `data` completes. A bad record raises `PatchStreamError`."""
        if self._framing is None:  # the start of the first line tells it
            data = self._start = (self._start + data).lstrip(_BEFORE_TEXT)
            if data.startswith(_EVENT_STARTS):
                self._framing = _ServerSentEvents()
            elif not any(each.startswith(data) for each in _EVENT_STARTS):
                self._framing = _Lines()
        return self._read(self._framing.feed(data) if self._framing else [])

    def finish(self) -> Iterator[PatchEvent]:
        """Yield the events that the end of the response completes. An answer that was cut short raises."""
        if self._framing is None and self._start:  # less than the name of a field
            self._framing = _Lines()
            self._framing.feed(self._start)
        yield from self._read(self._framing.finish() if self._framing else [])
        if self.is_abandoned:
            return
        if self.is_text:
            yield from map(self._fold, self._text.feed("", True, self._has_stopped))
            if self._text.is_bad:
                raise self._invalid(None, self.raw_output)
        elif not self.has_end_mark and not isinstance(self._framing, _Lines):
            what = "ended without its end mark: the answer may be cut short" if self._framing else "is empty"
            said = self.redact(_server_message(self._record.decode(errors="replace")))
            message = f"{said} (the stream {what})" if said else f"the stream {what}"
            raise PatchStreamError(message, body=self.redact(self.raw_output))
        elif not self.document.paths:
            raise self._invalid(None, "")
        self.has_end_mark = True  # lines have no other than the end of the response

    def _read(self, records: list[tuple[str, bytes]]) -> Iterator[PatchEvent]:
        for name, data in records:
            if self.has_end_mark or self.is_abandoned:
                return
            try:
                record = from_json(data, allow_inf_nan=False)
            except ValueError:
                record = None
            if name in ("", "patch") and isinstance(record, dict) and record.get("op") == "add":
                self._record = data
                yield self._fold(record)
            else:
                yield from map(self._fold, self._read_other(name, data.strip(), record))

    def _fold(self, op: Op) -> PatchEvent:
        if len(op) > 3:
            self._note(op)
        try:
            return self.document.fold(op)
        except ValueError as error:
            self._fail(f"cannot be applied, as its path {error.__cause__ or error}")
        except (KeyError, AttributeError):
            self._fail("cannot be applied, as its path or value is missing")

    def _read_other(self, name: str, data: bytes, record: Any) -> Iterator[Op]:
        """Yield the operations of a record that is not just one of them."""
        if data == b"[DONE]":
            self.has_end_mark = True
            return
        self._record = data or self._record
        if record is None and data not in (b"", b"null"):
            try:
                record = _loads(data.decode())
            except ValueError:  # not UTF-8, or not JSON
                if name in ("", "message", "patch"):
                    self._fail("is not JSON")
                data = b""
        if isinstance(record, dict):
            self._note(record)
        if name == "error" or _is_error(record):
            self._fail()
        if name == "done" and data:
            self.has_end_mark = True
        if isinstance(record, dict):
            if "op" not in record:
                yield from self._text.feed(self._read_chat(record))
            elif record["op"] == "add":
                yield record
            else:
                self._fail("is not an `add` operation")
        elif record is not None and name != "done":
            self._fail("is not a JSON object")

    def _read_chat(self, record: dict[str, Any]) -> str:
        """Keep what a chunk or a completion tells, and return its piece of the text."""
        try:
            for choice in record.get("choices") or ():
                if choice.get("index") in (0, None):
                    self._note(choice)
                    return self._read_parts(choice, choice.get("delta"), choice.get("message"))
        except (AttributeError, TypeError):  # something in it is no object, or no text
            self._fail("is not a chat completion")
        return ""

    def _read_parts(self, choice: dict[str, Any], delta: Any, message: Any) -> str:
        self.expects_text = True
        part = delta or {}
        if isinstance(part.get("content"), dict):
            raise TypeError
        if message is not None:  # beside a delta, or after text, it repeats what the deltas bring
            self.has_end_mark = self.has_end_mark or delta is None
            is_empty = delta is None or (choice.get("finish_reason") and not _content(delta))
            part = message if is_empty and not self._pieces else part
        self._refusal += part.get("refusal") or ""
        if piece := _content(part):
            self._pieces.append(piece)
        else:
            self._elsewhere |= dict.fromkeys(field for field in _BESIDE_CONTENT if part.get(field))
        return piece

    def _note(self, told: dict[str, Any]) -> None:
        """Keep the finish reason and the usage that a record or a choice tells."""
        reason, usage, groq = told.get("finish_reason"), told.get("usage"), told.get("x_groq") or {}
        self.finish_reason = reason if reason and isinstance(reason, str) else self.finish_reason
        usage = usage or (groq.get("usage") if isinstance(groq, dict) else None)
        self.usage = usage if isinstance(usage, dict) else self.usage

    def _fail(self, what: str | None = None) -> NoReturn:
        """Raise for the record that was read last. Without `what` it is an error that the server reports."""
        record = self.redact(self._record.decode(errors="replace"))
        message = what and f"the stream has a record that {what}: {_shorten(record)}"
        if message and _is_web_page(record):
            message = f"{message}; {_WRONG_URL}"
        raise PatchStreamError(message, body=record)

    def read_completion(self, completion: Any) -> Any:
        """Return the value of a whole completion, as the SDK returns it."""
        self.completion = completion if isinstance(completion, ChatCompletion) else None
        record = completion[0] if isinstance(completion, list) and completion else completion
        if isinstance(record, pydantic.BaseModel):
            record = record.model_dump(warnings=False, exclude_none=True)
        self.has_end_mark = True
        if not isinstance(record, dict):
            text = record if isinstance(record, str) else ""
            raise self._invalid(json.JSONDecodeError("Expecting a chat completion", text, 0), text)
        with contextlib.suppress(PatchStreamError):  # it is not a chat completion
            self._read_chat(record)
        if _is_error(record) or not self._pieces:
            self._record = _encode(record).encode()
            raise self._invalid(None, self.raw_output, reported=_is_error(record))
        return self.validate(self.check())

    def check(self) -> str:
        """Return the JSON text of the answer if it is whole, and raise otherwise."""
        text = self.raw_output
        # JSON text ends by itself, but for a number at its root.
        if not self._has_stopped and (text[-1:].isdigit() or not self.is_text):
            raise self._invalid(None, text)
        return text

    @property
    def _has_stopped(self) -> bool:
        """Whether the server says that the model came to its end."""
        return self.finish_reason.lower() in _ENDS if self.finish_reason else self.has_end_mark

    def validate(self, text: str, wanted: _OutputType | None = None, place: str = "") -> Any:
        """Return the value of a type that JSON text, or that of the element at a place, stands for."""
        try:
            if "NaN" in text or "Infinity" in text:  # outside of strings Pydantic takes them, JSON does not
                _loads(text)
            return (wanted or self.wanted).validate(text)
        except (json.JSONDecodeError, pydantic.ValidationError) as error:
            raise self._invalid(error, text, f"{wanted.name} at {place}" if wanted else "") from error

    def _invalid(self, error: Fault | None, text: str, what: str = "", reported: bool = False) -> Exception:
        """Return the error for text that is not a value of the wanted type, with what to do about it."""
        fault = error or json.JSONDecodeError("The output stops short", text, len(text))
        try:
            _loads(text)
        except json.JSONDecodeError as not_json:  # Pydantic would call it a ValidationError
            fault = not_json
        message = f"{self.model} did not return a valid {what or self.wanted.name}"
        record = self._record.decode(errors="replace") if reported or not text else ""
        if said := _server_message(record) or (_shorten(record) if reported else ""):  # no fault of the model
            reason = f", finish reason {self.finish_reason!r}" if self.finish_reason else ""
            message = f"{self.redact(said)} ({message}{reason})"
        else:
            message = f"{message}: {'; '.join(self._diagnosis(fault, text))}"
        told = dict[str, Any](model=self.model, finish_reason=self.finish_reason, completion=self.completion)
        return InvalidOutputError(message, raw_output=text, original_error=fault, **told)

    def _diagnosis(self, fault: Fault, text: str) -> Iterator[str]:
        is_cut = self.finish_reason == "length" and isinstance(fault, json.JSONDecodeError)
        fields = " and ".join(self._elsewhere)
        if self._refusal:
            yield f"the model refused: {self._refusal!r}"
        elif _is_web_page(text):
            yield _WRONG_URL
        elif isinstance(fault, pydantic.ValidationError):
            first = fault.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the root"
            yield f"{first['msg']} (at {place}: {_show(first['input'])})"
        elif not text and (fields or not is_cut):
            yield f"it sent no content{fields and f', only {fields}'}"
        elif not is_cut:
            yield str(fault)
            is_prose = fault.msg.startswith("Expecting") and not text[: fault.pos].strip()
            if is_prose and self.expects_text and self._has_stopped:
                yield "the engine may not know response_format json_schema"
        if is_cut:
            yield "the output is truncated (finish reason 'length'): raise max_tokens"
        elif self.finish_reason == "content_filter":
            yield "the answer was cut by a content filter (finish reason 'content_filter')"
        elif self.finish_reason not in (None, "stop"):
            yield f"finish reason {self.finish_reason!r}"


# --- Clients: what both share, then streams, then the two ---------------------------------------------------

_ANYTHING = pydantic.TypeAdapter(Any, config=pydantic.ConfigDict(ser_json_inf_nan="constants"))
_NOT_GIVEN = (type(None), openai.NotGiven, openai._types.Omit)
# For streams: server-sent events have an end mark, and compressing proxies hold events back.
_HEADERS = {"accept": "text/event-stream", "accept-encoding": "identity"}
_REFUSALS = (400, 406, 422)  # of patch mode, in words of each engine's own
_NOT_HERE = "messages= and stream= are not arguments here: use input=, and stream() or generate() as it suits"


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


def _checked_url(base_url: Any) -> str:
    url = str(base_url or "").strip() or os.environ.get("DOTTXT_BASE_URL", "").strip()
    url = url or "https://api.dottxt.ai/v1"
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"base_url must start with http:// or https://: {_show(url)} does not")
    return url.rstrip("/")


class _Gateway:
    """What keeps an SDK client to the .txt gateway: a mixin that stands before the SDK's class."""

    def _forget_openai(self, client_kwargs: dict[str, Any]) -> None:
        """Drop what the SDK has read from OpenAI's own environment variables; what the caller gave stays."""
        for name in ("organization", "project", "admin_api_key", "webhook_secret"):
            setattr(self, name, client_kwargs.get(name))
        self._custom_headers: Mapping[str, str] = dict(client_kwargs.get("default_headers") or {})
        self._token_models: set[tuple[str, str]] = set()  # (base URL, model) of engines without patch mode

    def _add_note(self, error: openai.OpenAIError) -> None:
        if (hint := _hint(error)) and sys.version_info >= (3, 11):
            error.add_note(hint)

    if not typing.TYPE_CHECKING:  # checkers keep the SDK's signatures

        def copy(self, **options: Any) -> Any:
            """Like the SDK's `copy`, but a blank key is a `ValueError`."""
            if options.get("api_key") is not None:  # the SDK would ignore a blank one
                options["api_key"] = _checked_key(options["api_key"])
            if not str(options.get("base_url") or "").strip():
                options["base_url"] = None  # the client's own
            client = super().copy(**options)
            client._token_models = self._token_models
            return client

        with_options = copy


def _request(client: Any, model: Any, input: Any, wanted: Any, options: Fields) -> tuple[_Answer, Fields]:
    """Check a call's arguments; return its answer, not read yet, and the arguments of `create`."""
    if "messages" in options or options.get("stream"):
        raise TypeError(_NOT_HERE)
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__}")
    if not isinstance(input, (str, list)):
        raise TypeError(f"input must be a str or a list of message dicts, not {type(input).__name__}")
    output_type = _output_type(wanted)
    messages = [{"role": "user", "content": input}] if isinstance(input, str) else input
    sampling = ("temperature", "max_tokens", "seed")
    options = {name: it for name, it in options.items() if it is not None or name not in sampling}
    request = {"model": model, "messages": messages, "response_format": output_type.request(), **options}
    return _Answer(model, output_type, lambda text: _redact(text, client.api_key)), request


class _Exchange:
    """One streamed request: sends it, asks for tokens where patches are refused, and reads the response."""

    def __init__(self, client: Any, model: str, input: Any, wanted: Any, extra: Any, options: Any) -> None:
        apart = ("extra_headers", "extra_query", "timeout", "extra_body")
        headers, query, timeout, extra_body = (options.pop(name, None) for name in apart)
        # A tracer may put another callable object in the place of the method.
        known = getattr(inspect.unwrap(client.chat.completions.create), "__kwdefaults__", None)
        if known and (unknown := options.keys() - known - {"messages"}):
            raise TypeError(f"stream() got an unexpected keyword argument {min(unknown)!r}: see extra=")
        self.answer, request = _request(client, model, input, wanted, {})
        body = dict(request)
        for name, value in [*options.items(), *(extra or {}).items(), *(extra_body or {}).items()]:
            if name in ("messages", "stream"):
                raise TypeError(_NOT_HERE)
            if name in (*apart, "input"):
                raise TypeError(f"{name} is not a field of the body: stream() has an argument {name}=")
            if not isinstance(value, _NOT_GIVEN):
                if name in body:
                    raise TypeError(f"{name} is given twice")
                body[name] = value
        # Message objects of the SDK become plain dicts.
        self.body = _ANYTHING.dump_python(body, mode="json", by_alias=True, exclude_unset=True)
        headers = headers or {}
        replaced = [name for name in (*client.default_headers, *headers) if name.lower() in _HEADERS]
        headers = {**headers, **dict.fromkeys(replaced, openai._types.Omit()), **_HEADERS}
        given = {"headers": headers, "params": query, "timeout": timeout}
        self.options = {name: value for name, value in given.items() if value is not None}
        self.client = client
        self.server = (str(client.base_url), model)
        self.asks_for_patches = self.server not in client._token_models
        self.response: Any = None
        self.is_cancelled = False  # whether a wait for an event was
        # What `result` raises; `None` once the stream has ended well.
        self.error: Exception | None = RuntimeError("the stream was closed, or a wait cancelled, too early")

    def send(self, stream_class: Any) -> Any:
        """Return the SDK's stream object, whose response nobody has read yet."""
        # Not by `chat.completions.create`: a tracer that wraps it may read the whole response first.
        body = {**self.body, "stream": "patch" if self.asks_for_patches else True}
        how = {"cast_to": object, "stream": True, "stream_cls": stream_class[object]}
        return self.client.post("/chat/completions", body=body, options=self.options, **how)

    def refused(self, error: openai.APIStatusError) -> None:
        """Return if the request must be sent again, for a token stream this time; raise otherwise."""
        status, text = error.status_code, error.response.text
        if self.asks_for_patches and (status in _REFUSALS or (status == 500 and "bool" in text.lower())):
            self.asks_for_patches = False
            return
        self.response = error.response
        raise PatchStreamError(status_code=status, body=self.answer.redact(text)) from error

    def open(self) -> None:
        """Prepare to read the response. Unless its status is 200, its body has been read."""
        if (status := self.response.status_code) != 200:
            raise PatchStreamError(status_code=status, body=self.answer.redact(self.response.text))
        if not self.asks_for_patches:
            self.answer.expects_text = True
            self.client._token_models.add(self.server)

    @property
    def is_read(self) -> bool:
        """Whether to close the response now. A patch stream is read on, to reuse its connection."""
        # Engines that send tokens may announce that they keep a connection, and close it all the same.
        return self.answer.is_abandoned or (self.answer.has_end_mark and self.answer.is_text)

    def finish(self) -> Iterator[PatchEvent]:
        """Yield the events that the end of the response completes."""
        try:
            yield from self.answer.finish()
        finally:
            if self.answer.is_text:
                self.client._token_models.add(self.server)
        self.error = self.error if self.answer.is_abandoned else None

    def failed(self, error: BaseException) -> None:
        """Raise what the caller should see; return after an end mark, or if the caller closed the stream."""
        if not isinstance(error, Exception):
            self.is_cancelled = not isinstance(error, GeneratorExit)
            raise
        names = {base.__name__ for base in type(error).__mro__}
        shown = error
        if not names.isdisjoint(("RequestError", "StreamError")):  # of httpx, httpx2 or another transport
            if self.answer.is_abandoned or self.answer.has_end_mark:
                self.error = self.error if self.answer.is_abandoned else None
                return
            kind = openai.APITimeoutError if "TimeoutException" in names else openai.APIConnectionError
            shown = kind(request=typing.cast(Any, self.response or error).request)
            shown.__cause__ = error
        if isinstance(shown, openai.APIConnectionError):
            shown.args = (f"{str(shown).rstrip('.')}: {_hint(shown)}",)
        self.error = shown
        raise shown

    def check(self) -> str:
        """Return the JSON text of the answer if the stream has ended well, and raise otherwise."""
        if self.error is not None:
            raise self.error
        return self.answer.check()

    # These must not refer to the stream object: when it is dropped, they are closed, and the response too.
    def events(self) -> Generator[PatchEvent, None, None]:
        try:
            while self.response is None:
                try:
                    self.response = self.send(openai.Stream).response
                except openai.APIStatusError as error:
                    self.refused(error)
            with closing(self.response), closing(self.response.iter_bytes()) as chunks:
                if self.response.status_code != 200:
                    self.response.read()
                self.open()
                for chunk in chunks:
                    yield from self.answer.feed(bytes(chunk))
                    if self.is_read:
                        break
                yield from self.finish()
        except BaseException as error:
            self.failed(error)

    async def async_events(self) -> AsyncGenerator[PatchEvent, None]:
        try:
            while self.response is None:
                try:
                    self.response = (await self.send(openai.AsyncStream)).response
                except openai.APIStatusError as error:
                    self.refused(error)
            async with aclosing(self.response), aclosing(self.response.aiter_bytes()) as chunks:
                if self.response.status_code != 200:
                    await self.response.aread()
                self.open()
                async for chunk in chunks:
                    for event in self.answer.feed(bytes(chunk)):
                        yield event
                    if self.is_read:
                        break
                for event in self.finish():
                    yield event
        except BaseException as error:
            self.failed(error)


class _AnyStream(Generic[T]):
    """What both kinds of stream report."""

    _exchange: _Exchange

    def _ready(self, kind: Any, field: str) -> Callable[..., Iterator[Any]]:
        """Check the arguments of `elements`, and return what yields the elements that became complete."""
        if not _is_model(kind) and not isinstance(kind, pydantic.TypeAdapter):
            raise TypeError(f"elements() takes a BaseModel subclass or a TypeAdapter, not {_show(kind)}")
        wanted = _output_type(kind) if _is_model(kind) else _OutputType(kind)
        answer, pointer, count = self._exchange.answer, f"/{field}" if field else "", 0

        def ready(whole: bool = False) -> Iterator[Any]:
            nonlocal count
            array, settled = answer.document.array(pointer)
            while count < (len(array) if whole else settled):
                yield answer.validate(_encode(array[count]), wanted, f"{pointer}/{count}")
                count += 1

        return ready

    @property
    def response(self) -> Any:
        """The HTTP response, `None` before the first event: its headers and its request id."""
        return self._exchange.response

    @property
    def finish_reason(self) -> str | None:
        """The finish reason, once the stream has reported it."""
        return self._exchange.answer.finish_reason

    @property
    def raw_output(self) -> str:
        """The JSON text received so far. For a patch stream it is made from the document."""
        return self._exchange.answer.raw_output

    @property
    def usage(self) -> CompletionUsage | None:
        """The token usage, once the stream has reported it."""
        return CompletionUsage.construct(**usage) if (usage := self._exchange.answer.usage) else None


class PatchStream(_AnyStream[T], contextlib.AbstractContextManager["PatchStream[T]"]):
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

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def elements(self, kind: Typed[ModelT, E], field: str = "") -> Iterator[ModelT | E]:
        """Read on and return an iterator of an array's elements, each as soon as it is complete.

        Args:
            kind: The type of an element: a `BaseModel` subclass or a `TypeAdapter`.
            field: Where the array is, as in `event.field`; `""` is the root.

        Raises `InvalidOutputError` for an element of another type, and what iterating and `result` raise.
        """
        ready = self._ready(kind, field)
        for _ in self._events:
            yield from ready()
        self._exchange.check()
        yield from ready(whole=True)

    def result(self) -> T:
        """Read on to the end and return what `generate` would have returned.

        Raises `InvalidOutputError` for output of another type or cut short, `RuntimeError` if closed early.
        """
        for _ in self._events:
            pass
        return self._exchange.answer.validate(self._exchange.check())  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection, so that the gateway stops generating. No more events come.

        Called from a thread other than the one that reads, it takes effect at the stream's next chunk.
        """
        self._exchange.answer.is_abandoned = True
        with contextlib.suppress(ValueError):  # another thread is reading: it stops at its next chunk
            self._events.close()


class _AsyncIterator(AsyncIterator[E]):
    """What an exchange gives. A wait that was cancelled is never followed by what looks like an end."""

    def __init__(self, exchange: _Exchange, events: AsyncGenerator[E, None]) -> None:
        self._exchange, self._events = exchange, events

    async def __anext__(self) -> E:
        try:
            return await self._events.__anext__()
        except StopAsyncIteration:
            if self._exchange.is_cancelled:
                self._exchange.check()
            raise


class AsyncPatchStream(_AnyStream[T], _AsyncIterator[PatchEvent],
    contextlib.AbstractAsyncContextManager["AsyncPatchStream[T]"]):  # fmt: skip
    """The asynchronous `PatchStream`. It raises the same errors."""

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def elements(self, kind: Typed[ModelT, E], field: str = "") -> AsyncIterator[ModelT | E]:
        """Like `PatchStream.elements`, but the iterator is asynchronous. Raises the same errors."""
        return _AsyncIterator(self._exchange, self._elements(self._ready(kind, field)))

    async def _elements(self, ready: Callable[..., Iterator[E]]) -> AsyncGenerator[E, None]:
        async for _ in self:
            for element in ready():
                yield element
        self._exchange.check()
        for element in ready(whole=True):
            yield element

    async def result(self) -> T:
        """Like `PatchStream.result`: return the value or raise the same errors."""
        async for _ in self._events:
            pass
        return self._exchange.answer.validate(self._exchange.check())  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the connection, so that the gateway stops generating. No more events come."""
        self._exchange.answer.is_abandoned = True
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

    def __init__(self, *, api_key: Any = None, base_url: Any = None, **client_kwargs: Any) -> None:
        super().__init__(api_key=_checked_key(api_key), base_url=_checked_url(base_url), **client_kwargs)
        self._forget_openai(client_kwargs)

    # fmt: off
    @overload
    def generate(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ..., **options: Any) -> ModelT | T: ...
    @overload
    def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ..., **options: Any) -> Any: ...
    def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None, **options: Any) -> Any:
        """Ask for data of a type and return it.

        Args:
            model: The model's id.
            input: The prompt, or a list of OpenAI-style message dicts.
            response_format: The output type; see `normalize_schema`. A `BaseModel` subclass gives a validated
                instance, a `TypeAdapter` the validated value of its type, all else decoded JSON.
            temperature, max_tokens, seed: As in the SDK's `create`. `None` is not sent.
            **options: Other arguments of `chat.completions.create`.

        Raises `InvalidSchemaError` before anything is sent, `InvalidOutputError` for output that is not of
        the type, and `openai.APIError` as the SDK does.
        """
        return self.generate_with_completion(model=model, input=input, response_format=response_format,
            temperature=temperature, max_tokens=max_tokens, seed=seed, **options)[0]

    @overload
    def generate_with_completion(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        **options: Any) -> tuple[ModelT | T, ChatCompletion]: ...
    @overload
    def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        **options: Any) -> tuple[Any, ChatCompletion]: ...
    def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None,
        **options: Any) -> tuple[Any, ChatCompletion]:
        """Like `generate`; returns the value and the SDK's `ChatCompletion` (usage, finish reason, ids)."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        answer, request = _request(self, model, input, response_format, options)
        try:
            completion: Any = self.chat.completions.create(**request)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # the response is not JSON
            completion = getattr(error, "doc", "")
        except openai.OpenAIError as error:
            self._add_note(error)
            raise
        return answer.read_completion(completion), completion

    @overload
    def stream(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> PatchStream[ModelT | T]: ...
    @overload
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> PatchStream[Any]: ...
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None,
        timeout: Any = None, extra: Fields | None = None, **options: Any) -> PatchStream[Any]:
        """Ask for data of a type and return an iterator of its parts, each there as soon as it is written.

        The arguments are checked at once (`InvalidSchemaError`, `TypeError`); the request is sent when the
        first event is asked for. An engine without patch mode is asked for its token stream instead.

        Args:
            timeout: In seconds (or the SDK's `Timeout`), in place of the client's.
            extra: Other fields of the request's body, unknown ones included.
            **options: Other arguments of `chat.completions.create`. All others are as for `generate`.
        """
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "timeout": timeout}
        return PatchStream(_Exchange(self, model, input, response_format, extra, options))
    # fmt: on


class AsyncDotTxt(_Gateway, openai.AsyncOpenAI):
    """The asynchronous client: an `openai.AsyncOpenAI` with the methods of `DotTxt`, and its arguments."""

    def __init__(self, *, api_key: Any = None, base_url: Any = None, **client_kwargs: Any) -> None:
        super().__init__(api_key=_checked_key(api_key), base_url=_checked_url(base_url), **client_kwargs)
        self._forget_openai(client_kwargs)

    # fmt: off
    @overload
    async def generate(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ..., **options: Any) -> ModelT | T: ...
    @overload
    async def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ..., **options: Any) -> Any: ...
    async def generate(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None, **options: Any) -> Any:
        """Like `DotTxt.generate`. Raises `InvalidSchemaError`, `InvalidOutputError`, `openai.APIError`."""
        return (await self.generate_with_completion(model=model, input=input, response_format=response_format,
            temperature=temperature, max_tokens=max_tokens, seed=seed, **options))[0]

    @overload
    async def generate_with_completion(self, *, model: str, input: Messages,
        response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        **options: Any) -> tuple[ModelT | T, ChatCompletion]: ...
    @overload
    async def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        **options: Any) -> tuple[Any, ChatCompletion]: ...
    async def generate_with_completion(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None,
        **options: Any) -> tuple[Any, ChatCompletion]:
        """Like `DotTxt.generate_with_completion`. Raises what `generate` raises."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        answer, request = _request(self, model, input, response_format, options)
        try:
            completion: Any = await self.chat.completions.create(**request)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # the response is not JSON
            completion = getattr(error, "doc", "")
        except openai.OpenAIError as error:
            self._add_note(error)
            raise
        return answer.read_completion(completion), completion

    @overload
    def stream(self, *, model: str, input: Messages, response_format: Typed[ModelT, T],
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> AsyncPatchStream[ModelT | T]: ...
    @overload
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = ..., max_tokens: Int = ..., seed: Int = ...,
        timeout: Any = ..., extra: Fields | None = ..., **options: Any) -> AsyncPatchStream[Any]: ...
    def stream(self, *, model: str, input: Messages, response_format: object,
        temperature: Float = None, max_tokens: Int = None, seed: Int = None,
        timeout: Any = None, extra: Fields | None = None, **options: Any) -> AsyncPatchStream[Any]:
        """Like `DotTxt.stream`, but the iterator is asynchronous. Raises the same errors."""
        options |= {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "timeout": timeout}
        exchange = _Exchange(self, model, input, response_format, extra, options)
        return AsyncPatchStream(exchange, exchange.async_events())
    # fmt: on


# --- Command line -------------------------------------------------------------------------------------------

_write = functools.partial(print, end="", flush=True)  # in one piece, as parallel commands may share a file


class _CommandLine:
    """The commands. Each public method is one, and its docstring is the help."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.started = time.monotonic()

    def models(self) -> None:
        """List the models, one id a line."""
        with DotTxt() as client:
            try:
                records = typing.cast(Any, client.get("/models", cast_to=object))["data"]
                ids = "".join(record["id"] + "\n" for record in records)
            except (LookupError, TypeError, ValueError):
                records = None
        if not isinstance(records, list):
            raise ValueError("the server did not send a list of models: does DOTTXT_BASE_URL end in /v1?")
        _write(f"{_encode(records)}\n" if self.arguments.json else ids)

    def generate(self) -> None:
        """Print the data as JSON.

        example:
          cat mail.txt | dottxt generate -s myapp.models:Ticket -m openai/gpt-oss-20b "Classify this:" -
        """
        with DotTxt() as client:
            _, completion = client.generate_with_completion(**self._request())
        said = _content(completion.choices[0].message.model_dump(warnings=False))
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
                    _write(f"{_encode(event.op)}\n")
                elif event.field or event.value not in ({}, []):
                    field = _encode(event.field)[1:-1]  # a key may contain control characters
                    _write(f"{field} = {_encode(event.value)}\n".removeprefix(" = "))
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
            message = re.sub("^response_format", "the schema", str(error))
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
                _write(f"dottxt: reading the prompt from the terminal; end it with {end}\n", file=sys.stderr)
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
            sent, got = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
            told = f"model {self.arguments.model}, finish reason {finish_reason}, tokens {sent} + {got}"
            _write(f"dottxt: {told}, {time.monotonic() - self.started:.2f} s\n", file=sys.stderr)


def _cli_message(error: Exception, key: str) -> str:
    """Return what went wrong and what to do next, as one line."""
    if isinstance(error, openai.APIStatusError):
        error = PatchStreamError(status_code=error.status_code, body=_redact(error.response.text, key))
    text = str(error)
    if isinstance(error, openai.APIConnectionError):
        text = f"{_hint(error)}; check DOTTXT_BASE_URL"
    elif not isinstance(error, (ValueError, RuntimeError, openai.OpenAIError)):
        text = f"{type(error).__name__}: {text}"
    text = re.sub(r"\bbase_url(?= is prob| usually| must)", "DOTTXT_BASE_URL", _redact(text, key))
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
        _write("dottxt: standard output is closed\n", file=sys.stderr)
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
        _write(f"dottxt: {_cli_message(error, key)}\n", file=sys.stderr)
        if received := getattr(error, "raw_output", received):
            _write(f"{_redact(received, key)}\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
