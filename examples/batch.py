"""Turn lines of `{"id": 1, "text": "…"}` into tickets: `batch.py mail.jsonl tickets.jsonl [--retry-failed]`.

Watch for: 32 requests are under way at a time. A run that was stopped goes on when it is started once more.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field
from tqdm import tqdm

from dottxt import AsyncDotTxt, InvalidOutputError


class Ticket(BaseModel):
    category: Literal["billing", "technical", "account"]
    urgent: bool
    summary: str = Field(max_length=60)


async def ask(client: AsyncDotTxt, turn: asyncio.Semaphore, row: Any, **more: Any) -> dict[str, Any]:
    record, reply = dict[str, Any](id=str(row["id"])), None
    try:
        text = f"Turn this email into JSON with category, urgent and summary:\n\n{row['text'].strip()}"
        async with turn:
            ticket, reply = await client.generate_with_completion(input=text, response_format=Ticket, **more)
        record |= ticket.model_dump()
    except Exception as error:
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        record |= {"error": type(error).__name__, "message": message}
        if isinstance(error, InvalidOutputError):
            record["raw_output"], reply = error.raw_output, error.completion
    usage = reply and reply.usage
    return record | (usage.model_dump(include={"prompt_tokens", "completion_tokens"}) if usage else {})


async def main(source: Path, target: Path, retry_failed: bool) -> None:
    done, text = dict[str, str](), target.read_text() if target.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():  # what follows the last newline was cut short
        record = json.loads(line)
        if "error" not in record or ("raw_output" in record and not retry_failed):
            done[record["id"]] = f"{line}\n"
    target.with_suffix(".new").write_text("".join(done.values()))
    target.with_suffix(".new").replace(target)
    rows = [it for it in map(json.loads, filter(bytes.strip, source.open("rb"))) if str(it["id"]) not in done]
    model, tokens = os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"), 800 if retry_failed else 200
    async with AsyncDotTxt(max_retries=8) as client:
        turn = asyncio.Semaphore(32)
        answers = [ask(client, turn, row, model=model, max_tokens=tokens) for row in rows]
        with target.open("a") as output:
            for answer in tqdm(asyncio.as_completed(answers), total=len(rows), unit=" rows"):
                print(json.dumps(await answer), file=output, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), "--retry-failed" in sys.argv))
