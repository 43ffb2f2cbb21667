# Guide and target, trained together: one job per run and seed. An interrupted training resumes from state/.
TRAININGS = [
    FILES.run(run).seed(seed)
    for run in EXPERIMENT.runs
    for seed in EXPERIMENT.seeds[run]
]
SOURCES = {
    method: relative(provenance.training_sources(method))
    for method in {run.method for run in EXPERIMENT.runs.values()}
}
IMPORTS = [FILES.run(name).seed(0) for name in EXPERIMENT.checkpoints]


rule training:
    input:
        rules.data.output,
        lambda wildcards: (
            rules.extra_images.output if EXPERIMENT.runs[wildcards.run].extra else []
        ),
        lambda wildcards: PATHS.initial_weights(
            PRESET, EXPERIMENT.runs[wildcards.run], wildcards.seed
        ),
        src=lambda wildcards: SOURCES[EXPERIMENT.runs[wildcards.run].method],
        plugins=lambda wildcards: network_plugins(wildcards.run),
    output:
        SEED.target(),
        SEED.target("last"),
        SEED.history,
        SEED.config,
    log:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.log",
    benchmark:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.tsv"
    wildcard_constraints:
        run=one_of(UNGUIDED),
    threads: EXPERIMENT.threads
    resources:
        gpu=lambda wildcards: GPU * EXPERIMENT.runs[wildcards.run].gpus,
    params:
        spec=lambda wildcards: EXPERIMENT.training(wildcards.run).model_dump_json(),
        # Snakemake compares no parameter that depends on `threads`: event files are no reason to train again.
        events=lambda wildcards, threads: (
            ["--tensorboard"] if EXPERIMENT.runs[wildcards.run].tensorboard else []
        ),
    shell:
        "dynat job training --spec {params.spec:q} --seed {wildcards.seed:q} --threads {threads} {params.events:q} > {log:q} 2>&1"


use rule training as training_with_guide with:
    output:
        *rules.training.output,
        SEED.guide,
    wildcard_constraints:
        run=one_of(GUIDED),


# A third-party checkpoint is a row too: it is imported instead of trained.
rule import_checkpoint:
    input:
        rules.data.output,
        checkpoint=lambda wildcards: EXPERIMENT.checkpoints[wildcards.run].file,
        src=relative(provenance.import_sources()),
        plugins=lambda wildcards: network_plugins(wildcards.run),
    output:
        rules.training.output,
    log:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.log",
    wildcard_constraints:
        run=one_of(EXPERIMENT.checkpoints),
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.checkpoint_import(
            wildcards.run
        ).model_dump_json(),
    shell:
        "dynat job import --spec {params.spec:q} > {log:q} 2>&1"


# Validation accuracy over the epochs, for `dvc plots`.
rule curves:
    input:
        [file for seed in TRAININGS for file in (seed.history, seed.config)],
        src=relative(provenance.plots_sources()),
    output:
        PATHS.plot(PRESET, "epochs"),
        PATHS.plot(PRESET, "labels"),
    log:
        f"logs/train/{PRESET}/curves.log",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.model_dump_json(),
    shell:
        "dynat job curves --spec {params.spec:q} > {log:q} 2>&1"


rule train:
    input:
        [seed.target() for seed in TRAININGS + IMPORTS],
        rules.curves.output,
    localrule: True
