"""`python llama_driver.py MODEL.gguf`: llama.cpp in a process of its own; reads {"texts", "messages", "tokens"} and answers, both as JSON.

For each text: its tokens as llama.cpp splits it, and the greedy continuation, token by token with its log-probability. For the
messages: the prompt its own reading of the file's chat template makes.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import xllamacpp


def main(path: str) -> None:
    wanted = json.load(sys.stdin)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 512, 1, 2
    parameters.warmup, parameters.offline, parameters.verbosity = False, True, 0
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(parameters)

    def ask(verb: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{server.listening_address}/{verb}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    answers = []
    for text in wanted["texts"]:
        options = {"n_predict": wanted["tokens"], "temperature": 0, "n_probs": 1, "cache_prompt": False}
        steps = ask("completion", prompt=text, **options)["completion_probabilities"]
        split = ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        answers.append({"split": split, "tokens": [step["id"] for step in steps], "logprobs": [step["logprob"] for step in steps]})
    print(json.dumps({"answers": answers, "prompt": ask("apply-template", messages=wanted["messages"])["prompt"]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
