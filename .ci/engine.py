"""Tests on the real local engine, llama.cpp with a small model, under a real grammar: `nox -s engine`."""

# ruff: noqa: UP007, UP045 - Union[...] and Optional[...] are among the types under test

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from gateway import Client, Priority, fold
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from dottxt import AsyncDotTxt, DotTxt, apply_add

pytest_plugins = ["gateway"]  # for its fixtures

ROOT = Path(__file__).parent.parent
LOCAL_ENGINE = [sys.executable, str(ROOT / "examples" / "local_engine.py")]


def refuses_connections(url: str) -> bool:
    host, port = re.findall(r"http://([\d.]+):(\d+)/v1", url)[0]
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_local_engine_runs_a_command_and_ends_with_its_exit_status() -> None:
    code = """
import os, sys, urllib.request
print(*(os.environ[name] for name in ("DOTTXT_BASE_URL", "DOTTXT_API_KEY", "DOTTXT_MODEL")))
print(urllib.request.urlopen(os.environ["DOTTXT_BASE_URL"] + "/models").status)
sys.exit(int(sys.argv[1]))
"""
    command = [*LOCAL_ENGINE, sys.executable, "-c", code, "7"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    url, _, _, status = ran.stdout.split()
    assert (ran.returncode, ran.stderr, status) == (7, "", "200")
    assert refuses_connections(url)


class Route(BaseModel):
    intent: Literal["billing", "technical", "account"]
    urgent: bool
    score: int = Field(ge=0, le=9)
    note: str = Field(max_length=30)
    steps: list[Annotated[str, Field(max_length=12)]] = Field(min_length=2, max_length=2)


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
    "Enum": (Priority, str),
    "Literal": (Literal["yes", "no"], str),
    "Union": (Union[Flags, Corner], dict),
    "X | Y": (Flags | Corner, dict),
    "Optional": (Optional[Priority], (str, type(None))),
    "list": (Annotated[list[bool], Field(min_length=3, max_length=3)], list),
    "tuple": (tuple[bool, Priority], list),
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
    with subprocess.Popen(LOCAL_ENGINE, stdout=subprocess.PIPE, text=True) as process:
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


def test_the_engines_operations_fold_to_its_text_in_schema_order(engine_client: Client) -> None:
    stream = engine_client.stream(**question(response_format=Route.model_json_schema()))
    doc, fields = None, []
    for event in engine_client.iterate(stream):
        doc = apply_add(doc, event.op["path"], event.op["value"])
        fields.append(event.field)
        assert event.snapshot == doc
    assert fields == ["", "intent", "urgent", "score", "note", "steps", "steps/0", "steps/1"]
    assert engine_client.wait(stream.result()) == doc
    assert Route.model_validate(doc)


class Line(BaseModel):
    item: str = Field(max_length=12)
    quantity: int = Field(ge=1, le=99)


class Invoice(BaseModel):
    lines: list[Line] = Field(min_length=3, max_length=3)


def test_elements_are_handed_out_while_the_engine_writes_the_next(engine_client: Client) -> None:
    stream = engine_client.stream(**question(response_format=Invoice))
    received = [
        (line, stream.finish_reason) for line in engine_client.iterate(stream.elements(Line, "lines"))
    ]
    lines, reasons = zip(*received, strict=True)
    assert [*lines] == engine_client.wait(stream.result()).lines
    assert reasons == (None, None, "stop")


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_the_command_line_asks_the_engine(command: str, local_engine: dict[str, str]) -> None:
    schema = json.dumps(Route.model_json_schema())
    prompt = "Triage this email as JSON: I was charged twice."
    ran = subprocess.run(
        [sys.executable, "-m", "dottxt", command, "-s", schema, "--max-tokens", "400", prompt],
        env={**os.environ, **local_engine},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    if command == "generate":
        assert Route.model_validate_json(ran.stdout)
    else:
        assert Route.model_validate(fold(map(json.loads, ran.stdout.splitlines())))
