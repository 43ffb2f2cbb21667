"""One trained run: a named row of the table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from dynat.config import registry
from dynat.config.base import Count, NotNegative, Real, StrictModel, WrittenIfSet, problems
from dynat.config.dataset import ExtraUse
from dynat.config.init import InitConfig
from dynat.config.renamed import RETIRED_METHODS
from dynat.config.training import (
    AugmentationConfig,
    AWPConfig,
    InnerAttack,
    OptimizerConfig,
    ScheduleConfig,
    SWAConfig,
    ValidationConfig,
)

LARGEST_ADAMW_RATE = 0.03
"""Ten times what trains a small network; with more, AdamW destroys what it has learned."""


class Run(StrictModel):
    """One training recipe: the method, the labels, the networks, and how they are trained."""

    method: str
    """The loss of the target; see the table of methods below."""
    labels: Literal["true", "dynamic"] = "true"
    """Labels of the adversarial images: the true labels, or the guide's argmax on the clean image."""
    target: str
    """The network that is to become robust."""
    guide: str | None = None
    """The network that learns on clean images beside the target. In `training:` it is for the runs that need one."""
    guide_mode: Literal["train", "eval"] = "train"
    """BatchNorm mode in which the guide labels the images; `train` is what was released."""
    beta: NotNegative | None = None
    """With dynamic labels only: weight of the target's loss against the guide's, L = CE(guide, y) + beta * L_target. By
    default the top-level `beta`."""
    consistency: NotNegative = 0.0
    """Weight of KL(p(x) ‖ p(x')) on the target: beta of TRADES (1/lambda in its paper), lambda of
    MART, alpha of LBGAT."""
    clean_forward: bool | None = None
    """Forward the clean batch through the target too, which updates its BatchNorm statistics. By default on for runs
    with a guide whose loss does not do so anyway."""
    options: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """Settings that only this method reads; see [options](#options)."""
    awp: AWPConfig | None = None
    """Adversarial weight perturbation; see [awp](#awp). Off by default; `{}` switches it on with its defaults."""
    inner: InnerAttack = InnerAttack()
    """The inner attack, which makes the adversarial images; see [inner](#inner)."""
    label_smoothing: Annotated[Real, Field(ge=0, lt=1), WrittenIfSet()] = 0.0
    """Share s of label smoothing: a label becomes 1-s of its class and s/C of each of the C classes, true or dynamic
    alike. It applies to every cross-entropy of the training loss, that of the guide too, but not to the inner attack. 0
    is off."""
    init: Annotated[InitConfig | None, WrittenIfSet()] = None
    """The weights from which target or guide start; see [init](#init). By default random ones, drawn with the seed."""
    epochs: Annotated[Count, Field(le=100_000)] = 100
    """Number of epochs."""
    batch: Count = 128
    """Images per training step."""
    extra: Annotated[ExtraUse | None, WrittenIfSet()] = None
    """Changes `ratio` or `labels` of the data set's extra images for this run; `{ratio: 0}` trains without them. See
    [extra](#extra)."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate; see [schedule](#schedule)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer; see [optimizer](#optimizer)."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training images; see [augmentation](#augmentation)."""
    validation: ValidationConfig = ValidationConfig()
    """How the `best` epoch is chosen; see [validation](#validation)."""
    ema: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Decay per step of an exponential moving average of the target's weights, which is then validated and saved; 0 is
    off."""
    swa: Annotated[SWAConfig | None, WrittenIfSet()] = None
    """Stochastic weight averaging, the mean of the target's weights over the last epochs, which is then validated and
    saved; see [swa](#swa). Off by default; `{}` switches it on with its defaults."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Floating-point type in which the networks compute. `auto` is bfloat16 on a GPU that supports it and on a CPU that
    multiplies in it (`lscpu` shows `amx_bf16` or `avx512_bf16`), and float32 elsewhere. Losses and attacks are float32;
    `float32` is without TF32. `compute_dtype` in a result's `config.json` names what was used."""
    compile: bool = False
    """Pass the networks through `torch.compile`, which changes losses in their last bits and needs a C compiler. Where
    it fails, training continues without it and warns."""
    cuda_graph: bool = False
    """On a GPU, record the training step as a CUDA graph in every epoch and replay it. Where that fails, training
    continues without it and warns. No effect on a CPU."""
    tensorboard: bool = Field(default=False, exclude=True)
    """Write event files for TensorBoard to `state/tensorboard/`: the columns of `history.csv` after every epoch. Needs
    the package: `pip install tensorboard`. It changes no number and repeats no training."""
    gpus: Annotated[Count, Field(le=64)] = 1
    """Number of processes that share every batch, one per GPU of the machine; it must divide `batch`. The result equals
    that of one process up to rounding; see [docs/performance.md](../docs/performance.md#several-gpus)."""

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        if value in RETIRED_METHODS:
            raise ValueError(f"'{value}': {RETIRED_METHODS[value]}")
        return registry.known("method", value, registry.METHODS)

    @field_validator("target", "guide")
    @classmethod
    def _network(cls, value: str | None) -> str | None:
        if value is not None:
            registry.network_entry(value)
        return value

    @field_validator("options")
    @classmethod
    def _with_defaults(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """With their defaults, so that a result records what was read and a changed default changes the digest."""
        if "method" not in info.data:  # refused already
            return value
        try:
            return registry.METHODS[info.data["method"]].options.model_validate(value).model_dump()
        except ValidationError as error:
            raise ValueError("; ".join(problems(error))) from None

    @model_validator(mode="after")
    def _is_possible(self) -> Run:
        info = registry.METHODS[self.method]
        if self.labels not in info.labels:
            raise ValueError(f"method '{self.method}' cannot use {self.labels} labels: {info.refusal}")
        needs_guide = self.labels == "dynamic" or info.guide == "always"
        if needs_guide and self.guide is None:
            why = "dynamic labels are predictions of a guide" if self.labels == "dynamic" else "it learns from one"
            raise ValueError(f"method '{self.method}' with {self.labels} labels needs a guide: {why}")
        if not needs_guide and self.guide is not None:
            raise ValueError(f"guide '{self.guide}' has no effect with true labels: remove it, or set labels: dynamic")
        if self.labels != "dynamic" and self.beta is not None:
            raise ValueError("beta weighs the target against the guide: it has an effect with labels: dynamic only")
        if info.consistency == "required" and self.consistency == 0:
            raise ValueError(f"method '{self.method}' without consistency (6.0 is usual) is natural training")
        if info.consistency == "never" and self.consistency != 0:
            raise ValueError(f"method '{self.method}' has no adversarial images to be consistent with")
        if self.guide is None and self.guide_mode != "train":
            raise ValueError("guide_mode has an effect on runs with a guide only")
        if info.forwards_clean and self.clean_forward:
            raise ValueError(
                f"clean_forward: method '{self.method}' forwards the clean images through the target anyway"
            )
        if not info.adversarial and self.awp is not None:
            raise ValueError(f"awp perturbs weights against adversarial images, and '{self.method}' has none")
        if self.inner.objective == "ce-true" and self.labels == "true":
            raise ValueError("inner.objective ce-true is for labels: dynamic; with true labels write ce")
        kl = self.inner.objective == "kl" or (self.inner.objective == "method" and info.maximizes_kl)
        if info.adversarial and kl and self.inner.start == "none":
            raise ValueError(
                "inner.start none with a KL objective: its gradient is zero at the clean image, so the attack would "
                "not move; write start: gauss"
            )
        self._check_extra()
        self._refuse_mixed_dynamic_labels()
        if self.ema and self.swa is not None:
            raise ValueError(
                "swa and ema are two averages of the target, and one of them is saved: remove swa, or set ema: 0"
            )
        if self.init is not None and self.init.guide is not None and self.guide is None:
            raise ValueError("init.guide has an effect on runs with a guide only")
        if self.optimizer.name == "adamw" and self.schedule.lr > LARGEST_ADAMW_RATE:
            raise ValueError(
                f"schedule.lr: {self.schedule.lr:g} is a rate for SGD; AdamW moves every weight by about the rate in "
                "each step: write 0.001, say"
            )
        if self.batch % self.gpus:
            raise ValueError(f"a batch of {self.batch} cannot be divided evenly among {self.gpus} GPUs")
        if self.gpus > 1 and self.cuda_graph:
            raise ValueError("cuda_graph records the step of one GPU: set gpus: 1")
        return self

    def _check_extra(self) -> None:
        if self.extra is None:
            return
        if self.extra.labels == "guide" and self.labels != "dynamic":
            raise ValueError("extra.labels: guide is for labels: dynamic; set extra: {labels: file}, or {ratio: 0}")
        if not 0 < (count := self.extra.count(self.batch)) < self.batch:
            raise ValueError(
                f"extra.ratio: {self.extra.ratio:g} of a batch of {self.batch} is {count} images; choose a ratio that "
                "leaves at least one original and one extra image"
            )

    def _refuse_mixed_dynamic_labels(self) -> None:
        """A guide's dynamic label is one class; of a mixed image, that would leave out the other."""
        for name in ("cutmix", "mixup"):
            if self.labels == "dynamic" and getattr(self.augmentation, name):
                raise ValueError(
                    f"augmentation.{name}: a mixed image has two classes in known shares, and a dynamic label is the "
                    f"one class that the guide predicts, so the target would not learn the shares: set {name}: 0, or "
                    "labels: true"
                )
