"""A launch as manifests: a Kubernetes Deployment, or a Compose file. Values are written as JSON, which YAML holds."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aicalib.engines.launch import PORTS, Launch
from aicalib.errors import InvalidValue

IMAGES: Mapping[str, str] = {"sglang": "lmsysorg/sglang:v{version}", "vllm": "vllm/vllm-openai:v{version}"}
"""Images as the projects publish them; TensorRT-LLM's lies where one has to sign in, and is named by the user."""

FOLDER = "/config"
"""Where the files of a launch lie in the container."""


def image_of(launch: Launch, image: str | None) -> str:
    """Return the container image.

    Raises
    ------
    InvalidValue
        For an engine whose image has to be named.
    """
    if image is None and launch.engine not in IMAGES:
        raise InvalidValue(f"{launch.engine}: name its container image", ["--image NAME:TAG"])
    return image or IMAGES[launch.engine].format(version=launch.engine_version)


def _port(argv: list[str], engine: str) -> int:
    return int(argv[argv.index("--port") + 1]) if "--port" in argv else PORTS[engine]


def _argv(launch: Launch) -> list[str]:
    """Return the arguments of a server that others reach, its files under `FOLDER`."""
    argv = [f"{FOLDER}/{word}" if word in launch.files else word for word in launch.argv]
    return argv if "--host" in argv else [*argv, "--host", "0.0.0.0"]


def kubernetes(launch: Launch, gpus: int, vendor: str, image: str | None, name: str) -> str:
    """Return a Deployment of one server, its Service and, where it has files, their ConfigMap.

    Parameters
    ----------
    launch : Launch
    gpus : int
        Of one instance.
    vendor : str
        Of the GPUs: "NVIDIA" or "AMD".
    image : str or None
        Container image; the project's own if not given.
    name : str
        Of the objects.
    """
    argv = _argv(launch)
    port = _port(argv, launch.engine)
    labels = {"app": name}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, object]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if launch.files:
        mounts.append({"name": "config", "mountPath": FOLDER})
        volumes.append({"name": "config", "configMap": {"name": name}})
    container = {
        "name": "server",
        "image": image_of(launch, image),
        "command": argv[:1],
        "args": argv[1:],
        "env": [{"name": key, "value": value} for key, value in launch.env.items()],
        "ports": [{"containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 10},
        "resources": {"limits": {"amd.com/gpu" if vendor == "AMD" else "nvidia.com/gpu": gpus}},
        "volumeMounts": mounts,
    }
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}}
    documents: list[dict[str, object]] = [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port, "targetPort": port}]},
        },
    ]  # fmt: skip
    if launch.files:
        documents.insert(
            0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": launch.files}
        )
    return "---\n".join(_yaml(each) for each in documents)


def compose(launch: Launch, gpus: int, vendor: str, image: str | None, name: str) -> str:
    """Return a Compose file of one server; parameters as `kubernetes`."""
    argv = _argv(launch)
    port = _port(argv, launch.engine)
    service: dict[str, object] = {
        "image": image_of(launch, image),
        "entrypoint": argv[:1],
        "command": argv[1:],
        "environment": dict(launch.env),
        "ports": [f"{port}:{port}"],
        "ipc": "host",
    }
    if vendor == "AMD":
        service["devices"] = ["/dev/kfd", "/dev/dri"]
    else:
        devices = [{"driver": "nvidia", "count": gpus, "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    document: dict[str, object] = {"services": {name: service}}
    if launch.files:
        # Compose reads "$" in a text as a variable; "$$" is the sign itself.
        document["configs"] = {
            key.partition(".")[0]: {"content": text.replace("$", "$$")} for key, text in launch.files.items()
        }
        service["configs"] = [
            {"source": key.partition(".")[0], "target": f"{FOLDER}/{key}"} for key in launch.files
        ]
    return _yaml(document)


def _yaml(value: object, depth: int = 0) -> str:
    """Write mappings and lists of mappings as blocks, all else as JSON."""
    pad = "  " * depth
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            if inner and (
                isinstance(inner, dict) or (isinstance(inner, list) and isinstance(inner[0], dict))
            ):
                lines.append(f"{pad}{key}:\n{_yaml(inner, depth + 1)}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(inner)}\n")
        return "".join(lines)
    assert isinstance(value, list)
    return "".join(f"{pad}- {_yaml(each, depth + 1).lstrip()}" for each in value)
