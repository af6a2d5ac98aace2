# Each figure on its own, from the tables alone.


rule plots:
    input:
        FIGURES,


rule plot:
    input:
        table="results/runs.csv",
        epochs="results/epochs.csv",
        sources="results/sources/plotting.sha256",
    output:
        svg=report(
            "report/figures/{figure}.svg", caption="../report/figure.rst", category="Figures"
        ),
        png="report/figures/{figure}.png",
    log:
        "logs/plot/{figure}.log",
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf plot {wildcards.figure} --table {input.table} --output {output.svg}"
        " > {log} 2>&1"


use rule plot as plot_partial with:
    input:
        table="results/partial/runs.csv",
        epochs="results/partial/epochs.csv",
        sources="results/sources/plotting.sha256",
    output:
        svg="report/partial/figures/{figure}.svg",
        png="report/partial/figures/{figure}.png",
    log:
        "logs/partial/plot/{figure}.log",
