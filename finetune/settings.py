"""Every setting of a training, typed and checked at once before step one, and written to run.json in full.

What a method does when it is not told (rates, say) is in `METHOD_DEFAULTS`, so that one screen answers "what does it train with?".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fmx.settings import check
from fmx.task_names import IMAGES, IN_PAIRS, LABELS, PAIRS, READ_TEXTS, SCORES, TEXTS, TOKENS, TaskName

EMBEDDED_MODEL = "efficientnet_lite0"
EMBEDDED_TEXT_MODEL = "all-minilm-l6-v2"

Method = Literal["finetune", "linear-probe", "lp-ft", "lora", "norm-bias", "few-shot", "ia3", "adapter"]
METHODS: tuple[str, ...] = get_args(Method)
TEXT_METHODS = ("few-shot", "ia3", "adapter")
"""Those that train encoders of texts alone."""

METHOD_DEFAULTS: dict[str, dict[str, float]] = {
    "finetune": {"adamw": 1e-3, "sgd": 2e-2, "head_lr_factor": 10.0},
    "linear-probe": {"adamw": 1e-2, "sgd": 0.5, "head_lr_factor": 1.0},
    "lp-ft": {"adamw": 5e-4, "sgd": 1e-2, "head_lr_factor": 2.0},
    "lora": {"adamw": 2e-3, "sgd": 5e-2, "head_lr_factor": 5.0},
    "norm-bias": {"adamw": 3e-3, "sgd": 5e-2, "head_lr_factor": 3.0},
}
"""Peak rate by optimiser, and the head's rate over it, unless --lr and --head-lr-factor say otherwise."""

TEXT_METHOD_DEFAULTS: dict[str, dict[str, float]] = {
    "finetune": {"adamw": 1e-4, "sgd": 5e-3, "head_lr_factor": 10.0},
    "linear-probe": {"adamw": 1e-2, "sgd": 0.5, "head_lr_factor": 1.0},
    "lp-ft": {"adamw": 5e-5, "sgd": 2e-3, "head_lr_factor": 2.0},
    "lora": {"adamw": 1e-3, "sgd": 2e-2, "head_lr_factor": 5.0},
    "norm-bias": {"adamw": 2e-3, "sgd": 2e-2, "head_lr_factor": 3.0},
    "few-shot": {"adamw": 1e-4, "sgd": 5e-3, "head_lr_factor": 1.0},
    "ia3": {"adamw": 1e-2, "sgd": 0.1, "head_lr_factor": 1.0},
    "adapter": {"adamw": 1e-3, "sgd": 2e-2, "head_lr_factor": 5.0},
}
"""The same for encoders of texts, which break at the rates of convolutional networks."""

TEXT_DEFAULTS: dict[str, Any] = {"model": EMBEDDED_TEXT_MODEL, "epochs": 5, "augment": "none", "adversarial_eps": 1.0}
"""What a training on texts does otherwise unless it is told."""

TEXT_EPOCHS = {"linear-probe": 12, "few-shot": 100}
"""Of heads on features, which cost next to nothing; few rows make few steps an epoch."""

IMAGES_ONLY = (
    "size",
    "augment",
    "mixup",
    "cutmix",
    "teacher",
    "unlabelled",
    "probe_views",
    "drop_path",
    "norm_statistics",
)
TEXTS_ONLY = ("max_length", "text_column", "label_column", "extend_vocab", "token_dropout")
PAIRS_ONLY = ("pair_column", "query_column")
_WANTED_DATA = {
    TEXTS: "a table with a text and a label column",
    LABELS: "a table with a text and a column of labels",
    PAIRS: "a table with two text columns and a label column",
    SCORES: "a table with two text columns and a column of numbers",
    TOKENS: "in CoNLL's format, or rows of a text and its entities",
}


def method_defaults(task: str) -> dict[str, dict[str, float]]:
    """Give the rates of every method for a task."""
    return TEXT_METHOD_DEFAULTS if task in READ_TEXTS else METHOD_DEFAULTS


def _number_or_word(value: Any) -> Any:
    """Read `auto` as a word and everything else that can be one as a number, so that a fault is reported once and not per kind."""
    try:
        return float(value) if isinstance(value, str) and value != "auto" else value
    except ValueError:
        raise ValueError("it must be a number or auto") from None


def _is_auto_or(low: float, strict: bool) -> BeforeValidator:
    def read(value: Any) -> Any:
        value = _number_or_word(value)
        if value in (None, "auto"):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("it must be a number or auto")
        if not (value > low if strict else value >= low):
            raise ValueError(f"it must be {'above' if strict else 'at least'} {low:g}, or auto")
        return value

    return BeforeValidator(read)


Rate = Annotated[float | Literal["auto"] | None, _is_auto_or(0, strict=True)]
BatchSize = Annotated[int | Literal["auto"], _is_auto_or(2, strict=False)]


class TrainSettings(BaseModel):
    """What `fmx train` can be told. None means: chosen from the data, the model or the method, and then written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskName = IMAGES
    data: str = "digits"
    text_column: str | None = None
    """Of a table of texts; None is guessed."""
    label_column: str | None = None
    pair_column: str | None = None
    """The second text's, of a table of pairs."""
    query_column: str | None = None
    """What candidates of one query share, of a table of pairs."""
    group_by: str | None = None
    """Manifests: a column; folders: a pattern. Rows of one group never get into two splits."""
    allow_leakage: bool = False
    on_bad_image: Literal["skip", "error"] = "skip"
    model: str = EMBEDDED_MODEL
    weights: str = "default"
    method: Method = "finetune"
    epochs: int = Field(default=12, ge=1, le=10_000)
    probe_epochs: int = Field(default=10, ge=1, le=10_000)
    """Of lp-ft's first stage."""
    probe_views: int = Field(default=0, ge=0, le=64)
    """Augmented views of each training row whose features are cached beside the plain ones (linear-probe, lp-ft)."""
    lora_rank: int = Field(default=8, ge=1, le=512)
    adapter_width: int | None = Field(default=None, ge=1, le=4096)
    """Of the bottlenecks; None: 48, or that of the run that is continued."""
    contrastive_epochs: int = Field(default=1, ge=1, le=10_000)
    """Of few-shot's first stage."""
    contrastive_pairs: int = Field(default=512, ge=2, le=1_000_000)
    """Of training rows, an epoch of few-shot's first stage: half of one label, half of two."""
    size: int | None = Field(default=None, ge=8, le=2048)
    max_length: int | None = Field(default=None, ge=8, le=8192)
    """Tokens of a text, special ones included; what is behind is cut off."""
    extend_vocab: int = Field(default=0, ge=0, le=100_000)
    """Most words and characters of the training texts that the tokenizer does not know and that become tokens."""
    batch_size: BatchSize = 32
    """Rows an optimiser step, over all processes. auto: the fastest that fits, measured."""
    norm_statistics: Literal["auto", "frozen", "batch"] = "auto"
    """Whether batch norms keep the base model's statistics or take each batch's. auto: frozen on statistics that a
    training has moved, which on small data is more accurate; batch from random weights."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """Parts that a batch is cut into to save memory; the gradient stays the whole batch's. Raised when memory runs out."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Rate = None
    """Peak rate of what is trained of the base model (linear-probe: of the head). auto: a range test."""
    head_lr_factor: float | None = Field(default=None, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer's rate is this times that of the layer above it."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises from near zero to its peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    patience: int = Field(default=8, ge=1)
    """Epochs without a better validation accuracy, or a lower loss at the same accuracy, after which training stops."""

    augment: Literal["light", "trivial", "rand", "none"] = "light"
    """light: scale, shift and turn a little, mirror where the data allow it. trivial: TrivialAugment. rand: RandAugment."""
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of a text's tokens that become unknown in training."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, le=10)
    """Alpha of the Beta distribution; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0, le=10)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Before the head; None keeps what the model has."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Stochastic depth of the last block, rising linearly from the first; None keeps what the model has."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the weights' moving average that is then evaluated and kept; 0 is off."""
    balance: Literal["none", "weights", "sampler"] = "none"
    """For rare classes: a heavier loss, or drawn more often."""

    adversarial: Literal["none", "fgsm", "fgm", "pgd"] = "none"
    """fgsm: of images. fgm: of the embeddings of texts. pgd: of both."""
    adversarial_eps: float = Field(default=4.0, gt=0, le=255)
    """Largest change of a pixel, of 255; of a text's embeddings, in the L2 norm of all of them."""
    adversarial_steps: int = Field(default=3, ge=1, le=100)
    """Of PGD in training; robust accuracy is measured with 10."""
    teacher: str | None = None
    """A run whose probabilities are imitated."""
    distill_weight: float = Field(default=0.5, ge=0, le=1)
    distill_temperature: float = Field(default=2.0, gt=0)
    unlabelled: str | None = None
    """A folder of images without labels, learnt from by FixMatch."""
    unlabelled_ratio: int = Field(default=2, ge=1, le=16)
    """Unlabelled rows for each labelled row of a batch."""
    unlabelled_threshold: float = Field(default=0.95, gt=0, lt=1)

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    """torch.compile, where its steps are measured to be faster."""
    gradient_checkpointing: bool = False
    shard: bool = False
    """Split gradients, the optimiser's moments and working weights over the processes (FSDP) instead of each holding all of them (DDP)."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """A checkpoint is written after each epoch, and inside one after so many minutes."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Beside TensorBoard, which is always written."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the split where the data have none; apart from `seed`, so that trainings with several seeds are judged on the same rows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_prefixes(cls, values: Any) -> Any:
        """Peft 0.21 gives prefixes as a cache: BERT's kin reads it, ModernBERT and MPNet ignore it without a word, DeBERTa breaks at it."""
        if isinstance(values, dict) and values.get("method") == "prefix-tuning":
            raise ValueError("--method prefix-tuning is not for encoders, most of which take no prefix; use adapter or ia3, or lora")
        return values

    @model_validator(mode="before")
    @classmethod
    def _read_kind_of_labels(cls, values: Any) -> Any:
        """Take `multi_label` and `scores` for the tasks that they make of `text-classification` and `text-pair`."""
        for name, of, task in (("multi_label", TEXTS, LABELS), ("scores", PAIRS, SCORES)):
            if not isinstance(values, dict) or name not in values:
                continue
            asked = values[name]
            if asked not in (None, True, False):
                raise ValueError(f"{name} is {asked!r}: it must be true or false")
            values = {key: value for key, value in values.items() if key != name}
            if asked and values.get("task") not in (of, task):
                raise ValueError(f"--{name.replace('_', '-')} is for --task {of}")
            values = {**values, "task": task} if asked else values
        return values

    @model_validator(mode="before")
    @classmethod
    def _fill_by_task(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("task") not in READ_TEXTS:
            return values
        if values.get("adversarial", "none") == "none" and values.get("adversarial_eps") == cls.model_fields["adversarial_eps"].default:
            values = {key: value for key, value in values.items() if key != "adversarial_eps"}  # as written before texts had one of their own
        known = {**TEXT_DEFAULTS, "epochs": TEXT_EPOCHS.get(str(values.get("method")), TEXT_DEFAULTS["epochs"])}
        return {**known, **{key: value for key, value in values.items() if value is not None or key not in TEXT_DEFAULTS}}

    @model_validator(mode="after")
    def _fit_together(self) -> TrainSettings:
        if self.method in TEXT_METHODS and self.task not in READ_TEXTS:
            instead = "linear-probe or lp-ft" if self.method == "few-shot" else "lora or norm-bias"
            raise ValueError(f"--method {self.method} is for texts; for images use {instead}")
        on_rows = {
            "--mixup": self.mixup > 0,
            "--cutmix": self.cutmix > 0,
            "--adversarial": self.adversarial != "none",
            "--teacher": self.teacher is not None,
            "--unlabelled": self.unlabelled is not None,
            "--gradient-checkpointing": self.gradient_checkpointing,
            "--layer-decay": self.layer_decay != 1,
            "--drop-path": self.drop_path is not None,
        }
        asked = [option for option, is_on in on_rows.items() if is_on]
        if self.method == "few-shot" and self.adversarial != "none":
            raise ValueError("--adversarial cannot be combined with --method few-shot, whose encoder learns from pairs; try lp-ft")
        if self.method == "few-shot" and self.lr == "auto":
            raise ValueError("--lr auto cannot be combined with --method few-shot, whose head is trained last; give a number, the encoder's")
        if self.method == "linear-probe" and asked:
            raise ValueError(f"{', '.join(asked)} cannot be combined with --method linear-probe, which trains on stored features; try lp-ft")
        unused = [f"--{name.replace('_', '-')} does nothing {why}" for name, (used, why) in self._uses().items() if not used and self._differs(name)]
        if unused:
            raise ValueError("; ".join(unused))
        if self.task in READ_TEXTS and self.data == "digits":
            raise ValueError(f"--task {self.task} needs texts: --data FILE, {_WANTED_DATA[self.task]}")
        if self.task == LABELS and self.method == "few-shot":
            raise ValueError("--method few-shot learns from pairs of one label and of two, and a text of several has no one label; use lp-ft")
        if self.task == SCORES and self.method == "few-shot":
            raise ValueError("--method few-shot learns from pairs of one label and of two, and scores are no labels; use lp-ft")
        if self.task == TOKENS and self.method in ("linear-probe", "lp-ft", "few-shot"):
            raise ValueError(f"--method {self.method} learns from one vector a text; for {TOKENS} use finetune, lora, norm-bias, ia3 or adapter")
        if self.task in (TOKENS, LABELS) and self.balance != "none":
            raise ValueError(f"--balance is for rows of one class, and a text of {self.task} has several")
        if self.adversarial == ("fgsm" if self.task in READ_TEXTS else "fgm"):
            of_texts = self.task in READ_TEXTS
            raise ValueError(f"--adversarial {self.adversarial} is for {'images, fgm for texts' if of_texts else 'texts, fgsm for images'}")
        if self.task in READ_TEXTS and self.adversarial != "none" and (self.compile or self.gradient_checkpointing):
            raise ValueError("--adversarial on texts cannot be combined with --compile or --gradient-checkpointing")
        if self.shard and self.ema:
            raise ValueError("--ema needs all weights after every step, and --shard splits them; use one of the two")
        if self.batch_size != "auto" and self.accumulate > 1 and self.batch_size // self.accumulate < 2:
            raise ValueError(f"--accumulate {self.accumulate} would cut a batch of {self.batch_size} into parts of less than two rows")
        return self

    def _differs(self, name: str) -> bool:
        """A run.json gives every setting; one that is at its default asks for nothing."""
        default = type(self).model_fields[name].default
        if self.task in READ_TEXTS:
            default = TEXT_DEFAULTS.get(name, default)
        return name in self.model_fields_set and getattr(self, name) not in (default, None)

    def _uses(self) -> dict[str, tuple[bool, str]]:
        """Say of each setting that not every training has a use for whether this one has, and what it needs."""
        reads_texts = self.task in READ_TEXTS
        by_task = {
            **{name: (not reads_texts or getattr(self, name) in ("none", "frozen"), "for texts") for name in IMAGES_ONLY},
            **dict.fromkeys(TEXTS_ONLY, (reads_texts, "for images")),
            **dict.fromkeys(PAIRS_ONLY, (self.task in IN_PAIRS, "without --task text-pair")),
        }
        return by_task | {name: use for name, use in self._uses_by_method().items() if by_task.get(name, (True, ""))[0]}

    def _uses_by_method(self) -> dict[str, tuple[bool, str]]:
        on_rows = self.method != "linear-probe"
        probes = self.method in ("linear-probe", "lp-ft")
        return {
            "probe_epochs": (self.method == "lp-ft", "without --method lp-ft"),
            "max_length": (not self.model.startswith("run:"), "beside --model run:NAME, whose window stays"),
            "token_dropout": (on_rows, "for --method linear-probe, which trains on stored features"),
            "extend_vocab": (self.method in ("finetune", "lp-ft", "few-shot") and not self.model.startswith("run:"), self._why_no_new_tokens()),
            "probe_views": (probes, f"for --method {self.method}"),
            "contrastive_epochs": (self.method == "few-shot", "without --method few-shot"),
            "contrastive_pairs": (self.method == "few-shot", "without --method few-shot"),
            "adapter_width": (self.method == "adapter", "without --method adapter"),
            "balance": (self.method != "few-shot", "for --method few-shot, whose pairs have every label equally often"),
            "lora_rank": (self.method == "lora", "without --method lora"),
            "head_lr_factor": (on_rows and self.method != "few-shot", f"for --method {self.method}, whose head is trained by itself"),
            "norm_statistics": (on_rows or self.norm_statistics == "frozen", "for --method linear-probe, which is frozen"),
            "augment": (on_rows or self.probe_views > 0 or self.augment == "none", "for --method linear-probe without --probe-views"),
            "weights": (not self.model.startswith("run:"), "beside --model run:NAME, which brings its own"),
            "adversarial_eps": (self.adversarial != "none", "without --adversarial"),
            "adversarial_steps": (self.adversarial == "pgd", "without --adversarial pgd"),
            "distill_weight": (self.teacher is not None, "without --teacher"),
            "distill_temperature": (self.teacher is not None, "without --teacher"),
            "unlabelled_ratio": (self.unlabelled is not None, "without --unlabelled"),
            "compile": (on_rows, "for --method linear-probe, which trains one layer"),
            "patience": (self.method != "few-shot", "for --method few-shot, whose stages keep their last epoch"),
            "shard": (on_rows and self.method != "few-shot", f"for --method {self.method}, which trains one layer at the end"),
            "unlabelled_threshold": (self.unlabelled is not None, "without --unlabelled"),
        }

    def _why_no_new_tokens(self) -> str:
        if self.model.startswith("run:"):
            return "beside --model run:NAME, whose tokens stay"
        return f"for --method {self.method}, which leaves the embeddings as they are: use finetune, lp-ft or few-shot"

    @property
    def peak_rate(self) -> float:
        """The peak rate when `lr` is a number or None; a range test replaces `auto` before it is asked for."""
        return self.lr if isinstance(self.lr, float | int) else method_defaults(self.task)[self.method][self.optimiser]

    @property
    def head_factor(self) -> float:
        """The head's rate over `peak_rate`."""
        return self.head_lr_factor or method_defaults(self.task)[self.method]["head_lr_factor"]


def check_settings(values: dict[str, Any]) -> TrainSettings:
    """Check settings, all problems reported at once. Raises: `UsageError`."""
    return check(TrainSettings, values, "fmx train --help")
