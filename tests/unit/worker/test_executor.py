"""What becomes of a task's spec in the engine."""

from swarmapi.model.objects import SpecVersion, Task
from swarmapi.model.spec import EndpointSpec, PortConfig, ServiceSpec
from worker.engine.spec import PortBinding
from worker.executor import to_container


def test_host_ports_are_published_on_the_node_and_ingress_ports_are_not() -> None:
    ports = (
        PortConfig(target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(target_port=80, published_port=8081, publish_mode="host"),
        PortConfig(target_port=53, protocol="udp", publish_mode="host"),
        PortConfig(target_port=443, published_port=8443, publish_mode="ingress"),
        PortConfig(target_port=444, published_port=8444),
    )
    spec = ServiceSpec(name="web", endpoint_spec=EndpointSpec(ports=ports))
    task = Task(id="t", service_id="s", spec_version=1, slot=1, service_name="web")
    created = to_container(task, SpecVersion(service_id="s", version=1, spec=spec))
    assert created.host.port_bindings == {
        "80/tcp": [PortBinding(host_port="8080"), PortBinding(host_port="8081")],
        "53/udp": [PortBinding()],
    }
