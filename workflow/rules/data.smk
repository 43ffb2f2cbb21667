# Images, downloaded or built once, in one format for every source.
rule data:
    input:
        src=relative(provenance.data_sources(EXPERIMENT.dataset.source)),
    output:
        PATHS.dataset_images(EXPERIMENT.dataset.name),
        PATHS.dataset_info(EXPERIMENT.dataset.name),
    log:
        f"logs/data/{EXPERIMENT.dataset.name}.log",
    localrule: True
    params:
        spec=lambda wildcards: EXPERIMENT.dataset.model_dump_json(),
        # A changed folder of images is another data set.
        images=provenance.listing(EXPERIMENT.dataset, PATHS.listings),
    shell:
        "dynat job data --spec {params.spec:q} > {log:q} 2>&1"
