"""What starts one instance over several nodes: the line of the first, and those of the others.

`HOST` stands for the address of the first node, to which requests go. Sources, the engines' documentation: SGLang,
references/multi_node_deployment; vLLM, serving/parallelism_scaling and serving/data_parallel_deployment; TensorRT-LLM,
commands/trtllm-serve.
"""

from __future__ import annotations

from aicalib.engines.command import Command
from aicalib.errors import Refusal

HOST = "HOST"
"""Stands for the address of the first node."""

SGLANG_PORT = 20000
"""Port on which SGLang's nodes find each other, as its documentation has it."""

VLLM_PORT = 13345
"""Port on which vLLM's data-parallel ranks find each other, as its documentation has it."""


def tell_sglang(command: Command) -> None:
    """Say which node each line is for."""
    nodes = command.request.nodes
    for rank in range(nodes if nodes > 1 else 0):
        with command.for_node():
            command.add("tp", ["--nnodes"], nodes)
            command.add("tp", ["--node-rank"], rank)
            command.add("tp", ["--dist-init-addr"], f"{HOST}:{SGLANG_PORT}")


def tell_vllm(command: Command) -> None:
    """Say which node each line is for: by processes of its own, or over Ray where the version has none.

    Attention-data-parallel ranks are engines of their own, so many of them on each node.

    Raises
    ------
    Refusal
        For attention-data-parallel ranks that each span several nodes.
    """
    request = command.request
    nodes, ranks = request.nodes, request.dp
    if nodes == 1:
        return
    assert request.accelerator is not None
    if ranks > 1:
        local = request.accelerator.gpus_per_node * ranks // (request.tp * request.pp)
        if local == 0:
            raise Refusal(
                f"dp {ranks} with tp {request.tp} pp {request.pp}: one rank of attention spans several nodes, which is "
                "not written for vLLM here",
                {"dp": 1}, {"dp": request.tp},
            )  # fmt: skip
        for start in range(0, ranks, local):
            with command.for_node():
                command.add("dp", ["--data-parallel-size-local"], min(local, ranks - start))
                command.add("dp", ["--data-parallel-address"], HOST)
                command.add("dp", ["--data-parallel-rpc-port"], VLLM_PORT)
                if start:
                    command.add("dp", ["--data-parallel-start-rank"], start)
                    command.add("dp", ["--headless"])
    elif command.find(["--nnodes"]) is None:
        command.add("tp", ["--distributed-executor-backend"], "ray")
        command.notes.append(
            f"{command.label} spans nodes over Ray: first 'ray start --head' on this node, and 'ray start --address "
            f"{HOST}:6379' on {nodes - 1} more"
        )
    else:
        for rank in range(nodes):
            with command.for_node():
                command.add("tp", ["--nnodes"], nodes)
                command.add("tp", ["--node-rank"], rank)
                command.add("tp", ["--master-addr"], HOST)
                if rank:
                    command.add("tp", ["--headless"])


def tell_trtllm(command: Command) -> None:
    """Put the line under Slurm, which starts one process a GPU on all nodes."""
    request = command.request
    if request.nodes == 1:
        return
    tasks = request.tp * request.pp
    command.argv += [
        "srun", "--mpi", "pmix", "--nodes", str(request.nodes), "--ntasks", str(tasks),
        "--ntasks-per-node", str(-(-tasks // request.nodes)), "trtllm-llmapi-launch",
    ]  # fmt: skip
    command.notes.append("without Slurm: mpirun with as many processes a node in place of srun")
