"""dottxt: structured generation with the .txt API and with any OpenAI-compatible engine.

A prompt and an output type go in, data of exactly that type comes out, whole or field by field:

    from dottxt import DotTxt

    client = DotTxt()  # reads DOTTXT_API_KEY and DOTTXT_BASE_URL
    question = {"model": "openai/gpt-oss-20b", "input": "I was charged twice.", "response_format": Ticket}
    ticket = client.generate(**question)
    for event in client.stream(**question):
        print(event.field, event.value)

One file on the OpenAI SDK and Pydantic: install it, or copy it into a project under any name.
The main names: DotTxt, AsyncDotTxt, PatchEvent, apply_add, normalize_schema, and three errors.

Copyright (c) 2026 The dottxt developers. License: MIT (https://opensource.org/license/mit).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib
import inspect
import json
import marshal
import os
import re
import socket
import sys
import threading
import types
import typing
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from typing import Any, Generic, NoReturn, TypeVar, overload

import openai
import pydantic
from openai.types.chat import ChatCompletion
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema

if typing.TYPE_CHECKING:
    import openai.resources

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
ClientT = TypeVar("ClientT", bound="_Client")
Op = dict[str, Any]  # one JSON Patch operation (RFC 6902 §4)
Messages = str | list[Any]  # one user message, or OpenAI-style message dicts

# ------------------------------------------------------------------------------------------------
# Errors
# ------------------------------------------------------------------------------------------------


class InvalidSchemaError(ValueError):
    """The `response_format` describes no output. Raised before anything is sent."""


class InvalidOutputError(ValueError):
    """The model's output cannot be turned into the requested structure.

    Attributes:
        model: The model that was asked.
        raw_output: All the text that the model sent, `""` if it sent none.
        finish_reason: The completion's finish reason, where there is one.
        original_error: The `json.JSONDecodeError` or `pydantic.ValidationError` behind it.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str = "",
        raw_output: str = "",
        finish_reason: str | None = None,
        original_error: json.JSONDecodeError | pydantic.ValidationError | None = None,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.raw_output = raw_output
        self.finish_reason = finish_reason
        self.original_error = original_error

    # `pickle` and `copy` rebuild an exception from its message, hence the defaults above, and from its state.
    # A ValidationError goes as plain data: one that holds a validator's own exception could not be rebuilt.
    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        error = self.original_error
        if isinstance(error, pydantic.ValidationError):
            items = [(item["type"], item["msg"], item["loc"], item["input"]) for item in error.errors()]
            state["original_error"] = (error.title, items)
        return type(self), self.args, state

    def __setstate__(self, state: Any) -> None:
        if isinstance(state["original_error"], tuple):
            state = {**state, "original_error": _validation_error(*state["original_error"])}
        self.__dict__.update(state)


def _validation_error(title: str, items: list[tuple[Any, ...]]) -> pydantic.ValidationError:
    return pydantic.ValidationError.from_exception_data(
        title,
        [
            {"type": PydanticCustomError(kind, "{message}", {"message": text}), "loc": loc, "input": given}
            for kind, text, loc, given in items
        ],
    )


class PatchStreamError(RuntimeError):
    """A stream was answered with another status than 200, or breaks the protocol.

    Attributes:
        status_code: The HTTP status of the response.
        body: The text of the response, or the line that breaks the protocol.
    """

    def __init__(self, message: str, *, status_code: int = 200, body: str = "") -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _show(value: object) -> str:
    try:
        return _shorten(repr(value))
    except Exception:  # an integer of too many digits, or a `__repr__` that fails
        return f"an instance of {type(value).__name__}"


# ------------------------------------------------------------------------------------------------
# Schemas: any output type in, JSON Schema object out
# ------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_decode, _raw_decode = _decoder.decode, _decoder.raw_decode


def _loads(text: str) -> Any:
    """Decode JSON text (RFC 8259); whatever is wrong with it is a `json.JSONDecodeError`."""
    try:
        return _decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("Nested too deep", text, 0) from None
    except ValueError as error:  # NaN, Infinity, or an integer of more digits than Python converts
        raise json.JSONDecodeError(str(error), text, 0) from None


def _is_model(response_format: object) -> bool:
    # On Python 3.10 `list[int]` passes for a class, hence the look at its origin.
    return (
        typing.get_origin(response_format) is None
        and isinstance(response_format, type)
        and issubclass(response_format, pydantic.BaseModel)
    )


def normalize_schema(response_format: object) -> dict[str, Any]:
    """Return the JSON Schema object that `response_format` stands for, as a dict of its own.

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
    """Return the `response_format` of a chat completion that asks for `response_format`.

    Args:
        response_format: As for `normalize_schema`.
        name: The schema's name in the request.

    Raises:
        InvalidSchemaError: As `normalize_schema`.
    """
    return _wrap(normalize_schema(response_format), name)


def _wrap(schema: dict[str, Any], name: str = "response") -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def _schema(given: Any) -> dict[str, Any]:
    """Return the schema itself, which the cache or the caller owns: not to be changed."""
    if isinstance(given, str):
        return _schema_from_text(given, "the text given as response_format")
    if isinstance(given, dict):
        _check_dict(given)
        return given
    if isinstance(given, (pydantic.TypeAdapter, type)) or typing.get_origin(given):
        return _schema_of_type(given)
    if isinstance(given, pydantic.BaseModel):
        raise InvalidSchemaError(
            f"response_format is an instance of {type(given).__name__}: pass the class itself"
        )
    if isinstance(given, (list, tuple, set, frozenset)):
        raise InvalidSchemaError(
            f"response_format is a raw {type(given).__name__} instance: pass list[T] or a JSON Schema object"
        )
    if inspect.isroutine(given) or isinstance(given, functools.partial):
        raise InvalidSchemaError(
            "response_format is a function: pass a type (what it returns, perhaps) or a JSON Schema object"
        )
    if given is None:
        raise InvalidSchemaError("response_format is None: pass a type or a JSON Schema object")
    try:
        builds = callable(getattr(given, "to_json", None))
    except Exception as error:
        raise InvalidSchemaError(
            f"response_format is an instance of {type(given).__name__} whose to_json cannot be read: {error}"
        ) from error
    return _schema_from_builder(given) if builds else _schema_of_type(given)


def _dumps(schema: dict[str, Any], source: str) -> str:
    """Return the text of a schema that can be sent."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSchemaError(
            f"{source} holds what JSON has no text for ({error}): it must be a JSON Schema object"
        ) from error
    return text


def _schema_from_text(text: str, source: str) -> dict[str, Any]:
    try:
        schema = _loads(text)
    except json.JSONDecodeError as error:
        raise InvalidSchemaError(
            f"{source} is not JSON ({error}): it must be the text of a JSON Schema object"
        ) from error
    if not isinstance(schema, dict):
        raise InvalidSchemaError(
            f"{source} is JSON, but no object ({_shorten(text)}): "
            'it must be a JSON Schema object, such as {"type": "string"}'
        )
    _check(_dumps(schema, source))
    return schema


def _schema_from_builder(builder: Any) -> dict[str, Any]:
    source = f"{type(builder).__name__}.to_json()"
    try:
        text = builder.to_json()
    except Exception as error:
        raise InvalidSchemaError(f"{source} failed: {type(error).__name__}: {error}") from error
    if not isinstance(text, str):
        raise InvalidSchemaError(
            f"{source} returned {type(text).__name__}: it must return the text of a JSON Schema object as str"
        )
    return _schema_from_text(text, f"the text that {source} returned")


_type_schemas: dict[object, dict[str, Any]] = {}


def _schema_of_type(given: Any) -> dict[str, Any]:
    key = _type_key(given)
    cached = _type_schemas.get(key)
    if cached is not None:
        return cached
    try:
        if isinstance(given, pydantic.TypeAdapter):
            schema = given.json_schema()
        elif _is_model(given):
            schema = given.model_json_schema()
        else:
            # Pydantic resolves names in the frame of the caller: ours, not one of this module.
            depth, frame = 2, sys._getframe()
            while frame.f_back is not None and frame.f_globals is globals():
                depth, frame = depth + 1, frame.f_back
            schema = pydantic.TypeAdapter(given, _parent_depth=depth).json_schema()
    except Exception as error:
        raise InvalidSchemaError(
            f"Pydantic cannot describe response_format {_show(given)}: {error}. "
            "Pass the class itself, a TypeAdapter made where its names are known, or a JSON Schema object"
        ) from error
    _dumps(schema, f"the schema of {_show(given)}")
    if len(_type_schemas) >= 1024:  # types made on the fly must not add up
        _type_schemas.clear()
    if not _has_forward_reference(given):
        _type_schemas[key] = schema
    return schema


def _has_forward_reference(given: Any) -> bool:
    """Tell whether a type holds a name (`list["Ticket"]`), which means something else in each module."""
    if typing.get_origin(given) is typing.Literal:
        return False
    if typing.get_origin(given) is typing.Annotated:
        given = given.__origin__
    return isinstance(given, (str, typing.ForwardRef)) or any(
        map(_has_forward_reference, typing.get_args(given))
    )


class _Identity:
    """A value as a key that equals itself alone."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.value is self.value


def _type_key(given: Any) -> object:
    """Return a key that is equal for equal types (each `list[A]` is a new object) and keeps none alive."""
    args = typing.get_args(given)
    if args:
        return (_type_key(typing.get_origin(given)), *map(_type_key, args))
    try:
        hash(given)
    except TypeError:  # what Annotated carries
        return _Identity(given)
    try:
        return weakref.ref(given)
    except TypeError:  # a value of a Literal; its type, because 1 == True
        return (type(given), given)


_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_BRANCH = "\ufdd0"  # a noncharacter starts the names of a union's branches, to tell them from keywords


def _check_dict(schema: dict[str, Any]) -> None:
    try:
        data = marshal.dumps(schema)  # a key for the cache, in a third of the time that JSON would take
    except ValueError:  # something in it is no plain data
        _check(_dumps(schema, "the dict given as response_format"))
    else:
        _check_marshalled(data)


@functools.lru_cache(maxsize=256)
def _check_marshalled(data: bytes) -> None:
    _check(_dumps(marshal.loads(data), "the dict given as response_format"))


def _check(text: str) -> None:
    """Raise unless a schema has the shape that the meta-schema of draft 2020-12 demands."""
    schema = _loads(text)
    draft = schema.get("$schema", _DRAFT)
    other_draft = isinstance(draft, str) and draft.rstrip("#") != _DRAFT
    if other_draft or schema.get("type") == "structural-tag":
        return
    try:
        _meta_validator().validate_python(schema)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"] if not str(part).startswith(_BRANCH)]
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
        what = "it nests too deep" if first["type"].startswith("recursion") else first["msg"]
        raise InvalidSchemaError(
            f'response_format is no valid JSON Schema (draft 2020-12) at "{pointer}": {what}'
        ) from error


@functools.cache
def _meta_validator() -> Any:
    """Build the validator of draft 2020-12's meta-schema: a table of its keywords."""

    def rule(test: Callable[[Any], bool], message: str, shape: Any = None) -> Any:
        def check(value: Any) -> Any:
            if not test(value):
                raise PydanticCustomError("json_schema", message)
            return value

        return core_schema.no_info_after_validator_function(check, shape or core_schema.any_schema())

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def is_count(value: Any) -> bool:  # 2.0 is an integer (validation §6.1.1 and core §4.2.3)
        return is_number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())

    def is_unique(value: Any) -> bool:
        return len(set(value)) == len(value)

    def mapping(values: Any) -> Any:
        return core_schema.dict_schema(string, values, strict=True)

    def pattern(regex: str) -> Any:
        return core_schema.str_schema(strict=True, pattern=regex)

    def either(kind: type, shape: Any, other: Any, ref: str | None = None) -> Any:
        return core_schema.tagged_union_schema(
            {f"{_BRANCH}{kind.__name__}": shape, f"{_BRANCH}other": other},
            discriminator=lambda value: _BRANCH + (kind.__name__ if isinstance(value, kind) else "other"),
            ref=ref,
        )

    anything = core_schema.any_schema()
    string = core_schema.str_schema(strict=True)
    boolean = core_schema.bool_schema(strict=True)
    array = core_schema.list_schema(strict=True)
    number = rule(is_number, "Input should be a number")
    positive = rule(lambda value: is_number(value) and value > 0, "Input should be a number greater than 0")
    count = rule(is_count, "Input should be a non-negative integer")
    strings = rule(is_unique, "Items should be unique", core_schema.list_schema(string, strict=True))
    name = core_schema.literal_schema(["array", "boolean", "integer", "null", "number", "object", "string"])
    names = rule(
        is_unique, "Items should be unique", core_schema.list_schema(name, min_length=1, strict=True)
    )
    anchor = pattern(r"^[A-Za-z_][-A-Za-z0-9._]*$")
    schema = core_schema.definition_reference_schema("schema")
    schemas = core_schema.list_schema(schema, min_length=1, strict=True)

    keywords = {
        # Core §8
        "$id": pattern("^[^#]*#?$"),
        "$schema": string,
        "$ref": string,
        "$anchor": anchor,
        "$dynamicRef": string,
        "$dynamicAnchor": anchor,
        "$vocabulary": mapping(boolean),
        "$comment": string,
        "$defs": mapping(schema),
        # Core §10 and §11: applicators
        **dict.fromkeys(["allOf", "anyOf", "oneOf", "prefixItems"], schemas),
        **dict.fromkeys(["not", "if", "then", "else", "items", "contains"], schema),
        **dict.fromkeys(["additionalProperties", "propertyNames"], schema),
        **dict.fromkeys(["unevaluatedItems", "unevaluatedProperties"], schema),
        **dict.fromkeys(["properties", "patternProperties", "dependentSchemas"], mapping(schema)),
        # Validation §6
        "type": either(list, names, name),
        "enum": array,
        "const": anything,
        "multipleOf": positive,
        **dict.fromkeys(["maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"], number),
        **dict.fromkeys(["maxLength", "minLength", "maxItems", "minItems"], count),
        **dict.fromkeys(["maxContains", "minContains", "maxProperties", "minProperties"], count),
        "pattern": string,
        "uniqueItems": boolean,
        "required": strings,
        "dependentRequired": mapping(strings),
        # Validation §7 to §9
        **dict.fromkeys(["format", "contentEncoding", "contentMediaType", "title", "description"], string),
        "contentSchema": schema,
        **dict.fromkeys(["deprecated", "readOnly", "writeOnly"], boolean),
        "examples": array,
        # Kept by the meta-schema from earlier drafts
        "definitions": mapping(schema),
        "dependencies": mapping(either(list, strings, schema)),
        "$recursiveAnchor": anchor,
        "$recursiveRef": string,
    }
    fields = {key: core_schema.typed_dict_field(shape, required=False) for key, shape in keywords.items()}
    definition = either(bool, boolean, core_schema.typed_dict_schema(fields, strict=True), ref="schema")
    return SchemaValidator(core_schema.definitions_schema(schema, [definition]))


# `import dottxt.schemas` works although there is one file, under whatever name it was copied.
schemas = types.ModuleType(f"{__name__}.schemas", "The schema helpers of the module above.")
schemas.__dict__.update(
    InvalidSchemaError=InvalidSchemaError,
    normalize_schema=normalize_schema,
    build_response_format=build_response_format,
    __all__=["InvalidSchemaError", "build_response_format", "normalize_schema"],
)
sys.modules[schemas.__name__] = schemas

# ------------------------------------------------------------------------------------------------
# Patches: JSON Patch `add` (RFC 6902 §4.1) with JSON Pointers (RFC 6901), and the document that folds them
# ------------------------------------------------------------------------------------------------

_MAX_DEPTH = 400  # far beyond any schema, and below the recursion limit of `json`
_ABSENT: Any = object()
_CONTAINERS = (dict, list)
_SCALARS = {str, int, float, bool, type(None)}
_INDEX = re.compile("0|[1-9][0-9]*")  # RFC 6901 §4: array-index
_BAD_ESCAPE = re.compile("~(?![01])")  # RFC 6901 §3: escaped


def _copy(value: Any, depth: int = 0) -> Any:
    """Return a deep copy of a JSON value that stands `depth` levels deep in its document."""
    if not isinstance(value, _CONTAINERS):
        return value
    root = value.copy()
    level: list[Any] = [root]
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nests deeper than {_MAX_DEPTH} levels")
        below = []
        for container in level:
            for key, child in container.items() if isinstance(container, dict) else enumerate(container):
                if type(child) not in _SCALARS and isinstance(child, _CONTAINERS):
                    container[key] = child = child.copy()
                    below.append(child)
        level = below
    return root


def _to_text(value: Any, **options: Any) -> str:
    """Return a JSON value's text."""
    text = json.dumps(value, ensure_ascii=False, **options)
    if "Infinity" in text:  # what 1e400 was read as; it has to be a number again
        text = re.sub(r'("(?:[^"\\]|\\.)*")|Infinity', lambda match: match[1] or "1e999", text)
    return text


def _unescape(token: str) -> str:
    if "~" not in token:
        return token
    if _BAD_ESCAPE.search(token):
        raise ValueError("has a ~ that is neither ~0 nor ~1")
    return token.replace("~1", "/").replace("~0", "~")


def _resolve(root: Any, pointer: str) -> Any:
    """Return the value that a JSON Pointer refers to (RFC 6901 §4)."""
    if not pointer:
        return root
    first, *tokens = pointer.split("/", _MAX_DEPTH + 1)
    if first:
        raise ValueError("does not start with /")
    if len(tokens) > _MAX_DEPTH:
        raise ValueError(f"nests deeper than {_MAX_DEPTH} levels")
    value = root
    for token in tokens:
        if isinstance(value, dict):
            key = _unescape(token)
            if key not in value:
                raise ValueError("has no parent in the document")
            value = value[key]
        elif isinstance(value, list):
            value = value[_index(token, len(value) - 1)]
        else:
            raise ValueError("has a parent that is neither object nor array")
    return value


def _index(token: str, last: int) -> int:
    # The length first: Python refuses to convert thousands of digits.
    if not _INDEX.fullmatch(token) or len(token) > 20 or int(token) > last:
        raise ValueError("has an array index that is malformed or out of range")
    return int(token)


class _Document:
    """A JSON document under construction. Each `add` can be undone, which gives earlier states back."""

    __slots__ = ("_open", "_pointer", "last", "lock", "root")

    def __init__(self, root: Any = _ABSENT) -> None:
        self.root = root
        self.lock = threading.Lock()  # a snapshot may be read in another thread than the one that reads on
        self.last: PatchEvent | None = None
        # The container that is likely to be added to next, and where it is.
        self._open: Any = None
        self._pointer: str | None = None

    def add(self, path: str, value: Any) -> tuple[str, Any]:
        """Apply one `add` and return what undoes it: the place, and the value that was there before."""
        pointer, slash, token = path.rpartition("/")
        try:
            if not slash:
                if path:
                    raise ValueError("does not start with /")
                before, self.root = self.root, _copy(value)
                self._open, self._pointer = self.root, ""
                return path, before
            if pointer != self._pointer:
                self._open, self._pointer = _resolve(self.root, pointer), pointer
            parent = self._open
            opens = isinstance(value, _CONTAINERS)
            if opens:
                value = _copy(value, path.count("/"))
            if isinstance(parent, dict):
                key = _unescape(token) if "~" in token else token
                before = parent.get(key, _ABSENT)
                parent[key] = value
            elif isinstance(parent, list):
                before = _ABSENT
                end = str(len(parent))
                if token == "-":  # RFC 6902 §4.1: the place after the last element
                    token, path = end, f"{pointer}/{end}"
                if token == end:
                    parent.append(value)
                else:
                    parent.insert(_index(token, len(parent)), value)
            else:
                raise ValueError("has a parent that is neither object nor array")
        except ValueError as error:
            self._pointer = None
            raise ValueError(f"JSON Pointer {_shorten(path)!r} {error}") from None
        if opens:
            self._open, self._pointer = value, path
        return path, before

    def fold(self, op: Op) -> PatchEvent:
        """Apply a received operation and return its event."""
        event: PatchEvent = PatchEvent.__new__(PatchEvent)
        event.op = op
        event._document = self
        event._next = None
        with self.lock:
            event._undo = self.add(op["path"], op["value"])
            if self.last is not None:
                self.last._next = event
            self.last = event
        return event


def _undo(root: Any, path: str, before: Any) -> Any:
    """Take one `add` back and return the root."""
    if not path:
        return _copy(before)
    parent_pointer, _, token = path.rpartition("/")
    parent = _resolve(root, parent_pointer)
    if isinstance(parent, list):
        del parent[int(token)]
    elif before is _ABSENT:
        del parent[_unescape(token)]
    else:
        parent[_unescape(token)] = _copy(before)
    return root


class PatchEvent:
    """One operation of a stream, and the document as it was then.

    Args:
        op: The operation (RFC 6902 §4.1), `{"op": "add", "path": …, "value": …}`.
        snapshot: The document up to and including it.
    """

    __slots__ = ("_document", "_next", "_undo", "op")
    __match_args__ = ("field", "value")

    # Each event leads to the next, not to the one before: whoever holds an event can take the later ones back
    # from a copy of the newest document, and events that nobody holds are gone.
    op: Op
    _document: _Document
    _next: PatchEvent | None
    _undo: tuple[str, Any]

    def __init__(self, *, op: Op, snapshot: Any) -> None:
        self.op = op
        self._document = _Document(_copy(snapshot))
        self._next = None

    @property
    def field(self) -> str:
        """The JSON Pointer without its leading `/`: `"intent"`, `"steps/0"`, `""` for the root."""
        return self.op["path"][1:]  # type: ignore[no-any-return]

    @property
    def value(self) -> Any:
        """The operation's value; `{}` and `[]` where a container opens."""
        return self.op["value"]

    @property
    def snapshot(self) -> Any:
        """The document up to and including this operation: a deep copy, made each time it is asked for."""
        later = []
        with self._document.lock:
            root = _copy(self._document.root)
            event = self._next
            while event is not None:
                later.append(event._undo)
                event = event._next
        for path, before in reversed(later):
            root = _undo(root, path, before)
        return root

    def __repr__(self) -> str:
        return f"PatchEvent(op={self.op!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_event, (self.op, self.snapshot)


def _rebuild_event(op: Op, snapshot: Any) -> PatchEvent:
    return PatchEvent(op=op, snapshot=snapshot)


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
    if not isinstance(path, str):
        raise ValueError(f"JSON Pointer {path!r} is no str")
    document = _Document(doc)
    document.add(path, value)
    return document.root


# ------------------------------------------------------------------------------------------------
# Parsers: bytes in, operations out; text in, operations out
# ------------------------------------------------------------------------------------------------


class _Lines:
    """Cut bytes into lines, which end at `\\n` and nowhere else."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes."""
        first, *lines = data.split(b"\n")
        self._pieces.append(first)
        if not lines:
            return lines
        first = b"".join(self._pieces)
        self._pieces = [lines.pop()]
        return [first, *lines]

    def close(self) -> list[bytes]:
        """Return the unterminated last line, if there is one."""
        line = b"".join(self._pieces)
        self._pieces = []
        return [line] if line else []


class _PatchParser:
    """Read the gateway's patch stream: NDJSON, one `add` operation a line.

    An engine that ignores the request for a stream sends one `chat.completion` object instead; `completion`
    is then what it says.
    """

    done = False  # a patch stream has no end mark

    def __init__(self) -> None:
        self.completion: _Completion | None = None
        self.line = b""  # the line that was read last
        self._lines = _Lines()
        self._started = False
        self._object: list[bytes] | None = None  # the lines of a pretty-printed object

    def feed(self, data: bytes) -> Iterator[Op]:
        """Yield the operations of the lines that `data` completes."""
        return self._read(self._lines.feed(data))

    def close(self) -> Iterator[Op]:
        """Yield what an unterminated last line holds."""
        yield from self._read(self._lines.close())
        if self._object is not None:
            text = b"\n".join(self._object).strip()
            yield from self._read_completion(text, self._parse(text))
        if self.completion is not None:
            yield from self.completion.close()

    def _read(self, lines: list[bytes]) -> Iterator[Op]:
        for line in lines:
            if self._object is not None:
                self._object.append(line)
                continue
            self.line = line
            text = line.strip(b" \t\r")
            if not text:
                continue
            if text == b"{" and not self._started:
                self._object = [line]
                continue
            op = self._parse(text)
            if not isinstance(op, dict):
                self._refuse(line, "no operation")
            if op.get("op") == "add" and isinstance(op.get("path"), str) and "value" in op:
                self._started = True
                yield op
            elif "choices" in op and not self._started:
                yield from self._read_completion(line, op)
            else:
                self._refuse(line, "an error" if "error" in op else "no add operation")

    def _read_completion(self, line: bytes, answer: Any) -> Iterator[Op]:
        self.completion = _Completion()
        try:
            choices = answer["choices"]
            if choices:
                yield from self.completion.take(choices[0]["message"], choices[0].get("finish_reason"))
            self.completion.ended = True
        except (TypeError, KeyError, AttributeError):
            self._refuse(line, "no chat completion")

    def _parse(self, line: bytes) -> Any:
        try:
            text = line.decode()
            value, end = _raw_decode(text)
        except (ValueError, RecursionError):
            self._refuse(line, "not JSON")
        if end != len(text):
            self._refuse(line, "not JSON")
        return value

    def _refuse(self, line: bytes, what: str) -> NoReturn:
        _refuse_line(line.decode(errors="replace"), what)


def _refuse_line(line: str, what: str) -> NoReturn:
    raise PatchStreamError(f"the stream has a line that is {what}: {_shorten(line)}", body=line)


class _ChunkParser:
    """Read a token stream: server-sent events, one `chat.completion.chunk` object each."""

    def __init__(self) -> None:
        self.completion = _Completion()
        self.done = False  # [DONE] was read
        self._lines = _Lines()
        self._at_start = True
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Op]:
        """Yield the operations of the text in the events that `data` completes."""
        # HTML standard §9.2.5: a line ends at \r\n, \n or \r.
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return self._read(self._lines.feed(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")))

    def close(self) -> Iterator[Op]:
        """Yield what the end of the stream completes."""
        # An event that no blank line ended counts: some engines leave the last one out.
        yield from self._read([*self._lines.close(), b""])
        yield from self.completion.close()

    def _read(self, lines: list[bytes]) -> Iterator[Op]:
        # HTML standard §9.2.6
        for line in lines:
            if self.done:
                return
            if self._at_start:
                line = line.removeprefix(b"\xef\xbb\xbf")  # §9.2.5: a byte order mark
                self._at_start = False
            if not line:
                data, event = "\n".join(self._data), self._event
                self._data, self._event = [], ""
                if data:
                    yield from self._read_event(event, data)
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                try:
                    self._data.append(value.removeprefix(b" ").decode())
                except UnicodeDecodeError:
                    _refuse_line(line.decode(errors="replace"), "not UTF-8")
            elif field == b"event":
                self._event = value.strip().decode(errors="replace")

    def _read_event(self, event: str, data: str) -> Iterator[Op]:
        if data.strip() == "[DONE]":
            self.done = self.completion.ended = True
            return
        try:
            chunk = _loads(data)
        except json.JSONDecodeError:
            _refuse_line(data, "not JSON")
        if event == "error" or not isinstance(chunk, dict) or chunk.get("error"):
            _refuse_line(data, "an error" if isinstance(chunk, dict) else "no chat completion chunk")
        try:
            for choice in chunk.get("choices") or ():
                if choice.get("index", 0) == 0:
                    message = choice.get("delta") or choice.get("message") or {}
                    yield from self.completion.take(message, choice.get("finish_reason"))
        except (TypeError, AttributeError):
            _refuse_line(data, "no chat completion chunk")


class _Completion:
    """A chat completion's first choice, put together from its deltas; its content is JSON text."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.ended = False
        self._refusal = ""
        self._calls_tool = False
        self._parser = _TextParser()
        self.error: json.JSONDecodeError | None = None  # where the content stops being JSON

    @property
    def text(self) -> str:
        """All the content so far."""
        return "".join(self._parser.texts)

    @property
    def remark(self) -> str:
        """What the model did instead of answering, for an error message."""
        return _remark(self._refusal, self._calls_tool)

    def take(self, delta: dict[str, Any], finish_reason: Any) -> Iterator[Op]:
        """Yield the operations that a delta (or a whole message) completes."""
        if finish_reason and isinstance(finish_reason, str):
            self.finish_reason = finish_reason
        self._refusal += delta.get("refusal") or ""
        self._calls_tool = self._calls_tool or bool(delta.get("tool_calls") or delta.get("function_call"))
        content = delta.get("content") or ""
        if not isinstance(content, str):
            raise TypeError("content is no text")
        if self.error is not None:  # what else is sent is still part of the raw output
            self._parser.texts.append(content)
            return
        try:
            yield from self._parser.feed(content)
        except json.JSONDecodeError as error:
            self.error = error

    def close(self) -> Iterator[Op]:
        """Yield the operation of a root number, which only the end completes.

        Raises:
            json.JSONDecodeError: The text is not JSON, or stops short.
        """
        if self.error is not None:
            raise self.error
        cut = self.finish_reason != "stop" and not (self.ended and self.finish_reason is None)
        yield from self._parser.close(cut=cut)


def _remark(refusal: str | None, calls_tool: bool) -> str:
    if refusal:
        return f"the model refused: {refusal!r}"
    return "the model called a tool instead of answering" if calls_tool else ""


class _TextParser:
    """Read JSON text (RFC 8259) as it arrives, cut anywhere, and make the operations that build its value.

    A string is an operation when it closes, a number when what follows proves it over, a container when it
    opens. Each character is looked at once.
    """

    # What may come next. In `_FIRST` and `_FIRST_KEY` the container may also close.
    _VALUE, _FIRST, _KEY, _FIRST_KEY, _COLON, _COMMA, _NOTHING = range(7)
    _EXPECTED = (
        "value",
        "value or ']'",
        "property name",
        "property name or '}'",
        "':'",
        "',' or end",
        "end of text",
    )

    _space = re.compile(r"[ \t\n\r]*")
    _unescaped = re.compile(r'[^"\\\x00-\x1f]*')  # RFC 8259 §7
    _escape = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
    _escape_start = re.compile(r"\\(?:u[0-9A-Fa-f]{0,3})?")
    _number_chars = re.compile(r"[-+.0-9Ee]*")
    _number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[Ee][-+]?[0-9]+)?")  # RFC 8259 §6
    _literals: typing.ClassVar[dict[str, tuple[str, Any]]] = {
        "t": ("true", True),
        "f": ("false", False),
        "n": ("null", None),
    }

    def __init__(self) -> None:
        self.texts: list[str] = []  # all that was fed
        self._length = 0  # of it
        self._rest = ""  # the start of an escape or of a literal, cut off by the end of the text
        self._expect = self._VALUE
        self._kind = ""  # of the token that is being read: "string", "number" or none
        self._pieces: list[str] = []  # of that token
        self._escaped = False
        self._pointer = ""  # of the container that is open
        self._key: str | int = ""  # where its next value goes: a reference token, or an array's index
        self._outer: list[tuple[str, str | int]] = []

    def feed(self, text: str) -> Iterator[Op]:
        """Yield the operations that `text` completes.

        Raises:
            json.JSONDecodeError: At the place where the text stops being JSON.
        """
        self.texts.append(text)
        self._length += len(text)
        text, self._rest = self._rest + text, ""
        pos, end = 0, len(text)
        while pos < end:
            if self._kind == "string":
                pos = self._read_string(text, pos)
                if self._kind or self._rest:
                    return
                value = "".join(self._pieces)
                if self._escaped:
                    value = _decode(f'"{value}"')
                if self._expect in (self._KEY, self._FIRST_KEY):
                    self._key = value.replace("~", "~0").replace("/", "~1")
                    self._expect = self._COLON
                else:
                    yield self._add(value)
                continue
            if self._kind == "number":
                stop = self._number_chars.match(text, pos).end()  # type: ignore[union-attr]
                self._pieces.append(text[pos:stop])
                pos = stop
                if pos < end:
                    if text[pos] not in " \t\n\r,]}":
                        raise self._error("Invalid number", end - pos)
                    yield self._add(self._read_number(end - pos))
                continue
            pos = self._space.match(text, pos).end()  # type: ignore[union-attr]
            if pos == end:
                return
            char = text[pos]
            expect = self._expect
            if char == '"' and expect <= self._FIRST_KEY:
                self._kind, self._pieces, self._escaped = "string", [], False
                pos += 1
            elif char == "," and expect == self._COMMA:
                self._expect = self._VALUE if isinstance(self._key, int) else self._KEY
                pos += 1
            elif char == ":" and expect == self._COLON:
                self._expect = self._VALUE
                pos += 1
            elif char in "]}" and self._closes(char):
                self._pointer, self._key = self._outer.pop()
                self._advance()
                pos += 1
            elif expect > self._FIRST:
                raise self._error(f"Expecting {self._EXPECTED[expect]}", end - pos)
            elif char in "{[":
                if len(self._outer) == _MAX_DEPTH:
                    raise self._error(f"Nested deeper than {_MAX_DEPTH} levels", end - pos)
                yield self._open(char)
                pos += 1
            elif char in "-0123456789":
                self._kind, self._pieces = "number", []
            else:
                literal, value = self._literals.get(char, ("", None))
                if literal and text.startswith(literal, pos):
                    pos += len(literal)
                    yield self._add(value)
                elif literal.startswith(text[pos:]):
                    self._rest = text[pos:]
                    return
                else:
                    raise self._error(f"Expecting {self._EXPECTED[expect]}", end - pos)

    def close(self, *, cut: bool = False) -> Iterator[Op]:
        """Yield the operation of a root number. `cut` says that the text may have been cut short.

        Raises:
            json.JSONDecodeError: The text ends before its value does.
        """
        if self._kind == "number" and not self._outer and not cut:
            yield self._add(self._read_number(0))
        if self._kind or self._rest:
            raise self._error(f"Unterminated {self._kind or 'literal'}", 0)
        if self._expect != self._NOTHING:
            raise self._error(f"Expecting {self._EXPECTED[self._expect]}", 0)

    def _read_string(self, text: str, pos: int) -> int:
        """Read on in a string; `_kind` is empty once it has closed."""
        while True:
            stop = self._unescaped.match(text, pos).end()  # type: ignore[union-attr]
            if stop > pos:
                self._pieces.append(text[pos:stop])
            if stop == len(text):
                return stop
            if text[stop] == '"':
                self._kind = ""
                return stop + 1
            escape = self._escape.match(text, stop)
            if escape:
                self._pieces.append(escape.group())
                self._escaped = True
                pos = escape.end()
            elif self._escape_start.fullmatch(text, stop):
                self._rest = text[stop:]
                return len(text)
            else:
                what = "escape" if text[stop] == "\\" else "control character"
                raise self._error(f"Invalid {what} in a string", len(text) - stop)

    def _read_number(self, unread: int) -> Any:
        text = "".join(self._pieces)
        if not self._number.fullmatch(text):
            raise self._error("Invalid number", unread + len(text))
        try:
            number = _decode(text)
        except ValueError as error:  # more digits than Python converts
            raise self._error(str(error), unread + len(text)) from None
        self._kind = ""
        return number

    def _add(self, value: Any) -> Op:
        path = f"{self._pointer}/{self._key}" if self._outer else ""
        self._advance()
        return {"op": "add", "path": path, "value": value}

    def _advance(self) -> None:
        """Go on to what follows a value."""
        if isinstance(self._key, int):
            self._key += 1
        self._expect = self._COMMA if self._outer else self._NOTHING

    def _open(self, char: str) -> Op:
        path = f"{self._pointer}/{self._key}" if self._outer else ""
        self._outer.append((self._pointer, self._key))
        self._pointer = path
        self._key, self._expect = ("", self._FIRST_KEY) if char == "{" else (0, self._FIRST)
        return {"op": "add", "path": path, "value": {} if char == "{" else []}

    def _closes(self, char: str) -> bool:
        if not self._outer or isinstance(self._key, int) != (char == "]"):
            return False
        return self._expect in (self._COMMA, self._FIRST, self._FIRST_KEY)

    def _error(self, message: str, unread: int) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, "".join(self.texts), self._length - unread)


# ------------------------------------------------------------------------------------------------
# Clients
# ------------------------------------------------------------------------------------------------


def _key(api_key: str | None) -> str:
    """Return the key to send."""
    if api_key is not None and not isinstance(api_key, str):
        raise TypeError(f"api_key must be a str, not {type(api_key).__name__}")
    key = (api_key or "").strip() or os.environ.get("DOTTXT_API_KEY", "").strip()
    if not key:
        raise ValueError(
            "no API key: pass DotTxt(api_key=...) or set the environment variable DOTTXT_API_KEY"
        )
    if not (key.isascii() and key.isprintable()):
        # The transport's own message for this would quote the key.
        raise ValueError("the API key holds characters that an HTTP header cannot carry")
    return key


def _settings(api_key: str | None, base_url: str | None) -> dict[str, Any]:
    """Return the arguments of the SDK client that the environment may give."""
    base_url = base_url or os.environ.get("DOTTXT_BASE_URL", "").strip() or "https://api.dottxt.ai/v1"
    return {"api_key": _key(api_key), "base_url": base_url}


def _isolate(client: Any, given: Mapping[str, Any]) -> Any:
    """Leave of an SDK client what the caller gave, and nothing that it read from OpenAI's own variables.

    This is the one place that touches the SDK beyond its documented surface: the SDK merges
    `OPENAI_CUSTOM_HEADERS` into `_custom_headers`, and no argument keeps it out.
    """
    client.organization = given.get("organization")
    client.project = given.get("project")
    client._custom_headers = dict(given.get("default_headers") or {})
    return client


def _request(
    model: str, input: Messages, schema: dict[str, Any], options: dict[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments of `chat.completions.create`."""
    if extra.get("stream"):
        raise TypeError("generate() does not stream: use client.stream(...) instead of stream=True")
    if "messages" in extra:
        raise TypeError(
            "messages= has no place here: use input=, which takes a str or a list of message dicts"
        )
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__}")
    if isinstance(input, str):
        input = [{"role": "user", "content": input}]
    elif not isinstance(input, list):
        raise TypeError(f"input must be a str or a list of message dicts, not {type(input).__name__}")
    options = {name: value for name, value in options.items() if value is not None}
    return {"model": model, "messages": input, "response_format": _wrap(schema), **options, **extra}


def _type_name(response_format: object) -> str:
    if isinstance(response_format, type) and typing.get_origin(response_format) is None:
        return response_format.__name__
    if isinstance(response_format, (str, dict)):
        return "instance of the JSON Schema"
    return _show(response_format)


def _invalid_output(
    error: ValueError, model: str, response_format: object, text: str, finish_reason: str | None, remark: str
) -> InvalidOutputError:
    if not isinstance(error, (json.JSONDecodeError, pydantic.ValidationError)):
        error = json.JSONDecodeError(str(error), text, 0)
    if remark or not text:
        reason = remark or "it sent no content"
    elif isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        reason = f"{first['msg']} (at {'.'.join(map(str, first['loc'])) or 'the root'})"
    else:
        reason = str(error)
    message = f"{model} sent no valid {_type_name(response_format)}: {reason}"
    if finish_reason == "length":
        message += "; the output is probably truncated (finish reason 'length'): raise max_tokens"
    return InvalidOutputError(
        message, model=model, raw_output=text, finish_reason=finish_reason, original_error=error
    )


def _validator(response_format: Any) -> Callable[[str], Any] | None:
    """Return Pydantic's way from JSON text to the requested type, for a type that has one."""
    if _is_model(response_format):
        return response_format.model_validate_json  # type: ignore[no-any-return]
    return response_format.validate_json if isinstance(response_format, pydantic.TypeAdapter) else None


def _parse_output(
    model: str, response_format: object, text: str, finish_reason: str | None = None, remark: str = ""
) -> Any:
    """Return the value of the requested type that is in the output's text."""
    validate = _validator(response_format)
    try:
        if finish_reason not in ("stop", None) and text[-1:].isdigit():  # 12 may be the start of 123
            raise json.JSONDecodeError("Unterminated number", text, len(text))
        if validate is None:
            return _loads(text)
        if "NaN" in text or "Infinity" in text:  # outside of strings Pydantic takes them, JSON does not
            _loads(text)
        return validate(text)
    except (json.JSONDecodeError, pydantic.ValidationError, UnicodeError) as error:
        raise _invalid_output(error, model, response_format, text, finish_reason, remark) from error


def _parse_completion(model: str, response_format: object, completion: Any) -> Any:
    """Return the value of the requested type that is in a completion."""
    # The SDK checks nothing: a proxy's HTML page is a str here, any other JSON a completion without choices.
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        text = completion if isinstance(completion, str) else ""
        nothing = json.JSONDecodeError("Expecting a chat completion", text, 0)
        remark = "the response holds no choices"
        raise _invalid_output(nothing, model, response_format, text, None, remark) from nothing
    reason = getattr(choices[0], "finish_reason", None)
    finish_reason = reason if reason and isinstance(reason, str) else None
    message = getattr(choices[0], "message", None)
    content = getattr(message, "content", None)
    text = content if isinstance(content, str) else ""
    calls_tool = getattr(message, "tool_calls", None) or getattr(message, "function_call", None)
    remark = _remark(getattr(message, "refusal", None), bool(calls_tool))
    return _parse_output(model, response_format, text, finish_reason, remark)


def _is_unreadable(error: Exception, request: Any) -> bool:
    """Tell whether an error that the SDK let through is about a response that is not JSON."""
    if isinstance(error, (json.JSONDecodeError, UnicodeError)) and not isinstance(error, UnicodeEncodeError):
        return True
    try:
        json.dumps(request)
    except TypeError:  # the SDK knows more types
        pass
    except (ValueError, RecursionError):  # it is about the request
        return False
    return isinstance(error, RecursionError) or "integer string conversion" in str(error)


def _unreadable(model: str, response_format: object, error: Exception) -> InvalidOutputError:
    cause = error if isinstance(error, ValueError) else ValueError("Nested too deep")
    text = getattr(error, "doc", "")
    return _invalid_output(cause, model, response_format, text, None, "the response is not JSON")


def _refuses_patch_mode(error: openai.APIStatusError) -> bool:
    """Tell whether an engine refuses `"stream": "patch"` because its `stream` is a boolean."""
    # Not across a brace: some engines quote the request, and its schema may speak of booleans too.
    words = re.compile(r"\bstream\b[^{}]{0,200}bool|bool[^{}]{0,200}\bstream\b", re.IGNORECASE)
    text = re.sub(r"\\+[nrt]", " ", str(error.body))  # line breaks are escaped in what a dict shows
    return error.status_code in (400, 422) and bool(words.search(text))


def _remove_key(error: BaseException, key: str) -> None:
    if len(key) < 8:  # what stands for a key where none is needed may be an ordinary word
        return
    error.args = tuple(str(arg).replace(key, "[API key]") for arg in error.args)
    for name in ("message", "body"):
        value = getattr(error, name, None)
        if isinstance(value, str):
            setattr(error, name, value.replace(key, "[API key]"))


def _plain(value: Any) -> Any:
    """Return a copy of a request's part, with the SDK's own message objects as what they stand for."""
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple, Iterator)):
        return [_plain(child) for child in value]
    return value


class _Exchange:
    """A stream without its I/O: what to ask, what the answer means, what comes of it."""

    def __init__(
        self,
        client: _Client,
        model: str,
        input: Messages,
        response_format: object,
        options: dict[str, Any],
        timeout: Any,
        extra: Mapping[str, Any] | None,
    ) -> None:
        body: dict[str, Any] = dict(extra or {})
        for name in ("model", "input", "messages", "response_format", "stream", *options):
            if name in body:
                raise TypeError(f"extra holds {name!r}, which stream() sets from an argument of its own")
        body.update(body.pop("extra_body", None) or {})
        headers, query = body.pop("extra_headers", None), body.pop("extra_query", None)
        given = {"headers": headers, "params": query, "timeout": timeout}
        self._options = {name: value for name, value in given.items() if value is not None}
        # Copies of what the caller may change: what is checked now will be sent later.
        schema = (normalize_schema if isinstance(response_format, dict) else _schema)(response_format)
        messages = _plain(input) if isinstance(input, list) else input
        self.client = client
        self._model = model
        self._response_format = response_format
        self._request = _request(model, messages, schema, options, {})
        self._body = _plain(body)
        self._patch = client._patch
        self._parser: _PatchParser | _ChunkParser = _PatchParser()
        self._document = _Document()
        self._complete = False
        self._drains = False
        self.response: Any = None
        self.closed = False
        self.error: Exception | None = None

    def send(self, stream_class: Any) -> Any:
        """Return the SDK's stream object, whose response nobody has read yet."""
        # Not by `chat.completions.create`: what traces that method reads whatever it returns to the end.
        return self.client._sdk.post(
            "/chat/completions",
            cast_to=object,
            body={**self._request, **self._body, "stream": "patch" if self._patch else True},
            options=self._options,
            stream=True,
            stream_cls=stream_class[object],
        )

    def refused(self, error: openai.APIStatusError) -> None:
        """Return if the request is to be made again, for a token stream now; raise otherwise."""
        if self._patch and _refuses_patch_mode(error):
            self._patch = False
            return
        raise PatchStreamError(
            f"the stream was refused: {_shorten(error.message)}",
            status_code=error.status_code,
            body=error.response.text,
        ) from error

    def rejected(self, status: int, body: str) -> NoReturn:
        """Raise for a response of another status than 200."""
        raise PatchStreamError(f"the stream was answered with status {status}", status_code=status, body=body)

    def accepted(self) -> None:
        """Choose the parser for a response of status 200."""
        if not self._patch:
            self.client._patch = False
        headers = self.response.headers
        if headers.get("content-type", "").lower().startswith("text/event-stream"):
            self._parser = _ChunkParser()
        # A chunked response is read to its end even after an end mark: only then is its connection reused.
        self._drains = headers.get("transfer-encoding", "").lower() == "chunked"

    @contextlib.contextmanager
    def transport(self) -> Iterator[None]:
        """Turn what the transport raises into the SDK's errors, or into nothing once all is received."""
        try:
            yield
        except openai.OpenAIError:
            raise
        except Exception as error:
            if self.closed or self._parser.done:
                return
            completion = self._parser.completion
            if completion is not None and completion.error is not None:
                raise self._invalid(completion.error) from completion.error
            # Before there is a response, an error that knows no request is about the arguments; or the SDK
            # could not decode an error page, and the error that it was handling then knows the response.
            source: Any = self.response or (error if hasattr(error, "request") else error.__context__)
            response = getattr(source, "response", None)
            if response is not None:
                self.rejected(response.status_code, response.content.decode(errors="replace"))
            request = getattr(source, "request", None)
            if request is None:
                raise
            # The transport is httpx, httpx2 or the caller's own: a timeout is known by its name.
            if any(base.__name__ == "TimeoutException" for base in type(error).__mro__):
                raise openai.APITimeoutError(request=request) from error
            raise openai.APIConnectionError(request=request) from error

    @property
    def reads_on(self) -> bool:
        """Whether there is something left to read."""
        return not self.closed and (self._drains or not self._parser.done)

    @property
    def is_over(self) -> bool:
        """Whether what is read now comes after an end mark."""
        return self._parser.done

    def feed(self, chunk: bytes) -> Iterator[PatchEvent]:
        """Yield the events that a chunk of the response completes."""
        return self._fold(self._parser.feed(chunk))

    def end(self) -> Iterator[PatchEvent]:
        """Yield the events that the end of the response completes."""
        if self.closed:
            return
        try:
            yield from self._fold(self._parser.close())
            if self._document.root is _ABSENT and not self._patch:
                raise json.JSONDecodeError("Expecting value", "", 0)
        except json.JSONDecodeError as error:
            raise self._invalid(error) from error
        self._complete = True

    def failed(self, error: Exception) -> None:
        """Keep what the iteration raises for `result()`, without the key that a server may have echoed."""
        self.error = error
        if isinstance(error, PatchStreamError):
            for each in filter(None, (error, error.__cause__)):
                _remove_key(each, self.client._arguments["api_key"])

    def result(self) -> Any:
        """Return what `generate` would have returned, once all events have been read."""
        if self.error is not None:
            raise self.error
        if not self._complete:
            raise self._invalid(json.JSONDecodeError("The stream was closed before its end", "", 0))
        completion = self._parser.completion
        if completion is not None:
            return _parse_output(
                self._model,
                self._response_format,
                completion.text,
                completion.finish_reason,
                completion.remark,
            )
        if self._document.root is not _ABSENT and _validator(self._response_format) is None:
            return _copy(self._document.root)
        return _parse_output(self._model, self._response_format, self._text())

    def _fold(self, ops: Iterator[Op]) -> Iterator[PatchEvent]:
        for op in ops:
            try:
                event = self._document.fold(op)
            except ValueError as error:
                line = getattr(self._parser, "line", b"").decode()
                raise PatchStreamError(f"the stream has an operation whose {error}", body=line) from error
            yield event

    def _text(self) -> str:
        if self._parser.completion is not None:
            return self._parser.completion.text
        return "" if self._document.root is _ABSENT else _to_text(self._document.root)

    def _invalid(self, error: json.JSONDecodeError) -> InvalidOutputError:
        completion = self._parser.completion
        finish_reason = completion.finish_reason if completion else None
        remark = completion.remark if completion else ""
        return _invalid_output(error, self._model, self._response_format, self._text(), finish_reason, remark)


class PatchStream(Generic[T]):
    """The events of a `stream` call, as an iterator of `PatchEvent` and a context manager.

    Iterating raises `PatchStreamError`, the SDK's errors, and `InvalidOutputError` where an engine's token
    stream is not the JSON text that it should be; the events before that have been delivered.
    """

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._events = _events(exchange)

    def __iter__(self) -> PatchStream[T]:
        return self

    def __next__(self) -> PatchEvent:
        return next(self._events)

    def __enter__(self) -> PatchStream[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def result(self) -> T:
        """Read on to the end and return what `generate` would have returned.

        Raises:
            InvalidOutputError: The output is not of the requested type, or the stream was closed too early.
        """
        for _ in self._events:
            pass
        return self._exchange.result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection, so that the gateway stops generating. No more events come."""
        self._exchange.closed = True
        try:
            self._events.close()
        except ValueError:  # another thread is waiting for an event: closing alone would not wake it
            response = self._exchange.response
            with contextlib.suppress(
                AttributeError, KeyError, OSError
            ):  # there may be no response, no socket
                if response.http_version != "HTTP/2":  # whose connection serves others too
                    response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)


# The generators do not know their stream object: when that is dropped, they are too, and close the response.
def _events(exchange: _Exchange) -> Generator[PatchEvent, None, None]:
    try:
        while exchange.response is None and not exchange.closed:
            try:
                with exchange.transport():
                    exchange.response = exchange.send(openai.Stream).response
            except openai.APIStatusError as error:
                exchange.refused(error)
        if exchange.response is None:
            return
        if exchange.response.status_code != 200:
            body = ""
            with exchange.transport():
                exchange.response.read()
                body = exchange.response.text
            exchange.rejected(exchange.response.status_code, body)
        exchange.accepted()
        chunks = exchange.response.iter_bytes()
        while exchange.reads_on:
            chunk = None
            with exchange.transport():
                chunk = next(chunks, None)
            if chunk is None or exchange.is_over:
                break
            yield from exchange.feed(chunk)
        yield from exchange.end()
    except Exception as error:
        exchange.failed(error)
        raise
    finally:
        if exchange.response is not None:
            exchange.response.close()


class AsyncPatchStream(Generic[T]):
    """The events of a `stream` call, as an asynchronous iterator of `PatchEvent` and context manager.

    Iterating raises as `PatchStream` does.
    """

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._events = _async_events(exchange)

    def __aiter__(self) -> AsyncPatchStream[T]:
        return self

    async def __anext__(self) -> PatchEvent:
        return await self._events.__anext__()

    async def __aenter__(self) -> AsyncPatchStream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def result(self) -> T:
        """Read on to the end and return what `generate` would have returned.

        Raises:
            InvalidOutputError: The output is not of the requested type, or the stream was closed too early.
        """
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


async def _async_events(exchange: _Exchange) -> AsyncGenerator[PatchEvent, None]:
    chunks: Any = None
    try:
        while exchange.response is None and not exchange.closed:
            try:
                with exchange.transport():
                    exchange.response = (await exchange.send(openai.AsyncStream)).response
            except openai.APIStatusError as error:
                exchange.refused(error)
        if exchange.response is None:
            return
        if exchange.response.status_code != 200:
            body = ""
            with exchange.transport():
                await exchange.response.aread()
                body = exchange.response.text
            exchange.rejected(exchange.response.status_code, body)
        exchange.accepted()
        chunks = exchange.response.aiter_bytes()
        while exchange.reads_on:
            chunk = None
            with exchange.transport():
                chunk = await anext(chunks, None)
            if chunk is None or exchange.is_over:
                break
            for event in exchange.feed(chunk):
                yield event
        for event in exchange.end():
            yield event
    except Exception as error:
        exchange.failed(error)
        raise
    finally:
        if exchange.response is not None:
            await exchange.response.aclose()
        if chunks is not None:
            # The transport's generators end with the stream too, instead of when they are garbage-collected.
            with contextlib.suppress(Exception):
                async for _ in chunks:
                    pass


class _Client:
    """What both clients share: an SDK client."""

    _patch = True  # whether to ask for patch mode: until an engine has refused it
    _inherited: Any = None

    def __init__(self, sdk: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._make_sdk = sdk
        self._arguments = arguments
        self._adopt(sdk(**arguments))

    def _adopt(self, sdk: Any) -> None:
        self._openai = _isolate(sdk, self._arguments)
        self._process = os.getpid()

    @property
    def _sdk(self) -> Any:
        if os.getpid() != self._process:
            # After a fork the parent goes on with the connections of this pool: keep it, untouched.
            self._inherited = (self._openai, self._inherited)
            self._adopt(self._make_sdk(**self._arguments))
        return self._openai

    def with_options(self: ClientT, **client_kwargs: Any) -> ClientT:
        """Return a client with other settings (`timeout`, `max_retries`, …) on the same connection pool."""
        for name in ("api_key", "base_url"):
            if client_kwargs.get(name, "") is None:  # as the SDK reads it: keep what there is
                del client_kwargs[name]
        if "api_key" in client_kwargs:
            client_kwargs["api_key"] = _key(client_kwargs["api_key"])
        sdk = self._sdk.with_options(**client_kwargs)
        arguments = {**self._arguments, **client_kwargs}
        for name in ("default_headers", "default_query"):
            merged = {**(self._arguments.get(name) or {}), **(client_kwargs.get(name) or {})}
            instead = arguments.pop(f"set_{name}", None)
            arguments[name] = merged if instead is None else instead
        client = copy.copy(self)
        client._patch = self._patch or "base_url" in client_kwargs  # another server may have patch mode
        client._arguments = arguments
        client._adopt(sdk)
        return client


class DotTxt(_Client):
    """The client of the .txt API, and of any OpenAI-compatible engine.

    Args:
        api_key: The key; without it the environment variable `DOTTXT_API_KEY`.
        base_url: The URL of the API; without it `DOTTXT_BASE_URL`, else `https://api.dottxt.ai/v1`.
        **client_kwargs: Other arguments of `openai.OpenAI` (`timeout` in seconds, `max_retries`,
            `default_headers`, `http_client`, …). They hold for every call.

    Raises:
        ValueError: There is no key.
    """

    def __init__(
        self, *, api_key: str | None = None, base_url: str | None = None, **client_kwargs: Any
    ) -> None:
        super().__init__(openai.OpenAI, {**_settings(api_key, base_url), **client_kwargs})

    @property
    def models(self) -> openai.resources.Models:
        """The SDK's `models`: `client.models.list()`."""
        return self._sdk.models  # type: ignore[no-any-return]

    @property
    def chat(self) -> openai.resources.Chat:
        """The SDK's `chat`: `client.chat.completions.create(...)`."""
        return self._sdk.chat  # type: ignore[no-any-return]

    # fmt: off
    @overload
    def generate(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> ModelT: ...
    @overload
    def generate(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> T: ...
    @overload
    def generate(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> Any: ...
    # fmt: on
    def generate(self, *, model: str, input: Messages, response_format: object, **options: Any) -> Any:
        """Ask for data of a type and return it.

        Args:
            model: The model's id.
            input: The prompt, or a list of OpenAI-style message dicts.
            response_format: The output type; see `normalize_schema`.
            temperature: Sampling temperature.
            max_tokens: The most tokens that the model may send.
            seed: Seed of the sampling.
            **extra: Other arguments of `chat.completions.create`.

        Returns:
            The decoded JSON; for a `BaseModel` subclass an instance of it, for a `TypeAdapter` the validated
            value of its type.

        Raises:
            InvalidSchemaError: `response_format` describes no output. Nothing was sent.
            InvalidOutputError: The output is not of the requested type.
            openai.APIError: As the SDK raises it.
        """
        value, _ = self.generate_with_completion(
            model=model, input=input, response_format=response_format, **options
        )
        return value

    # fmt: off
    @overload
    def generate_with_completion(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[ModelT, ChatCompletion]: ...
    @overload
    def generate_with_completion(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[T, ChatCompletion]: ...
    @overload
    def generate_with_completion(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[Any, ChatCompletion]: ...
    # fmt: on
    def generate_with_completion(
        self,
        *,
        model: str,
        input: Messages,
        response_format: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        **extra: Any,
    ) -> tuple[Any, ChatCompletion]:
        """Do as `generate`; return the value and the SDK's `ChatCompletion` (usage, finish reason, ids)."""
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        request = _request(model, input, _schema(response_format), options, extra)
        try:
            completion = self._sdk.chat.completions.create(**request)
        except (ValueError, RecursionError) as error:
            if not _is_unreadable(error, request):
                raise
            raise _unreadable(model, response_format, error) from error
        return _parse_completion(model, response_format, completion), completion

    # fmt: off
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> PatchStream[ModelT]: ...
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> PatchStream[T]: ...
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> PatchStream[Any]: ...
    # fmt: on
    def stream(
        self,
        *,
        model: str,
        input: Messages,
        response_format: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        timeout: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> PatchStream[Any]:
        """Ask for data of a type and return an iterator of its parts, each there as soon as it is written.

        The arguments are checked at once; the request is sent when the first event is asked for. An engine
        without the gateway's patch mode is asked for its token stream instead.

        Args:
            model: The model's id.
            input: The prompt, or a list of OpenAI-style message dicts.
            response_format: The output type; see `normalize_schema`.
            temperature: Sampling temperature.
            max_tokens: The most tokens that the model may send.
            seed: Seed of the sampling.
            timeout: In seconds (or the SDK's `Timeout`), in place of the client's.
            extra: Other fields of the request's body, unknown ones included. The SDK's request options
                `extra_headers`, `extra_query` and `extra_body` may stand among them.

        Raises:
            InvalidSchemaError: `response_format` describes no output.
        """
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        exchange = _Exchange(self, model, input, response_format, options, timeout, extra)
        return PatchStream(exchange)

    def close(self) -> None:
        """Close the connection pool."""
        self._sdk.close()

    def __enter__(self: ClientT) -> ClientT:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncDotTxt(_Client):
    """The asynchronous client: the same arguments and methods as `DotTxt`, to be awaited.

    Args:
        api_key: The key; without it the environment variable `DOTTXT_API_KEY`.
        base_url: The URL of the API; without it `DOTTXT_BASE_URL`, else `https://api.dottxt.ai/v1`.
        **client_kwargs: Other arguments of `openai.AsyncOpenAI` (`timeout` in seconds, `max_retries`,
            `default_headers`, `http_client`, …). They hold for every call.

    Raises:
        ValueError: There is no key.
    """

    def __init__(
        self, *, api_key: str | None = None, base_url: str | None = None, **client_kwargs: Any
    ) -> None:
        super().__init__(openai.AsyncOpenAI, {**_settings(api_key, base_url), **client_kwargs})

    @property
    def models(self) -> openai.resources.AsyncModels:
        """The SDK's `models`: `await client.models.list()`."""
        return self._sdk.models  # type: ignore[no-any-return]

    @property
    def chat(self) -> openai.resources.AsyncChat:
        """The SDK's `chat`: `await client.chat.completions.create(...)`."""
        return self._sdk.chat  # type: ignore[no-any-return]

    # fmt: off
    @overload
    async def generate(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> ModelT: ...
    @overload
    async def generate(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> T: ...
    @overload
    async def generate(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> Any: ...
    # fmt: on
    async def generate(self, *, model: str, input: Messages, response_format: object, **options: Any) -> Any:
        """Do as `DotTxt.generate`."""
        value, _ = await self.generate_with_completion(
            model=model, input=input, response_format=response_format, **options
        )
        return value

    # fmt: off
    @overload
    async def generate_with_completion(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[ModelT, ChatCompletion]: ...
    @overload
    async def generate_with_completion(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[T, ChatCompletion]: ...
    @overload
    async def generate_with_completion(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ..., **extra: Any,
    ) -> tuple[Any, ChatCompletion]: ...
    # fmt: on
    async def generate_with_completion(
        self,
        *,
        model: str,
        input: Messages,
        response_format: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        **extra: Any,
    ) -> tuple[Any, ChatCompletion]:
        """Do as `DotTxt.generate_with_completion`."""
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        request = _request(model, input, _schema(response_format), options, extra)
        try:
            completion = await self._sdk.chat.completions.create(**request)
        except (ValueError, RecursionError) as error:
            if not _is_unreadable(error, request):
                raise
            raise _unreadable(model, response_format, error) from error
        return _parse_completion(model, response_format, completion), completion

    # fmt: off
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: type[ModelT],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> AsyncPatchStream[ModelT]: ...
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: pydantic.TypeAdapter[T],
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> AsyncPatchStream[T]: ...
    @overload
    def stream(
        self, *, model: str, input: Messages, response_format: object,
        temperature: float | None = ..., max_tokens: int | None = ..., seed: int | None = ...,
        timeout: Any = ..., extra: Mapping[str, Any] | None = ...,
    ) -> AsyncPatchStream[Any]: ...
    # fmt: on
    def stream(
        self,
        *,
        model: str,
        input: Messages,
        response_format: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        timeout: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> AsyncPatchStream[Any]:
        """Do as `DotTxt.stream`; the iterator is an asynchronous one."""
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        exchange = _Exchange(self, model, input, response_format, options, timeout, extra)
        return AsyncPatchStream(exchange)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._sdk.close()

    async def __aenter__(self: ClientT) -> ClientT:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


class _Failure(ValueError):
    """What the command line says, and prints after that, before it ends with status 1."""

    def __init__(self, message: str, raw_output: str = "") -> None:
        super().__init__(message)
        self.raw_output = raw_output


def _cli_print(text: str, file: typing.TextIO) -> None:
    """Print `text` at once: never the key, and JSON's escapes for what the file's encoding lacks."""
    key = os.environ.get("DOTTXT_API_KEY", "").strip()
    # A shorter one is the dummy that a local engine is given, and may be any word; data must stay what it is.
    if len(key) >= (16 if file is sys.stdout else 8):
        # A server's answer may quote the key; a message may have cut that short with an ellipsis.
        head, tail = re.escape(key[:8]), re.escape(key[8:])
        text = re.sub(rf"{head}({tail}|[^\s…]*(?=…))", "***", text)
    try:
        text.encode(file.encoding)
    except UnicodeEncodeError:
        text = re.sub(r"[^\0-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)
    print(text, file=file, flush=True)


_cli_dumps = functools.partial(_to_text, separators=(",", ":"))


def _cli_schema(given: str) -> Any:
    """Return the output type that a SCHEMA argument stands for."""
    name, response_format = given, given
    if given.lstrip().startswith(("{", "[", '"')):
        name = "the schema"
    elif os.path.exists(given):
        try:
            with open(given, encoding="utf-8-sig") as file:
                response_format = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise _Failure(f"cannot read the schema file {given}: {error}") from error
    else:
        response_format = _cli_type(given)
    try:
        normalize_schema(response_format)
    except InvalidSchemaError as error:
        message = str(error).replace("the text given as response_format", name)
        raise _Failure(message.replace("response_format", name)) from error
    return response_format


def _cli_type(given: str) -> Any:
    """Return what `package.module:Type` names."""
    module_name, colon, attributes = given.partition(":")
    if not colon or not re.fullmatch(r"\w+(\.\w+)*", module_name):
        raise _Failure(
            f"no such file: {_shorten(given)} (a schema is a file, JSON text, or package.module:Type)"
        )
    sys.path.insert(0, "")  # the current folder, where only `python -m` looks by itself
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise _Failure(
                f"no such module: {error.name} (looked for in the current folder, and where Python looks)"
            ) from error
        raise _Failure(f"cannot import {module_name}: {type(error).__name__}: {error}") from error
    try:
        return functools.reduce(getattr, attributes.split("."), module)
    except AttributeError as error:
        raise _Failure(f"no such name in module {module_name}: {attributes}") from error


def _cli_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `generate` and `stream`."""
    response_format = _cli_schema(arguments.schema)
    model = arguments.model or os.environ.get("DOTTXT_MODEL", "").strip()
    if not model:
        raise _Failure("no model: pass -m MODEL or set DOTTXT_MODEL (`dottxt models` lists the models)")
    try:
        prompt = sys.stdin.read() if arguments.prompt in (None, "-") else arguments.prompt
        messages = [{"role": "user", "content": prompt}]
        if arguments.system is not None:
            messages.insert(0, {"role": "system", "content": arguments.system})
        for message in messages:
            message["content"].encode()  # bytes that are no text may have come in as lone surrogates
    except UnicodeError as error:
        raise _Failure(f"the prompt is no text in this terminal's encoding ({error}): pass UTF-8") from error
    return {
        "model": model,
        "input": messages,
        "response_format": response_format,
        "temperature": arguments.temperature,
        "max_tokens": arguments.max_tokens,
        "seed": arguments.seed,
    }


def _cli_models(client: DotTxt, arguments: argparse.Namespace) -> None:
    """List the models, one id a line.

    example:
      dottxt models
    """
    text = client.models.with_raw_response.list().text
    try:
        records = _loads(text)["data"] or []
        lines = [_cli_dumps(records)] if arguments.json else [f"{each['id']}" for each in records]
    except (ValueError, TypeError, KeyError) as error:
        raise _Failure("what DOTTXT_BASE_URL names sent no list of models", text) from error
    for line in lines:
        _cli_print(line, sys.stdout)


def _cli_generate(client: DotTxt, arguments: argparse.Namespace) -> None:
    """Print the data as one line of JSON.

    examples:
      dottxt generate -s '{"enum": ["billing", "bug"]}' "I was charged twice this month"
      dottxt generate -s ticket.json "I was charged twice this month"
      cat mail.txt | dottxt generate -s myapp.models:Ticket -m openai/gpt-oss-20b
    """
    _, completion = client.generate_with_completion(**_cli_request(arguments))
    # The model's own text without the white space between its tokens: no digit of a number changes.
    text = completion.choices[0].message.content or ""
    _cli_print(re.sub(r'("[^"\\]*(?:\\.[^"\\]*)*")|\s+', r"\1", text), sys.stdout)


def _cli_stream(client: DotTxt, arguments: argparse.Namespace) -> None:
    """Print each field as soon as the model has written it.

    On a terminal a line is `field = value`. In a pipe it is a JSON Patch operation, for programs that
    read along: {"op": "add", "path": "/field", "value": ...}.

    examples:
      dottxt stream -s ticket.json "I was charged twice this month"
      dottxt stream -s ticket.json - < mail.txt | jq -r 'select(.path == "/intent").value'
    """
    with client.stream(**_cli_request(arguments)) as stream:
        ops = (_cli_dumps(event.op) for event in stream)
        for line in _cli_fields(stream) if sys.stdout.isatty() else ops:
            _cli_print(line, sys.stdout)
        stream.result()


def _cli_fields(events: Iterator[PatchEvent]) -> Iterator[str]:
    """Yield a line for each value, and for each container that stays empty."""

    def line(event: PatchEvent) -> str:
        field = _cli_dumps(event.field)[1:-1]  # a key may hold control characters
        return f"{field} = {_cli_dumps(event.value)}".removeprefix(" = ")

    opened = None
    for event in events:
        if opened is not None and not event.op["path"].startswith(opened.op["path"] + "/"):
            yield line(opened)
        opened = event if event.value in ({}, []) else None
        if opened is None:
            yield line(event)
    if opened is not None:
        yield line(opened)


def _cli_message(error: Exception) -> str:
    """Return what went wrong and what to do next."""
    text = str(error)
    if isinstance(error, PatchStreamError) and isinstance(error.__cause__, openai.APIStatusError):
        error = error.__cause__
    if isinstance(error, openai.APIStatusError):
        said = error.body.get("message") if isinstance(error.body, dict) else error.body
        text = _shorten(f"{error.status_code}: {said}" if said and isinstance(said, str) else error.message)
        if error.status_code == 401:
            return f"the key was refused ({text}); set DOTTXT_API_KEY to a valid one"
        if error.status_code == 429:
            return f"rate limit reached ({text}); wait a moment and try again"
        if error.status_code >= 500:
            return f"the server failed ({text}); try again in a moment"
        if error.status_code == 404 or "model" in text:
            return f"refused ({text}); `dottxt models` lists the models, DOTTXT_BASE_URL names the server"
        return f"refused ({text})"
    if isinstance(error, openai.APIConnectionError):
        url = re.sub(r"(?<=//)[^/]*@|[?].*", "", str(error.request.url))  # where passwords may stand
        if isinstance(error, openai.APITimeoutError):
            return f"no answer from {url} in time; try again in a moment, or check DOTTXT_BASE_URL"
        reason = str(error.__cause__) or type(error.__cause__).__name__
        return f"no connection to {url} ({reason}); check DOTTXT_BASE_URL, and that the server runs"
    if _cli_raw_output(error).lstrip()[:5].lower() in ("<html", "<!doc"):
        return f"{text}; the answer is a web page: check DOTTXT_BASE_URL"
    if type(error).__name__ == "InvalidURL":  # httpx's or httpx2's
        return f"DOTTXT_BASE_URL is no URL ({text})"
    return text if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {text}"


def _cli_raw_output(error: Exception) -> str:
    """Return what was received and could not be read."""
    if isinstance(error, PatchStreamError):
        return error.body if error.status_code == 200 else ""
    return getattr(error, "raw_output", "")


def _cli_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dottxt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Get data of exactly the type you ask for from a language model.",
        epilog="""\
environment:
  DOTTXT_API_KEY   the key, taken from nowhere else; a local engine takes any text
  DOTTXT_BASE_URL  another gateway or engine than https://api.dottxt.ai/v1
  DOTTXT_MODEL     the model, where -m names none

exit status:
  0; 1 with a line on standard error that says what went wrong; 2 for usage; 130 on Ctrl-C

example:
  dottxt generate -s ticket.json "I was charged twice this month"

`dottxt COMMAND --help` tells the rest.""",
    )
    parser.add_argument("--version", action="version", version=f"dottxt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run in (_cli_models, _cli_generate, _cli_stream):
        help_text = inspect.getdoc(run) or ""  # `python -OO` leaves none
        command = commands.add_parser(
            run.__name__.removeprefix("_cli_"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            help=help_text.partition("\n")[0],
            description=help_text,
        )
        command.set_defaults(run=run)
        if run is _cli_models:
            command.add_argument("--json", action="store_true", help="print the records, as a JSON array")
            continue
        command.add_argument(
            "-s",
            "--schema",
            required=True,
            help="the type of the data: a file that holds a JSON Schema, JSON text, or package.module:Type "
            "(a Pydantic model, a dataclass, ...; looked up from the current folder too)",
        )
        command.add_argument("-m", "--model", help="the model's id (default: DOTTXT_MODEL)")
        command.add_argument("--system", metavar="TEXT", help="a system message")
        command.add_argument("--temperature", type=float, metavar="T", help="the sampling temperature")
        command.add_argument("--max-tokens", type=int, metavar="N", help="the most tokens that may be sent")
        command.add_argument("--seed", type=int, metavar="N", help="the seed of the sampling")
        command.add_argument(
            "prompt", metavar="PROMPT", nargs="?", help="the prompt (without it or with -: standard input)"
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        try:
            arguments = _cli_parser().parse_args(argv)
            if not os.environ.get("DOTTXT_API_KEY", "").strip():
                raise _Failure("no API key: set DOTTXT_API_KEY (a local engine takes any text)")
            with DotTxt() as client:
                arguments.run(client, arguments)
        finally:
            print(end="", flush=True)  # what argparse printed
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError):  # what could not be written must not be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read has seen enough
            return 0
        line = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", _cli_message(error))
        _cli_print(f"dottxt: {line}", sys.stderr)
        if raw_output := _cli_raw_output(error):
            _cli_print(raw_output, sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
