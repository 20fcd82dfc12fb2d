"""Tests of examples/batch.py and examples/batch_ray.py against a loopback gateway: `nox -s batch`.

The measurements take `BATCH_ROWS` rows (2,000), and ten times as many for the start of a large job:
`BATCH_ROWS=100000 nox -s batch -- -s -k measured` prints those of the README.
"""

import asyncio
import gzip
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

EXAMPLES = Path(__file__).parent.with_name("examples")
ROWS = int(os.environ.get("BATCH_ROWS", "2000"))
GOOD = json.dumps({"category": "billing", "urgent": True, "summary": "Charged twice."})
CUT = '{"category": "bil'

Answer = tuple[int, str, str]  # status, content or error message, finish reason


def good(row: str, attempt: int, body: dict[str, Any]) -> Answer:
    return 200, GOOD, "stop"


def mixed(row: str, attempt: int, body: dict[str, Any]) -> Answer:
    """Answers 2 % of the rows with invalid JSON, and 1 % each with 429 and 500 at first."""
    match int(row) % 100:
        case 0 | 1 if body["max_tokens"] <= 200:
            return 200, CUT, "length"
        case 2 if attempt == 1:
            return 429, "slow down", ""
        case 3 if attempt == 1:
            return 500, "oops", ""
    return good(row, attempt, body)


class Gateway:
    """A small, fast gateway on loopback. It counts how often each row is asked."""

    def __init__(self) -> None:
        self.answer: Callable[[str, int, dict[str, Any]], Answer] = good
        self.seconds = 0.0  # for each answer
        self.asked = Counter[str]()
        self.times: list[float] = []
        self.now = self.peak = 0  # requests that are under way
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
                status, content, reason = await self.reply(head, body)
                answer: dict[str, Any] = {"error": {"message": content}}
                if status == 200:
                    message = {"role": "assistant", "content": content}
                    choice = {"index": 0, "message": message, "finish_reason": reason}
                    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
                    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                    answer |= {"choices": [choice], "usage": usage}
                data = json.dumps(answer).encode()
                lines = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nRetry-After: 0"
                writer.write(f"{lines}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        writer.close()

    async def reply(self, head: bytes, body: dict[str, Any]) -> Answer:
        if b"Bearer test-key" not in head:
            return 401, "this key is wrong", ""
        if body["model"] == "nonesuch":
            return 404, "no such model", ""
        row = re.search(r"This is row (\S+)\.", body["messages"][0]["content"])
        if row is None:
            return 200, GOOD, "stop"
        self.asked[row[1]] += 1
        attempt = self.asked[row[1]]
        self.times.append(time.monotonic())
        self.now += 1
        self.peak = max(self.peak, self.now)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        self.now -= 1
        return self.answer(row[1], attempt, body)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


class Job:
    """Runs the examples in a folder of its own."""

    def __init__(self, gateway: Gateway, folder: Path, ray_folder: str) -> None:
        self.folder, self.output = folder, folder / "tickets"
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.environment = os.environ | {
            "DOTTXT_API_KEY": "test-key",
            "DOTTXT_BASE_URL": gateway.url,
            "DOTTXT_MODEL": "m",
            "RAY_ADDRESS": "local",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
            "RAY_TMPDIR": ray_folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def write(self, rows: int, name: str = "emails.jsonl") -> Path:
        path = self.folder / name
        with path.open("w", encoding="utf-8") as file:
            for row in range(rows):
                text = f"Hello! This is row {row}. I was charged twice, please help. Maria"
                print(json.dumps({"id": row, "text": text}), file=file)
        return path

    def start(self, source: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(EXAMPLES / "batch_ray.py"), "--input", str(source)]
        command += ["--output", str(self.output), *arguments]
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            return subprocess.Popen(command, env=self.environment | variables, stdout=stdout, stderr=stderr)

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        """Wait until it ends, and return its status, standard output and standard error."""
        try:
            status = process.wait(timeout=3600)
        finally:
            process.kill()
        return status, self.stdout.read_text(), self.stderr.read_text()

    def run(self, source: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
        return self.end(self.start(source, *arguments, **variables))

    def records(self) -> dict[str, dict[str, Any]]:
        """The output, by ids, each of which stands there once."""
        rows = parquet.read_table(self.output).to_pylist()
        records = {row["id"]: row for row in rows}
        assert len(records) == len(rows)
        return records

    def processes(self) -> list[int]:
        """Those that have this job's Ray folder in their environment."""
        mark, found = f"RAY_TMPDIR={self.environment['RAY_TMPDIR']}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


@pytest.fixture
def job(gateway: Gateway, tmp_path: Path) -> Iterator[Job]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a short path, for Ray's sockets
        # What runs in the background of a shell ignores Ctrl-C, and so would all that the tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        job = Job(gateway, tmp_path, folder)
        yield job
        with suppress(AssertionError):
            wait_for(lambda: not job.processes(), 20)
        for process in job.processes():  # of a Ray whose driver was killed
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def outcome(total: str) -> dict[str, int]:
    """The totals that the last line of the output tells."""
    parts = (part.split(" ", 1) for part in total.strip().splitlines()[-1].split(", "))
    return {name: int(number.replace(",", "")) for number, name in parts}


def test_each_row_ends_as_a_ticket_or_as_an_error_and_is_asked_again_where_that_helps(
    gateway: Gateway, job: Job
) -> None:
    tokens = dict[str, int]()

    def answer(row: str, attempt: int, body: dict[str, Any]) -> Answer:
        tokens[row] = body["max_tokens"]
        if row in ("5", "6") and attempt == 1:
            return (400, "this row is too long", "") if row == "5" else (403, "this row is flagged", "")
        return (200, CUT, "length") if row in ("3", "20") and tokens[row] <= 200 else (200, GOOD, "stop")

    gateway.answer, gateway.seconds = answer, 0.1
    source = job.write(30)
    status, stdout, stderr = job.run(source, "--rows", "4", "--requests", "3")
    total = outcome(stdout)
    assert (total["good"], total["failed"], total["unanswered"], total["wrong"]) == (26, 2, 2, 0), stderr
    assert (total["prompt tokens"], total["completion tokens"]) == (28 * 20, 28 * 10)
    assert status == 1
    assert "30 rows" in stderr
    assert gateway.peak <= 2 * 3
    records = job.records()
    assert records.keys() == {str(row) for row in range(30)}
    ticket = records.pop("4")
    assert ticket == dict.fromkeys(ticket) | json.loads(GOOD) | {
        "id": "4",
        "prompt_tokens": 20,
        "completion_tokens": 10,
    }
    assert (records["3"]["error"], records["3"]["raw_output"]) == ("InvalidOutputError", CUT)
    assert "max_tokens" in records["3"]["message"]
    assert records["3"]["completion_tokens"] == 10
    assert (records["5"]["error"], records["5"]["raw_output"]) == ("BadRequestError", None)
    assert "this row is too long" in records["5"]["message"]
    assert "this row is flagged" in records["6"]["message"]  # it stops no other

    tokens.clear()
    status, stdout, stderr = job.run(source)
    assert (status, tokens) == (0, {"5": 200, "6": 200}), stderr
    assert (outcome(stdout)["good"], outcome(stdout)["done before"]) == (2, 28)

    tokens.clear()
    status, stdout, stderr = job.run(source, "--retry-failed")
    assert (status, tokens) == (0, {"3": 800, "20": 800}), stderr
    records = job.records()
    assert len(records) == 30
    assert all(record["error"] is None for record in records.values())


def test_what_is_wrong_with_a_row_is_told_by_file_and_line(gateway: Gateway, job: Job) -> None:
    source = job.folder / "emails.jsonl"
    lines = [
        b'\xef\xbb\xbf{"id": 1, "text": "This is row 1."}',
        b"",
        b"\r",
        b'{"id": "b", "text": "This is row b. It was cut in the middle of \\ud83d"}',
        b'{"id": "c\\ud83d", "text": "This is row c.\xe2\x80\xa8It goes on."}',
        b'{"id": 4}',
        b'{"text": "no id"}',
        b'{"id": 1.0, "text": "This is row 1.0."}',
        b'{"id": true, "text": "This is row true."}',
        b'{"id": 5, "text": " "}',
        b"{broken",
        b"\xff\xfe",
        b"[1]",
        b'{"id": 12345678901234567890, "text": "This is row d."}',  # without a newline
    ]
    source.write_bytes(b"\n".join(lines))
    status, stdout, stderr = job.run(source)
    assert (status, outcome(stdout)["good"], outcome(stdout)["wrong"]) == (0, 4, 8), stderr
    assert job.records().keys() == {"1", "b", "c\N{REPLACEMENT CHARACTER}", "12345678901234567890"}
    assert gateway.asked.keys() == {"1", "b", "c", "d"}
    told = dict(re.findall(rf"{re.escape(str(source))}:(\d+): (.*)", stderr))
    no_id = "no id that is text or a whole number"
    assert told == {
        "6": "no text",
        "7": no_id,
        "8": no_id,
        "9": no_id,
        "10": "no text",
        "11": "not JSON",
        "12": "not JSON",
        "13": no_id,
    }


def test_the_input_can_be_a_folder_of_parquet_and_of_compressed_json_lines(
    gateway: Gateway, job: Job
) -> None:
    folder = job.folder / "emails"
    (folder / "2026").mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    with gzip.open(folder / "one.jsonl.gz", "wt") as file:
        print(json.dumps({"id": "a", "text": "This is row a."}), file=file)
    texts = ["This is row 1.", None, "x"]
    beyond_dates = pyarrow.array([10**7] * 3, pyarrow.date32())  # a column that nobody needs
    rows = pyarrow.table({"id": [1, 2, 3], "text": texts, "other": beyond_dates})
    parquet.write_table(rows, folder / "2026" / "two.parquet")
    _, stdout, stderr = job.run(folder, "--input", f"file://{folder}")
    assert (outcome(stdout)["good"], outcome(stdout)["wrong"]) == (3, 1), stderr
    assert job.records().keys() == {"a", "1", "3"}
    assert "two.parquet:2: no text" in stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], {"DOTTXT_API_KEY": ""}, "no API key"),
        ([], {"DOTTXT_API_KEY": "wrong-key"}, "401 .*this key is wrong.*DOTTXT_API_KEY"),
        (["--model", "nonesuch"], {}, "404 .*no such model.*lists the models"),
        ([], {"DOTTXT_BASE_URL": "http://127.0.0.1:9/v1"}, "Connection error.*http://127.0.0.1:9/v1"),
        (["--input", "/nonesuch.jsonl"], {}, "there is no /nonesuch.jsonl"),
        (["--input", "what://is/this"], {}, "what"),
    ],
)
def test_what_concerns_the_whole_job_ends_in_one_line_before_ray_starts(
    arguments: list[str], variables: dict[str, str], told: str, gateway: Gateway, job: Job
) -> None:
    status, stdout, stderr = job.run(job.write(1000), *arguments, **variables)
    assert (status, stdout) == (1, "")
    assert re.fullmatch(f"batch_ray: .*{told}.*\n", stderr)
    assert not job.output.exists()
    assert not gateway.asked


def test_a_file_that_cannot_be_read_is_named_in_one_line(gateway: Gateway, job: Job) -> None:
    source = job.folder / "emails.jsonl.gz"
    source.write_bytes(gzip.compress(job.write(300).read_bytes())[:-20])
    status, _, stderr = job.run(source)
    assert status == 1
    assert re.search(f"^batch_ray: {source}: .{{1,200}}$", stderr, re.MULTILINE)
    assert "Traceback" not in stderr


def test_a_key_that_is_withdrawn_stops_the_job_in_one_line(gateway: Gateway, job: Job) -> None:
    gateway.answer = lambda row, attempt, body: (
        (401, "withdrawn", "") if int(row) > 500 else (200, GOOD, "stop")
    )
    status, _, stderr = job.run(job.write(2000))
    assert status == 1
    assert re.search("^batch_ray: .*withdrawn.{1,100}$", stderr, re.MULTILINE)
    assert "Traceback" not in stderr
    assert gateway.asked.total() < 1500


def test_help_does_not_import_ray() -> None:
    code = "import runpy, sys\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "except SystemExit: assert 'ray' not in sys.modules and 'batch' in sys.modules"
    command = [sys.executable, "-c", f"import sys; sys.argv = ['batch_ray.py', '--help']\n{code}"]
    ran = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=True)
    assert "--retry-failed" in ran.stdout


@pytest.mark.parametrize("wrong", ["--actors", "--requests", "--rows"])
def test_odd_options_are_wrong_usage(wrong: str, job: Job) -> None:
    status, _, stderr = job.run(job.write(1), wrong, "0")
    assert status == 2
    assert wrong in stderr.splitlines()[-1]


def interrupted(gateway: Gateway, job: Job, source: Path, asked: int) -> dict[str, int]:
    """The totals of a run that Ctrl-C ends when so many rows have been asked."""
    process = job.start(source)
    wait_for(lambda: gateway.asked.total() > asked)
    process.send_signal(signal.SIGINT)
    status, stdout, stderr = job.end(process)
    assert status == 130
    assert "Traceback" not in stderr
    return outcome(stdout)


def test_ctrl_c_ends_in_the_totals(gateway: Gateway, job: Job) -> None:
    gateway.seconds = 0.02
    source = job.write(3000)
    first, second = (interrupted(gateway, job, source, asked) for asked in (1000, 2000))
    assert 0 < first["good"] < 2000
    assert 0 < second["good"] < 2000
    assert first["done before"] == 0
    assert second["done before"] >= first["good"]


def test_a_job_whose_driver_is_killed_goes_on_where_it_was(gateway: Gateway, job: Job) -> None:
    gateway.answer, gateway.seconds = mixed, 0.02
    source = job.write(1000)
    process = job.start(source)
    wait_for(lambda: gateway.asked.total() > 500)
    process.kill()
    process.wait()
    wait_for(lambda: not job.processes())
    asked = gateway.asked.total()
    assert 0 < len(job.records()) < 1000
    status, stdout, stderr = job.run(source)
    assert status == 0, stderr
    assert job.records().keys() == {str(row) for row in range(1000)}
    assert outcome(stdout)["done before"] + outcome(stdout)["good"] + outcome(stdout)["failed"] == 1000
    print(f"killed after {asked:,} requests; {gateway.asked.total() - 1020:,} rows were asked twice")
    assert (
        gateway.asked.total() <= 1000 + 20 + 2 * 2 * 64
    )  # 20 refused at first, and two files for each actor


def test_a_part_that_was_cut_short_is_dropped_and_asked_again(gateway: Gateway, job: Job) -> None:
    source = job.write(300)
    assert job.run(source)[0] == 0
    gateway.asked.clear()
    torn, empty, *_ = sorted(job.output.iterdir())
    lost = {row["id"] for path in (torn, empty) for row in parquet.read_table(path).to_pylist()}
    os.truncate(torn, torn.stat().st_size - 5)
    os.truncate(empty, 0)
    (job.output / "_mine.parquet").touch()  # none of the job's files
    status, stdout, stderr = job.run(source)
    assert (status, outcome(stdout)["good"]) == (0, len(lost)), stderr
    assert gateway.asked == Counter(lost)
    assert len(job.records()) == 300
    assert (job.output / "_mine.parquet").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_stops_the_job_and_loses_nothing(gateway: Gateway, job: Job) -> None:
    source = job.write(1000)
    job.output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", job.output], check=True)
    try:
        status, _, stderr = job.run(source)
        assert status == 1
        assert re.search("^batch_ray: .*No space left on device", stderr, re.MULTILINE), stderr
        assert "Traceback" not in stderr
        subprocess.run(["mount", "-o", "remount,size=64m", job.output], check=True)
        status, stdout, stderr = job.run(source)
        assert (status, outcome(stdout)["unanswered"]) == (0, 0), stderr
        assert 0 < outcome(stdout)["done before"] < 1000
        assert len(job.records()) == 1000
    finally:
        wait_for(lambda: not job.processes())
        subprocess.run(["umount", job.output], check=True)


@contextmanager
def node(job: Job, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a machine of a Ray cluster, on loopback and in a process group of its own."""
    command = [shutil.which("ray") or str(Path(sys.executable).with_name("ray")), "start", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
    environment = {name: value for name, value in job.environment.items() if name != "RAY_ADDRESS"}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
    with (job.folder / "nodes.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *arguments], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def head(job: Job, cpus: int) -> Iterator[str]:
    """Run the first machine of a Ray cluster, and tell its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with node(job, "--head", f"--num-cpus={cpus}", f"--port={port}", "--include-dashboard=false"):
        wait_for(partial(has_nodes, job, f"127.0.0.1:{port}", 1))
        yield f"127.0.0.1:{port}"


def test_a_machine_of_the_cluster_that_is_killed_takes_no_row_with_it(gateway: Gateway, job: Job) -> None:
    gateway.answer, gateway.seconds = mixed, 0.05
    with ExitStack() as cluster:
        address = cluster.enter_context(head(job, cpus=0))
        for number in (2, 3):
            last = cluster.enter_context(node(job, "--num-cpus=1", f"--address={address}"))
            wait_for(partial(has_nodes, job, address, number))
        process = job.start(job.write(1000), RAY_ADDRESS=address)
        wait_for(lambda: gateway.asked.total() > 300)
        os.killpg(last.pid, signal.SIGKILL)
        status, stdout, stderr = job.end(process)
        assert status == 0, stderr
        assert job.records().keys() == {str(row) for row in range(1000)}
        assert outcome(stdout)["good"] + outcome(stdout)["failed"] == 1000
        print(f"{gateway.asked.total() - 1020:,} of 1,000 rows were asked twice")


def test_more_actors_than_a_machine_can_run_wait_and_stop_nothing(gateway: Gateway, job: Job) -> None:
    with head(job, cpus=1) as address:
        status, stdout, stderr = job.run(job.write(300), "--actors", "12", RAY_ADDRESS=address)
    assert (status, outcome(stdout)["good"]) == (0, 300), stderr


def has_nodes(job: Job, address: str, number: int) -> bool:
    code = "import ray; ray.init(logging_level=50); print(sum(node['Alive'] for node in ray.nodes()))"
    environment = job.environment | {"RAY_ADDRESS": address}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return ran.stdout == f"{number}\n"


def small(job: Job, source: Path, target: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run examples/batch.py, and return the records."""
    command = [sys.executable, str(EXAMPLES / "batch.py"), str(source), str(target), *arguments]
    subprocess.run(command, env=job.environment, capture_output=True, check=True)
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_the_small_program_has_the_same_records_and_goes_on_in_the_same_way(
    gateway: Gateway, job: Job
) -> None:
    gateway.answer = mixed
    source, target = job.write(300), job.folder / "tickets.jsonl"
    records = small(job, source, target)
    job.run(source)
    columns = {
        row["id"]: {name: value for name, value in row.items() if value is not None} for row in records
    }
    assert columns == {
        id: {name: value for name, value in row.items() if value is not None}
        for id, row in job.records().items()
    }
    gateway.asked.clear()
    with target.open("r+") as file:
        *_, last = file.read().splitlines(keepends=True)
        file.truncate(target.stat().st_size - len(last) + 20)
    assert len(small(job, source, target)) == 300
    assert gateway.asked.keys() == {json.loads(last)["id"]}
    gateway.asked.clear()
    assert all("error" not in record for record in small(job, source, target, "--retry-failed"))
    assert gateway.asked.keys() == {"0", "1", "100", "101", "200", "201"}
    source.write_text('{"id": "none", "text": null}\n\n{"id": "a", "text": "This is row 3."}\n')
    records = small(job, source, target)[-2:]
    assert {record["id"]: record.get("error") for record in records} == {"none": "AttributeError", "a": None}


def memory(process: subprocess.Popen[bytes]) -> int:
    """How many bytes the process has in memory."""
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def test_the_measured_speed_memory_and_start(gateway: Gateway, job: Job) -> None:
    def measure(process: subprocess.Popen[bytes]) -> tuple[float, float]:
        """The seconds until the first row is asked, and the driver's memory until `ROWS` rows are asked."""
        begin, peak = time.monotonic(), 0.0
        while gateway.asked.total() < ROWS:
            assert process.poll() is None
            peak = max(peak, memory(process))
            time.sleep(0.1)
        return gateway.times[0] - begin, peak

    def taken() -> float:
        seconds = gateway.times[-1] - gateway.times[0]
        assert gateway.asked.total() == ROWS
        gateway.asked.clear()
        gateway.times.clear()
        return seconds

    source = job.write(ROWS)
    assert len(small(job, source, job.folder / "tickets.jsonl")) == ROWS
    one_process = taken()
    process = job.start(source)
    start, peak = measure(process)
    assert job.end(process)[0] == 0
    on_ray = taken()
    process = job.start(job.write(10 * ROWS), "--output", str(job.folder / "large"))
    large_start, large_peak = measure(process)
    process.kill()
    process.wait()
    print(f"\n{ROWS:,} rows, once the first is asked: batch.py {one_process:.1f} s, Ray {on_ray:.1f} s")
    print(f"the first is asked after {start:.1f} s, and of {10 * ROWS:,} rows after {large_start:.1f} s")
    print(
        f"the driver has at most {peak / 1e6:.0f} MB, and with {10 * ROWS:,} rows {large_peak / 1e6:.0f} MB"
    )
    assert on_ray < 1.5 * one_process
    assert large_start < max(20, 1.5 * start)  # on a busy machine Ray itself takes longer
    assert peak < 350e6
    assert large_peak < peak + 20e6
