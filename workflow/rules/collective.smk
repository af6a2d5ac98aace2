# All-reduce alone, beside Gloo, Open MPI and the machine's limit: one run in which all take turns.
# Like training runs it is measured: it has all cores to itself and holds the host's measuring lock.


rule collective:
    input:
        sources="results/sources/collective.sha256",
        plugins=collective_plugin_sources,
    output:
        COLLECTIVES,
    log:
        "logs/collective.log",
    priority: 1
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        timeout_s=config["run"]["timeout_s"],
    params:
        flags=collective_flags(),
    shell:
        "exec python -m dmlf collective {params.flags} --timeout-s {resources.timeout_s}"
        " --exclusive --end-with-parent --output {output} > {log} 2>&1"


rule plot_record:
    input:
        collectives=COLLECTIVES,
        sources="results/sources/plotting.sha256",
    output:
        svg=report(
            "report/figures/{record_figure}.svg",
            caption="../report/collective.rst",
            category="Figures",
        ),
        png="report/figures/{record_figure}.png",
    log:
        "logs/plot/{record_figure}.log",
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf plot {wildcards.record_figure} --collectives {input.collectives}"
        " --output {output.svg} > {log} 2>&1"


# Asks for no measurement, draws the one that is there, and says so where there is none.
rule plot_record_partial:
    input:
        sources="results/sources/plotting.sha256",
    output:
        svg="report/partial/figures/{record_figure}.svg",
        png="report/partial/figures/{record_figure}.png",
    log:
        "logs/partial/plot/{record_figure}.log",
    conda:
        "../envs/dmlf.yaml"
    params:
        found=found(COLLECTIVES),
        collectives=COLLECTIVES,
    shell:
        "python -m dmlf plot {wildcards.record_figure} --collectives {params.collectives}"
        " --output {output.svg} > {log} 2>&1"
