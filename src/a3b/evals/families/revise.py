"""revise: a thing is in one of several boxes; each word of the user rules some out or takes a ruling back.

An earlier thought ("it may be in the red box") turns out wrong and must be discarded. All facts are the user's, so a
case can be solved with the earlier thinking or without it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from a3b.evals.families.common import (
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    assistant,
    legal,
    said,
    system_prompt,
    user,
)

COLOURS = "red blue green black white gray pink gold dark big small old new long open round".split()
PLACES = "box door room bag card cup".split()
THINGS = "key ball note coin ring book".split()
OPEN = [
    "The {thing} is in one of these: {list}. Where may it be?",
    "One of {list} holds the {thing}. Guess which one.",
    "I put the {thing} into one of {list}. Where do you think it is?",
    "The {thing} is in {list}, in just one of them. Say one.",
]
NOT = ["It is not in {c}.", "No, not in {c}.", "I looked in {c}: nothing.", "{C} is empty."]
WRONG = [
    "I was wrong about {c}: it may be there.",
    "Sorry, I did not look in {c} after all.",
    "Forget what I said of {c}.",
]
MOST_ROUNDS = 5


@dataclass
class Game:
    """What is said in the rounds of a game, and which colours are possible after each."""

    texts: list[str]
    possible: list[list[str]]
    thoughts: list[str]
    guesses: list[str]


def make_game(rng: random.Random) -> Game:
    """Most guesses are ruled out next; in some games a ruling is taken back."""
    colours = rng.sample(COLOURS, rng.choice((3, 3, 4)))
    names = ", ".join(colours)
    game = Game([rng.choice(OPEN).format(thing=rng.choice(THINGS), list=names)], [list(colours)], [], [])
    think(game, "")
    while len(game.possible[-1]) > 1 and len(game.texts) < MOST_ROUNDS:
        left, out = game.possible[-1], [c for c in colours if c not in game.possible[-1]]
        if out and rng.random() < 0.25:
            back = rng.choice(out)
            game.texts.append(rng.choice(WRONG).format(c=back))
            game.possible.append([c for c in colours if c in left or c == back])
            think(game, f"{back} is possible again")
            continue
        gone = game.guesses[-1] if rng.random() < 0.7 else rng.choice(left)
        game.texts.append(rng.choice(NOT).format(c=gone, C=gone.capitalize()))
        game.possible.append([c for c in left if c != gone])
        think(game, f"not {gone}")
    return game


def think(game: Game, news: str) -> None:
    left = game.possible[-1]
    dropped = f", {game.guesses[-1]} was wrong" if game.guesses and game.guesses[-1] not in left else ""
    game.guesses.append(left[0])
    game.thoughts.append(
        "\n".join([*([news + dropped] if news else []), f"left: {', '.join(left)}", f"say: {left[0]}"])
    )


def answer(game: Game, index: int) -> str:
    return f"It is in {game.guesses[index]}." if len(game.possible[index]) == 1 else f"Maybe {game.guesses[index]}."


def example(rng: random.Random) -> Conversation:
    game = make_game(rng)
    messages = system_prompt(rng)
    for index, text in enumerate(game.texts):
        messages += [user(text), assistant(answer(game, index), game.thoughts[index])]
    return Conversation(messages)


@dataclass
class ReviseCase:
    opening: list[Message]
    game: Game

    def play(self, generate: Generate) -> CaseOutcome:
        messages, valid, detail, ok = list(self.opening), True, "", True
        for index, text in enumerate(self.game.texts):
            messages.append(user(text))
            message = generate(messages, None)
            messages.append(message)
            valid = valid and legal(message, None)
            named = [w for w in re.findall(r"\w+", said(message).lower()) if w in COLOURS]
            if len(named) != 1 or named[0] not in self.game.possible[index]:
                ok, detail = False, f"round {index + 1}: {said(message)!r}, possible {self.game.possible[index]}"
                break
        return CaseOutcome(ok, valid, detail, messages)


def case(rng: random.Random) -> ReviseCase:
    """At least three rounds, in which a guess is ruled out."""
    while True:
        game = make_game(rng)
        was_wrong = any(guess not in game.possible[-1] for guess in game.guesses)
        if len(game.texts) >= 3 and was_wrong:
            return ReviseCase(system_prompt(rng), game)
