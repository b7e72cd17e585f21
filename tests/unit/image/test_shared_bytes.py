"""How much of an image other images have too."""

from runtime.image.model import Image, LayerInfo, shared_bytes


def image(name: str, *layers: tuple[str, int]) -> Image:
    stack = tuple(LayerInfo(d, f"sha256:{d}", 1, "tar", size) for d, size in layers)
    return Image(name, {}, stack, (), (), sum(size for _, size in layers), 0, "amd64")


def test_layers_are_shared_where_they_lie_on_the_same_ones() -> None:
    below, above = ("a", 100), ("b", 7)
    images = [image("one", below, above), image("two", below), image("three", above)]
    assert shared_bytes(images) == {"one": 100, "two": 100, "three": 0}
