"""Tests of the README: its length, its links, and its code on a real engine: `nox -s engine`.

python examples/local_engine.py pytest .ci/readme.py
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from dottxt import AsyncDotTxt, DotTxt

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = "openai/gpt-oss-20b"
TICKET = {"intent": "billing", "urgent": True, "summary": "Charged twice"}


def readme_code() -> str:
    """All the Python of the README."""
    return "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert README.count("\n") <= 400


@pytest.mark.parametrize("page", ["README.md", ".ci/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def program() -> Iterator[tuple[dict[str, Any], str]]:
    """The names that the README's code defines, and what it prints on the local engine."""
    if "DOTTXT_BASE_URL" not in os.environ:
        pytest.skip("needs an engine: python examples/local_engine.py pytest .ci/readme.py")
    names: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(readme_code().replace(MODEL, os.environ["DOTTXT_MODEL"]), "README.md", "exec"), names)
    yield names, printed.getvalue()
    names["client"].close()


def test_the_code_runs_on_an_engine(program: tuple[dict[str, Any], str]) -> None:
    names, printed = program
    Ticket, Invoice = names["Ticket"], names["Invoice"]
    assert isinstance(names["ticket"], Ticket)
    assert isinstance(names["invoice"], Invoice)
    assert re.search(r"^intent = \w+\nurgent = (True|False)\nsummary = ", printed, re.MULTILINE)
    assert not re.search(r"^ = ", printed, re.MULTILINE)
    assert printed.count("book ") == len(names["invoice"].lines)
    assert isinstance(names["ask_again"](names["bill"]), Invoice)
    names["test_a_program"]()


def test_the_batch_writes_a_line_for_each_answer(program: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    names, _ = program
    emails = ["I was charged twice.", "The app crashes at start.", "Close my account."]
    asyncio.run(names["batch"](emails, str(tmp_path / "tickets.jsonl")))
    records = [json.loads(line) for line in (tmp_path / "tickets.jsonl").read_text("utf-8").splitlines()]
    assert {record["email"] for record in records} == {*emails}
    assert all(names["Ticket"].model_validate(record["ticket"]) for record in records)


def completion(text: str) -> httpx2.Response:
    message = {"role": "assistant", "content": text}
    return httpx2.Response(200, json={"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})


Handler = Callable[[httpx2.Request], Any]


def fake(handler: Handler) -> DotTxt:
    http_client = openai.DefaultHttpxClient(transport=httpx2.MockTransport(handler))
    return DotTxt(api_key="test", http_client=http_client)


def async_fake(handler: Handler) -> AsyncDotTxt:
    http_client = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(handler))
    return AsyncDotTxt(api_key="test", http_client=http_client)


def test_an_answer_that_does_not_fit_is_a_line_of_the_batch(
    program: tuple[dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, _ = program

    def gateway(request: httpx2.Request) -> httpx2.Response:
        return completion("no" if b"bad" in request.content else json.dumps(TICKET))

    monkeypatch.setitem(names, "AsyncDotTxt", lambda: async_fake(gateway))
    asyncio.run(names["batch"](["good", "bad", "good"], str(tmp_path / "tickets.jsonl")))
    records = [json.loads(line) for line in (tmp_path / "tickets.jsonl").read_text("utf-8").splitlines()]
    assert sorted(record.get("raw_output", "") for record in records) == ["", "", "no"]


def test_a_validators_reason_is_told_to_the_model(
    program: tuple[dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, _ = program
    asked: list[Any] = []

    def gateway(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content)["messages"])
        return completion('{"supplier": "Green", "lines": []}' if len(asked) == 3 else '{"lines": []}')

    with fake(gateway) as client:
        monkeypatch.setitem(names, "client", client)
        assert names["ask_again"]("Read this").supplier == "Green"
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert "supplier\n  Field required" in asked[-1][-1]["content"]


def test_a_heartbeat_keeps_the_stream(program: tuple[dict[str, Any], str]) -> None:
    names, _ = program

    async def body() -> AsyncIterator[bytes]:
        for op in [{"op": "add", "path": "", "value": TICKET}, {"op": "add", "path": "/more", "value": 1}]:
            await asyncio.sleep(0.25)
            yield f"event: patch\ndata: {json.dumps(op)}\n\n".encode()
        yield b"event: done\ndata: {}\n\n"

    async def main() -> list[str]:
        async with async_fake(lambda request: httpx2.Response(200, content=body())) as client:
            stream = client.stream(model="m", input="Hello", response_format=names["Ticket"])
            return [line async for line in names["lines"](stream, seconds=0.1)]

    lines = asyncio.run(main())
    assert [line for line in lines if line[0] != ":"] == [
        line for line in lines if line.startswith("data: {")
    ]
    assert len([line for line in lines if line[0] == ":"]) >= 4
    assert '"/more"' in lines[-1]
