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
        # Extra images change nothing in the data set itself.
        spec=lambda wildcards: EXPERIMENT.dataset.model_dump_json(exclude={"extra"}),
        # A changed folder of images is another data set.
        images=provenance.listing(EXPERIMENT.dataset, PATHS.listings),
    shell:
        "dynat job data --spec {params.spec:q} > {log:q} 2>&1"


# Extra training images stay in their file, which is checked once.
EXTRA = EXPERIMENT.extra_images()

if EXTRA:

    rule extra_images:
        input:
            rules.data.output,
            file=str(Path(EXTRA.images.path).expanduser()),
            src=relative(provenance.extra_sources()),
        output:
            PATHS.extra_images_info(EXTRA.data, EXTRA.images.name),
        log:
            f"logs/data/{EXTRA.data}-{EXTRA.images.name}.log",
        localrule: True
        params:
            spec=EXTRA.model_dump_json(),
        shell:
            "dynat job extra --spec {params.spec:q} > {log:q} 2>&1"


# The stage `data` of dvc.yaml: all that is under data/.
rule images:
    input:
        rules.data.output,
        rules.extra_images.output if EXTRA else [],
    localrule: True
