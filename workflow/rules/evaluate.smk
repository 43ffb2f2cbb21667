# One job per run and attack, over the run's seeds: a row per picture. Metrics read those rows alone.
rule attack:
    input:
        rules.data.output,
        lambda wildcards: expand(
            f"{RESULTS}/{wildcards.run}/seed{{seed}}/{{file}}",
            seed=EXPERIMENT.seeds[wildcards.run],
            file=["target.safetensors", "target-last.safetensors", "config.json"],
        ),
        src=relative(provenance.exam_sources() + [provenance.PACKAGE / "jobs/exam.py"]),
    output:
        f"{RESULTS}/{{run}}/outcomes/{{attack}}.csv",
        f"{RESULTS}/{{run}}/outcomes/{{attack}}.json",
        f"{RESULTS}/{{run}}/outcomes/{{attack}}.examples.safetensors",
    log:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}.log",
    benchmark:
        f"logs/attack/{PRESET}/{{run}}-{{attack}}.tsv"
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.exam(
            wildcards.run, wildcards.attack
        ).model_dump_json(),
    shell:
        "dynat attack --spec {params.spec:q} --threads {threads} > {log} 2>&1"


rule metrics:
    input:
        lambda wildcards: expand(
            f"{RESULTS}/{wildcards.run}/seed{{seed}}/{{file}}",
            seed=EXPERIMENT.seeds[wildcards.run],
            file=["history.csv", "config.json"],
        ),
        expand(
            f"{RESULTS}/{{{{run}}}}/outcomes/{{attack}}.{{ending}}",
            attack=EXPERIMENT.attacks,
            ending=["csv", "json"],
        ),
        src=relative(provenance.metrics_sources()),
    output:
        f"{RESULTS}/{{run}}/metrics.json",
    log:
        f"logs/metrics/{PRESET}/{{run}}.log",
    localrule: True
    params:
        attacks=" ".join(f"--attack {name}" for name in EXPERIMENT.attacks),
    shell:
        f"dynat metrics {RESULTS}/{{wildcards.run}} {{params.attacks}} > {{log}} 2>&1"


rule accuracy:
    input:
        expand(rules.metrics.output, run=EXPERIMENT.runs),
        src=relative(provenance.plots_sources()),
    output:
        f"plots/{PRESET}/accuracy.csv",
        expand(f"metrics/{PRESET}/{{run}}.json", run=EXPERIMENT.runs),
    log:
        f"logs/metrics/{PRESET}/accuracy.log",
    localrule: True
    params:
        spec=EXPERIMENT.model_dump_json(),
    shell:
        "dynat accuracy --spec {params.spec:q} > {log} 2>&1"


rule evaluate:
    input:
        rules.train.input,
        expand(rules.metrics.output, run=EXPERIMENT.runs),
        rules.accuracy.output,
    localrule: True
