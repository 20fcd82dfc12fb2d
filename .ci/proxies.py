"""A gateway with patch mode behind nginx and Caddy, and a table of what reaches the client.

    apt-get install nginx caddy
    nox -s proxies

The gateway is a small application on uvicorn. Where a request accepts server-sent events it sends its
patches so, with an end mark, and otherwise as NDJSON; below `/old` it does not look. The proxies are
Debian's, as they come and with what people set. All listen on free ports of the loopback interface.

A cell says what was seen. "FAILED" is explained below the table and makes the exit status 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import openai
from engines import Skipped, error_of, free_port, get, kill, print_table, running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from dottxt import DotTxt, PatchStreamError

# ---------------------------------------------------------------------------------------------------------
# The gateway
# ---------------------------------------------------------------------------------------------------------

PAUSE = 0.05  # seconds between two operations
answering = 0  # how many responses the gateway is writing


async def operations(count: int, sse: bool) -> AsyncIterator[bytes]:
    """Write a list of that many items."""
    global answering
    answering += 1
    try:
        for number in range(-1, count):
            path, value = ("", []) if number < 0 else (f"/{number}", "verify")
            op = json.dumps({"op": "add", "path": path, "value": value}).encode()
            yield b"event: patch\ndata: %b\n\n" % op if sse else op + b"\n"
            await asyncio.sleep(PAUSE)
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        if sse:
            yield f"event: done\ndata: {json.dumps({'finish_reason': 'stop', 'usage': usage})}\n\n".encode()
    finally:
        answering -= 1


async def complete(request: Request) -> StreamingResponse:
    sse = "text/event-stream" in request.headers["accept"] and not request.url.path.startswith("/old")
    items = operations((await request.json())["max_tokens"], sse)
    return StreamingResponse(items, media_type="text/event-stream" if sse else "application/x-ndjson")


async def state(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(answering))


gateway = Starlette(
    routes=[
        Route("/", state),
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/old/v1/chat/completions", complete, methods=["POST"]),
    ]
)


class Gateway:
    """The gateway in a process of its own, which is killed and started again on the same port."""

    def __init__(self, proxy: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.proxy, self.log, self.stack, port = proxy, folder / "gateway.log", stack, free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent)]
        self.command += ["--port", str(port), "proxies:gateway"]
        self.process: subprocess.Popen[str] | None = None

    def is_answering(self) -> bool:
        return get(self.url) != "0"

    def start(self) -> None:
        if self.process is None:
            ready = running(self.command, self.log, lambda: not self.is_answering())
            self.process = self.stack.enter_context(ready)

    def kill(self) -> None:
        if self.process is not None:
            kill(self.process)
        self.process = None


# ---------------------------------------------------------------------------------------------------------
# The proxies
# ---------------------------------------------------------------------------------------------------------

NGINX = """
daemon off;
master_process off;  # nor is there another user then
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; scgi_temp_path {folder}/scgi;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location /here {{ return 200 "here"; }}
        location / {{
            proxy_pass {gateway};
            {settings}
        }}
    }}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    respond /here "here"
    {settings}
    reverse_proxy {gateway}
}}
"""
PROXIES = {
    "no proxy": "",
    "nginx": "",
    "nginx, `proxy_buffering off`": "proxy_buffering off;",
    "nginx, `proxy_http_version 1.1`": "proxy_http_version 1.1;",
    "nginx, `gzip on`": "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0; proxy_buffering off;",
    "Caddy": "",
    "Caddy, `encode gzip`": "encode gzip",
}


def program(kind: str) -> str:
    """The path of nginx or Caddy."""
    path = shutil.which(kind.lower(), path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise Skipped(f"`apt-get install {kind.lower()}` brings it")
    return path


def version(kind: str) -> str:
    shown = subprocess.run(
        [program(kind), "-v" if kind == "nginx" else "version"], capture_output=True, text=True, check=True
    )
    return f"{kind} {re.sub('^[^0-9]*', '', shown.stdout + shown.stderr).split()[0]}"


@contextlib.contextmanager
def proxy(name: str, gateway_url: str, folder: Path) -> Iterator[str]:
    """The URL of that proxy."""
    if name == "no proxy":
        yield gateway_url
        return
    kind = name.partition(",")[0].lower()
    path, port, config = program(kind), free_port(), folder / kind
    template = NGINX if kind == "nginx" else CADDY
    config.write_text(template.format(folder=folder, port=port, gateway=gateway_url, settings=PROXIES[name]))
    command = [path, "-c", str(config)]
    if kind == "caddy":
        command = [path, "run", "--adapter", "caddyfile", "--config", str(config)]
    url = f"http://127.0.0.1:{port}"
    homes = {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}  # where Caddy keeps what it likes
    with running(command, folder / f"{kind}.log", lambda: get(f"{url}/here") == "here", **homes):
        yield url


# ---------------------------------------------------------------------------------------------------------
# Checks: the docstring is the title of the row, what comes back is the cell
# ---------------------------------------------------------------------------------------------------------


def ask(client: DotTxt, count: int) -> Any:
    return client.stream(model="any", input="Hello", response_format=list[str], max_tokens=count)


def one_by_one(client: DotTxt, server: Gateway) -> str:
    """the first value arrives after this part of the time of a stream of 40"""
    start = time.monotonic()
    times = [time.monotonic() - start for event in ask(client, 40) if event.field]
    assert len(times) == 40, times
    part = times[0] / times[-1]
    assert part < 0.5 or server.proxy == "nginx", f"{part:.0%}"  # which holds back, as it comes
    return f"{part:.0%}"


def finish_reason(client: DotTxt, server: Gateway) -> str:
    """the finish reason and the usage arrive"""
    stream = ask(client, 2)
    assert stream.result() == ["verify", "verify"]
    assert stream.finish_reason == "stop", stream.finish_reason
    assert stream.usage.completion_tokens == 2, stream.usage
    return "yes"


def leave_early(client: DotTxt, server: Gateway) -> str:
    """leaving a stream stops the gateway, too"""
    with ask(client, 400) as stream:
        next(iter(stream))
        assert server.is_answering()
    deadline = time.monotonic() + 2
    while server.is_answering():
        assert time.monotonic() < deadline, "the gateway writes on"
        time.sleep(0.02)
    return "yes"


def killed(client: DotTxt, server: Gateway) -> str:
    """the gateway is killed in mid-stream"""
    timer = threading.Timer(1, server.kill)
    timer.start()
    try:
        ask(client, 100).result()
    except openai.OpenAIError as error:
        return f"`{type(error).__name__}`"
    finally:
        timer.join()
    # NDJSON has no end mark: where a proxy ends it cleanly, nobody can tell.
    assert "/old/" in str(client.base_url), "a value was returned"
    return "a value"


def away(client: DotTxt, server: Gateway) -> str:
    """the gateway is away"""
    server.kill()
    error = error_of(ask(client, 1).result, openai.OpenAIError)
    if not isinstance(error, PatchStreamError):
        return f"`{type(error).__name__}`"
    assert f"status {error.status_code}" in str(error), error
    return f"`PatchStreamError`, {error.status_code}, {'HTML' if '<html' in error.body else 'no text'}"


CHECKS = {
    "/v1": [one_by_one, finish_reason, leave_early, killed, away],
    "/old/v1": [one_by_one, killed],
}


def main() -> int:
    columns: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    failures: list[str] = []
    for name in PROXIES:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            server = Gateway(name, Path(folder), stack)
            try:
                url = stack.enter_context(proxy(name, server.url, Path(folder)))
            except Skipped as reason:
                notes.append(f"{name} is skipped: {reason}.")
                continue
            columns[name] = {}
            for path, check in [(path, check) for path, checks in CHECKS.items() for check in checks]:
                title = f"{'NDJSON: ' if 'old' in path else ''}{check.__doc__}"
                client = DotTxt(api_key="none", base_url=url + path, max_retries=0, timeout=20)
                try:
                    server.start()
                    with client:
                        columns[name][title] = check(client, server)
                except Exception:
                    columns[name][title] = "FAILED"
                    failures.append(f"{name}: {title}\n{traceback.format_exc()}")
    print_table(columns)
    versions = [version(name) for name in ("nginx", "Caddy") if name in columns]
    told = f"{', '.join([*versions, 'uvicorn ' + metadata.version('uvicorn')])}."
    print(f"\n({' '.join([told, *notes])})")
    print("", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
