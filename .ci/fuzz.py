"""Fuzz one target with atheris: `python .ci/fuzz.py TARGET CORPUS [option of libFuzzer]...`.

The corpus is a folder; seeds and a dictionary are written first. A target fails with an exception: an error
that is not documented, events that depend on how a stream is cut or framed, or on the client, or that do not
fold to their snapshots, a value that `json.loads` does not find in the same text, a whole answer that differs
from the streamed one, an `add` that fails and yet changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import atheris
import httpx2
import openai
import pydantic

with atheris.instrument_imports(include=["dottxt"]):
    import dottxt

MAX_DEPTH = 200  # levels of containers that are read
ANYTHING = pydantic.TypeAdapter(Any)
BLANKS = b" \t\n\r\x0b\x0c\xef\xbb\xbf"  # and byte order marks
EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
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
WORDS += ["event: ", "patch", "done", "error", "ping", "id: 1", "\n\n", "\r\n", "\r", "\ufeff", "{\n", "[{\n"]
WORDS += ['"message"', '"delta"', '"finish_reason"', '"length"', '"stop"', '"usage"', '"text"', '"type"']
WORDS += ['"index"', '"detail"', '"errors"', '"refusal"', '"tool_calls"', '"reasoning"', "<!doctype html>"]


# --- Reading: bytes in, and what comes of them --------------------------------------------------------------

served: list[bytes] = []  # the chunks of the next response


class Transport(httpx2.BaseTransport):
    """Serves the SDK, but no patches."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if json.loads(request.content).get("stream") == "patch":
            return httpx2.Response(400, json={"error": {"message": "pass a boolean"}})
        return httpx2.Response(200, content=iter(served), headers={"Content-Type": "application/json"})


class Direct(dottxt.DotTxt):
    """Streams what is served, without the SDK's pipeline, which takes ten times as long as all else."""

    def post(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(response=httpx2.Response(200, content=iter(served)))


class AsyncDirect(dottxt.AsyncDotTxt):
    async def post(self, *_: Any, **__: Any) -> Any:
        async def content() -> AsyncIterator[bytes]:
            for chunk in served:
                yield chunk

        return SimpleNamespace(response=httpx2.Response(200, content=content()))


GIVEN: dict[str, Any] = {"api_key": "fuzz", "base_url": "http://fuzz/v1", "max_retries": 0}
CLIENT = dottxt.DotTxt(**GIVEN, http_client=openai.DefaultHttpxClient(transport=Transport()))
DIRECT, ASYNC_DIRECT = Direct(**GIVEN), AsyncDirect(**GIVEN)
LOOP = asyncio.new_event_loop()
NUMBERS = itertools.count()
INVALID = (dottxt.PatchStreamError, dottxt.InvalidOutputError)


class Found(NamedTuple):
    """What a stream gave."""

    ops: list[str]
    end: str  # the value or the error
    told: tuple[str | None, str, str] = (None, "", "")  # finish reason, usage, raw output

    @property
    def has_value(self) -> bool:
        return self.end.startswith("value: ")

    @property
    def kind(self) -> tuple[list[str], str]:
        """All but the words of an error, which quotes bytes."""
        return self.ops, self.end if self.has_value else self.end.partition(": ")[0]


def question() -> dict[str, Any]:
    # Clients remember which models send tokens, so each request has its own.
    return {"model": f"fuzz-{next(NUMBERS):09}", "input": "", "response_format": {}}


def words(error: Exception) -> str:
    return re.sub("fuzz-[0-9]{9}", "it", f"{type(error).__name__}: {error}")


def facts(stream: Any) -> tuple[str | None, str, str]:
    return stream.finish_reason, repr(stream.usage), stream.raw_output


def read(data: bytes, size: int = 1 << 20, client: dottxt.DotTxt = DIRECT) -> Found:
    """Read a response in chunks of a size."""
    served[:] = chunks(data, size)
    stream = client.stream(**question())
    document, ops, events, snapshots, raised = None, [], [], [], ""
    try:
        for event in stream:
            document = dottxt.apply_add(document, event.op["path"], event.value)
            events.append(event)
            ops.append(repr(event.op))
            snapshots.append(repr(event.snapshot))
            assert snapshots[-1] == repr(document)
            if isinstance(event.value, (dict, list)):
                event.value.clear()  # as a caller may
    except INVALID as error:
        raised = words(error)
    assert [repr(event.snapshot) for event in events] == snapshots  # late, hence in another way
    try:
        end = f"value: {stream.result()!r}"
        is_mixed = b'"op"' in data and b'"choices"' in data  # operations and text: no server sends both
        assert is_mixed or end == f"value: {document!r}"
    except INVALID as error:
        end = words(error)
    assert raised in ("", end)
    return Found(ops, end, facts(stream))


async def read_async(data: bytes) -> Found:
    served[:] = [data]
    stream = ASYNC_DIRECT.stream(**question())
    ops = []
    try:
        async for event in stream:
            ops.append(repr(event.op))  # noqa: PERF401 - an error may come
        end = f"value: {await stream.result()!r}"
    except INVALID as error:
        end = words(error)
    return Found(ops, end, facts(stream))


def generate(body: Any) -> Found:
    """A whole answer."""
    served[:] = [json.dumps(body).encode()]
    try:
        return Found([], f"value: {CLIENT.generate(**question())!r}")
    except dottxt.InvalidOutputError as error:
        return Found([], words(error))


def chunks(data: Any, size: int) -> list[Any]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def sse(records: list[tuple[str, bytes]]) -> bytes:
    """Server-sent events of those names and data."""
    framed = b":\n\n"
    for name, data in records:
        lines = re.sub(b"\r\n|\r|\n", b"\ndata: ", data)
        framed += b"event: %b\ndata: %b\n\n" % (name.encode(), lines)
    return framed


def events_of(data: bytes) -> list[tuple[str, bytes]]:
    """The names and data of server-sent events (HTML standard, §9.2.6)."""
    events: list[tuple[str, bytes]] = []
    name, values = "", []
    for line in [*re.split(b"\r\n|\r|\n", data), b""]:
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode(errors="replace")
        elif not line:
            events += [(name, b"\n".join(values))] if values else []
            name, values = "", []
    return events


def lines_of(data: bytes) -> list[tuple[str, bytes]]:
    """The records of lines, which have no names; JSON broken over lines is one."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if lines and lines[0].strip() in (b"{", b"[", b"[{"):
        lines = [data]
    return [("", line) for line in lines]


# --- Targets ------------------------------------------------------------------------------------------------


def stream(data: bytes, size: int) -> None:
    """Any bytes, cut or whole, sync or async, and with their records framed anew."""
    found = read(data)
    assert read(data, size) == found
    assert LOOP.run_until_complete(read_async(data)) == found
    start = data.lstrip(BLANKS)  # the first line tells the framing
    if start.startswith(EVENT_STARTS):
        assert read(sse(events_of(start)), size).kind == found.kind
    elif start:
        check_lines(found, lines_of(start), size)
    if size == 1:  # where tokens were asked for
        assert read(data, 2, CLIENT) == read(data, client=CLIENT)


def check_lines(found: Found, records: list[tuple[str, bytes]], size: int) -> None:
    """Lines and server-sent events with the same records give the same."""
    framed = sse(records)
    # Lines need no end mark. To a token stream it would say that a number is over.
    both = [read(framed + mark, size).kind for mark in (b"", b"data: [DONE]\n\n")]
    assert found.kind in both


def tokens(data: bytes, size: int) -> None:
    """JSON text as engines send it, whole and in pieces of a size."""
    given = data.decode("utf-8", "replace") or "{}"
    form, finish_reason = len(data) % 7, [None, "stop", "length"][len(data) % 3]
    choices: list[dict[str, Any]] = [{"delta": {"content": piece}} for piece in chunks(given, size)]
    for number, choice in enumerate(choices):
        piece = choice["delta"]["content"]
        if form == 1:  # Perplexity sends all so far as well
            choice["message"] = {"content": given[: size * (number + 1)]}
        elif form == 2:  # Writer sends the piece twice
            choice["message"] = {"content": piece}
        elif form == 3:
            text = {"type": "text", "text": piece}
            choice["delta"] = {"content": [{"type": "thinking", "thinking": []}, text]}
    end: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    if form in (4, 5, 6):  # MiniMax repeats all at the end
        end["message"] = {"content": given}
    if form in (5, 6):
        del end["delta"]
    records: list[Any] = [{"choices": [choice], "error": None} for choice in choices if form != 6]
    records += [{"choices": [end]}, {"choices": [], "usage": {"total_tokens": 1}}]
    records[len(records) // 2 : 0] = [{"type": "ping"}, None]
    texts = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    has_mark = form in (5, 6) or len(data) % 2 == 0
    texts += [b"[DONE]"] * has_mark
    found = read(sse([("", text) for text in texts]), 16 * size)
    assert read(b"\n".join(texts)) == found
    assert found.told[2] == given
    is_over = finish_reason == "stop" or (finish_reason is None and has_mark)
    check(given, found.end, cut=given[-1].isdigit() and not is_over)
    if finish_reason or has_mark:
        whole = generate({"choices": [{"message": {"content": given}, "finish_reason": finish_reason}]})
        assert whole.end == found.end
    if found.has_value and not re.search(r"\\u[dD]", given):  # Pydantic takes no lone surrogates
        check_elements(given, found.ops)


def check(given: str, end: str, cut: bool) -> None:
    """A value is what `json.loads` makes of the text; where there is none, neither has that one."""
    try:
        expected = f"value: {json.loads(given, parse_constant=int)!r}"  # `int` refuses NaN
    except (ValueError, RecursionError):
        expected = ""
    if end.startswith("value: "):
        assert end == expected
        assert not cut
    else:
        assert end.startswith("InvalidOutputError: ")
        assert cut or not expected or given.count("[") + given.count("{") > MAX_DEPTH


def check_elements(given: str, ops: list[str]) -> None:
    """The elements of an array."""
    value = json.loads(given)
    arrays = {"": value} if isinstance(value, list) else {}
    for key, each in value.items() if isinstance(value, dict) else ():
        field = key.replace("~", "~0").replace("/", "~1")
        is_once = sum(f"'path': {'/' + field!r}," in op for op in ops) == 1
        if key and is_once and isinstance(each, list):
            arrays = {field: each}
    served[:] = [json.dumps({"choices": [{"message": {"content": given}}]}).encode()]
    for field, array in arrays.items():
        elements = DIRECT.stream(**question()).elements(ANYTHING, field)
        assert repr([*elements]) == repr(array)


def answers(data: bytes, size: int) -> None:
    """Records of every kind, named or not, and a single one as a whole answer, too."""
    made = atheris.FuzzedDataProvider(data)
    records = [record(made, 2) for _ in range(made.ConsumeIntInRange(1, 6))]
    names = [made.PickValueInList(NAMES) for _ in records]
    texts = [json.dumps(each).encode() for each in records]
    framed = sse(list(zip(names, texts, strict=True)))
    found = read(framed)
    assert read(framed, size) == found
    assert LOOP.run_until_complete(read_async(framed)) == found
    if not any(names):
        check_lines(read(b"\n".join(texts)), list(zip(names, texts, strict=True)), size)
    if len(records) == 1 and isinstance(records[0], dict) and "op" not in records[0]:
        whole = generate(records[0])
        if whole.has_value and found.has_value:
            assert whole.end == found.end


NAMES = ["", "", "", "", "patch", "message", "error", "done", "ping"]
PIECES: list[Any] = ['{"a": ', "[1", ", 2]", "}", "[]", '"x"', "12", "", " ", "true", None, 7]
PATHS: list[Any] = ["", "", "/a", "/a", "/-", "/0", "/a/0", "/a/-", "a", "/~", None]
ERRORS: list[Any] = [None, "", {}, "bad", {"message": "bad"}, {"code": 1}, [{"message": "bad"}], 0, False]


def record(made: Any, depth: int) -> Any:
    """An operation, a chunk, a completion, an error, or something else."""
    kind = made.ConsumeIntInRange(0, 9)
    if kind < 3:
        return {"op": "add", "path": made.PickValueInList(PATHS), "value": structure(made, depth)}
    if kind < 6:
        chat: dict[str, Any] = {"choices": [choice(made) for _ in range(made.ConsumeIntInRange(0, 2))]}
        return chat | made.PickValueInList(
            [{}, {}, {"usage": {"total_tokens": 1}}, {"usage": 1}, {"id": "1"}]
        )
    if kind == 6:
        name = made.PickValueInList(
            ["error", "message", "detail", "errors", "finish_reason", "choices", "op"]
        )
        return {name: made.PickValueInList(ERRORS)}
    if kind == 7 and depth:
        return [record(made, depth - 1) for _ in range(made.ConsumeIntInRange(0, 2))]
    return structure(made, depth)


def choice(made: Any) -> Any:
    found: dict[str, Any] = {}
    for name in ("delta", "message"):
        if made.ConsumeBool():
            content = made.PickValueInList(PIECES)
            parts = [{"type": made.PickValueInList(["text", "thinking"]), "text": content}]
            found[name] = {"content": parts if made.ConsumeIntInRange(0, 3) == 0 else content}
        if made.ConsumeIntInRange(0, 7) == 0:
            others = ["refusal", "reasoning_content", "tool_calls"]
            found[name] = {made.PickValueInList(others): made.PickValueInList(ERRORS)}
    if made.ConsumeBool():
        found["finish_reason"] = made.PickValueInList(["stop", "length", "error", "", None, 1])
    if made.ConsumeIntInRange(0, 5) == 0:
        found["error"] = made.PickValueInList(ERRORS)
    if made.ConsumeBool():
        found["index"] = made.PickValueInList([0, 0, None, 1])
    return made.PickValueInList([found, found, found, found, None, "x"])


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
EVENTS += [f"{events}\n\nevent: done\ndata: {{}}\n\n" for events in EVENTS]
DELTAS = "\n".join(completion(piece) for piece in chunks(TEXTS[0], 9))
ODD = [completion("[1]", "stop", "message"), '{\n"choices": []}', "\ufeff: ping\r\n\r\nevent: error\rdata:x"]
ODD += [
    '[{"error": {"message": "bad"}}]',
    '{"choices": [{"error": {"message": "bad"}}]}',
    '[{\n"detail": ""}]',
]
ODD += ['id: 1\nevent: ping\ndata: 12:00\n\ndata: {"type": "ping"}\n\ndata: [DONE]', "<!doctype html>"]
ODD += ['\ufeff\n\ufeffdata: {"op": "add", "path": "", "value": 1}\n\ndata: [DONE]\n\n', "i", "\n \n"]
TARGETS: dict[str, tuple[Callable[[bytes, int], None], list[str]]] = {
    "stream": (stream, [*PATCHES, *EVENTS, EVENTS[0].replace("\n", "\r\n"), DELTAS, *ODD]),
    "tokens": (tokens, TEXTS),
    "answers": (answers, ["\x01\x02\x03" * 9, "\x7f\x11\x05" * 20]),
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
