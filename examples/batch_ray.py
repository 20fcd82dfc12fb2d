"""Turn a file of emails into support tickets with Ray Data, on one machine or on many.

    pip install "ray[data]" tqdm

    python examples/batch_ray.py --input emails.jsonl --output tickets.jsonl

Each line of the input is `{"id": 1, "text": "Hello, …"}`, with an optional `max_tokens`. Without `--input`
the example makes up some emails, and gives a few of them too few tokens on purpose.

Watch for: the client is made in the actor that uses it, so it is never pickled. Each line of the output has
an id, and either a `result`, or an `error` and the model's `raw_output`. Lines are written as their blocks
finish, so a run that was stopped can be continued: start it again. A request that failed writes no line, and
the next run repeats it.

With `RAY_ADDRESS` set, the actors run on that cluster. Its machines need this module, `DOTTXT_API_KEY`
and `DOTTXT_BASE_URL`.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
from pydantic import BaseModel, Field
from tqdm import tqdm

from dottxt import AsyncDotTxt, InvalidOutputError

# Ray reads these when it is imported: it reports nothing home, and on one machine it stays on loopback.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray.data

ACTORS = 2
REQUESTS = 4  # at a time, in each actor


class Ticket(BaseModel):
    category: Literal["billing", "technical", "account"]
    urgent: bool
    summary: str = Field(max_length=60)


class Extract:
    """Extracts tickets. Ray makes one in each actor."""

    def __init__(self, model: str) -> None:
        self.client = AsyncDotTxt()
        self.model = model
        self.turn = asyncio.Semaphore(REQUESTS)

    async def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        record = {"id": row["id"]}
        try:
            async with self.turn:
                ticket = await self.client.generate(
                    model=self.model,
                    input=f"Turn this email into JSON with category, urgent and summary:\n\n{row['text']}",
                    response_format=Ticket,
                    temperature=0,
                    max_tokens=row["max_tokens"],
                )
            record["result"] = ticket.model_dump()
        except InvalidOutputError as error:
            record |= {"error": str(error), "raw_output": error.raw_output}
        except openai.OpenAIError as error:
            record["error"] = str(error)
        return {"record": json.dumps(record)}  # as text: Ray would give all records the same fields


def emails() -> Iterator[dict[str, Any]]:
    problems = ["was charged twice", "cannot log in", "see only an error", "want to close my account"]
    for id in range(1, 37):
        text = f"Hello, I {problems[id % 4]}. I wrote to you {id} days ago. Please help!"
        yield {"id": id, "text": text, "max_tokens": 5 if id % 12 == 0 else 200}


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def extract(rows: list[dict[str, Any]]) -> Any:
    blocks = -(-len(rows) // REQUESTS)
    return ray.data.from_items(rows, override_num_blocks=blocks).map(
        Extract,
        fn_constructor_args=[os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b")],
        # Two blocks at a time: the second starts while the first waits for its slowest request.
        compute=ray.data.ActorPoolStrategy(size=ACTORS, max_concurrent_calls_per_actor=2),
        num_cpus=0.25,  # an actor mostly waits
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Support tickets out of a file of emails.")
    parser.add_argument("--input", type=Path, help="the emails, one JSON object on each line")
    parser.add_argument(
        "--output", type=Path, default=Path("tickets.jsonl"), help="the tickets, one JSON object on each line"
    )
    arguments = parser.parse_args()

    done = {record["id"] for record in read(arguments.output)} if arguments.output.exists() else set()
    rows = read(arguments.input) if arguments.input else emails()
    missing = [{"max_tokens": 200, **row} for row in rows if row["id"] not in done]
    print(f"{len(done)} rows are done, {len(missing)} are missing.", flush=True)
    if not missing:
        return 0

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the one below is enough
    ray.init(include_dashboard=False, logging_level=logging.ERROR)
    count = Counter[str]()
    try:
        with arguments.output.open("a", encoding="utf-8") as output:
            for row in tqdm(extract(missing).iter_rows(), total=len(missing), unit=" rows"):
                record = json.loads(row["record"])
                kind = "good" if "result" in record else "failed" if "raw_output" in record else "unanswered"
                count[kind] += 1
                if kind == "unanswered":
                    tqdm.write(f"row {record['id']}: {record['error']}", file=sys.stderr)
                else:
                    print(row["record"], file=output, flush=True)
    finally:
        ray.shutdown(wait_for_processes=True)
    print(", ".join(f"{number} {kind}" for kind, number in count.items()))
    return 1 if count["unanswered"] else 0


if __name__ == "__main__":
    sys.exit(main())
