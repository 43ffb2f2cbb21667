"""Bad inputs through every door, as one table: what is typed or lies in a file, and the message that it gets.

Each case runs in a copy of a small finished project. The message names the field or file and the reason, no exception
escapes, nothing is written, nothing is executed, and the answer takes no more than a second of computing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from dynat.cli.app import app
from tests import bad_files as bad
from tests import tiny
from tests.bad_files import Content, put
from tests.helpers import Dynat

SECONDS = 1.0
"""Processor time of one answer."""
HANGS = 20
"""Seconds after which a command is taken to wait for ever."""


@dataclass(frozen=True)
class Case:
    """A command in the project, and the message that it gets."""

    command: str
    """`@` stands for a folder outside the project."""
    message: str
    """Regular expression, searched in all that is printed, whose lines are joined."""
    files: Mapping[str, Content] = field(default_factory=dict)
    """What is put into the project before."""
    code: int = 2
    writes: bool = False
    """Whether files may be left: the valid part of the work, such as a prepared data set."""


# --- doors ----------------------------------------------------------------------------------------------------


def params(text: str | bytes, message: str) -> Case:
    """`dynat check` with this params.yaml over the preset `tiny`."""
    content = text if isinstance(text, bytes) else f"preset: tiny\n{text}\n"
    return Case("check", message, {"params.yaml": content})


def option(words: str, message: str, **how: Any) -> Case:
    """A command line as typed."""
    return Case(words, message, **how)


def preset(text: str, message: str) -> Case:
    """`dynat check` with a preset of this content."""
    return Case("check", message, {"config/presets/mine.yaml": text, "params.yaml": "preset: mine"})


def preset_named(name: str) -> Case:
    """`dynat check` with a sound preset of this name."""
    message = f"preset: '{re.escape(name)}' becomes the name of a folder or file: letters, digits"
    return Case(f"check --set {shlex.quote(f'preset={name}')}", message, {f"config/presets/{name}.yaml": tiny.PRESET})


TRAINING: dict[str, object] = {
    "preset": "tiny",
    "data": "digits",
    "name": "at",
    "threat": {"eps": 0.1},
    "run": {"method": "at", "target": "small", "epochs": 1, "precision": "float32"},
}
ATTACK: dict[str, object] = {
    "preset": "tiny",
    "data": "digits",
    "name": "at",
    "seeds": [0],
    "attack_name": "clean",
    "attack": {"kind": "clean", "eps": 0.1, "norm": "linf"},
}


def spec(kind: str, message: str, text: str | None = None, **changes: object) -> Case:
    """`dynat job KIND` with a spec that differs from a valid one in `changes`, or with this text."""
    valid: dict[str, object] = {"training": TRAINING, "attack": ATTACK}.get(kind, {})
    text = json.dumps({**valid, **changes}) if text is None else text
    return Case(f"job {kind} --spec {shlex.quote(text)}", f"job {kind} --spec: .*{message}")


OPTIONS = "--arch small --dataset digits --attacks pgd-5 --eps 0.1 --images 20"


def checkpoint(content: Content, message: str, name: str = "bad.pt", options: str = OPTIONS) -> Case:
    """`dynat evaluate` of a file with this content."""
    return Case(f"evaluate {name} {options}", f"{name}: .*{message}", {name: content})


def evaluate(changes: str, message: str, **how: Any) -> Case:
    """`dynat evaluate` of a sound checkpoint, with other options."""
    return Case(f"evaluate theirs.pt {OPTIONS} {changes}", message, **how)


def images(content: Content, message: str, settings: str = "", **how: Any) -> Case:
    """`dynat data` of an image folder with this content."""
    command = f"data --set preset=tiny --set 'dataset={{name: own, source: folder, path: own, size: 8{settings}}}'"
    return Case(command, message, {"own": content}, **how)


IMAGES, INFO = "data/digits/images.safetensors", "data/digits/info.json"


def prepared(file: str, content: Content, message: str) -> Case:
    """A training on prepared images of which one file is damaged."""
    return Case("train at --seed 1", f"data/digits.*{message}", {file: content})


RUN, REQUEST = "results/tiny/at", "evaluations/done/experiment.json"


def result(file: str, content: Content, command: str, message: str, **how: Any) -> Case:
    """A command that reads a damaged result file of the run."""
    return Case(command, f"{Path(file).name}.*{message}", {file: content}, **how)


LONG = "x" * 300

CASES = [
    # Unknown keys at every level name the nearest known one.
    params("betta: 1", "params.yaml: unknown key 'betta': did you mean 'beta'"),
    params("dataset: {nam: x}", "dataset: unknown key 'nam': did you mean 'name'"),
    params("threat: {epsilon: 0.1}", "threat: unknown key 'epsilon': did you mean 'eps'"),
    params("training: {epoch: 3}", "runs.at: unknown key 'epoch': did you mean 'epochs'"),
    params("training: {inner: {stpes: 3}}", "at.inner: unknown key 'stpes': did you mean 'steps'"),
    params("training: {schedule: {lrr: 1}}", "at.schedule: unknown key 'lrr': did you mean 'lr'"),
    params("training: {optimizer: {momentun: 0}}", "at.optimizer: unknown key 'momentun': did you mean 'momentum'"),
    params("training: {augmentation: {pading: 1}}", "at.augmentation: unknown key 'pading': did you mean 'padding'"),
    params("training: {validation: {evry: 1}}", "at.validation: unknown key 'evry': did you mean 'every'"),
    params("training: {awp: {gama: 0.1}}", "at.awp: unknown key 'gama': did you mean 'gamma'"),
    params("runs: {at: {methd: at}}", "runs.at: unknown key 'methd': did you mean 'method'"),
    params("runs: {x: {method: gairat, options: {burnin: 0}}}", "runs.x.options: unknown key 'burnin': .*'burn_in'"),
    params("checkpoints: {x: {fil: a, arch: small}}", "checkpoints.x: unknown key 'fil': did you mean 'file'"),
    params("attacks: {pgd-5: {step: 3}}", "attacks.pgd-5: unknown key 'step': did you mean 'steps'"),
    params("sanity: {image: 3}", "sanity: unknown key 'image': did you mean 'images'"),
    # Unknown values name the nearest known one.
    params("select: [dynta]", "select: unknown run 'dynta': did you mean 'dynat'"),
    params("runs: {x: {method: trade}}", "runs.x.method: unknown method 'trade': did you mean 'trades'"),
    params("training: {target: resnet19}", "runs.at.target: unknown network 'resnet19': did you mean 'resnet18'"),
    params("training: {target: wrn33-10}", r"runs.at.target: .*'wrn33-10'.*depth is 6n\+4"),
    params("attacks: {autoatack: {}}", "attacks.autoatack: unknown attack 'autoatack': did you mean 'autoattack'"),
    params("attacks: {x: {kind: pdg}}", "attacks.x.kind: unknown attack 'pdg': did you mean 'pgd'"),
    params("dataset: {source: cifar}", "dataset.source: unknown source 'cifar': did you mean 'cifar10'"),
    params("threat: {norm: l3}", "threat.norm: .*'linf', 'l2' or 'l1'"),
    params("headline: pgd-6", "headline: unknown attack 'pgd-6': did you mean 'pgd-5'"),
    params("plugins: [no_such_module]", "plugins: module 'no_such_module' cannot be imported"),
    params("plugins: ['../evil']", "plugins: .*'../evil'"),
    # Wrong types.
    params("beta: true", "params.yaml: beta: expected a number, not true or false"),
    params("beta: [1]", "params.yaml: beta: .*number"),
    params("beta: 8/0", "params.yaml: beta: '8/0' is not a number; write 0.031, 8/255"),
    params("training: {epochs: 1.5}", "runs.at.epochs: .*integer"),
    params("training: {epochs: yes}", "runs.at.epochs: expected a whole number"),
    params("training: {augmentation: {flip: 7}}", "runs.at.augmentation.flip: .*boolean"),
    params("training: 3", "training: expected 'key: value' lines"),
    params("runs: [at]", "runs: expected 'key: value' lines"),
    params("runs: {at: 3}", "runs.at: expected 'key: value' lines, not 3"),
    params("runs: {12: {method: at}}", "runs.*12.*(text|name|quote)"),
    params("runs: {no: {method: at}}", "runs.*(False|false|no).*(text|name|quote)"),
    params("attacks: {20: {kind: pgd}}", "attacks.*20.*(text|name|quote)"),
    params("attacks: 3", "attacks: expected a list of names or"),
    params("plugins: 3", "plugins: expected a list of names"),
    params("select: 3", "select: expected a list of names"),
    params("select: true", "select: "),
    params("methods: 3", "(methods|select): "),
    params("methods: {at: 1}", "(methods|select): "),
    params("seeds: [0, x]", "seeds.*integer"),
    params("seeds: [-1]", "seeds.*greater than or equal to 0"),
    params("training: {schedule: {factors: [1, 2]}}", "runs.at.schedule.factors: .*(dictionary|mapping)"),
    params("dataset: {name: '../x'}", "dataset.name: "),
    # Values out of range or beyond sense.
    params("beta: -1", "params.yaml: beta: .*greater than or equal to 0"),
    params("beta: .nan", "params.yaml: beta: .*finite"),
    params("beta: '1e1000000000'", "params.yaml: beta: "),
    params("beta: 1e400", "params.yaml: beta: "),
    params("threat: {eps: 8}", r"threat: eps 8 is outside \(0,1\).*8/255 rather than 8"),
    params("threat: {eps: 0}", "threat.eps: .*greater than 0"),
    params("threat: {eps: 1e-300}", "threat.*eps"),
    params("threat: {eps: '1/1e1000000000'}", "threat.eps: "),
    params("training: {epochs: 0}", "runs.at.epochs: .*greater than or equal to 1"),
    params("training: {epochs: 100000000000000000000}", "runs.at.epochs: .*less than"),
    params("training: {batch: 0}", "runs.at.batch: .*greater than or equal to 1"),
    params("training: {ema: 1}", "runs.at.ema: .*less than 1"),
    params("training: {schedule: {lr: 1e308}}", "runs.at.schedule.lr: .*less than"),
    params("training: {schedule: {factors: {0: 0}}}", "runs.at.schedule.*factors.*0"),
    params("training: {schedule: {factors: {1: 1}}}", "runs.at.schedule: .*factor of epoch 0"),
    params("training: {schedule: {factors: {0: 1, 100: 1}}}", "epoch 100 is not within the 100 epochs"),
    params("training: {augmentation: {padding: 100000}}", "runs.at.augmentation.padding: .*less than"),
    params("training: {target: wrn34-10000000}", "runs.at.target: .*wrn34-10000000"),
    params("training: {target: wrn999999994-1}", "runs.at.target: .*wrn999999994-1"),
    params("dataset: {source: folder, path: own, size: 1000000}", "dataset.size: .*less than"),
    params("dataset: {validation: 0.5}", "dataset.validation: .*less than 0.5"),
    params("seeds: [0, 0]", "seeds: .*names a seed twice"),
    params("seeds: [0, 0.0]", "seeds"),
    params("seeds: []", "seeds: name at least one, such as"),
    params("select: []", "select: choose at least one: at, dynat"),
    params("attacks: []", "attacks: name at least one: "),
    params("attacks: [clean, clean]", "attacks: .*clean.*twice"),
    params("threads: 0", "threads: .*greater than or equal to 1"),
    params("sanity: {steps: [1, 20]}", "sanity.steps: name at least one above 20"),
    # Names that say something else than their settings.
    params("attacks: {autoattack: {kind: pgd, steps: 1}}", "attacks.autoattack: .*kind"),
    params("attacks: {pgd-20: {steps: 1}}", "attacks.pgd-20: .*steps"),
    params("attacks: {clean: {kind: pgd}}", "attacks.clean: .*kind"),
    params("attacks: {pgd-20: {kind: cw}}", "attacks.pgd-20: .*kind"),
    # Impossible combinations, and settings that nothing reads.
    params("runs: {x: {method: trades}}", "runs.x: method 'trades' without consistency .* is natural training"),
    params("runs: {x: {method: natural, labels: dynamic}}", "runs.x: method 'natural' cannot use dynamic labels"),
    params("runs: {at: {beta: 2}}", "runs.at: beta .*labels: dynamic only"),
    params("runs: {at: {guide: small}}", "runs.at: guide 'small' has no effect with true labels"),
    params("runs: {x: {method: trades, consistency: 6, inner: {start: none}}}", "runs.x: inner.start none with a KL"),
    params("runs: {at: {inner: {start: none, objective: kl}}}", "runs.at: inner.start none with a KL objective"),
    params("runs: {x: {method: gairat, options: {tightness: -5}}}", "greater than or equal to -4"),
    params("runs: {at: {guide_mode: eval}}", "runs.at: guide_mode has an effect on runs with a guide only"),
    params("runs: {at: {inner: {objective: ce-true}}}", "runs.at: inner.objective ce-true .*write ce"),
    params("training: {batch: 64, gpus: 3}", "runs.at: a batch of 64 cannot be divided evenly among 3 GPUs"),
    params("training: {gpus: 2, cuda_graph: true}", "runs.at: cuda_graph .*set gpus: 1"),
    params("training: {inner: {eps: 0.9}}", "runs.at.inner.eps: 0.9 is far from the threat's linf eps 0.15"),
    params("dataset: {source: folder}", "dataset: a 'folder' data set needs path .* and size"),
    params("dataset: {size: 8}", "dataset: size is read by the sources 'folder' and 'tiny-"),
    params("dataset: {path: own}", "dataset: path is .*'digits'"),
    params("attacks: {clean: {eps: 0.1}}", "attacks.clean: eps"),
    params("attacks: {fgsm: {steps: 3}}", "attacks.fgsm: steps is not a setting of attack 'fgsm'"),
    params("attacks: {cw-l2: {}}", "attacks.cw-l2: attack 'cw-l2' measures in l2 .*set norm: l2"),
    params("attacks: {square: {eps: 0}}", "attacks.square: eps 0 is for pgd, cw and fgsm"),
    params("checkpoints: {at: {file: x.pt, arch: small}}", "checkpoints.at: a run has this name already"),
    params("checkpoints: {x: {file: x.pt, arch: small, mean: 0.5}}", "checkpoints.x: mean and std are given together"),
    params("checkpoints: {x: {file: x.pt, arch: small, mean: 125, std: 64}}", "checkpoints.x: mean 125 .*divide .*255"),
    params("extends: tiny", "params.yaml: .*extends"),
    params("select: [at]\nmethods: [at]", "methods and select are both given.*remove one"),
    params("probing: {}", "unknown key 'probing': it is now 'sanity'"),
    # Files that are no YAML, or more of it than there seems.
    params("beta: 1\nbeta: 2", "params.yaml.*beta.*twice"),
    params("training: {epochs: 1}\ntraining: {batch: 8}", "params.yaml.*training.*twice"),
    params("training: {epochs: 1, epochs: 2}", "params.yaml.*epochs.*twice"),
    params("\tbeta: 1", "params.yaml: not valid YAML: .*line 2"),
    params("training: {epochs: 1", "params.yaml: not valid YAML: .*line 2"),
    params("runs: !!python/object/apply:os.system ['touch pwned']", "params.yaml: not valid YAML: .*python/object"),
    params(bad.alias_bomb(), "params.yaml: not valid YAML: an alias"),
    params(f"training: {bad.nested(3000)}", "params.yaml: .*(deep|nest)"),
    params("? [a, b]\n: 1", "params.yaml: not valid YAML: .*unhashable key"),
    params(b"preset: tiny\nheadline: caf\xe9\n", "params.yaml: .*UTF-8"),
    params(b"preset: tiny\nbeta: \x00\n", "params.yaml: not valid YAML"),
    params(b"- preset\n- tiny\n", "params.yaml: expected 'key: value' lines, not list"),
    Case("check", "params.yaml: .*(folder|directory)", {"params.yaml": bad.folder}),
    Case("check", "params.yaml: .*(no file|not a file|no regular file|regular)", {"params.yaml": bad.fifo}),
    Case("check", "params.yaml: no such file.*project's folder", {"params.yaml": bad.removed}),
    # Presets: their names and what they extend.
    option("check --set preset=tinny", "preset: there is no config/presets/tinny.yaml: did you mean 'tiny'"),
    option("check --set preset=../../secret", "preset: .*'../../secret'"),
    option("check --set preset=@/secret", "preset: .*becomes the name of a folder"),
    preset_named("x$(touch pwned)"),
    preset_named("y;touch pwned"),
    preset_named("two words"),
    option(f"check --set preset={LONG}", "preset: .* has 300 characters and becomes the name of a folder"),
    option("check --set preset=7", "preset: .*7"),
    preset("extends: mine", "mine.yaml: extends itself"),
    preset("extends: tinny", "there is no config/presets/tinny.yaml: did you mean 'tiny'"),
    preset("extends: ../../secret", "mine.yaml: extends: .*'../../secret'"),
    preset("extends: tiny\nrunss: {}", "config/presets/mine.yaml: unknown key 'runss': did you mean 'runs'"),
    preset("extends: tiny\npreset: tiny", "config/presets/mine.yaml: .*preset"),
    preset("extends: tiny\ndataset: {nam: x}", "dataset: unknown key 'nam'"),
    preset("", "config/presets/mine.yaml: is empty"),
    Case("check --set preset=mine", "mine.yaml: .*(folder|directory)", {"config/presets/mine.yaml/x": ""}),
    # Names that become files and folders.
    params("runs: {a b: {method: at}}", "runs.a b: 'a b' becomes the name of a folder or file: letters"),
    params("runs: {../x: {method: at}}", "runs.../x: '../x' becomes the name of a folder or file"),
    params("runs: {'x;touch pwned': {method: at}}", "runs.*touch pwned.* becomes the name of a folder or file"),
    params("runs: {report.html: {method: at}}", "runs.report.html: .*'report.html'"),
    params("runs: {tables: {method: at}}", "runs.tables: .*'tables'"),
    params(f"runs: {{{LONG}: {{method: at}}}}", "runs.x+[.]+: .* has 300 characters"),
    params("attacks: {../x: {kind: pgd}}", "attacks.../x: '../x' becomes the name of a folder or file"),
    params(f"attacks: {{{LONG}: {{kind: pgd}}}}", "attacks.x+[.]+: .* has 300 characters"),
    params("checkpoints: {'$(id)': {file: x.pt, arch: small}}", "checkpoints.*becomes the name of a folder or file"),
    # Values of --set.
    option("check --set beta", "--set beta: write KEY=VALUE"),
    option("check --set beta=[1", r"--set beta=\[1: .*not valid YAML"),
    option("check --set =3", "--set =3: write KEY=VALUE"),
    option("check --set training..epochs=3", "--set training..epochs=3: "),
    option("check --set training.epochs.x=3", "epochs: .*integer"),
    option("check --set beta.x=3", "beta: "),
    option("check --set seeds=[0,0]", "seeds: .*names a seed twice"),
    option("check --set 'training={epochs: 1, epochs: 2}'", "--set training=.*epochs.*twice"),
    option(f"check --set training={bad.nested(3000)}", "--set training=.*(deep|nest)"),
    # Options of commands: names, files, folders, numbers.
    option("chekc", "No such command 'chekc'.*check"),
    option("check --param x", "No such option"),
    option("check --params nothing.yaml", "nothing.yaml: no such file"),
    option("check --params config", "config: .*(folder|directory)"),
    option("train", "say which run: at"),
    option("train dynta", "unknown run 'dynta': .*known: at"),
    option("train at --seed -1", "--seed"),
    option("train at --seed x", "--seed"),
    option("train at --device cdua", "device.*cdua"),
    option("train at --device cuda:99", "device 'cuda.*requested, but torch sees"),
    option("train at --device meta", "device.*meta"),
    option("train at --threads 0", "--threads"),
    option("train at --threads 99999999999999", "threads"),
    option("train at --data nowhere", "nowhere/digits/info.json: no such file; run `dynat data`"),
    option("train at --data theirs.pt", "theirs.pt/digits/info.json: cannot be read"),
    option("train at --seed 1 --results theirs.pt", "theirs.pt/tiny/at/seed1: cannot be written .*nothing was started"),
    option("train at --seed 1 --state theirs.pt", "theirs.pt/trainings.*Not a directory; name another path"),
    option("import theirs", "this experiment has no checkpoint"),
    option("attack at", "say which attack: clean, pgd-5"),
    option("attack at pgd-6", "unknown attack 'pgd-6': did you mean 'pgd-5'"),
    option("attack at clean --set seeds=[7]", "results/tiny/at/seed7/config.json: no such file; make it with"),
    option("metrics nowhere", "nowhere.*no outcome of any attack|nowhere.*no such"),
    option(f"metrics {RUN} --attack cw-20", "cw-20.csv: no such file; make it with"),
    option(f"metrics {RUN}/metrics.json", "metrics.json"),
    option("diff results nowhere", "nowhere: no metrics.json in it; name a results folder"),
    option("diff results/tiny/at/metrics.json results", "metrics.json"),
    option("export dynat", "unknown run 'dynat'"),
    option("export ../at", "'../at'"),
    option("export at --out theirs.pt", "theirs.pt: File exists; name another path"),
    option("job trainig --spec {}", "unknown kind of job 'trainig': did you mean 'training'"),
    # Specs of jobs, which others may write.
    spec("training", "not a spec in JSON", text="{"),
    spec("training", "not a spec in JSON", text=""),
    spec("training", "not a spec: expected a JSON object, found list", text="[]"),
    spec("training", "not a spec in JSON", text=bad.nested(3000)),
    spec("training", "preset.*'../..'", preset="../.."),
    spec("training", "preset.*'/tmp/x'", preset="/tmp/x"),
    spec("training", "name.*'../../x'", name="../../x"),
    spec("training", "data.*'../x'", data="../x"),
    spec("training", "unknown key 'nam'.*'name'", nam="x"),
    spec("training", "threat.*eps 8 is outside", threat={"eps": 8}),
    spec("training", "unknown method 'trade'", run={"method": "trade", "target": "small"}),
    spec("training", "plugins: expected a list of names", plugins=3),
    spec("attack", "attack_name.*'../x'", attack_name="../x"),
    spec("attack", "seeds: name at least one", seeds=[]),
    spec("attack", "attack.*'pdg'", attack={"kind": "pdg", "eps": 0.1, "norm": "linf"}),
    spec("data", "name: .*'../x'", text='{"name": "../x", "source": "digits"}'),
    # Folders of images.
    option("data --set 'dataset={name: own, source: folder, path: nowhere, size: 8}'", "nowhere/train: no such folder"),
    images(bad.fifo, "own/train: no such folder"),
    images(bad.tree(train__bird__x_png=bad.picture(3)), "own: the classes differ: train/ has bird, test/ does not"),
    images(bad.tree(train__bird__x_txt="", test__bird__x_txt=""), "own/train: no image .* in bird"),
    images(bad.tree(train__a__x_png=bad.picture(3), test__a__x_png=bad.picture(4)), "class 'a' has 1 image: too few"),
    images(bad.tree(train__cat__x_png="no image"), "own/train/cat/x.png .not an image of JPEG, PNG"),
    images(bad.tree(train__cat__x_png=""), "own/train/cat/x.png .not an image of JPEG, PNG"),
    images(bad.tree(train__cat__x_png=bad.POSTSCRIPT), "own/train/cat/x.png .not an image of JPEG, PNG"),
    images(bad.tree(train__cat__x_png=bad.huge_png), "own/train/cat/x.png.*(large|exceeds|bomb)"),
    images(bad.tree(train__cat__x_png=bad.picture(9, "I;16")), "own/train/cat/x.png .more than 8 bits per channel"),
    images(bad.tree(train__cat__x_png=bad.fifo), "own/train/cat/x.png: not a regular file"),
    images(bad.tree(train__cat__x_png=bad.link_to("nowhere.png")), "own/train/cat/x.png: a link to nothing"),
    images(bad.same_trees, "own: 8 of 8 test images are also training .* not test accuracies", code=0, writes=True),
    option("data --set dataset.mirror=file:///etc", "dataset: mirror is for sources that are downloaded, not"),
    option("data --set 'dataset={name: c, source: cifar10, mirror: \"file:///etc\"}'", "dataset.*mirror.*http"),
    # Prepared data that is damaged.
    prepared(IMAGES, bad.cut(0.5), "make it again"),
    prepared(IMAGES, bad.tensors(train__labels=bad.out_of_range), "make it again"),
    prepared(IMAGES, bad.tensors(train__images=bad.one_pixel), "make it again"),
    prepared(IMAGES, bad.folder, "images.safetensors"),
    prepared(IMAGES, bad.removed, "no such file; run `dynat data`"),
    prepared(INFO, bad.cut(0.5), "make it again"),
    prepared(INFO, "[]", "make it again"),
    prepared(INFO, b"\xff\xfe", "make it again"),
    prepared(INFO, bad.info(sha256="0" * 64), "make it again"),
    prepared(INFO, bad.info(classes=["0", "1"]), "is not one of 2 classes.*make it again"),
    # Checkpoints: files that are none.
    option(f"evaluate nowhere.pt {OPTIONS}", "nowhere.pt: no such checkpoint"),
    option(f"evaluate config {OPTIONS}", "config: .*(folder|directory|no such checkpoint)"),
    checkpoint("", "not a checkpoint: it is empty"),
    checkpoint("P", "not a checkpoint"),
    checkpoint(b"\x80", "not a checkpoint"),
    checkpoint("<html>404</html>", "not a checkpoint: it begins with '<html>"),
    checkpoint(bad.fifo, "(pipe|regular file|no file|not a file|no such checkpoint)"),
    checkpoint(bad.other_archive, "not a checkpoint"),
    checkpoint(bad.half_a_checkpoint, "not a checkpoint, or damaged"),
    checkpoint("x" * 100, "not a checkpoint", name="text.safetensors"),
    # Checkpoints: files that would run code.
    checkpoint(bad.pickled_code, "more than weights"),
    checkpoint(bad.with_code, "more than weights, and reading it would run its code"),
    checkpoint(bad.whole_model, "more than weights.*state_dict"),
    # Checkpoints: other contents than the weights of this network.
    checkpoint(bad.saved({}), "no weights found"),
    checkpoint(bad.saved([1, 2]), "no weights found"),
    checkpoint(bad.saved({"epoch": 3}), "no weights found .it contains: epoch"),
    checkpoint(bad.saved({"net": bad.weights(), "ema": bad.weights()}), "several networks .net, ema"),
    checkpoint(bad.saved({0: torch.ones(1), 1: torch.ones(1)}), "no weights found .it contains: 0, 1"),
    checkpoint(bad.in_itself, "no weights found|contains itself|nested"),
    checkpoint(bad.deep_dict, "nested|no weights found"),
    checkpoint(bad.saved(dict(list(bad.weights().items())[1:])), "not the weights of this .*missing: "),
    checkpoint(bad.saved({**bad.weights(), "more": torch.ones(1)}), "not the weights of this .*unexpected: more"),
    checkpoint(bad.with_tensor(lambda tensor: tensor[:1]), "not the weights of this .*of another shape: "),
    checkpoint(bad.with_value(float("nan")), f"{bad.first_weight()}.*(NaN|finite)"),
    checkpoint(bad.with_value(float("inf")), f"{bad.first_weight()}.*(inf|finite)"),
    checkpoint(bad.with_value(-1.0, "running_var"), "running_var.*negative"),
    checkpoint(bad.with_value(float("nan"), "running_mean"), "running_mean.*(NaN|finite)"),
    checkpoint(bad.with_tensor(lambda tensor: tensor.to(torch.int32)), f"{bad.first_weight()}.*int32"),
    checkpoint(bad.with_tensor(lambda tensor: tensor > 0), f"{bad.first_weight()}.*bool"),
    checkpoint(bad.with_tensor(lambda tensor: tensor.to(torch.complex64)), f"{bad.first_weight()}.*complex"),
    checkpoint(bad.with_tensor(lambda tensor: tensor.to_sparse()), f"{bad.first_weight()}.*sparse"),
    checkpoint(bad.with_tensor(lambda tensor: tensor.to("meta")), f"{bad.first_weight()}.*meta"),
    checkpoint(bad.with_tensor(bad.quantized), f"{bad.first_weight()}.*quanti"),
    checkpoint(
        bad.saved({**bad.weights(), "mean": torch.ones(1), "std": torch.zeros(1)}), "are no normalization of pixels"
    ),
    # Options of `dynat evaluate`.
    option("evaluate theirs.pt", "Missing option"),
    evaluate("--arch resnet19", "unknown network 'resnet19': did you mean 'resnet18'"),
    evaluate("--arch resnet18", "theirs.pt: these are not the weights of this ResNet"),
    evaluate("--dataset mnist", "--dataset: unknown data set 'mnist'"),
    evaluate("--dataset theirs.pt", "--dataset: .*theirs.pt"),
    evaluate("--dataset config", "config: expected a folder per class"),
    evaluate("--attacks pgd-5,,pgd-5", "--attacks"),
    evaluate("--attacks '[['", r"--attacks: '\[' becomes the name of a folder"),
    evaluate("--attacks pdg-5", "unknown attack 'pdg-5'"),
    evaluate("--attacks pgd-0", "attacks.pgd-0.*steps: .*greater than or equal to 1"),
    evaluate("--eps 8", r"eps 8 is outside \(0,1\).*8/255 rather than 8"),
    evaluate("--eps big", "eps: 'big' is not a number"),
    evaluate("--norm l3", "norm: .*'linf', 'l2' or 'l1'"),
    evaluate("--images 0", "images.*(greater than or equal to 1|x>=1)"),
    evaluate("--batch 0", "batch.*(greater than or equal to 1|x>=1)"),
    evaluate("--surrogate int8", "surrogate: .*'float16'"),
    evaluate("--mean 0.5", "mean and std are given together"),
    evaluate("--mean '[[' --std 1", "--mean"),
    evaluate("--mean 125 --std 64", "mean 125 is not of pixels in .0,1.: divide values"),
    evaluate("--mean 0.5 --std 0", "std 0 is not of pixels"),
    evaluate("--mean 0.5,0.5 --std 0.2,0.2", "mean and std have 2 channels, and the images have 1"),
    evaluate("--expect 850", "--expect"),
    evaluate("--expect -1", "--expect"),
    evaluate("--device cdua", "device.*cdua"),
    evaluate("--out config", "config: contains something else; .*--out"),
    evaluate("--out params.yaml", r"params.yaml: cannot be written \(.*nothing was started"),
    evaluate("--size 0", "--size"),
    evaluate("--images -5", "images.*(greater than or equal to 1|x>=1)"),
    evaluate("--state params.yaml", "params.yaml", writes=True),
    option(f"evaluate '' {OPTIONS}", "no such checkpoint|folder|directory"),
    option("import x --set 'checkpoints={x: {file: nowhere.pt, arch: small}}'", "nowhere.pt: no such checkpoint"),
    Case(
        "import x --set 'checkpoints={x: {file: pipe, arch: small}}'", "pipe: is not a regular file", {"pipe": bad.fifo}
    ),
    # Results of strangers.
    result(f"{RUN}/metrics.json", bad.with_plugin, "diff results results", "plugins"),
    result(f"{RUN}/seed0/config.json", bad.with_plugin, f"metrics {RUN}", "plugins"),
    result(f"{RUN}/outcomes/pgd-5.json", bad.with_plugin, f"metrics {RUN}", "plugins"),
    result(f"{RUN}/seed0/config.json", bad.with_plugin, "attack at clean", "plugins"),
    result(REQUEST, bad.replaced_all('"theirs"', '"../../x"'), "export evaluations/done", "name"),
    result(f"{RUN}/metrics.json", bad.nested(100000), "diff results results", "not valid JSON"),
    result(f"{RUN}/metrics.json", "9" * 5000, "diff results results", "not valid JSON"),
    result(f"{RUN}/metrics.json", bad.fifo, "diff results results", "not a regular file"),
    result(f"{RUN}/seed0/config.json", bad.fifo, "attack at clean", "not a regular file"),
    result(f"{RUN}/seed0/target.safetensors", bad.fifo, "attack at clean", "not a regular file"),
    result(f"{RUN}/seed0/history.csv", bad.fifo, f"metrics {RUN}", "not a regular file"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.fifo, f"metrics {RUN}", "not a regular file"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.folder, f"metrics {RUN}", "is a folder"),
    result(f"{RUN}/seed0/target.safetensors", bad.with_nan_weights, "attack at clean", "(NaN|finite)"),
    prepared(IMAGES, bad.fifo, "not a regular file"),
    prepared(INFO, bad.fifo, "not a regular file"),
    prepared(INFO, "9" * 5000, "make it again"),
    prepared(INFO, bad.nested(100000), "make it again"),
    params("training: {schedule: {lr: 2020-01-01}}", "runs.at.schedule.lr: .*number"),
    params(f"sanity: {{restarts: {10**30}}}", "sanity.restarts: .*(less than|at most)"),
    params("plugins: [nul.l]", "plugins: module 'nul.l' cannot be imported"),
    images(bad.tree(train__cat__loop=bad.link_to(".")), "loop"),
    # Damaged results: which file, and what makes it again.
    result(f"{RUN}/seed0/config.json", bad.cut(0.5), "attack at clean", "not valid JSON"),
    result(
        f"{RUN}/seed0/config.json", bad.replaced('_version": ', '_version": 9'), "attack at clean", "another version"
    ),
    result(f"{RUN}/seed0/config.json", bad.folder, "attack at clean", "is a folder"),
    result(f"{RUN}/seed0/config.json", bad.replaced('"small"', '"tiny"'), "attack at clean", "unknown network 'tiny'"),
    result(f"{RUN}/seed0/target.safetensors", bad.cut(0.5), "attack at clean", "not a complete safetensors file"),
    result(f"{RUN}/seed0/target.safetensors", bad.removed, "attack at clean", "no such file; make it with"),
    result(f"{RUN}/seed0/history.csv", bad.without_last_lines(1), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/seed0/history.csv", "", f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.without_last_lines(100), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.cut(0.5), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", "", f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.replaced("correct", "corect"), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", bad.replaced(",1,", ",0,"), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.csv", b"\xff\xfe\x00", f"metrics {RUN}", "make it again"),
    result(f"{RUN}/outcomes/pgd-5.json", bad.cut(0.9), f"metrics {RUN}", "not valid JSON"),
    result(f"{RUN}/outcomes/pgd-5.json", "{}", f"metrics {RUN}", "another version"),
    result(f"{RUN}/sanity.csv", bad.without_last_lines(100), f"metrics {RUN}", "make it again"),
    result(f"{RUN}/sanity.json", bad.cut(0.5), f"metrics {RUN}", "not valid JSON"),
    result(f"{RUN}/metrics.json", bad.cut(0.5), "export at", "not valid JSON"),
    result(f"{RUN}/metrics.json", "", "diff results results", "not valid JSON"),
    result(f"{RUN}/metrics.json", b"\xff\xfe", "diff results results", "not valid JSON"),
    result(f"{RUN}/metrics.json", "[]", "diff results results", "expected a JSON object, found list"),
    result(REQUEST, bad.cut(0.5), "export evaluations/done", "not valid JSON"),
    result(REQUEST, bad.with_plugin, "export evaluations/done", "plugins"),
    result("evaluations/done/metrics.json", bad.with_plugin, "export evaluations/done", "plugins"),
]


# --- the project, and the test --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained and attacked run and an evaluated checkpoint; only to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    put(tiny.PRESET, folder / "config/presets/tiny.yaml")
    quick = "preset: tiny\nselect: [at]\ntraining: {epochs: 1}\nsanity: {images: 10, queries: 5, steps: [21]}\n"
    put(quick, folder / "params.yaml")
    put(bad.saved(bad.weights()), folder / "theirs.pt")
    put("import pathlib\npathlib.Path('pwned').touch()\n", folder / "evil.py")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for words in ("data", "train at", "attack at clean", "attack at pgd-5", "sanity at", f"metrics {RUN}"):
            app(words.split(), standalone_mode=False)
        app(shlex.split(f"evaluate theirs.pt {OPTIONS} --out evaluations/done"), standalone_mode=False)
    finally:
        os.chdir(before)
    return folder


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Fail where a command waits for ever."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.message[:60])
def test_a_bad_input_is_refused_with_a_message(
    case: Case, finished: Path, dynat: Dynat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished, project)
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    for name, content in case.files.items():
        put(content, project / name)
    before = set(tmp_path.rglob("*"))
    words = [word.replace("@", str(tmp_path)) for word in shlex.split(case.command)]
    start = time.process_time()
    with no_longer_than(HANGS):
        code, output = dynat(*words)
    seconds = time.process_time() - start
    printed = " ".join(output.split())
    assert code == case.code and re.search(case.message, printed), f"exit code {code}: {printed[:400]}"
    assert seconds < SECONDS
    written = {str(file.relative_to(tmp_path)) for file in set(tmp_path.rglob("*")) - before}
    assert case.writes or not written, f"wrote {written}: {printed[:200]}"
