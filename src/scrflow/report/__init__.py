"""What people look at: the HTML page, tables with published numbers, costs, differences of results."""
