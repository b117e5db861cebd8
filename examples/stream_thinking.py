"""Print an answer while it is written, the thinking dimmed.

python examples/stream_thinking.py [DIRECTORY]
"""

import sys

import a3b


def main(directory: str | None = None) -> None:
    with a3b.load(directory) as model, model.chat("What are you?", seed=1, stream=True) as stream:
        for event in stream:
            match event:
                case a3b.ThinkingDelta(text):
                    print(f"\x1b[2m{text}\x1b[0m", end="", flush=True)
                case a3b.TextDelta(text):
                    print(text, end="", flush=True)
        usage = stream.reply.usage
        print(f"\n{usage.completion_tokens} tokens, {usage.thinking_tokens} of them thinking")


if __name__ == "__main__":
    main(*sys.argv[1:])
