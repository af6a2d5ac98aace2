# Beyond this machine: the protocols in virtual time, on links that config.yaml names. What a message
# costs within a host comes from the collectives that were measured here.


rule projection:
    input:
        collectives=COLLECTIVES,
        sources="results/sources/projecting.sha256",
    output:
        PROJECTED,
        record=PROJECTION,
    log:
        "logs/projection.log",
    conda:
        "../envs/dmlf.yaml"
    params:
        flags=flags_of(config["projection"]),
        figures=subpath(output[0], parent=True),
    shell:
        "python -m dmlf project {params.flags} --calibrate {input.collectives}"
        " --figures {params.figures} --output {output.record} > {log} 2>&1"
