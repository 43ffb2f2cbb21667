"""The config as frozen, typed values: runs, attacks, and the experiment that holds them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dynat.config import names
from dynat.config.attacks import Attack, Probing
from dynat.config.parts import (
    Augmentation,
    Count,
    Dataset,
    Inner,
    NotNegative,
    Optimiser,
    Schedule,
    Seeds,
    Threat,
    Validation,
    WeightPerturbation,
)
from dynat.config.strict import Real, Strict, Whole, nearest


class Run(Strict):
    """One trained model: a named row of the table."""

    method: str
    checkpoint: str | None = None
    """external: the file with somebody's weights for the target; nothing is trained."""
    labels: Literal["true", "dynamic"] = "true"
    """Who labels the adversarial pictures: the ground truth, or the guide's argmax on the clean picture."""
    target: str
    """The network that is to be robust."""
    guide: str | None = None
    """The network that learns on clean pictures beside it."""
    guide_mode: Literal["train", "eval"] = "train"
    """BatchNorm mode in which the guide labels (train is what was released)."""
    beta: NotNegative | None = None
    """Dynamic labels: L = CE(guide, y) + beta * L_target."""
    consistency: NotNegative = 0.0
    """Weight of KL(p(x)||p(x')) on the target: TRADES' beta (1/lambda), LBGAT's alpha."""
    clean_forward: bool | None = None
    """Show the clean batch to the target's BatchNorm too; on by default where there is a guide."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings that only this method reads."""
    awp: WeightPerturbation | None = None
    """Perturb the target's weights against the loss; off where not given."""
    inner: Inner = Inner()
    epochs: Count = 100
    batch: Count = 128
    schedule: Schedule = Schedule()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    validation: Validation = Validation()
    ema: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Decay per step of an exponential moving average of the target's weights; 0 is off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto is bfloat16 where the processor multiplies in it. Losses are float32."""

    compiled: bool = False
    """Pass the networks through torch.compile; changes losses in their last bits."""
    captured: bool = False
    """On a GPU: record a step as one CUDA graph and replay it."""
    gpus: Count = 1
    """Processes that share every batch, one per GPU of the machine."""

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        return names.known("method", value, names.METHODS)

    @field_validator("target", "guide")
    @classmethod
    def _network(cls, value: str | None) -> str | None:
        if value is not None:
            names.network_entry(value)
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Run:
        facts = names.METHODS[self.method]
        if self.labels not in facts.labels:
            raise ValueError(f"method '{self.method}' cannot be driven by {self.labels} labels: {facts.refusal}")
        needs_guide = self.labels == "dynamic" or facts.guide == "always"
        if needs_guide and self.guide is None:
            why = "dynamic labels are a guide's decisions" if self.labels == "dynamic" else "it learns from one"
            raise ValueError(f"method '{self.method}' with {self.labels} labels needs a guide: {why}")
        if not needs_guide and self.guide is not None:
            raise ValueError(f"guide '{self.guide}' would be read by nothing: labels are true, set labels: dynamic")
        if self.labels != "dynamic" and self.beta is not None:
            raise ValueError("beta weighs the target against the guide: it is read with labels: dynamic only")
        if facts.consistency == "required" and self.consistency == 0:
            raise ValueError(f"method '{self.method}' without consistency (6.0 is usual) is natural training")
        if facts.consistency == "never" and self.consistency != 0:
            raise ValueError(f"method '{self.method}' has no adversarial pictures to be consistent with")
        if (self.method == "external") != (self.checkpoint is not None):
            raise ValueError("checkpoint (a file of weights) is what method 'external' needs, and it alone reads")
        if self.guide is None and self.guide_mode != "train":
            raise ValueError("guide_mode is read where there is a guide only")
        if facts.forwards_clean and self.clean_forward:
            raise ValueError(f"clean_forward: method '{self.method}' shows the target the clean pictures anyway")
        if not facts.adversarial and self.awp is not None:
            raise ValueError(f"awp perturbs weights against adversarial pictures, and '{self.method}' has none")
        if self.inner.objective == "ce-true" and self.labels == "true":
            raise ValueError("inner.objective ce-true is read with labels: dynamic; with true labels it is 'ce'")
        if self.schedule.shape == "one-cycle" and self.schedule.factors != Schedule().factors:
            raise ValueError("schedule.factors is read by shape 'steps' only")
        if self.batch % self.gpus:
            raise ValueError(f"a batch of {self.batch} cannot be shared among {self.gpus} GPUs evenly")
        if self.gpus > 1 and self.captured:
            raise ValueError("captured records the step of one GPU: it takes gpus: 1")
        # With its defaults, so that what a run read is written down and a default that moves moves the digest.
        object.__setattr__(self, "options", facts.options.model_validate(self.options).model_dump())
        return self


class _WithPlugins(Strict):
    """A value that names methods or attacks: what defines them is imported before the names are read."""

    plugins: tuple[str, ...] = ()
    """Modules with methods, networks or attacks of one's own."""

    @model_validator(mode="before")
    @classmethod
    def _import_plugins(cls, value: Any) -> Any:
        if isinstance(value, dict):
            names.import_plugins(tuple(value.get("plugins", ())))
        return value


class TrainingSpec(_WithPlugins):
    """All that one training reads beside its seed and its pictures. Equal specs, equal trainings."""

    preset: str
    name: str
    data: str
    """The data set's folder under data/."""
    threat: Threat
    run: Run


class ExamSpec(_WithPlugins):
    """All that one examination reads beside the weights and the pictures."""

    preset: str
    name: str
    data: str
    seeds: Seeds
    attack_name: str
    attack: Attack


class ProbeSpec(_WithPlugins):
    """All that the small examinations of a run read."""

    preset: str
    name: str
    data: str
    seeds: Seeds
    attacks: dict[str, Attack]


class TransferSpec(_WithPlugins):
    """All that the matrix of transfer reads: every run's pictures shown to every run."""

    preset: str
    data: str
    runs: dict[str, Whole]
    """The runs, each with the seed that stands for it."""
    attack: Attack


class Experiment(_WithPlugins):
    """A preset with params.yaml over it, resolved: all that the DAG, a training or an attack may read."""

    preset: str
    dataset: Dataset
    threat: Threat
    runs: Annotated[dict[str, Run], Field(min_length=1)]
    seeds: dict[str, Seeds]
    """The seeds of each run."""
    attacks: Annotated[dict[str, Attack], Field(min_length=1)]
    probing: Probing = Probing()
    threads: Count = 1
    """CPU threads of one training or attack."""
    headline: str = ""
    """The attack by which the figures sort and compare."""

    @model_validator(mode="after")
    def _headline(self) -> Experiment:
        if self.headline not in self.attacks:
            raise ValueError(f"headline: unknown attack '{self.headline}': {nearest(self.headline, self.attacks)}")
        return self

    def training(self, name: str) -> TrainingSpec:
        """What the trainings of a run read."""
        known = names.known("run", name, self.runs)
        return TrainingSpec(
            plugins=self.plugins,
            preset=self.preset,
            name=known,
            data=self.dataset.name,
            threat=self.threat,
            run=self.runs[known],
        )

    def exam(self, name: str, attack: str) -> ExamSpec:
        """What the examination of a run by an attack reads."""
        return ExamSpec(
            plugins=self.plugins,
            preset=self.preset,
            name=names.known("run", name, self.runs),
            data=self.dataset.name,
            seeds=self.seeds[name],
            attack_name=names.known("attack", attack, self.attacks),
            attack=self.attacks[attack],
        )

    def probe(self, name: str) -> ProbeSpec:
        """What the small examinations of a run read."""
        known = names.known("run", name, self.runs)
        return ProbeSpec(
            plugins=self.plugins,
            preset=self.preset,
            name=known,
            data=self.dataset.name,
            seeds=self.seeds[known],
            attacks=self.probing.attacks(self.threat),
        )

    def transfer(self) -> TransferSpec:
        """What the matrix of transfer reads."""
        return TransferSpec(
            plugins=self.plugins,
            preset=self.preset,
            data=self.dataset.name,
            runs={name: self.seeds[name][0] for name in self.runs},
            attack=self.probing.attacks(self.threat)["steps-20"],
        )
