# Guide and target, trained together: one job per run and seed. Interrupted, it goes on from runs/.
TRAINED = "results/{preset}/{{run}}/seed{{seed}}".format(preset=PRESET)
TRAININGS = [
    TRAINED.format(run=run, seed=seed)
    for run in EXPERIMENT.runs
    for seed in EXPERIMENT.seeds[run]
]


rule training:
    input:
        rules.data.output,
        src=lambda wildcards: relative(
            provenance.training_sources(EXPERIMENT.runs[wildcards.run].method)
        ),
    output:
        f"{TRAINED}/target.safetensors",
        f"{TRAINED}/target-last.safetensors",
        f"{TRAINED}/history.csv",
        f"{TRAINED}/config.json",
    log:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.log",
    benchmark:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.tsv"
    wildcard_constraints:
        run="|".join(map(re.escape, ALONE)) or "none",
    threads: EXPERIMENT.threads
    resources:
        gpu=lambda wildcards: GPU * EXPERIMENT.runs[wildcards.run].gpus,
    params:
        spec=lambda wildcards: EXPERIMENT.training(wildcards.run).model_dump_json(),
    shell:
        "dynat train --spec {params.spec:q} --seed {wildcards.seed} --threads {threads} > {log} 2>&1"


use rule training as training_with_guide with:
    output:
        *rules.training.output,
        f"{TRAINED}/guide.safetensors",
    wildcard_constraints:
        run="|".join(map(re.escape, GUIDED)) or "none",


# Somebody's checkpoint takes the place of a training.
rule adopt:
    input:
        rules.data.output,
        checkpoint=lambda wildcards: EXPERIMENT.runs[wildcards.run].checkpoint,
        src=relative(provenance.adoption_sources()),
    output:
        rules.training.output,
    log:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.log",
    wildcard_constraints:
        run="|".join(map(re.escape, EXTERNAL)) or "none",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.training(wildcards.run).model_dump_json(),
    shell:
        "dynat adopt --spec {params.spec:q} > {log} 2>&1"


rule curves:
    input:
        expand("{folder}/history.csv", folder=TRAININGS),
        src=relative(provenance.plots_sources()),
    output:
        f"plots/{PRESET}/epochs.csv",
        f"plots/{PRESET}/labels.csv",
    log:
        f"logs/train/{PRESET}/curves.log",
    localrule: True
    params:
        spec=EXPERIMENT.model_dump_json(),
    shell:
        "dynat curves --spec {params.spec:q} > {log} 2>&1"


rule train:
    input:
        expand("{folder}/target.safetensors", folder=TRAININGS),
        rules.curves.output,
    localrule: True
