"""One peer, in its own environment: reads prompts as JSON lines, answers each with tokens and seconds.

`bench_peers.py` starts it with the interpreter that the peer is installed for; it imports nothing of paceline.

    python peer_worker.py transformers|transformers-lookup|vllm|vllm-ngram|llama.cpp MODEL
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], int]  # a request to the number of tokens generated


def transformers(model_path: str, lookup: bool) -> Answer:
    """`generate` in bfloat16, plainly or with prompt lookup."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16).eval()

    def answer(request: dict[str, Any]) -> int:
        ids = torch.tensor([request["ids"]])
        options: dict[str, Any] = {"max_new_tokens": request["tokens"], "eos_token_id": request["stop_ids"]}
        options |= {"do_sample": request["temperature"] > 0, "pad_token_id": 0}
        if request["temperature"] > 0:
            options |= {"temperature": request["temperature"], "top_k": 0, "top_p": 1.0}
        if lookup:
            options["prompt_lookup_num_tokens"] = 5
        with torch.inference_mode():
            return int(model.generate(ids, attention_mask=torch.ones_like(ids), **options).shape[1] - ids.shape[1])

    return answer


def vllm(model_path: str, ngram: bool) -> Answer:
    """vLLM for CPUs, in this process, bfloat16."""
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="2", HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"dtype": "bfloat16", "max_model_len": 2048, "enable_prefix_caching": False}
    if ngram:
        options["speculative_config"] = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}
    engine = LLM(model_path, **options)

    def answer(request: dict[str, Any]) -> int:
        sampling = SamplingParams(
            temperature=request["temperature"], max_tokens=request["tokens"], stop_token_ids=request["stop_ids"]
        )
        results = engine.generate([{"prompt_token_ids": request["ids"]}], sampling, use_tqdm=False)
        return len(results[0].outputs[0].token_ids)

    return answer


def llama_cpp(model_path: str) -> Answer:
    """llama.cpp over the 4-bit GGUF file, two threads."""
    from llama_cpp import Llama

    threads = os.cpu_count()
    model = Llama(model_path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(request: dict[str, Any]) -> int:
        model.reset()
        count = 0
        for token in model.generate(request["ids"], temp=request["temperature"], top_k=0, top_p=1.0, min_p=0.0):
            count += 1
            if token in request["stop_ids"] or count == request["tokens"]:
                break
        return count

    return answer


KINDS: dict[str, Callable[[str], Answer]] = {
    "transformers": lambda path: transformers(path, lookup=False),
    "transformers-lookup": lambda path: transformers(path, lookup=True),
    "vllm": lambda path: vllm(path, ngram=False),
    "vllm-ngram": lambda path: vllm(path, ngram=True),
    "llama.cpp": llama_cpp,
}


def main() -> None:
    """Serve requests from standard input until it ends."""
    kind, model_path = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints goes to the log
    answer = KINDS[kind](model_path)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        tokens = answer(request)
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began}), file=replies, flush=True)


if __name__ == "__main__":
    main()
