"""`dynat attack --checkpoint`: the options that say what somebody's file of weights is and what to ask of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dynat.config import ConfigError

PANEL = "A checkpoint instead of a run"


def _option(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel=PANEL)


Checkpoint = Annotated[Path | None, _option("--checkpoint", "Anybody's file of weights, safetensors or torch.", "FILE")]
Arch = Annotated[str | None, _option("--arch", "The network that they are of: resnet18, wrn34-10.", "NAME")]
DataSet = Annotated[str | None, _option("--dataset", "A data set that is prepared, or that a preset names.", "NAME")]
Attacks = Annotated[str | None, _option("--attacks", "pgd-20,cw-20,autoattack; clean comes first anyway.", "LIST")]
Eps = Annotated[str | None, _option("--eps", "Radius in pixels of [0,1]: 8/255.", "NUMBER")]
Norm = Annotated[str | None, _option("--norm", "linf (where not given) or l2.")]
Number = Annotated[int | None, _option("--pictures", "Only the first so many test pictures.")]
Batch = Annotated[int | None, _option("--batch", "Pictures attacked at once; 250 where not given.")]
View = Annotated[str | None, _option("--view", "Search on the network itself: none; or on a view of it: float32, ...")]
Mean = Annotated[str | None, _option("--mean", "For standardised pixels, per channel: 0.49,0.48,0.45.", "LIST")]
Std = Annotated[str | None, _option("--std", "The same.", "LIST")]
Expect = Annotated[float | None, _option("--expect", "Clean accuracy that its authors report, in percent.")]
Gates = Annotated[
    bool | None, _option("--gates", "Examine the examination too: many small attacks, for validity gates.")
]
Out = Annotated[Path | None, _option("--out", "Folder of the answer; examined/<file> where not given.", "FOLDER")]

NEEDED = ("arch", "dataset", "attacks", "eps")
READ = (*NEEDED, "norm", "pictures", "batch", "view", "mean", "std", "expect", "gates", "out")


def refuse_without_checkpoint(given: dict[str, Any]) -> None:
    """An option that only a checkpoint reads must not be passed over."""
    if named := [f"--{name}" for name, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(named)}: for a file of weights only, say which with --checkpoint")


def examine(
    checkpoint: Path, given: dict[str, Any], *, device: str, threads: int | None, data: Path, state: Path, say: Any
) -> None:
    """Check what was asked, then ask it."""
    if missing := [f"--{name}" for name in NEEDED if given[name] is None]:
        raise ConfigError(f"--checkpoint {checkpoint}: a file of weights says little, so say {', '.join(missing)} too")
    from dynat.jobs.stranger import OneFolder, Question, examine_checkpoint
    from dynat.jobs.terminal import use_threads

    use_threads(threads)
    name = re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9]+", "-", checkpoint.stem).strip("-.") or "checkpoint"
    question = Question(
        checkpoint=checkpoint,
        network=given["arch"],
        dataset=given["dataset"],
        attacks=tuple(_list(given["attacks"])),
        threat={"eps": given["eps"], "norm": given["norm"] or "linf"},
        settings={key: given[key] for key in ("pictures", "batch", "view") if given[key] is not None},
        standard={key: _list(given[key]) for key in ("mean", "std") if given[key] is not None},
        expected=given["expect"],
        gates=bool(given["gates"]),
    )
    folder = given["out"] or Path("examined") / name
    examine_checkpoint(question, name=name, places=OneFolder(data, folder, state), device=device, say=say)


def _list(text: str) -> list[Any]:
    """a,b,c; with brackets or without."""
    found = yaml.safe_load(f"[{text.strip().removeprefix('[').removesuffix(']')}]")
    return [str(entry) for entry in found]
