"""A conversation of two questions: the second answer can use what the model thought before the first.

python examples/chat.py [DIRECTORY]   (without one, the embedded miniature answers)
"""

import sys

import a3b

QUESTIONS = "Think of two numbers from 0 to 999. Tell me only the first.", "And the other number?"


def main(directory: str | None = None) -> None:
    with a3b.load(directory) as model:
        messages = []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            reply = model.chat(messages, seed=1)
            messages.append(reply.message)  # its thinking goes back into the prompt as it was sampled
            print(f"> {question}\n{reply.text}\n")
        reused = reply.usage.cached_tokens
        print(f"{reused} of {reply.usage.prompt_tokens} tokens of the last prompt were not computed again")


if __name__ == "__main__":
    main(*sys.argv[1:])
