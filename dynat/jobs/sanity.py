"""The sanity checks of a row as files: verdicts under many small attacks, from which checks and curves are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from dynat.attacks import Evaluation
from dynat.attacks.gradients import count_zero_gradients
from dynat.config import SanitySpec, digest
from dynat.jobs.evaluation import Evaluator
from dynat.jobs.training import machine
from dynat.results.paths import Paths
from dynat.results.records import GradientCount, SanityRecord
from dynat.results.sanity import SanityVerdicts, write_sanity
from dynat.runtime.files import check_writable


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
    for seed in spec.seeds:
        model, weights = evaluator.network(spec.name, seed)
        by_digest: dict[str, Evaluation] = {}  # two names may stand for the same attack
        with tqdm(total=len(spec.attacks), desc=f"{spec.name} sanity checks seed {seed}", disable=None) as bar:
            for name, attack in spec.attacks.items():
                key = digest(attack)
                if key not in by_digest:
                    by_digest[key], _ = evaluator.evaluate(model, weights, attack, progress=lambda _: None)
                verdicts[seed, name] = _verdicts(by_digest[key])
                bar.update(1)
        evaluations += by_digest.values()
        fewest = min(attack.images or len(evaluator.images) for attack in spec.attacks.values())
        zero, correct = count_zero_gradients(model, evaluator.images.first(fewest))
        gradients[seed] = GradientCount(zero=zero, correct=correct)
        seconds = sum(evaluation.seconds for evaluation in by_digest.values())
        say(f"{spec.name} seed {seed}: {len(by_digest)} attacks for sanity checks, {seconds:.1f} s")
    record = SanityRecord(
        plugins=spec.plugins,
        run=spec.name,
        seeds=spec.seeds,
        attacks=spec.attacks,
        gradients=gradients,
        seconds=sum(evaluation.seconds for evaluation in evaluations),
        rejected_examples=sum(evaluation.rejected_examples for evaluation in evaluations),
        device=machine(evaluator.device),
    )
    return write_sanity(run, record, verdicts)


def _verdicts(evaluation: Evaluation) -> SanityVerdicts:
    columns = evaluation.columns
    return SanityVerdicts(
        label=columns["label"].tolist(),
        clean_prediction=columns["clean_prediction"].tolist(),
        correct=columns["correct"].int().tolist(),
    )
