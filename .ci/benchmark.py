"""What the client costs next to the model: dottxt against what users would write by hand, and its peers.

    nox -s bench
    nox -s bench -- --quick --only lines sse

It prints the table in .ci/README.md, and whether this run reached each goal: the figures of November 2026 and
5 % (async streams 10 %). The exit status tells only whether the results were right, for machines are noisy;
`--bound 1.4` lets figures above 1.4 times their goals fail, too.

Calls take turns (A, B, B, A, …), and a figure is the median of the ratios of neighbours. Both sides of a
ratio run in one process, because two processes of one program differ by more than the few per cent that
matter; the peers have interpreters of their own. Time is processor time; of a first event, the clock's.
"""

import argparse
import asyncio
import gc
import importlib
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import openai
import pydantic

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


# --- The gateway, in a process of its own ------------------------------------------------------------------

SSE = "text/event-stream"
REFUSAL = {"error": {"message": "stream: Input should be a valid boolean"}}


def chat(text: str, kind: str = "message") -> str:
    """A completion, or the chunk of a token stream."""
    choice = {"index": 0, kind: {"role": "assistant", "content": text}, "finish_reason": None}
    names = {"id": "1", "object": "chat.completion", "created": 1700000000, "model": "benchmark"}
    return compact({**names, "choices": [choice if kind == "delta" else choice | {"finish_reason": "stop"}]})


@cache
def patches(subject: str, is_sse: bool) -> list[bytes]:
    form = "event: patch\ndata: %s\n\n" if is_sse else "%s\n"
    parts = [(form % compact(operation)).encode() for operation in walk(document(size(subject)))]
    parts += [b"event: done\ndata: {}\n\n"] if is_sse else []
    return parts if "each" in subject or subject.startswith("first") else [b"".join(parts)]


@cache
def tokens(subject: str) -> list[bytes]:
    text = compact(document(size(subject)))
    pieces = [chat(text[start : start + 4], "delta") for start in range(0, len(text), 4)]
    return ["".join(f"data: {piece}\n\n" for piece in [*pieces, "[DONE]"]).encode()]


class Gateway(BaseHTTPRequestHandler):
    """Answers as the first part of a URL's path says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        subject = self.path.split("/")[1]
        if subject in VALUES:
            self.send([chat(compact(VALUES[subject])).encode()])
        elif subject.startswith("tokens") and asked["stream"] == "patch":
            self.send([compact(REFUSAL).encode()], status=400)
        elif subject.startswith("tokens"):
            self.send(tokens(subject), SSE)
        else:
            is_sse = self.headers["Accept"] == SSE and not subject.startswith("lines")
            self.send(patches(subject, is_sse), SSE if is_sse else "application/x-ndjson")

    def send(self, parts: list[bytes], media_type: str = "application/json", status: int = 200) -> None:
        """Send the parts, each in a chunk of its own."""
        self.send_response_only(status)
        self.send_header("Content-Type", media_type)
        if len(parts) == 1:
            self.send_header("Content-Length", str(len(parts[0])))
            self.end_headers()
            self.wfile.write(parts[0])
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, part in enumerate(parts):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            if self.path.startswith("/first") and not number:
                time.sleep(0.003)  # a model is still writing when its first operation is there
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    request_queue_size = 100


def serve() -> None:
    """Run the gateway until standard input ends."""
    with Server(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        sys.stdin.read()
        server.shutdown()


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

    async def loops_at_once(self, subject: str) -> None:
        await asyncio.gather(*(self.loop_async(subject) for _ in range(40)))

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

    async def streams_at_once(self, subject: str) -> None:
        await asyncio.gather(*(self.stream_async(subject) for _ in range(40)))

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

    def schema(self, subject: str) -> float:
        """The microseconds that a larger schema than the ticket's adds to `generate`, not to `create`."""
        fastest: dict[Any, float] = {}
        for _ in range(200):
            for call in itertools.product((self.generate, self.create), (subject, "ticket")):
                started = time.process_time()
                call[0](call[1])
                fastest[call] = min(time.process_time() - started, fastest.get(call, math.inf))
        generated, small, created, small_created = fastest.values()
        return (generated - small - created + small_created) * 1e6

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
            if line not in warm:
                warm.add(line)
                first = number(*line.split())
                numbers += [first] if first > 5 else []  # what takes long needs no warming up
            gc.collect()
            end = time.perf_counter() + (0 if numbers else 0.5)
            while not numbers or (len(numbers) < 5 and time.perf_counter() < end):
                numbers.append(number(*line.split()))
        except Exception:
            traceback.print_exc()
        print(float(min(numbers, default=math.nan)), flush=True)  # the one that was disturbed least


# --- Measurements: a call is "TASK SUBJECT" in dottxt's own process, or "TASK SUBJECT PEER" ----------------


class Row(NamedTuple):
    ours: str
    base: str  # takes turns with ours; without it, our task itself returns the figure
    goals: tuple[float, ...]  # a second one is for the async client
    what: str
    against: str
    peers: tuple[str, ...] = ()  # "TASK PEER": they take turns with the base, too


PEERS = {"sdk": "SDK `parse`", "instructor": "instructor", "0.3.0": "dottxt 0.3.0"}
FIRST, STREAM = ("first_event_async 0.3.0",), ("stream_async 0.3.0",)
TYPED = ("parse sdk", "instruct instructor", "generate 0.3.0")
HAND, LOOP, BYTE = "`create`, decoded by hand", "a loop of `split` and `json.loads`", "the SDK's first byte"
EACH, AT_ONCE = "sse-each-500", "server-sent events, 40 async streams at once"
ROWS = [
    Row("generate ticket", "create ticket", (1.06,), "`generate(Model)`, two fields", HAND, TYPED),
    Row("generate nested", "create nested", (1.1,), "the same, 200 nested fields", HAND, TYPED),
    Row("generate dict", "create dict", (1.1,), "the same, its schema as a `dict`", HAND, TYPED[2:]),
    Row("schema nested", "", (60,), "microseconds that a schema of 14 kB adds", HAND),
    Row("first_event first-9", "first_byte first-9", (0.99, 0.96), "first event of a stream", BYTE, FIRST),
    Row("stream lines-5000", "loop lines-5000", (1.05, 1.21), "NDJSON, 5,000 operations", LOOP, STREAM),
    Row("stream lines-50000", "loop lines-50000", (1.2, 1.35), "NDJSON, 50,000 operations", LOOP),
    Row(
        "stream lines-each-5000", "loop lines-each-5000", (1.16, 1.23), "NDJSON, one operation a chunk", LOOP
    ),
    Row("stream sse-5000", "loop sse-5000", (1.02, 1.14), "server-sent events, 5,000 operations", LOOP),
    Row("stream sse-50000", "loop sse-50000", (1.05, 1.25), "server-sent events, 50,000 operations", LOOP),
    Row("stream sse-each-5000", "loop sse-each-5000", (1.21, 1.24), "server-sent events, one a chunk", LOOP),
    Row(f"streams_at_once {EACH}", f"loops_at_once {EACH}", (1.2,), AT_ONCE, LOOP),
    Row(
        "stream any-100000", "stream any-10000", (10.93,), "stream of 100,000 operations", "10,000 operations"
    ),
    Row("snapshots any-1000", "snapshots any-1000 0.3.0", (0.2,), "1,000 events' snapshots", "dottxt 0.3.0"),
    Row("stream tokens-56000", "deltas tokens-56000", (0.11,), "1 MB of tokens", "the SDK's loop over them"),
    Row("stream tokens-56000", "stream tokens-5600", (10.83,), "1 MB of tokens", "100 kB of tokens"),
    Row("imports -", "", (1.06,), "`import dottxt`", "`import openai, pydantic`", ("imports 0.3.0",)),
    Row("memory any-100000", "", (2.24,), "peak memory, 100,000 operations", "the document they build"),
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
        if len(row.goals) > 1:
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

    def report(self, bound: float) -> Iterator[tuple[str, str, bool]]:
        """The rows of the table, whether their goals were reached, and whether a figure is out of bounds."""
        for row, ratios in self.ratios.items():
            figures = {who: statistics.median(turns) for who, turns in ratios.items()}
            texts = {who: f"{each:.2f}" if each < 20 else f"{each:.0f}" for who, each in figures.items()}
            ours = ", async ".join(texts.pop(who) for who in ("dottxt", "async") if who in texts)
            peers = ", ".join(f"{who} {text}" for who, text in texts.items())
            own = [figures[who] for who in ("dottxt", "async") if who in figures]
            worst = max(figure / goal for figure, goal in zip(own, row.goals, strict=True))
            is_out = not worst <= bound  # no number is out of bounds, too
            verdict = "OUT OF BOUNDS" if is_out else "FAIL" if worst > 1 else "pass"
            goals = ", async ".join(map(str, row.goals))
            table = f"| {row.what} | {row.against} | {ours} | {peers} |"
            yield table, f"{verdict}  {ours} (goal {goals})  {row.what}", is_out


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure dottxt against code by hand, and its peers.")
    parser.add_argument("--quick", action="store_true", help="one process, and a second for each figure")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="what has it in its calls")
    parser.add_argument("--bound", type=float, default=math.inf, help="fail above this multiple of a goal")
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
    table, goals, out_of_bounds = zip(*bench.report(given["bound"]), strict=True)
    python = f"{platform.system()}, Python {platform.python_version()}, OpenAI SDK {openai.__version__}"
    print("| what | against | dottxt | peers |", "| --- | --- | --- | --- |", *table, sep="\n")
    print("", f"({os.cpu_count()} cores, {python}.)", sep="\n")
    print("", *goals, *wrong, sep="\n")
    return bool(wrong) or any(out_of_bounds)


if __name__ == "__main__":
    sys.exit({"serve": serve, "work": work}.get(sys.argv[-1], main)())
