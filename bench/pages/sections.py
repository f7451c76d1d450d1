"""The sections of docs/benchmarks.md in their order: title, bench, what is said of it, tables."""

from __future__ import annotations

from collections.abc import Callable

from .doc_tables import (
    Rows,
    accuracy_table,
    by_batch,
    by_length,
    crossing_table,
    distilled_table,
    equations_table,
    general,
    memory_table,
    paper_table,
    paths_table,
    peers,
    token_table,
)

SECTIONS: list[tuple[str, str, str, list[Callable[[Rows], str]]]] = [
    ("Whole generations against peers", "stream",
     "One layer, `u_{t+1} = y_t`, one step per token. Peers are in `bench/peers/`: each is what a "
     "competent user would write or install, preallocated, dot products and recurrences in C++ "
     "compiled for this machine, FFTs and attention by torch, float32. The modal recurrences and "
     "attention compute another function; their rows say what a model of that kind pays per layer, "
     "projections left out. Recomputing is what a model without a cache does.", [peers, by_length]),
    ("Batches", "batch", "Whole generations of several rows.", [by_batch]),
    ("Where a recurrence wins", "crossover",
     "A filter that is a sum of s exponentials decodes in O(s) per token. Below the crossover size "
     "the recurrence is faster, above it exact decoding is. The recurrence is one fused loop a "
     "token, vectorised over channels, that reads poles, weights and state once: C++ compiled for "
     "this machine on a CPU, Triton on a GPU. A complex state is two real numbers. Distilled "
     "filters store one mode of a conjugate pair.",
     [crossing_table, distilled_table]),
    ("The paper's experiments", "paper",
     "Time against length runs in our kernels for all four algorithms.", [paper_table]),
    ("Accuracy", "accuracy", "Inputs are the same for all variants of a dtype; the error is "
     "against a float64 convolution of them.", [accuracy_table]),
    ("Whole models", "decode", "The shipped model, greedy, the prompt left out.", [general]),
    ("A token, taken apart", "token",
     "The shipped model on the CPU, greedy; each part is its instructions in turn. Reading the "
     "weights is what one core takes to sum a buffer as large. A step of B rows is B tokens.",
     [token_table]),
    ("Public models, adapted", "adapted",
     "Each family's own code, at the commit named, against what `ff.adapt` makes of it: the error "
     "is the larger of whole sequences and teacher-forced steps. A genome, base by base, is below.",
     [general]),
    ("Generation by transformers", "hf",
     "`generate` with a cache against `use_cache=False`; a tie is a sequence that differs and is "
     "as probable, in float64, to within 1e-4 a token.", [general]),
    ("Planned against best measured block sizes", "plan",
     "Regret is the planned plan's time over the best measured one's, minus one.", [general]),
    ("Planned against best by parts", "regret",
     "Of streams of many layers: the best plan and implementations are found from steps and "
     "firings measured one by one, then both streams are run whole.", [general]),
    ("First tokens", "first-token",
     "A fresh process, with an empty folder of compiled kernels and with what it has left there.",
     [general]),
    ("Single steps", "latency", "The time of every single step.", [general]),
    ("The price of a call", "step", "One channel, no fill due.", [general]),
    ("The convolutions of a token", "kernels",
     "Steps of all layers as one graph without fills.", [general]),
    ("Single fills", "fill", "The first fill of every block size.", [general]),
    ("Fills of many layers", "gpu-fills",
     "The first fill of a group, L being the block, all layers in one call, over the time of the "
     "bytes that must move; torch.fft is three calls, nothing stored.", [general]),
    ("Prompts", "prefill",
     "Outputs of the prompt and its future fill; torch.fft at the fastest of some lengths that "
     "suffice.", [general]),
    ("Prompts in many calls", "chunks", "And a step, which begins with the fill.", [general]),
    ("Memory", "memory",
     "Bytes per new token and channel of one row, of everything that a layer holds after the "
     "prompt: of ours the state, taps and spectra, of the others what is counted. What belongs to "
     "filters is shared by the rows, and taps are as many as the prompt and the new tokens.",
     [memory_table]),
    ("What is kept, and its time", "kept",
     "Whole generations in compiled calls, in turns: every filter spectrum kept, what `memory=` "
     "says, and inputs, pending outputs and filters of 16 bits.", [general]),
    ("Equations with memory", "volterra",
     "`D^(1/2) y = -y` up to t = 1 by the predictor-corrector in float64, one equation or a batch "
     "with rates 1 .. 2. Every package does the same sums, so its error is ours; not torchfde, "
     "whose weights are float32. Starred: run with fewer steps, twice, and scaled by "
     "`a n + b n^2`; the error is that of the fewer. Direct sums are written for this bench, "
     "without a package's overhead: one or two matrix products per step.",
     [equations_table, paths_table]),
    ("Reported situations", "reported",
     "What people report as slow elsewhere (field_reports.md), ours beside the plain way: a chunk "
     "inside the stream or of a prompt that convolves everything so far, `reorder` of every slot, "
     "a cache for every request, tokens of some rows layer by layer; taking tokens back against "
     "making them.", [general]),
    ("Rows that move", "rows",
     "Rows of a stream exchanged, reordered as a beam search does after every step, copied and "
     "forgotten, beside a plain copy of the bytes that they use. All are called in turn, so each "
     "finds in the caches what the others have left there.", [general]),
    ("Random programs", "fuzz",
     "Steps, rows, prompts, chunks, `run`, `generate`, gates, `crop`, `reorder`, copies, saved "
     "states and files, interrupts at any call, calls taken back whole, one planted NaN, requests "
     "with stops and refused calls, in random order on random sizes, plans, dtypes, states of 16 "
     "bits and implementations. A case is one compared operation; its error is over the bound in "
     "`bench/campaign/direct.py`, and above 1 it is a failure.", [general]),
    ("Kernels compiled ahead", "compile",
     "Every Triton kernel of a stream that a first `decode` of a Hyena model compiles, with an "
     "empty disk cache; in several processes their start is in the time, as with `tune "
     "--compile`.", [general]),
    ("GPU kernels, counted", "gpu-counters", "Counters of the compiled kernels.", [general]),
    ("Against an offline FFT convolution", "cpu-vs-torch",
     "The whole online generation beside one offline convolution of all inputs.", [general]),
]  # fmt: skip
