"""Let the model call a function: `python examples/tools.py [URL]`.

Start the server with `gllm serve --tool-parser hermes` if its model has no chat template for tools.
A small model may not call the tool by itself, so `tool_choice` forces a call; a grammar makes it well-formed.
"""

import json
import os
import sys

from openai import OpenAI

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 40}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def get_weather(city: str) -> str:
    return json.dumps({"city": city, "celsius": 21, "sky": "clear"})


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("GLLM_API_KEY", "none"))
    model = client.models.list().data[0].id
    messages = [{"role": "user", "content": "What is the weather in Lisbon?"}]

    first = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=96,
        temperature=0,
    )
    message = first.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        print(f"the model calls {call.function.name}({call.function.arguments})")
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    second = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], max_tokens=64)
    print(second.choices[0].message.content)


if __name__ == "__main__":
    main()
