"""List the models that the gateway serves.

Watch for: `model=` and `DOTTXT_MODEL` take an id from this list. The star marks the one that the other
examples use.
"""

import os

from dottxt import DotTxt

chosen = os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b")

with DotTxt() as client:
    for model in client.models.list():
        print("*" if model.id == chosen else " ", model.id)
