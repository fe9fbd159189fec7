"""A docutils parser with which Snakemake's report includes captions as plain text, without directives or templates.

Templates in workflow/report/ select it with this module's name, as `:parser:` of an include.
"""

from itertools import groupby

from docutils import nodes, parsers

from prefloop.report.captions import split_line


class TextParser(parsers.Parser):
    """Reads each line as a paragraph, or as an item of a list if it begins with `* `, and removes backslash escapes."""

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


Parser = TextParser  # the name that docutils looks for
