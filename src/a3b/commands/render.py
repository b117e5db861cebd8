"""`a3b render`: the exact prompt that a list of messages becomes, as text or token ids."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from a3b.engine.engine import resolve
from a3b.errors import ConversationError, TemplateError
from a3b.printable import fit_for, report, say
from a3b.prompt.chat_template import ChatTemplate, check_messages, check_template_kwargs, prompt_text
from a3b.prompt.message_faults import check_tools, message_fault, missing_fault
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.tokenizer import Tokenizer


def run(args: Namespace) -> None:
    path = resolve(args.model)
    messages = args.messages
    if args.fit:
        messages, notes = normalise_messages(messages)
        for note in notes:
            say(f"fit: {note}")
    elif fault := missing_fault(check_messages(messages)):
        raise ConversationError(f"{fault} (or let --fit repair it)")
    check_template_kwargs(args.kwargs)
    check_tools(args.tools, "--tools")
    try:
        prompt = ChatTemplate.read(path).render(
            messages, tools=args.tools, add_generation_prompt=not args.no_generation_prompt, **args.kwargs
        )
    except TemplateError as error:
        if fault := message_fault(messages):  # the template may blame something else
            raise ConversationError(f"{fault} (--fit repairs many); {error}") from None
        raise
    if args.ids:
        report(json.dumps(Tokenizer.read(path).encode(prompt)))
    else:
        sys.stdout.write(fit_for(sys.stdout, prompt_text(prompt)))
