"""Players that use the anthropic package: messages and streams, thinking blocks sent back or dropped."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic

from bench.clients.play import MOST_CALLS, MOST_TOKENS, At, Game, main


class Messages:
    """Sends the content back as it came, thinking blocks with their signatures."""

    thinking: dict[str, Any] = {}

    def __init__(self, at: At, game: Game):
        self.client = Anthropic(base_url=at.url, api_key=at.key, max_retries=0)
        self.at, self.game = at, game
        self.options: dict[str, Any] = {"system": game.system} if game.system else {}
        if game.tools:
            self.options["tools"] = [
                {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
                for f in (tool["function"] for tool in game.tools)
            ]
        self.messages: list[Any] = []

    def say(self, text: str, seed: int | None = None) -> str:
        """This API has no seed: with one, the temperature is 1 and the draw the server's. The package no longer has
        temperature."""
        content: Any = text
        for _ in range(MOST_CALLS):
            self.messages.append({"role": "user", "content": content})
            found = self.answer(
                model=self.at.model,
                max_tokens=MOST_TOKENS,
                messages=self.messages,
                **self.options,
                **self.thinking,
                extra_body={"temperature": 0.0 if seed is None else 1.0},
            )
            self.messages.append({"role": "assistant", "content": self.kept(found.content)})
            calls = [block for block in found.content if block.type == "tool_use"]
            if not calls:
                return "".join(block.text for block in found.content if block.type == "text")
            content = [
                {"type": "tool_result", "tool_use_id": call.id, "content": self.game.look_up(call.input)}
                for call in calls
            ]
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")

    def answer(self, **request: Any) -> Any:
        return self.client.messages.create(**request)

    def kept(self, content: list[Any]) -> list[Any]:
        if not any(block.type == "thinking" and block.signature for block in content):
            raise RuntimeError("no signed thinking in the answer")
        return [block.model_dump(exclude_none=True) for block in content]


class MessagesDropped(Messages):
    """Leaves the thinking blocks out of what it sends back."""

    def kept(self, content: list[Any]) -> list[Any]:
        return [block.model_dump(exclude_none=True) for block in content if block.type != "thinking"]


class MessagesStream(Messages):
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}

    def answer(self, **request: Any) -> Any:
        with self.client.messages.stream(**request) as stream:
            for _ in stream:
                pass
            return stream.get_final_message()


PLAYERS = {"messages": Messages, "messages-dropped": MessagesDropped, "messages-stream": MessagesStream}

if __name__ == "__main__":
    main(PLAYERS)
