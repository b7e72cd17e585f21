"""The text of figures, as Prometheus reads it."""

from swarmapi.metrics import Metric, by, of_process, render, single


def test_the_text_of_figures() -> None:
    found = render(
        [
            single("up", "Whether\nit is \\ up.", 1),
            Metric("tasks", "Tasks.", by("state", {"new": 2, 'o"dd\n': 0.5})),
            single("bytes_total", "Bytes.", 12345678901234, "counter"),
        ]
    )
    assert found == (
        "# HELP up Whether\\nit is \\\\ up.\n# TYPE up gauge\nup 1\n"
        "# HELP tasks Tasks.\n# TYPE tasks gauge\n"
        'tasks{state="new"} 2\ntasks{state="o\\"dd\\n"} 0.5\n'
        "# HELP bytes_total Bytes.\n# TYPE bytes_total counter\nbytes_total 12345678901234\n"
    )


def test_a_process_knows_what_it_takes() -> None:
    values = {metric.name: metric.samples[0][1] for metric in of_process("p")}
    assert values["p_resident_memory_bytes"] > 1 << 20
    assert values["p_open_fds"] >= 3
