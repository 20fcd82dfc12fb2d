"""Turn a sentence into an order, with a JSON Schema that could come from a file or a database.

Watch for: the schema is text, and the result is plain data, here a dict.
"""

import json
import os

from dottxt import DotTxt

SCHEMA = """
{
  "type": "object",
  "properties": {
    "size": {"enum": ["small", "medium", "large"]},
    "toppings": {
      "type": "array",
      "items": {"enum": ["cheese", "mushrooms", "olives", "peppers"]},
      "minItems": 1,
      "maxItems": 3
    },
    "quantity": {"type": "integer", "minimum": 1, "maximum": 20}
  },
  "required": ["size", "toppings", "quantity"],
  "additionalProperties": false
}
"""

with DotTxt() as client:
    order = client.generate(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        input="Turn this into an order: two large pizzas with mushrooms and olives, please.",
        response_format=SCHEMA,
        temperature=0,
        max_tokens=500,
    )

print(json.dumps(order, indent=2))
