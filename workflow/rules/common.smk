# The checked experiment, and where its files lie.
from dynat import provenance
from dynat.config import ConfigError, load
from dynat.jobs import guard
from dynat.places import Places

PLACES = Places()
try:
    EXPERIMENT = load(config)
    if workflow.is_main_process:
        guard.before_any_job(EXPERIMENT, PLACES)
except ConfigError as error:
    print(f"dynat: config: {error}", file=sys.stderr)
    sys.exit(2)
except ValueError as error:
    print(f"dynat: {error}", file=sys.stderr)
    sys.exit(2)

PRESET = EXPERIMENT.preset
RESULTS = f"results/{PRESET}"
# Jobs take turns on a GPU (the profile says how many there are); without one they only share the cores.
GPU = int(shutil.which("nvidia-smi") is not None)
GUIDED = [name for name, run in EXPERIMENT.runs.items() if run.guide]
EXTERNAL = [name for name, run in EXPERIMENT.runs.items() if run.method == "external"]
ALONE = [name for name in EXPERIMENT.runs if name not in GUIDED + EXTERNAL]


wildcard_constraints:
    seed=r"\d+",
    run="|".join(map(re.escape, EXPERIMENT.runs)),
    attack="|".join(map(re.escape, EXPERIMENT.attacks)),


def relative(files):
    """Source files as the DAG should name them: relative paths survive a move of the project."""
    return [os.path.relpath(file) for file in files]
