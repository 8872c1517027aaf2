"""The report that people cite, as Markdown, PDF and page: one text whose numbers are expressions over the records."""
