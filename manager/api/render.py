"""Docker's JSON of the cluster's objects (Engine API 1.50)."""

import base64
import datetime
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from manager.control.services import ServiceCounts
from manager.store.tables import network_table
from manager.store.view import View
from swarmapi.ids import root_digest
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Cluster,
    Config,
    Explanation,
    GenericShare,
    JobRun,
    JobStatus,
    Meta,
    Network,
    Node,
    NodeTLS,
    RootCA,
    Secret,
    Service,
    SpecVersion,
    Task,
    TaskState,
)
from swarmapi.model.spec import PortConfig, ServiceSpec, UpdateConfig, to_json
from swarmapi.model.tables import EndpointState

Json = dict[str, Any]
CERT_EXPIRY_NS = 90 * 24 * 3_600 * defaults.SECOND_NS
DATA_PATH_PORT = 4789


def rfc3339(time_ns: int) -> str:
    """Return a time as Go's RFC3339Nano: UTC, without trailing zeros."""
    seconds, nanos = divmod(time_ns, defaults.SECOND_NS)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return f"{_to_the_second(seconds)}{fraction}Z"


@lru_cache(1024)
def _to_the_second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _head(object_id: str, meta: Meta) -> Json:
    return {
        "ID": object_id,
        "Version": {"Index": meta.version},
        "CreatedAt": rfc3339(meta.created_ns),
        "UpdatedAt": rfc3339(meta.updated_ns),
    }


def _update_json(config: UpdateConfig) -> Json:
    return {
        "Parallelism": config.parallelism,
        **({"Delay": config.delay} if config.delay else {}),
        **({"FailureAction": config.failure_action} if config.failure_action else {}),
        **({"Monitor": config.monitor} if config.monitor else {}),
        "MaxFailureRatio": config.max_failure_ratio or 0,
        "Order": config.order,
        **(
            {"ProgressDeadline": config.progress_deadline}
            if config.progress_deadline is not None
            else {}
        ),
    }


def _template_json(template: Any, *, with_runtime: bool) -> Json:
    body: Json = to_json(template)
    body.setdefault("ContainerSpec", {}).setdefault("Isolation", "default")
    body.setdefault("ForceUpdate", 0)
    body.setdefault("Placement", {})
    body.setdefault("Resources", {"Limits": {}, "Reservations": {}})
    if with_runtime:
        body.setdefault("Runtime", "container")
    return body


def _service_spec(spec: ServiceSpec, *, insert_defaults: bool) -> Json:
    body: Json = to_json(spec)
    body.setdefault("Labels", {})
    body["TaskTemplate"] = _template_json(spec.task_template, with_runtime=True)
    body["Mode"] = {**body.get("Mode", {}), **_mode_json(spec)}
    for name, given in (
        ("UpdateConfig", spec.update_config),
        ("RollbackConfig", spec.rollback_config),
    ):
        if given is not None:
            body[name] = _update_json(given)
    body.setdefault("EndpointSpec", {})["Mode"] = defaults.endpoint_mode(spec)
    if insert_defaults:
        policy = defaults.restart_policy(spec)
        body["TaskTemplate"]["ContainerSpec"].setdefault(
            "StopGracePeriod", defaults.stop_grace_period_ns(spec)
        )
        body["TaskTemplate"]["ContainerSpec"].setdefault("DNSConfig", {})
        body["TaskTemplate"]["RestartPolicy"] = {
            "Condition": policy.condition,
            "Delay": policy.delay,
            "MaxAttempts": policy.max_attempts,
            **({"Window": policy.window} if policy.window else {}),
        }
        if not defaults.is_job(spec):
            body["UpdateConfig"] = _update_json(defaults.update_config(spec.update_config))
            body["RollbackConfig"] = _update_json(defaults.update_config(spec.rollback_config))
    return body


def _mode_json(spec: ServiceSpec) -> Json:
    match defaults.mode(spec):
        case "global":
            return {"Global": {}}
        case "global-job":
            return {"GlobalJob": {}}
        case "replicated-job":
            counts = (defaults.max_concurrent(spec), defaults.total_completions(spec))
            return {
                "ReplicatedJob": dict(
                    zip(("MaxConcurrent", "TotalCompletions"), counts, strict=True)
                )
            }
    return {"Replicated": {"Replicas": defaults.replicas(spec)}}


def job_json(status: JobStatus) -> Json:
    """Return Docker's JobStatus, and how the iteration and those before it went."""
    times = {
        "LastExecution": status.last_execution_ns,
        "EndedAt": status.ended_ns,
        "ScheduledAt": status.scheduled_ns,
        "NextStart": status.next_start_ns,
        "QueuedStart": status.queued_ns,
    }
    state = status.outcome.value if status.outcome is not None else ""
    return {
        "JobIteration": {"Index": status.iteration},
        **{name: rfc3339(time_ns) for name, time_ns in times.items() if time_ns},
        "State": state or ("running" if status.is_running else "waiting"),
        **({"Message": status.message} if status.message else {}),
        **({"Runs": [_run_json(run) for run in status.runs]} if status.runs else {}),
    }


def _run_json(run: JobRun) -> Json:
    times = {
        "ScheduledAt": run.scheduled_ns,
        "StartedAt": run.started_ns,
        "EndedAt": run.ended_ns,
    }
    return {
        **({"JobIteration": {"Index": run.iteration}} if run.iteration else {}),
        "State": run.outcome.value,
        **{name: rfc3339(time_ns) for name, time_ns in times.items() if time_ns},
        **({"Message": run.message} if run.message else {}),
    }


def spec_version_json(record: SpecVersion) -> Json:
    """Return one version of a service's spec."""
    return {"Version": record.version, "Spec": _service_spec(record.spec, insert_defaults=False)}


def _ports(ports: tuple[PortConfig, ...]) -> list[Json]:
    return [
        {
            **({"Name": p.name} if p.name else {}),
            "Protocol": p.protocol or "tcp",
            "TargetPort": p.target_port,
            **({"PublishedPort": p.published_port} if p.published_port else {}),
            "PublishMode": p.publish_mode or "ingress",
            **({"Source": p.source} if p.source else {}),
            **({"Address": p.address} if p.address else {}),
            **({"Interface": p.interface} if p.interface else {}),
        }
        for p in ports
    ]


def service_json(
    service: Service,
    *,
    previous: ServiceSpec | None = None,
    insert_defaults: bool = False,
    counts: ServiceCounts | None = None,
) -> Json:
    """Return a service; with `previous` what a rollback returns to, with `counts` its status."""
    body = _head(service.id, service.meta)
    body["Spec"] = _service_spec(service.spec, insert_defaults=insert_defaults)
    if previous is not None:
        body["PreviousSpec"] = _service_spec(previous, insert_defaults=insert_defaults)
    endpoint: Json = {"Spec": {}}
    body["Endpoint"] = endpoint
    if service.endpoint.spec_version:
        given = (service.spec.endpoint_spec.ports or ()) if service.spec.endpoint_spec else ()
        endpoint["Spec"] = {"Mode": service.endpoint.mode}
        if given:
            endpoint["Spec"]["Ports"] = _ports(given)
        if service.endpoint.ports:
            endpoint["Ports"] = _ports(service.endpoint.ports)
        if service.endpoint.vips:
            endpoint["VirtualIPs"] = [
                {"NetworkID": v.network_id, "Addr": address}
                for v in service.endpoint.vips
                for address in filter(None, (v.address, v.ipv6_address))
            ]
    status = service.update_status
    if status is not None:
        body["UpdateStatus"] = {
            "State": status.state.value,
            **({"StartedAt": rfc3339(status.started_ns)} if status.started_ns else {}),
            **({"CompletedAt": rfc3339(status.completed_ns)} if status.completed_ns else {}),
            "Message": status.message,
        }
    if service.job_status is not None:
        body["JobStatus"] = job_json(service.job_status)
    if counts is not None:
        body["ServiceStatus"] = {
            "RunningTasks": counts.running,
            "DesiredTasks": counts.desired,
            "CompletedTasks": counts.completed,
        }
    return body


def _status_json(view: View, task: Task) -> Json:
    status = task.status
    body: Json = {
        "Timestamp": rfc3339(status.timestamp_ns or task.meta.updated_ns),
        "State": status.state.name.lower(),
        "Message": status.message or "created",
    }
    error = status.error
    service = view.services.get(task.service_id)
    if not error and status.state < TaskState.ASSIGNED:
        if task.explanation:
            error = msgspec.msgpack.decode(task.explanation, type=Explanation).text()
        elif service is not None:
            error = service.endpoint.error
    if error:
        body["Err"] = error
    if status.container_id or status.state >= TaskState.STARTING:
        body["ContainerStatus"] = {
            "ContainerID": status.container_id,
            "PID": status.pid,
            "ExitCode": status.exit_code or 0,
        }
    body["PortStatus"] = {}
    return body


def _generic_json(shares: tuple[GenericShare, ...]) -> Json:
    named = [
        {"NamedResourceSpec": {"Kind": share.kind, "Value": name}}
        for share in shares
        for name in share.names
    ]
    counted = [
        {"DiscreteResourceSpec": {"Kind": share.kind, "Value": share.count}}
        for share in shares
        if not share.names
    ]
    return {"GenericResources": named + counted} if shares else {}


def tasks_json(view: View, tasks: Iterable[Task]) -> list[Json]:
    """Return tasks; what several of them have in common is rendered once."""
    shown = _Shown(view)
    return [task_json(view, task, shown) for task in tasks]


class _Shown:
    """Parts of tasks that were rendered: specs by service and version, networks by id."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._specs: dict[tuple[str, int], Json] = {}
        self._networks: dict[str, Json] = {}

    def spec(self, record: SpecVersion) -> Json:
        key = (record.service_id, record.version)
        if key not in self._specs:
            template = record.spec.task_template
            self._specs[key] = _template_json(template, with_runtime=False)
        return self._specs[key]

    def network(self, network_id: str) -> Json:
        if network_id not in self._networks:
            self._networks[network_id] = _attached_network(self._view.networks[network_id])
        return self._networks[network_id]


def task_json(view: View, task: Task, shown: _Shown | None = None) -> Json:
    """Return a task with its status, its own spec and its addresses."""
    shown = shown or _Shown(view)
    body = _head(task.id, task.meta)
    body["Labels"] = {}
    record = view.spec_of(task)
    if record is not None:
        body["Spec"] = shown.spec(record)
    body["ServiceID"] = task.service_id
    if task.slot:
        body["Slot"] = task.number
    if task.job_iteration is not None:
        body["JobIteration"] = {"Index": task.job_iteration}
    if task.node_id:
        body["NodeID"] = task.node_id
    body |= _generic_json(task.generic)
    body["Status"] = _status_json(view, task)
    body["DesiredState"] = task.desired.name.lower()
    attachments = [
        {
            "Network": shown.network(a.network_id),
            "Addresses": list(filter(None, (a.address, a.ipv6_address))),
        }
        for a in task.addresses
        if a.network_id in view.networks
    ]
    if attachments:
        body["NetworksAttachments"] = attachments
    if task.addresses:
        body["EndpointState"] = (
            "serving" if task.endpoint.state is EndpointState.SERVING else "withdrawn"
        )
    return body


def _pool_config(network: Network) -> list[Json]:
    return [
        {
            **to_json(defaults.pool_asked(network.spec, pool.subnet)),
            "Subnet": pool.subnet,
            "Gateway": pool.gateway,
        }
        for pool in network.pools()
    ]


def network_members(view: View, network: Network) -> Json:
    """Return who is on a network, as `network inspect` shows it with `verbose`."""
    table = network_table(view, network.id)
    if table is None:
        return {"Services": {}, "Peers": []}
    names = {"": ""} | {s.service_id: s.name for s in table.services.values()}
    services: dict[str, Json] = {
        service.name: {
            "VIP": service.vip,
            "Ports": [
                f"Target: {p.target}, Publish: {p.published}/{p.protocol}" for p in service.ports
            ],
            "LocalLBIndex": 0,
            "Tasks": [],
        }
        for service in table.services.values()
    }
    for endpoint in table.endpoints.values():
        nothing: Json = {"VIP": "", "Ports": [], "LocalLBIndex": 0, "Tasks": []}
        name = names.get(endpoint.service_id, "")
        services.setdefault(name, nothing)["Tasks"].append(
            {
                "Name": endpoint.name,
                "EndpointID": endpoint.task_id,
                "EndpointIP": endpoint.address,
                "Info": {"Host IP": table.nodes[endpoint.node_id].data_path},
            }
        )
    peers = [{"Name": node.node_id, "IP": node.data_path} for node in table.nodes.values()]
    return {"Services": services, "Peers": peers}


def _attached_network(network: Network) -> Json:
    body = _head(network.id, network.meta)
    spec = network.spec
    ipam = {"Driver": {"Name": "default"}, "Configs": _pool_config(network)}
    body["Spec"] = {
        "Name": spec.name,
        "Labels": dict(spec.labels or {}),
        "DriverConfiguration": {"Name": "overlay"},
        **({"Internal": True} if spec.internal else {}),
        **({"Attachable": True} if spec.attachable else {}),
        **({"Ingress": True} if spec.ingress else {}),
        "IPAMOptions": ipam,
        "Scope": "swarm",
    }
    body["DriverState"] = {"Name": "overlay", "Options": {defaults.VXLAN_OPTION: str(network.vni)}}
    body["IPAMOptions"] = ipam
    return body


def network_json(network: Network) -> Json:
    """Return a network as `GET /networks` shows it."""
    spec = network.spec
    options = dict(spec.options or {})
    if network.vni:
        options[defaults.VXLAN_OPTION] = str(network.vni)
    body: Json = {
        "Name": spec.name,
        "Id": network.id,
        "Created": rfc3339(network.meta.created_ns),
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": True,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {"Driver": "default", "Options": None, "Config": _pool_config(network)},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": options,
        "Labels": dict(spec.labels or {}),
    }
    if network.error:
        body["Error"] = network.error
    return body


def secret_json(secret: Secret) -> Json:
    """Return a secret without its data, a config with it."""
    body = _head(secret.id, secret.meta)
    spec = to_json(secret.spec)
    spec.setdefault("Labels", {})
    if not isinstance(secret, Config):
        del spec["Data"]
    return {**body, "Revision": secret.revision, "Spec": spec}


def tls_info(root: RootCA) -> Json:
    """Return what tokens pin, and who signs now: in a rotation that is the next root already."""
    return _tls_json(root.cert_pem, root.rotation.cert_pem if root.rotation else root.cert_pem)


def node_tls_info(root: RootCA, tls: NodeTLS) -> Json | None:
    """Return what a node trusts and who signed its certificate, None before it has told.

    Roots that are none of the cluster's any more are not kept, and not shown.
    """
    rotation = [root.rotation.cert_pem] if root.rotation else []
    known = {root_digest(p): p for p in (*(f.cert_pem for f in root.former), root.cert_pem)}
    known |= {root_digest(p): p for p in rotation}
    if tls == NodeTLS() and root.rotation is None:  # it has not told yet
        return tls_info(root)
    if tls.issuer not in known:
        return None
    return _tls_json(b"".join(known[t] for t in tls.trusts if t in known), known[tls.issuer])


def _tls_json(trusted: bytes, issuer: bytes) -> Json:
    certificate = x509.load_pem_x509_certificate(issuer)
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "TrustRoot": trusted.decode(),
        "CertIssuerSubject": base64.b64encode(certificate.subject.public_bytes()).decode(),
        "CertIssuerPublicKey": base64.b64encode(key).decode(),
    }


def node_json(
    node: Node, *, leader_id: str, reachable: bool, trust: Mapping[str, Any] | None
) -> Json:
    """Return a node; managers with their status towards Raft."""
    body = _head(node.id, node.meta)
    description = node.description
    body["Spec"] = {
        **({"Name": node.spec.name} if node.spec.name else {}),
        "Labels": dict(node.spec.labels or {}),
        "Role": node.spec.role.value,
        "Availability": node.spec.availability.value,
    }
    body["Description"] = {
        "Hostname": description.hostname,
        "Platform": {
            "Architecture": description.platform.architecture,
            "OS": description.platform.os,
        },
        "Resources": {
            "NanoCPUs": description.cpu_nanos,
            "MemoryBytes": description.memory_bytes,
            **_generic_json(description.generic),
        },
        "Engine": {
            "EngineVersion": description.engine_version,
            **({"Labels": dict(description.labels)} if description.labels else {}),
            "Plugins": [{"Type": "Log", "Name": "json-file"}],
        },
        **({"TLSInfo": dict(trust)} if trust else {}),
    }
    body["Status"] = {
        "State": node.state.value,
        **({"Message": node.message} if node.message else {}),
        "Addr": node.address,
    }
    if node.is_manager:
        body["ManagerStatus"] = {
            **({"Leader": True} if node.id == leader_id else {}),
            "Reachability": "reachable" if reachable else "unreachable",
            "Addr": node.manager_address,
            "Version": node.manager_version,
            "Level": node.level,
        }
    return body


def cluster_spec_json(cluster: Cluster) -> Json:
    """Return the cluster's settings, with those that are fixed."""
    spec = cluster.spec
    limit = spec.orchestration.task_history_retention_limit if spec.orchestration else None
    period = spec.dispatcher.heartbeat_period if spec.dispatcher else 0
    raft = defaults.raft(spec)
    driver = defaults.log_driver(spec)
    forced = spec.ca_config.force_rotate if spec.ca_config else 0
    return {
        "Name": "default",
        "Labels": dict(spec.labels or {}),
        "Orchestration": {
            "TaskHistoryRetentionLimit": defaults.HISTORY_LIMIT if limit is None else limit
        },
        "Raft": {
            "SnapshotInterval": raft.snapshot_interval,
            "KeepOldSnapshots": raft.keep_old_snapshots,
            "LogEntriesForSlowFollowers": raft.log_entries_for_slow_followers,
            "HeartbeatTick": raft.heartbeat_tick,
            "ElectionTick": raft.election_tick,
        },
        "Dispatcher": {"HeartbeatPeriod": period or defaults.HEARTBEAT_PERIOD_NS},
        "CAConfig": {
            "NodeCertExpiry": (spec.ca_config.node_cert_expiry if spec.ca_config else 0)
            or CERT_EXPIRY_NS,
            **({"ForceRotate": forced} if forced else {}),
        },
        "TaskDefaults": {} if driver is None else {"LogDriver": to_json(driver)},
        "EncryptionConfig": {"AutoLockManagers": bool(cluster.unlock_key)},
    }


def cluster_json(cluster: Cluster) -> Json:
    """Return the cluster with its join tokens."""
    body = _head(cluster.id, cluster.meta)
    body["Spec"] = cluster_spec_json(cluster)
    if cluster.root_ca is not None:
        body["TLSInfo"] = tls_info(cluster.root_ca)
    rotation = cluster.root_ca.rotation if cluster.root_ca is not None else None
    body["RootRotationInProgress"] = rotation is not None
    body["DefaultAddrPool"] = list(cluster.address_pools)
    body["SubnetSize"] = cluster.subnet_size
    body["DataPathPort"] = DATA_PATH_PORT
    if cluster.root_ca is not None:
        body["JoinTokens"] = {
            "Worker": cluster.root_ca.join_token_worker,
            "Manager": cluster.root_ca.join_token_manager,
        }
    return body
