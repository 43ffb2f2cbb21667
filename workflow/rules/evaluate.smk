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


# Many small examinations of a run, from which validity gates and curves are read.
rule probe:
    input:
        rules.data.output,
        lambda wildcards: expand(
            f"{RESULTS}/{wildcards.run}/seed{{seed}}/{{file}}",
            seed=EXPERIMENT.seeds[wildcards.run],
            file=["target.safetensors", "config.json"],
        ),
        src=relative(provenance.probe_sources()),
    output:
        f"{RESULTS}/{{run}}/probes.csv",
        f"{RESULTS}/{{run}}/probes.json",
    log:
        f"logs/attack/{PRESET}/{{run}}-probes.log",
    benchmark:
        f"logs/attack/{PRESET}/{{run}}-probes.tsv"
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=lambda wildcards: EXPERIMENT.probe(wildcards.run).model_dump_json(),
    shell:
        "dynat probe --spec {params.spec:q} --threads {threads} > {log} 2>&1"


# The pictures made against every run, shown to every run.
rule transfer:
    input:
        rules.data.output,
        [
            f"{RESULTS}/{run}/seed{EXPERIMENT.seeds[run][0]}/{file}"
            for run in EXPERIMENT.runs
            for file in ("target.safetensors", "config.json")
        ],
        src=relative(provenance.probe_sources()),
    output:
        f"{RESULTS}/transfer.csv",
        f"{RESULTS}/transfer.json",
    log:
        f"logs/attack/{PRESET}/transfer.log",
    threads: EXPERIMENT.threads
    resources:
        gpu=GPU,
    params:
        spec=EXPERIMENT.transfer().model_dump_json(),
    shell:
        "dynat transfer --spec {params.spec:q} --threads {threads} > {log} 2>&1"


rule metrics:
    input:
        rules.probe.output,
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
        rules.transfer.output,
    localrule: True
