"""`paceline train`, stage by stage, on a tiny target: what each stage writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_head import make_tiny_head
from tiny_models import make_tiny_llama

from paceline.actors.causal_model import Step
from paceline.actors.errors import ConfigError
from paceline.actors.llama import Llama
from paceline.actors.model_loader import load_model
from paceline.cluster.training.answer_store import Answer
from paceline.cluster.training.data_stages import feature_stage, useful
from paceline.cluster.training.feature_store import SHARD_ANSWERS, Passage, read_shards, write_shard
from paceline.cluster.training.generate_stage import Question, generate, loop_start
from paceline.cluster.training.head_evaluation import calibration, evaluate_head
from paceline.cluster.training.head_export import check_output
from paceline.cluster.training.head_start import draft_ids, new_head
from paceline.cluster.training.head_training import Progress, TrainingPlan, train_head

VOCAB, END = 97, 96
LAYERS = (1, 2, 3)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("target"), layers=3, seed=4)


@pytest.fixture(scope="module")
def model(target: Path) -> Llama:
    model = load_model(target, dtype="float32", feature_layers=LAYERS)
    assert isinstance(model, Llama)
    return model


def ask(model: Llama, questions: list[Question], batch: int, seed: int = 0) -> dict[int, Answer]:
    answers: list[Answer] = []
    generate(
        model,
        questions,
        end_ids=frozenset({END}),
        max_tokens=40,
        batch=batch,
        seed=seed,
        done=answers.extend,
        prefill_tokens=12,
    )
    assert len(answers) == len(questions)
    return {answer.index: answer for answer in answers}


def question(index: int, temperature: float = 0.0) -> Question:
    return Question(index, "math", [(7 * index + i) % 90 for i in range(3 + index % 5)], temperature)


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ([1, 2, 3, 4, 5], None),
        ([1, 2, 3, 4, 4], None),
        ([1, 2, 3, 4, 4, 4], 4),
        ([9, 1, 2, 1, 2, 1, 2], 3),
        ([9, 2, 1, 2, 1, 2, 1, 2], 3),
        ([1, 2, 1, 2, 1, 2, 3], None),
    ],
)
def test_a_loop_is_cut_after_its_first_turn(tokens: list[int], start: int | None) -> None:
    assert loop_start(tokens) == start


def test_greedy_answers_are_plain_decoding_however_many_share_a_forward(model: Llama) -> None:
    questions = [question(index) for index in range(7)]
    together = ask(model, questions, batch=4)
    for item in questions:
        cache, tokens = model.new_cache(), list(item.prompt_ids)
        plain: list[int] = []
        while len(plain) < 40 and END not in plain:
            logits = model.forward([Step(cache, tokens, -1)])
            tokens = [int(logits[0].argmax())]
            plain += tokens
            if len(plain) % 8 == 0 and (cut := loop_start(plain)) is not None:
                plain = plain[:cut]
                assert together[item.index].looped
                break
        assert together[item.index].answer_ids == plain
        assert together[item.index].prompt_ids == item.prompt_ids


def test_a_seed_fixes_sampled_answers_and_another_changes_them(model: Llama) -> None:
    questions = [question(index, temperature=1.0) for index in range(5)]
    assert ask(model, questions, batch=3) == ask(model, questions, batch=3)
    assert ask(model, questions, batch=3) != ask(model, questions, batch=3, seed=1)


def test_a_sampled_token_follows_the_targets_law(model: Llama) -> None:
    """3,000 first tokens; each id's share within 5 standard errors: wrong in under 1 of 10,000 seeds."""
    answers: list[Answer] = []
    count = 3000
    questions = [Question(index, "math", [5, 6, 7], 0.8) for index in range(count)]
    generate(
        model, questions, end_ids=frozenset(), max_tokens=1, batch=100, seed=3, done=answers.extend, prefill_tokens=300
    )
    logits = model.forward([Step(model.new_cache(), [5, 6, 7], -1)])[0]
    law = (logits.double() / 0.8).softmax(dim=-1)
    shares = torch.bincount(torch.tensor([answer.answer_ids[0] for answer in answers]), minlength=VOCAB) / count
    assert ((shares - law).abs() <= 5 * (law * (1 - law) / count).sqrt() + 1e-9).all()


def some_answers(count: int, length: int = 12) -> list[Answer]:
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (count, length + 9), generator=chance).tolist()
    return [Answer(i, "ab"[i % 2], 0.0, row[:9], row[9:], False) for i, row in enumerate(ids)]


def test_features_are_the_targets_own_from_the_prompts_end_on(tmp_path: Path, model: Llama) -> None:
    answers = some_answers(5)
    write_shard(tmp_path / "00000.safetensors", model, answers, prompt_tail=4)
    passages = read_shards(tmp_path)
    assert [passage.domain for passage in passages] == ["a", "b", "a", "b", "a"]
    for answer, passage in zip(answers, passages, strict=True):
        ids = answer.prompt_ids + answer.answer_ids
        cache = model.new_cache()
        model.forward([Step(cache, ids, len(ids))])
        assert passage.tokens.tolist() == ids[5:]
        assert passage.prompt_tokens == 4
        torch.testing.assert_close(passage.features.float(), cache.features(5, len(ids)), atol=0.05, rtol=0.01)


def test_feature_shards_that_are_there_are_not_made_again(tmp_path: Path, model: Llama) -> None:
    answers = some_answers(SHARD_ANSWERS + 3)
    done: list[tuple[int, int]] = []

    def advance(count: int, tokens: int) -> None:
        done.append((count, tokens))

    feature_stage(model, answers[:-1], tmp_path, 4, 48, advance)
    assert done == [(0, 0), (SHARD_ANSWERS, 21 * SHARD_ANSWERS), (2, 42)]
    first = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    feature_stage(model, answers, tmp_path, 4, 48, advance)  # one more has come
    assert done[3:] == [(SHARD_ANSWERS, 0), (3, 63)]
    (tmp_path / "00001.safetensors").rename(tmp_path / "00001.part")
    (tmp_path / "00007.safetensors").write_bytes(b"of more answers than there are now")
    feature_stage(model, answers, tmp_path, 4, 48, advance)
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.safetensors", "00001.safetensors"]
    assert len(read_shards(tmp_path)) == len(answers)
    (tmp_path / "00001.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(ConfigError, match="00001"):
        read_shards(tmp_path)
    changed = [*answers[:-1], replace(answers[-1], answer_ids=answers[-1].answer_ids[::-1])]
    for some in (answers, changed):
        feature_stage(model, some, tmp_path, 4, 48, advance)
        assert read_shards(tmp_path)[-1].tokens.tolist() == some[-1].prompt_ids[-4:] + some[-1].answer_ids


def test_short_answers_teach_nothing(model: Llama) -> None:
    answers = [*some_answers(3), Answer(3, "a", 0.0, [1], [2], False)]
    assert [answer.index for answer in useful(answers[::-1])] == [0, 1, 2]


def passages_of(model: Llama, folder: Path, count: int) -> list[Passage]:
    """The target's greedy answers, which a head can learn."""
    answers = list(ask(model, [question(index) for index in range(count)], batch=16).values())
    write_shard(folder / "00000.safetensors", model, answers, prompt_tail=8)
    return read_shards(folder)


def test_training_teaches_and_goes_on_where_it_stopped(tmp_path: Path, target: Path, model: Llama) -> None:
    passages = passages_of(model, tmp_path, 24)
    ids = draft_ids((passage.tokens.tolist() for passage in passages), 60, VOCAB)
    plan = TrainingPlan(steps=30, batch_tokens=256, levels=3, warmup_steps=5)
    losses: dict[str, list[float]] = {}
    heads = {}
    for name, stops in (("whole", [30]), ("broken", [12, 30])):
        for stop in stops:
            head = heads[name] = new_head(target, ids, LAYERS, 64, None, seed=0)
            log = losses.setdefault(name, [])

            written = tmp_path / name / "loss.jsonl"

            def report(progress: Progress, log: list[float] = log, stop: int = stop, written: Path = written) -> None:
                log.append(progress.loss)
                assert len(written.read_text().splitlines()) == progress.step - 1, "it can be watched"
                if progress.step == stop and stop < 30:
                    raise KeyboardInterrupt

            try:
                train_head(head, passages, plan, tmp_path / name, report, save_every=10)
            except KeyboardInterrupt:
                assert stop == 12
    # A random target is nearly undecided: most of the loss is the entropy of its own law.
    assert sum(losses["whole"][-5:]) < 0.96 * sum(losses["whole"][:5])
    assert losses["broken"][:12] == losses["whole"][:12]
    assert losses["broken"][12:] == losses["whole"][10:]  # saved after 10 steps
    for one, other in zip(heads["whole"].parameters(), heads["broken"].parameters(), strict=True):
        assert torch.equal(one, other)
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "loss.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 31))


def test_a_state_is_not_gone_on_with_from_anything_else(tmp_path: Path, target: Path, model: Llama) -> None:
    passages = passages_of(model, tmp_path, 6)
    plan = TrainingPlan(steps=2, batch_tokens=256, levels=2)

    def run(
        plan: TrainingPlan = plan, passages: list[Passage] = passages, shift: int = 0, window: int = 64, seed: int = 0
    ) -> Progress:
        head = new_head(target, torch.arange(shift, 50 + shift), LAYERS, window, None, seed)
        return train_head(head, passages, plan, tmp_path / "t", lambda news: None)

    first = run()
    assert first.step == 2
    assert run() == first, "a finished training tells the same again"
    other = [replace(passage, domain="chess") for passage in passages]
    for name, start in (
        ("levels=2", lambda: run(plan=replace(plan, levels=3))),
        ("window=64", lambda: run(window=32)),
        ("draft_ids", lambda: run(shift=1)),
        ("starting_weights", lambda: run(seed=1)),
        (r"domains=\['math'\]", lambda: run(passages=other)),
        ("passages=6", lambda: run(passages=passages[1:])),
        ("passage_tokens", lambda: run(passages=[*passages[1:], passages[1]])),
    ):
        with pytest.raises(ConfigError, match=name + ".*delete the folder"):
            start()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_by_the_file(tmp_path: Path, target: Path, model: Llama) -> None:
    passages = passages_of(model, tmp_path, 3)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "state.part").symlink_to("/dev/full")
    head = new_head(target, torch.arange(50), LAYERS, 64, None, seed=0)
    with pytest.raises(OSError, match="cannot be written") as raised:
        train_head(head, passages, TrainingPlan(steps=1, levels=2), tmp_path / "t", lambda news: None)
    assert raised.value.filename == str(tmp_path / "t" / "state.part")


def test_evaluation_counts_rounds_as_decoding_would(tmp_path: Path, target: Path, model: Llama) -> None:
    """The walk of every answer, by a plain loop over single chains."""
    passages = passages_of(model, tmp_path, 5)
    head = new_head(target, torch.arange(VOCAB), LAYERS, 64, None, seed=0)
    train_head(head, passages, TrainingPlan(steps=40, batch_tokens=256, levels=2), tmp_path / "t", lambda news: None)
    results = evaluate_head(head, [*passages, replace(passages[0], domain="chat", temperature=0.7)], 5)
    rounds = tokens = 0
    for passage in passages:
        text, at = passage.tokens.tolist(), passage.prompt_tokens
        while at < len(text) - 1:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                chain = head.chain(passage.tokens[None, 1 : at + 1].long(), passage.features[None, :at], 5)[
                    0, -1
                ].tolist()
            gained = 1
            for guess, token in zip(chain, text[at + 1 : -1], strict=False):
                if guess != token:
                    break
                gained += 1
            at += gained
            rounds += 1
            tokens += gained
    assert list(results) == ["math"], "what was not answered greedily says nothing of greedy rounds"
    result = results["math"]
    assert (result.rounds, result.tokens) == (rounds, tokens)
    assert tokens > rounds, "the head must be right now and then, or nothing was tested"


def test_calibration_makes_first_levels_tell_the_chains_length() -> None:
    from paceline.cluster.training.head_evaluation import DomainResult

    # Two starts: first levels right 3 times in a row and never; chains got 2 tokens: c + c^2 + c^3 = 2.
    result = DomainResult(starts=2, chained=2, runs=[1, 0, 0, 1])
    factor = calibration([result])
    assert factor + factor**2 + factor**3 == pytest.approx(2.0, abs=1e-3)
    assert calibration([DomainResult(starts=2, chained=9, runs=[0, 0, 0, 2])]) == 1.0
    assert calibration([DomainResult(starts=2, chained=0, runs=[1, 0, 0, 1])]) == 0.01, "a head.json refuses 0"
    assert calibration([]) == 1.0


def test_a_draft_vocabulary_is_what_answers_use_most() -> None:
    assert draft_ids([[5, 5, 5, 9, 9, 2]], 2, 12).tolist() == [5, 9]
    assert draft_ids([[5, 9]], 4, 12).tolist() == [0, 1, 5, 9]


def test_only_a_heads_folder_is_written_over(tmp_path: Path, target: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "head"
    check_output(output, data)
    output.mkdir()
    check_output(output, data)
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"output: .*head is there, and no draft head"):
        check_output(output, data)
    (output / "head.json").write_text('{"format": "another"}')
    with pytest.raises(ConfigError, match="no draft head"):
        check_output(output, data)
    make_tiny_head(output, target, LAYERS, range(40))
    check_output(output, data)
    for inside in (output, output / "data", tmp_path / "x" / ".." / "head" / "data"):
        with pytest.raises(ConfigError, match=r"data: .* is in the output folder"):
            check_output(output, inside)
    with pytest.raises(ConfigError, match="no draft head"):
        check_output(target / "config.json", data)


def test_the_head_before_outlives_a_move_that_fails(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paceline.cluster.training import head_export

    old, part = tmp_path / "head", tmp_path / "head.part"
    for folder in (old, part):
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    move = os.replace

    def fail(source: Path, target: Path) -> None:
        if source == part:
            raise OSError("no")
        move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            head_export._put(part, old)
    assert (old / "which").read_text() == "head"
    head_export._put(part, old)
    assert (old / "which").read_text() == "head.part"
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_a_tiny_head_survives_its_folder(tmp_path: Path, target: Path) -> None:
    """Weights come back within 8 bits: at most half a step of each row's grid."""
    from safetensors.torch import load_file

    from paceline.cluster.training.head_export import load_module

    head = make_tiny_head(tmp_path, target, LAYERS, range(40), seed=2)
    tensors = load_file(target / "model.safetensors")
    again = load_module(tmp_path, tensors["model.embed_tokens.weight"], tensors["lm_head.weight"])
    for name in ("fuse", "enter", "qkv", "output", "gate_up", "down"):
        one, other = getattr(head, name).weight, getattr(again, name).weight
        step = one.abs().amax(dim=1, keepdim=True) / 127
        assert ((one - other).abs() <= 0.51 * step + 0.01 * one.abs()).all()
    assert torch.equal(again.ids, head.ids)
