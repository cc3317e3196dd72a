"""HTML reports, read back."""

import base64
import re
from xml.etree import ElementTree


def pictures(page):
    """The text of every image of a page, by its title, after checking that nothing is outside."""
    tree = ElementTree.fromstring(page.read_text())  # raises where it is not well-formed
    found = {}
    for element in tree.iter():
        assert element.tag not in ("script", "link", "iframe", "object")
        assert "href" not in element.attrib
        if element.tag == "style":
            assert not re.search(r"url\(|@import", element.text or "")
        if element.tag == "img":
            kind, _, content = element.attrib["src"].partition(";base64,")
            assert kind == "data:image/svg+xml"
            svg = base64.b64decode(content).decode()
            links = re.findall(r"""(?:href=["']|url\()(.)(.{4})""", svg)
            assert all(first == "#" or first + rest == "data:" for first, rest in links)
            found[element.attrib["alt"]] = svg
        else:
            assert "src" not in element.attrib
    return found


def words(page):
    return " ".join("".join(ElementTree.fromstring(page.read_text()).itertext()).split())


def table_rows(page):
    tree = ElementTree.fromstring(page.read_text())
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
