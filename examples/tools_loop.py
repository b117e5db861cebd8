"""Let the model call a tool until it answers.

python examples/tools_loop.py [DIRECTORY]
"""

import sys

import a3b

VALUES = {"a1b2": "c3d4", "c3d4": "e5f6"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Get the value of one key.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}


def main(directory: str | None = None) -> None:
    question = "Start at a1b2 and follow the chain for 2 steps. Where do you end?"
    messages = [{"role": "user", "content": question}]
    with a3b.load(directory) as model:
        for _ in range(8):
            reply = model.chat(messages, tools=[TOOL], temperature=0.0, max_tokens=200)
            messages.append(reply.message)
            for call in reply.tool_calls:
                value = VALUES.get(call.arguments.get("key"), "not found")
                print(f"{call.name}({call.arguments}) = {value}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": value})
            if not reply.tool_calls:
                print(reply.text)
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
