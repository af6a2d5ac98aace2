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
        strategy=one_of(OWN_PROCESSES),
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


use rule train_protocol as train_ddp with:
    wildcard_constraints:
        strategy="ddp-gloo",
        reduction="float32",


use rule train_protocol as train_unsynchronized with:
    wildcard_constraints:
        strategy=UNSYNCHRONIZED,
        reduction="float32",


# The group of these runs is torch.distributed's, which a cluster starts: profiles/slurm replaces the
# launcher by torchrun. Where it is Python, dmlf starts the processes of the group itself.
rule train_process_group:
    input:
        data="results/data/{task}.json",
        sources="results/sources/training.sha256",
        plugins=plugin_sources,
    output:
        METRICS_PATH,
    log:
        f"logs/train/{RUN}.log",
    wildcard_constraints:
        strategy=one_of(GROUP_STRATEGIES),
    priority: measuring_priority
    conda:
        "../envs/dmlf.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        timeout_s=config["run"]["timeout_s"],
        nodes=1,
        launcher="python",
    params:
        flags=lambda wildcards: flags(run_of(wildcards)),
        num_processes=lambda wildcards: num_processes(run_of(wildcards)),
    shell:
        "num_processes={params.num_processes}; nodes={resources.nodes}; threads={threads};"
        " exec {resources.launcher} -m dmlf train {params.flags} --timeout-s {resources.timeout_s}"
        " --exclusive --end-with-parent --output {output} > {log} 2>&1"


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
