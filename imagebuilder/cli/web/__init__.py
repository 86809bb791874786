"""The page of a run (``--web``): the state that it shows, its process, and what a browser gets.

``page`` folds the events of a run into a state; ``feed`` sends the state to a process of its own (``serve``),
which alone speaks HTTP. That process has no rights, and no file of the run: what a browser does there cannot
reach a card. The answers that it sends back (``--web-control``) are checked like typed ones.
"""
