"""An ordinary chat, without a schema: code written for the OpenAI SDK needs only another client.

Watch for: `client.chat.completions.create` is the SDK's own method, so every argument and the whole
answer are as its documentation has them, `stream=True` and the usage included.
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
