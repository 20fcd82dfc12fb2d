"""Route a customer's message while the reply is still being written.

Watch for: the two times. `intent` is the first field of the class, so it is known after a few tokens, long
before the reply is complete.
"""

import os
import time
from typing import Literal

from pydantic import BaseModel, Field

from dottxt import DotTxt, PatchEvent

PROMPT = """Answer this customer as JSON with intent (billing, technical or sales) and a detailed reply:

I was charged twice this month."""


class Answer(BaseModel):
    intent: Literal["billing", "technical", "sales"]
    reply: str = Field(max_length=300)


def route(intent: str) -> None:
    print(f"-> the {intent} team has the customer's file open", flush=True)


started = time.perf_counter()

with (
    DotTxt() as client,
    client.stream(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input=PROMPT,
        response_format=Answer,
        temperature=0,
        max_tokens=1000,
    ) as stream,
):
    for event in stream:
        match event:
            case PatchEvent("intent", intent):
                routed = time.perf_counter() - started
                route(intent)
            case PatchEvent("reply", reply):
                replied = time.perf_counter() - started
                print(reply)

print(f"routed after {routed:.2f} s")
print(f"reply complete after {replied:.2f} s, {replied - routed:.2f} s later")
