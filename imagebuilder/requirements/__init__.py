"""Requirements of each use of piimg: what this machine lacks, and the command that fixes it.

``uses`` has the table of uses and their checks, ``host`` this machine and what a check finds, ``mounting``
the check whether a root partition can be mounted.
"""
