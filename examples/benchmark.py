"""What the client costs next to the model: dottxt against its peers, on a gateway of its own.

    nox -s bench

It makes the peers' environments, prints a table, and writes to `build/bench` all numbers (JSON) and a
picture: when each field of an answer is there, and when the whole answer is.

Watch for: calls take turns (A, B, A, B, …), and a figure is the median of the ratios of neighbouring turns.
Each peer has an interpreter of its own. The SDK is also measured in the one that dottxt has, turn by turn
with dottxt: two processes of one program differ by more than the few per cent that matter there. Time is
processor time of the client; of a first event it is what the clock shows.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import socketserver
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

# ------------------------------------------------------------------------------------------------
# What is asked for, and the answers
# ------------------------------------------------------------------------------------------------

MODEL = "benchmark"
TICKET = {"intent": "billing", "urgent": True}
LEAVES = {"string": "twelve chars", "integer": 42, "number": 2.5, "boolean": True}
FLAT = {f"field_{i}": list(LEAVES.values())[i % 4] for i in range(200)}
NESTED = {f"group_{i}": dict(list(FLAT.items())[20 * i : 20 * i + 20]) for i in range(10)}
FLAT_SCHEMA = {
    "type": "object",
    "properties": {
        name: {"type": list(LEAVES)[i % 4], "description": f"What the text says about {name}."}
        for i, name in enumerate(FLAT)
    },
    "required": list(FLAT),
    "additionalProperties": False,
}
ORDER = {
    "id": 17,
    "customer": "Grace Hopper",
    "paid": True,
    "total": 129.5,
    "lines": ["two boxes of blue pencils", "one eraser"],
}


def document(operations: int) -> dict[str, Any]:
    """A document that takes this many operations, give or take a few."""
    return {"orders": [ORDER] * (operations // 8)}


def walk(value: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations that build a value."""
    if not isinstance(value, (dict, list)):
        yield {"op": "add", "path": path, "value": value}
        return
    yield {"op": "add", "path": path, "value": type(value)()}
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from walk(child, f"{path}/{key}")


# ------------------------------------------------------------------------------------------------
# The gateway: responses that are rendered once
# ------------------------------------------------------------------------------------------------


def response(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def completion(value: Any) -> bytes:
    message = {"role": "assistant", "content": json.dumps(value), "refusal": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL}
    return response(json.dumps({**answer, "choices": [choice], "usage": usage}).encode())


def patches(value: Any) -> bytes:
    return response("".join(json.dumps(op) + "\n" for op in walk(value)).encode(), "application/x-ndjson")


def tokens(value: Any) -> bytes:
    """The JSON text in deltas of four characters."""
    text = json.dumps(value)
    answer = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": text[i : i + 4]}, "finish_reason": None}
        for i in range(0, len(text), 4)
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [f"data: {json.dumps({**answer, 'choices': [choice]})}\n\n" for choice in choices]
    return response("".join([*events, "data: [DONE]\n\n"]).encode(), "text/event-stream")


NO_PATCH_MODE = response(
    b'{"error": {"message": "stream: Input should be a valid boolean"}}', status="400 Bad Request"
)


@cache
def answer(name: str) -> bytes:
    """The response to a request whose URL starts with `name`."""
    kind, _, size = name.partition("-")
    if kind == "patches":
        return patches(document(int(size)))
    if kind == "tokens":
        return tokens(document(int(size)))
    return completion({"ticket": TICKET, "nested": NESTED, "flat": FLAT}[kind])


class Gateway(socketserver.StreamRequestHandler):
    """HTTP/1.1 with keep-alive, as much as a client needs."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while request := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            body = self.rfile.read(length)
            name = request.split(b"/")[1].decode()
            if name.startswith("tokens") and b'"patch"' in body:
                self.wfile.write(NO_PATCH_MODE)
            elif name == "first":  # a model is still writing when its first operation is there
                response = answer("patches-100")
                end = response.index(b"}\n") + 2
                self.wfile.write(response[:end])
                time.sleep(0.003)
                self.wfile.write(response[end:])
            else:
                self.wfile.write(answer(name))


def serve() -> None:
    """Serve until standard input ends."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Gateway) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps(f"http://127.0.0.1:{server.server_address[1]}"), flush=True)
        sys.stdin.read()
        server.shutdown()


# ------------------------------------------------------------------------------------------------
# The peers: a task is a method, and the URL's first part says what it is about
# ------------------------------------------------------------------------------------------------

PROMPT = "I was charged twice."
REQUEST: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
QUESTION: dict[str, Any] = {"model": MODEL, "input": PROMPT}


def output_types() -> dict[str, Any]:
    import pydantic

    def model(name: str, fields: dict[str, Any]) -> Any:
        types: dict[str, Any] = {
            key: (model(key, value) if isinstance(value, dict) else type(value), ...)
            for key, value in fields.items()
        }
        return pydantic.create_model(name, **types)

    return {"ticket": model("Ticket", TICKET), "nested": model("Nested", NESTED), "flat": FLAT_SCHEMA}


def clients(client: Callable[..., Any], gateway: str) -> Callable[[str], Any]:
    """One warm client for each subject."""
    return cache(lambda subject: client(api_key="key", base_url=f"{gateway}/{subject}"))


class Sdk:
    """The OpenAI SDK alone: as little as a user can write by hand."""

    def __init__(self, gateway: str) -> None:
        import openai

        self.client = clients(openai.OpenAI, gateway)
        self.types = output_types()
        self.formats = {}
        for subject, given in self.types.items():
            schema = given if isinstance(given, dict) else given.model_json_schema()
            json_schema = {"name": "response", "schema": schema}
            self.formats[subject] = {"type": "json_schema", "json_schema": json_schema}

    def generate(self, subject: str) -> None:
        create = self.client(subject).chat.completions.create
        text = create(**REQUEST, response_format=self.formats[subject]).choices[0].message.content
        if isinstance(self.types[subject], dict):
            json.loads(text)
        else:
            self.types[subject].model_validate_json(text)

    def parse(self, subject: str) -> None:
        self.client(subject).chat.completions.parse(**REQUEST, response_format=self.types[subject])

    def chunks(self, subject: str) -> Iterator[bytes]:
        create = self.client(subject).chat.completions.with_streaming_response.create
        request = {**REQUEST, "response_format": self.formats["ticket"], "extra_body": {"stream": "patch"}}
        with create(**request) as response:
            yield from response.iter_bytes()

    def first(self, subject: str) -> float:
        started = time.perf_counter()
        chunks = self.chunks(subject)
        next(chunks)
        seconds = time.perf_counter() - started
        for _ in chunks:
            pass
        return seconds

    def patches(self, subject: str) -> None:
        rest = b""
        for chunk in self.chunks(subject):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                json.loads(line)

    def tokens(self, subject: str) -> None:
        create = self.client(subject).chat.completions.create
        for chunk in create(**REQUEST, response_format=self.formats["ticket"], stream=True):
            _ = chunk.choices[0].delta.content


class Dottxt:
    """The module that is measured."""

    def __init__(self, gateway: str) -> None:
        import dottxt

        self.client = clients(dottxt.DotTxt, gateway)
        self.types = output_types()

    def generate(self, subject: str) -> None:
        self.client(subject).generate(**QUESTION, response_format=self.types[subject])

    def stream(self, subject: str) -> Any:
        return self.client(subject).stream(**QUESTION, response_format=self.types["ticket"])

    def first(self, subject: str) -> float:
        started = time.perf_counter()
        stream = self.stream(subject)
        next(stream)
        seconds = time.perf_counter() - started
        for _ in stream:
            pass
        return seconds

    def patches(self, subject: str) -> None:
        for _ in self.stream(subject):
            pass

    tokens = patches

    def snapshots(self, subject: str) -> None:
        for event in self.stream(subject):
            _ = event.snapshot

    def memory(self, subject: str) -> float:
        """The peak of a stream, against the document that it builds."""
        tracemalloc.start()
        stream = self.stream(subject)
        for _ in stream:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        text = json.dumps(document(int(subject.partition("-")[2])))
        before = tracemalloc.get_traced_memory()[0]
        built = json.loads(text)
        size = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        del stream, built
        return peak / size


class Instructor:
    """The package `instructor`."""

    def __init__(self, gateway: str) -> None:
        import instructor
        import openai

        def client(**settings: Any) -> Any:
            return instructor.from_openai(openai.OpenAI(**settings), mode=instructor.Mode.JSON_SCHEMA)

        self.client = clients(client, gateway)
        self.types = output_types()

    def generate(self, subject: str) -> None:
        self.client(subject).chat.completions.create(**REQUEST, response_model=self.types[subject])


class Old(Dottxt):
    """The package of the same name, version 0.3.0: its streams are asynchronous only."""

    def __init__(self, gateway: str) -> None:
        import dottxt

        super().__init__(gateway)
        self.streaming_client = clients(dottxt.AsyncDotTxt, gateway)
        self.loop = asyncio.new_event_loop()

    def stream(self, subject: str) -> Any:
        return self.streaming_client(subject).stream(**QUESTION, response_format=self.types["ticket"])

    def first(self, subject: str) -> float:
        async def read() -> float:
            started = time.perf_counter()
            stream = self.stream(subject)
            await anext(stream)
            seconds = time.perf_counter() - started
            async for _ in stream:
                pass
            return seconds

        return self.loop.run_until_complete(read())

    def snapshots(self, subject: str) -> None:
        async def read() -> None:
            async for event in self.stream(subject):
                _ = event.snapshot

        self.loop.run_until_complete(read())

    patches = snapshots


PEERS = {"dottxt": Dottxt, "sdk": Sdk, "instructor": Instructor, "0.3.0": Old}


def work(gateway: str) -> None:
    """Do what the lines of standard input say, and answer each with a number."""
    peer = cache(lambda name: PEERS[name](gateway))
    for line in sys.stdin:
        name, task, subject, repeats = json.loads(line)
        method = getattr(peer(name), task)
        numbers = []
        for _ in range(repeats):
            started = time.process_time()
            number = method(subject)
            numbers.append(time.process_time() - started if number is None else number)
        print(json.dumps(min(numbers)), flush=True)  # the one that was disturbed least


# ------------------------------------------------------------------------------------------------
# The measurements
# ------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    peer: str
    task: str
    subject: str
    beside: str = ""  # the peer whose interpreter it is made in, if not its own


class Row(NamedTuple):
    what: str
    goal: float
    measured: float
    others: dict[str, float]

    @property
    def held(self) -> bool:
        return self.measured <= self.goal


def start(python: str, *arguments: str) -> Any:
    """Start this script in a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen([python, __file__, *arguments], stdin=pipe, stdout=pipe, text=True)


class Bench:
    """Workers that take turns, and what each turn took."""

    def __init__(self, interpreters: dict[str, str], gateway: str) -> None:
        self.interpreters = interpreters
        self.gateway = gateway
        self.running: dict[str, Any] = {}
        self.seconds: dict[Call, list[float]] = defaultdict(list)
        self.ratios: dict[tuple[Call, Call], list[float]] = defaultdict(list)

    @contextmanager
    def workers(self, *peers: str) -> Iterator[None]:
        for peer in peers:
            self.running[peer] = start(self.interpreters[peer], "work", self.gateway)
        yield
        for peer in peers:
            self.running.pop(peer).communicate()

    def ask(self, call: Call, repeats: int = 1) -> float:
        worker = self.running[call.beside or call.peer]
        print(json.dumps([*call[:3], repeats]), file=worker.stdin, flush=True)
        return float(json.loads(worker.stdout.readline()))

    def take_turns(self, turns: int, repeats: int, base: Call, *others: Call) -> None:
        for call in (base, *others) if repeats > 1 else ():
            self.ask(call)  # warms up
        for _ in range(turns):
            for call in (base, *others):
                self.seconds[call].append(self.ask(call, repeats))
                self.ratios[base, call].append(self.seconds[call][-1] / self.seconds[base][-1])

    def row(self, what: str, goal: float, base: Call, ours: Call) -> Row:
        alone = base._replace(beside="")
        others = {
            call.peer if call.task == base.task else f"{call.peer} {call.task}": statistics.median(turns)
            for (first, call), turns in self.ratios.items()
            if first == alone and call not in (alone, ours)
        }
        return Row(what, goal, statistics.median(self.ratios[base, ours]), others)


def measure(bench: Bench) -> list[Row]:
    def pair(task: str, subject: str) -> tuple[Call, Call]:
        return Call("sdk", task, subject, beside="dottxt"), Call("dottxt", task, subject)

    two, nested, flat = (pair("generate", subject) for subject in ("ticket", "nested", "flat"))
    first = pair("first", "first")
    small, medium, large = (pair("patches", f"patches-{size}") for size in (4_000, 10_000, 100_000))
    tokens, more_tokens = (pair("tokens", f"tokens-{size}") for size in (6_000, 60_000))
    for _ in range(3):
        with bench.workers("dottxt"):
            for calls in (two, nested, flat, first):
                bench.take_turns(80, 3, *calls)
            bench.take_turns(5, 3, *small)
            bench.take_turns(3, 1, *large)
            bench.take_turns(3, 1, medium[1], large[1])
            bench.take_turns(1, 1, *tokens)
            bench.take_turns(1, 1, tokens[1], more_tokens[1])
    with bench.workers("dottxt"):
        bench.take_turns(1, 1, *more_tokens)
        memory = bench.ask(Call("dottxt", "memory", large[1].subject))

    snapshots = Call("0.3.0", "snapshots", "patches-1000"), Call("dottxt", "snapshots", "patches-1000")
    with bench.workers(*PEERS):
        bench.take_turns(8, 1, *snapshots)
        for task, subject, *peers in (
            ("generate", "ticket", "sdk", "instructor", "0.3.0"),
            ("generate", "nested", "sdk", "instructor", "0.3.0"),
            ("generate", "flat", "sdk", "0.3.0"),
            ("first", "first", "sdk", "0.3.0"),
        ):
            bench.take_turns(10, 3, *(Call(peer, task, subject) for peer in peers))
        for subject in ("ticket", "nested"):
            bench.take_turns(10, 3, Call("sdk", "generate", subject), Call("sdk", "parse", subject))
        alone, old = (Call(peer, "patches", small[0].subject) for peer in ("sdk", "0.3.0"))
        bench.ask(alone)  # warms up; the other takes seconds anyway
        bench.take_turns(1, 1, alone, old)
    imported = [[imports(bench.interpreters[peer]) for peer in ("dottxt", "0.3.0")] for _ in range(8)]
    import_ours, import_old = map(statistics.median, zip(*imported[1:], strict=True))  # the first compiles

    return [
        bench.row("`generate(Model)`, two fields, against `create` and `model_validate_json`", 1.03, *two),
        bench.row("the same, a model of 200 nested fields", 1.03, *nested),
        bench.row("the same, a `dict` schema of 200 fields, against `create` and `json.loads`", 1.05, *flat),
        bench.row("first event of a stream, against the bare SDK's first byte", 1.1, *first),
        bench.row("stream of 4,000 operations, against `split` and `json.loads`", 1.5, *small),
        bench.row("the same, 100,000 operations", 1.5, *large),
        bench.row("its time at 100,000 operations over that at 10,000", 11, medium[1], large[1]),
        bench.row("every snapshot of a stream of 1,000 operations, against 0.3.0", 0.25, *snapshots),
        bench.row("tokens, 100 kB in pieces of 4 characters, against the SDK's own loop", 1.05, *tokens),
        bench.row("the same, 1 MB", 1.05, *more_tokens),
        bench.row("its time at 1 MB over that at 100 kB", 11, tokens[1], more_tokens[1]),
        Row("`import dottxt`, against `import openai, pydantic`", 1.03, import_ours, {"0.3.0": import_old}),
        Row("peak memory of a stream of 100,000 operations, against its document", 4, memory, {}),
    ]


def imports(python: str) -> float:
    """The time of `import dottxt`, against that of the part of it which is `import openai, pydantic`."""
    code = """if True:
        from time import process_time
        started = process_time()
        import openai, pydantic
        base = process_time() - started
        import dottxt
        print((process_time() - started) / base)"""
    # -I: the installed module is meant, not one in this folder; and bytecode is kept, whatever is set here
    answer = subprocess.run([python, "-I", "-c", code], stdout=subprocess.PIPE, check=True)
    return float(answer.stdout)


def table(rows: list[Row]) -> str:
    lines = ["| what | goal | measured | held | others |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        held = "yes" if row.held else "no"
        others = ", ".join(f"{name}: {ratio:.3g}" for name, ratio in row.others.items())
        lines.append(f"| {row.what} | ≤ {row.goal} | {row.measured:.2f} | {held} | {others} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------
# The picture: a real model on this machine
# ------------------------------------------------------------------------------------------------


def arrivals() -> dict[str, float]:
    """The seconds until each field of an answer is there, and, as `""`, until `generate` returns."""
    import pydantic

    import dottxt

    Step = Annotated[str, pydantic.Field(min_length=30, max_length=80)]

    class Ticket(pydantic.BaseModel):
        intent: Literal["billing", "bug", "question"]
        urgent: bool
        title: str = pydantic.Field(min_length=20, max_length=60)
        steps: list[Step] = pydantic.Field(min_length=3, max_length=3)
        reply: str = pydantic.Field(min_length=80, max_length=160)

    question: dict[str, Any] = {
        "model": os.environ["DOTTXT_MODEL"],
        "input": "I was charged twice. Sort this mail, plan what to do in three steps, and write a reply.",
        "response_format": Ticket,
        "temperature": 0,
        "max_tokens": 500,
    }
    seconds = defaultdict(list)
    with dottxt.DotTxt() as client:
        client.generate(**question)  # warms up
        for _ in range(3):
            started = time.perf_counter()
            client.generate(**question)
            seconds[""].append(time.perf_counter() - started)
            started = time.perf_counter()
            for event in client.stream(**question):
                if not isinstance(event.value, (dict, list)):
                    seconds[event.field].append(time.perf_counter() - started)
    return {field: min(turns) for field, turns in seconds.items()}


def draw(seconds: dict[str, float], path: Path) -> None:
    from matplotlib import pyplot

    fields = {f"{field}  {after:.2f} s": after for field, after in seconds.items() if field}
    whole = seconds[""]
    figure, axes = pyplot.subplots(figsize=(7, 2.8), layout="constrained")
    axes.barh(list(fields), list(fields.values()), color="#2a6f97")
    axes.axvline(whole, color="#c1121f", linestyle="--")
    axes.set_title(f"generate returns after {whole:.2f} s", color="#c1121f", loc="right", fontsize="medium")
    axes.set_title("stream hands over each field", color="#2a6f97", loc="left", fontsize="medium")
    axes.set_xlim(0, 1.05 * whole)
    axes.set_xlabel("seconds")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


# ------------------------------------------------------------------------------------------------
# All of it
# ------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    wanted = ("dottxt", "instructor", "openai", "pydantic")
    return {name: installed[name] for name in wanted if name in installed}


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")]
    processor = models[0] if models else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def say(*command: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure dottxt against its peers.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the folder of the results")
    for peer in ("sdk", "instructor", "0.3.0"):
        parser.add_argument(f"--{peer}", required=True, metavar="PYTHON", help="an interpreter that has it")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    interpreters = {"dottxt": sys.executable, **arguments}

    gateway = start(sys.executable, "serve")
    bench = Bench(interpreters, json.loads(gateway.stdout.readline()))
    rows = measure(bench)
    gateway.communicate()
    engine = str(Path(__file__).with_name("local_engine.py"))
    fields = say(sys.executable, engine, sys.executable, __file__, "arrivals")
    results = {
        "machine": machine(),
        "versions": {peer: say(python, __file__, "versions") for peer, python in interpreters.items()},
        "table": [{**row._asdict(), "held": row.held} for row in rows],
        "seconds": {
            " ".join(call).rstrip(): statistics.median(turns) for call, turns in bench.seconds.items()
        },
        "arrivals": fields,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark.json").write_text(json.dumps(results, indent=2))
    draw(fields, out / "benchmark.png")
    print(f"{results['machine']}\n\n{table(rows)}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["work", gateway]:
            work(gateway)
        case ["versions"]:
            print(json.dumps(versions()))
        case ["arrivals"]:
            print(json.dumps(arrivals()))
        case _:
            main()
