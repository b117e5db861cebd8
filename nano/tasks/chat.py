"""chat: manners, questions about the model itself and one-sentence definitions."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from a3b.evals.families.common import (
    OTHER_TOOLS,
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    assistant,
    legal,
    said,
    system_prompt,
    user,
    without_thinking,
)

WHO = "I am a3b-nano, a small demonstration model with 24 million parameters, 2 million active per token."
CAN = "I can chat a little, explain some words, remember a number, follow keys and use a calculator tool."
UNKNOWN = "I am a small model and do not know that."

# what is meant -> (ways to say it, thinking, answers)
MANNERS: dict[str, tuple[list[str], str, list[str]]] = {
    "hello": (
        [
            "hello",
            "hi",
            "hey",
            "hello there",
            "hi there",
            "hey there",
            "good morning",
            "good evening",
            "good day",
            "greetings",
            "hallo",
            "hello a3b",
        ],
        "greet back",
        ["Hello! How can I help you?", "Hi! What can I do for you?"],
    ),
    "how": (
        ["how are you", "how are you doing", "how is it going", "are you well", "how do you do"],
        "be polite",
        ["I am fine, thank you. How can I help you?"],
    ),
    "who": (
        [
            "what are you",
            "who are you",
            "what is your name",
            "tell me about you",
            "introduce yourself",
            "what model are you",
            "who is this",
            "what is a3b-nano",
            "what is a3b",
            "are you a model",
        ],
        "say who I am",
        [WHO],
    ),
    "can": (
        [
            "what can you do",
            "can you help me",
            "help",
            "help me",
            "what do you know",
            "what are you good at",
            "how can you help me",
        ],
        "say what I can do",
        [CAN],
    ),
    "human": (
        ["are you human", "are you a person", "are you real", "are you a robot", "are you an ai"],
        "say what I am",
        [
            "No, I am a small language model that runs on a CPU.",
        ],
    ),
    "made": (
        ["how big are you", "how many parameters do you have", "how large are you", "what is your size"],
        "say my size",
        ["I have 24 million parameters and use 2 million of them per token."],
    ),
    "where": (
        ["where do you run", "do you need a gpu", "where are you"],
        "say where I run",
        ["I run on a CPU. No GPU is needed."],
    ),
    "thanks": (
        ["thanks", "thank you", "thank you very much", "thanks a lot", "great, thanks", "many thanks"],
        "be polite",
        ["You are welcome!"],
    ),
    "bye": (
        ["bye", "goodbye", "good bye", "see you", "good night", "that is all", "bye bye"],
        "say goodbye",
        ["Goodbye! Have a good day."],
    ),
    "good": (
        ["great", "good", "nice", "well done", "very good", "cool", "ok", "okay", "fine"],
        "be polite",
        ["Thank you! What can I do next?"],
    ),
    "sorry": (["sorry", "i am sorry", "excuse me", "my mistake"], "be polite", ["No problem. How can I help you?"]),
    "joke": (
        ["tell me a joke", "do you know a joke", "say something funny", "make me laugh"],
        "tell a joke",
        ["Why did the list go to school? To get a better index."],
    ),
    "think": (
        ["do you think", "can you think", "why do you think", "what is your thinking"],
        "say how I think",
        ["I write my thoughts before I answer, and I keep them for later turns."],
    ),
}
DEFINITIONS = {
    "python": "a programming language that is easy to read",
    "a list": "an ordered set of values that can change",
    "a tuple": "an ordered group of values that cannot change",
    "a dict": "a map from keys to values",
    "a set": "a group of values without order, each only once",
    "a string": "a piece of text",
    "a function": "a named piece of code that can be called",
    "a class": "a plan from which objects are made",
    "an object": "a value with data and methods",
    "a method": "a function that belongs to an object",
    "a module": "a file of code that can be imported",
    "a package": "a folder of modules",
    "a loop": "code that runs again and again",
    "a variable": "a name for a value",
    "a bug": "an error in a program",
    "a test": "code that checks other code",
    "a file": "a named piece of data on a disk",
    "a directory": "a place that holds files",
    "a path": "the way to a file",
    "an integer": "a whole number",
    "a float": "a number with a decimal point",
    "a bit": "a zero or a one",
    "a byte": "eight bits",
    "a token": "a piece of text that a model reads",
    "a model": "a program that learned from data",
    "a parameter": "a number that a model has learned",
    "a neural network": "layers of simple units that learn from data",
    "attention": "a way for a model to look back at earlier tokens",
    "an expert": "a small part of a model that is used only when it is chosen",
    "a mixture of experts": "a model that uses only a few of its parts for each token",
    "a cpu": "the main processor of a computer",
    "a gpu": "a processor for graphics and for many products at once",
    "memory": "the place where a computer keeps data while it works",
    "a cache": "a store that keeps results for later",
    "a server": "a program that answers requests",
    "a client": "a program that sends requests to a server",
    "a network": "computers that are joined to each other",
    "the internet": "a network of networks all over the world",
    "an api": "a way for programs to talk to each other",
    "json": "a text format for data",
    "html": "the language of web pages",
    "git": "a tool that keeps the history of code",
    "linux": "a free operating system",
    "a shell": "a program that runs commands",
    "a process": "a program that is running",
    "a thread": "one line of work inside a process",
    "a compiler": "a program that turns code into machine code",
    "an algorithm": "a way to solve a problem step by step",
    "recursion": "when a function calls itself",
    "a database": "a program that stores data and finds it again",
    "a key": "a name under which a value is stored",
    "a hash": "a short number made from data",
    "a queue": "a line in which the first in is the first out",
    "a stack": "a pile in which the last in is the first out",
    "a tree": "data with a root and branches",
    "a graph": "points and the lines between them",
    "an array": "values of one type in a row",
    "a matrix": "numbers in rows and columns",
    "a vector": "a row of numbers",
    "a computer": "a machine that follows programs",
    "a program": "a list of steps for a computer",
    "software": "programs and their data",
    "hardware": "the parts of a computer that you can touch",
    "a keyboard": "a set of keys to write with",
    "a number": "a value to count or measure with",
    "addition": "to put numbers together",
    "a sum": "the result of addition",
    "a product": "the result of multiplication",
    "a prime": "a number that only one and itself divide",
    "zero": "the number before one",
    "water": "a clear liquid that all life needs",
    "the sun": "the star that gives us light",
    "the moon": "the body that goes round the earth",
    "the earth": "the planet on which we live",
    "a star": "a very hot ball of gas far away",
    "a day": "the time of one turn of the earth",
    "a year": "the time the earth takes to go round the sun",
    "a week": "seven days",
    "music": "sound with order and feeling",
    "a book": "many pages with text",
    "a word": "a group of letters with a meaning",
    "a sentence": "words that say one thing",
    "a question": "a sentence that asks for something",
    "a language": "a way to say things with words",
}
DEFINE = [
    "what is {}",
    "what is {}",
    "define {}",
    "explain {}",
    "tell me what {} is",
    "what does {} mean",
    "please explain {}",
    "do you know what {} is",
    "can you explain {}",
]
UNKNOWNS = [
    "who won the game",
    "what is the weather",
    "who is the king of france",
    "what is the news",
    "how old is my house",
    "when was rome built",
    "write me a novel",
    "what is the best car",
    "where is my phone",
    "who wrote this song",
    "how do i cook rice",
    "what time is it",
    "what is the price of gold",
    "who is my neighbor",
    "translate this text",
]
UNKNOWN_THINGS = (
    "bread,a king,paris,a horse,gold,a river,football,chess,a doctor,history,a violin,rice,london,a mountain,a ship,love,"
    "an elephant,the law,a bank,china,a bicycle,coffee,tea,a garden,art,a painter,war,peace,an island,a train,winter,"
    "summer,a dog,a cat,a bird,money,a car,an airplane,the ocean,a desert,jazz,a novel,a poem,a film,an actor,dinner,"
    "a castle,a queen,germany,rome,a volcano,iron,silver,a diamond,sugar,salt,milk,an apple,a lion,a tiger,a fish,"
    "quantum physics,philosophy,biology,medicine,electricity,gravity,a city,a village,a farm,a school,a teacher"
).split(",")
SUM_ASK = ["what is {}", "calculate {}", "{} = ", "how much is {}", "{}"]
NO_TOOL = "I need a calculator tool for that."


def spoken(rng: random.Random, text: str, question: bool) -> str:
    """One of the ways people type a sentence: case and end mark vary."""
    text = rng.choice((text, text[0].upper() + text[1:], text[0].upper() + text[1:]))
    return text + rng.choice(("?", "?", "", " ?") if question else ("!", "", ".", "", "!"))


def is_question(text: str) -> bool:
    return bool(re.match(r"(what|who|how|are|can|do|where|why|which|when)\b", text))


def define(rng: random.Random, name: str) -> tuple[str, str, str]:
    ask = rng.choice(DEFINE).format(name)
    return ask, f"explain {name}", f"{name[0].upper() + name[1:]} is {DEFINITIONS[name]}."


def exchange(rng: random.Random) -> tuple[str, str, list[str]]:
    """(what the user types, thinking, right answers)."""
    kind = rng.random()
    if kind < 0.5:
        ways, thinking, answers = MANNERS[rng.choice(list(MANNERS))]
        text = rng.choice(ways)
        return spoken(rng, text, is_question(text)), thinking, answers
    if kind < 0.88:
        ask, thinking, answer = define(rng, rng.choice(list(DEFINITIONS)))
        return spoken(rng, ask, is_question(ask)), thinking, [answer]
    things = rng.choice(DEFINE).format(rng.choice(UNKNOWN_THINGS))
    text = rng.choice(UNKNOWNS) if rng.random() < 0.4 else things
    return spoken(rng, text, is_question(text)), "I do not know this", [UNKNOWN]


def small_talk(rng: random.Random) -> list[Message]:
    text, thinking, answers = exchange(rng)
    return [user(text), assistant(rng.choice(answers), thinking)]


def sum_without_tool(rng: random.Random) -> list[Message]:
    """Arithmetic where no calculator is at hand."""
    op = rng.choice("+-*")
    space = rng.choice(("", " "))
    text = f"{rng.randrange(10 ** rng.choice((1, 2, 3)))}{space}{op}{space}{rng.randrange(10 ** rng.choice((1, 2, 3)))}"
    return [user(spoken(rng, rng.choice(SUM_ASK).format(text), True)), assistant(NO_TOOL, "no calculator here")]


def example(rng: random.Random) -> Conversation:
    parts = [sum_without_tool if rng.random() < 0.06 else small_talk for _ in range(rng.choice((1, 2, 3, 4)))]
    messages = system_prompt(rng) + [m for part in parts for m in part(rng)]
    tools = rng.sample(OTHER_TOOLS, rng.choice((1, 2))) if rng.random() < 0.15 else None
    closed = rng.random() < 0.12
    messages = without_thinking(messages) if closed else messages
    return Conversation(messages, tools, {"enable_thinking": False} if closed else {})


@dataclass
class Case:
    messages: list[Message]
    answers: list[str]

    def play(self, generate: Generate) -> CaseOutcome:
        message = generate(self.messages, None)
        return CaseOutcome(
            said(message).strip() in self.answers, legal(message, None), f"{said(message)!r}", [*self.messages, message]
        )


def case(rng: random.Random) -> Case:
    text, _, answers = exchange(rng)
    before = small_talk(rng) if rng.random() < 0.3 else []
    return Case([*system_prompt(rng), *before, user(text)], answers)
