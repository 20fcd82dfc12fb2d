"""Tests of the distributions, and type checks of a user's code against them: `nox -s packaging`."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from readme import readme_code

import dottxt

ROOT = Path(__file__).parent.parent

# Both type checkers complain about an ignore that hides no error: each wrong call must be one.
TYPED_USER = """
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportMissingModuleSource=false
from typing import Any, Generic, Literal, TypeVar

import dottxt
import openai
from dottxt import AsyncDotTxt, AsyncPatchStream, DotTxt, PatchEvent, PatchStream, apply_add
from dottxt.schemas import InvalidSchemaError, normalize_schema
from openai.pagination import SyncPage
from openai.types import CompletionUsage, Model as Model_
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, TypeAdapter
from typing_extensions import assert_type


class Ticket(BaseModel):
    intent: Literal["billing", "bug"]


TICKETS = TypeAdapter(list[Ticket])
ASK = "I was charged twice."


Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


class Asker(Generic[Model]):
    def __init__(self, client: DotTxt, model: type[Model]) -> None:
        self.client = client
        self.model = model

    def ask(self, text: str) -> Model:
        return self.client.generate(model="m", input=text, response_format=self.model)

    def stream(self, text: str) -> PatchStream[Model]:
        return self.client.stream(model="m", input=text, response_format=self.model)


async def ask(client: AsyncDotTxt, kind: TypeAdapter[Value]) -> Value:
    return await client.generate(model="m", input=ASK, response_format=kind)


def takes_an_sdk_client(client: openai.OpenAI, other: openai.AsyncOpenAI) -> None: ...


def sync(client: DotTxt, other: AsyncDotTxt) -> None:
    takes_an_sdk_client(client, other)
    assert_type(client.with_options(timeout=5, max_retries=1), DotTxt)
    assert_type(Asker(client, Ticket).ask(ASK), Ticket)
    assert_type(client.models.list(), SyncPage[Model_])
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": ASK}])
    assert_type(answer, ChatCompletion)
    assert_type(client.generate(model="m", input=ASK, response_format=Ticket), Ticket)
    assert_type(client.generate(model="m", input=ASK, response_format=TICKETS), list[Ticket])
    assert_type(client.generate(model="m", input=ASK, response_format={}), Any)
    assert_type(client.generate(model="m", input=ASK, response_format=list[int]), Any)
    assert_type(client.generate(model="m", input=[{"role": "user"}], response_format="{}"), Any)
    pair = client.generate_with_completion(model="m", input=ASK, response_format=Ticket, top_p=1)
    assert_type(pair, tuple[Ticket, ChatCompletion])
    with client.stream(model="m", input=ASK, response_format=Ticket, top_p=1) as stream:
        assert_type(stream, PatchStream[Ticket])
        for event in stream:
            assert_type(event, PatchEvent)
            assert_type(event.field, str)
            assert_type(event.op, dict[str, Any])
        assert_type(stream.result(), Ticket)
        assert_type(stream.finish_reason, str | None)
        assert_type(stream.usage, CompletionUsage | None)
    assert_type(client.stream(model="m", input=ASK, response_format=TICKETS).result(), list[Ticket])

    client.generate("m", ASK, Ticket)  # type: ignore
    client.generate(model="m", input=ASK)  # type: ignore
    client.generate(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore
    client.generate_with_completion(model="m", response_format=Ticket)  # type: ignore
    client.stream("m", ASK, Ticket)  # type: ignore
    client.stream(model="m", input=ASK)  # type: ignore
    client.stream(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore
    client.with_options(unknown=1)  # type: ignore


async def asynchronous(client: AsyncDotTxt) -> None:
    assert_type(client.with_options(timeout=5), AsyncDotTxt)
    assert_type(await client.generate(model="m", input=ASK, response_format=Ticket), Ticket)
    assert_type(await client.generate(model="m", input=ASK, response_format=TICKETS), list[Ticket])
    assert_type(await client.generate(model="m", input=ASK, response_format={}), Any)
    pair = await client.generate_with_completion(model="m", input=ASK, response_format=Ticket)
    assert_type(pair, tuple[Ticket, ChatCompletion])
    async with client.stream(model="m", input=ASK, response_format=Ticket) as stream:
        assert_type(stream, AsyncPatchStream[Ticket])
        async for event in stream:
            assert_type(event, PatchEvent)
        assert_type(await stream.result(), Ticket)

    await client.generate("m", ASK, Ticket)  # type: ignore
    await client.generate(model="m", input=ASK)  # type: ignore
    await client.generate(model="m", input=ASK, response_format=Ticket, temperature="warm")  # type: ignore


def helpers() -> dottxt.InvalidSchemaError:
    assert_type(normalize_schema(Ticket), dict[str, Any])
    assert_type(dottxt.build_response_format(Ticket, name="ticket"), dict[str, Any])
    assert_type(apply_add({}, "/intent", "billing"), Any)
    assert_type(PatchEvent(op={"op": "add", "path": "", "value": 1}, snapshot=1).snapshot, Any)
    apply_add({}, 1, "billing")  # type: ignore
    dottxt.PatchStreamError(status_code=503, body="")
    dottxt.InvalidOutputError(model="m", raw_output="", finish_reason="length")
    return InvalidSchemaError("It is the same class.")
"""


def python(*arguments: object, executable: Path | str = sys.executable, cwd: Path = ROOT) -> str:
    """Run Python and return what it prints. It must end well."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(executable), *map(str, arguments)]
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel that is built from it, and in `tree/` the wheel that is built from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--outdir", folder)
    python("-m", "build", "--wheel", "--outdir", folder / "tree")
    return folder


@pytest.fixture(scope="module")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which there is only the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    python("-m", "pip", "install", "--quiet", *distributions.glob("*.whl"), executable=interpreter)
    return interpreter


def test_the_distributions_hold_the_module_its_stubs_and_the_project(distributions: Path) -> None:
    (wheel,), (sdist,) = distributions.glob("*.whl"), distributions.glob("*.tar.gz")
    module = (ROOT / "dottxt.py").read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == {"dottxt.py", "dottxt-stubs/__init__.pyi", "dottxt-stubs/schemas.pyi"}
        assert archive.read("dottxt.py") == archive.read("dottxt-stubs/__init__.pyi") == module
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {
        "dottxt.py",
        "test_dottxt.py",
        ".ci/gateway.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "noxfile.py",
    }
    assert files | {"dottxt-stubs/__init__.pyi", "examples/generate_pydantic.py"} <= names
    assert (distributions / "tree" / wheel.name).read_bytes() == wheel.read_bytes()
    requirements = metadata.get_all("Requires-Dist") or []
    assert {requirement.partition(">=")[0] for requirement in requirements} == {"openai", "pydantic"}
    assert not any("<" in requirement.partition(";")[0] for requirement in requirements)  # no upper bounds
    assert "](examples" not in str(metadata.get_payload())  # an index page has no files beside it
    assert metadata["Version"] == dottxt.__version__
    assert python("-m", "twine", "check", "--strict", wheel, sdist).count("PASSED") == 2


def test_the_installed_program_runs(installed: Path) -> None:
    program = installed.parent / "dottxt"
    assert dottxt.__version__ in python(program, "--version", executable=installed, cwd=installed.parent)


@pytest.mark.parametrize("checker", ["mypy --strict --python-executable", "pyright --pythonpath"])
def test_the_installed_package_is_typed(checker: str, installed: Path, tmp_path: Path) -> None:
    name, *options = checker.split()
    (tmp_path / "user.py").write_text(TYPED_USER, encoding="utf-8")
    (tmp_path / "readme.py").write_text(readme_code(), encoding="utf-8")
    python("-m", name, *options, installed, "user.py", "readme.py", cwd=tmp_path)
