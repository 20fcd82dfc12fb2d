"""Fuzz one target with atheris: `python .ci/fuzz.py TARGET CORPUS [option of libFuzzer]...`.

The corpus is a folder; seeds and a dictionary are written first. What a target must never do is an exception
here: raise anything but its documented errors, or depend on how its input is cut into chunks. The parser of
JSON text must agree with `json.loads`, and an `add` that fails must change nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["dottxt"]):
    import dottxt

Ops = list[dict[str, Any]]

DOCUMENTS: list[Any] = [
    {"intent": "billing", "steps": ["verify", "refund — 😀"], "total": -12.5e3, "none": None},
    [[], {}, [[1, 2], {"a": {"b": [True, False]}}], ""],
    {"": {"/": {"~": {"~1": 0}}}, "-": [0], "0": '\u2028\ud800\x00\\"', "a/b~": 12345678901234567890},
    "text",
    12,
    None,
]
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a/b": {"type": ["string", "null"]}}, "required": ["a/b"]},
    {"$defs": {"A": {"enum": [1, None]}}, "anyOf": [{"$ref": "#/$defs/A"}, True], "minLength": 2.0},
    {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"pattern": "("}]},
    {"type": "structural-tag", "dependencies": {"a": ["b"], "c": {"not": {"if": {}, "then": False}}}},
]
KEYWORDS = ["type", "object", "string", "properties", "items", "required", "enum", "const", "anyOf", "not"]
KEYWORDS += ["$ref", "$defs", "$schema", "$id", "$anchor", "minLength", "multipleOf", "pattern"]
KEYWORDS += ["dependentRequired", "dependencies", "additionalProperties", "prefixItems", "default", "title"]
WORDS = ["{}", "[]", '""', ":", ",", "\\u0", "\\ud83d", "\\ude00", "true", "null", "1e400", "NaN", "~1", "/-"]
WORDS += ['"op":"add"', '"path":""', '"value":', '"choices"', '"content"', '"error"', "data: ", "[DONE]"]


def ops_of(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations that build a document, leaf by leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield {"op": "add", "path": path, "value": type(value)() if isinstance(value, (dict, list)) else value}
    for key, item in items:
        yield from ops_of(item, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")


def fold(ops: Ops) -> Any:
    document: Any = None
    for op in ops:
        document = dottxt.apply_add(document, op["path"], op["value"])
    return document


def read(make: Callable[[], Any], whole: Any, size: int) -> tuple[Ops, Exception | None]:
    """All that a parser gives for an input in chunks of a size, and the documented error that ends it."""
    parser = make()
    ops: Ops = []
    try:
        for start in range(0, len(whole), size):
            for op in parser.feed(whole[start : start + size]):
                ops.append(op)
        ops.extend(parser.close())
    except (dottxt.PatchStreamError, json.JSONDecodeError) as error:
        return ops, error
    return ops, None


def read_twice(make: Callable[[], Any], whole: Any, size: int) -> tuple[Ops, Exception | None]:
    """Read an input in chunks and at once: it must be the same."""
    ops, error = read(make, whole, size)
    ops_at_once, error_at_once = read(make, whole, len(whole) or 1)
    assert repr(ops) == repr(ops_at_once)
    assert type(error) is type(error_at_once), (error, error_at_once)
    return ops, error


def patches(data: bytes, size: int) -> None:
    """The gateway's patch stream, and the document that it builds."""
    ops, _ = read_twice(dottxt._PatchParser, data, size)
    with contextlib.suppress(ValueError):
        fold(ops)


def tokens(data: bytes, size: int) -> None:
    """An engine's token stream: its operations build the value of its text."""
    ops, error = read_twice(dottxt._ChunkParser, data, size)
    document = fold(ops)
    if error is None:
        parser = dottxt._ChunkParser()
        list(parser.feed(data))
        list(parser.close())
        assert repr(document) == repr(json.loads(parser.completion.text))


def text(data: bytes, size: int) -> None:
    """JSON text, against `json.loads`."""
    given = data.decode("utf-8", "surrogateescape")
    ops, error = read_twice(dottxt._TextParser, given, size)
    try:
        expected = dottxt._decode(given)
    except (ValueError, RecursionError):
        assert error is not None
        return
    if error is None:
        assert repr(fold(ops)) == repr(expected)
    else:
        assert "Nested" in str(error)
        assert given.count("[") + given.count("{") > dottxt._MAX_DEPTH


def add(data: bytes, size: int) -> None:
    """`apply_add`: a document, a pointer and a value, one a line."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    try:
        document, value = json.loads(lines[0]), json.loads(lines[-1])
    except (ValueError, RecursionError):
        return
    pointer = "\n".join(lines[1:-1])
    before = repr(document)
    try:
        found = dottxt.apply_add(document, pointer, value)
    except ValueError:
        assert repr(document) == before
        return
    for token in pointer.split("/")[1:]:
        if isinstance(found, list):
            found = found[-1 if token == "-" else int(token)]
        else:
            found = found[token.replace("~1", "/").replace("~0", "~")]
    assert repr(found) == repr(value)


def schema(data: bytes, size: int) -> None:
    """`normalize_schema`, of text, of what it says, and of a structure made of keywords."""
    given = data.decode("utf-8", "surrogateescape")
    forms: list[Any] = [given, structure(atheris.FuzzedDataProvider(data), 5)]
    with contextlib.suppress(ValueError, RecursionError):
        forms.append(json.loads(given))
    for form in forms:
        with contextlib.suppress(dottxt.InvalidSchemaError):
            schema = dottxt.normalize_schema(form)
            assert json.loads(json.dumps(schema)) == schema
            assert isinstance(form, str) or schema == form


def structure(data: Any, depth: int) -> Any:
    """A JSON value, mostly an object whose names are keywords."""
    kind = data.ConsumeIntInRange(0, 9 if depth else 4)
    if kind > 5:
        names = [data.PickValueInList(KEYWORDS) for _ in range(data.ConsumeIntInRange(0, 3))]
        return {name: structure(data, depth - 1) for name in names}
    if kind == 5:
        return [structure(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 3))]
    scalars = [data.PickValueInList(KEYWORDS), data.ConsumeIntInRange(-2, 2), data.ConsumeFloat(), True, None]
    return scalars[kind]


def ndjson(document: Any) -> str:
    return "".join(f"{json.dumps(op)}\n" for op in ops_of(document))


def completion(kind: str, content: str, finish_reason: str | None) -> str:
    return json.dumps({"choices": [{"index": 0, kind: {"content": content}, "finish_reason": finish_reason}]})


def events(document: Any) -> str:
    written = json.dumps(document)
    chunks = [completion("delta", written[at : at + 9], None) for at in range(0, len(written), 9)]
    return "".join(f"data: {chunk}\n\n" for chunk in [*chunks, completion("delta", "", "stop"), "[DONE]"])


def adding(pointer: str) -> str:
    return f"{json.dumps(DOCUMENTS[0])}\n{pointer}\n[1]"


# The targets and their seeds.
TARGETS: dict[str, tuple[Callable[[bytes, int], None], list[str]]] = {
    "patches": (
        patches,
        [*map(ndjson, DOCUMENTS), completion("message", "[1]", "stop"), '{\n"choices": []}'],
    ),
    "tokens": (tokens, [*map(events, DOCUMENTS), ": ping\r\n\r\nevent: error\rdata:x\n\n", "data: {}\n\n"]),
    "text": (text, [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS]),
    "add": (add, [*map(adding, ["/steps/-", "/steps/1", "/x~01/", "", "/no/x"])]),
    "schema": (schema, [*map(json.dumps, SCHEMAS), "true", "[]"]),
}


def main() -> None:
    name, folder, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(bytes([number]) + seed.encode("utf-8", "surrogatepass"))
    dictionary = corpus.with_suffix(".dict")
    words = [word.replace("\\", "\\\\").replace('"', '\\"') for word in WORDS + KEYWORDS]
    dictionary.write_text("".join(f'"{word}"\n' for word in words))

    def run(data: bytes) -> None:
        if data:  # the first byte cuts the others
            target(data[1:], data[0] % 32 + 1)

    files = [folder, f"-dict={dictionary}", f"-artifact_prefix={folder}-"]
    atheris.Setup([sys.argv[0], *files, "-max_len=4096", "-timeout=20", *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
