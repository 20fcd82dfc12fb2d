"""Checks of dottxt.py in Pyodide (Python for WebAssembly) on Node: `nox -s pyodide`.

This file is used on both sides. pytest makes a test of each check, and starts a gateway and Node. Node
imports the file in Pyodide, runs the checks there, over the real `fetch`, and prints how each of them ended.
"""

# ruff: noqa: UP007, UP045 - Union[...] and Optional[...] are among the types under test

import asyncio
import enum
import functools
import json
import os
import subprocess
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import openai
import pydantic
import pytest

from dottxt import AsyncDotTxt, AsyncPatchStream, InvalidOutputError, InvalidSchemaError, PatchStreamError

CHECKS: dict[str, Any] = {}  # coroutine functions that take a client
JSON, EVENTS = "application/json", "text/event-stream"
PAUSE, CUT = "(pause)", "(cut)"  # among the pieces of a reply: wait for the next GET request, hang up

# --- The gateway --------------------------------------------------------------------------------------------


class Gateway(BaseHTTPRequestHandler):
    """Answers as the request asks: the first of its `replies` is to patch mode, the last to all else."""

    protocol_version = "HTTP/1.1"
    going_on = threading.Condition()

    def do_GET(self) -> None:
        with self.going_on:
            self.going_on.notify_all()
        self.reply(['{"object": "list", "data": []}'], JSON)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.going_on:  # a GET request must not come between a piece and the pause after it
            self.reply(**body["replies"][0 if body.get("stream") == "patch" else -1])

    def reply(self, pieces: list[str], kind: str = EVENTS, status: int = 200, size: int = 10_000) -> None:
        self.send_response(status)
        for name in ("content-type", kind), ("transfer-encoding", "chunked"), ("x-request-id", "request 7"):
            self.send_header(*name)
        self.end_headers()
        for piece in pieces:
            if piece == CUT:
                self.close_connection = True
                return
            if piece == PAUSE:
                self.going_on.wait(60)
                continue
            data = piece.encode()
            for start in range(0, len(data), size):
                chunk = data[start : start + size]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


# --- What it is asked for -----------------------------------------------------------------------------------


class Level(enum.Enum):
    LOW, HIGH = "low", "high"


class Ticket(pydantic.BaseModel):
    intent: str
    steps: list[str]


class Steps(TypedDict):
    steps: list[str]


@dataclass
class Point:
    x: int


class Builder:
    def to_json(self) -> str:
        return '{"type": "integer"}'


TICKET = Ticket(intent="billing", steps=["verify", "pay back 7 €"])
TEXTS = ["{", '"intent": "billing"', ', "steps": [', '"verify"', ', "pay back 7 €"]}']  # an event each
FIELDS = ["", "intent", "steps", "steps/0", "steps/1"]
VALUES = [{}, "billing", [], "verify", "pay back 7 €"]


def record(data: object, kind: str = "message") -> str:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def patches() -> list[str]:
    """The ticket as a patch stream, an event in each piece."""
    paths = [field and f"/{field}" for field in FIELDS]
    ops = [{"op": "add", "path": path, "value": value} for path, value in zip(paths, VALUES, strict=True)]
    return [*(record(op, "patch") for op in ops), record({}, "done")]


def tokens() -> list[str]:
    """The ticket as a token stream, the text of an event in each piece."""
    return [
        *(record({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in TEXTS),
        "data: [DONE]\n\n",
    ]


MODES = ("patch mode", patches()), ("tokens", tokens())


def whole(text: str) -> dict[str, Any]:
    """The reply that is a completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return {"pieces": [json.dumps(completion)], "kind": JSON}


def failed(status: int) -> dict[str, Any]:
    return {"pieces": ['{"error": {"message": "No, says the gateway."}}'], "kind": JSON, "status": status}


def generate(client: AsyncDotTxt, wanted: Any, reply: dict[str, Any]) -> Any:
    return client.generate(model="m", input="Hello", response_format=wanted, extra_body={"replies": [reply]})


def stream(client: AsyncDotTxt, mode: str, pieces: list[str], size: int = 10_000) -> AsyncPatchStream[Ticket]:
    """Ask for a ticket. In the mode "tokens" the engine refuses patch mode."""
    reply = {"pieces": pieces, "size": size}
    replies = [reply] if mode == "patch mode" else [failed(400), reply]
    return client.stream(model=mode, input="Hello", response_format=Ticket, extra_body={"replies": replies})


# --- The checks ---------------------------------------------------------------------------------------------


def check(*rows: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Add a function to the table; with rows of arguments, once for each, named by the first of these."""

    def add(function: Any) -> Any:
        for row in rows:
            CHECKS[f"{function.__name__}[{row[0]}]"] = functools.partial(function, *row)
        if not rows:
            CHECKS[function.__name__] = function
        return function

    return add


@check()
async def this_is_python_for_webassembly(_: AsyncDotTxt) -> None:
    assert sys.platform == "emscripten"
    assert sys.version_info >= (3, 14)


@check(
    ("text", '{"type": "integer"}', "7", 7),
    ("dict", {"type": "integer"}, "7", 7),
    ("BaseModel", Ticket, "".join(TEXTS), TICKET),
    ("TypedDict", Steps, '{"steps": ["verify"]}', {"steps": ["verify"]}),
    ("dataclass", Point, '{"x": 7}', {"x": 7}),
    ("Enum", Level, '"low"', "low"),
    ("Literal", Literal["low", "high"], '"low"', "low"),
    ("Union", Union[int, str], '"low"', "low"),
    ("|", int | str, "7", 7),
    ("Optional", Optional[int], "null", None),
    ("list", list[int], "[7]", [7]),
    ("dict of", dict[str, int], '{"x": 7}', {"x": 7}),
    ("tuple", tuple[int, str], '[7, "low"]', [7, "low"]),
    ("Annotated", Annotated[int, pydantic.Field(gt=0)], "7", 7),
    ("name", list["Ticket"], "[]", []),
    ("TypeAdapter", pydantic.TypeAdapter(Point), '{"x": 7}', Point(7)),
    ("to_json", Builder(), "7", 7),
)
async def every_output_type_can_be_asked_for(
    _: str, wanted: Any, text: str, value: Any, client: AsyncDotTxt
) -> None:
    assert await generate(client, wanted, whole(text)) == value


@check(("None", None), ("list", []), ("instance", TICKET), ("schema", {"type": 1}), ("text", "no JSON"))
async def anything_else_is_an_invalid_schema(_: str, wanted: Any, client: AsyncDotTxt) -> None:
    with pytest.raises(InvalidSchemaError):
        await generate(client, wanted, failed(500))


@check(*MODES)
async def each_event_comes_before_the_next_is_sent(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    *first, last = pieces
    events = stream(client, mode, [*(part for piece in first for part in (piece, PAUSE)), last])
    seen = []
    async for event in events:
        seen.append((event.field, event.value))
        await client.models.list()  # the gateway waits for it
    assert seen == list(zip(FIELDS, VALUES, strict=True))
    assert event.snapshot == TICKET.model_dump()
    assert await events.result() == TICKET


@check(*MODES)
async def any_chunks_give_the_same_events(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    for size in (1, 7):  # bytes: the euro sign has three
        events = stream(client, mode, pieces, size)
        assert [event.field async for event in events] == FIELDS
        assert await events.result() == TICKET


@check(*MODES)
async def each_element_comes_as_soon_as_it_is_complete(
    mode: str, pieces: list[str], client: AsyncDotTxt
) -> None:
    events = stream(client, mode, [*pieces[:4], PAUSE, *pieces[4:]])
    elements = events.elements(pydantic.TypeAdapter(str), "steps")
    assert await anext(elements) == "verify"
    await client.models.list()
    assert [element async for element in elements] == ["pay back 7 €"]
    assert await events.result() == TICKET


@check(*MODES)
async def many_streams_run_at_once(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    streams = [stream(client, mode, pieces) for _ in range(20)]
    assert await asyncio.gather(*(each.result() for each in streams)) == [TICKET] * 20


@check(*MODES)
async def a_stream_has_its_response(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    events = stream(client, mode, pieces)
    await events.result()
    assert events.response.headers["x-request-id"] == "request 7"


@check((401, openai.AuthenticationError), (404, openai.NotFoundError), (429, openai.RateLimitError))
async def an_error_of_the_gateway_says_what_it_said(
    status: int, kind: type[openai.APIStatusError], client: AsyncDotTxt
) -> None:
    with pytest.raises(kind, match="No, says the gateway"):
        await generate(client, Ticket, failed(status))
    options = {"replies": [failed(status)]}
    with pytest.raises(PatchStreamError, match=r"^No, says the gateway\.") as caught:
        await client.stream(model="m", input="", response_format=Ticket, extra_body=options).result()
    assert caught.value.status_code == status
    assert isinstance(caught.value.__cause__, kind)


@check(*MODES)
async def an_error_in_mid_stream_comes_after_the_good_events(
    mode: str, pieces: list[str], client: AsyncDotTxt
) -> None:
    events = stream(client, mode, [*pieces[:3], record({"error": {"message": "No memory."}})])
    assert [(await anext(events)).field for _ in range(3)] == FIELDS[:3]
    with pytest.raises(PatchStreamError, match=r"^No memory\."):
        await anext(events)


@check(*MODES)
async def a_connection_that_breaks_off_is_a_connection_error(
    mode: str, pieces: list[str], client: AsyncDotTxt
) -> None:
    events = stream(client, mode, [*pieces[:3], PAUSE, CUT])
    assert [(await anext(events)).field for _ in range(3)] == FIELDS[:3]
    await client.models.list()
    with pytest.raises(openai.APIConnectionError):
        await anext(events)
    with pytest.raises(openai.APIConnectionError):
        await events.result()


@check(
    ("patch mode", patches(), PatchStreamError, "end mark"),
    ("tokens", tokens(), InvalidOutputError, "Ticket"),
)
async def an_answer_that_is_cut_short_is_no_result(
    mode: str, pieces: list[str], kind: type[Exception], words: str, client: AsyncDotTxt
) -> None:
    events = stream(client, mode, pieces[:4])
    assert [(await anext(events)).field for _ in range(4)] == FIELDS[:4]
    with pytest.raises(kind, match=words):
        await anext(events)
    with pytest.raises(kind, match=words):
        await events.result()
    assert "verify" in events.raw_output


@check(*MODES)
async def output_of_another_type_is_an_invalid_output(
    mode: str, pieces: list[str], client: AsyncDotTxt
) -> None:
    pieces = [piece.replace("intent", "attempt") for piece in pieces]
    events = stream(client, mode, pieces)
    assert [event.value async for event in events] == VALUES
    with pytest.raises(InvalidOutputError, match="intent"):
        await events.result()


@check()
async def an_invalid_output_has_the_completion(client: AsyncDotTxt) -> None:
    with pytest.raises(InvalidOutputError, match="Ticket") as caught:
        await generate(client, Ticket, whole("Sorry."))
    assert caught.value.raw_output == "Sorry."
    assert caught.value.completion is not None


@check()
async def an_error_without_a_gateway_names_the_url(client: AsyncDotTxt) -> None:
    nowhere = client.with_options(base_url="http://127.0.0.1:65535/v1")
    for call in generate(nowhere, Ticket, whole("{}")), stream(nowhere, "patch mode", []).result():
        with pytest.raises(openai.APIConnectionError) as caught:
            await call
        # In the message, or in a note.
        assert "127.0.0.1:65535" in "".join(traceback.format_exception_only(caught.value))


@check()
async def a_gateway_that_says_nothing_is_a_timeout(client: AsyncDotTxt) -> None:
    hasty = client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        await stream(hasty, "patch mode", [*patches()[:3], PAUSE]).result()
    await client.models.list()


@check(*MODES)
async def a_stream_can_be_left_early(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    # The transport cannot abort the request: the gateway writes the rest of the answer for nobody.
    async with stream(client, mode, [*pieces[:3], PAUSE, *pieces[3:]]) as events:
        assert (await anext(events)).field == ""
    assert [event async for event in events] == []
    with pytest.raises(RuntimeError, match="closed"):
        await events.result()
    assert await generate(client, Ticket, whole("".join(TEXTS))) == TICKET
    await client.models.list()


@check(*MODES)
async def a_wait_that_is_cancelled_ends_the_stream(mode: str, pieces: list[str], client: AsyncDotTxt) -> None:
    events = stream(client, mode, [pieces[0], PAUSE, *pieces[1:]])
    assert (await anext(events)).field == ""
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(anext(events), 0.2)
    with pytest.raises(RuntimeError):
        await anext(events)
    await client.models.list()


@check()
async def json_that_nests_too_deep_is_an_error(client: AsyncDotTxt) -> None:
    # Python's own parser would overflow the stack here, which ends the interpreter.
    with pytest.raises(InvalidOutputError, match="deep"):
        await generate(client, {}, whole("[" * 10_000))
    with pytest.raises(InvalidSchemaError, match="deep"):
        await generate(client, '{"not":' * 10_000, failed(500))


async def run() -> None:
    """Run all checks, and print of each its name and how it failed, "" if it passed."""
    client = AsyncDotTxt(max_retries=0)
    for name, check in CHECKS.items():
        failure = ""
        try:
            await asyncio.wait_for(check(client), 30)
        except BaseException as error:  # pytest's own among them
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            failure = "".join(shown.format())
        print(json.dumps([name, failure]))


# --- The tests ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Run all checks in Pyodide, and return of each how it failed, "" if it passed."""
    if "PYODIDE" not in os.environ:
        pytest.skip("needs Pyodide: nox -s pyodide")
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        command = ["node", str(Path(__file__).with_suffix(".mjs")), os.environ["PYODIDE"], url]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        finally:
            server.shutdown()
    ended = map(json.loads, ran.stdout.splitlines())
    return defaultdict(lambda: f"It did not run to its end:\n{ran.stderr}", ended)


@pytest.mark.parametrize("check", CHECKS)
def test_in_pyodide(check: str, failures: dict[str, str]) -> None:
    if failures[check]:
        pytest.fail(failures[check], pytrace=False)
