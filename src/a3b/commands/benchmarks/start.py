"""`a3b bench start`: loads a model, reads a short prompt and prints the first token; the parent process takes the
time."""

from __future__ import annotations

from argparse import Namespace

import numpy as np

from a3b.engine.engine import resolve
from a3b.errors import TemplateError, TokenizerError
from a3b.formats.checkpoint import Checkpoint
from a3b.kernels import open_kernels
from a3b.machine import Machine
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.printable import report, say
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer

PROMPT = 16  # tokens


def run(args: Namespace) -> None:
    runtime, directory = args.runtime, resolve(args.directory)
    kernels = open_kernels(runtime.isa, args.threads or runtime.threads or Machine.read().num_threads)
    # part of a start; random models may lack either
    for read in (Tokenizer.read, ChatTemplate.read):
        try:
            read(directory)
        except (TokenizerError, TemplateError) as error:
            say(f"{error}: not counted in the start")
    config = read_config(directory)
    model = Model(config, load_weights(Checkpoint.open(directory), config), kernels, runtime.kv)
    report(int(model.forward(np.arange(PROMPT) * 4001 % config.vocab_size, model.new_state()).argmax()))
