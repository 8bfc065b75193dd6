"""The bars of generating: this project's engine on minimind2-small against its peers, one thread.

What is compared are tokens per CPU second, as `benchmarks/bars.py` compares: of reading prompts of 128 tokens, and of
answers of 128 tokens, one at a time and eight at once.

    python -m benchmarks.infer --repeats 5

Not here: what the variants do (`benchmarks/infer_variants.py`), the server (`benchmarks/serving.py`), assertions.
"""

from pathlib import Path

from benchmarks.bars import Bar, main
from benchmarks.harness import sample_corpus
from benchmarks.infer_variants import PRESET, VARIANTS
from benchmarks.token_sets import CACHE, tokenizer_of

UPSTREAM, HF, LLAMA = ("upstream",), ("hf_bf16", "hf_bf16_static", "hf_fp32", "hf_fp32_static"), ("llama_cpp_bf16",)
BARS = (
    Bar("decode ×1 in bf16, × upstream", "ours_bf16", UPSTREAM, 1.8, "decode_1"),
    Bar("decode ×1 in bf16, × the best of Hugging Face", "ours_bf16", HF, 1.5, "decode_1"),
    Bar("decode ×1 in int8, × upstream", "ours_int8", UPSTREAM, 2.4, "decode_1"),
    Bar("decode ×1 in int8, × the best of Hugging Face", "ours_int8", HF, 2.0, "decode_1"),
    Bar("decode ×8 in bf16, × upstream", "ours_bf16", UPSTREAM, 2.8, "decode_8"),
    Bar("decode ×8 in bf16, × the best of Hugging Face", "ours_bf16", HF, 1.7, "decode_8"),
    Bar("prefill in bf16, × upstream", "ours_bf16", UPSTREAM, 2.0, "prefill"),
    Bar("decode ×1 in bf16, × llama.cpp", "ours_bf16", LLAMA, 0.5, "decode_1"),
    Bar("decode ×1 in int8, × llama.cpp", "ours_int8", ("llama_cpp_q8_0",), 0.5, "decode_1"),
    Bar("decode ×8 in bf16, × llama.cpp", "ours_bf16", LLAMA, 0.5, "decode_8"),
    Bar("decode ×8 in int8, × llama.cpp", "ours_int8", ("llama_cpp_q8_0",), 0.5, "decode_8"),
    Bar("prefill in bf16, × llama.cpp", "ours_bf16", LLAMA, 0.5, "prefill"),
    Bar("decode ×1 in int4, × int8", "ours_int4", ("ours_int8",), 1.0, "decode_1"),
    Bar("decode ×1 in fp16, × bf16", "ours_fp16", ("ours_bf16",), 1.0, "decode_1"),
    Bar("decode ×1 in fp32, × upstream", "ours_fp32", UPSTREAM, 1.0, "decode_1"),
)
TITLE = "Generating: minimind2-small, one thread, tokens per CPU second"


def tokenizer() -> Path:
    """A tokenizer of the preset's vocabulary, learnt from Python's documentation."""
    return tokenizer_of(sample_corpus(CACHE, megabytes=8), vocab_size=PRESET.vocab_size)


if __name__ == "__main__":
    main("benchmarks.infer", TITLE, BARS, VARIANTS, shown=("prefill", "decode_1", "decode_8"), prepare=tokenizer)
