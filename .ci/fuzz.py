"""Fuzz one target with atheris: `python .ci/fuzz.py TARGET CORPUS [option of libFuzzer]...`.

The corpus is a folder; seeds and a dictionary are written first. A target fails with an exception: an error
that is not documented, events that depend on how the stream is cut or framed, or that do not fold to their
snapshots, a value that `json.loads` does not find in the same text, an `add` that fails and yet changes.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["dottxt"]):
    import dottxt

SSE = "text/event-stream"
DOCUMENTS: list[Any] = [
    {"intent": "billing", "steps": ["verify", "refund — 😀"], "total": -12.5e3, "none": None},
    [[], {}, [[1, 2], {"a": {"b": [True, False]}}], ""],
    {"": {"/": {"~": {"~1": 0}}}, "-": [0], "0": '\u2028\ud800\x00\\"', "a/b~": 12345678901234567890},
]
DOCUMENTS += ["text", 12, None]
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
WORDS += ["event: patch", "event: done", "\n\n", "\r\n", "\ufeff"]


def chunks(data: Any, size: int) -> list[Any]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def sse(records: list[bytes]) -> bytes:
    return b"".join(b"data: " + re.sub(b"[\r\n]", b"\ndata: ", record) + b"\n\n" for record in records)


def read(media_type: str, data: bytes, size: int) -> tuple[Any, Any, list[str]]:
    """The reader of a stream in chunks of a size, the document, and what was found: operations, an error."""
    reader = dottxt._Reader(media_type)
    document, events = None, []
    found: list[str] = []
    snapshots: list[str] = []
    try:
        for chunk in [*chunks(data, size), None]:
            for event in reader.close() if chunk is None else reader.feed(chunk):
                document = dottxt.apply_add(document, event.op["path"], event.value)
                events.append(event)
                found.append(repr(event.op))
                snapshots.append(repr(event.snapshot))
                assert snapshots[-1] == repr(document)
                if isinstance(event.value, (dict, list)):
                    event.value.clear()  # as a caller may
    except (dottxt.PatchStreamError, json.JSONDecodeError) as error:
        found.append(type(error).__name__)
    assert [repr(event.snapshot) for event in events] == snapshots  # late, hence in another way
    return reader, document, found


def stream(data: bytes, size: int) -> None:
    """Any bytes in both framings, and the records of their lines as server-sent events."""
    framing = dottxt._ServerSentEvents()
    assert [*framing.feed(data), *framing.close()] == standard_events(data)
    assert read(SSE, data, size)[2] == read(SSE, data, len(data) or 1)[2]
    reader, _, expected = read("", data, size)
    assert expected == read("", data, len(data) or 1)[2]
    lines = [line for line in data.split(b"\n") if line.strip()]
    framed = sse([b"\n".join(lines)] if lines and lines[0].strip() == b"{" else lines)
    if reader.text is None:  # to a token stream an end mark may say that a number is over
        framed += b"event: done\ndata: {}"
    framed_reader, _, found = read(SSE, framed, size)
    assert found == expected
    assert reader.text or framed_reader.ended or "PatchStreamError" in found


def standard_events(data: bytes) -> list[tuple[str, bytes]]:
    """The types and data of server-sent events (HTML standard, §9.2.6); any may have a byte order mark."""
    events: list[tuple[str, bytes]] = []
    kind, values, first = "", [], True
    for line in [*re.split(b"\r\n|\r|\n", data), b""]:
        line, first = line.removeprefix(b"\xef\xbb\xbf") if first else line, not line
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            kind = value.removeprefix(b" ").decode(errors="replace")
        elif not line:
            events += [(kind, b"\n".join(values))] if values else []
            kind, values = "", []
    return events


def tokens(data: bytes, size: int) -> None:
    """JSON text in deltas of a size, as an engine sends it, in both framings."""
    given = data.decode("utf-8", "replace") or "{}"
    finish_reason = [None, "stop", "length"][len(data) % 3]
    marks = ["[DONE]"] * (len(data) % 2)
    texts = [completion(delta) for delta in chunks(given, size)] + [completion("", finish_reason), *marks]
    records = [text.encode() for text in texts]
    is_over = finish_reason == "stop" or (finish_reason is None and marks)
    for media_type, framed, step in [(SSE, sse(records), 16 * size), ("", b"\n".join(records), 1 << 20)]:
        reader, document, found = read(media_type, framed, step)
        assert "".join(reader.text.pieces) == given
        assert "PatchStreamError" not in found
        check(given, document, "JSONDecodeError" in found, cut=given[-1].isdigit() and not is_over)


def text(data: bytes, size: int) -> None:
    """JSON text as such."""
    given = data.decode("utf-8", "surrogateescape")
    results: list[list[str]] = []
    for pieces in [chunks(given, size), [given]]:
        parser, document, found = dottxt._Text(), None, []
        try:
            for piece in [*pieces, None]:
                for op in parser.close(True) if piece is None else parser.feed(piece):
                    document = dottxt.apply_add(document, op["path"], op["value"])
                    found.append(repr(op))
        except json.JSONDecodeError as error:
            found.append(str(error))
        results.append(found)
    assert results[0] == results[1]
    check(given, document, found[-1][:1] != "{")


def check(given: str, document: Any, failed: bool, cut: bool = False) -> None:
    """The document that JSON text became is what `json.loads` makes of it, if that takes it."""
    try:
        expected = repr(json.loads(given, parse_constant=int))  # `int` refuses NaN
    except (ValueError, RecursionError):
        expected = ""
    try:
        assert repr(dottxt._loads(given)) == expected
    except json.JSONDecodeError:
        assert not expected
    too_deep = failed and given.count("[") + given.count("{") > dottxt._MAX_DEPTH
    assert too_deep or failed == (cut or not expected)
    assert failed or repr(document) == expected


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
            found = found[-1 if token == "-" else [*map(str, range(len(found)))].index(token)]
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


def operations(value: Any, path: str = "") -> Iterator[str]:
    """The operations that build a document, leaf by leaf."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    yield json.dumps({"op": "add", "path": path, "value": value if items is None else type(value)()})
    for key, item in items or ():
        yield from operations(item, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")


def completion(content: str, finish_reason: str | None = None, kind: str = "delta") -> str:
    choice = {"index": 0, kind: {"content": content}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}, ensure_ascii=False)


# The targets and their seeds.
TEXTS = [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS]
PATCHES = ["\n".join(operations(document)) for document in DOCUMENTS]
EVENTS = [f"\n{patches}".replace("\n", "\n\nevent: patch\ndata: ") for patches in PATCHES]
DELTAS = "\n".join(map(completion, chunks(TEXTS[0], 9)))
ODD = [completion("[1]", "stop", "message"), '{\n"choices": []}', "\ufeff: ping\r\n\r\nevent: error\rdata:x"]
TARGETS: dict[str, tuple[Callable[[bytes, int], None], list[str]]] = {
    "stream": (stream, [*PATCHES, *EVENTS, EVENTS[0].replace("\n", "\r\n"), DELTAS, *ODD]),
    "tokens": (tokens, TEXTS),
    "text": (text, TEXTS),
    "add": (add, [f"{TEXTS[0]}\n{path}\n[1]" for path in ["/steps/-", "/steps/1", "/x~01/", "", "/no/x"]]),
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
    words = ["".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS + KEYWORDS]
    dictionary.write_text("".join(f'"{word}"\n' for word in words))

    def run(data: bytes) -> None:
        if data:  # the first byte cuts the others
            target(data[1:], data[0] % 32 + 1)

    files = [folder, f"-dict={dictionary}", f"-artifact_prefix={folder}-"]
    atheris.Setup([sys.argv[0], *files, "-max_len=4096", "-timeout=20", *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
