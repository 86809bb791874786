"""The station: cards are put into slots, and each is written as it comes, until every node has one.

It owns the state machine of the slots, the policy of what is written, the threads that examine and write
cards, and the file of the completed nodes.
"""
