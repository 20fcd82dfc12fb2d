"""Print each field of a travel plan as soon as it is complete.

Watch for: the times. Nested fields and list items arrive one by one, too. `result()` then gives the whole
plan, without another request.
"""

import os
import time
from typing import Annotated

from pydantic import BaseModel, Field

from dottxt import DotTxt

Short = Annotated[str, Field(max_length=60)]


class Stay(BaseModel):
    city: Short
    nights: int = Field(ge=1, le=9)
    highlights: list[Short] = Field(min_length=2, max_length=3)


class Trip(BaseModel):
    title: Short
    stays: list[Stay] = Field(min_length=2, max_length=2)
    budget_in_euros: int = Field(ge=100, le=5000)


started = time.perf_counter()

with (
    DotTxt() as client,
    client.stream(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input="Plan a short trip through Italy: two cities, with the sights of each.",
        response_format=Trip,
        temperature=0,
        max_tokens=1000,
    ) as stream,
):
    for event in stream:
        if not isinstance(event.value, (dict, list)):
            print(f"{time.perf_counter() - started:6.2f} s  {event.field} = {event.value!r}", flush=True)
    trip = stream.result()

print("The whole trip has", sum(stay.nights for stay in trip.stays), "nights.")
