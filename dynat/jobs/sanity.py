"""The sanity checks of a row as files: verdicts under many small attacks, from which checks and curves are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dynat.attacks import Evaluation
from dynat.attacks.gradients import count_zero_gradients
from dynat.config import AttackConfig, SanitySpec, digest
from dynat.config.attack_cost import expected_cost
from dynat.jobs.evaluation import Evaluator
from dynat.results.paths import Paths
from dynat.results.records import GradientCount, SanityRecord
from dynat.results.sanity import SanityVerdicts, write_sanity
from dynat.runtime.device import describe
from dynat.runtime.files import check_writable
from dynat.runtime.progress import Progress, duration


def run_sanity_checks(
    spec: SanitySpec, *, paths: Paths, device: str = "auto", say: Callable[[str], None] = print
) -> Path:
    """Evaluate the networks of all seeds under every attack of `spec`; a verdict per seed, attack and image."""
    run = paths.run_files(spec.preset, spec.name)
    check_writable(run.folder)
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    verdicts: dict[tuple[int, str], SanityVerdicts] = {}
    evaluations: list[Evaluation] = []
    gradients: dict[int, GradientCount] = {}
    networks: dict[int, str] = {}
    title = f"{spec.name} sanity"
    by_digest = {digest(attack): attack for attack in spec.attacks.values()}  # two names may stand for the same attack
    total = len(spec.seeds) * sum(_cost(attack, len(evaluator.images)) for attack in by_digest.values())
    with Progress(title, total, say=say) as progress:
        for seed in spec.seeds:
            model, weights = evaluator.network(spec.name, seed)
            networks |= evaluator.identity(spec.name, seed)
            found = {key: evaluator.evaluate(model, weights, attack, progress)[0] for key, attack in by_digest.items()}
            for name, attack in spec.attacks.items():
                verdicts[seed, name] = _verdicts(found[digest(attack)])
            evaluations += found.values()
            fewest = min(attack.images or len(evaluator.images) for attack in spec.attacks.values())
            zero, correct = count_zero_gradients(model, evaluator.images.first(fewest))
            gradients[seed] = GradientCount(zero=zero, correct=correct)
    record = SanityRecord(
        plugins=spec.plugins,
        run=spec.name,
        seeds=spec.seeds,
        attacks=spec.attacks,
        gradients=gradients,
        networks=networks,
        seconds=sum(evaluation.seconds for evaluation in evaluations),
        rejected_examples=sum(evaluation.rejected_examples for evaluation in evaluations),
        device=describe(evaluator.device),
    )
    written = write_sanity(run, record, verdicts)
    say(f"{title}: {len(spec.attacks)} small attacks for its checks, {duration(record.seconds)}")
    return written


def _cost(attack: AttackConfig, images: int) -> float:
    return expected_cost(attack) * min(attack.images or images, images)


def _verdicts(evaluation: Evaluation) -> SanityVerdicts:
    columns = evaluation.columns
    return SanityVerdicts(
        label=columns["label"].tolist(),
        clean_prediction=columns["clean_prediction"].tolist(),
        correct=columns["correct"].int().tolist(),
    )
