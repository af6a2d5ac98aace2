# Each task's data: found or fetched, verified, and described by counts, shapes and SHA-256.


rule data:
    input:
        sources="results/sources/training.sha256",
        plugins=plugin_sources,
    output:
        "results/data/{task}.json",
    log:
        "logs/data/{task}.log",
    priority: 2
    conda:
        "../envs/dmlf.yaml"
    params:
        flags=data_flags,
    shell:
        "python -m dmlf data {params.flags} --output {output} > {log} 2>&1"
