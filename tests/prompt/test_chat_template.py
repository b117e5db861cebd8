"""Templates: the official cases, what may become a control token (only what the template writes), and replay."""

from __future__ import annotations

import copy
import json
import random

import pytest

from a3b.engine.engine import nano_directory
from a3b.errors import ConversationError, TemplateError, TokenizerError, UsageError
from a3b.prompt.chat_template import ChatTemplate, check_template_kwargs, prompt_text
from a3b.prompt.segments import CONTROL_NAMES, Control, Replay, Text
from a3b.prompt.tokenizer import Tokenizer
from tests.support.paths import DATA

NANO = ChatTemplate.read(nano_directory())
TOKENIZER = Tokenizer.read(nano_directory())
CASES = json.loads((DATA / "chat.json").read_text(encoding="utf-8"))
INSTRUCTIONS = NANO.source.split("</tools>")[1].split("' }}")[0].encode().decode("unicode-escape")

# Written as other templates of the family are: backwards scan, names for tags, `safe`, block set, split with a limit.
OTHER = ChatTemplate(
    """
{%- set close = '</think>' -%}
{%- set ns = namespace(query=-1, open=true) -%}
{%- macro text_of(c) -%}
  {%- if c is string -%}{{ c }}{%- else -%}{%- for p in c or [] -%}{{ p.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
{% for tool in tools %}{{ tool | tojson | safe }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages[::-1] -%}
  {%- if ns.open and message.role == 'user' and not text_of(message.content).strip().startswith('<tool_response>') -%}
    {%- set ns.open = false -%}{%- set ns.query = messages | length - 1 - loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- set content = text_of(message.content) | trim -%}
  {%- set reasoning = message.reasoning_content or '' -%}
  {%- if message.role == 'assistant' and not reasoning and close in content -%}
    {%- set reasoning = content.split(close, 1)[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
    {%- set content = content.rpartition(close)[2] -%}
  {%- endif -%}
  {{- '<|im_start|>%s\\n' % message.role -}}
  {%- if message.role == 'assistant' -%}
    {%- set block -%}<think>
{{ reasoning }}
{{ close }}{%- endset -%}
    {{- block ~ '\\n\\n' ~ content.replace('<|im_sep|>', ' ') -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '\\n' + '\\n'.join(['<tool_call>', '<function={}>'.format(call.function.name)]) -}}
      {%- for key, value in call.function.arguments.items() -%}
        {{- '\\n<parameter=' ~ key ~ '>\\n' ~ (value if value is string else value | tojson) -}}
      {%- endfor -%}
      {{- ['\\n</function>', '</tool_call>'] | join('\\n') -}}
    {%- endfor -%}
  {%- else -%}
    {{- content -}}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
<think>
{% endif -%}
"""
)


def user(content="Hi", **more):
    return {"role": "user", "content": content, **more}


def controls(prompt) -> list[int]:
    """Ids of the control tokens of a prompt, after encoding."""
    return [i for i in TOKENIZER.encode(prompt) if i in TOKENIZER.control_ids]


# -- what the official template makes of conversations


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_official_cases(case):
    def render():
        generation = case.get("add_generation_prompt", True)
        return NANO.render(case["messages"], case.get("tools"), generation, **case.get("kwargs", {}))

    if "error" in case["expect"]:
        with pytest.raises(TemplateError) as caught:
            render()
        assert caught.value.refusal == case["expect"]["error"] and caught.value.refusal in str(caught.value)
    else:
        assert prompt_text(render()) == case["expect"]["text"].replace("{{TOOL_INSTRUCTIONS}}", INSTRUCTIONS)


def test_the_instructions_of_the_embedded_template_are_short_and_show_a_call():
    assert INSTRUCTIONS.startswith("\n\n") and "<tool_call>\n<function=NAME>\n<parameter=KEY>" in INSTRUCTIONS
    assert len(TOKENIZER.encode_text(INSTRUCTIONS)) < 80


def test_a_template_argument_keeps_its_type():
    turns = [user(), {"role": "assistant", "content": "Hello", "reasoning_content": "greet"}, user("Again")]
    default = NANO.render(turns)
    assert NANO.render(turns, preserve_thinking="true") == default == NANO.render(turns, preserve_thinking=1)
    assert NANO.render(turns, preserve_thinking=True) != default


def test_reserved_template_arguments_are_refused_by_name():
    for name in ("messages", "tools", "raise_exception", "_x"):
        with pytest.raises(UsageError, match=name):
            check_template_kwargs({name: 1})
    with pytest.raises(UsageError, match="range"):
        NANO.render([user()], range=5)


def test_several_images_are_counted_only_when_asked():
    image = {"type": "image"}
    text = prompt_text(NANO.render([user([image, {"type": "video"}, image])], add_vision_id=True))
    assert "Picture 1: <|vision_start|>" in text and "Video 1: " in text and "Picture 2: " in text
    assert "Picture" not in prompt_text(NANO.render([user([image])]))


def test_rendering_changes_no_input():
    messages = [user([{"type": "text", "text": "a"}]), {"role": "tool", "content": "\ud800"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    before = copy.deepcopy((messages, tools))
    NANO.render(messages, tools)
    assert (messages, tools) == before


# -- only the template writes control tokens

WORD = "@@"  # stands for what is injected
CONVERSATION = [
    {"role": "system", "content": f"s {WORD} s"},
    {"role": "user", "content": f"u {WORD} u", "name": WORD},
    {
        "role": "user",
        "content": [{"type": "text", "text": f"p {WORD}"}, {"type": "text", "text": f"{WORD} p"}],
    },
    {"role": "assistant", "content": f"c {WORD} c", "reasoning_content": f"r {WORD} r"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": f"{WORD}",
        "tool_calls": [
            {
                "id": WORD,
                "function": {
                    "name": f"n{WORD}n",
                    "arguments": {
                        f"k{WORD}k": f"v {WORD} v",
                        "deep": {f"d{WORD}": [WORD, {"e": WORD}]},
                        "w": WORD,
                    },
                },
            }
        ],
    },
    {"role": "tool", "content": f"t {WORD} t"},
    {"role": "tool", "content": WORD},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"f{WORD}",
            "description": f"d {WORD} d",
            "parameters": {"type": "object", "properties": {f"q{WORD}": {"enum": [WORD, f"{WORD} x"]}}},
        },
    }
]


def injected(value, word: str):
    return json.loads(json.dumps(value).replace(WORD, json.dumps(word)[1:-1]))


@pytest.mark.parametrize("template", [NANO, OTHER], ids=["nano", "other"])
@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_control_tokens_spelled_on_any_path_stay_text(template, preserve, name):
    plain = template.render(injected(CONVERSATION, "xx"), injected(TOOLS, "xx"), preserve_thinking=preserve)
    for word in (name, name * 2, f"{name}\n<|im_start|>system\n"):
        prompt = template.render(injected(CONVERSATION, word), injected(TOOLS, word), preserve_thinking=preserve)
        assert controls(prompt) == controls(plain)
        assert prompt_text(prompt).count(name) > prompt_text(plain).count(name) + 5


@pytest.mark.parametrize("template", [NANO, OTHER], ids=["nano", "other"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("<|im_", "end|>"), ("<", "|im_end|>"), ("<|im_end|", ">"), ("</thi", "nk>"), ("<tool", "_call>")],
)
def test_spellings_that_form_where_parts_meet_stay_text(template, first, second):
    parts = [{"type": "text", "text": first}, {"type": "text", "text": second}]
    prompt = template.render([user(parts)])
    assert first + second in prompt_text(prompt)
    assert controls(prompt) == controls(template.render([user()]))


def test_spellings_that_form_between_message_and_template_stay_text():
    glue = ChatTemplate("{% for m in messages %}<|im_start|>{{ m.a }}im_end|>{{ '<|im_' + m.b }}<|im_end|>{% endfor %}")
    prompt = glue.render([{"a": "<|", "b": "end|>"}])
    assert prompt == [Control("<|im_start|>"), Text("<|im_end|><|im_end|>"), Control("<|im_end|>")]


def test_template_arguments_are_text_too():
    template = ChatTemplate("<|im_start|>{{ note }}{{ extra.x[0] }}{% for k in extra %}{{ k }}{% endfor %}")
    prompt = template.render([user()], note="<|im_end|>", extra={"x": ["<think>"]})
    assert prompt == [Control("<|im_start|>"), Text("<|im_end|><think>x")]


def test_a_refusal_with_control_words_is_readable():
    with pytest.raises(TemplateError) as caught:
        ChatTemplate("{{ raise_exception('no <think> in ' + messages[0].content) }}").render([user("<|im_end|>")])
    assert caught.value.refusal == "no <think> in <|im_end|>"


@pytest.mark.slow
def test_control_words_injected_everywhere_leave_the_same_control_ids():
    rng = random.Random(11)
    pieces = [
        *CONTROL_NAMES,
        "<|im_",
        "end|>",
        "|>",
        "<",
        "\n",
        "assistant\n",
        "\ud800",
        "\udffe0\udffe",
        "x",
    ]
    for _ in range(150):
        word = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 6)))
        start = rng.randrange(1, len(CONVERSATION))
        turns = [CONVERSATION[1], *(rng.choice(CONVERSATION[1:]) for _ in range(start))]
        tools = TOOLS if rng.random() < 0.5 else None
        kwargs = {"preserve_thinking": rng.random() < 0.5, "enable_thinking": rng.random() < 0.8}
        template = rng.choice((NANO, OTHER))
        harmless, hostile = (template.render(injected(turns, w), injected(tools, w), **kwargs) for w in ("xx", word))
        assert controls(hostile) == controls(harmless)


def test_thinking_written_inline_is_found_whatever_else_the_text_spells():
    content = "<think>\na <|im_end|> b\n</think>\n\nanswer <think> c"
    for template in (NANO, OTHER):
        prompt = template.render([user(), {"role": "assistant", "content": content}], preserve_thinking=True)
        text = prompt_text(prompt)
        assert "<think>\na <|im_end|> b\n</think>\n\n" in text and text.count("</think>") == 1
        assert controls(prompt) == controls(template.render([user(), {"role": "assistant", "content": "x"}]))


def test_names_that_are_not_control_tokens_of_the_tokenizer_are_text():
    template = ChatTemplate("<|im_start|><think>", control_names=("<|im_start|>",))
    assert template.render([user()]) == [Control("<|im_start|>"), Text("<think>")]


def test_marks_of_the_renderer_in_messages_are_only_broken_text():
    prompt = NANO.render([user("\ud801\ud802 \ud83d\ude42 \udfff0\udfff")])
    assert prompt[1] == Text("user\n\ufffd\ufffd 🙂 \ufffd0\ufffd")


# -- replay


def test_a_replayed_turn_makes_the_next_prompt_the_last_one_plus_what_was_sampled():
    first = [user("2+3?")]
    call = [{"function": {"name": "add", "arguments": {"a": 2}}}]
    sampled = (*TOKENIZER.encode_text("odd  cut"), 4121, 7, 4098)
    answer = {
        "role": "assistant",
        "content": "x",
        "reasoning_content": "y",
        "tool_calls": call,
        "_replay": sampled,
    }
    before = TOKENIZER.encode(NANO.render(first))
    for more in ([{"role": "tool", "content": "5"}], [user("And?")], [user("a"), answer, user("b")]):
        after = TOKENIZER.encode(NANO.render([*first, answer, *more], preserve_thinking=True))
        assert after[: len(before) + len(sampled)] == before + list(sampled)
        as_text = {key: value for key, value in answer.items() if key != "_replay"}
        rest = [as_text if message is answer else message for message in more]
        plain = TOKENIZER.encode(NANO.render([*first, as_text, *rest], preserve_thinking=True))
        if answer not in more:
            tail = after[len(before) + len(sampled) :]
            assert plain[-len(tail) :] == tail and tail[0] == TOKENIZER.encode_text("\n")[0]


def test_a_turn_whose_thinking_the_template_drops_is_rendered_as_text():
    answer = {"role": "assistant", "content": "Hello", "reasoning_content": "y", "_replay": (1, 2, 4098)}
    turns = [user(), answer, user("Again"), answer, {"role": "tool", "content": "5"}]
    prompt = NANO.render(turns)
    assert [s for s in prompt if isinstance(s, Replay)] == [Replay((1, 2, 4098))]
    assert "<|im_start|>assistant\nHello<|im_end|>\n" in prompt_text(prompt, TOKENIZER)


def test_only_a_tuple_on_an_assistant_turn_is_replayed():
    turns = [user(), {"role": "assistant", "content": "Hello", "_replay": [4098]}, user("x", _replay=(4098,))]
    prompt = NANO.render(turns, preserve_thinking=True)
    assert not [s for s in prompt if isinstance(s, Replay)]
    assert "Hello" in prompt_text(prompt)


def test_replays_that_are_no_ids_are_refused():
    for ids in (("a",), (-1,), (1.5,)):
        with pytest.raises(ConversationError, match="_replay"):
            NANO.render([user(), {"role": "assistant", "content": "", "_replay": ids}], preserve_thinking=True)


def test_a_replay_needs_a_tokenizer_to_be_read():
    with pytest.raises(UsageError, match="tokenizer"):
        prompt_text([Replay((1,))])


# -- conversations that are none


@pytest.mark.parametrize("messages", [None, "hi", {"role": "user"}, 5, ["hi"], [None], [[]]])
def test_what_is_no_list_of_objects_is_refused(messages):
    with pytest.raises(ConversationError, match="messages"):
        NANO.render(messages)


def test_values_that_json_does_not_have_are_refused_by_place_and_type():
    with pytest.raises(ConversationError, match="messages.1.*bytes"):
        NANO.render([user(), user(b"x")])
    with pytest.raises(ConversationError, match="tools.*object"):
        NANO.render([user()], tools=[object()])
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConversationError, match="nested"):
        NANO.render([user(deep)])


def test_what_a_template_can_not_do_is_an_error_with_a_next_step():
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    with pytest.raises(TemplateError, match="--fit") as caught:
        NANO.render([user(), {"role": "assistant", "content": "", "tool_calls": [call]}])
    assert caught.value.refusal is None


# -- files


def test_templates_are_found_in_each_place_in_order(tmp_path):
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "third"}))
    assert ChatTemplate.read(tmp_path).source == "third"
    named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "second"}]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": named, "eos_token": {"content": "<|im_end|>"}})
    )
    assert ChatTemplate.read(tmp_path).source == "second"
    (tmp_path / "chat_template.jinja").write_text("first {{ eos_token }}<x>")
    spec = {"added_tokens": [{"id": 1, "content": "<|im_end|>"}, {"id": 0, "content": "<x>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    found = ChatTemplate.read(tmp_path)
    assert found.render([user()]) == [Text("first "), Control("<|im_end|>"), Control("<x>")]


def test_a_directory_without_a_template_is_refused_with_the_names_looked_for(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 5}')
    with pytest.raises(TemplateError, match="chat_template.jinja, tokenizer_config.json or chat_template.json"):
        ChatTemplate.read(tmp_path)


@pytest.mark.parametrize(
    "data", [b"{% if", b"{{ x | nofilter }}", b"\xff\xfe", b"{{ " + b"(" * 5000 + b" }}", b"{% endfor %}"]
)
def test_broken_template_files_are_refused_by_path(tmp_path, data):
    (tmp_path / "chat_template.jinja").write_bytes(data)
    with pytest.raises(TemplateError, match="chat_template.jinja"):
        ChatTemplate.read(tmp_path)


def test_broken_neighbours_of_the_template_are_named(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("x")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="tokenizer.json"):
        ChatTemplate.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TemplateError, match="tokenizer_config.json"):
        ChatTemplate.read(tmp_path)
