# Runs that are broken on purpose, and what being ready for that costs. Both are timed: they have all
# cores to themselves and hold the host's measuring lock.


rule faults:
    input:
        CAMPAIGN,
        OVERHEAD,


# A run that does not survive is a finding, which the report names: the file is whole all the same.
rule campaign:
    input:
        sources="results/sources/faults.sha256",
    output:
        CAMPAIGN,
    log:
        "logs/faults.log",
    priority: 1
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    params:
        flags=flags_of(config["faults"]),
    shell:
        "python -m dmlf faults {params.flags} --exclusive --end-with-parent --output {output}"
        " > {log} 2>&1 || test -s {output}"


rule overhead:
    input:
        sources="results/sources/faults.sha256",
    output:
        OVERHEAD,
    log:
        "logs/overhead.log",
    priority: 1
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    params:
        flags=flags_of(config["overhead"]),
    shell:
        "exec python -m dmlf overhead {params.flags} --exclusive --end-with-parent"
        " --output {output} > {log} 2>&1"


rule plot_faults:
    input:
        campaign=CAMPAIGN,
        sources="results/sources/plotting.sha256",
    output:
        svg=report(
            f"report/figures/{FAULTS}.svg", caption="../report/faults.rst", category="Figures"
        ),
        png=f"report/figures/{FAULTS}.png",
    log:
        f"logs/plot/{FAULTS}.log",
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf plot faults --faults {input.campaign} --output {output.svg} > {log} 2>&1"


# Breaks nothing, draws the campaign that is there, and says so where there is none.
rule plot_faults_partial:
    input:
        sources="results/sources/plotting.sha256",
    output:
        svg=f"report/partial/figures/{FAULTS}.svg",
        png=f"report/partial/figures/{FAULTS}.png",
    log:
        f"logs/partial/plot/{FAULTS}.log",
    conda:
        "../envs/dmlf.yaml"
    params:
        found=found(CAMPAIGN),
        campaign=CAMPAIGN,
    shell:
        "python -m dmlf plot faults --faults {params.campaign} --output {output.svg} > {log} 2>&1"
