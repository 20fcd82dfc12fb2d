"""Tests beside other libraries for the SDK, one smoke test each: `nox -s ecosystem`."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from gateway import (
    EVER,
    MESSAGES,
    NO_PATCH_MODE,
    OPENAI_ENVIRONMENT,
    TICKET,
    TICKET_TEXT,
    USAGE,
    Client,
    Gateway,
    Ticket,
    completion,
    op,
    ops_of,
    patches,
    sse,
)

from dottxt import AsyncDotTxt, DotTxt

pytest_plugins = ["gateway"]  # for its fixtures

TICKET_FIELDS = ["", "intent", "steps", "steps/0", "steps/1"]


def one_by_one(client: Client, gateway: Gateway) -> list[str]:
    """The fields of a stream each of whose operations is sent only when the one before was delivered."""
    ops = list(ops_of(TICKET))
    delivered = [threading.Event() for _ in ops]
    gateway.reply(patches(*(step for pair in zip(ops, delivered, strict=True) for step in pair)))
    fields = []
    stream = client.stream(response_format=Ticket, timeout=5)
    for event, seen in zip(client.iterate(stream), delivered, strict=True):
        fields.append(event.field)
        seen.set()
    assert client.wait(stream.result()) == Ticket.model_validate(TICKET)
    return fields


def test_opentelemetry_sees_an_ordinary_chat_completion_and_streams_stay_live(
    client: Client, gateway: Gateway
) -> None:
    instrumentation = importlib.import_module("opentelemetry.instrumentation.openai_v2")
    trace = importlib.import_module("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    memory = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        gateway.reply(completion(TICKET_TEXT))
        client.generate(response_format=Ticket, temperature=0.5)
        (span,) = exporter.get_finished_spans()
        assert one_by_one(client, gateway) == TICKET_FIELDS
    finally:
        instrumentor.uninstrument()
    assert span.name == "chat test-model"
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.usage.output_tokens"] == USAGE["completion_tokens"]
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_logfire_sees_an_ordinary_chat_completion_and_streams_stay_live(
    client: Client, gateway: Gateway
) -> None:
    logfire = importlib.import_module("logfire")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    exporter = importlib.import_module("logfire.testing").TestExporter()
    processors = [export.SimpleSpanProcessor(exporter)]
    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=processors)
    with logfire.instrument_openai():
        gateway.reply(completion(TICKET_TEXT))
        client.generate(input="I was charged twice.", response_format=Ticket)
        span, *_ = exporter.exported_spans_as_dict(parse_json_attributes=True)
        assert one_by_one(client, gateway) == TICKET_FIELDS
    seen = span["attributes"]
    assert seen["gen_ai.request.model"] == seen["gen_ai.response.model"] == "test-model"
    assert seen["gen_ai.input.messages"][0]["parts"][0]["content"] == "I was charged twice."
    assert seen["gen_ai.output.messages"][0]["parts"] == [{"type": "text", "content": TICKET_TEXT}]


def test_the_sdks_aiohttp_client_serves_generate_and_streams(gateway: Gateway) -> None:
    http_client = openai.DefaultAioHttpClient()
    client = Client(
        AsyncDotTxt, api_key="test-key", base_url=gateway.url, max_retries=0, http_client=http_client
    )
    gateway.reply(completion(TICKET_TEXT))
    assert client.generate(response_format=Ticket) == Ticket.model_validate(TICKET)
    assert one_by_one(client, gateway) == TICKET_FIELDS
    gateway.reply(patches(op("", {}), EVER))
    with pytest.raises(openai.APITimeoutError):
        client.result(timeout=0.3)
    stream = client.stream()
    assert next(client.iterate(stream)).field == ""
    client.leave(stream)
    client.until(lambda: gateway.open == 0)
    gateway.reply(NO_PATCH_MODE, sse('{"a": ', "1}"))
    assert client.result() == {"a": 1}
    client.close()


def ask_instructor(client: Any) -> object:
    instructor = pytest.importorskip("instructor")
    patched = instructor.from_openai(client, mode=instructor.Mode.JSON)
    return patched.chat.completions.create(model="m", messages=MESSAGES, response_model=Ticket)


def ask_langchain(client: DotTxt | AsyncDotTxt) -> object:
    chat = importlib.import_module("langchain_openai").ChatOpenAI
    if isinstance(client, DotTxt):
        model = chat(model="m", client=client.chat.completions, root_client=client)
        return model.with_structured_output(Ticket).invoke("Hello")
    model = chat(model="m", async_client=client.chat.completions, root_async_client=client)
    return model.with_structured_output(Ticket).ainvoke("Hello")


async def ask_pydantic_ai(client: AsyncDotTxt) -> object:
    ai = importlib.import_module("pydantic_ai")
    provider = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider(openai_client=client)
    model = importlib.import_module("pydantic_ai.models.openai").OpenAIChatModel("m", provider=provider)
    answer = await ai.Agent(model, output_type=ai.NativeOutput(Ticket)).run("Hello")
    return answer.output


async def ask_openai_agents(client: AsyncDotTxt) -> object:
    agents = importlib.import_module("agents")
    model = agents.OpenAIChatCompletionsModel(model="m", openai_client=client)
    agent = agents.Agent(name="triage", model=model, output_type=Ticket)
    answer = await agents.Runner.run(agent, "Hello", run_config=agents.RunConfig(tracing_disabled=True))
    return answer.final_output


LIBRARIES: dict[str, tuple[type[DotTxt] | type[AsyncDotTxt], Callable[[Any], object]]] = {
    "instructor": (DotTxt, ask_instructor),
    "instructor async": (AsyncDotTxt, ask_instructor),
    "langchain": (DotTxt, ask_langchain),
    "langchain async": (AsyncDotTxt, ask_langchain),
    "pydantic-ai": (AsyncDotTxt, ask_pydantic_ai),
    "openai-agents": (AsyncDotTxt, ask_openai_agents),
}


@pytest.mark.parametrize(("kind", "ask_library"), LIBRARIES.values(), ids=LIBRARIES)
def test_a_library_for_the_sdks_client_takes_ours(
    kind: type[DotTxt] | type[AsyncDotTxt],
    ask_library: Callable[[Any], object],
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in OPENAI_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    gateway.reply(completion(TICKET_TEXT))
    with contextlib.closing(Client(kind, api_key="test-key", base_url=gateway.url, max_retries=0)) as client:
        assert client.wait(ask_library(client.raw)).model_dump() == TICKET
    (request,) = gateway.requests
    assert request.headers["authorization"] == "Bearer test-key"
    assert "leak" not in str(request)
