"""Get answers that match a JSON schema or a regular expression: `python examples/structured_output.py [URL]`."""

import json
import os
import sys

from openai import OpenAI

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "country": {"type": "string", "maxLength": 40},
        "population": {"type": "integer", "minimum": 0, "maximum": 99999999},
    },
    "required": ["name", "country", "population"],
    "additionalProperties": False,
}


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("GLLM_API_KEY", "none"))
    model = client.models.list().data[0].id

    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Describe Paris as JSON with name, country and population."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        max_tokens=256,
        temperature=0,
    )
    print(json.loads(answer.choices[0].message.content or ""))

    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "When did the first human walk on the Moon? Answer as YYYY-MM-DD."}],
        extra_body={"guided_regex": r"[0-9]{4}-[0-9]{2}-[0-9]{2}"},
        max_tokens=16,
        temperature=0,
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
