"""What reading tokens ahead takes of the memory, beside weights, states, and keys and values: bytes at most.

Each term says where the arrays are. Enter at `draft_sizes`."""

from __future__ import annotations

from dataclasses import dataclass

from a3b.engine.draft_sources import BYTES_PER_TOKEN, MAX_DRAFTS
from a3b.engine.mtp_guesses import MAX_IDS
from a3b.formats.tiles import MOVED_ROWS
from a3b.model.config import ATTENTION, ModelConfig
from a3b.model.draft_vocabulary import frequent_ids
from a3b.model.trail import ROOM

ID_BYTES = 8  # of a token, where arrays have one for each row


@dataclass(frozen=True)
class DraftSizes:
    """The first four are of each answer, the next two of the model, the last of each token of the context.

    MTP modules alone need the trail, and those that guess a part of the vocabulary the rows of lm_head."""

    fed: int  # what the delta layers were fed for drafts: model/state.py
    logits: int  # of drafts in a step, or of an answer that waits for its grammar: engine/drafts.py
    trail: int  # model/trail.py
    rare: int  # rows of the context's rare tokens, and of which tokens there are logits: engine/mtp_guesses.py
    frequent: int  # rows of the frequent tokens, their ids, and which they are: model/mtp.py
    moved: int  # rows on their way into one of these: formats/tiles.py
    token: int  # what was read, so that repetitions are found: engine/draft_sources.py

    @property
    def answer(self) -> int:
        return self.fed + self.logits + self.trail + self.rare

    def of(self, answers: int) -> int:
        """All that does not grow with the context."""
        return answers * self.answer + self.frequent + self.moved


def draft_sizes(config: ModelConfig, head_row_bytes: int) -> DraftSizes:
    """head_row_bytes: of a row of lm_head, as it is packed. mtp_layers of the config: 1 where the module is loaded."""
    a, num_delta = config.axes, config.num_layers - config.layer_types.count(ATTENTION)
    fed, logits = 4 * num_delta * MAX_DRAFTS * (a.C + 2 * a.Hv), 4 * (1 + MAX_DRAFTS) * a.V
    if config.mtp_layers != 1:
        return DraftSizes(fed, logits, 0, 0, 0, 0, BYTES_PER_TOKEN)
    trail = 4 * (ROOM + 1) * a.D + ID_BYTES * ROOM
    frequent = frequent_ids(a.V)
    if frequent is None:
        return DraftSizes(fed, logits, trail, 0, 0, 0, BYTES_PER_TOKEN)
    num = len(frequent)
    # a head that is joined to the frequent one has the ids of both, and their order
    rare, common = MAX_IDS * head_row_bytes + 2 * ID_BYTES * (MAX_IDS + num), num * (head_row_bytes + ID_BYTES) + a.V
    return DraftSizes(fed, logits, trail, rare, common, 2 * MOVED_ROWS * head_row_bytes, BYTES_PER_TOKEN)
