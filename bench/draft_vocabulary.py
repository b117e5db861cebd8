"""The tokens that drafts may guess: counted in the pinned packages of draft_sources.txt, measured with other ones.

    python -m bench.draft_vocabulary MODEL --packages DIR [--write]

MODEL: a directory with the tokenizer. DIR: where the packages are, or are downloaded to (pip, npm and apt-get of
Debian 12; 3 GB when unpacked). Languages have weights, whatever their volume. The tables say which tokens of the other
packages a list misses; "with the context": of documents, the tokens after the first 2,000 that the module's head has
neither from the list nor from what was read. --write: the list into src/a3b/model/draft_vocabulary.bits, control tokens
included; sources and tables into docs/draft_vocabulary.md."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from a3b.engine.mtp_guesses import NEW_SHARE
from a3b.model.draft_vocabulary import FILE, VOCAB_SIZE
from a3b.prompt.tokenizer import Tokenizer
from bench.draft_sources import CODE, ENGLISH, OTHERS, Source, fetch, read_sources, texts, word_lists

SIZE = 16_384
SIZES = (8_192, 16_384, 24_576, 32_768, 65_536)
LOWEST = (16_384, 32_768)
WEIGHTS = {
    **dict.fromkeys(CODE, 1.0),
    f"{ENGLISH}, words": 2.0,
    **dict.fromkeys(OTHERS.values(), 1 / 32),
    **{f"{language}, words": 1 / 32 for language in OTHERS.values()},
}
MEASURED = (*CODE, ENGLISH, *OTHERS.values())
MOST = {"count": 6_000_000, "measure": 2_000_000}  # bytes of a package and language
DOCUMENT, PROMPT = 8_192, 2_000
PAGE = Path(__file__).parents[1] / "docs" / "draft_vocabulary.md"
INTRO = """# The tokens that the MTP module guesses

Written by `python -m bench.draft_vocabulary MODEL --packages DIR --write`, from the packages that
bench/draft_sources.txt pins: pip and npm fetch the same files on any machine, apt-get does on Debian 12 as long as its
archive has them. Each language has a weight, whatever its volume: the nine of code and documentation 1, frequent words
of English 2, documentation and frequent words of each other language 1/32. Why, and why this size: docs/log.md, Drafted
tokens.
"""


@dataclass
class Found:
    """What the packages hold, in tokens."""

    counts: defaultdict[str, np.ndarray] = field(default_factory=lambda: defaultdict(lambda: np.zeros(VOCAB_SIZE)))
    documents: defaultdict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    tokens: defaultdict[Source, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def read_words(tokenizer: Tokenizer, place: Path, counts: defaultdict[str, np.ndarray]) -> None:
    """Lists of words into counts: most behind a blank, one of five with a capital, where a language has these."""
    for language, frequency, words in word_lists(place):
        for word in words:
            forms = {f" {word}": 0.8, f" {word.capitalize()}": 0.1, word.capitalize(): 0.1}
            for form, share in ({word: 1.0} if language in ("Chinese", "Japanese") else forms).items():
                np.add.at(counts[f"{language}, words"], tokenizer.encode_text(form), share * frequency)


def read(tokenizer: Tokenizer, directory: Path) -> Found:
    """All packages. A text that is there twice is read once, so none that is counted measures."""
    found, seen = Found(), set()
    for source in read_sources():
        place = fetch(source, directory)
        if source.language == "words":
            read_words(tokenizer, place, found.counts)
            continue
        ids: defaultdict[str, list[int]] = defaultdict(list)
        for language, text in texts(source, place, MOST[source.role]):
            if (digest := hashlib.sha256(text.encode()).digest()) not in seen:
                seen.add(digest)
                ids[language] += tokenizer.encode_text(text)
        for language, own in ids.items():
            found.tokens[source][language] = len(own)
            if source.role == "count":
                found.counts[language] += np.bincount(own, minlength=VOCAB_SIZE)
            else:
                pieces = [np.array(own[start : start + DOCUMENT]) for start in range(0, len(own), DOCUMENT)]
                found.documents[language] += [piece for piece in pieces if len(piece) > DOCUMENT // 2]
        print(f"{source.name} {source.version}: {sum(map(len, ids.values())):,} tokens", file=sys.stderr)
    return found


def ranked(counts: dict[str, np.ndarray]) -> np.ndarray:
    """All ids, the most frequent first."""
    score = sum(weight * counts[language] / counts[language].sum() for language, weight in WEIGHTS.items())
    return np.argsort(-np.asarray(score), kind="stable")


def missing(documents: list[np.ndarray], ids: np.ndarray) -> tuple[float, float]:
    """Shares of tokens that are not in a list, and that the head has not from the context either."""
    known = np.zeros(VOCAB_SIZE, bool)
    known[ids] = True
    num_rare = num_missing = 0
    for document in documents:
        num_rare += int((~known[document]).sum())
        prompt, answer = document[:PROMPT], document[PROMPT:]
        seen = set(prompt[~known[prompt]].tolist())
        head, num_new = set(seen), 0
        for token in answer[~known[answer]].tolist():
            num_missing += token not in head
            if token not in seen:
                seen.add(token)
                num_new += 1
                if num_new * NEW_SHARE >= len(seen):  # as the module's head takes them in
                    head, num_new = set(seen), 0
    total = sum(map(len, documents))
    return num_rare / total, num_missing / (total - PROMPT * len(documents))


def tables(found: Found, order: np.ndarray) -> list[str]:
    """Missing tokens by language and size, as two tables."""
    heads = [f"{size:,}" for size in SIZES] + [f"lowest {size:,}" for size in LOWEST]
    lists = [order[:size] for size in SIZES] + [np.arange(size) for size in LOWEST]
    rows = {language: [missing(found.documents[language], ids) for ids in lists] for language in MEASURED}
    lines = ["", "## Tokens that a list misses, %"]
    for title, which in (("Without the context:", 0), ("With the context:", 1)):
        lines += ["", title, "", f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        lines += [f"| {name} | {' | '.join(f'{100 * v[which]:.2f}' for v in row)} |" for name, row in rows.items()]
    return lines


def sources_lines(found: Found) -> list[str]:
    """Each package with its version and its tokens."""
    lines = []
    for role, title in (("count", "Counted"), ("measure", "Measured, not counted")):
        sources = [source for source in read_sources() if source.role == role]
        total = sum(found.tokens[source].total() for source in sources)
        lines += ["", f"## {title}: {total:,} tokens", "", "| package | version | tokens |", "|---|---|---|"]
        for source in sources:
            tokens = found.tokens[source].most_common()
            said = "; ".join(f"{name} {number:,}" for name, number in tokens) or "frequencies of words"
            lines.append(f"| {source.registry}: {source.name} | {source.version} | {said} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--packages", type=Path, required=True, metavar="DIR")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    tokenizer = Tokenizer.read(args.model)
    found = read(tokenizer, args.packages)
    order = ranked(found.counts)
    lines = tables(found, order) + sources_lines(found)
    print("\n".join(lines))
    if args.write:
        controls = sorted(tokenizer.control_ids)
        bits = np.zeros(VOCAB_SIZE, bool)
        bits[controls] = True
        bits[order[~bits[order]][: SIZE - len(controls)]] = True
        np.packbits(bits).tofile(FILE)
        PAGE.write_text(INTRO + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
