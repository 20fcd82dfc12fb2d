"""Draw when each field of an answer is there, and when all of it: the README's picture.

    python examples/local_engine.py python .ci/picture.py .ci/benchmark.png

The session `bench` draws `build/benchmark.png`.
"""

import os
import sys
import time
from typing import Annotated, Any, Literal

from matplotlib import pyplot
from pydantic import BaseModel, Field

import dottxt


class Mail(BaseModel):
    intent: Literal["billing", "bug", "question"]
    urgent: bool
    title: str = Field(min_length=20, max_length=60)
    steps: list[Annotated[str, Field(min_length=30, max_length=80)]] = Field(min_length=3, max_length=3)
    reply: str = Field(min_length=80, max_length=160)


def draw(path: str) -> None:
    client = dottxt.DotTxt()
    text = "I was charged twice. Sort this mail, plan what to do in three steps, and write a reply."
    request: dict[str, Any] = {
        "model": os.environ["DOTTXT_MODEL"],
        "input": text,
        "response_format": Mail,
        "temperature": 0,
    }
    client.generate(**request)  # warms up
    started = time.perf_counter()
    client.generate(**request)
    whole = time.perf_counter() - started
    started = time.perf_counter()
    events = [(event, time.perf_counter() - started) for event in client.stream(**request)]
    fields = {f"{event.field}  {at:.2f} s": at for event, at in events if event.value not in ({}, [])}
    figure, axes = pyplot.subplots(figsize=(7, 2.8), layout="constrained")
    axes.barh(list(fields), list(fields.values()), color="#2a6f97")
    axes.axvline(whole, color="#c1121f", linestyle="--")
    axes.set_title(f"generate returns after {whole:.2f} s", color="#c1121f", loc="right", fontsize="medium")
    axes.set_title("stream hands over each field", color="#2a6f97", loc="left", fontsize="medium")
    axes.set(xlim=(0, 1.05 * whole), xlabel="seconds")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw(sys.argv[1])
