"""The models that the gateway serves.

Watch for: an id from this list is what `model=` and `DOTTXT_MODEL` take. The one that the other
examples would use now is marked.
"""

import os

from dottxt import DotTxt

chosen = os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b")

with DotTxt() as client:
    for model in client.models.list():
        print("*" if model.id == chosen else " ", model.id)
