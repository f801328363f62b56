"""What can be read off pictures that kprune draws."""

from xml.etree import ElementTree


def texts(path):
    """Returns the texts in an `.svg` file, in its order."""
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    return [
        "".join(item.itertext()) for item in root.iter() if item.tag.endswith("text")
    ]
