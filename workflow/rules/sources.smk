# Fingerprints of the sources that decide each part's results. The rules of a part depend on its
# fingerprint: an edit of a plot redraws, an edit of the trainer retrains.


rule sources:
    input:
        package_sources,
        f"{workflow.basedir}/constraints.txt",
    output:
        "results/sources/{part}.sha256",
    log:
        "logs/sources/{part}.log",
    wildcard_constraints:
        part=one_of(SOURCES_LEFT_OUT),
    priority: 2
    conda:
        "../envs/dmlf.yaml"
    shell:
        "sha256sum {input} > {output} 2> {log}"
