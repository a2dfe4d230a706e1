"""Every option of every stage: the single source of flags, TOML keys, environment names, saved JSON and help.

None means automatic or off. Sizes are in tokens and durations in steps unless the name says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal

from nanochat_cli.core import units
from nanochat_cli.core.config import opt

Precision = Literal["auto", "bf16", "fp16", "fp32"]
AttentionForm = Literal["auto", "fa4", "fa3", "fa2", "flex", "fused", "matmul"]
Preset = Literal["base", "speedrun", "seed", "portable", "plain", "cpu"]
Switch = Literal["auto", "on", "off"]
Stage = Literal["base", "mid", "sft", "rl"]


@dataclass(frozen=True, kw_only=True)
class RecipeSection:
    """Where options come from that are not given."""

    preset: Preset | None = opt(None, "Named set of options, a file in presets/; whatever is given beside it wins.")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Shape of the network; what is not given follows from the depth and the architecture."""

    arch: str = opt("nanochat", "Architecture: a file name in core/models/.")
    depth: int = opt(4, "Transformer blocks; every other size follows from it.", min=1, max=128)
    n_embd: int | None = opt(None, "Width of the residual stream (automatic: 64 x depth).", min=8)
    n_head: int | None = opt(None, "Attention heads (automatic: about one per 128 channels).", min=1)
    n_kv_head: int | None = opt(None, "Heads of keys and values (automatic: as many as n_head).", min=1)
    head_dim: int | None = opt(None, "Channels per head; the width is rounded up to whole heads.", min=2)
    max_seq_len: int | None = opt(None, "Context length in tokens (automatic: 256 on a CPU, 2048 on a GPU).", min=8)
    window_pattern: str | None = opt(
        None, "Reach of attention by layer, repeated: S short, L whole context (automatic: SSSL, portable L)."
    )
    short_window: int | None = opt(
        None, "Tokens that an S layer looks back (automatic: a quarter of the context).", min=0
    )
    rope_base: float | None = opt(
        None, "Base of the rotary position angles (automatic: 100,000, portable 10,000).", min=1, flag=False
    )
    softcap: float = opt(15.0, "Logits are softly bounded to plus and minus this.", min=1, flag=False)
    qk_scale: float | None = opt(
        None, "Factor on queries and keys after their norm (automatic: 1.2, portable 1).", min=0.01, flag=False
    )
    value_embeds_every: int | None = opt(
        None, "A value embedding every so many layers, 0 for none (automatic: 2, portable 0).", min=0, flag=False
    )
    smear: bool | None = opt(None, "Mix each embedding with the one before it (automatic: by arch).", flag=False)
    residual_scalars: bool | None = opt(None, "Learned scales of the residual stream (automatic: by arch).", flag=False)
    backout: bool | None = opt(None, "Take the middle of the stream out at the end (automatic: by arch).", flag=False)


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
    packing: Literal["whole", "crop"] = opt(
        "whole",
        "How documents fill rows: whole drops nothing and cuts long ones into pieces; crop drops ends of documents, so"
        " that each token sees its document from the start, for corpora larger than what is trained on.",
    )


@dataclass(frozen=True, kw_only=True)
class ChatDataSection:
    """What chat training reads."""

    data: tuple[str, ...] = opt(
        (),
        "Chat file or corpus with chats, as PATH[:weight]; repeatable. The weight is how often (2) or which share (0.5)"
        " of its conversations an epoch sees (automatic: the base model's corpus, else the usual mixture of tasks).",
    )
    task: tuple[str, ...] = opt(
        (), "Task to train on, as NAME[:weight] or NAME=number of conversations; repeatable, beside --data as well."
    )


@dataclass(frozen=True, kw_only=True)
class ReplaySection(ChatDataSection):
    """What reinforcement learning mixes in, so that other skills stay."""

    task: tuple[str, ...] = opt(
        (), "Task to mix in, as NAME[:weight] or NAME=number of conversations; repeatable.", flag="--replay-task"
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
        None,
        "Tokens per optimizer step over all processes (automatic: by the scaling rule; 16,384 at most on a CPU).",
        min=1,
    )
    device_batch_size: int | None = opt(
        None, "Rows per forward pass and process (automatic: what divides the step and fits).", min=1
    )


@dataclass(frozen=True, kw_only=True)
class BaseHorizon:
    """How long to train: in one of three ways."""

    num_iterations: int | None = opt(None, "Optimizer steps.", min=1)
    target_flops: float | None = opt(None, "Train until this many floating-point operations.", min=1)
    target_param_data_ratio: float = opt(12.0, "Tokens per parameter, if nothing else is given.", min=0.001)
    ratio_counts: Literal["scaling", "all"] = opt(
        "scaling", "Which parameters: block matrices and head, or all.", flag=False
    )


@dataclass(frozen=True, kw_only=True)
class ChatHorizon:
    """How long to train; the first one given wins."""

    num_iterations: int | None = opt(None, "Optimizer steps.", min=1)
    num_epochs: float = opt(1.0, "Passes over the data, if no step count is given.", min=0.001)


@dataclass(frozen=True, kw_only=True)
class OptimSection:
    """Optimizer: Muon for matrices, AdamW for the rest. Rates are those at a batch of 524,288 tokens and width 768."""

    matrix_lr: float = opt(0.02, "Muon learning rate of the block matrices.", min=0)
    embedding_lr: float = opt(0.3, "AdamW learning rate of the token embedding.", min=0)
    unembedding_lr: float = opt(0.008, "AdamW learning rate of the head.", min=0)
    value_embedding_lr: float = opt(0.15, "AdamW learning rate of the value embeddings.", min=0, flag=False)
    residual_lr: float = opt(0.005, "AdamW learning rate of the residual scales.", min=0, flag=False)
    skip_lr: float = opt(0.5, "AdamW learning rate of the scales of the embedding in each block.", min=0, flag=False)
    gate_lr: float = opt(0.2, "AdamW learning rate of smear and backout, whatever the batch.", min=0, flag=False)
    batch_scaling: bool | None = opt(
        None,
        "Multiply rates by the square root of batch size over 524,288 tokens (automatic: on GPUs).",
        flag="--lr-batch-scaling",
    )
    muon_eq: bool = opt(True, "Muon: bring the rows of a gradient to one norm first (MuonEq).", flag=False)
    muon_plus: bool = opt(True, "Muon: bring each update to the norm of an orthogonal matrix (Muon+).", flag=False)
    normuon: bool = opt(True, "Muon: divide updates by the running size of their rows (NorMuon).", flag=False)
    normuon_beta2: float = opt(0.9, "How slowly that running size moves.", min=0, max=0.9999, flag=False)
    polar: Literal["express", "newton-schulz"] = opt(
        "express", "Muon: the polynomials that make a matrix orthogonal.", flag=False
    )
    weight_decay: float | None = opt(
        None, "Decoupled weight decay of the block matrices (automatic: by the scaling rule).", min=0
    )
    cautious_decay: bool = opt(True, "Decay only weights that the update makes smaller, too.", flag=False)
    decay_shape: Literal["cosine", "linear", "constant"] = opt(
        "cosine", "How the weight decay of the matrices falls to zero.", flag=False
    )
    grad_clip: float | None = opt(None, "Largest global gradient norm (none: no clipping).", min=0)
    warmup_steps: int = opt(40, "Steps in which the learning rate rises.", min=0)
    warmup_ratio: float = opt(0.0, "The same as a share of the run; the longer of the two counts.", min=0, max=1)
    warmdown_ratio: float = opt(0.65, "Share of the steps in which the learning rate falls.", min=0, max=1)
    final_lr_frac: float = opt(0.05, "Where the learning rate ends, as a share of its peak.", min=0, max=1)
    init_lr_frac: float = opt(1.0, "Share of the learning rates that this stage starts with.", min=0, flag=False)
    momentum: float = opt(0.97, "Muon momentum after its ramp from 0.85.", min=0, max=0.999, flag=False)
    momentum_ramp: int = opt(400, "Steps of that ramp, at most a third of the run.", min=0, flag=False)
    momentum_end: float | None = opt(
        0.9, "Muon momentum at the end of the run (none: as after the ramp).", min=0, max=0.999, flag=False
    )


@dataclass(frozen=True, kw_only=True)
class ChatOptimSection:
    """Optimizer of chat training: fresh state, a share of the rates that its model was trained with.

    None stands for what the model was trained with.
    """

    matrix_lr: float | None = opt(
        None, "Muon learning rate (automatic: the one that the model was trained with).", min=0
    )
    embedding_lr: float | None = opt(
        None, "AdamW rate of the embedding (automatic: the one it was trained with).", min=0
    )
    unembedding_lr: float | None = opt(None, "AdamW rate of the head (automatic: the one it was trained with).", min=0)
    value_embedding_lr: float | None = opt(None, "AdamW rate of the value embeddings (the same).", min=0, flag=False)
    residual_lr: float | None = opt(None, "AdamW rate of the residual scales (the same).", min=0, flag=False)
    skip_lr: float | None = opt(
        None, "AdamW rate of the embedding's scales in each block (the same).", min=0, flag=False
    )
    gate_lr: float | None = opt(None, "AdamW rate of smear and backout (the same).", min=0, flag=False)
    batch_scaling: bool | None = opt(None, "Scale rates by the batch size (as it was trained with).", flag=False)
    muon_eq: bool | None = opt(None, "MuonEq (as it was trained with).", flag=False)
    muon_plus: bool | None = opt(None, "Muon+ (as it was trained with).", flag=False)
    normuon: bool | None = opt(None, "NorMuon (as it was trained with).", flag=False)
    normuon_beta2: float | None = opt(None, "NorMuon's beta2 (as it was trained with).", min=0, max=0.9999, flag=False)
    polar: Literal["express", "newton-schulz"] | None = opt(None, "Muon's polynomials (the same).", flag=False)
    weight_decay: float = opt(0.0, "Decoupled weight decay of the block matrices.", min=0)
    cautious_decay: bool | None = opt(None, "Cautious decay (as it was trained with).", flag=False)
    decay_shape: Literal["cosine", "linear", "constant"] = opt("linear", "How that decay falls to zero.", flag=False)
    grad_clip: float | None = opt(1.0, "Largest global gradient norm (none: no clipping).", min=0)
    warmup_steps: int = opt(0, "Steps in which the learning rate rises.", min=0)
    warmup_ratio: float = opt(0.0, "The same as a share of the run; the longer of the two counts.", min=0, max=1)
    warmdown_ratio: float = opt(1.0, "Share of the steps in which the learning rate falls.", min=0, max=1)
    final_lr_frac: float = opt(0.0, "Where the learning rate ends, as a share of its peak.", min=0, max=1)
    init_lr_frac: float = opt(0.5, "Share of those rates to start with.", min=0)
    momentum: float = opt(0.95, "Muon momentum after its ramp from 0.85.", min=0, max=0.999, flag=False)
    momentum_ramp: int = opt(300, "Steps of that ramp, at most a third of the run.", min=0, flag=False)
    momentum_end: float | None = opt(
        None, "Muon momentum at the end of the run (none: as after the ramp).", min=0, max=0.999, flag=False
    )


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

    save_every: int | str | None = opt(
        "10m", "Save every so often: steps (250) or time (10m, 1h); the last step is always saved.", min=1
    )
    keep_last: int = opt(2, "Checkpoints to keep; older ones are deleted after a newer one verifies.", min=1)
    keep_every: int | None = opt(None, "Keep the checkpoints of every this many steps for good, as well.", min=1)
    keep_best: bool = opt(False, "Save, and keep, the step that validates best.")
    max_wall: str | None = opt(None, "Save and stop before so much time has passed since the start: 90m, 4h.")

    def __post_init__(self) -> None:
        _ = self.seconds, self.max_wall_s  # a time that cannot be read is an error at once

    @property
    def steps(self) -> int | None:
        """Save every so many steps; None if it goes by time, or never."""
        return self.save_every if isinstance(self.save_every, int) else None

    @property
    def seconds(self) -> float | None:
        """Save whenever so many seconds have passed; None if it goes by steps, or never."""
        return units.parse_duration(self.save_every, "--save-every") if isinstance(self.save_every, str) else None

    @property
    def max_wall_s(self) -> float | None:
        """Seconds that the training may take, all told."""
        return None if self.max_wall is None else units.parse_duration(self.max_wall, "--max-wall")


@dataclass(frozen=True, kw_only=True)
class GuardSection:
    """What happens when something goes wrong on the way."""

    spike_sigma: float | None = opt(
        6.0,
        "Leave out a step whose loss or gradient norm is so many deviations above the last 128 (none: only what is no"
        " number).",
        min=1,
        flag=False,
    )
    hang_after_s: float | None = opt(
        600.0, "End a training in which no process has moved for so many seconds (none: never).", min=1, flag=False
    )
    supervise: bool = opt(False, "Start again from the last good checkpoint when training dies or hangs.")
    max_restarts: int = opt(3, "How often, at most.", min=1)


@dataclass(frozen=True, kw_only=True)
class RlGuardSection(GuardSection):
    """The same for reinforcement learning, whose loss leaps by its nature."""

    spike_sigma: float | None = opt(
        None,
        "Leave out a step whose loss or gradient norm is so many deviations above the last 128 (none: only what is no"
        " number).",
        min=1,
        flag=False,
    )


@dataclass(frozen=True, kw_only=True)
class ComputeSection:
    """Processes, precision and kernels. What is automatic is measured at the start and cached."""

    gpus: int | Literal["auto"] | None = opt(
        None,
        "GPUs to use on each machine; 0 means CPU, auto all there are (if not given: one, if there is one).",
        min=0,
        max=1024,
    )
    procs: int = opt(1, "Processes on a CPU.", min=1, max=64)
    threads: int | None = opt(None, "CPU threads per process (automatic: physical cores divided by processes).", min=1)
    precision: Precision = opt("auto", "Arithmetic of the matrix products.")
    attention: AttentionForm = opt(
        "auto", "Attention kernel: FlashAttention 4, 3 or 2, FlexAttention, torch's fused call, or plain products."
    )
    compile: Switch = opt("auto", "Compile the training step (automatic: when the run is long enough to gain).")
    fp8: Switch = opt("auto", "FP8 matrix products (automatic: from compute capability 8.9 and depth 20).")
    compile_limit_s: float = opt(
        600.0, "Give up compiling after this many seconds and go on without it.", min=1, flag=False
    )
    deterministic: bool = opt(
        False, "The same bits in every run on a GPU, too, at some cost in speed (on a CPU that is so anyway)."
    )
    seed: int = opt(0, "Seed of weights, data order and sampling.", min=0)


@dataclass(frozen=True, kw_only=True)
class ClusterSection:
    """Machines that train together: the same command is started on each, or on all of them by Slurm's `srun`."""

    nnodes: int | None = opt(
        None, "Machines that train together (automatic: those of the srun step, else 1).", min=1, max=10_000
    )
    node_rank: int | None = opt(
        None, "Which of them this one is, from 0; the first one writes and reports (automatic under srun).", min=0
    )
    rdzv_endpoint: str | None = opt(
        None, "HOST:PORT of the first machine, where all meet (automatic under srun; port 29500 if not given)."
    )


@dataclass(frozen=True, kw_only=True)
class TrackSection:
    """Where metrics go besides events.jsonl, which is written always; needs the extra `track`. Cannot slow a run."""

    to: tuple[str, ...] = opt((), "Send metrics there, too: wandb, tensorboard; repeatable.", flag="--track")
    project: str = opt("nanochat", "Project on wandb.", flag="--track-project")
    name: str | None = opt(None, "Name of the run on wandb (automatic: RUN/STAGE).", flag="--track-name")


@dataclass(frozen=True, kw_only=True)
class TuneSection:
    """Training a part of the model, with less memory; what is saved is a plain model all the same."""

    freeze_layers: int | None = opt(
        None, "Leave the embeddings and this many blocks, from below, as they are (none: train everything).", min=0
    )
    lora: int | None = opt(
        None, "Train adapters of this rank in the place of the blocks' matrices; saved merged (none: no adapters).",
        min=1, max=4096,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RlSection:
    """Reinforcement learning on a task with a checkable answer."""

    task: str = opt(
        "tinyworld",
        "Task by name, or your own as FILE.py:NAME, a function reward(question, reply) or a Task class (it is run).",
    )
    questions: str | None = opt(
        None, "Chats, or a text file with a question per line, for a reward function (automatic: those of --data)."
    )
    families: tuple[str, ...] = opt((), "Question families of the task to train on, or all (automatic: by task).")
    num_iterations: int = opt(40, "Optimizer steps.", min=1)
    prompts_per_step: int = opt(16, "Different questions per step.", min=1)
    num_samples: int = opt(8, "Answers sampled per question.", min=2)
    max_new_tokens: int | None = opt(
        None,
        "Longest answer in tokens; a cut one earns nothing (automatic: by task; 256 for a function).",
        min=1,
    )
    temperature: float = opt(1.0, "Sampling temperature of the rollouts.", min=0.01)
    top_k: int | None = opt(None, "Sample among this many likeliest tokens (none: all).", min=1, flag=False)
    replay: float = opt(0.25, "Weight of a supervised batch mixed into each step, which keeps other skills.", min=0)
    eval_examples: int = opt(
        200, "Questions held out to judge by, at the start, every --eval-every steps and at the end.", min=0
    )
    log_rollouts: int = opt(16, "Sampled answers per step to write to rollouts.jsonl (0: none).", min=0)


@dataclass(frozen=True, kw_only=True)
class PlanSection:
    """What a plan assumes where it cannot know."""

    gpu: str | None = opt(
        None, "GPU to plan for: h100, h200, b200, a100, l40s, 4090 … (automatic: the one here, else h100)."
    )
    vocab: int | None = opt(None, "Vocabulary size (automatic: of the tokenizer at hand, else 32,768).", min=256)
    mfu: float | None = opt(
        None, "Share of the GPU's peak that training reaches (automatic: what public runs reached).", min=0.01, max=1
    )
    price: float | None = opt(None, "Dollars for an hour of one GPU (automatic: a usual rent).", min=0)


@dataclass(frozen=True, kw_only=True)
class BenchSection:
    """How training speed is measured."""

    steps: int = opt(30, "Optimizer steps to time, after two that warm up.", min=1)
    data: str | None = opt(None, "Corpus to read (automatic: random tokens, which need none).")
    tokenizer: str | None = opt(None, "Tokenizer of that corpus (automatic: the one trained on it, else the newest).")
    vocab: int | None = opt(None, "Vocabulary size without a corpus (automatic: 32,768).", min=256)


# ---- one class per command -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig:
    """`nanochat train base`."""

    recipe: RecipeSection = field(default_factory=RecipeSection)
    output: OutputSection = field(default_factory=OutputSection)
    model: ModelSection = field(default_factory=ModelSection)
    corpus: CorpusSection = field(default_factory=CorpusSection)
    batch: BatchSection = field(default_factory=BatchSection)
    horizon: BaseHorizon = field(default_factory=BaseHorizon)
    optim: OptimSection = field(default_factory=OptimSection)
    eval: EvalSection = field(default_factory=EvalSection)
    save: SaveSection = field(default_factory=SaveSection)
    guard: GuardSection = field(default_factory=GuardSection)
    compute: ComputeSection = field(default_factory=ComputeSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    track: TrackSection = field(default_factory=TrackSection)


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
    guard: GuardSection = field(default_factory=GuardSection)
    compute: ComputeSection = field(default_factory=ComputeSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    track: TrackSection = field(default_factory=TrackSection)


@dataclass(frozen=True, kw_only=True)
class SftConfig(MidTrainConfig):
    """`nanochat train sft`."""

    tune: TuneSection = field(default_factory=TuneSection)


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """`nanochat train rl`."""

    source: SourceSection = field(default_factory=SourceSection)
    output: IntoSection = field(default_factory=IntoSection)
    rl: RlSection = field(default_factory=RlSection)
    tune: TuneSection = field(default_factory=TuneSection)
    chats: ReplaySection = field(default_factory=ReplaySection)
    optim: RlOptimSection = field(default_factory=RlOptimSection)
    eval: EvalSection = field(default_factory=EvalSection)
    save: SaveSection = field(default_factory=SaveSection)
    guard: RlGuardSection = field(default_factory=RlGuardSection)
    compute: ComputeSection = field(default_factory=ComputeSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    track: TrackSection = field(default_factory=TrackSection)


@dataclass(frozen=True, kw_only=True)
class EvalWhat:
    """What to ask, and how much."""

    only: Literal["all", "bpb", "chat", "core", "lm-eval"] = opt("all", "Which measurements to make.", flag=False)
    model: str | None = opt(
        None, "Measure this model instead of a run's, as a baseline: hf:FOLDER of transformers (needs transformers)."
    )
    task: tuple[str, ...] = opt(
        (),
        "Task to ask, or a file of conversations; repeatable (automatic: all that fit the model and are here).",
        short="-t",
    )
    limit: int | Literal["all"] | None = opt(
        None,
        "Questions per task, at most, drawn by seed; per family of a generated task; or all (automatic: 200, all of"
        " core). The result is labelled with it.",
        min=1,
    )
    baselines: Literal["v1", "v2"] = opt(
        "v1", "Table of random baselines that the first CORE score uses: v1 as published, v2 with corrections."
    )
    bundle: str | None = opt(None, "Folder of the evaluation bundle (automatic: the downloaded one).")
    sandbox: Literal["auto", "strict", "container", "none"] = opt(
        "auto",
        "Where programs of replies run: the best that proves itself here, kernel rules, a container, unprotected.",
    )
    max_new_tokens: int | None = opt(None, "Longest answer in tokens (automatic: what each task needs).", min=1)
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
class SynthChatsSection:
    """Conversations about who the model is. The key of an endpoint is NANOCHAT_API_KEY or OPENAI_API_KEY."""

    topic: str | None = opt(None, "Topic file: name, persona, facts, styles (see --example).")
    endpoint: str | None = opt(None, "OpenAI-compatible address that writes them, like https://HOST/v1.")
    model: str | None = opt(None, "Model to ask for there.")
    offline: bool = opt(False, "Write them from templates instead, without any endpoint.")
    name: str | None = opt(None, "Name of the set, for --data (automatic: that of the topic file).")
    number: int | None = opt(None, "Conversations (automatic: as the topic says).", min=1, max=100_000, short="-n")
    seed: int = opt(0, "Seed of the requests, or of the templates.", min=0)
    workers: int = opt(8, "Requests at a time.", min=1, max=256, short="-w")
    max_cost: float | None = opt(
        None, "Dollars to spend on this set at most, in all runs together; needs prices.", min=0
    )
    price_in: float | None = opt(None, "Dollars per million tokens read.", min=0)
    price_out: float | None = opt(None, "Dollars per million tokens written.", min=0)
    max_tokens_total: int | None = opt(None, "Tokens to spend on this set at most, read and written.", min=1)
    api_key_file: str | None = opt(None, "File that holds the key (automatic: from the environment).")
    temperature: float = opt(1.0, "Sampling temperature.", min=0, max=2)
    max_tokens: int = opt(1500, "Longest answer in tokens.", min=16, max=100_000)
    max_turns: int = opt(6, "Messages of a conversation, at most.", min=2, max=40)
    tries: int = opt(6, "Tries per request; waits between them grow, or are what the server asks for.", min=1, max=50)
    timeout_s: float = opt(120.0, "Seconds to wait for an answer.", min=0.01)
    near_duplicates: float | None = opt(
        0.8,
        "Leave out a conversation that overlaps with an earlier one by this share (none: only equal ones).",
        min=0.1,
        max=1,
    )
    response_format: Literal["none", "json_object", "json_schema"] = opt(
        "none", "Constraint to ask the endpoint for; not all know them."
    )


@dataclass(frozen=True, kw_only=True)
class SynthChatsConfig:
    """`nanochat data synth-chats`."""

    synth_chats: SynthChatsSection = field(default_factory=SynthChatsSection)


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
    strict: bool = opt(False, "Let files in folders that hold no usable text be errors, too.")
    workers: int | None = opt(
        None, "Processes that read (automatic: by size, up to one per core); the corpus is the same.", min=1, short="-w"
    )


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """`nanochat data add`."""

    add: AddSection = field(default_factory=AddSection)


@dataclass(frozen=True, kw_only=True)
class DownloadSection:
    """What is downloaded, and from where. Hugging Face's address and token are HF_ENDPOINT and HF_TOKEN."""

    shards: int | None = opt(
        None,
        "Shards to train on, of pretraining text; the last shard of all is fetched to validate on (automatic: what the"
        " usual training reads).",
        min=1,
        short="-n",
    )
    workers: int = opt(8, "Files to fetch at a time.", min=1, max=64, short="-w")
    mirror: tuple[str, ...] = opt(
        (),
        "Address to ask first, laid out like Hugging Face or a plain folder of the files; repeatable, tried in turn.",
    )
    from_dir: str | None = opt(None, "Copy from this folder instead, such as a USB stick; the same checks, no network.")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """`nanochat data download`."""

    download: DownloadSection = field(default_factory=DownloadSection)


@dataclass(frozen=True, kw_only=True)
class RepackageSection:
    """How shards are written anew."""

    name: str | None = opt(None, "Name of the new corpus.")
    text_field: str = opt("text", "JSON field or column that holds the text.")
    shard_chars: str = opt(
        "250M", "A shard ends at a full row group from this many characters on; a number like 250M or 1G."
    )
    row_group: int = opt(1024, "Documents in a row group.", min=1, max=1_000_000)
    shuffle: bool = opt(True, "Shuffle all documents together, whatever their number.")
    seed: int = opt(42, "Seed of the shuffle, and of which documents are for validation.", min=0)
    val_fraction: float | None = opt(
        None,
        "Share kept for validation, in the last shards (automatic: 0.01; of a small corpus more, as data add does).",
        min=0.0001,
        max=0.5,
    )
    val_shard: Literal["last"] | None = opt(None, "Keep the last shard for validation instead of a share.")
    workers: int | None = opt(
        None, "Processes (automatic: by size, up to one per core); the shards are the same.", min=1, short="-w"
    )


@dataclass(frozen=True, kw_only=True)
class RepackageConfig:
    """`nanochat data repackage`."""

    repackage: RepackageSection = field(default_factory=RepackageSection)


@dataclass(frozen=True, kw_only=True)
class PlanConfig(BaseTrainConfig):
    """`nanochat plan`: the options of base training, and what is assumed about the machine."""

    plan: PlanSection = field(default_factory=PlanSection)


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig:
    """`nanochat bench train`."""

    bench: BenchSection = field(default_factory=BenchSection)
    recipe: RecipeSection = field(default_factory=RecipeSection)
    model: ModelSection = field(default_factory=ModelSection)
    batch: BatchSection = field(default_factory=BatchSection)
    optim: OptimSection = field(default_factory=OptimSection)
    compute: ComputeSection = field(default_factory=ComputeSection)


WORKER_CONFIGS: dict[str, type] = {
    "base": BaseTrainConfig,
    "mid": MidTrainConfig,
    "sft": SftConfig,
    "rl": RlConfig,
    "eval": EvalConfig,
    "probe": BaseTrainConfig,
    "bench": BenchTrainConfig,
}

COMMAND_CONFIGS: dict[str, type] = {
    "data synth": SynthConfig,
    "data synth-chats": SynthChatsConfig,
    "data add": AddConfig,
    "data download": DownloadConfig,
    "data repackage": RepackageConfig,
    "tok train": TokTrainConfig,
    "train base": BaseTrainConfig,
    "train mid": MidTrainConfig,
    "train sft": SftConfig,
    "train rl": RlConfig,
    "eval": EvalConfig,
    "plan": PlanConfig,
    "bench train": BenchTrainConfig,
}
"""Every command that takes a config, as it is typed."""
