"""Run the short examples, one after the other: `python examples`.

The one that asks for approval gets a no.
"""

import ast
import subprocess
import sys
from pathlib import Path

EXAMPLES = [
    "list_models.py",
    "generate_pydantic.py",
    "generate_json_schema.py",
    "openai_chat_completions.py",
    "stream_field_printer.py",
    "stream_invoice.py",
    "stream_early_routing.py",
    "stream_hitl_approval.py",
    "stream_fanout.py",
]

failed = []
for name in EXAMPLES:
    path = Path(__file__).with_name(name)
    about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    print(f"\n=== {name}: {about.splitlines()[0]}\n", flush=True)
    if subprocess.run([sys.executable, path], input="n\n", text=True, check=False).returncode:
        failed.append(name)
print()
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
