"""A docutils parser, by which the first page of Snakemake's report shows an SVG file as a picture within the page.

docutils calls it by the name of this module, as `:parser:` of an include in workflow/report/. Browsers run no script of
a picture.
"""

from base64 import b64encode
from html import escape
from pathlib import Path

from docutils import nodes, parsers

WIDTH = "32rem"  # of the column of text next to the graph of rules, which would otherwise shrink the picture


class PictureParser(parsers.Parser):
    """Reads a file as one picture."""

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Add the picture to the document; its alternative text is the name of the figure, as `learning curves`."""
        self.setup_parse(inputstring, document)
        content = b64encode(inputstring.encode()).decode()
        name = Path(document["source"]).stem.replace("_", " ")
        image = f'<img alt="{escape(name)}" src="data:image/svg+xml;base64,{content}">'
        document += nodes.raw("", f'<div style="min-width: {WIDTH}">{image}</div>', format="html")
        self.finish_parse()


Parser = PictureParser  # the name that docutils looks for
