"""Ask an operator, in mid-stream, to approve what the model proposes.

Watch for: the question comes before the reply is written. On "y" the stream goes on; the model kept writing
while the operator was thinking. On "n" the stream is closed and the model stops, so nobody pays for a reply
that nobody wants.

Answer at the prompt or in a pipe: `echo n | python examples/stream_hitl_approval.py`.
"""

import os
from typing import Literal

from pydantic import BaseModel, Field

from dottxt import DotTxt

EMAIL = "I was charged 20 euros too much. Please refund them."


class Action(BaseModel):
    kind: Literal["refund", "replacement", "escalation"]
    amount_in_euros: int = Field(ge=0, le=500)


class Proposal(BaseModel):
    action: Action
    reply: str = Field(max_length=300)


def approves(proposed: dict[str, object]) -> bool:
    print("The model proposes:", proposed)
    try:
        answer = input("Approve? [y/N] ")
    except EOFError:  # nobody is there to approve
        answer = ""
    return answer.strip().lower() in ("y", "yes")


with (
    DotTxt() as client,
    client.stream(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input=f"Answer this email as JSON with action and reply:\n\n{EMAIL}",
        response_format=Proposal,
        temperature=0,
        max_tokens=1000,
    ) as stream,
):
    for event in stream:
        if event.field == "action/amount_in_euros" and not approves(event.snapshot["action"]):
            print("\nNot approved: the stream is closed, and the reply is never finished.")
            break
    else:
        print("\nApproved. The reply:", stream.result().reply)
