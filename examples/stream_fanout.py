"""Start each step of a plan as soon as it arrives, while the model writes the next one.

Watch for: steps start, and end, before the plan is complete. The last two lines compare the total time
with that of a program that waits for the whole plan.
"""

import asyncio
import os
import re
import time
from typing import Annotated

from pydantic import BaseModel, Field

from dottxt import AsyncDotTxt

WORK = 1.0  # seconds for each step


class Plan(BaseModel):
    steps: list[Annotated[str, Field(max_length=80)]] = Field(min_length=3, max_length=3)
    summary: str = Field(max_length=200)


async def carry_out(step: str) -> None:
    await asyncio.sleep(WORK)  # in real life: a search, a query, a call to a tool


async def main() -> None:
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:6.2f} s  {text}", flush=True)

    async def run(name: str, step: str) -> None:
        say(f"{name} starts: {step}")
        await carry_out(step)
        say(f"{name} is done")

    tasks: set[asyncio.Task[None]] = set()
    async with (
        AsyncDotTxt() as client,
        client.stream(
            model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
            input="How do I plan a birthday party? Give three steps and a summary.",
            response_format=Plan,
            temperature=0,
            max_tokens=1000,
        ) as stream,
    ):
        async for event in stream:
            if re.fullmatch(r"steps/\d+", event.field):
                tasks.add(asyncio.create_task(run(event.field, event.value)))
    planned = time.perf_counter() - started
    say("the plan is complete")
    await asyncio.gather(*tasks)
    finished = time.perf_counter() - started

    print(f"All done after {finished:.2f} s. Waiting for the whole plan first: {planned + WORK:.2f} s.")
    print(f"The overlap saved {planned + WORK - finished:.2f} s.")


asyncio.run(main())
