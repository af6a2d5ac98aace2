# Tidy tables: runs.csv with a row for every run that the configuration plans, epochs.csv with one
# for every epoch.


rule expected:
    input:
        f"{workflow.basedir}/workflow/templates/expected.json",
    output:
        "results/expected.json",
    log:
        "logs/expected.log",
    params:
        runs=expected_json(),
    template_engine:
        "jinja2"


rule gather:
    input:
        METRICS,
        REFERENCES,
        expected="results/expected.json",
        sources="results/sources/gathering.sha256",
    output:
        runs="results/runs.csv",
        epochs="results/epochs.csv",
    log:
        "logs/gather.log",
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf gather --expected {input.expected} --output {output.runs} > {log} 2>&1"


# Recomputes hashes and correctness checks of whatever runs there are; asks for none.
rule verify:
    log:
        "logs/verify.log",
    conda:
        "../envs/dmlf.yaml"
    shell:
        "python -m dmlf verify results 2>&1 | tee {log}"


# The same for the runs of the configuration, which are trained where they are missing.
rule equality:
    input:
        METRICS,
        REFERENCES,
    log:
        "logs/equality.log",
    conda:
        "../envs/dmlf.yaml"
    params:
        folders=expand("results/{task}", task=dict.fromkeys(run.task for run in RUNS)),
    shell:
        "python -m dmlf verify {params.folders} 2>&1 | tee {log}"


# Asks for no run, takes those that are there, and is gathered again whenever one more is.
use rule gather as gather_partial with:
    input:
        expected="results/expected.json",
        sources="results/sources/gathering.sha256",
    output:
        runs="results/partial/runs.csv",
        epochs="results/partial/epochs.csv",
    log:
        "logs/partial/gather.log",
    params:
        found=found_results,
