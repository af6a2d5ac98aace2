# The whole pipeline: data, training runs, one table, figures, report.
#
#   snakemake                    everything that config.yaml asks for
#   snakemake train              the training runs alone
#   snakemake plots              and the figures
#   snakemake results/collective.json
#                                all-reduce alone, beside Gloo and Open MPI
#   snakemake faults             runs that are broken on purpose, and what being ready for it costs
#   snakemake report/figures/step-ring-shm.svg
#                                one recorded step, drawn; also of other strategies
#   snakemake partial_report     a report on what exists, after failures too
#   snakemake verify             recompute the hashes and checks of what exists
#   snakemake equality --configfile workflow/config/equality.yaml
#                                train all strategies and compare their final bits
#   snakemake results/digits/ring-queue/float32/world_size=3/seed=0/rep=0/metrics.json
#                                one run, also one that config.yaml does not list
#   snakemake --configfile workflow/config/smoke.yaml
#                                another configuration, laid over config.yaml
import sys

from snakemake.utils import min_version

min_version("9.17")


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/lock.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/collective.smk"
include: "workflow/rules/faults.smk"
include: "workflow/rules/projection.smk"
include: "workflow/rules/timelines.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/plots.smk"
include: "workflow/rules/report.smk"


# What is neither measured nor long runs beside Snakemake, also where runs are jobs of a cluster.
localrules:
    all,
    train,
    plots,
    data,
    sources,
    expected,
    gather,
    gather_partial,
    verify,
    equality,
    plot,
    plot_partial,
    plot_record,
    plot_record_partial,
    plot_step,
    plot_step_partial,
    faults,
    plot_faults,
    plot_faults_partial,
    projection,
    report,
    partial_report,


rule all:
    default_target: True
    input:
        "report/report.md",
        FIGURES,
        STEPS,


onerror:
    print("A report on the runs that did finish: snakemake partial_report", file=sys.stderr)
