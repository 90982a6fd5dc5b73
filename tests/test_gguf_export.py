"""The exported folder says what the GGUF file says: against a tiny file whose weights are known, and, for the embedded
model, against transformers' own GGUF reader.

Rounding weights to bfloat16 (relative error up to 2^-9) is the one difference to a float32 reader. On the text below it
moves perplexity by 0.02 % (33.811 to 33.818 over 308 tokens); the bound is 0.3 %. Given the same rounding, weights are
equal bit for bit, perplexity to 1e-5, and greedy answers token for token.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_gguf import SPECIAL, write_tiny_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.errors import ModelSourceError
from paceline.actors.gguf_export import export
from paceline.actors.model_facts import Quantization, eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import embedded_gguf, resolve

TEXT = """The harbour wakes before the town does. At five the first boats come in past the lighthouse, low in the water,
and the gulls come with them. Nobody speaks much. Crates go from hand to hand, ice is shovelled over the catch, and by
the time the bakery opens its shutters the quay has been washed down and smells of salt and diesel.

def mean(values):
    \"\"\"The arithmetic mean; an empty list has none.\"\"\"
    if not values:
        raise ValueError("mean of an empty list")
    return sum(values) / len(values)

In 1969 the crossing took 47 minutes and cost 3 shillings; in 2024 it takes 25 minutes and costs 8.50. The ferry
itself has changed less than its price. It still carries bicycles, letters, and the occasional piano. Water boils at 100
degrees Celsius at sea level, because its vapour pressure there equals the pressure of the air; on a mountain sooner,
which is why tea made on a summit is always a disappointment. Light needs about eight minutes to come from the sun.
Far out, a buoy rings with every swell, and on still nights the sound carries as far as the church.

SELECT name, COUNT(*) AS trips FROM crossings WHERE year >= 2020 GROUP BY name ORDER BY trips DESC LIMIT 10;
"""
PROMPTS = ["What is the capital of France?", "Write a haiku about the sea.", "What is 12 times 7?"]
ANSWER_TOKENS = 24
TEXTS = {
    "prose": TEXT,
    "unicode": "naïve café, Übergröße, 漢字かな, Здравствуй, עברית, 👩‍🚀🎉, e\u0301, \u00a0, \u2028",
    "code": "for (int i = 0; i < n; ++i) {\n\tx[i] *= 0.5f; // half\r\n}\n\n\n    return x;",
    "numbers": "1 22 333 4,444.55 0x1F 2024-11-21 v1.2.3",
    "contractions": "I'm, you're, we've, it's, can't, he'd; I'M YOU'RE",
    "special": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|endoftext|><repo_name><file_sep>",
    "broken special": "<|im_start| >user <|im_end <im_start>",
    "blanks": "  two   three \t tab \n\n newline ",
    "empty": "",
}


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_comes_out_as_it_went_in(tmp_path: Path, tied: bool) -> None:
    weights = write_tiny_gguf(tmp_path / "tiny.gguf", tied=tied)
    export(tmp_path / "tiny.gguf", tmp_path, progress=False)
    exported = load_file(tmp_path / "model.safetensors")
    assert exported.keys() == weights.keys()
    for name, values in weights.items():
        assert exported[name].dtype == torch.bfloat16
        assert torch.equal(exported[name].float(), values), name


def test_the_folder_is_one_that_everything_loads(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", tied=False)
    export(tmp_path / "tiny.gguf", tmp_path, progress=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("<|im_start|>hello hello 42<|im_end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "hello", "Ġhello", "Ġ", "4", "2", "<|im_end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello hello 42"
    assert [tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token] == SPECIAL
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert rendered == "<|im_start|>hello<|im_end|>"
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = load_model(tmp_path, dtype="float32")
    with torch.inference_mode():
        truth = reference(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(model.forward([Step(model.new_cache(), ids)]), truth, atol=1e-3, rtol=1e-4)
    assert (model.max_positions, eos_ids(tmp_path)) == (256, {2})
    assert json.loads((tmp_path / "config.json").read_text())["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        ({"architecture": "mamba"}, "general.architecture is 'mamba'; only 'llama'"),
        ({"pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'; only 'smollm'"),
        ({"without": "rope"}, "lacks llama.rope.freq_base"),
        ({"extra_tensor": "blk.0.ffn_gate_inp.weight"}, "'blk.0.ffn_gate_inp.weight' of the GGUF file has no place"),
        ({"extra_tensor": "rope_freqs.weight"}, "'rope_freqs.weight' of the GGUF file has no place"),
    ],
)
def test_a_file_that_would_be_exported_wrongly_is_refused(tmp_path: Path, bend: dict[str, Any], message: str) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", **bend)
    with pytest.raises(ModelSourceError, match=message):
        export(tmp_path / "tiny.gguf", tmp_path, progress=False)


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model" * 100)
    with pytest.raises(ModelSourceError, match="not a GGUF file"):
        export(tmp_path / "text.gguf", tmp_path, progress=False)


@dataclass
class Readers:
    """The embedded model by us, and the same GGUF file by transformers."""

    folder: Path
    ours: CausalModel
    theirs: Any
    tokenizer: Any
    their_tokenizer: Any


@pytest.fixture(scope="module")
def readers() -> Readers:
    folder = resolve("embedded", progress=False).path
    gguf = {"pretrained_model_name_or_path": embedded_gguf().parent, "gguf_file": embedded_gguf().name}
    return Readers(
        folder,
        load_model(folder, dtype="float32"),
        AutoModelForCausalLM.from_pretrained(**gguf, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(**gguf),
    )


def perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    return math.exp(F.cross_entropy(logits[:-1].double(), torch.tensor(ids[1:])).item())


@torch.inference_mode()
def their_perplexity(model: Any, ids: list[int]) -> float:
    return perplexity(model(torch.tensor([ids]), use_cache=False).logits[0], ids)


def our_greedy(model: CausalModel, prompt: list[int]) -> list[int]:
    cache, answer = model.new_cache(), list[int]()
    step = prompt
    while len(answer) < ANSWER_TOKENS:
        step = [int(model.forward([Step(cache, step, -1)])[0].argmax())]
        answer += step
    return answer


@torch.inference_mode()
def their_greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=ANSWER_TOKENS,
        min_new_tokens=ANSWER_TOKENS,
        eos_token_id=[],
        do_sample=False,
    )
    answer: list[int] = ids[0, len(prompt) :].tolist()
    return answer


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")  # transformers' GGUF reader warns about its own tensors and settings
class TestEmbedded:
    def test_tokens_agree_with_transformers_reader(self, readers: Readers) -> None:
        for name, text in TEXTS.items():
            ids = readers.tokenizer(text)["input_ids"]
            assert ids == readers.their_tokenizer(text)["input_ids"], name
            assert readers.tokenizer.decode(ids) == text, name

    @pytest.mark.parametrize(
        ("text", "ours", "theirs"),
        [
            ("a   1", ["a", "ĠĠĠ", "1"], ["a", "ĠĠ", "Ġ", "1"]),
            ("a ½", ["a", "Ġ", "Â½"], ["a", "ĠÂ", "½"]),
        ],
    )
    def test_digits_are_cut_off_first_as_the_file_says(
        self, readers: Readers, text: str, ours: list[str], theirs: list[str]
    ) -> None:
        """Pre-tokenizer `smollm` parts digits from blanks before them; transformers' GGUF reader leaves that out."""
        names = readers.tokenizer.convert_ids_to_tokens
        assert names(readers.tokenizer(text)["input_ids"]) == ours
        assert names(readers.their_tokenizer(text)["input_ids"]) == theirs

    def test_chat_template_is_the_models(self, readers: Readers) -> None:
        chat = [{"role": "user", "content": "hi"}]
        ours = readers.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ours == readers.their_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ours.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert ours.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")

    def test_perplexity_answers_and_weights_agree(self, readers: Readers) -> None:
        """In one test, in this order, because the reference is rounded to our weights half way."""
        ids = readers.tokenizer(TEXT)["input_ids"]
        assert len(ids) > 300
        ours = perplexity(readers.ours.forward([Step(readers.ours.new_cache(), ids)]), ids)
        assert ours < 100  # a 135M model on text it has never seen; with anything scrambled it is in the thousands
        assert ours == pytest.approx(their_perplexity(readers.theirs, ids), rel=3e-3)

        exported = load_file(readers.folder / "model.safetensors")
        state = readers.theirs.state_dict()
        assert {name for name in state if name != "lm_head.weight"} == set(exported)
        for name, values in exported.items():
            rounded = state[name].bfloat16()
            assert torch.equal(rounded, values), name
            state[name].copy_(rounded)  # in place: the reference now computes in float32 with the rounded weights

        assert ours == pytest.approx(their_perplexity(readers.theirs, ids), rel=1e-5)
        for prompt in PROMPTS:
            chat = [{"role": "user", "content": prompt}]
            text = readers.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            start = readers.tokenizer(text)["input_ids"]
            assert our_greedy(readers.ours, start) == their_greedy(readers.theirs, start), prompt

    @pytest.mark.parametrize("quantization", ["int8", "int4"])
    def test_fewer_bits_cost_little(self, readers: Readers, quantization: Quantization) -> None:
        """The file's own 4 bits are found again; the head's 8 bits, and all of int8, round once more: 1.3 % here."""
        ids = readers.tokenizer(TEXT)["input_ids"]
        exact = readers.ours.forward([Step(readers.ours.new_cache(), ids)])
        model = load_model(readers.folder, dtype="float32", quantization=quantization)
        rough = model.forward([Step(model.new_cache(), ids)])
        assert perplexity(rough, ids) == pytest.approx(perplexity(exact, ids), rel=2e-2)
        assert (rough.argmax(-1) == exact.argmax(-1)).float().mean() > 0.9
        assert not torch.equal(rough, exact)

    def test_bfloat16_arithmetic_costs_little(self, readers: Readers) -> None:
        ids = readers.tokenizer(TEXT)["input_ids"]
        exact = perplexity(readers.ours.forward([Step(readers.ours.new_cache(), ids)]), ids)
        rough = load_model(readers.folder, dtype="bfloat16")
        assert perplexity(rough.forward([Step(rough.new_cache(), ids)]), ids) == pytest.approx(exact, rel=1e-2)
