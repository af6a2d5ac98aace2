# The report in Markdown and as a page, from the table and the figures, and its claims as data.


rule report:
    input:
        FIGURES,
        PROJECTED,
        STEPS,
        table="results/runs.csv",
        epochs="results/epochs.csv",
        collectives=COLLECTIVES,
        projection=PROJECTION,
        campaign=CAMPAIGN,
        overhead=OVERHEAD,
        sources="results/sources/reporting.sha256",
    output:
        text="report/report.md",
        page=report("report/report.html", caption="../report/page.rst", category="Report"),
        findings="report/findings.json",
    log:
        "logs/report.log",
    conda:
        "../envs/dmlf.yaml"
    params:
        figures=subpath(output[0], parent=True),
        collectives=lambda wildcards, input: input.collectives,
        projection=lambda wildcards, input: input.projection,
        campaign=lambda wildcards, input: input.campaign,
        overhead=lambda wildcards, input: input.overhead,
    shell:
        "python -m dmlf report --table {input.table} --collectives {params.collectives}"
        " --projection {params.projection} --faults {params.campaign}"
        " --overhead {params.overhead} --figures {params.figures}/figures"
        " --output {output.text} > {log} 2>&1"


# What exists, with the missing, failed and skipped runs named.
use rule report as partial_report with:
    input:
        PARTIAL_FIGURES,
        partial_steps,
        table="results/partial/runs.csv",
        epochs="results/partial/epochs.csv",
        sources="results/sources/reporting.sha256",
    output:
        text="report/partial/report.md",
        page="report/partial/report.html",
        findings="report/partial/findings.json",
    log:
        "logs/partial/report.log",
    params:
        figures=subpath(output[0], parent=True),
        collectives=COLLECTIVES,
        projection=PROJECTION,
        campaign=CAMPAIGN,
        overhead=OVERHEAD,
        found=found(COLLECTIVES, PROJECTION, CAMPAIGN, OVERHEAD),
