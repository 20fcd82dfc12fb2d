"""A build hook: puts the module's own text into the distributions a second time, as its type stubs.

A module that is one file cannot say that it is typed (PEP 561 wants a `py.typed` in a package); the
package of stubs beside it can. The stubs are made in a temporary folder, never in the work tree.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The submodule that the module makes of itself when it is imported.
SCHEMAS = """\
from dottxt import InvalidSchemaError as InvalidSchemaError
from dottxt import build_response_format as build_response_format
from dottxt import normalize_schema as normalize_schema
"""


class Stubs(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # type checkers follow the link to the module itself
            return
        self._folder = tempfile.TemporaryDirectory()  # removed with this object
        stubs = Path(self._folder.name)
        shutil.copy(Path(self.root, "dottxt.py"), stubs / "__init__.pyi")
        (stubs / "schemas.pyi").write_text(SCHEMAS, encoding="utf-8")
        build_data["force_include"][str(stubs)] = "dottxt-stubs"
