"""Players that use a framework as its own documentation says: litellm, langchain-openai, pydantic-ai, inspect-ai, llm.

Each keeps the conversation in the framework's own messages; whether thinking goes back is the framework's affair. A
framework is imported by its players only, as each has an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.clients.play import MOST_CALLS, MOST_TOKENS, At, Game, main, sampling


class LiteLLM:
    """`provider/model`; the whole message goes back."""

    provider = "openai"

    def __init__(self, at: At, game: Game):
        self.at, self.game = at, game
        self.messages: list[Any] = [{"role": "system", "content": game.system}] if game.system else []

    def say(self, text: str, seed: int | None = None) -> str:
        import litellm

        self.messages.append({"role": "user", "content": text})
        for _ in range(MOST_CALLS):
            found = litellm.completion(
                model=f"{self.provider}/{self.at.model}",
                messages=self.messages,
                tools=self.game.tools or None,
                api_key=self.at.key,
                num_retries=0,
                **self.options(seed),
            )
            message = found.choices[0].message
            self.messages.append(message)
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                told = self.game.look_up(json.loads(call.function.arguments))
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")

    def options(self, seed: int | None) -> dict[str, Any]:
        return {"api_base": f"{self.at.url}/v1", **sampling(seed)}


class LiteLLMAnthropic(LiteLLM):
    provider = "anthropic"

    def options(self, seed: int | None) -> dict[str, Any]:
        return {"api_base": self.at.url, "max_tokens": MOST_TOKENS, "temperature": 0.0 if seed is None else 1.0}


class LangChain:
    """ChatOpenAI, which drops `reasoning_content`."""

    def __init__(self, at: At, game: Game):
        from langchain_openai import ChatOpenAI

        self.game = game
        self.model = lambda seed: ChatOpenAI(
            model=at.model, base_url=f"{at.url}/v1", api_key=at.key, max_retries=0, **sampling(seed)
        )
        self.messages: list[Any] = [("system", game.system)] if game.system else []

    def say(self, text: str, seed: int | None = None) -> str:
        model = self.model(seed)
        bound = model.bind_tools(self.game.tools) if self.game.tools else model
        self.messages.append(("user", text))
        for _ in range(MOST_CALLS):
            found = self.answer(bound)
            self.messages.append(found)
            if not found.tool_calls:
                return str(found.text)
            for call in found.tool_calls:
                self.messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": self.game.look_up(call["args"])}
                )
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")

    def answer(self, model: Any) -> Any:
        return model.invoke(self.messages)


class LangChainStream(LangChain):
    def answer(self, model: Any) -> Any:
        whole = None
        for chunk in model.stream(self.messages):
            whole = chunk if whole is None else whole + chunk
        return whole


class PydanticAI:
    """An Agent with its tools, over OpenAI's chat."""

    def __init__(self, at: At, game: Game):
        from pydantic_ai import Agent, Tool

        def tool(function: dict) -> Any:
            return Tool.from_schema(
                lambda **arguments: game.look_up(arguments),
                function["name"],
                function["description"],
                function["parameters"],
            )

        self.runner = asyncio.Runner()
        tools = [tool(one["function"]) for one in game.tools]
        self.agent = Agent(self.model(at), tools=tools, **({"system_prompt": game.system} if game.system else {}))
        self.history: list[Any] = []

    def model(self, at: At) -> Any:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIChatModel(at.model, provider=OpenAIProvider(base_url=f"{at.url}/v1", api_key=at.key))

    def settings(self, seed: int | None) -> Any:
        return sampling(seed)

    def say(self, text: str, seed: int | None = None) -> str:
        found = self.runner.run(self.agent.run(text, message_history=self.history, model_settings=self.settings(seed)))
        self.history = found.all_messages()
        return found.output


class PydanticAIAnthropic(PydanticAI):
    """The same over Anthropic's messages."""

    def model(self, at: At) -> Any:
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client = AsyncAnthropic(base_url=at.url, api_key=at.key, max_retries=0)
        return AnthropicModel(at.model, provider=AnthropicProvider(anthropic_client=client))

    def settings(self, seed: int | None) -> Any:
        return {"temperature": 0.0 if seed is None else 1.0, "max_tokens": MOST_TOKENS}


class PydanticAIResponses(PydanticAI):
    """The same over OpenAI's responses."""

    def model(self, at: At) -> Any:
        from pydantic_ai.models.openai import OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIResponsesModel(at.model, provider=OpenAIProvider(base_url=f"{at.url}/v1", api_key=at.key))

    def settings(self, seed: int | None) -> Any:
        return {"temperature": 0.0 if seed is None else 1.0}


class Inspect:
    """inspect_ai's model interface with the provider `openai-api`."""

    def __init__(self, at: At, game: Game):
        from inspect_ai.model import ChatMessageSystem, get_model

        self.runner, self.game = asyncio.Runner(), game
        self.model = get_model(f"openai-api/a3b/{at.model}", base_url=f"{at.url}/v1", api_key=at.key, memoize=False)
        self.messages: list[Any] = [ChatMessageSystem(content=game.system)] if game.system else []

    def say(self, text: str, seed: int | None = None) -> str:
        return self.runner.run(self._say(text, seed))

    async def _say(self, text: str, seed: int | None) -> str:
        from inspect_ai.model import ChatMessageTool, ChatMessageUser, GenerateConfig
        from inspect_ai.tool import ToolInfo

        functions = [tool["function"] for tool in self.game.tools]
        tools = [ToolInfo(name=f["name"], description=f["description"], parameters=f["parameters"]) for f in functions]
        self.messages.append(ChatMessageUser(content=text))
        for _ in range(MOST_CALLS):
            found = (
                await self.model.generate(
                    self.messages, tools=tools, config=GenerateConfig(max_retries=0, **sampling(seed))
                )
            ).message
            self.messages.append(found)
            if not found.tool_calls:
                return found.text
            for call in found.tool_calls:
                told = self.game.look_up(call.arguments)
                self.messages.append(ChatMessageTool(content=told, tool_call_id=call.id, function=call.function))
        raise RuntimeError(f"still calling tools after {MOST_CALLS} answers")


class LLM:
    """The command `llm`, a process for each turn, its conversation in its own database."""

    def __init__(self, at: At, game: Game):
        self.home = tempfile.TemporaryDirectory()
        self.game, self.is_begun = game, False
        entry = {"model_id": at.model, "model_name": at.model, "api_base": f"{at.url}/v1", "api_key_name": "a3b"}
        Path(self.home.name, "extra-openai-models.yaml").write_text(json.dumps([entry]))  # JSON is YAML
        Path(self.home.name, "keys.json").write_text(json.dumps({"a3b": at.key}))
        self.model = at.model

    def say(self, text: str, seed: int | None = None) -> str:
        options = [part for name, value in sampling(seed).items() for part in ("-o", name, str(value))]
        begin = ["-c"] if self.is_begun else ["-s", self.game.system] if self.game.system else []
        command = [str(Path(sys.executable).with_name("llm")), "-m", self.model, *begin, *options, text]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
            env=os.environ | {"LLM_USER_PATH": self.home.name},
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        self.is_begun = True
        return done.stdout


PLAYERS = {
    "litellm": LiteLLM,
    "litellm-anthropic": LiteLLMAnthropic,
    "langchain": LangChain,
    "langchain-stream": LangChainStream,
    "pydantic-ai": PydanticAI,
    "pydantic-ai-anthropic": PydanticAIAnthropic,
    "pydantic-ai-responses": PydanticAIResponses,
    "inspect": Inspect,
    "llm": LLM,
}

if __name__ == "__main__":
    main(PLAYERS)
