"""Tests of examples/stream_web.py in headless Chromium, on the real local engine: `nox -s web`.

Where `PICTURES` names a folder, `light.png` and `dark.png` are saved there, taken while the reply is being
written. The first one is the README's picture, examples/stream_web.png.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EXAMPLES = Path(__file__).parent.with_name("examples")
FIELDS = ["Category", "Urgent", "Customer", "Summary", "Reply"]
FLAGS = ["--disable-background-networking", "--disable-component-update", "--disable-gpu", "--disable-sync"]
WRITING = "The model is writing …"

expect.set_options(timeout=60_000)  # milliseconds, for a busy machine


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """Run the example on a free port, and yield the page's URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(
        [sys.executable, EXAMPLES / "stream_web.py"], env=os.environ | environment | {"PORT": str(port)}
    ) as process:
        try:
            until(listens)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


@contextmanager
def engine() -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run another local engine, one to be killed, and yield its process and its environment variables."""
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "local_engine.py"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            exports = [process.stdout.readline().split()[1].split("=", 1) for _ in range(3)]
            yield process, dict(exports)
        finally:
            process.kill()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def busy_slots() -> int:
    """How many answers the engine is generating."""
    with urllib.request.urlopen(os.environ["DOTTXT_BASE_URL"].replace("/v1", "/slots")) as response:
        return sum(slot["is_processing"] for slot in json.load(response))


def times(page: Page) -> list[float]:
    return [float(text.removesuffix(" s")) for text in page.locator("dd time").all_inner_texts()]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if "DOTTXT_BASE_URL" not in os.environ:
        pytest.skip("needs an engine: python examples/local_engine.py pytest .ci/web.py")
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    flags = FLAGS if os.geteuid() else [*FLAGS, "--no-sandbox"]  # Chromium has no sandbox for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=flags,
            ignore_default_args=["--disable-back-forward-cache"],  # users' browsers have one
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 960, "height": 528})
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(url)
    yield page
    page.close()
    until(lambda: busy_slots() == 0)


def test_each_field_lands_in_order_with_its_time_while_the_reply_is_being_written(page: Page) -> None:
    for _ in range(2):  # the second ticket takes the place of the first
        page.get_by_role("button", name="Write the ticket").click()
        expect(page.locator("#field-category time")).to_be_visible()
        assert page.get_by_role("status").inner_text() == WRITING
        expect(page.locator("#field-reply")).to_be_empty(timeout=500)
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^Complete after \d+\.\d\d s\.$"))
        assert page.locator("dt").all_inner_texts() == FIELDS
        assert len(times(page)) == len(FIELDS)
        assert times(page) == sorted(times(page))
        assert times(page)[0] < 0.7 * times(page)[-1]
        assert page.locator("#field-urgent span").inner_text() in ("yes", "no")
        assert page.get_by_role("alert").inner_text() == ""


def test_the_keyboard_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_label("Email")).to_be_focused()
    page.keyboard.press("Tab")
    button = page.get_by_role("button")
    expect(button).to_be_focused()
    assert button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(button).to_have_text("Stop")
    expect(page.locator("#field-category time")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(re.compile("^Stopped after "))
    expect(button).to_be_focused()
    until(lambda: busy_slots() == 0, seconds=1)


@pytest.mark.parametrize("leave", ["close", "navigate"])
def test_leaving_the_page_frees_the_slot_of_the_engine(leave: str, page: Page) -> None:
    page.get_by_role("button").click()
    expect(page.locator("#field-category time")).to_be_visible()
    assert busy_slots() == 1
    if leave == "navigate":
        page.goto(page.url.replace("127.0.0.1", "localhost"))
    else:
        page.close()
    until(lambda: busy_slots() == 0, seconds=1)  # the rest would take longer


def test_an_engine_that_dies_is_shown_in_the_page_and_the_fields_that_landed_stay(page: Page) -> None:
    with engine() as (process, environment), serving(**environment) as url:
        page.goto(url)
        page.get_by_role("button").click()
        expect(page.locator("#field-customer time")).to_be_visible()
        process.kill()
        expect(page.get_by_role("alert")).to_have_text(re.compile("^Error: .*connection", re.IGNORECASE))
        assert len(times(page)) in (3, 4)
        expect(page.locator("#field-reply")).to_be_empty(timeout=500)
        page.get_by_role("button", name="Write the ticket").click()  # now nothing listens there
        expect(page.get_by_role("alert")).to_have_text("")
        expect(page.get_by_role("alert")).to_have_text(re.compile("^Error: .*connection", re.IGNORECASE))
        assert times(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_accessible(scheme: Literal["light", "dark"], page: Page) -> None:
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("button").click()
    expect(page.locator("#field-summary time")).to_be_visible()
    assert page.get_by_role("status").inner_text() == WRITING
    if folder := os.environ.get("PICTURES"):
        page.screenshot(path=f"{folder}/{scheme}.png", animations="disabled")
    back = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (int(re.findall(r"\d+", back)[0]) > 127) == (scheme == "light")
    found = Axe().run(page)  # names, roles, contrast
    assert found.violations_count == 0, found.generate_report()
    assert page.locator("dl").get_attribute("aria-live") == "polite"


def test_the_page_fits_a_small_screen_and_asks_no_other_host(page: Page, url: str) -> None:
    page.set_viewport_size({"width": 320, "height": 600})
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.reload()
    page.get_by_role("button").click()
    expect(page.get_by_role("status")).to_have_text(re.compile("^Complete"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 320  # WCAG 2.2, 1.4.10
    assert {asked for asked in urls if not asked.startswith("data:")} == {url, f"{url}ticket"}
