"""Every option of every stage: the single source of flags, TOML keys, environment names, saved JSON and help.

None means automatic or off. Sizes are in tokens and durations in steps unless the name says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal

from nanochat_cli.core.config import opt

Precision = Literal["auto", "bf16", "fp32"]
AttentionForm = Literal["auto", "fused", "matmul"]
Switch = Literal["auto", "on", "off"]
Stage = Literal["base", "mid", "sft", "rl"]


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Shape of the network; what is not given follows from the depth."""

    arch: str = opt("portable", "Architecture: a file name in core/models/.")
    depth: int = opt(4, "Transformer blocks; every other size follows from it.", min=1, max=128)
    n_embd: int | None = opt(None, "Width of the residual stream (automatic: 64 x depth).", min=8)
    n_head: int | None = opt(None, "Attention heads (automatic: about one per 128 channels).", min=1)
    n_kv_head: int | None = opt(None, "Heads of keys and values (automatic: as many as n_head).", min=1)
    max_seq_len: int | None = opt(None, "Context length in tokens (automatic: 256 on a CPU, 2048 on a GPU).", min=8)
    rope_base: float = opt(10000.0, "Base of the rotary position angles.", min=1, flag=False)
    softcap: float = opt(15.0, "Logits are softly bounded to plus and minus this.", min=1, flag=False)


@dataclass(frozen=True, kw_only=True)
class OutputSection:
    """Where base training writes."""

    run: str | None = opt(None, "Name of the new run (automatic: CORPUS-dDEPTH).", short="-g")


@dataclass(frozen=True, kw_only=True)
class IntoSection:
    """Where a later stage writes."""

    into: str | None = opt(None, "Run to write into, made if need be (automatic: the run that it starts from).")


@dataclass(frozen=True, kw_only=True)
class CorpusSection:
    """What base training reads."""

    data: str | None = opt(None, "Corpus, as listed by `nanochat data list` (automatic: the newest).")
    tokenizer: str | None = opt(None, "Tokenizer (automatic: the one trained on the corpus, else the newest).")


@dataclass(frozen=True, kw_only=True)
class ChatDataSection:
    """What chat training reads."""

    data: tuple[str, ...] = opt(
        (), "Chat file or corpus with chats, as PATH[:weight]; repeatable (automatic: the base model's corpus)."
    )


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """Which model to start from."""

    source: Stage | None = opt(None, "Stage to start from (automatic: the latest stage before this one).", short="-i")
    run: str | None = opt(None, "Run of the model to start from (automatic: the most recent).", short="-g")
    step: int | None = opt(None, "Checkpoint step of the source (automatic: the last).", short="-s", min=0)


@dataclass(frozen=True, kw_only=True)
class BatchSection:
    """Tokens per optimizer step and how they are cut."""

    total_batch_size: int | None = opt(
        None, "Tokens per optimizer step over all processes (automatic: 8,192 on a CPU, 524,288 on GPUs).", min=1
    )
    device_batch_size: int | None = opt(
        None, "Rows per forward pass and process (automatic: what divides the step and fits).", min=1
    )


@dataclass(frozen=True, kw_only=True)
class BaseHorizon:
    """How long to train; the first one given wins."""

    num_iterations: int | None = opt(None, "Optimizer steps.", min=1)
    target_flops: float | None = opt(None, "Train until this many floating-point operations.", min=1)
    target_param_data_ratio: float = opt(20.0, "Tokens per parameter, if nothing else is given.", min=0.001)


@dataclass(frozen=True, kw_only=True)
class ChatHorizon:
    """How long to train; the first one given wins."""

    num_iterations: int | None = opt(None, "Optimizer steps.", min=1)
    num_epochs: float = opt(1.0, "Passes over the data, if no step count is given.", min=0.001)


@dataclass(frozen=True, kw_only=True)
class LearningSection:
    """How learning rates move, and what keeps updates in bounds."""

    weight_decay: float = opt(0.0, "Decoupled weight decay of the block matrices.", min=0)
    grad_clip: float | None = opt(1.0, "Largest global gradient norm (none: no clipping).", min=0)
    warmup_ratio: float = opt(0.0, "Share of the steps in which the learning rate rises.", min=0, max=1)
    warmdown_ratio: float = opt(0.4, "Share of the steps in which the learning rate falls.", min=0, max=1)
    final_lr_frac: float = opt(0.0, "Where the learning rate ends, as a share of its peak.", min=0, max=1)
    init_lr_frac: float = opt(1.0, "Share of the learning rates that this stage starts with.", min=0, flag=False)
    momentum: float = opt(0.95, "Muon momentum after its ramp from 0.85.", min=0, max=0.999, flag=False)
    momentum_ramp: int = opt(300, "Steps of that ramp, at most a third of the run.", min=0, flag=False)


@dataclass(frozen=True, kw_only=True)
class OptimSection(LearningSection):
    """Optimizer: Muon for matrices, AdamW for embedding and head."""

    matrix_lr: float = opt(0.02, "Muon learning rate of the block matrices.", min=0)
    embedding_lr: float = opt(0.2, "AdamW learning rate of the embedding, at width 768.", min=0)
    unembedding_lr: float = opt(0.004, "AdamW learning rate of the head, at width 768.", min=0)


@dataclass(frozen=True, kw_only=True)
class ChatOptimSection(LearningSection):
    """Optimizer of chat training: fresh state, a share of the rates that its model was trained with."""

    matrix_lr: float | None = opt(
        None, "Muon learning rate (automatic: the one that the model was trained with).", min=0
    )
    embedding_lr: float | None = opt(
        None, "AdamW rate of the embedding (automatic: the one it was trained with).", min=0
    )
    unembedding_lr: float | None = opt(None, "AdamW rate of the head (automatic: the one it was trained with).", min=0)
    warmdown_ratio: float = opt(1.0, "Share of the steps in which the learning rate falls.", min=0, max=1)
    init_lr_frac: float = opt(0.5, "Share of those rates to start with.", min=0)


@dataclass(frozen=True, kw_only=True)
class RlOptimSection(ChatOptimSection):
    """Optimizer of reinforcement learning: small steps, so that what is not rewarded stays as it was."""

    init_lr_frac: float = opt(0.05, "Share of those rates to start with.", min=0)


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """What is measured on the way."""

    eval_every: int | None = opt(
        250, "Measure validation loss every this many steps, and at the end (none: never).", min=1
    )
    eval_tokens: int = opt(262_144, "Validation tokens per measurement, at most.", min=1)
    sample_every: int | None = opt(500, "Print samples every this many steps, and at the end (none: never).", min=1)


@dataclass(frozen=True, kw_only=True)
class SaveSection:
    """Checkpoints."""

    save_every: int | None = opt(250, "Save every this many steps; the last step is always saved.", min=1)
    keep_last: int = opt(2, "Checkpoints to keep; older ones are deleted after a newer one verifies.", min=1)


@dataclass(frozen=True, kw_only=True)
class ComputeSection:
    """Processes, precision and kernels. What is automatic is measured at the start and cached."""

    gpus: int | None = opt(None, "GPUs to use; 0 means CPU (automatic: a GPU if there is one).", min=0)
    procs: int = opt(1, "Processes on a CPU.", min=1, max=64)
    threads: int | None = opt(None, "CPU threads per process (automatic: cores divided by processes).", min=1)
    precision: Precision = opt("auto", "Arithmetic of the matrix products.")
    attention: AttentionForm = opt("auto", "Attention kernel: one fused call, or plain matrix products.")
    compile: Switch = opt("auto", "Compile the training step (automatic: when the run is long enough to gain).")
    seed: int = opt(0, "Seed of weights, data order and sampling.", min=0)


@dataclass(frozen=True, kw_only=True)
class RlSection:
    """Reinforcement learning on a task with a checkable answer."""

    task: str = opt("tinyworld", "Task: a file name in core/tasks/.")
    families: tuple[str, ...] = opt(("choice",), "Question families of the task to train on.")
    num_iterations: int = opt(40, "Optimizer steps.", min=1)
    prompts_per_step: int = opt(16, "Different questions per step.", min=1)
    num_samples: int = opt(8, "Answers sampled per question.", min=2)
    max_new_tokens: int = opt(64, "Longest answer in tokens.", min=1)
    temperature: float = opt(1.0, "Sampling temperature of the rollouts.", min=0.01)
    top_k: int | None = opt(None, "Sample among this many likeliest tokens (none: all).", min=1, flag=False)
    replay: float = opt(0.25, "Weight of a supervised batch mixed into each step, which keeps other skills.", min=0)
    eval_examples: int = opt(200, "Held-out questions asked before and after.", min=0)


# ---- one class per command -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig:
    """`nanochat train base`."""

    output: OutputSection = field(default_factory=OutputSection)
    model: ModelSection = field(default_factory=ModelSection)
    corpus: CorpusSection = field(default_factory=CorpusSection)
    batch: BatchSection = field(default_factory=BatchSection)
    horizon: BaseHorizon = field(default_factory=BaseHorizon)
    optim: OptimSection = field(default_factory=OptimSection)
    eval: EvalSection = field(default_factory=EvalSection)
    save: SaveSection = field(default_factory=SaveSection)
    compute: ComputeSection = field(default_factory=ComputeSection)


@dataclass(frozen=True, kw_only=True)
class MidTrainConfig:
    """`nanochat train mid`."""

    source: SourceSection = field(default_factory=SourceSection)
    output: IntoSection = field(default_factory=IntoSection)
    chats: ChatDataSection = field(default_factory=ChatDataSection)
    batch: BatchSection = field(default_factory=BatchSection)
    horizon: ChatHorizon = field(default_factory=ChatHorizon)
    optim: ChatOptimSection = field(default_factory=ChatOptimSection)
    eval: EvalSection = field(default_factory=EvalSection)
    save: SaveSection = field(default_factory=SaveSection)
    compute: ComputeSection = field(default_factory=ComputeSection)


@dataclass(frozen=True, kw_only=True)
class SftConfig(MidTrainConfig):
    """`nanochat train sft`."""


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """`nanochat train rl`."""

    source: SourceSection = field(default_factory=SourceSection)
    output: IntoSection = field(default_factory=IntoSection)
    rl: RlSection = field(default_factory=RlSection)
    chats: ChatDataSection = field(default_factory=ChatDataSection)
    optim: RlOptimSection = field(default_factory=RlOptimSection)
    eval: EvalSection = field(default_factory=EvalSection)
    save: SaveSection = field(default_factory=SaveSection)
    compute: ComputeSection = field(default_factory=ComputeSection)


@dataclass(frozen=True, kw_only=True)
class EvalWhat:
    """What to ask, and how much."""

    only: Literal["all", "bpb", "chat"] = opt("all", "Which measurements to make.", flag=False)
    task: tuple[str, ...] = opt((), "Tasks to ask, repeatable (automatic: all that fit the model).")
    limit: int | None = opt(
        None, "Questions per family, at most (automatic: 200); the result is labelled with it.", min=1
    )
    max_new_tokens: int = opt(96, "Longest answer in tokens.", min=1)
    batch_size: int = opt(256, "Questions answered at a time.", min=1)
    tokens: int = opt(262_144, "Tokens per split for bits per byte, at most.", min=1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`nanochat eval`."""

    source: SourceSection = field(default_factory=SourceSection)
    what: EvalWhat = field(default_factory=EvalWhat)
    compute: ComputeSection = field(default_factory=ComputeSection)


@dataclass(frozen=True, kw_only=True)
class TokSection:
    """What a tokenizer is trained on, and how large it becomes."""

    vocab: int | None = opt(
        None, "Number of token ids, 9 special ones included (automatic: by size of the text).", short="--vocab-size"
    )
    input: tuple[str, ...] = opt((), "Corpus or text file, repeatable (automatic: the newest corpus).")
    name: str | None = opt(None, "Name of the tokenizer (automatic: the name of its corpus).")
    pattern: str | None = opt(
        None,
        "How text is cut: nanochat, gpt4, digit (2, 3, 1 digits in a token), gpt2, or a file with a regular expression"
        " (automatic: digit below 8,192 tokens, else nanochat).",
    )
    text_field: str = opt("text", "JSON field or column of files that holds the text.")
    max_chars: int | None = opt(None, "Read this many characters, at most (none: all).", min=1)
    doc_cap: int | None = opt(None, "Read this many characters of each document, at most (none: all).", min=1)
    threads: int | None = opt(None, "Threads that count (automatic: one per core); the tokens are the same.", min=1)
    max_memory: str | None = opt(
        None, "Memory for counts and merges, like 2GB (none: no limit); counts beyond it go to the disk."
    )
    min_piece_count: int = opt(
        1, "Leave out pieces that occur less often, to save memory: no longer exact, and recorded.", min=1
    )
    allow_smaller: bool = opt(False, "Accept a smaller vocabulary where the text supports no more.")


@dataclass(frozen=True, kw_only=True)
class TokTrainConfig:
    """`nanochat tok train`."""

    tok: TokSection = field(default_factory=TokSection)


@dataclass(frozen=True, kw_only=True)
class SynthSection:
    """What is generated."""

    name: str = opt("tinyworld", "Name of the corpus.")
    documents: int = opt(60_000, "Documents for pretraining.", min=10)
    chats: int = opt(15_000, "Conversations for each of mid and sft (0: none).", min=0)
    seed: int = opt(0, "Seed of the whole corpus; equal seeds give equal corpora.", min=0)
    val_fraction: float = opt(0.02, "Share of the documents kept for validation.", min=0.0001, max=0.5)


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """`nanochat data synth`."""

    synth: SynthSection = field(default_factory=SynthSection)


@dataclass(frozen=True, kw_only=True)
class AddSection:
    """How files become a corpus."""

    name: str | None = opt(None, "Name of the corpus (automatic: of the first file or folder).")
    text_field: str = opt("text", "JSON field or column that holds the text.")
    split: Literal["auto", "file", "paragraph", "line"] = opt(
        "auto",
        "Where plain text is cut (auto: files over 4,000 characters, at blank lines, about every 2,000).",
    )
    val_fraction: float = opt(
        0.01, "Share kept for validation (of a small corpus more: 200,000 characters or a tenth).", min=0.0001, max=0.5
    )
    seed: int = opt(0, "Seed that decides which documents those are.", min=0)


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """`nanochat data add`."""

    add: AddSection = field(default_factory=AddSection)


WORKER_CONFIGS: dict[str, type] = {
    "base": BaseTrainConfig,
    "mid": MidTrainConfig,
    "sft": SftConfig,
    "rl": RlConfig,
    "eval": EvalConfig,
    "probe": BaseTrainConfig,
}

COMMAND_CONFIGS: dict[str, type] = {
    "data synth": SynthConfig,
    "data add": AddConfig,
    "tok train": TokTrainConfig,
    "train base": BaseTrainConfig,
    "train mid": MidTrainConfig,
    "train sft": SftConfig,
    "train rl": RlConfig,
    "eval": EvalConfig,
}
"""Every command that takes a config, as it is typed."""
