"""Turn millions of emails into support tickets with Ray Data, on one machine or on many.

    pip install "ray[data]>=2.60" tqdm
    python examples/batch_ray.py --input emails.jsonl --output tickets
    python examples/batch_ray.py --input s3://mail/2026 --output s3://tickets/2026 --actors 100 --rows 2000

The input is a file, a folder or a URI of JSON lines (`.jsonl`, `.jsonl.gz`, …) or Parquet, with the columns
`id` (text or whole numbers, unique) and `text`. The output is a folder of its own, of Parquet files with one
row for each id: a ticket where `error` is null. The workers read, ask and write; the driver holds no rows.

Watch for: a run that was stopped goes on when it is started again with the same input. Rows without an answer
are then asked again; rows whose answer did not fit only with `--retry-failed`, with four times the tokens. A
file is written when its rows (`--rows`) are answered: a crash repeats those of a few files for each actor.

`--actors` times `--requests` are asked at a time. Under a rate limit of 600 requests a minute, and with
answers that take 3 seconds, 600 / 60 * 3 = 30 are enough: more only wait to be asked again.

With `RAY_ADDRESS` set, the job runs on that cluster. Its machines need dottxt, its variables, and storage
that they share. A project of its own copies this file and `batch.py`, and ships both in a `runtime_env`.
"""

import argparse
import asyncio
import io
import itertools
import json
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import batch
import numpy
import pyarrow
from pyarrow import compute, dataset, fs, parquet
from tqdm import tqdm

from dottxt import AsyncDotTxt, DotTxt, InvalidOutputError

COLUMNS = pyarrow.schema(
    {"id": "string", "category": "string", "urgent": "bool", "summary": "string", "error": "string"}
    | {"message": "string", "raw_output": "string", "prompt_tokens": "int64", "completion_tokens": "int64"}
)
ROWS, BLANK = pyarrow.schema(dict.fromkeys(("id", "text", "wrong"), "string")), (b"\n", b"\r\n")
COUNTED = ("good", "failed", "unanswered", "prompt_tokens", "completion_tokens")


class Ask:
    """Asks for tickets, and writes them: Ray's writers tell nothing until the whole job is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.client, self.turn = AsyncDotTxt(max_retries=8), asyncio.Semaphore(options.requests)
        self.model, self.tokens = options.model, options.max_tokens * (4 if options.retry_failed else 1)
        self.filesystem, self.folder = fs.FileSystem.from_uri(options.output)

    async def __call__(self, rows: pyarrow.Table) -> dict[str, list[Any]]:
        records = await asyncio.gather(*(self.ask(row) for row in rows.to_pylist() if not row["wrong"]))
        count = Counter[str]()
        for record in records:
            count["failed" if "raw_output" in record else "unanswered" if "error" in record else "good"] += 1
            count.update({name: record.get(name, 0) for name in COUNTED[3:]})
        if records:
            # Named after its rows: where a fault makes Ray repeat them, they take the place of themselves.
            path = f"{self.folder}/tickets-{keys([str(rows['id'].to_pylist())])[0].hex()}.parquet"
            table = pyarrow.Table.from_pylist(records, COLUMNS)
            await asyncio.to_thread(parquet.write_table, table, path, filesystem=self.filesystem)
        return {name: [count[name]] for name in COUNTED} | {"wrong": [rows["wrong"].drop_null().to_pylist()]}

    async def ask(self, row: dict[str, str]) -> dict[str, Any]:
        record = await batch.ask(self.client, self.turn, row, model=self.model, max_tokens=self.tokens)
        if record.get("error") in ("AuthenticationError", "NotFoundError"):
            raise RuntimeError(record["message"])  # it is the same for all rows
        return {name: unicode(value) if isinstance(value, str) else value for name, value in record.items()}


def unicode(text: str) -> str:
    """Replace halves of characters: truncated texts end with them, and nothing can send or store them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def uri(text: str) -> str:
    return text if "://" in text else os.path.abspath(text)


def keys(ids: list[str]) -> Any:
    return numpy.array([blake2b(id.encode(), digest_size=16).digest() for id in ids], "S16")


def settle(options: argparse.Namespace) -> tuple[Any, int]:
    """Take out of the output what is to be asked again. Return sorted keys of the rest, and their number."""
    filesystem, folder = fs.FileSystem.from_uri(options.output)
    filesystem.create_dir(folder)
    parts = dataset.dataset(folder, COLUMNS, "parquet", filesystem, exclude_invalid_files=True)
    for file in filesystem.get_file_info(fs.FileSelector(folder)):
        if file.base_name.startswith("tickets-") and file.path not in parts.files:
            filesystem.delete_file(file.path)  # a crash cut it short
    done = compute.field("error").is_null()
    if not options.retry_failed:
        done |= compute.field("raw_output").is_valid()
    found = keys(parts.to_table(["id"], filter=done)["id"].to_pylist())
    for path in parts.to_table(["__filename"], filter=~done)["__filename"].unique().to_pylist():
        rest = parquet.read_table(path, filesystem=filesystem, filters=done)
        parquet.write_table(rest, f"{folder}/.rest", filesystem=filesystem)
        filesystem.move(f"{folder}/.rest", path)
    return numpy.append(numpy.sort(found), b""), len(found)  # and a last one that is no row's


def email(line: Any, place: str) -> dict[str, str]:
    """Check a line of JSON, or a row of a Parquet file."""
    with suppress(ValueError, RecursionError):
        match json.loads(line) if isinstance(line, bytes) else line:
            case {"id": bool() | ""}:
                pass
            case {"id": int() | str() as id, "text": str() as text} if text.strip():
                return {"id": unicode(str(id)), "text": unicode(text)}
            case {"id": int() | str()}:
                return {"id": "", "wrong": f"{place}: no text"}
        return {"id": "", "wrong": f"{place}: no id that is text or a whole number"}
    return {"id": "", "wrong": f"{place}: not JSON"}


def reader(options: argparse.Namespace, done: list[Any]) -> Any:
    """Ray's reader of files, made to pass on what is wrong with a row, and to drop the rows that are done."""
    import ray.data

    class Emails(ray.data.datasource.FileBasedDatasource):  # type: ignore[misc]
        def _read_stream(self, file: Any, path: str) -> Iterator[pyarrow.Table]:
            try:
                lines: Iterator[Any] = iter(io.BufferedReader(file))
                if path.endswith(".parquet"):
                    table = parquet.ParquetFile(io.BytesIO(file.read()))
                    batches = table.iter_batches(1000, columns=["id", "text"])
                    lines = itertools.chain.from_iterable(rows.to_pylist() for rows in batches)
                known, numbered = ray.get(done[0]), enumerate(lines, 1)
                while chunk := list(itertools.islice(numbered, 1000)):
                    rows = [email(line, f"{path}:{number}") for number, line in chunk if line not in BLANK]
                    ids = keys([row["id"] for row in rows])
                    new = known[numpy.searchsorted(known[:-1], ids)] != ids
                    yield pyarrow.Table.from_pylist(rows, ROWS).filter(pyarrow.array(new))
            except (OSError, ValueError, OverflowError) as error:
                raise RuntimeError(f"{path}: {error}") from error

    return Emails(options.input)


def run(options: argparse.Namespace, total: Counter[str]) -> None:
    """Run the job on Ray, and show how far it is."""
    defaults = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        defaults["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # it stays on loopback
    os.environ.update(defaults | os.environ)
    import ray.data

    sys.stdout = sys.stderr  # for what Ray prints; the totals alone are standard output
    warnings.simplefilter("ignore")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(batch)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.raise_original_map_exception = False, True
    context.target_max_block_size = options.rows * 2**8  # small blocks, and not too many of them ahead
    limits = ray.data.ExecutionResources(object_store_memory=options.actors * options.rows * 2**17)
    context.execution_options.resource_limits = limits
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # it lives as long as the driver
    done, number = ray.remote(settle).options(num_cpus=0, num_returns=2, label_selector=here).remote(options)
    total["done before"] = ray.get(number)
    parts = ray.data.read_datasource(reader(options, [done]), override_num_blocks=1, num_cpus=0).map_batches(
        Ask,
        fn_constructor_args=[options],
        batch_size=options.rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=options.actors, max_concurrent_calls_per_actor=2),
        num_cpus=0.1,  # it mostly waits
    )
    with tqdm(unit=" rows") as bar:
        for part in parts.iter_rows():
            for message in part["wrong"][: max(100 - total["wrong"], 0)]:
                bar.write(message, sys.stderr)
            total.update(part | {"wrong": len(part["wrong"])})
            bar.set_postfix_str(", ".join(f"{total[name]:,} {name}" for name in COUNTED[1:]), refresh=False)
            bar.update(sum(part[name] for name in COUNTED[:3]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Support tickets out of emails.")
    parser.add_argument("--input", type=uri, required=True, help="a file, folder or URI of emails")
    parser.add_argument("--output", type=uri, default="tickets", help="a folder or a URI (%(default)s)")
    parser.add_argument("--actors", type=int, default=2, help="processes that ask (%(default)s)")
    parser.add_argument("--requests", type=int, default=16, help="at a time, in each of them (%(default)s)")
    parser.add_argument("--rows", type=int, default=64, help="rows in a file of the output (%(default)s)")
    parser.add_argument("--model", default=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"))
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--retry-failed", action="store_true", help="ask again where the answer did not fit")
    options, total, status = parser.parse_args(), Counter[str](), 0
    if min(options.actors, options.requests, options.rows) < 1:
        parser.error("--actors, --requests and --rows are at least 1")
    try:
        filesystem, path = fs.FileSystem.from_uri(options.input)
        if filesystem.get_file_info(path).type == fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no {options.input}")
        with DotTxt() as client, suppress(InvalidOutputError):
            client.generate(model=options.model, input="Hello", response_format=batch.Ticket, max_tokens=1)
        run(options, total)
    except KeyboardInterrupt:
        status, sys.stdout = 130, io.StringIO()  # Ray prints there of each task that it ends
    except Exception as error:
        words = [str(getattr(error, "cause", error)).split("\nFailed")[0], *getattr(error, "__notes__", [])]
        sys.exit(" ".join(["batch_ray:", *" ".join(words).split()]))  # and not Ray's advice on its settings
    counts = [f"{total[name]:,} {name.replace('_', ' ')}" for name in (*COUNTED, "wrong", "done before")]
    print(", ".join(counts), file=sys.__stdout__, flush=True)
    return status or bool(total["unanswered"])


if __name__ == "__main__":
    sys.exit(main())
