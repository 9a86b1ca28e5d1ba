"""One question to an agent by OpenAI's own client: arguments are its base URL and its token."""

import json
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
messages = [{"role": "user", "content": "is anybody there?"}]
whole = client.chat.completions.create(model="default", messages=messages)
streamed = "".join(
    chunk.choices[0].delta.content or ""
    for chunk in client.chat.completions.create(model="default", messages=messages, stream=True)
    if chunk.choices
)
models = [model.id for model in client.models.list()]
print(json.dumps({"whole": whole.choices[0].message.content, "streamed": streamed, "models": models}))
