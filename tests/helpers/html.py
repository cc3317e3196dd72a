"""HTML reports, read back."""

import base64
import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def read_page(page):
    """Parse a report after checking that it is one file: nothing is loaded, no link leads out."""
    text = page.read_text() if hasattr(page, "read_text") else page
    tree = ElementTree.fromstring(text)  # raises where it is not well-formed
    for element in tree.iter():
        tag = element.tag.removeprefix(SVG)
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "href" not in element.attrib
        linked = element.attrib.get("{http://www.w3.org/1999/xlink}href", "#")
        assert linked.startswith("#") or (tag == "image" and linked.startswith("data:image/png"))
        for value in element.attrib.values():
            assert all(name.startswith("#") for name in re.findall(r"url\(['\"]?(.)", value))
        if tag == "style":
            assert not re.search(r"url\(|@import", element.text or "")
        if tag == "script":  # the page's own, which sorts tables
            assert not element.attrib
            assert not re.search(r"https?:|//|fetch|import|XMLHttp|eval", element.text or "")
        if tag == "img":
            assert element.attrib["src"].startswith("data:image/svg+xml;base64,")
        else:
            assert "src" not in element.attrib
    return tree


def pictures(page):
    """The SVG of every plot and drawing of a page, by its title."""
    found = {}
    for element in read_page(page).iter():
        if element.tag == "img":
            content = element.attrib["src"].partition(";base64,")[2]
            svg = base64.b64decode(content).decode()
            links = re.findall(r"""(?:href=["']|url\()(.)(.{4})""", svg)
            assert all(first == "#" or first + rest == "data:" for first, rest in links)
            found[element.attrib["alt"]] = svg
        if element.tag == f"{SVG}svg":
            found[element.attrib["aria-label"]] = ElementTree.tostring(element, encoding="unicode")
    return found


def words(page):
    """The text of a page, without its style and script."""
    tree = read_page(page)
    for parent in tree.iter():
        for child in list(parent):
            if child.tag in ("style", "script"):
                child.text = ""
    return " ".join("".join(tree.itertext()).split())


def table_rows(page):
    return [["".join(cell.itertext()) for cell in row] for row in read_page(page).iter("tr")]
