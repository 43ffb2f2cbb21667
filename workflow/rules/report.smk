# Tables, figures and the page a person reads.
rule report:
    input:
        rules.evaluate.input,
        expand(
            f"{RESULTS}/{{run}}/outcomes/{{attack}}.{{ending}}",
            run=EXPERIMENT.runs,
            attack=EXPERIMENT.attacks,
            ending=["csv", "json", "examples.safetensors"],
        ),
        src=relative(provenance.report_sources()),
    output:
        page=f"{RESULTS}/report.html",
        tables=expand(f"{RESULTS}/tables/main.{{ending}}", ending=["csv", "md", "tex"]),
        ablations=expand(f"{RESULTS}/tables/ablations.{{ending}}", ending=["csv", "md"]),
        figures=expand(
            f"{RESULTS}/figures/{{figure}}.{{ending}}",
            figure=[
                "epochs",
                "tradeoff",
                "labels",
                "pairs",
                "strength",
                "transfer",
                "gallery",
                "classes",
            ],
            ending=["svg", "png"],
        ),
    log:
        f"logs/report/{PRESET}.log",
    localrule: True
    params:
        spec=EXPERIMENT.model_dump_json(),
    shell:
        "dynat report --spec {params.spec:q} > {log} 2>&1"
