"""Turn an email into a support ticket, an instance of a Pydantic model.

Watch for: `ticket` is a `Ticket`, not a dict, and type checkers know it. Its category is always one of the
three in the class.
"""

import os
from typing import Literal

from pydantic import BaseModel, Field

from dottxt import DotTxt

EMAIL = """Hello, I was charged twice for my subscription this month.
Please refund one of the payments. Thanks, Maria"""


class Ticket(BaseModel):
    summary: str = Field(max_length=160)
    customer: str = Field(max_length=40)
    category: Literal["billing", "technical", "account"]


with DotTxt() as client:
    ticket = client.generate(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input=f"Summarize this email as JSON with summary, customer and category:\n\n{EMAIL}",
        response_format=Ticket,
        temperature=0,
        max_tokens=500,
    )

print("summary: ", ticket.summary)
print("customer:", ticket.customer)
print("category:", ticket.category)
