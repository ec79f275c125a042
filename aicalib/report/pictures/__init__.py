"""Pictures: what predictions, searches, plans and scoreboards say, drawn with matplotlib.

Each module draws one picture: a function that computes what is drawn, and one that draws it and nothing more. What
they share stands in `style`; matplotlib is imported when something is drawn.
"""
