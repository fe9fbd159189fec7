"""A docutils parser, by which the first page of Snakemake's report shows an SVG file as a picture within the page.

docutils calls it by the name of this module, as `:parser:` of an include in workflow/report/. Browsers run no script of
a picture.
"""

from base64 import b64encode

from docutils import nodes, parsers


class Parser(parsers.Parser):
    """Reads a file as one picture."""

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Add the picture to the document."""
        self.setup_parse(inputstring, document)
        content = b64encode(inputstring.encode()).decode()
        document += nodes.image("", uri=f"data:image/svg+xml;base64,{content}", alt="figure", width="100%")
        self.finish_parse()
