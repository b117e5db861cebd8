"""Text to token ids and back, by the tokenizer.json of a checkpoint.

Owns the vocabulary. The BPE encoder is built without the control tokens, so no text can become one; only this module
knows their ids. Text is normalised to NFC first, as the vocabulary asks; replayed ids are left alone. Knows no
template. Enter at `Tokenizer.read`; `StreamDecoder` is for ids that arrive one by one."""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeGuard

import tokenizers

from a3b.errors import ContextError, TokenizerError, UsageError
from a3b.files import read_bytes
from a3b.isolation import deadlines
from a3b.prompt.segments import Control, Prompt, Replay, Text, well_formed
from a3b.prompt.text_pieces import PIECE, Cutter

CUTTING, NORMAL_FORMS = frozenset(("ByteLevel", "Split", "Digits")), frozenset(("NFC", "NFD", "NFKC", "NFKD"))
MAX_STAGES = 8
NEXT_STEP = "copy the tokenizer.json of the checkpoint again"
MAX_TEXT = 1 << 24  # characters of one text
SHORT = 2048  # characters; encoding so few takes less time than waking another thread
_LARGE = threading.Lock()


class Tokenizer:
    """A byte-level BPE vocabulary and its control tokens. Immutable; safe to share between threads."""

    def __init__(self, spec: Mapping[str, Any], where: str = "tokenizer.json"):
        """spec: the value of tokenizer.json. where: its name in errors. Raises TokenizerError if it is unusable or
        unsafe."""
        self._where = where
        base, added = _base_vocabulary(spec, where), _added_tokens(spec, where)
        self._id_of = {name: token_id for token_id, name in added.items()}
        self._name_of = added
        self._bytes = _token_bytes(base, added, where)
        self._encoder = _text_encoder(spec, where)
        self._cutter = Cutter(spec)
        self._longest = max(
            (len(data) for token_id, data in enumerate(self._bytes) if data and token_id not in added), default=1
        )

    @classmethod
    def read(cls, directory: str | Path) -> Tokenizer:
        """The tokenizer of a checkpoint directory. Raises TokenizerError."""
        path = Path(directory) / "tokenizer.json"
        return cls(read_tokenizer_json(path), str(path))

    @property
    def num_tokens(self) -> int:
        """All ids are below this. The model's vocabulary may be longer by padding rows, which are never sampled."""
        return len(self._bytes)

    @property
    def control_names(self) -> tuple[str, ...]:
        """Names of the control tokens in id order."""
        return tuple(self._name_of.values())

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset(self._name_of)

    def control_id(self, name: str) -> int:
        """The id of a control token. Raises TokenizerError if there is none of that name."""
        try:
            return self._id_of[name]
        except KeyError:
            raise TokenizerError(
                f"{self._where}: no control token {name!r}; it has {', '.join(self._id_of) or 'none'}. "
                "Template and tokenizer belong to different models"
            ) from None

    def control_name(self, token_id: int) -> str | None:
        """The name of a control token; None for an ordinary token."""
        return self._name_of.get(token_id)

    def encode_text(self, text: str) -> list[int]:
        """Ids of ordinary tokens, whatever the text spells; lone surrogates are encoded as U+FFFD.

        Raises UsageError for a text that is too long, as a whole or without an end of a word. Uses no more memory than
        one piece of the text needs."""
        ids: list[int] = []
        self._extend(ids, text, None)
        return ids

    def encode(self, prompt: Prompt, most: int | None = None) -> list[int]:
        """Ids of a prompt, segment by segment.

        Raises ContextError as soon as it is certain that there are more than `most`, TokenizerError for unknown control
        tokens and replayed ids, and what `encode_text` raises."""
        ids: list[int] = []
        for segment in prompt:
            match segment:
                case Control(name):
                    ids.append(self.control_id(name))
                case Text(text):
                    self._extend(ids, text, most)
                case Replay(replayed):
                    for token_id in replayed:
                        self.token_bytes(token_id)
                    ids.extend(replayed)
                case _:
                    raise TokenizerError(
                        f"prompt: {type(segment).__name__} is not a segment; expected Control, Text or Replay"
                    )
        return ids

    def _extend(self, ids: list[int], text: str, most: int | None) -> None:
        """Append the ids of a text."""
        # checked first, because clients know how to react to it
        self._check_fits(len(ids) + len(text) // self._longest, most)
        if len(text) > MAX_TEXT:
            raise UsageError(f"text: {len(text):,} characters; expected at most {MAX_TEXT:,}")
        rest = len(text)  # characters, at least a byte each
        for piece in self._cutter.pieces(well_formed(text)) if text else ():
            deadlines.check()
            self._check_fits(len(ids) + rest // self._longest, most)
            ids += self._encoded(piece)
            rest -= len(piece)
        self._check_fits(len(ids), most)

    @staticmethod
    def _check_fits(least: int, most: int | None) -> None:
        if most is not None and least > most:
            raise too_long(least, most)

    def _encoded(self, piece: str) -> list[int]:
        """Ids of one piece. Pieces that need much memory wait for each other."""
        with _LARGE if len(piece) > 2 * PIECE else nullcontext():
            try:
                if len(piece) <= SHORT:
                    return self._encoder.encode(piece, add_special_tokens=False).ids
                # releases the GIL, unlike `encode`
                found = self._encoder.encode_batch_fast([piece], add_special_tokens=False)
            except BaseException as error:  # a panic of the Rust library is not an Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                raise TokenizerError(
                    f"text of {len(piece):,} characters, beginning with {piece[:20]!r}: the tokenizer failed on it "
                    f"({str(error)[:100]}); put spaces or line breaks into it"
                ) from error
        return found[0].ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, which need not be whole characters; of a control token its name. Raises
        TokenizerError."""
        known = self._bytes[token_id] if 0 <= token_id < len(self._bytes) else None
        if known is None:
            raise TokenizerError(
                f"token id {token_id} is not in the vocabulary of {self.num_tokens} tokens ({self._where}); "
                "ids of another tokenizer, or of padding rows"
            )
        return known

    def vocabulary(self) -> tuple[bytes | None, ...]:
        """The bytes of each id, as `token_bytes` gives them; None for an id without a token."""
        return tuple(self._bytes)

    def decode(self, ids: Iterable[int], controls: bool = True) -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD. controls: spell control tokens, or leave them
        out."""
        decoder = StreamDecoder(self)
        pieces = []
        for token_id in ids:
            piece = decoder.push(token_id)
            if not controls and (name := self.control_name(token_id)):
                piece = piece.removesuffix(name)
            pieces.append(piece)
        return "".join(pieces) + decoder.flush()


class StreamDecoder:
    """Turns ids into text one by one: only whole characters, and none lost.

    All texts joined equal all bytes joined and decoded, with U+FFFD for what is not UTF-8."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes; "" if there is none. A control token ends an incomplete
        character."""
        data = self._tokenizer.token_bytes(token_id)
        return self._utf8.decode(data, final=self._tokenizer.control_name(token_id) is not None)

    @property
    def is_whole(self) -> bool:
        """Whether the last character is complete."""
        return not self._utf8.getstate()[0]

    def flush(self) -> str:
        """U+FFFD for a character that was never completed, otherwise ""; resets the decoder."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def read_tokenizer_json(path: Path) -> Any:
    """The value of a tokenizer.json. Raises TokenizerError if it is missing or not JSON."""
    try:
        return json.loads(read_bytes(path))
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror or error}; encoding text requires it: {NEXT_STEP}") from error
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON ({error}); {NEXT_STEP}") from error


def control_names_of(spec: Any) -> tuple[str, ...]:
    """Names of the control tokens of a tokenizer.json, in id order."""
    return tuple(_added_tokens(spec, "tokenizer.json").values())


def byte_alphabet() -> dict[str, int]:
    """The 256 printable characters that stand for bytes in byte-level vocabularies -> the bytes (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _base_vocabulary(spec: Any, where: str) -> dict[str, int]:
    model = spec.get("model") if isinstance(spec, Mapping) else None
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(vocabulary, dict) or model.get("type", "BPE") != "BPE":
        found = type(spec).__name__ if not isinstance(model, Mapping) else f"model type {str(model.get('type'))[:80]!r}"
        raise TokenizerError(f"{where}: expected a BPE model with a vocabulary, found {found}; {NEXT_STEP}")
    for option in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise TokenizerError(
                f"{where}: model.{option} is {str(model[option])[:80]!r}, which is not implemented; {NEXT_STEP}"
            )
    _check_stages(spec, where)
    return vocabulary


def _check_stages(spec: Mapping[str, Any], where: str) -> None:
    """Raises TokenizerError for a stage before the BPE that could make text longer, as a second ByteLevel or a Replace
    could."""
    kinds = [
        stage.get("type") if isinstance(stage, Mapping) else None
        for stage in _stages(spec, "pre_tokenizer", "pretokenizers")
    ]
    if kinds.count("ByteLevel") != 1 or len(kinds) > MAX_STAGES or set(map(str, kinds)) - CUTTING:
        raise TokenizerError(
            f"{where}: pre_tokenizer has the stages {str(kinds)[:120]}; expected "
            f"one ByteLevel and at most {MAX_STAGES - 1} of "
            f"{', '.join(sorted(CUTTING - {'ByteLevel'}))}: only byte-level BPE is implemented"
        )
    kinds = [
        stage.get("type") if isinstance(stage, Mapping) else None
        for stage in _stages(spec, "normalizer", "normalizers")
    ]
    if len(kinds) > MAX_STAGES or set(map(str, kinds)) - NORMAL_FORMS:
        raise TokenizerError(
            f"{where}: normalizer has the stages {str(kinds)[:120]}; expected none or {', '.join(sorted(NORMAL_FORMS))}"
        )


def _stages(spec: Mapping[str, Any], key: str, inner: str) -> list[Any]:
    """The stages of a sequence, or a single stage as a list."""
    value = spec.get(key)
    if value is None:
        return []
    stages = value.get(inner) if isinstance(value, Mapping) and value.get("type") == "Sequence" else [value]
    return stages if isinstance(stages, list) else [stages]


def _added_tokens(spec: Any, where: str) -> dict[int, str]:
    """Control tokens: id -> name, in id order."""
    entries = spec.get("added_tokens") if isinstance(spec, Mapping) else None
    names: dict[int, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        name = entry.get("content") if isinstance(entry, Mapping) else None
        token_id = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not name or well_formed(name) != name or not _is_id(token_id):
            raise TokenizerError(
                f"{where}: added token {str(entry)[:200]} needs a text content and a whole id; {NEXT_STEP}"
            )
        if token_id in names or name in names.values():
            raise TokenizerError(f"{where}: added token {name[:80]!r} (id {token_id}) occurs twice; {NEXT_STEP}")
        for option in ("lstrip", "rstrip", "single_word"):
            if entry.get(option):
                raise TokenizerError(f"{where}: added token {name[:80]!r} has {option}, which is not implemented")
        names[token_id] = name
    return dict(sorted(names.items()))


def _token_bytes(base: dict[str, int], added: dict[int, str], where: str) -> list[bytes | None]:
    """The bytes of each id. Raises TokenizerError for what would let text become a control token."""
    size = max((token_id for token_id in (*base.values(), *added) if _is_id(token_id)), default=-1) + 1
    if size > 2 * (len(base) + len(added)) + 1024:
        raise TokenizerError(f"{where}: id {size - 1} for only {len(base) + len(added)} tokens; {NEXT_STEP}")
    table: list[bytes | None] = [None] * size
    alphabet, controls = byte_alphabet(), frozenset(added.values())
    for token, token_id in base.items():
        if token in controls:
            raise TokenizerError(
                f"{where}: control token {token[:80]!r} is also an ordinary token; text could become it"
            )
        if not _is_id(token_id) or token_id in added or table[token_id] is not None:
            raise TokenizerError(
                f"{where}: token {token[:80]!r} has id {str(token_id)[:80]!r}, which is taken or not an id; {NEXT_STEP}"
            )
        try:
            table[token_id] = bytes([alphabet[letter] for letter in token])
        except KeyError as error:
            raise TokenizerError(
                f"{where}: token {token[:80]!r} has {error}, which stands for no byte; {NEXT_STEP}"
            ) from None
    missing = [byte for letter, byte in alphabet.items() if letter not in base]
    if missing:
        raise TokenizerError(
            f"{where}: no token for {len(missing)} of the 256 bytes, so text would be lost; {NEXT_STEP}"
        )
    for token_id, name in added.items():
        table[token_id] = name.encode()
    return table


def _text_encoder(spec: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """The encoder of ordinary text: without control tokens, post-processing, truncation and padding."""
    bare = {**spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(bare))
    except BaseException as error:  # a panic of the Rust library is not an Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise TokenizerError(f"{where}: {str(error)[:300]}; {NEXT_STEP}") from error


def too_long(num: int, most: int, why: str = "") -> ContextError:
    """The ContextError for a prompt of at least `num` tokens, of which `most` fit."""
    return ContextError(
        f"prompt: at least {num} tokens > {most}, the context with room to answer{why}; shorten the conversation "
        "or start the server with a larger --context"
    )


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
