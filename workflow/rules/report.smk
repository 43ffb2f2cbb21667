# Tables, figures and report.html.
from dynat.report.figure_list import figures_of, formats_of


rule report:
    input:
        rules.evaluate.input,
        [
            file
            for run in map(FILES.run, EXPERIMENT.rows)
            for attack in EXPERIMENT.attacks
            for file in (
                run.outcome(attack),
                run.outcome_record(attack),
                run.examples(attack),
            )
        ],
        src=relative(provenance.report_sources()),
    output:
        page=captioned(FILES.report, "Report", "page"),
        main=captioned(FILES.table("main", "csv"), "Tables", "main"),
        ablations=captioned(FILES.table("ablations", "csv"), "Tables", "ablations"),
        tables=[
            FILES.table("main", "md"),
            FILES.table("main", "tex"),
            FILES.table("ablations", "md"),
        ],
        corruptions=(
            [
                captioned(
                    FILES.table("corruptions", "csv"), "Tables", "corruptions_table"
                ),
                FILES.table("corruptions", "md"),
            ]
            if EXPERIMENT.corruptions
            else []
        ),
        figures=[
            captioned(FILES.figure(name, "svg"), "Figures", name)
            for name in figures_of(EXPERIMENT)
        ],
        others=[
            FILES.figure(name, ending)
            for name in figures_of(EXPERIMENT)
            for ending in formats_of(EXPERIMENT)
            if ending != "svg"
        ],
    log:
        f"logs/report/{PRESET}.log",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.model_dump_json(),
    shell:
        "dynat job report --spec {params.spec:q} > {log:q} 2>&1"
