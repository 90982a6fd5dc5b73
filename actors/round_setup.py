"""What an engine's rounds are played with. `engine` makes one; `round` and `arm_choice` read it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from paceline.actors.causal_model import CausalModel
from paceline.actors.draft_length import DraftLength
from paceline.actors.engine_counts import EngineCounts
from paceline.actors.learned_length import LearnedLength
from paceline.actors.pace import Pace
from paceline.actors.ports import DrafterPool, WeightsBoard


@dataclass(frozen=True, slots=True)
class Setup:
    """What an engine's rounds are played with. `lengths` None drafts as long as `max_draft` allows; `learned` is for
    sequences whose lengths the selector sets.

    `report_tokens` tells the selector also which tokens were committed, for its explanations.
    """

    model: CausalModel
    pool: DrafterPool
    board: WeightsBoard
    lengths: DraftLength | None
    learned: LearnedLength
    max_draft: int
    max_prefill: int
    chance: Random
    pace: Pace
    counts: EngineCounts
    report_tokens: bool = False
