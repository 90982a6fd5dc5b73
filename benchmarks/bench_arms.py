"""The joint learner of drafter, draft length and off, under load: against fixed lengths, the measured rule, and plain.

Simulated (`arm_sim` states texts and times): tokens a second for c = 1 to 32 sequences at a time, all settings over the
same texts. Prints a table and ends with a JSON line. Figures are counted time, so the machine does not matter.

    python benchmarks/bench_arms.py [--requests N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import arm_sim
import provenance
from rich.console import Console
from rich.table import Table

LOADS = (1, 2, 4, 8, 16, 32)
FIXED = (1, 2, 3, 4, 6, 8, arm_sim.MOST)


def main() -> int:
    """Run, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40, help="beside six for each sequence at a time; default: 40")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    console, rows = Console(width=160), []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("forward", "c", "plain", "longest", "best fixed", "measured", "learned", "of measured", "of best"):
        table.add_column(column, justify="right")
    for kind in arm_sim.FORWARDS:
        for load in LOADS:
            row = measure(kind, load, options.requests, options.seed)
            rows.append(row)
            others = max(row["plain"], row["measured"], *row["fixed"].values())
            best = max(row["fixed"], key=row["fixed"].__getitem__)
            table.add_row(
                kind,
                str(load),
                *(f"{row[name]:.1f}" for name in ("plain",)),
                f"{row['fixed'][arm_sim.MOST]:.1f}",
                f"{row['fixed'][best]:.1f} (k={best})",
                f"{row['measured']:.1f}",
                f"{row['learned']:.1f}",
                f"{row['learned'] / row['measured']:.3f}",
                f"{row['learned'] / others:.3f}",
            )
            console.print(f"{kind} c={load}: learned {row['learned'] / others:.3f} of the best", highlight=False)
    console.print(table)
    print(json.dumps({"benchmark": "arms", "rows": rows, **provenance.provenance()}))
    return 0


def measure(kind: str, load: int, requests: int, seed: int, fixed: tuple[int, ...] = FIXED) -> dict:
    """Tokens a second of every setting at one load."""
    texts = arm_sim.draw_texts(requests + 6 * load, seed + load)
    row = {name: arm_sim.run(texts, load, kind, name, seed=seed).per_s for name in ("plain", "measured", "learned")}
    lengths = {k: arm_sim.run(texts, load, kind, "longest", fixed=k, seed=seed).per_s for k in fixed}
    return {"forward": kind, "c": load, **row, "fixed": lengths}


if __name__ == "__main__":
    raise SystemExit(main())
