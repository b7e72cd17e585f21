"""The subset of Go's templates: what renders to what, and what is refused where."""

import pytest

from swarmapi.errors import InvalidArgument
from swarmapi.model.template import parse

VALUES = {
    "Service": {"ID": "s1", "Name": "web", "Labels": {"tier": "front", "com.x/y": "z"}},
    "Node": {
        "ID": "n1",
        "Hostname": "host1",
        "Platform": {"Architecture": "x86_64", "OS": "linux"},
    },
    "Task": {"ID": "t1", "Name": "web.2.t1", "Slot": "2"},
}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain } { text", "plain } { text"),
        ("{{.Service.Name}}-{{ .Task.Slot }}", "web-2"),
        ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64"),
        ("{{.Service.Labels.tier}}", "front"),
        ('{{index .Service.Labels "com.x/y"}}', "z"),
        ("{{.Service.Labels}}", "map[com.x/y:z tier:front]"),
        ('{{join "-" .Node.Hostname .Task.ID | upper}}', "HOST1-T1"),
        ('{{print "a\\"b" `c\\` 3 true}}', 'a"bc\\3true'),
        ("a {{- /* said */ -}} b", "ab"),
        ("a\n {{- .Task.Slot -}} \nb", "a2b"),
        ('{{if eq .Task.Slot "1" "2"}}low{{else}}high{{end}}', "low"),
        ('{{if ne .Task.Slot "2"}}a{{else if eq .Node.ID "n1"}}b{{else}}c{{end}}!', "b!"),
        ('{{if and (eq .Task.Slot "2") (not (eq .Node.ID "n9"))}}yes{{end}}', "yes"),
        ('{{or "" .Task.ID}}', "t1"),
    ],
)
def test_it_renders_as_go_does(text: str, rendered: str) -> None:
    assert parse(text).render(VALUES) == rendered


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{.Task.Nope}}", "template: 1:3: field .Task.Nope is not defined; .Task has ID, Name"),
        ("a\nb {{ .Nope }}", "template: 2:6: field .Nope is not defined; . has Service, Node"),
        ("{{.Task.ID.X}}", "1:3: field .Task.ID.X is not defined; .Task.ID has no fields"),
        ("{{ shout .Task.ID }}", "1:4: function 'shout' is not defined; known: and, eq,"),
        ('{{secret "x"}}', "1:3: function 'secret' is for templated secrets and configs only"),
        ("x{{.Task.ID", "1:2: unclosed action"),
        ("{{}}", "1:3: empty action"),
        ("{{.Task.ID | }}", "something is missing here"),
        ("{{.Task.ID .Task.ID}}", "1:12: unexpected '.Task.ID'"),
        ('{{"a" | .Task.ID}}', "takes no argument from a pipe"),
        ("{{if .Task.ID}}x", "1:3: if without end"),
        ("x{{end}}", "1:4: unexpected {{end}}"),
        ("{{(print 1}}", "1:3: unclosed ("),
        ("{{" + "(" * 51 + "1}}", "1:53: nested deeper than 50"),
        ("{{if 1}}" + "{{else if 1}}" * 50 + "{{end}}", "nested deeper than 50"),
        ("{{upper 1 2}}", "1:3: upper takes 1 argument, not 2"),
        ("{{ $x }}", "1:4: unexpected '$'"),
        ('{{ "open }}', "1:4: unexpected '\"'"),
        ("{{range .Service.Labels}}{{end}}", "function 'range' is not defined"),
    ],
)
def test_what_it_does_not_know_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(text)
    assert words in error.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{.Service.Labels.nope}}", "1:3: .Service.Labels.nope is not there"),
        ('ab{{index .Service.Labels "no"}}', "1:5: index: no entry 'no'"),
        ("{{upper 1}}", "1:3: upper: wrong argument"),
        ('{{env "NO"}}', "1:3: there is no variable NO"),
    ],
)
def test_what_is_not_there_is_told_with_its_place(text: str, words: str) -> None:
    def env(name: str) -> str:
        raise InvalidArgument(f"there is no variable {name}")

    with pytest.raises(InvalidArgument) as error:
        parse(text, lookups=True).render(VALUES, {"env": env})
    assert words in error.value.message


def test_payloads_look_up_what_they_name() -> None:
    found = {kind: f"<{kind} {{}}>".format for kind in ("env", "secret", "config")}
    text = '{{env "A"}} {{secret "b"}} {{"c" | config}}'
    assert parse(text, lookups=True).render(VALUES, found) == "<env A> <secret b> <config c>"
