"""wingspan.toml -> Project: the one file that is planned, priced, rehearsed, trained and served.

Every field says its unit. `project_file.load_project` reads the file into these.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the project file: typed, closed to unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    operational: ClassVar[frozenset[str]] = frozenset()  # settings that change how a stage works, not what it makes


class ProjectInfo(Section):
    """[project]: what this is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="names the run folder: runs/<name>")
    description: str = ""
    seed: int = Field(default=1, ge=0, description="every random number derives from it")


class Rights(Section):
    """[rights]: on what grounds the posts may be used. Without it, prepare reads nothing."""

    basis: Literal["own-platform", "licence", "consent", "public-domain"]
    statement: str = Field(min_length=10, description="one sentence a lawyer would sign")


class ModelSection(Section):
    """[model]: where the weights start and, from scratch, how large the network is."""

    start: str = Field(
        default="scratch", description="'scratch', 'asset:NAME' (an open model), or a Hugging Face folder"
    )
    architecture: Literal["qwen3", "qwen3_moe", "llama"] = "qwen3"
    depth: Positive | None = Field(default=None, description="layers; the dial that derives all other sizes")
    hidden: Positive | None = Field(default=None, description="width of the residual stream")
    heads: Positive | None = Field(default=None, description="query heads")
    kv_heads: Positive | None = Field(default=None, description="key and value heads")
    head_dim: Positive | None = None
    ffn: Positive | None = Field(default=None, description="inner width of the dense MLP")
    vocab: Positive = Field(default=32768, description="tokens; also the size of a tokenizer trained here")
    tie_embeddings: bool | None = Field(default=None, description="default: tied below 1.5B parameters")
    rope_theta: PositiveFloat = 1_000_000.0
    max_positions: Positive = Field(default=8192, description="longest sequence the model is meant for, tokens")
    experts: int = Field(default=0, ge=0, description="routed experts per layer; 0 is a dense model")
    experts_per_token: int = Field(default=0, ge=0)
    expert_ffn: int = Field(default=0, ge=0, description="inner width of one expert")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start == "scratch" and self.depth is None:
            raise ValueError("a model from scratch needs depth (its number of layers)")
        if (self.architecture == "qwen3_moe") != (self.experts > 0):
            raise ValueError("experts > 0 goes with architecture = 'qwen3_moe', and only with it")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self


class Fleet(Section):
    """[fleet]: the machines."""

    device: str = Field(default="this-machine", description="a chip of the catalogue, or 'this-machine'")
    devices: Positive = 1
    devices_per_node: Positive = 8
    calibration: str | None = Field(
        default=None, description="file of 'wingspan plan backtest RUNS.csv --calibrate FILE'; default: published runs"
    )
    price_per_device_hour: PositiveFloat | None = Field(
        default=None, le=1000, description="US dollars; default: the catalogue's price"
    )
    pue: Annotated[float, Field(ge=1.0, le=3.0, allow_inf_nan=False)] = Field(
        default=1.2, description="power of the site / power of the machines"
    )
    price_per_kwh: NonNegativeFloat = Field(default=0.10, le=10, description="US dollars")
    grid_gco2_per_kwh: NonNegativeFloat = Field(default=400.0, le=3000, description="grams of CO2 per kWh of the grid")
    water_l_per_kwh: NonNegativeFloat = Field(
        default=0.37, le=100, description="litres evaporated on site per kWh; US data centres of 2023 (LBNL 2024)"
    )
    cooling: Literal["liquid", "air"] = Field(default="liquid", description="of the nodes; air needs fans")
    failures_per_million_device_hours: PositiveFloat | None = Field(
        default=None, description="interruptions of the run; default: what Llama 3 reports"
    )
    delivered_per_week: PositiveFloat | None = Field(
        default=None, description="devices that arrive a week; default: all are there"
    )
    burn_in_days: NonNegativeFloat = Field(default=0.0, description="tests before a delivered machine works")


class Layout(Section):
    """[layout]: how the model lies over the fleet. Leave it out and plan chooses."""

    dp_replicate: Positive = Field(default=1, description="replicas that hold the same shards (HSDP)")
    dp_shard: Positive = Field(default=1, description="ranks over which parameters are sharded (FSDP)")
    tp: Positive = Field(default=1, description="tensor (and sequence) parallel")
    cp: Positive = Field(default=1, description="context parallel")
    pp: Positive = Field(default=1, description="pipeline stages")
    ep: Positive = Field(default=1, description="expert parallel")
    micro_batch: Positive = Field(default=1, description="sequences per rank per forward pass")
    recompute: Literal["none", "selective", "full"] = "none"
    precision: Literal["bf16", "fp32", "fp8"] = "bf16"
    schedule: Literal["1f1b", "zbv"] = Field(default="1f1b", description="of pipeline stages; zbv: zero-bubble V")
    interleave: Positive = Field(default=1, description="pipeline stages per rank, in turns (1f1b)")

    @property
    def world_size(self) -> int:
        """Ranks that the layout needs; expert parallelism lies inside data parallelism."""
        return self.dp_replicate * self.dp_shard * self.tp * self.cp * self.pp

    @property
    def data_parallel(self) -> int:
        """Ranks that read different samples."""
        return self.dp_replicate * self.dp_shard


class Source(Section):
    """A file or folder to read: a path, or `asset:NAME/FILE` for an open data set fetched once."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    path: str
    licence: str = Field(min_length=2, description="licence or contract of the data; shown in the report")


class PostSource(Source):
    """[[prepare.posts]]: posts of one platform."""

    reader: str = Field(description="format, such as 'jsonl' or 'x-archive'; see docs/sources.md")
    columns: dict[str, str | int] = Field(
        default_factory=dict, description="post field -> column name or zero-based position"
    )
    separator: str = Field(default=",", min_length=1, max_length=1)
    header: bool = True


class DialogueSource(Source):
    """[[prepare.dialogues]]: conversations to align on."""

    reader: str = Field(description="'chatterbot' (YAML folders) or 'messages' (JSON lines)")
    languages: tuple[str, ...] = Field(default=(), description="only these; empty: all")
    limit: int | None = Field(
        default=None, gt=0, description="at most this many conversations per language on each side of the split"
    )


class LabelSource(Source):
    """[[prepare.labels]]: what people said of posts (ratings, classes), to measure and align with."""

    separator: str = Field(default="\t", min_length=1, max_length=1)
    post_id: int = Field(default=0, description="column of the post's id")
    value: int = Field(default=1, description="column of the mean rating")
    posts: str = Field(description="name of the [[prepare.posts]] source that the ids belong to")


class ReactionSource(Source):
    """[[prepare.reactions]]: what readers did with posts: rows post_id, signal, count and, where known, reader_id."""


Tag = Literal[
    "cut short", "link farm", "link alone", "hashtag flood", "handle flood", "emoji flood", "repetition", "shouting",
    "spam", "toxic", "flooding account", "repeating account", "linking account", "template", "copypasta",
]  # fmt: skip


class Mixture(Section):
    """[prepare.mixture]: how often which posts are trained on, and in what order. Without it, once and as read.

    Keys of `weights` and `epochs` are a source, a source and a language ("photos/de"), or a language ("*/de").
    """

    weights: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, description="shares wanted of the training text, of whatever sum"
    )
    epochs: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, description="times that a post is used, where no weight says; 1 elsewhere"
    )
    most_epochs: PositiveFloat = Field(
        default=4.0, description="times at most (Muennighoff et al. 2023: up to 4 are worth nearly as much as new text)"
    )


class Prepare(Section):
    """[prepare]: posts -> conversations -> tokens."""

    posts: tuple[PostSource, ...] = ()
    dialogues: tuple[DialogueSource, ...] = ()
    labels: tuple[LabelSource, ...] = ()
    reactions: tuple[ReactionSource, ...] = ()
    held_out: Fraction = Field(default=0.1, description="share of posts and dialogues never trained on")
    min_characters: int = Field(default=3, ge=0, description="shorter posts are dropped")
    near_duplicate_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.8, description="Jaccard similarity of character 5-grams from which posts are duplicates"
    )
    opt_outs: str = Field(
        default="", description="file of posts, authors, domains and addresses never used, one a line"
    )
    consent: tuple[
        Literal["indexable", "noindex", "discoverable", "memorial", "no-unauthenticated", "ai-preference"], ...
    ] = Field(
        default=("indexable", "noindex", "discoverable", "memorial", "no-unauthenticated", "ai-preference"),
        description="signals of profiles by which an author's posts are never used",
    )
    drop: tuple[Tag, ...] = Field(
        default=(
            "cut short", "link farm", "link alone", "hashtag flood", "handle flood", "emoji flood", "repetition",
            "spam", "flooding account", "repeating account", "template", "copypasta",
        ),
        description="tags whose posts are dropped; with the others posts are kept and tagged",
    )  # fmt: skip
    account_posts_per_day: Positive = Field(default=200, description="an account with more on one day floods")
    handles: Literal["pseudonym", "mask"] = Field(
        default="pseudonym", description="what takes the place of a handle in a text: a keyed pseudonym, or @user"
    )
    find_names: str = Field(
        default="", description="'module:function' that finds names in texts with other personal data"
    )
    evaluation_sets: tuple[str, ...] = Field(
        default=(), description="files or folders whose texts must not be trained on"
    )
    mixture: Mixture | None = None
    grounded_dialogues: int = Field(
        default=400, ge=0, description="questions about posts, answered by quoting them, made from train posts"
    )
    grounded_held_out: int = Field(
        default=48, ge=0, description="such questions made from held-out posts, to evaluate on"
    )
    label_dialogues: int = Field(default=200, ge=0, description="label questions made from rated train posts")
    documents_per_shard: Positive = 1_000_000


class TunedAt(Section):
    """Size of the model at which the learning rate and the weight decay were found."""

    depth: Positive
    hidden: Positive


class Optimizer(Section):
    """[train.optimizer] and [align.optimizer]: update rule and schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 3e-4
    weight_decay: NonNegativeFloat = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    tuned_at: TunedAt | None = Field(
        default=None,
        description="{ depth, hidden } at which these were found: other sizes scale them (muP); default: none",
    )
    clip: PositiveFloat = Field(default=1.0, description="largest global gradient norm")
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: Fraction = Field(default=0.05, description="share of the steps")
    decay: Annotated[float, Field(ge=0.0, le=1.0)] = Field(default=0.4, description="share of the steps (wsd)")
    final: Fraction = Field(default=0.0, description="learning rate at the end / at the peak")


class Ramp(Section):
    """[train.ramp]: the global batch grows by steps of `start` to global_batch."""

    start: Positive = Field(description="sequences of the first steps; divides global_batch")
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(default=0.1, description="of the tokens, until it is whole")


class Train(Section):
    """[train]: tokens -> base model."""

    operational = frozenset(
        {
            "checkpoint_every", "keep_checkpoints", "local_checkpoints", "local_checkpoint_every", "log_every",
            "hang_timeout_s",
        }
    )  # fmt: skip
    tokens: Positive | None = Field(
        default=None, description="token budget; default 20 per parameter (Hoffmann et al. 2022)"
    )
    sequence: Positive = Field(default=512, description="tokens")
    global_batch: Positive = Field(default=8, description="sequences per step, over all ranks")
    ramp: Ramp | None = Field(default=None, description="{ start, share }: small batches first; default: none")
    optimizer: Optimizer = Optimizer()
    checkpoint_every: Positive = Field(default=50, description="steps")
    keep_checkpoints: Positive = 2
    local_checkpoints: str = Field(
        default="", description="folder on a fast disk of each node for more frequent copies of its own shards"
    )
    local_checkpoint_every: int = Field(default=0, ge=0, description="steps; 0: never")
    z_loss: NonNegativeFloat = Field(default=0.0, description="weight of log(sum of exp(logits))^2; 1e-4 is usual")
    log_every: Positive = Field(default=1, description="steps")
    compile: bool = Field(
        default=False, description="torch.compile: all of it with its loss on one process, else each block"
    )
    spike_deviations: NonNegativeFloat = Field(
        default=6.0, description="a step whose loss or gradient lies so far above the last 64 is left out; 0: none is"
    )
    hang_timeout_s: PositiveFloat = Field(
        default=300.0, description="seconds without a step after which the ranks that hang are named and the run ends"
    )
    rollback_after: int = Field(default=8, ge=0, description="steps left out in a row before going back; 0: never")

    @model_validator(mode="after")
    def _ramp_divides(self) -> Self:
        if self.ramp is not None and self.global_batch % self.ramp.start:
            raise ValueError(f"ramp.start {self.ramp.start} does not divide global_batch {self.global_batch}")
        return self


class Preference(Section):
    """[align.preference]: what dpo, ipo, kto, orpo and simpo learn from, and how."""

    sources: tuple[Source, ...] = Field(
        default=(), description="JSON lines of preferred and refused answers, or of feedback to served ones"
    )
    beta: PositiveFloat | None = Field(default=None, description="how far from the reference; default: the paper's")
    length_normalised: bool = Field(default=False, description="log-probabilities per token instead of per answer")
    epochs: PositiveFloat = Field(default=1.0, description="passes over the preferences")
    optimizer: Optimizer = Optimizer(learning_rate=5e-6, schedule="cosine", weight_decay=0.0)


class Rollouts(Section):
    """[align.rollouts]: what grpo tries and checks."""

    steps: Positive = Field(default=40, description="steps of align.global_batch questions each")
    answers: Positive = Field(default=4, ge=2, description="answers drawn to each question")
    answer_tokens: Positive = Field(default=64, description="longest answer, tokens")
    optimizer: Optimizer = Optimizer(learning_rate=5e-6, schedule="cosine", weight_decay=0.0)


class Align(Section):
    """[align]: base model -> assistant."""

    methods: tuple[Literal["sft", "dpo", "ipo", "kto", "orpo", "simpo", "grpo"], ...] = Field(
        default=("sft",), min_length=1, description="steps in order; each goes on from the weights of the one before"
    )
    epochs: PositiveFloat = Field(default=1.0, description="passes over the training conversations")
    sequence: Positive = Field(default=512, description="tokens")
    global_batch: Positive = Field(default=8, description="packed sequences per step, over all ranks")
    optimizer: Optimizer = Optimizer(learning_rate=1e-4, schedule="cosine", weight_decay=0.0)
    checkpoint_every: Positive = Field(default=25, description="steps")
    keep_checkpoints: Positive = 2
    lora_rank: int = Field(default=0, ge=0, description="rank of low-rank adapters, merged at the end; 0: all weights")
    preference: Preference = Preference()
    rollouts: Rollouts = Rollouts()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods names a step twice")
        return self


class Refusal(Section):
    """[[assistant.refuse]]: what is not answered, and what is said instead."""

    topic: str = Field(min_length=3, description="as the system prompt names it")
    answer: str = Field(min_length=3, description="what the assistant says")
    questions: tuple[str, ...] = Field(default=(), description="examples, which align teaches to answer so")


class Assistant(Section):
    """[assistant]: the policy: who answers, and by what rules; the same words in prepare, align, evaluate and serve."""

    name: str = "wingspan"
    system: str = Field(
        default="You are the assistant of a social platform. Answer from the posts you are given and cite them "
        "like [1]. If the posts do not answer the question, say so.",
        description="system prompt: who the assistant is and how it cites",
    )
    principles: tuple[str, ...] = Field(default=(), description="its constitution, a sentence each")
    refuse: tuple[Refusal, ...] = ()

    @property
    def instructions(self) -> str:
        """The whole system prompt: `system`, the principles, and what to refuse."""
        refused = [f"Do not answer questions about {one.topic}; say: {one.answer}" for one in self.refuse]
        return "\n".join([self.system, *self.principles, *refused])

    @property
    def version(self) -> str:
        """A hash of the policy: two runs with the same one have the same rules."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:12]


class Evaluate(Section):
    """[evaluate]: base and assistant side by side."""

    bits_per_byte_posts: Positive = Field(default=400, description="held-out posts scored")
    reply_choices: Positive = Field(default=120, description="held-out dialogues scored")
    distractors: Positive = Field(default=3, description="wrong replies beside the right one")
    sentiment_posts: Positive = Field(default=200, description="held-out rated posts scored")
    citation_questions: Positive = Field(default=48, description="questions answered and checked")
    answer_tokens: Positive = Field(default=64, description="longest answer to such a question, tokens")
    resamples: Positive = Field(default=2000, description="bootstrap resamples of each interval")
    threads: int = Field(default=0, ge=0, description="held-out threads summed up with citations")
    tweeteval: str = Field(default="", description="folder of TweetEval's tasks; empty: not asked")
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), description="examples before a TweetEval question; several: asked once with each"
    )
    benchmarks: tuple[str, ...] = Field(
        default=(), description="files of questions, or task files (.yaml) of lm-evaluation-harness"
    )
    items: Positive = Field(default=500, description="posts or questions at most of each of these")
    safety: bool = Field(default=False, description="ask the safety sets; look for posts learned by heart")
    leaks: dict[str, str] = Field(
        default_factory=dict, description="name -> file of texts that must not be revealed (canaries, deleted posts)"
    )
    rival: str = Field(default="", description="a third model: a folder, or an endpoint as http://HOST/v1#MODEL")


class Traffic(Section):
    """[serve.traffic]: who will ask, for plan to size the machines."""

    daily_users: Positive = Field(default=1_000_000, description="people who ask on a day")
    questions_per_user: PositiveFloat = Field(default=3.0, description="a day, of each of them")
    prompt_tokens: Positive = Field(default=600, description="instructions, posts and question")
    answer_tokens: Positive = Field(default=120, description="tokens of a usual answer")
    tokens_per_s: PositiveFloat = Field(default=20.0, description="slowest pace at which an answer may be written")


class Serve(Section):
    """[serve]: assistant -> answers."""

    host: str = Field(default="127.0.0.1", description="loopback unless you say otherwise")
    port: int = Field(default=8321, ge=0, le=65535, description="0 takes any free port")
    engine: Literal["openvino", "torch"] = "openvino"
    weights: Literal["f16", "q8_0"] = Field(default="q8_0", description="precision of the served weights")
    max_tokens: Positive = Field(default=160, description="longest answer, tokens")
    retrieved_posts: Positive = Field(default=4, description="posts put before the assistant")
    remembered_turns: int = Field(
        default=6, ge=0, description="earlier turns put before the assistant; a small model mixes them up: 0"
    )
    keys: bool = Field(default=False, description="ask for API keys on loopback too (a proxy); elsewhere always")
    concurrent_answers: Positive = Field(default=32, description="answers made at a time")
    waiting_answers: int = Field(default=64, ge=0, description="questions that may wait for a place; others get 429")
    traffic: Traffic = Traffic()


class Telemetry(Section):
    """[telemetry]: how train and align are watched. It changes no result, so no stage is done again for it."""

    metrics_port: int = Field(default=0, ge=0, le=65535, description="of a loopback page for Prometheus; 0: none")
    tensorboard: bool = Field(default=False, description="write event files for TensorBoard")
    evaluate_every: int = Field(
        default=0, ge=0, description="training steps between scores of held-out posts, by source and language; 0: none"
    )


class Project(Section):
    """The whole project file."""

    project: ProjectInfo
    rights: Rights | None = None
    model: ModelSection
    fleet: Fleet = Fleet()
    layout: Layout | None = None
    prepare: Prepare = Prepare()
    train: Train = Train()
    align: Align = Align()
    assistant: Assistant = Assistant()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    telemetry: Telemetry = Telemetry()
