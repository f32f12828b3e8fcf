"""The parts of the HTML page, which `to_html` puts together, and small pieces of HTML that they share."""
