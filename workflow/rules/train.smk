# Training runs are measured: each has all cores to itself and holds the host's measuring lock, and
# they are run repeat after repeat, shuffled within. A replay adds serially, in the order that its
# protocol publishes, what the ranks of a run add together; it is not timed, but must not disturb.


rule train:
    input:
        METRICS,


rule train_protocol:
    input:
        data="results/data/{task}.json",
        sources="results/sources/training.sha256",
        plugins=plugin_sources,
    output:
        METRICS_PATH,
    log:
        f"logs/train/{RUN}.log",
    wildcard_constraints:
        strategy=one_of(PROTOCOL_STRATEGIES),
    priority: measuring_priority
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        timeout_s=config["run"]["timeout_s"],
    params:
        flags=lambda wildcards: flags(run_of(wildcards)),
    shell:
        "exec python -m dmlf train {params.flags} --timeout-s {resources.timeout_s} --exclusive"
        " --end-with-parent --output {output} > {log} 2>&1"


use rule train_protocol as train_serial with:
    wildcard_constraints:
        strategy="serial",
        world_size="1",


use rule train_protocol as train_native with:
    wildcard_constraints:
        strategy=NATIVE,


use rule train_protocol as train_ddp with:
    wildcard_constraints:
        strategy="ddp-gloo",
        reduction="float32",


use rule train_protocol as train_unsynchronized with:
    wildcard_constraints:
        strategy=UNSYNCHRONIZED,
        reduction="float32",


rule replay:
    input:
        data="results/data/{task}.json",
        sources="results/sources/training.sha256",
        plugins=plugin_sources,
    output:
        REFERENCE_PATH,
    log:
        f"logs/replay/{REPLAY}.log",
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        timeout_s=config["run"]["timeout_s"],
    params:
        flags=replay_flags,
    shell:
        "python -m dmlf replay {params.flags} --timeout-s {resources.timeout_s}"
        " --output {output} > {log} 2>&1"
