"""Several questions at once: their tokens are computed together.

python examples/many_at_once.py [DIRECTORY]
"""

import sys

import a3b

QUESTIONS = "What are you?", "What is a cache?", "Define memory.", "What is 12 + 30?", "Thanks!"


def main(directory: str | None = None) -> None:
    with a3b.load(directory, max_active=4) as model:
        for question, reply in zip(QUESTIONS, model.chat_many(QUESTIONS, seed=1), strict=True):
            print(f"> {question}\n{reply.text} ({reply.usage.completion_tokens} tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
