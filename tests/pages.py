"""HTML pages as tests read them."""

import html.parser

VOID = {"meta", "link", "img", "br"}
LOADING = {"src", "href", "srcset", "data", "action"}


class Page(html.parser.HTMLParser):
    """Reads a page; knows which elements it has, their text and what they load."""

    def __init__(self, content):
        super().__init__()
        self.open, self.elements, self.loads = [], [], []
        self.text, self.data = "", ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            if name.split(":")[-1] in LOADING and not value.startswith("#"):
                self.loads.append((tag, name, value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        elif self.open and self.open[-1] != "style":
            self.text += data
