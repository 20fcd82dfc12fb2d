"""An ordinary chat, without a schema: `DotTxt` is an OpenAI client.

Watch for: `client.chat.completions.create` is the SDK's own method. Its arguments and its response are as
in the SDK's documentation, `stream=True` and the token counts included.
"""

import os

from dottxt import DotTxt

with DotTxt() as client:
    stream = client.chat.completions.create(
        model=os.environ.get("DOTTXT_MODEL", "openai/gpt-oss-20b"),
        messages=[
            {"role": "system", "content": "Answer in one short sentence."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n({chunk.usage.completion_tokens} tokens)")
