"""`a3b list`: the models in A3B_HOME, what else lies there, and, if asked, the names that can be had and what other
programs keep on this disk."""

from __future__ import annotations

import json
import shutil
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from a3b.commands.cache import ago
from a3b.commands.cache_directories import root as sessions_root
from a3b.commands.info import size
from a3b.commands.model_home import ModelHome, StoredModel, tree_bytes
from a3b.commands.sizes import sizes
from a3b.engine.engine import nano_directory
from a3b.hub.on_disk import FoundModel, found_models
from a3b.model.known_models import KNOWN_MODELS, KnownModel
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS
from a3b.printable import printable, report
from a3b.settings import model_places

OWN = ("models", "sessions", "chats", "clients", "agent", "evals")
MOST_OTHERS = 20


def run(args: Namespace) -> None:
    home = ModelHome(args.runtime.home)
    if args.available:
        facts: dict[str, Any] = {"available": [available(model) for model in KNOWN_MODELS]}
        text = available_lines(facts["available"])
    elif args.found:
        found = list(found_models(model_places(), Path.cwd()))
        facts = {"found": [{**asdict(model), "path": str(model.path)} for model in found]}
        text = found_lines(found)
    else:
        facts = describe(home, args.runtime.home)
        text = lines(home, facts)
    report(json.dumps(facts, indent=2) if args.json else "\n".join(text))


def describe(home: ModelHome, place: str) -> dict[str, Any]:
    """What is kept, as plain JSON values."""
    free = next((shutil.disk_usage(path).free for path in (home.models, *home.models.parents) if path.is_dir()), 0)
    return {
        "home": str(home.home),
        "models": [model_facts(model) for model in home.stored()],
        "sessions_bytes": tree_bytes(sessions_root(place)),
        "chats_bytes": tree_bytes(home.home / "chats"),
        **{f"{kind}_bytes": tree_bytes(home.home / kind) for kind in OWN[3:]},
        "others": {path.name: tree_bytes(path) for path in others(home.home)},
        "free_bytes": free,
    }


def others(home: Path) -> list[Path]:
    """Directories of the home that have no line of their own, such as the random weights of `a3b bench`."""
    try:
        found = sorted(path for path in home.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    return [path for path in found if path.name not in OWN][:MOST_OTHERS]


def model_facts(model: StoredModel) -> dict[str, Any]:
    record = model.record
    state = "complete" if model.complete else "being removed" if model.leaving else "stopped"
    return {
        "name": record.name,
        "state": state,
        "preset": record.preset or None,
        "source": record.source,
        "num_bytes": model.num_bytes,
        "used": int(model.used),
        "path": str(model.folder),
        "next": {
            "stopped": f"a3b up {record.name}" if record.source else f"a3b rm {record.name}",
            "being removed": f"a3b rm {record.name}",
        }.get(state),
    }


def lines(home: ModelHome, facts: dict[str, Any]) -> list[str]:
    models, now = facts["models"], time.time()
    out = []
    if models:
        width = max(len("NAME"), *(len(printable(model["name"])) for model in models))
        out.append(f"{'NAME':<{width}}  {'PRESET':<9}  {'SIZE':>9}  {'USED':>8}  STATE")
        for model in models:
            step = (
                f"; {model['next']} {'continues' if model['next'].startswith('a3b up') else 'removes it'}"
                if model["next"]
                else ""
            )
            out.append(
                f"{printable(model['name']):<{width}}  {printable(model['preset'] or 'own'):<9}  "
                f"{size(model['num_bytes']):>9}  {ago(max(int(now - model['used']), 0)):>8}  "
                f"{model['state']}{printable(step)}"
            )
    else:
        out.append("no models yet; 'a3b up' gets the one for this machine, 'a3b list --available' shows all names")
    out.append("")
    out.append(f"models    {printable(home.models)}, {size(facts['free_bytes'])} free on that disk")
    for kind in OWN[1:]:
        if facts[f"{kind}_bytes"]:
            out.append(f"{kind:<9} {size(facts[f'{kind}_bytes'])} in {printable(home.home / kind)}")
    for name, num_bytes in facts["others"].items():
        out.append(f"others    {size(num_bytes)} in {printable(home.home / name)}")
    out.append(f"nano      {size(tree_bytes(nano_directory()))} inside the package: the demonstration model")
    return out


def available(model: KnownModel) -> dict[str, Any]:
    config = shape(model.shape)
    return {
        "name": model.name,
        "title": model.title,
        "other_names": list(model.other_names),
        "repository": model.weights,
        "download_gb": model.weights_gb,
        "gguf": model.gguf,
        "tags": list(model.tags),
        "packed_bytes": {preset: sizes(config, kinds).stored_bytes for preset, kinds in PRESETS.items()},
        "tried": model.tried,
        "unsure": model.unsure or None,
    }


def available_lines(models: list[dict[str, Any]]) -> list[str]:
    out = []
    for model in models:
        packed = ", ".join(f":{preset} {num / 1e9:.0f} GB" for preset, num in model["packed_bytes"].items())
        out += [
            f"{model['name']:<14} {'; also '.join(filter(None, (model['title'], ', '.join(model['other_names']))))}",
            f"               {packed}, packed from {model['download_gb']} GB of {model['repository']}",
            f"               :{', :'.join(model['tags'])} of {model['gguf']}",
            f"               tried: {model['tried']}",
        ]
        if model["unsure"]:
            out.append(f"               unsure: {model['unsure']}")
    return [
        *out,
        "",
        "a3b up NAME or NAME:TAG gets one. It also takes a repository of the hub (OWNER/NAME, OWNER/NAME:TAG), a file",
        "in one (OWNER/NAME/FILE.gguf), and what is on this disk: a .gguf file, a directory.",
    ]


def found_lines(found: list[FoundModel]) -> list[str]:
    if not found:
        return ["no models of other programs were found (hub cache, llama.cpp, LM Studio, Ollama, a3b pull)"]
    width = max(len(printable(model.name)) for model in found)
    return [
        f"{model.program:<9}  {printable(model.name):<{width}}  {size(model.num_bytes):>9}  {printable(model.path)}"
        for model in found
    ] + ["", "a3b up PATH packs one of them without a download; they are only read"]
