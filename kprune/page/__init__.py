"""Pages: what was done to a model and what it brought, as one HTML file and as JSON.

`kprune.page.facts` says what a page knows, and `kprune.page.render` shows it. What
fills it lies above: `kprune.overview`, recipes and the demo.
"""
