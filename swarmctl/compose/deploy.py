"""The `deploy` section of a service: mode, placement, resources, updates."""

from typing import Any

from swarmctl.compose.section import Section
from swarmctl.errors import ClientError

Spec = dict[str, Any]
_MODES = ("replicated", "global", "replicated-job", "global-job")


def apply_deploy(spec: Spec, deploy: Section, service: Section) -> None:
    """Write what `deploy` says into a spec that holds what the service's own keys say."""
    task = spec["TaskTemplate"]
    spec["Labels"] = {**(deploy.pairs("labels") or {}), **spec["Labels"]}
    spec["Mode"] = _mode(deploy, service)
    if endpoint_mode := deploy.choice("endpoint_mode", "vip", "dnsrr"):
        spec["EndpointSpec"] = {"Mode": endpoint_mode}
    task["Placement"] = _placement(deploy.section("placement"))
    _resources(task["Resources"], deploy.section("resources"))
    if "restart_policy" in deploy:
        task["RestartPolicy"] = _restart_policy(deploy.section("restart_policy"))
    for key, field in (("update_config", "UpdateConfig"), ("rollback_config", "RollbackConfig")):
        if key in deploy:
            spec[field] = _update(deploy.section(key))
    deploy.end()


def compact(value: Any) -> Any:
    """Return a document without what says nothing: null and empty mappings."""
    if not isinstance(value, dict):
        return value
    kept = {key: compact(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None and item != {}}


def _mode(deploy: Section, service: Section) -> Spec:
    mode = deploy.choice("mode", *_MODES) or "replicated"
    scale, replicas = service.integer("scale"), deploy.integer("replicas")
    if replicas is None:
        replicas = scale
    if mode == "replicated":
        return {"Replicated": {"Replicas": 1 if replicas is None else replicas}}
    if mode == "replicated-job":
        total = 1 if replicas is None else replicas
        return {"ReplicatedJob": {"MaxConcurrent": total, "TotalCompletions": total}}
    if replicas is not None:
        raise ClientError(f"{deploy.at('replicas')}: mode {mode} runs one task a node")
    return {"Global": {}} if mode == "global" else {"GlobalJob": {}}


def _placement(section: Section) -> Spec:
    preferences = []
    for item, path in section.items("preferences"):
        entry = Section(item, path)
        if not (spread := entry.text("spread")):
            raise ClientError(f"{path}: want spread: NAME")
        preferences.append({"Spread": {"SpreadDescriptor": spread}})
        entry.end()
    found = {
        "Constraints": section.texts("constraints"),
        "Preferences": preferences or None,
        "MaxReplicas": section.integer("max_replicas_per_node"),
    }
    section.end()
    return found


def _resources(resources: Spec, section: Section) -> None:
    limits, reserved = section.section("limits"), section.section("reservations")
    section.end()
    _override(resources["Limits"], limits)
    if (pids := limits.integer("pids")) is not None:
        resources["Limits"]["Pids"] = pids
    limits.end()
    _override(resources["Reservations"], reserved)
    generic = []
    for item, path in reserved.items("generic_resources"):
        entry = Section(item, path)
        discrete = entry.section("discrete_resource_spec")
        kind, value = discrete.text("kind"), discrete.integer("value")
        if not kind or value is None:
            raise ClientError(f"{path}: want discrete_resource_spec with kind and value")
        generic.append({"DiscreteResourceSpec": {"Kind": kind, "Value": value}})
        discrete.end()
        entry.end()
    if generic:
        resources["Reservations"]["GenericResources"] = generic
    reserved.end({"devices": "use generic_resources"})


def _override(amounts: Spec, section: Section) -> None:
    if (cpus := section.cpus("cpus")) is not None:
        amounts["NanoCPUs"] = cpus
    if (memory := section.size("memory")) is not None:
        amounts["MemoryBytes"] = memory


def _restart_policy(section: Section) -> Spec:
    found = {
        "Condition": section.choice("condition", "none", "on-failure", "any"),
        "Delay": section.duration("delay"),
        "MaxAttempts": section.integer("max_attempts"),
        "Window": section.duration("window"),
    }
    section.end()
    return found


def _update(section: Section) -> Spec:
    parallelism = section.integer("parallelism")
    found = {
        "Parallelism": 1 if parallelism is None else parallelism,
        "Delay": section.duration("delay"),
        "FailureAction": section.choice("failure_action", "pause", "continue", "rollback"),
        "Monitor": section.duration("monitor"),
        "MaxFailureRatio": section.ratio("max_failure_ratio"),
        "Order": section.choice("order", "start-first", "stop-first"),
    }
    section.end()
    return found
