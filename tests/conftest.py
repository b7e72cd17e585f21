"""What every test shares: which tests need privilege, and what its absence means."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PRIVILEGED = {"privileged", "e2e"}
HERE = Path(__file__).parent


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


# A loaded machine is slow, which is no finding. The gate runs the same examples every time; new
# ones are looked for by `make check`.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=in_ci()
)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in the privileged directories, so that `-m "not privileged"` leaves it out."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in PRIVILEGED:
            item.add_marker(pytest.mark.privileged)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without root, skip privileged tests; under CI that is a failure."""
    if item.get_closest_marker("privileged") is None or os.geteuid() == 0:
        return
    if in_ci():
        pytest.fail("needs root, and CI=true allows no skip")
    pytest.skip("needs root")


@pytest.fixture(scope="session")
def docker_cli() -> str:
    """Return the path of the docker CLI; absent, it skips, and fails under CI."""
    path = shutil.which("docker")
    if path is None:
        if in_ci():
            pytest.fail("no docker CLI on PATH, and CI=true allows no skip")
        pytest.skip("no docker CLI on PATH")
    return path
