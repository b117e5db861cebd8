"""Players that use the openai package: chat, streamed chat, responses with state in the server and without."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI

from bench.clients.play import MOST_CALLS, At, Game, main, sampling


class Chat:
    """As most programs do it: content and calls go back, thinking is dropped."""

    extra: dict[str, Any] = {}

    def __init__(self, at: At, game: Game):
        self.client = OpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
        self.at, self.game = at, game
        self.messages: list[Any] = [{"role": "system", "content": game.system}] if game.system else []

    def say(self, text: str, seed: int | None = None) -> str:
        self.messages.append({"role": "user", "content": text})
        for _ in range(MOST_CALLS):
            message = self.answer(
                model=self.at.model,
                messages=self.messages,
                **({"tools": self.game.tools} if self.game.tools else {}),
                **sampling(seed),
                extra_body=self.extra,
            )
            self.messages.append(self.kept(message))
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                found = self.game.look_up(json.loads(call.function.arguments))
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")

    def answer(self, **request: Any) -> Any:
        return self.client.chat.completions.create(**request).choices[0].message

    def kept(self, message: Any) -> Any:
        found = {"role": "assistant", "content": message.content}
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in message.tool_calls or []
        ]
        return found | ({"tool_calls": calls} if calls else {})


class ChatWithThinking(Chat):
    """Sends the whole message back, `reasoning_content` with it."""

    def kept(self, message: Any) -> Any:
        if not message.tool_calls and not getattr(message, "reasoning_content", None):
            raise RuntimeError("no reasoning_content in the answer")
        return message.model_dump(exclude_none=True)


class ChatStream(Chat):
    """The package's own helper puts the message together from a stream."""

    def answer(self, **request: Any) -> Any:
        with self.client.chat.completions.stream(stream_options={"include_usage": True}, **request) as stream:
            for _ in stream:
                pass
            found = stream.get_final_completion()
        if found.usage is None or found.usage.prompt_tokens_details is None:
            raise RuntimeError("no usage at the end of the stream")
        return found.choices[0].message


class ChatPolicyNone(Chat):
    """The control: the same client, with the server set to leave earlier thinking out."""

    extra = {"thinking_policy": "none"}


class Responses:
    """The conversation is kept by the server."""

    options: dict[str, Any] = {}

    def __init__(self, at: At, game: Game):
        self.client = OpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
        self.at, self.game = at, game
        self.tools = [{"type": "function", "strict": False, **tool["function"]} for tool in game.tools]
        self.last: str | None = None  # id of the last response

    def say(self, text: str, seed: int | None = None) -> str:
        items: list[Any] = [{"role": "user", "content": text}]
        for _ in range(MOST_CALLS):
            found = self.respond(items, seed)
            calls = [item for item in found.output if item.type == "function_call"]
            if not calls:
                return found.output_text
            items = [
                {
                    "type": "function_call_output",
                    "call_id": call.call_id,
                    "output": self.game.look_up(json.loads(call.arguments)),
                }
                for call in calls
            ]
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")

    def respond(self, items: list[Any], seed: int | None) -> Any:
        found = self.create(items, seed, previous_response_id=self.last)
        self.last = found.id
        return found

    def create(self, items: list[Any], seed: int | None, **options: Any) -> Any:
        sampled = sampling(seed)
        extra = {"seed": sampled.pop("seed")} if "seed" in sampled else {}
        return self.client.responses.create(
            model=self.at.model,
            input=items,
            instructions=self.game.system,
            tools=self.tools,
            extra_body=extra,
            **sampled,
            **options,
        )


class ResponsesStateless(Responses):
    """The client keeps the conversation; its thinking travels encrypted."""

    def __init__(self, at: At, game: Game):
        super().__init__(at, game)
        self.items: list[Any] = []

    def respond(self, items: list[Any], seed: int | None) -> Any:
        self.items += items
        found = self.create(self.items, seed, store=False, include=["reasoning.encrypted_content"])
        if not any(item.type == "reasoning" and item.encrypted_content for item in found.output):
            raise RuntimeError("no encrypted reasoning in the answer")
        self.items += [item.model_dump(exclude_none=True) for item in found.output]
        return found


class ResponsesStream(Responses):
    def create(self, items: list[Any], seed: int | None, **options: Any) -> Any:
        sampled = sampling(seed)
        extra = {"seed": sampled.pop("seed")} if "seed" in sampled else {}
        previous = {key: value for key, value in options.items() if value is not None}
        with self.client.responses.stream(
            model=self.at.model,
            input=items,
            instructions=self.game.system,
            tools=self.tools,
            extra_body=extra,
            **sampled,
            **previous,
        ) as stream:
            for _ in stream:
                pass
            return stream.get_final_response()


PLAYERS = {
    "chat": Chat,
    "chat-thinking": ChatWithThinking,
    "chat-stream": ChatStream,
    "chat-policy-none": ChatPolicyNone,
    "responses": Responses,
    "responses-stateless": ResponsesStateless,
    "responses-stream": ResponsesStream,
}

if __name__ == "__main__":
    main(PLAYERS)
