"""Which preset of a model suits this machine, and the three lines that say what it takes and how fast it will be.

Sizes are exact, speed is `plan`'s prediction, times are for a line whose speed is stated. Everything is an argument;
nothing is asked or fetched here. Enter at `choose` and `promise`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from a3b.clients.catalogue import CLIENTS
from a3b.commands.info import size
from a3b.commands.plan import Speed as MachineSpeed
from a3b.commands.plan import decode_seconds, prefill_seconds
from a3b.commands.sizes import Sizes, Use, longest_context, memory_bytes, sizes
from a3b.errors import A3BError
from a3b.model.config import ModelConfig
from a3b.model.forward import CHUNK
from a3b.model.known_models import KNOWN_MODELS
from a3b.model.known_shapes import shape
from a3b.model.parameters import count_parameters
from a3b.packing.presets import PRESETS
from a3b.units import span

USEFUL_CONTEXT = 65_536  # tokens: the first prompt of a coding agent, and some turns of work
LEAST_CONTEXT = 16_384
USUAL = "balanced"  # a larger preset is chosen unasked only if it leaves the share SPARE_SHARE of the memory
SPARE_SHARE = 0.2  # for an editor, a browser and what the agent runs
LINE_BYTES_PER_S = 100e6 / 8
PACKED_WEIGHTS_PER_S = 16e6  # quantised by a thread, from docs/log.md; integers that are kept are copied
COPIED_BYTES_PER_S = 90e6
SPARE_BYTES = 64_000_000


@dataclass(frozen=True)
class Room:
    """What there is for a model, in bytes. spill: what packing needs on the disk beside the result. use: what the model
    will be run for."""

    memory: int
    disk: int
    spill: int = 0
    use: Use = field(default_factory=Use)


@dataclass(frozen=True)
class PresetChoice:
    """A preset that fits. preset: None if the source has integers of its own."""

    preset: str | None
    found: Sizes
    context: int  # tokens that fit into the memory with it
    why: str  # not a better one; "" if there is none


def choose(config: ModelConfig, title: str, room: Room, preset: str | None, context: int | None) -> PresetChoice:
    """The best preset that fits the memory with a useful context, and the disk; or the one asked for.

    context: tokens that must fit; None is USEFUL_CONTEXT or, where no preset has room for that, LEAST_CONTEXT. Raises
    A3BError that says what is missing and what would fit."""
    all_found = {name: sizes(config, kinds) for name, kinds in PRESETS.items()}
    asked = {preset: all_found[preset]} if preset else all_found
    needs = [context] if context else [min(need, config.max_context) for need in (USEFUL_CONTEXT, LEAST_CONTEXT)]
    for need in needs:
        wanting = {name: lacking(config, found, need, _share(room, name, preset)) for name, found in asked.items()}
        fitting = [name for name, missing in wanting.items() if not missing]
        if fitting:
            best = fitting[-1]  # presets grow in size and quality
            better = next(iter(list(wanting)[list(wanting).index(best) + 1 :]), None)
            why = ""
            if better:
                missing = lacking(config, all_found[better], need, room)
                why = (
                    f"{better} needs {missing}" if missing else f"{better} would leave little memory to other programs"
                )
            most = max(config.max_context, context or 0)  # beyond the native length if that was asked for
            fits = longest_context(config, all_found[best], room.memory, most, room.use)
            return PresetChoice(best, all_found[best], fits, why)
    smallest = next(iter(asked))
    missing = lacking(config, asked[smallest], needs[-1], room)
    others = "" if preset is None else _presets_that_fit(config, all_found, needs[-1], room)
    raise A3BError(
        f"{title}: even {smallest}, the smallest preset, needs {missing} for {needs[-1]:,} tokens{others}; "
        f"{what_fits(room)}"
        if preset is None
        else f"{title}: {preset} needs {missing} for {needs[-1]:,} tokens{others or '; ' + what_fits(room)}"
    )


def _share(room: Room, name: str, asked: str | None) -> Room:
    """What a preset may take of a machine."""
    is_larger = list(PRESETS).index(name) > list(PRESETS).index(USUAL)
    return replace(room, memory=int(room.memory * (1 - SPARE_SHARE))) if is_larger and asked is None else room


def check_own_types(config: ModelConfig, title: str, found: Sizes, room: Room, context: int | None) -> PresetChoice:
    """The same for a source whose integers are kept, so that there is nothing to choose. Raises A3BError."""
    need = context or min(LEAST_CONTEXT, config.max_context)
    if missing := lacking(config, found, need, room):
        raise A3BError(f"{title}: needs {missing} for {need:,} tokens; {what_fits(room)}")
    most = max(config.max_context, context or 0)
    return PresetChoice(None, found, longest_context(config, found, room.memory, most, room.use), "")


def lacking(config: ModelConfig, found: Sizes, context: int, room: Room) -> str:
    """What is missing for a model with so many tokens, in words; "" if it fits."""
    memory = memory_bytes(config, found, context, room.use) - room.memory
    disk = found.stored_bytes + room.spill + SPARE_BYTES - room.disk
    words = [f"{size(num)} more {kind}" for num, kind in ((memory, "memory"), (disk, "disk")) if num > 0]
    return " and ".join(words)


def what_fits(room: Room) -> str:
    """The known models that this machine has room for, and always the embedded one."""
    names = []
    for model in KNOWN_MODELS:
        config = shape(model.shape)
        for name, kinds in PRESETS.items():
            if not lacking(config, sizes(config, kinds), LEAST_CONTEXT, room):
                names.append(f"{model.name}:{name}")
                break
    less = " (fewer answers at once, --parallel 1, need less)" if room.use.answers > 1 else ""
    have = f"there are {size(room.memory)} of memory{less} and {size(room.disk)} of disk"
    fits = f"{', '.join(names)} would fit" if names else "a3b chat nano, the demonstration model, fits"
    return f"{have}; {fits}"


def _presets_that_fit(config: ModelConfig, found: dict[str, Sizes], context: int, room: Room) -> str:
    names = [name for name, one in found.items() if not lacking(config, one, context, room)]
    return f"; {names[-1]} fits" if names else ""


@dataclass(frozen=True)
class PackingWork:
    """What is to be done: bytes to fetch, of which some are here, and weights to pack."""

    title: str
    source: str  # a repository or a path
    fetched_bytes: int  # 0 if the source is on this disk
    arrived_bytes: int
    place: str  # where the result lies
    threads: int


def promise(
    task: PackingWork, choice: PresetChoice, config: ModelConfig, room: Room, speed: MachineSpeed | None
) -> list[str]:
    """The three lines: what was chosen, what it takes, how fast it will be."""
    kind = choice.preset or "the types of its files"
    why = f"; {choice.why}" if choice.why else ""
    first = (
        f"{task.title}, {kind}: {size(choice.found.stored_bytes)}, and {size(room.memory)} of memory have room for "
        f"{choice.context:,} tokens beside it{why}"
    )
    if task.fetched_bytes:
        here = f", {size(task.arrived_bytes)} of it here" if task.arrived_bytes else ""
        second = f"downloads {size(task.fetched_bytes)} from {task.source}{here}, packing meanwhile, into {task.place}"
    else:
        second = f"packs {task.source}, which is only read, into {task.place}"
    second += f" ({size(room.disk)} free): {_takes(task, choice, config)}"
    return [first, second, _speed(choice, config, speed)]


def _takes(task: PackingWork, choice: PresetChoice, config: ModelConfig) -> str:
    """How long it takes: the slower of fetching and packing."""
    packing = choice.found.stored_bytes / COPIED_BYTES_PER_S
    if choice.preset:
        packing = count_parameters(config).total / (PACKED_WEIGHTS_PER_S * task.threads)
    fetching = max(task.fetched_bytes - task.arrived_bytes, 0) / LINE_BYTES_PER_S
    if fetching > packing:
        return f"about {span(fetching)} on a line of 100 Mbit/s"
    return f"about {span(packing)}"


def _speed(choice: PresetChoice, config: ModelConfig, speed: MachineSpeed | None) -> str:
    if speed is None:
        return "then as fast as this machine allows, which could not be measured"
    line = f"then about {_rate(1 / decode_seconds(config, choice.found, 0, speed))} tokens/s here"
    if speed.int8_operations:
        client = CLIENTS["claude"]
        first = min(client.tokens, config.max_context)
        seconds = first / CHUNK * prefill_seconds(config, choice.found, CHUNK, speed)
        line += f"; {client.title}'s first prompt of {first:,} tokens is read in about {span(seconds)}, once"
    return line


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:,.0f}"
