"""What the client costs next to the model: dottxt against what users would write by hand, and its peers.

    nox -s bench
    nox -s bench -- --quick --only lines sse

It prints the README's table, and whether this run reached each goal. The exit status tells only whether the
results were right: machines are noisy.

Calls take turns (A, B, B, A, …), and a figure is the median of the ratios of neighbours. Both sides of a
ratio run in one process, because two processes of one program differ by more than the few per cent that
matter; the peers have interpreters of their own. Time is processor time; of a first event, the clock's.
"""

import argparse
import asyncio
import gc
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pydantic

ROOT = Path(__file__).resolve().parent.parent

# --- What is asked for, and the right answers --------------------------------------------------------------

TICKET = {"intent": "billing", "urgent": True}
LEAVES = {"name": "twelve chars", "number": 42, "price": 2.5, "paid": True, "note": "Zoë"}
GROUP = {f"{name}_{i}": value for i in range(4) for name, value in LEAVES.items()}
NESTED = {f"group_{i}": GROUP for i in range(10)}
VALUES = {"ticket": TICKET, "nested": NESTED, "dict": NESTED}
ORDER = {  # 14 operations
    "id": 17,
    "customer": {"name": "Zoë Åkesson", "address": {"street": "Große Straße 5", "city": "東京"}},
    "paid/open": True,
    "a~b": None,
    "total": 129.5,
    "note": 'She said "two boxes",\nthen\tC:\\pencils.',
    "lines": ["two boxes of blue pencils", "one eraser, naïve 🙂"],
}


def size(subject: str) -> int:
    """`lines-each-5000` takes 5,000 operations."""
    return int(subject.rpartition("-")[2])


def document(operations: int) -> dict[str, Any]:
    orders, rest = divmod(operations - 2, 14)
    return {"orders": [ORDER] * orders + ["no order"] * rest}


def walk(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations that build a value."""
    is_container = isinstance(value, (dict, list))
    yield {"op": "add", "path": path, "value": type(value)() if is_container else value}
    if is_container:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(child, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def model(name: str, **types: Any) -> Any:
    fields: dict[str, Any] = {field: (each, ...) for field, each in types.items()}
    return pydantic.create_model(name, **fields)


Ticket = model("Ticket", intent=str, urgent=bool)
GROUP_TYPES = {name: type(value) for name, value in GROUP.items()}
Nested = model("Nested", **{name: model(name, **GROUP_TYPES) for name in NESTED})
TYPES = {"ticket": Ticket, "first-9": Ticket, "nested": Nested, "dict": Nested.model_json_schema()}


def output_type(subject: str) -> Any:
    return TYPES.get(subject, {"type": "object"})


# --- The gateway: the tests' server in a process of its own ------------------------------------------------


def serve() -> None:
    """Answer as the first part of a URL's path says, until standard input ends."""
    sys.path.insert(0, str(ROOT))
    from gateway import Gateway, Reply, Request, api_error, completion, sse

    @cache
    def patches(subject: str, is_sse: bool) -> Reply:
        form = "event: patch\ndata: %s\n\n" if is_sse else "%s\n"
        parts = [(form % compact(operation)).encode() for operation in walk(document(size(subject)))]
        parts += [b"event: done\ndata: {}\n\n"] if is_sse else []
        headers = {"Content-Type": "text/event-stream" if is_sse else "application/x-ndjson"}
        if subject.startswith("first"):  # a model is still writing when its first operation is there
            return Reply([parts[0], 0.003, *parts[1:]], headers=headers)
        return Reply(parts if "each" in subject else b"".join(parts), headers=headers)

    @cache
    def tokens(subject: str) -> Reply:
        text = compact(document(size(subject)))
        reply = sse(*(text[i : i + 4] for i in range(0, len(text), 4)))
        return Reply(b"".join(step for step in reply.body if isinstance(step, bytes)), headers=reply.headers)

    def answer(request: Request) -> Reply:
        subject = request.path.split("/")[1]
        if subject in VALUES:
            return completion(json.dumps(VALUES[subject]))
        if subject.startswith("tokens"):
            refusal = api_error(400, "stream: Input should be a valid boolean")
            return refusal if request.json["stream"] == "patch" else tokens(subject)
        accepts_sse = request.headers["accept"] == "text/event-stream"
        return patches(subject, accepts_sse and not subject.startswith("lines"))

    with Gateway() as gateway:
        gateway.reply(answer)
        print(gateway.url.removesuffix("/v1"), flush=True)
        sys.stdin.read()


# --- Tasks: their processor time is measured, unless they return a number ----------------------------------

PROMPT = "I was charged twice."
REQUEST: dict[str, Any] = {"model": "benchmark", "messages": [{"role": "user", "content": PROMPT}]}
QUESTION: dict[str, Any] = {"model": "benchmark", "input": PROMPT}


@cache
def client(kind: str, subject: str) -> Any:
    """One client for each subject, and it stays warm."""
    make = getattr(openai if "OpenAI" in kind else importlib.import_module("dottxt"), kind)
    return make(api_key="key", base_url=f"{os.environ['GATEWAY']}/{subject}")


@cache
def by_hand(subject: str) -> dict[str, Any]:
    """The request as a user of the SDK writes it."""
    wanted = output_type(subject)
    schema = wanted if isinstance(wanted, dict) else wanted.model_json_schema()
    json_schema = {"name": "response", "schema": schema}
    return {**REQUEST, "response_format": {"type": "json_schema", "json_schema": json_schema}}


def response(kind: str, subject: str) -> Any:
    return client(kind, subject).chat.completions.with_streaming_response.create(
        **by_hand(subject),
        extra_headers={"Accept": "text/event-stream", "Accept-Encoding": "identity"},
        extra_body={"stream": "patch"},
    )


def parse_lines(data: bytes) -> bytes:
    *lines, rest = data.split(b"\n")
    for line in lines:
        json.loads(line)
    return rest


def parse_events(data: bytes) -> bytes:
    *events, rest = data.split(b"\n\n")
    for event in events:
        for line in event.split(b"\n"):
            if line.startswith(b"data: "):
                json.loads(line[6:])
    return rest


@cache
def instructed(subject: str) -> Any:
    instructor = importlib.import_module("instructor")
    return instructor.from_openai(client("OpenAI", subject), mode=instructor.Mode.JSON_SCHEMA)


def opened(kind: str, subject: str) -> Any:
    return client(kind, subject).stream(**QUESTION, response_format=output_type(subject))


class Tasks:
    """What is measured: a method a task, by hand until `deltas`."""

    def create(self, subject: str) -> None:
        completion = client("OpenAI", subject).chat.completions.create(**by_hand(subject))
        text, wanted = completion.choices[0].message.content, output_type(subject)
        json.loads(text) if isinstance(wanted, dict) else wanted.model_validate_json(text)

    def loop(self, subject: str) -> None:
        parse, rest = parse_events if subject.startswith("sse") else parse_lines, b""
        with response("OpenAI", subject) as chunks:
            for chunk in chunks.iter_bytes():
                rest = parse(rest + chunk)

    async def loop_async(self, subject: str) -> None:
        parse, rest = parse_events if subject.startswith("sse") else parse_lines, b""
        async with response("AsyncOpenAI", subject) as chunks:
            async for chunk in chunks.iter_bytes():
                rest = parse(rest + chunk)

    def first_byte(self, subject: str) -> float:
        started = time.perf_counter()
        with response("OpenAI", subject) as chunks:
            times = [time.perf_counter() - started for _ in chunks.iter_bytes()]
        return times[0]

    async def first_byte_async(self, subject: str) -> float:
        started = time.perf_counter()
        async with response("AsyncOpenAI", subject) as chunks:
            times = [time.perf_counter() - started async for _ in chunks.iter_bytes()]
        return times[0]

    def deltas(self, subject: str) -> None:
        for chunk in client("OpenAI", subject).chat.completions.create(**by_hand(subject), stream=True):
            _ = chunk.choices[0].delta.content

    def parse(self, subject: str) -> None:
        client("OpenAI", subject).chat.completions.parse(**REQUEST, response_format=output_type(subject))

    def instruct(self, subject: str) -> None:
        instructed(subject).create(**REQUEST, response_model=output_type(subject))

    def generate(self, subject: str) -> Any:
        return client("DotTxt", subject).generate(**QUESTION, response_format=output_type(subject))

    def stream(self, subject: str) -> None:
        for _ in opened("DotTxt", subject):
            pass

    async def stream_async(self, subject: str) -> None:
        async for _ in opened("AsyncDotTxt", subject):
            pass

    async def snapshots(self, subject: str) -> None:  # streams of 0.3.0 are async only
        async for event in opened("AsyncDotTxt", subject):
            _ = event.snapshot

    def first_event(self, subject: str) -> float:
        started = time.perf_counter()
        times = [time.perf_counter() - started for _ in opened("DotTxt", subject)]
        return times[0]

    async def first_event_async(self, subject: str) -> float:
        started = time.perf_counter()
        times = [time.perf_counter() - started async for _ in opened("AsyncDotTxt", subject)]
        return times[0]

    def memory(self, subject: str) -> float:
        """The peak of a stream, against the document that it builds."""
        text = compact(document(size(subject)))
        tracemalloc.start()
        built = json.loads(text)
        wanted = tracemalloc.get_traced_memory()[0]
        del built
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        self.stream(subject)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return peak / wanted

    def imports(self, _: str) -> float:
        """The time of `import dottxt`, against that of the part of it which is `import openai, pydantic`."""
        code = """if True:
            from time import process_time
            started = process_time()
            import openai, pydantic
            base = process_time() - started
            import dottxt
            print((process_time() - started) / base)"""
        return float(subprocess.check_output([sys.executable, "-I", "-c", code]))

    async def check(self, subject: str) -> bool:
        """Whether dottxt gives the right answer, on both clients."""
        if subject in VALUES:
            value = self.generate(subject)
            return bool((value if isinstance(value, dict) else value.model_dump()) == VALUES[subject])
        events, events_async = opened("DotTxt", subject), opened("AsyncDotTxt", subject)
        numbers = [sum(1 for _ in events), len([None async for _ in events_async])]
        values = [events.result(), await events_async.result()]
        return numbers == 2 * [size(subject)] and values == 2 * [document(size(subject))]


def work() -> None:
    """Do what the lines of standard input say, up to five times, and answer with a number."""
    tasks, running = Tasks(), asyncio.new_event_loop()
    warm: set[str] = set()

    def number(task: str, subject: str) -> float:
        started = time.process_time()
        result = getattr(tasks, task)(subject)
        if asyncio.iscoroutine(result):
            result = running.run_until_complete(result)
        seconds = time.process_time() - started
        return result if isinstance(result, (int, float)) else seconds

    for line in sys.stdin:
        numbers: list[float] = []
        try:
            if line not in warm:  # what takes long needs no warming up
                warm.add(line)
                numbers += [first for first in [number(*line.split())] if first > 1]
            gc.collect()
            end = time.perf_counter() + 0.5
            while not numbers or (len(numbers) < 5 and time.perf_counter() < end):
                numbers.append(number(*line.split()))
        except Exception:
            traceback.print_exc()
        print(float(min(numbers, default=math.nan)), flush=True)  # the one that was disturbed least


# --- Measurements: a call is "TASK SUBJECT" in dottxt's own process, or "TASK SUBJECT PEER" ----------------


class Row(NamedTuple):
    ours: str
    base: str  # takes turns with ours; without it, our task itself returns the ratio
    goal: float
    what: str
    against: str
    peers: tuple[str, ...] = ()  # "TASK PEER": they take turns with the base, too


PEERS = {"sdk": "SDK `parse`", "instructor": "instructor", "0.3.0": "dottxt 0.3.0"}
FIRST, STREAM = ("first_event_async 0.3.0",), ("stream_async 0.3.0",)
TYPED = ("parse sdk", "instruct instructor", "generate 0.3.0")
HAND, LOOP, BYTE = "`create`, decoded by hand", "a loop of `split` and `json.loads`", "the SDK's first byte"
ROWS = [
    Row("generate ticket", "create ticket", 1.03, "`generate(Model)`, two fields", HAND, TYPED),
    Row("generate nested", "create nested", 1.03, "the same, 200 nested fields", HAND, TYPED),
    Row("generate dict", "create dict", 1.05, "the same, its schema as a `dict`", HAND, TYPED[2:]),
    Row("first_event first-9", "first_byte first-9", 1, "first event of a stream", BYTE, FIRST),
    Row("stream lines-5000", "loop lines-5000", 1.1, "NDJSON, 5,000 operations", LOOP, STREAM),
    Row("stream lines-50000", "loop lines-50000", 1.3, "NDJSON, 50,000 operations", LOOP),
    Row("stream lines-each-5000", "loop lines-each-5000", 1.15, "NDJSON, one operation a chunk", LOOP),
    Row("stream sse-5000", "loop sse-5000", 1.4, "server-sent events, 5,000 operations", LOOP),
    Row("stream sse-50000", "loop sse-50000", 1.4, "server-sent events, 50,000 operations", LOOP),
    Row("stream sse-each-5000", "loop sse-each-5000", 1.3, "server-sent events, one a chunk", LOOP),
    Row("stream any-100000", "stream any-10000", 11, "stream of 100,000 operations", "10,000 operations"),
    Row("snapshots any-1000", "snapshots any-1000 0.3.0", 0.25, "1,000 events' snapshots", "dottxt 0.3.0"),
    Row("stream tokens-56000", "deltas tokens-56000", 0.1, "1 MB of tokens", "the SDK's loop over them"),
    Row("stream tokens-56000", "stream tokens-5600", 11, "1 MB of tokens", "100 kB of tokens"),
    Row("imports -", "", 1.03, "`import dottxt`", "`import openai, pydantic`", ("imports 0.3.0",)),
    Row("memory any-100000", "", 2.5, "peak memory, 100,000 operations", "the document they build"),
]


def start(python: str, *arguments: str) -> Any:
    """Start this script in a process of its own, with what is installed there."""
    pipe = subprocess.PIPE
    return subprocess.Popen([python, "-I", __file__, *arguments], stdin=pipe, stdout=pipe, text=True)


class Bench:
    """A worker for each interpreter, and what their turns gave: ratios by row and by who they are of."""

    def __init__(self, interpreters: dict[str, str]) -> None:
        self.interpreters = interpreters
        self.workers: dict[str, Any] = {}
        self.ratios: dict[Row, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def ask(self, call: str) -> float:
        task, subject, name = [*call.split(), "dottxt"][:3]
        if name not in self.workers:
            self.workers[name] = start(self.interpreters[name], "work")
        print(task, subject, file=self.workers[name].stdin, flush=True)
        return float(self.workers[name].stdout.readline())

    def take_turns(self, ours: str, base: str, seconds: float) -> list[float]:
        """The ratios of neighbouring turns, one at least."""
        ratios: list[float] = []
        end = time.perf_counter() + seconds
        while not ratios or time.perf_counter() < end:
            order = (base, ours) if len(ratios) % 2 else (ours, base)
            taken = {call: self.ask(call) for call in order if call}
            ratios.append(taken[ours] / taken.get(base, 1))
        return ratios

    def measure(self, row: Row, seconds: float, peers: bool) -> None:
        calls = {"dottxt": (row.ours, row.base)}
        if row.base.startswith(("first", "loop")):
            calls["async"] = row.ours.replace(" ", "_async "), row.base.replace(" ", "_async ")
        for task, peer in (each.split() for each in row.peers if peers):
            calls[PEERS[peer]] = f"{task} {row.ours.split()[1]} {peer}", row.base
        for who, (ours, base) in calls.items():
            if {*ours.split()[2:], *base.split()[2:]} <= self.interpreters.keys():
                turns = self.take_turns(ours, base, seconds)
                self.ratios[row][who] += turns
                print(f"{row.what}, {who}: {statistics.median(turns):.2f}", file=sys.stderr)

    def stop(self) -> None:
        while self.workers:
            self.workers.popitem()[1].communicate()

    def report(self) -> Iterator[tuple[str, str]]:
        """The rows of the README's table, and whether their goals were reached."""
        for row, ratios in self.ratios.items():
            figures = {who: statistics.median(turns) for who, turns in ratios.items()}
            texts = {who: f"{each:.2f}" if each < 20 else f"{each:.0f}" for who, each in figures.items()}
            ours = ", async ".join(texts.pop(who) for who in ("dottxt", "async") if who in texts)
            peers = ", ".join(f"{who} {text}" for who, text in texts.items())
            reached = all(figures[who] <= row.goal for who in ("dottxt", "async") if who in figures)
            verdict = f"{'pass' if reached else 'FAIL'}  {ours} (goal {row.goal})  {row.what}"
            yield f"| {row.what} | {row.against} | {ours} | {peers} |", verdict


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure dottxt against code by hand, and its peers.")
    parser.add_argument("--quick", action="store_true", help="one process, and a second for each figure")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="what has it in its calls")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"an interpreter for {PEERS[peer]}")
    given = vars(parser.parse_args())
    rows = [row for row in ROWS if any(name in f"{row.ours} {row.base}" for name in given["only"])]
    if not rows:
        parser.error(f"no row has any of {given['only']} in its calls")
    gateway = start(sys.executable, "serve")
    os.environ.update(GATEWAY=gateway.stdout.readline().strip(), NO_PROXY="*")
    bench = Bench({"dottxt": sys.executable} | {peer: given[peer] for peer in PEERS if given[peer]})
    subjects = {row.ours.split()[1] for row in rows if row.ours.startswith(("generate", "stream"))}
    wrong = [f"WRONG  {subject}" for subject in sorted(subjects) if bench.ask(f"check {subject}") != 1]
    for process in range(1 if given["quick"] else 2):
        for row in rows:
            bench.measure(row, 1 if given["quick"] else 4, peers=not process)
        bench.stop()
    gateway.communicate()
    table, goals = zip(*bench.report(), strict=True)
    python = f"{platform.system()}, Python {platform.python_version()}, OpenAI SDK {openai.__version__}"
    print(f"{os.cpu_count()} cores, {python}", "", sep="\n")
    print("| what | against | dottxt | peers |", "| --- | --- | --- | --- |", *table, sep="\n")
    print("", *goals, *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit({"serve": serve, "work": work}.get(sys.argv[-1], main)())
