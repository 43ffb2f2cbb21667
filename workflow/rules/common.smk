# The checked experiment, and the paths of its files. params.yaml is read as `dynat check` reads it, not by Snakemake;
# `config` is what was given with --config.
from dynat import provenance
from dynat.config import ConfigError, load
from dynat.config.yaml_input import command_line_values
from dynat.jobs import job_view, preflight
from dynat.jobs.rate_limit import remove_default_rate_limit
from dynat.results.paths import Paths
from dynat.runtime.errors import UserError
from dynat.runtime.interrupts import handle_in_a_thread

PATHS = Paths()
try:
    EXPERIMENT = load(
        over=command_line_values(config),
        notice=lambda text: print(f"dynat: {text}", file=sys.stderr),
    )
    if workflow.is_main_process:
        preflight.check_before_jobs(EXPERIMENT, PATHS)
except ConfigError as error:
    print(f"dynat: config: {error}", file=sys.stderr)
    sys.exit(2)
except UserError as error:
    print(f"dynat: {error}", file=sys.stderr)
    sys.exit(2)

PRESET = EXPERIMENT.preset
FILES = PATHS.experiment(PRESET)
RUN = FILES.run("{run}")
SEED = RUN.seed("{seed}")
# Jobs take turns on a GPU (the profile says how many there are); without one they only share the cores.
GPU = int(shutil.which("nvidia-smi") is not None)
GUIDED = [name for name, run in EXPERIMENT.runs.items() if run.guide]
UNGUIDED = [name for name in EXPERIMENT.runs if name not in GUIDED]


def one_of(names):
    """A wildcard that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "none"


wildcard_constraints:
    seed=r"[0-9]+",
    run=one_of(EXPERIMENT.rows),
    attack=one_of(EXPERIMENT.attacks),
    shard=r"[0-9]+-of-[0-9]+",


def relative(files):
    """Source files as the DAG should name them: relative paths survive a move of the project."""
    return [os.path.relpath(file) for file in files]


def network_plugins(name):
    """The files of plug-ins that define the networks of a row. What attacks its weights depends on them by these."""
    row = EXPERIMENT.rows[name]
    names = [row.arch] if name in EXPERIMENT.checkpoints else [row.target, row.guide]
    return relative(provenance.network_plugins(*names))


def attack_plugins(name):
    """The files of plug-ins that define an attack."""
    return relative(provenance.attack_plugins(EXPERIMENT.attacks[name].kind))


def weights(name):
    """The networks of a row, over all its seeds, with their records."""
    seeds = [FILES.run(name).seed(seed) for seed in EXPERIMENT.seeds[name]]
    return [file for seed in seeds for file in (seed.target(), seed.config)]


def shards(wildcards):
    """The files of the other jobs that share an attack; none for a shard itself, and by default."""
    count = EXPERIMENT.shards_of(wildcards.run, wildcards.attack)
    if "shard" in wildcards.keys() or count == 1:
        return []
    return [
        PATHS.shard(PRESET, wildcards.run, wildcards.attack, f"{number}-of-{count}")
        for number in range(1, count + 1)
    ]


def corruption_files():
    """The files of the archive of corrupted images, if the experiment names one."""
    settings = EXPERIMENT.corruptions
    if settings is None or settings.path is None:
        return []
    folder = Path(settings.path).expanduser()
    return [str(folder / f"{name}.npy") for name in ("labels", *settings.chosen)]


def part_of_attack(wildcards):
    """Options of a job of an attack: its shard, and whether it keeps the adversarial images."""
    shard = ["--shard", wildcards.shard] if "shard" in wildcards.keys() else []
    ending = EXPERIMENT.attacks[wildcards.attack].adversarial_images
    return [*shard, *(["--adversarial", ending] if ending else [])]


def adversarial_images():
    """The files of adversarial images that the experiment asks for."""
    return [
        FILES.run(name).seed(seed).adversarial(attack, config.adversarial_images)
        for attack, config in EXPERIMENT.attacks.items()
        if config.adversarial_images
        for name in EXPERIMENT.rows
        for seed in EXPERIMENT.seeds[name]
    ]


def captioned(file, category, caption):
    """A file as `snakemake --report` shows it, with the text of workflow/report/<caption>.rst."""
    return report(str(file), category=category, caption=f"../report/{caption}.rst")
