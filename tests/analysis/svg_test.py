"""SVG elements for pages: well-formed, in the page's colours, with ids of their own."""

import re
from xml.etree import ElementTree

import pytest

from afd_tf.analysis import svg


@pytest.fixture(scope="module")
def text():
    with svg.drawing("a <title> & more") as drawing:
        drawing.axes.plot([0, 1, 2], [3, 1, 2], color="#3b82c4")
        drawing.axes.set_title("1 < 2")
    return drawing.text


def test_it_is_an_element_that_names_itself(text):
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.get("aria-label") == "a <title> & more"
    # As wide as its place.
    assert root.get("width") is None and root.get("viewBox")
    assert not list(root.iter("style"))
    assert any(each.text == "1 < 2" for each in root.iter("text"))
    drawn = [each.get("style") or "" for each in root.iter("path")]
    assert any("stroke: #3b82c4" in style for style in drawn)


def test_ink_and_grid_are_the_pages(text):
    colors = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", text))
    assert colors == {"#3b82c4", "currentColor", "var(--grid)", "none"}
    assert "font-family" not in text


def test_two_of_them_share_no_id(text):
    first, second = (svg.with_own_ids(text, prefix) for prefix in ("a-", "b-"))
    ids = [re.findall(r' id="([^"]+)"', each) for each in (first, second)]
    assert ids[0] and len(set(ids[0])) == len(ids[0])
    assert not set(ids[0]) & set(ids[1])
    for each, own in zip((first, second), ids, strict=True):
        named = set(re.findall(r'(?:url\(|href=")#([^)"]+)', each))
        assert named == set(own)
    # All else is as it was.
    assert ElementTree.fromstring(first).get("aria-label") == "a <title> & more"
    assert first.count("<path") == text.count("<path")
