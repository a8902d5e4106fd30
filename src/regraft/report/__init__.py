"""The HTML report: its content as values, charts, the worst mistakes, and the rendering."""
