"""The station: the user inserts cards into slots, and each is written, until every node has a card.

This package owns the state machine of the slots, the policy which cards are written, the threads that examine
and write cards, and the file of the completed nodes.
"""
