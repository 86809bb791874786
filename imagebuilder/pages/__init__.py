"""Pages to look at and to print: one HTML file each, with nothing from outside.

Each is made from data by a template with autoescape; drawings are SVG, built as element trees. So no name
from a card, a manifest or a report becomes markup. The pages have no scripts, and a policy that forbids
requests.
"""
