"""A web page with a support ticket: each field fills as soon as it is complete.

    pip install starlette uvicorn

    python examples/stream_web.py          # then open http://127.0.0.1:8000

Watch for: the category is there while the reply is still being written; each field shows its time. When you
press "Stop" or leave the page, the stream is closed and the model stops. The page takes its fields from
`Ticket`: change that class, and the page follows.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import openai
import uvicorn
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route

from dottxt import AsyncDotTxt


class Ticket(BaseModel):
    category: Literal["billing", "technical", "account"]
    urgent: bool
    customer: str = Field(max_length=40)
    summary: str = Field(max_length=80)
    reply: str = Field(min_length=200, max_length=400)


PROMPT = f"Turn this email into JSON with {', '.join(Ticket.model_fields)}:\n\n"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AsyncDotTxt() as app.state.client:  # one client, so that requests share its connections
        yield


async def page(request: Request) -> HTMLResponse:
    rows = (
        f'<div aria-atomic="true"><dt>{name.capitalize()}</dt><dd id="field-{name}"></dd></div>'
        for name in Ticket.model_fields
    )
    return HTMLResponse(PAGE.replace("ROWS", "\n".join(rows)))


async def ticket(request: Request) -> StreamingResponse:
    email = (await request.body()).decode()
    lines = fields(request.app.state.client, email)
    headers = {"X-Accel-Buffering": "no"}  # nginx would hold the fields back
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


async def fields(client: AsyncDotTxt, email: str) -> AsyncIterator[str]:
    """One line of JSON for each field. Starlette cancels this when the browser is gone."""
    try:
        async with client.stream(
            model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
            input=PROMPT + email,
            response_format=Ticket,
            temperature=0,
            max_tokens=1000,
        ) as stream:
            async for event in stream:
                if not isinstance(event.value, (dict, list)):
                    yield json.dumps({"field": event.field, "value": event.value}) + "\n"
            await stream.result()  # raises an error if this is not a valid Ticket
    except openai.OpenAIError as error:
        yield json.dumps({"error": str(error)}) + "\n"


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>Email to ticket</title>
<style>
  :root { color-scheme: light dark; --text: #1c2027; --quiet: #596171; --back: #f4f5f7; --card: #fff;
          --line: #e1e4ea; --edge: #868e9c; --accent: #1f5fc4; --on: #fff; --error: #b3261e }
  @media (prefers-color-scheme: dark) {
    :root { --text: #e6e9ee; --quiet: #a3acbb; --back: #13161b; --card: #1c2027;
            --line: #303640; --edge: #778191; --accent: #8ab4f8; --on: #10151d; --error: #f6aea8 }
  }
  * { box-sizing: border-box }
  body { margin: 0 auto; max-width: 64rem; padding: clamp(1rem, 4vw, 2.5rem);
         font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back) }
  h1 { margin: 0 0 1.25rem; font-size: 1.5rem; line-height: 1.25 }
  main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)) }
  form, section { padding: 1.25rem; background: var(--card); border: 1px solid var(--line);
                  border-radius: .75rem }
  label, h2 { display: block; margin: 0 0 .75rem; font-size: 1rem; font-weight: 600 }
  textarea, button { font: inherit; border: 1px solid var(--edge); border-radius: .5rem }
  textarea { display: block; width: 100%; padding: .75rem; color: inherit; background: none }
  button { margin-top: 1rem; padding: .5rem 1.25rem; font-weight: 600; cursor: pointer;
           color: var(--on); background: var(--accent); border-color: var(--accent) }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
  dl div { display: grid; grid-template-columns: 6rem 1fr; padding: .6rem 0;
           border-top: 1px solid var(--line) }
  dt, time { color: var(--quiet) }
  dl, dd, dd p { margin: 0; overflow-wrap: anywhere }
  dd p { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline }
  time { flex: none; font-size: .875rem; font-variant-numeric: tabular-nums }
  .busy > :first-child dd:empty::before, .busy > :not(:has(dd:empty)) + div dd:empty::before {
    content: ""; display: inline-block; width: .4rem; height: 1.2em; vertical-align: text-bottom;
    background: var(--accent); animation: blink 1s infinite
  }
  @keyframes blink { 50% { opacity: 0 } }
  @media (prefers-reduced-motion: reduce) { * { animation: none !important } }
  @media (max-width: 26rem) { dl div { display: block } }
  [role=status] { margin: .75rem 0 0; min-height: 1.5em; color: var(--quiet) }
  [role=alert] { margin: 0; color: var(--error) }
</style>
<header><h1>Email to ticket</h1></header>
<main>
  <form>
    <label for="email">Email</label>
    <textarea id="email" rows="10" required>Hello,

My card was charged twice for this month's bill.

Please refund one of the payments before Friday.

Thank you,
Maria Silva</textarea>
    <button>Write the ticket</button>
  </form>
  <section>
    <h2>Ticket</h2>
    <dl aria-live="polite">
ROWS
    </dl>
    <p role="status"></p>
    <p role="alert"></p>
  </section>
</main>
<script type="module">
  const [form, button, list, status, alert] =
    ["form", "button", "dl", "[role=status]", "[role=alert]"].map(name => document.querySelector(name));
  let running;  // the AbortController of the request under way

  form.onsubmit = async event => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    const started = performance.now();
    const seconds = () => `${((performance.now() - started) / 1000).toFixed(2)} s`;
    for (const cell of list.querySelectorAll("dd")) cell.replaceChildren();
    list.className = "busy";
    button.textContent = "Stop";
    status.textContent = "The model is writing …";
    alert.textContent = "";
    try {
      const options = {method: "POST", body: form.email.value, signal: running.signal};
      for await (const {field, value, error} of records(await fetch("ticket", options))) {
        if (error) throw new Error(error);
        const row = document.createElement("p");
        row.append(element("span", text(value)), " ", element("time", seconds()));
        document.getElementById(`field-${field.split("/")[0]}`).append(row);
      }
      status.textContent = `Complete after ${seconds()}.`;
    } catch (error) {
      status.textContent = `Stopped after ${seconds()}.`;
      if (error.name != "AbortError") alert.textContent = `Error: ${error.message}`;
    }
    button.textContent = "Write the ticket";
    list.className = "";
    running = null;
  };

  onpagehide = () => running?.abort();  // a page kept for the Back button would go on reading

  async function* records(response) {  // one JSON value on each line
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "";;) {
      const {done, value} = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  }

  const text = value => typeof value == "boolean" ? (value ? "yes" : "no") : String(value);
  const element = (name, text) => Object.assign(document.createElement(name), {textContent: text});
</script>
"""

app = Starlette(routes=[Route("/", page), Route("/ticket", ticket, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
