# Guide and target, trained together: one job per run and seed. Interrupted, it goes on from runs/.
TRAINED = "results/{preset}/{{run}}/seed{{seed}}".format(preset=PRESET)


rule train:
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
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.training(wildcards.run).model_dump_json(),
    shell:
        "dynat train --spec {params.spec:q} --seed {wildcards.seed} --threads {threads} > {log} 2>&1"


use rule train as train_with_guide with:
    output:
        *rules.train.output,
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
        rules.train.output,
    log:
        f"logs/train/{PRESET}/{{run}}-seed{{seed}}.log",
    wildcard_constraints:
        run="|".join(map(re.escape, EXTERNAL)) or "none",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.training(wildcards.run).model_dump_json(),
    shell:
        "dynat adopt --spec {params.spec:q} > {log} 2>&1"
