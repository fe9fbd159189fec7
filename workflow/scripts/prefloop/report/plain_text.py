"""A docutils parser, by which Snakemake's report includes captions as text: in them nothing is a directive or template.

docutils calls it by the name of this module, as `:parser:` of an include in workflow/report/.
"""

from itertools import groupby

from docutils import nodes, parsers

from prefloop.report.captions import split_line


class Parser(parsers.Parser):
    """Reads a line as a paragraph, or as an item of a list if it begins with `* `, without its backslash escapes."""

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Add the text to the document."""
        self.setup_parse(inputstring, document)
        lines = [split_line(line) for line in inputstring.splitlines() if line.strip()]
        for bullet, group in groupby(lines, key=lambda line: line[0]):
            paragraphs = [nodes.paragraph("", text) for _, text in group]
            if bullet:
                document += nodes.bullet_list("", *(nodes.list_item("", paragraph) for paragraph in paragraphs))
            else:
                document += paragraphs
        self.finish_parse()
