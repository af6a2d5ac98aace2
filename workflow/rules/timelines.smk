# A recorded step of an algorithm, drawn for readers who learn. The runs behind it are in no table
# and measure nothing; they only take the machine for themselves, so that the picture is calm.


rule timeline:
    input:
        sources="results/sources/training.sha256",
        plugins=plugin_sources,
    output:
        timeline=TIMELINE,
        run="results/timelines/{strategy}/run.json",
    log:
        "logs/timelines/{strategy}.log",
    wildcard_constraints:
        strategy=one_of(PROTOCOL_STRATEGIES),
    priority: 1
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        timeout_s=config["run"]["timeout_s"],
    params:
        flags=lambda wildcards: timeline_flags(wildcards.strategy),
    shell:
        "exec python -m dmlf train {params.flags} --timeline 16 --timeout-s {resources.timeout_s}"
        " --exclusive --end-with-parent --output {output.run} > {log} 2>&1"


rule plot_step:
    input:
        timeline=TIMELINE,
        sources="results/sources/plotting.sha256",
    output:
        report(
            "report/figures/step-{strategy}.svg", caption="../report/step.rst", category="Figures"
        ),
    log:
        "logs/plot/step-{strategy}.log",
    wildcard_constraints:
        strategy=one_of(PROTOCOL_STRATEGIES),
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf plot step --timeline {input.timeline} --output {output} > {log} 2>&1"


# Records nothing; it is asked for where there is a recording.
rule plot_step_partial:
    input:
        sources="results/sources/plotting.sha256",
    output:
        "report/partial/figures/step-{strategy}.svg",
    log:
        "logs/partial/plot/step-{strategy}.log",
    wildcard_constraints:
        strategy=one_of(PROTOCOL_STRATEGIES),
    conda:
        "../envs/dmlf.yaml"
    params:
        found=lambda wildcards: found(TIMELINE.format(**wildcards))(wildcards),
        timeline=TIMELINE,
    shell:
        "python -m dmlf plot step --timeline {params.timeline} --output {output} > {log} 2>&1"
