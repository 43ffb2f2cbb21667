# One job per run and attack, over the run's seeds: a row per image. Metrics are computed from those rows. With `shards`,
# other jobs have attacked its batches before.
rule attack:
    input:
        rules.data.output,
        lambda wildcards: weights(wildcards.run),
        last=lambda wildcards: [
            FILES.run(wildcards.run).seed(seed).target("last")
            for seed in EXPERIMENT.seeds[wildcards.run]
        ],
        src=relative(
            provenance.evaluation_sources()
            + [provenance.PACKAGE / "jobs/evaluation.py"]
        ),
        plugins=lambda wildcards: attack_plugins(wildcards.attack),
        shards=lambda wildcards: shards(wildcards),
    output:
        RUN.outcome("{attack}"),
        RUN.outcome_record("{attack}"),
        RUN.examples("{attack}"),
    log:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}.log",
    benchmark:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}.tsv"
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.evaluation(
            wildcards.run, wildcards.attack
        ).model_dump_json(),
        # Snakemake compares no parameter that depends on `threads`: images that are kept too are no reason to repeat.
        part=lambda wildcards, threads: part_of_attack(wildcards),
    shell:
        "dynat job attack --spec {params.spec:q} --threads {threads} {params.part:q} > {log:q} 2>&1"


# Its file only says that the batches are in state/evaluations, where an interrupted attack resumes.
use rule attack as attack_shard with:
    output:
        temp(touch(PATHS.shard(PRESET, "{run}", "{attack}", "{shard}"))),
    log:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}-{{shard}}.log",
    benchmark:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}-{{shard}}.tsv"


# All adversarial images of an attack, where its settings ask for them; from the batches of the attack.
rule adversarial_images:
    input:
        rules.data.output,
        lambda wildcards: weights(wildcards.run),
        outcome=[RUN.outcome("{attack}"), RUN.outcome_record("{attack}")],
        plugins=lambda wildcards: attack_plugins(wildcards.attack),
        src=relative(
            provenance.evaluation_sources()
            + [
                provenance.PACKAGE / "jobs/evaluation.py",
                provenance.PACKAGE / "jobs/adversarial.py",
            ]
        ),
    output:
        SEED.adversarial("{attack}", "{ending}"),
        SEED.adversarial_record("{attack}", "{ending}"),
    log:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}-seed{{seed}}-{{ending}}.log",
    wildcard_constraints:
        ending="pt|safetensors",
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.evaluation(
            wildcards.run, wildcards.attack
        ).model_dump_json(),
    shell:
        "dynat job adversarial --spec {params.spec:q} --seed {wildcards.seed:q} --adversarial {wildcards.ending:q} --threads {threads} > {log:q} 2>&1"


# Small attacks on a run that show whether its evaluation can be trusted.
rule sanity:
    input:
        rules.data.output,
        lambda wildcards: weights(wildcards.run),
        src=relative(provenance.sanity_sources()),
    output:
        RUN.sanity,
        RUN.sanity_record,
    log:
        f"logs/attack/{PRESET}/{{run}}-sanity.log",
    benchmark:
        f"logs/attack/{PRESET}/{{run}}-sanity.tsv"
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.sanity_checks(wildcards.run).model_dump_json(),
    shell:
        "dynat job sanity --spec {params.spec:q} --threads {threads} > {log:q} 2>&1"


# Every run on corrupted test images, if the experiment has the section `corruptions`.
CORRUPTED = list(EXPERIMENT.rows) if EXPERIMENT.corruptions else []


rule corruptions:
    input:
        rules.data.output,
        lambda wildcards: weights(wildcards.run),
        archive=corruption_files(),
        src=relative(provenance.corruption_sources()),
    output:
        RUN.corruptions,
        RUN.corruptions_record,
    log:
        f"logs/attack/{PRESET}/{{run}}-corruptions.log",
    wildcard_constraints:
        run=one_of(CORRUPTED),
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.corrupted(wildcards.run).model_dump_json(),
    shell:
        "dynat job corruptions --spec {params.spec:q} --threads {threads} > {log:q} 2>&1"


# Every run evaluated on the adversarial images that were made against every other run.
rule transfer:
    input:
        rules.data.output,
        [
            file
            for run, seed in EXPERIMENT.transfer().runs.items()
            for file in (
                FILES.run(run).seed(seed).target(),
                FILES.run(run).seed(seed).config,
            )
        ],
        src=relative(provenance.sanity_sources()),
    output:
        FILES.transfer,
        FILES.transfer_record,
    log:
        f"logs/attack/{PRESET}/transfer.log",
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.transfer().model_dump_json(),
    shell:
        "dynat job transfer --spec {params.spec:q} --threads {threads} > {log:q} 2>&1"


rule metrics:
    input:
        rules.sanity.output,
        lambda wildcards: [
            file
            for seed in EXPERIMENT.seeds[wildcards.run]
            for file in (
                FILES.run(wildcards.run).seed(seed).history,
                FILES.run(wildcards.run).seed(seed).config,
            )
        ],
        [
            file
            for attack in EXPERIMENT.attacks
            for file in (RUN.outcome(attack), RUN.outcome_record(attack))
        ],
        src=relative(provenance.metrics_sources()),
    output:
        RUN.metrics,
    log:
        f"logs/metrics/{PRESET}/{{run}}.log",
    localrule: True
    params:
        folder=lambda wildcards: FILES.run(wildcards.run).folder,
        options=lambda wildcards: [
            *(["--allow-plugins"] if EXPERIMENT.plugins else []),
            *(f"--attack={name}" for name in EXPERIMENT.attacks),
        ],
    shell:
        "dynat metrics {params.folder:q} {params.options:q} > {log:q} 2>&1"


# Accuracy under every attack, for `dvc metrics` and `dvc plots`.
rule accuracy:
    input:
        expand(rules.metrics.output, run=EXPERIMENT.rows),
        src=relative(provenance.plots_sources()),
    output:
        PATHS.plot(PRESET, "accuracy"),
        [PATHS.run_accuracy(PRESET, run) for run in EXPERIMENT.rows],
    log:
        f"logs/metrics/{PRESET}/accuracy.log",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.model_dump_json(),
    shell:
        "dynat job accuracy --spec {params.spec:q} > {log:q} 2>&1"


rule evaluate:
    input:
        rules.train.input,
        expand(rules.metrics.output, run=EXPERIMENT.rows),
        rules.accuracy.output,
        rules.transfer.output,
        expand(rules.corruptions.output, run=CORRUPTED),
    localrule: True
