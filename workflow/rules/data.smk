# Pictures, downloaded or built once, in one format for every source.
rule data:
    input:
        src=relative(provenance.data_sources(EXPERIMENT.dataset.source)),
    output:
        "data/{name}/pictures.safetensors".format(name=EXPERIMENT.dataset.name),
        "data/{name}/info.json".format(name=EXPERIMENT.dataset.name),
    log:
        f"logs/data/{EXPERIMENT.dataset.name}.log",
    localrule: True
    params:
        spec=EXPERIMENT.dataset.model_dump_json(),
        # A picture more or less is another data set.
        pictures=provenance.listing(EXPERIMENT.dataset),
    shell:
        "dynat data --spec {params.spec:q} > {log} 2>&1"
