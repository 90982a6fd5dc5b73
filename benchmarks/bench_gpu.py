"""What does a GPU make of it? Kernels, an 8B-shaped target's forwards and rounds, and SmolLM2 beside transformers.

One command; no Ray and no installation: torch, triton, transformers, grpcio and protobuf are enough, and paceline is
taken from the folders beside this one.

    python benchmarks/bench_gpu.py --model SMOLLM2_FOLDER --head zoo/generalist --out gpu.json
    python benchmarks/bench_gpu.py --dry-run        # everything at toy size on a CPU, Triton interpreted: no figures

Every section is printed when it is done, and kept in --out at once. Floors are bytes over the better of two bandwidths
(reading, copying) that are measured in the same run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECTIONS = ("kernels", "steps", "rounds", "texts")


def make_importable(links: Path) -> None:
    """Let `import paceline` find the folders beside this one, also where another version is installed.

    Raises:
        SystemExit: a package that the engine needs is missing.
    """
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    missing = [name for name in ("torch", "triton", "transformers", "grpc", "google.protobuf") if not _present(name)]
    if missing:
        needed = "pip install torch triton transformers grpcio protobuf"
        sys.exit(f"bench_gpu: {', '.join(missing)}: not installed; run `{needed}`")
    package = links / "paceline"
    package.mkdir()
    for folder in ("actors", "kernels", "protos"):
        (package / folder).symlink_to(ROOT / folder, target_is_directory=True)
    sys.path.insert(0, str(links))


def _present(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections; default: all")
    parser.add_argument(
        "--model", type=Path, default=None, help="folder of SmolLM2, or another ChatML target of the Llama family"
    )
    parser.add_argument("--head", type=Path, default=None, help="folder of a draft head for it, as in zoo/")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--limit", type=int, default=12, help="prompts taken")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument(
        "--context", type=int, default=512, help="positions behind which the 8B target's forwards are timed"
    )
    parser.add_argument("--repeats", type=int, default=9, help="times that each piece of work is timed")
    parser.add_argument(
        "--out", type=Path, default=None, help="file that keeps the results, also those of an interrupted run"
    )
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on the CPU, Triton interpreted")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    with tempfile.TemporaryDirectory() as folder:
        make_importable(Path(folder))
        import torch

        if not options.dry_run and not torch.cuda.is_available():
            parser.error("no CUDA device is present (torch.cuda.is_available() is False); --dry-run needs none")
        if "texts" in options.only and not options.dry_run and options.model is None:
            parser.error("--model: none given; expected SmolLM2's folder, or --only without texts")
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """All sections, in the order of how little they need."""
    import torch
    from gpu_kernels import TOY as TOY_KERNELS
    from gpu_kernels import Sizes, kernel_rows
    from gpu_steps import LLAMA_8B, TOY, overhead_row, random_target, step_rows
    from gpu_texts import read_prompts, text_rows, toy_texts
    from gpu_timing import Clock, Report, measured_bandwidth
    from provenance import provenance

    from paceline.actors.drafter_registry import DrafterContext, build_drafter

    dry = options.dry_run
    device = torch.device("cpu" if dry else "cuda")
    clock = Clock(device, 1 if dry else options.repeats)
    name = "cpu, dry run: no figures" if dry else torch.cuda.get_device_name()
    report = Report(options.out, {"benchmark": "gpu", "device": name, "dry_run": dry, **provenance()})
    bandwidth = measured_bandwidth(clock)
    best = bandwidth["best_gb_s"]
    report.section("bandwidth", [bandwidth])

    if "kernels" in options.only:
        report.section("kernels", list(kernel_rows(TOY_KERNELS if dry else Sizes(), clock, best)))
    if "steps" in options.only or "rounds" in options.only:
        document, dtype = (TOY, torch.float32) if dry else (LLAMA_8B, torch.bfloat16)
        context, longest = (5, 3) if dry else (options.context, 64)
        batches = (1, 2) if dry else (1, 32)
        room = batches[-1] * (context + max(longest, 0 if dry else options.tokens) + 64)
        model = random_target(document, dtype, device, room)
        if "steps" in options.only:
            positions = (1, longest) if dry else (1, 8, 16, longest)
            report.section("steps", list(step_rows(model, clock, best, batches, positions, context)))
        if "rounds" in options.only:
            drafters = DrafterContext(folder, model.vocab_size)
            rows = []
            for batch in batches:
                for kind in ("plain", "ngram"):
                    drafter = None if kind == "plain" else build_drafter(kind, {}, drafters)
                    prompt, tokens = (9, 4) if dry else (context, options.tokens)
                    rows.append(overhead_row(model, clock, drafter, kind, batch, prompt, tokens))
            report.section("rounds", rows)
        del model
    if "texts" in options.only:
        if dry:
            target, head, prompts = toy_texts(folder)
            tokens, dtype_name = 8, "float32"
        else:
            target, head = options.model, options.head
            prompts = read_prompts(target, options.prompts, options.limit)
            tokens, dtype_name = options.tokens, "bfloat16"
        report.section("texts", list(text_rows(target, head, prompts, tokens, dtype_name, clock)))
    print(json.dumps(report.results))


if __name__ == "__main__":
    main()
