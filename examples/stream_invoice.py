"""Book the line items of an invoice one by one, each as soon as it is complete.

Watch for: the times. `elements` hands out each line item as a validated `LineItem`, while the model writes
the next one. `result()` then gives the whole invoice, without another request.
"""

import os
import time

from pydantic import BaseModel, Field

from dottxt import DotTxt

INVOICE = """Invoice from Green Garden Ltd.
2 x garden chair at 49 euros
1 x parasol at 85 euros
12 x plant pot at 4 euros
Payable within 30 days."""


class LineItem(BaseModel):
    description: str = Field(max_length=40)
    quantity: int = Field(ge=1, le=99)
    unit_price: int = Field(ge=1, le=999)


class Invoice(BaseModel):
    supplier: str = Field(max_length=40)
    lines: list[LineItem] = Field(min_length=3, max_length=3)


def book(line: LineItem) -> None:
    seconds = time.perf_counter() - started
    price = f"{line.quantity} at {line.unit_price} euros"
    print(f"{seconds:6.2f} s  booked {price}: {line.description}", flush=True)


started = time.perf_counter()

with (
    DotTxt() as client,
    client.stream(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input=f"Turn this invoice into JSON with supplier and lines:\n\n{INVOICE}",
        response_format=Invoice,
        temperature=0,
        max_tokens=1000,
    ) as stream,
):
    for line in stream.elements(LineItem, "lines"):
        book(line)
    invoice = stream.result()

total = sum(line.quantity * line.unit_price for line in invoice.lines)
print(f"{invoice.supplier} gets {total} euros.")
